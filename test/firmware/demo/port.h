/* iamcat's links on lwIP: what net.c is to the program. One thread, no waiting. */
#ifndef PORT_H
#define PORT_H

#include "iamcat.h"

/* Serves all links of the bridge, which outlives it. */
void port_init(struct bridge *b);

/* Meets wishes, and moves what can be moved. True when a fact has changed or bytes were moved: bridge_step is
 * due. wall_s: seconds since 1970. */
bool port_move(int64_t wall_s);

#endif
