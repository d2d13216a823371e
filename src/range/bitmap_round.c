/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The rounds in which a map file is written: a superblock or an intent record, some pages, one fdatasync, all or nothing. One
 * at a time, because an fdatasync that fails may have lost whatever was written before it, and tells so only once. Claims
 * that come while a round is under way share the next one's record.
 */
#include "range/bitmap_file_private.h"

#include "base/bytes.h"

#include <assert.h>
#include <errno.h>

#define BACKOFF_NS 2000000u
#define GIVE_UP_NS 1000000000u /* between attempts to tell the file that it is given up */

static void write_done(struct ring_op *op, int res);
static void round_failed(struct bitmap_file *map, int res);

static void write_submit(struct bitmap_write *write)
{
	write->op = (struct ring_op){.opcode = RING_WRITE,
	    .fd = write->map->fd,
	    .offset = write->offset + write->at,
	    .buf = write->block + write->at,
	    .length = BITMAP_BLOCK - write->at,
	    .done = write_done};
	ring_submit(write->map->ring, &write->op);
}

/* The next block of the round; the caller fills it. */
static uint8_t *add_block(struct bitmap_file *map, uint64_t offset)
{
	struct bitmap_write *write = &map->ios[map->writes];

	write->map = map;
	write->block = map->blocks + (uint64_t)map->writes++ * BITMAP_BLOCK;
	write->offset = offset;
	write->at = 0;
	return write->block;
}

static void add_super(struct bitmap_file *map)
{
	map->with_super = map->super_left > 0;
	if (map->with_super)
		bitmap_super_encode(
		    &map->super_next, add_block(map, (SUPER_COPIES - map->super_left) * BITMAP_BLOCK));
}

/* Everybody who waits, as far as a record reaches. Its slot may only be taken when what it held is in the pages. */
static void add_record(struct bitmap_file *map)
{
	struct bitmap_record *record = &map->record;
	uint64_t sequence = map->sequence + 1;

	map->with_record = false;
	if (map->with_super || map->lost || list_empty(&map->pending) ||
	    sequence > map->tail + map->super.records)
		return;
	record->sequence = sequence;
	record->count = 0;
	while (!list_empty(&map->pending) && record->count < BITMAP_INTENTS) {
		struct bitmap_claim *claim =
		    container_of(list_pop(&map->pending), struct bitmap_claim, waiting);

		list_append(&map->recording, &claim->waiting);
		record->intents[record->count++] = bitmap_claim_intent(map, claim);
	}
	map->with_record = true;
	bitmap_record_encode(
	    record, map->super.nonce, add_block(map, bitmap_record_at(&map->super, sequence)));
}

/* All pages that differ from the disk, in rounds to come; their records' slots are free once all are written. */
static void start_run(struct bitmap_file *map)
{
	bool full = map->sequence - map->tail >= map->super.records / 2;

	if (map->running || (!map->run_wanted && !full))
		return;
	map->run_wanted = false;
	map->run_sequence = map->sequence;
	map->running = map->touched.count > 0;
	if (!map->running)
		map->tail = map->run_sequence;
	bitmap_or(&map->run, &map->touched);
	bitmap_clear(&map->touched, 0, map->pages);
}

static void add_pages(struct bitmap_file *map)
{
	uint64_t page = bitmap_next_set(&map->run, 0);

	map->round_pages_count = 0;
	while (map->running && page < map->pages && map->round_pages_count < ROUND_PAGES) {
		uint8_t *block = add_block(map, bitmap_page_at(&map->super, page));

		bitmap_store(
		    &map->logged, page * BITMAP_PAGE_BITS, block + BITMAP_PAGE_AT, BITMAP_PAGE_BYTES);
		bitmap_page_encode(page, map->sequence, map->super.nonce, block);
		map->round_pages[map->round_pages_count++] = page;
		page = bitmap_next_set(&map->run, page + 1);
	}
}

void bitmap_round_start(struct bitmap_file *map)
{
	if (map->in_round)
		return;
	map->writes = 0;
	map->round_res = 0;
	if (!map->lost)
		start_run(map);
	add_super(map);
	add_record(map);
	if (!map->lost)
		add_pages(map);
	if (map->writes == 0)
		return;
	map->in_round = true;
	map->writes_left = map->writes;
	for (unsigned i = 0; i < map->writes; i++)
		write_submit(&map->ios[i]);
}

static void finish_super(struct bitmap_file *map, int res)
{
	if (res == 0 && --map->super_left > 0)
		return;
	if (res == 0)
		map->super = map->super_next;
	map->super_left = 0;
	map->super_res = res;
	map->super_done = true;
}

