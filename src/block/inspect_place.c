/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Where a volume's bytes lie: partitions, loop devices and mappings taken apart down to what has a name of its own, so
 * that two volumes that share bytes are seen to.
 */
#include "base/bytes.h"
#include "block/inspect_private.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define DEPTH_MAX  8
#define SECTOR     UINT64_C(512) /* sysfs counts in these, whatever the device's are */
#define SLAVES_MAX 32
#define TO_THE_END ((uint64_t)INT64_MAX)

static void device_places(
    dev_t dev, uint64_t offset, uint64_t length, unsigned depth, struct block_facts *facts);

static void add(struct block_facts *facts, const char *id, uint64_t offset, uint64_t length)
{
	struct block_place *place = &facts->places[facts->places_count];

	if (facts->places_count == BLOCK_PLACES_MAX || !id[0] || offset > TO_THE_END)
		return;
	facts->places_count++;
	snprintf(place->id, sizeof(place->id), "%s", id);
	place->offset = offset;
	place->length = min_u64(length, TO_THE_END - offset);
}

static uint64_t attribute_bytes(dev_t dev, const char *name, uint64_t otherwise)
{
	char text[32];
	uint64_t sectors;

	if (sysfs_device_line(dev, name, text, sizeof(text)) < 0)
		return otherwise;
	sectors = strtoull(text, NULL, 10);
	return sectors > 0 && sectors < TO_THE_END / SECTOR ? sectors * SECTOR : otherwise;
}

/* A file, and the device that its file system is on: whoever overwrites that overwrites the file. */
static void file_places(const struct inspect_volume *file, uint64_t offset, uint64_t length, unsigned depth,
    struct block_facts *facts)
{
	char id[sizeof(facts->id)];

	inspect_id(file, id, sizeof(id));
	add(facts, id, offset, length);
	if (sysfs_device_has(file->stat.st_dev, "dev"))
		device_places(file->stat.st_dev, 0, TO_THE_END, depth + 1, facts);
}

/* False when what backs the loop device cannot be found. */
static bool loop_places(const struct sysfs_loop *loop, uint64_t offset, uint64_t length, unsigned depth,
    struct block_facts *facts)
{
	struct inspect_volume file = {.device = false};

	if (loop->rdev) {
		device_places(loop->rdev, loop->offset + offset, length, depth + 1, facts);
		return true;
	}
	file.fd = open(loop->path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (file.fd < 0)
		return false;
	if (fstat(file.fd, &file.stat) < 0 || file.stat.st_dev != loop->dev ||
	    file.stat.st_ino != loop->inode) {
		close(file.fd);
		return false;
	}
	file_places(&file, loop->offset + offset, length, depth, facts);
	close(file.fd);
	return true;
}

/* What a mapping makes of its devices is not looked into: it may have any byte of them. */
static void device_places(
    dev_t dev, uint64_t offset, uint64_t length, unsigned depth, struct block_facts *facts)
{
	uint64_t size = attribute_bytes(dev, "size", TO_THE_END);
	struct inspect_volume whole = {.fd = -1, .device = true};
	struct sysfs_devices slaves = {.count = 0};
	char id[sizeof(facts->id)];
	struct sysfs_loop loop;

	if (depth > DEPTH_MAX || offset >= size)
		return;
	length = min_u64(length, size - offset);
	if (sysfs_partition(dev, &whole.stat.st_rdev))
		offset += attribute_bytes(dev, "start", 0);
	if (sysfs_loop(whole.stat.st_rdev, &loop) && loop_places(&loop, offset, length, depth, facts))
		return;
	inspect_id(&whole, id, sizeof(id));
	add(facts, id, offset, length);
	sysfs_add_slaves(&slaves, whole.stat.st_rdev);
	for (unsigned i = 0; i < slaves.count && i < SLAVES_MAX; i++)
		device_places(slaves.devices[i], 0, TO_THE_END, depth + 1, facts);
}

void inspect_places(const struct inspect_volume *volume, struct block_facts *facts)
{
	facts->places_count = 0;
	if (volume->device)
		device_places(volume->stat.st_rdev, 0, TO_THE_END, 0, facts);
	else
		file_places(volume, 0, TO_THE_END, 0, facts);
}

static bool have_common_bytes(const struct block_place *a, const struct block_place *b)
{
	return !strcmp(a->id, b->id) && a->offset < b->offset + b->length &&
	       b->offset < a->offset + a->length;
}

const struct block_place *inspect_common(const struct block_facts *a, const struct block_facts *b)
{
	for (unsigned i = 0; i < a->places_count && b->places_count; i++)
		if (have_common_bytes(&a->places[i], &b->places[0]))
			return &a->places[i];
	for (unsigned i = 0; i < b->places_count && a->places_count; i++)
		if (have_common_bytes(&b->places[i], &a->places[0]))
			return &b->places[i];
	return NULL;
}
