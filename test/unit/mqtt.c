/* Packets to bytes and back, by tables; the outbox by hand and against a naive model. */
// uses: buf.c queue.c
#include "unit.h"

#include "../../mqtt.c"

enum { WIDE = 1 << 20, ROOM = 64 };
#define COUNT(array) (sizeof(array) / sizeof(array)[0])

static uint32_t state;

/* Marsaglia's xorshift32, so that each run is the same. */
static uint32_t rnd(uint32_t below)
{
	state ^= state << 13;
	state ^= state >> 17;
	state ^= state << 5;
	return state % below;
}

/* The bytes that hex spells; blanks do not count. Returns how many. */
static size_t unhex(const char *hex, unsigned char *to, size_t cap)
{
	size_t n = 0;
	for (; *hex != 0; hex++) {
		if (*hex == ' ')
			continue;
		char pair[3] = {hex[0], hex[1], 0}, *end;
		assert_true(n < cap);
		to[n++] = (unsigned char)strtoul(pair, &end, 16);
		assert_ptr_equal(end, pair + 2);
		hex++;
	}
	return n;
}

/* A packet in words. */
static void describe(struct buf *b, const struct mqtt_packet *k)
{
	char s[400];
	snprintf(s, sizeof s, "%d%s%s%s q%d id%d c%d [%.*s] [%.*s] skip%zu;", k->type, k->dup ? " dup" : "",
	        k->retain ? " retain" : "", k->session_present ? " session" : "", k->qos, k->id, k->code,
	        (int)k->topic.n, k->topic.n ? (const char *)k->topic.p : "",
	        (int)(k->payload.n < 200 ? k->payload.n : 200),
	        k->payload.n ? (const char *)k->payload.p : "", k->skip);
	buf_put_str(b, s);
}

/* Reads n bytes, which lie against a guard page; in words what became of it. */
static long read_guarded(const unsigned char *p, size_t n, size_t limit, char *text, size_t cap)
{
	unsigned char *copy = guarded_copy(p, n);
	struct mqtt_packet k;
	const char *why = NULL;
	struct buf b = {(unsigned char *)text, cap, 0, false};
	long r = mqtt_read(copy, n, limit, &k, &why);
	if (r > 0)
		describe(&b, &k);
	else if (r < 0)
		buf_put_str(&b, why);
	assert_true(buf_cstr(&b) == text);
	guarded_free(copy, n);
	return r;
}

/* Every proper prefix of the need bytes at p gives 0; these, with and without others behind them, give r and
 * text. */
static void check_read(
        const char *name, const unsigned char *p, size_t need, size_t limit, long r, const char *text)
{
	unsigned char more[ROOM + 8];
	char got[500];
	for (size_t n = 0; n < need; n++) {
		long g = read_guarded(p, n, limit, got, sizeof got);
		if (g != 0)
			fail_msg("%s: %zu bytes gave %ld (%s)", name, n, g, got);
	}
	for (unsigned fill = 0; fill < 256; fill += 51) {
		memcpy(more, p, need);
		memset(more + need, (int)fill, sizeof more - need);
		for (size_t n = need; n <= sizeof more; n++) {
			long g = read_guarded(more, n, limit, got, sizeof got);
			if (g != r || strcmp(got, text) != 0)
				fail_msg("%s: %zu bytes gave %ld \"%s\", not %ld \"%s\"", name, n, g, got, r,
				        text);
		}
	}
}

static const struct good {
	const char *name, *hex, *text;
	size_t limit; /* 0: WIDE */
} good[] = {
        {"CONNACK", "20 02 00 00", "2 q0 id0 c0 [] [] skip0;", 0},
        {"CONNACK, session", "20 02 01 00", "2 session q0 id0 c0 [] [] skip0;", 0},
        {"CONNACK refuses", "20 02 00 05", "2 q0 id0 c5 [] [] skip0;", 0},
        {"PUBLISH QoS 0", "30 08 00 03 612f62 787978", "3 q0 id0 c0 [a/b] [xyx] skip0;", 0},
        {"PUBLISH without payload", "30 03 00 01 61", "3 q0 id0 c0 [a] [] skip0;", 0},
        {"PUBLISH QoS 1", "32 06 00 01 61 0001 78", "3 q1 id1 c0 [a] [x] skip0;", 0},
        {"PUBLISH QoS 2", "34 06 00 01 61 ffff 78", "3 q2 id65535 c0 [a] [x] skip0;", 0},
        {"PUBLISH with DUP and retain", "3b 05 00 01 61 0100", "3 dup retain q1 id256 c0 [a] [] skip0;", 0},
        {"PUBLISH QoS 2, DUP", "3c 05 00 01 61 0100", "3 dup q2 id256 c0 [a] [] skip0;", 0},
        {"PUBLISH QoS 0, retain", "31 03 00 01 61", "3 retain q0 id0 c0 [a] [] skip0;", 0},
        {"PUBACK", "40 02 0001", "4 q0 id1 c0 [] [] skip0;", 0},
        {"PUBREC", "50 02 0100", "5 q0 id256 c0 [] [] skip0;", 0},
        {"PUBREL", "62 02 ffff", "6 q0 id65535 c0 [] [] skip0;", 0},
        {"PUBCOMP", "70 02 1234", "7 q0 id4660 c0 [] [] skip0;", 0},
        {"SUBACK QoS 0", "90 03 0001 00", "9 q0 id1 c0 [] [] skip0;", 0},
        {"SUBACK QoS 2", "90 03 0001 02", "9 q0 id1 c2 [] [] skip0;", 0},
        {"SUBACK refuses", "90 03 0001 80", "9 q0 id1 c128 [] [] skip0;", 0},
        {"UNSUBACK", "b0 02 0001", "11 q0 id1 c0 [] [] skip0;", 0},
        {"PINGRESP", "d0 00", "13 q0 id0 c0 [] [] skip0;", 0},
        {"long form of 2", "40 8200 0001", "4 q0 id1 c0 [] [] skip0;", 0},
        {"longest form of 0", "d0 80808000", "13 q0 id0 c0 [] [] skip0;", 0},
        {"longest form of 3", "30 83808000 00 01 61", "3 q0 id0 c0 [a] [] skip0;", 0},
        {"UTF-8 at the edges", "30 13 00 11 c280 dfbf e0a080 ed9fbf ee8080 f0908080",
                "3 q0 id0 c0 [\xc2\x80\xdf\xbf\xe0\xa0\x80\xed\x9f\xbf\xee\x80\x80\xf0\x90\x80\x80"
                "] [] skip0;",
                0},
        {"the last character", "30 06 00 04 f48fbfbf", "3 q0 id0 c0 [\xf4\x8f\xbf\xbf] [] skip0;", 0},
        {"the limit fits just", "32 06 00 01 61 0001 78", "3 q1 id1 c0 [a] [x] skip0;", 8},
        {"an ack at the limit", "40 02 0001", "4 q0 id1 c0 [] [] skip0;", 4},
        {"one byte over the limit", "32 06 00 01 61 0001", "3 q1 id1 c0 [a] [] skip1;", 7},
        {"QoS 0 over the limit", "30 8101 00 01 61", "3 q0 id0 c0 [a] [] skip126;", 130},
        {"QoS 2 over the limit", "3d 85808008 00 01 61 0007", "3 dup retain q2 id7 c0 [a] [] skip16777216;",
                10},
        {"256 MB", "30 ffffff7f 00 01 61", "3 q0 id0 c0 [a] [] skip268435452;", 0},
};

