/* cert_class and what stands behind it: any bytes as a server's chain, in any pieces, for several hosts,
 * times and sets of anchors; and every certificate of it by itself, through all that reads one.
 *
 * The kept seeds are chains that openssl has really signed: seeds/cert/ok-* are right for their host and
 * time, seeds/cert/no-* break one rule each (test/fuzz/certs made them). Their self-signed certificates that
 * are CAs are the test roots. The property: what is accepted begins with a leaf of an ok chain, byte for
 * byte, and is for its host and at a time at which that is valid.
 *
 * A signature costs a millisecond, and no mutation ever finds one: so neither RSA nor ECDSA is computed while
 * fuzzing. A key of the seeds signs what it has signed in them (verified once, for real, at the start) and
 * nothing else; every other EC key belongs to an attacker, who signs what he likes. So mutated chains get as
 * far as an attacker's would. In "forged" runs the seeds' EC keys sign everything, too, so that what comes
 * behind the last signature is reached; then anything may be accepted that is for the host and the time. */
// uses: buf.c dns.c
// longest input: 6000
#include <dirent.h>

#include "fuzz.h"

#include "../../cert.c"
#include "der.h"
#include "roots.h"

enum { MAX = 128, HEAD = 3 };

static const char *const hosts[] = {"broker.test", "a.b.test", "192.0.2.7", "2001:db8::7", "BROKER.test.",
        "evil.test", "", "x.a.b.test", "*.b.test", "[2001:db8::7]", "test", "DigiCert Global Root G2"};
/* A clock counts microseconds in an int64_t: none shows more than the last but one. */
static const int64_t times[] = {4000000000 /* 2096 */, 1600000000, 2000000000, 4102444800 /* 2100 */,
        5000000000, 0, 9000000000000, -1};

/* What the seeds hold. */
static struct slice genuine[MAX], good_leaf[MAX];
static struct cert known[MAX];
static size_t genuines, good_leaves, anchors, signings;
static struct cert_anchor anchor[MAX + sizeof root_anchors / sizeof root_anchors[0]];
static struct {
	size_t cert, signer; /* of known: whose key has signed it */
	unsigned char digest[64];
} signing[MAX];
static bool forged;

/* Doubles of BearSSL's. */

static bool is_known(const struct slice key)
{
	for (size_t i = 0; i < genuines; i++)
		if (known[i].self.key.key_type == BR_KEYTYPE_EC &&
		        slice_eq(key,
		                (struct slice){known[i].self.key.key.ec.q, known[i].self.key.key.ec.qlen}))
			return true;
	return false;
}

static uint32_t ecdsa(const br_ec_impl *ec, const void *hash, size_t size, const br_ec_public_key *key,
        const void *sig, size_t n)
{
	struct slice q = {key->q, key->qlen}, s = {sig, n};
	CHECK(ec == NULL && n < CERT_CHAIN_BYTES && (key->qlen == 65 || key->qlen == 97));
	if (forged || !is_known(q))
		return n > 0 && s.p[n - 1] != 0;
	for (size_t i = 0; i < signings; i++) {
		const struct cert *by = &known[signing[i].signer];
		if (by->self.key.key_type == BR_KEYTYPE_EC && memcmp(signing[i].digest, hash, size) == 0 &&
		        slice_eq(q, (struct slice){by->self.key.key.ec.q, by->self.key.key.ec.qlen}) &&
		        slice_eq(s, known[signing[i].cert].signature))
			return 1;
	}
	return 0;
}

static uint32_t rsa(const unsigned char *sig, size_t n, const unsigned char *hash_oid, size_t size,
        const br_rsa_public_key *key, unsigned char *hash_out)
{
	(void)hash_oid;
	CHECK(key->nlen >= 256 && key->nlen <= 512 && key->elen > 0);
	for (size_t i = 0; i < signings; i++) {
		const struct cert *by = &known[signing[i].signer];
		if (by->self.key.key_type == BR_KEYTYPE_RSA &&
		        slice_eq((struct slice){sig, n}, known[signing[i].cert].signature) &&
		        slice_eq((struct slice){key->n, key->nlen},
		                (struct slice){by->self.key.key.rsa.n, by->self.key.key.rsa.nlen})) {
			memcpy(hash_out, signing[i].digest, size);
			return 1;
		}
	}
	return 0;
}

