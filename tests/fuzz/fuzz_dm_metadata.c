/* SPDX-License-Identifier: GPL-2.0-or-later */
/* libFuzzer target: what a tool of thin-provisioning-tools might print. What is taken lies in the volume; a refusal has words. Input: which tool (a byte), the text. */
#include "base/bytes.h"
#include "track/dm_metadata_format.h"

#include <assert.h>

#define BLOCK (UINT64_C(64) << 10)
#define SIZE  (100 * BLOCK - 1536)
#define PIECE 61u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int feed(const struct xml_handler *handler, const char *text, size_t length)
{
	struct error error = {0};
	struct xml *xml;
	int res = 0;

	assert(xml_new(&xml, handler, NULL) == 0);
	for (size_t at = 0; res == 0 && at < length; at += PIECE)
		res = xml_feed(xml, text + at, min_u64(PIECE, length - at), false, &error);
	if (res == 0)
		res = xml_feed(xml, "", 0, true, &error);
	assert(res == 0 || (res < 0 && error.text[0]));
	xml_free(xml);
	return res;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct changes changes;
	struct thin_delta delta = {.changes = &changes, .left = 1, .right = 2, .block = BLOCK};
	struct era_blocks blocks = {.changes = &changes, .block = BLOCK};
	struct range_set set;

	if (size < 1)
		return 0;
	changes_init(&changes, SIZE);
	if (data[0] & 1)
		feed(&(struct xml_handler){&delta, thin_delta_element}, (const char *)data + 1, size - 1);
	else
		feed(&(struct xml_handler){&blocks, era_blocks_element}, (const char *)data + 1, size - 1);
	assert(changes_take(&changes, &set) == 0);
	for (size_t i = 0; i < set.count; i++)
		assert(set.ranges[i].offset + set.ranges[i].length <= SIZE);
	range_set_done(&set);
	return 0;
}
