// uses: buf.c
#include "unit.h"

#include "../../json.c"

static const char early[] = "the text ends too early";

/* Texts and where they go wrong. */
enum { FINE = -1 };
struct text {
	const char *name, *p;
	size_t n;
	long strict, lenient; /* the offset of the first wrong byte, or FINE */
};
#define OK(name, s)                                                                                          \
	{                                                                                                    \
		name, s, sizeof(s) - 1, FINE, FINE                                                           \
	}
#define NO(name, s, at)                                                                                      \
	{                                                                                                    \
		name, s, sizeof(s) - 1, at, at                                                               \
	}
#define MIX(name, s, at, at2)                                                                                \
	{                                                                                                    \
		name, s, sizeof(s) - 1, at, at2                                                              \
	}
#define A4(s)  s s s s
#define A8(s)  A4(s) A4(s)
#define A64(s) A8(A8(s))

static const struct text texts[] = {
        /* structure */
        OK("empty object", "{}"),
        OK("empty array", "[]"),
        OK("white space of every kind", " \t\r\n{ \t\r\n} \t\r\n"),
        OK("white space between all tokens", " { \"a\" : [ 1 , 2 ] , \"b\" : { } } "),
        OK("nested", "{\"a\":[{\"b\":[[],{},[{}]]},2],\"c\":{\"d\":{}}}"),
        OK("lone null", "null"),
        OK("lone true", "true"),
        OK("lone false", "false"),
        OK("lone number", "42"),
        OK("lone string", "\"x\""),
        OK("lone empty string", "\"\""),
        OK("empty name", "{\"\":0}"),
        OK("duplicate names", "{\"a\":1,\"a\":1}"),
        OK("array of all kinds", "[null,true,false,1,\"\",{},[]]"),
        NO("empty text", "", 0),
        NO("only white space", " \n ", 3),
        NO("trailing comma in object", "{\"a\":1,}", 7),
        NO("trailing comma in array", "[1,]", 3),
        NO("two trailing commas", "[1,,]", 3),
        NO("comma first", "[,1]", 1),
        NO("comma first in object", "{,\"a\":1}", 1),
        NO("comma alone", ",", 0),
        NO("double comma", "[1,,2]", 3),
        NO("double comma in object", "{\"a\":1,,\"b\":2}", 7),
        NO("no comma in array", "[1 2]", 3),
        NO("no comma between arrays", "[[][]]", 3),
        NO("no comma in object", "{\"a\":1 \"b\":2}", 7),
        NO("colon in array", "[1:2]", 2),
        NO("colon for comma", "{\"a\":1:\"b\"}", 6),
        NO("comma for colon", "{\"a\",1}", 4),
        NO("no colon", "{\"a\" 1}", 5),
        NO("double colon", "{\"a\"::1}", 5),
        NO("no value", "{\"a\":}", 5),
        NO("name alone", "{\"a\"}", 4),
        NO("number as name", "{1:1}", 1),
        NO("bare name", "{a:1}", 1),
        NO("null as name", "{null:1}", 1),
        NO("array as name", "{[]:1}", 1),
        NO("single quotes", "{'a':1}", 1),
        NO("single quotes as value", "['a']", 1),
        NO("backquotes", "[`a`]", 1),
        NO("two objects", "{}{}", 2),
        NO("two objects on two lines", "{}\n{}", 3),
        NO("two numbers", "1 2", 2),
        NO("two strings", "\"a\"\"b\"", 3),
        NO("closing bracket too many", "[1]]", 3),
        NO("closing brace too many", "{}}", 2),
        NO("closing bracket alone", "]", 0),
        NO("closing brace alone", "}", 0),
        NO("closed by the other, empty", "[}", 1),
        NO("closed by the other, empty object", "{]", 1),
        NO("closed by the other", "[1}", 2),
        NO("object closed by bracket", "{\"a\":1]", 6),
        NO("closed in the wrong order", "[{\"a\":1]}", 7),
        NO("outer array forgotten after inner object", "[{}}", 3),
        NO("outer object forgotten after inner array", "{\"a\":[]]", 7),
        NO("second value in object is no member", "{\"a\":[],1}", 8),
        NO("unclosed object", "{\"a\":1", 6),
        NO("unclosed array", "[1", 2),
        NO("unclosed nest", "[{\"a\":[", 7),
        NO("line comment", "[1] // x", 4),
        NO("block comment", "[1,/*x*/2]", 3),
        NO("comment first", "/**/1", 0),
        NO("hash comment", "# x\n1", 0),
        NO("ellipsis", "[1,...]", 3),
        NO("form feed is no white space", "[\f1]", 1),
        NO("vertical tab is no white space", "[1\v]", 2),
        NO("no-break space is no white space", "[\xc2\xa0]", 1),
        NO("U+2060 is no white space", "\xe2\x81\xa0[]", 0),
        NO("text and NUL", "{}\0", 2),
        NO("text, NUL and more", "{}\0{\"a\":1}", 2),
        NO("NUL and text", "\0{}", 0),
        NO("NUL in array", "[1,\0]", 3),
        NO("NUL in number",
                "1\0"
                "2",
                1),
        NO("byte order mark", "\xef\xbb\xbf{}", 0),
        NO("byte order mark alone", "\xef\xbb\xbf", 0),
        NO("UTF-16, little endian", "{\0}\0", 1),
        NO("UTF-16, with mark", "\xff\xfe{\0}\0", 0),
        NO("DEL outside of strings", "[\x7f]", 1),
        /* words */
        NO("tru", "tru", 3),
        NO("tru in array", "[tru]", 4),
        NO("nul", "[nul]", 4),
        NO("fals", "[fals]", 5),
        NO("truth", "[truth]", 4),
        NO("nulll", "nulll", 4),
        NO("True", "True", 0),
        MIX("NULL", "[NULL]", 1, 2),
        NO("undefined", "[undefined]", 1),
        NO("letter", "a", 0),
        NO("word behind word", "true false", 5),
        MIX("NaN", "NaN", 0, FINE),
        MIX("Infinity", "Infinity", 0, FINE),
        MIX("-Infinity", "-Infinity", 1, FINE),
        MIX("NaN as value", "{\"value\": NaN, \"b\":1}", 10, FINE),
        MIX("all three", "[NaN,-Infinity , Infinity]", 1, FINE),
        MIX("-NaN", "[-NaN]", 2, 2),
        MIX("+Infinity", "[+Infinity]", 1, 1),
        MIX("Inf", "[Inf]", 1, 4),
        MIX("-Inf", "[-Inf]", 2, 5),
        MIX("nan", "[nan]", 2, 2),
        MIX("NAN", "[NAN]", 1, 2),
        MIX("NaNs", "[NaNs]", 1, 4),
        MIX("NaN1", "NaN1", 0, 3),
        MIX("infinity", "[infinity]", 1, 1),
        MIX("-Infinit", "-Infinit", 1, 8),
        MIX("Infinity as name", "{Infinity:1}", 1, 1),
        MIX("--Infinity", "--Infinity", 1, 1),
        MIX("-1Infinity", "-1Infinity", 2, 2),
        OK("NaN in a string", "\"NaN Infinity -Infinity\""),
        /* numbers */
        OK("0", "0"),
        OK("-0", "-0"),
        OK("zeros of all shapes", "[0,-0,0.0,-0.0,0e0,0E+0,-0.0e-0]"),
        OK("fraction kept", "0.10"),
        OK("exponents", "[1e5,1E5,1e+5,1E-5,1e05,1e-00,1.5e300,1e999999]"),
        OK("20 digits", "12345678901234567890"),
        OK("1.8446744073709552e+19", "1.8446744073709552e+19"),
        OK("number and white space", "1 "),
        NO("01", "01", 1),
        NO("-01", "[-01]", 3),
        NO("00", "00", 1),
        NO("+1", "+1", 0),
        NO("++1", "[++1]", 1),
        NO("--1", "[--1]", 2),
        NO("- 1", "[- 1]", 2),
        NO("-", "-", 1),
        NO("- in array", "[-]", 2),
        NO(".5", ".5", 0),
        NO("-.5", "-.5", 1),
        NO("1.", "1.", 2),
        NO("1. in array", "[1.]", 3),
        NO("1.e1", "1.e1", 2),
        NO("1..2", "1..2", 2),
        NO("1.2.3", "1.2.3", 3),
        NO("1e", "1e", 2),
        NO("1e in array", "[1e]", 3),
        NO("1e+", "[1e+]", 4),
        NO("1e-", "1e-", 3),
        NO("1e+-1", "1e+-1", 3),
        NO("1ee1", "1ee1", 2),
        NO("1e1.5", "1e1.5", 3),
        NO("1e1e1", "1e1e1", 3),
        NO("0x1", "0x1", 1),
        NO("hexadecimal digit", "[1a]", 2),
        NO("1 000", "[1 000]", 3),
        NO("1,5 alone", "1,5", 1),
        NO("1_000", "1_000", 1),
        NO("1f", "1f", 1),
        NO("1-1", "[1-1]", 2),
        NO("full-width digit", "[\xef\xbc\x91]", 1),
        /* strings */
        OK("all escapes", "\"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u0000\\uaBcD\""),
        OK("DEL in a string", "\"\x7f\""),
        OK("C1 control in a string", "\"\xc2\x80\""),
        OK("slash", "\"a/b\""),
        OK("escaped lone high surrogate", "\"\\ud800\""),
        OK("escaped lone low surrogate", "\"\\uDFFF\""),
        OK("escaped pair, swapped", "\"\\ude00\\ud83d\""),
        OK("comment in a string", "\"/* */ // #\""),
        OK("brackets in a string", "[\"]}{[,:\"]"),
        NO("unclosed string", "\"abc", 4),
        NO("quote escaped, so unclosed", "\"abc\\\"", 6),
        NO("backslash last", "\"\\", 2),
        NO("raw line feed", "\"a\nb\"", 2),
        NO("raw tab", "[\"\t\"]", 2),
        NO("raw carriage return", "\"\r\"", 1),
        NO("raw NUL", "\"a\0b\"", 2),
        NO("raw 0x1f", "\"\x1f\"", 1),
        NO("raw control in a name", "{\"\x01\":1}", 2),
        NO("escaped line feed", "\"\\\n\"", 2),
        NO("escaped NUL", "\"\\\0\"", 2),
        NO("\\x", "\"\\x41\"", 2),
        NO("\\a", "\"\\a\"", 2),
        NO("\\'", "\"\\'\"", 2),
        NO("\\0", "\"\\0\"", 2),
        NO("\\U", "\"\\U0041\"", 2),
        NO("\\u with nothing", "\"\\u\"", 3),
        NO("\\u with three digits", "\"\\u004\"", 6),
        NO("\\u with a wrong digit", "\"\\u00g1\"", 5),
        NO("\\u with @", "\"\\u@000\"", 3),
        NO("\\u with a backquote", "\"\\u000`\"", 6),
        NO("\\u with a sign", "\"\\u+041\"", 3),
        NO("\\u{41}", "\"\\u{41}\"", 3),
        NO("second half of a pair broken", "\"\\ud83d\\u\"", 9),
        NO("escape outside of strings", "[\\n]", 1),
        NO("escape with a broken byte", "\"\\\xff\"", 2),
        NO("broken string as name", "{\"\\x\":1}", 3),
        /* UTF-8 */
        OK("two bytes, first and last", "\"\xc2\x80\xdf\xbf\""),
        OK("three bytes, first and last", "\"\xe0\xa0\x80\xef\xbf\xbf\""),
        OK("around the surrogates", "\"\xed\x9f\xbf\xee\x80\x80\""),
        OK("four bytes, first and last", "\"\xf0\x90\x80\x80\xf4\x8f\xbf\xbf\""),
        OK("UTF-8 in a name", "{\"\xc3\xa4\":\"\xe2\x82\xac\xf0\x9f\x98\x80\"}"),
        OK("byte order mark in a string", "\"\xef\xbb\xbf\""),
        NO("lone continuation", "\"\x80\"", 1),
        NO("lone continuation, last", "\"\xbf\"", 1),
        NO("overlong, two bytes", "\"\xc0\xaf\"", 1),
        NO("overlong, two bytes, last", "\"\xc1\xbf\"", 1),
        NO("overlong, three bytes", "\"\xe0\x9f\xbf\"", 2),
        NO("overlong, four bytes", "\"\xf0\x8f\xbf\xbf\"", 2),
        NO("surrogate, first", "\"\xed\xa0\x80\"", 2),
        NO("surrogate, last", "\"\xed\xbf\xbf\"", 2),
        NO("over U+10FFFF", "\"\xf4\x90\x80\x80\"", 2),
        NO("lead F5", "\"\xf5\x80\x80\x80\"", 1),
        NO("lead F8, five bytes", "\"\xf8\x88\x80\x80\x80\"", 1),
        NO("FE", "\"\xfe\"", 1),
        NO("FF", "\"\xff\"", 1),
        NO("cut after one of two", "\"\xc3\"", 2),
        NO("cut after two of three", "\"\xe2\x82\"", 3),
        NO("cut after three of four", "\"\xf0\x9f\x98\"", 4),
        NO("second byte too high", "\"\xc3\xc0\"", 2),
        NO("third byte wrong", "\"\xe2\x82\x28\"", 3),
        NO("fourth byte wrong", "\"\xf0\x9f\x98\x28\"", 4),
        NO("Latin-1", "\"\xe4\x68\"", 2),
        NO("broken in a name", "{\"\xff\":1}", 2),
        NO("UTF-8 outside of strings", "[\xc3\xa4]", 1),
        NO("text ends within a character", "\"\xf0\x9f", 3),
        /* depth */
        OK("64 arrays", A64("[") A64("]")),
        NO("65 arrays", A64("[") "[]" A64("]"), 64),
        NO("65 levels, the last an object", A64("[") "{}" A64("]"), 64),
        NO("1024 arrays", A64(A8("[")) A64(A8("[")), 64),
        OK("64 levels, mixed", A8(A4("[{\"a\":")) "1" A8(A4("}]"))),
        NO("65 levels, mixed", A8(A4("[{\"a\":")) "[]" A8(A4("}]")), 192),
        OK("wide, not deep", "[" A64("[[]],") "{}]"),
        NO("deepest closed by the other", A64("[") "}", 64),
        NO("outermost of 64 closed by the other", "{\"a\":" A8(A4("[")) A8(A4("]")) "]", 69),
};

