/* Certificates, rule by rule. They are made here, from DER as text, so that any odd one can be: two
 * hexadecimal digits are a byte, 'abc' is text, and "30(…)" is an element with the tag 30 and its length. */
// uses: buf.c dns.c
#include "unit.h"

#include "../../cert.c"

/* Cases say only what is not as usual. */
#pragma GCC diagnostic ignored "-Wmissing-field-initializers"

/* --- a certificate as a test wants it: what is zero or NULL is as it should be --- */

struct spec {
	char as; /* its name in the list of a case: 'L' is the leaf; A, B, … are CAs; R, S, … are roots */
	char named;  /* whose name it has */
	char by;     /* whose name its issuer has: that of the one behind it in the list, or of the root */
	char key;    /* its own key; '2' is RSA, '3' is on P-384, others are on P-256 */
	char signer; /* whose key it is signed with */
	int hash;    /* of the signature: 384, 512 */
	const char *version, *serial, *algorithm, *outer_algorithm, *issuer, *dates, *subject;
	const char *key_info, *unique, *extensions, *ext, *signature, *behind; /* in DER text */
	unsigned rsa_bits;                                                     /* a made-up RSA key */
	const char *rsa_exponent;
};

#define OID_SHA1_RSA   "2a864886f70d010105"
#define OID_SHA256_RSA "2a864886f70d01010b"
#define OID_SHA256_EC  "2a8648ce3d040302"
#define P256_POINT     "04 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy'"

#define CRITICAL            "01(ff)"
#define EXT(x, critical, v) "30(06(551d" x ")" critical "04(" v "))"
#define OTHER(critical)     "30(06(2a0304)" critical "04(0500))"
#define SAN(names)          EXT("11", "", "30(" names ")")
#define DNS(name)           "82('" name "')"
#define IP(hex)             "87(" hex ")"
#define KU(bits)            EXT("0f", CRITICAL, "03(" bits ")")
#define EKU(oids)           EXT("25", "", "30(" oids ")")
#define BC(v)               EXT("13", CRITICAL, "30(" v ")")
#define NC(subtrees)        EXT("1e", CRITICAL, "30(" subtrees ")")
#define PERMITTED(subtrees) "a0(" subtrees ")"
#define EXCLUDED(subtrees)  "a1(" subtrees ")"
#define ONLY(name)          "30(" name ")"
#define SERVER_AUTH         "06(2b06010505070301)"
#define CLIENT_AUTH         "06(2b06010505070302)"
#define ANY_USAGE           "06(551d2500)"
#define NAME                SAN(DNS("broker.test"))
#define CA                  BC("01(ff)")
#define SIGNS_CERTIFICATES  KU("0204")
#define UTC(from, to)       "17('" from "Z') 17('" to "Z')"
#define GENERAL(from, to)   "18('" from "Z') 18('" to "Z')"
#define GOOD_DATES          UTC("260101000000", "360101000000")
#define LEAF_EXT            NAME KU("0780") EKU(SERVER_AUTH) EXT("13", "", "30()")
#define CA_EXT              CA SIGNS_CERTIFICATES
#define CN(text)            "30(31(30(06(550403)0c('" text "'))))"
#define EXPIRED             .dates = UTC("200101000000", "210101000000")

static const int64_t in_2030 = 1893456000;

/* --- keys --- */

static br_rsa_private_key rsa_private;
static br_rsa_public_key rsa_public;

static bool is_rsa(char key)
{
	return key == '2';
}

static int curve_of(char key)
{
	return key == '3' ? BR_EC_secp384r1 : BR_EC_secp256r1;
}

/* The private key is its letter, many times. */
static br_ec_private_key ec_private(char key, unsigned char mem[48])
{
	size_t n = key == '3' ? 48 : 32;
	memset(mem, key, n);
	return (br_ec_private_key){curve_of(key), mem, n};
}

static int make_rsa_key(void **state)
{
	static unsigned char private[BR_RSA_KBUF_PRIV_SIZE(2048)], public[BR_RSA_KBUF_PUB_SIZE(2048)];
	br_hmac_drbg_context random;
	(void)state;
	br_hmac_drbg_init(&random, &br_sha256_vtable, "iamcat", 6);
	return br_rsa_keygen_get_default()(
	               &random.vtable, &rsa_private, private, &rsa_public, public, 2048, 65537) == 1
	               ? 0
	               : -1;
}

/* --- DER --- */

/* One element, counted from 0 in the order in which they begin, may be written in an odd way. */
enum odd {
	RIGHT,
	LONG_FORM,
	INDEFINITE,
	EIGHT_DIGITS,
	NINE_DIGITS,
	PAST_THE_END,
	ONE_MORE,
	ONE_LESS,
	OTHER_TAG,
	HIGH_TAG,
	ODDS
};
static struct {
	enum odd how;
	size_t at, count;
	bool loose[200], is_loose; /* not looked into, so that anything may be there */
} odd;

struct element {
	size_t tag_at, index;
};

static struct element begin(struct buf *b, unsigned tag)
{
	struct element e = {b->n, odd.count++};
	assert_true(odd.count < sizeof odd.loose);
	odd.loose[e.index] = odd.is_loose;
	buf_put_byte(b, (unsigned char)tag);
	return e;
}

static void end(struct buf *b, struct element e)
{
	size_t at = e.tag_at + 1, n = b->n - at, digits = n < 128 ? 0 : n < 256 ? 1 : n < 65536 ? 2 : 3;
	enum odd how = e.index == odd.at ? odd.how : RIGHT;
	unsigned char head[12];
	struct buf h = BUF(head);
	if (how == ONE_MORE || (how == ONE_LESS && n > 0))
		n = how == ONE_MORE ? n + 1 : n - 1;
	if (how == INDEFINITE || how == PAST_THE_END) {
		buf_put(&h, how == INDEFINITE ? "\x80" : "\x83\xff\xff\xff", how == INDEFINITE ? 1 : 4);
	} else {
		digits = how == LONG_FORM      ? digits + 1
		         : how == EIGHT_DIGITS ? 8
		         : how == NINE_DIGITS  ? 9
		                               : digits;
		if (digits > 0)
			buf_put_byte(&h, (unsigned char)(0x80 + digits));
		for (size_t i = digits > 0 ? digits : 1; i-- > 0;)
			buf_put_byte(&h, (unsigned char)(i < 4 ? n >> (8 * i) : i == 8));
	}
	b->p[e.tag_at] ^= how == OTHER_TAG ? 0x40 : how == HIGH_TAG ? 0x1f & ~b->p[e.tag_at] : 0;
	n = b->n - at;
	buf_put(b, head, h.n);
	assert_false(b->full);
	memmove(b->p + at + h.n, b->p + at, n);
	memcpy(b->p + at, head, h.n);
	if (how == INDEFINITE)
		buf_put(b, "\0\0", 2);
}

static const char *put(struct buf *b, const char *t)
{
	while (*t != 0 && *t != ')') {
		unsigned byte;
		if (*t == ' ') {
			t++;
		} else if (*t == '\'') {
			size_t n = strcspn(t + 1, "'");
			buf_put(b, t + 1, n);
			t += n + 2;
		} else {
			assert_int_equal(sscanf(t, "%2x", &byte), 1);
			t += 2;
			if (*t != '(') {
				buf_put_byte(b, (unsigned char)byte);
				continue;
			}
			struct element e = begin(b, byte);
			t = put(b, t + 1);
			assert_true(*t++ == ')');
			end(b, e);
		}
	}
	assert_false(b->full);
	return t;
}

static void put_or(struct buf *b, const char *text, const char *otherwise)
{
	put(b, text != NULL ? text : otherwise);
}

/* A case that fails does not keep the others of its table from being tried. */
static size_t faults;
#define FAULT(...) (print_error(__VA_ARGS__), print_error("\n"), faults++)

static int tell(void **state)
{
	(void)state;
	int result = faults > 0 ? -1 : 0;
	faults = 0;
	return result;
}

/* --- certificates --- */

/* A name with one letter as the common name. Nobody looks into names. */
static void put_name(struct buf *b, const char *text, char letter)
{
	char cn[] = CN("?");
	*strchr(cn, '?') = letter;
	struct element e = begin(b, 0x30);
	odd.is_loose = true;
	/* cn is an element already: its tag and length give way to those of e, which can be odd */
	unsigned char mem[200];
	struct buf inner = BUF(mem);
	put_or(&inner, text, cn);
	odd.is_loose = false;
	if (inner.n >= 2)
		buf_put(b, mem + 2, inner.n - 2);
	end(b, e);
}

static void put_rsa_key(struct buf *b, const struct spec *s)
{
	struct element info = begin(b, 0x30);
	put(b, "30(06(2a864886f70d010101)05())");
	struct element bits = begin(b, 0x03);
	buf_put_byte(b, 0);
	struct element key = begin(b, 0x30), modulus = begin(b, 0x02);
	if (s->rsa_bits == 0) {
		buf_put_byte(b, 0);
		buf_put(b, rsa_public.n, rsa_public.nlen);
	} else {
		if (s->rsa_bits % 8 == 0)
			buf_put_byte(b, 0);
		buf_put_byte(b, (unsigned char)(1 << (s->rsa_bits + 7) % 8));
		for (unsigned i = 1; i < (s->rsa_bits + 7) / 8; i++)
			buf_put_byte(b, 0x55);
	}
	end(b, modulus);
	put_or(b, s->rsa_exponent, "02(010001)");
	end(b, key);
	end(b, bits);
	end(b, info);
}

static void put_ec_key(struct buf *b, char key)
{
	unsigned char mem[48], point[BR_EC_KBUF_PUB_MAX_SIZE];
	br_ec_private_key private = ec_private(key, mem);
	br_ec_public_key public;
	assert_true(br_ec_compute_pub(br_ec_get_default(), &public, point, &private) > 0);
	struct element info = begin(b, 0x30);
	put(b, key == '3' ? "30(06(2a8648ce3d0201)06(2b81040022))"
	                  : "30(06(2a8648ce3d0201)06(2a8648ce3d030107))");
	struct element bits = begin(b, 0x03);
	buf_put_byte(b, 0);
	buf_put(b, public.q, public.qlen);
	end(b, bits);
	end(b, info);
}

/* Appends the signature of signed_bytes, as a BIT STRING. */
static void put_signature(struct buf *b, struct slice signed_bytes, char key, int hash)
{
	const br_hash_class *h = hash == 512   ? &br_sha512_vtable
	                         : hash == 384 ? &br_sha384_vtable
	                                       : &br_sha256_vtable;
	unsigned char mem[48], value[64], signature[256];
	br_hash_compat_context context;
	size_t n = sizeof signature;
	h->init(&context.vtable);
	h->update(&context.vtable, signed_bytes.p, signed_bytes.n);
	h->out(&context.vtable, value);
	if (is_rsa(key)) {
		const unsigned char *oid = hash == 512   ? BR_HASH_OID_SHA512
		                           : hash == 384 ? BR_HASH_OID_SHA384
		                                         : BR_HASH_OID_SHA256;
		assert_int_equal(br_rsa_pkcs1_sign_get_default()(oid, value, (size_t)(hash ? hash : 256) / 8,
		                         &rsa_private, signature),
		        1);
	} else {
		br_ec_private_key private = ec_private(key, mem);
		n = br_ecdsa_i31_sign_asn1(br_ec_get_default(), h, value, &private, signature);
	}
	struct element bits = begin(b, 0x03);
	buf_put_byte(b, 0);
	buf_put(b, signature, n);
	end(b, bits);
}

static void put_algorithm(struct buf *b, const char *text, char key, int hash)
{
	char rsa[] = "30(06(2a864886f70d01010b)05())", ec[] = "30(06(2a8648ce3d040302))";
	*strrchr(rsa, 'b') = hash == 384 ? 'c' : hash == 512 ? 'd' : 'b';
	ec[strlen(ec) - 3] = hash == 384 ? '3' : hash == 512 ? '4' : '2';
	put_or(b, text, is_rsa(key) ? rsa : ec);
}

/* Appends the certificate to b. */
static struct slice put_cert(struct buf *b, const struct spec *s)
{
	char named = s->named ? s->named : s->as, key = s->key ? s->key : s->as;
	char by = s->by ? s->by : 'R', signer = s->signer ? s->signer : by;
	size_t start = b->n;
	odd.count = 0;
	struct element whole = begin(b, 0x30);
	size_t tbs_at = b->n;
	struct element tbs = begin(b, 0x30);
	put_or(b, s->version, "a0(02(02))");
	put_or(b, s->serial, "02(05)");
	put_algorithm(b, s->algorithm, signer, s->hash);
	put_name(b, s->issuer, by);
	struct element dates = begin(b, 0x30);
	put_or(b, s->dates, GOOD_DATES);
	end(b, dates);
	put_name(b, s->subject, named);
	if (s->key_info != NULL)
		put(b, s->key_info);
	else if (is_rsa(key) || s->rsa_bits != 0 || s->rsa_exponent != NULL)
		put_rsa_key(b, s);
	else
		put_ec_key(b, key);
	put_or(b, s->unique, "");
	if (s->extensions == NULL) {
		struct element tagged = begin(b, 0xa3), list = begin(b, 0x30);
		put_or(b, s->ext, s->as == 'L' ? LEAF_EXT : CA_EXT);
		end(b, list);
		end(b, tagged);
	} else {
		put(b, s->extensions);
	}
	end(b, tbs);
	size_t tbs_n = b->n - tbs_at;
	put_algorithm(b, s->outer_algorithm ? s->outer_algorithm : s->algorithm, signer, s->hash);
	if (s->signature != NULL)
		put(b, s->signature);
	else
		put_signature(b, (struct slice){b->p + tbs_at, tbs_n}, signer, s->hash);
	end(b, whole);
	put_or(b, s->behind, "");
	assert_false(b->full);
	return (struct slice){b->p + start, b->n - start};
}

static unsigned char cert_mem[256 * 1024];