static void reads_good(void **s)
{
	(void)s;
	for (size_t i = 0; i < COUNT(good); i++) {
		unsigned char p[ROOM];
		size_t n = unhex(good[i].hex, p, sizeof p);
		check_read(good[i].name, p, n, good[i].limit ? good[i].limit : WIDE, (long)n, good[i].text);
	}
}

/* hex ends with the first byte that makes it hopeless. */
static const struct {
	const char *name, *hex, *text;
	size_t limit; /* 0: WIDE */
} wrong[] = {
        {"type 0", "00", "packet type that no server sends (MQTT-2.2.1)", 0},
        {"CONNECT", "10", "packet type that no server sends (MQTT-2.2.1)", 0},
        {"SUBSCRIBE", "82", "packet type that no server sends (MQTT-2.2.1)", 0},
        {"UNSUBSCRIBE", "a2", "packet type that no server sends (MQTT-2.2.1)", 0},
        {"PINGREQ", "c0", "packet type that no server sends (MQTT-2.2.1)", 0},
        {"DISCONNECT", "e0", "packet type that no server sends (MQTT-2.2.1)", 0},
        {"type 15", "f0", "packet type that no server sends (MQTT-2.2.1)", 0},
        {"CONNACK, flag 1", "21", "reserved flags (MQTT-2.2.2-2)", 0},
        {"PUBACK, flag 2", "42", "reserved flags (MQTT-2.2.2-2)", 0},
        {"PUBREC, flag 8", "58", "reserved flags (MQTT-2.2.2-2)", 0},
        {"PUBREL without its flag", "60", "reserved flags (MQTT-2.2.2-2)", 0},
        {"PUBREL, flag 1 in addition", "63", "reserved flags (MQTT-2.2.2-2)", 0},
        {"PUBCOMP, flag 2", "72", "reserved flags (MQTT-2.2.2-2)", 0},
        {"SUBACK, flag 2", "92", "reserved flags (MQTT-2.2.2-2)", 0},
        {"UNSUBACK, flag 2", "b2", "reserved flags (MQTT-2.2.2-2)", 0},
        {"PINGRESP, flag 4", "d4", "reserved flags (MQTT-2.2.2-2)", 0},
        {"QoS 3", "36", "PUBLISH with QoS 3 (MQTT-3.3.1-4)", 0},
        {"QoS 3, DUP and retain", "3f", "PUBLISH with QoS 3 (MQTT-3.3.1-4)", 0},
        {"DUP, QoS 0", "38", "PUBLISH with DUP and QoS 0 (MQTT-3.3.1-2)", 0},
        {"DUP, QoS 0, retain", "39", "PUBLISH with DUP and QoS 0 (MQTT-3.3.1-2)", 0},
        {"a fifth byte of length", "30 80808080", "remaining length of five bytes (MQTT-2.2.3)", 0},
        {"a fifth byte of length in PINGRESP", "d0 80808080", "remaining length of five bytes (MQTT-2.2.3)",
                0},
        {"CONNACK of 1", "20 01", "wrong length for its type (MQTT-3)", 0},
        {"CONNACK of 3", "20 03", "wrong length for its type (MQTT-3)", 0},
        {"CONNACK of 2 + 128", "20 8201", "wrong length for its type (MQTT-3)", 0},
        {"PUBACK of 4", "40 04", "wrong length for its type (MQTT-3)", 0},
        {"PUBACK of 3 or 131 or …", "40 83", "wrong length for its type (MQTT-3)", 0},
        {"PUBREC of 0", "50 00", "wrong length for its type (MQTT-3)", 0},
        {"PUBREL of 6", "62 06", "wrong length for its type (MQTT-3)", 0},
        {"PUBCOMP of 3", "70 03", "wrong length for its type (MQTT-3)", 0},
        {"SUBACK without code", "90 02", "wrong length for its type (MQTT-3)", 0},
        {"SUBACK with two codes", "90 04", "wrong length for its type (MQTT-3)", 0},
        {"UNSUBACK of 3", "b0 03", "wrong length for its type (MQTT-3)", 0},
        {"PINGRESP of 1", "d0 01", "wrong length for its type (MQTT-3)", 0},
        {"PINGRESP of 128", "d0 8001", "wrong length for its type (MQTT-3)", 0},
        {"CONNACK, reserved flags", "20 02 02", "CONNACK with reserved flags (MQTT-3.2.2.1)", 0},
        {"CONNACK, reserved flag 7", "20 02 81", "CONNACK with reserved flags (MQTT-3.2.2.1)", 0},
        {"CONNACK 6", "20 02 00 06", "CONNACK with a reserved code (MQTT-3.2.2.3)", 0},
        {"CONNACK 255", "20 02 00 ff", "CONNACK with a reserved code (MQTT-3.2.2.3)", 0},
        {"CONNACK refuses, with a session", "20 02 01 01", "CONNACK refuses, with a session (MQTT-3.2.2-4)",
                0},
        {"PUBACK, id 0", "40 02 0000", "packet id 0 (MQTT-2.3.1-1)", 0},
        {"PUBREC, id 0", "50 02 0000", "packet id 0 (MQTT-2.3.1-1)", 0},
        {"PUBREL, id 0", "62 02 0000", "packet id 0 (MQTT-2.3.1-1)", 0},
        {"PUBCOMP, id 0", "70 02 0000", "packet id 0 (MQTT-2.3.1-1)", 0},
        {"SUBACK, id 0", "90 03 0000", "packet id 0 (MQTT-2.3.1-1)", 0},
        {"UNSUBACK, id 0", "b0 02 0000", "packet id 0 (MQTT-2.3.1-1)", 0},
        {"SUBACK 3", "90 03 0001 03", "SUBACK with a reserved code (MQTT-3.9.3-2)", 0},
        {"SUBACK 0x81", "90 03 0001 81", "SUBACK with a reserved code (MQTT-3.9.3-2)", 0},
        {"PUBLISH of 0", "30 00", "topic beyond its packet (MQTT-3.3.2)", 0},
        {"PUBLISH of 2", "30 02", "topic beyond its packet (MQTT-3.3.2)", 0},
        {"PUBLISH QoS 1 of 4", "32 04", "topic beyond its packet (MQTT-3.3.2)", 0},
        {"topic beyond, low byte", "30 08 00 07", "topic beyond its packet (MQTT-3.3.2)", 0},
        {"topic beyond, high byte", "30 08 01", "topic beyond its packet (MQTT-3.3.2)", 0},
        {"no room for the id", "32 08 00 05", "topic beyond its packet (MQTT-3.3.2)", 0},
        {"empty topic", "30 08 00 00", "empty topic (MQTT-4.7.3-1)", 0},
        {"wildcard +", "30 08 00 03 612b", "topic with a wildcard (MQTT-3.3.2-2)", 0},
        {"wildcard #", "30 08 00 03 23", "topic with a wildcard (MQTT-3.3.2-2)", 0},
        {"U+0000", "30 08 00 03 6100", "topic with U+0000 (MQTT-1.5.3-2)", 0},
        {"continuation byte alone", "30 08 00 03 80", "topic that is not UTF-8 (MQTT-1.5.3-1)", 0},
        {"overlong, two bytes", "30 08 00 03 c1", "topic that is not UTF-8 (MQTT-1.5.3-1)", 0},
        {"overlong, three bytes", "30 08 00 03 e09f", "topic that is not UTF-8 (MQTT-1.5.3-1)", 0},
        {"overlong, four bytes", "30 08 00 04 f08f", "topic that is not UTF-8 (MQTT-1.5.3-1)", 0},
        {"first surrogate", "30 08 00 03 eda0", "topic that is not UTF-8 (MQTT-1.5.3-1)", 0},
        {"last surrogate", "30 08 00 03 edbf", "topic that is not UTF-8 (MQTT-1.5.3-1)", 0},
        {"over U+10FFFF", "30 08 00 04 f490", "topic that is not UTF-8 (MQTT-1.5.3-1)", 0},
        {"byte f5", "30 08 00 04 f5", "topic that is not UTF-8 (MQTT-1.5.3-1)", 0},
        {"byte ff", "30 08 00 04 ff", "topic that is not UTF-8 (MQTT-1.5.3-1)", 0},
        {"not continued", "30 08 00 03 c361", "topic that is not UTF-8 (MQTT-1.5.3-1)", 0},
        {"third byte not continued", "30 08 00 03 e282c0", "topic that is not UTF-8 (MQTT-1.5.3-1)", 0},
        {"cut at the topic's end", "30 08 00 02 61c3", "topic that is not UTF-8 (MQTT-1.5.3-1)", 0},
        {"four bytes of which three fit", "30 08 00 03 f0", "topic that is not UTF-8 (MQTT-1.5.3-1)", 0},
        {"PUBLISH QoS 1, id 0", "32 08 00 01 61 0000", "packet id 0 (MQTT-2.3.1-1)", 0},
        {"PUBLISH QoS 2, id 0, too large", "34 ffffff7f 00 01 61 0000", "packet id 0 (MQTT-2.3.1-1)", 0},
        {"topic over the limit, low byte", "30 7f 00 11", "packet larger than can be held", 20},
        {"topic over the limit, high byte", "30 ff7f 01", "packet larger than can be held", 200},
        {"id over the limit", "32 7f 00 0f", "packet larger than can be held", 20},
        {"a limit below any topic", "30 7f", "packet larger than can be held", 4},
        {"a limit below the fixed header", "30 ff7f", "packet larger than can be held", 2},
        {"CONNACK over the limit", "20 02", "packet larger than can be held", 3},
};

