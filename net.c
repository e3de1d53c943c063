#include "net.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { HOUR_MS = 3600 * 1000 };

static int64_t clock_us(clockid_t id)
{
	struct timespec t;
	clock_gettime(id, &t);
	return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

/* While the machine sleeps CLOCK_MONOTONIC stands still: what waited for hours would look fresh. */
int64_t net_now_ms(void)
{
	return clock_us(CLOCK_BOOTTIME) / 1000 + 1;
}

int64_t net_wall_us(void)
{
	return clock_us(CLOCK_REALTIME);
}

bool net_random(void *p, size_t n)
{
	return getrandom(p, n, GRND_NONBLOCK) == (ssize_t)n;
}

void net_give_back(void *p, size_t n)
{
	uintptr_t page = (uintptr_t)getpagesize(), at = (uintptr_t)p, from = (at + page - 1) & -page;
	uintptr_t to = (at + n) & -page;
	if (from < to)
		madvise((void *)from, to - from, MADV_DONTNEED);
}

/* What an error of connect, recv or send means to the reader of the log. */
static const char *errno_text(int code)
{
	switch (code) {
	case ECONNREFUSED: return "the connection was refused (nothing listens there)";
	case ECONNRESET:
	case EPIPE: return "the other side reset the connection";
	case ETIMEDOUT: return "the other side does not answer";
	case ENETUNREACH: return "there is no route to that network";
	case EHOSTUNREACH: return "the host can't be reached";
	case EACCES:
	case EPERM: return "this system does not allow the connection (firewall or sandbox)";
	case EMFILE:
	case ENFILE: return "there are too many open files";
	case EAFNOSUPPORT:
	case EADDRNOTAVAIL: return "this system has no address to connect from (IPv6 switched off?)";
	case ENOBUFS:
	case ENOMEM: return "the system is out of memory";
	default: return "the connection failed";
	}
}

/* Without them TLS is not safe, and the answer of a name server could be guessed. */
static const char no_random[] = "the kernel has no random numbers yet";

/* --- one peer --- */

static void close_fd(struct net_peer *p)
{
	fd_close(&p->fd);
	p->readable = p->writable = p->blocked = p->broken = false;
	p->step = PEER_IDLE;
}

/* The link has ended by itself; why NULL: by the errno code. Its host's addresses are looked up again, unless
 * a plain server has just said all that it had to say. */
static void ended(struct net_peer *p, enum link_end end, int code, const char *why)
{
	link_ended(p->link, end, why != NULL ? why : errno_text(code), code);
	if (p->link->tls != NULL || p->link->end != LINK_EOF)
		resolve_forget(p->host);
	close_fd(p);
}

/* Tries the addresses from p->at on, until a connection is under way. The last one's error is the link's. */
static void connect_next(struct net_peer *p, int64_t now_ms, int code)
{
	const struct dns *host = &p->host->dns;
	close_fd(p);
	while (p->at < host->addresses) {
		p->address = host->address[p->at++];
		p->fd = fd_connect(&p->address, p->link->port, SOCK_STREAM, p->link->tls != NULL);
		if (p->fd >= 0) {
			p->step = PEER_CONNECT;
			p->deadline_ms = now_ms + NET_CONNECT_MS;
			return;
		}
		code = errno;
	}
	ended(p, LINK_REFUSED, code, NULL);
}

/* Begins a look-up, unless another link's is under way or has brought addresses; has it come to an end? */
static bool step_lookup(struct net_peer *p, int64_t now_ms)
{
	uint32_t random;
	const struct dns *host = &p->host->dns;
	bool begun = host->state == DNS_IDLE && net_random(&random, sizeof random);
	if (begun)
		resolve_begin(p->host, random, now_ms);
	if (host->state == DNS_IDLE)
		ended(p, LINK_REFUSED, 0, no_random);
	else if (host->state == DNS_FOUND)
		connect_next(p, now_ms, 0);
	else if (host->state == DNS_FAILED)
		ended(p, LINK_REFUSED, 0, host->why);
	return begun || p->step != PEER_LOOKUP;
}

/* TCP is there, or the next address is tried. True when something happened. */
static bool step_connect(struct net *net, struct net_peer *p, int64_t now_ms)
{
	if (!p->writable && now_ms < p->deadline_ms)
		return false;
	int code = ETIMEDOUT;
	socklen_t size = sizeof code;
	if (p->writable)
		getsockopt(p->fd, SOL_SOCKET, SO_ERROR, &code, &size);
	if (code != 0) {
		connect_next(p, now_ms, code);
		return true;
	}
	if (p->link->tls != NULL)
		net->ahead_n = 0; /* it was the last connection's */
	struct buf peer = BUF(net->peer_text);
	dns_put_address(&peer, &p->address);
	if (p->link->tls != NULL && !net_random(net->entropy, sizeof net->entropy)) {
		ended(p, LINK_REFUSED, 0, no_random);
		return true;
	}
	link_connected(p->link, buf_cstr(&peer), net_wall_us() / 1000000, net->entropy);
	tls_wipe(net->entropy, sizeof net->entropy);
	resolve_prefer(p->host, &p->address);
	p->step = PEER_OPEN;
	return true;
}

static bool send_bytes(struct net_peer *p)
{
	bool moved = false;
	size_t n;
	const unsigned char *from;
	p->blocked = p->blocked && !p->writable;
	while (!p->blocked && !p->broken && (from = link_send_buf(p->link, &n)) != NULL) {
		ssize_t sent = send(p->fd, from, n, MSG_NOSIGNAL);
		if (sent < 0 && errno == EAGAIN) {
			p->blocked = true;
			p->writable = false;
		} else if (sent < 0 && (errno == EPIPE || errno == ECONNRESET) &&
		           link_recv_buf(p->link, &n)) {
			p->broken = p->readable = true; /* why it ended is in what can still be received */
			return moved;
		} else if (sent < 0 && errno != EINTR) {
			ended(p, LINK_LOST, errno, NULL);
			return true;
		} else if (sent > 0) {
			link_send_ack(p->link, (size_t)sent);
			moved = true;
		}
	}
	return moved;
}

static bool has_ahead(const struct net *net, const struct net_peer *p)
{
	return p->link->tls != NULL && net->ahead_n > 0;
}

/* As recv, by way of what was read ahead. */
static ssize_t receive(struct net *net, struct net_peer *p, unsigned char *to, size_t n)
{
	if (!has_ahead(net, p)) {
		p->readable = p->broken; /* then to its end */
		if (p->link->tls == NULL || n >= sizeof net->ahead)
			return recv(p->fd, to, n, 0);
		ssize_t got = recv(p->fd, net->ahead, sizeof net->ahead, 0);
		if (got <= 0)
			return got;
		net->ahead_at = 0;
		net->ahead_n = (size_t)got;
	}
	n = n < net->ahead_n ? n : net->ahead_n;
	memcpy(to, net->ahead + net->ahead_at, n);
	net->ahead_at += n;
	net->ahead_n -= n;
	return (ssize_t)n;
}

static bool receive_bytes(struct net *net, struct net_peer *p)
{
	size_t n;
	unsigned char *to = p->readable || has_ahead(net, p) ? link_recv_buf(p->link, &n) : NULL;
	if (to == NULL && p->broken && link_read(p->link).n == 0) {
		ended(p, LINK_LOST, EPIPE, NULL);
		return true;
	}
	if (to == NULL)
		return false;
	ssize_t got = receive(net, p, to, n);
	if (got > 0)
		link_recv_ack(p->link, (size_t)got);
	else if (got == 0)
		ended(p, LINK_EOF, 0, "the server closed the connection");
	else if ((errno == EAGAIN && !p->broken) || errno == EINTR)
		return false;
	else
		ended(p, LINK_LOST, errno, NULL);
	return true;
}

/* The core wants the link closed. */
static void close_link(struct net_peer *p)
{
	size_t n;
	if (p->step == PEER_OPEN) {
		link_farewell(p->link);
		const unsigned char *from = link_send_buf(p->link, &n);
		if (from != NULL) /* it is an attempt, the connection goes either way */
			(void)!send(p->fd, from, n, MSG_NOSIGNAL);
	}
	close_fd(p);
	link_closed(p->link);
}

static bool move_peer(struct net *net, struct net_peer *p, int64_t now_ms)
{
	struct link *l = p->link;
	size_t n;
	if (!l->open) {
		if (l->state == LINK_DOWN)
			return false;
		close_link(p);
		return true;
	}
	if (l->state == LINK_DOWN) {
		link_opening(l);
		p->at = 0;
		p->step = PEER_LOOKUP;
		if (p->host->dns.state == DNS_FAILED) /* of an earlier attempt */
			resolve_forget(p->host);
		return true;
	}
	switch (p->step) {
	case PEER_IDLE: return false;
	case PEER_LOOKUP: return step_lookup(p, now_ms);
	case PEER_CONNECT: return step_connect(net, p, now_ms);
	case PEER_OPEN: break;
	}
	/* What comes next may add to what is to be sent: then it is one record. */
	bool moved = (!has_ahead(net, p) || link_recv_buf(l, &n) == NULL) && send_bytes(p),
	     more = p->step == PEER_OPEN;
	while (more && receive_bytes(net, p)) {
		moved = true;
		more = !p->broken && p->step == PEER_OPEN;
	}
	if (l->state == LINK_ENDED && p->step == PEER_OPEN) { /* TLS has failed, or the peer said goodbye */
		ended(p, l->end, l->code, l->why);
		moved = true;
	}
	return moved;
}

/* --- all of them --- */

void net_init(struct net *net, struct link *link, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		struct net_peer *p = &net->peer[net->peers++];
		size_t h = 0;
		while (h < net->hosts && strcmp(net->host[h].name, link[i].host) != 0)
			h++;
		if (h == net->hosts)
			resolve_init(&net->host[net->hosts++], link[i].host);
		p->link = &link[i];
		p->host = &net->host[h];
		p->fd = -1;
	}
}