static struct slice make(const struct spec *s)
{
	struct buf b = BUF(cert_mem);
	return put_cert(&b, s);
}

static enum cert_error read_guarded(struct cert *c, struct slice der)
{
	unsigned char *p = guarded_copy(der.p, der.n);
	enum cert_error error = cert_read(c, (struct slice){p, der.n});
	guarded_free(p, der.n);
	return error;
}

static const char *name_of(unsigned error)
{
	static char text[40];
	static const char *const names[] = {"NONE", "TOO_MANY", "MALFORMED", "VERSION", "DUPLICATE_EXTENSION",
	        "CRITICAL_EXTENSION", "ALGORITHM", "WEAK_SIGNATURE", "KEY", "WEAK_KEY", "NAME", "NO_NAME",
	        "EXPIRED", "NOT_YET_VALID", "KEY_USAGE", "EXTENDED_KEY_USAGE", "LEAF_IS_CA",
	        "LEAF_CONSTRAINTS", "NOT_CA", "PATH_LENGTH", "CONSTRAINED", "CONSTRAINT_FORM", "SIGNATURE",
	        "UNTRUSTED", "ANCHOR_EXPIRED"};
	static_assert(sizeof names / sizeof names[0] == CERT_ERRORS - CERT_NONE, "all of them");
	sprintf(text, "%s (%d)", error >= CERT_NONE && error < CERT_ERRORS ? names[error - CERT_NONE] : "OK?",
	        error);
	return text;
}

/* --- one certificate by itself --- */

#define RSA_SIGNED(oid, parameters) .algorithm = "30(06(" oid ")" parameters ")"

static const struct {
	const char *name;
	struct spec spec;
	enum cert_error error;
} alone[] = {
        {"a leaf", {0}, CERT_OK},
        {"two faults", {.version = "", .extensions = "", .rsa_bits = 1024}, CERT_VERSION},
        {"a CA", {.as = 'A'}, CERT_OK},
        {"no extensions", {.extensions = ""}, CERT_OK},

        {"version 1", {.version = "", .extensions = ""}, CERT_VERSION},
        {"version 1, with extensions", {.version = ""}, CERT_VERSION},
        {"version 1, spelled out", {.version = "a0(02(00))"}, CERT_VERSION},
        {"version 2", {.version = "a0(02(01))"}, CERT_VERSION},
        {"version 4", {.version = "a0(02(03))"}, CERT_VERSION},
        {"version 3 in two bytes", {.version = "a0(02(0002))"}, CERT_VERSION},
        {"version 3 of 256", {.version = "a0(02(0102))"}, CERT_VERSION},
        {"version: empty", {.version = "a0()"}, CERT_VERSION},
        {"version: two", {.version = "a0(02(02)02(02))"}, CERT_MALFORMED},
        {"version: no number", {.version = "a0(01(02))"}, CERT_VERSION},
        {"no serial number", {.serial = ""}, CERT_MALFORMED},
        {"a serial number that is text", {.serial = "04(05)"}, CERT_MALFORMED},
        {"a long serial number", {.serial = "02('twenty-bytes-are-fine')"}, CERT_OK},
        {"unique identifiers", {.unique = "81(0055)82(0055)"}, CERT_OK},
        {"unique identifiers in the wrong order", {.unique = "82(0055)81(0055)"}, CERT_MALFORMED},
        {"something behind the key", {.unique = "04(00)"}, CERT_MALFORMED},
        {"something behind the extensions", {.extensions = "a3(30(" LEAF_EXT "))04(00)"}, CERT_MALFORMED},
        {"something behind the certificate", {.behind = "00"}, CERT_MALFORMED},
        {"a certificate behind the certificate", {.behind = "30()"}, CERT_MALFORMED},

        {"SHA-256 with RSA", {RSA_SIGNED(OID_SHA256_RSA, "05()")}, CERT_OK},
        {"SHA-384 with RSA", {RSA_SIGNED("2a864886f70d01010c", "05()")}, CERT_OK},
        {"SHA-512 with RSA", {RSA_SIGNED("2a864886f70d01010d", "05()")}, CERT_OK},
        {"SHA-256 with ECDSA", {RSA_SIGNED(OID_SHA256_EC, "")}, CERT_OK},
        {"SHA-384 with ECDSA", {RSA_SIGNED("2a8648ce3d040303", "")}, CERT_OK},
        {"SHA-512 with ECDSA", {RSA_SIGNED("2a8648ce3d040304", "")}, CERT_OK},
        {"MD2 with RSA", {RSA_SIGNED("2a864886f70d010102", "05()")}, CERT_ALGORITHM},
        {"MD5 with RSA", {RSA_SIGNED("2a864886f70d010104", "05()")}, CERT_WEAK_SIGNATURE},
        {"SHA-1 with RSA", {RSA_SIGNED(OID_SHA1_RSA, "05()")}, CERT_WEAK_SIGNATURE},
        {"SHA-224 with RSA", {RSA_SIGNED("2a864886f70d01010e", "05()")}, CERT_WEAK_SIGNATURE},
        {"SHA-1 with ECDSA", {RSA_SIGNED("2a8648ce3d0401", "")}, CERT_WEAK_SIGNATURE},
        {"SHA-224 with ECDSA", {RSA_SIGNED("2a8648ce3d040301", "")}, CERT_WEAK_SIGNATURE},
        {"SHA-256 with DSA", {RSA_SIGNED("608648016503040302", "")}, CERT_ALGORITHM},
        {"RSA-PSS", {RSA_SIGNED("2a864886f70d01010a", "30()")}, CERT_ALGORITHM},
        {"plain RSA", {RSA_SIGNED("2a864886f70d010101", "05()")}, CERT_ALGORITHM},
        {"SHA-3 with ECDSA", {RSA_SIGNED("608648016503040309", "")}, CERT_ALGORITHM},
        {"Ed25519", {RSA_SIGNED("2b6570", "")}, CERT_ALGORITHM},
        {"the beginning of an OID", {RSA_SIGNED("2a864886f70d0101", "05()")}, CERT_ALGORITHM},
        {"more than an OID", {RSA_SIGNED("2a864886f70d01010b00", "05()")}, CERT_ALGORITHM},
        {"an empty OID", {RSA_SIGNED("", "05()")}, CERT_ALGORITHM},
        {"an algorithm without an OID", {.algorithm = "30()"}, CERT_MALFORMED},
        {"an algorithm that is a number", {.algorithm = "02(05)"}, CERT_MALFORMED},
        {"RSA without parameters", {RSA_SIGNED(OID_SHA256_RSA, "")}, CERT_OK},
        {"RSA, NULL with something in it", {RSA_SIGNED(OID_SHA256_RSA, "05(00)")}, CERT_MALFORMED},
        {"RSA, two NULLs", {RSA_SIGNED(OID_SHA256_RSA, "05()05()")}, CERT_MALFORMED},
        {"RSA with other parameters", {RSA_SIGNED(OID_SHA256_RSA, "30()")}, CERT_MALFORMED},
        {"ECDSA with NULL", {RSA_SIGNED(OID_SHA256_EC, "05()")}, CERT_MALFORMED},
        {"another algorithm outside", {.outer_algorithm = "30(06(2a8648ce3d040303))"}, CERT_MALFORMED},
        {"NULL outside alone",
                {RSA_SIGNED(OID_SHA256_RSA, ""), .outer_algorithm = "30(06(" OID_SHA256_RSA ")05())"},
                CERT_MALFORMED},
        {"weak inside alone",
                {RSA_SIGNED(OID_SHA1_RSA, "05()"), .outer_algorithm = "30(06(" OID_SHA256_RSA ")05())"},
                CERT_MALFORMED},
        {"a signature of 7 bits", {.signature = "03(01 80)"}, CERT_MALFORMED},
        {"a signature without its count of bits", {.signature = "03()"}, CERT_MALFORMED},
        {"an empty signature", {.signature = "03(00)"}, CERT_OK}, /* and wrong, but that is seen later */
        {"a signature that is an OCTET STRING", {.signature = "04(0055)"}, CERT_MALFORMED},
        {"something behind the signature", {.signature = "03(0055)04(00)"}, CERT_MALFORMED},

        {"RSA 2048", {.rsa_bits = 2048}, CERT_OK},
        {"RSA 2040", {.rsa_bits = 2040}, CERT_WEAK_KEY},
        {"RSA 2047", {.rsa_bits = 2047}, CERT_WEAK_KEY},
        {"RSA 1024", {.rsa_bits = 1024}, CERT_WEAK_KEY},
        {"RSA 2049", {.rsa_bits = 2049}, CERT_OK},
        {"RSA 4096", {.rsa_bits = 4096}, CERT_OK},
        {"RSA 4097", {.rsa_bits = 4097}, CERT_KEY},
        {"RSA 16384", {.rsa_bits = 16384}, CERT_KEY},
        {"RSA, exponent 3", {.rsa_bits = 2048, .rsa_exponent = "02(03)"}, CERT_OK},
        {"RSA, exponent 2^32-1", {.rsa_bits = 2048, .rsa_exponent = "02(00ffffffff)"}, CERT_OK},
        {"RSA, exponent 2^32+1", {.rsa_bits = 2048, .rsa_exponent = "02(0100000001)"}, CERT_KEY},
        {"RSA, exponent 1", {.rsa_bits = 2048, .rsa_exponent = "02(01)"}, CERT_KEY},
        {"RSA, exponent 65536", {.rsa_bits = 2048, .rsa_exponent = "02(010000)"}, CERT_KEY},
        {"RSA, exponent 0", {.rsa_bits = 2048, .rsa_exponent = "02(00)"}, CERT_MALFORMED},
        {"RSA, exponent -3", {.rsa_bits = 2048, .rsa_exponent = "02(fd)"}, CERT_MALFORMED},
        {"RSA, exponent missing", {.rsa_bits = 2048, .rsa_exponent = ""}, CERT_MALFORMED},
        {"RSA, exponent empty", {.rsa_bits = 2048, .rsa_exponent = "02()"}, CERT_MALFORMED},
        {"RSA, exponent with a needless zero", {.rsa_bits = 2048, .rsa_exponent = "02(0003)"},
                CERT_MALFORMED},
        {"RSA, something behind the exponent", {.rsa_bits = 2048, .rsa_exponent = "02(010001)02(03)"},
                CERT_MALFORMED},
        {"RSA, a negative modulus",
                {.key_info = "30(30(06(2a864886f70d010101)05())03(00 30(02('"
                             "\xff"
                             "')02(03))))"},
                CERT_MALFORMED},
        {"RSA, something behind the key",
                {.key_info = "30(30(06(2a864886f70d010101)05())03(00 30(02(03)02(03))05()))"},
                CERT_MALFORMED},
        {"RSA, unused bits", {.key_info = "30(30(06(2a864886f70d010101)05())03(04 30(02(03)02(03))))"},
                CERT_MALFORMED},
        {"RSA with parameters", {.key_info = "30(30(06(2a864886f70d010101)30())03(00 30(02(03)02(03))))"},
                CERT_MALFORMED},
        {"P-384", {.key = '3'}, CERT_OK},
        {"RSA, no modulus", {.key_info = "30(30(06(2a864886f70d010101)05())03(00 30(02(00)02(03))))"},
                CERT_WEAK_KEY},
        {"P-256 for ECDH alone",
                {.key_info = "30(30(06(2b8104010c)06(2a8648ce3d030107))03(00 " P256_POINT "))"}, CERT_KEY},
        {"P-521", {.key_info = "30(30(06(2a8648ce3d0201)06(2b81040023))03(00 " P256_POINT "))"}, CERT_KEY},
        {"secp256k1", {.key_info = "30(30(06(2a8648ce3d0201)06(2b8104000a))03(00 " P256_POINT "))"},
                CERT_KEY},
        {"P-256, by hand",
                {.key_info = "30(30(06(2a8648ce3d0201)06(2a8648ce3d030107))03(00 " P256_POINT "))"}, CERT_OK},
        {"P-256, one byte too long",
                {.key_info = "30(30(06(2a8648ce3d0201)06(2a8648ce3d030107))03(00 " P256_POINT " 00))"},
                CERT_KEY},
        {"P-256, compressed",
                {.key_info = "30(30(06(2a8648ce3d0201)06(2a8648ce3d030107))"
                             "03(00 02 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx'))"},
                CERT_KEY},
        {"P-256, hybrid",
                {.key_info = "30(30(06(2a8648ce3d0201)06(2a8648ce3d030107))03(00 06 "
                             "'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy'))"},
                CERT_MALFORMED},
        {"P-256, its point missing", {.key_info = "30(30(06(2a8648ce3d0201)06(2a8648ce3d030107))03(00))"},
                CERT_KEY},
        {"P-384's name with P-256's point",
                {.key_info = "30(30(06(2a8648ce3d0201)06(2b81040022))03(00 " P256_POINT "))"}, CERT_KEY},
        {"a curve spelled out", {.key_info = "30(30(06(2a8648ce3d0201)30())03(00 " P256_POINT "))"},
                CERT_KEY},
        {"no curve", {.key_info = "30(30(06(2a8648ce3d0201))03(00 " P256_POINT "))"}, CERT_KEY},
        {"something behind the curve",
                {.key_info = "30(30(06(2a8648ce3d0201)06(2a8648ce3d030107)05())03(00 " P256_POINT "))"},
                CERT_KEY},
        {"Ed25519's key", {.key_info = "30(30(06(2b6570))03(00 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx'))"},
                CERT_KEY},
        {"no key", {.key_info = "30()"}, CERT_MALFORMED},
        {"a key without an algorithm", {.key_info = "30(30()03(00 00))"}, CERT_MALFORMED},
        {"something behind the key's bits",
                {.key_info = "30(30(06(2a8648ce3d0201)06(2a8648ce3d030107))03(00 " P256_POINT ")05())"},
                CERT_MALFORMED},

        {"two lists of extensions", {.extensions = "a3(30(" LEAF_EXT ")30(" LEAF_EXT "))"}, CERT_MALFORMED},
        {"the extensions' list is empty", {.ext = ""}, CERT_MALFORMED},
        {"an extension without a value", {.ext = NAME "30(06(2a0304))"}, CERT_MALFORMED},
        {"an extension with two values", {.ext = NAME "30(06(2a0304)04(0500)04(0500))"}, CERT_MALFORMED},
        {"an extension without an OID", {.ext = NAME "30(04(0500))"}, CERT_MALFORMED},
        {"something that is no extension", {.ext = NAME "04(0500)"}, CERT_MALFORMED},
        {"an unknown extension", {.ext = NAME OTHER("")}, CERT_OK},
        {"an unknown critical extension", {.ext = NAME OTHER(CRITICAL)}, CERT_CRITICAL_EXTENSION},
        {"an unknown extension, FALSE spelled out", {.ext = NAME OTHER("01(00)")}, CERT_OK},
        {"critical as no DER has it", {.ext = NAME OTHER("01(01)")}, CERT_MALFORMED},
        {"critical in two bytes", {.ext = NAME OTHER("01(ffff)")}, CERT_MALFORMED},
        {"critical without a byte", {.ext = NAME OTHER("01()")}, CERT_MALFORMED},
        {"critical policy constraints", {.ext = NAME EXT("24", CRITICAL, "30()")}, CERT_CRITICAL_EXTENSION},
        {"critical policies", {.ext = NAME EXT("20", CRITICAL, "30(30(06(2a0304)))")}, CERT_OK},
        {"a critical extension 17 of another arc", {.ext = NAME "30(06(2a0311)" CRITICAL "04(0500))"},
                CERT_CRITICAL_EXTENSION},
        {"a critical extension below subjectAltName", {.ext = NAME "30(06(551d1101)" CRITICAL "04(0500))"},
                CERT_CRITICAL_EXTENSION},
        {"an unknown extension twice", {.ext = OTHER("") NAME OTHER("")}, CERT_DUPLICATE_EXTENSION},
        {"two subjectAltNames", {.ext = NAME NAME}, CERT_DUPLICATE_EXTENSION},
        {"two key usages", {.ext = NAME KU("0780") KU("0204")}, CERT_DUPLICATE_EXTENSION},
        {"two basicConstraints", {.ext = BC("") NAME CA}, CERT_DUPLICATE_EXTENSION},

        {"basicConstraints: FALSE spelled out", {.ext = NAME BC("01(00)")}, CERT_OK},
        {"basicConstraints: TRUE as no DER has it", {.ext = NAME BC("01(01)")}, CERT_MALFORMED},
        {"basicConstraints: no SEQUENCE", {.ext = NAME EXT("13", "", "01(ff)")}, CERT_MALFORMED},
        {"basicConstraints: something behind", {.ext = NAME EXT("13", "", "30()05()")}, CERT_MALFORMED},
        {"pathLen without CA", {.ext = NAME BC("02(00)")}, CERT_MALFORMED},
        {"pathLen with FALSE", {.ext = NAME BC("01(00)02(00)")}, CERT_MALFORMED},
        {"pathLen below zero", {.ext = NAME BC("01(ff)02(ff)")}, CERT_MALFORMED},
        {"pathLen empty", {.ext = NAME BC("01(ff)02()")}, CERT_MALFORMED},
        {"pathLen with a needless zero", {.ext = NAME BC("01(ff)02(0001)")}, CERT_MALFORMED},
        {"pathLen twice", {.ext = NAME BC("01(ff)02(01)02(01)")}, CERT_MALFORMED},
        {"pathLen", {.ext = NAME BC("01(ff)02(01)")}, CERT_OK},
        {"pathLen 128", {.ext = NAME BC("01(ff)02(0080)")}, CERT_OK},

        {"key usage: 9 bits", {.ext = NAME KU("07 80 80")}, CERT_OK},
        {"key usage: none", {.ext = NAME KU("07 00")}, CERT_MALFORMED},
        {"key usage: empty", {.ext = NAME KU("00")}, CERT_MALFORMED},
        {"key usage: no count", {.ext = NAME KU("")}, CERT_MALFORMED},
        {"key usage: 17 bits", {.ext = NAME KU("07 80 00 80")}, CERT_MALFORMED},
        {"key usage: 8 unused bits", {.ext = NAME KU("08 80 00")}, CERT_MALFORMED},
        {"key usage: unused bits that are set", {.ext = NAME KU("07 c0")}, CERT_MALFORMED},
        {"key usage: no BIT STRING", {.ext = NAME EXT("0f", "", "04(07 80)")}, CERT_MALFORMED},
        {"key usage: something behind", {.ext = NAME EXT("0f", "", "03(07 80)05()")}, CERT_MALFORMED},
        {"extended key usage: empty", {.ext = NAME EKU("")}, CERT_MALFORMED},
        {"extended key usage: no OID", {.ext = NAME EKU(SERVER_AUTH "02(01)")}, CERT_MALFORMED},
        {"extended key usage: no SEQUENCE", {.ext = NAME EXT("25", "", SERVER_AUTH)}, CERT_MALFORMED},
        {"extended key usage: something behind", {.ext = NAME EXT("25", "", "30(" SERVER_AUTH ")05()")},
                CERT_MALFORMED},

        {"subjectAltName: empty", {.ext = SAN("")}, CERT_MALFORMED},
        {"subjectAltName: an empty name", {.ext = SAN(DNS("broker.test") DNS(""))}, CERT_MALFORMED},
        {"subjectAltName: an address of 3 bytes", {.ext = SAN(IP("c00002"))}, CERT_MALFORMED},
        {"subjectAltName: an address of 5 bytes", {.ext = SAN(IP("c000020700"))}, CERT_MALFORMED},
        {"subjectAltName: an address with a mask", {.ext = SAN(IP("c0000207ffffffff"))}, CERT_MALFORMED},
        {"subjectAltName: an empty address", {.ext = SAN(IP(""))}, CERT_MALFORMED},
        {"subjectAltName: an address of 17 bytes", {.ext = SAN("87('12345678901234567')")}, CERT_MALFORMED},
        {"subjectAltName: other forms", {.ext = SAN("81('a@b.c')86('urn:x')a4(30())a0(06(2a)) 88(2a)")},
                CERT_OK},
        {"subjectAltName: no SEQUENCE", {.ext = EXT("11", "", DNS("broker.test"))}, CERT_MALFORMED},
        {"subjectAltName: something behind", {.ext = EXT("11", "", "30(" DNS("broker.test") ")05()")},
                CERT_MALFORMED},

        {"constraints", {.ext = CA NC(PERMITTED(ONLY(DNS("a.b"))) EXCLUDED(ONLY(IP("0a000000ff000000"))))},
                CERT_OK},
        {"constraints: none", {.ext = CA NC("")}, CERT_MALFORMED},
        {"constraints: permitted is empty", {.ext = CA NC(PERMITTED(""))}, CERT_MALFORMED},
        {"constraints: excluded is empty", {.ext = CA NC(EXCLUDED(""))}, CERT_MALFORMED},
        {"constraints: a third kind", {.ext = CA NC("a2(" ONLY(DNS("a.b")) ")")}, CERT_MALFORMED},
        {"constraints: no subtree", {.ext = CA NC(PERMITTED(DNS("a.b")))}, CERT_MALFORMED},
        {"constraints: an empty subtree", {.ext = CA NC(PERMITTED(ONLY("")))}, CERT_MALFORMED},
        {"constraints: something behind",
                {.ext = CA EXT("1e", "", "30(" PERMITTED(ONLY(DNS("a.b"))) ")05()")}, CERT_MALFORMED},
        {"constraints: every DNS name", {.ext = CA NC(EXCLUDED(ONLY(DNS(""))))}, CERT_OK},
        {"constraints: a directory name", {.ext = CA NC(PERMITTED(ONLY("a4(30())")))}, CERT_CONSTRAINT_FORM},
        {"constraints: mail", {.ext = CA NC(EXCLUDED(ONLY("81('a.b')")))}, CERT_CONSTRAINT_FORM},
        {"constraints: a URI", {.ext = CA NC(PERMITTED(ONLY("86('a.b')")))}, CERT_CONSTRAINT_FORM},
        {"constraints: an unknown one behind a known one",
                {.ext = CA NC(PERMITTED(ONLY(DNS("a.b")) ONLY("86('a.b')")))}, CERT_CONSTRAINT_FORM},
        {"constraints: critical or not", {.ext = CA EXT("1e", "", "30(" PERMITTED(ONLY("86('a.b')")) ")")},
                CERT_CONSTRAINT_FORM},
        {"constraints: a minimum", {.ext = CA NC(PERMITTED("30(82('a.b')80(01))"))}, CERT_CONSTRAINT_FORM},
        {"constraints: a maximum", {.ext = CA NC(EXCLUDED("30(82('a.b')81(01))"))}, CERT_CONSTRAINT_FORM},
        {"constraints: an address without a mask", {.ext = CA NC(PERMITTED(ONLY(IP("0a000000"))))},
                CERT_CONSTRAINT_FORM},
        {"constraints: an address of 9 bytes", {.ext = CA NC(PERMITTED(ONLY(IP("0a000000ff00000000"))))},
                CERT_CONSTRAINT_FORM},
        {"constraints: a wildcard", {.ext = CA NC(EXCLUDED(ONLY(DNS("*.a.b"))))}, CERT_CONSTRAINT_FORM},
        {"constraints: a dot at the end", {.ext = CA NC(EXCLUDED(ONLY(DNS("a.b."))))}, CERT_CONSTRAINT_FORM},
        {"constraints: an empty label", {.ext = CA NC(EXCLUDED(ONLY(DNS("a..b"))))}, CERT_CONSTRAINT_FORM},
        {"constraints: two dots at first", {.ext = CA NC(EXCLUDED(ONLY(DNS("..b"))))}, CERT_CONSTRAINT_FORM},
        {"constraints: a dot", {.ext = CA NC(EXCLUDED(ONLY(DNS("."))))}, CERT_CONSTRAINT_FORM},
        {"constraints: a NUL", {.ext = CA NC(EXCLUDED(ONLY("82('a' 00 '.b')")))}, CERT_CONSTRAINT_FORM},
        {"constraints: a space", {.ext = CA NC(EXCLUDED(ONLY(DNS(" a.b"))))}, CERT_CONSTRAINT_FORM},
        {"constraints: a dot at first", {.ext = CA NC(EXCLUDED(ONLY(DNS(".a-b.c_1"))))}, CERT_OK},
};

