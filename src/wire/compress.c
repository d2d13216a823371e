/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Two judgements. Of the data: what does not shrink by 1/8 goes out raw, and the next try waits for twice as
 * many bytes each time. Of the link: payloads are taken at the pace at which the link drains, so bytes
 * handled per second are the drain rate as the sender sees it. While compression takes a good part of that
 * time, and waiting for the link little, a stretch is sent raw to compare; whichever drained faster is kept,
 * and the other is tried again after ever longer stretches.
 */
#include "wire/compress.h"

#include "base/bytes.h"

#include <errno.h>
#include <stdlib.h>
#include <zstd.h>

#define PAYLOAD_MIN      256u         /* below, a header of zstd eats the gain */
#define SAMPLE_FROM      (128u << 10) /* larger payloads are probed by a sample after a failure */
#define SAMPLE_BYTES     (16u << 10)
#define SKIP_FIRST       (64u << 10)
#define SKIP_MAX         (1u << 20)
#define STRETCH_BYTES    (16u << 20) /* beyond what pipes and sockets swallow at once */
#define STRETCH_NS       50000000ull
#define STRETCH_IDLE_NS  2000000000ull
#define PROBE_FROM_BYTES (32u << 20) /* sent in all before the first comparison: buffers are full by then */
#define PATIENCE_FIRST   4u
#define PATIENCE_MAX     64u

struct compress {
	/* set at open */
	ZSTD_CCtx *context;
	struct ring *ring;
	bool always;
	/* the data */
	uint64_t skip_bytes; /* bytes to pass before the next try */
	uint64_t skip_next;
	/* the link */
	bool raw;             /* this stretch goes out raw */
	bool comparing;       /* it does to be compared with packed_rate */
	bool raw_won;         /* the last comparison */
	uint64_t start_ns;    /* of this stretch; 0: none yet */
	uint64_t bytes;       /* payload in this stretch */
	uint64_t busy_ns;     /* spent compressing in it */
	uint64_t wait_ns;     /* spent waiting for the link in it */
	uint64_t sent;        /* bytes that went out, ever */
	uint64_t packed_rate; /* payload bytes per second of the last compressed stretch */
	uint64_t expected_ns; /* what a whole stretch took that way */
	unsigned stretches;   /* left before the other way is tried */
	unsigned patience;    /* stretches that the winner gets */
};

struct decompress {
	ZSTD_DCtx *context;
};

int compress_new(struct compress **ret, struct ring *ring, int level, bool always, struct error *error)
{
	struct compress *compress = calloc(1, sizeof(*compress));

	if (!compress)
		return error_set(error, -ENOMEM, "no memory to compress with");
	compress->context = ZSTD_createCCtx();
	if (!compress->context) {
		free(compress);
		return error_set(error, -ENOMEM, "no memory to compress with");
	}
	ZSTD_CCtx_setParameter(compress->context, ZSTD_c_compressionLevel, level ? level : 1);
	compress->ring = ring;
	compress->always = always;
	compress->skip_next = SKIP_FIRST;
	compress->stretches = 1;
	compress->patience = PATIENCE_FIRST;
	*ret = compress;
	return 0;
}

struct compress *compress_free(struct compress *compress)
{
	if (!compress)
		return NULL;
	ZSTD_freeCCtx(compress->context);
	free(compress);
	return NULL;
}

size_t compress_room(size_t length)
{
	return length - length / 8;
}

static void new_stretch(struct compress *compress, uint64_t now_ns)
{
	compress->start_ns = now_ns;
	compress->bytes = 0;
	compress->busy_ns = 0;
	compress->wait_ns = 0;
}

/* The comparison is over: the winner stays for a while, longer each time that it wins. */
static void settle(struct compress *compress, bool raw)
{
	if (raw != compress->raw_won)
		compress->patience = PATIENCE_FIRST;
	else if (compress->patience < PATIENCE_MAX)
		compress->patience *= 2;
	compress->raw = compress->raw_won = raw;
	compress->comparing = false;
	compress->stretches = compress->patience;
}

/* A stretch has ended: goes on with this way, or tries the other. */
static void judge(struct compress *compress, uint64_t elapsed_ns)
{
	uint64_t rate = compress->bytes * 1000000000 / elapsed_ns;

	if (compress->comparing) {
		settle(compress, rate > compress->packed_rate + compress->packed_rate / 8);
	} else if (compress->raw) {
		if (--compress->stretches == 0) {
			compress->raw = false;
			compress->stretches = 1;
		}
	} else {
		compress->packed_rate = rate;
		compress->expected_ns = elapsed_ns * STRETCH_BYTES / compress->bytes;
		if (compress->busy_ns < elapsed_ns / 4 || compress->wait_ns > compress->busy_ns / 2 ||
		    compress->sent < PROBE_FROM_BYTES)
			return; /* the link is what takes the time: nothing to win by going raw */
		if (--compress->stretches == 0)
			compress->raw = compress->comparing = true;
	}
}

