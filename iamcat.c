/* iamcat: the command line, signals, and the loop. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <unistd.h>

#include "bridge.h"
#include "check.h"
#include "config.h"
#include "json.h"
#include "net.h"
#include "notify.h"
#include "sandbox.h"
#include "status.h"
#include "tls.h"

enum { EXIT_OK = 0, EXIT_UNHEALTHY = 1, EXIT_CONFIG = 2, TEXT_BYTES = 8192 };

static struct config config;
static struct tls_anchors anchors[2]; /* one is used, the other is read into */
static struct tls tls;
static struct bridge bridge;
static struct net net;
static struct status status;
static struct check check;
static bool checking; /* iamcat check */
static bool journal;  /* takes the log lines */
static volatile sig_atomic_t stop_signal, debug_signal;

extern char **environ;

static struct bridge_time now(void)
{
	return (struct bridge_time){net_now_ms(), net_wall_us()};
}

static void write_all(int fd, struct slice s)
{
	while (s.n > 0) {
		ssize_t n = write(fd, s.p, s.n);
		if (n < 0 && errno != EINTR)
			return; /* there is nobody left to tell */
		size_t done = n > 0 ? (size_t)n : 0;
		s = (struct slice){s.p + done, s.n - done};
	}
}

/* Can a line be written without waiting? A pipe that nobody reads and a terminal that is held must not stop
 * the loop. */
static bool log_ready(void)
{
	fd_set fds;
	FD_ZERO(&fds);
	FD_SET(STDERR_FILENO, &fds);
	return pselect(STDERR_FILENO + 1, NULL, &fds, NULL, &(struct timespec){0, 0}, NULL) != 0;
}

/* systemd.exec(5): JOURNAL_STREAM is the device and inode of the stream that the journal reads, "8:1234";
 * ours is "socket:[1234]". */
static bool is_journal(void)
{
	char link[64];
	ssize_t n = readlink("/proc/self/fd/2", link, sizeof link);
	struct slice ours = {(const unsigned char *)link, n > 0 ? (size_t)n - 1 : 0};
	slice_cut(&ours, '[');
	for (char **e = environ; *e != NULL; e++) {
		struct slice stream = slice_str(*e);
		if (!slice_is(slice_cut(&stream, '='), "JOURNAL_STREAM"))
			continue;
		slice_cut(&stream, ':');
		return ours.n > 0 && slice_eq(stream, ours);
	}
	return false;
}

static void put_line(struct buf *line, enum bridge_level level, struct slice text)
{
	static const char *const names[] = {"error", "warn", "info", "debug"};
	enum config_format format = config.log_format;
	if (format == CONFIG_JOURNAL || (format == CONFIG_AUTO && journal)) {
		/* sd-daemon(3): priorities as in syslog(3); the journal knows the time */
		buf_put_byte(line, '<');
		buf_put_byte(line, (unsigned char)"3467"[level]);
		buf_put_byte(line, '>');
		buf_put_slice(line, text);
	} else if (format == CONFIG_JSON) {
		buf_put_str(line, "{\"time\": \"");
		buf_put_time(line, net_wall_us());
		buf_put_strs(line, "\", \"level\": \"", names[level], "\", \"message\": ");
		json_put_string(line, text);
		buf_put_byte(line, '}');
	} else {
		buf_put_time(line, net_wall_us());
		buf_put_strs(
		        line, " ", names[level], level == LEVEL_WARN || level == LEVEL_INFO ? "  " : " ");
		buf_put_slice(line, text);
	}
	buf_put_byte(line, '\n');
}

static void log_text(enum bridge_level level, struct slice text)
{
	static uint64_t lost;
	unsigned char mem[PIPE_BUF], lost_mem[64]; /* a pipe that is ready takes so much */
	struct buf line = BUF(mem), more = BUF(lost_mem);
	if (checking) {
		check_log(&check, level, text);
		return;
	}
	if ((int)level > (int)config.log_level)
		return;
	if (!log_ready()) {
		lost++;
		return;
	}
	if (lost > 0) {
		buf_put_str(&more, "nobody read the log; lines lost: ");
		buf_put_u64(&more, lost);
		put_line(&line, LEVEL_WARN, buf_slice(&more));
		lost = 0;
	}
	put_line(&line, level, text);
	write_all(STDERR_FILENO, buf_slice(&line));
}

/* Each line of text as a log line. */
static void log_lines(enum bridge_level level, struct slice text)
{
	while (text.n > 0)
		log_text(level, slice_cut(&text, '\n'));
}

static void write_bridge_log(void)
{
	size_t at = 0;
	enum bridge_level level;
	struct slice text;
	while (bridge_take_log(&bridge, &at, &level, &text))
		log_text(level, text);
}

