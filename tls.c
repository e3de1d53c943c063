#include "tls.h"

#include <string.h>

#include "roots.h"

/* The Makefile gives the time of the build in seconds since 1970; without it, 2026-11-01. */
#ifndef IAMCAT_BUILD_TIME
#define IAMCAT_BUILD_TIME 1793491200
#endif

void tls_wipe(void *p, size_t n)
{
	if (n > 0)
		memset(p, 0, n);
	__asm__ volatile("" : : "r"(p) : "memory"); /* the bytes count as read: the memset has to stay */
}

/* Words */

static const char not_tls[] = "the broker speaks no TLS 1.2, or no TLS at all on this port: check "
                              "MQTT_BROKER_PORT (8883 is usual) and the broker's TLS settings";
static const char nothing_shared[] =
        "the broker offers nothing that is safe enough: it must take TLS 1.2 with ECDHE and AES-GCM or "
        "ChaCha20-Poly1305, and must not ask for a client certificate";
static const char too_large[] =
        "a certificate or key of the broker's is too large: use RSA keys of at most 4096 bits";
static const char key_usage[] = "the key usage in a certificate of the broker's forbids what it is used for: "
                                "its own needs digitalSignature, a CA's keyCertSign";
static const char client_cert[] =
        "the broker asks for a client certificate, which iamcat has none of: turn that off in the broker";
static const char ours[] = "a mistake in iamcat itself: please report it";

static const char broken_rules[] = "the broker breaks the rules of TLS: update its TLS software, or look for "
                                   "a device that meddles with TLS";
static const char bad_certificate[] =
        "a certificate of the broker's is damaged or badly made: have it issued again";
static const char alert[] = "the broker has ended the connection with a TLS alert: its log says why";
static const char unknown[] = "an unknown TLS error";

/* Each row holds for its code and those up to the next row's. Alerts that came in are BR_ERR_RECV_FATAL_ALERT
 * plus the number in RFC 5246 §7.2, RFC 6066 §9 or RFC 8446 §6; ours are BR_ERR_SEND_FATAL_ALERT plus it. */
enum { IN = BR_ERR_RECV_FATAL_ALERT, OUT = BR_ERR_SEND_FATAL_ALERT };
static const struct {
	int from;
	const char *text;
} errors[] = {
        {BR_ERR_OK, "no error"},
        {BR_ERR_BAD_PARAM,
                "the name to check is empty or longer than 255 characters: check MQTT_BROKER_HOST"},
        {BR_ERR_BAD_STATE, ours},
        {BR_ERR_UNSUPPORTED_VERSION, not_tls},
        {BR_ERR_BAD_LENGTH, broken_rules},
        {BR_ERR_BAD_MAC, "the data was changed on its way: look for a faulty network or a device that "
                         "meddles with TLS"},
        {BR_ERR_NO_RANDOM, ours},
        {BR_ERR_UNKNOWN_TYPE, not_tls},
        {BR_ERR_UNEXPECTED, broken_rules},
        {BR_ERR_BAD_CIPHER_SUITE, nothing_shared},
        {BR_ERR_BAD_COMPRESSION, broken_rules},
        {BR_ERR_LIMIT_EXCEEDED, too_large},
        {BR_ERR_BAD_FINISHED,
                "the handshake was changed on its way: look for a device that meddles with TLS"},
        {BR_ERR_RESUME_MISMATCH, broken_rules},
        {BR_ERR_INVALID_ALGORITHM, "the broker uses a curve or hash that was not offered: it must take "
                                   "X25519, P-256 or P-384, and SHA-256 or better"},
        {BR_ERR_BAD_SIGNATURE, "the broker does not hold the key of its certificate: check that its key file "
                               "belongs to its certificate"},
        {BR_ERR_WRONG_KEY_USAGE, key_usage},
        {BR_ERR_NO_CLIENT_AUTH, client_cert},
        {BR_ERR_IO, ours},
        {BR_ERR_X509_INVALID_VALUE, bad_certificate},
        {BR_ERR_X509_EMPTY_CHAIN, "the broker has sent no certificate: give it one"},
        {BR_ERR_X509_INNER_TRUNC, bad_certificate},
        {BR_ERR_X509_UNSUPPORTED, "a certificate of the broker's uses a key, curve or hash that iamcat does "
                                  "not know: use RSA, P-256 or P-384 with SHA-256 or better"},
        {BR_ERR_X509_LIMIT_EXCEEDED, too_large},
        {BR_ERR_X509_WRONG_KEY_TYPE,
                "the signature on a certificate of the broker's does not fit its issuer: check the "
                "certificates that the broker sends, and the root in MQTT_ROOT_CA"},
        {BR_ERR_X509_TIME_UNKNOWN, ours},
        {BR_ERR_X509_EXPIRED, "a certificate of the broker's has expired or is not valid yet: check this "
                              "machine's clock, and the certificate's dates"},
        {BR_ERR_X509_DN_MISMATCH, "the broker's certificates are out of order: its file must have its own "
                                  "first, then each one's issuer"},
        {BR_ERR_X509_BAD_SERVER_NAME, "the broker's certificate is for another name: set MQTT_BROKER_HOST to "
                                      "a name in the certificate, or have one made for this name"},
        {BR_ERR_X509_CRITICAL_EXTENSION, "a certificate of the broker's has a critical extension that iamcat "
                                         "does not know: use one without it"},
        {BR_ERR_X509_NOT_CA, "a certificate of the broker's was issued by one that is not a CA's: use one "
                             "from a proper CA"},
        {BR_ERR_X509_FORBIDDEN_KEY_USAGE, key_usage},
        {BR_ERR_X509_WEAK_PUBLIC_KEY,
                "a certificate of the broker's has an RSA key under 2048 bits: use a longer key"},
        {BR_ERR_X509_NOT_TRUSTED, "the broker's certificate comes from none of the trusted roots: put the "
                                  "CA's certificate into MQTT_ROOT_CA or MQTT_ROOT_CA_FILE, or have the "
                                  "broker send the intermediate certificates"},
        {BR_ERR_X509_NOT_TRUSTED + 1, unknown},
        {IN, alert},
        {IN + 40, nothing_shared}, /* handshake_failure */
        {IN + 41, client_cert},    /* no_certificate to certificate_unknown */
        {IN + 47, alert},
        {IN + 48, client_cert}, /* unknown_ca, access_denied */
        {IN + 50, alert},
        {IN + 70, "the broker refuses TLS 1.2: turn it on in its TLS settings"},
        {IN + 71, nothing_shared}, /* insufficient_security */
        {IN + 72, alert},
        {IN + 80, "the broker has an error of its own: its log says more"},
        {IN + 81, alert},
        {IN + 112, "the broker does not know the name that it was called by: check MQTT_BROKER_HOST"},
        {IN + 113, alert},
        {IN + 116, client_cert}, /* certificate_required */
        {IN + 117, alert},
        {OUT, "iamcat has ended the connection, since the broker breaks the rules of TLS"},
        {OUT + 256, unknown},
};

