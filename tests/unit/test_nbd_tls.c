/* SPDX-License-Identifier: GPL-2.0-or-later */
/* NBD over TLS, with keys shared before (PSK) and with certificates, against nbdkit and qemu-nbd. */
#include "nbd_world.h"

#include "keys.h"

static void check_writes(struct world *world)
{
	static char data[300001], got[300001];

	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (char)(i * 7919 >> 5);
	assert_int_equal(wait_op(world, BLOCK_WRITE, 12345, sizeof(data), data), 0);
	assert_int_equal(wait_op(world, BLOCK_FLUSH, 0, 0, NULL), 0);
	assert_int_equal(wait_op(world, BLOCK_READ, 12345, sizeof(got), got), 0);
	assert_memory_equal(data, got, sizeof(got));
}

static void make_psk(void)
{
	need("psktool");
	run("cd %s && mkdir -p psk && psktool -u alice -p psk/keys.psk >/dev/null 2>&1 && "
	    "psktool -u mallory -p other.psk >/dev/null 2>&1",
	    folder);
}

/* An authority, a server called localhost and a client; and an authority that signed neither. */
static void make_certificates(void)
{
	keys_make_authority("pki");
	keys_make_authority("other");
	keys_sign("pki", "server", "cn = localhost\ndns_name = localhost\ntls_www_server\n");
	keys_sign("pki", "client", "cn = client\ntls_www_client\n");
}

static void serve_psk(struct world *world, const char *server)
{
	char line[512];

	world_init(world);
	if (strcmp(server, "nbdkit") == 0)
		snprintf(line, sizeof(line), "exec nbdkit -f --tls=require --tls-psk=psk/keys.psk memory 1M");
	else
		snprintf(line, sizeof(line),
		    "truncate -s 1M t; exec qemu-nbd -t -e 4 -f raw t "
		    "--object tls-creds-psk,id=tls0,endpoint=server,dir=$PWD/psk --tls-creds tls0");
	world_serve_tcp(world, line);
}

static void check_psk(const char *server)
{
	struct world world;
	char text[256], psk[128];
	int res;

	/* By the URI. */
	serve_psk(&world, server);
	snprintf(text, sizeof(text), "nbds://alice@127.0.0.1:PORT/?tls-psk-file=%s/psk/keys.psk", folder);
	world_must_open(&world, text);
	check_writes(&world);
	world.block = block_free(world.block);

	/* By the options. */
	snprintf(psk, sizeof(psk), "%s/psk/keys.psk", folder);
	world.options.link.tls_psk_file = psk;
	world.options.link.tls_username = "alice";
	world_must_open(&world, "nbds://127.0.0.1:PORT/");
	check_writes(&world);
	world.block = block_free(world.block);

	/* Another key is refused, and so is none. */
	snprintf(psk, sizeof(psk), "%s/other.psk", folder);
	world.options.link.tls_username = "mallory";
	res = world_open(&world, "nbds://127.0.0.1:PORT/");
	print_message("  %s\n", world.error.text);
	assert_int_equal(res, -ENOTCONN);
	world.options.link.tls_psk_file = world.options.link.tls_username = NULL;
	res = world_open(&world, "nbd://127.0.0.1:PORT/");
	print_message("  %s\n", world.error.text);
	assert_int_equal(res, -ENOTCONN);
	world_done(&world);
}

static void test_psk_with_nbdkit(void **state)
{
	need("nbdkit");
	make_psk();
	check_psk("nbdkit");
}

static void test_psk_with_qemu_nbd(void **state)
{
	need("qemu-nbd");
	make_psk();
	check_psk("qemu-nbd");
}

