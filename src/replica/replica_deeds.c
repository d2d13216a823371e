/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The machine's actions, carried out one after the other, in their order, in the node's fiber: several of them wait for a disk. What was decided
 * for a link that is gone by now is left out, and so is the machine's answer to it; but for what holds without a link.
 */
#include "replica/replica_node_private.h"

#include "base/bytes.h"
#include "base/plant.h"
#include "filter/share.h"
#include "replica/replica_note.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

void replica_deed_add(void *data, const struct replica_action *action)
{
	struct replica_node *node = data;
	struct replica_deed *deed = calloc(1, sizeof(*deed));

	replica_node_wake(node);
	if (!deed) {
		node->broken = true;
		return;
	}
	deed->action = *action;
	deed->link = node->link_number;
	list_append(&node->deeds, &deed->node);
	node->deeds_count++;
}

static bool is_stale(const struct replica_node *node, const struct replica_deed *deed)
{
	return deed->link != node->link_number;
}

/* Waits until something happens. False when the deed has become pointless, or the node ends. */
static bool wait_on(struct replica_node *node, const struct replica_deed *deed)
{
	node->wake = false;
	if (ring_run_until(node->ring, &node->wake) < 0)
		return false;
	return !node->stopping && !is_stale(node, deed);
}

/* Before good data become half of something. -ECANCELED: they stay good. */
static int prepare(struct replica_node *node, const struct replica_action *action, struct error *error)
{
	int res = 0;

	/* Of what is given up for want of a disk nobody makes a snapshot. */
	if (action->ids.inconsistent && replica_state_is_good(&node->state) && node->options.before_resync &&
	    node->state.then != REPLICA_THEN_DIVERT)
		res = node->options.before_resync(node->options.data, error);
	if (res < 0)
		error_prefix(error, "nothing is received");
	return res < 0 ? -ECANCELED : 0;
}

/* The source is gone before anything of it has come: this node's data stay what they are. */
static bool is_in_vain(const struct replica_node *node, const struct replica_deed *deed)
{
	return deed->action.lapses && is_stale(node, deed);
}

/* What a file system calls stale is another matter. */
static int write_down(struct bitmap_file *map, const struct bitmap_super *super, struct error *error)
{
	int res = bitmap_file_record(map, super, error);

	return res == -ESTALE ? -EIO : res;
}

static void record(struct replica_node *node, const struct replica_deed *deed)
{
	const struct replica_action *action = &deed->action;
	struct bitmap_file *map = replica_node_map(node);
	struct bitmap_super super = *bitmap_file_super(map);
	struct error error;
	int res;

	replica_note_encode(&action->ids, super.note);
	super.note_length = REPLICA_NOTE_BYTES;
	res = prepare(node, action, &error);
	if (res == 0 && is_in_vain(node, deed))
		res = error_set(&error, -ESTALE, "nothing is received: the link was lost before that");
	else if (res == 0)
		res = write_down(map, &super, &error);
	if (res < 0)
		replica_node_warn(node, "%s", error.text);
	replica_node_happened(node, REPLICA_RECORDED, res);
}

/* What this node has written and the other may lack, or has lost since. */
static void send_map(struct replica_node *node)
{
	struct bitmap_file *map = replica_node_map(node);
	struct bitmap bits = {0};
	int res = bitmap_init(&bits, bitmap_file_dirty(map)->bits);

	if (res == 0) {
		bitmap_file_in_doubt(map, &bits);
		res = replica_link_send_map(node->link, &bits);
	}
	bitmap_done(&bits);
	if (res < 0)
		replica_node_drop(node, "out of memory");
}

/* Two maps of which neither fits on the other are of no use. */
static void warn_of_regions(struct replica_node *node)
{
	unsigned own = node->state.options.region_size, other = node->state.peer.region_size;

	if (own != other)
		replica_node_warn(node,
		    "a bit of this node's map is for %u bytes, one of the other's for %u: so all is "
		    "compared, "
		    "each "
		    "time; with the same region-size, make one of the maps anew",
		    own, other);
}

static void merge(struct replica_node *node, const struct replica_deed *deed)
{
	bool all = deed->action.all;
	struct error error;
	int res = 0;

	warn_of_regions(node);
	while (!all && !node->have_peer_map)
		if (!wait_on(node, deed))
			return;
	/* Where no map knows what differs, most may be the same; but not on a node that never was a replica's. */
	if ((all && node->state.peer.ids.current != 0) || node->options.compare)
		res = mirror_job_compare(node->job, &error);
	if (res == 0)
		res = bitmap_file_merge(replica_node_map(node), all ? NULL : &node->peer_map);
	bitmap_done(&node->peer_map);
	node->have_peer_map = false;
	if (!is_stale(node, deed))
		replica_node_happened(node, REPLICA_MERGED, res);
}

