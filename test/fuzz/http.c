/* http_read: in pieces equals at once. The first byte chooses the size of the pieces, its lowest bit whether
 * the connection ends after them; the rest is what a server sends. */
// uses: buf.c
// longest input: 1024
#include <sanitizer/asan_interface.h>

#include "fuzz.h"

#include "../../http.c"

static unsigned char mem[2][HTTP_REPLY_BYTES];

struct outcome {
	long got;
	struct http_reply r;
	size_t n, fed;
};

/* Reads in pieces of at most step bytes up to the first result. What has not come is poisoned: all memory is
 * when no reply is being read. */
static struct outcome read_pieces(unsigned char *p, struct slice s, size_t step, bool eof)
{
	struct outcome o = {.r.most = HTTP_BODY_BYTES};
	for (;;) {
		struct slice piece = cut(&s, step);
		CHECK(o.n + piece.n <= HTTP_REPLY_BYTES);
		ASAN_UNPOISON_MEMORY_REGION(p, o.n + piece.n);
		memcpy(p + o.n, piece.p, piece.n);
		o.n += piece.n;
		o.fed += piece.n;
		size_t before = o.n;
		o.got = http_read(&o.r, p, &o.n, eof && s.n == 0);
		CHECK(o.n <= before && o.got >= -1 && o.got <= 1);
		ASAN_POISON_MEMORY_REGION(p + o.n, before - o.n);
		CHECK(o.got != 0 || o.n < HTTP_REPLY_BYTES);
		if (o.got != 0 || s.n == 0)
			break;
	}
	return o;
}

static void check_reply(const struct outcome *a, const struct outcome *b)
{
	CHECK(a->got == b->got && (a->got <= 0 || a->n == b->n));
	if (a->got < 0)
		CHECK(a->r.why != NULL && same_why(a->r.why, b->r.why));
	if (a->got > 0) {
		CHECK(a->r.status == b->r.status && a->r.status >= 200 && a->r.status < 600);
		CHECK(a->r.keep_alive == b->r.keep_alive && slice_eq(a->r.body, b->r.body));
		CHECK(within(a->r.body, (struct slice){mem[0], a->n}));
		CHECK(a->r.body.n <= HTTP_BODY_BYTES && !(a->r.keep_alive && a->r.body.n < a->n));
	}
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc, (void)argv;
	ASAN_POISON_MEMORY_REGION(mem, sizeof mem);
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct slice s = {data, size};
	unsigned first = cut_byte(&s);
	size_t step = 1 + (first >> 1) + s.n / 64;
	if (s.n > HTTP_REPLY_BYTES)
		return 0;
	struct outcome a = read_pieces(mem[0], s, step, first & 1);
	bool at_end = a.fed == s.n && (first & 1) != 0;
	struct outcome b = read_pieces(mem[1], (struct slice){s.p, a.fed}, s.n + 1, at_end);
	check_reply(&a, &b);
	ASAN_POISON_MEMORY_REGION(mem[0], a.n);
	ASAN_POISON_MEMORY_REGION(mem[1], b.n);
	return 0;
}
