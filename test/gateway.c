/* The test gateway: the web API of a real gateway, with its quirks, signing real ES256 tokens and
 * speaking Modbus TCP to a device. For tests and the demo only.
 *
 *	build/test/gateway [--port 0] [--control-port 0] [--bind 127.0.0.1] [--NAME VALUE]...
 *
 * Prints one line when it listens (port 0 is a free one):
 *	{"port": 40001, "control_port": 40002, "public_key": "<128 hex>"}
 * Ends on SIGTERM and SIGINT, and when the thread that started it ends (so start it from one that
 * stays). Exit status 2: wrong option.
 *
 * Every NAME below is an option (--NAME VALUE) and can be changed while it runs, at the control port:
 *	GET /test/set?NAME=VALUE&NAME=VALUE...	{"ok": true}, or 400 {"error": "…"}; percent-encode
 *	GET /test/log	what happened, see below
 *	GET /test/reset	empties the log and the counts; takes NAME=VALUE, too
 * The control port (always on 127.0.0.1) answers at once and correctly, and none of it is counted.
 *
 *	device ID=HOST:PORT	adds a device. With one at least there are two more: DEAD (answers
 *			after dead-ms with 200 and "value": null) and SLOW (the first device,
 *			slow-ms later). Without any: 400 "No devices open"
 *	no-devices 0	1: answers "No devices open" whatever is configured
 *	serial 0123ab5c7f9e4d01ee
 *	key-seed 0	the signing key is made from this number, the same one each time
 *	accept-ms 250	one connection is accepted per so many ms; 0: at once; -1: never
 *	proxy 0		1: as behind a proxy, HTTP/1.1 with keep-alive and without accept-ms;
 *			2: chunked, too
 *	strict-query 1	a query with a raw '=' in a value, an item without '=' or an empty item
 *			closes the connection with zero bytes of reply; 0: such items are ignored
 *	bare-404 1	a 404 has no length and no body; 0: it has a JSON body
 *	crypto-delay-ms 0, jwt-delay-ms 0, state-delay-ms 0	wait before the answer
 *	modbus-delay-ms 0	what a device needs for a call (calls to one device take turns)
 *	slow-ms 1000, dead-ms 3200	see device
 *	trace 0		1: prints each request that was read whole as a line on stdout at once, so
 *			that the count outlives this process:
 *			{"call": "modbus", "at_ms": …, "text": "device_id=…"}
 *	crypto MODE, jwt MODE, state MODE, modbus MODE	how /api/crypto, /api/jwt/create,
 *			/api/state, /api/inverter/modbus answer; "MODE:N" holds for N requests
 *	crypto-text TEXT, …, modbus-text TEXT	the text for MODE body and raw
 *
 * MODE	normal
 *	NNN	(200 to 599) this status with {"error": "forced"}; a Modbus call is not executed.
 *		In all other modes the call is executed, and then the reply is spoiled:
 *	body	200 with the family's TEXT as body: null, [], {}, not JSON, …
 *	raw	the family's TEXT as the whole reply, status line and all, then the end
 *	nan	200 with bare NaN, Infinity and -Infinity in the body
 *	notjson	200 with HTML
 *	huge	200 with a JSON object of 70000 bytes
 *	empty	200 with an empty body
 *	hang	never answers; waits until the client closes
 *	zero	closes without a byte
 *	cut	Content-Length is 10 more than what comes before the end
 *	both	Content-Length and Transfer-Encoding: chunked
 *	lengths	two different Content-Length
 *	close	no length: the end of the connection ends the body
 *	continue	HTTP/1.1 100 and 103 first, then the reply with a length, keep-alive
 *	chunked	HTTP/1.1, chunks of 7 bytes, an extension, a trailer, keep-alive
 *	bighead	a header of 10000 bytes in front of a good body
 *	drip	the right reply, one byte per 100 ms
 *
 * Log, every request that was read whole, in the order of arrival:
 *	{"now_ms": …, "connections": accepted, "open": still open,
 *	 "counts": {"crypto": n, "jwt": n, "state": n, "modbus": n, "other": n},
 *	 "calls": [{"family": "modbus", "start_ms": …, "end_ms": …, "status": 200,
 *	            "executed": true, "text": "device_id=…"}, …]}
 * text is the query as it came, for jwt the body; executed: a device was asked (DEAD counts); status:
 * what the answer is without a MODE that spoils it, 0 for none. end_ms, status and executed are null
 * while it runs. Times are CLOCK_MONOTONIC with fractions.
 *
 * GET /api/inverter/modbus: function_code 3, 4 (read) and 16 (write); type U16 S16 U32 S32 F32 U64 S64
 * STR; endianess big or little (the order of the registers); size registers are read, at least what
 * the type needs; value = scale_factor * what they say. A write takes the same types but STR. */
#include <arpa/inet.h>
#include <bearssl.h>
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <modbus/modbus.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>
#include <jsmn.h>

enum {
	LINE = 65536,
	REQUEST = 512 * 1024,
	ITEMS = 64,
	DEVICES = 64,
	TEXT = 64,
	JSON_TOKENS = 256,
	CALLS = 1 << 20
};

/* What can be set, in the words of the comment at the top. */
enum family { CRYPTO, JWT, STATE, MODBUS, OTHER, FAMILIES };
static struct {
	const char *name;
	char mode[TEXT];
	long left;  /* requests for which mode holds; 0: all */
	char *text; /* for body and raw; never freed, a reply may be using it */
	long count;
} family[FAMILIES] = {{"crypto", "normal", 0, "", 0}, {"jwt", "normal", 0, "", 0},
        {"state", "normal", 0, "", 0}, {"modbus", "normal", 0, "", 0}, {"other", "normal", 0, "", 0}};
static const char modes[] =
        " normal body raw nan notjson huge empty hang zero cut both lengths close continue "
        "chunked bighead drip ";

