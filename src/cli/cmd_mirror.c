/* SPDX-License-Identifier: GPL-2.0-or-later */
/* blkmove mirror: one live mirror from its first word to its last client. */
#include "cli/mirror_run.h"
#include "cli/status_line.h"

#include "base/cleanup.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define RING_ENTRIES 1024u
#define PATIENCE_MS  5000u /* for clients that do not take their last replies */
#define TICK_NS      100000000u
#define BAR_TICKS    10u
#define LINGER_NS \
	UINT64_C(10000000000) /* without clients, after the end: they may be about to connect again */

static void say_json(json_t *take_json)
{
	json_dumpf(take_json, stdout, JSON_COMPACT);
	putchar('\n');
	fflush(stdout);
	json_decref(take_json);
}

/* The job's callbacks */

static void warning(void *data, const char *text)
{
	struct mirror_run *run = data;

	snprintf(run->warning, sizeof(run->warning), "%s", text);
	if (run->command->json)
		say_json(json_pack("{s:s, s:s}", "event", "warning", "text", text));
	else
		fprintf(stderr, "blkmove: %s\n", text);
}

/* What was switched, when, and how long clients waited. */
static void write_receipt(struct mirror_run *run, const char *state)
{
	const struct endpoint *legs = run->command->legs;
	struct mirror_job_status status;
	struct error error = {0};
	char when[40];
	time_t now = time(NULL);
	struct tm utc;

	mirror_job_status(run->job, &status);
	strftime(when, sizeof(when), "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &utc));
	if (mirror_files_write(&run->files, "receipt.json",
	        json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:I, s:f, s:I, s:b}", "mirror", run->name, "when",
	            when, "state", state, "source", legs[MIRROR_SOURCE].name, "target",
	            legs[MIRROR_TARGET].name, "authoritative",
	            status.authoritative == MIRROR_SOURCE ? "source" : "target", "size",
	            (json_int_t)status.size, "pause_ms", (double)status.pause_ns / 1e6, "cutovers_deferred",
	            (json_int_t)status.cutovers_deferred, "verified", run->command->job.verify),
	        &error) < 0)
		warning(run, error.text);
}

static void say_state(struct mirror_run *run, const char *state)
{
	if (run->command->json)
		say_json(json_pack("{s:s, s:s}", "event", "state", "state", state));
	else if (!run->command->quiet)
		fprintf(stderr, "%s: %s\n", run->name, state);
}

static void state_changed(void *data, enum cutover_state state)
{
	struct mirror_run *run = data;

	run->have_pause |= state == CUTOVER_SWITCHED || state == CUTOVER_REVERTED;
	say_state(run, cutover_state_name(state));
}

static int judge_target(struct mirror_run *run, struct block *target, struct error *error)
{
	struct mirror_command *command = run->command;
	struct block_facts facts = {0};
	struct preflight preflight = {.source = &run->source_info,
	    .target = block_info(target),
	    .source_facts = &run->source_facts,
	    .target_facts = &facts,
	    .allow = command->allow | ALLOW_LIVE_SOURCE,
	    .overwrite = command->overwrite,
	    .update = !command->full};
	uint64_t end;
	int res = block_facts(target, &facts, error);

	if (res == 0)
		job_journal_forget(command->options.state_dir, facts.id);
	/* A leg that comes back carries what the mirror wrote to it. */
	if (res < 0 || run->opened_target || command->job.resume || block_info(target)->created)
		return res;
	return preflight_check(&preflight, &end, error);
}

static int judge_source(struct mirror_run *run, struct block *source, struct error *error)
{
	const struct mirror_command *command = run->command;

	run->source_info = *block_info(source);
	return listen_judge(source, &command->legs[MIRROR_SOURCE], command->allow & ALLOW_MOUNTED,
	    command->allow & ALLOW_HELD, command->options.state_dir, &run->source_facts, error);
}

static int open_leg(void *data, enum mirror_leg_index leg, struct block **ret, struct error *error)
{
	struct mirror_run *run = data;
	struct mirror_command *command = run->command;
	const struct endpoint *endpoint = &command->legs[leg];
	bool target = leg == MIRROR_TARGET;
	struct block_open_options options = {.write = true,
	    .create = target && !run->opened_target && !command->job.resume,
	    .create_size = run->size,
	    .force_held = command->allow,
	    .cache = command->cache,
	    .link = command->options.job.link};
	int res = block_open(ret, run->ring, endpoint, &options, error);

	if (res < 0)
		return res;
	if (target)
		res = judge_target(run, *ret, error);
	else if (!run->size)
		res = judge_source(run, *ret, error);
	if (res < 0) {
		block_free(*ret);
		return res;
	}
	run->opened_target |= target;
	if (!target)
		run->size = block_info(*ret)->size;
	return 0;
}

static int open_map(void *data, bool create)
{
	return mirror_files_map(&((struct mirror_run *)data)->files, create);
}

/* The server's callbacks */

static void clients_changed(void *data, unsigned count)
{
	struct mirror_run *run = data;

	run->clients = count;
	run->alone_since_ns = ring_now_ns(run->ring);
}

