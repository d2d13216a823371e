/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* How long to sleep: see nbd_pace.h. */
#include "export/nbd_pace.h"

bool nbd_pace_asks(struct nbd_pace *pace)
{
	return pace->sleep_ns > 0 || ++pace->asked % NBD_PACE_SAMPLE == 0;
}

uint64_t nbd_pace_next(struct nbd_pace *pace, bool behind)
{
	if (behind) {
		pace->score += pace->score < 2 * NBD_PACE_SURE;
		if (pace->score >= NBD_PACE_SURE && pace->sleep_ns < NBD_PACE_MAX_NS)
			pace->sleep_ns += NBD_PACE_STEP_NS;
	} else {
		/* Once may be the first of many that it sends now; twice in a row it has waited. */
		pace->sleep_ns -= pace->was_behind && pace->sleep_ns ? NBD_PACE_STEP_NS : pace->sleep_ns / 2;
		if (pace->sleep_ns < NBD_PACE_STEP_NS)
			pace->sleep_ns = 0;
		pace->score -= pace->score < 3 ? pace->score : 3;
	}
	pace->was_behind = behind;
	return pace->sleep_ns;
}
