/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the files of replica_config share: a file that is being read. */
#pragma once

#include "cli/replica_config.h"

#define REPLICA_CONFIG_KEYS 32u /* more than any section has */

enum replica_config_section {
	SECTION_RESOURCE,
	SECTION_HOST,
	SECTIONS = SECTION_HOST + REPLICA_CONFIG_HOSTS
};

struct replica_config_reading {
	const struct replica_config_text *in;
	struct replica_config *config;
	struct error *error;
	size_t at;
	unsigned line; /* from 1: the one that was read last */
	enum { OPENING_NOT, OPENING_READ, OPENING_TOLD } opening;
	unsigned section;                              /* SECTIONS: none yet */
	unsigned opened[SECTIONS];                     /* the line of its name; 0: it is not there */
	unsigned given[SECTIONS][REPLICA_CONFIG_KEYS]; /* the line of the key; 0: it is not there */
	const struct replica_config_key *key;          /* whose value is being looked at */
};

struct replica_config_key {
	const char *name;
	/* `field` is in the config, or in the host. 0 or -errno with words. */
	int (*set)(struct replica_config_reading *reading, const char *value, void *field);
	size_t offset;
	const char *const *choices; /* NULL at the end */
};

/* NULL at the end. */
extern const struct replica_config_key replica_config_resource_keys[], replica_config_host_keys[];

/* Words with FILE:LINE in front; the line 0 is none. Returns -EINVAL. */
int replica_config_fail(const struct replica_config_reading *reading, unsigned line, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
/* Of a key, by its name; 0: it is not there. */
unsigned replica_config_line(
    const struct replica_config_reading *reading, unsigned section, const char *name);
/* When all is read: what is missing, and what does not go together. Decides which host this is, and gives them numbers. */
int replica_config_check(struct replica_config_reading *reading);
