/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* One buffer that moves along the table. */
#include "block/stage_table.h"

#include "base/bytes.h"
#include "base/crc32c.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#define BUF 65536u

int stage_table_open(
    struct stage_table *table, struct block *stage, const struct stage_layout *layout, uint64_t length)
{
	void *buf = NULL;

	if (posix_memalign(&buf, STAGE_BLOCK, BUF))
		return -ENOMEM;
	*table = (struct stage_table){.stage = stage,
	    .begin = layout->table_at,
	    .at = layout->table_at,
	    .end = layout->table_at + (length ? length : layout->table_max),
	    .size = layout->size,
	    .buf = buf};
	return 0;
}

void stage_table_close(struct stage_table *table)
{
	free(table->buf);
	table->buf = NULL;
}

/* Writing */

static int write_out(struct stage_table *table, uint32_t length)
{
	struct block_io io = {.op = BLOCK_WRITE, .offset = table->at, .length = length, .buf = table->buf};

	assert(table->at + length <= table->end);
	return block_wait(table->stage, &io);
}

static int put(struct stage_table *table, const uint8_t *bytes, uint32_t length)
{
	table->crc = crc32c(table->crc, bytes, length);
	while (length > 0) {
		uint32_t now = (uint32_t)min_u64(length, BUF - table->used);
		int res = 0;

		memcpy(table->buf + table->used, bytes, now);
		table->used += now;
		bytes += now;
		length -= now;
		if (table->used < BUF)
			continue;
		res = write_out(table, BUF);
		if (res < 0)
			return res;
		table->at += BUF;
		table->used = 0;
	}
	return 0;
}

int stage_table_put(struct stage_table *table, const struct stage_entry *entry, const uint32_t *sums)
{
	uint8_t bytes[STAGE_ENTRY_BYTES + STAGE_SUMS_MAX * 4];
	unsigned count = stage_sums(entry);

	stage_encode_entry(bytes, entry);
	for (unsigned i = 0; i < count; i++)
		put_le32(bytes + STAGE_ENTRY_BYTES + i * 4, sums[i]);
	table->entries++;
	return put(table, bytes, STAGE_ENTRY_BYTES + count * 4);
}

int stage_table_finish(struct stage_table *table)
{
	uint32_t length = (uint32_t)align_up(table->used, STAGE_BLOCK);

	if (length == 0)
		return 0;
	memset(table->buf + table->used, 0, length - table->used);
	return write_out(table, length);
}

/* Reading */

static int read_in(struct stage_table *table)
{
	struct block_io io = {.op = BLOCK_READ, .buf = table->buf};

	table->at += table->used;
	table->used = table->have = 0;
	io.offset = table->at;
	io.length = min_u64(BUF, table->end - table->at);
	table->have = (uint32_t)io.length;
	return io.length ? block_wait(table->stage, &io) : -EBADMSG;
}

static int get(struct stage_table *table, uint8_t *ret, uint32_t length)
{
	while (length > 0) {
		uint32_t now = (uint32_t)min_u64(length, table->have - table->used);
		int res;

		if (now == 0) {
			res = read_in(table);
			if (res < 0)
				return res;
			continue;
		}
		memcpy(ret, table->buf + table->used, now);
		table->crc = crc32c(table->crc, ret, now);
		table->used += now;
		ret += now;
		length -= now;
	}
	return 0;
}

int stage_table_next(struct stage_table *table, struct stage_entry *ret, uint32_t *sums)
{
	uint8_t bytes[STAGE_SUMS_MAX * 4];
	int res;

	if (table->at + table->used == table->end)
		return 0;
	res = get(table, bytes, STAGE_ENTRY_BYTES);
	if (res == 0)
		res = stage_parse_entry(bytes, table->from, table->size, ret);
	if (res == 0)
		res = get(table, bytes, stage_sums(ret) * 4);
	if (res < 0)
		return res;
	for (unsigned i = 0; i < stage_sums(ret); i++)
		sums[i] = get_le32(bytes + i * 4);
	table->from = ret->offset + ret->length;
	table->entries++;
	return 1;
}
