/* The core against a driver of a few lines: what happens to a connection that breaks at an awkward moment. */
// uses: bridge.c requests.c api.c link.c tls.c cert.c mqtt.c http.c dns.c json.c queue.c buf.c
#include "unit.h"
#undef fail /* cmocka's macro: session.c has a function of that name */

#include "../../session.c"
#include "driver.h"

static int64_t wake_ms;
static char said[1000]; /* the last warning, but for the API's */
static size_t warnings;

static void step(void)
{
	size_t at = 0;
	enum bridge_level level;
	struct slice text;
	wake_ms = bridge_step(&b, (struct bridge_time){now_ms, INT64_C(1793491200000000) + now_ms * 1000});
	while (bridge_take_log(&b, &at, &level, &text))
		if (level == LEVEL_WARN && memcmp(text.p, "gateway", 7) != 0) {
			snprintf(said, sizeof said, "%.*s", (int)text.n, (const char *)text.p);
			warnings++;
		}
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

/* Takes CONNECT, and answers with a CONNACK. */
static void connack(bool session_present)
{
	unsigned char sent[512];
	struct link *l = &b.link[LINK_BROKER];
	serve(l);
	assert_true(drain(sent, sizeof sent, SIZE_MAX) > 0);
	assert_int_equal(sent[0] >> 4, MQTT_CONNECT);
	feed(l, session_present ? "\x20\x02\x01\x00" : "\x20\x02\x00\x00", 4);
}

static void suback(void)
{
	unsigned char sent[512];
	assert_true(drain(sent, sizeof sent, SIZE_MAX) > 0);
	assert_int_equal(sent[0] >> 4, MQTT_SUBSCRIBE);
	unsigned char packet[] = {0x90, 3, sent[2], sent[3], 1};
	feed(&b.link[LINK_BROKER], packet, sizeof packet);
}

static void connect_broker(void)
{
	connack(false);
	suback();
	assert_int_equal(b.phase, PHASE_SERVE);
}

/* In service, with a user name. */
static void log_in(void)
{
	start(true);
	answer(b.identity->link, "{\"serialNumber\": \"s1\"}");
	connect_broker();
}

/* The rest of a publish that the last connection broke off must not keep the next CONNECT back. */
static void breaks_within_a_publish(void **state)
{
	unsigned char sent[512];
	struct link *l = &b.link[LINK_BROKER];
	(void)state;
	log_in();
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

/* Answers that wait for room in the outbox hold both calls, and a state is being fetched; serial number and
 * token are got all the same, at once. */
static void breaks_with_a_full_outbox(void **state)
{
	(void)state;
	start(true);
	answer(b.identity->link, "{\"serialNumber\": \"s1\"}");
	for (size_t i = 0; i < BRIDGE_CALLS; i++)
		b.call[i].state = API_DONE; /* with requests that are not there, nobody takes their replies */
	config.has_login = false;
	link_ended(&b.link[LINK_BROKER], LINK_LOST, "test", 0);
	b.phase = PHASE_PAUSE;
	b.phase_deadline_ms = now_ms;
	b.link[LINK_BROKER].open = false;
	link_closed(&b.link[LINK_BROKER]);
	assert_int_equal(b.state.state, API_BUSY);
	now_ms++;
	step();
	config.has_login = true;
	assert_int_equal(b.phase, PHASE_TOKEN);
	assert_ptr_equal(b.identity, &b.state);
	assert_true(b.state_due); /* as soon as its call is back */
	answer(b.state.link, "{\"jwt\": \"a.b.c\"}");
	assert_int_equal(b.phase, PHASE_DIAL);
	assert_int_equal(mqtt_outbox_count(&b.outbox), 0); /* the token was not taken for a state */
}

/* A broker that acknowledges what follows, but not this, has lost it: MQTT-4.6.0-2 has them in their order.
 */
static void each_publish_is_waited_for(void **state)
{
	unsigned char sent[1024], ack[] = {0x40, 2, 0, 0};
	(void)state;
	log_in();
	answer(b.state.link, "{}");
	drain(sent, sizeof sent, SIZE_MAX);
	int64_t since_ms = now_ms;
	while (b.phase == PHASE_SERVE && now_ms < since_ms + 60000) {
		serve(&b.link[LINK_API]);
		now_ms = b.tick_ms;
		step();
		if (b.phase != PHASE_SERVE)
			break;
		answer(b.state.link, "{}");
		drain(sent, sizeof sent, SIZE_MAX);
		ack[2] = (unsigned char)(b.outbox.last_id >> 8);
		ack[3] = (unsigned char)b.outbox.last_id;
		feed(&b.link[LINK_BROKER], ack, sizeof ack);
	}
	assert_int_equal(b.phase, PHASE_PAUSE);
	assert_int_equal(now_ms - since_ms, 10000);
	assert_int_equal(mqtt_outbox_count(&b.outbox), 1);
}

static const char request[] = "\x32\x43\x00\x10p/modbus/request\x00\x09"
                              "{\"device_id\":\"D\",\"function_code\":3,\"address\":1}";

/* A program that was stopped (SIGSTOP, a paused container) finds requests in its socket that nobody waits for
 * any more. They are not read; the broker has given the connection up long ago, and holds them as from a gap.
 */
static void was_held_up(void **state)
{
	unsigned char sent[1024];
	(void)state;
	config.session_window_s = 60;
	log_in();
	drain(sent, sizeof sent, SIZE_MAX);
	now_ms += 3600 * 1000;
	feed(&b.link[LINK_BROKER], request, sizeof request - 1);
	assert_int_equal(requests_waiting(&b), 0);
	assert_int_equal(b.phase, PHASE_PAUSE);
	assert_true(session_stale(&b));
	config.session_window_s = 0;
}

/* A SUBACK that is late is waited for, with pings; and what comes before it may be as old. */
static void waits_for_suback(void **state)
{
	unsigned char sent[1024];
	struct link *l = &b.link[LINK_BROKER];
	(void)state;
	config.session_window_s = 60;
	config.keep_alive_s = 5;
	log_in();
	for (int held_up = 0; held_up < 2; held_up++) {
		link_ended(l, LINK_LOST, "test", 0);
		step();
		serve(l);
		now_ms = b.phase == PHASE_PAUSE ? b.phase_deadline_ms : now_ms;
		step();
		connack(true);
		size_t n = drain(sent, sizeof sent, SIZE_MAX);
		assert_int_equal(b.phase, PHASE_SUBSCRIBE);
		if (held_up)
			break;
		for (int i = 0; i < 9; i++) {
			now_ms += 1000;
			step();
		}
		assert_int_equal(drain(sent + n, sizeof sent - n, SIZE_MAX), 3 * 2);
		assert_memory_equal(sent + n, "\xc0\x00\xc0\x00\xc0\x00", 3 * 2);
		feed(l, (unsigned char[]){0x90, 3, sent[2], sent[3], 1}, 5);
		step();
		assert_int_equal(b.phase, PHASE_SERVE);
	}
	now_ms += 3600 * 1000;
	feed(l, request, sizeof request - 1);
	assert_int_equal(requests_waiting(&b), 0);
	assert_int_equal(b.phase, PHASE_PAUSE);
	assert_true(session_stale(&b));
	config.session_window_s = 0;
	config.keep_alive_s = 60;
}

static bool contains(const unsigned char *p, size_t n, const char *text)
{
	return slice_find((struct slice){p, n}, text) < n;
}

/* What waits for its device while the broker is away becomes stale: it is answered, and not executed. */
static void waits_over_a_gap(void **state)
{
	unsigned char sent[4096];
	(void)state;
	config.session_window_s = 60;
	log_in();
	answer(b.state.link, "{}");
	drain(sent, sizeof sent, SIZE_MAX);
	b.call[0].request = 1000; /* it holds the device */
	b.call[0].state = b.call[1].state = API_BUSY;
	b.call[0].deadline_ms = b.call[1].deadline_ms = INT64_MAX;
	feed(&b.link[LINK_BROKER], request, sizeof request - 1);
	assert_int_equal(requests_waiting(&b), 1);
	link_ended(&b.link[LINK_BROKER], LINK_LOST, "test", 0);
	step();
	serve(&b.link[LINK_BROKER]);
	b.link[LINK_BROKER].state = LINK_OPENING; /* no address answers */
	now_ms += 60 * 1000;
	step();
	assert_int_equal(requests_waiting(&b), 1);
	now_ms += 2;
	step();
	b.call[1] = (struct api){.out = b.call[1].out};
	step();
	assert_int_equal(requests_waiting(&b), 0);
	assert_int_equal(b.stats.answers[ERROR_STALE], 1);
	config.session_window_s = 0;
}

/* A broker that says "session present" whatever it was told is not connected to over and over. */
static void keeps_a_session_that_was_discarded(void **state)
{
	unsigned char sent[1024];
	struct link *l = &b.link[LINK_BROKER];
	(void)state;
	start(true);
	answer(b.identity->link, "{\"serialNumber\": \"s1\"}");
	connack(true);
	assert_int_equal(b.phase, PHASE_STALE);
	drain(sent, sizeof sent, SIZE_MAX);
	feed(l, "\xd0\x00", 2);
	assert_int_equal(b.phase, PHASE_DISCARD);
	drain(sent, sizeof sent, SIZE_MAX);
	serve(l);
	connack(true);
	assert_int_equal(b.phase, PHASE_DISCARD);
	drain(sent, sizeof sent, SIZE_MAX);
	serve(l);
	connack(true);
	suback();
	assert_int_equal(b.phase, PHASE_SERVE);
}

/* A publish that is half sent is sent to its end, and then DISCONNECT: or the broker would publish the last
 * will. */
static void discards_within_a_publish(void **state)
{
	unsigned char sent[1024];
	(void)state;
	start(true);
	answer(b.identity->link, "{\"serialNumber\": \"s1\"}");
	answer(b.state.link, "{}");
	connack(true);
	assert_int_equal(b.phase, PHASE_STALE);
	size_t n = drain(sent, sizeof sent, 10);
	feed(&b.link[LINK_BROKER], "\xd0\x00", 2);
	assert_true(b.phase == PHASE_DISCARD && mqtt_outbox_midway(&b.outbox));
	n += drain(sent + n, sizeof sent - n, SIZE_MAX);
	assert_memory_equal(sent, "\xc0\x00\x32", 3);
	assert_int_equal(n, 2 + 2 + sent[3] + 2);
	assert_memory_equal(sent + n - 4, "\"}\xe0\x00", 4);
	assert_false(b.link[LINK_BROKER].open);
}

/* Nor does a stop whose time is over break one off. */
static void leaves_within_a_publish(void **state)
{
	unsigned char sent[1024];
	(void)state;
	log_in();
	answer(b.state.link, "{}");
	size_t n = drain(sent, sizeof sent, 10);
	bridge_stop(&b);
	now_ms += 5000 + 2000;
	step();
	assert_true(b.phase == PHASE_LEAVE && mqtt_outbox_midway(&b.outbox));
	n += drain(sent + n, sizeof sent - n, SIZE_MAX);
	assert_int_equal(n, 2 + sent[1] + 2);
	assert_memory_equal(sent + n - 4, "\"}\xe0\x00", 4);
	assert_false(b.link[LINK_BROKER].open);
}

/* Held up while it stops, it answers all the same. */
static void answers_late_when_it_stops(void **state)
{
	unsigned char sent[2048];
	(void)state;
	log_in();
	answer(b.state.link, "{}");
	drain(sent, sizeof sent, SIZE_MAX);
	feed(&b.link[LINK_BROKER], request, sizeof request - 1);
	bridge_stop(&b);
	now_ms += 8 * 1000;
	step();
	size_t n = drain(sent, sizeof sent, SIZE_MAX);
	assert_true(contains(sent, n, "\"code\": \"shutting_down\""));
	assert_int_equal(b.phase, PHASE_DRAIN);
	now_ms += 2000;
	step();
	assert_int_equal(b.phase, PHASE_LEAVE);
}

/* In service, with the call that is to bring the next token. */
static void start_renewal(void)
{
	start(false);
	answer(b.identity->link, "{\"serialNumber\": \"s1\"}");
	answer(b.identity->link, "{\"jwt\": \"a.b.c\"}");
	connect_broker();
	now_ms = b.sent_ms = b.renew_ms;
	step();
	assert_true(b.identity != NULL && b.identity->state == API_BUSY);
}

/* The next token is of no use any more: its call must not keep the core busy. */
static void stops_while_a_token_is_fetched(void **state)
{
	(void)state;
	start_renewal();
	now_ms = b.identity->deadline_ms - 1;
	bridge_stop(&b);
	step();
	now_ms++;
	step();
	step();
	assert_true(wake_ms > now_ms);
	assert_string_equal(b.token, "");
}

/* Between two connections of a service, a stop waits for the next one, and takes its leave over that. */
static void stops_between_two_connections(void **state)
{
	unsigned char sent[1024];
	struct link *l = &b.link[LINK_BROKER];
	(void)state;
	config.will = true;
	for (int refused = 0; refused < 2; refused++) {
		start_renewal();
		answer(b.identity->link, "{\"jwt\": \"d.e.f\"}");
		drain(sent, sizeof sent, SIZE_MAX);
		now_ms = b.renew_ms;
		step();
		assert_int_equal(b.phase, PHASE_RENEW);
		drain(sent, sizeof sent, SIZE_MAX);
		serve(l);
		assert_int_equal(b.phase, PHASE_DIAL);
		bridge_stop(&b);
		step();
		assert_int_equal(b.phase, PHASE_DIAL);
		if (refused) {
			now_ms += 5000;
			step();
			assert_true(b.phase >= PHASE_LEAVE);
			continue;
		}
		connack(true);
		suback();
		assert_int_equal(b.phase, PHASE_DRAIN);
		drain(sent, sizeof sent, SIZE_MAX);
		unsigned char ack[] = {0x40, 2, 0, (unsigned char)b.outbox.last_id};
		feed(l, ack, sizeof ack);
		size_t n = drain(sent, sizeof sent, SIZE_MAX);
		assert_true(contains(sent, n, "\"status\": \"offline\""));
	}
	config.will = false;
}

/* A token that can't be one is never taken for the next one. */
static void renews_after_an_unusable_token(void **state)
{
	(void)state;
	start_renewal();
	answer(b.identity->link, "{\"jwt\": \"a b\"}");
	assert_null(b.identity);
	now_ms = b.renew_ms;
	step();
	step();
	assert_int_equal(b.phase, PHASE_SERVE);
	assert_true(b.identity != NULL && b.identity->state == API_BUSY);
	answer(b.identity->link, "{\"jwt\": \"d.e.f\"}");
	assert_string_equal(b.token, "d.e.f");
}

/* A broker with a session that sends one large request after the other, and again what was not acknowledged
 * at the beginning of each connection; it acknowledges only once it is calm. */
enum { FLOOD = 60, FLOOD_BYTES = 7000 };
static struct {
	unsigned char tap[400000], publish[FLOOD_BYTES + 100];
	size_t n, sent, connects, answers;
	bool session, calm, acknowledged[FLOOD + 1];
} flood;

static void flood_feed(const unsigned char *p, size_t n)
{
	struct link *l = &b.link[LINK_BROKER];
	while (n > 0 && l->state == LINK_UP) {
		size_t room;
		unsigned char *to = link_recv_buf(l, &room);
		if (to == NULL) { /* it takes nothing more */
			link_ended(l, LINK_LOST, "test", 0);
			step();
			return;
		}
		room = room < n ? room : n;
		memcpy(to, p, room);
		p += room;
		n -= room;
		link_recv_ack(l, room);
		step();
	}
}

static void flood_request(size_t id, bool dup)
{
	struct buf p = BUF(flood.publish);
	size_t topic = strlen(b.topic_request), left = 2 + topic + 2 + FLOOD_BYTES;
	buf_put_byte(&p, dup ? 0x3a : 0x32);
	buf_put_byte(&p, (unsigned char)(left | 0x80));
	buf_put_byte(&p, (unsigned char)(left >> 7));
	buf_put_u16be(&p, (uint16_t)topic);
	buf_put_str(&p, b.topic_request);
	buf_put_u16be(&p, (uint16_t)id);
	buf_put_str(&p, "{\"id\": ");
	buf_put_u64(&p, id + 100);
	memset(p.p + p.n, ' ', FLOOD_BYTES - 11);
	p.n += FLOOD_BYTES - 11;
	buf_put_byte(&p, '}');
	flood_feed(p.p, p.n);
}

static void flood_packet(const unsigned char *p, size_t head)
{
	unsigned char ack[] = {0x40, 2, p[head], p[head + 1]}, suback[] = {0x90, 3, p[head], p[head + 1], 1};
	size_t id = (size_t)p[head] << 8 | p[head + 1], topic = id;
	switch (p[0] >> 4) {
	case MQTT_CONNECT:
		flood_feed(flood.session ? (const unsigned char *)"\x20\x02\x01"
		                         : (const unsigned char *)"\x20\x02\x00",
		        4);
		flood.session = true;
		flood.connects++;
		for (size_t i = 1; i <= flood.sent; i++)
			if (!flood.acknowledged[i])
				flood_request(i, true);
		break;
	case MQTT_SUBSCRIBE: flood_feed(suback, 5); break;
	case MQTT_PUBACK: flood.acknowledged[id] = true; break;
	case MQTT_PUBLISH:
		flood.answers += memcmp(p + head + 2, b.topic_response, topic) == 0 && !(p[0] & 8);
		memcpy(ack + 2, p + head + 2 + topic, 2);
		if (flood.calm)
			flood_feed(ack, 4);
		break;
	default: break;
	}
}

/* Reads what the core sends, until it has nothing more to say. */
static void flood_read(void)
{
	struct link *l = &b.link[LINK_BROKER];
	size_t n, at = 0;
	const unsigned char *p;
	serve(l);
	while ((p = link_send_buf(l, &n)) != NULL) {
		assert_true(n <= sizeof flood.tap - flood.n);
		memcpy(flood.tap + flood.n, p, n);
		flood.n += n;
		link_send_ack(l, n);
		step();
	}
	for (;;) {
		size_t length = 0, head = 1;
		while (head < flood.n - at && flood.tap[at + head] & 0x80 && head < 4)
			head++;
		for (size_t i = head; i > 0 && head < flood.n - at; i--)
			length = length << 7 | (flood.tap[at + i] & 0x7f);
		head++;
		if (flood.n - at < head || length > flood.n - at - head)
			break;
		flood_packet(flood.tap + at, head);
		at += head + length;
	}
	flood.n -= at;
	memmove(flood.tap, flood.tap + at, flood.n);
	if (l->state == LINK_DOWN)
		flood.n = 0;
}

/* Where answers wait for PUBACK, and PUBACK waits behind requests that find no room, all come to their end.
 */
static void comes_out_of_an_overrun(void **state)
{
	(void)state;
	memset(&flood, 0, sizeof flood);
	config.session_window_s = 60;
	start(true);
	answer(b.identity->link, "{\"serialNumber\": \"s1\"}");
	for (int i = 0; i < 5; i++)
		flood_read();
	assert_int_equal(b.phase, PHASE_SERVE);
	while (flood.sent < FLOOD) {
		flood_request(++flood.sent, false);
		flood_read();
	}
	assert_false(flood.acknowledged[FLOOD]);
	flood.calm = true;
	link_ended(&b.link[LINK_BROKER], LINK_LOST, "test", 0);
	step();
	for (int i = 0; i < 1000 && !(flood.acknowledged[FLOOD] && mqtt_outbox_count(&b.outbox) == 0); i++) {
		flood_read();
		now_ms += 50;
		step();
	}
	for (size_t i = 1; i <= FLOOD; i++)
		assert_true(flood.acknowledged[i]);
	assert_int_equal(mqtt_outbox_count(&b.outbox), 0);
	assert_in_range(flood.answers, FLOOD, 2 * FLOOD);
	config.session_window_s = 0;
}

/* A connection that fails for the same reason again and again is a line in a minute, with a count of the
 * others. */
static void a_failure_is_told_once_a_minute(void **state)
{
	char words[100];
	struct link *l = &b.link[LINK_BROKER];
	(void)state;
	start(true);
	answer(b.identity->link, "{\"serialNumber\": \"s1\"}");
	warnings = 0;
	int64_t first_ms = now_ms;
	for (unsigned n = 1; warnings < 2; n++) {
		serve(l);
		link_ended(l, LINK_LOST, "it is so", 7);
		step();
		serve(l);
		assert_int_equal(warnings, now_ms - first_ms < 60000 ? 1 : 2);
		snprintf(words, sizeof words, "; more of this kind since it was last logged: %u", n - 2);
		assert_int_equal(strstr(said, words) != NULL, warnings == 2);
		assert_non_null(strstr(said, "it is so (error 7); trying again in "));
		if (b.phase == PHASE_PAUSE) /* it may be over already */
			now_ms = b.phase_deadline_ms;
		step();
	}
}

/* Nor does a service in between, or another reason, make it a new one; what was not told is counted later. */
static void failures_in_turn_are_told_once_a_minute(void **state)
{
	static const char so[] = "it is so", otherwise[] = "it is otherwise";
	struct link *l = &b.link[LINK_BROKER];
	(void)state;
	start(true);
	answer(b.identity->link, "{\"serialNumber\": \"s1\"}");
	warnings = 0;
	for (size_t i = 0; i < 4; i++) {
		serve(l);
		if (i >= 2)
			connect_broker();
		link_ended(l, LINK_LOST, i % 2 ? otherwise : so, 7);
		step();
		assert_int_equal(warnings, i == 0 ? 1 : 2);
		serve(l);
		now_ms = b.phase == PHASE_PAUSE ? b.phase_deadline_ms : now_ms;
		step();
	}
	connect_broker();
	step();
	assert_int_equal(warnings, 2);
	now_ms += 60000;
	step();
	assert_int_equal(warnings, 4);
	assert_string_equal(said,
	        "not logged one by one: it is otherwise; more of this kind since it was last logged: 1");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(stops_while_a_token_is_fetched),
	        cmocka_unit_test(renews_after_an_unusable_token),
	        cmocka_unit_test(comes_out_of_an_overrun),
	        cmocka_unit_test(breaks_within_a_publish),
	        cmocka_unit_test(breaks_with_a_full_outbox),
	        cmocka_unit_test(was_held_up),
	        cmocka_unit_test(waits_for_suback),
	        cmocka_unit_test(waits_over_a_gap),
	        cmocka_unit_test(keeps_a_session_that_was_discarded),
	        cmocka_unit_test(discards_within_a_publish),
	        cmocka_unit_test(leaves_within_a_publish),
	        cmocka_unit_test(answers_late_when_it_stops),
	        cmocka_unit_test(stops_between_two_connections),
	        cmocka_unit_test(each_publish_is_waited_for),
	        cmocka_unit_test(a_failure_is_told_once_a_minute),
	        cmocka_unit_test(failures_in_turn_are_told_once_a_minute),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
