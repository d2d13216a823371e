/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Connects to an NBD server, asks what the export is, opens further connections where the server allows
 * several, and in the end closes all. Waiting runs the ring, with a deadline.
 */
#include "base/bytes.h"
#include "base/cleanup.h"
#include "block/inspect.h"
#include "block/nbd_private.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define TIMEOUT_MS      30000
#define CONNECTIONS     4
#define MORE_MS         1000 /* further connections get so long, or three times what the first took */
#define EXIT_MS         500
#define GRACE_MS        10000 /* a captive server may take so long to put its image in order */
#define GRACE_BROKEN_MS 1000
#define ZEROES_BYTES    (UINT64_C(1) << 20)
#define PROBE_BYTES     (UINT64_C(512) << 10) /* at each end, for signatures: ZFS lies that deep */

static bool is_idle(const struct nbd_volume *volume)
{
	for (unsigned i = 0; i < NBD_CONNECTIONS_MAX; i++)
		if (nbd_connection_is_busy(&volume->connections[i]))
			return false;
	return !volume->timer.active && !volume->kick.active;
}

void nbd_check_settled(struct nbd_volume *volume)
{
	if (volume->closing) {
		volume->settled = is_idle(volume);
		return;
	}
	if (volume->open)
		return;
	volume->settled = true;
	for (unsigned i = 0; i < volume->connections_count; i++)
		if (!volume->connections[i].usable && !volume->connections[i].failed)
			volume->settled = false;
	volume->settled = volume->settled || volume->expired;
}

static void deadline_done(struct ring_op *op, int res)
{
	struct nbd_volume *volume = container_of(op, struct nbd_volume, timer);

	volume->expired = res != -ECANCELED;
	nbd_check_settled(volume);
}

/* Runs the ring until each connection is usable or has failed, or the time is over. */
static int wait_for_handshakes(struct nbd_volume *volume, uint64_t timeout_ms)
{
	struct ring *ring = volume->block.ring;
	int res;

	volume->expired = false;
	volume->timer = (struct ring_op){.opcode = RING_TIMER,
	    .deadline_ns = ring_now_ns(ring) + timeout_ms * 1000000,
	    .done = deadline_done};
	ring_submit(ring, &volume->timer);
	nbd_check_settled(volume);
	res = ring_run_until(ring, &volume->settled);
	ring_cancel(ring, &volume->timer);
	while (res == 0 && volume->timer.active)
		res = ring_step(ring);
	return res;
}

static int connect_words(struct nbd_volume *volume, const struct error *why, struct error *error)
{
	const char *name = volume->block.info.name;
	char ended[80];

	/* A server that cannot serve closes its socket a moment before it has ended. */
	if (volume->captive &&
	    captive_ended(volume->captive, volume->block.ring, why ? EXIT_MS : 0, ended, sizeof(ended)))
		return error_set(error, -ENOTCONN,
		    "cannot use %s: the server %s before it served anything; see its own message", name,
		    ended);
	if (!why)
		return error_set(error, -ENOTCONN,
		    "cannot connect to %s: no answer within %.1f s; check that the server runs and is "
		    "reachable",
		    name, volume->timeout_ms / 1e3);
	if (why->code == -EINVAL)
		return error_set(error, -EINVAL, "cannot use %s: %s", name, why->text);
	return error_set(error, why->code,
	    "cannot connect to %s: %s; check that the server runs, and that export and TLS are as it has "
	    "them",
	    name, why->text);
}

static int connect_first(struct nbd_volume *volume, struct error *error)
{
	struct nbd_connection *first = &volume->connections[0];
	int res;

	volume->connections_count = 1;
	nbd_connection_start(first);
	res = wait_for_handshakes(volume, volume->timeout_ms);
	if (res < 0)
		return error_set(
		    error, res, "cannot connect to %s: %s", volume->block.info.name, strerror(-res));
	return first->usable ? 0 : connect_words(volume, first->failed ? &first->why : NULL, error);
}

/* Further connections are for speed: those that do not come in good time, or see another size, are done
 * without. */
static int connect_more(struct nbd_volume *volume, uint64_t first_took_ms)
{
	unsigned wanted = volume->link.nbd_connections ? volume->link.nbd_connections : CONNECTIONS;
	unsigned kept = 1;
	int res;

	if (nbd_can_multi_conn(volume->connections[0].handle) != 1)
		return 0;
	volume->connections_count = wanted;
	for (unsigned i = 1; i < volume->connections_count; i++)
		nbd_connection_start(&volume->connections[i]);
	res = wait_for_handshakes(volume, max_u64(MORE_MS, 3 * first_took_ms));
	for (unsigned i = 1; i < volume->connections_count; i++) {
		struct nbd_connection *connection = &volume->connections[i];

		if (connection->usable &&
		    nbd_get_size(connection->handle) != (int64_t)volume->block.info.size)
			connection->usable = false;
		if (!connection->usable)
			nbd_connection_close(connection, false);
	}
	/* The ring may still hold the operations of those that go: they end before anything moves. */
	for (unsigned i = 1; i < volume->connections_count; i++)
		while (res == 0 && !volume->connections[i].usable &&
		       nbd_connection_is_busy(&volume->connections[i]))
			res = ring_step(volume->block.ring);
	while (kept < volume->connections_count && volume->connections[kept].usable)
		kept++;
	/* Polls point into their connection, so that none can move up: what follows a gap goes, too. */
	for (unsigned i = kept; i < volume->connections_count; i++)
		nbd_connection_close(&volume->connections[i], true);
	volume->connections_count = kept;
	return res;
}

