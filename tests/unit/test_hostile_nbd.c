/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Clients of the NBD server that break the rules, go away, or get stuck: each costs itself at most. After every one of them an
 * honest client is served as if nothing had been.
 */
#include "nbd_host.h"
#include "seed.h"

#include "base/rand.h"

#include <fcntl.h>
#include <sys/stat.h>

/* All is well for others. */
static void check_honest(struct host *host)
{
	int fd = enter(host, false);
	uint8_t data[4096], found[4096];

	memset(data, 0x5a, sizeof(data));
	assert_int_equal(call(fd, NBD_COMMAND_WRITE, NBD_FLAG_FUA, 8192, sizeof(data), data), 0);
	assert_int_equal(call(fd, NBD_COMMAND_READ, 0, 8192, sizeof(data), found), 0);
	assert_memory_equal(found, data, sizeof(data));
	request(fd, NBD_COMMAND_DISCONNECT, 0, 0, 0, 0);
	expect_end(fd);
}

static void test_wrong_negotiation(void **state)
{
	struct host host = {0};
	uint8_t bytes[64] = {0};
	int fd;

	host_start(&host);
	for (unsigned i = 0; i < 3; i++) {
		static const uint32_t flags[] = {0, 2, 0x40000001};

		fd = dial(&host);
		put_be32(bytes, flags[i]);
		put(fd, bytes, 4);
		expect_end(fd);
	}
	fd = greet(&host);
	put(fd, "IHAVEOPP\0\0\0\3\0\0\0\0", 16);
	expect_end(fd);
	/* Gigabytes of data are refused before they come. */
	fd = greet(&host);
	put(fd, "IHAVEOPT\0\0\0\7\xff\xff\xff\xff", 16);
	assert_int_equal(get_answer(fd, NBD_OPTION_GO, NULL, NULL), NBD_ANSWER_ERROR(NBD_ANSWER_TOO_BIG));
	expect_end(fd);
	check_honest(&host);
	wait_for_clients(&host, 0);
	assert_int_equal(host.failed, 4);
	host_stop(&host);
}

static void test_wrong_requests(void **state)
{
	struct host host = {0};
	uint8_t bytes[NBD_REQUEST_BYTES] = {0};
	int fd;

	host_start(&host);
	fd = enter(&host, true);
	put(fd, bytes, sizeof(bytes));
	expect_end(fd);
	fd = enter(&host, false);
	request(fd, NBD_COMMAND_WRITE, 0, 1, 0, NBD_PAYLOAD_MAX + 1);
	expect_end(fd);
	check_honest(&host);
	assert_int_equal(host.failed, 2);
	/* It is said who. */
	assert_memory_equal(host.error.text, "client pid ", 11);
	assert_int_equal(atoi(host.error.text + 11), getpid());
	host_stop(&host);
}

/* Cut off after every byte of a negotiation and a write. */
static void test_truncated_everywhere(void **state)
{
	uint8_t bytes[4 + 16 + 10 + NBD_REQUEST_BYTES + 64] = {0};
	struct host host = {0};
	size_t at = 4;

	put_be32(bytes, 3);
	memcpy(bytes + at, "IHAVEOPT\0\0\0\7\0\0\0\12\0\0\0\4disk\0\0", 26);
	at += 26;
	put_be32(bytes + at, 0x25609513);
	bytes[at + 7] = NBD_COMMAND_WRITE;
	put_be32(bytes + at + 24, 64);
	host_start(&host);
	for (size_t length = 0; length <= sizeof(bytes); length++) {
		int fd = dial(&host);

		put(fd, bytes, length);
		if (length % 2)
			shutdown(fd, SHUT_WR);
		else
			usleep(500);
		if (length % 2)
			expect_end(fd);
		else
			close(fd);
	}
	wait_for_clients(&host, 0);
	check_honest(&host);
	host_stop(&host);
}

