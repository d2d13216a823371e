/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Saved digests: what is put comes back; a file that is damaged, of something else, or out of date is never
 * trusted. */
#include "block/saved_digests.h"
#include "block/saved_digests_format.h"
#include "sync/hash_extents.h"
#include "volume.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define NODE (DIGEST_LEAF * DIGEST_FANOUT)
#define MIB  (1u << 20)

struct fixture {
	struct ring *ring;
	struct rand rand;
	struct digest_key key;
	struct digest *digest;
	char folder[64], path[96];
	struct volume *volume;
	struct error error;
	bool awake;
	unsigned same; /* how often a range was said to be */
};

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	rand_init(&f->rand, seed_of_run());
	rand_bytes(&f->rand, f->key.bytes, sizeof(f->key.bytes));
	*state = f;
	strcpy(f->folder, "/tmp/blkmove-test-XXXXXX");
	if (!mkdtemp(f->folder) || digest_new(&f->digest, &f->key, NULL) < 0)
		return -1;
	snprintf(f->path, sizeof(f->path), "%s/digests", f->folder);
	return ring_new(&f->ring, 64, NULL);
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	unlink(f->path);
	assert_int_equal(rmdir(f->folder), 0); /* nothing else is left behind */
	digest_free(f->digest);
	ring_free(f->ring);
	free(f);
	return 0;
}

static void make_volume(struct fixture *f, uint64_t size)
{
	f->volume = volume_new(f->ring, &f->rand, size);
	for (uint64_t at = 0; at < size;) {
		uint64_t length =
		    min_u64(size - at, 1 + rand_below(&f->rand, rand_one_in(&f->rand, 3) ? 4000000 : 90000));

		if (rand_one_in(&f->rand, 2))
			rand_bytes(&f->rand, f->volume->data + at, length);
		else
			memset(f->volume->hole + at, 1, length);
		at += length;
	}
}

static struct saved_digests_writer *begin_writer(struct fixture *f, uint64_t size)
{
	struct saved_digests_writer *writer;

	assert_int_equal(saved_digests_writer_new(&writer, f->path, size, &f->key, &f->error), 0);
	return writer;
}

static void put_range(
    struct fixture *f, struct saved_digests_writer *writer, uint64_t offset, uint64_t length)
{
	uint8_t leaves[4096];

	if (bytes_are_zero(f->volume->data + offset, length) && rand_one_in(&f->rand, 2)) {
		saved_digests_writer_put(writer, offset, length, NULL);
		return;
	}
	digest_leaves(f->digest, f->volume->data + offset, length, leaves);
	saved_digests_writer_put(writer, offset, length, leaves);
}

/* Saves the volume's digests, chunk by chunk from both ends, some chunks twice. */
static void save(struct fixture *f, const char *id, const char *mark)
{
	uint64_t size = f->volume->block.info.size, low = 0, high = align_up(size, DIGEST_CHUNK);
	struct saved_digests_writer *writer = begin_writer(f, size);

	while (low < high) {
		uint64_t at;

		if (rand_one_in(&f->rand, 4))
			at = high -= DIGEST_CHUNK;
		else
			at = low, low += DIGEST_CHUNK;
		if (rand_one_in(&f->rand, 8))
			saved_digests_writer_put(writer, at, min_u64(DIGEST_CHUNK, size - at), NULL);
		put_range(f, writer, at, min_u64(DIGEST_CHUNK, size - at));
	}
	assert_int_equal(saved_digests_writer_finish(writer, id, mark, &f->error), 0);
	saved_digests_writer_free(writer);
}

static int open_as(struct fixture *f, uint64_t size, const char *id, const char *mark, struct block **ret)
{
	struct saved_digests_volume volume = {size, id, mark};
	struct digest_key key;
	int res = saved_digests_open(ret, f->ring, f->path, &volume, &key, &f->error);

	if (res == 0)
		assert_memory_equal(&key, &f->key, sizeof(key));
	return res;
}

static void assert_refused(struct fixture *f, int want)
{
	struct block *saved;

	f->error.text[0] = 0;
	assert_int_equal(open_as(f, f->volume->block.info.size, "id", "mark", &saved), want);
	/* Words that name the file and say what to do. */
	assert_non_null(strstr(f->error.text, f->path));
	assert_non_null(strstr(f->error.text, "--changes=hash"));
}

