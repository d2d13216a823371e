/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Streams under TLS, real GnuTLS at both ends: data, ends, and peers that are not what they should be. */
#include "base/rand.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/wait.h>

#include <cmocka.h>

#include "tls_pair.h"
#include "tls_relay.h"

#include "seed.h"

/* Writes all of `bytes` to a plain end in odd pieces, or reads them there. */
struct talk {
	struct ring *ring;
	struct rand *rand;
	struct ring_op op;
	uint8_t *bytes, *piece;
	size_t length, at;
	bool ended; /* all is written, or the end of file was read */
	int failed;
};

#define PIECE_MAX 300001u

static void talk_on(struct talk *talk)
{
	uint64_t most =
	    talk->op.opcode == RING_WRITE ? min_u64(PIECE_MAX, talk->length - talk->at) : PIECE_MAX;

	talk->op.buf = talk->op.opcode == RING_WRITE ? talk->bytes + talk->at : talk->piece;
	talk->op.length = rand_one_in(talk->rand, 3) ? 1 + rand_below(talk->rand, min_u64(most, 999)) : most;
	ring_submit(talk->ring, &talk->op);
}

static void talk_done(struct ring_op *op, int res)
{
	struct talk *talk = container_of(op, struct talk, op);

	if (res > 0 && op->opcode == RING_READ) {
		assert_true(talk->at + (size_t)res <= talk->length);
		assert_memory_equal(talk->piece, talk->bytes + talk->at, res);
	}
	talk->at += res > 0 ? (size_t)res : 0;
	talk->failed = res < 0 ? res : 0;
	talk->ended = res <= 0 || (op->opcode == RING_WRITE && talk->at == talk->length);
	if (!talk->ended)
		talk_on(talk);
}

static void talk_start(struct talk *talk, struct pair *pair, struct rand *rand, unsigned end, bool write,
    uint8_t *bytes, size_t length)
{
	*talk = (struct talk){.ring = pair->ring, .rand = rand, .bytes = bytes, .length = length};
	talk->piece = malloc(PIECE_MAX);
	talk->op = (struct ring_op){.opcode = write ? RING_WRITE : RING_READ,
	    .fd = pair->ends[end].plain,
	    .offset = RING_STREAM,
	    .done = talk_done};
	talk->ended = write && length == 0;
	if (!talk->ended)
		talk_on(talk);
}

/* Runs it to its end; one that reads must have got all. */
static void talk_end(struct talk *talk)
{
	assert_int_equal(ring_run_until(talk->ring, &talk->ended), 0);
	assert_int_equal(talk->failed, 0);
	assert_int_equal(talk->at, talk->length);
	free(talk->piece);
}

/* What each says to the other at the same time; then each shuts its direction. */
static void talk_both_ways(struct pair *pair, struct rand *rand, const size_t lengths[2])
{
	struct talk out[2], in[2];
	uint8_t *bytes[2];

	for (unsigned i = 0; i < 2; i++) {
		bytes[i] = malloc(lengths[i] + 1);
		rand_bytes(rand, bytes[i], lengths[i]);
	}
	for (unsigned i = 0; i < 2; i++) {
		talk_start(&out[i], pair, rand, i, true, bytes[i], lengths[i]);
		talk_start(&in[i], pair, rand, i, false, bytes[!i], lengths[!i]);
	}
	for (unsigned i = 0; i < 2; i++) {
		talk_end(&out[i]);
		shutdown(pair->ends[i].plain, SHUT_WR);
	}
	talk_end(&in[0]);
	talk_end(&in[1]);
	free(bytes[0]);
	free(bytes[1]);
}

static void expect_good_ends(struct pair *pair)
{
	for (unsigned i = 0; i < 2; i++) {
		wait_ended(pair, i);
		assert_int_equal(pair->ends[i].error.code, 0);
	}
}