/* One certificate by itself, in memory of its size. */
static void read_alone(struct slice der, const char *host)
{
	struct cert c;
	struct cert_anchor a;
	unsigned char mem[CERT_DETAIL_BYTES], *p = exactly(der.p, der.n);
	struct buf words = BUF(mem), few = {mem, 20, 0, false};
	struct slice copy = {p, der.n};
	enum cert_error error = cert_read(&c, copy);
	CHECK(error == c.error && (error == CERT_OK || cert_error_text((int)error)[0] != 'u'));
	if (error != CERT_MALFORMED) {
		const struct slice parts[] = {c.tbs, c.self.subject, c.issuer, c.signature, c.alt_names,
		        c.self.constraints, cert_name_text(c.self.subject), cert_name_text(c.issuer)};
		for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++)
			CHECK(within(parts[i], copy));
		cert_describe(&words, &c);
		CHECK(!words.full && !memchr(mem, '\n', words.n));
		cert_describe(&few, &c);
		cert_matches(c.alt_names, host);
	}
	cert_name_text(copy);
	error = cert_read_anchor(&a, copy);
	CHECK(error == CERT_OK || error == c.error || c.errors >> (error - CERT_NONE) & 1);
	free(p);
}

/* The chain in the pieces that the engine would give it in. */
static unsigned check(struct cert_check *k, struct slice in, unsigned piece)
{
	k->vtable = &cert_class;
	k->vtable->start_chain(&k->vtable, "sni.test");
	while (in.n >= 2) {
		size_t length = cut_byte(&in) << 8;
		struct slice der = cut(&in, length | cut_byte(&in));
		read_alone(der, k->host);
		k->vtable->start_cert(&k->vtable, (uint32_t)der.n);
		for (struct slice part; (part = cut(&der, piece)).n > 0;) {
			unsigned char *p = exactly(part.p, part.n);
			k->vtable->append(&k->vtable, p, part.n);
			free(p);
		}
		k->vtable->end_cert(&k->vtable);
	}
	return k->vtable->end_chain(&k->vtable);
}

/* The leaf of an accepted chain: may it be? Where it has the name and key of an anchor, whoever holds that
 * key may say of himself what he likes. */
static void check_accepted(const struct cert_check *k)
{
	const struct cert *leaf = &k->cert[0];
	bool good = forged || leaf_anchor(k) != NULL;
	for (size_t i = 0; i < good_leaves && !good; i++)
		good = slice_eq((struct slice){k->bytes_mem, k->end[0]}, good_leaf[i]);
	if (!good)
		fprintf(stderr, "accepted: %u certificates for %s\n", k->certs, k->host);
	CHECK(good);
	CHECK(k->certs >= 1 && k->certs <= CERT_CHAIN && leaf->error == CERT_OK && k->detail.n == 0);
	CHECK(cert_matches(leaf->alt_names, k->host) && k->host[0] != 0);
	CHECK(leaf->self.not_before_s <= k->time_s && k->time_s <= leaf->self.not_after_s);
	CHECK(k->signatures <= CERT_SIGNATURES && (k->signatures > 0 || leaf_anchor(k) != NULL));
	CHECK(k->vtable->get_pkey(&k->vtable, NULL) == &leaf->self.key);
}

/* The head: host and forged, time and anchors, size of the pieces. */
static unsigned run(struct cert_check *k, struct slice in)
{
	unsigned first = cut_byte(&in), second = cut_byte(&in), third = cut_byte(&in);
	forged = first & 0x80;
	k->host = hosts[(first & 0x7f) % (sizeof hosts / sizeof hosts[0])];
	k->time_s = times[second % 8];
	k->anchor = anchor;
	k->anchors = second & 0x80 ? anchors / 2 : anchors;
	k->rsa = rsa;
	k->ecdsa = ecdsa;
	unsigned error = check(k, in, third + 1);
	CHECK(error == k->error && (error == CERT_OK || (error >= CERT_NONE && error < CERT_ERRORS)));
	CHECK(!k->detail.full && k->bytes.n <= sizeof k->bytes_mem);
	if (error == CERT_OK)
		check_accepted(k);
	return error;
}

/* --- from the seeds --- */

