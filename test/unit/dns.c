/* The resolver's texts, its messages, and its look-ups in virtual time against a zone of a dozen names. */
// uses: buf.c
#include "unit.h"

#include <arpa/inet.h>

#include "../../dns.c"

static uint32_t seed = 1;

static uint32_t rnd(uint32_t below)
{
	seed ^= seed << 13;
	seed ^= seed >> 17;
	seed ^= seed << 5;
	return seed % below;
}

static const char *text_of(const struct dns_address *a, char out[64])
{
	unsigned char space[64];
	struct buf b = BUF(space);
	dns_put_address(&b, a);
	strcpy(out, buf_cstr(&b));
	return out;
}

static bool read_guarded(const char *text, struct dns_address *a)
{
	size_t n = strlen(text);
	unsigned char *p = guarded_copy(text, n);
	bool ok = dns_read_address((struct slice){p, n}, a);
	guarded_free(p, n);
	return ok;
}

/* Literals: text, and what it is written as again; NULL: refused. */
static void test_literals(void **state)
{
	static const char *const table[][2] = {{"0.0.0.0", "0.0.0.0"}, {"127.0.0.1", "127.0.0.1"},
	        {"255.255.255.255", "255.255.255.255"}, {"127.1", NULL}, {"1", NULL}, {"", NULL}, {".", NULL},
	        {"1.2.3", NULL}, {"1.2.3.", NULL}, {".1.2.3", NULL}, {"1..2.3", NULL}, {"1.2.3.4.", NULL},
	        {"1.2.3.4.5", NULL}, {"256.1.1.1", NULL}, {"1.1.1.256", NULL}, {"01.2.3.4", NULL},
	        {"1.2.3.00", NULL}, {"0x7f.0.0.1", NULL}, {"0x7f.1", NULL}, {"2130706433", NULL},
	        {"1.2.3.4294967297", NULL}, {"1.2.3.-4", NULL}, {"1.2.3.4 ", NULL}, {" 1.2.3.4", NULL},
	        {"1.2.3.4%1", NULL}, {"[1.2.3.4]", NULL}, {"a.b.c.d", NULL}, {"::", "::"}, {"::1", "::1"},
	        {"1::", "1::"}, {"1::8", "1::8"}, {"0:0:0:0:0:0:0:0", "::"},
	        {"2001:DB8::0001", "2001:db8::1"}, {"1:2:3:4:5:6:7:8", "1:2:3:4:5:6:7:8"},
	        {"1:2:3:4:5:6:7::", "1:2:3:4:5:6:7:0"}, {"::2:3:4:5:6:7:8", "0:2:3:4:5:6:7:8"},
	        {"1:2:3:4::6:7:8", "1:2:3:4:0:6:7:8"}, {"1:0:0:4:0:0:0:8", "1:0:0:4::8"},
	        {"1:0:0:4:5:0:0:8", "1::4:5:0:0:8"}, {"1:0:3:0:5:0:7:0", "1:0:3:0:5:0:7:0"},
	        {"0:0:3::", "0:0:3::"},
	        {"fedc:ba98:7654:3210:f:00ab:0cde:ffff", "fedc:ba98:7654:3210:f:ab:cde:ffff"},
	        {"::ffff:192.0.2.1", "::ffff:192.0.2.1"}, {"::FFFF:c000:201", "::ffff:192.0.2.1"},
	        {"::fffe:192.0.2.1", "::fffe:c000:201"}, {"1:2:3:4:5:6:1.2.3.4", "1:2:3:4:5:6:102:304"},
	        {"64:ff9b::1.2.3.4", "64:ff9b::102:304"}, {"[::1]", "::1"},
	        {"[2001:db8::1%7]", "2001:db8::1%7"}, {"fe80::1%2", "fe80::1%2"},
	        {"fe80::1%4294967295", "fe80::1%4294967295"}, {"fe80::1%4294967296", NULL},
	        {"fe80::1%eth0", NULL}, {"fe80::1%", NULL}, {"fe80::1%1%1", NULL}, {"[fe80::1]%2", NULL},
	        {"[::1", NULL}, {"::1]", NULL}, {"[]", NULL}, {"[:]", NULL}, {"[", NULL}, {"[[::1]]", NULL},
	        {":", NULL}, {":1", NULL}, {"1:", NULL}, {":::", NULL}, {"1:::2", NULL}, {"1::2::3", NULL},
	        {"1:2:3:4:5:6:7", NULL}, {"1:2:3:4:5:6:7:", NULL}, {"1:2:3:4:5:6:7:8:9", NULL},
	        {"1:2:3:4:5:6:7:8::", NULL}, {"::1:2:3:4:5:6:7:8", NULL}, {"1:2:3:4::5:6:7:8", NULL},
	        {"12345::", NULL}, {"::00001", NULL}, {"::g", NULL}, {"::1.2.3", NULL}, {"::1.2.3.4.5", NULL},
	        {"::1.2.3.4:5", NULL}, {"::01.2.3.4", NULL}, {"1:2:3:4:5:6:7:1.2.3.4", NULL},
	        {"1:2:3:4:5:1.2.3.4", NULL}, {"1.2.3.4::", NULL}};
	(void)state;
	for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
		struct dns_address a;
		char out[64];
		bool ok = read_guarded(table[i][0], &a);
		unsigned char *ip = guarded(16); /* no text may write more */
		read_ip6(slice_str(table[i][0]), ip);
		guarded_free(ip, 16);
		if (ok != (table[i][1] != NULL) || (a.size > 0) != ok)
			fail_msg("\"%s\" was %s", table[i][0], ok ? "read" : "refused");
		if (ok && strcmp(text_of(&a, out), table[i][1]) != 0)
			fail_msg("\"%s\" became \"%s\"", table[i][0], out);
	}
}

/* Random texts and addresses: the same verdicts and the same texts as libc's. */
static void test_literals_as_libc(void **state)
{
	size_t good = 0;
	(void)state;
	for (size_t i = 0; i < 300000; i++) {
		static const char alphabet[] = "0129afF::::...1:0";
		char text[64], out[64];
		unsigned char ip[16], want[16];
		size_t n = 0;
		if (i % 2 == 0) { /* a text of an address, hurt in one place */
			for (size_t k = 0; k < 16; k++)
				ip[k] = rnd(3) == 0 ? (unsigned char)rnd(256) : 0;
			inet_ntop(rnd(4) ? AF_INET6 : AF_INET, ip, text, sizeof text);
			n = strlen(text);
			text[rnd((uint32_t)n)] = alphabet[rnd(sizeof alphabet - 1)];
		} else {
			for (size_t end = rnd(24); n < end; n++)
				text[n] = alphabet[rnd(sizeof alphabet - 1)];
		}
		text[n] = 0;
		struct dns_address a;
		unsigned size = inet_pton(AF_INET, text, want) == 1    ? 4
		                : inet_pton(AF_INET6, text, want) == 1 ? 16
		                                                       : 0;
		dns_read_address(slice_str(text), &a);
		if (a.size != size || memcmp(a.ip, want, size) != 0)
			fail_msg("\"%s\" read as %d bytes, libc %u", text, a.size, size);
		good += size > 0;
		if (size == 0 || (size == 16 && memcmp(want, (unsigned char[12]){0}, 12) == 0))
			continue; /* libc writes ::1.2.3.4, deprecated by RFC 4291 §2.5.5.1 */
		inet_ntop(size == 4 ? AF_INET : AF_INET6, want, text, sizeof text);
		assert_string_equal(text_of(&a, out), text);
	}
	assert_true(good > 10000);
}

