#include "core.h"

#include <limits.h>
#include <string.h>

#include "json.h"

/* The members of a request, those of a call to read in the order of its query. */
enum member { DEVICE_ID, FUNCTION_CODE, ADDRESS, SIZE, TYPE, ENDIANESS, SCALE_FACTOR, VALUES, MEMBERS };

static const char *const names[MEMBERS] = {
        "device_id", "function_code", "address", "size", "type", "endianess", "scale_factor", "values"};

/* What counts where one is missing; "": it is required. */
static const char fallback[MEMBERS][4] = {
        [SIZE] = "1", [TYPE] = "U16", [ENDIANESS] = "big", [SCALE_FACTOR] = "1"};

/* A request in the queue, from its arrival until its answer is in the outbox. */
struct request {
	unsigned number; /* counts from 1 */
	uint32_t device; /* hash of its device id, 0 for none: requests of one device run one after the other,
	                  * and two devices with one hash just do so as well */
	unsigned size;   /* of the payload as it arrived; bytes is empty when that was too large */
	uint32_t arrived_ms;   /* the time's lower bits */
	bool valid;            /* it is JSON */
	bool running;          /* its call is under way */
	bool stale;            /* it is too late for it */
	unsigned char bytes[]; /* the payload */
};

/* What is said in an answer. */
struct answer {
	struct slice request;    /* the payload; .p NULL when it was not JSON or not read */
	struct slice response;   /* the API's reply, when all went well */
	bool words;              /* it has words that JSON does not know */
	enum bridge_error error; /* otherwise */
	struct buf sentence;
	int status; /* the API's HTTP status, 0 for none */
};

/* The stable words of the interface. */
const char *const bridge_error_code[BRIDGE_ERRORS] = {"", "invalid_json", "not_an_object", "missing_field",
        "bad_value", "unsupported_function_code", "too_large", "write_refused", "busy", "stale",
        "api_unreachable", "api_timeout", "api_error", "api_invalid_reply", "shutting_down"};

static struct slice payload_of(const struct request *r)
{
	return (struct slice){r->bytes, queue_size(r) - sizeof *r};
}

/* --- answers --- */

static void put_error(struct buf *p, const struct bridge *b, const struct answer *a)
{
	buf_put_str(p, "{\"success\": false, \"error\": ");
	json_put_string(p, buf_slice(&a->sentence));
	buf_put_text(p, ", \"code\": \"%s\"", bridge_error_code[a->error]);
	if (a->status != 0)
		buf_put_text(p, ", \"status\": %u", a->status);
	buf_put_text(p, ", \"gateway\": \"%s\"}", b->serial);
}

/* At debug level a request can be followed by its number, from its arrival to the acknowledgement of its
 * answer. */
void requests_acknowledged(struct bridge *b, uint16_t id)
{
	size_t i = id % BRIDGE_TRACED;
	if (b->trace[i].id != id || b->trace[i].number == 0)
		return;
	log_line(b, LEVEL_DEBUG, "request %u: acknowledged, packet %u", b->trace[i].number, id);
	b->trace[i].number = 0;
}

/* The answer is in the outbox: one line for what went wrong, and at debug level for its packet. */
static void log_answer(struct bridge *b, unsigned number, const struct answer *a)
{
	uint16_t id = b->outbox.last_id;
	if (a->error != ERROR_NONE) {
		struct buf *log = log_begin(b, log_limited(b, LEVEL_WARN, a->error));
		buf_put_text(log, "request %u: %s: ", number, bridge_error_code[a->error]);
		buf_put_escaped(log, buf_slice(&a->sentence), 300);
		log_end(b);
	}
	if (b->log_level < LEVEL_DEBUG)
		return;
	log_line(b, LEVEL_DEBUG, "request %u: answered, packet %u", number, id);
	b->trace[id % BRIDGE_TRACED].id = id;
	b->trace[id % BRIDGE_TRACED].number = number;
}

