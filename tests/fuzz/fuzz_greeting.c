/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * libFuzzer target: the first lines on a stream between two replicas' hosts, from whoever can reach the port. The first byte says which
 * of the two it is. What is accepted is bounded, and can be said again; what is refused can be told to who said it.
 */
#include "replica/replica_greeting.h"
#include "replica/replica_wire.h"

#include <assert.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_greeting(const struct replica_greeting *greeting)
{
	char line[REPLICA_GREETING_MAX];
	struct replica_greeting again = {0};
	int length = replica_greeting_format(greeting, line);

	assert(greeting->resource[0] && memchr(greeting->resource, '\0', sizeof(greeting->resource)));
	assert(greeting->link > 0 && greeting->link <= REPLICA_NAME_MAX);
	assert(length > 1 && (size_t)length <= REPLICA_GREETING_MAX);
	assert(replica_greeting_parse(line, (size_t)length - 1, &again, NULL) == 0);
	assert(!strcmp(again.resource, greeting->resource) && again.link == greeting->link);
}

static void check_refusal(const struct error *error)
{
	char line[REPLICA_GREETING_MAX];
	struct error again = {0};
	int length;

	assert(error->code < 0 && error->text[0]);
	length = replica_greeting_answer_format(error->text, line);
	assert(length > 1 && (size_t)length <= REPLICA_GREETING_MAX);
	assert(replica_greeting_answer_parse(line, (size_t)length - 1, &again) < 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct replica_greeting greeting = {0};
	struct error error = {0};

	if (size < 1)
		return 0;
	if (data[0] % 2) {
		if (replica_greeting_answer_parse((const char *)data + 1, size - 1, &error) < 0)
			check_refusal(&error);
	} else if (replica_greeting_parse((const char *)data + 1, size - 1, &greeting, &error) == 0) {
		check_greeting(&greeting);
	} else {
		check_refusal(&error);
	}
	return 0;
}
