/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* LVM's metadata: see lvm.h. */
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
#include <unistd.h>

#define UUID_PREFIX  "LVM-"
#define UUID_LENGTH  68u /* with the prefix, the group's id and the volume's; a part of a volume has more */
#define LOCKS        "/run/lock/lvm"
#define PATIENCE_MS  60000u
#define LOOK_MS      100u
#define METADATA_MAX (64u << 20)
#define RING_ENTRIES 8u

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

/* Editing */

static void end_tree(struct dm_config_tree **tree)
{
	if (*tree)
		dm_config_destroy(*tree);
}

static struct dm_config_node *child_of(struct dm_config_node *node, const char *key)
{
	for (struct dm_config_node *child = node ? node->child : NULL; child; child = child->sib)
		if (!strcmp(child->key, key))
			return child;
	return NULL;
}

static struct dm_config_node *volume_of(
    struct dm_config_tree *tree, const char *group, const char *volume, struct error *error)
{
	struct dm_config_node *node = tree->root, *found;

	while (node && strcmp(node->key, group))
		node = node->sib;
	found = child_of(child_of(node, "logical_volumes"), volume);
	if (!found)
		error_set(error, -ENOENT, "LVM's metadata have no volume %s/%s", group, volume);
	return found;
}

static bool is_segment(const struct dm_config_node *node)
{
	unsigned number;
	char rest;

	return node->child && sscanf(node->key, "segment%u%c", &number, &rest) == 1;
}

/* Extents in all, or 0 with words when a segment is more than a piece of physical volumes. */
static uint64_t plain_extents(struct dm_config_node *volume, const char *name, struct error *error)
{
	uint64_t extents = 0, count = 0;

	for (struct dm_config_node *node = volume->child; node; node = node->sib) {
		const char *type = is_segment(node) ? dm_config_find_str(node->child, "type", "?") : NULL;

		if (!type)
			continue;
		if (strcmp(type, "striped")) {
			error_set(error, -EOPNOTSUPP,
			    "the LVM volume %s is of type %s, and only linear and striped ones can exchange "
			    "places",
			    name, type);
			return 0;
		}
		extents += (uint64_t)dm_config_find_int64(node->child, "extent_count", 0);
		count++;
	}
	if (count == 0 || extents == 0 ||
	    count != (uint64_t)dm_config_find_int64(volume->child, "segment_count", 0)) {
		error_set(error, -EBADMSG, "LVM's metadata of the volume %s make no sense", name);
		return 0;
	}
	return extents;
}

/* Takes the segments and their number out of a volume; returns them as a list. */
static struct dm_config_node *take_segments(struct dm_config_node *volume)
{
	struct dm_config_node *taken = NULL, **last = &taken, **at = &volume->child;

	while (*at) {
		struct dm_config_node *node = *at;

		if (is_segment(node) || !strcmp(node->key, "segment_count")) {
			*at = node->sib;
			node->sib = NULL;
			node->parent = NULL;
			*last = node;
			last = &node->sib;
		} else {
			at = &node->sib;
		}
	}
	return taken;
}

static void give_segments(struct dm_config_node *volume, struct dm_config_node *segments)
{
	struct dm_config_node **at = &volume->child;

	while (*at)
		at = &(*at)->sib;
	*at = segments;
	for (; segments; segments = segments->sib)
		segments->parent = volume;
}

static int put_line(const char *line, void *data)
{
	return fprintf(data, "%s\n", line) > 0;
}

static int write_tree(const struct dm_config_tree *tree, char **ret, struct error *error)
{
	size_t length;
	FILE *file = open_memstream(ret, &length);
	bool written = file && dm_config_write_node(tree->root, put_line, file);

	if (file && fclose(file) == 0 && written)
		return 0;
	return error_set(error, -ENOMEM, "cannot write LVM's metadata: out of memory");
}

static struct dm_config_tree *parse(const char *text, struct error *error)
{
	struct dm_config_tree *tree;

	dm_quiet();
	tree = dm_config_from_string(text);
	if (!tree)
		error_set(error, -EBADMSG, "cannot read LVM's metadata");
	return tree;
}

int lvm_exchange_text(const char *text, const struct lvm_pair *pair, char **ret, struct error *error)
{
	_cleanup_(end_tree) struct dm_config_tree *tree = parse(text, error);
	struct dm_config_node *moved, *target, *segments;
	uint64_t extents, target_extents;

	moved = tree ? volume_of(tree, pair->group, pair->moved, error) : NULL;
	target = moved ? volume_of(tree, pair->group, pair->target, error) : NULL;
	extents = target ? plain_extents(moved, pair->moved, error) : 0;
	target_extents = extents ? plain_extents(target, pair->target, error) : 0;
	if (!target_extents)
		return error->code;
	if (extents != target_extents)
		return error_set(error, -EOPNOTSUPP,
		    "%s has %llu extents and %s has %llu; volumes that exchange places must have one size",
		    pair->moved, (unsigned long long)extents, pair->target,
		    (unsigned long long)target_extents);
	segments = take_segments(moved);
	give_segments(moved, take_segments(target));
	give_segments(target, segments);
	return write_tree(tree, ret, error);
}

