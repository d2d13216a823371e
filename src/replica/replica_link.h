/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What two nodes say to each other, over a session of their own (docs/wire/frames.md): messages, and the bits of a map. One ring, one
 * thread. The other node is trusted with the data, not with this process.
 */
#pragma once

#include "range/bitmap.h"
#include "replica/replica_state.h"
#include "ring/ring.h"

#include <stddef.h>

struct replica_link;

struct replica_link_options {
	int fd;              /* a stream, taken */
	bool server;         /* the other node has connected to this one */
	unsigned timeout_ms; /* longest silence before the link counts as lost; 0: 30,000 */
	/* All from the loop. They may say something, and must not free the link. */
	void (*heard)(void *data, const struct replica_message *message);
	/* The bits of the other's map have come, all of them; `bits` has as many as `regions`. */
	void (*map)(void *data, const struct bitmap *bits);
	/* Once, and nothing follows: the link may be freed from the loop's next turn on. */
	void (*lost)(void *data, const struct error *error);
	void *data;
};

/* Takes the descriptor, also on failure. */
int replica_link_new(struct replica_link **ret, struct ring *ring, const struct replica_link_options *options,
    struct error *error);
/* The other's map is to come, with so many regions. */
int replica_link_expect_map(struct replica_link *link, uint64_t regions);
/* What is said on a lost link is not heard, and no more. */
void replica_link_say(struct replica_link *link, const struct replica_message *message);
/* A copy of the bits is sent. 0 or -ENOMEM. */
int replica_link_send_map(struct replica_link *link, const struct bitmap *bits);
/* Ends it, and tells the other node why. What was said just before may not be heard. lost() follows. */
void replica_link_drop(struct replica_link *link, const char *why);
/* Runs the ring until nothing of it is under way. Takes NULL; returns NULL. */
struct replica_link *replica_link_free(struct replica_link *link);