/* Puts an answer into the outbox, of which reserve bytes must be left. false: there is no room now. */
static bool put_answer(struct bridge *b, unsigned number, const struct answer *a, size_t reserve)
{
	struct buf p;
	if (!publish_begin(b, b->topic_response, "modbus_response", &p))
		return false;
	p.cap = p.cap - p.n > reserve ? p.cap - reserve : p.n;
	buf_put_str(&p, ", \"request\": ");
	buf_put_slice(&p, a->request.p != NULL ? slice_trim(a->request) : slice_str("null"));
	buf_put_str(&p, ", \"response\": ");
	if (a->error != ERROR_NONE)
		put_error(&p, b, a);
	else if (a->words)
		json_put_value(&p, a->response);
	else
		buf_put_slice(&p, slice_trim(a->response));
	buf_put_byte(&p, '}');
	if (!mqtt_outbox_commit(&b->outbox, &p, false))
		return false;
	b->stats.answers[a->error]++;
	log_answer(b, number, a);
	return true;
}

/* The request is answered, when there is room, and leaves the queue. */
static bool settle(struct bridge *b, struct request *r, const struct answer *a)
{
	if (!put_answer(b, r->number, a, BRIDGE_RESERVE_BYTES))
		return false;
	times_add(&b->stats.round_trip, (uint32_t)b->time.now_ms - r->arrived_ms);
	queue_remove(&b->requests, r);
	return true;
}

/* --- from a request to a call --- */

/* A request on its way to a call: what it says, and the first mistake in it. */
struct reading {
	struct bridge *b;
	struct slice value[MEMBERS]; /* .p NULL: it is missing */
	struct buf *target;
	size_t values; /* how many are written */
	struct answer *answer;
};

/* Notes a mistake: 'NAME' must be …. Always returns false. */
static bool refuse(struct reading *r, enum bridge_error error, enum member m, const char *text)
{
	r->answer->error = error;
	buf_put_text(&r->answer->sentence, "'%s' %s", names[m], text);
	return false;
}

enum { VALUES_MAX = 123 }; /* Modbus Application Protocol V1.1b3, §6.12 */

/* Writes the values: an array of numbers, or what is one between brackets: a number, or a string of numbers.
 */
static bool put_values(struct reading *r)
{
	struct slice list = r->value[VALUES], item;
	struct buf scratch = BUF(r->b->scratch);
	size_t at;
	if (json_kind(list) != JSON_ARRAY) {
		buf_put_byte(&scratch, '[');
		if (json_kind(list) == JSON_STRING)
			json_unescape(&scratch, list);
		else
			buf_put_slice(&scratch, list);
		buf_put_byte(&scratch, ']');
		list = buf_slice(&scratch);
	}
	bool good = !scratch.full && json_check(list, NULL, &at) == NULL;
	r->values = good ? json_count(list) - 1 : 0;
	good = r->values >= 1 && r->values <= VALUES_MAX;
	for (at = 0; good && json_next(list, &at, NULL, &item);) {
		good = json_kind(item) == JSON_NUMBER;
		http_put_encoded(r->target, item);
		buf_put_byte(r->target, ',');
	}
	r->target->n -= good; /* the last comma */
	return good || refuse(r, ERROR_BAD_VALUE, VALUES,
	                       "must be a number, an array of numbers, or a string of comma-separated "
	                       "numbers, 1 to 123 of them");
}

/* Is the number an integer from min to max? */
static bool integer(struct slice value, int64_t min, int64_t max)
{
	return slice_u64(value, max) >= min;
}

/* Writes ?name=value or &name=value to the target; false after a mistake. */
static bool put_member(struct reading *r, enum member m)
{
	struct slice value = r->value[m];
	struct buf scratch = BUF(r->b->scratch);
	enum json_kind kind = json_kind(value);
	const char *wrong = NULL;
	buf_put_text(r->target, "%s%s=", m == DEVICE_ID ? "?" : "&", names[m]);
	if (value.p == NULL) {
		if (fallback[m][0] == 0)
			return refuse(r, ERROR_MISSING_FIELD, m, "is missing");
		buf_put_str(r->target, fallback[m]);
		return true;
	}
	switch (m) {
	case VALUES: return put_values(r);
	case ADDRESS:
		if (!integer(value, 0, 65535))
			wrong = "must be an integer from 0 to 65535";
		break;
	case SIZE:
		if (!integer(value, 1, 125))
			wrong = "must be an integer from 1 to 125";
		break;
	case FUNCTION_CODE: break;
	case SCALE_FACTOR:
		if (kind != JSON_NUMBER)
			wrong = "must be a number";
		break;
	default:
		if (kind != JSON_STRING || value.n <= 2)
			wrong = "must be a string that is not empty";
		json_unescape(&scratch, value);
		value = buf_slice(&scratch);
	}
	http_put_encoded(r->target, value);
	return wrong == NULL || refuse(r, ERROR_BAD_VALUE, m, wrong);
}

