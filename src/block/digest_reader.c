/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Reads chunks through the block that owns it, up to PIECES at a time, and digests them as they arrive. A
 * running SHA-256 reads ahead and hashes in order. Everything is on the ring's thread; the pool of buffers is
 * made when the first request comes.
 */
#include "block/digest_reader.h"

#include "base/bytes.h"
#include "block/driver.h"
#include "block/leaf_cache.h"
#include "ring/buffer_pool.h"

#include <assert.h>
#include <errno.h>
#include <gnutls/crypto.h>
#include <stdlib.h>

#define PIECES        12 /* chunk buffers in all */
#define SHA256_PIECES 4  /* of these for a running SHA-256 */

/* One read of at most a chunk. */
struct piece {
	struct block_io read;
	struct digest_reader *reader;
	struct block_io *io;     /* the request that it is for; NULL: free */
	struct list_node node;   /* in sha256.pieces */
	uint64_t offset, length; /* what is wanted of it; the read may be rounded out */
	void *buffer;
	bool ready; /* SHA256: read, waits for its turn */
	bool stale; /* DIGEST: written meanwhile, not to be kept */
	int res;
};

struct sha256 {
	gnutls_hash_hd_t hash; /* NULL before the first use */
	bool broken;           /* a range is missing: waits for offset 0 */
	uint64_t next;         /* where the next request must begin */
	struct list_node
	    waiting; /* requests whose reads are not all submitted; driver_u64[0] bytes of the first are */
	struct list_node pieces; /* reads in order of offset */
	unsigned count;          /* of pieces */
};

struct digest_reader {
	struct block *block;
	struct buffer_pool *pool;
	struct leaf_cache *cache;
	struct digest *digest;
	struct digest_key key;    /* what digest and cache were made with */
	struct list_node waiting; /* DIGEST requests without a piece */
	struct sha256 sha256;
	unsigned busy;
	struct piece pieces[PIECES];
};

static void pump(struct digest_reader *reader);

int digest_reader_new(struct digest_reader **ret, struct block *block, struct error *error)
{
	struct digest_reader *reader = calloc(1, sizeof(*reader));

	if (!reader)
		return error_set(
		    error, -ENOMEM, "cannot set up digests of %s: out of memory", block->info.name);
	reader->block = block;
	list_init(&reader->waiting);
	list_init(&reader->sha256.waiting);
	list_init(&reader->sha256.pieces);
	*ret = reader;
	return 0;
}

struct digest_reader *digest_reader_free(struct digest_reader *reader)
{
	if (!reader)
		return NULL;
	assert(reader->busy == 0 && list_empty(&reader->waiting) && list_empty(&reader->sha256.waiting));
	if (reader->sha256.hash)
		gnutls_hash_deinit(reader->sha256.hash, NULL);
	buffer_pool_free(reader->pool);
	leaf_cache_free(reader->cache);
	digest_free(reader->digest);
	explicit_bzero(&reader->key, sizeof(reader->key));
	free(reader);
	return NULL;
}

/* What is made on first use. */
static int prepare(struct digest_reader *reader)
{
	if (!reader->cache && !(reader->cache = leaf_cache_new()))
		return -ENOMEM;
	return reader->pool ? 0 : buffer_pool_new(&reader->pool, DIGEST_CHUNK, PIECES, NULL);
}

static int use_key(struct digest_reader *reader, const struct digest_key *key)
{
	struct digest *digest;
	int res;

	if (reader->digest && memcmp(&reader->key, key, sizeof(*key)) == 0)
		return 0;
	res = digest_new(&digest, key, NULL);
	if (res < 0)
		return res;
	digest_free(reader->digest);
	reader->digest = digest;
	reader->key = *key;
	leaf_cache_forget_all(reader->cache);
	return 0;
}

static void fold(struct digest_reader *reader, struct block_io *io, const uint8_t *leaves)
{
	digest_fold(reader->digest, leaves, digest_count(io->length, DIGEST_LEAF), io->granularity, io->buf);
}

