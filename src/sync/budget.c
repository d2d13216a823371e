/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* One governor for all, shares by priority: see budget.h. */
#include "sync/budget.h"

#include "base/bytes.h"

#include <assert.h>

#define INTERVAL_NS 200000000u
#define SILENT_NS   1000000000u
#define WINDOW_MIN  (64u << 10)
#define WINDOW_ALL  (32u << 20) /* bytes in flight, where nothing else sets a limit */
#define HALVINGS    64u

static struct budget_member *member_of(struct list_node *node)
{
	return container_of(node, struct budget_member, node);
}

/* What one that is not limited uses is about what it will: the rest is of more use to the others. Who comes to want more is limited, and heard. */
static uint64_t wanted_by(const struct budget_member *member, uint64_t total)
{
	return member->report.limited ? total : min_u64(total, member->used + member->used / 8 + total / 64);
}

static uint64_t at_level(const struct budget_member *member, double level)
{
	double rate = level * member->priority;

	return rate >= (double)member->most ? member->most : max_u64((uint64_t)rate, member->least);
}

/* Fills all as vessels of the width of their priority, up to one level: each between its least and its most, and `total` together. */
static void fill(struct budget *budget, uint64_t total)
{
	double low = 0, high = (double)total;

	for (unsigned i = 0; i < HALVINGS; i++) {
		double level = (low + high) / 2;
		uint64_t sum = 0;

		list_for_each (node, &budget->members)
			sum += member_of(node)->busy ? at_level(member_of(node), level) : 0;
		*(sum <= total ? &low : &high) = level;
	}
	list_for_each (node, &budget->members)
		member_of(node)->limits.rate = at_level(member_of(node), low);
}

static void share_rate(struct budget *budget, uint64_t total)
{
	uint64_t least = 0;

	list_for_each (node, &budget->members) {
		struct budget_member *member = member_of(node);

		member->most = wanted_by(member, total);
		member->least = min_u64(member->min_rate, member->most);
		least += member->busy ? member->least : 0;
	}
	list_for_each (node, &budget->members) {
		struct budget_member *member = member_of(node);

		/* Not even that much: then these are shared. */
		if (least > total)
			member->most = member->least;
		member->least = least > total ? 0 : member->least;
	}
	fill(budget, total);
	/* What nobody seems to want may be taken by all. */
	list_for_each (node, &budget->members) {
		struct budget_member *member = member_of(node);

		member->least = member->limits.rate;
		member->most = total;
	}
	fill(budget, total);
}

static void share_out(struct budget *budget, uint64_t now_ns)
{
	uint64_t weights = 0, total = budget->total.rate;
	unsigned lowest = BUDGET_PRIORITY_MAX, highest = 0;

	list_for_each (node, &budget->members) {
		struct budget_member *member = member_of(node);

		member->busy = member->report.following && member->report.wanting &&
		               now_ns - member->told_ns < SILENT_NS;
		if (!member->busy)
			continue;
		weights += member->priority;
		lowest = min_u64(lowest, member->priority);
		highest = max_u64(highest, member->priority);
	}
	if (total)
		share_rate(budget, total);
	list_for_each (node, &budget->members) {
		struct budget_member *member = member_of(node);
		uint64_t all = weights + (member->busy ? 0 : member->priority), window = budget->total.window;

		member->limits.hold = budget->total.hold;
		member->limits.slow_ns = budget->total.slow_ns;
		/* No limit at all: who has more under way gets more of what the disks give. */
		if (!total && lowest < highest)
			window = WINDOW_ALL;
		member->limits.window = window ? max_u64(window * member->priority / all, WINDOW_MIN) : 0;
		/* For when it begins: until it was asked it may take what will be its part. 0 would be no limit. */
		if (!member->busy)
			member->limits.rate = total * member->priority / all;
		member->limits.rate = total ? max_u64(member->limits.rate, 1) : 0;
	}
}

