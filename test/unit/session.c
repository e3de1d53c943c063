/* The core against a driver of a few lines: what happens to a connection that breaks at an awkward moment. */
// uses: bridge.c requests.c api.c link.c tls.c cert.c mqtt.c http.c dns.c json.c queue.c buf.c
#include "unit.h"
#undef fail /* cmocka's macro: session.c has a function of that name */

#include "../../session.c"

static struct bridge b;
static struct bridge_config config = {.broker_host = "broker.test",
        .broker_port = 1,
        .api_host = "api.test",
        .api_port = 2,
        .user_name = "user",
        .password = "password",
        .has_login = true,
        .topic_prefix = "p",
        .keep_alive_s = 60,
        .token_lifetime_s = 300,
        .state_interval_s = 5,
        .api_timeout_s = 10};
static int64_t now_ms;
static unsigned char broker_in[4096], broker_out[64]; /* so little that a publish is always sent in parts */

static void step(void)
{
	size_t at = 0;
	enum bridge_level level;
	struct slice text;
	bridge_step(&b, (struct bridge_time){now_ms, INT64_C(1793491200000000) + now_ms * 1000});
	while (bridge_take_log(&b, &at, &level, &text))
		;
}

static void start(void)
{
	memset(&b, 0, sizeof b);
	now_ms = 1000;
	bridge_init(&b, &config, NULL, NULL, 1, (struct bridge_time){now_ms, 0});
	b.link[LINK_BROKER].in = (struct buf)BUF(broker_in);
	b.link[LINK_BROKER].out = (struct buf)BUF(broker_out);
	step();
}

/* The driver's part for a link that the core wants open, or closed. */
static void serve(struct link *l)
{
	if (l->open && l->state == LINK_DOWN) {
		link_opening(l);
		link_connected(l, "peer", 0, NULL);
	} else if (!l->open && l->state != LINK_DOWN) {
		link_closed(l);
	}
	step();
}

static void feed(struct link *l, const void *p, size_t n)
{
	size_t room;
	unsigned char *to = link_recv_buf(l, &room);
	assert_true(to != NULL && room >= n);
	memcpy(to, p, n);
	link_recv_ack(l, n);
	step();
}

/* Takes what the core has to send to the broker, until it has nothing more or has sent most bytes. */
static size_t drain(unsigned char *to, size_t cap, size_t most)
{
	size_t n = 0, have;
	const unsigned char *from;
	while (n < most && (from = link_send_buf(&b.link[LINK_BROKER], &have)) != NULL) {
		if (have > most - n)
			have = most - n;
		assert_true(have <= cap - n);
		memcpy(to + n, from, have);
		n += have;
		link_send_ack(&b.link[LINK_BROKER], have);
		step();
	}
	return n;
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
	answer(&b.link[LINK_CALL], "{\"serialNumber\": \"s1\"}");
	connect_broker();
	answer(&b.link[LINK_STATE],
	        "{\"a\": \"0123456789012345678901234567890123456789012345678901234567890\"}");
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
	answer(&b.link[LINK_CALL], "{\"serialNumber\": \"s1\"}");
	for (size_t i = 0; i < BRIDGE_CALLS; i++)
		b.call[i].state = API_DONE; /* with requests that are not there, nobody takes their replies */
	config.has_login = false;
	link_ended(&b.link[LINK_BROKER], LINK_LOST, "test", 0);
	b.phase = PHASE_PAUSE;
	b.phase_deadline_ms = now_ms;
	b.link[LINK_BROKER].open = false;
	link_closed(&b.link[LINK_BROKER]);
	b.state.state = API_IDLE;
	b.link[LINK_STATE].open = false;
	link_closed(&b.link[LINK_STATE]);
	b.state_due = false;
	now_ms++;
	step();
	config.has_login = true;
	assert_int_equal(b.phase, PHASE_TOKEN);
	assert_ptr_equal(b.identity, &b.state);
	answer(&b.link[LINK_STATE], "{\"jwt\": \"a.b.c\"}");
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
