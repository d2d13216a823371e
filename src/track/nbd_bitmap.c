/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A dirty bitmap of an NBD server, as QEMU's tell them. Its base is the moment when the bitmap was begun or cleared, of which
 * nothing but the user knows whether the target is of that moment.
 */
#include "track/changes.h"
#include "track/track_private.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ANSWER_MAX 4096

/* The other side may say anything. Returns where the answer ends, or 0 for one that makes no sense. */
static uint64_t take_answer(
    const struct extent *extents, int count, uint64_t at, uint64_t end, struct changes *changes, int *res)
{
	for (int i = 0; i < count && *res == 0; i++) {
		const struct extent *extent = &extents[i];

		if (extent->offset != at || extent->length == 0 || extent->length > end - at)
			return 0;
		if (extent->kind != EXTENT_ZERO)
			*res = changes_add(changes, extent->offset, extent->length);
		at += extent->length;
	}
	return at;
}

static int walk(struct block *source, struct extent *extents, struct changes *changes, struct error *error)
{
	uint64_t at = 0, end = block_info(source)->size;

	while (at < end) {
		struct block_io io = {.op = BLOCK_EXTENTS,
		    .flags = BLOCK_CHANGED,
		    .offset = at,
		    .length = end - at,
		    .extents = extents,
		    .extents_max = ANSWER_MAX};
		int count = block_wait(source, &io), res = 0;

		if (count < 0 && block_link_error(source, error) < 0)
			return -ENOTCONN;
		if (count < 0)
			return error_set(error, count, "the server does not tell it: %s", strerror(-count));
		at = count > 0 ? take_answer(extents, count, at, end, changes, &res) : 0;
		if (res < 0)
			return error_set(error, res, "out of memory");
		if (at == 0)
			return error_set(error, -EPROTO, "the server's answer makes no sense");
	}
	return 0;
}

/* That there is one does not tell that the target is of its moment. */
static int no_base(const struct block_info *source, struct error *error)
{
	if (source->bitmaps_count == 0)
		return error_set(
		    error, -ENOENT, "name the bitmap whose beginning the target holds, with --base=");
	if (source->bitmaps_count == 1)
		return error_set(error, -ENOENT,
		    "the server has the dirty bitmap %s, but nobody said that the target is as the source "
		    "was "
		    "when it was begun; if it is, --base=%s moves only what changed since",
		    source->bitmaps, source->bitmaps);
	return error_set(error, -ENOENT,
	    "the server has the dirty bitmaps %s, but nobody said that the target is as the source was when "
	    "one of them was begun; if it is, name that one with --base=",
	    source->bitmaps);
}

static int no_bitmap(const struct block_info *source, const char *base, struct error *error)
{
	if (source->bitmaps_count)
		return error_set(error, -ENOENT, "%.200s has no bitmap %.100s; it has %s", source->name, base,
		    source->bitmaps);
	return error_set(error, -ENOENT,
	    "%.200s has no bitmap %.100s; `nbdinfo` lists what the server has, `qemu-nbd -B` serves one",
	    source->name, base);
}

static int nbd_bitmap_changes(
    const struct track_request *request, struct track_changes *ret, struct error *error)
{
	struct changes changes;
	struct extent *extents;
	int res;

	if (!request->nbd)
		return error_set(error, -ENODEV, "the source is no NBD server's");
	if (!request->base)
		return no_base(block_info(request->source), error);
	if (!block_info(request->source)->tells_changes)
		return no_bitmap(block_info(request->source), request->base, error);
	extents = calloc(ANSWER_MAX, sizeof(*extents));
	changes_init(&changes, block_info(request->source)->size);
	res = extents ? walk(request->source, extents, &changes, error)
	              : error_set(error, -ENOMEM, "out of memory");
	if (res == 0 && changes_take(&changes, &ret->ranges) < 0)
		res = error_set(error, -ENOMEM, "out of memory");
	snprintf(ret->base, sizeof(ret->base), "the bitmap %.160s was begun", request->base);
	changes_done(&changes);
	free(extents);
	return res;
}

const struct tracker track_nbd_bitmap = {.name = "nbd-bitmap", .changes = nbd_bitmap_changes};
