#include "config.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "dns.h"
#include "fd.h"
#include "net.h"

enum kind { NUMBER, NUMBER16, ENUM, TEXT, SECRET, PEM, HOST, PREFIX, RANGES, USER, LISTEN };

/* One row for each variable: reading, mistakes and --help all come from here. Behind the NUL of its name
 * stands its help, which a number's limits and the fallback follow, all in 54 columns; and behind that the
 * fallback: the value when it is not set, or "". */
struct variable {
	const char *name;
	uint16_t offset; /* of its field in struct config */
	uint8_t kind, min;
	uint32_t max; /* of the number, or of the bytes of a text */
};

/* The places of those rows that the code names. */
enum { BROKER_HOST, BROKER_PORT, ROOT_CA = 4, ROOT_CA_FILE, TLS_NAME, USERNAME, PASSWORD, PASSWORD_FILE };
enum { VARIABLES = 28 };

#define ROW(name, help, fallback, field, ...)                                                                \
	{                                                                                                    \
		name "\0" help "\0" fallback, offsetof(struct config, field), __VA_ARGS__                    \
	}

/* Behind a host stands its port where it has one, see take_host. */
static const struct variable variables[VARIABLES] = {
        [BROKER_HOST] = ROW("MQTT_BROKER_HOST", "the broker's name or IP address (required)", "",
                bridge.broker_host, HOST, 1, 253),
        ROW("MQTT_BROKER_PORT", "its port for TLS", "8883", bridge.broker_port, NUMBER16, 1, 65535),
        ROW("WEB_CONTAINER_HOST", "the gateway's API: name or address", "localhost", bridge.api_host, HOST, 1,
                253),
        ROW("WEB_CONTAINER_PORT", "its port", "5000", bridge.api_port, NUMBER16, 1, 65535),
        [ROOT_CA] = ROW("MQTT_ROOT_CA", "trusted roots as PEM (default: embedded DigiCert ones)", "", bridge,
                PEM, 0, 0),
        [ROOT_CA_FILE] = ROW("MQTT_ROOT_CA_FILE", "the same from a file", "", root_ca_file, TEXT, 1,
                CONFIG_PATH_BYTES - 1),
        [TLS_NAME] = ROW("MQTT_TLS_SERVER_NAME", "name in the certificate (default: MQTT_BROKER_HOST)", "",
                bridge.tls_server_name, HOST, 1, 253),
        [USERNAME] = ROW("MQTT_USERNAME", "for the broker, instead of serial number and JWT", "",
                bridge.user_name, TEXT, 1, BRIDGE_TEXT_BYTES - 1),
        [PASSWORD] =
                ROW("MQTT_PASSWORD", "its password", "", bridge.password, SECRET, 1, BRIDGE_SECRET_BYTES - 1),
        [PASSWORD_FILE] = ROW("MQTT_PASSWORD_FILE", "the same from a file", "", password_file, TEXT, 1,
                CONFIG_PATH_BYTES - 1),
        ROW("MQTT_CLIENT_ID", "MQTT client id (default: the serial number)", "", bridge.client_id, TEXT, 1,
                CONFIG_PREFIX_BYTES),
        ROW("MQTT_TOPIC_PREFIX", "of all topics; {serial} is replaced", "iamcat", bridge.topic_prefix, PREFIX,
                1, CONFIG_PREFIX_BYTES),
        ROW("MQTT_KEEPALIVE", "MQTT keep-alive in seconds", "60", bridge.keep_alive_s, NUMBER16, 5, 65535),
        ROW("MQTT_SESSION_WINDOW", "seconds requests are kept", "60", bridge.session_window_s, NUMBER, 0,
                86400),
        ROW("MQTT_WILL", "publish an offline state: off or on", "on", bridge.will, ENUM, 0, 0),
        ROW("MQTT_JWT_LIFETIME", "seconds a JWT is valid", "300", bridge.token_lifetime_s, NUMBER, 20, 86400),
        ROW("MQTT_JWT_DATES", "JWT dates: auto, numeric or iso8601", "auto", bridge.dates, ENUM, 0, 0),
        ROW("STATE_INTERVAL", "seconds between states", "5", bridge.state_interval_s, NUMBER, 1, 3600),
        ROW("WEB_CONTAINER_TIMEOUT", "seconds for one API call", "10", bridge.api_timeout_s, NUMBER, 1, 300),
        ROW("WEB_CONTAINER_SPARES", "API connections opened ahead", "2", bridge.api_spares, NUMBER, 0,
                BRIDGE_API_LINKS),
        ROW("MODBUS_WRITE_ALLOW", "all, none, or registers: 100,200-299", "all", bridge, RANGES, 0, 0),
        ROW("LOG_LEVEL", "what to log: error, warn, info or debug", "info", log_level, ENUM, 0, 0),
        ROW("LOG_FORMAT", "log lines: auto, text, json or journal", "auto", log_format, ENUM, 0, 0),
        ROW("SANDBOX", "give up what is not needed: off or on", "on", sandbox, ENUM, 0, 0),
        ROW("IAMCAT_USER", "who to become when started as root", "65534", bridge, USER, 0, 0),
        ROW("STATUS_SOCKET", "its path, or off (default: an abstract one)", "", status_socket, TEXT, 1,
                CONFIG_SOCKET_BYTES - 1),
        ROW("METRICS_LISTEN", "for Prometheus, as in 127.0.0.1:9464", "", bridge, LISTEN, 0, 0),
        ROW("HEALTH_GRACE", "health: seconds offline", "120", health_grace_s, NUMBER, 0, 86400),
};

