/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A live mirror whose authoritative leg lies behind a link that breaks, on a machine that may lose what it has not flushed. Each
 * client writes growing numbers to a place of its own: what was acknowledged is never followed by something older.
 */
#include "base/bytes.h"
#include "block/memory.h"
#include "filter/delay.h"
#include "filter/filter.h"
#include "ring/ring_sim.h"
#include "sync/mirror_job.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "job_run.h"

#define SIZE    ((1u << 20) + 4608u)
#define MS      UINT64_C(1000000)
#define CLIENTS 6u
#define PLACE   4096u

struct client {
	struct block_io io;
	uint8_t buf[PLACE];
	uint64_t issued, acknowledged, start_ns, longest_ns;
	unsigned errors;
	bool busy, reads;
	struct ring_op nap;
};

/* What outlives the blocks that lead there. */
struct far {
	uint8_t data[SIZE], stable[SIZE];
	char boot[16];
	bool away, bad;
	struct linked *linked;
};

struct linked {
	struct filter filter;
	struct far *far;
	struct block *memory;
	bool broken;
};

struct world {
	struct ring_sim *sim;
	struct ring *ring;
	struct rand rand;
	struct far far[MIRROR_LEGS];
	int map_fd;
	struct mirror_job *job;
	struct mirror_job_options options;
	struct error error;
	struct client clients[CLIENTS];
	bool serving;
	char warnings[8192];
	void (*on_state)(enum cutover_state state);
};

static struct world world;

/* The volume behind a link */

static void linked_answered(struct filter *filter, struct block_io *io, int res)
{
	struct linked *linked = container_of(filter, struct linked, filter);

	if (res == 0 && io->op == BLOCK_FLUSH)
		memory_peek(linked->memory, 0, linked->far->stable, SIZE);
	if (res == 0 && block_op_writes(io->op) && io->flags & BLOCK_FUA)
		memory_peek(linked->memory, io->offset, linked->far->stable + io->offset, io->length);
	if (io->op == BLOCK_READ && linked->far->bad)
		res = -EIO;
	block_complete(io, linked->broken ? -ENOTCONN : res);
}

static void linked_submit(struct block *block, struct block_io *io)
{
	struct linked *linked = container_of(filter_of(block), struct linked, filter);

	if (linked->broken)
		block_complete_later(block, io, -ENOTCONN);
	else
		filter_child(filter_of(block), io, linked_answered);
}

static int linked_facts(struct block *block, struct block_facts *ret, struct error *error)
{
	struct far *far = container_of(filter_of(block), struct linked, filter)->far;

	snprintf(ret->id, sizeof(ret->id), "volume %d", (int)(far - world.far));
	snprintf(ret->boot, sizeof(ret->boot), "%s", far->boot);
	return 0;
}

static int linked_link_error(struct block *block, struct error *error)
{
	return container_of(filter_of(block), struct linked, filter)->broken
	           ? error_set(error, -ENOTCONN, "the cable is out")
	           : 0;
}

static void linked_free(struct block *block)
{
	struct linked *linked = container_of(filter_of(block), struct linked, filter);

	/* One that lost its power has nothing else than what was stable. */
	if (linked->far->linked == linked) {
		memory_peek(linked->memory, 0, linked->far->data, SIZE);
		linked->far->linked = NULL;
	}
	filter_done(&linked->filter);
	free(linked);
}

static int open_leg(void *data, enum mirror_leg_index leg, struct block **ret, struct error *error)
{
	static const struct block_driver driver = {.name = "linked",
	    .submit = linked_submit,
	    .facts = linked_facts,
	    .link_error = linked_link_error,
	    .free = linked_free};
	static const struct delay_options delay = {.min_ns = 20000, .max_ns = 200000, .seed = 1};
	struct far *far = &world.far[leg];
	struct linked *linked;
	struct block *delayed;

	if (far->away)
		return error_set(error, -ENOTCONN, "nobody answers");
	linked = calloc(1, sizeof(*linked));
	assert_non_null(linked);
	assert_int_equal(memory_new(&linked->memory, world.ring, SIZE, NULL, NULL), 0);
	assert_int_equal(memory_poke(linked->memory, 0, far->data, SIZE), 0);
	assert_int_equal(delay_new(&delayed, linked->memory, &delay, NULL), 0);
	filter_init(&linked->filter, &driver, delayed);
	linked->filter.block.info.linked = linked->filter.block.info.fua = true;
	linked->far = far;
	far->linked = linked;
	*ret = &linked->filter.block;
	return 0;
}

static void break_link(enum mirror_leg_index leg)
{
	world.far[leg].away = true;
	if (world.far[leg].linked)
		world.far[leg].linked->broken = true;
}

