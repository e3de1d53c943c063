/* Log lines that can come in any number: one a minute of each kind, with a count of the others. */
// uses: session.c requests.c api.c link.c tls.c cert.c mqtt.c http.c dns.c json.c queue.c buf.c
#include "unit.h"

#include "../../bridge.c"

static struct bridge b;
static char said[4096];

/* What is logged at a time, when n lines of a kind come: all lines, each with its level in front. */
static const char *at(int64_t now_ms, size_t n, unsigned cause)
{
	size_t at = 0, end = 0;
	enum bridge_level level;
	struct slice text;
	b.time.now_ms = now_ms;
	log_rest(&b, false);
	while (n-- > 0)
		log_line(&b, log_limited(&b, LEVEL_WARN, cause), "it");
	said[0] = 0;
	while (bridge_take_log(&b, &at, &level, &text))
		end += (size_t)snprintf(said + end, sizeof said - end, "%d %.*s\n", (int)level, (int)text.n,
		        (const char *)text.p);
	return said;
}

static void begin(enum bridge_level level)
{
	memset(&b, 0, sizeof b);
	b.log = (struct buf)BUF(b.log_mem);
	b.log_level = level;
}

#define MORE "; more of this kind since it was last logged: "

static void once_a_minute(void **state)
{
	(void)state;
	begin(LEVEL_INFO);
	assert_string_equal(at(1, 3, CAUSE_RETAINED), "1 it\n");
	assert_string_equal(at(2, 1, CAUSE_STATE), "1 it\n"); /* another kind */
	assert_string_equal(at(60000, 1, CAUSE_RETAINED), "");
	assert_string_equal(at(60001, 0, 0), "1 not logged one by one: retained requests" MORE "3\n");
	assert_string_equal(at(120000, 1, CAUSE_RETAINED), "");
	assert_string_equal(
	        at(120001, 1, CAUSE_STATE), "1 not logged one by one: retained requests" MORE "1\n1 it\n");
	assert_string_equal(at(190000, 0, 0), ""); /* nothing came, nothing is said */
	assert_string_equal(at(190001, 2, CAUSE_RETAINED), "1 it\n");
}

static void debug_shows_all(void **state)
{
	(void)state;
	begin(LEVEL_DEBUG);
	assert_string_equal(at(5, 3, ERROR_BUSY), "1 it\n3 it\n3 it\n");
	assert_string_equal(at(60005, 1, ERROR_BUSY), "1 not logged one by one: busy" MORE "2\n3 it\n");
}

static void each_kind_has_a_name(void **state)
{
	(void)state;
	for (unsigned cause = ERROR_INVALID_JSON; cause < BRIDGE_CAUSES; cause++) {
		begin(LEVEL_INFO);
		if (cause >= CAUSE_FAILURE)
			b.failure[cause - CAUSE_FAILURE] = "it failed";
		at(1, 2, cause);
		assert_int_equal(
		        sscanf(at(70000, 0, 0), "1 not logged one by one: %*[a-z_ ]; more of this"), 0);
		assert_non_null(strstr(said, MORE "1\n"));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	        cmocka_unit_test(once_a_minute),
	        cmocka_unit_test(debug_shows_all),
	        cmocka_unit_test(each_kind_has_a_name),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
