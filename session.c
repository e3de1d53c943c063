#include "core.h"

#include <string.h>

#include "json.h"

enum {
	DIAL_MS = 60 * 1000,  /* look-up and TCP, all addresses of the broker */
	TLS_MS = 10 * 1000,   /* the TLS handshake */
	REPLY_MS = 10 * 1000, /* CONNACK, SUBACK, PINGRESP, PUBACK */
	BACK_OFF_MS = 1000,   /* doubling up to */
	BACK_OFF_MAX_MS = 60 * 1000,
	SERVED_MS = 60 * 1000, /* so long a service makes the next failure the first one */
	RESERVED_BYTES = 16,   /* of what waits to be sent, for PINGREQ and DISCONNECT */
	ACK_BYTES = 4,         /* of PUBACK and its kin */
	DRAIN_MS = 5 * 1000,   /* stopping: for calls that run */
	REFUSED_FAILURES = 5,  /* a refused subscription is backed off from like so many failures */
	TAKEOVERS = 3,         /* so many early ends in a row look like another client with our client id */
	RENEW_PART_MS = 900,   /* of each second of a token's life: then the next one is fetched */
	RENEW_RETRY_MS = 5 * 1000, /* when it could not be had */
	EXPIRY_MS = 2 * 1000,      /* a connection that ends so close to its token's expiry has ended by it */
	SETTLE_MS = 2 * 1000       /* stopping: for what is unacknowledged, and for DISCONNECT */
};

/* What became of our PUBACK for a request that was seen. */
enum seen_ack {
	ACK_UNKNOWN, /* the connection ended before the broker showed that it has had it */
	ACK_WAITS,   /* in control */
	ACK_SENT
};

static struct link *broker(struct bridge *b)
{
	return &b->link[LINK_BROKER];
}

/* The one place where the phase changes. */
static void enter(struct bridge *b, enum bridge_phase phase, int64_t timeout_ms)
{
	if (b->phase == PHASE_SERVE)
		b->served_until_ms = b->time.now_ms;
	b->phase = phase;
	b->phase_since_ms = b->time.now_ms;
	b->phase_deadline_ms = b->time.now_ms + timeout_ms;
}

static const char *client_id(const struct bridge *b)
{
	return b->config->client_id[0] != 0 ? b->config->client_id : b->serial;
}

static void log_host(struct buf *log, const char *host, uint16_t port)
{
	buf_put_escaped(log, slice_str(host), BRIDGE_HOST_BYTES);
	buf_put_byte(log, ':');
	buf_put_u64(log, port);
}

/* Has the service ended because the broker ends a connection when its token does? Then there is nothing to
 * wait for. */
static bool token_expired(const struct bridge *b)
{
	int64_t expiry_ms = b->token_ms + (int64_t)b->config->token_lifetime_s * 1000;
	return b->phase == PHASE_SERVE && !b->config->has_login && b->time.now_ms >= expiry_ms - EXPIRY_MS;
}

/* The next token is not wanted any more, whether it has come or is being fetched. */
static void drop_token(struct bridge *b)
{
	if (b->renewing && b->token[0] == 0)
		api_finish(b, b->identity);
	b->renewing = false;
	tls_wipe(b->token, sizeof b->token);
}

/* The kind of log lines with this reason: in place of the one that was logged the longest ago, if it is new.
 */
static unsigned cause_of(struct bridge *b, const char *why)
{
	unsigned oldest = CAUSE_FAILURE;
	for (unsigned i = CAUSE_FAILURE; i < BRIDGE_CAUSES; i++) {
		if (b->failure[i - CAUSE_FAILURE] == why)
			return i;
		if (b->cause[i].logged_ms < b->cause[oldest].logged_ms)
			oldest = i;
	}
	b->failure[oldest - CAUSE_FAILURE] = why;
	b->cause[oldest].logged_ms = b->cause[oldest].more = 0;
	return oldest;
}

/* The session has failed in its present phase: says so (the same reason once a minute), lets go of the
 * connection, and waits before it begins anew. where: what was tried. why: a static sentence; detail: more
 * about it. */
static void fail(struct bridge *b, enum bridge_end end, const char *where, const char *why,
        struct slice detail, int code)
{
	int64_t now = b->time.now_ms;
	if (b->served_since_ms != 0 && now - b->served_since_ms >= SERVED_MS)
		b->failures = 0;
	b->served_since_ms = 0;
	int64_t most = b->failures < 6 ? BACK_OFF_MS << b->failures : BACK_OFF_MAX_MS;
	int64_t wait = (int64_t)(((uint64_t)bridge_random(b) * (uint64_t)most) >> 32);
	if (token_expired(b)) {
		wait = 0;
		end = END_TOKEN;
	}
	b->stats.ends[end]++;
	b->failures++;
	struct buf *log = b->config->probe ? log_begin(b, LEVEL_WARN)
	                                   : log_begin_limited(b, LEVEL_WARN, cause_of(b, why));
	buf_put_str(log, where);
	buf_put_str(log, ": ");
	buf_put_str(log, why);
	if (detail.n > 0 || code != 0)
		buf_put_str(log, " (");
	buf_put_slice(log, detail);
	if (code != 0) {
		buf_put_str(log, detail.n > 0 ? "; error " : "error ");
		buf_put_i64(log, code);
	}
	if (detail.n > 0 || code != 0)
		buf_put_byte(log, ')');
	if (!b->stopping && !b->config->probe) {
		buf_put_str(log, "; trying again in ");
		buf_put_i64(log, wait / 1000);
		buf_put_byte(log, '.');
		buf_put_i64(log, wait / 100 % 10);
		buf_put_str(log, " s");
	}
	log_end(b);
	b->failure_why = why;
	drop_token(b);
	broker(b)->open = false;
	enter(b, PHASE_PAUSE, wait);
}

