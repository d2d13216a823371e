/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* On expat. What a handler refuses stops the parser. */
#include "track/xml.h"

#include <errno.h>
#include <expat.h>
#include <stdlib.h>
#include <string.h>

#define DEPTH_MAX 16u

struct xml {
	XML_Parser parser;
	struct xml_handler handler;
	unsigned depth;
	int res;
	struct error why;
};

static void begin(void *data, const XML_Char *name, const XML_Char **attributes)
{
	struct xml *xml = data;

	if (xml->res == 0 && xml->depth >= DEPTH_MAX)
		xml->res = error_set(&xml->why, -EBADMSG, "it is nested too deep");
	if (xml->res == 0)
		xml->res = xml->handler.element(
		    xml->handler.data, xml->depth, name, (const char *const *)attributes, &xml->why);
	xml->depth++;
	if (xml->res < 0)
		XML_StopParser(xml->parser, XML_FALSE);
}

static void end(void *data, const XML_Char *name)
{
	((struct xml *)data)->depth--;
}

/* No document of ours declares anything. */
static void doctype(
    void *data, const XML_Char *name, const XML_Char *system, const XML_Char *public, int internal)
{
	struct xml *xml = data;

	xml->res = error_set(&xml->why, -EBADMSG, "it has a document type");
	XML_StopParser(xml->parser, XML_FALSE);
}

int xml_new(struct xml **ret, const struct xml_handler *handler, struct error *error)
{
	struct xml *xml = calloc(1, sizeof(*xml));

	if (xml)
		xml->parser = XML_ParserCreate(NULL);
	if (!xml || !xml->parser) {
		free(xml);
		return error_set(error, -ENOMEM, "out of memory");
	}
	xml->handler = *handler;
	XML_SetUserData(xml->parser, xml);
	XML_SetElementHandler(xml->parser, begin, end);
	XML_SetStartDoctypeDeclHandler(xml->parser, doctype);
	*ret = xml;
	return 0;
}

struct xml *xml_free(struct xml *xml)
{
	if (xml)
		XML_ParserFree(xml->parser);
	free(xml);
	return NULL;
}

int xml_feed(struct xml *xml, const char *bytes, size_t length, bool last, struct error *error)
{
	if (xml->res == 0 && XML_Parse(xml->parser, bytes, (int)length, last) == XML_STATUS_ERROR &&
	    xml->res == 0)
		xml->res = error_set(&xml->why, -EBADMSG, "it is no XML at line %lu: %s",
		    (unsigned long)XML_GetCurrentLineNumber(xml->parser),
		    XML_ErrorString(XML_GetErrorCode(xml->parser)));
	if (xml->res < 0)
		*error = xml->why;
	return xml->res;
}

bool xml_number(const char *const *attributes, const char *name, uint64_t *ret)
{
	for (; attributes[0]; attributes += 2) {
		const char *text = attributes[1];
		char *rest;

		if (strcmp(attributes[0], name) != 0)
			continue;
		if (text[0] < '0' || text[0] > '9')
			return false;
		errno = 0;
		*ret = strtoull(text, &rest, 10);
		return errno == 0 && *rest == '\0';
	}
	return false;
}
