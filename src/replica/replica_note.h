/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The generations as bytes: the note in the superblock of a replica's map (range/bitmap_format.h). docs/replication.md. A pure codec. */
#pragma once

#include "base/error.h"
#include "replica/replica_ids.h"

#define REPLICA_NOTE_BYTES 104u

void replica_note_encode(const struct replica_ids *ids, uint8_t ret[REPLICA_NOTE_BYTES]);
/* -EBADMSG with words: it is none, of another release, or cannot be. */
int replica_note_decode(const uint8_t *note, uint32_t length, struct replica_ids *ret, struct error *error);
