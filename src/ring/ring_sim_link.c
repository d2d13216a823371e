/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A simulated link: two ends, and a pipe in each direction whose bytes are first under way, then arrived,
 * then read. Operations wait in queues, in order; one that can go on has its event scheduled. A link belongs
 * to the world.
 */
#include "ring/ring_sim_private.h"

#include "base/bytes.h"

#include <poll.h>

#define WAKE_NS_MAX 5000u

struct sim_link;

struct sim_pipe {
	struct sim_link *link;
	uint8_t *data; /* a ring of `capacity` bytes */
	uint64_t capacity;
	uint64_t read, arrived, written; /* totals */
	uint64_t line_free_ns, last_arrival_ns;
	struct list_node arrivals, readers, writers, pollers;
	bool ended;       /* no more will be written: the reader's end comes after what arrived */
	bool reader_gone; /* writers get -EPIPE */
	bool reset;       /* both get -ECONNRESET */
	bool stalled;     /* nothing arrives any more */
};

struct sim_link {
	struct ring_sim_link_options options;
	struct sim_pipe pipes[2]; /* pipes[s] is written by side s, read by side 1 - s */
	struct sim_host *hosts[2];
	int fds[2];
};

/* Bytes that arrive together. */
struct arrival {
	struct sim_event event;
	struct list_node node;
	struct sim_pipe *pipe;
	uint64_t arrived;
};

static void wake_work(struct ring_sim *sim, struct sim_work *work)
{
	if (work->event.index == 0)
		sim_schedule(sim, &work->event, rand_below(&sim->rand, WAKE_NS_MAX));
}

static struct sim_work *first_work(const struct list_node *queue)
{
	return sim_work_of(container_of(queue->next, struct ring_op, node));
}

static bool can_read(const struct sim_pipe *pipe)
{
	return pipe->reset || pipe->arrived > pipe->read || (pipe->ended && pipe->arrived == pipe->written);
}

static bool can_write(const struct sim_pipe *pipe)
{
	return pipe->reset || pipe->reader_gone || pipe->written - pipe->read < pipe->capacity;
}

/* Looks anew at who can go on with this pipe. */
static void wake(struct ring_sim *sim, struct sim_pipe *pipe)
{
	if (!list_empty(&pipe->readers) && can_read(pipe))
		wake_work(sim, first_work(&pipe->readers));
	if (!list_empty(&pipe->writers) && can_write(pipe))
		wake_work(sim, first_work(&pipe->writers));
	list_for_each (node, &pipe->pollers)
		wake_work(sim, sim_work_of(container_of(node, struct ring_op, node)));
}

static void wake_link(struct ring_sim *sim, struct sim_link *link)
{
	wake(sim, &link->pipes[0]);
	wake(sim, &link->pipes[1]);
}

static void arrival_fire(struct ring_sim *sim, struct sim_event *event)
{
	struct arrival *arrival = container_of(event, struct arrival, event);
	struct sim_pipe *pipe = arrival->pipe;

	pipe->arrived = arrival->arrived;
	list_remove(&arrival->node);
	free(arrival);
	wake_link(sim, pipe->link);
}

static void drop_arrivals(struct ring_sim *sim, struct sim_pipe *pipe)
{
	list_for_each_safe (node, &pipe->arrivals) {
		struct arrival *arrival = container_of(node, struct arrival, node);

		if (sim)
			sim_unschedule(sim, &arrival->event);
		list_remove(node);
		free(arrival);
	}
}

static uint64_t shorten(struct ring_sim *sim, const struct sim_link *link, uint64_t length)
{
	if (length > 1 && rand_ppm(&sim->rand, link->options.short_ppm))
		return rand_between(&sim->rand, 1, length - 1);
	return length;
}

