/* The benchmark's other end: an operator at the broker, an echo there (the floor), and the same HTTP calls
 * without MQTT. Written against OpenSSL, with nothing of iamcat in it.
 *
 *     build/bench/load BROKER_PORT CA_FILE CLIENT_ID ask
 *
 * takes orders from stdin, a line each, and answers each with {"us": [each round trip], "elapsed_us": …}:
 *
 *     sub TOPIC
 *     ask COUNT WINDOW GAP_US TOPIC PAYLOAD
 *     http COUNT LANES GAP_US PORT TARGET
 *
 * ask publishes COUNT requests, at most WINDOW of them unanswered, GAP_US (give or take a tenth, at random)
 * after the last answer; ######## in the payload becomes a number, by which the answer is found. http is the
 * same without MQTT: GET TARGET on a connection that was opened before the last reply, LANES at a time.
 *
 *     build/bench/load BROKER_PORT CA_FILE CLIENT_ID echo TOPIC REPLY_TOPIC
 *
 * sends back what comes; what names the device padN grows to N bytes. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

enum { BYTES = 1 << 20, ASKED = 100000, LANES = 64 };

static SSL *ssl;
static int broker;
static unsigned char in[BYTES], out[BYTES];
static size_t in_n, out_n;
static uint16_t last_id;
static double sent_us[ASKED], took_us[ASKED];
static int answered;

static void need(bool holds, const char *what)
{
	if (holds)
		return;
	fprintf(stderr, "load: %s (errno %d)\n", what, errno);
	ERR_print_errors_fp(stderr);
	exit(1);
}

static double now_us(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static int dial(int port, bool wait)
{
	struct sockaddr_in at = {.sin_family = AF_INET,
	        .sin_port = htons((uint16_t)port),
	        .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int fd = socket(AF_INET, SOCK_STREAM | (wait ? 0 : SOCK_NONBLOCK), 0), on = 1;
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
	need(connect(fd, (struct sockaddr *)&at, sizeof at) == 0 || errno == EINPROGRESS, "can't connect");
	return fd;
}

/* ---- MQTT ---- */

static void put(const void *p, size_t n)
{
	need(n <= BYTES - out_n, "too much to send");
	memcpy(out + out_n, p, n);
	out_n += n;
}

static void put_u16(size_t v)
{
	put((unsigned char[]){(unsigned char)(v >> 8), (unsigned char)v}, 2);
}

static void put_text(const char *s)
{
	put_u16(strlen(s));
	put(s, strlen(s));
}

static void put_head(unsigned char first, size_t n)
{
	put(&first, 1);
	do {
		unsigned char byte = (unsigned char)(n % 128 | (n > 127 ? 128 : 0));
		put(&byte, 1);
		n /= 128;
	} while (n > 0);
}

static void put_publish(const char *topic, const void *payload, size_t n)
{
	put_head(0x32, 2 + strlen(topic) + 2 + n);
	put_text(topic);
	put_u16(++last_id ? last_id : ++last_id);
	put(payload, n);
}

static void flush_out(void)
{
	for (size_t at = 0; at < out_n;) {
		int n = SSL_write(ssl, out + at, (int)(out_n - at));
		need(n > 0, "the broker's connection broke");
		at += (size_t)n;
	}
	out_n = 0;
}

/* The next whole packet in in[]: its first byte, body and size; 0 when there is none. */
static unsigned char next_packet(size_t *at, unsigned char **body, size_t *n)
{
	size_t left = in_n - *at, head = 1;
	*n = 0;
	for (unsigned shift = 0;; shift += 7, head++) {
		if (head >= left)
			return 0;
		*n |= (size_t)(in[*at + head] & 127) << shift;
		if (in[*at + head] < 128)
			break;
	}
	head++;
	if (left - head < *n || left < head)
		return 0;
	unsigned char first = in[*at];
	*body = in + *at + head;
	*at += head + *n;
	return first;
}

/* Waits for bytes up to a time (0: as long as it takes); false: none came. */
static bool receive(double until_us)
{
	struct pollfd p = {broker, POLLIN, 0};
	while (SSL_pending(ssl) == 0) {
		double left = until_us - now_us();
		struct timespec t = {(time_t)(left / 1e6), (long)(left * 1e3) % 1000000000};
		if (until_us > 0 && left <= 0)
			return false;
		if (ppoll(&p, 1, until_us > 0 ? &t : NULL, NULL) > 0)
			break;
		if (until_us > 0)
			return false;
	}
	int n = SSL_read(ssl, in + in_n, (int)(BYTES - in_n));
	need(n > 0, "the broker ended the connection");
	in_n += (size_t)n;
	return true;
}

