/* iamcat: the command line, signals, and the loop. */
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/syscall.h>
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

enum { EXIT_OK = 0, EXIT_UNHEALTHY = 1, EXIT_CONFIG = 2 };
enum command { RUN, CHECK, STATUS, HEALTH, COMMANDS };

static struct config config;
static _Alignas(BRIDGE_ALIGN) struct tls_anchors anchors[2]; /* one is used, the other is read into */
static struct tls tls;
static struct bridge bridge;
static struct net net;
static struct status status;
static struct check check;
static struct watch watch;
static enum command command;
static unsigned char said_mem[512];
static struct buf said = {said_mem, sizeof said_mem, 0, false}; /* see log_lines */
static volatile sig_atomic_t stop_signal, debug_signal;

extern char **environ;

static struct bridge_time now(void)
{
	return (struct bridge_time){net_now_ms(), net_wall_us()};
}

static void write_all(int fd, const struct buf *b)
{
	for (size_t at = 0; at < b->n;) {
		ssize_t n = write(fd, b->p + at, b->n - at);
		if (n < 0)
			return; /* there is nobody left to tell */
		at += (size_t)n;
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
	static unsigned char link[64];
	ssize_t n = readlink("/proc/self/fd/2", (char *)link, sizeof link);
	struct slice ours = {link, n > 0 ? (size_t)n : 0};
	struct slice stream = config_env(environ, "JOURNAL_STREAM");
	slice_cut(&ours, '[');
	slice_cut(&stream, ':');
	return stream.n > 0 && slice_eq(stream, slice_cut(&ours, ']'));
}

static void put_line(struct buf *line, enum bridge_level level, struct slice text)
{
	static const char priorities[][4] = {"<3>", "<4>", "<6>", "<7>"}; /* sd-daemon(3), syslog(3) */
	static const char names[][6] = {"error", "warn", "info", "debug"};
	if (config.log_format == CONFIG_JOURNAL) {
		buf_put_str(line, priorities[level]); /* the journal knows the time */
		buf_put_slice(line, text);
	} else if (config.log_format == CONFIG_JSON) {
		buf_put_str(line, "{\"time\": \"");
		buf_put_time(line, net_wall_us());
		buf_put_text(line, "\", \"level\": \"%s\", \"message\": ", names[level]);
		json_put_string(line, text);
		buf_put_byte(line, '}');
	} else {
		buf_put_time(line, net_wall_us());
		buf_put_text(
		        line, " %s%s", names[level], level == LEVEL_WARN || level == LEVEL_INFO ? "  " : " ");
		buf_put_slice(line, text);
	}
	buf_put_byte(line, '\n');
}

static void log_text(enum bridge_level level, struct slice text)
{
	static unsigned lost;
	static unsigned char mem[PIPE_BUF], lost_mem[64]; /* a pipe that is ready takes so much */
	struct buf line = BUF(mem), more = BUF(lost_mem);
	if (command == CHECK) {
		check_log(&check, level, text);
		return;
	}
	if (level > config.log_level)
		return;
	if (!log_ready()) {
		lost++;
		return;
	}
	if (lost > 0) {
		buf_put_text(&more, "nobody read the log; lines lost: %u", lost);
		put_line(&line, LEVEL_WARN, buf_slice(&more));
		lost = 0;
	}
	put_line(&line, level, text);
	write_all(STDERR_FILENO, &line);
}

static void log_line(enum bridge_level level, const char *text)
{
	log_text(level, slice_str(text));
}

/* Takes each line of a text as a log line. */
static void log_lines(enum bridge_level level, struct buf *b)
{
	for (struct slice text = buf_slice(b); text.n > 0;)
		log_text(level, slice_cut(&text, '\n'));
	b->n = 0;
	b->full = false;
}

static void write_bridge_log(void)
{
	size_t at = 0;
	enum bridge_level level;
	struct slice text;
	while (bridge_take_log(&bridge, &at, &level, &text))
		log_text(level, text);
}

/* A terminal, and its owner does not want it without (https://no-color.org)? */
static bool wants_colour(void)
{
	return isatty(STDOUT_FILENO) && config_env(environ, "NO_COLOR").n == 0;
}

static void write_check(void)
{
	write_all(STDOUT_FILENO, &check.out);
	check.out.n = 0;
}

/* --- signals --- */

static void on_signal(int number)
{
	*(number == SIGUSR1 ? &debug_signal : &stop_signal) = 1;
}

/* These are let through in net_wait alone, so that none is missed between a look and the wait, and no other
 * call ends with EINTR. */
static void set_up_signals(void)
{
	static const int numbers[] = {SIGTERM, SIGINT, SIGUSR1, SIGPIPE, SIGHUP};
	sigset_t held;
	sigemptyset(&held);
	for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
		struct sigaction action = {.sa_handler = i < 3 ? on_signal : SIG_IGN};
		sigaddset(&held, numbers[i]);
		sigaction(numbers[i], &action, NULL);
	}
	sigprocmask(SIG_SETMASK, &held, NULL);
}

