/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Where a job's journal lies, and whether an earlier one may be trusted. */
#include "sync/job_private.h"

#include "base/cleanup.h"
#include "base/crc32c.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

static bool is_relative(const struct endpoint *endpoint)
{
	return endpoint->kind == ENDPOINT_PATH && endpoint->path[0] != '/';
}

/* One name for a pair of endpoints, so that a later run finds the journal. */
static void journal_path(const struct job *job, char *ret, size_t length)
{
	const char *source = job->options.source->name, *target = job->options.target->name;
	const char *base = strrchr(target, '/') ? strrchr(target, '/') + 1 : target;
	char here[PATH_MAX] = "";
	uint32_t a;
	char tail[64];
	size_t i;

	for (i = 0; base[i] && i + 1 < sizeof(tail); i++)
		tail[i] = base[i] == ' ' || base[i] == ']' ? '_' : base[i];
	tail[i] = '\0';
	/* Relative names mean other volumes elsewhere. */
	if (!getcwd(here, sizeof(here)))
		here[0] = '\0';
	a = crc32c(
	    0, here, is_relative(job->options.source) || is_relative(job->options.target) ? strlen(here) : 0);
	a = crc32c(a, source, strlen(source) + 1);
	snprintf(ret, length, "%s/%08x%08x-%s.journal", job->options.state_dir,
	    crc32c(a, target, strlen(target)), crc32c(~a, target, strlen(target)), tail);
}

/* mkdir -p */
static int make_folders(const char *folder)
{
	char path[PATH_MAX];

	if (snprintf(path, sizeof(path), "%s", folder) >= (int)sizeof(path))
		return -ENAMETOOLONG;
	for (char *at = path + 1;; at++) {
		char end = *at;

		if (end != '/' && end != '\0')
			continue;
		*at = '\0';
		if (mkdir(path, 0700) < 0 && errno != EEXIST)
			return -errno;
		*at = end;
		if (end == '\0')
			return 0;
	}
}

static int open_file(struct job *job, bool create)
{
	char path[4096];
	int flags = O_RDWR | O_CLOEXEC | O_NOFOLLOW | (create ? O_CREAT | O_TRUNC : 0);
	int fd;

	if (job->options.open_journal)
		return job->options.open_journal(job->options.data, create);
	journal_path(job, path, sizeof(path));
	if (create && (fd = make_folders(job->options.state_dir)) < 0)
		return fd;
	fd = open(path, flags, 0600);
	if (fd < 0)
		return -errno;
	if (create) {
		_cleanup_(cleanup_close) int dir =
		    open(job->options.state_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

		if (dir >= 0)
			fsync(dir);
	}
	return fd;
}

static char *describe(const struct job *job)
{
	json_t *json = json_pack("{s:i, s:s, s:s, s:s, s:s, s:s, s:I, s:I, s:b}", "format", 1, "source",
	    job->options.source ? job->options.source->name : "", "target",
	    job->options.target ? job->options.target->name : "", "source_id", job->source_facts.id,
	    "source_mark", job->source_facts.mark, "target_id", job->target_facts.id, "source_size",
	    (json_int_t)job->source_size, "target_size", (json_int_t)job->target_size, "stream",
	    block_info(job->source)->stream || block_info(job->target)->stream);
	char *text = json ? json_dumps(json, JSON_COMPACT) : NULL;

	json_decref(json);
	return text;
}

static const char *text_of(const json_t *json, const char *key)
{
	const char *text = json_string_value(json_object_get(json, key));

	return text ? text : "";
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
	if (strcmp(text_of(json, "source_id"), job->source_facts.id))
		return error_set(&job->error, -EPERM,
		    "refused to resume: %s is another volume than in the earlier run (it was %s, it is %s); "
		    "run without "
		    "--resume",
		    block_info(job->source)->name, text_of(json, "source_id"), job->source_facts.id);
	if (strcmp(text_of(json, "target_id"), job->target_facts.id))
		return error_set(&job->error, -EPERM,
		    "refused to resume: %s is another volume than in the earlier run (it was %s, it is %s); "
		    "run without "
		    "--resume",
		    block_info(job->target)->name, text_of(json, "target_id"), job->target_facts.id);
	return 0;
}

/* An unknown mark proves nothing. */
static bool is_unchanged(const struct job *job, const char *mark_then)
{
	return job->options.assume_unchanged || (mark_then[0] && !strcmp(mark_then, job->source_facts.mark));
}

/* Trusts what the journal says is done, or explains why all is compared instead. */
static int judge_journal(struct job *job, const char *description)
{
	json_t *json = json_loads(description, 0, NULL);
	int res;

	if (!json)
		return error_set(
		    &job->error, -EBADMSG, "the journal's header is damaged; run without --resume");
	res = check_identity(job, json);
	if (res == 0 && !is_unchanged(job, text_of(json, "source_mark"))) {
		job_warn(job,
		    "cannot see that %s was not written since the earlier run: comparing all of it; "
		    "--assume-unchanged "
		    "trusts it instead",
		    block_info(job->source)->name);
		range_set_done(&job->done);
		job->compare = job->restart_journal = true;
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
		range_set_done(&job->done);
		job->compare = job->update = true;
		job->blank = false;
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
	return job_writes(job) && (job->options.state_dir || job->options.open_journal) &&
	       !block_info(job->source)->stream && !block_info(job->target)->stream;
}

static int begin(struct job *job)
{
	char *description = describe(job);
	int res = -ENAMETOOLONG;

	if (!description || strlen(description) >= JOURNAL_DESCRIPTION_MAX) {
		free(description);
		return error_set(
		    &job->error, res, "the endpoints' names are too long for a journal; use shorter ones");
	}
	job->journal_fd = open_file(job, true);
	if (job->journal_fd < 0) {
		res = job->journal_fd;
		error_set(&job->error, res,
		    "cannot write a journal in %s: %s; name another folder with --state-dir",
		    job->options.state_dir, strerror(-res));
	} else {
		res = journal_new(&job->journal, job->ring, job->journal_fd, description, &job->error);
	}
	free(description);
	return res;
}

int job_journal_load(struct job *job)
{
	int res;

	if (!has_journal(job) || !job->options.resume)
		return 0;
	res = load(job);
	if (res < 0)
		return res;
	if (!job->update)
		job_warn(job, "no earlier run from %s to %s left a journal: starting from the beginning",
		    job->options.source->name, job->options.target->name);
	job->resumed = job->done.bytes;
	return 0;
}

int job_journal_create(struct job *job)
{
	/* A journal that is trusted goes on; one that is not is replaced before the first write. */
	if (!has_journal(job) || (job->journal && !job->restart_journal))
		return 0;
	job->restart_journal = false;
	job_journal_end(job, false);
	return begin(job);
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
		unlink(path);
	}
}
