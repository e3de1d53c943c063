/* The whole core in virtual time against a simulated broker, gateway and network, in which everything goes
 * wrong that can, driven by a seed: hours in a second. The same seed is the same run.
 *
 *	build/world [FIRST [COUNT [HOURS]]] [-v]
 *
 * runs COUNT seeds from FIRST on, each for HOURS of simulated time; -v shows all that happens. When a
 * property is broken, the seed is run again and the end of its trace is shown. Exit status 1 then.
 *
 * What holds on every step: a request is executed at most once (a read perhaps again, when its connection
 * ended before a byte of the reply), and never when it is stale, retained, or said not to have been; one
 * answer for each accepted request and none for others; the answers of a device in the order of its requests;
 * the grid of the states; a packet per keep-alive; legal packets; a dead broker is noticed; no busy loop;
 * bounded memory; log lines well-formed; and the wall clock changes nothing but dates. */
#include "world/world.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "json.h"

enum {
	TRACE_LINES = 300,
	TRACE_BYTES = 200,
	CANARY_BYTES = 64,
	SETTLE_MS = 1800 * 1000,
	HOUR_MS = 3600 * 1000,
	TURNS_MAX = 100000
};

struct world w;
struct counts counts;
static struct {
	unsigned char before[CANARY_BYTES];
	struct bridge bridge;
	unsigned char after[CANARY_BYTES], in[2048], out[4096];
} memory;
static jmp_buf out;
static char message[400];
static bool keeps; /* the trace, for the case that a property is broken */
static char lines[TRACE_LINES][TRACE_BYTES];
static size_t line_count;
static int64_t operate_at, fault_at, jump_at, start_at, stop_at;
static uint32_t pace_ms, fault_ms;
static bool stale; /* what the broker held for this connection */

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
	if (!w.talks && !keeps)
		return;
	char *line = lines[line_count++ % TRACE_LINES];
	int n = snprintf(line, TRACE_BYTES, "%9.3f  ", (double)w.now / 1000);
	va_start(a, format);
	vsnprintf(line + n, (size_t)(TRACE_BYTES - n), format, a);
	va_end(a);
	if (w.talks)
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

/* --- requests --- */

enum kind request_kind(uint32_t number)
{
	uint32_t x = hashed(number, 1, 100);
	return x < 55   ? KIND_READ
	       : x < 82 ? KIND_WRITE
	       : x < 86 ? KIND_FOREIGN
	       : x < 91 ? KIND_BAD_VALUE
	       : x < 94 ? KIND_BAD_CODE
	       : x < 96 ? KIND_NO_OBJECT
	       : x < 98 ? KIND_NO_JSON
	                : KIND_TOO_LARGE;
}

uint32_t request_device(uint32_t number)
{
	return hashed(number, 2, DEVICES);
}

size_t request_put(uint32_t number, unsigned char *p, size_t cap)
{
	static const char pad[] = "0123456789abcdefghijklmnopqrstuvwxyz";
	enum kind kind = request_kind(number);
	size_t padding =
	        hashed(number, 3, hashed(number, 4, hashed(0, 7, 6) == 0 ? 2 : 30) == 0 ? 7000 : 150);
	char *s = (char *)p;
	size_t n = (size_t)snprintf(s, cap, "%s{\"id\": %u, \"device_id\": \"%c%u\", \"function_code\": %s, ",
	        kind == KIND_NO_OBJECT ? "[" : "", number, kind == KIND_FOREIGN ? 'X' : 'D',
	        kind == KIND_FOREIGN ? 9 : request_device(number),
	        kind == KIND_WRITE      ? "16"
	        : kind == KIND_BAD_CODE ? "\"3\""
	                                : "3");
	if (kind == KIND_WRITE)
		n += (size_t)snprintf(
		        s + n, cap - n, "\"values\": [%u, %u], ", number & 0xffff, number >> 16);
	else
		n += (size_t)snprintf(s + n, cap - n, "\"scale_factor\": %u, ", number);
	n += (size_t)snprintf(
	        s + n, cap - n, "\"address\": %s, \"pad\": \"", kind == KIND_BAD_VALUE ? "65536" : "7");
	if (kind == KIND_TOO_LARGE)
		padding = 8192 + hashed(number, 5, 15000);
	for (size_t i = 0; i < padding; i++)
		s[n++] = pad[(number + i) % (sizeof pad - 1)];
	n += (size_t)snprintf(s + n, cap - n, "\"%s", kind == KIND_NO_JSON ? "" : "}");
	if (kind == KIND_NO_OBJECT)
		s[n++] = ']';
	return n;
}

