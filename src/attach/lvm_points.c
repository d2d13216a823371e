/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* lvcreate(8) and lvremove(8) make and remove points; which there are, LVM's metadata say (lvm.h). */
#include "attach/lvm_points.h"

#include "attach/lvm.h"
#include "base/cleanup.h"
#include "block/dm.h"

#include <errno.h>
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
