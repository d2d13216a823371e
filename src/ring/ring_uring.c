/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The ring on io_uring. Owns the kernel ring; one thread. Answers that are known at once wait in `ready`, so
 * that done() never runs from within a submit.
 */
#include "ring/ring.h"

#include "base/clock.h"

#include <assert.h>
#include <errno.h>
#include <liburing.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

struct ring_uring {
	struct ring ring;
	struct io_uring uring;
	struct list_node ready;
	struct list_node commands; /* under way in the kernel, which may keep them */
	unsigned ready_count;
	unsigned under_way; /* operations whose done() has not run */
	unsigned busy;      /* those of them that somebody waits for: not is_patient() */
	bool can_linger;
	uint64_t linger_ns; /* of the next wait */
	bool attentive;
	uint64_t looked_ns, came_ns; /* attentive: when it looked last; see ring_came_ns() */
};

/* So many completions end a wait that lingers: more than can come without being waited for. */
#define LINGER_COUNT 64u
/* Linux 6.12, IORING_FEAT_MIN_TIMEOUT: from there on what arrives does not wake a sleeper who wants more of it. */
#define FEATURE_LINGER (1u << 15)

static struct ring_uring *to_uring(struct ring *ring)
{
	return container_of(ring, struct ring_uring, ring);
}

static struct io_uring_sqe *next_sqe(struct ring_uring *ring)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&ring->uring);

	while (!sqe) {
		/* The queue is full: hand it to the kernel. Only an interrupted call can fail to empty it. */
		int res = io_uring_submit(&ring->uring);

		assert(res >= 0 || res == -EINTR || res == -EAGAIN || res == -EBUSY);
		sqe = io_uring_get_sqe(&ring->uring);
	}
	return sqe;
}

/* Returns where the kernel looks for what the command takes: 16 bytes from addr3 on. */
static void *prepare_command(struct io_uring_sqe *sqe, int fd, uint32_t command)
{
	io_uring_prep_rw(46 /* IORING_OP_URING_CMD */, sqe, fd, NULL, 0, 0);
	sqe->off = command; /* cmd_op */
	return (char *)sqe + 48;
}

/* As in the kernel's include/uapi/linux/blkdev.h, which Debian 12 does not have. The range lies in addr and addr3. */
static void prepare_discard(struct io_uring_sqe *sqe, const struct ring_op *op)
{
	void *rest = prepare_command(sqe, op->fd, _IO(0x12, 0) /* BLOCK_URING_CMD_DISCARD */);

	sqe->addr = op->offset;
	memcpy(rest, &op->length, sizeof(op->length));
}

static void prepare(struct io_uring_sqe *sqe, struct ring_op *op)
{
	struct __kernel_timespec *deadline = (struct __kernel_timespec *)op->private_u64;

	_Static_assert(sizeof(*deadline) == sizeof(op->private_u64), "a deadline fits into the operation");
	switch (op->opcode) {
	case RING_READ:
		io_uring_prep_read(sqe, op->fd, op->buf, (unsigned)op->length, op->offset);
		break;
	case RING_WRITE:
		io_uring_prep_write(sqe, op->fd, op->buf, (unsigned)op->length, op->offset);
		sqe->rw_flags = op->mode;
		break;
	case RING_WRITEV:
		io_uring_prep_writev(sqe, op->fd, op->iov, op->iov_count, op->offset);
		sqe->rw_flags = op->mode;
		break;
	case RING_FSYNC:
		io_uring_prep_fsync(sqe, op->fd, IORING_FSYNC_DATASYNC);
		break;
	case RING_FALLOCATE:
		/* The library's own helper cuts the length to 32 bits. */
		io_uring_prep_rw(IORING_OP_FALLOCATE, sqe, op->fd, (const void *)(uintptr_t)op->length,
		    (unsigned)op->mode, op->offset);
		break;
	case RING_DISCARD:
		prepare_discard(sqe, op);
		break;
	case RING_SPLICE:
		io_uring_prep_splice(
		    sqe, op->fd, (int64_t)op->offset, op->fd_to, -1, (unsigned)op->length, 0);
		break;
	case RING_SPLICE_TO:
		io_uring_prep_splice(
		    sqe, op->fd, -1, op->fd_to, (int64_t)op->offset, (unsigned)op->length, 0);
		break;
	case RING_COMMAND:
		memcpy(prepare_command(sqe, op->fd, (uint32_t)op->mode), op->buf, 16);
		break;
	case RING_POLL:
		io_uring_prep_poll_add(sqe, op->fd, (unsigned)op->events);
		break;
	case RING_TIMER:
		deadline->tv_sec = (int64_t)(op->deadline_ns / 1000000000);
		deadline->tv_nsec = (int64_t)(op->deadline_ns % 1000000000);
		io_uring_prep_timeout(sqe, deadline, 0, IORING_TIMEOUT_ABS);
		break;
	case RING_NOP:
		assert(!"answered without the kernel");
	}
	io_uring_sqe_set_data(sqe, op);
}