/* Who has less than a hundredth of the requests does not decide on their slowest hundredth. */
static void feel(struct budget *budget, struct governor_sample *ret)
{
	*ret = (struct governor_sample){0};
	budget->governor.options.min_rate = 0;
	list_for_each (node, &budget->members) {
		const struct budget_member *member = member_of(node);

		ret->requests += member->report.requests;
		ret->copied += member->report.copied;
		if (member->busy)
			budget->governor.options.min_rate += member->min_rate;
	}
	list_for_each (node, &budget->members) {
		const struct budget_report *report = &member_of(node)->report;

		if (report->requests == 0 || report->requests < ret->requests / 100)
			continue;
		ret->p99_ns = max_u64(ret->p99_ns, report->p99_ns);
		/* As if all had as many slow ones as those who have the most. */
		ret->slow = max_u64(ret->slow,
		    (uint64_t)((double)report->slow * (double)ret->requests / (double)report->requests));
	}
}

static void begin_interval(struct budget *budget, uint64_t interval_ns)
{
	list_for_each (node, &budget->members) {
		struct budget_member *member = member_of(node);
		uint64_t used = (uint64_t)((double)member->report.copied * 1e9 / (double)interval_ns);

		member->used = (member->used + used) / 2;
		member->report.copied = member->report.p99_ns = 0;
		member->report.requests = member->report.slow = 0;
	}
}

static bool is_anyone_following(const struct budget *budget)
{
	list_for_each (node, &budget->members)
		if (member_of(node)->report.following)
			return true;
	return false;
}

static void look(struct budget *budget, uint64_t now_ns)
{
	uint64_t interval_ns = now_ns - budget->shared_ns;
	struct governor_sample sample;

	if (interval_ns < INTERVAL_NS)
		return;
	feel(budget, &sample);
	/* They were all away meanwhile: that says nothing. */
	sample.interval_ns = min_u64(interval_ns, SILENT_NS);
	/* What clients feel while no copy can be says nothing about copies. */
	if (is_anyone_following(budget))
		governor_update(&budget->governor, &sample, &budget->total);
	begin_interval(budget, interval_ns);
	share_out(budget, now_ns);
	budget->shared_ns = now_ns;
}

/* What holds from now on, before anything was measured. */
static void begin(struct budget *budget, uint64_t now_ns)
{
	const struct governor_sample nothing = {0};

	governor_update(&budget->governor, &nothing, &budget->total);
	share_out(budget, now_ns);
}

void budget_init(struct budget *budget, const struct governor_options *options, uint64_t now_ns)
{
	*budget = (struct budget){.shared_ns = now_ns};
	list_init(&budget->members);
	governor_init(&budget->governor, options);
}

void budget_set(struct budget *budget, const struct governor_options *options, uint64_t now_ns)
{
	governor_set(&budget->governor, options);
	begin(budget, now_ns);
}

void budget_join(struct budget *budget, struct budget_member *member, uint64_t now_ns)
{
	assert(member->priority >= 1 && member->priority <= BUDGET_PRIORITY_MAX && !member->budget);
	member->budget = budget;
	member->told_ns = now_ns;
	member->report = (struct budget_report){.following = true, .wanting = true, .limited = true};
	list_append(&budget->members, &member->node);
	begin(budget, now_ns);
}

void budget_leave(struct budget_member *member)
{
	if (member->budget)
		list_remove(&member->node);
	member->budget = NULL;
}

void budget_report(struct budget_member *member, const struct budget_report *report, uint64_t now_ns)
{
	struct budget_report *all = &member->report;
	const struct budget_report before = *all;

	*all = *report;
	all->copied += before.copied;
	all->requests += before.requests;
	all->slow += before.slow;
	all->p99_ns = max_u64(all->p99_ns, before.p99_ns);
	member->told_ns = now_ns;
	look(member->budget, now_ns);
}