int lvm_first(
    const char *text, const char *group, const char *volume, char *ret, unsigned length, struct error *error)
{
	_cleanup_(end_tree) struct dm_config_tree *tree = parse(text, error);
	struct dm_config_node *node = tree ? volume_of(tree, group, volume, error) : NULL, *stripes;

	if (!node)
		return error->code;
	stripes = child_of(child_of(node, "segment1"), "stripes");
	if (!stripes || !stripes->v || stripes->v->type != DM_CFG_STRING || !stripes->v->next ||
	    stripes->v->next->type != DM_CFG_INT)
		return error_set(error, -EOPNOTSUPP, "the LVM volume %s is no row of pieces", volume);
	snprintf(ret, length, "%s:%lld", stripes->v->v.str, (long long)stripes->v->next->v.i);
	return 0;
}

static uint64_t number_of(const struct dm_config_node *node, const char *key)
{
	int64_t value = dm_config_find_int64(node->child, key, 0);

	return value > 0 ? (uint64_t)value : 0;
}

static bool has_word(struct dm_config_node *node, const char *key, const char *word)
{
	const struct dm_config_node *list = child_of(node, key);

	for (const struct dm_config_value *value = list ? list->v : NULL; value; value = value->next)
		if (value->type == DM_CFG_STRING && !strcmp(value->v.str, word))
			return true;
	return false;
}

/* Extents of physical volumes that a volume takes; those that lie upon other volumes take none themselves. */
static uint64_t taken_extents(struct dm_config_node *volume)
{
	uint64_t extents = 0;

	for (struct dm_config_node *node = volume->child; node; node = node->sib)
		if (is_segment(node) && child_of(node, "stripes"))
			extents += number_of(node, "extent_count");
	return extents;
}

int lvm_space_of(
    const char *text, const char *group, const char *volume, struct lvm_space *ret, struct error *error)
{
	_cleanup_(end_tree) struct dm_config_tree *tree = parse(text, error);
	struct dm_config_node *node = tree ? volume_of(tree, group, volume, error) : NULL, *child;
	struct lvm_space space = {0};
	uint64_t taken = 0;

	if (!node)
		return error->code;
	for (child = node->child; child; child = child->sib)
		if (is_segment(child))
			space.extents += number_of(child, "extent_count");
	node = node->parent;
	for (child = node->child; child; child = child->sib)
		taken += taken_extents(child);
	node = node->parent;
	space.extent_bytes = number_of(node, "extent_size") * 512;
	node = child_of(node, "physical_volumes");
	for (child = node ? node->child : NULL; child; child = child->sib)
		if (has_word(child, "status", "ALLOCATABLE"))
			space.free += number_of(child, "pe_count");
	if (space.extent_bytes == 0 || space.extents == 0)
		return error_set(error, -EBADMSG, "LVM's metadata of the group %s make no sense", group);
	/* What lies on a volume that takes no more counts as taken, too: less is free, never more. */
	space.free = space.free > taken ? space.free - taken : 0;
	*ret = space;
	return 0;
}

/* Disks */

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

static int read_group(const char *group, bool locked, char **ret, struct error *error)
{
	char folder[560], path[600];
	char *words[] = {"vgcfgbackup", "-f", path, (char *)group, locked ? "--nolocking" : NULL, NULL};
	int res = make_folder(folder, sizeof(folder), error);

	if (res < 0)
		return res;
	snprintf(path, sizeof(path), "%s/metadata", folder);
	res = ask(words, error);
	*ret = res == 0 ? read_all(path) : NULL;
	remove_folder(folder, path);
	if (res == 0 && !*ret)
		return error_set(error, -EBADMSG, "vgcfgbackup said nothing of the group %s", group);
	return res;
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

/* LVM's own lock on the group (locking_type 1): nobody changes it between our reading and our writing. */
static int lock_group(const char *group, struct error *error)
{
	char path[LVM_NAME_MAX + sizeof(LOCKS) + 4];
	int fd = -1;

	snprintf(path, sizeof(path), LOCKS "/V_%s", group);
	do {
		cleanup_close(&fd);
		fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
		if (fd < 0 || flock(fd, LOCK_EX) < 0) {
			error_set(error, -errno, "cannot lock LVM's group %s (%s): %s", group, path,
			    strerror(errno));
			cleanup_close(&fd);
			return error->code;
		}
	} while (!is_named(fd, path));
	return fd;
}

static int write_group(const char *group, const char *text, struct error *error)
{
	char folder[560], path[600];
	char *words[] = {"vgcfgrestore", "-y", "--nolocking", "-f", path, (char *)group, NULL};
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
	_cleanup_(cleanup_close) int lock = lock_group(pair->group, error);
	int res = lock < 0 ? lock : read_group(pair->group, true, &text, error);

	if (res == 0)
		res = lvm_exchange_text(text, pair, &changed, error);
	return res < 0 ? res : write_group(pair->group, changed, error);
}
