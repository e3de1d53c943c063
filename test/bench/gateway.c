/* The web API of a gateway for the benchmark: fixed answers at the least cost, so that it is not the limit,
 * in the shape of test/gateway.c (HTTP/1.0, one request per connection). One thread, one epoll.
 *
 *     build/bench/gateway [--port 0] [--accept-ms 0] [--keep 0]
 *
 * accept-ms: one connection is accepted per so many ms, as the real gateway does it; 0: at once. keep 1:
 * HTTP/1.1 with keep-alive. Prints {"port": 40001} when it listens. Ends on SIGTERM, and when the thread that
 * started it ends. A Modbus call for the device padN is answered with a body of N bytes. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { REQUEST = 4096, BODY = 65536, DESCRIPTORS = 20000 };

static struct {
	size_t n;
	char text[REQUEST];
} * request; /* by descriptor */
static bool keep;
static char state[4096], token[512];

static void make_bodies(void)
{
	size_t n = (size_t)snprintf(state, sizeof state,
	        "{\"status\": {\"uptime\": 86400, \"version\": \"0.21.3\"}, \"timestamp\": 1754233530123, "
	        "\"wifi\": {\"connected\": \"House & Barn\", \"networks\": [");
	for (int i = 0; i < 18; i++)
		n += (size_t)snprintf(state + n, sizeof state - n,
		        "%s{\"ssid\": \"net-%02d \\u00e5\", \"bssid\": \"02:00:5e:00:53:%02x\", \"rssi\": "
		        "%d, "
		        "\"channel\": %d, \"security\": {\"type\": \"wpa2\", \"pmf\": true}}",
		        i ? ", " : "", i, i, -40 - 3 * i, 1 + i % 13);
	snprintf(state + n, sizeof state - n,
	        "]}, \"memory\": {\"total\": 268435456, \"free\": 83886080}, \"devices\": {\"configured\": "
	        "[], "
	        "\"inverters\": [{\"sn\": \"A2332407312\", \"connection\": {\"type\": \"TCP\", \"open\": "
	        "true}}]}}");
	n = (size_t)snprintf(token, sizeof token, "{\"jwt\": \"");
	while (n < 350)
		token[n++] = 'A';
	snprintf(token + n, sizeof token - n, "\", \"expires_in\": 5}");
}

static int put_modbus(char *body, const char *target)
{
	const char *device = strstr(target, "device_id=pad");
	size_t size = device ? strtoul(device + 13, NULL, 10) : 0;
	int n = snprintf(body, BODY,
	        "{\"register\": 10056, \"size\": 1, \"raw_value\": \"002a\", \"swapped_value\": \"002a\", "
	        "\"value\": 42.0}");
	if (size < 32 || size >= BODY)
		return n;
	memset(body, 'x', size);
	memcpy(body, "{\"value\": \"", 11);
	memcpy(body + size - 2, "\"}", 2);
	return (int)size;
}

/* Answers the whole request at text. */
static void answer(int fd, const char *text)
{
	static char reply[BODY + 512], body[BODY];
	const char *target = strchr(text, ' ') + 1;
	int n, status = 200;
	if (strncmp(target, "/api/inverter/modbus", 20) == 0)
		n = put_modbus(body, target);
	else if (strncmp(target, "/api/state ", 11) == 0)
		n = snprintf(body, BODY, "%s", state);
	else if (strncmp(target, "/api/jwt/create ", 16) == 0)
		n = snprintf(body, BODY, "%s", token);
	else if (strncmp(target, "/api/crypto ", 12) == 0)
		n = snprintf(body, BODY,
		        "{\"deviceName\": \"Test gateway\", \"serialNumber\": \"0123ab5c7f9e4d01ee\"}");
	else
		n = snprintf(body, BODY, "{\"error\": \"no such path\"}"), status = 400;
	int head = snprintf(reply, 512,
	        "HTTP/1.%d %d OK\r\nServer: bench\r\nContent-type: application/json\r\nConnection: %s\r\n"
	        "Content-Length: %d\r\n\r\n",
	        keep, status, keep ? "keep-alive" : "close", n);
	memcpy(reply + head, body, (size_t)n);
	size_t left = (size_t)head + (size_t)n;
	for (const char *p = reply; left > 0;) {
		ssize_t sent = send(fd, p, left, MSG_NOSIGNAL); /* waits: every reader here reads */
		if (sent <= 0)
			return;
		p += sent;
		left -= (size_t)sent;
	}
}

