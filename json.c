#include "json.h"

#include <string.h>

#define JSMN_STATIC
#include <jsmn.h>

/* RFC 8259 §7: what may follow a backslash but u, and the characters that it stands for. */
static const char escape_from[] = "\"\\/bfnrt", escape_to[] = "\"\\/\b\f\n\r\t";

enum { ESCAPES = sizeof escape_from - 1 };

/* A place in a text. Every function that takes one moves it over what it accepts and returns true, or leaves
 * it at the first wrong byte, says why, and returns false. */
struct scan {
	const unsigned char *p;
	size_t n, at;
	bool lenient;
	bool words; /* it had some that only the lenient accept */
	const char *why;
	const char *const *name; /* so many members of the outermost object are noted */
	struct slice *value;
	size_t names;
};

static struct scan scan_of(struct slice s, bool lenient)
{
	return (struct scan){.p = s.p, .n = s.n, .lenient = lenient};
}

/* The byte at the place, -1 at the end. */
static int peek(const struct scan *s)
{
	return s->at < s->n ? s->p[s->at] : -1;
}

static bool wrong(struct scan *s, const char *why)
{
	s->why = why;
	return false;
}

/* Takes the next byte if it is one of those in set, and returns it; 0: it is not. */
static int take(struct scan *s, const char *set)
{
	int c = peek(s);
	while (*set != 0 && *set != c)
		set++;
	s->at += *set != 0;
	return *set;
}

static bool is_digit(int c)
{
	return c >= '0' && c <= '9';
}

static void skip_space(struct scan *s)
{
	const uint64_t space = UINT64_C(1) << ' ' | 1 << '\t' | 1 << '\n' | 1 << '\r';
	while (s->at < s->n && s->p[s->at] <= ' ' && space >> s->p[s->at] & 1)
		s->at++;
}

static bool skip_word(struct scan *s, const char *w)
{
	s->words = s->words || *w < 'a'; /* NaN, Infinity */
	for (; *w != 0; w++, s->at++)
		if (peek(s) != *w)
			return wrong(s, "a value is expected");
	return true;
}

static bool skip_digits(struct scan *s)
{
	size_t from = s->at;
	while (is_digit(peek(s)))
		s->at++;
	return s->at > from || wrong(s, "a digit is expected");
}

/* RFC 8259 §6. */
static bool skip_number(struct scan *s)
{
	take(s, "-");
	if (s->lenient && peek(s) == 'I')
		return skip_word(s, "Infinity");
	if (!take(s, "0") && !skip_digits(s))
		return false;
	if (take(s, ".") && !skip_digits(s))
		return false;
	if (!take(s, "eE"))
		return true;
	take(s, "+-");
	return skip_digits(s);
}

/* RFC 3629 §4: one character of two bytes or more. */
static bool skip_utf8(struct scan *s)
{
	static const char why[] = "a byte that is not valid UTF-8";
	int c = peek(s);
	if (c < 0xc2 || c > 0xf4)
		return wrong(s, why);
	int low = c == 0xe0 ? 0xa0 : c == 0xf0 ? 0x90 : 0x80;  /* no overlong forms */
	int high = c == 0xed ? 0x9f : c == 0xf4 ? 0x8f : 0xbf; /* no surrogates, none over U+10FFFF */
	s->at++;
	for (int more = c < 0xe0 ? 1 : c < 0xf0 ? 2 : 3; more > 0; more--) {
		c = peek(s);
		if (c < low || c > high)
			return wrong(s, why);
		s->at++;
		low = 0x80;
		high = 0xbf;
	}
	return true;
}

/* What follows a backslash (RFC 8259 §7); u: the UTF-16 code unit that it stands for. */
static bool read_escape(struct scan *s, uint32_t *u)
{
	static const char digits[] = "0123456789abcdef";
	int c = take(s, escape_from);
	*u = 0;
	if (c != 0) {
		*u = (unsigned char)escape_to[(const char *)memchr(escape_from, c, ESCAPES) - escape_from];
		return true;
	}
	if (!take(s, "u"))
		return wrong(s, "an unknown escape sequence");
	for (int i = 0; i < 4; i++, s->at++) {
		c = peek(s);
		const char *digit = c < 0 ? NULL : memchr(digits, c < 'A' ? c : c | 0x20, 16);
		if (digit == NULL)
			return wrong(s, "a hexadecimal digit is expected");
		*u = *u << 4 | (uint32_t)(digit - digits);
	}
	return true;
}

/* Over characters of a string that mean nothing but themselves: most of what is read is this. */
static void skip_plain(struct scan *s)
{
	const unsigned char *p = s->p + s->at, *end = s->p + s->n;
	while (p < end && (unsigned char)(*p - 0x20) < 0x60 && *p != '"' && *p != '\\')
		p++;
	s->at = (size_t)(p - s->p);
}

static bool skip_string(struct scan *s)
{
	uint32_t u;
	s->at++;
	for (skip_plain(s); peek(s) != '"'; skip_plain(s)) {
		if (peek(s) < 0x20)
			return wrong(s, "a control character in a string");
		if (peek(s) >= 0x80) {
			if (!skip_utf8(s))
				return false;
		} else {
			s->at++;
			if (!read_escape(s, &u))
				return false;
		}
	}
	s->at++;
	return true;
}

