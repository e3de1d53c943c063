/* The network of the simulated world: what net.c is to the program. Delays, cuts into pieces, throttles,
 * resets, and lets connections go silent. */
#include "world.h"

#include <string.h>

struct wire wires[BRIDGE_LINKS];
static uint32_t connections;

void wires_init(void)
{
	memset(wires, 0, sizeof wires);
	connections = 0;
	for (size_t i = 0; i < BRIDGE_LINKS; i++)
		wires[i].link = &w.bridge->link[i];
}

static bool is_broker(const struct wire *l)
{
	return l == &wires[LINK_BROKER];
}

/* --- the server's side --- */

size_t wire_room(const struct wire *l)
{
	return l->marks + 2 < MARKS ? DOWN_BYTES - l->down_n : 0;
}

int64_t wire_arrival(const struct wire *l)
{
	int64_t at = w.now + l->latency;
	return at > l->stalled_until ? at : l->stalled_until;
}

void wire_put(struct wire *l, const void *p, size_t n)
{
	if (l->dead || l->ends || n > DOWN_BYTES - l->down_n)
		return;
	int64_t at = wire_arrival(l);
	if (at > l->last_at || l->arrivals == 0) {
		if (l->arrivals == MARKS)
			broken("world: too many arrivals");
		l->arrivals++;
		l->last_at = at;
	}
	memcpy(l->down + l->down_n, p, n);
	l->down_n += n;
	l->put += n;
	uint32_t last = (l->first_arrival + l->arrivals - 1) % MARKS;
	l->arrival[last].at = l->last_at;
	l->arrival[last].end = l->put;
}

void wire_mark(struct wire *l, struct mark m)
{
	if (l->dead || l->ends)
		return;
	if (l->marks == MARKS)
		broken("world: too many marks");
	m.end = l->put;
	l->mark[(l->first_mark + l->marks++) % MARKS] = m;
}

void wire_end(struct wire *l, bool reset)
{
	if (!l->open || l->ends || l->dead)
		return;
	l->ends = true;
	l->reset = reset;
	int64_t at = wire_arrival(l);
	l->end_at = reset || at > l->last_at ? at : l->last_at;
}

void wire_die(struct wire *l)
{
	if (!l->open || l->dead)
		return;
	l->dead = true;
	l->dead_since = w.now;
	l->down_n = 0; /* what was on its way is lost */
	l->arrivals = 0;
	l->ends = false;
}

/* --- the client's side --- */

/* The broker must not be connected to over and over, nor the API too often at a time. */
static void check_begin(const struct wire *l)
{
	size_t api = 0;
	for (size_t i = 0; i < BRIDGE_LINKS; i++)
		api += !is_broker(&wires[i]) && wires[i].number != 0;
	if (api > API_LINKS)
		broken("%zu connections to the API at a time", api);
	if (!is_broker(l))
		return;
	count[CONNECTIONS]++;
	bool planned = w.said_goodbye; /* a new token, or a stale session */
	w.said_goodbye = false;
	if (planned)
		return;
	int64_t *began = &w.began_at[w.begun++ % STORM];
	if (*began != 0 && w.now - *began < 60 * 1000)
		broken("%d connections to the broker within %lld ms", STORM, (long long)(w.now - *began));
	*began = w.now;
}

/* Who listens, and how the connection will be. */
static void begin(struct wire *l)
{
	struct link *link = l->link;
	bool calm = w.now >= w.calm, broker = is_broker(l);
	int64_t last_latency = l->latency;
	memset(l, 0, offsetof(struct wire, arrival));
	l->link = link;
	l->first_arrival = l->arrivals = l->first_mark = l->marks = 0;
	l->down_n = 0;
	l->number = ++connections;
	check_begin(l);
	l->latency = broker ? 1 + draw(chance(10) ? 600 : 60) : chance(50) ? draw(5) : 0;
	/* TCP and TLS; what was sent before on another connection is there by then */
	l->connect_at = w.now + (broker ? last_latency + l->latency + draw(200) : draw(3));
	if (!broker)
		l->connect_at += gateway_syn_ms();
	if (chance(broker ? 6 : 100))
		l->piece = 1 + draw(chance(6) ? 2 : 400);
	if (broker && !calm && chance(6))
		l->window = 1 + draw(chance(4) ? 8 : 1500);
	bool down = broker ? w.now < broker_down_until : gateway_health == DOWN;
	bool slow = !calm && broker && chance(20);
	l->refused = down && !chance(3);
	if (down && !l->refused)
		l->connect_at = never; /* SYNs go unanswered */
	else if (slow)
		l->connect_at += draw(70000);
	if (down || slow || (broker && (l->piece != 0 || l->window != 0)))
		trouble();
	else if (w.handover_at != never)
		w.excuse += l->connect_at - w.now + 5 * l->latency;
	link_opening(link);
	trace("%s: connection %u begins%s%s", broker ? "broker" : "API", l->number,
	        l->piece ? ", in pieces" : "", l->window ? ", throttled" : "");
}

