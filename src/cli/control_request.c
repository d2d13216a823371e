/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See control_request.h. */
#include "cli/control_request.h"

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>

int control_get_number(const json_t *request, struct control_number *number, struct error *error)
{
	const json_t *json = json_object_get(request, number->key);
	double value = json_number_value(json);
	char *text;

	number->given = json;
	if (!json)
		return 0;
	if (json_is_number(json) && value >= number->least && value <= number->most &&
	    (!number->whole || value == (double)(uint64_t)value)) {
		number->value = value;
		return 0;
	}
	text = json_dumps(json, JSON_ENCODE_ANY | JSON_REAL_PRECISION(6));
	error_set(error, -EINVAL, "%s=%.80s: write a %snumber from %.9g to %.9g", number->key,
	    text ? text : "?", number->whole ? "whole " : "", number->least, number->most);
	free(text);
	return -EINVAL;
}

int control_get_flag(
    const json_t *request, const char *key, bool *ret_value, bool *ret_given, struct error *error)
{
	const json_t *json = json_object_get(request, key);

	if (ret_given)
		*ret_given = json != NULL;
	if (json && !json_is_boolean(json))
		return error_set(error, -EINVAL, "%s is neither true nor false", key);
	if (json)
		*ret_value = json_is_true(json);
	return 0;
}
