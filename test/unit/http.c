#include "unit.h"

#include "../../http.c"
// uses: buf.c

/* Bytes as the caller of http_read keeps them, moved before each call so that they end at a guard page. */
struct feed {
	struct http_reply r;
	unsigned char *end, *p;
	size_t n;
	bool fixed; /* not moved, for speed: only when it is full does the memory end at the guard page */
};

static void feed_start(struct feed *f)
{
	f->r = (struct http_reply){.most = HTTP_BODY_BYTES};
	f->end = guarded(HTTP_REPLY_BYTES) + HTTP_REPLY_BYTES;
	f->p = f->end;
	f->n = 0;
	f->fixed = false;
}

static void feed_stop(struct feed *f)
{
	guarded_free(f->end - HTTP_REPLY_BYTES, HTTP_REPLY_BYTES);
}

static long feed_put(struct feed *f, const void *more, size_t n, bool eof)
{
	if (n > HTTP_REPLY_BYTES - f->n)
		fail_msg("no room for %zu bytes more after %zu", n, f->n);
	unsigned char *to = f->end - (f->fixed ? HTTP_REPLY_BYTES : f->n + n);
	if (to != f->p)
		memmove(to, f->p, f->n);
	if (n > 0)
		memcpy(to + f->n, more, n);
	f->n += n;
	f->p = to;
	long got = http_read(&f->r, f->p, &f->n, eof);
	if (got == 0 && f->n >= HTTP_REPLY_BYTES)
		fail_msg("wants more, but %zu bytes fill the memory", f->n);
	if (got > 1 || (got == 1 && (f->r.body.p != f->p || f->r.body.n > f->n)))
		fail_msg("%ld: a body of %zu bytes in %zu", got, f->r.body.n, f->n);
	return got;
}

/* Feeds n bytes in pieces of the given size; returns the first result that is not 0, or what eof gives. */
static long feed_all(struct feed *f, const unsigned char *text, size_t n, size_t piece, bool eof)
{
	for (size_t at = 0; at < n; at += piece) {
		long got = feed_put(f, text + at, least(piece, n - at), false);
		if (got != 0)
			return got;
	}
	return eof ? feed_put(f, NULL, 0, true) : 0;
}

#define OK10    "HTTP/1.0 200 OK\r\n"
#define OK11    "HTTP/1.1 200 OK\r\n"
#define CHUNKED OK11 "Transfer-Encoding: chunked\r\n\r\n"

