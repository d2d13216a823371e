/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* URIs and listening sockets: see nbd_address.h. */
#include "export/nbd_address.h"

#include "base/cleanup.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define PORT            "10809"
#define BACKLOG         128
#define DYING_PAUSE_MS  50 /* see is_left_over() */
#define DYING_PAUSES    20u
#define FIRST_INHERITED 3

union address {
	struct sockaddr any;
	struct sockaddr_in v4;
	struct sockaddr_in6 v6;
	struct sockaddr_un un;
	struct sockaddr_storage storage;
};

/* URIs */

/* Copies `length` bytes with %XX decoded. False: too long, or badly escaped, or a NUL. */
static bool decode(const char *from, size_t length, char *ret, size_t size)
{
	size_t used = 0;

	for (size_t i = 0; i < length; i++) {
		unsigned byte = (unsigned char)from[i];

		if (byte == '%') {
			if (length - i < 3 || !isxdigit((unsigned char)from[i + 1]) ||
			    sscanf(from + i + 1, "%2x", &byte) != 1 || !isxdigit((unsigned char)from[i + 2]))
				return false;
			i += 2;
		}
		if (byte == 0 || used + 1 >= size)
			return false;
		ret[used++] = (char)byte;
	}
	ret[used] = '\0';
	return true;
}

static void encode(const char *from, char *ret, size_t size)
{
	size_t used = 0;

	for (; *from && used + 4 < size; from++) {
		if (isalnum((unsigned char)*from) || strchr("-._~/", *from))
			ret[used++] = *from;
		else
			used += (size_t)snprintf(ret + used, 4, "%%%02X", (unsigned char)*from);
	}
	ret[used] = '\0';
}

/* "host", "host:port", "[v6]", "[v6]:port" */
static bool parse_host(const char *text, size_t length, struct nbd_address *ret)
{
	const char *end = text + length, *host = text, *host_end, *port;

	if (length > 0 && text[0] == '[') {
		host++;
		host_end = memchr(text, ']', length);
		port = host_end ? host_end + 1 : NULL;
	} else {
		host_end = memchr(text, ':', length);
		host_end = host_end ? host_end : end;
		port = host_end;
	}
	if (!port || (port < end && *port != ':') || port + 1 == end)
		return false;
	if (!decode(host, (size_t)(host_end - host), ret->host, sizeof(ret->host)))
		return false;
	if (port == end)
		return snprintf(ret->port, sizeof(ret->port), "%s", PORT) > 0;
	return decode(port + 1, (size_t)(end - port - 1), ret->port, sizeof(ret->port)) &&
	       strspn(ret->port, "0123456789") == strlen(ret->port);
}

static int parse_unix(const char *uri, const char *authority, const char *path, const char *query,
    struct nbd_address *ret, struct error *error)
{
	const char *socket = query && !strncmp(query, "?socket=", 8) ? query + 8 : NULL;

	if (authority != path || !socket || strchr(socket, '&') ||
	    !decode(socket, strlen(socket), ret->path, sizeof(ret->path)) || !ret->path[0])
		return error_set(error, -EINVAL,
		    "--listen=%s: a unix socket is written nbd+unix:///NAME?socket=PATH, its path with %zu "
		    "bytes at most",
		    uri, sizeof(ret->path) - 1);
	return 0;
}

int nbd_address_parse(const char *uri, struct nbd_address *ret, struct error *error)
{
	static const struct {
		const char *scheme;
		bool tls, is_unix;
	} schemes[] = {{"nbd://", false, false}, {"nbds://", true, false}, {"nbd+unix://", false, true},
	    {"nbds+unix://", true, true}};
	struct nbd_address address = {0};
	const char *authority = NULL, *path, *query, *name;

	for (size_t i = 0; i < sizeof(schemes) / sizeof(schemes[0]); i++) {
		if (strncmp(uri, schemes[i].scheme, strlen(schemes[i].scheme)))
			continue;
		authority = uri + strlen(schemes[i].scheme);
		address.tls = schemes[i].tls;
		address.is_unix = schemes[i].is_unix;
	}
	if (!authority)
		return error_set(error, -EINVAL,
		    "--listen=%s: write nbd://HOST[:PORT], nbd+unix:///?socket=PATH, or the same with nbds",
		    uri);
	path = authority + strcspn(authority, "/?");
	query = strchr(path, '?');
	name = *path == '/' ? path + 1 : path;
	if (!decode(name, query ? (size_t)(query - name) : strlen(name), address.name, sizeof(address.name)))
		return error_set(
		    error, -EINVAL, "--listen=%s: the export's name is too long or badly escaped", uri);
	if (address.is_unix) {
		int res = parse_unix(uri, authority, path, query, &address, error);

		if (res < 0)
			return res;
	} else if (query || !parse_host(authority, (size_t)(path - authority), &address)) {
		return error_set(error, -EINVAL,
		    "--listen=%s: write nbd://HOST[:PORT][/NAME]; HOST may be [v6], PORT is a number", uri);
	}
	*ret = address;
	return 0;
}

