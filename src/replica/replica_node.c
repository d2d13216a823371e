/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The life of a node: see replica_node.h. Two fibers: the mirror's, and that of run(), which carries out what the machine decides and looks
 * after the streams. What the machine is told, it is told at once, from wherever it happens; it only queues what follows.
 */
#include "replica/replica_node_private.h"

#include "base/bytes.h"
#include "base/plant.h"
#include "block/remote.h"
#include "filter/share.h"
#include "replica/replica_note.h"

#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LOG_AHEAD (4u << 20) /* bytes: few records for those who write here and there */
#define TICK_NS   200000000u

void replica_node_wake(struct replica_node *node)
{
	node->wake = true;
}

void replica_node_warn(struct replica_node *node, const char *format, ...)
{
	char text[512];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	node->options.warning(node->options.data, text);
}

struct bitmap_file *replica_node_map(struct replica_node *node)
{
	return mirror_map(mirror_job_block(node->job));
}

bool replica_node_is_ready(struct replica_node *node)
{
	struct mirror_job_status status;

	mirror_job_status(node->job, &status);
	return status.state == CUTOVER_READY;
}

bool replica_node_writes_to_both(struct replica_node *node)
{
	struct mirror_job_status status;

	mirror_job_status(node->job, &status);
	return status.state == CUTOVER_READY ||
	       (status.marked && status.attached && status.mode == MIRROR_WRITE_THROUGH);
}

int replica_node_event(struct replica_node *node, struct replica_event event)
{
	int res;

	event.fresh = node->options.draw(node->options.data);
	res = replica_state_event(&node->state, &event);
	node->options.changed(node->options.data);
	return res;
}

void replica_node_happened(struct replica_node *node, enum replica_event_kind kind, int res)
{
	replica_node_event(node, (struct replica_event){.kind = kind, .res = res});
}

/* The mirror's callbacks */

static int open_leg(void *data, enum mirror_leg_index leg, struct block **ret, struct error *error)
{
	struct replica_node *node = data;
	const struct block_info *info = block_info(node->volume);
	uint64_t size; /* of it, that are the replica */
	int res;

	if (leg == MIRROR_TARGET)
		return replica_node_open_target(node, ret, error);
	size = mirror_job_size(node->job);
	if (size > info->size)
		return error_set(error, -EXDEV,
		    "%s has %llu bytes, the replica has %llu: enlarge it again, or make a new replica of it",
		    info->name, (unsigned long long)info->size, (unsigned long long)size);
	res = share_new(ret, node->volume, size, error);
	if (res == 0)
		node->own = *ret;
	return res;
}

static int open_map(void *data, bool create)
{
	struct replica_node *node = data;

	return node->options.open_map(node->options.data);
}

static void state_changed(void *data, enum cutover_state state)
{
	struct replica_node *node = data;

	replica_node_wake(node);
	node->options.changed(node->options.data);
}

static void warned(void *data, const char *text)
{
	struct replica_node *node = data;

	node->options.warning(node->options.data, text);
}

static void map_lost(void *data)
{
	struct replica_node *node = data;

	/* A map that fails with its disk is not missed: nothing is written here any more. */
	node->disk_failed |= !replica_node_is_diskless(node);
	replica_node_wake(node);
	if (node->options.map_lost)
		node->options.map_lost(node->options.data);
}

static void wanted(void *data)
{
	replica_node_happened(data, REPLICA_TAKE, 0);
}

static void wake(void *data)
{
	replica_node_wake(data);
}

/* Making one */

int replica_node_create(struct ring *ring, int fd, struct block *volume,
    const struct replica_node_birth *birth, struct error *error)
{
	const struct block_info *info = block_info(volume);
	const struct replica_ids ids = {.foreign = birth->foreign};
	struct bitmap_super super = {.nonce = birth->nonce,
	    .size = birth->size ? birth->size : info->size,
	    .records = BITMAP_RECORDS,
	    .state = CUTOVER_SYNCING,
	    .authoritative = MIRROR_SOURCE,
	    .note_length = REPLICA_NOTE_BYTES};
	struct block_facts facts;
	struct bitmap_file *map;
	int res = block_facts(volume, &facts, error);

	if (res == 0 &&
	    (super.size > info->size || (super.size < info->size && super.size % info->request_align)))
		res = error_set(error, -EINVAL,
		    "%s has %llu bytes, in blocks of %u: no part of %llu can be a replica", info->name,
		    (unsigned long long)info->size, info->request_align, (unsigned long long)super.size);
	if (res == 0 && super.size == 0)
		res = error_set(error, -EINVAL, "%s is empty: there is nothing to replicate", info->name);
	if (res < 0)
		return res;
	super.region_size = birth->region_size ? birth->region_size : bitmap_region_size_for(super.size);
	snprintf(super.ids[MIRROR_SOURCE], BITMAP_ID_MAX, "%s", facts.id);
	replica_note_encode(&ids, super.note);
	res = bitmap_file_create(&map, ring, fd, &super, NULL, error);
	if (res == 0)
		bitmap_file_free(map);
	return res;
}