#define TEXTS (sizeof texts / sizeof *texts)

/* Checks a text and all its prefixes, each ending before a page that must not be touched. What can't be told
 * from a prefix yet is told as "ends too early"; what can be, in the same words as for the whole. */
static void check_text(const struct text *t, bool lenient)
{
	long wrong = lenient ? t->lenient : t->strict;
	size_t limit = wrong == FINE ? t->n : (size_t)wrong, at = SIZE_MAX;
	bool brackets = wrong == FINE && strchr("{[\"", t->p[0]) && strchr("}]\"", t->p[t->n - 1]);
	const char *mode = lenient ? "lenient" : "strict";
	unsigned char *p = guarded_copy(t->p, t->n);
	bool words = false;
	const char *whole = json_check((struct slice){p, t->n}, lenient ? &words : NULL, &at);
	if (at != limit || (whole == NULL) != (wrong == FINE) ||
	        (whole && !strcmp(whole, early) != (at == t->n)))
		fail_msg("%s, %s: %s at %zu, expected at %zu", t->name, mode, whole ? whole : "fine", at,
		        limit);
	if (lenient && whole == NULL && words != (t->strict != FINE))
		fail_msg("%s: has words that only the lenient accept: %d", t->name, words);
	for (size_t k = 0; k < t->n; k++) {
		unsigned char *q = p + t->n - k;
		memmove(q, t->p, k);
		const char *why = json_check((struct slice){q, k}, lenient ? &words : NULL, &at);
		bool fine = k > limit ? at == limit && why && !strcmp(why, whole)
		                      : at == k && (why ? !strcmp(why, early) : k > 0 && !brackets);
		if (!fine)
			fail_msg("%s, %s, %zu of %zu bytes: %s at %zu", t->name, mode, k, t->n,
			        why ? why : "fine", at);
	}
	guarded_free(p, t->n);
}