bool net_move(struct net *net)
{
	bool moved = false;
	int64_t now_ms = net_now_ms();
	net->wake_ms = INT64_MAX;
	for (size_t i = 0; i < net->hosts; i++) {
		int64_t at = resolve_step(&net->host[i], now_ms);
		if (at < net->wake_ms)
			net->wake_ms = at;
	}
	/* From the last to the first, the broker's: a call goes out before the word that its request was
	 * taken.
	 */
	for (size_t i = net->peers; i-- > 0;) {
		struct net_peer *p = &net->peer[i];
		moved |= move_peer(net, p, now_ms);
		if (p->step == PEER_CONNECT && p->deadline_ms < net->wake_ms)
			net->wake_ms = p->deadline_ms;
	}
	return moved;
}

void net_wait(struct net *net, int64_t until_ms, struct watch *w)
{
	size_t n;
	for (size_t i = 0; i < net->hosts; i++)
		resolve_want(&net->host[i], w);
	for (size_t i = 0; i < net->peers; i++) {
		struct net_peer *p = &net->peer[i];
		if (p->step == PEER_CONNECT || p->blocked)
			fd_watch(w, &w->writable, p->fd);
		if (p->step == PEER_OPEN && link_recv_buf(p->link, &n) != NULL)
			fd_watch(w, &w->readable, p->fd);
	}
	int64_t at = until_ms < net->wake_ms ? until_ms : net->wake_ms, wait_ms = at - net_now_ms();
	wait_ms = wait_ms < 0 ? 0 : wait_ms < HOUR_MS ? wait_ms : HOUR_MS;
	struct timespec t = {.tv_sec = (time_t)(wait_ms / 1000), .tv_nsec = (long)(wait_ms % 1000) * 1000000};
	sigset_t none;
	sigemptyset(&none);
	if (pselect(w->top + 1, &w->readable, &w->writable, NULL, &t, &none) < 0)
		*w = (struct watch){.top = -1}; /* after a signal they are as they were */
	for (size_t i = 0; i < net->peers; i++) {
		struct net_peer *p = &net->peer[i];
		p->readable = fd_ready(&w->readable, p->fd);
		p->writable = fd_ready(&w->writable, p->fd);
	}
}
