/* TLS 1.2 for the connection to the broker: BearSSL's client engine with iamcat's cipher profile, the trust
 * anchors, and every error in words. Pure: moves no bytes over a network (link.c does, through the engine's
 * buffers), reads no clock and no file. */
#ifndef TLS_H
#define TLS_H

#include <bearssl.h>

#include "buf.h"

enum {
	TLS_IN_BYTES = BR_SSL_BUFSIZE_INPUT, /* a broker may send records of 16 kB (RFC 5246 §6.2.1) */
	TLS_OUT_BYTES = 4096 + 85,           /* what we send is cut into records of 4 kB */
	TLS_ENTROPY_BYTES = 32,
	TLS_ANCHORS = 256,            /* Debian's whole ca-certificates.crt has about 150 */
	TLS_ANCHOR_BYTES = 160 * 1024 /* names and keys of all of them */
};

/* Trust anchors: names and public keys of root certificates. All zero is the empty set. */
struct tls_anchors {
	const br_x509_trust_anchor *list; /* points into anchor, or to the embedded roots */
	size_t n;
	br_x509_trust_anchor anchor[TLS_ANCHORS];
	unsigned char bytes[TLS_ANCHOR_BYTES];
	size_t used;
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
 * supported curve, another PEM type than CERTIFICATE in a BEGIN line (a private key, say), and a certificate
 * that is not a CA. pem may be fed in one piece only. */
bool tls_anchors_read(struct tls_anchors *a, struct slice pem, struct buf *why);

struct tls {
	br_ssl_client_context client;
	br_x509_minimal_context x509;
	unsigned char in[TLS_IN_BYTES], out[TLS_OUT_BYTES];
};

/* Starts a handshake, from zero: server_name is what the certificate must be valid for (and is sent as SNI),
 * wall_s the time since 1970 in seconds (certificates are checked against the later of it and the time of the
 * build), entropy TLS_ENTROPY_BYTES fresh random bytes. anchors must outlive the connection. Afterwards the
 * engine (&t->client.eng) wants its buffers moved; with a name that is empty or too long it has failed (see
 * tls_why) and there is nothing to move. An address as the name is checked, but not sent as SNI. */
void tls_begin(struct tls *t, const char *server_name, const struct tls_anchors *anchors, int64_t wall_s,
        const unsigned char *entropy);

/* Why the engine has failed, as a static sentence; NULL when it has not. */
const char *tls_why(const struct tls *t);

/* BearSSL's number for it, 0 when there is none. */
int tls_error(const struct tls *t);

/* A sentence for every error code of BearSSL (br_ssl_*: BR_ERR_*; br_x509_*: BR_ERR_X509_*). */
const char *tls_error_text(int code);

/* Wipes keys and buffers. */
void tls_end(struct tls *t);

/* Overwrites a secret with zeros, which the compiler may not leave out although nobody reads them again. */
void tls_wipe(void *p, size_t n);

#endif
