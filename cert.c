#include "cert.h"

#include <assert.h>
#include <string.h>

#include "dns.h"

/* In the order of enum cert_error, with the section of the standard that the rule comes from (RFC 5280 where
 * nothing else is said). */
static const char *const errors[] = {
        "the broker has sent no certificate: give it one",
        "the broker sends more than 8 certificates, or over 32 kB of them: its own and those up to the root "
        "are enough",
        "a certificate is damaged or badly made: get it anew",
        "a certificate is not X.509 version 3: have it issued again",          /* §4.1.2.1 */
        "a certificate has an extension twice: have it issued again",          /* §4.2 */
        "a certificate has an unknown critical extension: use one without it", /* §4.2 */
        "a certificate has an unknown kind of signature: use RSA (PKCS #1) or ECDSA",
        "a certificate is signed with SHA-1 or worse: have it issued with SHA-256",
        "a certificate has an unknown kind of key: use RSA up to 4096 bits, P-256 or P-384",
        "a certificate has an RSA key under 2048 bits: use a longer key",
        "the broker's certificate is for another name: is MQTT_BROKER_HOST right?", /* RFC 9525 §6 */
        "the broker's certificate has no subjectAltName: have one made with it",    /* RFC 9525 §6.3 */
        "a certificate has expired: renew it, or correct this machine's clock",     /* §4.1.2.5 */
        "a certificate is not valid yet: is this machine's clock right?",           /* §4.1.2.5 */
        /* §4.2.1.3 */
        "a certificate's key usage forbids its use: a server needs digitalSignature, a CA keyCertSign",
        /* §4.2.1.12 */
        "a certificate is not for servers: its extended key usage lacks serverAuth",
        "the broker's own certificate is a CA's: have the CA issue one for the broker", /* §4.2.1.9 */
        "the broker's own certificate has name constraints, as only a CA's may",        /* §4.2.1.10 */
        "a certificate was issued by one that is not a CA's: use a proper CA",          /* §4.2.1.9 */
        "a CA may not have so many CAs below it (pathLen): use a proper CA",            /* §4.2.1.9 */
        "the broker's certificate has a name that its CA may not give out (name constraints)", /* §4.2.1.10 */
        "a CA's name constraints are of an unknown kind: use another CA", /* §4.2.1.10 */
        "a signature is wrong: was the certificate changed, or made by another CA of that name?", /* §6.1.3 */
        ("the broker's certificate comes from no trusted root: put its CA into MQTT_ROOT_CA, or have the "
         "broker send the certificates in between"), /* §6.1.3 */
        "the root is outside of its own dates: get the CA's new one",
};

static_assert(sizeof errors / sizeof errors[0] == CERT_ERRORS - CERT_NONE, "a sentence for each error");

const char *cert_error_text(int error)
{
	return error >= CERT_NONE && error < CERT_ERRORS ? errors[error - CERT_NONE] : "unknown";
}

/* --- DER (X.690 §10: definite lengths in their shortest form) --- */

enum {
	BOOLEAN = 0x01,
	INTEGER = 0x02,
	BIT_STRING = 0x03,
	OCTET_STRING = 0x04,
	OID = 0x06,
	UTC_TIME = 0x17,
	GENERALIZED_TIME = 0x18,
	SEQUENCE = 0x30,
	SET = 0x31,
	TAG_0 = 0xa0, /* constructed, context-specific */
	TAG_1 = 0xa1,
	TAG_3 = 0xa3,
	DNS_NAME = 0x82, /* GeneralName (RFC 5280 §4.2.1.6) */
	IP_ADDRESS = 0x87
};

/* A slice from which an element could not be taken: nothing can be, from then on, and it never comes to its
 * end (n 0), so that it is enough to look there once. */
static const struct slice broken = {NULL, 1}, nothing = {NULL, 0};

/* Takes the first element off in. Returns its tag, or -1 when there is none, or it is not DER. */
static int der_next(struct slice *in, struct slice *content)
{
	struct slice s = *in;
	*in = broken;
	*content = nothing;
	if (s.n < 2 || (s.p[0] & 0x1f) == 0x1f)
		return -1;
	size_t length = s.p[1], head = 2;
	if (length >= 0x80) {
		size_t digits = length & 0x7f;
		if (digits > 3 || s.n - 2 < digits)
			return -1;
		for (length = 0; head < 2 + digits; head++)
			length = length << 8 | s.p[head];
		if (length < 0x80 || length >> (8 * (digits - 1)) == 0)
			return -1;
	}
	if (length > s.n - head)
		return -1;
	*content = (struct slice){s.p + head, length};
	*in = (struct slice){s.p + head + length, s.n - head - length};
	return s.p[0];
}

/* Takes an element that must have the tag. Returns its content. */
static struct slice take(struct slice *in, int tag)
{
	struct slice content;
	if (der_next(in, &content) == tag)
		return content;
	*in = broken;
	return nothing;
}

