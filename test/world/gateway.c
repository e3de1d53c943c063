/* The gateway of the simulated world: its web API, which accepts one connection per 250 ms and answers one
 * call on it, or a proxy in front of it, which keeps connections for more; and all the ways in which a reply
 * can be late or spoiled. Counts what it executes. */
#include "world.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "json.h"

enum { PEERS = 32, ACCEPT_MS = 250, BACKLOG = 5, TOKENS = 1 << 16, TAP_BYTES = 40000 };
enum family { NONE, CRYPTO, TOKEN, STATE, MODBUS };

/* A connection, and the call that is on it. */
static struct peer {
	struct wire *wire; /* NULL: not used */
	uint32_t number;   /* of the connection */
	int64_t accept_at, idle_until;
	bool kept; /* the reply said, or nothing has said otherwise yet, that a call may follow */
	bool over; /* the server has ended it */
	enum family family;
	bool started;
	int64_t due_at;    /* the next thing: execution, then reply */
	uint64_t received; /* bytes that the client had when it sent the call */
	uint32_t calls, request, device;
	size_t tap_n;
} peers[PEERS];
static char taps[PEERS][TAP_BYTES + 1];
static int64_t accepted_at, token_since[TOKENS];
static uint32_t tokens;
static bool proxy;

enum health gateway_health;
int64_t gateway_healthy_since;

void gateway_init(void)
{
	memset(peers, 0, sizeof peers);
	accepted_at = 0;
	tokens = 0;
	proxy = hashed(0, 77, 3) == 0;
	gateway_health = HEALTHY;
	gateway_healthy_since = w.now;
}

void gateway_turn(enum health health)
{
	static const char *const names[] = {"healthy", "slow", "hanging", "down", "broken"};
	trouble();
	if (health == gateway_health)
		return;
	trace("API: from now on %s", names[health]);
	gateway_health = health;
	gateway_healthy_since = health == HEALTHY ? w.now : never;
}

uint32_t gateway_token_number(struct slice token)
{
	if (token.n != 350 || token.p[0] != 'T')
		return 0;
	int64_t n = slice_u64((struct slice){token.p + 1, 6}, tokens);
	return n > 0 ? (uint32_t)n : 0;
}

int64_t gateway_token_since(uint32_t number)
{
	return token_since[number];
}

/* --- connections --- */

static struct peer *of_wire(const struct wire *l)
{
	for (size_t i = 0; i < PEERS; i++)
		if (peers[i].wire != NULL && peers[i].number == l->number)
			return &peers[i];
	return NULL;
}

static bool attached(const struct peer *c)
{
	return c->wire->number == c->number && c->wire->open;
}

int64_t gateway_syn_ms(void)
{
	return !proxy && accepted_at - w.now > (BACKLOG + 1) * ACCEPT_MS ? 1000 : 0;
}

void gateway_opened(struct wire *l)
{
	size_t i = 0;
	while (i < PEERS && peers[i].wire != NULL)
		i++;
	if (i == PEERS)
		broken("world: over %d calls of the API", PEERS);
	struct peer *c = &peers[i];
	*c = (struct peer){.wire = l, .number = l->number, .kept = true, .due_at = never};
	int64_t at = (w.now + ACCEPT_MS - 1) / ACCEPT_MS * ACCEPT_MS;
	accepted_at = proxy ? w.now : at > accepted_at + ACCEPT_MS ? at : accepted_at + ACCEPT_MS;
	c->accept_at = accepted_at;
	c->idle_until = proxy ? w.now + 5000 + draw(60000) : never;
	if (w.handover_at != never)
		w.excuse += accepted_at - w.now;
}

/* The call's connection is gone. May a read be sent again? */
static void note_retry(const struct peer *c)
{
	if (c->request != 0 && c->wire->ends && c->wire->link->received == c->received)
		w.request[c->request].retry = true;
}

/* The client has closed it, or it was reset. What was read whole is executed nevertheless. */
void gateway_closed(struct wire *l)
{
	struct peer *c = of_wire(l);
	if (c == NULL)
		return;
	note_retry(c);
	if (c->family == NONE || c->over)
		c->wire = NULL;
}