static void check_digests(struct fixture *f, struct block *saved)
{
	uint64_t size = saved->info.size;

	for (uint64_t at = 0; at < size; at += DIGEST_CHUNK) {
		for (uint32_t granularity = DIGEST_LEAF; granularity <= DIGEST_CHUNK;
		     granularity *= DIGEST_FANOUT) {
			uint8_t want[4096], got[4096];
			struct block_io io = {.op = BLOCK_DIGEST,
			    .offset = at,
			    .length = min_u64(DIGEST_CHUNK, size - at),
			    .granularity = granularity,
			    .key = &f->key,
			    .buf = got};

			assert_int_equal(block_wait(saved, &io), 0);
			digest_leaves(f->digest, f->volume->data + at, io.length, want);
			digest_fold(f->digest, want, digest_count(io.length, DIGEST_LEAF), granularity, want);
			assert_memory_equal(got, want, digest_count(io.length, granularity) * DIGEST_BYTES);
		}
	}
}

static void check_extents(struct fixture *f, struct block *saved)
{
	uint64_t size = saved->info.size, at = 0;

	while (at < size) {
		struct extent extents[3];
		struct block_io io = {.op = BLOCK_EXTENTS,
		    .offset = at,
		    .length = size - at,
		    .extents = extents,
		    .extents_max = 3};
		int count = block_wait(saved, &io);

		assert_in_range(count, 1, 3);
		for (int i = 0; i < count; i++) {
			assert_int_equal(extents[i].offset, at);
			assert_in_range(extents[i].length, 1, size - at);
			if (extents[i].kind == EXTENT_ZERO)
				assert_true(bytes_are_zero(f->volume->data + at, extents[i].length));
			at += extents[i].length;
		}
	}
}

static void test_round_trip(void **state)
{
	static const uint64_t sizes[] = {0, 1, 4095, 4096, 4097, MIB - 1, MIB, MIB + 1, 255 * 4096,
	    255 * 4096 + 1, 510 * 4096 - 1, 9999999};
	struct fixture *f = *state;

	for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
		struct block *saved;
		struct stat stat_now;

		make_volume(f, sizes[i]);
		save(f, "id", "mark");
		assert_int_equal(stat(f->path, &stat_now), 0);
		assert_int_equal(stat_now.st_mode & 07777, 0600);
		assert_int_equal(open_as(f, sizes[i], "id", "mark", &saved), 0);
		check_digests(f, saved);
		check_extents(f, saved);
		block_free(saved);
		block_free(&f->volume->block);
	}
}

static void test_zeros_take_no_room(void **state)
{
	struct fixture *f = *state;
	const uint64_t size = 16ull << 40;
	struct saved_digests_writer *writer = begin_writer(f, size);
	struct stat stat_now;
	struct block *saved;
	struct extent extent;
	struct block_io io = {.op = BLOCK_EXTENTS, .length = size, .extents = &extent, .extents_max = 1};

	saved_digests_writer_put(writer, 0, size, NULL);
	assert_int_equal(saved_digests_writer_finish(writer, "id", "mark", &f->error), 0);
	saved_digests_writer_free(writer);
	assert_int_equal(stat(f->path, &stat_now), 0);
	assert_true(stat_now.st_blocks * 512 <= 65536);
	assert_int_equal(open_as(f, size, "id", "mark", &saved), 0);
	assert_int_equal(block_wait(saved, &io), 1);
	assert_true(extent.length == size && extent.kind == EXTENT_ZERO);
	block_free(saved);
}

static void woken(void *data)
{
	*(bool *)data = true;
}

static void count_same(void *data, uint64_t offset, uint64_t length)
{
	struct fixture *f = data;

	(void)offset;
	(void)length;
	f->same++;
}

static uint64_t compare(
    struct fixture *f, struct block *saved, struct range_set *ret, struct saved_digests_writer *writer)
{
	struct hash_extents_options options = {.end = saved->info.size,
	    .key = &f->key,
	    .same = count_same,
	    .same_data = f,
	    .leaves = saved_digests_writer_put,
	    .leaves_data = writer};
	struct extents *extents;
	struct extent extent;
	int res;

	f->same = 0;
	range_set_init(ret);
	assert_int_equal(hash_extents_new(&extents, &f->volume->block, saved, &options, &f->error), 0);
	extents->wake = woken;
	extents->wake_data = &f->awake;
	for (;;) {
		f->awake = false;
		res = extents_next(extents, MIB, &extent);
		if (res == 1)
			range_set_add(ret, extent.offset, extent.length);
		else if (res == 0)
			ring_run_until(f->ring, &f->awake);
		else
			break;
	}
	assert_int_equal(res, 2);
	extents_free(extents);
	return ret->bytes;
}