static void reads_bad(void **s)
{
	(void)s;
	for (size_t i = 0; i < COUNT(wrong); i++) {
		unsigned char p[ROOM];
		size_t n = unhex(wrong[i].hex, p, sizeof p);
		check_read(wrong[i].name, p, n, wrong[i].limit ? wrong[i].limit : WIDE, -1, wrong[i].text);
	}
}

/* Whatever has not been refused can still become a packet: malformation is seen at the first byte that makes
 * it so. A random walk over the bytes that are not refused must never be stuck, and as many bytes as the
 * limit are enough for a result. */
static void sees_it_early(void **s)
{
	(void)s;
	unsigned packets = 0, refused = 0, skipped = 0;
	state = 7;
	for (unsigned walk = 0; walk < 4000; walk++) {
		unsigned char p[40];
		size_t n = 0, limit = 10 + rnd(31);
		long r = 0;
		while (r == 0) {
			struct mqtt_packet k;
			const char *why;
			assert_true(n < limit);
			/* Small numbers are more interesting than others. */
			p[n] = (unsigned char)(rnd(4) == 0        ? rnd(4)
			                       : n == 0 && rnd(2) ? 0x30 + rnd(16)
			                                          : rnd(256));
			size_t tried = 0;
			while ((r = mqtt_read(p, n + 1, limit, &k, &why)) < 0 && tried++ < 256)
				p[n]++;
			if (r < 0)
				fail_msg("walk %u: no byte may follow these %zu (%s)", walk, n, why);
			n++;
			refused += (unsigned)tried;
			packets += r > 0;
			skipped += r > 0 && k.skip > 0;
		}
		assert_int_equal(r, n);
	}
	assert_true(packets == 4000 && refused > 10000 && skipped > 500);
}

