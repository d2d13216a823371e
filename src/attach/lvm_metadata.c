/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* LVM's metadata as text: what they say, and with two volumes exchanged. See lvm.h; no device is asked. */
#include "attach/lvm.h"

#include "base/cleanup.h"
#include "block/dm_task.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void end_tree(struct dm_config_tree **tree)
{
	if (*tree)
		dm_config_destroy(*tree);
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

static struct dm_config_node *child_of(struct dm_config_node *node, const char *key)
{
	for (struct dm_config_node *child = node ? node->child : NULL; child; child = child->sib)
		if (!strcmp(child->key, key))
			return child;
	return NULL;
}

/* All volumes of the group; NULL: there is no such group. */
static struct dm_config_node *volumes_of(struct dm_config_tree *tree, const char *group)
{
	struct dm_config_node *node = tree->root;

	while (node && strcmp(node->key, group))
		node = node->sib;
	return child_of(node, "logical_volumes");
}

static struct dm_config_node *volume_of(
    struct dm_config_tree *tree, const char *group, const char *volume, struct error *error)
{
	struct dm_config_node *found = child_of(volumes_of(tree, group), volume);

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

static const char *segment_word(const struct dm_config_node *segment, const char *key)
{
	return dm_config_find_str(segment->child, key, "");
}

/* Its snapshot, thick or thin, which would find another origin; and the like. 0 or -EOPNOTSUPP with words. */
static int check_no_snapshot(const struct dm_config_node *volume, const char *group, struct error *error)
{
	for (const struct dm_config_node *other = volume->parent->child; other; other = other->sib)
		for (const struct dm_config_node *node = other->child; node; node = node->sib) {
			const char *store, *merging;

			if (!is_segment(node) ||
			    (strcmp(segment_word(node, "origin"), volume->key) &&
			        strcmp(segment_word(node, "external_origin"), volume->key)))
				continue;
			store = segment_word(node, "cow_store");
			merging = segment_word(node, "merging_store");
			if (*merging)
				return error_set(error, -EOPNOTSUPP,
				    "the snapshot %s is being merged into the LVM volume %s, and would find "
				    "another one: let the merge end first (`lvs %s`)",
				    merging, volume->key, group);
			if (!*store)
				store = other->key;
			return error_set(error, -EOPNOTSUPP,
			    "the LVM volume %s has the snapshot %s, which would be filled, and lose "
			    "its origin: remove it first (`lvremove %s/%s`)",
			    volume->key, store, group, store);
		}
	return 0;
}

static bool has_word(struct dm_config_node *node, const char *key, const char *word)
{
	const struct dm_config_node *list = child_of(node, key);

	for (const struct dm_config_value *value = list ? list->v : NULL; value; value = value->next)
		if (value->type == DM_CFG_STRING && !strcmp(value->v.str, word))
			return true;
	return false;
}

/* What machines share is not locked by a file of this one alone. 0 or -EOPNOTSUPP with words. */
static int check_local(struct dm_config_node *group, struct error *error)
{
	const char *lock_type = dm_config_find_str(group->child, "lock_type", "none");

	if (has_word(group, "status", "CLUSTERED"))
		lock_type = "clustered";
	if (!strcmp(lock_type, "none"))
		return 0;
	return error_set(error, -EOPNOTSUPP,
	    "other machines may change LVM's group %s (its lock type is %s), and cannot be kept from "
	    "that here: use pvmove(8)",
	    group->key, lock_type);
}

int lvm_check_group(const char *text, const char *group, struct error *error)
{
	_cleanup_(end_tree) struct dm_config_tree *tree = parse(text, error);
	struct dm_config_node *volumes = tree ? volumes_of(tree, group) : NULL;

	if (tree && !volumes)
		error_set(error, -ENOENT, "LVM's metadata have no group %s", group);
	return volumes ? check_local(volumes->parent, error) : error->code;
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

int lvm_exchange_text(const char *text, const struct lvm_pair *pair, char **ret, struct error *error)
{
	_cleanup_(end_tree) struct dm_config_tree *tree = parse(text, error);
	struct dm_config_node *moved, *target, *segments;
	uint64_t extents, target_extents;
	int res;

	moved = tree ? volume_of(tree, pair->group, pair->moved, error) : NULL;
	target = moved ? volume_of(tree, pair->group, pair->target, error) : NULL;
	if (!target)
		return error->code;
	res = check_local(target->parent->parent, error);
	if (res == 0)
		res = check_no_snapshot(moved, pair->group, error);
	if (res == 0)
		res = check_no_snapshot(target, pair->group, error);
	if (res < 0)
		return res;
	extents = plain_extents(moved, pair->moved, error);
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

int lvm_locking_dir(const char *text, char *ret, unsigned length, struct error *error)
{
	_cleanup_(end_tree) struct dm_config_tree *tree = parse(text, error);
	const char *folder = tree ? dm_config_tree_find_str(tree, "locking_dir", "") : "";

	if (!*folder || (unsigned)snprintf(ret, length, "%s", folder) >= length)
		return error_set(
		    error, -EBADMSG, "cannot learn where LVM's locks are (lvmconfig global/locking_dir)");
	return 0;
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

static bool is_point_of(struct dm_config_node *volume, const char *origin)
{
	const struct dm_config_node *segment = child_of(volume, "segment1");
	const char *of = segment ? dm_config_find_str(segment->child, "origin", "") : "";

	return has_word(volume, "tags", LVM_POINT_TAG) && !strcmp(of, origin);
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

static void note_point(struct dm_config_node *volume, struct point *ret)
{
	snprintf(ret->name, sizeof(ret->name), "%s", volume->key);
	ret->transaction = number_of(child_of(volume, "segment1"), "transaction_id");
}

int lvm_points_of(const char *text, const char *group, const char *volume, char (*ret_names)[LVM_NAME_MAX],
    unsigned max, struct error *error)
{
	_cleanup_(cleanup_free) struct point *points = calloc(max, sizeof(*points));
	_cleanup_(end_tree) struct dm_config_tree *tree = parse(text, error);
	struct dm_config_node *list = tree ? volumes_of(tree, group) : NULL;
	unsigned count = 0;

	if (!tree)
		return error->code;
	if (!list)
		return error_set(error, -EBADMSG, "LVM's metadata of the group %s make no sense", group);
	if (!points)
		return error_set(error, -ENOMEM, "out of memory");
	for (struct dm_config_node *node = list->child; node && count < max; node = node->sib)
		if (is_point_of(node, volume) && strlen(node->key) < LVM_NAME_MAX)
			note_point(node, &points[count++]);
	qsort(points, count, sizeof(*points), compare_points);
	for (unsigned i = 0; i < count; i++)
		memcpy(ret_names[i], points[i].name, LVM_NAME_MAX);
	return (int)count;
}