/* resolv.conf: text, and the settings as one line. */
static void test_conf(void **state)
{
#define DEFAULTS " | ndots 1 timeout 5 attempts 2"
	static const char *const table[][2] = {
	        {"", "127.0.0.1 |" DEFAULTS},
	        {"\n\n", "127.0.0.1 |" DEFAULTS},
	        {"nameserver 192.0.2.1", "192.0.2.1 |" DEFAULTS},
	        {"nameserver\t192.0.2.1 \r\nnameserver 2001:db8::1 # x\r\n",
	                "192.0.2.1 2001:db8::1 |" DEFAULTS},
	        {"nameserver fe80::1%3\n", "fe80::1%3 |" DEFAULTS},
	        {"nameserver ns.test\nnameserver 1.2\nnameserver\nnameserver 192.0.2.1\n",
	                "192.0.2.1 |" DEFAULTS},
	        {"nameserver 192.0.2.1\nnameserver 192.0.2.2\nnameserver 192.0.2.3\nnameserver 192.0.2.4\n",
	                "192.0.2.1 192.0.2.2 192.0.2.3 |" DEFAULTS},
	        {"#nameserver 192.0.2.1\n; nameserver 192.0.2.2\nnameserverx 192.0.2.3\nNAMESERVER "
	         "192.0.2.4\n",
	                "127.0.0.1 |" DEFAULTS},
	        {"sortlist 192.0.2.0\nlookup file bind\nfamily inet4\n", "127.0.0.1 |" DEFAULTS},
	        {"domain a.test\n", "127.0.0.1 | a.test" DEFAULTS},
	        {"domain a.test b.test\n", "127.0.0.1 | a.test" DEFAULTS},
	        {"search a.test b.test\ndomain c.test\n", "127.0.0.1 | c.test" DEFAULTS},
	        {"domain c.test\nsearch a.test.\tb_1.test", "127.0.0.1 | a.test. b_1.test" DEFAULTS},
	        {"search a.test\nsearch .\n", "127.0.0.1 | ." DEFAULTS},
	        {"search a.test\nsearch\n", "127.0.0.1 |" DEFAULTS},
	        {"search 1 2 3 4 5 6 7\n", "127.0.0.1 | 1 2 3 4 5 6" DEFAULTS},
	        {"options ndots:3 timeout:1 rotate attempts:4\n",
	                "127.0.0.1 | | ndots 3 timeout 1 attempts 4"},
	        {"options ndots:0\noptions attempts:1\n", "127.0.0.1 | | ndots 0 timeout 5 attempts 1"},
	        {"options ndots:99 timeout:99 attempts:99\n", "127.0.0.1 | | ndots 15 timeout 30 attempts 5"},
	        {"options timeout:0 attempts:0\n", "127.0.0.1 | | ndots 1 timeout 1 attempts 1"},
	        {"options ndots: timeout:x attempts:-1 ndots:99999999999999999999 ndots timeout:2s\n",
	                "127.0.0.1 |" DEFAULTS},
	};
	(void)state;
	for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
		struct dns_conf c;
		char got[2048], out[64];
		size_t n = strlen(table[i][0]), at = 0;
		unsigned char *p = guarded_copy(table[i][0], n);
		dns_read_conf(&c, (struct slice){p, n});
		guarded_free(p, n);
		for (size_t k = 0; k < c.servers; k++)
			at += (size_t)sprintf(got + at, "%s ", text_of(&c.server[k], out));
		at += (size_t)sprintf(got + at, "|");
		for (size_t k = 0; k < c.searches; k++)
			at += (size_t)sprintf(got + at, " %s", c.search[k]);
		sprintf(got + at, " | ndots %u timeout %u attempts %u", c.option[DNS_NDOTS],
		        c.option[DNS_TIMEOUT_S], c.option[DNS_ATTEMPTS]);
		if (strcmp(got, table[i][1]) != 0)
			fail_msg("resolv.conf \"%s\":\ngot  %s\nwant %s", table[i][0], got, table[i][1]);
	}
}

/* Every prefix of a resolv.conf against a guard page; and one line longer than any name. */
static void test_conf_prefixes(void **state)
{
	static const char text[] =
	        "nameserver 192.0.2.1\nsearch a.test b.test.\noptions ndots:2 attempts:3\n";
	static char line[600] = "search ";
	struct dns_conf c;
	(void)state;
	for (size_t n = 0; n < sizeof text; n++) {
		unsigned char *p = guarded_copy(text, n);
		dns_read_conf(&c, (struct slice){p, n});
		guarded_free(p, n);
		assert_int_equal(c.servers, 1);
		assert_int_equal(c.searches, n < 29 ? 0 : n < 36 ? 1 : 2);
		assert_int_equal(c.option[DNS_NDOTS], n < 58 ? 1 : 2);
	}
	for (size_t n = 7; n < sizeof line - 1; n++)
		line[n] = n % 50 == 0 ? '.' : 'a';
	dns_read_conf(&c, slice_str(line));
	assert_int_equal(c.searches, 0);
}

static void test_hosts(void **state)
{
	static const char text[] = "127.0.0.1\tlocalhost\n"
	                           "::1 localhost ip6-localhost # one\n"
	                           "192.0.2.1 a.test a b_1 #c\n"
	                           "#192.0.2.2 b.test\n"
	                           "192.0.2.3 d.test#d2.test\r\n"
	                           "192.0.2.4 crlf.test\r\n"
	                           "nonsense b.test\n"
	                           "192.0.2.5\n"
	                           "\n"
	                           "   192.0.2.6   A.Test   \n"
	                           "fe80::1%3 linklocal\n";
	static const char *const table[][2] = {
	        {"localhost", " 127.0.0.1 ::1"},
	        {"a.test", " 192.0.2.1 192.0.2.6"},
	        {"A.TEST.", " 192.0.2.1 192.0.2.6"},
	        {"a", " 192.0.2.1"},
	        {"b_1", " 192.0.2.1"},
	        {"ip6-localhost", " ::1"},
	        {"linklocal", " fe80::1%3"},
	        {"crlf.test", " 192.0.2.4"},
	        {"d.test", " 192.0.2.3"},
	        {"d2.test", ""},
	        {"c", ""},
	        {"one", ""},
	        {"b.test", ""},
	        {"a.tes", ""},
	        {"192.0.2.5", ""},
	        {"", ""},
	};
	(void)state;
	for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
		struct dns_address list[DNS_ADDRESSES];
		for (int pieces = 0; pieces < 2; pieces++) { /* at once, and line by line */
			char got[600] = "", out[64];
			size_t n = 0;
			for (const char *p = text; *p;) {
				size_t len = pieces ? (size_t)(strchr(p, '\n') + 1 - p) : strlen(p);
				unsigned char *g = guarded_copy(p, len);
				dns_read_hosts((struct slice){g, len}, table[i][0], list, &n);
				guarded_free(g, len);
				p += len;
			}
			for (size_t k = 0; k < n; k++)
				strcat(strcat(got, " "), text_of(&list[k], out));
			if (strcmp(got, table[i][1]) != 0)
				fail_msg("hosts %s: got%s, want%s", table[i][0], got, table[i][1]);
		}
	}
}