const char *tls_error_text(int code)
{
	const char *text = unknown;
	for (size_t i = 0; i < sizeof errors / sizeof errors[0] && code >= errors[i].from; i++)
		text = errors[i].text;
	return text;
}

/* Trust anchors */

struct reading {
	struct tls_anchors *a;
	br_pem_decoder_context pem;
	br_x509_decoder_context x509;
	size_t name; /* where in a->bytes the name of this certificate begins */
	bool inside; /* of a block */
	bool full;   /* a->bytes is too small */
};

/* A copy of n bytes in a->bytes; when they do not fit, sets full and returns a pointer not to be used. */
static unsigned char *keep(struct reading *r, const void *p, size_t n)
{
	struct tls_anchors *a = r->a;
	unsigned char *at = a->bytes + a->used;
	if (n > sizeof a->bytes - a->used) {
		r->full = true;
		return at;
	}
	memcpy(at, p, n);
	a->used += n;
	return at;
}

static void keep_name(void *reading, const void *p, size_t n)
{
	keep(reading, p, n);
}

static void push_der(void *reading, const void *p, size_t n)
{
	struct reading *r = reading;
	br_x509_decoder_push(&r->x509, p, n);
}

/* The block is complete: makes its certificate an anchor. Returns NULL, or what is wrong with it. */
static const char *end_block(struct reading *r)
{
	static const char key_wrong[] =
	        "its key is neither RSA of at most 4096 bits nor EC on the curve P-256 or P-384";
	struct tls_anchors *a = r->a;
	const br_x509_pkey *key = br_x509_decoder_get_pkey(&r->x509);
	int error = br_x509_decoder_last_error(&r->x509);
	r->inside = false;
	if (error == BR_ERR_X509_UNSUPPORTED || error == BR_ERR_X509_LIMIT_EXCEEDED)
		return key_wrong;
	if (key == NULL)
		return "it is damaged, or not a certificate at all";
	if (!br_x509_decoder_isCA(&r->x509))
		return "it is not a CA's (the root certificate is needed that the broker's is signed with)";
	if (a->n == TLS_ANCHORS)
		return "too many: at most 256 certificates can be trusted";
	br_x509_trust_anchor *t = &a->anchor[a->n];
	*t = (br_x509_trust_anchor){{a->bytes + r->name, a->used - r->name}, BR_X509_TA_CA, *key};
	if (key->key_type == BR_KEYTYPE_RSA) {
		t->pkey.key.rsa.n = keep(r, key->key.rsa.n, key->key.rsa.nlen);
		t->pkey.key.rsa.e = keep(r, key->key.rsa.e, key->key.rsa.elen);
	} else if (key->key.ec.curve == BR_EC_secp256r1 || key->key.ec.curve == BR_EC_secp384r1) {
		t->pkey.key.ec.q = keep(r, key->key.ec.q, key->key.ec.qlen);
	} else {
		return key_wrong;
	}
	if (r->full)
		return "too much: the names and keys of all certificates exceed 160 kB";
	a->n++;
	return NULL;
}

