/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One seed's world: two disks and a journal that outlive every crash, the client's host on which the real job
 * runs, agents on hosts of their own, the faults, and the checks. A failed check is told once, and the seed
 * has failed.
 */
#pragma once

#include "export/agent_server.h"
#include "sim_story.h"
#include "sync/job.h"
#include "volume.h"

#define WORLD_FAULTS_MAX 6

enum place { PLACE_LOCAL, PLACE_REMOTE };

enum fault_what {
	FAULT_KILL_CLIENT, /* SIGKILL */
	FAULT_CUT_CLIENT,  /* power of the client's machine, with its journal and the local disks */
	FAULT_KILL_AGENT,
	FAULT_CUT_AGENT, /* power of the remote machine, with its disks */
	FAULT_LINK_RESET,
	FAULT_LINK_EOF,
	FAULT_LINK_STALL,
	FAULT_CUT_TARGET, /* power of the target disk alone */
	FAULT_BAD_SOURCE, /* a range that cannot be read */
	FAULT_BAD_TARGET, /* a range that cannot be written */
	FAULT_BAD_TARGET_READ,
	FAULT_FULL_TARGET,
	FAULT_FULL_JOURNAL,
	FAULT_EIO,   /* every disk now and then */
	FAULT_FSYNC, /* flushes of every disk fail now and then */
	FAULT_SLOW,
	FAULT_CANCEL, /* SIGINT */
	FAULT_PAUSE,
	FAULT_RATE,
	FAULTS,
};

struct world;

struct fault {
	struct world *world;
	enum fault_what what;
	uint64_t step;
};

/* What a seed decides. */
struct scenario {
	enum job_kind kind;
	enum place source, target;
	uint64_t source_size, target_size;
	uint32_t sector_size;
	bool verify, detect_zeroes, ignore_holes, list_read_errors, device, direct;
	bool target_exists; /* else the job makes it */
	uint64_t hole_seed;
	uint32_t short_ppm;
	unsigned attempts;   /* with faults, before the one without */
	unsigned faults_max; /* in one attempt */
	uint64_t step_max;   /* faults strike before this step of an attempt */
	uint64_t checkpoint_ns;
};

struct agent;

struct world {
	uint64_t seed;
	struct scenario scenario;
	enum plant plant;
	struct sim_story story;
	/* Instead of what the seed chooses: one attempt with one fault, at this step of it. */
	bool forced;
	enum fault_what forced_what;
	uint64_t forced_step;
	struct ring_sim *sim;

	/* disks: buffered and direct descriptors */
	int source_fd, source_direct, target_fd, target_direct, journal_fd;
	uint8_t *source_data;           /* what the source must hold, always */
	uint8_t *target_before;         /* what the target held */
	uint64_t generation;            /* of the source */
	uint64_t target_generation;     /* grows when a stranger writes to the target */
	uint64_t sessions;              /* jobs begun */
	uint64_t note, note_generation; /* the agents': who wrote to the target last; 0: none */
	bool target_made, target_touched;
	bool journal_exists;
	uint64_t journal_generation; /* of the source when the journal was begun */
	uint64_t journal_writes_seen, journal_nonce_seen, journal_records_seen;

	/* one attempt */
	struct ring *client;
	struct job *job;
	struct fault faults[WORLD_FAULTS_MAX];
	unsigned faults_count;
	bool target_connected; /* by this attempt, once */
	bool last_attempt, crashed, cancelled, completed;
	unsigned struck;         /* faults that did strike, ever */
	uint64_t position;       /* of the progress, must not go back */
	struct list_node agents; /* remote.c */
	struct agent_notes notes;
	uint64_t boot_ns; /* the remote machine answers from then on */
};

/* world.c */
void world_init(struct world *world, uint64_t seed, enum plant plant, bool verbose);
void world_done(struct world *world);
/* Runs the seed to its end; true when all held. */
bool world_run(struct world *world);
#define world_fail(world, ...) sim_fail(&(world)->story, __VA_ARGS__)
#define world_say(world, ...)  sim_say(&(world)->story, __VA_ARGS__)
/* Opens one of the disks on a host. */
int world_open_disk(
    struct world *world, struct ring *ring, bool target, bool write, struct block **ret, struct error *error);

/* scenario.c */
void scenario_init(struct scenario *scenario, struct rand *rand);
void world_make_disks(struct world *world);
/* Another content of the source between two attempts. */
void world_change_source(struct world *world);

/* faults.c */
const char *fault_name(enum fault_what what);
void world_plan_faults(struct world *world);
/* Ends the effects of all faults: repaired disks, power, room. */
void world_repair(struct world *world);

/* check.c */
void check_step(struct world *world);
/* At `completed`. */
void check_completed(struct world *world);
void check_content(struct world *world);
/* After an attempt, with nothing running. */
void check_attempt(struct world *world, enum job_result result, const struct error *error);

/* remote.c */
bool remote_is_available(void);
int remote_connect(struct world *world, bool target, const struct block_open_options *options,
    struct block **ret, struct error *error);
/* Lets all agents come to their end, and frees them. */
void remote_end(struct world *world);
void remote_break(struct world *world, enum ring_sim_break how);
void remote_kill(struct world *world, enum ring_sim_kill how);
