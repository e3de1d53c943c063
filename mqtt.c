#include "mqtt.h"

#include <string.h>

/* Reading */

enum { PUBLISH_DUP = 8, PUBLISH_QOS1 = 2, PUBLISH_RETAIN = 1 }; /* MQTT-3.3.1: flags in the first byte */

/* The remaining length of what a server sends, by type; PUBLISH aside, and -1 for what none sends. A SUBACK
 * has one code, because a SUBSCRIBE of ours has one filter (MQTT-3.8.4-5). */
static const signed char body_bytes[16] = {-1, -1, 2, -1, 2, 2, 2, 2, -1, 3, -1, 2, -1, 0, -1, -1};

static long bad(const char **why, const char *text)
{
	*why = text;
	return -1;
}

static uint16_t u16be(const unsigned char *p)
{
	return (uint16_t)(p[0] << 8 | p[1]);
}

/* Checks the first `have` bytes of a topic of n bytes (RFC 3629 §4 and MQTT's own rules); NULL: no fault. */
static const char *topic_fault(const unsigned char *p, size_t n, size_t have)
{
	unsigned rest = 0, low = 0, high = 0; /* continuation bytes to come, and the range of the next one */
	for (size_t i = 0; i < have; i++) {
		unsigned c = p[i];
		bool fault = false;
		if (rest > 0) {
			fault = c < low || c > high;
			rest--;
			low = 0x80;
			high = 0xbf;
		} else if (c >= 0x80) {
			rest = c < 0xe0 ? 1 : c < 0xf0 ? 2 : 3;
			low = c == 0xe0 ? 0xa0 : c == 0xf0 ? 0x90 : 0x80;  /* none overlong */
			high = c == 0xed ? 0x9f : c == 0xf4 ? 0x8f : 0xbf; /* no surrogate, none > U+10FFFF */
			fault = c < 0xc2 || c > 0xf4 || rest > n - i - 1;
		} else if (c == '+' || c == '#') {
			return "topic with a wildcard (MQTT-3.3.2-2)";
		} else if (c == 0) {
			return "topic with U+0000 (MQTT-1.5.3-2)";
		}
		if (fault)
			return "topic that is not UTF-8 (MQTT-1.5.3-1)";
	}
	return NULL;
}

/* The part of a PUBLISH behind its `head` bytes of fixed header, len bytes by its remaining length. */
static long read_publish(const unsigned char *p, size_t n, size_t head, size_t len, size_t limit,
        struct mqtt_packet *k, const char **why)
{
	const unsigned char *body = p + head;
	size_t have = n - head, room = limit > head ? limit - head : 0, id = k->qos > 0 ? 2 : 0;
	size_t topic = have == 0 ? 0 : (size_t)body[0] << 8; /* at least, until its second byte is there */
	if (have >= 2)
		topic |= body[1];
	size_t need = 2 + (topic > 0 ? topic : 1) + id; /* bytes before the payload */
	if (len <= room && need > len)
		return bad(why, "topic beyond its packet (MQTT-3.3.2)");
	if (len > room && need > room)
		return bad(why, "packet larger than can be held");
	if (have < 2)
		return 0;
	if (topic == 0)
		return bad(why, "empty topic (MQTT-4.7.3-1)");
	k->topic = (struct slice){body + 2, topic};
	*why = topic_fault(body + 2, topic, have - 2 < topic ? have - 2 : topic);
	if (*why != NULL)
		return -1;
	if (have < need)
		return 0;
	if (id > 0) {
		k->id = u16be(body + need - 2);
		if (k->id == 0)
			return bad(why, "packet id 0 (MQTT-2.3.1-1)");
	}
	k->payload.p = body + need;
	if (len > room) {
		k->skip = len - need;
		return (long)(head + need);
	}
	k->payload.n = len - need;
	return have < len ? 0 : (long)(head + len);
}