/* Other gateways hear the same requests, so that this one says nothing about a device that it does not
 * know (but of a reply that is spoiled it can't tell). */
static bool perhaps_unanswered(enum kind kind)
{
	return kind == KIND_FOREIGN && strstr(w.config.topic_prefix, "{serial}") == NULL;
}

static void accept(uint32_t number)
{
	struct request *r = &w.request[number];
	if (r->accepted || r->forbidden)
		return;
	r->accepted = true;
	w.null_accepted += request_kind(number) >= KIND_NO_JSON;
}

void request_read(uint32_t number, uint8_t qos, bool old)
{
	struct request *r = &w.request[number];
	if (r->order != 0 || r->forbidden)
		return;
	trace("client: has read request %u%s", number, old ? ", which is stale" : "");
	note(1, number);
	if (old) {
		r->forbidden = true;
		counts.stale++;
		return;
	}
	r->order = ++w.order;
	if (qos == 0 && !w.bridge->passed_over) /* the broker could not send it again */
		accept(number);
}

void request_accepted(uint32_t number)
{
	if (request_kind(number) == KIND_TOO_LARGE) /* as soon as its beginning was read */
		request_read(number, 1, stale);
	if (w.request[number].order == 0 && !w.request[number].forbidden)
		broken("request %u was acknowledged before it was read", number);
	accept(number);
}

void request_executed(uint32_t number)
{
	struct request *r = &w.request[number];
	trace("API: executes request %u", number);
	note(2, number);
	counts.executed++;
	r->executed++;
	if (r->forbidden || r->order == 0)
		broken("request %u was executed although it is stale, retained, or was never sent", number);
	if (r->never)
		broken("request %u was executed although its answer says that it was not", number);
	if (r->executed > (request_kind(number) == KIND_READ && r->retry ? 2 : 1))
		broken("request %u was executed %u times", number, r->executed);
}

/* --- answers --- */

static uint64_t sum_of(struct slice s)
{
	uint64_t h = 14695981039346656037u;
	for (size_t i = 0; i < s.n; i++)
		h = (h ^ s.p[i]) * 1099511628211u;
	return h;
}

static bool is_word(struct slice value, const char *word)
{
	return value.n == strlen(word) + 2 && memcmp(value.p + 1, word, value.n - 2) == 0;
}

/* Does the answer fit what the request was? */
static void check_response(uint32_t number, struct slice response, struct slice code, const struct answer *a)
{
	static const char *const codes[] = {[KIND_BAD_VALUE] = "bad_value",
	        [KIND_BAD_CODE] = "unsupported_function_code",
	        [KIND_NO_OBJECT] = "not_an_object"};
	enum kind kind = number > 0 ? request_kind(number) : KIND_NO_JSON;
	if (is_word(code, "shutting_down") || a->busy)
		return;
	if (number == 0) {
		if (!is_word(code, "invalid_json") && !is_word(code, "too_large"))
			broken("an answer without its request: %.*s", (int)code.n, code.p);
	} else if (kind >= KIND_BAD_VALUE && !is_word(code, codes[kind])) {
		broken("request %u was answered with %.*s", number, (int)code.n, code.p);
	} else if (kind < KIND_BAD_VALUE && code.p == NULL &&
	           slice_u64(json_get(response, "unique"), REQUESTS_MAX) != number) {
		struct slice s = response; /* the texts of a spoiled reply have no number */
		if (!slice_is(s, "[1,2") && json_get(s, "error").p == NULL && !slice_is(s, "null"))
			broken("request %u was answered with another one's reply: %.*s", number, (int)s.n,
			        s.p);
	} else if (kind < KIND_BAD_VALUE && code.p != NULL && memcmp(code.p, "\"api_", 5) != 0) {
		broken("request %u was answered with %.*s", number, (int)code.n, code.p);
	}
}

