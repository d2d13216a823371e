/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A node's verifications, and what they have marked: see replica_node.h. The mirror's map has the marks, and nothing else is written down of
 * them; the machine has seen to it that the other node will be the target of whatever copies them. The other is told how much there is.
 */
#include "replica/replica_node_private.h"

#include <errno.h>

#define TELL_NS UINT64_C(1000000000) /* between two that say how much it is */

uint64_t replica_node_differing(struct replica_node *node)
{
	struct mirror_job_status status;

	if (node->state.flow != REPLICA_EQUAL)
		return 0;
	if (!node->sends)
		return node->state.differing;
	mirror_job_status(node->job, &status);
	return status.unequal;
}

void replica_node_tell_marks(struct replica_node *node)
{
	uint64_t now_ns = ring_now_ns(node->ring), bytes = node->sends ? replica_node_differing(node) : 0;
	struct replica_message message = {.say = REPLICA_DIFFERS, .size = bytes};

	if (!node->link_number || node->state.flow != REPLICA_EQUAL || replica_node_is_diskless(node)) {
		node->told_differing = 0;
		return;
	}
	/* Whether there is something at all, it hears at once. */
	if (bytes == node->told_differing || (bytes && node->told_differing && now_ns < node->tell_after_ns))
		return;
	node->told_differing = bytes;
	node->tell_after_ns = now_ns + TELL_NS;
	replica_link_say(node->link, &message);
	node->options.changed(node->options.data);
}

/* It was ordered, and has not begun. */
static void forget(struct replica_node *node, int res)
{
	const struct mirror_job_verify_options *options = &node->verify_options;

	if (!node->verify_waits)
		return;
	node->verify_waits = false;
	if (options->ended)
		options->ended(options->data, res, options->from);
}

int replica_node_verify(struct replica_node *node, const struct mirror_job_verify_options *options)
{
	struct mirror_job_status status;
	int res;

	mirror_job_status(node->job, &status);
	if (node->verify_waits || status.verifying)
		return -EALREADY;
	if (node->state.flow != REPLICA_EQUAL)
		return -ENOTCONN;
	if (!node->sends)
		return -EPERM;
	if (options->from >= status.size)
		return -EINVAL;
	if (status.state != CUTOVER_READY && !status.marked)
		return -EBUSY;
	node->verify_options = *options;
	node->verify_waits = true;
	res = replica_node_event(node, (struct replica_event){.kind = REPLICA_VERIFY});
	node->verify_waits &= res == 0;
	return res;
}

void replica_node_verify_begin(struct replica_node *node)
{
	if (node->verify_waits && mirror_job_verify(node->job, &node->verify_options) < 0)
		forget(node, -ECANCELED);
	node->verify_waits = false;
}

void replica_node_verify_lost(struct replica_node *node)
{
	forget(node, -ENOTCONN);
}

void replica_node_verify_stop(struct replica_node *node)
{
	forget(node, -ECANCELED);
	mirror_job_verify_stop(node->job);
}

int replica_node_copy_marked(struct replica_node *node)
{
	if (!node->sends && replica_node_differing(node))
		return -EPERM;
	mirror_job_copy_marked(node->job);
	return 0;
}

void replica_node_look_at_marks(struct replica_node *node)
{
	const struct replica_state *state = &node->state;
	struct mirror_job_status status;

	replica_node_tell_marks(node);
	if (!node->sends || state->role != REPLICA_SECONDARY || state->flow != REPLICA_EQUAL ||
	    !state->ids.sender || node->verify_waits)
		return;
	mirror_job_status(node->job, &status);
	if (status.state == CUTOVER_READY && !status.verifying)
		replica_node_happened(node, REPLICA_EVEN, 0);
}
