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
	return c == ' ' || c == '\t' || c == '\r';
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
	struct slice head = *s, whole = *s;
	const unsigned char *at = s->n > 0 ? memchr(s->p, c, s->n) : NULL;
	*s = (struct slice){NULL, 0};
	if (at != NULL) {
		head.n = (size_t)(at - head.p);
		*s = slice_from(whole, head.n + 1);
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

void buf_put_number(struct buf *b, const char *before, int64_t v, const char *after)
{
	buf_put_str(b, before);
	buf_put_i64(b, v);
	buf_put_str(b, after);
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

void buf_put_escaped(struct buf *b, struct slice s, size_t max)
{
	if (b->full)
		return;
	static const char hex[16] = {
	        '0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f'};
	size_t n = s.n < max ? s.n : max;
	for (size_t i = 0; i < n; i++) {
		unsigned char c = s.p[i];
		if (c >= ' ' && c <= '~' && c != '\\' && c != '"') {
			buf_put_byte(b, c);
		} else {
			unsigned char x[4] = {
			        '\\', 'x', (unsigned char)hex[c >> 4], (unsigned char)hex[c & 15]};
			buf_put(b, x, 4);
		}
	}
	if (n < s.n)
		buf_put_str(b, "...");
}

/* Days since 1970-01-01 to year, month, day in the proleptic Gregorian calendar. The year begins in March
 * here, so that the leap day is its last. */
static void civil_date(int64_t days, int64_t *year, uint64_t *month, uint64_t *day)
{
	int64_t shifted = days + 719468; /* since 0000-03-01 */
	int64_t era = (shifted >= 0 ? shifted : shifted - 146096) / 146097;
	uint64_t doe = (uint64_t)(shifted - era * 146097); /* of the era of 400 years: 0 to 146096 */
	uint64_t yoe = (doe - doe / 1460 + doe / 36524 - doe / 146096) / 365;
	uint64_t doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
	uint64_t mp = (5 * doy + 2) / 153; /* month, March is 0 */
	*day = doy - (153 * mp + 2) / 5 + 1;
	*month = mp < 10 ? mp + 3 : mp - 9;
	*year = (int64_t)yoe + era * 400 + (*month <= 2);
}

void buf_put_time(struct buf *b, int64_t us)
{
	const int64_t day_us = INT64_C(86400000000), first = INT64_C(-62167219200000000),
	              last = INT64_C(253402300799999999); /* the years 0000 and 9999 */
	if (us < first)
		us = first;
	if (us > last)
		us = last;
	int64_t days = (us >= 0 ? us : us - day_us + 1) / day_us, year;
	uint64_t in_day = (uint64_t)(us - days * day_us), s = in_day / 1000000, month, day;
	civil_date(days, &year, &month, &day);
	put_digits(b, (uint64_t)year, 4);
	buf_put_byte(b, '-');
	put_digits(b, month, 2);
	buf_put_byte(b, '-');
	put_digits(b, day, 2);
	buf_put_byte(b, 'T');
	put_digits(b, s / 3600, 2);
	buf_put_byte(b, ':');
	put_digits(b, s / 60 % 60, 2);
	buf_put_byte(b, ':');
	put_digits(b, s % 60, 2);
	buf_put_byte(b, '.');
	put_digits(b, in_day % 1000000, 6);
	buf_put_byte(b, 'Z');
}

void buf_put_list(struct buf *b, ...)
{
	va_list strings;
	va_start(strings, b);
	for (const char *s; (s = va_arg(strings, const char *)) != NULL;)
		buf_put_str(b, s);
	va_end(strings);
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
