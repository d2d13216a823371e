/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The status of a job or a mirror, as its control socket tells it, in one line for people. */
#pragma once

#include <jansson.h>
#include <stdio.h>

void status_line_print(FILE *to, const json_t *status);
