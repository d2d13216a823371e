/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What is said to the kernel's NBD client, byte by byte, and how answers are read that may be anything. */
#include "export/nbd_netlink.h"

#include <errno.h>
#include <linux/genetlink.h>
#include <linux/nbd-netlink.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define FAMILY 29

static const struct nbd_netlink_device device = {.index = 5,
    .size = UINT64_C(0x123456789000),
    .block_size = 512,
    .flags = 0x6d,
    .dead_s = 86400,
    .socket = 42,
    .backend = "blkmove disk serve x"};

/* Finds an attribute among `length` bytes. */
static const struct nlattr *find(const void *from, size_t length, uint16_t type)
{
	const uint8_t *at = from, *last = at + length;

	while (at < last) {
		const struct nlattr *attribute = (const struct nlattr *)at;

		assert_true(attribute->nla_len >= NLA_HDRLEN && at + attribute->nla_len <= last);
		if ((attribute->nla_type & NLA_TYPE_MASK) == type)
			return attribute;
		at += NLA_ALIGN(attribute->nla_len);
	}
	return NULL;
}

static const struct nlattr *find_top(const struct nbd_netlink *message, uint16_t type)
{
	size_t begin = NLMSG_LENGTH(GENL_HDRLEN);

	return find(message->data + begin, message->length - begin, type);
}

static const void *value(const struct nlattr *attribute, size_t length)
{
	assert_non_null(attribute);
	assert_int_equal(attribute->nla_len, NLA_HDRLEN + length);
	return (const char *)attribute + NLA_HDRLEN;
}

static uint64_t number(const struct nbd_netlink *message, uint16_t type)
{
	uint64_t got;

	memcpy(&got, value(find_top(message, type), sizeof(got)), sizeof(got));
	return got;
}

static void assert_header(const struct nbd_netlink *message, uint16_t type, uint8_t command)
{
	const struct nlmsghdr *header = (const struct nlmsghdr *)message->data;
	const struct genlmsghdr *second = NLMSG_DATA(header);

	assert_int_equal(header->nlmsg_len, message->length);
	assert_int_equal(header->nlmsg_type, type);
	assert_int_equal(header->nlmsg_flags, NLM_F_REQUEST | NLM_F_ACK);
	assert_int_equal(second->cmd, command);
}

static void assert_index(const struct nbd_netlink *message, uint32_t index)
{
	uint32_t got;

	memcpy(&got, value(find_top(message, NBD_ATTR_INDEX), sizeof(got)), sizeof(got));
	assert_int_equal(got, index);
}

static void assert_connection(const struct nbd_netlink *message)
{
	const struct nlattr *sockets = find_top(message, NBD_ATTR_SOCKETS), *item, *fd;
	uint32_t got;

	assert_int_equal(number(message, NBD_ATTR_DEAD_CONN_TIMEOUT), 86400);
	assert_string_equal(value(find_top(message, NBD_ATTR_BACKEND_IDENTIFIER), strlen(device.backend) + 1),
	    device.backend);
	assert_non_null(sockets);
	item = find((const char *)sockets + NLA_HDRLEN, sockets->nla_len - NLA_HDRLEN, NBD_SOCK_ITEM);
	assert_non_null(item);
	fd = find((const char *)item + NLA_HDRLEN, item->nla_len - NLA_HDRLEN, NBD_SOCK_FD);
	memcpy(&got, value(fd, sizeof(got)), sizeof(got));
	assert_int_equal(got, 42);
}

static void test_connect(void **state)
{
	struct nbd_netlink message;

	nbd_netlink_connect(&message, FAMILY, &device);
	assert_header(&message, FAMILY, NBD_CMD_CONNECT);
	assert_int_equal(number(&message, NBD_ATTR_SIZE_BYTES), device.size);
	assert_int_equal(number(&message, NBD_ATTR_BLOCK_SIZE_BYTES), 512);
	assert_int_equal(number(&message, NBD_ATTR_SERVER_FLAGS), 0x6d);
	/* The kernel finds a free one; a slow request is no dead connection. */
	assert_null(find_top(&message, NBD_ATTR_INDEX));
	assert_null(find_top(&message, NBD_ATTR_TIMEOUT));
	assert_connection(&message);
}

static void test_reconfigure(void **state)
{
	struct nbd_netlink message;

	nbd_netlink_reconfigure(&message, FAMILY, &device);
	assert_header(&message, FAMILY, NBD_CMD_RECONFIGURE);
	assert_index(&message, 5);
	assert_null(find_top(&message, NBD_ATTR_SIZE_BYTES));
	assert_connection(&message);
}