static void test_data_of_odd_sizes(void **state)
{
	static const size_t lengths[][2] = {
	    {0, 0}, {1, 0}, {0, 1}, {16384, 16385}, {65536, 65537}, {(7 << 20) + 13, (5 << 20) + 1}};
	struct rand rand;

	make_certificates();
	rand_init(&rand, seed_of_run());
	for (unsigned kind = 0; kind < 4; kind++) {
		for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
			struct pair pair;
			int fds[2];

			(kind & 1 ? connect_tcp : connect_unix)(fds);
			pair_start(&pair, kind & 2, fds);
			talk_both_ways(&pair, &rand, lengths[i]);
			expect_good_ends(&pair);
			pair_free(&pair);
		}
	}
}

/* One says all that it has; only then the other begins. */
static void test_half_close(void **state)
{
	enum { LENGTH = (3 << 20) + 77 };
	uint8_t *bytes = malloc(LENGTH);
	struct rand rand;

	rand_init(&rand, seed_of_run());
	rand_bytes(&rand, bytes, LENGTH);
	for (unsigned first = 0; first < 2; first++) {
		struct talk out, in;
		struct pair pair;
		int fds[2];

		connect_tcp(fds);
		pair_start(&pair, true, fds);
		for (unsigned turn = 0; turn < 2; turn++) {
			talk_start(&in, &pair, &rand, first ^ turn ^ 1, false, bytes, LENGTH);
			talk_start(&out, &pair, &rand, first ^ turn, true, bytes, LENGTH);
			talk_end(&out);
			shutdown(pair.ends[first ^ turn].plain, SHUT_WR);
			talk_end(&in);
			assert_false(turn == 0 && (pair.ends[0].ended || pair.ends[1].ended));
		}
		expect_good_ends(&pair);
		pair_free(&pair);
	}
	free(bytes);
}

/* Last words of one who closes at once and frees, and reads nothing of what the other never stops to say. */
static void test_last_words(void **state)
{
	static uint8_t words[100003], noise[5 << 20];
	struct rand rand;

	rand_init(&rand, seed_of_run());
	rand_bytes(&rand, words, sizeof(words));
	for (unsigned end = 0; end < 2; end++) {
		struct talk shout, in;
		struct pair pair;
		int fds[2];

		connect_tcp(fds);
		pair_start(&pair, true, fds);
		while (!tls_stream_is_open(pair.ends[0].stream) || !tls_stream_is_open(pair.ends[1].stream))
			pair_step(&pair);
		talk_start(&shout, &pair, &rand, !end, true, noise, sizeof(noise));
		run_for_ms(pair.ring, 20);
		assert_int_equal(
		    send(pair.ends[end].plain, words, sizeof(words), MSG_DONTWAIT), sizeof(words));
		end_close(&pair.ends[end]);
		talk_start(&in, &pair, &rand, !end, false, words, sizeof(words));
		pair.ends[end].stream = tls_stream_free(pair.ends[end].stream, true);
		talk_end(&in);
		end_close(&pair.ends[!end]);
		assert_int_equal(ring_run_until(pair.ring, &shout.ended), 0);
		free(shout.piece);
		pair_free(&pair);
	}
}

/* Who does not read is not drowned, and gets all when he does. */
static void test_slow_reader(void **state)
{
	enum { LENGTH = (40 << 20) + 3 };
	uint8_t *bytes = malloc(LENGTH);
	struct talk out, in;
	struct rand rand;
	struct pair pair;
	int fds[2];

	rand_init(&rand, seed_of_run());
	rand_bytes(&rand, bytes, LENGTH);
	connect_unix(fds);
	pair_start(&pair, true, fds);
	talk_start(&out, &pair, &rand, 0, true, bytes, LENGTH);
	while (out.at < 64 << 10)
		pair_step(&pair);
	run_for_ms(pair.ring, 200);
	assert_in_range(out.at, 64 << 10, 4 << 20);
	talk_start(&in, &pair, &rand, 1, false, bytes, LENGTH);
	talk_end(&out);
	shutdown(pair.ends[0].plain, SHUT_WR);
	talk_end(&in);
	pair_free(&pair);
	free(bytes);
}

