#include "link.h"

#include <string.h>

static br_ssl_engine_context *engine(const struct link *l)
{
	return &l->tls->client.eng;
}

struct slice link_read(struct link *l)
{
	struct slice s = buf_slice(&l->in);
	if (l->tls != NULL && l->transport)
		s.p = br_ssl_engine_recvapp_buf(engine(l), &s.n);
	return s;
}

void link_take(struct link *l, size_t n)
{
	if (l->tls != NULL) {
		br_ssl_engine_recvapp_ack(engine(l), n);
	} else {
		l->in.n -= n;
		memmove(l->in.p, l->in.p + n, l->in.n);
	}
}

unsigned char *link_write(struct link *l, size_t *n)
{
	*n = 0;
	if (l->state != LINK_UP)
		return NULL;
	if (l->tls != NULL)
		return br_ssl_engine_sendapp_buf(engine(l), n);
	*n = l->out.cap - l->out.n;
	return l->out.p + l->out.n;
}

void link_put(struct link *l, size_t n)
{
	if (l->tls != NULL)
		br_ssl_engine_sendapp_ack(engine(l), n);
	else
		l->out.n += n;
}

void link_flush(struct link *l)
{
	if (l->tls != NULL && l->state == LINK_UP)
		br_ssl_engine_flush(engine(l), 0);
}

bool link_idle(struct link *l)
{
	size_t n;
	return link_send_buf(l, &n) == NULL;
}

void link_opening(struct link *l)
{
	l->state = LINK_OPENING;
	l->transport = false;
	l->tls_failed = false;
	l->why = NULL;
	l->detail.n = 0;
	l->code = 0;
	l->peer[0] = 0;
	l->received = 0;
}

/* TLS moves on by itself when bytes come: has it come up, or failed, or been closed by the peer? While it is
 * up, to ask for the engine's whole state would cost more than all else about a publish: iomode is 0
 * (BR_IO_FAILED) when it is closed. */
static void look_at_tls(struct link *l)
{
	if (engine(l)->iomode == 0) {
		l->code = tls_error(l->tls);
		l->tls_failed = l->code != 0;
		l->end = l->state == LINK_OPENING ? LINK_REFUSED : l->tls_failed ? LINK_LOST : LINK_EOF;
		l->why = l->tls_failed ? tls_why(l->tls) : "the server ended the connection";
		l->detail = tls_detail(l->tls);
		if (l->end == LINK_REFUSED)
			tls_refused(l->tls);
		l->state = LINK_ENDED;
	} else if (l->state == LINK_OPENING &&
	           (br_ssl_engine_current_state(engine(l)) & BR_SSL_SENDAPP) != 0) {
		l->state = LINK_UP;
		tls_established(l->tls, l->wall_s);
	}
}

void link_connected(struct link *l, const char *peer, int64_t wall_s, const unsigned char *entropy)
{
	struct buf b = BUF(l->peer);
	buf_put_str(&b, peer);
	(void)buf_cstr(&b);
	l->transport = true;
	l->wall_s = wall_s;
	if (l->tls == NULL) {
		l->state = LINK_UP;
		return;
	}
	tls_begin(l->tls, l->server_name, l->anchors, wall_s, entropy);
	look_at_tls(l);
}

void link_ended(struct link *l, enum link_end end, const char *why, int code)
{
	if (l->state == LINK_ENDED)
		return;
	if (l->tls != NULL && end == LINK_EOF)
		end = LINK_LOST;
	if (l->tls != NULL && l->transport && l->state == LINK_OPENING)
		tls_refused(l->tls);
	l->end = l->state == LINK_OPENING ? LINK_REFUSED : end;
	l->why = why;
	l->code = code;
	l->state = LINK_ENDED;
}

void link_farewell(struct link *l)
{
	if (l->tls != NULL && l->state == LINK_UP)
		br_ssl_engine_close(engine(l));
}

void link_closed(struct link *l)
{
	if (l->tls != NULL && l->transport)
		tls_end(l->tls);
	l->in.n = 0;
	l->out.n = 0;
	l->out_at = 0;
	l->transport = false;
	l->state = LINK_DOWN;
}

unsigned char *link_recv_buf(struct link *l, size_t *n)
{
	*n = 0;
	if (!l->transport || l->state == LINK_ENDED)
		return NULL;
	if (l->tls != NULL)
		return br_ssl_engine_recvrec_buf(engine(l), n);
	*n = l->in.cap - l->in.n;
	return *n > 0 ? l->in.p + l->in.n : NULL;
}

void link_recv_ack(struct link *l, size_t n)
{
	l->received += n;
	if (l->tls != NULL) {
		br_ssl_engine_recvrec_ack(engine(l), n);
		look_at_tls(l);
	} else {
		l->in.n += n;
	}
}

const unsigned char *link_send_buf(struct link *l, size_t *n)
{
	*n = 0;
	if (!l->transport || l->state == LINK_ENDED)
		return NULL;
	if (l->tls != NULL)
		return br_ssl_engine_sendrec_buf(engine(l), n);
	*n = l->out.n - l->out_at;
	return *n > 0 ? l->out.p + l->out_at : NULL;
}

void link_send_ack(struct link *l, size_t n)
{
	if (l->tls != NULL) {
		br_ssl_engine_sendrec_ack(engine(l), n);
		look_at_tls(l);
		return;
	}
	l->out_at += n;
	if (l->out_at == l->out.n)
		l->out_at = l->out.n = 0;
}
