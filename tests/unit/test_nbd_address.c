/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Where a server listens: URIs, what is refused, sockets that are there already, what others can reach. */
#include "export/nbd_address.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static const struct row {
	const char *uri, *host, *port, *path, *name; /* host and path NULL: refused */
	bool tls;
} rows[] = {
    {"nbd://localhost", "localhost", "10809", "", "", false},
    {"nbd://localhost/", "localhost", "10809", "", "", false},
    {"nbds://10.0.0.1:5000/disk", "10.0.0.1", "5000", "", "disk", true},
    {"nbd://[::1]:0/a/b", "::1", "0", "", "a/b", false},
    {"nbd://[fe80::1%25eth0]", "fe80::1%eth0", "10809", "", "", false},
    {"nbd://:7", "", "7", "", "", false},
    {"nbd://", "", "10809", "", "", false},
    {"nbd+unix:///?socket=/run/x", "", "", "/run/x", "", false},
    {"nbd+unix://?socket=/run/x", "", "", "/run/x", "", false},
    {"nbds+unix:///a%20b?socket=/run/%41%2f", "", "", "/run/A/", "a b", true},
    {"http://x", NULL, NULL, NULL, NULL, false},
    {"nbd:", NULL, NULL, NULL, NULL, false},
    {"nbd+vsock://1", NULL, NULL, NULL, NULL, false},
    {"nbd://h:", NULL, NULL, NULL, NULL, false},
    {"nbd://h:port", NULL, NULL, NULL, NULL, false},
    {"nbd://[::1", NULL, NULL, NULL, NULL, false},
    {"nbd://[::1]x", NULL, NULL, NULL, NULL, false},
    {"nbd://h/%zz", NULL, NULL, NULL, NULL, false},
    {"nbd://h/%4", NULL, NULL, NULL, NULL, false},
    {"nbd://h/%00", NULL, NULL, NULL, NULL, false},
    {"nbd://h/x?socket=/a", NULL, NULL, NULL, NULL, false},
    {"nbd+unix:///", NULL, NULL, NULL, NULL, false},
    {"nbd+unix:///?socket=", NULL, NULL, NULL, NULL, false},
    {"nbd+unix://host/?socket=/x", NULL, NULL, NULL, NULL, false},
    {"nbd+unix:///?socket=/x&tls=1", NULL, NULL, NULL, NULL, false},
    {"nbd+unix:///?socket=/"
     "0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789"
     "0123456789",
        NULL, NULL, NULL, NULL, false},
};

static void test_uris(void **state)
{
	for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		const struct row *row = &rows[i];
		struct nbd_address address;
		struct error error = {0};
		int res = nbd_address_parse(row->uri, &address, &error);

		print_message("%s\n", row->uri);
		if (!row->host) {
			assert_int_equal(res, -EINVAL);
			assert_int_equal(nbd_address_parse(row->uri, &address, NULL), -EINVAL);
			assert_non_null(strstr(error.text, row->uri));
			continue;
		}
		assert_int_equal(res, 0);
		assert_string_equal(address.host, row->host);
		assert_string_equal(address.port, row->port);
		assert_string_equal(address.path, row->path);
		assert_string_equal(address.name, row->name);
		assert_int_equal(address.tls, row->tls);
		assert_int_equal(address.is_unix, row->path[0] != '\0');
	}
}

static int listen_at(const char *uri, int *fds, struct error *error)
{
	struct nbd_address address;

	assert_int_equal(nbd_address_parse(uri, &address, error), 0);
	return nbd_address_listen(&address, fds, error);
}

static void test_unix_sockets(void **state)
{
	char folder[] = "/var/tmp/blkmove-address-XXXXXX", uri[200], path[100], shown[1024];
	int first[NBD_ADDRESS_FDS], second[NBD_ADDRESS_FDS];
	struct error error = {0};
	struct stat st;
	FILE *file;

	assert_non_null(mkdtemp(folder));
	snprintf(path, sizeof(path), "%s/a b", folder);
	snprintf(uri, sizeof(uri), "nbd+unix:///x%%20y?socket=%s/a%%20b", folder);
	assert_int_equal(listen_at(uri, first, &error), 1);
	assert_true(nbd_socket_is_local(first[0]));
	assert_string_equal(nbd_socket_uri(first[0], false, "x y", shown, sizeof(shown)), uri);
	/* Somebody listens there. */
	assert_int_equal(listen_at(uri, second, &error), -EADDRINUSE);
	assert_non_null(strstr(error.text, "stop the server"));
	/* He is dead. */
	close(first[0]);
	assert_int_equal(listen_at(uri, second, &error), 1);
	close(second[0]);
	unlink(path);
	/* What is no socket is nobody's to remove. */
	file = fopen(path, "we");
	assert_non_null(file);
	fclose(file);
	assert_int_equal(listen_at(uri, second, &error), -EADDRINUSE);
	assert_int_equal(stat(path, &st), 0);
	unlink(path);
	rmdir(folder);
	assert_int_equal(listen_at(uri, second, &error), -ENOENT);
}

static void test_tcp(void **state)
{
	int fds[NBD_ADDRESS_FDS], more[NBD_ADDRESS_FDS];
	struct error error = {0};
	char shown[1024];

	assert_int_equal(listen_at("nbd://127.0.0.1:0", fds, &error), 1);
	assert_true(nbd_socket_is_local(fds[0]));
	nbd_socket_uri(fds[0], true, "", shown, sizeof(shown));
	assert_memory_equal(shown, "nbds://127.0.0.1:", 17);
	memmove(shown + 3, shown + 4, strlen(shown + 3));
	assert_int_equal(listen_at(shown, more, &error), -EADDRINUSE);
	assert_non_null(strstr(error.text, "another port"));
	close(fds[0]);
	assert_int_equal(listen_at("nbd://0.0.0.0:0", fds, &error), 1);
	assert_false(nbd_socket_is_local(fds[0]));
	close(fds[0]);
	assert_true(listen_at("nbd://192.0.2.1:0", fds, &error) < 0);
	assert_true(error.text[0]);
	assert_true(listen_at("nbd://no.such.host.invalid:0", fds, &error) < 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_uris),
	    cmocka_unit_test(test_unix_sockets),
	    cmocka_unit_test(test_tcp),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
