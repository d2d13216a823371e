/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Opening the legs of a mirror: whether they may be used, and as what. */
#include "cli/mirror_run.h"

#include "base/bytes.h"
#include "base/parse_size.h"
#include "block/saved_digests.h"
#include "cli/mirror_newer.h"
#include "filter/known_digests.h"
#include "sync/base_record.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define ZERO_PIECE (256ull << 20)

/* 1: it is the volume that this mirror had, 0: that cannot be known, -EXDEV with words: it is another. */
static int compare_leg(const struct mirror_run *run, enum mirror_leg_index leg, const struct block *block,
    const struct block_facts *facts, struct error *error)
{
	const char *const names[MIRROR_LEGS] = {"source", "target"};
	const char *id = json_string_value(json_object_get(run->judged, names[leg]));

	if (!id || !id[0] || !facts->id[0])
		return 0;
	if (!strcmp(id, facts->id))
		return 1;
	return error_set(error, -EXDEV,
	    "%s is another volume (%s) than the mirror's %s (%s); put the right one there",
	    block_info(block)->name, facts->id, names[leg], id);
}

/* What the target holds was made before this mirror, which has not written to it yet. */
static bool is_new(const struct mirror_run *run)
{
	return !run->opened_target && !run->command.job.resume;
}

/* Whether the target is the newer one, and may be overwritten all the same. */
static int check_newer(
    const struct mirror_run *run, const struct mirror_pair *pair, bool *ret_newer, struct error *error)
{
	const char *overwrite = run->command.overwrite_newer;
	int res = mirror_newer_check(run->process->shared->options.state_dir, pair, error);

	*ret_newer = res == -EPERM && overwrite && !strcmp(overwrite, pair->names[MIRROR_TARGET]);
	return *ret_newer ? 0 : res;
}

static int judge_target(
    struct mirror_run *run, struct block *target, struct block_facts *facts, struct error *error)
{
	const struct mirror_command *command = &run->command;
	struct preflight preflight = {.source = &run->source_info,
	    .target = block_info(target),
	    .source_facts = &run->source_facts,
	    .target_facts = facts,
	    .allow = command->allow | ALLOW_LIVE_SOURCE,
	    .overwrite = command->overwrite,
	    .size_mismatch = command->size_mismatch,
	    .mirror = true,
	    .update = !command->full || run->without_map};
	const struct mirror_pair pair = {
	    {run->source_info.name, block_info(target)->name}, {run->source_facts.id, facts->id}};
	bool newer = false;
	uint64_t end;
	int same, res = block_facts(target, facts, error);

	if (res == 0 && is_new(run))
		run->points = base_record_load(
		    run->process->shared->options.state_dir, facts, run->size, NULL, &run->points_doubt);
	if (res == 0)
		job_journal_forget(run->process->shared->options.state_dir, facts->id);
	/* A leg that comes back carries what the mirror wrote to it. */
	if (res < 0 || !is_new(run))
		return res;
	same = compare_leg(run, MIRROR_TARGET, target, facts, error);
	res = same < 0 ? same : 0;
	if (res == 0 && !block_info(target)->created)
		res = check_newer(run, &pair, &newer, error);
	if (res == 0 && !same && !block_info(target)->created)
		res = preflight_check(&preflight, &end, error);
	run->target_size = block_info(target)->size;
	if (res >= 0)
		res = mirror_files_save_judged(&run->files, &pair, run->target_size, error);
	return res == 0 && newer ? mirror_newer_keep_begun(&run->files, error) : res;
}

/* One of which the mirror is the first bytes is no other one as long as all of it has the same size. */
static int check_target_size(const struct mirror_run *run, const struct block *target, struct error *error)
{
	const struct block_info *info = block_info(target);

	if (is_new(run) || run->command.size_mismatch == SIZE_REFUSE || !run->target_size ||
	    info->size == run->target_size)
		return 0;
	return error_set(error, -EXDEV,
	    "%s has %llu bytes, and had %llu when the mirror began; put the right one there", info->name,
	    (unsigned long long)info->size, (unsigned long long)run->target_size);
}

/* Behind the mirror's end, before anybody uses it. */
static int zero_tail(struct mirror_run *run, struct block *target, struct error *error)
{
	uint64_t at = run->size, size = block_info(target)->size;
	char text[400], tail[16];

	if (!is_new(run) || at >= size)
		return 0;
	snprintf(text, sizeof(text), "%.300s is larger than the source: its last %s are zeroed",
	    block_info(target)->name, format_size(size - at, tail, sizeof(tail)));
	mirror_warn(run, text);
	while (at < size) {
		struct block_io io = {
		    .op = BLOCK_ZERO, .offset = at, .length = min_u64(size - at, ZERO_PIECE)};
		int res = block_wait(target, &io);

		if (res < 0)
			return error_set(error, res, "cannot zero the end of %s: %s",
			    block_info(target)->name, strerror(-res));
		at += io.length;
	}
	return 0;
}

