/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A client against scripted agents that lie in the handshake: each costs an error with words, in bounded
 * time. */
#include "hostile_agent.h"

struct hello_row {
	const char *name, *hello, *opened, *words;
	bool close;
	bool patient;         /* the client is: ten timeouts, for opening may take long */
	enum frame_type type; /* 0: OPENED */
	int code;             /* 0: -EPROTO */
	struct block_open_options options;
};

static const struct hello_row hello_rows[] = {
    {.name = "closes at once", .close = true, .words = "closed the connection", .code = -ENOTCONN},
    {.name = "says nothing", .words = "did not greet", .code = -ENOTCONN},
    {.name = "says nothing after HELLO",
        .hello = HELLO,
        .words = "answer", /* "no answer for", or that it has answered no request: two limits end together */
        .code = -ENOTCONN,
        .patient = true},
    {.name = "another version",
        .hello =
            "{\"version\":2,\"software\":\"blkmove 9.0\",\"features\":[],\"requests\":8,\"bytes\":8388608}",
        .words = "version 2 of the wire (blkmove 9.0)",
        .code = -EPROTONOSUPPORT},
    {.name = "no JSON", .hello = "hello", .words = "no JSON object"},
    {.name = "JSON without an object", .hello = "[1]", .words = "no JSON object"},
    {.name = "no version", .hello = "{}", .words = "'version' is missing"},
    {.name = "version of another type", .hello = "{\"version\":\"1\"}", .words = "'version' is missing"},
    {.name = "no credits", .hello = "{\"version\":1}", .words = "'requests' is missing"},
    {.name = "credits for nothing",
        .hello = "{\"version\":1,\"requests\":0,\"bytes\":8388608}",
        .words = "too few"},
    {.name = "credits too small",
        .hello = "{\"version\":1,\"requests\":1,\"bytes\":4096}",
        .words = "too few"},
    {.name = "credits below zero",
        .hello = "{\"version\":1,\"requests\":-1,\"bytes\":8388608}",
        .words = "'requests' is missing"},
    {.name = "sector size 0",
        .hello = HELLO,
        .opened = OPENED_WITH("4096", "0", "1", FLAGS("true", "false", "false")),
        .words = "sectors of 0 bytes"},
    {.name = "sector size 3",
        .hello = HELLO,
        .opened = OPENED_WITH("4096", "3", "1", FLAGS("true", "false", "false")),
        .words = "sectors of 3 bytes"},
    {.name = "huge sectors",
        .hello = HELLO,
        .opened = OPENED_WITH("4096", "4294967808", "1", FLAGS("true", "false", "false")),
        .words = "cannot be"},
    {.name = "alignment 0",
        .hello = HELLO,
        .opened = OPENED_WITH("4096", "512", "0", FLAGS("true", "false", "false")),
        .words = "aligned to 0"},
    {.name = "size below zero",
        .hello = HELLO,
        .opened = OPENED_WITH("-1", "512", "1", FLAGS("true", "false", "false")),
        .words = "'size' is missing"},
    {.name = "size beyond 2^63",
        .hello = HELLO,
        .opened = OPENED_WITH("9223372036854775808", "512", "1", FLAGS("true", "false", "false")),
        .words = "no JSON object"},
    {.name = "size with a fraction",
        .hello = HELLO,
        .opened = OPENED_WITH("4096.5", "512", "1", FLAGS("true", "false", "false")),
        .words = "'size' is missing"},
    {.name = "no flags",
        .hello = HELLO,
        .opened = OPENED_WITH("4096", "512", "1", "\"x\":1"),
        .words = "'writable' is missing"},
    {.name = "read-only after all",
        .hello = HELLO,
        .opened = OPENED_WITH("4096", "512", "1", FLAGS("false", "false", "false")),
        .words = "for reading only",
        .options = {.write = true}},
    {.name = "created unasked",
        .hello = HELLO,
        .opened = OPENED_WITH("4096", "512", "1", FLAGS("true", "true", "true")),
        .words = "not asked"},
    {.name = "blank but not new",
        .hello = HELLO,
        .opened = OPENED_WITH("4096", "512", "1", FLAGS("true", "true", "false")),
        .words = "never written",
        .options = {.write = true, .create = true, .create_size = 4096}},
    {.name = "created at another size",
        .hello = HELLO,
        .opened = OPENED_WITH("4097", "512", "1", FLAGS("true", "true", "true")),
        .words = "of 4097 bytes, not of 4096",
        .options = {.write = true, .create = true, .create_size = 4096}},
    {.name = "DONE for OPENED",
        .hello = HELLO,
        .opened = "",
        .type = FRAME_DONE,
        .words = "DONE in answer to a control"},
    {.name = "refusal that is no JSON",
        .hello = HELLO,
        .opened = "no",
        .type = FRAME_ERROR,
        .words = "no JSON object"},
    {.name = "refusal",
        .hello = HELLO,
        .opened = "{\"code\":\"EACCES\",\"text\":\"no\\u001b[2Jway\"}",
        .type = FRAME_ERROR,
        .words = "no?[2Jway",
        .code = -EACCES},
    {.name = "refusal with an unknown code",
        .hello = HELLO,
        .opened = "{\"code\":\"EWHAT\"}",
        .type = FRAME_ERROR,
        .words = "Input/output error",
        .code = -EIO},
};

