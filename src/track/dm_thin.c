/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What differs between two thin volumes of a pool: the blocks that they do not share, by thin_delta(8) over a metadata snapshot.
 *
 * A base that an earlier run noted is trusted while nobody took a snapshot of it since. Blocks of it that no other volume has may be
 * written in place; such a block can come to be shared with the source only by a snapshot of the base. That is why the base
 * itself is no source.
 */
#include "block/dm.h"
#include "track/dm_metadata_format.h"
#include "track/dm_tool.h"
#include "track/track_private.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct thin {
	struct dm_volume volume; /* its table */
	dev_t pool;
	uint64_t id;
};

struct pool {
	struct ring *ring;
	dev_t dev;
	char identity[320];
	char metadata[320]; /* path */
	uint64_t block;     /* bytes */
};

/* A device in the pool's metadata; times are the pool's, counted in snapshots. */
struct thin_details {
	uint64_t created, snapped;
};

static bool number_word(const struct dm_volume *volume, unsigned index, uint64_t *ret)
{
	char word[32], rest;

	return dm_word(volume, index, word, sizeof(word)) && sscanf(word, "%" SCNu64 "%c", ret, &rest) == 1;
}

static int read_thin(struct thin *thin, struct error *error)
{
	struct dm_volume *volume = &thin->volume;
	char word[32];

	if (volume->targets != 1 || strcmp(volume->type, "thin") != 0)
		return error_set(error, -ENODEV, "%s is no thin volume", volume->name);
	if (!dm_word_device(volume, 0, &thin->pool) || !number_word(volume, 1, &thin->id))
		return error_set(
		    error, -EPROTO, "the table of %s is not understood: %s", volume->name, volume->params);
	if (dm_word(volume, 2, word, sizeof(word)))
		return error_set(error, -EOPNOTSUPP,
		    "%s has an external origin: what it does not hold itself is not known", volume->name);
	return 0;
}

static int read_pool(dev_t dev, struct pool *ret, struct error *error)
{
	struct dm_volume volume;
	uint64_t sectors;
	dev_t metadata;
	int res = dm_table(dev, &volume, error);

	if (res < 0)
		return res;
	if (strcmp(volume.type, "thin-pool") != 0 || !dm_word_device(&volume, 0, &metadata) ||
	    !number_word(&volume, 2, &sectors) || sectors == 0 || sectors > UINT32_MAX)
		return error_set(error, -EPROTO, "the table of the pool %s is not understood", volume.name);
	ret->dev = dev;
	ret->block = sectors * 512;
	if (!dm_identity(&volume, ret->identity, sizeof(ret->identity)))
		return error_set(error, -EOPNOTSUPP, "it cannot be known which pool %s is", volume.name);
	if (!dm_node(metadata, ret->metadata, sizeof(ret->metadata)))
		return error_set(
		    error, -ENOENT, "the metadata of the pool %s have no node in /dev", volume.name);
	return 0;
}

static int hold(struct dm_tool_hold *hold, const struct pool *pool, struct error *error)
{
	int res = dm_tool_hold(hold, pool->dev, "reserve_metadata_snap", "release_metadata_snap", error);

	if (res < 0)
		return error_set(error, res,
		    "the pool gives no metadata snapshot (%s); if nobody else has one, and a run was killed: "
		    "`dmsetup "
		    "message POOL 0 release_metadata_snap`",
		    strerror(-res));
	return 0;
}

/* In a hold. -ENOENT when the pool has no such device. */
static int list_details(const struct pool *pool, uint64_t id, struct thin_details *ret, struct error *error)
{
	const char *const argv[] = {
	    "thin_ls", "-m", "--no-headers", "--format", "DEV,CREATE_TIME,SNAP_TIME", pool->metadata, NULL};
	const size_t size = 4u << 20;
	char *text = malloc(size), *line, *more = NULL;
	int res = text ? dm_tool_text(argv, pool->ring, text, size, error)
	               : error_set(error, -ENOMEM, "out of memory");
	uint64_t dev, created, snapped;
	bool found = false;

	for (line = res == 0 ? strtok_r(text, "\n", &more) : NULL; line; line = strtok_r(NULL, "\n", &more)) {
		if (sscanf(line, "%" SCNu64 " %" SCNu64 " %" SCNu64, &dev, &created, &snapped) != 3 ||
		    dev != id)
			continue;
		*ret = (struct thin_details){created, snapped};
		found = true;
	}
	free(text);
	if (res == 0 && !found)
		res = error_set(error, -ENOENT, "the pool has no thin volume %" PRIu64 " any more", id);
	return res;
}

static int look_at_source(const struct track_request *request, struct thin *ret, struct error *error)
{
	int res = track_dm_source(request->path, &ret->volume, error);

	return res < 0 ? res : read_thin(ret, error);
}

static uint64_t number_of(const json_t *point, const char *key)
{
	return (uint64_t)json_integer_value(json_object_get(point, key));
}

