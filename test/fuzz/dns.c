/* The resolver. The first byte chooses: a look-up with any bytes as its answers, or any text as resolv.conf,
 * hosts, and an address. */
// uses: buf.c
// longest input: 600
#include "fuzz.h"

#include "../../dns.c"

static void check_conf(const struct dns_conf *c)
{
	CHECK(c->servers >= 1 && c->servers <= DNS_SERVERS && c->searches <= DNS_SEARCH);
	CHECK(c->option[DNS_ATTEMPTS] >= 1 && c->option[DNS_TIMEOUT_S] >= 1);
	for (size_t i = 0; i < c->servers; i++)
		CHECK(c->server[i].size == 4 || c->server[i].size == 16);
	for (size_t i = 0; i < c->searches; i++)
		CHECK(memchr(c->search[i], 0, DNS_NAME_BYTES) != NULL);
}

static void texts(struct slice s)
{
	struct dns_conf conf;
	struct dns_address list[DNS_ADDRESSES], again;
	unsigned char mem[128];
	size_t n = 0;
	dns_read_conf(&conf, s);
	check_conf(&conf);
	for (int i = 0; i < 3; i++)
		dns_read_hosts(s, "gw.test.", list, &n);
	CHECK(n <= DNS_ADDRESSES);
	for (size_t i = 0; i <= n; i++) { /* what was read is written as text that reads the same */
		struct buf b = BUF(mem);
		if (i == n && (n == DNS_ADDRESSES || !dns_read_address(s, &list[i])))
			break;
		dns_put_address(&b, &list[i]);
		CHECK(!b.full && dns_read_address(buf_slice(&b), &again));
		CHECK(memcmp(&again, &list[i], sizeof again) == 0);
	}
}

/* When it wants to be called next: never at once again. */
static int64_t step(struct dns *d, int64_t now)
{
	int64_t due = dns_step(d, now);
	CHECK(due > now || dns_step(d, now) > now);
	CHECK((d->state == DNS_ASKING) == (due != INT64_MAX));
	CHECK(d->state != DNS_FAILED || d->why != NULL);
	CHECK(d->state != DNS_FOUND || (d->addresses > 0 && d->addresses <= DNS_ADDRESSES));
	return due;
}

/* One event: an answer (with the right id and question put in front, or not), a failure, time. */
static void event(struct dns *d, struct slice *in, int64_t *now)
{
	unsigned what = cut_byte(in), server = (what & 3) % DNS_SERVERS;
	bool aaaa = what & 8, plain = what & 16;
	unsigned char mem[700];
	struct buf m = BUF(mem);
	*now += what & 32 ? cut_byte(in) * 8 : 0;
	if ((what & 0xc0) == 0xc0) {
		dns_server_failed(d, server, *now);
		return;
	}
	struct slice body = cut(in, cut_byte(in) | (what & 64 ? 256 : 0));
	if (!plain) {
		struct slice flags = cut(&body, 2), counts = cut(&body, 3);
		unsigned char question_mem[700];
		struct buf question = BUF(question_mem);
		dns_put_question(d, aaaa, &question);
		buf_put_slice(&m, slice_from(buf_slice(&question), 2)); /* without TCP's length */
		memcpy(mem + 2, flags.p, flags.n);
		mem[2] |= 0x80;
		for (size_t i = 0; i < counts.n; i++)
			mem[7 + 2 * i] = counts.p[i];
	}
	buf_put_slice(&m, body);
	unsigned char *p = exactly(m.p, m.n);
	dns_answer(d, server, (struct slice){p, m.n}, *now);
	free(p);
	step(d, *now);
}

static void look_up(struct slice in)
{
	static const char conf_text[] =
	        "nameserver 192.0.2.1\nnameserver 2001:db8::1\nsearch a.test b.test\n";
	static const char *const names[] = {"gw.test", "gw", "gw.", "www.a-long-name.example.com", ".", ""};
	struct dns d;
	int64_t now = 1000;
	unsigned first = cut_byte(&in);
	struct slice conf = {(const unsigned char *)conf_text, first & 8 ? 21 : sizeof conf_text - 1};
	dns_begin(&d, names[first % 8 % 6], conf, first * 2654435761U, now);
	while (d.state == DNS_ASKING && in.n > 0)
		event(&d, &in, &now);
	for (int64_t due; d.state == DNS_ASKING; now = due) { /* and then nobody answers */
		due = step(&d, now);
		CHECK(d.state != DNS_ASKING || now <= 1000 + DNS_LOOKUP_MS + 8 * 255);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct slice in = {data, size};
	bool text = cut_byte(&in) & 1;
	unsigned char *p = exactly(in.p, in.n);
	if (text)
		texts((struct slice){p, in.n});
	else
		look_up((struct slice){p, in.n});
	free(p);
	return 0;
}