static void one_by_one(void **state)
{
	struct cert c;
	(void)state;
	for (size_t i = 0; i < sizeof alone / sizeof alone[0]; i++) {
		struct spec s = alone[i].spec;
		if (s.as == 0)
			s.as = 'L';
		enum cert_error error = read_guarded(&c, make(&s));
		if (error != alone[i].error)
			FAULT("%s: %s", alone[i].name, name_of(error));
		assert_int_equal(error != CERT_OK && error != CERT_MALFORMED,
		        (c.errors >> (error ? error - CERT_NONE : 0) & 1) != 0 && error != CERT_MALFORMED);
	}
}

/* What is read of a certificate that is as it should be. */
static void what_is_read(void **state)
{
	struct cert c;
	(void)state;
	struct slice der = make(&(struct spec){.as = 'A',
	        .by = 'B',
	        .ext = BC("01(ff)02(03)") KU("0106") EKU(CLIENT_AUTH) NAME NC(PERMITTED(ONLY(DNS("x"))))});
	assert_int_equal(cert_read(&c, der), CERT_OK);
	assert_true(c.tbs.p == der.p + 4);
	assert_slice(cert_name_text(c.self.subject), "A");
	assert_slice(cert_name_text(c.issuer), "B");
	assert_true(c.self.key.key_type == BR_KEYTYPE_EC && c.self.key.key.ec.curve == BR_EC_secp256r1 &&
	            c.self.key.key.ec.qlen == 65);
	assert_true(c.self.ca && c.self.path_length == 3 && c.key_usage == 0x0600 && !c.server_auth);
	assert_slice(c.alt_names, "\x82\x0b"
	                          "broker.test");
	assert_slice(c.self.constraints, "\xa0\x05\x30\x03\x82\x01x");
	assert_true(c.self.not_before_s == 1767225600 && c.self.not_after_s == 2082758400);

	assert_int_equal(
	        cert_read(&c, make(&(struct spec){.as = 'L', .key = '2', .ext = OTHER("")})), CERT_OK);
	assert_true(!c.self.ca && c.self.path_length == -1 && c.key_usage == 0xffff && c.server_auth);
	assert_true(c.alt_names.p == NULL && c.self.constraints.p == NULL);
	assert_true(c.self.key.key_type == BR_KEYTYPE_RSA && c.self.key.key.rsa.nlen == 256 &&
	            c.self.key.key.rsa.elen == 3);
	assert_memory_equal(c.self.key.key.rsa.n, rsa_public.n, 256);
	assert_memory_equal(c.self.key.key.rsa.e, "\1\0\1", 3);
}

/* --- DER, read --- */

