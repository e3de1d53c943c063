/* The peers of the core in test/fuzz/core.c: a broker and a gateway's API that see what the core sends, check
 * that it is legal, and know what a well-formed reply would be. What they check holds whatever happens; what
 * they count (executions and answers of a request) only until somebody has sent what no broker would. */
#ifndef PEERS_H
#define PEERS_H

#include "bridge.h"
#include "fuzz.h"
#include "json.h"

enum { REQUESTS = 64, HELD = 20, IDS = 4096, PADS = 8 };

/* What was asked for on a connection to the API, and was not answered. */
enum call { CALL_NONE, CALL_SERIAL, CALL_TOKEN, CALL_STATE, CALL_MODBUS };

static struct bridge b;

/* A request that the broker has sent, by its number, which is its address, too. */
static struct request {
	bool retained, large; /* large: it is not repeated in its answer */
	bool writes;
	uint8_t pad, device;
	bool accepted, stale; /* PUBACK or PUBREC came; while what the broker held was stale */
	uint8_t executed, answers;
	uint32_t answer_on; /* the connection that brought its answer */
} request[REQUESTS];

static struct {
	size_t requests; /* the next number */
	bool wild;       /* nobody can count any more: bytes of any kind were sent */
	bool spoiled;    /* the API has said something that excuses a missing answer */
} seen;

/* Of this connection, but for what the broker keeps for the client. */
static struct {
	uint32_t connection; /* counts them */
	bool connect, disconnect, clean, connack, present, rude, ping;
	uint16_t subscribe_id;
	size_t ids; /* the client's publishes that wait for PUBACK */
	uint16_t id[IDS];
	size_t tap_n;

	bool session;
	uint16_t last_id;
	size_t held_n; /* the broker's publishes that wait for an acknowledgement */
	struct held {
		uint16_t id;
		uint8_t qos, number; /* 0: a request of any kind */
		bool received;       /* PUBREC came */
		uint32_t sent_on, released_on;
	} held[HELD];
} broker;

static struct {
	enum call asked;
	size_t tap_n;
	unsigned char tap[BRIDGE_CALL_BYTES];
} api[BRIDGE_LINKS];

static unsigned char broker_tap[BRIDGE_OUTBOX_BYTES + BRIDGE_CONTROL_BYTES];

static const uint16_t pads[PADS] = {0, 0, 0, 10, 100, 300, 700, 9000};

static void peers_init(void)
{
	memset(&seen, 0, sizeof seen);
	seen.requests = 1;
	memset(request, 0, sizeof request);
	memset(&broker, 0, sizeof broker);
	for (size_t i = 0; i < BRIDGE_LINKS; i++) {
		api[i].asked = CALL_NONE;
		api[i].tap_n = 0;
	}
}

/* As slice_find, but without a comparison at each place, which libFuzzer would look into. */
static size_t find(struct slice s, const char *what)
{
	const unsigned char *at = s.n > 0 ? memmem(s.p, s.n, what, strlen(what)) : NULL;
	return at != NULL ? (size_t)(at - s.p) : s.n;
}

static void put_blanks(struct buf *p, size_t n)
{
	static unsigned char blanks[1 << 16];
	if (blanks[0] == 0)
		memset(blanks, ' ', sizeof blanks);
	buf_put(p, blanks, n);
}

/* --- what a request is --- */

static void put_request(struct buf *p, const struct request *r)
{
	buf_put_str(p, "{\"function_code\": ");
	buf_put_str(p, r->writes ? "16, \"values\": 1" : "3");
	buf_put_str(p, ", \"device_id\": \"D");
	buf_put_u64(p, r->device);
	buf_put_str(p, "\", \"address\": ");
	buf_put_u64(p, (uint64_t)(r - request));
	put_blanks(p, pads[r->pad]);
	buf_put_byte(p, '}');
}

/* The request that has this address, NULL for none. */
static struct request *request_at(struct slice address)
{
	int64_t number = slice_u64(address, (int64_t)seen.requests - 1);
	return number > 0 ? &request[number] : NULL;
}

/* --- packets from the core --- */

static unsigned cut_u16(struct slice *s)
{
	CHECK(s->n >= 2);
	unsigned high = cut_byte(s);
	return high << 8 | cut_byte(s);
}

