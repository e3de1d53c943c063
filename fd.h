/* Descriptors: sockets, what select waits for, and files of lines.
 * Touches the operating system. Nothing here waits. */
#ifndef FD_H
#define FD_H

#include <sys/select.h>

#include "dns.h"

/* What select waits for, and what it has found. */
struct watch {
	fd_set readable, writable;
	int top; /* the highest descriptor in them; -1: none */
};

/* Adds fd to one of these sets, unless it is -1. */
void fd_watch(struct watch *w, fd_set *set, int fd);

/* Is fd, unless it is -1, in one of them? */
bool fd_ready(const fd_set *set, int fd);

/* Writes why a file can't be read, or a socket not be listened on, by errno's code. */
void fd_put_reason(struct buf *b, int code);

/* The new descriptor fd, when it fits into such a set or is -1; or else -1 with errno set, and it is closed.
 */
int fd_fits(int fd);

/* Closes *fd, unless it is -1, which it is then; errno stays. */
void fd_close(int *fd);

/* Starts to connect a socket (SOCK_STREAM or SOCK_DGRAM) to an address: it does not block, is not inherited,
 * and fits into select's sets. lasting: a connection to talk over for long, with TCP_NODELAY and
 * TCP_USER_TIMEOUT; others send once, and have a deadline. The kernel chooses the source port (RFC 5452
 * §9.2). -1 with errno set when it can't be had. */
int fd_connect(const struct dns_address *to, uint16_t port, int type, bool lasting);

/* Listens there for connections, in the same way. */
int fd_listen(const struct dns_address *at, uint16_t port);

/* Connects a local socket, or listens there: name is a path, or NUL and an abstract name (unix(7)), which
 * fits. Without SOCK_NONBLOCK in type it waits for FD_WAIT_MS at most, to be connected and for each piece
 * that it receives. -1 with errno set. */
enum { FD_WAIT_MS = 2000 };
int fd_local(struct slice name, int type, bool listens);

/* A file, read in pieces of whole lines; fd is -1 when there is none, and is to be closed. */
struct lines {
	int fd;
	size_t n, taken;
	unsigned char piece[4096];
};
void fd_open(struct lines *l, const char *path);

/* The next piece, valid until the next call; empty after the last one. A line that is too long for a piece is
 * cut. */
struct slice fd_lines(struct lines *l);

#endif