static const struct good {
	const char *name, *text;
	int status;
	bool keep_alive, to_eof;
	const char *body;
} good[] = {
        {"gateway",
                OK10 "Server: x/1\r\nContent-type: application/json\r\nConnection: close\r\n"
                     "Content-Length: 7\r\n\r\n{\"a\":1}",
                200, false, false, "{\"a\":1}"},
        {"bare 404", "HTTP/1.0 404 Not Found\r\nServer: x\r\nDate: y\r\n\r\n", 404, false, true, ""},
        {"to eof", OK10 "\r\n[1]\r\n", 200, false, true, "[1]\r\n"},
        {"1.1 to eof", OK11 "Connection: keep-alive\r\n\r\n[]", 200, false, true, "[]"},
        {"no fields, 1.1", "HTTP/1.1 500 \r\n\r\n", 500, false, true, ""},
        {"length 1.1", OK11 "Content-Length: 2\r\n\r\n{}", 200, true, false, "{}"},
        {"length 1.1 close", OK11 "cOnnEction:\t x,, CLOSE \t\r\nCONTENT-LENGTH:2 \r\n\r\n{}", 200, false,
                false, "{}"},
        {"close before keep-alive",
                OK11 "Connection: keep-alive\r\nConnection: close\r\n"
                     "Content-Length: 0\r\n\r\n",
                200, false, false, ""},
        {"close among others",
                OK11 "Connection: x, close, y\r\nConnection: keep-alive\r\n"
                     "Content-Length: 0\r\n\r\n",
                200, false, false, ""},
        {"keep-alive among others",
                OK10 "Connection: keep-alive, y\r\nConnection: z\r\n"
                     "Content-Length: 0\r\n\r\n",
                200, true, false, ""},
        {"not close", OK11 "Connection: closed, clos\r\nX-Connection: close\r\nContent-Length: 0\r\n\r\n",
                200, true, false, ""},
        {"1.0 keep-alive", OK10 "Connection: Upgrade, Keep-Alive\r\nContent-Length: 1\r\n\r\n1", 200, true,
                false, "1"},
        {"a later 1.x", "HTTP/1.9 201 \r\nContent-Length: 1\r\n\r\n1", 201, true, false, "1"},
        {"same length twice", OK11 "Content-Length: 2\r\nContent-Length: 02\r\n\r\n{}", 200, true, false,
                "{}"},
        {"length with zeros", OK11 "Content-Length: 000000000000000000000000002\r\n\r\n{}", 200, true, false,
                "{}"},
        {"bare LF", "HTTP/1.1 200 OK\nContent-Length: 2\n\n{}", 200, true, false, "{}"},
        {"mixed line ends", "HTTP/1.1 200 OK\r\nContent-Length: 2\n\r\n{}", 200, true, false, "{}"},
        {"odd text",
                "HTTP/1.1 200 \tna\xc3\xafve\r\nX:\r\nY!#$%&'*+-.^_`|~9: \xff\t\"\r\n"
                "Content-Length: 2\r\n\r\n{}",
                200, true, false, "{}"},
        {"599", "HTTP/1.1 599 ?\r\nContent-Length: 0\r\n\r\n", 599, true, false, ""},
        {"204", "HTTP/1.1 204 No Content\r\n\r\n", 204, true, false, ""},
        {"204 with a length", "HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\n", 204, true, false, ""},
        {"304 with a huge length", "HTTP/1.1 304 -\r\nContent-Length: 99999999\r\n\r\n", 304, true, false,
                ""},
        {"304 chunked", "HTTP/1.1 304 -\r\nTransfer-Encoding: chunked\r\n\r\n", 304, true, false, ""},
        {"204 on 1.0", "HTTP/1.0 204 -\r\n\r\n", 204, false, false, ""},
        {"100", "HTTP/1.1 100 Continue\r\n\r\n" OK11 "Content-Length: 2\r\n\r\n{}", 200, true, false, "{}"},
        {"several 1xx",
                "HTTP/1.1 103 -\r\nContent-Length: 9\r\nLink: a\r\n\r\nHTTP/1.1 199 \r\n\r\n"
                "HTTP/1.0 102 \nTransfer-Encoding: chunked\n\n" CHUNKED "2\r\n{}\r\n0\r\n\r\n",
                200, true, false, "{}"},
        {"1xx closes nothing",
                "HTTP/1.1 100 -\r\nConnection: close\r\nContent-Length: 7\r\n\r\n" OK11
                "Content-Length: 2\r\n\r\n{}",
                200, true, false, "{}"},
        {"1xx, then to eof", "HTTP/1.1 100 \r\n\r\n" OK10 "\r\n{}", 200, false, true, "{}"},
        {"chunks", CHUNKED "5\r\nhello\r\n1\r\n,\r\n00A\r\n 0123\r\n\r\n5\r\n0\r\n\r\n", 200, true, false,
                "hello, 0123\r\n\r\n5"},
        {"no chunk", CHUNKED "0\r\n\r\n", 200, true, false, ""},
        {"many zeros", CHUNKED "0000000000000000000000000000001\r\nx\r\n0000\r\n\r\n", 200, true, false, "x"},
        {"extensions", CHUNKED "2;a=b\r\nxy\r\n1 \t; q=\"\xff;\"\r\nz\r\n0;last\r\n\r\n", 200, true, false,
                "xyz"},
        {"trailer",
                CHUNKED "1\r\nx\r\n0\r\nA: b\r\nContent-Length: 9\nTransfer-Encoding: gzip\r\n"
                        "Connection: close\r\n\r\n",
                200, true, false, "x"},
        {"hex", CHUNKED "0b\r\n0123456789a\r\n0B\r\n0123456789b\r\n0\r\n\r\n", 200, true, false,
                "0123456789a0123456789b"},
        {"chunked, close", OK11 "transfer-encoding:\tCHUNKED\r\nConnection: close\r\n\r\n1\r\nx\r\n0\r\n\r\n",
                200, false, false, "x"},
        {"chunked on 1.0",
                OK10 "Transfer-Encoding: chunked\r\nConnection: keep-alive\r\n\r\n1\r\nx\r\n"
                     "0\r\n\r\n",
                200, false, false, "x"},
};

