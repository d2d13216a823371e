/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * libFuzzer target: the JSON of control frames, as either side gets it from a peer that it does not trust.
 * The first byte says which frame it is. What is accepted is clean, bounded and possible.
 */
#include "block/remote_json.h"
#include "wire/control.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_clean(const char *text, size_t size)
{
	assert(memchr(text, '\0', size));
	for (const unsigned char *at = (const unsigned char *)text; *at; at++)
		assert(*at >= 0x20 && *at != 0x7f);
}

static int parse_opened(const uint8_t *data, size_t size, struct error *error)
{
	struct block_info info = {.name = "kept"};
	int res = remote_parse_opened(data, size, &info, error);

	assert(strcmp(info.name, "kept") == 0);
	if (res == 0) {
		assert(info.size <= INT64_MAX);
		assert(info.sector_size >= 1 && info.request_align >= 1);
	}
	return res;
}

static int parse_facts(const uint8_t *data, size_t size, struct error *error)
{
	struct block_facts facts = {0};
	int res = remote_parse_facts(data, size, &facts, error);

	if (res == 0) {
		check_clean(facts.id, sizeof(facts.id));
		check_clean(facts.mark, sizeof(facts.mark));
		check_clean(facts.mounted, sizeof(facts.mounted));
		check_clean(facts.held, sizeof(facts.held));
		check_clean(facts.writer, sizeof(facts.writer));
		check_clean(facts.signature, sizeof(facts.signature));
	}
	return res;
}

static int parse_open(const uint8_t *data, size_t size, struct error *error)
{
	struct remote_open open = {0};
	int res = remote_parse_open(data, size, &open, error);

	if (res == 0)
		assert(memchr(open.path, '\0', sizeof(open.path)) && open.path[0]);
	return res;
}

static int parse_error(const uint8_t *data, size_t size, struct error *error)
{
	struct error told = {0};
	int res = control_error_parse(data, size, &told, error);

	if (res == 0) {
		assert(told.code < 0 && told.text[0]);
		check_clean(told.text, sizeof(told.text));
	}
	return res;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static int (*const parse[])(const uint8_t *data, size_t size, struct error *error) = {
	    parse_opened, parse_facts, parse_open, parse_error};
	struct error error = {0};

	if (size < 1)
		return 0;
	int res = parse[data[0] % 4](data + 1, size - 1, &error);

	if (res < 0) {
		assert(error.text[0]);
		check_clean(error.text, sizeof(error.text));
	}
	return 0;
}
