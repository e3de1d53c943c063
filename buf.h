/* Slices and a bounded writer, the two shapes in which bytes travel through iamcat.
 * Pure: allocates nothing, prints nothing, reads no clock. */
#ifndef BUF_H
#define BUF_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Bytes that somebody else owns. Not terminated by NUL, may hold any byte. p may be NULL when n is 0. */
struct slice {
	const unsigned char *p;
	size_t n;
};

/* The text of a C string, without its NUL; lives as long as the string. */
struct slice slice_str(const char *s);

/* The same bytes? */
bool slice_eq(struct slice a, struct slice b);

/* The same bytes as the C string s? */
bool slice_is(struct slice a, const char *s);

/* Where the C string s first begins in a; a.n when nowhere. */
size_t slice_find(struct slice a, const char *s);

/* What is behind the first n bytes of s, which it has. */
struct slice slice_from(struct slice s, size_t n);

/* Without blanks, tabs, CRs and LFs at both ends. */
struct slice slice_trim(struct slice s);

/* Takes off what stands before the first byte c and returns it; s is then what is behind that byte, and .p
 * NULL when there was none. */
struct slice slice_cut(struct slice *s, unsigned char c);

/* The same bytes but for upper and lower case (ASCII)? */
bool slice_like(struct slice a, struct slice b);

/* The number that the slice spells in decimal digits (no sign, no space), or -1 when it is empty, has
 * another byte in it, or is above max. max is at most 10^17. */
int64_t slice_u64(struct slice a, int64_t max);

/* FNV-1a: the hash of more bytes behind those whose hash is h, SLICE_HASH for none. */
#define SLICE_HASH UINT64_C(14695981039346656037)
uint64_t slice_hash(uint64_t h, struct slice a) __attribute__((noinline)); /* 30 bytes, 3 times */

/* A bounded writer over the caller's memory. A write that does not fit writes nothing, sets full, and every
 * later write does nothing: check full once, before the bytes are used. */
struct buf {
	unsigned char *p;
	size_t cap; /* bytes at p */
	size_t n;   /* bytes written */
	bool full;  /* something did not fit: what is here is incomplete */
};

/* An empty writer over the caller's memory, or over an array (not over a pointer). */
struct buf buf_over(void *p, size_t cap) __attribute__((noinline)); /* 15 bytes instead of 30, 60 times */
#define BUF(array) buf_over(array, sizeof(array))

void buf_put(struct buf *b, const void *p, size_t n);
void buf_put_byte(struct buf *b, unsigned char c);
void buf_put_str(struct buf *b, const char *s); /* without the NUL */
void buf_put_slice(struct buf *b, struct slice s);
void buf_put_u64(struct buf *b, uint64_t v);     /* decimal */
void buf_put_i64(struct buf *b, int64_t v);      /* decimal */
void buf_put_seconds(struct buf *b, int64_t ms); /* with three decimals; not below 0 */
void buf_put_u16be(struct buf *b, uint16_t v);

/* Text from outside for a log line or an error sentence: printable ASCII as it is, every other byte and the
 * backslash as \xNN; at most max bytes of s, then "...". The result has no control character and no quote. */
void buf_put_escaped(struct buf *b, struct slice s, size_t max);

/* The byte as two hexadecimal digits; a: 'a' or 'A'. */
void buf_put_hex(struct buf *b, unsigned char c, unsigned char a);

/* So many blanks. */
void buf_put_blanks(struct buf *b, size_t n);

/* s, in lines of at most width bytes behind indent blanks, those of the first line not counted: they end at a
 * space, which is left out, or where items is set, at one behind a comma; what has none is cut. */
void buf_put_wrapped(struct buf *b, struct slice s, size_t indent, size_t width, bool items);

/* UTC, RFC 3339 with six decimals, "2024-08-03T15:05:30.123456Z". us: microseconds since 1970, any value
 * from March of the year 0 to 9999; others are clamped. */
void buf_put_time(struct buf *b, int64_t us);

/* Writes format, in it the arguments: %s a string, %.9s the same as text from outside (see buf_put_escaped; 9
 * or any other number: max), %u an unsigned (or an int that is not negative). The compiler checks them, as
 * they mean the same to printf. */
void buf_put_text(struct buf *b, const char *format, ...) __attribute__((format(printf, 2, 3)));
void buf_put_args(struct buf *b, const char *format, va_list args) __attribute__((format(printf, 2, 0)));

/* What was written so far; valid until the memory is written again. */
struct slice buf_slice(const struct buf *b);

/* Ends what was written with a NUL (not counted in n) and returns it as a C string. When there is no room,
 * sets full and returns "". */
const char *buf_cstr(struct buf *b);

#endif