static void check_good(const struct good *g, const char *how, size_t at, struct feed *f, long got, bool eof)
{
	if (got <= 0)
		fail_msg("%s, %s %zu: %ld, %s", g->name, how, at, got, got < 0 ? f->r.why : "wants more");
	if (f->r.status != g->status || f->r.keep_alive != (g->keep_alive && !eof))
		fail_msg("%s, %s %zu: status %d, keep-alive %d", g->name, how, at, f->r.status,
		        f->r.keep_alive);
	if (f->r.body.n != f->n)
		fail_msg("%s, %s %zu: the body does not end the reply", g->name, how, at);
	if (!slice_is(f->r.body, g->body))
		fail_msg("%s, %s %zu: body \"%.*s\"", g->name, how, at, (int)f->r.body.n,
		        (const char *)f->r.body.p);
}

/* At once, byte by byte, in every two pieces, with the end of the connection at the same time. */
static void test_good(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
		const struct good *g = &good[i];
		const unsigned char *text = (const unsigned char *)g->text;
		size_t n = strlen(g->text);
		struct feed f;
		for (size_t piece = 1; piece <= n; piece++) {
			feed_start(&f);
			long got = feed_all(&f, text, n, piece, g->to_eof);
			check_good(g, "pieces of", piece, &f, got, g->to_eof);
			feed_stop(&f);
			feed_start(&f);
			got = feed_put(&f, text, piece, piece == n);
			if (got == 0)
				got = feed_put(&f, text + piece, n - piece, true);
			check_good(g, "split at", piece, &f, got, true);
			feed_stop(&f);
		}
	}
}

/* No proper prefix is a reply: more is needed, and the end of the connection is an error. */
static void test_prefixes(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
		const struct good *g = &good[i];
		size_t n = strlen(g->text) - (g->to_eof ? strlen(g->body) : 0);
		for (size_t part = 0; part < n; part++) {
			struct feed f;
			feed_start(&f);
			long got = feed_put(&f, g->text, part, false);
			if (got != 0)
				fail_msg("%s: %ld for the first %zu bytes", g->name, got, part);
			got = feed_put(&f, NULL, 0, true);
			if (got != -1)
				fail_msg("%s: %ld for the first %zu bytes and eof", g->name, got, part);
			assert_string_equal(
			        f.r.why, f.n == 0 && f.r.part == HTTP_HEAD
			                         ? "the server closed the connection without a reply"
			                         : "the reply was cut short");
			feed_stop(&f);
		}
	}
}

#define LINE   "the reply has a malformed status line"
#define FIELD  "the reply has a malformed header line"
#define LENGTH "the reply has a malformed Content-Length"
#define CODING "the reply has a transfer coding other than chunked"
#define SIZE   "the reply has a malformed chunk size"
#define LIMIT  "the reply's body is larger than can be held"