/* Reads a stream that arrives in pieces of step bytes through memory of limit bytes, as a session does. */
static void feed(const unsigned char *p, size_t n, size_t step, size_t limit, struct buf *log)
{
	unsigned char *held = guarded(limit);
	size_t have = 0, skip = 0;
	for (size_t at = 0; at < n;) {
		size_t k = n - at < step ? n - at : step;
		k = k < limit - have ? k : limit - have;
		assert_true(k > 0); /* else the reader wants more than its limit */
		memcpy(held + have, p + at, k);
		have += k;
		at += k;
		for (long r = 1; r != 0;) {
			struct mqtt_packet packet;
			const char *why;
			size_t thrown = skip < have ? skip : have;
			memmove(held, held + thrown, have - thrown);
			have -= thrown;
			skip -= thrown;
			r = mqtt_read(held, have, limit, &packet, &why);
			if (r < 0)
				fail_msg("step %zu limit %zu: %s", step, limit, why);
			if (r == 0)
				break;
			describe(log, &packet);
			skip = packet.skip;
			memmove(held, held + r, have - (size_t)r);
			have -= (size_t)r;
		}
	}
	assert_int_equal(have + skip, 0);
	guarded_free(held, limit);
}

static void streams(void **s)
{
	(void)s;
	static unsigned char stream[1 << 16];
	static unsigned char once[1 << 15], pieces[1 << 15];
	size_t n = 0;
	for (size_t i = 0; i < COUNT(good); i++)
		if (good[i].limit == 0 && strcmp(good[i].name, "256 MB") != 0)
			n += unhex(good[i].hex, stream + n, sizeof stream - n);
	for (unsigned qos = 0; qos < 3; qos++) /* 1000 bytes each, then a PINGRESP */
		for (unsigned size = 1; size <= 1000; size += 333) {
			size_t rest = (qos ? 5 : 3) + size;
			unsigned char head[8] = {(unsigned char)(0x30 | qos << 1),
			        (unsigned char)(rest | 128), (unsigned char)(rest >> 7), 0, 1, 't', 0,
			        (unsigned char)(qos + 1)};
			memcpy(stream + n, head, 8);
			memset(stream + n + 3 + rest - size, 'p', size);
			n += 3 + rest;
			n += unhex("d000", stream + n, 2);
		}
	static const size_t limits[] = {23, 24, 64, 340, 342, 2000}, steps[] = {1, 2, 3, 7, 100, SIZE_MAX};
	static const unsigned skips[] = {9, 9, 9, 8, 6, 0}; /* how many PUBLISH exceed the limit */
	for (size_t l = 0; l < COUNT(limits); l++) {
		struct buf a = BUF(once);
		feed(stream, n, SIZE_MAX, limits[l], &a);
		unsigned large = 0;
		for (const char *p = buf_cstr(&a); (p = strstr(p, " skip")) != NULL; p++)
			large += p[5] != '0';
		assert_int_equal(large, skips[l]);
		for (size_t i = 0; i < COUNT(steps); i++) {
			struct buf b = BUF(pieces);
			feed(stream, n, steps[i], limits[l], &b);
			assert_slice(buf_slice(&b), buf_cstr(&a));
		}
	}
}

#define STR(s) ((struct slice){(const unsigned char *)(s), sizeof(s) - 1})

/* What each writer wrote, by number. */
static bool write_packet(size_t i, struct buf *b)
{
	static const unsigned char long_text[130] = {'p'};
	const struct slice none = {NULL, 0};
	switch (i) {
	case 0:
		mqtt_put_connect(
		        b, &(struct mqtt_connect){STR("id"), STR("user"), STR("pw"), none, none, 60, true});
		break;
	case 1:
		mqtt_put_connect(b, &(struct mqtt_connect){
		                            STR("c"), STR("u"), STR("p"), STR("w"), STR("m"), 65535, false});
		break;
	case 2:
		mqtt_put_connect(
		        b, &(struct mqtt_connect){STR("c"), none, STR("p"), none, STR("m"), 5, true});
		break;
	case 3:
		mqtt_put_connect(
		        b, &(struct mqtt_connect){STR("c"), STR("u"), none, STR("w"), none, 256, true});
		break;
	case 4:
		mqtt_put_connect(
		        b, &(struct mqtt_connect){STR("c"), STR("u"), {long_text, 109}, none, none, 5, true});
		break;
	case 5:
		mqtt_put_connect(
		        b, &(struct mqtt_connect){STR("c"), STR("u"), {long_text, 110}, none, none, 5, true});
		break;
	case 6: mqtt_put_subscribe(b, STR("a/b"), 1); break;
	case 7: mqtt_put_ack(b, MQTT_PUBACK, 1); break;
	case 8: mqtt_put_ack(b, MQTT_PUBREC, 256); break;
	case 9: mqtt_put_ack(b, MQTT_PUBREL, 65535); break;
	case 10: mqtt_put_ack(b, MQTT_PUBCOMP, 4660); break;
	case 11: mqtt_put_pingreq(b); break;
	case 12: mqtt_put_disconnect(b); break;
	default: return false;
	}
	return true;
}

