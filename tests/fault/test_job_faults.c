/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Every request of a job fails once. A whole job runs over volumes in memory; then it runs again and again,
 * each time with the next request of one kind failing. Each run must either say so, or have made the target
 * equal; and after a failed one, resume must end with an equal target. With a power cut in between, too.
 */
#include "base/rand.h"
#include "block/driver.h"
#include "block/memory.h"
#include "filter/fault.h"
#include "filter/powercut.h"
#include "sync/job.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#define SIZE ((3u << 20) + 777u)
#define MANY 10000u /* no job makes so many requests */

static uint64_t seed;

#define PIECE 32768u /* some dozens of runs, each of which gets its fault */

/* A volume that outlives the job which opened it. */
struct lent {
	struct block block;
	struct block *below;
	const bool *changed; /* of each piece, for BLOCK_CHANGED; or NULL */
};

static void lent_submit(struct block *block, struct block_io *io)
{
	struct lent *lent = container_of(block, struct lent, block);
	uint64_t left = PIECE - io->offset % PIECE;

	if (io->op == BLOCK_EXTENTS && io->flags & BLOCK_CHANGED) {
		io->extents[0] = (struct extent){io->offset, io->length < left ? io->length : left,
		    lent->changed[io->offset / PIECE] ? EXTENT_DATA : EXTENT_ZERO};
		block_complete_later(block, io, 1);
		return;
	}
	block_submit(lent->below, io);
}

static int lent_facts(struct block *block, struct block_facts *ret, struct error *error)
{
	return block_facts(container_of(block, struct lent, block)->below, ret, error);
}

static void lent_free(struct block *block)
{
	free(container_of(block, struct lent, block));
}

static const struct block_driver lent_driver = {
    .name = "lent", .submit = lent_submit, .facts = lent_facts, .free = lent_free};

static struct block *lend(struct block *below, const bool *changed)
{
	struct lent *lent = calloc(1, sizeof(*lent));

	assert_non_null(lent);
	lent->block = (struct block){.driver = &lent_driver, .ring = below->ring, .info = below->info};
	lent->block.info.tells_changes = changed;
	lent->below = below;
	lent->changed = changed;
	return &lent->block;
}

struct world {
	struct ring *ring;
	struct block *disks[2]; /* memory: source, target */
	struct block *power;    /* the target behind its volatile cache */
	int journal;
	bool tracked; /* the source tells what changed */
	bool changed[SIZE / PIECE + 1];
	bool faulty_target;
	struct fault_rule rule;
	unsigned hits;
	struct block *fault; /* while a job runs */
};

static void fill(struct world *world, struct rand *rand)
{
	static uint8_t block[PIECE];

	for (uint64_t at = 0; at < SIZE; at += sizeof(block)) {
		uint64_t length = SIZE - at < sizeof(block) ? SIZE - at : sizeof(block);
		bool hole = !rand_below(rand, 4);

		rand_bytes(rand, block, sizeof(block));
		if (!hole)
			assert_int_equal(memory_poke(world->disks[0], at, block, length), 0);
		world->changed[at / PIECE] = hole;
		/* H05: the target holds what it held before; a part of it is right already. */
		if (rand_below(rand, 2)) {
			rand_bytes(rand, block, sizeof(block));
			world->changed[at / PIECE] = true;
		}
		assert_int_equal(memory_poke(world->disks[1], at, block, length), 0);
	}
}

static struct world world_new(void)
{
	struct world world = {.journal = memfd_create("journal", MFD_CLOEXEC)};
	struct error error;
	struct rand rand;

	rand_init(&rand, seed);
	assert_true(world.journal >= 0);
	assert_int_equal(ring_new(&world.ring, 64, &error), 0);
	assert_int_equal(
	    memory_new(&world.disks[0], world.ring, SIZE,
	        &(struct memory_options){.name = "source", .read_only = true, .sector_size = 1}, &error),
	    0);
	assert_int_equal(memory_new(&world.disks[1], world.ring, SIZE,
	                     &(struct memory_options){.name = "target", .sector_size = 1}, &error),
	    0);
	fill(&world, &rand);
	assert_int_equal(powercut_new(&world.power, lend(world.disks[1], NULL), seed, &error), 0);
	return world;
}

static void world_done(struct world *world)
{
	block_free(world->power);
	block_free(world->disks[0]);
	block_free(world->disks[1]);
	ring_free(world->ring);
	close(world->journal);
}