/* The whole of it: run after run, exactly what was changed since the last one is found, and no target is
 * there to be read. */
static void test_runs_in_a_row(void **state)
{
	struct fixture *f = *state;
	const uint64_t size = 5 * MIB + 4321;
	char mark[32] = "mark 0";

	make_volume(f, size);
	save(f, "id", mark);
	for (int round = 1; round < 12; round++) {
		struct saved_digests_writer *writer = begin_writer(f, size);
		struct range_set changed, found;
		struct block *saved;

		range_set_init(&changed);
		for (uint64_t i = rand_below(&f->rand, 5); i > 0; i--) {
			uint64_t at = rand_below(&f->rand, size), leaf = align_down(at, DIGEST_LEAF);

			f->volume->data[at] += 1 + (uint8_t)i;
			f->volume->hole[at] = 0;
			memset(f->volume->hole + leaf, 0, min_u64(DIGEST_LEAF, size - leaf));
			range_set_add(&changed, leaf, min_u64(DIGEST_LEAF, size - leaf));
		}
		assert_int_equal(open_as(f, size, "id", mark, &saved), 0);
		assert_int_equal(saved_digests_use(saved, &f->error), 0);
		assert_true(compare(f, saved, &found, writer) == changed.bytes);
		for (size_t i = 0; i < changed.count; i++)
			assert_true(
			    range_set_contains(&found, changed.ranges[i].offset, changed.ranges[i].length));
		block_free(saved);
		snprintf(mark, sizeof(mark), "mark %d", round);
		assert_int_equal(saved_digests_writer_finish(writer, "id", mark, &f->error), 0);
		saved_digests_writer_free(writer);
		range_set_done(&changed);
		range_set_done(&found);
	}
	block_free(&f->volume->block);
}

/* A delta names the base it applies to, and is refused elsewhere. */
/* A volume that is nearly all hole is not gone through MiB by MiB: it may have terabytes. */
static void test_holes_are_passed_over(void **state)
{
	struct fixture *f = *state;
	const uint64_t size = 50 * MIB + 4321, at = 30 * MIB + 4096;
	struct saved_digests_writer *writer = begin_writer(f, size);
	struct range_set found;
	struct block *saved;

	f->volume = volume_new(f->ring, &f->rand, size);
	memset(f->volume->hole, 1, size);
	saved_digests_writer_put(writer, 0, size, NULL);
	assert_int_equal(saved_digests_writer_finish(writer, "id", "mark", &f->error), 0);
	saved_digests_writer_free(writer);
	rand_bytes(&f->rand, f->volume->data + at, DIGEST_LEAF);
	memset(f->volume->hole + at, 0, DIGEST_LEAF);
	for (int round = 0; round < 2; round++) {
		writer = begin_writer(f, size);
		assert_int_equal(open_as(f, size, "id", "mark", &saved), 0);
		assert_true(compare(f, saved, &found, writer) == (round == 0 ? DIGEST_LEAF : 0));
		assert_true(round > 0 || range_set_contains(&found, at, DIGEST_LEAF));
		assert_in_range(f->same, 2, 8);
		block_free(saved);
		assert_int_equal(saved_digests_writer_finish(writer, "id", "mark", &f->error), 0);
		saved_digests_writer_free(writer);
		range_set_done(&found);
	}
	block_free(&f->volume->block);
}

static void test_h10_another_volume_or_another_state(void **state)
{
	struct fixture *f = *state;
	struct block *saved;

	make_volume(f, MIB + 5);
	save(f, "id", "mark");
	assert_int_equal(open_as(f, MIB + 5, "other", "mark", &saved), -ESTALE);
	assert_non_null(strstr(f->error.text, "another volume"));
	assert_int_equal(open_as(f, MIB + 5, "id", "later", &saved), -ESTALE);
	assert_non_null(strstr(f->error.text, "written since"));
	assert_int_equal(open_as(f, MIB + 5, "", "mark", &saved), -ESTALE);
	assert_int_equal(open_as(f, MIB + 5, "id", "", &saved), -ESTALE);
	assert_int_equal(open_as(f, MIB + 5, "id", "mark", &saved), 0);
	block_free(saved);
	block_free(&f->volume->block);
}

