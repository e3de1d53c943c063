/* The broker of the simulated world: MQTT 3.1.1 from the server's side, strict about what it is sent, and
 * with every freedom that the standard gives it. */
#include "world.h"

#include <string.h>

#include "json.h"

enum { CONNECTIONS_MAX = 4, UPS = 1 << 12, TAP_BYTES = 1 << 18, HELD = 1024, IN_FLIGHT = 20, ACKED = 64 };

/* A packet of the client on its way. */
struct up {
	int64_t at;
	uint8_t type;   /* 0: the end of the connection */
	bool dup, flag; /* flag: clean session; PUBLISH: an answer; DISCONNECT: the client stops */
	bool proves;    /* see tap_publish */
	bool offline;   /* such a state */
	uint16_t id;
	uint32_t token;
	int64_t sent;
	struct answer answer;
};

struct connection {
	struct wire *wire;
	uint32_t number;
	enum { FRESH, LIVE, OVER } state;
	bool present, clean, will, said_connect, said_disconnect;
	bool silent, mute, rude, expired; /* mute: acknowledges no publish; rude: has sent garbage */
	uint16_t keep_alive_s;
	int64_t heard_at, expires_at, drops_at, sent_at, resumes_at;
	int64_t deaf_at; /* from then on what the client sends does not come here, but it hears us */
	uint32_t first_up, ups;
	uint16_t counted; /* QoS 1 publishes that were sent on it */
	size_t tap_n;
	struct up up[UPS];
	uint8_t ids[65536 / 8]; /* of the client's packets that wait for an acknowledgement */
	unsigned char tap[TAP_BYTES];
};
static struct connection connection[CONNECTIONS_MAX], *live;

/* What the broker keeps for the client. */
static struct {
	bool exists, subscribed;
	uint32_t number;
	uint16_t last_id;
	int64_t alone_since;
	size_t n;
	struct held {
		uint32_t number, sent_on; /* request; connection, 0: not yet sent */
		uint16_t id;
		uint8_t qos, copies;             /* sent on this connection, not acknowledged */
		bool received, retain, repeated; /* PUBREC came */
	} held[HELD];
	/* The requests that were acknowledged last: on which connection, with which id, when, and whether the
	 * client knows that we know. */
	struct acked {
		uint32_t number, connection;
		uint16_t id;
		int64_t sent;
		bool proven;
	} acked[ACKED];
	size_t acked_n;
} session;

int64_t broker_down_until, broker_dropping_until, broker_deaf_until;
/* ANEW: from 1 on each connection, as RabbitMQ does; ANEW_AGAIN: then from the id of SUBSCRIBE on, as that
 * did. */
static enum { ONE_BY_ONE, LOWEST, ANEW, ANEW_AGAIN } ids;
static bool repeats; /* sends again without being asked to */
static uint8_t refused[1 << 16];

void broker_init(void)
{
	memset(connection, 0, sizeof connection);
	memset(&session, 0, sizeof session);
	memset(refused, 0, sizeof refused);
	live = NULL;
	broker_down_until = broker_dropping_until = broker_deaf_until = 0;
	ids = hashed(0, 21, 4);
	repeats = ids < ANEW && hashed(0, 22, 3) == 0;
}

static bool attached(const struct connection *c)
{
	return c->wire != NULL && c->wire->number == c->number && c->wire->open;
}

static struct connection *of_wire(const struct wire *l)
{
	for (size_t i = 0; i < CONNECTIONS_MAX; i++)
		if (connection[i].wire != NULL && connection[i].number == l->number)
			return &connection[i];
	return NULL;
}

static void put(struct connection *c, const unsigned char *p, size_t n)
{
	if (attached(c) && !c->rude)
		wire_put(c->wire, p, n);
}

static void mark(struct connection *c, struct mark m)
{
	if (attached(c) && !c->rude)
		wire_mark(c->wire, m);
}

static void over(struct connection *c, bool reset)
{
	if (attached(c))
		wire_end(c->wire, reset);
	if (c->state == LIVE)
		session.alone_since = w.now;
	if (c->state == LIVE && c->clean)
		session.exists = false;
	if (c->state == LIVE && c->will) {
		trace("broker: publishes the last will");
		w.wills++;
		w.state_offline = true;
		count[WILLS]++;
	}
	c->state = OVER;
	if (live == c)
		live = NULL;
}