/* A base by the user's word is an active device; one of an earlier run needs none. Sets *ret_point for the latter. */
static int find_base(const struct track_request *request, const struct pool *pool, struct thin *ret,
    const json_t **ret_point, struct error *error)
{
	uint64_t size = block_info(request->source)->size;
	const json_t *point = NULL;
	dev_t dev;
	int res;

	*ret_point = NULL;
	if (request->base) {
		res = dm_find(request->base, &dev, error);
		if (res == 0)
			res = dm_table(dev, &ret->volume, error);
		if (res == 0)
			res = read_thin(ret, error);
		if (res == 0 && ret->pool != pool->dev)
			res = error_set(error, -ESTALE, "%s is of another pool", ret->volume.name);
	} else {
		point = track_find_point(request->points, track_dm_thin.name);
		res = point ? 0
		            : error_set(error, -ENODEV,
		                  "no earlier run noted which thin volume the target holds; name it with "
		                  "--base=");
	}
	if (res < 0)
		return res;
	if (point) {
		if (strcmp(track_point_text(point, "pool"), pool->identity) != 0)
			return error_set(error, -ESTALE, "the target holds a volume of another pool");
		ret->id = number_of(point, "id");
		ret->volume.size = number_of(point, "size");
		snprintf(
		    ret->volume.name, sizeof(ret->volume.name), "%.120s", track_point_text(point, "base"));
		*ret_point = point;
	}
	if (ret->volume.size != size)
		return error_set(error, -ESTALE,
		    "%s has %" PRIu64 " bytes and the source has %" PRIu64 ": it was resized since",
		    ret->volume.name, ret->volume.size, size);
	return 0;
}

/* In a hold: that the base is still what the point means. */
static int check_point(
    const struct pool *pool, const struct thin *base, const json_t *point, struct error *error)
{
	struct thin_details details;
	int res = list_details(pool, base->id, &details, error);

	if (res == -ENOENT)
		return error_set(
		    error, -ESTALE, "the target holds %s, and that volume is gone", base->volume.name);
	if (res < 0)
		return res;
	if (details.created != number_of(point, "created"))
		return error_set(error, -ESTALE,
		    "%s is another volume now than the one that the target holds", base->volume.name);
	if (details.snapped != number_of(point, "snapped"))
		return error_set(error, -ESTALE,
		    "a snapshot was taken of %s since it was copied, so that what it has in common with "
		    "others may have "
		    "been written since",
		    base->volume.name);
	return 0;
}

/* In a hold. */
static int compare(const struct pool *pool, const struct thin *base, const struct thin *source,
    struct changes *changes, struct error *error)
{
	struct thin_delta delta = {
	    .changes = changes, .left = base->id, .right = source->id, .block = pool->block};
	const struct xml_handler handler = {.data = &delta, .element = thin_delta_element};
	char left[24], right[24];
	const char *const argv[] = {
	    "thin_delta", "-m", "--snap1", left, "--snap2", right, pool->metadata, NULL};
	int res;

	snprintf(left, sizeof(left), "%" PRIu64, base->id);
	snprintf(right, sizeof(right), "%" PRIu64, source->id);
	res = dm_tool_xml(argv, pool->ring, &handler, error);
	return res < 0 ? res : thin_delta_end(&delta, error);
}

static int read_metadata(const struct pool *pool, const struct thin *base, const json_t *point,
    const struct thin *source, struct changes *changes, struct error *error)
{
	struct dm_tool_hold held;
	int res = hold(&held, pool, error);

	if (res < 0)
		return res;
	if (point)
		res = check_point(pool, base, point, error);
	if (res == 0)
		res = compare(pool, base, source, changes, error);
	return dm_tool_release(&held, res, error);
}

static int dm_thin_changes(
    const struct track_request *request, struct track_changes *ret, struct error *error)
{
	struct thin source = {0}, base = {0};
	const json_t *point = NULL;
	struct changes changes;
	struct pool pool = {.ring = block_ring(request->source)};
	int res = look_at_source(request, &source, error);

	if (res == 0)
		res = read_pool(source.pool, &pool, error);
	if (res == 0)
		res = find_base(request, &pool, &base, &point, error);
	if (res == 0 && base.id == source.id)
		res =
		    error_set(error, -ESTALE, "the source is the base itself; take a snapshot and sync that");
	if (res < 0)
		return res;
	changes_init(&changes, block_info(request->source)->size);
	res = read_metadata(&pool, &base, point, &source, &changes, error);
	if (res == 0 && changes_take(&changes, &ret->ranges) < 0)
		res = error_set(error, -ENOMEM, "out of memory");
	changes_done(&changes);
	snprintf(ret->base, sizeof(ret->base), "the thin volume %s was taken", base.volume.name);
	return res;
}

static json_t *dm_thin_point(struct block *source, const char *path, bool live)
{
	const struct track_request request = {.source = source, .path = path};
	struct thin_details details;
	struct dm_tool_hold held;
	struct thin thin = {0};
	struct error why;
	struct pool pool = {.ring = block_ring(source)};
	int res;

	if (look_at_source(&request, &thin, &why) < 0 || read_pool(thin.pool, &pool, &why) < 0 ||
	    hold(&held, &pool, &why) < 0)
		return NULL;
	res = list_details(&pool, thin.id, &details, &why);
	if (dm_tool_release(&held, res, &why) < 0)
		return NULL;
	return json_pack("{s:s, s:s, s:s, s:I, s:I, s:I, s:I}", "tracker", track_dm_thin.name, "base",
	    thin.volume.name, "pool", pool.identity, "id", (json_int_t)thin.id, "created",
	    (json_int_t)details.created, "snapped", (json_int_t)details.snapped, "size",
	    (json_int_t)thin.volume.size);
}

const struct tracker track_dm_thin = {.name = "dm-thin", .changes = dm_thin_changes, .point = dm_thin_point};
