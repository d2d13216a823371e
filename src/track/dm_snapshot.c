/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What changed on the origin of a device-mapper snapshot since that was taken: the base is the snapshot, the source its origin
 * at rest or another snapshot of the same origin. The kernel makes an exception durable before the write to the origin that
 * needs it, so that what is on the COW device is never behind the origin.
 *
 * A chunk that has an exception neither in the base nor in the source is in both what the origin has now, and therefore the same:
 * so the lists of both are taken, and nothing depends on which of the two is older. That of a younger source is part of the base's.
 */
#include "block/open.h"
#include "track/dm_snapshot_store.h"
#include "track/track_private.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

struct snapshot {
	struct dm_volume volume; /* its table */
	dev_t origin, cow;
	uint64_t used; /* sectors of the COW device in use */
};

static bool is_snapshot(const struct dm_volume *volume)
{
	return volume->targets == 1 && !strcmp(volume->type, "snapshot");
}

static int read_table(struct snapshot *snapshot, struct error *error)
{
	struct dm_volume *volume = &snapshot->volume;
	char store[8];

	if (!strcmp(volume->type, "snapshot-merge"))
		return error_set(error, -ESTALE, "%s is being merged into its origin", volume->name);
	if (!is_snapshot(volume))
		return error_set(error, -ENODEV, "%s is no snapshot, but %s", volume->name, volume->type);
	if (!dm_word_device(volume, 0, &snapshot->origin) || !dm_word_device(volume, 1, &snapshot->cow) ||
	    !dm_word(volume, 2, store, sizeof(store)))
		return error_set(
		    error, -EPROTO, "the table of %s is not understood: %s", volume->name, volume->params);
	if (store[0] != 'P' && store[0] != 'p')
		return error_set(error, -EOPNOTSUPP,
		    "%s is not persistent: what changed is known to the kernel alone", volume->name);
	return 0;
}

/* The kernel's own word: "Invalid", "Overflow", "Merge failed", or "used/all metadata" in sectors. */
static int check_status(struct snapshot *snapshot, struct error *error)
{
	struct dm_volume status;
	int res = dm_status(snapshot->volume.dev, &status, error);

	if (res < 0)
		return res;
	if (sscanf(status.params, "%" SCNu64 "/%*u", &snapshot->used) != 1)
		return error_set(error, -ESTALE,
		    "%s is of no use any more: the kernel calls it '%.60s'; remove it, and give the next one "
		    "more "
		    "room",
		    snapshot->volume.name, status.params);
	return 0;
}

static int look(dev_t dev, struct snapshot *ret, struct error *error)
{
	int res;

	*ret = (struct snapshot){0};
	res = dm_table(dev, &ret->volume, error);
	if (res == 0)
		res = read_table(ret, error);
	if (res == 0)
		res = check_status(ret, error);
	return res;
}

/* Whether the device of that name is still the snapshot that the point means, with all that it had. */
static int check_point(const json_t *point, const struct snapshot *base, struct error *error)
{
	char identity[320];

	if (!dm_identity(&base->volume, identity, sizeof(identity)) ||
	    strcmp(track_point_text(point, "identity"), identity) != 0)
		return error_set(error, -ESTALE,
		    "%s is another snapshot now than the one that the target holds", base->volume.name);
	if ((uint64_t)json_integer_value(json_object_get(point, "size")) != base->volume.size)
		return error_set(error, -ESTALE, "%s was resized", base->volume.name);
	if ((uint64_t)json_integer_value(json_object_get(point, "used")) > base->used)
		return error_set(error, -ESTALE, "the store of %s was begun anew", base->volume.name);
	return 0;
}

/* The first point whose snapshot is still there, and the words of the last one that is not. */
static int find_point(const struct track_request *request, struct snapshot *ret, struct error *error)
{
	int res = error_set(
	    error, -ENODEV, "no earlier run noted which snapshot the target holds; name it with --base=");

	for (size_t i = 0; i < json_array_size(request->points); i++) {
		const json_t *point = json_array_get(request->points, i);
		dev_t dev;

		if (strcmp(track_point_text(point, "tracker"), track_dm_snapshot.name) != 0)
			continue;
		res = dm_find(track_point_text(point, "base"), &dev, error);
		if (res == 0)
			res = look(dev, ret, error);
		if (res == 0)
			res = check_point(point, ret, error);
		if (res == 0)
			return 0;
		/* There was one, and it is gone: that is a doubt. */
		if (res == -ENOENT || res == -ENODEV)
			res = error_set(error, -ESTALE, "the target holds %.100s, and that snapshot is gone",
			    track_point_text(point, "base"));
	}
	return res;
}

static int find_base(const struct track_request *request, struct snapshot *ret, struct error *error)
{
	dev_t dev;
	int res;

	if (!request->base)
		return find_point(request, ret, error);
	res = dm_find(request->base, &dev, error);
	/* It may be another tracker's. */
	if (res == -ENOENT)
		return -ENODEV;
	return res < 0 ? res : look(dev, ret, error);
}

/* What the source is: sets the origin, and *ret_self when the source is a snapshot itself. */
static int look_at_source(const struct track_request *request, dev_t *ret_origin, struct snapshot *self,
    bool *ret_self, struct error *error)
{
	struct dm_volume volume;
	struct stat stat_buf;
	int res;

	*ret_self = false;
	if (!request->path || stat(request->path, &stat_buf) < 0 || !S_ISBLK(stat_buf.st_mode))
		return error_set(error, -ENODEV, "the source is no device of this machine");
	*ret_origin = stat_buf.st_rdev;
	if (!dm_is(stat_buf.st_rdev))
		return 0;
	res = dm_table(stat_buf.st_rdev, &volume, error);
	if (res < 0)
		return res;
	if (volume.targets == 1 && !strcmp(volume.type, "snapshot-origin") &&
	    dm_word_device(&volume, 0, ret_origin))
		return 0;
	if (!is_snapshot(&volume) && strcmp(volume.type, "snapshot-merge") != 0)
		return 0;
	res = look(stat_buf.st_rdev, self, error);
	*ret_origin = self->origin;
	*ret_self = res == 0;
	return res;
}