static void elements(void **state)
{
	static const struct {
		const char *name, *der; /* in hex */
		int tag;
		size_t n, rest;
	} cases[] = {
	        {"empty", "04 00", 4, 0, 0},
	        {"one byte", "04 01 55", 4, 1, 0},
	        {"more behind", "04 01 55 66", 4, 1, 1},
	        {"nothing", "", -1, 0, 0},
	        {"a tag alone", "04", -1, 0, 0},
	        {"no content", "04 01", -1, 0, 0},
	        {"too little content", "04 02 55", -1, 0, 0},
	        {"another's content", "04 7f 55 04 00", -1, 0, 0},
	        {"no digits", "04 81", -1, 0, 0},
	        {"too few digits", "04 82 01", -1, 0, 0},
	        {"127 in the long form", "04 81 7f 55", -1, 0, 0},
	        {"indefinite", "24 80 04 01 55 00 00", -1, 0, 0},
	        {"indefinite, primitive", "04 80 00 00", -1, 0, 0},
	        {"a high tag", "1f 01 55", -1, 0, 0},
	        {"a high tag of a context", "bf 01 55", -1, 0, 0},
	        {"a length that wraps round", "04 89 01 00 00 00 00 00 00 00 01 55", -1, 0, 0},
	        {"a length below zero", "04 84 ff ff ff ff 55", -1, 0, 0},
	        {"a reserved length", "04 ff 55", -1, 0, 0},
	};
	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		unsigned char mem[100];
		struct buf b = BUF(mem);
		put(&b, cases[i].der);
		unsigned char *p = guarded_copy(mem, b.n);
		struct slice in = {p, b.n}, content;
		int tag = der_next(&in, &content);
		if (tag != cases[i].tag || content.n != cases[i].n)
			FAULT("%s: %d, %zu", cases[i].name, tag, content.n);
		else if (tag < 0 ? in.n == 0 || take(&in, 4).p != NULL || in.n == 0
		                 : in.n != cases[i].rest || in.p != p + b.n - in.n ||
		                           content.p + content.n != in.p)
			FAULT("%s: the rest", cases[i].name);
		guarded_free(p, b.n);
	}
	/* Lengths of two and three digits, and each with one byte too few */
	static const size_t sizes[] = {128, 255, 256, 65535, 65536, UNIT_MOST};
	static unsigned char large[UNIT_MOST + 5];
	large[0] = 4;
	for (size_t i = 0; i < 2 * sizeof sizes / sizeof sizes[0]; i++) {
		size_t n = sizes[i / 2], digits = n < 256 ? 1 : n < 65536 ? 2 : 3;
		large[1] = (unsigned char)(0x80 + digits);
		for (size_t d = 0; d < digits; d++)
			large[2 + d] = (unsigned char)(n >> 8 * (digits - 1 - d));
		struct slice in = {large, 2 + digits + n - i % 2}, content;
		if (der_next(&in, &content) != (i % 2 ? -1 : 4) ||
		        (i % 2 == 0 && (content.n != n || in.n != 0)))
			FAULT("%zu bytes", n);
	}
}

/* What the strictness is tried on: all that is looked into. */
static const struct spec full = {.as = 'L',
        .unique = "81(0055)82(0055)",
        .ext = SAN(DNS("broker.test") IP("c0000207")) KU("0780") EKU(SERVER_AUTH) BC("01(ff)02(01)")
                NC(PERMITTED(ONLY(DNS("a.b"))) EXCLUDED(ONLY(IP("0a000000ff000000"))))};

static void only_der(void **state)
{
	struct cert c;
	size_t count, tried = 0;
	(void)state;
	odd.at = sizeof odd.loose;
	assert_int_equal(cert_read(&c, make(&full)), CERT_OK);
	count = odd.count;
	for (odd.at = 0; odd.at < count; odd.at++)
		for (odd.how = LONG_FORM; odd.how < ODDS; odd.how++) {
			struct slice der = make(&full);
			if (odd.loose[odd.at])
				continue;
			tried++;
			if (read_guarded(&c, der) != CERT_OK)
				continue;
			/* A name of another kind is none of ours. */
			cert_read(&c, der);
			if (odd.how != OTHER_TAG || (cert_matches(c.alt_names, "broker.test") &&
			                                    cert_matches(c.alt_names, "192.0.2.7")))
				FAULT("element %zu of %zu, oddity %d", odd.at, count, odd.how);
		}
	odd.how = RIGHT;
	assert_true(tried > 300);
}

/* Cut at any byte: malformed. A bit turned: no crash, and never a slice that lies outside. */
static void cut_and_turned(void **state)
{
	static unsigned char der[2048];
	struct cert c;
	struct slice whole = make(&full);
	(void)state;
	memcpy(der, whole.p, whole.n);
	for (size_t n = 0; n < whole.n; n++)
		if (read_guarded(&c, (struct slice){der, n}) != CERT_MALFORMED)
			fail_msg("%zu bytes of %zu: %s", n, whole.n, name_of(c.error));
	for (size_t i = 0; i < 8 * whole.n; i++) {
		der[i / 8] ^= (unsigned char)(1 << i % 8);
		unsigned char *p = guarded_copy(der, whole.n), mem[4096];
		struct buf b = BUF(mem);
		struct cert_anchor anchor;
		if (cert_read(&c, (struct slice){p, whole.n}) != CERT_MALFORMED) {
			cert_describe(&b, &c);
			assert_false(b.full);
			cert_matches(c.alt_names, "192.0.2.7");
			names_allowed(c.self.constraints, c.alt_names);
		}
		cert_read_anchor(&anchor, (struct slice){p, whole.n});
		guarded_free(p, whole.n);
		der[i / 8] ^= (unsigned char)(1 << i % 8);
	}
}

/* An attacker's certificate must not cost much before anything of it is known to be good. */
static void many_extensions(void **state)
{
	static char text[64 * 1024];
	struct cert c;
	size_t n = 0;
	(void)state;
	struct spec s = {.as = 'L', .ext = text};
	for (int i = 0; i < 1000; i++) {
		n += (size_t)sprintf(text + n, "3006 0602%02x%02x 0400", i >> 7, i & 127);
		if (i < 50 || i > 990)
			assert_int_equal(
			        cert_read(&c, make(&s)), i < CERT_EXTENSIONS ? CERT_OK : CERT_MALFORMED);
	}
}

/* --- dates --- */

static void dates(void **state)
{
	static const struct {
		const char *text;
		int64_t time_s; /* -1: refused */
	} cases[] = {
	        {"17('700101000000Z')", 0},
	        {"17('500101000000Z')", INT64_C(-631152000)},
	        {"17('491231235959Z')", INT64_C(2524607999)},
	        {"17('991231235959Z')", 946684799},
	        {"17('000101000000Z')", 946684800},
	        {"17('260228000000Z')", 1772236800},
	        {"17('280229000000Z')", 1835395200},
	        {"17('000229120000Z')", 951825600},
	        {"18('20300101000000Z')", 1893456000},
	        {"18('20500101000000Z')", INT64_C(2524608000)},
	        {"18('21000228235959Z')", INT64_C(4107542399)},
	        {"18('21000301000000Z')", INT64_C(4107542400)},
	        {"18('24000229000000Z')", INT64_C(13574563200)},
	        {"18('99991231235959Z')", INT64_C(253402300799)},
	        {"18('00010101000000Z')", INT64_C(-62135596800)},
	        {"17('260630235960Z')", 1782864000}, /* a leap second is the next minute's first */
	        {"18('00000101000000Z')", -1},
	        {"17('260229000000Z')", -1},
	        {"18('21000229000000Z')", -1},
	        {"17('280230000000Z')", -1},
	        {"17('260431000000Z')", -1},
	        {"17('260132000000Z')", -1},
	        {"17('260100000000Z')", -1},
	        {"17('260001000000Z')", -1},
	        {"17('261301000000Z')", -1},
	        {"17('260101240000Z')", -1},
	        {"17('260101006000Z')", -1},
	        {"17('260101000061Z')", -1},
	        {"17('2601010000Z')", -1},
	        {"17('260101000000')", -1},
	        {"17('260101000000z')", -1},
	        {"17('260101000000Z ')", -1},
	        {"17('260101000000ZZ')", -1},
	        {"17('260101000000+0000')", -1},
	        {"17('20260101000000Z')", -1},
	        {"17('2601 1000000Z')", -1},
	        {"17('-60101000000Z')", -1},
	        {"17('26010100000\xb2Z')", -1},
	        {"17()", -1},
	        {"18('260101000000Z')", -1},
	        {"18('20260101000000')", -1},
	        {"18('20260101000000.5Z')", -1},
	        {"18('20260101000000,5Z')", -1},
	        {"18('202601010000Z')", -1},
	        {"18('20260101000000+0100')", -1},
	        {"19('20260101000000Z')", -1},
	        {"04('20260101000000Z')", -1},
	        {"04('260101000000Z')", -1},
	};
	struct cert c;
	char text[200];
	(void)state;
	for (size_t i = 0; i < 2 * sizeof cases / sizeof cases[0]; i++) {
		bool first = i % 2;
		const char *date = cases[i / 2].text, *good = "17('300101000000Z')";
		sprintf(text, "%s%s", first ? date : good, first ? good : date);
		enum cert_error error = read_guarded(&c, make(&(struct spec){.as = 'L', .dates = text}));
		int64_t got = error ? -1 : first ? c.self.not_before_s : c.self.not_after_s;
		if (got != cases[i / 2].time_s || (error != CERT_OK && error != CERT_MALFORMED))
			FAULT("%s: %lld", date, (long long)got);
	}
	static const char *const not_two[] = {
	        "", "17('300101000000Z')", "17('300101000000Z')17('300101000000Z')17('300101000000Z')"};
	for (size_t i = 0; i < 3; i++)
		assert_int_equal(read_guarded(&c, make(&(struct spec){.as = 'L', .dates = not_two[i]})),
		        CERT_MALFORMED);
}

/* Every day has its number, up to the year 9999. */
static void all_days(void **state)
{
	static const int lengths[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
	int64_t expected = -719162; /* 0001-01-01 */
	(void)state;
	for (int year = 1; year <= 9999; year++) {
		bool leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
		for (int month = 1; month <= 12; month++) {
			for (int day = 1; day <= lengths[month - 1] + (month == 2 && leap); day++)
				if (days_to(year, month, day) != expected++)
					fail_msg("%d-%d-%d", year, month, day);
		}
	}
}

/* --- names --- */

static struct slice guarded_der(const char *text)
{
	static unsigned char mem[2048];
	struct buf b = BUF(mem);
	odd.count = 0;
	put(&b, text);
	return (struct slice){guarded_copy(b.p, b.n), b.n};
}

static void names(void **state)
{
	static const char long_name[] =
	        "a123456789b123456789c123456789d123456789e123456789f123456789.broker.test";
	static const struct {
		const char *alt_names, *host;
		bool match;
	} cases[] = {
	        {DNS("broker.test"), "broker.test", true},
	        {DNS("BROKER.test"), "broker.TEST", true},
	        {DNS("a.test") DNS("broker.test"), "broker.test", true},
	        {DNS("a.test") DNS("broker.test"), "b.test", false},
	        {DNS("broker.test"), "broker.tes", false},
	        {DNS("broker.test"), "broker.testt", false},
	        {DNS("broker.test"), "a.broker.test", false},
	        {DNS("a.broker.test"), "broker.test", false},
	        {DNS("broker"), "broker", true},
	        {DNS("broker[test"), "broker{test", false}, /* only letters have cases */
	        {DNS("broker@test"), "broker`test", false},
	        {DNS("broker.test"), "", false},
	        {DNS("broker.test"), ".", false},
	        {DNS("broker.test"), ".broker.test", false},
	        {DNS(".broker.test"), "broker.test", false},
	        {DNS(".broker.test"), "a.broker.test", false},
	        {DNS("."), ".", false},
	        {DNS(""), "", false},
	        {DNS(""), ".", false},
	        {"82('broker.test' 00)", "broker.test", false},
	        {"82('broker.test' 00 '.evil.test')", "broker.test", false},
	        {"82('broker' 00 'test')", "broker.test", false},
	        {DNS("broker.test "), "broker.test", false},
	        {"82('br' c3b6 'ker.test')", "br\xc3\xb6ker.test", true},
	        {DNS("broker.test"), "broker.test.", true},
	        {DNS("broker.test"), "broker.test..", false},
	        {DNS("broker.test."), "broker.test", false},
	        {DNS("broker.test."), "broker.test.", false},
	        {DNS("*.broker.test"), "a.broker.test", true},
	        {DNS("*.Broker.Test"), "A.bROKER.tEST", true},
	        {DNS("*.broker.test"), "xn--a.broker.test", true},
	        {DNS("*.broker.test"), long_name, true},
	        {DNS("*.broker.test"), "a.broker.test.", true},
	        {DNS("*.broker.test"), "broker.test", false},
	        {DNS("*.broker.test"), ".broker.test", false},
	        {DNS("*.broker.test"), "a.b.broker.test", false},
	        {DNS("*.broker.test"), "a.broker.tess", false},
	        {DNS("*.broker.test"), "abroker.test", false},
	        {DNS("*.broker.test"), "*.broker.test", true},
	        {DNS("*broker.test"), "broker.test", false},
	        {DNS("*broker.test"), "abroker.test", false},
	        {DNS("a*.broker.test"), "ab.broker.test", false},
	        {DNS("*a.broker.test"), "ba.broker.test", false},
	        {DNS("a*c.broker.test"), "abc.broker.test", false},
	        {DNS("a.*.test"), "a.broker.test", false},
	        {DNS("*.*.test"), "a.broker.test", false},
	        {DNS("**.broker.test"), "a.broker.test", false},
	        {DNS("*.test"), "broker.test", false},
	        {DNS("*.test."), "broker.test", false},
	        {DNS("*.test."), "broker.test.", false},
	        {DNS("*..test"), "broker.x.test", false},
	        {DNS("*."), "broker.", false},
	        {DNS("*."), "broker", false},
	        {DNS("*"), "broker", false},
	        {DNS("*"), "broker.test", false},
	        {"81('broker.test')86('broker.test')88('broker.test')a2('broker.test')16('broker.test')",
	                "broker.test", false},
	        {IP("c0000207"), "192.0.2.7", true},
	        {DNS("broker.test") IP("c0000206") IP("c0000207"), "192.0.2.7", true},
	        {IP("c0000207"), "192.0.2.8", false},
	        {DNS("192.0.2.7"), "192.0.2.7", false},
	        {DNS("192.0.2.7"), "192.0.2.7.", false},
	        {DNS("*.0.2.7"), "192.0.2.7", false},
	        {DNS("*.0.2.7"), "192.0.2.7.", false},
	        {"82(c0000207)", "192.0.2.7", false},
	        {"87('192.0.2.7')", "192.0.2.7", false},
	        {IP("20010db8 00000000 00000000 00000001"), "2001:db8::1", true},
	        {IP("20010db8 00000000 00000000 00000001"), "2001:DB8:0:0:0::1", true},
	        {IP("20010db8 00000000 00000000 00000001"), "[2001:db8::1]", true},
	        {IP("20010db8 00000000 00000000 00000001"), "2001:db8::2", false},
	        {IP("fe800000 00000000 00000000 00000001"), "fe80::1%2", true},
	        {DNS("2001:db8::1"), "2001:db8::1", false},
	        {DNS("[2001:db8::1]"), "[2001:db8::1]", false},
	        {IP("20010db8"), "2001:db8::", false},
	        {IP("00000000 00000000 0000ffff c0000207"), "::ffff:192.0.2.7", true},
	        {IP("00000000 00000000 0000ffff c0000207"), "192.0.2.7", false},
	        {IP("c0000207"), "::ffff:192.0.2.7", false},
	        {"", "broker.test", false},
	};
	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		struct slice s = guarded_der(cases[i].alt_names);
		if (cert_matches(s, cases[i].host) != cases[i].match)
			FAULT("%s for %s", cases[i].alt_names, cases[i].host);
		guarded_free((unsigned char *)(uintptr_t)s.p, s.n);
	}
}

