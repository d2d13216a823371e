/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A mirror that begins with what a tracker says changed: only that is dirty; the rest is the same, though nobody looked. */
#include "block/memory.h"
#include "sync/mirror_job.h"
#include "volume.h"

#include <setjmp.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#define SIZE   ((1u << 20) + 4608u)
#define REGION 4096u
/* One region, four, and the last, of which a part is there. */
#define CHANGED_REGIONS 6u

static struct world {
	struct ring *ring;
	struct block *legs[MIRROR_LEGS];
	struct mirror_job *job;
	int map_fd;
	int known; /* what changes() answers */
} world;

static int open_leg(void *data, enum mirror_leg_index leg, struct block **ret, struct error *error)
{
	*ret = world.legs[leg];
	return 0;
}

static int open_map(void *data, bool create)
{
	return world.map_fd;
}

static void state_changed(void *data, enum cutover_state state)
{
	if (state == CUTOVER_READY)
		mirror_job_stop(world.job);
}

static int changes(
    void *data, struct block *source, struct block *target, struct range_set *ret, struct error *error)
{
	assert_ptr_equal(source, world.legs[MIRROR_SOURCE]);
	assert_ptr_equal(target, world.legs[MIRROR_TARGET]);
	if (world.known < 0)
		return error_set(error, world.known, "the link broke");
	if (world.known == 0)
		return 0;
	assert_int_equal(range_set_add(ret, 5000, 1), 0);
	assert_int_equal(range_set_add(ret, 77777, 9000), 0);
	assert_int_equal(range_set_add(ret, SIZE - 1, 1), 0);
	return 1;
}

static void make_legs(uint8_t *content)
{
	struct rand rand;

	rand_init(&rand, 1);
	rand_bytes(&rand, content, SIZE);
	for (int i = 0; i < MIRROR_LEGS; i++) {
		assert_int_equal(memory_new(&world.legs[i], world.ring, SIZE, NULL, NULL), 0);
		assert_int_equal(memory_poke(world.legs[i], 0, content, SIZE), 0);
	}
	for (unsigned at = 77777; at < 77777 + 9000; at++)
		content[at] ^= 1;
	content[5000] ^= 1;
	content[SIZE - 1] ^= 1;
	assert_int_equal(memory_poke(world.legs[MIRROR_SOURCE], 0, content, SIZE), 0);
}

/* Returns what opening said; else fills what was dirty at first. */
static int begin(uint64_t *ret_dirty)
{
	const struct mirror_job_options options = {.nonce = 1,
	    .region_size = REGION,
	    .open_leg = open_leg,
	    .open_map = open_map,
	    .changes = changes,
	    .state_changed = state_changed};
	struct mirror_job_status status;
	struct error error;
	int res;

	assert_int_equal(mirror_job_new(&world.job, world.ring, &options, NULL), 0);
	res = mirror_job_open(world.job, &error);
	if (res == 0) {
		mirror_job_status(world.job, &status);
		*ret_dirty = status.dirty;
	}
	return res;
}

static void check(int known, uint64_t dirty, uint64_t copied)
{
	static uint8_t content[SIZE], got[SIZE];
	struct mirror_job_status status;
	struct error error;
	uint64_t begun;

	world = (struct world){.known = known, .map_fd = memfd_create("map", MFD_CLOEXEC)};
	assert_int_equal(ring_new(&world.ring, 64, NULL), 0);
	make_legs(content);
	assert_int_equal(begin(&begun), known < 0 ? known : 0);
	if (known >= 0) {
		assert_int_equal(begun, dirty);
		assert_int_equal(mirror_job_run(world.job, &error), CUTOVER_READY);
		mirror_job_status(world.job, &status);
		assert_int_equal(status.copied, copied);
		memory_peek(world.legs[MIRROR_TARGET], 0, got, SIZE);
		assert_memory_equal(got, content, SIZE);
	}
	mirror_job_free(world.job);
	ring_free(world.ring);
	close(world.map_fd);
}

static void test_known_changes_begin_the_map(void **state)
{
	check(1, CHANGED_REGIONS * REGION, (CHANGED_REGIONS - 1) * REGION + SIZE % REGION);
}

static void test_h14_what_is_not_known_is_all(void **state)
{
	check(0, SIZE, SIZE);
}

static void test_a_source_that_is_lost(void **state)
{
	check(-ENOTCONN, 0, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_known_changes_begin_the_map),
	    cmocka_unit_test(test_h14_what_is_not_known_is_all),
	    cmocka_unit_test(test_a_source_that_is_lost),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
