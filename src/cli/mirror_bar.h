/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What a mirror in the foreground shows on standard error: on a terminal its status, drawn again in place, else a line at intervals.
 * Whoever else writes there clears it first; it is drawn again with the next tick.
 */
#pragma once

#include <stdint.h>

struct mirror_process;

struct mirror_bar {
	unsigned rows;    /* of the terminal, that are drawn now */
	uint64_t next_ns; /* when lines are due */
};

/* Nothing happens when none is drawn. */
void mirror_bar_clear(struct mirror_bar *bar);
/* A line for each, below what is drawn. */
void mirror_bar_print(struct mirror_process *process);
/* Draws, or prints what is due. */
void mirror_bar_show(struct mirror_process *process);