/* What the PEM decoder has come across. Returns NULL, or what is wrong. */
static const char *pem_event(struct reading *r, int event)
{
	const char *name = br_pem_decoder_name(&r->pem);
	switch (event) {
	case BR_PEM_BEGIN_OBJ:
		/* The decoder leaves the dashes in the name when white space follows them. */
		if (memcmp(name, "CERTIFICATE", 11) != 0 || (name[11] != 0 && name[11] != '-'))
			return "BEGIN CERTIFICATE is expected, this block is something else (a private key?)";
		r->inside = true;
		r->name = r->a->used;
		br_x509_decoder_init(&r->x509, keep_name, r);
		br_pem_decoder_setdest(&r->pem, push_der, r);
		return NULL;
	case BR_PEM_END_OBJ: return end_block(r);
	case BR_PEM_ERROR: return "its text is damaged: not base64, or without an END CERTIFICATE line";
	default: return NULL;
	}
}

/* Feeds the text to the PEM decoder, with \n and \r in two characters as line breaks, and without white space
 * and byte order marks in front of a line, since the decoder wants a banner to begin its line. Returns NULL,
 * or what is wrong. */
static const char *read_text(struct reading *r, struct slice pem)
{
	const char *wrong = NULL;
	bool begins = true; /* a line */
	for (size_t i = 0; i <= pem.n && wrong == NULL; i++) {
		unsigned char c = i < pem.n ? pem.p[i] : '\n';
		if (c == '\\' && pem.n - i > 1 && (pem.p[i + 1] == 'n' || pem.p[i + 1] == 'r')) {
			c = '\n';
			i++;
		}
		if (c == '\r')
			c = '\n';
		if (begins && c != '\n' && (c <= ' ' || c > '~'))
			continue;
		begins = c == '\n';
		br_pem_decoder_push(&r->pem, &c, 1);
		wrong = pem_event(r, br_pem_decoder_event(&r->pem));
	}
	if (wrong == NULL && r->inside)
		wrong = "it ends too early: its END CERTIFICATE line is missing";
	return wrong;
}

bool tls_anchors_read(struct tls_anchors *a, struct slice pem, struct buf *why)
{
	struct reading r;
	memset(&r, 0, sizeof r);
	r.a = a;
	a->list = a->anchor;
	a->n = a->used = 0;
	br_pem_decoder_init(&r.pem);
	const char *wrong = read_text(&r, pem);
	if (wrong == NULL && r.a->n > 0)
		return true;
	if (wrong != NULL) {
		buf_put_str(why, "certificate ");
		buf_put_u64(why, a->n + 1);
		buf_put_str(why, ": ");
		buf_put_str(why, wrong);
	} else {
		buf_put_str(why, "no certificate in it (a line -----BEGIN CERTIFICATE----- is expected)");
	}
	a->n = a->used = 0;
	return false;
}

void tls_anchors_embedded(struct tls_anchors *a)
{
	a->list = root_anchors;
	a->n = sizeof root_anchors / sizeof root_anchors[0];
	a->used = 0;
}

void tls_anchors_describe(struct buf *b)
{
	for (size_t i = 0; i < sizeof root_facts / sizeof root_facts[0]; i++) {
		unsigned char date[32];
		struct buf d = BUF(date);
		buf_put_time(&d, root_facts[i].until_s * 1000000);
		buf_put_str(b, "  ");
		buf_put_str(b, root_facts[i].name);
		for (size_t n = strlen(root_facts[i].name); n < 34; n++)
			buf_put_byte(b, ' ');
		buf_put_str(b, "expires ");
		buf_put(b, date, 10);
		buf_put_byte(b, '\n');
	}
}

/* The connection */