struct answer answer_read(struct slice payload)
{
	static unsigned char again[32768];
	struct answer a = {.sum = sum_of(payload)};
	size_t at;
	if (json_check(payload, NULL, &at) != NULL || !is_word(json_get(payload, "type"), "modbus_response"))
		broken("an answer that is none: %.*s", (int)payload.n, payload.p);
	struct slice request = json_get(payload, "request"), response = json_get(payload, "response");
	struct slice code = json_get(response, "code"), inner = request;
	a.busy = code.p != NULL && is_word(code, "busy");
	a.unexecuted = a.busy || (code.p != NULL && is_word(code, "api_unreachable"));
	if (json_kind(request) == JSON_ARRAY)
		inner = (struct slice){request.p + 1, request.n - 2};
	if (json_kind(request) != JSON_NULL) {
		int64_t number = slice_u64(json_get(inner, "id"), w.requests - 1);
		if (number <= 0)
			broken("an answer to an unknown request: %.*s", (int)payload.n, payload.p);
		a.number = (uint32_t)number;
		size_t n = request_put(a.number, again, sizeof again);
		if (n != request.n || memcmp(again, request.p, n) != 0)
			broken("the answer to %u does not repeat it byte for byte", a.number);
	}
	check_response(a.number, response, code, &a);
	if (a.number != 0 && a.unexecuted && w.request[a.number].executed > 0)
		broken("the answer to %u says that it was not executed, but it was", a.number);
	if (a.number != 0 && a.unexecuted)
		w.request[a.number].never = true;
	return a;
}

/* An answer that reached the broker before: may it come again? */
static void check_again(const struct request *r, const struct answer *a, bool dup, uint16_t id,
        uint32_t connection, uint32_t session)
{
	if (r->acknowledged || r->answer_on == connection || r->answer_sum != a->sum)
		broken("request %u was answered again%s", a->number,
		        r->acknowledged ? " after the answer was acknowledged" : "");
	if (r->answer_session == session && (!dup || id != r->answer_id))
		broken("the answer to %u came again without DUP or with another id", a->number);
	counts.duplicates++;
}

void answer_arrived(
        const struct answer *a, bool dup, uint16_t id, uint32_t connection, uint32_t session, bool new)
{
	if (dup && new)
		broken("an answer with DUP in a session that is new");
	note(3, a->number);
	if (a->number == 0) {
		w.null_spare += dup;
		w.null_answers++;
		counts.answers++;
		return;
	}
	struct request *r = &w.request[a->number];
	if (r->order == 0 || r->forbidden)
		broken("request %u must not be answered", a->number);
	if (r->answers == 0) {
		uint32_t *last = &w.device_order[request_device(a->number)];
		bool ordered = !a->busy && request_kind(a->number) != KIND_NO_OBJECT &&
		               request_kind(a->number) != KIND_FOREIGN;
		if (ordered && r->order < *last)
			broken("request %u was answered after a later one of its device", a->number);
		if (ordered)
			*last = r->order;
		r->answers = 1;
		counts.answers++;
		counts.busy += a->busy;
	} else {
		check_again(r, a, dup, id, connection, session);
	}
	r->answer_id = id;
	r->answer_on = connection;
	r->answer_session = session;
	r->answer_sum = a->sum;
}

/* --- what the client shows of itself after each step --- */

