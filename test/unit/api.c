/* The connections to the API: opened ahead of need, handed to calls, kept, given up, replaced. */
// uses: bridge.c requests.c session.c link.c tls.c cert.c mqtt.c http.c dns.c json.c queue.c buf.c
#include "unit.h"
#undef fail /* cmocka's macro: api.c has a function of that name */

#include "../../api.c"
#include "driver.h"

static struct link *link_of(struct bridge *bridge, size_t i)
{
	return &bridge->link[LINK_API + i];
}

static const char closing[] = "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\n{}";
static const char keeping[] = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";

/* The calls and the spare connections alone: nothing else of the core is there. */
static void step(void)
{
	b.time.now_ms = now_ms;
	b.wake_ms = INT64_MAX;
	for (size_t i = 0; i < BRIDGE_CALLS; i++)
		api_step(&b, &b.call[i]);
	api_step(&b, &b.state);
	api_keep_spares(&b);
}

/* Opens and closes what the core wants, as often as it wants something. */
static void serve_all(void)
{
	for (size_t turn = 0; turn < 8; turn++)
		for (size_t i = LINK_API; i < BRIDGE_LINKS; i++)
			serve(&b.link[i]);
}

static size_t waiting(void)
{
	size_t n = 0;
	for (size_t i = 0; i < BRIDGE_API_LINKS; i++)
		n += link_of(&b, i)->open && link_of(&b, i)->state == LINK_UP && !used(link_of(&b, i));
	return n;
}

static size_t wanted(void)
{
	size_t n = 0;
	for (size_t i = 0; i < BRIDGE_API_LINKS; i++)
		n += link_of(&b, i)->open;
	return n;
}

static struct link *a_waiting_one(void)
{
	for (size_t i = 0; i < BRIDGE_API_LINKS; i++)
		if (link_of(&b, i)->state == LINK_UP && !used(link_of(&b, i)))
			return link_of(&b, i);
	return NULL;
}

static void start_with(uint32_t spares)
{
	config.api_spares = spares;
	start(true);
	serve_all();
	now_ms += 10;
	b.time.now_ms = now_ms;
}

static struct api *call(bool write)
{
	struct api *a = api_idle(&b);
	assert_non_null(a);
	api_begin(a, "GET /x");
	assert_true(api_start(&b, a, (struct slice){NULL, 0}, now_ms));
	a->once = write;
	return a;
}

static void keeps_what_was_asked_for(void **state)
{
	(void)state;
	for (uint32_t spares = 0; spares <= BRIDGE_API_LINKS; spares++) {
		start_with(spares);
		assert_int_equal(waiting(), spares);
		assert_int_equal(wanted(), spares);
	}
}

static void takes_the_oldest_and_replaces_it(void **state)
{
	(void)state;
	start_with(2);
	struct link *newest = a_waiting_one();
	newest->open = false;
	serve_all();
	assert_int_equal(waiting(), 2);
	struct link *oldest = newest == link_of(&b, 0) ? link_of(&b, 1) : link_of(&b, 0);
	struct api *a = call(false);
	assert_ptr_equal(a->link, oldest);
	assert_true(a->waited);
	serve_all();
	assert_int_equal(waiting(), 2);
	assert_int_equal(wanted(), 3);
}

static void start_state(void)
{
	api_begin(&b.state, "GET /x");
	assert_true(api_start(&b, &b.state, (struct slice){NULL, 0}, now_ms));
}

/* Without the last one, which is the state's. */
static void leaves_one_to_the_state(void **state)
{
	(void)state;
	start_with(2);
	struct api *one = call(false), *two = call(false);
	assert_true(one->waited);
	assert_false(two->waited);
	assert_int_equal(waiting(), 1);
	start_with(1);
	assert_true(call(false)->waited);
	start_with(2);
	start_state();
	assert_true(b.state.waited);
	assert_true(call(false)->waited);
}

static void never_has_more_than_four(void **state)
{
	(void)state;
	start_with(4);
	call(false);
	call(false);
	start_state();
	serve_all();
	assert_non_null(b.state.link);
	assert_int_equal(wanted(), BRIDGE_API_LINKS);
	assert_int_equal(waiting(), 1);
}

static void lets_a_call_in_first(void **state)
{
	(void)state;
	start_with(0);
	config.api_spares = 2;
	struct api *a = call(false);
	step();
	assert_int_equal(wanted(), 1);
	serve_all();
	assert_int_equal(a->link->state, LINK_UP);
	assert_int_equal(waiting(), 2);
}

