/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Endpoints as a person names them, parsed into parts; pure, no I/O.
 *
 *   /dev/x  ./file.img  file.img      file or device on this machine (a relative name with ':' needs "./")
 *   [user@]host:PATH                  over ssh; host may be [v6]
 *   nbd:// nbds:// nbd+unix:// nbds+unix:// nbd+vsock://   an NBD URI
 *   [ SERVER ARGS... ]                captive NBD server (several words of the command line)
 *   -                                 standard input or output
 */
#pragma once

#include "base/error.h"

#include <stdbool.h>

enum endpoint_kind { ENDPOINT_PATH, ENDPOINT_SSH, ENDPOINT_NBD, ENDPOINT_CAPTIVE, ENDPOINT_STREAM };

struct endpoint {
	enum endpoint_kind kind;
	char *name;  /* as written; a captive server's words joined by spaces, with the brackets */
	char *host;  /* SSH: "user@host" or "host", as ssh takes it */
	char *path;  /* PATH, SSH: the path; NBD: the URI */
	char **argv; /* CAPTIVE: the server's words, NULL at the end */
};

/*
 * Parses the endpoint that begins at words[0] and says in *ret_used how many words it took (more than 1 for a
 * captive server only). Returns 0, -EINVAL with words (no such form, missing "]", empty name), or -ENOMEM.
 * endpoint_done() frees.
 */
int endpoint_parse(struct endpoint *ret, char *const *words, int count, int *ret_used, struct error *error);
void endpoint_done(struct endpoint *endpoint);
