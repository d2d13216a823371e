/* SPDX-License-Identifier: GPL-2.0-or-later */
/* How ssh is called, and what becomes of the child: with scripts in ssh's place. */
#include "base/cleanup.h"
#include "block/remote.h"
#include "wire/transport.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

#include <cmocka.h>

static char top[] = "/tmp/blkmove-transport-XXXXXX";
static char program[PATH_MAX];

static int setup(void **state)
{
	if (!mkdtemp(top))
		return -1;
	snprintf(program, sizeof(program), "%s/ssh", top);
	return 0;
}

static int teardown(void **state)
{
	unlink(program);
	return rmdir(top);
}

/* What stands in ssh's place: $command is the last word, what the far shell would run. */
static void fake(const char *body)
{
	FILE *file = fopen(program, "w");

	assert_non_null(file);
	fprintf(file,
	    "#!/bin/sh\n"
	    "for word; do command=$word; done\n"
	    "%s\n",
	    body);
	fchmod(fileno(file), 0700);
	assert_int_equal(fclose(file), 0);
}

static uint64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static int open_by(const char *agent_path, const char *host, struct error *error)
{
	const struct endpoint endpoint = {
	    .kind = ENDPOINT_SSH, .name = (char *)"far:/vol", .host = (char *)host, .path = (char *)"/vol"};
	const struct block_open_options options = {
	    .link = {.ssh_program = program, .agent_path = agent_path, .timeout_ms = 20000}};
	struct block *block;
	struct ring *ring;
	int res;

	assert_int_equal(ring_new(&ring, 64, NULL), 0);
	res = remote_open(&block, ring, &endpoint, &options, error);
	assert_true(res < 0);
	ring_free(ring);
	print_message("    %s\n", error->text);
	return res;
}

static void test_hosts(void **state)
{
	static const char *const bad[] = {
	    "-oProxyCommand=touch x", "-x", "", "user@-x", "user@", "a b", "a\nb", "\x1b"};
	struct ssh_command command;
	struct error error;

	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		assert_int_equal(
		    ssh_command_make(&command, &(struct ssh_options){.host = bad[i]}, false, &error),
		    -EINVAL);
		assert_non_null(strstr(error.text, "name of a machine"));
	}
	assert_int_equal(ssh_command_make(&command, &(struct ssh_options){.host = "u@h"}, false, &error), 0);
	for (char **word = command.argv;; word++) {
		assert_non_null(*word);
		if (!strcmp(*word, "--")) {
			assert_string_equal(word[1], "u@h");
			assert_string_equal(word[2], "blkmove agent");
			assert_null(word[3]);
			break;
		}
	}
	ssh_command_done(&command);
}

/* The words pass through a real shell and must come out as they were. */
static void test_agent_paths_survive_a_shell(void **state)
{
	static const char *const paths[] = {"/usr/bin/blkmove", "/opt/my tools/blkmove", "it's",
	    "a'b\"c$HOME`id`;x&y|z", "*", "\\", "a\\'b", "/x/$(touch y)", "!!", "#x", "~user/x", "\xc3\xa4"};

	for (unsigned i = 0; i < sizeof(paths) / sizeof(paths[0]); i++) {
		const struct ssh_options options = {.host = "h", .agent_path = paths[i]};
		struct ssh_command command;
		char line[512], wanted[512];
		FILE *shell;
		size_t got;

		assert_int_equal(ssh_command_make(&command, &options, false, NULL), 0);
		snprintf(line, sizeof(line), "printf '<%%s>' %s", command.words);
		snprintf(wanted, sizeof(wanted), "<%s><agent>", paths[i]);
		shell = popen(line, "r");
		got = fread(line, 1, sizeof(line) - 1, shell);
		line[got] = '\0';
		pclose(shell);
		assert_string_equal(line, wanted);
		ssh_command_done(&command);
	}
}

static void test_agent_path_at_home(void **state)
{
	struct ssh_command command;

	assert_int_equal(ssh_command_make(&command,
	                     &(struct ssh_options){.host = "h", .agent_path = "~/my bin/b"}, false, NULL),
	    0);
	assert_string_equal(command.words, "~/'my bin/b' agent");
	ssh_command_done(&command);
	assert_int_equal(
	    ssh_command_make(&command, &(struct ssh_options){.host = "h", .agent_path = "a\nb"}, false, NULL),
	    -EINVAL);
	assert_int_equal(
	    ssh_command_make(&command, &(struct ssh_options){.host = "h", .agent_path = "-c"}, false, NULL),
	    -EINVAL);
}

static void test_cipher_line(void **state)
{
	char line[64];

	assert_true(ssh_command_ciphers("host x\nciphers a,b\nport 22\n", line, sizeof(line)));
	assert_string_equal(line, "a,b");
	assert_true(ssh_command_ciphers("ciphers c", line, sizeof(line)));
	assert_string_equal(line, "c");
	assert_false(ssh_command_ciphers("host x\nnociphers a\n", line, sizeof(line)));
	assert_false(ssh_command_ciphers("", line, sizeof(line)));
	assert_false(ssh_command_ciphers(
	    "ciphers aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\n", line,
	    sizeof(line)));
}

