/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The NBD codec: what is refused and how, and the bytes of what is built, as the protocol document has them. */
#include "base/bytes.h"
#include "export/nbd_protocol.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void test_greeting(void **state)
{
	uint8_t bytes[NBD_GREETING_BYTES];

	nbd_greeting_build(bytes);
	assert_memory_equal(bytes, "NBDMAGICIHAVEOPT\0\3", sizeof(bytes));
}

static void test_client_flags(void **state)
{
	struct error error;
	bool no_zeroes = false;
	uint8_t bytes[4];

	put_be32(bytes, 3);
	assert_int_equal(nbd_client_flags_parse(bytes, &no_zeroes, &error), 0);
	assert_true(no_zeroes);
	put_be32(bytes, 1);
	assert_int_equal(nbd_client_flags_parse(bytes, &no_zeroes, &error), 0);
	assert_false(no_zeroes);
	put_be32(bytes, 2);
	assert_int_equal(nbd_client_flags_parse(bytes, &no_zeroes, &error), -EPROTO);
	put_be32(bytes, 0x80000001);
	assert_int_equal(nbd_client_flags_parse(bytes, &no_zeroes, &error), -EPROTO);
}

/* Writes an option and returns its length. */
static size_t make_option(uint8_t *at, uint32_t type, const void *data, uint32_t length)
{
	memcpy(at, "IHAVEOPT", 8);
	put_be32(at + 8, type);
	put_be32(at + 12, length);
	memcpy(at + 16, data, length);
	return 16 + length;
}

static void test_option(void **state)
{
	uint8_t bytes[64];
	size_t length = make_option(bytes, NBD_OPTION_ABORT, "abc", 3), used;
	struct nbd_option option;
	struct error error = {0};

	for (size_t i = 0; i < length; i++)
		assert_int_equal(nbd_option_parse(bytes, i, &option, &used, &error), 0);
	assert_int_equal(nbd_option_parse(bytes, length + 5, &option, &used, &error), 1);
	assert_int_equal(used, length);
	assert_int_equal(option.type, NBD_OPTION_ABORT);
	assert_memory_equal(option.data, "abc", 3);
	put_be32(bytes + 12, NBD_OPTION_DATA_MAX + 1);
	assert_int_equal(nbd_option_parse(bytes, 16, &option, &used, &error), -E2BIG);
	assert_int_equal(option.type, NBD_OPTION_ABORT);
	bytes[7] ^= 1;
	assert_int_equal(nbd_option_parse(bytes, 16, &option, &used, &error), -EPROTO);
	assert_true(error.text[0]);
}

static int parse_go(const char *bytes, uint32_t length, struct nbd_go *ret)
{
	struct nbd_option option = {.type = NBD_OPTION_GO, .length = length, .data = (const uint8_t *)bytes};
	struct error error = {0};
	int res = nbd_go_parse(&option, ret, &error);

	assert_true(res == 0 || error.text[0]);
	return res;
}

static void test_go(void **state)
{
	static const char good[] = "\0\0\0\3abc\0\2\0\3\0\2";
	struct nbd_go go;

	assert_int_equal(parse_go(good, 13, &go), 0);
	assert_true(nbd_text_is(go.name, "abc") && !nbd_text_is(go.name, "ab"));
	assert_true(go.wants_block_size && go.wants_description && !go.wants_name);
	for (uint32_t i = 0; i < 13; i++)
		assert_int_equal(parse_go(good, i, &go), -EINVAL);
	assert_int_equal(parse_go(good, 14, &go), -EINVAL);
	assert_int_equal(parse_go("\0\0\0\0\0\0", 6, &go), 0);
	assert_true(nbd_text_is(go.name, ""));
	assert_int_equal(parse_go("\xff\xff\xff\xff\0\0", 6, &go), -EINVAL);
}

static int parse_meta(const char *bytes, uint32_t length, struct nbd_meta *ret)
{
	struct nbd_option option = {.length = length, .data = (const uint8_t *)bytes};
	struct error error = {0};
	int res = nbd_meta_parse(&option, ret, &error);

	assert_true(res == 0 || error.text[0]);
	return res;
}

