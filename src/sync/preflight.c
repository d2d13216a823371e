/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The refusals of a careful copy: see preflight.h. */
#include "sync/preflight.h"

#include "base/parse_size.h"
#include "block/inspect.h"

#include <errno.h>
#include <string.h>

static const char *or_add(const struct preflight *p, const char *option)
{
	return p->move ? "" : option;
}

int preflight_check_same(const struct preflight *p, struct error *error)
{
	const struct block_facts *source = p->source_facts, *target = p->target_facts;
	const struct block_place *place = inspect_common(source, target);

	if (p->allow & ALLOW_SAME)
		return 0;
	if (source->id[0] && !strcmp(source->id, target->id))
		return error_set(error, -EPERM,
		    "refused: %s and %s are the same volume (%s); name another target%s", p->source->name,
		    p->target->name, source->id, or_add(p, ", or add --allow=same if they are not"));
	if (place)
		return error_set(error, -EPERM,
		    "refused: %s and %s overlap: both have bytes of %s, so that writing one would change the "
		    "other; "
		    "name another target%s",
		    p->source->name, p->target->name, place->id,
		    or_add(p, ", or add --allow=same if they do not"));
	return 0;
}

static int check_use(const struct preflight *p, struct error *error)
{
	const struct block_facts *source = p->source_facts, *target = p->target_facts;

	if (target->mounted[0] && !(p->allow & ALLOW_MOUNTED))
		return error_set(error, -EPERM,
		    "refused: the target %s is mounted (%s); unmount it, or name another target",
		    p->target->name, target->mounted);
	if (target->held[0] && !(p->allow & ALLOW_HELD))
		return error_set(error, -EPERM,
		    "refused: the target %s is held by %s; release it, or name another target",
		    p->target->name, target->held);
	if (target->writer[0] && !(p->allow & ALLOW_HELD))
		return error_set(error, -EPERM,
		    "refused: the target %s is open for writing by %s; stop that%s", p->target->name,
		    target->writer, or_add(p, ", or add --allow=held"));
	if (p->allow & ALLOW_LIVE_SOURCE)
		return 0;
	if (source->mounted[0])
		return error_set(error, -EPERM,
		    "refused: the source %s is mounted (%s), so the copy would not be of one moment; unmount "
		    "it or make it "
		    "read-only, copy a snapshot, or add --allow=live-source",
		    p->source->name, source->mounted);
	if (source->writer[0])
		return error_set(error, -EPERM,
		    "refused: the source %s is open for writing by %s, so the copy would not be of one "
		    "moment; stop that, "
		    "copy a snapshot, or add --allow=live-source",
		    p->source->name, source->writer);
	return 0;
}

static int check_signature(const struct preflight *p, struct error *error)
{
	const char *signature = p->target_facts->signature, *quote;

	if (!signature[0] || p->target->created)
		return 0;
	if (p->overwrite && !strcmp(p->overwrite, p->target->name))
		return 0;
	/* An older copy of the same volume carries the same signature; unrelated data does not. */
	if (p->update && !strcmp(signature, p->source_facts->signature))
		return 0;
	/* So that it can be pasted: a captive server's name is several words. */
	quote = strpbrk(p->target->name, " ?*&;$()[]") ? "'" : "";
	return error_set(error, -EPERM,
	    "refused: the target %s carries %s, and it is %s; if that may be lost, add --overwrite=%s%s%s",
	    p->target->name, signature, p->update ? "not a copy of this source" : "not blank", quote,
	    p->target->name, quote);
}

static int check_size(const struct preflight *p, uint64_t *ret_end, struct error *error)
{
	uint64_t source = p->source->size, target = p->target->size;
	char source_text[16], target_text[16];

	*ret_end = source;
	/* A stream's length is known at its end only, where the job judges it. */
	if (source == target || p->target->stream || p->source->stream)
		return 0;
	format_size(source, source_text, sizeof(source_text));
	format_size(target, target_text, sizeof(target_text));
	if (p->size_mismatch == SIZE_TRUNCATE && p->target->resizable)
		return 0;
	if (target > source && p->size_mismatch == SIZE_ZERO_TAIL)
		return 0;
	if (target < source)
		return error_set(error, -EPERM,
		    "refused: the target %s (%llu bytes, %s) is smaller than the source %s (%llu bytes, %s); "
		    "name a larger "
		    "one%s",
		    p->target->name, (unsigned long long)target, target_text, p->source->name,
		    (unsigned long long)source, source_text,
		    p->target->resizable && !p->mirror
		        ? or_add(p, ", or add --size-mismatch=truncate to set the file to the source's size")
		        : "");
	if (p->mirror)
		return error_set(error, -EPERM,
		    "refused: the target %s (%llu bytes, %s) is larger than the source %s (%llu bytes, %s); "
		    "`blkmove mirror --size-mismatch=zero-tail` uses its first bytes and zeroes the rest; or "
		    "name one of that size (lvcreate -L %llub)",
		    p->target->name, (unsigned long long)target, target_text, p->source->name,
		    (unsigned long long)source, source_text, (unsigned long long)source);
	return error_set(error, -EPERM,
	    "refused: the target %s (%llu bytes, %s) is larger than the source %s (%llu bytes, %s); add "
	    "--size-mismatch=zero-tail to zero the rest%s",
	    p->target->name, (unsigned long long)target, target_text, p->source->name,
	    (unsigned long long)source, source_text,
	    p->target->resizable ? ", or --size-mismatch=truncate to cut the file" : "");
}

static int check_sectors(const struct preflight *p, struct error *error)
{
	uint32_t source = p->source->sector_size, target = p->target->sector_size;

	/* An image file has none of its own. */
	if (source <= 1 || target <= 1 || source == target || (p->allow & ALLOW_SECTORS))
		return 0;
	return error_set(error, -EPERM,
	    "refused: the source %s has sectors of %u bytes, the target %s of %u: partition tables and file "
	    "systems of one may "
	    "not be usable on the other; name another target%s",
	    p->source->name, source, p->target->name, target, or_add(p, ", or add --allow=sectors"));
}

int preflight_check(const struct preflight *preflight, uint64_t *ret_end, struct error *error)
{
	uint64_t end;
	int res = preflight_check_same(preflight, error);

	if (res == 0)
		res = check_use(preflight, error);
	if (res == 0)
		res = check_signature(preflight, error);
	if (res == 0)
		res = check_size(preflight, &end, error);
	if (res == 0)
		res = check_sectors(preflight, error);
	if (res == 0)
		*ret_end = end;
	return res;
}
