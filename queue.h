/* A bounded queue of byte records, packed in the order of their arrival in memory that the caller owns.
 * Pure: allocates nothing; a record that does not fit is refused, never cut. */
#ifndef QUEUE_H
#define QUEUE_H

#include "buf.h"

enum { QUEUE_HEAD_BYTES = 8 }; /* what a record takes besides its bytes, which are rounded up to 8 */

struct queue {
	unsigned char *mem; /* aligned to 8 */
	size_t cap;         /* bytes at mem that can be used: a multiple of 8 */
	size_t used;        /* bytes taken by records and their headers */
};

/* Makes an empty queue over cap bytes at mem (aligned to 8), which must outlive it. */
void queue_init(struct queue *q, void *mem, size_t cap);

/* The bytes that one more record could have. */
size_t queue_room(const struct queue *q);

/* The place of the record that queue_add will return next, aligned to 8, with the bytes of queue_room, which
 * must not be 0: who does not know a size beforehand writes there first and adds the record afterwards. Stays
 * valid, and its bytes as they are, until a record is added or removed. */
void *queue_vacant(const struct queue *q);

/* Appends a record of n bytes and returns them, aligned to 8 and not initialised (they are those that
 * queue_vacant gave); NULL when they do not fit. The pointer moves when an earlier record is removed: do not
 * keep it. */
void *queue_add(struct queue *q, size_t n);

/* The first record, or the one after item; NULL when there is none. */
void *queue_first(const struct queue *q);
void *queue_next(const struct queue *q, const void *item);

/* The size of a record in bytes, as it was asked for. */
size_t queue_size(const void *item);

/* How many records there are. */
size_t queue_count(const struct queue *q);

/* Removes a record; those behind it move down (their pointers change, the order does not). Returns the record
 * that was behind it and is now at its place, NULL when there was none. */
void *queue_remove(struct queue *q, void *item);

#endif