static void end(struct peer *c, bool reset)
{
	c->over = true;
	c->idle_until = c->due_at = never;
	wire_end(c->wire, reset);
}

/* --- requests --- */

/* The value of an item of the query, "" when it is not there. */
static const char *item(const char *target, const char *name)
{
	static char value[512];
	size_t n = strlen(name);
	for (const char *p = strchr(target, '?'); p != NULL; p = strchr(p, '&')) {
		p++;
		if (strncmp(p, name, n) != 0 || p[n] != '=')
			continue;
		size_t len = strcspn(p + n + 1, "& ");
		snprintf(value, sizeof value, "%.*s", (int)len, p + n + 1);
		return value;
	}
	return "";
}

static void check_query(const char *target)
{
	unsigned equals = 0;
	for (const char *p = strchr(target, '?'); p != NULL && *p != 0 && *p != ' '; p++) {
		equals += *p == '=';
		if (*p == '&' || p[1] == ' ') {
			if (equals != 1)
				broken("a query that the API does not take: %.200s", target);
			equals = 0;
		}
	}
}

static void read_modbus(struct peer *c, const char *target)
{
	check_query(target);
	const char *device = item(target, "device_id");
	c->device = device[0] == 'D' ? (uint32_t)atoi(device + 1) : DEVICES;
	bool writes = strcmp(item(target, "function_code"), "16") == 0;
	const char *v = item(target, writes ? "values" : "scale_factor");
	char *rest;
	unsigned long n = strtoul(v, &rest, 10);
	if (writes)
		n += strtoul(rest + (*rest == '%' ? 3 : 1), NULL, 10) << 16;
	uint32_t number = (uint32_t)n;
	enum kind kind = number > 0 && number < w.requests ? request_kind(number) : KIND_NO_JSON;
	if ((writes ? kind != KIND_WRITE : kind != KIND_READ && kind != KIND_FOREIGN) ||
	        (kind != KIND_FOREIGN && c->device != request_device(number)))
		broken("a call that nobody asked for: %.200s", target);
	for (size_t i = 0; i < PEERS; i++)
		if (&peers[i] != c && peers[i].wire != NULL && peers[i].family == MODBUS && !peers[i].over &&
		        peers[i].device == c->device && attached(&peers[i]) && peers[i].wire->link->open)
			broken("two calls to device %u at a time: %u and %u", c->device, peers[i].request,
			        number);
	c->request = request_reached(number);
}

static void read_token_request(const char *body)
{
	size_t at;
	struct slice s = slice_str(body), barn = json_get(s, "barn");
	if (json_check(s, NULL, &at) != NULL)
		broken("the request for a token is not JSON: %s", body);
	struct slice iat = json_get(barn, "iat"), exp = json_get(barn, "exp");
	if (json_kind(iat) == JSON_NUMBER &&
	        slice_u64(exp, 1LL << 50) - slice_u64(iat, 1LL << 50) != w.config.token_lifetime_s)
		broken("a token with the wrong lifetime: %s", body);
}

static void read_call(struct peer *c, const char *tap, const char *body)
{
	if (strncmp(tap, "GET /api/state ", 15) == 0) {
		c->family = STATE;
	} else if (strncmp(tap, "GET /api/crypto ", 16) == 0) {
		c->family = CRYPTO;
	} else if (strncmp(tap, "POST /api/jwt/create ", 21) == 0) {
		c->family = TOKEN;
		read_token_request(body);
	} else if (strncmp(tap, "GET /api/inverter/modbus?", 25) == 0) {
		c->family = MODBUS;
		read_modbus(c, tap + 4);
	} else {
		broken("an unknown call: %.100s", tap);
	}
}

