/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Opens any endpoint as a block. */
#pragma once

#include "block/block.h"
#include "block/endpoint.h"

enum cache_mode {
	/* What lies in an image file's page cache is read from it; all else goes past it (O_DIRECT where it can). */
	CACHE_AUTO,
	CACHE_DIRECT, /* past the cache always: reads come from the medium */
	CACHE_BUFFERED,
};

enum compress_mode { COMPRESS_AUTO, COMPRESS_NONE, COMPRESS_ZSTD };

#define NBD_CONNECTIONS_MAX 64u
#define STAGE_POINTS_MAX    1000u

/*
 * Stages (stage.h) of an image file or device. A volume whose stage was committed and not applied is refused to those who read, -EBUSY; who
 * writes has it applied first (info.recovered).
 */
enum stage_use {
	STAGE_SETTLE,
	/*
	 * And the volume is opened as the target of a round: what is written is staged (info.staged) until BLOCK_COMMIT. Who opens a file or device
	 * here wraps it himself, by filter/stage.h; on another machine, the agent does.
	 */
	STAGE_NEW,
	STAGE_RESUME, /* the same; what an interrupted round has staged is kept */
	STAGE_DROP,   /* a stage is removed, in whatever state */
	STAGE_IGNORE, /* this is a stage itself */
};

/* How the far side is reached. Strings are borrowed until block_free(). */
struct link_options {
	const char *const *ssh_options; /* further words for ssh, NULL at the end; or NULL */
	const char *ssh_program;        /* NULL: "ssh" */
	const char *agent_path;         /* NULL: "blkmove" from the remote PATH */
	enum compress_mode compress;
	int compress_level;  /* zstd's; 0: 1 */
	unsigned timeout_ms; /* connecting, and the longest silence of a live link; 0: 30,000 */
	bool prompt;         /* the volume is open there: who does not answer within timeout_ms is lost */
	unsigned nbd_connections; /* at most NBD_CONNECTIONS_MAX; 0: 4 where the server allows several */
	const char *tls_certificates, *tls_psk_file,
	    *tls_username; /* NBD, beside what the URI says; or NULL */
	bool tls_insecure; /* NBD: does not verify the server's certificate */
	int captive_words; /* where a captive server's words go, a descriptor; up to 2: to standard error */
};

struct block_open_options {
	bool write;
	bool create; /* makes a missing image file of create_size bytes; an existing one is opened as it is */
	uint64_t create_size;
	/* Will be judged as a target, also by a dry run, which only reads: its signature is looked for. */
	bool target;
	bool force_held; /* a device that is held exclusively by another is opened all the same */
	/* For writing: who writes, for an agent's note of it; SESSION_FIRST...SESSION_MAX, or 0. */
	uint64_t session;
	enum stage_use stage;
	const char *stage_dir; /* where a new stage lies; NULL: stage_place() */
	unsigned
	    keep_points; /* of an LVM thin volume: so many points are kept after a round; 0: none are made */
	/*
	 * NBD: a dirty bitmap of the server, by its name ("qemu:dirty-bitmap:" goes before it) or its whole context name; BLOCK_CHANGED
	 * asks it. Whether the server has it: info.tells_changes. NULL: none.
	 */
	const char *changes_since;
	bool list_bitmaps; /* NBD: which dirty bitmaps the server has: info.bitmaps */
	enum cache_mode cache;
	/* The kernel may begin to read an image file, while something else is waited for; CACHE_AUTO only. */
	bool read_ahead;
	/*
	 * Writes of up to 1 MiB into the page cache may happen within block_submit() where that is faster (at_once.h), as long as they are quick. A
	 * file system that begins to hang in one of them holds up all of the ring: only for a volume without which there is nothing to do.
	 */
	bool write_at_once;
	struct link_options link;
};

/*
 * Opens and, for writing, locks: a second writer of the same volume is refused with -EALREADY and the pid of the first; a
 * device held exclusively (mounted, in an md or dm device, ...) with -EBUSY and its holder. Runs the ring while it connects.
 * Errors name the endpoint and the next step; a link that broke or could not be made is -ENOTCONN.
 */
int block_open(struct block **ret, struct ring *ring, const struct endpoint *endpoint,
    const struct block_open_options *options, struct error *error);

/* The drivers behind it. */
struct path_policy;
/* `policy` (block/path_policy.h) confines an agent; NULL allows all. */
int file_open(struct block **ret, struct ring *ring, const char *path, const struct path_policy *policy,
    const struct block_open_options *options, struct error *error);
int nbd_open(struct block **ret, struct ring *ring, const struct endpoint *endpoint,
    const struct block_open_options *options, struct error *error);
int remote_open(struct block **ret, struct ring *ring, const struct endpoint *endpoint,
    const struct block_open_options *options, struct error *error);
int stream_open(
    struct block **ret, struct ring *ring, const struct block_open_options *options, struct error *error);