/* The same, for the connection to the broker: the log line begins with its host. */
static void fail_broker(struct bridge *b, enum bridge_end end, const char *why, int code)
{
	unsigned char mem[BRIDGE_HOST_BYTES + 32];
	struct buf where = BUF(mem);
	buf_put_str(&where, "broker ");
	log_host(&where, b->config->broker_host, b->config->broker_port);
	struct slice detail = {NULL, 0};
	if (why == broker(b)->why)
		detail = broker(b)->detail;
	fail(b, end, buf_cstr(&where), why, detail, code);
}

static void fail_api(struct bridge *b, const char *what, const char *why, int code)
{
	unsigned char mem[BRIDGE_HOST_BYTES + 64];
	struct buf where = BUF(mem);
	buf_put_str(&where, "gateway API ");
	log_host(&where, b->config->api_host, b->config->api_port);
	buf_put_str(&where, what);
	fail(b, END_API, buf_cstr(&where), why, (struct slice){NULL, 0}, code);
}

/* --- serial number and token --- */

/* A serial number stands in topics, in the client id and in log lines: printable ASCII, no space, and none of
 * the characters that mean something in a topic (MQTT-4.7). */
static bool serial_usable(const char *s)
{
	for (const char *c = s; *c != 0; c++)
		if (*c <= ' ' || *c > '~' || memchr("+#/\"\\", *c, 5) != NULL)
			return false;
	return *s != 0;
}

/* RFC 7515 §3.1, RFC 4648 §5: base64url and dots. */
static bool token_usable(const char *s)
{
	for (const char *c = s; *c != 0; c++) {
		bool ok = (*c >= 'A' && *c <= 'Z') || (*c >= 'a' && *c <= 'z') || (*c >= '0' && *c <= '9') ||
		          *c == '-' || *c == '_' || *c == '.';
		if (!ok)
			return false;
	}
	return *s != 0;
}

/* Copies the string member name of a JSON reply to out (cap bytes, NUL at its end). NULL, or what is wrong.
 * The caller looks whether the text is usable. */
static const char *take_member(struct slice body, const char *name, char *out, size_t cap)
{
	size_t at;
	bool words;
	struct buf text = {(unsigned char *)out, cap, 0, false};
	if (json_check(body, &words, &at) != NULL || json_kind(body) != JSON_OBJECT)
		return "the reply is not a JSON object";
	struct slice value = json_get(body, name);
	if (json_kind(value) != JSON_STRING)
		return "the reply lacks the expected text";
	json_unescape(&text, value);
	buf_cstr(&text);
	if (text.full || memchr(text.p, 0, text.n) != NULL) {
		out[0] = 0;
		return "the text in the reply is too long, or has a NUL in it";
	}
	return NULL;
}

static const char serial_mark[] = "{serial}"; /* in MQTT_TOPIC_PREFIX */

/* The prefix with the serial number in it, and leaf behind it. */
static void make_topic(const struct bridge *b, char *out, size_t cap, const char *leaf)
{
	struct buf t = {(unsigned char *)out, cap, 0, false};
	struct slice prefix = slice_str(b->config->topic_prefix);
	size_t at;
	while ((at = slice_find(prefix, serial_mark)) < prefix.n) {
		buf_put(&t, prefix.p, at);
		buf_put_str(&t, b->serial);
		at += sizeof serial_mark - 1;
		prefix = (struct slice){prefix.p + at, prefix.n - at};
	}
	buf_put_slice(&t, prefix);
	buf_put_str(&t, leaf);
	buf_cstr(&t);
}

static void take_serial(struct bridge *b)
{
	make_topic(b, b->topic_request, sizeof b->topic_request, "/modbus/request");
	make_topic(b, b->topic_response, sizeof b->topic_response, "/modbus/response");
	make_topic(b, b->topic_state, sizeof b->topic_state, "/state");
	/* One that came before had no topic to go to. */
	b->state_due = b->state.state != API_BUSY && !b->config->probe;
	struct buf *log = log_begin(b, LEVEL_INFO);
	buf_put_str(log, "gateway ");
	buf_put_str(log, b->serial);
	buf_put_str(log, "; requests on ");
	buf_put_escaped(log, slice_str(b->topic_request), sizeof b->topic_request);
	log_end(b);
	enter(b, PHASE_PAUSE, 0);
}

/* A date of the token: RFC 7519 §2 NumericDate, or as the Python client sent it. */
static void put_date(struct buf *t, enum bridge_dates form, int64_t us)
{
	if (form == DATES_NUMERIC) {
		buf_put_i64(t, us / 1000000);
		return;
	}
	buf_put_byte(t, '"');
	buf_put_time(t, us);
	if (!t->full)
		t->n--; /* its Z */
	buf_put_str(t, "+00:00\"");
}

/* A clock from before the program was built is wrong for sure; certificates are then checked for the time of
 * the build, but the token has nothing else to go by. */
static void check_clock(struct bridge *b)
{
	bool wrong = b->time.wall_us / 1000000 < TLS_BUILD_TIME_S;
	if (wrong && !b->clock_wrong) {
		struct buf *log = log_begin(b, LEVEL_WARN);
		buf_put_str(log, "this machine's clock is wrong, it says ");
		buf_put_time(log, b->time.wall_us);
		buf_put_str(log, ": the token's dates are wrong, too, and the broker may refuse it (set "
		                 "the clock, or let NTP do it)");
		log_end(b);
	} else if (!wrong && b->clock_wrong) {
		log_line(b, LEVEL_INFO, "this machine's clock has been set");
	}
	b->clock_wrong = wrong;
}

static void ask_token(struct bridge *b)
{
	check_clock(b);
	b->next_token_ms = b->time.now_ms;
	unsigned char mem[512];
	struct buf t = BUF(mem);
	buf_put_str(&t, "{\"barn\": {\"sub\": ");
	json_put_string(&t, slice_str(b->serial));
	buf_put_str(&t, ", \"iat\": ");
	put_date(&t, b->dates, b->time.wall_us);
	buf_put_str(&t, ", \"exp\": ");
	put_date(&t, b->dates, b->time.wall_us + (int64_t)b->config->token_lifetime_s * 1000000);
	buf_put_str(&t, "}, \"headers\": {\"alg\": \"ES256\", \"typ\": \"JWT\"}, \"expires_in\": 5}");
	api_start(b, b->identity, slice_str("/api/jwt/create"), buf_slice(&t), b->time.now_ms);
}