static void count(struct compress *compress, size_t length)
{
	uint64_t now_ns = ring_now_ns(compress->ring);
	uint64_t elapsed_ns = now_ns - compress->start_ns;

	if (compress->start_ns == 0 || elapsed_ns > STRETCH_IDLE_NS) {
		new_stretch(compress, now_ns); /* a slow or idle link: compressing costs nothing there */
		compress->raw = compress->comparing = false;
		compress->stretches = 1;
	} else if (compress->comparing && elapsed_ns > compress->expected_ns) {
		settle(compress, false); /* lost already: the link need not carry the rest of the stretch */
		new_stretch(compress, now_ns);
	} else if (compress->bytes >= STRETCH_BYTES && elapsed_ns >= STRETCH_NS) {
		judge(compress, elapsed_ns);
		new_stretch(compress, now_ns);
	}
	compress->bytes += length;
}

static size_t run(struct compress *compress, const void *data, size_t length, void *out, size_t room)
{
	size_t res = ZSTD_compress2(compress->context, out, room, data, length);

	return ZSTD_isError(res) || res > room ? 0 : res;
}

static size_t attempt(struct compress *compress, const uint8_t *data, size_t length, void *out)
{
	bool doubtful = compress->skip_next > SKIP_FIRST;

	if (doubtful && length >= SAMPLE_FROM &&
	    !run(compress, data + length / 2, SAMPLE_BYTES, out, compress_room(SAMPLE_BYTES)))
		return 0;
	return run(compress, data, length, out, compress_room(length));
}

void compress_waited(struct compress *compress, uint64_t ns)
{
	compress->wait_ns += ns;
}

static size_t try_it(struct compress *compress, const void *data, size_t length, void *out, size_t out_size)
{
	uint64_t start_ns;
	size_t res;

	if (length < PAYLOAD_MIN || out_size < compress_room(length))
		return 0;
	if (!compress->always)
		count(compress, length);
	if (compress->raw)
		return 0;
	if (compress->skip_bytes >= length) {
		compress->skip_bytes -= length;
		return 0;
	}
	compress->skip_bytes = 0;
	start_ns = ring_now_ns(compress->ring);
	res = attempt(compress, data, length, out);
	compress->busy_ns += ring_now_ns(compress->ring) - start_ns;
	if (res > 0) {
		compress->skip_next = SKIP_FIRST;
		return res;
	}
	compress->skip_bytes = compress->skip_next;
	compress->skip_next = min_u64(compress->skip_next * 2, SKIP_MAX);
	return 0;
}

size_t compress_try(struct compress *compress, const void *data, size_t length, void *out, size_t out_size)
{
	size_t size = try_it(compress, data, length, out, out_size);

	compress->sent += size ? size : length;
	return size;
}

int decompress_new(struct decompress **ret, struct error *error)
{
	struct decompress *decompress = calloc(1, sizeof(*decompress));

	if (!decompress)
		return error_set(error, -ENOMEM, "no memory to decompress with");
	decompress->context = ZSTD_createDCtx();
	if (!decompress->context) {
		free(decompress);
		return error_set(error, -ENOMEM, "no memory to decompress with");
	}
	*ret = decompress;
	return 0;
}

struct decompress *decompress_free(struct decompress *decompress)
{
	if (!decompress)
		return NULL;
	ZSTD_freeDCtx(decompress->context);
	free(decompress);
	return NULL;
}

int decompress_run(struct decompress *decompress, const void *data, size_t data_length, void *out,
    size_t length, struct error *error)
{
	unsigned long long told = ZSTD_getFrameContentSize(data, data_length);
	size_t res;

	if (told != length)
		return error_set(
		    error, -EPROTO, "compressed data that does not say it holds %zu bytes", length);
	res = ZSTD_decompressDCtx(decompress->context, out, length, data, data_length);
	if (ZSTD_isError(res))
		return error_set(
		    error, -EPROTO, "compressed data that is damaged: %s", ZSTD_getErrorName(res));
	if (res != length)
		return error_set(
		    error, -EPROTO, "compressed data of %zu bytes where %zu were due", res, length);
	return 0;
}
