/* A whole gateway on the emulated board: an address by DHCP, names by DNS, TLS to the broker, the web API,
 * all on lwIP.
 *
 *	image BROKER_HOST BROKER_PORT API_HOST API_PORT CA_FILE SECONDS
 *
 * CA_FILE is read from the host. Stops after so many seconds of service, prints what memory it needed, and
 * ends with status 0 when the bridge had come to its end in an orderly way. */
#include <string.h>

#include "board.h"
#include "iamcat.h"
#include "lan9118.h"
#include "lwip/dhcp.h"
#include "lwip/init.h"
#include "lwip/stats.h"
#include "lwip/sys.h"
#include "lwip/timeouts.h"
#include "netif/ethernet.h"
#include "port.h"

enum { PEM_BYTES = 2048, LINE_BYTES = 1200, LIMIT_MS = 120 * 1000 };

static struct bridge bridge;
static struct tls tls;
static struct tls_anchors anchors;
static struct bridge_config config = {
        .topic_prefix = "iamcat",
        .keep_alive_s = 60,
        .token_lifetime_s = 300,
        .session_window_s = 60,
        .will = SWITCH_ON,
        .state_interval_s = 5,
        .api_timeout_s = 10,
        .api_spares = 1,
};
static struct netif netif;
static int64_t boot_s; /* since 1970 */

u32_t sys_now(void)
{
	return (u32_t)board_now_ms();
}

static struct bridge_time now(void)
{
	int64_t ms = board_now_ms();
	return (struct bridge_time){ms, boot_s * 1000000 + ms * 1000};
}

static void print(struct buf *line)
{
	buf_put_byte(line, '\n');
	board_print(buf_cstr(line));
}

static void print_log(void)
{
	size_t at = 0;
	enum bridge_level level;
	struct slice text;
	static unsigned char mem[LINE_BYTES];
	while (bridge_take_log(&bridge, &at, &level, &text)) {
		struct buf line = BUF(mem);
		buf_put_slice(&line, text);
		print(&line);
	}
}

static void print_number(const char *what, size_t n)
{
	unsigned char mem[80];
	struct buf line = BUF(mem);
	buf_put_str(&line, what);
	buf_put_str(&line, ": ");
	buf_put_u64(&line, n);
	print(&line);
}

static bool set_host(char *host, uint16_t *port, const char *name, const char *number)
{
	int64_t v = slice_u64(slice_str(number), 65535);
	if (strlen(name) >= BRIDGE_HOST_BYTES || v < 1)
		return false;
	strcpy(host, name);
	*port = (uint16_t)v;
	return true;
}

static bool read_anchors(const char *path)
{
	static char pem[PEM_BYTES];
	unsigned char mem[160];
	struct buf why = BUF(mem);
	size_t n = board_read_file(path, pem, sizeof pem);
	bool good =
	        n < sizeof pem && tls_anchors_read(&anchors, (struct slice){(unsigned char *)pem, n}, &why);
	if (!good)
		print(&why);
	return good;
}

static void wait(int64_t until_ms)
{
	u32_t lwip_ms = sys_timeouts_sleeptime();
	if (board_now_ms() < until_ms && lwip_ms > 0)
		board_sleep();
}

/* Until the bridge has ended. False: it has not in time. */
static bool run(int64_t service_ms)
{
	int64_t stop_ms = INT64_MAX;
	bool stopping = false;
	bridge_init(&bridge, &config, &tls, &anchors, (uint32_t)board_random(), now());
	port_init(&bridge);
	while (!bridge_done(&bridge) && board_now_ms() < LIMIT_MS) {
		struct bridge_time t = now();
		if (stop_ms == INT64_MAX && bridge.phase == PHASE_SERVE)
			stop_ms = t.now_ms + service_ms;
		if (t.now_ms >= stop_ms && !stopping) {
			stopping = true;
			bridge_stop(&bridge);
		}
		int64_t wake_ms = bridge_step(&bridge, t);
		print_log();
		bool moved = port_move(t.wall_us / 1000000);
		moved |= lan9118_poll(&netif);
		sys_check_timeouts();
		if (!moved)
			wait(wake_ms < stop_ms ? wake_ms : stop_ms);
	}
	return bridge_done(&bridge);
}

int main(int argc, char **argv)
{
	if (argc < 7 || !set_host(config.broker_host, &config.broker_port, argv[1], argv[2]) ||
	        !set_host(config.api_host, &config.api_port, argv[3], argv[4]) || !read_anchors(argv[5])) {
		board_print("wrong arguments\n");
		return 1;
	}
	boot_s = board_wall_s();
	lwip_init();
	netif_add(&netif, IP4_ADDR_ANY4, IP4_ADDR_ANY4, IP4_ADDR_ANY4, NULL, lan9118_init, ethernet_input);
	netif_set_default(&netif);
	netif_set_up(&netif);
	dhcp_start(&netif);
	bool good = run(slice_u64(slice_str(argv[6]), 60) * 1000);
	print_number("bridge, tls and anchors", sizeof bridge + sizeof tls + sizeof anchors);
	print_number("stack used", board_stack_used());
	print_number("stack", board_stack_size());
	print_number("lwIP heap used", lwip_stats.mem.max);
	print_number("lwIP heap", lwip_stats.mem.avail);
	return good ? 0 : 1;
}