/* Closed with much left, and the other takes nothing: that has an end. */
static void test_peer_takes_nothing(void **state)
{
	static uint8_t bytes[8 << 20];
	struct rand rand;
	struct talk out;
	struct pair pair;
	int fds[2];

	rand_init(&rand, seed_of_run());
	connect_unix(fds);
	pair_start(&pair, true, fds);
	talk_start(&out, &pair, &rand, 0, true, bytes, sizeof(bytes));
	while (out.at < 64 << 10)
		pair_step(&pair);
	run_for_ms(pair.ring, 200);
	ring_cancel(pair.ring, &out.op);
	assert_int_equal(ring_run_until(pair.ring, &out.ended), 0);
	free(out.piece);
	end_close(&pair.ends[0]);
	wait_ended(&pair, 0);
	print_message("  %s\n", pair.ends[0].error.text);
	assert_int_equal(pair.ends[0].error.code, -ETIMEDOUT);
	pair_free(&pair);
}

/* The two do not accept each other: both hear why, and of what one has written nothing gets there. */

struct refusal {
	const char *keys[2], *users[2];
	const char *names[2]; /* whom each expects */
	const char *words[2];
};

static const struct refusal refusals[] = {
    {{"keys.psk", "other.psk"}, {"node", "node"}, {"127.0.0.1", NULL},
        {"127.0.0.1 refuses TLS with this machine", "both must have the same key"}},
    {{"keys.psk", "keys.psk"}, {"alice", "node"}, {"127.0.0.1", NULL},
        {"127.0.0.1 refuses TLS with this machine", "both must have the same key"}},
    {{"pki", "other"}, {0}, {"127.0.0.1", NULL},
        {"the certificate of 127.0.0.1 is not accepted", "the other machine refuses TLS"}},
    {{"pki", "liar"}, {0}, {"127.0.0.1", NULL},
        {"the certificate of 127.0.0.1 is not accepted", "the other machine refuses TLS"}},
    {{"liar", "pki"}, {0}, {"127.0.0.1", NULL},
        {"127.0.0.1 refuses TLS with this machine", "the certificate of the other machine is not accepted"}},
    {{"pki", "pki"}, {0}, {"beta", NULL},
        {"the certificate of beta is not accepted", "the other machine refuses TLS"}},
    {{"pki", "pki"}, {0}, {"alpha", "beta"},
        {"alpha refuses TLS with this machine", "the certificate of beta is not accepted"}},
    {{"pki", "keys.psk"}, {NULL, "node"}, {"alpha", NULL}, {"alpha refuses TLS", "both certificates"}},
    {{"keys.psk", "pki"}, {"node", NULL}, {"alpha", NULL},
        {"both certificates", "the other machine refuses TLS"}},
};

static void check_refusal(const struct refusal *refusal, bool tcp)
{
	struct pair pair;
	int fds[2];

	(tcp ? connect_tcp : connect_unix)(fds);
	assert_int_equal(ring_new(&pair.ring, 64, NULL), 0);
	for (unsigned i = 0; i < 2; i++) {
		pair.tls[i] = node_of(refusal->keys[i], refusal->users[i]);
		end_start(&pair, i, fds[i], pair.tls[i], refusal->names[i]);
		assert_int_equal(send(pair.ends[i].plain, "secret", 6, 0), 6);
	}
	while (!pair.ends[0].ended || !pair.ends[1].ended) {
		for (unsigned i = 0; i < 2; i++)
			assert_int_equal(shows_end(pair.ends[i].plain), pair.ends[i].ended);
		pair_step(&pair);
	}
	for (unsigned i = 0; i < 2; i++) {
		const struct error *error = &pair.ends[i].error;

		print_message("  %s: %s\n", i ? "server" : "client", error->text);
		assert_int_equal(error->code, -EACCES);
		if (!strstr(error->text, refusal->words[i]))
			fail_msg("without '%s'", refusal->words[i]);
		assert_true(shows_end(pair.ends[i].plain));
	}
	pair_free(&pair);
}

static void test_refusals(void **state)
{
	make_certificates();
	for (size_t i = 0; i < sizeof(refusals) / sizeof(refusals[0]); i++)
		for (unsigned tcp = 0; tcp < 2; tcp++)
			check_refusal(&refusals[i], tcp);
}