/* AES-GCM goes first only where nobody chose. */
static void test_ciphers_are_left_alone_when_chosen(void **state)
{
	const struct ssh_options options = {.program = program, .host = "h"};
	const char *const words[] = {"-c", "aes256-ctr", NULL};
	struct ssh_options chosen = options;
	struct ring *ring;

	assert_int_equal(ring_new(&ring, 64, NULL), 0);
	fake("echo ciphers chacha20-poly1305@openssh.com,aes128-gcm@openssh.com");
	if (!ssh_command_ciphers_are_default(&options, ring))
		print_message("this processor has no AES\n");
	else
		fake("case \"$*\" in *none*) echo ciphers chacha,aes128-gcm@openssh.com;; "
		     "*) echo ciphers aes128-gcm@openssh.com;; esac");
	assert_false(ssh_command_ciphers_are_default(&options, ring));
	/* The user's words are asked with. */
	fake("case \"$*\" in *aes256-ctr*) echo ciphers aes256-ctr;; "
	     "*) echo ciphers chacha20-poly1305@openssh.com,aes128-gcm@openssh.com;; esac");
	chosen.ssh_options = words;
	assert_false(ssh_command_ciphers_are_default(&chosen, ring));
	fake("exit 255");
	assert_false(ssh_command_ciphers_are_default(&options, ring));
	ring_free(ring);
}

static void test_failures_have_words(void **state)
{
	static const struct {
		const char *body, *words;
		int code;
	} rows[] = {
	    {"echo 'ssh: connect to host far port 22: Connection refused' >&2; exit 255",
	        "port 22: Connection refused", -ENOTCONN},
	    {"exit 255", "without a word", -ENOTCONN},
	    {"exec sh -c \"$command\"", "'no-such-blkmove' was not found there", -ENOPKG},
	    {"exec sh -c \"$command\"", "--agent-path", -ENOPKG},
	    {"echo first >&2; echo 'sudo: a password is required' >&2; exit 3",
	        "status 3: sudo: a password is required", -ENOTCONN},
	    {"printf 'no line end\\033[2J' >&2; exit 1", "no line end?[2J", -ENOTCONN},
	    {"echo reason >&2; echo \"Warning: Permanently added 'far' to the list.\" >&2; exit 1",
	        "status 1: reason", -ENOTCONN},
	    {"kill -9 $$", "signal 9", -ENOTCONN},
	    {"exit 0", "closed the connection", -ENOTCONN},
	    {"echo 'Hello, this is a login script that says a little more than need be'; exec sleep 100",
	        "login script", -EPROTO},
	    /* Much more than a pipe holds: nobody may wait for it. */
	    {"head -c 3000000 /dev/zero | tr '\\0' x >&2; echo >&2; echo last >&2; exit 1", "status 1: last",
	        -ENOTCONN},
	};

	for (unsigned i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct error error = {0};

		print_message("%s\n", rows[i].body);
		fake(rows[i].body);
		assert_int_equal(open_by("no-such-blkmove", "far", &error), rows[i].code);
		assert_non_null(strstr(error.text, rows[i].words));
		assert_non_null(strstr(error.text, "far:/vol"));
	}
}

static void test_no_program(void **state)
{
	struct error error = {0};

	unlink(program);
	assert_int_equal(open_by(NULL, "far", &error), -ENOENT);
	assert_non_null(strstr(error.text, program));
}

/* A child that will not end is ended, and none stays behind. */
static void test_stubborn_child(void **state)
{
	struct ring *ring;
	struct transport *transport;
	const struct ssh_options options = {.program = program, .host = "h", .timeout_ms = 1000};
	char text[8];
	int in, out;
	uint64_t start_ms;
	pid_t pid;

	fake("case \"$*\" in *-G*) exit 1;; esac; trap '' TERM; echo ready; while :; do sleep 1; done");
	assert_int_equal(ring_new(&ring, 64, NULL), 0);
	assert_int_equal(transport_ssh(&transport, ring, &options, &in, &out, NULL), 0);
	pid = transport_pid(transport);
	assert_int_equal(read(in, text, sizeof(text)), 6);
	assert_true(fcntl(out, F_GETPIPE_SZ) >= 65536);
	close(in);
	close(out);
	start_ms = now_ms();
	transport_free(transport, false);
	assert_true(now_ms() - start_ms < 20000);
	assert_int_equal(kill(pid, 0), -1);
	assert_int_equal(waitpid(-1, NULL, WNOHANG), -1);
	ring_free(ring);
}

/* A healthy one may take its leave: it sees the end of its input and goes. */
static void test_gentle_end(void **state)
{
	struct ring *ring;
	struct transport *transport;
	const struct ssh_options options = {.program = program, .host = "h", .timeout_ms = 1000};
	char mark[PATH_MAX + 8], body[2 * PATH_MAX];
	int in, out;

	snprintf(mark, sizeof(mark), "%s/gone", top);
	snprintf(
	    body, sizeof(body), "case \"$*\" in *-G*) exit 1;; esac; cat >/dev/null; sleep 0.2; : >%s", mark);
	fake(body);
	assert_int_equal(ring_new(&ring, 64, NULL), 0);
	assert_int_equal(transport_ssh(&transport, ring, &options, &in, &out, NULL), 0);
	close(in);
	close(out);
	transport_free(transport, true);
	assert_int_equal(unlink(mark), 0);
	ring_free(ring);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_hosts),
	    cmocka_unit_test(test_agent_paths_survive_a_shell),
	    cmocka_unit_test(test_agent_path_at_home),
	    cmocka_unit_test(test_cipher_line),
	    cmocka_unit_test(test_ciphers_are_left_alone_when_chosen),
	    cmocka_unit_test(test_failures_have_words),
	    cmocka_unit_test(test_no_program),
	    cmocka_unit_test(test_stubborn_child),
	    cmocka_unit_test(test_gentle_end),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
