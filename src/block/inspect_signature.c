/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What lies on a volume, by libblkid's low-level probing: file systems, swap, LVM and md members, partition
 * tables. */
#include "base/cleanup.h"
#include "block/inspect.h"

#include <blkid/blkid.h>
#include <fcntl.h>
#include <stdio.h>

/* Labels come from the volume: nothing that a terminal might obey. */
static size_t append(char *ret, size_t used, size_t length, const char *before, const char *text)
{
	size_t begin = used;

	if (used >= length)
		return used;
	used += (size_t)snprintf(ret + used, length - used, "%s%.80s", before, text);
	for (size_t i = begin; ret[i]; i++)
		if ((unsigned char)ret[i] < ' ' || ret[i] == 0x7f)
			ret[i] = '?';
	return used;
}

static size_t describe(blkid_probe probe, char *ret, size_t used, size_t length)
{
	const char *text;

	if (blkid_probe_lookup_value(probe, "TYPE", &text, NULL) == 0) {
		used = append(ret, used, length, used ? "; " : "", text);
		if (blkid_probe_lookup_value(probe, "UUID", &text, NULL) == 0)
			used = append(ret, used, length, ", UUID ", text);
		if (blkid_probe_lookup_value(probe, "LABEL", &text, NULL) == 0)
			used = append(ret, used, length, ", label ", text);
	}
	if (blkid_probe_lookup_value(probe, "PTTYPE", &text, NULL) == 0) {
		used = append(ret, used, length, used ? "; " : "", text);
		used = append(ret, used, length, " partition table", "");
	}
	return used;
}

void inspect_signature(int fd, char *ret, unsigned length)
{
	_cleanup_(cleanup_close) int again = -1;
	blkid_probe probe = blkid_new_probe();
	char path[64];
	size_t used = 0;

	ret[0] = '\0';
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	/* A descriptor of its own: probing moves the position. */
	again = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (probe && again >= 0 && blkid_probe_set_device(probe, again, 0, 0) == 0) {
		blkid_probe_enable_superblocks(probe, 1);
		blkid_probe_set_superblocks_flags(
		    probe, BLKID_SUBLKS_TYPE | BLKID_SUBLKS_UUID | BLKID_SUBLKS_LABEL);
		blkid_probe_enable_partitions(probe, 1);
		while (blkid_do_probe(probe) == 0)
			used = describe(probe, ret, used, length);
	}
	if (probe)
		blkid_free_probe(probe);
}