/* A client that trusts the server and shows nothing. */
static void be_without_certificate(int fd)
{
	gnutls_certificate_credentials_t nothing;
	gnutls_session_t session;
	char byte;

	gnutls_certificate_allocate_credentials(&nothing);
	gnutls_init(&session, GNUTLS_CLIENT);
	gnutls_set_default_priority(session);
	gnutls_credentials_set(session, GNUTLS_CRD_CERTIFICATE, nothing);
	gnutls_transport_set_int(session, fd);
	if (gnutls_handshake(session) < 0)
		_exit(1);
	gnutls_record_send(session, "secret", 6);
	_exit(gnutls_record_recv(session, &byte, 1) == GNUTLS_E_FATAL_ALERT_RECEIVED &&
	              gnutls_alert_get(session) == GNUTLS_A_CERTIFICATE_REQUIRED
	          ? 0
	          : 2);
}

static void test_no_certificate(void **state)
{
	struct pair pair = {0};
	int fds[2], status;
	pid_t child;

	make_certificates();
	connect_tcp(fds);
	child = fork();
	if (child == 0) {
		close(fds[1]);
		fcntl(fds[0], F_SETFL, 0);
		be_without_certificate(fds[0]);
	}
	close(fds[0]);
	assert_int_equal(ring_new(&pair.ring, 64, NULL), 0);
	pair.tls[1] = node_of("pki", NULL);
	pair.ends[0].plain = -1;
	end_start(&pair, 1, fds[1], pair.tls[1], NULL);
	wait_ended(&pair, 1);
	print_message("  %s\n", pair.ends[1].error.text);
	assert_int_equal(pair.ends[1].error.code, -EACCES);
	assert_non_null(strstr(pair.ends[1].error.text, "shows no certificate"));
	assert_true(shows_end(pair.ends[1].plain));
	waitpid(child, &status, 0);
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	pair_free(&pair);
}

/* One stream against a peer that does no TLS; `end` is which it is. */
static void start_alone(struct pair *pair, unsigned end, int *ret_peer)
{
	int fds[2];

	*pair = (struct pair){0};
	connect_tcp(fds);
	fcntl(fds[0], F_SETFL, 0);
	assert_int_equal(ring_new(&pair->ring, 64, NULL), 0);
	pair->tls[end] = node_of("keys.psk", "node");
	pair->ends[!end].plain = -1;
	end_start(pair, end, fds[end], pair->tls[end], end ? NULL : "alpha");
	*ret_peer = fds[!end];
}

static void test_no_tls(void **state)
{
	static const char *const texts[] = {"GET / HTTP/1.0\r\n\r\n", "NBDMAGICIHAVEOPT\0\3", "blkmove",
	    "\26\3\1\0\2ab", "\25\3\3\0\2\2\50", "\27\3\3\0\5abcde"};
	struct rand rand;

	rand_init(&rand, seed_of_run());
	for (unsigned i = 0; i < 200; i++) {
		const char *text = i / 2 < 6 ? texts[i / 2] : NULL;
		uint8_t noise[700];
		struct pair pair;
		int peer;

		start_alone(&pair, i % 2, &peer);
		rand_bytes(&rand, noise, sizeof(noise));
		if (rand_one_in(&rand, 2))
			memcpy(noise, "\26\3\1\2", 4);
		assert_true(
		    send(peer, text ? text : (char *)noise, text ? strlen(text) : sizeof(noise), 0) > 0);
		shutdown(peer, SHUT_WR);
		wait_ended(&pair, i % 2);
		if (i < 12)
			print_message("  %s\n", pair.ends[i % 2].error.text);
		assert_true(pair.ends[i % 2].error.code == -EPROTO ||
		            pair.ends[i % 2].error.code == -EACCES ||
		            pair.ends[i % 2].error.code == -ENOTCONN);
		assert_true(i >= 4 || pair.ends[i % 2].error.code == -EPROTO);
		assert_true(shows_end(pair.ends[i % 2].plain));
		close(peer);
		pair_free(&pair);
	}
}

