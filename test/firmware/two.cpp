/* Two bridges in one C++ program, on the emulated board: each does just the same whether the other is there
 * or not. Then bridges whose port has a trouble for some minutes: they say so, go on trying without a busy
 * loop, and serve afterwards. Their brokers and gateways are a few lines each, and hand over one byte at a
 * time. */
#include <stdio.h>
#include <string.h>

#include "iamcat.h"

namespace
{

const unsigned hours = 1, connections = BRIDGE_LINKS;

/* What is on the other side of one connection. */
struct Peer {
	unsigned char said[2048]; /* by the bridge, and not yet understood */
	size_t said_n;
	unsigned char says[1024];
	size_t says_n, says_at;
	bool ends; /* after says */
};

/* What is wrong with the port to the broker. */
enum Trouble { NONE, NO_CLOCK, NO_ENTROPY, NO_CONNECTION, VANISHED };
const int64_t trouble_from_ms = 300000, trouble_until_ms = 900000;
const unsigned steps_max = 2000; /* in one second */

struct Gateway {
	Trouble trouble;
	const char *tells; /* what the log must say of it */
	bool told;
	unsigned steps, most_steps, answers_after;
	bridge b;
	bridge_config config;
	Peer peer[connections];
	unsigned char in[1024], out[1024]; /* of the broker's link, which is a plain one here */
	const char *serial;
	uint64_t sum; /* of all that it has sent */
	unsigned states, answers;
	int64_t at_ms;
};
Gateway gateway[2];

void say(Peer *p, const void *bytes, size_t n)
{
	if (n > sizeof p->says - p->says_n)
		return;
	memcpy(p->says + p->says_n, bytes, n);
	p->says_n += n;
}

void reply(Peer *p, const char *body)
{
	char text[600];
	int n = snprintf(text, sizeof text, "HTTP/1.0 200 OK\r\nContent-Length: %u\r\n\r\n%s",
	        (unsigned)strlen(body), body);
	say(p, text, (size_t)n);
	p->said_n = 0;
	p->ends = true;
}

bool has(const Peer *p, const char *text)
{
	slice s = {p->said, p->said_n};
	return slice_find(s, text) < s.n;
}

void hear_call(Gateway *g, Peer *p)
{
	char body[200];
	if (!has(p, "\r\n\r\n"))
		return;
	if (has(p, "GET /api/crypto"))
		snprintf(body, sizeof body, "{\"serialNumber\": \"%s\"}", g->serial);
	else if (has(p, "GET /api/state"))
		snprintf(body, sizeof body, "{\"of\": \"%s\"}", g->serial);
	else if (has(p, "GET /api/inverter/modbus"))
		snprintf(body, sizeof body, "{\"value\": %u.0}", (unsigned)strlen(g->serial));
	else
		snprintf(body, sizeof body, "{\"jwt\": \"a.%s.c\"}", g->serial);
	reply(p, body);
}

/* One packet of the bridge's, if it is whole. False: it is not. */
bool hear_packet(Gateway *g, Peer *p)
{
	size_t n = 0, head = 1;
	for (unsigned shift = 0; head < p->said_n; shift += 7) {
		n |= static_cast<size_t>(p->said[head] & 127) << shift;
		if (p->said[head++] < 128)
			break;
	}
	if (head == 1 || p->said_n < head + n)
		return false;
	const unsigned char *body = p->said + head;
	unsigned type = p->said[0] >> 4;
	if (type == MQTT_CONNECT)
		say(p, "\x20\x02\x00\x00", 4);
	if (type == MQTT_PINGREQ)
		say(p, "\xd0\x00", 2);
	if (type == MQTT_SUBSCRIBE) {
		const unsigned char granted[] = {0x90, 3, body[0], body[1], 1};
		say(p, granted, sizeof granted);
	}
	if (type == MQTT_PUBLISH) {
		size_t id = 2 + static_cast<size_t>(body[0] << 8 | body[1]);
		const unsigned char ack[] = {0x40, 2, body[id], body[id + 1]};
		slice payload = {body + id + 2, n - id - 2};
		say(p, ack, sizeof ack);
		bool state = slice_find(payload, "gateway_state") < payload.n;
		g->states += state;
		bool answer = !state && slice_find(payload, "\"value\":") < payload.n;
		g->answers += answer;
		g->answers_after += answer && g->at_ms > trouble_until_ms + 120000;
	}
	p->said_n -= head + n;
	memmove(p->said, p->said + head + n, p->said_n);
	return true;
}

void ask(Gateway *g)
{
	static const char text[] = "{\"function_code\": 3, \"device_id\": \"A\", \"address\": 1}";
	unsigned char packet[200];
	buf b = {packet, sizeof packet, 0, false};
	slice topic = slice_str(g->b.topic_request);
	buf_put_byte(&b, MQTT_PUBLISH << 4);
	buf_put_byte(&b, static_cast<unsigned char>(2 + topic.n + sizeof text - 1));
	buf_put_u16be(&b, static_cast<uint16_t>(topic.n));
	buf_put_slice(&b, topic);
	buf_put_str(&b, text);
	say(&g->peer[LINK_BROKER], b.p, b.n);
}

bool troubled(const Gateway *g, Trouble t)
{
	return g->trouble == t && g->at_ms >= trouble_from_ms && g->at_ms < trouble_until_ms;
}

/* The driver's part of one link; true when something happened. */
bool serve(Gateway *g, size_t i)
{
	link *l = &g->b.link[i];
	Peer *p = &g->peer[i];
	size_t n;
	if (!l->open) {
		if (l->state == LINK_DOWN)
			return false;
		link_closed(l);
		memset(p, 0, sizeof *p);
		return true;
	}
	if (l->state == LINK_DOWN) {
		link_opening(l);
		if (i == LINK_BROKER && troubled(g, NO_CONNECTION))
			return true; /* and nothing follows */
		if (i == LINK_BROKER && troubled(g, NO_ENTROPY))
			link_ended(l, LINK_REFUSED, "there are no random numbers", 0);
		else
			link_connected(l, "192.0.2.1", 0, nullptr);
		return true;
	}
	if (l->state != LINK_UP || (i == LINK_BROKER && troubled(g, VANISHED)))
		return false;
	if (i == LINK_BROKER && (troubled(g, NO_CONNECTION) || troubled(g, NO_ENTROPY))) {
		link_ended(l, LINK_LOST, "the other side reset the connection", 0);
		return true;
	}
	if (const unsigned char *from = link_send_buf(l, &n)) {
		g->sum = (g->sum ^ *from) * 0x100000001b3u;
		if (p->said_n < sizeof p->said)
			p->said[p->said_n++] = *from;
		link_send_ack(l, 1);
		if (i != LINK_BROKER)
			hear_call(g, p);
		else
			while (hear_packet(g, p))
				;
		return true;
	}
	unsigned char *to = p->says_at < p->says_n ? link_recv_buf(l, &n) : nullptr;
	if (to != nullptr) {
		*to = p->says[p->says_at++];
		if (p->says_at == p->says_n)
			p->says_at = p->says_n = 0;
		link_recv_ack(l, 1);
		return true;
	}
	if (p->ends && p->says_n == 0) {
		link_ended(l, LINK_EOF, "the peer closed it", 0);
		return true;
	}
	return false;
}

bridge_time time_of(const Gateway *g)
{
	return {g->at_ms, troubled(g, NO_CLOCK) ? 0 : INT64_C(1800000000000000) + g->at_ms * 1000};
}

void start(Gateway *g, const char *serial)
{
	memset(g, 0, sizeof *g);
	bridge_config *c = &g->config;
	strcpy(c->broker_host, "broker.test");
	strcpy(c->api_host, "api.test");
	strcpy(c->topic_prefix, "iamcat/{serial}");
	c->broker_port = c->api_port = 1;
	c->keep_alive_s = 60;
	c->token_lifetime_s = 300;
	c->dates = DATES_NUMERIC;
	c->session_window_s = 60;
	c->state_interval_s = 5;
	c->api_timeout_s = 10;
	c->api_spares = strlen(serial) % 2;
	g->serial = serial;
	g->at_ms = 1000;
	bridge_init(&g->b, c, nullptr, nullptr, 1, time_of(g));
	g->b.link[LINK_BROKER].in = {g->in, sizeof g->in, 0, false};
	g->b.link[LINK_BROKER].out = {g->out, sizeof g->out, 0, false};
}

/* All that is to be done before its time goes on. */
void turn(Gateway *g)
{
	for (bool again = true; again;) {
		size_t at = 0;
		bridge_level level;
		slice text;
		int64_t wake = bridge_step(&g->b, time_of(g));
		g->steps++;
		while (bridge_take_log(&g->b, &at, &level, &text))
			g->told = g->told || (g->tells != nullptr && slice_find(text, g->tells) < text.n);
		again = false;
		for (size_t i = 0; i < connections; i++)
			again = serve(g, i) || again;
		if (!again)
			g->at_ms = wake > g->at_ms ? wake : g->at_ms + 1;
	}
}

void run(Gateway *first, Gateway *second)
{
	int64_t ask_ms = 60000;
	for (int64_t now = 1000; now < hours * 3600000; now += 1000) {
		Gateway *const both[] = {first, second};
		for (Gateway *g : both) {
			if (g != nullptr && now >= ask_ms)
				ask(g);
			while (g != nullptr && g->at_ms < now)
				turn(g);
			if (g != nullptr && g->steps > g->most_steps)
				g->most_steps = g->steps;
			if (g != nullptr)
				g->steps = 0;
		}
		if (now >= ask_ms)
			ask_ms += 60000;
	}
}

/* One trouble; was all right? */
bool endure(int n, Trouble trouble, const char *tells)
{
	Gateway *g = &gateway[0];
	start(g, "0123");
	g->trouble = trouble;
	g->tells = tells;
	run(g, nullptr);
	bool good = g->told && g->answers_after >= 40 && g->most_steps < steps_max;
	printf("%sok %d - \"%s\"%s, %u answers afterwards, at most %u steps in a second\n",
	        good ? "" : "not ", n, tells, g->told ? "" : " was not said", g->answers_after,
	        g->most_steps);
	return good;
}

} // namespace

int main()
{
	uint64_t alone[2];
	static const char *const serials[2] = {"0123", "45678"};
	for (int i = 0; i < 2; i++) {
		start(&gateway[i], serials[i]);
		run(&gateway[i], nullptr);
		alone[i] = gateway[i].sum;
	}
	for (int i = 0; i < 2; i++)
		start(&gateway[i], serials[i]);
	run(&gateway[0], &gateway[1]);
	bool good = alone[0] != alone[1];
	for (int i = 0; i < 2; i++) {
		const Gateway *g = &gateway[i];
		bool same = g->sum == alone[i], enough = g->states > 700 && g->answers == 59;
		printf("%sok %d - gateway %s: %u states, %u answers%s\n", same && enough ? "" : "not ", i + 1,
		        g->serial, g->states, g->answers,
		        same ? "" : "; it did something else when it was alone");
		good = good && same && enough;
	}
	good = endure(3, NO_CLOCK, "clock is wrong, it says 1970") && good;
	good = endure(4, NO_ENTROPY, "there are no random numbers; trying again in") && good;
	good = endure(5, NO_CONNECTION, "no connection in time; trying again in") && good;
	good = endure(6, VANISHED, "the broker did not") && good;
	return good ? 0 : 1;
}
