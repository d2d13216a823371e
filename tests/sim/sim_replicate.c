/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The two ends of a replica's link in simulated worlds: the real filters, the real remote volume and agent, a link and a disk. Clients write,
 * flush and read, until something breaks: the link, the sender, the receiver, its machine, its disk. Then the disk must hold a
 * state that the order of flushes allows, and whatever was promised for the acknowledgement. Exit 0: all held; with --plant: the
 * mistake was found.
 */
#include "base/bytes.h"
#include "base/plant.h"
#include "block/remote.h"
#include "export/agent_server.h"
#include "far_link.h"
#include "filter/replicate.h"
#include "sim_line.h"
#include "sim_story.h"
#include "volume.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define SECTOR     512u
#define SECTORS    96u
#define SPAN_MAX   8u
#define CLIENTS    6u
#define WRITES_MAX 4000u
#define TIMEOUT_MS 1000u
#define STAMP      UINT64_C(0x5357524954450000)

static const struct sim_mistake mistakes[] = {
    {"none", PLANTED_NOTHING},
    {"no-barrier", PLANTED_NO_BARRIER},
    {"overtaking", PLANTED_OVERTAKING},
    {"early-flush", PLANTED_EARLY_FLUSH},
    {"forgotten-failure", PLANTED_FORGOTTEN_FAILURE},
};

enum fault { FAULT_NONE, FAULT_LINK, FAULT_SENDER, FAULT_RECEIVER, FAULT_MACHINE, FAULT_DISK, FAULTS };

/* What was submitted, in its order. */
struct write {
	unsigned first, count; /* sectors */
	unsigned epoch;        /* so many flushes and lasting writes were submitted before */
	bool zero, acknowledged, lasting;
};

struct client {
	struct world *world;
	struct block_io io;
	uint8_t buf[SPAN_MAX * SECTOR];
	bool busy;
	unsigned write;  /* its number; 0: none */
	unsigned writes; /* when a flush was submitted: those acknowledged before have a number below */
	uint64_t acknowledged_before[WRITES_MAX / 64 + 1];
};

struct world {
	struct sim_story story;
	struct ring_sim *sim;
	struct rand rand;
	enum replicate_ack ack;
	struct ring *sender, *receiver;
	struct agent_server *agent;
	bool agent_ended, over;
	int disk_fd, fds[2];
	struct block *top;
	struct client clients[CLIENTS];
	struct write writes[WRITES_MAX];
	unsigned writes_count, epoch, congested, failures;
	enum fault fault;
	bool struck;
};

#define fail(world, ...) sim_fail(&(world)->story, __VA_ARGS__)
#define say(world, ...)  sim_say(&(world)->story, __VA_ARGS__)

/* What a sector may hold */

static bool has(const struct write *write, unsigned sector)
{
	return sector >= write->first && sector < write->first + write->count;
}

/* Of which write a sector is; 0: of none, or zeroed. */
static unsigned stamp_of(const uint8_t *sector, unsigned number)
{
	uint64_t stamp = get_le64(sector), place = get_le64(sector + 8);

	for (unsigned i = 16; i < SECTOR; i += 8)
		if (get_le64(sector + i) != stamp)
			return UINT32_MAX;
	if (stamp == 0 && place == 0)
		return 0;
	return stamp >> 16 == STAMP >> 16 && place == number ? (unsigned)(stamp & 0xffff) : UINT32_MAX;
}

static void fill(uint8_t *buf, const struct write *write, unsigned number)
{
	for (unsigned i = 0; i < write->count; i++) {
		for (unsigned at = 0; at < SECTOR; at += 8)
			put_le64(buf + i * SECTOR + at, STAMP | number);
		put_le64(buf + i * SECTOR + 8, write->first + i);
	}
}

/* The last write to a sector that must be there, as `must` says; 0: none. */
static unsigned last_due(const struct world *world, unsigned sector, unsigned epoch,
    bool (*must)(const struct write *write, unsigned epoch))
{
	for (unsigned n = world->writes_count; n > 1;)
		if (has(&world->writes[--n], sector) && must(&world->writes[n], epoch))
			return n;
	return 0;
}