static void learn_chain(struct slice in, bool ok)
{
	cut(&in, HEAD);
	for (size_t i = 0; in.n >= 2; i++) {
		size_t length = cut_byte(&in) << 8, g = 0;
		struct slice der = cut(&in, length | cut_byte(&in));
		while (g < genuines && !slice_eq(genuine[g], der))
			g++;
		CHECK(g < MAX && good_leaves < MAX);
		if (i == 0 && ok)
			good_leaf[good_leaves++] = der;
		genuine[g] = der;
		genuines += g == genuines;
	}
}

static struct slice read_seed(const char *folder, const char *name)
{
	static unsigned char mem[1 << 18];
	static size_t used;
	char path[600];
	snprintf(path, sizeof path, "%s/%s", folder, name);
	FILE *f = fopen(path, "rb");
	CHECK(f != NULL);
	struct slice s = {mem + used, fread(mem + used, 1, sizeof mem - used, f)};
	fclose(f);
	used += s.n;
	CHECK(used < sizeof mem);
	return s;
}

static unsigned char digest[64]; /* of the signature that was verified last */

static uint32_t real_ecdsa(const br_ec_impl *ec, const void *hash, size_t size, const br_ec_public_key *key,
        const void *sig, size_t n)
{
	memcpy(digest, hash, size);
	return br_ecdsa_i31_vrfy_asn1(ec, hash, size, key, sig, n);
}

static uint32_t real_rsa(const unsigned char *sig, size_t n, const unsigned char *hash_oid, size_t size,
        const br_rsa_public_key *key, unsigned char *hash_out)
{
	uint32_t good = br_rsa_i31_pkcs1_vrfy(sig, n, hash_oid, size, key, hash_out);
	memcpy(digest, hash_out, size);
	return good;
}

/* Who has signed what, for real, and who is a root. */
static void learn_signatures(void)
{
	enum { UNKNOWN = 1 << (CERT_ALGORITHM - CERT_NONE) | 1 << (CERT_WEAK_SIGNATURE - CERT_NONE) };
	struct cert_check k = {.rsa = real_rsa, .ecdsa = real_ecdsa, .ec = &br_ec_prime_i31};
	for (size_t i = 0; i < genuines; i++)
		cert_read(&known[i], genuine[i]);
	for (size_t i = 0; i < genuines; i++) {
		for (size_t by = 0; by < genuines; by++) {
			k.signatures = 0;
			if ((known[i].errors & UNKNOWN) != 0 ||
			        !slice_eq(known[i].issuer, known[by].self.subject) ||
			        !verify(&k, &known[i], &known[by].self.key))
				continue;
			CHECK(signings < MAX);
			memcpy(signing[signings].digest, digest, sizeof digest);
			signing[signings].cert = i;
			signing[signings++].signer = by;
			if (i == by && cert_read_anchor(&anchor[anchors], genuine[i]) == CERT_OK)
				anchors++;
		}
	}
	memcpy(anchor + anchors, root_anchors, sizeof root_anchors);
	anchors += sizeof root_anchors / sizeof root_anchors[0];
}

static int is_ok(const struct dirent *e)
{
	return strncmp(e->d_name, "ok-", 3) == 0;
}

static int is_chain(const struct dirent *e)
{
	return is_ok(e) || strncmp(e->d_name, "no-", 3) == 0;
}

/* Learns the seeds, and shows on them that this target can tell right from wrong. */
int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	static struct cert_check k;
	const char *folder = getenv("FUZZ_CERTS");
	struct slice seed[MAX];
	size_t oks = 0;
	(void)argc, (void)argv;
	folder = folder != NULL ? folder : "test/fuzz/seeds/cert";
	struct dirent **entry;
	int entries = scandir(folder, &entry, is_chain, alphasort);
	CHECK(entries > 0 && entries < MAX); /* otherwise: run it in the folder of the project */
	for (int i = 0; i < entries; i++) {
		seed[i] = read_seed(folder, entry[i]->d_name);
		learn_chain(seed[i], is_ok(entry[i]));
	}
	learn_signatures();
	for (int i = 0; i < entries; i++) {
		unsigned error = run(&k, seed[i]);
		if ((error == CERT_OK) != is_ok(entry[i])) {
			fprintf(stderr, "%s: %s\n", entry[i]->d_name,
			        error ? cert_error_text((int)error) : "accepted");
			abort();
		}
		oks += error == CERT_OK;
		free(entry[i]);
	}
	CHECK(oks > 5 && (size_t)entries - oks > 5);
	free(entry);
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct cert_check k;
	run(&k, (struct slice){data, size});
	return 0;
}
