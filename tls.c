#include "tls.h"

#include <string.h>

#include "dns.h"
#include "roots.h"

void tls_wipe(void *p, size_t n)
{
	volatile unsigned char *byte = p;
	for (size_t i = 0; i < n; i++)
		byte[i] = 0;
}

void tls_wipe_used(void *p, size_t n)
{
	volatile unsigned char *byte = p;
	for (size_t i = 0; i < n; i++)
		if (byte[i] != 0)
			byte[i] = 0;
}

/* Words */

enum text {
	OURS,
	NOT_TLS,
	NOTHING_SHARED,
	BROKEN_RULES,
	LARGE_RECORD,
	CHANGED_DATA,
	NOT_OFFERED,
	WRONG_KEY,
	CLIENT_CERT,
	ALERT,
	REFUSES_TLS12,
	UNKNOWN_NAME,
	UNKNOWN
};
static const char *const texts[] = {
        [OURS] = "a mistake in iamcat itself: please report it",
        [NOT_TLS] = "the broker speaks no TLS 1.2, or no TLS at all on this port: check MQTT_BROKER_PORT "
                    "(8883 is "
                    "usual) and the broker's TLS settings",
        [NOTHING_SHARED] =
                "the broker offers nothing that is safe enough: it must take TLS 1.2 with ECDHE and "
                "AES-GCM or ChaCha20-Poly1305, and must not ask for a client certificate",
        [BROKEN_RULES] =
                "the broker breaks the rules of TLS: update its TLS software, or look for a device that "
                "meddles with TLS",
        [LARGE_RECORD] = "the broker sends larger TLS records than it was asked for: update its TLS software",
        [CHANGED_DATA] = "the data was changed on its way: look for a faulty network or a device that "
                         "meddles with TLS",
        [NOT_OFFERED] =
                "the broker uses a curve or hash that was not offered: it must take X25519, P-256 or P-384, "
                "and SHA-256 or better",
        [WRONG_KEY] =
                "the broker does not hold the key of its certificate: check that its key file belongs to its "
                "certificate",
        [CLIENT_CERT] =
                "the broker asks for a client certificate, which iamcat has none of: turn that off in the "
                "broker",
        [ALERT] = "the broker has ended the connection with a TLS alert: its log says why",
        [REFUSES_TLS12] = "the broker refuses TLS 1.2: turn it on in its TLS settings",
        [UNKNOWN_NAME] = "the broker does not know the name that it was called by: check MQTT_BROKER_HOST",
        [UNKNOWN] = "an unknown TLS error",
};

/* Each row holds for its code and those up to the next row's. Alerts that came in are BR_ERR_RECV_FATAL_ALERT
 * plus the number in RFC 5246 §7.2, RFC 6066 §9 or RFC 8446 §6; ours are BR_ERR_SEND_FATAL_ALERT plus it. */
enum { IN = BR_ERR_RECV_FATAL_ALERT, OUT = BR_ERR_SEND_FATAL_ALERT };
static const struct {
	uint16_t from;
	uint8_t text;
} errors[] = {
        {BR_ERR_OK, UNKNOWN},
        {BR_ERR_BAD_PARAM, BROKEN_RULES},
        {BR_ERR_BAD_STATE, OURS},
        {BR_ERR_UNSUPPORTED_VERSION, NOT_TLS},
        {BR_ERR_BAD_LENGTH, BROKEN_RULES},
        {BR_ERR_TOO_LARGE, LARGE_RECORD},
        {BR_ERR_BAD_MAC, CHANGED_DATA},
        {BR_ERR_NO_RANDOM, OURS},
        {BR_ERR_UNKNOWN_TYPE, NOT_TLS},
        {BR_ERR_UNEXPECTED, BROKEN_RULES},
        {BR_ERR_BAD_CIPHER_SUITE, NOTHING_SHARED},
        {BR_ERR_BAD_COMPRESSION, BROKEN_RULES},
        {BR_ERR_BAD_FINISHED, CHANGED_DATA},
        {BR_ERR_RESUME_MISMATCH, BROKEN_RULES},
        {BR_ERR_INVALID_ALGORITHM, NOT_OFFERED},
        {BR_ERR_BAD_SIGNATURE, WRONG_KEY},
        {BR_ERR_WRONG_KEY_USAGE, NOTHING_SHARED},
        {BR_ERR_NO_CLIENT_AUTH, CLIENT_CERT},
        {BR_ERR_IO, OURS},
        {BR_ERR_IO + 1, UNKNOWN},
        {IN, ALERT},
        {IN + 40, NOTHING_SHARED}, /* handshake_failure */
        {IN + 41, CLIENT_CERT},    /* no_certificate to certificate_unknown */
        {IN + 47, ALERT},
        {IN + 48, CLIENT_CERT}, /* unknown_ca, access_denied */
        {IN + 50, ALERT},
        {IN + 70, REFUSES_TLS12},  /* protocol_version */
        {IN + 71, NOTHING_SHARED}, /* insufficient_security */
        {IN + 72, ALERT},
        {IN + 112, UNKNOWN_NAME}, /* unrecognized_name */
        {IN + 113, ALERT},
        {IN + 116, CLIENT_CERT}, /* certificate_required */
        {IN + 117, ALERT},
        {OUT, BROKEN_RULES},
        {OUT + 256, UNKNOWN},
};

