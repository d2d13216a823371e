/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* JSON of the wire's control frames about volumes: see remote_json.h. What comes in is checked here, once. */
#include "block/remote_json.h"

#include "base/cleanup.h"
#include "wire/control.h"

#include <errno.h>
#include <string.h>

#define SECTOR_MAX 65536u

static const char *const cache_words[] = {
    [CACHE_AUTO] = "auto",
    [CACHE_DIRECT] = "direct",
    [CACHE_BUFFERED] = "buffered",
};

static const char *const stage_words[] = {
    [STAGE_SETTLE] = "settle",
    [STAGE_NEW] = "new",
    [STAGE_RESUME] = "resume",
    [STAGE_DROP] = "drop",
};

json_t *remote_json_open(const char *path, const struct block_open_options *options)
{
	json_t *json = json_pack("{s:s, s:b, s:b, s:I, s:s, s:b, s:I}", "path", path, "write", options->write,
	    "create", options->create, "size", (json_int_t)options->create_size, "cache",
	    cache_words[options->cache], "force_held", options->force_held, "session",
	    (json_int_t)options->session);

	if (!json || options->stage == STAGE_SETTLE)
		return json;
	if (json_object_set_new(json, "stage", json_string(stage_words[options->stage])) < 0 ||
	    (options->stage_dir &&
	        json_object_set_new(json, "stage_dir", json_string(options->stage_dir)) < 0) ||
	    json_object_set_new(json, "keep_points", json_integer(options->keep_points)) < 0) {
		json_decref(json);
		return NULL;
	}
	return json;
}

json_t *remote_json_opened(const struct block_info *info)
{
	return json_pack("{s:I, s:i, s:i, s:b, s:b, s:b, s:b, s:b, s:b, s:b}", "size", (json_int_t)info->size,
	    "sector_size", (int)info->sector_size, "request_align", (int)info->request_align, "writable",
	    info->writable, "zeroed", info->zeroed, "created", info->created, "resizable", info->resizable,
	    "holes_trusted", info->holes_trusted, "staged", info->staged, "recovered", info->recovered);
}

static json_t *places(const struct block_facts *facts)
{
	json_t *list = json_array();

	for (unsigned i = 0; i < facts->places_count; i++) {
		const struct block_place *place = &facts->places[i];

		json_array_append_new(
		    list, json_pack("{s:o, s:I, s:I}", "id", control_text(place->id), "offset",
		              (json_int_t)place->offset, "length", (json_int_t)place->length));
	}
	return list;
}

json_t *remote_json_facts(const struct block_facts *facts)
{
	return json_pack("{s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:I, s:I, s:o}", "id",
	    control_text(facts->id), "boot", control_text(facts->boot), "mark", control_text(facts->mark),
	    "mounted", control_text(facts->mounted), "held", control_text(facts->held), "writer",
	    control_text(facts->writer), "blind", control_text(facts->blind), "signature",
	    control_text(facts->signature), "allocated", (json_int_t)facts->allocated, "last_writer",
	    (json_int_t)facts->last_writer, "places", places(facts));
}

/* What earlier versions do not send is 0. */
static int get_session(const json_t *json, const char *key, uint64_t *ret, struct error *error)
{
	*ret = 0;
	if (!json_object_get(json, key))
		return 0;
	if (control_get_u64(json, key, ret, error) < 0)
		return -EPROTO;
	return *ret <= SESSION_MAX ? 0 : error_set(error, -EPROTO, "'%s' is no session", key);
}

static int parse_cache(const json_t *json, enum cache_mode *ret, struct error *error)
{
	char word[16];

	if (control_get_text(json, "cache", word, sizeof(word), error) < 0)
		return -EPROTO;
	for (unsigned i = 0; i < sizeof(cache_words) / sizeof(cache_words[0]); i++)
		if (!strcmp(word, cache_words[i])) {
			*ret = (enum cache_mode)i;
			return 0;
		}
	return error_set(error, -EPROTO, "there is no cache mode '%s'", word);
}

/* What earlier versions do not send is the usual. */
static int parse_stage(const json_t *json, struct remote_open *ret, struct error *error)
{
	const char *dir = json_string_value(json_object_get(json, "stage_dir"));
	uint64_t points = 0;
	char word[16] = "settle";
	unsigned i;

	if (json_object_get(json, "stage") && control_get_text(json, "stage", word, sizeof(word), error) < 0)
		return -EPROTO;
	if (json_object_get(json, "keep_points") && control_get_u64(json, "keep_points", &points, error) < 0)
		return -EPROTO;
	for (i = 0; i < sizeof(stage_words) / sizeof(stage_words[0]) && strcmp(word, stage_words[i]); i++)
		;
	if (i == sizeof(stage_words) / sizeof(stage_words[0]) || points > STAGE_POINTS_MAX ||
	    (dir && (dir[0] != '/' || strlen(dir) >= sizeof(ret->stage_dir))))
		return error_set(error, -EPROTO, "there is no such stage");
	ret->stage = (enum stage_use)i;
	ret->keep_points = (unsigned)points;
	strcpy(ret->stage_dir, dir ? dir : "");
	return 0;
}

/* The path goes to open(2), not to a terminal: as it is, or not at all. */
static int parse_path(const json_t *json, struct remote_open *ret, struct error *error)
{
	const char *path = json_string_value(json_object_get(json, "path"));

	if (!path || !path[0] || strlen(path) >= sizeof(ret->path))
		return error_set(error, -EPROTO, "'path' is missing, empty or too long");
	strcpy(ret->path, path);
	return 0;
}

