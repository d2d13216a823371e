/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The table of rounds, and how long the next one will take: see rounds.h. */
#include "sync/rounds.h"

#include <assert.h>

/* Below this part of an earlier one a round counts as shorter: times vary. */
#define SHORTER 0.9

static const struct {
	const char *name;
	enum rounds_step next; /* after ROUNDS_DONE */
	enum rounds_end failed;
} steps[ROUNDS_STEPS] = {
    [ROUNDS_SEND] = {"round", ROUNDS_SEND, ROUNDS_BROKE},
    [ROUNDS_STOP] = {"stop", ROUNDS_WAIT, ROUNDS_NOT_STOPPED},
    [ROUNDS_WAIT] = {"wait", ROUNDS_LAST, ROUNDS_IN_USE},
    [ROUNDS_LAST] = {"last", ROUNDS_END, ROUNDS_BROKE},
    [ROUNDS_END] = {"end", ROUNDS_END, ROUNDS_NO_END},
};

void rounds_init(struct rounds *rounds, unsigned count, double until_s)
{
	*rounds = (struct rounds){.count = count, .until_s = until_s, .expected_s = -1, .change_rate = -1};
}

const char *rounds_step_name(enum rounds_step step)
{
	return steps[step].name;
}

static enum rounds_step end(struct rounds *rounds, enum rounds_end how)
{
	rounds->end = how;
	return rounds->step = ROUNDS_END;
}

/* Bytes a second. */
static double rate_of(uint64_t bytes, double seconds)
{
	return (double)bytes / (seconds > 1e-3 ? seconds : 1e-3);
}

/* Seconds a byte, beside what a round costs of itself; 0: the last two rounds do not tell. */
static double slope_of(const struct round_figures *before, const struct round_figures *now)
{
	if (before->moved <= now->moved || before->seconds <= now->seconds)
		return 0;
	return (before->seconds - now->seconds) / (double)(before->moved - now->moved);
}

/*
 * A round costs something of itself, and something for each byte. How much for a byte, the last two rounds tell where the later one
 * was smaller and shorter. A first round moves long pieces, and its byte is cheaper than a later one's: then less is subtracted here than
 * might be, and the expectation is rather too long. Below what is in proportion it cannot be; above, nothing is better known.
 */
static double expected_time(const struct rounds *rounds, const struct round_figures *now, double bytes)
{
	double moved = (double)now->moved,
	       in_proportion = moved > 0 ? now->seconds * bytes / moved : now->seconds;
	double less = now->seconds - (moved - bytes) * slope_of(&rounds->last, now);

	if (bytes >= moved)
		return in_proportion > now->seconds ? in_proportion : now->seconds;
	return less > in_proportion ? less : in_proportion;
}

/*
 * What moves in a round is what changed between its moment and that of the round before. The faster of the last two rates counts: who
 * writes in bursts is not believed in his pauses.
 */
static void expect(struct rounds *rounds, const struct round_figures *now)
{
	double earlier_rate = rounds->change_rate, rate;

	rounds->send_rate = rate_of(now->moved, now->seconds);
	if (rounds->sent == 1)
		return;
	rounds->change_rate = rate_of(now->moved, now->moment_s - rounds->last.moment_s);
	rate = earlier_rate > rounds->change_rate ? earlier_rate : rounds->change_rate;
	rounds->expected_bytes = rate * (now->ended_s - now->moment_s);
	rounds->expected_s = expected_time(rounds, now, rounds->expected_bytes);
}

/* Against the last round that was shorter by much: three that are shorter by little do count, together. */
static void note_length(struct rounds *rounds, double seconds)
{
	if (rounds->sent == 1 || seconds < rounds->shortest_s * SHORTER) {
		rounds->shortest_s = seconds;
		rounds->stuck = 0;
	} else {
		rounds->stuck++;
	}
}

enum rounds_step rounds_sent(struct rounds *rounds, const struct round_figures *figures)
{
	assert(rounds->step == ROUNDS_SEND);
	rounds->sent++;
	expect(rounds, figures);
	note_length(rounds, figures->seconds);
	rounds->last = *figures;
	if (rounds->count)
		return rounds->step = rounds->sent >= rounds->count ? ROUNDS_STOP : ROUNDS_SEND;
	if (rounds->expected_s >= 0 && rounds->expected_s <= rounds->until_s)
		return rounds->step = ROUNDS_STOP;
	return rounds->stuck >= ROUNDS_STUCK_MAX ? end(rounds, ROUNDS_DIVERGE) : ROUNDS_SEND;
}

enum rounds_step rounds_next(struct rounds *rounds, enum rounds_event event)
{
	assert(rounds->step != ROUNDS_END && (event != ROUNDS_DONE || rounds->step != ROUNDS_SEND));
	if (event == ROUNDS_CANCELED)
		return end(rounds, ROUNDS_GIVEN_UP);
	if (event == ROUNDS_FAILED)
		return end(rounds, steps[rounds->step].failed);
	rounds->step = steps[rounds->step].next;
	if (rounds->step == ROUNDS_END)
		rounds->end = ROUNDS_EQUAL;
	return rounds->step;
}
