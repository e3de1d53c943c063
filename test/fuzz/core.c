/* The core as a whole, with bytes and time as input. The first bytes choose its configuration; the rest is a
 * stream of commands: time passes, the wall clock jumps, a link is held up, refused, ended, or brings bytes:
 * of any kind, or well-formed ones, so that a short input gets far. After each command the driver's part is
 * done as net.c does it. In the end everybody behaves: some inputs then have to come into service and to have
 * every request answered. All have to come to a stop, some with peers that say nothing more. */
// uses: bridge.c session.c requests.c api.c link.c tls.c cert.c mqtt.c http.c dns.c json.c queue.c buf.c
// longest input: 40
// when runs count: -use_counters=0 -entropic=0 -max_len=24
#include "core.h"
#include "peers.h"

enum {
	HOLD_OPEN = 1,   /* the wish to open it is not met */
	HOLD_UP = 2,     /* the attempt goes on */
	HOLD_CLOSE = 4,  /* the wish to close it is not met */
	HOLD_OUTPUT = 8, /* nothing is sent but by COMMAND_SEND */
	REFUSE = 16,
	TURNS_MAX = 8000, /* of the loop without time passing */
	STOP_MS = 12000,  /* an orderly stop takes no longer */
	CALM_MS = 300000, /* and it takes no longer to come into service */
	CALM_TURNS = 4000,
	SMALL_QUEUE_BYTES = 2048, /* so that a few requests fill them */
	SMALL_OUTBOX_BYTES = BRIDGE_RESERVE_BYTES + 6 * 1024,
	LOG_LINE_BYTES = 1500
};

enum command {
	COMMAND_WAIT,
	COMMAND_DUE, /* until the core wants to be called */
	COMMAND_WALL,
	COMMAND_HOW,
	COMMAND_END,
	COMMAND_BYTES,
	COMMAND_REPLY,
	COMMAND_REPLY_BYTES,
	COMMAND_SEND,
	COMMAND_CONNACK,
	COMMAND_SUBACK,
	COMMAND_REQUEST,
	COMMAND_PUBACK,
	COMMAND_BROKER, /* PINGRESP, PUBREL, redeliveries */
	COMMAND_STOP,
	COMMAND_BEHAVE
};

static struct bridge_config config = {.broker_host = "broker.test",
        .broker_port = 8883,
        .api_host = "api.test",
        .api_port = 80,
        .user_name = "user",
        .password = "password"};
static struct bridge_time t;
static int64_t wall_offset_us, wake;
static size_t piece;                      /* the most bytes that arrive at a time */
static uint32_t connection[BRIDGE_LINKS]; /* counts those of each link */
static unsigned char how[BRIDGE_LINKS], broker_in[16384], broker_out[16384], text[1 << 17];

static bool talks; /* FUZZ_TRACE is set: to see what an input does */

/* --- the core is stepped, and shows nothing wrong --- */

static void check_log(void)
{
	size_t at = 0;
	enum bridge_level level;
	struct slice line;
	CHECK(!b.log.full);
	while (bridge_take_log(&b, &at, &level, &line)) {
		if (talks)
			fprintf(stderr, "%9.3f log: %.*s\n", (double)t.now_ms / 1000, (int)line.n, line.p);
		CHECK(level <= LEVEL_DEBUG && line.n > 0 && line.n <= LOG_LINE_BYTES);
		for (size_t i = 0; i < line.n; i++)
			CHECK(line.p[i] >= ' ' && line.p[i] <= '~');
	}
}