/* It goes while the volume has its requests: they come back to the server, and only then the client is freed. */
static void test_gone_with_requests_in_flight(void **state)
{
	struct host host = {.delay = {.min_ns = 20000000, .max_ns = 60000000, .seed = 7}};
	static uint8_t data[20000];

	host_start(&host);
	for (int i = 0; i < 10; i++) {
		int fd = enter(&host, i % 2);

		for (uint32_t j = 0; j < 50; j++) {
			request(fd, NBD_COMMAND_WRITE, 0, j, j * 20000, sizeof(data));
			put(fd, data, sizeof(data));
			request(fd, NBD_COMMAND_READ, 0, j, j * 20000, sizeof(data));
		}
		close(fd);
	}
	wait_for_clients(&host, 0);
	check_honest(&host);
	host_stop(&host);
}

/* The same, cut off by the server's end without patience. */
static void test_server_ends_first(void **state)
{
	struct host host = {.delay = {.min_ns = 20000000, .max_ns = 60000000, .seed = 7}};
	static uint8_t data[20000];
	int fds[5];

	host_start(&host);
	for (int i = 0; i < 5; i++) {
		fds[i] = enter(&host, i % 2);
		for (uint32_t j = 0; j < 10; j++) {
			request(fds[i], NBD_COMMAND_WRITE, 0, j, j * 20000, sizeof(data));
			put(fds[i], data, sizeof(data));
		}
		/* And one of which half has come. */
		request(fds[i], NBD_COMMAND_WRITE, 0, 11, 0, sizeof(data));
		put(fds[i], data, 9000);
	}
	usleep(10000);
	host_stop(&host);
	for (int i = 0; i < 5; i++)
		expect_end(fds[i]);
}

/* It says that it sends no more, and still reads: it gets its replies. */
static void test_half_open(void **state)
{
	struct host host = {.delay = {.min_ns = 5000000, .max_ns = 30000000, .seed = 3}};
	static uint8_t data[5000];
	int fd;

	host_start(&host);
	fd = enter(&host, false);
	for (unsigned i = 0; i < 40; i++)
		request(fd, NBD_COMMAND_READ, 0, i, i, sizeof(data));
	shutdown(fd, SHUT_WR);
	for (unsigned i = 0; i < 40; i++) {
		assert_int_equal(reply(fd, NULL), 0);
		get(fd, data, sizeof(data));
	}
	expect_end(fd);
	wait_for_clients(&host, 0);
	assert_int_equal(host.failed, 0);
	host_stop(&host);
}

/* Sends reads and never takes a reply, until nothing more is taken from it. Returns how many went out. */
static unsigned get_stuck(int fd, uint32_t length)
{
	uint8_t bytes[NBD_REQUEST_BYTES] = {0};
	unsigned count = 0, idle = 0;

	put_be32(bytes, 0x25609513);
	put_be32(bytes + 24, length);
	fcntl(fd, F_SETFL, O_NONBLOCK);
	while (idle < 20) {
		put_be64(bytes + 8, count);
		if (send(fd, bytes, sizeof(bytes), MSG_NOSIGNAL) == sizeof(bytes)) {
			count++;
			idle = 0;
		} else {
			usleep(5000);
			idle++;
		}
	}
	fcntl(fd, F_SETFL, 0);
	return count;
}

static long resident_kib(void)
{
	FILE *file = fopen("/proc/self/statm", "re");
	long pages = 0;

	assert_int_equal(fscanf(file, "%*d %ld", &pages), 1);
	fclose(file);
	return pages * 4;
}

#define STUCK 12

/* More stuck clients than there are bytes for: memory is bounded, others go on, and the stuck get all when they wake. */
static void test_stuck_clients(void **state)
{
	struct host host = {.options = {.inflight_bytes = 4u << 20}};
	static uint8_t data[500000];
	unsigned count[STUCK];
	int fds[STUCK];
	long before;

	host_start(&host);
	check_honest(&host);
	before = resident_kib();
	for (int i = 0; i < STUCK; i++) {
		fds[i] = enter(&host, false);
		count[i] = get_stuck(fds[i], sizeof(data));
		check_honest(&host);
	}
	/* 4 MiB, one request of half a MiB each beyond, and each client's own structures. */
	assert_true(resident_kib() - before <= 4096 + STUCK * (512 + 400) + 4096);
	for (unsigned i = 0; i < count[0]; i++) {
		assert_int_equal(reply(fds[0], NULL), 0);
		get(fds[0], data, sizeof(data));
	}
	for (int i = 0; i < STUCK; i++)
		close(fds[i]);
	wait_for_clients(&host, 0);
	check_honest(&host);
	host_stop(&host);
}

