/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Looks at an open volume, and locks it against a second writer. The parts are in the inspect_*.c files. */
#include "block/inspect.h"
#include "base/cleanup.h"
#include "block/inspect_private.h"

#include <errno.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define LOCK_TRIES  25 /* udev holds its shared lock for moments */
#define LOCK_NAP_US 20000

static int look(struct inspect_volume *volume, int fd)
{
	*volume = (struct inspect_volume){.fd = fd};
	if (fstat(fd, &volume->stat) < 0)
		return -errno;
	if (S_ISBLK(volume->stat.st_mode)) {
		volume->device = true;
		sysfs_add_above(&volume->above, volume->stat.st_rdev);
	} else if (S_ISREG(volume->stat.st_mode)) {
		sysfs_add_loops_of_file(&volume->above, volume->stat.st_dev, volume->stat.st_ino);
	} else {
		return -ENOTBLK;
	}
	return 0;
}

bool inspect_identity(int fd, char *ret, unsigned length)
{
	struct inspect_volume volume;

	ret[0] = '\0';
	return look(&volume, fd) == 0 && inspect_id(&volume, ret, length);
}

int inspect_where(int fd, struct block_facts *ret, struct error *error)
{
	struct inspect_volume volume;
	int res = look(&volume, fd);

	if (res < 0)
		return error_set(error, res, "cannot look at the volume: %s", strerror(-res));
	*ret = (struct block_facts){0};
	inspect_id(&volume, ret->id, sizeof(ret->id));
	inspect_places(&volume, ret);
	return 0;
}

int inspect_fd(int fd, struct block_facts *ret, struct error *error)
{
	struct inspect_volume volume;
	struct inspect_openers openers;
	struct block_facts facts = {0};
	int res = look(&volume, fd);

	if (res < 0)
		return error_set(error, res, "cannot look at the volume: %s", strerror(-res));
	inspect_id(&volume, facts.id, sizeof(facts.id));
	inspect_places(&volume, &facts);
	inspect_mounted(&volume, facts.mounted, sizeof(facts.mounted));
	inspect_held(&volume, facts.held, sizeof(facts.held));
	inspect_openers(&volume, &openers);
	snprintf(facts.writer, sizeof(facts.writer), "%s", openers.writer);
	inspect_blind(&volume, openers.hidden, facts.blind, sizeof(facts.blind));
	inspect_signature(fd, facts.signature, sizeof(facts.signature));
	sysfs_boot_id(facts.boot, sizeof(facts.boot));
	/* Last: what was done up to here does not count as having been written since. */
	inspect_mark(&volume, facts.mark, sizeof(facts.mark));
	if (volume.device) {
		if (ioctl(fd, BLKGETSIZE64, &facts.allocated) < 0)
			facts.allocated = 0;
	} else {
		facts.allocated = (uint64_t)volume.stat.st_blocks * 512;
	}
	*ret = facts;
	return 0;
}

/* The owner of the flock on an inode, or 0. Lines as "2: FLOCK  ADVISORY  WRITE 1234 fe:00:12345 0 EOF", see
 * proc(5). */
static long lock_owner(int fd)
{
	char line[256], kind[16];
	unsigned high, low;
	unsigned long long inode;
	struct stat stat;
	long pid, likely = 0;
	FILE *file;

	if (fstat(fd, &stat) < 0)
		return 0;
	file = fopen("/proc/locks", "re");
	while (file && fgets(line, sizeof(line), file)) {
		if (sscanf(line, "%*[^:]: %15s %*s %*s %ld %x:%x:%llu", kind, &pid, &high, &low, &inode) !=
		        5 ||
		    strcmp(kind, "FLOCK") != 0 || inode != stat.st_ino || pid <= 0)
			continue;
		/* Btrfs and overlayfs show another device number than stat(2) does. */
		likely = pid;
		if (makedev(high, low) == stat.st_dev)
			break;
	}
	if (file)
		fclose(file);
	return likely;
}

int inspect_lock(int fd, const char *name, struct error *error)
{
	char owner[96];
	long pid;

	for (int i = 0; i < LOCK_TRIES; i++) {
		if (flock(fd, LOCK_EX | LOCK_NB) == 0)
			return 0;
		if (errno == EINTR)
			continue;
		if (errno != EWOULDBLOCK)
			return error_set(
			    error, -errno, "cannot lock %s against other writers: %s", name, strerror(errno));
		usleep(LOCK_NAP_US);
	}
	pid = lock_owner(fd);
	if (pid <= 0)
		return error_set(error, -EALREADY,
		    "cannot write to %s: it is in use by another blkmove or locked by another program that "
		    "cannot be "
		    "seen from here; wait for it, or name another target",
		    name);
	if (pid == getpid())
		return error_set(error, -EALREADY,
		    "cannot write to %s: this command has it open for writing already, perhaps under another "
		    "name; name "
		    "another volume",
		    name);
	inspect_process_name(pid, owner, sizeof(owner));
	if (strstr(owner, "(blkmove"))
		return error_set(error, -EALREADY,
		    "cannot write to %s: it is in use by another blkmove, %s; wait for it or end it, or name "
		    "another "
		    "target",
		    name, owner);
	return error_set(error, -EALREADY,
	    "cannot write to %s: it is in use by %s, which has it locked; wait for it or end it, or name "
	    "another "
	    "target",
	    name, owner);
}

void inspect_close(int *fd)
{
	if (*fd >= 0)
		(void)flock(*fd, LOCK_UN);
	cleanup_close(fd);
}

/* Words that go on after "it is in use by ". */
void inspect_holder(int fd, char *ret, unsigned length)
{
	struct inspect_volume volume;
	struct inspect_openers openers;
	char text[160];

	ret[0] = '\0';
	if (look(&volume, fd) < 0)
		return;
	inspect_mounted(&volume, text, sizeof(text));
	if (text[0] == '/') {
		snprintf(ret, length, "a file system, mounted at %s", text);
		return;
	}
	if (!text[0])
		inspect_held(&volume, text, sizeof(text));
	if (!text[0]) {
		inspect_openers(&volume, &openers);
		snprintf(text, sizeof(text), "%s", openers.opener);
	}
	snprintf(ret, length, "%s", text);
}
