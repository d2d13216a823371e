/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What was written to a dm-era device in an era and those after it, by era_invalidate(8) over a metadata snapshot. Taking that begins a new
 * era: whatever is written later is of that one, or a later, and is the next run's.
 */
#include "block/dm.h"
#include "track/dm_metadata_format.h"
#include "track/dm_tool.h"
#include "track/track_private.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

struct era {
	struct ring *ring;
	struct dm_volume volume; /* its table */
	char metadata[320];      /* path */
	uint64_t block;          /* bytes */
	uint64_t now;            /* the current era */
	bool held;               /* there is a metadata snapshot */
};

static int read_status(struct era *era, struct error *error)
{
	struct dm_volume status;
	char held[32];
	int res = dm_status(era->volume.dev, &status, error);

	if (res < 0)
		return res;
	if (sscanf(status.params, "%*u %*u/%*u %" SCNu64 " %31s", &era->now, held) != 2)
		return error_set(error, -ESTALE, "the status of %s is not understood: '%.60s'",
		    era->volume.name, status.params);
	era->held = strcmp(held, "-") != 0;
	return 0;
}

static int look_at_source(const struct track_request *request, struct era *ret, struct error *error)
{
	uint64_t sectors;
	dev_t metadata;
	char word[32], rest;
	int res = track_dm_source(request->path, &ret->volume, error);

	if (res < 0)
		return res;
	if (ret->volume.targets != 1 || strcmp(ret->volume.type, "era") != 0)
		return error_set(error, -ENODEV, "%s is no dm-era device", ret->volume.name);
	if (!dm_word_device(&ret->volume, 0, &metadata) || !dm_word(&ret->volume, 2, word, sizeof(word)) ||
	    sscanf(word, "%" SCNu64 "%c", &sectors, &rest) != 1 || sectors == 0 || sectors > UINT32_MAX)
		return error_set(error, -EPROTO, "the table of %s is not understood: %s", ret->volume.name,
		    ret->volume.params);
	ret->block = sectors * 512;
	if (!dm_node(metadata, ret->metadata, sizeof(ret->metadata)))
		return error_set(error, -ENOENT, "the metadata of %s have no node in /dev", ret->volume.name);
	return read_status(ret, error);
}

/* The era from which on changes are wanted. */
static int find_base(
    const struct track_request *request, const struct era *era, uint64_t *ret, struct error *error)
{
	char identity[320], rest;
	const json_t *point;

	if (request->base) {
		if (request->base[0] < '0' || request->base[0] > '9' ||
		    sscanf(request->base, "%" SCNu64 "%c", ret, &rest) != 1)
			return error_set(
			    error, -EINVAL, "--base=%.60s is no era; write its number", request->base);
	} else {
		point = track_find_point(request->points, track_dm_era.name);
		if (!point)
			return error_set(error, -ENODEV,
			    "no earlier run noted of which era the target is; name it with --base=");
		if (!dm_identity(&era->volume, identity, sizeof(identity)) ||
		    strcmp(track_point_text(point, "identity"), identity) != 0)
			return error_set(error, -ESTALE,
			    "%s is another device now than the one that was copied, or was made anew",
			    era->volume.name);
		if ((uint64_t)json_integer_value(json_object_get(point, "size")) != era->volume.size)
			return error_set(error, -ESTALE, "%s was resized", era->volume.name);
		*ret = (uint64_t)json_integer_value(json_object_get(point, "era"));
	}
	if (*ret == 0 || *ret > era->now)
		return error_set(error, -ESTALE, "era %" PRIu64 " is none of %s, which is in era %" PRIu64,
		    *ret, era->volume.name, era->now);
	return 0;
}

static json_t *make_point(const struct era *era)
{
	char identity[320], name[24];

	if (!dm_identity(&era->volume, identity, sizeof(identity)))
		return NULL;
	snprintf(name, sizeof(name), "%" PRIu64, era->now);
	return json_pack("{s:s, s:s, s:s, s:I, s:I}", "tracker", track_dm_era.name, "base", name, "identity",
	    identity, "era", (json_int_t)era->now, "size", (json_int_t)era->volume.size);
}

/* In a hold. */
static int list(const struct era *era, uint64_t since, struct changes *changes, struct error *error)
{
	struct era_blocks blocks = {.changes = changes, .block = era->block};
	const struct xml_handler handler = {.data = &blocks, .element = era_blocks_element};
	char number[24];
	const char *const argv[] = {
	    "era_invalidate", "--metadata-snapshot", "--written-since", number, era->metadata, NULL};
	int res;

	snprintf(number, sizeof(number), "%" PRIu64, since);
	res = dm_tool_xml(argv, era->ring, &handler, error);
	return res < 0 ? res : era_blocks_end(&blocks, error);
}

static int read_metadata(struct era *era, uint64_t since, struct changes *changes, struct error *error)
{
	struct dm_tool_hold held;
	int res;

	if (era->held)
		return error_set(error, -EBUSY,
		    "%s has a metadata snapshot already; if nobody needs it, and a run was killed: `dmsetup "
		    "message %s 0 "
		    "drop_metadata_snap`",
		    era->volume.name, era->volume.name);
	res = dm_tool_hold(&held, era->volume.dev, "take_metadata_snap", "drop_metadata_snap", error);
	if (res < 0)
		return res;
	res = list(era, since, changes, error);
	return dm_tool_release(&held, res, error);
}

static int dm_era_changes(const struct track_request *request, struct track_changes *ret, struct error *error)
{
	struct changes changes;
	struct era era = {.ring = block_ring(request->source)};
	uint64_t since;
	int res = look_at_source(request, &era, error);

	if (res == 0)
		res = find_base(request, &era, &since, error);
	if (res == 0 && era.volume.size != block_info(request->source)->size)
		res = error_set(error, -ESTALE, "%s was resized", era.volume.name);
	if (res < 0)
		return res;
	changes_init(&changes, era.volume.size);
	res = read_metadata(&era, since, &changes, error);
	if (res == 0 && changes_take(&changes, &ret->ranges) < 0)
		res = error_set(error, -ENOMEM, "out of memory");
	changes_done(&changes);
	if (res < 0)
		return res;
	snprintf(ret->base, sizeof(ret->base), "era %" PRIu64, since);
	return 0;
}

static json_t *dm_era_point(struct block *source, const char *path, bool live)
{
	const struct track_request request = {.source = source, .path = path};
	struct era era = {0};
	struct error ignored;

	if (look_at_source(&request, &era, &ignored) < 0)
		return NULL;
	/* What was written so far is not to be named again by the next run: it is of the era that ends here. */
	dm_message(era.volume.dev, "checkpoint", &ignored);
	/*
	 * But a write that is under way is of the era that it began in, and reaches the device later than it is read, perhaps: of a source
	 * that is written, the era that ends here is named again.
	 */
	return !live && read_status(&era, &ignored) < 0 ? NULL : make_point(&era);
}

const struct tracker track_dm_era = {.name = "dm-era", .changes = dm_era_changes, .point = dm_era_point};
