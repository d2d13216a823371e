/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The two ends of a replica's link, as filters. The sender is over the volume of the other machine (a `remote`, whose frames
 * keep their order), the receiver is there over the disk. Between them they hold two promises:
 *
 * - When a write is acknowledged: enum replicate_ack.
 * - In which order things reach the receiver's disk: what was submitted to the sender after a FLUSH, or after a write with
 *   BLOCK_FUA, never before what was submitted ahead of it is on the disk's stable storage. So whenever the receiver's machine,
 *   the link or the sender is lost, the disk holds a state that those who write to the sender could have found after a power cut.
 *
 * Ring thread only, as all filters.
 */
#pragma once

#include "block/block.h"

enum replicate_ack {
	REPLICATE_SENT,     /* it is in the sender's queue, in order */
	REPLICATE_RECEIVED, /* it is in the receiver's memory */
	REPLICATE_DURABLE,  /* the receiver's disk has it; and has flushed it, where a flush is asked for */
	REPLICATE_ACKS,
};

const char *replicate_ack_name(enum replicate_ack ack);

struct replicate_send_options {
	enum replicate_ack ack;
	uint64_t
	    queue_max; /* bytes acknowledged and not answered, with REPLICATE_SENT; 0: 16 MiB. Beyond it writes wait. */
	/* A request waits for room, and none did before. From within block_submit(); must not call the block. May be NULL. */
	void (*congested)(void *data);
	/* Something failed that was acknowledged: -errno. From the loop. May be NULL. */
	void (*failed)(void *data, int res);
	void *data;
};

/*
 * Takes `below`, also on failure. With REPLICATE_SENT and REPLICATE_RECEIVED a FLUSH ends as soon as it is on its way, but for those
 * with BLOCK_DURABLE. When something fails that was acknowledged, every later request fails in the same way.
 */
int replicate_send_new(struct block **ret, struct block *take_below,
    const struct replicate_send_options *options, struct error *error);
/* From now on as with REPLICATE_DURABLE: there is no disk any more but the receiver's. */
void replicate_send_make_durable(struct block *block);
/* Bytes acknowledged and not answered. */
uint64_t replicate_send_queued(const struct block *block);
/* Nothing that was acknowledged is under way any more: it may be freed. */
bool replicate_send_idle(const struct block *block);

struct replicate_receive_options {
	enum replicate_ack ack; /* the sender's */
	uint64_t
	    memory_max; /* bytes that are held and not on the disk yet, with REPLICATE_RECEIVED; 0: 16 MiB */
	/*
	 * How often the disk has failed so before. What it had acknowledged may be gone each time, though the machine was not started anew: the sender
	 * is told of another start.
	 */
	unsigned failures;
	/* The disk failed a write or a flush: -errno. From the loop. May be NULL. */
	void (*failed)(void *data, int res);
	void *data;
};

/*
 * Takes `below`, also on failure. When something fails that was acknowledged, every later request fails in the same way. block_free()
 * runs the ring until all that was acknowledged is on the disk.
 */
int replicate_receive_new(struct block **ret, struct block *take_below,
    const struct replicate_receive_options *options, struct error *error);
/* From now on nothing is acknowledged that the disk does not have: the sender has none. */
void replicate_receive_make_durable(struct block *block);
