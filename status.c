#include "status.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "net.h"

enum {
	AGAIN_MS = 10 * 1000, /* until what could not be opened is tried again */
	QUIET_MS = 1000,
	BACKLOG = 16,
	NAME_BYTES = 48 /* of an abstract name */
};

static void close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

/* --- the status socket's name --- */

/* A number in hexadecimal digits. */
static void put_hex(struct buf *b, uint64_t v)
{
	for (int shift = 60; shift >= 0; shift -= 4)
		buf_put_byte(b, (unsigned char)"0123456789abcdef"[v >> shift & 15]);
}

/* FNV-1a, of a string with its NUL. */
static uint64_t hash(uint64_t h, const char *s)
{
	do
		h = (h ^ (unsigned char)*s) * UINT64_C(1099511628211);
	while (*s++ != 0);
	return h;
}

/* "iamcat/<what tells one gateway's configuration from another's>/", behind which stands the user's number.
 * As the name of an abstract socket it begins with a NUL (unix(7)). */
static void put_name(struct buf *b, const struct bridge_config *c)
{
	uint64_t h = UINT64_C(14695981039346656037);
	h = hash(h, c->broker_host) ^ c->broker_port;
	h = hash(h, c->api_host) ^ c->api_port;
	h = hash(h, c->client_id);
	h = hash(h, c->topic_prefix);
	buf_put_str(b, "iamcat/");
	put_hex(b, h);
	buf_put_byte(b, '/');
}

/* The socket's address: STATUS_SOCKET, or the abstract name of the user. */
static socklen_t make_address(struct sockaddr_un *a, const struct config *c, uid_t user)
{
	struct buf b = {(unsigned char *)a->sun_path, sizeof a->sun_path, 0, false};
	memset(a, 0, sizeof *a);
	a->sun_family = AF_UNIX;
	if (c->status_socket[0] != 0) {
		buf_put_str(&b, c->status_socket);
		return sizeof *a;
	}
	buf_put_byte(&b, 0);
	put_name(&b, &c->bridge);
	buf_put_u64(&b, user);
	return (socklen_t)(offsetof(struct sockaddr_un, sun_path) + b.n);
}

static bool switched_off(const struct config *c)
{
	return strcmp(c->status_socket, "off") == 0;
}

/* Who is at the other end; -1 when that is not known. */
static int64_t user_of(int fd)
{
	struct ucred other;
	socklen_t n = sizeof other;
	return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &other, &n) == 0 ? (int64_t)other.uid : -1;
}

/* --- listening --- */

static int local_socket(void)
{
	return socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
}

/* Is there a socket's file which nobody listens to, as a program leaves it that was killed? open(2) knows
 * sockets by ENXIO. */
static bool stale(const struct sockaddr_un *a, socklen_t size)
{
	int fd = open(a->sun_path, O_RDONLY | O_NONBLOCK | O_NOFOLLOW), other = local_socket();
	bool dead = fd < 0 && errno == ENXIO && other >= 0 &&
	            connect(other, (const struct sockaddr *)a, size) != 0 && errno == ECONNREFUSED;
	close_fd(&fd);
	close_fd(&other);
	return dead;
}

/* -1 with errno set. */
static int open_local(struct status *s)
{
	struct sockaddr_un a;
	socklen_t size = make_address(&a, s->config, geteuid());
	bool file = a.sun_path[0] != 0;
	int fd = local_socket(), code = EMFILE;
	if (fd < 0)
		return fd;
	if (fd < FD_SETSIZE) {
		s->bound = bind(fd, (struct sockaddr *)&a, size) == 0;
		code = errno;
		if (!s->bound && code == EADDRINUSE && file && stale(&a, size))
			s->bound = unlink(a.sun_path) == 0 && bind(fd, (struct sockaddr *)&a, size) == 0;
		if (s->bound && listen(fd, BACKLOG) == 0)
			return fd;
	}
	close(fd);
	errno = code;
	return -1;
}