static void dial(struct bridge *b)
{
	check_clock(b);
	struct buf *log = log_begin(b, b->failure_why == NULL ? LEVEL_INFO : LEVEL_DEBUG);
	buf_put_str(log, "connecting to ");
	log_host(log, b->config->broker_host, b->config->broker_port);
	log_end(b);
	broker(b)->open = true;
	b->broker_transport = false;
	b->token_ms = b->next_token_ms;
	b->renewing = false;
	enter(b, PHASE_DIAL, DIAL_MS);
}

/* Begins anew: with the serial number (once), the token, or the connection, whatever is missing first. Waits
 * in its phase for the connections that it needs to be free. */
static void begin(struct bridge *b)
{
	bool ready = b->serial[0] != 0 && b->config->has_login; /* nothing to ask the API for */
	if (broker(b)->state != LINK_DOWN)
		return;
	if (ready) {
		dial(b);
		return;
	}
	/* With a full outbox the calls are held by answers that wait for this connection. */
	b->identity = api_idle(b);
	if (b->identity == NULL && b->state.state == API_IDLE)
		b->identity = &b->state;
	if (b->identity == NULL)
		return;
	if (b->serial[0] == 0) {
		api_start(b, b->identity, slice_str("/api/crypto"), (struct slice){NULL, 0}, b->time.now_ms);
		enter(b, PHASE_SERIAL, INT64_C(1) << 40);
	} else {
		ask_token(b);
		enter(b, PHASE_TOKEN, INT64_C(1) << 40);
	}
}

/* Takes serial number or token out of the reply. NULL, or what is wrong with it. */
static const char *take_identity(struct bridge *b, struct slice body)
{
	static const char unusable[] =
	        "the text in the reply is empty or has characters that do not belong there";
	const char *why;
	if (b->phase != PHASE_SERIAL) {
		why = take_member(body, "jwt", b->token, sizeof b->token);
		if (why == NULL && !token_usable(b->token))
			why = unusable;
		if (why != NULL)
			tls_wipe(b->token, sizeof b->token);
		return why;
	}
	why = take_member(body, "serialNumber", b->serial, sizeof b->serial);
	if (why == NULL && !serial_usable(b->serial))
		why = unusable;
	if (why != NULL)
		b->serial[0] = 0;
	return why;
}

/* The reply to the question for serial number or token. */
static void step_identity(struct bridge *b)
{
	struct api *a = b->identity;
	enum api_state state = api_step(b, a);
	const char *what = b->phase == PHASE_SERIAL ? ", serial number" : ", token";
	if (state == API_FAILED) {
		fail_api(b, what, a->why, a->code);
	} else if (state == API_DONE && !api_succeeded(a)) {
		fail_api(b, what, "it answered with an error status", a->reply.status);
	} else if (state == API_DONE) {
		const char *why = take_identity(b, a->reply.body);
		api_wipe(a);
		if (why != NULL)
			fail_api(b, what, why, 0);
		else if (b->phase == PHASE_TOKEN)
			dial(b);
		else
			take_serial(b);
	} else {
		return;
	}
	api_finish(b, a);
}

/* --- the connection to the broker --- */

/* The state of a gateway that is gone: the last will's message, or the last state before a clean stop. */
static void put_offline(struct bridge *b, struct buf *p)
{
	buf_put_str(p, "{\"timestamp\": \"");
	buf_put_time(p, b->time.wall_us);
	buf_put_str(p, "\", \"type\": \"gateway_state\", \"status\": \"offline\", \"gateway\": ");
	json_put_string(p, slice_str(b->serial));
	buf_put_str(p, ", \"version\": \"" IAMCAT_VERSION "\"}");
}

static void say_hello(struct bridge *b)
{
	const struct bridge_config *c = b->config;
	struct mqtt_connect connect = {
	        .client_id = slice_str(client_id(b)),
	        .user_name = slice_str(c->has_login ? c->user_name : b->serial),
	        .password = slice_str(c->has_login ? c->password : b->token),
	        .keep_alive_s = c->keep_alive_s,
	        .clean_session = b->discarding || c->probe,
	};
	unsigned char mem[256];
	struct buf will = BUF(mem);
	if (c->will && !b->discarding) {
		put_offline(b, &will);
		connect.will_topic = slice_str(b->topic_state);
		connect.will_message = buf_slice(&will);
	}
	b->control.n = b->control_at = 0;
	b->control.full = false;
	mqtt_put_connect(&b->control, &connect);
	tls_wipe(b->token, sizeof b->token);
	b->packet_n = 0;
	b->packet_skip = 0;
	b->passed_over = false;
	b->ping_ms = b->unacknowledged_ms = 0;
	b->sent_ms = b->received_ms = b->time.now_ms;
	enter(b, PHASE_HELLO, REPLY_MS);
}

/* MQTT-3.2.2.3, in words. */
static const char *refusal(uint8_t code)
{
	switch (code) {
	case 1: return "the broker refuses the protocol version (it has to speak MQTT 3.1.1)";
	case 2: return "the broker refuses the client id";
	case 3: return "the broker is not available (busy, or over its quota)";
	case 4:
		return "the broker refuses user name or password (or the token, or its dates: is this clock "
		       "right?)";
	default: return "the broker does not authorise this client (or has banned it)";
	}
}

/* The connection is to be given up in an orderly way: DISCONNECT, and then the link is closed. */
static void disconnect(struct bridge *b, enum bridge_phase phase, enum bridge_end end)
{
	b->stats.ends[end]++;
	mqtt_put_disconnect(&b->control);
	enter(b, phase, SETTLE_MS);
}

