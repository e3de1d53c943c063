/* tls_anchors_read: all or nothing, and whatever is kept lies within its bytes. The first byte chooses: the
 * rest is PEM text, or certificates (two bytes of length each) that are put into PEM here, since no mutation
 * gets through base64 by itself. */
// uses: buf.c dns.c cert.c
// longest input: 1100
#include <strings.h>

#include "fuzz.h"

#include "../../tls.c"

static struct tls_anchors anchors, again;

/* In the order of list: name, key, constraints. */
static void check_anchor(const struct tls_anchors *a, const struct cert_anchor *c)
{
	struct slice whole = {a->mem, a->used}, part[3] = {c->subject, c->constraints, {NULL, 0}};
	const br_x509_pkey *key = &c->key;
	CHECK(key->key_type == BR_KEYTYPE_RSA || key->key_type == BR_KEYTYPE_EC);
	if (key->key_type == BR_KEYTYPE_EC) {
		CHECK(key->key.ec.qlen == (key->key.ec.curve == BR_EC_secp256r1 ? 65 : 97));
		part[2] = (struct slice){key->key.ec.q, key->key.ec.qlen};
	} else {
		part[2] = (struct slice){key->key.rsa.n, key->key.rsa.nlen};
		CHECK(key->key.rsa.nlen >= 256 && key->key.rsa.nlen <= 512 && key->key.rsa.elen > 0);
		CHECK(within((struct slice){key->key.rsa.e, key->key.rsa.elen}, whole));
	}
	CHECK(part[0].n > 0 && part[2].n > 0);
	for (int i = 0; i < 3; i++)
		CHECK(within(part[i], whole));
	CHECK(cert_name_text(c->subject).n <= c->subject.n);
}

static bool must_read(struct tls_anchors *a, struct slice pem)
{
	unsigned char mem[120];
	struct buf why = BUF(mem);
	unsigned char *p = exactly(pem.p, pem.n);
	bool ok = tls_anchors_read(a, (struct slice){p, pem.n}, &why);
	free(p);
	CHECK(!why.full && ok == (why.n == 0) && ok == (a->n > 0) && a->list == (const void *)a->mem);
	CHECK(a->n <= TLS_ANCHORS && a->used <= sizeof a->mem && (ok || a->used == 0));
	for (size_t i = 0; i < a->n; i++)
		check_anchor(a, &a->list[i]);
	return ok;
}

/* How many blocks the text can have at most; BEGIN may be in small letters. */
static size_t begins(struct slice s)
{
	size_t n = 0;
	for (size_t at; (at = slice_find(s, "-----")) < s.n; cut(&s, at + 1))
		n += s.n - at > 21 && strncasecmp((const char *)s.p + at, "-----BEGIN CERTIFICATE", 22) == 0;
	return n;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static char text[64 * 1024];
	struct slice in = {data, size};
	unsigned first = cut_byte(&in);
	if (first & 1) {
		size_t n = 0;
		while (in.n >= 2 && n + 2 * in.n + 200 < sizeof text) {
			size_t length = cut_byte(&in) << 8;
			struct slice der = cut(&in, length | cut_byte(&in));
			n += br_pem_encode(
			        text + n, der.p, der.n, "CERTIFICATE", first & 2 ? BR_PEM_CRLF : 0);
		}
		in = (struct slice){(unsigned char *)text, n};
	}
	bool ok = must_read(&anchors, in);
	CHECK(!ok || anchors.n <= begins(in));
	if (ok && (first & 4))
		CHECK(must_read(&again, in) && anchors.n == again.n && anchors.used == again.used);
	return 0;
}