_Static_assert(sizeof(enum bridge_dates) == sizeof(unsigned) && sizeof(enum bridge_level) == sizeof(unsigned),
        "take_number writes an enum as an unsigned");

/* What was found of one variable. Nothing when value.n is 0; then, if p is NULL though it has a line, that
 * line was a mistake, which has been reported. */
struct found {
	struct slice value;
	unsigned line; /* in the file; 0: the environment, or nowhere */
};

struct reader {
	struct config *c;
	const char *file; /* its name */
	struct buf *errors, *warnings;
	struct buf why; /* of the mistake that is being found */
	struct found found[VARIABLES];
	bool unread; /* the file was refused: what seems to be missing may be in there */
	/* the file's text and the place in it */
	unsigned char *p;
	size_t n, at;
	unsigned line;
	bool pem; /* the rest of a PEM text without quotes, which has been reported, may follow */
};

/* What was read from files and is still needed, one file behind the other. */
static _Alignas(BRIDGE_ALIGN) unsigned char text[CONFIG_FILE_BYTES];
static size_t text_n;

static void wipe_text(void)
{
	tls_wipe(text, text_n);
	net_give_back(text, sizeof text);
	text_n = 0;
}

/* Appends a file to text. Returns 0, or its errno (EFBIG when the file does not fit) with the reason in why.
 */
static int read_file(const char *path, int flags, struct slice *s, struct buf *why)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | flags);
	ssize_t n = fd < 0 ? -1 : 1;
	*s = (struct slice){text + text_n, 0};
	while (n > 0) {
		n = read(fd, text + text_n, sizeof text - text_n);
		text_n += n > 0 ? (size_t)n : 0;
	}
	s->n = text_n - (size_t)(s->p - text);
	int error = n < 0 ? errno : text_n == sizeof text ? EFBIG : 0;
	if (fd >= 0)
		close(fd);
	if (error == 0)
		return 0;
	buf_put_str(why, "cannot be read: ");
	fd_put_reason(why, error);
	return error;
}

static bool refuse(struct buf *why, const char *sentence)
{
	buf_put_str(why, sentence);
	return false;
}

static bool has(struct slice s, const char *part)
{
	return slice_find(s, part) < s.n;
}

/* Letters, digits and _: names of variables have these, and names of hosts, besides - and the dot. */
static bool is_word(unsigned char c)
{
	return c == '_' || (c >= '0' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'z');
}

/* "MQTT_KEEPALIVE (mqtt.env line 3)" */
static void put_source(struct buf *b, const struct reader *r, struct slice name, unsigned line)
{
	buf_put_escaped(b, name, 64);
	if (line > 0)
		buf_put_text(b, " (%.256s line %u)", r->file, line);
	else
		buf_put_str(b, " (environment)");
}