static void accepts_and_refuses(void **state)
{
	(void)state;
	for (size_t i = 0; i < TEXTS; i++) {
		check_text(&texts[i], false);
		check_text(&texts[i], true);
	}
}

static struct slice trimmed(const struct text *t)
{
	const char *p = t->p;
	size_t n = t->n;
	while (n > 0 && strchr(" \t\r\n", p[n - 1]))
		n--;
	while (n > 0 && strchr(" \t\r\n", *p)) {
		p++;
		n--;
	}
	return (struct slice){(const unsigned char *)p, n};
}

/* A strict text comes out of json_put_value as it went in, but for white space around it; a lenient one comes
 * out strict. Whatever does not fit is not cut. */
static void value_is_written(void **state)
{
	(void)state;
	for (size_t i = 0; i < TEXTS; i++) {
		const struct text *t = &texts[i];
		if (t->lenient != FINE)
			continue;
		unsigned char *p = guarded_copy(t->p, t->n), out[4096];
		struct buf b = BUF(out);
		size_t at;
		json_put_value(&b, (struct slice){p, t->n});
		const char *why = json_check(buf_slice(&b), NULL, &at);
		if (b.full || why)
			fail_msg("%s: not written as strict JSON: %s", t->name, why ? why : "full");
		if (t->strict == FINE && !slice_eq(buf_slice(&b), trimmed(t)))
			fail_msg("%s: written as %.*s", t->name, (int)b.n, out);
		for (size_t cap = 0; cap < b.n; cap++) {
			struct buf less = {out, cap, 0, false};
			json_put_value(&less, (struct slice){p, t->n});
			assert_true(less.full);
		}
		guarded_free(p, t->n);
	}
}

