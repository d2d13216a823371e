/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Tables of stores: see snapshot_place.h. A crypt target's words: cipher, key, first number, device, first sector, options. */
#include "snapshot/snapshot_place.h"

#include "base/bytes.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sysmacros.h>

#define ALIGN       2048u
#define FIRST_APART (UINT64_C(1) << 44) /* sectors; a volume of 8 PiB ends there */

int snapshot_place_half(uint64_t sectors, unsigned slot, uint64_t *ret_begin, uint64_t *ret_length)
{
	uint64_t half = align_down(sectors / SNAPSHOT_SLOTS, ALIGN);

	if (half < SNAPSHOT_STORE_LEAST)
		return -ENOSPC;
	*ret_begin = slot * half;
	*ret_length = half;
	return 0;
}

/* "CIPHER-MODE-plain ", and "CIPHER " alone means that: 2^44 more is the same number then. */
static bool numbers_are_short(const char *params)
{
	size_t length = strcspn(params, " ");
	const char plain[] = "-plain";

	return !memchr(params, '-', length) ||
	       (length >= strlen(plain) && !memcmp(params + length - strlen(plain), plain, strlen(plain)));
}

static int crypt_table(const char *params, dev_t device, uint64_t begin, uint64_t length,
    struct dm_table *ret, struct error *error)
{
	unsigned major_number, minor_number;
	int key = 0, key_end = 0, rest = 0;
	uint64_t first, sector;
	char *text;
	int res;

	if (sscanf(params, "%*s %n%*s%n %" SCNu64 " %u:%u %" SCNu64 "%n", &key, &key_end, &first,
	        &major_number, &minor_number, &sector, &rest) != 4 ||
	    rest == 0)
		return error_set(error, -EOPNOTSUPP, "its crypt table is not understood");
	if (numbers_are_short(params))
		return error_set(error, -EOPNOTSUPP,
		    "its cipher counts sectors with 32 bits (plain), so that its store would be encrypted by "
		    "the "
		    "same numbers once more; plain64 would do");
	if (params[key] == ':')
		return error_set(error, -EOPNOTSUPP,
		    "its key is in the kernel's keyring, where it cannot be had a second time; open it with "
		    "`cryptsetup open --disable-keyring`");
	if (strstr(params + rest, "integrity:"))
		return error_set(error, -EOPNOTSUPP, "it has integrity tags, and its store would have none");
	if (asprintf(&text, "%.*s %" PRIu64 " %u:%u %" PRIu64 "%s", key_end, params, first + FIRST_APART,
	        major(device), minor(device), begin, params + rest) < 0)
		return error_set(error, -ENOMEM, "out of memory");
	res = dm_table_add(ret, 0, length, "crypt", text);
	explicit_bzero(text, strlen(text));
	free(text);
	return res < 0 ? error_set(error, res, "out of memory") : 0;
}

int snapshot_place_table(const struct dm_table *origin, dev_t device, uint64_t begin, uint64_t length,
    struct dm_table *ret, struct error *error)
{
	*ret = (struct dm_table){0};
	if (dm_table_is(origin, "crypt"))
		return crypt_table(origin->targets[0].params, device, begin, length, ret, error);
	if (dm_table_add_linear(ret, length, device, begin) < 0)
		return error_set(error, -ENOMEM, "out of memory");
	return 0;
}
