# SPDX-License-Identifier: GPL-2.0-or-later
"""Recipes of docs/recipes, as they are typed: each block of commands runs in a guest, where the volumes and machines that it names exist, and does what its
page says. docs/HACKING.md has which are typed, and where.

Only sizes, the names of disks, and what is for a machine with systemd, libvirt or a database are put in.
"""
import re

import pytest

import recipes

PATIENCE_S = 900


class Machine:
    """The guest with a group vg0 on one disk, vg1 on another, and a free one; `new` is the guest itself, by ssh."""

    def __init__(self, guest):
        self.guest = guest
        self.old, self.new, self.free = (guest.add_disk(size, f"recipe-{size}") for size in ("192M", "128M", "96M"))
        self.names = {"/dev/sdb": self.free, "-L 10G": "-L 20M", "root@standby": "root@new"}
        guest.run(f"""modprobe dm-snapshot; modprobe dm-thin-pool; modprobe dm-mirror; modprobe dm-crypt; modprobe dm-era; modprobe -q ublk_drv || modprobe nbd
            vgcreate -qq vg0 {self.old} {self.free}; vgcreate -qq vg1 {self.new}; mkdir -p /srv /mnt
            lvcreate -qqy -Wn -L 64M -n web vg0 {self.old}; lvcreate -qqy -Wn -L 64M -n web vg1""")

    def reach_new(self):
        self.guest.is_also("new")

    def blocks(self, page, heading):
        return recipes.blocks(page, heading, self.names)

    def type(self, text, answers=b""):
        """Returns what it said."""
        return self.guest.run(text, timeout_s=PATIENCE_S, data=answers).out

    def put_program(self, path, text):
        """One that a recipe names and a guest has not."""
        self.guest.run(f"mkdir -p $(dirname {path})")
        self.guest.put(f"#!/bin/bash -e\n{text}\n", path, "755")

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


def leads_to(machine, disk, name="vg0-web"):
    number = machine.guest.run(f"lsblk -ndro MAJ:MIN {disk}").out.strip()
    return f" {number} " in machine.guest.run(f"dmsetup table {name}").out


@pytest.mark.parametrize("heading", ["An LVM volume", "Slowly"])
def test_another_disk_under_lvm(machine, heading):
    machine.make_files("/dev/vg0/web")
    if heading == "Slowly":
        machine.type(f"lvcreate -qqy -Wn -L 64M -n web-new vg0 {machine.free}")
    for text in machine.blocks("move.md", heading):
        machine.type(text)
        machine.write_more()
    assert leads_to(machine, machine.free)
    machine.must_have_files("/dev/vg0/web")


@pytest.mark.parametrize("onward", ["--resume", "--undo"])
def test_a_look_before_the_last_step(machine, onward):
    machine.make_files("/dev/vg0/web")
    begin, *ends = machine.blocks("move.md", "With a look before the last step")
    machine.type(begin)
    machine.write_more()
    # What cron might run at night would lead it past the mirror.
    refused = machine.guest.run("blkmove sync --snapshot=auto /dev/vg0/web /dev/vg1/web", code=3).out
    assert "is being moved" in refused and "blkmove move --resume vg0-web" in refused, refused
    end, = [text for text in ends if onward in text]
    machine.type(end)
    machine.write_more()
    assert leads_to(machine, machine.free if onward == "--resume" else machine.old)
    machine.must_have_files("/dev/vg0/web")


