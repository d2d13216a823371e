/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Snapshots of a plain device of device-mapper's. Its table goes to a device of its own, NAME-blkmove-real, and the device itself gets the table "snapshot-origin"
 * over that, under whoever uses it; with the last snapshot that is taken back. What is overwritten goes to one half of the store for each snapshot.
 */
#include "block/dm.h"

#include "attach/dm.h"
#include "base/cleanup.h"
#include "snapshot/snapshot_place.h"
#include "snapshot/snapshot_private.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

/* Names: NAME-blkmove-real, and of a series NAME-blkmove-ID-0, NAME-blkmove-ID-store0... */
static void real_name(const struct snapshot *snapshot, char ret[DM_NAME_MAX])
{
	snprintf(ret, DM_NAME_MAX, "%.100s-blkmove-real", snapshot->record.device);
}

static void slot_name(const struct snapshot *snapshot, const char *what, unsigned slot, char ret[DM_NAME_MAX])
{
	snprintf(ret, DM_NAME_MAX, "%.90s-blkmove-%.8s-%s%u", snapshot->record.device, snapshot->record.id,
	    what, slot);
}

static int table_failed(struct snapshot *snapshot, int res, struct error *error)
{
	return res < 0 ? error_prefix(error, "no snapshot of %s can be made", snapshot->options.source) : 0;
}

/* Sets place.inserted, origin, sectors: what the device leads to now. */
static int look_at_table(struct snapshot *snapshot, struct error *error)
{
	struct snapshot_dm_place *place = &snapshot->place;
	struct dm_table table;
	size_t at, length;
	int res = dm_get_table(snapshot->source.name, false, &table, error);

	if (res < 0)
		return res;
	place->sectors = dm_table_length(&table);
	place->inserted = dm_table_is(&table, "snapshot-origin") &&
	                  dm_params_device(table.targets[0].params, &at, &length, &place->origin) == 0;
	if (!place->inserted && !dm_table_is_plain(&table) && !dm_table_is(&table, "crypt"))
		res = error_set(error, -EPERM,
		    "its table has a target %s, and it can be linear, striped or crypt; make the snapshot "
		    "yourself, "
		    "and sync that",
		    table.count ? table.targets[0].type : "of no kind");
	dm_table_wipe(&table);
	return table_failed(snapshot, res, error);
}

/* A base is one as long as the device has led to its origin without a gap: another table, and nobody took note of what was written. */
static int check_base(struct snapshot *snapshot, struct error *error)
{
	const struct snapshot_dm_place *place = &snapshot->place;
	struct dm_volume base;
	struct error why;
	dev_t dev, origin;

	if (!snapshot->record.base[0])
		return 0;
	if (place->inserted && dm_find(snapshot->record.base, &dev, &why) == 0 &&
	    dm_table(dev, &base, &why) == 0 && dm_word_device(&base, 0, &origin) && origin == place->origin)
		return 0;
	snapshot_say(snapshot, "%s was given another table since, so that %s is no base any more",
	    snapshot->source.name, snapshot->record.base);
	return snapshot_settle(snapshot, SNAPSHOT_KEEP_NONE, error);
}

/* The store of a slot lies there already: it was looked at when that was made. */
static bool is_ours(const struct snapshot *snapshot, unsigned slot, dev_t store)
{
	char name[DM_NAME_MAX];
	struct dm_table table;
	struct error ignored;
	size_t at, length;
	dev_t device = 0;
	bool ours;

	slot_name(snapshot, "store", slot, name);
	if (dm_get_table(name, false, &table, &ignored) < 0)
		return false;
	ours = table.count == 1 && dm_params_device(table.targets[0].params, &at, &length, &device) == 0 &&
	       device == store;
	dm_table_wipe(&table);
	return ours;
}

