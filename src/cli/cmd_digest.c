/* SPDX-License-Identifier: GPL-2.0-or-later */
/* blkmove digest: digests of a volume, saved for a later sync or printed. */
#include "block/digest_root.h"
#include "block/saved_digests.h"
#include "cli/cli.h"
#include "cli/report.h"
#include "cli/signals.h"
#include "filter/throttle.h"
#include "ring/ticker.h"
#include "sync/digest_walk.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define TICK_NS    100000000u
#define GIVE_UP_NS 500000000u

enum option_key { KEY_OUTPUT = 'o', KEY_SHA256 = 600, KEY_KEY, KEY_ROOT };

struct digest_run {
	struct cli_options *options;
	struct ring *ring;
	struct block *block;
	struct signals *signals;
	struct report *report;
	struct ticker ticker;
	struct digest_key key;
	struct saved_digests_writer *writer;
	struct digest_root root;
	bool cancelled;
	uint64_t give_up_ns; /* interrupted while connecting: at this time it ends; else 0 */
	uint64_t position;
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct cli_options *options = state->input;

	switch (key) {
	case KEY_OUTPUT:
		options->output_path = arg;
		return 0;
	case KEY_SHA256:
		options->sha256 = true;
		return 0;
	case KEY_ROOT:
		options->digest_root = true;
		return 0;
	case KEY_KEY:
		options->key_text = arg;
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const struct argp_option digest_options[] = {
    {"output", KEY_OUTPUT, "FILE", 0, "save digests of all 4 KiB blocks, for sync --changes=digests", 1},
    {"sha256", KEY_SHA256, NULL, 0, "print the SHA-256 of all of it, as sha256sum does", 1},
    {"root", KEY_ROOT, NULL, 0, "print one digest of all of it, as a mirror's receipt has it", 1},
    {"key", KEY_KEY, "HEX", 0,
        "print digests under this key (32 hex digits), so that two machines print the same", 1},
    {0},
};

static int parse_key(const char *text, struct digest_key *ret, struct error *error)
{
	struct digest_key key;

	for (size_t i = 0; i < sizeof(key.bytes); i++)
		if (strspn(text, "0123456789abcdefABCDEF") != 32 || text[32] ||
		    sscanf(text + 2 * i, "%2hhx", &key.bytes[i]) != 1)
			return error_set(error, -EINVAL, "--key=%s: a key is 32 hexadecimal digits", text);
	*ret = key;
	return 0;
}

static void print_hex(const uint8_t *bytes, size_t length)
{
	for (size_t i = 0; i < length; i++)
		printf("%02x", bytes[i]);
}

static int save(void *data, uint64_t offset, uint64_t length, const uint8_t *digests)
{
	struct digest_run *run = data;

	saved_digests_writer_put(run->writer, offset, length, digests);
	run->position = offset + length;
	return 0;
}

static int print(void *data, uint64_t offset, uint64_t length, const uint8_t *digests)
{
	struct digest_run *run = data;

	printf("%" PRIu64 " %" PRIu64 " ", offset, length);
	print_hex(digests, DIGEST_BYTES);
	putchar('\n');
	run->position = offset + length;
	return ferror(stdout) ? error_set(&run->options->error, -EIO, "cannot write to standard output") : 0;
}

static int run_sha256(struct digest_run *run)
{
	uint8_t sum[32];
	int res = digest_sha256(run->block, &run->cancelled, &run->position, sum, &run->options->error);

	if (res < 0)
		return res;
	report_clear(run->report);
	print_hex(sum, sizeof(sum));
	printf("  %s\n", run->options->source.name);
	return 0;
}

static int run_save(struct digest_run *run, struct digest_walk *walk)
{
	struct error *error = &run->options->error;
	struct block_facts facts;
	int res = block_facts(run->block, &facts, error);

	if (res == 0)
		res = saved_digests_writer_new(
		    &run->writer, run->options->output_path, block_info(run->block)->size, &run->key, error);
	walk->got = save;
	walk->granularity = DIGEST_LEAF;
	if (res == 0)
		res = digest_walk(walk, error);
	/* The mark from before the reading: a write in between makes the digests void. */
	if (res == 0)
		res = saved_digests_writer_finish(run->writer, facts.id, facts.mark, error);
	saved_digests_writer_free(run->writer);
	return res;
}

static int add_to_root(void *data, uint64_t offset, uint64_t length, const uint8_t *digests)
{
	struct digest_run *run = data;

	digest_root_add(&run->root, offset, length, digests);
	run->position = offset + length;
	return 0;
}

static int run_root(struct digest_run *run, struct digest_walk *walk)
{
	int res = digest_root_init(&run->root, &run->key, &run->options->error);

	walk->got = add_to_root;
	walk->granularity = DIGEST_LEAF;
	if (res == 0)
		res = digest_walk(walk, &run->options->error);
	if (res == 0) {
		report_clear(run->report);
		print_hex(run->root.sum, DIGEST_BYTES);
		printf("  %s\n", run->options->source.name);
	}
	digest_root_done(&run->root);
	return res;
}

static int run_digest(struct digest_run *run)
{
	struct digest_walk walk = {.block = run->block,
	    .key = &run->key,
	    .granularity = DIGEST_CHUNK,
	    .ignore_holes = run->options->job.ignore_holes,
	    .cancelled = &run->cancelled,
	    .got = print,
	    .data = run};

	if (run->options->sha256)
		return run_sha256(run);
	if (run->options->output_path)
		return run_save(run, &walk);
	if (!run->options->key_text) {
		printf("# key ");
		print_hex(run->key.bytes, sizeof(run->key.bytes));
		putchar('\n');
	}
	if (run->options->digest_root)
		return run_root(run, &walk);
	return digest_walk(&walk, &run->options->error);
}

static struct job_progress progress_of(const struct digest_run *run)
{
	return (struct job_progress){.state = JOB_RUNNING,
	    .total = run->block ? block_info(run->block)->size : 0,
	    .position = run->position};
}

static void tick(void *data)
{
	struct digest_run *run = data;
	struct job_progress progress = progress_of(run);

	if (run->block)
		report_tick(run->report, &progress, ring_now_ns(run->ring));
	else if (run->give_up_ns && ring_now_ns(run->ring) >= run->give_up_ns)
		_exit(JOB_INTERRUPTED);
}

static void got_signal(void *data, int number)
{
	struct digest_run *run = data;
	struct job_progress progress = progress_of(run);

	if (number == SIGUSR1) {
		report_status(run->report, &progress);
		return;
	}
	if (run->cancelled)
		_exit(JOB_INTERRUPTED);
	run->cancelled = true;
	if (run->block) {
		/* What is in flight shall end soon. */
		throttle_set_rate(run->block, 0);
		return;
	}
	fputs("blkmove: interrupted while connecting\n", stderr);
	run->give_up_ns = ring_now_ns(run->ring) + GIVE_UP_NS;
	signals_end_children();
}

static int open_source(struct digest_run *run)
{
	struct cli_options *options = run->options;
	struct block_open_options open = {.cache = options->job.cache, .link = options->job.link};
	struct block *block;
	int res = block_open(&block, run->ring, &options->source, &open, &options->error);

	if (res == 0)
		res = throttle_new(&run->block, block, options->job.rate, &options->error);
	if (res == 0 && block_info(run->block)->stream)
		res = error_set(&options->error, -EINVAL, "a stream cannot be digested; use sha256sum");
	return res;
}

static int set_up(struct digest_run *run)
{
	struct cli_options *options = run->options;
	int res = options->key_text ? parse_key(options->key_text, &run->key, &options->error)
	                            : digest_key_random(&run->key, &options->error);

	if (res == 0 && options->sha256 + !!options->output_path + !!options->key_text > 1)
		res = error_set(&options->error, -EINVAL, "--output, --sha256 and --key exclude each other");
	if (res == 0 && options->digest_root && (options->sha256 || options->output_path))
		res = error_set(&options->error, -EINVAL, "--root excludes --output and --sha256");
	if (res == 0)
		res = ring_new(&run->ring, 128, &options->error);
	if (res == 0)
		res = report_new(&run->report, options, "digest", &options->error);
	if (res == 0)
		res = signals_new(&run->signals, run->ring, got_signal, run, &options->error);
	if (res == 0) {
		ticker_start(&run->ticker, run->ring, TICK_NS, tick, run);
		res = open_source(run);
	}
	return res;
}

static void tear_down(struct digest_run *run)
{
	ticker_stop(&run->ticker);
	if (run->report)
		report_clear(run->report);
	report_free(run->report);
	block_free(run->block);
	signals_free(run->signals);
	ring_free(run->ring);
}

int command_digest(int argc, char **argv)
{
	static const struct argp own = {.options = digest_options, .parser = parse};
	static const struct argp_child children[] = {{&own, 0, NULL, 0}, {&cli_argp_read, 0, NULL, 0},
	    {&cli_argp_holes, 0, NULL, 0}, {&cli_argp_link, 0, NULL, 0}, {&cli_argp_report, 0, NULL, 0}, {0}};
	static const struct argp argp = {.args_doc = "SRC",
	    .doc = "Saves or prints digests of a volume. Without an option it prints a line for each MiB: "
	           "offset, length, digest.\v"
	           "SRC: /dev/x, file.img, [user@]host:PATH, nbd://..., or [ SERVER ARGS ]."};
	struct cli_options options = {0};
	struct digest_run run = {.options = &options};
	int res = cli_parse(&options, &argp, children, argc, argv, 1);

	/* A bar would mix with what is printed. */
	if (options.progress == PROGRESS_AUTO && isatty(STDOUT_FILENO) && !options.output_path &&
	    !options.sha256)
		options.progress = PROGRESS_LINES;
	if (res == 0)
		res = set_up(&run);
	if (res == 0)
		res = run_digest(&run);
	if (res == 0 && (fflush(stdout) || ferror(stdout)))
		res = error_set(&options.error, -EIO, "cannot write to standard output");
	tear_down(&run);
	if (res < 0)
		res = run.give_up_ns
		          ? JOB_INTERRUPTED
		          : cli_fail(res == -ECANCELED ? JOB_INTERRUPTED : JOB_TROUBLE, &options.error);
	cli_options_done(&options);
	return res;
}
