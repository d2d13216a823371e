/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See mirror_model.h. Time is a counter of begins and ends. */
#include "mirror_model.h"

#include "base/bytes.h"

#include <stdlib.h>

#define UNDER_WAY UINT64_MAX

struct value {
	uint64_t tag, began, ended;
	bool acknowledged, durable;
	bool tainted;    /* a flush failed while it was under way, perhaps with its data */
	uint64_t hidden; /* when another value had been seen with no write under way; 0: never */
};

struct sector {
	struct value *values;
	unsigned count, capacity;
};

#define READS_MAX 16u

struct model {
	uint64_t sectors, clock, tags;
	uint64_t reads[READS_MAX]; /* when those under way began; 0: none */
	struct sector sector[];
};

static struct value *add(struct sector *sector)
{
	if (sector->count == sector->capacity) {
		sector->capacity = sector->capacity ? sector->capacity * 2 : 4;
		sector->values = realloc(sector->values, sector->capacity * sizeof(*sector->values));
		if (!sector->values)
			abort();
	}
	return &sector->values[sector->count++];
}

struct model *model_new(uint64_t sectors)
{
	struct model *model = calloc(1, sizeof(*model) + sectors * sizeof(model->sector[0]));

	if (!model)
		abort();
	model->sectors = sectors;
	model->clock = 1;
	model->tags = sectors + 1;
	for (uint64_t i = 0; i < sectors; i++)
		*add(&model->sector[i]) = (struct value){.tag = 1 + i, .acknowledged = true, .durable = true};
	return model;
}

struct model *model_free(struct model *model)
{
	if (!model)
		return NULL;
	for (uint64_t i = 0; i < model->sectors; i++)
		free(model->sector[i].values);
	free(model);
	return NULL;
}

void model_set_blank(struct model *model, uint64_t sector)
{
	model->sector[sector].values[0].tag = 0;
}

static uint64_t word(uint64_t tag, uint64_t sector, unsigned index)
{
	uint64_t z = tag * 0x9e3779b97f4a7c15u + sector * 0xbf58476d1ce4e5b9u + index;

	if (tag == 0)
		return 0;
	return index == 0 ? tag : z ^ z >> 31;
}

void model_fill(uint8_t *data, uint64_t first, uint64_t count, uint64_t tag)
{
	for (uint64_t i = 0; i < count; i++)
		for (unsigned j = 0; j < MODEL_SECTOR / 8; j++)
			put_le64(data + i * MODEL_SECTOR + j * 8, word(tag, first + i, j));
}

void model_fill_initial(uint8_t *data, uint64_t sectors)
{
	for (uint64_t i = 0; i < sectors; i++)
		model_fill(data + i * MODEL_SECTOR, i, 1, 1 + i);
}

uint64_t model_new_tag(struct model *model)
{
	return ++model->tags;
}

uint64_t model_begin(struct model *model)
{
	return ++model->clock;
}

uint64_t model_write_begin(struct model *model, uint64_t first, uint64_t count, uint64_t tag)
{
	uint64_t began = ++model->clock;

	for (uint64_t i = first; i < first + count; i++)
		*add(&model->sector[i]) = (struct value){.tag = tag, .began = began, .ended = UNDER_WAY};
	return began;
}

static uint64_t oldest_read(const struct model *model)
{
	uint64_t oldest = UNDER_WAY;

	for (unsigned i = 0; i < READS_MAX; i++)
		if (model->reads[i])
			oldest = min_u64(oldest, model->reads[i]);
	return oldest;
}

/* Forgets what no power cut can bring back, and no read under way may have seen yet. */
static void prune(struct sector *sector, uint64_t oldest)
{
	uint64_t newest = 0;
	unsigned kept = 0;

	for (unsigned i = 0; i < sector->count; i++)
		if (sector->values[i].durable && sector->values[i].ended < oldest)
			newest = max_u64(newest, sector->values[i].began);
	for (unsigned i = 0; i < sector->count; i++)
		if (sector->values[i].ended == UNDER_WAY || sector->values[i].ended >= newest ||
		    sector->values[i].began == newest)
			sector->values[kept++] = sector->values[i];
	sector->count = kept;
}

