/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Faults strike between two events, at a step that the seed chose; world_repair() ends their effects. */
#include "world.h"

#include "base/bytes.h"

static const char *const names[FAULTS] = {
    [FAULT_KILL_CLIENT] = "client killed",
    [FAULT_CUT_CLIENT] = "power cut at the client",
    [FAULT_KILL_AGENT] = "agent killed",
    [FAULT_CUT_AGENT] = "power cut at the agent",
    [FAULT_LINK_RESET] = "link reset",
    [FAULT_LINK_EOF] = "link ended",
    [FAULT_LINK_STALL] = "link stalled",
    [FAULT_CUT_TARGET] = "power cut at the target disk",
    [FAULT_BAD_SOURCE] = "source unreadable",
    [FAULT_BAD_TARGET] = "target unwritable",
    [FAULT_BAD_TARGET_READ] = "target unreadable",
    [FAULT_FULL_TARGET] = "target full",
    [FAULT_FULL_JOURNAL] = "journal full",
    [FAULT_EIO] = "I/O errors",
    [FAULT_FSYNC] = "flush errors",
    [FAULT_SLOW] = "slow disks",
    [FAULT_CANCEL] = "cancelled",
    [FAULT_PAUSE] = "paused",
    [FAULT_RATE] = "rate changed",
};

const char *fault_name(enum fault_what what)
{
	return names[what];
}

static void cut_local_disks(struct world *world)
{
	ring_sim_power_cut(world->sim, world->journal_fd);
	if (world->scenario.source == PLACE_LOCAL)
		ring_sim_power_cut(world->sim, world->source_fd);
	if (world->scenario.target == PLACE_LOCAL)
		ring_sim_power_cut(world->sim, world->target_fd);
}

static void kill_client(struct world *world, enum ring_sim_kill how)
{
	ring_sim_kill(world->client, how);
	world->crashed = true;
	/* What a throttle holds has no operation under way that the kill could end. */
	job_pause(world->job, false);
	job_set_rate(world->job, 0);
}

static void bad_range(struct world *world, int fd, enum ring_sim_bad what, uint64_t size)
{
	struct rand *rand = ring_sim_rand(world->sim);
	uint64_t offset = align_down(rand_below(rand, size), 512);

	if (size)
		ring_sim_disk_bad(world->sim, fd, what, offset, 512 * rand_between(rand, 1, 20));
}

static void all_disks(struct world *world, void (*change)(struct ring_sim_disk_options *options))
{
	change(ring_sim_disk_options(world->sim, world->source_fd));
	change(ring_sim_disk_options(world->sim, world->target_fd));
	change(ring_sim_disk_options(world->sim, world->journal_fd));
}

static void now_and_then_eio(struct ring_sim_disk_options *options)
{
	options->read_error_ppm = options->write_error_ppm = 20000;
}

static void now_and_then_no_flush(struct ring_sim_disk_options *options)
{
	options->fsync_error_ppm = 400000;
}

static void slow(struct ring_sim_disk_options *options)
{
	options->slow_ppm = 100000;
	options->slow_ns = 300000000;
}

static void no_faults(struct ring_sim_disk_options *options)
{
	options->read_error_ppm = options->write_error_ppm = options->fsync_error_ppm = options->slow_ppm = 0;
}

static void go_on(void *data)
{
	struct world *world = data;

	if (world->job)
		job_pause(world->job, false);
}

static void strike_disks(struct world *world, enum fault_what what)
{
	struct ring_sim *sim = world->sim;
	const struct scenario *scenario = &world->scenario;

	switch (what) {
	case FAULT_CUT_TARGET:
		ring_sim_power_cut(sim, world->target_fd);
		break;
	case FAULT_BAD_SOURCE:
		bad_range(world, world->source_fd, RING_SIM_BAD_READ, scenario->source_size);
		break;
	case FAULT_BAD_TARGET:
		bad_range(world, world->target_fd, RING_SIM_BAD_WRITE, scenario->target_size);
		break;
	case FAULT_BAD_TARGET_READ:
		bad_range(world, world->target_fd, RING_SIM_BAD_READ, scenario->target_size);
		break;
	case FAULT_FULL_TARGET:
		ring_sim_disk_space(
		    sim, world->target_fd, rand_below(ring_sim_rand(sim), scenario->target_size + 1));
		break;
	case FAULT_FULL_JOURNAL:
		ring_sim_disk_space(sim, world->journal_fd, rand_below(ring_sim_rand(sim), 5000));
		break;
	case FAULT_EIO:
		all_disks(world, now_and_then_eio);
		break;
	case FAULT_FSYNC:
		all_disks(world, now_and_then_no_flush);
		break;
	default:
		all_disks(world, slow);
		break;
	}
}

