// uses: buf.c dns.c fd.c
#include "unit.h"

#include <sys/stat.h>

#include "../../config.c"
#include "../doubles.h"

/* Doubles of tls.c: what was made the anchors. */
static enum { ANCHORS_NONE, ANCHORS_EMBEDDED, ANCHORS_READ } anchors;
static char anchors_pem[4096];

void tls_anchors_embedded(struct tls_anchors *a)
{
	(void)a;
	anchors = ANCHORS_EMBEDDED;
}

bool tls_anchors_read(struct tls_anchors *a, struct slice pem, struct buf *why)
{
	(void)a;
	assert_true(pem.n < sizeof anchors_pem);
	memcpy(anchors_pem, pem.p, pem.n);
	anchors_pem[pem.n] = 0;
	if (strstr(anchors_pem, "BEGIN")) {
		anchors = ANCHORS_READ;
		return true;
	}
	buf_put_str(why, "certificate 1: no BEGIN");
	return false;
}

static struct config config;
static struct tls_anchors *no_anchors = (void *)&anchors; /* the doubles never look at it */
static unsigned char errors_memory[1 << 16], warnings_memory[1 << 16];
static struct buf errors, warnings;
static char dir[] = "/tmp/iamcat-config-XXXXXX", path[64], other[64];

static int make_dir(void **state)
{
	(void)state;
	if (!mkdtemp(dir))
		return -1;
	snprintf(path, sizeof path, "%s/t.env", dir);
	snprintf(other, sizeof other, "%s/other", dir);
	return 0;
}

static int remove_dir(void **state)
{
	(void)state;
	unlink(path);
	unlink(other);
	return rmdir(dir);
}

static void write_file(const char *name, const void *p, size_t n)
{
	FILE *f = fopen(name, "wb");
	assert_non_null(f);
	assert_int_equal(fwrite(p, 1, n, f), n);
	assert_int_equal(fclose(f), 0);
}

/* Reads a configuration over rubbish; text must be wiped afterwards. */
static bool read_config(const char *file, char *const *envp)
{
	errors = BUF(errors_memory);
	warnings = BUF(warnings_memory);
	anchors = ANCHORS_NONE;
	anchors_pem[0] = 0;
	memset(&config, 0xa5, sizeof config); /* nothing may be left as it was */
	bool ok = config_read(&config, no_anchors, file, envp, &errors, &warnings);
	assert_false(errors.full || warnings.full);
	assert_int_equal(ok, errors.n == 0);
	assert_int_equal(text_n, 0);
	for (size_t i = 0; i < sizeof text; i += i < 4096 ? 1 : 997)
		assert_int_equal(text[i], 0); /* wiped */
	return ok;
}

/* The messages, the random names of the two files as F and O. */
static const char *shortened(struct buf *b)
{
	static char out[2][1 << 16];
	static int turn;
	char *to = out[turn ^= 1];
	const char *from = buf_cstr(b);
	while (*from) {
		if (strncmp(from, path, strlen(path)) == 0) {
			*to++ = 'F';
			from += strlen(path);
		} else if (strncmp(from, other, strlen(other)) == 0) {
			*to++ = 'O';
			from += strlen(other);
		} else {
			*to++ = *from++;
		}
	}
	*to = 0;
	return out[turn];
}

