/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What dm.c asks device-mapper for, by a libdevmapper that is made up: in the place of the library's own functions. */
#include "attach/dm.h"

#include <errno.h>
#include <libdevmapper.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

struct dm_task {
	int type;
	bool read_only;
};

static bool is_read_only; /* the device */
static bool is_there;
static unsigned loaded; /* tables */

struct dm_task *dm_task_create(int type)
{
	struct dm_task *task = calloc(1, sizeof(*task));

	task->type = type;
	return task;
}

void dm_task_destroy(struct dm_task *task)
{
	free(task);
}

int dm_task_set_name(struct dm_task *task, const char *name)
{
	assert_string_equal(name, "device");
	return 1;
}

const char *dm_task_get_name(const struct dm_task *task)
{
	return "device";
}

const char *dm_task_get_uuid(const struct dm_task *task)
{
	return "";
}

int dm_task_get_errno(struct dm_task *task)
{
	return EIO;
}

int dm_task_get_info(struct dm_task *task, struct dm_info *ret)
{
	*ret = (struct dm_info){.exists = is_there, .read_only = is_read_only};
	return 1;
}

int dm_task_add_target(
    struct dm_task *task, uint64_t start, uint64_t size, const char *type, const char *params)
{
	return 1;
}

int dm_task_secure_data(struct dm_task *task)
{
	return 1;
}

int dm_task_skip_lockfs(struct dm_task *task)
{
	return 1;
}

int dm_task_set_cookie(struct dm_task *task, uint32_t *cookie, uint16_t flags)
{
	return 1;
}

int dm_udev_wait(uint32_t cookie)
{
	return 1;
}

int dm_task_set_ro(struct dm_task *task)
{
	task->read_only = true;
	return 1;
}

/* As the kernel: the device is what its last table says. */
int dm_task_run(struct dm_task *task)
{
	if (task->type != DM_DEVICE_RELOAD)
		return 1;
	loaded++;
	is_read_only = task->read_only;
	return 1;
}

static void test_read_only_stays_so(void **state)
{
	struct dm_table table = {0};
	struct error error;

	is_there = true;
	assert_int_equal(dm_table_add(&table, 0, 77, "linear", "8:1 0"), 0);
	for (unsigned i = 0; i < 2; i++) {
		is_read_only = i == 1;
		assert_int_equal(dm_load("device", false, &table, &error), 0);
		assert_int_equal(is_read_only, i == 1);
		assert_int_equal(dm_swap("device", true, &table, NULL, NULL, NULL, &error), 0);
		assert_int_equal(is_read_only, i == 1);
	}
	assert_int_equal(loaded, 4);
	is_there = false;
	assert_int_equal(dm_load("device", false, &table, &error), -ENXIO);
	assert_int_equal(loaded, 4);
	dm_table_done(&table);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_read_only_stays_so)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