static void test_stall_in_handshake(void **state)
{
	for (unsigned end = 0; end < 2; end++) {
		struct pair pair;
		uint64_t begun_ns;
		int peer;

		start_alone(&pair, end, &peer);
		/* The begin of a record of TLS, no more. */
		assert_int_equal(send(peer, "\26\3\3\1\0", 5, 0), 5);
		begun_ns = ring_now_ns(pair.ring);
		tls_stream_set_deadline(pair.ends[end].stream, 150);
		wait_ended(&pair, end);
		print_message("  %s\n", pair.ends[end].error.text);
		assert_int_equal(pair.ends[end].error.code, -ETIMEDOUT);
		assert_in_range((ring_now_ns(pair.ring) - begun_ns) / 1000000, 149, 60000);
		close(peer);
		pair_free(&pair);
	}
}

/* The user gives up before anything came of it. */
static void test_closed_in_handshake(void **state)
{
	struct pair pair;
	int peer;

	start_alone(&pair, 0, &peer);
	run_for_ms(pair.ring, 10);
	end_close(&pair.ends[0]);
	wait_ended(&pair, 0);
	assert_int_equal(pair.ends[0].error.code, -ECANCELED);
	close(peer);
	pair_free(&pair);
}

/* A process of its own that talks for ever, until it is killed. */
static void be_a_talker(int fd)
{
	static uint8_t bytes[1 << 20];
	struct rand rand;
	struct pair pair;
	struct talk out;

	rand_init(&rand, 1);
	if (ring_new(&pair.ring, 64, NULL) < 0)
		_exit(1);
	pair.tls[0] = node_of("keys.psk", "node");
	end_start(&pair, 0, fd, pair.tls[0], "alpha");
	for (;;) {
		talk_start(&out, &pair, &rand, 0, true, bytes, sizeof(bytes));
		talk_end(&out);
	}
}

static void test_killed_peer(void **state)
{
	static uint8_t got[1 << 16];
	struct pair pair = {0};
	size_t total = 0;
	pid_t child;
	int fds[2];

	connect_tcp(fds);
	child = fork();
	if (child == 0) {
		close(fds[1]);
		be_a_talker(fds[0]);
	}
	close(fds[0]);
	assert_int_equal(ring_new(&pair.ring, 64, NULL), 0);
	pair.tls[1] = node_of("keys.psk", "node");
	pair.ends[0].plain = -1;
	end_start(&pair, 1, fds[1], pair.tls[1], NULL);
	while (!pair.ends[1].ended) {
		ssize_t res;

		pair_step(&pair);
		res = recv(pair.ends[1].plain, got, sizeof(got), MSG_DONTWAIT);
		total += res > 0 ? (size_t)res : 0;
		if (total > 5 << 20 && child > 0) {
			kill(child, SIGKILL);
			waitpid(child, NULL, 0);
			child = 0;
		}
	}
	print_message("  %s\n", pair.ends[1].error.text);
	assert_int_equal(pair.ends[1].error.code, -ENOTCONN);
	assert_non_null(strstr(pair.ends[1].error.text, "cut off"));
	pair_free(&pair);
}

/* Reads what there is; it must be how what was said begins. */
static void hear(struct end *end, const uint8_t *said, size_t length, size_t *heard)
{
	uint8_t got[4096];
	ssize_t res;

	while ((res = recv(end->plain, got, sizeof(got), MSG_DONTWAIT)) > 0) {
		assert_true(*heard + (size_t)res <= length);
		assert_memory_equal(got, said + *heard, res);
		*heard += (size_t)res;
	}
}

/* Where a record's rest is waited for once both are open, a session will notice. */
static bool is_settled(const struct pair *pair, enum harm harm, unsigned turn)
{
	bool settled = true;

	for (unsigned i = 0; i < 2; i++)
		settled &= pair->ends[i].ended ||
		           (harm != HARM_CUT && turn > 100 && tls_stream_is_open(pair->ends[i].stream));
	return settled;
}

