/* The resolver's sockets and files: gives dns.c what it wishes for, and remembers the addresses of one host.
 * Touches the operating system. Never blocks: reads small files, and sockets only when they have something.
 */
#ifndef RESOLVE_H
#define RESOLVE_H

#include "dns.h"
#include "fd.h"

/* The files that it reads, again and again. */
extern const char resolve_hosts[], resolve_conf[];

struct resolve {
	struct dns dns;   /* what has become of it: DNS_FOUND, too, for what no server had to be asked */
	const char *name; /* outlives it */
	/* its own */
	struct resolve_server {
		int fd;      /* -1: closed */
		bool tcp;    /* that is what it is */
		size_t in_n; /* bytes in in */
	} server[DNS_SERVERS];
	unsigned char out[2 + DNS_UDP_BYTES];
	unsigned char in[DNS_SERVERS][2 + DNS_TCP_BYTES]; /* from tcp, with the two bytes of length; last,
	                                                   * since mostly it is never touched */
};

/* No addresses known; name is looked up from resolve_begin on. */
void resolve_init(struct resolve *r, const char *name);

/* Begins a look-up, where there was none or it was forgotten: literals, localhost, /etc/hosts, and then the
 * servers of /etc/resolv.conf, which is read anew. random: 32 unpredictable bits. */
void resolve_begin(struct resolve *r, uint32_t random, int64_t now_ms);

/* Forgets the addresses, unless they are still being looked up. */
void resolve_forget(struct resolve *r);

/* The address a works: if it is one of those, it is the first one from now on. */
void resolve_prefer(struct resolve *r, const struct dns_address *a);

/* Moves a look-up on; returns when it wants to be called again at the latest, INT64_MAX for never. */
int64_t resolve_step(struct resolve *r, int64_t now_ms);

/* Adds the sockets that it waits for. */
void resolve_want(const struct resolve *r, struct watch *w);

#endif
