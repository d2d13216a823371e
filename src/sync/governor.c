/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Additive increase, multiplicative decrease of a rate: see governor.h. */
#include "sync/governor.h"

#include "base/bytes.h"

#define RATE_BEGIN       (16u << 20) /* bytes per second */
#define RATE_FLOOR       (256u << 10)
#define RATE_STEP        (64u << 10)
#define RATE_CEILING     (1ull << 40)
#define WINDOW_NS        50000000ull /* so much of the rate may be in flight */
#define WINDOW_MIN       (64u << 10)
#define WINDOW_MAX       (32u << 20)
#define REQUESTS_MIN     10u /* fewer say nothing about a p99 */
#define MEASURE_NS       1500000000ull
#define MEASURE_EVERY_NS 60000000000ull

void governor_init(struct governor *governor, const struct governor_options *options)
{
	*governor = (struct governor){.rate = RATE_BEGIN, .searching = true};
	governor_set(governor, options);
}

void governor_set(struct governor *governor, const struct governor_options *options)
{
	/* Another question: what was measured is still an answer, the search begins anew. */
	governor->searching = true;
	governor->options = *options;
}

static bool governs(const struct governor *governor)
{
	return governor->options.target_ns || governor->options.impact;
}

static bool measures(const struct governor *governor)
{
	return governor->options.target_ns == 0 && governor->options.impact &&
	       (!governor->measured || governor->since_ns >= MEASURE_EVERY_NS);
}

/* The clients without the copy. With no clients there is nobody to spare. */
static bool measure(struct governor *governor, const struct governor_sample *sample)
{
	governor->measured_ns += sample->interval_ns;
	/* The first interval still has what was under way before. */
	if (sample->requests >= REQUESTS_MIN && governor->measured_ns > sample->interval_ns)
		governor->worst_ns = max_u64(governor->worst_ns, sample->p99_ns);
	if (governor->measured_ns < MEASURE_NS)
		return false;
	governor->baseline_ns = governor->worst_ns;
	governor->measured = true;
	governor->measured_ns = governor->worst_ns = governor->since_ns = 0;
	return true;
}

static uint64_t target_of(const struct governor *governor)
{
	if (governor->options.target_ns)
		return governor->options.target_ns;
	return governor->baseline_ns + governor->baseline_ns * governor->options.impact / 100;
}

static void change_rate(struct governor *governor, const struct governor_sample *sample)
{
	uint64_t copied =
	    sample->interval_ns ? (uint64_t)((double)sample->copied * 1e9 / (double)sample->interval_ns) : 0;
	uint64_t target_ns = target_of(governor);

	if (sample->requests >= REQUESTS_MIN && target_ns && sample->p99_ns > target_ns) {
		/* What was copied hurt, whatever would have been allowed. Far above: by half. */
		uint64_t from = copied ? min_u64(governor->rate, copied) : governor->rate;

		governor->rate = sample->p99_ns > 2 * target_ns ? from / 2 : from - from / 4;
		governor->searching = false;
		return;
	}
	/* An allowance that is not used says nothing, and does not grow. */
	if (copied + copied / 4 < governor->rate)
		return;
	governor->rate += governor->searching ? governor->rate : max_u64(RATE_STEP, governor->rate / 32);
}

static void clamp_rate(struct governor *governor)
{
	const struct governor_options *options = &governor->options;
	uint64_t low = options->min_rate ? options->min_rate : RATE_FLOOR;
	uint64_t high = options->max_rate ? options->max_rate : RATE_CEILING;

	governor->rate = min_u64(max_u64(governor->rate, low), high);
}

void governor_update(
    struct governor *governor, const struct governor_sample *sample, struct governor_limits *ret)
{
	*ret = (struct governor_limits){.rate = governor->options.max_rate};
	if (!governs(governor))
		return;
	governor->since_ns += sample->interval_ns;
	if (measures(governor) && !measure(governor, sample)) {
		ret->hold = true;
		return;
	}
	change_rate(governor, sample);
	clamp_rate(governor);
	ret->rate = governor->rate;
	ret->window = min_u64(max_u64(governor->rate / (1000000000ull / WINDOW_NS), WINDOW_MIN), WINDOW_MAX);
}
