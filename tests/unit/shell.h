/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Commands of the machine that a test needs. After cmocka.h. */
#pragma once

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

/* Runs it by the shell; the test fails when it does. */
static __attribute__((unused, format(printf, 1, 2))) void run(const char *format, ...)
{
	char command[2048];
	va_list arguments;

	va_start(arguments, format);
	vsnprintf(command, sizeof(command), format, arguments);
	va_end(arguments);
	if (system(command) != 0)
		fail_msg("this failed: %s", command);
}

/* Skips the test where there is no such program. */
static __attribute__((unused)) void need(const char *program)
{
	char command[128];

	snprintf(command, sizeof(command), "command -v %s >/dev/null", program);
	if (system(command) != 0) {
		print_message("skipped: there is no %s here\n", program);
		skip();
	}
}
