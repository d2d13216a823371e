/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* JSON of control frames: see control.h. Nothing of the peer's reaches a message uncleaned. */
#include "wire/control.h"

#include "base/cleanup.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ERRNO_MAX 134

json_t *control_parse(const void *payload, size_t length, struct error *error)
{
	json_error_t why;
	json_t *json = json_loadb(payload, length, JSON_REJECT_DUPLICATES, &why);

	if (json && json_is_object(json))
		return json;
	json_decref(json);
	error_set(error, -EPROTO, "a control frame that is no JSON object");
	return NULL;
}

int control_get_u64(const json_t *object, const char *name, uint64_t *ret, struct error *error)
{
	const json_t *value = json_object_get(object, name);

	if (!json_is_integer(value) || json_integer_value(value) < 0)
		return error_set(error, -EPROTO, "'%s' is missing or no size", name);
	*ret = (uint64_t)json_integer_value(value);
	return 0;
}

int control_get_bool(const json_t *object, const char *name, bool *ret, struct error *error)
{
	const json_t *value = json_object_get(object, name);

	if (!json_is_boolean(value))
		return error_set(error, -EPROTO, "'%s' is missing or neither true nor false", name);
	*ret = json_is_true(value);
	return 0;
}

void control_clean(char *text)
{
	for (unsigned char *at = (unsigned char *)text; *at; at++)
		/* Escape sequences, and the second byte of C1 controls in UTF-8. */
		if (*at < 0x20 || *at == 0x7f || (*at == 0xc2 && at[1] >= 0x80 && at[1] < 0xa0))
			*at = '?';
}

int control_get_text(const json_t *object, const char *name, char *ret, size_t size, struct error *error)
{
	const json_t *value = json_object_get(object, name);

	if (value && !json_is_string(value))
		return error_set(error, -EPROTO, "'%s' is not a text", name);
	snprintf(ret, size, "%s", value ? json_string_value(value) : "");
	control_clean(ret);
	return 0;
}

/* The bytes of the UTF-8 character at `at` (RFC 3629), or 0: too long a form, a surrogate, cut short. */
static unsigned utf8_length(const unsigned char *at)
{
	unsigned length = at[0] < 0x80   ? 1
	                  : at[0] < 0xc2 ? 0
	                  : at[0] < 0xe0 ? 2
	                  : at[0] < 0xf0 ? 3
	                  : at[0] < 0xf5 ? 4
	                                 : 0;

	/* The end of the text is no such byte either. */
	for (unsigned i = 1; i < length; i++)
		if ((at[i] & 0xc0) != 0x80)
			return 0;
	if ((at[0] == 0xe0 && at[1] < 0xa0) || (at[0] == 0xed && at[1] >= 0xa0) ||
	    (at[0] == 0xf0 && at[1] < 0x90) || (at[0] == 0xf4 && at[1] >= 0x90))
		return 0;
	return length;
}

json_t *control_text(const char *text)
{
	_cleanup_(cleanup_free) char *clean = malloc(4 * strlen(text) + 1);
	char *to = clean;

	if (!clean)
		return NULL;
	while (*text) {
		unsigned length = utf8_length((const unsigned char *)text);

		if (length)
			memcpy(to, text, length);
		else
			snprintf(to, 5, "\\x%02x", (unsigned char)*text);
		to += length ? length : 4;
		text += length ? length : 1;
	}
	*to = '\0';
	return json_string(clean);
}

json_t *control_error(int code, const char *text)
{
	const char *name = strerrorname_np(-code);
	char clean[512];

	snprintf(clean, sizeof(clean), "%s", text);
	control_clean(clean);
	return json_pack("{s:s, s:o}", "code", name ? name : "EIO", "text", control_text(clean));
}

static int code_of(const char *name)
{
	for (int code = 1; code < ERRNO_MAX; code++) {
		const char *known = strerrorname_np(code);

		if (known && !strcmp(known, name))
			return -code;
	}
	return -EIO;
}

int control_error_parse(const void *payload, size_t length, struct error *ret, struct error *error)
{
	_cleanup_(control_cleanup) json_t *json = control_parse(payload, length, error);
	char name[32], text[400];

	if (!json)
		return -EPROTO;
	if (control_get_text(json, "code", name, sizeof(name), error) < 0 ||
	    control_get_text(json, "text", text, sizeof(text), error) < 0)
		return -EPROTO;
	error_set(ret, code_of(name), "%s", text[0] ? text : strerror(-code_of(name)));
	/* These say something about this end, and the far end has no say in it. */
	if (ret->code == -ENOTCONN || ret->code == -ECANCELED)
		ret->code = -EIO;
	return 0;
}