/* Is what the broker kept for us too old to be executed: from before this start, or over a longer gap? */
static bool session_stale(const struct bridge *b)
{
	int64_t window_ms = (int64_t)b->config->session_window_s * 1000;
	return b->served_until_ms == 0 || b->time.now_ms - b->served_until_ms > window_ms;
}

static void accepted(struct bridge *b, bool session_present)
{
	mqtt_outbox_again(&b->outbox, session_present);
	for (size_t i = 0; i < b->seen_n; i++) /* went on a connection of which nothing more is heard */
		b->seen[i].ack = ACK_UNKNOWN;
	if (!session_present) {
		mqtt_outbox_drop_passing(&b->outbox, true);
		b->received.n = 0;
		b->seen_n = 0;
	}
	for (size_t i = 0; i < b->seen_n; i++)
		b->seen[i].earlier = b->seen[i].fingerprint != 0;
	b->arrived = 0;
	if (b->discarding) { /* MQTT-3.1.2-6: the old session is gone */
		b->discarding = false;
		disconnect(b, PHASE_DISCARD, END_STALE);
	} else if (session_present && session_stale(b) && !b->config->probe) {
		/* What the broker sends until it has answered the ping was waiting: see take_publish. */
		mqtt_put_pingreq(&b->control);
		enter(b, PHASE_STALE, REPLY_MS);
	} else {
		b->subscribe_id = mqtt_outbox_new_id(&b->outbox);
		mqtt_put_subscribe(&b->control, b->subscribe_id, slice_str(b->topic_request), 1);
		enter(b, PHASE_SUBSCRIBE, REPLY_MS);
	}
}

/* The broker has sent what it kept: it is acknowledged, and was not executed. */
static void end_stale(struct bridge *b)
{
	struct buf *log =
	        log_begin(b, b->stale > 0 ? LEVEL_WARN : LEVEL_INFO); /* an old one is usual after a start */
	buf_put_str(log, "the broker kept a session from too long ago (MQTT_SESSION_WINDOW): it is "
	                 "discarded; requests in it "
	                 "that are not executed: ");
	buf_put_u64(log, b->stale);
	log_end(b);
	b->stale = 0;
	b->discarding = true;
	disconnect(b, PHASE_DISCARD, END_STALE);
}

static void take_connack(struct bridge *b, const struct mqtt_packet *k)
{
	if (k->code == 0) {
		accepted(b, k->session_present);
		return;
	}
	fail_broker(b, END_LOGIN, refusal(k->code), k->code);
	if ((k->code == 4 || k->code == 5) && b->config->dates == DATES_AUTO && !b->config->has_login) {
		b->dates = b->dates == DATES_NUMERIC ? DATES_ISO8601 : DATES_NUMERIC;
		log_line_limited(b, LEVEL_INFO, CAUSE_DATES,
		        b->dates == DATES_NUMERIC
		                ? "the next token has its dates as numbers (MQTT_JWT_DATES=auto)"
		                : "the next token has its dates as ISO 8601 text (MQTT_JWT_DATES=auto)");
	}
}

static void take_suback(struct bridge *b, const struct mqtt_packet *k)
{
	if (k->code == 0x80) {
		if (b->failures < REFUSED_FAILURES) /* such rules do not change from one second to the next */
			b->failures = REFUSED_FAILURES;
		fail_broker(b, END_SUBSCRIBE,
		        "the broker refuses the subscription (is the topic allowed for this client?)",
		        k->code);
		return;
	}
	if (b->served_since_ms == 0) /* a connection that took over goes on with the same service */
		b->served_since_ms = b->time.now_ms;
	if (b->config->probe)
		b->tick_ms = b->time.now_ms;
	b->failure_why = NULL;
	if (!b->passed_over) /* by then the broker may have sent too much already */
		b->renew_ms = b->token_ms + (int64_t)b->config->token_lifetime_s * RENEW_PART_MS;
	struct buf *log = log_begin(b, LEVEL_INFO);
	buf_put_str(log, "in service: connected to ");
	log_host(log, b->config->broker_host, b->config->broker_port);
	buf_put_str(log, " as ");
	buf_put_escaped(log, slice_str(client_id(b)), 128);
	log_end(b);
	enter(b, PHASE_SERVE, 0);
}

/* Room for acknowledgements: the rest is kept for PINGREQ, of which at most five wait, and DISCONNECT. */
static size_t control_room(const struct bridge *b)
{
	size_t room = b->control.cap - b->control.n;
	return room > RESERVED_BYTES ? room - RESERVED_BYTES : 0;
}

/* Of what is known of a publish's payload: FNV-1a's step over words of eight bytes, whose high bits are
 * folded down, as the product does not carry them there. */
static uint64_t fingerprint(const struct mqtt_packet *k)
{
	uint64_t h = UINT64_C(14695981039346656037) ^ k->skip ^ (uint64_t)k->payload.n << 32;
	for (size_t i = 0; i < k->payload.n; i += sizeof h) {
		uint64_t word = 0;
		size_t left = k->payload.n - i;
		memcpy(&word, k->payload.p + i, left < sizeof word ? left : sizeof word);
		h = (h ^ word) * UINT64_C(1099511628211);
		h ^= h >> 29;
	}
	return h != 0 ? h : 1;
}

/* Is it a QoS 1 publish that was taken before in this session (MQTT-4.3.2-2 lets the broker send it again
 * until it has our PUBACK): the same packet id and payload? RabbitMQ, against MQTT-4.4.0-1, counts its packet
 * ids from 1 on each connection; there it is the same payload, when its id is such a count. (Where ids are
 * kept, it is one only when nothing that came before has been acknowledged, and that has its own id.) */
