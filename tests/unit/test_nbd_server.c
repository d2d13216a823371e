/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The NBD server with a client by hand: negotiation, every request, many at once. Hostile ones are in test_hostile_nbd.c. */
#include "nbd_host.h"
#include "seed.h"

#include "base/rand.h"

static void test_list_and_info(void **state)
{
	struct host host = {.two_exports = true};
	uint8_t data[4096];
	uint32_t length;
	int fd;

	host_start(&host);
	fd = greet(&host);
	send_option(fd, NBD_OPTION_LIST, NULL, 0);
	assert_int_equal(get_answer(fd, NBD_OPTION_LIST, data, &length), NBD_ANSWER_SERVER);
	assert_memory_equal(data, "\0\0\0\4diska disk", length);
	assert_int_equal(get_answer(fd, NBD_OPTION_LIST, data, &length), NBD_ANSWER_SERVER);
	assert_memory_equal(data, "\0\0\0\6second", length);
	assert_int_equal(get_answer(fd, NBD_OPTION_LIST, NULL, NULL), NBD_ANSWER_ACK);
	/* INFO about the default export, with all that can be asked. */
	send_option(fd, NBD_OPTION_INFO, "\0\0\0\0\0\3\0\1\0\2\0\3", 12);
	assert_int_equal(get_answer(fd, NBD_OPTION_INFO, data, NULL), NBD_ANSWER_INFO);
	assert_int_equal(get_be64(data + 2), HOST_SIZE);
	assert_int_equal(get_answer(fd, NBD_OPTION_INFO, data, NULL), NBD_ANSWER_INFO);
	assert_memory_equal(data, "\0\1disk", 6);
	assert_int_equal(get_answer(fd, NBD_OPTION_INFO, data, NULL), NBD_ANSWER_INFO);
	assert_memory_equal(data, "\0\2a disk", 8);
	assert_int_equal(get_answer(fd, NBD_OPTION_INFO, data, NULL), NBD_ANSWER_INFO);
	assert_memory_equal(data, "\0\3\0\0\0\1\0\0\20\0\2\0\0\0", 14);
	assert_int_equal(get_answer(fd, NBD_OPTION_INFO, NULL, NULL), NBD_ANSWER_ACK);
	/* Refused, and the link goes on. */
	assert_int_equal(ask(fd, NBD_OPTION_INFO, "\0\0\0\2no\0\0", 8), NBD_ANSWER_ERROR(NBD_ANSWER_UNKNOWN));
	assert_int_equal(ask(fd, NBD_OPTION_GO, "\0\0\0\2no\0", 7), NBD_ANSWER_ERROR(NBD_ANSWER_INVALID));
	assert_int_equal(ask(fd, NBD_OPTION_LIST, "x", 1), NBD_ANSWER_ERROR(NBD_ANSWER_INVALID));
	assert_int_equal(ask(fd, 4242, "abc", 3), NBD_ANSWER_ERROR(NBD_ANSWER_UNSUPPORTED));
	assert_int_equal(ask(fd, NBD_OPTION_STARTTLS, NULL, 0), NBD_ANSWER_ERROR(NBD_ANSWER_POLICY));
	assert_int_equal(ask(fd, NBD_OPTION_LIST_META_CONTEXT, "\0\0\0\0\0\0\0\0", 8),
	    NBD_ANSWER_ERROR(NBD_ANSWER_INVALID));
	assert_int_equal(ask(fd, NBD_OPTION_STRUCTURED_REPLY, NULL, 0), NBD_ANSWER_ACK);
	assert_int_equal(ask(fd, NBD_OPTION_STRUCTURED_REPLY, NULL, 0), NBD_ANSWER_ERROR(NBD_ANSWER_INVALID));
	assert_int_equal(
	    ask(fd, NBD_OPTION_LIST_META_CONTEXT, "\0\0\0\0\0\0\0\0", 8), NBD_ANSWER_META_CONTEXT);
	assert_int_equal(get_answer(fd, NBD_OPTION_LIST_META_CONTEXT, NULL, NULL), NBD_ANSWER_ACK);
	assert_int_equal(ask(fd, NBD_OPTION_ABORT, NULL, 0), NBD_ANSWER_ACK);
	expect_end(fd);
	host_stop(&host);
	assert_int_equal(host.failed, 0);
}