/* The fields that differ from the defaults, "name=value " each. */
static const char *fields(void)
{
	static char out[16384];
	char *to = out;
	const struct bridge_config *b = &config.bridge;
	*to = 0;
#define STRING(f, usual)                                                                                     \
	if (strcmp(b->f, usual) != 0)                                                                        \
	to += sprintf(to, #f "=%s ", b->f)
#define INTEGER(f, usual)                                                                                    \
	if (b->f != usual)                                                                                   \
	to += sprintf(to, #f "=%u ", (unsigned)b->f)
	STRING(broker_host, "h");
	INTEGER(broker_port, 8883);
	STRING(api_host, "localhost");
	INTEGER(api_port, 5000);
	STRING(user_name, "");
	STRING(password, "");
	INTEGER(has_login, 0);
	STRING(client_id, "");
	STRING(topic_prefix, "iamcat");
	INTEGER(keep_alive_s, 60);
	INTEGER(token_lifetime_s, 300);
	INTEGER(dates, DATES_AUTO);
	INTEGER(state_interval_s, 5);
	INTEGER(api_timeout_s, 10);
	INTEGER(api_spares, 2);
	INTEGER(writes_limited, 0);
	for (size_t i = 0; i < b->write_allows; i++)
		to += sprintf(to, "%u-%u ", b->write_allow[i].first, b->write_allow[i].last);
	if (config.log_level != LEVEL_INFO)
		to += sprintf(to, "log_level=%d ", (int)config.log_level);
	if (config.status_socket[0] != 0)
		to += sprintf(to, "status_socket=%s ", config.status_socket);
	if (config.metrics_port != 0) {
		unsigned char address_memory[64];
		struct buf address = BUF(address_memory);
		dns_put_address(&address, &config.metrics_address);
		to += sprintf(to, "metrics=%s %u ", buf_cstr(&address), config.metrics_port);
	}
	if (config.health_grace_s != 120)
		to += sprintf(to, "health_grace_s=%u ", (unsigned)config.health_grace_s);
	if (anchors != ANCHORS_EMBEDDED)
		to += sprintf(to, "pem=%s ", anchors_pem);
	return out;
}

#define UNQUOTE ": leave out the quotes around it, here they are part of it\n"

/* Files that are right: their text, the environment, the fields that differ from the defaults, warnings. "h"
 * is the broker's host where nothing else is said. */
static const struct {
	const char *name, *file, *env[4], *fields, *warnings;
} good[] = {
        {"defaults", "MQTT_BROKER_HOST=h\n", {0}, "", ""},
        {"environment alone", "", {"MQTT_BROKER_HOST=h"}, "", ""},
        {"the environment wins", "MQTT_BROKER_HOST=x\nMQTT_KEEPALIVE=7", {"MQTT_BROKER_HOST=h"},
                "keep_alive_s=7 ", ""},
        {"the environment hides a bad value", "MQTT_BROKER_PORT=no\n",
                {"MQTT_BROKER_HOST=h", "MQTT_BROKER_PORT=1"}, "broker_port=1 ", ""},
        {"empty in the environment is not set", "MQTT_BROKER_HOST=h\nMQTT_KEEPALIVE=7",
                {"MQTT_BROKER_HOST=", "MQTT_KEEPALIVE=", "MQTT_ROOT_CA=", "LOG_LEVEL="}, "keep_alive_s=7 ",
                ""},
        {"empty in the file is not set",
                "MQTT_BROKER_HOST=h\nMQTT_KEEPALIVE=\nMQTT_ROOT_CA=\"\"\nMQTT_PASSWORD=''\nLOG_LEVEL= # x",
                {0}, "", ""},
        {"odd entries in the environment", "MQTT_BROKER_HOST=h", {"=", "MQTT_KEEPALIVE", "MQTT_FOO=1", ""},
                "", ""},
        {"first of two in the environment", "LOG_LEVEL=info",
                {"MQTT_BROKER_HOST=h", "LOG_LEVEL=warn", "LOG_LEVEL=debug"}, "log_level=1 ", ""},
        {"values of the environment are taken as they are", "MQTT_BROKER_HOST=h",
                {"MQTT_USERNAME= a#'b' ", "MQTT_PASSWORD=\"x\\n\" #"},
                "user_name= a#'b'  password=\"x\\n\" # has_login=1 ", ""},
        {"quotes in the environment", "MQTT_CLIENT_ID=\"me\"",
                {"MQTT_BROKER_HOST=h", "MQTT_USERNAME=\"u\"", "MQTT_PASSWORD='p'", "MQTT_CLIENT_ID="},
                "user_name=\"u\" password='p' has_login=1 client_id=me ",
                "MQTT_USERNAME (environment)" UNQUOTE "MQTT_PASSWORD (environment)" UNQUOTE},
        {"quotes that do not match", "",
                {"MQTT_BROKER_HOST=h", "MQTT_CLIENT_ID=\"", "MQTT_TOPIC_PREFIX='x\""},
                "client_id=\" topic_prefix='x\" ", ""},
        {"every field",
                "MQTT_BROKER_HOST=b.example\nMQTT_BROKER_PORT=1\nWEB_CONTAINER_HOST=web_1\n"
                "WEB_CONTAINER_PORT=65535\nMQTT_USERNAME=u\xc3\xa4\nMQTT_PASSWORD=p\nMQTT_CLIENT_ID=c\n"
                "MQTT_TOPIC_PREFIX=a/{serial}/b\nMQTT_KEEPALIVE=65535\nMQTT_JWT_LIFETIME=86400\n"
                "MQTT_JWT_DATES=iso8601\nSTATE_INTERVAL=3600\nWEB_CONTAINER_TIMEOUT=300\nWEB_CONTAINER_"
                "SPARES=4\n"
                "MODBUS_WRITE_ALLOW=1,2-3\nLOG_LEVEL=debug\nMQTT_ROOT_CA=BEGIN\nSTATUS_SOCKET=/run/s\n"
                "METRICS_LISTEN=192.0.2.1:65535\nHEALTH_GRACE=86400\n",
                {0},
                "broker_host=b.example broker_port=1 api_host=web_1 api_port=65535 user_name=u\xc3\xa4 "
                "password=p has_login=1 client_id=c topic_prefix=a/{serial}/b keep_alive_s=65535 "
                "token_lifetime_s=86400 dates=2 state_interval_s=3600 api_timeout_s=300 api_spares=4 "
                "writes_limited=1 "
                "1-1 2-3 log_level=3 status_socket=/run/s metrics=192.0.2.1 65535 health_grace_s=86400 "
                "pem=BEGIN ",
                ""},
        {"metrics over IPv6", "MQTT_BROKER_HOST=h\nMETRICS_LISTEN=[::1]:1\nHEALTH_GRACE=0\n", {0},
                "metrics=::1 1 health_grace_s=0 ", ""},
        {"the least of each number",
                "MQTT_BROKER_HOST=h\nMQTT_KEEPALIVE=5\nMQTT_JWT_LIFETIME=20\nSTATE_INTERVAL=1\n"
                "WEB_CONTAINER_TIMEOUT=1\nWEB_CONTAINER_SPARES=0\nWEB_CONTAINER_PORT=1\nMQTT_JWT_DATES="
                "numeric\nLOG_LEVEL=error",
                {0},
                "api_port=1 keep_alive_s=5 token_lifetime_s=20 dates=1 state_interval_s=1 api_timeout_s=1 "
                "api_spares=0 "
                "log_level=0 ",
                ""},
        {"comments and blanks",
                "# MQTT_KEEPALIVE=7\n\n \t\n  # x\n \tMQTT_BROKER_HOST \t= h\t # comment\nLOG_LEVEL=warn#x # "
                "y\n"
                "LOG_LEVEL=warn\t#\n",
                {0}, "log_level=1 ", "LOG_LEVEL (F line 6) has no effect, it is set again in line 7\n"},
        {"export", "export MQTT_BROKER_HOST=h\nexport\tLOG_LEVEL='warn'\n", {0}, "log_level=1 ", ""},
        {"CRLF and a byte order mark",
                "\xef\xbb\xbfMQTT_BROKER_HOST=h\r\n\r\n# c\r\nLOG_LEVEL=\"warn\"\r\nMQTT_CLIENT_ID='x y'\r",
                {0}, "client_id=x y log_level=1 ", ""},
        {"quotes",
                "MQTT_BROKER_HOST=\"h\" # c\nMQTT_CLIENT_ID='a \\n\"#b'#c\nMQTT_USERNAME=\"'\"\n"
                "MQTT_PASSWORD=\"a\\\"b\\\\n\\n\\t\\$\"  \n",
                {0}, "user_name=' password=a\"b\\n\n\\t\\$ has_login=1 client_id=a \\n\"#b ", ""},
        {"quotes and # inside of a plain value",
                "MQTT_BROKER_HOST=h\nMQTT_USERNAME=a\"b'c#d e\nMQTT_PASSWORD=#x\\n", {0},
                "user_name=a\"b'c#d e password=#x\\n has_login=1 ", ""},
        {"several lines, and the count of lines behind them",
                "MQTT_ROOT_CA=\"-----BEGIN x\n  AB_C=\n# no "
                "comment\r\n\"\nMQTT_BROKER_HOST=h\nLOG_LEVELS=1\n",
                {0}, "pem=-----BEGIN x\n  AB_C=\n# no comment\r\n ",
                "LOG_LEVELS (F line 6) is no variable of iamcat and has no effect; the nearest one is "
                "LOG_LEVEL\n"},
        {"single quotes over several lines", "MQTT_ROOT_CA='BEGIN\nx\n'\nMQTT_BROKER_HOST=h\n", {0},
                "pem=BEGIN\nx\n ", ""},
        {"PEM on one line without quotes",
                "MQTT_BROKER_HOST=h\nMQTT_ROOT_CA=-----BEGIN X-----\\nAB\\n-----END X-----\\n", {0},
                "pem=-----BEGIN X-----\\nAB\\n-----END X-----\\n ", ""},
        {"PEM in quotes in the environment", "MQTT_BROKER_HOST=h", {"MQTT_ROOT_CA=\"BEGIN\\nx\""},
                "pem=BEGIN\\nx ", ""},
        {"PEM in single quotes in the environment", "MQTT_BROKER_HOST=h", {"MQTT_ROOT_CA='BEGIN'"},
                "pem=BEGIN ", ""},
        {"a PEM bundle in several lines with others behind",
                "MQTT_ROOT_CA=\"-----BEGIN X-----\nA\n-----END X-----\n-----BEGIN X-----\nB\n-----END "
                "X-----\"\n"
                "MQTT_BROKER_HOST=h\n",
                {0}, "pem=-----BEGIN X-----\nA\n-----END X-----\n-----BEGIN X-----\nB\n-----END X----- ", ""},
        {"the last one wins, with a warning", "LOG_LEVEL=bad\nMQTT_BROKER_HOST=h\nLOG_LEVEL=warn\n", {0},
                "log_level=1 ", "LOG_LEVEL (F line 1) has no effect, it is set again in line 3\n"},
        {"unknown variables",
                "MQTT_BROKER_HOST=h\nMQTT_KEEP_ALIVE=1\nmqtt_broker_prot=\"1\"\nSTATE_INTERVALL=\nexportLOG_"
                "LEVEL=x\n",
                {0}, "",
                "MQTT_KEEP_ALIVE (F line 2) is no variable of iamcat and has no effect; the nearest one is "
                "MQTT_KEEPALIVE\n"
                "mqtt_broker_prot (F line 3) is no variable of iamcat and has no effect; the nearest one is "
                "MQTT_BROKER_PORT\n"
                "STATE_INTERVALL (F line 4) is no variable of iamcat and has no effect; the nearest one is "
                "STATE_INTERVAL\n"
                "exportLOG_LEVEL (F line 5) is no variable of iamcat and has no effect\n"},
        {"unknown variables that are near to one, or not",
                "MQTT_BROKER_HOST=h\nUSERNAME=x\nMQTT_HOST=x\nFOO=x\nROOT_CA_FILE=x\nX=x\n", {0}, "",
                "USERNAME (F line 2) is no variable of iamcat and has no effect; the nearest one is "
                "MQTT_USERNAME\n"
                "MQTT_HOST (F line 3) is no variable of iamcat and has no effect\n"
                "FOO (F line 4) is no variable of iamcat and has no effect\n"
                "ROOT_CA_FILE (F line 5) is no variable of iamcat and has no effect; the nearest one is "
                "MQTT_ROOT_CA_FILE\n"
                "X (F line 6) is no variable of iamcat and has no effect\n"},
        {"CRLF in the environment", "",
                {"MQTT_BROKER_HOST=h\r", "MQTT_USERNAME=u\r", "MQTT_PASSWORD=p\rq\r", "LOG_LEVEL=\r"},
                "user_name=u password=p\rq has_login=1 ", ""},
        {"IPv4", "MQTT_BROKER_HOST=192.0.2.1", {0}, "broker_host=192.0.2.1 ", ""},
        {"IPv6", "MQTT_BROKER_HOST=2001:db8::1\nWEB_CONTAINER_HOST=fe80::1%2", {0},
                "broker_host=2001:db8::1 api_host=fe80::1%2 ", ""},
        {"IPv6 in brackets", "MQTT_BROKER_HOST=[::1]", {0}, "broker_host=::1 ", ""},
        {"a final dot", "MQTT_BROKER_HOST=a-b.c1.example.", {0}, "broker_host=a-b.c1.example. ", ""},
        {"digits in names", "MQTT_BROKER_HOST=1.2.3a\nWEB_CONTAINER_HOST=3com", {0},
                "broker_host=1.2.3a api_host=3com ", ""},
        {"no writes", "MQTT_BROKER_HOST=h\nMODBUS_WRITE_ALLOW=none", {0}, "writes_limited=1 ", ""},
        {"ranges with blanks", "MQTT_BROKER_HOST=h\nMODBUS_WRITE_ALLOW= 0 , 5 - 5,10-\t65535 ", {0},
                "writes_limited=1 0-0 5-5 10-65535 ", ""},
};

static void test_good(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
		char *env[5] = {0};
		for (size_t k = 0; k < 4; k++)
			env[k] = (char *)(uintptr_t)good[i].env[k];
		write_file(path, good[i].file, strlen(good[i].file));
		if (!read_config(path, env))
			fail_msg("%s: %s", good[i].name, shortened(&errors));
		if (strcmp(fields(), good[i].fields) != 0)
			fail_msg("%s: fields \"%s\"", good[i].name, fields());
		if (strcmp(shortened(&warnings), good[i].warnings) != 0)
			fail_msg("%s: warnings \"%s\"", good[i].name, shortened(&warnings));
	}
}

#define PORT_ONLY "expected only the host name or IP address, without mqtts:// and path; the port goes into "
#define A_HOST    "expected a host name or an IP address\n"
#define SEVERAL                                                                                              \
	"expected quotes around a text of several lines: NAME=\"-----BEGIN and so on, to a \" at its end\n"
#define A_LINE     "expected NAME=value, or # before a comment\n"
#define NOT_CLOSED "the quote that begins here is not closed\n"
#define BEHIND     "expected nothing behind the closing quote (in double quotes, write \\\" for \")\n"
#define A_PEM      "; expected certificates as PEM text (a path goes into MQTT_ROOT_CA_FILE)\n"
#define A_TEXT     "expected UTF-8 text without control characters\n"
#define BRACES     "expected nothing in braces but {serial}, and that once\n"
#define SLASH      "expected no / at the beginning or end (/modbus/request is appended)\n"
#define REGISTERS  "expected all, none, or a list of registers such as 100,200-299 (0 to 65535)\n"
#define BOTH       "is not set; expected both, or neither for serial number and JWT\n"

#define EXPECTED_LISTEN "expected an address of this machine and a port, as in 127.0.0.1:9464 or [::1]:9464\n"

/* One mistake in one value, set in the environment: the value as it is shown, and the sentence. */
static const struct {
	const char *set, *shown, *why;
} bad_values[] = {
        {"METRICS_LISTEN=9464", "9464", EXPECTED_LISTEN},
        {"METRICS_LISTEN=:9464", ":9464", EXPECTED_LISTEN},
        {"METRICS_LISTEN=127.0.0.1", "127.0.0.1", EXPECTED_LISTEN},
        {"METRICS_LISTEN=127.0.0.1:", "127.0.0.1:", EXPECTED_LISTEN},
        {"METRICS_LISTEN=127.0.0.1:0", "127.0.0.1:0", EXPECTED_LISTEN},
        {"METRICS_LISTEN=127.0.0.1:65536", "127.0.0.1:65536", EXPECTED_LISTEN},
        {"METRICS_LISTEN=127.0.0.1:94a", "127.0.0.1:94a", EXPECTED_LISTEN},
        {"METRICS_LISTEN=localhost:9464", "localhost:9464", EXPECTED_LISTEN},
        {"METRICS_LISTEN=::1:9464", "::1:9464", EXPECTED_LISTEN},
        {"METRICS_LISTEN=[::1]", "[::1]", EXPECTED_LISTEN},
        {"METRICS_LISTEN=[::1]9464", "[::1]9464", EXPECTED_LISTEN},
        {"METRICS_LISTEN=127.0.0.1:1:2", "127.0.0.1:1:2", EXPECTED_LISTEN},
        {"METRICS_LISTEN=http://127.0.0.1:9464", "http://127.0.0.1:9464", EXPECTED_LISTEN},
        {"MQTT_BROKER_HOST=mqtts://h", "mqtts://h", PORT_ONLY "MQTT_BROKER_PORT\n"},
        {"WEB_CONTAINER_HOST=h/api", "h/api", PORT_ONLY "WEB_CONTAINER_PORT\n"},
        {"MQTT_BROKER_HOST=h:8883", "h:8883", PORT_ONLY "MQTT_BROKER_PORT\n"},
        {"WEB_CONTAINER_HOST=1.2.3.4:5000", "1.2.3.4:5000", PORT_ONLY "WEB_CONTAINER_PORT\n"},
        {"MQTT_BROKER_HOST=[::1]:8883", "[::1]:8883", PORT_ONLY "MQTT_BROKER_PORT\n"},
        {"MQTT_BROKER_HOST=a:", "a:", PORT_ONLY "MQTT_BROKER_PORT\n"},
        {"MQTT_BROKER_HOST=[[::1]]", "[[::1]]", PORT_ONLY "MQTT_BROKER_PORT\n"},
        {"MQTT_BROKER_HOST=::1::", "::1::", A_HOST},
        {"MQTT_BROKER_HOST=[h]", "[h]", A_HOST},
        {"MQTT_BROKER_HOST=a b", "a b", A_HOST},
        {"MQTT_BROKER_HOST= h", " h", A_HOST},
        {"MQTT_BROKER_HOST=\"h\"", "\\x22h\\x22", A_HOST},
        {"MQTT_BROKER_HOST=a..b", "a..b", A_HOST},
        {"MQTT_BROKER_HOST=.a", ".a", A_HOST},
        {"MQTT_BROKER_HOST=.", ".", A_HOST},
        {"MQTT_BROKER_HOST=a..", "a..", A_HOST},
        {"MQTT_BROKER_HOST=1.2.3", "1.2.3", A_HOST},
        {"MQTT_BROKER_HOST=1.2.3.256", "1.2.3.256", A_HOST},
        {"MQTT_BROKER_HOST=b\xc3\xbc\x1b[", "b\\xc3\\xbc\\x1b[", A_HOST},
        {"MQTT_BROKER_HOST=mqtts://u:hidden@h", NULL, PORT_ONLY "MQTT_BROKER_PORT\n"},
        {"MQTT_BROKER_PORT=0", "0", "expected a whole number, 1 to 65535\n"},
        {"MQTT_BROKER_PORT=65536", "65536", "expected a whole number, 1 to 65535\n"},
        {"MQTT_BROKER_PORT=4294967297", "4294967297", "expected a whole number, 1 to 65535\n"},
        {"MQTT_BROKER_PORT=18446744073709551617", "18446744073709551617",
                "expected a whole number, 1 to 65535\n"},
        {"MQTT_BROKER_PORT=0x10", "0x10", "expected a whole number, 1 to 65535\n"},
        {"WEB_CONTAINER_PORT=+1", "+1", "expected a whole number, 1 to 65535\n"},
        {"WEB_CONTAINER_PORT=-1", "-1", "expected a whole number, 1 to 65535\n"},
        {"WEB_CONTAINER_PORT=1.0", "1.0", "expected a whole number, 1 to 65535\n"},
        {"MQTT_KEEPALIVE=4", "4", "expected a whole number, 5 to 65535\n"},
        {"MQTT_KEEPALIVE=65536", "65536", "expected a whole number, 5 to 65535\n"},
        {"MQTT_KEEPALIVE= 60", " 60", "expected a whole number, 5 to 65535\n"},
        {"MQTT_JWT_LIFETIME=19", "19", "expected a whole number, 20 to 86400\n"},
        {"MQTT_JWT_LIFETIME=86401", "86401", "expected a whole number, 20 to 86400\n"},
        {"STATE_INTERVAL=0", "0", "expected a whole number, 1 to 3600\n"},
        {"STATE_INTERVAL=3601", "3601", "expected a whole number, 1 to 3600\n"},
        {"WEB_CONTAINER_TIMEOUT=301", "301", "expected a whole number, 1 to 300\n"},
        {"WEB_CONTAINER_SPARES=5", "5", "expected a whole number, 0 to 4\n"},
        {"WEB_CONTAINER_TIMEOUT=5s", "5s", "expected a whole number, 1 to 300\n"},
        {"MQTT_JWT_DATES=iso", "iso", "expected auto, numeric or iso8601\n"},
        {"MQTT_JWT_DATES=Auto", "Auto", "expected auto, numeric or iso8601\n"},
        {"LOG_LEVEL=or", "or", "expected error, warn, info or debug\n"},
        {"MQTT_CLIENT_ID=a\tb", "a\\x09b", A_TEXT},
        {"MQTT_CLIENT_ID=a\nMQTT_PASSWORD=hidden", "a\\x0a", A_TEXT}, /* a quote was forgotten */
        {"MQTT_CLIENT_ID=\x7f", "\\x7f", A_TEXT},
        {"MQTT_CLIENT_ID=\xc2\x9f", "\\xc2\\x9f", A_TEXT},          /* C1 */
        {"MQTT_CLIENT_ID=\xc1\xa1", "\\xc1\\xa1", A_TEXT},          /* overlong */
        {"MQTT_CLIENT_ID=\xe0\x9f\xbf", "\\xe0\\x9f\\xbf", A_TEXT}, /* overlong */
        {"MQTT_CLIENT_ID=\xed\xa0\x80", "\\xed\\xa0\\x80", A_TEXT}, /* a surrogate */
        {"MQTT_CLIENT_ID=\xf0\x8f\xbf\xbf", "\\xf0\\x8f\\xbf\\xbf", A_TEXT},
        {"MQTT_CLIENT_ID=\xf4\x90\x80\x80", "\\xf4\\x90\\x80\\x80", A_TEXT}, /* over U+10FFFF */
        {"MQTT_CLIENT_ID=\xf8\x88\x80\x80", "\\xf8\\x88\\x80\\x80", A_TEXT},
        {"MQTT_CLIENT_ID=a\xc3", "a\\xc3", A_TEXT}, /* cut short */
        {"MQTT_CLIENT_ID=\xbf\xbf", "\\xbf\\xbf", A_TEXT},
        {"MQTT_CLIENT_ID=\xfa\x80\x80\x80", "\\xfa\\x80\\x80\\x80", A_TEXT},
        {"MQTT_CLIENT_ID=a\x80", "a\\x80", A_TEXT},
        {"MQTT_CLIENT_ID=\xc3(", "\\xc3(", A_TEXT},
        {"MQTT_TOPIC_PREFIX=/a", "/a", SLASH},
        {"MQTT_TOPIC_PREFIX=a/", "a/", SLASH},
        {"MQTT_TOPIC_PREFIX=a/+", "a/+", "expected no + or #, they are MQTT's wildcards\n"},
        {"MQTT_TOPIC_PREFIX=a#", "a#", "expected no + or #, they are MQTT's wildcards\n"},
        {"MQTT_TOPIC_PREFIX=$SYS/a", "$SYS/a",
                "expected no $ at the beginning, such topics belong to the broker\n"},
        {"MQTT_TOPIC_PREFIX={serial}/{serial}", "{serial}/{serial}", BRACES},
        {"MQTT_TOPIC_PREFIX=a/{serial", "a/{serial", BRACES},
        {"MQTT_TOPIC_PREFIX=a/{Serial}", "a/{Serial}", BRACES},
        {"MQTT_TOPIC_PREFIX=a}", "a}", BRACES},
        {"MQTT_TOPIC_PREFIX=a\x01", "a\\x01", A_TEXT},
        {"MQTT_TOPIC_PREFIX=\xff", "\\xff", A_TEXT},
        {"MODBUS_WRITE_ALLOW=ALL", "ALL", REGISTERS},
        {"MODBUS_WRITE_ALLOW=1,", "1,", REGISTERS},
        {"MODBUS_WRITE_ALLOW=,1", ",1", REGISTERS},
        {"MODBUS_WRITE_ALLOW=,", ",", REGISTERS},
        {"MODBUS_WRITE_ALLOW=1,,2", "1,,2", REGISTERS},
        {"MODBUS_WRITE_ALLOW=1-", "1-", REGISTERS},
        {"MODBUS_WRITE_ALLOW=-1", "-1", REGISTERS},
        {"MODBUS_WRITE_ALLOW=-", "-", REGISTERS},
        {"MODBUS_WRITE_ALLOW=1-2-3", "1-2-3", REGISTERS},
        {"MODBUS_WRITE_ALLOW=65536", "65536", REGISTERS},
        {"MODBUS_WRITE_ALLOW=1-65536", "1-65536", REGISTERS},
        {"MODBUS_WRITE_ALLOW=1 2", "1 2", REGISTERS},
        {"MODBUS_WRITE_ALLOW=none,1", "none,1", REGISTERS},
        {"MODBUS_WRITE_ALLOW=5,9-8", "5,9-8", "expected the lower register first, as in 200-299\n"},
        {"MQTT_ROOT_CA=/etc/hidden.pem", NULL, "certificate 1: no BEGIN" A_PEM},
        {"MQTT_ROOT_CA=\"", NULL, "certificate 1: no BEGIN" A_PEM},
        {"MQTT_ROOT_CA=''", NULL, "certificate 1: no BEGIN" A_PEM},
        {"MQTT_ROOT_CA_FILE=/nowhere/x", "/nowhere/x",
                "cannot be read: no such file; expected a file with certificates as PEM text\n"},
        {"MQTT_ROOT_CA_FILE=/", "/",
                "cannot be read: it is a directory; expected a file with certificates as PEM text\n"},
        {"MQTT_ROOT_CA_FILE=/dev/null/x", "/dev/null/x",
                "cannot be read: a part of its path is no directory; expected a file with certificates as "
                "PEM "
                "text\n"},
        {"MQTT_ROOT_CA_FILE=/dev/null", "/dev/null",
                "certificate 1: no BEGIN; expected a file with certificates as PEM text\n"},
        {"MQTT_ROOT_CA_FILE=/dev/zero", "/dev/zero",
                "cannot be read: it is too large; expected a file with certificates as PEM text\n"},
        {"MQTT_ROOT_CA_FILE=-----BEGIN hidden\nhidden", NULL, A_TEXT},
        {"MQTT_USERNAME=u", "u", "MQTT_PASSWORD (or MQTT_PASSWORD_FILE) " BOTH},
        {"MQTT_PASSWORD=hidden", NULL, "MQTT_USERNAME " BOTH},
        {"MQTT_PASSWORD_FILE=/dev/null", "/dev/null",
                "MQTT_USERNAME " BOTH "MQTT_PASSWORD_FILE (environment) is \"/dev/null\": the password in it "
                "must have 1 to 4095 bytes, none of them NUL\n"},
};

static void test_bad_values(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof bad_values / sizeof bad_values[0]; i++) {
		const char *set = bad_values[i].set, *shown = bad_values[i].shown;
		char *env[] = {(char *)(uintptr_t)set, "MQTT_BROKER_HOST=h", NULL}, expected[1024];
		int name = (int)strcspn(set, "=");
		snprintf(expected, sizeof expected, "%.*s (environment)%s%s%s: %s", name, set,
		        shown ? " is \"" : "", shown ? shown : "", shown ? "\"" : "", bad_values[i].why);
		assert_false(read_config("/dev/null", env));
		if (strcmp(shortened(&errors), expected) != 0)
			fail_msg("%s:\n%snot\n%s", set, shortened(&errors), expected);
		assert_null(strstr(shortened(&errors), "hidden"));
	}
}

