/* SPDX-License-Identifier: GPL-2.0-or-later */
/* One mirror of a process, from its first leg to its end: see mirror_run.h. */
#include "cli/mirror_newer.h"
#include "cli/mirror_run.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

/* Legs and map */

static int changes(
    void *data, struct block *source, struct block *target, struct range_set *ret, struct error *error)
{
	struct mirror_run *run = data;
	const struct known_changes_request request = {.source = source,
	    .endpoint = &run->command.legs[MIRROR_SOURCE],
	    .how = run->command.changes,
	    .base = run->command.base,
	    .points = run->points,
	    .doubt = &run->points_doubt,
	    .size = block_info(source)->size,
	    .target_size = block_info(target)->size,
	    .explain = run->command.changes_named,
	    .data = run,
	    .say = mirror_warn};
	struct track_changes known;
	int res;

	if (run->command.changes_named && block_info(target)->created)
		mirror_warn(
		    run, "the target was made just now: all of the source is copied, nothing is compared");
	if (run->command.full || run->command.changes == CHANGES_HASH || run->command.digests ||
	    block_info(target)->created)
		return 0;
	res = known_changes_find(&request, &known, error);
	if (res != 1)
		return res;
	*ret = known.ranges;
	range_set_init(&known.ranges);
	track_changes_done(&known);
	return 1;
}

static int open_map(void *data, bool create)
{
	return mirror_files_map(&((struct mirror_run *)data)->files, create);
}

static void map_lost(void *data)
{
	mirror_trust_lose(&((struct mirror_run *)data)->files);
}

static int new_job(struct mirror_run *run, struct error *error)
{
	struct mirror_job_options *options = &run->command.job;
	int res;

	options->data = run;
	options->open_leg = mirror_leg_open;
	options->open_map = open_map;
	/* What an earlier process of this mirror wrote to the target, no tracker knows. */
	options->changes = run->opened_target || run->without_map ? NULL : changes;
	options->state_changed = mirror_say_state;
	options->switched = mirror_receipt_write;
	options->warning = mirror_warn;
	options->map_lost = map_lost;
	options->budget = &run->process->budget;
	options->compare_key = &run->digest_key;
	/* How long it was is known, or is to be known soon. */
	options->larger_target =
	    run->command.size_mismatch == SIZE_ZERO_TAIL && (!options->resume || run->target_size);
	res = digest_key_random(&run->digest_key, error);
	if (res < 0)
		return res;
	if (getrandom(&options->nonce, sizeof(options->nonce), 0) != sizeof(options->nonce))
		return error_set(error, -EIO, "cannot draw a random number: %s", strerror(errno));
	res = mirror_job_new(&run->job, run->process->ring, options, error);
	if (res == 0)
		res = mirror_job_open(run->job, error);
	if (res == 0 && run->command.paused)
		mirror_job_pause(run->job, true);
	/* Somebody may be looking at it. */
	if (res == 0 && mirror_files_let_go(&run->files) && mirror_job_let_target_go(run->job) == 0)
		mirror_warn(run, "the target is let go until `blkmove resume`");
	if (res == -ENOSPC) {
		struct error why = *error;

		error_set(error, res, "%.400s; make room in %.80s, or name another folder with --state-dir",
		    why.text, run->files.dir);
	}
	return res;
}

/* Nobody but the map can say which leg is the newer one, once a switch was ordered. */
static int open_without_map(struct mirror_run *run, struct error *error)
{
	struct error why = *error;
	char text[512];

	if (run->marked)
		return error_set(error, -EBADMSG,
		    "%.200s; a cutover was ordered before, so that it cannot be known which leg is the newer "
		    "one: look at "
		    "both, then `blkmove mirror --forget %s`, and begin again with the newer one as SRC and "
		    "--overwrite-newer=DST",
		    why.text, run->name);
	snprintf(text, sizeof(text), "%.300s: comparing all of both legs", why.text);
	mirror_warn(run, text);
	run->job = mirror_job_free(run->job);
	run->command.job.resume = false;
	run->command.job.compare = true;
	/* The target is ours from before only if a start came so far, and if this is still the same one. */
	run->without_map = true;
	run->judged = mirror_files_load_judged(&run->files);
	return new_job(run, error);
}

static uint64_t recall_target_size(struct mirror_run *run)
{
	json_t *judged = mirror_files_load_judged(&run->files);
	json_int_t size = json_integer_value(json_object_get(judged, "target_size"));

	json_decref(judged);
	return size > 0 ? (uint64_t)size : 0;
}

/* It was killed when it had ended, and before that was forgotten: this is what it would have done next. */
static int forget_ended(struct mirror_run *run, struct error *error)
{
	struct mirror_job_status status;
	struct error ignored;
	char words[600];

	mirror_job_status(run->job, &status);
	if (!cutover_is_end(status.state))
		return error->code;
	mirror_receipt_keep(run, &ignored);
	mirror_newer_words(&run->files, words, sizeof(words));
	mirror_trust_forget(&run->files);
	return error_set(error, -ENOENT,
	    "the mirror %s has ended, it was %s: %.300s; there is nothing to resume", run->name,
	    cutover_state_name(status.state), words);
}