static void client_failed(void *data, const struct error *why)
{
	struct mirror_run *run = data;

	if (!run->command->quiet && !run->command->json)
		fprintf(stderr, "blkmove: %s\n", why->text);
}

/* Every so often */

static void show(struct mirror_run *run)
{
	json_t *status = mirror_status_json(run);
	bool bar = !run->command->json && isatty(STDERR_FILENO);

	if (bar)
		fputs("\r\033[K", stderr);
	if (run->command->json)
		say_json(json_incref(status));
	else if (bar && status)
		status_line_print(stderr, status);
	json_decref(status);
}

static void tick(void *data)
{
	struct mirror_run *run = data;
	struct error error = {0};
	enum mirror_order_state before = run->order.state;

	mirror_pace_look(run);
	mirror_order_look(run);
	if (before == MIRROR_ORDER_RUNNING && run->order.name && run->order.state == MIRROR_ORDER_DONE &&
	    run->have_pause)
		write_receipt(run, run->order.name);
	if (run->command->cutover_at && time(NULL) >= run->command->cutover_at) {
		run->command->cutover_at = 0;
		if (mirror_order(run, "cutover", &error) < 0)
			warning(run, error.text);
	}
	if (run->foreground && !run->command->quiet && ++run->ticks % BAR_TICKS == 0)
		show(run);
	if (run->ended && run->clients == 0 && ring_now_ns(run->ring) - run->alone_since_ns > LINGER_NS)
		run->stopping = true;
}

static void got_signal(void *data, int number)
{
	struct mirror_run *run = data;

	if (number == SIGUSR1) {
		json_t *status = mirror_status_json(run);

		status_line_print(stderr, status);
		json_decref(status);
		return;
	}
	if (run->stopping || !run->server)
		_exit(JOB_INTERRUPTED);
	run->stopping = true;
	mirror_job_stop(run->job);
}

/* Setting up */

static int new_job(struct mirror_run *run, struct error *error)
{
	struct mirror_job_options *options = &run->command->job;
	int res;

	options->data = run;
	options->open_leg = open_leg;
	options->open_map = open_map;
	options->state_changed = state_changed;
	options->warning = warning;
	if (getrandom(&options->nonce, sizeof(options->nonce), 0) != sizeof(options->nonce))
		return error_set(error, -EIO, "cannot draw a random number: %s", strerror(errno));
	res = mirror_job_new(&run->job, run->ring, options, error);
	if (res == 0)
		res = mirror_job_open(run->job, error);
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
		    "both, then `blkmove mirror --forget %s`, and begin again with the newer one as SRC",
		    why.text, run->name);
	snprintf(text, sizeof(text), "%.300s: comparing all of both legs", why.text);
	warning(run, text);
	run->job = mirror_job_free(run->job);
	run->command->job.resume = false;
	run->command->job.compare = true;
	/* The target is ours from before: it is not judged again. */
	run->opened_target = true;
	return new_job(run, error);
}

static int serve(struct mirror_run *run, struct error *error)
{
	struct nbd_server_options server = {
	    .data = run, .clients_changed = clients_changed, .client_failed = client_failed};
	const struct nbd_export export = {.name = listen_name(&run->command->listen),
	    .description = run->name,
	    .block = mirror_job_block(run->job)};
	int res;

	listen_fill(&run->command->listen, &server);
	res = nbd_server_new(&run->server, run->ring, &server, error);
	if (res == 0)
		res = nbd_server_add(run->server, &export, error);
	return res == 0 ? listen_start(&run->command->listen, run->server, error) : res;
}

static int set_up(struct mirror_run *run, struct error *error)
{
	struct mirror_command *command = run->command;
	int res = ring_new(&run->ring, RING_ENTRIES, error);

	command->job.compare = !command->full && !command->job.resume;
	run->marked = faccessat(run->files.dir_fd, "switched", F_OK, 0) == 0;
	if (res == 0)
		res = signals_new(&run->signals, run->ring, got_signal, run, error);
	if (res == 0)
		res = listen_bind(&command->listen, listen_name(&command->listen), error);
	if (res == 0)
		res = new_job(run, error);
	if (res == -EBADMSG && command->job.resume)
		res = open_without_map(run, error);
	if (res == 0)
		res = control_new(&run->control, run->ring, run->name, mirror_answer, run, error);
	if (res == 0)
		res = serve(run, error);
	if (res < 0)
		return res;
	signals_last_resort(control_path(run->control));
	ticker_start(&run->ticker, run->ring, TICK_NS, tick, run);
	return 0;
}

static void say_ready(const struct mirror_run *run)
{
	const struct listen *listen = &run->command->listen;
	json_t *uris = json_array();

	for (unsigned i = 0; i < listen->fds_count; i++) {
		json_array_append_new(uris, json_string(listen->shown[i]));
		if (!run->command->json)
			printf("%s%s", i ? " " : "", listen->shown[i]);
	}
	if (run->command->json) {
		say_json(json_pack("{s:s, s:s, s:o}", "event", "ready", "name", run->name, "uris", uris));
		return;
	}
	json_decref(uris);
	putchar('\n');
	fflush(stdout);
}

