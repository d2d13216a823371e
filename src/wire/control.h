/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The JSON of control frames: reading it without trust, and the shape of ERROR. */
#pragma once

#include "base/error.h"

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* An object, or NULL and -EPROTO with words. */
json_t *control_parse(const void *payload, size_t length, struct error *error);
/* Members of an object. Returns 0, or -EPROTO with words when it is missing or of another type. */
int control_get_u64(const json_t *object, const char *name, uint64_t *ret, struct error *error);
int control_get_bool(const json_t *object, const char *name, bool *ret, struct error *error);
/* Text is cut to size - 1 bytes; control characters become '?'. A missing text is empty. */
int control_get_text(const json_t *object, const char *name, char *ret, size_t size, struct error *error);

/*
 * Any text as a JSON string: what is not UTF-8, such as a name in another encoding or a character cut in two, becomes \xNN for
 * each byte. Jansson takes no such text, and a member or a whole object would be lost. NULL if out of memory.
 */
json_t *control_text(const char *text);

/* {"code": "EIO", "text": words}. code: negative. NULL if out of memory. */
json_t *control_error(int code, const char *text);
/* The other way: sets *ret from an ERROR's payload. Returns 0, or -EPROTO with words in `error`. */
int control_error_parse(const void *payload, size_t length, struct error *ret, struct error *error);

/* What came over the wire, fit for a terminal: control characters become '?', in place. */
void control_clean(char *text);

static inline void control_cleanup(json_t **json)
{
	json_decref(*json);
}