static void break_source(void *data)
{
	break_link(MIRROR_SOURCE);
}

static void break_target(void *data)
{
	break_link(MIRROR_TARGET);
}

/* What was not flushed is gone, and it is another start of that machine. */
static void lose_power(enum mirror_leg_index leg)
{
	struct far *far = &world.far[leg];

	break_link(leg);
	far->linked = NULL;
	memcpy(far->data, far->stable, SIZE);
	far->boot[0]++;
}

static void source_loses_power(void *data)
{
	lose_power(MIRROR_SOURCE);
}

static void target_loses_power(void *data)
{
	lose_power(MIRROR_TARGET);
}

static void all_are_back(void *data)
{
	world.far[MIRROR_SOURCE].away = world.far[MIRROR_TARGET].away = false;
}

/* The job */

static int open_map(void *data, bool create)
{
	return world.map_fd;
}

static void warning(void *data, const char *text)
{
	strncat(world.warnings, text, sizeof(world.warnings) - strlen(world.warnings) - 1);
	strncat(world.warnings, "\n", sizeof(world.warnings) - strlen(world.warnings) - 1);
}

static void state_changed(void *data, enum cutover_state state)
{
	if (world.on_state)
		world.on_state(state);
}

static void world_init(void)
{
	const struct ring_sim_disk_options disk = {.size_max = 2 << 20};

	memset(&world, 0, sizeof(world));
	rand_init(&world.rand, 1);
	for (unsigned i = 0; i < MIRROR_LEGS; i++) {
		rand_bytes(&world.rand, world.far[i].data, SIZE);
		strcpy(world.far[i].boot, "a");
	}
	memset(world.far[MIRROR_SOURCE].data, 0, CLIENTS * (uint64_t)PLACE);
	for (unsigned i = 0; i < MIRROR_LEGS; i++)
		memcpy(world.far[i].stable, world.far[i].data, SIZE);
	world.sim = ring_sim_new(1, 0);
	world.ring = ring_sim_host_new(world.sim, "host");
	world.map_fd = ring_sim_disk_new(world.sim, &disk);
	world.options = (struct mirror_job_options){.nonce = 1,
	    .region_size = 4096,
	    .settle_ns = 400 * MS,
	    .retry_ns = 20 * MS,
	    .follower_timeout_ns = 500 * MS,
	    .source_timeout_ns = 2000 * MS,
	    .open_leg = open_leg,
	    .open_map = open_map,
	    .state_changed = state_changed,
	    .warning = warning};
}

/* Clients */

static void client_begin(struct client *client);
static void nap_done(struct ring_op *op, int res);

static uint64_t place_of(const struct client *client)
{
	return (uint64_t)(client - world.clients) * PLACE;
}

static void client_done(struct block_io *io, int res)
{
	struct client *client = container_of(io, struct client, io);
	uint64_t took_ns = ring_now_ns(world.ring) - client->start_ns;

	client->longest_ns = max_u64(client->longest_ns, took_ns);
	assert_true(res == 0 || res == -EIO);
	client->errors += res < 0;
	if (res == 0 && client->reads)
		assert_in_range(get_le64(client->buf), client->acknowledged, client->issued);
	else if (res == 0)
		client->acknowledged = client->issued;
	/* Whoever gets an error does not ask again at once. */
	client->nap = (struct ring_op){.opcode = RING_TIMER,
	    .deadline_ns = ring_now_ns(world.ring) + (res < 0 ? MS : 0),
	    .done = nap_done};
	ring_submit(world.ring, &client->nap);
}

static void nap_done(struct ring_op *op, int res)
{
	struct client *client = container_of(op, struct client, nap);

	client->busy = false;
	if (world.serving)
		client_begin(client);
}

static void client_begin(struct client *client)
{
	client->reads = rand_one_in(&world.rand, 3);
	client->io = (struct block_io){.op = client->reads ? BLOCK_READ : BLOCK_WRITE,
	    .offset = place_of(client),
	    .length = PLACE,
	    .buf = client->buf,
	    .done = client_done};
	if (!client->reads) {
		client->issued++;
		for (unsigned i = 0; i < PLACE; i += 8)
			put_le64(client->buf + i, client->issued);
	}
	client->start_ns = ring_now_ns(world.ring);
	client->busy = true;
	block_submit(mirror_job_block(world.job), &client->io);
}

static void serve(void)
{
	assert_int_equal(mirror_job_new(&world.job, world.ring, &world.options, NULL), 0);
	assert_int_equal(mirror_job_open(world.job, &world.error), 0);
	world.serving = true;
	for (unsigned i = 0; i < CLIENTS; i++)
		client_begin(&world.clients[i]);
}

