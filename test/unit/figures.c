/* The figures: how long times are counted, the three forms, and health. */
// uses: bridge.c requests.c session.c api.c link.c tls.c cert.c mqtt.c http.c dns.c json.c queue.c buf.c
#include "unit.h"

#include "../../figures.c"

static struct bridge b;
static struct bridge_config config = {
        .broker_host = "broker.test", .broker_port = 8883, .api_host = "api.test", .topic_prefix = "p"};
static struct figures f;
static unsigned char mem[FIGURES_BYTES], text_mem[FIGURES_BYTES];

static uint32_t rnd(uint32_t below)
{
	static uint32_t state = 1;
	state ^= state << 13;
	state ^= state >> 17;
	state ^= state << 5;
	return state % below;
}

/* A bridge in the phase, started at 1 s, now is 500 s. */
static void make_bridge(enum bridge_phase phase)
{
	memset(&b, 0, sizeof b);
	bridge_init(&b, &config, NULL, NULL, 1, (struct bridge_time){1000, 0});
	b.time = (struct bridge_time){500000, 0};
	b.phase = phase;
	b.phase_since_ms = 499000;
}

static struct buf make_json(void)
{
	struct buf json = BUF(mem);
	figures_put_json(&json, &f);
	assert_false(json.full);
	return json;
}

static struct slice member(const char *name)
{
	struct buf json = make_json();
	return json_get(buf_slice(&json), name);
}

/* Each time is in the bucket whose limits it is between; the limits grow without a gap. */
static void test_buckets(void **s)
{
	(void)s;
	assert_int_equal(times_least(0), 0);
	for (size_t i = 1; i < TIMES_BUCKETS; i++) {
		assert_true(times_least(i) > times_least(i - 1));
		assert_true(times_least(i) * 2 <= times_least(i - 1) * 3 || times_least(i) <= 2);
	}
	int64_t sum = 0;
	struct bridge_times t = {0};
	for (int64_t ms = 0; ms < 100000; ms++) {
		struct bridge_times before = t;
		size_t i = TIMES_BUCKETS - 1;
		while (ms < times_least(i))
			i--;
		times_add(&t, ms);
		sum += ms;
		assert_int_equal(t.bucket[i], before.bucket[i] + 1);
		assert_int_equal(count_of(&t), ms + 1);
		assert_int_equal(t.max_ms, ms);
	}
	assert_int_equal(t.sum_ms, sum);
	times_add(&t, 3);
	assert_int_equal(t.max_ms, 99999);
	times_add(&t, INT64_C(1) << 32);
	assert_int_equal(t.max_ms, INT64_C(1) << 32);
}

static int by_size(const void *x, const void *y)
{
	int64_t one = *(const int64_t *)x, two = *(const int64_t *)y;
	return (one > two) - (one < two);
}

/* A percentile is never below the true one, nor above it by more than a bucket, nor above the longest. */
static void test_percentiles(void **s)
{
	(void)s;
	struct bridge_times none = {0};
	assert_int_equal(percentile(&none, 50), -1);
	for (size_t turn = 0; turn < 2000; turn++) {
		static int64_t ms[300];
		struct bridge_times t = {0};
		size_t n = 1 + rnd(300);
		for (size_t i = 0; i < n; i++)
			times_add(&t, ms[i] = rnd(turn % 2 ? 20 : 40000));
		qsort(ms, n, sizeof ms[0], by_size);
		for (unsigned percent = 1; percent <= 100; percent++) {
			int64_t exact = ms[(n * percent + 99) / 100 - 1], got = percentile(&t, percent);
			if (got < exact || got * 2 > exact * 3 || got > ms[n - 1])
				fail_msg("%u %%: %d, not %d", percent, (int)got, (int)exact);
		}
	}
}