static void step(void)
{
	bool was_open[BRIDGE_LINKS];
	for (size_t i = 0; i < BRIDGE_LINKS; i++)
		was_open[i] = b.link[i].open;
	t.wall_us = wall_offset_us + t.now_ms * 1000;
	wake = bridge_step(&b, t);
	for (size_t i = 0; i < BRIDGE_LINKS; i++) {
		CHECK(was_open[i] || !b.link[i].open || b.link[i].state == LINK_DOWN);
		CHECK(b.link[i].in.n <= b.link[i].in.cap && b.link[i].out.n <= b.link[i].out.cap);
		CHECK(!b.link[i].out.full && b.link[i].out_at <= b.link[i].out.n);
	}
	check_log();
	CHECK(b.requests.used <= b.requests.cap && b.outbox.queue.used <= b.outbox.queue.cap);
	CHECK(!b.control.full && b.control_at <= b.control.n && b.packet_n <= sizeof b.packet);
	CHECK(requests_running(&b) <= BRIDGE_CALLS && requests_running(&b) <= requests_waiting(&b));
	CHECK(bridge_done(&b) || wake - t.now_ms <= 3600 * 1000);
	if (b.phase == PHASE_STALE)
		for (size_t i = 0; i < broker.held_n; i++)
			request[broker.held[i].number].stale = true;
}

/* --- the driver's part --- */

static void opened(size_t i)
{
	connection[i]++;
	api[i].asked = CALL_NONE;
	api[i].tap_n = 0;
	if (i != LINK_BROKER)
		return;
	broker.connection++;
	broker.connect = broker.disconnect = broker.connack = broker.rude = broker.ping = false;
	broker.subscribe_id = 0;
	broker.ids = 0;
	broker.tap_n = 0;
}

/* The network takes up to n bytes of what waits to be sent. */
static bool send_bytes(size_t i, size_t n)
{
	size_t have;
	const unsigned char *p = link_send_buf(&b.link[i], &have);
	if (p == NULL || n == 0)
		return false;
	n = n < have ? n : have;
	if (i == LINK_BROKER)
		broker_bytes(p, n);
	else
		api_bytes(i, p, n);
	link_send_ack(&b.link[i], n);
	return true;
}

/* One thing of the driver's part. Returns whether there was one. */
static bool serve(size_t i)
{
	struct link *l = &b.link[i];
	if (!l->open) {
		if (l->state == LINK_DOWN || how[i] & HOLD_CLOSE)
			return false;
		link_closed(l);
		return true;
	}
	switch (l->state) {
	case LINK_DOWN:
		if (how[i] & HOLD_OPEN)
			return false;
		link_opening(l);
		return true;
	case LINK_OPENING:
		if (how[i] & REFUSE) {
			link_ended(l, LINK_REFUSED, "the connection was refused", 111);
			return true;
		}
		if (how[i] & HOLD_UP)
			return false;
		link_connected(l, "192.0.2.1", t.wall_us / 1000000, NULL);
		opened(i);
		return true;
	case LINK_UP: return !(how[i] & HOLD_OUTPUT) && send_bytes(i, SIZE_MAX);
	default: return false;
	}
}

/* Until there is no news: then the core must want to be called later, not now. */
static void settle(void)
{
	bool moved = true;
	for (unsigned turn = 0; moved && !bridge_done(&b); turn++) {
		CHECK(turn < TURNS_MAX);
		step();
		moved = false;
		for (size_t i = 0; i < BRIDGE_LINKS; i++)
			while (serve(i))
				moved = true;
	}
	if (wake <= t.now_ms && !bridge_done(&b))
		step();
	CHECK(wake > t.now_ms || bridge_done(&b));
}

static void pass(int64_t ms)
{
	t.now_ms += ms;
	settle();
}

/* Until the core wants to be called. */
static void pass_due(void)
{
	pass(wake == INT64_MAX ? 1000 : wake - t.now_ms);
}

static void end(size_t i, enum link_end what)
{
	struct link *l = &b.link[i];
	if (l->state != LINK_UP && l->state != LINK_OPENING)
		return;
	link_ended(l, what, what == LINK_EOF ? "the server closed it" : "reset", what == LINK_EOF ? 0 : 104);
	settle();
}

