/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See replica_wire.h. */
#include "replica/replica_wire.h"

#include "base/cleanup.h"
#include "replica/replica_note.h"
#include "wire/control.h"

#include <errno.h>
#include <string.h>

#define SAY_MAX 16u

static json_t *names_json(const uint64_t *names, unsigned count)
{
	json_t *array = json_array();

	for (unsigned i = 0; array && i < count && names[i]; i++)
		json_array_append_new(array, json_integer((json_int_t)names[i]));
	return array;
}

static json_t *ids_json(const struct replica_ids *ids)
{
	return json_pack("{s:I, s:o, s:o, s:b, s:b, s:b, s:b, s:b, s:b, s:b}", "current",
	    (json_int_t)ids->current, "base", names_json(ids->base, REPLICA_BASES), "history",
	    names_json(ids->history, REPLICA_HISTORY), "sender", ids->sender, "inconsistent",
	    ids->inconsistent, "outdated", ids->outdated, "follows", ids->follows, "full", ids->full, "grown",
	    ids->grown, "foreign", ids->foreign);
}

static bool has_ids(enum replica_say say)
{
	return say == REPLICA_HELLO || say == REPLICA_FOLLOW;
}

static bool is_of_size(enum replica_say say)
{
	return say == REPLICA_ENLARGE || say == REPLICA_ENLARGED || say == REPLICA_DIFFERS;
}

json_t *replica_message_json(const struct replica_message *message)
{
	json_t *json = json_pack("{s:s}", "say", replica_say_name(message->say));
	int res = json ? 0 : -1;

	if (res == 0 && has_ids(message->say))
		res = json_object_set_new(json, "ids", ids_json(&message->ids));
	if (res == 0 && is_of_size(message->say))
		res = json_object_set_new(json, "size", json_integer((json_int_t)message->size));
	if (res == 0 && message->say == REPLICA_LEASE)
		res = json_object_set_new(json, "lease_ms", json_integer(message->lease_ms));
	if (res == 0 && message->say == REPLICA_DETACH)
		res = json_object_set_new(json, "generation", json_integer((json_int_t)message->name));
	if (res == 0 && message->say == REPLICA_HELLO)
		res = json_object_update_new(
		    json, json_pack("{s:b, s:I, s:I, s:I, s:b}", "primary", message->role == REPLICA_PRIMARY,
		              "size", (json_int_t)message->size, "region", (json_int_t)message->region_size,
		              "node", (json_int_t)message->name, "discards", message->discards));
	if (res == 0)
		return json;
	json_decref(json);
	return NULL;
}

static int get_name(const json_t *json, const char *member, uint64_t *ret, struct error *error)
{
	int res = control_get_u64(json, member, ret, error);

	if (res == 0 && *ret > REPLICA_NAME_MAX)
		return error_set(error, -EPROTO, "`%s` is too large", member);
	return res;
}

static int get_generation(const json_t *json, uint64_t *ret, struct error *error)
{
	int res = get_name(json, "generation", ret, error);

	return res == 0 && *ret == 0 ? error_set(error, -EPROTO, "`generation` is none") : res;
}

static int get_u32(const json_t *json, const char *member, uint32_t *ret, struct error *error)
{
	uint64_t value = 0;
	int res = control_get_u64(json, member, &value, error);

	if (res == 0 && value > UINT32_MAX)
		return error_set(error, -EPROTO, "`%s` is too large", member);
	*ret = (uint32_t)value;
	return res;
}

static int get_names(
    const json_t *json, const char *member, uint64_t *ret, unsigned count, struct error *error)
{
	const json_t *array = json_object_get(json, member);

	if (!json_is_array(array) || json_array_size(array) > count)
		return error_set(error, -EPROTO, "`%s` is no list of at most %u names", member, count);
	for (size_t i = 0; i < json_array_size(array); i++) {
		const json_t *name = json_array_get(array, i);
		json_int_t value = json_integer_value(name);

		if (value <= 0 || (uint64_t)value > REPLICA_NAME_MAX)
			return error_set(error, -EPROTO, "`%s` has what is no name", member);
		ret[i] = (uint64_t)value;
	}
	return 0;
}

static int get_ids(const json_t *json, struct replica_ids *ret, struct error *error)
{
	uint8_t note[REPLICA_NOTE_BYTES];
	struct replica_ids ids = {0};
	int res;

	if (!json_is_object(json))
		return error_set(error, -EPROTO, "`ids` is missing");
	res = get_name(json, "current", &ids.current, error);
	res = res ? res : get_names(json, "base", ids.base, REPLICA_BASES, error);
	res = res ? res : get_names(json, "history", ids.history, REPLICA_HISTORY, error);
	res = res ? res : control_get_bool(json, "sender", &ids.sender, error);
	res = res ? res : control_get_bool(json, "inconsistent", &ids.inconsistent, error);
	res = res ? res : control_get_bool(json, "outdated", &ids.outdated, error);
	res = res ? res : control_get_bool(json, "follows", &ids.follows, error);
	res = res ? res : control_get_bool(json, "full", &ids.full, error);
	res = res ? res : control_get_bool(json, "grown", &ids.grown, error);
	res = res ? res : control_get_bool(json, "foreign", &ids.foreign, error);
	if (res < 0)
		return res;
	/* What could not be in a map cannot be here. */
	replica_note_encode(&ids, note);
	if (replica_note_decode(note, sizeof(note), ret, error) < 0)
		return error_set(error, -EPROTO, "`ids` make no sense");
	return 0;
}

static int get_say(const json_t *json, enum replica_say *ret, struct error *error)
{
	char name[SAY_MAX];
	int res = control_get_text(json, "say", name, sizeof(name), error);

	for (int i = 0; res == 0 && i < REPLICA_SAYS; i++)
		if (strcmp(name, replica_say_name((enum replica_say)i)) == 0) {
			*ret = (enum replica_say)i;
			return 0;
		}
	return res < 0 ? res : error_set(error, -EPROTO, "\"%s\" is nothing that a node says", name);
}

int replica_message_parse(const json_t *json, struct replica_message *ret, struct error *error)
{
	struct replica_message message = {0};
	bool primary = false;
	int res = get_say(json, &message.say, error);

	if (res == 0 && has_ids(message.say))
		res = get_ids(json_object_get(json, "ids"), &message.ids, error);
	if (res == 0 && message.say == REPLICA_HELLO) {
		res = control_get_bool(json, "primary", &primary, error);
		res = res ? res : control_get_u64(json, "size", &message.size, error);
		res = res ? res : get_u32(json, "region", &message.region_size, error);
		res = res ? res : get_name(json, "node", &message.name, error);
		res = res ? res : control_get_bool(json, "discards", &message.discards, error);
	}
	if (res == 0 && is_of_size(message.say))
		res = control_get_u64(json, "size", &message.size, error);
	if (res == 0 && message.say == REPLICA_LEASE)
		res = get_u32(json, "lease_ms", &message.lease_ms, error);
	if (res == 0 && message.say == REPLICA_DETACH)
		res = get_generation(json, &message.name, error);
	if (res == 0 && message.say == REPLICA_FOLLOW && (!message.ids.current || message.ids.inconsistent))
		res = error_set(error, -EPROTO, "nobody can follow what is not good");
	if (res < 0)
		return error_prefix(error, "the other node's message");
	message.role = primary ? REPLICA_PRIMARY : REPLICA_SECONDARY;
	*ret = message;
	return 0;
}