/* Stands in for BearSSL's own, which would open /dev/urandom: randomness comes from the caller alone. */
br_prng_seeder br_prng_seeder_system(const char **name)
{
	if (name != NULL)
		*name = "none";
	return 0;
}

/* What we speak: TLS 1.2 alone, ECDHE with an AEAD alone, SHA-256 or better (RFC 9325 §4.2). The engine's
 * parts are set by hand, since br_ssl_client_init_full takes in 40 kB more. */
static void set_hashes(br_ssl_engine_context *e, br_x509_minimal_context *x)
{
	static const struct {
		int id;
		const br_hash_class *hash;
	} hashes[] = {
	        {br_sha256_ID, &br_sha256_vtable},
	        {br_sha384_ID, &br_sha384_vtable},
	        {br_sha512_ID, &br_sha512_vtable},
	};
	for (size_t i = 0; i < sizeof hashes / sizeof hashes[0]; i++) {
		br_ssl_engine_set_hash(e, hashes[i].id, hashes[i].hash);
		br_x509_minimal_set_hash(x, hashes[i].id, hashes[i].hash);
	}
	br_ssl_engine_set_prf_sha256(e, &br_tls12_sha256_prf);
	br_ssl_engine_set_prf_sha384(e, &br_tls12_sha384_prf);
}

/* X25519, P-256 and P-384 of what BearSSL has. Its br_ec_all_m31 is twice as fast on P-256 and 9 kB larger;
 * certificates are mostly RSA, and the key exchange is mostly X25519. */
static const br_ec_impl *ec_of(int curve)
{
	return curve == BR_EC_curve25519 ? &br_ec_c25519_m31 : &br_ec_prime_i31;
}

static const unsigned char *ec_generator(int curve, size_t *n)
{
	return ec_of(curve)->generator(curve, n);
}

static const unsigned char *ec_order(int curve, size_t *n)
{
	return ec_of(curve)->order(curve, n);
}

static size_t ec_xoff(int curve, size_t *n)
{
	return ec_of(curve)->xoff(curve, n);
}

static uint32_t ec_mul(unsigned char *g, size_t gn, const unsigned char *x, size_t xn, int curve)
{
	return ec_of(curve)->mul(g, gn, x, xn, curve);
}

static size_t ec_mulgen(unsigned char *r, const unsigned char *x, size_t xn, int curve)
{
	return ec_of(curve)->mulgen(r, x, xn, curve);
}

static uint32_t ec_muladd(unsigned char *a, const unsigned char *b, size_t n, const unsigned char *x,
        size_t xn, const unsigned char *y, size_t yn, int curve)
{
	return ec_of(curve)->muladd(a, b, n, x, xn, y, yn, curve);
}

static const br_ec_impl ec = {
        UINT32_C(1) << BR_EC_curve25519 | UINT32_C(1) << BR_EC_secp256r1 | UINT32_C(1) << BR_EC_secp384r1,
        ec_generator,
        ec_order,
        ec_xoff,
        ec_mul,
        ec_mulgen,
        ec_muladd,
};

static void set_public_key(br_ssl_engine_context *e, br_x509_minimal_context *x)
{
#ifdef __SIZEOF_INT128__
	br_rsa_pkcs1_vrfy rsa = br_rsa_i62_pkcs1_vrfy_get();
#else
	br_rsa_pkcs1_vrfy rsa = &br_rsa_i31_pkcs1_vrfy;
#endif
	br_ssl_engine_set_ec(e, &ec);
	br_ssl_engine_set_ecdsa(e, &br_ecdsa_i31_vrfy_asn1);
	br_ssl_engine_set_rsavrfy(e, rsa);
	br_x509_minimal_set_ecdsa(x, &ec, &br_ecdsa_i31_vrfy_asn1);
	br_x509_minimal_set_rsa(x, rsa);
	br_x509_minimal_set_minrsa(x, 2048 / 8);
}

