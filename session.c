#include "core.h"

#include <string.h>

#include "json.h"

enum {
	DIAL_MS = 60 * 1000,   /* look-up and TCP, all addresses of the broker */
	TLS_MS = 10 * 1000,    /* the TLS handshake */
	REPLY_MS = 10 * 1000,  /* CONNACK, SUBACK, PINGRESP, PUBACK */
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
	if (b->identity != NULL)
		api_finish(b, b->identity);
	b->identity = NULL;
	tls_wipe(b->token, sizeof b->token);
}

/* The kind of log lines with this reason, which takes the place of the one that was logged the longest ago.
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
 * connection, and waits before it begins anew. why: a static sentence. code: the number behind it, 0 for
 * none. */
static void fail(struct bridge *b, enum bridge_end end, const char *why, int code)
{
	struct link *l = end == END_API ? &b->link[LINK_API] : broker(b);
	struct slice detail = why == l->why ? l->detail : (struct slice){NULL, 0};
	if (b->served_since_ms != 0 && b->time.now_ms - b->served_since_ms >= SERVED_MS)
		b->failures = 0;
	b->served_since_ms = 0;
	b->discarded = false;
	unsigned wait = (unsigned)((uint64_t)bridge_random(b) * back_off_ms(b->failures++) >> 32);
	b->failure_why = why;
	struct buf *log =
	        log_begin(b, b->config->probe ? LEVEL_WARN : log_limited(b, LEVEL_WARN, cause_of(b, why)));
	buf_put_text(log, "%s %.255s:%u%s: %s", end == END_API ? "gateway API" : "broker", l->host, l->port,
	        end != END_API             ? ""
	        : b->phase == PHASE_SERIAL ? ", serial number"
	                                   : ", token",
	        why);
	if (detail.n > 0) {
		buf_put_str(log, " (");
		buf_put_slice(log, detail);
	}
	if (code != 0)
		buf_put_text(log, "%serror %u", detail.n > 0 ? "; " : " (", code);
	if (detail.n > 0 || code != 0)
		buf_put_byte(log, ')');
	if (token_expired(b)) {
		wait = 0;
		end = END_TOKEN;
	}
	b->stats.ends[end]++;
	if (!b->stopping && !b->config->probe)
		buf_put_text(log, "; trying again in %u.%u s", wait / 1000, wait / 100 % 10);
	log_end(b);
	drop_token(b);
	broker(b)->open = false;
	enter(b, PHASE_PAUSE, wait);
}

/* --- serial number and token --- */

/* Copies the string member name of a JSON reply to out (cap bytes, NUL at its end). It must not be empty and
 * have only characters from first to last that are not in but. NULL, or what is wrong: out is empty then. */
static const char *take_member(struct slice body, const char *name, char *out, size_t cap,
        unsigned char first, unsigned char last, const char *but)
{
	struct buf text = buf_over(out, cap);
	const char *why = api_take_string(body, name, &text);
	buf_cstr(&text);
	if (why == NULL && text.full)
		why = "the text in the reply is too long";
	for (size_t i = 0; why == NULL && (i < text.n || i == 0); i++)
		if (text.p[i] < first || text.p[i] > last || memchr(but, text.p[i], strlen(but)) != NULL)
			why = "the text in the reply is empty or has characters that do not belong there";
	if (why != NULL)
		tls_wipe(out, cap);
	return why;
}

/* Has the call for serial number or token come to its end? It is returned then, finished; why is NULL, or
 * what is wrong, and code the number behind that. NULL: it has not. */
