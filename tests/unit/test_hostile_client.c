/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * An agent's server against scripted clients that lie, flood and break off: each row costs an error that both
 * sides get to know, in bounded time; requests outside the volume touch nothing.
 */
#include "script.h"
#include "wire.h"

#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include <zstd.h>

#include <cmocka.h>

#define SIZE  (8u << 20)
#define HELLO "{\"version\":1,\"software\":\"fake\",\"features\":[],\"compress\":\"none\",\"level\":1}"
#define OPEN_WITH(path, write, cache) \
	"{\"path\":\"" path "\",\"write\":" write ",\"create\":false,\"size\":0,\"cache\":\"" cache \
	"\",\"force_held\":false}"

static uint8_t payload[FRAME_PAYLOAD_MAX + 1];

struct row {
	const char *name;
	void (*say)(struct script *script);
	const char *words;
	bool bare;      /* no HELLO and OPEN before */
	bool read_only; /* OPEN for reading */
	bool silent;    /* and then keeps the connection */
	int code;       /* 0: -EPROTO; 1: ends well */
};

static void ask(struct script *s, uint8_t type, uint64_t offset, uint64_t length, size_t bytes)
{
	script_frame(
	    s, (struct frame){.type = type, .id = 9, .offset = offset, .length = length}, payload, bytes);
}

static void hello(struct script *s)
{
	script_text(s, FRAME_HELLO, 0, HELLO);
}

static void hello_then_read(struct script *s)
{
	hello(s);
	ask(s, FRAME_READ, 0, 512, 0);
}

static void hello_then_facts(struct script *s)
{
	hello(s);
	ask(s, FRAME_FACTS, 0, 0, 0);
}

static void read_first(struct script *s)
{
	ask(s, FRAME_READ, 0, 512, 0);
}

static void ping_first(struct script *s)
{
	ask(s, FRAME_PING, 0, 0, 0);
}

static void other_version(struct script *s)
{
	script_text(s, FRAME_HELLO, 0, "{\"version\":7,\"software\":\"blkmove 3.0\"}");
}

static void hello_garbage(struct script *s)
{
	script_text(s, FRAME_HELLO, 0, "{\"version\":");
}

static void open_with(struct script *s, const char *text)
{
	hello(s);
	script_text(s, FRAME_OPEN, 1, text);
}

static void open_garbage(struct script *s)
{
	open_with(s, "[]");
}

static void open_no_path(struct script *s)
{
	open_with(s, OPEN_WITH("", "true", "auto"));
}

static void open_cache(struct script *s)
{
	open_with(s, OPEN_WITH("/vol", "true", "never"));
}

static void open_write(struct script *s)
{
	open_with(s, OPEN_WITH("/vol", "1", "auto"));
}

static void open_long_path(struct script *s)
{
	static char text[8192], path[5000];

	memset(path, 'x', sizeof(path) - 1);
	snprintf(text, sizeof(text), OPEN_WITH("/%s", "true", "auto"), path);
	open_with(s, text);
}

static void open_twice_at_once(struct script *s)
{
	open_with(s, OPEN_WITH("/vol", "true", "auto"));
	script_text(s, FRAME_OPEN, 2, OPEN_WITH("/other", "true", "auto"));
}

static void open_again(struct script *s)
{
	script_text(s, FRAME_OPEN, 2, OPEN_WITH("/other", "true", "auto"));
}

static void no_id(struct script *s)
{
	script_frame(s, (struct frame){.type = FRAME_READ, .length = 512}, NULL, 0);
}

static void read_past_end(struct script *s)
{
	ask(s, FRAME_READ, SIZE - 511, 512, 0);
}

static void read_far(struct script *s)
{
	ask(s, FRAME_READ, INT64_MAX - 512, 512, 0);
}

static void read_overflow(struct script *s)
{
	ask(s, FRAME_READ, UINT64_MAX - 100, 512, 0);
}

static void read_long(struct script *s)
{
	ask(s, FRAME_READ, 0, BLOCK_IO_MAX + 1, 0);
}

static void read_nothing(struct script *s)
{
	ask(s, FRAME_READ, 0, 0, 0);
}

static void write_past_end(struct script *s)
{
	ask(s, FRAME_WRITE, SIZE - 1, 512, 512);
}

static void write_short(struct script *s)
{
	ask(s, FRAME_WRITE, 0, 4096, 512);
}