static void test_h09_another_size(void **state)
{
	struct fixture *f = *state;
	struct block *saved;

	make_volume(f, MIB);
	save(f, "id", "mark");
	assert_int_equal(open_as(f, MIB + 1, "id", "mark", &saved), -ESTALE);
	assert_int_equal(open_as(f, MIB - 1, "id", "mark", &saved), -ESTALE);
	block_free(&f->volume->block);
}

/* A run that began to write and did not end. */
static void test_h10_in_use_is_refused(void **state)
{
	struct fixture *f = *state;
	struct block *saved;

	make_volume(f, MIB);
	save(f, "id", "mark");
	assert_int_equal(open_as(f, MIB, "id", "mark", &saved), 0);
	assert_int_equal(saved_digests_use(saved, &f->error), 0);
	check_digests(f, saved);
	block_free(saved);
	assert_refused(f, -ESTALE);
	block_free(&f->volume->block);
}

static void test_unknown_identity_is_not_saved(void **state)
{
	struct fixture *f = *state;

	make_volume(f, MIB);
	for (int i = 0; i < 2; i++) {
		struct saved_digests_writer *writer = begin_writer(f, MIB);

		put_range(f, writer, 0, MIB);
		assert_int_equal(
		    saved_digests_writer_finish(writer, i ? "id" : "", i ? "" : "mark", &f->error),
		    -EOPNOTSUPP);
		saved_digests_writer_free(writer);
		assert_int_equal(access(f->path, F_OK), -1);
	}
	block_free(&f->volume->block);
}

/* What was not read in this run is not known, and is not taken for zeros. */
static void test_gaps_are_refused(void **state)
{
	struct fixture *f = *state;
	struct saved_digests_writer *writer = begin_writer(f, 3 * MIB);

	make_volume(f, 3 * MIB);
	put_range(f, writer, 0, MIB);
	put_range(f, writer, 2 * MIB, MIB);
	assert_int_equal(saved_digests_writer_finish(writer, "id", "mark", &f->error), -ENODATA);
	saved_digests_writer_free(writer);
	assert_int_equal(access(f->path, F_OK), -1);
	block_free(&f->volume->block);
}

static void flip(struct fixture *f, uint64_t at, uint8_t bits)
{
	int fd = open(f->path, O_RDWR);
	uint8_t byte;

	assert_int_equal(pread(fd, &byte, 1, (off_t)at), 1);
	byte ^= bits;
	assert_int_equal(pwrite(fd, &byte, 1, (off_t)at), 1);
	close(fd);
}

static void test_every_byte_of_the_header(void **state)
{
	struct fixture *f = *state;
	struct block *saved;

	make_volume(f, MIB);
	save(f, "id", "mark");
	for (uint64_t at = 0; at < SAVED_HEADER; at++) {
		uint8_t bits = (uint8_t)(1u << rand_below(&f->rand, 8));

		flip(f, at, bits);
		assert_refused(f, -EBADMSG);
		flip(f, at, bits);
	}
	assert_int_equal(open_as(f, MIB, "id", "mark", &saved), 0);
	block_free(saved);
	block_free(&f->volume->block);
}

static void get_page(int fd, uint64_t number, uint8_t *ret)
{
	assert_int_equal(pread(fd, ret, SAVED_PAGE, (off_t)(SAVED_HEADER + number * SAVED_PAGE)), SAVED_PAGE);
}

static void put_page(int fd, uint64_t number, const uint8_t *page)
{
	assert_int_equal(
	    pwrite(fd, page, SAVED_PAGE, (off_t)(SAVED_HEADER + number * SAVED_PAGE)), SAVED_PAGE);
}

static void test_damaged_pages(void **state)
{
	struct fixture *f = *state;
	uint8_t zeros[SAVED_PAGE] = {0}, one[SAVED_PAGE], two[SAVED_PAGE];
	struct block *saved;
	int fd;

	f->volume = volume_new(f->ring, &f->rand, 5 * MIB);
	rand_bytes(&f->rand, f->volume->data, 5 * MIB);
	save(f, "id", "mark");
	fd = open(f->path, O_RDWR);
	for (int i = 0; i < 500; i++) {
		uint64_t at = SAVED_HEADER + rand_below(&f->rand, saved_file_size(5 * MIB) - SAVED_HEADER);
		uint8_t bits = (uint8_t)rand_between(&f->rand, 1, 255);

		flip(f, at, bits);
		assert_refused(f, -EBADMSG);
		flip(f, at, bits);
	}
	/* A page that vanished reads as zeros, which would be digests of zeros. */
	get_page(fd, 1, one);
	put_page(fd, 1, zeros);
	assert_refused(f, -EBADMSG);
	/* A page in another one's place. */
	get_page(fd, 2, two);
	put_page(fd, 1, two);
	put_page(fd, 2, one);
	assert_refused(f, -EBADMSG);
	put_page(fd, 1, one);
	put_page(fd, 2, two);
	assert_int_equal(open_as(f, 5 * MIB, "id", "mark", &saved), 0);
	/* And a page that is damaged while the file is open. */
	flip(f, SAVED_HEADER + 5, 1);
	{
		uint8_t got[4096];
		struct block_io io = {.op = BLOCK_DIGEST,
		    .length = MIB,
		    .granularity = DIGEST_LEAF,
		    .key = &f->key,
		    .buf = got};

		saved_digests_use(saved, &f->error);
		assert_int_equal(block_wait(saved, &io), -EBADMSG);
	}
	block_free(saved);
	close(fd);
	block_free(&f->volume->block);
}