/* MQTT-3.1, 3.4 to 3.8, 3.12, 3.14, written out by hand; a longer text is followed by zeros. */
static const struct {
	const char *hex;
	size_t zeros;
} written[] = {
        {"10 18 0004 4d515454 04 c2 003c 0002 6964 0004 75736572 0002 7077", 0},
        {"10 19 0004 4d515454 04 cc ffff 0001 63 0001 77 0001 6d 0001 75 0001 70", 0},
        {"10 12 0004 4d515454 04 c2 0005 0001 63 0000 0001 70", 0},
        {"10 17 0004 4d515454 04 ce 0100 0001 63 0001 77 0000 0001 75 0000", 0},
        {"10 7f 0004 4d515454 04 c2 0005 0001 63 0001 75 006d 70", 108},
        {"10 8001 0004 4d515454 04 c2 0005 0001 63 0001 75 006e 70", 109},
        {"82 08 0001 0003 612f62 01", 0},
        {"40 02 0001", 0},
        {"50 02 0100", 0},
        {"62 02 ffff", 0},
        {"70 02 1234", 0},
        {"c0 00", 0},
        {"e0 00", 0},
};

static void writes(void **s)
{
	(void)s;
	for (size_t i = 0; i < COUNT(written); i++) {
		unsigned char want[256] = {0};
		size_t n = unhex(written[i].hex, want, sizeof want) + written[i].zeros;
		for (size_t cap = 0; cap <= n; cap++) {
			unsigned char *mem = guarded(cap);
			struct buf b = {mem, cap, 0, false};
			assert_true(write_packet(i, &b));
			if (b.full != (cap < n) || (cap == n && (b.n != n || memcmp(mem, want, n) != 0)))
				fail_msg("packet %zu (%s) in %zu bytes: full %d, wrote %zu", i,
				        written[i].hex, cap, b.full, b.n);
			guarded_free(mem, cap);
		}
	}
	assert_false(write_packet(COUNT(written), &(struct buf){NULL, 0, 0, false}));
}

/* No string is cut and none is longer than its length can say (MQTT-1.5.3). */
static void long_strings(void **s)
{
	(void)s;
	static unsigned char text[UINT16_MAX + 1], out[6 * (UINT16_MAX + 9)];
	struct slice most = {text, UINT16_MAX}, over = {text, UINT16_MAX + 1}, none = {NULL, 0};
	for (unsigned i = 0; i < 7; i++) {
		struct slice f[5];
		for (unsigned j = 0; j < 5; j++)
			f[j] = i == j ? over : most;
		struct buf b = BUF(out);
		mqtt_put_connect(&b, &(struct mqtt_connect){f[0], f[1], f[2], f[3], f[4], 1, true});
		assert_int_equal(b.full, i < 5);
		if (i == 5) /* 10 + 5 * 65537 = 0x50019 bytes */
			assert_memory_equal(out, "\x10\x8f\x80\x14", 4);
	}
	struct buf b = BUF(out);
	mqtt_put_subscribe(&b, most, 1);
	assert_false(b.full);
	assert_memory_equal(out, "\x82\x84\x80\x04\x00\x01\xff\xff", 8);
	mqtt_put_subscribe(&b, over, 1);
	assert_true(b.full);
	b = BUF(out);
	mqtt_put_subscribe(&b, (struct slice){text, SIZE_MAX / 2}, 1);
	assert_true(b.full);
	b = BUF(out);
	mqtt_put_connect(
	        &b, &(struct mqtt_connect){{text, MQTT_LENGTH_MAX}, none, none, none, none, 1, true});
	assert_true(b.full);
}

/* What an outbox does, told by a script of words:
 *   pX, qX   publish the payload X to the topic t (8 bytes in all); q: passing
 *   sN       send at most N bytes; s alone: all
 *   aN       a PUBACK for id N; "no" when it is refused
 *   r, n     a new connection with the session kept (r) or not (n)
 *   d, D     drop the passing ones that were not sent; D: but for the newest
 *   m, c     midway?; count, and does one wait for its PUBACK?
 * The log has each whole packet that was sent as its id and payload, ' for DUP. Here the ids count from 1;
 * those in the packets begin behind that of SUBSCRIBE. */
