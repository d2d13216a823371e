/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The XML that device-mapper's tools print, read as it comes: one call for each element. Names and numbers only; no text, no entities. */
#pragma once

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct xml;

struct xml_handler {
	void *data;
	/* 0, or -errno with words that end the reading. `depth` is 0 for the outermost element. */
	int (*element)(
	    void *data, unsigned depth, const char *name, const char *const *attributes, struct error *error);
};

int xml_new(struct xml **ret, const struct xml_handler *handler, struct error *error);
struct xml *xml_free(struct xml *xml);
/* `last` with the end of the document, which must be whole then. Returns 0, -EBADMSG or what element() returned, with words. */
int xml_feed(struct xml *xml, const char *bytes, size_t length, bool last, struct error *error);
/* A number of an element, decimal digits only. Returns false when it is missing or is none. */
bool xml_number(const char *const *attributes, const char *name, uint64_t *ret);