/* Mistakes in a file: its text and all lines of errors. The host is in the environment. */
static const struct {
	const char *name, *file, *errors;
} bad_files[] = {
        {"no name", "=1\n", "A line (F line 1): " A_LINE},
        {"no =", "# x\nhidden\n", "A line (F line 2): " A_LINE},
        {"no = behind a known name", "LOG_LEVEL: hidden\n", "LOG_LEVEL (F line 1): " A_LINE},
        {"no = behind export", "export LOG_LEVEL\n", "LOG_LEVEL (F line 1): " A_LINE},
        {"export alone", "export\n", "A line (F line 1): " A_LINE},
        {"a name that is none", "LOG-LEVEL=1\n", "A line (F line 1): " A_LINE},
        {"an open quote", "\nLOG_LEVEL=\"hidden\n\nMQTT_BROKER_PORT=0\n",
                "LOG_LEVEL (F line 2): " NOT_CLOSED
                "MQTT_BROKER_PORT (F line 4) is \"0\": expected a whole number, 1 to 65535\n"},
        {"an open single quote", "LOG_LEVEL='", "LOG_LEVEL (F line 1): " NOT_CLOSED},
        {"a quote closed by an escaped one", "LOG_LEVEL=\"info\\\"", "LOG_LEVEL (F line 1): " NOT_CLOSED},
        {"a backslash at the end", "LOG_LEVEL=\"info\\", "LOG_LEVEL (F line 1): " NOT_CLOSED},
        {"an open quote before PEM",
                "MQTT_ROOT_CA=\"-----BEGIN X-----\nhidden=\nhid/den==\n-----END X-----\nLOG_LEVEL=bad\n",
                "MQTT_ROOT_CA (F line 1): " NOT_CLOSED
                "LOG_LEVEL (F line 5) is \"bad\": expected error, warn, info or debug\n"},
        {"text behind a quote", "LOG_LEVEL=\"info\"hidden\nMQTT_CLIENT_ID='a'\\''b'",
                "LOG_LEVEL (F line 1): " BEHIND "MQTT_CLIENT_ID (F line 2): " BEHIND},
        {"text behind a quote some lines later", "LOG_LEVEL=\"info\nMQTT_BROKER_PORT=\"1\"\n",
                "LOG_LEVEL (F line 1): " BEHIND},
        {"PEM without quotes",
                "MQTT_ROOT_CA=-----BEGIN X-----\nhid/den\nhidden==\n-----END X-----\n\n# c\n-----BEGIN "
                "X-----\n"
                "hidden\n-----END X-----\nLOG_LEVEL=bad\nxx\n",
                "MQTT_ROOT_CA (F line 1): " SEVERAL "A line (F line 11): " A_LINE
                "LOG_LEVEL (F line 10) is \"bad\": expected error, warn, info or debug\n"},
        {"PEM on the next line without quotes",
                "MQTT_ROOT_CA=\n-----BEGIN X-----\nhidden=\n-----END X-----\nLOG_LEVEL=bad\n",
                "A line (F line 2): " SEVERAL
                "LOG_LEVEL (F line 5) is \"bad\": expected error, warn, info or debug\n"},
        {"a broken line counts as set", "MQTT_USERNAME='u\nMQTT_PASSWORD=p",
                "MQTT_USERNAME (F line 1): " NOT_CLOSED},
        {"a broken line counts as set, alone", "MQTT_USERNAME='u\n",
                "MQTT_USERNAME (F line 1): " NOT_CLOSED
                "MQTT_USERNAME (F line 1): MQTT_PASSWORD (or MQTT_PASSWORD_FILE) " BOTH},
        {"broken lines of both root CAs", "MQTT_ROOT_CA\nMQTT_ROOT_CA_FILE\n",
                "MQTT_ROOT_CA (F line 1): " A_LINE "MQTT_ROOT_CA_FILE (F line 2): " A_LINE
                "MQTT_ROOT_CA (F line 1): MQTT_ROOT_CA_FILE (F line 2) is set, too; expected only one of "
                "them\n"},
        {"a broken root CA", "MQTT_ROOT_CA\n", "MQTT_ROOT_CA (F line 1): " A_LINE},
        {"a line break in a value", "LOG_LEVEL=\"a\n\"\n",
                "LOG_LEVEL (F line 1) is \"a\\x0a\": expected error, warn, info or debug\n"},
        {"both passwords", "MQTT_USERNAME=u\nMQTT_PASSWORD=hidden\nMQTT_PASSWORD_FILE=/x",
                "MQTT_PASSWORD (F line 2): MQTT_PASSWORD_FILE (F line 3) is set, too; expected only one of "
                "them\n"},
        {"both root CAs", "MQTT_ROOT_CA='BEGIN hidden'\nMQTT_ROOT_CA_FILE=/x",
                "MQTT_ROOT_CA (F line 1): MQTT_ROOT_CA_FILE (F line 2) is set, too; expected only one of "
                "them\n"},
        {"the last one wins, right or wrong", "LOG_LEVEL=warn\nLOG_LEVEL=bad\n",
                "LOG_LEVEL (F line 2) is \"bad\": expected error, warn, info or debug\n"},
        {"all at once",
                "MQTT_BROKER_PORT=x\nWEB_CONTAINER_HOST=a b\nWEB_CONTAINER_PORT=\"\ny\"\nMQTT_ROOT_CA=z\n"
                "MQTT_USERNAME=\x01\nMQTT_CLIENT_ID='\x02'\nMQTT_TOPIC_PREFIX=#\nMQTT_KEEPALIVE=1\n"
                "MQTT_JWT_LIFETIME=1\nMQTT_JWT_DATES=1\nSTATE_INTERVAL=-\nWEB_CONTAINER_TIMEOUT=0\n"
                "MODBUS_WRITE_ALLOW=x\nLOG_LEVEL=y\nwhat",
                "A line (F line 16): " A_LINE
                "MQTT_BROKER_PORT (F line 1) is \"x\": expected a whole number, 1 to 65535\n"
                "WEB_CONTAINER_HOST (F line 2) is \"a b\": " A_HOST
                "WEB_CONTAINER_PORT (F line 3) is \"\\x0a\": expected a whole number, 1 to 65535\n"
                "MQTT_USERNAME (F line 6) is \"\\x01\": " A_TEXT
                "MQTT_CLIENT_ID (F line 7) is \"\\x02\": " A_TEXT
                "MQTT_TOPIC_PREFIX (F line 8) is \"#\": expected no + or #, they are MQTT's wildcards\n"
                "MQTT_KEEPALIVE (F line 9) is \"1\": expected a whole number, 5 to 65535\n"
                "MQTT_JWT_LIFETIME (F line 10) is \"1\": expected a whole number, 20 to 86400\n"
                "MQTT_JWT_DATES (F line 11) is \"1\": expected auto, numeric or iso8601\n"
                "STATE_INTERVAL (F line 12) is \"-\": expected a whole number, 1 to 3600\n"
                "WEB_CONTAINER_TIMEOUT (F line 13) is \"0\": expected a whole number, 1 to 300\n"
                "MODBUS_WRITE_ALLOW (F line 14) is \"x\": " REGISTERS
                "LOG_LEVEL (F line 15) is \"y\": expected error, warn, info or debug\n"
                "MQTT_ROOT_CA (F line 5): certificate 1: no BEGIN" A_PEM
                "MQTT_USERNAME (F line 6) is \"\\x01\": MQTT_PASSWORD (or MQTT_PASSWORD_FILE) " BOTH},
};