static void write_check(void)
{
	write_all(STDOUT_FILENO, buf_slice(&check.out));
	check.out.n = 0;
}

/* iamcat check: looks, and writes what there is to say. True when it is over. */
static bool watch(void)
{
	bool over = check_watch(&check, now());
	write_check();
	return over;
}

/* --- signals --- */

static void on_stop(int number)
{
	stop_signal = number;
}

static void on_debug(int number)
{
	debug_signal = number;
}

/* SIGTERM, SIGINT and SIGUSR1 are let through in net_wait alone, so that none is missed between a look and
 * the wait. */
static void set_up_signals(sigset_t *in_wait)
{
	struct sigaction stop = {.sa_handler = on_stop}, ignore = {.sa_handler = SIG_IGN};
	struct sigaction debug = {.sa_handler = on_debug};
	sigset_t held;
	sigemptyset(&held);
	sigaddset(&held, SIGTERM);
	sigaddset(&held, SIGINT);
	sigaddset(&held, SIGUSR1);
	sigprocmask(SIG_BLOCK, &held, in_wait);
	sigdelset(in_wait, SIGTERM);
	sigdelset(in_wait, SIGINT);
	sigdelset(in_wait, SIGUSR1);
	sigaction(SIGTERM, &stop, NULL);
	sigaction(SIGINT, &stop, NULL);
	sigaction(SIGUSR1, &debug, NULL);
	sigaction(SIGPIPE, &ignore, NULL);
	sigaction(SIGHUP, &ignore, NULL);
}

/* A closed descriptor 0, 1 or 2 would be given to the next socket, and log lines would go to the broker. */
static void fill_standard_descriptors(void)
{
	int fd;
	while ((fd = open("/dev/null", O_RDWR)) >= 0 || (fd = open("/", O_PATH)) >= 0)
		if (fd > 2) {
			close(fd);
			return;
		}
}

/* --- the loop --- */

/* Before each connection to the broker: MQTT_ROOT_CA_FILE may have changed, so that a root can be rolled over
 * while the program runs. A file that is no good now leaves the last good anchors in place. */
static void renew_anchors(void)
{
	static bool failing;
	unsigned char mem[512];
	struct buf line = BUF(mem);
	struct link *broker = &bridge.link[LINK_BROKER];
	struct tls_anchors *fresh = broker->anchors == &anchors[0] ? &anchors[1] : &anchors[0];
	if (config.root_ca_file[0] == 0 || !broker->open || broker->state != LINK_DOWN)
		return;
	buf_put_str(&line, "MQTT_ROOT_CA_FILE: ");
	bool changed, good = config_read_anchors(&config, fresh, &changed, &line);
	if (good && changed) {
		broker->anchors = fresh;
		tls_forget(&tls);
		log_text(LEVEL_INFO,
		        slice_str("MQTT_ROOT_CA_FILE has changed: its certificates are trusted from now on"));
	} else if (!good && !failing) {
		buf_put_str(&line, "; the certificates that were read before stay trusted");
		log_text(LEVEL_WARN, buf_slice(&line));
	}
	failing = !good;
}

/* For the whole time of the loop; what is missing is told, and the service goes on without. */
static void enter_sandbox(void)
{
	unsigned char mem[256];
	struct buf line = BUF(mem);
	bool good = config.sandbox == SWITCH_ON && sandbox_enter(&config, &line);
	if (config.sandbox == SWITCH_OFF)
		buf_put_str(
		        &line, "SANDBOX=off: whoever takes this program over can do whatever its user can");
	log_text(good ? LEVEL_INFO : LEVEL_WARN, buf_slice(&line));
}

static void tell_refused(void)
{
	int call;
	while ((call = sandbox_refused()) >= 0) {
		unsigned char mem[128];
		struct buf line = BUF(mem);
		buf_put_str(&line,
		        "sandbox: a system call was refused, which this program does not make; its number: ");
		buf_put_u64(&line, (uint64_t)call);
		log_text(LEVEL_ERROR, buf_slice(&line));
	}
}

/* What is in memory may be a token, a password or a TLS key: it must not end up in a file. */
static void forbid_core_dumps(void)
{
	prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
	prlimit(0, RLIMIT_CORE, &(struct rlimit){0, 0}, NULL); /* setrlimit costs 2 kB of musl */
}

/* SIGUSR1 switches the debug log on and off: off is LOG_LEVEL, or info where that is debug. */
static void switch_debug(enum config_level usual)
{
	bool on = config.log_level != CONFIG_DEBUG;
	debug_signal = 0;
	config.log_level = on ? CONFIG_DEBUG : usual != CONFIG_DEBUG ? usual : CONFIG_INFO;
	bridge.log_level = (enum bridge_level)config.log_level;
	log_text(
	        LEVEL_INFO, slice_str(on ? "SIGUSR1: the debug log is on" : "SIGUSR1: the debug log is off"));
}

