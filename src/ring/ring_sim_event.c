/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The world's clock: a binary heap of events by time, then by the order in which they were scheduled. Events
 * belong to others. */
#include "ring/ring_sim_private.h"

static bool before(const struct sim_event *a, const struct sim_event *b)
{
	if (a->time_ns != b->time_ns)
		return a->time_ns < b->time_ns;
	return a->sequence < b->sequence;
}

static void place(struct ring_sim *sim, size_t at, struct sim_event *event)
{
	sim->heap[at] = event;
	event->index = at + 1;
}

static void sift_up(struct ring_sim *sim, size_t at, struct sim_event *event)
{
	for (size_t parent; at > 0; at = parent) {
		parent = (at - 1) / 2;
		if (!before(event, sim->heap[parent]))
			break;
		place(sim, at, sim->heap[parent]);
	}
	place(sim, at, event);
}

static void sift_down(struct ring_sim *sim, size_t at, struct sim_event *event)
{
	for (size_t child; (child = 2 * at + 1) < sim->heap_count; at = child) {
		if (child + 1 < sim->heap_count && before(sim->heap[child + 1], sim->heap[child]))
			child++;
		if (!before(sim->heap[child], event))
			break;
		place(sim, at, sim->heap[child]);
	}
	place(sim, at, event);
}

void sim_schedule(struct ring_sim *sim, struct sim_event *event, uint64_t delay_ns)
{
	assert(event->index == 0);
	if (sim->heap_count == sim->heap_capacity) {
		sim->heap_capacity = sim->heap_capacity ? sim->heap_capacity * 2 : 64;
		sim->heap = realloc(sim->heap, sim->heap_capacity * sizeof(struct sim_event *));
		if (!sim->heap)
			abort();
	}
	event->time_ns = sim->now_ns + delay_ns < sim->now_ns ? UINT64_MAX : sim->now_ns + delay_ns;
	event->sequence = sim->sequence++;
	sift_up(sim, sim->heap_count++, event);
}

void sim_unschedule(struct ring_sim *sim, struct sim_event *event)
{
	size_t at = event->index - 1;
	struct sim_event *last;

	if (event->index == 0)
		return;
	event->index = 0;
	last = sim->heap[--sim->heap_count];
	if (last == event)
		return;
	if (at > 0 && before(last, sim->heap[(at - 1) / 2]))
		sift_up(sim, at, last);
	else
		sift_down(sim, at, last);
}

struct sim_event *sim_heap_pop(struct ring_sim *sim)
{
	struct sim_event *event = sim->heap_count ? sim->heap[0] : NULL;

	if (event)
		sim_unschedule(sim, event);
	return event;
}