static void keeps_what_the_server_keeps(void **state)
{
	(void)state;
	unsigned char sent[512];
	start_with(1);
	struct api *a = call(false);
	serve_all();
	struct link *l = a->link;
	drain_link(l, sent, sizeof sent, SIZE_MAX);
	feed(l, keeping, sizeof keeping - 1);
	assert_true(api_step(&b, a) && a->state == API_DONE);
	api_finish(&b, a);
	assert_false(l->open); /* the next one was opened already */
	serve_all();
	l = a_waiting_one();
	a = call(false);
	assert_ptr_equal(a->link, l);
	serve_all();
	drain_link(l, sent, sizeof sent, SIZE_MAX);
	assert_int_equal(wanted(), 1); /* now it is known that none is needed */
	feed(l, keeping, sizeof keeping - 1);
	assert_true(api_step(&b, a) && a->state == API_DONE);
	api_finish(&b, a);
	assert_true(l->open);
	assert_int_equal(l->state, LINK_UP);
	a = call(false); /* and again on it */
	assert_ptr_equal(a->link, l);
	assert_true(drain_link(l, sent, sizeof sent, SIZE_MAX) > 10);
	assert_memory_equal(sent, "GET /x HTTP/1.1\r\n", 17);
	feed(l, closing, sizeof closing - 1);
	assert_true(api_step(&b, a) && a->state == API_DONE);
	api_finish(&b, a);
	assert_false(l->open);
}

static void keeps_none_that_is_not_needed(void **state)
{
	unsigned char sent[512];
	(void)state;
	start_with(0);
	struct api *a = call(false);
	serve_all();
	struct link *l = a->link;
	drain_link(l, sent, sizeof sent, SIZE_MAX);
	feed(l, keeping, sizeof keeping - 1);
	assert_true(api_step(&b, a) && a->state == API_DONE);
	api_finish(&b, a);
	assert_false(l->open);
}

/* The server answered before it had read the whole request: what is left of it must not go before the next.
 */
static void keeps_none_with_a_request_half_sent(void **state)
{
	unsigned char sent[512];
	size_t n;
	(void)state;
	start_with(1);
	struct api *a = call(false);
	struct link *l = a->link;
	drain_link(l, sent, sizeof sent, 5);
	feed(l, keeping, sizeof keeping - 1);
	assert_true(api_step(&b, a) && a->state == API_DONE);
	api_finish(&b, a);
	assert_false(l->open);
	assert_null(link_send_buf(l, &n)); /* its rest is not sent while the link is closed, either */
	assert_int_equal(n, 0);
}

/* A call that never got a connection, as all are still being closed, has nothing that could be wiped. */
static void wipes_nothing_without_a_connection(void **state)
{
	(void)state;
	start_with(0);
	for (size_t i = 0; i < BRIDGE_API_LINKS; i++)
		link_of(&b, i)->state = LINK_UP; /* and not open */
	struct api *a = call(false);
	assert_null(a->link);
	now_ms = a->deadline_ms;
	step();
	assert_int_equal(a->state, API_FAILED);
	api_wipe(a);
	api_finish(&b, a);
	assert_int_equal(a->state, API_IDLE);
}

static void replaces_with_back_off(void **state)
{
	(void)state;
	start_with(1);
	int64_t wait_ms = 1000;
	for (size_t i = 0; i < 8; i++) {
		struct link *l = a_waiting_one();
		assert_non_null(l);
		link_ended(l, LINK_EOF, "test", 0);
		step();
		serve_all();
		assert_int_equal(wanted(), 0);
		now_ms += wait_ms - 1;
		serve_all();
		assert_int_equal(wanted(), 0);
		assert_int_equal(b.wake_ms, now_ms + 1);
		now_ms++;
		serve_all();
		assert_int_equal(waiting(), 1);
		wait_ms = wait_ms * 2 < 60000 ? wait_ms * 2 : 60000;
	}
	struct api *a = call(false); /* it is of use: from the beginning */
	assert_true(a->waited);
	feed(a->link, closing, sizeof closing - 1);
	api_step(&b, a);
	api_finish(&b, a);
	serve_all();
	link_ended(a_waiting_one(), LINK_LOST, "test", 0);
	step();
	serve_all();
	now_ms += 1000;
	serve_all();
	assert_int_equal(waiting(), 1);
}