/* How many registers one value takes, by its type: letters and then the bits, as in U16, S32, F64. 0: it
 * can't be told. */
static size_t registers_of(struct slice type)
{
	if (type.p == NULL)
		return 1;
	size_t at = 1, end = type.n - 1; /* without the quotes */
	while (at < end && (type.p[at] | 0x20) >= 'a' && (type.p[at] | 0x20) <= 'z')
		at++;
	int64_t bits = at > 1 ? slice_u64((struct slice){type.p + at, end - at}, 64) : 0;
	return bits == 8 || bits == 16 ? 1 : bits == 32 ? 2 : bits == 64 ? 4 : 0;
}

static bool register_allowed(const struct bridge_config *c, size_t address)
{
	for (size_t i = 0; i < c->write_allows; i++)
		if (address >= c->write_allow[i].first && address <= c->write_allow[i].last)
			return true;
	return !c->writes_limited;
}

/* MODBUS_WRITE_ALLOW: every register that the write touches must be in it. */
static bool write_allowed(struct reading *r)
{
	const struct bridge_config *c = r->b->config;
	size_t address = (size_t)slice_u64(r->value[ADDRESS], 65535), width = registers_of(r->value[TYPE]);
	if (c->writes_limited && width == 0)
		return refuse(r, ERROR_WRITE_REFUSED, TYPE,
		        "does not tell how many registers would be written, and this gateway limits writes "
		        "(MODBUS_WRITE_ALLOW)");
	for (size_t i = address; i < address + r->values * width; i++) {
		if (register_allowed(c, i))
			continue;
		refuse(r, ERROR_WRITE_REFUSED, ADDRESS, "reaches a register that may not be written: ");
		buf_put_text(&r->answer->sentence, "%u (MODBUS_WRITE_ALLOW of this gateway)", (unsigned)i);
		return false;
	}
	return true;
}

/* Turns a request that is an object into the path and query of its call; false after a mistake, which is
 * noted in *a. */
static bool read_request(struct bridge *b, struct slice payload, struct api *call, struct answer *a)
{
	static const unsigned char read_order[] = {DEVICE_ID, FUNCTION_CODE, ADDRESS, SIZE, TYPE, ENDIANESS,
	        SCALE_FACTOR},
	                           write_order[] = {DEVICE_ID, ADDRESS, FUNCTION_CODE, VALUES, TYPE};
	struct reading r;
	r.b = b;
	r.target = &call->out;
	r.answer = a;
	json_members(payload, false, names, r.value, MEMBERS);
	int64_t code = slice_u64(r.value[FUNCTION_CODE], 255);
	if (code != 3 && code != 4 && code != 16) {
		if (r.value[FUNCTION_CODE].p == NULL)
			refuse(&r, ERROR_MISSING_FIELD, FUNCTION_CODE, "is missing");
		else
			refuse(&r, ERROR_UNSUPPORTED_FUNCTION_CODE, FUNCTION_CODE,
			        "must be 3 or 4 (read) or 16 (write), as a number");
		return false;
	}
	api_begin(call, "GET /api/inverter/modbus");
	call->once = code == 16;
	for (size_t i = 0; i < (call->once ? sizeof write_order : sizeof read_order); i++)
		if (!put_member(&r, call->once ? write_order[i] : read_order[i]))
			return false;
	return !call->once || write_allowed(&r);
}

/* --- the queue --- */