static const struct {
	const char *script, *log;
} scripts[] = {
        {"s c m", "0/0 m0"},
        {"pa pb pc c s c", "3/0 1a 2b 3c 3/1"},
        {"pa s s", "1a"},
        {"pa pb s3 m s5 m s1 m s m", "m1 1a m0 m1 2b m0"},
        {"pa pb pc s a2 c a1 a3 c", "1a 2b 3c 2/1 0/0"},
        {"pa pb a1 s9 a2 a7 a0 a1 a1 s", "no 1a no no no no 2b"},
        {"pa pb s12 a1 m c s", "1a m1 1/0 2b"},
        {"pa s r a1 s a1 c", "1a no 1a' 0/0"},
        {"pa pb s8 r s", "1a 1a' 2b"},
        {"pa s3 r m s", "m0 1a'"},
        {"pa s3 n m s", "m0 1a"},
        {"pa pb s n s", "1a 2b 1a 2b"},
        {"pa s r r s", "1a 1a'"},
        {"pa s n r s", "1a 1a"},
        {"pa s r s n s", "1a 1a' 1a"},
        {"pa r s", "1a"},
        {"pa pb s a1 r pc s", "1a 2b 2b' 3c"},
        {"qa d qb s", "2b"},
        {"px qa py d qb s", "1x 3y 4b"},
        {"qa px qb d s c", "2x 1/1"},
        {"qa qb qc d s c", "0/0"},
        {"qa s d qb s c", "1a 2b 2/1"},
        {"qa s3 d D qb m s", "m1 1a 2b"},
        {"qa s r d s", "1a 1a'"},
        {"qa s r d r d s", "1a 1a'"},
        {"qa s n d s c", "1a 0/0"},
        {"qa px qb s n D s", "1a 2x 3b 2x 3b"},
        {"qa px s r D s", "1a 2x 1a' 2x'"},
        {"qa s n qb D s", "1a 2b"},
        {"qa s n D s", "1a 1a"},
};

static void log_sent(struct buf *log, unsigned char *stream, size_t *n)
{
	struct mqtt_packet k;
	const char *why;
	long r;
	while ((r = mqtt_read(stream, *n, WIDE, &k, &why)) > 0) {
		char s[32];
		assert_true(k.type == MQTT_PUBLISH && k.qos == 1 && !k.retain);
		assert_slice(k.topic, "t");
		snprintf(s, sizeof s, " %d%.*s%s", k.id - MQTT_SUBSCRIBE_ID, (int)k.payload.n,
		        (const char *)k.payload.p, k.dup ? "'" : "");
		buf_put_str(log, s);
		*n -= (size_t)r;
		memmove(stream, stream + r, *n);
	}
	assert_int_equal(r, 0);
}

static bool publish(struct mqtt_outbox *o, const void *payload, size_t n, bool passing)
{
	struct buf b;
	mqtt_outbox_begin(o, STR("t"), &b);
	buf_put(&b, payload, n);
	return mqtt_outbox_commit(o, &b, passing);
}

static void play(struct mqtt_outbox *o, const char *word, unsigned char *stream, size_t *n, struct buf *log)
{
	size_t number = strtoul(word + 1, NULL, 10);
	char s[32] = "";
	switch (word[0]) {
	case 'p':
	case 'q': assert_true(publish(o, word + 1, 1, word[0] == 'q')); break;
	case 's':
		*n += mqtt_outbox_send(o, stream + *n, number ? number : 200);
		log_sent(log, stream, n);
		break;
	case 'a':
		snprintf(s, sizeof s, "%s",
		        mqtt_outbox_ack(o, (uint16_t)(number + MQTT_SUBSCRIBE_ID)) ? "" : " no");
		break;
	case 'r':
	case 'n':
		*n = 0;
		mqtt_outbox_again(o, word[0] == 'r');
		break;
	case 'd':
	case 'D': mqtt_outbox_drop_passing(o, word[0] == 'D'); break;
	case 'm': snprintf(s, sizeof s, " m%d", mqtt_outbox_midway(o)); break;
	case 'c': snprintf(s, sizeof s, " %zu/%d", mqtt_outbox_count(o), mqtt_outbox_waits(o)); break;
	default: fail_msg("word %s", word);
	}
	buf_put_str(log, s);
}

static void outbox_scripts(void **s)
{
	(void)s;
	for (size_t i = 0; i < COUNT(scripts); i++) {
		static _Alignas(8) unsigned char mem[400];
		unsigned char stream[400], text[200];
		struct mqtt_outbox o;
		struct buf log = BUF(text);
		size_t n = 0;
		mqtt_outbox_init(&o, mem, sizeof mem);
		for (const char *w = scripts[i].script; w != NULL;
		        w = strchr(w, ' ') ? strchr(w, ' ') + 1 : NULL)
			play(&o, w, stream, &n, &log);
		const char *got = buf_cstr(&log);
		if (got[0] == 0 || strcmp(got + 1, scripts[i].log) != 0)
			fail_msg("%s: got \"%s\", expected \" %s\"", scripts[i].script, got, scripts[i].log);
	}
}

/* Whole packets, where the remaining length takes one byte more (MQTT-2.2.3, table 2.4). */
static void outbox_lengths(void **s)
{
	(void)s;
	static const struct {
		size_t len;
		unsigned char bytes[4];
		size_t n;
	} t[] = {{5, {5}, 1}, {127, {0x7f}, 1}, {128, {0x80, 1}, 2}, {16383, {0xff, 0x7f}, 2},
	        {16384, {0x80, 0x80, 1}, 3}, {2097151, {0xff, 0xff, 0x7f}, 3},
	        {2097152, {0x80, 0x80, 0x80, 1}, 4}};
	static _Alignas(8) unsigned char mem[2100000], payload[2100000], out[2100000];
	for (size_t i = 0; i < COUNT(t); i++) {
		struct mqtt_outbox o;
		size_t n = t[i].len - 5;
		mqtt_outbox_init(&o, mem, sizeof mem);
		memset(mem, 0xaa, sizeof mem);
		o.last_id = 0x1233;
		for (size_t j = 0; j < n; j++)
			payload[j] = (unsigned char)(j ^ j >> 8);
		assert_true(publish(&o, payload, n, false));
		assert_int_equal(mqtt_outbox_send(&o, out, sizeof out), 1 + t[i].n + t[i].len);
		assert_int_equal(out[0], 0x32);
		assert_memory_equal(out + 1, t[i].bytes, t[i].n);
		assert_memory_equal(out + 1 + t[i].n, "\0\1t\x12\x34", 5);
		assert_memory_equal(out + 6 + t[i].n, payload, n);
	}
}