static unsigned errors(void)
{
	unsigned count = 0;

	for (unsigned i = 0; i < CLIENTS; i++)
		count += world.clients[i].errors;
	return count;
}

static uint64_t longest_ns(void)
{
	uint64_t longest = 0;

	for (unsigned i = 0; i < CLIENTS; i++)
		longest = max_u64(longest, world.clients[i].longest_ns);
	return longest;
}

static uint64_t acknowledged(void)
{
	uint64_t count = 0;

	for (unsigned i = 0; i < CLIENTS; i++)
		count += world.clients[i].acknowledged;
	return count;
}

/* Nothing is waiting then, or it gets an error. */
static enum cutover_state run_for(uint64_t ns)
{
	return job_run_for(world.ring, world.job, ns, &world.error);
}

static void after(uint64_t ns, ring_sim_hook *hook)
{
	ring_sim_after(world.sim, ns, hook, NULL);
}

/* Ends the clients; the leg holds what was acknowledged, or what was written after it. */
static void world_done(enum mirror_leg_index leg)
{
	world.serving = false;
	for (unsigned i = 0; i < CLIENTS; i++)
		while (world.clients[i].busy)
			assert_int_equal(world.ring->ops->step(world.ring), 0);
	world.job = mirror_job_free(world.job);
	for (unsigned i = 0; i < CLIENTS; i++)
		assert_in_range(get_le64(world.far[leg].data + place_of(&world.clients[i])),
		    world.clients[i].acknowledged, world.clients[i].issued);
	ring_free(world.ring);
	ring_sim_free(world.sim);
}

static void cut_over(enum cutover_state state)
{
	if (state == CUTOVER_READY)
		assert_int_equal(mirror_job_cutover(world.job), 0);
}

/* Until the target is the volume, and the source follows. */
static void serve_switched(void)
{
	struct mirror_job_status status;

	world.on_state = cut_over;
	serve();
	assert_int_equal(run_for(1500 * MS), CUTOVER_SWITCHED);
	mirror_job_status(world.job, &status);
	assert_true(status.revert_ready);
}

static void test_h24_clients_wait_for_a_lost_source(void **state)
{
	uint64_t before;

	world_init();
	serve();
	after(30 * MS, break_source);
	after(700 * MS, all_are_back);
	run_for(1000 * MS);
	before = acknowledged();
	assert_int_equal(run_for(2000 * MS), CUTOVER_READY);
	assert_int_equal(errors(), 0);
	assert_in_range(longest_ns(), 600 * MS, 900 * MS);
	assert_true(acknowledged() > before + 100);
	assert_non_null(strstr(world.warnings, "clients wait for the source: the cable is out"));
	assert_non_null(strstr(world.warnings, "the source is back"));
	world_done(MIRROR_SOURCE);
	assert_memory_equal(world.far[0].data, world.far[1].data, SIZE);
}

static void test_nobody_waits_for_ever(void **state)
{
	struct mirror_job_status status;
	uint64_t before;
	unsigned failed;

	world_init();
	world.options.source_timeout_ns = 200 * MS;
	serve();
	after(300 * MS, break_source);
	run_for(800 * MS);
	mirror_job_status(world.job, &status);
	assert_in_range(status.away_ns, 400 * MS, 600 * MS);
	assert_true(errors() >= CLIENTS);
	assert_in_range(longest_ns(), 200 * MS, 250 * MS);
	assert_non_null(strstr(world.warnings, "clients get I/O errors until it is back"));
	assert_int_equal(mirror_job_cutover(world.job), -ENOTCONN);
	all_are_back(NULL);
	run_for(400 * MS);
	failed = errors();
	before = acknowledged();
	assert_int_equal(run_for(2000 * MS), CUTOVER_READY);
	assert_int_equal(errors(), failed);
	assert_true(acknowledged() > before + 100);
	world_done(MIRROR_SOURCE);
	assert_memory_equal(world.far[0].data, world.far[1].data, SIZE);
}

/* What the target had not flushed when its machine lost power the source has. */
static void test_h11_a_restarted_machine_lacks_nothing(void **state)
{
	world_init();
	serve_switched();
	for (unsigned i = 1; i < 5; i++) {
		after(i * 317 * MS, target_loses_power);
		after((i * 317 + 100) * MS, all_are_back);
	}
	run_for(3000 * MS);
	assert_int_equal(errors(), 0);
	assert_non_null(strstr(world.warnings, "were written to it from the other leg"));
	world_done(MIRROR_TARGET);
	assert_memory_equal(world.far[0].data, world.far[1].data, SIZE);
}