/* The bytes arrive, in pieces. A connection on which the core takes nothing more ends. */
static void arrive(size_t i, struct slice s)
{
	size_t most = piece > s.n / 8 ? piece : s.n / 8 + 1, room;
	struct link *l = &b.link[i];
	uint32_t number = connection[i];
	while (s.n > 0 && l->state == LINK_UP && connection[i] == number) {
		unsigned char *to = link_recv_buf(l, &room);
		if (to == NULL) {
			end(i, LINK_LOST);
			return;
		}
		struct slice part = cut(&s, room < most ? room : most);
		memcpy(to, part.p, part.n);
		link_recv_ack(l, part.n);
		settle();
	}
}

/* --- what the peers send --- */

static bool broker_is(bool connack)
{
	return b.link[LINK_BROKER].state == LINK_UP && broker.connect && broker.connack == connack;
}

static void send_connack(bool present, unsigned code)
{
	if (!broker_is(false))
		return;
	present = present && !broker.clean && code == 0;
	broker.connack = true;
	broker.present = present;
	if (code == 0 && !present)
		broker.held_n = 0;
	broker.session = code == 0 ? !broker.clean : broker.session;
	unsigned char p[] = {0x20, 2, present, (unsigned char)code};
	arrive(LINK_BROKER, (struct slice){p, sizeof p});
	if (code != 0)
		end(LINK_BROKER, LINK_EOF);
}

static void send_ack(unsigned first, uint16_t id)
{
	struct buf p = BUF(text);
	put_ack(&p, first, id);
	arrive(LINK_BROKER, buf_slice(&p));
}

static void send_suback(unsigned code)
{
	if (!broker_is(true) || broker.subscribe_id == 0)
		return;
	unsigned char p[] = {0x90, 3, (unsigned char)(broker.subscribe_id >> 8),
	        (unsigned char)broker.subscribe_id, (unsigned char)code};
	broker.subscribe_id = 0;
	arrive(LINK_BROKER, (struct slice){p, sizeof p});
}

/* Acknowledges the client's at-th publish. */
static bool send_puback(size_t at)
{
	if (!broker_is(true) || at >= broker.ids)
		return false;
	uint16_t id = broker.id[at];
	broker.ids--;
	memmove(broker.id + at, broker.id + at + 1, (broker.ids - at) * sizeof broker.id[0]);
	send_ack(0x40, id);
	return true;
}

static void send_held(struct held *h, bool dup)
{
	static unsigned char mem[1 << 16];
	struct buf payload = BUF(mem), p = BUF(text);
	struct request *r = &request[h->number];
	h->sent_on = broker.connection;
	if (h->received) {
		h->released_on = broker.connection;
		put_ack(&p, 0x62, h->id);
	} else {
		put_request(&payload, r);
		put_publish(&p, buf_slice(&payload), (dup ? 8U : 0U) | h->qos * 2U | r->retained, h->id);
	}
	arrive(LINK_BROKER, buf_slice(&p));
}

/* PUBREL where PUBREC has come. */
static bool send_pubrel(void)
{
	for (size_t i = 0; i < broker.held_n && broker_is(true); i++)
		if (broker.held[i].received && broker.held[i].released_on != broker.connection) {
			send_held(&broker.held[i], false);
			return true;
		}
	return false;
}

/* What this connection has not brought yet is sent again, in a session that goes on. */
static bool send_again(void)
{
	for (size_t i = 0; i < broker.held_n && broker_is(true); i++) {
		struct held *h = &broker.held[i];
		if (h->sent_on == broker.connection)
			continue;
		if (h->number != 0 || h->received)
			send_held(h, true);
		else /* nobody knows any more what it was */
			*h = broker.held[--broker.held_n];
		return true;
	}
	return false;
}

static uint16_t new_id(void)
{
	for (size_t i = 0; i <= HELD; i++) {
		size_t k = 0;
		broker.last_id = (uint16_t)(broker.last_id % 65535 + 1);
		while (k < broker.held_n && broker.held[k].id != broker.last_id)
			k++;
		if (k == broker.held_n)
			break;
	}
	return broker.last_id;
}

