/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the commands share. Each command is a function that takes its own words and returns an exit code (enum
 * job_result). */
#pragma once

#include "base/error.h"
#include "block/endpoint.h"
#include "sync/job.h"

#include <argp.h>
#include <jansson.h>

int command_copy(int argc, char **argv);
int command_sync(int argc, char **argv);
int command_verify(int argc, char **argv);
int command_digest(int argc, char **argv);
int command_serve(int argc, char **argv);
int command_mirror(int argc, char **argv);
int command_move(int argc, char **argv);
int command_replicate(int argc, char **argv);
int command_recover(int argc, char **argv);
/* status, pause, resume, throttle: argv[0] says which. */
int command_control(int argc, char **argv);

/* Prints "blkmove: text" to standard error and returns the code. */
int cli_fail(enum job_result code, const struct error *error);
/* Of serve, mirror and move: what a result of theirs ends the program with. */
enum job_result cli_exit_code(int res);
/* An object in one line, which whoever reads it gets at once. */
void cli_print_json(FILE *to, const json_t *json);

/*
 * Captive servers are several words with options of their own, so they are taken out before argp sees them:
 * words[] becomes the command line in which each group "[ ... ]" is the single word "[". take_endpoint()
 * gives the endpoints in order.
 */
struct cli_words {
	int argc;
	char **argv; /* for argp; NULL at the end */
	char **captive[2];
	int captive_length[2];
	int captive_count, captive_taken;
};

int cli_words_init(struct cli_words *words, int argc, char **argv, struct error *error);
void cli_words_done(struct cli_words *words);
int cli_take_endpoint(struct cli_words *words, char *word, struct endpoint *ret, struct error *error);

/* The index of the first `length` bytes of text in a list that ends with NULL, or -EINVAL with words that name the choices. */
int cli_choose(
    const char *const *names, const char *option, const char *text, size_t length, struct error *error);
/* In the order of enum job_changes, and behind "digests" in that of enum track_kind. */
extern const char *const cli_changes_names[];
/* In the order of enum cache_mode. */
extern const char *const cli_cache_names[];

/* Of a window or a timeout: "500ms", "2s"; a bare number is milliseconds. At most 10 days. 0 or -EINVAL with words. */
int cli_parse_duration(const char *option, const char *text, uint64_t *ret_ns, struct error *error);
/* Of --watch[=SECONDS]; NULL: 1. 0 or -EINVAL with words. */
int cli_parse_watch(const char *text, double *ret_s, struct error *error);

/* The unit, "" or "%", may be left out. 0 or -EINVAL with words. */
int cli_parse_number(const char *option, const char *text, const char *unit, unsigned least, unsigned most,
    unsigned *ret, struct error *error);
/* "none", which is 0, or a size. `option` NULL: it is no option's. 0 or -EINVAL with words. */
int cli_parse_rate(const char *option, const char *text, uint64_t *ret, struct error *error);
/* How a run reports. */
enum cli_progress { PROGRESS_AUTO, PROGRESS_BAR, PROGRESS_LINES, PROGRESS_NONE };

/* sync --snapshot=: what is made and kept; see snapshot/snapshot.h. */
struct cli_snapshot {
	enum { SNAPSHOT_OFF, SNAPSHOT_AUTO, SNAPSHOT_LAST, SNAPSHOT_DROP } mode;
	uint64_t size;
	unsigned fill_max;
	bool freeze;
	const char *store, *before, *after;
};

/* The options of copy, sync and verify, and of digest as far as they fit. */
struct cli_options {
	struct job_options job;
	struct endpoint source, target;
	const char *ssh_options[64];
	unsigned ssh_options_count;
	enum cli_progress progress;
	unsigned interval_s;
	bool json, quiet, list, no_journal;
	const char *report_path;
	char state_dir[4096];
	char stage_dir[4096]; /* sync: where --atomic said */

	/* sync: rounds */
	struct {
		bool wanted;
		unsigned count;   /* before the stop; 0: */
		double until_s;   /* until the next one takes no longer */
		const char *then; /* the command that stops what uses the source */
		uint64_t timeout_ns;
		bool verify_sent; /* after the stop, only what the last round sent is read back */
	} rounds;
	struct cli_snapshot snapshot;

	/* digest */
	const char *output_path, *key_text;
	bool sha256;
	bool digest_root; /* digest: one for all of it */

	struct cli_words words;
	struct error error;
};

/* Option groups; a command's argp names those that it takes as children. */
/* reach is what of link is not about TLS. */
extern const struct argp cli_argp_link, cli_argp_reach, cli_argp_read, cli_argp_holes, cli_argp_job,
    cli_argp_write, cli_argp_report, cli_argp_events, cli_argp_snapshot;
/*
 * Parses with the given argp (whose input is the options) and takes `endpoints` endpoints. Returns 0 or an
 * exit code after printing what is wrong.
 */
int cli_parse(struct cli_options *options, const struct argp *argp, const struct argp_child *children,
    int argc, char **argv, int endpoints);
void cli_options_done(struct cli_options *options);

/* sync --rounds: the whole of it; see rounds_run.c. */
int cli_run_rounds(struct cli_options *options);
/* Runs the job with signals, progress and control socket, and prints how it ended. */
int cli_run_job(struct cli_options *options, const char *verb);