const char *tls_error_text(int code)
{
	uint8_t text = UNKNOWN;
	if (code >= CERT_NONE && code < CERT_ERRORS)
		return cert_error_text(code);
	for (size_t i = 0; i < sizeof errors / sizeof errors[0] && code >= errors[i].from; i++)
		text = errors[i].text;
	return texts[text];
}

/* Trust anchors */

struct reading {
	struct tls_anchors *a;
	size_t start; /* where in a->mem the certificate begins */
	bool inside;  /* of a block */
	bool full;    /* a->mem is too small */
	/* base64 (RFC 4648 §4) */
	uint32_t bits;
	unsigned digits, padding; /* with the padding; it alone */
};

/* Moves n bytes of the certificate down to the end of what is kept of it. */
static unsigned char *keep(struct tls_anchors *a, const unsigned char *p, size_t n)
{
	unsigned char *to = a->mem + a->used;
	if (n > 0)
		memmove(to, p, n);
	a->used += n;
	return to;
}

/* Keeps of a certificate what its anchor needs, in the order in which it has them: about a third. */
static void keep_parts(struct reading *r, struct cert_anchor *t)
{
	struct tls_anchors *a = r->a;
	a->used = r->start;
	t->subject.p = keep(a, t->subject.p, t->subject.n);
	if (t->key.key_type == BR_KEYTYPE_RSA) {
		br_rsa_public_key *rsa = &t->key.key.rsa;
		rsa->n = keep(a, rsa->n, rsa->nlen);
		rsa->e = keep(a, rsa->e, rsa->elen);
	} else {
		t->key.key.ec.q = keep(a, t->key.key.ec.q, t->key.key.ec.qlen);
	}
	if (t->constraints.p != NULL)
		t->constraints.p = keep(a, t->constraints.p, t->constraints.n);
}

/* The block is complete: makes its certificate an anchor. Returns NULL, or what is wrong with it. */
static const char *end_block(struct reading *r)
{
	struct tls_anchors *a = r->a;
	struct slice der = {a->mem + r->start, a->used - r->start};
	r->inside = false;
	if (r->full || a->n == TLS_ANCHORS)
		return "too many: there is no room for more certificates";
	struct cert_anchor *anchor = (struct cert_anchor *)(void *)a->mem + a->n;
	enum cert_error error = cert_read_anchor(anchor, der);
	if (error != CERT_OK)
		return tls_error_text((int)error);
	keep_parts(r, anchor);
	a->n++;
	return NULL;
}

static bool take_base64(struct reading *r, struct slice line)
{
	static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	struct tls_anchors *a = r->a;
	for (size_t i = 0; i < line.n; i++) {
		bool padding = line.p[i] == '='; /* as zero bits */
		const char *digit = memchr(digits, padding ? digits[0] : line.p[i], sizeof digits - 1);
		r->padding += padding;
		if (digit == NULL || r->padding > (padding ? 2 : 0))
			return false;
		r->bits = r->bits << 6 | (uint32_t)(digit - digits);
		if (++r->digits % 4 != 0)
			continue;
		r->full |= sizeof a->mem - a->used < 3;
		for (unsigned k = 0; k < 3 - r->padding && !r->full; k++)
			a->mem[a->used++] = (unsigned char)(r->bits >> (16 - 8 * k));
	}
	return true;
}

static const char begin[] = "-----BEGIN ",
                  bad_text[] = "its text is damaged: not base64, or without an END CERTIFICATE line";