static bool seen_before(struct bridge *b, const struct mqtt_packet *k)
{
	if (k->qos != 1 || !k->dup)
		return false;
	uint64_t h = fingerprint(k);
	size_t at = BRIDGE_SEEN;
	for (size_t i = 0; i < b->seen_n; i++) {
		bool same = b->seen[i].fingerprint == h && b->seen[i].id == k->id;
		bool counted = b->seen[i].fingerprint == h && b->seen[i].earlier && k->id == b->arrived + 1;
		if (same || (counted && at == BRIDGE_SEEN))
			at = i;
		if (same)
			break;
	}
	if (at == BRIDGE_SEEN)
		return false;
	b->seen[at].id = k->id;
	b->seen[at].ack = ACK_WAITS; /* it goes once more */
	b->seen[at].earlier = false;
	return true;
}

/* Where to remember it: in place of an older one of the same id, or of one that the broker will not send
 * again, or else of one that it would have sent again by now (MQTT-4.4.0-1, and in their order). BRIDGE_SEEN:
 * nowhere, all of them may still come again. */
static size_t seen_place(const struct bridge *b, const struct mqtt_packet *k)
{
	size_t known = b->seen_n, unknown = BRIDGE_SEEN;
	for (size_t i = b->seen_n; i-- > 0;) {
		if (b->seen[i].id == k->id)
			return i;
		if (b->seen[i].fingerprint == 0)
			known = i;
		else if (b->seen[i].ack == ACK_UNKNOWN)
			unknown = i;
	}
	return known < BRIDGE_SEEN ? known : unknown;
}

/* Remembers it. There is a place. */
static void note_seen(struct bridge *b, const struct mqtt_packet *k)
{
	if (k->qos != 1)
		return;
	size_t at = seen_place(b, k);
	b->seen_n += at == b->seen_n;
	b->seen[at].id = k->id;
	b->seen[at].fingerprint = fingerprint(k);
	b->seen[at].ack = ACK_WAITS;
	b->seen[at].earlier = false;
}

/* The acknowledgements of all requests were handed to the connection: whatever is put into the outbox from
 * now on follows them. */
static void acks_sent(struct bridge *b)
{
	for (size_t i = 0; i < b->seen_n; i++)
		if (b->seen[i].ack == ACK_WAITS) {
			b->seen[i].ack = ACK_SENT;
			b->seen[i].before_id = b->outbox.last_id;
		}
}

/* The broker has acknowledged a publish that followed our acknowledgements: it has had them, and what bears
 * one of their packet ids from now on is another request, even if DUP is set (its first copy was lost). */
static void forget_seen(struct bridge *b, uint16_t id)
{
	for (size_t i = 0; i < b->seen_n; i++)
		if (b->seen[i].ack == ACK_SENT && (uint16_t)(id - b->seen[i].before_id - 1) < INT16_MAX)
			b->seen[i].fingerprint = 0;
	while (b->seen_n > 0 && b->seen[b->seen_n - 1].fingerprint == 0)
		b->seen_n--;
}

/* Not even an answer that there is no room has room, and what would make some (PUBACKs) comes behind this
 * request. So it is read, but not acknowledged, and neither is any request behind it, which keeps their
 * order: the broker sends them again when the connection is made anew, see renew. */
static void pass_over(struct bridge *b, const struct mqtt_packet *k)
{
	b->stats.skipped[SKIP_FULL]++;
	b->packet_skip = k->skip;
	if (b->passed_over)
		return;
	log_line_limited(b, LEVEL_WARN, CAUSE_PASSED_OVER,
	        "too many requests at once: the broker is asked to send the rest of them again");
	b->passed_over = true;
	if (!b->renewing) /* the token is fetched now, or there is none to fetch */
		b->renew_ms = b->time.now_ms + (b->config->has_login ? SETTLE_MS : 0);
}

/* A PUBLISH from the broker. false: there is no room for its acknowledgement, try again later. */
static bool take_publish(struct bridge *b, const struct mqtt_packet *k)
{
	size_t size = k->skip > 0 ? k->skip : k->payload.n;
	bool ours = slice_is(k->topic, b->topic_request);
	if (control_room(b) < ACK_BYTES)
		return false;
	if (ours && (b->phase == PHASE_STALE || b->config->probe)) {
		b->stale++;
		b->stats.skipped[SKIP_STALE]++;
	} else if (ours && k->retain) {
		b->stats.skipped[SKIP_RETAINED]++;
		log_line_limited(b, LEVEL_WARN, CAUSE_RETAINED,
		        "a retained request is not executed: it may be old (publish requests without "
		        "retain)");
	} else if (ours && seen_before(b, k)) {
		b->stats.skipped[SKIP_DUPLICATE]++;
		log_line(b, LEVEL_DEBUG,
		        "a request came again, as its acknowledgement was lost: not executed again");
	} else if (ours && b->passed_over) {
		pass_over(b, k);
		return true;
	} else if (ours) {
		int fresh = k->qos == 2 ? mqtt_received_add(&b->received, k->id) : 1;
		if (fresh < 0) {
			fail_broker(b, END_PROTOCOL,
			        "the broker sends too many QoS 2 messages without releasing them", 0);
			return true;
		}
		b->stats.skipped[SKIP_DUPLICATE] += fresh == 0;
		bool place = k->qos != 1 || seen_place(b, k) < BRIDGE_SEEN;
		if (!place || (fresh > 0 && !requests_take(b, k->payload, size))) {
			mqtt_received_release(&b->received, k->id);
			pass_over(b, k);
			return true;
		}
		note_seen(b, k);
	}
	if (k->qos > 0)
		mqtt_put_ack(&b->control, k->qos == 1 ? MQTT_PUBACK : MQTT_PUBREC, k->id);
	b->arrived = (uint16_t)(b->arrived + (k->qos == 1));
	b->packet_skip = k->skip;
	return true;
}

