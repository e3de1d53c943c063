/* A driver of a few lines for unit tests of the core: one bridge, its links served by hand. Include it behind
 * the .c file under test. */
#ifndef DRIVER_H
#define DRIVER_H

#include <string.h>

#include "bridge.h"

static struct bridge b;
static struct bridge_config config = {.broker_host = "broker.test",
        .broker_port = 1,
        .api_host = "api.test",
        .api_port = 2,
        .user_name = "user",
        .password = "password",
        .topic_prefix = "p",
        .keep_alive_s = 60,
        .token_lifetime_s = 300,
        .state_interval_s = 5,
        .api_timeout_s = 10};
static int64_t now_ms;
static unsigned char broker_in[4096], broker_out[64]; /* so little that a publish is always sent in parts */

static void step(void); /* the test's: lets the core think */

static void start(bool has_login)
{
	memset(&b, 0, sizeof b);
	config.has_login = has_login;
	now_ms = 1000;
	bridge_init(&b, &config, NULL, NULL, 1, (struct bridge_time){now_ms, 0});
	b.link[LINK_BROKER].in = (struct buf)BUF(broker_in);
	b.link[LINK_BROKER].out = (struct buf)BUF(broker_out);
	step();
}

/* The driver's part for a link that the core wants open, or closed. */
static void serve(struct link *l)
{
	if (l->open && l->state == LINK_DOWN) {
		link_opening(l);
		link_connected(l, "peer", 0, NULL);
	} else if (!l->open && l->state != LINK_DOWN) {
		link_closed(l);
	}
	step();
}

static void feed(struct link *l, const void *p, size_t n)
{
	size_t room;
	unsigned char *to = link_recv_buf(l, &room);
	assert_true(to != NULL && room >= n);
	memcpy(to, p, n);
	link_recv_ack(l, n);
	step();
}

/* Takes what the core has to send, until it has nothing more or has sent most bytes. */
static size_t drain_link(struct link *l, unsigned char *to, size_t cap, size_t most)
{
	size_t n = 0, have;
	const unsigned char *from;
	while (n < most && (from = link_send_buf(l, &have)) != NULL) {
		if (have > most - n)
			have = most - n;
		assert_true(have <= cap - n);
		memcpy(to + n, from, have);
		n += have;
		link_send_ack(l, have);
		step();
	}
	return n;
}

#endif