static void fill(void)
{
	memset(&b, 0, sizeof b);
	b.stats.answers[0] = 20;
	b.stats.answers[ERROR_BUSY] = 2;
	b.stats.ends[END_LOST] = 1;
	b.stats.ends[END_TOKEN] = 30;
	for (int64_t ms = 1; ms <= 22; ms++)
		times_add(&b.stats.round_trip, ms * ms);
	b.last_request = 23;
	b.phase = PHASE_PAUSE;
	f = (struct figures){.b = &b,
	        .version = "1.2.3",
	        .gateway = "0123",
	        .client_id = "my \"own\\\xc3\xa4",
	        .broker = "broker.test:8883",
	        .address = "",
	        .since = "2026-08-03T15:05:30Z",
	        .health = "out of service for 130 s (healthy up to 120): the connection was refused (nothing "
	                  "listens there)",
	        .healthy = 0,
	        .up_ms = 93784000,
	        .phase_ms = 1,
	        .gap_ms = 130999,
	        .token_ms = -1,
	        .state_ms = 9999,
	        .waiting = 1,
	        .memory_bytes = -1};
}

static void test_json(void **s)
{
	(void)s;
	fill();
	struct buf json = make_json();
	assert_string_equal(buf_cstr(&json),
	        "{\"version\": \"1.2.3\", \"gateway\": \"0123\", \"client_id\": \"my \\\"own\\\\\xc3\xa4\", "
	        "\"broker\": \"broker.test:8883\", \"broker_address\": \"\", "
	        "\"connected_since\": \"2026-08-03T15:05:30Z\", "
	        "\"health\": \"out of service for 130 s (healthy up to 120): the connection was refused "
	        "(nothing listens there)\", \"healthy\": false, \"phase\": \"pause\", "
	        "\"phase_seconds\": 0.001, \"uptime_seconds\": 93784.000, \"gap_seconds\": 130.999, "
	        "\"token_age_seconds\": null, \"state_age_seconds\": 9.999, \"memory_bytes\": null, "
	        "\"spare_connections\": 0, \"states_total\": 0, \"states_failed_total\": 0, "
	        "\"requests_total\": 23, \"requests_waiting\": 1, \"requests_running\": 0, "
	        "\"messages_waiting\": 0, \"answers_total\": {\"ok\": 20, \"invalid_json\": 0, "
	        "\"not_an_object\": 0, \"missing_field\": 0, \"bad_value\": 0, "
	        "\"unsupported_function_code\": 0, \"too_large\": 0, \"write_refused\": 0, \"busy\": 2, "
	        "\"stale\": 0, "
	        "\"api_unreachable\": 0, \"api_timeout\": 0, \"api_error\": 0, \"api_invalid_reply\": 0, "
	        "\"shutting_down\": 0}, \"skipped_total\": {\"stale\": 0, \"duplicate\": 0, "
	        "\"retained\": 0, \"full\": 0, \"others\": 0}, \"reconnects_total\": {\"api\": 0, "
	        "\"refused\": 0, \"tls\": 0, \"login\": 0, \"subscribe\": 0, \"timeout\": 0, \"lost\": 1, "
	        "\"takeover\": 0, \"protocol\": 0, \"token\": 30, \"stale\": 0, \"full\": 0}, "
	        "\"round_trip_seconds\": {\"p50\": 0.127, \"p99\": 0.484, \"max\": 0.484}, "
	        "\"api_seconds\": {\"p50\": null, \"p99\": null, \"max\": null}}\n");
}

static void test_text(void **s)
{
	(void)s;
	fill();
	struct buf json = make_json(), text = BUF(text_mem);
	assert_true(figures_put_text(&text, buf_slice(&json), false));
	assert_string_equal(buf_cstr(&text),
	        "iamcat              1.2.3\n"
	        "gateway             0123\n"
	        "client id           my \\x22own\\x5c\\xc3\\xa4\n"
	        "broker              broker.test:8883\n"
	        "its address         -\n"
	        "connected since     2026-08-03T15:05:30Z\n"
	        "health              out of service for 130 s (healthy up to 120): the connection\n"
	        "                    was refused (nothing listens there)\n"
	        "phase               pause               in this phase for   0.001 s\n"
	        "running for         1 d 2 h             out of service for  2 min 10 s\n"
	        "age of the token    -                   age of the state    9.999 s\n"
	        "resident memory     -                   spare connections   0\n"
	        "states              0                   states that failed  0\n"
	        "requests            23                  requests waiting    1\n"
	        "requests running    0                   messages waiting    0\n"
	        "answers             ok 20, busy 2\n"
	        "requests skipped    none\n"
	        "reconnects          lost 1, token 30\n"
	        "request to answer   p50 0.127 s, p99 0.484 s, max 0.484 s\n"
	        "API call            p50 -, p99 -, max -\n");
}

