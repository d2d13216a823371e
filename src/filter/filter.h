/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What filters share. A filter that only holds or refuses a request hands the very same request to the block
 * below (filter_forward: the answer then passes it by); one that must see the answer sends a child instead
 * (filter_child). A filter owns the block below and frees it.
 */
#pragma once

#include "block/driver.h"

/* Every filter's structure begins with this. */
struct filter {
	struct block block;
	struct block *below;
	struct list_node spare; /* children to be used again */
};

/* Takes `below`; the filter looks like it. */
void filter_init(struct filter *filter, const struct block_driver *driver, struct block *take_below);
/* Frees spare children and the block below. */
void filter_done(struct filter *filter);

static inline struct filter *filter_of(struct block *block)
{
	return container_of(block, struct filter, block);
}

void filter_forward(struct filter *filter, struct block_io *io);
/*
 * Sends a copy of `parent` below; answered() gets its result and must answer the parent, now or later. Out of
 * memory answers the parent with -ENOMEM.
 */
typedef void filter_answered(struct filter *filter, struct block_io *parent, int res);
void filter_child(struct filter *filter, struct block_io *parent, filter_answered *answered);
/* The same to another block than the one below, on the same ring, which lives as long as that takes. */
void filter_child_of(
    struct filter *filter, struct block *block, struct block_io *parent, filter_answered *answered);

/* For struct block_driver. */
int filter_facts(struct block *block, struct block_facts *ret, struct error *error);
int filter_link_error(struct block *block, struct error *error);
/* Of a filter that is as large as the volume below. */
int filter_measure(struct block *block, struct error *error);
