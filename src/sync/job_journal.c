/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Where a job's journal lies, and whether an earlier one may be trusted. */
#include "sync/job_private.h"

#include "base/cleanup.h"
#include "base/crc32c.h"
#include "base/folder.h"
#include "sync/base_record.h"
#include "wire/control.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/*
 * One journal a target, whichever name leads there and wherever the data comes from: a run that writes to a target replaces
 * what an earlier one noted of it. A target without identity goes by its name.
 */
static void path_of(const char *state_dir, const char *target, char *ret, size_t length)
{
	char name[17];

	snprintf(ret, length, "%s/%s.journal", state_dir, crc32c_name(target, name));
}

static void journal_path(const struct job *job, char *ret, size_t length)
{
	path_of(job->options.state_dir,
	    job->target_facts.id[0] ? job->target_facts.id : job->options.target->name, ret, length);
}

static int open_file(struct job *job, bool create)
{
	char path[4096];
	int flags = O_RDWR | O_CLOEXEC | O_NOFOLLOW | (create ? O_CREAT | O_TRUNC : 0);
	int fd;

	if (job->options.open_journal)
		return job->options.open_journal(job->options.data, create);
	journal_path(job, path, sizeof(path));
	if (create && (fd = folder_make(job->options.state_dir)) < 0)
		return fd;
	fd = open(path, flags, 0600);
	if (fd < 0)
		return -errno;
	if (create)
		folder_sync(job->options.state_dir);
	return fd;
}

static char *describe(const struct job *job)
{
	const struct job_options *options = &job->options;
	json_t *json = json_pack("{s:o, s:o, s:o, s:o, s:o, s:I, s:I}", "source",
	    control_text(options->source ? options->source->name : ""), "target",
	    control_text(options->target ? options->target->name : ""), "source_id",
	    control_text(job->source_facts.id), "source_mark", control_text(job->source_facts.mark),
	    "target_id", control_text(job->target_facts.id), "source_size", (json_int_t)job->source_size,
	    "target_size", (json_int_t)job->target_size);
	char *text = json ? json_dumps(json, JSON_COMPACT) : NULL;

	json_decref(json);
	return text;
}

static const char *text_of(const json_t *json, const char *key)
{
	const char *text = json_string_value(json_object_get(json, key));

	return text ? text : "";
}

/* Whether the journal means this text, which may be in any encoding. */
static bool has_text(const json_t *json, const char *key, const char *text)
{
	json_t *wanted = control_text(text);
	bool same = wanted && !strcmp(text_of(json, key), json_string_value(wanted));

	json_decref(wanted);
	return same;
}

static int check_identity(struct job *job, const json_t *json)
{
	uint64_t source_size = (uint64_t)json_integer_value(json_object_get(json, "source_size"));
	uint64_t target_size = (uint64_t)json_integer_value(json_object_get(json, "target_size"));

	if (source_size != job->source_size || target_size != job->target_size)
		return error_set(&job->error, -EPERM,
		    "refused to resume: the source had %llu bytes and has %llu, the target had %llu and has "
		    "%llu; a resized "
		    "volume cannot be resumed: run without --resume",
		    (unsigned long long)source_size, (unsigned long long)job->source_size,
		    (unsigned long long)target_size, (unsigned long long)job->target_size);
	if (!has_text(json, "source_id", job->source_facts.id))
		return error_set(&job->error, -EPERM,
		    "refused to resume: %s is another volume than in the earlier run (it was %s, it is %s); "
		    "run without "
		    "--resume",
		    block_info(job->source)->name, text_of(json, "source_id"), job->source_facts.id);
	if (!has_text(json, "target_id", job->target_facts.id))
		return error_set(&job->error, -EPERM,
		    "refused to resume: %s is another volume than in the earlier run (it was %s, it is %s); "
		    "run without "
		    "--resume",
		    block_info(job->target)->name, text_of(json, "target_id"), job->target_facts.id);
	return 0;
}

