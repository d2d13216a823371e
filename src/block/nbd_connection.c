/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One NBD connection on the ring. libnbd's state machine says which direction it waits for; the ring polls
 * that. Looking a host's name up may take long and cannot be interrupted, so that libnbd's connect call runs
 * in a thread of its own until it returns; a thread that is still busy when we no longer care keeps the
 * handle and closes it.
 */
#include "base/cleanup.h"
#include "block/nbd_private.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

struct nbd_dial {
	struct nbd_handle *handle;
	char *uri;
	int event;          /* an eventfd: written when done */
	int result;         /* 0 or -errno; read after `event` */
	char words[400];    /* libnbd's, for this thread's errors are its own */
	_Atomic int owners; /* the thread and the connection */
};

static void dial_unref(struct nbd_dial *dial)
{
	if (atomic_fetch_sub(&dial->owners, 1) != 1)
		return;
	nbd_close(dial->handle);
	cleanup_close(&dial->event);
	free(dial->uri);
	free(dial);
}

static void *dial_run(void *data)
{
	struct nbd_dial *dial = data;
	uint64_t one = 1;

	if (nbd_aio_connect_uri(dial->handle, dial->uri) < 0) {
		/* A name that cannot be looked up has no errno; a malformed URI has EINVAL. */
		dial->result = nbd_get_errno() == EINVAL ? -EINVAL : -ENOTCONN;
		snprintf(dial->words, sizeof(dial->words), "%s", nbd_get_error());
	}
	if (write(dial->event, &one, sizeof(one)) < 0)
		abort(); /* a fresh eventfd always takes one */
	dial_unref(dial);
	return NULL;
}

/* A thread without signals: they are for the program's own. */
static int start_thread(struct nbd_dial *dial)
{
	pthread_attr_t attributes;
	sigset_t all, before;
	pthread_t thread;
	int res;

	pthread_attr_init(&attributes);
	pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	res = pthread_create(&thread, &attributes, dial_run, dial);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	pthread_attr_destroy(&attributes);
	return -res;
}

void nbd_connection_init(struct nbd_connection *connection, struct nbd_volume *volume)
{
	*connection = (struct nbd_connection){.volume = volume};
	list_init(&connection->in_flight);
}

bool nbd_connection_is_busy(const struct nbd_connection *connection)
{
	return connection->poll_in.active || connection->poll_out.active || connection->dialled.active;
}

void nbd_connection_close(struct nbd_connection *connection, bool politely)
{
	struct ring *ring = connection->volume->block.ring;

	ring_cancel(ring, &connection->poll_in);
	ring_cancel(ring, &connection->poll_out);
	ring_cancel(ring, &connection->dialled);
	if (connection->dial)
		dial_unref(connection->dial);
	connection->dial = NULL;
	if (connection->handle && politely && connection->usable)
		nbd_aio_disconnect(connection->handle, 0);
	nbd_close(connection->handle);
	connection->handle = NULL;
	connection->usable = false;
}

static void fail(struct nbd_connection *connection, int code, const char *words)
{
	struct nbd_volume *volume = connection->volume;

	if (volume->open) {
		nbd_break(volume, words);
		return;
	}
	if (connection->failed)
		return;
	connection->failed = true;
	error_set(&connection->why, code, "%s", words);
	nbd_connection_close(connection, false);
}

/* What came of a call into libnbd. `res` is its result. */
static void after_call(struct nbd_connection *connection, int res)
{
	struct nbd_handle *handle = connection->handle;
	char words[400] = "the server closed the connection";

	if (res < 0)
		snprintf(words, sizeof(words), "%s", nbd_get_error());
	if (nbd_aio_is_dead(handle) || nbd_aio_is_closed(handle)) {
		fail(connection, -ENOTCONN, words);
		return;
	}
	while (!connection->usable && nbd_aio_is_negotiating(handle)) {
		const char *why = nbd_bitmaps_negotiate(connection);

		if (why) {
			fail(connection, -ENOTCONN, why);
			return;
		}
	}
	if (!connection->usable && nbd_aio_is_ready(handle))
		connection->usable = true;
}

/*
 * libnbd takes a call to read as proof that there is something: when nothing comes it waits for an answer, and
 * keeps back the commands that would be answered. What was readable when the poll ended may have been read since.
 */
static bool may_read(struct nbd_handle *handle)
{
	char byte;

	return recv(nbd_aio_get_fd(handle), &byte, sizeof(byte), MSG_PEEK | MSG_DONTWAIT) >= 0 ||
	       (errno != EAGAIN && errno != EINTR);
}

static int notify(struct nbd_handle *handle, unsigned direction)
{
	if (direction == LIBNBD_AIO_DIRECTION_WRITE)
		return nbd_aio_notify_write(handle);
	return may_read(handle) ? nbd_aio_notify_read(handle) : 0;
}

/* A poll came back, wanted for `direction`. */
static void poll_came(struct nbd_connection *connection, int res, unsigned direction)
{
	struct nbd_volume *volume = connection->volume;
	struct nbd_handle *handle = connection->handle;

	if (handle && res != -ECANCELED && (nbd_aio_get_direction(handle) & direction)) {
		connection->heard_ns = ring_now_ns(volume->block.ring);
		after_call(connection, notify(handle, direction));
	}
	if (volume->open && !volume->closing)
		nbd_turn(volume);
	nbd_connection_arm(connection);
	nbd_check_settled(volume);
}