/* Sends a request with a number, by which it is known again. */
static void send_request(uint8_t qos, bool retained, unsigned form)
{
	struct request *r = &request[seen.requests];
	struct held h = {.id = new_id(), .qos = qos, .number = (uint8_t)seen.requests};
	if (!broker_is(true) || broker.held_n == HELD || seen.requests == REQUESTS)
		return;
	seen.requests++;
	*r = (struct request){.retained = retained,
	        .writes = form & 1,
	        .device = form >> 1 & 3,
	        .pad = form >> 3 & 7,
	        .large = pads[form >> 3 & 7] > BRIDGE_REQUEST_BYTES};
	if (qos > 0)
		broker.held[broker.held_n++] = h;
	send_held(qos > 0 ? &broker.held[broker.held_n - 1] : &h, false);
}

/* Sends a request with any payload: from now on nobody counts. */
static void send_payload(uint8_t qos, bool retained, struct slice payload)
{
	struct buf p = BUF(text);
	struct held h = {.id = new_id(), .qos = qos, .sent_on = broker.connection};
	if (!broker_is(true) || broker.held_n == HELD)
		return;
	seen.wild = true;
	put_publish(&p, payload, qos * 2U | retained, h.id);
	if (qos > 0)
		broker.held[broker.held_n++] = h;
	arrive(LINK_BROKER, buf_slice(&p));
}

static void command_request(unsigned what, struct slice *in)
{
	unsigned form = cut_byte(in), qos = what & 3;
	bool retained = what & 4;
	if (what & 8)
		send_payload(qos % 3, retained, cut(in, form));
	else if (qos < 3)
		send_request((uint8_t)qos, retained, form);
	else /* more would take the time of hundreds of other commands */
		for (unsigned n = 0; n < 3; n++)
			send_request(1, false, form);
}

/* Answers what was asked on link i. */
static bool send_reply(size_t i, struct slice body, unsigned status, unsigned frame)
{
	struct buf p = BUF(text);
	if (b.link[i].state != LINK_UP || api[i].asked == CALL_NONE)
		return false;
	api[i].asked = CALL_NONE;
	put_reply(&p, body, status, frame);
	arrive(i, buf_slice(&p));
	if (frame < 2)
		end(i, LINK_EOF);
	return true;
}

/* A body of a form that the API has: how it is framed, which of them, how many blanks it begins with. */
static bool send_usual(size_t i, unsigned form)
{
	static unsigned char mem[1 << 16];
	static const uint16_t statuses[8] = {200, 400, 400, 200, 200, 200, 500, 200},
	                      blanks[8] = {0, 0, 0, 0, 0, 10, 300, 0};
	struct buf body = BUF(mem);
	unsigned which = form >> 2 & 7;
	/* Scanning as much as that takes a hundred times as long as all the rest. */
	put_blanks(&body, form == 255 && b.outbox.queue.cap > SMALL_OUTBOX_BYTES ? 65000 : blanks[form >> 5]);
	if (which != 0)
		seen.spoiled = true;
	put_body(&body, api[i].asked, which);
	return send_reply(i, buf_slice(&body), statuses[which], form & 3);
}

/* One thing that a broker or an API that behave would do. */
static bool behave(void)
{
	for (size_t i = 0; i < BRIDGE_LINKS; i++)
		if (i != LINK_BROKER && send_usual(i, 0))
			return true;
	if (broker_is(false)) {
		send_connack(broker.session, 0);
		return true;
	}
	if (broker_is(true) && broker.disconnect) {
		broker.connack = false;
		end(LINK_BROKER, LINK_EOF);
		return true;
	}
	if (broker_is(true) && broker.subscribe_id != 0) {
		send_suback(1);
		return true;
	}
	if (broker_is(true) && broker.ping) {
		broker.ping = false;
		arrive(LINK_BROKER, (struct slice){(const unsigned char *)"\xd0", 2});
		return true;
	}
	return send_again() || send_pubrel() || send_puback(0);
}

