/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * libFuzzer target: a client's bytes. The first byte says how they come; an agent's server with a volume in
 * memory must come to an end, whatever is asked.
 */
#include "fuzz_ring.h"
#include "fuzz_wire.h"

#include "block/memory.h"
#include "export/agent_server.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define HELLO "{\"version\":1,\"software\":\"f\",\"features\":[\"zstd\"],\"compress\":\"auto\",\"level\":1}"
#define OPEN \
	"{\"path\":\"/" \
	"v\",\"write\":true,\"create\":false,\"size\":0,\"cache\":\"auto\",\"force_held\":false}"
#define SIZE ((1u << 20) + 77)

static int open_memory(void *data, struct block **ret, struct ring *ring, const char *path,
    const struct block_open_options *options, struct error *error)
{
	/* Not resizable: the SHA-256 of 2^62 zeros is right, but late. */
	const struct memory_options memory = {.read_only = !options->write};

	assert(path[0] && options->cache <= CACHE_BUFFERED && options->stage <= STAGE_DROP);
	if (path[0] != '/')
		return error_set(error, -ENOENT, "cannot open %s: no such volume", path);
	return memory_new(ret, ring, SIZE, &memory, error);
}

static void served(void *data, int res)
{
	*(bool *)data = true;
}

static size_t put(uint8_t *at, enum frame_type type, uint64_t id, const char *text)
{
	struct frame frame = {.type = type, .id = id, .payload_length = (uint32_t)strlen(text)};

	frame.payload_crc = crc32c(0, text, frame.payload_length);
	frame_encode(&frame, at);
	memcpy(at + FRAME_HEADER_BYTES, text, frame.payload_length);
	return FRAME_HEADER_BYTES + frame.payload_length;
}

/* The volume is opened by the time the rest comes. */
static void serve(struct fuzz_ring *ring, const uint8_t *rest, size_t rest_size)
{
	const struct agent_server_options options = {.fd_in = 7, .fd_out = 7, .open = open_memory};
	struct agent_server *server;
	bool done = false;

	if (agent_server_new(&server, &ring->ring, &options, NULL) < 0)
		abort();
	agent_server_start(server, served, &done);
	if (rest) {
		while (ring->size > 0 || !list_empty(&ring->ready))
			if (ring->ring.ops->step(&ring->ring) < 0)
				break;
		ring->data = rest;
		ring->size = rest_size;
	}
	if (ring_run_until(&ring->ring, &done) < 0)
		abort();
	agent_server_free(server);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const size_t pieces[] = {0, 1, 7, 41, 1000, 0, 0, 0};
	uint8_t greeting[512], *stream;
	struct fuzz_ring ring;
	size_t length = 0;

	if (size < 1)
		return 0;
	stream = fuzz_copy(data + 1, size - 1);
	if (!(data[0] & 16))
		fuzz_mend(stream, size - 1);
	if (data[0] & 8) {
		length = put(greeting, FRAME_HELLO, 0, HELLO);
		length += put(greeting + length, FRAME_OPEN, 4095, OPEN);
		fuzz_ring_init(&ring, greeting, length, 0);
		ring.piece = pieces[data[0] & 7];
		serve(&ring, stream, size - 1);
	} else {
		fuzz_ring_init(&ring, stream, size - 1, pieces[data[0] & 7]);
		serve(&ring, NULL, 0);
	}
	ring_free(&ring.ring);
	free(stream);
	return 0;
}
