/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The NBD driver against real servers: every kind of request against a model in memory, over many servers and
 * their limits; errors that a server gives, and what it keeps to itself. Lost and silent servers are in
 * test_nbd_link.c, TLS in test_nbd_tls.c.
 */
#include "nbd_world.h"

#include <netinet/in.h>
#include <sys/socket.h>

#define SIZE_ODD 5000001u /* a multiple of nothing */
#define SIZE     5046272u /* 77 times 64 KiB */

struct server {
	const char *line; /* NULL: captive */
	const char *endpoint;
	uint32_t size;
};

#define UNIX "exec nbdkit -f -U s "

static const struct server servers[] = {
    {UNIX "memory 5000001", "@", SIZE_ODD},
    {UNIX "--no-sr memory 5000001", "@", SIZE_ODD},
    {UNIX "--filter=nozero memory 5000001", "@", SIZE_ODD},
    {UNIX "--filter=nozero memory 5000001 zeromode=emulate", "@", SIZE_ODD},
    {UNIX "--filter=noextents memory 5000001", "@", SIZE_ODD},
    {UNIX "--filter=multi-conn memory 5000001 multi-conn-mode=disable", "@", SIZE_ODD},
    {UNIX "--filter=fua memory 5000001 fuamode=emulate", "@", SIZE_ODD},
    {UNIX "--filter=blocksize-policy memory 5046272 blocksize-minimum=4096 blocksize-preferred=65536 "
          "blocksize-maximum=65536 blocksize-error-policy=error",
        "@", SIZE},
    {UNIX "--filter=blocksize-policy memory 5046272 blocksize-minimum=512 blocksize-preferred=4096 "
          "blocksize-maximum=1M blocksize-error-policy=error",
        "@", SIZE},
    {UNIX "--no-sr --filter=blocksize-policy --filter=noextents memory 5046272 blocksize-minimum=65536 "
          "blocksize-preferred=65536 blocksize-maximum=1M blocksize-error-policy=error",
        "@", SIZE},
    {UNIX "--filter=blocksize-policy --filter=delay memory 5046272 blocksize-minimum=4096 "
          "blocksize-preferred=4096 blocksize-maximum=1M blocksize-error-policy=error rdelay=1ms wdelay=1ms",
        "@", SIZE},
    {UNIX "--filter=delay memory 5000001 rdelay=2ms wdelay=2ms", "@", SIZE_ODD},
    {"rm -f f; truncate -s 5000001 f && " UNIX "file f", "@", SIZE_ODD},
    {"exec nbdkit -f memory 5000001", "nbd://127.0.0.1:PORT/", SIZE_ODD},
    {"exec nbdkit -f -e disk memory 5000001", "nbd://localhost:PORT/disk", SIZE_ODD},
    {"rm -f q; truncate -s 5046272 q && exec qemu-nbd --cache=unsafe -t -k $PWD/s -f raw q", "@", SIZE},
    {"rm -f q; truncate -s 5046272 q && exec qemu-nbd --cache=unsafe -t -e 8 -k $PWD/s -f raw q", "@", SIZE},
    {"qemu-img create -q -f qcow2 q2 5046272 && exec qemu-nbd --cache=unsafe -t -e 2 -k $PWD/s -f qcow2 q2",
        "@", SIZE},
    {"qemu-img create -q -f qcow2 q2 5046272 && exec qemu-nbd --cache=unsafe -t -f qcow2 q2",
        "nbd://127.0.0.1:PORT", SIZE},
    {NULL, "[ nbdkit memory 5000001 ]", SIZE_ODD},
};

#define BATCH 48