static void constraints(void **state)
{
#define YES(subtrees) PERMITTED(subtrees)
#define NO(subtrees)  EXCLUDED(subtrees)
#define D(name)       ONLY(DNS(name))
#define I(hex)        ONLY(IP(hex))
#define TEN           "0a000000ff000000"
	static const struct {
		const char *limits, *alt_names;
		bool allowed;
	} cases[] = {
	        {YES(D("a.test")), DNS("a.test"), true},
	        {YES(D("A.test")), DNS("a.TEST"), true},
	        {YES(D("a.test")), DNS("b.a.test"), true},
	        {YES(D("a.test")), DNS("c.b.a.test"), true},
	        {YES(D("a.test")), DNS("aa.test"), false},
	        {YES(D("a.test")), DNS("a.test.b"), false},
	        {YES(D("a.test")), DNS("test"), false},
	        {YES(D("a.test")), DNS("a.test") DNS("b.test"), false},
	        {YES(D("a.test")), DNS("b.test") DNS("a.test"), false},
	        {YES(D("a.test") D("b.test")), DNS("b.test") DNS("a.test"), true},
	        {YES(D("a.test")) YES(D("b.test")), DNS("b.test") DNS("a.test"), true},
	        {YES(D("a.test")), DNS("*.a.test"), true},
	        {YES(D("a.test")), DNS("*.test"), false},
	        {YES(D("b.a.test")), DNS("*.a.test"), false},
	        {YES(D(".a.test")), DNS("b.a.test"), true},
	        {YES(D(".a.test")), DNS("*.a.test"), true},
	        {YES(D(".a.test")), DNS("a.test"), false},
	        {YES(D(".a.test")), DNS("ba.test"), false},
	        {YES(D("")), DNS("a.test"), true},
	        {YES(D("a.test")), IP("0a000001"), true}, /* of another form: not limited */
	        {YES(D("a.test")), "81('a@b.test')", true},
	        {NO(D("a.test")), DNS("b.test"), true},
	        {NO(D("a.test")), DNS("a.test"), false},
	        {NO(D("a.test")), DNS("b.a.test"), false},
	        {NO(D("a.test")), DNS("ba.test"), true},
	        {NO(D("a.test")), DNS("test"), true},
	        {NO(D("a.test")), DNS("*.a.test"), false},
	        {NO(D("b.a.test")), DNS("*.a.test"), false},
	        {NO(D("B.a.test")), DNS("*.A.test"), false},
	        {NO(D("c.b.a.test")), DNS("*.a.test"), true},
	        {NO(D("b.a.test")), DNS("a.test"), true},
	        {NO(D(".a.test")), DNS("b.a.test"), false},
	        {NO(D(".a.test")), DNS("*.a.test"), false},
	        {NO(D(".a.test")), DNS("a.test"), true},
	        {NO(D("test")), DNS("*.test"), false},
	        {NO(D("")), DNS("a.test"), false},
	        {NO(D("")), IP("0a000001"), true},
	        {NO(D("b.test")), DNS("a.test") DNS("b.test"), false},
	        {YES(D("test")) NO(D("a.test")), DNS("b.test"), true},
	        {YES(D("test")) NO(D("a.test")), DNS("a.test"), false},
	        {NO(D("a.test")) YES(D("test")), DNS("a.test"), false},
	        {YES(I(TEN)), IP("0a000001"), true},
	        {YES(I(TEN)), IP("0b000001"), false},
	        {YES(I(TEN)), IP("0a000001") IP("0b000001"), false},
	        {YES(I("0b000000ff000000") I(TEN)), IP("0a000001"), true},
	        {YES(I("0a00000000000000")), IP("0b000001"), true},
	        {YES(I("0a000001ffffffff")), IP("0a000001"), true},
	        {YES(I("0a000001ffffffff")), IP("0a000000"), false},
	        {YES(I("0a0000f0ffffff00")), IP("0a000001"),
	                true}, /* what the mask leaves out does not count */
	        {YES(I(TEN)), DNS("a.test"), true},
	        {YES(I(TEN)), IP("20010db8 00000000 00000000 00000001"), false},
	        {NO(I(TEN)), IP("0a000001"), false},
	        {NO(I(TEN)), IP("0b000001"), true},
	        {NO(I("0000000000000000")), IP("0b000001"), false},
	        {NO(I("0000000000000000")), IP("20010db8 00000000 00000000 00000001"), true},
	        {YES(I("20010db8000000000000000000000000 ffffffff000000000000000000000000")),
	                IP("20010db8 00000000 00000000 00000001"), true},
	        {YES(I("20010db8000000000000000000000000 ffffffff000000000000000000000000")),
	                IP("20010db9 00000000 00000000 00000001"), false},
	        {YES(D("a.test") I(TEN)), DNS("a.test") IP("0a000001"), true},
	        {YES(D("a.test") I(TEN)), DNS("a.test") IP("0b000001"), false},
	        {YES(D("a.test") I(TEN)), DNS("b.test") IP("0a000001"), false},
	        {YES(I("20010db8000000000000000000000000 ffffffff000000000000000000000000")), IP("20010db8"),
	                false},
	        {NO(I("20010db8000000000000000000000000 ffffffff000000000000000000000000")), IP("20010db8"),
	                true},
	        {"", DNS("a.test"), true},
	        {YES(D("a.test")), "", true},
	};
	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		struct slice limits = guarded_der(cases[i].limits), s = guarded_der(cases[i].alt_names);
		if (names_allowed(limits, s) != cases[i].allowed)
			FAULT("%s for %s", cases[i].limits, cases[i].alt_names);
		guarded_free((unsigned char *)(uintptr_t)s.p, s.n);
		guarded_free((unsigned char *)(uintptr_t)limits.p, limits.n);
	}
}

/* --- anchors --- */

static void anchors(void **state)
{
	static const struct {
		const char *name;
		struct spec spec;
		enum cert_error error;
		bool ca;
		int path_length;
		const char *constraints;
	} cases[] = {
	        {"a root", {0}, CERT_OK, true, -1, NULL},
	        {"a root with pathLen", {.ext = BC("01(ff)02(02)")}, CERT_OK, true, 2, NULL},
	        {"a root with constraints", {.ext = CA NC(PERMITTED(ONLY(DNS("x"))))}, CERT_OK, true, -1,
	                "\xa0\x05\x30\x03\x82\x01x"},
	        {"version 1", {.version = "", .extensions = ""}, CERT_OK, true, -1, NULL},
	        {"version 1 that says it is none", {.version = "", .ext = BC("")}, CERT_OK, false, -1, NULL},
	        {"a server's own", {.ext = LEAF_EXT}, CERT_OK, false, -1, NULL},
	        {"without basicConstraints", {.ext = SIGNS_CERTIFICATES}, CERT_OK, false, -1, NULL},
	        {"signed with SHA-1", {RSA_SIGNED(OID_SHA1_RSA, "05()")}, CERT_OK, true, -1, NULL},
	        {"signed with RSA-PSS", {RSA_SIGNED("2a864886f70d01010a", "30()")}, CERT_OK, true, -1, NULL},
	        {"expired", {EXPIRED}, CERT_OK, true, -1, NULL},
	        {"RSA 1024", {.rsa_bits = 1024}, CERT_WEAK_KEY, false, 0, NULL},
	        {"RSA 8192", {.rsa_bits = 8192}, CERT_KEY, false, 0, NULL},
	        {"SHA-1 and RSA 1024", {RSA_SIGNED(OID_SHA1_RSA, "05()"), .rsa_bits = 1024}, CERT_WEAK_KEY,
	                false, 0, NULL},
	        {"a critical extension", {.ext = CA OTHER(CRITICAL)}, CERT_CRITICAL_EXTENSION, false, 0,
	                NULL},
	        {"an extension twice", {.ext = CA OTHER("") OTHER("")}, CERT_DUPLICATE_EXTENSION, false, 0,
	                NULL},
	        {"constraints of another kind", {.ext = CA NC(PERMITTED(ONLY("86('x')")))},
	                CERT_CONSTRAINT_FORM, false, 0, NULL},
	        {"damaged", {.behind = "00"}, CERT_MALFORMED, false, 0, NULL},
	};
	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		struct spec s = cases[i].spec;
		struct cert_anchor a;
		s.as = 'R';
		enum cert_error error = cert_read_anchor(&a, make(&s));
		if (error != cases[i].error)
			FAULT("%s: %s", cases[i].name, name_of(error));
		if (error != CERT_OK || cases[i].error != CERT_OK)
			continue;
		const char *limits = cases[i].constraints;
		if (a.ca != cases[i].ca || a.path_length != cases[i].path_length ||
		        (limits ? !slice_is(a.constraints, limits) : a.constraints.p != NULL))
			FAULT("%s: limits", cases[i].name);
		assert_slice(cert_name_text(a.subject), "R");
		assert_int_equal(a.key.key_type, BR_KEYTYPE_EC);
		assert_int_equal(a.not_after_s, s.dates ? 1609459200 : 2082758400);
	}
}

/* --- chains --- */

struct chain_case {
	const char *name;
	const char *certs; /* as the server sends them; each but the last is issued by the next one */
	enum cert_error error;
	const char *anchors; /* "R" */
	struct spec spec[9]; /* of those that are not as usual */
	const char *host;    /* "broker.test" */
	int64_t time_s;      /* in 2030 */
	const char *detail;  /* to be found in it */
};

static struct cert_check check;
static unsigned ecdsas; /* counted */

static uint32_t counting_ecdsa(const br_ec_impl *impl, const void *hash, size_t n,
        const br_ec_public_key *key, const void *signature, size_t signature_n)
{
	ecdsas++;
	return br_ecdsa_i31_vrfy_asn1(impl, hash, n, key, signature, signature_n);
}

static void begin_check(const struct cert_anchor *list, size_t n, const char *host, int64_t time_s)
{
	check.vtable = &cert_class;
	check.anchor = list;
	check.anchors = n;
	check.host = host;
	check.time_s = time_s;
	check.rsa = br_rsa_pkcs1_vrfy_get_default();
	check.ecdsa = counting_ecdsa;
	check.ec = &br_ec_all_m31;
	ecdsas = 0;
	cert_class.start_chain(&check.vtable, "not looked at");
}

static void send_cert(struct slice der, size_t step)
{
	cert_class.start_cert(&check.vtable, (uint32_t)der.n);
	for (size_t at = 0, n; at < der.n; at += n) {
		n = der.n - at < step ? der.n - at : step;
		unsigned char *p = guarded_copy(der.p + at, n);
		cert_class.append(&check.vtable, p, n);
		guarded_free(p, n);
	}
	cert_class.end_cert(&check.vtable);
}

static struct spec spec_of(const struct chain_case *c, char as)
{
	for (size_t i = 0; i < sizeof c->spec / sizeof c->spec[0]; i++)
		if (c->spec[i].as == as)
			return c->spec[i];
	return (struct spec){.as = as};
}

static struct cert_anchor list[4];
static struct slice chain[12];
static size_t chain_n;

/* Makes anchors and chain. */
static void make_case(const struct chain_case *c)
{
	struct buf b = BUF(cert_mem);
	const char *roots = c->anchors ? c->anchors : "R";
	for (size_t i = 0; i < strlen(roots); i++) {
		struct spec s = spec_of(c, roots[i]);
		s.by = s.by ? s.by : s.named;
		if (cert_read_anchor(&list[i], put_cert(&b, &s)) != CERT_OK)
			fail_msg("%s: no anchor %c", c->name, roots[i]);
	}
	chain_n = strlen(c->certs);
	for (size_t i = 0; i < chain_n; i++) {
		struct spec s = spec_of(c, c->certs[i]);
		if (s.by == 0 && i + 1 < chain_n)
			s.by = c->certs[i + 1];
		chain[i] = put_cert(&b, &s);
	}
}

static unsigned run_case(const struct chain_case *c, size_t step)
{
	begin_check(list, strlen(c->anchors ? c->anchors : "R"), c->host ? c->host : "broker.test",
	        c->time_s ? c->time_s : in_2030);
	for (size_t i = 0; i < chain_n; i++)
		send_cert(chain[i], step);
	return cert_class.end_chain(&check.vtable);
}

static void run_cases(const struct chain_case *c, size_t n)
{
	for (size_t i = 0; i < n; i++, c++) {
		make_case(c);
		for (size_t step = 1; step <= 100000; step *= 100000) {
			unsigned error = run_case(c, step);
			check.detail.p[check.detail.n] = 0;
			if (error != c->error || error != check.error)
				FAULT("%s: %s %s", c->name, name_of(error), check.detail_mem);
			if (c->detail && strstr((char *)check.detail_mem, c->detail) == NULL)
				FAULT("%s: %s", c->name, check.detail_mem);
			assert_int_equal(error == CERT_OK, check.detail.n == 0 && (error == CERT_OK));
		}
	}
}

