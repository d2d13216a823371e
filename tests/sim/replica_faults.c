/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Faults, and what users order: they strike between two steps. */
#include "replica_world.h"

#include <errno.h>

#define BEGIN_STEP   400u
#define EIO_PPM      20000u
#define FSYNC_PPM    300000u
#define SLOW_PPM     100000u
#define SLOW_NS      20000000u
#define STUCK_NS     1500000000u
#define HOOK_NS      2500000000u
#define DIES_EVERY   150u /* steps */
#define ROTTEN_STEPS 4000u

enum fault {
	FAULT_KILL,
	FAULT_POWER,
	FAULT_KILL_BOTH,
	FAULT_POWER_BOTH,
	FAULT_STOP,
	FAULT_LINK,
	FAULT_LINK_TOO,
	FAULT_CUT,
	FAULT_DISK_EIO,
	FAULT_DISK_FSYNC,
	FAULT_DISK_STUCK,
	FAULT_SLOW,
	FAULT_MAP_EIO,
	FAULT_MAP_LOST,
	FAULT_DISK_DEAD,
	FAULTS,
};

static struct replica_host *some_host(struct replica_world *world)
{
	return &world->hosts[rand_below(&world->rand, LEDGER_NODES)];
}

static struct ring_sim_disk_options *disk_of(struct replica_world *world, int fd)
{
	return ring_sim_disk_options(world->sim, fd);
}

/* Whether its clients need not hear of it when its disk fails now. */
static bool may_detach(const struct replica_host *host)
{
	struct replica_node_status status;

	if (!host->world->scenario.detach || !replica_host_is_up(host) || !host->reigns || host->commanded)
		return false;
	replica_node_status(host->node, &status);
	return status.flow == REPLICA_EQUAL && !status.leased;
}

/* Of a primary, if there is one; its map may be on the same disk. */
static void kill_disk(struct replica_host *host)
{
	struct replica_world *world = host->world;
	struct rand *rand = &world->rand;
	struct ring_sim_disk_options *disk;

	if (!host->reigns)
		host = replica_host_other(host);
	disk = disk_of(world, host->disk_fd);
	host->dead = true;
	switch (rand_below(rand, may_detach(host) ? 4 : 3)) {
	case 0:
		disk->write_error_ppm = 1000000;
		break;
	case 1:
		disk->read_error_ppm = 1000000;
		break;
	case 2:
		disk->write_error_ppm = disk->read_error_ppm = 1000000;
		break;
	default:
		/* What was acknowledged is lost there: only for one whose clients need not see that. */
		disk->fsync_error_ppm = 1000000;
		host->rotten_step = ring_sim_steps(world->sim);
	}
	host->map_dies = !host->rotten_step && rand_one_in(rand, 3);
	replica_world_say(world, "fault: the disk of %u dies, writes %u, reads %u, flushes %u%s", host->index,
	    disk->write_error_ppm, disk->read_error_ppm, disk->fsync_error_ppm,
	    host->map_dies ? ", and its map" : "");
}