static void test_handshake(void **state)
{
	for (unsigned i = 0; i < sizeof(hello_rows) / sizeof(hello_rows[0]); i++) {
		const struct hello_row *row = &hello_rows[i];
		struct script script = {0};
		struct error error = {0};
		uint64_t start_ms = now_ms();
		struct agent agent;

		print_message("%s\n", row->name);
		agent_init(&agent);
		if (row->hello)
			script_text(&script, FRAME_HELLO, 0, row->hello);
		if (row->opened)
			script_text(&script, row->type ? row->type : FRAME_OPENED, OPEN_ID, row->opened);
		agent_say(&agent, &script);
		if (row->close)
			shutdown(agent.fds[1], SHUT_RDWR);
		assert_int_equal(
		    agent_connect(&agent, &row->options, &error), row->code ? row->code : -EPROTO);
		print_message("    %s\n", error.text);
		assert_non_null(strstr(error.text, row->words));
		assert_non_null(strstr(error.text, "there:/vol"));
		assert_true(now_ms() - start_ms < (row->patient ? 60000 : 30000));
		agent_done(&agent);
	}
}

static void test_raw_beginnings(void **state)
{
	static const struct {
		const char *bytes, *words;
		unsigned length;
		bool close;
	} rows[] = {
	    {"Welcome to this machine!\r\nIt is yours to keep, friend.\n",
	        "begins with \"Welcome to this machine!\"", 0, false},
	    {"bash: warning: setlocale: LC_ALL: cannot change locale\n", "login script", 0, false},
	    {"\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", "checksum",
	        40, false},
	    {"No agent.\n", "begins with \"No agent.\"", 0, true},
	    {"hi\n", "did not greet", 0, false},
	    {"Short text\n", "begins with \"Short text\"", 0, false},
	};
	const struct block_open_options options = {.write = true};

	for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct script script = {0};
		struct error error = {0};
		struct agent agent;

		agent_init(&agent);
		script_raw(&script, rows[i].bytes, rows[i].length ? rows[i].length : strlen(rows[i].bytes));
		agent_say(&agent, &script);
		if (rows[i].close)
			shutdown(agent.fds[1], SHUT_WR);
		assert_true(agent_connect(&agent, &options, &error) < 0);
		print_message("    %s\n", error.text);
		assert_non_null(strstr(error.text, rows[i].words));
		agent_done(&agent);
	}
}

static void close_it(struct ring_op *op, int res)
{
	close((int)op->fd);
}

/* An agent that ends closes what it reads first: HELLO meets a broken pipe, and the end comes after. */
static void test_end_behind_a_broken_pipe(void **state)
{
	const struct block_open_options options = {.link.timeout_ms = 20000};
	struct ring_op timer = {.opcode = RING_TIMER, .done = close_it};
	struct error error = {0};
	struct ring *ring;
	struct block *remote;
	int in[2], out[2];

	assert_int_equal(ring_new(&ring, 64, NULL), 0);
	assert_int_equal(pipe2(in, O_CLOEXEC), 0);
	assert_int_equal(pipe2(out, O_CLOEXEC), 0);
	close(out[0]);
	timer.fd = in[1];
	timer.deadline_ns = ring_now_ns(ring) + 50000000;
	ring_submit(ring, &timer);
	assert_int_equal(
	    remote_new(&remote, ring, in[0], out[1], "there:/vol", "/vol", &options, &error), -ENOTCONN);
	print_message("    %s\n", error.text);
	assert_non_null(strstr(error.text, "closed the connection"));
	ring_free(ring);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_handshake),
	    cmocka_unit_test(test_raw_beginnings),
	    cmocka_unit_test(test_end_behind_a_broken_pipe),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
