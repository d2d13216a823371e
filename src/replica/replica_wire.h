/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What nodes say to each other, as JSON, one object a message (docs/replication.md). A pure codec; the other node is not trusted with this one's memory. */
#pragma once

#include "base/error.h"
#include "replica/replica_state.h"

#include <jansson.h>

/* The highest name that a generation or a node may have: JSON's numbers are signed to many. */
#define REPLICA_NAME_MAX ((UINT64_C(1) << 62) - 1)

/* NULL: out of memory. */
json_t *replica_message_json(const struct replica_message *message);
/* -EPROTO with words: it is none, or says what cannot be. */
int replica_message_parse(const json_t *json, struct replica_message *ret, struct error *error);
