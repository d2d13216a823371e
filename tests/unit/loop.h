/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Loop devices. One test at a time attaches, in all of tests/: another that is after the same free device opens it for writing for a
 * moment, and one that was let go for a moment would be another's. After cmocka.h and shell.h.
 */
#pragma once

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define LOOP_LOCK "/tmp/blkmove-test-losetup.lock"

static __attribute__((unused)) void need_loops(void)
{
	if (geteuid() != 0 || access("/dev/loop-control", W_OK) < 0) {
		print_message("skipped: this needs root and loop devices\n");
		skip();
	}
}

/* Its name. */
static __attribute__((unused)) void loop_attach(char ret[64], const char *options, const char *path)
{
	char command[256];
	FILE *pipe;

	snprintf(command, sizeof(command), "flock " LOOP_LOCK " losetup -f --show %s %s", options, path);
	ret[0] = '\0';
	pipe = popen(command, "re");
	if (pipe && fgets(ret, 64, pipe))
		ret[strcspn(ret, "\n")] = '\0';
	if (pipe)
		pclose(pipe);
	if (!ret[0])
		fail_msg("this failed: %s", command);
}

/* The same device over another file. It goes when the last who looks at it has closed it. */
static __attribute__((unused)) void loop_exchange(const char *device, const char *path)
{
	run("flock " LOOP_LOCK
	    " sh -c 'losetup -d %s; for i in $(seq 200); do losetup %s %s && exit; sleep 0.1; done; "
	    "exit 1'",
	    device, device, path);
}

static __attribute__((unused)) void loop_detach(const char *device)
{
	run("losetup -d %s", device);
}
