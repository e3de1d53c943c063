#include "dns.h"

#include <string.h>

enum {
	HEADER_BYTES = 12, /* RFC 1035 §4.1.1 */
	TYPE_A = 1,
	TYPE_CNAME = 5,
	TYPE_AAAA = 28,
	CLASS_IN = 1,
	NXDOMAIN = 3,
	LABEL_BYTES = 63,
	POINTERS = 127, /* a name has no more labels */
	ALIASES = 8,
	PATIENCE_MS = 300 /* for a silent server, and for the other family */
};

static const char hex[16] = {'0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f'};

struct slice dns_bare(const char *name)
{
	struct slice s = slice_str(name);
	if (s.n > 0 && s.p[s.n - 1] == '.')
		s.n--;
	return s;
}

/* The next word of a line; empty at its end. */
static struct slice cut_word(struct slice *line)
{
	struct slice word = {(*line = slice_trim(*line)).p, 0};
	while (word.n < line->n && line->p[word.n] != ' ' && line->p[word.n] != '\t')
		word.n++;
	*line = slice_from(*line, word.n);
	return word;
}

/* Address literals */

static bool read_ip4(struct slice t, uint8_t *ip)
{
	for (size_t i = 0; i < 4; i++) {
		struct slice part = slice_cut(&t, '.');
		int64_t v = slice_u64(part, 255);
		if (v < 0 || (part.p[0] == '0' && part.n > 1) || (t.p == NULL) != (i == 3))
			return false;
		ip[i] = (uint8_t)v;
	}
	return true;
}

static bool read_ip6(struct slice t, uint8_t *ip)
{
	enum { NO_GAP = 17 };
	size_t at = 0, n = 0, gap = NO_GAP; /* gap: where "::" stands */
	if (t.n >= 2 && t.p[0] == ':' && t.p[1] == ':') {
		gap = 0;
		at = 2;
	}
	while (at < t.n) {
		size_t from = at, v = 0;
		for (const char *x; at < t.n && at - from < 4; at++) {
			unsigned char c = t.p[at];
			if ((x = memchr(hex, c > '9' ? c | 0x20 : c, sizeof hex)) == NULL)
				break;
			v = v << 4 | (size_t)(x - hex);
		}
		if (at < t.n && t.p[at] == '.') {
			if (n > 12 || !read_ip4((struct slice){t.p + from, t.n - from}, ip + n))
				return false;
			n += 4;
			break;
		}
		if (at == from || n > 14)
			return false;
		ip[n++] = (uint8_t)(v >> 8);
		ip[n++] = (uint8_t)v;
		if (at == t.n)
			break;
		if (t.p[at++] != ':' || at == t.n)
			return false;
		if (t.p[at] == ':') {
			if (gap != NO_GAP)
				return false;
			gap = n;
			at++;
		}
	}
	if (gap == NO_GAP)
		return n == 16;
	if (n > 14)
		return false;
	memmove(ip + 16 - (n - gap), ip + gap, n - gap);
	memset(ip + gap, 0, 16 - n);
	return true;
}

bool dns_read_address(struct slice text, struct dns_address *a)
{
	memset(a, 0, sizeof *a);
	if (read_ip4(text, a->ip)) {
		a->size = 4;
		return true;
	}
	if (text.n > 1 && text.p[0] == '[' && text.p[text.n - 1] == ']')
		text = (struct slice){text.p + 1, text.n - 2};
	struct slice ip = slice_cut(&text, '%');
	if (text.p != NULL) {
		int64_t scope = slice_u64(text, UINT32_MAX);
		if (scope < 0)
			return false;
		a->scope = (uint32_t)scope;
	}
	a->size = read_ip6(ip, a->ip) ? 16 : 0;
	return a->size > 0;
}

static void put_ip4(struct buf *b, const uint8_t *ip)
{
	for (size_t i = 0; i < 4; i++) {
		if (i > 0)
			buf_put_byte(b, '.');
		buf_put_u64(b, ip[i]);
	}
}