static uint64_t block_size(struct nbd_handle *handle, int which)
{
	int64_t size = nbd_get_block_size(handle, which);

	return size > 0 ? (uint64_t)size : 0;
}

static int learn_limits(struct nbd_volume *volume, struct error *error)
{
	struct nbd_handle *handle = volume->connections[0].handle;
	struct block_info *info = &volume->block.info;
	uint64_t least = max_u64(block_size(handle, LIBNBD_SIZE_MINIMUM), 1);
	uint64_t most = block_size(handle, LIBNBD_SIZE_MAXIMUM);

	if (least > 65536 || (least & (least - 1)) || (most && most < least))
		return error_set(error, -EPROTO,
		    "cannot use %s: the server names impossible block sizes (at least %llu, at most %llu "
		    "bytes)",
		    info->name, (unsigned long long)least, (unsigned long long)most);
	most = most ? min_u64(most, BLOCK_IO_MAX) : BLOCK_IO_MAX;
	volume->read_max = volume->write_max = align_down(most, least);
	volume->zeroes_bytes = min_u64(volume->write_max, ZEROES_BYTES);
	info->request_align = 1; /* nbd_align.c sees to that */
	info->linked = true;
	volume->least = least;
	info->sector_size = (uint32_t)least;
	return 0;
}

/* A network may lie between, but info.remote stays false: digests cost as much as the data itself. */
static int learn_export(struct nbd_volume *volume, bool write, struct error *error)
{
	struct nbd_handle *handle = volume->connections[0].handle;
	struct block_info *info = &volume->block.info;
	int64_t size = nbd_get_size(handle);

	if (size < 0)
		return error_set(
		    error, -EPROTO, "cannot learn the size of %s: %s", info->name, nbd_get_error());
	if (write && nbd_is_read_only(handle) != 0)
		return error_set(error, -EROFS,
		    "cannot write to %s: the server exports it read-only; export it writable, or name "
		    "another target",
		    info->name);
	info->size = (uint64_t)size;
	info->writable = write;
	volume->can_flush = nbd_can_flush(handle) == 1;
	volume->use_fua = !volume->can_flush && nbd_can_fua(handle) == 1;
	info->no_flush = !volume->can_flush && !volume->use_fua;
	volume->can_extents = nbd_can_meta_context(handle, LIBNBD_CONTEXT_BASE_ALLOCATION) == 1;
	info->tells_changes = volume->changes && nbd_can_meta_context(handle, volume->changes) == 1;
	volume->can_zero = nbd_can_zero(handle) == 1;
	volume->can_trim = nbd_can_trim(handle) == 1;
	volume->can_fast = nbd_can_fast_zero(handle) == 1;
	info->fua = nbd_can_fua(handle) == 1;
	info->no_hole = true;
	return learn_limits(volume, error);
}

static int make_parts(struct nbd_volume *volume, struct error *error)
{
	unsigned count = NBD_PARTS * volume->connections_count;

	volume->parts = calloc(count, sizeof(*volume->parts));
	if (volume->block.info.writable && !volume->can_zero)
		volume->zeroes = calloc(1, volume->zeroes_bytes);
	if (!volume->parts || (volume->block.info.writable && !volume->can_zero && !volume->zeroes))
		return error_set(error, -ENOMEM, "cannot open %s: out of memory", volume->block.info.name);
	for (unsigned i = 0; i < count; i++)
		list_append(&volume->parts_free, &volume->parts[i].node);
	return digest_reader_new(&volume->digests, &volume->block, error);
}

static int open_export(struct nbd_volume *volume, bool write, struct error *error)
{
	struct ring *ring = volume->block.ring;
	uint64_t begin = ring_now_ns(ring);
	int res = connect_first(volume, error);

	if (res < 0)
		return res;
	res = learn_export(volume, write, error);
	if (res < 0)
		return res;
	res = connect_more(volume, (ring_now_ns(ring) - begin) / 1000000);
	if (res < 0)
		return error_set(
		    error, res, "cannot connect to %s: %s", volume->block.info.name, strerror(-res));
	if (!volume->connections[0].usable)
		return connect_words(volume, &volume->connections[0].why, error);
	if (volume->captive)
		captive_hide(volume->captive);
	return make_parts(volume, error);
}

/* What lies there, for the refusal of targets: both ends are read into a sparse file in memory, and libblkid
 * looks at that. */
static int probe_part(struct nbd_volume *volume, int fd, uint64_t offset, uint64_t length)
{
	_cleanup_(cleanup_free) void *data = NULL;
	struct block_io io = {.op = BLOCK_READ, .offset = offset, .length = length};
	int res;

	if (posix_memalign(&data, 4096, length ? length : 1) != 0)
		return -ENOMEM;
	io.buf = data;
	res = block_wait(&volume->block, &io);
	if (res < 0)
		return res;
	return pwrite(fd, data, length, (off_t)offset) == (ssize_t)length ? 0 : -EIO;
}

