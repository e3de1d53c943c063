#include "core.h"

#include <string.h>

#include "json.h"

/* The members of a request. */
enum member { FUNCTION_CODE, DEVICE_ID, ADDRESS, SIZE, TYPE, ENDIANESS, SCALE_FACTOR, VALUES, MEMBERS };

static const char *const names[MEMBERS] = {
        "function_code", "device_id", "address", "size", "type", "endianess", "scale_factor", "values"};

/* A request in the queue, from its arrival until its answer is in the outbox. */
struct request {
	uint32_t number; /* counts from 1 */
	uint32_t device; /* hash of its device id, 0 for none: requests of one device run one after the other,
	                  * and two devices with one hash just do so as well */
	uint32_t size;   /* of the payload as it arrived; bytes is empty when that was too large */
	uint32_t arrived_ms; /* the time's lower bits */
	bool valid;          /* it is JSON */
	bool running;        /* its call is under way */
	struct {
		uint16_t at, n; /* in bytes; n 0: it is missing */
	} member[MEMBERS];
	unsigned char bytes[]; /* the payload */
};
_Static_assert(BRIDGE_REQUEST_BYTES <= UINT16_MAX, "the offsets of members");

/* What is said in an answer. */
struct answer {
	struct slice request;    /* the payload; .p NULL when it was not JSON or not read */
	struct slice response;   /* the API's reply, when all went well */
	bool words;              /* it has words that JSON does not know */
	enum bridge_error error; /* otherwise */
	struct slice sentence;
	int status; /* the API's HTTP status, 0 for none */
};

/* The stable words of the interface. */
const char *const bridge_error_code[BRIDGE_ERRORS] = {"", "invalid_json", "not_an_object", "missing_field",
        "bad_value", "unsupported_function_code", "too_large", "write_refused", "busy", "api_unreachable",
        "api_timeout", "api_error", "api_invalid_reply", "shutting_down"};

static struct slice payload_of(const struct request *r)
{
	return (struct slice){r->bytes, queue_size(r) - sizeof *r};
}