/* One packet from the broker, in a phase where it may come. false: try again later. */
static bool take_packet(struct bridge *b, const struct mqtt_packet *k)
{
	bool hello = b->phase == PHASE_HELLO;
	switch (k->type) {
	case MQTT_CONNACK:
		if (hello)
			take_connack(b, k);
		break;
	case MQTT_SUBACK:
		if (b->phase == PHASE_SUBSCRIBE && k->id == b->subscribe_id) {
			take_suback(b, k);
			return true;
		}
		break;
	case MQTT_PUBLISH:
		if (!hello)
			return take_publish(b, k);
		break;
	case MQTT_PUBACK:
		if (!hello && mqtt_outbox_ack(&b->outbox, k->id)) {
			requests_acknowledged(b, k->id);
			forget_seen(b, k->id);
			b->unacknowledged_ms = b->time.now_ms;
			return true;
		}
		break;
	case MQTT_PUBREL:
		if (!hello) {
			if (control_room(b) < ACK_BYTES)
				return false;
			mqtt_received_release(&b->received, k->id);
			mqtt_put_ack(&b->control, MQTT_PUBCOMP, k->id);
			return true;
		}
		break;
	case MQTT_PINGRESP:
		if (!hello) {
			b->ping_ms = 0;
			if (b->phase == PHASE_STALE)
				end_stale(b);
			return true;
		}
		break;
	default: break;
	}
	if (k->type != MQTT_CONNACK || !hello)
		fail_broker(
		        b, END_PROTOCOL, "the broker sent a packet that does not belong here", (int)k->type);
	return true;
}

/* Once the connection has failed, or DISCONNECT is on its way, nothing more is taken. */
static bool receiving(const struct bridge *b)
{
	return b->phase != PHASE_PAUSE && b->phase != PHASE_RENEW && b->phase != PHASE_DISCARD;
}

/* Reads whole packets out of what was received; stops when there is no room for what they bring. */
static void read_packets(struct bridge *b)
{
	size_t at = 0;
	if (b->packet_n == 0)
		return;
	while (receiving(b) && b->packet_skip == 0 && at < b->packet_n) {
		struct mqtt_packet k;
		const char *why = NULL;
		long n = mqtt_read(b->packet + at, b->packet_n - at, sizeof b->packet, &k, &why);
		if (n < 0)
			fail_broker(b, END_PROTOCOL, why, 0);
		if (n <= 0 || !take_packet(b, &k))
			break;
		at += (size_t)n;
	}
	b->packet_n -= at;
	memmove(b->packet, b->packet + at, b->packet_n);
	size_t skip = b->packet_skip < b->packet_n ? b->packet_skip : b->packet_n;
	b->packet_skip -= skip;
	b->packet_n -= skip;
	memmove(b->packet, b->packet + skip, b->packet_n);
}

static void receive(struct bridge *b)
{
	struct link *l = broker(b);
	read_packets(b); /* there may be room now for what had to wait */
	while (receiving(b)) {
		struct slice s = link_read(l);
		size_t room = sizeof b->packet - b->packet_n;
		size_t skip = s.n < b->packet_skip ? s.n : b->packet_skip;
		if (s.n == 0 || (skip == 0 && room == 0))
			return;
		size_t n = s.n - skip < room ? s.n - skip : room;
		memcpy(b->packet + b->packet_n, s.p + skip, n);
		link_take(l, skip + n);
		if (skip > 0)
			b->skipped_ms = b->time.now_ms;
		b->packet_skip -= skip;
		b->packet_n += n;
		b->received_ms = b->time.now_ms;
		read_packets(b);
	}
}

/* The next bytes for the broker: packets are not interleaved, so a publish that was sent in part goes on
 * first. */
static size_t next_bytes(struct bridge *b, unsigned char *p, size_t room)
{
	size_t n = b->control.n - b->control_at;
	/* Before CONNACK the outbox may still be in the middle of what the last connection broke off. */
	if (n > 0 && (b->phase == PHASE_HELLO || !mqtt_outbox_midway(&b->outbox))) {
		if (n > room)
			n = room;
		memcpy(p, b->control.p + b->control_at, n);
		b->control_at += n;
		if (b->control_at == b->control.n) {
			tls_wipe(b->control.p, b->control.n); /* CONNECT has the token in it */
			b->control.n = b->control_at = 0;
			acks_sent(b);
		}
		return n;
	}
	if (b->phase != PHASE_STALE && b->phase != PHASE_SERVE &&
	        b->phase != PHASE_DRAIN) /* nothing follows DISCONNECT (MQTT-3.14.4-2) */
		return 0;
	return mqtt_outbox_send(&b->outbox, p, room);
}

static void transmit(struct bridge *b)
{
	struct link *l = broker(b);
	bool any = false;
	for (;;) {
		size_t room, n;
		unsigned char *p = link_write(l, &room);
		if (room == 0 || (n = next_bytes(b, p, room)) == 0)
			break;
		link_put(l, n);
		any = true;
	}
	if (!any)
		return;
	link_flush(l);
	b->sent_ms = b->time.now_ms;
	if (mqtt_outbox_unacknowledged(&b->outbox) == 0)
		b->unacknowledged_ms = 0;
	else if (b->unacknowledged_ms == 0)
		b->unacknowledged_ms = b->time.now_ms;
}

static int64_t later(int64_t a, int64_t b)
{
	return a > b ? a : b;
}

/* When the next ping is due: half a keep-alive after either direction fell silent, so that publishing alone
 * never hides a dead broker; while one waits for its answer, half a keep-alive after the last packet of ours
 * (MQTT-3.1.2-23 demands one in a whole one). */
static int64_t ping_due(const struct bridge *b)
{
	int64_t half_ms = b->config->keep_alive_s * 500;
	if (b->ping_ms != 0)
		return later(b->sent_ms, b->ping_put_ms) + half_ms;
	return (b->sent_ms < b->received_ms ? b->sent_ms : b->received_ms) + half_ms;
}

