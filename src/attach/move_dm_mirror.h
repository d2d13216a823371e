/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The engine that is the kernel's own: dm-mirror (admin-guide/device-mapper/dm-raid.rst and dm-log.rst in the kernel's documents, "mirror").
 * For two local devices, at the kernel's speed. A leg that fails is let go by the kernel, and the clients do not feel it; there is no way
 * back once the device has been led to the new leg.
 */
#pragma once

#include "attach/move.h"

extern const struct move_engine move_dm_mirror;

/* Its data. */
struct move_dm_mirror_options {
	/* Percent of the time that the copies of all mirrors of the kernel's may take, 1 to 100; 0: as the kernel has it. May be changed
	 * while the move goes on. */
	unsigned throttle;
	unsigned set; /* the engine's: what the kernel was told */
};
