/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The simulated world's core: hosts, operations and hooks. Disks and links are in files of their own. An
 * operation is a sim_work from its submission to its done(); what it does, it does at the moment of its
 * completion.
 */
#include "ring/ring_sim_private.h"

#include "base/crc32c.h"

#include <stdio.h>

#define NOP_NS_MAX   2000u
#define TIMER_NS_MAX 50000u
#define DEAD_NS_MAX  1000000u /* so that what waits for time to pass on a dead host does not take forever */

struct sim_timed_hook {
	struct sim_event event;
	struct list_node node; /* in sim->timed */
	ring_sim_hook *hook;
	void *data;
};

void *sim_alloc(size_t size)
{
	void *memory = calloc(1, size ? size : 1);

	if (!memory)
		abort();
	return memory;
}

static void trace(struct ring_sim *sim, uint64_t value)
{
	uint64_t z = (sim->trace ^ value) * 0x9e3779b97f4a7c15u;

	z ^= z >> 29;
	sim->trace = z * 0xbf58476d1ce4e5b9u + 1;
}

/* Operations */

uint64_t sim_op_length(const struct ring_op *op)
{
	uint64_t length = 0;

	if (op->opcode != RING_WRITEV)
		return op->length;
	for (unsigned i = 0; i < op->iov_count; i++)
		length += op->iov[i].iov_len;
	return length;
}

void sim_op_gather(const struct ring_op *op, uint64_t skip, uint8_t *to, uint64_t length)
{
	const struct iovec whole = {.iov_base = op->buf, .iov_len = op->length};
	const struct iovec *iov = op->opcode == RING_WRITEV ? op->iov : &whole;

	for (; length > 0; iov++) {
		uint64_t n = iov->iov_len;

		if (skip >= n) {
			skip -= n;
			continue;
		}
		n = n - skip < length ? n - skip : length;
		memcpy(to, (const uint8_t *)iov->iov_base + skip, n);
		to += n;
		length -= n;
		skip = 0;
	}
}

uint32_t sim_op_crc(const struct ring_op *op)
{
	uint32_t crc = 0;

	if (op->opcode == RING_WRITE)
		return crc32c(0, op->buf, op->length);
	for (unsigned i = 0; op->opcode == RING_WRITEV && i < op->iov_count; i++)
		crc = crc32c(crc, op->iov[i].iov_base, op->iov[i].iov_len);
	return crc;
}

static void work_fire(struct ring_sim *sim, struct sim_event *event)
{
	struct sim_work *work = container_of(event, struct sim_work, event);
	struct ring_op *op = work->op;
	int res = work->perform ? work->perform(sim, work) : work->result;

	if (res == SIM_QUEUED)
		return;
	trace(sim, sim->now_ns);
	trace(sim, (uint64_t)op->opcode << 32 ^ (uint32_t)res);
	if (op->opcode != RING_NOP && op->opcode != RING_TIMER)
		trace(sim, (uint64_t)op->fd << 40 ^ op->offset ^ sim_op_length(op) << 20);
	list_remove(&work->node);
	free(work);
	op->private_u64[0] = 0;
	op->active = false;
	op->done(op, res);
}

void sim_work_end(struct ring_sim *sim, struct sim_work *work, int result)
{
	work->perform = NULL;
	work->result = result;
	sim_unschedule(sim, &work->event);
	sim_schedule(sim, &work->event, rand_below(&sim->rand, work->host->dead ? DEAD_NS_MAX : NOP_NS_MAX));
}

static struct sim_host *host_of(const struct ring *ring)
{
	assert(ring->simulated);
	return container_of(ring, struct sim_host, ring);
}

static void submit_to_fd(struct ring_sim *sim, struct sim_work *work)
{
	struct sim_fd *fd = sim_fd_get(sim, work->op->fd);

	if (!fd)
		sim_work_end(sim, work, -EBADF);
	else if (fd->kind == SIM_FD_DISK)
		sim_disk_submit(sim, fd, work);
	else
		sim_link_submit(sim, fd, work);
}

