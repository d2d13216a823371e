/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A resource's file as a whole: what must be there, what goes together, which host this machine is. See replica_config.h. */
#include "base/crc32c.h"
#include "cli/replica_config_private.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define NUMBER_BITS 62

/* What the file itself is called, without ".ini", for one that does not say. */
static char *name_of_file(const char *path)
{
	const char *base = strrchr(path, '/');
	size_t length;

	base = base ? base + 1 : path;
	length = strlen(base);
	if (length > 4 && !strcmp(base + length - 4, ".ini"))
		length -= 4;
	return strndup(base, length);
}

static int check_name(struct replica_config_reading *reading)
{
	const char *wanted = reading->in->name;
	struct replica_config *config = reading->config;
	const struct replica_config_key *key = replica_config_resource_keys;
	unsigned line = replica_config_line(reading, SECTION_RESOURCE, "name");
	char *name;
	int res;

	if (wanted && config->name && strcmp(config->name, wanted))
		return replica_config_fail(reading, line,
		    "name = %s: this is the file of '%s'; write that, or rename the file to %s.ini",
		    config->name, wanted, config->name);
	if (config->name)
		return 0;
	name = name_of_file(reading->in->path);
	if (!name)
		return error_set(reading->error, -ENOMEM, "out of memory");
	reading->key = key;
	reading->line = reading->opened[SECTION_RESOURCE];
	res = key->set(reading, name, &config->name);
	free(name);
	return res;
}

static int check_sections(const struct replica_config_reading *reading)
{
	static const char *const needed[] = {"address", "device"};

	if (!reading->opened[SECTION_RESOURCE])
		return replica_config_fail(
		    reading, 0, "there is no section [resource]; begin the file with it");
	for (unsigned i = SECTION_HOST; i < SECTIONS; i++)
		if (!reading->opened[i])
			return replica_config_fail(reading, 0,
			    "there %s; write a section [host NAME] for each of the two machines",
			    i == SECTION_HOST ? "is no host" : "is one host only");
	for (unsigned i = SECTION_HOST; i < SECTIONS; i++)
		for (unsigned k = 0; k < sizeof(needed) / sizeof(needed[0]); k++)
			if (!replica_config_line(reading, i, needed[k]))
				return replica_config_fail(reading, reading->opened[i],
				    "[host %s] has no %s; add %s",
				    reading->config->hosts[i - SECTION_HOST].name, needed[k],
				    k == 0 ? "address = HOST:PORT, where the other host reaches it"
				           : "device = PATH, the volume there");
	return 0;
}

static bool asks_for_tls(const struct replica_config_exports *exports)
{
	for (unsigned i = 0; i < exports->count; i++)
		if (!strncmp(exports->uris[i], "nbds", 4))
			return true;
	return false;
}

static int check_hosts(const struct replica_config_reading *reading)
{
	const struct replica_config *config = reading->config;
	const struct replica_config_host *hosts = config->hosts;

	if (!strcasecmp(hosts[0].address_host, hosts[1].address_host) &&
	    atoi(hosts[0].address_port) == atoi(hosts[1].address_port))
		return replica_config_fail(reading, replica_config_line(reading, SECTION_HOST + 1, "address"),
		    "address = %.100s: [host %s] has the same; write where each of them is reached",
		    hosts[1].address, hosts[0].name);
	for (unsigned i = 0; i < REPLICA_CONFIG_HOSTS; i++) {
		unsigned section = hosts[i].exports.count ? SECTION_HOST + i : SECTION_RESOURCE;
		const struct replica_config_exports *exports = replica_config_exports(config, &hosts[i]);

		if (exports->count == 0 && !config->device)
			return replica_config_fail(reading, reading->opened[SECTION_HOST + i],
			    "nobody could use the volume on host %s; add export = URI or device = NAME to "
			    "[resource]",
			    hosts[i].name);
		if (asks_for_tls(exports) && !config->tls_psk && !config->tls_certificates)
			return replica_config_fail(reading, replica_config_line(reading, section, "export"),
			    "export: nbds is TLS; name its keys in [resource], by tls-certificates = FOLDER "
			    "or "
			    "tls-psk = FILE");
	}
	return 0;
}

