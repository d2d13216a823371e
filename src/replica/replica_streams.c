/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The streams between two nodes: see replica_node.h. They live and die together: whichever breaks, the link is dropped, and the machine
 * hears that it is lost. The data of the last link are gone before those of the next one can come, by its number.
 */
#include "replica/replica_node_private.h"

#include "block/remote.h"
#include "filter/share.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#define TIMEOUT_MS 30000u

/* The link */

static void heard(void *data, const struct replica_message *message)
{
	struct replica_node *node = data;

	/* More than what an honest node says while this one is at something. */
	if (node->deeds_count > REPLICA_DEEDS_MAX) {
		replica_node_drop(node, "too much said at once");
		return;
	}
	replica_node_event(node, (struct replica_event){.kind = REPLICA_HEARD, .message = message});
}

static void map_came(void *data, const struct bitmap *bits)
{
	struct replica_node *node = data;

	bitmap_done(&node->peer_map);
	if (bitmap_init(&node->peer_map, bits->bits) < 0) {
		replica_node_drop(node, "out of memory");
		return;
	}
	bitmap_or(&node->peer_map, bits);
	node->have_peer_map = true;
	replica_node_wake(node);
}

static void link_lost(void *data, const struct error *error)
{
	struct replica_node *node = data;

	if (error->code < 0 && !node->stopping)
		replica_node_warn(node, "the link to the other node is lost: %s", error->text);
	node->link_lost = true;
	node->link_number = 0;
	/* Before anything else is acknowledged: the other may be without it from now on. */
	if (node->state.copying)
		mirror_withhold(mirror_job_block(node->job));
	/* The mirror has let it go already. */
	if (node->remote && (replica_node_is_diskless(node) || node->given_up))
		remote_hang_up(node->remote, "the link to the other node is lost");
	replica_node_happened(node, REPLICA_LOST, 0);
	node->told_differing = 0;
	replica_node_verify_lost(node);
}

static int refuse(int fd, struct error *error, int code, const char *why)
{
	close(fd);
	return error_set(error, code, "%s", why);
}

int replica_node_expect_map(struct replica_node *node)
{
	return replica_link_expect_map(
	    node->link, bitmap_super_regions(bitmap_file_super(replica_node_map(node))));
}

int replica_node_take_link(struct replica_node *node, int fd, bool server, uint64_t link, struct error *error)
{
	const struct replica_link_options options = {.fd = fd,
	    .server = server,
	    .timeout_ms = node->options.timeout_ms,
	    .heard = heard,
	    .map = map_came,
	    .lost = link_lost,
	    .data = node};
	int res;

	if (!node->running || node->stopping || node->disk_failed || !node->state.wanted)
		return refuse(fd, error, -EBUSY, "this node wants no link now");
	if (node->link || !link)
		return refuse(fd, error, -EBUSY, "this node has a link already");
	res = replica_link_new(&node->link, node->ring, &options, error);
	if (res == 0)
		res = replica_node_expect_map(node);
	if (res < 0) {
		node->link = replica_link_free(node->link);
		return error_set(error, res, "no memory for a link to the other node");
	}
	node->link_number = link;
	node->have_peer_map = node->ahead = node->sought = false;
	replica_node_happened(node, REPLICA_LINK, 0);
	return 0;
}

void replica_node_drop(struct replica_node *node, const char *why)
{
	if (node->link && !node->link_lost)
		replica_link_drop(node->link, why);
}

/* Data to the other node */

static void send_failed(void *data, int res)
{
	replica_node_drop(data, "what was acknowledged could not be sent");
}

static void congested(void *data)
{
	struct replica_node *node = data;

	/* In a resync it is the copy that fills the queue, and clients wait for nobody until it is nearly done. */
	if (!node->options.pull_ahead || node->ahead || node->state.flow != REPLICA_EQUAL ||
	    replica_node_is_diskless(node))
		return;
	node->ahead = true;
	replica_node_warn(node,
	    "the link is too slow for what is written: it goes on without the other node, "
	    "which gets it later");
	replica_node_wake(node);
}

/* Nobody has a share of it any more, or uses that. */
static void close_sender(struct replica_node *node)
{
	struct block *sender = node->sender;

	node->sender = node->remote = NULL;
	block_free(sender);
}

