/* SPDX-License-Identifier: GPL-2.0-or-later */
/* See sim_line.h. */
#include "sim_line.h"

#include "base/plant.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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
};

#define COMMON (sizeof(common) / sizeof(common[0]))
#define TWICE  50u

bool sim_line_wrong(const struct sim_line *line)
{
	fprintf(stderr,
	    "usage: %s [--seeds N] [--start S] [--verbose] [--trace] [--plant MISTAKE] [--every-step] %s\n"
	    "mistakes:",
	    line->program, line->more_usage);
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

bool sim_line_plant(const struct sim_line *line)
{
#ifdef BLKMOVE_PLANTS
	planted_mistake = (enum planted)line->mistakes[line->plant].number;
	return true;
#else
	return line->plant == 0 || sim_line_wrong(line);
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
		return line->every_step = true;
	case 'p':
		return take_plant(line, optarg);
	case '?':
		return false;
	default:
		return line->take(line->data, option, optarg);
	}
}

bool sim_line_parse(struct sim_line *line, int argc, char **argv)
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
			return sim_line_wrong(line);
	/* What was told must be there when an assertion ends the program. */
	setvbuf(stdout, NULL, _IOLBF, 0);
	clock_gettime(CLOCK_MONOTONIC, &line->begun);
	return optind == argc || sim_line_wrong(line);
}

/* The same seed gives the same run: else a failure could not be replayed. */
static bool is_repeatable(const struct sim_line *line, uint64_t seed, uint64_t trace)
{
	uint64_t again;

	line->run(line->data, seed, false, &again);
	if (again == trace)
		return true;
	printf("seed %llu is not repeatable\n", (unsigned long long)seed);
	return false;
}

uint64_t sim_line_run(const struct sim_line *line)
{
	uint64_t failed = 0;

	for (uint64_t i = 0; i < line->seeds && !(line->plant && failed); i++) {
		uint64_t seed = line->start + i, trace;
		bool good = line->run(line->data, seed, true, &trace);

		if (!good || (i % TWICE == 0 && !is_repeatable(line, seed, trace)))
			failed++;
	}
	return failed;
}

double sim_line_seconds(const struct sim_line *line)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)(now.tv_sec - line->begun.tv_sec) + (double)(now.tv_nsec - line->begun.tv_nsec) / 1e9;
}

int sim_line_end(const struct sim_line *line, uint64_t failed)
{
	if (line->plant == 0)
		return failed > 0;
	printf("the mistake %s was %s\n", line->mistakes[line->plant].name, failed ? "found" : "NOT found");
	return failed == 0;
}
