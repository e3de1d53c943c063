/* The product: the bridge between one gateway's web API and one MQTT broker. It takes the gateway's identity,
 * keeps a session with the broker, turns Modbus requests into calls and their replies into answers, and
 * publishes the state. Pure: moves no bytes, reads no clock, file or environment, and prints nothing. The
 * driver moves the bytes of its links, tells it the time, and writes its log lines. bridge.c has the whole
 * and the state, session.c the way to the broker, requests.c the way of a request, api.c one call of the API.
 */
#ifndef BRIDGE_H
#define BRIDGE_H

#include <stdalign.h>

#include "buf.h"
#include "http.h"
#include "link.h"
#include "mqtt.h"
#include "queue.h"
#include "sizes.h"

enum bridge_switch { SWITCH_OFF, SWITCH_ON };

enum bridge_dates { DATES_AUTO, DATES_NUMERIC, DATES_ISO8601 };

/* What the core has to be told; all strings end with NUL. Outlives the bridge. */
struct bridge_config {
	char password[BRIDGE_SECRET_BYTES]; /* secret; first, since mostly there is none */
	char broker_host[BRIDGE_HOST_BYTES];
	uint16_t broker_port;
	char tls_server_name[BRIDGE_HOST_BYTES]; /* what the certificate must be valid for; "" for broker_host
	                                          */
	char api_host[BRIDGE_HOST_BYTES];
	uint16_t api_port;
	char user_name[BRIDGE_TEXT_BYTES]; /* with password: instead of serial number and token; "" for none
	                                    */
	bool has_login;                    /* user_name and password are set */
	char client_id[BRIDGE_TEXT_BYTES]; /* "" for the serial number */
	char topic_prefix[BRIDGE_TEXT_BYTES]; /* may hold {serial} */
	uint16_t keep_alive_s;
	uint32_t token_lifetime_s;
	enum bridge_dates dates;
	uint32_t session_window_s; /* what the broker held for us over a longer gap is stale */
	enum bridge_switch
	        will; /* have the broker publish that we are gone, and say so ourselves when we stop */
	bool probe;   /* iamcat check: a clean session, one state; nothing is executed or published */
	uint32_t state_interval_s;
	uint32_t api_timeout_s;
	uint32_t api_spares; /* connections to the API that are kept open ahead of need */
	bool writes_limited; /* MODBUS_WRITE_ALLOW is not "all" */
	struct {
		uint16_t first, last; /* addresses, inclusive */
	} write_allow[BRIDGE_RANGES];
	size_t write_allows; /* 0 and writes_limited: none */
};

/* The time, as the driver sees it at the start of a step. */
struct bridge_time {
	int64_t now_ms;  /* monotonic, and goes on while the machine sleeps */
	int64_t wall_us; /* since 1970, UTC; may jump */
};

enum bridge_level { LEVEL_ERROR, LEVEL_WARN, LEVEL_INFO, LEVEL_DEBUG };

/* One call of the API over one link: from its request to its whole reply or its failure. */
enum api_state {
	API_IDLE,  /* a call can be started */
	API_BUSY,  /* under way */
	API_DONE,  /* a whole reply is in reply; the caller takes it, then api_finish */
	API_FAILED /* error and why say what happened; the caller takes note, then api_finish */
};

/* What error answers say, in the order of bridge_error_code. */
enum bridge_error {
	ERROR_NONE,
	ERROR_INVALID_JSON,
	ERROR_NOT_AN_OBJECT,
	ERROR_MISSING_FIELD,
	ERROR_BAD_VALUE,
	ERROR_UNSUPPORTED_FUNCTION_CODE,
	ERROR_TOO_LARGE,
	ERROR_WRITE_REFUSED,
	ERROR_BUSY,
	ERROR_STALE,           /* it waited while there was no service for longer than MQTT_SESSION_WINDOW */
	ERROR_API_UNREACHABLE, /* the call was not sent: surely not executed */
	ERROR_API_TIMEOUT,     /* it was sent, or waited for its connection; no whole reply in time */
	ERROR_API_ERROR,       /* a reply with a status that is not 2xx */
	ERROR_API_INVALID_REPLY, /* no HTTP, no JSON, too large, cut short, or no reply at all */
	ERROR_SHUTTING_DOWN,
	BRIDGE_ERRORS
};
extern const char *const bridge_error_code[BRIDGE_ERRORS]; /* "" for ERROR_NONE */