static void test_bad_files(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof bad_files / sizeof bad_files[0]; i++) {
		char *env[] = {"MQTT_BROKER_HOST=h", NULL};
		write_file(path, bad_files[i].file, strlen(bad_files[i].file));
		assert_false(read_config(path, env));
		if (strcmp(shortened(&errors), bad_files[i].errors) != 0)
			fail_msg(
			        "%s:\n%snot\n%s", bad_files[i].name, shortened(&errors), bad_files[i].errors);
		assert_null(strstr(shortened(&errors), "hid"));
		assert_null(strstr(shortened(&warnings), "hid"));
	}
}

static void test_files_that_cannot_be_read(void **state)
{
	(void)state;
	char *none[] = {NULL}, *env[] = {"MQTT_BROKER_HOST=h", NULL},
	     *bad[] = {"LOG_LEVEL=x", "MQTT_USERNAME=u", NULL};
	static char big[CONFIG_FILE_BYTES];
	char *here = getcwd(NULL, 0);
	assert_non_null(here);

	/* mqtt.env need not be there; another file does */
	assert_int_equal(chdir(dir), 0);
	assert_true(read_config(NULL, env));
	assert_false(read_config(NULL, none));
	assert_string_equal(shortened(&errors),
	        "MQTT_BROKER_HOST is not set in the environment or mqtt.env (not found): "
	        "expected the broker's name or IP address\n");
	assert_int_equal(mkdir("mqtt.env", 0700), 0);
	assert_false(read_config(NULL, env));
	assert_string_equal(shortened(&errors),
	        "mqtt.env cannot be read: it is a directory; expected NAME=value lines in UTF-8\n");
	assert_int_equal(rmdir("mqtt.env"), 0);
	assert_int_equal(symlink("mqtt.env", "mqtt.env"), 0);
	assert_false(read_config(NULL, env));
	assert_string_equal(shortened(&errors),
	        "mqtt.env cannot be read: too many symbolic links; expected NAME=value lines in UTF-8\n");
	assert_int_equal(unlink("mqtt.env"), 0);
	write_file("mqtt.env", "MQTT_BROKER_HOST=h\nLOG_LEVEL=warn", 33);
	assert_true(read_config(NULL, none));
	assert_string_equal(fields(), "log_level=1 ");
	assert_int_equal(unlink("mqtt.env"), 0);
	assert_int_equal(chdir(here), 0);
	free(here);

	/* what may be in such a file is not called missing; other mistakes are told */
	assert_false(read_config("/nowhere\x1b/x", bad));
	assert_string_equal(shortened(&errors),
	        "/nowhere\\x1b/x cannot be read: no such file; expected NAME=value lines in UTF-8\n"
	        "LOG_LEVEL (environment) is \"x\": expected error, warn, info or debug\n");

	memset(big, '\n', sizeof big);
	write_file(path, big, sizeof big - 1);
	assert_true(read_config(path, env));
	write_file(path, big, sizeof big);
	assert_false(read_config(path, env));
	assert_string_equal(shortened(&errors),
	        "F cannot be read: it is too large; expected NAME=value lines in UTF-8\n");

	write_file(path, "L\0O\0G\0", 6);
	assert_false(read_config(path, none));
	assert_string_equal(shortened(&errors), "F has a NUL byte; expected NAME=value lines in UTF-8\n");
}