/* Requests that do not touch one another, all at once: a shuffled walk over the volume. */
static void walk(struct world *world, struct rand *rand, uint32_t size, uint8_t *model)
{
	static struct batch batch[BATCH];
	uint8_t *buffers[BATCH];
	unsigned left = 0, count = 0;
	uint64_t offset = 0;

	while (offset < size && count < BATCH) {
		/* Short ones, too: several within the server's smallest block. */
		uint64_t length = min_u64(
		    size - offset, rand_between(rand, 1, rand_one_in(rand, 3) ? 3000 : 3 * size / BATCH));
		uint64_t kind = rand_below(rand, 4);
		enum block_op op = kind == 0 ? BLOCK_ZERO : kind == 1 ? BLOCK_WRITE : BLOCK_READ;

		buffers[count] = malloc(length);
		if (op == BLOCK_WRITE) {
			for (uint64_t i = 0; i < length; i++)
				buffers[count][i] = (uint8_t)rand_u64(rand);
			memcpy(model + offset, buffers[count], length);
		} else if (op == BLOCK_ZERO) {
			memset(model + offset, 0, length);
		}
		batch_submit(world, &batch[count], op, offset, length, buffers[count], &left);
		offset += length;
		count++;
	}
	batch_run(world, &left);
	for (unsigned i = 0; i < count; i++) {
		struct block_io *io = &batch[i].io;

		assert_int_equal(batch[i].res, 0);
		if (io->op == BLOCK_READ)
			assert_memory_equal(io->buf, model + io->offset, io->length);
		free(buffers[i]);
	}
}

/* Extents cover what was asked for, and what is called zero is zero. */
static void check_extents(struct world *world, uint32_t size, const uint8_t *model)
{
	struct extent extents[7];
	uint64_t offset = 0;

	while (offset < size) {
		struct block_io io = {.op = BLOCK_EXTENTS,
		    .offset = offset,
		    .length = size - offset,
		    .extents = extents,
		    .extents_max = 7};
		int count = block_wait(world->block, &io);

		assert_in_range(count, 1, 7);
		for (int i = 0; i < count; i++) {
			assert_int_equal(extents[i].offset, offset);
			assert_in_range(extents[i].length, 1, size - offset);
			if (i > 0)
				assert_int_not_equal(extents[i].kind, extents[i - 1].kind);
			if (extents[i].kind == EXTENT_ZERO)
				assert_true(bytes_are_zero(model + offset, extents[i].length));
			offset += extents[i].length;
		}
	}
}

static void check_server(const struct server *server, uint64_t seed)
{
	uint8_t *model = calloc(1, server->size), *got = malloc(server->size);
	struct world world;
	struct rand rand;

	print_message("  %s %s\n", server->line ? server->line : "", server->endpoint);
	rand_init(&rand, seed);
	world_init(&world);
	if (server->line)
		(strstr(server->endpoint, "PORT") ? world_serve_tcp : world_serve)(&world, server->line);
	world_must_open(&world, server->endpoint);
	assert_int_equal(block_info(world.block)->size, server->size);
	assert_true(block_info(world.block)->writable);
	for (int round = 0; round < 4; round++)
		walk(&world, &rand, server->size, model);
	assert_int_equal(wait_op(&world, BLOCK_FLUSH, 0, 0, NULL), 0);
	check_extents(&world, server->size, model);
	for (uint64_t at = 0; at < server->size; at += BLOCK_IO_MAX)
		assert_int_equal(
		    wait_op(&world, BLOCK_READ, at, min_u64(BLOCK_IO_MAX, server->size - at), got + at), 0);
	assert_memory_equal(got, model, server->size);
	assert_int_equal(wait_op(&world, BLOCK_RESIZE, 0, server->size, NULL), 0);
	assert_int_equal(wait_op(&world, BLOCK_RESIZE, 0, server->size + 1, NULL), -EOPNOTSUPP);
	assert_int_equal(block_link_error(world.block, &world.error), 0);
	world_done(&world);
	free(model);
	free(got);
}

static void test_h12_servers_of_all_kinds(void **state)
{
	uint64_t seed = seed_of_run();

	need("nbdkit");
	need("qemu-nbd");
	for (size_t i = 0; i < sizeof(servers) / sizeof(servers[0]); i++)
		check_server(&servers[i], seed + i);
}

/* qemu-nbd in the role that users have for it; what was written is in the image once the block is free. */
static void test_captive_qcow2(void **state)
{
	struct world world;
	char endpoint[256], data[4096];

	need("qemu-nbd");
	run("cd %s && qemu-img create -q -f qcow2 captive 8M", folder);
	snprintf(endpoint, sizeof(endpoint), "[ qemu-nbd -f qcow2 %s/captive ]", folder);
	for (int round = 0; round < 3; round++) {
		world_init(&world);
		world_must_open(&world, endpoint);
		assert_int_equal(block_info(world.block)->size, 8 << 20);
		if (round > 0) {
			assert_int_equal(wait_op(&world, BLOCK_READ, 12288, 4096, data), 0);
			assert_int_equal(data[17], 'a' + round - 1);
		}
		memset(data, 'a' + round, sizeof(data));
		assert_int_equal(wait_op(&world, BLOCK_WRITE, 12288, 4096, data), 0);
		assert_int_equal(wait_op(&world, BLOCK_FLUSH, 0, 0, NULL), 0);
		world_done(&world);
	}
	run("cd %s && qemu-img check -q captive", folder);
}

