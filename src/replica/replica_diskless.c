/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A primary whose disk fails: see replica_node.h. The mirror tells of the failure before anything follows from it: the other node is let go, so
 * that it gets nothing that the disk may have lost, but its stream stays. The gate keeps what has no answer, until the machine knows where
 * it is to go.
 */
#include "replica/replica_node_private.h"

#include "block/remote.h"

#include <errno.h>

bool replica_node_disk_fails(void *data)
{
	struct replica_node *node = data;

	if (replica_node_is_diskless(node))
		return true;
	if (!node->options.detach || node->stopping || !node->sends || !node->sender || !node->link_number ||
	    !replica_state_can_detach(&node->state) || !replica_node_is_ready(node))
		return false;
	node->keeping = true;
	gate_keep(node->gate);
	mirror_job_let_target_go(node->job);
	replica_node_happened(node, REPLICA_DISK_FAILED, 0);
	return true;
}

void replica_node_went_astray(void *data, int res)
{
	struct replica_node *node = data;
	struct error ignored;

	/* An error of the other disk is the clients'. */
	if (node->sender && block_link_error(node->sender, &ignored) < 0)
		replica_node_drop(node, "the other node's volume is lost");
}

int replica_node_flush_other(struct replica_node *node)
{
	struct block_io flush = {.op = BLOCK_FLUSH, .flags = BLOCK_DURABLE};

	return node->sender ? block_wait(node->sender, &flush) : -ENOTCONN;
}

void replica_node_divert(struct replica_node *node)
{
	node->keeping = false;
	node->diverted = true;
	replica_node_warn(node, "this node's volume failed: its clients use the other node's from now on");
	replicate_send_make_durable(node->sender);
	gate_divert(node->gate, node->sender);
	/* What is here, and perhaps not there, goes there once more. */
	mirror_refuse_answers(mirror_job_block(node->job), true);
}

static void use_own_disk(struct replica_node *node)
{
	node->keeping = node->diverted = false;
	gate_divert(node->gate, NULL);
}

void replica_node_return(struct replica_node *node)
{
	/* No link is of any use without it. */
	node->disk_failed |= bitmap_file_lost(replica_node_map(node)) < 0;
	use_own_disk(node);
}

void replica_node_give_up_disk(struct replica_node *node)
{
	use_own_disk(node);
	node->given_up = true;
}
