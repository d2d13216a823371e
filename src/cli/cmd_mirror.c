/* SPDX-License-Identifier: GPL-2.0-or-later */
/* blkmove mirror: one process with one live mirror or several, from its first word to its last client. */
#include "cli/background.h"
#include "cli/mirror_run.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define RING_ENTRIES 1024u
#define PATIENCE_MS  5000u /* for clients that do not take their last replies */
#define TICK_NS      100000000u
#define BAR_TICKS    10u
#define HURRY_NS     UINT64_C(3000000000) /* after an order to stop: what is being opened is not waited for */
#define LINGER_NS \
	UINT64_C(10000000000) /* without clients, after the end: they may be about to connect again */

/* The server's callbacks */

static void clients_changed(void *data, unsigned count)
{
	struct mirror_process *process = data;

	process->clients = count;
	process->alone_since_ns = ring_now_ns(process->ring);
}

static void client_failed(void *data, const struct error *why)
{
	struct mirror_process *process = data;

	if (process->shared->quiet || process->shared->json)
		return;
	mirror_bar_clear(&process->bar);
	fprintf(stderr, "blkmove: %s\n", why->text);
}

/* Every so often */

static void show(struct mirror_process *process)
{
	if (!process->shared->json)
		mirror_bar_show(process);
	for (unsigned i = 0; i < process->count && process->shared->json; i++)
		mirror_say_json(&process->mirrors[i], mirror_status_json(&process->mirrors[i]));
}

static void tick(void *data)
{
	struct mirror_process *process = data;
	struct error error;

	for (unsigned i = 0; i < process->count; i++)
		mirror_tick(&process->mirrors[i]);
	if (process->shared->foreground && !process->shared->quiet && ++process->ticks % BAR_TICKS == 0)
		show(process);
	if (process->stopping && ring_now_ns(process->ring) - process->stopped_ns > HURRY_NS)
		signals_end_children();
	if (process->running == 0 && process->clients == 0 &&
	    ring_now_ns(process->ring) - process->alone_since_ns > LINGER_NS) {
		process->over = mirror_devices_stop(process, &error) == 0;
		process->alone_since_ns = ring_now_ns(process->ring);
	}
}

static void stop(struct mirror_process *process)
{
	process->stopping = true;
	process->stopped_ns = ring_now_ns(process->ring);
	process->over = process->running == 0;
	for (unsigned i = 0; i < process->count; i++)
		mirror_job_stop(process->mirrors[i].job);
}

/* What never began cannot be gone on with. */
static void forget_begun(struct mirror_process *process)
{
	for (unsigned i = 0; i < process->count; i++)
		if (process->mirrors[i].created)
			mirror_trust_forget(&process->mirrors[i].files);
}

static void got_signal(void *data, int number)
{
	struct mirror_process *process = data;

	mirror_bar_clear(&process->bar);
	if (number == SIGUSR1) {
		if (process->server)
			mirror_bar_print(process);
		return;
	}
	if (!process->server) {
		struct error error;

		forget_begun(process);
		error_set(&error, -ECANCELED, "interrupted before it began");
		_exit(cli_fail(JOB_INTERRUPTED, &error));
	}
	if (process->stopping)
		_exit(JOB_INTERRUPTED);
	if (mirror_devices_may_stop(process))
		stop(process);
}

/* Setting up */

static void note_uris(struct mirror_process *process)
{
	const struct listen *listen = &process->shared->listen;
	char uri[sizeof(listen->shown[0])];

	for (unsigned i = 0; i < process->count; i++) {
		struct mirror_run *run = &process->mirrors[i];

		run->uris = json_array();
		for (unsigned j = 0; j < listen->fds_count; j++) {
			listen_uri(listen, j, run->export, uri, sizeof(uri));
			json_array_append_new(run->uris, json_string(uri));
		}
	}
}

static int serve(struct mirror_process *process, struct error *error)
{
	struct nbd_server_options server = {.data = process,
	    .named_only = process->named,
	    .clients_changed = clients_changed,
	    .client_failed = client_failed};
	int res;

	listen_fill(&process->shared->listen, &server);
	res = nbd_server_new(&process->server, process->ring, &server, error);
	for (unsigned i = 0; i < process->count && res == 0; i++) {
		const struct mirror_run *run = &process->mirrors[i];
		const struct nbd_export export = {
		    .name = run->export, .description = run->name, .block = mirror_job_block(run->job)};

		res = nbd_server_add(process->server, &export, error);
	}
	if (res == 0)
		res = mirror_devices_open(process, error);
	return res == 0 ? listen_start(&process->shared->listen, process->server, error) : res;
}

static int set_up(struct mirror_process *process, struct error *error)
{
	struct listen *listen = &process->shared->listen;
	int res = ring_new(&process->ring, RING_ENTRIES, error);

	if (res == 0)
		res = signals_new(&process->signals, process->ring, got_signal, process, error);
	if (res == 0)
		res = listen_bind(listen, process->mirrors[0].export, error);
	if (res < 0)
		return res;
	note_uris(process);
	budget_init(&process->budget, &process->governor, ring_now_ns(process->ring));
	/* Before a target is made or touched for nothing. */
	for (unsigned i = 0; i < process->count && res == 0; i++)
		res = control_check_free(
		    process->mirrors[i].name, process->mirrors[i].command.job.resume, error);
	for (unsigned i = 0; i < process->count && res == 0; i++)
		res = mirror_open(&process->mirrors[i], error);
	if (res == 0)
		res = serve(process, error);
	for (unsigned i = 0; i < process->count && res == 0; i++)
		res = control_new(&process->mirrors[i].control, process->ring, process->mirrors[i].name,
		    mirror_answer, &process->mirrors[i], error);
	if (res < 0)
		return res;
	signals_last_resort(control_path(process->mirrors[0].control));
	ticker_start(&process->ticker, process->ring, TICK_NS, tick, process);
	return 0;
}

