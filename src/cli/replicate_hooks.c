/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The user's programs of a resource, /bin/sh -c TEXT, with what they are about in the environment. What they print goes where this process prints. */
#include "cli/replicate_process.h"

#include "base/cleanup.h"
#include "wire/child.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>

#define FENCE_MS         60000u
#define BEFORE_RESYNC_MS 300000u /* it may make a snapshot */
#define LOOK_MS          200u

/* env(1) sets what the hook finds, and becomes the shell. */
static int start(struct child *ret, const struct replicate_resource *resource, const char *hook,
    const char *what, struct error *error)
{
	const struct replica_config *config = resource->config;
	_cleanup_(cleanup_close) int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
	const int fds[3] = {null, STDERR_FILENO, STDERR_FILENO};
	char *words[12] = {0};
	int res = 0;

	if (null < 0)
		return error_set(error, -errno, "cannot open /dev/null: %s", strerror(errno));
	words[0] = strdup("env");
	if (asprintf(&words[1], "BLKMOVE_RESOURCE=%s", resource->name) < 0 ||
	    asprintf(&words[2], "BLKMOVE_HOST=%s", replica_config_self(config)->name) < 0 ||
	    asprintf(&words[3], "BLKMOVE_PEER=%s", replica_config_other(config)->name) < 0 ||
	    asprintf(&words[4], "BLKMOVE_PEER_ADDRESS=%s", replica_config_other(config)->address) < 0 ||
	    asprintf(&words[5], "BLKMOVE_VOLUME=%s", replica_config_self(config)->device) < 0 ||
	    asprintf(&words[6], "BLKMOVE_HOOK=%s", what) < 0 || !(words[7] = strdup("/bin/sh")) ||
	    !(words[8] = strdup("-c")) || !(words[9] = strdup(hook)) || !words[0])
		res = error_set(error, -ENOMEM, "out of memory");
	if (res == 0)
		res = child_start_group(ret, words, fds, error);
	for (size_t i = 0; i < sizeof(words) / sizeof(words[0]); i++)
		free(words[i]);
	return res;
}

/* In a fiber. 0: it exited with 0 in time. */
static int run(struct replicate_resource *resource, const char *hook, const char *what, unsigned limit_ms,
    const bool *cancelled, struct error *error)
{
	struct ring *ring = resource->process->ring;
	uint64_t end_ns = ring_now_ns(ring) + limit_ms * UINT64_C(1000000);
	struct child child;
	int res = start(&child, resource, hook, what, error);

	if (res < 0)
		return error_prefix(error, "%s", what);
	while (!child_wait(&child, ring, LOOK_MS)) {
		if (!*cancelled && ring_now_ns(ring) < end_ns)
			continue;
		child_end(&child, ring);
		return error_set(error, *cancelled ? -ECANCELED : -ETIMEDOUT,
		    "%s did not end %s; it was ended: %.200s", what,
		    *cancelled ? "before it was unwanted" : "in time", hook);
	}
	if (WIFEXITED(child.status) && WEXITSTATUS(child.status) == 0)
		return 0;
	return error_set(error, -EIO, "%s failed (%s %d): %.200s", what,
	    WIFEXITED(child.status) ? "exit code" : "signal",
	    WIFEXITED(child.status) ? WEXITSTATUS(child.status) : WTERMSIG(child.status), hook);
}

static void fence(void *data)
{
	struct replicate_resource *resource = data;
	const char *hook = resource->config->fence_hook;
	struct error error;

	if (run(resource, hook, "fence-hook", FENCE_MS, &resource->fence.cancelled, &error) == 0)
		replica_node_fenced(resource->node);
	else
		replicate_warn(resource, error.text);
	resource->fence.running = false;
	resource->process->wake = true;
}

static void begin_to_fence(struct ring_op *op, int res)
{
	struct replicate_hook *hook = container_of(op, struct replicate_hook, later);
	struct replicate_resource *resource = container_of(hook, struct replicate_resource, fence);
	struct error error;

	hook->fiber = fiber_free(hook->fiber);
	if (!hook->cancelled &&
	    fiber_start(&hook->fiber, resource->process->ring, fence, resource, &error) == 0)
		return;
	hook->running = false;
}

void replicate_hook_fence(void *data)
{
	struct replicate_resource *resource = data;
	struct replicate_hook *hook = &resource->fence;

	if (hook->running || !resource->config->fence_hook)
		return;
	hook->running = true;
	/* A fiber is not begun in another one. */
	hook->later = (struct ring_op){.opcode = RING_NOP, .done = begin_to_fence};
	ring_defer(resource->process->ring, &hook->later, 0);
}

int replicate_hook_before_resync(void *data, struct error *error)
{
	struct replicate_resource *resource = data;

	if (!resource->config->before_resync)
		return 0;
	return run(resource, resource->config->before_resync, "before-resync", BEFORE_RESYNC_MS,
	    &resource->fence.cancelled, error);
}

void replicate_hooks_close(struct replicate_resource *resource)
{
	struct replicate_hook *hook = &resource->fence;

	hook->cancelled = true;
	while ((hook->running || (hook->fiber && !fiber_has_ended(hook->fiber))) &&
	       ring_step(resource->process->ring) == 0)
		;
	hook->fiber = fiber_free(hook->fiber);
}
