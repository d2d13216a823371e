/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Whether a target may be written: a pure judgement over what was found out about both volumes. */
#pragma once

#include "block/block.h"

enum size_mismatch {
	SIZE_REFUSE,    /* sizes that differ are refused */
	SIZE_ZERO_TAIL, /* a larger target is zeroed behind the source's end */
	SIZE_TRUNCATE,  /* an image file is set to the source's size */
};

/* What the user allowed by name. */
enum preflight_allow {
	ALLOW_MOUNTED = 1 << 0,     /* the target is mounted */
	ALLOW_HELD = 1 << 1,        /* the target is held by another device */
	ALLOW_LIVE_SOURCE = 1 << 2, /* the source is mounted for writing or open for writing */
	ALLOW_SAME = 1 << 3,        /* source and target seem to be one volume, or to overlap */
	ALLOW_SECTORS = 1 << 4,     /* the target's sectors are larger than the source's */
};

struct preflight {
	const struct block_info *source, *target;
	const struct block_facts *source_facts, *target_facts;
	unsigned allow; /* set of preflight_allow */
	const char
	    *overwrite; /* the target's name as typed once more: whatever it carries may be lost; or NULL */
	enum size_mismatch size_mismatch;
	bool mirror; /* of the sizes: they are a mirror's legs, and none is made shorter */
	bool
	    move; /* `blkmove move`, whose sources are in use: it has neither --allow nor --size-mismatch, and no words offer them */
	bool update; /* a sync, or a resumed job: the target may carry the source's own signature */
};

/*
 * 0 to go on. -EPERM with words (what was found, and the option that allows it) when it is refused. *ret_end
 * is how many bytes of the source are to be moved.
 */
int preflight_check(const struct preflight *preflight, uint64_t *ret_end, struct error *error);
/* The first of its questions alone, from names, facts and allow: -EPERM when both are one volume, or overlap. */
int preflight_check_same(const struct preflight *preflight, struct error *error);
