/* SPDX-License-Identifier: GPL-2.0-or-later */
/* One running mirror: cmd_mirror.c (its life), mirror_prepare.c (before it), mirror_control.c (its control socket), mirror_pace.c (rates). */
#pragma once

#include "cli/control.h"
#include "cli/mirror_files.h"
#include "cli/mirror_options.h"
#include "cli/signals.h"
#include "ring/ticker.h"

#include <jansson.h>

enum mirror_order_state { MIRROR_ORDER_RUNNING, MIRROR_ORDER_DONE, MIRROR_ORDER_FAILED };

struct mirror_pace {
	uint64_t look_ns, done, dirty; /* at the last look; bytes */
	double sync_rate, dirty_rate;  /* bytes per second, smoothed */
};

struct mirror_run {
	struct mirror_command *command;
	char **words; /* the command line of a resumed one */
	const char *name;
	bool foreground;
	unsigned ticks;
	uint64_t size;                 /* of the source, bytes; 0: not opened yet */
	struct block_info source_info; /* as it was then */
	struct block_facts source_facts;
	struct mirror_files files;
	struct ring *ring;
	struct signals *signals;
	struct control *control;
	struct nbd_server *server;
	struct mirror_job *job;
	struct ticker ticker;
	struct mirror_pace pace;
	unsigned clients;
	uint64_t alone_since_ns; /* no client since then */
	bool stopping, ended;
	bool marked;        /* the files say that a cutover was ordered */
	bool opened_target; /* once, and judged */
	char warning[512];  /* the last one */
	bool have_pause;    /* a switch has happened */

	struct {
		uint64_t number;
		const char *name; /* NULL: none yet */
		enum cutover_state goal;
		enum mirror_order_state state;
		char error[512];
	} order;
};

/*
 * mirror_prepare.c: opens the folder, and for a resumed mirror parses its words again; *words keeps them. -EEXIST, -ENOENT, -EALREADY
 * and others with words.
 */
int mirror_prepare(struct mirror_run *run, int argc, char **argv, json_t **words, struct error *error);

/* mirror_pace.c: called every so often. */
void mirror_pace_look(struct mirror_run *run);

/* mirror_control.c */
json_t *mirror_answer(void *data, const json_t *request);
json_t *mirror_status_json(struct mirror_run *run);
/* Gives an order; 0 or -errno with words. */
int mirror_order(struct mirror_run *run, const char *name, struct error *error);
/* Whether the order has come to its end. */
void mirror_order_look(struct mirror_run *run);