/* Takes a line (RFC 7468 §2). Returns NULL, or what is wrong with it. */
static const char *take_line(struct reading *r, struct slice line)
{
	if (r->inside && slice_is(line, "-----END CERTIFICATE-----"))
		return r->digits % 4 == 0 ? end_block(r) : bad_text;
	if (r->inside)
		return take_base64(r, line) ? NULL : bad_text;
	if (line.n == 0 || slice_find(line, begin) > 0)
		return NULL;
	if (!slice_is(line, "-----BEGIN CERTIFICATE-----"))
		return "BEGIN CERTIFICATE is expected, this block is something else (a private key?)";
	*r = (struct reading){.a = r->a, .start = r->a->used, .inside = true};
	return NULL;
}

/* The bytes of the line's end at the beginning of s, which may be \n or \r in two characters; 0: there is
 * none.
 */
static size_t line_end(struct slice s)
{
	if (s.p[0] == '\n' || s.p[0] == '\r')
		return 1;
	return s.n > 1 && s.p[0] == '\\' && (s.p[1] == 'n' || s.p[1] == 'r') ? 2 : 0;
}

static bool is_blank(unsigned char c)
{
	return c <= ' ' || c > '~';
}

/* Takes the text line by line, without what is blank or no ASCII (a byte order mark) around it. Returns NULL,
 * or what is wrong. */
static const char *read_text(struct reading *r, struct slice pem)
{
	const char *wrong = NULL;
	while (pem.n > 0 && wrong == NULL) {
		struct slice line = {pem.p, 0};
		for (size_t end = 0; pem.n > 0 && end == 0; line.n += end == 0) {
			end = line_end(pem);
			pem = slice_from(pem, end > 0 ? end : 1);
		}
		while (line.n > 0 && is_blank(line.p[line.n - 1]))
			line.n--;
		while (line.n > 0 && is_blank(line.p[0]))
			line = slice_from(line, 1);
		wrong = take_line(r, line);
	}
	return wrong == NULL && r->inside ? bad_text : wrong;
}

bool tls_anchors_read(struct tls_anchors *a, struct slice pem, struct buf *why)
{
	struct reading r = {.a = a};
	size_t blocks = 0;
	for (struct slice rest = pem; (rest = slice_from(rest, slice_find(rest, begin))).n > 0;
	        rest = slice_from(rest, 1))
		blocks += blocks < TLS_ANCHORS;
	a->list = (void *)a->mem;
	a->n = 0;
	a->used = blocks * sizeof *a->list;
	const char *wrong = read_text(&r, pem);
	if (wrong == NULL && a->n > 0)
		return true;
	if (wrong != NULL)
		buf_put_text(why, "certificate %u: %s", (unsigned)a->n + 1, wrong);
	else
		buf_put_str(why, "no certificate in it (a line -----BEGIN CERTIFICATE----- is expected)");
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
	for (size_t i = 0; i < sizeof root_anchors / sizeof root_anchors[0]; i++) {
		buf_put_str(b, "  until ");
		cert_put_day(b, root_anchors[i].not_after_s);
		buf_put_str(b, ": ");
		buf_put_slice(b, cert_name_text(root_anchors[i].subject));
		buf_put_byte(b, '\n');
	}
}

/* The connection */

_Static_assert(
        TLS_IN_BYTES >= 512 + 325 && TLS_OUT_BYTES >= 512 + 85, "BearSSL's records have 512 bytes at least");

/* Stands in for BearSSL's own, which would open /dev/urandom: randomness comes from the caller alone. */
br_prng_seeder br_prng_seeder_system(const char **name)
{
	(void)name; /* the engine does not ask for it */
	return 0;
}

/* What we speak: TLS 1.2 alone, ECDHE with an AEAD alone, SHA-256 or better (RFC 9325 §4.2). The engine's
 * parts are set by hand, since br_ssl_client_init_full takes in 40 kB more. */
