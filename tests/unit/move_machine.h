/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A machine for moves, made up, in the places of attach/dm.c, LVM and the kernel: tables that lead to two disks, of which each holds the number of the last
 * write, and page caches of the legs. Somebody writes before each step, and is killed at one, or somebody else changes the table. Of one test: it is static.
 */
#pragma once

#include "attach/dm.h"
#include "attach/move_dm_mirror.h"
#include "attach/move_private.h"

#include <errno.h>
#include <linux/fs.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#define DEVICES 8
#define TARGETS 3
#define SECTORS 2048u
#define NEW     (world->lvm ? "/made-up/target" : "/made-up/new")
#define KILLED  9
#define FD      1000
#define LOCKED  (FD + 3)
/* Of no device that a machine has. */
#define DISK   4000u
#define MAPPED 4001u

struct made_up_table {
	unsigned count;
	uint64_t start[TARGETS], length[TARGETS];
	char type[TARGETS][16], params[TARGETS][96];
};

struct made_up_device {
	bool exists, suspended;
	char name[DM_NAME_MAX], uuid[DM_NAME_MAX];
	struct made_up_table live, waiting;
};

/* Shared with the processes that are killed. */
static struct world {
	struct made_up_device devices[DEVICES]; /* MAPPED:INDEX */
	unsigned minors[2];                     /* of the disks, DISK:MINOR */
	unsigned data[2], written;
	bool lacks[2];       /* something that was written, until all is copied there */
	unsigned cached[2];  /* in the page cache of a leg, not written back yet; 0: nothing */
	bool copied[2];      /* and not flushed since: gone when the power is cut */
	unsigned told;       /* the disks, as bits, where LVM's metadata are not flushed */
	unsigned steps_left; /* 0: nobody is killed */
	unsigned boot;
	bool switches, switched; /* of the engine; durably */
	bool target_lacks;       /* by the engine's notes */
	bool forgotten;          /* what the engine knew of the move before a restart */
	unsigned knob;           /* how much of the time all mirrors of the kernel's may take */
	bool lvm, exchanged;     /* what LVM's metadata say */
	bool until_restart;      /* one of LVM's is moved to what LVM does not know */
	bool shared;             /* by more machines: its lock keeps them not out */
	bool locked;             /* LVM's group: its commands wait */
	bool lvm_works;          /* one of them is between its load and its resume: it has the lock */
	bool lvm_hangs;          /* and stays there */
	enum event { NOTHING, REFRESH, SNAPSHOT } event;
	unsigned event_in; /* steps; 0: it has happened, or none is to */
} * world;

static const char *const legs[2] = {"consumer-blkmove-old", "consumer-blkmove-new"};
static char state_dir[] = "/dev/shm/blkmove-XXXXXX";

static struct made_up_device *find(const char *name)
{
	for (unsigned i = 0; i < DEVICES; i++)
		if (world->devices[i].exists && !strcmp(world->devices[i].name, name))
			return &world->devices[i];
	return NULL;
}

/* The disks that a table leads to, as bits; the first one alone is read. 0: it waits. */
static unsigned leads(const struct made_up_table *table, bool *ret_mirror);

static unsigned leads_of(dev_t device, bool *ret_mirror)
{
	struct made_up_device *found;

	if (major(device) == DISK)
		return minor(device) == world->minors[0] ? 1 : 2;
	assert_int_equal(major(device), MAPPED);
	found = &world->devices[minor(device)];
	assert_true(found->exists && found->live.count > 0);
	return found->suspended ? 0 : leads(&found->live, ret_mirror);
}

static unsigned leads(const struct made_up_table *table, bool *ret_mirror)
{
	unsigned found = 0;

	for (unsigned i = 0; i < table->count; i++) {
		size_t at = 0;
		dev_t device;

		*ret_mirror |= !strcmp(table->type[i], "mirror");
		while (dm_params_next_device(table->params[i], &at, &device)) {
			unsigned below = leads_of(device, ret_mirror);

			if (!below)
				return 0;
			found |= below;
		}
	}
	return found;
}

static unsigned consumer_leads(void)
{
	struct made_up_device *consumer = find("consumer");
	bool mirror = false;

	return consumer->suspended ? 0 : leads(&consumer->live, &mirror);
}

