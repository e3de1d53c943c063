/* The whole core in virtual time against a simulated broker, gateway and network, in which everything goes
 * wrong that can, driven by a seed: hours in a second. The same seed is the same run.
 *
 *	world [-v] [-s] [-j JOBS] [FIRST [COUNT [HOURS]]]
 *
 * runs COUNT seeds from FIRST on, each for HOURS of simulated time, in JOBS processes. -v shows all that
 * happens; -s keeps the wall clock from jumping. When a property is broken, the seed is run again and the end
 * of its trace is shown. Exit status 1 then.
 *
 * What holds on every step: a write reaches the API at most once, a read at most twice (and then only when
 * its first connection ended before a byte of the reply), and neither when it is stale, retained, answered,
 * or said not to have been executed; one answer for each accepted request and none for others; the answers of
 * a device in the order of its requests, and one call to it at a time; at most four connections to the API;
 * the grid of the states, over a renewal of the token, too; tokens renewed in time; the state says that the
 * client is offline when it is, and not because of a renewal; a packet per keep-alive; legal packets only; no
 * refused token twice; a dead or unlawful broker is noticed; no storm of connections; no busy loop; bounded
 * memory; log lines well-formed; and the wall clock changes nothing but dates. test/world/mutations proves
 * each of them. */
#include "world/world.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "json.h"

enum {
	TRACE_LINES = 300,
	TRACE_BYTES = 200,
	CANARY_BYTES = 64,
	SETTLE_MS = 1800 * 1000,
	HOUR_MS = 3600 * 1000,
	TURNS_MAX = 100000,
	JOBS_MAX = 64,
	STATE_ROOM = BRIDGE_OUTBOX_BYTES > 16384 ? 8192 : 4608, /* with less in the outbox, none may fit */
	ENOUGH_HOURS = 500                                      /* by then everything has happened */
};

struct world w;
uint64_t count[COUNTS];
static const char *const count_names[COUNTS] = {"requests", "executed", "answers", "answers again", "busy",
        "held back", "redelivered", "repeated", "twins", "twins mistaken", "stale", "lapsed", "states",
        "fallbacks", "offline states", "last wills", "faults", "garbage", "spoiled replies", "connections",
        "dropped", "services", "renewals", "expiries", "dead brokers", "restarts", "steps",
        "kept connections", "retries"};
static struct {
	unsigned char before[CANARY_BYTES];
	struct bridge bridge;
	unsigned char after[CANARY_BYTES], in[2048], out[4096];
} memory;
static jmp_buf out;
static char message[400];
static bool talks, keeps, jumps; /* trace; for the case that a property is broken; the wall clock */
static char lines[TRACE_LINES][TRACE_BYTES];
static size_t line_count;

/* --- chance --- */

static uint32_t mix(uint64_t x)
{
	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
	x = (x ^ x >> 27) * 0x94d049bb133111ebu;
	return (uint32_t)((x ^ x >> 31) >> 16);
}

static uint32_t below(uint32_t random, uint32_t n)
{
	return (uint32_t)((uint64_t)random * n >> 32);
}

uint32_t draw(uint32_t n)
{
	w.random += 0x9e3779b97f4a7c15u;
	return below(mix(w.random), n);
}

bool chance(uint32_t one_in)
{
	return draw(one_in) == 0;
}

uint32_t hashed(uint32_t number, uint32_t salt, uint32_t n)
{
	return below(
	        mix(w.seed * 0x9e3779b97f4a7c15u + ((uint64_t)salt << 32 | number) * 0xd1342543de82ef95u), n);
}

/* --- what happened --- */

void trace(const char *format, ...)
{
	va_list a;
	if (!talks && !keeps)
		return;
	char *line = lines[line_count++ % TRACE_LINES];
	int n = snprintf(line, TRACE_BYTES, "%9.3f  ", (double)w.now / 1000);
	va_start(a, format);
	vsnprintf(line + n, (size_t)(TRACE_BYTES - n), format, a);
	va_end(a);
	if (talks)
		puts(line);
}

