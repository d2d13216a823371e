/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The independent look: bytes against bytes, with a reader of the journal of its own
 * (docs/formats/journal.md). Nothing here goes through the code under test.
 */
#include "world.h"

#include "base/bytes.h"
#include "base/crc32c.h"

#include <errno.h>
#include <string.h>

#define JOURNAL_HEADER 4096u
#define JOURNAL_RECORD 32u

static uint64_t first_difference(const uint8_t *a, const uint8_t *b, uint64_t length)
{
	uint64_t at = 0;

	while (at < length && a[at] == b[at])
		at++;
	return at;
}

/* The range is on the target's stable storage, as the source has it. */
static void check_durable(struct world *world, uint64_t offset, uint64_t length, const char *who)
{
	uint64_t size, at;
	const uint8_t *stable = ring_sim_disk_stable(world->sim, world->target_fd, &size);
	uint64_t end = min_u64(offset + length, world->scenario.source_size);

	if (offset >= end || !memcmp(stable + offset, world->source_data + offset, end - offset))
		return;
	at = offset + first_difference(stable + offset, world->source_data + offset, end - offset);
	world_fail(world, "%s calls [%llu, %llu) done, but byte %llu is not on stable storage", who,
	    (unsigned long long)offset, (unsigned long long)(offset + length), (unsigned long long)at);
}

static bool record_is_good(const uint8_t *record, const uint8_t *nonce, uint64_t number)
{
	return get_le32(record + 28) == crc32c(crc32c(0, nonce, 8), record, 28) &&
	       get_le64(record) == number && get_le64(record + 16) > 0;
}

/* Every record that a later run would believe, from number `from` (0: all) on. */
static void check_journal(struct world *world, uint64_t from)
{
	uint64_t size, number = 1;
	const uint8_t *data = ring_sim_disk_data(world->sim, world->journal_fd, &size);

	if (!world->journal_exists || world->journal_generation != world->generation || size < JOURNAL_HEADER)
		return;
	if (get_le32(data + JOURNAL_HEADER - 4) != crc32c(0, data, JOURNAL_HEADER - 4))
		return;
	for (uint64_t at = JOURNAL_HEADER; at + JOURNAL_RECORD <= size; at += JOURNAL_RECORD, number++) {
		if (!record_is_good(data + at, data + 16, number))
			break;
		if (number > from)
			check_durable(
			    world, get_le64(data + at + 8), get_le64(data + at + 16), "the journal");
	}
	world->journal_nonce_seen = get_le64(data + 16);
	world->journal_records_seen = number - 1;
}

static void check_journal_news(struct world *world)
{
	uint64_t writes = ring_sim_disk_counts(world->sim, world->journal_fd)->writes, size;
	const uint8_t *data = ring_sim_disk_data(world->sim, world->journal_fd, &size);
	bool same;

	if (writes == world->journal_writes_seen)
		return;
	world->journal_writes_seen = writes;
	same = size >= JOURNAL_HEADER && get_le64(data + 16) == world->journal_nonce_seen;
	check_journal(world, same ? world->journal_records_seen : 0);
}

static void check_progress(struct world *world)
{
	struct job_progress progress;

	job_progress(world->job, &progress);
	if (progress.position < world->position)
		world_fail(world, "the progress went back from %llu to %llu",
		    (unsigned long long)world->position, (unsigned long long)progress.position);
	if (progress.position > progress.total && progress.total)
		world_fail(world, "the progress is at %llu of %llu", (unsigned long long)progress.position,
		    (unsigned long long)progress.total);
	world->position = progress.position;
}

void check_step(struct world *world)
{
	if (!world->job || world->crashed)
		return;
	check_journal_news(world);
	check_progress(world);
	if (ring_sim_disk_counts(world->sim, world->source_fd)->writes)
		world_fail(world, "the source was written (H01)");
}

/* Equal and on stable storage; what is bad is listed and zero (H30). */
void check_content(struct world *world)
{
	const struct range_set *bad = job_bad_ranges(world->job);
	uint64_t size, at = 0, source_size = world->scenario.source_size;
	const uint8_t *stable = ring_sim_disk_stable(world->sim, world->target_fd, &size);

	for (size_t i = 0; i < bad->count; i++) {
		check_durable(world, at, bad->ranges[i].offset - at, "the end state");
		at = bad->ranges[i].offset + bad->ranges[i].length;
		if (!bytes_are_zero(stable + bad->ranges[i].offset, bad->ranges[i].length))
			world_fail(world, "an unreadable range is not zero on the target");
	}
	check_durable(world, at, source_size - at, "the end state");
	if (!bytes_are_zero(stable + source_size, size - source_size))
		world_fail(world, "the tail behind the source's end is not zero");
}

/* Completed means equal (H02, H07). */
void check_completed(struct world *world)
{
	world->completed = true;
	if (job_bad_ranges(world->job)->count)
		world_fail(world, "completed, although ranges could not be read");
	check_content(world);
}

static void check_counts(struct world *world, int fd, const char *name)
{
	const struct ring_sim_disk_counts *counts = ring_sim_disk_counts(world->sim, fd);

	if (counts->write_outside || counts->read_outside)
		world_fail(world, "%s: %llu writes and %llu reads outside of the volume", name,
		    (unsigned long long)counts->write_outside, (unsigned long long)counts->read_outside);
	if (counts->misaligned)
		world_fail(world, "%s: %llu requests not aligned for direct I/O", name,
		    (unsigned long long)counts->misaligned);
	if (counts->buffer_changed)
		world_fail(world, "%s: a buffer changed while it was being written (H19)", name);
}

static void check_source(struct world *world)
{
	uint64_t size;
	const uint8_t *data = ring_sim_disk_data(world->sim, world->source_fd, &size);

	if (size != world->scenario.source_size || memcmp(data, world->source_data, size) ||
	    ring_sim_disk_counts(world->sim, world->source_fd)->writes)
		world_fail(world, "the source was written (H01)");
}

static bool may_happen(const struct world *world, enum job_result result)
{
	bool remote = world->scenario.source == PLACE_REMOTE || world->scenario.target == PLACE_REMOTE;

	if (result == JOB_OK)
		return world->completed;
	if (world->last_attempt || world->faults_count == 0)
		return false;
	switch (result) {
	case JOB_TROUBLE:
		return true;
	case JOB_BAD_RANGES:
		return world->scenario.list_read_errors && !world->completed;
	case JOB_INTERRUPTED:
		return world->cancelled;
	case JOB_LINK_LOST:
	case JOB_LOCKED:
		return remote;
	default:
		return false;
	}
}

void check_attempt(struct world *world, enum job_result result, const struct error *error)
{
	check_counts(world, world->source_fd, "source");
	check_counts(world, world->target_fd, "target");
	check_counts(world, world->journal_fd, "journal");
	check_source(world);
	check_journal(world, 0);
	if (!world->crashed && !may_happen(world, result))
		world_fail(world, "the attempt with %u faults ended with result %d: %s", world->faults_count,
		    (int)result, error->text);
	if (!world->crashed && world->completed && result != JOB_OK)
		world_fail(world, "completed, but the result is %d", (int)result);
}
