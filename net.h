/* The network and the clocks: serves the wishes of links with sockets, and waits in one select.
 * Touches the operating system. Knows no protocol above TCP. */
#ifndef NET_H
#define NET_H

#include "link.h"
#include "resolve.h"

enum { NET_PEERS = 8, NET_HOSTS = 2, NET_CONNECT_MS = 5000 /* for one address */, NET_AHEAD_BYTES = 2048 };

/* One link and its socket. */
struct net_peer {
	struct link *link;
	struct resolve *host;
	enum { PEER_IDLE, PEER_LOOKUP, PEER_CONNECT, PEER_OPEN } step;
	int fd;                     /* -1: none */
	size_t at;                  /* the address to try next */
	struct dns_address address; /* the one that is being tried */
	int64_t deadline_ms;        /* of the attempt */
	bool readable;              /* select said so, and nothing was read since */
	bool writable;
	bool blocked; /* the socket takes no more bytes now */
	bool broken;  /* nor ever: what has arrived is read to its end */
};

struct net {
	struct net_peer peer[NET_PEERS];
	size_t peers;
	size_t hosts;
	int64_t wake_ms; /* when net_move wants to be called again at the latest */
	unsigned char entropy[TLS_ENTROPY_BYTES], peer_text[64]; /* of the connection that is being made */
	/* TLS takes a record in two bites, header and rest. One call brings both, and often the next records,
	 * so many bytes from ahead_at on; of the one link that has TLS. */
	unsigned char ahead[NET_AHEAD_BYTES];
	size_t ahead_at, ahead_n;
	struct resolve host[NET_HOSTS];
};

/* Serves n links, which outlive it; at most NET_PEERS, with at most NET_HOSTS different hosts. */
void net_init(struct net *net, struct link *link, size_t n);

/* Meets wishes, sends and receives whatever goes without waiting. True when a fact has changed or bytes were
 * moved: the core is to be stepped again before net_wait. */
bool net_move(struct net *net);

/* Waits until something can be moved, or until_ms (monotonic; a machine that sleeps meanwhile makes it so
 * much later), or any signal. The caller may have put descriptors of its own into w, and finds there which of
 * them are ready. */
void net_wait(struct net *net, int64_t until_ms, struct watch *w);

/* Monotonic milliseconds, at least 1, also of a machine that sleeps; wall time in microseconds since 1970,
 * also beyond 2038 on 32 bits. */
int64_t net_now_ms(void);
int64_t net_wall_us(void);

/* Gives memory back to the system whose content is needed no more: its whole pages, which then are zero. */
void net_give_back(void *p, size_t n);

/* Unpredictable bytes from the kernel; false when it has none (yet): nothing secret may be done then. */
bool net_random(void *p, size_t n);

#endif