/* A value that is no object and no array. */
static bool skip_scalar(struct scan *s)
{
	int c = peek(s);
	if (s->lenient && (c == 'N' || c == 'I'))
		return skip_word(s, c == 'N' ? "NaN" : "Infinity");
	switch (c) {
	case '"': return skip_string(s);
	case 't': return skip_word(s, "true");
	case 'f': return skip_word(s, "false");
	case 'n': return skip_word(s, "null");
	default: return c == '-' || is_digit(c) ? skip_number(s) : wrong(s, "a value is expected");
	}
}

/* The name of a member and the colon behind it; raw: what is between the quotes. */
static bool skip_name(struct scan *s, struct slice *raw)
{
	skip_space(s);
	if (peek(s) != '"')
		return wrong(s, "a member's name in double quotes is expected");
	size_t from = s->at + 1;
	if (!skip_string(s))
		return false;
	*raw = (struct slice){s->p + from, s->at - 1 - from};
	skip_space(s);
	if (peek(s) != ':')
		return wrong(s, "a colon is expected");
	s->at++;
	return true;
}

/* A member of the outermost object lies between from and the place. */
static void note(struct scan *s, struct slice raw, size_t from)
{
	for (size_t i = 0; i < s->names; i++)
		if (json_name_is(raw, s->name[i])) {
			s->value[i] = (struct slice){s->p + from, s->at - from};
			break;
		}
}

_Static_assert(JSON_DEPTH <= 64, "one bit of a uint64_t for each level");

/* White space and a value. */
static bool skip_value(struct scan *s)
{
	uint64_t objects = 0; /* a bit for each open container, the innermost lowest: is it an object? */
	unsigned depth = 0;
	size_t from = 0;
	struct slice raw, outer = {NULL, 0}; /* names; of the outermost object's members */
	for (;;) {
		skip_space(s);
		if (depth == 1)
			from = s->at;
		int c = peek(s);
		if (c == '{' || c == '[') {
			if (depth == JSON_DEPTH)
				return wrong(s, "nested deeper than 64 levels");
			depth++;
			objects = objects << 1 | (c == '{');
			s->at++;
			skip_space(s);
			if (peek(s) != (c == '{' ? '}' : ']')) {
				if (c == '{' && !skip_name(s, depth == 1 ? &outer : &raw))
					return false;
				continue;
			}
		} else if (!skip_scalar(s)) {
			return false;
		}
		/* A value lies behind, or the inside of an empty container: close what ends here. */
		for (;; s->at++, depth--, objects >>= 1) {
			if (depth == 0)
				return true;
			if (depth == 1 && outer.p != NULL)
				note(s, outer, from);
			skip_space(s);
			c = peek(s);
			if (c == ',')
				break;
			if (c != (objects & 1 ? '}' : ']'))
				return wrong(s, "a comma or the closing bracket is expected");
		}
		s->at++;
		if (objects & 1 && !skip_name(s, depth == 1 ? &outer : &raw))
			return false;
	}
}

static bool skip_text(struct scan *s)
{
	if (!skip_value(s))
		return false;
	skip_space(s);
	return s->at == s->n || wrong(s, "more follows the JSON text");
}

const char *json_check(struct slice s, bool *words, size_t *at)
{
	struct scan t = scan_of(s, words != NULL);
	skip_text(&t);
	*at = t.at;
	if (words != NULL)
		*words = t.words;
	return t.why != NULL && t.at == t.n ? "the text ends too early" : t.why;
}

bool json_members(struct slice text, bool lenient, const char *const *name, struct slice *value, size_t n)
{
	struct scan s = scan_of(text, lenient);
	s.name = name;
	s.value = value;
	s.names = n;
	memset(value, 0, n * sizeof *value);
	return skip_text(&s);
}

struct slice json_get(struct slice text, const char *name)
{
	struct slice value;
	return json_members(text, true, &name, &value, 1) ? value : (struct slice){NULL, 0};
}

enum json_kind json_kind(struct slice value)
{
	static const char first[] = "{[\"-tfnNI"; /* in the order of enum json_kind; NaN and its kin behind */
	value = slice_trim(value);
	if (value.n == 0)
		return JSON_NONE;
	if (is_digit(value.p[0]))
		return JSON_NUMBER;
	const char *at = memchr(first, value.p[0], sizeof first - 1);
	if (at == NULL)
		return JSON_NONE;
	enum json_kind kind = JSON_OBJECT + (enum json_kind)(at - first);
	return kind > JSON_NULL || (kind == JSON_NUMBER && value.n > 1 && value.p[1] == 'I') ? JSON_NULL
	                                                                                     : kind;
}

size_t json_count(struct slice value)
{
	jsmn_parser parser;
	jsmn_init(&parser);
	int n = jsmn_parse(&parser, (const char *)value.p, value.n, NULL, 0);
	return n < 0 ? 0 : (size_t)n;
}

