/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The journal: what was noted is read again, whatever the last write left behind. */
#include "sync/journal.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#define HEADER 4096
#define RECORD 32

struct world {
	struct ring *ring;
	int fd;
};

static void set_done(void *data, int res)
{
	*(int *)data = res;
}

static void append(struct world *world, struct journal *journal, uint64_t offset, uint64_t length)
{
	struct range_set set;
	int res = 1;

	range_set_init(&set);
	assert_int_equal(range_set_add(&set, offset, length), 0);
	journal_append(journal, &set, set_done, &res);
	range_set_done(&set);
	while (res == 1)
		assert_int_equal(world->ring->ops->step(world->ring), 0);
	assert_int_equal(res, 0);
}

static struct world world_new(const char *description, unsigned records, const char *mark)
{
	struct world world = {.fd = memfd_create("journal", MFD_CLOEXEC)};
	struct journal *journal;
	struct error error;

	assert_int_equal(ring_new(&world.ring, 8, &error), 0);
	assert_int_equal(journal_new(&journal, world.ring, world.fd, description, &error), 0);
	for (unsigned i = 0; i < records; i++)
		append(&world, journal, i * 2000, 1000);
	if (mark)
		assert_int_equal(journal_note_mark(journal, mark), 0);
	journal_free(journal);
	return world;
}

/* How many ranges are read, or -errno. */
static int load(struct world *world, struct journal **ret)
{
	char description[JOURNAL_DESCRIPTION_MAX];
	struct range_set done;
	struct error error = {0};
	int res;

	range_set_init(&done);
	res = journal_load(ret, world->ring, world->fd, description, &done, &error);
	if (res == 0) {
		assert_string_equal(description, "{\"a\":1}");
		res = (int)done.count;
	} else {
		assert_true(error.text[0]);
	}
	range_set_done(&done);
	return res;
}

static void world_done(struct world *world)
{
	ring_free(world->ring);
	close(world->fd);
}

static void test_round_trip(void **state)
{
	/* 3000 records are more than one read takes. */
	static const unsigned counts[] = {0, 1, 2, 3000};

	for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++) {
		struct world world = world_new("{\"a\":1}", counts[i], NULL);
		struct journal *journal;

		assert_int_equal(load(&world, &journal), counts[i]);
		assert_true(journal_mark_fits(journal, "anything"));
		append(&world, journal, 1u << 30, 5);
		journal_free(journal);
		assert_int_equal(load(&world, &journal), counts[i] + 1);
		journal_free(journal);
		world_done(&world);
	}
}

static void test_torn_end(void **state)
{
	for (int cut = 1; cut <= RECORD; cut++) {
		struct world world = world_new("{\"a\":1}", 5, NULL);
		struct journal *journal;

		assert_int_equal(ftruncate(world.fd, HEADER + 5 * RECORD - cut), 0);
		assert_int_equal(load(&world, &journal), 4);
		/* What follows overwrites the torn rest. */
		append(&world, journal, 1u << 30, 5);
		journal_free(journal);
		assert_int_equal(load(&world, &journal), 5);
		journal_free(journal);
		world_done(&world);
	}
}

static void flip(struct world *world, off_t at)
{
	unsigned char byte;

	assert_int_equal(pread(world->fd, &byte, 1, at), 1);
	byte ^= 0x10;
	assert_int_equal(pwrite(world->fd, &byte, 1, at), 1);
}

static void test_damage(void **state)
{
	for (off_t at = 0; at < HEADER + 3 * RECORD; at += at < 40 || at >= HEADER - 8 ? 1 : 97) {
		struct world world = world_new("{\"a\":1}", 3, NULL);
		struct journal *journal;
		int res;

		flip(&world, at);
		res = load(&world, &journal);
		assert_int_equal(res, at < HEADER ? -EBADMSG : (at - HEADER) / RECORD);
		if (res >= 0)
			journal_free(journal);
		world_done(&world);
	}
}

static void test_mark(void **state)
{
	struct world world = world_new("{\"a\":1}", 2, "ctime 5");
	struct journal *journal;

	assert_int_equal(load(&world, &journal), 2);
	assert_true(journal_mark_fits(journal, "ctime 5"));
	assert_false(journal_mark_fits(journal, "ctime 6"));
	assert_false(journal_mark_fits(journal, ""));
	/* A run that goes on writes to the target: the mark is history. */
	append(&world, journal, 1u << 30, 5);
	journal_free(journal);
	assert_int_equal(load(&world, &journal), 3);
	assert_true(journal_mark_fits(journal, "ctime 6"));
	journal_free(journal);
	world_done(&world);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_round_trip),
	    cmocka_unit_test(test_torn_end),
	    cmocka_unit_test(test_damage),
	    cmocka_unit_test(test_mark),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