/* The API was down, and is back: a call that finds out lets the spare connections come back, too. */
static void comes_back_with_the_server(void **state)
{
	(void)state;
	start_with(1);
	link_ended(a_waiting_one(), LINK_LOST, "test", 104);
	for (size_t i = 0; i < 5; i++) {
		step();
		for (size_t k = LINK_API; k < BRIDGE_LINKS; k++)
			if (!b.link[k].open && b.link[k].state != LINK_DOWN)
				link_closed(&b.link[k]);
		now_ms = b.spare_at_ms;
		step();
		for (size_t k = LINK_API; k < BRIDGE_LINKS; k++)
			if (b.link[k].open) {
				link_opening(&b.link[k]);
				link_ended(&b.link[k], LINK_REFUSED, "test", 111);
			}
	}
	step();
	serve_all();
	now_ms++;
	step();
	assert_true(b.spare_failures >= 5);
	assert_true(b.spare_refused);
	struct api *a = call(false);
	assert_false(a->waited);
	serve_all();
	feed(a->link, closing, sizeof closing - 1);
	api_step(&b, a);
	api_finish(&b, a);
	assert_int_equal(b.spare_failures, 0);
}

static void drops_one_that_speaks_unasked(void **state)
{
	(void)state;
	start_with(1);
	struct link *l = a_waiting_one();
	feed(l, "H", 1);
	assert_false(l->open);
	size_t room;
	assert_null(link_recv_buf(l, &room)); /* the rest is not read */
}

static void gives_up_one_that_does_not_come_up(void **state)
{
	(void)state;
	start_with(0);
	config.api_spares = 1;
	step();
	struct link *l = NULL;
	for (size_t i = 0; i < BRIDGE_API_LINKS; i++)
		l = link_of(&b, i)->open ? link_of(&b, i) : l;
	assert_non_null(l);
	link_opening(l);
	int64_t opened = now_ms;
	step();
	assert_int_equal(b.wake_ms, opened + 5000);
	now_ms = opened + 4999;
	step();
	assert_true(l->open);
	now_ms++;
	step();
	assert_false(l->open);
}

/* A call whose connection ends with so much of a reply. Returns the call. */
static struct api *broken_off(uint32_t spares, bool write, const char *reply)
{
	start_with(spares);
	struct api *a = call(write);
	struct link *l = a->link;
	serve_all();
	if (reply[0] != 0)
		feed(l, reply, strlen(reply));
	link_ended(l, LINK_LOST, "test", 104);
	api_step(&b, a);
	return a;
}

static void makes_a_read_once_more(void **state)
{
	(void)state;
	struct api *a = broken_off(3, false, "");
	assert_int_equal(a->state, API_BUSY);
	serve_all();
	api_step(&b, a);
	serve_all();
	assert_non_null(a->link);
	assert_int_equal(a->link->state, LINK_UP);
	unsigned char sent[512];
	size_t n = drain_link(a->link, sent, sizeof sent, SIZE_MAX);
	assert_int_equal(n, a->out.n);
	assert_memory_equal(sent, "GET /x HTTP/1.1\r\n", 17);
	link_ended(a->link, LINK_LOST, "test", 104); /* but not twice */
	assert_true(api_step(&b, a) && a->state == API_FAILED);
	assert_int_equal(a->error, ERROR_API_INVALID_REPLY);
	assert_int_equal(a->code, 104);
}

/* The others that had waited are not trusted either. */
static void drops_the_others_with_it(void **state)
{
	(void)state;
	broken_off(3, false, "");
	assert_int_equal(waiting(), 0);
}

static void makes_nothing_else_twice(void **state)
{
	(void)state;
	assert_int_equal(broken_off(2, true, "")->state, API_FAILED);
	assert_int_equal(broken_off(2, false, "H")->state, API_FAILED);
	assert_int_equal(broken_off(0, false, "")->state, API_FAILED);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(keeps_what_was_asked_for),
	        cmocka_unit_test(takes_the_oldest_and_replaces_it),
	        cmocka_unit_test(leaves_one_to_the_state),
	        cmocka_unit_test(never_has_more_than_four),
	        cmocka_unit_test(lets_a_call_in_first),
	        cmocka_unit_test(keeps_what_the_server_keeps),
	        cmocka_unit_test(keeps_none_that_is_not_needed),
	        cmocka_unit_test(keeps_none_with_a_request_half_sent),
	        cmocka_unit_test(wipes_nothing_without_a_connection),
	        cmocka_unit_test(replaces_with_back_off),
	        cmocka_unit_test(comes_back_with_the_server),
	        cmocka_unit_test(drops_one_that_speaks_unasked),
	        cmocka_unit_test(gives_up_one_that_does_not_come_up),
	        cmocka_unit_test(makes_a_read_once_more),
	        cmocka_unit_test(drops_the_others_with_it),
	        cmocka_unit_test(makes_nothing_else_twice),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