enum number {
	CRYPTO_DELAY_MS, /* the delays in the order of enum family */
	JWT_DELAY_MS,
	STATE_DELAY_MS,
	MODBUS_DELAY_MS,
	ACCEPT_MS,
	BARE_404,
	DEAD_MS,
	KEY_SEED,
	NO_DEVICES,
	PROXY,
	SLOW_MS,
	STRICT_QUERY,
	TRACE,
	NUMBERS
};
static const char *const number_name[NUMBERS] = {"crypto-delay-ms", "jwt-delay-ms", "state-delay-ms",
        "modbus-delay-ms", "accept-ms", "bare-404", "dead-ms", "key-seed", "no-devices", "proxy", "slow-ms",
        "strict-query", "trace"};
static atomic_int number[NUMBERS] = {
        [ACCEPT_MS] = 250, [BARE_404] = 1, [DEAD_MS] = 3200, [SLOW_MS] = 1000, [STRICT_QUERY] = 1};
static char serial[TEXT] = "0123ab5c7f9e4d01ee";

/* The first two are DEAD and SLOW; calls to one device take turns. */
static struct device {
	char id[TEXT];
	modbus_t *bus;
	bool connected;
	pthread_mutex_t turn;
} device[DEVICES] = {
        {"DEAD", NULL, false, PTHREAD_MUTEX_INITIALIZER}, {"SLOW", NULL, false, PTHREAD_MUTEX_INITIALIZER}};
enum { DEAD, SLOW, FIRST };
static int device_count = FIRST;

/* The log. Nothing is ever freed: what runs during a reset may still write to its own entry. */
struct call {
	enum family family;
	double start_ms, end_ms;
	int status;
	bool executed;
	char *text;
};
static struct call *call[CALLS];
static size_t call_count, call_first; /* first: after the last reset */
static long connections, open_connections;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* over all of the above but number[] and turn */

/* ---- small things ---- */