static void test_hosts_full(void **state)
{
	char text[400] = "";
	struct dns_address list[DNS_ADDRESSES];
	size_t n = 0;
	(void)state;
	for (int i = 0; i < 20; i++)
		strcat(text, "192.0.2.1 many\n");
	dns_read_hosts(slice_str(text), "many", list, &n);
	assert_int_equal(n, DNS_ADDRESSES);
	dns_read_hosts(slice_str(text), "many", list, &n);
	assert_int_equal(n, DNS_ADDRESSES);
}

static void test_localhost(void **state)
{
	static const char *const yes[] = {
	        "localhost", "LocalHost", "localhost.", "a.localhost", "a.b.LOCALHOST."};
	static const char *const no[] = {
	        "", ".", "local", "localhost.test", "xlocalhost", "ocalhost", "localhost.."};
	struct dns_address list[2];
	char out[64];
	(void)state;
	for (size_t i = 0; i < sizeof yes / sizeof *yes; i++) {
		memset(list, 0, sizeof list);
		if (!dns_is_localhost(yes[i], list))
			fail_msg("%s is not localhost", yes[i]);
		assert_string_equal(text_of(&list[0], out), "127.0.0.1");
		assert_string_equal(text_of(&list[1], out), "::1");
	}
	for (size_t i = 0; i < sizeof no / sizeof *no; i++) {
		if (dns_is_localhost(no[i], list))
			fail_msg("%s is localhost", no[i]);
	}
}

/* Messages */

static void put_name(struct buf *b, const char *text)
{
	struct dns_name w = {.n = 0};
	if (strcmp(text, "@") == 0) { /* a pointer to the question */
		buf_put_u16be(b, 0xc00c);
		return;
	}
	assert_true(add_labels(&w, slice_str(text)));
	w.wire[w.n++] = 0;
	buf_put(b, w.wire, w.n);
}

static void put_record(
        struct buf *b, const char *owner, unsigned type, unsigned class, const void *p, size_t n)
{
	put_name(b, owner);
	buf_put_u16be(b, (uint16_t)type);
	buf_put_u16be(b, (uint16_t) class);
	buf_put(b, "\0\0\0\1", 4);
	buf_put_u16be(b, (uint16_t)n);
	buf_put(b, p, n);
}

/* Puts records, "owner A 192.0.2.1; owner CNAME name; …" with the types A, AAAA, CNAME, CH (A in the class
 * CHAOS) and TXT, and returns their number. */
static unsigned put_records(struct buf *b, const char *records)
{
	char owner[256], type[8], data[256];
	unsigned n = 0;
	for (int used = 0; sscanf(records, " %255[^ ;] %7s %255[^ ;] %n", owner, type, data, &used) == 3;
	        n++) {
		unsigned char bytes[256];
		struct buf rdata = BUF(bytes);
		struct dns_address a;
		if (dns_read_address(slice_str(data), &a))
			buf_put(&rdata, a.ip, a.size);
		else
			put_name(&rdata, data);
		unsigned number = type[0] == 'T'               ? 16
		                  : strcmp(type, "CNAME") == 0 ? 5
		                  : a.size == 16               ? 28
		                                               : 1;
		put_record(b, owner, number, strcmp(type, "CH") == 0 ? 3 : 1, rdata.p, rdata.n);
		records += used + (records[used] == ';');
		used = 0;
	}
	assert_int_equal(*records, 0);
	return n;
}

/* An answer to the question that d asks now. */
static void put_answer(struct buf *b, const struct dns *d, bool aaaa, unsigned flags, const char *records)
{
	unsigned char mem[512];
	struct buf question = BUF(mem);
	size_t at = b->n;
	dns_put_question(d, aaaa, &question);
	buf_put_slice(b, slice_from(buf_slice(&question), 2)); /* without TCP's length */
	b->p[at + 2] = (unsigned char)(flags >> 8);
	b->p[at + 3] = (unsigned char)flags;
	b->p[at + 7] = (unsigned char)put_records(b, records);
	assert_false(b->full);
}

/* Gives d the answer against a guard page. */
static void give(struct dns *d, size_t s, const struct buf *b, size_t n, int64_t now)
{
	unsigned char *p = guarded_copy(b->p, n);
	dns_answer(d, s, (struct slice){p, n}, now);
	guarded_free(p, n);
}

static const struct dns_conf one_server = {
        .server = {{4, {192, 0, 2, 53}, 0}}, .servers = 1, .option = {1, 5, 2}};

static void begin_with(
        struct dns *d, const char *name, const struct dns_conf *conf, uint32_t random, int64_t now)
{
	memset(d, 0, sizeof *d);
	d->conf = *conf;
	begin(d, name, random, now);
}

static void must_begin(struct dns *d, const char *name)
{
	begin_with(d, name, &one_server, 0x12345678, 0);
	assert_int_equal(d->state, DNS_ASKING);
}

static void test_question(void **state)
{
	struct dns d;
	unsigned char out[64], want[] = "\0\34..\1\0\0\1\0\0\0\0\0\0\3www\1_\4test\0\0\34\0\1";
	struct buf b = BUF(out);
	(void)state;
	must_begin(&d, "www._.test.");
	dns_put_question(&d, true, &b);
	memcpy(want + 2, out + 2, 2);
	assert_int_equal(b.n, sizeof want - 1);
	assert_memory_equal(out, want, sizeof want - 1);
	uint16_t a = d.family[0].id, aaaa = d.family[1].id;
	assert_int_equal(out[2] << 8 | out[3], aaaa);
	assert_int_not_equal(a, aaaa);
	begin_with(&d, "www", &one_server, 0x87654321, 0);
	assert_int_not_equal(a, d.family[0].id);
}

