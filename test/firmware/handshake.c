/* What a TLS handshake costs on the emulated board, in instructions: test/count/handshake.c's, with its
 * certificates, where QEMU counts (-icount shift=0).
 *
 *	image FOLDER */
#define main handshake_main /* all of it but that */
int handshake_main(int argc, char **argv);
#include "../count/handshake.c"
#undef main

#include "board/board.h"
#include "count_root.h" /* made by test/roots.c of the root there */

enum { INSTRUCTIONS_PER_TICK = 40 };
static uint32_t all, longest;

static void count_from(uint32_t start)
{
	uint32_t ticks = board_ticks() - start;
	all += ticks;
	longest = ticks > longest ? ticks : longest;
}

static void client_timed(const unsigned char *p, size_t n)
{
	uint32_t start = board_ticks();
	client_works(p, n);
	count_from(start);
}

static void tell(const char *what)
{
	printf("%s: %.1f million instructions, at most %.1f without a pause\n", what,
	        all * (INSTRUCTIONS_PER_TICK / 1e6), longest * (INSTRUCTIONS_PER_TICK / 1e6));
	all = longest = 0;
}

/* The heart of a signature's verification: u G + v Q, where Q is G here. */
static void count_curve(const char *what, int curve)
{
	unsigned char point[97], u[48];
	size_t n, size;
	const unsigned char *g = br_ec_prime_i31.generator(curve, &n);
	br_ec_prime_i31.order(curve, &size);
	memcpy(point, g, n);
	memset(u, 0x5a, sizeof u);
	uint32_t start = board_ticks();
	need(br_ec_prime_i31.muladd(point, NULL, n, u, size, u, size, curve) == 1, what);
	count_from(start);
	tell(what);
}

/* The server sends n bytes at once. */
static void server_sends(size_t n)
{
	size_t room, size;
	for (br_ssl_engine_context *e = &server.eng; n > 0; n -= size) {
		unsigned char *p = br_ssl_engine_sendapp_buf(e, &room);
		need(p != NULL, "the server can't send");
		size = n < room ? n : room;
		memset(p, 'x', size);
		br_ssl_engine_sendapp_ack(e, size);
		br_ssl_engine_flush(e, 0);
		while (to_client(client_works)) {
			size_t have;
			if (br_ssl_engine_recvapp_buf(&client.client.eng, &have) != NULL)
				br_ssl_engine_recvapp_ack(&client.client.eng, have);
		}
	}
}

/* RFC 6066 §4: the server is asked for records that our buffers hold. Some do not listen. */
static void limit_records(void)
{
	size_t asked = server.eng.max_frag_len, most = TLS_IN_BYTES - 325;
	server_sends(10000);
	need(tls_error(&client) == 0 && asked < most, "records come that were not asked for");
	printf("ok - records of %u bytes, as they were asked for\n", (unsigned)asked);
	server.eng.max_frag_len = 16384; /* as if it had not listened */
	server_sends(most);
	need(tls_error(&client) == 0, "a record that fits is refused");
	printf("ok - one of %u bytes, which was not\n", (unsigned)most);
	if (most >= 16384)
		return;
	server_sends(most + 325);
	need(tls_error(&client) == BR_ERR_TOO_LARGE, "a record that does not fit is not refused");
	printf("ok - one of %u bytes: %s\n", (unsigned)most + 325, tls_why(&client));
}

int main(int argc, char **argv)
{
	need(argc == 2, "usage: handshake FOLDER");
	anchors =
	        (struct tls_anchors){.list = root_anchors, .n = sizeof root_anchors / sizeof root_anchors[0]};
	server_init(argv[1]);
	now_s = time(NULL);
	shake_hands(client_timed);
	need(client.check.certs == 2, "the first handshake is not a full one");
	tell("TLS handshake, X25519 and two certificates of RSA 2048");
	tls_end(&client);
	shake_hands(client_timed);
	need(client.resuming && client.check.certs == 0, "the second handshake is not a resumed one");
	tell("TLS handshake, resumed");
	limit_records();
	count_curve("each signature on P-256", BR_EC_secp256r1);
	count_curve("each signature on P-384", BR_EC_secp384r1);
	return 0;
}
