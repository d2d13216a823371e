/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The process of `blkmove replicate up`: one resource's node or many on one ring, each in a fiber of its own. replicate_process.h has its
 * parts.
 */
#pragma once

#include "sync/governor.h"

#include <stdbool.h>

struct block_facts;
struct error;
struct replica_config;

struct replicate_up_options {
	const struct replica_config *const *configs; /* of the resources, each of this host; borrowed */
	unsigned count;
	bool foreground; /* else it returns when all that can be is up, and a process of its own goes on */
	bool apart;      /* no link is sought before `connect` */
	const char *state_dir;          /* where maps lie that no file names */
	struct governor_options common; /* of the resyncs of all of them together; zeros: no limits */
	bool quiet, json;
};

/* Whether a volume may be a node's: whoever writes beside the replica is seen by no map. 0 or -EPERM with words. */
int replicate_volume_judge(const struct block_facts *facts, const char *name, struct error *error);
/*
 * Runs until all resources are down. Prints what happens; a resource that cannot start is told of and does not keep the others.
 * Returns the exit code: JOB_OK when all went down in good order (in the background: when all are up).
 */
int replicate_process_run(struct replicate_up_options *options);