static void strike(struct replica_world *world, enum fault what)
{
	struct replica_host *host = some_host(world);
	struct ring_sim_disk_options *disk = disk_of(world, host->disk_fd),
	                             *map = disk_of(world, host->map_fd);

	world->faults++;
	if (world->scenario.weak && what < FAULT_LINK) {
		replica_host_kill(
		    host->reigns ? replica_host_other(host) : host, world->scenario.ack == REPLICATE_DURABLE);
		return;
	}
	switch (what) {
	case FAULT_KILL:
	case FAULT_POWER:
		replica_host_kill(host, what == FAULT_POWER);
		break;
	case FAULT_KILL_BOTH:
	case FAULT_POWER_BOTH:
		replica_host_kill(&world->hosts[0], what == FAULT_POWER_BOTH);
		replica_host_kill(&world->hosts[1], what == FAULT_POWER_BOTH || rand_one_in(&world->rand, 2));
		break;
	case FAULT_STOP:
		replica_host_stop(host);
		break;
	case FAULT_CUT:
		replica_world_say(world, "fault: the network is cut");
		world->cut = true;
		replica_net_break(world);
		break;
	case FAULT_DISK_EIO:
		replica_world_say(world, "fault: the disk of %u fails now and then", host->index);
		disk->write_error_ppm = EIO_PPM;
		break;
	case FAULT_DISK_FSYNC:
		replica_world_say(world, "fault: the disk of %u does not flush now and then", host->index);
		disk->fsync_error_ppm = FSYNC_PPM;
		break;
	case FAULT_DISK_STUCK:
	case FAULT_SLOW:
		replica_world_say(world, "fault: the disks of %u are slow", host->index);
		disk->slow_ppm = map->slow_ppm = SLOW_PPM;
		disk->slow_ns = map->slow_ns = what == FAULT_SLOW ? SLOW_NS : STUCK_NS;
		break;
	case FAULT_MAP_EIO:
		replica_world_say(world, "fault: the map of %u fails now and then", host->index);
		map->write_error_ppm = map->fsync_error_ppm = EIO_PPM;
		host->map_fails = true;
		break;
	case FAULT_MAP_LOST:
		host->damaged = world->scenario.forgets;
		replica_host_kill(host, false);
		break;
	case FAULT_DISK_DEAD:
		kill_disk(host);
		break;
	default:
		replica_world_say(world, "fault: links break");
		replica_net_break(world);
	}
}

void replica_faults_mend(struct replica_world *world)
{
	world->cut = false;
	for (unsigned i = 0; i < LEDGER_NODES; i++) {
		const int fds[] = {world->hosts[i].disk_fd, world->hosts[i].map_fd};

		/* Another one is there after a while. */
		if (world->hosts[i].dead && !world->peace && !rand_one_in(&world->rand, 3))
			continue;
		world->hosts[i].dead = world->hosts[i].map_dies = false;
		world->hosts[i].rotten_step = 0;
		for (unsigned j = 0; j < 2; j++) {
			struct ring_sim_disk_options *disk = disk_of(world, fds[j]);

			disk->write_error_ppm = disk->read_error_ppm = disk->fsync_error_ppm =
			    disk->slow_ppm = 0;
		}
	}
}

/* Orders */

static void order_primary(struct replica_host *host)
{
	struct replica_world *world = host->world;
	struct replica_host *other = replica_host_other(host);

	/* Somebody has looked, and found it down. */
	if (!other->ring && rand_one_in(&world->rand, 3))
		replica_host_is_told(host);
	replica_host_command(host, REPLICA_MAKE_PRIMARY,
	    rand_one_in(&world->rand, world->scenario.quarrels ? 2
	                              : other->serving         ? 20
	                                                       : 5));
}

static void order_discard(struct replica_host *host)
{
	if (host->serving)
		replica_host_command(host, REPLICA_MAKE_SECONDARY, false);
	host->world->discards++;
	replica_host_command(host, REPLICA_DISCARD, false);
}

static void order_hand_over(struct replica_host *host, const struct replica_node_status *status)
{
	if (host->reigns && status->flow == REPLICA_EQUAL &&
	    replica_host_command(host, REPLICA_HAND_OVER, false) == 0)
		host->world->handed++;
}