/* When many requests or large replies have been dealt with, and nothing is left of them, their memory is
 * given back. */
static void give_back(void)
{
	enum { MUCH_BYTES = 4096 };
	static bool much;
	if (bridge.requests.used > MUCH_BYTES || bridge.outbox.queue.used > MUCH_BYTES)
		much = true;
	if (!much || bridge_busy(&bridge))
		return;
	much = false;
	net_give_back(bridge.requests_mem, sizeof bridge - offsetof(struct bridge, requests_mem));
}

/* Answers who asks for the status, and waits for what comes first. */
static void wait_for_news(int64_t wake_ms, const sigset_t *in_wait)
{
	fd_set readable, writable;
	int top = -1;
	int64_t now_ms = net_now_ms(), status_ms = status_step(&status, &bridge, now_ms);
	log_lines(LEVEL_WARN, buf_slice(&status.said));
	status.said.n = 0;
	FD_ZERO(&readable);
	FD_ZERO(&writable);
	status_want(&status, now_ms, &readable, &writable, &top);
	net_wait(&net, status_ms < wake_ms ? status_ms : wake_ms, in_wait, &readable, &writable, top);
	status_ready(&status, &readable, &writable);
}

static void run(const sigset_t *in_wait)
{
	uint32_t random = 0;
	enum config_level usual = config.log_level;
	net_random(&random, sizeof random); /* for jitter only: zero does no harm */
	bridge_init(&bridge, &config.bridge, &tls, &anchors[0], random, now());
	bridge.log_level = (enum bridge_level)config.log_level;
	net_init(&net, bridge.link, BRIDGE_LINKS);
	if (checking) { /* beside the one that runs */
		memcpy(config.status_socket, "off", sizeof "off");
		config.metrics_port = 0;
	} else {
		notify_open();
	}
	status_init(&status, &config, net_now_ms());
	enter_sandbox();
	while (!bridge_done(&bridge)) {
		if (stop_signal != 0)
			bridge_stop(&bridge);
		if (debug_signal != 0)
			switch_debug(usual);
		int64_t wake_ms = bridge_step(&bridge, now());
		int64_t notify_ms = notify_step(bridge.phase, net_now_ms());
		if (notify_ms < wake_ms)
			wake_ms = notify_ms;
		write_bridge_log();
		renew_anchors();
		bool moved = net_move(&net);
		if (checking && watch())
			bridge_stop(&bridge);
		tell_refused();
		give_back();
		if (!moved && !bridge_done(&bridge))
			wait_for_news(wake_ms, in_wait);
	}
	status_close(&status);
	log_text(LEVEL_INFO, slice_str("stopped"));
	tls_forget(&tls);
	tls_wipe(&config, sizeof config);
}

/* --- asking the iamcat that runs --- */

/* Asks for the status and writes it, as it came or for people. */
static bool print_status(bool as_json, bool again)
{
	struct buf json = BUF(status.reply), text = BUF(status.client_mem[0]); /* who asks answers nobody */
	bool terminal = isatty(STDOUT_FILENO);
	buf_put_str(&text, again && terminal && !as_json ? "\033[H\033[J" : "");
	size_t before = text.n;
	const char *wrong = NULL;
	bool good = status_ask(&config, &json, &text);
	if (good && (wrong = figures_put_text(&text, buf_slice(&json), terminal)) != NULL) {
		text.n = before;
		text.full = false;
		buf_put_str(&text, wrong);
	}
	good = good && wrong == NULL;
	if (!good)
		buf_put_byte(&text, '\n');
	write_all(good || again ? STDOUT_FILENO : STDERR_FILENO, buf_slice(good && as_json ? &json : &text));
	return good;
}

static int run_status(bool as_json, bool again)
{
	bool good = print_status(as_json, again);
	while (again) { /* until Ctrl-C */
		poll(NULL, 0, 1000);
		good = print_status(as_json, again);
	}
	return good ? EXIT_OK : EXIT_UNHEALTHY;
}

static int run_health(void)
{
	unsigned char mem[1024];
	struct buf json = BUF(status.reply), why = BUF(mem), line = json;
	bool good = status_ask(&config, &json, &why) && figures_healthy(&why, buf_slice(&json));
	buf_put_str(&line, good ? "healthy: " : "unhealthy: ");
	buf_put_slice(&line, buf_slice(&why));
	buf_put_byte(&line, '\n');
	write_all(STDOUT_FILENO, buf_slice(&line));
	return good ? EXIT_OK : EXIT_UNHEALTHY;
}

/* --- the command line --- */

