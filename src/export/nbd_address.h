/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Where a server listens, as an NBD URI (the NBD project's doc/uri.md): nbd://host[:port][/name], nbds://...,
 * nbd+unix:///name?socket=PATH, nbds+unix://... Without a host: all addresses. Control path.
 */
#pragma once

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>

#define NBD_ADDRESS_FDS 8u /* a host may have several addresses */

struct nbd_address {
	bool tls, is_unix;
	char host[256], port[32]; /* TCP; host "": all addresses */
	char path[108];           /* unix */
	char name[256];           /* the export's; "" */
};

/* Pure. 0, or -EINVAL with words. */
int nbd_address_parse(const char *uri, struct nbd_address *ret, struct error *error);

/*
 * Binds and listens. A unix socket that nobody listens at any more is replaced. Returns how many descriptors it filled (all
 * addresses of the host), or -errno with words: -EADDRINUSE names what to do.
 */
int nbd_address_listen(const struct nbd_address *address, int ret[NBD_ADDRESS_FDS], struct error *error);
/*
 * Sockets that systemd has opened for this process (sd_listen_fds(3)): takes them from the environment. Returns how many, 0 when
 * there are none, or -errno with words when one of them is no listening stream socket.
 */
int nbd_address_inherit(int ret[NBD_ADDRESS_FDS], struct error *error);
/* Nothing can come from another machine: a unix socket, or a loopback address. */
bool nbd_socket_is_local(int fd);
/* The URI of a listening socket; all addresses of the machine are shown as this machine's name. Returns `ret`. */
char *nbd_socket_uri(int fd, bool tls, const char *name, char *ret, size_t size);
