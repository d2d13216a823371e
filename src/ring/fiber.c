/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Fibers by makecontext(3): see fiber.h. The sanitizers must be told of each change of the stack. */
#include "ring/fiber.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#if defined(__SANITIZE_ADDRESS__)
#define TELL_ADDRESS_SANITIZER 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define TELL_ADDRESS_SANITIZER 1
#endif
#endif
#ifdef TELL_ADDRESS_SANITIZER
#include <sanitizer/common_interface_defs.h>
#define tell_leaving  __sanitizer_start_switch_fiber
#define tell_arriving __sanitizer_finish_switch_fiber
#else
static void tell_leaving(void **ret_fake, const void *stack, size_t length)
{
}

static void tell_arriving(void *fake, const void **ret_stack, size_t *ret_length)
{
}
#endif

struct fiber {
	struct list_node node; /* in the ring's list */
	struct ring *ring;
	void (*run)(void *data);
	void *data;
	void *map; /* a page that nobody may touch, and the stack */
	size_t map_length;
	void *stack;

	const bool *until; /* what it waits for; NULL: for any step of the loop */
	int res;           /* of the loop, for the wait */
	bool ended;
	ucontext_t own, loop;
	const void *loop_stack;
	size_t loop_stack_length;
	void *own_fake, *loop_fake; /* the sanitizer's */
};

static const bool at_once = true;

/* From the loop into the fiber, until it waits or ends. */
static void enter(struct fiber *fiber)
{
	struct ring *ring = fiber->ring;

	assert(!ring->fiber && !fiber->ended);
	ring->fiber = fiber;
	tell_leaving(&fiber->loop_fake, fiber->stack, FIBER_STACK);
	swapcontext(&fiber->loop, &fiber->own);
	tell_arriving(fiber->loop_fake, NULL, NULL);
	ring->fiber = NULL;
	if (fiber->ended)
		list_remove(&fiber->node);
}

static void leave(struct fiber *fiber)
{
	/* What has ended does not come back: its stack's shadow may go. */
	tell_leaving(fiber->ended ? NULL : &fiber->own_fake, fiber->loop_stack, fiber->loop_stack_length);
	swapcontext(&fiber->own, &fiber->loop);
	tell_arriving(fiber->own_fake, NULL, NULL);
}

/* makecontext() passes numbers of 32 bits. */
static void begin(unsigned high, unsigned low)
{
	struct fiber *fiber = (struct fiber *)((uintptr_t)high << 32 | low);

	tell_arriving(NULL, &fiber->loop_stack, &fiber->loop_stack_length);
	fiber->run(fiber->data);
	fiber->ended = true;
	leave(fiber);
	assert(false);
}

static int map_stack(struct fiber *fiber)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);

	fiber->map_length = FIBER_STACK + page;
	fiber->map = mmap(NULL, fiber->map_length, PROT_READ | PROT_WRITE,
	    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_STACK, -1, 0);
	if (fiber->map == MAP_FAILED)
		return -errno;
	/* Who needs more than there is ends here, and not in somebody else's memory. */
	if (mprotect(fiber->map, page, PROT_NONE) < 0) {
		munmap(fiber->map, fiber->map_length);
		return -errno;
	}
	fiber->stack = (char *)fiber->map + page;
	return 0;
}

int fiber_start(
    struct fiber **ret, struct ring *ring, void (*run)(void *data), void *data, struct error *error)
{
	struct fiber *fiber = calloc(1, sizeof(*fiber));
	int res = fiber ? map_stack(fiber) : -ENOMEM;

	if (res < 0) {
		free(fiber);
		return error_set(error, res, "cannot begin another line of work: %s", strerror(-res));
	}
	fiber->ring = ring;
	fiber->run = run;
	fiber->data = data;
	getcontext(&fiber->own);
	fiber->own.uc_stack.ss_sp = fiber->stack;
	fiber->own.uc_stack.ss_size = FIBER_STACK;
	makecontext(&fiber->own, (void (*)(void))begin, 2, (unsigned)((uintptr_t)fiber >> 32),
	    (unsigned)(uintptr_t)fiber);
	if (!ring->fibers.next)
		list_init(&ring->fibers);
	list_append(&ring->fibers, &fiber->node);
	*ret = fiber;
	if (ring->fiber)
		fiber->until = &at_once;
	else
		enter(fiber);
	return 0;
}

bool fiber_has_ended(const struct fiber *fiber)
{
	return fiber->ended;
}

struct fiber *fiber_free(struct fiber *fiber)
{
	if (!fiber)
		return NULL;
	assert(fiber->ended && fiber->ring->fiber != fiber);
	munmap(fiber->map, fiber->map_length);
	free(fiber);
	return NULL;
}

int fiber_wait(struct ring *ring, const bool *until)
{
	struct fiber *fiber = ring->fiber;

	fiber->until = until;
	leave(fiber);
	return fiber->res;
}

bool fiber_run_ready(struct ring *ring, bool stepped, int res)
{
	bool any = false;

	list_for_each_safe (node, &ring->fibers) {
		struct fiber *fiber = container_of(node, struct fiber, node);

		if (res == 0 && (fiber->until ? !*fiber->until : !stepped))
			continue;
		any = true;
		fiber->res = res;
		enter(fiber);
	}
	return any;
}