static void keep_alive(struct bridge *b)
{
	int64_t now = b->time.now_ms;
	if (mqtt_outbox_unacknowledged(&b->outbox) == 0)
		b->unacknowledged_ms = 0;
	/* In the middle of a large packet the broker can't answer: its time begins anew with each piece. */
	if (b->ping_ms != 0 && now - later(b->ping_ms, b->skipped_ms) >= REPLY_MS)
		fail_broker(b, END_TIMEOUT, "the broker did not answer a ping", 0);
	else if (b->unacknowledged_ms != 0 && now - later(b->unacknowledged_ms, b->skipped_ms) >= REPLY_MS)
		fail_broker(b, END_TIMEOUT, "the broker did not acknowledge a message", 0);
	else if (now >= ping_due(b)) {
		mqtt_put_pingreq(&b->control);
		b->ping_put_ms = now;
		if (b->ping_ms == 0)
			b->ping_ms = now;
	}
}

/* Connections that end soon after they began, several in a row, are what two clients with one id do to each
 * other (MQTT-3.1.4-2). */
static void note_end(struct bridge *b)
{
	if (b->phase != PHASE_SERVE || b->time.now_ms - b->served_since_ms >= SERVED_MS || token_expired(b)) {
		b->early_ends = 0;
		return;
	}
	if (++b->early_ends < TAKEOVERS)
		return;
	struct buf *log = log_begin_limited(b, LEVEL_WARN, CAUSE_EARLY_END);
	buf_put_str(log, "the broker ended ");
	buf_put_u64(log, b->early_ends);
	buf_put_str(
	        log, " connections in a row soon after they began: does another client use the client id ");
	buf_put_escaped(log, slice_str(client_id(b)), 128);
	buf_put_str(log, "? (MQTT_CLIENT_ID)");
	log_end(b);
}

/* Why the link to the broker has ended by itself. */
static enum bridge_end link_end(const struct bridge *b)
{
	const struct link *l = &b->link[LINK_BROKER];
	if (l->tls_failed || (l->end == LINK_REFUSED && l->transport))
		return END_TLS;
	if (l->end == LINK_REFUSED)
		return END_REFUSED;
	return b->early_ends < TAKEOVERS ? END_LOST : END_TAKEOVER;
}

static const char *silence(enum bridge_phase phase)
{
	return phase == PHASE_HELLO   ? "the broker did not answer CONNECT"
	       : phase == PHASE_STALE ? "the broker did not answer a ping"
	                              : "the broker did not answer SUBSCRIBE";
}

/* --- a token that follows --- */

/* Fetches the next token while the old one still serves. */
static void fetch_token(struct bridge *b)
{
	int64_t now = b->time.now_ms;
	if (b->config->has_login || (b->renewing ? b->token[0] != 0 : now < b->renew_ms))
		return;
	if (!b->renewing) {
		b->identity = api_idle(b);
		if (b->identity == NULL)
			return;
		ask_token(b);
		b->renewing = true;
		return;
	}
	enum api_state state = api_step(b, b->identity);
	if (state != API_DONE && state != API_FAILED)
		return;
	const char *why = state == API_FAILED           ? b->identity->why
	                  : !api_succeeded(b->identity) ? "it answered with an error status"
	                                                : take_identity(b, b->identity->reply.body);
	api_wipe(b->identity);
	api_finish(b, b->identity);
	if (why == NULL) {
		b->renew_ms = now + SETTLE_MS;
		return;
	}
	b->renewing = false;
	b->renew_ms = now + RENEW_RETRY_MS;
	struct buf *log = log_begin_limited(b, LEVEL_WARN, CAUSE_NEXT_TOKEN);
	buf_put_str(log, "gateway API, next token: ");
	buf_put_str(log, why);
	buf_put_str(log, "; trying again in 5 s");
	log_end(b);
}

/* With the next token at hand, and everything acknowledged (or SETTLE_MS later), the connection is made anew.
 * The broker keeps the session meanwhile, and what was passed over. */
static void renew(struct bridge *b)
{
	fetch_token(b);
	bool ready = b->config->has_login ? b->passed_over : b->renewing && b->token[0] != 0;
	bool room = !b->passed_over || queue_room(&b->outbox.queue) > BRIDGE_RESERVE_BYTES;
	if (!ready || !room || mqtt_outbox_midway(&b->outbox))
		return;
	bool settled = mqtt_outbox_unacknowledged(&b->outbox) == 0 && b->control.n == 0;
	if (!settled && b->time.now_ms < b->renew_ms)
		return;
	log_line(b, LEVEL_INFO,
	        b->passed_over ? "connecting anew, for requests that had no room"
	                       : "the token is about to expire: connecting anew with the next one");
	disconnect(b, PHASE_RENEW, b->passed_over ? END_FULL : END_TOKEN);
}

/* DISCONNECT is on its way, then the link is closed, then the next connection begins. */
static void step_disconnect(struct bridge *b)
{
	struct link *l = broker(b);
	if (l->state == LINK_UP && l->open) {
		transmit(b);
		if (b->control.n == 0 && link_idle(l))
			l->open = false;
	}
	if (l->state == LINK_ENDED || b->time.now_ms >= b->phase_deadline_ms)
		l->open = false;
	if (l->state != LINK_DOWN)
		return;
	if (b->phase == PHASE_RENEW)
		dial(b);
	else
		enter(b, PHASE_PAUSE, 0);
}

/* A phase in which the broker answers. */
static void step_online(struct bridge *b)
{
	struct link *l = broker(b);
	enum bridge_phase phase = b->phase;
	bool serving = phase == PHASE_SERVE || phase == PHASE_DRAIN;
	receive(b);
	if (b->phase != phase)
		return;
	if (l->state == LINK_ENDED) {
		note_end(b);
		fail_broker(b, link_end(b), l->why, l->code);
		return;
	}
	if (!serving && b->time.now_ms >= b->phase_deadline_ms)
		fail_broker(b, END_TIMEOUT, silence(phase), 0);
	else if (serving)
		keep_alive(b);
	if (b->phase == PHASE_SERVE)
		renew(b);
	if (b->phase == phase)
		transmit(b);
}

