#include "core.h"

#include <string.h>

bool api_start(struct api *a, struct slice target, struct slice body, int64_t now_ms)
{
	struct link *l = a->link;
	l->in.n = l->out.n = l->out_at = 0;
	l->out.full = false;
	if (body.p != NULL)
		http_put_post(&l->out, l->host, l->port, target, body);
	else
		http_put_get(&l->out, l->host, l->port, target);
	if (l->out.full) {
		l->out.n = 0;
		return false;
	}
	memset(&a->reply, 0, sizeof a->reply);
	a->started_ms = now_ms;
	a->deadline_ms = now_ms + a->config->api_timeout_s * 1000;
	a->state = API_BUSY;
	l->open = true;
	return true;
}

static enum api_state fail(struct api *a, enum bridge_error error, const char *why)
{
	a->error = error;
	a->why = why;
	a->state = API_FAILED;
	return API_FAILED;
}

/* Reads what has come of the reply; ended says that no more will. */
static void read_reply(struct api *a, bool ended)
{
	struct link *l = a->link;
	/* A connection that broke counts as an end only for a reply that says its own length: http_read finds
	 * the others cut short, or cannot know, so they must not see it. */
	bool eof = ended && l->end == LINK_EOF;
	long n = http_read(&a->reply, l->in.p, &l->in.n, eof);
	if (n > 0)
		a->state = API_DONE;
	else if (n < 0)
		fail(a, ERROR_API_INVALID_REPLY, a->reply.why);
	else if (ended)
		fail(a, ERROR_API_INVALID_REPLY, l->why);
}

enum api_state api_step(struct api *a, int64_t now_ms)
{
	struct link *l = a->link;
	if (a->state == API_CLOSING && l->state == LINK_DOWN)
		a->state = API_IDLE;
	if (a->state != API_BUSY)
		return a->state;
	if (l->state == LINK_ENDED && l->end == LINK_REFUSED)
		fail(a, ERROR_API_UNREACHABLE, l->why);
	else if (l->state == LINK_UP || l->state == LINK_ENDED)
		read_reply(a, l->state == LINK_ENDED);
	if (a->state == API_BUSY && now_ms >= a->deadline_ms) {
		if (l->transport)
			fail(a, ERROR_API_TIMEOUT, "it did not answer in time");
		else
			fail(a, ERROR_API_UNREACHABLE, "no connection in time");
	}
	return a->state;
}

void api_finish(struct api *a)
{
	a->link->open = false;
	a->request = 0;
	a->state = API_CLOSING;
}

struct api *api_idle(struct bridge *b)
{
	for (size_t i = 0; i < BRIDGE_CALLS; i++)
		if (api_step(&b->call[i], b->time.now_ms) == API_IDLE)
			return &b->call[i];
	return NULL;
}

void api_wipe(struct api *a)
{
	struct buf *in = &a->link->in;
	tls_wipe(in->p, a->link->received < in->cap ? (size_t)a->link->received : in->cap);
}

bool api_succeeded(const struct api *a)
{
	return a->reply.status >= 200 && a->reply.status <= 299;
}

int64_t api_deadline(const struct api *a)
{
	return a->state == API_BUSY ? a->deadline_ms : INT64_MAX;
}

void api_put_why(struct buf *b, const struct api *a)
{
	buf_put_str(b, a->why);
	if (a->link->state == LINK_ENDED && a->link->code != 0 && a->why == a->link->why) {
		buf_put_str(b, " (error ");
		buf_put_i64(b, a->link->code);
		buf_put_str(b, ")");
	}
}
