/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Where resources' files lie, reading one, and showing what it says: see replica_config.h. */
#include "base/cleanup.h"
#include "cli/replica_config.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define SYSTEM    "/etc/blkmove/replicas"
#define SUFFIX    ".ini"
#define BYTES_MAX (64u << 10)
#define NS_PER_MS 1e6

const char *replica_config_dir(char *buf, size_t length)
{
	const char *own = getenv("BLKMOVE_REPLICA_DIR"), *config = getenv("XDG_CONFIG_HOME"),
	           *home = getenv("HOME");

	if (own && own[0])
		snprintf(buf, length, "%s", own);
	else if (geteuid() == 0)
		snprintf(buf, length, "%s", SYSTEM);
	else if (config && config[0])
		snprintf(buf, length, "%s/blkmove/replicas", config);
	else
		snprintf(buf, length, "%s/.config/blkmove/replicas", home ? home : "/nonexistent");
	return buf;
}

const struct replica_config_exports *replica_config_exports(
    const struct replica_config *config, const struct replica_config_host *host)
{
	return host->exports.count ? &host->exports : &config->exports;
}

static const char *map_of(const struct replica_config *config, const struct replica_config_host *host,
    const char *state_dir, char *buf, size_t length)
{
	if (host->map)
		snprintf(buf, length, "%s", host->map);
	else
		snprintf(buf, length, "%s/replicas/%s/map", state_dir, config->name);
	return buf;
}

const char *replica_config_map(
    const struct replica_config *config, const char *state_dir, char *buf, size_t length)
{
	return map_of(config, replica_config_self(config), state_dir, buf, length);
}

/* Reading */

/* Into a buffer of BYTES_MAX + 1. Returns how many bytes, or -errno with words. */
static ssize_t read_file(const char *path, char *buf, struct error *error)
{
	_cleanup_(cleanup_close) int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	size_t used = 0;
	ssize_t got = 1;
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0)
		return error_set(error, -errno, "cannot read %s: %s", path, strerror(errno));
	if (!S_ISREG(st.st_mode))
		return error_set(error, -EINVAL, "%s is not a file; name a resource, or its file", path);
	while (used <= BYTES_MAX && got > 0) {
		got = read(fd, buf + used, BYTES_MAX + 1 - used);
		used += got > 0 ? (size_t)got : 0;
	}
	if (got < 0)
		return error_set(error, -errno, "cannot read %s: %s", path, strerror(errno));
	if (used > BYTES_MAX)
		return error_set(error, -EFBIG, "%s has more than %u bytes; it is not the file of a resource",
		    path, BYTES_MAX);
	return (ssize_t)used;
}

int replica_config_load(
    struct replica_config **ret, const char *name_or_path, const char *host, struct error *error)
{
	bool is_path = strchr(name_or_path, '/');
	_cleanup_(cleanup_free) char *text = malloc(BYTES_MAX + 1);
	char dir[PATH_MAX], path[PATH_MAX], machine[256] = "";
	struct replica_config_text in = {.path = path, .text = text, .host = host, .machine = machine};
	ssize_t length;

	if (!text)
		return error_set(error, -ENOMEM, "out of memory");
	in.name = is_path ? NULL : name_or_path;
	if ((is_path ? snprintf(path, sizeof(path), "%s", name_or_path)
	             : snprintf(path, sizeof(path), "%s/%s" SUFFIX, replica_config_dir(dir, sizeof(dir)),
	                   name_or_path)) >= (int)sizeof(path))
		return error_set(error, -ENAMETOOLONG, "the name '%.60s...' is too long", name_or_path);
	length = read_file(path, text, error);
	if (length == -ENOENT && !is_path)
		return error_set(error, -ENOENT,
		    "there is no resource '%.80s': %.200s is missing; write it, see blkmove-replica(5)",
		    name_or_path, path);
	if (length < 0)
		return (int)length;
	in.length = (size_t)length;
	/* Cut off when it is longer. */
	(void)gethostname(machine, sizeof(machine) - 1);
	return replica_config_parse(ret, &in, error);
}