static void read_mark(const struct mark *m)
{
	struct wire *l = &wires[LINK_BROKER];
	if (m->kind == MARK_CONNACK) {
		int64_t window = (int64_t)w.config.session_window_s * 1000;
		stale = m->number && (w.served_until == never || w.now - w.served_until > window);
		trace("client: has read CONNACK%s", stale ? ", stale session" : "");
	} else if (m->kind == MARK_REQUEST) {
		request_read(m->number, m->qos, stale);
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

static void check_log(void)
{
	size_t at = 0;
	enum bridge_level level;
	struct slice text;
	while (bridge_take_log(w.bridge, &at, &level, &text)) {
		trace("log: %.*s", (int)text.n, text.p);
		bool blames = slice_find(text, "(MQTT-") < text.n || slice_find(text, "not belong") < text.n;
		if (blames && !broker_is_rude())
			broken("a legal packet is taken for a wrong one: %.*s", (int)text.n, text.p);
		if (level > LEVEL_DEBUG || text.n == 0 || text.n > 1500)
			broken("a log line of %zu bytes", text.n);
		for (size_t i = 0; i < text.n; i++)
			if (text.p[i] < ' ' || text.p[i] > '~')
				broken("a log line with byte %02x", text.p[i]);
	}
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
}

static int64_t latest(int64_t a, int64_t b)
{
	return a > b ? a : b;
}

/* The grid of the states. */
static void check_states(void)
{
	const struct wire *l = &wires[LINK_BROKER];
	int64_t beat = (int64_t)w.config.state_interval_s * 1000, limit = w.config.api_timeout_s * 1000;
	if (w.serving_since == never || l->window != 0 || l->dead || gateway_healthy_since > w.now ||
	        broker_is_mute())
		return;
	int64_t since = latest(latest(w.state_at, w.serving_since),
	        latest(gateway_healthy_since + limit + beat, l->stalled_until + 1000));
	if (w.now - since > beat + 1000)
		broken("no state for %lld ms", (long long)(w.now - since));
}

/* A broker that went silent is noticed. */
static void check_dead(void)
{
	const struct wire *l = &wires[LINK_BROKER];
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

static void after_step(void)
{
	bool serving = w.bridge->phase == PHASE_SERVE || w.bridge->phase == PHASE_DRAIN;
	if (!serving && w.bridge->served_since_ms == w.now && w.bridge->phase != PHASE_SUBSCRIBE)
		w.served_until = w.now;
	if (serving && w.serving_since == never) {
		counts.services++;
		w.serving_since = w.now;
		note(4, 0);
	} else if (!serving && w.serving_since != never) {
		w.serving_since = never;
		w.served_until = w.now;
		note(5, 0);
		trace("client: service has ended");
	}
	read_marks();
	check_log();
	check_memory();
	check_dead();
	if (!w.bridge->stopping)
		check_states();
	counts.steps++;
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
	w.serving_since = w.served_until = never;
	w.state_at = w.now;
	stale = false;
	stop_at = never;
	trace("client: starts");
}

/* The client is gone: what it had accepted may go unanswered. */
static void gone(void)
{
	w.running = false;
	w.serving_since = never;
	start_at = w.now + 1 + draw(chance(2) ? 3000 : 200000);
	for (uint32_t i = 1; i < w.requests; i++) {
		struct request *r = &w.request[i];
		if (r->order != 0 && !r->excused && r->answers == 0)
			w.null_excused += request_kind(i) >= KIND_NO_JSON;
		if (r->order != 0)
			r->excused = true;
	}
	wires_drop();
}

static void operate(void)
{
	operate_at = w.now + 1 + draw(2 * pace_ms);
	uint32_t n = chance(150) ? 50 + draw(400) : 1;
	for (; n > 0 && w.requests < REQUESTS_MAX - 1; n--) {
		static const uint8_t usual[] = {1, 1, 1, 1, 0, 2};
		uint8_t qos = usual[draw(hashed(0, 6, 3) == 0 ? 6 : 5)];
		counts.requests++;
		broker_publish(w.requests++, qos);
	}
}

static void break_connection(struct wire *l)
{
	uint32_t x = draw(4);
	if (!l->open || l->dead)
		return;
	trace("fault: connection %u %s", l->number,
	        x == 0   ? "reset"
	        : x == 1 ? "closed"
	        : x == 2 ? "dead"
	                 : "stalled");
	if (l != &wires[LINK_BROKER] && gateway_health == HEALTHY)
		gateway_healthy_since = w.now; /* for the grid: from here on again */
	if (x < 2)
		wire_end(l, x == 0);
	else if (x == 2)
		wire_die(l);
	else
		l->stalled_until = w.now + 1 + draw(chance(2) ? 2000 : 30000);
}

static void fault(void)
{
	fault_at = w.now + 1 + draw(2 * fault_ms);
	counts.faults++;
	switch (draw(11)) {
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
	case 9:
		if (!w.running || !chance(4))
			break;
		counts.restarts++;
		if (chance(2)) {
			trace("fault: the client is killed");
			gone();
		} else {
			trace("operator: stops the client");
			bridge_stop(w.bridge);
			stop_at = w.now + 12000;
		}
		break;
	default: gateway_turn(HEALTHY);
	}
}

/* From its own stream of chance, so that a run without jumps is the same but for this. */
static void jump(void)
{
	uint64_t keep = w.random;
	w.random = w.wall_random;
	jump_at = w.now + 1 + draw(1200 * 1000);
	int64_t years = (int64_t)draw(120) - 10; /* since 1970 */
	int64_t at = (years * 366 * 86400 + draw(86400)) * 1000000 - w.now * 1000;
	w.wall_random = w.random;
	w.random = keep;
	if (w.jumps && at > 0) {
		w.wall_offset_us = at;
		trace("fault: the wall clock jumps to %lld", (long long)(1970 + years));
	}
}

static void calm_down(void)
{
	trace("calm: nothing is broken from now on");
	w.calm = w.now;
	gateway_turn(HEALTHY);
	broker_down_until = 0;
	fault_at = operate_at = jump_at = never;
	for (size_t i = 0; i < BRIDGE_LINKS; i++)
		wires[i].window = 0;
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

static void check_end(void)
{
	for (uint32_t i = 1; i < w.requests; i++) {
		const struct request *r = &w.request[i];
		enum kind kind = request_kind(i);
		if (r->accepted && r->answers == 0 && !r->excused && kind < KIND_NO_JSON &&
		        !perhaps_unanswered(kind))
			broken("request %u was accepted and never answered", i);
	}
	if (w.null_answers + w.null_excused < w.null_accepted)
		broken("%u requests without JSON were accepted, %u answered", w.null_accepted,
		        w.null_answers);
}

static int64_t min(int64_t a, int64_t b)
{
	return a < b ? a : b;
}

/* Lets happen what is due. */
static void happen(void)
{
	gateway_run();
	broker_run();
	if (w.now >= w.end && w.calm == never)
		calm_down();
	if (w.now >= operate_at)
		operate();
	if (w.now >= fault_at)
		fault();
	if (w.now >= jump_at)
		jump();
	if (!w.running && w.now >= start_at)
		start();
	if (w.running && w.bridge->stopping && w.now > stop_at)
		broken("it did not stop in time");
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
		}
		idle = 0;
		int64_t next =
		        min(min(wires_next(), broker_next()), min(gateway_next(), min(operate_at, fault_at)));
		next = min(next, min(jump_at, w.running ? wake : start_at));
		if (w.calm == never)
			next = min(next, w.end);
		if (next > w.now) {
			w.now = next;
			turns = 0;
		}
		happen();
		if (w.calm != never && w.now > w.calm + SETTLE_MS)
			broken("it does not settle");
	}
	check_end();
}

static void set_up(uint64_t seed, int64_t hours)
{
	static const uint32_t lifetimes[] = {20, 120, 300, 3600, 86400}, windows[] = {0, 10, 60, 60, 600},
	                      paces[] = {3000, 20000, 60000, 300000}, faults[] = {20000, 120000, 900000};
	static const uint16_t keeps_alive[] = {10, 60, 60, 300};
	bool talks = w.talks, jumps = w.jumps;
	memset(&w, 0, offsetof(struct world, request) + sizeof w.request[0] * (w.requests + 1));
	memset(w.request, 0, sizeof w.request);
	memset((char *)&w + offsetof(struct world, request) + sizeof w.request, 0,
	        sizeof w - offsetof(struct world, request) - sizeof w.request);
	w.talks = talks;
	w.jumps = jumps;
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
	pace_ms = paces[draw(4)];
	fault_ms = faults[draw(3)];
	operate_at = fault_at = jump_at = w.now;
	stop_at = never;
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

static void show(void)
{
	size_t first = line_count > TRACE_LINES ? line_count - TRACE_LINES : 0;
	for (size_t i = first; i < line_count && !w.talks; i++)
		puts(lines[i % TRACE_LINES]);
}

static int failed(uint64_t seed, int64_t hours)
{
	char first[sizeof message];
	memcpy(first, message, sizeof first);
	keeps = true;
	if (!w.talks)
		run(seed, hours);
	show();
	printf("seed %llu, at %.3f s: %s\n", (unsigned long long)seed, (double)w.now / 1000, first);
	if (strcmp(first, message) != 0)
		printf("the second run differs: %s\n", message);
	return 1;
}

int main(int argc, char **argv)
{
	long long number[3] = {1, 20, 10};
	int n = 0;
	for (int i = 1; i < argc; i++) {
		if (strcmp(argv[i], "-v") == 0)
			w.talks = true;
		else if (n < 3)
			number[n++] = atoll(argv[i]);
	}
	int64_t simulated_ms = 0;
	for (long long seed = number[0]; seed < number[0] + number[1]; seed++) {
		w.jumps = true;
		if (!run((uint64_t)seed, number[2]))
			return failed((uint64_t)seed, number[2]);
		simulated_ms += w.now;
		uint64_t sum = w.sum;
		if (seed % 8 != 0)
			continue;
		w.jumps = false;
		if (!run((uint64_t)seed, number[2]) || w.sum != sum) {
			printf("seed %lld differs when the wall clock does not jump\n", seed);
			return 1;
		}
		simulated_ms += w.now;
	}
	printf("%lld seeds, %.0f hours: %llu requests, %llu executed, %llu answers (%llu busy, %llu again), "
	       "%llu stale; "
	       "%llu states; %llu faults, %llu connections, %llu services, %llu restarts; %llu steps\n",
	        number[1], (double)simulated_ms / HOUR_MS, (unsigned long long)counts.requests,
	        (unsigned long long)counts.executed, (unsigned long long)counts.answers,
	        (unsigned long long)counts.busy, (unsigned long long)counts.duplicates,
	        (unsigned long long)counts.stale, (unsigned long long)counts.states,
	        (unsigned long long)counts.faults, (unsigned long long)counts.connects,
	        (unsigned long long)counts.services, (unsigned long long)counts.restarts,
	        (unsigned long long)counts.steps);
	return 0;
}
