/* A stub resolver (RFC 1034 §5.3.1, RFC 1035): a name to questions, answers to addresses; and the text of
 * /etc/hosts and /etc/resolv.conf.
 * Pure: has no sockets, reads no files and no clock. net.c moves its bytes. */
#ifndef DNS_H
#define DNS_H

#include "buf.h"

enum {
	DNS_NAME_BYTES = 256, /* a name in text form with its NUL (RFC 1035 §3.1: 253 characters) */
	DNS_ADDRESSES = 8,    /* the most addresses that a look-up keeps, of both families */
	DNS_SERVERS = 3,      /* the most servers that resolv.conf may name (as in libc) */
	DNS_SEARCH = 6,       /* the most search domains */
	DNS_UDP_BYTES = 512,  /* the most that an answer over UDP may have (RFC 1035 §2.3.4; no EDNS) */
	DNS_TCP_BYTES = 4096, /* the most that we take over TCP */
	DNS_LOOKUP_MS = 5000  /* the most that a look-up may take in all */
};

struct dns_address {
	uint32_t size; /* 4 or 16 bytes of ip, in network order; 0: none */
	uint8_t ip[16];
	uint32_t scope; /* IPv6 zone index as written after %, 0 when none (numbers only) */
};

/* An address literal, "192.0.2.1" or "2001:db8::1" (RFC 4291 §2.2, also with an IPv4 tail; brackets around an
 * IPv6 address are allowed). false: the text is none. "127.1" and other short or octal or hexadecimal forms
 * are none. */
bool dns_read_address(struct slice text, struct dns_address *a);

/* Writes it as text (RFC 5952 for IPv6). */
void dns_put_address(struct buf *b, const struct dns_address *a);

/* resolv.conf(5). */
enum dns_option { DNS_NDOTS, DNS_TIMEOUT_S, DNS_ATTEMPTS, DNS_OPTIONS };
struct dns_conf {
	uint8_t option[DNS_OPTIONS];
	size_t servers, searches;
	struct dns_address server[DNS_SERVERS];
	char search[DNS_SEARCH][DNS_NAME_BYTES];
};

/* Reads the text of resolv.conf; an empty text gives the defaults (server 127.0.0.1, ndots 1, timeout 5,
 * attempts 2). Lines that are not understood are ignored, as libc does; the last of search and domain wins.
 */
void dns_read_conf(struct dns_conf *c, struct slice text);

/* Looks name up in a piece of /etc/hosts that ends with a whole line: appends the addresses to list, whose *n
 * entries are taken, up to DNS_ADDRESSES. Call it for each piece. Case-insensitive; a final dot of name does
 * not count. */
void dns_read_hosts(struct slice text, const char *name, struct dns_address *list, size_t *n);

/* The name without its final dot, which stands for the root. */
struct slice dns_bare(const char *name);

/* May it stand in a label of a host's name? Letters, digits, - and _. */
bool dns_is_label_char(unsigned char c);

/* localhost and names below it (RFC 6761 §6.3): gives 127.0.0.1 and ::1 and returns true. */
bool dns_is_localhost(const char *name, struct dns_address list[2]);

enum dns_state { DNS_IDLE, DNS_ASKING, DNS_FOUND, DNS_FAILED };

/* One server, and what the driver shall do about it: open, a connected datagram socket with a source port of
 * the kernel's choice, fresh for every look-up, or where tcp is set (after a truncated answer) a connection
 * instead; send, over it, the questions for A and AAAA: the driver clears each when sent. */
struct dns_server {
	bool open, tcp, send[2];
};

/* A name as it goes over the wire (RFC 1035 §3.1): labels with their lengths, the root's empty one last. */
struct dns_name {
	uint8_t n, wire[DNS_NAME_BYTES - 1];
};

/* The look-up of one family: A or AAAA. */
struct dns_family {
	enum { DNS_OPEN, DNS_HAS_ADDRESSES, DNS_HAS_NONE, DNS_NO_NAME, DNS_NO_ANSWER } end;
	uint16_t id;
	unsigned aliases, round;
	size_t first, asked; /* servers asked in this round, beginning with the first */
	unsigned waiting;    /* a bit for every server that may still answer */
	int64_t next_ms, round_ms;
	size_t addresses;
	struct dns_address address[DNS_ADDRESSES];
	struct dns_name name; /* the candidate, or what it is an alias of */
};

struct dns {
	enum dns_state state;
	const char
	        *why; /* when DNS_FAILED: a static sentence ("no such name", "no name server answered", …) */
	struct dns_server server[DNS_SERVERS];
	size_t addresses; /* in address */
	/* its own */
	bool absolute, as_is_first; /* not with the search domains; before them */
	bool exists;                /* one of the candidates has no address, but is there */
	uint32_t random;
	size_t candidate; /* the next one */
	size_t best;      /* the server that answered last: asked first from then on */
	int round_length_ms;
	int64_t started_ms, settle_ms;
	struct dns_family family[2]; /* A, AAAA */
	struct dns_conf conf;
	struct dns_name base;                 /* the name that was asked for, without the root */
	struct dns_name wanted, owner, alias; /* whose records count in an answer, whose this one is, and what
	                                       * the wanted name stands for */
	/* what it has found */
	struct dns_address
	        address[DNS_ADDRESSES]; /* when DNS_FOUND: IPv6 and IPv4 taking turns, as they came */
};

/* Starts a look-up of name (no literal, not localhost, not in hosts: the caller asked those first). conf: the
 * text of resolv.conf. random: 32 unpredictable bits, the source of ids. now: monotonic milliseconds, here
 * and below. */
void dns_begin(struct dns *d, const char *name, struct slice conf, uint32_t random, int64_t now);

/* Does what is due and returns when it wants to be called again (never in the past twice running); INT64_MAX
 * when it is finished. The first server is asked first, the next ones when it fails or is silent for 300 ms,
 * all of them `attempts` times every `timeout` (or more often, so that every attempt fits into
 * DNS_LOOKUP_MS); when all have failed, the look-up has. Both families are asked independently, and once one
 * of them has brought addresses, or that there is no such name, the other gets 300 ms more. A name that does
 * not exist or has no address is tried with the search domains (ndots decides the order). */
int64_t dns_step(struct dns *d, int64_t now);

/* Writes the question that a server shall get: aaaa false for A (type 1), true for AAAA (type 28). In front
 * of it are two bytes of its length, for TCP alone (RFC 1035 §4.2.2). */
void dns_put_question(const struct dns *d, bool aaaa, struct buf *b);

/* An answer arrived from server s (a whole message, without TCP's length), over what is open. Checks id,
 * question, flags and class; what does not match is ignored (it may be forged), what does not parse is
 * ignored too. Over TCP a truncated one is an error. Follows CNAME chains in the answer, at most 8, and asks
 * again for a target that the answer does not hold. */
void dns_answer(struct dns *d, size_t s, struct slice m, int64_t now);

/* The socket to server s failed, UDP's or TCP's; the driver has closed it. */
void dns_server_failed(struct dns *d, size_t s, int64_t now);

#endif
