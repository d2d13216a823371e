/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Reads a persistent exception store from a volume: which chunks of the origin were written since the snapshot was taken. */
#pragma once

#include "block/block.h"
#include "track/changes.h"

/*
 * Reads all exceptions of the store on `cow` into `changes`, whose end is the origin's size. The kernel may go on adding to the store
 * meanwhile: what it had added before the call is found. Control path: runs the ring. Errors are those of dm_snapshot_header() and
 * dm_snapshot_area(), or of reading; with words that go on after the snapshot's name and a colon.
 */
int dm_snapshot_store_read(struct block *cow, struct changes *changes, struct error *error);