bool json_next(struct slice container, size_t *at, struct slice *name, struct slice *value)
{
	struct scan s = scan_of(container, true);
	s.at = *at;
	skip_space(&s);
	if (!take(&s, *at > 0 ? "," : name != NULL ? "{" : "["))
		return false;
	if (name != NULL && !skip_name(&s, name)) /* the object is empty */
		return false;
	skip_space(&s);
	size_t from = s.at;
	if (!skip_value(&s)) /* the array is empty */
		return false;
	*value = (struct slice){s.p + from, s.at - from};
	*at = s.at;
	return true;
}

/* Writes code point u as UTF-8 (RFC 3629 §3) to c and returns the bytes. */
static size_t encode(uint32_t u, unsigned char c[4])
{
	size_t n = u < 0x80 ? 1 : u < 0x800 ? 2 : u < 0x10000 ? 3 : 4;
	static const unsigned char lead[] = {0, 0xc0, 0xe0, 0xf0};
	for (size_t i = n - 1; i > 0; i--, u >>= 6)
		c[i] = (unsigned char)(0x80 | (u & 0x3f));
	c[0] = (unsigned char)(lead[n - 1] | u);
	return n;
}

/* Takes the next byte or escape of what is between a string's quotes and writes what it stands for to c;
 * returns the bytes, 0 at the end. */
static size_t next_unescaped(struct scan *s, unsigned char c[4])
{
	uint32_t u, low;
	if (s->at == s->n)
		return 0;
	c[0] = s->p[s->at++];
	if (c[0] != '\\')
		return 1;
	if (!read_escape(s, &u))
		return 0;
	if (u >= 0xd800 && u < 0xdc00 && peek(s) == '\\') { /* RFC 8259 §7: half of a pair? */
		struct scan next = *s;
		next.at++;
		if (read_escape(&next, &low) && low >= 0xdc00 && low < 0xe000) {
			u = 0x10000 + ((u - 0xd800) << 10) + (low - 0xdc00);
			*s = next;
		}
	}
	return encode(u >= 0xd800 && u < 0xe000 ? 0xfffd : u, c);
}

/* The same where the name, or what is left of it, has escapes. */
static bool name_unescaped_is(struct slice raw, const char *name)
{
	struct scan s = scan_of(raw, false);
	unsigned char c[4];
	size_t n;
	while ((n = next_unescaped(&s, c)) > 0)
		for (size_t i = 0; i < n; i++, name++)
			if (c[i] == 0 || c[i] != (unsigned char)*name)
				return false;
	return *name == 0;
}

bool json_name_is(struct slice raw, const char *name)
{
	size_t at = 0;
	for (; at < raw.n && raw.p[at] == (unsigned char)*name && *name != '\\'; at++)
		name++;
	if (at < raw.n && raw.p[at] == '\\')
		return name_unescaped_is(slice_from(raw, at), name);
	return at == raw.n && *name == 0; /* most are told by this */
}

void json_unescape(struct buf *b, struct slice string)
{
	struct scan s = scan_of(string, false);
	unsigned char c[4];
	size_t n;
	if (s.n < 2)
		return;
	s.at++;
	s.n--;
	while ((n = next_unescaped(&s, c)) > 0)
		buf_put(b, c, n);
}

/* An ASCII character as it stands in a JSON string (RFC 8259 §7). */
static void put_ascii(struct buf *b, unsigned char c)
{
	const char *to = memchr(escape_to, c, ESCAPES);
	if (to != NULL && c != '/') {
		buf_put_byte(b, '\\');
		c = (unsigned char)escape_from[to - escape_to];
	} else if (c < ' ') {
		buf_put_str(b, "\\u00");
		buf_put_hex(b, c, 'a');
		return;
	}
	buf_put_byte(b, c);
}

void json_put_string(struct buf *b, struct slice text)
{
	struct scan s = scan_of(text, false);
	buf_put_byte(b, '"');
	while (s.at < s.n) {
		size_t from = s.at;
		if (s.p[from] < 0x80) {
			put_ascii(b, s.p[s.at++]);
		} else if (skip_utf8(&s)) {
			buf_put(b, s.p + from, s.at - from);
		} else { /* U+FFFD once for each longest beginning of a character */
			if (s.at == from)
				s.at++;
			buf_put_str(b, "\xef\xbf\xbd");
		}
	}
	buf_put_byte(b, '"');
}

void json_put_value(struct buf *b, struct slice value)
{
	value = slice_trim(value);
	struct scan s = scan_of(value, false);
	size_t from = 0; /* what is before it was written */
	while (s.at < s.n) {
		size_t start = s.at;
		if (peek(&s) == '"') {
			skip_string(&s);
			continue;
		}
		take(&s, "-");
		int c = take(&s, "NI"); /* outside of strings JSON has neither letter */
		if (c != 0) {
			buf_put(b, s.p + from, start - from);
			buf_put_str(b, "null");
			s.at += c == 'N' ? sizeof "aN" - 1 : sizeof "nfinity" - 1;
			from = s.at;
		} else if (s.at == start) {
			s.at++;
		}
	}
	buf_put(b, s.p + from, s.n - from);
}
