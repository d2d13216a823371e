/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* An element that is not known could mean a change: it ends the reading. */
#include "track/dm_metadata_format.h"

#include <errno.h>
#include <string.h>

static int not_understood(const char *name, struct error *error)
{
	return error_set(error, -EPROTO, "its <%.40s> is not understood", name);
}

/* Blocks [begin, begin + length), of which the last one may be a part. */
static int add(struct changes *changes, uint64_t block, uint64_t begin, uint64_t length, const char *name,
    struct error *error)
{
	uint64_t blocks = changes->end / block + (changes->end % block != 0);

	if (length == 0 || begin >= blocks || length > blocks - begin)
		return error_set(error, -EPROTO,
		    "its <%.40s> of %llu blocks from %llu on goes beyond the volume's %llu", name,
		    (unsigned long long)length, (unsigned long long)begin, (unsigned long long)blocks);
	if (changes_add(changes, begin * block, length * block) < 0)
		return error_set(error, -ENOMEM, "out of memory");
	return 0;
}

static int superblock(struct thin_delta *delta, const char *const *attributes, struct error *error)
{
	uint64_t sectors;

	if (delta->saw_superblock || !xml_number(attributes, "data_block_size", &sectors))
		return not_understood("superblock", error);
	if (sectors == 0 || sectors != delta->block / 512)
		return error_set(error, -EPROTO, "it is of blocks of %llu sectors, the pool's have %llu",
		    (unsigned long long)sectors, (unsigned long long)delta->block / 512);
	delta->saw_superblock = true;
	return 0;
}

static int diff(struct thin_delta *delta, const char *const *attributes, struct error *error)
{
	uint64_t left, right;

	if (delta->saw_diff || !xml_number(attributes, "left", &left) ||
	    !xml_number(attributes, "right", &right))
		return not_understood("diff", error);
	if (left != delta->left || right != delta->right)
		return error_set(error, -EPROTO, "it compared other volumes than it was asked to");
	delta->saw_diff = true;
	return 0;
}

static bool is_change(const char *name)
{
	return !strcmp(name, "different") || !strcmp(name, "left_only") || !strcmp(name, "right_only");
}

int thin_delta_element(
    void *thin_delta, unsigned depth, const char *name, const char *const *attributes, struct error *error)
{
	struct thin_delta *delta = thin_delta;
	uint64_t begin, length;

	if (depth == 0 && !strcmp(name, "superblock"))
		return superblock(delta, attributes, error);
	if (depth == 1 && !strcmp(name, "diff"))
		return diff(delta, attributes, error);
	if (depth == 2 && !strcmp(name, "same"))
		return 0;
	if (depth != 2 || !is_change(name) || !xml_number(attributes, "begin", &begin) ||
	    !xml_number(attributes, "length", &length))
		return not_understood(name, error);
	return add(delta->changes, delta->block, begin, length, name, error);
}

int thin_delta_end(const struct thin_delta *delta, struct error *error)
{
	return delta->saw_diff ? 0 : error_set(error, -EPROTO, "it compared nothing");
}

int era_blocks_element(
    void *era_blocks, unsigned depth, const char *name, const char *const *attributes, struct error *error)
{
	struct era_blocks *blocks = era_blocks;
	uint64_t begin, end;

	if (depth == 0 && !strcmp(name, "blocks")) {
		blocks->saw_blocks = true;
		return 0;
	}
	if (depth == 1 && !strcmp(name, "block") && xml_number(attributes, "block", &begin))
		return add(blocks->changes, blocks->block, begin, 1, name, error);
	if (depth == 1 && !strcmp(name, "range") && xml_number(attributes, "begin", &begin) &&
	    xml_number(attributes, "end", &end) && end > begin)
		return add(blocks->changes, blocks->block, begin, end - begin, name, error);
	return not_understood(name, error);
}

int era_blocks_end(const struct era_blocks *blocks, struct error *error)
{
	return blocks->saw_blocks ? 0 : error_set(error, -EPROTO, "it listed nothing");
}