/* Lists break behind a comma, and each line begins where the first one does; durations have two units. */
static void test_text_details(void **s)
{
	(void)s;
	static const struct {
		const char *json, *text;
	} t[] = {
	        {"{\"healthy\": true, \"uptime_seconds\": 10.000}", "running for         10 s\n"},
	        {"{\"healthy\": true, \"uptime_seconds\": 59.999}", "running for         59 s\n"},
	        {"{\"healthy\": true, \"uptime_seconds\": 60.000}", "running for         1 min 0 s\n"},
	        {"{\"healthy\": true, \"uptime_seconds\": 3599.999}", "running for         59 min 59 s\n"},
	        {"{\"healthy\": true, \"uptime_seconds\": 3600.000}", "running for         1 h 0 min\n"},
	        {"{\"healthy\": true, \"uptime_seconds\": 86399.000}", "running for         23 h 59 min\n"},
	        {"{\"healthy\": true, \"uptime_seconds\": 864000.000}", "running for         10 d 0 h\n"},
	        {"{\"healthy\": true, \"memory_bytes\": 2048}", "resident memory     2 KiB\n"},
	        {"{\"of another version\": [1, {\"a\": 2}], \"healthy\": true}",
	                "of another version  [1, {\\x22a\\x22: 2}]\n"},
	        {"{\"healthy\": true, \"a name that is longer than a column\": \"\\u001b[1m\"}",
	                "a name that is long...\\x1b[1m\n"},
	        {"{\"healthy\": true, \"answers_total\": {\"one\": 1111111111, \"two\": 2222222222, "
	         "\"three\": 3333333333, \"four\": 444444}}",
	                "answers             one 1111111111, two 2222222222, three 3333333333,\n"
	                "                    four 444444\n"},
	        {"{\"healthy\": true, \"broker\": "
	         "\"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\"}",
	                "broker              xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\n"
	                "                    xxxx\n"},
	};
	for (size_t i = 0; i < sizeof t / sizeof t[0]; i++) {
		struct buf text = BUF(text_mem);
		assert_true(figures_put_text(&text, slice_str(t[i].json), false));
		assert_string_equal(buf_cstr(&text), t[i].text);
	}
	static const char *const colours[][2] = {{"{\"healthy\": true, \"health\": \"in service\"}",
	                                                 "health              \033[32min service\033[0m\n"},
	        {"{\"healthy\": false, \"health\": \"out\"}", "health              \033[31mout\033[0m\n"}};
	for (size_t i = 0; i < 2; i++) {
		struct buf text = BUF(text_mem);
		assert_true(figures_put_text(&text, slice_str(colours[i][0]), true));
		assert_string_equal(buf_cstr(&text), colours[i][1]);
	}
}

/* Whatever answers: words instead of rubbish, nothing but printable ASCII in lines, no byte too far. */
static void test_garbled(void **s)
{
	(void)s;
	static const char *const garbled[] = {"", "x", "{}", "[]", "\"\"", "{\"healthy\": tru", "{\"a\": 1}"};
	for (size_t i = 0; i < sizeof garbled / sizeof garbled[0]; i++) {
		struct buf text = BUF(text_mem), why = BUF(mem);
		assert_false(figures_put_text(&text, slice_str(garbled[i]), false));
		assert_string_equal(buf_cstr(&text), "what answers is no iamcat");
		assert_false(figures_healthy(&why, slice_str(garbled[i])));
		assert_string_equal(buf_cstr(&why), "what answers is no iamcat");
	}
	fill();
	struct buf json = make_json();
	size_t shown = 0;
	for (size_t turn = 0; turn < 20000; turn++) {
		unsigned char *p = guarded_copy(json.p, json.n), why_mem[1024];
		size_t cap = rnd(4) == 0 ? rnd(2000) : sizeof text_mem;
		struct buf text = {text_mem, cap, 0, false}, why = BUF(why_mem);
		for (uint32_t n = rnd(4); n > 0; n--)
			p[rnd((uint32_t)json.n)] = (unsigned char)rnd(256);
		bool good = figures_put_text(&text, (struct slice){p, json.n}, false);
		shown += good;
		for (size_t i = 0; good && i < text.n; i++)
			assert_true((text.p[i] >= ' ' && text.p[i] <= '~') || text.p[i] == '\n');
		figures_healthy(&why, (struct slice){p, json.n});
		assert_false(why.full);
		guarded_free(p, json.n);
	}
	assert_in_range(shown, 5000, 19000);
	/* and cut short */
	for (size_t n = 0; n < json.n - 2; n++) {
		struct buf text = BUF(text_mem);
		assert_false(figures_put_text(&text, (struct slice){json.p, n}, false));
	}
}

