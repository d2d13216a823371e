/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The copy engine: takes extents, moves them from source to target with several requests in flight, tells the source of extents
 * what became of each. Copy, sync, resync and live mirrors are this engine with another source of extents. All memory is
 * taken at the start. It neither opens, flushes nor judges: the task around it does.
 */
#pragma once

#include "block/block.h"

#define COPY_ZERO_MAX \
	(256ull << 20) /* longer ZERO extents are taken in parts, each finished by itself, bytes */

struct copy;

/* Bytes; each only grows. */
struct copy_counts {
	uint64_t data;   /* read from the source and written to the target */
	uint64_t zeroed; /* written as zeros or holes, or left alone on a target known to be blank */
	uint64_t bad;    /* unreadable, listed; zeros on the target, not counted there */
};

struct copy_options {
	bool detect_zeroes;        /* blocks of zeros are written as BLOCK_ZERO */
	bool skip_zeroes;          /* the target reads as zero wherever this job has not written */
	bool dry_run;              /* writes nothing; counts what it would write */
	bool resumable;            /* there is a journal: messages may say to go on with --resume */
	uint32_t zero_granularity; /* bytes, power of two; 0: 4096 */
	unsigned large_max;        /* of the buffers of 1 MiB, at most so many of the 24; 0: all */
	/* Called for an unreadable range when not NULL; the range is then zeroed on the target and the job goes on. */
	void (*bad_range)(void *data, uint64_t offset, uint64_t length, int res);
	void *bad_range_data;
	/*
	 * Or nothing is written there, the extent is finished with the error, and the job goes on. Of extents above 64 KiB the range is
	 * what was read at once: a smaller one tells more.
	 */
	bool keep_bad;
	/* What is going to be written of an EXTENT_DATA, before it is: NULL: nobody wants to know. */
	void (*sending)(void *data, uint64_t offset, uint64_t length, const void *bytes);
	void *sending_data;
};

/* Borrows everything; `extents` gets its wake set. A read-only dry run may have a NULL target. */
int copy_new(struct copy **ret, struct block *source, struct block *target, struct extents *extents,
    const struct copy_options *options, struct error *error);
/* Not while it runs. Takes NULL; returns NULL. */
struct copy *copy_free(struct copy *copy);
/*
 * Begins, or goes on after done(). done(res): 0 all extents are finished, -ECANCELED after copy_stop(), another -errno at
 * the first failure, whose words are in copy_error(). All requests have ended by then.
 */
void copy_start(struct copy *copy, void (*done)(void *data, int res), void *data);
/* Takes no further extents; what is in flight is finished. */
void copy_stop(struct copy *copy);
/*
 * From now on an extent is read in pieces of at most so many bytes (whole pages), one after the other, before it is written as a
 * whole: others that use the ring get their turn in between. 0, as at first: in one.
 */
void copy_set_read_max(struct copy *copy, uint64_t bytes);
const struct copy_counts *copy_counts(const struct copy *copy);
const struct error *copy_error(const struct copy *copy);