static void test_names(void **state)
{
	static const char *const bad[] = {"", ".", "..", "a..b", ".a", "a..", "a b", "a/b", "http://a", "a:1",
	        "[::1]", "b\xc3\xbc", "a\n", "*"};
	static const char *const good[] = {"a", "a.", "_x.a-b", "1.2.3", "A9", "-"};
	struct dns d;
	char name[400];
	(void)state;
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
		begin_with(&d, bad[i], &one_server, 1, 0);
		if (d.state != DNS_FAILED || strcmp(d.why, "not a valid host name") != 0)
			fail_msg("\"%s\" was taken", bad[i]);
		assert_true(dns_step(&d, 0) == INT64_MAX);
		assert_false(d.server[0].open);
	}
	for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
		begin_with(&d, good[i], &one_server, 1, 0);
		if (d.state != DNS_ASKING)
			fail_msg("\"%s\" was refused", good[i]);
	}
	for (size_t n = 1; n < sizeof name; n++) { /* labels of 63, 64; names of 253, 254 */
		for (size_t label = 63; label < 65; label++) {
			memset(name, 'a', n);
			for (size_t k = label; k + 1 < n; k += label + 1)
				name[k] = '.';
			name[n] = 0;
			begin_with(&d, name, &one_server, 1, 0);
			bool valid = n <= 253 && (label == 63 || n < 64) && (label == 64 || n % 64 != 0);
			if ((d.state == DNS_ASKING) != valid)
				fail_msg("a name of %zu in labels of %zu", n, label);
		}
	}
}

/* Answers to a.test's A that end nothing; after each the real one is still taken. */
static void test_forged(void **state)
{
	static const struct {
		const char *label;
		size_t at; /* the byte that is changed, 0 for none */
		unsigned char xor ;
		unsigned flags;
		const char *records;
	} table[] = {
	        {"wrong id", 1, 1, 0x8180, "@ A 6.6.6.6"},
	        {"wrong id, high byte", 0, 0, 0x8180, "@ A 6.6.6.6"},
	        {"a question", 2, 0x80, 0x8180, "@ A 6.6.6.6"},
	        {"wrong opcode", 2, 0x10, 0x8180, "@ A 6.6.6.6"},
	        {"no question", 5, 1, 0x8180, "@ A 6.6.6.6"},
	        {"two questions", 5, 3, 0x8180, "@ A 6.6.6.6"},
	        {"257 questions", 4, 1, 0x8180, "@ A 6.6.6.6"},
	        {"another name", 13, 1, 0x8180, "a.test A 6.6.6.6"},
	        {"another type", 21, 2, 0x8180, "@ A 6.6.6.6"},
	        {"the other family's type", 21, 1 ^ 28, 0x8180, "@ AAAA 6::6"},
	        {"another class", 23, 2, 0x8180, "@ A 6.6.6.6"},
	        {"more records than there are", 7, 3, 0x8180, "@ A 6.6.6.6"},
	        {"authority that is not there", 9, 1, 0x8180, "@ A 6.6.6.6"},
	        {"additional that is not there", 11, 1, 0x8180, "@ A 6.6.6.6"},
	        {"no such name, with authority that is not there", 9, 1, 0x8183, ""},
	        {"A of 16 bytes", 25 + 10, 16 ^ 4, 0x8180, "@ A 6.6.6.6; @ A 6.6.6.6"},
	        {"A of 3 bytes", 25 + 10, 3 ^ 4, 0x8180, "@ A 6.6.6.6"},
	        {"failure with a wrong id", 1, 1, 0x8182, ""},
	        {"no such name with a wrong id", 1, 1, 0x8183, ""},
	        {"truncated with a wrong id", 1, 1, 0x8380, ""},
	        {"a pointer to itself", 25, 24 ^ 12, 0x8180, "@ A 6.6.6.6"},
	        {"a pointer forward", 25, 30 ^ 12, 0x8180, "@ A 6.6.6.6"},
	        {"a pointer far behind the end", 24, 0x3f, 0x8180, "@ A 6.6.6.6"},
	        {"a pointer into the header", 25, 4 ^ 12, 0x8180, "@ A 6.6.6.6"},
	        {"a label type of 0x80", 24, 0x40, 0x8180, "@ A 6.6.6.6"},
	        {"a label type of 0x40", 24, 0x80, 0x8180, "@ A 6.6.6.6"},
	        {"CNAME that ends before its name", 25 + 10, 1, 0x8180, "@ CNAME b; b A 6.6.6.6"},
	        {"CNAME with bytes behind its name", 36, 1, 0x8180, "@ CNAME b; b A 6.6.6.6"},
	};
	(void)state;
	for (size_t i = 0; i < sizeof table / sizeof *table; i++) {
		struct dns d;
		unsigned char out[512];
		struct buf b = BUF(out);
		must_begin(&d, "a.test");
		uint16_t id = d.family[0].id;
		put_answer(&b, &d, false, table[i].flags, table[i].records);
		b.p[table[i].at] ^= table[i].at == 0 ? 0x80 : table[i].xor ;
		give(&d, 0, &b, b.n, 1);
		if (d.state != DNS_ASKING || d.family[0].end != DNS_OPEN || d.family[0].addresses != 0 ||
		        d.family[1].end != DNS_OPEN || d.server[0].tcp || d.family[0].waiting != 1 ||
		        d.family[0].id != id)
			fail_msg("%s: taken", table[i].label);
		b.n = 0;
		put_answer(&b, &d, false, 0x8180, "@ A 192.0.2.1");
		give(&d, 0, &b, b.n, 2);
		if (d.family[0].end != DNS_HAS_ADDRESSES || d.family[0].addresses != 1)
			fail_msg("%s: the real answer was not taken", table[i].label);
	}
}

/* A server that was not asked, one that does not exist, and an answer that comes twice. */
static void test_unasked(void **state)
{
	struct dns d;
	struct dns_conf c = one_server;
	unsigned char out[512];
	struct buf b = BUF(out);
	(void)state;
	c.servers = 2;
	begin_with(&d, "a.test", &c, 1, 0);
	put_answer(&b, &d, false, 0x8180, "@ A 192.0.2.1");
	give(&d, 1, &b, b.n, 1);
	give(&d, 2, &b, b.n, 1);
	dns_server_failed(&d, 1, 1);
	assert_true(dns_step(&d, 1) == 300);
	assert_int_equal(d.family[0].addresses, 0);
	give(&d, 0, &b, b.n, 1);
	give(&d, 0, &b, b.n, 1);
	assert_int_equal(d.family[0].addresses, 1);
	assert_true(dns_step(&d, 300) == 301);
	assert_true(dns_step(&d, 301) == INT64_MAX);
	assert_int_equal(d.addresses, 1);
	give(&d, 0, &b, b.n, 400);
	dns_server_failed(&d, 0, 400);
	assert_int_equal(d.state, DNS_FOUND);
	assert_false(d.server[0].open || d.server[0].send[0] || d.server[0].send[1]);
}

