/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The table of a stage (stage_format.h), written or read from its begin to its end. Control paths: they run the ring. */
#pragma once

#include "block/block.h"
#include "block/stage_format.h"

struct stage_table {
	struct block *stage;
	uint64_t begin, end; /* bytes of the file: where it is, and what it may take, or takes */
	uint64_t at;         /* of buf in the file */
	uint32_t used, have; /* bytes of buf: passed or filled; read */
	uint64_t entries, from, size;
	uint32_t crc; /* of what was passed */
	uint8_t *buf;
};

/* `length`: what is in it; of a new one, 0. 0 or -ENOMEM. */
int stage_table_open(
    struct stage_table *table, struct block *stage, const struct stage_layout *layout, uint64_t length);
void stage_table_close(struct stage_table *table);
/* Adds one; sums has stage_sums() of them. 0 or -errno. */
int stage_table_put(struct stage_table *table, const struct stage_entry *entry, const uint32_t *sums);
/* Writes what is left. */
int stage_table_finish(struct stage_table *table);
/* 1: the next, its sums in `sums`, STAGE_SUMS_MAX; 0: the end; -EBADMSG; another -errno. */
int stage_table_next(struct stage_table *table, struct stage_entry *ret, uint32_t *sums);

static inline uint64_t stage_table_length(const struct stage_table *table)
{
	return table->at + table->used - table->begin;
}
