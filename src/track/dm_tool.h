/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the tools of thin-provisioning-tools say of metadata that are in use. The target holds still a copy of its metadata for the
 * time: dm_tool_hold(), then tools, then dm_tool_release(), in which no signal gets through, so that it is always released (but
 * for a kill -9: the next run says so).
 */
#pragma once

#include "ring/ring.h"
#include "track/changes.h"
#include "track/xml.h"

#include <signal.h>
#include <sys/types.h>

#define DM_TOOL_TIMEOUT_MS 300000u

struct dm_tool_hold {
	dev_t dev;
	const char *release; /* the message */
	sigset_t signals;    /* as they were */
};

/* Sends `take`. Returns 0 or -errno with words; after 0, dm_tool_release() must follow. */
int dm_tool_hold(
    struct dm_tool_hold *hold, dev_t dev, const char *take, const char *release, struct error *error);
/* `res` is what became of it meanwhile: it is returned, with its words kept, if it is negative; else 0 or -errno with words. */
int dm_tool_release(struct dm_tool_hold *hold, int res, struct error *error);
/* Runs argv, whose output is XML. Returns 0 when all of it was read and the tool ended well, else -errno with words. */
int dm_tool_xml(
    const char *const *argv, struct ring *ring, const struct xml_handler *handler, struct error *error);
/* Runs argv, and takes its output as a text, which has room. */
int dm_tool_text(const char *const *argv, struct ring *ring, char *ret, size_t length, struct error *error);
