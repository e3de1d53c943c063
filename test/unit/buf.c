/* Slices and the bounded writer. */
#include "unit.h"

#include <time.h>

#include "../../buf.c"

static void slices(void **state)
{
	(void)state;
	struct slice s = slice_str("a{serial}b");
	assert_true(slice_is(s, "a{serial}b") && !slice_is(s, "a{serial}") &&
	            slice_is((struct slice){NULL, 0}, ""));
	assert_int_equal(slice_find(s, "{serial}"), 1);
	assert_int_equal(slice_find(s, "b"), 9);
	assert_int_equal(slice_find(s, "serials"), s.n);
	assert_int_equal(slice_find(s, "a{serial}bc"), s.n);
	assert_int_equal(slice_find((struct slice){NULL, 0}, "x"), 0);
}

static void numbers_from_text(void **state)
{
	static const struct {
		const char *text;
		int64_t max, value;
	} cases[] = {{"0", 9, 0}, {"007", 9, 7}, {"10", 9, -1}, {"65535", 65535, 65535}, {"65536", 65535, -1},
	        {"", 9, -1}, {"-1", 9, -1}, {"+1", 9, -1}, {" 1", 9, -1}, {"1 ", 9, -1}, {"1.0", 9, -1},
	        {"1e1", 99, -1}, {"99999999999999999999999999", INT64_C(100000000000000000), -1}};
	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
		if (slice_u64(slice_str(cases[i].text), cases[i].max) != cases[i].value)
			fail_msg("\"%s\"", cases[i].text);
}

static void numbers_to_text(void **state)
{
	static const int64_t values[] = {0, 1, 9, 10, -1, -10, INT64_MAX, INT64_MIN};
	(void)state;
	for (size_t i = 0; i < sizeof values / sizeof values[0]; i++) {
		unsigned char mem[32];
		char text[32];
		struct buf b = BUF(mem);
		snprintf(text, sizeof text, "%lld", (long long)values[i]);
		buf_put_i64(&b, values[i]);
		assert_slice(buf_slice(&b), text);
		b.n = 0;
		snprintf(text, sizeof text, "%llu", (unsigned long long)values[i]);
		buf_put_u64(&b, (uint64_t)values[i]);
		assert_slice(buf_slice(&b), text);
	}
}

/* Those that the authors of FNV give; and the hash of two pieces is that of the whole. */
static void hashes(void **state)
{
	(void)state;
	assert_true(slice_hash(SLICE_HASH, slice_str("")) == UINT64_C(0xcbf29ce484222325));
	assert_true(slice_hash(SLICE_HASH, slice_str("a")) == UINT64_C(0xaf63dc4c8601ec8c));
	assert_true(slice_hash(SLICE_HASH, slice_str("foobar")) == UINT64_C(0x85944171f73967e8));
	assert_true(slice_hash(slice_hash(SLICE_HASH, slice_str("foo")), slice_str("bar")) ==
	            UINT64_C(0x85944171f73967e8));
}

/* Against the C library's calendar: each day of 600 years, and odd moments. */
static void times(void **state)
{
	(void)state;
	for (int64_t day = -140000; day < 80000; day++) {
		unsigned char mem[40];
		char text[40];
		struct buf b = BUF(mem);
		int64_t us = (day * 86400 + (day * 7919) % 86400) * 1000000 + 1000000 + day % 1000;
		time_t s = (time_t)((us - (us % 1000000 + 1000000) % 1000000) / 1000000);
		struct tm tm;
		size_t n = strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%S", gmtime_r(&s, &tm));
		snprintf(text + n, sizeof text - n, ".%06dZ", (int)((us % 1000000 + 1000000) % 1000000));
		buf_put_time(&b, us);
		assert_slice(buf_slice(&b), text);
	}
}

static void times_out_of_range(void **state)
{
	unsigned char mem[40];
	struct buf b = BUF(mem);
	(void)state;
	buf_put_time(&b, INT64_MIN);
	assert_slice(buf_slice(&b), "0000-03-01T00:00:00.000000Z");
	b.n = 0;
	buf_put_time(&b, INT64_MAX);
	assert_slice(buf_slice(&b), "9999-12-31T23:59:59.999999Z");
}

static void escapes(void **state)
{
	unsigned char mem[64];
	struct buf b = BUF(mem);
	(void)state;
	buf_put_escaped(&b, (struct slice){(const unsigned char *)"a \"\\\n\0\x7f\xc3~", 9}, 64);
	assert_slice(buf_slice(&b), "a \\x22\\x5c\\x0a\\x00\\x7f\\xc3~");
	b.n = 0;
	buf_put_escaped(&b, slice_str("abcdef"), 3);
	assert_slice(buf_slice(&b), "abc...");
}