/* AES instructions where the processor has them. Without them ChaCha20 costs far less, so it goes first. */
static void set_ciphers(br_ssl_engine_context *e)
{
	static const uint16_t suites[] = {
	        BR_TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
	        BR_TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
	        BR_TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
	        BR_TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
	        BR_TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
	        BR_TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
	        BR_TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
	        BR_TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
	};
	const br_block_ctr_class *aes = br_aes_x86ni_ctr_get_vtable();
	br_ghash ghash = br_ghash_pclmul_get();
	br_ssl_engine_set_suites(e, aes ? suites + 2 : suites, 6);
	br_ssl_engine_set_aes_ctr(e, aes ? aes : &br_aes_ct_ctr_vtable);
	br_ssl_engine_set_gcm(e, &br_sslrec_in_gcm_vtable, &br_sslrec_out_gcm_vtable);
	br_ssl_engine_set_chapol(e, &br_sslrec_in_chapol_vtable, &br_sslrec_out_chapol_vtable);
#ifdef __SIZEOF_INT128__
	br_ssl_engine_set_ghash(e, ghash ? ghash : &br_ghash_ctmul64);
	br_ssl_engine_set_poly1305(e, br_poly1305_ctmulq_get());
#else
	br_ssl_engine_set_ghash(e, ghash ? ghash : &br_ghash_ctmul);
	br_ssl_engine_set_poly1305(e, &br_poly1305_ctmul_run);
#endif
#ifdef __x86_64__
	br_ssl_engine_set_chacha20(e, br_chacha20_sse2_get());
#else
	br_ssl_engine_set_chacha20(e, &br_chacha20_ct_run);
#endif
}

/* An IPv6 or IPv4 address, rather than a name? A name's last label is never all digits (RFC 3696 §2). */
static bool is_address(const char *host, size_t n)
{
	size_t digits = 0;
	for (size_t i = 0; i < n; i++) {
		if (host[i] == ':')
			return true;
		digits += (host[i] >= '0' && host[i] <= '9') || host[i] == '.';
	}
	return digits == n;
}

/* BearSSL lists its curves by number, and servers take the first in common: P-256, which costs them and us
 * more than X25519. The ClientHello still lies in the buffer: X25519 (29) is put in front of P-256 (23) and
 * P-384 (24), and the hash of the handshake begins anew with the bytes as they are now. */
static void put_x25519_first(br_ssl_engine_context *e)
{
	static const unsigned char by_number[] = {0, 10, 0, 8, 0, 6, 0, 23, 0, 24, 0, 29},
	                           by_cost[] = {0, 10, 0, 8, 0, 6, 0, 29, 0, 23, 0, 24};
	const size_t header = 5, size = sizeof by_number;
	size_t n;
	unsigned char *p = br_ssl_engine_sendrec_buf(e, &n);
	for (size_t i = header; p != NULL && i + size <= n; i++) {
		if (memcmp(p + i, by_number, size) != 0)
			continue;
		memcpy(p + i, by_cost, size);
		br_multihash_init(&e->mhash);
		br_multihash_update(&e->mhash, p + header, n - header);
		return;
	}
}

void tls_begin(struct tls *t, const char *server_name, const struct tls_anchors *anchors, int64_t wall_s,
        const unsigned char *entropy)
{
	br_ssl_engine_context *e = &t->client.eng;
	size_t n = strlen(server_name);
	int64_t now = wall_s > IAMCAT_BUILD_TIME ? wall_s : IAMCAT_BUILD_TIME;
	br_ssl_client_zero(&t->client);
	br_x509_minimal_init(&t->x509, &br_sha256_vtable, anchors->list, anchors->n);
	/* Without a name to check, BearSSL would take a certificate for any: the engine stays shut. */
	if (n == 0 || n >= sizeof e->server_name) {
		e->err = BR_ERR_BAD_PARAM;
		return;
	}
	set_hashes(e, &t->x509);
	set_public_key(e, &t->x509);
	set_ciphers(e);
	br_ssl_engine_set_versions(e, BR_TLS12, BR_TLS12);
	br_ssl_engine_set_all_flags(e, BR_OPT_NO_RENEGOTIATION);
	/* Days are counted from the year 0, 719528 of them up to 1970. */
	br_x509_minimal_set_time(&t->x509, (uint32_t)(now / 86400 + 719528), (uint32_t)(now % 86400));
	br_ssl_engine_set_x509(e, &t->x509.vtable);
	br_ssl_engine_set_buffers_bidi(e, t->in, sizeof t->in, t->out, sizeof t->out);
	br_ssl_engine_inject_entropy(e, entropy, TLS_ENTROPY_BYTES);
	bool address = is_address(server_name, n);
	if (!br_ssl_client_reset(&t->client, address ? NULL : server_name, 0))
		return;
	put_x25519_first(e);
	if (address) /* No SNI for it (RFC 6066 §3): the ClientHello is made, the name is for the check. */
		memcpy(e->server_name, server_name, n + 1);
}

int tls_error(const struct tls *t)
{
	return br_ssl_engine_last_error(&t->client.eng);
}

const char *tls_why(const struct tls *t)
{
	int code = tls_error(t);
	return code == BR_ERR_OK ? NULL : tls_error_text(code);
}

void tls_end(struct tls *t)
{
	tls_wipe(t, sizeof *t);
}
