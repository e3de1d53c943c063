/* What the parts of the simulated world share: wires (the network), the broker, the gateway, and the
 * operators and faults of world.c. All of it lives in virtual time and draws from one seed, so that a run can
 * be had again exactly. For tests only. */
#ifndef WORLD_H
#define WORLD_H

#include "bridge.h"

enum {
	REQUESTS_MAX = 1 << 17, /* of one seed */
	DOWN_BYTES = 1 << 18,   /* on the way to the client on one connection */
	MARKS = 1 << 12,
	DEVICES = 6,   /* the last one is dead, the one before is slow */
	API_LINKS = 4, /* connections to the API at a time */
	STORM = 20     /* connections to the broker in a minute are one */
};
static const int64_t never = INT64_MAX;

/* What a request is, which follows from its number alone. */
enum kind {
	KIND_READ,
	KIND_WRITE,
	KIND_FOREIGN,   /* the API says that it does not know the device */
	KIND_BAD_VALUE, /* from here on it must not reach the API */
	KIND_BAD_CODE,
	KIND_NO_OBJECT,
	KIND_NO_JSON, /* from here on the answer does not repeat the request */
	KIND_TOO_LARGE
};

struct request {
	uint32_t order;     /* counts the requests as the client reads them; 0: it has not */
	uint32_t place;     /* as it takes them; 0: that is not known */
	uint8_t reached;    /* times, the API: sent there whole */
	uint8_t executed;   /* times, by the gateway */
	int64_t read_at;    /* when the client read it first */
	bool accepted;      /* the client has acknowledged it, or read it with QoS 0: an answer is due */
	bool answered;      /* the answer reached the broker */
	bool excused;       /* the answer may be missing: the client was restarted, or see broker.c */
	bool forbidden;     /* stale or retained: neither execution nor answer */
	bool never;         /* the answer says that it was surely not executed */
	bool retry;         /* its connection ended before a byte of the reply: a read may run again */
	bool spoiled;       /* the API's reply was */
	bool acknowledged;  /* the client has read the PUBACK of its answer */
	uint16_t answer_id; /* packet id of the answer that was received last */
	uint32_t answer_on, answer_session; /* the connection and the broker's session that brought it */
	uint64_t answer_sum;                /* hash of its payload */
};

struct world {
	uint64_t seed, random, wall_random;
	int64_t now, end, calm; /* ms; from calm on nothing is broken any more */
	int64_t wall_offset_us; /* between monotonic and wall time */
	struct bridge_config config;
	struct bridge *bridge;
	bool running;          /* the client is there */
	bool stale;            /* what the broker held for this connection is */
	int64_t serving_since; /* never: it does not */
	int64_t served_until;  /* when the last service of this run of the client ended; never: none yet */
	int64_t away_at;       /* when there was last no service for longer than the window; -1: not yet */
	int64_t long_away_at;  /* the same, and for long enough that nothing of before is on its way */
	int64_t states_since;  /* since then they have come without a gap that a fault excuses */
	int64_t state_at;      /* when the last one was sent */
	bool state_offline;    /* what the subscribers of the state know: the last will, or a last state */
	int64_t trouble_at;    /* when something was last broken on purpose */
	int64_t handover_at;   /* when the service ended for a new token; never: not for that */
	int64_t excuse;        /* ms since then that network and API took for themselves */
	bool expired;          /* by the broker's hand */
	uint32_t wills;        /* last wills that the broker has published, and how many before that */
	uint32_t handover_wills;
	bool said_goodbye;       /* DISCONNECT was the last word to the broker */
	int64_t began_at[STORM]; /* the latest connections to it that were not the next step of something */
	uint32_t begun;
	uint64_t sum; /* of all that happened, but for clocks */
	int64_t operate_at, fault_at, jump_at, start_at, stop_at;
	uint32_t pace_ms, fault_ms;
	uint32_t requests, order, place, device_order[DEVICES];
	uint32_t null_accepted, null_answers, null_excused; /* without the request in the answer */
	struct request request[REQUESTS_MAX];
};
extern struct world w;

/* How often something has happened, over all seeds. Each has a name in world.c. */
enum count {
	REQUESTS,
	EXECUTED,
	ANSWERS,
	ANSWERS_AGAIN,
	BUSY,
	HELD_BACK, /* steps in which not even a busy answer had room */
	REDELIVERED,
	REPEATED, /* redelivered on the same connection */
	TWINS,    /* like the one before, to the byte */
	TWINS_MISTAKEN,
	STALE,
	LAPSED,
	STATES,
	FALLBACKS,
	OFFLINES,
	WILLS,
	FAULTS,
	GARBAGE,
	SPOILED,
	CONNECTIONS,
	DROPPED, /* at once */
	SERVICES,
	RENEWALS, /* nothing disturbed */
	EXPIRIES, /* nothing disturbed */
	DEAD,     /* noticed */
	RESTARTS,
	STEPS,
	KEPT,    /* calls on a connection that had one before */
	RETRIES, /* reads that reached the API twice */
	COUNTS
};
extern uint64_t count[COUNTS];

/* --- the whole (world.c) --- */

/* A whole number below n. */
uint32_t draw(uint32_t n);
bool chance(uint32_t one_in);
/* What follows from a number and the seed, below n. */
uint32_t hashed(uint32_t number, uint32_t salt, uint32_t n);

