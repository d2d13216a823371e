/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a job has done for good, so that a later run can go on: a file with a header that says which job it is
 * and a record for each range whose data the target has flushed. docs/formats/journal.md shows it byte by
 * byte. All I/O runs on the ring, so that simulations can cut the power under it.
 */
#pragma once

#include "base/error.h"
#include "range/range_set.h"
#include "ring/ring.h"

#include <stdbool.h>

#define JOURNAL_DESCRIPTION_MAX 4000u

struct journal;

/*
 * Begins a journal in an empty file and makes its header durable. `description` is the job's, below
 * JOURNAL_DESCRIPTION_MAX bytes. The descriptor is borrowed. Control path: runs the ring.
 */
int journal_new(
    struct journal **ret, struct ring *ring, int fd, const char *description, struct error *error);
/*
 * Opens an earlier journal: *ret_description (JOURNAL_DESCRIPTION_MAX bytes) and the ranges that were done. A
 * torn end is passed over; what was lost there will be done again. -EBADMSG with words if it is no journal or
 * its header is damaged.
 */
int journal_load(struct journal **ret, struct ring *ring, int fd, char *ret_description,
    struct range_set *ret_done, struct error *error);
/*
 * At an orderly end: notes the target's change mark, so that a later run sees whether somebody wrote to it since. Control path,
 * no append under way. Returns 0 or -errno.
 */
int journal_note_mark(struct journal *journal, const char *mark);
/* Before the first write of a run: whose writes to the target follow. Control path. Returns 0 or -errno. */
int journal_note_session(struct journal *journal, uint64_t session);
/* Of the last run, after journal_load(); 0: not noted. */
uint64_t journal_session(const struct journal *journal);
/* Whether the journal ends with a mark: its last run ended in order. */
bool journal_has_mark(const struct journal *journal);
/* False when the journal ends with another mark than this one; true when it ends with none. After journal_load(). */
bool journal_mark_fits(const struct journal *journal, const char *mark);
/* No append may be under way. Takes NULL; returns NULL. */
struct journal *journal_free(struct journal *journal);
/* Adds ranges and makes them durable: done(data, 0 or -errno). One at a time. `ranges` is copied. */
void journal_append(
    struct journal *journal, const struct range_set *ranges, void (*done)(void *data, int res), void *data);
