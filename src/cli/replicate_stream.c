/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Streams between two hosts before their sessions: addresses, and lines of a greeting (docs/wire/replica.md). */
#include "cli/replicate_process.h"

#include "ring/ring_call.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>

#define KEEP_IDLE_S     10
#define KEEP_INTERVAL_S 5
#define KEEP_COUNT      3

/* Addresses */

struct lookup {
	const struct replica_config_host *host;
	struct addrinfo *found;
	int flags;
};

static int look_up(void *data, struct error *error)
{
	struct lookup *lookup = data;
	const struct replica_config_host *host = lookup->host;
	const struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = lookup->flags};
	int res = getaddrinfo(host->address_host, host->address_port, &hints, &lookup->found);

	if (res == 0)
		return 0;
	return error_set(error, res == EAI_SYSTEM ? -errno : -ENOENT,
	    "cannot find the address %s of %s: %s; is it right in the resource's file?", host->address,
	    host->name, res == EAI_SYSTEM ? strerror(errno) : gai_strerror(res));
}

int replicate_stream_resolve(struct ring *ring, const struct replica_config_host *host,
    struct replicate_address ret[REPLICATE_ADDRESSES_MAX], unsigned *ret_count, struct error *error)
{
	struct lookup lookup = {.host = host, .flags = AI_NUMERICHOST};
	unsigned count = 0;
	int res = look_up(&lookup, error);

	/* Names may take their time. */
	lookup.flags = 0;
	if (res < 0 && ring)
		res = ring_call(ring, look_up, &lookup, error);
	if (res < 0)
		return res;
	for (const struct addrinfo *at = lookup.found; at && count < REPLICATE_ADDRESSES_MAX;
	     at = at->ai_next) {
		ret[count].length = at->ai_addrlen;
		memcpy(&ret[count++].address, at->ai_addr, at->ai_addrlen);
	}
	freeaddrinfo(lookup.found);
	*ret_count = count;
	return 0;
}

/* The address's bytes; one of IPv4 that came by IPv6 is one of IPv4. */
static const void *bytes_of(const struct sockaddr_storage *address, size_t *ret_length)
{
	const struct sockaddr_in6 *six = (const struct sockaddr_in6 *)address;

	*ret_length = 4;
	if (address->ss_family == AF_INET)
		return &((const struct sockaddr_in *)address)->sin_addr;
	if (IN6_IS_ADDR_V4MAPPED(&six->sin6_addr))
		return six->sin6_addr.s6_addr + 12;
	*ret_length = 16;
	return &six->sin6_addr;
}

bool replicate_stream_is_from(
    const struct sockaddr_storage *address, const struct replicate_address *addresses, unsigned count)
{
	size_t length, other_length;
	const void *bytes = bytes_of(address, &length);

	for (unsigned i = 0; i < count; i++) {
		const void *other = bytes_of(&addresses[i].address, &other_length);

		if (length == other_length && !memcmp(bytes, other, length))
			return true;
	}
	return false;
}

const char *replicate_stream_name(const struct sockaddr_storage *address, char *buf, size_t length)
{
	char host[64] = "?", port[8] = "?";

	(void)getnameinfo((const struct sockaddr *)address, sizeof(*address), host, sizeof(host), port,
	    sizeof(port), NI_NUMERICHOST | NI_NUMERICSERV);
	snprintf(buf, length, strchr(host, ':') ? "[%s]:%s" : "%s:%s", host, port);
	return buf;
}

void replicate_stream_tune(int fd, unsigned timeout_ms)
{
	const int on = 1, idle = KEEP_IDLE_S, interval = KEEP_INTERVAL_S, count = KEEP_COUNT;

	/* The ring waits for sockets by itself. */
	fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK);
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof(idle));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval, sizeof(interval));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof(count));
	if (timeout_ms)
		setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &timeout_ms, sizeof(timeout_ms));
}

/* Lines */

/* What there is of the line, its end included, and nothing behind it: how much, 0: nothing now, or -errno. */
static int take_some(int fd, char *buf, size_t most, bool *ret_whole)
{
	ssize_t got = recv(fd, buf, most, MSG_PEEK | MSG_DONTWAIT);
	const char *end;

	if (got < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	if (got == 0)
		return -ECONNRESET;
	end = memchr(buf, '\n', (size_t)got);
	*ret_whole = end != NULL;
	got = recv(fd, buf, end ? (size_t)(end - buf) + 1 : (size_t)got, MSG_DONTWAIT);
	return got < 0 ? -errno : (int)got;
}

int replicate_stream_read_line(
    struct ring *ring, int fd, uint64_t deadline_ns, char ret[REPLICA_GREETING_MAX], struct error *error)
{
	size_t length = 0;
	bool whole = false;

	while (!whole && length < REPLICA_GREETING_MAX) {
		int got = take_some(fd, ret + length, REPLICA_GREETING_MAX - length, &whole);
		uint64_t now_ns = ring_now_ns(ring);

		if (got < 0)
			return error_set(
			    error, got, "the stream ended before a greeting: %s", strerror(-got));
		length += (size_t)got;
		if (got > 0)
			continue;
		if (now_ns >= deadline_ns)
			return error_set(error, -ETIMEDOUT, "no greeting came in time");
		got = ring_wait_fd(ring, fd, POLLIN, (deadline_ns - now_ns) / 1000000 + 1);
		if (got < 0)
			return error_set(error, got, "cannot wait for a greeting: %s", strerror(-got));
	}
	return whole ? (int)length - 1
	             : error_set(error, -EPROTO, "what came is no greeting: it is too long");
}

int replicate_stream_write_line(int fd, const char *line, size_t length, struct error *error)
{
	ssize_t sent = send(fd, line, length, MSG_DONTWAIT | MSG_NOSIGNAL);

	if (sent == (ssize_t)length)
		return 0;
	return error_set(error, sent < 0 ? -errno : -EIO, "cannot send a greeting: %s",
	    sent < 0 ? strerror(errno) : "the stream takes nothing");
}
