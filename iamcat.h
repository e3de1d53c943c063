/* iamcat in a firmware: all that a port needs, for C and C++. The library (libiamcat.a, made of the pure
 * files) and BearSSL are the bridge of a gateway; sockets, clocks and entropy are the firmware's. It has no
 * threads, no interrupts, no allocation and no state outside of what it is given, so that several can run
 * side by side; none of its functions ever waits. All of them are to be called from one thread. FIRMWARE.md
 * has the whole port.
 *
 * Compile what includes this with the library's own IAMCAT_SIZES (see sizes.h), or the two disagree about how
 * large a struct bridge is.
 *
 * The firmware gives:
 *
 * - Memory: a struct bridge, a struct tls and a struct tls_anchors, all zero at first, and a struct
 *   bridge_config, which outlives the bridge.
 *
 * - Roots: tls_anchors_embedded, or tls_anchors_read of PEM text, or an array of its own in flash.
 *
 * - Time: milliseconds that never run back, at least 1; and microseconds since 1970, which may jump, 0 while
 *   the clock was not set (certificates are then checked for the time of the build).
 *
 * - Entropy: TLS_ENTROPY_BYTES unpredictable bytes for each TLS connection; without them, it ends the link.
 *
 * - The bytes of BRIDGE_LINKS connections, by the functions of link.h. For each struct link l of bridge.link,
 *   what it finds on the left it meets by what is on the right:
 *
 *     l->open and LINK_DOWN     link_opening; looks l->host up, and connects to l->port
 *     TCP is there              link_connected, with fresh entropy where l->tls is set
 *     TCP can't be made         link_ended(l, LINK_REFUSED, "why", number)
 *     link_send_buf has bytes   sends what goes now, and link_send_ack of that
 *     bytes have come           as many as link_recv_buf has room for are copied there, and link_recv_ack of
 *                               that; the others wait
 *     the peer closed or reset  when its bytes are taken: link_ended(l, LINK_EOF or LINK_LOST, "why", number)
 *     LINK_ENDED, TCP is there  closes TCP: TLS has failed, or the peer said goodbye
 *     not l->open, but not yet LINK_DOWN
 *                               link_farewell, sends once what link_send_buf gives, closes TCP, link_closed
 *
 * It gets the bridge by four calls: bridge_init once; in a loop bridge_step, which returns when it wants to
 * be called again at the latest, and bridge_take_log, for what there is to tell; bridge_stop when all is to
 * end in an orderly way. After a fact has changed or a byte was moved the next bridge_step is due at once. */
#ifndef IAMCAT_H
#define IAMCAT_H

#ifdef __cplusplus
extern "C" {
#endif

#include "bridge.h"
#include "dns.h"

#ifdef __cplusplus
}
#endif

#endif
