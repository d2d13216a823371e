/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * libFuzzer target: an agent's bytes. The first byte says how they come; a client opens a volume with them,
 * asks for every kind of thing, and must come to an end with every request ended once and nothing written
 * beside its buffers.
 */
#include "fuzz_ring.h"
#include "fuzz_wire.h"

#include "block/remote.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define HELLO "{\"version\":1,\"software\":\"f\",\"features\":[\"zstd\"],\"requests\":9,\"bytes\":8388608}"
#define OPENED \
	"{\"size\":1048576,\"sector_size\":512,\"request_align\":1,\"writable\":true,\"zeroed\":false," \
	"\"created\":false," \
	"\"resizable\":true}"
#define REQUESTS 9u
#define LENGTH   8192u

struct asked {
	struct block_io io;
	uint8_t *buf;
	struct extent extents[4];
	unsigned times;
};

static void asked_done(struct block_io *io, int res)
{
	struct asked *asked = io->user;

	asked->times++;
	assert(asked->times == 1);
	assert(res <= 4);
}

static void ask(struct block *block, struct asked *asked, unsigned number)
{
	static const enum block_op ops[REQUESTS] = {BLOCK_READ, BLOCK_EXTENTS, BLOCK_DIGEST, BLOCK_WRITE,
	    BLOCK_SHA256, BLOCK_ZERO, BLOCK_FLUSH, BLOCK_RESIZE, BLOCK_READ};
	static const struct digest_key key;
	enum block_op op = ops[number];
	size_t need = op == BLOCK_SHA256 ? 32 : op == BLOCK_DIGEST ? 2 * DIGEST_BYTES : LENGTH;

	/* On the heap and of the exact size: the sanitizer watches both ends. */
	asked->buf = calloc(1, need);
	asked->io = (struct block_io){
	    .op = op,
	    .length = op == BLOCK_FLUSH ? 0 : LENGTH,
	    .buf = asked->buf,
	    .extents = asked->extents,
	    .extents_max = 4,
	    .granularity = DIGEST_LEAF,
	    .key = &key,
	    .done = asked_done,
	    .user = asked,
	};
	block_submit(block, &asked->io);
}

static void use(struct fuzz_ring *ring, struct block *block)
{
	struct asked *asked = calloc(REQUESTS, sizeof(*asked));
	struct block_facts facts;
	struct error error = {0};

	for (unsigned i = 0; i < REQUESTS; i++)
		ask(block, &asked[i], i);
	if (block_facts(block, &facts, &error) < 0)
		assert(error.text[0]);
	/* The input ends, and with it the link. */
	while (!block_link_error(block, &error) || ring->under_way)
		if (ring->ring.ops->step(&ring->ring) < 0)
			break;
	assert(block_link_error(block, &error) == -ENOTCONN && error.text[0]);
	for (unsigned i = 0; i < REQUESTS; i++) {
		assert(asked[i].times == 1);
		free(asked[i].buf);
	}
	block_free(block);
	free(asked);
}

static size_t put(uint8_t *at, enum frame_type type, uint64_t id, const char *text)
{
	struct frame frame = {.type = type, .id = id, .payload_length = (uint32_t)strlen(text)};

	frame.payload_crc = crc32c(0, text, frame.payload_length);
	frame_encode(&frame, at);
	memcpy(at + FRAME_HEADER_BYTES, text, frame.payload_length);
	return FRAME_HEADER_BYTES + frame.payload_length;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const size_t pieces[] = {0, 1, 7, 41, 1000, 0, 0, 0};
	const struct block_open_options options = {.write = true};
	uint8_t greeting[512];
	struct fuzz_ring ring;
	struct block *block;
	struct error error = {0};
	uint8_t *stream;
	size_t length = 0;
	bool greet;

	if (size < 1)
		return 0;
	/* Half of the inputs begin after a good handshake. */
	greet = data[0] & 8;
	if (greet) {
		length = put(greeting, FRAME_HELLO, 0, HELLO);
		length += put(greeting + length, FRAME_OPENED, 4095, OPENED);
	}
	stream = malloc(length + size);
	if (length)
		memcpy(stream, greeting, length);
	memcpy(stream + length, data + 1, size - 1);
	if (!(data[0] & 16))
		fuzz_mend(stream + length, size - 1);
	fuzz_ring_init(&ring, stream, greet ? length : size - 1, pieces[data[0] & 7]);
	if (remote_new(&block, &ring.ring, 7, 7, "there:/vol", "/vol", &options, &error) == 0) {
		if (greet) {
			/* What comes now follows the requests. */
			ring.data = stream + length;
			ring.size = size - 1;
		}
		use(&ring, block);
	} else {
		assert(error.code < 0 && error.text[0]);
	}
	ring_free(&ring.ring);
	free(stream);
	return 0;
}