static void test_digests_come_from_the_data(void **state)
{
	static const uint8_t expected[32] = {0x30, 0xe1, 0x49, 0x55, 0xeb, 0xf1, 0x35, 0x22, 0x66, 0xdc, 0x2f,
	    0xf8, 0x06, 0x7e, 0x68, 0x10, 0x46, 0x07, 0xe7, 0x50, 0xab, 0xb9, 0xd3, 0xb3, 0x65, 0x82, 0xb8,
	    0xaf, 0x90, 0x9f, 0xcb, 0x58};
	struct world world;
	uint8_t hash[32];

	need("nbdkit");
	world_init(&world);
	world_serve(&world, UNIX "memory 1M");
	world_must_open(&world, "@");
	assert_int_equal(wait_op(&world, BLOCK_SHA256, 0, 1 << 20, hash), 0);
	assert_memory_equal(hash, expected, 32);
	world_done(&world);
}

static void test_read_only_server_is_refused_for_writing(void **state)
{
	struct world world;
	uint8_t data[16];

	need("nbdkit");
	world_init(&world);
	world_serve(&world, UNIX "-r pattern 1M");
	assert_int_equal(world_open(&world, "@"), -EROFS);
	assert_non_null(strstr(world.error.text, "read-only"));
	world.options.write = false;
	world_must_open(&world, "@");
	assert_int_equal(wait_op(&world, BLOCK_WRITE, 0, 16, data), -EROFS);
	/* The pattern plugin's bytes are big-endian offsets. */
	assert_int_equal(wait_op(&world, BLOCK_READ, 4096, 16, data), 0);
	assert_int_equal(data[6], 0x10);
	assert_int_equal(data[15], 0x08);
	world_done(&world);
}

/* "hole" alone says nothing about what it reads as. */
static void test_h04_hole_that_is_not_zero_is_data(void **state)
{
	static const struct extent expected[] = {
	    {0, 131072, EXTENT_DATA}, {131072, 196608, EXTENT_ZERO}, {327680, 720896, EXTENT_DATA}};
	struct extent extents[8];
	struct block_io io = {.op = BLOCK_EXTENTS, .length = 1 << 20, .extents = extents, .extents_max = 8};
	struct world world;

	need("nbdkit");
	world_init(&world);
	world.options.write = false;
	world_serve(&world, UNIX "eval get_size='echo 1M' pread='dd if=/dev/zero count=$3 iflag=count_bytes' "
	                         "extents='echo 0 64K; echo 64K 64K hole; echo 128K 64K hole,zero; "
	                         "echo 192K 128K zero; echo 320K 704K hole'");
	world_must_open(&world, "@");
	assert_int_equal(block_wait(world.block, &io), 3);
	for (int i = 0; i < 3; i++) {
		assert_int_equal(extents[i].offset, expected[i].offset);
		assert_int_equal(extents[i].length, expected[i].length);
		assert_int_equal(extents[i].kind, expected[i].kind);
	}
	/* Clipped to what was asked for, and to what there is room for. */
	io.offset = 140000;
	io.length = 100;
	assert_int_equal(block_wait(world.block, &io), 1);
	assert_int_equal(extents[0].length, 100);
	assert_int_equal(extents[0].kind, EXTENT_ZERO);
	io.offset = 0;
	io.length = 1 << 20;
	io.extents_max = 1;
	assert_int_equal(block_wait(world.block, &io), 1);
	assert_int_equal(extents[0].length, 131072);
	world_done(&world);
}

