/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * For what clients of a replica wait, and for what not: a primary that has lost the other node goes on as soon as that is recorded; with `freeze`
 * when the other is fenced, or knows that it is left behind, and not before. Nobody is told that a service ends which does not.
 */
#include "replica_world.h"

#define PATIENCE 3000u /* steps */

/* Nothing is the matter with what it has. */
static bool is_well(const struct replica_host *host)
{
	const int fds[] = {host->disk_fd, host->map_fd};

	for (unsigned i = 0; i < 2; i++) {
		const struct ring_sim_disk_options *disk = ring_sim_disk_options(host->world->sim, fds[i]);

		if (disk->write_error_ppm || disk->read_error_ppm || disk->fsync_error_ppm || disk->slow_ppm)
			return false;
	}
	return !host->map_fails && !host->dead;
}

/* A primary alone: somebody waits, who need not. */
static bool is_waited_for(const struct replica_host *host)
{
	struct replica_node_status status;

	if (!replica_host_is_up(host) || !host->reigns || host->commanded || !is_well(host))
		return false;
	replica_node_status(host->node, &status);
	if (host->refuses && !status.disk_failed)
		return true;
	if (status.role != REPLICA_PRIMARY || status.flow != REPLICA_APART || status.disk_failed)
		return false;
	return status.frozen ? !host->asks_to_fence : host->in_flight > 0;
}

void replica_patience_look(struct replica_world *world)
{
	uint64_t step = ring_sim_steps(world->sim);

	for (unsigned i = 0; i < LEDGER_NODES; i++) {
		struct replica_host *host = &world->hosts[i];

		if (!is_waited_for(host) || (host->answers != host->told_answers && !host->refuses)) {
			host->told_answers = host->answers;
			host->patient_step = step;
		} else if (step > host->patient_step + PATIENCE) {
			replica_world_fail(world, "%u: its clients %s", i,
			    host->refuses ? "are refused what it serves" : "wait for nothing");
		}
	}
}

void replica_host_is_told(struct replica_host *host)
{
	host->fenced = host->excused = true;
	replica_world_say(host->world, "%u is told that the other is down", host->index);
	replica_node_fenced(host->node);
}

void replica_patience_check_parting(struct replica_host *host)
{
	struct replica_world *world = host->world;
	const struct replica_host *other = replica_host_other(host);

	if (world->scenario.gone == REPLICA_GONE_FREEZE && host->reigns && !host->excused &&
	    !other->ids.outdated)
		replica_world_fail(
		    world, "%u goes on without the other, which nobody has fenced", host->index);
}
