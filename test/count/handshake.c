/* A whole TLS handshake in memory, then another that resumes it: tls.c's client against BearSSL's server with
 * an RSA 2048 leaf, an intermediate, and a root that is the anchor. Prints how many bytes the handshake that
 * it is asked for ("full" or "resumed") took; test/count/run runs it under callgrind, which counts the
 * instructions that the client spends below client_counted. Asked for "stack" it prints how many bytes of
 * stack the client took in both. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <ucontext.h>

#include "tls.h"

static struct tls client;
static struct tls_anchors anchors;
static br_ssl_server_context server;
static unsigned char server_in[BR_SSL_BUFSIZE_INPUT], server_out[BR_SSL_BUFSIZE_OUTPUT], cache_mem[4096];
static size_t bytes;
static int64_t now_s;

static void need(bool holds, const char *what)
{
	if (!holds) {
		fprintf(stderr, "handshake: %s\n", what);
		exit(1);
	}
}

static struct slice read_file(const char *folder, const char *name)
{
	static unsigned char mem[64 * 1024];
	static size_t used;
	char path[512];
	snprintf(path, sizeof path, "%s/%s", folder, name);
	FILE *f = fopen(path, "rb");
	need(f != NULL, path);
	struct slice s = {mem + used, fread(mem + used, 1, sizeof mem - used, f)};
	fclose(f);
	used += s.n;
	need(s.n > 0 && used < sizeof mem, path);
	return s;
}

static void server_init(const char *folder)
{
	static br_skey_decoder_context key;
	static br_x509_certificate chain[2];
	static br_ssl_session_cache_lru cache;
	static const char *const names[] = {"leaf.der", "inter.der"};
	for (int i = 0; i < 2; i++) {
		struct slice der = read_file(folder, names[i]);
		chain[i] = (br_x509_certificate){(unsigned char *)der.p, der.n};
	}
	struct slice der = read_file(folder, "leaf.key.der");
	br_skey_decoder_init(&key);
	br_skey_decoder_push(&key, der.p, der.n);
	need(br_skey_decoder_get_rsa(&key) != NULL, "the server's key can't be read");
	br_ssl_server_init_full_rsa(&server, chain, 2, br_skey_decoder_get_rsa(&key));
	br_ssl_session_cache_lru_init(&cache, cache_mem, sizeof cache_mem);
	br_ssl_server_set_cache(&server, &cache.vtable);
	br_ssl_engine_set_buffers_bidi(
	        &server.eng, server_in, sizeof server_in, server_out, sizeof server_out);
	br_ssl_engine_inject_entropy(&server.eng, "server", 6);
}

/* Everything that the client does: at first (p is NULL) it begins, then it takes n bytes of the server's. */
static void client_works(const unsigned char *p, size_t n)
{
	static const unsigned char entropy[TLS_ENTROPY_BYTES] = {1, 2, 3};
	br_ssl_engine_context *e = &client.client.eng;
	size_t room;
	if (p == NULL) {
		tls_begin(&client, "broker.test", &anchors, now_s, entropy);
		return;
	}
	memcpy(br_ssl_engine_recvrec_buf(e, &room), p, n);
	br_ssl_engine_recvrec_ack(e, n);
	if ((br_ssl_engine_current_state(e) & BR_SSL_SENDAPP) != 0)
		tls_established(&client, now_s);
}

__attribute__((noinline)) void client_counted(const unsigned char *p, size_t n);
void client_counted(const unsigned char *p, size_t n)
{
	client_works(p, n);
	__asm__ volatile("" : : : "memory"); /* no tail call: callgrind has to see the end */
}

/* The same on a stack of its own, which is zero where nothing has been. */
static unsigned char stack[256 * 1024];
static struct slice given;

static void work_given(void)
{
	client_works(given.p, given.n);
}

static void client_measured(const unsigned char *p, size_t n)
{
	static ucontext_t here, there;
	given = (struct slice){p, n};
	need(getcontext(&there) == 0, "no context");
	there.uc_stack.ss_sp = stack;
	there.uc_stack.ss_size = sizeof stack;
	there.uc_link = &here;
	makecontext(&there, work_given, 0);
	need(swapcontext(&here, &there) == 0, "no context");
}

static size_t stack_used(void)
{
	size_t untouched = 0;
	while (stack[untouched] == 0)
		untouched++;
	return sizeof stack - untouched;
}

/* Moves what one side has to send. */
static bool to_server(void)
{
	size_t have, room;
	unsigned char *p = br_ssl_engine_sendrec_buf(&client.client.eng, &have);
	unsigned char *q = br_ssl_engine_recvrec_buf(&server.eng, &room);
	if (p == NULL || q == NULL)
		return false;
	have = have < room ? have : room;
	memcpy(q, p, have);
	br_ssl_engine_sendrec_ack(&client.client.eng, have);
	br_ssl_engine_recvrec_ack(&server.eng, have);
	bytes += have;
	return true;
}

static bool to_client(void (*works)(const unsigned char *, size_t))
{
	size_t have, room;
	unsigned char *p = br_ssl_engine_sendrec_buf(&server.eng, &have);
	if (p == NULL || br_ssl_engine_recvrec_buf(&client.client.eng, &room) == NULL)
		return false;
	have = have < room ? have : room;
	works(p, have);
	br_ssl_engine_sendrec_ack(&server.eng, have);
	bytes += have;
	return true;
}

static void shake_hands(void (*works)(const unsigned char *, size_t))
{
	bytes = 0;
	need(br_ssl_server_reset(&server), "the server does not start");
	works(NULL, 0);
	for (bool moved = true; moved;) {
		moved = to_server();
		moved |= to_client(works);
	}
	need((br_ssl_engine_current_state(&client.client.eng) & BR_SSL_SENDAPP) != 0,
	        tls_why(&client) ? tls_why(&client) : "the handshake does not end");
}

int main(int argc, char **argv)
{
	unsigned char mem[200];
	struct buf why = BUF(mem);
	need(argc == 3, "usage: handshake FOLDER full|resumed|stack");
	bool measured = strcmp(argv[2], "stack") == 0, resumed = measured || strcmp(argv[2], "resumed") == 0;
	need(tls_anchors_read(&anchors, read_file(argv[1], "root.crt"), &why), "the root can't be read");
	server_init(argv[1]);
	now_s = time(NULL);
	shake_hands(measured ? client_measured : resumed ? client_works : client_counted);
	need(client.check.certs == 2, "the first handshake is not a full one");
	need(br_ssl_engine_get_ecdhe_curve(&client.client.eng) == BR_EC_curve25519,
	        "the curve is not X25519");
	if (resumed) {
		tls_end(&client);
		shake_hands(measured ? client_measured : client_counted);
		need(client.resuming && client.check.certs == 0, "the second handshake is not a resumed one");
	}
	if (measured)
		printf("%zu\n", stack_used());
	else
		printf("%zu bytes, suite %04x\n", bytes, client.client.eng.session.cipher_suite);
	return 0;
}