/* The same, tag and length included. */
static struct slice take_whole(struct slice *in, int tag)
{
	const unsigned char *p = in->p;
	take(in, tag);
	return in->p == NULL ? nothing : (struct slice){p, (size_t)(in->p - p)};
}

/* Takes an element if it has the tag; p is NULL when it is not there. */
static struct slice take_optional(struct slice *in, int tag)
{
	return in->p != NULL && in->n > 0 && in->p[0] == tag ? take(in, tag) : nothing;
}

/* Takes a BIT STRING of whole bytes. */
static struct slice take_bits(struct slice *in)
{
	struct slice v = take(in, BIT_STRING);
	if (v.n > 0 && v.p[0] == 0)
		return (struct slice){v.p + 1, v.n - 1};
	*in = broken;
	return nothing;
}

/* Takes an INTEGER that is not negative, without its sign byte. */
static struct slice take_unsigned(struct slice *in)
{
	struct slice v = take(in, INTEGER);
	bool zero = v.n > 1 && v.p[0] == 0;
	if (v.n > 0 && (zero ? v.p[1] >= 0x80 : v.p[0] < 0x80))
		return (struct slice){v.p + zero, v.n - zero};
	*in = broken;
	return nothing;
}

/* Takes a BOOLEAN that may be missing (DEFAULT FALSE). */
static bool take_flag(struct slice *in)
{
	struct slice v = take_optional(in, BOOLEAN);
	if (v.p != NULL && (v.n != 1 || (v.p[0] != 0 && v.p[0] != 0xff)))
		*in = broken;
	return v.n == 1 && v.p[0] != 0;
}

/* --- dates (RFC 5280 §4.1.2.5) --- */

/* Days from 1970-01-01 to a date of the Gregorian calendar; the year is counted from March, so that the leap
 * day is its last. Month 13 is the next year's first. */
static int days_to(int year, int month, int day)
{
	if (month <= 2) {
		year--;
		month += 12;
	}
	return 365 * year + year / 4 - year / 100 + year / 400 + (153 * (month - 3) + 2) / 5 + day - 1 -
	       719468;
}

static int64_t take_time(struct slice *in)
{
	enum { CENTURY, YEAR, MONTH, DAY, HOUR, MINUTE, SECOND, PARTS };
	static const uint8_t least[] = {0, 0, 1, 1, 0, 0, 0}, most[] = {99, 99, 12, 31, 23, 59, 60};
	struct slice t;
	int tag = der_next(in, &t), v[PARTS];
	size_t i = tag == UTC_TIME ? YEAR : CENTURY;
	bool good = (tag == UTC_TIME || tag == GENERALIZED_TIME) && t.n == 2 * (PARTS - i) + 1 &&
	            t.p[t.n - 1] == 'Z';
	for (; good && i < PARTS; i++, t.p += 2) {
		v[i] = (int)slice_u64((struct slice){t.p, 2}, most[i]);
		good = v[i] >= least[i];
	}
	if (good) {
		int year = v[YEAR] + 100 * (tag != UTC_TIME ? v[CENTURY] : v[YEAR] < 50 ? 20 : 19);
		int day = days_to(year, v[MONTH], v[DAY]);
		if (year > 0 && day < days_to(year, v[MONTH] + 1, 1))
			return day * INT64_C(86400) + (v[HOUR] * 60 + v[MINUTE]) * 60 + v[SECOND];
	}
	*in = broken;
	return 0;
}

/* --- algorithms and keys --- */

#define IS(oid, text) slice_eq(oid, (struct slice){(const unsigned char *)(text), sizeof(text) - 1})

enum { WEAK, SHA256, SHA384, SHA512 };

/* Signatures (RFC 4055, RFC 5758). */
static const struct cert_algorithm {
	char oid[10];
	uint8_t key_type, hash;
} algorithms[] = {
        {"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0b", BR_KEYTYPE_RSA, SHA256},
        {"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0c", BR_KEYTYPE_RSA, SHA384},
        {"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0d", BR_KEYTYPE_RSA, SHA512},
        {"\x2a\x86\x48\xce\x3d\x04\x03\x02", BR_KEYTYPE_EC, SHA256},
        {"\x2a\x86\x48\xce\x3d\x04\x03\x03", BR_KEYTYPE_EC, SHA384},
        {"\x2a\x86\x48\xce\x3d\x04\x03\x04", BR_KEYTYPE_EC, SHA512},
        {"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x05", BR_KEYTYPE_RSA, WEAK}, /* SHA-1 */
        {"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x04", BR_KEYTYPE_RSA, WEAK}, /* MD5 */
        {"\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0e", BR_KEYTYPE_RSA, WEAK}, /* SHA-224 */
        {"\x2a\x86\x48\xce\x3d\x04\x01", BR_KEYTYPE_EC, WEAK},          /* SHA-1 */
        {"\x2a\x86\x48\xce\x3d\x04\x03\x01", BR_KEYTYPE_EC, WEAK},      /* SHA-224 */
};
enum { ALGORITHMS = sizeof algorithms / sizeof algorithms[0] };

