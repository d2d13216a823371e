/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Listening as the command line says: see listen.h. */
#include "cli/listen.h"

#include "base/parse_size.h"
#include "cli/cli.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

enum option_key {
	KEY_LISTEN = 'l',
	KEY_TLS_CERTIFICATES = 768,
	KEY_TLS_PSK,
	KEY_TLS_VERIFY_PEER,
	KEY_INSECURE_PLAINTEXT,
	KEY_CONNECTIONS_MAX,
	KEY_INFLIGHT_MAX,
};

static error_t parse(int key, char *arg, struct argp_state *state)
{
	struct listen *listen = state->input;
	struct error error = {0};

	listen->given |= key >= KEY_TLS_CERTIFICATES && key <= KEY_INFLIGHT_MAX;
	switch (key) {
	case KEY_LISTEN:
		listen->given = true;
		if (listen->uris_count == LISTEN_MAX)
			argp_failure(state, JOB_TROUBLE, 0, "--listen may be given %u times", LISTEN_MAX);
		listen->uris[listen->uris_count++] = arg;
		return 0;
	case KEY_TLS_CERTIFICATES:
		listen->tls_certificates = arg;
		return 0;
	case KEY_TLS_PSK:
		listen->tls_psk = arg;
		return 0;
	case KEY_TLS_VERIFY_PEER:
		listen->tls_verify_peer = true;
		return 0;
	case KEY_INSECURE_PLAINTEXT:
		listen->insecure_plaintext = true;
		return 0;
	case KEY_CONNECTIONS_MAX:
		if (cli_parse_number("connections-max", arg, "", 1, 10000, &listen->connections_max, &error) <
		    0)
			argp_failure(state, JOB_TROUBLE, 0, "%s", error.text);
		return 0;
	case KEY_INFLIGHT_MAX:
		if (parse_size(arg, &listen->inflight_bytes, &error) < 0 || listen->inflight_bytes < 65536)
			argp_failure(
			    state, JOB_TROUBLE, 0, "--inflight-max=%s: write a size of 64k or more", arg);
		return 0;
	default:
		return ARGP_ERR_UNKNOWN;
	}
}

static const struct argp_option options[] = {
    {NULL, 0, NULL, 0, "Listening:", 2},
    {"listen", KEY_LISTEN, "URI", 0,
        "nbd://HOST[:PORT][/NAME], nbd+unix:///[NAME]?socket=PATH, or nbds; may be given several times "
        "(default: the sockets that systemd hands over)",
        0},
    {"tls-certificates", KEY_TLS_CERTIFICATES, "DIR", 0,
        "TLS with server-cert.pem, server-key.pem and ca-cert.pem of this folder", 0},
    {"tls-verify-peer", KEY_TLS_VERIFY_PEER, NULL, 0,
        "clients must show a certificate that ca-cert.pem signed", 0},
    {"tls-psk", KEY_TLS_PSK, "FILE", 0, "TLS with the pre-shared keys of this file", 0},
    {"insecure-plaintext", KEY_INSECURE_PLAINTEXT, NULL, 0,
        "allow clients from other machines that prove nothing, and do without TLS", 0},
    {"connections-max", KEY_CONNECTIONS_MAX, "N", 0, "turn further clients away (default: 64)", 0},
    {"inflight-max", KEY_INFLIGHT_MAX, "SIZE", 0,
        "data of requests under way, all clients together (default: 32M)", 0},
    {0},
};

const struct argp cli_argp_listen = {.options = options, .parser = parse};

static bool has_tls(const struct listen *listen)
{
	return listen->tls_certificates || listen->tls_psk;
}

int listen_check(struct listen *listen, struct error *error)
{
	if (listen->tls_certificates && listen->tls_psk)
		return error_set(error, -EINVAL, "--tls-certificates and --tls-psk exclude each other");
	if (listen->tls_verify_peer && !listen->tls_certificates)
		return error_set(error, -EINVAL, "--tls-verify-peer needs --tls-certificates=DIR");
	for (unsigned i = 0; i < listen->uris_count; i++) {
		if (nbd_address_parse(listen->uris[i], &listen->addresses[i], error) < 0)
			return error->code;
		if (listen->addresses[i].tls && !has_tls(listen))
			return error_set(error, -EINVAL,
			    "--listen=%s asks for TLS: name keys in --tls-certificates=DIR or --tls-psk=FILE",
			    listen->uris[i]);
		if (strcmp(listen->addresses[i].name, listen->addresses[0].name))
			return error_set(error, -EINVAL,
			    "all --listen name the same export or none; name others in --name");
	}
	return 0;
}

const char *listen_name(const struct listen *listen)
{
	return listen->addresses[0].name;
}

int listen_inherit(struct listen *listen, struct error *error)
{
	int res =
	    listen->uris_count == 0 && listen->fds_count == 0 ? nbd_address_inherit(listen->fds, error) : 0;

	listen->fds_count += res > 0 ? (unsigned)res : 0;
	return res < 0 ? res : 0;
}