static void test_metrics(void **s)
{
	(void)s;
	fill();
	struct buf metrics = BUF(text_mem);
	figures_put_metrics(&metrics, &f);
	const char *all = buf_cstr(&metrics);
	static const char *const parts[] = {
	        "# HELP iamcat_info what runs where\n# TYPE iamcat_info gauge\n"
	        "iamcat_info{version=\"1.2.3\",gateway=\"0123\",client_id=\"my \\\"own\\\\\xc3\xa4\","
	        "broker=\"broker.test:8883\",broker_address=\"\"} 1\n# HELP iamcat_healthy is healthy\n"
	        "# TYPE iamcat_healthy gauge\niamcat_healthy 0\n",
	        "\niamcat_phase{phase=\"pause\"} 1\niamcat_phase{phase=\"drain\"} 0\n",
	        "# TYPE iamcat_gap_seconds gauge\niamcat_gap_seconds 130.999\n",
	        "# TYPE iamcat_requests_total counter\niamcat_requests_total 23\n",
	        "# TYPE iamcat_answers_total counter\niamcat_answers_total{code=\"ok\"} 20\n"
	        "iamcat_answers_total{code=\"invalid_json\"} 0\n",
	        "# TYPE iamcat_round_trip_seconds histogram\n"
	        "iamcat_round_trip_seconds_bucket{le=\"0.001\"} 1\n"
	        "iamcat_round_trip_seconds_bucket{le=\"0.003\"} 1\n"
	        "iamcat_round_trip_seconds_bucket{le=\"0.007\"} 2\n"
	        "iamcat_round_trip_seconds_bucket{le=\"0.015\"} 3\n"
	        "iamcat_round_trip_seconds_bucket{le=\"0.031\"} 5\n",
	        "iamcat_round_trip_seconds_bucket{le=\"32.767\"} 22\n"
	        "iamcat_round_trip_seconds_bucket{le=\"+Inf\"} 22\n"
	        "iamcat_round_trip_seconds_sum 3.795\niamcat_round_trip_seconds_count 22\n"};
	for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++)
		if (strstr(all, parts[i]) == NULL)
			fail_msg("not there: %s\nin:\n%s", parts[i], all);
	/* what is not known, and texts that change, are not there */
	assert_null(strstr(all, "memory"));
	assert_null(strstr(all, "token_age"));
	assert_null(strstr(all, "health "));
	assert_null(strstr(all, "since"));
}

/* At their largest each form fits. */
static void test_largest(void **s)
{
	(void)s;
	static char host[256], client[129];
	memset(host, 'x', sizeof host - 1);
	memset(client, '"', sizeof client - 1);
	memset(&b.stats, 0xff, sizeof b.stats);
	b.stats.round_trip.sum_ms = b.stats.round_trip.max_ms = INT64_MAX / 1000;
	b.stats.api = b.stats.round_trip;
	b.phase = PHASE_DONE;
	b.last_request = UINT32_MAX;
	f = (struct figures){.b = &b,
	        .version = "100.100.100",
	        .gateway = client,
	        .client_id = client,
	        .broker = host,
	        .address = host,
	        .health = host,
	        .since = host};
	for (int64_t *n = &f.up_ms; n <= &f.memory_bytes; n++)
		*n = INT64_MAX / 1000;
	struct buf json = make_json(), text = BUF(text_mem), metrics = BUF(text_mem);
	assert_true(figures_put_text(&text, buf_slice(&json), true));
	figures_put_metrics(&metrics, &f);
	assert_false(metrics.full);
}