static int look_at_store(struct snapshot *snapshot, struct error *error)
{
	struct snapshot_dm_place *place = &snapshot->place;
	const char *store = snapshot->options.store;
	_cleanup_(cleanup_close) int fd = store ? open(store, O_RDONLY | O_CLOEXEC) : -1;
	uint64_t bytes = 0;
	struct stat facts;
	int res = 0;

	if (!store)
		return error_set(error, -EPERM,
		    "%s is none of LVM's volumes, so a snapshot of it has no place for what is overwritten: "
		    "name a "
		    "device for that with --snapshot-store=",
		    snapshot->options.source);
	if (fd < 0 || fstat(fd, &facts) < 0 || !S_ISBLK(facts.st_mode) || ioctl(fd, BLKGETSIZE64, &bytes) < 0)
		return error_set(error, -EPERM, "the store %s is no block device that can be opened", store);
	place->store = facts.st_rdev;
	res = snapshot_store_judge(
	    snapshot, fd, is_ours(snapshot, 0, place->store) || is_ours(snapshot, 1, place->store), error);
	if (res == 0 && snapshot_place_half(bytes / 512, place->slot, &place->begin, &place->length) < 0)
		res = error_set(error, -EPERM,
		    "the store %s is too small: it takes two snapshots, of %u MiB each at least", store,
		    SNAPSHOT_STORE_LEAST / 2048);
	return res;
}

static int prepare(struct snapshot *snapshot, struct error *error)
{
	struct snapshot_dm_place *place = &snapshot->place;
	char name[DM_NAME_MAX];
	int res = look_at_table(snapshot, error);

	if (res == 0)
		res = check_base(snapshot, error);
	if (res < 0)
		return res;
	slot_name(snapshot, "", 0, name);
	place->slot = strcmp(snapshot->record.base, name) == 0;
	res = look_at_store(snapshot, error);
	/* The settle of a lost base has taken the origin out. */
	if (res == 0)
		res = look_at_table(snapshot, error);
	if (res < 0)
		return res;
	slot_name(snapshot, "", place->slot, snapshot->record.fresh);
	snprintf(snapshot->path, sizeof(snapshot->path), "/dev/mapper/%s", snapshot->record.fresh);
	return 0;
}

/* The kernel takes zeros for an empty store. */
static int wipe_header(const char *name, struct error *error)
{
	_cleanup_(cleanup_free) void *zeros = NULL;
	_cleanup_(cleanup_close) int fd = -1;
	const size_t length = SNAPSHOT_CHUNK * 512;
	char path[DM_NAME_MAX + 16];

	snprintf(path, sizeof(path), "/dev/mapper/%s", name);
	if (posix_memalign(&zeros, 4096, length) != 0)
		return error_set(error, -ENOMEM, "cannot write to %s: out of memory", path);
	memset(zeros, 0, length);
	fd = open(path, O_WRONLY | O_DIRECT | O_CLOEXEC);
	if (fd < 0 || pwrite(fd, zeros, length, 0) != (ssize_t)length || fsync(fd) < 0)
		return error_set(error, errno ? -errno : -EIO, "cannot write to %s: %s", path,
		    strerror(errno ? errno : EIO));
	return 0;
}

/* `now`: the table of what is to be the origin, with its keys. */
static int make_store(struct snapshot *snapshot, const struct dm_table *now, struct error *error)
{
	const struct snapshot_dm_place *place = &snapshot->place;
	char name[DM_NAME_MAX];
	struct dm_table table;
	int res = snapshot_place_table(now, place->store, place->begin, place->length, &table, error);

	slot_name(snapshot, "store", place->slot, name);
	if (res < 0)
		return table_failed(snapshot, res, error);
	res = dm_create(name, &table, error);
	dm_table_wipe(&table);
	return res == 0 ? wipe_header(name, error) : res;
}

/* The device's own table under another name, unless another series has made that already. */
static int make_origin(struct snapshot *snapshot, const struct dm_table *now, struct error *error)
{
	struct snapshot_dm_place *place = &snapshot->place;
	char name[DM_NAME_MAX];
	struct dm_table there;
	struct dm_facts facts;
	struct error ignored;
	int res = 0;

	real_name(snapshot, name);
	if (dm_get_table(name, true, &there, &ignored) < 0) {
		res = dm_create(name, now, error);
	} else {
		if (!dm_table_equal(&there, now))
			res = error_set(error, -EEXIST,
			    "there is a device %s that leads elsewhere than %s; if nothing uses it, `dmsetup "
			    "remove` "
			    "it",
			    name, snapshot->source.name);
		dm_table_wipe(&there);
	}
	if (res == 0)
		res = dm_look(name, &facts, error);
	if (res == 0)
		place->origin = facts.device;
	return res;
}

