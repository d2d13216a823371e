/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Comparing both nodes' volumes while they are used: by order, and every so often if the file says so. */
#include "cli/replicate_process.h"

#include "base/parse_size.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <time.h>

#define RETRY_NS  UINT64_C(60000000000)
#define RECORD    "verified" /* {"at": seconds since 1970, "position": bytes}, in the resource's folder */
#define TOLD_MOST 100u       /* ranges, one by one */

static void differs(void *data, uint64_t offset, uint64_t length)
{
	struct replicate_resource *resource = data;
	struct replicate_verify *verify = &resource->verify;

	verify->differing += length;
	if (verify->told < REPLICATE_RANGES_MAX) {
		verify->ranges[verify->told].offset = offset;
		verify->ranges[verify->told].length = length;
	}
	if (verify->told++ < TOLD_MOST)
		replicate_say(resource, "differs: %" PRIu64 " bytes at %" PRIu64, length, offset);
	else if (verify->told == TOLD_MOST + 1)
		replicate_say(resource, "differs: more, which is only counted");
	resource->changed = true;
}

/* When the last one ended, and where; for the clock of later runs. What cannot be kept is only looked at earlier. */
static void keep(struct replicate_resource *resource, uint64_t position)
{
	struct error error;

	resource->verify.at_s = time(NULL);
	resource->verify.from = position;
	if (resource->config->verify_every_s &&
	    mirror_files_write(&resource->files, RECORD,
	        json_pack(
	            "{s:I, s:I}", "at", (json_int_t)resource->verify.at_s, "position", (json_int_t)position),
	        &error) < 0)
		replicate_warn(resource, error.text);
}

void replicate_verify_recall(struct replicate_resource *resource)
{
	json_t *json = resource->config->verify_every_s ? mirror_files_read(&resource->files, RECORD) : NULL;

	resource->verify.at_s = json_integer_value(json_object_get(json, "at"));
	resource->verify.from = (uint64_t)json_integer_value(json_object_get(json, "position"));
	/* The first one is due so long from now. */
	if (resource->verify.at_s <= 0 || resource->verify.at_s > time(NULL))
		keep(resource, 0);
	json_decref(json);
}

/* So many bytes of whole regions; as both nodes show it. */
static void say_marked(struct replicate_resource *resource)
{
	struct replica_node_status status;

	replica_node_status(resource->node, &status);
	if (status.differing)
		replicate_say(resource, "out of sync: %" PRIu64 " bytes%s", status.differing,
		    status.mirror.marked ? ", until a resync" : "");
}

static void ended(void *data, int res, uint64_t position)
{
	struct replicate_resource *resource = data;
	struct replicate_verify *verify = &resource->verify;
	struct mirror_job_status status;
	char text[16];

	mirror_job_status(replica_node_mirror(resource->node), &status);
	verify->running = false;
	verify->res = res;
	verify->position = position;
	verify->unread = status.verify_unread;
	/* Who stopped it does not want it to go on by itself: the clock begins anew. */
	keep(resource, res == 0 || verify->unwanted ? 0 : position);
	replicate_say(resource, "verify %s, %s differ", res == 0 ? "has come to its end" : "was stopped",
	    format_size(verify->differing, text, sizeof(text)));
	say_marked(resource);
	resource->changed = true;
}

static int refuse(const struct replicate_resource *resource, const struct replica_node_status *status,
    int res, uint64_t from, struct error *error)
{
	const char *name = resource->name;

	switch (res) {
	case -EALREADY:
		return error_set(error, res, "%s is being verified already", name);
	case -ENOTCONN:
		return error_set(error, res,
		    "verify is not possible: %s is %s, and only what both nodes have can be compared", name,
		    replica_flow_name(status->flow));
	case -EAGAIN:
		return error_set(error, res,
		    "%s is held by `resync --pause`, and nothing would be compared: `blkmove replicate "
		    "resync %s "
		    "--continue` first",
		    name, name);
	case -EINVAL:
		return error_set(
		    error, res, "from=%" PRIu64 ": %s has %" PRIu64 " bytes", from, name, status->size);
	case -EPERM:
		return error_set(error, res,
		    "verify is carried out where the data are sent from: give it on %s%s",
		    replica_config_other(resource->config)->name,
		    status->peer_role == REPLICA_PRIMARY ? "" : ", or make a node primary");
	default:
		return error_set(
		    error, res, "cannot verify %s now: %s; try again in a moment", name, strerror(-res));
	}
}

int replicate_verify_begin(
    struct replicate_resource *resource, uint64_t from, uint64_t rate, bool resync, struct error *error)
{
	const struct mirror_job_verify_options options = {.from = from,
	    .rate = rate,
	    .resync = resync,
	    .differs = differs,
	    .ended = ended,
	    .data = resource};
	struct replicate_verify *verify = &resource->verify;
	struct replica_node_status status;
	int res;

	replica_node_status(resource->node, &status);
	res = status.paused ? -EAGAIN : replica_node_verify(resource->node, &options);
	if (res < 0)
		return refuse(resource, &status, res, from, error);
	verify->running = verify->known = true;
	verify->unwanted = false;
	verify->told = verify->differing = 0;
	resource->changed = true;
	return 0;
}

void replicate_verify_stop(struct replicate_resource *resource)
{
	resource->verify.unwanted = resource->verify.running;
	if (resource->verify.running)
		replica_node_verify_stop(resource->node);
}

void replicate_verify_tick(struct replicate_resource *resource)
{
	uint64_t now_ns = ring_now_ns(resource->process->ring);
	struct replicate_verify *verify = &resource->verify;
	struct error ignored;

	if (!resource->config->verify_every_s || resource->state != REPLICATE_UP || verify->running ||
	    now_ns < verify->retry_ns)
		return;
	/* One that was stopped is gone on with. */
	if (verify->from == 0 && time(NULL) - verify->at_s < (int64_t)resource->config->verify_every_s)
		return;
	/* Only one of the nodes can, and not always. */
	verify->retry_ns = now_ns + RETRY_NS;
	(void)replicate_verify_begin(resource, verify->from, 0, false, &ignored);
}

static json_t *ranges_json(const struct replicate_verify *verify)
{
	json_t *ranges = json_array();

	for (uint64_t i = 0; i < verify->told && i < REPLICATE_RANGES_MAX; i++)
		json_array_append_new(
		    ranges, json_pack("{s:I, s:I}", "offset", (json_int_t)verify->ranges[i].offset, "length",
		                (json_int_t)verify->ranges[i].length));
	return ranges;
}

json_t *replicate_verify_json(
    const struct replicate_resource *resource, const struct mirror_job_status *status)
{
	const struct replicate_verify *verify = &resource->verify;

	if (!verify->known)
		return json_null();
	return json_pack("{s:s, s:I, s:I, s:I, s:I, s:o}", "state",
	    verify->running    ? "running"
	    : verify->res == 0 ? "done"
	                       : "stopped",
	    "position", (json_int_t)(verify->running ? status->verify_position : verify->position),
	    "differing", (json_int_t)verify->differing, "skipped",
	    (json_int_t)(verify->running ? status->verify_unread : verify->unread), "ranges_count",
	    (json_int_t)verify->told, "ranges", ranges_json(verify));
}
