/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A client against scripted agents that lie, stall, flood and break off: each row costs an error with words,
 * in bounded time, and not a byte outside the caller's buffer.
 */
#include "hostile_agent.h"

#include "base/rand.h"

#include <zstd.h>

/* Answers to one request */

struct row {
	const char *name;
	enum block_op op;
	void (*answer)(struct script *script);
	const char *words;
	bool close;
};

static uint8_t payload[FRAME_PAYLOAD_MAX + 1];

static void say(struct script *script, uint8_t type, uint64_t id, uint64_t length, size_t bytes)
{
	script_frame(script, (struct frame){.type = type, .id = id, .length = length}, payload, bytes);
}

static void unknown_id(struct script *s)
{
	say(s, FRAME_DATA, REQUEST_ID + 1, LENGTH, LENGTH);
}

static void old_id(struct script *s)
{
	say(s, FRAME_DATA, REQUEST_ID - 2048, LENGTH, LENGTH);
}

static void id_zero(struct script *s)
{
	say(s, FRAME_DATA, 0, LENGTH, LENGTH);
}

static void id_huge(struct script *s)
{
	say(s, FRAME_DATA, UINT64_MAX, LENGTH, LENGTH);
}

static void done(struct script *s)
{
	say(s, FRAME_DONE, REQUEST_ID, 0, 0);
}

static void right_data(struct script *s)
{
	say(s, FRAME_DATA, REQUEST_ID, LENGTH, LENGTH);
}

static void twice(struct script *s)
{
	right_data(s);
	right_data(s);
}

static void data_long(struct script *s)
{
	say(s, FRAME_DATA, REQUEST_ID, LENGTH, LENGTH + 1);
}

static void data_very_long(struct script *s)
{
	say(s, FRAME_DATA, REQUEST_ID, LENGTH, 1 << 20);
}

static void data_short(struct script *s)
{
	say(s, FRAME_DATA, REQUEST_ID, LENGTH, LENGTH - 1);
}

static void data_length_lies(struct script *s)
{
	say(s, FRAME_DATA, REQUEST_ID, LENGTH * 2, LENGTH * 2);
}

static void data_elsewhere(struct script *s)
{
	script_frame(s,
	    (struct frame){.type = FRAME_DATA, .id = REQUEST_ID, .offset = 4096, .length = LENGTH}, payload,
	    LENGTH);
}

static void zeroes_long(struct script *s)
{
	say(s, FRAME_ZEROES, REQUEST_ID, LENGTH * 1000, 0);
}

static void zeroes(struct script *s)
{
	say(s, FRAME_ZEROES, REQUEST_ID, LENGTH, 0);
}

static void payload_too_large(struct script *s)
{
	say(s, FRAME_DATA, REQUEST_ID, LENGTH, sizeof(payload));
}

static void truncated(struct script *s)
{
	right_data(s);
	s->used -= 100;
}

static void truncated_header(struct script *s)
{
	right_data(s);
	s->used = 17;
}

static void flip_header(struct script *s)
{
	right_data(s);
	s->bytes[20] ^= 1;
}

static void flip_payload(struct script *s)
{
	right_data(s);
	s->bytes[FRAME_HEADER_BYTES + 5000] ^= 1;
}

/* zstd of `raw` bytes; says that it is `said`. */
static void packed(struct script *s, size_t raw, uint64_t said, bool told)
{
	static uint8_t plain[8 << 20], out[1 << 20];
	ZSTD_CCtx *context = ZSTD_createCCtx();
	size_t size;

	ZSTD_CCtx_setParameter(context, ZSTD_c_contentSizeFlag, told);
	size = ZSTD_compress2(context, out, sizeof(out), plain, raw);
	ZSTD_freeCCtx(context);
	script_frame(s,
	    (struct frame){.type = FRAME_DATA, .flags = FRAME_FLAG_ZSTD, .id = REQUEST_ID, .length = said},
	    out, size);
}

static void bomb(struct script *s)
{
	packed(s, 8 << 20, LENGTH, true);
}

static void bomb_untold(struct script *s)
{
	packed(s, 8 << 20, LENGTH, false);
}