static void serve_certificates(struct world *world, const char *server)
{
	char line[512];

	world_init(world);
	if (strcmp(server, "nbdkit") == 0)
		snprintf(line, sizeof(line),
		    "exec nbdkit -f --tls=require --tls-certificates=pki "
		    "--tls-verify-peer memory 1M");
	else
		snprintf(line, sizeof(line),
		    "truncate -s 1M t; exec qemu-nbd -t -e 4 -f raw t "
		    "--object tls-creds-x509,id=tls0,endpoint=server,dir=$PWD/pki,verify-peer=on --tls-creds "
		    "tls0");
	world_serve_tcp(world, line);
}

static void check_certificates(const char *server)
{
	struct world world;
	char pki[128], text[256];
	int res;

	serve_certificates(&world, server);
	snprintf(pki, sizeof(pki), "%s/pki", folder);
	world.options.link.tls_certificates = pki;
	world_must_open(&world, "nbds://localhost:PORT/");
	check_writes(&world);
	world.block = block_free(world.block);

	/* The certificate is for localhost and not for a number; unless one does not look. */
	res = world_open(&world, "nbds://127.0.0.1:PORT/");
	print_message("  %s\n", world.error.text);
	assert_int_equal(res, -ENOTCONN);
	world.options.link.tls_insecure = true;
	world_must_open(&world, "nbds://127.0.0.1:PORT/");
	check_writes(&world);
	world.block = block_free(world.block);
	world.options.link.tls_insecure = false;

	/* An authority that did not sign it. */
	run("cd %s && cp pki/client-*.pem other/", folder);
	snprintf(pki, sizeof(pki), "%s/other", folder);
	res = world_open(&world, "nbds://localhost:PORT/");
	print_message("  %s\n", world.error.text);
	assert_int_equal(res, -ENOTCONN);
	world.options.link.tls_certificates = NULL;

	/* By the URI, where this libnbd knows that parameter. */
	snprintf(text, sizeof(text), "nbds://localhost:PORT/?tls-certificates=%s/pki", folder);
	world_must_open(&world, text);
	check_writes(&world);
	world_done(&world);
}

static void test_certificates_with_nbdkit(void **state)
{
	need("nbdkit");
	make_certificates();
	check_certificates("nbdkit");
}

static void test_certificates_with_qemu_nbd(void **state)
{
	need("qemu-nbd");
	make_certificates();
	check_certificates("qemu-nbd");
}

/* Asked for TLS and offered none: no byte goes in the clear. */
static void test_no_fall_back_to_plain(void **state)
{
	struct world world;
	int res;

	need("nbdkit");
	world_init(&world);
	world_serve_tcp(&world, "exec nbdkit -f memory 1M");
	world_must_open(&world, "nbd://127.0.0.1:PORT/");
	world.block = block_free(world.block);
	res = world_open(&world, "nbds://127.0.0.1:PORT/");
	print_message("  %s\n", world.error.text);
	assert_int_equal(res, -ENOTCONN);
	world_done(&world);
}

/* TLS over a lost server: the same words as without. */
static void test_killed_server(void **state)
{
	struct world world;
	char text[256], data[4096];

	need("nbdkit");
	make_psk();
	serve_psk(&world, "nbdkit");
	snprintf(text, sizeof(text), "nbds://alice@127.0.0.1:PORT/?tls-psk-file=%s/psk/keys.psk", folder);
	world_must_open(&world, text);
	kill(world.server, SIGKILL);
	assert_int_equal(wait_op(&world, BLOCK_READ, 0, 4096, data), -ENOTCONN);
	assert_int_equal(block_link_error(world.block, &world.error), -ENOTCONN);
	print_message("  %s\n", world.error.text);
	world_done(&world);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_psk_with_nbdkit),
	    cmocka_unit_test(test_psk_with_qemu_nbd),
	    cmocka_unit_test(test_certificates_with_nbdkit),
	    cmocka_unit_test(test_certificates_with_qemu_nbd),
	    cmocka_unit_test(test_no_fall_back_to_plain),
	    cmocka_unit_test(test_killed_server),
	};

	return cmocka_run_group_tests(tests, make_folder, own_folder_remove);
}
