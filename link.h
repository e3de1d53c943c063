/* One connection as the core sees it: a wish (open it, close it), a fact (what became of it), and bytes in
 * and out, with TLS in between or without. Pure: has no socket. The driver (net.c, a simulation, a firmware's
 * own) gives it one. */
#ifndef LINK_H
#define LINK_H

#include "buf.h"
#include "tls.h"

enum link_state {
	LINK_DOWN,    /* nothing there; only from here it can be opened */
	LINK_OPENING, /* name look-up, TCP, TLS under way */
	LINK_UP,      /* bytes can be moved */
	LINK_ENDED /* it failed, or the peer has ended it (end and why); what was received can still be read
	            */
};

/* How a link has ended. */
enum link_end {
	LINK_EOF,    /* the peer ended it in an orderly way */
	LINK_LOST,   /* it was up, and was reset, timed out, or broke TLS */
	LINK_REFUSED /* it never came up: nothing of ours was sent */
};

struct link {
	/* Set once by the core. Strings and memory outlive the link. */
	const char *host; /* name or address literal */
	uint16_t port;
	struct tls *tls;         /* NULL: plain */
	const char *server_name; /* TLS: what the certificate must be valid for */
	const struct tls_anchors *anchors;
	struct buf in, out; /* plain links only: received and not yet taken; to be sent */

	/* The wish, level-triggered: the core may set it from false to true only while the state is
	 * LINK_DOWN. */
	bool open;
	int64_t opened_ms; /* the core's own: when it began to wish so */

	/* The fact */
	enum link_state state;
	bool transport;      /* while opening: TCP is there, TLS is under way */
	enum link_end end;   /* when LINK_ENDED */
	const char *why;     /* when LINK_ENDED: a static sentence */
	struct slice detail; /* more about why, of this end; valid until it is opened again */
	int code;            /* the number behind it: errno, or BearSSL's when tls_failed; 0 for none */
	bool tls_failed;
	char peer[64];     /* the peer's address as text, "" when it is not known */
	uint64_t received; /* bytes that came from the network since it was opened */
	int64_t wall_s;    /* when the transport was there */
	size_t out_at;     /* plain: bytes of out that were sent */
};

/* For the core */

/* What has arrived and was not taken yet; valid until the next call for this link. */
struct slice link_read(struct link *l);

/* Takes the first n bytes of link_read away. */
void link_take(struct link *l, size_t n);

/* Room for bytes to send, *n of them (0: none now, NULL). link_put says how many were written there. */
unsigned char *link_write(struct link *l, size_t *n);
void link_put(struct link *l, size_t n);

/* Makes what was put travel now (TLS collects it into records). */
void link_flush(struct link *l);

/* True when nothing that was put still waits to be sent. */
bool link_idle(struct link *l);

/* For the driver */

/* The core wants it open, and it is LINK_DOWN: the attempt begins. */
void link_opening(struct link *l);

/* The transport to peer (an address as text) is there. wall_s, seconds since 1970, and TLS_ENTROPY_BYTES of
 * entropy are for TLS. */
void link_connected(struct link *l, const char *peer, int64_t wall_s, const unsigned char *entropy);

/* The transport could not be made, or is gone: LINK_EOF for its orderly end, which under TLS counts only
 * after close_notify (RFC 5246 §7.2.1). why: a static sentence. */
void link_ended(struct link *l, enum link_end end, const char *why, int code);

/* Before the driver closes the transport by the core's wish: TLS says goodbye (close_notify), in what
 * link_send_buf gives now; one attempt to send it will do. */
void link_farewell(struct link *l);

/* The core's wish to close was met: the state is LINK_DOWN, buffers are empty, secrets are wiped. */
void link_closed(struct link *l);

/* Room for bytes from the network (*n 0: none now), and that n of them came. */
unsigned char *link_recv_buf(struct link *l, size_t *n);
void link_recv_ack(struct link *l, size_t n);

/* Bytes for the network (*n 0: none now), and that n of them went. */
const unsigned char *link_send_buf(struct link *l, size_t *n);
void link_send_ack(struct link *l, size_t n);

#endif