static void order(struct replica_world *world)
{
	struct replica_host *host = some_host(world), *other = replica_host_other(host);
	struct replica_node_status status;

	if (!replica_host_is_up(host))
		return;
	replica_node_status(host->node, &status);
	if (status.refusal && (status.verdict == REPLICA_SPLIT || status.foreign)) {
		world->splits += status.verdict == REPLICA_SPLIT;
		if (rand_one_in(&world->rand, 2))
			order_discard(host);
		else
			replica_host_command(host, REPLICA_CONNECT, false);
		return;
	}
	if (world->scenario.migrates && rand_one_in(&world->rand, 2))
		order_hand_over(host, &status);
	if (world->scenario.grows && rand_one_in(&world->rand, 4)) {
		replica_sizes_order(world);
		return;
	}
	switch (rand_below(&world->rand, 18)) {
	case 0:
	case 1:
	case 2:
	case 3:
		if (!host->reigns && (!other->reigns || (world->scenario.quarrels && !status.linked) ||
		                         rand_one_in(&world->rand, 8)))
			order_primary(host);
		break;
	case 4:
		if (host->reigns)
			replica_host_command(host, REPLICA_MAKE_SECONDARY, false);
		break;
	case 7:
	case 11:
		order_hand_over(host, &status);
		break;
	case 5:
		if (rand_one_in(&world->rand, 3))
			replica_host_command(host, REPLICA_DISCONNECT, false);
		break;
	case 6:
		if (!host->serving && rand_one_in(&world->rand, 10))
			order_discard(host);
		break;
	case 8:
		replica_node_pause(host->node, rand_one_in(&world->rand, 2));
		break;
	case 9:
		if (status.frozen && !other->ring)
			replica_host_is_told(host);
		break;
	default:
		if (!status.wanted || status.disk_failed)
			replica_host_command(host, REPLICA_CONNECT, false);
	}
}

int replica_faults_before_resync(void *data, struct error *error)
{
	struct replica_host *host = data;
	struct replica_world *world = host->world;
	struct rand *rand = &world->rand;

	if (host->dying)
		return -ECANCELED;
	world->hooks++;
	host->prepared = false;
	replica_world_say(world, "%u runs its hook before a resync", host->index);
	replica_host_pass(host, rand_below(rand, rand_one_in(rand, 4) ? HOOK_NS : HOOK_NS / 100));
	if (host->dying)
		return -ECANCELED;
	/* What it is to keep is whole to this moment; a map that fails may have half of the next record. */
	if (!host->map_fails && (!host->ids.current || host->ids.inconsistent))
		replica_world_fail(world, "%u: its hook runs, and its data are not good", host->index);
	replica_promise_check(world);
	host->prepared = world->peace || !rand_one_in(rand, 4);
	return host->prepared ? 0 : error_set(error, -EIO, "the hook has failed");
}

/* Most worlds begin as they are meant to. */
static void begin_well(struct replica_world *world)
{
	for (unsigned i = 0; i < LEDGER_NODES; i++) {
		replica_host_command(&world->hosts[i], REPLICA_CONNECT, false);
		if (i == 0)
			replica_host_command(&world->hosts[i], REPLICA_MAKE_PRIMARY, true);
	}
}

/* What happens to it is over by the time somebody looks. */
static void look_at_weak(struct replica_world *world)
{
	for (unsigned i = 0; i < LEDGER_NODES && world->scenario.weak; i++) {
		struct replica_host *host = &world->hosts[i];
		struct replica_node_status status;

		if (!replica_host_is_up(host) || !replica_host_other(host)->reigns)
			continue;
		/* What it has in its memory alone, it has there for a while. */
		if (world->scenario.ack == REPLICATE_RECEIVED) {
			disk_of(world, host->disk_fd)->slow_ppm = 5 * SLOW_PPM;
			disk_of(world, host->disk_fd)->slow_ns = SLOW_NS;
		}
		replica_node_status(host->node, &status);
		if (!status.wanted && !status.refusal)
			replica_host_command(host, REPLICA_CONNECT, false);
	}
}

/* What is recorded, and what is said just before and after, are the most delicate moments. */
void replica_faults_soon(struct replica_world *world)
{
	if (!world->peace && rand_one_in(&world->rand, 8))
		world->strike_step = ring_sim_steps(world->sim) + rand_below(&world->rand, 150);
}

void replica_faults_now(struct replica_world *world)
{
	if (!world->peace && rand_one_in(&world->rand, 2))
		world->strike_step = ring_sim_steps(world->sim);
}

/*
 * A map dies with its disk once clients wait, so that no write is begun that it lacks (which a restart would have to be told of). Should they come
 * back all the same, because the link is lost, this world has nothing more to tell.
 */
