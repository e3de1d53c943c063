/* mqtt_read: at once equals byte by byte; every proper prefix of a packet gives 0. The first byte chooses how
 * much the reader can hold and which prefixes it sees, the rest is a stream of packets. */
// uses: buf.c queue.c
// longest input: 512
#include "fuzz.h"

#include "../../mqtt.c"

static long read_copy(struct slice s, size_t limit, struct mqtt_packet *k, const char **why)
{
	unsigned char *p = exactly(s.p, s.n);
	long got = mqtt_read(p, s.n, limit, k, why);
	CHECK(got >= -1 && got <= (long)s.n);
	if (got > 0) { /* slices as offsets, to be compared */
		CHECK(within(k->topic, (struct slice){p, (size_t)got}));
		CHECK(within(k->payload, (struct slice){p, (size_t)got}));
		k->topic.p = s.p + (k->topic.n > 0 ? k->topic.p - p : 0);
		k->payload.p = s.p + (k->payload.n > 0 ? k->payload.p - p : 0);
	}
	free(p);
	return got;
}

static void check_packet(const struct mqtt_packet *k, size_t bytes, size_t limit)
{
	CHECK(k->qos <= 2 && (k->type == MQTT_PUBLISH) == (k->topic.n > 0));
	CHECK(k->skip > 0 || bytes <= limit);
	CHECK(k->skip == 0 || (k->type == MQTT_PUBLISH && k->payload.n == 0 && bytes + k->skip > limit));
	CHECK(is_utf8(k->topic));
	for (size_t i = 0; i < k->topic.n; i++)
		CHECK(k->topic.p[i] != 0 && k->topic.p[i] != '+' && k->topic.p[i] != '#');
	if (k->type != MQTT_CONNACK && k->type != MQTT_PINGRESP)
		CHECK((k->id != 0) == (k->type != MQTT_PUBLISH || k->qos > 0));
}

static bool same_packet(const struct mqtt_packet *a, const struct mqtt_packet *b)
{
	return a->type == b->type && a->qos == b->qos && a->dup == b->dup && a->retain == b->retain &&
	       a->session_present == b->session_present && a->code == b->code && a->id == b->id &&
	       a->skip == b->skip && slice_eq(a->topic, b->topic) && slice_eq(a->payload, b->payload);
}

/* One packet at the start of s, and some of its prefixes, by offset. Returns as mqtt_read does. */
static long one_packet(struct slice s, size_t limit, size_t offset)
{
	struct mqtt_packet k, part;
	const char *why = NULL, *part_why = NULL;
	long whole = read_copy(s, limit, &k, &why), got = 0;
	size_t step = s.n / 4 + 1; /* a few prefixes: a run must stay short */
	CHECK(whole >= 0 || why != NULL);
	for (size_t n = offset % step; n < s.n && got == 0; n += step) {
		got = read_copy((struct slice){s.p, n}, limit, &part, &part_why);
		if (whole < 0 && got < 0)
			CHECK(same_why(why, part_why)); /* the same fault, wherever it was seen */
		else
			CHECK(got == 0 || (got == whole && (long)n >= got && same_packet(&k, &part)));
		if (whole > 0)
			CHECK((got == 0) == ((long)n < whole));
	}
	if (whole > 0)
		check_packet(&k, (size_t)whole, limit);
	return whole;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const uint16_t limits[] = {8704, 256, 64, 20, 5, 2, 1, 0};
	struct slice s = {data, size};
	unsigned first = cut_byte(&s);
	size_t limit = limits[first % 8];
	for (long got = 1; got > 0 && s.n > 0;) {
		got = one_packet(s, limit, first >> 3);
		if (got > 0)
			cut(&s, (size_t)got);
	}
	return 0;
}