void broken(const char *format, ...)
{
	va_list a;
	va_start(a, format);
	vsnprintf(message, sizeof message, format, a);
	va_end(a);
	for (char *c = message; *c != 0; c++)
		if (*c < ' ' || *c > '~')
			*c = '.';
	longjmp(out, 1);
}

void note(uint32_t what, uint32_t number)
{
	w.sum = (w.sum ^ ((uint64_t)what << 32 | number) ^ (uint64_t)w.now << 8) * 0x100000001b3u;
}

void trouble(void)
{
	w.trouble_at = w.now;
}

/* --- what the client shows of itself after each step --- */

static bool online(void)
{
	enum bridge_phase p = w.bridge->phase;
	return p == PHASE_HELLO || p == PHASE_SUBSCRIBE || p == PHASE_SERVE || p == PHASE_STALE ||
	       p == PHASE_DRAIN;
}

static void read_mark(const struct mark *m)
{
	struct wire *l = &wires[LINK_BROKER];
	if (m->kind == MARK_CONNACK) {
		int64_t window = (int64_t)w.config.session_window_s * 1000;
		w.stale = m->number && (w.served_until == never || w.now - w.served_until > window);
		if (w.stale)
			trouble();
		trace("client: has read CONNACK%s", w.stale ? ", stale session" : "");
	} else if (m->kind == MARK_REQUEST) {
		request_read(m->number, m->qos);
	} else if (m->kind == MARK_GARBAGE && online()) {
		broken("a malformed packet is taken");
	} else if (m->kind == MARK_ANSWER_ACK && m->number > 0) {
		w.request[m->number].acknowledged = true;
	}
	broker_read(l, m);
}

/* What of the broker's bytes has the client read? */
static void read_marks(void)
{
	struct wire *l = &wires[LINK_BROKER];
	const struct link *link = l->link;
	size_t waits = link->in.n + w.bridge->packet_n;
	if (l->number == 0 || link->received < waits || w.bridge->phase < PHASE_HELLO)
		return;
	uint64_t read = link->received - waits;
	while (l->marks > 0 && l->mark[l->first_mark].end <= read) {
		struct mark m = l->mark[l->first_mark];
		l->first_mark = (l->first_mark + 1) % MARKS;
		l->marks--;
		read_mark(&m);
	}
}

/* Returns whether the service has begun. */
static bool check_log(void)
{
	size_t at = 0;
	bool service = false;
	enum bridge_level level;
	struct slice text;
	while (bridge_take_log(w.bridge, &at, &level, &text)) {
		trace("log: %.*s", (int)text.n, text.p);
		service |= slice_find(text, "in service: ") == 0;
		bool blames = slice_find(text, "(MQTT-") < text.n || slice_find(text, "not belong") < text.n;
		bool earlier = slice_find(text, "not logged one by one: ") == 0;
		if (blames && !earlier && !broker_is_rude())
			broken("a legal packet is taken for a wrong one: %.*s", (int)text.n, text.p);
		if (slice_find(text, "does another client") < text.n && broker_cut_it())
			broken("the end of a token is taken for another client");
		if (level > LEVEL_DEBUG || text.n == 0 || text.n > 1500)
			broken("a log line of %zu bytes", text.n);
		for (size_t i = 0; i < text.n; i++)
			if (text.p[i] < ' ' || text.p[i] > '~')
				broken("a log line with byte %02x", text.p[i]);
	}
	return service;
}

static void check_memory(void)
{
	const struct bridge *b = w.bridge;
	for (size_t i = 0; i < CANARY_BYTES; i++)
		if (memory.before[i] != 0xa5 || memory.after[i] != 0xa5)
			broken("memory beside the bridge was written");
	if (b->requests.used > b->requests.cap || b->outbox.queue.used > b->outbox.queue.cap ||
	        b->control.n > b->control.cap || b->packet_n > sizeof b->packet || b->log.n > b->log.cap)
		broken("a buffer holds more than it can");
	if (b->control.full || b->log.full)
		broken("a buffer was overrun");
	count[HELD_BACK] += queue_room(&b->outbox.queue) < 200;
}