static const struct api *take_identity(struct bridge *b)
{
	struct api *a = b->identity;
	if (!api_step(b, a))
		return NULL;
	if (a->why == NULL && b->phase == PHASE_SERIAL)
		/* It stands in topics, in the client id and in log lines: printable ASCII, no space, and none
		 * of the characters that mean something in a topic (MQTT-4.7) or in JSON. */
		a->why = take_member(
		        a->reply.body, "serialNumber", b->serial, sizeof b->serial, '!', '~', "+#/\"\\");
	else if (a->why == NULL) /* RFC 7515 §3.1, RFC 4648 §5: base64url and dots */
		a->why = take_member(
		        a->reply.body, "jwt", b->token, sizeof b->token, '-', 'z', "/:;<=>?@[\\]^`");
	api_wipe(a);
	api_finish(b, a);
	b->identity = NULL;
	return a;
}

static const char serial_mark[] = "{serial}"; /* in MQTT_TOPIC_PREFIX */

/* The prefix with the serial number in it, and leaf behind it. */
static void make_topic(const struct bridge *b, char *out, const char *leaf)
{
	struct buf t = buf_over(out, sizeof b->topic_state);
	struct slice prefix = slice_str(b->config->topic_prefix);
	for (;;) {
		size_t at = slice_find(prefix, serial_mark);
		buf_put(&t, prefix.p, at);
		if (at == prefix.n)
			break;
		buf_put_str(&t, b->serial);
		prefix = slice_from(prefix, at + sizeof serial_mark - 1);
	}
	buf_put_str(&t, leaf);
	buf_cstr(&t);
}

static void take_serial(struct bridge *b)
{
	make_topic(b, b->topic_request, "/modbus/request");
	make_topic(b, b->topic_response, "/modbus/response");
	make_topic(b, b->topic_state, "/state");
	/* One that came before had no topic to go to. */
	b->state_due = b->state.state != API_BUSY && !b->config->probe;
	log_line(b, LEVEL_INFO, "gateway %s; requests on %.320s", b->serial, b->topic_request);
	enter(b, PHASE_PAUSE, 0);
}

/* A date of the token: RFC 7519 §2 NumericDate, or as the Python client sent it. */
static void put_date(struct buf *t, enum bridge_dates form, int64_t us)
{
	if (form != DATES_ISO8601) {
		buf_put_i64(t, us / 1000000);
		return;
	}
	buf_put_byte(t, '"');
	buf_put_time(t, us);
	t->n--; /* its Z */
	buf_put_str(t, "+00:00\"");
}

/* A clock from before the program was built is wrong for sure; certificates are then checked for the time of
 * the build, but the token has nothing else to go by. */
static void check_clock(struct bridge *b)
{
	bool wrong = b->time.wall_us < INT64_C(1000000) * TLS_BUILD_TIME_S;
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
	struct buf t = BUF(b->scratch);
	buf_put_text(&t, "{\"barn\": {\"sub\": \"%s\", \"iat\": ", b->serial);
	put_date(&t, b->dates, b->time.wall_us);
	buf_put_str(&t, ", \"exp\": ");
	put_date(&t, b->dates, b->time.wall_us + (int64_t)b->config->token_lifetime_s * 1000000);
	buf_put_str(&t, "}, \"headers\": {\"alg\": \"ES256\", \"typ\": \"JWT\"}, \"expires_in\": 5}");
	api_begin(b->identity, "POST /api/jwt/create");
	api_start(b, b->identity, buf_slice(&t), b->time.now_ms);
}

static void dial(struct bridge *b)
{
	check_clock(b);
	log_line(b, b->failure_why == NULL ? LEVEL_INFO : LEVEL_DEBUG, "connecting to %.255s:%u",
	        b->config->broker_host, b->config->broker_port);
	broker(b)->open = true;
	b->broker_transport = false;
	b->token_ms = b->next_token_ms;
	enter(b, PHASE_DIAL, DIAL_MS);
}