/* Only the answer section counts. */
static void test_additional(void **state)
{
	(void)state;
	for (size_t at = 7; at <= 11; at += 2) {
		struct dns d;
		unsigned char out[512];
		struct buf b = BUF(out);
		must_begin(&d, "a.test");
		put_answer(&b, &d, false, 0x8180, "@ A 192.0.2.1");
		b.p[7] = 0;
		b.p[at] = 1;
		give(&d, 0, &b, b.n, 1);
		assert_int_equal(d.family[0].end, at == 7 ? DNS_HAS_ADDRESSES : DNS_HAS_NONE);
	}
}

static const char *const whole[] = {"@ A 192.0.2.1", "@ A 192.0.2.1; @ A 192.0.2.2",
        "@ CNAME b.test; b.test CNAME c.a.test; c.a.test A 192.0.2.1", "@ CNAME b.test", "@ TXT x"};

/* Every proper prefix is ignored, the whole is taken, also with bytes behind it. */
static void test_prefixes(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof whole / sizeof *whole; i++) {
		for (unsigned flags = 0x8180; flags <= 0x8183; flags += 3) {
			for (size_t more = 0; more < 4; more += 3) {
				struct dns d;
				unsigned char out[512];
				struct buf b = BUF(out);
				must_begin(&d, "a.test");
				uint16_t id = d.family[0].id;
				put_answer(&b, &d, false, flags, whole[i]);
				put_record(&b, "test", 6, 1, "\0\0\0", 3);
				b.p[9] = 1;
				for (size_t n = 0; n < b.n; n++) {
					give(&d, 0, &b, n, 1);
					assert_int_equal(d.family[0].end, DNS_OPEN);
					assert_int_equal(d.family[0].addresses, 0);
					assert_int_equal(d.family[0].id, id);
				}
				buf_put(&b, "\xff\0\xc0", more);
				give(&d, 0, &b, b.n, 1);
				assert_true(d.family[0].end != DNS_OPEN || d.family[0].id != id);
			}
		}
	}
}

/* Compression: a name of pointers to pointers, at most 127 of them; and labels that come to over 255 bytes.
 */
static void test_compression(void **state)
{
	unsigned char out[2048] = {0};
	struct dns_name w;
	(void)state;
	for (size_t hops = 1; hops < 400; hops++) {
		struct buf b = BUF(out);
		b.n = HEADER_BYTES;
		buf_put(&b, "\1a", 3);
		size_t to = HEADER_BYTES, at = b.n;
		for (size_t i = 0; i < hops; i++) {
			at = b.n;
			buf_put_u16be(&b, (uint16_t)(0xc000 | to));
			to = at;
		}
		unsigned char *p = guarded_copy(out, b.n);
		size_t end = read_name((struct slice){p, b.n}, at, &w);
		assert_int_equal(end, hops <= POINTERS ? b.n : 0);
		guarded_free(p, b.n);
	}
	for (size_t pieces = 1; pieces < 10; pieces++) { /* of 40 bytes each */
		struct buf b = BUF(out);
		b.n = HEADER_BYTES;
		buf_put_byte(&b, 0);
		size_t at = HEADER_BYTES;
		for (size_t i = 0; i < pieces; i++) {
			size_t to = at;
			at = b.n;
			buf_put(&b, "\47abcdefghijklmnopqrstuvwxyzabcdefghijklm", 40);
			buf_put_u16be(&b, (uint16_t)(0xc000 | to));
		}
		assert_int_equal(
		        read_name((struct slice){out, b.n}, at, &w), pieces * 40 + 1 <= 255 ? b.n : 0);
	}
	for (unsigned char last = 60; last <= 63; last++) { /* three labels of 63, and one of this length */
		struct buf b = BUF(out);
		memset(out, 'a', 400);
		for (b.n = HEADER_BYTES; b.n < HEADER_BYTES + 192; b.n += 64)
			out[b.n] = 63;
		out[b.n] = last;
		out[b.n + last + 1] = 0;
		b.n += last + 2U;
		struct dns_name *name = (void *)guarded(sizeof *name);
		assert_int_equal(
		        read_name((struct slice){out, b.n}, HEADER_BYTES, name), last <= 61 ? b.n : 0);
		guarded_free((void *)name, sizeof *name);
	}
	/* pointers at each other, a label and a pointer back to it, a pointer to itself, and one that leads
	 * back to a piece that leads forward */
	static const struct {
		const char *bytes;
		size_t n, at;
	} loops[] = {{"\xc0\16\xc0\14", 4, 12}, {"\xc0\16\xc0\14", 4, 14}, {"\1a\xc0\14", 4, 12},
	        {"\xc0\14", 2, 12}, {"\1a\xc0\20\0\xc0\14", 7, 17}, {"\xc0\15\0", 3, 12}};
	for (size_t i = 0; i < sizeof loops / sizeof *loops; i++) {
		memcpy(out + HEADER_BYTES, loops[i].bytes, loops[i].n);
		struct slice m = {out, HEADER_BYTES + loops[i].n};
		if (read_name(m, loops[i].at, &w) != 0)
			fail_msg("loop %zu was followed", i);
	}
}

/* Look-ups in virtual time */

static const struct {
	const char *name;
	unsigned rcode;
	const char *a, *aaaa;
} zone[] = {
        {"www.test", 0, "@ A 192.0.2.1", "@ AAAA 2001:db8::1"},
        {"four.test", 0, "@ A 192.0.2.4", ""},
        {"six.test", 0, "", "@ AAAA 2001:db8::6"},
        {"none.test", 0, "", ""},
        {"none.corp.test", 0, "", ""},
        {"none", 3, "", ""},
        {"odd.test", 0, "@ TXT x; @ CH 6.6.6.6; other.test A 6.6.6.6; @ A 192.0.2.1; @ AAAA 6::6",
                "@ A 6.6.6.6"},
        {"caze.test", 0, "CAZE.tEST A 192.0.2.9", ""},
        {"many.test", 0,
                "@ A 192.0.2.1; @ A 192.0.2.2; @ A 192.0.2.3; @ A 192.0.2.4; @ A 192.0.2.5; @ A 192.0.2.6;"
                "@ A 192.0.2.7; @ A 192.0.2.8; @ A 192.0.2.9",
                "@ AAAA 2001:db8::1; @ AAAA 2001:db8::2"},
        {"alias.test", 0, "@ CNAME b.test; b.test CNAME Www.test; www.test A 192.0.2.1",
                "@ CNAME b.test; b.test CNAME "
                "www.test; www.test "
                "AAAA 2001:db8::1"},
        {"upside.test", 0, "www.test A 192.0.2.1; b.test CNAME www.test; @ CNAME b.test", "@ CNAME www.test"},
        {"far.test", 0, "@ CNAME mid.test", "@ CNAME mid.test"},
        {"mid.test", 0, "@ CNAME www.test", "@ CNAME www.test"},
        {"dangling.test", 0, "@ CNAME gone.test", "@ CNAME gone.test"},
        {"gone2.test", 3, "@ CNAME gone.test", "@ CNAME gone.test"},
        {"gone3.test", 3, "@ A 6.6.6.6", "@ AAAA 6::6"},
        {"x.lab.test", 0, "@ CNAME gone.test", "@ CNAME gone.test"},
        {"x.corp.test", 0, "@ CNAME c7.test", "@ CNAME c7.test"},
        {"self.test", 0, "@ CNAME self.test", "@ CNAME self.test"},
        {"pair1.test", 0, "@ CNAME pair2.test; pair2.test CNAME pair1.test", "@ CNAME pair2.test"},
        {"pair2.test", 0, "@ CNAME pair1.test", "@ CNAME pair1.test"},
        {"c9.test", 0, "@ CNAME c8.test; c8.test CNAME c7.test", "@ CNAME c8.test"},
        {"c8.test", 0, "@ CNAME c7.test; c7.test CNAME c6.test", "@ CNAME c7.test"},
        {"c7.test", 0, "@ CNAME c6.test; c6.test CNAME c5.test", "@ CNAME c6.test"},
        {"c6.test", 0, "@ CNAME c5.test; c5.test CNAME c4.test", "@ CNAME c5.test"},
        {"c5.test", 0, "@ CNAME c4.test; c4.test CNAME c3.test", "@ CNAME c4.test"},
        {"c4.test", 0, "@ CNAME c3.test; c3.test CNAME c2.test", "@ CNAME c3.test"},
        {"c3.test", 0, "@ CNAME c2.test; c2.test CNAME c1.test", "@ CNAME c2.test"},
        {"c2.test", 0, "@ CNAME c1.test; c1.test CNAME www.test", "@ CNAME c1.test"},
        {"c1.test", 0, "@ CNAME www.test; www.test A 192.0.2.1", "@ CNAME www.test"},
        {"host.corp.test", 0, "@ A 192.0.2.30", ""},
        {"a.b.corp.test", 0, "@ A 192.0.2.31", ""},
        {"a.b", 0, "@ A 192.0.2.32", ""},
        {"short", 0, "@ A 192.0.2.33", ""},
        {"short.lab.test", 0, "@ A 192.0.2.34", ""},
};