/* Lengths at their limits: a variable, the most bytes that it takes, and the end of the sentence. */
static void test_lengths(void **state)
{
	(void)state;
	static const struct {
		const char *name;
		size_t most;
		const char *why;
	} limits[] = {{"MQTT_CLIENT_ID", 128, ": is too long, expected bytes: 1 to 128\n"},
	        {"MQTT_TOPIC_PREFIX", 128, ": is too long, expected bytes: 1 to 128\n"},
	        {"STATUS_SOCKET", 107, ": is too long, expected bytes: 1 to 107\n"},
	        {"MQTT_USERNAME", 255, ": is too long, expected bytes: 1 to 255\n"},
	        {"MQTT_PASSWORD", 4095, ": is too long, expected bytes: 1 to 4095\n"}};
	static char entry[8192];
	for (size_t i = 0; i < sizeof limits / sizeof limits[0]; i++) {
		char *env[] = {entry, "MQTT_BROKER_HOST=h", "MQTT_USERNAME=u", "MQTT_PASSWORD=p", NULL};
		for (size_t more = 0; more < 2; more++) {
			int n = sprintf(entry, "%s=", limits[i].name);
			memset(entry + n, 'a', limits[i].most + more);
			entry[(size_t)n + limits[i].most + more] = 0;
			if (read_config("/dev/null", env) != (more == 0))
				fail_msg("%s %zu: %s", limits[i].name, more, shortened(&errors));
			if (more == 0 && !strstr(fields(), entry + n))
				fail_msg("%s is not in %s", limits[i].name, fields());
			if (more == 1 && !strstr(shortened(&errors), limits[i].why))
				fail_msg("%s: %s", limits[i].name, shortened(&errors));
		}
	}
	/* names of hosts (RFC 1035 §2.3.4), labels and zones without end */
	static const struct {
		size_t label, labels, rest;
		bool ok;
	} hosts[] = {{63, 1, 0, true}, {64, 1, 0, false}, {63, 3, 61, true}, {63, 3, 62, false}};
	for (size_t i = 0; i < sizeof hosts / sizeof hosts[0]; i++) {
		char *env[] = {entry, NULL}, *to = entry + sprintf(entry, "MQTT_BROKER_HOST=");
		for (size_t k = 0; k < hosts[i].labels; k++)
			to += sprintf(to, "%s%.*s", k ? "." : "", (int)hosts[i].label,
			        "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx");
		sprintf(to, "%s%.*s", hosts[i].rest ? "." : "", (int)hosts[i].rest,
		        "yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy");
		if (read_config("/dev/null", env) != hosts[i].ok)
			fail_msg("host %zu: %s", i, shortened(&errors));
	}
	for (size_t zeros = 240; zeros < 600; zeros++) {
		char *env[] = {entry, NULL};
		sprintf(entry, "MQTT_BROKER_HOST=fe80::1%%%0*d", (int)zeros, 1);
		assert_int_equal(read_config("/dev/null", env), zeros + 8 <= 253);
	}
	/* 64 ranges, not 65 */
	for (int ranges = 64; ranges <= 65; ranges++) {
		char *env[] = {entry, "MQTT_BROKER_HOST=h", NULL};
		char *to = entry + sprintf(entry, "MODBUS_WRITE_ALLOW=0");
		for (int k = 1; k < ranges; k++)
			to += sprintf(to, ",%d", k);
		assert_int_equal(read_config("/dev/null", env), ranges == 64);
		assert_int_equal(config.bridge.write_allows, 64);
	}
	assert_non_null(strstr(shortened(&errors), "expected at most 64 registers and ranges\n"));
}