static void closed(struct wire *l)
{
	if (l->open && is_broker(l))
		broker_closed(l);
	else if (l->open)
		gateway_closed(l);
	if (is_broker(l) && l->number != 0)
		trace("broker: connection %u closed by the client", l->number);
	l->open = false;
	l->number = 0;
	l->down_n = l->arrivals = l->marks = 0;
}

static void ended(struct wire *l, enum link_end end, const char *why)
{
	if (is_broker(l))
		trace("broker: connection %u ends: %s", l->number, why);
	link_ended(l->link, end, why, 0);
	if (l->open && is_broker(l))
		broker_closed(l);
	else if (l->open)
		gateway_closed(l);
	l->open = false;
}

static bool send_bytes(struct wire *l)
{
	size_t n;
	bool moved = false;
	const unsigned char *p;
	while (w.now >= l->send_at && (p = link_send_buf(l->link, &n)) != NULL) {
		if (l->window != 0 && n > l->window)
			n = l->window;
		if (l->window != 0)
			l->send_at = w.now + 1 + draw(10);
		if (is_broker(l))
			broker_bytes(l, p, n);
		else
			gateway_bytes(l, p, n);
		link_send_ack(l->link, n);
		moved = true;
	}
	return moved;
}

static bool receive_bytes(struct wire *l)
{
	size_t room, n = 0;
	unsigned char *to;
	while (l->arrivals > 0 && l->arrival[l->first_arrival].at <= w.now) {
		n = (size_t)(l->arrival[l->first_arrival].end - l->link->received);
		if (l->arrivals == 1 || l->arrival[(l->first_arrival + 1) % MARKS].at > w.now || n > 4096)
			break;
		l->first_arrival = (l->first_arrival + 1) % MARKS; /* merged with the next */
		l->arrivals--;
	}
	if (n == 0 || w.now < l->receive_at || (to = link_recv_buf(l->link, &room)) == NULL)
		return false;
	size_t all = n;
	if (n > room)
		n = room;
	if (l->piece != 0 && n > l->piece)
		n = 1 + draw(l->piece);
	memcpy(to, l->down, n);
	l->down_n -= n;
	memmove(l->down, l->down + n, l->down_n);
	link_recv_ack(l->link, n);
	if (n == all) {
		l->first_arrival = (l->first_arrival + 1) % MARKS;
		l->arrivals--;
	}
	if (l->piece != 0 && is_broker(l))
		l->receive_at = w.now + draw(3);
	return true;
}

static bool move(struct wire *l)
{
	struct link *link = l->link;
	if (!link->open) {
		if (link->state == LINK_DOWN)
			return false;
		closed(l);
		link_closed(link);
		return true;
	}
	if (link->state == LINK_DOWN) {
		begin(l);
		return true;
	}
	if (link->state == LINK_OPENING) {
		if (w.now < l->connect_at)
			return false;
		if (l->refused) {
			ended(l, LINK_REFUSED, "the connection was refused");
			return true;
		}
		l->open = true;
		link_connected(link, "192.0.2.1", 0, NULL);
		if (is_broker(l))
			broker_opened(l);
		else
			gateway_opened(l);
		return true;
	}
	if (link->state != LINK_UP)
		return false;
	bool moved = send_bytes(l);
	moved |= receive_bytes(l);
	if (l->ends && w.now >= l->end_at && (l->reset || l->down_n == 0)) {
		ended(l, l->reset ? LINK_LOST : LINK_EOF, l->reset ? "reset" : "the server closed it");
		return true;
	}
	return moved;
}

bool wires_move(void)
{
	bool moved = false;
	for (size_t i = 0; i < BRIDGE_LINKS; i++)
		moved |= move(&wires[i]);
	return moved;
}

static int64_t next_of(const struct wire *l)
{
	int64_t at = never, t;
	size_t n;
	if (l->link->state == LINK_OPENING)
		return l->connect_at;
	if (l->link->state != LINK_UP)
		return never;
	if (link_send_buf(l->link, &n) != NULL && l->send_at < at)
		at = l->send_at;
	if (l->arrivals > 0 && link_recv_buf(l->link, &n) != NULL) {
		t = l->arrival[l->first_arrival].at;
		if (t < l->receive_at)
			t = l->receive_at;
		if (t < at)
			at = t;
	}
	if (l->ends && (l->reset || l->down_n == 0) && l->end_at < at)
		at = l->end_at;
	return at;
}

int64_t wires_next(void)
{
	int64_t at = never;
	for (size_t i = 0; i < BRIDGE_LINKS; i++) {
		int64_t t = next_of(&wires[i]);
		if (t < at)
			at = t;
	}
	return at;
}

void wires_drop(void)
{
	for (size_t i = 0; i < BRIDGE_LINKS; i++) {
		closed(&wires[i]);
		wires[i].link->state = LINK_DOWN;
	}
}
