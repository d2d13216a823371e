/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* LVM's names, its commands, and its metadata on the disks: see lvm.h. */
#include "attach/lvm.h"

#include "base/cleanup.h"
#include "base/run_dir.h"
#include "block/dm_task.h"
#include "ring/ring.h"
#include "wire/child.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define UUID_PREFIX  "LVM-"
#define UUID_LENGTH  68u /* with the prefix, the group's id and the volume's; a part of a volume has more */
#define LOCKS        "/run/lock/lvm"
#define PATIENCE_MS  60000u
#define LOOK_MS      100u
#define LOCK_SOON_MS 10000u
#define LOCK_LOOK_MS 50u
#define METADATA_MAX (64u << 20)
#define RING_ENTRIES 8u
#define PATH_ROOM    600u

bool lvm_split(const char *dm_name, char *ret_group, char *ret_volume)
{
	char *group = NULL, *volume = NULL, *layer = NULL;
	struct dm_pool *pool;
	bool found = false;

	pool = dm_pool_create("names", 1024);
	if (pool && dm_split_lvm_name(pool, dm_name, &group, &volume, &layer) && *volume && !*layer)
		found = snprintf(ret_group, LVM_NAME_MAX, "%s", group) < (int)LVM_NAME_MAX &&
		        snprintf(ret_volume, LVM_NAME_MAX, "%s", volume) < (int)LVM_NAME_MAX;
	if (pool)
		dm_pool_destroy(pool);
	return found;
}

bool lvm_name(const char *dm_name, const char *dm_uuid, char *ret_group, char *ret_volume)
{
	return strncmp(dm_uuid, UUID_PREFIX, strlen(UUID_PREFIX)) == 0 && strlen(dm_uuid) == UUID_LENGTH &&
	       lvm_split(dm_name, ret_group, ret_volume);
}

/* Nothing of it is held: what is locked just now is waited for before a command begins that must not be killed any more. */
static int wait_for_group(const char *group, struct error *error)
{
	char path[LVM_NAME_MAX + sizeof(LOCKS) + 4];
	_cleanup_(cleanup_close) int fd = -1;

	snprintf(path, sizeof(path), LOCKS "/V_%s", group);
	fd = open(path, O_RDWR | O_CLOEXEC);
	for (unsigned waited_ms = 0; fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) < 0; waited_ms += LOOK_MS) {
		if (errno != EWOULDBLOCK || waited_ms >= PATIENCE_MS)
			return error_set(error, -EBUSY,
			    "LVM's group %s is locked (%s); see which of LVM's commands is at work on it",
			    group, path);
		usleep(LOOK_MS * 1000);
	}
	return 0;
}

int lvm_run(const char *group, char *const *words, struct error *error)
{
	int res = group ? wait_for_group(group, error) : 0;

	/* Killed while it has a volume suspended it would leave that so: whoever uses the volume would wait for ever. */
	return res < 0 ? res : child_run(words, NULL, 0, error);
}

/* What only reads may be killed. */
static int ask(char *const *words, struct error *error)
{
	struct ring *ring;
	int res = ring_new(&ring, RING_ENTRIES, error);

	if (res < 0)
		return res;
	res = child_run(words, ring, PATIENCE_MS, error);
	ring_free(ring);
	return res;
}

/* A folder for one file: vgcfgbackup writes beside it and renames. */
static int make_folder(char *ret, size_t length, struct error *error)
{
	char run_dir[512];
	int res = run_dir_make(run_dir_path(run_dir, sizeof(run_dir)), error);

	if (res < 0)
		return res;
	snprintf(ret, length, "%s/lvm-XXXXXX", run_dir);
	if (!mkdtemp(ret))
		return error_set(error, -errno, "cannot make a folder in %s: %s", run_dir, strerror(errno));
	return 0;
}

static void remove_folder(const char *folder, const char *file)
{
	unlink(file);
	rmdir(folder);
}

static char *read_all(const char *path)
{
	_cleanup_(cleanup_close) int fd = open(path, O_RDONLY | O_CLOEXEC);
	off_t size = fd < 0 ? 0 : lseek(fd, 0, SEEK_END);
	char *text = size > 0 && size < METADATA_MAX ? calloc(1, (size_t)size + 1) : NULL;

	if (text && pread(fd, text, (size_t)size, 0) != size) {
		free(text);
		text = NULL;
	}
	return text;
}

static int write_all(const char *path, const char *text, struct error *error)
{
	_cleanup_(cleanup_close) int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	ssize_t length = (ssize_t)strlen(text);

	if (fd < 0 || write(fd, text, (size_t)length) != length)
		return error_set(
		    error, errno ? -errno : -EIO, "cannot write %s: %s", path, strerror(errno ? errno : EIO));
	return 0;
}