static void write_long(struct script *s)
{
	ask(s, FRAME_WRITE, 0, 512, 4096);
}

static void write_some(struct script *s)
{
	ask(s, FRAME_WRITE, 0, 512, 512);
}

static void zero_past_end(struct script *s)
{
	ask(s, FRAME_ZERO, 1, SIZE, 0);
}

static void zero_some(struct script *s)
{
	ask(s, FRAME_ZERO, 0, 512, 0);
}

static void resize(struct script *s)
{
	ask(s, FRAME_RESIZE, 0, 512, 0);
}

static void extents_past_end(struct script *s)
{
	ask(s, FRAME_EXTENTS, 0, SIZE + 1, 4);
}

static void sha_past_end(struct script *s)
{
	ask(s, FRAME_SHA256, SIZE, 1, 0);
}

static void flip_payload(struct script *s)
{
	write_some(s);
	s->bytes[s->used - 1] ^= 0x10;
}

static void flip_header(struct script *s)
{
	write_some(s);
	s->bytes[s->used - 512 - 20] ^= 0x10;
}

static void truncated(struct script *s)
{
	write_some(s);
	s->used -= 10;
}

static void bomb(struct script *s)
{
	static uint8_t plain[4 << 20], out[65536];
	size_t size = ZSTD_compress(out, sizeof(out), plain, sizeof(plain), 1);

	script_frame(s,
	    (struct frame){.type = FRAME_WRITE, .flags = FRAME_FLAG_ZSTD, .id = 9, .length = 4096}, out,
	    size);
}

static void zstd_garbage(struct script *s)
{
	script_frame(s,
	    (struct frame){.type = FRAME_WRITE, .flags = FRAME_FLAG_ZSTD, .id = 9, .length = 4096}, payload,
	    100);
}

static void too_many(struct script *s)
{
	for (unsigned i = 0; i < 257; i++)
		ask(s, FRAME_READ, i * 512, 512, 0);
}

static void too_many_bytes(struct script *s)
{
	for (unsigned i = 0; i < 5; i++)
		ask(s, FRAME_READ, 0, 4 << 20, 0);
}

static void answers(struct script *s)
{
	ask(s, FRAME_DATA, 0, 512, 512);
}

static void pings(struct script *s)
{
	for (unsigned i = 0; i < 1500; i++)
		ask(s, FRAME_PING, 0, 0, 0);
}

static void pong(struct script *s)
{
	ask(s, FRAME_PONG, 0, 0, 0);
}

static void gives_up(struct script *s)
{
	script_text(s, FRAME_ERROR, 0, "{\"code\":\"EPROTO\",\"text\":\"enough\"}");
}

static void half_a_header(struct script *s)
{
	write_some(s);
	s->used -= 512 + 20;
}

static void nothing(struct script *s)
{
}

