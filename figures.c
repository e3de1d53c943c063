#include "figures.h"

#include <string.h>

#include "core.h"
#include "json.h"

#define AT(f) offsetof(struct figures, f)

enum kind {
	TEXT,
	INFO, /* a text that is a label of the metric iamcat_info */
	FLAG,
	SECONDS,
	COUNT,   /* only grows */
	NUMBER,  /* goes up and down */
	BYTES,   /* the same */
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
	const char *name, *help;
	uint8_t kind, words; /* index of its words */
	uint16_t offset;     /* in struct figures */
} figures[] = {
        {"version", "iamcat", INFO, 0, AT(version)},
        {"gateway", "gateway", INFO, 0, AT(gateway)},
        {"client_id", "client id", INFO, 0, AT(client_id)},
        {"broker", "broker", INFO, 0, AT(broker)},
        {"broker_address", "its address", INFO, 0, AT(address)},
        {"connected_since", "connected since", TEXT, 0, AT(since)},
        {"health", "health", TEXT, 0, AT(health)},
        {"healthy", "is healthy", FLAG, 0, AT(healthy)},
        {"phase", "phase", WORD, 0, AT(phase)},
        {"phase_seconds", "in this phase for", SECONDS, 0, AT(phase_ms)},
        {"uptime_seconds", "running for", SECONDS, 0, AT(up_ms)},
        {"gap_seconds", "out of service for", SECONDS, 0, AT(gap_ms)},
        {"token_age_seconds", "age of the token", SECONDS, 0, AT(token_ms)},
        {"state_age_seconds", "age of the state", SECONDS, 0, AT(state_ms)},
        {"memory_bytes", "resident memory", BYTES, 0, AT(memory_bytes)},
        {"spare_connections", "spare connections", NUMBER, 0, AT(spares)},
        {"states_total", "states", COUNT, 0, AT(states)},
        {"states_failed_total", "states that failed", COUNT, 0, AT(states_failed)},
        {"requests_total", "requests", COUNT, 0, AT(requests)},
        {"requests_waiting", "requests waiting", NUMBER, 0, AT(waiting)},
        {"requests_running", "requests running", NUMBER, 0, AT(running)},
        {"messages_waiting", "messages waiting", NUMBER, 0, AT(unacknowledged)},
        {"answers_total", "answers", NUMBERS, 1, AT(answers)},
        {"skipped_total", "requests skipped", NUMBERS, 2, AT(skipped)},
        {"reconnects_total", "reconnects", NUMBERS, 3, AT(ends)},
        {"round_trip_seconds", "request to answer", TIMES, 0, AT(round_trip)},
        {"api_seconds", "API call", TIMES, 0, AT(api)},
};

#define FIGURES (sizeof figures / sizeof figures[0])

/* --- the moment --- */

/* "in service", or since when it is not, and why. */
static void describe_health(struct figures *f, const struct bridge *b, uint32_t grace_s)
{
	struct buf t = BUF(f->health_mem);
	f->healthy = f->gap_ms <= (int64_t)grace_s * 1000;
	if (f->gap_ms == 0) {
		buf_put_str(&t, "in service");
	} else {
		buf_put_str(&t, "out of service for ");
		buf_put_i64(&t, f->gap_ms / 1000);
		buf_put_str(&t, " s (healthy up to ");
		buf_put_u64(&t, grace_s);
		buf_put_str(&t, ")");
		buf_put_str(&t, b->failure_why != NULL ? ": " : "");
		buf_put_str(&t, b->failure_why != NULL ? b->failure_why : "");
	}
	f->health = buf_cstr(&t);
}

