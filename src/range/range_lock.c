/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Every lock counts the earlier ones that exclude it; at zero it is held. The list is searched from end to end: it is as
 * long as there are requests in flight, some dozens.
 */
#include "range/range_lock.h"

#include <assert.h>

void range_locks_init(struct range_locks *locks, struct ring *ring, const uint8_t excludes[RANGE_LOCK_KINDS])
{
	*locks = (struct range_locks){.ring = ring};
	for (unsigned i = 0; i < RANGE_LOCK_KINDS; i++) {
		locks->excludes[i] = excludes[i];
		for (unsigned j = 0; j < RANGE_LOCK_KINDS; j++)
			assert((excludes[i] >> j & 1) == (excludes[j] >> i & 1));
	}
	list_init(&locks->locks);
}

static bool exclude_each_other(const struct range_lock *a, const struct range_lock *b)
{
	return (a->locks->excludes[a->kind] >> b->kind & 1) && a->offset < b->offset + b->length &&
	       b->offset < a->offset + a->length;
}

static void tell(struct ring_op *op, int res)
{
	struct range_lock *lock = container_of(op, struct range_lock, op);

	lock->held = true;
	lock->granted(lock);
}

bool range_lock_take(struct range_locks *locks, struct range_lock *lock)
{
	assert(lock->length > 0 && lock->kind < RANGE_LOCK_KINDS);
	lock->locks = locks;
	lock->blockers = 0;
	lock->op = (struct ring_op){.done = tell};
	list_for_each (node, &locks->locks)
		lock->blockers += exclude_each_other(container_of(node, struct range_lock, node), lock);
	list_append(&locks->locks, &lock->node);
	locks->count++;
	lock->held = lock->blockers == 0;
	return lock->held;
}

/* Only later ones can have waited for it. */
static void forget(struct range_lock *lock)
{
	struct range_locks *locks = lock->locks;

	locks->count--;
	for (struct list_node *node = lock->node.next; node != &locks->locks; node = node->next) {
		struct range_lock *later = container_of(node, struct range_lock, node);

		if (!exclude_each_other(lock, later))
			continue;
		assert(later->blockers > 0);
		if (--later->blockers == 0)
			ring_defer(locks->ring, &later->op, 0);
	}
	list_remove(&lock->node);
}

void range_lock_drop(struct range_lock *lock)
{
	assert(lock->held);
	lock->held = false;
	forget(lock);
}

bool range_lock_leave(struct range_lock *lock)
{
	assert(!lock->held);
	if (lock->blockers == 0)
		return false;
	forget(lock);
	return true;
}
