/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The pace of a copy: see governor.h. What counts is which part of the clients' requests took longer than the target, over some
 * seconds: a hundredth may. An interval alone has too few requests to tell. Before the copy is slowed down for long it
 * is held for a moment: what clients feel then is not its doing, and slowing it down would not help them.
 */
#include "sync/governor.h"

#include "base/bytes.h"

#define RATE_BEGIN       (2u << 20) /* bytes per second */
#define RATE_FLOOR       (256u << 10)
#define RATE_STEP        (64u << 10)
#define RATE_CEILING     (1ull << 40)
#define WINDOW_NS        250000000ull /* so much of the rate may be in flight */
#define WINDOW_MIN       (64u << 10)
#define WINDOW_MAX       (32u << 20)
#define MEASURE_NS       2500000000ull
#define MEASURE_EVERY_NS 60000000000ull

#define MAY_BE_SLOW     0.008 /* a part of the requests: a little less than a hundredth */
#define GROWS_BELOW     0.8   /* a part of that, but not less than half way from what is slow without it */
#define GROWS_MOST      0.95
#define ITS_DOING       1.25 /* so many times what is slow without the copy */
#define HOPELESS        0.1  /* so much slow without it */
#define MEMORY_NS       3e9  /* about as long as an interval counts */
#define MEMORY_HELD_NS  30e9
#define JUDGED_NS       2000000000ull /* a rate, before the next hold */
#define REQUESTS_MIN    100.0         /* fewer say nothing */
#define DRAIN_INTERVALS 2u
#define HELD_INTERVALS  3u
#define GROWTH          16u /* that part of the rate in an interval */
#define GROWTH_FAST     8u  /* where hardly anything is slow */
#define SEARCH_SLOWLY   4u  /* where another doubling could be too much */
#define UNDECIDED_NS    4000000000ull

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
	governor->copying = governor->holding = (struct governor_tally){0};
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

/* The clients without the copy; at the end the sample's p99 is of this pause alone. With no clients there is nobody to spare. */
static bool measure(struct governor *governor, const struct governor_sample *sample)
{
	governor->measured_ns += sample->interval_ns;
	if (governor->measured_ns < MEASURE_NS)
		return false;
	governor->baseline_ns = sample->p99_ns;
	governor->measured = true;
	governor->measured_ns = governor->since_ns = 0;
	return true;
}

static uint64_t target_of(const struct governor *governor)
{
	if (governor->options.target_ns)
		return governor->options.target_ns;
	return governor->baseline_ns + governor->baseline_ns * governor->options.impact / 100;
}

static void add(struct governor_tally *tally, const struct governor_sample *sample, double memory_ns)
{
	double kept = 1 - (double)sample->interval_ns / memory_ns;

	kept = kept > 0 ? kept : 0;
	tally->requests = tally->requests * kept + (double)sample->requests;
	tally->slow = tally->slow * kept + (double)sample->slow;
}

/* The part that is slow without the copy; negative if that is not known. */
static double slow_without(const struct governor *governor)
{
	const struct governor_tally *held = &governor->holding;

	return held->requests >= REQUESTS_MIN ? held->slow / held->requests : -1;
}

/* What may be slow of so many requests, by the target and by what was slow without the copy. */
static double allowed(const struct governor *governor, double requests)
{
	double part = slow_without(governor);

	/* A target that cannot be had says nothing about the copy: then it is slow. */
	if (part <= MAY_BE_SLOW || part > HOPELESS)
		return MAY_BE_SLOW * requests;
	return ITS_DOING * part * requests;
}

/* More than `usual` by more than chance makes of such a number. */
static bool is_more(double number, double usual, double spread)
{
	return number > usual && (number - usual) * (number - usual) > spread;
}

/* So few slow ones of those requests leave room for more. */
static bool has_room(const struct governor *governor, const struct governor_tally *tally, double may)
{
	double part = slow_without(governor), half_way = (part * tally->requests + may) / 2;
	double most = half_way < GROWS_MOST * may ? half_way : GROWS_MOST * may;

	return tally->slow < 0.5 || tally->slow <= GROWS_BELOW * may || (part >= 0 && tally->slow <= most);
}