/* The longest requests there are, by many who do not take the replies: they wait for each other, and nobody else for them. */
static void test_stuck_with_huge_requests(void **state)
{
	struct host host = {.size = 40u << 20, .options = {.inflight_bytes = 4u << 20}};
	int fds[STUCK];
	long before;

	host_start(&host);
	check_honest(&host);
	before = resident_kib();
	for (int i = 0; i < STUCK; i++) {
		fds[i] = enter(&host, false);
		request(fds[i], NBD_COMMAND_READ, 0, 1, 0, NBD_PAYLOAD_MAX);
		check_honest(&host);
	}
	usleep(200000);
	assert_true(resident_kib() - before <= (4096 + 32768) + STUCK * 400 + 8192);
	for (int i = 0; i < STUCK; i++)
		close(fds[i]);
	wait_for_clients(&host, 0);
	check_honest(&host);
	host_stop(&host);
}

static void test_limits(void **state)
{
	struct host host = {.options = {.connections_max = 2, .handshake_ms = 2000}};
	int first, second;

	host_start(&host);
	first = enter(&host, false);
	second = dial(&host);
	wait_for_clients(&host, 2);
	expect_end(dial(&host));
	/* Who says nothing is let go; who has begun in time stays. */
	expect_end(second);
	usleep(400000);
	check_honest(&host);
	request(first, NBD_COMMAND_FLUSH, 0, 1, 0, 0);
	assert_int_equal(reply(first, NULL), 0);
	close(first);
	host_stop(&host);
	assert_int_equal(host.failed, 2);
}

/* Any bytes whatever, behind a good beginning or none. */
static void test_noise(void **state)
{
	struct host host = {0};
	struct rand rand;

	rand_init(&rand, seed_of_run());
	host_start(&host);
	for (int i = 0; i < 300; i++) {
		uint64_t kind = rand_below(&rand, 3);
		int fd = kind == 0   ? dial(&host)
		         : kind == 1 ? greet(&host)
		                     : enter(&host, rand_one_in(&rand, 2));
		uint8_t bytes[600];
		size_t length = rand_between(&rand, 1, sizeof(bytes));

		rand_bytes(&rand, bytes, length);
		if (kind == 1 && rand_one_in(&rand, 2)) {
			memcpy(bytes, "IHAVEOPT\0\0\0", 11);
			bytes[11] %= 12;
			memset(bytes + 12, 0, 3);
		} else if (kind == 2 && rand_one_in(&rand, 2)) {
			put_be32(bytes, 0x25609513);
			bytes[6] = 0;
			bytes[7] %= 9;
			memset(bytes + 16, 0, 6);
			memset(bytes + 24, 0, 2);
		}
		(void)send(fd, bytes, length, MSG_NOSIGNAL);
		if (rand_one_in(&rand, 2))
			shutdown(fd, SHUT_WR);
		close(fd);
	}
	wait_for_clients(&host, 0);
	check_honest(&host);
	host_stop(&host);
}

/* Its greeting in two records that come at once: allowed, and what noise may look like. */
struct halves {
	int fd;
	bool greeted;
};

static ssize_t push_halves(gnutls_transport_ptr_t pointer, const void *buf, size_t length)
{
	struct halves *halves = pointer;
	const uint8_t *record = buf;
	uint8_t bytes[2000];
	size_t half = (length - 5) / 2;

	if (halves->greeted) {
		put(halves->fd, buf, length);
		return (ssize_t)length;
	}
	halves->greeted = true;
	assert_true(length > 10 && length + 5 <= sizeof(bytes) && get_be16(record + 3) == length - 5);
	memcpy(bytes, record, 5 + half);
	put_be16(bytes + 3, (uint16_t)half);
	memcpy(bytes + 5 + half, record, 3);
	put_be16(bytes + 5 + half + 3, (uint16_t)(length - 5 - half));
	memcpy(bytes + 10 + half, record + 5 + half, length - 5 - half);
	put(halves->fd, bytes, length + 5);
	return (ssize_t)length;
}