static void test_health(void **s)
{
	(void)s;
	unsigned char why_mem[1024];
	static const struct {
		enum bridge_phase phase;
		int64_t until_ms; /* the last service */
		const char *failure;
		uint32_t grace_s;
		bool healthy;
		const char *why;
	} t[] = {
	        {PHASE_SERVE, 0, NULL, 0, true, "in service"},
	        {PHASE_DRAIN, 0, NULL, 0, true, "in service"},
	        {PHASE_SERIAL, 0, NULL, 500, true, "out of service for 499 s (healthy up to 500)"},
	        {PHASE_PAUSE, 0, "no such name", 499, true,
	                "out of service for 499 s (healthy up to 499): no such name"},
	        {PHASE_PAUSE, 0, "no such name", 498, false,
	                "out of service for 499 s (healthy up to 498): no such name"},
	        {PHASE_RENEW, 499999, NULL, 0, false, "out of service for 0 s (healthy up to 0)"},
	        {PHASE_DIAL, 380000, NULL, 120, true, "out of service for 120 s (healthy up to 120)"},
	        {PHASE_DIAL, 379999, NULL, 120, false, "out of service for 120 s (healthy up to 120)"},
	};
	for (size_t i = 0; i < sizeof t / sizeof t[0]; i++) {
		make_bridge(t[i].phase);
		b.served_until_ms = t[i].until_ms;
		b.failure_why = t[i].failure;
		figures_take(&f, &b, -1, t[i].grace_s);
		struct buf json = make_json(), why = BUF(why_mem);
		assert_int_equal(figures_healthy(&why, buf_slice(&json)), t[i].healthy);
		assert_string_equal(buf_cstr(&why), t[i].why);
	}
}

/* What is taken from where. */
static void test_take(void **s)
{
	(void)s;
	make_bridge(PHASE_SERVE);
	strcpy(b.serial, "0123");
	struct link *l = &b.link[LINK_BROKER];
	figures_take(&f, &b, 4096, 120);
	assert_slice(member("token_age_seconds"), "null");
	assert_slice(member("state_age_seconds"), "null");
	assert_slice(member("connected_since"), "\"\"");
	b.token_ms = 499000;
	b.stats.state_ms = 498000;
	l->state = LINK_UP;
	l->wall_s = 86400;
	strcpy(l->peer, "192.0.2.1");
	b.link[LINK_API].state = b.link[LINK_API + 1].state = LINK_UP;
	b.link[LINK_API].out = b.state.out; /* it is in use */
	b.last_request = 5;
	b.stats.states = 7;
	b.stats.states_failed = 8;
	queue_add(&b.requests, 100);
	queue_add(&b.requests, 100);
	b.call[1].request = 4;
	figures_take(&f, &b, 4096, 120);
	assert_slice(member("gateway"), "\"0123\"");
	assert_slice(member("client_id"), "\"0123\"");
	assert_slice(member("broker"), "\"broker.test:8883\"");
	assert_slice(member("broker_address"), "\"192.0.2.1\"");
	assert_slice(member("connected_since"), "\"1970-01-02T00:00:00Z\"");
	assert_slice(member("phase"), "\"serve\"");
	assert_slice(member("phase_seconds"), "1.000");
	assert_slice(member("uptime_seconds"), "499.000");
	assert_slice(member("gap_seconds"), "0.000");
	assert_slice(member("token_age_seconds"), "1.000");
	assert_slice(member("state_age_seconds"), "2.000");
	assert_slice(member("memory_bytes"), "4096");
	assert_slice(member("spare_connections"), "1");
	assert_slice(member("states_total"), "7");
	assert_slice(member("states_failed_total"), "8");
	assert_slice(member("requests_total"), "5");
	assert_slice(member("requests_waiting"), "1");
	assert_slice(member("requests_running"), "1");
	l->state = LINK_ENDED;
	figures_take(&f, &b, 4096, 120);
	assert_slice(member("broker_address"), "\"\"");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(test_buckets),
	        cmocka_unit_test(test_percentiles),
	        cmocka_unit_test(test_json),
	        cmocka_unit_test(test_text),
	        cmocka_unit_test(test_text_details),
	        cmocka_unit_test(test_garbled),
	        cmocka_unit_test(test_metrics),
	        cmocka_unit_test(test_largest),
	        cmocka_unit_test(test_health),
	        cmocka_unit_test(test_take),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
