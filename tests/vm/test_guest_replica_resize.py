# SPDX-License-Identifier: GPL-2.0-or-later
"""A replica becomes larger under a mounted file system: that on the block device of its primary, which on either kernel follows or says that it does not;
and that of a VM, by QEMU.

Of the former both nodes run in one guest, as two hosts of 127.0.0.0/8 with a disk each; of the latter, on this machine.
"""
import contextlib
import json
import os
import time

import pytest

import qemu
import replica_hosts
from work import Work

MIB = 1 << 20
SIZE = 48 * MIB
MORE = 80 * MIB + 512 * 77
DEVICE = "/dev/blkmove/r"
PATIENCE_S = 300


class Node:
    """A host's side of the resource r."""

    def __init__(self, guest, host, folder):
        self.guest, self.host = guest, host
        self.env = f"BLKMOVE_REPLICA_DIR={folder} BLKMOVE_STATE_DIR={folder}/{host}/state BLKMOVE_RUN_DIR={folder}/{host}/run"
        self.process = None

    def __call__(self, words, code=0):
        return self.guest.run(f"{self.env} blkmove replicate {words} r", code=code).out

    def up(self):
        self.process = self.guest.start(f"exec env {self.env} blkmove replicate up --foreground --host={self.host} r")
        self.wait(lambda status: status["state"] == "up", "it is up")

    def status(self):
        return json.loads(self(f"status --host={self.host} --json"))

    def wait(self, condition, what):
        end = time.monotonic() + PATIENCE_S
        while not condition(now := self.status()):
            assert time.monotonic() < end, f"{self.host}: waited in vain until {what}: {now}\n{self.process.out}"
            time.sleep(0.5)
        return now

    def wait_equal(self):
        return self.wait(lambda status: status["flow"] == "equal" and status["good"], "both hold the same")


class Pair:
    """alpha is primary, with the device."""

    def __init__(self, guest, random):
        self.guest = guest
        self.disks = {host: guest.add_disk(SIZE, serial=f"{host}{random.randrange(1 << 32):x}") for host in ("alpha", "beta")}
        self.folder = guest.run("mktemp -d").out.strip()
        hosts = "".join(f"[host {host}]\naddress = 127.0.0.{number}:7789\ndevice = {disk}\n" for number, (host, disk) in enumerate(self.disks.items(), 1))
        guest.put(f"[resource]\nname = r\ndevice = r\n{hosts}", f"{self.folder}/r.ini")
        guest.run("ip link set lo up")
        self.alpha, self.beta = self.nodes = [Node(guest, host, self.folder) for host in self.disks]
        for node in self.nodes:
            node(f"create --host={node.host}")
            node.up()
        self.alpha.wait(lambda status: status["refusal"], "they have met")
        self.alpha("primary --force")
        for node in self.nodes:
            node("connect")
        for node in self.nodes:
            node.wait_equal()

    def enlarge(self, size):
        """The disks of both hosts."""
        for disk in self.guest.disks:
            if disk.serial.startswith(tuple(self.disks)):
                self.guest.qmp("block_resize", **{"node-name": disk.serial, "size": size})
        for disk in self.disks.values():
            self.guest.run(f"for i in $(seq 300); do test $(blockdev --getsize64 {disk}) = {size} && exit 0; sleep 0.1; done; exit 1")

    def end(self):
        for node in self.nodes:
            node("down")
            node.process.wait()

    def must_be_same(self):
        self.guest.run(f"blockdev --flushbufs {self.disks['alpha']} {self.disks['beta']}; cmp {self.disks['alpha']} {self.disks['beta']}")


def size_of(guest, device):
    return int(guest.run(["blockdev", "--getsize64", device]).out)


def room(guest):
    """Of the mounted file system, bytes."""
    return int(guest.run("stat -f -c '%b %S' /data").out.split()[0]) * 4096


def fill_the_end(guest, random):
    """The last sectors past all that was there, which a file system may not use; by them who has grown shows."""
    guest.put(random.randbytes(512 * 77), "/tmp/end")
    guest.run(f"dd if=/tmp/end of={DEVICE} bs=512 seek={MORE // 512 - 77} oflag=direct conv=notrunc,fsync status=none")


@pytest.fixture
def without_ublk(guest):
    """The kernel's NBD client it is, on either kernel: 6.12 waits for what is under way while it changes the size."""
    guest.run("mkdir -p /etc/modprobe.d; echo install ublk_drv /bin/false >/etc/modprobe.d/ublk.conf; modprobe -r ublk_drv || true")
    yield
    guest.run("rm /etc/modprobe.d/ublk.conf")


