/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The end of a world: all is mended, and whoever looks after the nodes leads them together, as docs/replication.md tells him to. Then one
 * serves once more, a bit flips behind their backs, the one that serves gives up its role, and both disks hold the same.
 */
#include "replica_world.h"

#include "base/bytes.h"

#include <string.h>

#define PEACE_STEPS 400000u
#define LOOK_EVERY  64u
#define BUSY_STEPS  30000u
#define SERVE_STEPS 1500u
#define TRIES_MAX   60u

enum stage { STAGE_TOGETHER, STAGE_PROMOTE, STAGE_SERVE, STAGE_SCRUB, STAGE_DEMOTE, STAGE_COMPARE };

static void enter(struct replica_world *world, enum stage stage)
{
	world->stage = stage;
	world->stage_step = ring_sim_steps(world->sim);
}

/* Which node has data that somebody would want: if there is a choice, the one that serves, or the first. */
static struct replica_host *survivor(struct replica_world *world, const struct replica_node_status *status)
{
	for (unsigned i = 0; i < LEDGER_NODES; i++)
		if (world->hosts[i].serving)
			return &world->hosts[i];
	for (unsigned i = 0; i < LEDGER_NODES; i++)
		if (status[i].good)
			return &world->hosts[i];
	return &world->hosts[0];
}

/* They have met, and one or both refuse. */
static void reconcile(struct replica_world *world, const struct replica_node_status *status)
{
	struct replica_host *keep = survivor(world, status), *give = replica_host_other(keep);

	struct replica_host *small = replica_sizes_short(world);

	replica_world_say(world, "refused: %s; %s", status[0].refusal ? status[0].refusal : "-",
	    status[1].refusal ? status[1].refusal : "-");
	if (small)
		replica_sizes_enlarge(small, replica_host_other(small)->sectors);
	if (++world->tries % 3 == 0) {
		replica_host_stop(&world->hosts[world->tries / 3 % LEDGER_NODES]);
	} else if (give->serving) {
		replica_host_command(give, REPLICA_MAKE_SECONDARY, false);
	} else if (!status[keep->index].good) {
		replica_host_command(keep, REPLICA_MAKE_PRIMARY, true);
	} else if (status[0].verdict < REPLICA_SPLIT || status[1].verdict < REPLICA_SPLIT) {
		/* Old roles stand against the newer data. */
		if (keep->serving)
			replica_host_command(keep, REPLICA_MAKE_SECONDARY, false);
		replica_host_command(keep, REPLICA_CONNECT, false);
		replica_host_command(give, REPLICA_CONNECT, false);
	} else {
		replica_host_command(give, REPLICA_DISCARD, false);
		replica_host_command(keep, REPLICA_CONNECT, false);
	}
}

static void lead_together(struct replica_world *world, const struct replica_node_status *status)
{
	if (status[0].flow == REPLICA_EQUAL && status[1].flow == REPLICA_EQUAL) {
		enter(world, STAGE_PROMOTE);
	} else if (status[0].flow == REPLICA_DIFFERING && status[1].flow == REPLICA_DIFFERING) {
		/* What was to part them did not. */
		for (unsigned i = 0; i < LEDGER_NODES; i++)
			replica_node_copy_marked(world->hosts[i].node);
	} else if ((status[0].refusal || status[1].refusal) && !status[0].linked && !status[1].linked) {
		reconcile(world, status);
	} else if (status[0].flow == REPLICA_DISKLESS && status[1].flow == REPLICA_DISKLESS) {
		/* Its disk is mended: it is to have the data again. */
		replica_host_command(
		    &world->hosts[status[1].role == REPLICA_PRIMARY], REPLICA_MAKE_SECONDARY, false);
	} else {
		/* One whose map was lost wants more than that. */
		for (unsigned i = 0; i < LEDGER_NODES; i++)
			if (status[i].disk_failed && ++world->tries % 8 == 0)
				replica_host_stop(&world->hosts[i]);
		for (unsigned i = 0; i < LEDGER_NODES; i++)
			if ((!status[i].wanted || status[i].disk_failed) && !status[i].linked)
				replica_host_command(&world->hosts[i], REPLICA_CONNECT, false);
	}
}

/* Who serves after peace has come must be let, and get no errors: nothing fails any more. */
static void promote(struct replica_world *world)
{
	struct replica_host *host = &world->hosts[world->seed % LEDGER_NODES];

	if (world->hosts[0].serving || world->hosts[1].serving)
		enter(world, STAGE_SERVE);
	else
		replica_host_command(host, REPLICA_MAKE_PRIMARY, false);
}

static void demote(struct replica_world *world, const struct replica_node_status *status)
{
	bool any = false;

	for (unsigned i = 0; i < LEDGER_NODES; i++) {
		any |= status[i].role == REPLICA_PRIMARY || world->hosts[i].ids.sender;
		if (status[i].role == REPLICA_PRIMARY)
			replica_host_command(&world->hosts[i], REPLICA_MAKE_SECONDARY, false);
	}
	if (!any)
		enter(world, world->scrub.step == SCRUB_NONE ? STAGE_SCRUB : STAGE_COMPARE);
}

