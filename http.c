#include "http.h"

#include <string.h>

_Static_assert((size_t)HTTP_HEAD_BYTES <= (size_t)HTTP_REPLY_BYTES, "the head lies where the body will");

static const char too_large[] = "the reply's body is larger than can be held";

void http_put_request(struct buf *b, const char *host, uint16_t port, struct slice body)
{
	struct slice name = slice_str(host);
	bool ipv6 = slice_find(name, ":") < name.n;
	if (ipv6) /* its zone means nothing to the peer */
		name.n = slice_find(name, "%");
	buf_put_str(b, ipv6 ? " HTTP/1.1\r\nHost: [" : " HTTP/1.1\r\nHost: ");
	buf_put_slice(b, name);
	if (ipv6)
		buf_put_byte(b, ']');
	if (port != 80)
		buf_put_text(b, ":%u", port);
	/* Nothing is said of Connection: HTTP/1.1 keeps it unless the server says otherwise (RFC 9112 §9.3).
	 */
	buf_put_str(b, "\r\nUser-Agent: iamcat/" IAMCAT_VERSION "\r\nAccept: application/json\r\n");
	if (body.p != NULL)
		buf_put_text(b, "Content-Type: application/json\r\nContent-Length: %u\r\n", (unsigned)body.n);
	buf_put_str(b, "\r\n");
	buf_put_slice(b, body);
}

static bool is_digit(unsigned char c)
{
	return c >= '0' && c <= '9';
}

static bool is_alnum(unsigned char c)
{
	return is_digit(c) || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
}

void http_put_encoded(struct buf *b, struct slice s)
{
	for (size_t i = 0; i < s.n; i++) {
		unsigned char c = s.p[i];
		if (is_alnum(c) || c == '_' || c == '.' || c == '-' || c == '~') {
			buf_put_byte(b, c);
		} else {
			buf_put_byte(b, '%');
			buf_put_hex(b, c, 'A');
		}
	}
}

/* What the header of one reply says. */
struct head {
	int status;
	bool http10, chunked, has_length, close, keep_alive;
	size_t length; /* exact up to HTTP_BODY_BYTES, else some number above it */
};

static long refuse(struct http_reply *r, const char *why)
{
	r->why = why;
	return -1;
}

static size_t least(size_t a, size_t b)
{
	return a < b ? a : b;
}

/* Takes one line, without its CRLF or bare LF (RFC 9112 §2.2). Returns its bytes with the end, 0 when that
 * has not come. */
static size_t line_read(const unsigned char *p, size_t n, struct slice *line)
{
	const unsigned char *lf = memchr(p, '\n', n);
	if (!lf)
		return 0;
	size_t len = (size_t)(lf - p);
	*line = (struct slice){p, len > 0 && p[len - 1] == '\r' ? len - 1 : len};
	return len + 1;
}

/* Is it text as a field value or reason phrase may have it: no control character but the tab, so no bare CR
 * either (RFC 9110 §5.5)? */
static bool text_valid(struct slice s)
{
	for (size_t i = 0; i < s.n; i++)
		if ((s.p[i] < ' ' && s.p[i] != '\t') || s.p[i] == 0x7f)
			return false;
	return true;
}

/* RFC 9110 §5.6.2 */
static bool token_valid(struct slice s)
{
	static const char others[] = "!#$%&'*+-.^_`|~";
	for (size_t i = 0; i < s.n; i++)
		if (!is_alnum(s.p[i]) && !memchr(others, s.p[i], sizeof others - 1))
			return false;
	return s.n > 0;
}

static bool word_is(struct slice s, const char *word)
{
	return slice_like(s, slice_str(word));
}

/* Status line (RFC 9112 §4). Returns NULL or what is wrong with it. */
static const char *status_read(struct head *h, struct slice line)
{
	const unsigned char *p = line.p;
	h->status = line.n < 13 ? -1 : (int)slice_u64((struct slice){p + 9, 3}, 599);
	if (h->status < 100 || !is_digit(p[7]) || p[8] != ' ' || p[12] != ' ' || !text_valid(line))
		return "the reply has a malformed status line";
	h->http10 = p[7] == '0';
	return NULL;
}

/* Takes the digits off the front of *s, to base 10 or 16. Their number: exact up to HTTP_BODY_BYTES, else
 * some number above it. */