__attribute__((format(printf, 1, 2))) void trace(const char *format, ...);
/* A property is broken: ends the run of this seed. */
__attribute__((format(printf, 1, 2), noreturn)) void broken(const char *format, ...);
/* Something is broken on purpose: for a while, less can be asked of the client. */
void trouble(void);
/* Makes what happened part of the sum that must be the same with another wall clock. */
void note(uint32_t what, uint32_t number);

/* --- requests and answers (requests.c) --- */

/* Some requests are twins: the bytes of the one before, whose number they bear. */
uint32_t request_original(uint32_t number);
enum kind request_kind(uint32_t number);
uint32_t request_device(uint32_t number);
size_t request_put(uint32_t number, unsigned char *p, size_t cap);

/* The client has read a request; it has acknowledged it; a call with this number is on its way to the API
 * (returns whose it is: its own or the twin's); the gateway executes it. */
void request_read(uint32_t number, uint8_t qos);
void request_accepted(uint32_t number);
uint32_t request_reached(uint32_t number);
void request_executed(uint32_t number);
/* The answer may be missing. */
void request_excused(uint32_t number);

/* When all is over: was each accepted request answered? */
void requests_check_end(void);

/* An answer as the client sent it, checked as far as that can be without knowing its fate. */
struct answer {
	uint32_t number; /* in it; 0: the request is not repeated */
	bool busy;
	uint64_t sum;
};
struct answer answer_read(struct slice payload);
/* It reached the broker. session counts those of the broker. Returns whose answer it is. */
uint32_t answer_arrived(const struct answer *a, bool dup, uint16_t id, uint32_t connection, uint32_t session);

/* --- one connection (wire.c) --- */

/* Where something that the broker sent ends in the stream, to know when the client has read it. */
enum mark_kind { MARK_CONNACK, MARK_REQUEST, MARK_ANSWER_ACK, MARK_ACK, MARK_GARBAGE, MARK_OTHER };
struct mark {
	uint64_t end;
	enum mark_kind kind;
	uint32_t number;
	uint16_t id;
	uint8_t qos;
	int64_t sent; /* MARK_ACK: when the client sent what is acknowledged, see broker_read */
};

struct wire {
	struct link *link;
	uint32_t number; /* of the connection, over all wires; 0: there is none */
	bool open;       /* the transport is there */
	bool refused;    /* it will not come up */
	int64_t connect_at;
	int64_t latency;
	uint32_t piece, window; /* the most bytes at a time, 0: all; down and up */
	int64_t send_at, receive_at;
	bool dead; /* nothing moves any more, and nobody is told */
	int64_t dead_since, stalled_until;
	bool ends, reset; /* the server ends it, when all was delivered */
	int64_t end_at, last_at;
	uint64_t put; /* bytes that the server sent */
	struct {
		uint64_t end;
		int64_t at;
	} arrival[MARKS];
	uint32_t first_arrival, arrivals;
	struct mark mark[MARKS];
	uint32_t first_mark, marks;
	unsigned char down[DOWN_BYTES];
	size_t down_n;
};
extern struct wire wires[BRIDGE_LINKS];

void wires_init(void);
bool wires_move(void); /* as net.c does; true: a fact or bytes moved */
int64_t wires_next(void);
void wires_drop(void); /* the client is gone */
size_t wire_room(const struct wire *l);
void wire_put(struct wire *l, const void *p, size_t n);
void wire_mark(struct wire *l, struct mark m); /* what was just put */
void wire_end(struct wire *l, bool reset);     /* by the server */
void wire_die(struct wire *l);
int64_t wire_arrival(const struct wire *l); /* of what is sent now, either way */

/* --- the broker (broker.c) --- */

extern int64_t broker_down_until;     /* it refuses connections */
extern int64_t broker_dropping_until; /* it accepts them, and soon drops them */
extern int64_t broker_deaf_until;     /* it soon hears nothing more on them */
void broker_init(void);
void broker_opened(struct wire *l);
void broker_closed(struct wire *l); /* by the client */
void broker_bytes(struct wire *l, const unsigned char *p, size_t n);
void broker_read(struct wire *l, const struct mark *m); /* the client has read it */
void broker_run(void);
int64_t broker_next(void);
void broker_publish(uint32_t number, uint8_t qos);
void broker_forget_session(void);
void broker_takeover(void);
void broker_garbage(void);
void broker_mute(void);   /* it acknowledges nothing more on this connection */
void broker_deafen(void); /* nor does it hear anything, while what it sends arrives */
bool broker_is_mute(void);
bool broker_is_rude(void); /* it has sent garbage on this connection */
bool broker_cut_it(void);  /* it has ended this connection because the token expired */
bool broker_settled(void);

/* --- the gateway (gateway.c) --- */

enum health { HEALTHY, SLOW, HANGING, DOWN, BROKEN };
extern enum health gateway_health;
extern int64_t gateway_healthy_since;
void gateway_init(void);
void gateway_turn(enum health health);
int64_t gateway_syn_ms(void); /* how long its full backlog keeps a connection waiting */
void gateway_opened(struct wire *l);
void gateway_closed(struct wire *l);
void gateway_bytes(struct wire *l, const unsigned char *p, size_t n);
void gateway_run(void);
int64_t gateway_next(void);
uint32_t gateway_token_number(struct slice token); /* 0: not one of ours */
int64_t gateway_token_since(uint32_t number);

#endif
