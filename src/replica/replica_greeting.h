/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The first line each way on a stream between two hosts, before its session begins: who dialled says what the stream is for, and gets
 * yes or no. A pure codec for docs/wire/replica.md. What comes is not trusted.
 */
#pragma once

#include "base/error.h"
#include "filter/replicate.h"

#include <stddef.h>
#include <stdint.h>

#define REPLICA_GREETING_MAX     512u /* bytes of a line, with its '\n' */
#define REPLICA_GREETING_RELEASE 1u
#define REPLICA_RESOURCE_MAX     64u /* bytes of a resource's name */

enum replica_stream {
	REPLICA_STREAM_LINK, /* over which the nodes speak */
	REPLICA_STREAM_DATA, /* what the sender of that link sends */
};

struct replica_greeting {
	char resource[REPLICA_RESOURCE_MAX + 1];
	enum replica_stream stream;
	uint64_t link; /* from 1 to REPLICA_NAME_MAX: a new one, or of the link that the data belong to */
	enum replicate_ack ack;
};

/* The bytes of the line, at most REPLICA_GREETING_MAX; its end is '\n' and no NUL follows. -errno: out of memory. */
int replica_greeting_format(const struct replica_greeting *greeting, char ret[REPLICA_GREETING_MAX]);
/*
 * A line without its '\n'. -EPROTO: it is none; -EPROTONOSUPPORT: of another release. Both with words that the one who dialled may be
 * told.
 */
int replica_greeting_parse(
    const char *line, size_t length, struct replica_greeting *ret, struct error *error);

/* As above: yes when `refusal` is NULL, else no and why, which is cut to what fits. */
int replica_greeting_answer_format(const char *refusal, char ret[REPLICA_GREETING_MAX]);
/* 0: yes. -ECONNREFUSED with the other's words; -EPROTO: it is no answer. */
int replica_greeting_answer_parse(const char *line, size_t length, struct error *error);
