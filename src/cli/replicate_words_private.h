/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The inside of replicate_words.h: replicate_words.c (how a resource stands), replicate_next.c (what somebody has to do, and at which risk). All
 * read a status and keep nothing.
 */
#pragma once

#include "cli/control_client.h"
#include "cli/replicate_words.h"

#include <stdbool.h>
#include <string.h>

static inline bool status_is(const json_t *status, const char *key)
{
	return json_is_true(json_object_get(status, key));
}

static inline bool status_says(const json_t *status, const char *key, const char *word)
{
	return !strcmp(control_string(status, key), word);
}

static inline bool status_has_text(const json_t *status, const char *key)
{
	const char *text = json_string_value(json_object_get(status, key));

	return text && text[0];
}

/* Of this node's data: "new", "inconsistent", "outdated", "good". */
const char *replicate_words_state(const json_t *status);
/* A primary whose clients use the other node's disk, and that other node. */
bool replicate_words_is_diskless(const json_t *status);
bool replicate_words_has_the_only_data(const json_t *status);
/* Found by a verification, and not sent again yet. */
bool replicate_words_differ(const json_t *status);
/* What somebody has to do; "": nothing. Returns buf. */
const char *replicate_words_next(const json_t *status, char *buf, size_t length);