static const struct bad {
	const char *name, *text, *why;
	size_t n; /* where the text has a NUL */
} bad[] = {
        {"TLS alert", "\x15\x03\x01", "the reply is not HTTP/1", 0},
        {"HTTP/2", "HTTP/2", "the reply is not HTTP/1", 0},
        {"small letters", "http", "the reply is not HTTP/1", 0},
        {"empty line first", "\r\n" OK11, "the reply is not HTTP/1", 0},
        {"space first", " HTTP/1.1", "the reply is not HTTP/1", 0},
        {"not HTTP after 100", "HTTP/1.1 100 \r\n\r\n{", "the reply is not HTTP/1", 0},
        {"no minor", "HTTP/1. 200 OK\r\n", LINE, 0},
        {"long minor", "HTTP/1.11 200 OK\r\n", LINE, 0},
        {"a letter as minor", "HTTP/1.x 200 OK\r\n", LINE, 0},
        {"no status", "HTTP/1.1 \r\n", LINE, 0},
        {"no reason", "HTTP/1.1 200\r\n", LINE, 0},
        {"no space before the reason", "HTTP/1.1 200OK\r\n", LINE, 0},
        {"two digits", "HTTP/1.1 20 OK\r\n", LINE, 0},
        {"four digits", "HTTP/1.1 2000 OK\r\n", LINE, 0},
        {"a letter in the status", "HTTP/1.1 2x0 OK\r\n", LINE, 0},
        {"the last a letter", "HTTP/1.1 20x OK\r\n", LINE, 0},
        {"status 099", "HTTP/1.1 099 OK\r\n", LINE, 0},
        {"status 600", "HTTP/1.1 600 OK\r\n", LINE, 0},
        {"two spaces", "HTTP/1.1  200 OK\r\n", LINE, 0},
        {"tab", "HTTP/1.1\t200 OK\r\n", LINE, 0},
        {"bare CR in the reason", "HTTP/1.1 200 O\rK\r\n", LINE, 0},
        {"CR CR LF", "HTTP/1.1 200 OK\r\r\n", LINE, 0},
        {"NUL in the reason", "HTTP/1.1 200 O\0K\r\n", LINE, 19},
        {"no colon", OK11 "Content-Length\r\n", FIELD, 0},
        {"no name", OK11 ": 5\r\n", FIELD, 0},
        {"space before the colon", OK11 "Content-Length : 5\r\n", FIELD, 0},
        {"tab before the colon", OK11 "Content-Length\t: 5\r\n", FIELD, 0},
        {"space in a name", OK11 "Content Length: 5\r\n", FIELD, 0},
        {"parenthesis in a name", OK11 "a(b): 5\r\n", FIELD, 0},
        {"NUL in a name", OK11 "a\0b: 5\r\n", FIELD, sizeof OK11 - 1 + 8},
        {"umlaut in a name", OK11 "\xe4: 5\r\n", FIELD, 0},
        {"NUL in a value", OK11 "a: \0\r\n", FIELD, sizeof OK11 - 1 + 6},
        {"control character", OK11 "a: \x01\r\n", FIELD, 0},
        {"escape", OK11 "a: \x1b[0m\r\n", FIELD, 0},
        {"DEL", OK11 "a: \x7f\r\n", FIELD, 0},
        {"bare CR", OK11 "a: b\rContent-Length: 5\r\n", FIELD, 0},
        {"CR before CRLF", OK11 "a: b\r\r\n", FIELD, 0},
        {"CR CR LF ends nothing", OK11 "\r\r\n", FIELD, 0},
        {"folded", OK11 "a: b\r\n c\r\n", "the reply has a folded header line", 0},
        {"folded by a tab", OK11 "a: b\r\n\tc: d\r\n", "the reply has a folded header line", 0},
        {"space first in the header", OK11 " a: b\r\n", "the reply has a folded header line", 0},
        {"empty length", OK11 "Content-Length:\r\n", LENGTH, 0},
        {"blank length", OK11 "Content-Length: \t \r\n", LENGTH, 0},
        {"plus", OK11 "Content-Length: +5\r\n", LENGTH, 0},
        {"minus", OK11 "Content-Length: -5\r\n", LENGTH, 0},
        {"minus zero", OK11 "Content-Length: -0\r\n", LENGTH, 0},
        {"hexadecimal", OK11 "Content-Length: 0x5\r\n", LENGTH, 0},
        {"list", OK11 "Content-Length: 5, 5\r\n", LENGTH, 0},
        {"space inside", OK11 "Content-Length: 5 5\r\n", LENGTH, 0},
        {"fraction", OK11 "Content-Length: 5.0\r\n", LENGTH, 0},
        {"malformed length in 1xx", "HTTP/1.1 100 \r\nContent-Length: x\r\n", LENGTH, 0},
        {"two lengths", OK11 "Content-Length: 5\r\nContent-Length: 6\r\n",
                "the reply has two different lengths", 0},
        {"two lengths, one too large", OK11 "Content-Length: 5\r\nContent-Length: 4294967301\r\n",
                "the reply has two different lengths", 0},
        {"two lengths, 64 bits apart", OK11 "Content-Length: 5\r\nContent-Length: 18446744073709551621\r\n",
                "the reply has two different lengths", 0},
        {"2^32", OK11 "Content-Length: 4294967296\r\n\r\n", LIMIT, 0},
        {"2^64", OK11 "Content-Length: 18446744073709551616\r\n\r\n", LIMIT, 0},
        {"2^64 + 5", OK11 "Content-Length: 18446744073709551621\r\n\r\n", LIMIT, 0},
        {"forty digits", OK10 "Content-Length: 1000000000000000000000000000000000000000\r\n\r\n", LIMIT, 0},
        {"length and chunks", OK11 "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
                "the reply has both a Content-Length and a Transfer-Encoding", 0},
        {"chunks and length", OK11 "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n",
                "the reply has both a Content-Length and a Transfer-Encoding", 0},
        {"204 with both", "HTTP/1.1 204 \r\nTransfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n",
                "the reply has both a Content-Length and a Transfer-Encoding", 0},
        {"gzip", OK11 "Transfer-Encoding: gzip\r\n", CODING, 0},
        {"gzip, chunked", OK11 "Transfer-Encoding: gzip, chunked\r\n", CODING, 0},
        {"identity", OK11 "Transfer-Encoding: identity\r\n", CODING, 0},
        {"chunked, chunked", OK11 "Transfer-Encoding: chunked, chunked\r\n", CODING, 0},
        {"chunked twice", OK11 "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", CODING, 0},
        {"chunked;x", OK11 "Transfer-Encoding: chunked;x\r\n", CODING, 0},
        {"no coding", OK11 "Transfer-Encoding:\r\n", CODING, 0},
        {"xchunked", OK11 "Transfer-Encoding: xchunked\r\n", CODING, 0},
        {"empty size", CHUNKED "\r\n", SIZE, 0},
        {"size with a plus", CHUNKED "+5\r\n", SIZE, 0},
        {"size with a minus", CHUNKED "-1\r\n", SIZE, 0},
        {"size with 0x", CHUNKED "0x5\r\n", SIZE, 0},
        {"size with a space before", CHUNKED " 5\r\n", SIZE, 0},
        {"size with a space after", CHUNKED "5 \r\n", SIZE, 0},
        {"size and rubbish", CHUNKED "5 a\r\n", SIZE, 0},
        {"size of g", CHUNKED "g\r\n", SIZE, 0},
        {"size of @", CHUNKED "@\r\n", SIZE, 0},
        {"only an extension", CHUNKED ";a\r\n", SIZE, 0},
        {"NUL in an extension", CHUNKED "5;\0\r\n", SIZE, sizeof CHUNKED - 1 + 5},
        {"bare CR in an extension", CHUNKED "5;\ra\r\n", SIZE, 0},
        {"bare LF after a size", CHUNKED "5\nhello\r\n0\r\n\r\n", SIZE, 0},
        {"bare LF after the last size", CHUNKED "0\n\r\n", SIZE, 0},
        {"size of 32 bits and more", CHUNKED "100000001\r\n", LIMIT, 0},
        {"size of 64 bits and more", CHUNKED "10000000000000001\r\nx\r\n", LIMIT, 0},
        {"size near 64 bits", CHUNKED "1\r\nx\r\nffffffffffffffff\r\n", LIMIT, 0},
        {"chunk too long", CHUNKED "1\r\nxy\r\n0\r\n\r\n",
                "the reply has a chunk that is longer than its size", 0},
        {"another byte for the CR", CHUNKED "1\r\nx\n\n0\r\n\r\n",
                "the reply has a chunk that is longer than its size", 0},
        {"bare LF after a chunk", CHUNKED "1\r\nx\n0\r\n\r\n",
                "the reply has a chunk that is longer than its size", 0},
        {"CR and no LF after a chunk", CHUNKED "1\r\nx\r0\r\n\r\n",
                "the reply has a chunk that is longer than its size", 0},
        {"bad trailer", CHUNKED "0\r\na b: c\r\n", FIELD, 0},
        {"folded trailer", CHUNKED "0\r\na: b\r\n c\r\n", "the reply has a folded header line", 0},
        {"NUL in a trailer", CHUNKED "0\r\na: \0\r\n", FIELD, sizeof CHUNKED - 1 + 9},
};

