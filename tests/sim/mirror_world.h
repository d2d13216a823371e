/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * One seed's world for a live mirror: three disks (source, target, map) that outlive every crash, a host on which the real mirror
 * runs, clients that read and write all the time, faults and orders, and the checks. It goes from life to life, each begun from the
 * map that the last one left; the last has no faults and must come to its end.
 */
#pragma once

#include "base/plant.h"
#include "mirror_model.h"
#include "ring/ring_sim.h"
#include "sim_story.h"
#include "sync/mirror_job.h"

#define MIRROR_CLIENTS_MAX 8u
#define MIRROR_IO_MAX      (256u << 10)
#define MIRROR_LARGE       80u /* one seed in so many has requests as long as those of the field */

struct mirror_world;

struct mirror_client {
	struct mirror_world *world;
	struct block_io io;
	uint8_t *buf;
	bool busy;
	uint64_t first, count; /* sectors */
	uint64_t began, start_ns, losses, links_lost;
};

/* What a seed decides. */
struct mirror_scenario {
	uint64_t sectors;
	uint32_t region_size, records;
	unsigned clients, lives;
	enum mirror_copy_mode copy_mode;
	struct governor_options governor;
	bool large;
	uint64_t io_max;     /* sectors */
	uint64_t stable_max; /* bytes; 0: more than they ever have under way */
	uint32_t idle;       /* a client that is idle begins something once in so many steps */
	bool late_wait, compare, verify;
	uint64_t tail;         /* bytes of the target behind the mirror's */
	bool sparse;           /* long ranges were never written; the legs tell of their holes */
	bool far[MIRROR_LEGS]; /* on a machine of its own */
	uint64_t source_timeout_ns;
};

/* The machine of a leg. */
struct mirror_far {
	uint64_t boots;
	uint64_t boot_ns; /* it answers from then on */
	bool down;        /* started anew, and not reached since */
};

enum mirror_fault {
	MFAULT_FOLLOWER_EIO,
	MFAULT_FOLLOWER_FSYNC,
	MFAULT_FOLLOWER_STUCK,
	MFAULT_FOLLOWER_CUT,
	MFAULT_FOLLOWER_FULL,
	MFAULT_AUTHORITATIVE_EIO,
	MFAULT_AUTHORITATIVE_FSYNC,
	MFAULT_FOLLOWER_LINK,
	MFAULT_FOLLOWER_AGENT,
	MFAULT_FOLLOWER_MACHINE,
	MFAULT_AUTHORITATIVE_LINK,
	MFAULT_AUTHORITATIVE_AGENT,
	MFAULT_AUTHORITATIVE_MACHINE,
	MFAULT_SLOW,
	MFAULT_MAP_EIO,
	MFAULT_PAUSE,
	MFAULTS,
};

/* Verifications on demand. */
struct mirror_scrub {
	bool plants;       /* one bit is to flip in the last life, and has not been mended */
	uint64_t planted;  /* the sector; UINT64_MAX: none */
	bool told;         /* it was found */
	uint64_t position; /* bytes: where the last pass came to */
	uint64_t passes, found, marked;
};

struct mirror_world {
	uint64_t seed;
	struct sim_story story;
	uint64_t watch; /* a sector whose requests are told */
	/* Instead of what the seed chooses: one crash, so many steps after a switch began in the first life; then the last. */
	bool forced, forced_power, forced_revert, struck;
	uint64_t forced_steps;
	struct mirror_scenario scenario;
	struct ring_sim *sim;
	int fds[MIRROR_LEGS], map_fd;
	struct mirror_far far[MIRROR_LEGS];
	struct list_node agents; /* mirror_far.c */
	struct model *model;
	struct mirror_client clients[MIRROR_CLIENTS_MAX];
	struct mirror_scrub scrub;

	/* one life */
	struct ring *host;
	struct mirror_job *job;
	bool map_exists, last_life, serving, crashed, power_cut, quiet, ended;
	bool follower_off;
	bool leader_cut;      /* its machine was started anew, and what it lost is not made good yet */
	uint64_t eio_ns;      /* until then a leg failed now and then */
	uint64_t losses;      /* flushes of the authoritative leg that failed */
	uint64_t losses_told; /* of these, up to here some client knows */
	uint64_t begun_step, end_step, repair_step, fault_step;
	unsigned in_flight, life;
	unsigned switches; /* in the last life */
	enum cutover_state state;

	uint64_t same, holes; /* bytes found equal, and those that had to be copied and were holes */
	uint64_t requests, acknowledged, faults, cutovers, reverts, ready;
	uint64_t receipts;                    /* switches of which the digests are known */
	uint64_t told_nonce, told_generation; /* the last switch that there is a receipt of */
	uint64_t links_lost, restored, refused;
};

/* mirror_world.c */
void mirror_world_init(struct mirror_world *world, uint64_t seed, bool verbose, uint64_t watch);
bool mirror_world_run(struct mirror_world *world);
void mirror_world_done(struct mirror_world *world);
/* The life under way ends soon. */
void mirror_world_stop(struct mirror_world *world);
#define mirror_world_fail(world, ...) (sim_fail(&(world)->story, __VA_ARGS__), mirror_world_stop(world))
#define mirror_world_say(world, ...)  sim_say(&(world)->story, __VA_ARGS__)

/* A leg's disk as a volume, on whatever host. */
int mirror_world_volume(struct mirror_world *world, struct ring *host, enum mirror_leg_index leg,
    struct block **ret, struct error *error);

/* mirror_invariant.c */
/* Of a write that was acknowledged just now, and of all that the legs hold: what the map would say after a loss of power. */
void mirror_world_check_map(struct mirror_world *world, const struct mirror_client *client);

/* mirror_scrub.c */
void mirror_scrub_step(struct mirror_world *world);
/* The mirror is not to come to its end yet. */
bool mirror_scrub_waits(const struct mirror_world *world);

/* mirror_far.c */
int mirror_far_open(
    struct mirror_world *world, enum mirror_leg_index leg, struct block **ret, struct error *error);
void mirror_far_break(struct mirror_world *world, enum mirror_leg_index leg);
void mirror_far_kill(struct mirror_world *world, enum mirror_leg_index leg, enum ring_sim_kill how);
/* Lets all agents come to their end. */
void mirror_far_end(struct mirror_world *world);

/* mirror_clients.c */
void mirror_clients_init(struct mirror_world *world);
void mirror_clients_done(struct mirror_world *world);
/* Between two steps: those that are idle may begin something. */
void mirror_clients_step(struct mirror_world *world);
/* What the leg holds is what clients may read; with nothing under way. */
void mirror_clients_check_leg(struct mirror_world *world, enum mirror_leg_index leg);

/* mirror_faults.c */
void mirror_faults_step(struct mirror_world *world);
void mirror_faults_repair(struct mirror_world *world);
void mirror_faults_crash(struct mirror_world *world, bool power_cut);