/* The same for all others: len is right for the type, and not all of it need be there. */
static long read_small(
        const unsigned char *p, size_t n, size_t head, size_t len, struct mqtt_packet *k, const char **why)
{
	const unsigned char *body = p + head;
	size_t have = n - head < len ? n - head : len;
	if (k->type == MQTT_CONNACK) {
		if (have >= 1 && body[0] > 1)
			return bad(why, "CONNACK with reserved flags (MQTT-3.2.2.1)");
		if (have >= 2 && body[1] > 5)
			return bad(why, "CONNACK with a reserved code (MQTT-3.2.2.3)");
		if (have >= 2 && body[0] > 0 && body[1] > 0)
			return bad(why, "CONNACK refuses, with a session (MQTT-3.2.2-4)");
	} else if (have >= 2 && u16be(body) == 0) {
		return bad(why, "packet id 0 (MQTT-2.3.1-1)");
	}
	if (have == 3 && body[2] > 2 && body[2] != 0x80)
		return bad(why, "SUBACK with a reserved code (MQTT-3.9.3-2)");
	if (have < len)
		return 0;
	if (k->type == MQTT_CONNACK) {
		k->session_present = body[0];
		k->code = body[1];
	} else if (len > 0) {
		k->id = u16be(body);
		k->code = len == 3 ? body[2] : 0;
	}
	return (long)(head + len);
}

long mqtt_read(const unsigned char *p, size_t n, size_t limit, struct mqtt_packet *k, const char **why)
{
	memset(k, 0, sizeof *k);
	if (n == 0)
		return 0;
	unsigned type = p[0] >> 4, flags = p[0] & 15, qos = flags >> 1 & 3;
	size_t want = (size_t)body_bytes[type], len = 0, head = 1;
	k->type = (enum mqtt_type)type;
	if (type == MQTT_PUBLISH) {
		k->qos = (uint8_t)qos;
		k->dup = flags & PUBLISH_DUP;
		k->retain = flags & PUBLISH_RETAIN;
		if (qos == 3)
			return bad(why, "PUBLISH with QoS 3 (MQTT-3.3.1-4)");
		if (k->dup && qos == 0)
			return bad(why, "PUBLISH with DUP and QoS 0 (MQTT-3.3.1-2)");
	} else if (body_bytes[type] < 0) {
		return bad(why, "packet type that no server sends (MQTT-2.2.1)");
	} else if (flags != (type == MQTT_PUBREL ? 2 : 0)) {
		return bad(why, "reserved flags (MQTT-2.2.2-2)");
	}
	/* MQTT-2.2.3. No rule of 3.1.1 asks for the shortest form (that of 5.0 does), so 82 00 is 2, too. */
	for (unsigned shift = 0, more = 1; more; shift += 7) {
		if (shift == 28)
			return bad(why, "remaining length of five bytes (MQTT-2.2.3)");
		if (head == n)
			return 0;
		more = p[head] >> 7;
		len |= (size_t)(p[head++] & 127) << shift;
		size_t known = more ? ((size_t)128 << shift) - 1 : SIZE_MAX;
		if (type != MQTT_PUBLISH && ((len ^ want) & known) != 0)
			return bad(why, "wrong length for its type (MQTT-3)");
	}
	if (type == MQTT_PUBLISH)
		return read_publish(p, n, head, len, limit, k, why);
	if (head + len > limit)
		return bad(why, "packet larger than can be held");
	return read_small(p, n, head, len, k, why);
}

/* Writing */

/* The fixed header: the remaining length, at most MQTT_LENGTH_MAX, as 1 to 4 bytes (MQTT-2.2.3). */
static void put_head(struct buf *b, unsigned first, size_t len)
{
	buf_put_byte(b, (unsigned char)first);
	for (; len > 127; len >>= 7)
		buf_put_byte(b, (unsigned char)(len | 128));
	buf_put_byte(b, (unsigned char)len);
}

/* MQTT-1.5.3 */
static void put_string(struct buf *b, struct slice s)
{
	if (s.n > UINT16_MAX)
		b->full = true;
	buf_put_u16be(b, (uint16_t)s.n);
	buf_put_slice(b, s);
}