#define EXT_OF(x, e)                                                                                         \
	{                                                                                                    \
		.as = x, .ext = e                                                                            \
	}

static void leaves(void **state)
{
	static const struct chain_case cases[] = {
	        {"as usual", "LA", CERT_OK},
	        {"from the root", "L", CERT_OK},
	        {"another name", "LA", CERT_NAME, .host = "b.test",
	                .detail = "for 'broker.test', issued by 'A', valid"
	                          " 2026-01-01 to 2036-01-01; expected 'b.test'"},
	        {"the common name does not count", "LA", CERT_NO_NAME,
	                .spec = {{'L', .subject = CN("broker.test"), .ext = KU("0780")}},
	                .detail =
	                        "for 'broker.test', issued by 'A', valid 2026-01-01 to 2036-01-01; expected "
	                        "'broker.test'"},
	        {"the common name does not count beside others", "LA", CERT_NAME,
	                .spec = {{'L', .subject = CN("broker.test"), .ext = SAN(DNS("b.test"))}}},
	        {"no extensions", "LA", CERT_NO_NAME, .spec = {{'L', .extensions = ""}}},
	        {"no subject", "LA", CERT_OK, .spec = {{'L', .subject = "30()"}}},
	        {"an address", "LA", CERT_OK, .spec = {EXT_OF('L', SAN(IP("c0000207")))},
	                .host = "192.0.2.7"},
	        {"an address as a name", "LA", CERT_NAME, .spec = {EXT_OF('L', SAN(DNS("192.0.2.7")))},
	                .host = "192.0.2.7"},
	        {"its last second", "LA", CERT_OK,
	                .spec = {{'L', .dates = UTC("260101000000", "291231235959")}}, .time_s = 1893455999},
	        {"a second later", "LA", CERT_EXPIRED,
	                .spec = {{'L', .dates = UTC("260101000000", "291231235959")}}, .time_s = 1893456000,
	                .detail = "valid 2026-01-01 to 2029-12-31; checked for 2030-01-01"},
	        {"its first second", "LA", CERT_OK,
	                .spec = {{'L', .dates = UTC("300101000000", "310101000000")}}, .time_s = 1893456000},
	        {"a second earlier", "LA", CERT_NOT_YET_VALID,
	                .spec = {{'L', .dates = UTC("300101000000", "310101000000")}}, .time_s = 1893455999,
	                .detail = "; checked for 2029-12-31"},
	        {"without an end", "LA", CERT_OK,
	                .spec = {{'L', .dates = "17('260101000000Z')18('99991231235959Z')"}}},
	        {"no key usage", "LA", CERT_OK, .spec = {EXT_OF('L', NAME)}},
	        {"key usage: all", "LA", CERT_OK, .spec = {EXT_OF('L', NAME KU("07ff80"))}},
	        {"key usage: keyEncipherment", "LA", CERT_KEY_USAGE, .spec = {EXT_OF('L', NAME KU("0520"))}},
	        {"key usage: all but digitalSignature", "LA", CERT_KEY_USAGE,
	                .spec = {EXT_OF('L', NAME KU("077f80"))}},
	        {"extended: any", "LA", CERT_OK, .spec = {EXT_OF('L', NAME EKU(ANY_USAGE))}},
	        {"extended: client and server", "LA", CERT_OK,
	                .spec = {EXT_OF('L', NAME EKU(CLIENT_AUTH SERVER_AUTH))}},
	        {"extended: server and client", "LA", CERT_OK,
	                .spec = {EXT_OF('L', NAME EKU(SERVER_AUTH CLIENT_AUTH))}},
	        {"extended: client", "LA", CERT_EXTENDED_KEY_USAGE,
	                .spec = {EXT_OF('L', NAME EKU(CLIENT_AUTH))}},
	        {"extended: client, critical", "LA", CERT_EXTENDED_KEY_USAGE,
	                .spec = {EXT_OF('L', NAME EXT("25", CRITICAL, "30(" CLIENT_AUTH ")"))}},
	        {"extended: the beginning of it", "LA", CERT_EXTENDED_KEY_USAGE,
	                .spec = {EXT_OF('L', NAME EKU("06(2b060105050703)"))}},
	        {"a CA", "LA", CERT_LEAF_IS_CA, .spec = {EXT_OF('L', NAME CA)}},
	        {"a CA from the root", "L", CERT_LEAF_IS_CA, .spec = {EXT_OF('L', NAME CA)}},
	        {"constraints", "LA", CERT_LEAF_CONSTRAINTS,
	                .spec = {EXT_OF('L', NAME NC(PERMITTED(ONLY(DNS("test")))))}},
	        {"malformed", "LA", CERT_MALFORMED, .spec = {{'L', .behind = "00"}},
	                .detail = "certificate 1 of 2"},
	        {"version 1", "LA", CERT_VERSION, .spec = {{'L', .version = "", .extensions = ""}}},
	        {"two subjectAltNames", "LA", CERT_DUPLICATE_EXTENSION, .spec = {EXT_OF('L', NAME NAME)}},
	        {"a critical extension", "LA", CERT_CRITICAL_EXTENSION,
	                .spec = {EXT_OF('L', NAME OTHER(CRITICAL))}},
	        {"an odd algorithm", "LA", CERT_ALGORITHM, .spec = {{'L', RSA_SIGNED("2b6570", "")}}},
	        {"a weak signature", "LA", CERT_WEAK_SIGNATURE,
	                .spec = {{'L', RSA_SIGNED("2a8648ce3d0401", "")}}},
	        {"an odd key", "LA", CERT_KEY, .spec = {{'L', .key_info = "30(30(06(2b6570))03(00 55))"}}},
	        {"a weak key", "LA", CERT_WEAK_KEY, .spec = {{'L', .rsa_bits = 1024}}},
	        {"its key does not count", "LA", CERT_OK, .spec = {{'L', .rsa_bits = 4096}}},

	        {"is the anchor", "L", CERT_OK, .anchors = "L", .spec = {{'L', .by = 'L'}}},
	        {"is the anchor, signed by whomever", "L", CERT_OK, .anchors = "L",
	                .spec = {{'L', .by = 'X'}}},
	        {"is the anchor, signed with SHA-1", "L", CERT_WEAK_SIGNATURE, .anchors = "L",
	                .spec = {{'L', RSA_SIGNED(OID_SHA1_RSA, "05()")}}},
	        {"is the anchor, with others", "LAB", CERT_OK, .anchors = "L", .spec = {{'L', .by = 'X'}}},
	        {"is the anchor behind another", "L", CERT_OK, .anchors = "RL", .spec = {{'L', .by = 'X'}}},
	        {"is the anchor, with RSA", "L", CERT_OK, .anchors = "L",
	                .spec = {{'L', .key = '2', .by = 'X'}}},
	        {"is an anchor that is a CA", "L", CERT_OK, .anchors = "L",
	                .spec = {{'L', .by = 'L', .ext = NAME CA NC(PERMITTED(ONLY(DNS("x"))))}}},
	        {"is the anchor, another name", "L", CERT_NAME, .anchors = "L", .spec = {{'L', .by = 'L'}},
	                .host = "b.test"},
	        {"is the anchor, expired", "L", CERT_EXPIRED, .anchors = "L", .spec = {{'L', EXPIRED}}},
	        {"is the anchor, for clients", "L", CERT_EXTENDED_KEY_USAGE, .anchors = "L",
	                .spec = {EXT_OF('L', NAME EKU(CLIENT_AUTH))}},
	        {"is the anchor, for CAs", "L", CERT_KEY_USAGE, .anchors = "L",
	                .spec = {EXT_OF('L', NAME SIGNS_CERTIFICATES)}},
	        {"made anew with the anchor's name and key, which has expired", "L", CERT_ANCHOR_EXPIRED,
	                .anchors = "M",
	                .spec = {{'M', .named = 'L', .key = 'L', .ext = LEAF_EXT, EXPIRED},
	                        {'L', .by = 'X'}}},
	        {"made anew with the anchor's name and key, which is not valid yet", "L", CERT_ANCHOR_EXPIRED,
	                .anchors = "M",
	                .spec = {{'M', .named = 'L', .key = 'L',
	                        .dates = UTC("310101000000", "320101000000")}}},
	        {"the anchor's name, another key", "L", CERT_UNTRUSTED, .anchors = "M",
	                .spec = {{'M', .named = 'L', .ext = LEAF_EXT}, {'L', .by = 'X'}}},
	        {"the anchor's name, another key of another kind", "L", CERT_UNTRUSTED, .anchors = "M",
	                .spec = {{'M', .named = 'L', .key = '2', .ext = LEAF_EXT}, {'L', .by = 'X'}}},
	        {"the anchor's name, its key on another curve", "L", CERT_UNTRUSTED, .anchors = "M",
	                .spec = {{'M', .named = 'L', .key = '3', .ext = LEAF_EXT}, {'L', .by = 'X'}}},
	        {"the anchor's name, another RSA key", "L", CERT_UNTRUSTED, .anchors = "M",
	                .spec = {{'M', .named = 'L', .rsa_bits = 2048, .ext = LEAF_EXT},
	                        {'L', .by = 'X', .key = '2'}}},
	        {"the anchor's name, another RSA exponent", "L", CERT_UNTRUSTED, .anchors = "M",
	                .spec = {{'M', .named = 'L', .key = '2', .ext = LEAF_EXT},
	                        {'L', .by = 'X', .key = '2', .rsa_exponent = "02(03)"}}},
	        {"the anchor's key, another name", "L", CERT_UNTRUSTED, .anchors = "M",
	                .spec = {{'M', .key = 'L', .ext = LEAF_EXT}, {'L', .by = 'X'}}},
	};
	(void)state;
	run_cases(cases, sizeof cases / sizeof cases[0]);
}

#define ONLY_TEST NC(PERMITTED(ONLY(DNS("test"))))
#define ONLY_X    NC(PERMITTED(ONLY(DNS("x"))))
#define ONLY_TEN  NC(PERMITTED(ONLY(IP("0a000000ff000000"))))
#define PATH(n)   BC("01(ff)02(" n ")") SIGNS_CERTIFICATES