static size_t digits_take(struct slice *s, size_t base)
{
	size_t v = 0;
	for (; s->n > 0; *s = slice_from(*s, 1)) {
		unsigned char c = s->p[0], low = c | 0x20;
		size_t digit = is_digit(c) ? (size_t)(c - '0') : low >= 'a' ? (size_t)(low - 'a' + 10) : base;
		if (digit >= base)
			break;
		v = v > HTTP_BODY_BYTES ? v : v * base + digit;
	}
	return v;
}

/* RFC 9112 §6.3: digits only, and all lengths the same. */
static const char *length_read(struct head *h, struct slice value)
{
	struct slice rest = value;
	size_t v = digits_take(&rest, 10);
	if (value.n == 0 || rest.n > 0)
		return "the reply has a malformed Content-Length";
	if (h->has_length && h->length != v)
		return "the reply has two different lengths";
	h->has_length = true;
	h->length = v;
	return NULL;
}

/* RFC 9110 §7.6.1 */
static void connection_read(struct head *h, struct slice list)
{
	while (list.p != NULL) {
		struct slice option = slice_trim(slice_cut(&list, ','));
		h->close |= word_is(option, "close");
		h->keep_alive |= word_is(option, "keep-alive");
	}
}

/* One field line (RFC 9112 §5). h is NULL in a trailer, whose fields do not count (§7.1.2).
 */
static const char *field_read(struct head *h, struct slice line)
{
	if (line.p[0] == ' ' || line.p[0] == '\t')
		return "the reply has a folded header line"; /* §5.2 */
	const unsigned char *colon = memchr(line.p, ':', line.n);
	size_t name_n = colon ? (size_t)(colon - line.p) : 0;
	struct slice name = {line.p, name_n}, value = {line.p + name_n, line.n - name_n};
	if (!token_valid(name) || !text_valid(value)) /* a space before the colon too: §5.1 */
		return "the reply has a malformed header line";
	value = slice_trim((struct slice){value.p + 1, value.n - 1});
	if (!h)
		return NULL;
	if (word_is(name, "content-length"))
		return length_read(h, value);
	if (word_is(name, "connection"))
		connection_read(h, value);
	if (word_is(name, "transfer-encoding")) {
		if (h->chunked || !word_is(value, "chunked"))
			return "the reply has a transfer coding other than chunked";
		h->chunked = true;
	}
	return NULL;
}

/* Field lines and the empty line that ends them. Returns their bytes, 0 when more are needed, -1 on an
 * error. */
static long fields_read(struct http_reply *r, struct head *h, const unsigned char *p, size_t n)
{
	struct slice line;
	for (size_t at = 0, got; (got = line_read(p + at, n - at, &line)) > 0;) {
		at += got;
		if (line.n == 0)
			return (long)at;
		const char *why = field_read(h, line);
		if (why)
			return refuse(r, why);
	}
	return 0;
}

/* Status line and header of one reply, 1xx or final. Returns as fields_read. */
static long head_read(struct http_reply *r, struct head *h, const unsigned char *p, size_t n)
{
	const size_t limited = least(n, HTTP_HEAD_BYTES);
	struct slice line;
	if (memcmp(p, "HTTP/1.", least(n, 7)) != 0) /* at once: another protocol may never send a line end */
		return refuse(r, "the reply is not HTTP/1");
	size_t first = line_read(p, limited, &line);
	const char *why = first > 0 ? status_read(h, line) : NULL;
	if (why)
		return refuse(r, why);
	long rest = first > 0 ? fields_read(r, h, p + first, limited - first) : 0;
	if (rest < 0)
		return -1;
	if (rest == 0)
		return n < HTTP_HEAD_BYTES ? 0 : refuse(r, "the reply's header is larger than can be held");
	if (h->chunked && h->has_length)
		return refuse(r, "the reply has both a Content-Length and a Transfer-Encoding");
	return (long)first + rest;
}

/* How the body ends (RFC 9112 §6.3) and whether the connection stays (§9.3). HTTP/1.0 has no chunks: its
 * connection ends after them (§6.1). */
static long body_find(struct http_reply *r, const struct head *h)
{
	bool empty = h->status == 204 || h->status == 304;
	r->status = h->status;
	r->left = empty ? 0 : h->length;
	r->part = empty || h->has_length ? HTTP_LENGTH : h->chunked ? HTTP_CHUNK_SIZE : HTTP_TO_EOF;
	r->keep_alive = !h->close && (!h->http10 || (h->keep_alive && !h->chunked));
	return r->left > r->most ? refuse(r, too_large) : 0;
}

/* Drops 1xx replies from the front (RFC 9110 §15.2) and the head of the final one when it was read, if it is
 * there: the body takes its place. */