static void test_h30_errors_of_the_server_are_errors(void **state)
{
	static char data[8 << 10];
	struct extent extents[2];
	struct block_io io = {.op = BLOCK_EXTENTS, .length = 1 << 20, .extents = extents, .extents_max = 2};
	struct world world;

	need("nbdkit");
	world_init(&world);
	world_serve(
	    &world, UNIX "--filter=error memory 1M error=EIO error-pread-rate=100% error-extents-rate=100%");
	world_must_open(&world, "@");
	assert_int_equal(wait_op(&world, BLOCK_WRITE, 0, 8192, data), 0);
	assert_int_equal(wait_op(&world, BLOCK_READ, 0, 8192, data), -EIO);
	/* Unknown extents are data; the reads of them will tell. */
	assert_int_equal(block_wait(world.block, &io), 1);
	assert_int_equal(extents[0].kind, EXTENT_DATA);
	assert_int_equal(extents[0].length, 1 << 20);
	assert_int_equal(block_link_error(world.block, &world.error), 0);
	world_done(&world);

	world_init(&world);
	world_serve(
	    &world, UNIX "--filter=error memory 1M error=ENOSPC error-pwrite-rate=100% error-zero-rate=100%");
	world_must_open(&world, "@");
	assert_int_equal(wait_op(&world, BLOCK_WRITE, 0, 8192, data), -ENOSPC);
	assert_int_equal(wait_op(&world, BLOCK_ZERO, 0, 8192, NULL), -ENOSPC);
	assert_int_equal(wait_op(&world, BLOCK_READ, 0, 8192, data), 0);
	world_done(&world);
}

/* One part of a split request fails: the request fails once, the others go on. */
static void test_split_request_fails_once(void **state)
{
	static char data[BLOCK_IO_MAX];
	static struct batch batch[8];
	struct world world;
	unsigned left = 0;

	need("nbdkit");
	world_init(&world);
	world_serve(&world,
	    UNIX "--filter=blocksize-policy eval blocksize-maximum=64K blocksize-minimum=512 "
	         "blocksize-preferred=4096 "
	         "get_size='echo 64M' pread='if [ $4 -eq 1048576 ]; then echo EIO no >&2; exit 1; fi; "
	         "dd if=/dev/zero count=$3 iflag=count_bytes'");
	world.options.write = false;
	world_must_open(&world, "@");
	for (unsigned i = 0; i < 4; i++)
		batch_submit(&world, &batch[i], BLOCK_READ, i * UINT64_C(524288), 524288, data, &left);
	batch_run(&world, &left);
	for (unsigned i = 0; i < 4; i++)
		assert_int_equal(batch[i].res, i == 2 ? -EIO : 0);
	world_done(&world);
}

/* The number of connections, and of flushes, from the server's own log. */
static void check_connections(const char *filter, unsigned wanted, int expected)
{
	struct world world;
	char line[256];

	world_init(&world);
	world.options.link.nbd_connections = wanted;
	snprintf(line, sizeof(line), UNIX "--filter=log %s memory 1M logfile=log", filter);
	world_serve(&world, line);
	world_must_open(&world, "@");
	assert_int_equal(wait_op(&world, BLOCK_FLUSH, 0, 0, NULL), 0);
	world_done(&world);
	run("cd %s && test $(grep -c ' Connect ' log) = %d && test $(grep -c ' Flush ' log) = %d && rm log",
	    folder, expected, expected);
}

static void test_connections_are_as_the_server_allows(void **state)
{
	need("nbdkit");
	check_connections("", 0, 4);
	check_connections("", 1, 1);
	check_connections("", 7, 7);
	check_connections("", 33, 33);
	check_connections("--filter=multi-conn", 0, 4);
	check_connections("--filter=noparallel --filter=multi-conn -t 1", 0, 4);
}

static void test_too_many_connections_are_refused(void **state)
{
	struct world world;

	world_init(&world);
	world.options.link.nbd_connections = NBD_CONNECTIONS_MAX + 1;
	assert_int_equal(world_try(&world, "nbd://127.0.0.1:1/"), -EINVAL);
	assert_non_null(strstr(world.error.text, "at most 64"));
	world_done(&world);
}

static void test_without_multi_conn_there_is_one_connection(void **state)
{
	struct world world;

	need("nbdkit");
	world_init(&world);
	world_serve(
	    &world, UNIX "--filter=log --filter=multi-conn memory 1M multi-conn-mode=disable logfile=log");
	world_must_open(&world, "@");
	assert_int_equal(wait_op(&world, BLOCK_FLUSH, 0, 0, NULL), 0);
	world_done(&world);
	run("cd %s && test $(grep -c ' Connect ' log) = 1 && rm log", folder);
}

