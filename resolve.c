#include "resolve.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

const char resolve_hosts[] = "/etc/hosts", resolve_conf[] = "/etc/resolv.conf";

enum { DNS_PORT = 53 };

void resolve_init(struct resolve *r, const char *name)
{
	r->name = name;
	r->dns.state = DNS_IDLE;
	for (size_t i = 0; i < DNS_SERVERS; i++)
		r->server[i].fd = -1;
}

void resolve_forget(struct resolve *r)
{
	if (r->dns.state != DNS_ASKING)
		r->dns.state = DNS_IDLE;
}

void resolve_prefer(struct resolve *r, const struct dns_address *a)
{
	struct dns_address *list = r->dns.address;
	for (size_t i = 1; i < r->dns.addresses; i++) {
		if (memcmp(a, &list[i], sizeof *a) == 0) {
			memmove(list + 1, list, i * sizeof *a);
			list[0] = *a;
		}
	}
}

void resolve_begin(struct resolve *r, uint32_t random, int64_t now_ms)
{
	static struct lines lines; /* too large for the stack */
	struct slice piece;
	struct dns *d = &r->dns;
	d->state = DNS_FOUND;
	d->addresses = 0;
	if (dns_read_address(slice_str(r->name), d->address))
		d->addresses = 1;
	else if (dns_is_localhost(r->name, d->address))
		d->addresses = 2;
	if (d->addresses > 0)
		return;
	fd_open(&lines, resolve_hosts);
	while ((piece = fd_lines(&lines)).n > 0)
		dns_read_hosts(piece, r->name, d->address, &d->addresses);
	fd_close(&lines.fd);
	if (d->addresses > 0)
		return;
	fd_open(&lines, resolve_conf);
	dns_begin(d, r->name, fd_lines(&lines), random, now_ms);
	fd_close(&lines.fd);
}

/* What an error of a socket comes to. 0: not now, -1: it failed. */
static int failure(void)
{
	return errno == EAGAIN || errno == ENOTCONN ? 0 : -1;
}

/* Sends the question, and clears its wish when it was sent. 0: well or not now, -1: the socket failed. */
static int send_question(struct resolve *r, size_t i, bool aaaa)
{
	struct buf b = BUF(r->out);
	bool *wish = &r->dns.server[i].send[aaaa], tcp = r->server[i].tcp;
	if (!*wish)
		return 0;
	dns_put_question(&r->dns, aaaa, &b);
	size_t skip = tcp ? 0 : 2;
	ssize_t sent = send(r->server[i].fd, r->out + skip, b.n - skip, MSG_NOSIGNAL);
	*wish = sent < 0;
	if (sent < 0)
		return failure();
	return (size_t)sent == b.n - skip ? 0 : -1; /* a question cut in two is of no use */
}

/* Takes what there is. 1: there was something, 0: not now, -1: the socket failed. */
static int receive(struct resolve *r, size_t i, int64_t now_ms)
{
	struct resolve_server *s = &r->server[i];
	unsigned char *in = r->in[i];
	ssize_t n = recv(s->fd, in + s->in_n, s->tcp ? sizeof r->in[i] - s->in_n : DNS_UDP_BYTES, 0);
	if (n < 0)
		return failure();
	if (!s->tcp) {
		dns_answer(&r->dns, i, (struct slice){in, (size_t)n}, now_ms);
		return 1;
	}
	s->in_n += (size_t)n;
	while (s->in_n >= 2) {
		size_t size = (size_t)(in[0] << 8 | in[1]);
		if (size > sizeof r->in[i] - 2)
			return -1;
		if (s->in_n - 2 < size)
			break;
		dns_answer(&r->dns, i, (struct slice){in + 2, size}, now_ms);
		s->in_n -= 2 + size;
		memmove(in, in + 2 + size, s->in_n);
	}
	return n > 0 ? 1 : -1;
}

/* Meets the wishes for one server. True when something happened. */
static bool serve(struct resolve *r, size_t i, int64_t now_ms)
{
	struct resolve_server *s = &r->server[i];
	const struct dns_server *wish = &r->dns.server[i];
	if (!wish->open || s->tcp != wish->tcp)
		fd_close(&s->fd);
	if (!wish->open)
		return false;
	if (s->fd < 0) {
		s->tcp = wish->tcp;
		s->in_n = 0;
		s->fd = fd_connect(
		        &r->dns.conf.server[i], DNS_PORT, s->tcp ? SOCK_STREAM : SOCK_DGRAM, false);
	}
	int result = s->fd < 0 || send_question(r, i, false) < 0 || send_question(r, i, true) < 0
	                     ? -1
	                     : receive(r, i, now_ms);
	if (result < 0) {
		fd_close(&s->fd);
		dns_server_failed(&r->dns, i, now_ms);
	}
	return result != 0;
}

int64_t resolve_step(struct resolve *r, int64_t now_ms)
{
	int64_t wake = INT64_MAX;
	bool moved = r->dns.state == DNS_ASKING;
	while (moved) {
		moved = false;
		wake = dns_step(&r->dns, now_ms);
		for (size_t i = 0; i < DNS_SERVERS; i++)
			moved |= serve(r, i, now_ms);
	}
	return wake;
}

void resolve_want(const struct resolve *r, struct watch *w)
{
	for (size_t i = 0; i < DNS_SERVERS; i++) {
		const struct resolve_server *s = &r->server[i];
		const struct dns_server *wish = &r->dns.server[i];
		fd_watch(w, &w->readable, s->fd);
		if (wish->send[0] || wish->send[1])
			fd_watch(w, &w->writable, s->fd);
	}
}