static void finish_record(struct bitmap_file *map)
{
	map->sequence = map->record.sequence;
	for (uint32_t i = 0; i < map->record.count; i++) {
		const struct bitmap_intent *intent = &map->record.intents[i];
		uint64_t first = intent->first / BITMAP_PAGE_BITS;
		uint64_t last = (intent->first + intent->count - 1) / BITMAP_PAGE_BITS;

		bitmap_set(&map->logged, intent->first, intent->count);
		bitmap_set(&map->touched, first, last - first + 1);
	}
}

static void finish_pages(struct bitmap_file *map)
{
	/* Those beyond the end are what is left of a growth that was taken back. */
	for (unsigned i = 0; i < map->round_pages_count; i++)
		if (map->round_pages[i] < map->pages)
			bitmap_clear(&map->run, map->round_pages[i], 1);
	if (map->running && map->run.count == 0) {
		map->running = false;
		map->runs++;
		map->tail = map->run_sequence;
	}
}

/* The callbacks may claim and release; those who come now are in later rounds. */
static void answer(struct list_node *claims, int res)
{
	struct list_node mine, *node;

	list_take(&mine, claims);
	while ((node = list_pop(&mine))) {
		struct bitmap_claim *claim = container_of(node, struct bitmap_claim, waiting);

		claim->done(claim, res);
	}
}

static void round_done(struct bitmap_file *map)
{
	map->attempts = 0;
	if (map->with_record)
		finish_record(map);
	finish_pages(map);
	if (map->with_super)
		finish_super(map, 0);
	map->in_round = false;
	/* The next round goes to the disk while these do their work. */
	if (map->with_record) {
		struct list_node written;

		list_take(&written, &map->recording);
		bitmap_round_start(map);
		answer(&written, 0);
	}
	bitmap_round_start(map);
}

static void sync_done(struct ring_op *op, int res)
{
	struct bitmap_file *map = container_of(op, struct bitmap_file, op);

	if (res < 0)
		round_failed(map, res);
	else
		round_done(map);
}

static void write_done(struct ring_op *op, int res)
{
	struct bitmap_write *write = container_of(op, struct bitmap_write, op);
	struct bitmap_file *map = write->map;

	if (res > 0)
		write->at += (uint64_t)res;
	if (res > 0 && write->at < BITMAP_BLOCK) {
		write_submit(write);
		return;
	}
	if (res <= 0 && map->round_res == 0)
		map->round_res = res < 0 ? res : -EIO;
	if (--map->writes_left > 0)
		return;
	if (map->round_res < 0) {
		round_failed(map, map->round_res);
		return;
	}
	map->op = (struct ring_op){.opcode = RING_FSYNC, .fd = map->fd, .done = sync_done};
	ring_submit(map->ring, &map->op);
}

/* Again and again: the disk may have room, or be writable, one day. Another record says it, too. */
static void tell_given_up(struct bitmap_file *map)
{
	if (map->super_left > 0 || map->super.given_up || map->closing)
		return;
	map->super_next = map->super;
	map->super_next.given_up = true;
	/* What is in memory is what is going on. */
	map->super_next.undecided = false;
	map->super_next.sequence = ++map->super_sequence;
	map->super_left = SUPER_COPIES;
}

/* From now on nothing is noted; the file is told so, as soon as that can be. */
static void lose(struct bitmap_file *map, int res)
{
	map->lost = res;
	map->settling = map->running = map->run_wanted = false;
	if (res != -ECANCELED)
		tell_given_up(map);
	bitmap_round_start(map);
	answer(&map->pending, res);
}

void bitmap_file_lose(struct bitmap_file *map, int res)
{
	if (!map->lost)
		lose(map, res);
}

static void waited(struct ring_op *op, int res)
{
	struct bitmap_file *map = container_of(op, struct bitmap_file, op);

	map->in_round = false;
	if (map->lost && res == 0)
		tell_given_up(map);
	bitmap_round_start(map);
}

static void wait_for(struct bitmap_file *map, uint64_t ns)
{
	map->op = (struct ring_op){
	    .opcode = RING_TIMER, .deadline_ns = ring_now_ns(map->ring) + ns, .done = waited};
	ring_submit(map->ring, &map->op);
}

static void round_failed(struct bitmap_file *map, int res)
{
	bool give_up = res == -ECANCELED || ++map->attempts >= ROUND_ATTEMPTS;

	/* Pages and claims are where they were, for another attempt. */
	while (map->with_record && !list_empty(&map->recording)) {
		struct list_node *last = map->recording.previous;

		list_remove(last);
		list_prepend(&map->pending, last);
	}
	if (map->with_super)
		finish_super(map, res);
	if (map->lost && res != -ECANCELED && !map->closing) {
		wait_for(map, GIVE_UP_NS);
	} else if (map->lost || (give_up && (map->with_record || map->round_pages_count))) {
		map->in_round = false;
		if (!map->lost)
			lose(map, res);
	} else {
		wait_for(map, (uint64_t)BACKOFF_NS << min_u64(map->attempts, ROUND_ATTEMPTS));
	}
}
