/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Members of a request on a control socket (control.h): not there, or what they may be. */
#pragma once

#include "sync/governor.h"

#include "base/error.h"

#include <jansson.h>
#include <stdbool.h>

struct control_number {
	const char *key;
	double least, most, value;
	bool whole, given;
};

/* What is not given keeps its value. -EINVAL with words. */
int control_get_number(const json_t *request, struct control_number *number, struct error *error);
/* The same of true and false. */
int control_get_flag(
    const json_t *request, const char *key, bool *ret_value, bool *ret_given, struct error *error);
/* The same of what a copy may take: rate, min_rate, latency_target_ms and impact_percent. *ret_given: any of them; may be NULL. */
int control_get_limits(
    const json_t *request, struct governor_options *limits, bool *ret_given, struct error *error);