static void note(struct cert *c, enum cert_error error)
{
	c->errors |= (uint32_t)1 << (error - CERT_NONE);
}

/* The parameters of RSA: NULL, or missing (RFC 4055 §5). */
static bool is_null(struct slice in)
{
	return in.n == 0 || IS(in, "\x05\x00");
}

/* The content of an AlgorithmIdentifier; ECDSA has no parameters (RFC 5758 §3.2). */
static bool read_algorithm(struct cert *c, struct slice in)
{
	struct slice oid = take(&in, OID);
	const struct cert_algorithm *a = algorithms, *end = algorithms + ALGORITHMS;
	while (a < end && !slice_is(oid, a->oid))
		a++;
	c->algorithm = a;
	if (a == end)
		note(c, CERT_ALGORITHM);
	else if (a->hash == WEAK)
		note(c, CERT_WEAK_SIGNATURE);
	else
		return a->key_type == BR_KEYTYPE_RSA ? is_null(in) : in.n == 0;
	return oid.p != NULL;
}

/* RFC 8017 §A.1.1. The exponent is odd, not 1, and limited, since verifying takes time in proportion to its
 * length. */
static bool read_rsa_key(struct cert *c, struct slice bits)
{
	struct slice key = take(&bits, SEQUENCE), n = take_unsigned(&key), e = take_unsigned(&key);
	if (bits.n > 0 || key.n > 0 || e.p[0] == 0)
		return false;
	if (n.n < 256 || (n.n == 256 && n.p[0] < 0x80))
		note(c, CERT_WEAK_KEY);
	if (n.n > 512 || e.n > 4 || (e.p[e.n - 1] & 1) == 0 || (e.n == 1 && e.p[0] == 1))
		note(c, CERT_KEY);
	c->self.key.key_type = BR_KEYTYPE_RSA;
	c->self.key.key.rsa = (br_rsa_public_key){(unsigned char *)n.p, n.n, (unsigned char *)e.p, e.n};
	return true;
}

/* SubjectPublicKeyInfo (RFC 3279 §2.3, RFC 5480 §2). */
static bool read_key(struct cert *c, struct slice in)
{
	struct slice algorithm = take(&in, SEQUENCE), bits = take_bits(&in), oid = take(&algorithm, OID);
	if (in.n > 0 || oid.p == NULL)
		return false;
	if (IS(oid, "\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01"))
		return is_null(algorithm) && read_rsa_key(c, bits);
	struct slice curve = take(&algorithm, OID);
	bool ec = IS(oid, "\x2a\x86\x48\xce\x3d\x02\x01") && algorithm.n == 0;
	bool p256 = IS(curve, "\x2a\x86\x48\xce\x3d\x03\x01\x07") && bits.n == 65;
	bool p384 = IS(curve, "\x2b\x81\x04\x00\x22") && bits.n == 97;
	if (!ec || (!p256 && !p384)) {
		note(c, CERT_KEY);
		return true;
	}
	c->self.key.key_type = BR_KEYTYPE_EC;
	c->self.key.key.ec =
	        (br_ec_public_key){p256 ? BR_EC_secp256r1 : BR_EC_secp384r1, (unsigned char *)bits.p, bits.n};
	return bits.p[0] == 4; /* RFC 5480 §2.2: uncompressed */
}

/* --- names (RFC 9525 §6) --- */

/* RFC 9525 §6.3: equal, or "*" as the whole left-most label stands for exactly one label. */
static bool name_matches(struct slice pattern, struct slice host)
{
	if (pattern.n > 2 && pattern.p[0] == '*' && pattern.p[1] == '.') {
		size_t label = 0;
		while (label < host.n && host.p[label] != '.')
			label++;
		/* "*.com" would stand for too much: two labels at least behind the wildcard. */
		return label > 0 && memchr(pattern.p + 2, '.', pattern.n - 2) != NULL &&
		       slice_like(slice_from(pattern, 1), slice_from(host, label));
	}
	return pattern.n > 0 && slice_like(pattern, host);
}

bool cert_matches(struct slice alt_names, const char *host)
{
	struct dns_address address;
	struct slice name, text = dns_bare(host);
	int tag;
	bool literal = dns_read_address(text, &address);
	while ((tag = der_next(&alt_names, &name)) >= 0)
		if (literal ? tag == IP_ADDRESS && slice_eq(name, (struct slice){address.ip, address.size})
		            : tag == DNS_NAME && name_matches(name, text))
			return true;
	return false;
}

/* --- name constraints (RFC 5280 §4.2.1.10) --- */