/* Values end where they end: the bytes behind them, which would make them right or wrong, are not read. */
static void test_ends(void **state)
{
	(void)state;
	static const struct {
		const char *name, *value;
		bool ok;
	} cases[] = {{"cut UTF-8", "a\xc3", false}, {"cut UTF-8 of 3", "\xe2\x82", false},
	        {"cut UTF-8 of 4", "\xf0\x9f\x98", false}, {"UTF-8", "\xf0\x9f\x98\x80", true},
	        {"cut braces", "a/{serial", false}, {"braces", "a/{serial}", true}};
	unsigned char memory[256];
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		struct buf why = BUF(memory);
		size_t n = strlen(cases[i].value);
		unsigned char *p = guarded_copy(cases[i].value, n);
		struct slice s = {p, n};
		if ((is_text(s) && check_prefix(s, &why)) != cases[i].ok)
			fail_msg("%s", cases[i].name);
		guarded_free(p, n);
	}
}

static void test_password_file(void **state)
{
	(void)state;
	static char long_one[4097];
	memset(long_one, 'p', sizeof long_one);
	long_one[4095] = '\n';
	static const struct {
		const char *name, *content;
		size_t n;
		const char *password; /* NULL: refused */
	} cases[] = {{"plain", "p#\"'", 4, "p#\"'"}, {"newline", "p\n", 2, "p"}, {"CRLF", "p\r\n", 3, "p"},
	        {"only one newline is stripped", "\np\n\n", 4, "\np\n"},
	        {"a CR alone stays", "p\r", 2, "p\r"}, {"empty", "", 0, NULL},
	        {"newline only", "\n", 1, NULL}, {"CRLF only", "\r\n", 2, NULL}, {"NUL", "hid\0den", 7, NULL},
	        {"the longest", long_one, 4096, long_one}, {"too long", long_one, 4097, NULL}};
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		char file[256];
		int n = snprintf(file, sizeof file,
		        "MQTT_USERNAME=u\nMQTT_BROKER_HOST=h\nMQTT_PASSWORD_FILE=%s\n", other);
		char *none[] = {NULL};
		write_file(path, file, (size_t)n);
		write_file(other, cases[i].content, cases[i].n);
		bool ok = read_config(path, none);
		if (ok != (cases[i].password != NULL))
			fail_msg("%s: %s", cases[i].name, shortened(&errors));
		if (!ok) {
			assert_string_equal(shortened(&errors), "MQTT_PASSWORD_FILE (F line 3) is \"O\": the "
			                                        "password in it must have 1 to 4095 "
			                                        "bytes, none of them NUL\n");
			continue;
		}
		size_t length = cases[i].password == long_one ? 4095 : strlen(cases[i].password);
		assert_true(config.bridge.has_login);
		assert_int_equal(strlen(config.bridge.password), length);
		assert_memory_equal(config.bridge.password, cases[i].password, length);
		assert_string_equal(config.bridge.user_name, "u");
	}
	unlink(other);
	char *none[] = {NULL};
	assert_false(read_config(path, none));
	assert_string_equal(
	        shortened(&errors), "MQTT_PASSWORD_FILE (F line 3) is \"O\": cannot be read: no such file\n");
}