uint64_t model_read_begin(struct model *model)
{
	for (unsigned i = 0; i < READS_MAX; i++)
		if (model->reads[i] == 0)
			return model->reads[i] = ++model->clock;
	abort();
}

void model_read_drop(struct model *model, uint64_t began)
{
	for (unsigned i = 0; i < READS_MAX; i++)
		if (model->reads[i] == began)
			model->reads[i] = 0;
}

void model_write_end(
    struct model *model, uint64_t first, uint64_t count, uint64_t began, bool acknowledged, bool fua)
{
	uint64_t ended = ++model->clock, oldest = oldest_read(model);

	for (uint64_t i = first; i < first + count; i++) {
		struct sector *sector = &model->sector[i];

		for (unsigned j = 0; j < sector->count; j++) {
			struct value *value = &sector->values[j];

			if (value->began != began)
				continue;
			value->ended = ended;
			value->acknowledged = acknowledged && !value->tainted;
			value->durable = value->acknowledged && fua;
			break;
		}
		prune(sector, oldest);
	}
}

void model_flush_end(struct model *model, uint64_t began)
{
	uint64_t oldest = oldest_read(model);

	for (uint64_t i = 0; i < model->sectors; i++) {
		struct sector *sector = &model->sector[i];

		for (unsigned j = 0; j < sector->count; j++)
			if (sector->values[j].acknowledged && sector->values[j].ended < began)
				sector->values[j].durable = true;
		prune(sector, oldest);
	}
}

/* Something that ended before `began` had superseded it. */
static bool is_past(const struct sector *sector, const struct value *value, uint64_t began)
{
	for (unsigned i = 0; i < sector->count; i++) {
		const struct value *other = &sector->values[i];

		if (other->acknowledged && other->began > value->ended && other->ended < began)
			return true;
	}
	return false;
}

static bool sector_read(
    struct sector *sector, uint64_t number, uint64_t began, uint64_t ended, const uint8_t *data)
{
	uint64_t tag = get_le64(data);
	bool found = false, quiet = true;

	for (unsigned i = 0; i < MODEL_SECTOR / 8; i++)
		if (get_le64(data + i * 8) != word(tag, number, i))
			return false;
	for (unsigned i = 0; i < sector->count; i++) {
		const struct value *value = &sector->values[i];

		found = found || (value->tag == tag && (!value->hidden || value->hidden > began) &&
		                     !is_past(sector, value, began));
		quiet = quiet && value->ended < began;
	}
	for (unsigned i = 0; quiet && i < sector->count; i++)
		if (sector->values[i].tag != tag && !sector->values[i].hidden)
			sector->values[i].hidden = ended;
	return found;
}

uint64_t model_read_end(
    struct model *model, uint64_t began, uint64_t first, uint64_t count, const uint8_t *data)
{
	uint64_t ended = ++model->clock;

	model_read_drop(model, began);
	for (uint64_t i = 0; i < count; i++)
		if (!sector_read(&model->sector[first + i], first + i, began, ended, data + i * MODEL_SECTOR))
			return first + i;
	return UINT64_MAX;
}

void model_lost(struct model *model)
{
	for (uint64_t i = 0; i < model->sectors; i++)
		for (unsigned j = 0; j < model->sector[i].count; j++) {
			struct value *value = &model->sector[i].values[j];

			value->hidden = 0;
			value->acknowledged = value->acknowledged && value->durable;
			value->tainted = value->ended == UNDER_WAY;
		}
}

void model_crash(struct model *model, bool power_cut)
{
	uint64_t now = ++model->clock;

	memset(model->reads, 0, sizeof(model->reads));
	for (uint64_t i = 0; i < model->sectors; i++)
		for (unsigned j = 0; j < model->sector[i].count; j++) {
			struct value *value = &model->sector[i].values[j];

			if (value->ended == UNDER_WAY)
				value->ended = now;
			if (!power_cut)
				continue;
			value->hidden = 0;
			value->acknowledged = value->durable;
		}
}

bool model_sector_busy(const struct model *model, uint64_t sector)
{
	const struct sector *it = &model->sector[sector];

	for (unsigned i = 0; i < it->count; i++)
		if (it->values[i].ended == UNDER_WAY)
			return true;
	return false;
}