/* By a leg, and not to the disk itself. */
static bool consumer_is_mirrored(void)
{
	const struct made_up_table *table = &find("consumer")->live;
	size_t at = 0;
	dev_t device = 0;

	return !find("consumer-real") && dm_params_next_device(table->params[0], &at, &device) &&
	       major(device) == MAPPED;
}

static bool has_all(unsigned disk)
{
	return !world->lacks[disk] &&
	       (world->cached[disk] ? world->cached[disk] : world->data[disk]) == world->written;
}

static void write_something(void)
{
	unsigned to = find("consumer") ? consumer_leads() : 0;

	if (to)
		world->written++;
	for (unsigned i = 0; i < 2; i++) {
		world->lacks[i] |= to && !(to & (1u << i));
		if (!(to & (1u << i)))
			continue;
		/* A mirror that is a process writes parts of pages so. */
		if (world->switches && consumer_is_mirrored())
			world->cached[i] = world->written;
		else
			world->data[i] = world->written;
	}
	/* Whenever the machine is started anew, LVM goes by its metadata. */
	if (world->lvm)
		assert_true(has_all(world->exchanged));
	/* Flushed with what was written there, or, where only the other disk has them, never. */
	if (to == 1 || to == 2)
		assert_int_equal(world->told, 0);
}

static void write_back(unsigned disk)
{
	if (world->cached[disk])
		world->data[disk] = world->cached[disk];
	world->cached[disk] = 0;
}

static struct made_up_device *add(const char *name, const char *uuid)
{
	unsigned i = 0;

	assert_null(find(name));
	while (world->devices[i].exists)
		i++;
	world->devices[i] = (struct made_up_device){.exists = true};
	snprintf(world->devices[i].name, DM_NAME_MAX, "%s", name);
	snprintf(world->devices[i].uuid, DM_NAME_MAX, "%s", uuid);
	return &world->devices[i];
}

/* Where LVM, or whoever else owns the device, believes it to be. */
static unsigned believed(void)
{
	return world->lvm && world->exchanged;
}

static void load_believed(struct made_up_device *device)
{
	bool crypt = !strcmp(find("consumer")->live.type[0], "crypt");

	device->live = (struct made_up_table){.count = 1, .length = {SECTORS}};
	snprintf(device->live.type[0], 16, crypt ? "crypt" : "linear");
	snprintf(device->live.params[0], 96, crypt ? "aes 00 0 %u:%u 0" : "%u:%u 0", DISK,
	    world->minors[believed()]);
}

/* lvchange --refresh, lvcreate -s: the device is suspended, for which a file system flushes all, and its table is loaded by what its owner knows. */
static void happen(void)
{
	struct made_up_device *consumer = find("consumer"), *real;

	if (world->event == NOTHING || !consumer || !consumer->live.count || consumer->suspended ||
	    world->locked || !consumer_leads())
		return;
	/* Who owns it has been told that it is elsewhere now. */
	if (!world->lvm && consumer_leads() == 2)
		world->event = NOTHING;
	write_back(0);
	write_back(1);
	if (world->event == REFRESH)
		load_believed(consumer);
	if (world->event == SNAPSHOT) {
		real = add("consumer-real", "");
		load_believed(real);
		consumer->live = (struct made_up_table){.count = 1, .length = {SECTORS}};
		snprintf(consumer->live.type[0], 16, "snapshot-origin");
		snprintf(consumer->live.params[0], 96, "%u:%u", MAPPED, (unsigned)(real - world->devices));
	}
	world->event = NOTHING;
}

static void end_snapshot(void)
{
	if (!find("consumer-real"))
		return;
	find("consumer")->live = find("consumer-real")->live;
	find("consumer-real")->exists = false;
}

static void step(void)
{
	write_something();
	if (world->event_in)
		world->event_in--;
	/* Or as soon as it can. */
	if (!world->event_in)
		happen();
	write_something();
	if (world->steps_left && --world->steps_left == 0)
		_exit(KILLED);
}

/* In the place of attach/dm.c */

int dm_check(struct error *error)
{
	return 0;
}