static void test_anchors_again(void **state)
{
	(void)state;
	unsigned char memory[256];
	struct buf why = BUF(memory);
	bool changed = false;
	char entry[128], *env[] = {entry, "MQTT_BROKER_HOST=h", NULL};
	snprintf(entry, sizeof entry, "MQTT_ROOT_CA_FILE=%s", other);
	write_file(other, "BEGIN 1", 7);
	assert_true(read_config("/dev/null", env));
	assert_string_equal(fields(), "pem=BEGIN 1 ");
	write_file(other, "BEGIN 2", 7);
	assert_true(config_read_anchors(&config, no_anchors, &changed, &why) && changed);
	assert_string_equal(anchors_pem, "BEGIN 2");
	anchors = ANCHORS_NONE;
	assert_true(config_read_anchors(&config, no_anchors, &changed, &why) && !changed);
	assert_int_equal(anchors, ANCHORS_NONE); /* nor read again */
	assert_int_equal(text_n, 0);
	write_file(other, "x", 1);
	assert_false(config_read_anchors(&config, no_anchors, &changed, &why) || changed);
	assert_slice(buf_slice(&why), "certificate 1: no BEGIN");
	unlink(other);
	why = BUF(memory);
	changed = true;
	assert_false(config_read_anchors(&config, no_anchors, &changed, &why) || changed);
	assert_slice(buf_slice(&why), "cannot be read: no such file");
	config.root_ca_file[0] = 0;
	anchors = ANCHORS_NONE;
	assert_true(config_read_anchors(&config, no_anchors, &changed, &why) && !changed);
	assert_int_equal(anchors, ANCHORS_NONE);
}

