/* SPDX-License-Identifier: GPL-2.0-or-later */
/* An agent's server and a remote volume on one ring, over a socket pair or a simulated link, for unit tests.
 */
#pragma once

#include "base/bytes.h"
#include "base/rand.h"
#include "block/memory.h"
#include "block/remote.h"
#include "export/agent_server.h"
#include "ring/ring_sim.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "seed.h"

struct wire {
	struct ring_sim *sim; /* or NULL: the real ring */
	struct ring *ring;
	int fds[2];
	struct agent_server *server;
	bool server_done;
	int server_res;
	struct block *remote;
	/* what an OPEN gets */
	uint64_t size;
	struct memory_options memory;
	unsigned slow_us; /* test_remote.c's slow agent */
	bool slow_dies;
	int open_res;                                                /* or this error */
	struct block *(*wrap)(struct block *take_below, void *data); /* a filter over the memory, or NULL */
	void *wrap_data;
	struct block *opened; /* the memory */
	unsigned opens;
	bool last_write, last_create, last_force;
	int last_cache;
	char last_path[128];
};

static inline int wire_open(void *data, struct block **ret, struct ring *ring, const char *path,
    const struct block_open_options *options, struct error *error)
{
	struct wire *wire = data;
	struct memory_options memory = wire->memory;
	int res;

	wire->opens++;
	wire->last_write = options->write;
	wire->last_create = options->create;
	wire->last_force = options->force_held;
	wire->last_cache = (int)options->cache;
	snprintf(wire->last_path, sizeof(wire->last_path), "%s", path);
	if (wire->open_res < 0)
		return error_set(error, wire->open_res, "cannot open %s: \x1b[31mnot today", path);
	memory.read_only = !options->write;
	res = memory_new(ret, ring, options->create ? options->create_size : wire->size, &memory, error);
	if (res < 0)
		return res;
	wire->opened = *ret;
	if (wire->wrap)
		*ret = wire->wrap(*ret, wire->wrap_data);
	return 0;
}

static inline void wire_served(void *data, int res)
{
	struct wire *wire = data;

	wire->server_done = true;
	wire->server_res = res;
}

/* The ring and the link; seed 0: real ones. */
static inline void wire_init(struct wire *wire, uint64_t seed, const struct ring_sim_link_options *link)
{
	*wire = (struct wire){.size = 3 << 20};
	if (seed) {
		wire->sim = ring_sim_new(seed, 0);
		wire->ring = ring_sim_host_new(wire->sim, "both");
		ring_sim_link_new(wire->sim, wire->ring, wire->ring, link, wire->fds);
	} else if (ring_new(&wire->ring, 256, NULL) < 0 ||
	           socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, wire->fds)) {
		abort();
	}
}

static inline void wire_serve(struct wire *wire, unsigned timeout_ms)
{
	struct agent_server_options options = {
	    .fd_in = wire->fds[1],
	    .fd_out = wire->fds[1],
	    .timeout_ms = timeout_ms,
	    .open = wire_open,
	    .open_data = wire,
	};

	if (agent_server_new(&wire->server, wire->ring, &options, NULL) < 0)
		abort();
	agent_server_start(wire->server, wire_served, wire);
}

static inline int wire_connect(
    struct wire *wire, const struct block_open_options *options, struct error *error)
{
	return remote_new(
	    &wire->remote, wire->ring, wire->fds[0], wire->fds[0], "there:/vol", "/vol", options, error);
}

/* Both, with defaults and writable. */
static inline int wire_start(struct wire *wire, enum compress_mode compress)
{
	struct block_open_options options = {.write = true, .link.compress = compress};

	wire_serve(wire, 0);
	return wire_connect(wire, &options, NULL);
}

static inline void wire_done(struct wire *wire)
{
	wire->remote = block_free(wire->remote);
	if (wire->sim)
		ring_sim_link_close(wire->sim, wire->fds[0]);
	wire->server = agent_server_free(wire->server);
	ring_free(wire->ring);
	ring_sim_free(wire->sim);
}

static inline int wire_io(struct wire *wire, enum block_op op, uint64_t offset, uint64_t length, void *buf)
{
	struct block_io io = {.op = op, .offset = offset, .length = length, .buf = buf};

	return block_wait(wire->remote, &io);
}
