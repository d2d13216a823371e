/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Requests of one client: from its bytes to the block and back to a reply. The slots are there from the start, buffers are kept
 * for the next request: nothing is allocated while requests flow, but for data of more than BLOCK_IO_MAX.
 */
#include "export/nbd_server_private.h"

#include "base/bytes.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int nbd_slots_new(struct nbd_client *client)
{
	client->slots = calloc(NBD_SLOTS, sizeof(*client->slots));
	if (!client->slots)
		return -ENOMEM;
	for (unsigned i = 0; i < NBD_SLOTS; i++) {
		client->slots[i].client = client;
		list_append(&client->free, &client->slots[i].node);
	}
	return 0;
}

/* Buffers */

static void *buf_get(struct nbd_server *server, size_t size)
{
	if (size > BLOCK_IO_MAX)
		return aligned_alloc(4096, align_up(size, 4096));
	return page_buffers_get(&server->buffers, size);
}

static void buf_put(struct nbd_server *server, void *buf, size_t size)
{
	if (size > BLOCK_IO_MAX)
		free(buf);
	else
		page_buffers_put(&server->buffers, buf, size);
}

static void give_memory(struct nbd_slot *slot)
{
	struct nbd_client *client = slot->client;

	if (slot->buf)
		buf_put(client->server, slot->buf, slot->buf_size);
	if (slot->pipe)
		nbd_pipes_put(&client->server->pipes, slot->pipe);
	if (slot->buf_size)
		nbd_server_give_bytes(client, slot->buf_size);
	slot->buf = NULL;
	slot->pipe = NULL;
	slot->buf_size = 0;
}

void nbd_slot_release(struct nbd_slot *slot)
{
	struct nbd_client *client = slot->client;

	give_memory(slot);
	list_remove(&slot->node);
	/* The last one first: its memory is still in the processor's cache. */
	list_prepend(&client->free, &slot->node);
}

/* Replies */

static uint32_t encode_extents(struct nbd_slot *slot, int count)
{
	const struct extent *extents = slot->buf;
	uint8_t *out = slot->buf;
	uint32_t length = 0;

	/* In place: 8 bytes of each replace the 24 of the structure. */
	for (int i = 0; i < count; i++) {
		struct extent extent = extents[i];

		nbd_descriptor_build(out + length, (uint32_t)extent.length,
		    extent.kind == EXTENT_ZERO ? NBD_STATE_HOLE | NBD_STATE_ZERO : 0);
		length += 8;
	}
	return length;
}

static void build_reply(struct nbd_slot *slot, int res)
{
	const struct nbd_request *request = &slot->request;
	bool structured = slot->client->shape.structured;
	uint64_t cookie = request->cookie;

	slot->payload_length = 0;
	if (!structured) {
		slot->header_length = nbd_simple_reply_build(slot->header, cookie, res < 0 ? res : 0);
		if (res >= 0 && request->type == NBD_COMMAND_READ)
			slot->payload_length = request->length;
	} else if (res < 0) {
		slot->header_length = nbd_chunk_error_build(slot->header, cookie, res);
	} else if (request->type == NBD_COMMAND_READ) {
		slot->header_length =
		    nbd_chunk_data_build(slot->header, cookie, request->offset, request->length);
		slot->payload_length = request->length;
	} else if (request->type == NBD_COMMAND_BLOCK_STATUS) {
		slot->payload_length = encode_extents(slot, res);
		slot->header_length =
		    nbd_chunk_status_build(slot->header, cookie, NBD_ALLOCATION_ID, (uint32_t)res);
	} else {
		slot->header_length = nbd_chunk_build(slot->header, cookie, NBD_CHUNK_NONE, 0);
	}
}

static void answer(struct nbd_slot *slot, int res)
{
	struct nbd_client *client = slot->client;

	build_reply(slot, res);
	list_append(&client->answered, &slot->node);
	nbd_client_send_soon(client);
}

/* To the block and back */

static void submit_piece(struct nbd_slot *slot)
{
	struct block_io *io = &slot->io;

	io->offset = slot->request.offset + slot->done;
	io->length = slot->request.length - slot->done;
	if (io->op == BLOCK_READ || io->op == BLOCK_WRITE) {
		io->length = min_u64(io->length, BLOCK_IO_MAX);
		io->buf = slot->buf ? (char *)slot->buf + slot->done : NULL;
	}
	block_submit(slot->client->export->block, io);
}