static void check_bad(const struct bad *b, const char *how, size_t at, struct feed *f, long got)
{
	if (got != -1)
		fail_msg("%s, %s %zu: %ld", b->name, how, at, got);
	if (strcmp(f->r.why, b->why) != 0)
		fail_msg("%s, %s %zu: %s", b->name, how, at, f->r.why);
}

static void test_bad(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
		const struct bad *b = &bad[i];
		const unsigned char *text = (const unsigned char *)b->text;
		size_t n = b->n > 0 ? b->n : strlen(b->text);
		struct feed f;
		for (size_t piece = 1; piece <= n; piece++) {
			feed_start(&f);
			long got = feed_all(&f, text, n, piece, false);
			check_bad(b, "pieces of", piece, &f, got);
			feed_stop(&f);
			feed_start(&f);
			got = feed_put(&f, text, piece, false);
			if (got == 0)
				got = feed_put(&f, text + piece, n - piece, false);
			check_bad(b, "split at", piece, &f, got);
			feed_stop(&f);
		}
	}
}

/* Bytes that nobody has asked for spoil a connection that stays, and nothing else. */
static void test_surplus(void **state)
{
	(void)state;
	static const struct {
		const char *text;
		long got;
	} v[] = {
	        {OK11 "Content-Length: 1\r\n\r\n12", -1},
	        {"HTTP/1.1 204 \r\n\r\nx", -1},
	        {CHUNKED "1\r\n1\r\n0\r\n\r\n2", -1},
	        {OK11 "Connection: close\r\nContent-Length: 1\r\n\r\n12", 1},
	        {OK10 "Content-Length: 1\r\n\r\n12", 1},
	        {OK10 "Transfer-Encoding: chunked\r\n\r\n1\r\n1\r\n0\r\n\r\n2", 1},
	};
	for (size_t i = 0; i < sizeof v / sizeof *v; i++) {
		for (int eof = 0; eof < 2; eof++) {
			struct feed f;
			feed_start(&f);
			long got = feed_put(&f, v[i].text, strlen(v[i].text), eof);
			if (got != v[i].got)
				fail_msg("%zu: %ld", i, got);
			if (got < 0) {
				assert_string_equal(f.r.why, "the server sent more than one reply");
			} else {
				assert_slice(f.r.body, "1");
				assert_int_equal(f.n, 2);
			}
			feed_stop(&f);
		}
	}
}

