/* SPDX-License-Identifier: GPL-2.0-or-later */
/* libFuzzer target: the file of a replicated volume. What is accepted can be carried out and shown; a refusal says where. */
#include "cli/replica_config.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_host(const struct replica_config *config, const struct replica_config_host *host)
{
	const struct replica_config_exports *exports = replica_config_exports(config, host);
	struct nbd_address address;
	unsigned long port = strtoul(host->address_port, NULL, 10);

	assert(host->name[0] && !strpbrk(host->name, "[] \t/"));
	assert(host->address[0] && host->address_host[0] && !strpbrk(host->address_host, "[]/"));
	assert(port >= 1 && port <= 65535);
	assert(host->device[0] == '/' && (!host->map || host->map[0] == '/'));
	assert(host->number > 0 && host->number < 1ull << 62);
	assert(exports->count > 0 || config->device);
	for (unsigned i = 0; i < exports->count; i++) {
		assert(nbd_address_parse(exports->uris[i], &address, NULL) == 0);
		assert(!address.tls || config->tls_psk || config->tls_certificates);
	}
}

static void check(const struct replica_config *config)
{
	json_t *json = replica_config_json(config, "/state");

	assert(json && json_array_size(json_object_get(json, "hosts")) == REPLICA_CONFIG_HOSTS);
	json_decref(json);
	assert(
	    config->name[0] && strlen(config->name) <= REPLICA_CONFIG_NAME_MAX && !strchr(config->name, '/'));
	assert(config->ack < REPLICATE_ACKS && config->timeout_ms > 0 && config->queue_max > 0);
	assert(!config->governor.max_rate || config->governor.min_rate <= config->governor.max_rate);
	assert(!config->tls_psk == !config->tls_user && (!config->tls_psk || !config->tls_certificates));
	assert(replica_config_self(config) != replica_config_other(config));
	check_host(config, replica_config_self(config));
	check_host(config, replica_config_other(config));
	assert(config->hosts[0].number != config->hosts[1].number);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const struct replica_config_text in = {
	    .path = "/r0.ini", .text = (const char *)data, .length = size, .machine = "alpha"};
	struct replica_config *config = NULL;
	struct error error = {0};
	int res = replica_config_parse(&config, &in, &error);

	if (res == 0)
		check(config);
	else
		assert(res == -EINVAL && error.code == res && strstr(error.text, in.path) && !config);
	replica_config_free(config);
	return 0;
}
