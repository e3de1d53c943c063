#include "port.h"

#include "board.h"
#include "lwip/dns.h"
#include "lwip/tcp.h"

/* One link and its connection. */
static struct peer {
	struct link *link;
	struct tcp_pcb *pcb;
	struct pbuf *in; /* came and was not taken; in_at bytes of it were */
	u16_t in_at;
	enum { IDLE, LOOKUP, FOUND, CONNECT, CONNECTED, OPEN } step;
	ip_addr_t address;
	bool eof;    /* all that is to come is in `in` */
	err_t error; /* the connection is gone, and why */
} peer[BRIDGE_LINKS];

void port_init(struct bridge *b)
{
	for (size_t i = 0; i < BRIDGE_LINKS; i++)
		peer[i].link = &b->link[i];
}

/* --- what lwIP says, while it is polled --- */

static void found(const char *name, const ip_addr_t *address, void *arg)
{
	struct peer *p = arg;
	(void)name;
	if (p->step != LOOKUP) /* an earlier one's; the core has given up */
		return;
	if (address != NULL)
		p->address = *address;
	else
		p->error = ERR_ARG;
	p->step = FOUND;
}

static err_t connected(void *arg, struct tcp_pcb *pcb, err_t error)
{
	struct peer *p = arg;
	(void)pcb, (void)error; /* always ERR_OK */
	p->step = CONNECTED;
	return ERR_OK;
}

static err_t received(void *arg, struct tcp_pcb *pcb, struct pbuf *data, err_t error)
{
	struct peer *p = arg;
	(void)pcb, (void)error;
	if (data == NULL)
		p->eof = true;
	else if (p->in == NULL)
		p->in = data;
	else
		pbuf_cat(p->in, data);
	return ERR_OK;
}

static void failed(void *arg, err_t error)
{
	struct peer *p = arg;
	p->pcb = NULL; /* lwIP has freed it */
	p->error = error;
}

/* --- one link --- */

/* Lets go of the connection. */
static void drop(struct peer *p)
{
	if (p->in != NULL)
		pbuf_free(p->in);
	if (p->pcb != NULL) {
		tcp_arg(p->pcb, NULL);
		tcp_recv(p->pcb, NULL);
		tcp_err(p->pcb, NULL);
		if (tcp_close(p->pcb) != ERR_OK)
			tcp_abort(p->pcb);
	}
	struct link *l = p->link;
	*p = (struct peer){.link = l};
}

static bool end(struct peer *p, enum link_end how, const char *why)
{
	link_ended(p->link, how, why, -p->error);
	drop(p);
	return true;
}

static bool open(struct peer *p)
{
	link_opening(p->link);
	p->step = LOOKUP;
	err_t e = dns_gethostbyname(p->link->host, &p->address, found, p);
	if (e == ERR_OK)
		p->step = FOUND;
	else if (e != ERR_INPROGRESS)
		return end(p, LINK_REFUSED, "the name can't be looked up now");
	return true;
}

static bool dial(struct peer *p)
{
	if (p->error != ERR_OK)
		return end(p, LINK_REFUSED, "no such name, or no answer from the name server");
	p->step = CONNECT;
	p->pcb = tcp_new();
	if (p->pcb == NULL)
		return end(p, LINK_REFUSED, "there are too many connections");
	tcp_arg(p->pcb, p);
	tcp_recv(p->pcb, received);
	tcp_err(p->pcb, failed);
	tcp_nagle_disable(p->pcb);
	p->error = tcp_connect(p->pcb, &p->address, p->link->port, connected);
	return p->error == ERR_OK || end(p, LINK_REFUSED, "the connection failed");
}

static bool begin(struct peer *p, int64_t wall_s)
{
	unsigned char entropy[TLS_ENTROPY_BYTES];
	if (p->link->tls != NULL && !board_entropy(entropy, sizeof entropy))
		return end(p, LINK_REFUSED, "there are no random numbers yet, without which TLS is not safe");
	p->step = OPEN;
	link_connected(p->link, ipaddr_ntoa(&p->address), wall_s, entropy);
	tls_wipe(entropy, sizeof entropy);
	return true;
}

static bool send_bytes(struct peer *p)
{
	size_t n;
	bool moved = false;
	const unsigned char *from;
	while ((from = link_send_buf(p->link, &n)) != NULL && tcp_sndbuf(p->pcb) > 0) {
		if (n > tcp_sndbuf(p->pcb))
			n = tcp_sndbuf(p->pcb);
		if (tcp_write(p->pcb, from, (u16_t)n, TCP_WRITE_FLAG_COPY) != ERR_OK)
			break; /* no memory now: later */
		link_send_ack(p->link, n);
		moved = true;
	}
	if (moved)
		tcp_output(p->pcb);
	return moved;
}

static bool receive_bytes(struct peer *p)
{
	size_t room;
	unsigned char *to = p->in != NULL ? link_recv_buf(p->link, &room) : NULL;
	if (to == NULL)
		return false;
	u16_t left = (u16_t)(p->in->tot_len - p->in_at), n = room < left ? (u16_t)room : left;
	pbuf_copy_partial(p->in, to, n, p->in_at);
	p->in_at = (u16_t)(p->in_at + n);
	link_recv_ack(p->link, n);
	if (p->pcb != NULL)
		tcp_recved(p->pcb, n);
	while (p->in != NULL && p->in_at >= p->in->len) {
		struct pbuf *next = p->in->next;
		p->in_at = (u16_t)(p->in_at - p->in->len);
		if (next != NULL)
			pbuf_ref(next);
		pbuf_free(p->in);
		p->in = next;
	}
	return true;
}

static bool move(struct peer *p, int64_t wall_s)
{
	struct link *l = p->link;
	if (!l->open) {
		if (l->state == LINK_DOWN)
			return false;
		link_farewell(l);
		if (p->pcb != NULL && p->step == OPEN)
			send_bytes(p);
		drop(p);
		link_closed(l);
		return true;
	}
	if (l->state == LINK_DOWN)
		return open(p);
	if (p->step == FOUND)
		return dial(p);
	if (p->step == CONNECTED)
		return begin(p, wall_s);
	if (p->step == CONNECT && p->error != ERR_OK)
		return end(p, LINK_REFUSED, "the connection was refused, or nobody answers");
	if (p->step != OPEN)
		return false;
	bool moved = p->pcb != NULL && send_bytes(p);
	moved |= receive_bytes(p);
	if (l->state == LINK_ENDED) { /* TLS has failed, or the peer said goodbye */
		drop(p);
		return true;
	}
	if (p->in == NULL && p->error != ERR_OK)
		return end(p, LINK_LOST, "the other side reset the connection, or does not answer");
	if (p->in == NULL && p->eof)
		return end(p, LINK_EOF, "the server closed the connection");
	return moved;
}

bool port_move(int64_t wall_s)
{
	bool moved = false;
	for (size_t i = 0; i < BRIDGE_LINKS; i++)
		moved |= move(&peer[i], wall_s);
	return moved;
}
