/* Gives up what the running program does not need: root, new privileges, files, ports and system calls.
 * Touches the operating system (Linux). Takes nothing back, and needs nothing: what this kernel does not
 * offer is said and done without. */
#ifndef SANDBOX_H
#define SANDBOX_H

#include "config.h"

/* Enters it for good, when all that has to be opened is open but the sockets of net.c and the files that are
 * read again: those of resolve.c and MQTT_ROOT_CA_FILE, whose name it puts where nobody can change it. Writes
 * one sentence on what was given up to said; false when something could not be. */
bool sandbox_enter(struct config *c, struct buf *said);

/* The number of a system call that was refused and has not been told yet, each one once; -1: none. */
int sandbox_refused(void);

#endif