/*
 * Saved digests of the target, if they fit, stand for reading it, as long as this open lasts. They are marked as in use at once, before
 * anything is written. In doubt the target itself is read.
 */
static int use_digests(
    struct mirror_run *run, struct block **target, const struct block_facts *facts, struct error *error)
{
	const struct saved_digests_volume volume = {.size = run->size, .id = facts->id, .mark = facts->mark};
	const char *path = run->command.digests;
	struct block *saved = NULL;
	struct digest_key key;
	struct error why;
	char text[640];
	int res;

	if (!path || !is_new(run) || run->without_map || block_info(*target)->created)
		return 0;
	res = saved_digests_open(&saved, run->process->ring, path, &volume, &key, &why);
	if (res == 0)
		res = saved_digests_use(saved, &why);
	if (res < 0) {
		block_free(saved);
		snprintf(text, sizeof(text), "the saved digests are not used, both volumes are compared: %s",
		    why.text);
	} else {
		run->digest_key = key;
		res = known_digests_new(target, *target, saved, &key, error);
		if (res < 0) {
			*target = NULL;
			return res;
		}
		snprintf(text, sizeof(text),
		    "saved digests (%.200s) tell what the target holds: only the source is read", path);
	}
	mirror_warn(run, text);
	return 0;
}

static int judge_source(struct mirror_run *run, struct block *source, struct error *error)
{
	const struct mirror_command *command = &run->command;
	int res;

	run->source_info = *block_info(source);
	res = listen_judge(source, &command->legs[MIRROR_SOURCE], command->allow & ALLOW_MOUNTED,
	    command->allow & ALLOW_HELD, run->process->shared->options.state_dir, &run->source_facts, error);
	if (res == 0)
		res = compare_leg(run, MIRROR_SOURCE, source, &run->source_facts, error);
	return res < 0 ? res : 0;
}

/* Somebody has the target locked: this mirror itself when it is the source once more, and that is what is to be told. */
static int refuse_same(struct mirror_run *run, const struct endpoint *target, struct error *error)
{
	const struct block_open_options options = {.link = run->command.options.job.link};
	struct block_facts facts = {0};
	struct preflight preflight = {.source = &run->source_info,
	    .source_facts = &run->source_facts,
	    .target_facts = &facts,
	    .allow = run->command.allow};
	struct error same;
	struct block *block;
	int res = error->code;

	if (block_open(&block, run->process->ring, target, &options, &same) < 0)
		return res;
	preflight.target = block_info(block);
	if (block_facts(block, &facts, &same) == 0 && preflight_check_same(&preflight, &same) < 0) {
		*error = same;
		res = same.code;
	}
	block_free(block);
	return res;
}

int mirror_leg_open(void *data, enum mirror_leg_index leg, struct block **ret, struct error *error)
{
	struct mirror_run *run = data;
	struct mirror_command *command = &run->command;
	const struct endpoint *endpoint = &command->legs[leg];
	bool target = leg == MIRROR_TARGET;
	struct block_open_options options = {.write = true,
	    .create = target && !run->opened_target && !command->job.resume && !run->judged,
	    .create_size = run->size,
	    .force_held = command->allow,
	    .cache = command->cache,
	    .write_at_once = run->process->count == 1,
	    .changes_since = target ? NULL : command->base,
	    .list_bitmaps = !target && !command->full && !command->digests &&
	                    known_changes_list_bitmaps(command->changes),
	    .link = command->options.job.link};
	struct block_facts facts = {0};
	int res;

	options.link.captive_words = run->files.log_fd;
	res = block_open(ret, run->process->ring, endpoint, &options, error);
	if (target && !run->opened_target && (res == -EALREADY || res == -EBUSY))
		return refuse_same(run, endpoint, error);
	if (res < 0)
		return res;
	if (target)
		res = judge_target(run, *ret, &facts, error);
	else if (!run->size)
		res = judge_source(run, *ret, error);
	if (res == 0 && target)
		res = check_target_size(run, *ret, error);
	if (res == 0 && target)
		res = use_digests(run, ret, &facts, error);
	if (res == 0 && target)
		res = zero_tail(run, *ret, error);
	if (res < 0) {
		block_free(*ret);
		return res;
	}
	run->opened_target |= target;
	if (!target)
		run->size = block_info(*ret)->size;
	return 0;
}
