/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The life of one resource of the process, from its files to its end: see replicate_process.h. */
#include "cli/replicate_process.h"

#include "base/cleanup.h"
#include "base/folder.h"
#include "base/run_dir.h"
#include "block/inspect.h"
#include "block/open.h"
#include "cli/control_client.h"
#include "range/bitmap_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define PATIENCE_NS   UINT64_C(60000000000) /* for an order to end, on the way down */
#define LAST_WORDS_MS 200u

/* Words */

const char *replicate_prefix(const struct replicate_process *process, char buf[48])
{
	const time_t now = time(NULL);
	struct tm local;
	size_t used = 0;

	if (process->detached && localtime_r(&now, &local))
		used = strftime(buf, 32, "%Y-%m-%dT%H:%M:%S%z ", &local);
	snprintf(buf + used, 48 - used, "blkmove");
	return buf;
}

void replicate_say(struct replicate_resource *resource, const char *format, ...)
{
	const struct replicate_up_options *options = resource->process->options;
	char text[600], prefix[48];
	json_t *json;
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	if (options->json) {
		json = json_pack("{s:s, s:s, s:s}", "event", "message", "name", resource->name, "text", text);
		cli_print_json(stdout, json);
		json_decref(json);
	} else if (!options->quiet) {
		fprintf(stderr, "%s: %s: %s\n", replicate_prefix(resource->process, prefix), resource->name,
		    text);
	}
}

void replicate_warn(struct replicate_resource *resource, const char *text)
{
	if (strcmp(resource->trouble, text))
		replicate_say(resource, "%s", text);
	snprintf(resource->trouble, sizeof(resource->trouble), "%s", text);
	resource->changed = true;
}

/* The node's callbacks */

int replicate_volume_judge(const struct block_facts *facts, const char *name, struct error *error)
{
	if (facts->mounted[0])
		return error_set(error, -EPERM,
		    "%s is mounted at %s, and what is written there would not be replicated; unmount it, and "
		    "mount the resource's own device",
		    name, facts->mounted);
	if (facts->held[0])
		return error_set(error, -EPERM,
		    "%s is in use by %s, and what is written by that would not be replicated; end it, or "
		    "name what lies on top as the resource's device",
		    name, facts->held);
	if (facts->writer[0])
		return error_set(error, -EPERM,
		    "%s is open for writing by %s, and what it writes would not be replicated; end it first",
		    name, facts->writer);
	return 0;
}

static int open_volume(void *data, struct block **ret, struct error *error)
{
	struct replicate_resource *resource = data;
	const struct block_open_options options = {.write = true};
	struct block_facts facts;
	struct block *volume = NULL;
	int res = file_open(&volume, resource->process->ring, replica_config_self(resource->config)->device,
	    NULL, &options, error);

	if (res == 0)
		res = block_facts(volume, &facts, error);
	if (res == 0)
		res = replicate_volume_judge(&facts, block_info(volume)->name, error);
	if (res < 0) {
		block_free(volume);
		return res;
	}
	*ret = volume;
	return 0;
}

static int open_map(void *data)
{
	return ((struct replicate_resource *)data)->map_fd;
}

static uint64_t draw(void *data)
{
	return replicate_draw();
}

static void changed(void *data)
{
	((struct replicate_resource *)data)->changed = true;
}

static void warning(void *data, const char *text)
{
	replicate_warn(data, text);
}

static void map_lost(void *data)
{
	mirror_trust_lose(&((struct replicate_resource *)data)->files);
}

/* A byte for each time: in memory, which does not fail with the disk, and as long as the machine runs. */
static void failures_path(const struct replicate_resource *resource, char *ret, size_t length)
{
	char dir[PATH_MAX];

	snprintf(ret, length, "%s/replica-%s.failures", run_dir_path(dir, sizeof(dir)), resource->name);
}

