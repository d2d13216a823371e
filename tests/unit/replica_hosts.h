/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Two nodes on simulated machines, with volumes in memory and maps on disks, and how they are asked, and waited for. */
#pragma once

#include "block/memory.h"
#include "filter/fault.h"
#include "filter/filter.h"
#include "filter/share.h"
#include "replica/replica_node.h"
#include "ring/fiber.h"
#include "ring/ring_sim.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SIZE     ((3u << 20) + 4608u)
#define MORE     ((1u << 20) + 512u) /* that a volume may become larger */
#define MAP_SIZE (4u << 20)
#define NODES    2u
#define S        UINT64_C(1000000000)

struct host {
	unsigned index;
	struct ring *ring;
	struct block *memory; /* what survives the node */
	struct block *device; /* as much of it as there is */
	struct block *faulty; /* while the node has it */
	uint64_t size;
	char boot[16];
	int map_fd;
	struct replica_node *node;
	struct fiber *fiber;
	bool seeks, serves, answered, hook_fails;
	bool late_holes, unwritten; /* what is not flushed is told as a hole, as some file systems do */
	uint64_t hook_ns;
	unsigned hooks, fences, disk_failures;
	bool writes, wrote;
	int res, write_res;
	char text[256], warnings[4096];
};

struct world {
	struct ring_sim *sim;
	struct host hosts[NODES];
	struct replica_node_options options;
	uint64_t names, links;
	int link_fds[NODES], data_fd;
	bool cut; /* no new link */
};

static struct world world;
static const struct ring_sim_link_options cable;

/* The world goes on, and each machine's fibers. */
static inline void step(void)
{
	for (unsigned i = 0; i < NODES; i++)
		assert_int_equal(ring_step(world.hosts[i].ring), 0);
}

/* The owner of a node */

static inline struct host *host_of(const struct block *block)
{
	return &world.hosts[block->ring == world.hosts[1].ring];
}

static inline void machine_submit(struct block *block, struct block_io *io)
{
	struct host *host = host_of(block);

	host->unwritten = io->op == BLOCK_WRITE || (host->unwritten && io->op != BLOCK_FLUSH);
	if (io->op == BLOCK_EXTENTS && host->late_holes && host->unwritten) {
		io->extents[0] = (struct extent){io->offset, io->length, EXTENT_ZERO};
		block_complete_later(block, io, 1);
		return;
	}
	filter_forward(filter_of(block), io);
}

static inline int machine_facts(struct block *block, struct block_facts *ret, struct error *error)
{
	int res = filter_facts(block, ret, error);

	snprintf(ret->boot, sizeof(ret->boot), "%s", host_of(block)->boot);
	return res;
}

static inline void machine_free(struct block *block)
{
	filter_done(filter_of(block));
	free(filter_of(block));
}

/* Says when its machine was started. */
static const struct block_driver machine_driver = {.name = "machine",
    .submit = machine_submit,
    .facts = machine_facts,
    .measure = filter_measure,
    .free = machine_free};

static inline int open_volume(void *data, struct block **ret, struct error *error)
{
	struct filter *filter = calloc(1, sizeof(*filter));
	struct host *host = data;

	assert_non_null(filter);
	assert_int_equal(share_new(&host->device, host->memory, host->size, error), 0);
	assert_int_equal(fault_new(&host->faulty, host->device, 1, error), 0);
	filter_init(filter, &machine_driver, host->faulty);
	*ret = &filter->block;
	return 0;
}

static inline int open_map(void *data)
{
	return ((struct host *)data)->map_fd;
}

static inline uint64_t draw(void *data)
{
	return ++world.names;
}

static inline void link_now(void *data)
{
	struct host *host = data, *other = &world.hosts[1 - host->index];
	struct error error;

	if (world.cut || !world.hosts[0].seeks || !world.hosts[1].seeks)
		return;
	world.hosts[0].seeks = world.hosts[1].seeks = false;
	ring_sim_link_new(world.sim, host->ring, other->ring, &cable, world.link_fds);
	world.links++;
	assert_int_equal(
	    replica_node_take_link(host->node, world.link_fds[0], false, world.links, &error), 0);
	assert_int_equal(
	    replica_node_take_link(other->node, world.link_fds[1], true, world.links, &error), 0);
}

