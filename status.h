/* What a running iamcat answers on its status socket and to Prometheus, and the commands that ask it.
 * Touches the operating system: sockets, and /proc for memory. Never makes the loop wait. */
#ifndef STATUS_H
#define STATUS_H

#include "bridge.h"
#include "config.h"
#include "figures.h"
#include "fd.h"

enum {
	STATUS_CLIENTS = 4,                /* of METRICS_LISTEN, at a time; more wait in the kernel */
	STATUS_HEAD_BYTES = 4096,          /* the most that a request there may have */
	STATUS_MS = 2000,                  /* the most that one of them may take */
	STATUS_BYTES = FIGURES_BYTES + 256 /* a reply with its header */
};

struct status {
	const struct config *config;
	int local, web;   /* listen; -1: not (yet) */
	int memory;       /* /proc/self/statm; -1: there is none */
	int64_t user;     /* who may ask, besides root: ours at the start */
	bool bound;       /* STATUS_SOCKET is ours */
	int64_t again_ms; /* when to try again what could not be had */
	int64_t quiet_ms; /* until then nobody is accepted: the system has no more descriptors */
	struct buf said;  /* lines for the log; the driver writes and empties it */
	unsigned char said_mem[512];
	bool failing; /* that was said */
	struct status_client {
		int fd; /* -1: free */
		int64_t deadline_ms;
		bool answered;      /* mem holds the reply, not the request */
		size_t n, at;       /* bytes in mem, and how many of them were sent */
		unsigned char *mem; /* STATUS_BYTES */
	} client[STATUS_CLIENTS];
	struct figures figures;
	unsigned char reply[FIGURES_BYTES];
	unsigned char client_mem[STATUS_CLIENTS][STATUS_BYTES]; /* last, since mostly it is never touched */
};

/* Opens what the configuration names; what can't be had is said in a line, and tried again by status_step.
 * For a bridge that probes: but nothing is said of what a running iamcat of this configuration has. */
void status_init(struct status *s, const struct config *c, int64_t now_ms);

/* Answers whoever asks, as w says that select has found them, without waiting for anybody; w then holds what
 * it waits for, and nothing else. Returns when it wants to be called again at the latest (monotonic ms). To
 * be called between two steps of the bridge, of whose last step it tells. */
int64_t status_step(struct status *s, const struct bridge *b, int64_t now_ms, struct watch *w);

/* Closes everything, and removes the socket's file. */
void status_close(struct status *s);

/* Asks the iamcat that runs with this configuration: writes the JSON object that it answers with to json.
 * false with a sentence in why. Waits FD_WAIT_MS, or twice that when it is stuck. */
bool status_ask(const struct config *c, struct buf *json, struct buf *why);

#endif