static void put_group(struct buf *b, const uint8_t *ip)
{
	unsigned v = (unsigned)ip[0] << 8 | ip[1];
	for (int shift = 12; shift >= 0; shift -= 4) {
		if (shift == 0 || v >> shift != 0)
			buf_put_byte(b, (unsigned char)hex[v >> shift & 15]);
	}
}

/* The first of the longest runs of zero groups: its length in groups, and where it begins. A single group
 * does not count (RFC 5952 §4.2). */
static size_t zero_run(const uint8_t *ip, size_t *at)
{
	size_t longest = 0, run = 0;
	for (size_t i = 0; i < 8; i++) {
		run = ip[2 * i] == 0 && ip[2 * i + 1] == 0 ? run + 1 : 0;
		if (run > 1 && run > longest) {
			longest = run;
			*at = i + 1 - run;
		}
	}
	return longest;
}

void dns_put_address(struct buf *b, const struct dns_address *a)
{
	static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};
	if (a->size == 4)
		put_ip4(b, a->ip);
	if (a->size != 16)
		return;
	if (memcmp(a->ip, mapped, sizeof mapped) == 0) {
		buf_put_str(b, "::ffff:"); /* RFC 5952 §5 */
		put_ip4(b, a->ip + 12);
	} else {
		size_t at = 0, run = zero_run(a->ip, &at);
		for (size_t i = 0; i < 8; i++) {
			if (run > 0 && i == at) {
				buf_put_str(b, "::");
				i += run - 1;
				continue;
			}
			if (i > 0 && (run == 0 || i != at + run))
				buf_put_byte(b, ':');
			put_group(b, a->ip + 2 * i);
		}
	}
	if (a->scope != 0) {
		buf_put_byte(b, '%');
		buf_put_u64(b, a->scope);
	}
}

/* Names and files */