static void words_become_null(void **state)
{
	static const char *const cases[][2] = {
	        {"NaN", "null"},
	        {"-Infinity", "null"},
	        {" Infinity\n", "null"},
	        {" [ 1 , NaN ,-Infinity,Infinity ] ", "[ 1 , null ,null,null ]"},
	        {"{\"NaN\":NaN,\"b\":[{\"Infinity\":-Infinity}]}",
	                "{\"NaN\":null,\"b\":[{\"Infinity\":null}]}"},
	        {"[\"NaN\",\"a\\\"NaN\",NaN,\"\\\\\",NaN]", "[\"NaN\",\"a\\\"NaN\",null,\"\\\\\",null]"},
	        {"[-1,-0.10,1E+2,true,false,null]", "[-1,-0.10,1E+2,true,false,null]"},
	};
	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		unsigned char *p = guarded_copy(cases[i][0], strlen(cases[i][0])), out[128];
		struct buf b = BUF(out);
		json_put_value(&b, (struct slice){p, strlen(cases[i][0])});
		assert_slice(buf_slice(&b), cases[i][1]);
		guarded_free(p, strlen(cases[i][0]));
	}
	unsigned char out[8];
	struct buf b = BUF(out);
	json_put_value(&b, slice_str("N")); /* against the contract, yet it must end */
	assert_true(b.full && b.n == 4);
}

