/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * libFuzzer target: what one replica says to the other, from whoever is at the other end of a link, and the note in a map that somebody has
 * damaged. The first byte says which. What is accepted can be said again, and is the same then.
 */
#include "base/bytes.h"
#include "replica/replica_note.h"
#include "replica/replica_wire.h"

#include <assert.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_ids(const struct replica_ids *ids)
{
	uint8_t note[REPLICA_NOTE_BYTES], twice[REPLICA_NOTE_BYTES];
	struct replica_ids again;

	replica_note_encode(ids, note);
	assert(replica_note_decode(note, sizeof(note), &again, NULL) == 0);
	replica_note_encode(&again, twice);
	assert(memcmp(note, twice, sizeof(note)) == 0);
}

static void check_message(const struct replica_message *message)
{
	json_t *json = replica_message_json(message);
	struct replica_message again;

	assert(json && replica_message_parse(json, &again, NULL) == 0);
	json_decref(json);
	assert(again.say == message->say && again.role == message->role && again.size == message->size);
	assert(again.region_size == message->region_size && again.name == message->name);
	assert(again.discards == message->discards && again.lease_ms == message->lease_ms);
	check_ids(&again.ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct replica_message message;
	struct replica_ids ids;
	struct error error = {0};
	json_t *json;

	if (size < 1)
		return 0;
	if (data[0] % 2) {
		if (replica_note_decode(data + 1, (uint32_t)(size - 1), &ids, &error) == 0)
			check_ids(&ids);
		else
			assert(error.code < 0 && error.text[0]);
		return 0;
	}
	json = json_loadb((const char *)data + 1, size - 1, 0, NULL);
	if (json && replica_message_parse(json, &message, &error) == 0)
		check_message(&message);
	else if (json)
		assert(error.code < 0 && error.text[0]);
	json_decref(json);
	return 0;
}