/* What the client sends; once it is whole, the call is on its way. */
void gateway_bytes(struct wire *l, const unsigned char *p, size_t n)
{
	struct peer *c = of_wire(l);
	if (c == NULL || c->family != NONE || !c->kept || n > TAP_BYTES - c->tap_n)
		broken("bytes behind a request to the API, or too many");
	char *tap = taps[c - peers];
	memcpy(tap + c->tap_n, p, n);
	c->tap_n += n;
	tap[c->tap_n] = 0;
	char *body = strstr(tap, "\r\n\r\n"), *length = strstr(tap, "Content-Length: ");
	if (body == NULL || (length != NULL && tap + c->tap_n < body + 4 + atoi(length + 16)))
		return;
	c->received = l->link->received;
	count[KEPT] += c->calls++ > 0;
	read_call(c, tap, body + 4);
	int64_t at = wire_arrival(l);
	c->idle_until = never;
	c->due_at = at > c->accept_at ? at : c->accept_at;
	if (l->dead || c->over)
		c->due_at = never; /* it gets nowhere */
	else if (proxy && c->calls > 1 && w.now < w.calm && chance(30))
		end(c, chance(2)); /* at this very moment */
}

/* --- replies --- */

/* How long the call takes. */
static int64_t duration(const struct peer *c)
{
	if (gateway_health == HANGING && !chance(20))
		return never;
	int64_t slow = gateway_health == SLOW ? draw(c->family == STATE ? 7000 : 3000) : 0;
	if (c->family == STATE)
		return slow + (chance(4) ? draw(200) : draw(10));
	if (c->family != MODBUS || c->device == DEVICES)
		return slow + draw(5);
	if (c->device == DEVICES - 1)
		return slow + 3200;
	return slow + (c->device == DEVICES - 2 ? 500 + draw(1500) : 1 + draw(30));
}

static int put_body(const struct peer *c, struct buf *b)
{
	char text[512];
	switch (c->family) {
	case CRYPTO:
		buf_put_str(b, "{\"deviceName\": \"x\", \"serialNumber\": \"0123ab5c7f9e4d01ee\"}");
		break;
	case TOKEN:
		if (++tokens == TOKENS)
			broken("world: too many tokens");
		token_since[tokens] = w.now;
		snprintf(text, sizeof text, "{\"jwt\": \"T%06u%0343u\", \"expires_in\": 5}", tokens, 7u);
		buf_put_str(b, text);
		break;
	case STATE:
		buf_put_str(b, "{\"status\": \"online\", \"timestamp\": 1, \"wifi\": [");
		for (uint32_t n = hashed(tokens, 5, 16) == 0 ? 80 : 3; n > 0; n--)
			buf_put_str(b, "{\"ssid\": \"a \\u00e4\", \"rssi\": -61.5}, ");
		buf_put_str(b, "null], \"type\": \"x\"}");
		break;
	default:
		if (c->device == DEVICES) {
			buf_put_str(b, "{\"error\": \"device X9 not found\"}");
			return 400;
		}
		snprintf(text, sizeof text, "{\"register\": 1, \"value\": %s, \"unique\": %u}",
		        c->device == DEVICES - 1 ? "null"
		        : chance(20)             ? "NaN"
		                                 : "42.0",
		        request_original(c->request));
		buf_put_str(b, text);
	}
	return 200;
}

/* A whole reply. keeps: the connection is to stay. */
static void put_reply(struct buf *b, int status, struct slice body, bool keeps)
{
	char line[200];
	bool chunked = status == 200 && chance(5);
	if (chunked)
		buf_put_str(b, "HTTP/1.1 100 Continue\r\n\r\n");
	snprintf(line, sizeof line, "HTTP/1.%d %d X\r\nServer: x\r\n", keeps || chunked, status);
	buf_put_str(b, line);
	buf_put_str(b, keeps ? "" : "Connection: close\r\n");
	if (!chunked) {
		snprintf(line, sizeof line, "Content-Length: %zu\r\n\r\n", body.n);
		buf_put_str(b, keeps || !chance(5) ? line : "\r\n");
		buf_put_slice(b, body);
		return;
	}
	buf_put_str(b, "Transfer-Encoding: chunked\r\n\r\n");
	while (body.n > 0) {
		size_t n = 1 + draw(400);
		n = n < body.n ? n : body.n;
		snprintf(line, sizeof line, "%zx;x=y\r\n", n);
		buf_put_str(b, line);
		buf_put(b, body.p, n);
		buf_put_str(b, "\r\n");
		body = (struct slice){body.p + n, body.n - n};
	}
	buf_put_str(b, "0\r\nA: b\r\n\r\n");
}