/* The API link that is the nth of those on which something was asked; BRIDGE_LINKS for none. */
static size_t asked(unsigned nth)
{
	size_t found = BRIDGE_LINKS;
	for (size_t i = 0; i < BRIDGE_LINKS; i++)
		if (i != LINK_BROKER && api[i].asked != CALL_NONE && (found == BRIDGE_LINKS || nth-- > 0))
			found = i;
	return found;
}

/* --- the commands --- */

static void any_bytes(size_t i, struct slice s)
{
	if (i == LINK_BROKER)
		seen.wild = broker.rude = true;
	else
		seen.spoiled = true;
	arrive(i, s);
}

static void command_broker(unsigned what)
{
	switch (what & 3) {
	case 0:
		broker.ping = false;
		if (broker_is(true))
			arrive(LINK_BROKER, (struct slice){(const unsigned char *)"\xd0", 2});
		break;
	case 1: send_again(); break;
	case 2: send_pubrel(); break;
	default:
		while (send_again())
			;
	}
}

static void set_wall(unsigned which)
{
	static const int64_t seconds[16] = {0, 1, 1793491200, 1800000000, 2209032000, 4102444800,
	        253402300799, 1900000000, -1, 86399, 951782400, 1709164799, 68169600, 4107542399, 1793491199,
	        1830000000};
	wall_offset_us = seconds[which] * 1000000;
}

static void command(unsigned first, struct slice *in)
{
	static const int64_t units[4] = {1, 10, 100, 1000};
	unsigned what = first >> 4;
	size_t i = what % BRIDGE_LINKS, n;
	switch ((enum command)(first & 15)) {
	case COMMAND_WAIT: pass(cut_byte(in) * units[what & 3]); break;
	case COMMAND_DUE:
		for (n = 0; n <= what / 4; n++)
			pass_due();
		break;
	case COMMAND_WALL: set_wall(what); break;
	case COMMAND_HOW:
		how[i] = (unsigned char)cut_byte(in);
		settle();
		break;
	case COMMAND_END: end(i, what & 8 ? LINK_LOST : LINK_EOF); break;
	case COMMAND_BYTES:
		n = cut_byte(in);
		any_bytes(i, cut(in, n));
		break;
	case COMMAND_REPLY:
		n = cut_byte(in);
		if ((i = asked(what)) < BRIDGE_LINKS)
			send_usual(i, (unsigned)n);
		break;
	case COMMAND_REPLY_BYTES:
		n = cut_byte(in);
		seen.spoiled = true;
		if ((i = asked(what)) < BRIDGE_LINKS)
			send_reply(i, cut(in, n & 63), n & 64 ? 400 : 200, what & 3);
		break;
	case COMMAND_SEND:
		send_bytes(i, cut_byte(in) + 1);
		settle();
		break;
	case COMMAND_CONNACK: send_connack(what & 1, what > 10 ? what - 10 : 0); break;
	case COMMAND_SUBACK: send_suback(what < 13 ? what % 3 : 0x80); break;
	case COMMAND_REQUEST: command_request(what, in); break;
	case COMMAND_PUBACK:
		for (n = 0; n <= what && send_puback(what & 1 ? 0 : broker.ids - 1); n++)
			;
		break;
	case COMMAND_BROKER: command_broker(what); break;
	case COMMAND_STOP:
		bridge_stop(&b);
		settle();
		break;
	case COMMAND_BEHAVE:
		for (n = 0; n <= what && behave(); n++)
			;
	}
}

/* --- the beginning and the end --- */

