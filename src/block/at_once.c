/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What hints at a write that would wait: see at_once.h. */
#include "block/at_once.h"

#include <assert.h>

bool at_once_may(const struct at_once *at_once, uint64_t length, uint64_t now_ns)
{
	if (!at_once->wanted || length > AT_ONCE_BYTES_MAX || at_once->heavy > 0 || now_ns < at_once->from_ns)
		return false;
	/* Nothing comes back from the long way: neither would this. */
	return at_once->long_way == 0 || now_ns - at_once->progress_ns <= AT_ONCE_SLOW_NS;
}

bool at_once_watches(const struct at_once *at_once, uint64_t now_ns)
{
	return now_ns < at_once->watch_ns;
}

void at_once_did(struct at_once *at_once, uint64_t begin_ns, uint64_t end_ns, int waited)
{
	uint64_t took = end_ns - begin_ns;
	uint64_t rest = waited == 0 ? 0 : took * (waited < 0 ? AT_ONCE_REST_UNSURE : AT_ONCE_REST);

	if (took <= AT_ONCE_SLOW_NS)
		return;
	at_once->from_ns = end_ns + (rest < AT_ONCE_REST_MAX_NS ? rest : AT_ONCE_REST_MAX_NS);
	at_once->watch_ns = at_once->from_ns + AT_ONCE_WATCH_NS;
}

void at_once_long_begin(struct at_once *at_once, uint64_t now_ns)
{
	if (at_once->long_way++ == 0)
		at_once->progress_ns = now_ns;
}

void at_once_long_end(struct at_once *at_once, uint64_t now_ns)
{
	assert(at_once->long_way > 0);
	at_once->long_way--;
	at_once->progress_ns = now_ns;
}