/* Splits a PUBLISH, acknowledges it. */
static char *take_publish(unsigned char first, unsigned char *body, size_t *n)
{
	size_t topic = (size_t)body[0] << 8 | body[1], skip = 2 + topic + (first & 6 ? 2 : 0);
	if (first & 6) {
		put_head(0x40, 2);
		put(body + 2 + topic, 2);
	}
	*n -= skip;
	return (char *)body + skip;
}

static void connect_broker(char **argv)
{
	SSL_CTX *context = SSL_CTX_new(TLS_client_method());
	SSL_CTX_set_max_proto_version(context, TLS1_2_VERSION); /* as iamcat */
	SSL_CTX_set_verify(context, SSL_VERIFY_PEER, NULL);
	SSL_CTX_set_mode(context, SSL_MODE_AUTO_RETRY);
	need(SSL_CTX_load_verify_locations(context, argv[2], NULL) == 1, "can't read the CA");
	ssl = SSL_new(context);
	broker = dial(atoi(argv[1]), true);
	SSL_set_fd(ssl, broker);
	need(SSL_connect(ssl) == 1, "TLS failed");
	put_head(0x10, 10 + 2 + strlen(argv[3]));
	put("\0\4MQTT\4\2\0\0", 10); /* clean session, no keep-alive */
	put_text(argv[3]);
	flush_out();
	while (in_n < 4)
		receive(0);
	need(in[0] == 0x20 && in[3] == 0, "the broker refused CONNECT");
	in_n = 0;
}

static void subscribe(const char *topic)
{
	put_head(0x82, 2 + 2 + strlen(topic) + 1);
	put_u16(++last_id);
	put_text(topic);
	put("\1", 1);
	flush_out();
	while (in_n < 5)
		receive(0);
	need(in[0] == 0x90 && in[4] == 1, "the broker refused SUBSCRIBE");
	in_n = 0;
}

/* Takes what came; each packet goes to take. */
static void take_all(void (*take)(const char *payload, size_t n))
{
	size_t at = 0, n;
	unsigned char *body, first;
	while ((first = next_packet(&at, &body, &n)) != 0)
		if (first >> 4 == 3) {
			char *payload = take_publish(first, body, &n);
			take(payload, n);
		}
	memmove(in, in + at, in_n - at);
	in_n -= at;
	flush_out();
}

/* ---- the operator ---- */

static double last_us; /* when the last answer came */

static void take_answer(const char *payload, size_t n)
{
	const char *mark = memmem(payload, n, "\"n\": ", 5);
	int i = mark ? atoi(mark + 5) - 10000000 : -1;
	need(i >= 0 && i < ASKED && took_us[i] < 0, "an answer that was not asked for, or twice");
	need(memmem(payload, n, "\"error\"", 7) == NULL, "an error as answer");
	last_us = now_us();
	took_us[i] = last_us - sent_us[i];
	answered++;
}

static void put_result(int count, double elapsed)
{
	printf("{\"us\": [");
	for (int i = 0; i < count; i++)
		printf("%s%.1f", i ? "," : "", took_us[i]);
	printf("], \"elapsed_us\": %.1f}\n", elapsed);
	fflush(stdout);
}

static double random_gap(double gap)
{
	return gap * (0.9 + 0.2 * (double)random() / RAND_MAX);
}

/* The payload with the number in the place of each ########. */
static void fill_in(char *to, const char *payload, int number)
{
	char digits[16];
	snprintf(digits, sizeof digits, "%08d", number);
	strcpy(to, payload);
	for (char *mark = to; (mark = strstr(mark, "########")) != NULL;)
		memcpy(mark, digits, 8);
}

static void ask(int count, int window, double gap, const char *topic, const char *payload)
{
	static char made[65536], to[256];
	need(strstr(payload, "########") != NULL && count <= ASKED,
	        "ask: no ######## in the payload, or too many");
	double start = now_us(), due = 0;
	answered = 0;
	last_us = start;
	for (int i = 0; answered < count;) {
		if (i < count && i - answered < window && now_us() >= due) {
			fill_in(made, payload, 10000000 + i);
			fill_in(to, topic, 10000000 + i);
			put_publish(to, made, strlen(payload));
			took_us[i] = -1;
			sent_us[i++] = now_us();
			if (i - answered == window || i == count)
				flush_out();
			continue;
		}
		int before = answered;
		flush_out();
		bool more = i < count && i - answered < window;
		if (receive(more ? due : now_us() + 30e6))
			take_all(take_answer);
		else if (!more)
			break; /* those without an answer keep their -1 */
		if (answered > before && gap > 0)
			due = last_us + random_gap(gap);
	}
	put_result(count, last_us - start);
}