/* What can't be had is said once. */
static bool opened(struct status *s, const char *name, int fd)
{
	int code = errno;
	if (fd >= 0 || s->failing)
		return fd >= 0;
	buf_put_str(&s->said, name);
	if (code == EADDRINUSE)
		buf_put_str(&s->said, ": it is in use already (by another iamcat?)");
	else if (code == EACCES || code == EPERM)
		buf_put_str(&s->said, ": permission denied");
	else if (code == ENOENT)
		buf_put_str(&s->said, ": its directory is not there");
	else if (code == EADDRNOTAVAIL)
		buf_put_str(&s->said, ": this machine does not have that address");
	else {
		buf_put_str(&s->said, ": it can't be listened on (error ");
		buf_put_i64(&s->said, code);
		buf_put_byte(&s->said, ')');
	}
	buf_put_str(&s->said, s->config->sandbox == SWITCH_OFF
	                              ? "; trying again every 10 s\n"
	                              : "; the sandbox leaves no right to try again: restart iamcat then\n");
	return false;
}

/* Opens what is missing. */
static void open_all(struct status *s, int64_t now_ms)
{
	const struct config *c = s->config;
	bool good = true;
	if (s->local < 0 && !switched_off(c))
		good = opened(s, "STATUS_SOCKET", s->local = open_local(s));
	if (s->web < 0 && c->metrics_port != 0)
		good &= opened(s, "METRICS_LISTEN",
		        s->web = resolve_listen(&c->metrics_address, c->metrics_port, BACKLOG));
	s->failing = !good;
	s->again_ms = good || c->sandbox == SWITCH_ON ? INT64_MAX : now_ms + AGAIN_MS;
}

void status_init(struct status *s, const struct config *c, int64_t now_ms)
{
	s->config = c;
	s->local = s->web = -1;
	s->said = (struct buf)BUF(s->said_mem);
	for (size_t i = 0; i < STATUS_CLIENTS; i++) {
		s->client[i].fd = -1;
		s->client[i].mem = s->client_mem[i];
	}
	s->user = geteuid();
	s->memory = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
	open_all(s, now_ms);
}

void status_close(struct status *s)
{
	/* The sandbox leaves no right to that; the next start replaces it. */
	if (s->bound && s->config->status_socket[0] != 0 && s->config->sandbox == SWITCH_OFF)
		unlink(s->config->status_socket);
	close_fd(&s->local);
	close_fd(&s->web);
	close_fd(&s->memory);
	for (size_t i = 0; i < STATUS_CLIENTS; i++)
		close_fd(&s->client[i].fd);
}

/* --- answers --- */

/* Resident memory: the second number in statm (proc(5)), in pages. */
static int64_t memory_bytes(const struct status *s)
{
	unsigned char mem[128];
	ssize_t n = s->memory >= 0 ? pread(s->memory, mem, sizeof mem, 0) : -1;
	const unsigned char *space = n > 0 ? memchr(mem, ' ', (size_t)n) : NULL;
	if (space == NULL)
		return -1;
	struct slice rest = {space + 1, (size_t)(mem + n - space) - 1};
	const unsigned char *end = memchr(rest.p, ' ', rest.n);
	int64_t pages = end != NULL ? slice_u64((struct slice){rest.p, (size_t)(end - rest.p)}, 1 << 30) : -1;
	return pages >= 0 ? pages * getpagesize() : -1;
}

static void take_figures(struct status *s, const struct bridge *b)
{
	figures_take(&s->figures, b, memory_bytes(s), s->config->health_grace_s);
}

static int accept_one(struct status *s, int listener, int64_t now_ms)
{
	int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	if (fd >= FD_SETSIZE) {
		close_fd(&fd);
		errno = EMFILE;
	}
	if (fd < 0 && (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM))
		s->quiet_ms = now_ms + QUIET_MS; /* or select would come back with it at once */
	return fd;
}