static const char long_line[] = "the reply has a chunk-size line larger than can be held",
                  long_trailer[] = "the reply has a trailer larger than can be held";

/* Text that is built: at most two bodies' room. */
static unsigned char made[1 << 21];
static struct buf b;

static void make(const char *text)
{
	b = BUF(made);
	buf_put_str(&b, text);
}

static void make_fill(unsigned char c, size_t upto)
{
	while (b.n < upto)
		buf_put_byte(&b, c);
}

/* Feeds what was made; the reply must have a body of n bytes x and end at this size, or be refused so. */
static void check_made(const char *name, size_t piece, bool eof, size_t n, const char *why)
{
	struct feed f;
	feed_start(&f);
	f.fixed = piece < 1000;
	assert_false(b.full);
	long got = feed_all(&f, made, b.n, piece, eof);
	if (why) {
		if (got != -1 || strcmp(f.r.why, why) != 0)
			fail_msg("%s, %zu: %ld %s", name, piece, got, got == -1 ? f.r.why : "");
	} else {
		if (got <= 0)
			fail_msg("%s, %zu: %ld %s", name, piece, got, got == -1 ? f.r.why : "");
		if (f.r.body.n != n)
			fail_msg("%s, %zu: %zu bytes", name, piece, f.r.body.n);
		for (size_t i = 0; i < n; i++)
			if (f.r.body.p[i] != 'x')
				fail_msg("%s, %zu: byte %zu", name, piece, i);
	}
	feed_stop(&f);
}

/* A head of exactly n bytes that ends with these fields. */
static void make_head(size_t n, const char *fields)
{
	make("HTTP/1.1 200 OK\r\nPad: ");
	make_fill('p', n - strlen(fields) - 4);
	buf_put_str(&b, "\r\n");
	buf_put_str(&b, fields);
	buf_put_str(&b, "\r\n");
	assert_int_equal(b.n, n);
}

/* 64 KiB fit behind the largest header, one byte more is refused: by length, to eof, in one chunk and in
 * chunks of one byte with extensions. Pieces down to a byte fit the memory. */