static const char *const spoiled[] = {"", "HTTP/1.0 500 Oops\r\n\r\n{\"error\": \"for\\nced \\u0007\"}",
        "HTTP/1.0 200 OK\r\nContent-Length: 4\r\n\r\n[1,2",
        "HTTP/1.0 200 OK\r\nContent-Length: 9\r\n\r\nnull", "HTTP/1.0 404 Not Found\r\nServer: x\r\n\r\n",
        "\x16\x03\x01 what?", "HTTP/1.0 200 OK\r\n\r\n<html>",
        "HTTP/1.0 200 OK\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\nnull",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        "HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", "HTTP/1.0 200 OK\r\nContent-Length: 70000\r\n\r\n{",
        "HTTP/1.0 503 Busy\r\nContent-Length: 2\r\n\r\n{}"};

/* A known bad reply, or the good one cut short, or (where its content is of no importance to the world) with
 * a byte that is another. */
static void spoil(const struct peer *c, struct buf *b)
{
	trouble();
	count[SPOILED]++;
	if (gateway_health == HEALTHY) /* for the grid: from here on again */
		gateway_healthy_since = w.now;
	w.request[c->request].spoiled = true;
	uint32_t how = draw(4), at = draw((uint32_t)b->n);
	if (how == 0) {
		b->n = at;
	} else if (how == 1 && (c->family == STATE || c->family == MODBUS)) {
		b->p[at] ^= (unsigned char)(1 << draw(8));
	} else {
		b->n = 0;
		buf_put_str(b, spoiled[draw(sizeof spoiled / sizeof spoiled[0])]);
	}
}

static void reply(struct peer *c)
{
	static unsigned char body_mem[8192], mem[65536];
	struct buf body = BUF(body_mem), b = BUF(mem);
	int status = put_body(c, &body);
	bool bad = w.now < w.calm && chance(gateway_health == BROKEN ? 2 : 150);
	bool keeps = proxy && !bad && !chance(6);
	put_reply(&b, status, buf_slice(&body), keeps);
	if (bad)
		spoil(c, &b);
	if (!attached(c)) {
		c->wire = NULL;
		return;
	}
	wire_put(c->wire, b.p, b.n);
	c->kept = keeps;
	if (!keeps) {
		end(c, bad && chance(4));
		return;
	}
	c->family = NONE; /* the next one may come; the old one's bytes are its last */
	c->request = 0;
	c->started = false;
	c->due_at = never;
	c->tap_n = 0;
	c->idle_until = w.now + draw(chance(2) ? 2000 : 60000);
}

void gateway_run(void)
{
	for (size_t i = 0; i < PEERS; i++) {
		struct peer *c = &peers[i];
		if (c->wire == NULL)
			continue;
		if (w.now >= c->idle_until) {
			end(c, false);
		} else if (w.now >= c->due_at && !c->started) {
			c->started = true;
			if (c->family == MODBUS && c->device < DEVICES)
				request_executed(c->request);
			int64_t d = duration(c);
			c->due_at = d == never ? never : w.now + d;
		} else if (w.now >= c->due_at) {
			reply(c);
		}
		if (c->wire != NULL && c->due_at == never && !attached(c))
			c->wire = NULL;
	}
}

int64_t gateway_next(void)
{
	int64_t at = never;
	for (size_t i = 0; i < PEERS; i++) {
		if (peers[i].wire != NULL && peers[i].due_at < at)
			at = peers[i].due_at;
		if (peers[i].wire != NULL && peers[i].idle_until < at)
			at = peers[i].idle_until;
	}
	return at;
}
