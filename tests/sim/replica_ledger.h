/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What the disks of two replicas must hold. Every write has a number, which its sectors carry. For each node there is a line: the writes
 * that its disk has, as far as that was acknowledged; and from it, for each sector, the write that must be seen there (`top`), that
 * must be there after a loss of power (`lasting`), that its process has promised (`memory`). docs/replication.md says what each mode
 * promises after which failure; replica_promises.c is where that is spelled out. Generations are known here as a tree, so that it can be
 * said whose past has what.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#define LEDGER_NODES   2u
#define LEDGER_SECTOR  512u
#define LEDGER_SECTORS 1024u /* of a disk, at most */
#define LEDGER_WRITES  4096u
#define LEDGER_GENS    512u
#define LEDGER_SPAN    32u        /* sectors of a write, at most */
#define LEDGER_NOTHING UINT32_MAX /* a sector that nobody wrote so */

struct ledger_write {
	uint32_t first, count; /* sectors */
	uint64_t gen;          /* under which it was acknowledged; 0: it was not, or before all */
	uint32_t born;         /* so many flushes had ended when it was submitted */
	uint32_t cover
	    [LEDGER_NODES]; /* the flush that made it last, as that node's disk is to keep it; 0: none did */
	uint8_t node;
	bool zero, acknowledged;
};

/* Writes, as bits. */
struct ledger_set {
	uint64_t words[LEDGER_WRITES / 64];
};

struct ledger_node {
	struct ledger_set line;
	uint32_t top[LEDGER_SECTORS], lasting[LEDGER_SECTORS], memory[LEDGER_SECTORS];
};

struct ledger_gen {
	uint64_t name, parent;
};

struct ledger {
	unsigned sectors; /* of the larger disk */
	struct ledger_node nodes[LEDGER_NODES];
	struct ledger_write writes[LEDGER_WRITES];
	uint32_t writes_count;              /* the first is none */
	uint32_t flushes_count;             /* that have ended */
	uint64_t flush_gens[LEDGER_WRITES]; /* of the node, when a flush ended there */
	struct ledger_gen gens[LEDGER_GENS];
	unsigned gens_count;
};

/* Node `i` begins with the write 1 + i all over. */
void ledger_init(struct ledger *ledger, unsigned sectors);
/* The node's disk gets more at its end, which nobody counts on: the number that these have as a write of nobody's; 0: there is no room. */
uint32_t ledger_enlarge(struct ledger *ledger, unsigned node, uint32_t first, uint32_t count);
void ledger_fill(uint8_t *data, uint32_t number, uint32_t first, uint32_t count, bool zero);

/* The number of the new write; 0: there is no room. */
uint32_t ledger_submit(struct ledger *ledger, unsigned node, uint32_t first, uint32_t count, bool zero);
/* A write is in a node's line from now on. */
void ledger_add(struct ledger *ledger, unsigned node, uint32_t number);
bool ledger_has(const struct ledger *ledger, unsigned node, uint32_t number);
/* A flush has ended at a node of that generation: its number. */
uint32_t ledger_flushed(struct ledger *ledger, uint64_t gen);
/* What of `set` is in the node's line lasts there since that flush. */
void ledger_cover(struct ledger *ledger, unsigned node, const struct ledger_set *set, uint32_t flush);

/* A generation that begins. Parent 0: it has none. */
void ledger_begin_gen(struct ledger *ledger, uint64_t name, uint64_t parent);
/* `gen` is `of`, or one of those that it came from. */
bool ledger_is_within(const struct ledger *ledger, uint64_t gen, uint64_t of);
/* The node has what the other had of that generation and its past; nothing is said of `top` and the others. */
void ledger_follow(struct ledger *ledger, unsigned node, unsigned other, uint64_t gen);

/* The last write of its line for each sector; those that a flush has made last alone. */
void ledger_last(const struct ledger *ledger, unsigned node, bool covered, uint32_t *ret);

/* Which write a sector is of, or each of a disk of so many; 0 behind its end. */
uint32_t ledger_stamp(const struct ledger *ledger, const uint8_t *sector, uint32_t index);
void ledger_scan(const struct ledger *ledger, const uint8_t *data, uint32_t sectors, uint32_t *ret_seen);
/* The node goes on from what it sees: what is not there is nobody's loss any more. `lasts`: it is stable, too. */
void ledger_go_on(struct ledger *ledger, unsigned node, const uint32_t *seen, bool lasts);
/* The node may have no more than that: it gets another's data, which lost some. */
void ledger_lower(struct ledger *ledger, unsigned node, const uint32_t *seen);
/* The first sector that does not have what is due, or ->sectors. */
uint32_t ledger_missing(const struct ledger *ledger, const uint32_t *seen, const uint32_t *due);
/*
 * Whatever is there that was submitted after a flush had ended, all that the flush had made last is. The first sector where that is not
 * so, and the write that ought to be there; or ->sectors.
 */
uint32_t ledger_disorder(const struct ledger *ledger, unsigned node, const uint32_t *seen, uint32_t *ret_due);