/* Log lines that can come in any number: of each kind one a minute, with a count of the others. A request
 * that went wrong is of the kind of its enum bridge_error. */
enum bridge_cause {
	CAUSE_RETAINED = ERROR_SHUTTING_DOWN + 1,
	CAUSE_FOREIGN,
	CAUSE_PASSED_OVER,
	CAUSE_EARLY_END,
	CAUSE_NEXT_TOKEN,
	CAUSE_DATES,
	CAUSE_STATE,
	CAUSE_FAILURE, /* of a connection to the broker, or before it: the reasons of the last ones */
	BRIDGE_CAUSES = CAUSE_FAILURE + 4
};

struct api {
	enum api_state state;
	struct link *link;  /* NULL: it has none, or waits for one */
	struct buf in, out; /* memory for the reply; the request */
	bool waited;        /* the link had been opened ahead of need */
	bool once;          /* never to be made again, not even when such a link turns out to be dead */
	bool repeated;      /* for that reason it is being made again */
	int64_t deadline_ms;
	struct http_reply reply;
	enum bridge_error error;
	const char *why;  /* a static sentence; API_DONE: NULL if the status is 2xx */
	int code;         /* the number behind it, 0 for none */
	unsigned request; /* whose call it is: a request's number, see requests.c; 0 for none */
};

/* Session phases, in their order. */
enum bridge_phase {
	PHASE_SERIAL,    /* GET /api/crypto; once */
	PHASE_TOKEN,     /* POST /api/jwt/create; for every connection */
	PHASE_DIAL,      /* name look-up, TCP, TLS */
	PHASE_HELLO,     /* CONNECT was sent, CONNACK is awaited */
	PHASE_SUBSCRIBE, /* SUBSCRIBE was sent, SUBACK is awaited */
	PHASE_SERVE,
	PHASE_RENEW,   /* DISCONNECT is on its way, to connect anew with the token that was fetched */
	PHASE_STALE,   /* the broker kept a session from too long ago: nothing that it sends is executed */
	PHASE_DISCARD, /* DISCONNECT is on its way, so that the next connection discards that session, or has
	                */
	PHASE_PAUSE,   /* something failed: waits before it begins anew */
	PHASE_DRAIN,   /* stopping: running calls and unacknowledged answers get a moment */
	PHASE_LEAVE,   /* stopping: DISCONNECT is on its way */
	PHASE_DONE     /* the program may end */
};
enum { BRIDGE_PHASES = PHASE_DONE + 1 };

/* Why a connection to the broker ended, or could not be made. */
enum bridge_end {
	END_API,       /* the gateway's API gave no serial number or no token */
	END_REFUSED,   /* no address, or no TCP connection */
	END_TLS,       /* the handshake failed, or what came later was no TLS */
	END_LOGIN,     /* the broker refused CONNECT */
	END_SUBSCRIBE, /* it refused the subscription */
	END_TIMEOUT,   /* it did not answer in time */
	END_LOST,      /* it was closed, reset, or broken */
	END_TAKEOVER,  /* the same soon after it began, several times in a row: another client has our id? */
	END_PROTOCOL,  /* the broker sent what does not belong there */
	END_TOKEN,     /* the token was renewed, or has expired */
	END_STALE,     /* to discard a session from too long ago */
	END_FULL,      /* so that requests that had no room are sent again */
	BRIDGE_ENDS
};

/* Why a request was not executed when it came, and got no answer. */
enum bridge_skip {
	SKIP_STALE,     /* it is from too long ago */
	SKIP_DUPLICATE, /* it was executed already */
	SKIP_RETAINED,  /* it may be old */
	SKIP_FULL,      /* there was no room; the broker is to send it again */
	SKIP_OTHERS,    /* it is left to other gateways, as this one does not know the device */
	BRIDGE_SKIPS
};

/* How long something took, as a histogram: bucket i counts the times from times_least(i) to below
 * times_least(i + 1) ms, the last one all that were longer. */
enum { TIMES_BUCKETS = 32 };
struct bridge_times {
	uint32_t bucket[TIMES_BUCKETS];
	int64_t sum_ms, max_ms;
};
void times_add(struct bridge_times *t, int64_t ms);
int64_t times_least(size_t i); /* 0, 1, 2, 3, 4, 6, 8, 12, 16 … */

