#include "bridge.h"

#include <string.h>

#include "core.h"
#include "json.h"

enum { LOG_AGAIN_MS = 60 * 1000 }; /* the same cause is logged once in this time */

/* What the sizes owe each other (a firmware may set its own). */
_Static_assert(BRIDGE_CALL_BODY_BYTES <= HTTP_BODY_BYTES, "a Modbus reply is a reply");
_Static_assert(
        BRIDGE_PACKET_BYTES >= BRIDGE_REQUEST_BYTES + BRIDGE_TEXT_BYTES + 72, "a request in its packet");
_Static_assert(BRIDGE_REQUEST_BYTES >= BRIDGE_SERIAL_BYTES + 256, "the token's claims, or the last will");
_Static_assert(BRIDGE_QUEUE_BYTES >= BRIDGE_REQUEST_BYTES + 64, "the largest request waits");
_Static_assert(BRIDGE_CONTROL_BYTES >= BRIDGE_SECRET_BYTES + 4 * BRIDGE_TEXT_BYTES + 256, "CONNECT");
_Static_assert(BRIDGE_OUTBOX_BYTES >= HTTP_BODY_BYTES + BRIDGE_TEXT_BYTES + 256, "the largest state");
_Static_assert(BRIDGE_OUTBOX_BYTES < 65533 * 32, "a packet id for each publish");
_Static_assert(BRIDGE_OUTBOX_BYTES >=
                       BRIDGE_RESERVE_BYTES + BRIDGE_REQUEST_BYTES + BRIDGE_CALL_BODY_BYTES / 4 * 5 + 512,
        "the largest answer, whose NaN become null, and the reserve");

/* --- log lines: a byte of level, the text, a line end --- */

struct buf *log_begin(struct bridge *b, enum bridge_level level)
{
	b->log_at = b->log.n;
	if (level > b->log_level) /* nobody wants it: as a line that does not fit */
		b->log.full = true;
	buf_put_byte(&b->log, (unsigned char)level);
	return &b->log;
}

enum bridge_level log_limited(struct bridge *b, enum bridge_level level, unsigned cause)
{
	int64_t now = b->time.now_ms, last = b->cause[cause].logged_ms;
	if (last != 0 && now - last < LOG_AGAIN_MS) {
		b->cause[cause].more++;
		b->log_held = true;
		return LEVEL_DEBUG;
	}
	b->log_more = b->cause[cause].more;
	b->cause[cause].more = 0;
	b->cause[cause].logged_ms = now;
	return level;
}

void log_end(struct bridge *b)
{
	if (b->log_more > 0)
		buf_put_text(&b->log, "; more of this kind since it was last logged: %u", b->log_more);
	b->log_more = 0;
	buf_put_byte(&b->log, '\n');
	if (b->log.full) { /* the whole line goes, the earlier ones stay */
		b->log.n = b->log_at;
		b->log.full = false;
	}
}

void log_line(struct bridge *b, enum bridge_level level, const char *format, ...)
{
	va_list args;
	va_start(args, format);
	buf_put_args(log_begin(b, level), format, args);
	va_end(args);
	log_end(b);
}

/* Of some kinds only the count is left to be logged: they came, and then no more. all: do not wait. */
static void log_rest(struct bridge *b, bool all)
{
	static const char *const names[] = {"retained requests", "requests for devices of other gateways",
	        "requests without room", "connections that ended soon", "the next token",
	        "dates of the token", "the state"};
	bool held = b->log_held;
	b->log_held = false;
	for (unsigned i = 0; i < BRIDGE_CAUSES && held; i++) {
		bool soon = b->time.now_ms - b->cause[i].logged_ms < LOG_AGAIN_MS;
		if (i >= CAUSE_FAILURE && b->failure_why != NULL) /* goes on: the next one tells more */
			soon = true;
		if (b->cause[i].more == 0)
			continue;
		if (soon && !all) {
			b->log_held = true;
			continue;
		}
		b->cause[i].logged_ms = 0;
		log_line(b, log_limited(b, LEVEL_WARN, i), "not logged one by one: %s",
		        i >= CAUSE_FAILURE    ? b->failure[i - CAUSE_FAILURE]
		        : i >= CAUSE_RETAINED ? names[i - CAUSE_RETAINED]
		                              : bridge_error_code[i]);
	}
}

bool bridge_take_log(struct bridge *b, size_t *at, enum bridge_level *level, struct slice *text)
{
	if (*at >= b->log.n) {
		b->log.n = 0;
		return false;
	}
	const unsigned char *line = b->log.p + *at, *end = memchr(line, '\n', b->log.n - *at);
	*level = (enum bridge_level)line[0];
	*text = (struct slice){line + 1, (size_t)(end - line) - 1};
	*at += text->n + 2;
	return true;
}

