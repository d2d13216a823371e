/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The command line of ssh that starts an agent. */
#pragma once

#include "base/error.h"
#include "ring/ring.h"

#include <stdbool.h>

struct ssh_options {
	const char *program; /* NULL: "ssh" */
	const char *host;    /* "user@host" or "host" */
	const char *const
	    *ssh_options;       /* the user's words, NULL at the end; or NULL; they go first and so win */
	const char *agent_path; /* NULL: "blkmove" */
	unsigned timeout_ms;    /* of connecting, and of ssh's own keepalive */
};

struct ssh_command {
	char **argv;
	char *words; /* the remote command; argv points to it */
	char alive[48], connect[48];
};

/*
 * -EINVAL with words when the host or the agent's path cannot be passed safely. fast_cipher puts AES-GCM
 * first. The options' strings are borrowed.
 */
int ssh_command_make(
    struct ssh_command *ret, const struct ssh_options *options, bool fast_cipher, struct error *error);
void ssh_command_done(struct ssh_command *command);
/*
 * Whether AES-GCM may be put first: this processor has AES, and neither options nor any configuration chose
 * ciphers (ssh -G answers alike with and without configuration). Runs ssh twice, locally, and the ring meanwhile.
 */
bool ssh_command_ciphers_are_default(const struct ssh_options *options, struct ring *ring);
/* Exported for tests: the `ciphers` line of what ssh -G printed, into ret; false when there is none. */
bool ssh_command_ciphers(const char *printed, char *ret, unsigned size);