static int check_resource(const struct replica_config_reading *reading)
{
	const struct replica_config *config = reading->config;
	const struct governor_options *governor = &config->governor;

	if (config->tls_psk && config->tls_certificates)
		return replica_config_fail(reading,
		    replica_config_line(reading, SECTION_RESOURCE, "tls-certificates"),
		    "tls-psk and tls-certificates exclude each other; remove one of them");
	if (config->tls_psk && !config->tls_user)
		return replica_config_fail(reading, replica_config_line(reading, SECTION_RESOURCE, "tls-psk"),
		    "the file of tls-psk has keys by name; add tls-user = NAME, whose key the two hosts "
		    "show");
	if (config->tls_user && !config->tls_psk)
		return replica_config_fail(reading,
		    replica_config_line(reading, SECTION_RESOURCE, "tls-user"),
		    "tls-user is a name in the file of tls-psk; add tls-psk = FILE, or remove it");
	if (governor->max_rate && governor->min_rate > governor->max_rate)
		return replica_config_fail(reading,
		    replica_config_line(reading, SECTION_RESOURCE, "resync-min-rate"),
		    "resync-min-rate is more than resync-rate; write less");
	return 0;
}

/* This machine */

/* As much of a host's name as stands before the first '.'. */
static size_t short_length(const char *name)
{
	return strcspn(name, ".");
}

/* One of the two names may be short. */
static bool is_called(const char *host, const char *machine)
{
	size_t length = short_length(host);

	if (!strcasecmp(host, machine))
		return true;
	if (host[length] && machine[short_length(machine)])
		return false;
	return length > 0 && length == short_length(machine) && !strncasecmp(host, machine, length);
}

static int find_self(const struct replica_config_reading *reading)
{
	struct replica_config *config = reading->config;
	const struct replica_config_host *hosts = config->hosts;
	const char *host = reading->in->host, *machine = reading->in->machine;
	bool fits[REPLICA_CONFIG_HOSTS];

	for (unsigned i = 0; i < REPLICA_CONFIG_HOSTS; i++) {
		if (!strcasecmp(hosts[i].name, host ? host : machine)) {
			config->self = i;
			return 0;
		}
		fits[i] = !host && is_called(hosts[i].name, machine);
	}
	if (host)
		return error_set(reading->error, -EINVAL,
		    "--host=%.64s: %s is for the hosts %s and %s; write one of them", host, reading->in->path,
		    hosts[0].name, hosts[1].name);
	if (fits[0] == fits[1])
		return error_set(reading->error, -EINVAL,
		    "%s is for the hosts %s and %s, and this machine is called %.64s; say which one it is by "
		    "--host, or correct [host NAME]",
		    reading->in->path, hosts[0].name, hosts[1].name, machine);
	config->self = fits[1];
	return 0;
}

/*
 * By names alone, so that both machines come to the same without asking each other. The last bit is 1 for the name that comes later: they differ
 * whatever the hash says. The bit before is always 1: none is 0.
 */
static void set_numbers(struct replica_config *config)
{
	bool later = strcasecmp(config->hosts[1].name, config->hosts[0].name) > 0;

	for (unsigned i = 0; i < REPLICA_CONFIG_HOSTS; i++) {
		char text[2 * REPLICA_CONFIG_NAME_MAX + 32];
		int used = snprintf(text, sizeof(text), "blkmove replica %s\n", config->name);

		for (const char *at = config->hosts[i].name; *at && used < (int)sizeof(text) - 1; at++)
			text[used++] = *at >= 'A' && *at <= 'Z' ? (char)(*at - 'A' + 'a') : *at;
		text[used] = '\0';
		config->hosts[i].number =
		    (crc32c_text(text) << 2 & ((1ull << NUMBER_BITS) - 1)) | 2 | ((i == 1) == later);
	}
}

int replica_config_check(struct replica_config_reading *reading)
{
	int res = check_sections(reading);

	if (res == 0)
		res = check_name(reading);
	if (res == 0)
		res = check_resource(reading);
	if (res == 0)
		res = check_hosts(reading);
	if (res == 0)
		res = find_self(reading);
	if (res == 0)
		set_numbers(reading->config);
	return res;
}