/* Loaded, but not at work before the moment. From now on the origin is held. */
static int make_waiting(struct snapshot *snapshot, struct error *error)
{
	const struct snapshot_dm_place *place = &snapshot->place;
	char name[DM_NAME_MAX], params[80];
	struct dm_table table = {0};
	struct dm_facts store;
	int res;

	slot_name(snapshot, "store", place->slot, name);
	res = dm_look(name, &store, error);
	if (res < 0)
		return res;
	snprintf(params, sizeof(params), "%u:%u %u:%u P %u", major(place->origin), minor(place->origin),
	    major(store.device), minor(store.device), SNAPSHOT_CHUNK);
	if (dm_table_add(&table, 0, place->sectors, "snapshot", params) < 0)
		res = error_set(error, -ENOMEM, "cannot make a table: out of memory");
	if (res == 0)
		res = dm_create(snapshot->record.fresh, NULL, error);
	if (res == 0)
		res = dm_load(snapshot->record.fresh, false, &table, error);
	dm_table_done(&table);
	return res;
}

/* Of all series: while it is held nobody inserts an origin, or takes one out. */
static int lock_origins(const struct snapshot *snapshot, struct error *error)
{
	char path[sizeof(snapshot->folder) + 4];
	int fd;

	snprintf(path, sizeof(path), "%s/..", snapshot->folder);
	fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd >= 0 && flock(fd, LOCK_EX) == 0)
		return fd;
	error_set(error, -errno, "cannot lock %s: %s", path, strerror(errno));
	cleanup_close(&fd);
	return error->code;
}

static int ready(struct snapshot *snapshot, struct error *error)
{
	struct snapshot_dm_place *place = &snapshot->place;
	_cleanup_(cleanup_close) int lock = lock_origins(snapshot, error);
	struct dm_volume origin = {0};
	struct dm_table now = {0};
	int res = lock < 0 ? lock : look_at_table(snapshot, error);

	if (res == 0 && place->inserted && dm_is(place->origin))
		res = dm_table(place->origin, &origin, error);
	if (res == 0 && (!place->inserted || origin.name[0]))
		res = dm_get_table(place->inserted ? origin.name : snapshot->source.name, true, &now, error);
	if (res == 0)
		res = make_store(snapshot, &now, error);
	if (res == 0 && !place->inserted)
		res = make_origin(snapshot, &now, error);
	if (res == 0)
		res = make_waiting(snapshot, error);
	dm_table_wipe(&now);
	return res;
}

static int load_origin(struct snapshot *snapshot, struct error *error)
{
	const struct snapshot_dm_place *place = &snapshot->place;
	struct dm_table table = {0};
	char params[32];
	int res;

	snprintf(params, sizeof(params), "%u:%u", major(place->origin), minor(place->origin));
	if (dm_table_add(&table, 0, place->sectors, "snapshot-origin", params) < 0)
		return error_set(error, -ENOMEM, "cannot make a table: out of memory");
	res = dm_load(snapshot->source.name, false, &table, error);
	dm_table_done(&table);
	return res;
}

/* While the device is suspended nothing of ours may have to be read from it; if we are killed, the guard resumes it. */
static int begin_pause(struct snapshot_guard *guard, struct error *error)
{
	int res = snapshot_guard_suspending(guard, true, error);

	if (res == 0)
		(void)mlockall(MCL_CURRENT);
	return res;
}

/* `res`: what became of it meanwhile; the first error counts. */
static int end_pause(struct snapshot_guard *guard, int res, struct error *error)
{
	struct error why;
	int told;

	munlockall();
	told = snapshot_guard_suspending(guard, false, &why);
	if (res == 0 && told < 0) {
		*error = why;
		res = told;
	}
	return res;
}

static int moment(struct snapshot *snapshot, struct error *error)
{
	int res = begin_pause(&snapshot->guard, error);

	if (res < 0)
		return res;
	res = dm_moment(snapshot->source.name, snapshot->record.fresh, error);
	return end_pause(&snapshot->guard, res, error);
}

