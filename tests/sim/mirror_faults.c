/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Faults and orders for a mirror; they strike between two steps. */
#include "mirror_world.h"

#include "base/bytes.h"

static const char *const names[MFAULTS] = {
    [MFAULT_FOLLOWER_EIO] = "the follower fails now and then",
    [MFAULT_FOLLOWER_FSYNC] = "the follower's flushes fail",
    [MFAULT_FOLLOWER_STUCK] = "the follower is stuck now and then",
    [MFAULT_FOLLOWER_CUT] = "the follower loses power",
    [MFAULT_FOLLOWER_FULL] = "the follower is full",
    [MFAULT_AUTHORITATIVE_EIO] = "the authoritative leg fails now and then",
    [MFAULT_AUTHORITATIVE_FSYNC] = "the authoritative leg's flushes fail",
    [MFAULT_FOLLOWER_LINK] = "the follower's link breaks",
    [MFAULT_FOLLOWER_AGENT] = "the follower's agent is killed",
    [MFAULT_FOLLOWER_MACHINE] = "the follower's machine starts anew",
    [MFAULT_AUTHORITATIVE_LINK] = "the authoritative leg's link breaks",
    [MFAULT_AUTHORITATIVE_AGENT] = "the authoritative leg's agent is killed",
    [MFAULT_AUTHORITATIVE_MACHINE] = "the authoritative leg's machine starts anew",
    [MFAULT_SLOW] = "slow disks",
    [MFAULT_MAP_EIO] = "the map fails now and then",
    [MFAULT_PAUSE] = "paused",
};

static enum mirror_leg_index authoritative(struct mirror_world *world)
{
	struct mirror_job_status status;

	mirror_job_status(world->job, &status);
	return status.authoritative;
}

/* False: it is none of a link. */
static bool strike_link(struct mirror_world *world, enum mirror_fault what)
{
	enum mirror_leg_index leader = authoritative(world), follower = MIRROR_LEGS - 1 - leader;
	bool leads = what >= MFAULT_AUTHORITATIVE_LINK;
	enum mirror_leg_index leg = leads ? leader : follower;

	if (what < MFAULT_FOLLOWER_LINK || what > MFAULT_AUTHORITATIVE_MACHINE)
		return false;
	if (!world->scenario.far[leg])
		return true;
	world->faults++;
	mirror_world_say(world, "fault: %s", names[what]);
	if (what == MFAULT_FOLLOWER_LINK || what == MFAULT_AUTHORITATIVE_LINK)
		mirror_far_break(world, leg);
	else if (what == MFAULT_FOLLOWER_AGENT || what == MFAULT_AUTHORITATIVE_AGENT)
		mirror_far_kill(world, leg, RING_SIM_KILL_PROCESS);
	else
		mirror_far_kill(world, leg, RING_SIM_KILL_MACHINE);
	world->leader_cut |= what == MFAULT_AUTHORITATIVE_MACHINE;
	return true;
}

static void strike(struct mirror_world *world, enum mirror_fault what)
{
	enum mirror_leg_index leg = authoritative(world);
	int fd = world->fds[MIRROR_LEGS - 1 - leg];
	struct ring_sim_disk_options *follower = ring_sim_disk_options(world->sim, fd);
	struct ring_sim_disk_options *leader = ring_sim_disk_options(world->sim, world->fds[leg]);
	struct ring_sim_disk_options *map = ring_sim_disk_options(world->sim, world->map_fd);

	if (strike_link(world, what))
		return;
	/* A far disk forgets before anybody here can know; and if the link is lost then, nobody is told. */
	if ((what == MFAULT_AUTHORITATIVE_FSYNC && world->scenario.far[leg]) ||
	    (what == MFAULT_FOLLOWER_FSYNC && world->scenario.far[MIRROR_LEGS - 1 - leg]))
		return;
	world->faults++;
	mirror_world_say(world, "fault: %s", names[what]);
	switch (what) {
	case MFAULT_FOLLOWER_EIO:
		follower->write_error_ppm = follower->read_error_ppm = 20000;
		break;
	case MFAULT_FOLLOWER_FSYNC:
		follower->fsync_error_ppm = 500000;
		break;
	case MFAULT_FOLLOWER_STUCK:
		follower->slow_ppm = 50000;
		follower->slow_ns = 2500000000;
		break;
	case MFAULT_FOLLOWER_CUT:
		ring_sim_power_cut(world->sim, fd);
		world->follower_off = true;
		break;
	case MFAULT_FOLLOWER_FULL:
		ring_sim_disk_space(world->sim, fd, rand_below(ring_sim_rand(world->sim), 100000));
		break;
	case MFAULT_AUTHORITATIVE_EIO:
		leader->write_error_ppm = leader->read_error_ppm = 10000;
		break;
	case MFAULT_AUTHORITATIVE_FSYNC:
		leader->fsync_error_ppm = 300000;
		break;
	case MFAULT_SLOW:
		map->slow_ppm = leader->slow_ppm = follower->slow_ppm = 100000;
		map->slow_ns = leader->slow_ns = follower->slow_ns = 20000000;
		break;
	case MFAULT_MAP_EIO:
		map->write_error_ppm = map->fsync_error_ppm = 20000;
		break;
	case MFAULT_PAUSE:
		mirror_job_pause(world->job, true);
		break;
	default:
		break;
	}
}

