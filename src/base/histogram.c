/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Latencies over a sliding window: see histogram.h. */
#include "base/histogram.h"

#include "base/bytes.h"

#define SUB 8u /* buckets in a power of two */

void histogram_init(struct histogram *histogram, uint64_t window_ns, uint64_t now_ns)
{
	memset(histogram, 0, sizeof(*histogram));
	histogram->slice_ns = max_u64(window_ns / HISTOGRAM_SLICES, 1);
	histogram->began_ns = now_ns;
}

static unsigned bucket_of(uint64_t ns)
{
	unsigned log;

	if (ns < SUB)
		return (unsigned)ns;
	log = 63u - (unsigned)__builtin_clzll(ns);
	return (log - 2) * SUB + (unsigned)(ns >> (log - 3) & (SUB - 1));
}

/* The highest value of a bucket. */
static uint64_t top_of(unsigned bucket)
{
	unsigned shift = bucket / SUB - 1;

	if (bucket < SUB)
		return bucket;
	return ((uint64_t)(SUB + bucket % SUB) << shift) + ((1ull << shift) - 1);
}

static void slide(struct histogram *histogram, uint64_t now_ns)
{
	uint64_t slices =
	    now_ns > histogram->began_ns ? (now_ns - histogram->began_ns) / histogram->slice_ns : 0;

	histogram->began_ns += slices * histogram->slice_ns;
	for (slices = min_u64(slices, HISTOGRAM_SLICES); slices > 0; slices--) {
		histogram->current = (histogram->current + 1) % HISTOGRAM_SLICES;
		memset(histogram->counts[histogram->current], 0, sizeof(histogram->counts[0]));
		histogram->max_ns[histogram->current] = 0;
	}
}

void histogram_add(struct histogram *histogram, uint64_t now_ns, uint64_t took_ns)
{
	unsigned bucket = bucket_of(took_ns);

	slide(histogram, now_ns);
	if (bucket >= HISTOGRAM_BUCKETS)
		bucket = HISTOGRAM_BUCKETS - 1;
	histogram->counts[histogram->current][bucket]++;
	if (took_ns > histogram->max_ns[histogram->current])
		histogram->max_ns[histogram->current] = took_ns;
}

void histogram_figures(struct histogram *histogram, uint64_t now_ns, struct histogram_figures *ret)
{
	uint64_t sums[HISTOGRAM_BUCKETS] = {0}, seen = 0;
	struct histogram_figures figures = {0};

	slide(histogram, now_ns);
	for (unsigned i = 0; i < HISTOGRAM_SLICES; i++) {
		figures.max_ns = max_u64(figures.max_ns, histogram->max_ns[i]);
		for (unsigned j = 0; j < HISTOGRAM_BUCKETS; j++) {
			sums[j] += histogram->counts[i][j];
			figures.count += histogram->counts[i][j];
		}
	}
	for (unsigned j = 0; j < HISTOGRAM_BUCKETS && seen < figures.count; j++) {
		uint64_t before = seen;

		seen += sums[j];
		if (before * 2 < figures.count && seen * 2 >= figures.count)
			figures.p50_ns = min_u64(top_of(j), figures.max_ns);
		if (before * 100 < figures.count * 99 && seen * 100 >= figures.count * 99)
			figures.p99_ns = min_u64(top_of(j), figures.max_ns);
	}
	*ret = figures;
}