static void check_harm(struct rand *rand, enum harm harm, uint64_t *ret_both)
{
	static uint8_t said[40001];
	int near[2], far[2];
	size_t heard[2] = {0};
	struct relay relay;
	struct pair pair;
	int fds[2];

	rand_bytes(rand, said, sizeof(said));
	connect_unix(near);
	connect_unix(far);
	fds[0] = near[0];
	fds[1] = far[0];
	pair_start(&pair, rand_one_in(rand, 2), fds);
	relay_start(&relay, pair.ring, (int[2]){near[1], far[1]}, harm, (unsigned)rand_below(rand, 2),
	    rand_one_in(rand, 2) ? rand_below(rand, 3000) : rand_below(rand, 40000));
	for (unsigned i = 0; i < 2; i++) {
		if (harm != HARM_CUT)
			tls_stream_set_deadline(pair.ends[i].stream, 1000);
		assert_int_equal(send(pair.ends[i].plain, said, sizeof(said), MSG_DONTWAIT), sizeof(said));
	}
	for (unsigned turn = 0; !is_settled(&pair, harm, turn); turn++) {
		struct ring_op timer = {
		    .opcode = RING_TIMER, .deadline_ns = ring_now_ns(pair.ring) + 1000000};

		ring_wait(pair.ring, &timer);
		for (unsigned i = 0; i < 2; i++)
			hear(&pair.ends[i], said, sizeof(said), &heard[i]);
	}
	for (unsigned i = 0; i < 2; i++) {
		assert_true(harm != HARM_CUT || (pair.ends[i].ended && pair.ends[i].error.code == -ENOTCONN));
		assert_true(pair.ends[i].ended ? pair.ends[i].error.code < 0
		                               : tls_stream_is_open(pair.ends[i].stream));
	}
	*ret_both += heard[0] > 0 && heard[1] > 0;
	relay_end(&relay);
	pair_free(&pair);
}

static void test_harm(void **state)
{
	uint64_t both = 0;
	struct rand rand;

	make_certificates();
	rand_init(&rand, seed_of_run());
	for (unsigned run = 0; run < 90; run++)
		check_harm(&rand, (enum harm)(run % (run < 30 ? HARMS : HARM_STALL)), &both);
	print_message("  %u runs with data both ways\n", (unsigned)both);
	assert_true(both > 5);
}

static void nothing(struct ring_op *op, int res)
{
}

/* So many turns of the loop, or until nothing comes for a moment. */
static void take_turns(struct pair *pair, uint64_t turns)
{
	struct ring_op timer = {
	    .opcode = RING_TIMER, .deadline_ns = ring_now_ns(pair->ring) + 30 * 1000000ull, .done = nothing};

	ring_submit(pair->ring, &timer);
	while (turns-- > 0 && timer.active)
		pair_step(pair);
	ring_cancel(pair->ring, &timer);
	while (timer.active)
		pair_step(pair);
}

/* Freed at any moment, with the plain end open or closed. */
static void test_free_at_any_moment(void **state)
{
	struct rand rand;

	make_certificates();
	rand_init(&rand, seed_of_run());
	for (unsigned run = 0; run < 200; run++) {
		struct pair pair;
		int fds[2];

		(run & 1 ? connect_tcp : connect_unix)(fds);
		pair_start(&pair, run & 2, fds);
		for (unsigned i = 0; i < 2; i++)
			assert_int_equal(send(pair.ends[i].plain, folder, sizeof(folder), 0), sizeof(folder));
		take_turns(&pair, rand_below(&rand, 30));
		for (unsigned i = 0; run % 4 < 2 && i < 2; i++)
			end_close(&pair.ends[i]);
		if (run % 4 == 0)
			pair.ends[run / 4 % 2].stream = tls_stream_free(pair.ends[run / 4 % 2].stream, true);
		pair_free(&pair);
	}
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, keys_setup, own_folder_remove)
	const struct CMUnitTest tests[] = {
	    TEST(test_data_of_odd_sizes),
	    TEST(test_half_close),
	    TEST(test_last_words),
	    TEST(test_slow_reader),
	    TEST(test_peer_takes_nothing),
	    TEST(test_refusals),
	    TEST(test_no_certificate),
	    TEST(test_no_tls),
	    TEST(test_stall_in_handshake),
	    TEST(test_closed_in_handshake),
	    TEST(test_killed_peer),
	    TEST(test_harm),
	    TEST(test_free_at_any_moment),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