static int nbd_facts(struct block *block, struct block_facts *ret, struct error *error)
{
	struct nbd_volume *volume = to_nbd(block);
	_cleanup_(cleanup_close) int fd = -1;
	uint64_t size = block->info.size, tail;
	int res;

	ret->allocated = size;
	/* A source may carry what it likes: ask only for what could be overwritten. */
	if (!volume->target || size == 0)
		return 0;
	fd = memfd_create("blkmove-probe", MFD_CLOEXEC);
	if (fd < 0 || ftruncate(fd, (off_t)size) < 0)
		return 0;
	tail = size > 2 * PROBE_BYTES ? align_down(size - PROBE_BYTES, 65536) : min_u64(size, PROBE_BYTES);
	res = probe_part(volume, fd, 0, min_u64(size, PROBE_BYTES));
	if (res == 0)
		res = probe_part(volume, fd, tail, size - tail);
	if (res < 0)
		return error_set(error, res, "cannot look at %s: %s", block->info.name, strerror(-res));
	inspect_signature(fd, ret->signature, sizeof(ret->signature));
	return 0;
}

static int nbd_link_error(struct block *block, struct error *error)
{
	struct nbd_volume *volume = to_nbd(block);

	return volume->broken ? error_set(error, -ENOTCONN, "%s", volume->link_error.text) : 0;
}

static void nbd_free(struct block *block)
{
	struct nbd_volume *volume = to_nbd(block);
	struct ring *ring = block->ring;

	digest_reader_free(volume->digests);
	assert(list_empty(&volume->queue) && list_empty(&volume->finished));
	volume->closing = true;
	for (unsigned i = 0; i < NBD_CONNECTIONS_MAX; i++)
		nbd_connection_close(&volume->connections[i], !volume->broken);
	ring_cancel(ring, &volume->timer);
	nbd_check_settled(volume);
	ring_run_until(ring, &volume->settled);
	captive_free(volume->captive, ring, volume->broken ? GRACE_BROKEN_MS : GRACE_MS);
	free(volume->changes);
	free(volume->zeroes);
	free(volume->parts);
	free(volume);
}

static const struct block_driver nbd_driver = {
    .name = "nbd",
    .submit = nbd_submit,
    .facts = nbd_facts,
    .link_error = nbd_link_error,
    .free = nbd_free,
};

static int init_volume(struct nbd_volume *volume, struct ring *ring, const struct endpoint *endpoint,
    const struct block_open_options *options)
{
	volume->block = (struct block){.driver = &nbd_driver, .ring = ring};
	snprintf(volume->block.info.name, sizeof(volume->block.info.name), "%s", endpoint->name);
	volume->uri = endpoint->path;
	volume->link = options->link;
	volume->target = options->write || options->target;
	volume->list_bitmaps = options->list_bitmaps;
	volume->timeout_ms = options->link.timeout_ms ? options->link.timeout_ms : TIMEOUT_MS;
	list_init(&volume->parts_free);
	list_init(&volume->finished);
	list_init(&volume->queue);
	list_init(&volume->writes);
	for (unsigned i = 0; i < NBD_CONNECTIONS_MAX; i++)
		nbd_connection_init(&volume->connections[i], volume);
	if (options->changes_since &&
	    asprintf(&volume->changes, "%s%s", strchr(options->changes_since, ':') ? "" : NBD_DIRTY_BITMAP,
	        options->changes_since) < 0) {
		volume->changes = NULL;
		return -ENOMEM;
	}
	return 0;
}

int nbd_open(struct block **ret, struct ring *ring, const struct endpoint *endpoint,
    const struct block_open_options *options, struct error *error)
{
	struct nbd_volume *volume = calloc(1, sizeof(*volume));
	int res = 0;

	if (!volume)
		return error_set(error, -ENOMEM, "cannot open %s: out of memory", endpoint->name);
	if (options->link.nbd_connections > NBD_CONNECTIONS_MAX) {
		free(volume);
		return error_set(error, -EINVAL,
		    "cannot open %s by %u connections: at most %u are possible; ask for fewer",
		    endpoint->name, options->link.nbd_connections, NBD_CONNECTIONS_MAX);
	}
	if (init_volume(volume, ring, endpoint, options) < 0)
		res = error_set(error, -ENOMEM, "cannot open %s: out of memory", endpoint->name);
	if (res == 0 && endpoint->kind == ENDPOINT_CAPTIVE)
		res = captive_start(&volume->captive, endpoint->argv,
		    options->link.captive_words > STDERR_FILENO ? options->link.captive_words : STDERR_FILENO,
		    error);
	if (res == 0)
		res = open_export(volume, options->write, error);
	if (res < 0) {
		volume->broken = res == -ENOTCONN;
		nbd_free(&volume->block);
		return res;
	}
	volume->open = true;
	*ret = &volume->block;
	return 0;
}