/* A server's way, one letter each; every answer takes 10 ms. */
enum {
	GOOD = 'g',
	DEAD = 'd',
	SLOW = 'l',        /* takes 400 ms */
	ONCE_DEAD = '2',   /* loses the first question of either family */
	PORT_CLOSED = 'p', /* its UDP socket fails */
	SERVFAIL = 's',
	SERVFAIL_6 = 'S', /* for AAAA only */
	REFUSED = 'r',
	NOTIMP = 'n',
	ONLY_A = '4', /* never answers AAAA */
	ONLY_AAAA = '6',
	NX_6 = 'N',      /* no such name for AAAA only */
	TRUNCATES = 't', /* over UDP */
	TRUNCATES_ALL = 'T',
	TRUNCATES_NO_TCP = 'u', /* and its TCP connection fails */
	TRUNCATES_DEAD_TCP = 'U',
	REFERS = 'f',
};

struct world {
	struct dns d;
	int64_t now, last_past;
	struct {
		int64_t at; /* 0: free */
		size_t server;
		bool tcp, failure;
		unsigned char bytes[512];
		size_t n;
	} event[64];
	unsigned sent, sent_tcp;
	bool asked[DNS_SERVERS][2];
	const char *ways;
};

static void answer_from_zone(struct world *w, size_t s, bool aaaa, bool tcp)
{
	const char *records = "";
	char way = w->ways[s];
	unsigned flags = 0x8183;
	for (size_t i = 0; i < sizeof zone / sizeof *zone; i++) {
		struct dns_name name = {.n = 0};
		assert_true(add_labels(&name, slice_str(zone[i].name)));
		name.wire[name.n++] = 0;
		if (same_name(&name, &w->d.family[aaaa].name)) {
			flags = 0x8180 | zone[i].rcode;
			records = aaaa ? zone[i].aaaa : zone[i].a;
		}
	}
	if (way == SERVFAIL || (way == SERVFAIL_6 && aaaa))
		flags = 0x8182;
	if (way == REFUSED)
		flags = 0x8105;
	if (way == NOTIMP)
		flags = 0x8104;
	if (way == REFERS)
		flags = 0x8000;
	if (way == NX_6 && aaaa)
		flags = 0x8183;
	if (strchr("tuU", way) ? !tcp : way == TRUNCATES_ALL)
		flags = 0x8380;
	if ((flags & 0x20f & ~3U) != 0 || (flags & 3) == 2 || way == REFERS || (way == NX_6 && aaaa))
		records = "";
	size_t k = 0;
	while (w->event[k].at != 0)
		assert_true(++k < 64);
	struct buf b = BUF(w->event[k].bytes);
	put_answer(&b, &w->d, aaaa, flags, records);
	w->event[k].n = b.n;
	w->event[k].at = w->now + (way == SLOW ? 400 : 10);
	w->event[k].server = s;
	w->event[k].tcp = tcp;
	w->event[k].failure = way == PORT_CLOSED || (way == TRUNCATES_NO_TCP && tcp);
}

/* Meets the wishes to send. */
static void send_wishes(struct world *w)
{
	for (size_t s = 0; s < w->d.conf.servers; s++) {
		struct dns_server *to = &w->d.server[s];
		for (size_t f = 0; f < 2; f++) {
			char way = w->ways[s];
			if (!to->send[f])
				continue;
			assert_true(to->open);
			to->send[f] = false;
			w->sent++;
			w->sent_tcp += to->tcp;
			bool lost = way == DEAD || (way == ONCE_DEAD && !w->asked[s][f]) ||
			            (way == ONLY_A && f == 1) || (way == ONLY_AAAA && f == 0) ||
			            (way == TRUNCATES_DEAD_TCP && to->tcp);
			w->asked[s][f] = true;
			if (!lost)
				answer_from_zone(w, s, f == 1, to->tcp);
		}
	}
}

/* Runs to the end; no deadline may be in the past twice running. */
static void run(struct world *w)
{
	int past = 0;
	w->now = 1000000;
	while (w->d.state == DNS_ASKING) {
		int64_t due = dns_step(&w->d, w->now);
		past = due <= w->now ? past + 1 : 0;
		assert_true(past < 2);
		send_wishes(w);
		size_t next = 64;
		for (size_t i = 0; i < 64; i++) {
			if (w->event[i].at != 0 && (next == 64 || w->event[i].at < w->event[next].at))
				next = i;
		}
		if (next == 64 || w->event[next].at > due) {
			w->now = w->d.state == DNS_ASKING && due > w->now ? due : w->now;
			continue;
		}
		w->now = w->event[next].at;
		w->event[next].at = 0;
		struct dns_server *from = &w->d.server[w->event[next].server];
		if (!from->open || w->event[next].tcp != from->tcp)
			continue;
		struct buf b = {w->event[next].bytes, 512, w->event[next].n, false};
		if (w->event[next].failure) {
			dns_server_failed(&w->d, w->event[next].server, w->now);
			assert_false(from->open);
		} else
			give(&w->d, w->event[next].server, &b, b.n, w->now);
	}
	for (size_t s = 0; s < DNS_SERVERS; s++) {
		const struct dns_server *to = &w->d.server[s];
		assert_false(to->open || to->tcp || to->send[0] || to->send[1]);
	}
}

