/* What the files of the core (bridge.c, session.c, requests.c, api.c) share and nobody else needs. */
#ifndef CORE_H
#define CORE_H

#include "bridge.h"

/* Log lines: log_begin, any buf_put_*, log_end; or all of it in one, see buf_put_text. A line that does not
 * fit is dropped whole. */
struct buf *log_begin(struct bridge *b, enum bridge_level level);
void log_end(struct bridge *b);
void log_line(struct bridge *b, enum bridge_level level, const char *format, ...)
        __attribute__((format(printf, 3, 4)));

/* The level of a line that can come in any number, see enum bridge_cause, and that comes now: LEVEL_DEBUG for
 * one that is too many, which is counted. */
enum bridge_level log_limited(struct bridge *b, enum bridge_level level, unsigned cause);

/* The core wants to be stepped at that time at the latest. Every step begins without such a wish. */
void wake_at(struct bridge *b, int64_t at_ms);

/* Has the time come? If not, the core wants to be stepped then. */
bool due(struct bridge *b, int64_t at_ms);

/* How long the next try may wait at most after so many failures in a row. */
unsigned back_off_ms(unsigned failures);

/* 32 pseudo-random bits, for jitter only. */
uint32_t bridge_random(struct bridge *b);

/* Begins a message: {"timestamp": "…", "type": "TYPE"; then put the rest. publish_begin: the one of a publish
 * to topic, see mqtt_outbox_begin. */
void put_message(const struct bridge *b, struct buf *p, const char *type);
bool publish_begin(struct bridge *b, const char *topic, const char *type, struct buf *payload);

/* api.c */

/* Begins a call with line, "GET /path" or "POST /path"; who has a query puts it into a->out. The api must be
 * API_IDLE, and stays so. Where the call must not be made twice, whatever happens, the caller sets a->once.
 */
void api_begin(struct api *a, const char *line);

/* Starts the call, with the body when body.p is set; its time counts from from_ms. Returns false when it does
 * not fit into BRIDGE_CALL_BYTES. */
bool api_start(struct bridge *b, struct api *a, struct slice body, int64_t from_ms);

/* Moves a call on. Has it come to its end, API_DONE or API_FAILED? API_DONE with why not NULL: the reply's
 * status is not 2xx, code says it. */
bool api_step(struct bridge *b, struct api *a);

/* Takes the api back from API_DONE or API_FAILED, or gives up a call that is under way. */
void api_finish(struct bridge *b, struct api *a);

/* One of b->call that is API_IDLE, NULL when there is none. */
struct api *api_idle(struct bridge *b);

/* Opens connections ahead of need. */
void api_keep_spares(struct bridge *b);

/* How many connections are up and wait. */
size_t api_spares(const struct bridge *b);

/* Wipes the reply, which may be a token, wherever in the link's memory its bytes have been. */
void api_wipe(struct api *a);

/* Unescapes the string member name of a reply, or what else should be a JSON object, to out. NULL, or what is
 * wrong, with nothing written. */
const char *api_take_string(struct slice body, const char *name, struct buf *out);

/* session.c */
void session_init(struct bridge *b);
void session_step(struct bridge *b);
void session_stop(struct bridge *b);

/* Is there no service, for longer than MQTT_SESSION_WINDOW? */
bool session_lapsed(const struct bridge *b);

/* Is the next token due, while all calls may be busy? Then the first one that ends is not for a request. */
bool session_needs_call(struct bridge *b);

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

/* Answers everything that still runs: the time to stop is over. Was there anything? */
bool requests_abandon(struct bridge *b);

#endif