int dm_look(const char *name, struct dm_facts *ret, struct error *error)
{
	struct made_up_device *device = find(name);

	if (!device)
		return error_set(error, -ENXIO, "there is no device %s", name);
	*ret = (struct dm_facts){.device = makedev(MAPPED, (unsigned)(device - world->devices)),
	    .suspended = device->suspended,
	    .live_table = device->live.count > 0,
	    .inactive_table = device->waiting.count > 0};
	snprintf(ret->name, sizeof(ret->name), "%s", name);
	snprintf(ret->uuid, sizeof(ret->uuid), "%s", device->uuid);
	return 0;
}

int dm_look_path(const char *path, struct dm_facts *ret, struct error *error)
{
	return dm_look(strrchr(path, '/') + 1, ret, error);
}

static int get(const char *name, bool status, struct dm_table *ret, struct error *error)
{
	struct made_up_device *device = find(name);

	*ret = (struct dm_table){0};
	if (!device)
		return error_set(error, -ENXIO, "there is no device %s", name);
	for (unsigned i = 0; i < device->live.count; i++)
		dm_table_add(ret, device->live.start[i], device->live.length[i], device->live.type[i],
		    status ? "2 7:1 7:2 4/4 1 AA 1 core" : device->live.params[i]);
	return 0;
}

int dm_get_table(const char *name, bool secrets, struct dm_table *ret, struct error *error)
{
	return get(name, false, ret, error);
}

int dm_get_status(const char *name, struct dm_table *ret, struct error *error)
{
	return get(name, true, ret, error);
}

void dm_table_wipe(struct dm_table *table)
{
	dm_table_done(table);
}

int dm_load(const char *name, bool secrets, const struct dm_table *table, struct error *error)
{
	struct made_up_table *waiting = &find(name)->waiting;

	step();
	waiting->count = (unsigned)table->count;
	for (unsigned i = 0; i < table->count; i++) {
		waiting->start[i] = table->targets[i].start;
		waiting->length[i] = table->targets[i].length;
		snprintf(waiting->type[i], sizeof(waiting->type[i]), "%s", table->targets[i].type);
		snprintf(waiting->params[i], sizeof(waiting->params[i]), "%s", table->targets[i].params);
	}
	return 0;
}

int dm_clear(const char *name, struct error *error)
{
	step();
	assert_false(world->lvm_works && !strcmp(name, "consumer"));
	find(name)->waiting.count = 0;
	return 0;
}

int dm_suspend(const char *name, struct error *error)
{
	/* None of LVM's commands is at work on one of its volumes while another table is loaded for it. */
	assert_true(strncmp(find(name)->uuid, "LVM-", 4) || world->locked);
	step();
	find(name)->suspended = true;
	return 0;
}

int dm_resume(const char *name, struct error *error)
{
	struct made_up_device *device = find(name);
	bool mirror = false;

	step();
	/* It copies at once, and then never again. */
	if (device->waiting.count && !strcmp(device->waiting.type[0], "mirror"))
		mirror = true;
	if (device->waiting.count)
		device->live = device->waiting;
	device->waiting.count = 0;
	device->suspended = false;
	for (unsigned i = 0; mirror && i < 2; i++)
		write_back(i);
	if (mirror) {
		world->data[1] = world->data[0];
		world->lacks[1] = world->lacks[0];
		world->copied[1] = true;
	}
	return 0;
}

static int make_device(const char *name, const char *uuid, const struct dm_table *table, struct error *error)
{
	int res;

	step();
	add(name, uuid);
	res = dm_load(name, false, table, error);
	return res == 0 ? dm_resume(name, error) : res;
}

int dm_create(const char *name, const struct dm_table *table, struct error *error)
{
	char uuid[DM_NAME_MAX];

	snprintf(uuid, sizeof(uuid), "BLKMOVE-%.120s", name);
	return make_device(name, uuid, table, error);
}

int dm_remove(const char *name, struct error *error)
{
	step();
	/* Who had a leg open has closed it by now. */
	for (unsigned i = 0; i < 2; i++)
		if (!strcmp(name, legs[i]))
			write_back(i);
	if (find(name))
		find(name)->exists = false;
	return 0;
}

int dm_swap(const char *name, bool secrets, const struct dm_table *table,
    int (*look)(void *data, struct error *error), void *data, uint64_t *ret_pause_ns, struct error *error)
{
	struct error ignored;
	int res;

	assert_int_equal(dm_load(name, secrets, table, error), 0);
	assert_int_equal(dm_suspend(name, error), 0);
	res = look ? look(data, error) : 0;
	if (res < 0)
		dm_clear(name, &ignored);
	return dm_resume(name, &ignored) == 0 ? res : -EIO;
}