/* Zeroing may leave a hole and asks for no more than that; writes are flushed by FUA where there is no flush.
 */
static void test_commands_in_the_log(void **state)
{
	struct world world;
	static char data[4096];

	need("nbdkit");
	world_init(&world);
	world_serve(&world, UNIX "--filter=log memory 1G logfile=log");
	world_must_open(&world, "@");
	assert_int_equal(wait_op(&world, BLOCK_ZERO, 1, (1 << 30) - 1, NULL), 0);
	assert_int_equal(wait_op(&world, BLOCK_WRITE, 0, 4096, data), 0);
	world_done(&world);
	run("cd %s && test $(grep -c ' Zero .*trim=1 fua=0' log) = 8 && ! grep 'Write.*fua=1' log && rm "
	    "log",
	    folder);

	world_init(&world);
	world_serve(&world,
	    UNIX "--filter=log eval logfile=log get_size='echo 1M' pread='head -c $3 /dev/zero' "
	         "pwrite='cat >/dev/null' can_write='exit 0' can_flush='exit 3' can_fua='echo native'");
	world_must_open(&world, "@");
	assert_int_equal(wait_op(&world, BLOCK_WRITE, 0, 4096, data), 0);
	assert_int_equal(wait_op(&world, BLOCK_FLUSH, 0, 0, NULL), 0);
	world_done(&world);
	run("cd %s && grep -q 'Write.*fua=1' log && ! grep -q ' Flush ' log && rm log", folder);
}

static void test_h21_signature_is_seen_through_nbd(void **state)
{
	struct block_facts facts;
	struct world world;

	need("nbdkit");
	need("mkfs.ext4");
	run("cd %s && truncate -s 20M fs && mkfs.ext4 -q -L srv fs", folder);
	world_init(&world);
	world_serve(&world, UNIX "file fs");
	world_must_open(&world, "@");
	assert_int_equal(block_facts(world.block, &facts, &world.error), 0);
	assert_non_null(strstr(facts.signature, "ext4, UUID "));
	assert_non_null(strstr(facts.signature, "label srv"));
	world_done(&world);
}

static void test_empty_and_tiny_exports(void **state)
{
	struct block_facts facts;
	struct world world;
	char byte = 'x';

	need("nbdkit");
	world_init(&world);
	world_serve(&world, UNIX "memory 0");
	world_must_open(&world, "@");
	assert_int_equal(block_info(world.block)->size, 0);
	assert_int_equal(wait_op(&world, BLOCK_FLUSH, 0, 0, NULL), 0);
	assert_int_equal(wait_op(&world, BLOCK_READ, 0, 1, &byte), -EINVAL);
	assert_int_equal(block_facts(world.block, &facts, &world.error), 0);
	world_done(&world);
	world_init(&world);
	world_serve(&world, UNIX "memory 1");
	world_must_open(&world, "@");
	assert_int_equal(wait_op(&world, BLOCK_WRITE, 0, 1, &byte), 0);
	assert_int_equal(wait_op(&world, BLOCK_ZERO, 0, 1, NULL), 0);
	assert_int_equal(wait_op(&world, BLOCK_READ, 0, 1, &byte), 0);
	assert_int_equal(byte, 0);
	assert_int_equal(block_facts(world.block, &facts, &world.error), 0);
	world_done(&world);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_h12_servers_of_all_kinds),
	    cmocka_unit_test(test_captive_qcow2),
	    cmocka_unit_test(test_digests_come_from_the_data),
	    cmocka_unit_test(test_read_only_server_is_refused_for_writing),
	    cmocka_unit_test(test_h04_hole_that_is_not_zero_is_data),
	    cmocka_unit_test(test_h30_errors_of_the_server_are_errors),
	    cmocka_unit_test(test_split_request_fails_once),
	    cmocka_unit_test(test_connections_are_as_the_server_allows),
	    cmocka_unit_test(test_too_many_connections_are_refused),
	    cmocka_unit_test(test_without_multi_conn_there_is_one_connection),
	    cmocka_unit_test(test_commands_in_the_log),
	    cmocka_unit_test(test_h21_signature_is_seen_through_nbd),
	    cmocka_unit_test(test_empty_and_tiny_exports),
	};

	return cmocka_run_group_tests(tests, make_folder, own_folder_remove);
}