static int64_t latest(int64_t a, int64_t b)
{
	return a > b ? a : b;
}

/* A connection to the API that is silent is as good as a gateway that is. */
static void look_at_api(void)
{
	for (size_t i = 0; i < BRIDGE_LINKS && gateway_healthy_since < w.now; i++)
		if (i != LINK_BROKER && wires[i].open && (wires[i].dead || wires[i].stalled_until > w.now))
			gateway_healthy_since = w.now;
}

/* The grid of the states: one each beat while the API answers, and one each time that it did not. */
static void check_states(void)
{
	const struct wire *l = &wires[LINK_BROKER];
	int64_t beat = (int64_t)w.config.state_interval_s * 1000, limit = w.config.api_timeout_s * 1000;
	if (w.serving_since == never)
		return;
	/* Nor can they go when the outbox is full of what the broker does not acknowledge. */
	if (l->window != 0 || l->dead || l->stalled_until > w.now ||
	        queue_room(&w.bridge->outbox.queue) < STATE_ROOM)
		w.states_since = w.now;
	int64_t since = latest(w.state_at, w.states_since);
	if (w.now - since > limit + beat + 1000 + w.excuse)
		broken("no state, and no word that there is none, for %lld ms", (long long)(w.now - since));
	if (gateway_healthy_since > w.now)
		return;
	since = latest(since, gateway_healthy_since + limit + beat);
	if (w.now - since > beat + 1000 + w.excuse)
		broken("no state for %lld ms", (long long)(w.now - since));
}

/* A broker that went silent is noticed, and one that breaks the law at once. */
static void check_broker(void)
{
	const struct wire *l = &wires[LINK_BROKER];
	const struct mark *m = &l->mark[l->first_mark];
	if (l->marks > 0 && m->kind == MARK_GARBAGE && l->link->received >= m->end && online())
		broken("a malformed packet is waited with");
	if (w.bridge->phase == PHASE_PAUSE && l->link->state == LINK_DOWN &&
	        w.now - w.bridge->phase_deadline_ms > 1000)
		broken("the next connection waits for a call");
	int64_t half = w.config.keep_alive_s * 500, beat = (int64_t)w.config.state_interval_s * 1000;
	if (!l->dead || w.serving_since == never)
		return;
	int64_t flow =
	        latest(gateway_healthy_since > w.now ? never / 2 : gateway_healthy_since, w.serving_since);
	bool flows = flow + w.config.api_timeout_s * 1000 + beat <= l->dead_since && l->window == 0;
	int64_t limit = (flows && beat < half ? beat + 1000 : half) + 10 * 1000;
	if (w.now - l->dead_since > limit + 500)
		broken("a dead broker was not noticed for %lld ms", (long long)(w.now - l->dead_since));
}

static void service_begins(void)
{
	int64_t beat = (int64_t)w.config.state_interval_s * 1000, limit = w.config.api_timeout_s * 1000;
	bool undisturbed = w.handover_at != never && w.trouble_at < w.handover_at &&
	                   gateway_healthy_since < w.handover_at - limit - beat;
	count[SERVICES]++;
	w.serving_since = w.now;
	note(4, 0);
	if (undisturbed && w.now - w.handover_at > 50 + w.excuse)
		broken("the connection with the next token took %lld ms, of which the network had %lld",
		        (long long)(w.now - w.handover_at), (long long)w.excuse);
	if (undisturbed && !w.expired && w.wills != w.handover_wills)
		broken("a renewal of the token triggers the last will");
	if (undisturbed)
		count[w.expired ? EXPIRIES : RENEWALS]++;
	else
		w.states_since = w.now;
	w.handover_at = never;
}

