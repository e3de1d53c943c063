/* A QoS 1 publish of 200 bytes from its payload to its PUBACK, in memory: mqtt.c's outbox and codec over
 * link.c, plain or through tls.c against BearSSL's server (test/count/handshake.c's, with its certificates).
 * Run under callgrind, which counts the instructions below publish_counted: what happens between the system
 * calls.
 *
 *     build/bench/publish build/count plain|tls */
#define main handshake_main /* all of it but that */
int handshake_main(int argc, char **argv);
#include "../count/handshake.c"
#undef main

#include "link.h"
#include "mqtt.h"

static struct mqtt_outbox outbox;
static struct link to_broker;
static unsigned char in_mem[4096], out_mem[4096], text[200];
static _Alignas(8) unsigned char outbox_mem[8192];
static const char topic[] = "iamcat/modbus/response";
enum {
	PUBLISHES = 1000,
	RECORD_HEAD_BYTES = 5,
	ID_AT = 3 + 2 + sizeof topic - 1 /* of the packet id, in a PUBLISH with two bytes of length */
};

static void publish(void)
{
	struct buf payload;
	size_t room, n;
	unsigned char *p;
	need(mqtt_outbox_begin(&outbox, slice_str(topic), &payload), "the outbox is full");
	buf_put(&payload, text, sizeof text);
	mqtt_outbox_commit(&outbox, &payload, false);
	while ((p = link_write(&to_broker, &room)) != NULL && (n = mqtt_outbox_send(&outbox, p, room)) > 0)
		link_put(&to_broker, n);
	link_flush(&to_broker);
}

static void take_puback(void)
{
	struct mqtt_packet k;
	const char *why;
	struct slice s = link_read(&to_broker);
	long n = s.n > 0 ? mqtt_read(s.p, s.n, 8192, &k, &why) : 0;
	if (n <= 0)
		return;
	need(k.type == MQTT_PUBACK && mqtt_outbox_ack(&outbox, k.id), "the PUBACK is not taken");
	link_take(&to_broker, (size_t)n);
}

/* One turn of the client's loop: so many bytes were received, or sent, or a publish is to be made. */
static void work(size_t received, size_t sent)
{
	size_t room;
	if (sent > 0) {
		link_send_ack(&to_broker, sent);
	} else if (received == 0) {
		publish();
	} else {
		/* Where recv, which is the kernel's work and not counted, has put them. */
		need(link_recv_buf(&to_broker, &room) != NULL, "nothing can be received");
		link_recv_ack(&to_broker, received);
		if (received != RECORD_HEAD_BYTES) /* net.c reads the rest before the core looks */
			take_puback();
	}
}

__attribute__((noinline)) void publish_counted(size_t received, size_t sent);
void publish_counted(size_t received, size_t sent)
{
	work(received, sent);
	__asm__ volatile("" : : : "memory"); /* no tail call: callgrind has to see the end */
}

/* Moves bytes from one side to the other, in such pieces as the reader of a socket asks for. */
static bool send_some(void (*works)(size_t, size_t))
{
	size_t have, room;
	const unsigned char *p = link_send_buf(&to_broker, &have);
	unsigned char *q = br_ssl_engine_recvrec_buf(&server.eng, &room);
	if (p == NULL || q == NULL)
		return false;
	have = have < room ? have : room;
	memcpy(q, p, have);
	br_ssl_engine_recvrec_ack(&server.eng, have);
	works(0, have);
	return true;
}

static bool receive_some(void (*works)(size_t, size_t))
{
	size_t have, room;
	unsigned char *p = br_ssl_engine_sendrec_buf(&server.eng, &have),
	              *q = link_recv_buf(&to_broker, &room);
	if (p == NULL || q == NULL)
		return false;
	have = have < room ? have : room;
	memcpy(q, p, have);
	works(have, 0);
	br_ssl_engine_sendrec_ack(&server.eng, have);
	return true;
}

static void connect_both(const char *folder)
{
	static const unsigned char entropy[TLS_ENTROPY_BYTES] = {1, 2, 3};
	unsigned char mem[200];
	struct buf why = BUF(mem);
	need(tls_anchors_read(&anchors, read_file(folder, "root.crt"), &why), "the root can't be read");
	to_broker.tls = &client;
	to_broker.server_name = "broker.test";
	to_broker.anchors = &anchors;
	server_init(folder);
	need(br_ssl_server_reset(&server), "the server does not start");
	link_opening(&to_broker);
	link_connected(&to_broker, "here", time(NULL), entropy);
	for (bool moved = true; moved;) {
		moved = send_some(work);
		moved |= receive_some(work);
	}
	need(to_broker.state == LINK_UP, "the handshake does not end");
}

/* The server takes what was published; the packet id is behind the topic. */
static void answer_tls(unsigned char puback[4])
{
	size_t n, room;
	while (send_some(publish_counted))
		;
	unsigned char *p = br_ssl_engine_recvapp_buf(&server.eng, &n);
	need(p != NULL && n == ID_AT + 2 + sizeof text, "the publish does not arrive");
	memcpy(puback + 2, p + ID_AT, 2);
	br_ssl_engine_recvapp_ack(&server.eng, n);
	memcpy(br_ssl_engine_sendapp_buf(&server.eng, &room), puback, 4);
	br_ssl_engine_sendapp_ack(&server.eng, 4);
	br_ssl_engine_flush(&server.eng, 0);
	while (receive_some(publish_counted))
		;
}

static void answer_plain(unsigned char puback[4])
{
	size_t n;
	const unsigned char *p = link_send_buf(&to_broker, &n);
	need(p != NULL, "nothing is sent");
	memcpy(puback + 2, p + ID_AT, 2);
	publish_counted(0, n);
	memcpy(link_recv_buf(&to_broker, &n), puback, 4);
	publish_counted(4, 0);
}

int main(int argc, char **argv)
{
	unsigned char puback[4] = {0x40, 2, 0, 0};
	need(argc == 3, "usage: publish FOLDER plain|tls");
	bool plain = strcmp(argv[2], "plain") == 0;
	to_broker.in = (struct buf)BUF(in_mem);
	to_broker.out = (struct buf)BUF(out_mem);
	mqtt_outbox_init(&outbox, outbox_mem, sizeof outbox_mem);
	memset(text, 'x', sizeof text);
	if (plain) {
		link_opening(&to_broker);
		link_connected(&to_broker, "here", time(NULL), NULL);
	} else {
		connect_both(argv[1]);
	}
	for (int i = 0; i < PUBLISHES; i++) {
		publish_counted(0, 0);
		plain ? answer_plain(puback) : answer_tls(puback);
		need(mqtt_outbox_count(&outbox) == 0, "the outbox keeps what was acknowledged");
	}
	printf("%d times\n", PUBLISHES);
	return 0;
}
