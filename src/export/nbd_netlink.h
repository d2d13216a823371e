/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What is said to the kernel's NBD client, as pure functions: <linux/nbd-netlink.h> within generic netlink, <linux/genetlink.h>.
 * nbd_netlink_ask() alone does I/O.
 */
#pragma once

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define NBD_NETLINK_BYTES 2048u

struct nbd_netlink {
	_Alignas(8) uint8_t data[NBD_NETLINK_BYTES];
	size_t length;
};

struct nbd_netlink_device {
	uint32_t index; /* of reconfigure and resize */
	uint64_t size, block_size;
	uint64_t flags;  /* those of the server's export */
	uint64_t dead_s; /* how long requests wait without a connection */
	int socket;
	const char
	    *backend; /* at most 1024 bytes: kept by the kernel, which compares it at each reconfigure */
};

/* "What number has the family nbd?" */
void nbd_netlink_family(struct nbd_netlink *message);
void nbd_netlink_connect(
    struct nbd_netlink *message, uint16_t family, const struct nbd_netlink_device *device);
/* Gives the device a new connection in the place of one that is dead. */
void nbd_netlink_reconfigure(
    struct nbd_netlink *message, uint16_t family, const struct nbd_netlink_device *device);
/* The device has so many bytes from now on, over the connection that it has. Linux 5.3; an older one passes over it. */
void nbd_netlink_resize(
    struct nbd_netlink *message, uint16_t family, const struct nbd_netlink_device *device);
void nbd_netlink_disconnect(struct nbd_netlink *message, uint16_t family, uint32_t index);
/*
 * Takes one datagram of an answer. 1: more is to come; 0: the kernel has done it; -errno: what it says. *ret_number is set when the
 * datagram has the attribute `attribute` with a number of 2 or 4 bytes. -EBADMSG for what is no answer.
 */
int nbd_netlink_parse(const void *data, size_t length, uint16_t attribute, uint32_t *ret_number);

/* Asks and waits. 0 or -errno; -ENOENT when there is no such family. */
int nbd_netlink_ask(const struct nbd_netlink *message, uint16_t attribute, uint32_t *ret_number);
