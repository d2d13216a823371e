/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See control_request.h. */
#include "cli/control_request.h"

#include "base/parse_size.h"

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

static int check_rates(const struct governor_options *limits, struct error *error)
{
	char least[16], most[16];

	if (!limits->max_rate || limits->min_rate <= limits->max_rate)
		return 0;
	return error_set(error, -EINVAL, "the least rate, %s/s, would be above the most, %s/s; change both",
	    format_size(limits->min_rate, least, sizeof(least)),
	    format_size(limits->max_rate, most, sizeof(most)));
}

int control_get_limits(
    const json_t *request, struct governor_options *limits, bool *ret_given, struct error *error)
{
	struct control_number rate = {.key = "rate", .most = 1e15}, least = {.key = "min_rate", .most = 1e15},
	                      latency = {.key = "latency_target_ms", .most = 1e9},
	                      impact = {.key = "impact_percent", .most = 10000, .whole = true};
	struct control_number *const numbers[] = {&rate, &least, &latency, &impact};
	struct governor_options wanted = *limits;
	bool given = false;
	int res = 0;

	for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]) && res == 0; i++) {
		res = control_get_number(request, numbers[i], error);
		given |= numbers[i]->given;
	}
	if (rate.given)
		wanted.max_rate = (uint64_t)rate.value;
	if (least.given)
		wanted.min_rate = (uint64_t)least.value;
	if (latency.given)
		wanted.target_ns = (uint64_t)(latency.value * 1e6);
	if (impact.given)
		wanted.impact = (unsigned)impact.value;
	if (res == 0)
		res = check_rates(&wanted, error);
	if (res < 0)
		return res;
	*limits = wanted;
	if (ret_given)
		*ret_given = given;
	return 0;
}