static bool is_zeroed_since(const struct world *world, unsigned sector, unsigned since)
{
	for (unsigned n = since ? since : 1; n < world->writes_count; n++)
		if (has(&world->writes[n], sector) && world->writes[n].zero)
			return true;
	return since == 0;
}

/* Every sector holds what was written there by what `must` picks, or later. */
static void check_due(struct world *world, const uint8_t *data, const char *what, unsigned epoch,
    bool (*must)(const struct write *write, unsigned epoch))
{
	for (unsigned i = 0; i < SECTORS; i++) {
		unsigned seen = stamp_of(data + i * SECTOR, i), due = last_due(world, i, epoch, must);

		if (seen == UINT32_MAX)
			fail(world, "sector %u holds what nobody wrote", i);
		else if (seen == 0 ? !is_zeroed_since(world, i, due) : seen < due)
			fail(world, "sector %u is of write %u, and %u %s", i, seen, due, what);
	}
}

static bool is_before(const struct write *write, unsigned epoch)
{
	return write->epoch < epoch;
}

static bool is_acknowledged(const struct write *write, unsigned epoch)
{
	return write->acknowledged;
}

static bool is_lasting(const struct write *write, unsigned epoch)
{
	return write->lasting;
}

/* Whatever is there of the newest epoch, all of those before is. */
static void check_order(struct world *world, const uint8_t *data)
{
	unsigned newest = 0;

	for (unsigned i = 0; i < SECTORS; i++) {
		unsigned seen = stamp_of(data + i * SECTOR, i);

		if (seen && seen != UINT32_MAX && world->writes[seen].epoch > newest)
			newest = world->writes[seen].epoch;
	}
	check_due(world, data, "is of an earlier flush", newest, is_before);
}

/* Clients */

static void note_lasting(struct client *client)
{
	for (unsigned n = 1; n < client->writes; n++)
		if (client->acknowledged_before[n / 64] >> n % 64 & 1)
			client->world->writes[n].lasting = true;
}

static void client_done(struct block_io *io, int res)
{
	struct client *client = container_of(io, struct client, io);
	struct world *world = client->world;

	client->busy = false;
	if (res < 0) {
		world->failures++;
		return;
	}
	if (io->op == BLOCK_FLUSH && (io->flags & BLOCK_DURABLE || world->ack == REPLICATE_DURABLE))
		note_lasting(client);
	if (!client->write)
		return;
	world->writes[client->write].acknowledged = true;
	if (io->flags & BLOCK_FUA && world->ack == REPLICATE_DURABLE)
		world->writes[client->write].lasting = true;
}

/* Whether somebody without an answer has any of it: a mirror never has two of these. */
static bool is_taken(const struct world *world, unsigned first, unsigned count)
{
	for (unsigned i = 0; i < CLIENTS; i++) {
		const struct client *client = &world->clients[i];
		const struct write *write = &world->writes[client->write];

		if (client->busy && client->write && first < write->first + write->count &&
		    write->first < first + count)
			return true;
	}
	return false;
}

static void begin_write(struct client *client)
{
	struct world *world = client->world;
	unsigned count = (unsigned)rand_between(&world->rand, 1, SPAN_MAX),
	         first = (unsigned)rand_below(&world->rand, SECTORS - count + 1),
	         number = world->writes_count;
	bool lasting = rand_below(&world->rand, 8) == 0, zero = rand_below(&world->rand, 10) == 0;

	if (number == WRITES_MAX || is_taken(world, first, count))
		return;
	world->writes[number] =
	    (struct write){.first = first, .count = count, .epoch = world->epoch, .zero = zero};
	world->writes_count++;
	world->epoch += lasting;
	client->write = number;
	fill(client->buf, &world->writes[number], number);
	client->io = (struct block_io){.op = zero ? BLOCK_ZERO : BLOCK_WRITE,
	    .flags = lasting ? BLOCK_FUA : 0,
	    .offset = first * SECTOR,
	    .length = count * SECTOR,
	    .buf = client->buf};
}

