/* SPDX-License-Identifier: GPL-2.0-or-later */
/* libFuzzer target: words separated by newlines are parsed as endpoints; what is accepted must hold together.
 */
#include "block/endpoint.h"

#include <assert.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check(const struct endpoint *endpoint, int used, int count)
{
	assert(used >= 1 && used <= count);
	assert(endpoint->name && endpoint->name[0]);
	switch (endpoint->kind) {
	case ENDPOINT_CAPTIVE:
		assert(used >= 3 && endpoint->argv && endpoint->argv[0] && endpoint->argv[0][0]);
		break;
	case ENDPOINT_SSH:
		assert(endpoint->host && endpoint->host[0] && endpoint->host[0] != '-');
		assert(!strpbrk(endpoint->host, " \t\n/") && endpoint->path && endpoint->path[0]);
		break;
	case ENDPOINT_PATH:
	case ENDPOINT_NBD:
		assert(endpoint->path && strcmp(endpoint->path, endpoint->name) == 0 && !endpoint->host);
		break;
	case ENDPOINT_STREAM:
		assert(!endpoint->path && !endpoint->host && !endpoint->argv);
		break;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text = strndup((const char *)data, size);
	char *words[16], *rest = text;
	struct endpoint endpoint;
	struct error error;
	int count = 0, used;

	if (!text)
		return 0;
	while (rest && count < 16)
		words[count++] = strsep(&rest, "\n");
	if (endpoint_parse(&endpoint, words, count, &used, &error) == 0) {
		check(&endpoint, used, count);
		endpoint_done(&endpoint);
	} else {
		assert(error.code < 0 && error.text[0]);
	}
	free(text);
	return 0;
}
