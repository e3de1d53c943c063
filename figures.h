/* What a running iamcat says of itself, from one table of figures: as JSON, as text for people, as metrics
 * for Prometheus. Pure: opens no socket, reads no clock. */
#ifndef FIGURES_H
#define FIGURES_H

#include "bridge.h"

enum { FIGURES_BYTES = 8 * 1024 /* holds each of the three at its largest */ };

/* The figures of one moment, those that only grow in the bridge; valid until its next step. Times are ms, -1
 * where there is none. */
struct figures {
	const struct bridge *b;
	const char *version, *gateway, *client_id, *broker, *address, *health, *since;
	int64_t healthy, up_ms, phase_ms, gap_ms, token_ms, state_ms;
	int64_t waiting, running, unacknowledged, spares, memory_bytes;
	unsigned char broker_mem[BRIDGE_HOST_BYTES + 8], health_mem[512], since_mem[32];
};

/* Takes them. memory_bytes: resident; -1 when it is not known. grace_s: so long may the service be away
 * (HEALTH_GRACE). */
void figures_take(struct figures *f, const struct bridge *b, int64_t memory_bytes, uint32_t grace_s);

/* Writes them as one JSON object and a line end. Its members are the metrics without "iamcat_"; times are in
 * seconds, what is not known is null. */
void figures_put_json(struct buf *b, const struct figures *f);

/* Writes them in Prometheus' text format 0.0.4. */
void figures_put_metrics(struct buf *b, const struct figures *f);

/* Writes that JSON object, which another iamcat may have sent, for people: lines of at most 80 columns,
 * printable ASCII but for the escape sequences of colour. Returns false with a sentence instead when it is
 * none, or does not fit. */
bool figures_put_text(struct buf *b, struct slice json, bool colour);

/* Is it healthy, by that JSON object? Writes the sentence that says why. False, too, for an object that does
 * not say. */
bool figures_healthy(struct buf *why, struct slice json);

#endif