int mirror_open(struct mirror_run *run, struct error *error)
{
	struct mirror_command *command = &run->command;
	int res;

	command->job.compare = !command->full && !command->job.resume;
	command->job.distrust = command->job.resume && !mirror_trust_check(&run->files);
	if (command->job.resume)
		run->target_size = recall_target_size(run);
	run->marked = faccessat(run->files.dir_fd, "switched", F_OK, 0) == 0;
	res = command->job.resume ? mirror_newer_check_resume(run->process->shared->options.state_dir,
	                                &run->files, run->name, error)
	                          : 0;
	if (res == 0)
		res = new_job(run, error);
	if (res == -EBADMSG && command->job.resume)
		res = open_without_map(run, error);
	else if (res == -EALREADY && command->job.resume)
		res = forget_ended(run, error);
	if (res == 0)
		res = mirror_trust_begin(&run->files, error);
	if (res == 0)
		mirror_receipt_look(run);
	if (res < 0 && run->process->count > 1)
		error_prefix(error, "%s", run->name);
	return res;
}

/* Its life */

/* "a --resume b": all that can be gone on with. */
static const char *to_resume(const struct mirror_process *process, char *buf, size_t length)
{
	size_t used = 0;

	buf[0] = '\0';
	for (unsigned i = 0; i < process->count && used < length; i++)
		if (!process->mirrors[i].ended)
			used += (size_t)snprintf(buf + used, length - used, "%s%s", used ? " --resume " : "",
			    process->mirrors[i].name);
	return buf;
}

static void live(void *data)
{
	struct mirror_run *run = data;
	struct mirror_process *process = run->process;
	enum cutover_state state = mirror_job_run(run->job, &run->error);
	char names[sizeof(run->error.text) / 2], name[MIRROR_NAME_MAX + 3];

	run->ended = cutover_is_end(state);
	if (run->ended) {
		mirror_trust_forget(&run->files);
		mirror_order_look(run);
	}
	if (state == CUTOVER_FAILED)
		run->res = run->error.code < 0 ? run->error.code : -EIO;
	else if (!run->ended)
		run->res = error_set(&run->error, -ECANCELED,
		    "%sstopped; go on with `blkmove mirror --resume %s`, until then the %s is the volume",
		    mirror_whose(run, name, sizeof(name)), to_resume(process, names, sizeof(names)),
		    cutover_authority(state) == MIRROR_SOURCE ? "source" : "target");
	/* Clients stay where they are, until they go by themselves. */
	process->alone_since_ns = ring_now_ns(process->ring);
	process->running--;
	if (process->running == 0 && process->stopping)
		process->over = true;
	/* The leg that is left may be lost and come back. */
	if (run->ended && !process->stopping)
		mirror_job_serve(run->job);
}

void mirror_end_life(struct mirror_run *run)
{
	if (!run->fiber)
		return;
	mirror_job_stop(run->job);
	while (!fiber_has_ended(run->fiber) && ring_step(run->process->ring) == 0)
		;
}

int mirror_save_pending(struct mirror_run *run, struct error *error)
{
	const struct mirror_pending pending = {.cutover = run->plans,
	    .cutover_at = run->plans ? run->command.cutover_at : 0,
	    .paused = run->command.paused};

	return mirror_files_save_pending(&run->files, &pending, error);
}

/* Nothing of it is to be done any more; it stands when that cannot be kept. */
static int drop_pending(struct mirror_run *run, bool *pending, struct error *error)
{
	bool before = *pending;
	int res;

	*pending = false;
	res = before ? mirror_save_pending(run, error) : 0;
	*pending = res < 0;
	return res;
}

int mirror_drop_plan(struct mirror_run *run, struct error *error)
{
	return drop_pending(run, &run->plans, error);
}

int mirror_note_unpaused(struct mirror_run *run, struct error *error)
{
	return drop_pending(run, &run->command.paused, error);
}

/* It is ordered once; whatever comes of that, the mirror goes on. */
static void carry_out_plan(struct mirror_run *run)
{
	struct mirror_job_status status;
	struct error error = {0};
	int res;

	mirror_job_status(run->job, &status);
	run->planned = true;
	if (status.authoritative == MIRROR_TARGET)
		res = mirror_drop_plan(run, &error);
	else
		res = mirror_order(run, CUTOVER_SWITCHED, &error);
	/* The source comes back. */
	if (res == -ENOTCONN)
		run->planned = false;
	else if (res < 0)
		mirror_warn(run, error.text);
}

static void look_at_plan(struct mirror_run *run)
{
	const struct mirror_command *command = &run->command;

	if (run->plans && !run->planned && !run->ended &&
	    (!command->cutover_at || time(NULL) >= command->cutover_at))
		carry_out_plan(run);
}

int mirror_begin(struct mirror_run *run, struct error *error)
{
	int res;

	look_at_plan(run);
	run->process->running++;
	res = fiber_start(&run->fiber, run->process->ring, live, run, error);
	if (res < 0)
		run->process->running--;
	return res;
}

void mirror_tick(struct mirror_run *run)
{
	mirror_pace_look(run);
	mirror_order_look(run);
	look_at_plan(run);
}

void mirror_close(struct mirror_run *run)
{
	fiber_free(run->fiber);
	run->fiber = NULL;
	run->job = mirror_job_free(run->job);
}
