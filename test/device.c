/* The test device: a Modbus TCP server with 65536 holding and 65536 input registers, for the test gateway.
 *
 *	build/test/device [--port 0] [--bind 127.0.0.1] [--delay-ms 0]
 *
 * Prints one line when it listens: {"port": 40003}. Ends on SIGTERM and SIGINT, and when the thread that
 * started it ends. --delay-ms: waits before each answer. Any number of clients (up to select's limit), one
 * call at a time. Any unit id.
 *
 * At start holding register A holds A, input register A holds 65535 - A, but for these in both:
 *	10056		42
 *	100, 101	7FC0 0000	F32 NaN
 *	102, 103	7F80 0000	F32 Infinity
 *	104, 105	FF80 0000	F32 -Infinity
 *	106, 107	4148 0000	F32 12.5
 *	200 to 203	FFFF each	U64 18446744073709551615 (1.8446744073709552e+19), S16 -1
 *	300 to 304	"iamcat dev"	STR, size 5 */
#include <errno.h>
#include <modbus/modbus.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/select.h>
#include <time.h>
#include <unistd.h>

enum { REGISTERS = 65536 };

static void preset(modbus_mapping_t *map)
{
	static const struct {
		int address;
		uint16_t value;
	} special[] = {{10056, 42}, {100, 0x7FC0}, {101, 0}, {102, 0x7F80}, {103, 0}, {104, 0xFF80}, {105, 0},
	        {106, 0x4148}, {107, 0}, {200, 0xFFFF}, {201, 0xFFFF}, {202, 0xFFFF}, {203, 0xFFFF},
	        {300, 0x6961}, {301, 0x6D63}, {302, 0x6174}, {303, 0x2064}, {304, 0x6576}};
	for (int a = 0; a < REGISTERS; a++) {
		map->tab_registers[a] = (uint16_t)a;
		map->tab_input_registers[a] = (uint16_t)(65535 - a);
	}
	for (size_t i = 0; i < sizeof special / sizeof *special; i++) {
		map->tab_registers[special[i].address] = special[i].value;
		map->tab_input_registers[special[i].address] = special[i].value;
	}
}

static void serve(modbus_t *bus, modbus_mapping_t *map, int listener, long delay_ms)
{
	uint8_t query[MODBUS_TCP_MAX_ADU_LENGTH];
	fd_set all, ready;
	int highest = listener;
	FD_ZERO(&all);
	FD_SET(listener, &all);
	for (;;) {
		ready = all;
		if (select(highest + 1, &ready, NULL, NULL, NULL) < 0)
			continue;
		for (int fd = 0; fd <= highest; fd++) {
			if (!FD_ISSET(fd, &ready))
				continue;
			if (fd == listener) {
				int client = accept(listener, NULL, NULL);
				if (client >= FD_SETSIZE)
					close(client);
				else if (client >= 0)
					FD_SET(client, &all);
				if (client > highest && client < FD_SETSIZE)
					highest = client;
				continue;
			}
			modbus_set_socket(bus, fd);
			int n = modbus_receive(bus, query);
			struct timespec delay = {delay_ms / 1000, delay_ms % 1000 * 1000000};
			if (n > 0)
				nanosleep(&delay, NULL);
			if (n < 0 || (n > 0 && modbus_reply(bus, query, n, map) < 0)) {
				close(fd);
				FD_CLR(fd, &all);
			}
		}
	}
}

static bool take_options(int argc, char **argv, const char **host, int *port, long *delay_ms)
{
	for (int i = 1; i + 1 < argc; i += 2)
		if (strcmp(argv[i], "--port") == 0)
			*port = atoi(argv[i + 1]);
		else if (strcmp(argv[i], "--bind") == 0)
			*host = argv[i + 1];
		else if (strcmp(argv[i], "--delay-ms") == 0)
			*delay_ms = atol(argv[i + 1]);
		else
			return false;
	return argc % 2 == 1;
}

int main(int argc, char **argv)
{
	const char *host = "127.0.0.1";
	int port = 0;
	long delay_ms = 0;
	prctl(PR_SET_PDEATHSIG, SIGTERM);
	signal(SIGINT, SIG_DFL); /* a shell starts background jobs with it ignored */
	signal(SIGPIPE, SIG_IGN);
	if (!take_options(argc, argv, &host, &port, &delay_ms)) {
		fputs("usage: device [--port 0] [--bind 127.0.0.1] [--delay-ms 0]\n", stderr);
		return 2;
	}
	modbus_t *bus = modbus_new_tcp(host, port);
	modbus_mapping_t *map = modbus_mapping_new(0, 0, REGISTERS, REGISTERS);
	int listener = bus && map ? modbus_tcp_listen(bus, 64) : -1;
	struct sockaddr_in at = {0};
	socklen_t size = sizeof at;
	if (listener < 0 || getsockname(listener, (struct sockaddr *)&at, &size) < 0) {
		fprintf(stderr, "device: port %d: %s\n", port, modbus_strerror(errno));
		return 1;
	}
	preset(map);
	printf("{\"port\": %d}\n", ntohs(at.sin_port));
	fflush(stdout);
	serve(bus, map, listener, delay_ms);
}
