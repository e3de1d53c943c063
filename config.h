/* The configuration: the environment and mqtt.env to struct config, with every mistake named.
 * Touches the operating system: it reads the files that it is given and the environment. It opens no
 * connection. */
#ifndef CONFIG_H
#define CONFIG_H

#include "buf.h"
#include "bridge.h"
#include "dns.h"
#include "tls.h"

enum {
	CONFIG_FILE_BYTES = 512 * 1024, /* a file must be smaller; Debian's ca-certificates.crt has 220 kB */
	CONFIG_PATH_BYTES = 256,
	CONFIG_SOCKET_BYTES = 108, /* of a socket's path with its NUL, unix(7) */
	CONFIG_PREFIX_BYTES = 128, /* the most that MQTT_TOPIC_PREFIX and MQTT_CLIENT_ID may have. */
	CONFIG_SERIAL_BYTES = 64   /* A serial number up to this instead of the one {serial} in the prefix */
	                           /* leaves 200 bytes for a topic: 128 - 8 + 64, and "/modbus/response". */
};

/* How log lines look; auto: journal where the journal is what takes them, text otherwise. */
enum config_format { CONFIG_AUTO, CONFIG_TEXT, CONFIG_JSON, CONFIG_JOURNAL };

struct config {
	struct bridge_config bridge;           /* what the core needs */
	char root_ca_file[CONFIG_PATH_BYTES];  /* MQTT_ROOT_CA_FILE, or "" */
	const char *root_ca_path;              /* NULL, or the same where nobody can write, see sandbox.c */
	uint64_t root_ca_hash;                 /* of the text that was last read from it */
	char password_file[CONFIG_PATH_BYTES]; /* MQTT_PASSWORD_FILE, or ""; it has been read */
	enum bridge_level log_level;
	enum config_format log_format;
	enum bridge_switch sandbox;
	uint32_t uid, gid;                       /* IAMCAT_USER; not 0 */
	char status_socket[CONFIG_SOCKET_BYTES]; /* STATUS_SOCKET: a path, "" for an abstract name, or "off"
	                                          */
	struct dns_address metrics_address;      /* METRICS_LISTEN */
	uint16_t metrics_port;                   /* 0: nowhere */
	uint32_t health_grace_s;
};

/* Reads file (NULL: mqtt.env in the working directory, which need not be there) and the environment envp,
 * which wins. A variable whose value is empty counts as not set, in both. Reads
 * MQTT_PASSWORD_FILE, and the anchors into a (NULL: not needed): from MQTT_ROOT_CA or MQTT_ROOT_CA_FILE, or
 * else the embedded ones. Writes one line for each mistake to errors and one for each oddity to warnings,
 * each ended by a newline; reports all of them, not just the first, and never a secret. Returns true when
 * there were no mistakes; otherwise c and a are not to be used. Keeps nothing: c and a are whole, its own
 * copies are wiped. */
bool config_read(struct config *c, struct tls_anchors *a, const char *file, char *const *envp,
        struct buf *errors, struct buf *warnings);

/* Reads the anchors again from MQTT_ROOT_CA_FILE, where there is one, if its text has changed since it was
 * read successfully: *changed says so. Where it has not, or the file can't be read, a stays as it is. Returns
 * false with a sentence in why when the file can't be read, or its text is no set of anchors (a is left
 * empty, see tls_anchors_read). */
bool config_read_anchors(struct config *c, struct tls_anchors *a, bool *changed, struct buf *why);

/* The value of a variable of the environment envp, empty when it is not set; of two with one name the first.
 */
struct slice config_env(char *const *envp, const char *name);

/* Writes the table of variables, their defaults and meaning, for --help: lines of at most 79 characters,
 * less than 3 kB in all. */
void config_describe(struct buf *b);

#endif