/* Its clients go, what they asked for is answered before; the others' stay; nobody finds it again. */
static void test_export_taken_away(void **state)
{
	struct host host = {
	    .two_exports = true, .patience_ms = 10000, .delay = {.min_ns = 600000000, .max_ns = 600000001}};
	uint8_t data[4096] = {7}, reply[16];
	int first, other, asking;

	host_start(&host);
	first = greet(&host);
	go(first, false);
	other = greet(&host);
	send_option(other, NBD_OPTION_GO, "\0\0\0\6second\0\0", 12);
	while (get_answer(other, NBD_OPTION_GO, NULL, NULL) == NBD_ANSWER_INFO)
		;
	asking = greet(&host);
	request(first, NBD_COMMAND_WRITE, 0, 9, 0, 4096);
	put(first, data, 4096);
	/* Refused at once, and the write that came before is under way. */
	request(first, NBD_COMMAND_READ, 0, 10, HOST_SIZE, 1);
	get(first, reply, sizeof(reply));
	assert_int_equal(get_be32(reply + 4), EINVAL);
	host_remove(&host);
	get(first, reply, sizeof(reply));
	assert_int_equal(get_be32(reply + 4), 0);
	expect_end(first);
	memory_peek(host.memory, 0, data, 1);
	assert_int_equal(data[0], 7);
	assert_int_equal(call(other, NBD_COMMAND_READ, 0, 0, 4096, data), 0);
	assert_int_equal(
	    ask(asking, NBD_OPTION_INFO, "\0\0\0\4disk\0\0", 10), NBD_ANSWER_ERROR(NBD_ANSWER_UNKNOWN));
	send_option(asking, NBD_OPTION_LIST, NULL, 0);
	assert_int_equal(get_answer(asking, NBD_OPTION_LIST, NULL, NULL), NBD_ANSWER_SERVER);
	assert_int_equal(get_answer(asking, NBD_OPTION_LIST, NULL, NULL), NBD_ANSWER_ACK);
	host_stop(&host);
	assert_int_equal(host.failed, 0);
}

/* Who does not take his answers does not hold it up. */
static void test_export_taken_from_who_does_not_read(void **state)
{
	struct host host = {.patience_ms = 50};
	int fd;

	host_start(&host);
	fd = greet(&host);
	go(fd, false);
	for (int i = 0; i < 20; i++)
		request(fd, NBD_COMMAND_READ, 0, (uint64_t)i, 0, 900000);
	host_remove(&host);
	assert_int_equal(host.clients, 0);
	close(fd);
	host_stop(&host);
	assert_int_equal(host.failed, 1);
}

static void test_export_name(void **state)
{
	struct host host = {0};
	uint8_t data[134];
	int fd;

	host_start(&host);
	fd = greet(&host);
	send_option(fd, NBD_OPTION_EXPORT_NAME, NULL, 0);
	get(fd, data, 10);
	assert_int_equal(get_be64(data), HOST_SIZE);
	assert_int_equal(call(fd, NBD_COMMAND_READ, 0, 5, 100, data), 0);
	close(fd);
	/* One that wants the 124 zeros. */
	fd = dial(&host);
	get(fd, data, NBD_GREETING_BYTES);
	put(fd, "\0\0\0\1", 4);
	send_option(fd, NBD_OPTION_EXPORT_NAME, "disk", 4);
	get(fd, data, 134);
	assert_true(bytes_are_zero(data + 10, 124));
	assert_int_equal(call(fd, NBD_COMMAND_READ, 0, 5, 100, data), 0);
	close(fd);
	fd = greet(&host);
	send_option(fd, NBD_OPTION_EXPORT_NAME, "none", 4);
	expect_end(fd);
	host_stop(&host);
}