/* Nobody knows whether it will ever end. */
static bool is_patient(const struct ring_op *op)
{
	return op->opcode == RING_POLL || op->opcode == RING_TIMER ||
	       (op->opcode == RING_READ && op->offset == RING_STREAM);
}

static void uring_submit(struct ring *base, struct ring_op *op)
{
	struct ring_uring *ring = to_uring(base);

	ring->under_way++;
	ring->busy += !is_patient(op);
	if (op->opcode == RING_NOP) {
		list_append(&ring->ready, &op->node);
		ring->ready_count++;
	} else {
		prepare(next_sqe(ring), op);
		if (op->opcode == RING_COMMAND)
			list_append(&ring->commands, &op->node);
	}
}

static void uring_cancel(struct ring *base, struct ring_op *op)
{
	struct ring_uring *ring = to_uring(base);
	struct io_uring_sqe *sqe;

	if (op->opcode == RING_NOP || op->opcode == RING_COMMAND)
		return;
	sqe = next_sqe(ring);
	io_uring_prep_cancel(sqe, op, 0);
	io_uring_sqe_set_data(sqe, NULL);
}

static void deliver(struct ring_uring *ring, struct ring_op *op, int res)
{
	if (op->opcode == RING_COMMAND)
		list_remove(&op->node);
	ring->under_way--;
	ring->busy -= !is_patient(op);
	op->active = false;
	op->done(op, res);
}

/* Delivers what the kernel has finished. One at a time: done() may run the loop itself. */
static bool reap(struct ring_uring *ring)
{
	struct io_uring_cqe *cqe;
	bool any = false;

	while (io_uring_peek_cqe(&ring->uring, &cqe) == 0) {
		struct ring_op *op = io_uring_cqe_get_data(cqe);
		int res = cqe->res;

		io_uring_cqe_seen(&ring->uring, cqe);
		if (!op)
			continue;
		if (op->opcode == RING_TIMER && res == -ETIME)
			res = 0;
		deliver(ring, op, res);
		any = true;
	}
	return any;
}

/* Only what is ready now: what these add comes next time, after the kernel's completions. */
static bool deliver_ready(struct ring_uring *ring)
{
	unsigned count = ring->ready_count;
	struct list_node *node;
	bool any = count > 0;

	while (count-- > 0 && (node = list_pop(&ring->ready))) {
		struct ring_op *op = container_of(node, struct ring_op, node);

		ring->ready_count--;
		deliver(ring, op, op->result);
	}
	return any;
}

static int wait_for_some(struct ring_uring *ring)
{
	struct __kernel_timespec most = {.tv_nsec = (int64_t)ring->linger_ns};
	struct io_uring_cqe *ignored;

	if (ring->linger_ns == 0 || ring->busy > 0)
		return io_uring_submit_and_wait(&ring->uring, 1);
	ring->linger_ns = 0;
	return io_uring_submit_and_wait_timeout(&ring->uring, &ignored, LINGER_COUNT, &most, NULL);
}

static void uring_linger(struct ring *base, uint64_t ns)
{
	struct ring_uring *ring = to_uring(base);

	ring->linger_ns = ring->can_linger && ns < 1000000000 ? ns : 0;
}

static uint64_t uring_now_ns(struct ring *ring)
{
	return clock_now_ns();
}

