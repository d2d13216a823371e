/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Whether a write may go into the page cache within the call. File systems whose buffered writes cannot be told not to wait
 * (ext4) make io_uring hand each to a thread, which costs several times what the write costs. The price of writing at once is that the
 * loop waits if the write does, so it is done only while nothing hints at that. Arithmetic on times alone, embedded in its
 * owner, one thread.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#define AT_ONCE_BYTES_MAX (1u << 20)        /* a fraction of a millisecond */
#define AT_ONCE_SLOW_NS   UINT64_C(3000000) /* what takes longer than this has waited */
/*
 * So many times as long, but not longer than that, all take the long way afterwards: what waits costs the loop little of its time. A
 * processor that was busy elsewhere looks the same at first: then less, and the next ones are watched (getrusage(2)).
 */
#define AT_ONCE_REST        100u
#define AT_ONCE_REST_UNSURE 10u
#define AT_ONCE_REST_MAX_NS UINT64_C(5000000000)
#define AT_ONCE_WATCH_NS    UINT64_C(1000000000)

struct at_once {
	bool wanted;          /* set by the owner */
	unsigned long_way;    /* writes under way that others carry out */
	unsigned heavy;       /* flushes, zeros and trims under way: they lock the file, or its journal */
	uint64_t from_ns;     /* not before */
	uint64_t watch_ns;    /* until then it is watched whether they wait */
	uint64_t progress_ns; /* when the long way last gave something back, or began to have something */
};

/* Whether a write that goes through the page cache may be done now. */
bool at_once_may(const struct at_once *at_once, uint64_t length, uint64_t now_ns);
/* Whether the owner shall find out if this one waits, or only lacks a processor. */
bool at_once_watches(const struct at_once *at_once, uint64_t now_ns);
/* It was done. `waited`: 1 it did wait, 0 it did not, -1 not watched. */
void at_once_did(struct at_once *at_once, uint64_t begin_ns, uint64_t end_ns, int waited);
/* Another took the long way; and has come back. */
void at_once_long_begin(struct at_once *at_once, uint64_t now_ns);
void at_once_long_end(struct at_once *at_once, uint64_t now_ns);