static void test_requests(void **state)
{
	struct host host = {0};
	static uint8_t data[5000], found[5000];
	uint16_t flags;
	int fd;

	host_start(&host);
	fd = greet(&host);
	flags = go(fd, false);
	assert_int_equal(flags, NBD_EXPORT_HAS_FLAGS | NBD_EXPORT_FLUSH | NBD_EXPORT_FUA | NBD_EXPORT_TRIM |
	                            NBD_EXPORT_WRITE_ZEROES | NBD_EXPORT_FAST_ZERO | NBD_EXPORT_MULTI_CONN);
	memset(data, 6, sizeof(data));
	assert_int_equal(call(fd, NBD_COMMAND_WRITE, NBD_FLAG_FUA, 3, sizeof(data), data), 0);
	assert_int_equal(call(fd, NBD_COMMAND_READ, 0, 3, sizeof(data), found), 0);
	assert_memory_equal(found, data, sizeof(data));
	assert_int_equal(call(fd, NBD_COMMAND_WRITE_ZEROES, NBD_FLAG_NO_HOLE, 4, 4000, NULL), 0);
	assert_int_equal(call(fd, NBD_COMMAND_READ, 0, 3, sizeof(data), found), 0);
	assert_true(found[0] == 6 && bytes_are_zero(found + 1, 4000) && found[4001] == 6);
	assert_int_equal(call(fd, NBD_COMMAND_WRITE_ZEROES, NBD_FLAG_FAST_ZERO, 0, HOST_SIZE, NULL), 0);
	assert_int_equal(call(fd, NBD_COMMAND_TRIM, NBD_FLAG_FUA, 0, HOST_SIZE, NULL), 0);
	assert_int_equal(call(fd, NBD_COMMAND_FLUSH, 0, 0, 0, NULL), 0);
	/* Errors, and the link goes on; data of a refused write are passed over. */
	assert_int_equal(call(fd, NBD_COMMAND_READ, 0, HOST_SIZE - 1, 2, found), 22);
	assert_int_equal(call(fd, NBD_COMMAND_WRITE, 0, HOST_SIZE - 1, 5000, data), 28);
	assert_int_equal(call(fd, NBD_COMMAND_WRITE, 0x8000, 0, 5000, data), 22);
	assert_int_equal(call(fd, NBD_COMMAND_CACHE, 0, 0, 5000, data), 95);
	assert_int_equal(call(fd, 99, 0, 0, 5000, data), 22);
	assert_int_equal(call(fd, NBD_COMMAND_BLOCK_STATUS, 0, 0, 5000, NULL), 22);
	assert_int_equal(call(fd, NBD_COMMAND_WRITE, 0, HOST_SIZE - 1, 1, data), 0);
	request(fd, NBD_COMMAND_DISCONNECT, 0, 0, 0, 0);
	expect_end(fd);
	wait_for_clients(&host, 0);
	assert_int_equal(memory_counts(host.memory)->fuas, 2);
	assert_int_equal(memory_counts(host.memory)->flushes, 1);
	host_stop(&host);
	assert_int_equal(host.failed, 0);
	assert_int_equal(host.answered, 8);
}

static uint16_t chunk(int fd, uint64_t cookie, void *payload, uint32_t *ret_length)
{
	uint8_t head[20];

	get(fd, head, sizeof(head));
	assert_int_equal(get_be32(head), 0x668e33ef);
	assert_int_equal(get_be16(head + 4), 1);
	assert_int_equal(get_be64(head + 8), cookie);
	*ret_length = get_be32(head + 16);
	get(fd, payload, *ret_length);
	return get_be16(head + 6);
}

static void test_structured_replies(void **state)
{
	struct host host = {0};
	static uint8_t data[10000];
	uint32_t length;
	int fd;

	host_start(&host);
	fd = greet(&host);
	assert_true(go(fd, true) & NBD_EXPORT_DF);
	request(fd, NBD_COMMAND_WRITE, 0, 1, 4096, 5000);
	memset(data, 3, 5000);
	put(fd, data, 5000);
	assert_int_equal(chunk(fd, 1, data, &length), NBD_CHUNK_NONE);
	request(fd, NBD_COMMAND_READ, NBD_FLAG_DF, 2, 9000, 1000);
	assert_int_equal(chunk(fd, 2, data, &length), NBD_CHUNK_OFFSET_DATA);
	assert_true(length == 1008 && get_be64(data) == 9000 && data[8 + 95] == 3 && data[8 + 96] == 0);
	request(fd, NBD_COMMAND_READ, 0, 3, HOST_SIZE, 1000);
	assert_int_equal(chunk(fd, 3, data, &length), NBD_CHUNK_ERROR);
	assert_true(length == 6 && get_be32(data) == 22);
	/* Holes of the volume: 4096 to 12288 is data, in pages. */
	request(fd, NBD_COMMAND_BLOCK_STATUS, 0, 4, 100, HOST_SIZE - 100);
	assert_int_equal(chunk(fd, 4, data, &length), NBD_CHUNK_BLOCK_STATUS);
	assert_memory_equal(data,
	    "\0\0\0\1"
	    "\0\0\17\234\0\0\0\3"
	    "\0\0\40\0\0\0\0\0",
	    20);
	assert_int_equal(get_be32(data + 20), HOST_SIZE - 12288);
	assert_int_equal(length, 28);
	request(fd, NBD_COMMAND_BLOCK_STATUS, NBD_FLAG_REQ_ONE, 5, 5000, 90000);
	assert_int_equal(chunk(fd, 5, data, &length), NBD_CHUNK_BLOCK_STATUS);
	assert_int_equal(length, 12);
	assert_int_equal(get_be32(data + 4), 12288 - 5000);
	close(fd);
	host_stop(&host);
}