/* Begins anew: with the serial number (once), the token, or the connection, whatever is missing first. */
static void begin(struct bridge *b)
{
	if (broker(b)->state != LINK_DOWN)
		return;
	if (b->serial[0] != 0 && b->config->has_login) { /* nothing to ask the API for */
		dial(b);
		return;
	}
	/* The calls may be busy for long, and held for good by answers that wait for this connection; a state
	 * that is being fetched would wait for it, too. */
	b->identity = api_idle(b);
	if (b->identity == NULL) {
		b->identity = &b->state;
		b->state_due = b->state_due || b->state.state != API_IDLE;
		api_finish(b, b->identity);
	}
	if (b->serial[0] == 0) {
		api_begin(b->identity, "GET /api/crypto");
		api_start(b, b->identity, (struct slice){NULL, 0}, b->time.now_ms);
		enter(b, PHASE_SERIAL, 0);
	} else {
		ask_token(b);
		enter(b, PHASE_TOKEN, 0);
	}
}

/* The reply to the question for serial number or token. */
static void step_identity(struct bridge *b)
{
	const struct api *a = take_identity(b);
	if (a == NULL)
		return;
	if (a->why != NULL)
		fail(b, END_API, a->why, a->code);
	else if (b->phase == PHASE_SERIAL)
		take_serial(b);
	else
		dial(b);
}

/* --- the connection to the broker --- */

/* The state of a gateway that is gone: the last will's message, or the last state before a clean stop. */
static void put_offline(struct bridge *b, struct buf *p)
{
	put_message(b, p, "gateway_state");
	buf_put_text(p,
	        ", \"status\": \"offline\", \"gateway\": \"%s\", \"version\": \"" IAMCAT_VERSION "\"}",
	        b->serial);
}

static void say_hello(struct bridge *b)
{
	const struct bridge_config *c = b->config;
	struct mqtt_connect connect = {
	        .client_id = slice_str(bridge_client_id(b)),
	        .user_name = slice_str(c->has_login ? c->user_name : b->serial),
	        .password = slice_str(c->has_login ? c->password : b->token),
	        .keep_alive_s = c->keep_alive_s,
	        .clean_session = b->discarding || c->probe,
	};
	struct buf will = BUF(b->scratch);
	if (c->will && !b->discarding) {
		put_offline(b, &will);
		connect.will_topic = slice_str(b->topic_state);
		connect.will_message = buf_slice(&will);
	}
	b->control.n = b->control_at = 0;
	b->control.full = false;
	mqtt_put_connect(&b->control, &connect);
	tls_wipe(b->token, sizeof b->token);
	b->packet_n = b->packet_skip = 0;
	b->passed_over = false;
	b->ping_ms = b->unacknowledged_ms = 0;
	b->sent_ms = b->received_ms = b->time.now_ms;
	enter(b, PHASE_HELLO, REPLY_MS);
}

/* MQTT-3.2.2.3, in words. */
static const char *const refusal[] = {
        "the broker refuses the protocol version (it has to speak MQTT 3.1.1)",
        "the broker refuses the client id",
        "the broker is not available (busy, or over its quota)",
        "the broker refuses user name or password (or the token, or its dates: is this clock right?)",
        "the broker does not authorise this client (password, token, access rules, or a ban)",
};

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

bool session_lapsed(const struct bridge *b)
{
	bool offline = b->phase < PHASE_HELLO || b->phase == PHASE_PAUSE;
	return offline && b->served_since_ms == 0 && session_stale(b);
}

static void accepted(struct bridge *b, bool session_present)
{
	mqtt_outbox_again(&b->outbox, session_present);
	if (!session_present) {
		mqtt_outbox_drop_passing(&b->outbox, true);
		b->received.n = 0;
		b->seen_n = 0;
	}
	for (size_t i = 0; i < b->seen_n; i++) {
		b->seen[i].ack = ACK_UNKNOWN; /* it went on a connection of which nothing more is heard */
		b->seen[i].earlier = b->seen[i].fingerprint != 0;
	}
	b->arrived = 0;
	if (b->discarding) { /* MQTT-3.1.2-6: the old session is gone */
		b->discarding = false;
		b->discarded = true;
		disconnect(b, PHASE_DISCARD, END_STALE);
	} else if (session_present && session_stale(b) && !b->discarded && !b->config->probe) {
		/* What the broker sends until it has answered the ping was waiting: see take_publish. */
		mqtt_put_pingreq(&b->control);
		enter(b, PHASE_STALE, REPLY_MS);
	} else {
		b->subscribed = true;
		mqtt_put_subscribe(&b->control, slice_str(b->topic_request), 1);
		enter(b, PHASE_SUBSCRIBE, REPLY_MS);
	}
}

