#include "core.h"

#include <string.h>

#include "json.h"

enum {
	SPARE_OPEN_MS = 5 * 1000 /* until it must be up */
};

/* --- the connections --- */

/* Has a call lent it its memory? */
static bool used(const struct link *l)
{
	return l->out.cap > 0;
}

static void open_link(struct bridge *b, struct link *l)
{
	l->open = true;
	l->opened_ms = b->time.now_ms;
}

enum {
	RANK_NONE = -3, /* it is on its way down */
	RANK_OPENING,
	RANK_NEW /* it can be opened */
};

/* How much is to be expected of an unused connection: the one that is up for longest is the best, since a
 * server may take its connections one by one and in their order; then a new one; one that is still not up may
 * never be. */
static int64_t rank(const struct bridge *b, const struct link *l)
{
	int64_t age_ms = b->time.now_ms - l->opened_ms;
	if (!l->open)
		return l->state == LINK_DOWN ? RANK_NEW : RANK_NONE;
	if (l->state == LINK_ENDED || l->in.n > 0)
		return RANK_NONE;
	if (l->state == LINK_UP)
		return age_ms;
	return age_ms < SPARE_OPEN_MS ? RANK_OPENING : RANK_NONE;
}

size_t api_spares(const struct bridge *b)
{
	size_t up = 0;
	for (size_t i = LINK_API; i < BRIDGE_LINKS; i++)
		up += b->link[i].state == LINK_UP && !used(&b->link[i]);
	return up;
}

/* Of two connections that wait and more, the last one is kept for the state: no Modbus call ever delays it.
 * While one is fetched, the next one is an interval away. */
static bool spared(struct bridge *b)
{
	return b->state.state == API_IDLE && b->config->api_spares > 1 && api_spares(b) <= 1;
}

/* Gives the call a connection, when there is one: rather one that was opened ahead of need. */
static void give_link(struct bridge *b, struct api *a)
{
	int64_t most = RANK_OPENING;
	bool not_up = spared(b);
	for (struct link *l = b->link + LINK_API; l < b->link + BRIDGE_LINKS; l++) {
		/* Of two opened at once the last one: net.c serves the links from last to first. */
		if (used(l) || (not_up && l->state == LINK_UP) || rank(b, l) < most)
			continue;
		most = rank(b, l);
		a->link = l;
	}
	if (a->link == NULL)
		return;
	a->waited = a->link->open;
	if (!a->waited)
		open_link(b, a->link);
	a->link->in = a->in;
	a->link->out = a->out;
}

/* The call lets go of its connection, which is closed or, when keep is set, waits for the next one. */
static void drop_link(struct bridge *b, struct api *a, bool keep)
{
	if (a->link == NULL)
		return;
	a->link->in = BUF(b->spare_mem); /* see bridge_init */
	a->link->out.cap = a->link->out.n = a->link->out_at = 0;
	a->link->open = keep;
	a->link = NULL;
}

/* How many connections wait. Closes those that are of no use any more, all of them when all is set. */
static size_t count_spares(struct bridge *b, bool all)
{
	size_t n = 0;
	for (struct link *l = b->link + LINK_API; l < b->link + BRIDGE_LINKS; l++) {
		if (!l->open || used(l))
			continue;
		bool good = rank(b, l) > RANK_NONE;
		if (!good) { /* it has ended by itself: the next one is opened after a while, which grows */
			b->spare_at_ms = b->time.now_ms + back_off_ms(b->spare_failures++);
			b->spare_refused = !l->transport;
		}
		l->open = good && !all;
		n += l->open;
	}
	return n;
}

void api_keep_spares(struct bridge *b)
{
	size_t n = count_spares(b, false), most = b->stopping ? 0 : b->config->api_spares;
	for (struct link *l = b->link + LINK_API; l < b->link + BRIDGE_LINKS; l++) {
		if (!used(l))
			continue;
		n += b->api_keeps; /* it will wait again, soon */
		if (l->state == LINK_DOWN || l->state == LINK_OPENING)
			most = 0; /* a call waits for its connection: a spare one must not get in before it */
	}
	for (struct link *l = b->link + LINK_API; l < b->link + BRIDGE_LINKS; l++) {
		if (used(l))
			continue;
		if (!l->open && l->state == LINK_DOWN && n < most && due(b, b->spare_at_ms)) {
			open_link(b, l);
			n++;
		}
		if (l->open && l->state != LINK_UP)
			wake_at(b, l->opened_ms + SPARE_OPEN_MS);
	}
}

/* --- a call --- */

void api_begin(struct api *a, const char *line)
{
	a->out.n = 0;
	a->out.full = a->once = false;
	buf_put_str(&a->out, line);
}