static void issuers(void **state)
{
	static const struct chain_case cases[] = {
	        {"two CAs", "LAB", CERT_OK},
	        {"seven CAs", "LABCDEFG", CERT_OK},
	        {"eight CAs", "LABCDEFGH", CERT_TOO_MANY},
	        {"SHA-384, SHA-512", "LAB", CERT_OK, .spec = {{'L', .hash = 384}, {'A', .hash = 512}}},
	        {"RSA", "LA", CERT_OK, .spec = {{'L', .signer = '2'}, {'A', .key = '2'}}},
	        {"RSA, SHA-384", "LA", CERT_OK,
	                .spec = {{'L', .signer = '2', .hash = 384}, {'A', .key = '2'}}},
	        {"RSA, SHA-512", "LA", CERT_OK,
	                .spec = {{'L', .signer = '2', .hash = 512}, {'A', .key = '2'}}},
	        {"RSA, NULL left out", "LA", CERT_OK,
	                .spec = {{'L', .signer = '2', RSA_SIGNED(OID_SHA256_RSA, "")}, {'A', .key = '2'}}},
	        {"P-384", "LA", CERT_OK, .spec = {{'L', .signer = '3', .hash = 384}, {'A', .key = '3'}}},
	        {"an RSA root", "LA", CERT_OK, .spec = {{'R', .key = '2'}, {'A', .signer = '2'}}},
	        {"SHA-256 where SHA-384 is said", "LA", CERT_SIGNATURE,
	                .spec = {{'L', RSA_SIGNED("2a8648ce3d040303", "")}}},
	        {"RSA, SHA-256 where SHA-384 is said", "LA", CERT_SIGNATURE,
	                .spec = {{'L', .signer = '2', RSA_SIGNED("2a864886f70d01010c", "05()")},
	                        {'A', .key = '2'}}},
	        {"ECDSA where RSA is said", "LA", CERT_SIGNATURE,
	                .spec = {{'L', RSA_SIGNED(OID_SHA256_RSA, "05()")}}},
	        {"RSA where ECDSA is said", "LA", CERT_SIGNATURE,
	                .spec = {{'L', .signer = '2', RSA_SIGNED(OID_SHA256_EC, "")}, {'A', .key = '2'}}},
	        {"signed by another", "LA", CERT_SIGNATURE, .spec = {{'L', .signer = 'X'}},
	                .detail = "'broker.test'"},
	        {"RSA, signed by another", "LA", CERT_SIGNATURE,
	                .spec = {{'L', .signer = '2'}, {'A', .rsa_bits = 2048}}},
	        {"no signature at all", "LA", CERT_SIGNATURE, .spec = {{'L', .signature = "03(00)"}}},
	        {"an ECDSA signature of zeros", "LA", CERT_SIGNATURE,
	                .spec = {{'L', .signature = "03(00 30(02(00)02(00)))"}}},
	        {"RSA, no signature at all", "LA", CERT_SIGNATURE,
	                .spec = {{'L', .signer = '2', .signature = "03(00)"}, {'A', .key = '2'}}},
	        {"a CA signed by another", "LA", CERT_SIGNATURE, .spec = {{'A', .signer = 'X'}},
	                .detail = "for 'A'"},
	        {"nobody's", "LA", CERT_UNTRUSTED, .spec = {{'A', .by = 'X'}}},
	        {"nobody's leaf", "L", CERT_UNTRUSTED, .spec = {{'L', .by = 'X'}}, .detail = "issued by 'X'"},
	        {"signed by itself", "L", CERT_UNTRUSTED, .spec = {{'L', .by = 'L'}}},
	        {"no anchors", "LA", CERT_UNTRUSTED, .anchors = ""},
	        {"the CA is missing", "LB", CERT_UNTRUSTED, .spec = {{'L', .by = 'A'}}},
	        {"the root is sent, too", "LAR", CERT_OK},
	        {"an unknown root is sent, too", "LAS", CERT_UNTRUSTED, .spec = {{'S', .by = 'S'}}},
	        {"an unknown root with SHA-1", "LAS", CERT_UNTRUSTED,
	                .spec = {{'A', .by = 'S'}, {'S', .by = 'S', RSA_SIGNED(OID_SHA1_RSA, "05()")}}},
	        {"an unknown root of version 1", "LAS", CERT_UNTRUSTED,
	                .spec = {{'S', .by = 'S', .version = "", .extensions = ""}}},

	        {"no CA", "LA", CERT_NOT_CA, .spec = {EXT_OF('A', BC("") SIGNS_CERTIFICATES)},
	                .detail = "for 'A'"},
	        {"no basicConstraints", "LA", CERT_NOT_CA, .spec = {EXT_OF('A', SIGNS_CERTIFICATES)}},
	        {"no extensions", "LA", CERT_NOT_CA, .spec = {{'A', .extensions = ""}}},
	        {"a server's certificate", "LA", CERT_NOT_CA, .spec = {EXT_OF('A', LEAF_EXT)}},
	        {"no CA above", "LAB", CERT_NOT_CA, .spec = {EXT_OF('B', BC("") SIGNS_CERTIFICATES)}},
	        {"no key usage", "LA", CERT_OK, .spec = {EXT_OF('A', CA)}},
	        {"key usage: all but keyCertSign", "LA", CERT_KEY_USAGE,
	                .spec = {EXT_OF('A', CA KU("07fb80"))}},
	        {"extended: server", "LA", CERT_OK, .spec = {EXT_OF('A', CA_EXT EKU(SERVER_AUTH))}},
	        {"extended: any", "LA", CERT_OK, .spec = {EXT_OF('A', CA_EXT EKU(ANY_USAGE))}},
	        {"extended: client", "LA", CERT_EXTENDED_KEY_USAGE,
	                .spec = {EXT_OF('A', CA_EXT EKU(CLIENT_AUTH))}},
	        {"expired", "LA", CERT_EXPIRED, .spec = {{'A', EXPIRED}},
	                .detail = "for 'A', issued by 'R', valid 2020"},
	        {"expired above", "LAB", CERT_EXPIRED, .spec = {{'B', EXPIRED}}},
	        {"not valid yet", "LA", CERT_NOT_YET_VALID,
	                .spec = {{'A', .dates = UTC("310101000000", "320101000000")}}},
	        {"version 1", "LA", CERT_VERSION, .spec = {{'A', .version = "", .extensions = ""}}},
	        {"an extension twice", "LA", CERT_DUPLICATE_EXTENSION, .spec = {EXT_OF('A', CA CA)}},
	        {"a critical extension", "LA", CERT_CRITICAL_EXTENSION,
	                .spec = {EXT_OF('A', CA_EXT OTHER(CRITICAL))}},
	        {"SHA-1", "LA", CERT_WEAK_SIGNATURE, .spec = {{'A', RSA_SIGNED("2a8648ce3d0401", "")}}},
	        {"an odd algorithm", "LA", CERT_ALGORITHM, .spec = {{'A', RSA_SIGNED("2b6570", "")}}},
	        {"a weak key", "LA", CERT_WEAK_KEY, .spec = {{'A', .rsa_bits = 1024}}},
	        {"malformed", "LA", CERT_UNTRUSTED, .spec = {{'A', .behind = "00"}}},
	        {"malformed behind its name", "LA", CERT_MALFORMED, .spec = {EXT_OF('A', CA_EXT EKU(""))},
	                .detail = "certificate 2 of 2"},

	        {"pathLen 0", "LA", CERT_OK, .spec = {EXT_OF('A', PATH("00"))}},
	        {"pathLen 0, a CA below", "LAB", CERT_PATH_LENGTH, .spec = {EXT_OF('B', PATH("00"))},
	                .detail = "for 'B'"},
	        {"pathLen 1, a CA below", "LAB", CERT_OK, .spec = {EXT_OF('B', PATH("01"))}},
	        {"pathLen 1, two CAs below", "LABC", CERT_PATH_LENGTH, .spec = {EXT_OF('C', PATH("01"))}},
	        {"pathLen 0 below, none above", "LAB", CERT_OK, .spec = {EXT_OF('A', PATH("00"))}},
	        {"pathLen 256", "LAB", CERT_OK, .spec = {EXT_OF('B', PATH("0100"))}},
	        {"pathLen 128", "LAB", CERT_OK, .spec = {EXT_OF('B', PATH("0080"))}},
	        {"the root's pathLen 0", "L", CERT_OK, .spec = {EXT_OF('R', PATH("00"))}},
	        {"the root's pathLen 0, a CA below", "LA", CERT_PATH_LENGTH,
	                .spec = {EXT_OF('R', PATH("00"))}},
	        {"the root's pathLen 1, a CA below", "LA", CERT_OK, .spec = {EXT_OF('R', PATH("01"))}},
	        {"pathLen 0, a self-issued CA below", "LAB", CERT_OK,
	                .spec = {{'A', .named = 'B'}, {'L', .by = 'B', .signer = 'A'},
	                        EXT_OF('B', PATH("00"))}},
	        {"the root's pathLen 1, one of two CAs self-issued", "LAB", CERT_OK,
	                .spec = {{'A', .named = 'B'}, {'L', .by = 'B', .signer = 'A'},
	                        EXT_OF('R', PATH("01"))}},
	        {"pathLen 0, a leaf that is named as its CA", "LA", CERT_OK,
	                .spec = {{'L', .named = 'A'}, EXT_OF('A', PATH("00"))}},

	        {"constraints that allow it", "LA", CERT_OK, .spec = {EXT_OF('A', CA ONLY_TEST)}},
	        {"constraints that do not", "LA", CERT_CONSTRAINED, .spec = {EXT_OF('A', CA ONLY_X)}},
	        {"constraints that do not, not critical", "LA", CERT_CONSTRAINED,
	                .spec = {EXT_OF('A', CA EXT("1e", "", "30(" PERMITTED(ONLY(DNS("x"))) ")"))}},
	        {"constraints of the upper CA", "LAB", CERT_CONSTRAINED, .spec = {EXT_OF('B', CA ONLY_X)}},
	        {"constraints of both CAs", "LAB", CERT_CONSTRAINED,
	                .spec = {EXT_OF('A', CA ONLY_X), EXT_OF('B', CA ONLY_TEST)}},
	        {"constraints of the root", "LA", CERT_CONSTRAINED, .spec = {EXT_OF('R', CA ONLY_X)}},
	        {"constraints of the root, alone", "L", CERT_CONSTRAINED, .spec = {EXT_OF('R', CA ONLY_X)}},
	        {"constraints of the root that allow it", "LA", CERT_OK, .spec = {EXT_OF('R', CA ONLY_TEST)}},
	        {"constraints for addresses alone", "LA", CERT_OK, .spec = {EXT_OF('A', CA ONLY_TEN)}},
	        {"constraints for addresses", "LA", CERT_CONSTRAINED,
	                .spec = {EXT_OF('A', CA ONLY_TEN), EXT_OF('L', SAN(IP("0b000001")))},
	                .host = "11.0.0.1"},
	        {"constraints, another name of the leaf", "LA", CERT_CONSTRAINED,
	                .spec = {EXT_OF('A', CA ONLY_TEST), EXT_OF('L', SAN(DNS("broker.test") DNS("x")))}},
	        {"constraints, a name of the lower CA", "LAB", CERT_CONSTRAINED,
	                .spec = {EXT_OF('A', CA SAN(DNS("x"))), EXT_OF('B', CA ONLY_TEST)}},
	        {"constraints, a name of its own", "LA", CERT_OK,
	                .spec = {EXT_OF('A', CA SAN(DNS("x")) ONLY_TEST)}},
	        {"constraints of another form", "LA", CERT_CONSTRAINT_FORM,
	                .spec = {EXT_OF('A', CA NC(EXCLUDED(ONLY("a4(30())"))))}},
	        {"constraints of a CA that is not on the way", "LAB", CERT_OK,
	                .spec = {{'A', .by = 'R'}, EXT_OF('B', CA ONLY_X)}},

	        {"the root has expired", "LA", CERT_ANCHOR_EXPIRED, .spec = {{'R', EXPIRED}},
	                .detail = "checked for 2030"},
	        {"the root is not valid yet", "LA", CERT_ANCHOR_EXPIRED,
	                .spec = {{'R', .dates = UTC("310101000000", "320101000000")}}},
	        {"the root is no CA", "LA", CERT_UNTRUSTED, .spec = {EXT_OF('R', LEAF_EXT)}},
	        {"the root is of version 1", "LA", CERT_OK, .spec = {{'R', .version = "", .extensions = ""}}},
	        {"two roots of a name, the second is right", "LA", CERT_OK, .anchors = "QR",
	                .spec = {{'Q', .named = 'R'}}},
	        {"two roots of a name, the first has expired", "LA", CERT_OK, .anchors = "QR",
	                .spec = {{'Q', .named = 'R', .key = 'R', EXPIRED}}},
	        {"two roots of a name, the first is limited", "LA", CERT_OK, .anchors = "QR",
	                .spec = {{'Q', .named = 'R', .key = 'R', .ext = CA ONLY_X}}},
	        {"three roots, the last is right", "LA", CERT_OK, .anchors = "STR"},
	        {"another root of that name", "LA", CERT_SIGNATURE, .anchors = "Q",
	                .spec = {{'Q', .named = 'R'}}},
	        {"another root with that key", "LA", CERT_UNTRUSTED, .anchors = "Q",
	                .spec = {{'Q', .key = 'R'}}},
	        {"a CA as the anchor", "LA", CERT_OK, .anchors = "A", .spec = {{'A', .by = 'X'}}},
	        {"a CA as the anchor, not sent", "L", CERT_OK, .anchors = "A",
	                .spec = {{'L', .by = 'A'}, {'A', .by = 'X'}}},
	};
	(void)state;
	run_cases(cases, sizeof cases / sizeof cases[0]);
}

/* Servers send what they were given, in any order, and others beside. */
static void detours(void **state)
{
#define BY(x, y)                                                                                             \
	{                                                                                                    \
		x, .by = y                                                                                   \
	}
	static const struct chain_case cases[] = {
	        {"out of order", "LBA", CERT_OK, .spec = {BY('L', 'A'), BY('A', 'B'), BY('B', 'R')}},
	        {"out of order, four", "LDBCA", CERT_OK,
	                .spec = {BY('L', 'A'), BY('A', 'B'), BY('B', 'C'), BY('C', 'D'), BY('D', 'R')}},
	        {"out of order, the leaf last", "AL", CERT_NO_NAME, .spec = {BY('L', 'A'), BY('A', 'R')}},
	        {"another's CA between", "LXA", CERT_OK, .spec = {BY('L', 'A'), BY('X', 'Y')}},
	        {"another's root behind", "LAS", CERT_OK, .spec = {BY('A', 'R'), BY('S', 'S')}},
	        {"twice the same", "LAA", CERT_OK, .spec = {BY('L', 'A'), BY('A', 'R')}},
	        {"garbage between", "LXA", CERT_OK,
	                .spec = {BY('L', 'A'), {'X', .named = 'A', .behind = "00"}}},
	        {"the root, cross-signed by an unknown one", "LAB", CERT_OK,
	                .spec = {BY('A', 'R'), {'B', .named = 'R', .key = 'R', .by = 'S'}}},
	        {"cross-signed: the known one first", "LAB", CERT_OK,
	                .spec = {BY('A', 'R'), {'B', .named = 'A', .key = 'A', .by = 'S'}}},
	        {"cross-signed: the known one second", "LAB", CERT_OK,
	                .spec = {BY('A', 'S'), {'B', .named = 'A', .key = 'A', .by = 'R'}, BY('L', 'A')}},
	        {"cross-signed: the first has expired", "LAB", CERT_OK,
	                .spec = {{'A', .by = 'R', EXPIRED}, {'B', .named = 'A', .key = 'A', .by = 'R'}}},
	        {"cross-signed: the first is limited", "LAB", CERT_OK,
	                .spec = {{'A', .by = 'R', .ext = CA ONLY_X},
	                        {'B', .named = 'A', .key = 'A', .by = 'R'}}},
	        {"cross-signed: the first is broken", "LAB", CERT_OK,
	                .spec = {{'A', .by = 'R', .version = "", .extensions = ""},
	                        {'B', .named = 'A', .key = 'A', .by = 'R'}}},
	        {"cross-signed: the first signed with SHA-1", "LAB", CERT_OK,
	                .spec = {{'A', .by = 'R', RSA_SIGNED("2a8648ce3d0401", "")},
	                        {'B', .named = 'A', .key = 'A', .by = 'R'}}},
	        {"cross-signed: the first leads two steps astray", "LACB", CERT_OK,
	                .spec = {BY('A', 'C'), BY('C', 'S'), {'B', .named = 'A', .key = 'A', .by = 'R'}}},
	        {"a CA of the same name with another key in front", "LXA", CERT_OK,
	                .spec = {BY('L', 'A'), {'X', .named = 'A', .by = 'R'}, BY('A', 'R')}},
	        {"two of them, none right", "LXY", CERT_SIGNATURE,
	                .spec = {BY('L', 'A'), {'X', .named = 'A', .by = 'R'},
	                        {'Y', .named = 'A', .by = 'R'}}},
	        {"a loop of two", "LAB", CERT_UNTRUSTED, .spec = {BY('A', 'B'), BY('B', 'A')}},
	        {"a loop of one", "LA", CERT_UNTRUSTED, .spec = {BY('A', 'A')}},
	        {"a loop of three, and a way out", "LABCD", CERT_OK,
	                .spec = {BY('A', 'B'), BY('B', 'C'), BY('C', 'A'),
	                        {'D', .named = 'C', .key = 'C', .by = 'R'}}},
	        {"a loop by the leaf", "LA", CERT_UNTRUSTED, .spec = {BY('L', 'A'), BY('A', 'L')}},
	        {"the leaf is nobody's issuer", "LA", CERT_UNTRUSTED,
	                .spec = {{'L', .by = 'L', .ext = NAME}, BY('A', 'R')}},
	        {"the leaf sent twice, once as a CA", "LX", CERT_UNTRUSTED,
	                .spec = {BY('L', 'L'), {'X', .named = 'L', .key = 'L', .by = 'S'}}},
	        {"the first fault is told", "LAB", CERT_EXPIRED,
	                .spec = {{'A', .by = 'R', EXPIRED}, {'B', .named = 'A', .ext = LEAF_EXT}}},
	};
	(void)state;
	run_cases(cases, sizeof cases / sizeof cases[0]);
}