static void send(struct ring_sim *sim, struct sim_pipe *pipe, uint64_t length)
{
	const struct ring_sim_link_options *options = &pipe->link->options;
	struct arrival *arrival;
	uint64_t at_ns = max_u64(sim->now_ns, pipe->line_free_ns);

	pipe->written += length;
	if (pipe->stalled)
		return;
	if (options->bytes_per_second)
		at_ns += length * 1000000000u / options->bytes_per_second;
	pipe->line_free_ns = at_ns;
	at_ns += options->delay_ns + rand_below(&sim->rand, options->jitter_ns + 1);
	at_ns = pipe->last_arrival_ns = max_u64(at_ns, pipe->last_arrival_ns);
	arrival = sim_alloc(sizeof(*arrival));
	arrival->event.fire = arrival_fire;
	arrival->pipe = pipe;
	arrival->arrived = pipe->written;
	list_append(&pipe->arrivals, &arrival->node);
	sim_schedule(sim, &arrival->event, at_ns - sim->now_ns);
}

static struct sim_link *link_of(struct ring_sim *sim, int fd, unsigned *ret_side)
{
	struct sim_fd *entry = sim_fd_get(sim, fd);

	assert(entry && entry->kind == SIM_FD_LINK);
	*ret_side = entry->side;
	return entry->object;
}

static int perform_write(struct ring_sim *sim, struct sim_work *work)
{
	unsigned side;
	struct sim_pipe *pipe = &link_of(sim, work->op->fd, &side)->pipes[side];
	uint64_t length = sim_op_length(work->op), at, first;

	if (pipe->reset)
		return -ECONNRESET;
	if (pipe->reader_gone || pipe->ended)
		return -EPIPE;
	length = min_u64(length, pipe->capacity - (pipe->written - pipe->read));
	if (length == 0)
		return SIM_QUEUED;
	length = shorten(sim, pipe->link, length);
	at = pipe->written % pipe->capacity;
	first = min_u64(length, pipe->capacity - at);
	sim_op_gather(work->op, 0, pipe->data + at, first);
	sim_op_gather(work->op, first, pipe->data, length - first);
	send(sim, pipe, length);
	return (int)length;
}

static int perform_read(struct ring_sim *sim, struct sim_work *work)
{
	unsigned side;
	struct sim_link *link = link_of(sim, work->op->fd, &side);
	struct sim_pipe *pipe = &link->pipes[1 - side];
	uint64_t length = min_u64(work->op->length, pipe->arrived - pipe->read), at, first;

	if (pipe->reset)
		return -ECONNRESET;
	if (length == 0)
		return can_read(pipe) ? 0 : SIM_QUEUED;
	length = shorten(sim, link, length);
	at = pipe->read % pipe->capacity;
	first = min_u64(length, pipe->capacity - at);
	memcpy(work->op->buf, pipe->data + at, first);
	memcpy((uint8_t *)work->op->buf + first, pipe->data, length - first);
	pipe->read += length;
	return (int)length;
}

static int perform_poll(struct ring_sim *sim, struct sim_work *work)
{
	unsigned side;
	struct sim_link *link = link_of(sim, work->op->fd, &side);
	int events = 0;

	if (can_read(&link->pipes[1 - side]))
		events |= POLLIN;
	if (can_write(&link->pipes[side]))
		events |= POLLOUT;
	events &= work->op->events;
	if (link->pipes[side].reset)
		events |= POLLERR | POLLHUP;
	return events ? events : SIM_QUEUED;
}

static int perform(struct ring_sim *sim, struct sim_work *work)
{
	unsigned side;
	struct sim_link *link = link_of(sim, work->op->fd, &side);
	int res;

	if (work->op->opcode == RING_READ)
		res = perform_read(sim, work);
	else if (work->op->opcode == RING_POLL)
		res = perform_poll(sim, work);
	else
		res = perform_write(sim, work);
	if (res == SIM_QUEUED)
		return res;
	list_remove(&work->op->node);
	wake_link(sim, link);
	return res;
}

void sim_link_submit(struct ring_sim *sim, struct sim_fd *fd, struct sim_work *work)
{
	struct sim_link *link = fd->object;
	struct ring_op *op = work->op;

	work->perform = perform;
	if (op->opcode == RING_READ && op->length)
		list_append(&link->pipes[1 - fd->side].readers, &op->node);
	else if (op->opcode == RING_POLL)
		list_append(&link->pipes[fd->side].pollers, &op->node);
	else if ((op->opcode == RING_WRITE || op->opcode == RING_WRITEV) && sim_op_length(op))
		list_append(&link->pipes[fd->side].writers, &op->node);
	else
		sim_work_end(sim, work, op->opcode <= RING_WRITEV ? 0 : -EINVAL);
	wake_link(sim, link);
}

