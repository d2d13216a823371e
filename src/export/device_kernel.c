/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What both kinds of device need of the system: modules, nodes, who uses a device, memory that does not depend on it. It blocks: not
 * for the thread of the ring that serves the device.
 */
#include "base/cleanup.h"
#include "block/inspect.h"
#include "block/sysfs.h"
#include "export/device_private.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define NODE_TRIES 250 /* a device may be announced before its node is there */
#define NODE_NAP   20000u
#define USER_TRIES 25 /* who looks what a new device is has it open for a moment */
#define USER_NAP   100000u

#ifndef PR_SET_IO_FLUSHER
#define PR_SET_IO_FLUSHER 57
#endif
#ifndef MCL_ONFAULT
#define MCL_ONFAULT 4
#endif

void device_load_module(const char *name)
{
	char modprobe[] = "/sbin/modprobe", quiet[] = "-q", module[64], *none[] = {NULL};
	char *argv[] = {modprobe, quiet, module, NULL};
	posix_spawnattr_t attributes;
	sigset_t empty;
	pid_t pid;

	snprintf(module, sizeof(module), "%s", name);
	/* This thread takes no signals; the program shall. */
	sigemptyset(&empty);
	posix_spawnattr_init(&attributes);
	posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
	posix_spawnattr_setsigmask(&attributes, &empty);
	if (posix_spawn(&pid, modprobe, NULL, &attributes, argv, none) == 0)
		while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
			;
	posix_spawnattr_destroy(&attributes);
}

int device_open_node(const char *path, int flags)
{
	for (unsigned i = 0;; i++) {
		int fd = open(path, flags | O_CLOEXEC);

		/* EBUSY: a process that dies has it for a little longer. */
		if (fd >= 0 || i == NODE_TRIES || (errno != ENOENT && errno != ENXIO && errno != EBUSY))
			return fd >= 0 ? fd : -errno;
		usleep(NODE_NAP);
	}
}

uint64_t device_node_size(const char *node)
{
	char path[128], text[32];

	snprintf(path, sizeof(path), "/sys/block/%.64s/size", strrchr(node, '/') + 1);
	return sysfs_line(path, text, sizeof(text)) == 0 ? strtoull(text, NULL, 10) * 512 : 0;
}

void device_set_queue(const char *node, const char *file, unsigned value)
{
	char path[128];
	FILE *out;

	snprintf(path, sizeof(path), "/sys/block/%s/queue/%s", strrchr(node, '/') + 1, file);
	out = fopen(path, "we");
	if (out) {
		fprintf(out, "%u\n", value);
		fclose(out);
	}
}

/* A claim; or -EBUSY with words, or none if it cannot be seen who it is. */
static int claim_once(const char *node, char *user, unsigned length)
{
	_cleanup_(cleanup_close) int fd = open(node, O_RDONLY | O_CLOEXEC);
	int claim;

	if (fd < 0)
		return -errno;
	inspect_holder(fd, user, length);
	if (user[0])
		return -EBUSY;
	claim = open(node, O_RDONLY | O_EXCL | O_CLOEXEC);
	return claim < 0 ? -errno : claim;
}

int device_claim(const char *node, struct error *error)
{
	char user[200] = "";
	int claim = -EBUSY;

	for (unsigned i = 0; i < USER_TRIES && claim == -EBUSY; i++) {
		if (i)
			usleep(USER_NAP);
		claim = claim_once(node, user, sizeof(user));
	}
	if (claim == -EBUSY)
		return error_set(error, -EBUSY, "it is in use by %s; end that first",
		    user[0] ? user : "the kernel or a program that cannot be seen");
	if (claim < 0)
		return error_set(error, claim, "cannot open %s: %s", node, strerror(-claim));
	if (fsync(claim) < 0) {
		int res = -errno;

		close(claim);
		return error_set(error, res, "what was written to it cannot be flushed: %s", strerror(-res));
	}
	return claim;
}

void device_protect(void)
{
	FILE *out;

	/* Memory that it asks for is never had by writing to a device; what it has is never written to one. Without the right to ask
	 * for it the device works, but for a machine that is out of memory. */
	(void)prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0);
	(void)mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT);
	out = fopen("/proc/self/oom_score_adj", "we");
	if (out) {
		fputs("-1000\n", out);
		fclose(out);
	}
}
