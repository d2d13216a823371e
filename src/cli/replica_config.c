/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The lines of a resource's file: see replica_config.h. What libinih passes over in silence is looked at before it gets a line: bytes that
 * are no text, what stands behind a section's name, names that it would cut.
 */
#include "base/cleanup.h"
#include "cli/replica_config_private.h"

#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <ini.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define LINE_MAX_BYTES 4096u
#define SECTION_MAX    49u /* of libinih */
/* A made-up line behind each section's: libinih tells of a section with its first key only. */
#define OPENING "=\n"

int replica_config_fail(const struct replica_config_reading *reading, unsigned line, const char *format, ...)
{
	char text[400], where[16] = "";
	va_list list;

	va_start(list, format);
	vsnprintf(text, sizeof(text), format, list);
	va_end(list);
	if (line > 0)
		snprintf(where, sizeof(where), "%u:", line);
	return error_set(reading->error, -EINVAL, "%s:%s %s", reading->in->path, where, text);
}

static const struct replica_config_key *keys_of(unsigned section)
{
	return section == SECTION_RESOURCE ? replica_config_resource_keys : replica_config_host_keys;
}

unsigned replica_config_line(const struct replica_config_reading *reading, unsigned section, const char *name)
{
	const struct replica_config_key *keys = keys_of(section);

	for (unsigned i = 0; keys[i].name; i++)
		if (!strcmp(keys[i].name, name))
			return reading->given[section][i];
	return 0;
}

/* Sections */

static int check_twice(const struct replica_config_reading *reading, const char *section, unsigned line)
{
	if (line == 0)
		return 0;
	return replica_config_fail(
	    reading, reading->line, "[%s] is in line %u already; put all of its keys there", section, line);
}