static void service_ends(void)
{
	w.serving_since = never;
	w.served_until = w.now;
	note(5, 0);
	trace("client: service has ended");
	w.expired = broker_cut_it();
	int64_t life = (int64_t)w.config.token_lifetime_s * 1000,
	        since = latest(w.trouble_at, gateway_healthy_since);
	if (w.expired && life >= 120000 && since < w.now - life / 5)
		broken("a token was not renewed before it expired");
	count[DEAD] += wires[LINK_BROKER].dead;
	if (!w.expired && w.bridge->phase != PHASE_RENEW)
		return;
	w.handover_at = w.now;
	w.handover_wills = w.wills;
	w.excuse = 0;
}

static void look_at_broker(void)
{
	const struct wire *l = &wires[LINK_BROKER];
	if (l->piece != 0 || l->window != 0 || l->dead || l->stalled_until > w.now || broker_is_mute())
		trouble();
}

static void look_at_service(void)
{
	int64_t gap = online() ? 0 : w.served_until == never ? never : w.now - w.served_until;
	int64_t window = (int64_t)w.config.session_window_s * 1000;
	if (gap > window)
		w.away_at = w.now;
	if (gap > window + 120 * 1000)
		w.long_away_at = w.now;
}

static void after_step(void)
{
	bool serving = w.bridge->phase == PHASE_SERVE || w.bridge->phase == PHASE_DRAIN;
	if (check_log() && !serving)
		w.served_until = w.now; /* it began and ended within the step */
	if (serving && w.serving_since == never)
		service_begins();
	else if (!serving && w.serving_since != never)
		service_ends();
	look_at_service();
	look_at_broker();
	look_at_api();
	read_marks();
	check_memory();
	check_broker();
	if (!w.bridge->stopping)
		check_states();
	count[STEPS]++;
}

/* --- operators, faults, clocks --- */

static struct bridge_time time_now(void)
{
	return (struct bridge_time){w.now, w.now * 1000 + w.wall_offset_us};
}

static void start(void)
{
	memset(w.bridge, 0, sizeof *w.bridge);
	bridge_init(w.bridge, &w.config, NULL, NULL, draw(UINT32_MAX), time_now());
	struct link *l = &w.bridge->link[LINK_BROKER]; /* plain: nobody else gives it memory */
	l->in = (struct buf)BUF(memory.in);
	l->out = (struct buf)BUF(memory.out);
	w.running = true;
	w.serving_since = w.served_until = w.handover_at = never;
	w.away_at = w.long_away_at = -1;
	w.state_at = w.now;
	w.stale = false;
	w.stop_at = never;
	memset(w.began_at, 0, sizeof w.began_at);
	trace("client: starts");
}

/* The client is gone: what it had accepted may go unanswered. */
static void gone(void)
{
	w.running = false;
	w.serving_since = never;
	w.start_at = w.now + 1 + draw(chance(2) ? 3000 : 200000);
	for (uint32_t i = 1; i < w.requests; i++)
		if (w.request[i].order != 0)
			request_excused(i);
	wires_drop();
}

static void ask(uint32_t n)
{
	for (; n > 0 && w.requests < REQUESTS_MAX - 1; n--) {
		static const uint8_t usual[] = {1, 1, 1, 1, 0, 2};
		uint8_t qos = usual[draw(hashed(0, 6, 3) == 0 ? 6 : 5)];
		count[REQUESTS]++;
		broker_publish(w.requests++, qos);
	}
}

static void operate(void)
{
	w.operate_at = w.now + 1 + draw(w.now < broker_deaf_until ? 5000 : 2 * w.pace_ms);
	ask(chance(300) ? 50 + draw(400) : 1);
}

static void break_connection(struct wire *l)
{
	uint32_t x = draw(l == &wires[LINK_BROKER] ? 5 : 4);
	if (!l->open || l->dead)
		return;
	trace("fault: connection %u %s", l->number,
	        x == 0   ? "reset"
	        : x == 1 ? "closed"
	        : x == 2 ? "dead"
	        : x == 3 ? "stalled"
	                 : "half dead");
	if (l != &wires[LINK_BROKER] && gateway_health == HEALTHY)
		gateway_healthy_since = w.now; /* for the grid: from here on again */
	if (x < 2)
		wire_end(l, x == 0);
	else if (x == 2)
		wire_die(l);
	else if (x == 3)
		l->stalled_until = w.now + 1 + draw(chance(2) ? 2000 : 30000);
	else {
		broker_deafen();
		broker_deaf_until = w.now + draw(120000);
		w.operate_at = w.now;
	}
}

