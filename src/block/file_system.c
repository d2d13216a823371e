/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* One row a kind of file system. */
#include "block/file_system.h"

#include <stddef.h>
#include <stdint.h>

#define FOREIGN (FILE_SYSTEM_SHARED | FILE_SYSTEM_COARSE_TIMES)

static const struct {
	uint32_t type; /* statfs.f_type */
	unsigned traits;
} kinds[] = {
    {0x6969 /* NFS */, FOREIGN},
    {0xff534d42 /* CIFS */, FOREIGN},
    {0xfe534d42 /* SMB2 */, FOREIGN},
    {0x517b /* SMB */, FOREIGN},
    {0x65735546 /* FUSE */, FOREIGN},
    {0x01021997 /* 9P */, FOREIGN},
    {0x00c36400 /* Ceph */, FOREIGN},
    {0x5346414f /* AFS */, FOREIGN},
    {0x6b414653 /* kAFS */, FOREIGN},
    {0x7461636f /* OCFS2 */, FOREIGN},
    {0x01161970 /* GFS2 */, FOREIGN},
    {0x0bd00bd0 /* Lustre */, FILE_SYSTEM_SHARED},
    {0x4d44 /* FAT */, FILE_SYSTEM_COARSE_TIMES},
    {0x2011bab0 /* exFAT */, FILE_SYSTEM_COARSE_TIMES},
    {0xef53 /* ext2, ext3, ext4 */, FILE_SYSTEM_LASTING_ID},
    {0x9123683e /* Btrfs */, FILE_SYSTEM_LASTING_ID},
    {0x2fc12fc1 /* ZFS */, FILE_SYSTEM_LASTING_ID},
    {0xca451a4e /* bcachefs */, FILE_SYSTEM_LASTING_ID},
    /* It has a UUID of its own, and no file there outlasts it. */
    {0x01021994 /* tmpfs */, FILE_SYSTEM_LASTING_ID | FILE_SYSTEM_IN_MEMORY},
    {0x858458f6 /* ramfs */, FILE_SYSTEM_IN_MEMORY},
};

unsigned file_system_traits(const struct statfs *stat)
{
	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
		if ((uint32_t)stat->f_type == kinds[i].type)
			return kinds[i].traits;
	return 0;
}
