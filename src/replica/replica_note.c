/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See replica_note.h. */
#include "replica/replica_note.h"

#include "base/bytes.h"

#include <errno.h>
#include <string.h>

#define BASE_AT    16u
#define HISTORY_AT 32u
#define FLAGS_AT   96u

enum {
	SENDER = 1,
	INCONSISTENT = 2,
	OUTDATED = 4,
	FOLLOWS = 8,
	FULL = 16,
	GROWN = 32,
	FOREIGN = 64,
	KNOWN = 127
};

static const char magic[8] = "BLKREPL1";

void replica_note_encode(const struct replica_ids *ids, uint8_t note[REPLICA_NOTE_BYTES])
{
	memset(note, 0, REPLICA_NOTE_BYTES);
	memcpy(note, magic, sizeof(magic));
	put_le64(note + 8, ids->current);
	for (unsigned i = 0; i < REPLICA_BASES; i++)
		put_le64(note + BASE_AT + i * 8, ids->base[i]);
	for (unsigned i = 0; i < REPLICA_HISTORY; i++)
		put_le64(note + HISTORY_AT + i * 8, ids->history[i]);
	put_le32(note + FLAGS_AT, (ids->sender ? SENDER : 0u) | (ids->inconsistent ? INCONSISTENT : 0u) |
	                              (ids->outdated ? OUTDATED : 0u) | (ids->follows ? FOLLOWS : 0u) |
	                              (ids->full ? FULL : 0u) | (ids->grown ? GROWN : 0u) |
	                              (ids->foreign ? FOREIGN : 0u));
}

/* What no step of replica_ids.c leaves behind. */
static bool can_be(const struct replica_ids *ids)
{
	if (ids->sender && (ids->inconsistent || !ids->current))
		return false;
	if (ids->foreign && (ids->current || ids->inconsistent))
		return false;
	return ids->base[0] || !ids->base[1];
}

int replica_note_decode(const uint8_t *note, uint32_t length, struct replica_ids *ret, struct error *error)
{
	struct replica_ids ids = {0};
	uint32_t flags;

	if (length != REPLICA_NOTE_BYTES || memcmp(note, magic, sizeof(magic)) != 0)
		return error_set(error, -EBADMSG, "the map is not a replica's, or of another release");
	flags = get_le32(note + FLAGS_AT);
	ids.current = get_le64(note + 8);
	for (unsigned i = 0; i < REPLICA_BASES; i++)
		ids.base[i] = get_le64(note + BASE_AT + i * 8);
	for (unsigned i = 0; i < REPLICA_HISTORY; i++)
		ids.history[i] = get_le64(note + HISTORY_AT + i * 8);
	ids.sender = flags & SENDER;
	ids.inconsistent = flags & INCONSISTENT;
	ids.outdated = flags & OUTDATED;
	ids.follows = flags & FOLLOWS;
	ids.full = flags & FULL;
	ids.grown = flags & GROWN;
	ids.foreign = flags & FOREIGN;
	if (flags & ~(uint32_t)KNOWN || get_le32(note + FLAGS_AT + 4) || !can_be(&ids))
		return error_set(
		    error, -EBADMSG, "what the map says of the replica's generations makes no sense");
	*ret = ids;
	return 0;
}
