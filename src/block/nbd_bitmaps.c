/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Which dirty bitmaps a server has, by QEMU's name for them (its docs/interop/nbd.txt): asked on the first connection, between the handshake and the export. A server
 * that does not answer such questions has none.
 */
#include "block/nbd_private.h"

#include <stdio.h>
#include <string.h>

/* The other side may call it anything. A context whose bitmap has a colon in its name is named whole: see block_open_options.changes_since. */
static int bitmap_came(void *data, const char *context)
{
	struct block_info *info = &((struct nbd_connection *)data)->volume->block.info;
	size_t used = strlen(info->bitmaps), prefix = strlen(NBD_DIRTY_BITMAP);
	const char *name = context + prefix;
	int length;

	if (strncmp(context, NBD_DIRTY_BITMAP, prefix) != 0 || !*name)
		return 0;
	length = snprintf(info->bitmaps + used, sizeof(info->bitmaps) - used, "%s%s", used ? ", " : "",
	    strchr(name, ':') ? context : name);
	if (length >= (int)(sizeof(info->bitmaps) - used))
		snprintf(info->bitmaps + sizeof(info->bitmaps) - 4, 4, "...");
	for (char *at = info->bitmaps + used; *at; at++)
		if ((unsigned char)*at < ' ' || *at == 0x7f)
			*at = '?';
	info->bitmaps_count++;
	return 0;
}

/* Why it refused. Called by libnbd, with these words at hand. */
static int answered(void *data, int *error)
{
	struct nbd_connection *connection = data;
	const char *words = nbd_get_error();

	error_set(&connection->refusal, *error ? -*error : 0, "%s", words ? words : "the server refused");
	return 1;
}

static int list(struct nbd_connection *connection)
{
	const nbd_context_callback came = {.callback = bitmap_came, .user_data = connection};
	const nbd_completion_callback done = {.callback = answered, .user_data = connection};

	/* Who speaks of extents speaks so. */
	if (nbd_get_structured_replies_negotiated(connection->handle) != 1 ||
	    nbd_add_meta_context(connection->handle, NBD_DIRTY_BITMAP) < 0)
		return -1;
	return nbd_aio_opt_list_meta_context(connection->handle, came, done);
}

static int go(struct nbd_connection *connection)
{
	const nbd_completion_callback done = {.callback = answered, .user_data = connection};
	int res = nbd_clear_meta_contexts(connection->handle);

	if (res == 0)
		res = nbd_connection_add_contexts(connection->volume, connection->handle);
	return res == 0 ? nbd_aio_opt_go(connection->handle, done) : res;
}

bool nbd_bitmaps_wanted(const struct nbd_connection *connection)
{
	return connection->volume->list_bitmaps && connection == &connection->volume->connections[0];
}

const char *nbd_bitmaps_negotiate(struct nbd_connection *connection)
{
	if (connection->next == OPTION_LIST) {
		connection->next = OPTION_GO;
		if (list(connection) == 0)
			return NULL;
	}
	if (connection->next == OPTION_GO) {
		connection->next = OPTION_NONE;
		return go(connection) == 0 ? NULL : nbd_get_error();
	}
	return connection->refusal.text;
}