static int is_resource(const struct dirent *entry)
{
	size_t length = strlen(entry->d_name);

	return entry->d_name[0] != '.' && length > strlen(SUFFIX) &&
	       !strcmp(entry->d_name + length - strlen(SUFFIX), SUFFIX);
}

/* alphasort() goes by the locale. */
static int compare(const struct dirent **a, const struct dirent **b)
{
	return strcmp((*a)->d_name, (*b)->d_name);
}

int replica_config_names(char ***ret, struct error *error)
{
	char dir[PATH_MAX];
	struct dirent **entries = NULL;
	int count = scandir(replica_config_dir(dir, sizeof(dir)), &entries, is_resource, compare), res = 0;
	char **names;

	if (count < 0 && errno != ENOENT)
		return error_set(error, -errno, "cannot read %s: %s", dir, strerror(errno));
	count = count < 0 ? 0 : count;
	names = calloc((size_t)count + 1, sizeof(*names));
	for (int i = 0; i < count; i++) {
		if (names)
			names[i] = strndup(entries[i]->d_name, strlen(entries[i]->d_name) - strlen(SUFFIX));
		res = !names || !names[i] ? -ENOMEM : res;
		free(entries[i]);
	}
	free(entries);
	if (!names || res < 0) {
		replica_config_names_free(names);
		return error_set(error, -ENOMEM, "out of memory");
	}
	*ret = names;
	return 0;
}

void replica_config_names_free(char **names)
{
	for (char **at = names; at && *at; at++)
		free(*at);
	free(names);
}

/* Showing */

static json_t *uris_json(const struct replica_config_exports *exports)
{
	json_t *list = json_array();

	for (unsigned i = 0; i < exports->count; i++)
		if (json_array_append_new(list, json_string(exports->uris[i])) < 0) {
			json_decref(list);
			return NULL;
		}
	return list;
}

static json_t *host_json(
    const struct replica_config *config, const struct replica_config_host *host, const char *state_dir)
{
	char map[PATH_MAX];

	return json_pack("{s:s, s:s, s:s, s:s, s:o, s:I, s:b}", "name", host->name, "address", host->address,
	    "device", host->device, "map", map_of(config, host, state_dir, map, sizeof(map)), "export",
	    uris_json(replica_config_exports(config, host)), "node", (json_int_t)host->number, "self",
	    host == replica_config_self(config));
}

/* 0 is none. */
static json_t *number_json(uint64_t number)
{
	return number ? json_integer((json_int_t)number) : json_null();
}

json_t *replica_config_json(const struct replica_config *config, const char *state_dir)
{
	const struct governor_options *governor = &config->governor;

	return json_pack(
	    "{s:s, s:s, s:s, s:s, s:s, s:s, s:s?, s:s?, s:o, s:o, s:o, s:b, s:s, s:o, s:I, s:s, s:b, "
	    "s:i, s:o, s:s?, s:s?, s:s?, s:s?, s:[o, o]}",
	    "name", config->name, "file", config->path, "ack", replicate_ack_name(config->ack),
	    "on_split_brain", "disconnect", "on_io_error", config->detach ? "detach" : "pass-on",
	    "on_peer_gone", config->gone == REPLICA_GONE_FREEZE ? "freeze" : "continue", "fence_hook",
	    config->fence_hook, "before_resync", config->before_resync, "resync_rate",
	    number_json(governor->max_rate), "resync_min_rate", number_json(governor->min_rate),
	    "latency_target_ms",
	    governor->target_ns ? json_real((double)governor->target_ns / NS_PER_MS) : json_null(), "compare",
	    config->compare, "verify_digest", "gmac", "verify_every_s", number_json(config->verify_every_s),
	    "queue", (json_int_t)config->queue_max, "congestion", config->pull_ahead ? "pull-ahead" : "wait",
	    "compress", config->compress, "timeout_ms", (int)config->timeout_ms, "region_size",
	    number_json(config->region_size), "device", config->device, "tls_psk", config->tls_psk,
	    "tls_user", config->tls_user, "tls_certificates", config->tls_certificates, "hosts",
	    host_json(config, &config->hosts[0], state_dir), host_json(config, &config->hosts[1], state_dir));
}