bool api_start(struct bridge *b, struct api *a, struct slice body, int64_t from_ms)
{
	const struct bridge_config *c = b->config;
	http_put_request(&a->out, c->api_host, c->api_port, body);
	if (a->out.full)
		return false;
	memset(&a->reply, 0, sizeof a->reply);
	a->reply.most = a->in.cap - (HTTP_REPLY_BYTES - HTTP_BODY_BYTES);
	a->deadline_ms = from_ms + c->api_timeout_s * 1000;
	a->repeated = false;
	a->state = API_BUSY;
	wake_at(b, a->deadline_ms);
	give_link(b, a);
	return true;
}

static void fail(struct api *a, enum bridge_error error, const char *why)
{
	a->error = error;
	a->why = why;
	a->code = a->link != NULL && why == a->link->why ? a->link->code : 0;
	a->state = API_FAILED;
}

/* The connection had been waiting, and the server has given it up before it said a word, as after a restart:
 * then the others that wait are as dead, and the call goes over a fresh one, unless it must not be made
 * twice. */
static bool repeat(struct bridge *b, struct api *a)
{
	struct link *l = a->link;
	if (!a->waited || a->once || a->repeated || a->reply.part != HTTP_HEAD || l->in.n > 0)
		return false;
	drop_link(b, a, false);
	count_spares(b, true);
	a->repeated = true;
	give_link(b, a);
	return true;
}

/* Reads what has come of the reply; ended says that no more will. */
static void read_reply(struct bridge *b, struct api *a, bool ended)
{
	struct link *l = a->link;
	/* A connection that broke counts as an end only for a reply that says its own length: http_read finds
	 * the others cut short, or cannot know, so they must not see it. */
	bool eof = ended && l->end == LINK_EOF;
	if (ended && repeat(b, a))
		return;
	long n = http_read(&a->reply, l->in.p, &l->in.n, eof);
	if (n > 0) {
		bool good = a->reply.status >= 200 && a->reply.status <= 299;
		a->state = API_DONE;
		a->why = good ? NULL : "it answered with an error status";
		a->code = good ? 0 : a->reply.status;
		times_add(&b->stats.api, b->time.now_ms - (a->deadline_ms - b->config->api_timeout_s * 1000));
	} else if (n < 0) {
		fail(a, ERROR_API_INVALID_REPLY, a->reply.why);
	} else if (ended) {
		fail(a, ERROR_API_INVALID_REPLY, l->why);
	}
}

bool api_step(struct bridge *b, struct api *a)
{
	if (a->state != API_BUSY)
		return a->state != API_IDLE;
	if (a->link == NULL)
		give_link(b, a);
	struct link *l = a->link;
	if (l != NULL && l->state == LINK_ENDED && l->end == LINK_REFUSED)
		fail(a, a->repeated ? ERROR_API_INVALID_REPLY : ERROR_API_UNREACHABLE,
		        l->why); /* it was sent once */
	else if (l != NULL && (l->state == LINK_UP || l->state == LINK_ENDED))
		read_reply(b, a, l->state == LINK_ENDED);
	if (a->state == API_BUSY && due(b, a->deadline_ms)) {
		if (a->repeated || (a->link != NULL && a->link->transport))
			fail(a, ERROR_API_TIMEOUT, "it did not answer in time");
		else
			fail(a, ERROR_API_UNREACHABLE, "no connection in time");
	}
	return a->state != API_BUSY;
}

void api_finish(struct bridge *b, struct api *a)
{
	bool whole = a->state == API_DONE;
	if (whole)
		b->api_keeps = a->reply.keep_alive;
	if (whole && (a->waited || b->spare_refused))
		b->spare_failures = 0;
	drop_link(b, a,
	        whole && a->reply.keep_alive && link_idle(a->link) &&
	                count_spares(b, false) < b->config->api_spares);
	a->request = 0;
	a->state = API_IDLE;
}

struct api *api_idle(struct bridge *b)
{
	for (size_t i = 0; i < BRIDGE_CALLS; i++)
		if (b->call[i].state == API_IDLE)
			return &b->call[i];
	return NULL;
}

void api_wipe(struct api *a)
{
	if (a->link == NULL) /* it never got a connection */
		return;
	struct buf *in = &a->link->in;
	tls_wipe(in->p, a->link->received < in->cap ? (size_t)a->link->received : in->cap);
}

const char *api_take_string(struct slice body, const char *name, struct buf *out)
{
	struct slice value;
	if (!json_members(body, true, &name, &value, 1) || json_kind(body) != JSON_OBJECT)
		return "the reply is not a JSON object";
	if (json_kind(value) != JSON_STRING)
		return "the reply lacks the expected text";
	json_unescape(out, value);
	return NULL;
}