/* What does not fit writes nothing, and neither does what follows, even if it would fit. */
static void overflow_sticks(void **state)
{
	(void)state;
	for (size_t cap = 0; cap < 12; cap++) {
		unsigned char *mem = guarded(cap);
		struct buf b = {mem, cap, 0, false};
		buf_put_str(&b, "123456");
		buf_put_u16be(&b, 0x3738);
		buf_put_str(&b, "90");
		buf_put_byte(&b, 'x');
		assert_int_equal(b.full, cap < 11);
		assert_slice(buf_slice(&b), cap < 6    ? ""
		                            : cap < 8  ? "123456"
		                            : cap < 10 ? "12345678"
		                            : cap < 11 ? "1234567890"
		                                       : "1234567890x");
		assert_string_equal(buf_cstr(&b), "");
		guarded_free(mem, cap);
	}
	unsigned char mem[4];
	struct buf b = BUF(mem);
	buf_put_str(&b, "abc");
	assert_string_equal(buf_cstr(&b), "abc");
	assert_false(b.full);
}

static void pieces(void **state)
{
	struct slice s = slice_str("a,,b"), head;
	(void)state;
	assert_true(slice_is(slice_cut(&s, ','), "a") && slice_is(s, ",b"));
	assert_true(slice_is(slice_cut(&s, ','), "") && slice_is(s, "b"));
	assert_true(slice_is(slice_cut(&s, ','), "b") && s.p == NULL && s.n == 0);
	s = slice_str("a,");
	head = slice_cut(&s, ',');
	assert_true(slice_is(head, "a") && s.p == head.p + 2 && s.n == 0);
	assert_true(slice_is(slice_cut(&s, ','), "") && s.p == NULL);
	assert_true(slice_cut(&s, ',').p == NULL);
	assert_true(slice_is(slice_trim(slice_str(" \t\r\na b\n\r ")), "a b"));
	assert_true(slice_is(slice_trim(slice_str(" ")), "") && slice_trim((struct slice){NULL, 0}).n == 0);
	assert_true(slice_is(slice_from(slice_str("abc"), 3), "") &&
	            slice_is(slice_from(slice_str("abc"), 1), "bc"));
	assert_true(slice_like(slice_str("aZ[@`{"), slice_str("Az[@`{")));
	assert_false(
	        slice_like(slice_str("["), slice_str("{")) || slice_like(slice_str("@"), slice_str("`")));
	assert_false(slice_like(slice_str("a"), slice_str("")) || slice_like(slice_str(""), slice_str("a")));
	assert_false(slice_like(slice_str("xb"), slice_str("ab")));
	assert_true(slice_like((struct slice){NULL, 0}, slice_str("")));
}

static void strings(void **state)
{
	unsigned char mem[5];
	struct buf b = BUF(mem);
	(void)state;
	buf_put_text(&b, "%s%s%s", "a", "", "bc");
	assert_true(slice_is(buf_slice(&b), "abc") && !b.full);
	buf_put_text(&b, "%s%sg", "d", "ef");
	assert_true(slice_is(buf_slice(&b), "abcd") && b.full);
}

static void texts(void **state)
{
	unsigned char mem[128];
	struct buf b = BUF(mem);
	(void)state;
	buf_put_text(&b, "%s:%u: %.10s, %.3s%s|", "a\n", 4294967295u, "\"x\x80", "abcdef", "");
	assert_slice(buf_slice(&b), "a\n:4294967295: \\x22x\\x80, abc...|");
	b.cap = b.n + 1;
	buf_put_text(&b, "%u%u", 1, 22);
	assert_true(b.full && b.n == b.cap);
}

static void lines(void **state)
{
	static const struct {
		const char *text, *expected;
		size_t width;
		bool items;
	} rows[] = {
	        {"", "", 10, false},
	        {"as it is", "as it is", 8, false},
	        {"at a space", "at a\n  space", 9, false},
	        {"atthewidth here", "atthewidth\n  here", 10, false},
	        {"without any", "wit\n  hou\n  t\n  any", 3, false},
	        {"one\n\ntwo", "one\n  \n  two", 10, false},
	        {"one\ntwo three", "one\n  two\n  three", 5, false},
	        {"all\nof it", "all\n  of it", SIZE_MAX, false},
	        {"ok 12, busy 3, lost 4", "ok 12,\n  busy 3,\n  lost 4", 13, true},
	        {"ok 12, busy 3, lost 4", "ok 12, busy\n  3, lost 4", 13, false},
	        {"ok 12, busy 3", "ok 1\n  2,\n  busy\n   3", 4, true},
	};
	(void)state;
	for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
		unsigned char mem[64];
		struct buf b = BUF(mem);
		buf_put_wrapped(&b, slice_str(rows[i].text), 2, rows[i].width, rows[i].items);
		assert_slice(buf_slice(&b), rows[i].expected);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(slices),
	        cmocka_unit_test(numbers_from_text),
	        cmocka_unit_test(numbers_to_text),
	        cmocka_unit_test(hashes),
	        cmocka_unit_test(times),
	        cmocka_unit_test(times_out_of_range),
	        cmocka_unit_test(escapes),
	        cmocka_unit_test(overflow_sticks),
	        cmocka_unit_test(pieces),
	        cmocka_unit_test(strings),
	        cmocka_unit_test(texts),
	        cmocka_unit_test(lines),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
