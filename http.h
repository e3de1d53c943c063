/* HTTP/1.1 (RFC 9110, RFC 9112), the least of a client: one request to bytes, bytes to one reply.
 * Pure: opens no connection, reads no clock, allocates nothing. */
#ifndef HTTP_H
#define HTTP_H

#include "buf.h"
#include "sizes.h"

enum {
	/* what the reader's memory must hold: while http_read asks for more there is room for more */
	HTTP_REPLY_BYTES = HTTP_BODY_BYTES + HTTP_FRAME_BYTES
};

/* Writes a request to host:port behind its method and target (path and query, already percent-encoded), with
 * a JSON body when body.p is set. An IPv6 literal host gets its brackets and loses its zone. Accept:
 * application/json. */
void http_put_request(struct buf *b, const char *host, uint16_t port, struct slice body);

/* Writes a byte string as a query value (RFC 3986 §2.3): everything but A-Z a-z 0-9 _ . - ~ as %XX. */
void http_put_encoded(struct buf *b, struct slice s);

/* Where the reader is in a reply. */
enum http_part {
	HTTP_HEAD,       /* status line and header, still incomplete */
	HTTP_LENGTH,     /* a body of known length */
	HTTP_TO_EOF,     /* a body that ends with the connection */
	HTTP_CHUNK_SIZE, /* a chunked body: before a chunk-size line */
	HTTP_CHUNK_DATA, /* in a chunk's data */
	HTTP_CHUNK_END,  /* before the CRLF after the data */
	HTTP_TRAILER,    /* after the last chunk */
	HTTP_WHOLE
};

/* The reply that is being read. All zero but for most is the start of one; the reader keeps its place here,
 * and the results. */
struct http_reply {
	size_t most; /* the caller's: how many bytes the body may have, at most HTTP_BODY_BYTES */
	/* results, valid when http_read returned a positive number */
	int status;        /* 200 to 599 */
	bool keep_alive;   /* the connection may carry another request (RFC 9112 §9.3) */
	struct slice body; /* in the caller's memory, chunks joined */
	/* the error, when it returned -1 */
	const char *why; /* a static sentence: what was wrong with the reply */
	/* the reader's own */
	enum http_part part;
	size_t body_n; /* the body so far */
	size_t left;   /* HTTP_LENGTH: the body's length; HTTP_CHUNK_DATA: bytes to the chunk's end */
};

/* Reads a reply from the *n bytes at p, to which the caller appends what arrives (room for HTTP_REPLY_BYTES
 * in all, or by so much less as most is less than HTTP_BODY_BYTES, but for HTTP_HEAD_BYTES). eof: the server
 * has ended the connection. Returns 1 when the reply is whole; 0 when more is needed, and then there is room;
 * -1 when it is malformed, cut short, or too large. After a number other than 0 r must be zeroed before the
 * next reply. 1xx replies are skipped. Skipping them, dropping the header and joining chunks move bytes
 * within p and lower *n. A reply without length and chunks ends with the connection (RFC 9112 §6.3). Refused:
 * both length and chunks, two different lengths, a signed, empty or listed length, any transfer coding but
 * chunked, a header over HTTP_HEAD_BYTES, obsolete folding, white space before a colon, a control character
 * in a header, bytes after the reply when the connection is to be kept. */
long http_read(struct http_reply *r, unsigned char *p, size_t *n, bool eof);

#endif