static int begin_job(struct replica_node *node, struct error *error)
{
	const struct replica_node_options *options = &node->options;
	const struct mirror_job_options job = {.resume = true,
	    .distrust = options->distrust,
	    .replica = true,
	    .apart = true,
	    .withholds = true,
	    .log_ahead = options->log_ahead ? options->log_ahead : LOG_AHEAD,
	    .target_keeps = options->ack == REPLICATE_DURABLE,
	    .governor = options->governor,
	    .common = options->common,
	    .follower_timeout_ns = options->follower_timeout_ns,
	    .retry_ns = options->retry_ns,
	    .data = node,
	    .open_leg = open_leg,
	    .open_map = open_map,
	    .state_changed = state_changed,
	    .follower_lost = replica_node_follower_lost,
	    .warning = warned,
	    .leader_failing = replica_node_disk_fails,
	    .map_lost = map_lost};
	int res = mirror_job_new(&node->job, node->ring, &job, error);

	return res == 0 ? mirror_job_open(node->job, error) : res;
}

static int begin_gate(struct replica_node *node, struct error *error)
{
	const struct gate_options options = {.wanted = wanted,
	    .idle = wake,
	    .keeps = node->options.detach,
	    .astray = replica_node_went_astray,
	    .data = node};
	struct block *mirror = mirror_job_block(node->job);
	int res = share_new(&node->shown, mirror, block_info(mirror)->size, error);

	return res == 0 ? gate_new(&node->gate, node->shown, &options, error) : res;
}

static int begin_machine(struct replica_node *node, struct error *error)
{
	const struct bitmap_super *super = bitmap_file_super(replica_node_map(node));
	const struct replica_options options = {.name = node->options.name,
	    .size = super->size,
	    .region_size = super->region_size,
	    .gone = node->options.gone,
	    .act = replica_deed_add,
	    .data = node};
	struct replica_ids ids;
	int res = replica_note_decode(super->note, super->note_length, &ids, error);

	if (res == 0)
		replica_state_init(&node->state, &options, &ids);
	return res;
}

int replica_node_new(struct replica_node **ret, struct ring *ring, const struct replica_node_options *options,
    struct error *error)
{
	struct replica_node *node = calloc(1, sizeof(*node));
	int res;

	if (!node)
		return error_set(error, -ENOMEM, "no memory for a replica");
	node->ring = ring;
	node->options = *options;
	node->disk_failures = options->disk_failures;
	list_init(&node->deeds);
	res = options->open_volume(options->data, &node->volume, error);
	if (res == 0)
		res = begin_job(node, error);
	if (res == 0)
		res = begin_gate(node, error);
	if (res == 0)
		res = begin_machine(node, error);
	if (res < 0) {
		replica_node_free(node);
		return res;
	}
	*ret = node;
	return 0;
}

/* Running */

static void run_job(void *data)
{
	struct replica_node *node = data;
	struct error error;

	if (mirror_job_run(node->job, &error) == CUTOVER_FAILED)
		replica_node_warn(node, "%s", error.text);
}

/* Both sides have flushed. */
static void copied(void *data, int res)
{
	struct replica_node *node = data;

	node->copied_flush = false;
	replica_node_wake(node);
	if (res == 0 && node->sends && node->link_number && replica_node_is_ready(node))
		replica_node_happened(node, REPLICA_COPIED, 0);
}

static void look_at_copy(struct replica_node *node)
{
	struct block *mirror = mirror_job_block(node->job);

	if (!node->sends || !node->link_number || node->state.flow != REPLICA_SENDING ||
	    node->state.arrived_said || node->copied_flush || mirror_flushing(mirror) ||
	    (mirror_writes_behind(mirror) && !PLANTED(PLANTED_LATE_WRITES)) || !replica_node_is_ready(node))
		return;
	if (PLANTED(PLANTED_EARLY_ARRIVED)) {
		replica_node_happened(node, REPLICA_COPIED, 0);
		return;
	}
	node->copied_flush = true;
	mirror_flush_legs(mirror, false, copied, node);
}

static void look_at_lease(struct replica_node *node)
{
	if (!node->lease_ends_ns || ring_now_ns(node->ring) < node->lease_ends_ns)
		return;
	node->lease_ends_ns = 0;
	replica_node_happened(node, REPLICA_LEASE_ENDED, 0);
}

static int go_on(struct replica_node *node)
{
	int res = 0;

	while (res == 0 && !node->stopping && !node->broken) {
		node->wake = false;
		replica_node_look_after_streams(node);
		look_at_copy(node);
		look_at_lease(node);
		replica_node_look_at_marks(node);
		if (!replica_deed_do(node) && !node->wake)
			res = ring_run_until(node->ring, &node->wake);
	}
	return node->broken ? -ENOMEM : res;
}

