/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Bytes of a scripted peer: frames, right or wrong, one after another. */
#pragma once

#include "base/bytes.h"
#include "base/crc32c.h"
#include "wire/frame.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct script {
	uint8_t *bytes;
	size_t used;
};

static inline void script_raw(struct script *script, const void *bytes, size_t length)
{
	script->bytes = realloc(script->bytes, script->used + length + 1);
	if (length)
		memcpy(script->bytes + script->used, bytes, length);
	script->used += length;
}

/* Sets length and checksum; the payload's bytes follow. */
static inline void script_frame(struct script *script, struct frame frame, const void *payload, size_t length)
{
	uint8_t header[FRAME_HEADER_BYTES];

	frame.payload_length = (uint32_t)length;
	frame.payload_crc = length ? crc32c(0, payload, length) : 0;
	frame_encode(&frame, header);
	script_raw(script, header, sizeof(header));
	script_raw(script, payload, length);
}

static inline void script_text(struct script *script, enum frame_type type, uint64_t id, const char *text)
{
	script_frame(script, (struct frame){.type = type, .id = id}, text, strlen(text));
}

static inline void script_done(struct script *script)
{
	free(script->bytes);
	*script = (struct script){0};
}
