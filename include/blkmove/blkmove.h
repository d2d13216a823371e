/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * libblkmove: moves block volumes and proves that the copy is equal.
 *
 * Endpoints are written as on the command line: "/dev/x", "file.img", "[user@]host:PATH", "nbd://...", "[
 * SERVER ARGS ]" (words separated by single spaces), "-" for standard input or output. Each call runs to its
 * end on the calling thread and prints nothing. Calls on different threads do not disturb each other, but two
 * that write to one target do: the second is refused. SIGPIPE should be ignored by the program.
 */
#ifndef BLKMOVE_H
#define BLKMOVE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define BLKMOVE_API __attribute__((visibility("default")))

/* What became of it; the same numbers as the exit codes of blkmove(1), never reused for anything else. */
enum blkmove_result {
	BLKMOVE_OK = 0,          /* the target is equal and flushed; verify: both are equal */
	BLKMOVE_DIFFERS = 1,     /* verify: they differ */
	BLKMOVE_TROUBLE = 2,     /* failed */
	BLKMOVE_REFUSED = 3,     /* refused before anything was written */
	BLKMOVE_INTERRUPTED = 4, /* the progress function asked to stop; resume goes on */
	BLKMOVE_BAD_RANGES = 5,  /* finished, but unreadable ranges are zeros on the target */
	BLKMOVE_LINK_LOST = 6,   /* the link could not be made, or stayed away; resume goes on */
	BLKMOVE_LOCKED = 7,      /* another process writes to this target */
	                         /* 8 and 9 are exit codes of the program, for its rounds */
};

struct blkmove_error {
	int code;       /* negative errno, or 0 */
	char text[512]; /* what was being done, to what, what went wrong, what to do next */
};

/* Bytes. position = decided so far; it never goes backwards. */
struct blkmove_progress {
	uint64_t total, position, same, sent, zeroed, bad;
};

struct blkmove_options {
	size_t struct_size;    /* sizeof(struct blkmove_options): BLKMOVE_OPTIONS_INIT sets it */
	int dry_run;           /* find out only; write nothing */
	int verify;            /* read the target back past the cache and compare */
	int resume;            /* go on where an earlier run stopped */
	int list_read_errors;  /* go on after read errors; the result is BLKMOVE_BAD_RANGES */
	const char *overwrite; /* the target's name once more: what it carries may be lost; or NULL */
	const char *state_dir; /* where journals lie; NULL: no journal, no resume */
	uint64_t rate;         /* bytes per second to read at most; 0: no limit */
	/* Called some times a second on the calling thread; a result other than 0 asks to stop. May be NULL.
	 */
	int (*progress)(void *data, const struct blkmove_progress *progress);
	void *data;
};

#define BLKMOVE_OPTIONS_INIT \
	{ \
		.struct_size = sizeof(struct blkmove_options) \
	}

/*
 * Copies all of source to target; makes a missing image file. options and error may be NULL. Returns a
 * blkmove_result; words are in *error for every one but BLKMOVE_OK and BLKMOVE_DIFFERS.
 */
BLKMOVE_API enum blkmove_result blkmove_copy(const char *source, const char *target,
    const struct blkmove_options *options, struct blkmove_error *error);
/* Makes target equal to source by sending only what differs. */
BLKMOVE_API enum blkmove_result blkmove_sync(const char *source, const char *target,
    const struct blkmove_options *options, struct blkmove_error *error);
/* Compares two volumes: BLKMOVE_OK or BLKMOVE_DIFFERS. */
BLKMOVE_API enum blkmove_result blkmove_verify(
    const char *a, const char *b, const struct blkmove_options *options, struct blkmove_error *error);
/* "0.1.0"; static. */
BLKMOVE_API const char *blkmove_version(void);

#ifdef __cplusplus
}
#endif

#endif
