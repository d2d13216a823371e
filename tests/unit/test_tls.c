/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Who trusts whom by which keys and certificates: real GnuTLS sessions at both ends, with memory between them. */
#include "wire/tls.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "node_keys.h"

#define WIRE 65536u

struct wire {
	uint8_t bytes[WIRE];
	size_t start, end;
};

struct end {
	gnutls_session_t session;
	struct wire *in, *out;
	int verdict; /* 0: under way, 1: done, or GnuTLS's code */
};

static ssize_t pull(gnutls_transport_ptr_t pointer, void *buf, size_t length)
{
	struct end *end = pointer;
	size_t have = end->in->end - end->in->start;

	if (have == 0) {
		gnutls_transport_set_errno(end->session, EAGAIN);
		return -1;
	}
	length = length < have ? length : have;
	memcpy(buf, end->in->bytes + end->in->start, length);
	end->in->start += length;
	return (ssize_t)length;
}

static ssize_t push(gnutls_transport_ptr_t pointer, const void *buf, size_t length)
{
	struct end *end = pointer;

	assert_true(end->out->end + length <= WIRE);
	memcpy(end->out->bytes + end->out->end, buf, length);
	end->out->end += length;
	return (ssize_t)length;
}

/* Under TLS 1.3 a client has shaken hands before its certificate was looked at: so a byte goes to and fro as well. */
static void go_on(struct end *end, bool *shaken)
{
	char byte = 'x';
	int res = *shaken ? (int)gnutls_record_recv(end->session, &byte, 1) : gnutls_handshake(end->session);

	if (res == GNUTLS_E_AGAIN || end->verdict)
		return;
	if (res < 0 || *shaken) {
		end->verdict = res;
		if (res < 0)
			gnutls_alert_send_appropriate(end->session, res);
		return;
	}
	*shaken = true;
	assert_int_equal(gnutls_record_send(end->session, "x", 1), 1);
}

/* Two sessions, until each has its verdict. */
static void talk(struct end ends[2])
{
	static struct wire wires[2];
	bool shaken[2] = {false, false};

	for (unsigned i = 0; i < 2; i++) {
		wires[i].start = wires[i].end = 0;
		ends[i].in = &wires[i];
		ends[i].out = &wires[!i];
		gnutls_transport_set_ptr(ends[i].session, &ends[i]);
		gnutls_transport_set_pull_function(ends[i].session, pull);
		gnutls_transport_set_push_function(ends[i].session, push);
	}
	for (unsigned turn = 0; turn < 40; turn++)
		go_on(&ends[turn % 2], &shaken[turn % 2]);
}

static gnutls_cipher_algorithm_t met_by;

/* Whether they trust each other; ends[1] is the server. */
static bool meet(struct tls *client, const char *server_name, struct tls *server, const char *client_name)
{
	struct end ends[2] = {0};

	for (unsigned i = 0; i < 2; i++)
		assert_int_equal(
		    tls_session(i ? server : client, i == 1, i ? client_name : server_name, &ends[i].session),
		    0);
	talk(ends);
	met_by = gnutls_cipher_get(ends[1].session);
	for (unsigned i = 0; i < 2; i++) {
		if (ends[i].verdict < 0)
			print_message(
			    "  %s: %s\n", i ? "server" : "client", gnutls_strerror(ends[i].verdict));
		gnutls_deinit(ends[i].session);
	}
	/* Neither may go on alone. */
	assert_int_equal(ends[0].verdict == 1, ends[1].verdict == 1);
	return ends[0].verdict == 1;
}

static struct tls *with_psk(enum tls_sides sides, const char *file, const char *user)
{
	const struct tls_options options = {.sides = sides, .psk_file = path_of(file), .user = user};

	return tls_of(&options);
}

static struct tls *with_certificates(enum tls_sides sides, const char *dir, bool verify)
{
	const struct tls_options options = {
	    .sides = sides, .certificates = path_of(dir), .verify_peer = verify};

	return tls_of(&options);
}

static void test_keys(void **state)
{
	struct tls *all = with_psk(TLS_SERVER, "keys.psk", NULL);
	struct tls *alice = with_psk(TLS_CLIENT, "keys.psk", "alice");
	struct tls *node = with_psk(TLS_NODE, "keys.psk", "node"),
	           *twin = with_psk(TLS_NODE, "keys.psk", "node");
	struct tls *stranger = with_psk(TLS_NODE, "other.psk", "node");

	assert_true(meet(alice, "there", all, NULL));
	assert_true(meet(node, "there", all, NULL));
	assert_true(meet(node, "there", twin, "here"));
	assert_true(met_by == GNUTLS_CIPHER_AES_128_GCM || met_by == GNUTLS_CIPHER_AES_256_GCM);
	assert_true(meet(twin, "here", node, "there"));
	/* The right user with a wrong key, and a right key of a user who is not meant. */
	assert_false(meet(stranger, "there", node, NULL));
	assert_false(meet(stranger, "there", all, NULL));
	assert_false(meet(node, "there", stranger, NULL));
	assert_false(meet(alice, "there", node, NULL));
	tls_free(all);
	tls_free(alice);
	tls_free(node);
	tls_free(twin);
	tls_free(stranger);
}

