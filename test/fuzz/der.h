/* A mutator that knows DER: it changes one element somewhere in one certificate and makes the lengths around
 * it right again, so that a mutation reaches what lies behind them. For inputs that are a head of three bytes
 * and certificates with two bytes of length each. */
#ifndef DER_H
#define DER_H

#include "fuzz.h"

size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed);

static uint32_t der_random;

static unsigned der_below(size_t n)
{
	der_random = der_random * 1664525 + 1013904223;
	return (unsigned)((der_random >> 8) % (n > 0 ? n : 1));
}

/* The header of the element at the start of s: its size, with the length of the content; 0 for none. */
static size_t der_header(struct slice s, size_t *content)
{
	if (s.n < 2)
		return 0;
	size_t digits = s.p[1] > 0x80 && s.p[1] < 0x84 ? s.p[1] - 0x80U : 0, n = digits > 0 ? 0 : s.p[1];
	if (s.n < 2 + digits)
		return 0;
	for (size_t i = 0; i < digits; i++)
		n = n << 8 | s.p[2 + i];
	*content = n;
	return n <= s.n - 2 - digits ? 2 + digits : 0;
}

static void der_put(struct buf *b, unsigned char tag, struct slice content)
{
	buf_put_byte(b, tag);
	if (content.n >= 0x80) {
		buf_put_byte(b, content.n > 255 ? 0x82 : 0x81);
		if (content.n > 255)
			buf_put_byte(b, (unsigned char)(content.n >> 8));
	}
	buf_put_byte(b, (unsigned char)content.n);
	buf_put_slice(b, content);
}

/* Writes s, a sequence of elements, with one of them, or of those below it, changed. */
static void der_mutate(struct buf *b, struct slice s, unsigned depth)
{
	static unsigned char mem[16][1 << 16];
	struct buf inner = BUF(mem[depth]);
	size_t count = 0, n, head;
	for (struct slice t = s; (head = der_header(t, &n)) > 0; count++)
		cut(&t, head + n);
	for (unsigned i = der_below(count); i > 0 && (head = der_header(s, &n)) > 0; i--)
		buf_put_slice(b, cut(&s, head + n));
	struct slice rest = s, one = {s.p, 0}, below;
	if ((head = der_header(s, &n)) > 0)
		one = cut(&rest, head + n);
	below = (struct slice){one.p + head, one.n - head};
	bool holds_more = head > 0 && (one.p[0] & 0x20 || (one.p[0] == 4 && der_header(below, &n) > 0));
	unsigned what = der_below(16);
	if (head > 0 && depth < 15 && holds_more && what > 3) {
		der_mutate(&inner, below, depth + 1);
		der_put(b, one.p[0], buf_slice(&inner));
	} else if (what == 0) { /* once more */
		buf_put_slice(b, one);
		buf_put_slice(b, one);
	} else if (what != 1) { /* otherwise: left out */
		buf_put_slice(&inner, below);
		if (what > 2 && !inner.full)
			inner.n = LLVMFuzzerMutate(inner.p, inner.n, inner.n + 40);
		unsigned char tag = one.n > 0 ? one.p[0] : 4;
		der_put(b, what == 2 ? (unsigned char)(tag ^ 1 << der_below(8)) : tag, buf_slice(&inner));
	}
	buf_put_slice(b, rest);
}

/* Changes one certificate of the chain, or puts two in another order, or one twice. */
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed)
{
	static unsigned char mem[2][1 << 17];
	struct buf out = BUF(mem[0]), der = BUF(mem[1]);
	struct slice in = {data, size}, cert[8];
	size_t certs = 0;
	der_random = seed;
	if (size < 6 || der_below(4) == 0)
		return LLVMFuzzerMutate(data, size, max_size);
	buf_put_slice(&out, cut(&in, 3));
	while (in.n >= 2 && certs < 8) {
		size_t length = cut_byte(&in) << 8;
		cert[certs++] = cut(&in, length | cut_byte(&in));
	}
	unsigned i = der_below(certs), j = der_below(certs + 1), what = der_below(16);
	if (what == 0 && j < certs) {
		struct slice swapped = cert[i];
		cert[i] = cert[j];
		cert[j] = swapped;
	} else if (what == 1 && certs < 8) {
		cert[certs++] = cert[i];
	} else if (what != 2) {
		der_mutate(&der, cert[i], 0);
		cert[i] = der.full ? cert[i] : buf_slice(&der);
	}
	for (size_t c = 0; c < certs; c++) {
		if (what == 2 && c == i)
			continue;
		buf_put_u16be(&out, (uint16_t)cert[c].n);
		buf_put_slice(&out, cert[c]);
	}
	if (out.full || out.n > max_size)
		return LLVMFuzzerMutate(data, size, max_size);
	memcpy(data, out.p, out.n);
	return out.n;
}

#endif
