#include "check.h"

#include <string.h>

#include "json.h"

enum { INDENT = 13, WIDTH = 79, SECOND = 19 /* a date up to its second, "2024-08-03T15:05:30" */ };

/* What each step is for, and what to do when it fails. */
static const struct {
	const char *name, *expected, *advice;
} steps[CHECK_STEPS] = {
        {"configuration", "variables with values that --help lists", "iamcat --help, and mqtt.env.example"},
        {"gateway API", "the serial number, by GET /api/crypto",
                "whether the gateway's web API runs; WEB_CONTAINER_HOST, WEB_CONTAINER_PORT"},
        {"token", "a token that is valid now, by POST /api/jwt/create",
                "the log of the gateway's web API; this machine's clock"},
        {"name look-up", "the broker's address",
                "the spelling of MQTT_BROKER_HOST; the name servers in /etc/resolv.conf"},
        {"TCP", "a connection to the broker",
                "whether the broker runs; MQTT_BROKER_PORT (8883 is usual); firewalls on the way"},
        {"TLS", "TLS 1.2, and a certificate for the broker's name from a trusted root",
                "what is said above; MQTT_BROKER_PORT if that is no port for TLS (8883 is usual), "
                "MQTT_TLS_SERVER_NAME if the certificate has another name, MQTT_ROOT_CA_FILE for a CA of "
                "your own"},
        {"CONNECT", "that the broker lets this client in",
                "the broker's log; this machine's clock, or MQTT_PASSWORD; MQTT_BROKER_PORT if that is no "
                "port for MQTT "
                "(but for WebSocket); whether the broker allows this client id, which ends with -check"},
        {"SUBSCRIBE", "that this client may subscribe to its requests",
                "the broker's access rules; MQTT_TOPIC_PREFIX"},
        {"state", "a JSON object, by GET /api/state",
                "the log of the one that is named above; WEB_CONTAINER_TIMEOUT if the API is slow"},
};

/* --- lines --- */

enum mark { NONE, GOOD, BAD, NOTE };

static void put_mark(struct check *c, enum mark mark)
{
	static const char marks[2][4][17] = {{"     ", "ok   ", "FAIL ", "note "},
	        {"     ", "\033[32m\u2713\033[0m    ", "\033[31m\u2717\033[0m    ", "\033[33m!\033[0m    "}};
	if (c->shown)
		buf_put_str(&c->out, "\r\033[K");
	c->shown = false;
	buf_put_str(&c->out, marks[c->terminal][mark]);
}

/* A text behind INDENT columns. */
static void put_text(struct check *c, struct slice text)
{
	buf_put_wrapped(&c->out, text, INDENT, c->terminal ? WIDTH - INDENT : SIZE_MAX, false);
	buf_put_byte(&c->out, '\n');
}

/* Begins the text of the step, with its name. */
static struct buf *text_of(struct check *c)
{
	c->text = BUF(c->text_mem);
	buf_put_text(&c->text, "%s: ", steps[c->step].name);
	return &c->text;
}

/* "ok    12 ms TCP: text" */
static void put_step(struct check *c, enum mark mark)
{
	int64_t ms = c->now_ms - c->since_ms;
	put_mark(c, mark);
	buf_put_blanks(&c->out, ms < 10 ? 3 : ms < 100 ? 2 : ms < 1000);
	buf_put_text(&c->out, "%u ms ", (unsigned)ms);
	put_text(c, buf_slice(&c->text));
}

/* A line below that of the step. */
static void put_below(struct check *c, enum mark mark, const char *head, struct slice text)
{
	put_mark(c, mark);
	buf_put_str(&c->out, head);
	buf_put_blanks(&c->out, INDENT - 5 - strlen(head));
	put_text(c, text);
}

static void put_note(struct check *c)
{
	if (c->said.n > 0)
		put_below(c, NOTE, "", buf_slice(&c->said));
	c->said.n = 0;
}

/* On a terminal: what is being waited for. */
static void put_name(struct check *c)
{
	if (!c->terminal)
		return;
	buf_put_blanks(&c->out, INDENT);
	buf_put_str(&c->out, steps[c->step].name);
	c->shown = true;
}

/* The next step begins. */
static void next(struct check *c)
{
	c->since_ms = c->now_ms;
	if (++c->step == CHECK_STEPS) {
		c->over = true;
		c->status = 0;
		buf_put_str(&c->out, "all is well\n");
		return;
	}
	put_name(c);
}

/* The step has failed: this was found; there may be more. */
static void put_fault(struct check *c, struct slice found)
{
	if (c->status == CHECK_STOPPED) {
		buf_put_text(text_of(c), "expected %s", steps[c->step].expected);
		put_step(c, BAD);
	}
	put_below(c, NONE, c->status == CHECK_STOPPED ? "found" : "", found);
	c->status = CHECK_FAILED + (int)c->step;
}

/* The step has failed, as was said: that is the end. */
static void fail(struct check *c)
{
	if (c->said.n > 0 || c->status == CHECK_STOPPED)
		put_fault(c, buf_slice(&c->said));
	c->said.n = 0;
	put_below(c, NONE, "try", slice_str(steps[c->step].advice));
	c->over = true;
}