/* Is it a DNS name, empty, or with a dot in front? */
static bool is_dns_subtree(struct slice base)
{
	unsigned char last = 0;
	for (size_t i = 0; i < base.n; last = base.p[i++])
		if (!dns_is_label_char(base.p[i]) && (base.p[i] != '.' || last == '.'))
			return false;
	return last != '.';
}

/* Does name lie in the DNS subtree base: the same, or with more labels on the left? A dot in front, as many
 * CAs write it, stands for the latter alone. A wildcard lies where its parent does; excluding: also where it
 * could stand for base. */
static bool in_dns_subtree(struct slice name, struct slice base, bool excluding)
{
	bool dotted = base.n > 0 && base.p[0] == '.';
	base = slice_from(base, dotted);
	if (name.n > base.n && (base.n == 0 || name.p[name.n - base.n - 1] == '.') &&
	        slice_like(slice_from(name, name.n - base.n), base))
		return true;
	return !dotted && (excluding ? name_matches(name, base) : slice_like(name, base));
}

static bool in_ip_subtree(struct slice ip, struct slice base)
{
	if (base.n != 2 * ip.n)
		return false;
	for (size_t i = 0; i < ip.n; i++)
		if (((ip.p[i] ^ base.p[i]) & base.p[ip.n + i]) != 0)
			return false;
	return true;
}

/* May a CA with these constraints give out the name? Of other forms than DNS names and addresses there are
 * none: see read_constraints. */
static bool name_allowed(struct slice constraints, int form, struct slice name)
{
	struct slice subtrees, base;
	bool limited = false, permitted = false;
	int which;
	while ((which = der_next(&constraints, &subtrees)) >= 0)
		while (subtrees.n > 0) {
			struct slice subtree = take(&subtrees, SEQUENCE);
			if (subtree.p == NULL)
				break;
			if (der_next(&subtree, &base) != form)
				continue;
			bool inside = form == DNS_NAME ? in_dns_subtree(name, base, which == TAG_1)
			                               : in_ip_subtree(name, base);
			if (which == TAG_1 && inside)
				return false;
			limited |= which == TAG_0;
			permitted |= inside;
		}
	return !limited || permitted;
}

static bool names_allowed(struct slice constraints, struct slice alt_names)
{
	struct slice name;
	int form;
	while ((form = der_next(&alt_names, &name)) >= 0)
		if (!name_allowed(constraints, form, name))
			return false;
	return true;
}

/* --- extensions --- */

/* RFC 5280 §4.2.1.9. */
static bool read_basic_constraints(struct cert *c, struct slice in)
{
	c->self.ca = take_flag(&in);
	if (in.n == 0)
		return true;
	struct slice length = take_unsigned(&in);
	c->self.path_length = length.n == 1 ? length.p[0] : CERT_CHAIN;
	return c->self.ca && in.n == 0;
}

/* RFC 5280 §4.2.1.3: at least one bit is set, and of the unused ones none (X.690 §11.2.1). */
static bool read_key_usage(struct cert *c, struct slice bits)
{
	if (bits.n < 2 || bits.n > 3 || bits.p[0] > 7 || (bits.p[bits.n - 1] & ((1 << bits.p[0]) - 1)) != 0)
		return false;
	c->key_usage = (uint16_t)(bits.p[1] << 8 | (bits.n > 2 ? bits.p[2] : 0));
	return c->key_usage != 0;
}

/* RFC 5280 §4.2.1.12: serverAuth, or any. */
static bool read_extended_key_usage(struct cert *c, struct slice in)
{
	c->server_auth = false;
	while (in.n > 0) {
		struct slice oid = take(&in, OID);
		if (oid.p == NULL)
			return false;
		c->server_auth |= IS(oid, "\x2b\x06\x01\x05\x05\x07\x03\x01") || IS(oid, "\x55\x1d\x25\x00");
	}
	return true;
}

/* RFC 5280 §4.2.1.6: addresses have 4 or 16 bytes, a dNSName is not empty. */
static bool read_alt_names(struct cert *c, struct slice in)
{
	struct slice name;
	c->alt_names = in;
	while (in.n > 0) {
		int tag = der_next(&in, &name);
		if (tag < 0 || (tag == IP_ADDRESS && name.n != 4 && name.n != 16) ||
		        (tag == DNS_NAME && name.n == 0))
			return false;
	}
	return true;
}

/* RFC 5280 §4.2.1.10: subtrees of DNS names and of addresses with their mask; minimum and maximum are not
 * used. */
static bool read_constraints(struct cert *c, struct slice in)
{
	struct slice subtrees, base;
	c->self.constraints = in;
	while (in.n > 0) {
		int which = der_next(&in, &subtrees);
		if ((which != TAG_0 && which != TAG_1) || subtrees.n == 0)
			return false;
		while (subtrees.n > 0) {
			struct slice subtree = take(&subtrees, SEQUENCE);
			int form = der_next(&subtree, &base);
			if (form < 0)
				return false;
			if (subtree.n > 0 || (form == DNS_NAME            ? !is_dns_subtree(base)
			                             : form == IP_ADDRESS ? base.n != 8 && base.n != 32
			                                                  : true))
				note(c, CERT_CONSTRAINT_FORM);
		}
	}
	return true;
}

