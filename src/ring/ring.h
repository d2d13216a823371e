/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One event loop: disk I/O, pipes, sockets, poll and timers, on io_uring (ring_new) or simulated (ring_sim.h).
 * Everything of a ring runs on one thread. An operation is the caller's memory and stays valid until done().
 *
 * Rules that all callers lean on:
 *  - done() runs exactly once for each submitted operation, from ring_run*() and never from within ring_submit();
 *  - ring_submit() does not fail: an error arrives in done() as -errno;
 *  - done() may submit, cancel, and free the operation that it was called for.
 */
#pragma once

#include "base/error.h"
#include "base/list.h"

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

struct ring;
struct fiber;

enum ring_opcode {
	RING_READ,      /* buf, length, offset (or RING_STREAM); res: bytes read, 0 at the end */
	RING_WRITE,     /* buf, length, offset (or RING_STREAM); res: bytes written, may be short */
	RING_WRITEV,    /* iov, iov_count, offset (or RING_STREAM); res: bytes written, may be short */
	RING_FSYNC,     /* data only, as fdatasync(2) */
	RING_FALLOCATE, /* mode as fallocate(2), offset, length */
	RING_DISCARD, /* of a block device: offset, length in whole sectors; Linux 6.12, else -EINVAL or -EOPNOTSUPP */
	/*
	 * length bytes from fd (at offset, or RING_STREAM) to fd_to, one of them a pipe, by a thread of the kernel's; res: bytes moved,
	 * may be short, 0 at the end. It waits while an empty pipe has a writer, and a full one a reader.
	 */
	RING_SPLICE,
	RING_SPLICE_TO, /* the same, from a pipe; offset is a place in fd_to */
	RING_POLL,      /* events (POLLIN...), once; res: what happened */
	RING_TIMER,     /* deadline_ns on ring_now_ns()'s clock; res: 0, or -ECANCELED */
	RING_NOP,       /* res: what ring_defer() was given */
	/* A driver's own (IORING_OP_URING_CMD): mode is its number, buf its 16 bytes, copied at submit. May wait for ever, cannot be
	 * cancelled: what is under way when the ring is freed ends then, with -ECANCELED. */
	RING_COMMAND,
};

#define RING_STREAM UINT64_MAX

struct ring_op {
	/* set by the caller */
	enum ring_opcode opcode;
	int fd, fd_to;
	uint64_t offset, length; /* bytes; READ and WRITE take at most INT32_MAX */
	void *buf;
	const struct iovec *iov;
	unsigned iov_count;
	int mode; /* FALLOCATE; COMMAND; WRITE, WRITEV: 0 or RWF_DSYNC, on stable storage when done */
	short events;
	uint64_t deadline_ns;
	void (*done)(struct ring_op *op, int res);

	/* the ring's own */
	struct list_node node;
	int result;
	bool active;
	uint64_t private_u64[2];
};

/* A ring implementation; io_uring's is in ring.c, the simulated one in ring_sim.c. */
struct ring_ops {
	void (*submit)(struct ring *ring, struct ring_op *op);
	void (*cancel)(struct ring *ring, struct ring_op *op);
	/* Waits for and delivers at least one completion. Returns 0 or -errno; -EDEADLK when nothing is under way. */
	int (*step)(struct ring *ring);
	uint64_t (*now_ns)(struct ring *ring);
	void (*linger)(struct ring *ring, uint64_t ns); /* NULL: it does not */
	void (*attend)(struct ring *ring);              /* NULL: nothing lies about */
	uint64_t (*came_ns)(struct ring *ring);         /* NULL: now */
	void (*free)(struct ring *ring);
};

/* The part of a ring that every implementation begins with. */
struct ring {
	const struct ring_ops *ops;
	bool simulated;
	struct list_node fibers; /* fiber.h: those that have not ended; next is NULL: never was one */
	struct fiber *fiber;     /* that runs now; NULL: the loop does */
};

/* Makes a ring on io_uring with `entries` (a power of two, 8..4096) submission entries. */
int ring_new(struct ring **ret, unsigned entries, struct error *error);
/*
 * No operation may be under way, but for RING_COMMAND: these get -ECANCELED. From Linux 6.1 on the kernel keeps them, and what it needs
 * of the ring, until the process ends; before, it takes them back now. Takes NULL; returns NULL.
 */
struct ring *ring_free(struct ring *ring);

void ring_submit(struct ring *ring, struct ring_op *op);
/* Asks an active operation to end soon; done() still runs once: with -ECANCELED, or its result if that was first. */
void ring_cancel(struct ring *ring, struct ring_op *op);
/* Completes an operation with `res` from the loop: for drivers that know the answer at once. */
void ring_defer(struct ring *ring, struct ring_op *op, int res);
/* Waits for and delivers at least one completion. 0, or -errno if the loop itself broke. In a fiber: lets the loop do so. */
int ring_step(struct ring *ring);
/* Runs until *until is true. Returns 0, or -errno if the loop itself broke. May be nested for control-path waits. */
int ring_run_until(struct ring *ring, const bool *until);
/* Runs one operation to its end and returns its result: for control paths only. Sets op->done. */
int ring_wait(struct ring *ring, struct ring_op *op);
/*
 * Waits until something is so of a descriptor (POLLIN...), at most so long: for control paths only. What happened, 0 when the time is
 * over, or -errno. A negative descriptor only takes the time.
 */
int ring_wait_fd(struct ring *ring, int fd, short events, uint64_t timeout_ms);
/*
 * The next time that the loop has to wait, and nothing is under way but reads from streams, polls and timers, it sleeps for `ns` even
 * if something comes, so that more comes together: for an owner who expects much and knows that nobody is in a hurry. 0 takes it
 * back. Nothing happens where that would not save anything.
 */
void ring_linger(struct ring *ring, uint64_t ns);
/*
 * From now on the loop notes since when what it finds may have lain there while it did other things: for those who want to know what
 * others feel. Costs another call to the kernel before each wait.
 */
void ring_attend(struct ring *ring);
/* When what is delivered now may have come at the earliest; on ring_now_ns()'s clock, and that itself while nobody attends. */
uint64_t ring_came_ns(struct ring *ring);
/* Monotonic nanoseconds; simulated in a simulation. */
uint64_t ring_now_ns(struct ring *ring);
