# SPDX-License-Identifier: GPL-2.0-or-later
"""The first recipe of device.md, of move.md and of changed-blocks.md in docs/recipes, and the move to another machine, as they are typed: each block of
commands runs in a guest, where the volumes and machines that it names exist, and does what its page says. The others are not typed here.

Only sizes and the names of disks are put in.
"""
import pytest

import recipes

PATIENCE_S = 900


class Machine:
    """The guest with a group vg0 on one disk, vg1 on another, and a free one; `new` is the guest itself, by ssh."""

    def __init__(self, guest):
        self.guest = guest
        self.old, self.new, self.free = (guest.add_disk(size, f"recipe-{size}") for size in ("192M", "128M", "96M"))
        self.names = {"/dev/sdb": self.free, "-L 10G": "-L 20M"}
        guest.run(f"""modprobe dm-snapshot; modprobe dm-thin-pool; modprobe dm-mirror; modprobe dm-crypt; modprobe dm-era; modprobe -q ublk_drv || modprobe nbd
            vgcreate -qq vg0 {self.old} {self.free}; vgcreate -qq vg1 {self.new}; mkdir -p /srv /mnt
            lvcreate -qqy -Wn -L 64M -n web vg0 {self.old}; lvcreate -qqy -Wn -L 64M -n web vg1""")

    def reach_new(self):
        self.guest.is_also("new")

    def blocks(self, page, heading):
        return recipes.blocks(page, heading, self.names)

    def type(self, text):
        """Returns what it said."""
        return self.guest.run(text, timeout_s=PATIENCE_S).out

    def make_files(self, device, folder="/srv"):
        self.guest.run(f"mkfs.ext4 -q {device}; mount {device} {folder}; head -c 9999999 /dev/urandom >{folder}/file; md5sum {folder}/file >/run/sum; sync")

    def write_more(self):
        self.guest.run("head -c 777777 /dev/urandom >>/srv/file; md5sum /srv/file >/run/sum; sync")

    def must_have_files(self, device):
        self.guest.run(f"umount /srv; e2fsck -fn {device}; mount {device} /srv; md5sum -c --quiet /run/sum; umount /srv")

    def clear(self):
        self.guest.run("""pkill -x sshd || true; for group in vg0 vg1; do vgremove -qqfy $group; done; rm -rf /var/lib/blkmove
            for disk in /dev/by-serial/recipe-*; do wipefs -qa $disk; done""")


@pytest.fixture
def machine(guest):
    made = Machine(guest)
    yield made
    if not guest.is_running() or guest.run("mountpoint -q /srv", code=None).code == 0:
        return  # it failed: the guest is not used again
    made.clear()


def test_image_of_another_machine(machine):
    machine.reach_new()
    machine.guest.run("mkdir -p /tmp/tree; echo here >/tmp/tree/a-file; mkfs.ext4 -q -d /tmp/tree /srv/old.img 20M")
    said = machine.type(machine.blocks("device.md", "Look into an image on another machine")[0])
    assert "a-file" in said
    machine.guest.run("test ! -e /dev/blkmove/old; rm /srv/old.img")


def leads_to(machine, disk):
    number = machine.guest.run(f"lsblk -ndro MAJ:MIN {disk}").out.strip()
    return f" {number} " in machine.guest.run(f"dmsetup table vg0-web").out


def test_another_disk_under_lvm(machine):
    machine.make_files("/dev/vg0/web")
    for text in machine.blocks("move.md", "An LVM volume"):
        machine.type(text)
        machine.write_more()
    assert leads_to(machine, machine.free)
    machine.must_have_files("/dev/vg0/web")


def test_to_another_machine(machine):
    machine.reach_new()
    machine.make_files("/dev/vg0/web")
    first, *others, there = machine.blocks("move.md", "To another machine")
    assert len(others) == 2
    machine.type(first)
    assert not leads_to(machine, machine.old)
    machine.write_more()
    machine.guest.run("umount /srv")
    for text in others:
        machine.type(text)
    assert leads_to(machine, machine.old)
    same(machine, "/dev/vg0/web")
    machine.type(there)
    machine.write_more()
    machine.must_have_files("/dev/vg1/web")


def same(machine, source, target="/dev/vg1/web"):
    machine.guest.run(f"blockdev --flushbufs {source} {target}; cmp {source} {target}")


def test_changes_by_lvm_snapshots(machine):
    machine.reach_new()
    machine.make_files("/dev/vg0/web")
    first, later, last = machine.blocks("changed-blocks.md", "An LVM volume, by its snapshots")
    machine.type(first)
    same(machine, "/dev/vg0/s0")
    machine.write_more()
    assert "nothing else is read" in machine.type(later)
    machine.write_more()
    same(machine, "/dev/vg0/s1")
    machine.guest.run("umount /srv")
    assert "nothing else is read" in machine.type(last)
    same(machine, "/dev/vg0/web")
