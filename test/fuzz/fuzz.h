/* What all fuzz targets share. A target includes the .c file under test, puts its input into memory of
 * exactly its size, so that AddressSanitizer sees one byte too far, and checks properties. */
#ifndef FUZZ_H
#define FUZZ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "buf.h"

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Ends the run when a property does not hold; libFuzzer then keeps the input. */
#define CHECK(property)                                                                                      \
	do {                                                                                                 \
		if (!(property)) {                                                                           \
			fprintf(stderr, "%s:%d: does not hold: %s\n", __FILE__, __LINE__, #property);        \
			abort();                                                                             \
		}                                                                                            \
	} while (0)

/* A copy of n bytes in memory of exactly that size; free it. */
static inline unsigned char *exactly(const void *p, size_t n)
{
	unsigned char *copy = malloc(n);
	CHECK(copy != NULL);
	if (n > 0)
		memcpy(copy, p, n);
	return copy;
}

static inline bool within(struct slice s, struct slice whole)
{
	return s.n == 0 || (s.p >= whole.p && s.n <= whole.n && (size_t)(s.p - whole.p) <= whole.n - s.n);
}

/* Takes up to n bytes off in. */
static inline struct slice cut(struct slice *in, size_t n)
{
	struct slice s = {in->p, n < in->n ? n : in->n};
	*in = (struct slice){in->p + s.n, in->n - s.n};
	return s;
}

static inline unsigned cut_byte(struct slice *in)
{
	struct slice s = cut(in, 1);
	return s.n > 0 ? s.p[0] : 0;
}

/* Is it UTF-8 (RFC 3629)? By the numbers, unlike the code under test. */
static inline bool is_utf8(struct slice s)
{
	while (s.n > 0) {
		uint32_t c = s.p[0], more = c < 0x80 ? 0 : c < 0xe0 ? 1 : c < 0xf0 ? 2 : 3;
		if ((c >= 0x80 && c < 0xc0) || c > 0xf7 || more >= s.n)
			return false;
		c &= more > 0 ? 0x3fU >> more : 0x7f;
		for (uint32_t i = 1; i <= more; i++) {
			if (s.p[i] >> 6 != 2)
				return false;
			c = c << 6 | (s.p[i] & 0x3f);
		}
		if (c > 0x10ffff || (c >= 0xd800 && c < 0xe000) ||
		        (more > 0 && c < (more == 1          ? 0x80U
		                                 : more == 2 ? 0x800U
		                                             : 0x10000U)))
			return false;
		cut(&s, 1 + more);
	}
	return true;
}

/* The same sentence, or both none. */
static inline bool same_why(const char *a, const char *b)
{
	return a == b || (a != NULL && b != NULL && strcmp(a, b) == 0);
}

#endif