static void configure(struct slice *in)
{
	static const uint16_t keeps[] = {60, 5, 10, 65535}, lifetimes[] = {300, 20, 120, 20000},
	                      intervals[] = {5, 1, 60, 3600}, limits[] = {10, 1, 3, 300},
	                      outs[] = {sizeof broker_out, 4000, 1000, 64}, pieces[] = {16384, 16384, 40, 1};
	static const uint32_t windows[] = {60, 0, 10, 86400}, spares[] = {0, 2, 1, BRIDGE_API_LINKS};
	unsigned c = cut_byte(in);
	config.has_login = c & 1;
	config.will = c & 2 ? SWITCH_OFF : SWITCH_ON;
	config.writes_limited = (c & 12) == 12;
	config.api_spares = spares[c >> 2 & 3];
	config.write_allows = config.writes_limited;
	config.write_allow[0].last = REQUESTS / 2;
	config.dates = (enum bridge_dates)((c >> 4 & 3) % 3);
	strcpy(config.topic_prefix, c & 64 ? "a/{serial}" : "iamcat");
	strcpy(config.client_id, c & 128 ? "id" : "");
	c = cut_byte(in);
	config.keep_alive_s = keeps[c & 3];
	config.token_lifetime_s = lifetimes[c >> 2 & 3];
	config.session_window_s = windows[c >> 4 & 3];
	config.state_interval_s = intervals[c >> 6];
	c = cut_byte(in);
	config.api_timeout_s = limits[c & 3];
	piece = pieces[c >> 2 & 3];
	peers_init();
	memset(how, 0, sizeof how);
	memset(connection, 0, sizeof connection);
	memset(&b, 0, offsetof(struct bridge, requests_mem)); /* the memory behind may hold anything */
	t.now_ms = 1000;
	set_wall(2);
	wake = 0;
	t.wall_us = wall_offset_us;
	bridge_init(&b, &config, NULL, NULL, c, t);
	b.log_level = LEVEL_DEBUG;
	if (c & 128)
		queue_init(&b.requests, b.requests_mem, SMALL_QUEUE_BYTES);
	if (c & 64)
		mqtt_outbox_init(&b.outbox, b.outbox_mem, SMALL_OUTBOX_BYTES);
	b.link[LINK_BROKER].in = (struct buf)BUF(broker_in);
	b.link[LINK_BROKER].out = (struct buf){broker_out, outs[c >> 4 & 3], 0, false};
}

static bool in_service(void)
{
	return b.phase == PHASE_SERVE && requests_waiting(&b) == 0 && mqtt_outbox_count(&b.outbox) == 0 &&
	       broker.held_n == 0 && broker.ids == 0;
}

/* Everybody behaves from now on: it comes into service, and every request that was accepted is answered. */
static void calm(void)
{
	int64_t since = t.now_ms;
	for (size_t i = 0; i < BRIDGE_LINKS; i++)
		if (b.link[i].received > 0) /* what has come may be the beginning of anything */
			end(i, LINK_LOST);
	for (size_t turn = 0; !in_service(); turn++) {
		CHECK(turn < CALM_TURNS && t.now_ms - since < CALM_MS);
		if (!behave())
			pass_due();
	}
	for (size_t i = 1; i < seen.requests && !seen.wild && !seen.spoiled; i++)
		CHECK(!request[i].accepted || request[i].retained || request[i].large || request[i].stale ||
		        request[i].answers == 1);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	(void)argc, (void)argv;
	talks = getenv("FUZZ_TRACE") != NULL;
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct slice in = {data, size};
	bool calms = size % 8 == 0, hangs = size % 8 == 1;
	configure(&in);
	settle();
	while (in.n > 0 && !bridge_done(&b)) {
		unsigned first = cut_byte(&in);
		if (talks)
			fprintf(stderr, "%9.3f phase %d, command %d.%d %02x...\n", (double)t.now_ms / 1000,
			        b.phase, first & 15, first >> 4, in.n > 0 ? *in.p : 0);
		command(first, &in);
	}
	memset(how, 0, sizeof how);
	settle();
	if (calms && !b.stopping)
		calm();
	bridge_stop(&b);
	int64_t since = t.now_ms;
	settle();
	while (!bridge_done(&b)) {
		CHECK(t.now_ms - since <= STOP_MS);
		if (hangs || !behave())
			pass_due();
	}
	return 0;
}