/* A byte changed anywhere in the leaf or its CA: refused. */
static void every_byte_is_signed(void **state)
{
	static const struct chain_case cases[] = {
	        {.name = "ECDSA", .certs = "LA"},
	        {.name = "RSA",
	                .certs = "LA",
	                .spec = {{'L', .signer = '2'}, {'A', .key = '2', .signer = '2'}, {'R', .key = '2'}}},
	};
	(void)state;
	for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
		make_case(&cases[c]);
		for (size_t i = 0; i < chain_n; i++)
			for (size_t at = 0; at < chain[i].n; at++) {
				unsigned char *p = cert_mem + (chain[i].p - cert_mem) + at, was = *p;
				*p ^= (unsigned char)(1 << at % 8);
				if (run_case(&cases[c], 100000) == CERT_OK)
					FAULT("%s: certificate %zu, byte %zu", cases[c].name, i, at);
				*p = was;
			}
		assert_int_equal(run_case(&cases[c], 100000), CERT_OK);
	}
}

/* --- what an attacker can make us do --- */

/* Seven CAs of one name and key, each signed by any other: 13,700 ways to nowhere. */
static void many_ways(void **state)
{
	static const struct chain_case c = {.name = "many ways",
	        .certs = "LABCDEFG",
	        .error = CERT_UNTRUSTED,
	        .spec = {{'L', .by = 'A'}, {'A', .by = 'A'}, {'B', .named = 'A', .key = 'A', .by = 'A'},
	                {'C', .named = 'A', .key = 'A', .by = 'A'},
	                {'D', .named = 'A', .key = 'A', .by = 'A'},
	                {'E', .named = 'A', .key = 'A', .by = 'A'},
	                {'F', .named = 'A', .key = 'A', .by = 'A'},
	                {'G', .named = 'A', .key = 'A', .by = 'A'}}};
	(void)state;
	make_case(&c);
	unsigned error = run_case(&c, 100000);
	assert_true(error == CERT_UNTRUSTED || error == CERT_SIGNATURE);
	assert_int_equal(ecdsas, CERT_SIGNATURES);
	/* The next chain gets as many again. */
	assert_int_equal(run_case(&c, 100000), error);
	assert_int_equal(ecdsas, CERT_SIGNATURES);
	/* An anchor is tried once, however many certificates there are to be tried beside. */
	static const struct chain_case few = {.certs = "LABC", .spec = {{'L', .by = 'R', .signer = 'X'}}};
	make_case(&few);
	assert_int_equal(run_case(&few, 100000), CERT_SIGNATURE);
	assert_int_equal(ecdsas, 1);
}

static void sizes(void **state)
{
	static unsigned char filler[CERT_CHAIN_BYTES + 1];
	static const struct chain_case one = {.name = "one", .certs = "L"};
	(void)state;
	make_case(&one);
	/* None */
	begin_check(list, 1, "broker.test", in_2030);
	assert_int_equal(cert_class.end_chain(&check.vtable), CERT_NONE);
	assert_int_equal(check.detail.n, 0);
	/* Of no bytes */
	begin_check(list, 1, "broker.test", in_2030);
	send_cert((struct slice){filler, 0}, 1);
	assert_int_equal(cert_class.end_chain(&check.vtable), CERT_MALFORMED);
	/* As much as there is room for, and one byte more */
	for (size_t more = 0; more < 2; more++) {
		begin_check(list, 1, "broker.test", in_2030);
		send_cert(chain[0], 100);
		send_cert((struct slice){filler, CERT_CHAIN_BYTES - chain[0].n + more}, 5000);
		assert_int_equal(cert_class.end_chain(&check.vtable), more ? CERT_TOO_MANY : CERT_OK);
		assert_int_equal(check.bytes.n, more ? chain[0].n : CERT_CHAIN_BYTES);
	}
	/* The length that is announced, up to the protocol's limit */
	begin_check(list, 1, "broker.test", in_2030);
	cert_class.start_cert(&check.vtable, 0xffffff);
	for (size_t i = 0; i < 600; i++)
		cert_class.append(&check.vtable, filler, CERT_CHAIN_BYTES);
	cert_class.end_cert(&check.vtable);
	assert_int_equal(cert_class.end_chain(&check.vtable), CERT_TOO_MANY);
	assert_int_equal(check.detail.n, 0);
	/* Too many, and then the next chain is judged by itself */
	begin_check(list, 1, "broker.test", in_2030);
	for (size_t i = 0; i < 300; i++)
		send_cert(chain[0], 10000);
	assert_int_equal(cert_class.end_chain(&check.vtable), CERT_TOO_MANY);
	assert_int_equal(check.detail.n, 0);
	assert_int_equal(run_case(&one, 1), CERT_OK);
}

static void the_key(void **state)
{
	unsigned usages = 0;
	static const struct chain_case one = {.name = "one", .certs = "L", .spec = {{'L', .key = '2'}}};
	(void)state;
	make_case(&one);
	assert_int_equal(run_case(&one, 1), CERT_OK);
	const br_x509_pkey *key = cert_class.get_pkey(&check.vtable, &usages);
	assert_int_equal(usages, BR_KEYTYPE_SIGN);
	assert_int_equal(key->key_type, BR_KEYTYPE_RSA);
	assert_memory_equal(key->key.rsa.n, rsa_public.n, 256);
	assert_true(cert_class.get_pkey(&check.vtable, NULL) == key);
	assert_int_equal(cert_class.context_size, sizeof check);
}

/* --- words --- */

static void words(void **state)
{
	(void)state;
	for (int i = CERT_NONE; i < CERT_ERRORS; i++) {
		assert_true(strlen(cert_error_text(i)) > 40);
		for (int j = CERT_NONE; j < i; j++)
			assert_string_not_equal(cert_error_text(i), cert_error_text(j));
	}
	assert_string_equal(cert_error_text(CERT_ERRORS), "unknown");
	assert_string_equal(cert_error_text(CERT_NONE - 1), "unknown");
	assert_string_equal(cert_error_text(-1), "unknown");
	/* One of each that is not told by its neighbours */
	static const struct {
		int error;
		const char *word;
	} cases[] = {{CERT_NONE, "no certificate"}, {CERT_TOO_MANY, "more than 8"}, {CERT_TOO_MANY, "32 kB"},
	        {CERT_MALFORMED, "badly made"}, {CERT_VERSION, "version 3"},
	        {CERT_DUPLICATE_EXTENSION, "twice"}, {CERT_CRITICAL_EXTENSION, "critical"},
	        {CERT_ALGORITHM, "kind of signature"}, {CERT_WEAK_SIGNATURE, "SHA-1"},
	        {CERT_KEY, "kind of key"}, {CERT_WEAK_KEY, "2048"}, {CERT_NAME, "another name"},
	        {CERT_NO_NAME, "subjectAltName"}, {CERT_EXPIRED, "expired"},
	        {CERT_NOT_YET_VALID, "not valid yet"}, {CERT_KEY_USAGE, "digitalSignature"},
	        {CERT_EXTENDED_KEY_USAGE, "serverAuth"}, {CERT_LEAF_IS_CA, "own certificate is a CA"},
	        {CERT_LEAF_CONSTRAINTS, "as only a CA"}, {CERT_NOT_CA, "not a CA's"},
	        {CERT_PATH_LENGTH, "pathLen"}, {CERT_CONSTRAINED, "may not give out"},
	        {CERT_CONSTRAINT_FORM, "unknown kind"}, {CERT_SIGNATURE, "signature is wrong"},
	        {CERT_UNTRUSTED, "MQTT_ROOT_CA"}, {CERT_ANCHOR_EXPIRED, "root"}};
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
		if (strstr(cert_error_text(cases[i].error), cases[i].word) == NULL)
			FAULT("%s: %s", name_of((unsigned)cases[i].error), cert_error_text(cases[i].error));
}

static void described(void **state)
{
	static const struct {
		const char *name;
		struct spec spec;
		const char *text;
	} cases[] = {
	        {"usual", {0}, "for 'broker.test', issued by 'R', valid 2026-01-01 to 2036-01-01"},
	        {"many names",
	                {.ext = SAN(DNS("a") IP("c0000207") "81('no')" DNS("b")
	                                 IP("20010db8000000000000000000000001") DNS("c") DNS("d"))},
	                "for 'a', 192.0.2.7, 'b', 2001:db8::1, ..., issued by"},
	        {"four names", {.ext = SAN(DNS("a") DNS("b") DNS("c") DNS("d"))},
	                "for 'a', 'b', 'c', 'd', issued by"},
	        {"no names", {.subject = CN("me"), .ext = KU("0780")}, "for 'me', issued by 'R', valid"},
	        {"no subject", {.subject = "30()", .ext = KU("0780")}, "for '', issued by"},
	        {"an organisation", {.subject = "30(31(30(06(55040a)0c('Org'))))", .ext = KU("0780")},
	                "for 'Org',"},
	        {"a name before an organisation",
	                {.subject = "30(31(30(06(550403)0c('me')))31(30(06(55040a)0c('Org'))))",
	                        .ext = KU("0780")},
	                "for 'me',"},
	        {"a name behind an organisation",
	                {.subject = "30(31(30(06(55040a)0c('Org')))31(30(06(550403)0c('me'))))",
	                        .ext = KU("0780")},
	                "for 'me',"},
	        {"other parts", {.subject = "30(31(30(06(550406)13('DE'))))", .ext = KU("0780")}, "for '',"},
	        {"a name that is no DER", {.subject = "30(ffffff)", .ext = KU("0780")}, "for '',"},
	        {"line breaks", {.ext = SAN("82('a' 0a 'b' 0d00 1b '[2J' e2 '\\')")},
	                "for 'a\\x0ab\\x0d\\x00\\x1b[2J\\xe2\\x5c', issued by"},
	        {"quotes", {.ext = SAN("82('a' 27 ', issued by ' 27 'R' 22)")},
	                "for 'a\\x27, issued by \\x27R\\x22', issued by"},
	        {"a long name",
	                {.ext = SAN(DNS(
	                         "123456789a123456789b123456789c123456789d123456789e123456789f123456789"))},
	                "for '123456789a123456789b123456789c123456789d123456789e123456789f123...', issued"},
	        {"far dates", {.dates = GENERAL("00010101000000", "99991231235959")},
	                "for 'broker.test', issued by 'R', valid 0001-01-01 to 9999-12-31"},
	};
	unsigned char mem[2000];
	struct cert c;
	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		struct spec s = cases[i].spec;
		struct buf b = BUF(mem);
		s.as = 'L';
		if (cert_read(&c, make(&s)) != CERT_OK)
			fail_msg("%s: %s", cases[i].name, name_of(c.error));
		cert_describe(&b, &c);
		if (strncmp(buf_cstr(&b), cases[i].text, strlen(cases[i].text)) != 0)
			FAULT("%s: %s", cases[i].name, mem);
	}
}

/* The longest that a certificate can say of itself fits into the detail, up to the date. */
static void detail_fits(void **state)
{
	static char ext[2000];
	struct chain_case c = {.name = "long",
	        .certs = "L",
	        .error = CERT_EXPIRED,
	        .spec = {{'L', .by = 'R', .ext = ext, EXPIRED}},
	        .detail = "; checked for 2030-01-01"};
	char name[200] = "82(";
	(void)state;
	for (int i = 0; i < 70; i++)
		strcat(name, "00");
	strcat(name, ")");
	sprintf(ext, "30(06(551d11)04(30(%s" DNS("broker.test") "%s%s%s)))", name, name, name, name);
	run_cases(&c, 1);
	assert_false(check.detail.full);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test_teardown(one_by_one, tell),
	        cmocka_unit_test_teardown(what_is_read, tell),
	        cmocka_unit_test_teardown(elements, tell),
	        cmocka_unit_test_teardown(only_der, tell),
	        cmocka_unit_test_teardown(cut_and_turned, tell),
	        cmocka_unit_test_teardown(many_extensions, tell),
	        cmocka_unit_test_teardown(dates, tell),
	        cmocka_unit_test_teardown(all_days, tell),
	        cmocka_unit_test_teardown(names, tell),
	        cmocka_unit_test_teardown(constraints, tell),
	        cmocka_unit_test_teardown(anchors, tell),
	        cmocka_unit_test_teardown(leaves, tell),
	        cmocka_unit_test_teardown(issuers, tell),
	        cmocka_unit_test_teardown(detours, tell),
	        cmocka_unit_test_teardown(every_byte_is_signed, tell),
	        cmocka_unit_test_teardown(many_ways, tell),
	        cmocka_unit_test_teardown(sizes, tell),
	        cmocka_unit_test_teardown(the_key, tell),
	        cmocka_unit_test_teardown(words, tell),
	        cmocka_unit_test_teardown(described, tell),
	        cmocka_unit_test_teardown(detail_fits, tell),
	};
	return cmocka_run_group_tests_name("cert", tests, make_rsa_key, NULL);
}
