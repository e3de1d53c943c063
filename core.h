/* What the files of the core (bridge.c, session.c, requests.c, api.c) share and nobody else needs. */
#ifndef CORE_H
#define CORE_H

#include "bridge.h"

/* Log lines: log_begin, any buf_put_*, log_end. A line that does not fit is dropped whole. */
struct buf *log_begin(struct bridge *b, enum bridge_level level);
void log_end(struct bridge *b);
void log_line(struct bridge *b, enum bridge_level level, const char *text);

/* The same for a line that can come in any number, see enum bridge_cause: those that are one too many are
 * counted, and only at debug level logged. */
struct buf *log_begin_limited(struct bridge *b, enum bridge_level level, unsigned cause);
void log_line_limited(struct bridge *b, enum bridge_level level, unsigned cause, const char *text);
bool log_limited(struct bridge *b, unsigned cause); /* counts; is it one too many? */

static inline int64_t earlier(int64_t a, int64_t b)
{
	return a < b ? a : b;
}

/* 32 pseudo-random bits, for jitter only. */
uint32_t bridge_random(struct bridge *b);

/* Starts the payload of a publish to topic with its timestamp and type; then put the rest. See
 * mqtt_outbox_begin. */
bool publish_begin(struct bridge *b, const char *topic, const char *type, struct buf *payload);

/* api.c */

/* Starts a call: GET target, or POST body to it when body.p is set; its time counts from from_ms. The api
 * must be API_IDLE. Returns false when it does not fit into BRIDGE_CALL_BYTES. Where it must not be made
 * twice, whatever happens, the caller sets once. */
bool api_start(struct bridge *b, struct api *a, struct slice target, struct slice body, int64_t from_ms);

/* Moves a call on; returns the state. API_DONE means 2xx or not, look at reply.status. */
enum api_state api_step(struct bridge *b, struct api *a);

/* Takes the api back from API_DONE or API_FAILED, or gives up a call that is under way. */
void api_finish(struct bridge *b, struct api *a);

/* One of b->call that is API_IDLE, NULL when there is none. */
struct api *api_idle(struct bridge *b);

/* Opens connections ahead of need. Returns when it wants to be called again: INT64_MAX for never. */
int64_t api_keep_spares(struct bridge *b);

/* How many connections are up and wait. */
size_t api_spares(const struct bridge *b);

/* Wipes the reply, which may be a token, wherever in the link's memory its bytes have been. */
void api_wipe(struct api *a);

/* After API_DONE: is the status 2xx? */
bool api_succeeded(const struct api *a);

/* When the api wants to be stepped again though no byte comes: INT64_MAX for never. */
int64_t api_deadline(const struct api *a);

/* Writes what went wrong as a clause, with the number behind it: "the connection was refused (error 111)". */
void api_put_why(struct buf *b, const struct api *a);

/* session.c */
void session_init(struct bridge *b);
void session_step(struct bridge *b);
int64_t session_deadline(const struct bridge *b);
void session_stop(struct bridge *b);

/* requests.c */
void requests_init(struct bridge *b);

/* Takes a request that arrived: queues it or answers at once that there is no room. size is the payload's
 * size, which is larger than payload.n when it was too large to be read. False: there is not even room for an
 * answer now, offer it again. */
bool requests_take(struct bridge *b, struct slice payload, size_t size);
void requests_step(struct bridge *b);

/* The PUBACK for the packet id has come: logs it, if it was an answer. */
void requests_acknowledged(struct bridge *b, uint16_t id);

/* How many requests were accepted and are not answered yet, and how many of these are being executed. */
size_t requests_waiting(const struct bridge *b);
size_t requests_running(const struct bridge *b);

/* Answers everything that still runs: the time to stop is over. */
void requests_abandon(struct bridge *b);

#endif
