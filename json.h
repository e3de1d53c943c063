/* JSON (RFC 8259): a strict validator, look-up of members, and writing. The only user of jsmn.h.
 * Pure: allocates nothing, does not recurse, reads no further than its slice. */
#ifndef JSON_H
#define JSON_H

#include "buf.h"

enum { JSON_DEPTH = 64 }; /* levels of nesting that are accepted; [] is one level */

/* Is s exactly one JSON text in valid UTF-8 (RFC 3629: no overlong forms, surrogates, or code points over
 * U+10FFFF; no byte order mark), nested at most JSON_DEPTH deep? Returns NULL when it is, or else a static
 * sentence that says what is wrong, with *at set to the offset of the first wrong byte (s.n when the text
 * ends too early): the bytes before *at could begin a JSON text, with the one at it they cannot. On success
 * *at is s.n. With words set, it is lenient: the bare words NaN, Infinity and -Infinity are values, too, as
 * some API replies have them, and *words says whether there are any. */
const char *json_check(struct slice s, bool *words, size_t *at);

/* The same without a reason, and in the same walk n values: value[i] is that of the outermost object's member
 * whose unescaped name is name[i] (of several with that name the last, as ECMAScript does), without white
 * space around it, in text. Its .p is NULL when there is none or when text is no object; of a text that is
 * not JSON the values mean nothing. */
bool json_members(struct slice text, bool lenient, const char *const *name, struct slice *value, size_t n);

/* The same, lenient, for one member; .p is NULL, too, when text is not JSON. */
struct slice json_get(struct slice text, const char *name);

/* Every function below takes only slices that json_check has accepted. */

enum json_kind {
	JSON_NONE,
	JSON_OBJECT,
	JSON_ARRAY,
	JSON_STRING,
	JSON_NUMBER,
	JSON_TRUE,
	JSON_FALSE,
	JSON_NULL
};

/* What the value is; NaN and its kin are JSON_NULL, an empty slice is JSON_NONE. Leading white space is
 * allowed. */
enum json_kind json_kind(struct slice value);

/* Walks the members of an object, in order, or with name NULL the values of an array: start with *at = 0;
 * returns false after the last one, and at once when the container is none. name is the raw text between the
 * quotes, value the value without white space around it; both point into the container, so the whole member
 * runs from name->p - 1 to value->p + value->n. */
bool json_next(struct slice container, size_t *at, struct slice *name, struct slice *value);

/* Does the raw text between the quotes of a member's name stand for name? */
bool json_name_is(struct slice raw, const char *name);

/* How many values there are in a value at all levels, itself and the names of members included. */
size_t json_count(struct slice value);

/* Writes the unescaped characters of a string value (its slice begins and ends with a quote), as UTF-8. An
 * escaped lone surrogate becomes U+FFFD; \u0000 becomes a NUL byte. */
void json_unescape(struct buf *b, struct slice string);

/* Writes text as a JSON string with its quotes: escapes what must be escaped; bytes that are not valid UTF-8
 * become U+FFFD. */
void json_put_string(struct buf *b, struct slice text);

/* Writes a value that json_check (lenient or not) has accepted, byte for byte, but NaN, Infinity and
 * -Infinity as null, and without white space around it. */
void json_put_value(struct buf *b, struct slice value);

#endif