static struct slice cut_text(struct slice *s)
{
	size_t n = cut_u16(s);
	CHECK(n <= s->n);
	return cut(s, n);
}

static void take_id(uint16_t id)
{
	CHECK(id != 0 && broker.ids < IDS);
	for (size_t i = 0; i < broker.ids; i++)
		CHECK(broker.id[i] != id || broker.rude); /* MQTT-2.3.1-2 */
}

static void take_connect(struct slice *s)
{
	CHECK(slice_is(cut_text(s), "MQTT") && cut_byte(s) == 4);
	CHECK(s->n > 0);
	unsigned flags = cut_byte(s);
	bool will = flags & 4, name = flags & 0x80, password = flags & 0x40;
	CHECK(!(flags & 1) && (flags & 0x38) == (will ? 8 : 0) && (name || !password));
	CHECK(cut_u16(s) == b.config->keep_alive_s && cut_text(s).n > 0);
	if (will) {
		size_t at;
		CHECK(slice_is(cut_text(s), b.topic_state));
		struct slice message = cut_text(s);
		CHECK(json_check(message, false, &at) == NULL && find(message, "\"offline\"") < message.n);
	}
	CHECK(!name || cut_text(s).n > 0);
	struct slice secret = password ? cut_text(s) : slice_str("none");
	CHECK(secret.n > 0 && find(secret, " ") == secret.n); /* put_body has a token that is none */
	broker.clean = flags & 2;
}

static void take_answer(struct slice payload, bool dup)
{
	static const char name[] = "\"address\": ";
	size_t at = find(payload, name);
	if (seen.wild || at == payload.n)
		return;
	cut(&payload, at + sizeof name - 1);
	at = 0;
	while (at < payload.n && payload.p[at] >= '0' && payload.p[at] <= '9')
		at++;
	struct request *r = request_at(cut(&payload, at));
	CHECK(r != NULL && !r->retained && !r->large);
	CHECK(r->answers == 0 || r->answer_on != broker.connection); /* once more after a broken connection */
	CHECK(!dup || r->answers > 0 || broker.connection > 1);
	r->answers = 1;
	r->answer_on = broker.connection;
}

/* One pass over the payload is all that the time allows: its beginning is always the same. */
static void take_payload(struct slice payload, bool answer)
{
	static const char head[] = "{\"timestamp\": \"1970-01-01T00:00:00.000000Z\", \"type\": \"";
	const char *type = answer ? "modbus_response\", " : "gateway_state\"";
	size_t at, n = sizeof head - 1;
	CHECK(json_check(payload, false, &at) == NULL && payload.n > n + strlen(type));
	CHECK(memcmp(payload.p, head, 15) == 0 && memcmp(payload.p + 42, head + 42, n - 42) == 0);
	CHECK(memcmp(payload.p + n, type, strlen(type)) == 0);
}

static void take_publish(struct slice *s, unsigned flags)
{
	bool dup = flags & 8;
	CHECK((flags & 7) == 2 && (!dup || (broker.present && !broker.clean)));
	struct slice topic = cut_text(s);
	uint16_t id = (uint16_t)cut_u16(s);
	struct slice payload = cut(s, s->n);
	take_id(id);
	broker.id[broker.ids++] = id;
	bool answer = slice_is(topic, b.topic_response);
	CHECK(answer || slice_is(topic, b.topic_state));
	take_payload(payload, answer);
	if (answer)
		take_answer(payload, dup);
}

/* An acknowledgement of what the broker has sent. */
static void take_ack(unsigned type, uint16_t id)
{
	size_t i = 0;
	while (i < broker.held_n && (broker.held[i].id != id || broker.held[i].sent_on != broker.connection))
		i++;
	if (i == broker.held_n) {
		CHECK(broker.rude);
		return;
	}
	struct held *h = &broker.held[i];
	CHECK(h->qos == (type == MQTT_PUBACK ? 1 : 2) || broker.rude);
	CHECK(type != MQTT_PUBCOMP || h->received || broker.rude);
	request[h->number].accepted = true;
	h->received = true;
	if (type != MQTT_PUBREC) {
		broker.held_n--;
		memmove(h, h + 1, (broker.held_n - i) * sizeof *h);
	}
}

