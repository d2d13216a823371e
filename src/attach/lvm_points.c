/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* lvcreate(8) and lvremove(8) make and remove points; which there are, LVM's metadata say (lvm.h). */
#include "attach/lvm_points.h"

#include "attach/dm.h"
#include "attach/lvm.h"
#include "base/cleanup.h"
#include "block/dm.h"

#include <errno.h>
#include <libdevmapper.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define POINTS_MAX 2048u

struct volume {
	char group[LVM_NAME_MAX], name[LVM_NAME_MAX];
};

static int find_volume(const char *path, struct volume *ret, struct error *error)
{
	struct dm_volume dm;
	dev_t dev;
	struct error ignored;

	if (dm_find(path, &dev, &ignored) < 0 || dm_table(dev, &dm, &ignored) < 0 ||
	    !lvm_name(dm.name, dm.uuid, ret->group, ret->name) || strcmp(dm.type, "thin"))
		return error_set(error, -EOPNOTSUPP,
		    "points of %.200s cannot be kept: it is no thin volume of LVM's. A thick snapshot would "
		    "have to copy what "
		    "each later round overwrites, and is lost when it is full. Leave --keep-points out, or "
		    "use a thin volume",
		    path);
	return 0;
}

/* Metadata */

static const struct dm_config_node *child_of(const struct dm_config_node *node, const char *key)
{
	for (const struct dm_config_node *child = node ? node->child : NULL; child; child = child->sib)
		if (!strcmp(child->key, key))
			return child;
	return NULL;
}

static bool has_tag(const struct dm_config_node *volume)
{
	const struct dm_config_node *tags = child_of(volume, "tags");

	for (const struct dm_config_value *value = tags ? tags->v : NULL; value; value = value->next)
		if (value->type == DM_CFG_STRING && !strcmp(value->v.str, LVM_POINT_TAG))
			return true;
	return false;
}

static bool is_point_of(const struct dm_config_node *volume, const char *origin)
{
	const struct dm_config_node *segment = child_of(volume, "segment1");
	const char *of = segment ? dm_config_find_str(segment->child, "origin", "") : "";

	return has_tag(volume) && !strcmp(of, origin);
}

struct point {
	char name[LVM_NAME_MAX];
	uint64_t transaction; /* of the pool, which counts up: clocks and names may be changed */
};

static int compare_points(const void *left, const void *right)
{
	const struct point *a = left, *b = right;

	return a->transaction < b->transaction   ? -1
	       : a->transaction > b->transaction ? 1
	                                         : strcmp(a->name, b->name);
}

static void note_point(const struct dm_config_node *volume, struct point *ret)
{
	snprintf(ret->name, sizeof(ret->name), "%s", volume->key);
	ret->transaction =
	    (uint64_t)dm_config_find_int64(child_of(volume, "segment1")->child, "transaction_id", 0);
}

int lvm_points_of(const char *text, const char *group, const char *volume, char (*ret_names)[LVM_NAME_MAX],
    unsigned max, struct error *error)
{
	_cleanup_(cleanup_free) struct point *points = calloc(max, sizeof(*points));
	struct dm_config_tree *tree = points ? dm_config_from_string(text) : NULL;
	const struct dm_config_node *root = tree ? tree->root : NULL, *list;
	unsigned count = 0;

	while (root && strcmp(root->key, group))
		root = root->sib;
	list = child_of(root, "logical_volumes");
	for (const struct dm_config_node *node = list ? list->child : NULL; node && count < max;
	     node = node->sib)
		if (is_point_of(node, volume) && strlen(node->key) < LVM_NAME_MAX)
			note_point(node, &points[count++]);
	if (tree)
		dm_config_destroy(tree);
	if (!points)
		return error_set(error, -ENOMEM, "out of memory");
	if (!list)
		return error_set(error, -EBADMSG, "LVM's metadata of the group %s make no sense", group);
	qsort(points, count, sizeof(*points), compare_points);
	for (unsigned i = 0; i < count; i++)
		memcpy(ret_names[i], points[i].name, LVM_NAME_MAX);
	return (int)count;
}

/* Commands */

static int make(const struct volume *volume, struct error *error)
{
	char origin[2 * LVM_NAME_MAX + 2], name[2 * LVM_NAME_MAX], stamp[32] = "";
	char *words[] = {
	    "lvcreate", "-y", "-q", "-s", "-pr", "-ky", "-n", name, "--addtag", LVM_POINT_TAG, origin, NULL};
	struct timespec now;
	struct tm tm;

	clock_gettime(CLOCK_REALTIME, &now);
	if (gmtime_r(&now.tv_sec, &tm))
		strftime(stamp, sizeof(stamp), "%Y%m%dT%H%M%S", &tm);
	snprintf(name, sizeof(name), "%s-point-%s.%03ldZ", volume->name, stamp, now.tv_nsec / 1000000);
	snprintf(origin, sizeof(origin), "%s/%s", volume->group, volume->name);
	return lvm_run(volume->group, words, error);
}

static int remove_point(const struct volume *volume, char *point, struct error *error)
{
	char name[2 * LVM_NAME_MAX + 2];
	char *words[] = {"lvremove", "-y", "-q", name, NULL};

	snprintf(name, sizeof(name), "%s/%s", volume->group, point);
	return lvm_run(volume->group, words, error);
}

static int remove_oldest(const struct volume *volume, unsigned keep, struct error *error)
{
	_cleanup_(cleanup_free) char *text = NULL;
	_cleanup_(cleanup_free) char(*names)[LVM_NAME_MAX] = calloc(POINTS_MAX, LVM_NAME_MAX);
	int count, res;

	if (!names)
		return error_set(error, -ENOMEM, "out of memory");
	res = lvm_read(volume->group, &text, error);
	count = res < 0 ? res : lvm_points_of(text, volume->group, volume->name, names, POINTS_MAX, error);
	res = count < 0 ? count : 0;
	for (int i = 0; res == 0 && i + (int)keep < count; i++)
		res = remove_point(volume, names[i], error);
	return res;
}

int lvm_points(const char *path, unsigned keep, bool check_only, struct error *error)
{
	struct volume volume;
	int res = find_volume(path, &volume, error);

	if (res < 0 || check_only)
		return res;
	res = make(&volume, error);
	if (res < 0)
		return error_prefix(
		    error, "the volume is the new point, but no snapshot of it could be made");
	res = remove_oldest(&volume, keep, error);
	return res < 0 ? error_prefix(
	                     error, "the volume is the new point, but its oldest ones could not be removed")
	               : 0;
}