static void kinds(void **state)
{
	static const struct {
		const char *text;
		enum json_kind kind;
	} cases[] = {
	        {"{}", JSON_OBJECT},
	        {" \t\r\n[1]", JSON_ARRAY},
	        {"\"1\"", JSON_STRING},
	        {"0", JSON_NUMBER},
	        {"9e9", JSON_NUMBER},
	        {"-", JSON_NUMBER},
	        {" -7", JSON_NUMBER},
	        {"true", JSON_TRUE},
	        {"false", JSON_FALSE},
	        {"null", JSON_NULL},
	        {"NaN", JSON_NULL},
	        {"Infinity", JSON_NULL},
	        {"-Infinity", JSON_NULL},
	        {"", JSON_NONE},
	        {"  ", JSON_NONE},
	        {"x", JSON_NONE},
	        {"]", JSON_NONE},
	};
	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		unsigned char *p = guarded_copy(cases[i].text, strlen(cases[i].text));
		if (json_kind((struct slice){p, strlen(cases[i].text)}) != cases[i].kind)
			fail_msg("wrong kind: %s", cases[i].text);
		guarded_free(p, strlen(cases[i].text));
	}
	assert_int_equal(json_kind((struct slice){NULL, 0}), JSON_NONE);
}

/* Each case: an object, and its members as json_next tells them, "name=value;". */
static void members_are_walked(void **state)
{
	static const char *const cases[][2] = {
	        {"{}", ""},
	        {" { } ", ""},
	        {"[1]", ""},
	        {"[\"a\",1]", ""},
	        {"\"a\"", ""},
	        {"", ""},
	        {"{\"a\":1}", "a=1;"},
	        {" {\"a\" : 1 , \"b\":\t[ 1, {\"x\":2} ] ,\"\":\"}\"} ", "a=1;b=[ 1, {\"x\":2} ];=\"}\";"},
	        {"{\"a\":{\"a\":{}},\"a\":-0.10,\"a\":NaN}", "a={\"a\":{}};a=-0.10;a=NaN;"},
	        {"{\"a\\\"b\\u0061\\\\\":\"\\\"\"}", "a\\\"b\\u0061\\\\=\"\\\"\";"},
	};
	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		size_t n = strlen(cases[i][0]), at = 0;
		unsigned char *p = guarded_copy(cases[i][0], n), out[128];
		struct buf b = BUF(out);
		struct slice name, value;
		while (json_next((struct slice){p, n}, &at, &name, &value)) {
			assert_int_equal(name.p[-1], '"');
			buf_put_slice(&b, name);
			buf_put_byte(&b, '=');
			buf_put_slice(&b, value);
			buf_put_byte(&b, ';');
		}
		assert_slice(buf_slice(&b), cases[i][1]);
		assert_false(json_next((struct slice){p, n}, &at, &name, &value));
		guarded_free(p, n);
	}
}