/* What is counted from the start on. */
struct bridge_stats {
	uint32_t answers[BRIDGE_ERRORS]; /* [ERROR_NONE]: of the API's */
	uint32_t skipped[BRIDGE_SKIPS];
	uint32_t ends[BRIDGE_ENDS];
	uint32_t states, states_failed; /* the API gave one; gave none */
	int64_t state_ms;               /* when it gave the last one; 0: never */
	struct bridge_times round_trip; /* from a request's arrival until its answer waits to be sent */
	struct bridge_times api;        /* from the wish for a call until its whole reply is there */
};

/* The links to the API belong to nobody: a call takes one that waits, or a new one. */
enum { BRIDGE_REPLY_BYTES = HTTP_REPLY_BYTES - HTTP_BODY_BYTES + BRIDGE_CALL_BODY_BYTES };
_Static_assert((size_t)BRIDGE_REPLY_BYTES >= (size_t)HTTP_HEAD_BYTES, "a reply's header fits, too");
enum { LINK_BROKER, LINK_API, BRIDGE_LINKS = LINK_API + BRIDGE_API_LINKS };

struct bridge {
	const struct bridge_config *config;

	/* Its own, and here because it is the shortest to name here: what the code names most. */
	struct bridge_time time;
	int64_t wake_ms; /* when it wants to be stepped again at the latest: found anew by each step */
	enum bridge_phase phase;
	bool stopping;
	bool passed_over; /* requests were read and not taken: the broker is to send them again */
	bool discarding;  /* the next connection, or this one, is there to discard a stale session */
	bool discarded;   /* the one before did */
	bool said_offline;
	int64_t phase_deadline_ms;
	int64_t stop_ms;      /* stopping: no connection is waited for after that */
	struct api *identity; /* the one that gets serial number or token: of call, or state; NULL: none */
	int64_t ping_ms;      /* when the PINGREQ that waits for its PINGRESP was sent; 0: none waits */
	int64_t unacknowledged_ms; /* since when the oldest publish has waited for its PUBACK; 0: none does */
	size_t control_at;         /* how much of control was sent */
	size_t packet_n;           /* bytes in packet */
	struct buf control;        /* packets to be sent, in control_mem */
	struct mqtt_outbox outbox;

	struct link link[BRIDGE_LINKS]; /* the driver serves their wishes */
	struct buf log;                 /* the driver takes the lines, see bridge_take_log */
	enum bridge_level log_level;    /* the driver may set it: no more than this is logged */

	/* its own */
	size_t log_at;     /* where the line that is being written begins */
	unsigned log_more; /* how many like it were not logged */
	bool log_held;     /* a cause may have some that were not logged */
	struct {
		int64_t logged_ms; /* when the last one was; 0: never */
		uint32_t more;     /* so many came since */
	} cause[BRIDGE_CAUSES];
	const char *failure[BRIDGE_CAUSES - CAUSE_FAILURE]; /* these reasons */
	int64_t started_ms;
	uint32_t random;
	struct bridge_stats stats;

	/* the session (session.c) */
	int64_t phase_since_ms;
	unsigned failures; /* in a row, for the back-off */
	int64_t served_since_ms;
	int64_t served_until_ms;         /* when the last service ended; 0: there was none */
	unsigned early_ends;             /* connections in a row that ended soon after they began */
	unsigned stale;                  /* requests that were not executed because they are */
	size_t seen_n;                   /* so many of them may be in use */
	uint16_t arrived;                /* QoS 1 publishes that came over this connection */
	int64_t token_ms, next_token_ms; /* when the token in use was asked for, and the one that follows */
	int64_t renew_ms;                /* when the next one is to be fetched, or at the latest to be used */
	const char *failure_why;         /* why it is not in service; NULL: nothing has failed since it was */
	char serial[BRIDGE_SERIAL_BYTES];
	enum bridge_dates dates; /* the form that the next token uses; DATES_AUTO: numeric */
	bool clock_wrong;        /* the clock was before the build when last looked at */
	bool shared_prefix;      /* no {serial} in the prefix: other gateways hear the same requests */
	char topic_request[BRIDGE_TEXT_BYTES + 64], topic_response[BRIDGE_TEXT_BYTES + 64],
	        topic_state[BRIDGE_TEXT_BYTES + 64];
	bool subscribed;              /* or asked to be, once at least */
	bool broker_transport;        /* TCP to the broker was there when last looked at */
	int64_t sent_ms, received_ms; /* the last bytes to (or PINGREQ for) and from the broker */
	size_t packet_skip;           /* bytes of a too large PUBLISH still to be thrown away */
	struct mqtt_received received;