/* --- what it sends --- */

static void send_ack(struct connection *c, uint8_t first, uint16_t id, struct mark m)
{
	unsigned char p[] = {first, 2, (unsigned char)(id >> 8), (unsigned char)id};
	put(c, p, 4);
	m.id = id;
	mark(c, m);
}

static void send_request(struct connection *c, const struct held *h, bool dup)
{
	static unsigned char p[40000];
	unsigned char topic[128];
	struct buf t = BUF(topic), b = BUF(p);
	buf_put_str(&t, w.bridge->topic_request);
	unsigned char payload[32768];
	size_t n = request_put(h->number, payload, sizeof payload), left = 2 + t.n + (h->qos ? 2 : 0) + n;
	buf_put_byte(&b, (unsigned char)(0x30 | (dup ? 8 : 0) | h->qos << 1 | (h->retain ? 1 : 0)));
	do {
		buf_put_byte(&b, (unsigned char)((left & 127) | (left > 127 ? 128 : 0)));
	} while ((left >>= 7) > 0);
	buf_put_u16be(&b, (uint16_t)t.n);
	buf_put_slice(&b, buf_slice(&t));
	if (h->qos > 0)
		buf_put_u16be(&b, h->id);
	c->counted = (uint16_t)(c->counted + (h->qos == 1));
	buf_put(&b, payload, n);
	put(c, b.p, b.n);
	mark(c, (struct mark){
	                .kind = h->retain ? MARK_OTHER : MARK_REQUEST, .number = h->number, .qos = h->qos});
	trace("broker: request %u (%zu bytes) with QoS %u, id %u%s%s", h->number, n, h->qos, h->id,
	        dup ? ", DUP" : "", h->retain ? ", retained" : "");
}

static bool in_flight(const struct held *h)
{
	return ids >= ANEW ? h->sent_on == live->number : h->sent_on != 0;
}

static uint16_t new_id(void)
{
	uint16_t id = ids == LOWEST ? 0 : session.last_id;
	size_t i;
	do {
		id = (uint16_t)(id % 65535 + 1);
		for (i = 0; i < session.n && (!in_flight(&session.held[i]) || session.held[i].id != id); i++)
			continue;
	} while (i < session.n);
	return session.last_id = id;
}

/* Sent again over a new connection. When the twin had its packet id before, and the client can't know whether
 * that one's acknowledgement ever came here, it must take this one for the twin, whose first copy it has not
 * seen, if that was lost: rather not executed than twice. The same when the id is what a broker that counts
 * anew would give it. */
static void note_redelivery(const struct held *h)
{
	count[REDELIVERED]++;
	for (size_t i = 0; i < ACKED && h->qos == 1; i++) {
		const struct acked *a = &session.acked[i];
		bool fits = ids >= ANEW || a->id == h->id || h->id <= live->counted + 1;
		if (a->number == 0 || a->proven || !fits ||
		        request_original(a->number) != request_original(h->number))
			continue;
		count[TWINS_MISTAKEN]++;
		trace("broker: the client may take request %u for its twin %u", h->number, a->number);
		request_excused(h->number);
	}
}

/* Sends what may be in flight, in order. */
static void pump(void)
{
	if (live == NULL || !session.subscribed || w.now < live->resumes_at)
		return;
	for (size_t i = 0; i < session.n && i < IN_FLIGHT; i++) {
		struct held *h = &session.held[i];
		if (h->sent_on == live->number)
			continue;
		if (!attached(live) || wire_room(live->wire) < 40000)
			return;
		bool again = h->sent_on != 0;
		if (again && !h->received)
			note_redelivery(h);
		if (!again || ids >= ANEW)
			h->id = new_id();
		h->sent_on = live->number;
		h->copies = 1;
		h->repeated = false;
		if (h->received)
			send_ack(live, 0x62, h->id, (struct mark){.kind = MARK_OTHER});
		else
			send_request(live, h, again);
	}
}