/* Writes the line for a mistake in a variable, which is in r->why. The value of a secret is not shown, nor
 * one that may hold a secret by mistake: a key pasted into the wrong variable, the login of a URL; and of
 * several lines, which a forgotten quote may have swallowed, only the first. A broken line has none. */
static void mistake(struct reader *r, size_t v)
{
	enum kind kind = variables[v].kind;
	struct slice s = r->found[v].value;
	size_t newline = slice_find(s, "\n");
	put_source(r->errors, r, slice_str(variables[v].name), r->found[v].line);
	if (s.n > 0 && kind != SECRET && kind != PEM && !has(s, "-----BEGIN") &&
	        !(kind == HOST && has(s, "@"))) {
		buf_put_str(r->errors, " is \"");
		s.n = newline < s.n ? newline + 1 : s.n;
		buf_put_escaped(r->errors, s, 64);
		buf_put_str(r->errors, "\"");
	}
	buf_put_text(r->errors, ": %s\n", buf_cstr(&r->why));
	r->why.n = 0;
}

/* "5 to 65535" */
static void put_limits(struct buf *b, const struct variable *v)
{
	buf_put_text(b, "%u to %u", v->min, v->max);
}

/* The text behind this one and its NUL. */
static const char *next(const char *s)
{
	return s + strlen(s) + 1;
}

/* The words of an enum, in its order, stand at the end of its help. */
static const char *words_of(const struct variable *v)
{
	const char *help = next(v->name);
	return help + slice_find(slice_str(help), ": ") + 2;
}

/* The place of s in words such as "auto, numeric or iso8601"; -1: none. */
static int64_t find_word(const char *words, struct slice s)
{
	struct slice rest = slice_str(words);
	for (int64_t i = 0; rest.n > 0;) {
		struct slice word = slice_cut(&rest, ' ');
		word.n -= word.p[word.n - 1] == ',';
		if (slice_is(word, "or"))
			continue;
		if (slice_eq(word, s))
			return i;
		i++;
	}
	return -1;
}

/* Valid UTF-8 (RFC 3629) without control characters (C0, DEL, C1)? */
static bool is_text(struct slice s)
{
	static const uint32_t least[4] = {0x20, 0xa0, 0x800, 0x10000};
	for (size_t i = 0; i < s.n;) {
		uint32_t c = s.p[i++];
		size_t more = c < 0x80 ? 0 : c < 0xe0 ? 1 : c < 0xf0 ? 2 : 3;
		if ((c >= 0x80 && c < 0xc0) || c >= 0xf8 || more > s.n - i)
			return false;
		c = more ? c & (0x3fu >> more) : c;
		for (size_t k = 0; k < more; k++, i++) {
			if ((s.p[i] & 0xc0) != 0x80)
				return false;
			c = c << 6 | (s.p[i] & 0x3f);
		}
		if (c < least[more] || c == 0x7f || (c >= 0xd800 && c <= 0xdfff) || c > 0x10ffff)
			return false;
	}
	return true;
}

/* Labels of 1 to 63 bytes, 253 in all (RFC 1035 §2.3.4), perhaps a dot at the end. Were the last label all
 * digits, it would be a mistyped IPv4 address. Containers have names with _. */
static bool is_host_name(struct slice s)
{
	size_t label = 0, digits = 0;
	s.n -= s.n > 0 && s.p[s.n - 1] == '.';
	for (size_t i = 0; i < s.n; i++) {
		bool dot = s.p[i] == '.';
		if (dot ? label == 0 : label == 63 || !(is_word(s.p[i]) || s.p[i] == '-'))
			return false;
		label = dot ? 0 : label + 1;
		digits = dot ? 0 : digits + (s.p[i] >= '0' && s.p[i] <= '9');
	}
	return digits < label && s.n <= 253;
}

/* These take one value: they write it to its field, or return false with what is wrong in why. */