/*
 * Why what the journal says cannot be trusted, or NULL. What was seen to change is never trusted; what cannot be known is if the
 * user says so.
 */
static const char *doubt(const struct job *job, const json_t *json, bool *ret_seen)
{
	const char *mark = text_of(json, "source_mark");
	uint64_t writer = job->target_facts.last_writer;
	bool known = mark[0] && job->source_facts.mark[0];

	*ret_seen = true;
	if (known && strcmp(mark, job->source_facts.mark))
		return "the source was written since the earlier run";
	if (job->target_facts.mark[0] && !journal_mark_fits(job->journal, job->target_facts.mark))
		return "the target was written since the earlier run";
	if (!journal_has_mark(job->journal) && writer && writer != journal_session(job->journal))
		return "the target was written since the earlier run";
	*ret_seen = false;
	if (!job->source_facts.id[0] || !job->target_facts.id[0])
		return "it cannot be known whether these are the same volumes as in the earlier run";
	if (!known)
		return "it cannot be seen that the source was not written since the earlier run";
	if (!journal_mark_fits(job->journal, job->target_facts.mark))
		return "it cannot be seen that the target was not written since the earlier run";
	return NULL;
}

/* Trusts what the journal says is done, or explains why all is compared instead. */
static int judge_journal(struct job *job, const char *description)
{
	json_t *json = json_loads(description, 0, NULL);
	const char *why;
	bool seen;
	int res;

	if (!json)
		return error_set(
		    &job->error, -EBADMSG, "the journal's header is damaged; run without --resume");
	res = check_identity(job, json);
	why = res == 0 ? doubt(job, json, &seen) : NULL;
	if (why && (seen || !job->options.assume_unchanged)) {
		job_warn(job, "%s: comparing all of it%s", why,
		    seen ? "" : "; --assume-unchanged trusts the journal instead");
		job_distrust(job);
	}
	json_decref(json);
	return res;
}

static int load(struct job *job)
{
	char description[JOURNAL_DESCRIPTION_MAX];
	int fd = open_file(job, false);
	int res;

	if (fd == -ENOENT)
		return 0;
	if (fd < 0)
		return error_set(&job->error, fd, "cannot open the journal in %s: %s", job->options.state_dir,
		    strerror(-fd));
	job->journal_fd = fd;
	res = journal_load(&job->journal, job->ring, fd, description, &job->done, &job->error);
	if (res == -EBADMSG) {
		job_warn(job, "%s: nothing is known of an earlier run, comparing all of it", job->error.text);
		job_journal_end(job, false);
		job_distrust(job);
		job->update = true;
		return 0;
	}
	if (res < 0)
		return res;
	job->update = true;
	job->blank = false;
	return judge_journal(job, description);
}

/* False for what cannot be resumed: streams, verifies, dry runs, and where the user wants no journal. */
static bool has_journal(const struct job *job)
{
	return job_writes(job) && !job->options.no_journal &&
	       (job->options.state_dir || job->options.open_journal) && !block_info(job->source)->stream &&
	       !block_info(job->target)->stream;
}

static int cannot_write(struct job *job, int res)
{
	return error_set(&job->error, res,
	    "cannot write a journal in %s: %s; name another folder with --state-dir", job->options.state_dir,
	    strerror(-res));
}

int job_journal_check(struct job *job)
{
	int res;

	if (!has_journal(job) || job->options.open_journal || job->journal)
		return 0;
	res = folder_make(job->options.state_dir);
	if (res == 0 && access(job->options.state_dir, W_OK) < 0)
		res = -errno;
	return res < 0 ? cannot_write(job, res) : 0;
}

static int begin(struct job *job)
{
	char *description = describe(job);
	struct error why = {0};
	int res = -ENAMETOOLONG;

	if (!description || strlen(description) >= JOURNAL_DESCRIPTION_MAX) {
		free(description);
		return error_set(
		    &job->error, res, "the endpoints' names are too long for a journal; use shorter ones");
	}
	job->journal_fd = open_file(job, true);
	if (job->journal_fd < 0) {
		res = job->journal_fd;
		cannot_write(job, res);
	} else {
		res = journal_new(&job->journal, job->ring, job->journal_fd, description, &why);
		if (res < 0)
			error_set(&job->error, res,
			    "%s; make room in %.200s, or name another folder with --state-dir", why.text,
			    job->options.state_dir ? job->options.state_dir : "its folder");
	}
	free(description);
	return res;
}

