#include "resolve.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

const char resolve_hosts[] = "/etc/hosts", resolve_conf[] = "/etc/resolv.conf";

enum { DNS_PORT = 53, PIECE_BYTES = 4096, USER_TIMEOUT_MS = 15 * 1000 };

static void close_socket(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

/* A socket address of either family. */
union address {
	struct sockaddr any;
	struct sockaddr_in v4;
	struct sockaddr_in6 v6;
};

static socklen_t make_address(union address *to, const struct dns_address *a, uint16_t port)
{
	memset(to, 0, sizeof *to);
	if (a->size == 4) {
		to->v4.sin_family = AF_INET;
		to->v4.sin_port = htons(port);
		memcpy(&to->v4.sin_addr, a->ip, 4);
		return sizeof to->v4;
	}
	to->v6.sin6_family = AF_INET6;
	to->v6.sin6_port = htons(port);
	to->v6.sin6_scope_id = a->scope;
	memcpy(&to->v6.sin6_addr, a->ip, 16);
	return sizeof to->v6;
}

int resolve_connect(const struct dns_address *to, uint16_t port, int type, bool lasting)
{
	union address address;
	socklen_t size = make_address(&address, to, port);
	int fd = socket(address.any.sa_family, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), code = EMFILE;
	if (fd < 0)
		return -1;
	if (fd < FD_SETSIZE) {
		/* Nagle's algorithm would hold an answer back for the other side's delayed acknowledgement.
		 */
		if (lasting)
			setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
		/* Bytes that are not acknowledged for so long mean that the other side is gone. */
		if (lasting)
			setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &(unsigned){USER_TIMEOUT_MS},
			        sizeof(unsigned));
		if (connect(fd, &address.any, size) == 0 || errno == EINPROGRESS)
			return fd;
		code = errno;
	}
	close(fd);
	errno = code;
	return -1;
}

int resolve_listen(const struct dns_address *at, uint16_t port, int backlog)
{
	union address address;
	socklen_t size = make_address(&address, at, port);
	int fd = socket(address.any.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), code = EMFILE;
	if (fd < 0)
		return -1;
	if (fd < FD_SETSIZE) {
		/* Connections of an earlier run that are in TIME_WAIT must not keep the port. */
		setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int));
		if (bind(fd, &address.any, size) == 0 && listen(fd, backlog) == 0)
			return fd;
		code = errno;
	}
	close(fd);
	errno = code;
	return -1;
}

void resolve_init(struct resolve *r, const char *name)
{
	r->name = name;
	r->state = RESOLVE_NONE;
	for (size_t i = 0; i < DNS_SERVERS; i++)
		r->server[i].udp = r->server[i].tcp = -1;
}

static void finish(struct resolve *r, enum resolve_state state)
{
	r->state = state;
	for (size_t i = 0; i < DNS_SERVERS; i++) {
		close_socket(&r->server[i].udp);
		close_socket(&r->server[i].tcp);
	}
}

void resolve_forget(struct resolve *r)
{
	if (r->state != RESOLVE_BUSY)
		r->state = RESOLVE_NONE;
}

static bool same_address(const struct dns_address *a, const struct dns_address *b)
{
	return a->size == b->size && a->scope == b->scope && memcmp(a->ip, b->ip, a->size) == 0;
}

void resolve_prefer(struct resolve *r, const struct dns_address *a)
{
	size_t i = 0;
	while (i < r->addresses && !same_address(&r->address[i], a))
		i++;
	if (i == 0 || i == r->addresses)
		return;
	memmove(r->address + 1, r->address, i * sizeof *a);
	r->address[0] = *a;
}

/* Reads a file of lines in pieces that end with a whole line, the first piece only when conf is given: into
 * *conf, or else looks r's name up in them. A line longer than a piece is passed over. */
