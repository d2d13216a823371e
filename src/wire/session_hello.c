/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The handshake: versions, what each side can read, and the credits that follow from it. See session.h. */
#include "base/bytes.h"
#include "base/cleanup.h"
#include "wire/control.h"
#include "wire/session_private.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#define CREDIT_REQUESTS  1024u /* what a client believes at most */
#define CREDIT_BYTES     (64u << 20)
#define CREDIT_BYTES_MIN FRAME_PAYLOAD_MAX

static const char *compress_word(enum session_compress compress)
{
	return compress == SESSION_COMPRESS_NONE     ? "none"
	       : compress == SESSION_COMPRESS_ALWAYS ? "always"
	                                             : "auto";
}

int session_hello_send(struct session *session, struct error *error)
{
	const struct session_options *options = &session->options;
	json_t *json = json_pack("{s:i, s:s, s:[s]}", "version", FRAME_VERSION, "software",
	    "blkmove " BLKMOVE_VERSION, "features", "zstd");

	if (json && options->server) {
		json_object_set_new(json, "requests", json_integer(options->offer.requests));
		json_object_set_new(json, "bytes", json_integer((json_int_t)options->offer.bytes));
	} else if (json) {
		json_object_set_new(json, "compress", json_string(compress_word(options->compress)));
		json_object_set_new(json, "level", json_integer(options->compress_level));
	}
	if (!json)
		return error_set(error, -ENOMEM, "no memory for a greeting");
	return session_send_json(session, FRAME_HELLO, 0, json, error);
}

static bool has_zstd(const json_t *hello)
{
	size_t index;
	json_t *feature;

	json_array_foreach(json_object_get(hello, "features"), index,
	    feature) if (json_is_string(feature) && !strcmp(json_string_value(feature), "zstd")) return true;
	return false;
}

/* How this side compresses: as the client wishes, if the other side can read it. */
static int agree_compression(struct session *session, const json_t *hello, struct error *error)
{
	enum session_compress compress = session->options.compress;
	json_int_t level = session->options.compress_level;
	char word[16];

	if (session->options.server) {
		if (control_get_text(hello, "compress", word, sizeof(word), error) < 0)
			return -EPROTO;
		compress = !strcmp(word, "auto")     ? SESSION_COMPRESS_AUTO
		           : !strcmp(word, "always") ? SESSION_COMPRESS_ALWAYS
		                                     : SESSION_COMPRESS_NONE;
		level = json_integer_value(json_object_get(hello, "level"));
		/* Higher levels take memory that the client does not pay for. */
		level = level > 12 ? 12 : level < -7 ? -7 : level;
	}
	if (compress == SESSION_COMPRESS_NONE || !has_zstd(hello))
		return 0;
	return compress_new(
	    &session->sender.compress, session->ring, (int)level, compress == SESSION_COMPRESS_ALWAYS, error);
}

static int accept_credits(struct session *session, const json_t *hello, struct error *error)
{
	uint64_t requests, bytes;

	if (session->options.server)
		return 0;
	if (control_get_u64(hello, "requests", &requests, error) < 0 ||
	    control_get_u64(hello, "bytes", &bytes, error) < 0)
		return -EPROTO;
	if (requests < 1 || bytes < CREDIT_BYTES_MIN)
		return error_set(error, -EPROTO,
		    "credits for %llu requests of %llu bytes are too few to work with",
		    (unsigned long long)requests, (unsigned long long)bytes);
	session->limit.requests = (uint32_t)min_u64(requests, CREDIT_REQUESTS);
	session->limit.bytes = min_u64(bytes, CREDIT_BYTES);
	return 0;
}

int session_hello_received(
    struct session *session, const struct frame *frame, const void *payload, struct error *error)
{
	_cleanup_(control_cleanup) json_t *hello = control_parse(payload, frame->payload_length, error);
	char software[64];
	uint64_t version;

	if (!hello)
		return -EPROTO;
	if (session->greeted)
		return error_set(error, -EPROTO, "a second HELLO");
	if (control_get_u64(hello, "version", &version, error) < 0 ||
	    control_get_text(hello, "software", software, sizeof(software), error) < 0)
		return -EPROTO;
	if (version != FRAME_VERSION)
		return error_set(error, -EPROTONOSUPPORT,
		    "it speaks version %llu of the wire (%s), this side (blkmove " BLKMOVE_VERSION
		    ") version %u; install the same release on both machines",
		    (unsigned long long)version, software[0] ? software : "unnamed", FRAME_VERSION);
	if (accept_credits(session, hello, error) < 0 || agree_compression(session, hello, error) < 0)
		return error->code;
	session->greeted = true;
	session_set_timer(session);
	return 0;
}

/* Credits */

bool session_credit_take(struct session *session, uint64_t cost)
{
	if (session->used.requests >= session->limit.requests ||
	    cost > session->limit.bytes - session->used.bytes)
		return false;
	session->used.requests++;
	session->used.bytes += cost;
	return true;
}

void session_credit_give(struct session *session, uint64_t cost)
{
	assert(session->used.requests > 0 && session->used.bytes >= cost);
	session->used.requests--;
	session->used.bytes -= cost;
}