static void leave(void)
{
	if (!w.running || w.bridge->stopping || !chance(4))
		return;
	count[RESTARTS]++;
	if (chance(2)) {
		trace("fault: the client is killed");
		gone();
	} else {
		trace("operator: stops the client");
		if (chance(3))
			broker_mute();
		bridge_stop(w.bridge);
		w.stop_at = w.now + 12000;
	}
}

static void fault(void)
{
	w.fault_at = w.now + 1 + draw(2 * w.fault_ms);
	count[FAULTS]++;
	trouble();
	switch (draw(13)) {
	case 0:
	case 1:
	case 2: break_connection(&wires[LINK_BROKER]); break;
	case 3: break_connection(&wires[LINK_API + draw(BRIDGE_LINKS - LINK_API)]); break;
	case 4:
	case 5: gateway_turn((enum health)draw(5)); break;
	case 6:
		trace("fault: the broker is down");
		broker_down_until = w.now + draw(chance(2) ? 20000 : 300000);
		wire_end(&wires[LINK_BROKER], true);
		if (chance(2))
			broker_forget_session();
		break;
	case 7: broker_takeover(); break;
	case 8: broker_garbage(); break;
	case 9: leave(); break;
	case 10:
		trace("fault: the broker drops connections");
		broker_dropping_until = w.now + draw(300000);
		wire_end(&wires[LINK_BROKER], chance(2));
		break;
	case 11:
		trace("fault: a flood of requests, and no answer is acknowledged");
		broker_mute();
		ask(chance(20) ? 700 : 0);
		break;
	default: gateway_turn(HEALTHY);
	}
}

/* From its own stream of chance, so that a run without jumps is the same but for this. */
static void jump(void)
{
	uint64_t keep = w.random;
	w.random = w.wall_random;
	w.jump_at = w.now + 1 + draw(1200 * 1000);
	int64_t years = (int64_t)draw(120) - 10; /* since 1970 */
	int64_t at = (years * 366 * 86400 + draw(86400)) * 1000000 - w.now * 1000;
	w.wall_random = w.random;
	w.random = keep;
	if (jumps && at > 0) {
		w.wall_offset_us = at;
		trace("fault: the wall clock jumps to %lld", (long long)(1970 + years));
	}
}

static void calm_down(void)
{
	trace("calm: nothing is broken from now on");
	w.calm = w.now;
	gateway_turn(HEALTHY);
	broker_down_until = broker_dropping_until = broker_deaf_until = 0;
	w.fault_at = w.operate_at = w.jump_at = never;
	if (w.running && w.bridge->stopping == false)
		break_connection(&wires[LINK_BROKER]);
}

/* --- the loop --- */

static bool settled(void)
{
	if (w.calm == never || !w.running || w.now < w.calm + 60 * 1000 || w.serving_since == never ||
	        !broker_settled())
		return false;
	return queue_first(&w.bridge->requests) == NULL && queue_first(&w.bridge->outbox.queue) == NULL;
}

static int64_t min(int64_t a, int64_t b)
{
	return a < b ? a : b;
}

/* Does the call for a token wait for others to end? Where there are few links, it may have to. */
static bool token_waits(void)
{
	const struct bridge *b = w.bridge;
	bool call_waits = b->phase == PHASE_PAUSE && w.now >= b->phase_deadline_ms;
	return w.running && (call_waits || (b->phase == PHASE_TOKEN && b->identity->link == NULL));
}

/* Lets happen what is due. */
static void happen(void)
{
	gateway_run();
	broker_run();
	if (w.now >= w.end && w.calm == never)
		calm_down();
	if (w.now >= w.operate_at)
		operate();
	if (w.now >= w.fault_at)
		fault();
	if (w.now >= w.jump_at)
		jump();
	if (!w.running && w.now >= w.start_at)
		start();
	if (w.running && w.bridge->stopping && w.now > w.stop_at)
		broken("it did not stop in time");
}

