# SPDX-License-Identifier: GPL-2.0-or-later
"""What a guest is for: volumes of every kind with the program on them, power cuts, a second guest. Each also shows that the harness can do it."""
import hashlib

import pytest

import qemu
import vm

SIZE = (8 << 20) + 512 * 77
MAGIC_OF_LUKS = b"LUKS\xba\xbe"


class Image:
    """A disk of the guest and its content, which is ours to see: a file here. Begins as random bytes, with a hole's worth of zeros."""

    def __init__(self, guest, random, size=SIZE):
        self.path = guest.folder / f"image{random.randrange(1 << 32):08x}"
        self.path.write_bytes(random.randbytes(size // 2) + bytes(1 << 20) + random.randbytes(size - size // 2 - (1 << 20)))
        self.device = guest.add_disk(qemu.file_disk(self.path, self.path.name))

    @property
    def data(self):
        return self.path.read_bytes()


def copy(guest, source, target):
    """H05: the target holds other bytes."""
    guest.run(["blkmove", "copy", "--quiet", f"--overwrite={target}", source, target])


@pytest.mark.short
def test_h05_h12_copy_between_disks(guest, random):
    source, target = Image(guest, random), Image(guest, random)
    assert source.data != target.data
    copy(guest, source.device, target.device)
    assert source.data == target.data
    guest.run(f"dd if=/dev/urandom of={source.device} bs=512 count=1 seek=12003 conv=fsync,notrunc status=none")
    assert source.data != target.data
    guest.run(["blkmove", "verify", "--quiet", source.device, target.device], code=1)
    guest.run(["blkmove", "sync", "--quiet", source.device, target.device])
    assert source.data == target.data


@pytest.mark.short
def test_thin_volume(guest, random):
    """Most of which is not there; and what thin_delta knows of it."""
    size, at = 8 << 20, 1 << 20
    disk, source, target = guest.add_disk("64M"), Image(guest, random, 3 << 20), Image(guest, random, size)
    guest.run(f"""vgcreate -qq vg {disk}
        lvcreate -qq --type thin-pool -L 16M --poolmetadatasize 4M -c 64k -n pool vg
        lvcreate -qq -V {size}b -T vg/pool -n thin
        dd if={source.device} of=/dev/vg/thin bs=1M seek=1 conv=fsync status=none""")
    copy(guest, "/dev/vg/thin", target.device)
    assert target.data == bytes(at) + source.data + bytes(size - at - len(source.data))
    guest.run(f"lvcreate -qq -s vg/thin -n point; dd if={source.device} of=/dev/vg/thin bs=64k seek=100 count=2 conv=fsync status=none")
    delta = guest.run("""ids=$(lvs --noheadings -o thin_id vg/thin vg/point)
        dmsetup message vg-pool-tpool 0 reserve_metadata_snap
        set -- $ids
        thin_delta -m --snap1 $2 --snap2 $1 /dev/mapper/vg-pool_tmeta
        dmsetup message vg-pool-tpool 0 release_metadata_snap""").out
    assert 'begin="100" length="2"' in delta, delta
    guest.run("vgremove -qqf vg")


@pytest.mark.short
def test_snapshot(guest, random):
    """A copy of the old point, while the volume changes."""
    origin, store, target = Image(guest, random), Image(guest, random), Image(guest, random)
    before = origin.data
    guest.run(f"""modprobe dm_snapshot
        sectors=$(blockdev --getsz {origin.device})
        dd if=/dev/zero of={store.device} bs=4k count=1 conv=fsync status=none
        dmsetup create data --table "0 $sectors linear {origin.device} 0"
        dmsetup suspend data
        dmsetup create point --table "0 $sectors snapshot {origin.device} {store.device} P 8"
        dmsetup reload data --table "0 $sectors snapshot-origin {origin.device}"
        dmsetup resume data
        dd if=/dev/urandom of=/dev/mapper/data bs=4k count=50 seek=1000 oflag=direct status=none""")
    copy(guest, "/dev/mapper/point", target.device)
    assert target.data == before and origin.data != before and store.data[:4] == b"SnAp"
    guest.run("dmsetup remove point; dmsetup remove data")


@pytest.mark.short
def test_crypt(guest, random):
    """By a table as dm has it: no key derivation, which is slow here."""
    source, below, target = Image(guest, random), Image(guest, random), Image(guest, random)
    guest.run(f"""modprobe dm_crypt
        table="crypt aes-xts-plain64 {'5a' * 32}{'a5' * 32} 0 {below.device} 0"
        dmsetup create crypt --table "0 $(blockdev --getsz {below.device}) $table" """)
    copy(guest, source.device, "/dev/mapper/crypt")
    copy(guest, "/dev/mapper/crypt", target.device)
    assert target.data == source.data and below.data != source.data
    guest.run("dmsetup remove crypt")


def test_luks_md_and_dm_mirror(guest, random):
    """The tools that issue a volume its name, and the kernel's own mirrors beside ours."""
    size = 48 << 20
    first, second = Image(guest, random, size), Image(guest, random, size)
    guest.run(f"cryptsetup luksFormat -q --pbkdf pbkdf2 --pbkdf-force-iterations 1000 {first.device} -", data=b"secret")
    assert first.data[:6] == MAGIC_OF_LUKS
    guest.run(f"cryptsetup open --key-file - {first.device} secret", data=b"secret")
    guest.run("mkfs.ext4 -q /dev/mapper/secret; mkdir -p /m; mount /dev/mapper/secret /m; cp -r /usr/bin/b* /m; umount /m")
    guest.run("cryptsetup close secret")
    guest.run(f"""modprobe raid1
        mdadm -q --build /dev/md0 --level=1 --raid-devices=2 {first.device} missing
        mdadm -q /dev/md0 --add {second.device}
        for i in $(seq 600); do [ $(cat /sys/block/md0/md/degraded) = 0 ] && break; sleep 0.1; done
        mdadm -q --stop /dev/md0""")
    assert first.data == second.data
    guest.run(f"dd if=/dev/urandom of={second.device} bs=1M count=8 conv=fsync,notrunc status=none")
    guest.run(f"""modprobe dm_mirror
        sectors=$(blockdev --getsz {first.device})
        dmsetup create data --table "0 $sectors linear {first.device} 0"
        dmsetup suspend data
        dmsetup reload data --table "0 $sectors mirror core 2 1024 sync 2 {first.device} 0 {second.device} 0 1 handle_errors"
        dmsetup resume data
        n=$((sectors / 1024))
        for i in $(seq 600); do dmsetup status data | grep -q " $n/$n " && break; sleep 0.1; done
        dmsetup remove data""")
    assert first.data == second.data


@pytest.mark.short
def test_ublk_is_there(guest):
    """Debian's 6.12 has it, its 6.1 has not."""
    if guest.run("uname -r").out.startswith("6.1."):
        guest.run("modprobe -q ublk_drv", code=1)
    else:
        guest.run("modprobe ublk_drv; [ -c /dev/ublk-control ]; rmmod ublk_drv")


def test_a_reset_keeps_what_disks_were_given(guest):
    """And loses what was in memory, however often it was told to be there."""
    disk = guest.add_disk("32M", "kept")
    guest.run(f"""mkfs.ext4 -q {disk}; mkdir -p /m; mount {disk} /m
        echo told >/m/told; sync /m/told; echo untold >/m/untold; echo here >/tmp/here""")
    waiting = guest.start("sleep 1000")
    guest.reset()
    assert waiting.code is not None and len(set(guest.boots)) == len(guest.boots) >= 2
    disk = guest.path_of("kept")
    guest.run("[ ! -e /tmp/here ]")
    repaired = guest.run(["e2fsck", "-fp", disk], code=None)
    assert repaired.code in (0, 1), repaired.out
    guest.run(f"mkdir /m; mount {disk} /m; [ $(cat /m/told) = told ]; umount /m")


def test_a_power_cut_loses_what_was_not_flushed(guest):
    disk = guest.add_volatile_disk("8M", "volatile")
    guest.run(f"""echo flushed | dd of={disk} bs=512 conv=sync,fsync oflag=direct status=none
        echo lost | dd of={disk} bs=512 seek=1 conv=sync oflag=direct status=none
        dd if={disk} bs=512 skip=1 count=1 iflag=direct status=none | grep -q lost""")
    guest.power_cut()
    disk = guest.path_of("volatile")
    assert guest.run(f"dd if={disk} bs=512 count=1 iflag=direct status=none").out.startswith("flushed")
    assert guest.run(f"dd if={disk} bs=512 skip=1 count=1 iflag=direct status=none").output == bytes(512)


def test_a_panic_is_noticed(guest):
    with pytest.raises(vm.Gone, match="sysrq triggered crash"):
        guest.run("echo 1 >/proc/sys/kernel/sysrq; sync; echo c >/proc/sysrq-trigger; sleep 1000")
    # The next test gets another; so does this one's end.
    guest.end()
    guest.boot()


def test_a_command_that_takes_too_long(guest):
    with pytest.raises(AssertionError, match="waited 1 s in vain"):
        guest.run("echo begun; sleep 1000", timeout_s=1)
    with pytest.raises(AssertionError, match="ended with 3, not 0:\nwords"):
        guest.run("echo words >&2; exit 3")
    data = bytes(range(256)) * 4000
    guest.put(data, "/tmp/file with a name")
    assert guest.get("/tmp/file with a name") == data
    assert guest.run(["md5sum", "/tmp/file with a name"]).out.split()[0] == hashlib.md5(data).hexdigest()
    guest.run("rm /tmp/file*; ! pgrep -x sleep")


def test_copy_to_another_guest(pair, random):
    """Over ssh, by a copy of the program in each."""
    here, there = pair
    source, target = Image(here, random), Image(there, random)
    there.run("start-sshd")
    here.run("mkdir -p -m 700 /root/.ssh; ssh-keygen -q -t ed25519 -N '' -f /root/.ssh/id_ed25519")
    there.put(here.get("/root/.ssh/id_ed25519.pub"), "/root/.ssh/authorized_keys", "600")
    here.put("StrictHostKeyChecking accept-new\nLogLevel ERROR\n", "/root/.ssh/config", "600")
    copy(here, source.device, f"node2:{target.device}")
    assert target.data == source.data
