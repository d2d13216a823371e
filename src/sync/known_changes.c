/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Asks the trackers in turn; says what came of it. */
#include "sync/known_changes.h"

#include "base/parse_size.h"

#include <errno.h>
#include <stdio.h>

const char *known_changes_path(const struct endpoint *endpoint)
{
	return endpoint && endpoint->kind == ENDPOINT_PATH ? endpoint->path : NULL;
}

bool known_changes_list_bitmaps(enum job_changes how)
{
	return how == CHANGES_AUTO || how == CHANGES_TRACKER + TRACK_NBD_BITMAP;
}

static bool is_nbd(const struct endpoint *endpoint)
{
	return endpoint && (endpoint->kind == ENDPOINT_NBD || endpoint->kind == ENDPOINT_CAPTIVE);
}

static bool is_asked_for(const struct known_changes_request *request)
{
	return request->how >= CHANGES_TRACKER || request->base || request->explain;
}

static int not_known(
    const struct known_changes_request *request, const char *tracker, const struct error *why)
{
	char text[640];

	snprintf(text, sizeof(text), "both volumes are compared; changes cannot be had%s%s: %s",
	    tracker ? " from " : "", tracker ? tracker : "", why->text);
	request->say(request->data, text);
	return 0;
}

static int known(
    const struct known_changes_request *request, enum track_kind kind, const struct track_changes *changes)
{
	char changed[16], size[16], text[640];

	snprintf(text, sizeof(text), "%s of %s may have changed since %s (%s): nothing else is read",
	    format_size(changes->ranges.bytes, changed, sizeof(changed)),
	    format_size(request->size, size, sizeof(size)), changes->base, track_name(kind));
	request->say(request->data, text);
	return 1;
}

/* One tracker at most has to do with a source. */
static int ask(const struct known_changes_request *request, struct track_changes *ret, struct error *error)
{
	const struct track_request question = {.source = request->source,
	    .path = known_changes_path(request->endpoint),
	    .nbd = is_nbd(request->endpoint),
	    .base = request->base,
	    .points = request->points};
	struct error why = {0}, first = {0};

	for (int kind = 0; kind < TRACK_KINDS; kind++) {
		bool asked = (enum job_changes)(CHANGES_TRACKER + kind) == request->how;
		int res;

		if (request->how >= CHANGES_TRACKER && !asked)
			continue;
		res = track_changes((enum track_kind)kind, &question, ret, &why);
		if (res == 0)
			return known(request, (enum track_kind)kind, ret);
		track_changes_done(ret);
		if (res == -ENOTCONN) {
			*error = why;
			return res;
		}
		if (res != -ENODEV || asked)
			return not_known(request, track_name((enum track_kind)kind), &why);
		if (!first.code)
			first = why;
	}
	return not_known(request, NULL, &first);
}

int known_changes_find(
    const struct known_changes_request *request, struct track_changes *ret, struct error *error)
{
	static const struct error resized = {.code = -ESTALE,
	    .text = "the target has another size than the source, and it cannot be seen which of them was "
	            "resized"};

	if (request->doubt->code == -ESTALE)
		return not_known(request, NULL, request->doubt);
	/* A bitmap is noted nowhere; its tracker says how it could be used. */
	if (!request->points && !request->base && !block_info(request->source)->bitmaps_count)
		return is_asked_for(request) || request->has_tracker
		           ? not_known(request, NULL, request->doubt)
		           : 0;
	if (!request->points && request->target_size != request->size)
		return not_known(request, NULL, &resized);
	return ask(request, ret, error);
}
