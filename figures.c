#include "figures.h"

#include <string.h>

#include "core.h"
#include "json.h"

#define AT(f)             offsetof(struct figures, f)
#define IN(f)             offsetof(struct bridge, f)
#define NAMED(name, help) name "\0" help

enum kind {
	TEXT,
	INFO, /* a text that is a label of the metric iamcat_info */
	FLAG,
	SECONDS,
	NUMBER, /* goes up and down */
	BYTES,  /* the same */
	/* These are in struct bridge, the others in struct figures. */
	COUNT,   /* only grows */
	WORD,    /* one of words, by its index */
	NUMBERS, /* one count for each of words, the first of which may be "" for all is well */
	TIMES
};

static const char *const phases[BRIDGE_PHASES] = {"serial", "token", "dial", "hello", "subscribe", "serve",
        "renew", "stale", "discard", "pause", "drain", "leave", "done"};
static const char *const skips[BRIDGE_SKIPS] = {"stale", "duplicate", "retained", "full", "others"};
static const char *const ends[BRIDGE_ENDS] = {"api", "refused", "tls", "login", "subscribe", "timeout",
        "lost", "takeover", "protocol", "token", "stale", "full"};

/* What a WORD is one of, and for what NUMBERS count; the name of that as a label. */
static const struct words {
	const char *label;
	const char *const *word;
	size_t n;
} words[] = {{"phase", phases, BRIDGE_PHASES}, {"code", bridge_error_code, BRIDGE_ERRORS},
        {"reason", skips, BRIDGE_SKIPS}, {"reason", ends, BRIDGE_ENDS}};

/* One row for each figure: all of the forms come from here. */
static const struct figure {
	const char *name;    /* behind its NUL its help */
	uint8_t kind, words; /* index of its words */
	uint16_t offset;
} figures[] = {
        {NAMED("version", "iamcat"), INFO, 0, AT(version)},
        {NAMED("gateway", "gateway"), INFO, 0, AT(gateway)},
        {NAMED("client_id", "client id"), INFO, 0, AT(client_id)},
        {NAMED("broker", "broker"), INFO, 0, AT(broker)},
        {NAMED("broker_address", "its address"), INFO, 0, AT(address)},
        {NAMED("connected_since", "connected since"), TEXT, 0, AT(since)},
        {NAMED("health", "health"), TEXT, 0, AT(health)},
        {NAMED("healthy", "is healthy"), FLAG, 0, AT(healthy)},
        {NAMED("phase", "phase"), WORD, 0, IN(phase)},
        {NAMED("phase_seconds", "in this phase for"), SECONDS, 0, AT(phase_ms)},
        {NAMED("uptime_seconds", "running for"), SECONDS, 0, AT(up_ms)},
        {NAMED("gap_seconds", "out of service for"), SECONDS, 0, AT(gap_ms)},
        {NAMED("token_age_seconds", "age of the token"), SECONDS, 0, AT(token_ms)},
        {NAMED("state_age_seconds", "age of the state"), SECONDS, 0, AT(state_ms)},
        {NAMED("memory_bytes", "resident memory"), BYTES, 0, AT(memory_bytes)},
        {NAMED("spare_connections", "spare connections"), NUMBER, 0, AT(spares)},
        {NAMED("states_total", "states"), COUNT, 0, IN(stats.states)},
        {NAMED("states_failed_total", "states that failed"), COUNT, 0, IN(stats.states_failed)},
        {NAMED("requests_total", "requests"), COUNT, 0, IN(last_request)},
        {NAMED("requests_waiting", "requests waiting"), NUMBER, 0, AT(waiting)},
        {NAMED("requests_running", "requests running"), NUMBER, 0, AT(running)},
        {NAMED("messages_waiting", "messages waiting"), NUMBER, 0, AT(unacknowledged)},
        {NAMED("answers_total", "answers"), NUMBERS, 1, IN(stats.answers)},
        {NAMED("skipped_total", "requests skipped"), NUMBERS, 2, IN(stats.skipped)},
        {NAMED("reconnects_total", "reconnects"), NUMBERS, 3, IN(stats.ends)},
        {NAMED("round_trip_seconds", "request to answer"), TIMES, 0, IN(stats.round_trip)},
        {NAMED("api_seconds", "API call"), TIMES, 0, IN(stats.api)},
};

#define FIGURES (sizeof figures / sizeof figures[0])

/* --- the moment --- */

/* "in service", or since when it is not, and why. */
static void describe_health(struct figures *f, uint32_t grace_s)
{
	struct buf t = BUF(f->health_mem);
	const char *why = f->b->failure_why;
	f->healthy = f->gap_ms <= (int64_t)grace_s * 1000;
	if (f->gap_ms == 0) {
		buf_put_str(&t, "in service");
	} else {
		buf_put_text(&t, "out of service for %u s (healthy up to %u)%s%s",
		        (unsigned)(f->gap_ms / 1000), grace_s, why != NULL ? ": " : "",
		        why != NULL ? why : "");
	}
	f->health = buf_cstr(&t);
}