static void packed_short(struct script *s)
{
	packed(s, LENGTH - 1, LENGTH, true);
}

/* The frame says 8192 bytes, and then holds more: the content size lies in bytes 5 and 6 (RFC 8878, 3.1.1.1).
 */
static void bomb_that_lies(struct script *s)
{
	static uint8_t plain[64 << 10], out[4096];
	size_t size = ZSTD_compress(out, sizeof(out), plain, sizeof(plain) - 1, 1);

	/* 65535 in two bytes is stored minus 256. */
	assert_int_equal(ZSTD_getFrameContentSize(out, size), sizeof(plain) - 1);
	for (size_t at = 4; at < 8; at++)
		if (get_le16(out + at) == sizeof(plain) - 1 - 256) {
			put_le16(out + at, LENGTH - 256);
			break;
		}
	assert_int_equal(ZSTD_getFrameContentSize(out, size), LENGTH);
	script_frame(s,
	    (struct frame){.type = FRAME_DATA, .flags = FRAME_FLAG_ZSTD, .id = REQUEST_ID, .length = LENGTH},
	    out, size);
}

static void packed_garbage(struct script *s)
{
	script_frame(s,
	    (struct frame){.type = FRAME_DATA, .flags = FRAME_FLAG_ZSTD, .id = REQUEST_ID, .length = LENGTH},
	    payload, 100);
}

static void packed_larger(struct script *s)
{
	script_frame(s,
	    (struct frame){.type = FRAME_DATA, .flags = FRAME_FLAG_ZSTD, .id = REQUEST_ID, .length = LENGTH},
	    payload, 2 * LENGTH);
}

static void extent_list(struct script *s, const uint64_t *numbers, unsigned count)
{
	uint8_t bytes[16 * 64];

	for (unsigned i = 0; i < 2 * count; i++)
		put_le64(bytes + i * 8, numbers[i]);
	script_frame(s, (struct frame){.type = FRAME_EXTENT_LIST, .id = REQUEST_ID}, bytes, count * 16);
}

static void extent_empty(struct script *s)
{
	extent_list(s, (const uint64_t[]){0, 0}, 1);
}

static void extent_outside(struct script *s)
{
	extent_list(s, (const uint64_t[]){LENGTH + 1, 0}, 1);
}

static void extents_overflow(struct script *s)
{
	extent_list(s, (const uint64_t[]){4096, 0, UINT64_MAX, 0}, 2);
}

static void extent_kind(struct script *s)
{
	extent_list(s, (const uint64_t[]){4096, 2}, 1);
}

static void extents_many(struct script *s)
{
	extent_list(s, (const uint64_t[]){1, 0, 1, 0, 1, 0, 1, 0, 1, 0}, 5);
}

static void digests_few(struct script *s)
{
	say(s, FRAME_DATA, REQUEST_ID, 16, 16);
}

static void digests_many(struct script *s)
{
	say(s, FRAME_DATA, REQUEST_ID, 48, 48);
}

static void second_hello(struct script *s)
{
	script_text(s, FRAME_HELLO, 0, HELLO);
}

static void opened_again(struct script *s)
{
	script_text(s, FRAME_OPENED, OPEN_ID, OPENED);
}

static void facts_unasked(struct script *s)
{
	script_text(s, FRAME_FACTS_REPLY, 77, "{}");
}

static void pong(struct script *s)
{
	say(s, FRAME_PONG, 1, 0, 0);
}

static void asks_itself(struct script *s)
{
	say(s, FRAME_READ, REQUEST_ID, LENGTH, 0);
}

static void pings(struct script *s)
{
	for (unsigned i = 0; i < 1500; i++)
		say(s, FRAME_PING, i, 0, 0);
}

static void error_garbage(struct script *s)
{
	script_text(s, FRAME_ERROR, REQUEST_ID, "{\"code\":3}");
}

static void gives_up(struct script *s)
{
	script_text(s, FRAME_ERROR, 0, "{\"code\":\"EIO\",\"text\":\"the disk \\u0007fell out\"}");
}

