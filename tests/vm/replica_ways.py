# SPDX-License-Identifier: GPL-2.0-or-later
"""Ways to have a volume on two guests, for bench_replica.py: the first guest has the data and writes, the second follows. Each guest has the disks
`data`, of the volume's size, and `meta`, for what the way keeps besides.
"""
import re

NODES = (1, 2)
PORT = 7788
# Alike for all ways: who does not answer for so long is gone.
DEAD_S = 2

# It starts a program before and after each resync. There is nothing for that to do here, and emulation makes it slow.
MODPROBE = "modprobe drbd usermode_helper=/bin/true"
DRBD_CONF = """global {{ usage-count no; }}
resource r0 {{
    protocol C; device /dev/drbd0 minor 0; disk {data}; meta-disk {meta};
    net {{ timeout {timeout}; ping-int {every}; ping-timeout 5; connect-int {every}; {net} }}
    disk {{ {disk} }}
    {hosts}
}}
"""


class Drbd:
    """The kernel's, protocol C. `net`, `disk`: what is set besides timeouts."""

    device, watch = "/dev/drbd0", "drbd"

    def __init__(self, name, net="", disk=""):
        self.name, self.net, self.disk = name, net, disk
        self.runs = []

    def _conf(self, guest):
        disks = {name: guest.run(["readlink", f"/dev/by-serial/{name}"]).out.strip() for name in ("data", "meta")}
        hosts = " ".join(f"on node{node} {{ address 10.77.0.{node}:{PORT}; }}" for node in NODES)
        # Tenths of a second; it must be less than the two that are whole seconds.
        return DRBD_CONF.format(timeout=10 * DEAD_S - 1, every=DEAD_S, net=self.net, disk=self.disk, hosts=hosts, **disks)

    @staticmethod
    def versions(guest):
        said = guest.run(f"{MODPROBE}; cat /proc/drbd; drbdadm --version").out
        module, tools = (re.search(rf"^{word}(\S+)", said, re.M)[1] for word in ("version: ", "DRBDADM_VERSION="))
        return f"DRBD {module}, drbd-utils {tools}"

    def join(self, guest):
        """A node that has never been one."""
        guest.put(self._conf(guest), "/etc/drbd.conf")
        guest.run(f"mkdir -p /run/drbd /var/lib/drbd; {MODPROBE}; drbdadm create-md --force r0; drbdadm up r0")

    @staticmethod
    def wait_until_met(guest):
        guest.run("until grep -q cs:Connected /proc/drbd; do sleep 0.1; done", timeout_s=120)

    @staticmethod
    def begin(source, target):
        """The source's data are the good ones."""
        source.run("drbdadm primary --force r0")

    @staticmethod
    def leave(guest):
        guest.run("! [ -e /proc/drbd ] || drbdadm down r0")


BLKMOVE_INI = """[resource]
device = r0
ack = durable
timeout = {timeout}s
{more}
"""
BLKMOVE_HOST = """[host node{node}]
address = 10.77.0.{node}:{port}
device = {data}
map = /run/meta/map
"""


class Blkmove:
    """blkmove replicate; its device is the kernel's nbd or, where there is one, ublk. `more`: lines of the resource's file."""

    device, watch = "/dev/blkmove/r0", "blkmove"

    def __init__(self, name, more=""):
        self.name, self.more = name, more
        self.runs = []

    @staticmethod
    def versions(guest):
        return guest.run("blkmove --version").out.strip()

    def join(self, guest):
        data = guest.run(["readlink", "/dev/by-serial/data"]).out.strip()
        guest.put(BLKMOVE_INI.format(timeout=DEAD_S, more=self.more) + "".join(BLKMOVE_HOST.format(node=node, port=PORT, data=data) for node in NODES),
                  "/run/r0.ini")
        guest.run("""mkdir -p /etc/blkmove/replicas /run/meta; mv /run/r0.ini /etc/blkmove/replicas; modprobe nbd; modprobe -q ublk_drv || true
            mkfs.ext4 -q /dev/by-serial/meta; mount /dev/by-serial/meta /run/meta; blkmove replicate create --discard-mine=r0 r0; blkmove replicate up r0""")

    @staticmethod
    def wait_until_met(guest):
        """Two that are both new have nothing to say to each other."""

    @staticmethod
    def begin(source, target):
        source.run("blkmove replicate primary --force r0")
        for guest in target, source:
            guest.run("blkmove replicate connect r0")

    @staticmethod
    def leave(guest):
        guest.run("""! [ -e /run/blkmove/replica-r0.sock ] || blkmove replicate down r0
            ! mountpoint -q /run/meta || umount /run/meta""")


TUNED = ("max-buffers 8000; max-epoch-size 8000; sndbuf-size 2M; rcvbuf-size 2M;", "c-plan-ahead 0; resync-rate 1000M; c-min-rate 0;")
WAYS = [
    Drbd("DRBD, as it comes"),
    Drbd("DRBD, tuned", *TUNED),
    Blkmove("blkmove, regions of 4 KiB", "region-size = 4k"),
    Blkmove("blkmove"),
]