/* With a key of 16 bytes. */
static void shake_in_halves(int fd, const char *user, const char *hex)
{
	gnutls_datum_t key = {.data = (uint8_t *)hex, .size = 32};
	gnutls_psk_client_credentials_t credentials;
	struct halves halves = {.fd = fd};
	gnutls_session_t session;
	int res;

	assert_int_equal(gnutls_psk_allocate_client_credentials(&credentials), 0);
	assert_int_equal(gnutls_psk_set_client_credentials(credentials, user, &key, GNUTLS_PSK_KEY_HEX), 0);
	assert_int_equal(gnutls_init(&session, GNUTLS_CLIENT), 0);
	assert_int_equal(gnutls_priority_set_direct(session, "NORMAL:-KX-ALL:+ECDHE-PSK:+DHE-PSK", NULL), 0);
	assert_int_equal(gnutls_credentials_set(session, GNUTLS_CRD_PSK, credentials), 0);
	gnutls_transport_set_ptr2(session, (gnutls_transport_ptr_t)(intptr_t)fd, &halves);
	gnutls_transport_set_push_function(session, push_halves);
	res = gnutls_handshake(session);
	if (res != 0)
		fail_msg("%s", gnutls_strerror(res));
	gnutls_deinit(session);
	gnutls_psk_free_client_credentials(credentials);
	close(fd);
}

/* TLS: nothing goes on without it, nothing slipped in before it counts, and noise in it is refused. */
static void test_tls_cannot_be_passed_by(void **state)
{
	char path[64];
	struct tls_options tls = {.psk_file = path};
	FILE *keys;
	struct host host = {.options = {.tls_required = true}};
	struct error error;
	uint8_t noise[600] = {22, 3, 1, 2, 0};
	int fd;

	snprintf(path, sizeof(path), "/var/tmp/blkmove-host-%d.psk", (int)getpid());
	keys = fopen(path, "we");
	fputs("alice:00112233445566778899aabbccddeeff\n", keys);
	fclose(keys);
	assert_int_equal(tls_new(&host.options.tls, &tls, &error), 0);
	host_start(&host);
	fd = greet(&host);
	assert_int_equal(ask(fd, NBD_OPTION_LIST, NULL, 0), NBD_ANSWER_ERROR(NBD_ANSWER_TLS_REQUIRED));
	assert_int_equal(
	    ask(fd, NBD_OPTION_GO, "\0\0\0\0\0\0", 6), NBD_ANSWER_ERROR(NBD_ANSWER_TLS_REQUIRED));
	send_option(fd, NBD_OPTION_EXPORT_NAME, "disk", 4);
	expect_end(fd);
	fd = greet(&host);
	put(fd, "IHAVEOPT\0\0\0\5\0\0\0\0IHAVEOPT\0\0\0\3\0\0\0\0", 32);
	expect_end(fd);
	fd = greet(&host);
	assert_int_equal(ask(fd, NBD_OPTION_STARTTLS, NULL, 0), NBD_ANSWER_ACK);
	put(fd, noise, sizeof(noise));
	expect_end(fd);
	fd = greet(&host);
	assert_int_equal(ask(fd, NBD_OPTION_STARTTLS, NULL, 0), NBD_ANSWER_ACK);
	shake_in_halves(fd, "alice", "00112233445566778899aabbccddeeff");
	fd = greet(&host);
	assert_int_equal(ask(fd, NBD_OPTION_STARTTLS, NULL, 0), NBD_ANSWER_ACK);
	close(fd);
	wait_for_clients(&host, 0);
	/* One that stops in the middle of it does not keep the server from ending. */
	fd = greet(&host);
	assert_int_equal(ask(fd, NBD_OPTION_STARTTLS, NULL, 0), NBD_ANSWER_ACK);
	host_stop(&host);
	expect_end(fd);
	tls_free(host.options.tls);
	unlink(path);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_wrong_negotiation),
	    cmocka_unit_test(test_wrong_requests),
	    cmocka_unit_test(test_truncated_everywhere),
	    cmocka_unit_test(test_gone_with_requests_in_flight),
	    cmocka_unit_test(test_server_ends_first),
	    cmocka_unit_test(test_half_open),
	    cmocka_unit_test(test_stuck_clients),
	    cmocka_unit_test(test_stuck_with_huge_requests),
	    cmocka_unit_test(test_limits),
	    cmocka_unit_test(test_noise),
	    cmocka_unit_test(test_tls_cannot_be_passed_by),
	};

	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