/* A closed descriptor 0, 1 or 2 would be given to the next socket, and log lines would go to the broker. */
static void fill_standard_descriptors(void)
{
	int fd;
	do
		if ((fd = open("/dev/null", O_RDWR)) < 0)
			fd = open("/", O_PATH);
	while (fd >= 0 && fd <= STDERR_FILENO);
	fd_close(&fd);
}

/* --- the loop --- */

/* Before each connection to the broker: MQTT_ROOT_CA_FILE may have changed, so that a root can be rolled over
 * while the program runs. A file that is no good now leaves the last good anchors in place. */
static void renew_anchors(void)
{
	static bool failing;
	struct link *broker = &bridge.link[LINK_BROKER];
	struct tls_anchors *fresh = broker->anchors == &anchors[0] ? &anchors[1] : &anchors[0];
	if (config.root_ca_file[0] == 0 || !broker->open || broker->state != LINK_DOWN)
		return;
	buf_put_str(&said, "MQTT_ROOT_CA_FILE: ");
	bool changed, good = config_read_anchors(&config, fresh, &changed, &said);
	if (changed) {
		broker->anchors = fresh;
		tls_forget(&tls);
	}
	buf_put_str(&said, changed ? "it has changed, and its certificates are trusted from now on"
	                           : "; the certificates that were read before stay trusted");
	if (changed || (!good && !failing))
		log_lines(good ? LEVEL_INFO : LEVEL_WARN, &said);
	said = BUF(said_mem);
	failing = !good;
}

/* For the whole time of the loop; what is missing is told, and the service goes on without. */
static void enter_sandbox(void)
{
	bool good = config.sandbox == SWITCH_ON && sandbox_enter(&config, &said);
	if (config.sandbox == SWITCH_OFF)
		buf_put_str(
		        &said, "SANDBOX=off: whoever takes this program over can do whatever its user can");
	log_lines(good ? LEVEL_INFO : LEVEL_WARN, &said);
}

static void tell_refused(void)
{
	int call;
	while ((call = sandbox_refused()) >= 0) {
		buf_put_text(&said,
		        "sandbox: a system call was refused, which this program does not make; its number: "
		        "%u",
		        (unsigned)call);
		log_lines(LEVEL_ERROR, &said);
	}
}

/* What is in memory may be a token, a password or a TLS key: it must not end up in a file. */
static void forbid_core_dumps(void)
{
	syscall(SYS_prctl, PR_SET_DUMPABLE, 0, 0, 0, 0);       /* as in sandbox.c: prctl is 100 bytes more */
	prlimit(0, RLIMIT_CORE, &(struct rlimit){0, 0}, NULL); /* setrlimit costs 2 kB of musl */
}

/* SIGUSR1 switches the debug log on and off: off is LOG_LEVEL, or info where that is debug. */
static void switch_debug(enum bridge_level usual)
{
	bool on = config.log_level != LEVEL_DEBUG;
	debug_signal = 0;
	config.log_level = on ? LEVEL_DEBUG : usual != LEVEL_DEBUG ? usual : LEVEL_INFO;
	bridge.log_level = config.log_level;
	log_line(LEVEL_INFO, on ? "SIGUSR1: the debug log is on" : "SIGUSR1: the debug log is off");
}

/* What requests and their replies have left in memory is given back when nothing goes on, at most once a
 * second, since the next ones have to be given it again. What a small state leaves is not, since the next one
 * is sure to come. */