/* One extension (RFC 5280 §4.2). Those that are looked into are 2.5.29.x. */
static bool read_extension(struct cert *c, struct slice oid, bool critical, struct slice value)
{
	enum { KEY_USAGE = 15, ALT_NAMES = 17, BASIC = 19, CONSTRAINTS = 30, POLICIES = 32, EXTENDED = 37 };
	int number = oid.n == 3 && oid.p[0] == 0x55 && oid.p[1] == 0x1d ? oid.p[2] : 0;
	struct slice in = take(&value, number == KEY_USAGE ? BIT_STRING : SEQUENCE);
	bool good = value.n == 0 && (in.n > 0 || number == BASIC);
	switch (number) {
	case KEY_USAGE: good &= read_key_usage(c, in); break;
	case ALT_NAMES: good &= read_alt_names(c, in); break;
	case BASIC: good &= read_basic_constraints(c, in); break;
	case CONSTRAINTS: good &= read_constraints(c, in); break;
	case EXTENDED: good &= read_extended_key_usage(c, in); break;
	case POLICIES: break; /* any are acceptable (RFC 5280 §6.1.1 c) */
	default:
		if (critical)
			note(c, CERT_CRITICAL_EXTENSION);
		good = true;
	}
	return good;
}

static bool read_extensions(struct cert *c, struct slice in)
{
	struct slice list = take(&in, SEQUENCE), seen[CERT_EXTENSIONS];
	size_t n = 0;
	if (in.n > 0 || list.n == 0)
		return false;
	while (list.n > 0) {
		struct slice one = take(&list, SEQUENCE), oid = take(&one, OID);
		bool critical = take_flag(&one);
		struct slice value = take(&one, OCTET_STRING);
		if (one.n > 0 || n == CERT_EXTENSIONS)
			return false;
		for (size_t i = 0; i < n; i++)
			if (slice_eq(seen[i], oid))
				note(c, CERT_DUPLICATE_EXTENSION);
		seen[n++] = oid;
		if (!read_extension(c, oid, critical, value))
			return false;
	}
	return true;
}

/* --- a certificate (RFC 5280 §4.1) --- */

static bool read_version(struct cert *c, struct slice *in)
{
	struct slice tagged = take_optional(in, TAG_0), version = take_unsigned(&tagged);
	if (version.n == 1 && version.p[0] == 2)
		return tagged.n == 0;
	/* Before version 3 nothing says which certificates are a CA's: a root is one by being trusted. */
	note(c, CERT_VERSION);
	c->self.ca = true;
	return true;
}

static bool read_body(struct cert *c, struct slice in, struct slice algorithm)
{
	if (!read_version(c, &in))
		return false;
	take(&in, INTEGER); /* serial number */
	struct slice inner = take(&in, SEQUENCE);
	c->issuer = take_whole(&in, SEQUENCE);
	struct slice validity = take(&in, SEQUENCE);
	c->self.not_before_s = take_time(&validity);
	c->self.not_after_s = take_time(&validity);
	c->self.subject = take_whole(&in, SEQUENCE);
	struct slice key = take(&in, SEQUENCE);
	take_optional(&in, 0x81); /* unique identifiers */
	take_optional(&in, 0x82);
	struct slice extensions = take_optional(&in, TAG_3);
	return in.n == 0 && validity.n == 0 && slice_eq(inner, algorithm) && read_key(c, key) &&
	       (extensions.p == NULL || read_extensions(c, extensions));
}

static enum cert_error first_of(uint32_t all)
{
	return all == 0 ? CERT_OK : (enum cert_error)(CERT_NONE + __builtin_ctz(all));
}

enum cert_error cert_read(struct cert *c, struct slice der)
{
	*c = (struct cert){.self.path_length = -1, .key_usage = 0xffff, .server_auth = true};
	struct slice outer = take(&der, SEQUENCE);
	c->tbs = take_whole(&outer, SEQUENCE);
	struct slice algorithm = take(&outer, SEQUENCE), tbs = c->tbs, body = take(&tbs, SEQUENCE);
	c->signature = take_bits(&outer);
	if (der.n > 0 || outer.n > 0 || !read_algorithm(c, algorithm) || !read_body(c, body, algorithm))
		note(c, CERT_MALFORMED);
	return c->error = first_of(c->errors);
}

enum cert_error cert_read_anchor(struct cert_anchor *anchor, struct slice der)
{
	enum {
		FORGIVEN = 1 << (CERT_VERSION - CERT_NONE) | 1 << (CERT_ALGORITHM - CERT_NONE) |
		           1 << (CERT_WEAK_SIGNATURE - CERT_NONE)
	};
	struct cert c;
	cert_read(&c, der);
	*anchor = c.self;
	return first_of(c.errors & ~(uint32_t)FORGIVEN);
}