/* Running */

static int run_job(struct mirror_run *run, struct error *error)
{
	enum cutover_state state;

	if (run->command->job.cutover_auto && mirror_order(run, "cutover", error) < 0)
		return error->code;
	state = mirror_job_run(run->job, error);
	run->ended = cutover_is_end(state);
	if (run->ended) {
		mirror_files_forget(&run->files);
		mirror_order_look(run);
		run->alone_since_ns = ring_now_ns(run->ring);
		/* Clients stay where they are, until they go by themselves. */
		if (!run->stopping && ring_run_until(run->ring, &run->stopping) < 0)
			return error_set(error, -EIO, "the event loop failed");
	}
	if (state == CUTOVER_FAILED)
		return error->code < 0 ? error->code : -EIO;
	if (!run->ended)
		return error_set(error, -ECANCELED,
		    "stopped; go on with `blkmove mirror --resume %s`, until then the %s is the volume",
		    run->name, cutover_authority(state) == MIRROR_SOURCE ? "source" : "target");
	return 0;
}

static int tear_down(struct mirror_run *run, int res, struct error *error)
{
	struct error why;

	ticker_stop(&run->ticker);
	control_free(run->control);
	if (run->server && nbd_server_stop(run->server, PATIENCE_MS, &why) < 0 && res == 0)
		res = error_set(error, why.code, "%s", why.text);
	nbd_server_free(run->server);
	mirror_job_free(run->job);
	listen_done(&run->command->listen);
	signals_free(run->signals);
	ring_free(run->ring);
	mirror_files_close(&run->files);
	return res;
}

static int exit_code(int res)
{
	switch (res) {
	case 0:
		return JOB_OK;
	case -EPERM:
	case -EBUSY:
	case -EADDRINUSE:
	case -EEXIST:
		return JOB_REFUSED;
	case -EALREADY:
		return JOB_LOCKED;
	case -ENOTCONN:
		return JOB_LINK_LOST;
	case -ECANCELED:
		return JOB_INTERRUPTED;
	default:
		return JOB_TROUBLE;
	}
}

/* `ready_fd` gets a byte once clients can connect; -1: nobody waits for it. */
static int mirror(struct mirror_run *run, int ready_fd, struct error *error)
{
	bool resumed = run->command->job.resume;
	int res = set_up(run, error);

	/* What never began cannot be gone on with. */
	if (res < 0 && !resumed)
		mirror_files_forget(&run->files);
	if (res == 0) {
		say_ready(run);
		if (ready_fd >= 0) {
			res = mirror_files_log(&run->files, error);
			if (res == 0 && write(ready_fd, "r", 1) < 0)
				res = 0; /* who started us is gone: no matter */
			cleanup_close(&ready_fd);
		}
	}
	if (res == 0)
		res = run_job(run, error);
	return tear_down(run, res, error);
}

/* In a process of its own. Returns the exit code: of the start only. */
static int mirror_in_background(struct mirror_run *run, struct error *error)
{
	int ready[2], status = 0;
	char byte;
	pid_t pid;

	if (pipe2(ready, O_CLOEXEC) < 0) {
		error_set(error, -errno, "cannot go to the background: %s", strerror(errno));
		return cli_fail(JOB_TROUBLE, error);
	}
	pid = fork();
	if (pid == 0) {
		int res;

		close(ready[0]);
		setsid();
		mirror_files_note_pid(&run->files);
		res = mirror(run, ready[1], error);
		return res < 0 ? cli_fail(exit_code(res), error) : JOB_OK;
	}
	close(ready[1]);
	if (pid > 0 && read(ready[0], &byte, 1) == 1)
		return JOB_OK;
	if (pid > 0 && waitpid(pid, &status, 0) == pid && WIFEXITED(status))
		return WEXITSTATUS(status);
	error_set(error, -ECHILD, "the mirror's process ended before it began");
	return cli_fail(JOB_TROUBLE, error);
}

int command_mirror(int argc, char **argv)
{
	struct mirror_run *run = calloc(1, sizeof(*run));
	struct mirror_command *command = calloc(1, sizeof(*command));
	struct error error = {0};
	json_t *words = NULL;
	int res, code;

	if (!run || !command)
		return JOB_TROUBLE;
	run->command = command;
	run->files = (struct mirror_files){.dir_fd = -1, .lock_fd = -1, .map_fd = -1};
	command->cache = CACHE_BUFFERED;
	code = mirror_command_parse(command, argc, argv);
	if (code == 0) {
		res = mirror_prepare(run, argc, argv, &words, &error);
		code = res < 0 ? cli_fail(exit_code(res), &error) : res;
	}
	if (code == 0 && !command->forget) {
		run->foreground = command->foreground;
		if (command->foreground) {
			res = mirror(run, -1, &error);
			code = res < 0 ? cli_fail(exit_code(res), &error) : JOB_OK;
		} else {
			code = mirror_in_background(run, &error);
		}
	}
	mirror_files_close(&run->files);
	mirror_command_done(command);
	json_decref(words);
	free(run->words);
	free(command);
	free(run);
	return code;
}