static void look_at_map(struct replica_host *host, const struct replica_node_status *status)
{
	struct ring_sim_disk_options *map = disk_of(host->world, host->map_fd);
	bool waits = status->disk_failed && status->role == REPLICA_PRIMARY;

	if (host->map_dies && waits && status->flow == REPLICA_EQUAL) {
		replica_world_say(host->world, "fault: the map of %u dies", host->index);
		host->map_dies = false;
		host->map_fails = true;
		map->write_error_ppm = map->fsync_error_ppm = 1000000;
	} else if (map->write_error_ppm == 1000000 && status->role == REPLICA_PRIMARY && !waits) {
		host->world->given_over++;
		host->world->over = true;
	}
}

/* Nor has one whose disk has lost what was acknowledged, when its clients are not at the other one after all. */
static bool look_at_rot(struct replica_host *host, const struct replica_node_status *status)
{
	struct ring_sim_disk_options *disk = disk_of(host->world, host->disk_fd);
	uint64_t step = ring_sim_steps(host->world->sim);

	if (status->flow == REPLICA_EQUAL && step < host->rotten_step + ROTTEN_STEPS)
		return true;
	host->rotten_step = 0;
	/* Then it fails in other ways. */
	if (status->flow == REPLICA_DISKLESS) {
		disk->fsync_error_ppm = 0;
		disk->write_error_ppm = disk->read_error_ppm = 1000000;
		return false;
	}
	host->world->given_over++;
	host->world->over = true;
	return true;
}

/* Whether nothing else may happen for now. */
static bool look_at_dead(struct replica_world *world)
{
	bool rots = false;

	for (unsigned i = 0; i < LEDGER_NODES; i++) {
		struct replica_host *host = &world->hosts[i];
		struct ring_sim_disk_options *map = disk_of(world, host->map_fd);
		struct replica_node_status status;

		if (!replica_host_is_up(host)) {
			if (map->write_error_ppm == 1000000)
				map->write_error_ppm = map->fsync_error_ppm = 0;
			world->over |= host->rotten_step > 0;
			continue;
		}
		if (!host->dead)
			continue;
		replica_node_status(host->node, &status);
		look_at_map(host, &status);
		rots |= host->rotten_step && look_at_rot(host, &status);
	}
	return rots || world->over;
}

void replica_faults_step(struct replica_world *world)
{
	struct rand *rand = &world->rand;
	uint64_t step = ring_sim_steps(world->sim);

	for (unsigned i = 0; i < LEDGER_NODES; i++)
		world->hosts[i].shaky |= disk_of(world, world->hosts[i].disk_fd)->write_error_ppm > 0;
	if (look_at_dead(world))
		return;
	if (step >= world->peace_step) {
		replica_world_say(world, "peace");
		world->peace = true;
		replica_faults_mend(world);
		return;
	}
	if (step == BEGIN_STEP && world->seed % 8)
		begin_well(world);
	if (rand_one_in(rand, world->scenario.order_every))
		order(world);
	replica_scrub_strike(world);
	look_at_weak(world);
	for (unsigned i = 0; i < LEDGER_NODES && world->scenario.dies; i++)
		if (rand_one_in(rand, DIES_EVERY) && !world->hosts[i].dead && may_detach(&world->hosts[i])) {
			kill_disk(&world->hosts[i]);
			world->mend_step = step + rand_between(rand, 50, 3000);
		}
	if (step >= world->strike_step) {
		world->strike_step = UINT64_MAX;
		strike(world, (enum fault)rand_below(rand, FAULT_CUT));
	}
	if (step >= world->mend_step) {
		replica_faults_mend(world);
		world->mend_step = UINT64_MAX;
	}
	if (rand_one_in(rand, world->scenario.fault_every)) {
		strike(world, (enum fault)rand_below(rand, FAULTS));
		if (world->mend_step == UINT64_MAX)
			world->mend_step = step + rand_between(rand, 50, 2000);
	}
}
