/* What all unit tests share: cmocka, and memory that ends at a page which must not be touched, so that
 * reading one byte too far is seen at once even without sanitizers. */
#ifndef UNIT_H
#define UNIT_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#ifdef UNIT_ON_CHIP /* the emulated board has 16 MB of memory, and no files of its own */
enum { UNIT_MOST = 0x1ffff };
#else
enum { UNIT_MOST = 0xffffff };
#endif

/* n bytes, the last of them just before a page without access; free with guarded_free(p, n). */
static inline unsigned char *guarded(size_t n)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE), pages = n / page + 1;
	unsigned char *p =
	        mmap(NULL, (pages + 1) * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_true(p != MAP_FAILED);
	assert_int_equal(mprotect(p + pages * page, page, PROT_NONE), 0);
	return p + pages * page - n;
}

/* A copy of n bytes against a guard page. */
static inline unsigned char *guarded_copy(const void *from, size_t n)
{
	unsigned char *p = guarded(n);
	if (n > 0)
		memcpy(p, from, n);
	return p;
}

static inline void guarded_free(unsigned char *p, size_t n)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE), pages = n / page + 1;
	munmap(p + n - pages * page, (pages + 1) * page);
}

/* The slice and the C string hold the same bytes; a failure prints both. */
#define assert_slice(s, text)                                                                                \
	do {                                                                                                 \
		struct slice assert_s_ = (s);                                                                \
		const char *assert_t_ = (text);                                                              \
		if (assert_s_.n != strlen(assert_t_) || memcmp(assert_s_.p, assert_t_, assert_s_.n) != 0)    \
			fail_msg("got \"%.*s\", expected \"%s\"", (int)assert_s_.n,                          \
			        assert_s_.p ? (const char *)assert_s_.p : "", assert_t_);                    \
	} while (0)

#endif