/* ways of the servers | name | resolv.conf | the outcome | after how many ms | questions, over TCP of them */
static const struct {
	const char *ways, *name, *conf, *want;
	int ms;
	unsigned sent, sent_tcp;
} lookups[] = {
        {"g", "www.test", "", "2001:db8::1 192.0.2.1", 10, 2, 0},
        {"g", "WWW.Test.", "", "2001:db8::1 192.0.2.1", 10, 2, 0},
        {"g", "four.test", "", "192.0.2.4", 10, 2, 0},
        {"g", "six.test", "", "2001:db8::6", 10, 2, 0},
        {"g", "none.test", "", "the name has no address", 10, 2, 0},
        {"g", "absent.test", "", "no such name", 10, 2, 0},
        {"g", "odd.test", "", "192.0.2.1", 10, 2, 0},
        {"g", "caze.test", "", "192.0.2.9", 10, 2, 0},
        {"g", "many.test", "",
                "2001:db8::1 192.0.2.1 2001:db8::2 192.0.2.2 192.0.2.3 192.0.2.4 192.0.2.5 192.0.2.6", 10, 2,
                0},
        /* servers that do not answer */
        {"dg", "www.test", "", "2001:db8::1 192.0.2.1", 310, 4, 0},
        {"ddg", "www.test", "", "2001:db8::1 192.0.2.1", 610, 6, 0},
        {"lg", "www.test", "", "2001:db8::1 192.0.2.1", 310, 4, 0},
        {"ld", "www.test", "", "2001:db8::1 192.0.2.1", 400, 4, 0},
        {"d", "www.test", "", "no name server answered", 5000, 4, 0},
        {"ddd", "www.test", "", "no name server answered", 5000, 12, 0},
        {"ddd", "www.test", "options attempts:5", "no name server answered", 5000, 30, 0},
        {"d", "www.test", "options timeout:1 attempts:3", "no name server answered", 3000, 6, 0},
        {"d", "www.test", "options timeout:1 attempts:1", "no name server answered", 1000, 2, 0},
        {"2", "www.test", "", "2001:db8::1 192.0.2.1", 2510, 4, 0},
        {"d2", "www.test", "options timeout:1", "2001:db8::1 192.0.2.1", 1310, 8, 0},
        /* servers that fail */
        {"p", "www.test", "", "no name server could be reached", 10, 2, 0},
        {"ppp", "www.test", "", "no name server could be reached", 30, 6, 0},
        {"pg", "www.test", "", "2001:db8::1 192.0.2.1", 20, 4, 0},
        {"sg", "www.test", "", "2001:db8::1 192.0.2.1", 20, 4, 0},
        {"rng", "www.test", "", "2001:db8::1 192.0.2.1", 30, 6, 0},
        {"fg", "www.test", "", "2001:db8::1 192.0.2.1", 20, 4, 0},
        {"f", "www.test", "", "the name server failed or refused to answer", 10, 2, 0},
        {"srn", "www.test", "", "the name server failed or refused to answer", 30, 6, 0},
        {"dsg", "www.test", "", "2001:db8::1 192.0.2.1", 320, 6, 0},
        {"sd", "www.test", "", "the name server failed or refused to answer", 5000, 8, 0},
        {"ds", "www.test", "", "the name server failed or refused to answer", 5000, 8, 0},
        {"S", "www.test", "", "192.0.2.1", 10, 2, 0},
        {"S", "none.test", "", "the name server failed or refused to answer", 10, 2, 0},
        {"sg", "absent.test", "", "no such name", 20, 4, 0},
        {"gs", "absent.test", "", "no such name", 10, 2, 0},
        /* one family only */
        {"4", "www.test", "", "192.0.2.1", 310, 2, 0},
        {"6", "www.test", "", "2001:db8::1", 310, 2, 0},
        {"4g", "www.test", "", "2001:db8::1 192.0.2.1", 310, 3, 0},
        {"d4", "www.test", "", "192.0.2.1", 610, 4, 0},
        {"N", "www.test", "", "192.0.2.1", 10, 2, 0},
        {"4", "six.test", "", "no name server answered", 5000, 3, 0},
        {"4", "absent.test", "", "no such name", 310, 2, 0},
        {"6", "absent.test", "", "no such name", 310, 2, 0},
        /* TCP */
        {"t", "www.test", "", "2001:db8::1 192.0.2.1", 20, 4, 2},
        {"t", "absent.test", "", "no such name", 20, 4, 2},
        {"t", "far.test", "", "2001:db8::1 192.0.2.1", 40, 8, 6},
        {"T", "www.test", "", "the name server's answer is too large", 20, 4, 2},
        {"Td", "www.test", "", "the name server's answer is too large", 5000, 12, 4},
        {"u", "www.test", "", "no name server could be reached", 20, 4, 2},
        {"ug", "www.test", "", "2001:db8::1 192.0.2.1", 30, 6, 2},
        {"Ug", "www.test", "", "2001:db8::1 192.0.2.1", 310, 6, 2},
        {"U", "www.test", "", "no name server answered", 5000, 4, 2},
        {"4t", "six.test", "", "2001:db8::6", 320, 4, 1},
        /* aliases */
        {"g", "alias.test", "", "2001:db8::1 192.0.2.1", 10, 2, 0},
        {"g", "upside.test", "", "2001:db8::1 192.0.2.1", 20, 3, 0},
        {"g", "far.test", "", "2001:db8::1 192.0.2.1", 30, 6, 0},
        {"dg", "far.test", "", "2001:db8::1 192.0.2.1", 330, 8, 0},
        {"g", "dangling.test", "", "no such name", 20, 4, 0},
        {"g", "gone2.test", "", "no such name", 10, 2, 0},
        {"g", "gone3.test", "", "no such name", 10, 2, 0},
        {"g", "self.test", "", "too many aliases (CNAME)", 10, 2, 0},
        {"gg", "self.test", "", "too many aliases (CNAME)", 20, 4, 0},
        {"g", "pair1.test", "", "too many aliases (CNAME)", 90, 10, 0},
        {"g", "c8.test", "", "2001:db8::1 192.0.2.1", 90, 14, 0},
        {"g", "c7.test", "", "2001:db8::1 192.0.2.1", 80, 12, 0},
        {"g", "c9.test", "", "too many aliases (CNAME)", 90, 14, 0},
        /* search domains */
        {"g", "host", "search lab.test corp.test", "192.0.2.30", 20, 4, 0},
        {"g", "host", "search corp.test", "192.0.2.30", 10, 2, 0},
        {"g", "host", "search a..b x/y . .z corp.test.", "192.0.2.30", 10, 2, 0},
        {"g", "host.", "search corp.test", "no such name", 10, 2, 0},
        {"g", "host", "", "no such name", 10, 2, 0},
        {"g", "short", "search corp.test", "192.0.2.33", 20, 4, 0},
        {"g", "short", "search corp.test lab.test", "192.0.2.34", 20, 4, 0},
        {"g", "short", "search lab.test\noptions ndots:0", "192.0.2.33", 10, 2, 0},
        {"g", "a.b", "search corp.test", "192.0.2.32", 10, 2, 0},
        {"g", "a.b", "search corp.test\noptions ndots:2", "192.0.2.31", 10, 2, 0},
        {"g", "host.corp", "search test", "192.0.2.30", 20, 4, 0},
        {"g", "x", "search lab.test corp.test", "2001:db8::1 192.0.2.1", 110, 18, 0},
        {"g", "none", "search corp.test", "the name has no address", 20, 4, 0},
        {"g", "absent", "search corp.test lab.test test", "no such name", 40, 8, 0},
        {"dg", "absent", "search corp.test lab.test", "no such name", 330, 8, 0},
        {"s", "host", "search corp.test lab.test", "the name server failed or refused to answer", 10, 2, 0},
        {"l", "absent", "search 1 2 3 4 5 6", "no such name", 2800, 14, 0},
};

