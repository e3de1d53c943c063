#include "fd.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

enum { USER_TIMEOUT_MS = 15 * 1000, BACKLOG = 16 };

/* The socket address that is being used, of any family. */
static union {
	struct sockaddr any;
	struct sockaddr_in v4;
	struct sockaddr_in6 v6;
	struct sockaddr_un local;
} address;

static socklen_t make_address(const struct dns_address *a, uint16_t port)
{
	memset(&address, 0, sizeof address);
	if (a->size == 4) {
		address.v4.sin_family = AF_INET;
		address.v4.sin_port = htons(port);
		memcpy(&address.v4.sin_addr, a->ip, 4);
		return sizeof address.v4;
	}
	address.v6.sin6_family = AF_INET6;
	address.v6.sin6_port = htons(port);
	address.v6.sin6_scope_id = a->scope;
	memcpy(&address.v6.sin6_addr, a->ip, 16);
	return sizeof address.v6;
}

void fd_put_reason(struct buf *b, int code)
{
	const char *reason = NULL;
	switch (code) {
	case ENOENT: reason = "no such file"; break;
	case EACCES:
	case EPERM: reason = "permission denied (to this user)"; break;
	case EISDIR: reason = "it is a directory"; break;
	case ENOTDIR: reason = "a part of its path is no directory"; break;
	case ELOOP: reason = "too many symbolic links"; break;
	case EFBIG: reason = "it is too large"; break;
	case EAGAIN: reason = "it is a pipe that nobody fills"; break;
	case EROFS: reason = "read-only file system"; break;
	case ENOTSOCK: reason = "what is there is no socket: choose another path, or take it away"; break;
	case EADDRINUSE: reason = "it is in use already (by another iamcat?)"; break;
	case EADDRNOTAVAIL: reason = "this machine does not have that address"; break;
	default: buf_put_text(b, "error %u", (unsigned)code); return;
	}
	buf_put_str(b, reason);
}

int fd_fits(int fd)
{
	if (fd >= FD_SETSIZE) {
		close(fd);
		errno = EMFILE;
		return -1;
	}
	return fd;
}

void fd_close(int *fd)
{
	int code = errno;
	if (*fd >= 0)
		close(*fd);
	errno = code;
	*fd = -1;
}

void fd_watch(struct watch *w, fd_set *set, int fd)
{
	if (fd < 0)
		return;
	FD_SET(fd, set);
	if (fd > w->top)
		w->top = fd;
}

bool fd_ready(const fd_set *set, int fd)
{
	return fd >= 0 && FD_ISSET(fd, set);
}

/* A socket that is connected to the address, or is being so, or that listens there. */
static int open_socket(socklen_t size, int type, bool listens)
{
	static const struct timeval limit = {.tv_sec = FD_WAIT_MS / 1000};
	int fd = fd_fits(socket(address.any.sa_family, type | SOCK_CLOEXEC, 0));
	if (fd < 0)
		return fd;
	if (listens) /* Connections of an earlier run that are in TIME_WAIT must not keep the port. */
		setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int));
	if ((type & SOCK_NONBLOCK) == 0) { /* for a place in the backlog, too, see unix(7) */
		setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
		setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
	}
	if (listens ? bind(fd, &address.any, size) != 0 || listen(fd, BACKLOG) != 0
	            : connect(fd, &address.any, size) != 0 && errno != EINPROGRESS)
		fd_close(&fd);
	return fd;
}

int fd_connect(const struct dns_address *to, uint16_t port, int type, bool lasting)
{
	int fd = open_socket(make_address(to, port), type | SOCK_NONBLOCK, false);
	if (fd >= 0 && lasting) {
		/* Nagle's algorithm would hold an answer back for the other side's delayed acknowledgement.
		 * Bytes that are not acknowledged for so long mean that the other side is gone. */
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
		setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &(unsigned){USER_TIMEOUT_MS}, sizeof(unsigned));
	}
	return fd;
}

int fd_listen(const struct dns_address *at, uint16_t port)
{
	return open_socket(make_address(at, port), SOCK_STREAM | SOCK_NONBLOCK, true);
}

int fd_local(struct slice name, int type, bool listens)
{
	struct buf b = BUF(address.local.sun_path);
	memset(&address, 0, sizeof address);
	address.local.sun_family = AF_UNIX;
	buf_put_slice(&b, name);
	return open_socket((socklen_t)(offsetof(struct sockaddr_un, sun_path) + b.n), type, listens);
}

void fd_open(struct lines *l, const char *path)
{
	l->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	l->n = l->taken = 0;
}

struct slice fd_lines(struct lines *l)
{
	ssize_t got;
	l->n -= l->taken;
	memmove(l->piece, l->piece + l->taken, l->n);
	while (l->n < sizeof l->piece && (got = read(l->fd, l->piece + l->n, sizeof l->piece - l->n)) > 0)
		l->n += (size_t)got;
	l->taken = l->n;
	if (l->n == sizeof l->piece)
		while (l->taken > 0 && l->piece[l->taken - 1] != '\n')
			l->taken--;
	if (l->taken == 0)
		l->taken = l->n;
	return (struct slice){l->piece, l->taken};
}
