/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See sim_line.h. */
#include "sim_line.h"

#include "base/plant.h"
#include "ring/ring_sim.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#ifdef BLKMOVE_PLANTS
enum planted planted_mistake;
#endif

static const struct option common[] = {
    {"seeds", required_argument, NULL, 'n'},
    {"start", required_argument, NULL, 's'},
    {"verbose", no_argument, NULL, 'v'},
    {"trace", no_argument, NULL, 't'},
    {"plant", required_argument, NULL, 'p'},
    {"every-step", no_argument, NULL, 'e'},
    {"watch", required_argument, NULL, 'w'},
};

#define COMMON (sizeof(common) / sizeof(common[0]))
#define TWICE  50u

static bool is_wrong(const struct sim_line *line)
{
	fprintf(stderr,
	    "usage: %s [--seeds N] [--start S] [--verbose] [--trace] [--plant MISTAKE]%s%s%s\nmistakes:",
	    line->program, line->run_every_step ? " [--every-step]" : "",
	    line->can_watch ? " [--watch SECTOR]" : "", line->more_usage ? line->more_usage : "");
	for (int i = 1; i < line->mistakes_count; i++)
		fprintf(stderr, " %s", line->mistakes[i].name);
	fputc('\n', stderr);
	return false;
}

static bool take_plant(struct sim_line *line, const char *text)
{
	for (line->plant = 0; line->plant < line->mistakes_count; line->plant++)
		if (!strcmp(line->mistakes[line->plant].name, text))
			return true;
	return false;
}

static bool plant(const struct sim_line *line)
{
	if (line->plants_itself)
		return true;
#ifdef BLKMOVE_PLANTS
	planted_mistake = (enum planted)line->mistakes[line->plant].number;
	return true;
#else
	return line->plant == 0 || is_wrong(line);
#endif
}

static bool take(struct sim_line *line, int option)
{
	switch (option) {
	case 'n':
		line->seeds = strtoull(optarg, NULL, 0);
		return true;
	case 's':
		line->start = strtoull(optarg, NULL, 0);
		return true;
	case 'v':
		return line->verbose = true;
	case 't':
		return line->trace = true;
	case 'e':
		return line->every_step = line->run_every_step != NULL;
	case 'w':
		line->watch = strtoull(optarg, NULL, 0);
		return line->can_watch;
	case 'p':
		return take_plant(line, optarg);
	case '?':
		return false;
	default:
		line->take(option, optarg);
		return true;
	}
}

static bool parse(struct sim_line *line, int argc, char **argv)
{
	const char *seed = getenv("BLKMOVE_SEED");
	struct option options[COMMON + SIM_LINE_MORE + 1] = {0};
	int option;

	memcpy(options, common, sizeof(common));
	for (unsigned i = 0; line->more && i < SIM_LINE_MORE && line->more[i].name; i++)
		options[COMMON + i] = line->more[i];
	if (seed) {
		line->start = strtoull(seed, NULL, 0);
		line->seeds = 1;
	}
	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1)
		if (!take(line, option))
			return is_wrong(line);
	/* What was told must be there when an assertion ends the program. */
	setvbuf(stdout, NULL, _IOLBF, 0);
	return optind == argc || is_wrong(line);
}

void sim_line_count(struct sim_line *line, const char *what, uint64_t count)
{
	unsigned i = 0;

	while (i < SIM_LINE_SUMS && line->sums[i].what && strcmp(line->sums[i].what, what) != 0)
		i++;
	if (i == SIM_LINE_SUMS)
		abort();
	line->sums[i].what = what;
	line->sums[i].count += count;
}

bool sim_line_judge(struct sim_line *line, uint64_t seed, const struct sim_story *story, const char *more)
{
	uint64_t steps = ring_sim_steps(story->sim);

	line->count++;
	line->steps += steps;
	line->last_trace = ring_sim_trace(story->sim);
	if (story->failures && (line->plant == 0 || line->verbose))
		printf("seed %llu failed: %s\n  replay: %s --start %llu --seeds 1 --verbose%s\n",
		    (unsigned long long)seed, story->failure, line->program, (unsigned long long)seed, more);
	if (line->trace)
		printf("seed %llu trace %016llx steps %llu\n", (unsigned long long)seed,
		    (unsigned long long)line->last_trace, (unsigned long long)steps);
	return story->failures == 0;
}

/* The same seed gives the same run: else a failure could not be replayed. */
static bool is_repeatable(const struct sim_line *line, uint64_t seed)
{
	struct sim_line again = *line;

	again.verbose = again.trace = false;
	again.watch = UINT64_MAX;
	if (line->run(&again, seed) && again.last_trace == line->last_trace)
		return true;
	printf("seed %llu is not repeatable\n", (unsigned long long)seed);
	return false;
}

static uint64_t run_all(struct sim_line *line)
{
	uint64_t failed = 0;

	for (uint64_t i = 0; i < line->seeds && !(line->plant && failed); i++) {
		uint64_t seed = line->start + i;

		if (line->every_step)
			failed += line->run_every_step(line, seed);
		else if (!line->run(line, seed) || (i % TWICE == 0 && !is_repeatable(line, seed)))
			failed++;
	}
	return failed;
}

static double now_s(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

int sim_line_main(struct sim_line *line, int argc, char **argv)
{
	double begun = now_s();
	uint64_t failed;

	line->watch = UINT64_MAX;
	if (!parse(line, argc, argv) || !plant(line))
		return 2;
	failed = run_all(line);
	printf("%llu runs from seed %llu, %llu steps", (unsigned long long)line->count,
	    (unsigned long long)line->start, (unsigned long long)line->steps);
	for (unsigned i = 0; i < SIM_LINE_SUMS && line->sums[i].what; i++)
		printf(", %llu %s", (unsigned long long)line->sums[i].count, line->sums[i].what);
	printf(", %.1f s: %llu failed\n", now_s() - begun, (unsigned long long)failed);
	if (line->plant == 0)
		return failed > 0;
	printf("the mistake %s was %s\n", line->mistakes[line->plant].name, failed ? "found" : "NOT found");
	return failed == 0;
}