int nbd_slot_leave_pipe(struct nbd_slot *slot, size_t have)
{
	struct nbd_server *server = slot->client->server;
	size_t got = 0;
	ssize_t res = 1;

	slot->buf = buf_get(server, slot->buf_size);
	if (!slot->buf)
		return -ENOMEM;
	while (got < have && res > 0) {
		res = read(slot->pipe->read_fd, (char *)slot->buf + got, have - got);
		got += res > 0 ? (size_t)res : 0;
	}
	slot->pipe->empty = slot->request.type == NBD_COMMAND_WRITE && got == have;
	nbd_pipes_put(&server->pipes, slot->pipe);
	slot->pipe = NULL;
	return got == have ? 0 : -EIO;
}

/* The kernel, or the file system, has no way to it: then as ever. */
static int go_without_pipe(struct nbd_slot *slot)
{
	int res;

	slot->client->server->pipes.most = 0;
	res = nbd_slot_leave_pipe(slot, slot->io.op == BLOCK_WRITE ? slot->request.length : 0);
	slot->io.flags &= ~(uint32_t)BLOCK_PIPE;
	if (res == 0)
		submit_piece(slot);
	return res;
}

/* Its volume is closed. Who is told so has an error; who is cut off asks again, there or where the volume is then. */
static const struct error closed = {.code = -ESHUTDOWN};

static void io_done(struct block_io *io, int res)
{
	struct nbd_slot *slot = container_of(io, struct nbd_slot, io);
	struct nbd_client *client = slot->client;
	struct nbd_server *server = client->server;
	const struct nbd_server_options *options = &server->options;

	if (slot->pipe && res == -EOPNOTSUPP) {
		res = go_without_pipe(slot);
		if (res == 0)
			return;
	}
	slot->done += slot->io.length;
	if (res == 0 && slot->done < slot->request.length &&
	    (io->op == BLOCK_READ || io->op == BLOCK_WRITE)) {
		submit_piece(slot);
		return;
	}
	client->under_way--;
	if (options->answered)
		options->answered(options->data, io->op, slot->request.length, res,
		    ring_now_ns(server->ring) - slot->begun_ns);
	/* The next request has them while they are still in the processor's cache. */
	if (io->op == BLOCK_WRITE) {
		if (slot->pipe)
			slot->pipe->empty = res == 0;
		give_memory(slot);
	}
	if (res == -ESHUTDOWN)
		nbd_client_end(client, &closed);
	if (!client->broken) {
		answer(slot, res);
		return;
	}
	nbd_slot_release(slot);
	nbd_client_check_end(client);
	nbd_server_feed(server);
}

static const enum block_op ops[] = {
    [NBD_COMMAND_READ] = BLOCK_READ,
    [NBD_COMMAND_WRITE] = BLOCK_WRITE,
    [NBD_COMMAND_FLUSH] = BLOCK_FLUSH,
    [NBD_COMMAND_TRIM] = BLOCK_TRIM,
    [NBD_COMMAND_WRITE_ZEROES] = BLOCK_ZERO,
    [NBD_COMMAND_BLOCK_STATUS] = BLOCK_EXTENTS,
};

static uint32_t block_flags(const struct nbd_request *request)
{
	return (request->flags & NBD_FLAG_FUA ? BLOCK_FUA : 0) |
	       (request->flags & NBD_FLAG_NO_HOLE ? BLOCK_NO_HOLE : 0) |
	       (request->flags & NBD_FLAG_FAST_ZERO ? BLOCK_FAST : 0);
}

/* All of the payload has come. */
static void submit(struct nbd_slot *slot)
{
	const struct nbd_request *request = &slot->request;
	struct block_io *io = &slot->io;

	io->op = ops[request->type];
	io->flags = block_flags(request);
	io->buf = NULL;
	io->done = io_done;
	if (slot->pipe) {
		io->flags |= BLOCK_PIPE;
		io->pipe_fd = io->op == BLOCK_READ ? slot->pipe->write_fd : slot->pipe->read_fd;
	}
	if (io->op == BLOCK_EXTENTS) {
		io->extents = slot->buf;
		io->extents_max = request->flags & NBD_FLAG_REQ_ONE ? 1 : NBD_EXTENTS;
	}
	slot->done = 0;
	slot->begun_ns = slot->client->server->options.answered ? ring_now_ns(slot->client->server->ring) : 0;
	slot->client->under_way++;
	submit_piece(slot);
}

