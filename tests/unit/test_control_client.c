/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What is asked over a control socket, and how often: by a peer that breaks off at each point. It is a thread that takes one connection after another and
 * does with each what the test says. Patience is as many milliseconds as it has seconds.
 */
#include "cli/control_client.h"

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "own_folder.h"

/* What the peer does with a connection. */
enum deed { END, ANSWER, REFUSE, READ_AND_CLOSE, READ_HALF_AND_CLOSE, CLOSE, READ_AND_WAIT };

static struct peer {
	int fd;
	pthread_t thread;
	const enum deed *deeds;
	unsigned taken; /* connections */
	unsigned read;  /* requests, whole ones */
} peer;
static time_t longest_s;

int __real_setsockopt(int fd, int level, int name, const void *value, socklen_t length);
int __wrap_setsockopt(int fd, int level, int name, const void *value, socklen_t length);

int __wrap_setsockopt(int fd, int level, int name, const void *value, socklen_t length)
{
	struct timeval time;

	if (level != SOL_SOCKET || (name != SO_RCVTIMEO && name != SO_SNDTIMEO))
		return __real_setsockopt(fd, level, name, value, length);
	time = *(const struct timeval *)value;
	longest_s = time.tv_sec > longest_s ? time.tv_sec : longest_s;
	/* What is answered at once is waited for as long as it takes. */
	if (peer.deeds[0] != READ_AND_WAIT)
		return 0;
	time = (struct timeval){.tv_usec = time.tv_sec * 1000};
	return __real_setsockopt(fd, level, name, &time, sizeof(time));
}

static void read_line(int fd)
{
	char byte = 0;

	while (byte != '\n' && read(fd, &byte, 1) == 1)
		;
	peer.read += byte == '\n';
}

static void take_one(int fd, enum deed deed)
{
	const char *reply = deed == ANSWER ? "{\"ok\": true}\n" : "{\"ok\": false, \"error\": \"no\"}\n";
	char bytes[4];

	if (deed == READ_HALF_AND_CLOSE)
		assert_true(read(fd, bytes, sizeof(bytes)) > 0);
	else if (deed != CLOSE)
		read_line(fd);
	if (deed == ANSWER || deed == REFUSE)
		assert_true(write(fd, reply, strlen(reply)) > 0);
	/* Until the other hangs up. */
	if (deed == READ_AND_WAIT)
		assert_int_equal(read(fd, bytes, 1), 0);
	close(fd);
}

static void *serve(void *data)
{
	for (; peer.deeds[peer.taken] != END; peer.taken++) {
		int fd = accept(peer.fd, NULL, NULL);

		assert_true(fd >= 0);
		take_one(fd, peer.deeds[peer.taken]);
	}
	close(peer.fd);
	return NULL;
}

static void begin(const enum deed *deeds)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};

	snprintf(address.sun_path, sizeof(address.sun_path), "%s/r.sock", folder);
	unlink(address.sun_path);
	longest_s = 0;
	peer = (struct peer){.fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), .deeds = deeds};
	assert_int_equal(bind(peer.fd, (struct sockaddr *)&address, sizeof(address)), 0);
	assert_int_equal(listen(peer.fd, 4), 0);
	assert_int_equal(pthread_create(&peer.thread, NULL, serve, NULL), 0);
}

/* 0: it was answered. The peer has done all its deeds, and so got as many connections. */
static int ask(const enum deed *deeds, const char *command, struct error *error)
{
	json_t *reply;
	int res;

	begin(deeds);
	reply = control_ask("r", json_pack("{s:s}", "command", command), error);
	res = reply ? 0 : error->code;
	json_decref(reply);
	assert_int_equal(pthread_join(peer.thread, NULL), 0);
	return res;
}

static void test_answers(void **state)
{
	struct error error;

	assert_int_equal(ask((const enum deed[]){ANSWER, END}, "primary", &error), 0);
	assert_int_equal(ask((const enum deed[]){REFUSE, END}, "primary", &error), -EPROTO);
	assert_string_equal(error.text, "r says: no");
	assert_null(control_ask("nobody", json_pack("{s:s}", "command", "primary"), &error));
	assert_int_equal(error.code, -ENOENT);
	assert_null(control_ask("r", json_pack("{s:s}", "command", "primary"), &error));
	assert_int_equal(error.code, -ECONNREFUSED);
}

/* It was read: whether it was done before the process ended nobody knows. */
static void test_an_order_that_was_read_is_not_sent_again(void **state)
{
	struct error error;

	assert_int_equal(ask((const enum deed[]){READ_AND_CLOSE, END}, "primary", &error), -ETIMEDOUT);
	assert_int_equal(peer.read, 1);
	assert_non_null(
	    strstr(error.text, "it may have done it all the same: see `blkmove status --json r`"));
	assert_int_equal(ask((const enum deed[]){READ_AND_WAIT, END}, "primary", &error), -ETIMEDOUT);
	assert_int_equal(peer.read, 1);
	assert_non_null(strstr(error.text, "it may have done it all the same"));
	assert_true(longest_s >= 60);
}

static void test_an_order_that_was_not_read_is_sent_again(void **state)
{
	struct error error;

	assert_int_equal(
	    ask((const enum deed[]){CLOSE, READ_HALF_AND_CLOSE, ANSWER, END}, "primary", &error), 0);
	assert_int_equal(peer.read, 1);
	/* To its end. */
	assert_int_equal(
	    ask((const enum deed[]){READ_HALF_AND_CLOSE, END}, "primary", &error), -ECONNREFUSED);
	assert_int_equal(peer.read, 0);
	/* And not for ever. */
	assert_int_equal(ask((const enum deed[]){CLOSE, CLOSE, CLOSE, CLOSE, CLOSE, CLOSE, CLOSE, CLOSE,
	                         CLOSE, CLOSE, END},
	                     "primary", &error),
	    -ETIMEDOUT);
	assert_string_equal(error.text, "r gives no answer");
}

/* What was killed while it had read the question, and still listens for a moment. */
static void test_a_question_is_asked_again(void **state)
{
	struct error error;

	assert_int_equal(ask((const enum deed[]){READ_AND_CLOSE, CLOSE, ANSWER, END}, "status", &error), 0);
	assert_int_equal(ask((const enum deed[]){READ_AND_CLOSE, END}, "order", &error), -ECONNREFUSED);
	/* One that is busy: the caller says how often. */
	assert_int_equal(ask((const enum deed[]){READ_AND_WAIT, END}, "status", &error), -ETIMEDOUT);
	assert_string_equal(error.text, "r gives no answer");
}

static int make_folder(void **state)
{
	int res = own_folder_make(state);

	return res < 0 ? res : setenv("BLKMOVE_RUN_DIR", folder, 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(test_answers, make_folder, own_folder_remove),
	    cmocka_unit_test_setup_teardown(
	        test_an_order_that_was_read_is_not_sent_again, make_folder, own_folder_remove),
	    cmocka_unit_test_setup_teardown(
	        test_an_order_that_was_not_read_is_sent_again, make_folder, own_folder_remove),
	    cmocka_unit_test_setup_teardown(test_a_question_is_asked_again, make_folder, own_folder_remove)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