static int open_host(struct replica_config_reading *reading, const char *section, const char *name)
{
	struct replica_config_host *hosts = reading->config->hosts;
	unsigned i = 0;

	if (!name[0] ||
	    name[strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-")])
		return replica_config_fail(reading, reading->line,
		    "[%s]: write the host's name, as `hostname` prints it: [host alpha]", section);
	for (; i < REPLICA_CONFIG_HOSTS && hosts[i].name; i++)
		if (!strcasecmp(hosts[i].name, name))
			return check_twice(reading, section, reading->opened[SECTION_HOST + i]);
	if (i == REPLICA_CONFIG_HOSTS)
		return replica_config_fail(reading, reading->line,
		    "[%s] is one host too many, a resource has %u; remove it, %s or %s", section, i,
		    hosts[0].name, hosts[1].name);
	hosts[i].name = strdup(name);
	reading->section = SECTION_HOST + i;
	return hosts[i].name ? 0 : error_set(reading->error, -ENOMEM, "out of memory");
}

static int open_section(struct replica_config_reading *reading, const char *section)
{
	int res = 0;

	if (!strcmp(section, "resource")) {
		reading->section = SECTION_RESOURCE;
		res = check_twice(reading, section, reading->opened[SECTION_RESOURCE]);
	} else if (!strncmp(section, "host", 4) && (!section[4] || isblank((unsigned char)section[4]))) {
		res = open_host(reading, section, section + 4 + strspn(section + 4, " \t"));
	} else {
		res = replica_config_fail(reading, reading->line,
		    "there is no section [%s]; write [resource] or [host NAME]", section);
	}
	if (res == 0)
		reading->opened[reading->section] = reading->line;
	return res;
}

/* Keys */

static int refuse_key(const struct replica_config_reading *reading, const char *name)
{
	const struct replica_config_key *keys = keys_of(reading->section);
	const struct replica_config_key *others =
	    keys_of(reading->section == SECTION_RESOURCE ? SECTION_HOST : SECTION_RESOURCE);
	char list[320] = "";

	for (unsigned i = 0; others[i].name; i++)
		if (!strcmp(others[i].name, name))
			return replica_config_fail(reading, reading->line,
			    "'%s' belongs into [%s]; move it there", name,
			    reading->section == SECTION_RESOURCE ? "host NAME" : "resource");
	for (unsigned i = 0; keys[i].name; i++)
		snprintf(
		    list + strlen(list), sizeof(list) - strlen(list), "%s%s", i ? ", " : "", keys[i].name);
	return replica_config_fail(reading, reading->line, "there is no key '%.40s' in [%s]; there are %s",
	    name, reading->section == SECTION_RESOURCE ? "resource" : "host NAME", list);
}

static int set(struct replica_config_reading *reading, const char *name, const char *value)
{
	const struct replica_config_key *keys = keys_of(reading->section);
	void *base = reading->section == SECTION_RESOURCE
	                 ? (void *)reading->config
	                 : &reading->config->hosts[reading->section - SECTION_HOST];
	unsigned i = 0, *given;

	while (keys[i].name && strcmp(keys[i].name, name))
		i++;
	if (!keys[i].name)
		return refuse_key(reading, name);
	given = &reading->given[reading->section][i];
	if (*given)
		return replica_config_fail(
		    reading, reading->line, "%s is in line %u already; remove one of them", name, *given);
	if (!value[0])
		return replica_config_fail(reading, reading->line,
		    "%s has no value; write one, or remove the line for the default", name);
	*given = reading->line;
	reading->key = &keys[i];
	return keys[i].set(reading, value, (char *)base + keys[i].offset);
}

/* From libinih; 0 is a failure there. */
static int take(void *data, const char *section, const char *name, const char *value)
{
	struct replica_config_reading *reading = data;

	if (reading->opening == OPENING_TOLD) {
		reading->opening = OPENING_NOT;
		return open_section(reading, section) == 0;
	}
	if (reading->section == SECTIONS)
		return replica_config_fail(reading, reading->line,
		           "'%.40s' is in no section; write [resource] or [host NAME] above it", name) == 0;
	return set(reading, name, value) == 0;
}

/* Lines */

static int check_text(const struct replica_config_reading *reading, const char *from, size_t length)
{
	json_t *text;

	if (length > LINE_MAX_BYTES - 3)
		return replica_config_fail(reading, reading->line, "a line of %zu bytes; %u are the most",
		    length, LINE_MAX_BYTES - 3);
	for (size_t i = 0; i < length; i++)
		if (((unsigned char)from[i] < 0x20 && from[i] != '\t') || from[i] == 0x7f)
			return replica_config_fail(
			    reading, reading->line, "there is a control character in this line; remove it");
	text = json_stringn(from, length);
	json_decref(text);
	return text ? 0
	            : replica_config_fail(reading, reading->line, "this line is not UTF-8; write it anew");
}

static int check_section(const struct replica_config_reading *reading, const char *from, size_t length)
{
	while (length > 0 && isblank((unsigned char)from[length - 1]))
		length--;
	if (length < 2 || memchr(from, ']', length) != from + length - 1)
		return replica_config_fail(reading, reading->line,
		    "a section is a line [NAME], and nothing stands behind it; comments have lines of their "
		    "own");
	if (length - 2 > SECTION_MAX)
		return replica_config_fail(reading, reading->line,
		    "the name of a section may have %u bytes; write the host's short name", SECTION_MAX);
	return 0;
}

/* For libinih, as fgets(3): the next line, or NULL at the end, and when it is not fit to be read: then there are words. */
static char *read_line(char *buf, int size, void *data)
{
	struct replica_config_reading *reading = data;
	const char *from = reading->in->text + reading->at, *end;
	size_t length = reading->in->length - reading->at, skip = 0;

	if (reading->opening == OPENING_READ) {
		reading->opening = OPENING_TOLD;
		return strcpy(buf, OPENING);
	}
	if (length == 0)
		return NULL;
	end = memchr(from, '\n', length);
	reading->at += end ? (size_t)(end - from) + 1 : length;
	reading->line++;
	length = end ? (size_t)(end - from) : length;
	length -= length > 0 && from[length - 1] == '\r';
	while (skip < length && isblank((unsigned char)from[skip]))
		skip++;
	from += skip;
	length -= skip;
	if (check_text(reading, from, length) < 0)
		return NULL;
	if (length > 0 && from[0] == '[') {
		if (check_section(reading, from, length) < 0)
			return NULL;
		reading->opening = OPENING_READ;
	}
	assert((size_t)size > length + 1);
	memcpy(buf, from, length);
	strcpy(buf + length, "\n");
	return buf;
}

static int read_all(struct replica_config_reading *reading)
{
	int res;

	/* Debian's library has these where others are built with them. */
	ini_max_line = LINE_MAX_BYTES;
	ini_stop_on_first_error = true;
	ini_allow_inline_comments = false;
	if (reading->in->length >= 3 && !memcmp(reading->in->text, "\xef\xbb\xbf", 3))
		reading->at = 3;
	reading->error->code = 0;
	res = ini_parse_stream(read_line, reading, take, reading);
	if (reading->error->code < 0)
		return reading->error->code;
	if (res < 0)
		return error_set(reading->error, -ENOMEM, "out of memory");
	if (res > 0)
		return replica_config_fail(reading, reading->line,
		    "this is neither 'key = value' nor [section] nor a comment, which begins with # or ;");
	return 0;
}

static void set_defaults(struct replica_config *config)
{
	config->ack = REPLICATE_DURABLE;
	config->gone = REPLICA_GONE_CONTINUE;
	config->detach = true;
	config->pull_ahead = true;
	config->queue_max = 16u << 20;
	config->timeout_ms = 10000;
}

static void free_config(struct replica_config **config)
{
	replica_config_free(*config);
}

int replica_config_parse(
    struct replica_config **ret, const struct replica_config_text *text, struct error *error)
{
	_cleanup_(free_config) struct replica_config *config = calloc(1, sizeof(*config));
	struct error words;
	struct replica_config_reading reading = {
	    .in = text, .config = config, .error = error ? error : &words, .section = SECTIONS};
	int res;

	if (config)
		config->path = strdup(text->path);
	if (!config || !config->path)
		return error_set(error, -ENOMEM, "out of memory");
	set_defaults(config);
	res = read_all(&reading);
	if (res == 0)
		res = replica_config_check(&reading);
	if (res < 0)
		return res;
	*ret = config;
	config = NULL;
	return 0;
}

static void free_exports(struct replica_config_exports *exports)
{
	for (unsigned i = 0; i < exports->count; i++)
		free(exports->uris[i]);
}

struct replica_config *replica_config_free(struct replica_config *config)
{
	if (!config)
		return NULL;
	free(config->path);
	free(config->name);
	free(config->fence_hook);
	free(config->before_resync);
	free(config->device);
	free_exports(&config->exports);
	free(config->tls_psk);
	free(config->tls_user);
	free(config->tls_certificates);
	for (unsigned i = 0; i < REPLICA_CONFIG_HOSTS; i++) {
		free(config->hosts[i].name);
		free(config->hosts[i].address);
		free(config->hosts[i].address_host);
		free(config->hosts[i].address_port);
		free(config->hosts[i].device);
		free(config->hosts[i].map);
		free_exports(&config->hosts[i].exports);
	}
	free(config);
	return NULL;
}