/* Input */

static size_t buf_size_of(const struct nbd_request *request)
{
	switch (request->type) {
	case NBD_COMMAND_READ:
	case NBD_COMMAND_WRITE:
		return request->length;
	case NBD_COMMAND_BLOCK_STATUS:
		return NBD_EXTENTS * sizeof(struct extent);
	default:
		return 0;
	}
}

/* What of the payload lies in the input already. */
static enum nbd_step take_payload(struct nbd_client *client)
{
	struct nbd_slot *slot = client->payload;
	size_t left = slot->request.length - client->payload_have;
	size_t length = min_u64(left, client->in_end - client->in_start);

	if (length > 0)
		memcpy((char *)slot->buf + client->payload_have, client->in + client->in_start, length);
	client->in_start += length;
	client->payload_have += length;
	if (length < left)
		return NBD_STEP_MORE;
	client->payload = NULL;
	submit(slot);
	return NBD_STEP_ON;
}

static enum nbd_step take_discarded(struct nbd_client *client)
{
	size_t length = min_u64(client->discard, client->in_end - client->in_start);

	client->in_start += length;
	client->discard -= length;
	return client->discard ? NBD_STEP_MORE : NBD_STEP_ON;
}

/* A READ that is worth it; a WRITE of which nothing has come yet, and that need not be on stable storage. */
static bool is_for_pipe(const struct nbd_slot *slot)
{
	const struct nbd_request *request = &slot->request;
	const struct nbd_client *client = slot->client;

	if (request->type == NBD_COMMAND_WRITE) {
		if (!client->long_payloads || client->in_start < client->in_end ||
		    request->flags & NBD_FLAG_FUA)
			return false;
	} else if (request->type != NBD_COMMAND_READ || request->length < NBD_PIPED_MIN) {
		return false;
	}
	return !client->stream.tls && nbd_pipe_fits(request->offset, request->length) &&
	       block_takes_pipe(client->export->block, ops[request->type]);
}

static enum nbd_step begin(struct nbd_client *client, struct nbd_slot *slot, int res)
{
	bool payload = slot->request.type == NBD_COMMAND_WRITE;

	client->long_payloads = payload && slot->request.length > NBD_INPUT_BYTES;
	client->in_start += NBD_REQUEST_BYTES;
	list_remove(&slot->node);
	if (res == 0 && is_for_pipe(slot))
		slot->pipe = nbd_pipes_get(&client->server->pipes);
	if (res == 0 && slot->buf_size > 0 && !slot->pipe) {
		slot->buf = buf_get(client->server, slot->buf_size);
		res = slot->buf ? 0 : -ENOMEM;
	}
	if (res < 0) {
		client->discard = payload ? slot->request.length : 0;
		answer(slot, res);
	} else if (payload) {
		client->payload = slot;
		client->payload_have = 0;
	} else {
		submit(slot);
	}
	return NBD_STEP_ON;
}

static enum nbd_step take_request(struct nbd_client *client)
{
	struct nbd_slot *slot = container_of(client->free.next, struct nbd_slot, node);
	struct nbd_request request;
	struct error error;
	size_t size;
	int res;

	if (client->in_end - client->in_start < NBD_REQUEST_BYTES)
		return NBD_STEP_MORE;
	if (list_empty(&client->free))
		return NBD_STEP_WAIT;
	if (nbd_request_parse(client->in + client->in_start, &request, &error) < 0) {
		nbd_client_end(client, &error);
		return NBD_STEP_END;
	}
	if (request.type == NBD_COMMAND_DISCONNECT) {
		nbd_client_end(client, NULL);
		return NBD_STEP_END;
	}
	/* It may have become larger since the client came, and who has learnt of that need not come again. */
	client->shape.size = block_info(client->export->block)->size;
	res = nbd_request_check(&request, &client->shape);
	size = res == 0 ? buf_size_of(&request) : 0;
	if (size > 0 && !nbd_server_take_bytes(client, size))
		return NBD_STEP_WAIT;
	slot->request = request;
	slot->buf_size = size;
	return begin(client, slot, res);
}

enum nbd_step nbd_slot_step(struct nbd_client *client)
{
	if (client->payload)
		return take_payload(client);
	if (client->discard)
		return take_discarded(client);
	return take_request(client);
}