static bool take_host(const struct variable *v, char *to, struct slice s, struct buf *why)
{
	static struct dns_address ip;
	size_t colon = slice_find(s, ":");
	bool address = s.n <= v->max && dns_read_address(s, &ip);
	const struct variable *port = v == &variables[TLS_NAME] ? &variables[BROKER_PORT] : v + 1;
	if (address && s.p[0] == '[')
		s = (struct slice){s.p + 1, s.n - 2};
	if (address || is_host_name(s)) {
		memcpy(to, s.p, s.n);
		return true;
	}
	if (has(s, "/") || (colon < s.n && (s.p[0] == '[' || !has(slice_from(s, colon + 1), ":"))))
		buf_put_text(why,
		        "expected only the host name or IP address, without mqtts:// and path; the port goes "
		        "into %s",
		        port->name);
	else
		buf_put_str(why, "expected a host name or an IP address");
	return false;
}

static bool check_prefix(struct slice s, struct buf *why)
{
	size_t serial = slice_find(s, "{serial}");
	if (s.p[0] == '/' || s.p[s.n - 1] == '/')
		return refuse(why, "expected no / at the beginning or end (/modbus/request is appended)");
	if (has(s, "+") || has(s, "#")) /* MQTT-3.3.2-2 */
		return refuse(why, "expected no + or #, they are MQTT's wildcards");
	if (s.p[0] == '$') /* MQTT-4.7.2-1 */
		return refuse(why, "expected no $ at the beginning, such topics belong to the broker");
	for (size_t i = 0; i < s.n; i++)
		if ((s.p[i] == '{' && i != serial) || (s.p[i] == '}' && i != serial + 7))
			return refuse(why, "expected nothing in braces but {serial}, and that once");
	return true;
}

static bool take_ranges(struct bridge_config *b, struct slice s, struct buf *why)
{
	b->writes_limited = !slice_is(s, "all");
	if (!b->writes_limited || slice_is(s, "none"))
		return true;
	while (s.p != NULL) {
		struct slice last = slice_cut(&s, ','), first = slice_cut(&last, '-');
		int64_t from = slice_u64(slice_trim(first), 65535);
		int64_t to = last.p != NULL ? slice_u64(slice_trim(last), 65535) : from;
		if (from < 0 || to < 0)
			return refuse(why, "expected all, none, or a list of registers such as 100,200-299 "
			                   "(0 to 65535)");
		if (from > to)
			return refuse(why, "expected the lower register first, as in 200-299");
		if (b->write_allows == BRIDGE_RANGES)
			return refuse(why, "expected at most 64 registers and ranges");
		b->write_allow[b->write_allows].first = (uint16_t)from;
		b->write_allow[b->write_allows++].last = (uint16_t)to;
	}
	return true;
}

static bool take_listen(struct config *c, struct slice s, struct buf *why)
{
	size_t at = s.n; /* behind the last colon */
	while (at > 0 && s.p[at - 1] != ':')
		at--;
	struct slice host = {s.p, at > 0 ? at - 1 : 0};
	int64_t port = slice_u64(slice_from(s, at), 65535);
	/* without brackets the last part of an IPv6 address would pass for a port */
	bool bare = has(host, ":") && host.p[0] != '[';
	if (port < 1 || bare || !dns_read_address(host, &c->metrics_address))
		return refuse(why, "expected an address of this machine and a port, as in 127.0.0.1:9464 or "
		                   "[::1]:9464");
	c->metrics_port = (uint16_t)port;
	return true;
}

/* Writes a whole number or the value of an enum. */
static bool take_number(const struct variable *v, char *to, struct slice s, struct buf *why)
{
	int64_t n = v->kind == ENUM ? find_word(words_of(v), s) : slice_u64(s, v->max);
	uint32_t large = (uint32_t)n;
	uint16_t small = (uint16_t)n;
	if (v->kind == NUMBER16)
		memcpy(to, &small, sizeof small);
	else
		memcpy(to, &large, sizeof large);
	if (n >= v->min)
		return true;
	if (v->kind == ENUM) {
		buf_put_text(why, "expected %s", words_of(v));
	} else {
		buf_put_str(why, "expected a whole number, ");
		put_limits(why, v);
	}
	return false;
}

