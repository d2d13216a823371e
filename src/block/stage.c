/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A stage is looked at, checked against its volume, and applied: see stage.h. */
#include "block/stage.h"

#include "base/bytes.h"
#include "base/crc32c.h"
#include "base/plant.h"
#include "block/driver.h"
#include "block/stage_batch.h"
#include "block/stage_table.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Looking */

/* A bad medium's -ENODATA is no stage that was never begun: that would be passed over, or removed. */
static int unreadable(struct block *file, int res, struct error *error)
{
	return error_set(error, res == -ENODATA ? -EIO : res, "cannot read the stage %s: %s",
	    block_info(file)->name, strerror(-res));
}

static int damaged(struct block *file, const char *what, struct error *error)
{
	return error_set(error, -EBADMSG, "the stage %s is damaged: %s", block_info(file)->name, what);
}

static int judge(struct block *file, const uint8_t *blocks, struct stage *ret, struct error *error)
{
	struct stage_commit applied;
	struct stage stage = {.state = STAGE_FILLING};
	int header = stage_parse_header(blocks + 2 * STAGE_BLOCK, &stage.header);
	int commit = stage_parse_commit(blocks + STAGE_BLOCK, STAGE_MARK_COMMIT, &stage.commit);
	int done = stage_parse_commit(blocks, STAGE_MARK_APPLIED, &applied);

	/* What was not committed counts for nothing, whatever state a crash left it in. */
	if (commit == -ENODATA && header < 0)
		return -ENODATA;
	if (header < 0)
		return damaged(file, "its header", error);
	if (!stage_layout(stage.header.size, &stage.layout) || stage.layout.length != block_info(file)->size)
		return damaged(file, "it is of another length than its header says", error);
	if (commit == 0 && (memcmp(stage.commit.id, stage.header.id, STAGE_ID) ||
	                       stage.commit.table_length > stage.layout.table_max))
		commit = -EBADMSG;
	if (commit == -EBADMSG)
		return damaged(file, "its commit", error);
	if (commit == 0)
		stage.state = STAGE_COMMITTED;
	if (commit == 0 && done == 0 && !memcmp(applied.id, stage.header.id, STAGE_ID))
		stage.state = STAGE_APPLIED;
	*ret = stage;
	return 0;
}

int stage_look(struct block *file, struct stage *ret, struct error *error)
{
	uint64_t size = block_info(file)->size;
	struct block_io io = {.op = BLOCK_READ, .length = 3 * STAGE_BLOCK};
	int res;

	/* Made, and not yet as long as it is to be. */
	if (size < io.length)
		return -ENODATA;
	if (posix_memalign(&io.buf, STAGE_BLOCK, io.length))
		return error_set(error, -ENOMEM, "out of memory");
	io.offset = size - io.length;
	res = block_wait(file, &io);
	res = res < 0 ? unreadable(file, res, error) : judge(file, io.buf, ret, error);
	free(io.buf);
	return res;
}

bool stage_is_resumable(struct block *file, const char *id, uint64_t size)
{
	struct stage stage;

	return stage_look(file, &stage, NULL) == 0 && stage.state == STAGE_FILLING &&
	       stage.header.size == size && !strcmp(stage.header.target_id, id);
}

/* Walking the table */

struct walk {
	struct block *file, *volume;
	const struct stage *stage;
	struct error *error;
	struct stage_table table;
	struct stage_batch *batch;
};

static int fill(struct walk *walk)
{
	struct stage_batch *batch = walk->batch;
	int res = 1;

	stage_batch_clear(batch);
	while (res == 1 && !stage_batch_is_full(batch)) {
		struct stage_entry entry;
		uint32_t *sums = batch->pieces[batch->count].sums;

		res = stage_table_next(&walk->table, &entry, sums);
		if (res == 1)
			stage_batch_add(batch, &entry);
	}
	if (res == -EBADMSG)
		return damaged(walk->file, "its table", walk->error);
	return res < 0 ? unreadable(walk->file, res, walk->error) : 0;
}

/* The data of the batch, which must be what was committed. */
static int fetch(struct walk *walk)
{
	int res = stage_batch_run(walk->batch, STAGE_READ_FRESH, walk->file);

	if (res < 0)
		return unreadable(walk->file, res, walk->error);
	for (unsigned i = 0; i < walk->batch->count; i++) {
		const struct stage_piece *piece = &walk->batch->pieces[i];

		if (piece->entry.kind == EXTENT_DATA &&
		    crc32c(0, piece->fresh, piece->entry.length) != piece->entry.crc)
			return damaged(walk->file, "its data", walk->error);
	}
	return 0;
}

static int fetch_volume(struct walk *walk)
{
	int res = stage_batch_run(walk->batch, STAGE_READ_OLD, walk->volume);

	if (res < 0)
		error_set(
		    walk->error, res, "cannot read %s: %s", block_info(walk->volume)->name, strerror(-res));
	return res;
}

