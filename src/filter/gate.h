/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Decides whether clients may write to a volume now. For a volume that is to be used in one of two places, and in none before it is not in the
 * other any more. And, with `keeps`, where they do that when the volume below fails: what was asked of it and has no answer can be kept, and
 * asked of another volume that holds the same. Ring thread only.
 */
#pragma once

#include "block/block.h"

enum gate_mode {
	GATE_SHUT, /* everything gets -ESHUTDOWN */
	GATE_READ, /* writes get -EPERM; each flush is with BLOCK_DURABLE: what was written before may be on its way */
	GATE_WAIT, /* writes wait, and wanted() is called with the first: for GATE_OPEN, or for one of those above */
	GATE_OPEN,    /* all may */
	GATE_DURABLE, /* and each flush is with BLOCK_DURABLE */
};

struct gate_options {
	/* From the loop. */
	void (*wanted)(void *data);
	/* No write or flush is under way any more. From the loop. */
	void (*idle)(void *data);
	bool keeps; /* gate_keep() is possible */
	/* The other volume failed a request, whose client is told so. From the loop. May be NULL. */
	void (*astray)(void *data, int res);
	void *data;
};

/* Shut. Takes `below`, also on failure. */
int gate_new(
    struct block **ret, struct block *take_below, const struct gate_options *options, struct error *error);
/* Those that wait go on, or are refused. From the loop, or from control paths. */
void gate_set(struct block *gate, enum gate_mode mode);
enum gate_mode gate_mode(const struct block *gate);
/*
 * With `keeps`: what comes, and what the volume below fails or has read, waits from now on for gate_divert(); it is refused by GATE_SHUT.
 */
void gate_keep(struct block *gate);
/*
 * What waits, what comes, and what comes back from below without success, goes to `elsewhere`, which the gate borrows; NULL: it goes below, but
 * for what that has failed, which is answered.
 */
void gate_divert(struct block *gate, struct block *elsewhere);
/* No write or flush is under way. What is kept is not. */
bool gate_is_idle(const struct block *gate);