static inline void seek(void *data, bool on)
{
	((struct host *)data)->seeks = on;
	ring_sim_after(world.sim, 1000000, link_now, data);
}

static inline int dial(void *data, uint64_t link, int *ret_fd, struct error *error)
{
	struct host *host = data, *other = &world.hosts[1 - host->index];
	int fds[2];

	ring_sim_link_new(world.sim, host->ring, other->ring, &cable, fds);
	*ret_fd = world.data_fd = fds[0];
	return replica_node_take_data(other->node, fds[1], link, error);
}

/* As a server does it: it has ended when it has the answers to what its clients asked. */
static inline void serve(void *data, bool open)
{
	struct host *host = data;

	while (!open && host->writes && !host->wrote)
		if (ring_run_until(host->ring, &host->wrote) < 0)
			break;
	host->serves = open;
}

static inline void fence(void *data)
{
	((struct host *)data)->fences++;
}

static inline int before_resync(void *data, struct error *error)
{
	struct host *host = data;

	struct ring_op wait = {.opcode = RING_TIMER, .deadline_ns = ring_now_ns(host->ring) + host->hook_ns};

	host->hooks++;
	if (host->hook_ns)
		ring_wait(host->ring, &wait);
	return host->hook_fails ? error_set(error, -EIO, "the hook failed") : 0;
}

static inline void answer(void *data, int res, const char *text)
{
	struct host *host = data;

	host->answered = true;
	host->res = res;
	snprintf(host->text, sizeof(host->text), "%s", text ? text : "");
}

static inline void changed(void *data)
{
}

static inline void warning(void *data, const char *text)
{
	struct host *host = data;
	size_t used = strlen(host->warnings);

	snprintf(host->warnings + used, sizeof(host->warnings) - used, "%s\n", text);
}

static inline void run(void *data)
{
	struct host *host = data;

	replica_node_run(host->node);
}

static inline void disk_failed(void *data)
{
	((struct host *)data)->disk_failures++;
}

static inline void begin(struct host *host)
{
	struct replica_node_options options = world.options;
	struct error error;

	options.name = host->index + 1;
	options.data = host;
	options.open_volume = open_volume;
	options.open_map = open_map;
	options.draw = draw;
	options.seek = seek;
	options.dial = dial;
	options.serve = serve;
	options.fence = fence;
	options.before_resync = before_resync;
	options.answer = answer;
	options.changed = changed;
	options.warning = warning;
	options.disk_failures = host->disk_failures;
	options.disk_failed = disk_failed;
	if (replica_node_new(&host->node, host->ring, &options, &error) < 0)
		fail_msg("%s", error.text);
	assert_int_equal(fiber_start(&host->fiber, host->ring, run, host, &error), 0);
}

static inline void finish(struct host *host)
{
	replica_node_stop(host->node);
	while (!fiber_has_ended(host->fiber))
		step();
	fiber_free(host->fiber);
	host->node = replica_node_free(host->node);
	/* close(2) does nothing to a simulated stream. */
	if (world.data_fd)
		ring_sim_link_break(world.sim, world.data_fd, RING_SIM_BREAK_EOF);
	world.data_fd = 0;
	host->seeks = host->serves = false;
}

static inline int setup(void **state)
{
	const struct ring_sim_disk_options disk = {.size = MAP_SIZE, .size_max = MAP_SIZE};
	static uint8_t noise[SIZE + MORE];
	struct error error;

	world = (struct world){.sim = ring_sim_new(7, 0), .options = {.ack = REPLICATE_DURABLE}};
	for (unsigned i = 0; i < NODES; i++) {
		struct host *host = &world.hosts[i];

		host->index = i;
		host->size = SIZE;
		host->ring = ring_sim_host_new(world.sim, i ? "b" : "a");
		host->map_fd = ring_sim_disk_new(world.sim, &disk);
		assert_int_equal(memory_new(&host->memory, host->ring, SIZE + MORE, NULL, &error), 0);
		for (unsigned at = 0; at < SIZE + MORE; at++)
			noise[at] = (uint8_t)(at * 7 + at / 251 + i * 91);
		assert_int_equal(memory_poke(host->memory, 0, noise, SIZE + MORE), 0);
		if (replica_node_create(host->ring, host->map_fd, host->memory,
		        &(struct replica_node_birth){.size = SIZE, .nonce = 77 + i}, &error) < 0)
			fail_msg("%s", error.text);
		begin(host);
	}
	return 0;
}

