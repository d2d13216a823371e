/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Snapshots of LVM's volumes by lvcreate(8) and lvremove(8). A tag of the series' id is on each: what has it is ours to remove, and nothing else. LVM
 * suspends the volume for the moment, which freezes the file system that lies directly on it.
 */
#include "base/cleanup.h"
#include "block/dm.h"
#include "snapshot/snapshot_fill.h"
#include "snapshot/snapshot_private.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define TAG "blkmove_"

static void name_next(struct snapshot *snapshot)
{
	char digits[SNAPSHOT_ID_LENGTH + 1];

	snapshot_draw(digits);
	snprintf(snapshot->record.fresh, sizeof(snapshot->record.fresh), "blkmove-%s", digits);
	snprintf(
	    snapshot->path, sizeof(snapshot->path), "/dev/%s/%s", snapshot->group, snapshot->record.fresh);
}

static int choose_size(struct snapshot *snapshot, const struct lvm_space *space, struct error *error)
{
	uint64_t size = snapshot->options.size;
	uint64_t extents = size / space->extent_bytes + (size % space->extent_bytes != 0);
	uint64_t all = space->extents * space->extent_bytes >> 20,
	         left = space->free * space->extent_bytes >> 20;

	if (size == 0)
		extents = snapshot_store_extents(
		    space->extents, space->free, space->extent_bytes, snapshot->record.base[0]);
	if (size != 0 && extents > space->free)
		return error_set(error, -EPERM,
		    "--snapshot-size asks for %" PRIu64 " MiB, and the group %s has %" PRIu64
		    " MiB free; ask for less, or give it another disk (vgextend)",
		    size >> 20, snapshot->group, left);
	if (extents == 0)
		return error_set(error, -EPERM,
		    "the group %s has %" PRIu64 " MiB free, which is too little for snapshots of %s (%" PRIu64
		    " MiB), of which there are two for a while; give it another disk (vgextend), or say with "
		    "--snapshot-size= how little will do",
		    snapshot->group, left, snapshot->volume, all);
	snapshot->extents = extents;
	return 0;
}

static int prepare_thick(struct snapshot *snapshot, struct error *error)
{
	_cleanup_(cleanup_free) char *text = NULL;
	struct lvm_space space;
	int res = lvm_read(snapshot->group, &text, error);

	if (res == 0)
		res = lvm_space_of(text, snapshot->group, snapshot->volume, &space, error);
	if (res == 0)
		res = choose_size(snapshot, &space, error);
	if (res == 0)
		name_next(snapshot);
	return res;
}

static int make(struct snapshot *snapshot, struct error *error)
{
	char origin[2 * LVM_NAME_MAX + 2], tag[40], extents[24];
	char *words[] = {"lvcreate", "-y", "-q", "-s", "-pr", "-kn", "-n", snapshot->record.fresh, "--addtag",
	    tag, origin, snapshot->extents ? "-l" : NULL, extents, NULL};

	snprintf(origin, sizeof(origin), "%s/%s", snapshot->group, snapshot->volume);
	snprintf(tag, sizeof(tag), TAG "%s", snapshot->record.id);
	snprintf(extents, sizeof(extents), "%" PRIu64, snapshot->extents);
	return lvm_run(snapshot->group, words, error);
}

/* One command, under LVM's lock: an lvcreate of a killed run that was still at work has ended then, or begins after its group's change. */
static int clear(struct snapshot *snapshot, struct error *error)
{
	const struct snapshot_record *record = &snapshot->record;
	char which[400];
	char *words[] = {"lvremove", "-y", "-q", "-S", which, snapshot->group, NULL};
	int res;

	snprintf(which, sizeof(which), "lv_tags={" TAG "%s} && lv_name!=\"%s\" && lv_name!=\"%s\"",
	    record->id, record->base, record->fresh);
	res = lvm_run(snapshot->group, words, error);
	/* Somebody may look at it for a moment, as udev does. */
	if (res < 0) {
		sleep(1);
		res = lvm_run(snapshot->group, words, error);
	}
	return res < 0 ? error_prefix(
	                     error, "cannot remove snapshots of %s/%s", snapshot->group, snapshot->volume)
	               : 0;
}

int snapshot_fill_own(struct snapshot *snapshot, char *what, size_t length, struct error *error)
{
	struct dm_volume status;
	dev_t dev;
	int res = dm_find(snapshot->path, &dev, error);

	if (res == 0)
		res = dm_status(dev, &status, error);
	if (res < 0)
		return res;
	snprintf(what, length, "the store of the snapshot %s", status.name);
	res = snapshot_fill_store(status.params);
	if (res < 0)
		error_set(error, res, "the kernel calls it '%.60s'", status.params);
	return res;
}

static int fill_pool(struct snapshot *snapshot, char *what, size_t length, struct error *error)
{
	const char *which = "";
	struct dm_volume status;
	int res = dm_status(snapshot->pool, &status, error);

	if (res < 0)
		return res;
	res = snapshot_fill_pool(status.params, &which);
	snprintf(what, length, "the thin pool %s (its %s)", status.name, which);
	if (res < 0)
		error_set(error, res, "the kernel calls it '%.60s'", status.params);
	return res;
}

static int prepare_thin(struct snapshot *snapshot, struct error *error)
{
	unsigned max = snapshot->options.fill_max;
	struct dm_volume table;
	char what[200];
	int res = dm_table(snapshot->source.device, &table, error);

	if (res < 0)
		return res;
	if (!dm_word_device(&table, 0, &snapshot->pool))
		return error_set(
		    error, -EPROTO, "the table of %s is not understood", snapshot->options.source);
	res = fill_pool(snapshot, what, sizeof(what), error);
	if (res < 0)
		return error_prefix(error, "no snapshot: %s", what);
	if ((unsigned)res >= max)
		return error_set(error, -EPERM,
		    "%s is %d %% full, and at %u %% no snapshot is made, as all volumes of a full pool stop; "
		    "extend it (lvextend), %sor say with --snapshot-fill= how full it may get",
		    what, res, max,
		    snapshot->record.base[0] ? "remove what earlier runs kept in it with --snapshot=drop, "
		                             : "");
	name_next(snapshot);
	return 0;
}

const struct snapshot_kind snapshot_lvm = {.name = "lvm",
    .prepare = prepare_thick,
    .make = make,
    .clear = clear,
    .fill = snapshot_fill_own,
    .advice = "give the next one more room with --snapshot-size=, or run it when less is written"};
const struct snapshot_kind snapshot_thin = {.name = "thin",
    .prepare = prepare_thin,
    .make = make,
    .clear = clear,
    .fill = fill_pool,
    .shared = true,
    .advice = "extend the pool (lvextend) before all its volumes stop"};