/* Listening */

/* Whether a server is there: 1 it greets, 0 there is none any more, -EAGAIN it takes connections and says nothing. */
static int ask(const struct sockaddr_un *address)
{
	_cleanup_(cleanup_close) int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct pollfd greeting = {.fd = fd, .events = POLLIN};
	char byte;

	if (fd < 0 || connect(fd, (const struct sockaddr *)address, sizeof(*address)) < 0)
		return fd >= 0 && errno == ECONNREFUSED ? 0 : 1;
	if (poll(&greeting, 1, DYING_PAUSE_MS) == 1 && recv(fd, &byte, 1, MSG_DONTWAIT) == 1)
		return 1;
	return -EAGAIN;
}

/*
 * Nobody listens at this socket any more: what is left of it may go. After a server was killed the kernel takes a moment to take
 * its ring apart, and keeps the socket open until then.
 */
static bool is_left_over(const struct sockaddr_un *address)
{
	struct stat st;
	int res = -EAGAIN;

	if (lstat(address->sun_path, &st) < 0 || !S_ISSOCK(st.st_mode))
		return false;
	for (unsigned i = 0; i < DYING_PAUSES && res == -EAGAIN; i++) {
		if (i > 0)
			usleep(DYING_PAUSE_MS * 1000);
		res = ask(address);
	}
	return res == 0;
}

static int listen_unix(const struct nbd_address *address, struct error *error)
{
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	_cleanup_(cleanup_close) int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int res = fd < 0 ? -errno : 0;

	memcpy(un.sun_path, address->path, sizeof(un.sun_path));
	if (res == 0 && bind(fd, (struct sockaddr *)&un, sizeof(un)) < 0)
		res = -errno;
	if (res == -EADDRINUSE && is_left_over(&un) && unlink(un.sun_path) == 0)
		res = bind(fd, (struct sockaddr *)&un, sizeof(un)) < 0 ? -errno : 0;
	if (res == 0 && listen(fd, BACKLOG) < 0)
		res = -errno;
	if (res == -EADDRINUSE)
		return error_set(error, res,
		    "cannot listen at %s: it is there already; stop the server that has it, or name another "
		    "path",
		    address->path);
	if (res < 0)
		return error_set(error, res,
		    "cannot listen at %s: %s; name a path in a folder that may be written", address->path,
		    strerror(-res));
	return take_fd(&fd);
}

static int try_to_listen(const struct addrinfo *info)
{
	_cleanup_(cleanup_close) int fd = socket(info->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	const int on = 1;

	if (fd < 0)
		return -errno;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (info->ai_family == AF_INET6)
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &on, sizeof(on));
	if (bind(fd, info->ai_addr, info->ai_addrlen) < 0 || listen(fd, BACKLOG) < 0)
		return -errno;
	return take_fd(&fd);
}

static int listen_one(const struct addrinfo *info)
{
	int fd = try_to_listen(info);

	for (unsigned i = 1; fd == -EADDRINUSE && i < DYING_PAUSES; i++) {
		usleep(DYING_PAUSE_MS * 1000);
		fd = try_to_listen(info);
	}
	return fd;
}

