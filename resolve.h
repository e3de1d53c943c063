/* The resolver's sockets and files: gives dns.c what it wishes for, and remembers the addresses of one host.
 * Touches the operating system. Never blocks: reads small files, and sockets only when they have something.
 */
#ifndef RESOLVE_H
#define RESOLVE_H

#include <sys/select.h>

#include "dns.h"

/* --- sockets and files, also of net.c and status.c --- */

/* What select waits for, and what it has found. */
struct watch {
	fd_set readable, writable;
	int top; /* the highest descriptor in them; -1: none */
};

/* Adds fd to one of these sets, unless it is -1. */
void resolve_watch(struct watch *w, fd_set *set, int fd);

/* Is fd, unless it is -1, in one of them? */
bool resolve_ready(const fd_set *set, int fd);

/* The new descriptor fd, when it fits into such a set or is -1; or else -1 with errno set, and it is closed.
 */
int resolve_fits(int fd);

/* A socket that fits there, too; it is not inherited. -1 with errno set. */
int resolve_socket(int family, int type);

/* Closes *fd, unless it is -1, which it is then; errno stays. */
void resolve_close(int *fd);

/* Starts to connect a socket (SOCK_STREAM or SOCK_DGRAM) to an address: it does not block, is not inherited,
 * and fits into select's sets. lasting: a connection to talk over for long, with TCP_NODELAY and
 * TCP_USER_TIMEOUT; others send once, and have a deadline. The kernel chooses the source port (RFC 5452
 * §9.2). -1 with errno set when it can't be had. */
int resolve_connect(const struct dns_address *to, uint16_t port, int type, bool lasting);

/* Listens there for connections, in the same way. */
int resolve_listen(const struct dns_address *at, uint16_t port, int backlog);

/* A file, read in pieces of whole lines; fd is -1 when there is none, and is to be closed. */
struct lines {
	int fd;
	size_t n, taken;
	unsigned char piece[4096];
};
void resolve_open(struct lines *l, const char *path);

/* The next piece, valid until the next call; empty after the last one. A line that is too long for a piece is
 * cut. */
struct slice resolve_lines(struct lines *l);

/* --- looking up a host --- */

/* The files that it reads, again and again. */
extern const char resolve_hosts[], resolve_conf[];

enum resolve_state { RESOLVE_NONE, RESOLVE_BUSY, RESOLVE_FOUND, RESOLVE_FAILED };

struct resolve {
	enum resolve_state state;
	const char *name;                          /* outlives it */
	struct dns_address address[DNS_ADDRESSES]; /* when RESOLVE_FOUND */
	size_t addresses;
	const char *why; /* when RESOLVE_FAILED: a static sentence */
	/* its own */
	struct resolve_server {
		int fd;      /* -1: closed */
		bool tcp;    /* that is what it is */
		size_t in_n; /* bytes in in */
	} server[DNS_SERVERS];
	struct dns dns;
	unsigned char in[DNS_SERVERS][2 + DNS_TCP_BYTES]; /* from tcp, with the two bytes of length; last,
	                                                   * since mostly it is never touched */
};

/* No addresses known; name is looked up from resolve_begin on. */
void resolve_init(struct resolve *r, const char *name);

/* Begins a look-up, unless one is under way or the addresses are known: literals, localhost, /etc/hosts, and
 * then the servers of /etc/resolv.conf, which is read anew. random: 32 unpredictable bits. */
void resolve_begin(struct resolve *r, uint32_t random, int64_t now_ms);

/* Forgets the addresses: the next resolve_begin looks again. */
void resolve_forget(struct resolve *r);

/* The address a works: if it is one of those, it is the first one from now on. */
void resolve_prefer(struct resolve *r, const struct dns_address *a);

/* Moves a look-up on; returns when it wants to be called again at the latest, INT64_MAX for never. */
int64_t resolve_step(struct resolve *r, int64_t now_ms);

/* Adds the sockets that it waits for. */
void resolve_want(const struct resolve *r, struct watch *w);

#endif