static const struct row rows[] = {
    {.name = "closes at once", .say = nothing, .bare = true, .code = 1},
    {.name = "closes after OPEN", .say = nothing, .code = 1},
    {.name = "never says a word",
        .say = nothing,
        .bare = true,
        .silent = true,
        .words = "did not greet",
        .code = -ENOTCONN},
    {.name = "falls silent", .say = nothing, .silent = true, .words = "no answer for", .code = -ENOTCONN},
    {.name = "falls silent in a header",
        .say = half_a_header,
        .silent = true,
        .words = "no answer",
        .code = -ENOTCONN},
    {.name = "READ before HELLO", .say = read_first, .bare = true, .words = "READ before HELLO"},
    {.name = "PING before HELLO", .say = ping_first, .bare = true, .words = "PING before HELLO"},
    {.name = "another version",
        .say = other_version,
        .bare = true,
        .words = "version 7 of the wire (blkmove 3.0)",
        .code = -EPROTONOSUPPORT},
    {.name = "HELLO that is none", .say = hello_garbage, .bare = true, .words = "no JSON object"},
    {.name = "READ before OPEN", .say = hello_then_read, .bare = true, .words = "before a volume was opened"},
    {.name = "FACTS before OPEN",
        .say = hello_then_facts,
        .bare = true,
        .words = "before a volume was opened"},
    {.name = "OPEN that is none", .say = open_garbage, .bare = true, .words = "no JSON object"},
    {.name = "OPEN without a path", .say = open_no_path, .bare = true, .words = "'path' is missing"},
    {.name = "OPEN with a long path", .say = open_long_path, .bare = true, .words = "too long"},
    {.name = "OPEN with a strange cache mode",
        .say = open_cache,
        .bare = true,
        .words = "no cache mode 'never'"},
    {.name = "OPEN with 1 for true", .say = open_write, .bare = true, .words = "'write' is missing"},
    {.name = "two OPENs at once",
        .say = open_twice_at_once,
        .bare = true,
        .words = "before the last control"},
    {.name = "a second OPEN", .say = open_again, .words = "second OPEN"},
    {.name = "no id", .say = no_id, .words = "without an id"},
    {.name = "reads past the end", .say = read_past_end, .words = "outside the volume"},
    {.name = "reads far out", .say = read_far, .words = "outside the volume"},
    {.name = "reads beyond all numbers", .say = read_overflow, .words = "beyond 2^63"},
    {.name = "reads too much", .say = read_long, .words = "are allowed"},
    {.name = "reads nothing", .say = read_nothing, .words = "of no bytes"},
    {.name = "writes past the end", .say = write_past_end, .words = "outside the volume"},
    {.name = "writes less than it says", .say = write_short, .words = "with 512 bytes where 4096"},
    {.name = "writes more than it says", .say = write_long, .words = "with 4096 bytes where 512"},
    {.name = "writes read-only", .say = write_some, .read_only = true, .words = "opened for reading"},
    {.name = "zeroes past the end", .say = zero_past_end, .words = "outside the volume"},
    {.name = "zeroes read-only", .say = zero_some, .read_only = true, .words = "opened for reading"},
    {.name = "resizes read-only", .say = resize, .read_only = true, .words = "opened for reading"},
    {.name = "extents past the end", .say = extents_past_end, .words = "outside the volume"},
    {.name = "SHA-256 past the end", .say = sha_past_end, .words = "outside the volume"},
    {.name = "damaged payload", .say = flip_payload, .words = "checksum of a WRITE"},
    {.name = "damaged header", .say = flip_header, .words = "checksum of a frame header"},
    {.name = "truncated", .say = truncated, .words = "in the middle of a frame", .code = -ENOTCONN},
    {.name = "bomb", .say = bomb, .words = "does not say it holds 4096"},
    {.name = "garbage as zstd", .say = zstd_garbage, .words = "does not say it holds 4096"},
    {.name = "more requests than credits", .say = too_many, .words = "more under way than the credits"},
    {.name = "more bytes than credits", .say = too_many_bytes, .words = "more under way than the credits"},
    {.name = "answers", .say = answers, .words = "DATA, which is not a client's"},
    {.name = "pings without end", .say = pings, .words = "pings without end"},
    {.name = "PONG unasked", .say = pong, .words = "PONG without a ping"},
    {.name = "gives up", .say = gives_up, .words = "gave up: enough"},
};

/* Lets what was said be answered before the rest is: until the server says nothing for a moment, having said something. */
static void settle(struct wire *wire)
{
	int there = 0, before = -1;

	for (unsigned quiet = 0; there == 0 || quiet < 4; quiet = there == before ? quiet + 1 : 0) {
		before = there;
		ring_wait(wire->ring, &(struct ring_op){.opcode = RING_TIMER,
		                          .deadline_ns = ring_now_ns(wire->ring) + 5000000});
		assert_int_equal(ioctl(wire->fds[0], FIONREAD, &there), 0);
	}
}

static void say(struct wire *wire, struct script *script)
{
	if (script->used)
		assert_int_equal(write(wire->fds[0], script->bytes, script->used), script->used);
	script_done(script);
}

/* The last frame that the server sent, if it is an ERROR for all: its text. */
static void last_words(struct wire *wire, char *ret, size_t size)
{
	static uint8_t bytes[1 << 20];
	size_t used = 0, at = 0;
	ssize_t got;

	ret[0] = '\0';
	fcntl(wire->fds[0], F_SETFL, O_NONBLOCK);
	while (used < sizeof(bytes) && (got = read(wire->fds[0], bytes + used, sizeof(bytes) - used)) > 0)
		used += (size_t)got;
	while (at + FRAME_HEADER_BYTES <= used) {
		struct frame frame;

		assert_int_equal(frame_decode(bytes + at, &frame, NULL), 0);
		at += FRAME_HEADER_BYTES;
		if (frame.type == FRAME_ERROR && frame.id == 0)
			snprintf(ret, size, "%.*s", (int)frame.payload_length, (const char *)bytes + at);
		at += frame.payload_length;
	}
}

