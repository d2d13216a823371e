/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Decides whether clients may write to a volume now. For a volume that is to be used in one of two places, and in none before it is not in the
 * other any more. Ring thread only.
 */
#pragma once

#include "block/block.h"

enum gate_mode {
	GATE_SHUT, /* everything gets -ESHUTDOWN */
	GATE_READ, /* writes get -EPERM */
	GATE_WAIT, /* writes wait, and wanted() is called with the first: for GATE_OPEN, or for one of those above */
	GATE_OPEN,    /* all may */
	GATE_DURABLE, /* and each flush is with BLOCK_DURABLE */
};

struct gate_options {
	/* From the loop. */
	void (*wanted)(void *data);
	/* No write or flush is under way any more. From the loop. */
	void (*idle)(void *data);
	void *data;
};

/* Shut. Takes `below`, also on failure. */
int gate_new(
    struct block **ret, struct block *take_below, const struct gate_options *options, struct error *error);
/* Those that wait go on, or are refused. From the loop, or from control paths. */
void gate_set(struct block *gate, enum gate_mode mode);
enum gate_mode gate_mode(const struct block *gate);
/* No write or flush is under way below. */
bool gate_is_idle(const struct block *gate);