static bool is_equal(const struct world *world)
{
	uint8_t *a = malloc(SIZE), *b = malloc(SIZE);
	bool equal;

	memory_peek(world->disks[0], 0, a, SIZE);
	memory_peek(world->disks[1], 0, b, SIZE);
	equal = !memcmp(a, b, SIZE);
	free(a);
	free(b);
	return equal;
}

static int open_block(void *data, bool target, const struct block_open_options *options, struct block **ret,
    struct error *error)
{
	struct world *world = data;
	struct block *block =
	    target ? lend(world->power, NULL) : lend(world->disks[0], world->tracked ? world->changed : NULL);

	if (target == world->faulty_target && world->rule.ops) {
		assert_int_equal(fault_new(&block, block, seed, error), 0);
		fault_add(block, &world->rule);
		world->fault = block;
	}
	*ret = block;
	return 0;
}

static int open_journal(void *data, bool create)
{
	struct world *world = data;

	if (create)
		assert_int_equal(ftruncate(world->journal, 0), 0);
	else if (lseek(world->journal, 0, SEEK_END) == 0)
		return -ENOENT;
	return world->journal;
}

static void remove_journal(void *data)
{
	assert_int_equal(ftruncate(((struct world *)data)->journal, 0), 0);
}

static enum job_result run(struct world *world, enum job_kind kind, bool verify, bool resume)
{
	static struct endpoint source = {.kind = ENDPOINT_NBD, .name = (char *)"source"};
	static struct endpoint target = {.kind = ENDPOINT_NBD, .name = (char *)"target"};
	struct job_options options = {.kind = kind,
	    .source = &source,
	    .target = &target,
	    .verify = verify,
	    .resume = resume,
	    .base = world->tracked ? "b0" : NULL,
	    .detect_zeroes = true,
	    .checkpoint_ns = 1,
	    .data = world,
	    .open_block = open_block,
	    .open_journal = open_journal,
	    .remove_journal = remove_journal};
	struct error error = {0};
	enum job_result result;
	struct job *job;

	world->fault = NULL;
	assert_int_equal(job_new(&job, world->ring, &options, &error), 0);
	result = job_run(job, &error);
	if (world->fault)
		world->hits = fault_hits(world->fault);
	if (result != JOB_OK && result != JOB_DIFFERS)
		assert_true(error.text[0]);
	job_free(job);
	return result;
}

/* One request fails: the run says so or has done its work, and resume finishes what it left. */
static unsigned one_fault(
    enum job_kind kind, bool tracked, bool target, const struct fault_rule *rule, bool cut)
{
	struct world world = world_new();
	enum job_result result;
	unsigned hits;

	world.tracked = tracked;
	world.faulty_target = target;
	world.rule = *rule;
	result = run(&world, kind, false, false);
	hits = world.hits;
	if (kind == JOB_VERIFY) {
		assert_int_not_equal(result, JOB_OK);
	} else if (result == JOB_OK) {
		assert_true(is_equal(&world));
	} else {
		world.rule.ops = 0;
		if (cut) {
			powercut_cut(world.power);
			powercut_restore(world.power);
		}
		assert_int_equal(run(&world, kind, false, true), JOB_OK);
		assert_true(is_equal(&world));
	}
	if (hits && rule->kind == FAULT_ERROR && rule->result < 0)
		assert_int_not_equal(result, JOB_OK); /* H02 */
	world_done(&world);
	return hits;
}

static void every_request_of(enum job_kind kind, bool tracked, bool target, enum block_op op,
    enum fault_kind fault, int result, bool cut)
{
	unsigned nth;

	for (nth = 1; nth < MANY; nth++) {
		struct fault_rule rule = {
		    .kind = fault, .result = result, .ops = 1u << op, .nth = nth, .times = 1};

		if (one_fault(kind, tracked, target, &rule, cut) == 0)
			break;
	}
	assert_true(nth < MANY);
}

static void every_request(
    enum job_kind kind, bool target, enum block_op op, enum fault_kind fault, int result, bool cut)
{
	every_request_of(kind, false, target, op, fault, result, cut);
}

