/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Shared by ring_sim*.c only. The world owns events, disks and links; a host owns its list of operations
 * under way. */
#pragma once

#include "base/list.h"
#include "ring/ring_sim.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define SIM_QUEUED INT32_MIN /* what perform() returns when the operation has to wait on */

struct sim_event {
	uint64_t time_ns, sequence;
	size_t index; /* in the heap plus 1; 0: not scheduled */
	void (*fire)(struct ring_sim *sim, struct sim_event *event);
};

struct sim_host {
	struct ring ring;
	struct ring_sim *sim;
	struct list_node node, works;
	bool dead;
	char name[32];
};

/* An operation under way. */
struct sim_work {
	struct sim_event event;
	struct list_node node; /* in host->works */
	struct sim_host *host;
	struct ring_op *op;
	/* Does it, at completion time: the result, or SIM_QUEUED. NULL: `result` is known. */
	int (*perform)(struct ring_sim *sim, struct sim_work *work);
	int result;
	uint64_t flush_sequence; /* RING_FSYNC: what it covers */
	uint32_t crc;            /* of the data when it was submitted */
};

enum sim_fd_kind { SIM_FD_DISK, SIM_FD_LINK };

struct sim_fd {
	enum sim_fd_kind kind;
	void *object;
	unsigned side;  /* of a link */
	uint32_t align; /* of a disk's descriptor */
};

struct sim_step_hook {
	uint64_t step;
	ring_sim_hook *hook;
	void *data;
};

#define SIM_STEP_HOOKS 32

struct ring_sim {
	struct rand rand;
	uint64_t now_ns, sequence, steps, steps_max, trace;
	struct sim_event **heap;
	size_t heap_count, heap_capacity;
	struct sim_fd *fds;
	size_t fds_count;
	struct list_node hosts, timed;
	int error;
	ring_sim_hook *on_step;
	void *on_step_data;
	struct sim_step_hook step_hooks[SIM_STEP_HOOKS];
	unsigned step_hooks_count;
};

/* ring_sim.c */
void *sim_alloc(size_t size);
void sim_schedule(struct ring_sim *sim, struct sim_event *event, uint64_t delay_ns);
void sim_unschedule(struct ring_sim *sim, struct sim_event *event);
int sim_fd_add(struct ring_sim *sim, enum sim_fd_kind kind, void *object, unsigned side, uint32_t align);
struct sim_fd *sim_fd_get(struct ring_sim *sim, int fd);
/* Ends the operation soon with a known result. */
void sim_work_end(struct ring_sim *sim, struct sim_work *work, int result);

/* ring_sim_event.c: a binary heap by time, then by order of scheduling */
struct sim_event *sim_heap_pop(struct ring_sim *sim);

static inline struct sim_work *sim_work_of(struct ring_op *op)
{
	return (struct sim_work *)(uintptr_t)op->private_u64[0];
}

/* READ, WRITE and WRITEV alike. */
uint64_t sim_op_length(const struct ring_op *op);
void sim_op_gather(const struct ring_op *op, uint64_t skip, uint8_t *to, uint64_t length);
uint32_t sim_op_crc(const struct ring_op *op);

/* ring_sim_disk.c */
void sim_disk_submit(struct ring_sim *sim, struct sim_fd *fd, struct sim_work *work);
bool sim_disk_cancel(struct ring_sim *sim, struct sim_work *work);
/* The process died with this in flight. */
void sim_disk_abandon(struct ring_sim *sim, struct sim_fd *fd, struct sim_work *work);
void sim_disk_free(void *object);

/* ring_sim_link.c */
void sim_link_submit(struct ring_sim *sim, struct sim_fd *fd, struct sim_work *work);
void sim_link_cancel(struct ring_sim *sim, struct sim_work *work);
void sim_link_host_died(
    struct ring_sim *sim, struct sim_fd *fd, struct sim_host *host, enum ring_sim_kill how);
void sim_link_host_freed(struct sim_fd *fd, struct sim_host *host);
void sim_link_free(void *object);
