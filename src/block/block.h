/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A volume as its users see it. Drivers (file, nbd, remote, memory, stream) and filters (throttle, fault, delay,
 * powercut) implement it: driver.h. A block belongs to one ring and one thread.
 *
 * A request is the caller's memory and stays valid until done(), which runs exactly once, from the ring's loop and never
 * from within block_submit(). Requests in flight may complete in any order and are not ordered against each other.
 */
#pragma once

#include "base/error.h"
#include "base/list.h"
#include "block/digest.h"
#include "range/extent.h"
#include "ring/ring.h"

#include <stdbool.h>
#include <stdint.h>

struct block;

enum block_op {
	BLOCK_READ, /* buf gets length bytes; a short end is an error, except on a stream (info.stream): see done */
	BLOCK_WRITE, /* buf has length bytes */
	BLOCK_ZERO,  /* the range reads as zero afterwards; deallocated where that can be; any length */
	BLOCK_TRIM, /* advice: what the range holds is undefined afterwards; no error where it is not supported */
	BLOCK_FLUSH,   /* what was acknowledged before the submit is on stable storage when done */
	BLOCK_EXTENTS, /* extents[extents_max] describe a prefix of the range; done's res is how many (>= 1) */
	BLOCK_DIGEST,  /* digest.h: keyed digests of the range, computed where the data is */
	BLOCK_SHA256, /* feeds the range to a running SHA-256; offset 0 starts anew, else it follows the last range */
	BLOCK_RESIZE, /* length is the new size of an image file; -EOPNOTSUPP elsewhere if it differs */
};

enum block_flags {
	BLOCK_FUA = 1 << 0,     /* WRITE, ZERO, TRIM: on stable storage when done */
	BLOCK_NO_HOLE = 1 << 1, /* ZERO: the range stays, or becomes, allocated */
	BLOCK_FAST = 1 << 2,    /* ZERO: -EOPNOTSUPP at once rather than write zeros */
	/*
	 * READ: into an empty pipe that has room for the range's pages, not into buf. WRITE: out of a pipe that holds what is to be
	 * written and nothing else; without BLOCK_FUA. Only where block_takes_pipe().
	 */
	BLOCK_PIPE = 1 << 3,
	/*
	 * EXTENTS: not what is allocated but what changed since the base that the volume was opened with: EXTENT_DATA may have
	 * changed, EXTENT_ZERO did not. -EOPNOTSUPP without info.tells_changes; never a guess.
	 */
	BLOCK_CHANGED = 1 << 4,
	/* WRITE, advice: past the page cache, where that can be: nobody reads it soon */
	BLOCK_UNCACHED = 1 << 5,
	BLOCK_APART = 1 << 6, /* WRITE: never within block_submit(), whatever was allowed at open */
	/*
	 * FLUSH of a staged volume (info.staged): what was written since it was opened becomes the volume's content, all of it or, after a crash,
	 * nothing until somebody completes it. The last request that writes: the volume cannot be written any more. -EOPNOTSUPP elsewhere.
	 */
	BLOCK_COMMIT = 1 << 7,
	/* FLUSH: on stable storage when done, also where writes are acknowledged before they are anywhere (filter/replicate.h). */
	BLOCK_DURABLE = 1 << 8,
};

#define BLOCK_IO_MAX (4u << 20) /* longest READ and WRITE; DIGEST: DIGEST_CHUNK */

struct block_io {
	/* set by the caller */
	enum block_op op;
	uint32_t flags; /* set of block_flags; those that mean nothing for the op are passed over */
	uint64_t offset,
	    length; /* bytes, inside the volume; any alignment unless info.request_align says otherwise */
	void *
	    buf; /* READ, WRITE: data, aligned to 4096 for speed; DIGEST: digests; SHA256: 32 bytes, the digest so far */
	int pipe_fd; /* with BLOCK_PIPE: READ: its end for writing; WRITE: that for reading */
	struct extent *extents;
	uint32_t extents_max;
	uint32_t granularity;         /* DIGEST: DIGEST_LEAF times a power of 16, at most DIGEST_CHUNK */
	const struct digest_key *key; /* DIGEST */
	struct error *error;          /* BLOCK_COMMIT: words when it fails; or NULL */
	void (*done)(struct block_io *io,
	    int res); /* 0 (EXTENTS: a count; a stream's READ: bytes, 0 at the end) or -errno */
	void *user;

	/* belongs to block.c: what the caller set, while block_submit() does part of the work */
	struct block_kept {
		struct block *block;
		enum block_op op;
		uint32_t flags;
		uint64_t offset, length;
		void *buf;
		void (*done)(struct block_io *io, int res);
	} kept;

	/* belongs to the driver that has the request */
	struct block *block;
	struct list_node node;
	struct ring_op ring_op;
	void *driver_pointer;
	uint64_t driver_u64[2];
};