static bool take_text(const struct variable *v, char *to, struct slice s, struct buf *why)
{
	if (v->kind != SECRET && !is_text(s))
		return refuse(why, "expected UTF-8 text without control characters");
	if (s.n > v->max) {
		buf_put_str(why, "is too long, expected bytes: ");
		put_limits(why, v);
		return false;
	}
	memcpy(to, s.p, s.n);
	return true;
}

/* A number, or a name of /etc/passwd: a static program has no other way to ask. */
static bool take_user(struct config *c, struct slice s, struct buf *why)
{
	struct slice rest;
	int64_t uid = slice_u64(s, UINT32_MAX - 1), gid = uid;
	if (uid < 0 && read_file("/etc/passwd", O_NONBLOCK, &rest, why) == 0) {
		while (uid < 0 && rest.n > 0) {
			struct slice line = slice_cut(&rest, '\n'), name = slice_cut(&line, ':');
			slice_cut(&line, ':');
			if (slice_eq(name, s)) {
				uid = slice_u64(slice_cut(&line, ':'), UINT32_MAX - 1);
				gid = slice_u64(slice_cut(&line, ':'), UINT32_MAX - 1);
			}
		}
	}
	c->uid = (uint32_t)uid;
	c->gid = (uint32_t)gid;
	why->n = 0;
	return (uid > 0 && gid > 0) ||
	       refuse(why,
	               "expected a number, or a user of /etc/passwd, and not root (SANDBOX=off stays root)");
}

static void take(struct reader *r, size_t i)
{
	const struct variable *v = &variables[i];
	struct slice s = r->found[i].value;
	struct buf *why = &r->why;
	char *to = (char *)r->c + v->offset;
	bool ok = true;
	if (s.n == 0)
		s = slice_str(next(next(v->name)));
	if (s.n == 0)
		return;
	switch ((enum kind)v->kind) {
	case NUMBER:
	case NUMBER16:
	case ENUM: ok = take_number(v, to, s, why); break;
	case HOST: ok = take_host(v, to, s, why); break;
	case USER: ok = take_user(r->c, s, why); break;
	case LISTEN: ok = take_listen(r->c, s, why); break;
	case RANGES: ok = take_ranges(&r->c->bridge, s, why); break;
	case PREFIX: ok = check_prefix(s, why) && take_text(v, to, s, why); break;
	case TEXT:
	case SECRET: ok = take_text(v, to, s, why); break;
	case PEM: break; /* see take_anchors */
	}
	if (!ok)
		mistake(r, i);
}

static bool given(const struct reader *r, size_t v)
{
	return r->found[v].value.n > 0 || (r->found[v].value.p == NULL && r->found[v].line > 0);
}

/* Of a variable and the one behind it, which names a file, only one may be set. */
static bool both(struct reader *r, size_t v)
{
	if (!given(r, v) || !given(r, v + 1))
		return false;
	put_source(&r->why, r, slice_str(variables[v + 1].name), r->found[v + 1].line);
	buf_put_str(&r->why, " is set, too; expected only one of them");
	mistake(r, v);
	return true;
}

static bool read_anchors(
        struct config *c, const char *path, int flags, struct tls_anchors *a, bool *changed, struct buf *why)
{
	struct slice pem;
	if (read_file(path, flags, &pem, why) != 0)
		return false;
	uint64_t hash = slice_hash(SLICE_HASH, pem);
	if (hash == c->root_ca_hash)
		return true;
	*changed = tls_anchors_read(a, pem, why);
	if (*changed)
		c->root_ca_hash = hash;
	return *changed;
}

bool config_read_anchors(struct config *c, struct tls_anchors *a, bool *changed, struct buf *why)
{
	/* While the program runs, a pipe must not stop it. */
	const char *path = c->root_ca_path != NULL ? c->root_ca_path : c->root_ca_file;
	*changed = false;
	bool ok = path[0] == 0 || read_anchors(c, path, O_NONBLOCK, a, changed, why);
	wipe_text();
	return ok;
}

/* docker's --env-file leaves them in place. */
static bool is_quoted(struct slice s)
{
	return s.n >= 2 && memchr("\"'", s.p[0], 2) && s.p[s.n - 1] == s.p[0];
}