/* One of the devices below a snapshot. Past the page cache, which knows nothing of what the kernel writes there. */
static int open_below(
    struct block *source, const struct snapshot *snapshot, dev_t dev, struct block **ret, struct error *error)
{
	const struct block_open_options options = {.cache = CACHE_DIRECT};
	struct endpoint endpoint = {.kind = ENDPOINT_PATH};
	char path[320];

	if (!dm_node(dev, path, sizeof(path)))
		return error_set(error, -ENOENT, "the %s of %s has no node in /dev",
		    dev == snapshot->cow ? "store" : "origin", snapshot->volume.name);
	endpoint.name = endpoint.path = path;
	return block_open(ret, block_ring(source), &endpoint, &options, error);
}

static int read_store(
    struct block *source, struct snapshot *snapshot, struct changes *changes, struct error *error)
{
	struct block *cow;
	int res = open_below(source, snapshot, snapshot->cow, &cow, error);

	if (res == 0) {
		res = dm_snapshot_store_read(cow, changes, error);
		block_free(cow);
	}
	changes_tidy(changes);
	if (res == 0 && changes->overlaps)
		res = error_set(error, -EBADMSG, "its exception store is damaged: a chunk is there twice");
	if (res < 0)
		return error_prefix(error, "%s", snapshot->volume.name);
	/* Given up meanwhile: it may lack what came last. */
	return check_status(snapshot, error);
}

/*
 * What the snapshot has in common with its origin may be in the cache of a disk yet. The kernel passes a flush of the snapshot to its
 * store alone (snapshot_map()).
 */
static int flush_origin(struct block *source, const struct snapshot *snapshot, struct error *error)
{
	struct block_io flush = {.op = BLOCK_FLUSH};
	struct block *origin;
	int res = open_below(source, snapshot, snapshot->origin, &origin, error);

	if (res < 0)
		return res;
	res = block_wait(origin, &flush);
	block_free(origin);
	return res;
}

static int check_pair(
    const struct track_request *request, dev_t origin, const struct snapshot *base, struct error *error)
{
	uint64_t size = block_info(request->source)->size;

	if (base->origin != origin)
		return error_set(error, -ESTALE, "%s is no snapshot of what %.200s is of", base->volume.name,
		    block_info(request->source)->name);
	if (base->volume.size != size)
		return error_set(error, -ESTALE,
		    "%s has %" PRIu64 " bytes and the source has %" PRIu64 ": it was resized since",
		    base->volume.name, base->volume.size, size);
	return 0;
}

static json_t *make_point(const struct snapshot *snapshot)
{
	char identity[320];

	if (!dm_identity(&snapshot->volume, identity, sizeof(identity)))
		return NULL;
	return json_pack("{s:s, s:s, s:s, s:I, s:I}", "tracker", track_dm_snapshot.name, "base",
	    snapshot->volume.name, "identity", identity, "size", (json_int_t)snapshot->volume.size, "used",
	    (json_int_t)snapshot->used);
}

/* Each store by itself, so that a chunk that is there twice is seen. */
static int read_both(struct block *source, struct snapshot *base, struct snapshot *self,
    struct track_changes *ret, struct error *error)
{
	struct changes one, all;
	int res;

	changes_init(&all, block_info(source)->size);
	changes_init(&one, block_info(source)->size);
	res = self ? read_store(source, self, &all, error) : 0;
	/* After the source's: what is written meanwhile may be in either. */
	if (res == 0)
		res = read_store(source, base, &one, error);
	if (res == 0 && self)
		res = changes_add_all(&all, &one);
	if (res == 0)
		res = changes_take(self ? &all : &one, &ret->ranges);
	if (res == -ENOMEM)
		error_set(error, res, "out of memory");
	changes_done(&one);
	changes_done(&all);
	return res;
}

static int dm_snapshot_changes(
    const struct track_request *request, struct track_changes *ret, struct error *error)
{
	struct snapshot base, self;
	bool is_self;
	dev_t origin;
	int res = look_at_source(request, &origin, &self, &is_self, error);

	if (res == 0)
		res = find_base(request, &base, error);
	if (res == 0)
		res = check_pair(request, origin, &base, error);
	if (res < 0)
		return res;
	snprintf(ret->base, sizeof(ret->base), "the snapshot %s was taken", base.volume.name);
	res = read_both(
	    request->source, &base, is_self && self.volume.dev != base.volume.dev ? &self : NULL, ret, error);
	/* Of a snapshot the target will hold that one: an older one may differ from the base by what is not in its list. */
	if (res == 0 && !is_self) {
		ret->points = json_array();
		json_array_append_new(ret->points, make_point(&base));
	}
	return res;
}

static json_t *dm_snapshot_point(struct block *source, const char *path, bool live)
{
	const struct track_request request = {.source = source, .path = path};
	struct snapshot self;
	struct error ignored;
	bool is_self;
	dev_t origin;

	if (look_at_source(&request, &origin, &self, &is_self, &ignored) < 0 || !is_self)
		return NULL;
	return flush_origin(source, &self, &ignored) < 0 ? NULL : make_point(&self);
}

const struct tracker track_dm_snapshot = {
    .name = "dm-snapshot", .changes = dm_snapshot_changes, .point = dm_snapshot_point};
