/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A device by the kernel's NBD client: see device.h. Our own server is at the other end of a socket pair; the kernel keeps its end, and
 * the device, when we die, and gets a new one from who takes over. One connection: with several, the kernel takes a
 * request that lasts for a dead connection and sends it a second time.
 */
#include "base/bytes.h"
#include "base/cleanup.h"
#include "block/sysfs.h"
#include "export/device_private.h"
#include "export/nbd_netlink.h"
#include "export/nbd_protocol.h"
#include "export/nbd_server.h"
#include "ring/ring_call.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <linux/genetlink.h>
#include <linux/nbd-netlink.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define INFLIGHT_BYTES (4u * (32u << 20)) /* one client may have a quarter */
#define DEAD_S         (UINT64_C(30) * 24 * 3600)
#define TAKE_TRIES     1200 /* a process takes a while to die */
#define TAKE_NAP       50000u
#define PATIENCE_MS    5000u
#define REQUEST_KIB    1024u                      /* of one request; the kernel would send shorter ones */
#define HANDSHAKE      (NBD_GREETING_BYTES + 10u) /* what the server says, with size and flags */

struct kernel_nbd {
	struct nbd_server *server;
	int socket; /* the kernel's end, until it has it */
	uint16_t flags;
	bool stopping;
};

static int family(uint16_t *ret)
{
	struct nbd_netlink message;
	uint32_t number = 0;
	int res;

	nbd_netlink_family(&message);
	res = nbd_netlink_ask(&message, CTRL_ATTR_FAMILY_ID, &number);
	if (res == 0 && number == 0)
		res = -ENOENT;
	*ret = (uint16_t)number;
	return res;
}

static int available(struct error *error)
{
	uint16_t number;
	int res = family(&number);

	if (res == -ENOENT) {
		device_load_module("nbd");
		res = family(&number);
	}
	return res < 0 ? error_set(error, -EOPNOTSUPP,
	                     "this kernel's NBD client (the module nbd) cannot be had: %s", strerror(-res))
	               : 0;
}

/* Finding */

static uint64_t attribute(const char *node, const char *name)
{
	char path[128], text[64];

	snprintf(path, sizeof(path), "/sys/block/%s/%s", node, name);
	return sysfs_line(path, text, sizeof(text)) == 0 ? strtoull(text, NULL, 10) : 0;
}

static void backend_of(const struct device *device, char *ret, size_t size)
{
	snprintf(ret, size, "blkmove %s %s", device->name, device->identity);
}

static int look_at(struct device *device, const char *node, struct error *error)
{
	char path[300], own[sizeof(device->left)], prefix[DEVICE_NAME_MAX + 16];
	const struct device_shape *shape = &device->shape;

	snprintf(path, sizeof(path), "/sys/block/%.200s/backend", node);
	snprintf(prefix, sizeof(prefix), "blkmove %s ", device->name);
	backend_of(device, own, sizeof(own));
	if (sysfs_line(path, device->left, sizeof(device->left)) < 0 ||
	    strncmp(device->left, prefix, strlen(prefix)) != 0)
		return 0;
	snprintf(path, sizeof(path), "/dev/%.200s", node);
	if (strcmp(device->left, own) != 0 && !device->options.adopt)
		return device_refuse_other(device, path, error);
	if (!device_takes_size(device, device_node_size(path), !strcmp(device->left, own)) ||
	    attribute(node, "queue/logical_block_size") != shape->logical ||
	    attribute(node, "ro") != shape->read_only)
		return device_refuse_shape(path, error);
	device->index = (unsigned)strtoul(node + 3, NULL, 10);
	return 1;
}

static int find(struct device *device, struct error *error)
{
	DIR *dir = opendir("/sys/block");
	struct dirent *entry;
	int res = 0;

	while (dir && res == 0 && (entry = readdir(dir)))
		if (!strncmp(entry->d_name, "nbd", 3) && isdigit((unsigned char)entry->d_name[3]))
			res = look_at(device, entry->d_name, error);
	if (dir)
		closedir(dir);
	return res;
}

