/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The process of `blkmove replicate up`, from its start to its last resource's end: see replicate_run.h. */
#include "cli/replicate_process.h"

#include "base/cleanup.h"
#include "cli/background.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

#define RING_ENTRIES 4096u
#define TICK_NS      100000000u

static void tick(void *data)
{
	struct replicate_process *process = data;

	for (unsigned i = 0; i < process->count; i++) {
		replicate_peer_tick(&process->resources[i]);
		replicate_status_tick(&process->resources[i]);
		replicate_verify_tick(&process->resources[i]);
		replicate_device_tick(&process->resources[i]);
	}
	process->wake = true;
}

static void got_signal(void *data, int number)
{
	struct replicate_process *process = data;

	if (number == SIGUSR1) {
		for (unsigned i = 0; i < process->count; i++)
			process->resources[i].said_flow = REPLICA_FLOWS;
		return;
	}
	/* The second one leaves devices behind that are in use, the third does not wait. */
	for (unsigned i = 0; i < process->count; i++)
		replicate_resource_down(&process->resources[i], process->stopping);
	if (process->insists)
		_exit(JOB_INTERRUPTED);
	process->insists = process->stopping;
	process->stopping = true;
}

/* More than a hundred resources have several descriptors each. */
static void raise_limits(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
		limit.rlim_cur = limit.rlim_max;
		(void)setrlimit(RLIMIT_NOFILE, &limit);
	}
}

static int set_up(
    struct replicate_process *process, const struct replicate_up_options *options, struct error *error)
{
	int res;

	*process = (struct replicate_process){.options = options};
	list_init(&process->ports);
	list_init(&process->fronts);
	list_init(&process->tls_streams);
	list_init(&process->credentials);
	process->resources = calloc(options->count, sizeof(*process->resources));
	if (!process->resources)
		return error_set(error, -ENOMEM, "out of memory");
	for (unsigned i = 0; i < options->count; i++) {
		struct replicate_resource *resource = &process->resources[i];

		resource->process = process;
		resource->config = options->configs[i];
		resource->name = resource->config->name;
		resource->files = MIRROR_FILES_NONE;
		resource->map_fd = resource->peer.fd = -1;
		resource->governor = resource->config->governor;
	}
	process->count = options->count;
	signal(SIGPIPE, SIG_IGN);
	raise_limits();
	res = ring_new(&process->ring, RING_ENTRIES, error);
	if (res == 0 && (options->common.max_rate || options->common.target_ns)) {
		process->common = &process->budget;
		budget_init(process->common, &options->common, ring_now_ns(process->ring));
	}
	if (res == 0)
		res = signals_new(&process->signals, process->ring, got_signal, process, error);
	return res;
}

static unsigned count_in(const struct replicate_process *process, enum replicate_state state)
{
	unsigned count = 0;

	for (unsigned i = 0; i < process->count; i++)
		count += process->resources[i].state == state;
	return count;
}

static void say_ready(struct replicate_process *process)
{
	char uri[1400];

	for (unsigned i = 0; i < process->count; i++) {
		struct replicate_resource *resource = &process->resources[i];
		json_t *uris = json_array(), *json;

		for (unsigned j = 0; j < resource->exports_count; j++)
			json_array_append_new(
			    uris, json_string(replicate_serve_uri(resource, j, uri, sizeof(uri))));
		json = json_pack("{s:s, s:s, s:s?, s:o}", "event",
		    resource->state == REPLICATE_UP ? "up" : "failed", "name", resource->name, "error",
		    resource->state == REPLICATE_UP ? NULL : resource->error.text, "uris", uris);
		if (process->options->json)
			cli_print_json(stdout, json);
		else if (!process->options->quiet && resource->state == REPLICATE_UP)
			printf("%s: up\n", resource->name);
		json_decref(json);
	}
	fflush(stdout);
}

/* From now on nobody need look. */
static int detach(struct replicate_process *process, int take_fd, struct error *error)
{
	_cleanup_(cleanup_close) int log = -1;
	char path[PATH_MAX];
	int res;

	snprintf(path, sizeof(path), "%s/replicas/log", process->options->state_dir);
	log = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	res = log < 0 ? -errno
	              : background_leave(
	                    take_fd, log, count_in(process, REPLICATE_FAILED) > 0 ? JOB_TROUBLE : JOB_OK);
	process->detached = res == 0;
	return res < 0 ? error_set(error, res, "cannot write %s: %s", path, strerror(-res)) : 0;
}

/* Until no resource is left that is up. */
static int live(struct replicate_process *process)
{
	int res = 0;

	while (res == 0 &&
	       count_in(process, REPLICATE_DOWN) + count_in(process, REPLICATE_FAILED) < process->count) {
		process->wake = false;
		for (unsigned i = 0; i < process->count; i++)
			replicate_resource_look(&process->resources[i]);
		replicate_ports_look(process);
		replicate_tls_look(process);
		res = ring_run_until(process->ring, &process->wake);
	}
	return res;
}

static void tear_down(struct replicate_process *process)
{
	for (unsigned i = 0; i < process->count; i++)
		replicate_resource_done(&process->resources[i]);
	replicate_tls_done(process);
	ticker_stop(&process->ticker);
	signals_free(process->signals);
	ring_free(process->ring);
	free(process->resources);
}

/* `ready_fd`: of background_run(); -1: nobody waits for it. Returns the exit code. */
static int run(void *data, int ready_fd)
{
	const struct replicate_up_options *options = data;
	struct replicate_process process;
	struct error error;
	int res = set_up(&process, options, &error), code;

	for (unsigned i = 0; i < process.count && res == 0 && !process.stopping; i++)
		replicate_resource_up(&process.resources[i]);
	/* What came meanwhile holds for those that are up only now. */
	for (unsigned i = 0; i < process.count && process.stopping; i++)
		if (process.resources[i].state == REPLICATE_STARTING)
			process.resources[i].state = REPLICATE_DOWN;
		else
			replicate_resource_down(&process.resources[i], process.insists);
	if (res == 0) {
		ticker_start(&process.ticker, process.ring, TICK_NS, tick, &process);
		say_ready(&process);
	}
	if (res == 0 && ready_fd >= 0 && count_in(&process, REPLICATE_UP) > 0)
		res = detach(&process, ready_fd, &error);
	else if (res == 0 && count_in(&process, REPLICATE_UP) > 0)
		listen_tell_manager();
	if (res == 0 && live(&process) < 0) {
		/* What waits on the ring never ends: nothing of it can be freed. */
		error_set(&error, -EIO, "the event loop failed");
		_exit(cli_fail(JOB_TROUBLE, &error));
	}
	code = count_in(&process, REPLICATE_FAILED) > 0 ? JOB_TROUBLE : JOB_OK;
	tear_down(&process);
	return res < 0 ? cli_fail(cli_exit_code(res), &error) : code;
}

int replicate_process_run(struct replicate_up_options *options)
{
	struct error error;
	int code =
	    options->foreground ? run(options, -1) : background_run(run, options, "the replica", &error);

	return code < 0 ? cli_fail(JOB_TROUBLE, &error) : code;
}