/* Everybody who asks on the status socket is answered in one piece: a socket's buffer has room for that, and
 * what it does not take is not waited for. Others than the user who started it and root are not answered: not
 * the sandbox's user either, who is many's, and whom all look like that a user namespace does not know. */
static void answer_local(struct status *s, const struct bridge *b, int64_t now_ms)
{
	int fd = accept_one(s, s->local, now_ms);
	if (fd < 0)
		return;
	int64_t user = user_of(fd);
	if (user == 0 || user == s->user) {
		struct buf reply = BUF(s->reply);
		take_figures(s, b);
		figures_put_json(&reply, &s->figures);
		(void)!send(fd, reply.p, reply.n, MSG_NOSIGNAL | MSG_DONTWAIT);
	}
	close(fd);
}

/* --- METRICS_LISTEN: the least of an HTTP server (RFC 9110, RFC 9112), one request on a connection --- */

static void put_reply(struct status_client *c, const char *status, const char *type, const struct buf *body)
{
	struct buf b = {c->mem, STATUS_BYTES, 0, false};
	buf_put_str(&b, "HTTP/1.1 ");
	buf_put_str(&b, status);
	buf_put_str(&b, "\r\nContent-Type: text/plain; ");
	buf_put_str(&b, type);
	buf_put_str(&b, "charset=utf-8\r\nConnection: close\r\nContent-Length: ");
	buf_put_u64(&b, body->n);
	buf_put_str(&b, "\r\n\r\n");
	buf_put_slice(&b, buf_slice(body));
	c->answered = true;
	c->n = b.n;
	c->at = 0;
}

/* The words of the request line, RFC 9112 §3, are taken one by one. */
static struct slice take_word(struct slice *s)
{
	const unsigned char *space = memchr(s->p, ' ', s->n);
	struct slice word = {s->p, space != NULL ? (size_t)(space - s->p) : s->n};
	size_t n = word.n + (space != NULL);
	*s = (struct slice){s->p + n, s->n - n};
	return word;
}

static void answer_web(struct status *s, const struct bridge *b, struct status_client *c)
{
	struct slice line = {c->mem, c->n};
	line.n = slice_find(line, "\r\n");
	struct slice method = take_word(&line), target = take_word(&line);
	const unsigned char *query = target.n > 0 ? memchr(target.p, '?', target.n) : NULL;
	if (query != NULL)
		target.n = (size_t)(query - target.p);
	struct buf body = BUF(s->reply);
	const char *status = "200 OK", *type = "";
	bool metrics = slice_is(target, "/metrics");
	if (!metrics && !slice_is(target, "/healthz")) {
		status = "404 Not Found";
	} else if (!slice_is(method, "GET")) {
		status = "405 Method Not Allowed\r\nAllow: GET";
	} else {
		take_figures(s, b);
		if (metrics) {
			type = "version=0.0.4; ";
			figures_put_metrics(&body, &s->figures);
		} else {
			status = s->figures.healthy ? status : "503 Service Unavailable";
			buf_put_str(&body, s->figures.health);
			buf_put_byte(&body, '\n');
		}
	}
	put_reply(c, status, type, &body);
}

/* The whole request is there, or more than is read of one. */
static bool is_whole(const struct status_client *c)
{
	struct slice s = {c->mem, c->n};
	return c->n == STATUS_HEAD_BYTES || slice_find(s, "\r\n\r\n") < s.n;
}

/* Receives: a request, and after the answer whatever comes, until the client has read it and closes; closing
 * before would reset the connection and take the answer away (RFC 9112 §9.6). */
static void receive(struct status *s, const struct bridge *b, struct status_client *c)
{
	unsigned char waste[512];
	unsigned char *to = c->answered ? waste : c->mem + c->n;
	ssize_t n = recv(c->fd, to, c->answered ? sizeof waste : STATUS_HEAD_BYTES - c->n, MSG_DONTWAIT);
	c->readable = false;
	if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
		close_fd(&c->fd);
	if (n == sizeof waste && c->answered) /* it will not read what it was told */
		close_fd(&c->fd);
	if (n <= 0 || c->answered)
		return;
	c->n += (size_t)n;
	if (is_whole(c)) {
		answer_web(s, b, c);
		c->writable = true;
	}
}

