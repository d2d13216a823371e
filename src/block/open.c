/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Every kind of endpoint, one function. */
#include "block/open.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "block/driver.h"

int block_open(struct block **ret, struct ring *ring, const struct endpoint *endpoint,
    const struct block_open_options *options, struct error *error)
{
	int res = -EINVAL;

	switch (endpoint->kind) {
	case ENDPOINT_PATH:
		res = file_open(ret, ring, endpoint->path, NULL, options, error);
		break;
	case ENDPOINT_SSH:
		res = remote_open(ret, ring, endpoint, options, error);
		break;
	case ENDPOINT_NBD:
	case ENDPOINT_CAPTIVE:
		res = nbd_open(ret, ring, endpoint, options, error);
		break;
	case ENDPOINT_STREAM:
		res = stream_open(ret, ring, options, error);
		break;
	}
	if (res == 0)
		snprintf((*ret)->info.name, sizeof((*ret)->info.name), "%s", endpoint->name);
	return res;
}