/* The server */

static void clients_changed(void *data, unsigned count)
{
	struct device *device = data;
	struct error why;

	if (count > 0 || !device->nbd || device->nbd->stopping)
		return;
	error_set(&why, -ENOTCONN, "the kernel let its connection go");
	device_fail(device, &why);
}

static void client_failed(void *data, const struct error *why)
{
	struct device *device = data;

	if (!device->nbd || !device->nbd->stopping)
		device_fail(device, why);
}

static void answered(void *data, enum block_op op, uint64_t length, int res, uint64_t ns)
{
	const struct device_options *options = &((struct device *)data)->options;

	if (options->answered)
		options->answered(options->data, op, length, res, ns);
}

static int new_server(struct device *device, struct error *error)
{
	const struct nbd_server_options options = {.connections_max = 1,
	    .inflight_bytes = INFLIGHT_BYTES,
	    .data = device,
	    .clients_changed = clients_changed,
	    .client_failed = client_failed,
	    .answered = answered};
	const struct nbd_export export = {
	    .name = "", .block = device->options.block, .read_only = device->shape.read_only};
	int res = nbd_server_new(&device->nbd->server, device->ring, &options, error);

	return res == 0 ? nbd_server_add(device->nbd->server, &export, error) : res;
}

/* The client's part of the negotiation, before the kernel gets the socket: it knows only what comes afterwards. */
static int shake_hands(struct device *device, struct error *error)
{
	struct kernel_nbd *nbd = device->nbd;
	uint8_t said[NBD_CLIENT_FLAGS_BYTES + NBD_OPTION_BYTES], heard[HANDSHAKE];
	size_t have = 0;

	put_be32(said, 3); /* fixed newstyle, no zeroes */
	memcpy(said + NBD_CLIENT_FLAGS_BYTES, "IHAVEOPT", 8);
	put_be32(said + NBD_CLIENT_FLAGS_BYTES + 8, NBD_OPTION_EXPORT_NAME);
	put_be32(said + NBD_CLIENT_FLAGS_BYTES + 12, 0);
	if (write(nbd->socket, said, sizeof(said)) != sizeof(said))
		return error_set(error, -EIO, "cannot greet our own server");
	while (have < sizeof(heard)) {
		struct ring_op op = {.opcode = RING_READ,
		    .fd = nbd->socket,
		    .offset = RING_STREAM,
		    .buf = heard + have,
		    .length = sizeof(heard) - have};
		int res = ring_wait(device->ring, &op);

		if (res <= 0)
			return error_set(error, -EPROTO, "our own server does not let us in");
		have += (size_t)res;
	}
	/* More than the device has: see device_grow(). */
	if (get_be64(heard + NBD_GREETING_BYTES) < device->shape.size)
		return error_set(error, -EPROTO, "our own server says another size");
	nbd->flags = get_be16(heard + NBD_GREETING_BYTES + 8);
	return 0;
}

static int connect_server(struct device *device, struct error *error)
{
	int ends[2], res;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0)
		return error_set(error, -errno, "cannot make a socket: %s", strerror(errno));
	device->nbd->socket = ends[0];
	res = nbd_server_connect(device->nbd->server, ends[1], error);
	return res == 0 ? shake_hands(device, error) : res;
}

/* Opening */