static void outbox_full(void **s)
{
	(void)s;
	enum { CAP = 128 };
	static const unsigned char text[CAP] = "payload";
	unsigned char *mem = guarded(CAP), out[CAP];
	struct mqtt_outbox o;
	struct buf b;
	mqtt_outbox_init(&o, mem, CAP);
	assert_true(mqtt_outbox_begin(&o, STR("t"), &b));
	size_t most = b.cap;
	assert_in_range(most, CAP - 32, CAP - 8); /* what a publish costs is small */
	assert_false(publish(&o, text, most + 1, false));
	assert_int_equal(mqtt_outbox_count(&o), 0);
	assert_int_equal(o.last_id, MQTT_SUBSCRIBE_ID);
	assert_true(publish(&o, text, most, false));
	/* Full: nothing more, and what is there stays as it is. */
	assert_false(mqtt_outbox_begin(&o, STR("t"), &b));
	assert_true(b.full);
	assert_false(mqtt_outbox_commit(&o, &b, true));
	assert_int_equal(mqtt_outbox_count(&o), 1);
	assert_int_equal(mqtt_outbox_send(&o, out, sizeof out), 2 + 5 + most);
	assert_memory_equal(out + 7, text, most);
	assert_true(mqtt_outbox_ack(&o, 2));
	assert_true(publish(&o, text, most, false));
	assert_true(mqtt_outbox_send(&o, out, sizeof out) > 0);
	assert_true(mqtt_outbox_ack(&o, 3));
	/* A topic that leaves no byte for the payload, one that does not fit, one too long for MQTT. */
	assert_true(mqtt_outbox_begin(&o, (struct slice){text, 1 + most}, &b));
	assert_int_equal(b.cap, 0);
	assert_true(mqtt_outbox_commit(&o, &b, false));
	assert_true(mqtt_outbox_send(&o, out, sizeof out) > 0);
	assert_true(mqtt_outbox_ack(&o, 4));
	assert_false(mqtt_outbox_begin(&o, (struct slice){text, 2 + most}, &b));
	assert_false(mqtt_outbox_begin(&o, (struct slice){text, SIZE_MAX}, &b));
	assert_false(mqtt_outbox_begin(&o, (struct slice){NULL, 0}, &b)); /* MQTT-4.7.3-1 */
	assert_false(mqtt_outbox_commit(&o, &b, false));
	guarded_free(mem, CAP);

	static _Alignas(8) unsigned char large[70000], topic[UINT16_MAX + 1];
	mqtt_outbox_init(&o, large, sizeof large);
	assert_false(mqtt_outbox_begin(&o, (struct slice){topic, UINT16_MAX + 1}, &b));
	assert_true(b.full);
	assert_true(mqtt_outbox_begin(&o, (struct slice){topic, UINT16_MAX}, &b));
	/* A packet of more than 256 MB cannot be told (MQTT-2.2.3). Where it would end is not touched. */
	mqtt_outbox_init(&o, large, (size_t)1 << 30);
	assert_true(mqtt_outbox_begin(&o, STR("t"), &b));
	assert_int_equal(b.cap, 268435455 - 5);
}

/* Ids that wait for their PUBACK are passed over when the numbers begin anew (MQTT-2.3.1-2), and so is that
 * of SUBSCRIBE. */
static void ids_wrap_around(void **s)
{
	(void)s;
	static _Alignas(8) unsigned char mem[400];
	unsigned char out[400];
	struct mqtt_outbox o;
	mqtt_outbox_init(&o, mem, sizeof mem);
	for (unsigned i = 0; i < 4; i++)
		assert_true(publish(&o, "x", 1, false));
	mqtt_outbox_send(&o, out, sizeof out);
	assert_true(mqtt_outbox_ack(&o, 3));
	unsigned expect = 6;
	for (unsigned i = 0; i < 70000; i++) {
		assert_true(publish(&o, "y", 1, false));
		assert_int_equal(mqtt_outbox_send(&o, out, sizeof out), 8);
		assert_true(mqtt_outbox_ack(&o, (uint16_t)expect));
		expect = expect == 65535 ? 3 : expect == 3 ? 6 : expect + 1;
	}
	assert_int_equal(mqtt_outbox_count(&o), 3);
}

enum { MODEL_CAP = 2048, MODEL_MOST = 80 };

static struct item {
	unsigned char bytes[400];
	size_t n, at, cost;
	unsigned id;
	bool passing;
} model[MODEL_MOST];
static size_t models, taken;
static unsigned last_id = MQTT_SUBSCRIBE_ID;

static unsigned model_new_id(void)
{
	for (;;) {
		last_id = last_id == 65535 ? MQTT_SUBSCRIBE_ID + 1 : last_id + 1;
		size_t i = 0;
		while (i < models && model[i].id != last_id)
			i++;
		if (i == models)
			return last_id;
	}
}

static void model_remove(size_t i)
{
	taken -= model[i].cost;
	memmove(model + i, model + i + 1, (--models - i) * sizeof model[0]);
}

