#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs in a guest: trackers.py SEED DISK DISK TEST. A test moves changes by a tracker and compares the target byte by byte with what it was to be.

The disks are its own, of 256 MiB. `blkmove` is in the path. Exits with 0 when all was right.
"""
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import threading
import time

from tracking import (FIRST, MIB, SECOND, SECTOR, SIZE, blkmove, check, chunks, clear, content, copy, fill, image, make_era, make_groups, make_pool, moved,
                      remove, rng, run, size_of, snapshot, sync, thin_snapshot, write_some)

TEST = sys.argv[4]


# LVM

def test_lvm_snapshots():
    """One round after the other, each from a new snapshot, the base removed after it; written to all the while."""
    source, target = "/dev/vg/data", "/dev/away/target"
    copy(snapshot("s0"), target)
    late = []
    for number, chunk in enumerate((4, 8, 64), 1):
        wrote = late + write_some(source)
        now = snapshot(f"s{number}", chunk=f"{chunk}k")
        # What comes later is in the base's list, too.
        late = write_some(source)
        wrote += late
        end, _ = sync(now, target, tracked=True)
        # The chunks of the base and, for what came later, those of the source.
        least, most = (sum(min(unit, SIZE - c * unit) for c in chunks(wrote, unit)) for unit in (4096, 65536))
        check(least <= moved(end) <= most, f"{least} to {most} bytes changed, and it moved", end)
        remove(f"s{number - 1}")


def test_h10_lvm_any_order():
    """From an older snapshot than the one that the target holds, from one that was written itself, from the volume itself."""
    source, target = "/dev/vg/data", "/dev/away/target"
    old = snapshot("s0")
    write_some(source)
    new = snapshot("s1")
    write_some(source)
    copy(new, target)
    sync(old, target, tracked=True)
    sync(new, target, tracked=True)
    write_some(new)
    write_some(old)
    sync(new, target, tracked=True)
    sync(old, target, tracked=True)
    write_some(source)
    sync(source, target, tracked=True)
    write_some(source)
    # What was copied from the volume itself is no snapshot's, but the base that served is still one.
    sync(source, target, tracked=True)
    sync(new, target, tracked=True)
    # An older one is all that the target holds then: the base that served for it is none any more.
    sync(old, target, tracked=True)
    remove("s0")
    sync(new, target, tracked=False)


def test_h14_lvm_doubts():
    """Whatever is not certain: both are compared, and the target is right all the same."""
    source, target = "/dev/vg/data", "/dev/away/target"
    base = snapshot("s0")
    copy(base, target)
    write_some(source)
    write_some(target, count=3)
    _, said = sync(source, target, tracked=False)
    check("the target was written" in said, said)
    # Another volume's snapshot, by the user's word.
    run("lvcreate", "-qy", "-Wn", "-L", f"{SIZE}b", "-n", "other", "vg")
    snapshot("wrong", of="other", size="4M")
    _, said = sync(source, target, "--base=vg-wrong", tracked=False)
    check("is no snapshot of what" in said, said)
    # Gone, and another one under its name.
    copy(base, target)
    remove("s0")
    _, said = sync(source, target, tracked=False)
    check("that snapshot is gone" in said, said)
    copy(snapshot("s0"), target)
    remove("s0")
    snapshot("s0")
    write_some(source)
    _, said = sync(source, target, tracked=False)
    check("is another snapshot now" in said, said)
    _, said = sync(source, target, "--base=vg-data", tracked=False)
    check("is no snapshot" in said, said)


def test_h09_lvm_resized():
    """Grown while it was inactive, as LVM wants it for a volume with snapshots."""
    source, target = "/dev/vg/data", image("target", SIZE)
    copy(snapshot("s0"), target)
    write_some(source)
    run("lvchange", "-qan", "vg/data")
    run("lvextend", "-qy", "-L", "+2M", "vg/data")
    run("lvchange", "-qay", "vg/data")
    write_some(source)
    _, said = sync(source, target, "--size-mismatch=truncate", tracked=False)
    check("size" in said or "resized" in said, said)
    # A copy by something else: it cannot be seen what was in the part that the volume has more.
    target.unlink()
    target.write_bytes(content("/dev/vg/s0")[:SIZE])
    write_some(source)
    _, said = sync(source, target, "--size-mismatch=truncate", "--base=vg-s0", tracked=False)
    check("another size" in said, said)
    target.unlink()


def test_h09_lvm_merged():
    """The snapshot was merged into its volume: what its list had has changed once more."""
    source, target = "/dev/vg/data", "/dev/away/target"
    copy(snapshot("s0"), target)
    write_some(source)
    run("lvconvert", "-qy", "-i", "1", "--merge", "vg/s0")
    check("s0" not in run("lvs", "--noheadings", "-o", "name", "vg"), "it is not merged")
    write_some(source)
    _, said = sync(source, target, tracked=False)
    check("that snapshot is gone" in said, said)


def test_lvm_larger_store():
    """A store that was nearly full and was given more room lost nothing."""
    source, target = "/dev/vg/data", "/dev/away/target"
    copy(snapshot("s0", size="4M"), target)
    write_some(source, count=30)
    run("lvextend", "-qy", "-L", "+20M", "vg/s0")
    write_some(source, count=100, longest=150)
    sync(source, target, tracked=True)


class SmallWrites:
    """Single sectors, anywhere, one after the other until the end of the block."""

    def __init__(self, path):
        self.path, self.over, self.count = path, threading.Event(), 0
        self.thread = threading.Thread(target=self._write)

    def _write(self):
        sectors, own = size_of(self.path) // SECTOR, random.Random(rng.randrange(1 << 32))
        with open(self.path, "r+b", buffering=0) as file:
            while not self.over.is_set():
                os.pwrite(file.fileno(), own.randbytes(SECTOR), own.randrange(sectors) * SECTOR)
                os.fsync(file.fileno())
                self.count += 1
                self.over.wait(0.01)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *why):
        self.over.set()
        self.thread.join()


def while_written(source, target, take):
    """take(NAME) makes a snapshot. What is written during a copy or a sync is in the next one, and in none before."""
    now = take("s0")
    with SmallWrites(source) as first:
        copy(now, target)
    with SmallWrites(source) as second:
        for number in range(1, 4):
            write_some(source, count=60)
            sync(take(f"s{number}"), target, "--rate=3M", tracked=True)
    check(first.count > 5 and second.count > 20, f"only {first.count} and {second.count} writes")
    sync(source if "thin" not in source else take("last"), target, tracked=True)


def test_h13_lvm_small_writes():
    while_written("/dev/vg/data", "/dev/away/target", snapshot)


def test_h27_lvm_full_snapshot():
    """A snapshot that overflowed lost what came after: it is not used."""
    source, target = "/dev/vg/data", "/dev/away/target"
    copy(snapshot("s0", size="2M"), target)
    write_some(source, count=100, longest=200)
    check("Invalid" in run("dmsetup", "status", "vg-s0"), "it is not full")
    for options in [], ["--base=/dev/vg/s0"], ["--changes=dm-snapshot", "--base=vg-s0"]:
        write_some(source, count=3)
        _, said = sync(source, target, *options, tracked=False)
        check("the kernel calls it 'Invalid'" in said or not options, said)


def test_h27_lvm_snapshot_fills_up_meanwhile():
    """The snapshot that is being copied is given up by the kernel: the run fails, and what it may have written is sent again, besides what changed."""
    source, target = "/dev/vg/data", "/dev/away/target"
    copy(snapshot("s0"), target)
    write_some(source, count=60)
    now = snapshot("s1", size="2M")
    working = subprocess.Popen(["blkmove", "sync", "--json", "--rate=100k", now, target], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while (line := working.stdout.readline()) and not json.loads(line).get("sent"):
        pass
    for _ in range(3):
        write_some(source, count=60, longest=150)
    check("Invalid" in run("dmsetup", "status", "vg-s1"), "it is not full")
    _, said = working.communicate()
    check(working.returncode not in (0, None), said)
    remove("s1")
    _, said = sync(source, target, "--changes=dm-snapshot", tracked=True)
    check("was ended halfway" in said, said)


# Without LVM

def sectors_of(path):
    return size_of(path) // SECTOR


class Raw:
    """An origin of a size that is no multiple of anything, with snapshots; dm-linear below, as for a volume that is in use."""

    def __init__(self, sectors):
        self.sectors, self.names = sectors, []
        self.make("base", f"0 {sectors} linear {FIRST} 2048")
        self.make("data", f"0 {sectors} snapshot-origin /dev/mapper/base")
        fill("/dev/mapper/data")
        self.place = 2048

    def make(self, name, table):
        run("dmsetup", "create", name, "--table", table)
        self.names.append(name)
        return f"/dev/mapper/{name}"

    def remove(self, name):
        run("dmsetup", "remove", name)
        self.names.remove(name)

    def snapshot(self, name, chunk, store=24 * MIB // SECTOR, kind="P"):
        """`chunk` in sectors. Its store is cleared first, as the kernel wants it."""
        cow = self.make(f"{name}.cow", f"0 {store} linear {SECOND} {self.place}")
        self.place += store
        run("dd", "if=/dev/zero", f"of={cow}", "bs=4k", "count=1", "oflag=direct", "status=none")
        run("dmsetup", "suspend", "data")
        made = self.make(name, f"0 {self.sectors} snapshot /dev/mapper/base {cow} {kind} {chunk}")
        run("dmsetup", "resume", "data")
        return made

    def reload(self, name, table):
        run("dmsetup", "suspend", name)
        run("dmsetup", "reload", name, "--table", table)
        run("dmsetup", "resume", name)

    def close(self):
        while self.names:
            self.remove(self.names[-1])


def test_h12_raw_odd_sizes():
    for sectors, chunk, kind in (30001, 8, "P"), (20001, 1024, "PO"), (40007, 64, "P"):
        raw = Raw(sectors)
        target = image("target", sectors * SECTOR)
        copy(raw.snapshot("one", chunk, kind=kind), target)
        wrote = write_some("/dev/mapper/data")
        two = raw.snapshot("two", 8)
        wrote += write_some("/dev/mapper/data")
        end, _ = sync(two, target, tracked=True)
        unit = chunk * SECTOR
        expected = sum(min(unit, sectors * SECTOR - c * unit) for c in chunks(wrote, unit))
        check(moved(end) == expected, f"{expected} bytes changed, and it moved", end)
        sync("/dev/mapper/data", target, tracked=True)
        # A copy by something else: the user's word is all there is.
        target.write_bytes(content("/dev/mapper/one"))
        end, said = sync("/dev/mapper/data", target, "--base=one", tracked=False)
        check("the target was written" in said, said)
        target.unlink()
        target.write_bytes(content("/dev/mapper/one"))
        sync("/dev/mapper/data", target, "--base=one", tracked=True)
        target.unlink()
        raw.close()


def test_h09_raw_resized():
    raw = Raw(20001)
    target = image("target", 20001 * SECTOR)
    copy(raw.snapshot("one", 8), target)
    write_some("/dev/mapper/data")
    raw.reload("base", f"0 20961 linear {FIRST} 2048")
    raw.reload("data", "0 20961 snapshot-origin /dev/mapper/base")
    _, said = sync("/dev/mapper/data", target, "--size-mismatch=truncate", tracked=False)
    check("was resized" in said, said)
    write_some("/dev/mapper/data")
    _, said = sync("/dev/mapper/data", target, "--base=one", tracked=False)
    check("it was resized since" in said, said)
    target.unlink()
    raw.close()


def test_h11_raw_gap():
    """Taken away and made again, with writes between: the store is the same, and lacks them."""
    raw = Raw(20001)
    target = image("target", 20001 * SECTOR)
    copy(raw.snapshot("one", 8), target)
    table = run("dmsetup", "table", "one")
    write_some("/dev/mapper/data")
    raw.remove("one")
    write_some("/dev/mapper/data")
    raw.make("one", table)
    _, said = sync("/dev/mapper/data", target, tracked=False)
    check("is another snapshot now" in said, said)
    target.unlink()
    raw.close()


def test_raw_kinds_that_do_not_serve():
    raw = Raw(20001)
    target = image("target", 20001 * SECTOR)
    for table, reason in (("snapshot /dev/mapper/base {} N 8", "is not persistent"), ("snapshot-merge /dev/mapper/base {} P 8", "is being merged"),
                          ("linear {} 0", "is no snapshot")):
        raw.make("x.cow", f"0 40960 linear {SECOND} 0")
        run("dd", "if=/dev/zero", "of=/dev/mapper/x.cow", "bs=4k", "count=1", "oflag=direct", "status=none")
        raw.make("x", f"0 {20480 if 'linear' in table else 20001} {table.format('/dev/mapper/x.cow')}")
        write_some("/dev/mapper/data", count=3)
        target.unlink()
        target.write_bytes(rng.randbytes(20001 * SECTOR))
        _, said = sync("/dev/mapper/data", target, "--base=x", tracked=False)
        check(reason in said, said)
        raw.remove("x")
        raw.remove("x.cow")
    raw.close()


# Thin volumes

def check_nothing_is_held():
    status = run("dmsetup", "status", "vg-pool-tpool").split()
    check(status[6] == "-", "a metadata snapshot was left", status)


def discard(path, count=6):
    for _ in range(count):
        run("blkdiscard", "-o", rng.randrange(SIZE // MIB) * MIB, "-l", MIB, path)


def test_h12_lvm_thin():
    """Written and discarded between snapshots; the base need not be active."""
    source, target = "/dev/vg/thin", "/dev/away/target"
    make_pool()
    copy(thin_snapshot("s0"), target)
    check_nothing_is_held()
    late = []
    for number in range(1, 4):
        wrote = late + write_some(source)
        discard(source, 2)
        now = thin_snapshot(f"s{number}")
        late = write_some(source)
        run("lvchange", "-an", f"vg/s{number - 1}")
        end, said = sync(now, target, tracked=True)
        check("dm-thin" in said, said)
        most = 65536 * len(chunks(wrote, 65536)) + 2 * MIB + 65536 * 2
        check(moved(end) <= most, f"at most {most} bytes changed, and it moved", end)
        check_nothing_is_held()
        remove(f"s{number - 1}")
    # By the user's word, to another target, which is of the base.
    base, other = thin_snapshot("t0"), image("other", SIZE)
    other.write_bytes(content(base))
    write_some(source)
    sync(thin_snapshot("t1"), other, "--base=vg-t0", "--changes=dm-thin", tracked=True)
    other.unlink()


def test_h14_lvm_thin_doubts():
    source, target = "/dev/vg/thin", "/dev/away/target"
    make_pool()
    base = thin_snapshot("s0")
    copy(base, target)
    write_some(source)
    write_some(target, count=2)
    _, said = sync(source, target, tracked=False)
    check("the target was written" in said, said)
    # The base itself, and one of which a snapshot was taken and which was written since.
    copy(base, target)
    write_some(base)
    _, said = sync(base, target, tracked=False)
    check("is the base itself" in said, said)
    copy(base, target)
    write_some(base)
    _, said = sync(thin_snapshot("child", of="s0"), target, tracked=False)
    check("a snapshot was taken of" in said, said)
    # Gone, made anew, of another pool's, and no thin volume at all.
    copy(base, target)
    remove("child")
    remove("s0")
    write_some(source)
    _, said = sync(source, target, tracked=False)
    check("is gone" in said, said)
    _, said = sync(source, target, "--base=away-target", "--changes=dm-thin", tracked=False)
    check("is no thin volume" in said, said)
    # Somebody else has the metadata snapshot: it is left to him.
    copy(thin_snapshot("s2"), target)
    write_some(source)
    run("dmsetup", "message", "vg-pool-tpool", "0", "reserve_metadata_snap")
    _, said = sync(thin_snapshot("s3"), target, tracked=False)
    check("gives no metadata snapshot" in said, said)
    run("dmsetup", "message", "vg-pool-tpool", "0", "release_metadata_snap")


def test_lvm_thin_release():
    """Interrupted, or without its tool: the metadata snapshot is given back."""
    source, target = "/dev/vg/thin", "/dev/away/target"
    make_pool()
    copy(thin_snapshot("s0"), target)
    write_some(source)
    tools = pathlib.Path("/tmp/tools")
    tools.mkdir()
    for number, (name, text) in enumerate((("thin_delta", "exit 1"), ("thin_delta", "echo '<superblock'"), ("thin_ls", "kill -9 $$"))):
        now = thin_snapshot(f"now{number}")
        (tools / name).write_text(f"#!/bin/sh\n{text}\n")
        (tools / name).chmod(0o755)
        _, said = sync(now, target, tracked=False, env={"PATH": f"/tmp/tools:{os.environ['PATH']}"})
        check(name in said or "no earlier run" in said, said)
        check_nothing_is_held()
    for name in "thin_delta", "thin_ls":
        (tools / name).unlink(missing_ok=True)
    # Signals while the tool works.
    copy(thin_snapshot("s1"), target)
    write_some(source)
    later = thin_snapshot("s2")
    (tools / "thin_delta").write_text("#!/bin/sh\ntouch /tmp/at-work\nsleep 8\nexit 1\n")
    (tools / "thin_delta").chmod(0o755)
    working = subprocess.Popen(["blkmove", "sync", later, target], env=dict(os.environ, PATH=f"/tmp/tools:{os.environ['PATH']}"))
    while not os.path.exists("/tmp/at-work"):
        time.sleep(0.1)
    for _ in range(3):
        working.send_signal(signal.SIGINT)
        working.send_signal(signal.SIGTERM)
        time.sleep(0.3)
    check(working.wait() == 4, "it was not interrupted", working.returncode)
    check_nothing_is_held()
    (tools / "thin_delta").unlink()


def test_h13_lvm_thin_small_writes():
    make_pool()
    while_written("/dev/vg/thin", "/dev/away/target", thin_snapshot)


def test_h09_lvm_thin_resized_and_merged():
    source, target = "/dev/vg/thin", image("target", SIZE)
    make_pool()
    copy(thin_snapshot("s0"), target)
    run("lvextend", "-qy", "-L", "+3M", "vg/thin")
    write_some(source)
    _, said = sync(source, target, "--size-mismatch=truncate", tracked=False)
    check("size" in said, said)
    # The volume takes the place of its snapshot, by that one's number in the pool, and is written to.
    copy(thin_snapshot("s1"), target)
    write_some(source)
    run("lvconvert", "-qy", "--merge", "vg/s1")
    write_some(source)
    _, said = sync(source, target, tracked=False)
    check("is the base itself" in said, said)
    copy(source, target)
    write_some(source)
    _, said = sync(thin_snapshot("s2"), target, tracked=False)
    check("a snapshot was taken of" in said, said)
    target.unlink()


def test_h27_lvm_thin_full_pool():
    """Writes fail, some of them after a part: what got through is known all the same."""
    source, target = "/dev/vg/thin", "/dev/away/target"
    make_pool()
    run("lvchange", "-qy", "--errorwhenfull", "y", "vg/pool")
    copy(thin_snapshot("s0"), target)
    failed = 0
    for number in range(12):
        thin_snapshot(f"more{number}")
        try:
            write_some(source, count=25, longest=3000)
        except OSError:
            failed += 1
            break
    check(failed and "out_of_data_space" in run("dmsetup", "status", "vg-pool-tpool"), "the pool is not full")
    # Pages whose writing failed are not what the volume holds.
    pathlib.Path("/proc/sys/vm/drop_caches").write_text("3")
    sync(source, target, tracked=True)
    check_nothing_is_held()


# dm-era

def check_era_is_free():
    check(run("dmsetup", "status", "era").split()[-1] == "-", "a metadata snapshot was left")


def test_h12_era():
    for sectors, block in (30001, 8), (20011, 128), (40001, 1024):
        source = make_era(sectors, block)
        target = image("target", sectors * SECTOR)
        copy(source, target)
        for _ in range(3):
            wrote = write_some(source)
            end, said = sync(source, target, tracked=True)
            unit = block * SECTOR
            expected = sum(min(unit, sectors * SECTOR - c * unit) for c in chunks(wrote, unit))
            check("dm-era" in said and moved(end) == expected, f"{expected} bytes changed, and it moved", end)
            check_era_is_free()
        end, _ = sync(source, target, tracked=True)
        check(moved(end) == 0, "nothing changed, and it moved", end)
        target.unlink()
        run("dmsetup", "remove", "era")


def test_h12_era_writes_under_way():
    """A write that came before a round and lands when the round has read: the next one sends it."""
    run("modprobe", "dm-delay")
    run("dmsetup", "create", "slow", "--table", f"0 4000 delay {FIRST} 0 0 {FIRST} 0 8000 {FIRST} 0 0")
    source = make_era(4000, 8, data="/dev/mapper/slow")
    target = image("target", 4000 * SECTOR)
    copy(source, target)
    write = ["dd", "if=/dev/urandom", f"of={source}", "bs=4k", "count=1", "oflag=direct", "conv=notrunc", "status=none"]
    # Once its block is of this era the kernel lets it pass.
    run(*write)
    late = subprocess.Popen(write)
    time.sleep(0.3)
    blkmove("sync", "--allow=live-source", source, target)
    check(late.poll() is None, "the write was over before the round was")
    check(late.wait() == 0, "the write failed")
    sync(source, target, tracked=True)
    target.unlink()
    run("dmsetup", "remove", "era")
    run("dmsetup", "remove", "slow")


def test_h14_era_doubts():
    source = make_era(20001, 64)
    target = image("target", 20001 * SECTOR)
    copy(source, target)
    write_some(source)
    with open(target, "r+b") as file:
        file.write(b"somebody else")
    _, said = sync(source, target, tracked=False)
    check("the target was written" in said, said)
    for base, reason in ("999", "is none of"), ("0", "is none of"), ("x", "is no era"), ("-1", "is no era"):
        write_some(source)
        _, said = sync(source, target, f"--base={base}", "--changes=dm-era", tracked=False)
        check(reason in said, said)
    # Made anew: nobody tracked between.
    table = run("dmsetup", "table", "era")
    run("dmsetup", "remove", "era")
    write_some(FIRST, count=5)
    run("dmsetup", "create", "era", "--table", table)
    _, said = sync(source, target, tracked=False)
    check("is another device now" in said, said)
    run("dmsetup", "message", "era", "0", "take_metadata_snap")
    write_some(source)
    _, said = sync(source, target, tracked=False)
    check("has a metadata snapshot already" in said, said)
    run("dmsetup", "message", "era", "0", "drop_metadata_snap")
    write_some(source)
    sync(source, target, "--base=1", tracked=True)
    target.unlink()
    run("dmsetup", "remove", "era")


# The starting map of a mirror

def bytes_read(device):
    number = os.stat(device).st_rdev
    return int(pathlib.Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}/stat").read_text().split()[2]) * SECTOR


def status():
    return json.loads(run("blkmove", "status", "m", "--json"))


def mirror(source, target, wrote, *options, tracked=True):
    """From a base to both legs alike, with clients about; reads of the target what changed, and no more."""
    region, before = 64 << 10, bytes_read(target)
    run("sh", "-c", "modprobe -q ublk_drv || modprobe nbd")
    done = subprocess.run(["blkmove", "mirror", "--name=m", "--device=m", *options, source, target], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True)
    check(done.returncode == 0 and ("nothing else is read" in done.stderr) == tracked, done.stdout, done.stderr)
    wrote = wrote + write_some("/dev/blkmove/m")
    while (now := status())["state"] != "ready":
        check(now["state"] == "syncing", now)
        time.sleep(0.2)
    # Each end of a range in a region of its own; and what looks for signatures reads a little.
    most = (len(chunks(wrote, region)) + 16) * region
    read = bytes_read(target) - before
    check(not tracked or most < SIZE * 3 // 4, f"too much was written for this test: {most}")
    check((read <= most) == tracked, f"{most} bytes may differ, and it read", read)
    write_some("/dev/blkmove/m")
    run("blkmove", "abort", "m")
    while os.path.exists(f"/proc/{now['pid']}"):
        time.sleep(0.2)
    check(content(source) == content(target), "the legs differ")


def test_mirror_lvm():
    source, target = "/dev/vg/data", "/dev/away/target"
    copy(snapshot("s0"), target)
    mirror(source, target, write_some(source))
    # By the user's word; and what a mirror wrote is no base.
    wrote = write_some(source)
    mirror(source, target, wrote, tracked=False)
    copy(snapshot("s1"), target)
    wrote = write_some(source)
    mirror(source, target, wrote, "--changes=dm-snapshot", "--base=vg-s1")


def test_mirror_lvm_thin():
    source, target = "/dev/vg/thin", "/dev/away/target"
    # What a pool without zeroing shows beside what was written, nobody wrote: it is in one leg alone.
    make_pool(zeroing="y")
    copy(thin_snapshot("s0"), target)
    mirror(source, target, write_some(source), "--changes=dm-thin")


def test_mirror_era():
    source = make_era(30001, 64)
    run("dmsetup", "create", "target", "--table", f"0 30001 linear {SECOND} 65536")
    copy(source, "/dev/mapper/target")
    mirror(source, "/dev/mapper/target", write_some(source))
    for name in "era", "target":
        run("dmsetup", "remove", name)


def main():
    shutil.rmtree("/var/lib/blkmove", ignore_errors=True)
    for module in "dm-snapshot", "dm-thin-pool":
        run("modprobe", module)
    if "lvm" in TEST:
        make_groups()
    globals()[f"test_{TEST}"]()
    if "lvm" in TEST:
        clear()
    print("PASSED", TEST)


main()