/* What the bridge says that it does not use is given back now and then, as the program does it. */
static void give_back(void)
{
	unsigned char *from = bridge_unused(w.bridge);
	if (from != NULL && w.now % 97 == 0)
		memset(from, 0, (size_t)((unsigned char *)(w.bridge + 1) - from));
}

static void live(void)
{
	unsigned idle = 0, turns = 0;
	while (!settled()) {
		int64_t wake = never;
		if (++turns > TURNS_MAX)
			broken("time stands still");
		if (w.running) {
			wake = bridge_step(w.bridge, time_now());
			after_step();
			if (bridge_done(w.bridge))
				gone();
			else if (wires_move()) {
				idle = 0;
				continue;
			}
			if (w.running && wake <= w.now) {
				if (++idle >= 2)
					broken("a deadline of %lld ms ago, twice running",
					        (long long)(w.now - wake));
				continue;
			}
			if (w.running)
				give_back();
		}
		idle = 0;
		int64_t next = min(
		        min(wires_next(), broker_next()), min(gateway_next(), min(w.operate_at, w.fault_at)));
		next = min(next, min(w.jump_at, w.running ? wake : w.start_at));
		if (w.calm == never)
			next = min(next, w.end);
		if (next > w.now) {
			if (w.handover_at != never && token_waits())
				w.excuse += next - w.now;
			w.now = next;
			turns = 0;
		}
		happen();
		if (w.calm != never && w.now > w.calm + SETTLE_MS)
			broken("it does not settle");
	}
	requests_check_end();
}

static void set_up(uint64_t seed, int64_t hours)
{
	static const uint32_t lifetimes[] = {20, 120, 300, 3600, 86400}, windows[] = {0, 10, 60, 60, 600},
	                      paces[] = {3000, 20000, 60000, 300000}, faults[] = {20000, 120000, 900000};
	static const uint16_t keeps_alive[] = {10, 60, 60, 300};
	memset(&w, 0, sizeof w);
	w.seed = seed;
	w.random = seed * 0x2545f4914f6cdd1du;
	w.wall_random = ~w.random;
	w.now = 1000 + draw(100000);
	w.end = w.now + hours * HOUR_MS;
	w.calm = never;
	w.wall_offset_us = 1795000000LL * 1000000;
	w.requests = 1;
	memset(&memory, 0xa5, sizeof memory);
	w.bridge = &memory.bridge;
	struct bridge_config *c = &w.config;
	strcpy(c->broker_host, "broker.test");
	strcpy(c->api_host, "api.test");
	strcpy(c->topic_prefix, chance(2) ? "iamcat" : "iamcat/{serial}");
	c->broker_port = 1883;
	c->api_port = 80;
	c->keep_alive_s = keeps_alive[draw(4)];
	c->token_lifetime_s = lifetimes[draw(5)];
	c->dates = (enum bridge_dates)draw(3);
	c->session_window_s = windows[draw(5)];
	c->will = chance(4) ? SWITCH_OFF : SWITCH_ON;
	c->state_interval_s = chance(10) ? 60 : 5;
	c->api_spares = draw(5);
	c->api_timeout_s = chance(4) ? 3 + draw(20) : 10;
	if (chance(5)) {
		c->has_login = true;
		strcpy(c->user_name, "user");
		strcpy(c->password, "secret");
	}
	w.pace_ms = paces[draw(4)];
	w.fault_ms = faults[draw(3)];
	w.operate_at = w.fault_at = w.jump_at = w.now;
	w.stop_at = never;
}

static bool run(uint64_t seed, int64_t hours)
{
	line_count = 0;
	set_up(seed, hours);
	if (setjmp(out) != 0)
		return false;
	broker_init();
	gateway_init();
	wires_init();
	start();
	live();
	return true;
}