static void heal(struct ring_sim_disk_options *disk)
{
	disk->read_error_ppm = disk->write_error_ppm = disk->fsync_error_ppm = disk->slow_ppm = 0;
}

/* A disk that lost its power is back once that was noticed: one that comes back unseen has lost data unseen, and so for every system. */
static void power_on(struct mirror_world *world)
{
	struct mirror_job_status status;

	if (!world->follower_off)
		return;
	mirror_job_status(world->job, &status);
	if (status.attached)
		return;
	for (unsigned i = 0; i < MIRROR_LEGS; i++)
		ring_sim_power_on(world->sim, world->fds[i]);
	world->follower_off = false;
}

void mirror_faults_repair(struct mirror_world *world)
{
	for (unsigned i = 0; i < MIRROR_LEGS; i++) {
		/* What was lost by now, and is not told yet. */
		if (ring_sim_disk_options(world->sim, world->fds[i])->fsync_error_ppm)
			model_lost(world->model);
		if (ring_sim_disk_options(world->sim, world->fds[i])->write_error_ppm)
			world->eio_ns = ring_sim_now_ns(world->sim);
		heal(ring_sim_disk_options(world->sim, world->fds[i]));
		ring_sim_disk_space(world->sim, world->fds[i], UINT64_MAX);
	}
	heal(ring_sim_disk_options(world->sim, world->map_fd));
	if (world->serving && !world->crashed)
		mirror_job_pause(world->job, false);
}

void mirror_faults_crash(struct mirror_world *world, bool power_cut)
{
	struct rand *rand = ring_sim_rand(world->sim);
	enum mirror_leg_index leg = authoritative(world);

	mirror_world_say(world, power_cut ? "power cut" : "killed");
	world->crashed = true;
	/* In the midst of a switch, of which nobody has been told the end. */
	world->struck = world->state == (world->forced_revert ? CUTOVER_SWITCHED : CUTOVER_CUTTING);
	/* Whoever is killed before that knows nothing of it any more: a power cut, in effect. */
	world->power_cut = world->leader_cut;
	ring_sim_kill(world->host, power_cut ? RING_SIM_KILL_MACHINE : RING_SIM_KILL_PROCESS);
	mirror_job_stop(world->job);
	if (!power_cut)
		return;
	/* The other leg may be in another machine. */
	ring_sim_power_cut(world->sim, world->map_fd);
	if (!rand_one_in(rand, 4)) {
		ring_sim_power_cut(world->sim, world->fds[leg]);
		world->power_cut = true;
	}
	if (!rand_one_in(rand, 4))
		ring_sim_power_cut(world->sim, world->fds[MIRROR_LEGS - 1 - leg]);
}

static void order(struct mirror_world *world)
{
	struct rand *rand = ring_sim_rand(world->sim);

	if (rand_one_in(rand, 60) && mirror_job_finish(world->job) == 0)
		mirror_world_say(world, "order: finish");
	else if (rand_one_in(rand, 3) && mirror_job_revert(world->job) == 0)
		mirror_world_say(world, "order: revert");
	else if (rand_one_in(rand, 100) && mirror_job_abort(world->job) == 0)
		mirror_world_say(world, "order: abort");
	else if (rand_one_in(rand, 2) && mirror_job_cutover(world->job) == 0)
		mirror_world_say(world, "order: cutover");
}

static void look_at_leader(struct mirror_world *world)
{
	struct mirror_job_status status;

	if (!world->leader_cut)
		return;
	mirror_job_status(world->job, &status);
	world->leader_cut = status.away_ns || world->far[status.authoritative].down;
}

void mirror_faults_step(struct mirror_world *world)
{
	struct rand *rand = ring_sim_rand(world->sim);
	uint64_t step = ring_sim_steps(world->sim);

	power_on(world);
	look_at_leader(world);
	if (world->last_life)
		return;
	if (world->forced) {
		/* Over, and at once back: each as soon as it can be. */
		if (mirror_job_cutover(world->job) < 0 && world->forced_revert)
			mirror_job_revert(world->job);
	} else if (rand_one_in(rand, 400)) {
		order(world);
	}
	if (step >= world->repair_step) {
		mirror_faults_repair(world);
		world->repair_step = UINT64_MAX;
		world->fault_step = step + rand_below(rand, 3000);
	}
	if (step >= world->fault_step && !world->follower_off) {
		strike(world, (enum mirror_fault)rand_below(rand, MFAULTS));
		world->fault_step = UINT64_MAX;
		world->repair_step = step + rand_between(rand, 50, 3000);
	}
	if (step >= world->end_step)
		mirror_faults_crash(world, world->forced ? world->forced_power : rand_one_in(rand, 2));
}