static void serve(int fd)
{
	size_t have = request[fd].n;
	char *text = request[fd].text, *end, *length;
	ssize_t got = recv(fd, text + have, REQUEST - 1 - have, MSG_DONTWAIT);
	if (got < 0 && errno == EAGAIN)
		return;
	if (got <= 0) {
		close(fd);
		return;
	}
	have += (size_t)got;
	text[have] = '\0';
	request[fd].n = have;
	if ((end = strstr(text, "\r\n\r\n")) == NULL)
		return;
	length = strcasestr(text, "\ncontent-length:");
	if (have < (size_t)(end + 4 - text) + (length ? strtoul(length + 16, NULL, 10) : 0))
		return;
	answer(fd, text);
	request[fd].n = 0;
	if (!keep)
		close(fd);
}

static bool take_connection(int listener, int poll)
{
	struct timeval limit = {5, 0};
	int on = 1, fd = accept(listener, NULL, NULL);
	if (fd < 0)
		return false;
	if (fd >= DESCRIPTORS)
		abort();
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
	request[fd].n = 0;
	epoll_ctl(poll, EPOLL_CTL_ADD, fd, &(struct epoll_event){.events = EPOLLIN, .data.fd = fd});
	return true;
}

static long now_ms(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static void serve_all(int listener, int accept_ms)
{
	struct epoll_event event[64];
	int poll = epoll_create1(0);
	long tick = now_ms();
	if (accept_ms == 0)
		epoll_ctl(poll, EPOLL_CTL_ADD, listener,
		        &(struct epoll_event){.events = EPOLLIN, .data.fd = listener});
	for (;;) {
		long left = tick + accept_ms - now_ms();
		if (accept_ms > 0 && left <= 0) {
			take_connection(listener, poll);
			tick += accept_ms;
			continue;
		}
		int n = epoll_wait(poll, event, 64, accept_ms > 0 ? (int)left : -1);
		for (int i = 0; i < n; i++)
			if (event[i].data.fd != listener)
				serve(event[i].data.fd);
			else
				while (take_connection(listener, poll))
					;
	}
}

int main(int argc, char **argv)
{
	struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t size = sizeof at;
	int accept_ms = 0, on = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
	prctl(PR_SET_PDEATHSIG, SIGTERM);
	signal(SIGPIPE, SIG_IGN);
	for (int i = 1; i + 1 < argc; i += 2)
		if (strcmp(argv[i], "--port") == 0)
			at.sin_port = htons((uint16_t)atoi(argv[i + 1]));
		else if (strcmp(argv[i], "--accept-ms") == 0)
			accept_ms = atoi(argv[i + 1]);
		else if (strcmp(argv[i], "--keep") == 0)
			keep = atoi(argv[i + 1]) != 0;
		else
			return 2;
	request = calloc(DESCRIPTORS, sizeof *request);
	make_bodies();
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
	if (bind(fd, (struct sockaddr *)&at, sizeof at) < 0 || listen(fd, accept_ms > 0 ? 5 : 4096) < 0 ||
	        getsockname(fd, (struct sockaddr *)&at, &size) < 0) {
		perror("gateway");
		return 1;
	}
	printf("{\"port\": %d}\n", ntohs(at.sin_port));
	fflush(stdout);
	serve_all(fd, accept_ms);
}