static void test_h02_copy_faults(void **state)
{
	for (int cut = 0; cut < 2; cut++) {
		every_request(JOB_COPY, false, BLOCK_READ, FAULT_ERROR, -EIO, cut);
		every_request(JOB_COPY, false, BLOCK_EXTENTS, FAULT_ERROR, -EIO, cut);
		every_request(JOB_COPY, true, BLOCK_WRITE, FAULT_ERROR, -EIO, cut);
		every_request(JOB_COPY, true, BLOCK_WRITE, FAULT_ERROR, -ENOSPC, cut);
		every_request(JOB_COPY, true, BLOCK_WRITE, FAULT_ERROR_AFTER, -EIO, cut);
		every_request(JOB_COPY, true, BLOCK_ZERO, FAULT_ERROR, -EIO, cut);
		every_request(JOB_COPY, true, BLOCK_FLUSH, FAULT_ERROR, -EIO, cut);
		every_request(JOB_COPY, true, BLOCK_FLUSH, FAULT_ERROR_AFTER, -EIO, cut);
	}
}

static void test_h02_sync_faults(void **state)
{
	for (int cut = 0; cut < 2; cut++) {
		every_request(JOB_SYNC, false, BLOCK_READ, FAULT_ERROR, -EIO, cut);
		every_request(JOB_SYNC, false, BLOCK_DIGEST, FAULT_ERROR, -EIO, cut);
		every_request(JOB_SYNC, true, BLOCK_DIGEST, FAULT_ERROR, -EIO, cut);
		every_request(JOB_SYNC, true, BLOCK_EXTENTS, FAULT_ERROR, -EIO, cut);
		every_request(JOB_SYNC, true, BLOCK_WRITE, FAULT_ERROR, -EIO, cut);
		every_request(JOB_SYNC, true, BLOCK_FLUSH, FAULT_ERROR, -EIO, cut);
	}
}

/* By what a tracker says changed; what a failed run left is compared. */
static void test_h02_tracked_faults(void **state)
{
	for (int cut = 0; cut < 2; cut++) {
		every_request_of(JOB_SYNC, true, false, BLOCK_READ, FAULT_ERROR, -EIO, cut);
		every_request_of(JOB_SYNC, true, true, BLOCK_WRITE, FAULT_ERROR, -EIO, cut);
		every_request_of(JOB_SYNC, true, true, BLOCK_WRITE, FAULT_ERROR_AFTER, -EIO, cut);
		every_request_of(JOB_SYNC, true, true, BLOCK_ZERO, FAULT_ERROR, -EIO, cut);
		every_request_of(JOB_SYNC, true, true, BLOCK_FLUSH, FAULT_ERROR, -EIO, cut);
	}
}

static void test_verify_faults(void **state)
{
	every_request(JOB_VERIFY, false, BLOCK_DIGEST, FAULT_ERROR, -EIO, false);
	every_request(JOB_VERIFY, true, BLOCK_DIGEST, FAULT_ERROR, -EIO, false);
}

/* A read that lies, a write that is lost: --verify sees it, whichever request it was. */
static void test_h28_verify_sees_lies(void **state)
{
	static const struct {
		bool target;
		enum block_op op;
		enum fault_kind kind;
	} lies[] = {
	    {false, BLOCK_READ, FAULT_CORRUPT},
	    {true, BLOCK_WRITE, FAULT_ERROR}, /* result 0: acknowledged, not done */
	    {true, BLOCK_ZERO, FAULT_ERROR},
	};

	for (size_t i = 0; i < sizeof(lies) / sizeof(lies[0]); i++) {
		for (unsigned nth = 1; nth < MANY; nth++) {
			struct world world = world_new();
			enum job_result result;

			world.faulty_target = lies[i].target;
			world.rule = (struct fault_rule){
			    .kind = lies[i].kind, .ops = 1u << lies[i].op, .nth = nth, .times = 1};
			result = run(&world, JOB_COPY, true, false);
			assert_int_equal(result, is_equal(&world) ? JOB_OK : JOB_TROUBLE);
			unsigned hits = world.hits;

			world_done(&world);
			if (!hits)
				break;
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_h02_copy_faults),
	    cmocka_unit_test(test_h02_sync_faults),
	    cmocka_unit_test(test_h02_tracked_faults),
	    cmocka_unit_test(test_verify_faults),
	    cmocka_unit_test(test_h28_verify_sees_lies),
	};
	const char *text = getenv("BLKMOVE_SEED");

	seed = text ? strtoull(text, NULL, 0) : (uint64_t)time(NULL);
	printf("BLKMOVE_SEED=%llu\n", (unsigned long long)seed);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