/* Returns whether it was queued. */
static bool model_publish(struct mqtt_outbox *o)
{
	static const unsigned char topic[] = "topic/abc";
	struct slice t = {topic, 1 + rnd(9)};
	size_t n = rnd(3) ? rnd(12) : rnd(300), len = 4 + t.n + n;
	size_t cost = 8 + (8 + 5 + len + 7) / 8 * 8;
	bool passing = rnd(3) == 0, fits = taken + cost <= MODEL_CAP;
	struct item *m = &model[models];
	struct buf b;
	*m = (struct item){.cost = cost, .passing = passing};
	struct buf want = {m->bytes, sizeof m->bytes, 0, false};
	bool begun_well = mqtt_outbox_begin(o, t, &b);
	assert_true(begun_well || !fits);
	if (rnd(8) == 0)
		return false; /* changed its mind */
	buf_put_byte(&want, 0x32);
	if (len > 127)
		buf_put_byte(&want, (unsigned char)(len % 128 + 128));
	buf_put_byte(&want, (unsigned char)(len > 127 ? len / 128 : len));
	buf_put_u16be(&want, (uint16_t)t.n);
	buf_put_slice(&want, t);
	m->id = fits ? model_new_id() : 0;
	buf_put_u16be(&want, (uint16_t)m->id);
	for (size_t i = 0; i < n; i++) {
		unsigned char c = (unsigned char)rnd(256);
		buf_put_byte(&want, c);
		buf_put_byte(&b, c);
	}
	m->n = want.n;
	assert_int_equal(mqtt_outbox_commit(o, &b, passing), fits);
	models += fits;
	taken += fits ? cost : 0;
	return fits;
}

static void model_send(struct mqtt_outbox *o)
{
	size_t n = rnd(3) ? rnd(30) : rnd(600), done = 0;
	unsigned char *out = guarded(n), want[600];
	for (size_t i = 0; i < models; i++)
		for (; model[i].at < model[i].n && done < n; model[i].at++)
			want[done++] = model[i].bytes[model[i].at];
	assert_int_equal(mqtt_outbox_send(o, out, n), done);
	assert_memory_equal(out, want, done);
	guarded_free(out, n);
}

static bool model_ack(struct mqtt_outbox *o)
{
	unsigned id = models > 0 && rnd(5) ? model[rnd((uint32_t)models)].id : rnd(65536);
	size_t i = 0;
	while (i < models && !(model[i].id == id && model[i].at == model[i].n))
		i++;
	assert_int_equal(mqtt_outbox_ack(o, (uint16_t)id), i < models);
	if (i == models)
		return false;
	model_remove(i);
	return true;
}

static void model_again(struct mqtt_outbox *o)
{
	bool kept = rnd(2);
	mqtt_outbox_again(o, kept);
	for (size_t i = 0; i < models; i++) {
		if (!kept)
			model[i].bytes[0] = 0x32;
		else if (model[i].at > 0)
			model[i].bytes[0] = 0x3a;
		model[i].at = 0;
	}
}

static void model_drop(struct mqtt_outbox *o, bool but_newest)
{
	mqtt_outbox_drop_passing(o, but_newest);
	for (size_t i = models; i-- > 0;) {
		bool ever = model[i].at > 0 || model[i].bytes[0] == 0x3a;
		if (model[i].passing && !ever && !but_newest)
			model_remove(i);
		but_newest = but_newest && !model[i].passing;
	}
}

static void outbox_like_the_model(void **s)
{
	(void)s;
	unsigned char *mem = guarded(MODEL_CAP);
	struct mqtt_outbox o;
	unsigned queued = 0, acked = 0, most = 0;
	mqtt_outbox_init(&o, mem, MODEL_CAP);
	state = 99;
	for (unsigned turn = 0; turn < 60000; turn++) {
		uint32_t what = rnd(100);
		if (turn == 5000)
			last_id = o.last_id = 65500;
		if (what < 40)
			queued += model_publish(&o);
		else if (what < 68)
			model_send(&o);
		else if (what < 92)
			acked += model_ack(&o);
		else if (what < 94)
			model_again(&o);
		else
			model_drop(&o, rnd(4) == 0);
		size_t whole = 0, part = 0;
		for (size_t i = 0; i < models; i++) {
			whole += model[i].at == model[i].n;
			part += model[i].at > 0 && model[i].at < model[i].n;
		}
		assert_int_equal(mqtt_outbox_count(&o), models);
		assert_int_equal(mqtt_outbox_waits(&o), whole > 0);
		assert_int_equal(mqtt_outbox_midway(&o), part > 0);
		assert_true(part < 2);
		most = models > most ? (unsigned)models : most;
	}
	/* The walk went where it was meant to go. */
	assert_true(queued > 8000 && acked > 5000 && most > 20);
	guarded_free(mem, MODEL_CAP);
}

static void received(void **s)
{
	(void)s;
	struct mqtt_received r = {0};
	for (unsigned i = 0; i < 32; i++)
		assert_int_equal(mqtt_received_add(&r, (uint16_t)(i * 2000 + 1)), 1);
	assert_int_equal(mqtt_received_add(&r, 2), -1);
	for (unsigned i = 0; i < 32; i++)
		assert_int_equal(mqtt_received_add(&r, (uint16_t)(i * 2000 + 1)), 0);
	mqtt_received_release(&r, 2); /* not there */
	assert_int_equal(mqtt_received_add(&r, 2), -1);
	mqtt_received_release(&r, 1);
	mqtt_received_release(&r, 62001);
	for (unsigned i = 1; i < 31; i++)
		assert_int_equal(mqtt_received_add(&r, (uint16_t)(i * 2000 + 1)), 0);
	assert_int_equal(mqtt_received_add(&r, 1), 1);
	assert_int_equal(mqtt_received_add(&r, 62001), 1);
	assert_int_equal(mqtt_received_add(&r, 3), -1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(reads_good),
	        cmocka_unit_test(reads_bad),
	        cmocka_unit_test(sees_it_early),
	        cmocka_unit_test(streams),
	        cmocka_unit_test(writes),
	        cmocka_unit_test(long_strings),
	        cmocka_unit_test(outbox_scripts),
	        cmocka_unit_test(outbox_lengths),
	        cmocka_unit_test(outbox_full),
	        cmocka_unit_test(ids_wrap_around),
	        cmocka_unit_test(outbox_like_the_model),
	        cmocka_unit_test(received),
	};
	return cmocka_run_group_tests_name("mqtt", tests, NULL, NULL);
}
