/* The requests of the simulated world and their fate: what each is, who may execute it, and what its answer
 * must say. */
#include "world.h"

#include <stdio.h>
#include <string.h>

#include "json.h"

enum { PADDING = 150, LARGE_PADDING = BRIDGE_REQUEST_BYTES > 8000 ? 7000 : BRIDGE_REQUEST_BYTES * 3 / 4 };

uint32_t request_original(uint32_t number)
{
	bool twin = number > 1 && hashed(number, 8, 6) == 0 && hashed(number - 1, 8, 6) != 0;
	return twin ? number - 1 : number;
}

enum kind request_kind(uint32_t number)
{
	uint32_t x = hashed(request_original(number), 1, 100);
	return x < 55   ? KIND_READ
	       : x < 82 ? KIND_WRITE
	       : x < 86 ? KIND_FOREIGN
	       : x < 91 ? KIND_BAD_VALUE
	       : x < 94 ? KIND_BAD_CODE
	       : x < 96 ? KIND_NO_OBJECT
	       : x < 98 ? KIND_NO_JSON
	                : KIND_TOO_LARGE;
}

uint32_t request_device(uint32_t number)
{
	return hashed(request_original(number), 2, DEVICES);
}

size_t request_put(uint32_t number, unsigned char *p, size_t cap)
{
	static const char pad[] = "0123456789abcdefghijklmnopqrstuvwxyz";
	static const char *const wrong_ends[] = {
	        "\"", "\"}}", "\\u12\"}", "\x01\"}", "\xff\"}", "\", \"x\": 01}"};
	number = request_original(number);
	enum kind kind = request_kind(number);
	bool large = hashed(number, 4, hashed(0, 7, 6) == 0 ? 6 : 30) == 0;
	size_t padding = hashed(number, 3, large ? LARGE_PADDING : PADDING);
	char *s = (char *)p;
	size_t n = (size_t)snprintf(s, cap, "%s{\"id\": %u, \"device_id\": \"%c%u\", \"function_code\": %s, ",
	        kind == KIND_NO_OBJECT ? "[" : "", number, kind == KIND_FOREIGN ? 'X' : 'D',
	        kind == KIND_FOREIGN ? 9 : request_device(number),
	        kind == KIND_WRITE      ? "16"
	        : kind == KIND_BAD_CODE ? "\"3\""
	                                : "3");
	if (kind == KIND_WRITE)
		n += (size_t)snprintf(
		        s + n, cap - n, "\"values\": [%u, %u], ", number & 0xffff, number >> 16);
	else
		n += (size_t)snprintf(s + n, cap - n, "\"scale_factor\": %u, ", number);
	n += (size_t)snprintf(
	        s + n, cap - n, "\"address\": %s, \"pad\": \"", kind == KIND_BAD_VALUE ? "65536" : "7");
	if (kind == KIND_TOO_LARGE)
		padding = BRIDGE_REQUEST_BYTES + hashed(number, 5, 15000);
	for (size_t i = 0; i < padding; i++)
		s[n++] = pad[(number + i) % (sizeof pad - 1)];
	n += (size_t)snprintf(
	        s + n, cap - n, "%s", kind == KIND_NO_JSON ? wrong_ends[hashed(number, 9, 6)] : "\"}");
	if (kind == KIND_NO_OBJECT)
		s[n++] = ']';
	return n;
}

/* Other gateways hear the same requests, so that this one says nothing about a device that it does not
 * know (but of a reply that is spoiled it can't tell). */
static bool perhaps_unanswered(enum kind kind)
{
	return kind == KIND_FOREIGN && strstr(w.config.topic_prefix, "{serial}") == NULL;
}

static void accept(uint32_t number)
{
	struct request *r = &w.request[number];
	if (r->accepted || r->forbidden)
		return;
	r->accepted = true;
	w.null_accepted += request_kind(number) >= KIND_NO_JSON;
}

void request_excused(uint32_t number)
{
	struct request *r = &w.request[number];
	if (!r->excused && !r->answered)
		w.null_excused += request_kind(number) >= KIND_NO_JSON;
	r->excused = true;
}

/* It was taken, not only read: its place among those of its device. */
static void take_place(struct request *r)
{
	if (r->place == 0)
		r->place = ++w.place;
}

void request_read(uint32_t number, uint8_t qos)
{
	struct request *r = &w.request[number];
	if (w.stale && r->order != 0 && r->place == 0) /* it had been passed over, perhaps */
		request_excused(number);
	if (!w.bridge->passed_over) /* otherwise only its PUBACK tells; nothing does with QoS 0 */
		take_place(r);
	if (r->order != 0 || r->forbidden)
		return;
	trace("client: has read request %u%s", number, w.stale ? ", which is stale" : "");
	note(1, number);
	if (w.stale) {
		r->forbidden = true;
		count[STALE]++;
		return;
	}
	r->order = ++w.order;
	r->read_at = w.now;
	if (qos == 0 && w.bridge->passed_over) /* perhaps this one, too, and it does not come again */
		request_excused(number);
	else if (qos == 0)
		accept(number);
}