void check_log(struct check *c, enum bridge_level level, struct slice text)
{
	if (level > LEVEL_WARN)
		return;
	put_note(c);
	if (level == LEVEL_ERROR && c->step == CHECK_CONFIGURATION)
		put_fault(c, text);
	else
		buf_put_slice(&c->said, text);
}

/* --- what was found --- */

/* The six bits of a base64url character (RFC 4648 §5), -1 for none. */
static int base64(unsigned char c)
{
	return c >= 'A' && c <= 'Z'   ? c - 'A'
	       : c >= 'a' && c <= 'z' ? c - 'a' + 26
	       : c >= '0' && c <= '9' ? c - '0' + 52
	       : c == '-'             ? 62
	       : c == '_'             ? 63
	                              : -1;
}

/* The claims of the token (RFC 7519 §3: its second part), as JSON; empty when it has none. */
static struct slice claims_of(struct check *c)
{
	struct buf claims = BUF(c->claims);
	struct slice rest = slice_str(c->bridge->token);
	unsigned bits = 0, n = 0;
	slice_cut(&rest, '.');
	for (size_t i = 0; i < rest.n && base64(rest.p[i]) >= 0; i++) {
		bits = bits << 6 | (unsigned)base64(rest.p[i]);
		n += 6;
		if (n >= 8)
			buf_put_byte(&claims, (unsigned char)(bits >> (n -= 8)));
	}
	return buf_slice(&claims);
}

/* Writes a date of a token, a number or text, and returns what was written. */
static struct slice put_date(struct buf *t, struct slice claims, const char *name)
{
	size_t before = t->n;
	struct slice value = json_get(claims, name);
	int64_t s = slice_u64(value, INT64_C(253402300799)); /* the year 9999 */
	if (s >= 0)
		buf_put_time(t, s * 1000000);
	else if (json_kind(value) == JSON_STRING)
		buf_put_escaped(t, (struct slice){value.p + 1, value.n - 2}, 64);
	else
		buf_put_str(t, "unknown");
	struct slice date = slice_from(buf_slice(t), before);
	if (date.n > SECOND && date.p[10] == 'T')
		date.n = SECOND;
	t->n = before + date.n;
	return date;
}

/* The token's dates against this clock. Text of one form, to the second and in UTC, has the order of time. */
static void look_at_token(struct check *c, struct buf *t, int64_t wall_us)
{
	size_t before = t->n;
	struct slice claims = claims_of(c);
	buf_put_str(t, "valid from ");
	put_date(t, claims, "iat");
	buf_put_str(t, " to ");
	struct slice exp = put_date(t, claims, "exp");
	tls_wipe(c->claims, sizeof c->claims);
	buf_put_str(t, ", and this clock says ");
	const unsigned char *now = t->p + t->n;
	buf_put_time(t, wall_us);
	bool expired = exp.n == SECOND && memcmp(exp.p, now, SECOND) <= 0;
	t->n = (size_t)(now - t->p) + SECOND;
	buf_put_str(t, " (UTC)");
	if (expired) {
		buf_put_str(&c->said, "it has expired already: ");
		buf_put_slice(&c->said, slice_from(buf_slice(t), before));
		fail(c);
	}
}

static void put_addresses(const struct check *c, struct buf *t)
{
	const struct resolve *host = c->broker->host;
	struct dns_address ip;
	bool literal = dns_read_address(slice_str(host->name), &ip);
	buf_put_escaped(t, slice_str(host->name), BRIDGE_HOST_BYTES);
	buf_put_str(t, literal ? " is an address" : " is ");
	for (size_t i = 0; i < host->dns.addresses && !literal; i++) {
		buf_put_str(t, i > 0 ? ", " : "");
		dns_put_address(t, &host->dns.address[i]);
	}
}

/* The chain from the broker's certificate to the root, and how many days all of it is valid for. */
static void put_chain(const struct check *c, struct buf *t, int64_t now_s)
{
	const struct cert_check *k = &c->broker->link->tls->check;
	int64_t end_s = k->root->not_after_s;
	for (size_t i = 0; i < k->path_certs; i++) {
		const struct cert *cert = k->path[i];
		buf_put_str(t, "\n");
		cert_describe(t, cert);
		if (cert->self.not_after_s < end_s)
			end_s = cert->self.not_after_s;
	}
	buf_put_str(t, "\nroot '");
	buf_put_escaped(t, cert_name_text(k->root->subject), 64);
	buf_put_text(t, "%s, valid to ",
	        c->config->root_ca_file[0] != 0 ? "' of MQTT_ROOT_CA_FILE"
	        : c->anchors->used > 0          ? "' of MQTT_ROOT_CA"
	                                        : "', which is embedded");
	cert_put_day(t, k->root->not_after_s);
	buf_put_str(t, "; days left for all of them: ");
	buf_put_i64(t, (end_s - now_s) / 86400);
}

static const char *cipher(uint16_t suite)
{
	switch (suite) {
	case BR_TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256:
	case BR_TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256: return "AES128-GCM-SHA256";
	case BR_TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384:
	case BR_TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384: return "AES256-GCM-SHA384";
	default: return "CHACHA20-POLY1305";
	}
}