static void init(struct wire *wire, bool bare, bool read_only, unsigned timeout_ms)
{
	struct script script = {0};

	wire_init(wire, 0, NULL);
	wire->size = SIZE;
	wire_serve(wire, timeout_ms);
	if (bare)
		return;
	hello(&script);
	script_text(&script, FRAME_OPEN, 1,
	    read_only ? OPEN_WITH("/vol", "false", "auto") : OPEN_WITH("/vol", "true", "auto"));
	say(wire, &script);
	while (wire->opens == 0)
		assert_int_equal(ring_step(wire->ring), 0);
	settle(wire);
	assert_int_equal(wire->opens, 1);
}

static void test_rows(void **state)
{
	for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		const struct row *row = &rows[i];
		int code = row->code == 1 ? 0 : row->code ? row->code : -EPROTO;
		struct script script = {0};
		struct wire wire;
		char words[1024];

		print_message("%s\n", row->name);
		init(&wire, row->bare, row->read_only, row->silent ? 200 : 5000);
		row->say(&script);
		say(&wire, &script);
		if (!row->silent)
			shutdown(wire.fds[0], SHUT_WR);
		assert_int_equal(ring_run_until(wire.ring, &wire.server_done), 0);
		print_message("    %s\n", agent_server_error(wire.server)->text);
		assert_int_equal(wire.server_res, code);
		if (row->words)
			assert_non_null(strstr(agent_server_error(wire.server)->text, row->words));
		last_words(&wire, words, sizeof(words));
		if ((code == -EPROTO || code == -EPROTONOSUPPORT) && row->say != gives_up)
			assert_non_null(strstr(words, row->words));
		if (wire.opened)
			assert_int_equal(memory_counts(wire.opened)->bytes_written, 0);
		wire_done(&wire);
		close(wire.fds[0]);
	}
}

/* What only one request got wrong is answered, and the link goes on. */
static void test_refused_alone(void **state)
{
	uint8_t bytes[256];
	struct script script = {0};
	struct frame frame;
	struct wire wire;

	init(&wire, false, false, 5000);
	assert_true(read(wire.fds[0], payload, 65536) > 0);
	put_le32(bytes, 12345);
	memset(bytes + 4, 0, 16);
	script_frame(&script, (struct frame){.type = FRAME_DIGEST, .id = 5, .length = 4096}, bytes, 20);
	put_le32(bytes, 0);
	script_frame(&script, (struct frame){.type = FRAME_EXTENTS, .id = 6, .length = 4096}, bytes, 4);
	say(&wire, &script);
	settle(&wire);
	for (uint64_t id = 5; id <= 6; id++) {
		assert_int_equal(read(wire.fds[0], bytes, FRAME_HEADER_BYTES), FRAME_HEADER_BYTES);
		assert_int_equal(frame_decode(bytes, &frame, NULL), 0);
		assert_int_equal(frame.type, FRAME_ERROR);
		assert_int_equal(frame.id, id);
		assert_int_equal(read(wire.fds[0], bytes, frame.payload_length), frame.payload_length);
	}
	assert_false(wire.server_done);
	wire_done(&wire);
	close(wire.fds[0]);
}

/* A client that asks and never reads costs what the credits allow, and is let go after its silence. */
static void test_never_reads(void **state)
{
	struct script script = {0};
	struct wire wire;
	ssize_t wrote;
	size_t at = 0;

	init(&wire, false, false, 300);
	memset(payload, 0xee, 4096);
	for (unsigned i = 0; i < 16; i++)
		memory_poke(wire.opened, i << 16, payload, 65536);
	for (unsigned i = 0; i < 250; i++)
		ask(&script, FRAME_READ, 0, 65536, 0);
	wrote = write(wire.fds[0], script.bytes + at, script.used - at);
	assert_int_equal(wrote, script.used);
	assert_int_equal(ring_run_until(wire.ring, &wire.server_done), 0);
	assert_int_equal(wire.server_res, -ENOTCONN);
	assert_true(memory_counts(wire.opened)->bytes_read <= 16u << 20);
	script_done(&script);
	wire_done(&wire);
	close(wire.fds[0]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_rows),
	    cmocka_unit_test(test_refused_alone),
	    cmocka_unit_test(test_never_reads),
	};

	memset(payload, 0xee, sizeof(payload));
	return cmocka_run_group_tests(tests, NULL, NULL);
}