static inline int teardown(void **state)
{
	for (unsigned i = 0; i < NODES; i++)
		finish(&world.hosts[i]);
	for (unsigned i = 0; i < NODES; i++) {
		block_free(world.hosts[i].memory);
		ring_free(world.hosts[i].ring);
	}
	ring_sim_free(world.sim);
	return 0;
}

/* What is asked, and awaited */

static inline void order(struct host *host, const struct replica_event *event)
{
	int res = -EBUSY;

	host->answered = false;
	/* Something is being recorded: not for long. */
	for (unsigned i = 0; res == -EBUSY && i < 1000; i++) {
		res = replica_node_command(host->node, event);
		if (res == -EBUSY)
			step();
	}
	assert_int_equal(res, 0);
}

static inline int end_of_order(struct host *host)
{
	while (!host->answered)
		step();
	return host->res;
}

static inline int command(struct host *host, enum replica_event_kind kind, bool force)
{
	const struct replica_event event = {.kind = kind, .force = force};

	order(host, &event);
	return end_of_order(host);
}

static inline void wait_for(struct host *host, enum replica_flow flow)
{
	uint64_t end_ns = ring_sim_now_ns(world.sim) + 60 * S;
	struct replica_node_status status;

	for (;;) {
		replica_node_status(host->node, &status);
		if (status.flow == flow)
			return;
		if (ring_sim_now_ns(world.sim) > end_ns)
			fail_msg("node %u is %s, not %s: %s %s", host->index, replica_flow_name(status.flow),
			    replica_flow_name(flow), status.refusal ? status.refusal : "", host->warnings);
		step();
	}
}

static inline void pass(uint64_t ns)
{
	uint64_t until_ns = ring_sim_now_ns(world.sim) + ns;

	while (ring_sim_now_ns(world.sim) < until_ns)
		step();
}

static inline void both(enum replica_flow flow)
{
	wait_for(&world.hosts[0], flow);
	wait_for(&world.hosts[1], flow);
}

static inline void connect_both(void)
{
	assert_int_equal(command(&world.hosts[0], REPLICA_CONNECT, false), 0);
	assert_int_equal(command(&world.hosts[1], REPLICA_CONNECT, false), 0);
}

static inline void wrote(struct block_io *io, int res)
{
	struct host *host = io->user;

	host->wrote = true;
	host->write_res = res;
}

static inline int write_at(struct host *host, uint64_t offset, uint64_t length, uint8_t value)
{
	uint8_t *buf = malloc(length);
	struct block_io io = {.op = BLOCK_WRITE, .offset = offset, .length = length, .buf = buf};

	memset(buf, value, length);
	io.done = wrote;
	host->wrote = false;
	host->writes = true;
	io.user = host;
	block_submit(replica_node_block(host->node), &io);
	while (!host->wrote)
		step();
	host->writes = false;
	free(buf);
	return host->write_res;
}

static inline bool are_equal(void)
{
	static uint8_t a[SIZE + MORE], b[SIZE + MORE];
	uint64_t size = block_info(replica_node_block(world.hosts[0].node))->size;

	memory_peek(world.hosts[0].memory, 0, a, size);
	memory_peek(world.hosts[1].memory, 0, b, size);
	return memcmp(a, b, size) == 0;
}

static inline void cut(bool cut)
{
	world.cut = cut;
	if (cut)
		ring_sim_link_break(world.sim, world.link_fds[0], RING_SIM_BREAK_RESET);
	else
		link_now(&world.hosts[0]);
}

/* A volume's first day: one of the two is declared good, and the other gets all of it. */
static inline void begin_replica(void)
{
	assert_int_equal(command(&world.hosts[0], REPLICA_MAKE_PRIMARY, true), 0);
	connect_both();
	both(REPLICA_EQUAL);
	/* What was copied is known to be on stable storage after a while. */
	pass(5 * S);
}