static void deep_json(struct script *s)
{
	static char deep[FRAME_JSON_MAX];

	memset(deep, '[', sizeof(deep));
	script_frame(s, (struct frame){.type = FRAME_ERROR, .id = REQUEST_ID}, deep, sizeof(deep));
}

static void nothing(struct script *s)
{
}

static const struct row rows[] = {
    {"unknown id", BLOCK_READ, unknown_id, "nobody asked for", false},
    {"id of an older request", BLOCK_READ, old_id, "nobody asked for", false},
    {"id 0", BLOCK_READ, id_zero, "nobody asked for", false},
    {"huge id", BLOCK_READ, id_huge, "nobody asked for", false},
    {"DONE to READ", BLOCK_READ, done, "DONE in answer to READ", false},
    {"DATA to WRITE", BLOCK_WRITE, right_data, "DATA in answer to WRITE", false},
    {"DATA to FLUSH", BLOCK_FLUSH, right_data, "DATA in answer to FLUSH", false},
    {"ZEROES to DIGEST", BLOCK_DIGEST, zeroes, "ZEROES in answer to DIGEST", false},
    {"DATA to EXTENTS", BLOCK_EXTENTS, right_data, "DATA in answer to EXTENTS", false},
    {"one byte too many", BLOCK_READ, data_long, "with 8193 bytes where 8192 were due", false},
    {"very many too many", BLOCK_READ, data_very_long, "with 1048576 bytes", false},
    {"one byte too few", BLOCK_READ, data_short, "with 8191 bytes", false},
    {"a length that lies", BLOCK_READ, data_length_lies, "DATA of 16384 bytes where 8192", false},
    {"another range", BLOCK_READ, data_elsewhere, "another range", false},
    {"too many zeroes", BLOCK_READ, zeroes_long, "ZEROES of 8192000 bytes", false},
    {"oversized", BLOCK_READ, payload_too_large, "with a payload of", false},
    {"truncated", BLOCK_READ, truncated, "in the middle of a frame", true},
    {"truncated header", BLOCK_READ, truncated_header, "in the middle of a frame", true},
    {"truncated, then silent", BLOCK_READ, truncated, "no answer for", false},
    {"damaged header", BLOCK_READ, flip_header, "checksum of a frame header", false},
    {"damaged payload", BLOCK_READ, flip_payload, "checksum of a DATA", false},
    {"bomb", BLOCK_READ, bomb, "does not say it holds 8192 bytes", false},
    {"bomb of unknown size", BLOCK_READ, bomb_untold, "does not say", false},
    {"bomb that lies", BLOCK_READ, bomb_that_lies, "compressed data that is damaged", false},
    {"too little compressed", BLOCK_READ, packed_short, "does not say", false},
    {"garbage as zstd", BLOCK_READ, packed_garbage, "does not say", false},
    {"larger when compressed", BLOCK_READ, packed_larger, "with 16384 compressed bytes", false},
    {"empty extent", BLOCK_EXTENTS, extent_empty, "an extent of 0 bytes", false},
    {"extent outside", BLOCK_EXTENTS, extent_outside, "an extent of 8193 bytes", false},
    {"extents that overflow", BLOCK_EXTENTS, extents_overflow, "where 4096 are left", false},
    {"unknown kind of extent", BLOCK_EXTENTS, extent_kind, "kind 2", false},
    {"too many extents", BLOCK_EXTENTS, extents_many, "5 extents where 4 were asked", false},
    {"too few digests", BLOCK_DIGEST, digests_few, "DATA of 16 bytes where 32", false},
    {"too many digests", BLOCK_DIGEST, digests_many, "DATA of 48 bytes where 32", false},
    {"second HELLO", BLOCK_READ, second_hello, "second HELLO", false},
    {"OPENED again", BLOCK_READ, opened_again, "nobody asked for", false},
    {"facts unasked", BLOCK_READ, facts_unasked, "nobody asked for", false},
    {"PONG unasked", BLOCK_READ, pong, "PONG without a ping", false},
    {"a request", BLOCK_READ, asks_itself, "READ in answer to READ", false},
    {"pings without end", BLOCK_READ, pings, "pings without end", false},
    {"ERROR that is none", BLOCK_READ, error_garbage, "'code' is not a text", false},
    {"deep JSON", BLOCK_READ, deep_json, "no JSON object", false},
    {"gives up", BLOCK_READ, gives_up, "gave up: the disk ?fell out", false},
    {"closes", BLOCK_WRITE, nothing, "closed the connection", true},
    {"silent", BLOCK_WRITE, nothing, "no answer for", false},
};

