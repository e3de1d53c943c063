/* Every size that a build may set. A firmware names a header with sizes of its own, or the small profile:
 *
 *	-DIAMCAT_SIZES='"small.h"'
 *
 * What does not fit is refused in words, never cut. Data only. */
#ifndef SIZES_H
#define SIZES_H

#ifdef IAMCAT_SIZES
#include IAMCAT_SIZES
#else
enum {
	/* configuration, each with its NUL */
	BRIDGE_HOST_BYTES = 256,
	BRIDGE_TEXT_BYTES = 256,
	BRIDGE_SECRET_BYTES = 4096, /* a token or a password */
	BRIDGE_SERIAL_BYTES = 65,
	BRIDGE_RANGES = 64, /* of addresses in MODBUS_WRITE_ALLOW */

	/* requests */
	BRIDGE_SEEN = 512,           /* QoS 1 requests whose redelivery is recognised; more are not taken */
	BRIDGE_REQUEST_BYTES = 8192, /* the largest request that is executed */
	BRIDGE_TRACED = 256, /* answers whose acknowledgement is logged with their request, at debug level */
	BRIDGE_QUEUE_BYTES = 72 * 1024, /* those that wait: 256 of 200 bytes and more */
	BRIDGE_CALLS = 2,               /* Modbus calls at a time */
	BRIDGE_API_LINKS = 4,           /* connections to the API, in use or ahead of need */
	BRIDGE_CALL_BYTES = 3 * BRIDGE_REQUEST_BYTES + 2048, /* a call with its header */
	BRIDGE_STATE_CALL_BYTES = 2048, /* the one for the state, or for serial number and token */
	BRIDGE_CALL_BODY_BYTES = 65536, /* the body of a reply to a Modbus call, and to the one for the token;
	                                 * at most HTTP_BODY_BYTES */

	/* MQTT */
	BRIDGE_PACKET_BYTES = BRIDGE_REQUEST_BYTES + 512,  /* the largest packet that is read whole */
	BRIDGE_CONTROL_BYTES = BRIDGE_SECRET_BYTES + 2048, /* packets without payload that wait to be sent;
	                                                    * CONNECT is the largest */
	BRIDGE_OUTBOX_BYTES = 192 * 1024, /* publishes that wait for PUBACK; at least the largest answer or
	                                   * state, and the reserve */
	BRIDGE_RESERVE_BYTES = 32 * 1024, /* of the outbox, kept for answers that must not wait ("busy") */

	BRIDGE_LOG_BYTES = 8192, /* log lines of one step */

	BRIDGE_ALIGN =
	        4096, /* what is large begins on a page, so that small things lie together: at least 8 */

	/* replies of the API */
	HTTP_HEAD_BYTES = 8192,  /* status line and header */
	HTTP_BODY_BYTES = 65536, /* the body */
	HTTP_FRAME_BYTES = 1024, /* a chunk-size line, and a trailer section */

	/* TLS */
	/* A broker is asked for records that both of these can hold: of 512, 1024, 2048 or 4096 bytes (RFC
	 * 6066 §4). It may not listen, and send up to 16 kB in one (RFC 5246 §6.2.1): what TLS_IN_BYTES holds
	 * is taken. */
	TLS_IN_BYTES = 16384 + 325,
	TLS_OUT_BYTES = 4096 + 85,     /* what we send is cut into records of 4 kB */
	TLS_ANCHORS = 256,             /* Debian's whole ca-certificates.crt has about 150 */
	TLS_ANCHOR_BYTES = 160 * 1024, /* names and keys of all of them */
	CERT_CHAIN = 8,                /* the most certificates that a server may send */
	CERT_CHAIN_BYTES = 32 * 1024,  /* and their bytes in all */
	CERT_DETAIL_BYTES = 600        /* what is said of a certificate at fault */
};
#endif

#endif