static int listen_tcp(const struct nbd_address *address, int ret[NBD_ADDRESS_FDS], struct error *error)
{
	const char *host = address->host[0] ? address->host : "all addresses";
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV}, *list;
	int count = 0, failed = 0;
	int res = getaddrinfo(address->host[0] ? address->host : NULL, address->port, &hints, &list);

	if (res)
		return error_set(error, -EADDRNOTAVAIL, "cannot listen at %s port %s: %s; check the name",
		    host, address->port, res == EAI_SYSTEM ? strerror(errno) : gai_strerror(res));
	for (const struct addrinfo *info = list; info && count < (int)NBD_ADDRESS_FDS; info = info->ai_next) {
		int fd = listen_one(info);

		/* A machine without IPv6 still has names with such addresses. */
		if (fd >= 0)
			ret[count++] = fd;
		else if (fd != -EAFNOSUPPORT && fd != -EADDRNOTAVAIL)
			failed = fd;
		else if (!failed && count == 0 && !info->ai_next)
			failed = fd;
		/* A port that the kernel chooses is another for each address. */
		if (count > 0 && !strcmp(address->port, "0"))
			break;
	}
	freeaddrinfo(list);
	if (!failed)
		return count;
	while (count > 0)
		close(ret[--count]);
	if (failed == -EADDRINUSE)
		return error_set(error, failed,
		    "cannot listen at %s port %s: it is in use; stop the server that has it, or name another "
		    "port",
		    host, address->port);
	return error_set(error, failed, "cannot listen at %s port %s: %s; check the address", host,
	    address->port, strerror(-failed));
}

int nbd_address_listen(const struct nbd_address *address, int ret[NBD_ADDRESS_FDS], struct error *error)
{
	int fd;

	if (!address->is_unix)
		return listen_tcp(address, ret, error);
	fd = listen_unix(address, error);
	if (fd < 0)
		return fd;
	ret[0] = fd;
	return 1;
}

static bool is_listening(int fd)
{
	int type = 0, accepts = 0;
	socklen_t length = sizeof(int);

	return getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &length) == 0 && type == SOCK_STREAM &&
	       getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &accepts, &length) == 0 && accepts;
}

int nbd_address_inherit(int ret[NBD_ADDRESS_FDS], struct error *error)
{
	const char *pid = getenv("LISTEN_PID"), *fds = getenv("LISTEN_FDS");
	int count = fds ? atoi(fds) : 0;
	bool ours = pid && atol(pid) == (long)getpid();

	/* What we start ourselves, ssh or a captive server, must not take them for its own. */
	unsetenv("LISTEN_PID");
	unsetenv("LISTEN_FDS");
	unsetenv("LISTEN_FDNAMES");
	if (!ours || count <= 0)
		return 0;
	if (count > (int)NBD_ADDRESS_FDS)
		return error_set(
		    error, -E2BIG, "systemd hands over %d sockets, %u are the most", count, NBD_ADDRESS_FDS);
	for (int i = 0; i < count; i++) {
		ret[i] = FIRST_INHERITED + i;
		fcntl(ret[i], F_SETFD, FD_CLOEXEC);
		if (!is_listening(ret[i]))
			return error_set(error, -ENOTSOCK,
			    "descriptor %d from systemd is no listening stream socket; use ListenStream= and "
			    "Accept=no",
			    ret[i]);
	}
	return count;
}

bool nbd_socket_is_local(int fd)
{
	union address address;
	socklen_t length = sizeof(address);

	if (getsockname(fd, &address.any, &length) < 0)
		return false;
	if (address.any.sa_family == AF_INET)
		return ntohl(address.v4.sin_addr.s_addr) >> 24 == 127;
	if (address.any.sa_family == AF_INET6)
		return IN6_IS_ADDR_LOOPBACK(&address.v6.sin6_addr);
	return address.any.sa_family == AF_UNIX;
}

static bool is_any(const union address *address)
{
	return address->any.sa_family == AF_INET6 ? IN6_IS_ADDR_UNSPECIFIED(&address->v6.sin6_addr)
	                                          : address->v4.sin_addr.s_addr == htonl(INADDR_ANY);
}

char *nbd_socket_uri(int fd, bool tls, const char *name, char *ret, size_t size)
{
	union address address = {.any.sa_family = AF_UNSPEC};
	socklen_t length = sizeof(address);
	char host[256] = "", port[32] = "", path[400], escaped[800];

	getsockname(fd, &address.any, &length);
	encode(name, escaped, sizeof(escaped));
	if (address.any.sa_family == AF_UNIX) {
		encode(address.un.sun_path, path, sizeof(path));
		snprintf(ret, size, "nbd%s+unix:///%s?socket=%s", tls ? "s" : "", escaped, path);
		return ret;
	}
	getnameinfo(
	    &address.any, length, host, sizeof(host), port, sizeof(port), NI_NUMERICHOST | NI_NUMERICSERV);
	if (is_any(&address))
		gethostname(host, sizeof(host) - 1);
	snprintf(ret, size, strchr(host, ':') ? "nbd%s://[%s]:%s/%s" : "nbd%s://%s:%s/%s", tls ? "s" : "",
	    host, port, escaped);
	return ret;
}