static void take_anchors(struct reader *r, struct tls_anchors *a)
{
	struct slice pem = r->found[ROOT_CA].value;
	struct buf *why = &r->why;
	bool changed;
	if (both(r, ROOT_CA))
		return;
	if (is_quoted(pem))
		pem = (struct slice){pem.p + 1, pem.n - 2};
	if (given(r, ROOT_CA)) {
		if (pem.p == NULL || tls_anchors_read(a, pem, why))
			return;
		buf_put_str(why, "; expected certificates as PEM text (a path goes into MQTT_ROOT_CA_FILE)");
		mistake(r, ROOT_CA);
	} else if (r->c->root_ca_file[0] && !read_anchors(r->c, r->c->root_ca_file, 0, a, &changed, why)) {
		buf_put_str(why, "; expected a file with certificates as PEM text");
		mistake(r, ROOT_CA_FILE);
	} else if (!given(r, ROOT_CA_FILE)) {
		tls_anchors_embedded(a);
	}
}

static void take_login(struct reader *r)
{
	struct slice s;
	size_t password = given(r, PASSWORD) ? PASSWORD : PASSWORD_FILE;
	bool user = given(r, USERNAME), two = both(r, PASSWORD);
	if (user != given(r, password) && !r->unread) {
		buf_put_text(&r->why, "%s is not set; expected both, or neither for serial number and JWT",
		        user ? "MQTT_PASSWORD (or MQTT_PASSWORD_FILE)" : variables[USERNAME].name);
		mistake(r, user ? USERNAME : password);
	}
	r->c->bridge.has_login = user;
	if (two || r->c->password_file[0] == 0)
		return;
	if (read_file(r->c->password_file, 0, &s, &r->why) == 0) {
		if (s.n > 0 && s.p[s.n - 1] == '\n')
			s.n -= s.n > 1 && s.p[s.n - 2] == '\r' ? 2 : 1;
		if (s.n > 0 && s.n < BRIDGE_SECRET_BYTES && !memchr(s.p, 0, s.n)) {
			memcpy(r->c->bridge.password, s.p, s.n);
			return;
		}
		buf_put_str(&r->why, "the password in it must have 1 to 4095 bytes, none of them NUL");
	}
	mistake(r, PASSWORD_FILE);
}

/* The index of the variable, VARIABLES for none. */
static size_t find(struct slice name)
{
	size_t v = 0;
	while (v < VARIABLES && !slice_is(name, variables[v].name))
		v++;
	return v;
}

/* Levenshtein's distance between a, in capitals, and b, of at most 31 bytes. */
static size_t distance(struct slice a, const char *b)
{
	size_t row[32], n = strlen(b);
	for (size_t k = 0; k <= n; k++)
		row[k] = k;
	for (size_t i = 0; i < a.n; i++) {
		char c = (char)(a.p[i] >= 'a' ? a.p[i] - 'a' + 'A' : a.p[i]);
		size_t diagonal = row[0];
		row[0] = i + 1;
		for (size_t k = 0; k < n; k++) {
			size_t above = row[k + 1], other = (above < row[k] ? above : row[k]) + 1;
			size_t same = diagonal + (c != b[k]);
			row[k + 1] = same < other ? same : other;
			diagonal = above;
		}
	}
	return row[n];
}

/* A name that is no variable, and what comes nearest to it, if anything is near. In the environment, which
 * has many others' names, only one that has a typing mistake or two, though not in its first letter: and
 * health is to cost little. */
static void warn_unknown(struct reader *r, struct slice name, unsigned line)
{
	enum { MISTAKES = 2 };
	size_t nearest = VARIABLES, least = SIZE_MAX;
	for (size_t v = 0; v < VARIABLES; v++) {
		const char *known = variables[v].name;
		size_t n = strlen(known), most = line > 0 ? n * 2 / 5 : MISTAKES; /* without MQTT_, say */
		if (name.n + most < n || n + most < name.n || (line == 0 && (name.p[0] & ~0x20) != known[0]))
			continue;
		size_t d = distance(name, known);
		if (d <= most && d < least) {
			nearest = v;
			least = d;
		}
	}
	if (line == 0 && nearest == VARIABLES)
		return;
	put_source(r->warnings, r, name, line);
	buf_put_str(r->warnings, " is no variable of iamcat and has no effect");
	if (nearest < VARIABLES)
		buf_put_text(r->warnings, "; the nearest one is %s", variables[nearest].name);
	buf_put_str(r->warnings, "\n");
}