static void test_lookups(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof lookups / sizeof *lookups; i++) {
		static struct world w;
		struct dns_conf c;
		char got[600] = "", out[64];
		memset(&w, 0, sizeof w);
		dns_read_conf(&c, slice_str(lookups[i].conf));
		c.servers = strlen(lookups[i].ways);
		w.ways = lookups[i].ways;
		begin_with(&w.d, lookups[i].name, &c, 7, 1000000);
		run(&w);
		for (size_t k = 0; k < w.d.addresses; k++)
			strcat(strcat(got, k ? " " : ""), text_of(&w.d.address[k], out));
		assert_int_equal(w.d.addresses > 0, w.d.state == DNS_FOUND);
		if (w.d.state == DNS_FAILED)
			strcpy(got, w.d.why);
		if (strcmp(got, lookups[i].want) != 0 || w.now - 1000000 != lookups[i].ms ||
		        w.sent != lookups[i].sent || w.sent_tcp != lookups[i].sent_tcp)
			fail_msg("%s %s \"%s\":\ngot  %s after %d ms, %u questions, %u over TCP\nwant %s "
			         "after %d ms, "
			         "%u, %u",
			        lookups[i].ways, lookups[i].name, lookups[i].conf, got,
			        (int)(w.now - 1000000), w.sent, w.sent_tcp, lookups[i].want, lookups[i].ms,
			        lookups[i].sent, lookups[i].sent_tcp);
	}
}

/* A search domain with which the name gets too long is left out. */
static void test_search_too_long(void **state)
{
	struct dns d;
	struct dns_conf c = one_server;
	char name[64];
	(void)state;
	memset(name, 'a', 63);
	name[63] = 0;
	c.searches = 1;
	for (size_t n = 180; n < 200; n++) {
		memset(c.search[0], 'b', n);
		c.search[0][60] = c.search[0][120] = c.search[0][178] = '.';
		c.search[0][n] = 0;
		begin_with(&d, name, &c, 1, 0);
		assert_int_equal(d.state, DNS_ASKING);
		assert_int_equal(d.family[0].name.n, n + 64 <= 253 ? n + 66 : 65);
	}
}

/* Late, early and no answers, failures, answers hurt at random, a driver that comes late: whatever happens,
 * every look-up ends in time and no deadline is in the past twice running. */
static void test_random(void **state)
{
	enum { ROUNDS = 100000, MOST = 512 };
	unsigned char *end = guarded(MOST) + MOST;
	size_t found = 0, failed = 0;
	(void)state;
	for (size_t round = 0; round < ROUNDS; round++) {
		static struct dns d;
		struct dns_conf c = one_server;
		int64_t now = 0, due = 0;
		int past = 0;
		c.servers = 1 + rnd(3);
		c.option[DNS_ATTEMPTS] = (uint8_t)(1 + rnd(5));
		c.option[DNS_TIMEOUT_S] = (uint8_t)(1 + rnd(6));
		c.searches = rnd(2);
		strcpy(c.search[0], "test");
		begin_with(&d, "a.test", &c, rnd(1000000), now);
		while ((due = dns_step(&d, now)) != INT64_MAX) {
			past = due <= now ? past + 1 : 0;
			assert_true(past < 2 && now < DNS_LOOKUP_MS && due <= DNS_LOOKUP_MS);
			unsigned char out[MOST];
			struct buf b = BUF(out);
			bool aaaa = rnd(2);
			size_t s = rnd(3);
			d.server[s].send[0] &= rnd(2);
			d.server[s].send[1] &= rnd(2);
			put_answer(&b, &d, aaaa, rnd(4) ? 0x8180 : 0x8100 | rnd(0x400),
			        aaaa ? "@ AAAA 2001:db8::1" : whole[rnd(5)]);
			for (uint32_t k = rnd(4); k > 0; k--) /* mostly behind the id */
				b.p[2 + rnd((uint32_t)b.n - 2)] =
				        (unsigned char)(rnd(3) ? rnd(256) : 0xc0 | rnd(2));
			size_t n = rnd(4) ? b.n : rnd((uint32_t)b.n);
			memcpy(end - n, out, n);
			if (rnd(3) > 0)
				dns_answer(&d, s, (struct slice){end - n, n}, now);
			if (rnd(20) == 0)
				dns_server_failed(&d, s, now);
			now = rnd(2) ? due : now + rnd(200) + (rnd(20) ? 0 : 3000);
		}
		assert_true(d.state == DNS_FOUND ? d.addresses > 0 && d.addresses <= DNS_ADDRESSES
		                                 : d.state == DNS_FAILED && d.why != NULL);
		found += d.state == DNS_FOUND;
		failed += d.state == DNS_FAILED;
	}
	guarded_free(end - MOST, MOST);
	assert_true(found > ROUNDS / 10 && failed > ROUNDS / 100);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_literals),
	        cmocka_unit_test(test_literals_as_libc),
	        cmocka_unit_test(test_conf),
	        cmocka_unit_test(test_conf_prefixes),
	        cmocka_unit_test(test_hosts),
	        cmocka_unit_test(test_hosts_full),
	        cmocka_unit_test(test_localhost),
	        cmocka_unit_test(test_question),
	        cmocka_unit_test(test_names),
	        cmocka_unit_test(test_forged),
	        cmocka_unit_test(test_unasked),
	        cmocka_unit_test(test_additional),
	        cmocka_unit_test(test_prefixes),
	        cmocka_unit_test(test_compression),
	        cmocka_unit_test(test_lookups),
	        cmocka_unit_test(test_search_too_long),
	        cmocka_unit_test(test_random),
	};
	return cmocka_run_group_tests_name("dns", tests, NULL, NULL);
}