static void describe_broker(struct figures *f, const struct bridge *b)
{
	const struct link *l = &b->link[LINK_BROKER];
	struct buf t = BUF(f->broker_mem);
	buf_put_str(&t, l->host);
	buf_put_byte(&t, ':');
	buf_put_u64(&t, l->port);
	f->broker = buf_cstr(&t);
	t = (struct buf)BUF(f->since_mem);
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
	const struct bridge_stats *s = &b->stats;
	int64_t now = b->time.now_ms;
	bool serves = b->phase == PHASE_SERVE || b->phase == PHASE_DRAIN;
	f->version = IAMCAT_VERSION;
	f->gateway = b->serial;
	f->client_id = c->client_id[0] != 0 ? c->client_id : b->serial;
	describe_broker(f, b);
	f->up_ms = now - b->started_ms;
	f->gap_ms = serves ? 0 : now - (b->served_until_ms != 0 ? b->served_until_ms : b->started_ms);
	describe_health(f, b, grace_s);
	f->phase = b->phase;
	f->phase_ms = now - b->phase_since_ms;
	f->token_ms = b->token_ms != 0 && !c->has_login ? now - b->token_ms : -1;
	f->state_ms = s->state_ms != 0 ? now - s->state_ms : -1;
	f->memory_bytes = memory_bytes;
	f->spares = (int64_t)api_spares(b);
	f->states = s->states;
	f->states_failed = s->states_failed;
	f->requests = b->last_request;
	f->running = (int64_t)requests_running(b);
	f->waiting = (int64_t)requests_waiting(b) - f->running;
	f->unacknowledged = (int64_t)mqtt_outbox_count(&b->outbox);
	f->answers = s->answers;
	f->skipped = s->skipped;
	f->ends = s->ends;
	f->round_trip = &s->round_trip;
	f->api = &s->api;
}

static const void *field(const struct figures *f, const struct figure *row)
{
	return (const unsigned char *)f + row->offset;
}

static const char *text_of(const struct figures *f, const struct figure *row)
{
	return *(const char *const *)field(f, row);
}

static int64_t number_of(const struct figures *f, const struct figure *row)
{
	return *(const int64_t *)field(f, row);
}

static const uint32_t *numbers_of(const struct figures *f, const struct figure *row)
{
	return *(const uint32_t *const *)field(f, row);
}

