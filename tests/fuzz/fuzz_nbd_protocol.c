/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * libFuzzer target: what a client sends, as options one after the other, then as requests. What is accepted lies inside the
 * input and keeps to the limits; a refusal has words.
 */
#include "base/bytes.h"
#include "export/nbd_protocol.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_inside(const struct nbd_option *option, struct nbd_text text)
{
	const char *begin = (const char *)option->data;

	assert(text.length <= NBD_NAME_MAX);
	assert(text.text >= begin && text.text + text.length <= begin + option->length);
}

static void check_option(const struct nbd_option *option)
{
	struct error error = {0};
	struct nbd_go go;
	struct nbd_meta meta;
	struct nbd_text query;
	uint32_t count = 0;

	if (nbd_go_parse(option, &go, &error) == 0)
		check_inside(option, go.name);
	else
		assert(error.code == -EINVAL && error.text[0]);
	if (nbd_meta_parse(option, &meta, &error) < 0) {
		assert(error.code == -EINVAL && error.text[0]);
		return;
	}
	check_inside(option, meta.name);
	for (uint32_t promised = meta.queries_count; nbd_meta_next(&meta, &query); count++) {
		check_inside(option, query);
		assert(count < promised);
	}
	assert(meta.queries_count == 0);
}

static void check_request(const uint8_t *data)
{
	static const struct nbd_shape shape = {
	    .size = 1000003, .request_align = 1, .flags = 0xffff & ~NBD_EXPORT_READ_ONLY, .structured = true};
	struct error error = {0};
	struct nbd_request request;

	if (nbd_request_parse(data, &request, &error) < 0) {
		assert(error.code == -EPROTO && error.text[0]);
		return;
	}
	if (nbd_request_check(&request, &shape) < 0)
		return;
	assert(request.offset <= shape.size && request.length <= shape.size - request.offset);
	assert(request.type != NBD_COMMAND_DISCONNECT && request.type != NBD_COMMAND_BLOCK_STATUS);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct error error = {0};
	struct nbd_option option;
	size_t at = 0, used;
	bool no_zeroes;
	int res = 1;

	if (size < NBD_CLIENT_FLAGS_BYTES)
		return 0;
	if (nbd_client_flags_parse(data, &no_zeroes, &error) < 0)
		assert(error.code == -EPROTO && error.text[0]);
	for (at = NBD_CLIENT_FLAGS_BYTES; res == 1; at += used) {
		res = nbd_option_parse(data + at, size - at, &option, &used, &error);
		if (res < 0)
			assert(error.text[0]);
		if (res != 1)
			break;
		assert(used <= size - at && option.length <= NBD_OPTION_DATA_MAX);
		check_option(&option);
	}
	for (; size - at >= NBD_REQUEST_BYTES; at += NBD_REQUEST_BYTES)
		check_request(data + at);
	return 0;
}