static unsigned count_failures(const struct replicate_resource *resource)
{
	char path[PATH_MAX + 128];
	struct stat stat;

	failures_path(resource, path, sizeof(path));
	return lstat(path, &stat) == 0 ? (unsigned)stat.st_size : 0;
}

static void disk_failed(void *data)
{
	char path[PATH_MAX + 128];
	int fd;

	failures_path(data, path, sizeof(path));
	fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0 || write(fd, ".", 1) != 1)
		replicate_warn(data, "it cannot be noted that the volume failed: the other node may not send "
		                     "again what it lost");
	if (fd >= 0)
		close(fd);
}

/* What can be done about the map. */
static void explain_map(const struct replicate_resource *resource, int res, struct error *error)
{
	const struct error why = *error;
	const char *name = resource->name;
	char map[PATH_MAX];

	replica_config_map(resource->config, resource->process->options->state_dir, map, sizeof(map));
	if (res == -EBADMSG || res == -EXDEV)
		error_set(error, res,
		    "%.340s%s%.100s; else `blkmove replicate create %s --overwrite=%s` makes a new map, and "
		    "what "
		    "only this node has is lost to what %s has",
		    why.text, res == -EBADMSG ? ": " : "", res == -EBADMSG ? map : "", name, name,
		    replica_config_other(resource->config)->name);
}

static int new_node(struct replicate_resource *resource, struct error *error)
{
	const struct replica_config *config = resource->config;
	const struct replica_node_options options = {.name = replica_config_self(config)->number,
	    .gone = config->gone,
	    .ack = config->ack,
	    .queue_max = config->queue_max,
	    .pull_ahead = config->pull_ahead,
	    .compare = config->compare,
	    .detach = config->detach,
	    .compress = config->compress,
	    .timeout_ms = config->timeout_ms,
	    .disk_failures = count_failures(resource),
	    .distrust = !mirror_trust_check(&resource->files),
	    .governor = config->governor,
	    .common = resource->process->common,
	    .data = resource,
	    .open_volume = open_volume,
	    .open_map = open_map,
	    .draw = draw,
	    .seek = replicate_peer_seek,
	    .dial = replicate_peer_dial,
	    .serve = replicate_serve,
	    .fence = config->fence_hook ? replicate_hook_fence : NULL,
	    .before_resync = config->before_resync ? replicate_hook_before_resync : NULL,
	    .answer = replicate_order_answer,
	    .changed = changed,
	    .warning = warning,
	    .disk_failed = disk_failed,
	    .map_lost = map_lost};
	int res = replica_node_new(&resource->node, resource->process->ring, &options, error);

	if (res < 0)
		explain_map(resource, res, error);
	return res == 0 ? mirror_trust_begin(&resource->files, error) : res;
}

/* Starting */