static void set_hashes(br_ssl_engine_context *e)
{
	static const struct {
		int id;
		const br_hash_class *hash;
	} hashes[] = {
	        {br_sha256_ID, &br_sha256_vtable},
	        {br_sha384_ID, &br_sha384_vtable},
	        {br_sha512_ID, &br_sha512_vtable},
	};
	for (size_t i = 0; i < sizeof hashes / sizeof hashes[0]; i++)
		br_ssl_engine_set_hash(e, hashes[i].id, hashes[i].hash);
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

/* For signatures alone, which X25519 has none of. */
static uint32_t ec_muladd(unsigned char *a, const unsigned char *b, size_t n, const unsigned char *x,
        size_t xn, const unsigned char *y, size_t yn, int curve)
{
	return br_ec_prime_i31.muladd(a, b, n, x, xn, y, yn, curve);
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

/* Of BearSSL's arithmetic, which its headers leave out. Numbers are arrays of 31-bit words behind their
 * length in bits; "monty" is Montgomery's form. */
void br_i31_decode(uint32_t *x, const void *p, size_t n);
uint32_t br_i31_decode_mod(uint32_t *x, const void *p, size_t n, const uint32_t *m);
void br_i31_encode(void *p, size_t n, const uint32_t *x);
uint32_t br_i31_ninv31(uint32_t word);
void br_i31_to_monty(uint32_t *x, const uint32_t *m);
void br_i31_from_monty(uint32_t *x, const uint32_t *m, uint32_t m0i);
void br_i31_montymul(uint32_t *xy, const uint32_t *x, const uint32_t *y, const uint32_t *m, uint32_t m0i);
uint32_t br_rsa_pkcs1_sig_unpad(
        const unsigned char *padded, size_t n, const unsigned char *oid, size_t hash_n, unsigned char *hash);

/* RSASSA-PKCS1-v1_5 (RFC 8017 §8.2.2), a br_rsa_pkcs1_vrfy. BearSSL's own raises to a power that may be a
 * secret, which takes several times the work and the code. Of a key cert.c has made sure that the modulus has
 * at most 4096 bits and no zeros in front, and that the exponent is above 1 and has at most 32 bits. */
static uint32_t verify_rsa(const unsigned char *signature, size_t n, const unsigned char *oid, size_t hash_n,
        const br_rsa_public_key *key, unsigned char *hash)
{
	enum { BYTES = 512, WORDS = 2 + 8 * BYTES / 31 };
	uint32_t m[WORDS], base[WORDS], mem[2][WORDS], *power = mem[0], *square = mem[1];
	uint32_t e = 0, bit = UINT32_C(1) << 31;
	if (n != key->nlen || n > BYTES)
		return 0;
	br_i31_decode(m, key->n, n);
	const uint32_t m0i = br_i31_ninv31(m[1]);
	if (br_i31_decode_mod(base, signature, n, m) == 0) /* RFC 8017 §5.2.2: below the modulus */
		return 0;
	br_i31_to_monty(base, m);
	for (size_t i = 0; i < key->elen; i++)
		e = e << 8 | key->e[i];
	while ((e & bit) == 0)
		bit >>= 1;
	for (memcpy(power, base, sizeof base); (bit >>= 1) != 0;) {
		br_i31_montymul(square, power, power, m, m0i);
		if ((e & bit) != 0) {
			br_i31_montymul(power, square, base, m, m0i);
		} else {
			uint32_t *was = power;
			power = square;
			square = was;
		}
	}
	br_i31_from_monty(power, m, m0i);
	unsigned char *padded = (unsigned char *)m; /* which is needed no more */
	br_i31_encode(padded, n, power);
	return br_rsa_pkcs1_sig_unpad(padded, n, oid, hash_n, hash);
}

static void set_public_key(br_ssl_engine_context *e, struct cert_check *k)
{
	k->rsa = verify_rsa;
	k->ecdsa = &br_ecdsa_i31_vrfy_asn1;
	k->ec = &ec;
	br_ssl_engine_set_ec(e, k->ec);
	br_ssl_engine_set_ecdsa(e, k->ecdsa);
	br_ssl_engine_set_rsavrfy(e, k->rsa);
}

/* AES instructions where the processor has them. Without them ChaCha20 costs far less, but brokers choose by
 * their own preference: it is offered alone first, and the rest when that was refused. */
static void set_ciphers(br_ssl_engine_context *e, bool all)
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
	br_ssl_engine_set_suites(e, aes ? suites + 2 : suites, aes || all ? 6 : 2);
	br_ssl_engine_set_aes_ctr(e, aes ? aes : &br_aes_ct_ctr_vtable);
	br_ssl_engine_set_gcm(e, &br_sslrec_in_gcm_vtable, &br_sslrec_out_gcm_vtable);
	br_ssl_engine_set_chapol(e, &br_sslrec_in_chapol_vtable, &br_sslrec_out_chapol_vtable);
	br_ssl_engine_set_poly1305(e, &br_poly1305_ctmul_run);
#ifdef __SIZEOF_INT128__
	br_ssl_engine_set_ghash(e, ghash ? ghash : &br_ghash_ctmul64);
#else
	br_ssl_engine_set_ghash(e, ghash ? ghash : &br_ghash_ctmul);
#endif
#ifdef __x86_64__
	br_ssl_engine_set_chacha20(e, br_chacha20_sse2_get());
#else
	br_ssl_engine_set_chacha20(e, &br_chacha20_ct_run);
#endif
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

/* The name for SNI: NULL for an address (RFC 6066 §3), without the root's dot. Text in mem. */
static const char *sni_of(const char *host, struct buf *mem)
{
	struct dns_address address;
	struct slice name = dns_bare(host);
	if (dns_read_address(name, &address))
		return NULL;
	buf_put_slice(mem, name);
	return buf_cstr(mem);
}

void tls_begin(struct tls *t, const char *server_name, const struct tls_anchors *anchors, int64_t wall_s,
        const unsigned char *entropy)
{
	br_ssl_engine_context *e = &t->client.eng;
	/* The engine copies the name before it writes there. */
	struct buf name = buf_over(t->out, sizeof e->server_name);
	const char *sni = sni_of(server_name, &name);
	int64_t now = wall_s > TLS_BUILD_TIME_S ? wall_s : TLS_BUILD_TIME_S;
	br_ssl_client_zero(&t->client);
	t->check.certs = 0;
	t->check.error = CERT_OK;
	/* Without a name there is nothing to check: the engine stays shut. */
	if (server_name[0] == 0 || name.full) {
		e->err = BR_ERR_BAD_STATE;
		return;
	}
	t->check.vtable = &cert_class;
	t->check.anchor = anchors->list;
	t->check.anchors = anchors->n;
	t->check.host = server_name;
	t->check.time_s = now;
	set_hashes(e);
	set_public_key(e, &t->check);
	set_ciphers(e, t->all_suites);
	br_ssl_engine_set_versions(e, BR_TLS12, BR_TLS12);
	br_ssl_engine_set_all_flags(e, BR_OPT_NO_RENEGOTIATION);
	br_ssl_engine_set_x509(e, &t->check.vtable);
	br_ssl_engine_set_buffers_bidi(e, t->in, sizeof t->in, t->out, sizeof t->out);
	br_ssl_engine_inject_entropy(e, entropy, TLS_ENTROPY_BYTES);
	t->resuming = now >= t->session_s && now - t->session_s < TLS_SESSION_S; /* never if session_s is 0 */
	if (t->resuming) { /* with its suite alone: each one more costs 37,000 instructions in BearSSL */
		br_ssl_engine_set_session_parameters(e, &t->session);
		br_ssl_engine_set_suites(e, &t->session.cipher_suite, 1);
	}
	if (br_ssl_client_reset(&t->client, sni, t->resuming))
		put_x25519_first(e);
}

void tls_established(struct tls *t, int64_t wall_s)
{
	int64_t now = wall_s > TLS_BUILD_TIME_S ? wall_s : TLS_BUILD_TIME_S;
	bool resumed = t->check.certs == 0;
	br_ssl_engine_get_session_parameters(&t->client.eng, &t->session);
	if (t->session.session_id_len == 0)
		t->session_s = 0;
	else if (!resumed)
		t->session_s = now;
}

/* Was ChaCha20 alone offered, and the answer handshake_failure or insufficient_security (RFC 5246 §7.2.2)? */
static bool too_few_suites(const struct tls *t)
{
	int code = tls_error(t);
	return t->client.eng.suites_num == 2 && (code == IN + 40 || code == IN + 71);
}

/* Some servers end the connection without an alert when no suite suits them: the other choice is next. */
void tls_refused(struct tls *t)
{
	if (too_few_suites(t) || (tls_error(t) == BR_ERR_OK && !t->resuming))
		t->all_suites = !t->all_suites;
	tls_wipe(&t->session, sizeof t->session);
	t->session_s = 0;
}

int tls_error(const struct tls *t)
{
	return br_ssl_engine_last_error(&t->client.eng);
}

const char *tls_why(const struct tls *t)
{
	int code = tls_error(t);
	if (t->resuming && code == IN + 40)
		return "the broker refuses to resume the TLS session: a new one is made from now on";
	if (too_few_suites(t))
		return "the broker takes no ChaCha20, which costs least here: AES is offered from now on";
	return code == BR_ERR_OK ? NULL : tls_error_text(code);
}

struct slice tls_detail(const struct tls *t)
{
	if (t->check.error == CERT_OK)
		return (struct slice){NULL, 0};
	return buf_slice(&t->check.detail);
}

void tls_end(struct tls *t)
{
	tls_wipe(&t->client, sizeof t->client);
	tls_wipe_used(t->in, sizeof t->in);
	tls_wipe_used(t->out, sizeof t->out);
}

void tls_forget(struct tls *t)
{
	tls_wipe(t, sizeof *t);
}
