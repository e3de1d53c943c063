/* MQTT 3.1.1 (OASIS standard, 29 October 2014), the client's side: packets to bytes and bytes to packets,
 * packet ids, and the publishes that wait for their acknowledgement. Pure: moves no bytes over a network,
 * reads no clock, logs nothing, allocates nothing. */
#ifndef MQTT_H
#define MQTT_H

#include "buf.h"
#include "queue.h"

enum { MQTT_LENGTH_MAX = 268435455 }; /* MQTT-2.2.3: the most bytes behind a fixed header */

/* MQTT-2.2.1: control packet types, as in the high four bits of a packet's first byte. */
enum mqtt_type {
	MQTT_CONNECT = 1,
	MQTT_CONNACK,
	MQTT_PUBLISH,
	MQTT_PUBACK,
	MQTT_PUBREC,
	MQTT_PUBREL,
	MQTT_PUBCOMP,
	MQTT_SUBSCRIBE,
	MQTT_SUBACK,
	MQTT_UNSUBSCRIBE,
	MQTT_UNSUBACK,
	MQTT_PINGREQ,
	MQTT_PINGRESP,
	MQTT_DISCONNECT
};

/* One packet from the broker. Slices point into the bytes that were read. */
struct mqtt_packet {
	enum mqtt_type type;
	uint8_t qos;          /* PUBLISH: 0 to 2 */
	bool dup, retain;     /* PUBLISH */
	bool session_present; /* CONNACK */
	uint8_t code; /* CONNACK: 0 accepted, 1 to 5 refused (MQTT-3.2.2.3); SUBACK: QoS granted or 0x80 */
	uint16_t id;  /* packet id; 0 for PUBLISH with QoS 0, CONNACK and PINGRESP */
	struct slice topic;   /* PUBLISH: valid UTF-8 without U+0000 and wildcards, at least one byte */
	struct slice payload; /* PUBLISH; empty when it was too large, see skip */
	size_t skip;          /* PUBLISH larger than the reader's limit: its payload has this many bytes, they
	                       * follow in the stream and are to be thrown away; 0 otherwise */
};

/* Reads one packet from the n bytes at p. Returns the bytes that it takes; 0 when more bytes are needed; -1
 * when no continuation could be legal, with *why set to a static sentence (what was found, and the section of
 * the standard). limit: the most bytes that the caller can hold. A PUBLISH whose bytes in all exceed it is
 * returned as soon as its topic and packet id are there, with skip set, and the return value counts the bytes
 * before the payload; one whose topic and id do not fit either, and any other packet that exceeds the limit,
 * is malformed. Only what a server sends is legal. At once and byte by byte give the same result; *k and *why
 * mean something only when a packet and -1 are returned. */
long mqtt_read(const unsigned char *p, size_t n, size_t limit, struct mqtt_packet *k, const char **why);

/* CONNECT (MQTT-3.1), with a user name and a password. Slices are written as they are; will_topic empty means
 * no will. password is a secret: the caller wipes b's memory when it was sent. A slice of more than 65535
 * bytes does not fit: b->full. */
struct mqtt_connect {
	struct slice client_id, user_name, password;
	struct slice will_topic, will_message; /* QoS 1, not retained */
	uint16_t keep_alive_s;
	bool clean_session;
};
void mqtt_put_connect(struct buf *b, const struct mqtt_connect *c);

/* The packet id of each SUBSCRIBE; no publish has it. It is 1 because RabbitMQ 3.10 counts the ids of its
 * own publishes from 1, and after a SUBSCRIBE from that one's on. */
enum { MQTT_SUBSCRIBE_ID = 1 };
void mqtt_put_subscribe(struct buf *b, struct slice topic, uint8_t qos); /* MQTT-3.8, one filter */
void mqtt_put_ack(struct buf *b, enum mqtt_type type, uint16_t id);      /* PUBACK, PUBREC, PUBREL, PUBCOMP */
void mqtt_put_pingreq(struct buf *b);
void mqtt_put_disconnect(struct buf *b);

/* The outbox: QoS 1 publishes in their order, each kept until its PUBACK (MQTT-4.3.2), over any number of
 * connections. */
struct mqtt_outbox {
	struct queue queue;
	uint16_t last_id; /* the packet id given last */
};

/* mem: aligned to 8, outlives o; less than 2 MB, where the least publish takes 32 bytes, so that there is a
 * packet id for each. */
void mqtt_outbox_init(struct mqtt_outbox *o, void *mem, size_t cap);

/* Starts a publish to topic: sets *payload to a writer over the room that is left. The caller writes the
 * payload and then calls mqtt_outbox_commit; until then nothing is queued, and the outbox must not be touched
 * otherwise. Returns false, with *payload full, when not even the topic fits, is empty or over 65535 bytes.
 */
bool mqtt_outbox_begin(struct mqtt_outbox *o, struct slice topic, struct buf *payload);

/* Queues the publish with an id that is not in use (MQTT-2.3.1-2), nor given again before 65533 others were,
 * behind all others. Returns false when the payload did not fit (payload->full, as mqtt_outbox_begin sets it,
 * too, whose result need not be checked): nothing is queued. passing: nobody needs it when a newer one is
 * there (a state); see mqtt_outbox_drop_passing. */
bool mqtt_outbox_commit(struct mqtt_outbox *o, struct buf *payload, bool passing);

/* Drops the passing publishes of which nothing was sent in this session: all of them, or all but the newest
 * of all passing ones (after mqtt_outbox_again without a session, where everything counts as not sent). */
void mqtt_outbox_drop_passing(struct mqtt_outbox *o, bool but_newest);

/* Copies the next bytes to send, up to n, to p and returns how many: whole or partial publishes in order,
 * each once a connection. 0: nothing to send now. */
size_t mqtt_outbox_send(struct mqtt_outbox *o, unsigned char *p, size_t n);

/* True when a publish was sent in part: no other packet may be sent before its rest. */
bool mqtt_outbox_midway(const struct mqtt_outbox *o);

/* The PUBACK for id arrived: forgets the publish. false: no publish with this id was sent completely on this
 * connection. */
bool mqtt_outbox_ack(struct mqtt_outbox *o, uint16_t id);

/* A new connection: everything unacknowledged is to be sent again, in order: with DUP set and the same id
 * where the broker kept the session (MQTT-3.3.1-1, MQTT-4.4.0-1) and the publish was sent before, as new
 * otherwise. */
void mqtt_outbox_again(struct mqtt_outbox *o, bool session_present);

/* The packet id of the oldest publish; 0: it is empty. */
uint16_t mqtt_outbox_oldest(const struct mqtt_outbox *o);

/* How many publishes are in it. */
size_t mqtt_outbox_count(const struct mqtt_outbox *o);

/* Was one of them sent completely on this connection, so that it waits for its PUBACK? */
bool mqtt_outbox_waits(const struct mqtt_outbox *o);

/* Ids of QoS 2 publishes that were received and not yet released (MQTT-4.3.3, method B: delivered at
 * PUBLISH). All zero is the empty set. */
struct mqtt_received {
	uint16_t id[32];
	uint8_t n;
};

/* Adds id: 1 new, 0 it was there already (a redelivery: not to be executed again), -1 the set is full (the
 * connection has to end: a broker has at most 32 in flight). */
int mqtt_received_add(struct mqtt_received *r, uint16_t id);
void mqtt_received_release(struct mqtt_received *r, uint16_t id); /* at PUBREL; unknown ids do nothing */

#endif
