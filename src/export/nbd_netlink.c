/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Generic netlink by hand: a header, a second header, attributes. See nbd_netlink.h. */
#include "export/nbd_netlink.h"

#include "base/cleanup.h"

#include <assert.h>
#include <errno.h>
#include <linux/genetlink.h>
#include <linux/nbd-netlink.h>
#include <string.h>
#include <sys/socket.h>

static void begin(struct nbd_netlink *message, uint16_t type, uint8_t command)
{
	struct nlmsghdr *header = (struct nlmsghdr *)message->data;
	struct genlmsghdr *second = NLMSG_DATA(header);

	memset(message, 0, sizeof(*message));
	header->nlmsg_type = type;
	header->nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK;
	second->cmd = command;
	second->version = 1;
	message->length = NLMSG_LENGTH(GENL_HDRLEN);
	header->nlmsg_len = (uint32_t)message->length;
}

/* Returns where the attribute begins, for those that hold others. */
static struct nlattr *add(struct nbd_netlink *message, uint16_t type, const void *data, size_t length)
{
	struct nlattr *attribute = (struct nlattr *)(message->data + message->length);

	assert(message->length + NLA_HDRLEN + NLA_ALIGN(length) <= sizeof(message->data));
	attribute->nla_type = type;
	attribute->nla_len = (uint16_t)(NLA_HDRLEN + length);
	if (length)
		memcpy((char *)attribute + NLA_HDRLEN, data, length);
	message->length += NLA_HDRLEN + NLA_ALIGN(length);
	((struct nlmsghdr *)message->data)->nlmsg_len = (uint32_t)message->length;
	return attribute;
}

static void add_u32(struct nbd_netlink *message, uint16_t type, uint32_t value)
{
	add(message, type, &value, sizeof(value));
}

static void add_u64(struct nbd_netlink *message, uint16_t type, uint64_t value)
{
	add(message, type, &value, sizeof(value));
}

/* What was added since lies in it. */
static void end(struct nbd_netlink *message, struct nlattr *attribute)
{
	attribute->nla_len = (uint16_t)(message->data + message->length - (uint8_t *)attribute);
}

static void add_connection(struct nbd_netlink *message, const struct nbd_netlink_device *device)
{
	struct nlattr *sockets, *item;

	add_u64(message, NBD_ATTR_DEAD_CONN_TIMEOUT, device->dead_s);
	add(message, NBD_ATTR_BACKEND_IDENTIFIER, device->backend, strlen(device->backend) + 1);
	sockets = add(message, NBD_ATTR_SOCKETS | NLA_F_NESTED, NULL, 0);
	item = add(message, NBD_SOCK_ITEM | NLA_F_NESTED, NULL, 0);
	add_u32(message, NBD_SOCK_FD, (uint32_t)device->socket);
	end(message, item);
	end(message, sockets);
}

void nbd_netlink_family(struct nbd_netlink *message)
{
	begin(message, GENL_ID_CTRL, CTRL_CMD_GETFAMILY);
	add(message, CTRL_ATTR_FAMILY_NAME, NBD_GENL_FAMILY_NAME, sizeof(NBD_GENL_FAMILY_NAME));
}

void nbd_netlink_connect(
    struct nbd_netlink *message, uint16_t family, const struct nbd_netlink_device *device)
{
	begin(message, family, NBD_CMD_CONNECT);
	add_u64(message, NBD_ATTR_SIZE_BYTES, device->size);
	add_u64(message, NBD_ATTR_BLOCK_SIZE_BYTES, device->block_size);
	add_u64(message, NBD_ATTR_SERVER_FLAGS, device->flags);
	add_connection(message, device);
}

void nbd_netlink_reconfigure(
    struct nbd_netlink *message, uint16_t family, const struct nbd_netlink_device *device)
{
	begin(message, family, NBD_CMD_RECONFIGURE);
	add_u32(message, NBD_ATTR_INDEX, device->index);
	add_connection(message, device);
}

void nbd_netlink_resize(struct nbd_netlink *message, uint16_t family, const struct nbd_netlink_device *device)
{
	begin(message, family, NBD_CMD_RECONFIGURE);
	add_u32(message, NBD_ATTR_INDEX, device->index);
	add_u64(message, NBD_ATTR_SIZE_BYTES, device->size);
	add(message, NBD_ATTR_BACKEND_IDENTIFIER, device->backend, strlen(device->backend) + 1);
}

void nbd_netlink_disconnect(struct nbd_netlink *message, uint16_t family, uint32_t index)
{
	begin(message, family, NBD_CMD_DISCONNECT);
	add_u32(message, NBD_ATTR_INDEX, index);
}

static void find_number(const struct nlmsghdr *header, uint16_t wanted, uint32_t *ret)
{
	const uint8_t *at = (const uint8_t *)NLMSG_DATA(header) + GENL_HDRLEN;
	const uint8_t *last = (const uint8_t *)header + header->nlmsg_len;

	while (at < last && (size_t)(last - at) >= NLA_HDRLEN) {
		const struct nlattr *attribute = (const struct nlattr *)at;
		size_t length = attribute->nla_len;
		uint16_t half;

		if (length < NLA_HDRLEN || length > (size_t)(last - at))
			return;
		if ((attribute->nla_type & NLA_TYPE_MASK) == wanted && length == NLA_HDRLEN + sizeof(half)) {
			memcpy(&half, at + NLA_HDRLEN, sizeof(half));
			*ret = half;
		} else if ((attribute->nla_type & NLA_TYPE_MASK) == wanted &&
		           length == NLA_HDRLEN + sizeof(*ret)) {
			memcpy(ret, at + NLA_HDRLEN, sizeof(*ret));
		}
		at += NLA_ALIGN(length);
	}
}

int nbd_netlink_parse(const void *data, size_t length, uint16_t attribute, uint32_t *ret_number)
{
	const struct nlmsghdr *header = data;

	while (length > 0) {
		if (length < sizeof(*header) || header->nlmsg_len < sizeof(*header) ||
		    header->nlmsg_len > length)
			return -EBADMSG;
		if (header->nlmsg_type == NLMSG_ERROR) {
			const struct nlmsgerr *answer = NLMSG_DATA(header);

			return header->nlmsg_len < NLMSG_LENGTH(sizeof(*answer)) || answer->error > 0
			           ? -EBADMSG
			           : answer->error;
		}
		if (header->nlmsg_len >= NLMSG_LENGTH(GENL_HDRLEN))
			find_number(header, attribute, ret_number);
		if (NLMSG_ALIGN(header->nlmsg_len) >= length)
			break;
		length -= NLMSG_ALIGN(header->nlmsg_len);
		header = (const struct nlmsghdr *)((const char *)header + NLMSG_ALIGN(header->nlmsg_len));
	}
	return 1;
}

int nbd_netlink_ask(const struct nbd_netlink *message, uint16_t attribute, uint32_t *ret_number)
{
	_Alignas(8) uint8_t data[8192];
	_cleanup_(cleanup_close) int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_GENERIC);
	int res = 1;

	if (fd < 0 || send(fd, message->data, message->length, 0) < 0)
		return -errno;
	while (res == 1) {
		ssize_t length = recv(fd, data, sizeof(data), 0);

		if (length < 0 && errno == EINTR)
			continue;
		res = length <= 0 ? -EIO : nbd_netlink_parse(data, (size_t)length, attribute, ret_number);
	}
	return res;
}
