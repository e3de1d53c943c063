/* A mosquitto 2 plugin for tests and the demo: a password is an ES256 token (RFC 7519) that is really
 * verified, and a client whose token has expired is cut off, as EMQX does. A refused login gets CONNACK
 * 5; the broker's log (notice) says "broker_auth: NAME accepted", "broker_auth: NAME refused: why" or
 * "broker_auth: CLIENT-ID cut off: …".
 *
 *	plugin build/test/broker_auth.so
 *	plugin_opt_public_key_file FILE
 *		lines of "<sub or *> <128 hex>": whose tokens a key may sign; a sub may have several.
 *		Read at start, as the user that the broker runs as (mosquitto gives up root before that,
 *		unless its configuration says "user root")
 *	plugin_opt_dates any
 *		numeric, iso8601 or any: the form of "exp" that is accepted
 *	plugin_opt_kick 1
 *		0: a connection outlives its token
 *	plugin_opt_early 0
 *		so many seconds before its token expires a connection is ended
 *	plugin_opt_users NAME:PASSWORD
 *		a plain login besides tokens; may be repeated
 *
 * A token must be signed by a key for its "sub", "sub" be the user name, "exp" lie in the future. */
#include <mosquitto_broker.h>
#include <mosquitto_plugin.h>
#include <mosquitto.h>
#include <openssl/bn.h>
#include <openssl/core_names.h>
#include <openssl/ecdsa.h>
#include <openssl/evp.h>
#include <openssl/params.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <jsmn.h>

enum { KEYS = 4096, CLIENTS = 4096, USERS = 16, TOKENS = 64, PART = 4096 };

static struct key {
	char sub[256];
	unsigned char point[65]; /* uncompressed: 4, x, y */
} keys[KEYS];
static struct client {
	const struct mosquitto *who; /* NULL: a free place */
	char id[256];
	time_t expires;
} clients[CLIENTS];
static const char *users[USERS];
static size_t key_count, user_count;
static const char *dates = "any";
static int kick = 1, early = 0;
static mosquitto_plugin_id_t *self;

int mosquitto_plugin_version(int count, const int *versions)
{
	for (int i = 0; i < count; i++)
		if (versions[i] == 5)
			return 5;
	return -1;
}

/* Returns whether the file held keys, and nothing else. */
static int read_keys(const char *name)
{
	char hex[130];
	int good = 1;
	FILE *f = fopen(name, "r");
	if (f == NULL)
		return 0;
	while (good && key_count < KEYS && fscanf(f, "%255s %129s", keys[key_count].sub, hex) == 2) {
		struct key *k = &keys[key_count++];
		k->point[0] = 4;
		good = strlen(hex) == 128;
		for (size_t i = 0; good && i < 64; i++)
			good = sscanf(hex + 2 * i, "%2hhx", &k->point[1 + i]) == 1;
	}
	good = good && key_count > 0 && feof(f);
	fclose(f);
	return good;
}

/* Base64url without padding (RFC 7515 §2) to bytes; returns how many, or -1. out holds 3/4 of n and 3 more.
 */
static int decode(const char *p, size_t n, unsigned char *out)
{
	char text[PART + 4];
	size_t pad = (4 - n % 4) % 4;
	if (n == 0 || n > PART || pad == 3)
		return -1;
	for (size_t i = 0; i < n + pad; i++) {
		if (i < n && strchr("+/=", p[i])) /* strchr finds NUL, too */
			return -1;
		text[i] = i >= n ? '=' : p[i] == '-' ? '+' : p[i] == '_' ? '/' : p[i];
	}
	int length = EVP_DecodeBlock(out, (unsigned char *)text, (int)(n + pad));
	return length < 0 ? -1 : length - (int)pad;
}

/* The value of a top-level member of a JSON object as text: a string without its quotes (*kind says so). */
static int member(const unsigned char *json, int n, const char *name, char *out, size_t cap, jsmntype_t *kind)
{
	jsmntok_t tok[TOKENS];
	jsmn_parser parser;
	jsmn_init(&parser);
	int count = jsmn_parse(&parser, (const char *)json, (size_t)n, tok, TOKENS);
	if (count < 1 || tok[0].type != JSMN_OBJECT)
		return 0;
	for (int i = 1, next; i + 1 < count; i = next) {
		const jsmntok_t *key = &tok[i], *value = &tok[i + 1];
		for (next = i + 1; next < count && tok[next].start < value->end; next++)
			;
		size_t size = (size_t)(value->end - value->start);
		if ((size_t)(key->end - key->start) != strlen(name) ||
		        memcmp(json + key->start, name, strlen(name)) != 0 || size >= cap)
			continue;
		memcpy(out, json + value->start, size);
		out[size] = '\0';
		*kind = value->type;
		return 1;
	}
	return 0;
}

