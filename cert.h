/* X.509 certificates (RFC 5280) as a TLS client needs them: reading one, and deciding whether a server's
 * chain can be trusted for a host. An X.509 class for BearSSL's engine, in place of its minimal one, which
 * checks less. Pure: opens no file, reads no clock, allocates nothing. Revocation is not checked. */
#ifndef CERT_H
#define CERT_H

#include <bearssl.h>

#include "buf.h"
#include "sizes.h"

enum {
	CERT_SIGNATURES = 32, /* the most signatures that are verified for one chain */
	CERT_EXTENSIONS = 32  /* the most extensions that a certificate may have */
};

/* What is wrong with a certificate or a chain, above BearSSL's own error numbers. cert_error_text has the
 * words, and the section of the standard that the rule comes from. */
enum cert_error {
	CERT_OK = 0,
	CERT_NONE = 192, /* of several that are wrong with one certificate the first here is told */
	CERT_TOO_MANY,
	CERT_MALFORMED,
	CERT_VERSION,
	CERT_DUPLICATE_EXTENSION,
	CERT_CRITICAL_EXTENSION,
	CERT_ALGORITHM,
	CERT_WEAK_SIGNATURE,
	CERT_KEY,
	CERT_WEAK_KEY,
	CERT_NAME,
	CERT_NO_NAME,
	CERT_EXPIRED,
	CERT_NOT_YET_VALID,
	CERT_KEY_USAGE,
	CERT_EXTENDED_KEY_USAGE,
	CERT_LEAF_IS_CA,
	CERT_LEAF_CONSTRAINTS,
	CERT_NOT_CA,
	CERT_PATH_LENGTH,
	CERT_CONSTRAINED,
	CERT_CONSTRAINT_FORM,
	CERT_SIGNATURE,
	CERT_UNTRUSTED,
	CERT_ANCHOR_EXPIRED,
	CERT_ERRORS /* behind the last one */
};

/* A sentence for a cert_error: what is wrong and what to do. Static. */
const char *cert_error_text(int error);

/* Who may issue certificates: name, key and limits, of a root that is trusted (RFC 5280 §6.1.1 d) or of a
 * certificate. The bytes are the owner's. */
struct cert_anchor {
	struct slice subject; /* whole encoding */
	br_x509_pkey key;
	int64_t not_before_s, not_after_s; /* since 1970, both inclusive */
	bool ca;                  /* otherwise a root is trusted as a server's own certificate only */
	int path_length;          /* -1: no limit */
	struct slice constraints; /* the subtrees of nameConstraints; .p NULL when missing */
};

/* A certificate that was read; its slices and key point into the DER bytes. */
struct cert {
	struct cert_anchor self;
	enum cert_error error; /* the worst that is wrong with it by itself, whatever it is used for */
	uint32_t errors;       /* all of them: bit CERT_x - CERT_NONE */
	uint16_t key_usage;    /* bit 15 is digitalSignature (0); all ones when the extension is missing */
	bool server_auth;      /* extendedKeyUsage is missing or allows it */
	const struct cert_algorithm *algorithm; /* of the signature: in a table of cert.c */
	struct slice issuer;                    /* whole encoding, as it stands */
	struct slice alt_names;                 /* the GeneralNames of subjectAltName; .p NULL when missing */
	struct slice tbs, signature;            /* whole encoding; content */
};

/* Reads one certificate that fills der. Returns c->error: CERT_OK, or CERT_MALFORMED (c is not to be used),
 * or another rule that it breaks. */
enum cert_error cert_read(struct cert *c, struct slice der);

/* The check of one server's chain. */
struct cert_check {
	const br_x509_class *vtable; /* what the engine wants: first */
	const struct cert_anchor *anchor;
	size_t anchors;
	int64_t time_s;        /* the time to check for */
	const char *host;      /* the name or address that the leaf must be valid for */
	br_rsa_pkcs1_vrfy rsa; /* BearSSL's code for signatures */
	br_ecdsa_vrfy ecdsa;
	const br_ec_impl *ec;
	enum cert_error error;
	struct buf detail; /* after an error: what the certificate at fault says, and what was expected */
	/* its own */
	unsigned certs, signatures;          /* how many; how many were verified */
	const struct cert *fault;            /* what the error is about */
	size_t path_certs;                   /* the way to a root: so many, */
	const struct cert *path[CERT_CHAIN]; /* from the leaf up, each issued by the next, */
	const struct cert_anchor *root;      /* and the anchor at their end; it may be the leaf itself */
	struct buf bytes;                    /* of all of them */
	size_t end[CERT_CHAIN];              /* where each one's end */
	struct cert cert[CERT_CHAIN];
	br_hash_compat_context hasher;
	unsigned char hash[64], signed_hash[64]; /* what is verified; RSA: what was signed */
	unsigned char detail_mem[CERT_DETAIL_BYTES], bytes_mem[CERT_CHAIN_BYTES];
};

/* The class; a check is made ready by setting vtable, anchor, anchors, time_s, host, rsa, ecdsa and ec.
 * Anchors and host must outlive it. */
extern const br_x509_class cert_class;

/* Makes an anchor of a root's certificate, whose bytes must outlive it. CERT_OK, or why it can't be one: as a
 * root it may be of an old version, and signed by itself as it likes. */
enum cert_error cert_read_anchor(struct cert_anchor *anchor, struct slice der);

/* The same key? */
bool cert_same_key(const br_x509_pkey *a, const br_x509_pkey *b);

/* Does one of the GeneralNames of alt_names stand for host, a DNS name or an address literal (RFC 9525 §6)?
 */
bool cert_matches(struct slice alt_names, const char *host);

/* The common name in a Name, or else its organisation; .p NULL when it has neither. Any bytes: escape it. */
struct slice cert_name_text(struct slice name);

/* Writes a date of a certificate, without the time of day. */
void cert_put_day(struct buf *b, int64_t time_s);

/* Writes what a certificate says of itself: names, issuer, dates. */
void cert_describe(struct buf *b, const struct cert *c);

#endif
