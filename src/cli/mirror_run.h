/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The mirrors of one process: cmd_mirror.c (its life), mirror_life.c (the life of one of them), mirror_legs.c (its legs), mirror_prepare.c
 * (before both), mirror_control.c (control sockets), mirror_status.c (what they tell), mirror_device.c (block devices), mirror_pace.c (rates), mirror_receipt.c (what was
 * switched), mirror_words.c (what they say), mirror_bar.c (what is shown of them in the foreground). They share a ring, a server with an
 * export each, and a budget; each runs in a fiber of its own, so that none waits for another.
 */
#pragma once

#include "cli/control.h"
#include "cli/mirror_bar.h"
#include "cli/mirror_files.h"
#include "cli/mirror_options.h"
#include "cli/mirror_trust.h"
#include "cli/signals.h"
#include "ring/fiber.h"
#include "ring/ticker.h"

#include <jansson.h>

enum mirror_order_state { MIRROR_ORDER_RUNNING, MIRROR_ORDER_DONE, MIRROR_ORDER_FAILED };

struct mirror_pace {
	uint64_t look_ns, done, dirty; /* at the last look; bytes */
	double sync_rate, dirty_rate;  /* bytes per second, smoothed */
};

struct mirror_run {
	struct mirror_process *process;
	struct mirror_command command;
	const char *name, *export;     /* of the mirror, and under which clients find it */
	bool created;                  /* its folder has become a mirror's by this run */
	uint64_t size;                 /* of the source, bytes; 0: not opened yet */
	uint64_t target_size;          /* of all of the target, when the mirror began; 0: not known */
	struct block_info source_info; /* as it was then */
	struct block_facts source_facts;
	json_t *points; /* what earlier runs noted of the target, and if nothing, why */
	struct error points_doubt;
	struct digest_key
	    digest_key; /* what is compared, is with this one: that of saved digests, or a random one */
	struct mirror_files files;
	json_t *uris; /* where clients reach it */
	struct control *control;
	struct mirror_job *job;
	struct fiber *fiber;
	struct mirror_pace pace;
	bool ended;         /* it has come to its end, and not only been stopped */
	bool marked;        /* the files say that a cutover was ordered */
	bool opened_target; /* once, and judged */
	/* A cutover is to be ordered by itself, unless given up; it was. */
	bool plans, planned;
	bool without_map;     /* resumed, and there is none */
	json_t *judged;       /* the legs that an earlier start judged; NULL: it came to none */
	char warning[512];    /* the last one */
	bool have_pause;      /* a switch has happened */
	char no_receipt[512]; /* why the last one has no receipt; "" */
	uint64_t deferred;    /* switches that were put off, as far as they were told */
	int res;              /* of its life: 0 or -errno, with words in error */
	struct error error;

	struct {
		uint64_t number;
		const char *name; /* NULL: none yet */
		enum cutover_state goal;
		enum mirror_order_state state;
		uint64_t deferred_before; /* mirror_job_status.cutovers_deferred when it was given */
		char error[512];
		/* Why it was put off last; of one that is done, what of it could not be. For who gave it. */
		char warning[512];
	} order;
};

struct mirror_process {
	struct mirror_run *mirrors;
	unsigned count;
	/* What holds for all: the words before the first --and. The first mirror's, or of one that is not resumed now. */
	struct mirror_command *shared, *shared_own;
	bool idle;  /* nothing is to run: one was forgotten */
	bool named; /* exports have the mirrors' names */
	json_t *words;
	char ***argvs; /* arrays that commands borrow from */
	unsigned argvs_count;

	struct ring *ring;
	struct signals *signals;
	struct nbd_server *server;
	struct budget budget;
	struct governor_options governor; /* of all */
	struct ticker ticker;
	struct mirror_bar bar;
	unsigned ticks, clients, running; /* running: mirrors whose lives have not ended */
	uint64_t alone_since_ns;          /* no client since then */
	uint64_t stopped_ns;              /* when it was told to stop */
	bool stopping, over;
	bool removing; /* devices that nobody uses */
	bool told;     /* that a device is in use: the next signal leaves it behind */
};

/*
 * mirror_prepare.c: parses the words, opens the folders, and for resumed mirrors parses their words again. 0, an exit code after
 * printing what is wrong, or -EEXIST, -ENOENT, -EALREADY and others with words. mirror_process_done() in any case.
 */
int mirror_prepare(struct mirror_process *process, int argc, char **argv, struct error *error);
void mirror_process_done(struct mirror_process *process);

/* mirror_legs.c */
/* For mirror_job_options. The first open judges the leg, and the later ones whether it is the same one. */
int mirror_leg_open(void *run, enum mirror_leg_index leg, struct block **ret, struct error *error);

/* mirror_life.c */
/* Opens legs and map. */
int mirror_open(struct mirror_run *run, struct error *error);
/* Lets it live, until it ends or is stopped: process->running counts. */
int mirror_begin(struct mirror_run *run, struct error *error);
/* It has ended, or ends now: nobody waits for a leg that is away any more. Runs the ring. */
void mirror_end_life(struct mirror_run *run);
void mirror_close(struct mirror_run *run);
/* Every so often. */
void mirror_tick(struct mirror_run *run);
/* A cutover that was to be ordered by itself is not any more, also after a resume. */
int mirror_drop_plan(struct mirror_run *run, struct error *error);
/* Somebody lets it go on: --paused counts no more, also after a resume. */
int mirror_note_unpaused(struct mirror_run *run, struct error *error);
/* Keeps what of its words is still to be done. */
int mirror_save_pending(struct mirror_run *run, struct error *error);

/* mirror_words.c */
void mirror_warn(void *run, const char *text);
void mirror_say_state(void *run, enum cutover_state state);
void mirror_say_json(const struct mirror_run *run, json_t *take_json);
/* "vm1: " where it is not clear whom words are about, else "": in `buf`. */
const char *mirror_whose(const struct mirror_run *run, char *buf, size_t length);

/* mirror_device.c: the devices of those mirrors that have one. */
int mirror_devices_open(struct mirror_process *process, struct error *error);
/* Removes them. -EBUSY with words when one is in use, or while that is being looked at. Runs the ring. */
int mirror_devices_stop(struct mirror_process *process, struct error *error);
/* Whether a signal may end the process: the first may not while a device is in use, and is told so; the second leaves it behind. */
bool mirror_devices_may_stop(struct mirror_process *process);
void mirror_devices_free(struct mirror_process *process);

/* mirror_pace.c: called every so often. */
void mirror_pace_look(struct mirror_run *run);

/* mirror_receipt.c */
/* What was switched just now, when, and how long clients waited. */
void mirror_receipt_write(void *run);
/* Whether the last switch has one: it has not when its process ended with it. Then it gets one with what the map says. */
void mirror_receipt_look(struct mirror_run *run);
/* The same before the map of one that does not run is forgotten: what is left is to say which leg is the newer one. 0 or -errno with words. */
int mirror_receipt_keep(struct mirror_run *run, struct error *error);

/* mirror_status.c */
json_t *mirror_status_json(struct mirror_run *run);

/* mirror_control.c */
json_t *mirror_answer(void *data, const json_t *request);
/* Gives the order that has this goal; 0 or -errno with words. */
int mirror_order(struct mirror_run *run, enum cutover_state goal, struct error *error);
/* The last one, and what became of it; null: none. */
json_t *mirror_order_json(const struct mirror_run *run, const struct mirror_job_status *status);
/* Whether the order has come to its end. */
void mirror_order_look(struct mirror_run *run);
