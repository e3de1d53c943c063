/* iamcat in a firmware: all that a port needs, for C and C++. The library (libiamcat.a, made of the pure
 *files) and BearSSL are the bridge of a gateway; sockets, clocks and entropy are the firmware's. It has no
 *threads, no interrupts, no allocation and no state outside of what it is given, so that several can run side
 *by side; none of its functions ever waits. All of them are to be called from one thread. FIRMWARE.md has the
 *whole port.
 *
 * The firmware gives
 *	memory     a struct bridge, a struct tls and a struct tls_anchors, all zero at first (sizes.h sets how
 *large), and a struct bridge_config roots      tls_anchors_embedded, tls_anchors_read of PEM text, or an
 *array of its own in flash time       milliseconds that never run back, at least 1; and microseconds since
 *1970, which may jump (0 when the clock was not set: certificates are then checked for the time of the build)
 *	entropy    TLS_ENTROPY_BYTES unpredictable bytes for each TLS connection; without them, end the link
 *	bytes      of BRIDGE_LINKS connections, by the functions of link.h:
 *
 *	    the link says                      the firmware does
 *	    l->open, LINK_DOWN                 link_opening; looks l->host up, connects to l->port
 *	      ... and TCP is there             link_connected, with fresh entropy when l->tls is set
 *	      ... and could not be made        link_ended(l, LINK_REFUSED, "why", number)
 *	    link_send_buf gives bytes          sends what it can, link_send_ack of that
 *	    bytes came, link_recv_buf has room copies what fits, link_recv_ack of that; what does not fit has
 *to wait the peer closed, or reset          link_ended(l, LINK_EOF or LINK_LOST, "why", number), after its
 *bytes LINK_ENDED though TCP is there     closes TCP: TLS has failed, or the peer said goodbye !l->open, not
 *LINK_DOWN            link_farewell, sends what link_send_buf gives once, closes TCP, link_closed
 *
 * and gets the bridge by four calls: bridge_init once; in a loop bridge_step, which returns when it wants to
 *be called again at the latest, and bridge_take_log, for what there is to tell; bridge_stop when all is to
 *end in an orderly way. After a fact has changed or a byte was moved the next bridge_step is due at once. */
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