/* In the place of the rest of the machine */

bool __wrap_sysfs_boot_id(char *ret, size_t length);
bool __wrap_inspect_device_id(dev_t dev, char *ret, unsigned length);
int __wrap_sysfs_device_line(dev_t dev, const char *name, char *ret, size_t length);
int __wrap_sysfs_line(const char *path, char *ret, size_t length);
FILE *__real_fopen64(const char *path, const char *mode);
FILE *__wrap_fopen64(const char *path, const char *mode);
int __real_move_record_save(
    struct move_record *record, const struct move_folder *folder, struct error *error);
int __wrap_move_record_save(
    struct move_record *record, const struct move_folder *folder, struct error *error);
int __real_open64(const char *path, int flags, ...);
int __wrap_open64(const char *path, int flags, ...);
int __real_fstat64(int fd, struct stat *ret);
int __wrap_fstat64(int fd, struct stat *ret);
int __real_close(int fd);
int __wrap_close(int fd);
int __wrap_fsync(int fd);
int __wrap_ioctl(int fd, unsigned long request, void *ret);

bool __wrap_sysfs_boot_id(char *ret, size_t length)
{
	snprintf(ret, length, "boot-%u", world->boot);
	return true;
}

bool __wrap_inspect_device_id(dev_t dev, char *ret, unsigned length)
{
	if (major(dev) == MAPPED) {
		snprintf(ret, length, "dm:%s", world->devices[minor(dev)].uuid);
		return true;
	}
	snprintf(ret, length, "serial:%s", minor(dev) == world->minors[1] ? "new" : "another");
	return true;
}

int __wrap_sysfs_device_line(dev_t dev, const char *name, char *ret, size_t length)
{
	snprintf(ret, length, "%u", SECTORS);
	return 0;
}

/* The throttle of the kernel's mirrors. */
int __wrap_sysfs_line(const char *path, char *ret, size_t length)
{
	assert_non_null(strstr(path, "/dm_mirror/parameters/"));
	snprintf(ret, length, "%u", world->knob);
	return 0;
}

static ssize_t turn(void *cookie, const char *text, size_t length)
{
	step();
	assert_int_equal(sscanf(text, "%u\n", &world->knob), 1);
	return (ssize_t)length;
}

FILE *__wrap_fopen64(const char *path, const char *mode)
{
	if (!strstr(path, "/dm_mirror/parameters/"))
		return __real_fopen64(path, mode);
	return fopencookie(NULL, "w", (cookie_io_functions_t){.write = turn});
}

int __wrap_move_record_save(struct move_record *record, const struct move_folder *folder, struct error *error)
{
	int res;

	step();
	/* Whoever goes by the record, or LVM's metadata, after a power cut finds all of it. */
	if (record->phase == MOVE_FINISHING || (record->phase == MOVE_SWITCHED && world->switches))
		assert_false(world->copied[1]);
	if (record->phase == MOVE_SWITCHED)
		world->forgotten = false;
	res = __real_move_record_save(record, folder, error);
	step();
	return res;
}

int __wrap_open64(const char *path, int flags, ...)
{
	for (int i = 0; i < 2; i++)
		if (!strncmp(path, "/dev/mapper/", 12) && !strcmp(path + 12, legs[i])) {
			assert_non_null(find(legs[i]));
			return FD + 1 + i;
		}
	return !strncmp(path, "/made-up/", 9) ? FD : __real_open64(path, flags, 0600);
}

int __wrap_fstat64(int fd, struct stat *ret)
{
	if (fd != FD)
		return __real_fstat64(fd, ret);
	*ret = (struct stat){.st_mode = S_IFBLK, .st_rdev = makedev(DISK, world->minors[1])};
	if (world->lvm)
		ret->st_rdev = makedev(MAPPED, (unsigned)(find("target") - world->devices));
	return 0;
}

int __wrap_close(int fd)
{
	if (fd == LOCKED)
		world->locked = false;
	return fd >= FD && fd <= LOCKED ? 0 : __real_close(fd);
}