void mqtt_put_connect(struct buf *b, const struct mqtt_connect *c)
{
	static const unsigned char name[] = {0, 4, 'M', 'Q', 'T', 'T', 4}; /* and the protocol's level */
	bool will = c->will_topic.n > 0;
	put_head(b, MQTT_CONNECT << 4,
	        sizeof name + 1 + 2 + 2 + c->client_id.n +
	                (will ? 2 + c->will_topic.n + 2 + c->will_message.n : 0) + 2 + c->user_name.n + 2 +
	                c->password.n);
	buf_put(b, name, sizeof name);
	buf_put_byte(b, (unsigned char)(0xc0 | (will ? 0x0c : 0) | c->clean_session << 1));
	buf_put_u16be(b, c->keep_alive_s);
	put_string(b, c->client_id);
	if (will) {
		put_string(b, c->will_topic);
		put_string(b, c->will_message);
	}
	put_string(b, c->user_name);
	put_string(b, c->password);
}

void mqtt_put_subscribe(struct buf *b, struct slice topic, uint8_t qos)
{
	put_head(b, MQTT_SUBSCRIBE << 4 | 2, 2 + 2 + topic.n + 1); /* MQTT-3.8.1-1 */
	buf_put_u16be(b, MQTT_SUBSCRIBE_ID);
	put_string(b, topic);
	buf_put_byte(b, qos);
}

void mqtt_put_ack(struct buf *b, enum mqtt_type type, uint16_t id)
{
	put_head(b, (unsigned)type << 4 | (type == MQTT_PUBREL ? 2 : 0), 2); /* MQTT-3.6.1-1 */
	buf_put_u16be(b, id);
}

void mqtt_put_pingreq(struct buf *b)
{
	put_head(b, MQTT_PINGREQ << 4, 0);
}

void mqtt_put_disconnect(struct buf *b)
{
	put_head(b, MQTT_DISCONNECT << 4, 0);
}

/* The outbox */

enum { HEAD_BYTES = 5 }; /* room for the longest fixed header */

/* One publish, a record of the queue: the packet as it is sent lies in bytes, from start to the end. Whether
 * it was sent on an earlier connection of the session is told by its DUP flag. */
struct publish {
	uint32_t at; /* the next byte to send; start: nothing was sent on this connection */
	uint16_t id;
	uint8_t start;
	bool passing;
	unsigned char bytes[];
};

static size_t end_of(const struct publish *m)
{
	return queue_size(m) - offsetof(struct publish, bytes);
}

static bool begun(const struct publish *m)
{
	return m->at > m->start;
}

static bool complete(const struct publish *m)
{
	return m->at == end_of(m);
}

static struct publish *find(const struct mqtt_outbox *o, uint16_t id)
{
	struct publish *m = queue_first(&o->queue);
	while (m != NULL && m->id != id)
		m = queue_next(&o->queue, m);
	return m;
}

void mqtt_outbox_init(struct mqtt_outbox *o, void *mem, size_t cap)
{
	queue_init(&o->queue, mem, cap);
	o->last_id = MQTT_SUBSCRIBE_ID;
}

static void put_u16(unsigned char *p, size_t v)
{
	p[0] = (unsigned char)(v >> 8);
	p[1] = (unsigned char)v;
}

bool mqtt_outbox_begin(struct mqtt_outbox *o, struct slice topic, struct buf *payload)
{
	size_t behind = 2 + topic.n + 2, before = offsetof(struct publish, bytes) + HEAD_BYTES + behind;
	size_t room = queue_room(&o->queue);
	*payload = (struct buf){NULL, 0, 0, true};
	if (topic.n == 0 || topic.n > UINT16_MAX || before > room) /* MQTT-4.7.3-1 and -3 */
		return false;
	struct publish *m = queue_vacant(&o->queue);
	put_u16(m->bytes + HEAD_BYTES, topic.n);
	memcpy(m->bytes + HEAD_BYTES + 2, topic.p, topic.n);
	payload->p = m->bytes + HEAD_BYTES + behind;
	payload->cap = room - before;
	if (payload->cap > MQTT_LENGTH_MAX - behind)
		payload->cap = MQTT_LENGTH_MAX - behind;
	payload->full = false;
	return true;
}