/* A line for each. */
static void say_ready(const struct mirror_process *process)
{
	for (unsigned i = 0; i < process->count; i++) {
		const struct mirror_run *run = &process->mirrors[i];
		const char *between = "", *device = devices_path(&run->command.devices, 0);
		json_t *uri;
		size_t at;

		if (process->shared->json) {
			mirror_say_json(run, json_pack("{s:s, s:s, s:O, s:s?}", "event", "ready", "name",
			                         run->name, "uris", run->uris, "device", device));
			continue;
		}
		json_array_foreach(run->uris, at, uri)
		{
			printf("%s%s", between, json_string_value(uri));
			between = " ";
		}
		if (device)
			printf("%s%s", between, device);
		putchar('\n');
	}
	fflush(stdout);
}

/* Clients can connect: from now on nobody need look. */
static int detach(struct mirror_process *process, int take_fd, struct error *error)
{
	const struct mirror_files *files = &process->mirrors[0].files;
	int res = 0;

	for (unsigned i = 0; i < process->count && res == 0; i++)
		res = mirror_files_log(&process->mirrors[i].files, error);
	if (res == 0 && (res = background_leave(take_fd, files->log_fd, JOB_OK)) < 0)
		error_set(error, res, "cannot write %s/log: %s", files->dir, strerror(-res));
	return res;
}

/* The worst of what became of them, after printing each: having been stopped is the least of troubles. */
static int conclude(const struct mirror_process *process, int code)
{
	for (unsigned i = 0; i < process->count; i++) {
		const struct mirror_run *run = &process->mirrors[i];

		if (run->res == 0)
			continue;
		fprintf(run->files.log ? run->files.log : stderr, "blkmove: %s\n", run->error.text);
		if (code == JOB_OK || code == JOB_INTERRUPTED)
			code = cli_exit_code(run->res);
	}
	return code;
}

static int run_all(struct mirror_process *process, struct error *error)
{
	int res = 0;

	for (unsigned i = 0; i < process->count && res == 0; i++)
		res = mirror_begin(&process->mirrors[i], error);
	if (res < 0)
		stop(process);
	if (ring_run_until(process->ring, &process->over) < 0) {
		struct error broken;

		/* What waits on the ring never ends: nothing of it can be freed. */
		error_set(&broken, -EIO, "the event loop failed");
		_exit(cli_fail(JOB_TROUBLE, &broken));
	}
	return res;
}

static int tear_down(struct mirror_process *process, int res, struct error *error)
{
	struct error why;

	ticker_stop(&process->ticker);
	mirror_bar_clear(&process->bar);
	for (unsigned i = 0; i < process->count; i++) {
		process->mirrors[i].control = control_free(process->mirrors[i].control);
		mirror_end_life(&process->mirrors[i]);
	}
	mirror_devices_free(process);
	if (process->server && nbd_server_stop(process->server, PATIENCE_MS, &why) < 0 && res == 0)
		res = error_set(error, why.code, "%s", why.text);
	nbd_server_free(process->server);
	for (unsigned i = 0; i < process->count; i++)
		mirror_close(&process->mirrors[i]);
	listen_done(&process->shared->listen);
	signals_free(process->signals);
	ring_free(process->ring);
	return res;
}

/* `ready_fd`: of background_run(); -1: nobody waits for it. Returns the exit code. */
static int mirror(void *data, int ready_fd)
{
	struct mirror_process *process = data;
	struct error error;
	int res = 0;

	for (unsigned i = 0; ready_fd >= 0 && i < process->count && res == 0; i++) {
		mirror_files_note_pid(&process->mirrors[i].files);
		res = mirror_files_open_log(&process->mirrors[i].files, &error);
	}
	if (res == 0)
		res = set_up(process, &error);
	for (unsigned i = 0; i < process->count; i++)
		mirror_files_tell(&process->mirrors[i].files);
	if (res == 0) {
		say_ready(process);
		if (ready_fd >= 0)
			res = detach(process, ready_fd, &error);
		else
			listen_tell_manager();
	}
	if (res < 0)
		forget_begun(process);
	if (res == 0)
		res = run_all(process, &error);
	res = tear_down(process, res, &error);
	return conclude(process, res < 0 ? cli_fail(cli_exit_code(res), &error) : JOB_OK);
}

int command_mirror(int argc, char **argv)
{
	struct mirror_process process = {0};
	struct error error = {0};
	int code = mirror_prepare(&process, argc, argv, &error);

	if (code == 0 && !process.idle && process.shared->foreground)
		code = mirror(&process, -1);
	else if (code == 0 && !process.idle && (code = listen_inherit(&process.shared->listen, &error)) == 0)
		code = background_run(mirror, &process, "the mirror", &error);
	if (code < 0) {
		forget_begun(&process);
		code = cli_fail(cli_exit_code(code), &error);
	}
	mirror_process_done(&process);
	return code;
}