/* Again, though nothing was lost: some brokers do that when an acknowledgement takes long. */
static void repeat(void)
{
	struct held *h = &session.held[0];
	if (!repeats || !chance(300) || live == NULL || session.n == 0 || h->sent_on != live->number ||
	        h->received || h->repeated || !attached(live) || wire_room(live->wire) < 40000)
		return;
	h->copies++;
	h->repeated = true;
	count[REPEATED]++;
	send_request(live, h, true);
}

void broker_publish(uint32_t number, uint8_t qos)
{
	struct held h = {.number = number, .qos = qos == 2 && ids >= ANEW ? 1 : qos};
	bool reachable = live != NULL && attached(live) && session.subscribed;
	if (qos == 0 && reachable && wire_room(live->wire) > 100000)
		send_request(live, &h, false);
	if (qos == 0 || !session.exists || !session.subscribed || session.n == HELD)
		return;
	session.held[session.n++] = h;
	pump();
}

static void send_garbage(struct connection *c)
{
	static const struct {
		unsigned char n, p[12];
	} garbage[] = {{2, {0x00, 0x00}}, {2, {0xf0, 0x00}}, {4, {0x36, 0x05, 0x00, 0x01}},
	        {5, {0xd0, 0xff, 0xff, 0xff, 0xff}}, {5, {0x40, 0x03, 0x00, 0x01, 0x00}}, {2, {0x40, 0x00}},
	        {4, {0x41, 0x02, 0x00, 0x01}}, {4, {0x40, 0x02, 0x00, 0x00}}, {2, {0xe0, 0x00}},
	        {4, {0x30, 0x02, 0x00, 0x00}}, {4, {0x50, 0x02, 0x00, 0x01}}, {2, {0xd1, 0x00}},
	        {6, {0x30, 0x04, 0x00, 0x01, '#', 'x'}}, {2, {0xc0, 0x00}}, {4, {0x60, 0x02, 0x00, 0x01}},
	        {7, {0x32, 0x05, 0x00, 0x01, 'a', 0x00, 0x00}}};
	unsigned i = draw(sizeof garbage / sizeof garbage[0]);
	unsigned char tail[64];
	if (!attached(c) || c->rude)
		return;
	for (size_t k = 0; k < sizeof tail; k++)
		tail[k] = (unsigned char)draw(256);
	put(c, garbage[i].p, garbage[i].n);
	mark(c, (struct mark){.kind = MARK_GARBAGE});
	put(c, tail, draw(sizeof tail));
	c->rude = true;
	trouble();
	count[GARBAGE]++;
	trace("broker: sends garbage %u", i);
}

void broker_garbage(void)
{
	if (live != NULL)
		send_garbage(live);
}

/* --- what the client sends, as it leaves it: is every packet legal? --- */

struct reader {
	const unsigned char *p, *end;
};

static unsigned get(struct reader *r, unsigned bytes)
{
	unsigned v = 0;
	if ((size_t)(r->end - r->p) < bytes)
		broken("a packet is shorter than what it has to hold");
	while (bytes-- > 0)
		v = v << 8 | *r->p++;
	return v;
}

static struct slice get_text(struct reader *r)
{
	size_t n = get(r, 2);
	if ((size_t)(r->end - r->p) < n)
		broken("a text in a packet is longer than the packet");
	r->p += n;
	return (struct slice){r->p - n, n};
}

static void check_will(struct reader *r)
{
	size_t at;
	if (!slice_is(get_text(r), w.bridge->topic_state))
		broken("the will is not for the state topic");
	struct slice message = get_text(r);
	if (json_check(message, NULL, &at) != NULL || !slice_is(json_get(message, "status"), "\"offline\""))
		broken("the will is not an offline state");
}

