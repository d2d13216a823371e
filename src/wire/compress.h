/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * zstd for payloads, and the judgement whether it pays. Used by one session, on its thread. Time is the
 * ring's, so that a simulation decides the same way at each replay.
 */
#pragma once

#include "base/error.h"
#include "ring/ring.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct compress;
struct decompress;

/* `always` compresses whatever gets smaller by 1/8; else only while that makes the link faster. level 0: 1.
 */
int compress_new(struct compress **ret, struct ring *ring, int level, bool always, struct error *error);
/* Takes NULL; returns NULL. */
struct compress *compress_free(struct compress *compress);
/* Room that compress_try() may need for `length` bytes. */
size_t compress_room(size_t length);
/*
 * Called with each payload that goes out, in order. Returns the compressed size, at most 7/8 of length, or 0:
 * send it as it is.
 */
size_t compress_try(struct compress *compress, const void *data, size_t length, void *out, size_t out_size);

/* So long did the sender wait until the link had taken what was written. */
void compress_waited(struct compress *compress, uint64_t ns);

int decompress_new(struct decompress **ret, struct error *error);
struct decompress *decompress_free(struct decompress *decompress);
/* Exactly `length` bytes must come out, and never more are written. Returns 0 or -EPROTO with words. */
int decompress_run(struct decompress *decompress, const void *data, size_t data_length, void *out,
    size_t length, struct error *error);