static void test_body_limit(void **state)
{
	(void)state;
	static const size_t pieces[] = {1, 1000, 1460, 8192};
	for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++) {
		const size_t piece = pieces[i], head = HTTP_HEAD_BYTES;
		/* in pieces, as the memory has no room for all of it at once */
		const size_t last = piece < HTTP_FRAME_BYTES ? piece : HTTP_FRAME_BYTES;
		make_head(head, "Content-Length: 65536\r\n");
		make_fill('x', head + HTTP_BODY_BYTES);
		check_made("length", piece, false, HTTP_BODY_BYTES, NULL);
		make_head(head, "Content-Length: 65537\r\n");
		check_made("length over", piece, false, 0, LIMIT);
		make_head(head, "");
		make_fill('x', head + HTTP_BODY_BYTES);
		check_made("to eof", piece, true, HTTP_BODY_BYTES, NULL);
		buf_put_byte(&b, 'x');
		check_made("to eof over", last, false, 0, LIMIT);
		make_head(head, "Transfer-Encoding: chunked\r\n");
		buf_put_str(&b, "10000\r\n");
		make_fill('x', b.n + HTTP_BODY_BYTES);
		size_t n = b.n;
		buf_put_str(&b, "\r\n0\r\nTrailer: 1\r\n\r\n");
		check_made("chunk", last, false, HTTP_BODY_BYTES, NULL);
		b.n = n;
		buf_put_str(&b, "\r\n0;");
		make_fill('e', n + 2 + HTTP_FRAME_BYTES);
		check_made("full, then a long line", last, false, 0, long_line);
		b.n = n;
		buf_put_str(&b, "\r\n0\r\n");
		make_fill('t', b.n + HTTP_FRAME_BYTES);
		check_made("full, then a long trailer", last, false, 0, long_trailer);
		b.n = n;
		buf_put_str(&b, "\r\n1\r\n");
		check_made("chunk over", last, false, 0, LIMIT);
		make_head(head, "Transfer-Encoding: chunked\r\n");
		buf_put_str(&b, "10001\r\n");
		check_made("chunk at once over", piece, false, 0, LIMIT);
		make_head(head, "Transfer-Encoding: chunked\r\n");
		for (n = 0; n < HTTP_BODY_BYTES; n++)
			buf_put_str(&b, n % 2 ? "1\r\nx\r\n" : "0001 ;a=\"b\"\r\nx\r\n");
		n = b.n;
		buf_put_str(&b, "0\r\n\r\n");
		check_made("small chunks", last, false, HTTP_BODY_BYTES, NULL);
		b.n = n;
		buf_put_str(&b, "1\r\n");
		check_made("small chunks over", last, false, 0, LIMIT);
	}
}

/* Each head, 1xx or final, has 8192 bytes; chunk-size lines and trailers 1024. */
static void test_frame_limits(void **state)
{
	(void)state;
	static const char large[] = "the reply's header is larger than can be held";
	static const size_t pieces[] = {1, 7, 1024, 8000};
	for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++) {
		const size_t piece = pieces[i];
		make_head(8192, "Content-Length: 0\r\n");
		check_made("head", piece, false, 0, NULL);
		make_head(8193, "Content-Length: 0\r\n");
		check_made("head over", piece, false, 0, large);
		make("HTTP/1.1 200 ");
		make_fill('x', 8192);
		check_made("status line over", piece, false, 0, large);
		b.n = 8191;
		check_made("status line cut", piece, true, 0, "the reply was cut short");
		make_head(8192, "");
		memcpy(made + 9, "103", 3);
		for (size_t k = 1; k < 20; k++)
			buf_put(&b, made, 8192);
		buf_put_str(&b, OK11 "Content-Length: 1\r\n\r\nx");
		check_made("1xx heads", piece, false, 1, NULL);
		make_head(8193, "");
		memcpy(made + 9, "103", 3);
		check_made("1xx head over", piece, false, 0, large);
		for (size_t over = 0; over < 2; over++) {
			make(CHUNKED "1;");
			make_fill('e', b.n + 1024 - 4 + over);
			buf_put_str(&b, "\r\nx\r\n0\r\n\r\n");
			check_made("extension", piece, false, 1, over ? long_line : NULL);
			make(CHUNKED "1\r\nx\r\n0\r\n");
			make_fill('t', b.n + 1024 - 5 + over);
			buf_put_str(&b, ":\r\n\r\n");
			check_made("trailer", piece, false, 1, over ? long_trailer : NULL);
		}
	}
}

