/* What config.c needs of net.c and tls.c besides certificates, for those who include it without these. */
#ifndef DOUBLES_H
#define DOUBLES_H

#include <stddef.h>
#include <string.h>

#include "../net.h"
#include "../tls.h"

void net_give_back(void *p, size_t n)
{
	(void)p;
	(void)n;
}

void tls_wipe(void *p, size_t n)
{
	memset(p, 0, n);
}

void tls_wipe_used(void *p, size_t n)
{
	memset(p, 0, n);
}

#endif
