/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What thin_delta and era_invalidate print: all that changed, in whatever pieces it comes; and no document that is not as it should be. */
#include "track/dm_metadata_format.h"
#include "volume.h"

#include <setjmp.h>
#include <stdarg.h>

#include <cmocka.h>

#define BLOCK (UINT64_C(64) << 10)
#define SIZE  (100 * BLOCK - 1536) /* the last block is a part */

/* Feeds a document in pieces of `piece` bytes. */
static int feed(const struct xml_handler *handler, const char *text, size_t piece)
{
	size_t length = strlen(text);
	struct error error = {0};
	struct xml *xml;
	int res;

	assert_int_equal(xml_new(&xml, handler, NULL), 0);
	for (size_t at = 0;
	     (res = xml_feed(xml, text + at, min_u64(piece, length - at), false, &error)) == 0;) {
		at += min_u64(piece, length - at);
		if (at == length)
			break;
	}
	if (res == 0)
		res = xml_feed(xml, "", 0, true, &error);
	assert_true(res == 0 || error.text[0]);
	xml_free(xml);
	return res;
}

static int read_delta(const char *text, size_t piece, struct range_set *ret)
{
	struct changes changes;
	struct thin_delta delta = {.changes = &changes, .left = 1, .right = 2, .block = BLOCK};
	int res;

	changes_init(&changes, SIZE);
	res = feed(&(struct xml_handler){&delta, thin_delta_element}, text, piece);
	if (res == 0)
		res = thin_delta_end(&delta, &(struct error){0});
	assert_int_equal(changes_take(&changes, ret), 0);
	return res;
}

static int read_era(const char *text, size_t piece, struct range_set *ret)
{
	struct changes changes;
	struct era_blocks blocks = {.changes = &changes, .block = BLOCK};
	int res;

	changes_init(&changes, SIZE);
	res = feed(&(struct xml_handler){&blocks, era_blocks_element}, text, piece);
	if (res == 0)
		res = era_blocks_end(&blocks, &(struct error){0});
	assert_int_equal(changes_take(&changes, ret), 0);
	return res;
}

#define HEAD \
	"<superblock uuid=\"\" time=\"3\" transaction=\"5\" data_block_size=\"128\" " \
	"nr_data_blocks=\"1000\">\n"
#define DIFF "  <diff left=\"1\" right=\"2\">\n"
#define TAIL "  </diff>\n</superblock>\n"

static void check_delta(const struct range_set *set)
{
	assert_int_equal(set->count, 3);
	assert_true(range_set_contains(set, 2 * BLOCK, BLOCK));
	assert_true(range_set_contains(set, 10 * BLOCK, 5 * BLOCK));
	assert_true(range_set_contains(set, 98 * BLOCK, SIZE - 98 * BLOCK));
	assert_int_equal(set->bytes, 6 * BLOCK + SIZE - 98 * BLOCK);
}

static void test_h12_thin_delta(void **state)
{
	static const char text[] =
	    HEAD DIFF "<same begin=\"0\" length=\"2\"/><different begin=\"2\" length=\"1\"/>"
	              "<left_only begin=\"10\" length=\"3\"/><right_only begin=\"13\" length=\"2\"/>\n"
	              "<right_only begin=\"98\" length=\"2\"/>\n" TAIL;

	for (size_t piece = 1; piece < sizeof(text) + 10; piece += piece < 20 ? 1 : 50) {
		struct range_set set;

		assert_int_equal(read_delta(text, piece, &set), 0);
		check_delta(&set);
		range_set_done(&set);
	}
}

