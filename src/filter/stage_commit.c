/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The commit: the table of what is to be applied, with sums of what the volume has there now; all of it on stable storage; then the commit itself, on
 * stable storage; only then the volume is written.
 */
#include "filter/stage_view_private.h"

#include "base/bytes.h"
#include "base/crc32c.h"
#include "base/plant.h"
#include "block/stage_batch.h"
#include "block/stage_table.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct maker {
	struct stage_view *view;
	struct stage_table table;
	struct stage_batch *batch;
	struct stage_commit commit;
};

static int finish_batch(struct maker *maker)
{
	struct stage_batch *batch = maker->batch;
	int res = stage_batch_run(batch, STAGE_READ_FRESH, maker->view->file);

	if (res == 0)
		res = stage_batch_run(batch, STAGE_READ_OLD, maker->view->volume);
	for (unsigned i = 0; res == 0 && i < batch->count; i++) {
		struct stage_piece *piece = &batch->pieces[i];
		uint64_t length = piece->entry.length;

		if (!memcmp(piece->fresh, piece->old, length))
			continue;
		if (piece->entry.kind == EXTENT_ZERO) {
			maker->commit.zero_bytes += length;
		} else {
			maker->commit.data_bytes += length;
			piece->entry.crc = crc32c(0, piece->fresh, length);
		}
		for (unsigned s = 0; s < stage_sums(&piece->entry); s++)
			piece->sums[s] = crc32c(0, piece->old + s * STAGE_SECTOR,
			    min_u64(STAGE_SECTOR, length - s * STAGE_SECTOR));
		res = stage_table_put(&maker->table, &piece->entry, piece->sums);
	}
	stage_batch_clear(batch);
	return res;
}

static int add(struct maker *maker, const struct stage_entry *entry)
{
	stage_batch_add(maker->batch, entry);
	return stage_batch_is_full(maker->batch) ? finish_batch(maker) : 0;
}

/* One extent of the stage, inside a run of staged blocks. A hole is what was zeroed: the file was flushed. */
static int add_extent(struct maker *maker, const struct extent *extent)
{
	uint64_t at = extent->offset, end = at + extent->length;
	struct stage_entry entry = {.kind = extent->kind};
	int res = 0;

	while (res == 0 && at < end) {
		entry.offset = at;
		entry.length = min_u64(end - at, STAGE_PIECE);
		res = add(maker, &entry);
		at += entry.length;
	}
	return res;
}

/* In whole blocks, but for the volume's end: a block that is not all of a hole is data. */
static int add_run(struct maker *maker, uint64_t at, uint64_t end)
{
	int res = 0;

	while (res == 0 && at < end) {
		struct extent extent;

		res = stage_view_extent(maker->view, at, end, &extent);
		if (res < 0)
			break;
		if (extent.kind == EXTENT_ZERO && at + extent.length < end)
			extent.length = align_down(extent.length, STAGE_BLOCK);
		else if (extent.kind == EXTENT_DATA)
			extent.length = min_u64(end - at, align_up(extent.length, STAGE_BLOCK));
		if (extent.length == 0)
			extent = (struct extent){at, min_u64(end - at, STAGE_BLOCK), EXTENT_DATA};
		res = add_extent(maker, &extent);
		at += extent.length;
	}
	return res;
}

static int add_all(struct maker *maker)
{
	uint64_t at = 0, size = maker->view->stage.layout.size;
	int res = 0;

	while (res == 0 && at < size) {
		bool set;
		uint64_t end = overlay_map_run(maker->view->map, at, size, &set);

		if (set)
			res = add_run(maker, at, end);
		at = end;
	}
	if (res == 0)
		res = finish_batch(maker);
	return res < 0 ? res : stage_table_finish(&maker->table);
}

static int make_table(struct stage_view *view, struct stage_commit *ret)
{
	struct maker maker = {.view = view, .batch = stage_batch_new()};
	int res = maker.batch ? stage_table_open(&maker.table, view->file, &view->stage.layout, 0) : -ENOMEM;

	if (res == 0)
		res = add_all(&maker);
	if (res == 0) {
		maker.commit.entries = maker.table.entries;
		maker.commit.table_length = stage_table_length(&maker.table);
		maker.commit.table_crc = maker.table.crc;
		maker.commit.committed = (uint64_t)time(NULL);
		memcpy(maker.commit.id, view->stage.header.id, STAGE_ID);
		*ret = maker.commit;
	}
	stage_table_close(&maker.table);
	stage_batch_free(maker.batch);
	return res;
}

/* Nobody else wrote to the volume meanwhile, as far as that can be seen: what is staged is what differs from what it held. */
static int check_volume(struct stage_view *view, struct error *error)
{
	struct block_facts facts = {0};
	int res = block_facts(view->volume, &facts, error);

	if (res < 0 || !view->mark[0] || !facts.mark[0] || !strcmp(view->mark, facts.mark))
		return res;
	return error_set(error, -ESTALE,
	    "somebody else wrote to it during the round: it was left as it is; see who does, then run the "
	    "round again");
}

int stage_view_commit(struct stage_view *view, struct error *error)
{
	int res = check_volume(view, error);

	if (res < 0)
		return res;
	res = stage_view_flush(view);
	if (res == 0)
		res = make_table(view, &view->stage.commit);
	if (res == 0 && view->stage.commit.entries && !PLANTED(PLANTED_STAGE_UNFLUSHED))
		res = stage_view_flush_file(view);
	if (res < 0)
		return error_set(error, res, "its stage cannot be completed, and it was left as it is: %s",
		    strerror(-res));
	/* The table took its time. */
	if (view->stage.commit.entries)
		res = check_volume(view, error);
	if (res < 0)
		return res;
	if (view->stage.commit.entries) {
		view->undecided = true;
		res = stage_put_commit(view->file, &view->stage, NULL);
		if (res < 0)
			return error_set(error, res,
			    "its stage cannot be written: %s; whether the round counts is known when that is "
			    "mended and "
			    "`blkmove recover` was run",
			    strerror(-res));
		res = stage_apply(view->file, &view->stage, view->volume, error);
		if (res < 0)
			return error_prefix(
			    error, "the round is committed and must be completed by `blkmove recover`");
	}
	/* From now on the volume itself is read. */
	view->undecided = view->over = true;
	overlay_map_clear(view->map);
	view->filter.block.info.writable = false;
	if (view->options.remove)
		view->options.remove(view->options.data);
	return view->options.applied ? view->options.applied(view->options.data, error) : 0;
}