/* --- the path from the leaf to an anchor (RFC 5280 §6.1) --- */

/* A point of P-256 is shorter than one of P-384. */
bool cert_same_key(const br_x509_pkey *a, const br_x509_pkey *b)
{
	if (a->key_type != b->key_type)
		return false;
	if (a->key_type == BR_KEYTYPE_EC)
		return slice_eq((struct slice){a->key.ec.q, a->key.ec.qlen},
		        (struct slice){b->key.ec.q, b->key.ec.qlen});
	return slice_eq((struct slice){a->key.rsa.n, a->key.rsa.nlen},
	               (struct slice){b->key.rsa.n, b->key.rsa.nlen}) &&
	       slice_eq((struct slice){a->key.rsa.e, a->key.rsa.elen},
	               (struct slice){b->key.rsa.e, b->key.rsa.elen});
}

/* Is c signed with key? Signatures cost much, so a chain gets a limited number. */
static bool verify(struct cert_check *k, const struct cert *c, const br_x509_pkey *key)
{
	static const struct {
		const br_hash_class *class;
		const unsigned char *oid;
	} hashes[] = {
	        [SHA256] = {&br_sha256_vtable, BR_HASH_OID_SHA256},
	        [SHA384] = {&br_sha384_vtable, BR_HASH_OID_SHA384},
	        [SHA512] = {&br_sha512_vtable, BR_HASH_OID_SHA512},
	};
	unsigned id = c->algorithm->hash;
	const br_hash_class *h = hashes[id].class;
	size_t size = h->desc >> BR_HASHDESC_OUT_OFF & BR_HASHDESC_OUT_MASK;
	if (c->algorithm->key_type != key->key_type || k->signatures == CERT_SIGNATURES)
		return false;
	k->signatures++;
	h->init(&k->hasher.vtable);
	h->update(&k->hasher.vtable, c->tbs.p, c->tbs.n);
	h->out(&k->hasher.vtable, k->hash);
	if (key->key_type == BR_KEYTYPE_EC)
		return k->ecdsa(k->ec, k->hash, size, &key->key.ec, c->signature.p, c->signature.n) != 0;
	return k->rsa(c->signature.p, c->signature.n, hashes[id].oid, size, &key->key.rsa, k->signed_hash) !=
	               0 &&
	       memcmp(k->hash, k->signed_hash, size) == 0;
}

static enum cert_error check_dates(const struct cert_check *k, const struct cert_anchor *a)
{
	return k->time_s < a->not_before_s  ? CERT_NOT_YET_VALID
	       : k->time_s > a->not_after_s ? CERT_EXPIRED
	                                    : CERT_OK;
}

/* May c be used in the role that a key usage stands for (RFC 5280 §4.2.1.3)? */
enum { DIGITAL_SIGNATURE = 0x8000, KEY_CERT_SIGN = 0x8000 >> 5 };

static enum cert_error check_use(const struct cert *c, unsigned key_usage)
{
	if ((c->key_usage & key_usage) == 0)
		return CERT_KEY_USAGE;
	return c->server_auth ? CERT_OK : CERT_EXTENDED_KEY_USAGE;
}

static bool self_issued(const struct cert *c)
{
	return slice_eq(c->self.subject, c->issuer);
}

/* RFC 5280 §6.1.4 l: how many of the certificates count against a path length, above the leaf. */
static int path_length(const struct cert_check *k)
{
	int n = 0;
	for (size_t i = 1; i < k->path_certs; i++)
		n += !self_issued(k->path[i]);
	return n;
}

/* Has the holder of this name and key signed the last certificate of the path, and was it allowed to? fault:
 * what is wrong with it otherwise. */
static enum cert_error try_issuer(struct cert_check *k, const struct cert_anchor *by, enum cert_error fault)
{
	const struct cert *last = k->path[k->path_certs - 1];
	if (!slice_eq(by->subject, last->issuer))
		return CERT_UNTRUSTED;
	if (fault != CERT_OK)
		return fault;
	if (!verify(k, last, &by->key))
		return CERT_SIGNATURE;
	return by->path_length >= 0 && path_length(k) > by->path_length ? CERT_PATH_LENGTH
	                                                                : check_dates(k, by);
}

/* May this anchor be the end of the path? */
static enum cert_error try_anchor(struct cert_check *k, const struct cert_anchor *a)
{
	enum cert_error error = try_issuer(k, a, a->ca ? CERT_OK : CERT_UNTRUSTED);
	if (error == CERT_EXPIRED || error == CERT_NOT_YET_VALID)
		return CERT_ANCHOR_EXPIRED;
	/* The names of each certificate lie within the constraints of all above it. */
	for (size_t i = 1; error == CERT_OK && i <= k->path_certs; i++) {
		const struct cert_anchor *above = i < k->path_certs ? &k->path[i]->self : a;
		for (size_t j = 0; j < i; j++)
			if (!names_allowed(above->constraints, k->path[j]->alt_names))
				error = CERT_CONSTRAINED;
	}
	return error;
}