/* Every prefix of a file with all of the syntax in it, against the guard page: no byte too far is read, and
 * what is reported has no more lines than the prefix, and names none behind its end. */
static void test_prefixes(void **state)
{
	(void)state;
	static const char whole[] =
	        "\xef\xbb\xbf# c\r\nexport MQTT_BROKER_HOST = \"h\\\\\\\"\\n\\x\" # "
	        "c\nMQTT_ROOT_CA='-----BEGIN X\n"
	        "AB==\n-----END X-----\n'\nMQTT_KEEPALIVE=6 #\n export\tFOO= a # b\nMQTT_ROOT_CA=-----BEGIN "
	        "X-----\n"
	        "AB==\n-----END X-----\nLOG_LEVEL=\"info\" x\nexport LOG_LEVEL\nMQTT_USERNAME=\"a\nb\\";
	for (size_t n = 0; n < sizeof whole; n++) {
		unsigned char *p = guarded_copy(whole, n);
		errors = BUF(errors_memory);
		warnings = BUF(warnings_memory);
		struct reader r = {
		        .c = &config, .file = "F", .errors = &errors, .warnings = &warnings, .p = p, .n = n};
		size_t lines = 1;
		for (size_t i = 0; i < n; i++)
			lines += whole[i] == '\n';
		read_lines(&r);
		assert_int_equal(r.at, n);
		assert_in_range(r.line, lines, lines + 1); /* + 1: behind a last line without its end */
		for (size_t v = 0; v < VARIABLES; v++) {
			struct found f = r.found[v];
			assert_true(f.line <= lines);
			assert_true(f.value.n == 0 ||
			            (f.value.p >= p && f.value.n <= (size_t)(p + n - f.value.p)));
		}
		if (n + 1 == sizeof whole) {
			size_t mistakes = 0;
			for (size_t i = 0; i < errors.n; i++)
				mistakes += errors.p[i] == '\n';
			assert_int_equal(mistakes, 5);
			assert_slice(r.found[BROKER_HOST].value, "h\\\"\n\\x");
		}
		guarded_free(p, n);
	}
}

/* The example is what people copy: it must be right as it is, and when its settings are made live. */
static void test_example(void **state)
{
	(void)state;
	static char example[16384], live[16384];
	char *none[] = {NULL};
	FILE *f = fopen("mqtt.env.example", "rb");
	assert_non_null(f);
	size_t n = fread(example, 1, sizeof example - 1, f);
	fclose(f);
	assert_in_range(n, 1, sizeof example - 2);
	if (!read_config("mqtt.env.example", none) || warnings.n > 0)
		fail_msg("%s%s", shortened(&errors), shortened(&warnings));
	assert_string_equal(fields(), "broker_host=broker.example.com ");
	for (size_t v = 0; v < VARIABLES; v++) {
		char mark[64];
		int times = 0, length = snprintf(mark, sizeof mark, "\n#%s=", variables[v].name);
		for (const char *at = example; (at = strstr(at, mark)); at++) {
			const char *usual = next(next(variables[v].name)), *value = at + length;
			times++;
			if (usual[0] &&
			        (strncmp(value, usual, strlen(usual)) != 0 || value[strlen(usual)] != '\n'))
				fail_msg("the example has another default of %s", variables[v].name);
		}
		mark[1] = '\n'; /* not as a comment */
		for (const char *at = example; (at = strstr(at, mark + 1)); at++)
			times++;
		if (times != 1)
			fail_msg("the example has %s %d times", variables[v].name, times);
	}
	/* with all of its comment signs taken away it is all known, and only what excludes each other is told
	 */
	char *to = live;
	for (const char *at = example; *at; at++)
		if (!(*at == '#' && (at == example || at[-1] == '\n') && at[1] != ' ' && at[1] != '\n'))
			*to++ = *at;
	write_file(path, live, (size_t)(to - live));
	read_config(path, none);
	assert_int_equal(warnings.n, 0);
	for (char *line = strtok((char *)(uintptr_t)shortened(&errors), "\n"); line;
	        line = strtok(NULL, "\n"))
		if (!strstr(line, "is set, too"))
			fail_msg("%s", line);
}

/* Who only asks needs no anchors: what is wrong with them is not its business, everything else is. */
static void test_no_anchors(void **state)
{
	(void)state;
	char *env[] = {"MQTT_BROKER_HOST=h", "MQTT_ROOT_CA_FILE=/nowhere", "HEALTH_GRACE=7", NULL};
	errors = BUF(errors_memory);
	warnings = BUF(warnings_memory);
	anchors = ANCHORS_NONE;
	assert_true(config_read(&config, NULL, "/dev/null", env, &errors, &warnings));
	assert_int_equal(anchors, ANCHORS_NONE);
	assert_int_equal(config.health_grace_s, 7);
	env[2] = "HEALTH_GRACE=x";
	assert_false(config_read(&config, NULL, "/dev/null", env, &errors, &warnings));
}

static void test_describe(void **state)
{
	(void)state;
	static unsigned char memory[3072];
	struct buf b = BUF(memory);
	config_describe(&b);
	const char *text_of = buf_cstr(&b), *at = text_of;
	assert_false(b.full);
	for (size_t v = 0; v < VARIABLES; v++) {
		char beginning[64], usual[64];
		const char *fallback = next(next(variables[v].name));
		int length = snprintf(beginning, sizeof beginning, "  %-23s", variables[v].name);
		size_t columns = strcspn(at, "\n");
		if (strncmp(at, beginning, (size_t)length) != 0 || columns > 79 || at[columns] != '\n')
			fail_msg("%s: %.*s", variables[v].name, (int)columns, at);
		snprintf(usual, sizeof usual, " (default %s)\n", fallback);
		if (fallback[0] && strncmp(at + columns + 1 - strlen(usual), usual, strlen(usual)) != 0)
			fail_msg("%s: no default", variables[v].name);
		at += columns + 1;
	}
	assert_string_equal(at, "A variable whose value is empty counts as not set.\n");
	assert_non_null(strstr(text_of, ", 20 to 86400 (default 300)\n"));
	assert_non_null(strstr(text_of, ": auto, numeric or iso8601 (default auto)\n"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_good),
	        cmocka_unit_test(test_bad_values),
	        cmocka_unit_test(test_bad_files),
	        cmocka_unit_test(test_files_that_cannot_be_read),
	        cmocka_unit_test(test_lengths),
	        cmocka_unit_test(test_ends),
	        cmocka_unit_test(test_password_file),
	        cmocka_unit_test(test_anchors_again),
	        cmocka_unit_test(test_prefixes),
	        cmocka_unit_test(test_example),
	        cmocka_unit_test(test_no_anchors),
	        cmocka_unit_test(test_describe),
	};
	return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