static double now_ms(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

static void sleep_ms(int ms)
{
	struct timespec t = {ms / 1000, ms % 1000 * 1000000L};
	if (ms > 0)
		nanosleep(&t, NULL);
}

/* A whole decimal number from low to high, or fallback. */
static int whole(const char *text, int low, int high, int fallback)
{
	char *end;
	errno = 0;
	long v = strtol(text, &end, 10);
	return end == text || *end != '\0' || errno != 0 || v < low || v > high ? fallback : (int)v;
}

/* Memory, all zero; there is no going on without. */
static void *grab(size_t n)
{
	void *p = calloc(1, n);
	if (p == NULL)
		abort();
	return p;
}

static void put_quoted(FILE *f, const char *s)
{
	fputc('"', f);
	for (; *s; s++)
		if (*s == '"' || *s == '\\')
			fprintf(f, "\\%c", *s);
		else if (*s >= ' ' && *s <= '~')
			fputc(*s, f);
		else
			fprintf(f, "\\u%04x", (unsigned char)*s);
	fputc('"', f);
}

/* A number as Python's json writes it: the shortest digits that give it back, never an integer. */
static void put_float(FILE *f, double v)
{
	char text[64];
	int digits = 0;
	if (isnan(v) || isinf(v)) {
		fputs(isnan(v) ? "NaN" : v > 0 ? "Infinity" : "-Infinity", f);
		return;
	}
	do
		snprintf(text, sizeof text, "%.*e", digits, v);
	while (strtod(text, NULL) != v && digits++ < 17);
	int exponent = atoi(strchr(text, 'e') + 1);
	if (v == 0 || (exponent >= -4 && exponent < 16))
		fprintf(f, "%.*f", digits > exponent ? digits - exponent : 1, v);
	else
		fputs(text, f);
}

static void put_hex(FILE *f, const unsigned char *p, size_t n)
{
	for (size_t i = 0; i < n; i++)
		fprintf(f, "%02x", p[i]);
}

/* Base64url without padding (RFC 7515 §2). */
static void put_base64url(FILE *f, const void *from, size_t n)
{
	static const char digit[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
	const unsigned char *p = from;
	for (size_t bit = 0; bit < 8 * n; bit += 6) {
		unsigned two = p[bit / 8] * 256u + (bit / 8 + 1 < n ? p[bit / 8 + 1] : 0u);
		fputc(digit[two >> (10 - bit % 8) & 63], f);
	}
}

/* ---- the reply that is being made ---- */

struct reply {
	int status; /* 0: the connection closes without a byte */
	char *body;
	size_t n;
	FILE *f; /* writes body until it is closed */
};

static int fail(struct reply *r, int status, const char *format, const char *what)
{
	char text[1024];
	snprintf(text, sizeof text, format, what);
	r->status = status;
	fputs("{\"error\": ", r->f);
	put_quoted(r->f, text);
	fputc('}', r->f);
	return -1;
}

/* ---- a query ---- */

struct item {
	char *name, *value;
};

static void decode(char *s)
{
	char *out = s;
	for (; *s; s++) {
		unsigned byte;
		if (*s == '%' && isxdigit((unsigned char)s[1]) && sscanf(s + 1, "%2x", &byte) == 1 &&
		        isxdigit((unsigned char)s[2])) {
			*out++ = (char)byte;
			s += 2;
		} else {
			*out++ = *s == '+' ? ' ' : *s;
		}
	}
	*out = '\0';
}

/* Splits and decodes a query in place. Returns how many items, -1 for what makes the real server give up. */
static int parse_query(char *query, struct item *list, bool strict)
{
	int n = 0;
	for (char *item; (item = strsep(&query, "&")) != NULL;) {
		char *value = strchr(item, '=');
		if (strict && (value == NULL || strpbrk(value + 1, "=?")))
			return -1;
		if (value == NULL || n == ITEMS)
			continue;
		*value = '\0';
		list[n].name = item;
		list[n].value = value + 1;
		decode(list[n].name);
		decode(list[n++].value);
	}
	return n;
}

static const char *find(const struct item *list, int n, const char *name)
{
	for (int i = 0; i < n; i++)
		if (strcmp(list[i].name, name) == 0)
			return list[i].value;
	return NULL;
}

/* ---- /api/crypto, /api/jwt/create ---- */

/* The key for a seed: SHA-256 of a text is below the order of P-256 but for one chance in 2^32. */
static void make_key(unsigned char secret[32], unsigned char point[65])
{
	char text[64];
	br_sha256_context hash;
	br_ec_private_key key = {BR_EC_secp256r1, secret, 32};
	snprintf(text, sizeof text, "iamcat test gateway key %d", number[KEY_SEED]);
	br_sha256_init(&hash);
	br_sha256_update(&hash, text, strlen(text));
	br_sha256_out(&hash, secret);
	br_ec_compute_pub(br_ec_get_default(), NULL, point, &key);
}

static void answer_crypto(struct reply *r)
{
	unsigned char secret[32], point[65];
	make_key(secret, point);
	pthread_mutex_lock(&lock);
	fprintf(r->f, "{\"deviceName\": \"Test gateway\", \"serialNumber\": ");
	put_quoted(r->f, serial);
	pthread_mutex_unlock(&lock);
	fputs(", \"publicKey\": \"", r->f);
	put_hex(r->f, point + 1, 64);
	fprintf(r->f, "\", \"compactKey\": \"%02x", 2 + point[64] % 2);
	put_hex(r->f, point + 1, 32);
	fputs("\", \"chipDeathCount\": \"0\"}", r->f);
}

/* The text of a top-level member of a JSON object; *n is 0 when there is none. */
static const char *member(const char *json, const jsmntok_t *tok, int count, const char *name, int *n)
{
	*n = 0;
	for (int i = 1, next; i + 1 < count; i = next) {
		const jsmntok_t *key = &tok[i], *value = &tok[i + 1];
		for (next = i + 1; next < count && tok[next].start < value->end; next++)
			;
		if ((size_t)(key->end - key->start) == strlen(name) &&
		        memcmp(json + key->start, name, strlen(name)) == 0) {
			*n = value->end - value->start;
			return json + value->start;
		}
	}
	return NULL;
}

static void answer_jwt(const char *body, struct reply *r)
{
	jsmntok_t tok[JSON_TOKENS];
	jsmn_parser parser;
	unsigned char secret[32], point[65], digest[32], raw[64];
	char *token;
	size_t size;
	int claims_n, headers_n, retries_n;
	jsmn_init(&parser);
	int count = jsmn_parse(&parser, body, strlen(body), tok, JSON_TOKENS);
	if (count < 1 || tok[0].type != JSMN_OBJECT) {
		fail(r, 400, "%s", "invalid JSON");
		return;
	}
	const char *claims = member(body, tok, count, "barn", &claims_n);
	const char *headers = member(body, tok, count, "headers", &headers_n);
	const char *retries = member(body, tok, count, "expires_in", &retries_n);
	if (claims_n == 0 || *claims != '{' || headers_n == 0 || *headers != '{' || retries_n == 0) {
		fail(r, 400, "%s", "barn, headers or expires_in missing");
		return;
	}
	FILE *f = open_memstream(&token, &size);
	put_base64url(f, headers, (size_t)headers_n);
	fputc('.', f);
	put_base64url(f, claims, (size_t)claims_n);
	fflush(f);
	make_key(secret, point);
	br_ec_private_key key = {BR_EC_secp256r1, secret, 32};
	br_sha256_context hash;
	br_sha256_init(&hash);
	br_sha256_update(&hash, token, size);
	br_sha256_out(&hash, digest);
	br_ecdsa_sign_raw_get_default()(br_ec_get_default(), &br_sha256_vtable, digest, &key, raw);
	fputc('.', f);
	put_base64url(f, raw, sizeof raw);
	fclose(f);
	fprintf(r->f, "{\"jwt\": \"%s\", \"headers\": %.*s, \"data\": %.*s, \"expires_in\": %.*s}", token,
	        headers_n, headers, claims_n, claims, retries_n, retries);
	free(token);
}

/* ---- /api/state ---- */

static void put_networks(FILE *f)
{
	fputs("\"wifi\": {\"connected\": \"House & Barn\", \"ip\": \"192.0.2.23\", \"networks\": [", f);
	for (int i = 0; i < 18; i++)
		fprintf(f,
		        "%s{\"ssid\": \"net-%02d \\u00e5\", \"bssid\": \"02:00:5e:00:53:%02x\", "
		        "\"rssi\": %d, \"channel\": %d, \"security\": {\"type\": \"wpa2\", \"pmf\": %s}}",
		        i ? ", " : "", i, i, -40 - 3 * i, 1 + i % 13, i % 2 ? "true" : "false");
	fputs("]}", f);
}

static void answer_state(struct reply *r)
{
	struct timespec wall;
	clock_gettime(CLOCK_REALTIME, &wall);
	fprintf(r->f, "{\"status\": {\"uptime\": %.0f, \"version\": \"0.21.3\"}, \"timestamp\": %lld, ",
	        now_ms(), (long long)wall.tv_sec * 1000 + wall.tv_nsec / 1000000);
	put_networks(r->f);
	fputs(", \"memory\": {\"total\": 268435456, \"free\": 83886080, \"fragments\": "
	      "[{\"size\": 4096, \"count\": 12}, {\"size\": 65536, \"count\": 3}]}, "
	      "\"processes\": [{\"pid\": 1, \"name\": \"web\", \"cpu\": 1.5, \"rss\": 23068672}, "
	      "{\"pid\": 7, \"name\": \"harvest\", \"cpu\": 0.25, \"rss\": 9437184}], "
	      "\"network\": {\"address\": \"192.0.2.23\", \"interfaces\": [{\"name\": \"eth0\", "
	      "\"addresses\": [\"192.0.2.23\", \"2001:db8::23\"]}]}, "
	      "\"crypto\": {\"serialNumber\": ",
	        r->f);
	pthread_mutex_lock(&lock);
	put_quoted(r->f, serial);
	fputs("}, \"devices\": {\"configured\": [], \"inverters\": [", r->f);
	for (int i = FIRST; i < device_count; i++) {
		fputs(i > FIRST ? ", {\"sn\": " : "{\"sn\": ", r->f);
		put_quoted(r->f, device[i].id);
		fputs(", \"connection\": {\"type\": \"TCP\", \"open\": true}, \"last_harvest\": null}", r->f);
	}
	pthread_mutex_unlock(&lock);
	fputs("]}}", r->f);
}

/* ---- /api/inverter/modbus ---- */

struct order {
	int address, function, size, words; /* words: registers that a value of the type takes */
	const char *type;
	bool little;
	double scale;
};

/* Connects when needed; a connection that the device has ended in the meantime is made anew. Has the turn. */
static bool reach(struct device *d)
{
	struct pollfd p = {d->connected ? modbus_get_socket(d->bus) : -1, POLLIN, 0};
	if (d->connected && poll(&p, 1, 0) > 0) {
		modbus_close(d->bus);
		d->connected = false;
	}
	if (!d->connected)
		d->connected = modbus_connect(d->bus) == 0;
	return d->connected;
}

/* One call on the bus: reads into or writes from reg. Returns NULL or what went wrong. */
static const char *transact(struct device *d, const struct order *o, int n, uint16_t *reg)
{
	pthread_mutex_lock(&d->turn);
	sleep_ms(number[MODBUS_DELAY_MS]);
	int done = -1;
	if (reach(d))
		done = o->function == 16  ? modbus_write_registers(d->bus, o->address, n, reg)
		       : o->function == 4 ? modbus_read_input_registers(d->bus, o->address, n, reg)
		                          : modbus_read_registers(d->bus, o->address, n, reg);
	const char *why = done == n ? NULL : modbus_strerror(errno);
	if (why && d->connected && errno < MODBUS_ENOBASE) {
		modbus_close(d->bus);
		d->connected = false;
	}
	pthread_mutex_unlock(&d->turn);
	return why;
}

static void put_registers(FILE *f, const char *name, const uint16_t *reg, int n)
{
	fprintf(f, ", \"%s\": \"", name);
	for (int i = 0; i < n; i++)
		fprintf(f, "%04x", reg[i]);
	fputc('"', f);
}

static void put_value(FILE *f, const struct order *o, const uint16_t *reg)
{
	char text[2 * 125 + 1] = {0};
	uint64_t bits = 0;
	uint32_t low;
	float single;
	for (int i = 0; i < o->words; i++)
		bits = bits << 16 | reg[i];
	low = (uint32_t)bits;
	memcpy(&single, &low, sizeof single);
	for (int i = 0; i < o->size; i++) {
		text[2 * i] = (char)(reg[i] >> 8);
		text[2 * i + 1] = (char)(reg[i] & 255);
	}
	if (strcmp(o->type, "STR") == 0)
		put_quoted(f, text);
	else if (o->type[0] == 'F')
		put_float(f, single * o->scale);
	else if (o->type[0] == 'U')
		put_float(f, (double)bits * o->scale);
	else /* the sign is the highest bit of the type */
		put_float(f,
		        (double)((int64_t)(bits << (64 - 16 * o->words)) >> (64 - 16 * o->words)) * o->scale);
}

static void read_registers(struct device *d, const struct order *o, struct reply *r)
{
	uint16_t reg[125] = {0}, swapped[125] = {0};
	const char *why = transact(d, o, o->size, reg);
	if (why) {
		fail(r, 500, "Modbus error: %s", why);
		return;
	}
	for (int i = 0; i < o->size; i++)
		swapped[i] = reg[o->little ? o->size - 1 - i : i];
	fprintf(r->f, "{\"register\": %d, \"size\": %d", o->address, o->size);
	put_registers(r->f, "raw_value", reg, o->size);
	put_registers(r->f, "swapped_value", swapped, o->size);
	fputs(", \"value\": ", r->f);
	put_value(r->f, o, swapped);
	fputc('}', r->f);
}

/* One number to the registers of its type; false when it does not fit. */
static bool encode(const struct order *o, const char *text, uint16_t *reg)
{
	char *end;
	uint64_t bits;
	int width = 16 * o->words;
	errno = 0;
	if (o->type[0] == 'F') {
		float single = strtof(text, &end);
		uint32_t low;
		memcpy(&low, &single, sizeof low);
		bits = low;
	} else if (o->type[0] == 'U') {
		bits = strtoull(text, &end, 10);
		if (strchr(text, '-') || (width < 64 && bits >> width != 0))
			return false;
	} else {
		long long v = strtoll(text, &end, 10);
		if (v < -1 - (INT64_MAX >> (64 - width)) || v > INT64_MAX >> (64 - width))
			return false;
		bits = (uint64_t)v;
	}
	for (int i = 0; i < o->words; i++)
		reg[o->little ? i : o->words - 1 - i] = (uint16_t)(bits >> (16 * i));
	return end != text && end[strspn(end, " ")] == '\0' && errno == 0;
}

/* Returns -1 after failing before the bus was touched, 0 otherwise. */
static int write_registers(struct device *d, const struct order *o, const char *values, struct reply *r)
{
	uint16_t reg[128];
	int n = 0;
	const char *why;
	char *list = strdup(values), *rest = list;
	for (char *one; (one = strsep(&rest, ",")) != NULL; n += o->words)
		if (n + o->words > 123 || o->words == 0 || !encode(o, one, reg + n)) {
			fail(r, 400, "bad value %s", one);
			free(list);
			return -1;
		}
	free(list);
	if ((why = transact(d, o, n, reg)) != NULL)
		fail(r, 500, "Modbus error: %s", why);
	else
		fprintf(r->f, "{\"address\": %d, \"success\": true, \"values\": [%s]}", o->address, values);
	return 0;
}

/* Reads the query into an order; returns -1 after failing. */
static int take_order(const struct item *list, int n, struct order *o, struct reply *r)
{
	static const struct {
		const char *name;
		int words;
	} types[] = {{"U16", 1}, {"S16", 1}, {"U32", 2}, {"S32", 2}, {"F32", 2}, {"U64", 4}, {"S64", 4},
	        {"STR", 0}};
	const char *text = find(list, n, "address");
	size_t i = 0;
	if (text == NULL)
		return fail(r, 400, "%s", "missing address");
	if ((o->address = whole(text, 0, 65535, -1)) < 0)
		return fail(r, 400, "bad address %s", text);
	text = (text = find(list, n, "function_code")) ? text : "3";
	o->function = whole(text, 3, 16, 0);
	if (o->function != 3 && o->function != 4 && o->function != 16)
		return fail(r, 400, "unknown function code %s", text);
	text = (text = find(list, n, "size")) ? text : "1";
	if ((o->size = whole(text, 1, 125, -1)) < 0)
		return fail(r, 400, "bad size %s", text);
	text = (text = find(list, n, "scale_factor")) ? text : "1";
	o->scale = strtod(text, NULL);
	text = (text = find(list, n, "endianess")) ? text : "big";
	o->little = strcmp(text, "little") == 0;
	if (!o->little && strcmp(text, "big") != 0)
		return fail(r, 400, "unknown endianess %s", text);
	o->type = (text = find(list, n, "type")) ? text : "U16";
	while (i < sizeof types / sizeof *types && strcmp(types[i].name, o->type) != 0)
		i++;
	if (i == sizeof types / sizeof *types)
		return fail(r, 400, "unknown type %s", o->type);
	o->words = types[i].words;
	if (o->function != 16 && o->size < o->words)
		return fail(r, 500, "size too small for type %s", o->type);
	return 0;
}

/* Returns whether a device was asked. */
static bool answer_modbus(const struct item *list, int n, struct reply *r)
{
	struct order o;
	const char *id = find(list, n, "device_id"), *values = find(list, n, "values");
	pthread_mutex_lock(&lock);
	int count = device_count, i = 0;
	pthread_mutex_unlock(&lock);
	if (find(list, n, "address") == NULL)
		return fail(r, 400, "%s", "missing address") == 0;
	if (count == FIRST || number[NO_DEVICES])
		return fail(r, 400, "%s", "No devices open") == 0;
	while (id && i < count && strcmp(device[i].id, id) != 0)
		i++;
	if (id == NULL || i == count)
		return fail(r, 400, "device %s not found", id ? id : "None") == 0;
	if (take_order(list, n, &o, r) < 0)
		return false;
	if (o.function == 16 && values == NULL)
		return fail(r, 400, "%s", "missing values") == 0;
	if (i > SLOW)
		return o.function == 16 ? write_registers(&device[i], &o, values, r) == 0
		                        : (read_registers(&device[i], &o, r), true);
	pthread_mutex_lock(&device[i].turn);
	bool asked = true;
	sleep_ms(number[i == DEAD ? DEAD_MS : SLOW_MS]);
	if (i == DEAD)
		fprintf(r->f, "{\"register\": %d, \"size\": %d, \"raw_value\": null, \"value\": null}",
		        o.address, o.size);
	else if (o.function == 16)
		asked = write_registers(&device[FIRST], &o, values, r) == 0;
	else
		read_registers(&device[FIRST], &o, r);
	pthread_mutex_unlock(&device[i].turn);
	return asked;
}

/* ---- settings and the log ---- */

/* ID=HOST:PORT; has the lock. */
static const char *add_device(const char *text)
{
	struct device *d = &device[device_count];
	char host[TEXT];
	int port;
	if (device_count == DEVICES || sscanf(text, "%63[^=]=%63[^:]:%d", d->id, host, &port) != 3 ||
	        (d->bus = modbus_new_tcp(host, port)) == NULL)
		return "a device is ID=HOST:PORT, and there can be 62";
	modbus_set_response_timeout(d->bus, 3, 0);
	pthread_mutex_init(&d->turn, NULL);
	device_count++;
	return NULL;
}

/* NNN or a word, perhaps with :N; has the lock. */
static const char *set_mode(enum family which, const char *value)
{
	char word[TEXT], padded[TEXT + 2];
	long left = 0;
	if (sscanf(value, "%31[a-z0-9]:%ld", word, &left) < 1)
		return "a mode is a word or a status, perhaps with :N";
	snprintf(padded, sizeof padded, " %s ", word);
	if (strstr(modes, padded) == NULL && whole(word, 200, 599, 0) == 0)
		return "unknown mode";
	snprintf(family[which].mode, sizeof family[which].mode, "%s", word);
	family[which].left = left;
	return NULL;
}

static const char *set_locked(const char *name, const char *value)
{
	for (int i = 0; i < NUMBERS; i++)
		if (strcmp(name, number_name[i]) == 0) {
			int v = whole(value, -1, 1000000000, -2);
			if (v == -2)
				return "not a number";
			number[i] = v;
			return NULL;
		}
	for (enum family i = 0; i < OTHER; i++) {
		size_t n = strlen(family[i].name);
		if (strncmp(name, family[i].name, n) != 0)
			continue;
		if (name[n] == '\0')
			return set_mode(i, value);
		if (strcmp(name + n, "-text") == 0) {
			family[i].text = strdup(value);
			return NULL;
		}
	}
	if (strcmp(name, "device") == 0)
		return add_device(value);
	if (strcmp(name, "serial") == 0 && strlen(value) < sizeof serial) {
		strcpy(serial, value);
		return NULL;
	}
	return "unknown name";
}

static const char *set(const char *name, const char *value)
{
	pthread_mutex_lock(&lock);
	const char *why = set_locked(name, value);
	pthread_mutex_unlock(&lock);
	return why;
}

/* Has the lock. */
static void print_call(const struct call *c)
{
	printf("{\"call\": \"%s\", \"at_ms\": %.3f, \"text\": ", family[c->family].name, c->start_ms);
	put_quoted(stdout, c->text);
	puts("}");
	fflush(stdout);
}

static struct call *log_start(enum family which, const char *text)
{
	struct call *c = grab(sizeof *c);
	c->family = which;
	c->text = strdup(text);
	c->start_ms = now_ms();
	pthread_mutex_lock(&lock);
	family[which].count++;
	if (call_count == CALLS)
		abort();
	call[call_count++] = c;
	if (number[TRACE])
		print_call(c);
	pthread_mutex_unlock(&lock);
	return c;
}

static void log_end(struct call *c, int status, bool executed)
{
	pthread_mutex_lock(&lock);
	c->end_ms = now_ms();
	c->status = status;
	c->executed = executed;
	pthread_mutex_unlock(&lock);
}

static void put_log(FILE *f)
{
	pthread_mutex_lock(&lock);
	fprintf(f, "{\"now_ms\": %.3f, \"connections\": %ld, \"open\": %ld, \"counts\": {", now_ms(),
	        connections, open_connections);
	for (int i = 0; i < FAMILIES; i++)
		fprintf(f, "%s\"%s\": %ld", i ? ", " : "", family[i].name, family[i].count);
	fputs("}, \"calls\": [", f);
	for (size_t i = call_first; i < call_count; i++) {
		const struct call *c = call[i];
		fprintf(f, "%s\n{\"family\": \"%s\", \"start_ms\": %.3f, ", i > call_first ? "," : "",
		        family[c->family].name, c->start_ms);
		if (c->end_ms > 0)
			fprintf(f, "\"end_ms\": %.3f, \"status\": %d, \"executed\": %s, ", c->end_ms,
			        c->status, c->executed ? "true" : "false");
		else
			fputs("\"end_ms\": null, \"status\": null, \"executed\": null, ", f);
		fputs("\"text\": ", f);
		put_quoted(f, c->text);
		fputc('}', f);
	}
	fputs("]}", f);
	pthread_mutex_unlock(&lock);
}

static void answer_control(const char *path, char *query, struct reply *r)
{
	struct item list[ITEMS];
	int n = query ? parse_query(query, list, false) : 0;
	if (strcmp(path, "/test/log") == 0) {
		put_log(r->f);
		return;
	}
	if (strcmp(path, "/test/reset") == 0) {
		pthread_mutex_lock(&lock);
		call_first = call_count;
		connections = 0;
		for (int i = 0; i < FAMILIES; i++)
			family[i].count = 0;
		pthread_mutex_unlock(&lock);
	} else if (strcmp(path, "/test/set") != 0) {
		fail(r, 404, "%s", "no such path");
		return;
	}
	for (int i = 0; i < n; i++) {
		const char *why = set(list[i].name, list[i].value);
		if (why) {
			fail(r, 400, "%s", why);
			return;
		}
	}
	fputs("{\"ok\": true}", r->f);
}

/* ---- HTTP ---- */

struct request {
	int fd;
	bool control;
	char *mem;          /* REQUEST bytes and a NUL */
	size_t have, taken; /* taken: the size of the request that is being answered */
	char *method, *target, *head, *body;
	bool http11, close;
};

/* Waits for a request, without a time limit. Returns 1, 0 when the connection ended, or a status. */
static int receive(struct request *q)
{
	char *end = NULL, *line_end;
	size_t length = 0;
	memmove(q->mem, q->mem + q->taken, q->have - q->taken);
	q->have -= q->taken;
	q->taken = 0;
	while (end == NULL || q->have < q->taken) {
		q->mem[q->have] = '\0';
		line_end = memchr(q->mem, '\n', q->have);
		if (line_end ? line_end - q->mem >= LINE : q->have > LINE)
			return 414;
		if (end == NULL && (end = memmem(q->mem, q->have, "\r\n\r\n", 4)) != NULL) {
			*end = '\0';
			const char *field = strcasestr(q->mem, "\ncontent-length:");
			length = field ? strtoul(field + 16, NULL, 10) : 0;
			q->taken = (size_t)(end + 4 - q->mem) + length;
			if (length > REQUEST || q->taken > REQUEST)
				return 413;
			continue;
		}
		ssize_t n = q->have < REQUEST ? recv(q->fd, q->mem + q->have, REQUEST - q->have, 0) : 0;
		if (n <= 0)
			return 0;
		q->have += (size_t)n;
	}
	q->head = q->mem;
	q->body = strndup(end + 4, length);
	char *line = strsep(&q->head, "\n");
	q->method = strsep(&line, " ");
	q->target = strsep(&line, " ");
	q->head = q->head ? q->head : "";
	q->http11 = line && strncmp(line, "HTTP/1.1", 8) == 0;
	q->close = !q->http11 || strcasestr(q->head, "connection: close") != NULL;
	return q->target && line ? 1 : 400;
}

static void send_all(int fd, const char *p, size_t n, bool drip)
{
	while (n > 0) {
		ssize_t sent = send(fd, p, drip ? 1 : n, MSG_NOSIGNAL);
		if (sent <= 0)
			return;
		p += sent;
		n -= (size_t)sent;
		sleep_ms(drip ? 100 : 0);
	}
}

static const char *reason(int status)
{
	return status == 200   ? "OK"
	       : status == 400 ? "Bad Request"
	       : status == 404 ? "Not Found"
	       : status == 414 ? "Request-URI Too Long"
	       : status == 500 ? "Internal Server Error"
	                       : "Other";
}

static void put_chunks(FILE *f, const char *p, size_t n)
{
	for (size_t at = 0; at < n; at += 7) {
		size_t size = n - at < 7 ? n - at : 7;
		fprintf(f, "%zX;part=\"%zu\"\r\n", size, at);
		fwrite(p + at, 1, size, f);
		fputs("\r\n", f);
	}
	fputs("0\r\nX-Trailer: the end\r\n\r\n", f);
}

/* Writes a whole reply, spoiled as the mode says. */
static void put_reply(FILE *f, const struct reply *r, const char *mode, bool http11, bool keep, bool chunked)
{
	char date[64];
	time_t now = time(NULL);
	struct tm tm;
	strftime(date, sizeof date, "%a, %d %b %Y %H:%M:%S GMT", gmtime_r(&now, &tm));
	if (strcmp(mode, "continue") == 0)
		fputs("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n", f);
	fprintf(f, "HTTP/1.%d %d %s\r\nServer: BaseHTTP/0.6 Python/3.11.2\r\nDate: %s\r\n", http11, r->status,
	        reason(r->status), date);
	if (strcmp(mode, "bighead") == 0)
		fprintf(f, "X-Big: %010000d\r\n", 0);
	if (r->status == 404 && number[BARE_404]) {
		fputs("\r\n", f); /* no length, no body: the end of the connection ends it */
		return;
	}
	fprintf(f, "Content-type: application/json\r\nConnection: %s\r\n", keep ? "keep-alive" : "close");
	if (chunked || strcmp(mode, "both") == 0)
		fputs("Transfer-Encoding: chunked\r\n", f);
	if (!chunked && strcmp(mode, "close") != 0)
		fprintf(f, "Content-Length: %zu\r\n", r->n + (strcmp(mode, "cut") == 0 ? 10 : 0));
	if (strcmp(mode, "lengths") == 0)
		fprintf(f, "Content-Length: %zu\r\n", r->n + 1);
	fputs("\r\n", f);
	if (chunked || strcmp(mode, "both") == 0)
		put_chunks(f, r->body, r->n);
	else
		fwrite(r->body, 1, r->n, f);
}

/* Sends a reply. Returns whether the connection stays. */
static bool send_reply(struct request *q, const struct reply *r, const char *mode, const char *text)
{
	char *bytes, ignored[512];
	size_t n;
	bool chunked = strcmp(mode, "chunked") == 0 || (!q->control && number[PROXY] == 2);
	bool http11 = chunked || strcmp(mode, "continue") == 0 || (!q->control && number[PROXY]);
	bool keep = http11 && !q->close && r->status != 404 && r->status != 414 &&
	            strstr(" raw cut both lengths close bighead ", mode) == NULL;
	chunked = chunked && strstr(" cut both lengths close ", mode) == NULL;
	if (strcmp(mode, "hang") == 0)
		while (recv(q->fd, ignored, sizeof ignored, 0) > 0)
			;
	if (r->status == 0 || strcmp(mode, "hang") == 0 || strcmp(mode, "zero") == 0)
		return false;
	FILE *f = open_memstream(&bytes, &n);
	if (strcmp(mode, "raw") == 0)
		fputs(text, f);
	else
		put_reply(f, r, mode, http11, keep, chunked);
	fclose(f);
	send_all(q->fd, bytes, n, strcmp(mode, "drip") == 0);
	free(bytes);
	return keep;
}

/* Puts another body in the place of the right one, where the mode asks for it. */
static void spoil(struct reply *r, const char *mode, const char *text)
{
	const char *body = strcmp(mode, "body") == 0      ? text
	                   : strcmp(mode, "empty") == 0   ? ""
	                   : strcmp(mode, "notjson") == 0 ? "<html><body>It works!</body></html>"
	                   : strcmp(mode, "nan") == 0
	                           ? "{\"status\": \"online\", \"value\": NaN, \"limits\": "
	                             "[-Infinity, Infinity], \"text\": \"NaN\"}"
	                           : NULL;
	if (body == NULL && strcmp(mode, "huge") != 0)
		return;
	free(r->body);
	r->f = open_memstream(&r->body, &r->n);
	if (body)
		fputs(body, r->f);
	else
		fprintf(r->f, "{\"huge\": \"%069988d\"}", 0);
	fclose(r->f);
	r->status = 200;
}

static enum family family_of(const char *method, const char *path)
{
	if (strcmp(method, "POST") == 0)
		return strcmp(path, "/api/jwt/create") == 0 ? JWT : OTHER;
	if (strcmp(method, "GET") != 0)
		return OTHER;
	return strcmp(path, "/api/crypto") == 0            ? CRYPTO
	       : strcmp(path, "/api/state") == 0           ? STATE
	       : strcmp(path, "/api/inverter/modbus") == 0 ? MODBUS
	                                                   : OTHER;
}

/* The mode for one request of a family, counted down. */
static const char *take_mode(enum family which, char mode[TEXT])
{
	pthread_mutex_lock(&lock);
	strcpy(mode, family[which].mode);
	const char *text = family[which].text;
	if (family[which].left > 0 && --family[which].left == 0)
		strcpy(family[which].mode, "normal");
	pthread_mutex_unlock(&lock);
	return text;
}

/* Does what is asked for. Returns whether a device was asked. */
static bool execute(struct request *q, enum family which, char *query, struct reply *r)
{
	struct item list[ITEMS];
	int n = query ? parse_query(query, list, number[STRICT_QUERY]) : 0;
	if (n < 0) {
		r->status = 0;
		return false;
	}
	if (which == MODBUS)
		return answer_modbus(list, n, r);
	if (which != OTHER)
		sleep_ms(number[which]);
	if (which == CRYPTO)
		answer_crypto(r);
	if (which == JWT)
		answer_jwt(q->body, r);
	if (which == STATE)
		answer_state(r);
	if (which == OTHER)
		fail(r, 404, "%s", "not found");
	return false;
}

/* Answers one request. Returns whether the connection stays. */
static bool answer(struct request *q, int status)
{
	struct reply r = {200, NULL, 0, NULL};
	char mode[TEXT] = "normal";
	const char *text = "";
	char *query = q->target;
	r.f = open_memstream(&r.body, &r.n);
	if (status != 1) {
		fail(&r, status, "%s", reason(status));
		fclose(r.f);
	} else if (q->control) {
		char *path = strsep(&query, "?");
		answer_control(path, query, &r);
		fclose(r.f);
	} else {
		char *path = strsep(&query, "?");
		enum family which = family_of(q->method, path);
		struct call *c = log_start(which, which == JWT ? q->body : query ? query : "");
		bool executed = false;
		text = take_mode(which, mode);
		if (isdigit((unsigned char)mode[0]))
			fail(&r, atoi(mode), "%s", "forced");
		else
			executed = execute(q, which, query, &r);
		fclose(r.f);
		log_end(c, r.status, executed);
		spoil(&r, mode, text);
	}
	bool keep = send_reply(q, &r, mode, text);
	free(r.body);
	return keep;
}

static void *serve(void *arg)
{
	struct request *q = arg;
	bool keep = true;
	q->mem = grab(REQUEST + 1);
	for (int status; keep && (status = receive(q)) != 0;) {
		keep = answer(q, status) && status == 1;
		free(q->body);
		q->body = NULL;
	}
	shutdown(q->fd, SHUT_WR);
	close(q->fd);
	pthread_mutex_lock(&lock);
	open_connections -= !q->control;
	pthread_mutex_unlock(&lock);
	free(q->mem);
	free(q);
	return NULL;
}

static void take_connection(int listener, bool control)
{
	pthread_attr_t small;
	pthread_t thread;
	int fd = accept(listener, NULL, NULL), on = 1;
	if (fd < 0)
		return;
	struct request *q = grab(sizeof *q);
	q->fd = fd;
	q->control = control;
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
	pthread_mutex_lock(&lock);
	connections += !control;
	open_connections += !control;
	pthread_mutex_unlock(&lock);
	pthread_attr_init(&small);
	pthread_attr_setdetachstate(&small, PTHREAD_CREATE_DETACHED);
	pthread_attr_setstacksize(&small, 256 * 1024);
	if (pthread_create(&thread, &small, serve, q) != 0) {
		close(fd);
		free(q);
	}
	pthread_attr_destroy(&small);
}

static void *serve_control(void *arg)
{
	for (;;)
		take_connection(*(const int *)arg, true);
	return NULL;
}

/* Listens; sets the port that was given. Returns -1 on failure. */
static int listen_on(const char *host, int *port, int backlog)
{
	struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((uint16_t)*port)};
	socklen_t size = sizeof at;
	int fd = socket(AF_INET, SOCK_STREAM, 0), on = 1;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
	if (inet_pton(AF_INET, host, &at.sin_addr) != 1 || bind(fd, (struct sockaddr *)&at, sizeof at) < 0 ||
	        listen(fd, backlog) < 0 || getsockname(fd, (struct sockaddr *)&at, &size) < 0)
		return -1;
	*port = ntohs(at.sin_port);
	return fd;
}

/* The main loop of the real server: a poll that accepts one connection each time. */
static void serve_all(int listener)
{
	struct pollfd p = {listener, POLLIN, 0};
	fcntl(listener, F_SETFL, O_NONBLOCK);
	for (;;) {
		int ms = number[PROXY] ? 0 : number[ACCEPT_MS];
		if (ms > 0)
			sleep_ms(ms);
		else if (ms < 0)
			sleep_ms(20);
		if (ms >= 0 && poll(&p, 1, ms > 0 ? 0 : 20) > 0)
			take_connection(listener, false);
	}
}

/* Returns 0, or 2 after saying what is wrong. */
static int take_options(int argc, char **argv, const char **host, int *port, int *control_port)
{
	const char *why = argc % 2 == 0 ? "an option has no value" : NULL;
	for (int i = 1; i + 1 < argc && why == NULL; i += 2) {
		const char *name = argv[i], *value = argv[i + 1];
		if (strcmp(name, "--port") == 0)
			*port = whole(value, 0, 65535, 0);
		else if (strcmp(name, "--control-port") == 0)
			*control_port = whole(value, 0, 65535, 0);
		else if (strcmp(name, "--bind") == 0)
			*host = value;
		else
			why = strncmp(name, "--", 2) == 0 ? set(name + 2, value) : "not an option";
		if (why)
			fprintf(stderr, "gateway: %s %s\n", name, value);
	}
	if (why)
		fprintf(stderr, "gateway: %s; see the top of gateway.c\n", why);
	return why ? 2 : 0;
}

int main(int argc, char **argv)
{
	static int control_fd;
	const char *host = "127.0.0.1";
	int port = 0, control_port = 0;
	unsigned char secret[32], point[65];
	pthread_t control;
	prctl(PR_SET_PDEATHSIG, SIGTERM);
	signal(SIGINT, SIG_DFL); /* a shell starts background jobs with it ignored */
	signal(SIGPIPE, SIG_IGN);
	if (take_options(argc, argv, &host, &port, &control_port) != 0)
		return 2;
	int fd = listen_on(host, &port, 5);
	control_fd = listen_on("127.0.0.1", &control_port, 64);
	if (fd < 0 || control_fd < 0) {
		fprintf(stderr, "gateway: cannot listen on %s: %s\n", host, strerror(errno));
		return 1;
	}
	make_key(secret, point);
	printf("{\"port\": %d, \"control_port\": %d, \"public_key\": \"", port, control_port);
	put_hex(stdout, point + 1, 64);
	puts("\"}");
	fflush(stdout);
	pthread_create(&control, NULL, serve_control, &control_fd);
	serve_all(fd);
}