static void members_are_found(void **state)
{
	static const struct {
		const char *object, *name, *value;
	} cases[] = {
	        {"{\"address\":0}", "address", "0"},
	        {"{\"\\u0061ddress\":0}", "address", "0"},
	        {"{\"addres\\u0073\": 0 }", "address", "0"},
	        {"{\"\\u00e4\":1}", "\xc3\xa4", "1"},
	        {"{\"\\ud83d\\ude00\":1}", "\xf0\x9f\x98\x80", "1"},
	        {"{\"a\\/b\\n\":1}", "a/b\n", "1"},
	        {"{\"a\":1,\"b\":2,\"a\":3}", "a", "3"},
	        {"{\"a\":1,\"\\u0061\":3,\"b\":2}", "a", "3"},
	        {"{\"\":1}", "", "1"},
	        {"{\"b\":{\"a\":1}}", "a", NULL},
	        {"{\"a\":{\"b\":2},\"c\":{}}", "a", "{\"b\":2}"},
	        {"{\"a\":{ \"a\" : [ ] } , \"b\":[{\"a\":2}]}", "a", "{ \"a\" : [ ] }"},
	        {"{\"b\":[{\"a\":2}],\"a\": [ ] }", "a", "[ ]"},
	        {"{\"a\":{}}", "a", "{}"},
	        {"{\"a\":{}}", "", NULL},
	        {" { \"a\" : -0.5 } ", "a", "-0.5"},
	        {"[{\"a\":1}]", "a", NULL},
	        {"{\"a\":NaN}", "a", "NaN"},
	        {"{\"a\":1,}", "a", NULL},
	        {"{\"a\":1} x", "a", NULL},
	        {"{\"a\":1", "a", NULL},
	        {"{\"b\":\"a\"}", "a", NULL},
	        {"{\"addres\":1}", "address", NULL},
	        {"{\"addresss\":1}", "address", NULL},
	        {"{\"Address\":1}", "address", NULL},
	        {"{\"a\\u0000\":1}", "a", NULL},
	        {"{\"a\\u0000b\":1}", "a", NULL},
	        {"{\"a\\\\\":1}", "a\\", "1"},
	        {"{}", "", NULL},
	        {"[\"a\",1]", "a", NULL},
	        {"\"a\"", "a", NULL},
	        {"null", "a", NULL},
	        {"", "a", NULL},
	};
	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		size_t n = strlen(cases[i].object);
		unsigned char *p = guarded_copy(cases[i].object, n);
		struct slice v = json_get((struct slice){p, n}, cases[i].name);
		if (cases[i].value ? !slice_is(v, cases[i].value) : v.p != NULL)
			fail_msg("%s in %s: got %.*s", cases[i].name, cases[i].object, (int)v.n,
			        v.p ? (const char *)v.p : "");
		guarded_free(p, n);
	}
}

/* Several in one walk, which says what json_check says. */
static void members_are_found_at_once(void **state)
{
	static const char *const names[] = {"a", "b", "c"};
	struct slice v[3];
	(void)state;
	assert_true(json_members(slice_str("{\"c\":3,\"x\":{\"b\":0},\"a\":1}"), false, names, v, 3));
	assert_slice(v[0], "1");
	assert_null(v[1].p);
	assert_slice(v[2], "3");
	assert_true(json_members(slice_str("7"), false, names, v, 3));
	assert_null(v[0].p);
	assert_false(json_members(slice_str("{\"a\":NaN}"), false, names, v, 3));
	assert_true(json_members(slice_str("{\"a\":NaN}"), true, names, v, 3));
	assert_slice(v[0], "NaN");
	assert_false(json_members(slice_str("{\"a\":1}}"), true, names, v, 3));
	assert_false(json_members(slice_str(""), true, names, v, 3));
}

