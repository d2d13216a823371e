/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A client, and the other end of its link in the hands of a script. */
#pragma once

#include "script.h"

#include "base/cleanup.h"
#include "block/remote.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#define OPEN_ID    4095u /* the client's first request, a control request */
#define REQUEST_ID 4096u /* its second, in slot 0 */
#define LENGTH     8192u
#define GUARD      4096u

#define HELLO "{\"version\":1,\"software\":\"fake\",\"features\":[\"zstd\"],\"requests\":8,\"bytes\":8388608}"
#define OPENED_WITH(size, sector, align, flags) \
	"{\"size\":" size ",\"sector_size\":" sector ",\"request_align\":" align "," flags "}"
#define FLAGS(writable, zeroed, created) \
	"\"writable\":" writable ",\"zeroed\":" zeroed ",\"created\":" created ",\"resizable\":false"
#define OPENED OPENED_WITH("1048576", "512", "1", FLAGS("true", "false", "false"))

struct agent {
	struct ring *ring;
	int fds[2]; /* [0] the client's, [1] the script's */
	struct block *remote;
	struct ring_op beat;
	unsigned timeout_ms;
};

static inline uint64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static inline void agent_init(struct agent *agent)
{
	int size = 8 << 20;

	*agent = (struct agent){.timeout_ms = 300};
	assert_int_equal(ring_new(&agent->ring, 64, NULL), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, agent->fds), 0);
	setsockopt(agent->fds[1], SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
}

static inline void agent_say(struct agent *agent, struct script *script)
{
	fcntl(agent->fds[1], F_SETFL, O_NONBLOCK);
	assert_int_equal(write(agent->fds[1], script->bytes, script->used), script->used);
	script_done(script);
}

static inline int agent_connect(
    struct agent *agent, const struct block_open_options *options, struct error *error)
{
	struct block_open_options with_time = *options;

	with_time.link.timeout_ms = agent->timeout_ms;
	return remote_new(&agent->remote, agent->ring, agent->fds[0], agent->fds[0], "there:/vol", "/vol",
	    &with_time, error);
}

static inline void agent_done(struct agent *agent)
{
	agent->remote = block_free(agent->remote);
	cleanup_close(&agent->fds[1]);
	ring_free(agent->ring);
}

/* The handshake goes well. */
static inline void agent_open(struct agent *agent)
{
	const struct block_open_options options = {.write = true};
	struct script script = {0};

	agent_init(agent);
	script_text(&script, FRAME_HELLO, 0, HELLO);
	script_text(&script, FRAME_OPENED, OPEN_ID, OPENED);
	agent_say(agent, &script);
	assert_int_equal(agent_connect(agent, &options, NULL), 0);
}