static void tap_connect(struct connection *c, struct reader *r, struct up *u)
{
	if (c->said_connect)
		broken("a second CONNECT");
	c->said_connect = true;
	if (!slice_is(get_text(r), "MQTT") || get(r, 1) != 4)
		broken("CONNECT: wrong protocol");
	unsigned flags = get(r, 1);
	c->keep_alive_s = (uint16_t)get(r, 2);
	if (c->keep_alive_s != w.config.keep_alive_s)
		broken("CONNECT: wrong keep-alive");
	u->flag = c->clean = (flags & 2) != 0;
	c->will = w.config.will != SWITCH_OFF && !c->clean;
	if (flags & 1 || (flags & 0x3c) != (c->will ? 0x0c : 0) || (flags & 0xc0) != 0xc0)
		broken("CONNECT: flags %02x", flags);
	if (!slice_is(get_text(r), w.bridge->serial))
		broken("CONNECT: wrong client id");
	if (c->will)
		check_will(r);
	struct slice user = get_text(r), password = get_text(r);
	if (w.config.has_login) {
		if (!slice_is(user, w.config.user_name) || !slice_is(password, w.config.password))
			broken("CONNECT: wrong login");
		return;
	}
	u->token = gateway_token_number(password);
	if (!slice_is(user, w.bridge->serial) || u->token == 0)
		broken("CONNECT: wrong user name or token");
	if (refused[u->token])
		broken("a token was used again after it was refused");
}

static void use_id(struct connection *c, uint16_t id)
{
	if (id == 0 || c->ids[id / 8] >> id % 8 & 1)
		broken("packet id %u is 0 or in use", id);
	c->ids[id / 8] |= (uint8_t)(1 << id % 8);
}

static void tap_publish(struct connection *c, struct reader *r, unsigned first, struct up *u)
{
	if ((first & 7) != 2)
		broken("PUBLISH: flags %02x", first);
	u->dup = (first & 8) != 0;
	struct slice topic = get_text(r);
	u->id = (uint16_t)get(r, 2);
	use_id(c, u->id);
	struct slice payload = {r->p, (size_t)(r->end - r->p)};
	r->p = r->end;
	size_t at;
	u->flag = slice_is(topic, w.bridge->topic_response);
	if (u->flag) {
		u->answer = answer_read(payload);
		trace("client: answer to %u, id %u%s", u->answer.number, u->id, u->dup ? ", DUP" : "");
	} else if (slice_is(topic, w.bridge->topic_state)) {
		if (json_check(payload, NULL, &at) != NULL || json_kind(payload) != JSON_OBJECT ||
		        !slice_is(json_get(payload, "type"), "\"gateway_state\""))
			broken("a state that is none: %.*s", (int)payload.n, payload.p);
		/* Fetched, put and sent after what the client acknowledged before now: when it reads the
		 * PUBACK, it knows that we have had those acknowledgements. */
		u->proves = !u->dup && c->wire->window == 0 && w.now > w.serving_since;
		u->offline = slice_is(json_get(payload, "status"), "\"offline\"");
		w.state_at = w.now;
		if (w.handover_at == never)
			w.excuse = 0;
		count[STATES]++;
		count[FALLBACKS] += slice_is(json_get(payload, "status"), "\"api_unavailable\"");
		trace("client: state %.*s, id %u", 16, json_get(payload, "status").p, u->id);
	} else {
		broken("PUBLISH to another topic: %.*s", (int)topic.n, topic.p);
	}
}

static void tap_subscribe(struct connection *c, struct reader *r, struct up *u)
{
	u->id = (uint16_t)get(r, 2);
	use_id(c, u->id);
	if (!slice_is(get_text(r), w.bridge->topic_request) || get(r, 1) != 1)
		broken("SUBSCRIBE: wrong topic or QoS");
}

/* One whole packet: its first byte and what is behind its length. */
static void tap(struct connection *c, unsigned first, struct reader r)
{
	struct up u = {.at = wire_arrival(c->wire), .sent = w.now, .type = (uint8_t)(first >> 4)};
	if ((u.type != MQTT_CONNECT) != c->said_connect || c->said_disconnect)
		broken("packet %02x before CONNECT or after DISCONNECT", first);
	int64_t silence = w.now - c->sent_at;
	if (c->keep_alive_s != 0 && c->wire->window == 0 && silence > c->keep_alive_s * 1000)
		broken("silent for %lld ms with a keep-alive of %u s", (long long)silence, c->keep_alive_s);
	c->sent_at = w.now;
	if (u.type != MQTT_PUBLISH &&
	        (first & 15) != (u.type == MQTT_SUBSCRIBE || u.type == MQTT_PUBREL ? 2 : 0))
		broken("flags of a packet: %02x", first);
	switch (u.type) {
	case MQTT_CONNECT: tap_connect(c, &r, &u); break;
	case MQTT_PUBLISH: tap_publish(c, &r, first, &u); break;
	case MQTT_SUBSCRIBE: tap_subscribe(c, &r, &u); break;
	case MQTT_PUBACK:
	case MQTT_PUBREC:
	case MQTT_PUBCOMP: u.id = (uint16_t)get(&r, 2); break;
	case MQTT_DISCONNECT:
		c->said_disconnect = w.said_goodbye = true;
		u.flag = w.bridge->stopping;
		break;
	case MQTT_PINGREQ: break;
	default: broken("a packet that no client sends: %02x", first);
	}
	if (r.p != r.end)
		broken("bytes behind the end of packet %02x", first);
	if (c->wire->dead || c->state == OVER || w.now >= c->deaf_at)
		return;
	if (c->ups == UPS)
		broken("world: too many packets on their way");
	c->up[(c->first_up + c->ups++) % UPS] = u;
}