/* May the certificate c be the next one of the path? */
static enum cert_error try_cert(struct cert_check *k, const struct cert *c)
{
	for (size_t i = 0; i < k->path_certs; i++)
		if (k->path[i] == c)
			return CERT_UNTRUSTED;
	enum cert_error fault = !c->self.ca ? CERT_NOT_CA : check_use(c, KEY_CERT_SIGN);
	/* A root that is sent along is not needed: that it is of an old kind says nothing. */
	if (c->error != CERT_OK)
		fault = self_issued(c) ? CERT_UNTRUSTED : c->error;
	return try_issuer(k, &c->self, fault);
}

/* Remembers the first error that says more than that no way was found. */
static void note_fault(struct cert_check *k, enum cert_error error, const struct cert *fault)
{
	if (k->error != CERT_UNTRUSTED || error == CERT_UNTRUSTED || error == CERT_OK)
		return;
	k->error = error;
	k->fault = fault;
}

/* Looks for a way from the leaf to an anchor, depth first: servers send their certificates out of order, and
 * others that do not belong there (RFC 8446 §4.4.2 asks for this). False: k->error says why there is none. */
static bool find_path(struct cert_check *k)
{
	uint8_t tried[CERT_CHAIN] = {0}; /* so many as the next one of the path */
	k->error = CERT_UNTRUSTED;
	while (k->path_certs > 0) {
		uint8_t *i = &tried[k->path_certs - 1];
		const struct cert *last = k->path[k->path_certs - 1];
		for (size_t a = 0; *i == 0 && a < k->anchors; a++) {
			k->root = &k->anchor[a];
			enum cert_error error = try_anchor(k, k->root);
			if (error == CERT_OK)
				return true;
			note_fault(k, error, last);
		}
		if (++*i >= k->certs) {
			k->path_certs--;
			continue;
		}
		const struct cert *next = &k->cert[*i];
		enum cert_error error = try_cert(k, next);
		note_fault(k, error, error == CERT_SIGNATURE ? last : next);
		if (error == CERT_OK) {
			tried[k->path_certs] = 0;
			k->path[k->path_certs++] = next;
		}
	}
	return false;
}

/* Is the leaf itself an anchor: the same name and key? Then nobody's signature is needed. */
static const struct cert_anchor *leaf_anchor(const struct cert_check *k)
{
	for (size_t i = 0; i < k->anchors; i++)
		if (slice_eq(k->anchor[i].subject, k->cert[0].self.subject) &&
		        cert_same_key(&k->anchor[i].key, &k->cert[0].self.key))
			return &k->anchor[i];
	return NULL;
}

static enum cert_error check_leaf(const struct cert_check *k, bool is_anchor)
{
	const struct cert *leaf = &k->cert[0];
	if (leaf->error != CERT_OK)
		return leaf->error;
	if (leaf->alt_names.p == NULL)
		return CERT_NO_NAME;
	if (!cert_matches(leaf->alt_names, k->host))
		return CERT_NAME;
	if (leaf->self.ca && !is_anchor)
		return CERT_LEAF_IS_CA;
	if (leaf->self.constraints.p != NULL && !is_anchor)
		return CERT_LEAF_CONSTRAINTS;
	enum cert_error error = check_use(leaf, DIGITAL_SIGNATURE);
	return error != CERT_OK ? error : check_dates(k, &leaf->self);
}

static enum cert_error check_chain(struct cert_check *k)
{
	size_t from = 0;
	if (k->certs == 0)
		return CERT_NONE;
	for (size_t i = 0; i < k->certs; i++) {
		cert_read(&k->cert[i], (struct slice){k->bytes_mem + from, k->end[i] - from});
		from = k->end[i];
	}
	const struct cert_anchor *own = leaf_anchor(k);
	enum cert_error error = check_leaf(k, own != NULL);
	if (error != CERT_OK)
		return error;
	k->path[0] = k->cert;
	k->path_certs = 1;
	k->root = own;
	if (own == NULL)
		return find_path(k) ? CERT_OK : k->error;
	return check_dates(k, own) == CERT_OK ? CERT_OK : CERT_ANCHOR_EXPIRED;
}

/* --- words --- */

/* RFC 5280 §4.1.2.4. */
struct slice cert_name_text(struct slice name)
{
	struct slice in = take(&name, SEQUENCE), organisation = nothing;
	while (in.n > 0) {
		struct slice set = take(&in, SET), pair = take(&set, SEQUENCE), oid = take(&pair, OID), value;
		if (der_next(&pair, &value) < 0)
			break;
		if (IS(oid, "\x55\x04\x03"))
			return value;
		if (IS(oid, "\x55\x04\x0a"))
			organisation = value;
	}
	return organisation;
}

