/* json_check: what it says of a text, it says of every prefix; what it has accepted survives all that reads
 * and writes it. The first byte chooses strict or lenient, and which prefixes; the rest is the text. */
// uses: buf.c
// longest input: 420
#include "fuzz.h"

#include "../../json.c"

static unsigned char mem[3][1 << 16];

/* A prefix ends too early, or is a text itself, up to the first wrong byte; from there on the fault is the
 * same. */
static void check_prefix(struct slice s, size_t n, bool lenient, const char *why, size_t at)
{
	size_t part_at;
	bool words;
	unsigned char *p = exactly(s.p, n);
	const char *part_why = json_check((struct slice){p, n}, lenient ? &words : NULL, &part_at);
	free(p);
	if (why == NULL || n <= at)
		CHECK(part_at == n && (part_why == NULL || strcmp(part_why, "the text ends too early") == 0));
	else
		CHECK(part_at == at && same_why(part_why, why));
}

/* What a string that was accepted stands for is UTF-8. */
static void unescaped(struct slice s)
{
	struct buf b = BUF(mem[0]);
	if (s.n < 2 || s.p[0] != '"' || s.p[s.n - 1] != '"')
		return;
	json_unescape(&b, s);
	CHECK(is_utf8(buf_slice(&b)));
}

static void walk(struct slice value)
{
	struct slice name, member, last = {NULL, 0}, found = json_get(value, "a");
	size_t at = 0, end, items = 0;
	bool words;
	while (json_next(value, &at, &name, &member)) {
		CHECK(within(name, value) && within(member, value) && json_kind(member) != JSON_NONE);
		CHECK(json_check(member, &words, &end) == NULL);
		unescaped(member);
		last = json_name_is(name, "a") ? member : last;
	}
	CHECK(found.p == last.p && found.n == last.n);
	for (at = 0; json_next(value, &at, NULL, &member); items++)
		CHECK(within(member, value) && json_check(member, &words, &end) == NULL && end == member.n);
	CHECK(items == 0 || (json_kind(value) == JSON_ARRAY && json_count(value) > items));
}

/* Any bytes as a JSON string, and back: the same when they were UTF-8, and stable from then on. */
static void strings(struct slice s)
{
	struct buf a = BUF(mem[0]), b = BUF(mem[1]), c = BUF(mem[2]);
	size_t end;
	json_put_string(&a, s);
	if (a.full)
		return;
	CHECK(json_check(buf_slice(&a), NULL, &end) == NULL && json_kind(buf_slice(&a)) == JSON_STRING);
	json_unescape(&b, buf_slice(&a));
	CHECK(is_utf8(buf_slice(&a)) && is_utf8(buf_slice(&b)) &&
	        (!is_utf8(s) || slice_eq(s, buf_slice(&b))));
	json_put_string(&c, buf_slice(&b));
	CHECK(slice_eq(buf_slice(&a), buf_slice(&c)));
}

/* An accepted value is written as strict JSON, and from then on as it is. */
static void written(struct slice s)
{
	struct buf a = BUF(mem[0]), b = BUF(mem[1]);
	size_t end;
	json_put_value(&a, s);
	CHECK(a.full || json_check(buf_slice(&a), NULL, &end) == NULL);
	json_put_value(&b, buf_slice(&a));
	CHECK(a.full || slice_eq(buf_slice(&a), buf_slice(&b)));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct slice in = {data, size};
	unsigned first = cut_byte(&in);
	bool lenient = first & 1;
	unsigned char *p = exactly(in.p, in.n);
	struct slice s = {p, in.n};
	size_t at, strict_at;
	bool words = false;
	const char *why = json_check(s, lenient ? &words : NULL, &at);
	CHECK(at <= s.n && (why != NULL || at == s.n));
	size_t step = s.n / 4 + 1; /* a few prefixes: a run must stay short */
	for (size_t n = (first >> 1) % step; n < s.n; n += step)
		check_prefix(s, n, lenient, why, at);
	const char *strict = json_check(s, NULL, &strict_at);
	CHECK(why != NULL || words == (strict != NULL));
	if (why == NULL) {
		CHECK(json_kind(s) != JSON_NONE && is_utf8(s));
		walk(s);
		written(s);
		unescaped(s);
	} else {
		CHECK(strict != NULL && (!lenient || json_get(s, "a").p == NULL));
	}
	strings(s);
	free(p);
	return 0;
}
