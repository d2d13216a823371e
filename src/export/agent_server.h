/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The agent's side of the wire: one client, one volume, over a pair of stream descriptors. */
#pragma once

#include "block/open.h"
#include "block/path_policy.h"
#include "ring/ring.h"

struct agent_server;

/*
 * Notes of who wrote to a volume last, kept where the agent runs, so that a client whose link was lost can see whether somebody
 * else did meanwhile. take() gives what is noted, as block_facts.last_writer has it, and removes it; put() notes that what the
 * volume holds now was last written in that session.
 */
struct agent_notes {
	uint64_t (*take)(void *data, const struct block_facts *now);
	void (*put)(void *data, const struct block_facts *now, uint64_t session);
	void *data;
};

struct agent_server_options {
	int fd_in, fd_out;                /* taken */
	const struct path_policy *policy; /* or NULL; borrowed */
	const struct agent_notes *notes;  /* or NULL; borrowed */
	unsigned timeout_ms;              /* longest silence before the client counts as lost; 0: 30,000 */
	/* Opens the volume an OPEN frame names; NULL: file_open(), which stages nothing. */
	int (*open)(void *data, struct block **ret, struct ring *ring, const char *path,
	    const struct block_open_options *options, struct error *error);
	void *open_data;
};

int agent_server_new(struct agent_server **ret, struct ring *ring, const struct agent_server_options *options,
    struct error *error);
/* Serves until the client closes or breaks: then done(data, 0 or -errno) from the loop, every request ended.
 */
void agent_server_start(struct agent_server *server, void (*done)(void *data, int res), void *data);
/* Why it ended, or why the volume could not be opened; text is empty when all went well. */
const struct error *agent_server_error(const struct agent_server *server);
struct agent_server *agent_server_free(struct agent_server *server);
