#include "notify.h"

#include <sys/socket.h>

#include "config.h"
#include "fd.h"

static int fd = -1;
static int64_t watchdog_ms;        /* how often it wants to hear from us, */
static int64_t due_ms = INT64_MAX; /* and when next; INT64_MAX: not at all */

static const char *const status[] = {
        [PHASE_SERIAL] = "asks the gateway for its serial number",
        [PHASE_TOKEN] = "asks the gateway for a token",
        [PHASE_DIAL] = "connects to the broker",
        [PHASE_HELLO] = "logs in at the broker",
        [PHASE_SUBSCRIBE] = "subscribes at the broker",
        [PHASE_SERVE] = "in service",
        [PHASE_RENEW] = "renews its token",
        [PHASE_STALE] = "discards old requests",
        [PHASE_DISCARD] = "discards old requests",
        [PHASE_PAUSE] = "waits before it tries again",
        [PHASE_DRAIN] = "stops: answers what is under way",
        [PHASE_LEAVE] = "stops: takes leave of the broker",
        [PHASE_DONE] = "stopped",
};

void notify_open(char *const *envp)
{
	static unsigned char name[CONFIG_SOCKET_BYTES];
	struct buf to = BUF(name);
	struct slice path = config_env(envp, "NOTIFY_SOCKET");
	int64_t us = slice_u64(config_env(envp, "WATCHDOG_USEC"), (int64_t)1 << 50);
	buf_put_slice(&to, path);
	if (name[0] == '@') /* an abstract name, see unix(7) */
		name[0] = 0;
	if (to.n > 0)
		fd = fd_local(buf_slice(&to), SOCK_DGRAM | SOCK_NONBLOCK, false);
	if (us > 0) { /* half of it, as sd_watchdog_enabled(3) advises */
		watchdog_ms = us / 2000 + (us < 2000);
		due_ms = 0;
	}
}

int64_t notify_step(enum bridge_phase phase, int64_t now_ms)
{
	static enum bridge_phase last = PHASE_DONE;
	static bool ready, stopping;
	static unsigned char mem[128];
	struct buf b = BUF(mem);
	if (fd < 0)
		return INT64_MAX;
	if (phase == PHASE_SERVE && !ready)
		buf_put_str(&b, "READY=1\n");
	if (phase >= PHASE_DRAIN && !stopping)
		buf_put_str(&b, "STOPPING=1\n");
	if (phase != last)
		buf_put_text(&b, "STATUS=%s\n", status[phase]);
	if (now_ms >= due_ms)
		buf_put_str(&b, "WATCHDOG=1\n");
	/* What the manager has no room for now is said in the next turn. */
	if (b.n > 0 && send(fd, b.p, b.n, MSG_NOSIGNAL) >= 0) {
		ready |= phase == PHASE_SERVE;
		stopping |= phase >= PHASE_DRAIN;
		last = phase;
		if (now_ms >= due_ms)
			due_ms = now_ms + watchdog_ms;
	}
	return now_ms < due_ms ? due_ms : now_ms + watchdog_ms;
}