/* As many small 1xx replies as the memory holds, at once: one pass over the bytes. */
static void test_many_1xx(void **state)
{
	(void)state;
	make("");
	while (b.n < 60000)
		buf_put_str(&b, "HTTP/1.1 100 \n\n");
	check_made("1xx only", b.n, true, 0, "the server closed the connection without a reply");
	buf_put_str(&b, OK11 "Content-Length: 1\r\n\r\nx");
	check_made("1xx and a reply", b.n, false, 1, NULL);
}

static void test_put(void **state)
{
	(void)state;
	static const struct {
		const char *host;
		uint16_t port;
		const char *line;
	} v[] = {
	        {"localhost", 5000, "Host: localhost:5000\r\n"},
	        {"gateway.example", 80, "Host: gateway.example\r\n"},
	        {"192.0.2.1", 65535, "Host: 192.0.2.1:65535\r\n"},
	        {"::1", 80, "Host: [::1]\r\n"},
	        {"2001:db8::1", 443, "Host: [2001:db8::1]:443\r\n"},
	        {"fe80::1%eth0", 5000, "Host: [fe80::1]:5000\r\n"},
	};
	for (size_t i = 0; i < sizeof v / sizeof *v; i++) {
		char want[512];
		make("GET /api/state?a=1");
		http_put_request(&b, v[i].host, v[i].port, (struct slice){NULL, 0});
		snprintf(want, sizeof want,
		        "GET /api/state?a=1 HTTP/1.1\r\n%sUser-Agent: iamcat/%s\r\n"
		        "Accept: application/json\r\n\r\n",
		        v[i].line, IAMCAT_VERSION);
		assert_slice(buf_slice(&b), want);
		make("POST /api/jwt/create");
		http_put_request(&b, v[i].host, v[i].port, slice_str("{\"a\":[12]}"));
		snprintf(want, sizeof want,
		        "POST /api/jwt/create HTTP/1.1\r\n%sUser-Agent: iamcat/%s\r\n"
		        "Accept: application/json\r\nContent-Type: application/json\r\n"
		        "Content-Length: 10\r\n\r\n{\"a\":[12]}",
		        v[i].line, IAMCAT_VERSION);
		assert_slice(buf_slice(&b), want);
		for (size_t cap = 0; cap < strlen(want); cap++) {
			struct buf small = {guarded(cap), cap, 0, false};
			buf_put_str(&small, "POST /api/jwt/create");
			http_put_request(&small, v[i].host, v[i].port, slice_str("{\"a\":[12]}"));
			assert_true(small.full);
			guarded_free(small.p, cap);
		}
	}
}

/* Every byte: itself when it is unreserved, else %XX in capitals. */
static void test_put_encoded(void **state)
{
	(void)state;
	static const char plain[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-~";
	for (int c = 0; c < 256; c++) {
		unsigned char byte = (unsigned char)c;
		char want[4] = {(char)c};
		if (!memchr(plain, c, sizeof plain - 1))
			snprintf(want, sizeof want, "%%%02X", byte);
		make("");
		http_put_encoded(&b, (struct slice){&byte, 1});
		assert_slice(buf_slice(&b), want);
	}
	make("");
	http_put_encoded(&b, slice_str("1,2 a+b=\xc3\xa4"));
	http_put_encoded(&b, (struct slice){NULL, 0});
	assert_slice(buf_slice(&b), "1%2C2%20a%2Bb%3D%C3%A4");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_good),
	        cmocka_unit_test(test_prefixes),
	        cmocka_unit_test(test_bad),
	        cmocka_unit_test(test_surplus),
	        cmocka_unit_test(test_body_limit),
	        cmocka_unit_test(test_frame_limits),
	        cmocka_unit_test(test_many_1xx),
	        cmocka_unit_test(test_put),
	        cmocka_unit_test(test_put_encoded),
	};
	return cmocka_run_group_tests_name("http", tests, NULL, NULL);
}
