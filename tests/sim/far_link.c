/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See far_link.h. */
#include "far_link.h"

#include "filter/filter.h"

#include <stdlib.h>

struct linked {
	struct filter filter;
	struct ring_sim *sim;
	int fd;
};

static void linked_submit(struct block *block, struct block_io *io)
{
	filter_forward(filter_of(block), io);
}

static void linked_free(struct block *block)
{
	struct linked *linked = container_of(block, struct linked, filter.block);

	filter_done(&linked->filter);
	ring_sim_link_close(linked->sim, linked->fd);
	free(linked);
}

static const struct block_driver linked_driver = {
    .name = "linked",
    .submit = linked_submit,
    .facts = filter_facts,
    .link_error = filter_link_error,
    .free = linked_free,
};

struct block *far_link_wrap(struct ring_sim *sim, struct block *take_remote, int fd)
{
	struct linked *linked = calloc(1, sizeof(*linked));

	if (!linked)
		abort();
	filter_init(&linked->filter, &linked_driver, take_remote);
	linked->sim = sim;
	linked->fd = fd;
	return &linked->filter.block;
}

void far_link_new(struct ring_sim *sim, struct ring *client, struct ring *agent, bool roomy, int ret_fds[2])
{
	struct rand *rand = ring_sim_rand(sim);
	static const uint32_t capacities[] = {5000, 65536, 1 << 20};
	const struct ring_sim_link_options options = {
	    .delay_ns = rand_between(rand, 1000, 2000000),
	    .jitter_ns = rand_below(rand, 100000),
	    .bytes_per_second = rand_below(rand, 2) ? 0 : rand_between(rand, 1000000, 1000000000),
	    .capacity = capacities[rand_between(rand, roomy, 2)],
	    .short_ppm = (uint32_t)rand_below(rand, 2) * 200000,
	};

	ring_sim_link_new(sim, client, agent, &options, ret_fds);
}