/* --- what the files of the core share --- */

uint32_t bridge_random(struct bridge *b)
{
	uint32_t x = b->random; /* Marsaglia, Xorshift RNGs (2003), triple 13, 17, 5 */
	x ^= x << 13;
	x ^= x >> 17;
	x ^= x << 5;
	return b->random = x;
}

void wake_at(struct bridge *b, int64_t at_ms)
{
	if (at_ms < b->wake_ms)
		b->wake_ms = at_ms;
}

bool due(struct bridge *b, int64_t at_ms)
{
	bool is = b->time.now_ms >= at_ms;
	if (!is)
		wake_at(b, at_ms);
	return is;
}

unsigned back_off_ms(unsigned failures)
{
	return failures < 6 ? 1000u << failures : 60 * 1000;
}

void put_message(const struct bridge *b, struct buf *p, const char *type)
{
	buf_put_str(p, "{\"timestamp\": \"");
	buf_put_time(p, b->time.wall_us);
	buf_put_text(p, "\", \"type\": \"%s\"", type);
}

bool publish_begin(struct bridge *b, const char *topic, const char *type, struct buf *payload)
{
	bool room = mqtt_outbox_begin(&b->outbox, slice_str(topic), payload);
	if (room)
		put_message(b, payload, type);
	return room;
}

/* --- how long things take --- */

int64_t times_least(size_t i)
{
	return i < 2 ? (int64_t)i : (int64_t)(2 + i % 2) << (i / 2 - 1);
}

void times_add(struct bridge_times *t, int64_t ms)
{
	size_t i = 0;
	while (i < TIMES_BUCKETS - 1 && ms >= times_least(i + 1))
		i++;
	t->bucket[i]++;
	t->sum_ms += ms;
	if (ms > t->max_ms)
		t->max_ms = ms;
}

/* --- the state --- */

/* The API's object, its own timestamp and type left out; words: it has some that JSON does not know. To add a
 * member of every state, put it here. */
static void put_state(struct buf *p, struct slice object, bool words)
{
	struct slice name, value;
	for (size_t at = 0; json_next(object, &at, &name, &value);) {
		if (json_name_is(name, "timestamp") || json_name_is(name, "type"))
			continue;
		buf_put_str(p, ", \"");
		buf_put_slice(p, name);
		buf_put_str(p, "\": ");
		if (words)
			json_put_value(p, value);
		else
			buf_put_slice(p, value);
	}
	buf_put_byte(p, '}');
}

static void put_fallback(struct bridge *b, struct buf *p)
{
	buf_put_str(p, ", \"status\": \"api_unavailable\", \"uptime\": ");
	buf_put_seconds(p, b->time.now_ms - b->started_ms);
	buf_put_str(p, ", \"version\": \"" IAMCAT_VERSION
	               "\", \"error\": \"Failed to fetch state from web container\"}");
}

/* Queues a state in place of one that was not sent yet: the API's object, or the fallback when object.p is
 * NULL. */
static bool publish_state(struct bridge *b, struct slice object, bool words)
{
	struct buf p;
	mqtt_outbox_drop_passing(&b->outbox, false);
	if (!publish_begin(b, b->topic_state, "gateway_state", &p))
		return false;
	if (object.p != NULL)
		put_state(&p, object, words);
	else
		put_fallback(b, &p);
	return mqtt_outbox_commit(&b->outbox, &p, true);
}

/* NULL when the call brought a usable state, or what is wrong with it. */
static const char *state_wrong(const struct api *a, bool *words)
{
	size_t at;
	const char *why = a->why;
	if (why == NULL)
		why = json_check(a->reply.body, words, &at);
	if (why == NULL && json_kind(a->reply.body) != JSON_OBJECT)
		why = "the reply is not a JSON object";
	return why;
}

/* Says once that the state can't be had, and once that it can again. */
static void log_state(struct bridge *b, const char *wrong)
{
	if ((wrong != NULL) == b->state_failing)
		return;
	enum bridge_level level = wrong != NULL ? log_limited(b, LEVEL_WARN, CAUSE_STATE) : LEVEL_INFO;
	if (level == LEVEL_DEBUG)
		return;
	b->state_failing = wrong != NULL;
	struct buf *log = log_begin(b, level);
	buf_put_text(log, "gateway API, state: %s", wrong != NULL ? wrong : "available again");
	if (wrong != NULL && b->state.state == API_DONE)
		buf_put_text(log, " (status %u)", b->state.reply.status);
	if (wrong != NULL && !b->config->probe)
		buf_put_str(log, "; publishing status api_unavailable until it is back");
	log_end(b);
}

