/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The keys of a resource's file, and what their values may be. scripts/check-docs reads the tables: each key is in blkmove-replica(5). */
#include "base/parse_size.h"
#include "cli/cli.h"
#include "cli/replica_config_private.h"
#include "export/device.h"
#include "range/bitmap_format.h"

#include <ctype.h>
#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NS_PER_MS      1000000u
#define TIMEOUT_MIN_MS 200u
#define TIMEOUT_MAX_MS 600000u
#define QUEUE_MIN      (1ull << 20)
#define QUEUE_MAX      (64ull << 30)
#define SPAN_MIN_S     60u
#define SPAN_MAX_S     (3650ull * 86400)

static const char *const acks[] = {"sent", "received", "durable", NULL}; /* as enum replicate_ack */
static const char *const gones[] = {"continue", "freeze", NULL};         /* as enum replica_gone */
static const char *const splits[] = {"disconnect", NULL};
static const char *const digests[] = {"gmac", NULL};
/* Flags: the second one is true. */
static const char *const io_errors[] = {"pass-on", "detach", NULL};
static const char *const congestions[] = {"wait", "pull-ahead", NULL};
static const char *const answers[] = {"no", "yes", NULL};

static int refuse(const struct replica_config_reading *reading, const char *value, const char *words)
{
	return replica_config_fail(
	    reading, reading->line, "%s = %.100s: %s", reading->key->name, value, words);
}

static int set_text(struct replica_config_reading *reading, const char *value, void *field)
{
	*(char **)field = strdup(value);
	return *(char **)field ? 0 : error_set(reading->error, -ENOMEM, "out of memory");
}

static int choose(struct replica_config_reading *reading, const char *value)
{
	const char *const *choices = reading->key->choices;
	char words[128] = "write ";

	for (int i = 0; choices[i]; i++) {
		size_t used = strlen(words);

		if (!strcmp(choices[i], value))
			return i;
		snprintf(words + used, sizeof(words) - used, "%s%s",
		    i == 0           ? ""
		    : choices[i + 1] ? ", "
		                     : " or ",
		    choices[i]);
	}
	return refuse(reading, value, words);
}

/* What has one choice only, so far. */
static int set_nothing(struct replica_config_reading *reading, const char *value, void *field)
{
	int res = choose(reading, value);

	return res < 0 ? res : 0;
}

static int set_flag(struct replica_config_reading *reading, const char *value, void *field)
{
	int res = choose(reading, value);

	if (res >= 0)
		*(bool *)field = res == 1;
	return res < 0 ? res : 0;
}

/* Of an enum, in its order. */
static int set_choice(struct replica_config_reading *reading, const char *value, void *field)
{
	int res = choose(reading, value);

	if (res >= 0)
		*(unsigned *)field = (unsigned)res;
	return res < 0 ? res : 0;
}

/* A process under systemd is in no folder that a user would think of. */
static int set_path(struct replica_config_reading *reading, const char *value, void *field)
{
	if (value[0] != '/')
		return refuse(reading, value, "write the whole path, from / on, without quotes");
	if (strlen(value) >= PATH_MAX)
		return refuse(reading, value, "this is longer than any path");
	return set_text(reading, value, field);
}

