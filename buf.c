#include "buf.h"

#include <stdarg.h>
#include <string.h>

struct slice slice_str(const char *s)
{
	return (struct slice){(const unsigned char *)s, strlen(s)};
}

bool slice_eq(struct slice a, struct slice b)
{
	return a.n == b.n && (a.n == 0 || memcmp(a.p, b.p, a.n) == 0);
}

bool slice_is(struct slice a, const char *s)
{
	return slice_eq(a, slice_str(s));
}

size_t slice_find(struct slice a, const char *s)
{
	size_t n = strlen(s);
	for (size_t i = 0; n <= a.n - i; i++)
		if (memcmp(a.p + i, s, n) == 0)
			return i;
	return a.n;
}

struct slice slice_from(struct slice s, size_t n)
{
	return (struct slice){s.p + n, s.n - n};
}

static bool is_blank(unsigned char c)
{
	return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

struct slice slice_trim(struct slice s)
{
	while (s.n > 0 && is_blank(s.p[s.n - 1]))
		s.n--;
	while (s.n > 0 && is_blank(s.p[0]))
		s = slice_from(s, 1);
	return s;
}

struct slice slice_cut(struct slice *s, unsigned char c)
{
	struct slice head = *s;
	const unsigned char *at = s->n > 0 ? memchr(s->p, c, s->n) : NULL;
	if (at == NULL) {
		*s = (struct slice){NULL, 0};
	} else {
		head.n = (size_t)(at - s->p);
		*s = slice_from(*s, head.n + 1);
	}
	return head;
}

static unsigned char lower(unsigned char c)
{
	return c >= 'A' && c <= 'Z' ? (unsigned char)(c | 0x20) : c;
}

bool slice_like(struct slice a, struct slice b)
{
	size_t n = a.n;
	while (n > 0 && n <= b.n && lower(a.p[n - 1]) == lower(b.p[n - 1]))
		n--;
	return a.n == b.n && n == 0;
}

int64_t slice_u64(struct slice a, int64_t max)
{
	int64_t v = 0;
	if (a.n == 0)
		return -1;
	for (size_t i = 0; i < a.n; i++) {
		if (a.p[i] < '0' || a.p[i] > '9')
			return -1;
		v = v * 10 + (a.p[i] - '0');
		if (v > max)
			return -1;
	}
	return v;
}

uint64_t slice_hash(uint64_t h, struct slice a)
{
	for (size_t i = 0; i < a.n; i++)
		h = (h ^ a.p[i]) * UINT64_C(1099511628211);
	return h;
}

struct buf buf_over(void *p, size_t cap)
{
	return (struct buf){p, cap, 0, false};
}

void buf_put(struct buf *b, const void *p, size_t n)
{
	if (b->full || n > b->cap - b->n) {
		b->full = true;
		return;
	}
	if (n > 0)
		memcpy(b->p + b->n, p, n);
	b->n += n;
}

void buf_put_byte(struct buf *b, unsigned char c)
{
	buf_put(b, &c, 1);
}

void buf_put_str(struct buf *b, const char *s)
{
	buf_put(b, s, strlen(s));
}

void buf_put_slice(struct buf *b, struct slice s)
{
	buf_put(b, s.p, s.n);
}

/* v in decimal, with zeros in front up to width digits. */
static void put_digits(struct buf *b, uint64_t v, size_t width)
{
	unsigned char d[20];
	size_t n = 0;
	do {
		d[sizeof d - ++n] = (unsigned char)('0' + v % 10);
		v /= 10;
	} while (v > 0 || n < width);
	buf_put(b, d + sizeof d - n, n);
}

void buf_put_u64(struct buf *b, uint64_t v)
{
	put_digits(b, v, 1);
}

void buf_put_i64(struct buf *b, int64_t v)
{
	if (v < 0)
		buf_put_byte(b, '-');
	put_digits(b, v < 0 ? 0 - (uint64_t)v : (uint64_t)v, 1);
}

void buf_put_seconds(struct buf *b, int64_t ms)
{
	buf_put_i64(b, ms / 1000);
	buf_put_byte(b, '.');
	put_digits(b, (uint64_t)(ms % 1000), 3);
}

void buf_put_u16be(struct buf *b, uint16_t v)
{
	unsigned char c[2] = {(unsigned char)(v >> 8), (unsigned char)v};
	buf_put(b, c, 2);
}

void buf_put_hex(struct buf *b, unsigned char c, unsigned char a)
{
	unsigned char high = c >> 4, low = c & 15;
	buf_put_byte(b, (unsigned char)(high + (high < 10 ? '0' : a - 10)));
	buf_put_byte(b, (unsigned char)(low + (low < 10 ? '0' : a - 10)));
}

void buf_put_escaped(struct buf *b, struct slice s, size_t max)
{
	for (size_t i = 0; i < s.n && !b->full; i++) {
		unsigned char c = s.p[i];
		if (i == max) {
			buf_put_str(b, "...");
			return;
		}
		if (c >= ' ' && c <= '~' && c != '\\' && c != '"') {
			buf_put_byte(b, c);
		} else {
			buf_put_str(b, "\\x");
			buf_put_hex(b, c, 'a');
		}
	}
}

void buf_put_blanks(struct buf *b, size_t n)
{
	while (n-- > 0)
		buf_put_byte(b, ' ');
}

void buf_put_wrapped(struct buf *b, struct slice s, size_t indent, size_t width, bool items)
{
	for (;;) {
		size_t end = slice_find(s, "\n"), n = end > width ? width : end;
		while (n > 0 && n < end && (s.p[n] != ' ' || (items && s.p[n - 1] != ',')))
			n--;
		bool cut = n == 0 && end > 0;
		n = cut ? width : n;
		buf_put(b, s.p, n);
		if (n == s.n)
			return;
		buf_put_byte(b, '\n');
		buf_put_blanks(b, indent);
		s = slice_from(s, cut ? n : n + 1);
	}
}

/* Year, month and day behind so many days from 0000-03-01 on, in the proleptic Gregorian calendar. The year
 * begins in March here, so that the leap day is its last. */
static void civil_date(uint32_t days, uint32_t *date)
{
	uint32_t doe = days % 146097; /* of the era of 400 years */
	uint32_t yoe = (doe - doe / 1460 + doe / 36524 - doe / 146096) / 365;
	uint32_t doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
	uint32_t mp = (5 * doy + 2) / 153; /* month, March is 0 */
	date[2] = doy - (153 * mp + 2) / 5 + 1;
	date[1] = mp < 10 ? mp + 3 : mp - 9;
	date[0] = yoe + days / 146097 * 400 + (date[1] <= 2);
}

void buf_put_time(struct buf *b, int64_t us)
{
	static const struct {
		unsigned char width, behind;
	} parts[] = {{4, '-'}, {2, '-'}, {2, 'T'}, {2, ':'}, {2, ':'}, {2, '.'}, {6, 'Z'}};
	const int64_t first = INT64_C(-62162035200000000), last = INT64_C(253402300799999999);
	uint64_t since = (uint64_t)((us < first         ? first
	                                    : us > last ? last
	                                                : us) -
	                            first),
	         s = since / 1000000;
	uint32_t in_day = (uint32_t)(s % 86400), value[7];
	civil_date((uint32_t)(s / 86400), value);
	value[3] = in_day / 3600;
	value[4] = in_day / 60 % 60;
	value[5] = in_day % 60;
	value[6] = (uint32_t)(since % 1000000);
	for (size_t i = 0; i < 7; i++) {
		put_digits(b, value[i], parts[i].width);
		buf_put_byte(b, parts[i].behind);
	}
}

void buf_put_args(struct buf *b, const char *format, va_list args)
{
	for (; *format != 0 && !b->full; format++) {
		const char *from = format;
		size_t most = 0;
		while (*format != 0 && *format != '%')
			format++;
		buf_put(b, from, (size_t)(format - from));
		if (*format == 0)
			return;
		if (*++format == '.')
			while (*++format < 's')
				most = most * 10 + (size_t)(*format - '0');
		if (*format == 'u') {
			buf_put_u64(b, va_arg(args, unsigned));
			continue;
		}
		const char *s = va_arg(args, const char *);
		if (most > 0)
			buf_put_escaped(b, slice_str(s), most);
		else
			buf_put_str(b, s);
	}
}

void buf_put_text(struct buf *b, const char *format, ...)
{
	va_list args;
	va_start(args, format);
	buf_put_args(b, format, args);
	va_end(args);
}

struct slice buf_slice(const struct buf *b)
{
	return (struct slice){b->p, b->n};
}

const char *buf_cstr(struct buf *b)
{
	if (b->full || b->n == b->cap) {
		b->full = true;
		return "";
	}
	b->p[b->n] = 0;
	return (const char *)b->p;
}