static void empty(struct replica_node *node, const struct replica_deed *deed)
{
	int res = bitmap_file_empty(replica_node_map(node));

	if (!is_stale(node, deed))
		replica_node_happened(node, REPLICA_EMPTIED, res);
}

/* No client writes any more, and nothing is under way, unless the link is lost. */
static void yield(struct replica_node *node, const struct replica_deed *deed)
{
	bool there = true;

	gate_set(node->gate, GATE_READ);
	while (there && !gate_is_idle(node->gate))
		there = wait_on(node, deed);
}

static void let_clients_come(struct replica_node *node)
{
	if (!node->serving)
		node->options.serve(node->options.data, true);
	node->serving = true;
}

/* Both sides may be open to clients, one of them for writing. */
static void lease(struct replica_node *node, const struct replica_action *action)
{
	bool primary = node->state.role == REPLICA_PRIMARY;

	node->lease_ends_ns = ring_now_ns(node->ring) + action->lease_ms * UINT64_C(1000000);
	gate_set(node->gate, primary ? GATE_DURABLE : GATE_WAIT);
	let_clients_come(node);
}

static void serve(struct replica_node *node, const struct replica_deed *deed)
{
	/* Until then what is written would not go to both. */
	while (node->sends && node->state.flow == REPLICA_EQUAL && !replica_node_writes_to_both(node))
		if (!wait_on(node, deed))
			break;
	if (node->stopping)
		return;
	/* Should the link have been lost before COPY had its turn. */
	replica_node_stop_receiving(node);
	gate_set(node->gate, GATE_OPEN);
	let_clients_come(node);
}

void replica_node_close_clients(struct replica_node *node)
{
	struct block *mirror = mirror_job_block(node->job);

	/* What waits, or will wait, for an answer that may never be given must not hold them up. */
	mirror_refuse_answers(mirror, true);
	if (gate_mode(node->gate) == GATE_WAIT || node->keeping)
		gate_set(node->gate, GATE_SHUT);
	if (node->serving)
		node->options.serve(node->options.data, false);
	node->serving = false;
	gate_set(node->gate, GATE_SHUT);
	while (!gate_is_idle(node->gate) && ring_step(node->ring) == 0)
		;
	mirror_refuse_answers(mirror, false);
	if (replica_node_is_diskless(node))
		replica_node_give_up_disk(node);
}

static bool is_settled(struct replica_node *node)
{
	struct mirror_job_status status;

	mirror_job_status(node->job, &status);
	return status.state == CUTOVER_READY && !status.verifying &&
	       bitmap_file_logged(replica_node_map(node))->count == 0;
}

/*
 * Until nothing is in the map: then nothing is under way, and nothing is on one side only. What a verification has marked is copied for it,
 * and none may mark more; who wants no link any more does not wait for that.
 */
static void settle(struct replica_node *node, const struct replica_deed *deed)
{
	bool there = true;

	if (node->keeping || node->given_up) {
		int res = replica_node_flush_other(node);

		if (!is_stale(node, deed))
			replica_node_happened(node, REPLICA_SETTLED, res);
		return;
	}
	mirror_job_clear_map(node->job, true);
	replica_node_verify_stop(node);
	while (there && !is_settled(node))
		there = wait_on(node, deed) && node->state.wanted;
	mirror_job_clear_map(node->job, false);
	if (!there || is_stale(node, deed))
		return;
	replica_node_tell_marks(node);
	replica_node_happened(node, REPLICA_SETTLED, 0);
}

static void stop_streams(struct replica_node *node)
{
	replica_node_stop_sending(node);
	replica_node_stop_receiving(node);
	node->disk_failed |= node->given_up;
	node->given_up = false;
}

static void seek(struct replica_node *node, bool on)
{
	if (on == node->sought)
		return;
	node->sought = on;
	node->options.seek(node->options.data, on);
}

static void drop(struct replica_node *node, const struct replica_deed *deed)
{
	seek(node, false);
	if (!is_stale(node, deed))
		replica_node_drop(node, node->state.refusal ? node->state.refusal : "disconnected");
}

