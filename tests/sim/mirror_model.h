/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What clients may read: for each sector the values that were written and may still be seen. A write that was acknowledged
 * supersedes all that had ended before it began; until it is flushed, a power cut may bring those back. A value that was
 * seen is not followed by another one without a write or a power cut.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#define MODEL_SECTOR 512u

struct model;

/* All sectors begin with model_fill(tag 1 + their number). */
struct model *model_new(uint64_t sectors);
struct model *model_free(struct model *model);
/* A sector that begins with zeros instead. */
void model_set_blank(struct model *model, uint64_t sector);
/* The bytes of a sector whose tag is `tag`; 0: zeros. */
void model_fill(uint8_t *data, uint64_t first, uint64_t count, uint64_t tag);
void model_fill_initial(uint8_t *data, uint64_t sectors);
uint64_t model_new_tag(struct model *model);

/* These return when it began, for its end. */
uint64_t model_write_begin(struct model *model, uint64_t first, uint64_t count, uint64_t tag);
uint64_t model_begin(struct model *model);
uint64_t model_read_begin(struct model *model);
/* It failed. */
void model_read_drop(struct model *model, uint64_t began);
void model_write_end(
    struct model *model, uint64_t first, uint64_t count, uint64_t began, bool acknowledged, bool fua);
void model_flush_end(struct model *model, uint64_t began);
/* The first sector whose bytes cannot be, or UINT64_MAX. */
uint64_t model_read_end(
    struct model *model, uint64_t began, uint64_t first, uint64_t count, const uint8_t *data);
/* Nothing is under way any more; after a power cut of the authoritative leg, what was not flushed may be gone. */
void model_crash(struct model *model, bool power_cut);
/* A flush failed: what was not flushed may be gone. */
void model_lost(struct model *model);
bool model_sector_busy(const struct model *model, uint64_t sector);