def test_another_disk_under_crypt(machine):
    guest = machine.guest
    below, free = guest.add_disk("48M", "below"), guest.add_disk("48M", "free")
    machine.names["/dev/sdb"] = free
    guest.run(f"""modprobe algif_skcipher || true
        printf word | cryptsetup luksFormat -q --type luks2 --pbkdf pbkdf2 --pbkdf-force-iterations 1000 --key-file - {below}
        printf word | cryptsetup open --key-file - {below} secret""")
    machine.make_files("/dev/mapper/secret")
    text, = machine.blocks("move.md", "A crypt volume")
    machine.type(text, b"word\nword\n")
    machine.write_more()
    assert leads_to(machine, free, "secret") and ":64:logon:" in guest.run("dmsetup table secret").out
    # As at the next start of the machine.
    guest.run(f"umount /srv; cryptsetup close secret; wipefs -qa {below}; printf word | cryptsetup open --key-file - {free} secret; mount /dev/mapper/secret /srv")
    machine.must_have_files("/dev/mapper/secret")
    guest.run("cryptsetup close secret")


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


def nothing_is_left(machine):
    left = machine.guest.run("lvs --noheadings -o lv_name; dmsetup ls").out
    assert "blkmove" not in left, left


def test_sync_by_snapshots_of_a_volume(machine):
    machine.reach_new()
    machine.make_files("/dev/vg0/web")
    run, = machine.blocks("sync-by-snapshots.md", "")
    machine.type(run)
    machine.write_more()
    assert "nothing else is read" in machine.type(run)
    assert "blkmove-" in machine.guest.run("lvs").out
    machine.write_more()
    machine.guest.run("umount /srv")
    last, = machine.blocks("sync-by-snapshots.md", "The last run")
    assert "verified" in machine.type(last)
    same(machine, "/dev/vg0/web")
    nothing_is_left(machine)
    machine.guest.run("mount /dev/vg1/web /srv")
    machine.must_have_files("/dev/vg1/web")


def test_sync_by_snapshots_of_a_plain_device(machine):
    machine.reach_new()
    home, store = machine.guest.add_disk("24M", "home"), machine.guest.add_disk("48M", "store")
    machine.names["/dev/sdc1"] = store
    machine.guest.run(f'lvcreate -qqy -Wn -L 24M -n home vg1; dmsetup create home --table "0 {24 << 11} linear {home} 0"')
    machine.make_files("/dev/mapper/home")
    run, drop = machine.blocks("sync-by-snapshots.md", "Other device-mapper devices")
    machine.type(run)
    machine.write_more()
    machine.guest.run("umount /srv")
    assert "nothing else is read" in machine.type(run)
    assert "snapshot-origin" in machine.guest.run("dmsetup table home").out
    machine.type(drop)
    nothing_is_left(machine)
    assert leads_to(machine, home, "home")
    same(machine, "/dev/mapper/home", "/dev/vg1/home")
    machine.guest.run("dmsetup remove home")


def test_sync_by_snapshots_of_databases(machine):
    """Quiet when the snapshot is made, and at work again afterwards."""
    machine.reach_new()
    for name in "pg", "db":
        machine.guest.run(f"lvcreate -qqy -Wn -L 8M -n {name} vg0; lvcreate -qqy -Wn -L 8M -n {name} vg1; echo before >/dev/vg0/{name}")
    machine.put_program("/usr/bin/psql", """[ "$*" = "-qc CHECKPOINT" ]; echo checkpoint >/dev/vg0/pg""")
    machine.put_program("/usr/local/sbin/db", """case $1 in pause) echo paused ;; continue) echo continued ;; esac >/dev/vg0/db""")
    text, = machine.blocks("sync-by-snapshots.md", "A database, a file system in a partition")
    machine.type(text)
    held = [machine.guest.run(f"blockdev --flushbufs {path}; head -n 1 {path}").out.strip() for path in ("/dev/vg1/pg", "/dev/vg1/db", "/dev/vg0/db")]
    assert held == ["checkpoint", "paused", "continued"]


