#include "queue.h"

#include <string.h>

/* In front of each record. */
struct head {
	_Alignas(QUEUE_HEAD_BYTES) size_t n;
};
_Static_assert(sizeof(struct head) == QUEUE_HEAD_BYTES, "records stay aligned to 8");

static struct head *head_of(const void *item)
{
	return (struct head *)item - 1;
}

/* The bytes of a record and its padding. */
static size_t padded(const void *item)
{
	return (queue_size(item) + 7) & ~(size_t)7;
}

void queue_init(struct queue *q, void *mem, size_t cap)
{
	*q = (struct queue){mem, cap & ~(size_t)7, 0};
}

size_t queue_room(const struct queue *q)
{
	size_t left = q->cap - q->used;
	return left < QUEUE_HEAD_BYTES ? 0 : left - QUEUE_HEAD_BYTES;
}

void *queue_vacant(const struct queue *q)
{
	return q->mem + q->used + QUEUE_HEAD_BYTES;
}

void *queue_add(struct queue *q, size_t n)
{
	size_t left = q->cap - q->used;
	if (left < QUEUE_HEAD_BYTES || n > left - QUEUE_HEAD_BYTES)
		return NULL;
	void *item = queue_vacant(q);
	head_of(item)->n = n;
	q->used += QUEUE_HEAD_BYTES + padded(item); /* fits: room is a multiple of 8, too */
	return item;
}

void *queue_first(const struct queue *q)
{
	return q->used == 0 ? NULL : q->mem + QUEUE_HEAD_BYTES;
}

void *queue_next(const struct queue *q, const void *item)
{
	unsigned char *end = (unsigned char *)item + padded(item);
	return end == q->mem + q->used ? NULL : end + QUEUE_HEAD_BYTES;
}

size_t queue_size(const void *item)
{
	return head_of(item)->n;
}

size_t queue_count(const struct queue *q)
{
	size_t n = 0;
	for (const void *item = queue_first(q); item != NULL; item = queue_next(q, item))
		n++;
	return n;
}

void *queue_remove(struct queue *q, void *item)
{
	unsigned char *head = (unsigned char *)head_of(item);
	size_t n = QUEUE_HEAD_BYTES + padded(item);
	q->used -= n;
	size_t behind = q->used - (size_t)(head - q->mem);
	if (behind == 0) /* mostly it was the only one */
		return NULL;
	memmove(head, head + n, behind);
	return item;
}