static void describe_broker(struct figures *f, const struct link *l)
{
	struct buf t = BUF(f->broker_mem);
	buf_put_text(&t, "%s:%u", l->host, l->port);
	f->broker = buf_cstr(&t);
	t = BUF(f->since_mem);
	if (l->state == LINK_UP) {
		buf_put_time(&t, l->wall_s * 1000000);
		t.n -= sizeof ".000000Z" - 1; /* it is known to the second */
		buf_put_byte(&t, 'Z');
	}
	f->since = buf_cstr(&t);
	f->address = l->state == LINK_UP ? l->peer : "";
}

void figures_take(struct figures *f, const struct bridge *b, int64_t memory_bytes, uint32_t grace_s)
{
	const struct bridge_config *c = b->config;
	int64_t now = b->time.now_ms;
	bool serves = b->phase == PHASE_SERVE || b->phase == PHASE_DRAIN;
	f->b = b;
	f->version = IAMCAT_VERSION;
	f->gateway = b->serial;
	f->client_id = bridge_client_id(b);
	describe_broker(f, &b->link[LINK_BROKER]);
	f->up_ms = now - b->started_ms;
	f->gap_ms = serves ? 0 : now - (b->served_until_ms != 0 ? b->served_until_ms : b->started_ms);
	describe_health(f, grace_s);
	f->phase_ms = now - b->phase_since_ms;
	f->token_ms = b->token_ms != 0 && !c->has_login ? now - b->token_ms : -1;
	f->state_ms = b->stats.state_ms != 0 ? now - b->stats.state_ms : -1;
	f->memory_bytes = memory_bytes;
	f->spares = (int64_t)api_spares(b);
	f->running = (int64_t)requests_running(b);
	f->waiting = (int64_t)requests_waiting(b) - f->running;
	f->unacknowledged = (int64_t)mqtt_outbox_count(&b->outbox);
}

static const void *field(const struct figures *f, const struct figure *row)
{
	return (row->kind >= COUNT ? (const unsigned char *)f->b : (const unsigned char *)f) + row->offset;
}

static const char *help_of(const struct figure *row)
{
	return row->name + strlen(row->name) + 1;
}

static const char *text_of(const struct figures *f, const struct figure *row)
{
	return *(const char *const *)field(f, row);
}

static int64_t number_of(const struct figures *f, const struct figure *row)
{
	const void *at = field(f, row);
	return row->kind >= COUNT ? *(const uint32_t *)at : *(const int64_t *)at;
}

static const char *word_of(const struct figure *row, size_t i)
{
	const char *word = words[row->words].word[i];
	return word[0] != 0 ? word : "ok";
}

static uint64_t count_of(const struct bridge_times *t)
{
	uint64_t n = 0;
	for (size_t i = 0; i < TIMES_BUCKETS; i++)
		n += t->bucket[i];
	return n;
}

/* The time that so many per cent do not exceed: the end of its bucket, within which it is not known; -1 when
 * there was none. */
static int64_t percentile(const struct bridge_times *t, unsigned percent)
{
	uint64_t n = count_of(t), need = (n * percent + 99) / 100, sum = 0;
	for (size_t i = 0; i < TIMES_BUCKETS - 1; i++) {
		int64_t end = times_least(i + 1) - 1;
		sum += t->bucket[i];
		if (sum >= need && n > 0)
			return end < t->max_ms ? end : t->max_ms;
	}
	return n > 0 ? t->max_ms : -1;
}

static void put_number(struct buf *b, enum kind kind, int64_t v)
{
	if (v < 0)
		buf_put_str(b, "null");
	else if (kind == SECONDS || kind == TIMES)
		buf_put_seconds(b, v);
	else
		buf_put_i64(b, v);
}

/* --- JSON --- */

/* "name": behind the member before it, if there is one */
static void put_name(struct buf *b, const char *name)
{
	buf_put_text(b, "%s\"%s\": ", b->n > 0 && b->p[b->n - 1] == '{' ? "" : ", ", name);
}

static void put_members(struct buf *b, const struct figures *f, const struct figure *row)
{
	static const struct {
		char name[4];
		unsigned percent;
	} times[] = {{"p50", 50}, {"p99", 99}, {"max", 100}};
	bool is_times = row->kind == TIMES;
	buf_put_byte(b, '{');
	for (size_t i = 0; i < (is_times ? sizeof times / sizeof times[0] : words[row->words].n); i++) {
		put_name(b, is_times ? times[i].name : word_of(row, i));
		put_number(b, row->kind,
		        is_times ? percentile(field(f, row), times[i].percent)
		                 : ((const uint32_t *)field(f, row))[i]);
	}
	buf_put_byte(b, '}');
}