/* Has the step come to its end? Writes what it found. */
static bool done(struct check *c, struct buf *t, struct bridge_time time)
{
	const struct bridge *b = c->bridge;
	const struct link *l = c->broker->link;
	bool dialled = b->phase >= PHASE_DIAL && b->phase <= PHASE_SERVE;
	switch (c->step) {
	case CHECK_API: buf_put_text(t, "serial number %s", b->serial); return b->serial[0] != 0;
	case CHECK_TOKEN:
		if (dialled && c->config->bridge.has_login)
			buf_put_str(t, "none is needed, MQTT_USERNAME is set");
		else if (dialled)
			look_at_token(c, t, time.wall_us);
		return dialled;
	case CHECK_LOOKUP: put_addresses(c, t); return l->state != LINK_DOWN && c->broker->at > 0;
	case CHECK_TCP: buf_put_text(t, "connected to %s port %u", l->peer, l->port); return l->transport;
	case CHECK_TLS:
		if (l->state != LINK_UP)
			return false;
		buf_put_text(t, "version 1.2, ECDHE-%s%s",
		        l->tls->check.cert[0].self.key.key_type == BR_KEYTYPE_EC ? "ECDSA-" : "RSA-",
		        cipher(l->tls->session.cipher_suite));
		put_chain(c, t, time.wall_us / 1000000);
		return true;
	case CHECK_CONNECT:
		buf_put_str(t, "accepted, client id ");
		buf_put_escaped(t, slice_str(c->config->bridge.client_id), BRIDGE_TEXT_BYTES);
		return b->subscribed;
	case CHECK_SUBSCRIBE:
		buf_put_escaped(t, slice_str(b->topic_request), sizeof b->topic_request);
		return b->served_since_ms != 0;
	case CHECK_STATE:
		buf_put_text(t, "%u bytes; it was not published", (unsigned)b->state.reply.body.n);
		return b->state.state == API_IDLE && !b->state_due && !b->state_failing;
	default: return false;
	}
}

/* --- the whole --- */

/* In which of the ways that brokers differ in the bridge connects, as a bit. */
static unsigned way_of(const struct check *c)
{
	return 1u << ((unsigned)c->bridge->dates * 2 + c->broker->link->tls->all_suites);
}

/* A client id of its own: the running iamcat keeps its connection. */
static void take_client_id(struct check *c)
{
	char *id = c->config->bridge.client_id;
	struct buf b = BUF(c->config->bridge.client_id);
	b.n = strlen(id);
	buf_put_text(&b, "%s-check", b.n == 0 ? c->bridge->serial : "");
	buf_cstr(&b);
}

/* The bridge has failed. It may go another way, as it does when it serves: then the token is the next step.
 */
static void take_failure(struct check *c)
{
	unsigned way = way_of(c);
	c->failures = c->bridge->failures;
	if ((c->tried & way) != 0) {
		fail(c);
		return;
	}
	c->tried |= way;
	put_note(c);
	put_below(c, NONE, "", slice_str("trying again, in the other way that brokers may want"));
	c->step = CHECK_TOKEN;
	c->since_ms = c->now_ms;
	put_name(c);
}

void check_begin(struct check *c, bool terminal, int64_t now_ms)
{
	c->out = BUF(c->out_mem);
	c->said = BUF(c->said_mem);
	c->terminal = terminal;
	c->status = CHECK_STOPPED;
	c->since_ms = c->now_ms = now_ms;
}

void check_configured(struct check *c, bool good, struct config *config, const struct tls_anchors *anchors,
        const struct bridge *bridge, const struct net *net, int64_t now_ms)
{
	c->config = config;
	c->anchors = anchors;
	c->bridge = bridge;
	c->broker = &net->peer[LINK_BROKER];
	if (!good) {
		fail(c);
		return;
	}
	config->bridge.probe = true;
	config->bridge.will = SWITCH_OFF;
	config->bridge.api_spares = 0;
	config->log_level = LEVEL_WARN;
	c->now_ms = now_ms;
	put_note(c);
	buf_put_text(text_of(c), "broker %s:%u, gateway API %s:%u", config->bridge.broker_host,
	        config->bridge.broker_port, config->bridge.api_host, config->bridge.api_port);
	put_step(c, GOOD);
	next(c);
}

bool check_watch(struct check *c, struct bridge_time time)
{
	c->now_ms = time.now_ms;
	if (c->bridge->stopping && !c->over) {
		put_below(c, NOTE, "", slice_str("stopped by a signal"));
		c->over = true;
	}
	while (!c->over) {
		c->tried |= c->step == CHECK_API ? way_of(c) : 0;
		bool good = done(c, text_of(c), time);
		if (c->over) /* what it found was no good */
			break;
		if (!good) {
			if (c->bridge->failures != c->failures || c->bridge->state_failing)
				take_failure(c);
			break;
		}
		put_note(c);
		put_step(c, GOOD);
		if (c->step == CHECK_API)
			take_client_id(c);
		next(c);
	}
	return c->over;
}
