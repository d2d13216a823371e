/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* OPEN, OPENED and FACTS_REPLY as JSON: one place for both sides of the wire. docs/wire/frames.md lists the
 * members. */
#pragma once

#include "block/block.h"
#include "block/open.h"

#include <jansson.h>

struct remote_open {
	char path[4096];
	bool write, create, force_held;
	uint64_t create_size, session;
	enum cache_mode cache;
	enum stage_use stage; /* SETTLE, NEW, RESUME or DROP */
	char stage_dir[4096]; /* "": none was named */
	unsigned keep_points;
};

/* NULL: out of memory, or a path that is not UTF-8. */
json_t *remote_json_open(const char *path, const struct block_open_options *options);
json_t *remote_json_opened(const struct block_info *info);
json_t *remote_json_facts(const struct block_facts *facts);

/* Each returns 0, or -EPROTO with words: members missing, of a wrong type, or not possible. *ret is then in
 * no known state. */
int remote_parse_open(const void *payload, size_t length, struct remote_open *ret, struct error *error);
/* Sets what the far side knows of the volume; name, remote and stream are left alone. */
int remote_parse_opened(const void *payload, size_t length, struct block_info *ret, struct error *error);
int remote_parse_facts(const void *payload, size_t length, struct block_facts *ret, struct error *error);