static void step_dial(struct bridge *b)
{
	struct link *l = broker(b);
	if (l->transport && !b->broker_transport) {
		b->broker_transport = true;
		enter(b, PHASE_DIAL, TLS_MS);
	}
	if (l->state == LINK_UP)
		say_hello(b);
	else if (l->state == LINK_ENDED)
		fail_broker(b, link_end(b), l->why, l->code);
	else if (b->time.now_ms >= b->phase_deadline_ms)
		fail_broker(b, END_TIMEOUT,
		        l->transport ? "the TLS handshake took too long" : "no connection in time", 0);
}

/* --- stopping --- */

static void leave(struct bridge *b)
{
	size_t lost = mqtt_outbox_count(&b->outbox);
	if (lost > 0) {
		struct buf *log = log_begin(b, LEVEL_WARN);
		buf_put_str(
		        log, "stopping although the broker has not acknowledged everything; messages left: ");
		buf_put_u64(log, lost);
		log_end(b);
	}
	/* Without DISCONNECT the broker publishes the last will: for us who could not. */
	bool said = b->said_offline || b->config->will == SWITCH_OFF;
	if (b->phase == PHASE_DRAIN && said && broker(b)->state == LINK_UP &&
	        !mqtt_outbox_midway(&b->outbox)) {
		mqtt_put_disconnect(&b->control);
		enter(b, PHASE_LEAVE, SETTLE_MS);
	} else {
		broker(b)->open = false;
		enter(b, PHASE_LEAVE, SETTLE_MS);
	}
}

/* The last state of a clean stop: what the last will would have said. */
static void publish_offline(struct bridge *b)
{
	struct buf p;
	struct slice topic = slice_str(b->topic_state);
	mqtt_outbox_drop_passing(&b->outbox, false);
	if (mqtt_outbox_begin(&b->outbox, topic, &p)) {
		put_offline(b, &p);
		mqtt_outbox_commit(&b->outbox, topic, &p, false);
	}
	transmit(b);
}

static void step_drain(struct bridge *b)
{
	step_online(b);
	if (b->phase == PHASE_PAUSE) { /* the connection broke meanwhile */
		leave(b);
		return;
	}
	int64_t now = b->time.now_ms;
	if (requests_running(b) > 0 && now >= b->phase_deadline_ms)
		requests_abandon(b);
	bool settled = requests_waiting(b) == 0 && mqtt_outbox_count(&b->outbox) == 0 && b->control.n == 0;
	if (settled && b->config->will && !b->said_offline) {
		b->said_offline = true;
		publish_offline(b);
	} else if (settled || now >= b->phase_deadline_ms + SETTLE_MS) {
		leave(b);
	}
}

static void step_leave(struct bridge *b)
{
	struct link *l = broker(b);
	if (l->state == LINK_UP && l->open) {
		transmit(b);
		if ((b->control.n == 0 && link_idle(l)) || b->time.now_ms >= b->phase_deadline_ms)
			l->open = false;
	} else if (l->state == LINK_ENDED) {
		l->open = false;
	}
	if (l->state == LINK_DOWN || b->time.now_ms >= b->phase_deadline_ms + SETTLE_MS)
		enter(b, PHASE_DONE, 0);
}

void session_stop(struct bridge *b)
{
	log_line(b, LEVEL_INFO, "stopping");
	drop_token(b);
	if (b->phase == PHASE_SERVE)
		enter(b, PHASE_DRAIN, DRAIN_MS);
	else
		leave(b);
}

/* --- all of it --- */

void session_init(struct bridge *b)
{
	b->dates = b->config->dates == DATES_ISO8601 ? DATES_ISO8601 : DATES_NUMERIC;
	struct slice prefix = slice_str(b->config->topic_prefix);
	b->shared_prefix = slice_find(prefix, serial_mark) == prefix.n;
	enter(b, PHASE_PAUSE, 0);
}

void session_step(struct bridge *b)
{
	enum bridge_phase before;
	do { /* a phase that ends hands over to the next one at once */
		before = b->phase;
		switch (b->phase) {
		case PHASE_SERIAL:
		case PHASE_TOKEN: step_identity(b); break;
		case PHASE_DIAL: step_dial(b); break;
		case PHASE_HELLO:
		case PHASE_STALE:
		case PHASE_SUBSCRIBE:
		case PHASE_SERVE: step_online(b); break;
		case PHASE_RENEW:
		case PHASE_DISCARD: step_disconnect(b); break;
		case PHASE_PAUSE:
			if (b->time.now_ms >= b->phase_deadline_ms)
				begin(b);
			break;
		case PHASE_DRAIN: step_drain(b); break;
		case PHASE_LEAVE: step_leave(b); break;
		case PHASE_DONE: break;
		}
	} while (b->phase != before);
}

int64_t session_deadline(const struct bridge *b)
{
	int64_t at = b->phase == PHASE_SERVE || b->phase == PHASE_DONE ? INT64_MAX : b->phase_deadline_ms;
	if (b->phase == PHASE_PAUSE && b->time.now_ms >= at)
		at = INT64_MAX; /* waits for a connection to close, which is news */
	if ((b->phase == PHASE_RENEW || b->phase == PHASE_DISCARD) && b->time.now_ms >= at)
		at = INT64_MAX; /* the link is being closed, which is news */
	if (b->phase == PHASE_LEAVE && b->time.now_ms >= at)
		at += SETTLE_MS;
	if (b->phase == PHASE_DRAIN && b->time.now_ms >= at)
		at += SETTLE_MS;
	if (b->phase != PHASE_SERVE && b->phase != PHASE_DRAIN)
		return at;
	int64_t due[] = {ping_due(b), b->renew_ms, later(b->ping_ms, b->skipped_ms) + REPLY_MS,
	        later(b->unacknowledged_ms, b->skipped_ms) + REPLY_MS};
	bool counts[] = {true,
	        b->phase == PHASE_SERVE && (!b->config->has_login || b->passed_over) &&
	                b->time.now_ms < b->renew_ms,
	        b->ping_ms != 0, b->unacknowledged_ms != 0};
	for (size_t i = 0; i < sizeof due / sizeof due[0]; i++)
		if (counts[i] && due[i] < at)
			at = due[i];
	return at;
}
