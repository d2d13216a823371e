/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A child and its pipe, on the calling thread. The child has no signals blocked (wire/child.h), and gets no SIGINT. */
#include "track/dm_tool.h"

#include "base/cleanup.h"
#include "block/dm.h"
#include "wire/child.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

int dm_tool_hold(
    struct dm_tool_hold *hold, dev_t dev, const char *take, const char *release, struct error *error)
{
	sigset_t all;
	int res;

	*hold = (struct dm_tool_hold){.dev = dev, .release = release};
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &hold->signals);
	res = dm_message(dev, take, error);
	if (res < 0)
		pthread_sigmask(SIG_SETMASK, &hold->signals, NULL);
	return res;
}

int dm_tool_release(struct dm_tool_hold *hold, int res, struct error *error)
{
	struct error why;
	int released = dm_message(hold->dev, hold->release, &why);

	pthread_sigmask(SIG_SETMASK, &hold->signals, NULL);
	if (res < 0 || released == 0)
		return res;
	return error_set(
	    error, released, "%.300s; send it once more: `dmsetup message` 0 %s", why.text, hold->release);
}

/* Gives what comes to take(), until the end; at the deadline or when take() has enough, an error. */
static int pump(int fd,
    int (*take)(void *data, const char *bytes, size_t length, bool last, struct error *error), void *data,
    struct error *error)
{
	char buf[65536];

	for (;;) {
		struct pollfd poll_fd = {.fd = fd, .events = POLLIN};
		ssize_t got;
		int res;

		if (poll(&poll_fd, 1, DM_TOOL_TIMEOUT_MS) <= 0)
			return error_set(
			    error, -ETIMEDOUT, "it said nothing for %u s", DM_TOOL_TIMEOUT_MS / 1000);
		got = read(fd, buf, sizeof(buf));
		if (got < 0)
			return error_set(error, -errno, "%s", strerror(errno));
		res = take(data, buf, (size_t)got, got == 0, error);
		if (res < 0 || got == 0)
			return res;
	}
}

static int run(const char *const *argv, struct ring *ring,
    int (*take)(void *data, const char *bytes, size_t length, bool last, struct error *error), void *data,
    struct error *error)
{
	_cleanup_(cleanup_close) int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	_cleanup_(cleanup_close) int in = -1;
	struct child child;
	int fds[2], res;

	if (null < 0 || pipe2(fds, O_CLOEXEC) < 0)
		return error_set(error, -errno, "cannot run %s: %s", argv[0], strerror(errno));
	in = fds[0];
	res = child_start(&child, (char *const *)argv, (const int[3]){null, fds[1], null}, error);
	close(fds[1]);
	if (res < 0)
		return res == -ENOENT
		           ? error_set(error, res, "there is no %s; install thin-provisioning-tools", argv[0])
		           : res;
	res = pump(in, take, data, error);
	if (res == 0)
		child_wait(&child, ring, DM_TOOL_TIMEOUT_MS);
	child_end(&child, ring);
	if (res == 0 && child.status != 0)
		res = error_set(error, -EIO, "it failed (status %d)", child.status);
	return res < 0 ? error_prefix(error, "%s", argv[0]) : 0;
}

static int feed_xml(void *data, const char *bytes, size_t length, bool last, struct error *error)
{
	return xml_feed(data, bytes, length, last, error);
}

int dm_tool_xml(
    const char *const *argv, struct ring *ring, const struct xml_handler *handler, struct error *error)
{
	struct xml *xml;
	int res = xml_new(&xml, handler, error);

	if (res < 0)
		return res;
	res = run(argv, ring, feed_xml, xml, error);
	xml_free(xml);
	return res;
}

struct lines {
	char *text;
	size_t length, used;
};

static int feed_text(void *data, const char *bytes, size_t length, bool last, struct error *error)
{
	struct lines *lines = data;

	if (length >= lines->length - lines->used)
		return error_set(error, -EMSGSIZE, "it says more than was expected");
	memcpy(lines->text + lines->used, bytes, length);
	lines->used += length;
	lines->text[lines->used] = '\0';
	return 0;
}

int dm_tool_text(const char *const *argv, struct ring *ring, char *ret, size_t length, struct error *error)
{
	struct lines lines = {ret, length, 0};

	ret[0] = '\0';
	return run(argv, ring, feed_text, &lines, error);
}
