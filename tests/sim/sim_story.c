/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See sim_story.h. */
#include "sim_story.h"

#include <stdarg.h>
#include <stdio.h>

void sim_say(const struct sim_story *story, const char *format, ...)
{
	va_list args;

	if (!story->verbose)
		return;
	va_start(args, format);
	printf("%12.6f %7llu  ", (double)ring_sim_now_ns(story->sim) / 1e9,
	    (unsigned long long)ring_sim_steps(story->sim));
	vprintf(format, args);
	putchar('\n');
	va_end(args);
}

void sim_fail(struct sim_story *story, const char *format, ...)
{
	va_list args;

	if (story->failures++)
		return;
	va_start(args, format);
	vsnprintf(story->failure, sizeof(story->failure), format, args);
	va_end(args);
	sim_say(story, "FAILED: %s", story->failure);
}