/* Reads start and end where the volume wants it; chunks are multiples of that. */
static void start_piece(struct digest_reader *reader, struct block_io *io, uint64_t offset, uint64_t length,
    void (*done)(struct block_io *read, int res))
{
	uint64_t align = reader->block->info.request_align > 1 ? reader->block->info.request_align : 1;
	struct piece *piece = reader->pieces;

	while (piece->io)
		piece++;
	reader->busy++;
	piece->reader = reader;
	piece->io = io;
	list_init(&piece->node);
	piece->offset = offset;
	piece->length = length;
	piece->buffer = buffer_pool_get(reader->pool);
	piece->ready = piece->stale = false;
	piece->read = (struct block_io){.op = BLOCK_READ, .buf = piece->buffer, .done = done, .user = piece};
	piece->read.offset = align_down(offset, align);
	piece->read.length =
	    min_u64(align_up(offset + length, align), reader->block->info.size) - piece->read.offset;
	if (length == 0)
		piece->read.length = 0;
	if (io->op == BLOCK_SHA256) {
		list_append(&reader->sha256.pieces, &piece->node);
		reader->sha256.count++;
	}
	block_submit(reader->block, &piece->read);
}

static void free_piece(struct piece *piece)
{
	struct digest_reader *reader = piece->reader;

	buffer_pool_put(reader->pool, piece->buffer);
	piece->io = NULL;
	reader->busy--;
}

static const uint8_t *piece_data(const struct piece *piece)
{
	return (const uint8_t *)piece->buffer + (piece->offset - piece->read.offset);
}

/* ---- keyed digests ---- */

static int digest_piece(struct piece *piece)
{
	struct digest_reader *reader = piece->reader;
	struct block_io *io = piece->io;
	uint8_t leaves[DIGEST_CHUNK / DIGEST_LEAF * DIGEST_BYTES];
	int res = use_key(reader, io->key);

	if (res < 0)
		return res;
	digest_leaves(reader->digest, piece_data(piece), piece->length, leaves);
	if (!piece->stale && io->granularity > DIGEST_LEAF)
		leaf_cache_keep(reader->cache, piece->offset, piece->length, io->granularity, leaves);
	fold(reader, io, leaves);
	return 0;
}

static void digest_read_done(struct block_io *read, int res)
{
	struct piece *piece = read->user;
	struct digest_reader *reader = piece->reader;
	struct block_io *io = piece->io;

	if (res >= 0)
		res = digest_piece(piece);
	free_piece(piece);
	pump(reader);
	block_complete(io, res);
}

static void submit_digest(struct digest_reader *reader, struct block_io *io)
{
	const uint8_t *leaves = NULL;
	/* The rest block_submit() has checked. */
	int res = reader->block->info.request_align > DIGEST_CHUNK ? -EOPNOTSUPP : prepare(reader);

	if (res == 0 && reader->digest && memcmp(&reader->key, io->key, sizeof(reader->key)) == 0)
		leaves = leaf_cache_find(reader->cache, io->offset, io->length, io->granularity);
	if (res < 0) {
		block_complete_later(reader->block, io, res);
	} else if (leaves) {
		fold(reader, io, leaves);
		block_complete_later(reader->block, io, 0);
	} else {
		list_append(&reader->waiting, &io->node);
		pump(reader);
	}
}

/* ---- a running SHA-256 ---- */

static int restart_hash(struct sha256 *sha256)
{
	if (sha256->hash)
		gnutls_hash_deinit(sha256->hash, NULL);
	sha256->hash = NULL;
	sha256->broken = gnutls_hash_init(&sha256->hash, GNUTLS_DIG_SHA256) < 0;
	return sha256->broken ? -ENOTSUP : 0;
}

/* The digest so far; the hash itself goes on. */
static int put_sha256(struct sha256 *sha256, struct block_io *io)
{
	gnutls_hash_hd_t copy = gnutls_hash_copy(sha256->hash);

	if (!copy)
		return -ENOMEM;
	gnutls_hash_deinit(copy, io->buf);
	return 0;
}

static int hash_piece(struct sha256 *sha256, const struct piece *piece)
{
	int res = piece->res < 0 ? piece->res : 0;

	if (piece->offset == 0 && res == 0)
		res = restart_hash(sha256);
	if (res == 0 && sha256->broken)
		res = -EIO; /* an earlier range is missing */
	if (res == 0 && gnutls_hash(sha256->hash, piece_data(piece), piece->length) < 0)
		res = -EIO;
	if (res < 0)
		sha256->broken = true;
	return res;
}