bool mqtt_outbox_commit(struct mqtt_outbox *o, struct buf *payload, bool passing)
{
	if (payload->full)
		return false;
	do
		o->last_id = o->last_id == UINT16_MAX ? MQTT_SUBSCRIBE_ID + 1 : (uint16_t)(o->last_id + 1);
	while (find(o, o->last_id) != NULL);
	/* Topic and payload are there already: the fixed header is put right in front, the id between them.
	 */
	struct publish *m = queue_vacant(&o->queue);
	size_t len = (size_t)(payload->p + payload->n - m->bytes - HEAD_BYTES);
	queue_add(&o->queue, offsetof(struct publish, bytes) + HEAD_BYTES + len);
	m->id = o->last_id;
	m->passing = passing;
	unsigned char *p = m->bytes + HEAD_BYTES - 2;
	for (size_t more = len; more > 127; more >>= 7)
		p--;
	m->at = m->start = (uint8_t)(p - m->bytes);
	*p++ = MQTT_PUBLISH << 4 | PUBLISH_QOS1;
	for (; len > 127; len >>= 7)
		*p++ = (unsigned char)(len | 128);
	*p = (unsigned char)len;
	put_u16(payload->p - 2, m->id);
	return true;
}

void mqtt_outbox_drop_passing(struct mqtt_outbox *o, bool but_newest)
{
	uint16_t newest = 0;
	for (struct publish *m = queue_first(&o->queue); but_newest && m != NULL;
	        m = queue_next(&o->queue, m))
		if (m->passing)
			newest = m->id;
	for (struct publish *m = queue_first(&o->queue); m != NULL;) {
		bool touched = begun(m) || m->bytes[m->start] & PUBLISH_DUP;
		m = m->passing && !touched && m->id != newest ? queue_remove(&o->queue, m)
		                                              : queue_next(&o->queue, m);
	}
}

size_t mqtt_outbox_send(struct mqtt_outbox *o, unsigned char *p, size_t n)
{
	size_t done = 0;
	for (struct publish *m = queue_first(&o->queue); m != NULL; m = queue_next(&o->queue, m)) {
		size_t k = end_of(m) - m->at;
		if (k > n - done)
			k = n - done;
		if (k == 0)
			continue;
		memcpy(p + done, m->bytes + m->at, k);
		m->at += (uint32_t)k;
		done += k;
	}
	return done;
}

bool mqtt_outbox_midway(const struct mqtt_outbox *o)
{
	for (struct publish *m = queue_first(&o->queue); m != NULL; m = queue_next(&o->queue, m))
		if (begun(m) && !complete(m))
			return true;
	return false;
}

bool mqtt_outbox_ack(struct mqtt_outbox *o, uint16_t id)
{
	struct publish *m = find(o, id);
	if (m == NULL || !complete(m))
		return false;
	queue_remove(&o->queue, m);
	return true;
}

void mqtt_outbox_again(struct mqtt_outbox *o, bool session_present)
{
	for (struct publish *m = queue_first(&o->queue); m != NULL; m = queue_next(&o->queue, m)) {
		unsigned char *first = m->bytes + m->start;
		if (!session_present)
			*first &= (unsigned char)~PUBLISH_DUP;
		else if (begun(m))
			*first |= PUBLISH_DUP;
		m->at = m->start;
	}
}

uint16_t mqtt_outbox_oldest(const struct mqtt_outbox *o)
{
	const struct publish *m = queue_first(&o->queue);
	return m == NULL ? 0 : m->id;
}

size_t mqtt_outbox_count(const struct mqtt_outbox *o)
{
	return queue_count(&o->queue);
}

bool mqtt_outbox_waits(const struct mqtt_outbox *o)
{
	const struct publish *m = queue_first(&o->queue); /* none is sent before it */
	return m != NULL && complete(m);
}

/* QoS 2, received */

int mqtt_received_add(struct mqtt_received *r, uint16_t id)
{
	for (size_t i = 0; i < r->n; i++)
		if (r->id[i] == id)
			return 0;
	if (r->n == sizeof r->id / sizeof r->id[0])
		return -1;
	r->id[r->n++] = id;
	return 1;
}

void mqtt_received_release(struct mqtt_received *r, uint16_t id)
{
	for (size_t i = 0; i < r->n; i++)
		if (r->id[i] == id) {
			r->id[i] = r->id[--r->n];
			return;
		}
}