static void step_state(struct bridge *b)
{
	struct api *a = &b->state;
	int64_t now = b->time.now_ms, interval = (int64_t)b->config->state_interval_s * 1000;
	bool lent = b->identity == a;
	if (!lent && api_step(b, a)) {
		bool words = false;
		const char *wrong = state_wrong(a, &words);
		log_state(b, wrong);
		if (wrong == NULL) {
			b->stats.states++;
			b->stats.state_ms = now;
		} else {
			b->stats.states_failed++;
		}
		/* Behind the word that we are gone comes none. */
		if (b->topic_state[0] != 0 && !b->said_offline && !b->config->probe)
			publish_state(b, wrong == NULL ? a->reply.body : (struct slice){NULL, 0}, words);
		api_finish(b, a);
	}
	if (b->stopping)
		return;
	if (due(b, b->tick_ms)) /* the beat is lost only when a fetch is under way, not when a token is */
		b->state_due = lent || a->state != API_BUSY;
	while (b->tick_ms <= now)
		b->tick_ms += interval;
	wake_at(b, b->tick_ms);
	/* Its time counts from the beat, so that it is over at a later beat and not just after it. */
	if (b->state_due && !lent && a->state == API_IDLE) {
		api_begin(a, "GET /api/state");
		b->state_due = !api_start(b, a, (struct slice){NULL, 0}, b->tick_ms - interval);
	}
}

/* --- the whole --- */

/* Its memory for a writer that is all zero. */
static void give(struct buf *b, void *mem, size_t cap)
{
	b->p = mem;
	b->cap = cap;
}

void bridge_init(struct bridge *b, const struct bridge_config *config, struct tls *tls,
        const struct tls_anchors *anchors, uint32_t random, struct bridge_time time)
{
	b->config = config;
	b->random = random != 0 ? random : 1; /* 0 is the generator's fixed point */
	b->time = time;
	b->started_ms = time.now_ms;
	b->tick_ms = config->probe ? INT64_MAX : time.now_ms; /* the one state comes when all else is there */
	give(&b->log, b->log_mem, sizeof b->log_mem);
	b->log_level = LEVEL_DEBUG;
	give(&b->control, b->control_mem, sizeof b->control_mem);
	for (size_t i = 0; i < BRIDGE_LINKS; i++) {
		b->link[i].host = i == LINK_BROKER ? config->broker_host : config->api_host;
		b->link[i].port = i == LINK_BROKER ? config->broker_port : config->api_port;
		/* Nothing belongs on a connection that waits for a call: a single byte, which is never read,
		 * shows that the server is done with it. */
		give(&b->link[i].in, b->spare_mem, sizeof b->spare_mem);
	}
	struct link *broker = &b->link[LINK_BROKER];
	broker->tls = tls;
	broker->server_name = config->tls_server_name[0] != 0 ? config->tls_server_name : broker->host;
	broker->anchors = anchors;
	give(&b->state.in, b->state_in, sizeof b->state_in);
	give(&b->state.out, b->state_out, sizeof b->state_out);
	for (size_t i = 0; i < BRIDGE_CALLS; i++) {
		give(&b->call[i].in, b->call_in[i], sizeof b->call_in[i]);
		give(&b->call[i].out, b->call_out[i], sizeof b->call_out[i]);
	}
	mqtt_outbox_init(&b->outbox, b->outbox_mem, sizeof b->outbox_mem);
	requests_init(b);
	session_init(b);
}

int64_t bridge_step(struct bridge *b, struct bridge_time time)
{
	b->time = time;
	b->wake_ms = INT64_MAX;
	log_rest(b, false);
	session_step(b);
	size_t answers = b->outbox.queue.used, requests = b->requests.used;
	requests_step(b);
	step_state(b);
	if (b->outbox.queue.used != answers || b->requests.used != requests)
		session_step(b); /* what the others have brought goes out now */
	api_keep_spares(b);
	return b->wake_ms;
}

const char *bridge_client_id(const struct bridge *b)
{
	return b->config->client_id[0] != 0 ? b->config->client_id : b->serial;
}

void *bridge_unused(struct bridge *b)
{
	size_t held = b->requests.used + b->outbox.queue.used + b->control.n + b->packet_n + b->log.n;
	for (size_t i = 0; i < BRIDGE_CALLS; i++)
		held += b->call[i].state != API_IDLE;
	if (held > 0 || b->state.state != API_IDLE)
		return NULL;
	return b->token[0] == 0 ? (void *)b->token : b->control_mem;
}

void bridge_stop(struct bridge *b)
{
	if (b->stopping)
		return;
	b->stopping = true;
	log_rest(b, true);
	session_stop(b);
}

bool bridge_done(const struct bridge *b)
{
	return b->phase == PHASE_DONE;
}