static int walk_table(struct walk *walk, int (*each)(struct walk *walk))
{
	const struct stage_commit *commit = &walk->stage->commit;
	int res;

	if (commit->table_length == 0)
		return commit->entries ? damaged(walk->file, "its table", walk->error) : 0;
	walk->batch = stage_batch_new();
	res = walk->batch
	          ? stage_table_open(&walk->table, walk->file, &walk->stage->layout, commit->table_length)
	          : -ENOMEM;
	if (res < 0) {
		stage_batch_free(walk->batch);
		return error_set(walk->error, res, "out of memory");
	}
	do {
		res = fill(walk);
		if (res == 0 && walk->batch->count)
			res = each(walk);
	} while (res == 0 && walk->batch->count);
	if (res == 0 && (walk->table.crc != commit->table_crc || walk->table.entries != commit->entries))
		res = damaged(walk->file, "its table", walk->error);
	stage_table_close(&walk->table);
	stage_batch_free(walk->batch);
	return res;
}

/* Each sector of the volume is what it was, or what it is to become. */
static bool holds_either(const struct stage_piece *piece)
{
	for (unsigned i = 0; i < stage_sums(&piece->entry); i++) {
		uint64_t at = (uint64_t)i * STAGE_SECTOR;
		size_t length = min_u64(STAGE_SECTOR, piece->entry.length - at);

		if (memcmp(piece->old + at, piece->fresh + at, length) &&
		    crc32c(0, piece->old + at, length) != piece->sums[i])
			return false;
	}
	return true;
}

static int check_batch(struct walk *walk)
{
	int res = fetch(walk);

	if (res == 0)
		res = fetch_volume(walk);
	for (unsigned i = 0; res == 0 && i < walk->batch->count; i++) {
		const struct stage_piece *piece = &walk->batch->pieces[i];

		if (!holds_either(piece))
			res = error_set(walk->error, -ESTALE,
			    "it was written since by somebody else, at byte %llu or behind it",
			    (unsigned long long)piece->entry.offset);
	}
	return res;
}

/* For a walk that is there for the table's own sum. */
static int pass(struct walk *walk)
{
	return 0;
}

int stage_check(struct block *file, const struct stage *stage, struct block *volume, struct error *error)
{
	struct walk walk = {.file = file, .volume = volume, .stage = stage, .error = error};
	int res = walk_table(&walk, pass);

	/* Only a table that is whole can say that the volume is not what it was. */
	return res < 0 ? res : walk_table(&walk, check_batch);
}

/* Applying */

static int write_batch(struct walk *walk)
{
	int res = fetch(walk);

	if (res < 0)
		return res;
	res = stage_batch_run(walk->batch, STAGE_WRITE_FRESH, walk->volume);
	if (res < 0)
		error_set(walk->error, res, "cannot write to %s: %s", block_info(walk->volume)->name,
		    strerror(-res));
	return res;
}

static int read_back(struct walk *walk)
{
	int res = fetch(walk);

	if (res == 0)
		res = fetch_volume(walk);
	for (unsigned i = 0; res == 0 && i < walk->batch->count; i++) {
		const struct stage_piece *piece = &walk->batch->pieces[i];

		if (memcmp(piece->old, piece->fresh, piece->entry.length))
			res = error_set(walk->error, -EIO,
			    "%s reads back differently from what was written, at byte %llu or behind it: "
			    "check "
			    "the device",
			    block_info(walk->volume)->name, (unsigned long long)piece->entry.offset);
	}
	return res;
}

static int flush(struct block *block, struct error *error)
{
	struct block_io io = {.op = BLOCK_FLUSH};
	int res = block_wait(block, &io);

	if (res < 0)
		error_set(error, res, "cannot flush %s: %s", block_info(block)->name, strerror(-res));
	return res;
}

static int put_mark(struct block *file, const struct stage *stage, enum stage_mark mark, struct error *error)
{
	struct block_io io = {.op = BLOCK_WRITE,
	    .offset = mark == STAGE_MARK_COMMIT ? stage->layout.commit_at : stage->layout.applied_at,
	    .length = STAGE_BLOCK};
	int res;

	if (posix_memalign(&io.buf, STAGE_BLOCK, STAGE_BLOCK))
		return error_set(error, -ENOMEM, "out of memory");
	stage_encode_commit(io.buf, mark, &stage->commit);
	res = block_wait(file, &io);
	free(io.buf);
	if (res < 0)
		error_set(
		    error, res, "cannot write the stage %s: %s", block_info(file)->name, strerror(-res));
	return res;
}

int stage_apply(struct block *file, const struct stage *stage, struct block *volume, struct error *error)
{
	struct walk walk = {.file = file, .volume = volume, .stage = stage, .error = error};
	int res = walk_table(&walk, write_batch);

	if (res == 0 && !PLANTED(PLANTED_STAGE_EARLY_END))
		res = flush(volume, error);
	if (res == 0)
		res = walk_table(&walk, read_back);
	if (res == 0)
		res = put_mark(file, stage, STAGE_MARK_APPLIED, error);
	return res < 0 ? res : flush(file, error);
}

int stage_put_commit(struct block *file, const struct stage *stage, struct error *error)
{
	int res = put_mark(file, stage, STAGE_MARK_COMMIT, error);

	return res < 0 || PLANTED(PLANTED_STAGE_EARLY_APPLY) ? res : flush(file, error);
}