static void give_back(void)
{
	enum { STATE_BYTES = 4096 };
	static bool used;
	static int64_t again_ms;
	unsigned char *from = bridge_unused(&bridge);
	if (from == NULL) {
		used = used || bridge.requests.used > 0 || bridge.identity != NULL ||
		       bridge.outbox.queue.used > STATE_BYTES;
	} else if (used && bridge.time.now_ms >= again_ms) {
		used = false;
		again_ms = bridge.time.now_ms + 1000;
		net_give_back(from, (size_t)((unsigned char *)(&bridge + 1) - from));
	}
}

/* Answers who asks for the status, and waits for what comes first. */
static void wait_for_news(int64_t wake_ms)
{
	int64_t status_ms = status_step(&status, &bridge, net_now_ms(), &watch);
	log_lines(LEVEL_WARN, &status.said);
	net_wait(&net, status_ms < wake_ms ? status_ms : wake_ms, &watch);
}

static void watch_check(void)
{
	if (check_watch(&check, now()))
		bridge_stop(&bridge);
	write_check();
}

static void run(void)
{
	uint32_t random = 0;
	enum bridge_level usual = config.log_level;
	net_random(&random, sizeof random); /* for jitter only: zero does no harm */
	bridge_init(&bridge, &config.bridge, &tls, &anchors[0], random, now());
	bridge.log_level = config.log_level;
	net_init(&net, bridge.link, BRIDGE_LINKS);
	status_init(&status, &config, net_now_ms());
	if (command == CHECK)
		status_close(&status); /* tried, and left to the one that runs */
	else
		notify_open(environ);
	enter_sandbox();
	while (!bridge_done(&bridge)) {
		if (stop_signal != 0)
			bridge_stop(&bridge);
		if (debug_signal != 0)
			switch_debug(usual);
		int64_t wake_ms = bridge_step(&bridge, now());
		int64_t notify_ms = notify_step(bridge.phase, net_now_ms());
		write_bridge_log();
		renew_anchors();
		bool moved = net_move(&net);
		if (command == CHECK)
			watch_check();
		tell_refused();
		give_back();
		if (!moved && !bridge_done(&bridge))
			wait_for_news(notify_ms < wake_ms ? notify_ms : wake_ms);
	}
	status_close(&status);
	log_line(LEVEL_INFO, "stopped");
	tls_forget(&tls);
	tls_wipe(&config, sizeof config);
}

/* --- the commands that only write; they answer nobody, whose memory they take --- */

/* Asks for the status and writes it, as it came or for people. */
static int run_status(bool as_json, bool again)
{
	bool terminal = isatty(STDOUT_FILENO), colour = wants_colour();
	for (;; pselect(0, NULL, NULL, NULL, &(struct timespec){1, 0}, NULL)) { /* until Ctrl-C */
		struct buf json = BUF(status.reply), text = BUF(status.client_mem[0]);
		buf_put_str(&text, again && terminal && !as_json ? "\033[H\033[J" : "");
		bool good = status_ask(&config, &json, &text) &&
		            figures_put_text(&text, buf_slice(&json), colour);
		if (!good)
			buf_put_byte(&text, '\n');
		write_all(good || again ? STDOUT_FILENO : STDERR_FILENO, good && as_json ? &json : &text);
		if (!again)
			return good ? EXIT_OK : EXIT_UNHEALTHY;
	}
}

static int run_health(void)
{
	struct buf json = BUF(status.reply), why = BUF(status.client_mem[0]);
	bool good = status_ask(&config, &json, &why) && figures_healthy(&why, buf_slice(&json));
	json.n = 0;
	buf_put_text(&json, "%s: %s\n", good ? "healthy" : "unhealthy", buf_cstr(&why));
	write_all(STDOUT_FILENO, &json);
	return good ? EXIT_OK : EXIT_UNHEALTHY;
}