static void grow(struct governor *governor, uint64_t copied, bool fast)
{
	uint64_t step = governor->rate / (fast ? GROWTH_FAST : GROWTH);

	/* An allowance that is not used says nothing, and does not grow. */
	if (copied + copied / 4 < governor->rate)
		return;
	if (governor->searching)
		step = fast ? governor->rate : governor->rate / SEARCH_SLOWLY;
	governor->rate += max_u64(RATE_STEP, step);
}

static uint64_t floor_of(const struct governor *governor)
{
	return governor->options.min_rate ? governor->options.min_rate : RATE_FLOOR;
}

/* For a moment; compare() ends it. */
static void hold(struct governor *governor)
{
	governor->rate_before = governor->rate;
	governor->hold_left = DRAIN_INTERVALS + HELD_INTERVALS;
}

/* At once; then a hold is to say whether that was right, if not one did a moment ago. */
static void cut(struct governor *governor, uint64_t copied, bool far)
{
	uint64_t from = copied ? min_u64(governor->rate, copied) : governor->rate;
	bool known = governor->judged_ns < JUDGED_NS && !governor->searching;

	if (known && !(far && governor->guilty))
		return;
	governor->searching = false;
	if (governor->rate <= floor_of(governor))
		return;
	if (known)
		governor->copying = (struct governor_tally){0};
	else
		hold(governor);
	governor->rate = far ? from / 2 : from - from / 4;
}

static void judge(struct governor *governor, const struct governor_sample *sample)
{
	struct governor_tally *tally = &governor->copying;
	uint64_t copied =
	    sample->interval_ns ? (uint64_t)((double)sample->copied * 1e9 / (double)sample->interval_ns) : 0;
	const struct governor_sample nothing = {.interval_ns = sample->interval_ns};
	double may;
	bool far;

	add(tally, sample, MEMORY_NS);
	governor->judged_ns += sample->interval_ns;
	/* So little is as good as none. Else that fades, and a hold will tell anew. */
	if (governor->rate <= RATE_FLOOR)
		add(&governor->holding, sample, MEMORY_HELD_NS);
	else
		add(&governor->holding, &nothing, MEMORY_HELD_NS);
	may = allowed(governor, tally->requests);
	/* Far above it, a single interval is enough. */
	far = sample->slow > 2 && (double)sample->slow > 5 * allowed(governor, (double)sample->requests);
	if ((tally->requests >= REQUESTS_MIN || far) && (far || is_more(tally->slow, may, may)))
		cut(governor, copied, far);
	else if (has_room(governor, tally, may))
		grow(governor, copied, tally->slow <= may / 4);
	/* Neither much nor little: what is it without the copy? */
	else if (tally->requests >= REQUESTS_MIN && slow_without(governor) < 0 &&
	         governor->judged_ns > UNDECIDED_NS)
		hold(governor);
}

/* The copy is held. As much is slow as before? Then it was not the copy, which gets back what it had. */
static void compare(struct governor *governor, const struct governor_sample *sample)
{
	const struct governor_tally *tally = &governor->copying;

	/* First ends what was under way. */
	if (governor->hold_left-- <= HELD_INTERVALS)
		add(&governor->holding, sample, MEMORY_HELD_NS);
	if (governor->hold_left > 0)
		return;
	governor->guilty = is_more(tally->slow, allowed(governor, tally->requests), tally->slow);
	if (!governor->guilty)
		governor->rate = governor->rate_before;
	governor->copying = (struct governor_tally){0};
	governor->judged_ns = 0;
}

static void clamp_rate(struct governor *governor)
{
	const struct governor_options *options = &governor->options;
	uint64_t high = options->max_rate ? options->max_rate : RATE_CEILING;

	governor->rate = min_u64(max_u64(governor->rate, floor_of(governor)), high);
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
	if (governor->hold_left > 0)
		compare(governor, sample);
	else
		judge(governor, sample);
	clamp_rate(governor);
	ret->hold = governor->hold_left > 0;
	ret->slow_ns = target_of(governor);
	ret->rate = governor->rate;
	ret->window = min_u64(max_u64(governor->rate / (1000000000ull / WINDOW_NS), WINDOW_MIN), WINDOW_MAX);
}
