/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * How long things took, over a sliding window: log-linear buckets (an eighth of a power of two, so at most 12.5 % off) in a
 * few slices of time, of which the oldest is thrown away. No allocation, no clock of its own.
 */
#pragma once

#include <stdint.h>

#define HISTOGRAM_SLICES  4u
#define HISTOGRAM_BUCKETS (62u * 8u)

struct histogram {
	uint64_t slice_ns;
	uint64_t began_ns; /* the current slice */
	unsigned current;
	uint32_t counts[HISTOGRAM_SLICES][HISTOGRAM_BUCKETS];
	uint64_t max_ns[HISTOGRAM_SLICES];
};

struct histogram_figures {
	uint64_t count;
	uint64_t p50_ns, p99_ns,
	    max_ns; /* upper ends of buckets, but max is exact; 0 when there is nothing */
};

/* The window is between three and four quarters of window_ns long. */
void histogram_init(struct histogram *histogram, uint64_t window_ns, uint64_t now_ns);
void histogram_add(struct histogram *histogram, uint64_t now_ns, uint64_t took_ns);
void histogram_figures(struct histogram *histogram, uint64_t now_ns, struct histogram_figures *ret);