static void test_wrong_lengths(void **state)
{
	struct fixture *f = *state;
	uint64_t size;

	make_volume(f, 2 * MIB);
	save(f, "id", "mark");
	size = saved_file_size(2 * MIB);
	for (int i = 0; i < 50; i++) {
		assert_int_equal(truncate(f->path, (off_t)rand_below(&f->rand, size)), 0);
		assert_refused(f, -EBADMSG);
		save(f, "id", "mark");
	}
	assert_int_equal(truncate(f->path, (off_t)size + 1), 0);
	assert_refused(f, -EBADMSG);
	assert_int_equal(truncate(f->path, 0), 0);
	assert_refused(f, -EBADMSG);
	unlink(f->path);
	assert_refused(f, -ENOENT);
	block_free(&f->volume->block);
}

static void test_others_may_not_read_it(void **state)
{
	struct fixture *f = *state;

	make_volume(f, MIB);
	save(f, "id", "mark");
	assert_int_equal(chmod(f->path, 0640), 0);
	assert_refused(f, -EPERM);
	assert_int_equal(chmod(f->path, 0602), 0);
	assert_refused(f, -EPERM);
	block_free(&f->volume->block);
}

/* A link that lies where the new file is made is not followed. */
static void test_new_file_follows_no_link(void **state)
{
	struct fixture *f = *state;
	char beside[128], victim[128];

	make_volume(f, MIB);
	snprintf(beside, sizeof(beside), "%s.new", f->path);
	snprintf(victim, sizeof(victim), "%s/victim", f->folder);
	assert_int_equal(symlink(victim, beside), 0);
	save(f, "id", "mark");
	assert_int_equal(access(victim, F_OK), -1);
	assert_int_equal(access(beside, F_OK), -1);
	block_free(&f->volume->block);
}

static void test_answers_nothing_else(void **state)
{
	struct fixture *f = *state;
	struct digest_key other = {{1}};
	uint8_t buf[4096];
	struct block_io io = {.op = BLOCK_READ, .length = 4096, .buf = buf};
	struct block *saved;

	make_volume(f, MIB);
	save(f, "id", "mark");
	assert_int_equal(open_as(f, MIB, "id", "mark", &saved), 0);
	assert_int_equal(block_wait(saved, &io), -EOPNOTSUPP);
	io.op = BLOCK_WRITE;
	assert_int_equal(block_wait(saved, &io), -EROFS);
	io = (struct block_io){
	    .op = BLOCK_DIGEST, .length = 4096, .granularity = DIGEST_LEAF, .key = &other, .buf = buf};
	assert_int_equal(block_wait(saved, &io), -EINVAL);
	io.key = &f->key;
	io.length = 4095;
	assert_int_equal(block_wait(saved, &io), -EINVAL);
	block_free(saved);
	block_free(&f->volume->block);
}

#define ONE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
	    ONE(test_round_trip),
	    ONE(test_zeros_take_no_room),
	    ONE(test_runs_in_a_row),
	    ONE(test_holes_are_passed_over),
	    ONE(test_h10_another_volume_or_another_state),
	    ONE(test_h09_another_size),
	    ONE(test_h10_in_use_is_refused),
	    ONE(test_unknown_identity_is_not_saved),
	    ONE(test_gaps_are_refused),
	    ONE(test_every_byte_of_the_header),
	    ONE(test_damaged_pages),
	    ONE(test_wrong_lengths),
	    ONE(test_others_may_not_read_it),
	    ONE(test_new_file_follows_no_link),
	    ONE(test_answers_nothing_else),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