void broker_bytes(struct wire *l, const unsigned char *p, size_t n)
{
	struct connection *c = of_wire(l);
	if (n > TAP_BYTES - c->tap_n)
		broken("a packet of over %d bytes", TAP_BYTES);
	memcpy(c->tap + c->tap_n, p, n);
	c->tap_n += n;
	size_t at = 0;
	for (;;) {
		size_t left = c->tap_n - at, length = 0, i = 1;
		while (i < left && i < 5 && (c->tap[at + i] & 128))
			length |= (size_t)(c->tap[at + i] & 127) << 7 * (i - 1), i++;
		if (i == 5 || (i > 1 && i < left && c->tap[at + i] == 0))
			broken("a remaining length of five bytes, or not the shortest");
		if (i >= left)
			break;
		length |= (size_t)c->tap[at + i] << 7 * (i - 1);
		i++;
		if (length > left - i)
			break;
		const unsigned char *from = c->tap + at + i;
		tap(c, c->tap[at], (struct reader){from, from + length});
		at += i + length;
	}
	c->tap_n -= at;
	memmove(c->tap, c->tap + at, c->tap_n);
}

/* --- what reached it --- */

static void deafen(struct connection *c, int64_t at)
{
	c->deaf_at = at;
	c->mute = true;
	trouble();
}

/* Some connections are to go wrong from the beginning. */
static void bewitch(struct connection *c)
{
	if (w.now < broker_dropping_until)
		c->drops_at = w.now + draw(chance(2) ? 2 : 3000);
	if (w.now < broker_deaf_until)
		deafen(c, w.now + 1 + draw(chance(2) ? 1000 : 10000));
	if (w.now >= w.calm)
		return;
	if (chance(40))
		c->drops_at = w.now;
	c->silent = chance(40);
	c->mute |= chance(60);
	if (c->drops_at != never || c->silent || c->mute)
		trouble();
}

static void hello(struct connection *c, const struct up *u)
{
	uint8_t code = 0;
	if (live != NULL)
		over(live, false);
	bewitch(c);
	if (c->silent || w.now >= c->drops_at)
		return;
	if (u->token != 0)
		c->expires_at = gateway_token_since(u->token) + (int64_t)w.config.token_lifetime_s * 1000;
	if (u->token != 0 && w.now >= c->expires_at)
		code = 4;
	else if (w.now < w.calm && chance(25))
		code = (uint8_t)(1 + draw(5));
	if (session.exists && !u->flag && w.now - session.alone_since > 7200 * 1000)
		session.exists = false; /* expired */
	c->present = session.exists && !u->flag && code == 0;
	unsigned char p[] = {0x20, 2, c->present, code};
	put(c, p, sizeof p);
	mark(c, (struct mark){.kind = MARK_CONNACK, .number = c->present, .qos = code});
	trace("broker: CONNECT%s%s, code %u", u->flag ? ", clean" : "", c->present ? ", session present" : "",
	        code);
	if (code != 0) {
		refused[u->token] = u->token != 0;
		trouble();
		over(c, false);
		return;
	}
	if (!c->present) {
		session.exists = true;
		session.subscribed = false;
		session.n = 0;
		session.number++;
		memset(session.acked, 0, sizeof session.acked);
	}
	if (ids >= ANEW)
		session.last_id = 0;
	c->state = LIVE;
	c->resumes_at = chance(8) ? w.now + draw(10000) : 0; /* takes its time to find what it kept */
	live = c;
	pump();
}