/* The follower lacks it, too: errors rather than older data. */
static void test_h16_older_data_is_not_served(void **state)
{
	struct mirror_job_status status;
	uint64_t before;

	world_init();
	world.options.copy_mode = MIRROR_COPY_BACKGROUND;
	serve();
	mirror_job_pause(world.job, true);
	after(500 * MS, source_loses_power);
	after(600 * MS, all_are_back);
	run_for(1000 * MS);
	before = acknowledged();
	assert_int_equal(run_for(500 * MS), CUTOVER_SYNCING);
	mirror_job_status(world.job, &status);
	assert_true(status.refused && status.away_ns > 0);
	assert_int_equal(acknowledged(), before);
	assert_non_null(strstr(world.warnings, "may be gone"));
	for (unsigned i = 0; i < CLIENTS; i++)
		world.clients[i].acknowledged = 0; /* the operator was told */
	world_done(MIRROR_SOURCE);
}

/* Which cannot be resumed any more. */
static void test_h16_nor_after_the_end(void **state)
{
	struct mirror_job_status status;

	world_init();
	serve_switched();
	assert_int_equal(mirror_job_finish(world.job), 0);
	assert_int_equal(run_for(500 * MS), CUTOVER_FINISHED);
	after(100 * MS, target_loses_power);
	after(200 * MS, all_are_back);
	run_for(600 * MS);
	mirror_job_status(world.job, &status);
	assert_true(status.refused);
	assert_non_null(strstr(world.warnings, "`blkmove serve` that leg"));
	assert_null(strstr(world.warnings, "resume it"));
	for (unsigned i = 0; i < CLIENTS; i++)
		world.clients[i].acknowledged = 0; /* the operator was told */
	world_done(MIRROR_TARGET);
}

static void test_nothing_unflushed_is_nothing_lost(void **state)
{
	struct block_io flush = {.op = BLOCK_FLUSH};
	struct mirror_job_status status;

	world_init();
	world.options.copy_mode = MIRROR_COPY_BACKGROUND;
	serve();
	mirror_job_pause(world.job, true);
	run_for(300 * MS);
	world.serving = false;
	run_for(100 * MS);
	assert_int_equal(block_wait(mirror_job_block(world.job), &flush), 0);
	lose_power(MIRROR_SOURCE);
	after(100 * MS, all_are_back);
	run_for(500 * MS);
	mirror_job_status(world.job, &status);
	assert_true(!status.refused && status.away_ns == 0);
	world_done(MIRROR_SOURCE);
}

static void test_revert_without_the_target(void **state)
{
	struct mirror_job_status status;
	uint64_t before;

	world_init();
	world.options.source_timeout_ns = 200 * MS;
	serve_switched();
	world.on_state = NULL;
	after(100 * MS, target_loses_power);
	run_for(600 * MS);
	assert_true(errors() > 0);
	assert_non_null(strstr(world.warnings, "`blkmove revert` makes it the volume again"));
	assert_int_equal(mirror_job_finish(world.job), -ENOTCONN);
	before = acknowledged();
	assert_int_equal(mirror_job_revert(world.job), 0);
	assert_int_equal(run_for(600 * MS), CUTOVER_SYNCING);
	assert_true(acknowledged() > before + 100);
	mirror_job_status(world.job, &status);
	assert_int_equal(status.authoritative, MIRROR_SOURCE);
	assert_false(status.attached);
	all_are_back(NULL);
	assert_int_equal(run_for(2000 * MS), CUTOVER_READY);
	world_done(MIRROR_SOURCE);
	assert_memory_equal(world.far[0].data, world.far[1].data, SIZE);
}

static void order_revert(void *data)
{
	assert_int_equal(mirror_job_revert(world.job), 0);
}

/* Ordered while clients still wait: they see one long request and no error. */
static void test_revert_while_clients_wait(void **state)
{
	world_init();
	serve_switched();
	world.on_state = NULL;
	after(100 * MS, break_target);
	after(300 * MS, order_revert);
	assert_int_equal(run_for(1000 * MS), CUTOVER_SYNCING);
	assert_int_equal(errors(), 0);
	all_are_back(NULL);
	assert_int_equal(run_for(2000 * MS), CUTOVER_READY);
	world_done(MIRROR_SOURCE);
	assert_memory_equal(world.far[0].data, world.far[1].data, SIZE);
}