static void test_certificates(void **state)
{
	struct tls *node, *twin, *other, *liar, *open, *psk;

	make_certificates();
	node = with_certificates(TLS_NODE, "pki", false);
	twin = with_certificates(TLS_NODE, "pki", false);
	other = with_certificates(TLS_NODE, "other", false);
	liar = with_certificates(TLS_NODE, "liar", false);
	open = with_certificates(TLS_SERVER, "pki", false);
	psk = with_psk(TLS_NODE, "keys.psk", "node");
	assert_true(meet(node, "alpha", twin, NULL));
	assert_true(meet(node, "127.0.0.1", twin, "alpha"));
	/* It is somebody else, whom the authority knows. */
	assert_false(meet(node, "beta", twin, NULL));
	assert_false(meet(node, "127.0.0.2", twin, NULL));
	assert_false(meet(node, "alpha", twin, "beta"));
	/* Authorities that signed nothing for the other, seen from both sides. */
	assert_false(meet(node, "alpha", other, NULL));
	assert_false(meet(node, "alpha", liar, NULL));
	assert_false(meet(other, "alpha", node, NULL));
	assert_false(meet(liar, "alpha", node, NULL));
	/* A server that does not look at its clients. */
	assert_true(meet(liar, "alpha", open, NULL));
	assert_false(meet(psk, "alpha", node, NULL));
	assert_false(meet(node, "alpha", psk, NULL));
	tls_free(node);
	tls_free(twin);
	tls_free(other);
	tls_free(liar);
	tls_free(open);
	tls_free(psk);
}

/* A node must prove itself: a client that shows nothing is sent away. */
static void test_no_certificate(void **state)
{
	struct end ends[2] = {0};
	gnutls_certificate_credentials_t nothing;
	struct tls *node;

	make_certificates();
	node = with_certificates(TLS_NODE, "pki", false);
	assert_int_equal(gnutls_certificate_allocate_credentials(&nothing), 0);
	assert_int_equal(gnutls_init(&ends[0].session, GNUTLS_CLIENT | GNUTLS_NONBLOCK), 0);
	gnutls_set_default_priority(ends[0].session);
	gnutls_credentials_set(ends[0].session, GNUTLS_CRD_CERTIFICATE, nothing);
	assert_int_equal(tls_session(node, true, NULL, &ends[1].session), 0);
	talk(ends);
	assert_int_equal(ends[1].verdict, GNUTLS_E_CERTIFICATE_REQUIRED);
	assert_int_equal(ends[0].verdict, GNUTLS_E_FATAL_ALERT_RECEIVED);
	gnutls_deinit(ends[0].session);
	gnutls_deinit(ends[1].session);
	gnutls_certificate_free_credentials(nothing);
	tls_free(node);
}

static void refuse(const struct tls_options *options, int code, const char *words)
{
	struct error error = {0};
	struct tls *tls;

	assert_int_equal(tls_new(&tls, options, &error), code);
	print_message("  %s\n", error.text);
	if (!strstr(error.text, words))
		fail_msg("without '%s'", words);
}

static void test_what_cannot_be_used(void **state)
{
	struct tls_options options = {.psk_file = path_of("nowhere.psk")};

	run("cd %s && printf 'node:\\nnode2:xyz\\n' >bad.psk", folder);
	refuse(&options, -ENOENT, "--tls-psk");
	options.sides = TLS_NODE;
	options.user = "node";
	refuse(&options, -ENOENT, "make it with psktool");
	options.psk_file = path_of("keys.psk");
	options.user = NULL;
	refuse(&options, -EINVAL, "whose key");
	options.user = "nod";
	refuse(&options, -ENOENT, "no key of nod");
	options.psk_file = path_of("bad.psk");
	options.user = "node";
	refuse(&options, -EINVAL, "no hex number");
	options.user = "node2";
	refuse(&options, -EINVAL, "no hex number");
	make_certificates();
	options = (struct tls_options){.sides = TLS_NODE, .certificates = path_of("pki")};
	run("rm %s/pki/client-key.pem", folder);
	refuse(&options, -ENOENT, "client-cert.pem and client-key.pem");
	run("rm %s/pki/server-key.pem", folder);
	refuse(&options, -ENOENT, "server-cert.pem and server-key.pem");
	run("cd %s/pki && cp ../other/server-key.pem . && cp ../other/client-key.pem .", folder);
	refuse(&options, -EINVAL, "server-cert.pem for TLS");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test_setup_teardown(test_keys, keys_setup, own_folder_remove),
	    cmocka_unit_test_setup_teardown(test_certificates, keys_setup, own_folder_remove),
	    cmocka_unit_test_setup_teardown(test_no_certificate, keys_setup, own_folder_remove),
	    cmocka_unit_test_setup_teardown(test_what_cannot_be_used, keys_setup, own_folder_remove),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