static void strike_job(struct world *world, enum fault_what what)
{
	struct rand *rand = ring_sim_rand(world->sim);

	if (what == FAULT_CANCEL) {
		world->cancelled = true;
		job_cancel(world->job);
	} else if (what == FAULT_RATE) {
		job_set_rate(world->job, rand_below(rand, 3) * 1000000);
	} else {
		job_pause(world->job, true);
		ring_sim_after(world->sim, rand_below(rand, 20000000000), go_on, world);
	}
}

static void strike(void *data)
{
	struct fault *fault = data;
	struct world *world = fault->world;

	/* Between attempts there is nothing to strike. */
	if (!world->job || world->crashed)
		return;
	world->struck++;
	world_say(world, "step %llu: %s", (unsigned long long)ring_sim_steps(world->sim), names[fault->what]);
	switch (fault->what) {
	case FAULT_KILL_CLIENT:
		kill_client(world, RING_SIM_KILL_PROCESS);
		break;
	case FAULT_CUT_CLIENT:
		kill_client(world, RING_SIM_KILL_MACHINE);
		cut_local_disks(world);
		break;
	case FAULT_KILL_AGENT:
		remote_kill(world, RING_SIM_KILL_PROCESS);
		break;
	case FAULT_CUT_AGENT:
		remote_kill(world, RING_SIM_KILL_MACHINE);
		break;
	case FAULT_LINK_RESET:
		remote_break(world, RING_SIM_BREAK_RESET);
		break;
	case FAULT_LINK_EOF:
		remote_break(world, RING_SIM_BREAK_EOF);
		break;
	case FAULT_LINK_STALL:
		remote_break(world, RING_SIM_BREAK_STALL);
		break;
	case FAULT_CANCEL:
	case FAULT_PAUSE:
	case FAULT_RATE:
		strike_job(world, fault->what);
		break;
	default:
		strike_disks(world, fault->what);
	}
}

/* Crashes are what matters most; of the others, those that can happen where the volumes are. */
static enum fault_what random_fault(struct world *world)
{
	const struct scenario *scenario = &world->scenario;
	struct rand *rand = ring_sim_rand(world->sim);
	bool remote = scenario->target == PLACE_REMOTE || scenario->source == PLACE_REMOTE;
	enum fault_what what;

	do
		what = (enum fault_what)rand_below(rand, rand_below(rand, 2) ? FAULT_CUT_TARGET + 1 : FAULTS);
	while (!remote && what >= FAULT_KILL_AGENT && what <= FAULT_LINK_STALL);
	return what;
}

static void plan(struct world *world, enum fault_what what, uint64_t step)
{
	struct fault *fault = &world->faults[world->faults_count++];

	fault->world = world;
	fault->what = what;
	fault->step = ring_sim_steps(world->sim) + step;
	ring_sim_at_step(world->sim, fault->step, strike, fault);
}

void world_plan_faults(struct world *world)
{
	struct rand *rand = ring_sim_rand(world->sim);
	uint64_t count = rand_below(rand, 8) ? rand_between(rand, 1, world->scenario.faults_max) : 0;

	if (world->forced) {
		plan(world, world->forced_what, world->forced_step);
		return;
	}
	for (uint64_t i = 0; i < count; i++)
		plan(world, random_fault(world), rand_below(rand, world->scenario.step_max));
}

void world_repair(struct world *world)
{
	const int fds[] = {world->source_fd, world->target_fd, world->journal_fd};

	all_disks(world, no_faults);
	for (int i = 0; i < 3; i++) {
		ring_sim_power_on(world->sim, fds[i]);
		ring_sim_disk_heal(world->sim, fds[i]);
		ring_sim_disk_space(world->sim, fds[i], UINT64_MAX);
	}
}