static void host_submit(struct ring *ring, struct ring_op *op)
{
	struct sim_host *host = host_of(ring);
	struct ring_sim *sim = host->sim;
	struct sim_work *work = sim_alloc(sizeof(*work));

	work->host = host;
	work->op = op;
	work->event.fire = work_fire;
	list_append(&host->works, &work->node);
	list_init(&op->node);
	op->private_u64[0] = (uintptr_t)work;
	op->active = true;
	if (host->dead) {
		sim_work_end(sim, work, -ECANCELED);
	} else if (op->opcode == RING_NOP) {
		sim_work_end(sim, work, op->result);
	} else if (op->opcode == RING_TIMER) {
		uint64_t wait = op->deadline_ns > sim->now_ns ? op->deadline_ns - sim->now_ns : 0;

		sim_schedule(sim, &work->event, wait + rand_below(&sim->rand, TIMER_NS_MAX));
	} else {
		submit_to_fd(sim, work);
	}
}

static void host_cancel(struct ring *ring, struct ring_op *op)
{
	struct ring_sim *sim = host_of(ring)->sim;
	struct sim_work *work = sim_work_of(op);
	struct sim_fd *fd = NULL;

	if (host_of(ring)->dead || op->opcode == RING_NOP)
		return;
	if (op->opcode != RING_TIMER)
		fd = sim_fd_get(sim, op->fd);
	if (fd && fd->kind == SIM_FD_LINK)
		sim_link_cancel(sim, work);
	else if (!fd || sim_disk_cancel(sim, work))
		sim_work_end(sim, work, -ECANCELED);
}

static int host_step(struct ring *ring)
{
	return ring_sim_step(host_of(ring)->sim);
}

static uint64_t host_now_ns(struct ring *ring)
{
	return host_of(ring)->sim->now_ns;
}

static void host_free(struct ring *ring)
{
	struct sim_host *host = host_of(ring);

	assert(list_empty(&host->works));
	for (size_t i = 0; i < host->sim->fds_count; i++)
		if (host->sim->fds[i].kind == SIM_FD_LINK)
			sim_link_host_freed(&host->sim->fds[i], host);
	list_remove(&host->node);
	free(host);
}

static const struct ring_ops host_ops = {
    .submit = host_submit,
    .cancel = host_cancel,
    .step = host_step,
    .now_ns = host_now_ns,
    .free = host_free,
};

struct ring *ring_sim_host_new(struct ring_sim *sim, const char *name)
{
	struct sim_host *host = sim_alloc(sizeof(*host));

	host->ring.ops = &host_ops;
	host->ring.simulated = true;
	host->sim = sim;
	list_init(&host->works);
	list_append(&sim->hosts, &host->node);
	snprintf(host->name, sizeof(host->name), "%s", name);
	return &host->ring;
}

void ring_sim_kill(struct ring *ring, enum ring_sim_kill how)
{
	struct sim_host *host = host_of(ring);
	struct ring_sim *sim = host->sim;

	if (host->dead)
		return;
	host->dead = true;
	for (size_t i = 0; i < sim->fds_count; i++)
		if (sim->fds[i].kind == SIM_FD_LINK)
			sim_link_host_died(sim, &sim->fds[i], host, how);
	list_for_each (node, &host->works) {
		struct sim_work *work = container_of(node, struct sim_work, node);
		struct sim_fd *fd = NULL;

		if (work->op->opcode != RING_NOP && work->op->opcode != RING_TIMER)
			fd = sim_fd_get(sim, work->op->fd);
		if (fd && fd->kind == SIM_FD_DISK && work->perform)
			sim_disk_abandon(sim, fd, work);
		if (fd && fd->kind == SIM_FD_LINK)
			list_remove(&work->op->node);
		sim_work_end(sim, work, -ECANCELED);
	}
}

bool ring_sim_killed(const struct ring *ring)
{
	return host_of(ring)->dead;
}

/* The world */

struct ring_sim *ring_sim_new(uint64_t seed, uint64_t steps_max)
{
	struct ring_sim *sim = sim_alloc(sizeof(*sim));

	rand_init(&sim->rand, seed);
	sim->steps_max = steps_max ? steps_max : 10000000;
	sim->now_ns = 1000000000;
	list_init(&sim->hosts);
	list_init(&sim->timed);
	return sim;
}

