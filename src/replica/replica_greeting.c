/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See replica_greeting.h. */
#include "replica/replica_greeting.h"

#include "base/cleanup.h"
#include "replica/replica_wire.h"
#include "wire/control.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define RELEASE_KEY "blkmove-replica"

static const char *const stream_names[] = {"link", "data"};

/* -E2BIG: it is longer than a line may be. */
static int put_line(json_t *take_json, char ret[REPLICA_GREETING_MAX])
{
	_cleanup_(cleanup_free) char *text = take_json ? json_dumps(take_json, JSON_COMPACT) : NULL;
	size_t length = text ? strlen(text) : 0;

	json_decref(take_json);
	if (!text)
		return -ENOMEM;
	if (length + 1 > REPLICA_GREETING_MAX)
		return -E2BIG;
	memcpy(ret, text, length);
	ret[length] = '\n';
	return (int)length + 1;
}

int replica_greeting_format(const struct replica_greeting *greeting, char ret[REPLICA_GREETING_MAX])
{
	return put_line(json_pack("{s:i, s:s, s:s, s:I, s:s}", RELEASE_KEY, (int)REPLICA_GREETING_RELEASE,
	                    "resource", greeting->resource, "stream", stream_names[greeting->stream], "link",
	                    (json_int_t)greeting->link, "ack", replicate_ack_name(greeting->ack)),
	    ret);
}

static int get_stream(const json_t *json, enum replica_stream *ret, struct error *error)
{
	char name[16];
	int res = control_get_text(json, "stream", name, sizeof(name), error);

	for (unsigned i = 0; res == 0 && i < sizeof(stream_names) / sizeof(stream_names[0]); i++)
		if (!strcmp(name, stream_names[i])) {
			*ret = (enum replica_stream)i;
			return 0;
		}
	return res < 0 ? res : error_set(error, -EPROTO, "\"%s\" is no stream", name);
}

static int get_ack(const json_t *json, enum replicate_ack *ret, struct error *error)
{
	char name[16];
	int res = control_get_text(json, "ack", name, sizeof(name), error);

	for (enum replicate_ack ack = 0; res == 0 && ack < REPLICATE_ACKS; ack++)
		if (!strcmp(name, replicate_ack_name(ack))) {
			*ret = ack;
			return 0;
		}
	return res < 0 ? res : error_set(error, -EPROTO, "'ack' is missing, or none that this host knows");
}

static int check_release(const json_t *json, struct error *error)
{
	uint64_t release = 0;
	struct error ignored;

	if (control_get_u64(json, RELEASE_KEY, &release, &ignored) < 0)
		return error_set(error, -EPROTO, "that is no greeting of a blkmove replica");
	if (release != REPLICA_GREETING_RELEASE)
		return error_set(error, -EPROTONOSUPPORT,
		    "this host speaks release %u of the replicas' greeting, the other one %llu; install the "
		    "same blkmove on both",
		    REPLICA_GREETING_RELEASE, (unsigned long long)release);
	return 0;
}

static int get_resource(const json_t *json, char ret[REPLICA_RESOURCE_MAX + 1], struct error *error)
{
	char name[REPLICA_RESOURCE_MAX + 2];
	int res = control_get_text(json, "resource", name, sizeof(name), error);

	if (res == 0 && (!name[0] || strlen(name) > REPLICA_RESOURCE_MAX))
		return error_set(error, -EPROTO, "'resource' is missing or too long");
	if (res == 0)
		memcpy(ret, name, strlen(name) + 1);
	return res;
}

int replica_greeting_parse(const char *line, size_t length, struct replica_greeting *ret, struct error *error)
{
	struct replica_greeting greeting = {0};
	_cleanup_(control_cleanup) json_t *json = control_parse(line, length, error);
	int res;

	if (!json)
		return error_set(error, -EPROTO, "that is no greeting of a blkmove replica");
	/* First: another release may have other members. */
	res = check_release(json, error);
	res = res ? res : get_resource(json, greeting.resource, error);
	res = res ? res : get_stream(json, &greeting.stream, error);
	res = res ? res : control_get_u64(json, "link", &greeting.link, error);
	if (res == 0 && (greeting.link == 0 || greeting.link > REPLICA_NAME_MAX))
		res = error_set(error, -EPROTO, "'link' is no link's number");
	res = res ? res : get_ack(json, &greeting.ack, error);
	if (res == 0)
		*ret = greeting;
	return res;
}

int replica_greeting_answer_format(const char *refusal, char ret[REPLICA_GREETING_MAX])
{
	char words[256];
	int res;

	if (!refusal)
		return put_line(json_pack("{s:b}", "ok", 1), ret);
	/* Text may take several times its length as JSON. */
	for (size_t most = sizeof(words); most > 16; most /= 2) {
		snprintf(words, most, "%s", refusal);
		res = put_line(json_pack("{s:b, s:o}", "ok", 0, "error", control_text(words)), ret);
		if (res != -E2BIG)
			return res;
	}
	return -E2BIG;
}

int replica_greeting_answer_parse(const char *line, size_t length, struct error *error)
{
	_cleanup_(control_cleanup) json_t *json = control_parse(line, length, error);
	char words[256] = "";
	bool ok = false;

	if (!json || control_get_bool(json, "ok", &ok, error) < 0 ||
	    (!ok && control_get_text(json, "error", words, sizeof(words), error) < 0))
		return error_set(error, -EPROTO,
		    "what answers there is no blkmove replica, or one with TLS; is the file the same on both "
		    "hosts?");
	if (!ok)
		return error_set(error, -ECONNREFUSED, "the other host says: %s", words[0] ? words : "no");
	return 0;
}