static void begin_flush(struct client *client)
{
	struct world *world = client->world;

	client->io = (struct block_io){
	    .op = BLOCK_FLUSH, .flags = rand_below(&world->rand, 3) == 0 ? BLOCK_DURABLE : 0};
	client->writes = world->writes_count;
	memset(client->acknowledged_before, 0, sizeof(client->acknowledged_before));
	for (unsigned n = 1; n < client->writes; n++)
		if (world->writes[n].acknowledged)
			client->acknowledged_before[n / 64] |= UINT64_C(1) << n % 64;
	world->epoch++;
}

static void client_step(struct client *client)
{
	client->write = 0;
	client->io.op = BLOCK_READ;
	if (rand_below(&client->world->rand, 6) == 0)
		begin_flush(client);
	else
		begin_write(client);
	if (client->io.op == BLOCK_READ)
		return;
	client->busy = true;
	client->io.done = client_done;
	block_submit(client->world->top, &client->io);
}

static void clients_step(void *data)
{
	struct world *world = data;

	if (world->over || ring_sim_killed(world->sender))
		return;
	for (unsigned i = 0; i < CLIENTS; i++)
		if (!world->clients[i].busy && rand_below(&world->rand, 12) == 0)
			client_step(&world->clients[i]);
}

/* The world */

static int agent_open(void *data, struct block **ret, struct ring *ring, const char *path,
    const struct block_open_options *options, struct error *error)
{
	struct world *world = data;
	const struct volume_options disk = {.sim = world->sim,
	    .name = "disk",
	    .fd = world->disk_fd,
	    .fd_direct = -1,
	    .sector_size = SECTOR,
	    .writable = true};
	const struct replicate_receive_options receive = {
	    .ack = world->ack, .memory_max = rand_between(&world->rand, 4096, 20000)};
	struct block *volume;

	if (volume_new(&volume, ring, &disk, error) < 0)
		abort();
	return replicate_receive_new(ret, volume, &receive, error);
}

static void agent_over(void *data, int res)
{
	((struct world *)data)->agent_ended = true;
}

static void congested(void *data)
{
	((struct world *)data)->congested++;
}

static void connect_ends(struct world *world)
{
	const struct block_open_options options = {.write = true, .link.timeout_ms = TIMEOUT_MS};
	struct agent_server_options agent = {
	    .timeout_ms = TIMEOUT_MS, .open = agent_open, .open_data = world};
	const struct replicate_send_options send = {.ack = world->ack,
	    .queue_max = rand_between(&world->rand, 4096, 20000),
	    .congested = congested,
	    .data = world};
	struct block *remote;
	struct error error;

	world->sender = ring_sim_host_new(world->sim, "sender");
	world->receiver = ring_sim_host_new(world->sim, "receiver");
	far_link_new(world->sim, world->sender, world->receiver, true, world->fds);
	agent.fd_in = agent.fd_out = world->fds[1];
	if (agent_server_new(&world->agent, world->receiver, &agent, NULL) < 0)
		abort();
	agent_server_start(world->agent, agent_over, world);
	if (remote_new(
	        &remote, world->sender, world->fds[0], world->fds[0], "far", "disk", &options, &error) < 0)
		abort();
	if (replicate_send_new(&world->top, far_link_wrap(world->sim, remote, world->fds[0]), &send, &error) <
	    0)
		abort();
}

static void strike(void *data)
{
	struct world *world = data;

	say(world, "the fault");
	world->struck = true;
	if (world->fault == FAULT_LINK)
		ring_sim_link_break(
		    world->sim, world->fds[0], (enum ring_sim_break)rand_below(&world->rand, 3));
	else if (world->fault == FAULT_SENDER)
		ring_sim_kill(world->sender, RING_SIM_KILL_PROCESS);
	else if (world->fault == FAULT_RECEIVER || world->fault == FAULT_MACHINE)
		ring_sim_kill(world->receiver,
		    world->fault == FAULT_MACHINE ? RING_SIM_KILL_MACHINE : RING_SIM_KILL_PROCESS);
	if (world->fault == FAULT_MACHINE)
		ring_sim_power_cut(world->sim, world->disk_fd);
	if (world->fault == FAULT_DISK)
		ring_sim_disk_options(world->sim, world->disk_fd)->write_error_ppm = 100000;
}