static int set_name(struct replica_config_reading *reading, const char *value, void *field)
{
	size_t letters = strspn(value, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-");

	if (value[letters] || letters > REPLICA_CONFIG_NAME_MAX || value[0] == '.' ||
	    strspn(value, "0123456789") == letters)
		return refuse(reading, value,
		    "write 1 to 64 letters, digits, '.', '_' and '-'; not digits alone, and no '.' first");
	return set_text(reading, value, field);
}

static int set_device_name(struct replica_config_reading *reading, const char *value, void *field)
{
	if (value[0] == '/')
		return refuse(reading, value,
		    "in [resource] this is the name of a device to be made, /dev/blkmove/NAME; the one that "
		    "is "
		    "replicated belongs into [host ...]");
	if (device_name_check(value, NULL) < 0)
		return refuse(
		    reading, value, "write 1 to 64 letters, digits, '.', '_' and '-', and no '.' first");
	return set_text(reading, value, field);
}

static int set_size(struct replica_config_reading *reading, const char *value, void *field)
{
	uint64_t bytes;

	if (parse_size(value, &bytes, NULL) < 0 || bytes < QUEUE_MIN || bytes > QUEUE_MAX)
		return refuse(reading, value, "write a size from 1M to 64G, such as 64M");
	*(uint64_t *)field = bytes;
	return 0;
}

static int set_region(struct replica_config_reading *reading, const char *value, void *field)
{
	uint64_t bytes;

	if (parse_size(value, &bytes, NULL) < 0 || bytes < BITMAP_REGION_MIN || bytes > BITMAP_REGION_MAX ||
	    (bytes & (bytes - 1)))
		return refuse(reading, value, "write a power of two from 4k to 1M");
	*(unsigned *)field = (unsigned)bytes;
	return 0;
}

static int set_rate(struct replica_config_reading *reading, const char *value, void *field)
{
	uint64_t rate = 0;

	if (strcmp(value, "none") && (parse_size(value, &rate, NULL) < 0 || rate == 0))
		return refuse(reading, value, "write bytes a second, such as 100M, or none");
	*(uint64_t *)field = rate;
	return 0;
}

static int set_time(struct replica_config_reading *reading, const char *value, void *field)
{
	uint64_t ns = 0;

	if (strcmp(value, "none") && cli_parse_duration("", value, &ns, NULL) < 0)
		return refuse(reading, value, "write a time such as 500ms or 2s, or none");
	*(uint64_t *)field = ns;
	return 0;
}

static int set_timeout(struct replica_config_reading *reading, const char *value, void *field)
{
	uint64_t ns;

	if (cli_parse_duration("", value, &ns, NULL) < 0 || ns / NS_PER_MS < TIMEOUT_MIN_MS ||
	    ns / NS_PER_MS > TIMEOUT_MAX_MS)
		return refuse(reading, value, "write a time from 200ms to 600s, such as 10s");
	*(unsigned *)field = (unsigned)(ns / NS_PER_MS);
	return 0;
}

static int set_span(struct replica_config_reading *reading, const char *value, void *field)
{
	static const struct {
		const char *unit;
		unsigned seconds;
	} units[] = {{"s", 1}, {"min", 60}, {"h", 3600}, {"d", 86400}, {"w", 604800}};
	size_t digits = strspn(value, "0123456789");
	uint64_t count = digits > 0 && digits < 12 ? strtoull(value, NULL, 10) : 0, span_s = 0;

	for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++)
		if (!strcmp(value + digits, units[i].unit))
			span_s = count * units[i].seconds;
	if (strcmp(value, "none") && (span_s < SPAN_MIN_S || span_s > SPAN_MAX_S))
		return refuse(reading, value,
		    "write a number and one of s, min, h, d and w, such as 7d, from 1min to 3650d, or none");
	*(uint64_t *)field = span_s;
	return 0;
}

static int set_exports(struct replica_config_reading *reading, const char *value, void *field)
{
	struct replica_config_exports *exports = field;
	struct nbd_address first = {0}, address;

	for (const char *at = value; *at; at += strspn(at, " \t")) {
		size_t length = strcspn(at, " \t");

		if (exports->count == LISTEN_MAX)
			return refuse(reading, value, "8 URIs are the most");
		exports->uris[exports->count] = strndup(at, length);
		if (!exports->uris[exports->count])
			return error_set(reading->error, -ENOMEM, "out of memory");
		if (nbd_address_parse(exports->uris[exports->count++], &address, NULL) < 0 ||
		    at[length - 1] == ',')
			return refuse(reading, value,
			    "write nbd://HOST[:PORT][/NAME] or nbd+unix:///[NAME]?socket=PATH, or the same "
			    "with "
			    "nbds for TLS; several with blanks between");
		if (exports->count == 1)
			first = address;
		if (strcmp(address.name, first.name))
			return refuse(reading, value, "give all of them the same export's name");
		at += length;
	}
	return 0;
}