/* "exp" as seconds since 1970; 0 when it is in no accepted form. */
static time_t expiry(const char *text, jsmntype_t kind)
{
	struct tm tm = {0};
	int hours = 0, minutes = 0;
	if (kind == JSMN_PRIMITIVE && strcmp(dates, "iso8601") != 0 && text[0] >= '0' && text[0] <= '9')
		return atoll(text);
	if (kind != JSMN_STRING || strcmp(dates, "numeric") == 0)
		return 0;
	const char *rest = strptime(text, "%Y-%m-%dT%H:%M:%S", &tm);
	if (rest == NULL)
		return 0;
	rest += *rest == '.' ? 1 + strspn(rest + 1, "0123456789") : 0;
	if (strcmp(rest, "Z") != 0 && sscanf(rest, "%3d:%2d", &hours, &minutes) != 2)
		return 0;
	return timegm(&tm) - hours * 3600 - (*rest == '-' ? -minutes : minutes) * 60;
}

static int signed_by(const struct key *k, const char *text, size_t n, const unsigned char raw[64])
{
	unsigned char point[65], *der = NULL;
	memcpy(point, k->point, sizeof point);
	OSSL_PARAM params[] = {
	        OSSL_PARAM_construct_utf8_string(OSSL_PKEY_PARAM_GROUP_NAME, (char[]){"prime256v1"}, 0),
	        OSSL_PARAM_construct_octet_string(OSSL_PKEY_PARAM_PUB_KEY, point, sizeof point),
	        OSSL_PARAM_construct_end()};
	EVP_PKEY *key = NULL;
	EVP_PKEY_CTX *from = EVP_PKEY_CTX_new_from_name(NULL, "EC", NULL);
	EVP_MD_CTX *md = EVP_MD_CTX_new();
	ECDSA_SIG *sig = ECDSA_SIG_new();
	ECDSA_SIG_set0(sig, BN_bin2bn(raw, 32, NULL), BN_bin2bn(raw + 32, 32, NULL));
	int size = i2d_ECDSA_SIG(sig, &der);
	int good = size > 0 && EVP_PKEY_fromdata_init(from) == 1 &&
	           EVP_PKEY_fromdata(from, &key, EVP_PKEY_PUBLIC_KEY, params) == 1 &&
	           EVP_DigestVerifyInit(md, NULL, EVP_sha256(), NULL, key) == 1 &&
	           EVP_DigestVerify(md, der, (size_t)size, (const unsigned char *)text, n) == 1;
	OPENSSL_free(der);
	ECDSA_SIG_free(sig);
	EVP_MD_CTX_free(md);
	EVP_PKEY_free(key);
	EVP_PKEY_CTX_free(from);
	return good;
}

/* Checks a token; returns NULL and its expiry when it is good for user, or else why it is not. */
static const char *check(const char *user, const char *token, time_t *expires)
{
	unsigned char json[PART + 4], raw[PART + 4];
	char text[256];
	jsmntype_t kind;
	const char *dot = strchr(token, '.'), *dot2 = dot ? strchr(dot + 1, '.') : NULL;
	if (dot2 == NULL)
		return "not a token, and no known password";
	int n = decode(token, (size_t)(dot - token), json);
	if (n < 0 || !member(json, n, "alg", text, sizeof text, &kind) || strcmp(text, "ES256") != 0)
		return "the token's alg is not ES256";
	if (decode(dot2 + 1, strlen(dot2 + 1), raw) != 64)
		return "the token's signature has not 64 bytes";
	n = decode(dot + 1, (size_t)(dot2 - dot - 1), json);
	if (n < 0 || !member(json, n, "sub", text, sizeof text, &kind) || kind != JSMN_STRING)
		return "the token has no sub";
	if (strcmp(text, user) != 0)
		return "the token's sub is not the user name";
	size_t i = 0;
	while (i < key_count && ((strcmp(keys[i].sub, "*") != 0 && strcmp(keys[i].sub, user) != 0) ||
	                                !signed_by(&keys[i], token, (size_t)(dot2 - token), raw)))
		i++;
	if (i == key_count)
		return "the token is not signed by a known key";
	if (!member(json, n, "exp", text, sizeof text, &kind) || (*expires = expiry(text, kind)) == 0)
		return "the token's exp is missing or not in the accepted form";
	return *expires <= time(NULL) ? "the token has expired" : NULL;
}