static int print_help(void)
{
	struct buf b = BUF(status.reply);
	buf_put_str(&b, "iamcat connects an energy gateway's web API to an MQTT broker.\n"
	                "\n"
	                "usage: iamcat [-c FILE]         run until SIGTERM or Ctrl-C\n"
	                "       iamcat [-c FILE] check   try the way to the broker step by step\n"
	                "       iamcat [-c FILE] status [--json] [--watch]\n"
	                "                                ask the one that runs how it is doing\n"
	                "       iamcat [-c FILE] health  exit with 0 if it is healthy, or else 1\n"
	                "       iamcat --help            print this\n"
	                "       iamcat --version         print the version and the embedded roots\n"
	                "\n"
	                "  -c FILE    read the configuration from FILE instead of mqtt.env\n"
	                "\n"
	                "Configuration, from the environment or from NAME=value lines of the file (the\n"
	                "environment wins):\n"
	                "\n");
	config_describe(&b);
	write_all(STDOUT_FILENO, &b);
	return EXIT_OK;
}

static int print_version(void)
{
	struct buf b = BUF(status.reply);
	buf_put_str(&b, "iamcat " IAMCAT_VERSION "\nembedded root certificates:\n");
	tls_anchors_describe(&b);
	write_all(STDOUT_FILENO, &b);
	return EXIT_OK;
}

static int usage_error(const char *what, const char *argument)
{
	struct buf b = BUF(status.reply);
	buf_put_text(&b,
	        "iamcat: %s%.200s\nusage: iamcat [-c FILE] [check | status [--json] [--watch] | health]\n"
	        "       iamcat --help | --version\n",
	        what, argument);
	write_all(STDERR_FILENO, &b);
	return EXIT_CONFIG;
}

/* --- the command line --- */

/* Reads the configuration; says what is wrong with it: in the log, or plainly to who only asks. */
static bool configure(const char *file)
{
	struct buf errors = BUF(status.reply),
	           warnings = BUF(status.client_mem[0]); /* asked for only later */
	bool asks = command >= STATUS;
	bool good = config_read(&config, asks ? NULL : &anchors[0], file, environ, &errors, &warnings);
	if (asks) {
		if (!good)
			buf_put_str(&errors, "The iamcat to ask is found by its configuration: give the same "
			                     "with -c FILE.\n");
		write_all(STDERR_FILENO, &errors);
		return good;
	}
	if (config.log_format == CONFIG_AUTO && is_journal())
		config.log_format = CONFIG_JOURNAL;
	if (!good)
		config.log_level = LEVEL_INFO;
	log_lines(LEVEL_WARN, &warnings);
	log_lines(LEVEL_ERROR, &errors);
	if (!good && command == RUN)
		log_line(LEVEL_ERROR, "nothing was started; iamcat --help lists what can be set");
	return good;
}

static enum command command_of(const char *word)
{
	static const char *const words[] = {[CHECK] = "check", [STATUS] = "status", [HEALTH] = "health"};
	enum command c = CHECK;
	while (c < COMMANDS && strcmp(word, words[c]) != 0)
		c++;
	return c;
}

int main(int argc, char **argv)
{
	const char *file = NULL;
	bool json = false, again = false;
	fill_standard_descriptors();
	for (int i = 1; i < argc; i++) {
		const char *a = argv[i];
		if (strcmp(a, "--help") == 0 || strcmp(a, "-h") == 0)
			return print_help();
		if (strcmp(a, "--version") == 0 || strcmp(a, "-V") == 0)
			return print_version();
		if (command == RUN && command_of(a) != COMMANDS)
			command = command_of(a);
		else if (command == STATUS && strcmp(a, "--json") == 0)
			json = true;
		else if (command == STATUS && strcmp(a, "--watch") == 0)
			again = true;
		else if (strcmp(a, "-c") != 0)
			return usage_error("unknown argument: ", a);
		else if (++i == argc || argv[i][0] == 0)
			return usage_error("-c needs a file name", "");
		else
			file = argv[i];
	}
	forbid_core_dumps();
	if (command == CHECK)
		check_begin(&check, wants_colour(), net_now_ms());
	if (command <= CHECK)
		set_up_signals();
	bool good = configure(file);
	if (good && command == STATUS)
		return run_status(json, again);
	if (good && command == HEALTH)
		return run_health();
	if (command == CHECK)
		check_configured(&check, good, &config, &anchors[0], &bridge, &net, net_now_ms());
	if (good) {
		log_line(LEVEL_INFO, "iamcat " IAMCAT_VERSION);
		run();
	}
	if (command != CHECK)
		return good ? EXIT_OK : EXIT_CONFIG;
	write_check();
	return check.status;
}
