/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A move by the kernel's mirror, and by one that can switch, killed at each of its steps, with and without a restart of the machine, over a device-mapper, and an LVM, that are made up: tables
 * that lead to two disks, of which each holds the number of the last write, and page caches of the legs. Somebody writes before each step. Each run is a process.
 */
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
	unsigned cached[2];  /* in the page cache of a leg, not written back yet; 0: nothing */
	unsigned steps_left; /* 0: nobody is killed */
	unsigned boot;
	bool switches, switched; /* of the engine */
	bool lvm, exchanged;     /* what LVM's metadata say */
} * world;

static const char *const legs[2] = {"consumer-blkmove-old", "consumer-blkmove-new"};
static char state_dir[] = "/tmp/blkmove-XXXXXX";

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

	return dm_params_next_device(table->params[0], &at, &device) && major(device) == MAPPED;
}

static void write_something(void)
{
	unsigned to = find("consumer") ? consumer_leads() : 0;

	if (to)
		world->written++;
	for (unsigned i = 0; i < 2; i++) {
		if (!(to & (1u << i)))
			continue;
		/* A mirror that is a process writes parts of pages so. */
		if (world->switches && consumer_is_mirrored())
			world->cached[i] = world->written;
		else
			world->data[i] = world->written;
	}
}

static void write_back(unsigned disk)
{
	if (world->cached[disk])
		world->data[disk] = world->cached[disk];
	world->cached[disk] = 0;
}

static void step(void)
{
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
	find(name)->waiting.count = 0;
	return 0;
}

int dm_suspend(const char *name, struct error *error)
{
	step();
	find(name)->suspended = true;
	return 0;
}

int dm_resume(const char *name, struct error *error)
{
	struct made_up_device *device = find(name);
	bool mirror = false;

	step();
	if (device->waiting.count)
		device->live = device->waiting;
	device->waiting.count = 0;
	device->suspended = false;
	/* It copies at once. */
	leads(&device->live, &mirror);
	for (unsigned i = 0; mirror && i < 2; i++)
		write_back(i);
	if (mirror)
		world->data[1] = world->data[0] > world->data[1] ? world->data[0] : world->data[1];
	return 0;
}

static int make_device(const char *name, const char *uuid, const struct dm_table *table, struct error *error)
{
	unsigned i = 0;
	int res;

	step();
	assert_null(find(name));
	while (world->devices[i].exists)
		i++;
	world->devices[i] = (struct made_up_device){.exists = true, .suspended = false};
	snprintf(world->devices[i].name, DM_NAME_MAX, "%s", name);
	snprintf(world->devices[i].uuid, DM_NAME_MAX, "%s", uuid);
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
	assert_int_equal(dm_load(name, secrets, table, error), 0);
	assert_int_equal(dm_suspend(name, error), 0);
	if (look)
		assert_int_equal(look(data, error), 0);
	return dm_resume(name, error);
}

/* In the place of the rest of the machine */

bool __wrap_sysfs_boot_id(char *ret, size_t length);
bool __wrap_inspect_device_id(dev_t dev, char *ret, unsigned length);
int __wrap_sysfs_device_line(dev_t dev, const char *name, char *ret, size_t length);
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
int __real_fsync(int fd);
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

int __wrap_move_record_save(struct move_record *record, const struct move_folder *folder, struct error *error)
{
	int res;

	step();
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
	return fd >= FD && fd <= FD + 2 ? 0 : __real_close(fd);
}