/* The name was that of another volume when an earlier run wrote to it. */
static int check_namesake(struct job *job, int folder, const char *file)
{
	_cleanup_(cleanup_close) int fd = openat(folder, file, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	char description[JOURNAL_DESCRIPTION_MAX];
	struct journal *journal = NULL;
	struct range_set done;
	json_t *json = NULL;
	int res = 0;

	range_set_init(&done);
	if (fd >= 0 && journal_load(&journal, job->ring, fd, description, &done, NULL) == 0)
		json = json_loads(description, 0, NULL);
	if (json && has_text(json, "target", job->options.target->name) &&
	    has_text(json, "source", job->options.source->name))
		res = check_identity(job, json);
	json_decref(json);
	journal_free(journal);
	range_set_done(&done);
	return res;
}

static int check_namesakes(struct job *job)
{
	DIR *folder = job->options.open_journal ? NULL : opendir(job->options.state_dir);
	struct dirent *entry;
	int res = 0;

	while (folder && res == 0 && (entry = readdir(folder)))
		if (strstr(entry->d_name, ".journal"))
			res = check_namesake(job, dirfd(folder), entry->d_name);
	if (folder)
		closedir(folder);
	return res;
}

int job_journal_load(struct job *job)
{
	int res;

	if (!has_journal(job) || !job->options.resume)
		return 0;
	res = load(job);
	if (res == 0 && !job->update)
		res = check_namesakes(job);
	if (res < 0)
		return res;
	if (!job->update)
		job_warn(job, "no earlier run from %s to %s left a journal: starting from the beginning",
		    job->options.source->name, job->options.target->name);
	job->resumed = job->done.bytes;
	return 0;
}

static int note_session(struct job *job)
{
	int res = journal_note_session(job->journal, job->session);

	if (res < 0)
		error_set(&job->error, res, "cannot write the journal in %s: %s; make room there",
		    job->options.state_dir ? job->options.state_dir : "its folder", strerror(-res));
	return res;
}

int job_journal_create(struct job *job)
{
	int res;

	/* A journal that is trusted goes on; one that is not is replaced before the first write. */
	if (job->journal && !job->restart_journal)
		return job->opened_before ? 0 : note_session(job);
	if (!has_journal(job)) {
		job_journal_end(job, true); /* an earlier run's: no longer true once this one writes */
		return 0;
	}
	job->restart_journal = false;
	job_journal_end(job, false);
	res = begin(job);
	return res < 0 ? res : note_session(job);
}

void job_journal_note_end(struct job *job)
{
	struct block_facts facts;
	struct error ignored;

	if (job->journal && job->target && !block_link_error(job->target, &ignored) &&
	    block_facts(job->target, &facts, &ignored) == 0 && facts.mark[0])
		(void)journal_note_mark(job->journal, facts.mark);
}

void job_journal_end(struct job *job, bool remove)
{
	char path[4096];

	job->journal = journal_free(job->journal);
	if (!job->options.open_journal)
		cleanup_close(&job->journal_fd);
	job->journal_fd = -1;
	if (remove && job->options.remove_journal) {
		job->options.remove_journal(job->options.data);
	} else if (remove && !job->options.open_journal && job->options.state_dir && job_writes(job)) {
		journal_path(job, path, sizeof(path));
		if (unlink(path) == 0)
			folder_sync(job->options.state_dir);
	}
}

void job_journal_forget(const char *state_dir, const char *id)
{
	char path[4096];

	base_record_forget(state_dir, id);
	path_of(state_dir, id, path, sizeof(path));
	if (id[0] && unlink(path) == 0)
		folder_sync(state_dir);
}
