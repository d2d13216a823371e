/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A thread and an eventfd that says that it is done: see ring_call.h. */
#include "ring/ring_call.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

struct ring_call {
	int (*work)(void *data, struct error *error);
	void *data;
	struct error *error;
	int result, event;
};

static void *run(void *data)
{
	struct ring_call *call = data;
	uint64_t one = 1;

	call->result = call->work(call->data, call->error);
	if (write(call->event, &one, sizeof(one)) < 0)
		abort(); /* a fresh eventfd always takes one */
	return NULL;
}

int ring_call(
    struct ring *ring, int (*work)(void *data, struct error *error), void *data, struct error *error)
{
	struct ring_call call = {
	    .work = work, .data = data, .error = error, .event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
	struct ring_op op = {.opcode = RING_POLL, .fd = call.event, .events = POLLIN};
	sigset_t all, before;
	pthread_t thread;
	int res;

	if (call.event < 0)
		return error_set(error, -errno, "cannot make an event: %s", strerror(errno));
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	res = pthread_create(&thread, NULL, run, &call);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (res) {
		close(call.event);
		return error_set(error, -res, "cannot start a thread: %s", strerror(res));
	}
	res = ring_wait(ring, &op);
	pthread_join(thread, NULL);
	close(call.event);
	return res < 0 ? error_set(error, res, "the event loop failed: %s", strerror(-res)) : call.result;
}
