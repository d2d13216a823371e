/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Sizes as a person types and reads them. */
#include "base/parse_size.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static const char suffixes[] = "kMGTPE";

/* The power of 1024 that the suffix stands for, or -1. */
static int suffix_power(const char *suffix)
{
	const char *found;

	if (*suffix == '\0' || !strcasecmp(suffix, "B"))
		return 0;
	found = strchr(suffixes, *suffix);
	if (!found)
		found = strchr("KmgtpE", *suffix) ? strchr(suffixes, *suffix == 'K' ? 'k' : toupper(*suffix))
		                                  : NULL;
	if (!found)
		return -1;
	if (suffix[1] && strcasecmp(suffix + 1, "B") && strcasecmp(suffix + 1, "iB"))
		return -1;
	return (int)(found - suffixes) + 1;
}

int parse_size(const char *text, uint64_t *ret, struct error *error)
{
	unsigned long long value;
	char *end;
	int power;

	if (!isdigit((unsigned char)text[0]))
		return error_set(error, -EINVAL,
		    "'%s' is not a size; write a number, with k, M, G or T if you like", text);
	errno = 0;
	value = strtoull(text, &end, 10);
	if (errno == ERANGE)
		return error_set(error, -ERANGE, "'%s' is larger than any volume can be", text);
	power = suffix_power(end);
	if (power < 0)
		return error_set(
		    error, -EINVAL, "'%s' is not a size: '%s' is no suffix; use k, M, G or T", text, end);
	if (power && value > (UINT64_MAX >> (10 * power)))
		return error_set(error, -ERANGE, "'%s' is larger than any volume can be", text);
	*ret = (uint64_t)value << (10 * power);
	return 0;
}

char *format_size(uint64_t bytes, char *buf, unsigned length)
{
	static const char *const units[] = {"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
	double value = (double)bytes;
	int unit = -1;

	if (bytes < 1024) {
		snprintf(buf, length, "%u B", (unsigned)bytes);
		return buf;
	}
	while (value >= 1024 && unit < 5) {
		value /= 1024;
		unit++;
	}
	snprintf(buf, length, value < 99.95 ? "%.1f %s" : "%.0f %s", value, units[unit]);
	return buf;
}