bool dns_is_label_char(unsigned char c)
{
	return ((c | 0x20) >= 'a' && (c | 0x20) <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '_';
}

/* Appends the labels of a dotted name, leaving room for the root. false: they are not valid. */
static bool add_labels(struct dns_name *w, struct slice t)
{
	for (size_t at = 0;; at++) {
		size_t from = at;
		while (at < t.n && t.p[at] != '.') {
			if (!dns_is_label_char(t.p[at++]))
				return false;
		}
		size_t n = at - from;
		if (n == 0 || n > LABEL_BYTES || n + 2 > sizeof w->wire - w->n)
			return false;
		w->wire[w->n++] = (uint8_t)n;
		memcpy(w->wire + w->n, t.p + from, n);
		w->n = (uint8_t)(w->n + n);
		if (at == t.n)
			return true;
	}
}

static void read_search(struct dns_conf *c, struct slice line, size_t max)
{
	c->searches = 0;
	for (struct slice word; (word = cut_word(&line)).n > 0 && c->searches < max;) {
		if (word.n >= DNS_NAME_BYTES)
			continue;
		char *to = c->search[c->searches++];
		memcpy(to, word.p, word.n);
		to[word.n] = 0;
	}
}

/* With the limits of libc. */
static const struct {
	char name[9];
	uint8_t usual, min, max;
} options[DNS_OPTIONS] = {
        [DNS_NDOTS] = {"ndots", 1, 0, 15},
        [DNS_TIMEOUT_S] = {"timeout", 5, 1, 30},
        [DNS_ATTEMPTS] = {"attempts", 2, 1, 5},
};

static void read_option(struct dns_conf *c, struct slice word)
{
	struct slice name = slice_cut(&word, ':');
	int64_t v = slice_u64(word, 1000000);
	for (size_t i = 0; v >= 0 && i < DNS_OPTIONS; i++)
		if (slice_is(name, options[i].name))
			c->option[i] = v < options[i].min   ? options[i].min
			               : v > options[i].max ? options[i].max
			                                    : (uint8_t)v;
}

void dns_read_conf(struct dns_conf *c, struct slice text)
{
	memset(c, 0, sizeof *c);
	for (size_t i = 0; i < DNS_OPTIONS; i++)
		c->option[i] = options[i].usual;
	while (text.n > 0) {
		struct slice line = slice_cut(&text, '\n'), word = cut_word(&line);
		if (slice_is(word, "nameserver")) {
			if (c->servers < DNS_SERVERS &&
			        dns_read_address(cut_word(&line), &c->server[c->servers]))
				c->servers++;
		} else if (slice_is(word, "search")) {
			read_search(c, line, DNS_SEARCH);
		} else if (slice_is(word, "domain")) {
			read_search(c, line, 1);
		} else if (slice_is(word, "options")) {
			while ((word = cut_word(&line)).n > 0)
				read_option(c, word);
		}
	}
	if (c->servers == 0)
		c->server[c->servers++] = (struct dns_address){4, {127, 0, 0, 1}, 0};
}

void dns_read_hosts(struct slice text, const char *name, struct dns_address *list, size_t *n)
{
	struct slice host = dns_bare(name);
	while (text.n > 0 && *n < DNS_ADDRESSES) {
		struct slice line = slice_cut(&text, '\n'), word;
		line = slice_cut(&line, '#');
		if (!dns_read_address(cut_word(&line), &list[*n]))
			continue;
		do {
			word = cut_word(&line);
		} while (word.n > 0 && !slice_like(word, host));
		*n += word.n > 0;
	}
}

bool dns_is_localhost(const char *name, struct dns_address list[2])
{
	enum { LOCAL = sizeof "localhost" - 1 };
	struct slice s = dns_bare(name);
	if (s.n < LOCAL || !slice_like(slice_from(s, s.n - LOCAL), slice_str("localhost")) ||
	        (s.n > LOCAL && s.p[s.n - LOCAL - 1] != '.'))
		return false;
	list[0] = (struct dns_address){4, {127, 0, 0, 1}, 0};
	list[1] = (struct dns_address){16, {[15] = 1}, 0};
	return true;
}

/* Messages */

static unsigned u16(struct slice m, size_t at)
{
	return (unsigned)m.p[at] << 8 | m.p[at + 1];
}

/* The name at at, pointers followed (RFC 1035 §4.1.4). Every pointer must lead to before the piece that it
 * ends, so there are no loops. Returns where the name ends in the message, 0 when it is malformed. */
static size_t read_name(struct slice m, size_t at, struct dns_name *w)
{
	size_t end = 0, piece = at;
	unsigned pointers = 0;
	w->n = 0;
	while (at < m.n) {
		size_t n = m.p[at];
		if (n > LABEL_BYTES) {
			if (n < 0xc0 || m.n - at < 2 || ++pointers > POINTERS)
				return 0;
			if (end == 0)
				end = at + 2;
			at = u16(m, at) & 0x3fff;
			if (at < HEADER_BYTES || at >= piece)
				return 0;
			piece = at;
			continue;
		}
		if (n >= m.n - at || n >= sizeof w->wire - w->n)
			return 0;
		memcpy(w->wire + w->n, m.p + at, n + 1);
		w->n = (uint8_t)(w->n + n + 1);
		at += n + 1;
		if (n == 0)
			return end > 0 ? end : at;
	}
	return 0;
}

static bool same_name(const struct dns_name *a, const struct dns_name *b)
{
	/* a length is no letter */
	return slice_like((struct slice){a->wire, a->n}, (struct slice){b->wire, b->n});
}

/* Takes from the answers, which begin at at, what belongs to d->wanted (RFC 1035 §4.1.3): its addresses for
 * q, or else what it is an alias of to d->alias, whose n is 0 when there is none. false: a record that the
 * header counts is malformed. */
static bool take_records(struct dns *d, struct dns_family *q, struct slice m, size_t at)
{
	const bool aaaa = q == &d->family[1];
	const unsigned size = aaaa ? 16 : 4, answers = u16(m, 6), all = answers + u16(m, 8) + u16(m, 10);
	d->alias.n = 0;
	for (unsigned i = 0; i < all; i++) {
		at = read_name(m, at, &d->owner);
		if (at == 0 || m.n - at < 10)
			return false;
		unsigned type = u16(m, at), class = u16(m, at + 2);
		size_t data = at + 10, n = u16(m, at + 8);
		if (n > m.n - data)
			return false;
		at = data + n;
		if (i >= answers || class != CLASS_IN || !same_name(&d->owner, &d->wanted))
			continue;
		if (type == TYPE_CNAME) {
			if (read_name(m, data, &d->alias) != at)
				return false;
		} else if (type == (aaaa ? TYPE_AAAA : TYPE_A)) {
			if (n != size)
				return false;
			if (q->addresses < DNS_ADDRESSES) {
				struct dns_address *a = &q->address[q->addresses++];
				*a = (struct dns_address){.size = size};
				memcpy(a->ip, m.p + data, size);
			}
		}
	}
	return true;
}

/* The look-up */

/* A question anew, for the name in q. */
static void begin_question(struct dns *d, struct dns_family *q, int64_t now)
{
	d->random = d->random * 1664525 + 1013904223;
	q->id = (uint16_t)(d->random >> 16);
	q->end = DNS_OPEN;
	q->waiting = q->round = 0;
	q->asked = q->addresses = 0;
	q->first = d->best;
	q->round_ms = now + d->round_length_ms;
}

static void end_failed(struct dns *d, const char *why)
{
	d->state = DNS_FAILED;
	d->why = why;
}

/* Asks for the next candidate: the name as it is, or with one of the search domains. */
static void begin_candidate(struct dns *d, int64_t now)
{
	while (d->candidate <= d->conf.searches) {
		size_t k = d->candidate++;
		struct dns_name *name = &d->family[0].name;
		*name = d->base;
		if (k != (d->as_is_first ? 0 : d->conf.searches) &&
		        (d->absolute || !add_labels(name, dns_bare(d->conf.search[k - d->as_is_first]))))
			continue;
		name->wire[name->n++] = 0;
		d->family[1].name = *name;
		for (size_t f = 0; f < 2; f++) {
			d->family[f].aliases = 0;
			begin_question(d, &d->family[f], now);
		}
		d->settle_ms = d->started_ms + DNS_LOOKUP_MS;
		return;
	}
	end_failed(d, d->exists ? "the name has no address" : "no such name");
}

/* Begins with d->conf, and else all zero. */
static void begin(struct dns *d, const char *name, uint32_t random, int64_t now)
{
	struct slice host = dns_bare(name);
	const int timeout_ms = d->conf.option[DNS_TIMEOUT_S] * 1000;
	d->state = DNS_ASKING;
	d->round_length_ms = DNS_LOOKUP_MS / d->conf.option[DNS_ATTEMPTS]; /* so that all of them fit in */
	if (timeout_ms < d->round_length_ms)
		d->round_length_ms = timeout_ms;
	d->random = random;
	d->started_ms = now;
	d->absolute = name[host.n] == '.';
	if (!add_labels(&d->base, host)) {
		end_failed(d, "not a valid host name");
		return;
	}
	size_t dots = 0;
	for (size_t i = 0; i < host.n; i++)
		dots += host.p[i] == '.';
	d->as_is_first = dots >= d->conf.option[DNS_NDOTS];
	begin_candidate(d, now);
	dns_step(d, now);
}

void dns_begin(struct dns *d, const char *name, struct slice conf, uint32_t random, int64_t now)
{
	memset(d, 0, sizeof *d);
	dns_read_conf(&d->conf, conf);
	begin(d, name, random, now);
}

static void ask(struct dns *d, size_t f, size_t s)
{
	struct dns_family *q = &d->family[f];
	if ((q->waiting >> s & 1) == 0 || !d->server[s].tcp) /* TCP repeats by itself */
		d->server[s].send[f] = true;
	q->waiting |= 1U << s;
}

/* Asks the servers that it is time to ask. */
static void ask_on(struct dns *d, size_t f, int64_t now)
{
	struct dns_family *q = &d->family[f];
	while (q->end == DNS_OPEN && (now >= q->next_ms || q->waiting == 0)) {
		if (q->asked < d->conf.servers) {
			ask(d, f, (q->first + q->asked++) % d->conf.servers);
			q->next_ms = q->asked < d->conf.servers ? now + PATIENCE_MS : q->round_ms;
		} else if (q->waiting != 0 && ++q->round < d->conf.option[DNS_ATTEMPTS]) {
			q->asked = 0;
			q->round_ms = now + d->round_length_ms;
		} else {
			q->end = DNS_NO_ANSWER;
		}
	}
	if (q->end != DNS_OPEN) {
		q->waiting = 0;
		q->next_ms = INT64_MAX;
	}
}

/* Server s has not answered q's question and won't: on to the next one. */
static void give_up(struct dns *d, struct dns_family *q, size_t s, const char *why)
{
	if ((q->waiting >> s & 1) == 0)
		return;
	q->waiting &= ~(1U << s);
	if (q->asked < d->conf.servers)
		q->next_ms = INT64_MIN;
	d->why = why;
}

/* Both families have ended, or there is no more time for one. */
static void conclude(struct dns *d, int64_t now)
{
	struct dns_family *a = &d->family[0], *aaaa = &d->family[1];
	for (size_t i = 0; i < 2 * DNS_ADDRESSES; i++) {
		const struct dns_family *q = i % 2 == 0 ? aaaa : a;
		if (i / 2 < q->addresses && d->addresses < DNS_ADDRESSES)
			d->address[d->addresses++] = q->address[i / 2];
	}
	bool none = a->end == DNS_HAS_NONE && aaaa->end == DNS_HAS_NONE;
	a->waiting = aaaa->waiting = 0;
	if (d->addresses > 0) {
		d->state = DNS_FOUND;
	} else if (none || a->end == DNS_NO_NAME || aaaa->end == DNS_NO_NAME) {
		d->exists |= a->end == DNS_HAS_NONE || aaaa->end == DNS_HAS_NONE;
		begin_candidate(d, now);
	} else {
		end_failed(d, d->why != NULL ? d->why : "no name server answered");
	}
}

/* A server is of use while a question waits for its answer. */
static void set_wishes(struct dns *d)
{
	for (size_t s = 0; s < d->conf.servers; s++) {
		struct dns_server *to = &d->server[s];
		bool a = d->family[0].waiting >> s & 1, aaaa = d->family[1].waiting >> s & 1;
		to->send[0] &= a;
		to->send[1] &= aaaa;
		to->open = a || aaaa;
		to->tcp &= to->open;
	}
}

int64_t dns_step(struct dns *d, int64_t now)
{
	const struct dns_family *a = &d->family[0], *aaaa = &d->family[1];
	while (d->state == DNS_ASKING) {
		ask_on(d, 0, now);
		ask_on(d, 1, now);
		if ((a->end == DNS_OPEN || aaaa->end == DNS_OPEN) && now < d->settle_ms)
			break;
		conclude(d, now);
	}
	set_wishes(d);
	if (d->state != DNS_ASKING)
		return INT64_MAX;
	int64_t next = a->next_ms < aaaa->next_ms ? a->next_ms : aaaa->next_ms;
	return next < d->settle_ms ? next : d->settle_ms;
}

void dns_put_question(const struct dns *d, bool aaaa, struct buf *b)
{
	const struct dns_family *q = &d->family[aaaa];
	static const unsigned char head[] = {0x01 /* recursion desired */, 0, 0, 1, 0, 0, 0, 0, 0, 0};
	buf_put_u16be(b, (uint16_t)(HEADER_BYTES + q->name.n + 4));
	buf_put_u16be(b, q->id);
	buf_put(b, head, sizeof head);
	buf_put(b, q->name.wire, q->name.n);
	buf_put_u16be(b, aaaa ? TYPE_AAAA : TYPE_A);
	buf_put_u16be(b, CLASS_IN);
}

/* Which of our questions a message answers, NULL for none; *at is where its answers begin. */
static struct dns_family *answered(struct dns *d, struct slice m, size_t *at)
{
	if (m.n < HEADER_BYTES || (m.p[2] & 0xf8) != 0x80 || u16(m, 4) != 1) /* QR, opcode QUERY */
		return NULL;
	size_t end = read_name(m, HEADER_BYTES, &d->owner);
	if (end == 0 || m.n - end < 4 || u16(m, end + 2) != CLASS_IN)
		return NULL;
	unsigned type = u16(m, end);
	struct dns_family *q = &d->family[type == TYPE_AAAA];
	if ((type != TYPE_A && type != TYPE_AAAA) || u16(m, 0) != q->id || !same_name(&d->owner, &q->name))
		return NULL;
	*at = end + 4;
	return q;
}

static const char refused[] = "the name server failed or refused to answer";

/* The answer to q, its records at at: follows the aliases, however they are ordered. What is malformed is
 * ignored. */
static void take_answer(struct dns *d, struct dns_family *q, size_t s, struct slice m, size_t at, int64_t now)
{
	unsigned aliases = q->aliases;
	d->wanted = q->name;
	while (take_records(d, q, m, at)) {
		if ((m.p[3] & 15) == NXDOMAIN) {
			q->addresses = 0;
			q->end = DNS_NO_NAME;
		} else if (q->addresses > 0) {
			q->end = DNS_HAS_ADDRESSES;
		} else if (d->alias.n > 0) {
			d->wanted = d->alias;
			if (++aliases <= ALIASES)
				continue;
			give_up(d, q, s, "too many aliases (CNAME)");
		} else if (aliases > q->aliases) {
			q->aliases = aliases;
			q->name = d->wanted;
			d->best = s;
			begin_question(d, q, now);
		} else if ((m.p[2] & 0x04) == 0 && (m.p[3] & 0x80) == 0) {
			/* neither authoritative nor recursive: it only knows whom to ask */
			give_up(d, q, s, refused);
		} else {
			q->end = DNS_HAS_NONE;
		}
		if (q->end != DNS_OPEN)
			d->best = s;
		return;
	}
	q->addresses = 0;
}

void dns_answer(struct dns *d, size_t s, struct slice m, int64_t now)
{
	size_t at = 0;
	struct dns_family *q = answered(d, m, &at);
	if (q == NULL || (q->waiting >> s & 1) == 0)
		return;
	struct dns_server *from = &d->server[s];
	const unsigned rcode = m.p[3] & 15;
	if ((m.p[2] & 0x02) != 0) { /* truncated */
		if (from->tcp)
			give_up(d, q, s, "the name server's answer is too large");
		else /* everything that is still open, over TCP */
			from->tcp = from->send[0] = from->send[1] = true;
	} else if (rcode != 0 && rcode != NXDOMAIN) {
		give_up(d, q, s, refused);
	} else {
		take_answer(d, q, s, m, at, now);
		if ((q->end == DNS_NO_NAME || q->end == DNS_HAS_ADDRESSES) &&
		        d->settle_ms > now + PATIENCE_MS)
			d->settle_ms = now + PATIENCE_MS;
	}
	dns_step(d, now);
}

void dns_server_failed(struct dns *d, size_t s, int64_t now)
{
	d->server[s].tcp = false;
	for (size_t f = 0; f < 2; f++)
		give_up(d, &d->family[f], s, "no name server could be reached");
	dns_step(d, now);
}