/* Set at open. */
struct block_info {
	char name[256];       /* as the user wrote it, for messages */
	uint64_t size;        /* bytes; 0 for a stream */
	uint32_t sector_size; /* logical sector, bytes: 512, 4096; 1 for image files */
	uint32_t
	    request_align; /* offsets and lengths must be multiples of this, but for the end of the volume; 1: any */
	bool writable;
	bool zeroed;    /* nothing was ever written: all reads as zero (a file that this open created) */
	bool created;   /* this open made the file */
	bool stream;    /* not addressable: requests come in order of offset */
	bool remote;    /* a network lies between: digests are cheaper than data */
	bool linked;    /* there is a link that may be lost: block_link_error() */
	bool resizable; /* an image file, also when it was opened for reading */
	bool fua;       /* the driver itself heeds BLOCK_FUA; else block_submit() flushes after the request */
	bool no_hole;   /* the driver itself heeds BLOCK_NO_HOLE and BLOCK_FAST; else zeros are written */
	/* What EXTENTS calls zero reads as zero, for sure: a file system that was asked after dirty data was written out. */
	bool holes_trusted;
	bool tells_changes;     /* BLOCK_CHANGED can be asked for: block_open_options.changes_since */
	unsigned bitmaps_count; /* block_open_options.list_bitmaps: so many dirty bitmaps there are */
	char
	    bitmaps[200]; /* their names for block_open_options.changes_since, ", " between, cut with "..." */
	bool staged;      /* what is written lies in a stage until BLOCK_COMMIT */
	bool settles;     /* whoever opened it there looks for what a round has left: recovered is known */
	bool recovered;   /* this open completed an earlier round's stage, or dropped it (STAGE_DROP) */
	bool no_flush; /* FLUSH does nothing: when writes are on stable storage, the far side alone knows */
};

#define BLOCK_PLACES_MAX 16

/* Bytes of something that can be named: a disk, a mapping, an image file. */
struct block_place {
	char id[160]; /* as block_facts.id */
	uint64_t offset, length;
};

/*
 * What preflight, resume and saved digests ask about a volume. Texts are empty when there is nothing to say. The agent
 * gathers them where the volume is.
 */
struct block_facts {
	char id[160];      /* stable identity: what this volume is; empty: cannot be known */
	char mark[160];    /* differs whenever the volume was written in between; empty: cannot be known */
	char mounted[160]; /* where it, or a partition or mapping on it, is mounted or used as swap */
	char held[160];    /* who holds it exclusively: dm-3, md0, loop1, another O_EXCL user */
	char writer[160];  /* a process that has it open for writing: "pid 12 (qemu-system-x86)" */
	char blind
	    [160]; /* why others may use it all the same, unseen: "the kernel shows only ..."; empty: they would be seen */
	char signature[160]; /* by libblkid: "ext4, UUID 3a..., label srv"; "dos partition table" */
	char boot[64]; /* changes when the machine of the volume is started anew; empty: cannot be known */
	uint64_t allocated; /* bytes that the volume takes on its disk, as far as known; else its size */
	/* Of a volume on another machine: whose writes were the last ones, as its agent noted. A session, or one of these. */
	uint64_t last_writer;
	/* Where its bytes lie. The first is the volume itself, partitions and loop devices taken apart; those behind
	 * it are what that lies upon, of which the volume may have any byte. None: not known. */
	struct block_place places[BLOCK_PLACES_MAX];
	unsigned places_count;
};

#define LAST_WRITER_UNKNOWN UINT64_C(0)
#define LAST_WRITER_OTHER   UINT64_C(1) /* written since the last session that ended in order */
#define SESSION_FIRST       UINT64_C(2)
#define SESSION_MAX         ((UINT64_C(1) << 62) - 1)

void block_submit(struct block *block, struct block_io *io);
/* Submits and runs the ring until it is done; returns its result. Control paths and tests only. */
int block_wait(struct block *block, struct block_io *io);
/* Whether a request may have that range: it lies inside the volume, or writes to one that grows. */
bool block_takes_range(const struct block_info *info, enum block_op op, uint64_t offset, uint64_t length);
/*
 * Whether such requests may take a pipe now. What is read so is not copied: what comes out of the pipe may be what was written
 * since, but never what was there before the request. After an error the pipe may hold anything; -EOPNOTSUPP: it cannot be after
 * all, and a WRITE's pipe is as it was.
 */
bool block_takes_pipe(const struct block *block, enum block_op op);
const struct block_info *block_info(const struct block *block);
struct ring *block_ring(const struct block *block);
/* Asks afresh. Control path: it may run the ring. Returns 0 or -errno with words. */
int block_facts(struct block *block, struct block_facts *ret, struct error *error);
/*
 * Looks whether the volume, an image file or a device, has become larger since it was opened; info.size says it then, here and in the
 * filters on the way. Other kinds keep their size. -ENOSPC with words: it is smaller, and info.size is what it was; or another -errno. Control path.
 */
int block_measure(struct block *block, struct error *error);
/* -ENOTCONN, with words about how the link broke, once a remote or nbd volume lost its link; else 0. */
int block_link_error(struct block *block, struct error *error);
/* Whether a read's result says that the medium there is bad, rather than the link or the request. */
bool block_medium_failed(struct block *block, int res);
/* Closes; no request may be under way. A filter frees the block below it. Takes NULL; returns NULL. */
struct block *block_free(struct block *block);
