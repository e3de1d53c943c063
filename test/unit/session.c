/* The core against a driver of a few lines: what happens to a connection that breaks at an awkward moment. */
// uses: bridge.c requests.c api.c link.c tls.c cert.c mqtt.c http.c dns.c json.c queue.c buf.c
#include "unit.h"
#undef fail /* cmocka's macro: session.c has a function of that name */

#include "../../session.c"
#include "driver.h"

static void step(void)
{
	size_t at = 0;
	enum bridge_level level;
	struct slice text;
	bridge_step(&b, (struct bridge_time){now_ms, INT64_C(1793491200000000) + now_ms * 1000});
	while (bridge_take_log(&b, &at, &level, &text))
		;
}

static size_t drain(unsigned char *to, size_t cap, size_t most)
{
	return drain_link(&b.link[LINK_BROKER], to, cap, most);
}

/* One call of the API, answered with the body. */
static void answer(struct link *l, const char *body)
{
	char text[512];
	serve(l);
	snprintf(text, sizeof text, "HTTP/1.0 200 OK\r\nContent-Length: %zu\r\n\r\n%s", strlen(body), body);
	feed(l, text, strlen(text));
	serve(l);
}

static void connect_broker(void)
{
	unsigned char sent[512];
	struct link *l = &b.link[LINK_BROKER];
	serve(l);
	assert_true(drain(sent, sizeof sent, SIZE_MAX) > 0);
	assert_int_equal(sent[0] >> 4, MQTT_CONNECT);
	feed(l, "\x20\x02\x00\x00", 4);
	assert_true(drain(sent, sizeof sent, SIZE_MAX) > 0);
	assert_int_equal(sent[0] >> 4, MQTT_SUBSCRIBE);
	unsigned char suback[] = {0x90, 3, sent[2], sent[3], 1};
	feed(l, suback, sizeof suback);
	assert_int_equal(b.phase, PHASE_SERVE);
}

/* The rest of a publish that the last connection broke off must not keep the next CONNECT back. */
static void breaks_within_a_publish(void **state)
{
	unsigned char sent[512];
	struct link *l = &b.link[LINK_BROKER];
	(void)state;
	start();
	answer(b.identity->link, "{\"serialNumber\": \"s1\"}");
	connect_broker();
	answer(b.state.link, "{\"a\": \"0123456789012345678901234567890123456789012345678901234567890\"}");
	assert_int_equal(drain(sent, sizeof sent, 10), 10);
	assert_true(mqtt_outbox_midway(&b.outbox));
	link_ended(l, LINK_LOST, "test", 0);
	step();
	serve(l);
	now_ms += 1000; /* the longest first pause */
	step();
	connect_broker();
	size_t n = drain(sent, sizeof sent, SIZE_MAX);
	assert_true(
	        n > 100 && sent[0] == 0x32); /* from its beginning, not as a duplicate: the session is new */
}

/* Answers that wait for room in the outbox hold both calls; serial number and token are got all the same. */
static void breaks_with_a_full_outbox(void **state)
{
	(void)state;
	start();
	answer(b.identity->link, "{\"serialNumber\": \"s1\"}");
	for (size_t i = 0; i < BRIDGE_CALLS; i++)
		b.call[i].state = API_DONE; /* with requests that are not there, nobody takes their replies */
	config.has_login = false;
	link_ended(&b.link[LINK_BROKER], LINK_LOST, "test", 0);
	b.phase = PHASE_PAUSE;
	b.phase_deadline_ms = now_ms;
	b.link[LINK_BROKER].open = false;
	link_closed(&b.link[LINK_BROKER]);
	struct link *l = b.state.link;
	api_finish(&b, &b.state);
	link_closed(l);
	b.state_due = false;
	now_ms++;
	step();
	config.has_login = true;
	assert_int_equal(b.phase, PHASE_TOKEN);
	assert_ptr_equal(b.identity, &b.state);
	answer(b.state.link, "{\"jwt\": \"a.b.c\"}");
	assert_int_equal(b.phase, PHASE_DIAL);
	assert_int_equal(mqtt_outbox_count(&b.outbox), 0); /* the token was not taken for a state */
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(breaks_within_a_publish),
	        cmocka_unit_test(breaks_with_a_full_outbox),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