int remote_parse_open(const void *payload, size_t length, struct remote_open *ret, struct error *error)
{
	_cleanup_(control_cleanup) json_t *json = control_parse(payload, length, error);

	if (!json || parse_path(json, ret, error) < 0 || parse_cache(json, &ret->cache, error) < 0 ||
	    control_get_bool(json, "write", &ret->write, error) < 0 ||
	    control_get_bool(json, "create", &ret->create, error) < 0 ||
	    control_get_bool(json, "force_held", &ret->force_held, error) < 0 ||
	    control_get_u64(json, "size", &ret->create_size, error) < 0 ||
	    get_session(json, "session", &ret->session, error) < 0 || parse_stage(json, ret, error) < 0)
		return -EPROTO;
	return 0;
}

static bool power_of_two(uint64_t value, uint64_t max)
{
	return value > 0 && value <= max && (value & (value - 1)) == 0;
}

int remote_parse_opened(const void *payload, size_t length, struct block_info *ret, struct error *error)
{
	_cleanup_(control_cleanup) json_t *json = control_parse(payload, length, error);
	uint64_t sector, align;

	if (!json || control_get_u64(json, "size", &ret->size, error) < 0 ||
	    control_get_u64(json, "sector_size", &sector, error) < 0 ||
	    control_get_u64(json, "request_align", &align, error) < 0 ||
	    control_get_bool(json, "writable", &ret->writable, error) < 0 ||
	    control_get_bool(json, "zeroed", &ret->zeroed, error) < 0 ||
	    control_get_bool(json, "created", &ret->created, error) < 0 ||
	    control_get_bool(json, "resizable", &ret->resizable, error) < 0)
		return -EPROTO;
	if (!power_of_two(sector, SECTOR_MAX) || !power_of_two(align, SECTOR_MAX))
		return error_set(error, -EPROTO, "sectors of %llu bytes, aligned to %llu, cannot be",
		    (unsigned long long)sector, (unsigned long long)align);
	/* An older agent does not say, and did not write out a target's dirty data. */
	ret->holes_trusted = json_is_true(json_object_get(json, "holes_trusted"));
	ret->staged = json_is_true(json_object_get(json, "staged"));
	/* An older agent knows nothing of stages, and does not say. */
	ret->settles = json_is_boolean(json_object_get(json, "recovered"));
	ret->recovered = json_is_true(json_object_get(json, "recovered"));
	ret->sector_size = (uint32_t)sector;
	ret->request_align = (uint32_t)align;
	return 0;
}

/* An older agent does not say. */
static int get_boot(const json_t *json, struct block_facts *ret, struct error *error)
{
	ret->boot[0] = '\0';
	return json_object_get(json, "boot")
	           ? control_get_text(json, "boot", ret->boot, sizeof(ret->boot), error)
	           : 0;
}

/* An older agent does not say whether it saw all. */
static int get_blind(const json_t *json, struct block_facts *ret, struct error *error)
{
	if (json_object_get(json, "blind"))
		return control_get_text(json, "blind", ret->blind, sizeof(ret->blind), error);
	snprintf(ret->blind, sizeof(ret->blind),
	    "blkmove there is of an earlier version, which does not say what it could see");
	return 0;
}

/* An older agent says nothing of places; more than there is room for are left out. */
static int parse_places(const json_t *json, struct block_facts *ret, struct error *error)
{
	const json_t *list = json_object_get(json, "places"), *one;
	size_t i;

	ret->places_count = 0;
	if (list && !json_is_array(list))
		return error_set(error, -EPROTO, "'places' is no list");
	json_array_foreach(list, i, one)
	{
		struct block_place *place = &ret->places[i];

		if (i == BLOCK_PLACES_MAX)
			break;
		if (control_get_text(one, "id", place->id, sizeof(place->id), error) < 0 ||
		    control_get_u64(one, "offset", &place->offset, error) < 0 ||
		    control_get_u64(one, "length", &place->length, error) < 0)
			return -EPROTO;
		ret->places_count++;
	}
	return 0;
}

int remote_parse_facts(const void *payload, size_t length, struct block_facts *ret, struct error *error)
{
	_cleanup_(control_cleanup) json_t *json = control_parse(payload, length, error);

	if (!json || control_get_text(json, "id", ret->id, sizeof(ret->id), error) < 0 ||
	    control_get_text(json, "mark", ret->mark, sizeof(ret->mark), error) < 0 ||
	    get_boot(json, ret, error) < 0 || get_blind(json, ret, error) < 0 ||
	    control_get_text(json, "mounted", ret->mounted, sizeof(ret->mounted), error) < 0 ||
	    control_get_text(json, "held", ret->held, sizeof(ret->held), error) < 0 ||
	    control_get_text(json, "writer", ret->writer, sizeof(ret->writer), error) < 0 ||
	    control_get_text(json, "signature", ret->signature, sizeof(ret->signature), error) < 0 ||
	    control_get_u64(json, "allocated", &ret->allocated, error) < 0 ||
	    get_session(json, "last_writer", &ret->last_writer, error) < 0 ||
	    parse_places(json, ret, error) < 0)
		return -EPROTO;
	return 0;
}