/* What a command writes to the file `path`, which is one of its words. */
static int ask_for_text(char *const *words, char path[PATH_ROOM], char **ret, struct error *error)
{
	char folder[560];
	int res = make_folder(folder, sizeof(folder), error);

	if (res < 0)
		return res;
	snprintf(path, PATH_ROOM, "%s/answer", folder);
	res = ask(words, error);
	*ret = res == 0 ? read_all(path) : NULL;
	remove_folder(folder, path);
	return res < 0 || *ret ? res : error_set(error, -EBADMSG, "%s said nothing", words[0]);
}

static int read_group(const char *group, bool locked, char **ret, struct error *error)
{
	char path[PATH_ROOM];
	char *words[] = {"vgcfgbackup", "-f", path, (char *)group, locked ? "--nolocking" : NULL, NULL};
	int res = ask_for_text(words, path, ret, error);

	return res < 0 ? error_prefix(error, "cannot read the metadata of LVM's group %s", group) : 0;
}

static bool is_same_folder(const char *a, const char *b)
{
	struct stat first, second;

	return !strcmp(a, b) || (stat(a, &first) == 0 && stat(b, &second) == 0 &&
	                            first.st_dev == second.st_dev && first.st_ino == second.st_ino);
}

int lvm_check_locks(struct error *error)
{
	char path[PATH_ROOM], folder[512];
	char *words[] = {"lvmconfig", "--typeconfig", "full", "-f", path, "global/locking_dir", NULL};
	_cleanup_(cleanup_free) char *text = NULL;
	int res = ask_for_text(words, path, &text, error);

	if (res == 0)
		res = lvm_locking_dir(text, folder, sizeof(folder), error);
	if (res < 0 || is_same_folder(folder, LOCKS))
		return res;
	return error_set(error, -EOPNOTSUPP,
	    "LVM has its locks in %s (locking_dir in lvm.conf), and can be kept from changing a group by "
	    "those in " LOCKS " only: have them there first",
	    folder);
}

int lvm_read(const char *group, char **ret, struct error *error)
{
	return read_group(group, false, ret, error);
}

/* Who unlocks a group takes the file away: what was waited for may be the lock of a file that nobody else finds. */
static bool is_named(int fd, const char *path)
{
	struct stat ours, named;

	return fstat(fd, &ours) == 0 && stat(path, &named) == 0 && ours.st_dev == named.st_dev &&
	       ours.st_ino == named.st_ino;
}

/* Returns 0; -1 with errno: EWOULDBLOCK when somebody has it for so long. */
static int wait_for_lock(int fd, unsigned timeout_ms)
{
	const struct timespec pause = {.tv_nsec = LOCK_LOOK_MS * 1000000L};
	int res = flock(fd, timeout_ms ? LOCK_EX | LOCK_NB : LOCK_EX);

	for (unsigned waited_ms = 0; res < 0 && errno == EWOULDBLOCK && waited_ms < timeout_ms;
	     waited_ms += LOCK_LOOK_MS) {
		nanosleep(&pause, NULL);
		res = flock(fd, LOCK_EX | LOCK_NB);
	}
	return res;
}

static int lock_group(const char *group, unsigned timeout_ms, struct error *error)
{
	char path[LVM_NAME_MAX + sizeof(LOCKS) + 4];
	int fd = -1;

	snprintf(path, sizeof(path), LOCKS "/V_%s", group);
	do {
		cleanup_close(&fd);
		fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
		if (fd < 0 || wait_for_lock(fd, timeout_ms) < 0) {
			error_set(error, -errno, "cannot lock LVM's group %s (%s): %s", group, path,
			    strerror(errno));
			cleanup_close(&fd);
			return error->code;
		}
	} while (!is_named(fd, path));
	return fd;
}

/* LVM's own lock on the group (locking_type 1): nobody changes it between our reading and our writing. */
int lvm_lock(const char *group, struct error *error)
{
	return lock_group(group, 0, error);
}

int lvm_lock_soon(const char *group, struct error *error)
{
	return lock_group(group, LOCK_SOON_MS, error);
}

static int write_group(const char *group, const char *text, struct error *error)
{
	char folder[560], path[600];
	/*
	 * It refuses groups with thin pools without --force, as metadata of another time would not fit what is in a pool
	 * (vgcfgrestore(8)). These were read under the lock that is held, and of the pools nothing is changed.
	 */
	char *words[] = {"vgcfgrestore", "-y", "--nolocking", "-f", path, "--force", (char *)group, NULL};
	int res = make_folder(folder, sizeof(folder), error);

	if (res < 0)
		return res;
	snprintf(path, sizeof(path), "%s/metadata", folder);
	res = write_all(path, text, error);
	if (res == 0)
		res = lvm_run(NULL, words, error);
	remove_folder(folder, path);
	return res;
}

int lvm_exchange(const struct lvm_pair *pair, struct error *error)
{
	_cleanup_(cleanup_free) char *text = NULL;
	_cleanup_(cleanup_free) char *changed = NULL;
	int res = read_group(pair->group, true, &text, error);

	if (res == 0)
		res = lvm_exchange_text(text, pair, &changed, error);
	return res < 0 ? res : write_group(pair->group, changed, error);
}