static int open_files(struct replicate_resource *resource, struct error *error)
{
	const char *state_dir = resource->process->options->state_dir;
	struct mirror_files *files = &resource->files;
	char map[PATH_MAX];

	if (snprintf(files->dir, sizeof(files->dir), "%s/replicas/%s", state_dir, resource->name) >=
	    (int)sizeof(files->dir))
		return error_set(error, -ENAMETOOLONG, "the name of the state folder is too long");
	files->dir_fd = folder_lock(files->dir, true);
	if (files->dir_fd == -EALREADY)
		return error_set(error, -EALREADY,
		    "another process has %s up already (`blkmove replicate status %s`)", resource->name,
		    resource->name);
	if (files->dir_fd < 0)
		return error_set(error, files->dir_fd,
		    "cannot open %s: %s; name another folder with --state-dir", files->dir,
		    strerror(-files->dir_fd));
	replica_config_map(resource->config, state_dir, map, sizeof(map));
	resource->map_fd = open(map, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
	if (resource->map_fd >= 0)
		return inspect_lock(resource->map_fd, map, error);
	return error_set(error, -errno,
	    errno == ENOENT ? "there is no map %s%s%s; `blkmove replicate create %s` makes one"
	                    : "cannot open the map %s: %s%.0s%.0s",
	    map, errno == ENOENT ? "" : strerror(errno), "", resource->name);
}

/* It is a matter of the map, and that was made before. */
static void check_regions(struct replicate_resource *resource)
{
	const struct replica_config *config = resource->config;
	struct bitmap_super super;
	char text[300];

	if (!config->region_size || bitmap_file_peek(resource->map_fd, &super, NULL) < 0 ||
	    super.region_size == config->region_size)
		return;
	snprintf(text, sizeof(text),
	    "its file has region-size = %uk, and its map was made with %uk, which counts; "
	    "`blkmove replicate create` makes another one",
	    config->region_size >> 10, super.region_size >> 10);
	replicate_warn(resource, text);
}

static void live(void *data)
{
	struct replicate_resource *resource = data;

	resource->node_res = replica_node_run(resource->node);
	resource->node_ended = resource->changed = true;
	/* Who waits for the end of a command waits no more. */
	if (!resource->orders.answered)
		replicate_order_answer(resource, -ESHUTDOWN, "the resource went down meanwhile");
	resource->process->wake = true;
}

static int begin(struct replicate_resource *resource, struct error *error)
{
	int res = open_files(resource, error);

	if (res == 0)
		res = replicate_serve_open(resource, error);
	if (res == 0)
		res = replicate_peer_open(resource, error);
	if (res == 0)
		res = new_node(resource, error);
	if (res == 0)
		check_regions(resource);
	if (res == 0)
		replicate_verify_recall(resource);
	if (res == 0)
		res = fiber_start(&resource->fiber, resource->process->ring, live, resource, error);
	return res;
}

/* All but the control socket. */
static void close_all(struct replicate_resource *resource)
{
	struct ring *ring = resource->process->ring;
	struct replica_node *node = resource->node;

	if (node)
		replica_node_stop(node);
	resource->fence.cancelled = true;
	while (resource->fiber && !fiber_has_ended(resource->fiber) && ring_step(ring) == 0)
		;
	while (resource->orders.fiber && !fiber_has_ended(resource->orders.fiber) && ring_step(ring) == 0)
		;
	replicate_orders_look(resource);
	replicate_hooks_close(resource);
	if (resource->peer.fd >= 0 || resource->peer.fiber || resource->peer.port)
		replicate_peer_close(resource);
	replicate_serve_close(resource);
	resource->fiber = fiber_free(resource->fiber);
	/* It runs the ring, and who looks at the resource meanwhile finds none. */
	resource->node = NULL;
	replica_node_free(node);
	inspect_close(&resource->map_fd);
	cleanup_close(&resource->files.dir_fd);
	resource->map_fd = resource->files.dir_fd = -1;
}

static void fail(struct replicate_resource *resource)
{
	char prefix[48];

	if (resource->process->options->json)
		replicate_say(resource, "%s", resource->error.text);
	else
		fprintf(stderr, "%s: %s: %s\n", replicate_prefix(resource->process, prefix), resource->name,
		    resource->error.text);
	resource->state = REPLICATE_STOPPING;
	close_all(resource);
	resource->state = REPLICATE_FAILED;
	resource->changed = true;
}

static int make_control(struct replicate_resource *resource, struct error *error)
{
	char name[REPLICA_CONFIG_NAME_MAX + 16];
	struct error ignored;
	json_t *status;

	snprintf(name, sizeof(name), "replica-%s", resource->name);
	status = control_ask(name, json_pack("{s:s}", "command", "status"), &ignored);
	if (status) {
		error_set(error, -EALREADY,
		    "it is up already, as process %d; `blkmove replicate down %s` ends it",
		    (int)control_number(status, "pid"), resource->name);
		json_decref(status);
		return error->code;
	}
	return control_new(
	    &resource->control, resource->process->ring, name, replicate_answer, resource, error);
}

void replicate_resource_up(struct replicate_resource *resource)
{
	const struct replica_event connect = {.kind = REPLICA_CONNECT};
	struct error ignored;
	int res = make_control(resource, &resource->error);

	if (resource->control)
		control_allow_events(resource->control);
	if (res == 0)
		res = begin(resource, &resource->error);
	if (res < 0) {
		fail(resource);
		return;
	}
	resource->state = REPLICATE_UP;
	resource->changed = true;
	if (!resource->process->options->apart)
		(void)replicate_order_begin(resource, "connect", &connect, &ignored);
}

/* The end */

/* Whatever hangs, it comes to its end. */
static void give_and_wait(struct replicate_resource *resource, enum replica_event_kind kind)
{
	const struct replica_event command = {.kind = kind};
	uint64_t deadline_ns = ring_now_ns(resource->process->ring) + PATIENCE_NS;

	resource->orders.answered = false;
	if (replica_node_command(resource->node, &command) < 0)
		return;
	while (!resource->orders.answered && !resource->node_ended &&
	       ring_now_ns(resource->process->ring) < deadline_ns && ring_step(resource->process->ring) == 0)
		;
}

static void go_down(void *data)
{
	struct replicate_resource *resource = data;
	struct ring *ring = resource->process->ring;
	uint64_t deadline_ns = ring_now_ns(ring) + PATIENCE_NS;
	struct replica_node_status status;
	struct error error;
	int res = 0;

	replica_node_status(resource->node, &status);
	while (replicate_order_runs(resource) && ring_now_ns(ring) < deadline_ns && ring_step(ring) == 0)
		;
	if (!resource->leave_device)
		res = replicate_device_remove(resource, &error);
	if (res < 0) {
		replicate_device_restore(resource);
		replicate_warn(resource, error.text);
		resource->state = REPLICATE_UP;
	} else {
		resource->fence.cancelled = true;
		give_and_wait(resource, REPLICA_MAKE_SECONDARY);
		/* What was said just before a link goes may not be heard: that this node is no primary any more. */
		if (status.role == REPLICA_PRIMARY && status.linked)
			(void)ring_wait_fd(ring, -1, 0, LAST_WORDS_MS);
		give_and_wait(resource, REPLICA_DISCONNECT);
		replica_node_stop(resource->node);
	}
	resource->changed = true;
	resource->process->wake = true;
}

void replicate_resource_down(struct replicate_resource *resource, bool leave_device)
{
	if (resource->state == REPLICATE_FAILED) {
		resource->state = REPLICATE_DOWN;
		resource->process->wake = true;
		return;
	}
	if (resource->state != REPLICATE_UP || resource->ending)
		return;
	resource->state = REPLICATE_STOPPING;
	resource->leave_device = leave_device;
	if (fiber_start(&resource->ending, resource->process->ring, go_down, resource, &resource->error) < 0)
		replica_node_stop(resource->node);
}

void replicate_resource_look(struct replicate_resource *resource)
{
	replicate_orders_look(resource);
	if (resource->ending && fiber_has_ended(resource->ending))
		resource->ending = fiber_free(resource->ending);
	if (resource->node_ended && !resource->ending) {
		bool wanted = resource->state == REPLICATE_STOPPING;

		resource->node_ended = false;
		if (wanted) {
			close_all(resource);
			resource->state = REPLICATE_DOWN;
		} else {
			error_set(&resource->error, resource->node_res < 0 ? resource->node_res : -EIO,
			    "it ended: %.400s", resource->trouble[0] ? resource->trouble : "the loop failed");
			fail(resource);
		}
	}
	if (resource->state == REPLICATE_DOWN)
		resource->control = control_free(resource->control);
}

void replicate_resource_done(struct replicate_resource *resource)
{
	while (
	    resource->ending && !fiber_has_ended(resource->ending) && ring_step(resource->process->ring) == 0)
		;
	resource->ending = fiber_free(resource->ending);
	close_all(resource);
	resource->control = control_free(resource->control);
}