static void put_json_value(struct buf *b, const struct figures *f, const struct figure *row)
{
	if (row->kind >= NUMBERS)
		put_members(b, f, row);
	else if (row->kind <= INFO)
		json_put_string(b, slice_str(text_of(f, row)));
	else if (row->kind == WORD)
		buf_put_text(b, "\"%s\"", word_of(row, (size_t)number_of(f, row)));
	else if (row->kind == FLAG)
		buf_put_str(b, number_of(f, row) ? "true" : "false");
	else
		put_number(b, row->kind, number_of(f, row));
}

void figures_put_json(struct buf *b, const struct figures *f)
{
	buf_put_byte(b, '{');
	for (const struct figure *row = figures; row < figures + FIGURES; row++) {
		put_name(b, row->name);
		put_json_value(b, f, row);
	}
	buf_put_str(b, "}\n");
}

/* --- Prometheus --- */

/* The lines before the samples of one metric. */
static void put_head(struct buf *b, const char *name, const char *help, const char *type)
{
	buf_put_text(b, "# HELP iamcat_%s %s\n# TYPE iamcat_%s%s", name, help, name, type);
}

/* The buckets of a power of two each: those of the longest times are in +Inf alone. */
static void put_histogram(struct buf *b, const char *name, const struct bridge_times *t)
{
	unsigned sum = 0;
	for (size_t i = 0; i < TIMES_BUCKETS; i++) {
		sum += t->bucket[i];
		if (i % 2 == 0)
			continue;
		buf_put_text(b, "iamcat_%s_bucket{le=\"", name);
		if (i < TIMES_BUCKETS - 1)
			buf_put_seconds(b, times_least(i + 1) - 1);
		else
			buf_put_str(b, "+Inf");
		buf_put_text(b, "\"} %u\n", sum);
	}
	buf_put_text(b, "iamcat_%s_sum ", name);
	buf_put_seconds(b, t->sum_ms);
	buf_put_text(b, "\niamcat_%s_count %u\n", name, sum);
}

static void put_info(struct buf *b, const struct figures *f)
{
	put_head(b, "info", "what runs where", " gauge\niamcat_info{");
	for (const struct figure *row = figures; row->kind == INFO; row++) {
		buf_put_text(b, "%s%s=", row == figures ? "" : ",", row->name);
		json_put_string(
		        b, slice_str(text_of(f, row))); /* without control characters: the same escapes */
	}
	buf_put_str(b, "} 1\n");
}

/* One sample for each word. */
static void put_samples(struct buf *b, const struct figures *f, const struct figure *row)
{
	const struct words *w = &words[row->words];
	const uint32_t *n = field(f, row);
	for (size_t i = 0; i < w->n; i++)
		buf_put_text(b, "iamcat_%s{%s=\"%s\"} %u\n", row->name, w->label, word_of(row, i),
		        row->kind == WORD ? *n == i : n[i]);
}

void figures_put_metrics(struct buf *b, const struct figures *f)
{
	put_info(b, f);
	for (const struct figure *row = figures; row < figures + FIGURES; row++) {
		if (row->kind <= INFO || (row->kind < COUNT && number_of(f, row) < 0))
			continue;
		put_head(b, row->name, help_of(row),
		        row->kind == TIMES                           ? " histogram\n"
		        : row->kind == COUNT || row->kind == NUMBERS ? " counter\n"
		                                                     : " gauge\n");
		if (row->kind == TIMES) {
			put_histogram(b, row->name, field(f, row));
		} else if (row->kind > COUNT) {
			put_samples(b, f, row);
		} else {
			buf_put_text(b, "iamcat_%s ", row->name);
			put_number(b, row->kind, number_of(f, row));
			buf_put_byte(b, '\n');
		}
	}
}

/* --- text --- */

enum { LABEL = 20, HALF = 40, WIDTH = 80 }; /* columns */

/* Text in lines, short items two to a line. */
struct page {
	struct buf *b;
	size_t line; /* where the line begins */
	bool half;   /* a short item stands in the line */
};

static void pad(struct page *p, size_t column)
{
	while (!p->b->full && p->b->n - p->line < column)
		buf_put_byte(p->b, ' ');
}

static void end_line(struct page *p)
{
	buf_put_byte(p->b, '\n');
	p->line = p->b->n;
	p->half = false;
}

/* The number of ms that a text of seconds with three decimals says. */
static int64_t read_ms(struct slice s)
{
	int64_t ms = 0;
	for (size_t i = 0; i < s.n && i < 18; i++)
		if (s.p[i] >= '0' && s.p[i] <= '9')
			ms = ms * 10 + (s.p[i] - '0');
	return ms;
}

