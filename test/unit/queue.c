/* The queue against a naive model, and its corners. */
// uses: buf.c
#include "unit.h"

#include "../../queue.c"

static uint32_t state;

/* Marsaglia's xorshift32, so that each run is the same. */
static uint32_t rnd(uint32_t below)
{
	state ^= state << 13;
	state ^= state >> 17;
	state ^= state << 5;
	return state % below;
}

static void empty(void **s)
{
	(void)s;
	static _Alignas(8) unsigned char mem[64];
	/* cap, room, whether a record of no bytes fits */
	static const struct {
		size_t cap, room;
		bool any;
	} t[] = {{0, 0, false}, {7, 0, false}, {8, 0, true}, {15, 0, true}, {16, 8, true}, {23, 8, true},
	        {24, 16, true}, {63, 48, true}, {64, 56, true}};
	for (size_t i = 0; i < sizeof t / sizeof t[0]; i++) {
		struct queue q;
		queue_init(&q, mem, t[i].cap);
		assert_null(queue_first(&q));
		assert_int_equal(queue_room(&q), t[i].room);
		assert_null(queue_add(&q, t[i].room + 1));
		assert_null(queue_add(&q, SIZE_MAX));
		assert_null(queue_add(&q, SIZE_MAX - 7));
		assert_null(queue_first(&q));
		void *vacant = t[i].any ? queue_vacant(&q) : NULL;
		assert_ptr_equal(queue_add(&q, t[i].room), vacant);
		assert_ptr_equal(queue_first(&q), vacant);
		assert_int_equal(queue_count(&q), t[i].any);
	}
}

static void exact_fill_and_middle(void **s)
{
	(void)s;
	/* Three records of 1, 8 and 9 bytes take 16, 16 and 24 bytes: all there is, up to the guard page. */
	unsigned char *mem = guarded(56);
	struct queue q;
	queue_init(&q, mem, 56);
	memset(queue_add(&q, 1), 'a', 1);
	memset(queue_add(&q, 8), 'b', 8);
	assert_int_equal(queue_room(&q), 16);
	unsigned char *vacant = queue_vacant(&q);
	memset(vacant, 'c', 16);
	assert_null(queue_add(&q, 17));
	unsigned char *third = queue_add(&q, 9);
	assert_ptr_equal(third, vacant);
	assert_memory_equal(third, "ccccccccc", 9); /* what was written before is there */
	assert_int_equal(queue_room(&q), 0);
	assert_null(queue_add(&q, 0));

	unsigned char *first = queue_first(&q), *second = queue_next(&q, first);
	assert_ptr_equal(queue_remove(&q, second), second);
	assert_int_equal(queue_size(first), 1);
	assert_int_equal(first[0], 'a');
	assert_int_equal(queue_size(second), 9);
	assert_memory_equal(second, "ccccccccc", 9);
	assert_null(queue_next(&q, second));
	assert_int_equal(queue_room(&q), 8);
	assert_null(queue_remove(&q, second));
	assert_null(queue_remove(&q, first));
	assert_null(queue_first(&q));
	assert_int_equal(queue_room(&q), 48);
	guarded_free(mem, 56);
}

enum { MANY = 64, MEM = 1024 };

static struct model {
	size_t n;
	unsigned char seed;
} model[MANY];
static size_t models, taken;

/* The queue holds what the model says. */
static void compare(const struct queue *q, const unsigned char *mem)
{
	size_t i = 0;
	for (unsigned char *p = queue_first(q); p != NULL; p = queue_next(q, p), i++) {
		assert_in_range(i, 0, models - 1);
		assert_int_equal((uintptr_t)p % 8, 0);
		assert_true(p > mem && p + model[i].n <= mem + MEM);
		assert_int_equal(queue_size(p), model[i].n);
		for (size_t j = 0; j < model[i].n; j++)
			assert_int_equal(p[j], (unsigned char)(model[i].seed + j));
	}
	assert_int_equal(i, models);
	assert_int_equal(queue_count(q), models);
	assert_int_equal(queue_room(q), MEM - taken < 8 ? 0 : MEM - taken - 8);
}

static void like_the_model(void **s)
{
	(void)s;
	unsigned char *mem = guarded(MEM);
	struct queue q;
	unsigned refused = 0, removed = 0, exact = 0;
	queue_init(&q, mem, MEM);
	state = 1;
	for (unsigned turn = 0; turn < 30000; turn++) {
		if (rnd(100) < 45 && models > 0) {
			size_t at = rnd((uint32_t)models);
			unsigned char *p = queue_first(&q);
			for (size_t i = 0; i < at; i++)
				p = queue_next(&q, p);
			assert_ptr_equal(queue_remove(&q, p), at == models - 1 ? NULL : p);
			taken -= 8 + (model[at].n + 7) / 8 * 8;
			models--;
			memmove(model + at, model + at + 1, (models - at) * sizeof model[0]);
			removed++;
		} else if (models < MANY) {
			size_t n = rnd(20) == 0 ? queue_room(&q) : rnd(rnd(4) == 0 ? 200 : 24);
			bool fits = taken + 8 + (n + 7) / 8 * 8 <= MEM;
			exact += fits && n == queue_room(&q);
			unsigned char *p = queue_add(&q, n);
			assert_int_equal(p != NULL, fits);
			refused += !fits;
			if (fits) {
				model[models] = (struct model){n, (unsigned char)rnd(256)};
				for (size_t i = 0; i < n; i++)
					p[i] = (unsigned char)(model[models].seed + i);
				models++;
				taken += 8 + (n + 7) / 8 * 8;
			}
		}
		compare(&q, mem);
	}
	/* The walk went where it was meant to go. */
	assert_true(refused > 100 && removed > 1000 && exact > 100);
	guarded_free(mem, MEM);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(empty),
	        cmocka_unit_test(exact_fill_and_middle),
	        cmocka_unit_test(like_the_model),
	};
	return cmocka_run_group_tests_name("queue", tests, NULL, NULL);
}