static void read_lines(const char *path, struct resolve *r, struct dns_conf *conf)
{
	unsigned char piece[PIECE_BYTES];
	size_t n = 0;
	int fd = openat(AT_FDCWD, path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	for (ssize_t got = fd >= 0; got > 0;) {
		got = read(fd, piece + n, sizeof piece - n);
		n += got > 0 ? (size_t)got : 0;
		size_t whole = n;
		while (got > 0 && whole > 0 && piece[whole - 1] != '\n')
			whole--;
		if (n == sizeof piece && whole == 0)
			whole = n;
		if (conf != NULL && (got <= 0 || n == sizeof piece)) {
			dns_read_conf(conf, (struct slice){piece, whole});
			break;
		}
		if (conf != NULL)
			continue;
		dns_read_hosts((struct slice){piece, whole}, r->name, r->address, &r->addresses);
		n -= whole;
		memmove(piece, piece + whole, n);
	}
	if (fd >= 0)
		close(fd);
	else if (conf != NULL)
		dns_read_conf(conf, (struct slice){NULL, 0});
}

void resolve_begin(struct resolve *r, uint32_t random, int64_t now_ms)
{
	if (r->state == RESOLVE_BUSY || r->state == RESOLVE_FOUND)
		return;
	r->addresses = 0;
	if (dns_read_address(slice_str(r->name), &r->address[0]))
		r->addresses = 1;
	else if (dns_is_localhost(r->name, r->address))
		r->addresses = 2;
	else
		read_lines(resolve_hosts, r, NULL);
	if (r->addresses > 0) {
		r->state = RESOLVE_FOUND;
		return;
	}
	struct dns_conf conf;
	read_lines(resolve_conf, r, &conf);
	dns_begin(&r->dns, r->name, &conf, random, now_ms);
	r->state = RESOLVE_BUSY;
}

/* Sends the question over fd. 1: sent, 0: not now, -1: the socket failed. */
static int send_question(struct resolve *r, int fd, bool tcp, bool aaaa)
{
	unsigned char mem[DNS_UDP_BYTES];
	struct buf b = BUF(mem);
	buf_put_u16be(&b, 0);
	dns_put_question(&r->dns, aaaa, &b);
	mem[0] = (unsigned char)((b.n - 2) >> 8);
	mem[1] = (unsigned char)(b.n - 2);
	size_t skip = tcp ? 0 : 2, n = b.n - skip;
	ssize_t sent = send(fd, mem + skip, n, MSG_NOSIGNAL);
	if (sent == (ssize_t)n)
		return 1;
	return sent < 0 && (errno == EAGAIN || errno == ENOTCONN)
	               ? 0
	               : -1; /* a question cut in two is of no use */
}

/* Takes one answer from UDP. 1: there was one, 0: not now, -1: the socket failed. */
static int receive_udp(struct resolve *r, size_t i, int64_t now_ms)
{
	unsigned char in[DNS_UDP_BYTES];
	ssize_t n = recv(r->server[i].udp, in, sizeof in, 0);
	if (n < 0)
		return errno == EAGAIN ? 0 : -1;
	dns_answer(&r->dns, i, false, in, (size_t)n, now_ms);
	return 1;
}

static int receive_tcp(struct resolve *r, size_t i, int64_t now_ms)
{
	struct resolve_server *s = &r->server[i];
	unsigned char *in = r->in[i];
	ssize_t n = recv(s->tcp, in + s->in_n, sizeof r->in[i] - s->in_n, 0);
	if (n <= 0)
		return n < 0 && (errno == EAGAIN || errno == ENOTCONN) ? 0 : -1;
	s->in_n += (size_t)n;
	while (s->in_n >= 2) {
		size_t size = (size_t)(in[0] << 8 | in[1]);
		if (size > sizeof r->in[i] - 2)
			return -1;
		if (s->in_n - 2 < size)
			break;
		dns_answer(&r->dns, i, true, in + 2, size, now_ms);
		s->in_n -= 2 + size;
		memmove(in, in + 2 + size, s->in_n);
	}
	return 1;
}

/* Meets the wishes for one server. True when something happened. */
static bool serve(struct resolve *r, size_t i, int64_t now_ms)
{
	struct resolve_server *s = &r->server[i];
	struct dns_server *wish = &r->dns.server[i];
	bool tcp = wish->tcp_open, *question[2] = {&wish->send_a, &wish->send_aaaa};
	int result = 0;
	if (!wish->udp_open)
		close_socket(&s->udp);
	if (!tcp)
		close_socket(&s->tcp);
	if (!wish->udp_open && !tcp)
		return false;
	int *fd = tcp ? &s->tcp : &s->udp;
	if (*fd < 0) {
		*fd = resolve_connect(
		        &r->dns.conf.server[i], DNS_PORT, tcp ? SOCK_STREAM : SOCK_DGRAM, false);
		s->in_n = 0;
		result = *fd < 0 ? -1 : 0;
	}
	for (size_t q = 0; q < 2 && result == 0; q++) {
		if (!*question[q])
			continue;
		result = send_question(r, *fd, tcp, q == 1);
		if (result > 0) {
			*question[q] = false;
			result = 0;
		}
	}
	if (result == 0)
		result = tcp ? receive_tcp(r, i, now_ms) : receive_udp(r, i, now_ms);
	if (result < 0) {
		close_socket(&s->udp);
		close_socket(&s->tcp);
		dns_server_failed(&r->dns, i, now_ms);
	}
	return result != 0;
}

int64_t resolve_step(struct resolve *r, int64_t now_ms)
{
	if (r->state != RESOLVE_BUSY)
		return INT64_MAX;
	int64_t wake;
	bool moved;
	do {
		moved = false;
		wake = dns_step(&r->dns, now_ms);
		for (size_t i = 0; i < r->dns.conf.servers && r->dns.state == DNS_ASKING; i++)
			moved |= serve(r, i, now_ms);
	} while (moved && r->dns.state == DNS_ASKING);
	if (r->dns.state == DNS_FOUND) {
		memcpy(r->address, r->dns.address, sizeof r->address);
		r->addresses = r->dns.addresses;
		finish(r, RESOLVE_FOUND);
	} else if (r->dns.state == DNS_FAILED) {
		r->why = r->dns.why;
		finish(r, RESOLVE_FAILED);
	}
	return r->state == RESOLVE_BUSY ? wake : INT64_MAX;
}

void resolve_want(const struct resolve *r, fd_set *readable, fd_set *writable, int *top)
{
	for (size_t i = 0; i < DNS_SERVERS; i++) {
		const struct resolve_server *s = &r->server[i];
		const struct dns_server *wish = &r->dns.server[i];
		int fd = s->tcp >= 0 ? s->tcp : s->udp;
		if (fd < 0)
			continue;
		FD_SET(fd, readable);
		if (wish->send_a || wish->send_aaaa)
			FD_SET(fd, writable);
		if (fd > *top)
			*top = fd;
	}
}