int replica_node_open_target(struct replica_node *node, struct block **ret, struct error *error)
{
	const struct replicate_send_options options = {.ack = node->options.ack,
	    .queue_max = node->options.queue_max,
	    .congested = congested,
	    .failed = send_failed,
	    .data = node};
	const struct block_open_options open = {.write = true,
	    .link = {.prompt = true,
	        .compress = node->options.compress ? COMPRESS_AUTO : COMPRESS_NONE,
	        .timeout_ms = node->options.timeout_ms ? node->options.timeout_ms : TIMEOUT_MS}};
	uint64_t link = node->link_number;
	struct block *remote;
	int fd, res;

	if (!node->sends || !link)
		return error_set(error, -ENOTCONN, "there is no link to the other node");
	close_sender(node);
	res = node->options.dial(node->options.data, link, &fd, error);
	if (res == 0)
		res = remote_new(
		    &remote, node->ring, fd, fd, "the other node's volume", "replica", &open, error);
	if (res == 0 && (!node->sends || node->link_number != link)) {
		block_free(remote);
		res = error_set(error, -ENOTCONN, "the link to the other node was lost meanwhile");
	}
	if (res == 0)
		res = replicate_send_new(&node->sender, remote, &options, error);
	if (res == 0) {
		node->remote = remote;
		res = share_new(ret, node->sender, block_info(node->sender)->size, error);
	}
	if (res < 0 && node->link_number == link)
		replica_node_drop(node, "no data can be sent");
	return res;
}

void replica_node_follower_lost(void *data, int reason)
{
	struct replica_node *node = data;

	/* What this node lets go itself, while the link holds, ends in good order. */
	if (reason == -ECANCELED && node->link_number)
		return;
	remote_hang_up(node->remote, "the link to the other node is given up");
	replica_node_drop(node, "the other node's volume failed, or took too long");
}

void replica_node_begin_to_send(struct replica_node *node)
{
	node->sends = true;
	mirror_job_pause(node->job, false);
	if (node->paused)
		mirror_job_pause(node->job, true);
}

void replica_node_stop_sending(struct replica_node *node)
{
	struct mirror_job_status status;

	if (!node->sends)
		return;
	node->sends = false;
	mirror_job_let_target_go(node->job);
	do
		mirror_job_status(node->job, &status);
	while (!status.let_go && !cutover_is_end(status.state) && ring_step(node->ring) == 0);
	close_sender(node);
}

/* Data from the other node */

static void receive_failed(void *data, int res)
{
	struct replica_node *node = data;

	node->disk_failures++;
	/* Before anybody can know: a link that is lost now, and this process, would take it along. */
	if (node->options.disk_failed)
		node->options.disk_failed(node->options.data);
	if (!node->options.detach || node->disk_failed)
		return;
	node->disk_failed = true;
	replica_node_warn(node, "this node's volume failed: %s; mend it, then connect again", strerror(-res));
	replica_node_wake(node);
}

static int open_received(void *data, struct block **ret, struct ring *ring, const char *path,
    const struct block_open_options *open, struct error *error)
{
	struct replica_node *node = data;
	const struct replicate_receive_options options = {.ack = node->options.ack,
	    .failures = node->disk_failures,
	    .failed = receive_failed,
	    .data = node};
	struct block *share;
	int res = share_new(&share, node->volume, block_info(node->own)->size, error);

	if (res == 0)
		res = replicate_receive_new(ret, share, &options, error);
	node->received = res == 0 ? *ret : NULL;
	return res;
}

static void agent_done(void *data, int res)
{
	struct replica_node *node = data;

	node->agent_over = true;
	/* What ends in good order is not sent any more, and that is all. */
	if (res < 0 && node->receives)
		replica_node_drop(node, "the data broke off");
	replica_node_wake(node);
}

int replica_node_take_data(struct replica_node *node, int fd, uint64_t link, struct error *error)
{
	const struct agent_server_options options = {.fd_in = fd,
	    .fd_out = fd,
	    .timeout_ms = node->options.timeout_ms,
	    .open = open_received,
	    .open_data = node};
	int res;

	if (!node->receives || !node->link_number || link != node->link_number)
		return refuse(fd, error, -EINVAL, "this node receives nothing over that link now");
	if (node->agent)
		return refuse(fd, error, -EBUSY, "this node receives already");
	node->agent_over = false;
	res = agent_server_new(&node->agent, node->ring, &options, error);
	if (res == 0)
		agent_server_start(node->agent, agent_done, node);
	return res;
}

void replica_node_begin_to_receive(struct replica_node *node)
{
	node->receives = true;
}

void replica_node_stop_receiving(struct replica_node *node)
{
	struct agent_server *agent = node->agent;

	node->receives = false;
	node->agent = NULL;
	node->received = NULL;
	agent_server_free(agent);
}

void replica_node_look_after_streams(struct replica_node *node)
{
	struct replica_link *link = node->link;
	struct agent_server *agent = node->agent;

	if (node->ahead && node->link_number)
		replica_node_drop(node, "too slow");
	if (node->disk_failed)
		replica_node_drop(node, "this node's volume failed");
	if (agent && node->agent_over) {
		node->agent = NULL;
		node->received = NULL;
		agent_server_free(agent);
	}
	if (link && node->link_lost) {
		replica_link_free(link);
		node->link = NULL;
		node->link_lost = false;
	}
}