/* The broker has sent what it kept: it is acknowledged, and was not executed. */
static void end_stale(struct bridge *b)
{
	log_line(b, b->stale > 0 ? LEVEL_WARN : LEVEL_INFO, /* an old one is usual after a start */
	        "the broker kept an old session (MQTT_SESSION_WINDOW): it is "
	        "discarded; requests in it that are not executed: %u",
	        b->stale);
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
	fail(b, END_LOGIN, refusal[k->code - 1], k->code);
	if ((k->code == 4 || k->code == 5) && b->config->dates == DATES_AUTO && !b->config->has_login) {
		b->dates = b->dates == DATES_ISO8601 ? DATES_AUTO : DATES_ISO8601;
		log_line(b, log_limited(b, LEVEL_INFO, CAUSE_DATES),
		        "the next token has its dates as %s (MQTT_JWT_DATES=auto)",
		        b->dates == DATES_ISO8601 ? "ISO 8601" : "numbers");
	}
}

static void take_suback(struct bridge *b, const struct mqtt_packet *k)
{
	if (k->code == 0x80) {
		if (b->failures < REFUSED_FAILURES) /* such rules do not change from one second to the next */
			b->failures = REFUSED_FAILURES;
		fail(b, END_SUBSCRIBE,
		        "the broker refuses the subscription (is the topic allowed for this client?)",
		        k->code);
		return;
	}
	b->discarded = false;
	if (b->served_since_ms == 0) /* a connection that took over goes on with the same service */
		b->served_since_ms = b->time.now_ms;
	if (b->config->probe)
		b->tick_ms = b->time.now_ms;
	b->failure_why = NULL;
	if (!b->passed_over) /* by then the broker may have sent too much already */
		b->renew_ms = b->token_ms + (int64_t)b->config->token_lifetime_s * RENEW_PART_MS;
	log_line(b, LEVEL_INFO, "in service: connected to %.255s:%u as %.128s", b->config->broker_host,
	        b->config->broker_port, bridge_client_id(b));
	enter(b, b->stopping ? PHASE_DRAIN : PHASE_SERVE, b->stop_ms - b->time.now_ms);
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

/* The place in b->seen of a QoS 1 publish that was taken before in this session (MQTT-4.3.2-2 lets the broker
 * send it again until it has our PUBACK): the same packet id and payload, of fingerprint h. RabbitMQ, against
 * MQTT-4.4.0-1, counts its packet ids from 1 on each connection (see MQTT_SUBSCRIBE_ID, too); there it is the
 * same payload, when its id is such a count. (Where ids are kept, it is one only when nothing that came
 * before has been acknowledged, and that has its own id.) BRIDGE_SEEN: it was not. */
static size_t seen_before(const struct bridge *b, const struct mqtt_packet *k, uint64_t h)
{
	size_t at = BRIDGE_SEEN;
	for (size_t i = 0; i < b->seen_n && k->dup; i++) {
		if (b->seen[i].fingerprint != h)
			continue;
		if (b->seen[i].id == k->id)
			return i;
		if (b->seen[i].earlier && k->id == b->arrived + 1 && at == BRIDGE_SEEN)
			at = i;
	}
	return at;
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
static void pass_over(struct bridge *b)
{
	b->stats.skipped[SKIP_FULL]++;
	if (b->passed_over)
		return;
	log_line(b, log_limited(b, LEVEL_WARN, CAUSE_PASSED_OVER),
	        "too many requests at once: the broker is asked to send the rest of them again");
	b->passed_over = true;
	if (b->identity == NULL && b->token[0] == 0) /* the token is fetched now, or there is none to fetch */
		b->renew_ms = b->time.now_ms + (b->config->has_login ? SETTLE_MS : 0);
}

/* A request. false: it is passed over, and not to be acknowledged. */
static bool take_request(struct bridge *b, const struct mqtt_packet *k)
{
	uint64_t h = fingerprint(k);
	size_t at = k->qos == 1 ? seen_before(b, k, h) : BRIDGE_SEEN;
	int fresh = 1;
	if (at < BRIDGE_SEEN) {
		fresh = 0;
	} else if (b->passed_over) {
		return false;
	} else if (k->qos == 1) {
		at = seen_place(b, k);
		if (at == BRIDGE_SEEN)
			return false;
	} else if (k->qos == 2 && (fresh = mqtt_received_add(&b->received, k->id)) < 0) {
		fail(b, END_PROTOCOL, "the broker sends too many QoS 2 messages without releasing them", 0);
		return true;
	}
	if (fresh == 0) {
		b->stats.skipped[SKIP_DUPLICATE]++;
		log_line(b, LEVEL_DEBUG, "a request came again: not executed again");
	} else if (!requests_take(b, k->payload, k->skip > 0 ? k->skip : k->payload.n)) {
		mqtt_received_release(&b->received, k->id);
		return false;
	}
	if (k->qos == 1) {
		b->seen_n += at == b->seen_n;
		b->seen[at].id = k->id;
		b->seen[at].fingerprint = h;
		b->seen[at].ack = ACK_WAITS;
		b->seen[at].earlier = false;
	}
	return true;
}

/* A PUBLISH from the broker. */
static void take_publish(struct bridge *b, const struct mqtt_packet *k)
{
	b->packet_skip = k->skip;
	if (!slice_is(k->topic, b->topic_request)) {
		/* it is nothing to us */
	} else if (b->phase == PHASE_STALE || b->config->probe) {
		b->stale++;
		b->stats.skipped[SKIP_STALE]++;
	} else if (k->retain) {
		b->stats.skipped[SKIP_RETAINED]++;
		log_line(b, log_limited(b, LEVEL_WARN, CAUSE_RETAINED),
		        "a retained request is not executed: it may be old (publish requests without "
		        "retain)");
	} else if (!take_request(b, k)) {
		pass_over(b);
		return;
	}
	if (k->qos > 0)
		mqtt_put_ack(&b->control, k->qos == 1 ? MQTT_PUBACK : MQTT_PUBREC, k->id);
	b->arrived = (uint16_t)(b->arrived + (k->qos == 1));
}

/* One packet from the broker, in a phase where it may come. false: there is no room for its acknowledgement,
 * if it wants one; try again later. Some is kept for PINGREQ, of which at most five wait, and DISCONNECT. */
static bool take_packet(struct bridge *b, const struct mqtt_packet *k)
{
	if (b->control.cap - b->control.n < RESERVED_BYTES + ACK_BYTES)
		return false;
	bool belongs = (k->type == MQTT_CONNACK) == (b->phase == PHASE_HELLO);
	switch (belongs ? k->type : MQTT_DISCONNECT) {
	case MQTT_CONNACK: take_connack(b, k); return true;
	case MQTT_PUBLISH: take_publish(b, k); return true;
	case MQTT_SUBACK:
		belongs = b->phase == PHASE_SUBSCRIBE && k->id == MQTT_SUBSCRIBE_ID;
		if (belongs)
			take_suback(b, k);
		break;
	case MQTT_PUBACK:
		/* They come in order (MQTT-4.6.0-2): one that is passed over does not come any more. */
		if (mqtt_outbox_oldest(&b->outbox) == k->id)
			b->unacknowledged_ms = b->time.now_ms;
		belongs = mqtt_outbox_ack(&b->outbox, k->id);
		if (belongs) {
			requests_acknowledged(b, k->id);
			forget_seen(b, k->id);
		}
		break;
	case MQTT_PUBREL:
		mqtt_received_release(&b->received, k->id);
		mqtt_put_ack(&b->control, MQTT_PUBCOMP, k->id);
		break;
	case MQTT_PINGRESP:
		b->ping_ms = 0;
		if (b->phase == PHASE_STALE)
			end_stale(b);
		break;
	default: belongs = false;
	}
	if (!belongs)
		fail(b, END_PROTOCOL, "the broker sent a packet that does not belong here", (int)k->type);
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
	for (;;) {
		size_t skip = b->packet_n - at < b->packet_skip ? b->packet_n - at : b->packet_skip;
		struct mqtt_packet k;
		const char *why;
		/* In the middle of a large packet the broker can't answer: its time begins anew with each
		 * piece. */
		if (skip > 0 && b->ping_ms != 0)
			b->ping_ms = b->time.now_ms;
		if (skip > 0 && b->unacknowledged_ms != 0)
			b->unacknowledged_ms = b->time.now_ms;
		b->packet_skip -= skip;
		at += skip;
		if (!receiving(b))
			break;
		long n = mqtt_read(b->packet + at, b->packet_n - at, sizeof b->packet, &k, &why);
		if (n < 0)
			fail(b, END_PROTOCOL, why, 0);
		if (n <= 0 || !take_packet(b, &k))
			break;
		at += (size_t)n;
	}
	b->packet_n -= at;
	memmove(b->packet, b->packet + at, b->packet_n);
}

static void receive(struct bridge *b)
{
	struct link *l = broker(b);
	size_t n;
	do {
		read_packets(b); /* at first there may be room now for what had to wait */
		struct slice s = link_read(l);
		n = sizeof b->packet - b->packet_n;
		n = !receiving(b) ? 0 : s.n < n ? s.n : n;
		if (n > 0) {
			memcpy(b->packet + b->packet_n, s.p, n);
			b->packet_n += n;
			link_take(l, n);
			b->received_ms = b->time.now_ms;
		}
	} while (n > 0);
}

/* The next bytes for the broker: packets are not interleaved, so a publish that was sent in part goes on
 * first. */
static size_t next_bytes(struct bridge *b, unsigned char *p, size_t room)
{
	size_t n = b->control.n - b->control_at;
	/* Before CONNACK the outbox may still be in the middle of what the last connection broke off. */
	bool midway = b->phase != PHASE_HELLO && mqtt_outbox_midway(&b->outbox);
	if (n > 0 && !midway) {
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
	if (!midway && b->phase != PHASE_STALE && b->phase != PHASE_SERVE &&
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
	if (any) {
		link_flush(l);
		b->sent_ms = b->time.now_ms;
	}
	if (!mqtt_outbox_waits(&b->outbox))
		b->unacknowledged_ms = 0;
	else if (b->unacknowledged_ms == 0)
		b->unacknowledged_ms = b->time.now_ms;
}

/* When the next ping is due: half a keep-alive after either direction fell silent, so that publishing alone
 * never hides a dead broker; while one waits for its answer, half a keep-alive after the last packet of ours
 * (MQTT-3.1.2-23 demands one in a whole one). */
static int64_t ping_due(const struct bridge *b)
{
	int64_t since_ms = b->ping_ms == 0 && b->received_ms < b->sent_ms ? b->received_ms : b->sent_ms;
	return since_ms + b->config->keep_alive_s * 500;
}

static void keep_alive(struct bridge *b)
{
	if (due(b, ping_due(b))) {
		mqtt_put_pingreq(&b->control);
		b->sent_ms = b->time.now_ms; /* or when it finds room */
		if (b->ping_ms == 0)
			b->ping_ms = b->time.now_ms;
	}
	transmit(b);
	if (b->ping_ms != 0 && due(b, b->ping_ms + REPLY_MS))
		fail(b, END_TIMEOUT, "the broker did not answer a ping", 0);
	else if (b->unacknowledged_ms != 0 && due(b, b->unacknowledged_ms + REPLY_MS))
		fail(b, END_TIMEOUT, "the broker did not acknowledge a message", 0);
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
	log_line(b, log_limited(b, LEVEL_WARN, CAUSE_EARLY_END),
	        "the broker ended %u connections in a row soon after they began: does another client use the "
	        "client id %.128s? (MQTT_CLIENT_ID)",
	        b->early_ends, bridge_client_id(b));
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

bool session_needs_call(struct bridge *b)
{
	return b->phase == PHASE_SERVE && b->identity == NULL && b->token[0] == 0 && !b->config->has_login &&
	       due(b, b->renew_ms);
}

/* Fetches the next token while the old one still serves. */
static void fetch_token(struct bridge *b)
{
	const struct api *a = b->identity != NULL ? take_identity(b) : NULL;
	if (a != NULL) {
		b->renew_ms = b->time.now_ms + (a->why == NULL ? SETTLE_MS : RENEW_RETRY_MS);
		if (a->why != NULL)
			log_line(b, log_limited(b, LEVEL_WARN, CAUSE_NEXT_TOKEN),
			        "gateway API, next token: %s; trying again in 5 s", a->why);
	}
	if (session_needs_call(b) && (b->identity = api_idle(b)) != NULL)
		ask_token(b);
}

/* With the next token at hand, and everything acknowledged (or SETTLE_MS later), the connection is made anew.
 * The broker keeps the session meanwhile, and what was passed over. */
static void renew(struct bridge *b)
{
	fetch_token(b);
	bool ready = b->config->has_login ? b->passed_over : b->token[0] != 0;
	bool room = !b->passed_over || queue_room(&b->outbox.queue) > BRIDGE_RESERVE_BYTES;
	if (!ready || !room || mqtt_outbox_midway(&b->outbox))
		return;
	bool settled = !mqtt_outbox_waits(&b->outbox) && b->control.n == 0;
	if (!settled && !due(b, b->renew_ms))
		return;
	log_line(b, LEVEL_INFO,
	        b->passed_over ? "connecting anew, for requests that had no room"
	                       : "the token is about to expire: connecting anew with the next one");
	disconnect(b, PHASE_RENEW, b->passed_over ? END_FULL : END_TOKEN);
}

/* DISCONNECT is on its way, then the link is closed, then the next connection begins, or all is done. */
static void step_disconnect(struct bridge *b)
{
	struct link *l = broker(b);
	if (l->state == LINK_UP && l->open) {
		transmit(b);
		l->open = b->control.n > 0 || !link_idle(l);
	}
	if (due(b, b->phase_deadline_ms) || l->state == LINK_ENDED)
		l->open = false;
	if (l->state != LINK_DOWN && (b->phase != PHASE_LEAVE || !due(b, b->phase_deadline_ms + SETTLE_MS)))
		return;
	if (b->phase == PHASE_RENEW)
		dial(b);
	else
		enter(b, b->phase == PHASE_LEAVE ? PHASE_DONE : PHASE_PAUSE, 0);
}

/* A phase in which the broker answers. */
static void step_online(struct bridge *b)
{
	struct link *l = broker(b);
	enum bridge_phase phase = b->phase;
	/* By now the broker has given us up (MQTT-3.1.2-24), and what lies in the socket is as old. */
	if (phase != PHASE_HELLO && b->time.now_ms - b->sent_ms > b->config->keep_alive_s * 1500) {
		fail(b, END_TIMEOUT, "held up for longer than the keep-alive", 0);
		if (phase == PHASE_SERVE)
			b->served_until_ms = b->sent_ms;
		return;
	}
	receive(b);
	if (b->phase != phase)
		return;
	if (l->state == LINK_ENDED) {
		note_end(b);
		fail(b, link_end(b), l->why, l->code);
		return;
	}
	if (phase == PHASE_SERVE)
		renew(b);
	if (b->phase != phase)
		return;
	if (phase == PHASE_HELLO)
		transmit(b);
	else
		keep_alive(b);
	if (phase != PHASE_SERVE && phase != PHASE_DRAIN && b->phase == phase && due(b, b->phase_deadline_ms))
		fail(b, END_TIMEOUT, silence(phase), 0);
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
		fail(b, link_end(b), l->why, l->code);
	else if (due(b, b->phase_deadline_ms))
		fail(b, END_TIMEOUT,
		        l->transport ? "the TLS handshake took too long" : "no connection in time", 0);
}

/* --- stopping --- */

static void leave(struct bridge *b)
{
	unsigned lost = (unsigned)mqtt_outbox_count(&b->outbox);
	if (lost > 0)
		log_line(b, LEVEL_WARN,
		        "stopping although the broker has not acknowledged everything; messages left: %u",
		        lost);
	/* Without DISCONNECT the broker publishes the last will: for us who could not. */
	bool said = b->said_offline || b->config->will == SWITCH_OFF;
	if (b->phase == PHASE_DRAIN && said && broker(b)->state == LINK_UP)
		mqtt_put_disconnect(&b->control);
	else
		broker(b)->open = false;
	enter(b, PHASE_LEAVE, SETTLE_MS);
}

/* The last state of a clean stop: what the last will would have said. */
static void publish_offline(struct bridge *b)
{
	struct buf p;
	mqtt_outbox_drop_passing(&b->outbox, false);
	if (mqtt_outbox_begin(&b->outbox, slice_str(b->topic_state), &p)) {
		put_offline(b, &p);
		mqtt_outbox_commit(&b->outbox, &p, false);
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
	if (requests_running(b) > 0 && due(b, b->phase_deadline_ms) && requests_abandon(b))
		b->phase_deadline_ms = b->time.now_ms; /* late or not, their answers have SETTLE_MS */
	bool settled = b->requests.used == 0 && b->outbox.queue.used == 0 && b->control.n == 0;
	bool over = due(b, b->phase_deadline_ms + SETTLE_MS);
	if (settled && b->config->will && !b->said_offline) {
		b->said_offline = true;
		publish_offline(b);
	} else if (settled || over) {
		leave(b);
	}
}

void session_stop(struct bridge *b)
{
	log_line(b, LEVEL_INFO, "stopping");
	b->stop_ms = b->time.now_ms + DRAIN_MS;
	if (b->phase != PHASE_SERVE && b->served_since_ms != 0)
		return; /* one connection takes over from another: what was accepted is answered over that */
	drop_token(b);
	if (b->phase == PHASE_SERVE)
		enter(b, PHASE_DRAIN, DRAIN_MS);
	else
		leave(b);
}

/* --- all of it --- */

void session_init(struct bridge *b)
{
	b->dates = b->config->dates;
	struct slice prefix = slice_str(b->config->topic_prefix);
	b->shared_prefix = slice_find(prefix, serial_mark) == prefix.n;
	enter(b, PHASE_PAUSE, 0);
}

void session_step(struct bridge *b)
{
	enum bridge_phase before;
	do { /* a phase that ends hands over to the next one at once */
		before = b->phase;
		if (b->stopping && b->phase < PHASE_DRAIN &&
		        (b->phase == PHASE_STALE || b->phase == PHASE_PAUSE || due(b, b->stop_ms)))
			leave(b);
		switch (b->phase) {
		case PHASE_SERIAL:
		case PHASE_TOKEN: step_identity(b); break;
		case PHASE_DIAL: step_dial(b); break;
		case PHASE_HELLO:
		case PHASE_STALE:
		case PHASE_SUBSCRIBE:
		case PHASE_SERVE: step_online(b); break;
		case PHASE_RENEW:
		case PHASE_DISCARD:
		case PHASE_LEAVE: step_disconnect(b); break;
		case PHASE_PAUSE:
			if (due(b, b->phase_deadline_ms))
				begin(b);
			break;
		case PHASE_DRAIN: step_drain(b); break;
		case PHASE_DONE: break;
		}
	} while (b->phase != before);
}