/* Each case: an array, how many are asked for, the result, and the values filled in, each with "|". */
static void arrays_are_walked(void **state)
{
	static const struct {
		const char *array;
		size_t count; /* at all levels */
		const char *values;
	} cases[] = {
	        {"[]", 1, ""},
	        {" [ ] ", 1, ""},
	        {"[1]", 2, "1|"},
	        {" [ 1 ,\t-0.10\n, 1E+5 ] ", 4, "1|-0.10|1E+5|"},
	        {"[\"\",\"a,]\\\"\" , \"\xc3\xa4\"]", 4, "\"\"|\"a,]\\\"\"|\"\xc3\xa4\"|"},
	        {"[true,false,null,12345678901234567890]", 5, "true|false|null|12345678901234567890|"},
	        {"[1,[2, [ ]] ]", 5, "1|[2, [ ]]|"},
	        {"[{},{\"a\" : [\"\\u12aB\\\\\"]}]", 6, "{}|{\"a\" : [\"\\u12aB\\\\\"]}|"},
	        {"[NaN,-Infinity]", 3, "NaN|-Infinity|"},
	        {"{\"a\":1}", 3, ""},
	        {"{}", 1, ""},
	        {"1", 1, ""},
	        {"\"a\"", 1, ""},
	        {"null", 1, ""},
	        {"", 0, ""},
	};
	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		size_t n = strlen(cases[i].array), at = 0;
		unsigned char *p = guarded_copy(cases[i].array, n), out[128];
		struct slice v;
		struct buf b = BUF(out);
		while (json_next((struct slice){p, n}, &at, NULL, &v)) {
			buf_put_slice(&b, v);
			buf_put_byte(&b, '|');
		}
		assert_slice(buf_slice(&b), cases[i].values);
		size_t count = json_count((struct slice){p, n});
		if (count != cases[i].count)
			fail_msg("%s: %zu values", cases[i].array, count);
		guarded_free(p, n);
	}
}

static void strings_are_unescaped(void **state)
{
	static const struct {
		const char *text, *bytes;
		size_t n;
	} cases[] = {
#define CASE(text, bytes) {text, bytes, sizeof(bytes) - 1}
	        CASE("\"\"", ""),
	        CASE("\"abc\"", "abc"),
	        CASE("\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"", "\"\\/\b\f\n\r\t"),
	        CASE("\"\\u0041\\u00e4\\u20AC\\uFFFF\"", "A\xc3\xa4\xe2\x82\xac\xef\xbf\xbf"),
	        CASE("\"\\u007f\\u0080\\u07ff\\u0800\"", "\x7f\xc2\x80\xdf\xbf\xe0\xa0\x80"),
	        CASE("\"a\\u0000b\"", "a\0b"),
	        CASE("\"\\ud83d\\ude00\"", "\xf0\x9f\x98\x80"),
	        CASE("\"\\ud800\\udc00\\uDBFF\\uDFFF\"", "\xf0\x90\x80\x80\xf4\x8f\xbf\xbf"),
	        CASE("\"\\ud83d\"", "\xef\xbf\xbd"),
	        CASE("\"\\udbff\"", "\xef\xbf\xbd"),
	        CASE("\"\\ude00\"", "\xef\xbf\xbd"),
	        CASE("\"\\udfffx\"", "\xef\xbf\xbdx"),
	        CASE("\"\\ud83dx\"", "\xef\xbf\xbdx"),
	        CASE("\"\\ud83d\\n\"", "\xef\xbf\xbd\n"),
	        CASE("\"\\ud83d\\u0041\"", "\xef\xbf\xbd"
	                                   "A"),
	        CASE("\"\\ud83d\\ue000\"", "\xef\xbf\xbd\xee\x80\x80"),
	        CASE("\"\\ud7ff\\ue000\"", "\xed\x9f\xbf\xee\x80\x80"),
	        CASE("\"\\ud83d\\ud83d\\ude00\"", "\xef\xbf\xbd\xf0\x9f\x98\x80"),
	        CASE("\"\\ude00\\ud83d\"", "\xef\xbf\xbd\xef\xbf\xbd"),
	        CASE("\"\\ude00\\ude00\"", "\xef\xbf\xbd\xef\xbf\xbd"),
	        CASE("\"\xc3\xa4\xf0\x9f\x98\x80\"", "\xc3\xa4\xf0\x9f\x98\x80"),
	        CASE("\"\\\\u0041\"", "\\u0041"),
	        CASE("\"\\\\\"", "\\"),
	        CASE("", ""),
	};
	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		size_t n = strlen(cases[i].text);
		unsigned char *p = guarded_copy(cases[i].text, n), out[64];
		struct buf b = BUF(out);
		json_unescape(&b, (struct slice){p, n});
		if (!slice_eq(
		            buf_slice(&b), (struct slice){(const unsigned char *)cases[i].bytes, cases[i].n}))
			fail_msg("%s: got %.*s", cases[i].text, (int)b.n, out);
		guarded_free(p, n);
	}
}