def test_the_classic_move(machine):
    """Emulated, a round takes its time."""
    machine.reach_new()
    machine.names.update({"/dev/vg0/vm1": "/dev/vg0/web", "/dev/vg1/vm1": "/dev/vg1/web", "until:5s": "until:300s"})
    machine.put_program("/usr/bin/virsh", """[ "$*" = "shutdown vm1" ]; echo >/srv/stopped; umount /srv""")
    machine.make_files("/dev/vg0/web")
    said = machine.type(machine.blocks("move-in-rounds.md", "")[0])
    for words in "round 1: differed", "the next round is short enough", "last round: ", "it is safe to start there", "out of use for":
        assert words in said, said
    same(machine, "/dev/vg0/web")
    nothing_is_left(machine)
    machine.guest.run("mount /dev/vg1/web /srv; ls /srv/stopped")
    machine.must_have_files("/dev/vg1/web")


class Points:
    """vg0/web-snap, a snapshot of vg0/web as it is now, for a thin volume vg1/web."""

    def __init__(self, machine):
        self.machine = machine
        machine.reach_new()
        machine.guest.run("""lvremove -qqfy vg1/web; lvcreate -qqy --type thin-pool -L 96M --poolmetadatasize 4M -Zn -n pool vg1
            lvcreate -qqy -Wn -V 64M -T vg1/pool -n web""")
        machine.make_files("/dev/vg0/web")
        self.next()

    def next(self):
        self.machine.write_more()
        self.machine.guest.run("! lvs vg0/web-snap || lvremove -qqfy vg0/web-snap; lvcreate -qqy -s -L 32M -n web-snap vg0/web; md5sum </dev/vg0/web-snap >/run/point")

    def there(self, path="/dev/vg1/web"):
        return self.machine.guest.run(f"blockdev --flushbufs {path}; md5sum <{path} | diff - /run/point", code=None).code == 0

    def blocks(self, heading):
        return self.machine.blocks("points-in-time.md", heading)

    def kill_while_applied(self, text):
        guest, sectors = self.machine.guest, f"awk '{{print $7}}' /sys/block/{self.machine.new.removeprefix('/dev/')}/stat"
        guest.slow_writes("recipe-128M", 200 << 10)
        before = int(guest.run(sectors).out)
        working = guest.start(text)
        # A pool may write its metadata without that.
        while working.is_running() and int(guest.run(sectors).out) <= before + 256:
            pass
        assert working.is_running(), working.out
        guest.run("pkill -KILL -x blkmove")
        working.wait(code=None)
        guest.slow_writes("recipe-128M", 0)


def test_points_in_time(machine):
    points = Points(machine)
    sync, = points.blocks("")
    machine.type(sync)
    assert points.there()
    # Killed on both machines.
    points.next()
    points.kill_while_applied(sync)
    said = machine.type(points.blocks("After a crash")[0])
    assert "COMMITTED AND NOT COMPLETED" in said and "it is the new point" in said, said
    assert points.there()
    # The last point, when the volume has become another one.
    keep, use = points.blocks("The last N points")
    points.next()
    point, = re.findall(r"web-point-\S+", machine.type(keep))
    assert points.there()
    machine.guest.run("dd if=/dev/urandom of=/dev/vg1/web bs=1M count=3 conv=fsync status=none")
    assert not points.there()
    written = re.search(r"web-point-\S+", use)[0]
    look, *back = use.replace(written, point).splitlines()
    machine.type(look)
    assert points.there(f"/dev/vg1/{point}")
    machine.type("\n".join(back))
    assert points.there()
    machine.guest.run("umount /srv")


def test_points_of_an_image_file(machine):
    disk = machine.guest.add_disk("320M", "images")
    machine.guest.run(f"modprobe xfs; mkfs.xfs -q {disk}; mkdir -p /images; mount {disk} /images")
    points = Points(machine)
    machine.type("blkmove copy -q /dev/vg0/web-snap /images/web.img")
    points.next()
    text, = points.blocks("An image file, strictly")
    machine.type(f"""cd /images; before=$(ls -i web.img); {text}
        [ "$(ls -i web.img)" != "$before" ]; [ ! -e web.img.new ]""")
    machine.guest.run("md5sum </images/web.img | diff - /run/point")
    machine.guest.run("umount /srv /images")
