#include "status.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "net.h"

enum {
	AGAIN_MS = 10 * 1000, /* until what could not be opened is tried again */
	QUIET_MS = 1000,
	NAME_BYTES = 48 /* of an abstract name */
};

static const char stuck[] = "iamcat does not answer: its loop is stuck, or it was stopped";

/* --- the status socket's name --- */

/* "iamcat/<what tells one gateway's configuration from another's>/", behind which stands the user's number.
 * As the name of an abstract socket it begins with a NUL (unix(7)). */
static void put_name(struct buf *b, const struct bridge_config *c)
{
	const char *const texts[] = {c->broker_host, c->api_host, c->client_id, c->topic_prefix};
	uint64_t h = SLICE_HASH ^ c->broker_port ^ (uint64_t)c->api_port << 16;
	for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) /* with their NULs, which part them */
		h = slice_hash(h, (struct slice){(const unsigned char *)texts[i], strlen(texts[i]) + 1});
	buf_put_str(b, "iamcat/");
	buf_put_u64(b, h);
	buf_put_byte(b, '/');
}

/* STATUS_SOCKET, or the abstract name of the user. */
static struct slice name_of(const struct config *c, uid_t user)
{
	static unsigned char mem[CONFIG_SOCKET_BYTES];
	struct buf b = BUF(mem);
	if (c->status_socket[0] != 0)
		return slice_str(c->status_socket);
	buf_put_byte(&b, 0);
	put_name(&b, &c->bridge);
	buf_put_u64(&b, user);
	return buf_slice(&b);
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

/* Is there a socket's file which nobody listens to, as a program leaves it that was killed? Otherwise errno
 * says what is there. open(2) knows sockets by ENXIO. */
static bool stale(const char *path)
{
	int fd = open(path, O_RDONLY | O_NONBLOCK | O_NOFOLLOW);
	errno = fd >= 0 || errno == ELOOP ? ENOTSOCK : errno;
	fd_close(&fd);
	if (errno != ENXIO)
		return false;
	fd = fd_local(slice_str(path), SOCK_STREAM | SOCK_NONBLOCK, false);
	bool dead = fd < 0 && errno == ECONNREFUSED;
	fd_close(&fd);
	errno = EADDRINUSE;
	return dead;
}

/* -1 with errno set. */
static int open_local(struct status *s)
{
	const char *path = s->config->status_socket;
	struct slice name = name_of(s->config, geteuid());
	int fd = fd_local(name, SOCK_STREAM | SOCK_NONBLOCK, true);
	if (fd < 0 && errno == EADDRINUSE && path[0] != 0 && stale(path) && unlink(path) == 0)
		fd = fd_local(name, SOCK_STREAM | SOCK_NONBLOCK, true);
	s->bound = fd >= 0;
	return fd;
}

/* What can't be had is said once. */
static bool opened(struct status *s, const char *name, int fd)
{
	int code = errno;
	struct buf json = BUF(s->reply), why = BUF(s->client_mem[0]);
	bool probe = s->config->bridge.probe;
	if (fd >= 0 || s->failing)
		return fd >= 0;
	if (probe && code == EADDRINUSE && status_ask(s->config, &json, &why))
		return false; /* it is the one that runs who has it */
	buf_put_text(&s->said, "%s: %s", name, code == ENOENT ? "its directory is not there" : "");
	if (code != ENOENT)
		fd_put_reason(&s->said, code);
	buf_put_str(&s->said, probe ? "; started here and now, iamcat would go on without it\n"
	                      : s->config->sandbox == SWITCH_OFF
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
		good &= opened(s, "METRICS_LISTEN", s->web = fd_listen(&c->metrics_address, c->metrics_port));
	s->failing = !good;
	s->again_ms = good || c->bridge.probe || c->sandbox == SWITCH_ON ? INT64_MAX : now_ms + AGAIN_MS;
}

void status_init(struct status *s, const struct config *c, int64_t now_ms)
{
	s->config = c;
	s->local = s->web = -1;
	s->said = BUF(s->said_mem);
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
	/* The sandbox leaves no right to that, which iamcat check is not in; the next start replaces it. */
	if (s->bound && s->config->status_socket[0] != 0 &&
	        (s->config->bridge.probe || s->config->sandbox == SWITCH_OFF))
		unlink(s->config->status_socket);
	s->bound = false;
	fd_close(&s->local);
	fd_close(&s->web);
	fd_close(&s->memory);
	for (size_t i = 0; i < STATUS_CLIENTS; i++)
		fd_close(&s->client[i].fd);
}

/* --- answers --- */

/* Resident memory: the second number in statm (proc(5)), in pages; -1 when it is not known. */
static int64_t memory_bytes(struct status *s)
{
	ssize_t n = pread(s->memory, s->reply, 128, 0);
	struct slice rest = {s->reply, n > 0 ? (size_t)n : 0};
	slice_cut(&rest, ' ');
	int64_t pages = slice_u64(slice_cut(&rest, ' '), 1 << 30);
	return pages < 0 ? pages : pages * getpagesize();
}

static void take_figures(struct status *s, const struct bridge *b)
{
	figures_take(&s->figures, b, memory_bytes(s), s->config->health_grace_s);
}

/* The next one who asks there; -1 when nobody does, or the system has no descriptor left. */
static int accept_one(struct status *s, int listener, const struct watch *w, int64_t now_ms)
{
	if (!fd_ready(&w->readable, listener))
		return -1;
	int fd = fd_fits(accept(listener, NULL, NULL));
	if (fd < 0 && (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM))
		s->quiet_ms = now_ms + QUIET_MS; /* or select would come back with it at once */
	return fd;
}

/* Everybody who asks on the status socket is answered in one piece: a socket's buffer has room for that, and
 * what it does not take is not waited for. Others than the user who started it and root are not answered: not
 * the sandbox's user either, who is many's, and whom all look like that a user namespace does not know. */
static void answer_local(struct status *s, const struct bridge *b, int fd)
{
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

static void answer_web(struct status *s, const struct bridge *b, struct status_client *c)
{
	struct slice rest = {c->mem, c->n}, line = slice_cut(&rest, '\r'); /* RFC 9112 §3 */
	struct slice method = slice_cut(&line, ' '), target = slice_cut(&line, ' '),
	             path = slice_cut(&target, '?');
	struct buf body = BUF(s->reply), reply = buf_over(c->mem, STATUS_BYTES);
	const char *status = "200 OK", *type = "";
	bool metrics = slice_is(path, "/metrics");
	if (!metrics && !slice_is(path, "/healthz")) {
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
			buf_put_text(&body, "%s\n", s->figures.health);
		}
	}
	buf_put_text(&reply,
	        "HTTP/1.1 %s\r\nContent-Type: text/plain; %scharset=utf-8\r\nConnection: close\r\n"
	        "Content-Length: %u\r\n\r\n",
	        status, type, (unsigned)body.n);
	buf_put_slice(&reply, buf_slice(&body));
	c->answered = true;
	c->n = reply.n;
}

/* Sends what it can of the answer. */
static void transmit(struct status_client *c)
{
	ssize_t n = send(c->fd, c->mem + c->at, c->n - c->at, MSG_NOSIGNAL | MSG_DONTWAIT);
	if (n < 0 && errno != EAGAIN)
		fd_close(&c->fd);
	c->at += n > 0 ? (size_t)n : 0;
	if (c->at == c->n)
		shutdown(c->fd, SHUT_WR);
}

/* Receives: a request, and after the answer whatever comes, until the client has read it and closes; closing
 * before would reset the connection and take the answer away (RFC 9112 §9.6). */
static void receive(struct status *s, const struct bridge *b, struct status_client *c)
{
	size_t room = c->answered ? sizeof s->reply : STATUS_HEAD_BYTES - c->n;
	ssize_t n = recv(c->fd, c->answered ? s->reply : c->mem + c->n, room, MSG_DONTWAIT);
	if (n == 0 || (n < 0 && errno != EAGAIN) || (c->answered && (size_t)n == room))
		fd_close(&c->fd); /* that much: it will not read what it was told */
	if (n <= 0 || c->answered)
		return;
	c->n += (size_t)n;
	struct slice head = {c->mem, c->n};
	if (c->n == STATUS_HEAD_BYTES || slice_find(head, "\r\n\r\n") < c->n) {
		answer_web(s, b, c); /* it is whole, or more than is read of one */
		transmit(c);
	}
}

/* --- the loop --- */

int64_t status_step(struct status *s, const struct bridge *b, int64_t now_ms, struct watch *w)
{
	const struct watch found = *w;
	bool room = false;
	*w = (struct watch){.top = -1};
	if (now_ms >= s->again_ms)
		open_all(s, now_ms);
	int64_t wake = s->again_ms;
	int fd = accept_one(s, s->local, &found, now_ms);
	if (fd >= 0)
		answer_local(s, b, fd);
	for (struct status_client *c = s->client; s->web >= 0 && c < s->client + STATUS_CLIENTS; c++) {
		if (c->fd < 0 && (c->fd = accept_one(s, s->web, &found, now_ms)) >= 0) {
			c->deadline_ms = now_ms + STATUS_MS;
			c->n = c->at = 0;
			c->answered = false;
		} else if (fd_ready(&found.readable, c->fd)) {
			receive(s, b, c);
		} else if (fd_ready(&found.writable, c->fd)) {
			transmit(c);
		}
		if (c->fd >= 0 && now_ms >= c->deadline_ms)
			fd_close(&c->fd);
		room = room || c->fd < 0;
		if (c->fd >= 0 && c->deadline_ms < wake)
			wake = c->deadline_ms;
		fd_watch(w, c->answered && c->at < c->n ? &w->writable : &w->readable, c->fd);
	}
	if (now_ms >= s->quiet_ms) {
		fd_watch(w, &w->readable, s->local);
		fd_watch(w, &w->readable, room ? s->web : -1);
	} else if (s->quiet_ms < wake) {
		wake = s->quiet_ms;
	}
	return wake;
}

/* --- asking --- */

/* The user whose iamcat has the abstract socket of this configuration, by the kernel's list of sockets
 * (proc(5)); -1 when there is none. */
static int64_t find_user(const struct config *c)
{
	static struct lines lines;
	static unsigned char name_mem[NAME_BYTES];
	struct buf name = BUF(name_mem);
	int64_t user = -1;
	buf_put_byte(&name, '@');
	put_name(&name, &c->bridge);
	const char *wanted = buf_cstr(&name);
	fd_open(&lines, "/proc/net/unix");
	for (struct slice s; user < 0 && (s = fd_lines(&lines)).n > 0;) {
		size_t at = slice_find(s, wanted);
		s = slice_from(s, at < s.n ? at + name.n : s.n);
		user = slice_u64(slice_cut(&s, '\n'), UINT32_MAX);
	}
	fd_close(&lines.fd);
	return user;
}

/* Connects to the user's iamcat; -1 with a sentence in why. */
static int ask_user(const struct config *c, uid_t user, struct buf *why)
{
	int fd = fd_local(name_of(c, user), SOCK_STREAM, false);
	if (fd >= 0) {
		int64_t other = user_of(fd);
		/* Anybody can take an abstract name. */
		if (other == (int64_t)user || (c->status_socket[0] != 0 && geteuid() == 0))
			return fd;
		buf_put_str(why, "what answers there belongs to user ");
		buf_put_i64(why, other);
	} else {
		buf_put_str(why, errno == EAGAIN ? stuck
		                 : errno == EACCES || errno == EPERM
		                         ? "STATUS_SOCKET is not open to this user: ask as the "
		                           "user of iamcat, or as root"
		                         : "no iamcat runs with this configuration");
	}
	fd_close(&fd);
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
	buf_put_text(why, "iamcat runs as user %u: ask as that user, or as root", (uid_t)other);
	return -1;
}

bool status_ask(const struct config *c, struct buf *json, struct buf *why)
{
	int64_t end_ms = net_now_ms() + FD_WAIT_MS;
	int fd = ask_anybody(c, why);
	ssize_t n = 1;
	if (fd < 0)
		return false;
	while (n > 0 && json->n < json->cap && net_now_ms() < end_ms) {
		n = recv(fd, json->p + json->n, json->cap - json->n, 0);
		json->n += n > 0 ? (size_t)n : 0;
	}
	bool ended = n == 0 || (n < 0 && errno != EAGAIN);
	fd_close(&fd);
	if (ended && json->n > 0)
		return true;
	buf_put_str(why, ended                 ? "what answers there says nothing"
	                 : json->n < json->cap ? stuck
	                                       : "what answers there says too much");
	return false;
}