static void store(struct reader *r, struct slice name, struct slice value, unsigned line)
{
	size_t v = find(name);
	if (v == VARIABLES) {
		warn_unknown(r, name, line);
		return;
	}
	if (r->found[v].line > 0) {
		put_source(r->warnings, r, name, r->found[v].line);
		buf_put_text(r->warnings, " has no effect, it is set again in line %u\n", line);
	}
	r->found[v] = (struct found){value, line};
}

/* The value in quotes that begins at offset at; it may have several lines. Returns NULL with the value,
 * unescaped in place, and the reader behind its last line; or what is wrong, with nothing changed. */
static const char *read_quoted(struct reader *r, size_t at, struct slice *value)
{
	unsigned char quote = r->p[at++], *out = r->p + at;
	size_t end = at;
	while (end < r->n && r->p[end] != quote)
		end += quote == '"' && r->p[end] == '\\' && r->n - end > 1 ? 2 : 1;
	if (end == r->n)
		return "the quote that begins here is not closed";
	struct slice rest = {r->p + end + 1, r->n - end - 1}, behind = slice_trim(slice_cut(&rest, '\n'));
	if (behind.n > 0 && behind.p[0] != '#')
		return "expected nothing behind the closing quote (in double quotes, write \\\" for \")";
	for (size_t i = at; i < end; i++) {
		unsigned char c = r->p[i];
		r->line += c == '\n';
		if (quote == '"' && c == '\\' && memchr("n\"\\", r->p[i + 1], 3))
			c = r->p[++i] == 'n' ? '\n' : r->p[i];
		*out++ = c;
	}
	*value = (struct slice){r->p + at, (size_t)(out - (r->p + at))};
	r->at = r->n - rest.n;
	return NULL;
}

static const char unquoted[] =
        "expected quotes around a text of several lines: NAME=\"-----BEGIN and so on, to a \" at its end";

/* The value behind the = at s.p, to the end of the line or to a # behind a blank. */
static const char *read_plain(struct slice s, struct slice *value)
{
	for (size_t i = 1; i < s.n; i++)
		if (s.p[i] == '#' && memchr(" \t", s.p[i - 1], 2))
			s.n = i;
	*value = slice_trim(slice_from(s, 1));
	return has(*value, "-----BEGIN") && !has(*value, "-----END") ? unquoted : NULL;
}

/* Takes the letters of a name off, and the blanks behind them. */
static struct slice take_name(struct slice *s)
{
	struct slice name = {s->p, 0};
	while (name.n < s->n && is_word(s->p[name.n]))
		name.n++;
	*s = slice_trim(slice_from(*s, name.n));
	return name;
}

/* Reads a line, or the lines of a value in quotes. What is in a broken line may be part of a secret, so that
 * messages show nothing of it but the name of a known variable. */
static void read_line(struct reader *r)
{
	unsigned line = r->line++;
	struct slice rest = {r->p + r->at, r->n - r->at}, whole = slice_cut(&rest, '\n'), value;
	r->at = r->n - rest.n;
	whole = slice_trim(whole);
	bool pem = has(whole, "-----BEGIN");
	if (whole.n == 0 || whole.p[0] == '#' || (r->pem && !has(whole, "_"))) /* no _ in base64 */
		return;
	rest = whole;
	struct slice name = take_name(&rest);
	if (slice_is(name, "export") && rest.n > 0 && rest.p[0] != '=')
		name = take_name(&rest);
	const char *why = pem ? unquoted : "expected NAME=value, or # before a comment";
	if (name.n > 0 && rest.n > 0 && rest.p[0] == '=') {
		struct slice after = slice_trim(slice_from(rest, 1));
		bool quoted = after.n > 0 && (after.p[0] == '"' || after.p[0] == '\'');
		why = quoted ? read_quoted(r, (size_t)(after.p - r->p), &value) : read_plain(rest, &value);
	}
	r->pem = why && pem;
	if (!why) {
		store(r, name, value, line);
		return;
	}
	size_t v = find(name);
	if (v < VARIABLES)
		r->found[v] = (struct found){{NULL, 0}, line};
	put_source(r->errors, r, v < VARIABLES ? name : slice_str("A line"), line);
	buf_put_text(r->errors, ": %s\n", why);
}