static void subscribe(struct connection *c, const struct up *u)
{
	bool calm = w.now >= w.calm, early = chance(2);
	session.subscribed = true;
	if (ids == ANEW_AGAIN && u->id > session.last_id)
		session.last_id = (uint16_t)(u->id - 1);
	if (chance(10) && session.n < HELD && w.requests < REQUESTS_MAX) {
		w.request[w.requests].forbidden = true;
		session.held[session.n++] = (struct held){.number = w.requests++, .qos = 1, .retain = true};
	}
	if (early)
		pump();
	bool forgets = !calm && chance(60), refuses = !calm && chance(40);
	if (forgets || refuses)
		trouble();
	if (forgets)
		return;
	unsigned char p[] = {0x90, 3, (unsigned char)(u->id >> 8), (unsigned char)u->id, refuses ? 0x80 : 1};
	put(c, p, sizeof p);
	mark(c, (struct mark){.kind = MARK_ACK, .id = u->id});
	if (refuses)
		session.subscribed = false;
	trace("broker: SUBACK %02x", p[4]);
	pump();
}

/* An acknowledgement of the client. */
static void acknowledged(struct connection *c, const struct up *u)
{
	size_t i = 0;
	while (i < session.n && (session.held[i].sent_on != c->number || session.held[i].id != u->id))
		i++;
	if (i == session.n)
		broken("packet %u acknowledges id %u, which is not in flight", u->type, u->id);
	struct held *h = &session.held[i];
	bool fits = u->type == MQTT_PUBACK ? h->qos == 1
	                                   : h->qos == 2 && h->received == (u->type == MQTT_PUBCOMP);
	if (!fits)
		broken("packet %u acknowledges id %u of QoS %u", u->type, u->id, h->qos);
	if (u->type != MQTT_PUBCOMP)
		request_accepted(h->number);
	if (--h->copies > 0)
		return;
	if (u->type == MQTT_PUBREC) {
		h->received = true;
		h->copies = 1;
		send_ack(c, 0x62, h->id, (struct mark){.kind = MARK_OTHER});
		return;
	}
	if (h->qos == 1 && !h->retain)
		session.acked[session.acked_n++ % ACKED] =
		        (struct acked){h->number, c->number, h->id, u->sent, false};
	session.n--;
	memmove(h, h + 1, (session.n - i) * sizeof *h);
	pump();
}

static void published(struct connection *c, const struct up *u)
{
	struct mark m = {.kind = MARK_ACK, .sent = u->proves ? u->sent : 0};
	if (u->dup && !c->present)
		broken("a publish with DUP in a session that is new");
	if (u->flag) {
		m.kind = MARK_ANSWER_ACK;
		m.number = answer_arrived(&u->answer, u->dup, u->id, c->number, session.number);
	} else {
		w.state_offline = u->offline;
		count[OFFLINES] += u->offline;
	}
	if (!c->mute)
		if (!c->mute)
			send_ack(c, 0x40, u->id, m);
}

static void arrived(struct connection *c, const struct up *u)
{
	c->heard_at = w.now;
	if (u->type == 0) {
		over(c, false);
		return;
	}
	if (u->type == MQTT_CONNECT) {
		hello(c, u);
		return;
	}
	if (c->silent || c->state != LIVE)
		return;
	switch (u->type) {
	case MQTT_SUBSCRIBE: subscribe(c, u); break;
	case MQTT_PUBLISH: published(c, u); break;
	case MQTT_PINGREQ: put(c, (const unsigned char[]){0xd0, 0}, 2); break;
	case MQTT_DISCONNECT:
		trace("broker: DISCONNECT");
		if (u->flag && c->will && !w.state_offline)
			broken("the client has stopped with DISCONNECT, but did not publish that it is "
			       "offline");
		c->will = false;
		over(c, false);
		break;
	default: acknowledged(c, u);
	}
}