void sim_link_cancel(struct ring_sim *sim, struct sim_work *work)
{
	unsigned side;
	struct sim_link *link = link_of(sim, work->op->fd, &side);

	if (!work->perform)
		return;
	list_remove(&work->op->node);
	sim_work_end(sim, work, -ECANCELED);
	wake_link(sim, link);
}

/* Ends */

static void close_side(struct ring_sim *sim, struct sim_link *link, unsigned side)
{
	/* News of the end do not arrive either. */
	if (link->pipes[side].stalled)
		return;
	link->pipes[side].ended = true;
	link->pipes[1 - side].reader_gone = true;
	wake_link(sim, link);
}

void ring_sim_link_close(struct ring_sim *sim, int fd)
{
	unsigned side;
	struct sim_link *link = link_of(sim, fd, &side);

	close_side(sim, link, side);
}

void ring_sim_link_break(struct ring_sim *sim, int fd, enum ring_sim_break how)
{
	unsigned side;
	struct sim_link *link = link_of(sim, fd, &side);

	for (int i = 0; i < 2; i++) {
		struct sim_pipe *pipe = &link->pipes[i];

		drop_arrivals(sim, pipe);
		pipe->stalled = how == RING_SIM_BREAK_STALL;
		pipe->reset = how == RING_SIM_BREAK_RESET;
		if (how == RING_SIM_BREAK_EOF) {
			pipe->written = pipe->arrived;
			pipe->ended = pipe->reader_gone = true;
		}
	}
	wake_link(sim, link);
}

void ring_sim_link_mute(struct ring_sim *sim, int fd)
{
	unsigned side;
	struct sim_link *link = link_of(sim, fd, &side);

	drop_arrivals(sim, &link->pipes[side]);
	link->pipes[side].stalled = true;
}

void sim_link_host_died(
    struct ring_sim *sim, struct sim_fd *fd, struct sim_host *host, enum ring_sim_kill how)
{
	struct sim_link *link = fd->object;

	if (link->hosts[fd->side] != host || link->pipes[fd->side].stalled)
		return;
	if (how == RING_SIM_KILL_MACHINE)
		ring_sim_link_break(sim, link->fds[0], RING_SIM_BREAK_STALL);
	else if (rand_below(&sim->rand, 4) == 0)
		ring_sim_link_break(sim, link->fds[0], RING_SIM_BREAK_RESET);
	else
		close_side(sim, link, fd->side);
}

void sim_link_host_freed(struct sim_fd *fd, struct sim_host *host)
{
	struct sim_link *link = fd->object;

	if (link->hosts[fd->side] == host)
		link->hosts[fd->side] = NULL;
}

static void pipe_init(struct sim_link *link, struct sim_pipe *pipe)
{
	pipe->link = link;
	pipe->capacity = link->options.capacity;
	pipe->data = sim_alloc(pipe->capacity);
	list_init(&pipe->arrivals);
	list_init(&pipe->readers);
	list_init(&pipe->writers);
	list_init(&pipe->pollers);
}

void ring_sim_link_new(struct ring_sim *sim, struct ring *a, struct ring *b,
    const struct ring_sim_link_options *options, int ret_fds[2])
{
	struct sim_link *link = sim_alloc(sizeof(*link));

	link->options = *options;
	if (link->options.delay_ns == 0)
		link->options.delay_ns = 50000;
	if (link->options.capacity == 0)
		link->options.capacity = 65536;
	link->hosts[0] = container_of(a, struct sim_host, ring);
	link->hosts[1] = container_of(b, struct sim_host, ring);
	for (unsigned side = 0; side < 2; side++) {
		pipe_init(link, &link->pipes[side]);
		link->fds[side] = ret_fds[side] = sim_fd_add(sim, SIM_FD_LINK, link, side, 0);
	}
}

void sim_link_free(void *object)
{
	struct sim_link *link = object;

	for (int i = 0; i < 2; i++) {
		drop_arrivals(NULL, &link->pipes[i]);
		free(link->pipes[i].data);
	}
	free(link);
}
