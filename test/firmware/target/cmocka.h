/* The part of cmocka that iamcat's unit tests use, for a target without it: a failed assertion ends its test,
 * and the output is that of cmocka's TAP. Include it after the headers that cmocka wants, as those tests do.
 */
#ifndef CMOCKA_H
#define CMOCKA_H

#include <stdbool.h>

struct CMUnitTest {
	const char *name;
	void (*test)(void **);
	int (*teardown)(void **);
};

static jmp_buf cmocka_failed;

#define cmocka_unit_test(f)                                                                                  \
	{                                                                                                    \
#f, f, NULL                                                                                  \
	}
#define cmocka_unit_test_teardown(f, t)                                                                      \
	{                                                                                                    \
#f, f, t                                                                                     \
	}
#define print_error(...) printf(__VA_ARGS__)
#define fail_msg(...)                                                                                        \
	do {                                                                                                 \
		printf("# %s:%d: ", __FILE__, __LINE__);                                                     \
		printf(__VA_ARGS__);                                                                         \
		printf("\n");                                                                                \
		longjmp(cmocka_failed, 1);                                                                   \
	} while (0)

static inline void cmocka_check(bool ok, const char *what, const char *file, int line)
{
	if (ok)
		return;
	printf("# %s:%d: %s\n", file, line, what);
	longjmp(cmocka_failed, 1);
}
static inline void cmocka_compare(
        bool equal, uintmax_t a, uintmax_t b, const char *what, const char *file, int line)
{
	if ((a == b) == equal)
		return;
	printf("# %s:%d: %s: %llu and %llu\n", file, line, what, (unsigned long long)a,
	        (unsigned long long)b);
	longjmp(cmocka_failed, 1);
}

#define assert_true(x)         cmocka_check((uintmax_t)(x) != 0, #x " must hold", __FILE__, __LINE__)
#define assert_false(x)        cmocka_check((uintmax_t)(x) == 0, #x " must not hold", __FILE__, __LINE__)
#define assert_non_null(p)     cmocka_check((p) != NULL, #p " is NULL", __FILE__, __LINE__)
#define assert_null(p)         cmocka_check((p) == NULL, #p " is not NULL", __FILE__, __LINE__)
#define assert_ptr_equal(a, b) cmocka_check((a) == (b), #a " is not " #b, __FILE__, __LINE__)
#define assert_int_equal(a, b)                                                                               \
	cmocka_compare(true, (uintmax_t)(a), (uintmax_t)(b), #a " is not " #b, __FILE__, __LINE__)
#define assert_int_not_equal(a, b)                                                                           \
	cmocka_compare(false, (uintmax_t)(a), (uintmax_t)(b), #a " is " #b, __FILE__, __LINE__)
#define assert_in_range(v, low, high)                                                                        \
	cmocka_check((uintmax_t)(v) - (uintmax_t)(low) <= (uintmax_t)(high) - (uintmax_t)(low),              \
	        #v " is out of range", __FILE__, __LINE__)
#define assert_memory_equal(a, b, n)                                                                         \
	cmocka_check(memcmp((a), (b), (n)) == 0, #a " is not " #b, __FILE__, __LINE__)
#define assert_memory_not_equal(a, b, n)                                                                     \
	cmocka_check(memcmp((a), (b), (n)) != 0, #a " is " #b, __FILE__, __LINE__)
#define assert_string_equal(a, b)     cmocka_check(strcmp((a), (b)) == 0, #a " is not " #b, __FILE__, __LINE__)
#define assert_string_not_equal(a, b) cmocka_check(strcmp((a), (b)) != 0, #a " is " #b, __FILE__, __LINE__)

static inline int cmocka_run(
        const struct CMUnitTest *tests, size_t n, int (*set_up)(void **), int (*tear_down)(void **))
{
	static size_t i; /* outlives longjmp */
	static int failed;
	void *group = NULL;
	printf("1..%u\n", (unsigned)n);
	if (setjmp(cmocka_failed) != 0 || (set_up != NULL && set_up(&group) != 0))
		return 1;
	for (i = 0; i < n; i++) {
		void *state = NULL;
		bool ok = false;
		if (setjmp(cmocka_failed) == 0) {
			tests[i].test(&state);
			if (tests[i].teardown == NULL || tests[i].teardown(&state) == 0)
				ok = true;
		}
		printf("%sok %u - %s\n", ok ? "" : "not ", (unsigned)i + 1, tests[i].name);
		failed += !ok;
	}
	if (setjmp(cmocka_failed) != 0 || (tear_down != NULL && tear_down(&group) != 0))
		return 1;
	return failed;
}
#define cmocka_run_group_tests(tests, up, down)                                                              \
	cmocka_run((tests), sizeof(tests) / sizeof(tests)[0], up, down)
#define cmocka_run_group_tests_name(name, tests, up, down) cmocka_run_group_tests(tests, up, down)

#endif
