/* Tells the service manager how it stands: sd_notify(3), spoken directly over the socket NOTIFY_SOCKET.
 * Touches the operating system. Without a manager it does nothing; it never waits for one. */
#ifndef NOTIFY_H
#define NOTIFY_H

#include "bridge.h"

/* Takes NOTIFY_SOCKET and WATCHDOG_USEC from the environment and opens the socket. Once. */
void notify_open(char *const *envp);

/* In each turn of the loop: says READY=1 when the phase is PHASE_SERVE for the first time, STATUS= when it
 * has changed, STOPPING=1 when the service is being stopped, and WATCHDOG=1 as often as is expected. Returns
 * when it wants to be called again at the latest (monotonic ms), INT64_MAX for never. */
int64_t notify_step(enum bridge_phase phase, int64_t now_ms);

#endif