void request_accepted(uint32_t number)
{
	if (request_kind(number) == KIND_TOO_LARGE) /* as soon as its beginning was read */
		request_read(number, 1);
	if (w.request[number].order == 0 && !w.request[number].forbidden)
		broken("request %u was acknowledged before it was read", number);
	take_place(&w.request[number]);
	accept(number);
}

static bool has_twin(uint32_t number)
{
	return number + 1 < w.requests && request_original(number + 1) == number;
}

/* In which order have twins been read? Last is one that was not, or perhaps not taken. */
static uint32_t rank(const struct request *r)
{
	return r->order == 0 ? UINT32_MAX : r->excused && !r->accepted ? UINT32_MAX - 1 : r->order;
}

/* Of two twins, the one that the client has read first, or second. */
static uint32_t twin(uint32_t number, bool second)
{
	return (rank(&w.request[number + 1]) < rank(&w.request[number])) != second ? number + 1 : number;
}

static bool may_reach(const struct request *r)
{
	bool again = r->retry && r->reached == 1 && request_kind((uint32_t)(r - w.request)) != KIND_WRITE;
	return r->order != 0 && !r->forbidden && !r->never && !r->answered && (r->reached == 0 || again);
}

uint32_t request_reached(uint32_t number)
{
	if (has_twin(number)) {
		const struct request *first = &w.request[twin(number, false)];
		number = twin(number, !may_reach(first));
		count[TWINS] += !may_reach(first);
	}
	struct request *r = &w.request[number];
	if (!may_reach(r))
		broken("request %u is sent to the API%s%s%s%s", number, r->reached ? " again" : "",
		        r->answered ? ", but is answered" : "", r->never ? ", but was said not to be" : "",
		        r->order == 0 || r->forbidden ? ", but is stale, retained, or was never sent" : "");
	if (w.long_away_at - r->read_at > (w.config.session_window_s + 120) * 1000 && r->reached == 0)
		broken("request %u is sent to the API, but waited over a long gap", number);
	count[RETRIES] += r->reached++ > 0;
	return number;
}

void request_executed(uint32_t number)
{
	struct request *r = &w.request[number];
	trace("API: executes request %u", number);
	note(2, number);
	count[EXECUTED]++;
	r->executed++;
	if (r->never)
		broken("request %u was executed although its answer says that it was not", number);
}

/* --- answers --- */

static uint64_t sum_of(struct slice s)
{
	uint64_t h = 14695981039346656037u;
	for (size_t i = 0; i < s.n; i++)
		h = (h ^ s.p[i]) * 1099511628211u;
	return h;
}

static bool is_word(struct slice value, const char *word)
{
	return value.n == strlen(word) + 2 && memcmp(value.p + 1, word, value.n - 2) == 0;
}

/* Does the answer fit what the request was? */
static void check_response(uint32_t number, struct slice response, struct slice code, const struct answer *a)
{
	static const char *const codes[] = {[KIND_BAD_VALUE] = "bad_value",
	        [KIND_BAD_CODE] = "unsupported_function_code",
	        [KIND_NO_OBJECT] = "not_an_object"};
	enum kind kind = number > 0 ? request_kind(number) : KIND_NO_JSON;
	if (is_word(code, "shutting_down") || a->busy)
		return;
	if (is_word(code, "stale")) {
		count[LAPSED]++;
		if (number != 0 && !has_twin(number) &&
		        (w.request[number].read_at >= w.away_at ||
		                w.now - w.request[number].read_at <= w.config.session_window_s * 1000))
			broken("request %u is said to be stale, and there was no gap", number);
		return;
	}
	if (number == 0) {
		if (!is_word(code, "invalid_json") && !is_word(code, "too_large"))
			broken("an answer without its request: %.*s", (int)code.n, code.p);
	} else if (kind >= KIND_BAD_VALUE && !is_word(code, codes[kind])) {
		broken("request %u was answered with %.*s", number, (int)code.n, code.p);
	} else if (kind < KIND_BAD_VALUE && code.p == NULL &&
	           slice_u64(json_get(response, "unique"), REQUESTS_MAX) != number &&
	           !w.request[number].spoiled && !w.request[number + 1].spoiled) {
		broken("request %u was answered with another one's reply: %.*s", number, (int)response.n,
		        response.p);
	} else if (kind < KIND_BAD_VALUE && code.p != NULL && memcmp(code.p, "\"api_", 5) != 0) {
		broken("request %u was answered with %.*s", number, (int)code.n, code.p);
	}
}

