/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * A replicated volume as its file describes it, NAME.ini, the same on both machines; blkmove-replica(5) has every key. Read
 * by libinih, which is given the lines one by one, so that every error has the line's number. Nothing of it changes once it is
 * there. Control path; no I/O but to read the file.
 */
#pragma once

#include "base/error.h"
#include "cli/listen.h"
#include "filter/replicate.h"
#include "replica/replica_state.h"
#include "sync/governor.h"

#include <jansson.h>
#include <limits.h>

#define REPLICA_CONFIG_NAME_MAX 64u
#define REPLICA_CONFIG_HOSTS    2u

struct replica_config_exports {
	char *uris[LISTEN_MAX]; /* as nbd_address_parse() takes them */
	unsigned count;
};

struct replica_config_host {
	char *name;                            /* as in [host NAME] */
	char *address;                         /* as written: HOST:PORT, [v6]:PORT */
	char *address_host, *address_port;     /* of it, for getaddrinfo(3); no brackets */
	char *device;                          /* what is replicated: an absolute path */
	char *map;                             /* an absolute path; NULL: see replica_config_map() */
	struct replica_config_exports exports; /* this host's own; none: those of the resource */
	/* Of the node: from 1 to 2^62 - 1, the other host's is another, and both hosts come to the same two. */
	uint64_t number;
};

struct replica_config {
	char *path; /* of the file, as it was read */
	char *name; /* letters, digits, '.', '_' and '-'; not digits alone */
	enum replicate_ack ack;
	enum replica_gone gone;           /* on-peer-gone */
	bool detach;                      /* on-io-error: else an error is passed on */
	bool compare;                     /* a resync is narrowed by digests */
	bool pull_ahead;                  /* congestion: else clients wait */
	bool compress;                    /* what goes over the link */
	char *fence_hook;                 /* for /bin/sh -c; NULL: none */
	char *before_resync;              /* likewise */
	struct governor_options governor; /* of a resync; impact is 0 */
	uint64_t verify_every_s;          /* 0: never by itself */
	uint64_t queue_max;               /* bytes */
	unsigned region_size;             /* bytes a bit of a new map; 0: as suits the volume */
	unsigned timeout_ms;
	char *device; /* of devices.h: the name of what the primary makes; NULL: none */
	struct replica_config_exports exports;
	char *tls_psk, *tls_user;                               /* both or none; the path is absolute */
	char *tls_certificates;                                 /* or this; an absolute path */
	struct replica_config_host hosts[REPLICA_CONFIG_HOSTS]; /* in the order of the file */
	unsigned self;                                          /* which of them is this machine */
};

static inline const struct replica_config_host *replica_config_self(const struct replica_config *config)
{
	return &config->hosts[config->self];
}

static inline const struct replica_config_host *replica_config_other(const struct replica_config *config)
{
	return &config->hosts[1 - config->self];
}

/* Where that host's primary listens. May be none, when it makes a device. */
const struct replica_config_exports *replica_config_exports(
    const struct replica_config *config, const struct replica_config_host *host);
/* The file of this machine's map: `map`, or STATE_DIR/replicas/NAME/map. Returns buf. */
const char *replica_config_map(
    const struct replica_config *config, const char *state_dir, char *buf, size_t length);

/*
 * A name with a '/' is a file; any other a resource of the folder below. `host` (--host) is which of the two hosts this machine is; NULL: the
 * one with the machine's name. -ENOENT: there is no such resource; -EINVAL: what is wrong with it, as FILE:LINE: KEY ...;
 * another -errno of reading. All with words.
 */
int replica_config_load(
    struct replica_config **ret, const char *name_or_path, const char *host, struct error *error);
/* Takes NULL; returns NULL. */
struct replica_config *replica_config_free(struct replica_config *config);

/* $BLKMOVE_REPLICA_DIR; /etc/blkmove/replicas for root; $XDG_CONFIG_HOME/blkmove/replicas; ~/.config/blkmove/replicas. Returns buf. */
const char *replica_config_dir(char *buf, size_t length);
/* The names of all resources there, sorted, NULL at the end; replica_config_names_free() frees them. None: also without the folder. */
int replica_config_names(char ***ret, struct error *error);
void replica_config_names_free(char **names);

/* As `replicate show` prints it: every key, with what it is when it was not said. What is NULL there does not apply. NULL: no memory. */
json_t *replica_config_json(const struct replica_config *config, const char *state_dir);

/* What replica_config_load() knows when it has read the file; pure. Strings are borrowed for the call. */
struct replica_config_text {
	const char *path; /* for words */
	const char *text;
	size_t length;
	const char *name;    /* what the resource must be called, or NULL */
	const char *host;    /* as above, or NULL */
	const char *machine; /* this machine's name, full or short */
};

int replica_config_parse(
    struct replica_config **ret, const struct replica_config_text *text, struct error *error);
