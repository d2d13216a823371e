/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Clients of replicas: an NBD server for each distinct address that the files name, whose exports come when their node becomes primary and go when
 * it is not any more. replicate_device.c has the block devices.
 */
#include "cli/replicate_process.h"

#include "base/cleanup.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define PATIENCE_MS 5000u /* for clients that do not take their last replies */

struct replicate_front {
	struct list_node node;
	struct replicate_process *process;
	struct listen listen; /* of one URI */
	struct nbd_server *server;
	unsigned users;
	bool shared;
};

static bool is_at(const struct nbd_address *a, const struct nbd_address *b)
{
	return a->is_unix == b->is_unix && !strcmp(a->host, b->host) && !strcmp(a->port, b->port) &&
	       !strcmp(a->path, b->path);
}

static void clients_changed(void *data, unsigned count)
{
	struct replicate_front *front = data;

	for (unsigned i = 0; i < front->process->count; i++)
		front->process->resources[i].changed = true;
}

static void client_failed(void *data, const struct error *why)
{
	struct replicate_front *front = data;
	char prefix[48];

	if (!front->process->options->quiet && !front->process->options->json)
		fprintf(stderr, "%s: %s\n", replicate_prefix(front->process, prefix), why->text);
}

/* Whether another resource of this process has exports at the address: who asks for no name then gets nothing. */
static bool is_shared(const struct replicate_process *process, const struct nbd_address *address)
{
	unsigned found = 0;

	for (unsigned i = 0; i < process->count; i++) {
		const struct replica_config *config = process->resources[i].config;
		const struct replica_config_exports *exports =
		    replica_config_exports(config, replica_config_self(config));
		struct nbd_address other;

		for (unsigned j = 0; j < exports->count; j++)
			found +=
			    nbd_address_parse(exports->uris[j], &other, NULL) == 0 && is_at(&other, address);
	}
	return found > 1;
}

static void front_free(struct replicate_front *front)
{
	nbd_server_free(front->server);
	listen_done(&front->listen);
	list_remove(&front->node);
	free(front);
}

static int front_begin(struct replicate_front *front, const struct replica_config *config, const char *uri,
    bool tls, struct error *error)
{
	struct listen *listen = &front->listen;
	struct nbd_server_options server = {
	    .data = front, .clients_changed = clients_changed, .client_failed = client_failed};
	int res;

	listen->uris[listen->uris_count++] = uri;
	if (tls) {
		listen->tls_psk = config->tls_psk;
		listen->tls_certificates = config->tls_certificates;
		listen->tls_verify_peer = config->tls_certificates != NULL;
	}
	res = listen_check(listen, error);
	if (res == 0)
		res = listen_bind(listen, config->name, error);
	if (res == -EPERM)
		error_set(error, res,
		    "refused: %s can be reached from other machines, who could read and write the volume; "
		    "write nbds:// and name keys, tls-certificates or tls-psk, in %s",
		    uri, config->path);
	if (res < 0)
		return res;
	listen_fill(listen, &server);
	/* As many as a server's limit for one export, for each of them. */
	server.connections_max = NBD_CONNECTIONS * (is_shared(front->process, &listen->addresses[0]) ? 8 : 1);
	server.named_only = is_shared(front->process, &listen->addresses[0]);
	res = nbd_server_new(&front->server, front->process->ring, &server, error);
	return res == 0 ? listen_start(listen, front->server, error) : res;
}

static int use_front(struct replicate_resource *resource, const char *uri, const struct nbd_address *address,
    struct error *error)
{
	struct replicate_process *process = resource->process;
	struct replicate_export *export = &resource->exports[resource->exports_count];
	struct replicate_front *front;
	int res;