static void take_packet(unsigned first, struct slice s)
{
	unsigned type = first >> 4, flags = first & 15;
	CHECK((type == MQTT_CONNECT) == !broker.connect && !broker.disconnect);
	CHECK(type == MQTT_CONNECT || broker.connack || broker.rude); /* nothing goes before CONNACK */
	CHECK(type == MQTT_PUBLISH || flags == (type == MQTT_SUBSCRIBE ? 2 : 0));
	switch (type) {
	case MQTT_CONNECT:
		broker.connect = true;
		take_connect(&s);
		break;
	case MQTT_PUBLISH: take_publish(&s, flags); break;
	case MQTT_SUBSCRIBE:
		broker.subscribe_id = (uint16_t)cut_u16(&s);
		take_id(broker.subscribe_id);
		CHECK(slice_is(cut_text(&s), b.topic_request) && s.n == 1 && cut_byte(&s) == 1);
		break;
	case MQTT_PINGREQ: broker.ping = true; break;
	case MQTT_DISCONNECT: broker.disconnect = true; break;
	default:
		CHECK(type == MQTT_PUBACK || type == MQTT_PUBREC || type == MQTT_PUBCOMP);
		take_ack(type, (uint16_t)cut_u16(&s));
	}
	CHECK(s.n == 0);
}

/* Reads whole packets (MQTT-2.2) out of what the core has sent. */
static void broker_bytes(const unsigned char *p, size_t n)
{
	CHECK(n <= sizeof broker_tap - broker.tap_n);
	memcpy(broker_tap + broker.tap_n, p, n);
	broker.tap_n += n;
	struct slice s = {broker_tap, broker.tap_n};
	for (;;) {
		struct slice rest = s;
		size_t length = 0, shift = 0;
		unsigned first = cut_byte(&rest), c = 0x80;
		while (rest.n > 0 && c & 0x80) {
			c = cut_byte(&rest);
			CHECK(shift < 28 && (c != 0 || shift == 0)); /* four bytes, and no more than needed */
			length |= (size_t)(c & 0x7f) << shift;
			shift += 7;
		}
		if (c & 0x80 || length > rest.n)
			break;
		take_packet(first, cut(&rest, length));
		s = rest;
	}
	memmove(broker_tap, s.p, s.n);
	broker.tap_n = s.n;
}

/* --- calls from the core --- */

/* A call of Modbus: by its address it is known whose it is. */
static void take_call(struct slice target)
{
	static const char name[] = "&address=";
	size_t at = find(target, name);
	struct slice address = {target.p + at, target.n - at};
	cut(&address, sizeof name - 1);
	struct request *r = request_at(cut(&address, find(address, "&")));
	if (seen.wild || r == NULL)
		return;
	/* A read whose connection proved dead may be tried again. */
	CHECK(!r->retained && !r->large && r->executed < (r->writes ? 1 : 2));
	r->executed++;
}

static enum call call_of(struct slice target, bool post)
{
	CHECK(target.n > 0);
	for (size_t i = 0; i < target.n; i++)
		CHECK(target.p[i] > ' ' && target.p[i] < 0x7f);
	CHECK(post == slice_is(target, "/api/jwt/create"));
	if (post)
		return CALL_TOKEN;
	if (slice_is(target, "/api/state"))
		return CALL_STATE;
	if (slice_is(target, "/api/crypto"))
		return CALL_SERIAL;
	CHECK(find(target, "/api/inverter/modbus?") == 0);
	take_call(target);
	return CALL_MODBUS;
}

/* The body's bytes behind the head. */
static size_t length_of(struct slice head)
{
	static const char name[] = "\r\nContent-Length: ";
	cut(&head, find(head, name));
	cut(&head, sizeof name - 1);
	int64_t n = slice_u64(cut(&head, find(head, "\r")), BRIDGE_CALL_BYTES);
	CHECK(n > 0);
	return (size_t)n;
}