static void test_read_only(void **state)
{
	struct host host = {.read_only = true};
	uint8_t data[512] = {1};
	uint16_t flags;
	int fd;

	host_start(&host);
	fd = greet(&host);
	flags = go(fd, false);
	assert_true(flags & NBD_EXPORT_READ_ONLY && !(flags & (NBD_EXPORT_TRIM | NBD_EXPORT_WRITE_ZEROES)));
	assert_int_equal(call(fd, NBD_COMMAND_WRITE, 0, 0, 512, data), 1);
	assert_int_equal(call(fd, NBD_COMMAND_TRIM, 0, 0, 512, NULL), 1);
	assert_int_equal(call(fd, NBD_COMMAND_WRITE_ZEROES, 0, 0, 512, NULL), 1);
	assert_int_equal(call(fd, NBD_COMMAND_READ, 0, 0, 512, data), 0);
	assert_int_equal(data[0], 0);
	close(fd);
	host_stop(&host);
}

static void test_h30_errors_below_are_what_they_are(void **state)
{
	static const struct {
		int res;
		uint32_t number;
	} rows[] = {{-EIO, 5}, {-ENOSPC, 28}, {-EPERM, 1}, {-ENOTCONN, 5}, {-EOPNOTSUPP, 95}};

	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct host host = {.fault = {.ops = 1u << BLOCK_WRITE | 1u << BLOCK_READ | 1u << BLOCK_FLUSH,
		                        .kind = FAULT_ERROR,
		                        .result = rows[i].res}};
		uint8_t data[512] = {1};
		int fd;

		host_start(&host);
		fd = enter(&host, false);
		assert_int_equal(call(fd, NBD_COMMAND_WRITE, 0, 0, 512, data), rows[i].number);
		assert_int_equal(call(fd, NBD_COMMAND_READ, 0, 0, 512, data), rows[i].number);
		assert_int_equal(call(fd, NBD_COMMAND_FLUSH, 0, 0, 0, data), rows[i].number);
		close(fd);
		host_stop(&host);
		/* The flush at the end failed, too, and that is said. */
		assert_int_equal(host.stop_res, rows[i].res);
		assert_non_null(strstr(host.error.text, "cannot flush"));
	}
}

/* Who has connected again asks again. */
static void test_a_volume_that_closes(void **state)
{
	struct host host = {
	    .fault = {.ops = 1u << BLOCK_WRITE, .kind = FAULT_ERROR, .result = -ESHUTDOWN, .times = 1}};
	uint8_t data[512] = {1};
	int fd;

	host_start(&host);
	fd = enter(&host, false);
	request(fd, NBD_COMMAND_WRITE, 0, 9, 0, 512);
	put(fd, data, 512);
	expect_end(fd);
	fd = enter(&host, false);
	assert_int_equal(call(fd, NBD_COMMAND_WRITE, 0, 0, 512, data), 0);
	close(fd);
	host_stop(&host);
	assert_int_equal(host.failed, 0);
}