static void transmit(struct status_client *c)
{
	ssize_t n = send(c->fd, c->mem + c->at, c->n - c->at, MSG_NOSIGNAL | MSG_DONTWAIT);
	c->writable = false;
	if (n < 0 && errno != EAGAIN && errno != EINTR)
		close_fd(&c->fd);
	if (n < 0)
		return;
	c->at += (size_t)n;
	if (c->at == c->n)
		shutdown(c->fd, SHUT_WR);
}

static struct status_client *free_client(struct status *s)
{
	for (size_t i = 0; i < STATUS_CLIENTS; i++)
		if (s->client[i].fd < 0)
			return &s->client[i];
	return NULL;
}

static void take_client(struct status *s, int64_t now_ms)
{
	struct status_client *c = free_client(s);
	int fd = c != NULL ? accept_one(s, s->web, now_ms) : -1;
	if (fd < 0)
		return;
	c->fd = fd;
	c->n = c->at = 0;
	c->answered = c->writable = false;
	c->readable = true;
	c->deadline_ms = now_ms + STATUS_MS;
}

/* --- the loop --- */

static void want(int fd, fd_set *set, int *top)
{
	if (fd < 0)
		return;
	FD_SET(fd, set);
	if (fd > *top)
		*top = fd;
}

void status_want(const struct status *s, int64_t now_ms, fd_set *readable, fd_set *writable, int *top)
{
	bool room = false;
	for (size_t i = 0; i < STATUS_CLIENTS; i++) {
		const struct status_client *c = &s->client[i];
		room = room || c->fd < 0;
		want(c->fd, c->answered && c->at < c->n ? writable : readable, top);
	}
	if (now_ms < s->quiet_ms)
		return;
	want(s->local, readable, top);
	want(room ? s->web : -1, readable, top);
}

void status_ready(struct status *s, const fd_set *readable, const fd_set *writable)
{
	s->local_ready = s->local >= 0 && FD_ISSET(s->local, readable);
	s->web_ready = s->web >= 0 && FD_ISSET(s->web, readable);
	for (size_t i = 0; i < STATUS_CLIENTS; i++) {
		struct status_client *c = &s->client[i];
		c->readable = c->fd >= 0 && FD_ISSET(c->fd, readable);
		c->writable = c->fd >= 0 && FD_ISSET(c->fd, writable);
	}
}

int64_t status_step(struct status *s, const struct bridge *b, int64_t now_ms)
{
	if (now_ms >= s->again_ms)
		open_all(s, now_ms);
	if (s->local_ready)
		answer_local(s, b, now_ms);
	if (s->web_ready)
		take_client(s, now_ms);
	s->local_ready = s->web_ready = false;
	int64_t wake = s->again_ms;
	if (now_ms < s->quiet_ms && s->quiet_ms < wake)
		wake = s->quiet_ms;
	for (size_t i = 0; i < STATUS_CLIENTS; i++) {
		struct status_client *c = &s->client[i];
		if (c->fd >= 0 && c->readable)
			receive(s, b, c);
		if (c->fd >= 0 && c->writable)
			transmit(c);
		if (c->fd >= 0 && now_ms >= c->deadline_ms)
			close_fd(&c->fd);
		if (c->fd >= 0 && c->deadline_ms < wake)
			wake = c->deadline_ms;
	}
	return wake;
}

/* --- asking --- */

/* The user whose iamcat has the abstract socket of this configuration, by the kernel's list of sockets
 * (proc(5)); -1 when there is none. */