static void test_meta(void **state)
{
	static const char good[] = "\0\0\0\1x\0\0\0\2\0\0\0\5base:\0\0\0\2qq";
	struct nbd_meta meta;
	struct nbd_text query;

	assert_int_equal(parse_meta(good, 24, &meta), 0);
	assert_true(nbd_text_is(meta.name, "x"));
	assert_true(nbd_meta_next(&meta, &query) && nbd_text_is(query, "base:"));
	assert_true(nbd_meta_next(&meta, &query) && nbd_text_is(query, "qq"));
	assert_false(nbd_meta_next(&meta, &query));
	for (uint32_t i = 0; i < 24; i++)
		assert_int_equal(parse_meta(good, i, &meta), -EINVAL);
	assert_int_equal(parse_meta(good, 25, &meta), -EINVAL);
	/* A count of billions costs nothing. */
	assert_int_equal(parse_meta("\0\0\0\0\xff\xff\xff\xff\0\0\0\0", 12, &meta), -EINVAL);
	assert_int_equal(parse_meta("\0\0\0\0\0\0\0\0", 8, &meta), 0);
	assert_false(nbd_meta_next(&meta, &query));
}

static void test_answers(void **state)
{
	uint8_t bytes[256];
	struct nbd_answers answers = {.data = bytes, .size = sizeof(bytes)};

	nbd_answer_build(&answers, 8, NBD_ANSWER_ACK, NULL, 0);
	assert_memory_equal(bytes, "\0\3\xe8\x89\4\x55\x65\xa9\0\0\0\10\0\0\0\1\0\0\0\0", 20);
	answers.used = 0;
	nbd_answer_build(&answers, 99, NBD_ANSWER_ERROR(NBD_ANSWER_UNSUPPORTED), "no", 2);
	assert_memory_equal(bytes + 8, "\0\0\0\143\x80\0\0\1\0\0\0\2no", 14);
	answers.used = 0;
	nbd_answer_server(&answers, 3, "ab", "words");
	assert_memory_equal(bytes + 16, "\0\0\0\13\0\0\0\2abwords", 15);
	answers.used = 0;
	nbd_answer_info_export(&answers, 7, 0x123456789a, 0x102);
	assert_memory_equal(bytes + 16, "\0\0\0\14\0\0\0\0\0\x12\x34\x56\x78\x9a\1\2", 16);
	answers.used = 0;
	nbd_answer_info_block_size(&answers, 7, 1, 4096, 1 << 25);
	assert_memory_equal(bytes + 20, "\0\3\0\0\0\1\0\0\20\0\2\0\0\0", 14);
	answers.used = 0;
	nbd_answer_meta_context(&answers, 10, 1, "base:allocation");
	assert_memory_equal(bytes + 16, "\0\0\0\23\0\0\0\1base:allocation", 23);
	answers.used = 0;
	nbd_answer_export_name(&answers, 5, 1, false);
	assert_int_equal(answers.used, 134);
	nbd_answer_export_name(&answers, 5, 1, true);
	assert_int_equal(answers.used, 144);
	/* When it is full, nothing is added, and it is said. */
	nbd_answer_build(&answers, 1, NBD_ANSWER_ACK, bytes, 200);
	assert_true(answers.overflow && answers.used == 144);
	nbd_answer_build(&answers, 1, NBD_ANSWER_ACK, NULL, 0);
	assert_int_equal(answers.used, 144);
}

static void test_request(void **state)
{
	static const char good[] = "\x25\x60\x95\x13\0\1\0\1\1\2\3\4\5\6\7\10\0\0\0\0\0\1\0\0\0\0\2\0";
	uint8_t bytes[NBD_REQUEST_BYTES];
	struct nbd_request request;
	struct error error;

	memcpy(bytes, good, sizeof(bytes));
	assert_int_equal(nbd_request_parse(bytes, &request, &error), 0);
	assert_true(request.type == NBD_COMMAND_WRITE && request.flags == NBD_FLAG_FUA);
	assert_true(request.cookie == 0x0102030405060708 && request.offset == 65536 && request.length == 512);
	put_be32(bytes + 24, NBD_PAYLOAD_MAX + 1);
	assert_int_equal(nbd_request_parse(bytes, &request, &error), -EPROTO);
	bytes[7] = NBD_COMMAND_READ;
	assert_int_equal(nbd_request_parse(bytes, &request, &error), 0);
	bytes[0]++;
	assert_int_equal(nbd_request_parse(bytes, &request, &error), -EPROTO);
}