static void read_lines(struct reader *r)
{
	r->line = 1;
	if (r->n >= 3 && memcmp(r->p, "\xef\xbb\xbf", 3) == 0) /* a byte order mark */
		r->at = 3;
	while (r->at < r->n)
		read_line(r);
}

struct slice config_env(char *const *envp, const char *name)
{
	for (; *envp; envp++) {
		struct slice value = slice_str(*envp);
		if (slice_is(slice_cut(&value, '='), name))
			return value;
	}
	return (struct slice){NULL, 0};
}

static void read_environment(struct reader *r, char *const *envp)
{
	for (; *envp; envp++) {
		struct slice value = slice_str(*envp), name = slice_cut(&value, '=');
		size_t v = find(name);
		value.n -= value.n > 0 && value.p[value.n - 1] == '\r'; /* of a file with CRLF */
		if (v == VARIABLES)
			warn_unknown(r, name, 0);
		else if (value.n > 0 && (r->found[v].line > 0 || r->found[v].value.n == 0)) /* the first */
			r->found[v] = (struct found){value, 0};
		if (v < VARIABLES && v != ROOT_CA && is_quoted(value)) {
			put_source(r->warnings, r, name, 0);
			buf_put_str(
			        r->warnings, ": leave out the quotes around it, here they are part of it\n");
		}
	}
}

bool config_read(struct config *c, struct tls_anchors *a, const char *file, char *const *envp,
        struct buf *errors, struct buf *warnings)
{
	static unsigned char reason[4 * CONFIG_PATH_BYTES + 256];
	struct reader r = {.c = c,
	        .file = file != NULL ? file : "mqtt.env",
	        .errors = errors,
	        .warnings = warnings,
	        .why = BUF(reason),
	        .p = text};
	struct slice s;
	tls_wipe_used(c, sizeof *c);
	int error = read_file(r.file, 0, &s, &r.why);
	bool ok = error == 0 && (!memchr(s.p, 0, s.n) || refuse(&r.why, "has a NUL byte"));
	r.n = ok ? s.n : 0;
	r.unread = !ok && (file || error != ENOENT);
	if (r.unread) {
		buf_put_text(
		        errors, "%.256s %s; expected NAME=value lines in UTF-8\n", r.file, buf_cstr(&r.why));
	}
	r.why.n = 0;
	read_lines(&r);
	read_environment(&r, envp);
	if (!given(&r, BROKER_HOST) && !r.unread) {
		buf_put_text(errors,
		        "MQTT_BROKER_HOST is not set in the environment or %.256s%s: expected the broker's "
		        "name "
		        "or IP address\n",
		        r.file, error == ENOENT ? " (not found)" : "");
	}
	for (size_t v = 0; v < VARIABLES; v++)
		take(&r, v);
	if (a != NULL)
		take_anchors(&r, a);
	take_login(&r);
	wipe_text();
	return errors->n == 0 && !errors->full;
}

void config_describe(struct buf *b)
{
	static const char blanks[] = "                       ";
	for (const struct variable *v = variables; v < variables + VARIABLES; v++) {
		const char *help = next(v->name), *fallback = next(help);
		buf_put_text(b, "  %s%s%s", v->name, &blanks[strlen(v->name)], help);
		if (v->kind <= NUMBER16) {
			buf_put_str(b, ", ");
			put_limits(b, v);
		}
		if (fallback[0] != 0)
			buf_put_text(b, " (default %s)", fallback);
		buf_put_byte(b, '\n');
	}
	buf_put_str(b, "A variable whose value is empty counts as not set.\n");
}