static int64_t find_user(const struct config *c)
{
	unsigned char mem[4096], name_mem[NAME_BYTES];
	struct buf name = BUF(name_mem);
	size_t n = 0;
	ssize_t got;
	int64_t user = -1;
	int fd = open("/proc/net/unix", O_RDONLY | O_CLOEXEC);
	buf_put_byte(&name, '@');
	put_name(&name, &c->bridge);
	const char *wanted = buf_cstr(&name);
	while (fd >= 0 && user < 0 && (got = read(fd, mem + n, sizeof mem - n)) > 0) {
		n += (size_t)got;
		struct slice s = {mem, n}; /* whole lines */
		while (s.n > 0 && s.p[s.n - 1] != '\n')
			s.n--;
		size_t at = slice_find(s, wanted), end = at + name.n;
		if (at < s.n) {
			struct slice digits = {s.p + end, s.n - end};
			digits.n = slice_find(digits, "\n");
			user = slice_u64(digits, UINT32_MAX);
		}
		n -= s.n;
		memmove(mem, mem + s.n, n);
	}
	close_fd(&fd);
	return user;
}

/* A socket on which nothing is waited for longer than STATUS_MS. */
static int ask_socket(void)
{
	struct timeval limit = {.tv_sec = STATUS_MS / 1000};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd >= 0) /* unix(7): connect waits for a place in the backlog */
		setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
	return fd;
}

static const char stuck[] = "iamcat does not answer: its loop is stuck, or it was stopped";

/* Connects to the user's iamcat; -1 with a sentence in why. */
static int ask_user(const struct config *c, uid_t user, struct buf *why)
{
	struct sockaddr_un a;
	socklen_t size = make_address(&a, c, user);
	int fd = ask_socket();
	if (fd >= 0 && connect(fd, (struct sockaddr *)&a, size) == 0) {
		int64_t other = user_of(fd);
		/* Anybody can take an abstract name. */
		bool any = c->status_socket[0] != 0 && geteuid() == 0;
		if (any || other == (int64_t)user)
			return fd;
		buf_put_str(why, "what answers there belongs to user ");
		buf_put_i64(why, other);
	} else if (errno == EAGAIN) {
		buf_put_str(why, stuck);
	} else if (errno == EACCES || errno == EPERM) {
		buf_put_str(
		        why, "STATUS_SOCKET is not open to this user: ask as the user of iamcat, or as root");
	} else {
		buf_put_str(why, "no iamcat runs with this configuration");
	}
	close_fd(&fd);
	return -1;
}

static int ask_anybody(const struct config *c, struct buf *why)
{
	uid_t user = geteuid();
	int64_t other;
	size_t before = why->n;
	if (switched_off(c)) {
		buf_put_str(why, "STATUS_SOCKET is off: there is nobody to ask");
		return -1;
	}
	int fd = ask_user(c, user, why);
	if (fd >= 0 || c->status_socket[0] != 0 || (other = find_user(c)) < 0 || other == (int64_t)user)
		return fd;
	why->n = before;
	if (user == 0)
		return ask_user(c, (uid_t)other, why);
	buf_put_str(why, "iamcat runs as user ");
	buf_put_i64(why, other);
	buf_put_str(why, ": ask as that user, or as root");
	return -1;
}

bool status_ask(const struct config *c, struct buf *json, struct buf *why)
{
	int64_t end_ms = net_now_ms() + STATUS_MS, left_ms = STATUS_MS;
	int fd = ask_anybody(c, why);
	ssize_t n = 1;
	if (fd < 0)
		return false;
	while (n > 0 && json->n < json->cap && left_ms > 0) {
		struct pollfd p = {.fd = fd, .events = POLLIN};
		if (poll(&p, 1, (int)left_ms) > 0) {
			n = recv(fd, json->p + json->n, json->cap - json->n, MSG_DONTWAIT);
			json->n += n > 0 ? (size_t)n : 0;
		}
		left_ms = end_ms - net_now_ms();
	}
	close_fd(&fd);
	if (n <= 0 && json->n > 0)
		return true;
	buf_put_str(why, n <= 0                ? "what answers there says nothing"
	                 : json->n < json->cap ? stuck
	                                       : "what answers there says too much");
	return false;
}