/* As far as there is room, or (`all`) all of it. */
static int enlarge(struct replica_node *node, uint64_t size, bool all, struct error *error)
{
	const struct block_info *info = block_info(node->volume);
	uint64_t room = 0, now = mirror_job_size(node->job);
	int res = replica_node_room(node, &room, error);

	if (res == 0 && (room <= now || (all && room < size)))
		res = error_set(error, -ENOSPC, "%s has %llu bytes, %llu are wanted", info->name,
		    (unsigned long long)room, (unsigned long long)size);
	if (res < 0)
		return res;
	size = min_u64(size, room);
	share_measure(node->own, size);
	res = mirror_job_grow(node->job, size, error);
	if (res < 0) {
		share_measure(node->own, now);
		return res;
	}
	share_measure(node->shown, size);
	return block_measure(node->gate, error);
}

static void grow(struct replica_node *node, const struct replica_action *action)
{
	struct error error;
	int res;

	/* Of a secondary: nothing goes there any more. */
	replica_node_stop_sending(node);
	res = enlarge(node, action->size, action->all, &error);
	/* A map that comes is of that size, too; what has come before its turn is of another. */
	if (res == 0)
		node->have_peer_map = false;
	if (res == 0 && node->link && !node->link_lost && replica_node_expect_map(node) < 0)
		replica_node_drop(node, "out of memory");
	if (res < 0)
		replica_node_warn(node, "the volume does not become larger: %s", error.text);
	replica_node_event(node,
	    (struct replica_event){.kind = REPLICA_GROWN, .size = mirror_job_size(node->job), .res = res});
}

/* What only means something over the link that it was decided for. */
static void do_linked(struct replica_node *node, const struct replica_deed *deed)
{
	const struct replica_action *action = &deed->action;

	switch (action->kind) {
	case REPLICA_DO_SAY:
		replica_link_say(node->link, &action->message);
		break;
	case REPLICA_DO_SEND_MAP:
		send_map(node);
		if (PLANTED(PLANTED_EARLY_EMPTY))
			bitmap_file_empty(replica_node_map(node));
		break;
	case REPLICA_DO_MERGE:
		merge(node, deed);
		break;
	case REPLICA_DO_EMPTY:
		empty(node, deed);
		break;
	case REPLICA_DO_COPY:
		replica_node_stop_receiving(node);
		replica_node_begin_to_send(node);
		break;
	case REPLICA_DO_RECEIVE:
		replica_node_stop_sending(node);
		/* All that was sent is flushed there: nobody waits for anything. */
		mirror_give_answers(mirror_job_block(node->job));
		replica_node_begin_to_receive(node);
		break;
	case REPLICA_DO_SETTLE:
		settle(node, deed);
		break;
	case REPLICA_DO_DIVERT:
		replica_node_divert(node);
		break;
	case REPLICA_DO_BEAR:
		if (node->received)
			replicate_receive_make_durable(node->received);
		break;
	default:
		break;
	}
}

static void carry_out(struct replica_node *node, const struct replica_deed *deed)
{
	const struct replica_action *action = &deed->action;

	switch (action->kind) {
	case REPLICA_DO_RECORD:
		record(node, deed);
		break;
	case REPLICA_DO_STOP:
		stop_streams(node);
		break;
	case REPLICA_DO_RELEASE:
		mirror_give_answers(mirror_job_block(node->job));
		break;
	case REPLICA_DO_SERVE:
		serve(node, deed);
		break;
	case REPLICA_DO_LEASE:
		lease(node, action);
		break;
	case REPLICA_DO_YIELD:
		yield(node, deed);
		break;
	case REPLICA_DO_CLOSE:
		replica_node_close_clients(node);
		break;
	case REPLICA_DO_RETURN:
		replica_node_return(node);
		break;
	case REPLICA_DO_DROP:
		drop(node, deed);
		break;
	case REPLICA_DO_SEEK:
		seek(node, !node->disk_failed);
		break;
	case REPLICA_DO_GROW:
		grow(node, action);
		break;
	case REPLICA_DO_VERIFY:
		replica_node_verify_begin(node);
		break;
	case REPLICA_DO_FENCE:
		if (node->options.fence)
			node->options.fence(node->options.data);
		break;
	case REPLICA_DO_ANSWER:
		node->options.answer(node->options.data, action->res, action->text);
		break;
	default:
		if (node->link_number && !is_stale(node, deed))
			do_linked(node, deed);
	}
}

bool replica_deed_do(struct replica_node *node)
{
	struct list_node *first = list_pop(&node->deeds);
	struct replica_deed *deed;

	if (!first)
		return false;
	deed = container_of(first, struct replica_deed, node);
	node->deeds_count--;
	carry_out(node, deed);
	free(deed);
	return true;
}

void replica_deeds_done(struct replica_node *node)
{
	struct list_node *first;

	while ((first = list_pop(&node->deeds)))
		free(container_of(first, struct replica_deed, node));
}