	/* the requests (requests.c) */
	struct queue requests;
	unsigned last_request;
	struct api call[BRIDGE_CALLS];

	/* connections ahead of need (api.c) */
	bool api_keeps;          /* the server kept the last connection open, for the next call */
	unsigned spare_failures; /* in a row: ended before they were of use */
	bool spare_refused;      /* the last of them never came up */
	int64_t spare_at_ms;     /* not before this is the next one opened */
	unsigned char spare_mem[1];

	/* the state (bridge.c) */
	struct api state;
	int64_t tick_ms;    /* the next beat of the grid */
	bool state_due;     /* a beat has come, and its fetch has not been started yet */
	bool state_failing; /* the last fetch failed, and that was logged */

	/* Memory. Of it, and of what else is large, mostly the beginning alone is used, or nothing: small
	 * things stand together, in front of large ones, so that what is used lies on few pages. */
	struct {
		uint64_t fingerprint; /* 0: none */
		uint16_t id;
		uint16_t before_id; /* ACK_SENT: of the publish that was put into the outbox last */
		uint8_t ack;        /* enum seen_ack in session.c: what became of our PUBACK */
		bool earlier;       /* over an earlier connection, and no copy of it has come over this one */
	} seen[BRIDGE_SEEN];        /* the QoS 1 requests that were taken last in this session */
	unsigned char state_out[BRIDGE_STATE_CALL_BYTES];
	unsigned char packet[BRIDGE_PACKET_BYTES]; /* what has come from the broker and was not taken yet */
	/* secret; wiped when CONNECT was written; in service: the next one */
	alignas(BRIDGE_ALIGN) char token[BRIDGE_SECRET_BYTES];
	unsigned char control_mem[BRIDGE_CONTROL_BYTES];
	alignas(8) unsigned char requests_mem[BRIDGE_QUEUE_BYTES];
	alignas(BRIDGE_ALIGN) unsigned char outbox_mem[BRIDGE_OUTBOX_BYTES];
	unsigned char log_mem[BRIDGE_LOG_BYTES];
	unsigned char
	        scratch[BRIDGE_REQUEST_BYTES]; /* a text that is being made; holds nothing across calls */
	alignas(BRIDGE_ALIGN) unsigned char state_in[HTTP_REPLY_BYTES];
	unsigned char call_out[BRIDGE_CALLS][BRIDGE_CALL_BYTES], call_in[BRIDGE_CALLS][BRIDGE_REPLY_BYTES];
	struct {
		unsigned number; /* 0: none */
		uint16_t id;
	} trace[BRIDGE_TRACED]; /* at debug level: the packets that requests were answered in */
};

/* Starts a bridge from zeroed memory. config, tls and anchors must outlive it; tls NULL means a plain
 * connection to the broker (simulations only). random: 32 unpredictable bits. */
void bridge_init(struct bridge *b, const struct bridge_config *config, struct tls *tls,
        const struct tls_anchors *anchors, uint32_t random, struct bridge_time time);

/* Does what is due and returns when it wants to be called again at the latest (monotonic ms). To be called,
 * too, whenever the driver has changed a fact or moved bytes of a link. */
int64_t bridge_step(struct bridge *b, struct bridge_time time);

/* The client id that it connects with: the configured one, or the serial number. */
const char *bridge_client_id(const struct bridge *b);

/* The memory behind it that holds nothing now, to the end of *b, for a driver that can give it back: NULL
 * while anything is under way. */
void *bridge_unused(struct bridge *b);

/* Ends the service in an orderly way: keep stepping until bridge_done. */
void bridge_stop(struct bridge *b);
bool bridge_done(const struct bridge *b);

/* The next log line: sets *level and *text (without line end, printable ASCII), valid until the next step.
 * Start with *at = 0; false after the last one, when the log is emptied. */
bool bridge_take_log(struct bridge *b, size_t *at, enum bridge_level *level, struct slice *text);

#endif