/* In about 64 characters. */
static void put_quoted(struct buf *b, struct slice text)
{
	size_t i = 0, start = b->n;
	buf_put_byte(b, '\'');
	for (; i < text.n && b->n - start < 64; i++)
		if (text.p[i] == '\'')
			buf_put_str(b, "\\x27");
		else
			buf_put_escaped(b, (struct slice){text.p + i, 1}, 1);
	buf_put_str(b, i < text.n ? "...'" : "'");
}

static void put_alt_names(struct buf *b, struct slice alt_names)
{
	struct slice name;
	int tag;
	for (size_t n = 0; (tag = der_next(&alt_names, &name)) >= 0;) {
		if (tag != DNS_NAME && tag != IP_ADDRESS)
			continue;
		if (n > 0)
			buf_put_str(b, ", ");
		if (n++ == 4) {
			buf_put_str(b, "...");
			return;
		}
		struct dns_address a = {.size = (uint32_t)name.n};
		if (tag == DNS_NAME) {
			put_quoted(b, name);
		} else {
			memcpy(a.ip, name.p, name.n);
			dns_put_address(b, &a);
		}
	}
}

void cert_put_day(struct buf *b, int64_t time_s)
{
	buf_put_time(b, time_s * 1000000);
	if (!b->full)
		b->n -= sizeof "T00:00:00.000000Z" - 1;
}

void cert_describe(struct buf *b, const struct cert *c)
{
	buf_put_str(b, "for ");
	size_t before = b->n;
	put_alt_names(b, c->alt_names);
	if (b->n == before) /* no host name or address is in it */
		put_quoted(b, cert_name_text(c->self.subject));
	buf_put_str(b, ", issued by ");
	put_quoted(b, cert_name_text(c->issuer));
	buf_put_str(b, ", valid ");
	cert_put_day(b, c->self.not_before_s);
	buf_put_str(b, " to ");
	cert_put_day(b, c->self.not_after_s);
}

/* What the certificate at fault says, and what was expected. */
static void put_detail(struct cert_check *k)
{
	struct buf *b = &k->detail;
	if (k->certs == 0 || k->error == CERT_TOO_MANY)
		return;
	if (k->fault->error == CERT_MALFORMED) {
		buf_put_text(b, "certificate %u of %u", (unsigned)(k->fault - k->cert) + 1, k->certs);
		return;
	}
	cert_describe(b, k->fault);
	if (k->error == CERT_NAME || k->error == CERT_NO_NAME) {
		buf_put_str(b, "; expected ");
		put_quoted(b, slice_str(k->host));
	} else if (k->error == CERT_EXPIRED || k->error == CERT_NOT_YET_VALID ||
	           k->error == CERT_ANCHOR_EXPIRED) {
		buf_put_str(b, "; checked for ");
		cert_put_day(b, k->time_s);
	}
}

/* --- the class that BearSSL's engine calls --- */

static struct cert_check *check_of(const br_x509_class *const *class)
{
	return (struct cert_check *)(uintptr_t)(const void *)class;
}

static void start_chain(const br_x509_class **class, const char *server_name)
{
	struct cert_check *k = check_of(class);
	(void)server_name; /* SNI is no address; host is what counts */
	k->certs = k->signatures = 0;
	k->fault = k->cert;
	k->bytes = (struct buf)BUF(k->bytes_mem);
	k->error = CERT_OK;
	k->detail = (struct buf)BUF(k->detail_mem);
}

static void start_cert(const br_x509_class **class, uint32_t length)
{
	struct cert_check *k = check_of(class);
	if (k->error != CERT_OK)
		return;
	if (k->certs == CERT_CHAIN || length > k->bytes.cap - k->bytes.n)
		k->error = CERT_TOO_MANY;
}

static void append(const br_x509_class **class, const unsigned char *p, size_t n)
{
	struct cert_check *k = check_of(class);
	if (k->error == CERT_OK)
		buf_put(&k->bytes, p, n);
}

static void end_cert(const br_x509_class **class)
{
	struct cert_check *k = check_of(class);
	if (k->error == CERT_OK)
		k->end[k->certs++] = k->bytes.n;
}

static unsigned end_chain(const br_x509_class **class)
{
	struct cert_check *k = check_of(class);
	if (k->error == CERT_OK)
		k->error = check_chain(k);
	if (k->error != CERT_OK)
		put_detail(k);
	return k->error;
}

static const br_x509_pkey *get_pkey(const br_x509_class *const *class, unsigned *usages)
{
	struct cert_check *k = check_of(class);
	if (usages != NULL)
		*usages = BR_KEYTYPE_SIGN;
	return &k->cert[0].self.key;
}

const br_x509_class cert_class = {
        sizeof(struct cert_check), start_chain, start_cert, append, end_cert, end_chain, get_pkey};