struct answer answer_read(struct slice payload)
{
	static unsigned char again[32768];
	struct answer a = {.sum = sum_of(payload)};
	size_t at;
	if (json_check(payload, NULL, &at) != NULL || !is_word(json_get(payload, "type"), "modbus_response"))
		broken("an answer that is none: %.*s", (int)payload.n, payload.p);
	struct slice request = json_get(payload, "request"), response = json_get(payload, "response");
	struct slice code = json_get(response, "code"), inner = request;
	a.busy = code.p != NULL && is_word(code, "busy");
	bool unexecuted =
	        a.busy || (code.p != NULL && (is_word(code, "api_unreachable") || is_word(code, "stale")));
	if (json_kind(request) == JSON_ARRAY)
		inner = (struct slice){request.p + 1, request.n - 2};
	if (json_kind(request) != JSON_NULL) {
		int64_t number = slice_u64(json_get(inner, "id"), w.requests - 1);
		if (number <= 0)
			broken("an answer to an unknown request: %.*s", (int)payload.n, payload.p);
		a.number = (uint32_t)number;
		size_t n = request_put(a.number, again, sizeof again);
		if (n != request.n || memcmp(again, request.p, n) != 0)
			broken("the answer to %u does not repeat it byte for byte", a.number);
	}
	check_response(a.number, response, code, &a);
	if (a.number != 0 && unexecuted && !has_twin(a.number)) {
		if (w.request[a.number].reached > 0)
			broken("the answer to %u says that it was not executed, but it was sent", a.number);
		w.request[a.number].never = true;
	}
	return a;
}

/* An answer that reached the broker before: may it come again? */
static void check_again(const struct request *r, const struct answer *a, bool dup, uint16_t id,
        uint32_t connection, uint32_t session)
{
	if (r->acknowledged || r->answer_on == connection || r->answer_sum != a->sum)
		broken("request %u was answered again%s", a->number,
		        r->acknowledged ? " after the answer was acknowledged" : "");
	if (r->answer_session == session && (!dup || id != r->answer_id))
		broken("the answer to %u came again without DUP or with another id", a->number);
	count[ANSWERS_AGAIN]++;
}

static void check_first(const struct request *r, const struct answer *a)
{
	enum kind kind = request_kind(a->number);
	uint32_t *last = &w.device_order[request_device(a->number)];
	if (r->order == 0 || r->forbidden)
		broken("request %u must not be answered", a->number);
	count[ANSWERS]++;
	count[BUSY] += a->busy;
	if (a->busy || kind == KIND_NO_OBJECT || kind == KIND_FOREIGN || has_twin(a->number))
		return;
	if (r->place < *last && r->place != 0)
		broken("request %u was answered after a later one of its device", a->number);
	*last = r->place > *last ? r->place : *last;
}

/* Whose answer is it? Of two twins, the first one's if it can be. */
static uint32_t answered_one(const struct answer *a, uint32_t connection)
{
	if (!has_twin(a->number))
		return a->number;
	const struct request *r = &w.request[twin(a->number, false)];
	bool first = !r->forbidden && !r->answered;
	bool again = r->answered && !r->acknowledged && r->answer_on != connection && r->answer_sum == a->sum;
	return twin(a->number, !first && !again);
}

uint32_t answer_arrived(const struct answer *a, bool dup, uint16_t id, uint32_t connection, uint32_t session)
{
	note(3, a->number);
	if (a->number == 0) {
		w.null_answers++;
		count[ANSWERS]++;
		return 0;
	}
	uint32_t number = answered_one(a, connection);
	struct request *r = &w.request[number];
	if (r->answered)
		check_again(r, a, dup, id, connection, session);
	else
		check_first(r, a);
	r->answered = true;
	r->answer_id = id;
	r->answer_on = connection;
	r->answer_session = session;
	r->answer_sum = a->sum;
	return number;
}

/* Its answer was counted as that of its twin before it, which needed none. */
static bool twin_has_answer(uint32_t number)
{
	const struct request *first = &w.request[request_original(number)];
	return first != &w.request[number] && first->answered && (first->excused || !first->accepted);
}

void requests_check_end(void)
{
	for (uint32_t i = 1; i < w.requests; i++) {
		const struct request *r = &w.request[i];
		enum kind kind = request_kind(i);
		if (r->accepted && !r->answered && !r->excused && kind < KIND_NO_JSON &&
		        !perhaps_unanswered(kind) && !twin_has_answer(i))
			broken("request %u was accepted and never answered", i);
	}
	if (w.null_answers + w.null_excused < w.null_accepted)
		broken("%u requests without JSON were accepted, %u answered", w.null_accepted,
		        w.null_answers);
}
