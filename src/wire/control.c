/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* JSON of control frames: see control.h. Nothing of the peer's reaches a message uncleaned. */
#include "wire/control.h"

#include "base/cleanup.h"

#include <errno.h>
#include <stdio.h>
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

json_t *control_error(int code, const char *text)
{
	const char *name = strerrorname_np(-code);
	char clean[512];

	snprintf(clean, sizeof(clean), "%s", text);
	control_clean(clean);
	/* Words may hold a file's name in whatever encoding. */
	for (unsigned char *at = (unsigned char *)clean; *at; at++)
		if (*at >= 0x80)
			*at = '?';
	return json_pack("{s:s, s:s}", "code", name ? name : "EIO", "text", clean);
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