struct ring_sim *ring_sim_free(struct ring_sim *sim)
{
	if (!sim)
		return NULL;
	assert(list_empty(&sim->hosts));
	for (size_t i = 0; i < sim->fds_count; i++) {
		if (sim->fds[i].kind == SIM_FD_DISK && sim->fds[i].side == 0)
			sim_disk_free(sim->fds[i].object);
		if (sim->fds[i].kind == SIM_FD_LINK && sim->fds[i].side == 0)
			sim_link_free(sim->fds[i].object);
	}
	list_for_each_safe (node, &sim->timed)
		free(container_of(node, struct sim_timed_hook, node));
	free(sim->fds);
	free(sim->heap);
	free(sim);
	return NULL;
}

struct rand *ring_sim_rand(struct ring_sim *sim)
{
	return &sim->rand;
}

uint64_t ring_sim_now_ns(const struct ring_sim *sim)
{
	return sim->now_ns;
}

uint64_t ring_sim_steps(const struct ring_sim *sim)
{
	return sim->steps;
}

uint64_t ring_sim_trace(const struct ring_sim *sim)
{
	return sim->trace;
}

static void run_step_hooks(struct ring_sim *sim)
{
	for (unsigned i = 0; i < sim->step_hooks_count;) {
		struct sim_step_hook hook = sim->step_hooks[i];

		if (hook.step > sim->steps) {
			i++;
			continue;
		}
		sim->step_hooks[i] = sim->step_hooks[--sim->step_hooks_count];
		hook.hook(hook.data);
	}
}

int ring_sim_error(const struct ring_sim *sim)
{
	return sim->error;
}

static int fail(struct ring_sim *sim, int error)
{
	if (sim->error == 0)
		sim->error = error;
	return error;
}

int ring_sim_step(struct ring_sim *sim)
{
	struct sim_event *event;

	if (sim->steps_max <= sim->steps)
		return fail(sim, -ELOOP);
	run_step_hooks(sim);
	event = sim_heap_pop(sim);
	if (!event)
		return fail(sim, -EDEADLK);
	sim->steps++;
	if (event->time_ns > sim->now_ns)
		sim->now_ns = event->time_ns;
	event->fire(sim, event);
	if (sim->on_step)
		sim->on_step(sim->on_step_data);
	return 0;
}

/* Hooks */

void ring_sim_on_step(struct ring_sim *sim, ring_sim_hook *hook, void *data)
{
	sim->on_step = hook;
	sim->on_step_data = data;
}

void ring_sim_at_step(struct ring_sim *sim, uint64_t step, ring_sim_hook *hook, void *data)
{
	assert(sim->step_hooks_count < SIM_STEP_HOOKS);
	sim->step_hooks[sim->step_hooks_count++] = (struct sim_step_hook){step, hook, data};
}

void ring_sim_forget_steps(struct ring_sim *sim)
{
	sim->step_hooks_count = 0;
}

static void timed_hook_fire(struct ring_sim *sim, struct sim_event *event)
{
	struct sim_timed_hook *timed = container_of(event, struct sim_timed_hook, event);
	struct sim_timed_hook copy = *timed;

	list_remove(&timed->node);
	free(timed);
	copy.hook(copy.data);
}

void ring_sim_after(struct ring_sim *sim, uint64_t ns, ring_sim_hook *hook, void *data)
{
	struct sim_timed_hook *timed = sim_alloc(sizeof(*timed));

	timed->event.fire = timed_hook_fire;
	timed->hook = hook;
	timed->data = data;
	list_append(&sim->timed, &timed->node);
	sim_schedule(sim, &timed->event, ns);
}

/* Descriptors */

int sim_fd_add(struct ring_sim *sim, enum sim_fd_kind kind, void *object, unsigned side, uint32_t align)
{
	sim->fds = realloc(sim->fds, (sim->fds_count + 1) * sizeof(*sim->fds));
	if (!sim->fds)
		abort();
	sim->fds[sim->fds_count] =
	    (struct sim_fd){.kind = kind, .object = object, .side = side, .align = align};
	return RING_SIM_FD + (int)sim->fds_count++;
}

struct sim_fd *sim_fd_get(struct ring_sim *sim, int fd)
{
	if (fd < RING_SIM_FD || (size_t)(fd - RING_SIM_FD) >= sim->fds_count)
		return NULL;
	return &sim->fds[fd - RING_SIM_FD];
}