/* "host:port" and "[v6]:port" into two. */
static bool split_address(const char *value, char **ret_host, char **ret_port)
{
	bool v6 = value[0] == '[';
	const char *host = value + v6, *end = host + strcspn(host, v6 ? "]" : ":");
	const char *port = end + v6 + 1;
	size_t length =
	    strspn(host, v6 ? "0123456789abcdefABCDEF:.%_-ghijklmnopqrstuvwxyz"
	                    : "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-");
	char *rest;

	if (host + length != end || length == 0 || length > 255 || (v6 && *end != ']') || end[v6] != ':')
		return false;
	if (!isdigit((unsigned char)*port) || strlen(port) > 5 || strtoul(port, &rest, 10) > 65535 || *rest ||
	    strtoul(port, NULL, 10) == 0)
		return false;
	*ret_host = strndup(host, length);
	*ret_port = strdup(port);
	return true;
}

static int set_address(struct replica_config_reading *reading, const char *value, void *field)
{
	struct replica_config_host *host = &reading->config->hosts[reading->section - SECTION_HOST];

	if (!split_address(value, &host->address_host, &host->address_port))
		return refuse(reading, value,
		    "write HOST:PORT, a port from 1 to 65535, and an IPv6 address in brackets: "
		    "[fd00::1]:7789");
	if (!host->address_host || !host->address_port)
		return error_set(reading->error, -ENOMEM, "out of memory");
	if (!strcmp(host->address_host, "0.0.0.0") || !strcmp(host->address_host, "::"))
		return refuse(reading, value,
		    "the other host connects to this address; write the one at which it reaches this host");
	return set_text(reading, value, field);
}

#define RESOURCE(field) offsetof(struct replica_config, field)
#define HOST(field)     offsetof(struct replica_config_host, field)

const struct replica_config_key replica_config_resource_keys[] = {
    {"name", set_name, RESOURCE(name), NULL},
    {"ack", set_choice, RESOURCE(ack), acks},
    {"on-split-brain", set_nothing, 0, splits},
    {"on-io-error", set_flag, RESOURCE(detach), io_errors},
    {"on-peer-gone", set_choice, RESOURCE(gone), gones},
    {"fence-hook", set_text, RESOURCE(fence_hook), NULL},
    {"before-resync", set_text, RESOURCE(before_resync), NULL},
    {"region-size", set_region, RESOURCE(region_size), NULL},
    {"resync-rate", set_rate, RESOURCE(governor.max_rate), NULL},
    {"resync-min-rate", set_rate, RESOURCE(governor.min_rate), NULL},
    {"latency-target", set_time, RESOURCE(governor.target_ns), NULL},
    {"compare", set_flag, RESOURCE(compare), answers},
    {"verify-digest", set_nothing, 0, digests},
    {"verify-every", set_span, RESOURCE(verify_every_s), NULL},
    {"queue", set_size, RESOURCE(queue_max), NULL},
    {"congestion", set_flag, RESOURCE(pull_ahead), congestions},
    {"compress", set_flag, RESOURCE(compress), answers},
    {"timeout", set_timeout, RESOURCE(timeout_ms), NULL},
    {"export", set_exports, RESOURCE(exports), NULL},
    {"device", set_device_name, RESOURCE(device), NULL},
    {"tls-psk", set_path, RESOURCE(tls_psk), NULL},
    {"tls-user", set_text, RESOURCE(tls_user), NULL},
    {"tls-certificates", set_path, RESOURCE(tls_certificates), NULL},
    {0},
};

const struct replica_config_key replica_config_host_keys[] = {
    {"address", set_address, HOST(address), NULL},
    {"device", set_path, HOST(device), NULL},
    {"map", set_path, HOST(map), NULL},
    {"export", set_exports, HOST(exports), NULL},
    {0},
};