#define ALL 0xffff

static const struct check_row {
	uint16_t type, flags;
	uint64_t offset;
	uint32_t length;
	uint16_t export_flags; /* beyond HAS_FLAGS */
	bool structured, allocation;
	uint32_t align;
	int res;
} rows[] = {
    {NBD_COMMAND_READ, 0, 0, 1, 0, false, false, 1, 0},
    {NBD_COMMAND_READ, 0, 999, 1, 0, false, false, 1, 0},
    {NBD_COMMAND_READ, 0, 999, 2, 0, false, false, 1, -EINVAL},
    {NBD_COMMAND_READ, 0, 1000, 1, 0, false, false, 1, -EINVAL},
    {NBD_COMMAND_READ, 0, UINT64_MAX, 2, 0, false, false, 1, -EINVAL},
    {NBD_COMMAND_READ, 0, 0, 0, 0, false, false, 1, -EINVAL},
    {NBD_COMMAND_READ, NBD_FLAG_DF, 0, 1, 0, false, false, 1, -EINVAL},
    {NBD_COMMAND_READ, NBD_FLAG_DF, 0, 1, 0, true, false, 1, 0},
    {NBD_COMMAND_READ, NBD_FLAG_NO_HOLE, 0, 1, NBD_EXPORT_FUA, true, false, 1, -EINVAL},
    {NBD_COMMAND_READ, 0x20, 0, 1, 0, true, false, 1, -EINVAL},
    {NBD_COMMAND_READ, 0, 0, 100, 0, true, false, 512, -EINVAL},
    {NBD_COMMAND_READ, 0, 512, 488, 0, true, false, 512, 0},
    {NBD_COMMAND_READ, 0, 100, 900, 0, true, false, 512, -EINVAL},
    {NBD_COMMAND_WRITE, 0, 999, 2, 0, false, false, 1, -ENOSPC},
    {NBD_COMMAND_WRITE, 0, 0, 2, NBD_EXPORT_READ_ONLY, false, false, 1, -EPERM},
    {NBD_COMMAND_WRITE, NBD_FLAG_FUA, 0, 2, 0, false, false, 1, -EINVAL},
    {NBD_COMMAND_WRITE, NBD_FLAG_FUA, 0, 2, NBD_EXPORT_FUA, false, false, 1, 0},
    {NBD_COMMAND_FLUSH, 0, 0, 0, 0, false, false, 1, -EINVAL},
    {NBD_COMMAND_FLUSH, 0, 0, 0, NBD_EXPORT_FLUSH, false, false, 1, 0},
    {NBD_COMMAND_FLUSH, 0, 0, 1, NBD_EXPORT_FLUSH, false, false, 1, -EINVAL},
    {NBD_COMMAND_TRIM, 0, 0, 1000, 0, false, false, 1, -EINVAL},
    {NBD_COMMAND_TRIM, 0, 0, 1000, NBD_EXPORT_TRIM, false, false, 1, 0},
    {NBD_COMMAND_TRIM, 0, 0, 1001, NBD_EXPORT_TRIM, false, false, 1, -EINVAL},
    {NBD_COMMAND_WRITE_ZEROES, NBD_FLAG_NO_HOLE, 0, 1000, NBD_EXPORT_WRITE_ZEROES, false, false, 1, 0},
    {NBD_COMMAND_WRITE_ZEROES, NBD_FLAG_FAST_ZERO, 0, 10, NBD_EXPORT_WRITE_ZEROES, false, false, 1, -EINVAL},
    {NBD_COMMAND_WRITE_ZEROES, 0, 1, 1000, NBD_EXPORT_WRITE_ZEROES, false, false, 1, -ENOSPC},
    {NBD_COMMAND_CACHE, 0, 0, 10, 0, false, false, 1, -EOPNOTSUPP},
    {NBD_COMMAND_BLOCK_STATUS, 0, 0, 10, 0, true, false, 1, -EINVAL},
    {NBD_COMMAND_BLOCK_STATUS, NBD_FLAG_REQ_ONE, 0, 10, 0, true, true, 1, 0},
    {NBD_COMMAND_DISCONNECT, 0, 0, 0, 0, true, true, 1, -EINVAL},
    {8, 0, 0, 10, ALL & ~NBD_EXPORT_READ_ONLY, true, true, 1, -EINVAL},
    {0xffff, 0, 0, 10, ALL & ~NBD_EXPORT_READ_ONLY, true, true, 1, -EINVAL},
};

