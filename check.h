/* iamcat check: watches a bridge that probes (see bridge_config) on its way, and writes a line for each step
 * that it has made, or what went wrong and what to do. Pure: the lines go into out, which the caller writes;
 * the network is only looked at. */
#ifndef CHECK_H
#define CHECK_H

#include "bridge.h"
#include "config.h"
#include "net.h"

/* The steps, in their order. */
enum check_step {
	CHECK_CONFIGURATION,
	CHECK_API,
	CHECK_TOKEN,
	CHECK_LOOKUP,
	CHECK_TCP,
	CHECK_TLS,
	CHECK_CONNECT,
	CHECK_SUBSCRIBE,
	CHECK_STATE,
	CHECK_STEPS
};

/* Exit statuses: 0 when all is well, CHECK_FAILED and the number of the step when that failed. */
enum { CHECK_STOPPED = 1 /* by a signal */, CHECK_FAILED = 2 };

struct check {
	struct buf out; /* to be written, and emptied, by the caller */
	int status;     /* the exit status */
	/* its own */
	struct config *config;
	const struct bridge *bridge;
	const struct net_peer *broker;
	const struct tls_anchors *anchors;
	bool terminal; /* colour, ticks, lines of at most 79 columns */
	bool over;     /* nothing is to be watched any more */
	bool shown;    /* the name of the step is there already */
	enum check_step step;
	int64_t since_ms; /* when it began */
	int64_t now_ms;
	unsigned failures; /* of the bridge, which were told */
	unsigned tried;    /* ways to connect: see way_of */
	struct buf said;   /* the warning of the bridge that was not written yet */
	struct buf text;   /* of the step */
	unsigned char said_mem[2048], text_mem[2048], out_mem[12 * 1024], claims[BRIDGE_SECRET_BYTES];
};

/* Begins, with the configuration, from zeroed memory. terminal: the lines are for a person's eyes. */
void check_begin(struct check *c, bool terminal, int64_t now_ms);

/* A log line: of the configuration, and later of the bridge. */
void check_log(struct check *c, enum bridge_level level, struct slice text);

/* The configuration has been read: good says whether it can be used. config is changed for the bridge that is
 * to be made of it, and later by the serial number; all that is given outlives c. */
void check_configured(struct check *c, bool good, struct config *config, const struct tls_anchors *anchors,
        const struct bridge *bridge, const struct net *net, int64_t now_ms);

/* Looks at the bridge and its network, whenever something may have changed. True when it is over: the bridge
 * is to be stopped. */
bool check_watch(struct check *c, struct bridge_time time);

#endif
