/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The marks of a map that is not to be believed: made when it is lost, and not for a mirror that has ended. In /var/tmp, as always. */
#include "cli/mirror_trust.h"

#include <inttypes.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

#define LOOKS    500
#define PAUSE_US 20000

struct world {
	char folder[64], mark[64];
	struct mirror_files files;
};

static void world_init(struct world *world)
{
	char run_dir[80];

	snprintf(world->folder, sizeof(world->folder), "/tmp/blkmove-trust-XXXXXX");
	assert_non_null(mkdtemp(world->folder));
	snprintf(run_dir, sizeof(run_dir), "%s/run", world->folder);
	assert_int_equal(setenv("BLKMOVE_RUN_DIR", run_dir, 1), 0);
	assert_int_equal(mirror_files_open(&world->files, world->folder, "m", true, NULL), 0);
	assert_int_equal(mirror_trust_begin(&world->files, NULL), 0);
	assert_true(mirror_trust_check(&world->files));
	snprintf(world->mark, sizeof(world->mark), "/var/tmp/blkmove-%016" PRIx64 ".untrusted",
	    world->files.trust);
}

static void world_done(struct world *world)
{
	char line[80];

	mirror_files_close(&world->files);
	snprintf(line, sizeof(line), "rm -r %s", world->folder);
	assert_int_equal(system(line), 0);
}

static bool is_marked(const struct world *world)
{
	return access(world->mark, F_OK) == 0 && faccessat(world->files.dir_fd, "untrusted", F_OK, 0) == 0;
}

static void test_h11_a_lost_map_is_marked_until_it_is_forgotten(void **state)
{
	struct world world;

	world_init(&world);
	mirror_trust_lose(&world.files);
	assert_false(mirror_trust_check(&world.files));
	for (unsigned i = 0; i < LOOKS && !is_marked(&world); i++)
		usleep(PAUSE_US);
	assert_true(is_marked(&world));
	mirror_trust_forget(&world.files);
	assert_int_not_equal(access(world.mark, F_OK), 0);
	world_done(&world);
}

/* The map was lost while nobody wrote: a client does so when the mirror has ended and nothing is left to be believed. */
static void test_what_has_ended_is_not_marked(void **state)
{
	struct world world;

	world_init(&world);
	mirror_trust_forget(&world.files);
	mirror_trust_lose(&world.files);
	for (unsigned i = 0; i < LOOKS / 20; i++) {
		assert_int_not_equal(access(world.mark, F_OK), 0);
		usleep(PAUSE_US);
	}
	world_done(&world);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_h11_a_lost_map_is_marked_until_it_is_forgotten),
	    cmocka_unit_test(test_what_has_ended_is_not_marked),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