/* As a crash would, but in peace. */
static void end(struct replica_node *node)
{
	node->stopping = true;
	replica_node_close_clients(node);
	replica_node_drop(node, "this node ends");
	while (node->link && !node->link_lost && ring_step(node->ring) == 0)
		;
	replica_node_look_after_streams(node);
	node->running = false;
	replica_node_stop_receiving(node);
	mirror_job_stop(node->job);
	while (!fiber_has_ended(node->job_fiber) && ring_step(node->ring) == 0)
		;
	while (node->copied_flush && ring_step(node->ring) == 0)
		;
}

int replica_node_run(struct replica_node *node)
{
	struct error error;
	int res = fiber_start(&node->job_fiber, node->ring, run_job, node, &error);

	if (res < 0) {
		replica_node_warn(node, "%s", error.text);
		return res;
	}
	node->running = true;
	ticker_start(&node->ticker, node->ring, TICK_NS, wake, node);
	res = go_on(node);
	end(node);
	ticker_stop(&node->ticker);
	return res;
}

void replica_node_stop(struct replica_node *node)
{
	node->stopping = node->wake = true;
}

struct replica_node *replica_node_free(struct replica_node *node)
{
	if (!node)
		return NULL;
	replica_deeds_done(node);
	node->link = replica_link_free(node->link);
	bitmap_done(&node->peer_map);
	fiber_free(node->job_fiber);
	block_free(node->gate);
	if (node->remote)
		remote_hang_up(node->remote, "this node ends");
	mirror_job_free(node->job);
	block_free(node->sender);
	block_free(node->volume);
	free(node);
	return NULL;
}

/* For the owner */

struct block *replica_node_block(struct replica_node *node)
{
	return node->gate;
}

struct mirror_job *replica_node_mirror(struct replica_node *node)
{
	return node->job;
}

int replica_node_command(struct replica_node *node, const struct replica_event *command)
{
	/* Somebody has looked after it, or so it is hoped. */
	if (command->kind == REPLICA_CONNECT && !bitmap_file_lost(replica_node_map(node))) {
		node->disk_failed = false;
		node->given_up &= node->state.linked;
	}
	/* Clients of both would wait for the copy. */
	if (command->kind == REPLICA_HAND_OVER && replica_node_differing(node)) {
		node->options.answer(node->options.data, -EBUSY,
		    "the nodes are not in sync: a verification has found what differs; let `resync` send it "
		    "first");
		return 0;
	}
	return replica_node_event(node, *command);
}

int replica_node_room(struct replica_node *node, uint64_t *ret, struct error *error)
{
	int res = block_measure(node->volume, error);

	if (res == 0)
		*ret = align_down(block_info(node->volume)->size, block_info(node->volume)->request_align);
	return res;
}

void replica_node_fenced(struct replica_node *node)
{
	replica_node_happened(node, REPLICA_FENCED, 0);
}

void replica_node_pause(struct replica_node *node, bool paused)
{
	node->paused = paused;
	if (node->sends && !replica_node_is_diskless(node))
		mirror_job_pause(node->job, paused);
}

void replica_node_govern(struct replica_node *node, const struct governor_options *options)
{
	mirror_job_govern(node->job, options);
}

/* What it has said of itself holds until something goes between the two. */
static bool peer_is_good(const struct replica_state *state)
{
	const struct replica_ids *peer = &state->peer.ids;

	if (state->flow == REPLICA_EQUAL || state->flow == REPLICA_SENDING)
		return state->flow == REPLICA_EQUAL;
	if (state->flow == REPLICA_DISKLESS)
		return state->role == REPLICA_PRIMARY;
	return state->heard && peer->current && !peer->inconsistent;
}

void replica_node_status(struct replica_node *node, struct replica_node_status *ret)
{
	const struct replica_state *state = &node->state;

	*ret = (struct replica_node_status){.role = state->role,
	    .peer_role = state->peer.role,
	    .flow = state->flow,
	    .differing = replica_node_differing(node),
	    .linked = node->link_number != 0,
	    .wanted = state->wanted,
	    .serving = node->serving,
	    .good = replica_state_is_good(state),
	    .outdated = state->ids.outdated,
	    .foreign = state->ids.foreign,
	    .peer_good = peer_is_good(state),
	    .frozen = state->frozen,
	    .ahead = node->ahead,
	    .disk_failed = node->disk_failed || replica_node_is_diskless(node) || node->given_up,
	    .leased = state->lease != REPLICA_LEASE_NONE,
	    .paused = node->paused,
	    .generation = state->ids.current,
	    .size = state->options.size,
	    .refusal = state->refusal,
	    .relation = state->relation,
	    .verdict = state->verdict};
	if (node->sender && node->sends && mirror_attached(mirror_job_block(node->job)))
		ret->queued = replicate_send_queued(node->sender);
	mirror_job_status(node->job, &ret->mirror);
	if (ret->differing)
		ret->flow = REPLICA_DIFFERING;
	/* One fact, not two. */
	assert(ret->flow != REPLICA_EQUAL || !node->sends || ret->mirror.unequal == 0);
}