	list_for_each (node, &process->fronts) {
		front = container_of(node, struct replicate_front, node);
		if (!is_at(&front->listen.addresses[0], address))
			continue;
		if (front->listen.addresses[0].tls != address->tls)
			return error_set(error, -EINVAL,
			    "%s is the address of another resource, too, with TLS in one of them only; write "
			    "nbd:// or nbds:// in both",
			    uri);
		front->users++;
		export->front = front;
		return 0;
	}
	front = calloc(1, sizeof(*front));
	if (!front)
		return error_set(error, -ENOMEM, "out of memory");
	front->process = process;
	front->users = 1;
	list_append(&process->fronts, &front->node);
	res = front_begin(front, resource->config, uri, address->tls, error);
	if (res < 0)
		front_free(front);
	else
		export->front = front;
	return res;
}

int replicate_serve_open(struct replicate_resource *resource, struct error *error)
{
	const struct replica_config *config = resource->config;
	const struct replica_config_exports *exports =
	    replica_config_exports(config, replica_config_self(config));
	struct nbd_address address;
	int res = 0;

	for (unsigned i = 0; i < exports->count && res == 0; i++) {
		res = nbd_address_parse(exports->uris[i], &address, error);
		if (res == 0)
			res = use_front(resource, exports->uris[i], &address, error);
		if (res < 0)
			break;
		snprintf(resource->exports[i].name, sizeof(resource->exports[i].name), "%s",
		    address.name[0] ? address.name : resource->name);
		resource->exports_count++;
	}
	return res;
}

/* Roles */

static void begin_to_serve(struct replicate_resource *resource)
{
	struct error error;
	int res = 0;

	resource->serving = true;
	for (unsigned i = 0; i < resource->exports_count; i++) {
		const struct nbd_export export = {.name = resource->exports[i].name,
		    .description = resource->name,
		    .block = replica_node_block(resource->node)};

		/* Two addresses of the same server. */
		res = nbd_server_add(resource->exports[i].front->server, &export, &error);
		if (res < 0 && res != -EEXIST)
			replicate_warn(resource, error.text);
	}
	replicate_device_restore(resource);
}

static void end_serving(struct replicate_resource *resource)
{
	struct error error;

	if (replicate_device_remove(resource, &error) < 0) {
		replicate_warn(resource, error.text);
		replicate_device_let_go(resource);
	}
	for (unsigned i = 0; i < resource->exports_count; i++)
		nbd_server_remove(resource->exports[i].front->server, resource->exports[i].name, PATIENCE_MS);
	resource->serving = false;
}

void replicate_serve(void *data, bool open)
{
	struct replicate_resource *resource = data;

	if (open && !resource->serving)
		begin_to_serve(resource);
	else if (!open && resource->serving)
		end_serving(resource);
	resource->changed = true;
}

unsigned replicate_serve_clients(const struct replicate_resource *resource)
{
	unsigned count = 0;

	for (unsigned i = 0; i < resource->exports_count; i++)
		count += nbd_server_clients_of(resource->exports[i].front->server, resource->exports[i].name);
	return count;
}

/* As the file has it, with the export's name. */
const char *replicate_serve_uri(
    const struct replicate_resource *resource, unsigned i, char *buf, size_t length)
{
	const struct replica_config *config = resource->config;
	const char *uri = replica_config_exports(config, replica_config_self(config))->uris[i];
	const char *behind = strstr(uri, "://"), *query;
	int scheme;

	behind = behind ? behind + 3 : uri;
	behind += strcspn(behind, "/?");
	scheme = (int)(behind - uri);
	behind += *behind == '/';
	query = behind + strcspn(behind, "?");
	if (query > behind)
		snprintf(buf, length, "%s", uri);
	else
		snprintf(buf, length, "%.*s/%s%s", scheme, uri, resource->exports[i].name, query);
	return buf;
}

void replicate_serve_close(struct replicate_resource *resource)
{
	if (resource->serving)
		end_serving(resource);
	replicate_device_close(resource);
	for (unsigned i = 0; i < resource->exports_count; i++)
		if (--resource->exports[i].front->users == 0)
			front_free(resource->exports[i].front);
	resource->exports_count = 0;
}