static void test_h12_requests_are_judged(void **state)
{
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		const struct check_row *row = &rows[i];
		struct nbd_request request = {
		    .type = row->type, .flags = row->flags, .offset = row->offset, .length = row->length};
		struct nbd_shape shape = {.size = 1000,
		    .request_align = row->align,
		    .flags = (uint16_t)(row->export_flags | NBD_EXPORT_HAS_FLAGS),
		    .structured = row->structured,
		    .allocation = row->allocation};

		if (nbd_request_check(&request, &shape) != row->res)
			fail_msg(
			    "row %zu: %d instead of %d", i, nbd_request_check(&request, &shape), row->res);
	}
}

static void test_replies(void **state)
{
	uint8_t bytes[NBD_REPLY_BYTES + 12];

	assert_int_equal(nbd_simple_reply_build(bytes, 0x0102030405060708, -ENOSPC), 16);
	assert_memory_equal(bytes, "\x67\x44\x66\x98\0\0\0\34\1\2\3\4\5\6\7\10", 16);
	assert_int_equal(nbd_chunk_build(bytes, 9, NBD_CHUNK_NONE, 0), 20);
	assert_memory_equal(bytes, "\x66\x8e\x33\xef\0\1\0\0\0\0\0\0\0\0\0\11\0\0\0\0", 20);
	assert_int_equal(nbd_chunk_error_build(bytes, 9, -EIO), 26);
	assert_memory_equal(bytes + 6, "\x80\1\0\0\0\0\0\0\0\11\0\0\0\6\0\0\0\5\0\0", 20);
	assert_int_equal(nbd_chunk_data_build(bytes, 9, 512, 100), 28);
	assert_memory_equal(bytes + 16, "\0\0\0\154\0\0\0\0\0\0\2\0", 12);
	assert_int_equal(nbd_chunk_status_build(bytes, 9, 1, 2), 24);
	assert_memory_equal(bytes + 16, "\0\0\0\24\0\0\0\1", 8);
	nbd_descriptor_build(bytes, 0x01020304, 3);
	assert_memory_equal(bytes, "\1\2\3\4\0\0\0\3", 8);
}

static void test_errors_are_what_they_are(void **state)
{
	static const struct {
		int res;
		uint32_t number;
	} known[] = {{0, 0}, {-EPERM, 1}, {-EROFS, 1}, {-EIO, 5}, {-ENOMEM, 12}, {-EINVAL, 22}, {-ENOSPC, 28},
	    {-EDQUOT, 28}, {-EOPNOTSUPP, 95}, {-ESHUTDOWN, 108}, {-ENOTCONN, 5}, {-EILSEQ, 5}};

	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
		assert_int_equal(nbd_error_number(known[i].res), known[i].number);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_greeting),
	    cmocka_unit_test(test_client_flags),
	    cmocka_unit_test(test_option),
	    cmocka_unit_test(test_go),
	    cmocka_unit_test(test_meta),
	    cmocka_unit_test(test_answers),
	    cmocka_unit_test(test_request),
	    cmocka_unit_test(test_h12_requests_are_judged),
	    cmocka_unit_test(test_replies),
	    cmocka_unit_test(test_errors_are_what_they_are),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