static void show(uint64_t seed, int64_t hours)
{
	char first[sizeof message];
	memcpy(first, message, sizeof first);
	keeps = true;
	if (!talks)
		run(seed, hours);
	for (size_t i = line_count > TRACE_LINES ? line_count - TRACE_LINES : 0; i < line_count && !talks;
	        i++)
		puts(lines[i % TRACE_LINES]);
	printf("seed %llu, at %.3f s: %s\n", (unsigned long long)seed, (double)w.now / 1000, first);
	if (strcmp(first, message) != 0)
		printf("the second run differs: %s\n", message);
	printf("all of it: build/test/world -v%s %llu 1 %lld\n", jumps ? "" : " -s", (unsigned long long)seed,
	        (long long)hours);
}

/* One seed; some of them a second time, with a wall clock that does not jump. */
static bool run_both(uint64_t seed, int64_t hours, bool still, int64_t *simulated_ms)
{
	uint64_t sum = 0;
	for (int i = still; i <= (still || seed % 8 == 0); i++) {
		jumps = i == 0;
		if (!run(seed, hours)) {
			show(seed, hours);
			return false;
		}
		*simulated_ms += w.now;
		if (jumps)
			sum = w.sum;
		else if (!still && w.sum != sum) {
			printf("seed %llu differs when the wall clock does not jump: compare -v with -v -s\n",
			        (unsigned long long)seed);
			return false;
		}
	}
	return true;
}

/* What the processes have in common. */
static struct common {
	atomic_bool failed;
	int64_t simulated_ms[JOBS_MAX];
	uint64_t count[JOBS_MAX][COUNTS];
} * common;

/* Prints what has happened in all. Returns whether everything has that should. */
static bool sum_up(int n)
{
	int64_t hours = 0;
	bool complete = true;
	memset(count, 0, sizeof count);
	for (int i = 0; i < n; i++) {
		hours += common->simulated_ms[i] / HOUR_MS;
		for (int k = 0; k < COUNTS; k++)
			count[k] += common->count[i][k];
	}
	printf("%lld hours", (long long)hours);
	for (int k = 0; k < COUNTS; k++)
		printf("%s %llu %s", k == 0 ? ":" : ",", (unsigned long long)count[k], count_names[k]);
	printf("\n");
	for (int k = 0; k < COUNTS && hours > ENOUGH_HOURS && !common->failed; k++)
		if (count[k] == 0) {
			printf("it never came to: %s\n", count_names[k]);
			complete = false;
		}
	return complete;
}

int main(int argc, char **argv)
{
	static char buffer[1 << 17]; /* so that the processes' lines do not mix */
	long long number[3] = {1, 20, 10};
	int n = 1, mine = 0, child_status, option;
	bool still = false;
	while ((option = getopt(argc, argv, "vsj:")) != -1) {
		talks |= option == 'v';
		still |= option == 's';
		if (option == 'j')
			n = atoi(optarg);
		if (option == '?' || n < 1 || n > JOBS_MAX)
			return 2;
	}
	for (int i = 0; i < 3 && optind + i < argc; i++)
		number[i] = atoll(argv[optind + i]);
	common = mmap(NULL, sizeof *common, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (common == MAP_FAILED)
		return 2;
	setvbuf(stdout, buffer, talks ? _IOLBF : _IOFBF, sizeof buffer);
	for (int i = 1; i < n && mine == 0; i++)
		mine = fork() == 0 ? i : 0;
	for (long long i = mine; i < number[1] && !common->failed; i += n)
		if (!run_both((uint64_t)(number[0] + i), number[2], still, &common->simulated_ms[mine]))
			common->failed = true;
	memcpy(common->count[mine], count, sizeof count);
	if (mine != 0)
		return 0;
	fflush(stdout);
	while (wait(&child_status) > 0)
		if (child_status != 0) /* ended by a signal */
			common->failed = true;
	bool good = sum_up(n) && !common->failed;
	fflush(stdout); /* the chip's runtime does not */
	return good ? 0 : 1;
}