/* "3 min 5 s" */
static void put_duration(struct buf *b, int64_t ms)
{
	static const struct {
		int32_t ms;
		char name[4];
	} unit[] = {{86400000, "d"}, {3600000, "h"}, {60000, "min"}, {1000, "s"}};
	size_t i = 0;
	if (ms < 10000) {
		buf_put_seconds(b, ms);
		buf_put_str(b, " s");
		return;
	}
	while (ms < unit[i].ms)
		i++;
	for (size_t end = i + 2; i < end && i < 4; i++) {
		buf_put_text(b, "%u %s%s", (unsigned)(ms / unit[i].ms), unit[i].name,
		        i + 1 < end && i < 3 ? " " : "");
		ms %= unit[i].ms;
	}
}

/* A value from outside, as it is; a string without its quotes. */
static void put_plain(struct buf *b, struct slice value)
{
	static unsigned char mem[600];
	struct buf t = BUF(mem);
	if (json_kind(value) == JSON_STRING) {
		json_unescape(&t, value);
		value = buf_slice(&t);
	}
	buf_put_escaped(b, value, sizeof mem);
}

static void put_value(struct buf *b, enum kind kind, struct slice value)
{
	bool number = json_kind(value) == JSON_NUMBER;
	if (number && kind == BYTES) {
		buf_put_text(b, "%u KiB", (unsigned)(slice_u64(value, INT64_C(1) << 50) / 1024));
	} else if (number && (kind == SECONDS || kind == TIMES)) {
		put_duration(b, read_ms(value));
	} else if (json_kind(value) == JSON_NULL || slice_is(value, "\"\"")) {
		buf_put_byte(b, '-');
	} else {
		put_plain(b, value);
	}
}

/* The members of an object that are not 0. */
static void put_items(struct buf *b, enum kind kind, struct slice object)
{
	struct slice name, value;
	size_t before = b->n;
	for (size_t at = 0; json_next(object, &at, &name, &value);) {
		if (kind == NUMBERS && slice_is(value, "0"))
			continue;
		buf_put_str(b, b->n > before ? ", " : "");
		buf_put_escaped(b, name, 40);
		buf_put_byte(b, ' ');
		put_value(b, kind, value);
	}
	buf_put_str(b, b->n == before ? "none" : "");
}

static const struct figure *find(struct slice name)
{
	for (const struct figure *row = figures; row < figures + FIGURES; row++)
		if (slice_is(name, row->name))
			return row;
	return NULL; /* another version's */
}

static void put_item(struct page *p, struct slice name, struct slice value, const char *colour)
{
	const struct figure *row = find(name);
	unsigned char mem[2048];
	enum kind kind = row != NULL ? row->kind : TEXT;
	bool narrow = kind >= FLAG && kind <= WORD;
	if (p->half && narrow)
		pad(p, HALF);
	else if (p->b->n > p->line)
		end_line(p);
	size_t column = p->b->n - p->line + LABEL;
	if (row != NULL)
		buf_put_str(p->b, help_of(row));
	else
		buf_put_escaped(p->b, name, LABEL - 1);
	pad(p, column);
	buf_put_str(p->b, colour);
	struct buf t = BUF(mem);
	if (json_kind(value) == JSON_OBJECT)
		put_items(&t, kind, value);
	else
		put_value(&t, kind, value);
	buf_put_wrapped(p->b, buf_slice(&t), LABEL, WIDTH - LABEL, kind == NUMBERS);
	buf_put_str(p->b, colour[0] != 0 ? "\033[0m" : "");
	p->half = narrow && column < HALF;
}

/* Whether it is healthy, true or false; .p is NULL when this is no answer of an iamcat. */
static struct slice healthy(struct buf *why, struct slice json)
{
	struct slice h = json_get(json, "healthy");
	if (h.p == NULL)
		buf_put_str(why, "what answers is no iamcat");
	return h;
}

bool figures_put_text(struct buf *b, struct slice json, bool colour)
{
	struct slice name, value, good = healthy(b, json);
	size_t before = b->n;
	struct page p = {b, before, false};
	if (good.p == NULL)
		return false;
	const char *of_health = !colour ? "" : slice_is(good, "true") ? "\033[32m" : "\033[31m";
	for (size_t at = 0; json_next(json, &at, &name, &value);)
		if (!slice_is(name, "healthy"))
			put_item(&p, name, value, slice_is(name, "health") ? of_health : "");
	end_line(&p);
	if (b->full) {
		b->n = before;
		b->full = false;
		buf_put_str(b, "what answers there says too much");
		return false;
	}
	return true;
}

bool figures_healthy(struct buf *why, struct slice json)
{
	struct slice good = healthy(why, json);
	if (good.p != NULL)
		put_plain(why, json_get(json, "health"));
	return slice_is(good, "true");
}
