/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Commands about ublk devices, to /dev/ublk-control: the kernel's Documentation/block/ublk.rst. They wait for their answers, which may
 * need the device to be served meanwhile: not for the thread that serves it.
 */
#pragma once

#include "base/error.h"
#include "export/ublk_abi.h"

#include <liburing.h>
#include <stdatomic.h>
#include <stdint.h>

struct ublk_control {
	struct io_uring ring;
	int fd;
	const atomic_bool *give_up; /* NULL, or what ends a command that waits: -ECANCELED */
};

/* 0 or -errno; -ENOENT when the kernel has no ublk (loaded). */
int ublk_control_open(struct ublk_control *ret);
void ublk_control_close(struct ublk_control *control);
/*
 * `operation` is UBLK_COMMAND() or UBLK_QUESTION(); `device` -1 for a new one. `buf` is read, and written, by the kernel; `data` is
 * a number. Returns the kernel's answer.
 */
int ublk_control_run(struct ublk_control *control, unsigned operation, unsigned device, void *buf,
    size_t length, uint64_t data);