static int give_socket(void *data, struct error *error)
{
	struct device *device = data;
	struct kernel_nbd *nbd = device->nbd;
	char backend[sizeof(device->left)];
	const struct nbd_netlink_device wanted = {.index = device->index,
	    .size = device->shape.size,
	    .block_size = device->shape.logical,
	    .flags = nbd->flags,
	    .dead_s = device->options.temporary ? 0 : DEAD_S,
	    .socket = nbd->socket,
	    /* The kernel takes a new connection only from who calls it what it was called. */
	    .backend = device->info.taken_over ? device->left : backend};
	struct nbd_netlink message;
	uint16_t number;
	uint32_t index = UINT32_MAX;
	int res = family(&number);

	backend_of(device, backend, sizeof(backend));
	if (res < 0)
		return error_set(error, res, "cannot reach the kernel's NBD client: %s", strerror(-res));
	if (device->info.taken_over) {
		nbd_netlink_reconfigure(&message, number, &wanted);
		index = device->index;
	} else {
		nbd_netlink_connect(&message, number, &wanted);
	}
	/* -ENOSPC: the connection that we would replace is not dead yet. */
	for (unsigned i = 0; i == 0 || (res == -ENOSPC && i < TAKE_TRIES); i++) {
		if (i)
			usleep(TAKE_NAP);
		res = nbd_netlink_ask(&message, NBD_ATTR_INDEX, &index);
	}
	if (res == -ENOSPC && device->info.taken_over)
		return error_set(error, -EALREADY, "a process serves /dev/nbd%u already", device->index);
	if (res < 0 || index == UINT32_MAX)
		return error_set(error, res < 0 ? res : -EPROTO,
		    "the kernel's NBD client makes no device: %s",
		    res < 0 ? strerror(-res) : "it names none");
	device->index = index;
	snprintf(device->info.node, sizeof(device->info.node), "/dev/nbd%u", index);
	device_set_queue(device->info.node, "max_sectors_kb", REQUEST_KIB);
	return 0;
}

static int open_nbd(struct device *device, struct error *error)
{
	int res;

	device->nbd = calloc(1, sizeof(*device->nbd));
	if (!device->nbd)
		return error_set(error, -ENOMEM, "out of memory");
	device->nbd->socket = -1;
	res = new_server(device, error);
	if (res == 0)
		res = connect_server(device, error);
	if (res == 0)
		res = ring_call(device->ring, give_socket, device, error);
	/* The kernel has its own by now. */
	cleanup_close(&device->nbd->socket);
	device->nbd->socket = -1;
	return res;
}

/* The server takes requests up to the new size by now. Since Linux 6.9 the kernel waits for those that are under way. */
static int grow(struct device *device, uint64_t size, struct error *error)
{
	char backend[sizeof(device->left)];
	const struct nbd_netlink_device wanted = {.index = device->index,
	    .size = size,
	    .backend = device->info.taken_over ? device->left : backend};
	struct nbd_netlink message;
	uint16_t number;
	uint32_t none = 0;
	int res = family(&number);

	backend_of(device, backend, sizeof(backend));
	if (res == 0) {
		nbd_netlink_resize(&message, number, &wanted);
		res = nbd_netlink_ask(&message, NBD_ATTR_UNSPEC, &none);
	}
	return res < 0
	           ? error_set(error, res, "the kernel's NBD client makes it no larger: %s", strerror(-res))
	           : 0;
}

/* The end */

static int disconnect(void *data, struct error *error)
{
	struct device *device = data;
	struct nbd_netlink message;
	uint16_t number;
	uint32_t none = 0;
	int res = family(&number);

	if (res == 0) {
		nbd_netlink_disconnect(&message, number, device->index);
		res = nbd_netlink_ask(&message, NBD_ATTR_UNSPEC, &none);
	}
	cleanup_close(&device->claim_fd);
	device->claim_fd = -1;
	return res < 0 ? error_set(error, res, "the kernel's NBD client does not end it: %s", strerror(-res))
	               : 0;
}

static int stop(struct device *device, bool hurry, struct error *error)
{
	int res;

	if (!device->nbd || !device->info.node[0])
		return 0;
	device->nbd->stopping = true;
	res = ring_call(device->ring, disconnect, device, error);
	return res == 0 ? nbd_server_stop(device->nbd->server, PATIENCE_MS, error) : res;
}

static void free_nbd(struct device *device)
{
	if (!device->nbd)
		return;
	device->nbd->stopping = true;
	nbd_server_free(device->nbd->server);
	free(device->nbd);
	device->nbd = NULL;
}

const struct device_ops kernel_nbd_ops = {
    .find = find, .available = available, .open = open_nbd, .grow = grow, .stop = stop, .free = free_nbd};