static void strings_are_written(void **state)
{
#define FFFD "\xef\xbf\xbd"
	static const struct {
		const char *bytes;
		size_t n;
		const char *text;
	} cases[] = {
#undef CASE
#define CASE(bytes, text) {bytes, sizeof(bytes) - 1, text}
	        CASE("", "\"\""),
	        CASE("a/b\x7f", "\"a/b\x7f\""),
	        CASE("\"\\\b\f\n\r\t", "\"\\\"\\\\\\b\\f\\n\\r\\t\""),
	        CASE("\0\x01\x0b\x0e\x0f\x10\x19\x1a\x1f",
	                "\"\\u0000\\u0001\\u000b\\u000e\\u000f\\u0010\\u0019\\u001a\\u001f\""),
	        CASE("\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80", "\"\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80\""),
	        CASE("\x80", "\"" FFFD "\""),
	        CASE("\xff\xfe", "\"" FFFD FFFD "\""),
	        CASE("a\xc3", "\"a" FFFD "\""),
	        CASE("\xe4h", "\"" FFFD "h\""),
	        CASE("\xe2\x82", "\"" FFFD "\""),
	        CASE("\xf0\x9f\x98\"", "\"" FFFD "\\\"\""),
	        CASE("\xf0\x9f\xc3\xa4", "\"" FFFD "\xc3\xa4\""),
	        CASE("\xc0\xaf", "\"" FFFD FFFD "\""),
	        CASE("\xed\xa0\x80", "\"" FFFD FFFD FFFD "\""),
	};
	(void)state;
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
		unsigned char *p = guarded_copy(cases[i].bytes, cases[i].n), out[64];
		struct buf b = BUF(out);
		json_put_string(&b, (struct slice){p, cases[i].n});
		assert_slice(buf_slice(&b), cases[i].text);
		guarded_free(p, cases[i].n);
	}
}

/* Any bytes at all become a valid string; when they are valid UTF-8, they come back from it. */
static void any_bytes_become_a_string(void **state)
{
	(void)state;
	for (size_t i = 0; i < TEXTS + 256; i++) {
		unsigned char byte = (unsigned char)(i - TEXTS), out[4096], back[4096], quoted[4096];
		struct slice s = i < TEXTS ? (struct slice){(const unsigned char *)texts[i].p, texts[i].n}
		                           : (struct slice){&byte, 1};
		struct buf b = BUF(out), r = BUF(back), q = BUF(quoted);
		size_t at;
		json_put_string(&b, s);
		if (b.full || json_check(buf_slice(&b), NULL, &at) != NULL)
			fail_msg("case %zu: not a JSON string: %.*s", i, (int)b.n, out);
		json_unescape(&r, buf_slice(&b));
		/* The validator tells whether s is UTF-8, when the ASCII in it is made harmless. */
		buf_put_byte(&q, '"');
		for (size_t k = 0; k < s.n; k++)
			buf_put_byte(&q, s.p[k] < 0x80 ? '.' : s.p[k]);
		buf_put_byte(&q, '"');
		assert_false(q.full);
		assert_int_equal(slice_eq(buf_slice(&r), s), json_check(buf_slice(&q), NULL, &at) == NULL);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(accepts_and_refuses),
	        cmocka_unit_test(value_is_written),
	        cmocka_unit_test(words_become_null),
	        cmocka_unit_test(kinds),
	        cmocka_unit_test(members_are_walked),
	        cmocka_unit_test(members_are_found),
	        cmocka_unit_test(members_are_found_at_once),
	        cmocka_unit_test(arrays_are_walked),
	        cmocka_unit_test(strings_are_unescaped),
	        cmocka_unit_test(strings_are_written),
	        cmocka_unit_test(any_bytes_become_a_string),
	};
	return cmocka_run_group_tests_name("json", tests, NULL, NULL);
}