/* Hashes one piece, the next in order; its request is moved to `finished` with it when it was the last of it.
 */
static void take_piece(struct sha256 *sha256, struct piece *piece, struct list_node *finished)
{
	struct block_io *io = piece->io;
	int res = hash_piece(sha256, piece);

	list_remove(&piece->node);
	sha256->count--;
	free_piece(piece);
	if (res < 0) {
		list_remove(&io->node); /* reads no further for it */
		io->driver_u64[1] = (uint64_t)-res;
	}
	if (!list_empty(&io->node))
		return;
	if (!list_empty(&sha256->pieces) && container_of(sha256->pieces.next, struct piece, node)->io == io)
		return;
	if (io->driver_u64[1] == 0)
		io->driver_u64[1] = (uint64_t)-put_sha256(sha256, io);
	list_append(finished, &io->node);
}

static void sha256_read_done(struct block_io *read, int res)
{
	struct piece *piece = read->user;
	struct digest_reader *reader = piece->reader;
	struct sha256 *sha256 = &reader->sha256;
	struct list_node finished, *node;

	piece->ready = true;
	piece->res = res;
	list_init(&finished);
	while (!list_empty(&sha256->pieces)) {
		struct piece *first = container_of(sha256->pieces.next, struct piece, node);

		if (!first->ready)
			break;
		take_piece(sha256, first, &finished);
	}
	pump(reader);
	while ((node = list_pop(&finished))) {
		struct block_io *io = container_of(node, struct block_io, node);

		block_complete(io, -(int)io->driver_u64[1]);
	}
}

/* Submits the next read for the first waiting request. */
static void read_ahead(struct digest_reader *reader)
{
	struct sha256 *sha256 = &reader->sha256;
	struct block_io *io = container_of(sha256->waiting.next, struct block_io, node);
	uint64_t offset = io->offset + io->driver_u64[0], left = io->length - io->driver_u64[0];
	uint64_t length = min_u64(left, DIGEST_CHUNK - offset % DIGEST_CHUNK);

	io->driver_u64[0] += length;
	if (length == left)
		list_remove(&io->node);
	start_piece(reader, io, offset, length, sha256_read_done);
}

static void submit_sha256(struct digest_reader *reader, struct block_io *io)
{
	struct sha256 *sha256 = &reader->sha256;
	int res = prepare(reader);

	if (res == 0 && reader->block->info.request_align > DIGEST_CHUNK)
		res = -EOPNOTSUPP;
	if (res == 0 && io->offset != 0 && io->offset != sha256->next)
		res = -EINVAL;
	if (res < 0) {
		block_complete_later(reader->block, io, res);
		return;
	}
	sha256->next = io->offset + io->length;
	io->driver_u64[0] = io->driver_u64[1] = 0;
	list_append(&sha256->waiting, &io->node);
	pump(reader);
}

/* ---- both ---- */

static void pump(struct digest_reader *reader)
{
	struct list_node *node;

	while (reader->busy < PIECES) {
		if (!list_empty(&reader->sha256.waiting) && reader->sha256.count < SHA256_PIECES) {
			read_ahead(reader);
		} else if ((node = list_pop(&reader->waiting))) {
			struct block_io *io = container_of(node, struct block_io, node);

			start_piece(reader, io, io->offset, io->length, digest_read_done);
		} else {
			break;
		}
	}
}

void digest_reader_submit(struct digest_reader *reader, struct block_io *io)
{
	list_init(&io->node);
	if (io->op == BLOCK_DIGEST)
		submit_digest(reader, io);
	else
		submit_sha256(reader, io);
}

void digest_reader_forget(struct digest_reader *reader, uint64_t offset, uint64_t length)
{
	if (!reader || !reader->cache)
		return;
	length = min_u64(length, UINT64_MAX - offset);
	leaf_cache_forget(reader->cache, offset, length);
	for (int i = 0; i < PIECES; i++) {
		struct piece *piece = &reader->pieces[i];

		if (piece->io && piece->offset < offset + length && offset < piece->offset + piece->length)
			piece->stale = true;
	}
}