static bool is_space(unsigned char c)
{
	return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

static struct slice trim(struct slice s)
{
	while (s.n > 0 && is_space(s.p[0]))
		s = (struct slice){s.p + 1, s.n - 1};
	while (s.n > 0 && is_space(s.p[s.n - 1]))
		s.n--;
	return s;
}

/* --- answers --- */

static void put_error(struct buf *p, const struct bridge *b, const struct answer *a)
{
	buf_put_str(p, "{\"success\": false, \"error\": ");
	json_put_string(p, a->sentence);
	buf_put_str(p, ", \"code\": \"");
	buf_put_str(p, bridge_error_code[a->error]);
	if (a->status != 0) {
		buf_put_str(p, "\", \"status\": ");
		buf_put_i64(p, a->status);
		buf_put_str(p, ", \"gateway\": ");
	} else {
		buf_put_str(p, "\", \"gateway\": ");
	}
	json_put_string(p, slice_str(b->serial));
	buf_put_byte(p, '}');
}

/* At debug level a request can be followed by its number, from its arrival to the acknowledgement of its
 * answer. */
static void log_trace(struct bridge *b, uint32_t number, const char *text, size_t value)
{
	struct buf *log = log_begin(b, LEVEL_DEBUG);
	buf_put_str(log, "request ");
	buf_put_u64(log, number);
	buf_put_str(log, text);
	buf_put_u64(log, value);
	log_end(b);
}

void requests_acknowledged(struct bridge *b, uint16_t id)
{
	size_t i = id % BRIDGE_TRACED;
	if (b->trace[i].id != id || b->trace[i].number == 0)
		return;
	log_trace(b, b->trace[i].number, ": acknowledged, packet ", id);
	b->trace[i].number = 0;
}

/* The answer is in the outbox: one line for what went wrong, and at debug level for its packet. */
static void log_answer(struct bridge *b, uint32_t number, const struct answer *a)
{
	uint16_t id = b->outbox.last_id;
	if (a->error != ERROR_NONE) {
		struct buf *log = log_begin_limited(b, LEVEL_WARN, a->error);
		buf_put_str(log, "request ");
		buf_put_u64(log, number);
		buf_put_strs(log, ": ", bridge_error_code[a->error], ": ");
		buf_put_escaped(log, a->sentence, 300);
		log_end(b);
	}
	if (b->log_level < LEVEL_DEBUG)
		return;
	log_trace(b, number, ": answered, packet ", id);
	b->trace[id % BRIDGE_TRACED].id = id;
	b->trace[id % BRIDGE_TRACED].number = number;
}

/* Puts an answer into the outbox. urgent: may use the reserve. false: there is no room now. */
static bool put_answer(struct bridge *b, uint32_t number, const struct answer *a, bool urgent)
{
	struct buf p;
	if (!publish_begin(b, b->topic_response, "modbus_response", &p))
		return false;
	if (!urgent)
		p.cap = p.cap > BRIDGE_RESERVE_BYTES && p.cap - BRIDGE_RESERVE_BYTES > p.n
		                ? p.cap - BRIDGE_RESERVE_BYTES
		                : p.n;
	buf_put_str(&p, ", \"request\": ");
	if (a->request.p != NULL)
		buf_put_slice(&p, trim(a->request));
	else
		buf_put_str(&p, "null");
	buf_put_str(&p, ", \"response\": ");
	if (a->error == ERROR_NONE && a->words)
		json_put_value(&p, a->response);
	else if (a->error == ERROR_NONE)
		buf_put_slice(&p, trim(a->response));
	else
		put_error(&p, b, a);
	buf_put_byte(&p, '}');
	if (!mqtt_outbox_commit(&b->outbox, slice_str(b->topic_response), &p, false))
		return false;
	b->stats.answers[a->error]++;
	log_answer(b, number, a);
	return true;
}

/* --- from a request to a call --- */

/* A request on its way to a call: what it says, and the sentence when it can't be. */
struct reading {
	struct bridge *b;
	struct slice value[MEMBERS]; /* .p NULL: it is missing */
	struct buf target;
	size_t items; /* in target */
	bool write;
	struct buf *sentence;
	enum bridge_error error;
};

/* Notes the first mistake: 'NAME' must be …. Always returns false. */
static bool refuse(struct reading *r, enum bridge_error error, enum member m, const char *text)
{
	if (r->error == ERROR_NONE) {
		r->error = error;
		buf_put_strs(r->sentence, "'", names[m], "' ", text);
	}
	return false;
}

/* Is the member there? When it is not, that is a mistake if it is required. */
static bool has(struct reading *r, enum member m, bool required)
{
	bool there = r->value[m].p != NULL;
	return there || (required && refuse(r, ERROR_MISSING_FIELD, m, "is missing"));
}

/* The integer from min to max; fallback when it is missing, -1 after a mistake. A fallback below 0 makes it
 * required. */
static int64_t integer(
        struct reading *r, enum member m, int64_t min, int64_t max, int64_t fallback, const char *text)
{
	if (!has(r, m, fallback < 0))
		return fallback;
	int64_t v = slice_u64(r->value[m], max);
	if (json_kind(r->value[m]) != JSON_NUMBER || v < min) {
		refuse(r, ERROR_BAD_VALUE, m, text);
		return -1;
	}
	return v;
}

/* Writes ?name= or &name= */
static void put_name(struct reading *r, enum member m)
{
	buf_put_byte(&r->target, r->items++ == 0 ? '?' : '&');
	buf_put_str(&r->target, names[m]);
	buf_put_byte(&r->target, '=');
}

static void put_integer(struct reading *r, enum member m, int64_t v)
{
	put_name(r, m);
	buf_put_i64(&r->target, v);
}

/* Writes the string, unescaped and percent-encoded; fallback when it is missing (NULL: required). */
static void put_string(struct reading *r, enum member m, const char *fallback)
{
	struct slice text = {NULL, 0};
	struct buf scratch = BUF(r->b->scratch);
	if (has(r, m, fallback == NULL)) {
		if (json_kind(r->value[m]) != JSON_STRING || r->value[m].n <= 2) {
			refuse(r, ERROR_BAD_VALUE, m, "must be a string that is not empty");
			return;
		}
		json_unescape(&scratch, r->value[m]);
		text = buf_slice(&scratch);
	} else if (fallback != NULL) {
		text = slice_str(fallback);
	}
	put_name(r, m);
	http_put_encoded(&r->target, text);
}

static void put_number(struct reading *r, enum member m, const char *fallback)
{
	struct slice value = r->value[m];
	if (value.p == NULL)
		value = slice_str(fallback);
	else if (json_kind(value) != JSON_NUMBER)
		refuse(r, ERROR_BAD_VALUE, m, "must be a number");
	put_name(r, m);
	http_put_encoded(&r->target, value);
}

enum { VALUES_MAX = 123 }; /* Modbus Application Protocol V1.1b3, §6.12 */

/* Splits a text of comma-separated numbers; as json_array. -1: an item is no number. */
static long split_numbers(struct slice text, struct slice *item, size_t max)
{
	size_t n = 0;
	for (;;) {
		const unsigned char *comma = text.n > 0 ? memchr(text.p, ',', text.n) : NULL;
		size_t at, len = comma != NULL ? (size_t)(comma - text.p) : text.n;
		struct slice one = trim((struct slice){text.p, len});
		if (json_check(one, NULL, &at) != NULL || json_kind(one) != JSON_NUMBER)
			return -1;
		if (n == max)
			return (long)max + 1;
		item[n++] = one;
		if (comma == NULL)
			return (long)n;
		text = (struct slice){comma + 1, text.n - len - 1};
	}
}

/* Writes the member values, a number, an array of numbers or a string of comma-separated numbers; returns how
 * many there are, 0 after a mistake. */
static size_t put_values(struct reading *r)
{
	struct slice value = r->value[VALUES], item[VALUES_MAX];
	struct buf scratch = BUF(r->b->scratch);
	long n = -1;
	if (!has(r, VALUES, true))
		return 0;
	enum json_kind kind = json_kind(value);
	if (kind == JSON_ARRAY) {
		n = json_array(value, item, VALUES_MAX);
	} else if (kind == JSON_STRING) {
		json_unescape(&scratch, value);
		n = split_numbers(buf_slice(&scratch), item, VALUES_MAX);
	} else if (kind == JSON_NUMBER) {
		item[0] = value;
		n = 1;
	}
	bool good = n >= 1 && n <= VALUES_MAX;
	for (long i = 0; good && i < n; i++)
		good = json_kind(item[i]) == JSON_NUMBER;
	if (!good) {
		refuse(r, ERROR_BAD_VALUE, VALUES,
		        "must be a number, an array of numbers, or a string of comma-separated numbers, 1 to "
		        "123 of them");
		return 0;
	}
	put_name(r, VALUES);
	for (long i = 0; i < n; i++) {
		if (i > 0)
			buf_put_byte(&r->target, ',');
		http_put_encoded(&r->target, item[i]);
	}
	return (size_t)n;
}

/* How many registers one value takes, by its type: letters and then the bits, as in U16, S32, F64. 0: it
 * can't be told. */
static size_t registers_of(struct reading *r)
{
	struct slice type = r->value[TYPE];
	if (type.p == NULL)
		return 1;
	size_t at = 1, end = type.n - 1; /* without the quotes */
	while (at < end &&
	        ((type.p[at] >= 'A' && type.p[at] <= 'Z') || (type.p[at] >= 'a' && type.p[at] <= 'z')))
		at++;
	int64_t bits = at > 1 ? slice_u64((struct slice){type.p + at, end - at}, 64) : 0;
	return bits == 8 || bits == 16 ? 1 : bits == 32 ? 2 : bits == 64 ? 4 : 0;
}

static bool register_allowed(const struct bridge_config *c, size_t address)
{
	for (size_t i = 0; i < c->write_allows; i++)
		if (address >= c->write_allow[i].first && address <= c->write_allow[i].last)
			return true;
	return false;
}

/* MODBUS_WRITE_ALLOW: every register that the write touches must be in it. */
static void check_write(struct reading *r, size_t address, size_t values)
{
	const struct bridge_config *c = r->b->config;
	if (!c->writes_limited || r->error != ERROR_NONE)
		return;
	size_t width = registers_of(r);
	if (width == 0) {
		refuse(r, ERROR_WRITE_REFUSED, TYPE,
		        "does not tell how many registers would be written, and this gateway limits writes "
		        "(MODBUS_WRITE_ALLOW)");
		return;
	}
	for (size_t i = address; i < address + values * width; i++) {
		if (register_allowed(c, i))
			continue;
		refuse(r, ERROR_WRITE_REFUSED, ADDRESS, "reaches a register that may not be written: ");
		buf_put_u64(r->sentence, i);
		buf_put_str(r->sentence, " (MODBUS_WRITE_ALLOW of this gateway)");
		return;
	}
}

static void read_write_request(struct reading *r, int64_t address)
{
	r->write = true;
	put_string(r, DEVICE_ID, NULL);
	put_integer(r, ADDRESS, address);
	put_integer(r, FUNCTION_CODE, 16);
	size_t values = put_values(r);
	put_string(r, TYPE, "U16");
	check_write(r, (size_t)address, values);
}

static void read_read_request(struct reading *r, int64_t function_code, int64_t address)
{
	put_string(r, DEVICE_ID, NULL);
	put_integer(r, FUNCTION_CODE, function_code);
	put_integer(r, ADDRESS, address);
	put_integer(r, SIZE, integer(r, SIZE, 1, 125, 1, "must be an integer from 1 to 125"));
	put_string(r, TYPE, "U16");
	put_string(r, ENDIANESS, "big");
	put_number(r, SCALE_FACTOR, "1");
}

/* Turns an object into the path and query of its call: in b->target, or an error with its sentence. */
static enum bridge_error read_request(struct bridge *b, const struct request *request, struct slice *target,
        bool *write, struct buf *sentence)
{
	struct reading r = {.b = b, .target = BUF(b->target), .sentence = sentence};
	for (size_t i = 0; i < MEMBERS; i++)
		if (request->member[i].n > 0)
			r.value[i] =
			        (struct slice){request->bytes + request->member[i].at, request->member[i].n};
	buf_put_str(&r.target, "/api/inverter/modbus");
	struct slice code = r.value[FUNCTION_CODE];
	if (!has(&r, FUNCTION_CODE, true))
		return r.error;
	int64_t function_code = json_kind(code) == JSON_NUMBER ? slice_u64(code, 255) : -1;
	if (function_code != 3 && function_code != 4 && function_code != 16) {
		refuse(&r, ERROR_UNSUPPORTED_FUNCTION_CODE, FUNCTION_CODE,
		        "must be 3 or 4 (read) or 16 (write), as a number");
		return r.error;
	}
	int64_t address = integer(&r, ADDRESS, 0, 65535, -1, "must be an integer from 0 to 65535");
	if (address >= 0 && function_code == 16)
		read_write_request(&r, address);
	else if (address >= 0)
		read_read_request(&r, function_code, address);
	if (r.error == ERROR_NONE && r.target.full) {
		buf_put_str(sentence, "the call of the API would be too long");
		return ERROR_TOO_LARGE;
	}
	*target = buf_slice(&r.target);
	*write = r.write;
	return r.error;
}

/* --- the queue --- */

/* FNV-1a, never 0. */
static uint32_t hash(struct slice s)
{
	uint32_t h = 2166136261u;
	for (size_t i = 0; i < s.n; i++)
		h = (h ^ s.p[i]) * 16777619u;
	return h != 0 ? h : 1;
}

/* Takes note of the members of a request that is JSON, and of its device. */
static void note_members(struct bridge *b, struct request *r)
{
	struct slice payload = payload_of(r), value[MEMBERS];
	struct buf id = BUF(b->scratch);
	json_members(payload, names, value, MEMBERS);
	for (size_t i = 0; i < MEMBERS; i++) {
		r->member[i].at = value[i].n > 0 ? (uint16_t)(value[i].p - payload.p) : 0;
		r->member[i].n = (uint16_t)value[i].n;
	}
	r->device = 0;
	if (json_kind(value[DEVICE_ID]) == JSON_STRING) {
		json_unescape(&id, value[DEVICE_ID]);
		r->device = hash(buf_slice(&id));
	}
}

static bool answer_busy(struct bridge *b, struct slice payload)
{
	size_t at;
	struct answer a = {.error = ERROR_BUSY,
	        .sentence = slice_str("too many requests wait already: try again later")};
	if (payload.n > 0 && json_check(payload, NULL, &at) == NULL)
		a.request = payload;
	return put_answer(b, b->last_request + 1, &a, true);
}

bool requests_take(struct bridge *b, struct slice payload, size_t size)
{
	size_t at;
	if (size > BRIDGE_REQUEST_BYTES)
		payload.n = 0;
	struct request *r = queue_add(&b->requests, sizeof *r + payload.n);
	if (r == NULL) {
		if (!answer_busy(b, payload))
			return false;
		b->last_request++;
		return true;
	}
	r->number = ++b->last_request;
	r->size = size > UINT32_MAX ? UINT32_MAX : (uint32_t)size;
	r->arrived_ms = (uint32_t)b->time.now_ms;
	r->running = false;
	r->valid = payload.n > 0 && json_check(payload, NULL, &at) == NULL;
	r->device = 0;
	if (payload.n > 0)
		memcpy(r->bytes, payload.p, payload.n);
	if (r->valid)
		note_members(b, r);
	log_trace(b, r->number, ": arrived, bytes: ", size);
	return true;
}

/* The first request that waits and whose device is idle: no earlier one of the same device is in the queue.
 */
static struct request *next_request(struct bridge *b)
{
	for (struct request *r = queue_first(&b->requests); r != NULL; r = queue_next(&b->requests, r)) {
		if (r->running)
			continue;
		struct request *earlier = queue_first(&b->requests);
		while (earlier != r && (r->device == 0 || earlier->device != r->device))
			earlier = queue_next(&b->requests, earlier);
		if (earlier == r)
			return r;
	}
	return NULL;
}

static void log_call(struct bridge *b, uint32_t number, struct slice target)
{
	struct buf *log = log_begin(b, LEVEL_DEBUG);
	buf_put_str(log, "request ");
	buf_put_u64(log, number);
	buf_put_str(log, ": GET ");
	buf_put_escaped(log, target, 300);
	log_end(b);
}

/* Starts the request's call, or puts its answer into *a when it can't be executed. */
static bool start(
        struct bridge *b, struct request *r, struct api *call, struct answer *a, struct buf *sentence)
{
	struct slice payload = payload_of(r), target;
	size_t at;
	bool write = false;
	*a = (struct answer){.request = payload};
	if (b->stopping) {
		a->error = ERROR_SHUTTING_DOWN;
		buf_put_str(
		        sentence, "the gateway's MQTT client is being stopped; the request was not executed");
		if (!r->valid)
			a->request.p = NULL;
	} else if (r->size > payload.n) {
		a->error = ERROR_TOO_LARGE;
		a->request.p = NULL;
		buf_put_str(sentence, "the request has ");
		buf_put_u64(sentence, r->size);
		buf_put_str(sentence, " bytes; at most ");
		buf_put_u64(sentence, BRIDGE_REQUEST_BYTES);
		buf_put_str(sentence, " are accepted");
	} else if (!r->valid) {
		a->error = ERROR_INVALID_JSON;
		a->request.p = NULL;
		buf_put_str(sentence, "the request is not JSON: ");
		buf_put_str(sentence, json_check(payload, NULL, &at));
		buf_put_str(sentence, ", at byte ");
		buf_put_u64(sentence, at);
	} else if (json_kind(payload) != JSON_OBJECT) {
		a->error = ERROR_NOT_AN_OBJECT;
		buf_put_str(sentence, "the request must be a JSON object");
	} else {
		a->error = read_request(b, r, &target, &write, sentence);
		if (a->error == ERROR_NONE &&
		        !api_start(b, call, target, (struct slice){NULL, 0}, b->time.now_ms)) {
			a->error = ERROR_TOO_LARGE;
			buf_put_str(sentence, "the call of the API would be too long");
		}
		if (a->error == ERROR_NONE) {
			log_call(b, r->number, target);
			r->running = true;
			call->request = r->number;
			call->once = write;
			return true;
		}
	}
	a->sentence = buf_slice(sentence);
	return false;
}

/* The request has its answer. */
static void note_time(struct bridge *b, const struct request *r)
{
	times_add(&b->stats.round_trip, (uint32_t)b->time.now_ms - r->arrived_ms);
}

/* Starts calls while there are idle connections and requests that may run; answers those that can't be
 * executed. */
static void start_calls(struct bridge *b)
{
	struct request *r;
	struct api *call;
	struct answer a;
	while (queue_room(&b->outbox.queue) > BRIDGE_RESERVE_BYTES && (r = next_request(b)) != NULL &&
	        (call = api_idle(b)) != NULL) {
		unsigned char mem[512];
		struct buf sentence = BUF(mem);
		if (start(b, r, call, &a, &sentence))
			continue;
		if (!put_answer(b, r->number, &a, false))
			return;
		note_time(b, r);
		queue_remove(&b->requests, r);
	}
}

/* --- from a call to an answer --- */

static struct request *request_of(struct bridge *b, const struct api *call)
{
	struct request *r = queue_first(&b->requests);
	while (r != NULL && r->number != call->request)
		r = queue_next(&b->requests, r);
	return r;
}

/* The API's own words, the member "error" of its reply, as text in b->scratch; empty when there are none. */
static struct slice api_words(struct bridge *b, struct slice body)
{
	size_t at;
	bool words;
	struct buf text = BUF(b->scratch);
	if (body.n > 0 && json_check(body, &words, &at) == NULL && json_kind(body) == JSON_OBJECT) {
		struct slice value = json_get(body, "error");
		if (value.p != NULL && json_kind(value) == JSON_STRING)
			json_unescape(&text, value);
	}
	return text.full ? (struct slice){NULL, 0} : buf_slice(&text);
}

/* Does the API say that the device belongs to another gateway (or that it has none at all)? */
static bool not_ours(const struct api *call, struct slice words)
{
	static const char before[] = "device ", after[] = " not found";
	size_t b = sizeof before - 1, a = sizeof after - 1;
	if (call->reply.status != 400)
		return false;
	return slice_is(words, "No devices open") || (words.n > a + b && memcmp(words.p, before, b) == 0 &&
	                                                     memcmp(words.p + words.n - a, after, a) == 0);
}

/* Puts what the call brought into *a. false: the request is another gateway's, there is no answer. */
static bool take_reply(struct bridge *b, const struct api *call, struct answer *a, struct buf *sentence)
{
	size_t at;
	const char *why;
	if (call->state == API_FAILED) {
		a->error = call->error;
		buf_put_str(sentence, "the gateway's API: ");
		api_put_why(sentence, call);
	} else if (!api_succeeded(call)) {
		struct slice words = api_words(b, call->reply.body);
		if (b->shared_prefix && not_ours(call, words))
			return false;
		a->error = ERROR_API_ERROR;
		a->status = call->reply.status;
		buf_put_str(sentence, "the gateway's API answered with status ");
		buf_put_i64(sentence, call->reply.status);
		if (words.n > 0)
			buf_put_str(sentence, ": ");
		if (words.n > 1000)
			for (words.n = 1000;
			        (words.p[words.n] & 0xc0) == 0x80;) /* not inside of a character */
				words.n--;
		buf_put_slice(sentence, words);
	} else if ((why = json_check(call->reply.body, &a->words, &at)) != NULL) {
		a->error = ERROR_API_INVALID_REPLY;
		a->status = call->reply.status;
		buf_put_str(sentence, "the gateway's API answered with something that is not JSON: ");
		buf_put_str(sentence, why);
		buf_put_str(sentence, ", at byte ");
		buf_put_u64(sentence, at);
	} else {
		a->response = call->reply.body;
	}
	a->sentence = buf_slice(sentence);
	return true;
}

/* Answers the request whose call has come to its end. */
static void finish_call(struct bridge *b, struct api *call)
{
	unsigned char mem[1200];
	struct buf sentence = BUF(mem);
	struct request *r = request_of(b, call);
	if (r != NULL) {
		struct answer a = {.request = payload_of(r)};
		if (!take_reply(b, call, &a, &sentence)) {
			struct buf *log = log_begin_limited(b, LEVEL_INFO, CAUSE_FOREIGN);
			buf_put_str(log, "request ");
			buf_put_u64(log, r->number);
			buf_put_str(log, " is left to other gateways, this one does not know its device (a "
			                 "prefix of its own, "
			                 "MQTT_TOPIC_PREFIX with {serial}, would make it answer)");
			log_end(b);
			b->stats.skipped[SKIP_OTHERS]++;
		} else if (!put_answer(b, r->number, &a, false)) {
			return;
		} else {
			note_time(b, r);
		}
		queue_remove(&b->requests, r);
	}
	api_finish(b, call);
}

void requests_step(struct bridge *b)
{
	for (size_t i = 0; i < BRIDGE_CALLS; i++) {
		struct api *call = &b->call[i];
		if (call->request == 0)
			continue;
		enum api_state state = api_step(b, call);
		if (state == API_DONE || state == API_FAILED)
			finish_call(b, call);
	}
	start_calls(b);
}

void requests_abandon(struct bridge *b)
{
	for (size_t i = 0; i < BRIDGE_CALLS; i++) {
		struct api *call = &b->call[i];
		if (call->request == 0 || call->state != API_BUSY)
			continue;
		call->state = API_FAILED;
		call->error = ERROR_SHUTTING_DOWN;
		call->why = "the gateway's MQTT client is being stopped, and the call had not come to its "
		            "end: whether it "
		            "was executed is not known";
	}
}

void requests_init(struct bridge *b)
{
	queue_init(&b->requests, b->requests_mem, sizeof b->requests_mem);
}

size_t requests_waiting(const struct bridge *b)
{
	size_t n = 0;
	for (const void *r = queue_first(&b->requests); r != NULL; r = queue_next(&b->requests, r))
		n++;
	return n;
}

size_t requests_running(const struct bridge *b)
{
	size_t n = 0;
	for (size_t i = 0; i < BRIDGE_CALLS; i++)
		n += b->call[i].request != 0;
	return n;
}