/* Of a device id; 0 for none. */
static uint32_t device_of(struct bridge *b, struct slice value)
{
	struct buf id = BUF(b->scratch);
	if (json_kind(value) != JSON_STRING)
		return 0;
	json_unescape(&id, value);
	return (uint32_t)slice_hash(SLICE_HASH, buf_slice(&id)) | 1;
}

bool requests_take(struct bridge *b, struct slice payload, size_t size)
{
	struct slice device;
	if (size > BRIDGE_REQUEST_BYTES)
		payload.n = 0;
	bool valid = json_members(payload, false, &names[DEVICE_ID], &device, 1);
	struct request *r = queue_add(&b->requests, sizeof *r + payload.n);
	if (r == NULL) {
		struct answer a = {.error = ERROR_BUSY, .sentence = BUF(b->scratch)};
		if (valid)
			a.request = payload;
		buf_put_str(&a.sentence, "too many requests wait already: try again later");
		if (!put_answer(b, b->last_request + 1, &a, 0))
			return false;
		b->last_request++;
		return true;
	}
	r->number = ++b->last_request;
	r->size = size > UINT_MAX ? UINT_MAX : (unsigned)size;
	r->arrived_ms = (uint32_t)b->time.now_ms;
	r->running = r->stale = false;
	r->valid = valid;
	r->device = valid ? device_of(b, device) : 0;
	if (payload.n > 0)
		memcpy(r->bytes, payload.p, payload.n);
	log_line(b, LEVEL_DEBUG, "request %u: arrived, bytes: %u", r->number, (unsigned)size);
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

/* Starts the request's call; false: it can't be executed, and *a says why. */
static bool start(struct bridge *b, struct request *r, struct api *call, struct answer *a)
{
	struct slice payload = payload_of(r);
	const char *why;
	size_t at;
	if (!r->valid)
		a->request.p = NULL;
	if (b->stopping) {
		a->error = ERROR_SHUTTING_DOWN;
		buf_put_str(&a->sentence,
		        "the gateway's MQTT client is being stopped; the request was not executed");
	} else if (r->stale) {
		a->error = ERROR_STALE;
		buf_put_str(&a->sentence,
		        "it waited while the broker was away for longer than MQTT_SESSION_WINDOW; it was not "
		        "executed");
	} else if (r->size > payload.n) {
		a->error = ERROR_TOO_LARGE;
		buf_put_text(&a->sentence, "the request has %u bytes; at most %u are accepted", r->size,
		        BRIDGE_REQUEST_BYTES);
	} else if (!r->valid) {
		a->error = ERROR_INVALID_JSON;
		why = json_check(payload, NULL, &at);
		buf_put_text(&a->sentence, "the request is not JSON: %s, at byte %u", why, (unsigned)at);
	} else if (json_kind(payload) != JSON_OBJECT) {
		a->error = ERROR_NOT_AN_OBJECT;
		buf_put_str(&a->sentence, "the request must be a JSON object");
	} else if (read_request(b, payload, call, a)) {
		size_t line = call->out.n;
		if (api_start(b, call, (struct slice){NULL, 0}, b->time.now_ms)) {
			struct buf *log = log_begin(b, LEVEL_DEBUG);
			buf_put_text(log, "request %u: ", r->number);
			buf_put_escaped(log, (struct slice){call->out.p, line}, 304);
			log_end(b);
			r->running = true;
			call->request = r->number;
			return true;
		}
		a->error = ERROR_TOO_LARGE;
		buf_put_str(&a->sentence, "the call of the API would be too long");
	}
	return false;
}

/* Starts calls while there are idle connections and requests that may run; answers those that can't be
 * executed. */
static void start_calls(struct bridge *b)
{
	struct request *r;
	struct api *call;
	while (!session_needs_call(b) && queue_room(&b->outbox.queue) > BRIDGE_RESERVE_BYTES &&
	        (r = next_request(b)) != NULL && (call = api_idle(b)) != NULL) {
		struct answer a = {.request = payload_of(r), .sentence = BUF(b->scratch)};
		if (!start(b, r, call, &a) && !settle(b, r, &a))
			return;
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

enum { WORDS_BYTES = 1000 }; /* what is told of the API's own words: half a character becomes U+FFFD */

/* Puts what the call brought into *a. false: the request is another gateway's, there is no answer. */
static bool take_reply(struct bridge *b, const struct api *call, struct answer *a)
{
	size_t at;
	const char *why = call->why;
	if (call->state == API_FAILED) {
		a->error = call->error;
		buf_put_text(&a->sentence, "the gateway's API: %s", why);
		if (call->code != 0)
			buf_put_text(&a->sentence, " (error %u)", call->code);
	} else if (why != NULL) {
		buf_put_text(&a->sentence, "the gateway's API answered with status %u: ", call->reply.status);
		size_t head = a->sentence.n;
		api_take_string(call->reply.body, "error", &a->sentence); /* its own words, if it has some */
		if (b->shared_prefix && not_ours(call, slice_from(buf_slice(&a->sentence), head)))
			return false;
		a->error = ERROR_API_ERROR;
		a->status = call->reply.status;
		if (a->sentence.n == head)
			a->sentence.n -= 2;
		else if (a->sentence.n > head + WORDS_BYTES)
			a->sentence.n = head + WORDS_BYTES;
	} else if ((why = json_check(call->reply.body, &a->words, &at)) != NULL) {
		a->error = ERROR_API_INVALID_REPLY;
		a->status = call->reply.status;
		buf_put_text(&a->sentence,
		        "the gateway's API answered with something that is not JSON: %s, at byte %u", why,
		        (unsigned)at);
	}
	a->response = call->reply.body;
	return true;
}

/* Answers the request whose call has come to its end. */
static void finish_call(struct bridge *b, struct api *call)
{
	struct request *r = request_of(b, call);
	if (r != NULL) {
		struct answer a = {.request = payload_of(r), .sentence = BUF(b->scratch)};
		if (take_reply(b, call, &a)) {
			if (!settle(b, r, &a))
				return;
		} else {
			log_line(b, log_limited(b, LEVEL_INFO, CAUSE_FOREIGN),
			        "request %u is left to other gateways, this one does not know its device (a "
			        "prefix of its own, MQTT_TOPIC_PREFIX with {serial}, would make it answer)",
			        r->number);
			b->stats.skipped[SKIP_OTHERS]++;
			queue_remove(&b->requests, r);
		}
	}
	api_finish(b, call);
}

/* What waits becomes as stale as what the broker keeps. */
static void let_lapse(struct bridge *b)
{
	uint32_t now = (uint32_t)b->time.now_ms, window_ms = b->config->session_window_s * 1000u;
	for (struct request *r = queue_first(&b->requests); r != NULL; r = queue_next(&b->requests, r))
		r->stale = r->stale || now - r->arrived_ms > window_ms;
}

void requests_step(struct bridge *b)
{
	if (session_lapsed(b))
		let_lapse(b);
	for (size_t i = 0; i < BRIDGE_CALLS; i++) {
		struct api *call = &b->call[i];
		if (call->request != 0 && api_step(b, call))
			finish_call(b, call);
	}
	start_calls(b);
}

bool requests_abandon(struct bridge *b)
{
	bool any = false;
	for (size_t i = 0; i < BRIDGE_CALLS; i++) {
		struct api *call = &b->call[i];
		if (call->request == 0 || call->state != API_BUSY)
			continue;
		call->state = API_FAILED;
		call->error = ERROR_SHUTTING_DOWN;
		call->why = "the gateway's MQTT client is being stopped, and the call had not come to its "
		            "end: whether it was executed is not known";
		call->code = 0;
		any = true;
	}
	return any;
}

void requests_init(struct bridge *b)
{
	queue_init(&b->requests, b->requests_mem, sizeof b->requests_mem);
}

size_t requests_waiting(const struct bridge *b)
{
	return queue_count(&b->requests);
}

size_t requests_running(const struct bridge *b)
{
	size_t n = 0;
	for (size_t i = 0; i < BRIDGE_CALLS; i++)
		n += b->call[i].request != 0;
	return n;
}