static int print_help(void)
{
	unsigned char mem[TEXT_BYTES];
	struct buf b = BUF(mem);
	buf_put_str(&b, "iamcat connects an energy gateway's web API to an MQTT broker.\n"
	                "\n"
	                "usage: iamcat [-c FILE]     run until SIGTERM or Ctrl-C\n"
	                "       iamcat [-c FILE] check\n"
	                "                            try the way to the broker step by step\n"
	                "       iamcat [-c FILE] status [--json] [--watch]\n"
	                "                            ask the one that runs how it is doing\n"
	                "       iamcat [-c FILE] health\n"
	                "                            exit with 0 if it is healthy, or else 1\n"
	                "       iamcat --help        print this\n"
	                "       iamcat --version     print the version and the embedded root certificates\n"
	                "\n"
	                "  -c FILE    read the configuration from FILE instead of mqtt.env\n"
	                "\n"
	                "Configuration, from the environment or from NAME=value lines of the file (the\n"
	                "environment wins):\n"
	                "\n");
	config_describe(&b);
	write_all(STDOUT_FILENO, buf_slice(&b));
	return EXIT_OK;
}

static int print_version(void)
{
	unsigned char mem[1024];
	struct buf b = BUF(mem);
	buf_put_str(&b, "iamcat " IAMCAT_VERSION "\nembedded root certificates:\n");
	tls_anchors_describe(&b);
	write_all(STDOUT_FILENO, buf_slice(&b));
	return EXIT_OK;
}

static int usage_error(const char *what, const char *argument)
{
	unsigned char mem[512];
	struct buf b = BUF(mem);
	buf_put_str(&b, "iamcat: ");
	buf_put_str(&b, what);
	buf_put_escaped(&b, slice_str(argument), 200);
	buf_put_str(&b, "\nusage: iamcat [-c FILE] [check | status [--json] [--watch] | health]\n"
	                "       iamcat --help | --version\n");
	write_all(STDERR_FILENO, buf_slice(&b));
	return EXIT_CONFIG;
}

/* Reads the configuration; says what is wrong with it: in the log, or plainly to who only asks. */
static bool configure(const char *file, bool asks)
{
	static unsigned char error_mem[TEXT_BYTES], warning_mem[TEXT_BYTES];
	struct buf errors = BUF(error_mem), warnings = BUF(warning_mem);
	bool good = config_read(&config, asks ? NULL : &anchors[0], file, environ, &errors, &warnings);
	if (asks) {
		if (!good)
			buf_put_str(&errors, "The iamcat to ask is found by its configuration: give the same "
			                     "with -c FILE.\n");
		write_all(STDERR_FILENO, buf_slice(&errors));
		return good;
	}
	if (!good)
		config.log_level = CONFIG_INFO;
	log_lines(LEVEL_WARN, buf_slice(&warnings));
	log_lines(LEVEL_ERROR, buf_slice(&errors));
	if (!good && !checking)
		log_text(LEVEL_ERROR, slice_str("nothing was started; iamcat --help lists what can be set"));
	return good;
}

int main(int argc, char **argv)
{
	const char *file = NULL;
	bool tell = false, health = false, json = false, watch = false;
	sigset_t in_wait;
	fill_standard_descriptors();
	for (int i = 1; i < argc; i++) {
		const char *a = argv[i];
		bool asks = tell || health;
		if (strcmp(a, "--help") == 0 || strcmp(a, "-h") == 0)
			return print_help();
		if (strcmp(a, "--version") == 0 || strcmp(a, "-V") == 0)
			return print_version();
		if (!asks && strcmp(a, "check") == 0)
			checking = true;
		else if (!asks && strcmp(a, "status") == 0)
			tell = true;
		else if (!asks && strcmp(a, "health") == 0)
			health = true;
		else if (tell && strcmp(a, "--json") == 0)
			json = true;
		else if (tell && strcmp(a, "--watch") == 0)
			watch = true;
		else if (strcmp(a, "-c") != 0)
			return usage_error("unknown argument: ", a);
		else if (++i == argc || argv[i][0] == 0)
			return usage_error("-c needs a file name", "");
		else
			file = argv[i];
	}
	forbid_core_dumps();
	journal = is_journal();
	if (checking)
		check_begin(&check, isatty(STDOUT_FILENO), net_now_ms());
	if (!tell && !health)
		set_up_signals(&in_wait);
	bool good = configure(file, tell || health);
	if (good && tell)
		return run_status(json, watch);
	if (good && health)
		return run_health();
	if (checking)
		check_configured(&check, good, &config, &anchors[0], &bridge, &net, net_now_ms());
	if (good) {
		log_text(LEVEL_INFO, slice_str("iamcat " IAMCAT_VERSION));
		run(&in_wait);
	}
	write_check();
	return checking ? check.status : good ? EXIT_OK : EXIT_CONFIG;
}