static void api_bytes(size_t i, const unsigned char *p, size_t n)
{
	size_t at;
	CHECK(n <= sizeof api[i].tap - api[i].tap_n);
	memcpy(api[i].tap + api[i].tap_n, p, n);
	api[i].tap_n += n;
	struct slice s = {api[i].tap, api[i].tap_n};
	size_t head_n = find(s, "\r\n\r\n");
	if (head_n == s.n)
		return;
	struct slice head = cut(&s, head_n + 4), line = head;
	bool post = find(head, "POST ") == 0;
	CHECK(post || find(head, "GET ") == 0);
	if (post && s.n < length_of(head))
		return;
	CHECK(s.n == (post ? length_of(head) : 0)); /* one call at a time */
	CHECK(!post || json_check(s, false, &at) == NULL);
	cut(&line, post ? 5 : 4);
	struct slice target = cut(&line, find(line, " "));
	CHECK(find(line, " HTTP/1.1\r\nHost: ") == 0 && (api[i].asked == CALL_NONE || seen.spoiled));
	api[i].asked = call_of(target, post);
	api[i].tap_n = 0;
}

/* --- what would be well-formed --- */

static void put_body(struct buf *p, enum call call, unsigned how)
{
	static const char *const usual[] = {"null", "{\"serialNumber\": \"0123ab\", \"x\": [{}]}",
	        "{\"jwt\": \"a.b-c_d\", \"expires_in\": 5}",
	        "{\"status\": \"online\", \"type\": 1, \"w\": [{\"a\": NaN}, -1.5e3, \"\\u00e4\"]}",
	        "{\"register\": 1, \"value\": 42.0}"};
	static const char *const others[] = {"{\"error\": \"device D1 not found\"}",
	        "{\"error\": \"No devices open\"}", "{\"serialNumber\": \"a b\", \"jwt\": \"a b\"}",
	        "{\"value\": NaN}", "[1,2", "", "{\"serialNumber\": \"9\", \"jwt\": \"Z\"}"};
	buf_put_str(p, how == 0 ? usual[call] : others[how - 1]);
}

/* A reply to what was asked on link i: how chooses its body, frame its form, pad blanks in front. */
static void put_reply(struct buf *p, struct slice body, unsigned status, unsigned frame)
{
	static const char *const heads[] = {"HTTP/1.0 ", "HTTP/1.0 ", "HTTP/1.1 ", "HTTP/1.1 "};
	buf_put_str(p, heads[frame]);
	buf_put_u64(p, status);
	buf_put_str(p, frame == 1   ? " X\r\n\r\n"
	               : frame == 3 ? " X\r\nTransfer-Encoding: chunked\r\n\r\n"
	                            : " X\r\nContent-Length: ");
	if (frame == 0 || frame == 2) {
		buf_put_u64(p, body.n);
		buf_put_str(p, "\r\n\r\n");
	}
	if (frame != 3) {
		buf_put_slice(p, body);
		return;
	}
	static const char hex[] = "0123456789abcdef";
	while (body.n > 0) { /* chunks of 15 bytes and then of 4095 */
		struct slice chunk = cut(&body, body.n > 100 ? 4095 : 15);
		for (unsigned shift = 12; shift < 16; shift -= 4)
			buf_put_byte(p, (unsigned char)hex[chunk.n >> shift & 15]);
		buf_put_str(p, "\r\n");
		buf_put_slice(p, chunk);
		buf_put_str(p, "\r\n");
	}
	buf_put_str(p, "0\r\n\r\n");
}

static void put_length(struct buf *p, size_t n)
{
	do {
		buf_put_byte(p, (unsigned char)((n & 0x7f) | (n > 0x7f ? 0x80 : 0)));
	} while ((n >>= 7) > 0);
}

/* A publish of the payload to the topic of requests. */
static void put_publish(struct buf *p, struct slice payload, unsigned flags, uint16_t id)
{
	struct slice topic = slice_str(b.topic_request);
	bool acknowledged = (flags & 6) != 0;
	buf_put_byte(p, (unsigned char)(0x30 | flags));
	put_length(p, 2 + topic.n + (acknowledged ? 2 : 0) + payload.n);
	buf_put_u16be(p, (uint16_t)topic.n);
	buf_put_slice(p, topic);
	if (acknowledged)
		buf_put_u16be(p, id);
	buf_put_slice(p, payload);
}

static void put_ack(struct buf *p, unsigned first, uint16_t id)
{
	buf_put_byte(p, (unsigned char)first);
	buf_put_byte(p, 2);
	buf_put_u16be(p, id);
}

#endif
