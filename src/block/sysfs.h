/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Small questions to /sys and /proc about block devices, by device number. No state; texts come back trimmed.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* Reads the first line of a file, without blanks at both ends and with odd bytes made '?'. Returns 0 or
 * -errno. */
int sysfs_line(const char *path, char *ret, size_t length);
/* This start of the machine, as text that no other one has; false and "" when it cannot be known. */
bool sysfs_boot_id(char *ret, size_t length);
/* The same for an attribute of a device: /sys/dev/block/MAJOR:MINOR/NAME. */
int sysfs_device_line(dev_t dev, const char *name, char *ret, size_t length);
bool sysfs_device_has(dev_t dev, const char *name);
/* The kernel's name, "sda1"; "8:1" when sysfs does not know it. */
void sysfs_device_name(dev_t dev, char *ret, size_t length);
/* The partition's number and the disk that it lies on; returns 0 and *ret_disk = dev for a whole disk. */
unsigned sysfs_partition(dev_t dev, dev_t *ret_disk);

#define SYSFS_DEVICES_MAX 256

/* A set of devices, in the order in which they were found. */
struct sysfs_devices {
	dev_t devices[SYSFS_DEVICES_MAX];
	unsigned count;
};

bool sysfs_devices_has(const struct sysfs_devices *set, dev_t dev);
/* Adds `dev` and all that lies upon it: its partitions, holders (dm, md, bcache...) and loop devices,
 * recursively. */
void sysfs_add_above(struct sysfs_devices *set, dev_t dev);
/* Adds the loop devices whose backing file is (file_dev, inode), and all that lies upon them. */
void sysfs_add_loops_of_file(struct sysfs_devices *set, dev_t file_dev, ino_t inode);
/* Adds the devices that `dev` is made of: those below a mapping or an array, one level down. */
void sysfs_add_slaves(struct sysfs_devices *set, dev_t dev);
/* Adds the partitions of a disk. */
void sysfs_add_partitions(struct sysfs_devices *set, dev_t disk);

/* What backs a loop device. */
struct sysfs_loop {
	dev_t dev;   /* of the file system that the file is on */
	ino_t inode; /* of the file */
	dev_t rdev;  /* of the device, when a device backs it; else 0 */
	uint64_t offset, size_limit;
	char path[512]; /* as /sys has it; "" if not known */
};

/* Returns false when `dev` is no loop device with something attached. */
bool sysfs_loop(dev_t dev, struct sysfs_loop *ret);