@pytest.mark.usefixtures("without_ublk")
def test_the_device_follows(guest, random):
    pair = Pair(guest, random)
    assert "/dev/nbd" in guest.run(["readlink", DEVICE]).out
    assert size_of(guest, DEVICE) == SIZE
    work = Work(guest, random, DEVICE)
    work.goes_on()
    pair.enlarge(MORE)
    said = pair.alpha("resize")
    assert "keeps" not in said, said
    # It is so when the order has ended.
    assert size_of(guest, DEVICE) == MORE
    assert pair.alpha.status()["device_size"] == MORE and not pair.alpha.status()["device_reason"]
    work.goes_on()
    before = room(guest)
    guest.run(f"resize2fs $(readlink {DEVICE}) 2>&1")
    assert room(guest) > before + 20 * MIB
    guest.run(f"head -c {30 * MIB} /dev/urandom >/data/large; sync /data/large; md5sum </data/large >/tmp/large")
    work.goes_on()
    # A process that dies now leaves it so behind, and who takes it over has it so.
    pair.alpha.process.kill()
    pair.alpha.process.wait(None)
    pair.alpha.up()
    pair.alpha("primary")
    assert size_of(guest, DEVICE) == MORE
    work.goes_on()
    guest.run("echo 3 >/proc/sys/vm/drop_caches; md5sum </data/large | cmp - /tmp/large")
    work.end()
    fill_the_end(guest, random)
    for node in pair.nodes:
        node.wait_equal()
    pair.end()
    pair.must_be_same()
    guest.run(f"cmp -n $((512 * 77)) -i {MORE - 512 * 77}:0 {pair.disks['beta']} /tmp/end; fsck.ext4 -fn {pair.disks['beta']}")


def test_h09_the_device_stays(guest, kernel, random):
    """A kernel whose ublk cannot: it is said, and one that was left behind is taken over as it is."""
    if kernel == "6.1":
        pytest.skip("this kernel has no ublk")
    pair = Pair(guest, random)
    holder = guest.start(f"exec 7<{DEVICE}; echo open; sleep 10000")
    holder.wait_for("open")
    guest.put(random.randbytes(MIB), "/tmp/begin")
    guest.run(f"dd if=/tmp/begin of={DEVICE} bs=1M oflag=direct conv=notrunc,fsync status=none")
    pair.enlarge(MORE)

    def must_say(said):
        assert f"{DEVICE} keeps its 48.0 MiB: this kernel's ublk makes no device larger (that of Linux 6.16 does)" in said, said
        assert "When nobody uses it, `blkmove replicate secondary r` and `blkmove replicate primary r` make it anew" in said, said
        assert size_of(guest, DEVICE) == SIZE
    must_say(pair.alpha("resize"))
    assert pair.alpha.status()["total"] == MORE and pair.alpha.status()["device_size"] == SIZE
    pair.alpha.process.kill()
    pair.alpha.process.wait(None)
    pair.alpha.up()
    pair.alpha("primary")
    pair.alpha.wait(lambda status: status["device_reason"], "it has tried")
    must_say(pair.alpha("status --host=alpha"))
    guest.run(f"cmp -n {MIB} {DEVICE} /tmp/begin")
    # As it says; when nobody uses it.
    pair.alpha("secondary", code=3)
    holder.kill()
    holder.wait(None)
    pair.alpha("secondary")
    pair.alpha("primary")
    assert size_of(guest, DEVICE) == MORE and not pair.alpha.status()["device_reason"]
    fill_the_end(guest, random)
    guest.run(f"cmp -n {MIB} {DEVICE} /tmp/begin")
    for node in pair.nodes:
        node.wait_equal()
    pair.end()
    pair.must_be_same()


def nbd_node(node, name):
    """As docs/recipes/replica-vm.md has it."""
    return {"driver": "nbd", "node-name": name, "export": "vm1", "reconnect-delay": qemu.RECONNECT_S,
            "server": {"type": "unix", "path": str(node.socket())}}


def test_a_vm_follows(guest, program, folder, random):
    """QEMU knows a disk's size from when it connected: it connects once more, and goes over to that while the guest writes."""
    with contextlib.closing(replica_hosts.Pair(program, folder, random, SIZE)) as pair:
        pair.begin()
        disk = guest.add_disk(qemu.Disk("replica", {"driver": "raw", "file": nbd_node(pair.alpha, "first")}))
        work = Work(guest, random, disk)
        work.goes_on()
        for node in pair.nodes:
            os.truncate(node.volume(), MORE)
        pair.alpha("resize", "vm1")
        assert size_of(guest, disk) == SIZE
        guest.qmp("blockdev-add", **nbd_node(pair.alpha, "second"))
        guest.qmp("blockdev-reopen", options=[{"driver": "raw", "node-name": "replica", "file": "second"}])
        guest.qmp("block_resize", **{"node-name": "replica", "size": MORE})
        guest.run(f"for i in $(seq 300); do test $(blockdev --getsize64 {disk}) = {MORE} && exit 0; sleep 0.1; done; exit 1")
        before = room(guest)
        guest.run(f"resize2fs {disk} 2>&1")
        assert room(guest) > before + 20 * MIB
        guest.run(f"head -c {30 * MIB} /dev/urandom >/data/large; sync /data/large")
        work.goes_on()
        work.end()
        pair.alpha.wait(timeout_s=60, clients=1)  # the first connection has ended
        guest.remove_disks()
        pair.wait_equal()
        assert len(pair.content(pair.alpha)) == MORE
        pair.assert_same()