static long heads_read(struct http_reply *r, unsigned char *p, size_t *n)
{
	struct head h;
	size_t at = 0;
	long got;
	while (h = (struct head){0}, (got = head_read(r, &h, p + at, *n - at)) > 0 && h.status < 200)
		at += (size_t)got;
	if (got < 0)
		return -1;
	at += (size_t)got;
	*n -= at;
	if (at > 0)
		memmove(p, p + at, *n);
	return got > 0 ? body_find(r, &h) : 0;
}

/* A chunk-size line (RFC 9112 §7.1), extensions ignored (§7.1.1). */
static bool size_read(struct slice line, size_t *size)
{
	struct slice rest = line;
	*size = digits_take(&rest, 16);
	struct slice extension = slice_trim(rest);
	return rest.n < line.n && (rest.n == 0 || (extension.n > 0 && extension.p[0] == ';')) &&
	       text_valid(rest);
}

/* One step in a chunked body: takes from the n bytes at p, moves data to to. Returns the bytes taken, 0 when
 * more are needed, -1 on an error. A bare LF is for header lines only (RFC 9112 §2.2): not taken here. */
static long chunk_step(struct http_reply *r, unsigned char *to, const unsigned char *p, size_t n)
{
	const size_t limited = least(n, HTTP_FRAME_BYTES);
	struct slice line;
	size_t got;
	long fields;
	switch (r->part) {
	case HTTP_CHUNK_SIZE:
		got = line_read(p, limited, &line);
		if (got == 0)
			return n < HTTP_FRAME_BYTES
			               ? 0
			               : refuse(r, "the reply has a chunk-size line larger than can be held");
		if (got != line.n + 2 || !size_read(line, &r->left))
			return refuse(r, "the reply has a malformed chunk size");
		if (r->left > r->most - r->body_n)
			return refuse(r, too_large);
		r->part = r->left > 0 ? HTTP_CHUNK_DATA : HTTP_TRAILER;
		return (long)got;
	case HTTP_CHUNK_DATA:
		got = least(n, r->left);
		memmove(to, p, got);
		r->body_n += got;
		r->left -= got;
		if (r->left == 0)
			r->part = HTTP_CHUNK_END;
		return (long)got;
	case HTTP_CHUNK_END:
		if (n < 2)
			return 0;
		if (p[0] != '\r' || p[1] != '\n')
			return refuse(r, "the reply has a chunk that is longer than its size");
		r->part = HTTP_CHUNK_SIZE;
		return 2;
	default:
		fields = fields_read(r, NULL, p, limited);
		if (fields == 0 && n >= HTTP_FRAME_BYTES)
			return refuse(r, "the reply has a trailer larger than can be held");
		if (fields > 0)
			r->part = HTTP_WHOLE;
		return fields;
	}
}

/* Joins what has come of a chunked body, and closes the gap that the framing left just once. */
static long chunks_read(struct http_reply *r, unsigned char *p, size_t *n)
{
	size_t at = r->body_n;
	long got = 1;
	while (r->part != HTTP_WHOLE && got > 0) {
		got = chunk_step(r, p + r->body_n, p + at, *n - at);
		if (got < 0)
			return -1;
		at += (size_t)got;
	}
	memmove(p + r->body_n, p + at, *n - at);
	*n -= at - r->body_n;
	return 0;
}

long http_read(struct http_reply *r, unsigned char *p, size_t *n, bool eof)
{
	if (r->part == HTTP_HEAD && heads_read(r, p, n) < 0)
		return -1;
	if (r->part >= HTTP_CHUNK_SIZE && chunks_read(r, p, n) < 0)
		return -1;
	bool whole = r->part == HTTP_WHOLE;
	if (r->part == HTTP_LENGTH) {
		r->body_n = least(*n, r->left);
		whole = r->body_n == r->left;
	} else if (r->part == HTTP_TO_EOF) {
		r->body_n = *n;
		whole = eof;
		if (r->body_n > r->most)
			return refuse(r, too_large);
	}
	if (!whole && eof)
		return refuse(r, r->part == HTTP_HEAD && *n == 0
		                         ? "the server closed the connection without a reply"
		                         : "the reply was cut short");
	if (!whole)
		return 0;
	if (r->keep_alive && *n > r->body_n)
		return refuse(r, "the server sent more than one reply");
	r->keep_alive = r->keep_alive && !eof;
	r->body = (struct slice){p, r->body_n};
	return 1;
}