/* ---- HTTP without MQTT ---- */

static struct lane {
	int now, next, i; /* the connection in use, the one that waits, and whose call it is (-1: none) */
	size_t n;
	char reply[BYTES / 8];
} lane[LANES];

static bool whole(struct lane *l)
{
	l->reply[l->n] = '\0';
	char *end = strstr(l->reply, "\r\n\r\n"), *length = strcasestr(l->reply, "\ncontent-length:");
	return end && length && l->n >= (size_t)(end + 4 - l->reply) + strtoul(length + 16, NULL, 10);
}

static void start_call(struct lane *l, int i, const char *text, size_t n, int port)
{
	l->now = l->next;
	l->i = i;
	l->n = 0;
	sent_us[i] = now_us();
	need(send(l->now, text, n, MSG_NOSIGNAL) == (ssize_t)n, "can't send");
	l->next = dial(port, false);
}

static void http(int count, int lanes, double gap, int port, const char *target)
{
	static char text[8192];
	struct pollfd p[LANES];
	int n = snprintf(text, sizeof text,
	        "GET %s HTTP/1.1\r\nHost: localhost:%d\r\nAccept: application/json\r\nConnection: "
	        "close\r\n\r\n",
	        target, port);
	need(lanes <= LANES && count <= ASKED, "http: too many");
	for (int k = 0; k < lanes; k++)
		lane[k].next = dial(port, true), lane[k].i = -1;
	usleep(2000);
	double start = now_us();
	int begun = 0, done = 0;
	while (done < count) {
		for (int k = 0; k < lanes; k++) {
			if (lane[k].i < 0 && begun < count)
				start_call(&lane[k], begun++, text, (size_t)n, port);
			p[k] = (struct pollfd){lane[k].i < 0 ? -1 : lane[k].now, POLLIN, 0};
		}
		need(poll(p, (nfds_t)lanes, 60000) > 0, "no HTTP reply within a minute");
		for (int k = 0; k < lanes; k++) {
			struct lane *l = &lane[k];
			if (p[k].fd < 0 || p[k].revents == 0)
				continue;
			ssize_t got = recv(l->now, l->reply + l->n, sizeof l->reply - 1 - l->n, 0);
			need(got > 0 || errno == EAGAIN, "the connection ended before its reply");
			l->n += got > 0 ? (size_t)got : 0;
			if (!whole(l))
				continue;
			took_us[l->i] = now_us() - sent_us[l->i];
			close(l->now);
			l->i = -1;
			done++;
		}
		if (gap > 0)
			usleep((useconds_t)random_gap(gap));
	}
	double elapsed = now_us() - start;
	for (int k = 0; k < lanes; k++)
		close(lane[k].next);
	put_result(count, elapsed);
}

/* ---- the echo ---- */

static const char *reply_topic;

static void take_echo(const char *payload, size_t n)
{
	static char padded[BYTES];
	const char *pad = memmem(payload, n, "\"pad", 4);
	size_t size = pad ? strtoul(pad + 4, NULL, 10) : 0;
	memcpy(padded, payload, n);
	if (size > n)
		memset(padded + n, 'x', size - n);
	put_publish(reply_topic, padded, size > n ? size : n);
}

static void obey(char *line)
{
	char topic[256];
	int count, window, port, at = 0;
	double gap;
	line[strcspn(line, "\n")] = '\0';
	if (sscanf(line, "sub %255s", topic) == 1) {
		subscribe(topic);
		puts("{}");
		fflush(stdout);
	} else if (sscanf(line, "ask %d %d %lf %255s %n", &count, &window, &gap, topic, &at) == 4 && at > 0) {
		ask(count, window, gap, topic, line + at);
	} else if (sscanf(line, "http %d %d %lf %d %n", &count, &window, &gap, &port, &at) == 4 && at > 0) {
		http(count, window, gap, port, line + at);
	} else {
		need(false, line);
	}
}

int main(int argc, char **argv)
{
	static char line[65536];
	prctl(PR_SET_PDEATHSIG, SIGTERM);
	need(argc == 5 || argc == 7, "see the top of load.c");
	connect_broker(argv);
	srandom(1);
	if (argc == 7) {
		reply_topic = argv[6];
		subscribe(argv[5]);
		puts("{}");
		fflush(stdout);
		for (;;) {
			receive(0);
			take_all(take_echo);
		}
	}
	while (fgets(line, sizeof line, stdin))
		obey(line);
}
