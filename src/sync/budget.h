/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the copies of several mirrors may take together. One governor hears what the clients of all of them feel; the rate that
 * it allows is shared by priority, and what one cannot use goes to the others. Members are embedded in their mirrors. Pure
 * arithmetic on one thread; times are told by the callers.
 */
#pragma once

#include "base/list.h"
#include "sync/governor.h"

#define BUDGET_PRIORITY_MAX 1000u

struct budget {
	struct governor governor;
	struct list_node members;
	struct governor_limits total; /* of all */
	uint64_t shared_ns;           /* when the shares were worked out last */
};

/* What a mirror measured since it was asked last. */
struct budget_report {
	bool following;    /* the follower is there, and the copy is not paused */
	bool wanting;      /* there is something to copy */
	bool limited;      /* and its rate kept it from more */
	uint64_t requests; /* of its clients */
	uint64_t slow;     /* of them: took longer than the limits' slow_ns */
	uint64_t p99_ns;   /* of those of the last one or two seconds */
	uint64_t copied;   /* bytes */
};

struct budget_member {
	/* its mirror's; may change at any time */
	unsigned priority; /* 1..BUDGET_PRIORITY_MAX: the weight */
	uint64_t min_rate; /* bytes per second, whatever the clients feel; 0: none of its own */

	/* the budget's */
	struct budget *budget; /* NULL: has not joined */
	struct list_node node;
	struct budget_report report; /* since the shares were worked out last */
	uint64_t told_ns;
	uint64_t used;                 /* bytes per second, smoothed */
	uint64_t least, most;          /* bytes per second, while shares are worked out */
	bool busy;                     /* has a share */
	struct governor_limits limits; /* for the member to read */
};

/* The options' min_rate does not count: each member has its own. */
void budget_init(struct budget *budget, const struct governor_options *options, uint64_t now_ns);
/* Changes the options and keeps what was learned. */
void budget_set(struct budget *budget, const struct governor_options *options, uint64_t now_ns);
/* With its priority and min_rate set. The budget stays until all have left. */
void budget_join(struct budget *budget, struct budget_member *member, uint64_t now_ns);
/* A member that never joined may leave. */
void budget_leave(struct budget_member *member);
/*
 * A member tells how it goes, five times a second or so; its limits then say what it may take from now on. One that says nothing for a
 * second does not count.
 */
void budget_report(struct budget_member *member, const struct budget_report *report, uint64_t now_ns);
