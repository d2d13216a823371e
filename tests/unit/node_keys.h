/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Keys of nodes, for tests with a folder of their own: keys.psk (node, alice), other.psk (node, another key), and the certificates of
 * make_certificates(). After cmocka.h.
 */
#pragma once

#include "wire/tls.h"

#include <signal.h>

#include "own_folder.h"
#include "shell.h"

#include "keys.h"

static __attribute__((unused)) const char *path_of(const char *name)
{
	static char path[128];

	snprintf(path, sizeof(path), "%s/%s", folder, name);
	return path;
}

static __attribute__((unused)) int keys_setup(void **state)
{
	signal(SIGPIPE, SIG_IGN);
	if (own_folder_make(state) < 0)
		return -1;
	run("cd %s && echo 'alice:00112233445566778899aabbccddeeff' >keys.psk && "
	    "echo 'node:ffeeddccbbaa99887766554433221100' >>keys.psk && "
	    "echo 'node:0123456789abcdef0123456789abcdef' >other.psk",
	    folder);
	return 0;
}

/* pki/ for a node that is called alpha and 127.0.0.1, other/ of an authority of its own, liar/ which trusts the first and has the other's. */
static __attribute__((unused)) void make_certificates(void)
{
	static const char server[] = "dns_name = alpha\\nip_address = 127.0.0.1\\ntls_www_server\\n";
	static const char client[] = "dns_name = alpha\\ntls_www_client\\n";

	keys_make_authority("pki");
	keys_make_authority("other");
	keys_sign("pki", "server", server);
	keys_sign("pki", "client", client);
	keys_sign("other", "server", server);
	keys_sign("other", "client", client);
	run("cd %s && mkdir -p liar && cp other/*.pem liar && cp pki/ca-cert.pem liar", folder);
}

static __attribute__((unused)) struct tls *tls_of(const struct tls_options *options)
{
	struct error error = {0};
	struct tls *tls = NULL;

	if (tls_new(&tls, options, &error) < 0)
		fail_msg("%s", error.text);
	return tls;
}