static void poll_in_done(struct ring_op *op, int res)
{
	poll_came(container_of(op, struct nbd_connection, poll_in), res, LIBNBD_AIO_DIRECTION_READ);
}

static void poll_out_done(struct ring_op *op, int res)
{
	poll_came(container_of(op, struct nbd_connection, poll_out), res, LIBNBD_AIO_DIRECTION_WRITE);
}

static void arm(
    struct ring *ring, struct ring_op *op, int fd, short events, void (*done)(struct ring_op *op, int res))
{
	if (op->active)
		return;
	*op = (struct ring_op){.opcode = RING_POLL, .fd = fd, .events = events, .done = done};
	ring_submit(ring, op);
}

void nbd_connection_arm(struct nbd_connection *connection)
{
	struct ring *ring = connection->volume->block.ring;
	unsigned direction;
	int fd;

	if (!connection->handle || connection->volume->closing)
		return;
	direction = nbd_aio_get_direction(connection->handle);
	fd = nbd_aio_get_fd(connection->handle);
	if (fd < 0)
		return;
	if (direction & LIBNBD_AIO_DIRECTION_READ)
		arm(ring, &connection->poll_in, fd, POLLIN, poll_in_done);
	if (direction & LIBNBD_AIO_DIRECTION_WRITE)
		arm(ring, &connection->poll_out, fd, POLLOUT, poll_out_done);
}

static void dialled_done(struct ring_op *op, int res)
{
	struct nbd_connection *connection = container_of(op, struct nbd_connection, dialled);
	struct nbd_dial *dial = connection->dial;

	if (dial && res != -ECANCELED) {
		connection->dial = NULL;
		if (dial->result < 0) {
			fail(connection, dial->result, dial->words);
		} else {
			connection->handle = dial->handle;
			dial->handle = NULL;
			after_call(connection, 0);
		}
		dial_unref(dial);
	}
	nbd_connection_arm(connection);
	nbd_check_settled(connection->volume);
}

static int start_dial(struct nbd_connection *connection, struct nbd_handle *handle)
{
	struct nbd_dial *dial = calloc(1, sizeof(*dial));
	int res;

	if (!dial) {
		nbd_close(handle);
		return -ENOMEM;
	}
	dial->handle = handle;
	dial->owners = 1;
	dial->uri = strdup(connection->volume->uri);
	dial->event = eventfd(0, EFD_CLOEXEC);
	res = dial->uri && dial->event >= 0 ? 0 : -ENOMEM;
	if (res == 0) {
		dial->owners = 2;
		res = start_thread(dial);
		if (res < 0)
			dial->owners = 1;
	}
	if (res < 0) {
		dial_unref(dial);
		return res;
	}
	connection->dial = dial;
	arm(connection->volume->block.ring, &connection->dialled, dial->event, POLLIN, dialled_done);
	return 0;
}

static int start_captive(struct nbd_connection *connection, struct nbd_handle *handle)
{
	int fd = captive_connect(connection->volume->captive), res;

	if (fd < 0) {
		nbd_close(handle);
		return fd;
	}
	res = nbd_aio_connect_socket(handle, fd);
	connection->handle = handle;
	after_call(connection, res);
	nbd_connection_arm(connection);
	return 0;
}

int nbd_connection_add_contexts(const struct nbd_volume *volume, struct nbd_handle *handle)
{
	int res = nbd_add_meta_context(handle, LIBNBD_CONTEXT_BASE_ALLOCATION);

	return res == 0 && volume->changes ? nbd_add_meta_context(handle, volume->changes) : res;
}

/* Returns NULL, with libnbd's words at hand, when a setting is refused. */
static struct nbd_handle *make_handle(const struct nbd_connection *connection)
{
	const struct nbd_volume *volume = connection->volume;
	const struct link_options *link = &volume->link;
	struct nbd_handle *handle = nbd_create();
	bool ok;

	if (!handle)
		return NULL;
	/* The last bytes of a volume whose size is no multiple of the server's block must be reached: let it
	 * decide. */
	ok = nbd_set_strict_mode(handle, nbd_get_strict_mode(handle) & ~LIBNBD_STRICT_ALIGN) == 0;
	if (ok && nbd_bitmaps_wanted(connection))
		ok = nbd_set_opt_mode(handle, true) == 0;
	else if (ok)
		ok = nbd_connection_add_contexts(volume, handle) == 0;
	/* The URI is the user's own word, files that it names included. */
	ok = ok && nbd_set_uri_allow_local_file(handle, true) == 0;
	if (ok && link->tls_certificates)
		ok = nbd_set_tls_certificates(handle, link->tls_certificates) == 0;
	if (ok && link->tls_psk_file)
		ok = nbd_set_tls_psk_file(handle, link->tls_psk_file) == 0;
	if (ok && link->tls_username)
		ok = nbd_set_tls_username(handle, link->tls_username) == 0;
	if (ok && link->tls_insecure)
		ok = nbd_set_tls_verify_peer(handle, false) == 0;
	if (ok)
		return handle;
	nbd_close(handle);
	return NULL;
}

void nbd_connection_start(struct nbd_connection *connection)
{
	struct nbd_volume *volume = connection->volume;
	struct nbd_handle *handle = make_handle(connection);
	int res;

	if (!handle) {
		fail(connection, -EINVAL, nbd_get_error());
		return;
	}
	res = volume->captive ? start_captive(connection, handle) : start_dial(connection, handle);
	if (res < 0)
		fail(connection, res, strerror(-res));
}