struct result {
	bool done;
	int res;
	unsigned times;
};

static void io_done(struct block_io *io, int res)
{
	struct result *result = io->user;

	result->done = true;
	result->res = res;
	result->times++;
}

static void check_guards(const uint8_t *memory)
{
	for (unsigned i = 0; i < GUARD; i++)
		assert_true(memory[i] == 0x5a && memory[GUARD + LENGTH + i] == 0x5a);
}

static struct block_io request(enum block_op op, uint8_t *buf, struct extent *extents, struct result *result)
{
	static const struct digest_key key;

	return (struct block_io){
	    .op = op,
	    .length = op == BLOCK_FLUSH ? 0 : LENGTH,
	    .buf = buf,
	    .extents = extents,
	    .extents_max = 4,
	    .granularity = DIGEST_LEAF,
	    .key = &key,
	    .done = io_done,
	    .user = result,
	};
}

static void test_answers(void **state)
{
	for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		uint8_t *memory = malloc(LENGTH + 2 * GUARD);
		struct extent extents[8];
		struct result result = {0};
		struct script script = {0};
		struct error error = {0};
		uint64_t start_ms = now_ms();
		struct block_io io;
		struct agent agent;

		print_message("%s\n", rows[i].name);
		memset(memory, 0x5a, LENGTH + 2 * GUARD);
		memset(extents, 0x5a, sizeof(extents));
		agent_open(&agent);
		io = request(rows[i].op, memory + GUARD, extents, &result);
		block_submit(agent.remote, &io);
		rows[i].answer(&script);
		agent_say(&agent, &script);
		if (rows[i].close)
			shutdown(agent.fds[1], SHUT_WR);
		assert_int_equal(ring_run_until(agent.ring, &result.done), 0);
		assert_int_equal(result.res, -ENOTCONN);
		assert_int_equal(block_link_error(agent.remote, &error), -ENOTCONN);
		print_message("    %s\n", error.text);
		assert_non_null(strstr(error.text, rows[i].words));
		assert_true(now_ms() - start_ms < 30000);
		check_guards(memory);
		assert_int_equal(extents[4].offset, 0x5a5a5a5a5a5a5a5aull);
		agent_done(&agent);
		assert_int_equal(result.times, 1);
		free(memory);
	}
}

/* An agent that knows nothing of stages does not say that there was none. */
static void test_older_than_stages(void **state)
{
	struct agent agent;

	agent_open(&agent);
	assert_false(block_info(agent.remote)->settles);
	agent_done(&agent);
}

/* The right answer is taken; its repetition breaks the link, and the request ends once. */
static void test_answered_twice(void **state)
{
	uint8_t memory[LENGTH];
	struct result result = {0}, after = {0};
	struct script script = {0};
	struct error error = {0};
	struct block_io io, next;
	struct agent agent;

	agent_open(&agent);
	io = request(BLOCK_READ, memory, NULL, &result);
	block_submit(agent.remote, &io);
	/* Lets the request leave first. */
	ring_wait(agent.ring,
	    &(struct ring_op){.opcode = RING_TIMER, .deadline_ns = ring_now_ns(agent.ring) + 20000000});
	twice(&script);
	agent_say(&agent, &script);
	assert_int_equal(ring_run_until(agent.ring, &result.done), 0);
	assert_int_equal(result.res, 0);
	next = request(BLOCK_READ, memory, NULL, &after);
	block_submit(agent.remote, &next);
	assert_int_equal(ring_run_until(agent.ring, &after.done), 0);
	assert_int_equal(after.res, -ENOTCONN);
	assert_int_equal(block_link_error(agent.remote, &error), -ENOTCONN);
	assert_non_null(strstr(error.text, "nobody asked for"));
	agent_done(&agent);
	assert_int_equal(result.times, 1);
}