/* It waits for the target; the one who ordered it does not. */
static void test_a_cutover_is_taken_back(void **state)
{
	struct mirror_job_status status;

	world_init();
	serve();
	assert_int_equal(run_for(1000 * MS), CUTOVER_READY);
	assert_int_equal(mirror_job_revert(world.job), -EINVAL);
	after(100 * MS, break_target);
	run_for(200 * MS);
	assert_int_equal(mirror_job_cutover(world.job), 0);
	assert_int_equal(run_for(200 * MS), CUTOVER_SYNCING);
	mirror_job_status(world.job, &status);
	assert_true(status.ordered);
	assert_int_equal(mirror_job_revert(world.job), 0);
	run_for(200 * MS);
	mirror_job_status(world.job, &status);
	assert_false(status.ordered);
	all_are_back(NULL);
	assert_int_equal(run_for(2000 * MS), CUTOVER_READY);
	world_done(MIRROR_SOURCE);
}

static void test_h16_no_revert_to_a_source_that_lacks_something(void **state)
{
	world_init();
	serve_switched();
	world.on_state = NULL;
	after(100 * MS, break_source);
	after(300 * MS, break_target);
	run_for(500 * MS);
	assert_int_equal(mirror_job_revert(world.job), -ENOTCONN);
	world.far[MIRROR_SOURCE].away = false;
	run_for(500 * MS);
	assert_int_equal(mirror_job_revert(world.job), -ENOTCONN);
	all_are_back(NULL);
	assert_int_equal(run_for(2000 * MS), CUTOVER_SWITCHED);
	assert_int_equal(mirror_job_revert(world.job), 0);
	assert_int_equal(run_for(1000 * MS), CUTOVER_READY);
	world_done(MIRROR_SOURCE);
	assert_memory_equal(world.far[0].data, world.far[1].data, SIZE);
}

static void test_the_last_leg_comes_back_too(void **state)
{
	uint64_t before;

	world_init();
	serve_switched();
	assert_int_equal(mirror_job_finish(world.job), 0);
	assert_int_equal(run_for(500 * MS), CUTOVER_FINISHED);
	after(100 * MS, break_target);
	after(400 * MS, all_are_back);
	run_for(600 * MS);
	before = acknowledged();
	run_for(200 * MS);
	assert_true(acknowledged() > before + 100);
	assert_int_equal(errors(), 0);
	world_done(MIRROR_TARGET);
}

static void test_h30_errors_are_told_and_counted(void **state)
{
	struct mirror_job_status status;

	world_init();
	serve();
	run_for(1000 * MS);
	world.far[MIRROR_SOURCE].bad = true;
	run_for(500 * MS);
	world.far[MIRROR_SOURCE].bad = false;
	mirror_job_status(world.job, &status);
	assert_int_equal(status.read_errors, errors());
	assert_true(errors() > 0 && status.write_errors == 0 && status.away_ns == 0);
	assert_non_null(strstr(world.warnings, "reading from the source failed at byte"));
	world_done(MIRROR_SOURCE);
}

/* What comes back after a loss of power may lack also what its disk had called stable. */
static void test_what_comes_back_is_verified_anew(void **state)
{
	struct mirror_job_status status;

	world_init();
	world.options.verify = true;
	world.options.settle_keep = 1;
	world.options.settle_busy_ns = 20 * MS;
	serve();
	assert_int_equal(run_for(2000 * MS), CUTOVER_READY);
	world.far[MIRROR_TARGET].stable[SIZE - 1] ^= 4;
	after(0, target_loses_power);
	after(100 * MS, all_are_back);
	assert_int_equal(run_for(3000 * MS), CUTOVER_READY);
	mirror_job_status(world.job, &status);
	assert_in_range(status.differing, 1, SIZE);
	world_done(MIRROR_SOURCE);
	assert_memory_equal(world.far[0].data, world.far[1].data, SIZE);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_h24_clients_wait_for_a_lost_source),
	    cmocka_unit_test(test_nobody_waits_for_ever),
	    cmocka_unit_test(test_h11_a_restarted_machine_lacks_nothing),
	    cmocka_unit_test(test_h16_older_data_is_not_served),
	    cmocka_unit_test(test_h16_nor_after_the_end),
	    cmocka_unit_test(test_nothing_unflushed_is_nothing_lost),
	    cmocka_unit_test(test_revert_without_the_target),
	    cmocka_unit_test(test_revert_while_clients_wait),
	    cmocka_unit_test(test_a_cutover_is_taken_back),
	    cmocka_unit_test(test_h16_no_revert_to_a_source_that_lacks_something),
	    cmocka_unit_test(test_the_last_leg_comes_back_too),
	    cmocka_unit_test(test_h30_errors_are_told_and_counted),
	    cmocka_unit_test(test_what_comes_back_is_verified_anew),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