static const struct bridge_times *times_of(const struct figures *f, const struct figure *row)
{
	return *(const struct bridge_times *const *)field(f, row);
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

/* The time that so many per cent do not exceed: the end of its bucket, within which it is not known. */
static int64_t percentile(const struct bridge_times *t, unsigned percent)
{
	uint64_t n = count_of(t), need = (n * percent + 99) / 100, sum = 0;
	for (size_t i = 0; i < TIMES_BUCKETS - 1; i++) {
		int64_t end = times_least(i + 1) - 1;
		sum += t->bucket[i];
		if (sum >= need)
			return end < t->max_ms ? end : t->max_ms;
	}
	return t->max_ms;
}

/* --- JSON --- */

/* "name": and what separates it from the one before */
static void put_name(struct buf *b, const char *name, bool first)
{
	buf_put_str(b, first ? "\"" : ", \"");
	buf_put_str(b, name);
	buf_put_str(b, "\": ");
}

static void put_known(struct buf *b, int64_t ms)
{
	if (ms < 0)
		buf_put_str(b, "null");
	else
		buf_put_seconds(b, ms);
}

static void put_times(struct buf *b, const struct bridge_times *t)
{
	bool any = count_of(t) > 0;
	put_name(b, "p50", true);
	put_known(b, any ? percentile(t, 50) : -1);
	put_name(b, "p99", false);
	put_known(b, any ? percentile(t, 99) : -1);
	put_name(b, "max", false);
	put_known(b, any ? t->max_ms : -1);
}

static void put_json_value(struct buf *b, const struct figures *f, const struct figure *row)
{
	switch ((enum kind)row->kind) {
	case TEXT:
	case INFO: json_put_string(b, slice_str(text_of(f, row))); return;
	case WORD: json_put_string(b, slice_str(word_of(row, (size_t)number_of(f, row)))); return;
	case FLAG: buf_put_str(b, number_of(f, row) ? "true" : "false"); return;
	case NUMBERS:
		buf_put_byte(b, '{');
		for (size_t i = 0; i < words[row->words].n; i++) {
			put_name(b, word_of(row, i), i == 0);
			buf_put_u64(b, numbers_of(f, row)[i]);
		}
		buf_put_byte(b, '}');
		return;
	case TIMES:
		buf_put_byte(b, '{');
		put_times(b, times_of(f, row));
		buf_put_byte(b, '}');
		return;
	case SECONDS:
	case COUNT:
	case NUMBER:
	case BYTES: break;
	}
	if (row->kind == SECONDS || number_of(f, row) < 0)
		put_known(b, number_of(f, row));
	else
		buf_put_i64(b, number_of(f, row));
}

void figures_put_json(struct buf *b, const struct figures *f)
{
	buf_put_byte(b, '{');
	for (const struct figure *row = figures; row < figures + FIGURES; row++) {
		put_name(b, row->name, row == figures);
		put_json_value(b, f, row);
	}
	buf_put_str(b, "}\n");
}

/* --- Prometheus --- */

/* The lines before the samples of one metric. */
static void put_head(struct buf *b, const char *name, const char *help, const char *type)
{
	buf_put_str(b, "# HELP iamcat_");
	buf_put_str(b, name);
	buf_put_byte(b, ' ');
	buf_put_str(b, help);
	buf_put_str(b, "\n# TYPE iamcat_");
	buf_put_str(b, name);
	buf_put_str(b, type);
}

static void put_metric(struct buf *b, const char *name, const char *suffix)
{
	buf_put_str(b, "iamcat_");
	buf_put_str(b, name);
	buf_put_str(b, suffix);
}

/* The buckets of a power of two each: those of the longest times are in +Inf alone. */
static void put_histogram(struct buf *b, const char *name, const struct bridge_times *t)
{
	uint64_t sum = 0;
	for (size_t i = 0; i < TIMES_BUCKETS - 1; i++) {
		sum += t->bucket[i];
		if (i % 2 == 0)
			continue;
		put_metric(b, name, "_bucket{le=\"");
		buf_put_seconds(b, times_least(i + 1) - 1);
		buf_put_str(b, "\"} ");
		buf_put_u64(b, sum);
		buf_put_byte(b, '\n');
	}
	put_metric(b, name, "_bucket{le=\"+Inf\"} ");
	buf_put_u64(b, count_of(t));
	buf_put_byte(b, '\n');
	put_metric(b, name, "_sum ");
	buf_put_seconds(b, t->sum_ms);
	buf_put_byte(b, '\n');
	put_metric(b, name, "_count ");
	buf_put_u64(b, count_of(t));
	buf_put_byte(b, '\n');
}

static void put_info(struct buf *b, const struct figures *f)
{
	put_head(b, "info", "what runs where", " gauge\n");
	put_metric(b, "info", "{");
	for (const struct figure *row = figures; row->kind == INFO; row++) {
		buf_put_str(b, row == figures ? "" : ",");
		buf_put_str(b, row->name);
		buf_put_byte(b, '=');
		json_put_string(
		        b, slice_str(text_of(f, row))); /* without control characters: the same escapes */
	}
	buf_put_str(b, "} 1\n");
}

/* One sample for each word. */
static void put_samples(struct buf *b, const struct figures *f, const struct figure *row)
{
	const struct words *w = &words[row->words];
	for (size_t i = 0; i < w->n; i++) {
		put_metric(b, row->name, "{");
		buf_put_str(b, w->label);
		buf_put_str(b, "=\"");
		buf_put_str(b, word_of(row, i));
		buf_put_str(b, "\"} ");
		buf_put_u64(b, row->kind == WORD ? (size_t)number_of(f, row) == i : numbers_of(f, row)[i]);
		buf_put_byte(b, '\n');
	}
}

static void put_sample(struct buf *b, const struct figures *f, const struct figure *row)
{
	put_metric(b, row->name, " ");
	if (row->kind == SECONDS)
		buf_put_seconds(b, number_of(f, row));
	else
		buf_put_i64(b, number_of(f, row));
	buf_put_byte(b, '\n');
}

void figures_put_metrics(struct buf *b, const struct figures *f)
{
	put_info(b, f);
	for (const struct figure *row = figures; row < figures + FIGURES; row++) {
		bool list = row->kind == WORD || row->kind == NUMBERS;
		if (row->kind <= INFO || (row->kind < WORD && number_of(f, row) < 0))
			continue;
		put_head(b, row->name, row->help,
		        row->kind == TIMES                           ? " histogram\n"
		        : row->kind == COUNT || row->kind == NUMBERS ? " counter\n"
		                                                     : " gauge\n");
		if (row->kind == TIMES)
			put_histogram(b, row->name, times_of(f, row));
		else if (list)
			put_samples(b, f, row);
		else
			put_sample(b, f, row);
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
		int64_t ms;
		const char *name;
	} unit[] = {{86400000, " d"}, {3600000, " h"}, {60000, " min"}, {1000, " s"}};
	size_t i = 0;
	if (ms < 10000) {
		buf_put_seconds(b, ms);
		buf_put_str(b, " s");
		return;
	}
	while (ms < unit[i].ms)
		i++;
	buf_put_i64(b, ms / unit[i].ms);
	buf_put_str(b, unit[i].name);
	if (unit[i].ms == 1000)
		return;
	buf_put_byte(b, ' ');
	buf_put_i64(b, ms % unit[i].ms / unit[i + 1].ms);
	buf_put_str(b, unit[i + 1].name);
}

/* A value from outside, as it is; a string without its quotes. */
static void put_plain(struct buf *b, struct slice value)
{
	unsigned char mem[600];
	struct buf t = BUF(mem);
	if (json_kind(value) == JSON_STRING) {
		json_unescape(&t, value);
		value = buf_slice(&t);
	}
	buf_put_escaped(b, value, sizeof mem);
}

static void put_value(struct buf *b, enum kind kind, struct slice value)
{
	if (json_kind(value) == JSON_NUMBER && kind == BYTES) {
		buf_put_i64(b, slice_u64(value, INT64_C(1) << 50) / 1024);
		buf_put_str(b, " KiB");
	} else if (json_kind(value) == JSON_NUMBER && (kind == SECONDS || kind == TIMES)) {
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

/* In as many lines as it needs: they end behind a comma or, where that is not between items, at a space. */
static void put_wrapped(struct page *p, struct slice s, bool items)
{
	while (s.n > WIDTH - LABEL) {
		size_t n = WIDTH - LABEL;
		while (n > 0 && (s.p[n] != ' ' || (items && s.p[n - 1] != ',')))
			n--;
		bool found = n > 0;
		n = found ? n : WIDTH - LABEL;
		buf_put(p->b, s.p, n);
		end_line(p);
		pad(p, LABEL);
		n += found;
		s = (struct slice){s.p + n, s.n - n};
	}
	buf_put_slice(p->b, s);
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
		buf_put_str(p->b, row->help);
	else
		buf_put_escaped(p->b, name, LABEL - 1);
	pad(p, column);
	buf_put_str(p->b, colour);
	struct buf t = BUF(mem);
	if (json_kind(value) == JSON_OBJECT)
		put_items(&t, kind, value);
	else
		put_value(&t, kind, value);
	put_wrapped(p, buf_slice(&t), kind == NUMBERS);
	buf_put_str(p->b, colour[0] != 0 ? "\033[0m" : "");
	p->half = narrow && column < HALF;
}

const char *figures_put_text(struct buf *b, struct slice json, bool colour)
{
	size_t at;
	struct slice name, value;
	struct page p = {b, b->n, false};
	if (json_check(json, NULL, &at) != NULL || json_kind(json) != JSON_OBJECT ||
	        json_get(json, "healthy").p == NULL)
		return "what answers is no iamcat";
	const char *health = slice_is(json_get(json, "healthy"), "true") ? "\033[32m" : "\033[31m";
	for (at = 0; json_next(json, &at, &name, &value);)
		if (!slice_is(name, "healthy"))
			put_item(&p, name, value, colour && slice_is(name, "health") ? health : "");
	end_line(&p);
	return b->full ? "what answers says too much" : NULL;
}

bool figures_healthy(struct buf *why, struct slice json)
{
	size_t at;
	bool good = json_check(json, NULL, &at) == NULL && json_kind(json) == JSON_OBJECT;
	struct slice health = good ? json_get(json, "health") : (struct slice){NULL, 0};
	if (health.p == NULL) {
		buf_put_str(why, "what answers is no iamcat");
		return false;
	}
	put_plain(why, health);
	return slice_is(json_get(json, "healthy"), "true");
}
