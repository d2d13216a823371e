/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * An error is the caller's memory: no allocation, so even ENOMEM has words. The place where a fault is seen
 * sets it, each layer above prefixes what it was doing, and only cli and agent print it.
 */
#pragma once

struct error {
	int code; /* negative errno */
	char text[512];
};

/* Sets text and code (a negative errno) and returns code. A NULL error is allowed. */
int error_set(struct error *error, int code, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* Puts "what was being done: " in front of the text; returns error->code (or -EINVAL for NULL). */
int error_prefix(struct error *error, const char *format, ...) __attribute__((format(printf, 2, 3)));
