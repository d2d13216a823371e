/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Streams to other hosts under TLS, where the files name keys: all resources of a port have the same. A stream lives until both have all. */
#include "cli/replicate_process.h"

#include "wire/tls_stream.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

struct credentials {
	struct list_node node;
	const struct replica_config *config; /* that names them first */
	struct tls *tls;
};

struct replicate_tls {
	struct list_node node;
	struct tls_stream *stream;
	bool over;
	bool held;          /* somebody may want to know why it ended */
	struct error error; /* code 0: it ended in good order */
};

static bool are_same(const char *a, const char *b)
{
	return (!a && !b) || (a && b && !strcmp(a, b));
}

bool replicate_tls_is_same(const struct replica_config *a, const struct replica_config *b)
{
	return are_same(a->tls_psk, b->tls_psk) && are_same(a->tls_user, b->tls_user) &&
	       are_same(a->tls_certificates, b->tls_certificates);
}

int replicate_tls_find(struct replicate_process *process, const struct replica_config *config,
    struct tls **ret, struct error *error)
{
	const struct tls_options options = {.sides = TLS_NODE,
	    .psk_file = config->tls_psk,
	    .user = config->tls_user,
	    .certificates = config->tls_certificates,
	    .verify_peer = true};
	struct credentials *found;
	int res;

	*ret = NULL;
	if (!config->tls_psk && !config->tls_certificates)
		return 0;
	list_for_each (node, &process->credentials) {
		found = container_of(node, struct credentials, node);
		if (replicate_tls_is_same(found->config, config)) {
			*ret = found->tls;
			return 0;
		}
	}
	found = calloc(1, sizeof(*found));
	if (!found)
		return error_set(error, -ENOMEM, "out of memory");
	found->config = config;
	res = tls_new(&found->tls, &options, error);
	if (res < 0) {
		free(found);
		return res;
	}
	list_append(&process->credentials, &found->node);
	*ret = found->tls;
	return 0;
}

static void ended(void *data, const struct error *error)
{
	struct replicate_tls *tls = data;

	tls->over = true;
	if (error)
		tls->error = *error;
}

int replicate_tls_wrap(struct replicate_process *process, struct tls *credentials, bool server,
    const char *peer_name, int *fd, struct replicate_tls **ret, struct error *error)
{
	struct replicate_tls *tls = calloc(1, sizeof(*tls));
	int plain = -1, taken = *fd, res;

	if (!tls)
		return error_set(error, -ENOMEM, "out of memory");
	*fd = -1;
	res = tls_stream_new(
	    &tls->stream, process->ring, taken, server, credentials, peer_name, ended, tls, &plain, error);
	if (res < 0) {
		free(tls);
		return res;
	}
	list_append(&process->tls_streams, &tls->node);
	tls->held = true;
	*fd = plain;
	*ret = tls;
	return 0;
}

/* What is wrong with TLS is told better by TLS than by the end of the stream. */
void replicate_tls_let_go(struct replicate_tls *tls, struct error *error)
{
	if (!tls)
		return;
	if (error && tls->over && tls->error.code < 0)
		*error = tls->error;
	tls->held = false;
}

static void end_streams(struct replicate_process *process, bool all)
{
	list_for_each_safe (node, &process->tls_streams) {
		struct replicate_tls *tls = container_of(node, struct replicate_tls, node);

		if (!all && (!tls->over || tls->held))
			continue;
		list_remove(&tls->node);
		tls_stream_free(tls->stream, true);
		free(tls);
	}
}

void replicate_tls_look(struct replicate_process *process)
{
	end_streams(process, false);
}

void replicate_tls_done(struct replicate_process *process)
{
	end_streams(process, true);
	list_for_each_safe (node, &process->credentials) {
		struct credentials *found = container_of(node, struct credentials, node);

		list_remove(&found->node);
		tls_free(found->tls);
		free(found);
	}
}
