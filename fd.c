#include "fd.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { USER_TIMEOUT_MS = 15 * 1000 };

/* The socket address that is being used, of either family. */
static union {
	struct sockaddr any;
	struct sockaddr_in v4;
	struct sockaddr_in6 v6;
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

int fd_fits(int fd)
{
	if (fd >= FD_SETSIZE) {
		close(fd);
		errno = EMFILE;
		return -1;
	}
	return fd;
}

int fd_socket(int family, int type)
{
	return fd_fits(socket(family, type | SOCK_CLOEXEC, 0));
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

int fd_connect(const struct dns_address *to, uint16_t port, int type, bool lasting)
{
	socklen_t size = make_address(to, port);
	int fd = fd_socket(address.any.sa_family, type | SOCK_NONBLOCK);
	if (fd >= 0 && lasting) {
		/* Nagle's algorithm would hold an answer back for the other side's delayed acknowledgement.
		 * Bytes that are not acknowledged for so long mean that the other side is gone. */
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
		setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &(unsigned){USER_TIMEOUT_MS}, sizeof(unsigned));
	}
	if (fd >= 0 && connect(fd, &address.any, size) != 0 && errno != EINPROGRESS)
		fd_close(&fd);
	return fd;
}

int fd_listen(const struct dns_address *at, uint16_t port, int backlog)
{
	socklen_t size = make_address(at, port);
	int fd = fd_socket(address.any.sa_family, SOCK_STREAM | SOCK_NONBLOCK);
	if (fd >= 0) /* Connections of an earlier run that are in TIME_WAIT must not keep the port. */
		setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int));
	if (fd >= 0 && (bind(fd, &address.any, size) != 0 || listen(fd, backlog) != 0))
		fd_close(&fd);
	return fd;
}

void fd_open(struct lines *l, const char *path)
{
	l->fd = openat(AT_FDCWD, path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
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
