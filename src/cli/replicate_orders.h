/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Orders to a resource that take time: they have numbers, and what became of the last ones can be asked. One runs at a time, in a fiber.
 * Part of replicate_process.h.
 */
#pragma once

#include "replica/replica_state.h"
#include "ring/fiber.h"

#include <jansson.h>

#define REPLICATE_ORDERS_KEPT 8u

struct replicate_resource;

enum replicate_order_state { REPLICATE_ORDER_RUNNING, REPLICATE_ORDER_DONE, REPLICATE_ORDER_FAILED };

struct replicate_order {
	uint64_t number; /* 0: none */
	const char *name;
	enum replicate_order_state state;
	char error[512];
};

struct replicate_orders {
	struct replicate_order kept[REPLICATE_ORDERS_KEPT]; /* number % REPLICATE_ORDERS_KEPT */
	uint64_t last;
	struct fiber *fiber; /* NULL, or of the one that runs, or ran last */
	struct replica_event command;

	/* A command that the node carries out. */
	bool answered;
	int answer_res;
	const char *answer_text;
};

/* -EBUSY with words: another one runs. Not in a fiber. */
int replicate_order_begin(struct replicate_resource *resource, const char *name,
    const struct replica_event *command, struct error *error);
bool replicate_order_runs(const struct replicate_resource *resource);
/* -EBUSY with words when clients are attached, but for `force`. */
int replicate_order_spare_clients(const struct replicate_resource *resource, bool force, struct error *error);
/* For replica_node_options. */
void replicate_order_answer(void *resource, int res, const char *text);
/* NULL: that is none of the last ones. */
json_t *replicate_order_json(const struct replicate_resource *resource, uint64_t number);
/* Frees what has ended. Not in a fiber. */
void replicate_orders_look(struct replicate_resource *resource);