/* Once more the volume gets larger, and clients use what is new. True: it has. */
static bool grow(struct replica_world *world)
{
	struct replica_host *hosts = world->hosts;
	struct replica_host *primary = hosts[0].reigns ? &hosts[0] : &hosts[1];

	if (!world->scenario.grows)
		return true;
	if (hosts[0].device != hosts[1].device)
		for (unsigned i = 0; i < LEDGER_NODES; i++)
			replica_sizes_enlarge(&hosts[i], (uint32_t)max_u64(hosts[0].device, hosts[1].device));
	return replica_sizes_fill(primary);
}

static void compare(struct replica_world *world)
{
	uint64_t size;
	const uint8_t *data[LEDGER_NODES];

	for (unsigned i = 0; i < LEDGER_NODES; i++)
		data[i] = ring_sim_disk_data(world->sim, world->hosts[i].disk_fd, &size);
	if (world->hosts[0].sectors != world->hosts[1].sectors)
		replica_world_fail(world, "at the end the one has %u sectors, the other %u",
		    world->hosts[0].sectors, world->hosts[1].sectors);
	for (uint32_t s = 0; s < world->hosts[0].sectors; s++)
		if (memcmp(data[0] + s * LEDGER_SECTOR, data[1] + s * LEDGER_SECTOR, LEDGER_SECTOR)) {
			replica_world_fail(world, "sector %u differs at the end: of write %u, of write %u", s,
			    get_le32(data[0] + s * LEDGER_SECTOR) & 0xffff,
			    get_le32(data[1] + s * LEDGER_SECTOR) & 0xffff);
			break;
		}
	if (replica_judge(&world->hosts[0].ids, &world->hosts[1].ids) != REPLICA_IN_SYNC)
		replica_world_fail(world, "the nodes are not in sync at the end");
	replica_promise_check(world);
	world->over = true;
}

/* They differ, and are to. */
static bool scrubs(const struct replica_world *world, const struct replica_node_status *status)
{
	bool equal = true;

	for (unsigned i = 0; i < LEDGER_NODES; i++)
		equal = equal && (status[i].flow == REPLICA_EQUAL || status[i].flow == REPLICA_DIFFERING);
	return equal && world->stage == STAGE_SCRUB;
}

static void go_on(struct replica_world *world)
{
	struct replica_node_status status[LEDGER_NODES];
	bool equal;

	/* A command waits for a resync that is held, too, and one of the other node for that. */
	for (unsigned i = 0; i < LEDGER_NODES; i++)
		if (replica_host_is_up(&world->hosts[i]))
			replica_node_pause(world->hosts[i].node, false);
	for (unsigned i = 0; i < LEDGER_NODES; i++) {
		if (!replica_host_is_up(&world->hosts[i]) || world->hosts[i].commanded)
			return;
		replica_node_status(world->hosts[i].node, &status[i]);
	}
	equal = status[0].flow == REPLICA_EQUAL && status[1].flow == REPLICA_EQUAL;
	if (!equal && world->stage != STAGE_TOGETHER && !scrubs(world, status)) {
		replica_scrub_give_up(world);
		enter(world, STAGE_TOGETHER);
	}
	switch ((enum stage)world->stage) {
	case STAGE_TOGETHER:
		/* A link may be too slow for what clients write. */
		world->quiet = ring_sim_steps(world->sim) - world->peace_step > BUSY_STEPS;
		lead_together(world, status);
		break;
	case STAGE_PROMOTE:
		promote(world);
		break;
	case STAGE_SERVE:
		if (ring_sim_steps(world->sim) - world->stage_step > SERVE_STEPS && grow(world))
			enter(world, world->seed % 3 ? STAGE_SCRUB : STAGE_DEMOTE);
		break;
	case STAGE_SCRUB:
		world->quiet = true;
		if (world->in_flight == 0 && replica_scrub_go_on(world, status))
			enter(world, STAGE_DEMOTE);
		break;
	case STAGE_DEMOTE:
		world->quiet = true;
		if (world->in_flight == 0)
			demote(world, status);
		break;
	case STAGE_COMPARE:
		compare(world);
		break;
	}
}

void replica_finale_step(struct replica_world *world)
{
	uint64_t step = ring_sim_steps(world->sim);
	const struct replica_host *hosts = world->hosts;

	replica_scrub_check(world);
	if (step - world->peace_step > PEACE_STEPS || world->tries > TRIES_MAX)
		replica_world_fail(world, "there is no end: up %d %d, stage %u, %u under way, after %u tries",
		    replica_host_is_up(&hosts[0]), replica_host_is_up(&hosts[1]), world->stage,
		    world->in_flight, world->tries);
	else if (step % LOOK_EVERY == 0)
		go_on(world);
}