static int make(struct snapshot *snapshot, struct error *error)
{
	struct snapshot_dm_place *place = &snapshot->place;
	dev_t origin = place->origin;
	int res = place->inserted ? 0 : load_origin(snapshot, error);

	if (res == 0)
		res = moment(snapshot, error);
	if (res == 0)
		res = look_at_table(snapshot, error);
	if (res == 0 && (!place->inserted || place->origin != origin))
		res = error_set(error, -ESTALE,
		    "somebody else gave %s another table at this moment; run it again",
		    snapshot->source.name);
	return res;
}

static int remove_slot(struct snapshot *snapshot, unsigned slot, struct error *error)
{
	char name[DM_NAME_MAX];
	int res;

	slot_name(snapshot, "", slot, name);
	if (strcmp(name, snapshot->record.base) == 0 || strcmp(name, snapshot->record.fresh) == 0)
		return 0;
	res = dm_remove(name, error);
	slot_name(snapshot, "store", slot, name);
	return res < 0 ? res : dm_remove(name, error);
}

/* Of a run that was killed just before the moment: the table that leads to the origin was loaded, and holds that. */
static void drop_waiting(const char *name, dev_t origin)
{
	struct dm_table table;
	struct error ignored;
	size_t at, length;
	dev_t device;

	if (dm_get_waiting(name, &table, &ignored) < 0)
		return;
	if (dm_table_is(&table, "snapshot-origin") &&
	    dm_params_device(table.targets[0].params, &at, &length, &device) == 0 && device == origin)
		(void)dm_clear(name, &ignored);
	dm_table_done(&table);
}

static int restore_table(const char *device, const char *real, struct error *error)
{
	struct snapshot_guard guard = {.fd = -1, .device = device};
	struct dm_table table;
	int res = dm_get_table(real, true, &table, error);

	if (res == 0)
		res = snapshot_guard_start(&guard, error);
	if (res == 0)
		res = begin_pause(&guard, error);
	if (res == 0)
		res = end_pause(&guard, dm_swap(device, true, &table, NULL, NULL, NULL, error), error);
	snapshot_guard_end(&guard);
	dm_table_wipe(&table);
	return res;
}

/* Gives the device its own table again, if no snapshot of any series needs the origin any more. */
static int take_out(struct snapshot *snapshot, const char *name, struct error *error)
{
	struct dm_facts real, source;
	struct error ignored;
	bool there, led = false;
	int res;

	if (dm_look(name, &real, &ignored) < 0)
		return 0;
	there = dm_look(snapshot->record.device, &source, &ignored) == 0;
	if (there) {
		snapshot->source = source;
		(void)look_at_table(snapshot, &ignored);
		led = snapshot->place.inserted && snapshot->place.origin == real.device;
		drop_waiting(source.name, real.device);
	}
	res = dm_look(name, &real, error);
	if (res < 0 || (led && real.open_count > 1))
		return res;
	res = led ? restore_table(source.name, name, error) : 0;
	if (res == 0)
		res = dm_look(name, &real, error);
	return res < 0 || real.open_count > 0 ? res : dm_remove(name, error);
}

static int clear(struct snapshot *snapshot, struct error *error)
{
	_cleanup_(cleanup_close) int lock = lock_origins(snapshot, error);
	char name[DM_NAME_MAX];
	int res = lock < 0 ? lock : 0;

	for (unsigned slot = 0; slot < SNAPSHOT_SLOTS && res == 0; slot++)
		res = remove_slot(snapshot, slot, error);
	real_name(snapshot, name);
	if (res == 0 && !snapshot->record.base[0] && !snapshot->record.fresh[0])
		res = take_out(snapshot, name, error);
	return res < 0 ? error_prefix(error, "cannot remove snapshots of %s", snapshot->record.device) : 0;
}

const struct snapshot_kind snapshot_dm = {.name = "dm",
    .prepare = prepare,
    .ready = ready,
    .make = make,
    .clear = clear,
    .fill = snapshot_fill_own,
    .advice = "name a larger --snapshot-store=, or run it when less is written"};
