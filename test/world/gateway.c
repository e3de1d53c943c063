/* The gateway of the simulated world: its web API, one connection per 250 ms, and all the ways in which a
 * reply can be late or spoiled. Counts what it executes. */
#include "world.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "json.h"

enum { CALLS = 64, ACCEPT_MS = 250, TOKENS = 1 << 16, TAP_BYTES = 40000 };
enum family { NONE, CRYPTO, TOKEN, STATE, MODBUS };

static struct call {
	struct wire *wire; /* NULL: not used */
	uint32_t number;   /* of the connection */
	int64_t accept_at;
	int64_t due_at; /* the next thing: execution, then reply */
	enum family family;
	bool started;
	uint32_t request, device;
	size_t tap_n;
	char tap[TAP_BYTES + 1];
} calls[CALLS];
static int64_t accepted_at, token_since[TOKENS];
static uint32_t tokens;

enum health gateway_health;
int64_t gateway_healthy_since;

void gateway_init(void)
{
	for (size_t i = 0; i < CALLS; i++)
		calls[i].wire = NULL;
	accepted_at = 0;
	tokens = 0;
	gateway_health = HEALTHY;
	gateway_healthy_since = w.now;
}

void gateway_turn(enum health health)
{
	static const char *const names[] = {"healthy", "slow", "hanging", "down", "broken"};
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

static struct call *of_wire(const struct wire *l)
{
	for (size_t i = 0; i < CALLS; i++)
		if (calls[i].wire != NULL && calls[i].number == l->number)
			return &calls[i];
	return NULL;
}

static bool attached(const struct call *c)
{
	return c->wire->number == c->number && c->wire->open;
}

void gateway_opened(struct wire *l)
{
	size_t i = 0;
	while (i < CALLS && calls[i].wire != NULL)
		i++;
	if (i == CALLS)
		broken("over %d connections to the API", CALLS);
	struct call *c = &calls[i];
	memset(c, 0, offsetof(struct call, tap));
	c->wire = l;
	c->number = l->number;
	c->due_at = never;
	int64_t at = (w.now + ACCEPT_MS - 1) / ACCEPT_MS * ACCEPT_MS;
	accepted_at = at > accepted_at + ACCEPT_MS ? at : accepted_at + ACCEPT_MS;
	if (hashed(0, 77, 3) == 0)
		accepted_at = w.now; /* behind a proxy */
	c->accept_at = accepted_at;
}

/* The client has closed it, or it was reset. What was read whole is executed nevertheless. */
void gateway_closed(struct wire *l)
{
	struct call *c = of_wire(l);
	if (c != NULL && c->family == NONE)
		c->wire = NULL;
	else if (c != NULL && l->ends && l->put == 0 && c->request != 0)
		w.request[c->request].retry = true;
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

static void read_modbus(struct call *c, const char *target)
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
	c->request = (uint32_t)n;
	enum kind kind = c->request > 0 && c->request < w.requests ? request_kind(c->request) : KIND_NO_JSON;
	if ((writes ? kind != KIND_WRITE : kind != KIND_READ && kind != KIND_FOREIGN) ||
	        (kind != KIND_FOREIGN && c->device != request_device(c->request)))
		broken("a call that nobody asked for: %.200s", target);
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

/* What the client sends; once it is whole, the call is on its way. */
void gateway_bytes(struct wire *l, const unsigned char *p, size_t n)
{
	struct call *c = of_wire(l);
	if (c == NULL || c->family != NONE || n > TAP_BYTES - c->tap_n)
		broken("bytes behind a request to the API, or too many");
	memcpy(c->tap + c->tap_n, p, n);
	c->tap_n += n;
	c->tap[c->tap_n] = 0;
	char *body = strstr(c->tap, "\r\n\r\n"), *length = strstr(c->tap, "Content-Length: ");
	if (body == NULL || (length != NULL && c->tap + c->tap_n < body + 4 + atoi(length + 16)))
		return;
	if (strncmp(c->tap, "GET /api/state ", 15) == 0) {
		c->family = STATE;
	} else if (strncmp(c->tap, "GET /api/crypto ", 16) == 0) {
		c->family = CRYPTO;
	} else if (strncmp(c->tap, "POST /api/jwt/create ", 21) == 0) {
		c->family = TOKEN;
		read_token_request(body + 4);
	} else if (strncmp(c->tap, "GET /api/inverter/modbus?", 25) == 0) {
		c->family = MODBUS;
		read_modbus(c, c->tap + 4);
	} else {
		broken("an unknown call: %.100s", c->tap);
	}
	if ((l->dead || l->stalled_until > w.now) && gateway_health == HEALTHY)
		gateway_healthy_since = w.now; /* it was opened ahead of need, and died while it waited */
	if (l->dead) {
		c->wire = NULL;
		return;
	}
	int64_t at = wire_arrival(l);
	c->due_at = at > c->accept_at ? at : c->accept_at;
}

/* --- replies --- */

/* How long the call takes. */
static int64_t duration(const struct call *c)
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

static void put_body(const struct call *c, struct buf *b, int *status)
{
	char text[512];
	*status = 200;
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
		for (uint32_t n = hashed(tokens, 5, 4) == 0 ? 80 : 3; n > 0; n--)
			buf_put_str(b, "{\"ssid\": \"a \\u00e4\", \"rssi\": -61.5}, ");
		buf_put_str(b, "null], \"type\": \"x\"}");
		break;
	default:
		if (c->device == DEVICES) {
			*status = 400;
			buf_put_str(b, "{\"error\": \"device X9 not found\"}");
			break;
		}
		snprintf(text, sizeof text, "{\"register\": 1, \"value\": %s, \"unique\": %u}",
		        c->device == DEVICES - 1 ? "null"
		        : chance(20)             ? "NaN"
		                                 : "42.0",
		        c->request);
		buf_put_str(b, text);
	}
}

static void put_chunked(struct buf *b, struct slice body)
{
	char line[32];
	buf_put_str(b, "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
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

static const char *const spoiled[] = {"", "HTTP/1.0 500 Oops\r\n\r\n{\"error\": \"forced\"}",
        "HTTP/1.0 200 OK\r\nContent-Length: 4\r\n\r\n[1,2",
        "HTTP/1.0 200 OK\r\nContent-Length: 9\r\n\r\nnull", "HTTP/1.0 404 Not Found\r\nServer: x\r\n\r\n",
        "\x16\x03\x01 what?", "HTTP/1.0 200 OK\r\n\r\n<html>",
        "HTTP/1.0 200 OK\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\nnull",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        "HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", "HTTP/1.0 200 OK\r\nContent-Length: 70000\r\n\r\n{",
        "HTTP/1.0 503 Busy\r\nContent-Length: 2\r\n\r\n{}"};

static void reply(struct call *c)
{
	static unsigned char body_mem[8192], mem[65536];
	char head[200];
	struct buf body = BUF(body_mem), b = BUF(mem);
	int status;
	put_body(c, &body, &status);
	bool bad = w.now < w.calm && chance(gateway_health == BROKEN ? 2 : 150), reset = bad && chance(4);
	if (bad) {
		buf_put_str(&b, spoiled[draw(sizeof spoiled / sizeof spoiled[0])]);
		counts.faults++;
	} else if (status == 200 && chance(5)) {
		put_chunked(&b, buf_slice(&body));
	} else {
		snprintf(head, sizeof head, "HTTP/1.0 %d X\r\nServer: x\r\nConnection: close\r\n", status);
		buf_put_str(&b, head);
		snprintf(head, sizeof head, "Content-Length: %zu\r\n\r\n", body.n);
		buf_put_str(&b, chance(5) ? "\r\n" : head);
		buf_put_slice(&b, buf_slice(&body));
	}
	if (!attached(c))
		return;
	if (b.n == 0 && c->request != 0)
		w.request[c->request].retry = true;
	wire_put(c->wire, b.p, b.n);
	wire_end(c->wire, reset);
}

void gateway_run(void)
{
	for (size_t i = 0; i < CALLS; i++) {
		struct call *c = &calls[i];
		if (c->wire == NULL)
			continue;
		if (c->family != NONE && w.now >= c->due_at) {
			if (!c->started) {
				c->started = true;
				if (c->family == MODBUS && c->device < DEVICES)
					request_executed(c->request);
				int64_t d = duration(c);
				c->due_at = d == never ? never : w.now + d;
			} else {
				reply(c);
				c->wire = NULL;
				continue;
			}
		}
		if (c->due_at == never && !attached(c))
			c->wire = NULL;
	}
}

int64_t gateway_next(void)
{
	int64_t at = never;
	for (size_t i = 0; i < CALLS; i++)
		if (calls[i].wire != NULL && calls[i].due_at < at)
			at = calls[i].due_at;
	return at;
}
