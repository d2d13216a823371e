/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A simulated world: hosts (each a struct ring that real code runs on), disks and links, under simulated time
 * and one seeded generator. The same seed and the same calls give the identical run: ring_sim_trace() hashes
 * all that happened.
 *
 * Disks and links are fake descriptors (>= RING_SIM_FD) for ring_op.fd. They belong to the world and survive
 * the hosts, so a crash is: ring_sim_kill(host); run the host's ring until its code is torn down;
 * ring_free(host); perhaps ring_sim_power_cut(disk) and ring_sim_power_on(disk); ring_sim_host_new() and
 * start again.
 *
 * Running any host's ring moves the whole world. All on one thread. Out of memory ends the process: this is
 * for tests.
 */
#pragma once

#include "base/rand.h"
#include "ring/ring.h"

#include <stddef.h>

#define RING_SIM_FD (1 << 24)

struct ring_sim;

/* steps_max: more events than this and ring_step() returns -ELOOP, so that a livelock ends; 0: ten million.
 */
struct ring_sim *ring_sim_new(uint64_t seed, uint64_t steps_max);
/* All hosts must have been freed. Takes NULL; returns NULL. */
struct ring_sim *ring_sim_free(struct ring_sim *sim);
/* The one generator; tests may draw from it too. */
struct rand *ring_sim_rand(struct ring_sim *sim);
uint64_t ring_sim_now_ns(const struct ring_sim *sim);
uint64_t ring_sim_steps(const struct ring_sim *sim);
/* A hash of every completion so far: time, operation, place, result, and bytes moved. */
uint64_t ring_sim_trace(const struct ring_sim *sim);
/* Delivers one event of any host. 0, -EDEADLK when nothing will ever happen again, -ELOOP beyond steps_max.
 */
int ring_sim_step(struct ring_sim *sim);
/* The first error that ring_sim_step() gave, or 0: what ran may have swallowed it. */
int ring_sim_error(const struct ring_sim *sim);

/* Called between events: after each one (one such function; NULL: none), before event `step`, or in `ns` from
 * now. */
typedef void ring_sim_hook(void *data);
void ring_sim_on_step(struct ring_sim *sim, ring_sim_hook *hook, void *data);
void ring_sim_at_step(struct ring_sim *sim, uint64_t step, ring_sim_hook *hook, void *data);
/* Takes back what ring_sim_at_step() has not called yet. */
void ring_sim_forget_steps(struct ring_sim *sim);
void ring_sim_after(struct ring_sim *sim, uint64_t ns, ring_sim_hook *hook, void *data);

/* A host. Release it with ring_free() once nothing is under way on it. */
struct ring *ring_sim_host_new(struct ring_sim *sim, const char *name);

enum ring_sim_kill {
	RING_SIM_KILL_PROCESS, /* SIGKILL: what was in flight may still reach the disk, links close */
	RING_SIM_KILL_MACHINE, /* links fall silent; cut the power of its disks too */
};
/*
 * From now on every operation of the host, pending and new, ends with -ECANCELED and without effect, but that
 * each disk write in flight is applied, torn or dropped at random, now. Not from within a done().
 */
void ring_sim_kill(struct ring *host, enum ring_sim_kill how);
bool ring_sim_killed(const struct ring *host);

/* Disks */

struct ring_sim_disk_options {
	uint64_t size;
	uint64_t size_max;                       /* writes may grow it to this; 0: `size`, it cannot grow */
	uint32_t sector_size;                    /* what is written whole or not at all; 0: 512 */
	uint64_t latency_min_ns, latency_max_ns; /* 0: 20 and 200 us; a flush takes four times that */
	uint32_t slow_ppm;                       /* so many operations of a million take slow_ns */
	uint64_t slow_ns;
	uint32_t short_ppm; /* reads and writes that move less than was asked */
	uint32_t read_error_ppm, write_error_ppm, fsync_error_ppm; /* -EIO out of the blue */
	bool no_fallocate;                                         /* fallocate gives -EOPNOTSUPP */
};

