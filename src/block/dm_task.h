/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One task of libdevmapper's for each question to device-mapper, or change: made, run and ended in one way, with words. Control paths:
 * each run is an ioctl and, where udev runs, the wait for its rules.
 *
 * libdevmapper's messages go to a function of the whole process: the last one of each thread is kept for the words of an error.
 */
#pragma once

#include "base/error.h"

#include <libdevmapper.h>
#include <stdbool.h>
#include <stdint.h>

/* libdevmapper prints nothing from now on. Every task does this itself; who uses the library's parsers calls it. */
void dm_quiet(void);
/* A task of a type of libdevmapper's about a device, or NULL for none; NULL when there is no memory, which dm_do() takes. */
struct dm_task *dm_begin(int type, const char *name);
/* dm_begin()'s, when it goes out of scope. */
void dm_end(struct dm_task **task);
#define _cleanup_dm_task_ __attribute__((cleanup(dm_end)))

/* 0 or -errno: "cannot DOING NAME: ...". */
int dm_do(struct dm_task *task, const char *doing, const char *name, struct error *error);
/* The same with a change of which udev must come to know; returns when its rules have run. DM_UDEV_ flags. */
int dm_do_with_udev(
    struct dm_task *task, uint16_t flags, const char *doing, const char *name, struct error *error);
/* For a task that could not be prepared: -ENOMEM. */
int dm_cannot(const char *doing, const char *name, struct error *error);
