# SPDX-License-Identifier: GPL-2.0-or-later
"""guest/workload.py, which makes a file system on a device, and writes and checks files there all the while."""


class Work:
    """Its folder is in the guest; the device is one to lose all that is on it."""

    def __init__(self, guest, random, device):
        self.guest, self.folder = guest, f"/tmp/work{random.randrange(1 << 32)}"
        self.command = guest.start(["workload.py", device, self.folder, random.randrange(1 << 32)])
        self.command.wait_for("READY")

    def goes_on(self):
        """Ten rounds of writing and checking at least were begun and ended since."""
        self.command.wait_for("tick", count=self.command.out.count("tick") + 2)

    def end(self):
        self.guest.run(f"touch {self.folder}/stop")
        self.command.wait()

    def must_be_on(self, disk):
        """Clean, and each file as it was at the end: read from the disk itself."""
        self.guest.run(f"""blockdev --flushbufs {disk}; fsck.ext4 -fn {disk}
            mkdir -p /data; mount -o ro {disk} /data; (cd /data; md5sum -c --quiet {self.folder}/sums); umount /data""")