/* Clients that were there before may use all of it; one that comes is told its size. */
static void test_a_volume_that_becomes_larger(void **state)
{
	struct host host = {.shown = HOST_SIZE - 70001};
	static uint8_t data[70001], found[70001];
	uint8_t said[10];
	int fd, late;

	memset(data, 0x5b, sizeof(data));
	host_start(&host);
	fd = enter(&host, false);
	assert_int_equal(call(fd, NBD_COMMAND_WRITE, 0, host.shown, 70001, data), 28);
	assert_int_equal(call(fd, NBD_COMMAND_READ, 0, host.shown - 1, 2, found), 22);
	host_grow(&host);
	assert_int_equal(call(fd, NBD_COMMAND_WRITE, 0, host.shown, 70001, data), 0);
	assert_int_equal(call(fd, NBD_COMMAND_READ, 0, host.shown, 70001, found), 0);
	assert_memory_equal(found, data, 70001);
	assert_int_equal(call(fd, NBD_COMMAND_TRIM, 0, 0, HOST_SIZE, NULL), 0);
	assert_int_equal(call(fd, NBD_COMMAND_WRITE, 0, HOST_SIZE - 1, 2, data), 28);
	late = greet(&host);
	send_option(late, NBD_OPTION_EXPORT_NAME, "disk", 4);
	get(late, said, sizeof(said));
	assert_int_equal(get_be64(said), HOST_SIZE);
	close(late);
	close(fd);
	host_stop(&host);
	assert_int_equal(host.failed, 0);
}

/* Long payloads in odd pieces, longer than the input buffer and than one request to the block. */
static void test_long_requests(void **state)
{
	static const uint32_t lengths[] = {65535, 131072, 200001, 4u << 20, (4u << 20) + 1, 32u << 20};
	struct host host = {.size = 40u << 20};
	uint8_t *data = malloc(32u << 20), *found = malloc(32u << 20);
	struct rand rand;
	int fd;

	host_start(&host);
	fd = enter(&host, false);
	rand_init(&rand, seed_of_run());
	for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
		uint64_t offset = rand_below(&rand, 8u << 20);

		rand_bytes(&rand, data, lengths[i]);
		request(fd, NBD_COMMAND_WRITE, 0, 1, offset, lengths[i]);
		for (uint32_t at = 0, n; at < lengths[i]; at += n) {
			n = (uint32_t)rand_between(&rand, 1, lengths[i] - at);
			put(fd, data + at, n);
		}
		assert_int_equal(reply(fd, NULL), 0);
		assert_int_equal(call(fd, NBD_COMMAND_READ, 0, offset, lengths[i], found), 0);
		assert_memory_equal(found, data, lengths[i]);
	}
	assert_int_equal(call(fd, NBD_COMMAND_READ, 0, 0, (32u << 20) + 1, found), 22);
	close(fd);
	host_stop(&host);
	free(data);
	free(found);
}

#define FLIGHT 300u

/* More requests at once than there are slots, over a slow volume; all are answered, in whatever order. */
static void test_many_at_once(void **state)
{
	struct host host = {.delay = {.min_ns = 1000, .max_ns = 2000000, .seed = seed_of_run()},
	    .options = {.inflight_bytes = 1u << 20}};
	static uint8_t data[FLIGHT][3000], found[3000];
	bool seen[FLIGHT] = {false};
	int fd;

	host_start(&host);
	fd = enter(&host, false);
	for (unsigned i = 0; i < FLIGHT; i++) {
		memset(data[i], (int)i, sizeof(data[i]));
		request(fd, NBD_COMMAND_WRITE, 0, i, i * 3001, sizeof(data[i]));
		put(fd, data[i], sizeof(data[i]));
	}
	for (unsigned i = 0; i < FLIGHT; i++) {
		uint64_t cookie;

		assert_int_equal(reply(fd, &cookie), 0);
		assert_true(cookie < FLIGHT && !seen[cookie]);
		seen[cookie] = true;
	}
	for (unsigned i = 0; i < FLIGHT; i++)
		request(fd, NBD_COMMAND_READ, 0, i, i * 3001, sizeof(data[i]));
	for (unsigned i = 0; i < FLIGHT; i++) {
		uint64_t cookie;

		assert_int_equal(reply(fd, &cookie), 0);
		get(fd, found, sizeof(found));
		assert_memory_equal(found, data[cookie], sizeof(found));
	}
	close(fd);
	host_stop(&host);
	assert_int_equal(host.failed, 0);
}