static void test_h14_thin_delta_that_is_wrong(void **state)
{
	static const char *const texts[] = {
	    "",
	    HEAD,
	    HEAD "</superblock>",
	    HEAD DIFF,
	    HEAD DIFF "</diff>",
	    HEAD DIFF "<same begin=\"0\" length=\"1\"/>",
	    "<superblock data_block_size=\"64\">" DIFF TAIL,
	    "<superblock>" DIFF TAIL,
	    "<blocks/>",
	    HEAD "<diff left=\"2\" right=\"1\">" TAIL,
	    HEAD "<diff left=\"1\">" TAIL,
	    HEAD DIFF "<changed begin=\"0\" length=\"1\"/>" TAIL,
	    HEAD DIFF "<different begin=\"0\"/>" TAIL,
	    HEAD DIFF "<different begin=\"0\" length=\"0\"/>" TAIL,
	    HEAD DIFF "<different begin=\"-1\" length=\"1\"/>" TAIL,
	    HEAD DIFF "<different begin=\"0x1\" length=\"1\"/>" TAIL,
	    HEAD DIFF "<different begin=\"1 \" length=\"1\"/>" TAIL,
	    HEAD DIFF "<different begin=\"99\" length=\"2\"/>" TAIL,
	    HEAD DIFF "<different begin=\"100\" length=\"1\"/>" TAIL,
	    HEAD DIFF "<different begin=\"1\" length=\"18446744073709551615\"/>" TAIL,
	    HEAD DIFF "<different begin=\"18446744073709551616\" length=\"1\"/>" TAIL,
	    HEAD DIFF TAIL "x",
	    "<!DOCTYPE a [<!ENTITY b \"c\">]>" HEAD DIFF TAIL,
	    HEAD DIFF "<different begin=\"0\" length=\"1\"><a><b><c><d><e/></d></c></b></a></different>" TAIL,
	};

	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
		struct range_set set;

		if (read_delta(texts[i], 7, &set) == 0)
			fail_msg("it took %s", texts[i]);
		range_set_done(&set);
	}
}

static void test_h12_era_blocks(void **state)
{
	/* As era_invalidate 0.9 writes it. */
	static const char text[] = "<blocks>\n  <range begin=\"3\" end = \"6\"/>\n  <block block=\"9\"/>\n"
	                           "  <block block=\"99\"/>\n</blocks>\n";

	for (size_t piece = 1; piece < sizeof(text) + 10; piece++) {
		struct range_set set;

		assert_int_equal(read_era(text, piece, &set), 0);
		assert_int_equal(set.count, 3);
		assert_true(range_set_contains(&set, 3 * BLOCK, 3 * BLOCK));
		assert_true(range_set_contains(&set, 9 * BLOCK, BLOCK));
		assert_true(range_set_contains(&set, 99 * BLOCK, SIZE - 99 * BLOCK));
		assert_int_equal(set.bytes, 4 * BLOCK + SIZE - 99 * BLOCK);
		range_set_done(&set);
	}
}

static void test_h14_era_blocks_that_are_wrong(void **state)
{
	static const char *const texts[] = {
	    "",
	    "<blocks>",
	    "<blocks><block/></blocks>",
	    "<blocks><block block=\"100\"/></blocks>",
	    "<blocks><range begin=\"5\" end=\"5\"/></blocks>",
	    "<blocks><range begin=\"6\" end=\"5\"/></blocks>",
	    "<blocks><range begin=\"99\" end=\"101\"/></blocks>",
	    "<blocks><era block=\"1\"/></blocks>",
	    "<superblock/>",
	    "<blocks><block block=\"1\"/></blocks><blocks/>",
	};
	struct range_set set;

	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
		if (read_era(texts[i], 9, &set) == 0)
			fail_msg("it took %s", texts[i]);
		range_set_done(&set);
	}
	/* Nothing written is an answer. */
	assert_int_equal(read_era("<blocks></blocks>", 9, &set), 0);
	assert_int_equal(set.count, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_h12_thin_delta),
	    cmocka_unit_test(test_h14_thin_delta_that_is_wrong),
	    cmocka_unit_test(test_h12_era_blocks),
	    cmocka_unit_test(test_h14_era_blocks_that_are_wrong),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
