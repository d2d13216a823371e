/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Error texts: see error.h. */
#include "base/error.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

int error_set(struct error *error, int code, const char *format, ...)
{
	va_list args;

	if (!error)
		return code;
	error->code = code;
	va_start(args, format);
	vsnprintf(error->text, sizeof(error->text), format, args);
	va_end(args);
	return code;
}

int error_prefix(struct error *error, const char *format, ...)
{
	char old[sizeof(error->text)];
	va_list args;
	int used;

	if (!error)
		return -EINVAL;
	memcpy(old, error->text, sizeof(old));
	va_start(args, format);
	used = vsnprintf(error->text, sizeof(error->text), format, args);
	va_end(args);
	if (used >= 0 && (size_t)used < sizeof(error->text))
		snprintf(error->text + used, sizeof(error->text) - (size_t)used, ": %s", old);
	return error->code;
}