static void remember(const struct mosquitto *who, time_t expires)
{
	const char *id = mosquitto_client_id(who);
	struct client *place = NULL;
	for (struct client *c = clients; c < clients + CLIENTS; c++)
		if (c->who && (c->who == who || strcmp(c->id, id) == 0))
			c->who = NULL; /* a new login takes the old one's place */
	for (struct client *c = clients; c < clients + CLIENTS && place == NULL; c++)
		place = c->who == NULL ? c : NULL;
	if (place == NULL || strlen(id) >= sizeof place->id)
		return;
	place->who = who;
	place->expires = expires;
	snprintf(place->id, sizeof place->id, "%s", id);
}

static int on_login(int event, void *data, void *unused)
{
	struct mosquitto_evt_basic_auth *login = data;
	const char *user = login->username ? login->username : "";
	const char *password = login->password ? login->password : "", *why;
	time_t expires = 0;
	(void)event, (void)unused;
	for (size_t i = 0; i < user_count; i++) {
		size_t n = strlen(user);
		if (strncmp(users[i], user, n) == 0 && users[i][n] == ':' &&
		        strcmp(users[i] + n + 1, password) == 0) {
			mosquitto_log_printf(MOSQ_LOG_NOTICE, "broker_auth: %s accepted (password)", user);
			return MOSQ_ERR_SUCCESS;
		}
	}
	why = check(user, password, &expires);
	if (why) {
		mosquitto_log_printf(MOSQ_LOG_NOTICE, "broker_auth: %s refused: %s", user, why);
		return MOSQ_ERR_AUTH;
	}
	remember(login->client, expires);
	mosquitto_log_printf(MOSQ_LOG_NOTICE, "broker_auth: %s accepted", user);
	return MOSQ_ERR_SUCCESS;
}

static int on_disconnect(int event, void *data, void *unused)
{
	struct mosquitto_evt_disconnect *gone = data;
	(void)event, (void)unused;
	for (struct client *c = clients; c < clients + CLIENTS; c++)
		if (c->who == gone->client)
			c->who = NULL;
	return MOSQ_ERR_SUCCESS;
}

static int on_tick(int event, void *data, void *unused)
{
	time_t now = time(NULL);
	(void)event, (void)data, (void)unused;
	for (struct client *c = clients; kick && c < clients + CLIENTS; c++) {
		if (c->who == NULL || c->expires - early > now)
			continue;
		c->who = NULL;
		mosquitto_log_printf(MOSQ_LOG_NOTICE, "broker_auth: %s cut off: its token expired", c->id);
		mosquitto_kick_client_by_clientid(c->id, true);
	}
	return MOSQ_ERR_SUCCESS;
}

int mosquitto_plugin_init(mosquitto_plugin_id_t *id, void **data, struct mosquitto_opt *options, int count)
{
	(void)data;
	self = id;
	for (int i = 0; i < count; i++) {
		const char *name = options[i].key, *value = options[i].value;
		if (strcmp(name, "public_key_file") == 0 && !read_keys(value)) {
			mosquitto_log_printf(MOSQ_LOG_ERR, "broker_auth: no keys in %s", value);
			return MOSQ_ERR_INVAL;
		}
		if (strcmp(name, "dates") == 0)
			dates = value;
		if (strcmp(name, "kick") == 0)
			kick = atoi(value);
		if (strcmp(name, "early") == 0)
			early = atoi(value);
		if (strcmp(name, "users") == 0 && user_count < USERS)
			users[user_count++] = value;
	}
	int rc = mosquitto_callback_register(self, MOSQ_EVT_BASIC_AUTH, on_login, NULL, NULL);
	if (rc == MOSQ_ERR_SUCCESS)
		rc = mosquitto_callback_register(self, MOSQ_EVT_DISCONNECT, on_disconnect, NULL, NULL);
	if (rc == MOSQ_ERR_SUCCESS)
		rc = mosquitto_callback_register(self, MOSQ_EVT_TICK, on_tick, NULL, NULL);
	return rc;
}

int mosquitto_plugin_cleanup(void *data, struct mosquitto_opt *options, int count)
{
	(void)data, (void)options, (void)count;
	mosquitto_callback_unregister(self, MOSQ_EVT_BASIC_AUTH, on_login, NULL);
	mosquitto_callback_unregister(self, MOSQ_EVT_DISCONNECT, on_disconnect, NULL);
	mosquitto_callback_unregister(self, MOSQ_EVT_TICK, on_tick, NULL);
	return MOSQ_ERR_SUCCESS;
}
