/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Tables as data: see dm_table.h. */
#include "attach/dm_table.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>

int dm_table_add(
    struct dm_table *table, uint64_t start, uint64_t length, const char *type, const char *params)
{
	struct dm_target *targets = realloc(table->targets, (table->count + 1) * sizeof(*targets));
	struct dm_target *target;

	if (!targets)
		return -ENOMEM;
	table->targets = targets;
	target = &targets[table->count];
	*target = (struct dm_target){.start = start, .length = length, .params = strdup(params)};
	if (!target->params)
		return -ENOMEM;
	snprintf(target->type, sizeof(target->type), "%s", type);
	table->count++;
	return 0;
}

int dm_table_add_linear(struct dm_table *table, uint64_t length, dev_t device, uint64_t begin)
{
	char params[64];

	snprintf(
	    params, sizeof(params), "%u:%u %llu", major(device), minor(device), (unsigned long long)begin);
	return dm_table_add(table, dm_table_length(table), length, "linear", params);
}

uint64_t dm_table_length(const struct dm_table *table)
{
	const struct dm_target *last = table->count ? &table->targets[table->count - 1] : NULL;

	return last ? last->start + last->length : 0;
}

bool dm_table_equal(const struct dm_table *a, const struct dm_table *b)
{
	if (a->count != b->count)
		return false;
	for (size_t i = 0; i < a->count; i++) {
		const struct dm_target *x = &a->targets[i], *y = &b->targets[i];

		if (x->start != y->start || x->length != y->length || strcmp(x->type, y->type) ||
		    strcmp(x->params, y->params))
			return false;
	}
	return true;
}

int dm_table_copy(struct dm_table *ret, const struct dm_table *table)
{
	int res = 0;

	*ret = (struct dm_table){0};
	for (size_t i = 0; i < table->count && res == 0; i++) {
		const struct dm_target *target = &table->targets[i];

		res = dm_table_add(ret, target->start, target->length, target->type, target->params);
	}
	if (res < 0)
		dm_table_done(ret);
	return res;
}

bool dm_table_is_plain(const struct dm_table *table)
{
	for (size_t i = 0; i < table->count; i++)
		if (strcmp(table->targets[i].type, "linear") && strcmp(table->targets[i].type, "striped"))
			return false;
	return table->count > 0;
}

bool dm_table_is(const struct dm_table *table, const char *type)
{
	return table->count == 1 && !strcmp(table->targets[0].type, type);
}

void dm_table_done(struct dm_table *table)
{
	for (size_t i = 0; i < table->count; i++)
		free(table->targets[i].params);
	free(table->targets);
	*table = (struct dm_table){0};
}

/* "8:16" and nothing else, up to a blank or the end. */
static bool is_device(const char *word, size_t length, dev_t *ret)
{
	unsigned major_number, minor_number;
	int used = 0;

	if (!isdigit((unsigned char)word[0]) ||
	    sscanf(word, "%u:%u%n", &major_number, &minor_number, &used) != 2 || (size_t)used != length)
		return false;
	*ret = makedev(major_number, minor_number);
	return true;
}

bool dm_params_next_device(const char *params, size_t *at, dev_t *ret)
{
	while (params[*at]) {
		const char *word = params + *at + strspn(params + *at, " ");
		size_t length = strcspn(word, " ");

		*at = (size_t)(word - params) + length;
		if (length > 0 && is_device(word, length, ret))
			return true;
	}
	return false;
}

int dm_params_device(const char *params, size_t *ret_at, size_t *ret_length, dev_t *ret_device)
{
	size_t at = 0, first;
	dev_t device;

	if (!dm_params_next_device(params, &at, ret_device))
		return -ENOENT;
	first = at;
	while (first > 0 && params[first - 1] != ' ')
		first--;
	*ret_at = first;
	*ret_length = at - first;
	return dm_params_next_device(params, &at, &device) ? -ENOENT : 0;
}

int dm_table_with_device(
    struct dm_table *ret, const struct dm_table *table, dev_t device, struct error *error)
{
	const struct dm_target *target = table->targets;
	size_t at, length;
	dev_t ignored;
	char *params;
	int res;

	*ret = (struct dm_table){0};
	if (table->count != 1 || dm_params_device(target->params, &at, &length, &ignored) < 0)
		return error_set(error, -EINVAL, "its table does not lie on one device alone");
	if (asprintf(&params, "%.*s%u:%u%s", (int)at, target->params, major(device), minor(device),
	        target->params + at + length) < 0)
		return error_set(error, -ENOMEM, "out of memory");
	res = dm_table_add(ret, target->start, target->length, target->type, params);
	free(params);
	return res < 0 ? error_set(error, res, "out of memory") : 0;
}
