/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What a mirror says by itself: see mirror_run.h. */
#include "cli/mirror_run.h"

#include <stdio.h>

/* In the background each has a log of its own. */
static FILE *words_of(const struct mirror_run *run, FILE *terminal)
{
	return run->files.log ? run->files.log : terminal;
}

void mirror_say_json(const struct mirror_run *run, json_t *take_json)
{
	cli_print_json(words_of(run, stdout), take_json);
	json_decref(take_json);
}

const char *mirror_whose(const struct mirror_run *run, char *buf, size_t length)
{
	buf[0] = '\0';
	if (run->process->count > 1)
		snprintf(buf, length, "%s: ", run->name);
	return buf;
}

/* The job counts first, and then says why: so that no other warning is taken for it. */
static void note_deferred(struct mirror_run *run, const char *text)
{
	struct mirror_job_status status = {0};

	if (run->job)
		mirror_job_status(run->job, &status);
	if (status.cutovers_deferred > run->deferred && run->order.state == MIRROR_ORDER_RUNNING)
		snprintf(run->order.warning, sizeof(run->order.warning), "%s", text);
	run->deferred = status.cutovers_deferred;
}

void mirror_warn(void *data, const char *text)
{
	struct mirror_run *run = data;
	char name[MIRROR_NAME_MAX + 3];

	mirror_bar_clear(&run->process->bar);
	snprintf(run->warning, sizeof(run->warning), "%s", text);
	note_deferred(run, text);
	if (run->process->shared->json)
		mirror_say_json(
		    run, json_pack("{s:s, s:s, s:s}", "event", "warning", "name", run->name, "text", text));
	else
		fprintf(
		    words_of(run, stderr), "blkmove: %s%s\n", mirror_whose(run, name, sizeof(name)), text);
}

void mirror_say_state(void *data, enum cutover_state state)
{
	struct mirror_run *run = data;
	const char *name = cutover_state_name(state);

	mirror_bar_clear(&run->process->bar);
	run->have_pause |= state == CUTOVER_SWITCHED || state == CUTOVER_REVERTED;
	if (run->process->shared->json)
		mirror_say_json(
		    run, json_pack("{s:s, s:s, s:s}", "event", "state", "name", run->name, "state", name));
	else if (!run->process->shared->quiet)
		fprintf(words_of(run, stderr), "%s: %s\n", run->name, name);
}