int __wrap_fsync(int fd)
{
	unsigned disk = (unsigned)(fd - FD - 1);

	if (fd <= FD || fd > FD + 2)
		return 0;
	write_back(disk);
	world->copied[disk] = false;
	world->told &= ~(1u << disk);
	return 0;
}

int __wrap_ioctl(int fd, unsigned long request, void *ret)
{
	if (request != BLKFLSBUF)
		*(uint64_t *)ret = SECTORS * UINT64_C(512);
	return 0;
}

/* In the place of LVM: two volumes of one group */

bool __wrap_lvm_name(const char *name, const char *uuid, char *ret_group, char *ret_volume);
int __wrap_lvm_check_locks(struct error *error);
int __wrap_lvm_check_group(const char *text, const char *group, struct error *error);
int __wrap_lvm_read(const char *group, char **ret, struct error *error);
int __wrap_lvm_exchange_text(const char *text, const struct lvm_pair *pair, char **ret, struct error *error);
int __wrap_lvm_lock(const char *group, struct error *error);
int __wrap_lvm_lock_soon(const char *group, struct error *error);
int __wrap_lvm_exchange(const struct lvm_pair *pair, struct error *error);
int __wrap_lvm_first(
    const char *text, const char *group, const char *volume, char *ret, unsigned length, struct error *error);

bool __wrap_lvm_name(const char *name, const char *uuid, char *ret_group, char *ret_volume)
{
	snprintf(ret_group, LVM_NAME_MAX, "group");
	snprintf(ret_volume, LVM_NAME_MAX, "%s", name);
	return !strncmp(uuid, "LVM-", 4);
}

int __wrap_lvm_check_locks(struct error *error)
{
	return 0;
}

int __wrap_lvm_check_group(const char *text, const char *group, struct error *error)
{
	return world->shared ? error_set(error, -EOPNOTSUPP, "other machines may change it") : 0;
}

int __wrap_lvm_read(const char *group, char **ret, struct error *error)
{
	*ret = strdup("");
	return 0;
}

int __wrap_lvm_exchange_text(const char *text, const struct lvm_pair *pair, char **ret, struct error *error)
{
	*ret = strdup("");
	return 0;
}

int __wrap_lvm_lock(const char *group, struct error *error)
{
	step();
	assert_false(world->locked);
	world->locked = true;
	return LOCKED;
}

/* Its command ends. */
static void lvm_resumes(void)
{
	struct made_up_device *consumer = find("consumer");

	consumer->live = consumer->waiting;
	consumer->waiting.count = 0;
	consumer->suspended = world->lvm_works = false;
}

int __wrap_lvm_lock_soon(const char *group, struct error *error)
{
	assert_string_equal(group, "group");
	if (world->lvm_hangs)
		return error_set(error, -EWOULDBLOCK, "cannot lock it");
	if (world->lvm_works)
		lvm_resumes();
	return __wrap_lvm_lock(group, error);
}

int __wrap_lvm_exchange(const struct lvm_pair *pair, struct error *error)
{
	assert_true(world->locked);
	step();
	world->exchanged = !world->exchanged;
	assert_false(world->copied[world->exchanged]);
	world->told = 3;
	step();
	return 0;
}

int __wrap_lvm_first(
    const char *text, const char *group, const char *volume, char *ret, unsigned length, struct error *error)
{
	snprintf(ret, length, "disk%u", world->exchanged);
	return 0;
}

/* The same mirror as one that knows which leg counts */

static int cut(void *data, struct move *move, struct error *error)
{
	assert_true(consumer_is_mirrored());
	step();
	world->switched = true;
	step();
	return 0;
}

static int uncut(void *data, struct move *move, struct error *error)
{
	step();
	world->switched = false;
	return 0;
}

static int leave(void *data, struct move *move, struct error *error)
{
	return world->switched ? 0 : -EIO;
}

static int was_cut(void *data, struct move *move, bool *ret, bool *ret_both, struct error *error)
{
	*ret = world->switched;
	*ret_both = !world->lacks[!world->switched] && !world->target_lacks;
	return world->forgotten ? error_set(error, -EPERM, "it is forgotten") : 0;
}

static int forget(void *data, struct move *move, struct error *error)
{
	step();
	world->switched = false;
	world->forgotten = true;
	step();
	return 0;
}