static int bind_all(struct listen *listen, struct error *error)
{
	int res = listen_inherit(listen, error);

	if (res == 0 && listen->uris_count + listen->fds_count == 0 && !listen->optional)
		return error_set(error, -EINVAL,
		    "it is not said where to listen; add --listen=URI, such as "
		    "nbd+unix:///?socket=/run/disk.sock");
	for (unsigned i = 0; i < listen->uris_count && res >= 0; i++) {
		res = nbd_address_listen(&listen->addresses[i], listen->fds + listen->fds_count, error);
		listen->fds_count += res > 0 ? (unsigned)res : 0;
		/* What is not bound must not be removed at the end. */
		for (unsigned rest = i; res < 0 && rest < listen->uris_count; rest++)
			listen->addresses[rest].is_unix = false;
	}
	return res < 0 ? res : 0;
}

/* By a key, or a certificate: encryption alone keeps nobody out. */
static bool proves_clients(const struct listen *listen)
{
	return listen->tls_psk || (listen->tls_certificates && listen->tls_verify_peer);
}

/* Who can reach it from elsewhere must prove who he is, or the user said that he need not. */
static int check_exposure(const struct listen *listen, struct error *error)
{
	for (unsigned i = 0; i < listen->fds_count; i++)
		if (!nbd_socket_is_local(listen->fds[i]) && !proves_clients(listen) &&
		    !listen->insecure_plaintext)
			return error_set(error, -EPERM,
			    "refused: %s can be reached from other machines, who could read and write the "
			    "volume%s; add --tls-verify-peer to --tls-certificates=DIR, or --tls-psk=FILE, "
			    "or "
			    "--insecure-plaintext if the network is trusted",
			    listen->shown[i], has_tls(listen) ? ", encrypted" : "");
	return 0;
}

void listen_uri(const struct listen *listen, unsigned i, const char *name, char *ret, size_t length)
{
	nbd_socket_uri(listen->fds[i], has_tls(listen), name, ret, length);
}

int listen_bind(struct listen *listen, const char *name, struct error *error)
{
	const struct tls_options tls = {.psk_file = listen->tls_psk,
	    .certificates = listen->tls_certificates,
	    .verify_peer = listen->tls_verify_peer};
	int res = has_tls(listen) ? tls_new(&listen->tls, &tls, error) : 0;

	if (res == 0)
		res = bind_all(listen, error);
	for (unsigned i = 0; i < listen->fds_count; i++)
		listen_uri(listen, i, name, listen->shown[i], sizeof(listen->shown[i]));
	return res < 0 ? res : check_exposure(listen, error);
}

void listen_fill(const struct listen *listen, struct nbd_server_options *ret)
{
	ret->connections_max = listen->connections_max;
	ret->inflight_bytes = listen->inflight_bytes;
	ret->tls = listen->tls;
	ret->tls_required = listen->tls && !listen->insecure_plaintext;
}

int listen_start(struct listen *listen, struct nbd_server *server, struct error *error)
{
	int res = 0;

	for (unsigned i = 0; i < listen->fds_count && res == 0; i++) {
		res = nbd_server_listen(server, listen->fds[i], error);
		listen->fds[i] = -1;
	}
	return res;
}

void listen_tell_manager(void)
{
	const char *path = getenv("NOTIFY_SOCKET");
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	socklen_t length = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + (path ? strlen(path) : 0));
	int fd;

	if (!path || !path[0] || strlen(path) >= sizeof(address.sun_path))
		return;
	memcpy(address.sun_path, path, strlen(path));
	if (address.sun_path[0] == '@')
		address.sun_path[0] = '\0';
	fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return;
	(void)sendto(fd, "READY=1", 7, MSG_NOSIGNAL, (struct sockaddr *)&address, length);
	close(fd);
}

void listen_done(struct listen *listen)
{
	for (unsigned i = 0; i < listen->fds_count; i++)
		if (listen->fds[i] >= 0)
			close(listen->fds[i]);
	for (unsigned i = 0; i < listen->uris_count; i++)
		if (listen->fds_count > 0 && listen->addresses[i].is_unix)
			unlink(listen->addresses[i].path);
	tls_free(listen->tls);
}

int listen_judge(struct block *block, const struct endpoint *endpoint, bool allow_mounted, bool allow_held,
    const char *state_dir, struct block_facts *ret_facts, struct error *error)
{
	const char *name = block_info(block)->name;
	struct block_facts *facts = ret_facts;
	int res;

	*ret_facts = (struct block_facts){0};
	/* Who else uses it cannot be seen through NBD. */
	if (!block_info(block)->writable || endpoint->kind == ENDPOINT_NBD ||
	    endpoint->kind == ENDPOINT_CAPTIVE)
		return 0;
	res = block_facts(block, facts, error);
	if (res < 0)
		return res;
	if (facts->mounted[0] && !allow_mounted)
		return error_set(error, -EPERM,
		    "refused: %s is mounted (%s); unmount it, serve it with --read-only, or add "
		    "--allow=mounted",
		    name, facts->mounted);
	if (facts->held[0] && !allow_held)
		return error_set(error, -EPERM,
		    "refused: %s is held by %s; release it, serve it with --read-only, or add --allow=held",
		    name, facts->held);
	if (facts->writer[0] && !allow_held)
		return error_set(error, -EPERM,
		    "refused: %s is open for writing by %s; stop that, serve it with --read-only, or add "
		    "--allow=held",
		    name, facts->writer);
	job_journal_forget(state_dir, facts->id);
	return 0;
}
