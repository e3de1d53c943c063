/* config_read. The input is mqtt.env, then, behind a byte 0xff each, one variable of the environment a line,
 * and what every other file holds. No file is opened, none written. */
// uses: buf.c dns.c fd.c
// longest input: 1024
// when runs count: -max_len=300
#include <errno.h>
#include <fcntl.h>
#include <sanitizer/asan_interface.h>
#include <sys/types.h>
#include <unistd.h>

#include "fuzz.h"

static int fuzz_open(const char *path, int flags);
static ssize_t fuzz_read(int fd, void *p, size_t n);
static int fuzz_close(int fd);
#define open  fuzz_open
#define read  fuzz_read
#define close fuzz_close
#include "../../config.c"
#include "../doubles.h"

static struct slice file[2]; /* mqtt.env, the others */

static int fuzz_open(const char *path, int flags)
{
	(void)flags;
	bool other = strcmp(path, "mqtt.env") != 0;
	ASAN_UNPOISON_MEMORY_REGION(text, sizeof text);
	errno = strlen(path) % 2 ? ENOENT : EPERM;
	return file[other].p == NULL ? -1 : other;
}

/* Up to 100 bytes a call. What lies behind the file's end is poisoned. */
static ssize_t fuzz_read(int fd, void *p, size_t n)
{
	CHECK(fd == 0 || fd == 1); /* else it is a real file's */
	struct slice s = cut(&file[fd], n < 100 ? n : 100);
	memcpy(p, s.p, s.n);
	if (s.n == 0)
		ASAN_POISON_MEMORY_REGION(p, n);
	return (ssize_t)s.n;
}

static int fuzz_close(int fd)
{
	return fd < 0;
}

/* Doubles of tls.c: PEM text has a target of its own. */
void tls_anchors_embedded(struct tls_anchors *a)
{
	a->n = 5;
}

bool tls_anchors_read(struct tls_anchors *a, struct slice pem, struct buf *why)
{
	a->n = slice_find(pem, "BEGIN") < pem.n;
	if (a->n == 0)
		buf_put_str(why, "certificate 1: no BEGIN");
	return a->n > 0;
}

/* Is every SECRET in the text one line's value of MQTT_PASSWORD? Then no message may have it. */
static bool secret_is_secret(struct slice s)
{
	static const char before[] = "\nMQTT_PASSWORD=SECRET";
	for (size_t at; (at = slice_find(s, "SECRET")) < s.n; cut(&s, at + 6))
		if (at < 15 || memcmp(s.p + at - 15, before, 21) != 0)
			return false;
	return true;
}

/* The environment that the lines spell. */
static void make_environment(struct slice s, char *memory, char **envp, size_t max)
{
	if (s.n > 0)
		memcpy(memory, s.p, s.n);
	memory[s.n] = 0;
	for (char *line = strtok(memory, "\n"); line != NULL && max > 1; line = strtok(NULL, "\n"), max--)
		*envp++ = line;
	*envp = NULL;
}

static bool ends(const char *s, size_t cap)
{
	return memchr(s, 0, cap) != NULL;
}

static void check_config(const struct config *c)
{
	const struct bridge_config *b = &c->bridge;
	CHECK(b->broker_host[0] != 0 && ends(b->broker_host, sizeof b->broker_host));
	CHECK(ends(b->api_host, sizeof b->api_host) && ends(b->tls_server_name, sizeof b->tls_server_name));
	CHECK(ends(b->user_name, sizeof b->user_name) && ends(b->password, sizeof b->password));
	CHECK(ends(b->client_id, sizeof b->client_id) && ends(b->topic_prefix, sizeof b->topic_prefix));
	CHECK(ends(c->root_ca_file, CONFIG_PATH_BYTES) && ends(c->password_file, CONFIG_PATH_BYTES));
	CHECK(b->broker_port > 0 && b->api_port > 0 && b->keep_alive_s >= 5 && b->token_lifetime_s >= 20);
	CHECK(b->state_interval_s >= 1 && b->api_timeout_s >= 1 && b->write_allows <= BRIDGE_RANGES);
	CHECK(b->has_login == (b->user_name[0] != 0) && b->has_login == (b->password[0] != 0));
	for (size_t i = 0; i < b->write_allows; i++)
		CHECK(b->write_allow[i].first <= b->write_allow[i].last);
}

/* Lines of text alone. */
static void check_messages(const struct buf *b, bool any)
{
	CHECK(!b->full && (b->n > 0) == any && (!any || b->p[b->n - 1] == '\n'));
	for (size_t i = 0; i < b->n; i++)
		CHECK(b->p[i] == '\n' || (b->p[i] >= ' ' && b->p[i] != 0x7f));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct config c;
	static struct tls_anchors a;
	static unsigned char errors_memory[1 << 20], warnings_memory[1 << 20];
	struct buf errors = BUF(errors_memory), warnings = BUF(warnings_memory);
	char *envp[40], *memory = malloc(size + 1);
	struct slice in = {data, size}, part[3] = {{NULL, 0}, {NULL, 0}, {NULL, 0}};
	for (size_t i = 0; i < 3 && in.p != NULL; i++) {
		const unsigned char *end = i < 2 && in.n > 0 ? memchr(in.p, 0xff, in.n) : NULL;
		part[i] = end != NULL ? cut(&in, (size_t)(end - in.p)) : in;
		cut(&in, end != NULL ? 1 : in.n);
		in.p = end != NULL ? in.p : NULL;
	}
	make_environment(part[1], memory, envp, 40);
	file[0] = part[0];
	file[1] = part[2];
	memset(&c, 0xa5, sizeof c);
	a.n = 0;
	bool ok = config_read(&c, &a, NULL, envp, &errors, &warnings);
	ASAN_UNPOISON_MEMORY_REGION(text, sizeof text);
	CHECK(text_n == 0);
	for (size_t i = 0; i < 64; i++)
		CHECK(text[i] == 0);
	check_messages(&errors, !ok);
	check_messages(&warnings, warnings.n > 0);
	if (ok) {
		check_config(&c);
		CHECK(a.n > 0);
	}
	if (secret_is_secret((struct slice){data, size}))
		CHECK(slice_find(buf_slice(&errors), "SECRET") == errors.n &&
		        slice_find(buf_slice(&warnings), "SECRET") == warnings.n);
	free(memory);
	return 0;
}