/* Over the connection that it has, and that may not be touched. */
static void test_resize(void **state)
{
	struct nbd_netlink message;

	nbd_netlink_resize(&message, FAMILY, &device);
	assert_header(&message, FAMILY, NBD_CMD_RECONFIGURE);
	assert_index(&message, 5);
	assert_int_equal(number(&message, NBD_ATTR_SIZE_BYTES), device.size);
	assert_string_equal(
	    value(find_top(&message, NBD_ATTR_BACKEND_IDENTIFIER), strlen(device.backend) + 1),
	    device.backend);
	assert_null(find_top(&message, NBD_ATTR_SOCKETS));
	assert_null(find_top(&message, NBD_ATTR_DEAD_CONN_TIMEOUT));
	assert_null(find_top(&message, NBD_ATTR_BLOCK_SIZE_BYTES));
}

static void test_family_and_disconnect(void **state)
{
	struct nbd_netlink message;

	nbd_netlink_family(&message);
	assert_header(&message, GENL_ID_CTRL, CTRL_CMD_GETFAMILY);
	assert_string_equal(value(find_top(&message, CTRL_ATTR_FAMILY_NAME), 4), "nbd");
	nbd_netlink_disconnect(&message, FAMILY, 7);
	assert_header(&message, FAMILY, NBD_CMD_DISCONNECT);
	assert_index(&message, 7);
}

static void test_the_longest_backend_fits(void **state)
{
	char backend[1025];
	struct nbd_netlink_device longest = device;
	struct nbd_netlink message;

	memset(backend, 'x', 1024);
	backend[1024] = '\0';
	longest.backend = backend;
	nbd_netlink_connect(&message, FAMILY, &longest);
	assert_true(message.length <= sizeof(message.data));
}

/* Answers */

static size_t build_error(void *at, int code)
{
	struct nlmsghdr *header = at;
	struct nlmsgerr *answer = NLMSG_DATA(header);

	*header = (struct nlmsghdr){.nlmsg_len = NLMSG_LENGTH(sizeof(*answer)), .nlmsg_type = NLMSG_ERROR};
	*answer = (struct nlmsgerr){.error = code};
	return NLMSG_ALIGN(header->nlmsg_len);
}

/* A reply is a message like any other. */
static size_t build_reply(void *at)
{
	struct nbd_netlink message;

	nbd_netlink_disconnect(&message, FAMILY, 0x01020304);
	memcpy(at, message.data, message.length);
	return NLMSG_ALIGN(message.length);
}

static void test_answers(void **state)
{
	_Alignas(8) uint8_t data[512];
	uint32_t got = 0;
	size_t length;

	assert_int_equal(nbd_netlink_parse(data, build_error(data, 0), NBD_ATTR_INDEX, &got), 0);
	assert_int_equal(nbd_netlink_parse(data, build_error(data, -ENOSPC), NBD_ATTR_INDEX, &got), -ENOSPC);
	assert_int_equal(nbd_netlink_parse(data, build_error(data, 5), NBD_ATTR_INDEX, &got), -EBADMSG);
	assert_int_equal(got, 0);
	length = build_reply(data);
	assert_int_equal(nbd_netlink_parse(data, length, NBD_ATTR_TIMEOUT, &got), 1);
	assert_int_equal(got, 0);
	assert_int_equal(nbd_netlink_parse(data, length, NBD_ATTR_INDEX, &got), 1);
	assert_int_equal(got, 0x01020304);
	/* Both in one datagram. */
	got = 0;
	length += build_error(data + length, 0);
	assert_int_equal(nbd_netlink_parse(data, length, NBD_ATTR_INDEX, &got), 0);
	assert_int_equal(got, 0x01020304);
}

/* Nothing is read behind its end, whatever it says: under sanitizers each byte counts. */
static void test_cut_and_damaged_answers(void **state)
{
	_Alignas(8) uint8_t whole[512];
	size_t length = build_reply(whole);
	uint32_t got;

	length += build_error(whole + length, 0);
	for (size_t cut = 0; cut <= length; cut++) {
		uint8_t *part = malloc(cut + 1);

		memcpy(part, whole, cut);
		(void)nbd_netlink_parse(part, cut, NBD_ATTR_INDEX, &got);
		for (size_t i = 0; i < cut && cut == length; i++)
			for (unsigned bit = 0; bit < 8; bit++) {
				part[i] ^= (uint8_t)(1u << bit);
				(void)nbd_netlink_parse(part, cut, NBD_ATTR_INDEX, &got);
				part[i] ^= (uint8_t)(1u << bit);
			}
		free(part);
	}
	memset(whole, 0, 16);
	assert_int_equal(nbd_netlink_parse(whole, 16, NBD_ATTR_INDEX, &got), -EBADMSG);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_connect),
	    cmocka_unit_test(test_reconfigure),
	    cmocka_unit_test(test_resize),
	    cmocka_unit_test(test_family_and_disconnect),
	    cmocka_unit_test(test_the_longest_backend_fits),
	    cmocka_unit_test(test_answers),
	    cmocka_unit_test(test_cut_and_damaged_answers),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