/* What has come while the loop did other things is told from what ends a wait: by looking first. */
static int look(struct ring_uring *ring, bool ready)
{
	int res = io_uring_submit_and_get_events(&ring->uring);
	bool found = res >= 0 && io_uring_cq_ready(&ring->uring) > 0;

	ring->came_ns = ring->looked_ns;
	if (res >= 0 && !found && !ready)
		res = wait_for_some(ring);
	ring->looked_ns = uring_now_ns(&ring->ring);
	if (!found)
		ring->came_ns = ring->looked_ns;
	return res;
}

static int uring_step(struct ring *base)
{
	struct ring_uring *ring = to_uring(base);
	bool ready;
	int res;

	if (ring->under_way == 0)
		return -EDEADLK;
	ready = deliver_ready(ring);
	if (ring->attentive)
		res = look(ring, ready);
	else
		res = ready ? io_uring_submit_and_get_events(&ring->uring) : wait_for_some(ring);
	if (res < 0 && res != -EINTR && res != -EAGAIN && res != -EBUSY && res != -ETIME)
		return res;
	reap(ring);
	/* What these put off is done now, so that what it submits goes along with the next call to the kernel. */
	deliver_ready(ring);
	return 0;
}

static void uring_attend(struct ring *base)
{
	struct ring_uring *ring = to_uring(base);

	ring->attentive = true;
	ring->looked_ns = ring->came_ns = uring_now_ns(base);
}

static uint64_t uring_came_ns(struct ring *base)
{
	struct ring_uring *ring = to_uring(base);

	return ring->attentive ? ring->came_ns : uring_now_ns(base);
}

static void uring_free(struct ring *base)
{
	struct ring_uring *ring = to_uring(base);
	struct list_node *node;

	/*
	 * Commands that the kernel still has end with the process, whose death it waits for anyway. If the ring were closed under them, a
	 * thread of the kernel would take them back while this one may still get requests by them: Linux 6.12 then frees the device's file
	 * twice (BUG in filp_flush(), all that goes to the device waits for ever). Until then nothing comes: only who waits on the ring
	 * lets the kernel deliver; where that is not so, what comes would be written to memory that is gone.
	 */
	if (list_empty(&ring->commands) || !(ring->uring.flags & IORING_SETUP_DEFER_TASKRUN))
		io_uring_queue_exit(&ring->uring);
	while (!list_empty(&ring->commands)) {
		node = ring->commands.next;
		deliver(ring, container_of(node, struct ring_op, node), -ECANCELED);
	}
	assert(ring->under_way == 0);
	free(ring);
}

static const struct ring_ops uring_ops = {
    .submit = uring_submit,
    .cancel = uring_cancel,
    .step = uring_step,
    .now_ns = uring_now_ns,
    .linger = uring_linger,
    .attend = uring_attend,
    .came_ns = uring_came_ns,
    .free = uring_free,
};

int ring_new(struct ring **ret, unsigned entries, struct error *error)
{
	/* The first set saves interrupts (Linux 6.1); the second is for kernels without it. */
	static const unsigned tries[] = {IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN, 0};
	struct ring_uring *ring = calloc(1, sizeof(*ring));
	int res = -EINVAL;

	if (!ring)
		return error_set(error, -ENOMEM, "cannot make an event loop: out of memory");
	for (size_t i = 0; i < sizeof(tries) / sizeof(tries[0]) && res == -EINVAL; i++) {
		struct io_uring_params params = {.flags = tries[i]};

		res = io_uring_queue_init_params(entries, &ring->uring, &params);
	}
	if (res < 0) {
		free(ring);
		return error_set(error, res,
		    "cannot make an event loop: io_uring says: %s; it needs Linux 5.15 or later with "
		    "io_uring allowed "
		    "(sysctl kernel.io_uring_disabled)",
		    strerror(-res));
	}
	io_uring_ring_dontfork(&ring->uring);
	/* Saves a look-up of the descriptor in each call; kernels that cannot go without. */
	(void)io_uring_register_ring_fd(&ring->uring);
	list_init(&ring->ready);
	list_init(&ring->commands);
	ring->can_linger = ring->uring.features & FEATURE_LINGER;
	ring->ring.ops = &uring_ops;
	*ret = &ring->ring;
	return 0;
}