int __wrap_fsync(int fd)
{
	if (fd <= FD || fd > FD + 2)
		return __real_fsync(fd);
	write_back((unsigned)(fd - FD - 1));
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
int __wrap_lvm_read(const char *group, char **ret, struct error *error);
int __wrap_lvm_exchange_text(const char *text, const struct lvm_pair *pair, char **ret, struct error *error);
int __wrap_lvm_exchange(const struct lvm_pair *pair, struct error *error);
int __wrap_lvm_first(
    const char *text, const char *group, const char *volume, char *ret, unsigned length, struct error *error);

bool __wrap_lvm_name(const char *name, const char *uuid, char *ret_group, char *ret_volume)
{
	snprintf(ret_group, LVM_NAME_MAX, "group");
	snprintf(ret_volume, LVM_NAME_MAX, "%s", name);
	return !strncmp(uuid, "LVM-", 4);
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

int __wrap_lvm_exchange(const struct lvm_pair *pair, struct error *error)
{
	step();
	world->exchanged = !world->exchanged;
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
	step();
	world->switched = true;
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

static int forget(void *data, struct move *move, struct error *error)
{
	step();
	world->switched = false;
	return 0;
}

/* Runs */

enum order { BEGIN, RESUME, UNDO, UNDO_KEEP_OLD };

static int run(enum order order, enum move_until until)
{
	struct move_dm_mirror_options dm = {0};
	struct move_engine engine = move_dm_mirror;
	struct move_options options = {.state_dir = state_dir, .engine = &engine, .engine_data = &dm};
	struct move *move = NULL;
	enum move_until reached;
	struct error error;
	int res;

	if (world->switches) {
		engine.switches = true;
		engine.cut = cut;
		engine.uncut = uncut;
		engine.leave = leave;
		engine.forget = forget;
	}
	res = order == BEGIN ? move_begin(&move, "/dev/mapper/consumer", NEW, false, false, &options, &error)
	                     : move_continue(&move, "consumer", &options, &error);

	if (res == 0)
		res = order >= UNDO ? move_undo(move, order == UNDO_KEEP_OLD, &error)
		                    : move_forward(move, until, &reached, &error);
	move_free(move);
	return res;
}

/* Returns whether it was killed. */
static bool run_and_kill(enum order order, enum move_until until, unsigned at)
{
	int status;
	pid_t child = fork();

	if (child == 0) {
		world->steps_left = at;
		_exit(run(order, until) == 0 ? 0 : 1);
	}
	assert_int_equal(waitpid(child, &status, 0), child);
	world->steps_left = 0;
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) != 1);
	return WEXITSTATUS(status) == KILLED;
}

static void set_up_one(const char *name, const char *uuid, bool crypt, unsigned disk)
{
	struct dm_table table = {0};
	struct error error;
	char params[96];

	snprintf(params, sizeof(params), crypt ? "aes 00 0 %u:%u 0" : "%u:%u 0", DISK, world->minors[disk]);
	assert_int_equal(dm_table_add(&table, 0, SECTORS, crypt ? "crypt" : "linear", params), 0);
	assert_int_equal(make_device(name, uuid, &table, &error), 0);
	dm_table_done(&table);
}

static void set_up(bool crypt, unsigned disk)
{
	set_up_one("consumer", world->lvm ? "LVM-consumer" : "", crypt, disk);
	if (world->lvm)
		set_up_one("target", "LVM-target", false, 1 - disk);
}

/* Memory is lost; disks have each other's numbers. Who owns the device leads it where it led; LVM, where its metadata say. */
static void restart(bool crypt)
{
	unsigned led = consumer_leads(), minor_number = world->minors[0];

	for (unsigned i = 0; i < DEVICES; i++)
		world->devices[i].exists = false;
	/* The user had flushed all that he wrote. */
	for (unsigned i = 0; i < 2; i++)
		write_back(i);
	world->minors[0] = world->minors[1];
	world->minors[1] = minor_number;
	world->boot++;
	set_up(crypt, world->lvm ? world->exchanged : led == 2);
	assert_int_equal(world->data[consumer_leads() - 1], world->written);
}

static bool is_known(void)
{
	char path[200];

	snprintf(path, sizeof(path), "%s/moves/consumer/record.json", state_dir);
	return access(path, F_OK) == 0;
}

static void finish(bool crypt, enum order onward)
{
	int res = is_known() ? run(onward, MOVE_UNTIL_MOVED) : 0;

	if (res == 0)
		return;
	/* The other way is left; or, after a restart, one of two ways out that are the owner's. */
	assert_int_equal(res, -EPERM);
	res = run(onward == RESUME ? UNDO : RESUME, MOVE_UNTIL_MOVED);
	if (res == 0)
		return;
	assert_int_equal(res, -EPERM);
	if (onward == RESUME) {
		find("consumer")->exists = false;
		set_up(crypt, 1);
	}
	assert_int_equal(run(onward == RESUME ? RESUME : UNDO_KEEP_OLD, MOVE_UNTIL_MOVED), 0);
}

static void check_end(void)
{
	unsigned count = 0, led = consumer_leads();

	for (unsigned i = 0; i < DEVICES; i++)
		count += world->devices[i].exists;
	assert_int_equal(count, world->lvm ? 2 : 1);
	if (world->lvm) {
		bool mirror = false;

		assert_false(find("target")->suspended);
		assert_int_equal(leads(&find("target")->live, &mirror), 3 - led);
		assert_int_equal(world->exchanged, led == 2);
	}
	/* The table that a key was tried with, before there was a move, may wait: it is the same. */
	if (find("consumer")->waiting.count)
		assert_memory_equal(
		    &find("consumer")->waiting, &find("consumer")->live, sizeof(struct made_up_table));
	assert_true(led == 1 || led == 2);
	assert_int_equal(world->data[led - 1], world->written);
	assert_false(is_known());
}

static void begin_anew(bool crypt, bool switches, bool lvm)
{
	*world =
	    (struct world){.minors = {1, 2}, .data = {1, 0}, .written = 1, .switches = switches, .lvm = lvm};
	set_up(crypt, 0);
}

/* Returns false when the command came to its end before step `at`. */
static bool one_run(unsigned variant, enum order killed, enum order onward, unsigned at)
{
	bool crypt = variant & 1, restarts = variant & 2, switches = variant & 4, lvm = variant & 8,
	     was_killed;

	begin_anew(crypt && !lvm, switches, lvm);
	if (killed != BEGIN)
		assert_int_equal(run(BEGIN, switches ? MOVE_UNTIL_SWITCHED : MOVE_UNTIL_SYNCED), 0);
	was_killed = run_and_kill(killed, MOVE_UNTIL_MOVED, at);
	if (restarts)
		restart(crypt && !lvm);
	finish(crypt, onward);
	check_end();
	/* And another move. */
	if (consumer_leads() == 1) {
		assert_int_equal(run(BEGIN, MOVE_UNTIL_MOVED), 0);
		check_end();
		assert_int_equal(consumer_leads(), 2);
	}
	return was_killed;
}

static void test_h22_h25_h27_each_step(void **state)
{
	for (unsigned variant = 0; variant < 96; variant++) {
		enum order onward = variant & 16 ? UNDO : RESUME, killed = (enum order)(variant / 32);
		unsigned at = 1;

		while (one_run(variant, killed, onward, at))
			at++;
		assert_true(at > 8);
	}
}

static int make_world(void **state)
{
	world = mmap(NULL, sizeof(*world), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	return world == MAP_FAILED || !mkdtemp(state_dir);
}

static int end_world(void **state)
{
	char command[100];

	snprintf(command, sizeof(command), "rm -rf %s", state_dir);
	return system(command);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_h22_h25_h27_each_step)};

	return cmocka_run_group_tests(tests, make_world, end_world);
}
