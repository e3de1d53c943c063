/* TLS 1.2 for the connection to the broker: BearSSL's client engine with iamcat's cipher profile, the trust
 * anchors, and every error in words. Pure: moves no bytes over a network (link.c does, through the engine's
 * buffers), reads no clock and no file. */
#ifndef TLS_H
#define TLS_H

#include <bearssl.h>

#include "buf.h"
#include "cert.h"
#include "sizes.h"

/* The time of the build, in seconds since 1970, from the Makefile; without it, 2026-11-01. Earlier than that
 * it can't be. */
#ifdef IAMCAT_BUILD_TIME
#define TLS_BUILD_TIME_S IAMCAT_BUILD_TIME
#else
#define TLS_BUILD_TIME_S 1793491200
#endif

enum {
	TLS_ENTROPY_BYTES = 32,
	TLS_SESSION_S = 24 * 60 * 60 /* a session is not resumed for longer (RFC 5246 §F.1.4) */
};

/* Trust anchors: names, keys and limits of root certificates. All zero is the empty set. */
struct tls_anchors {
	const struct cert_anchor *list; /* in mem, or the embedded roots */
	size_t n;
	/* those that were read, and behind them the bytes that they point into: so many in all */
	size_t used;
	_Alignas(struct cert_anchor) unsigned char mem[TLS_ANCHORS * sizeof(struct cert_anchor) +
	                                               TLS_ANCHOR_BYTES];
};

/* Makes the embedded DigiCert roots (roots.h) the anchors. */
void tls_anchors_embedded(struct tls_anchors *a);

/* Writes one line for each embedded root: its name and the date on which it expires, for --version. */
void tls_anchors_describe(struct buf *b);

/* Reads PEM text (RFC 7468) with one or more certificates as the anchors: line breaks may be real ones, CRLF,
 * or the two characters \n (as an environment variable has them); text outside of the blocks is ignored.
 * Returns true, or false with a sentence in why (at most 120 bytes) that names the certificate's number
 * ("certificate 2: …") and a is left empty. A text without any certificate is an error, as are a block that
 * ends too early, broken base64, bytes that are no certificate, a key that is neither RSA nor EC on a
 * supported curve, and another PEM type than CERTIFICATE in a BEGIN line (a private key, say). A certificate
 * that is not a CA's is trusted as a server's own. pem may be fed in one piece only. */
bool tls_anchors_read(struct tls_anchors *a, struct slice pem, struct buf *why);

struct tls {
	br_ssl_client_context client;
	/* kept from one connection to the next */
	br_ssl_session_parameters
	        session;   /* secret; to be resumed (RFC 5246 §7.3) where session_s is not 0 */
	int64_t session_s; /* when its full handshake was */
	bool resuming;     /* this connection offers it */
	bool all_suites;   /* ChaCha20 alone was refused: offer everything */
	unsigned char in[TLS_IN_BYTES], out[TLS_OUT_BYTES]; /* of in, mostly the beginning alone is used */
	struct cert_check check;
};

/* Starts a handshake: server_name is what the certificate must be valid for (a name is sent as SNI, an
 * address is not), wall_s the time since 1970 in seconds (certificates are checked for the later of it and
 * TLS_BUILD_TIME_S), entropy TLS_ENTROPY_BYTES fresh random bytes. anchors and server_name must outlive the
 * connection. t is all zero before the first one. Afterwards the engine (&t->client.eng) wants its buffers
 * moved; or it is closed already, with an error (see tls_why). */
void tls_begin(struct tls *t, const char *server_name, const struct tls_anchors *anchors, int64_t wall_s,
        const unsigned char *entropy);

/* The handshake is complete: keeps the session for the next connection. */
void tls_established(struct tls *t, int64_t wall_s);

/* The connection ended before that: the next one offers no session, and other cipher suites where that may
 * have been the reason. */
void tls_refused(struct tls *t);

/* Why the engine has failed, as a static sentence; NULL when it has not. */
const char *tls_why(const struct tls *t);

/* What the certificate at fault says; empty when the error is not about one. Valid until the next tls_begin.
 */
struct slice tls_detail(const struct tls *t);

/* The number of the error: BearSSL's or enum cert_error, 0 when there is none. */
int tls_error(const struct tls *t);

/* A sentence for every error number. */
const char *tls_error_text(int code);

/* Wipes keys and buffers, but for the session. */
void tls_end(struct tls *t);

/* Forgets the session, too: when the anchors have changed, or nothing follows. */
void tls_forget(struct tls *t);

/* Overwrites a secret with zeros, which the compiler may not leave out although nobody reads them again. */
void tls_wipe(void *p, size_t n);

/* The same for large memory that is initialised and of which little was used: pages that are zero stay
 * untouched. */
void tls_wipe_used(void *p, size_t n);

#endif