void broker_run(void)
{
	for (size_t i = 0; i < CONNECTIONS_MAX; i++) {
		struct connection *c = &connection[i];
		while (c->ups > 0 && c->up[c->first_up].at <= w.now) {
			struct up u = c->up[c->first_up];
			c->first_up = (c->first_up + 1) % UPS;
			c->ups--;
			if (c->state != OVER)
				arrived(c, &u);
		}
		if (c->state == LIVE && w.now >= c->expires_at) {
			trace("broker: the token has expired");
			c->expired = true;
			if (c->said_disconnect) /* which is on its way */
				trouble();
			over(c, false);
		}
		if (c->state != OVER && w.now >= c->drops_at) {
			trace("broker: drops the connection");
			trouble();
			count[DROPPED]++;
			over(c, chance(2));
		}
		if (c->state == LIVE && w.now - c->heard_at > c->keep_alive_s * 1500) {
			trace("broker: the client is silent");
			over(c, false);
		}
	}
	pump();
	repeat();
}

int64_t broker_next(void)
{
	int64_t at = never;
	for (size_t i = 0; i < CONNECTIONS_MAX; i++) {
		const struct connection *c = &connection[i];
		if (c->ups > 0 && c->up[c->first_up].at < at)
			at = c->up[c->first_up].at;
		if (c->state == LIVE && c->expires_at < at)
			at = c->expires_at;
		if (c->state == LIVE && c->resumes_at > w.now && c->resumes_at < at)
			at = c->resumes_at;
		if (c->state != OVER && c->drops_at < at)
			at = c->drops_at;
		if (c->state == LIVE && c->heard_at + c->keep_alive_s * 1500 + 1 < at)
			at = c->heard_at + c->keep_alive_s * 1500 + 1;
	}
	return at;
}

/* --- connections come and go --- */

void broker_opened(struct wire *l)
{
	struct connection *c = &connection[l->number % CONNECTIONS_MAX];
	for (size_t i = 0; i < CONNECTIONS_MAX && c->wire != NULL && c->state != OVER; i++)
		c = &connection[i];
	if (c == live)
		over(c, false);
	memset(c, 0, offsetof(struct connection, up));
	memset(c->ids, 0, sizeof c->ids);
	c->wire = l;
	c->number = l->number;
	c->expires_at = c->drops_at = c->deaf_at = never;
	c->sent_at = c->heard_at = w.now;
	if (w.now < broker_dropping_until && chance(4))
		c->drops_at = w.now + draw(100);
}

void broker_closed(struct wire *l)
{
	struct connection *c = of_wire(l);
	if (c == NULL || c->state == OVER || l->dead)
		return;
	if (w.now < w.calm && chance(8)) { /* a reset overtakes what was on its way */
		c->ups = 0;
		trouble();
	}
	if (c->ups == UPS)
		broken("world: too many packets on their way");
	c->up[(c->first_up + c->ups++) % UPS] = (struct up){.at = wire_arrival(l)};
}

void broker_read(struct wire *l, const struct mark *m)
{
	struct connection *c = of_wire(l);
	if (m->kind == MARK_ANSWER_ACK || m->kind == MARK_ACK)
		c->ids[m->id / 8] &= (uint8_t) ~(1 << m->id % 8);
	for (size_t i = 0; i < ACKED && m->sent != 0; i++)
		if (session.acked[i].connection == c->number && session.acked[i].sent < m->sent)
			session.acked[i].proven = true;
}

void broker_forget_session(void)
{
	trace("broker: the session is forgotten");
	if (live != NULL)
		over(live, true);
	session.exists = false;
}

void broker_takeover(void)
{
	if (live == NULL)
		return;
	trace("broker: another client takes the session over");
	over(live, false);
	if (chance(2))
		session.exists = false;
}

void broker_mute(void)
{
	if (live != NULL)
		live->mute = true;
}

void broker_deafen(void)
{
	if (live != NULL)
		deafen(live, w.now);
}

bool broker_is_mute(void)
{
	return live != NULL && live->mute;
}

bool broker_is_rude(void)
{
	const struct connection *c = of_wire(&wires[LINK_BROKER]);
	return c != NULL && c->rude;
}

bool broker_cut_it(void)
{
	const struct connection *c = of_wire(&wires[LINK_BROKER]);
	return c != NULL && c->expired;
}

bool broker_settled(void)
{
	return live != NULL && session.n == 0;
}
