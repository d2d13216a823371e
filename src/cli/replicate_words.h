/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * What is said of a resource to people: its status as a block of lines, what is at risk when an order is forced, and which command
 * comes next. Pure: from the status that its process gives (docs/wire/control.md).
 */
#pragma once

#include <jansson.h>
#include <stddef.h>
#include <stdio.h>

/* A block of lines, the last one says what comes next if somebody has to do something. */
void replicate_words_print(FILE *to, const json_t *status);
/* Its roles and what goes between the nodes, in one line. */
void replicate_words_print_line(FILE *to, const json_t *status);
/* What `primary --force` puts at risk as things stand; "": nothing that is known. Returns buf. */
const char *replicate_words_risk(const json_t *status, char *buf, size_t length);
