/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Simulated links to agents. */
#pragma once

#include "block/block.h"
#include "ring/ring_sim.h"

/* Its delay, speed and room are the seed's; `roomy`: not the least room. */
void far_link_new(struct ring_sim *sim, struct ring *client, struct ring *agent, bool roomy, int ret_fds[2]);
/* Takes the remote volume; closes the client's end of the link when it is freed. */
struct block *far_link_wrap(struct ring_sim *sim, struct block *take_remote, int fd);