/* What one connection was told is written, another's flush brings to stable storage: both have the same volume below. */
static void test_flush_covers_other_connections(void **state)
{
	struct host host = {0};
	uint8_t data[512] = {8}, found[512];
	int first, second;

	host_start(&host);
	first = enter(&host, false);
	second = enter(&host, true);
	assert_int_equal(call(first, NBD_COMMAND_WRITE, 0, 512, 512, data), 0);
	close(first);
	request(second, NBD_COMMAND_FLUSH, 0, 1, 0, 0);
	get(second, found, 20);
	first = enter(&host, false);
	assert_int_equal(call(first, NBD_COMMAND_READ, 0, 512, 512, found), 0);
	assert_memory_equal(found, data, 512);
	assert_int_equal(memory_counts(host.memory)->flushes, 1);
	close(first);
	close(second);
	host_stop(&host);
}

/* Power goes: what a flush of any connection covered, and what was written with FUA, is there; the rest may be lost. */
static void test_power_cut_leaves_what_was_flushed(void **state)
{
	uint64_t seed = seed_of_run();
	unsigned lost = 0;

	for (unsigned i = 0; i < 20; i++) {
		struct host host = {.power_seed = seed + i};
		uint8_t data[8192];
		int writer, flusher;

		memset(data, 5, sizeof(data));
		host_start(&host);
		writer = enter(&host, false);
		flusher = enter(&host, false);
		assert_int_equal(call(writer, NBD_COMMAND_WRITE, 0, 0, sizeof(data), data), 0);
		assert_int_equal(call(writer, NBD_COMMAND_WRITE_ZEROES, 0, 100, 50, NULL), 0);
		assert_int_equal(call(flusher, NBD_COMMAND_FLUSH, 0, 0, 0, NULL), 0);
		assert_int_equal(call(writer, NBD_COMMAND_WRITE, NBD_FLAG_FUA, 10000, sizeof(data), data), 0);
		assert_int_equal(call(flusher, NBD_COMMAND_WRITE_ZEROES, NBD_FLAG_FUA, 10000, 512, NULL), 0);
		assert_int_equal(call(writer, NBD_COMMAND_WRITE, 0, 30000, sizeof(data), data), 0);
		host_stop(&host);
		assert_memory_equal(host.left, data, 100);
		assert_true(bytes_are_zero(host.left + 100, 50));
		assert_memory_equal(host.left + 150, data, sizeof(data) - 150);
		assert_true(bytes_are_zero(host.left + 10000, 512));
		assert_memory_equal(host.left + 10512, data, sizeof(data) - 512);
		lost += memcmp(host.left + 30000, data, sizeof(data)) != 0;
		close(writer);
		close(flusher);
	}
	assert_in_range(lost, 3, 20);
}

/* Requests that are under way when the server stops are answered; what was never flushed is. */
static void test_orderly_stop(void **state)
{
	struct host host = {.delay = {.ops = 1u << BLOCK_WRITE, .min_ns = 600000000, .max_ns = 700000000},
	    .patience_ms = 10000};
	uint8_t data[512] = {8};
	int fd, idle;

	host_start(&host);
	fd = enter(&host, false);
	idle = enter(&host, false);
	request(fd, NBD_COMMAND_WRITE, 0, 1, 0, 512);
	put(fd, data, 512);
	request(fd, NBD_COMMAND_WRITE, 0, 2, 512, 512);
	put(fd, data, 512);
	usleep(200000);
	host_stop(&host);
	assert_int_equal(host.stop_res, 0);
	assert_int_equal(reply(fd, NULL), 0);
	assert_int_equal(reply(fd, NULL), 0);
	expect_end(fd);
	expect_end(idle);
	assert_int_equal(host.failed, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_list_and_info),
	    cmocka_unit_test(test_export_taken_away),
	    cmocka_unit_test(test_export_taken_from_who_does_not_read),
	    cmocka_unit_test(test_export_name),
	    cmocka_unit_test(test_requests),
	    cmocka_unit_test(test_structured_replies),
	    cmocka_unit_test(test_read_only),
	    cmocka_unit_test(test_h30_errors_below_are_what_they_are),
	    cmocka_unit_test(test_a_volume_that_closes),
	    cmocka_unit_test(test_a_volume_that_becomes_larger),
	    cmocka_unit_test(test_long_requests),
	    cmocka_unit_test(test_many_at_once),
	    cmocka_unit_test(test_flush_covers_other_connections),
	    cmocka_unit_test(test_power_cut_leaves_what_was_flushed),
	    cmocka_unit_test(test_orderly_stop),
	};

	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