/* Says that a write is done while most of it has not left: the buffer stays in use until the link is given
 * up. */
static void test_answer_before_the_end(void **state)
{
	uint8_t *memory = malloc(1 << 20);
	struct result result = {0};
	struct script script = {0};
	struct rand rand;
	struct block_io io = {
	    .op = BLOCK_WRITE, .length = 1 << 20, .buf = memory, .done = io_done, .user = &result};
	struct agent agent;

	rand_init(&rand, 1);
	rand_bytes(&rand, memory, 1 << 20);
	agent_open(&agent);
	block_submit(agent.remote, &io);
	done(&script);
	agent_say(&agent, &script);
	assert_int_equal(ring_run_until(agent.ring, &result.done), 0);
	assert_int_equal(result.res, -ENOTCONN);
	agent_done(&agent);
	free(memory);
}

/* Answers pings, or sends some, and nothing else: given up after ten timeouts. */
static void beat(struct ring_op *op, int res)
{
	struct agent *agent = container_of(op, struct agent, beat);
	struct script script = {0};

	if (res < 0)
		return;
	say(&script, FRAME_PING, 1, 0, 0);
	if (write(agent->fds[1], script.bytes, script.used) == (ssize_t)script.used) {
		op->deadline_ns += 20000000;
		ring_submit(agent->ring, op);
	}
	script_done(&script);
}

static void test_alive_and_idle(void **state)
{
	uint8_t memory[LENGTH];
	struct result result = {0};
	struct error error = {0};
	struct block_io io;
	struct agent agent;

	agent_open(&agent);
	io = request(BLOCK_READ, memory, NULL, &result);
	block_submit(agent.remote, &io);
	agent.beat =
	    (struct ring_op){.opcode = RING_TIMER, .done = beat, .deadline_ns = ring_now_ns(agent.ring)};
	ring_submit(agent.ring, &agent.beat);
	assert_int_equal(ring_run_until(agent.ring, &result.done), 0);
	assert_int_equal(result.res, -ENOTCONN);
	block_link_error(agent.remote, &error);
	assert_non_null(strstr(error.text, "has answered no request"));
	agent.remote = block_free(agent.remote);
	while (agent.beat.active)
		ring_wait(agent.ring,
		    &(struct ring_op){.opcode = RING_TIMER, .deadline_ns = agent.beat.deadline_ns});
	agent_done(&agent);
}

/* Lies in FACTS stay in their fields. */
static void test_facts(void **state)
{
	char text[4096], json[8192];
	struct block_facts facts;
	struct script script = {0};
	struct agent agent;

	memset(text, 'x', sizeof(text));
	memcpy(text, "a\\u001b]0;b", 11);
	text[sizeof(text) - 1] = '\0';
	snprintf(json, sizeof(json), "{\"id\":\"%s\",\"mark\":\"m\",\"allocated\":1}", text);
	agent_open(&agent);
	script_text(&script, FRAME_FACTS_REPLY, 2 * 2048 + 2047, json);
	agent_say(&agent, &script);
	/* The answer lies there before the question: it is looked at only after. */
	assert_int_equal(block_facts(agent.remote, &facts, NULL), 0);
	assert_int_equal(strlen(facts.id), sizeof(facts.id) - 1);
	assert_memory_equal(facts.id, "a?]0;b", 6);
	assert_string_equal(facts.mark, "m");
	assert_string_equal(facts.held, "");
	agent_done(&agent);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_answers),
	    cmocka_unit_test(test_older_than_stages),
	    cmocka_unit_test(test_answered_twice),
	    cmocka_unit_test(test_answer_before_the_end),
	    cmocka_unit_test(test_alive_and_idle),
	    cmocka_unit_test(test_facts),
	};

	memset(payload, 0xee, sizeof(payload));
	return cmocka_run_group_tests(tests, NULL, NULL);
}