static bool is_quiet(const struct world *world)
{
	for (unsigned i = 0; i < CLIENTS; i++)
		if (world->clients[i].busy)
			return false;
	return replicate_send_idle(world->top);
}

/* The end of both hosts; then the disk holds what it will. */
static void take_down(struct world *world)
{
	world->over = true;
	while (!is_quiet(world))
		if (ring_step(world->sender) < 0)
			break;
	block_free(world->top);
	while (!world->agent_ended)
		if (ring_step(world->receiver) < 0)
			break;
	agent_server_free(world->agent);
	ring_sim_link_close(world->sim, world->fds[1]);
	ring_sim_on_step(world->sim, NULL, NULL);
	ring_free(world->sender);
	ring_free(world->receiver);
}

static void judge(struct world *world)
{
	bool had_it =
	    world->fault == FAULT_NONE || world->fault == FAULT_SENDER || world->fault == FAULT_LINK;
	uint64_t size;

	if (world->fault == FAULT_MACHINE)
		ring_sim_power_on(world->sim, world->disk_fd);
	check_order(world, ring_sim_disk_data(world->sim, world->disk_fd, &size));
	check_due(world, ring_sim_disk_data(world->sim, world->disk_fd, &size), "was to last", 0, is_lasting);
	/* A killed receiver's memory is gone; its disk has what it acknowledged. */
	if (world->fault == FAULT_NONE || (had_it && world->ack != REPLICATE_SENT) ||
	    (world->fault == FAULT_RECEIVER && world->ack == REPLICATE_DURABLE))
		check_due(world, ring_sim_disk_data(world->sim, world->disk_fd, &size), "was acknowledged", 0,
		    is_acknowledged);
	ring_sim_power_cut(world->sim, world->disk_fd);
	ring_sim_power_on(world->sim, world->disk_fd);
	check_order(world, ring_sim_disk_data(world->sim, world->disk_fd, &size));
	check_due(world, ring_sim_disk_data(world->sim, world->disk_fd, &size), "was to last", 0, is_lasting);
}

static bool run_seed(struct sim_line *line, uint64_t seed)
{
	static struct world world;
	const struct ring_sim_disk_options disk = {
	    .size = SECTORS * SECTOR, .slow_ppm = 20000, .slow_ns = 20000000};
	uint64_t steps;
	bool good;

	memset(&world, 0, sizeof(world));
	world.sim = ring_sim_new(seed, 0);
	world.story = (struct sim_story){.sim = world.sim, .verbose = line->verbose};
	rand_init(&world.rand, seed * 31 + 7);
	world.ack = (enum replicate_ack)rand_below(&world.rand, REPLICATE_ACKS);
	world.fault = (enum fault)rand_below(&world.rand, FAULTS);
	say(&world, "%s, fault %d", replicate_ack_name(world.ack), world.fault);
	world.disk_fd = ring_sim_disk_new(world.sim, &disk);
	world.writes_count = 1;
	for (unsigned i = 0; i < CLIENTS; i++)
		world.clients[i].world = &world;
	connect_ends(&world);
	ring_sim_on_step(world.sim, clients_step, &world);
	steps = ring_sim_steps(world.sim) + rand_between(&world.rand, 200, 6000);
	if (world.fault)
		ring_sim_at_step(world.sim, steps - rand_below(&world.rand, 150), strike, &world);
	while (ring_sim_steps(world.sim) < steps && ring_sim_step(world.sim) == 0)
		;
	ring_sim_forget_steps(world.sim);
	take_down(&world);
	judge(&world);
	sim_line_count(line, "writes", world.writes_count - 1);
	sim_line_count(line, "times congested", world.congested);
	sim_line_count(line, "requests failed", world.failures);
	good = sim_line_judge(line, seed, &world.story, "");
	ring_sim_free(world.sim);
	return good;
}

int main(int argc, char **argv)
{
	struct sim_line line = {.program = "sim_replicate",
	    .mistakes = mistakes,
	    .mistakes_count = sizeof(mistakes) / sizeof(mistakes[0]),
	    .run = run_seed,
	    .seeds = 1000,
	    .start = 1};

	return sim_line_main(&line, argc, argv);
}
