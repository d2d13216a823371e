/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A table of rules. What matches none is forwarded untouched. */
#include "filter/fault.h"

#include "base/rand.h"
#include "filter/filter.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#define RULES_MAX 32

struct rule {
	struct fault_rule set;
	unsigned seen, done;
};

struct fault {
	struct filter filter;
	struct rule rules[RULES_MAX];
	unsigned rules_count, hits;
	struct rand rand;
};

static const struct block_driver fault_driver;

static struct fault *fault_of(struct block *block)
{
	assert(block->driver == &fault_driver);
	return container_of(block, struct fault, filter.block);
}

static bool touches(const struct fault_rule *rule, const struct block_io *io)
{
	if (rule->ops && !(rule->ops & 1u << io->op))
		return false;
	if (rule->length == 0)
		return true;
	if (io->op == BLOCK_FLUSH || io->op == BLOCK_RESIZE)
		return false;
	return io->offset < rule->offset + rule->length && rule->offset < io->offset + io->length;
}

static bool strikes(struct fault *fault, struct rule *rule, const struct block_io *io)
{
	if (!touches(&rule->set, io))
		return false;
	rule->seen++;
	if (rule->set.nth && rule->set.nth != rule->seen)
		return false;
	if (rule->set.times && rule->done >= rule->set.times)
		return false;
	if (rule->set.ppm && !rand_ppm(&fault->rand, rule->set.ppm))
		return false;
	rule->done++;
	fault->hits++;
	return true;
}

static void answered_with_error(struct filter *filter, struct block_io *io, int res)
{
	block_complete(io, res < 0 ? res : (int)io->driver_u64[0]);
}

static void answered_corrupt(struct filter *filter, struct block_io *io, int res)
{
	struct fault *fault = container_of(filter, struct fault, filter);
	uint64_t length = io->length;

	if (io->op == BLOCK_DIGEST)
		length = digest_count(io->length, io->granularity) * DIGEST_BYTES;
	else if (res > 0)
		length = (uint64_t)res; /* a stream's */
	if (res >= 0 && length > 0)
		((uint8_t *)io->buf)[rand_below(&fault->rand, length)] ^=
		    (uint8_t)(1u << rand_below(&fault->rand, 8));
	block_complete(io, res);
}

static void strike(struct fault *fault, const struct fault_rule *rule, struct block_io *io)
{
	switch (rule->kind) {
	case FAULT_ERROR:
		block_complete_later(&fault->filter.block, io, rule->result);
		return;
	case FAULT_ERROR_AFTER:
		io->driver_u64[0] = (uint64_t)(int64_t)rule->result;
		filter_child(&fault->filter, io, answered_with_error);
		return;
	case FAULT_CORRUPT:
		filter_child(&fault->filter, io, answered_corrupt);
		return;
	}
	assert(!"a kind of fault");
}

static void fault_submit(struct block *block, struct block_io *io)
{
	struct fault *fault = fault_of(block);

	for (unsigned i = 0; i < fault->rules_count; i++) {
		if (strikes(fault, &fault->rules[i], io)) {
			strike(fault, &fault->rules[i].set, io);
			return;
		}
	}
	filter_forward(&fault->filter, io);
}

static void fault_free(struct block *block)
{
	struct fault *fault = fault_of(block);

	filter_done(&fault->filter);
	free(fault);
}

static const struct block_driver fault_driver = {
    .name = "fault",
    .submit = fault_submit,
    .facts = filter_facts,
    .measure = filter_measure,
    .link_error = filter_link_error,
    .free = fault_free,
};

int fault_new(struct block **ret, struct block *take_below, uint64_t seed, struct error *error)
{
	struct fault *fault = calloc(1, sizeof(*fault));

	if (!fault) {
		block_free(take_below);
		return error_set(error, -ENOMEM, "cannot make a fault filter: out of memory");
	}
	filter_init(&fault->filter, &fault_driver, take_below);
	rand_init(&fault->rand, seed);
	*ret = &fault->filter.block;
	return 0;
}

int fault_add(struct block *block, const struct fault_rule *rule)
{
	struct fault *fault = fault_of(block);

	if (fault->rules_count == RULES_MAX)
		return -ENOSPC;
	if (rule->kind == FAULT_CORRUPT)
		assert(rule->ops && !(rule->ops & ~(1u << BLOCK_READ | 1u << BLOCK_DIGEST)));
	fault->rules[fault->rules_count] = (struct rule){.set = *rule};
	return (int)fault->rules_count++;
}

void fault_clear(struct block *block)
{
	fault_of(block)->rules_count = 0;
}

unsigned fault_hits(struct block *block)
{
	return fault_of(block)->hits;
}