struct ring_sim_disk_counts {
	uint64_t reads, writes, flushes, flushes_failed, bytes_read, bytes_written;
	uint64_t read_outside, write_outside; /* requests that began or ended beyond what the disk can be */
	uint64_t misaligned;     /* requests through a direct descriptor that broke its alignment */
	uint64_t buffer_changed; /* writes whose memory changed while they were in flight */
};

/* Returns a descriptor. */
int ring_sim_disk_new(struct ring_sim *sim, const struct ring_sim_disk_options *options);
/* A second descriptor of the same disk that wants offsets, lengths and memory aligned, as O_DIRECT does. */
int ring_sim_disk_direct(struct ring_sim *sim, int fd, uint32_t align);
/* Options may change at any time, but for the sizes. */
struct ring_sim_disk_options *ring_sim_disk_options(struct ring_sim *sim, int fd);
const struct ring_sim_disk_counts *ring_sim_disk_counts(struct ring_sim *sim, int fd);
/* What a reader sees, *ret_size bytes; valid until the world moves. May be changed to prepare a test: see
 * _settle(). */
uint8_t *ring_sim_disk_data(struct ring_sim *sim, int fd, uint64_t *ret_size);
/* What would surely survive a power cut now. */
const uint8_t *ring_sim_disk_stable(struct ring_sim *sim, int fd, uint64_t *ret_size);
/* Makes all that readers see stable. */
void ring_sim_disk_settle(struct ring_sim *sim, int fd);
/* Its end gets so many bytes more, stable at once. What is not flushed yet stays so. */
void ring_sim_disk_enlarge(struct ring_sim *sim, int fd, const uint8_t *data, uint64_t length);
/* Sets the size, as ftruncate(2), stable at once. */
void ring_sim_disk_resize(struct ring_sim *sim, int fd, uint64_t size);
enum ring_sim_bad {
	RING_SIM_BAD_READ,  /* a latent error: -EIO until it is written */
	RING_SIM_BAD_WRITE, /* -EIO for good */
};
void ring_sim_disk_bad(
    struct ring_sim *sim, int fd, enum ring_sim_bad what, uint64_t offset, uint64_t length);
/* Forgets all bad ranges. */
void ring_sim_disk_heal(struct ring_sim *sim, int fd);
/* After so many more bytes written: -ENOSPC. UINT64_MAX: never. */
void ring_sim_disk_space(struct ring_sim *sim, int fd, uint64_t bytes);
/*
 * Every unflushed write is kept, lost or torn (sector by sector) at random; operations in flight end with
 * -EIO, as do all others until ring_sim_power_on().
 */
void ring_sim_power_cut(struct ring_sim *sim, int fd);
void ring_sim_power_on(struct ring_sim *sim, int fd);

/* Links: a pair of connected, duplex stream descriptors. */

struct ring_sim_link_options {
	uint64_t delay_ns;         /* one way; 0: 50 us */
	uint64_t jitter_ns;        /* added at random; order is kept */
	uint64_t bytes_per_second; /* 0: no limit */
	uint32_t capacity;         /* bytes under way in one direction before writers wait; 0: 65536 */
	uint32_t short_ppm;        /* reads and writes that move less than was possible */
};

enum ring_sim_break {
	RING_SIM_BREAK_RESET, /* -ECONNRESET on both sides, what was under way is lost */
	RING_SIM_BREAK_EOF,   /* the end on both sides, in the midst of what was under way */
	RING_SIM_BREAK_STALL, /* silence: nothing arrives any more, nothing fails */
};

/* `a` and `b` are the hosts of the ends (may be the same): when one is killed, its end closes or falls
 * silent. */
void ring_sim_link_new(struct ring_sim *sim, struct ring *a, struct ring *b,
    const struct ring_sim_link_options *options, int ret_fds[2]);
/* By either descriptor. */
void ring_sim_link_break(struct ring_sim *sim, int fd, enum ring_sim_break how);
/* From now on nothing that is written at `fd` arrives at the other end, nor does the news of its end; the other way all is well. */
void ring_sim_link_mute(struct ring_sim *sim, int fd);
/* As close(2) of one end: the other reads what is under way, then the end. Its operations must have ended. */
void ring_sim_link_close(struct ring_sim *sim, int fd);
