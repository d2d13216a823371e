/* SPDX-License-Identifier: GPL-2.0-or-later */
/* libFuzzer target: a size as typed; what is accepted prints and reads again, and a refusal has words. */
#include "base/parse_size.h"

#include <assert.h>
#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text = strndup((const char *)data, size), buf[16];
	uint64_t bytes = 7;
	struct error error = {0};
	int res;

	if (!text)
		return 0;
	res = parse_size(text, &bytes, &error);
	if (res == 0) {
		assert(text[0] >= '0' && text[0] <= '9');
		assert(strlen(format_size(bytes, buf, sizeof(buf))) < sizeof(buf));
	} else {
		assert((res == -EINVAL || res == -ERANGE) && error.code == res && error.text[0]);
		assert(bytes == 7);
	}
	free(text);
	return 0;
}
