#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs in a guest: snapshots.py SEED DISK DISK DISK TEST... Syncs by snapshots of volumes in use, and looks at what is copied, what is kept and what is left.

The disks: one for the group vg, one for the group away, one for the store of plain devices. `blkmove` is in the path. Exits with 0 when all was right.
"""
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import tracking
from tracking import FIRST, MIB, SECOND, blkmove, check, content, fill, moved, rng, run

MEGS = 16
STORE, TESTS = sys.argv[4], sys.argv[5:]
TARGET = "/dev/away/target"
STATE = pathlib.Path("/var/lib/blkmove")
MOUNT = pathlib.Path("/data")
FAILED, REFUSED, INTERRUPTED = 2, 3, 4
LVM_STORE = ["--snapshot-size=24M"]
PLAIN_STORE = [f"--snapshot-store={STORE}"]


class Writer:
    """Writes files on a mounted file system, with fsync, until it is stopped."""

    def __init__(self, device):
        run("mkfs.ext4", "-q", "-F", "-J", "size=4", device)
        MOUNT.mkdir(exist_ok=True)
        run("mount", device, MOUNT)
        self.stopping, self.error, self.wrote = threading.Event(), None, 0
        self.thread = threading.Thread(target=self._write)

    def __enter__(self):
        self.thread.start()
        return self

    def _write(self):
        try:
            while not self.stopping.is_set():
                put(f"f{rng.randrange(20)}", rng.randrange(1, 65536))
                self.wrote += 1
                time.sleep(0.05)
        except OSError as error:
            self.error = error

    def stop(self):
        self.stopping.set()
        self.thread.join()
        check(not self.error and self.wrote, "the writer: ", self.error, self.wrote)

    def __exit__(self, *_):
        if not self.stopping.is_set():
            self.stop()
        run("umount", MOUNT)


def put(name, length):
    with open(MOUNT / name, "wb") as file:
        file.write(rng.randbytes(length))
        file.flush()
        os.fsync(file.fileno())


def sync(source, *options, tracked=None, code=0, env=None):
    end, said = blkmove("sync", "--state-dir", STATE, *options, source, TARGET, code=code, env=env)
    if tracked is not None:
        check(("nothing else is read" in said) == tracked, f"tracked: {tracked}, and it said: {said}")
    return end, said


def start(source, *options, env=None):
    return subprocess.Popen(["blkmove", "sync", "--progress=none", *options, source, TARGET], stderr=subprocess.PIPE, text=True,
                            env={**os.environ, **(env or {})})


def kill(working, sleeping=False):
    """The program alone; a hook of it may sleep on, and hold its standard error open."""
    working.kill()
    working.wait()
    if sleeping:
        run("pkill", "-x", "sleep")
    end(working, -signal.SIGKILL)


def end(working, code, *words):
    said = working.communicate(timeout=300)[1]
    print(f"-> {working.returncode} {said}", flush=True)
    check(working.returncode == code, "it ended with", working.returncode)
    for word in words:
        check(word in said, f"it did not say '{word}'")
    return said


def wait_until(condition, what, timeout_s=120):
    deadline = time.monotonic() + timeout_s
    while not condition():
        check(time.monotonic() < deadline, "waited in vain until", what)
        time.sleep(0.05)


def is_ready(state="running"):
    """Whether a run is there that is in this state."""
    for socket in pathlib.Path("/run/blkmove").glob("*.sock"):
        done = subprocess.run(["blkmove", "status", "--json", socket.stem], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        if done.returncode == 0 and json.loads(done.stdout.splitlines()[0]).get("state") == state:
            return True
    return False


def lvm_snapshots():
    return run("lvs", "--noheadings", "-o", "lv_name", "-S", "lv_name=~^blkmove", "vg").split()


def plain_devices():
    return sorted(line.split()[0] for line in run("dmsetup", "ls").splitlines() if "blkmove" in line)


def plain_snapshots():
    return [name for name in plain_devices() if name[-2:] in ("-0", "-1")]


def records():
    return [json.loads(path.read_text()) for path in STATE.glob("snapshots/*/record.json")]


def check_target(snapshot):
    """It is what the snapshot is, byte by byte; and a file system whose log may be replayed."""
    check(content(TARGET) == content(snapshot), "the target is not what the snapshot is")
    copy = pathlib.Path("/tmp/copy")
    copy.write_bytes(content(TARGET))
    subprocess.run(["e2fsck", "-E", "journal_only", "-fy", copy], stdout=subprocess.DEVNULL, check=False)
    run("e2fsck", "-fn", copy)
    copy.unlink()


def make_groups():
    for disk, group in (FIRST, "vg"), (SECOND, "away"):
        run("pvcreate", "-q", disk)
        run("vgcreate", "-q", "-s", "1M", group, disk)
    run("lvcreate", "-qy", "-Wn", "-L", f"{MEGS}M", "-n", "target", "away")
    fill(TARGET)


def make_thick():
    run("lvcreate", "-qy", "-Wn", "-L", f"{MEGS}M", "-n", "data", "vg")
    return "/dev/vg/data"


def make_thin():
    run("lvcreate", "-qy", "--type", "thin-pool", "-L", "120M", "--poolmetadatasize", "4M", "-c", "64k", "-Zn", "-n", "pool", "vg")
    run("lvcreate", "-qy", "-Wn", "-V", f"{MEGS}M", "-T", "vg/pool", "-n", "data")
    return "/dev/vg/data"


def make_plain(crypt=False):
    """On a volume below, as is or encrypted."""
    run("lvcreate", "-qy", "-Wn", "-L", f"{MEGS}M", "-n", "below", "vg")
    table = f"0 {MEGS * 2048} " + (f"crypt aes-xts-plain64 {'5a' * 32}{'a5' * 32} 0 /dev/vg/below 0" if crypt else "linear /dev/vg/below 0")
    run("dmsetup", "create", "plain", "--table", table)
    run("wipefs", "-qa", STORE)
    return "/dev/mapper/plain"


def two_runs(source, options, snapshots, device_of, tracker):
    """Under a mounted file system that is written all the while."""
    with Writer(source) as writer:
        sync(source, "--snapshot=auto", *options)
        first = snapshots()
        check(len(first) == 1, "one snapshot should be left", first)
        check_target(device_of(first[0]))
        result, said = sync(source, "--snapshot=auto", *options, tracked=True)
        check(tracker in said, said)
        second = snapshots()
        check(len(second) == 1 and second != first, "another one should be left", first, second)
        check_target(device_of(second[0]))
        check(0 < moved(result) < MEGS * MIB // 2, "it moved", result)
        # At rest: what is written now, and little more.
        writer.stop()
        sync(source, "--snapshot=auto", *options, tracked=True)
        put("known", MIB)
        result, said = sync(source, "--snapshot=auto", *options, tracked=True)
        check(MIB <= moved(result) < 2 * MIB + MIB // 2, "1 MiB was written, and it moved", result)
        check_target(device_of(snapshots()[0]))
        # The last one: no base is left, and it has what was there.
        sync(source, "--snapshot=last", *options, tracked=True)
        check(not snapshots() and not records(), "something was left", snapshots(), records())
    return writer


def lvm_path(name):
    return f"/dev/vg/{name}"


def lvm_device(name):
    return f"vg-{name.replace('-', '--')}"


def plain_path(name):
    return f"/dev/mapper/{name}"


def test_lvm_thick():
    two_runs(make_thick(), LVM_STORE, lvm_snapshots, lvm_path, "dm-snapshot")


def test_lvm_thin():
    two_runs(make_thin(), [], lvm_snapshots, lvm_path, "dm-thin")


def test_plain():
    source = make_plain()
    table = run("dmsetup", "table", "plain")
    two_runs(source, PLAIN_STORE, plain_snapshots, plain_path, "dm-snapshot")
    check(run("dmsetup", "table", "plain") == table and not plain_devices(), "its table is another", plain_devices())
    # What is read-only stays so.
    run("dmsetup", "load", "-r", "plain", "--table", table.strip())
    run("dmsetup", "resume", "plain")
    for keep in "auto", "last":
        sync(source, f"--snapshot={keep}", *PLAIN_STORE)
        check(run("blockdev", "--getro", source).strip() == "1", "it may be written since")
    check(content(TARGET) == content(source) and not plain_devices(), "the target differs, or something was left", plain_devices())


def test_crypt():
    """What is secret does not lie open in the store."""
    source = make_plain(crypt=True)
    table = run("dmsetup", "table", "--showkeys", "plain")
    secret = rng.randbytes(4096)
    with open(source, "r+b", buffering=0) as disk:
        os.pwrite(disk.fileno(), secret * 16, 12 * MIB)
        os.fsync(disk.fileno())
    sync(source, "--snapshot=auto", *PLAIN_STORE)
    with open(source, "r+b", buffering=0) as disk:
        os.pwrite(disk.fileno(), rng.randbytes(65536), 12 * MIB)
        os.fsync(disk.fileno())
    base = plain_path(plain_snapshots()[0])
    check(content(base)[12 * MIB:][:65536] == secret * 16, "the snapshot has not what was there")
    check(secret not in content(STORE), "the store has a secret in the open")
    result, _ = sync(source, "--snapshot=last", *PLAIN_STORE, tracked=True)
    check(moved(result) == 65536, "64 KiB were written, and it moved", result)
    check(content(TARGET) == content(source), "the target differs")
    check(run("dmsetup", "table", "--showkeys", "plain") == table and not plain_devices(), "its table is another", plain_devices())


def test_hooks():
    """What they are told, and what becomes of a run whose hooks fail."""
    source = make_thick()
    told = pathlib.Path("/tmp/told")
    hooks = [f"--before-snapshot=env | grep ^BLKMOVE_ >{told}.before", f"--after-snapshot=env | grep ^BLKMOVE_ >{told}.after"]

    def read(when):
        path = pathlib.Path(f"{told}.{when}")
        text = dict(line.split("=", 1) for line in path.read_text().splitlines() if not line.startswith("BLKMOVE_RUN"))
        path.unlink()
        return text

    for base in "", None:
        base = lvm_snapshots()[0] if base is None else base
        sync(source, "--snapshot=auto", *LVM_STORE, *hooks)
        before, after = read("before"), read("after")
        now = lvm_snapshots()[0]
        expected = {"BLKMOVE_SOURCE": source, "BLKMOVE_TARGET": TARGET, "BLKMOVE_SNAPSHOT": f"/dev/vg/{now}", "BLKMOVE_BASE": base}
        check(before == {**expected, "BLKMOVE_HOOK": "before", "BLKMOVE_RESULT": ""}, before, expected)
        check(after == {**expected, "BLKMOVE_HOOK": "after", "BLKMOVE_RESULT": "taken"}, after, expected)
    # One that fails: nothing is done, and the base stays one.
    base = lvm_snapshots()
    _, said = sync(source, "--snapshot=auto", *LVM_STORE, "--before-snapshot=echo no >&2; exit 5", hooks[1], code=REFUSED)
    check("exit code 5" in said and read("after")["BLKMOVE_RESULT"] == "failed", said)
    _, said = sync(source, "--snapshot=auto", *LVM_STORE, hooks[0], "--after-snapshot=exit 6", code=FAILED)
    check("exit code 6" in said and read("before"), said)
    check(lvm_snapshots() == base, "snapshots are", lvm_snapshots())
    result, _ = sync(source, "--snapshot=auto", *LVM_STORE, tracked=True)
    check(moved(result) == 0, "nothing was written, and it moved", result)
    # Killed while the database holds still.
    working = start(source, "--snapshot=auto", *LVM_STORE, "--before-snapshot=touch /tmp/paused; sleep 1000", hooks[1])
    wait_until(lambda: os.path.exists("/tmp/paused"), "the hook ran")
    kill(working, sleeping=True)
    wait_until(lambda: os.path.exists(f"{told}.after"), "the hook after ran")
    wait_until(lambda: "BLKMOVE_RESULT" in pathlib.Path(f"{told}.after").read_text(), "it has written")
    check(read("after")["BLKMOVE_RESULT"] == "killed", "it was told another result")


def test_h27_refusals():
    """What cannot be is refused before anything is done."""
    def refused(*words, source="/dev/vg/data", options=()):
        text = sync(source, "--snapshot=auto", *options, code=REFUSED)[1]
        for word in words:
            check(word in text, text)
        check(not records() and not plain_devices(), "something was left", records(), plain_devices())

    source = make_thick()
    refused("vg has", "MiB free", "vgextend", options=["--snapshot-size=4G"])
    run("lvcreate", "-qy", "-Wn", "-l", "100%FREE", "-n", "filler", "vg")
    refused("vg has 0 MiB free")
    run("lvremove", "-qy", "vg/filler")
    # A volume that is gone leaves no record behind, and one that never was makes none.
    sync(source, "--snapshot=auto", *LVM_STORE)
    check(records(), "a base was kept without a record")
    run("lvremove", "-qy", "vg/data")
    blkmove("sync", "--state-dir", STATE, "--snapshot=drop", source, TARGET, events=False)
    check(not records() and not lvm_snapshots(), "left:", records(), lvm_snapshots())
    blkmove("sync", "--state-dir", STATE, "--snapshot=drop", source, TARGET, code=FAILED, events=False)
    blkmove("sync", "--state-dir", STATE, "--snapshot=drop", "/dev/mapper/none", TARGET, events=False)
    check(not records(), "left:", records())
    refused("no device of device-mapper's", source=STORE)
    source = make_plain()
    refused("--snapshot-store=", source=source)
    run("lvcreate", "-qy", "-Wn", "-L", "4M", "-n", "tiny", "away")
    refused("too small", source=source, options=["--snapshot-store=/dev/away/tiny"])
    # Its first bytes would be overwritten: the source, what lies on it or below it, the target.
    fill(source)
    run("dmsetup", "create", "upon", "--table", f"0 {MEGS * 1024} linear {source} 2048")
    held = content(source), content(TARGET)
    for store in source, "/dev/mapper/upon", "/dev/vg/below", TARGET:
        refused("bytes in common", source=source, options=[f"--snapshot-store={store}"])
    check((content(source), content(TARGET)) == held, "a refusal has written")
    run("dmsetup", "remove", "upon")
    run("mkfs.ext4", "-q", "-F", STORE)
    refused("carries ext4", "wipefs", source=source, options=PLAIN_STORE)
    MOUNT.mkdir(exist_ok=True)
    run("mount", STORE, MOUNT)
    refused("is mounted at /data", source=source, options=PLAIN_STORE)
    run("umount", MOUNT)
    run("wipefs", "-qa", STORE)


def test_lvm_ends():
    """Interrupted, without a target, killed: what stays is the base of the next run; and somebody else's snapshot, always."""
    source = make_thick()
    fill(source)
    run("lvcreate", "-qy", "-s", "-L", "24M", "-n", "blkmove-somebody", "vg/data")

    def ours():
        return [name for name in lvm_snapshots() if name != "blkmove-somebody"]

    def change():
        with open(source, "r+b", buffering=0) as disk:
            for at in range(0, MEGS * MIB, 2 * MIB):
                os.pwrite(disk.fileno(), rng.randbytes(MIB), at)
            os.fsync(disk.fileno())

    options = ["--snapshot=auto", *LVM_STORE]
    # The first run: nothing is held yet, nothing is kept.
    for number, code in (signal.SIGTERM, INTERRUPTED), (signal.SIGKILL, -signal.SIGKILL):
        working = start(source, *options, "--rate=1M")
        wait_until(is_ready, "it runs")
        check(len(ours()) == 1, "there should be a snapshot", ours())
        working.send_signal(number)
        end(working, code)
    check(len(ours()) == 1, "that of the killed run is left", ours())
    sync(source, *options, tracked=False)
    base = ours()
    check(len(base) == 1 and content(TARGET) == content(source), "the target differs", base)
    # No target: nothing was done.
    done = subprocess.run(["blkmove", "sync", *options, "--retries=0", source, "nbd+unix:///?socket=/tmp/nobody"], stderr=subprocess.PIPE, text=True)
    check(done.returncode not in (0, INTERRUPTED) and ours() == base, done, ours())
    with open(TARGET, "rb", opener=lambda path, flags: os.open(path, flags | os.O_EXCL)):
        sync(source, *options, code=REFUSED)
    check(ours() == base, "the base should be left alone", ours())
    # Halfway: the target is none of both, and the base still names all that may differ.
    change()
    working = start(source, *options, "--rate=1M")
    wait_until(is_ready, "it runs")
    time.sleep(2)
    working.terminate()
    end(working, INTERRUPTED)
    check(ours() == base, "the base should be left alone", ours())
    _, said = sync(source, *options, tracked=True)
    check(content(TARGET) == content(source), "the target differs")
    # At once, by two signals, while it reads the snapshot.
    change()
    working = start(source, *options, "--rate=1M")
    wait_until(is_ready, "it runs")
    working.terminate()
    time.sleep(0.3)
    working.terminate()
    working.wait()
    working.communicate()
    wait_until(lambda: len(ours()) <= 1, "the snapshot of the ended run is removed")
    # Killed: the next run removes what it left, and compares.
    working = start(source, *options, "--rate=1M")
    wait_until(is_ready, "it runs")
    kill(working)
    sync(source, *options)
    check(len(ours()) == 1 and content(TARGET) == content(source), "the target differs", ours())
    # Another one at the same time.
    change()
    working = start(source, *options, "--rate=4M")
    wait_until(is_ready, "it runs")
    check("another process works with snapshots" in sync(source, *options, code=7)[1], "it was not locked")
    end(working, 0)
    blkmove("sync", "--snapshot=drop", source, TARGET, events=False)
    check(lvm_snapshots() == ["blkmove-somebody"] and not records(), "left:", lvm_snapshots(), records())


def is_full(snapshot):
    """Enough for a run to end; or that has, and it is gone. One that is of no use any more fails the test."""
    status = subprocess.run(["dmsetup", "status", snapshot], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False).stdout
    used, of = map(int, status.split()[3].split("/")) if status else (1, 1)
    return used * 100 >= of * 90


def fill_store(path, snapshot):
    """Overwrites the volume until the store is full enough, and no more: whoever looks at it each second finds it before it overflows."""
    with open(path, "r+b", buffering=0) as disk:
        for at in range(0, MEGS * MIB, 65536):
            if is_full(snapshot):
                return
            os.pwrite(disk.fileno(), rng.randbytes(65536), at)
            os.fsync(disk.fileno())
    check(False, "all was overwritten, and the store is not full")


def invalidate(path, snapshot):
    with open(path, "r+b", buffering=0) as disk:
        while "Invalid" not in run("dmsetup", "status", snapshot):
            os.pwrite(disk.fileno(), rng.randbytes(MIB), rng.randrange(MEGS) * MIB)
            os.fsync(disk.fileno())


def test_h27_lvm_full_store():
    """The run ends before the snapshot overflows, says so, and removes it. A base that overflowed is none."""
    source = make_thick()
    fill(source)
    sync(source, "--snapshot=auto", "--snapshot-size=24M")
    base = lvm_snapshots()
    working = start(source, "--snapshot=auto", "--snapshot-size=8M", "--rate=100k", "--changes=hash", "--verify")
    wait_until(is_ready, "it runs")
    fill_store(source, lvm_device(next(name for name in lvm_snapshots() if name not in base)))
    said = end(working, FAILED, "% full", "--snapshot-size")
    check("before it overflows" in said, said)
    check(len(lvm_snapshots()) <= 1, "left:", lvm_snapshots(), base)
    sync(source, "--snapshot=auto", "--snapshot-size=8M")
    invalidate(source, lvm_device(lvm_snapshots()[0]))
    _, said = sync(source, "--snapshot=auto", "--snapshot-size=8M", tracked=False)
    check("of no use any more" in said, said)
    check(len(lvm_snapshots()) == 1 and content(TARGET) == content(lvm_path(lvm_snapshots()[0])), "the target differs")


def test_h27_lvm_full_pool():
    """In a pool that is as full as that, no snapshot is made; when it becomes so, nothing of ours stays in it."""
    source = make_thin()
    fill(source)
    sync(source, "--snapshot=auto")
    run("lvcreate", "-qy", "-Wn", "-V", "100M", "-T", "vg/pool", "-n", "other")
    working = start(source, "--snapshot=auto", "--rate=300k", "--changes=hash", "--verify")
    wait_until(is_ready, "it runs")
    with open("/dev/vg/other", "r+b", buffering=0) as disk:
        os.pwrite(disk.fileno(), rng.randbytes(96 * MIB), 0)
        os.fsync(disk.fileno())
    end(working, FAILED, "% full", "lvextend")
    check(not lvm_snapshots() and not records(), "left:", lvm_snapshots(), records())
    _, said = sync(source, "--snapshot=auto", code=REFUSED)
    check("no snapshot is made" in said, said)
    sync(source, "--snapshot=auto", "--snapshot-fill=99%")


def test_plain_ends():
    """Killed at its parts; another table since; the device is gone; a full store."""
    source = make_plain()
    fill(source)
    table = run("dmsetup", "table", "plain")
    options = ["--snapshot=auto", *PLAIN_STORE]
    # Before the moment, and while it reads.
    working = start(source, *options, "--before-snapshot=touch /tmp/before; sleep 1000")
    wait_until(lambda: os.path.exists("/tmp/before"), "the hook runs")
    check(plain_devices() and run("dmsetup", "table", "plain") == table, "the moment has passed", plain_devices())
    kill(working, sleeping=True)
    blkmove("sync", "--snapshot=drop", source, TARGET, events=False)
    check(not plain_devices() and run("dmsetup", "table", "plain") == table, "left:", plain_devices())
    working = start(source, *options, "--rate=1M")
    wait_until(is_ready, "it runs")
    check("snapshot-origin" in run("dmsetup", "table", "plain"), "no origin")
    kill(working)
    sync(source, *options, tracked=False)
    check(len(plain_snapshots()) == 1 and content(TARGET) == content(source), "left:", plain_devices())
    # A gap: what was written meanwhile is in no list.
    origin = run("dmsetup", "table", "plain")
    run("dmsetup", "reload", "plain", "--table", table)
    run("dmsetup", "resume", "plain")
    with open(source, "r+b", buffering=0) as disk:
        os.pwrite(disk.fileno(), rng.randbytes(65536), 3 * MIB)
        os.fsync(disk.fileno())
    check("snapshot-origin" in origin, origin)
    _, said = sync(source, *options, tracked=False)
    check("another table since" in said and content(TARGET) == content(source), said)
    # A full store: 16 MiB are overwritten, and a half has 14.
    base = plain_snapshots()
    working = start(source, *options, "--rate=100k", "--changes=hash", "--verify")
    wait_until(is_ready, "it runs")
    fill_store(source, next(name for name in plain_snapshots() if name not in base))
    end(working, FAILED, "% full", "--snapshot-store")
    blkmove("sync", "--snapshot=drop", source, TARGET, events=False)
    check(not plain_devices() and run("dmsetup", "table", "plain") == table, "left:", plain_devices())
    # Without its device.
    sync(source, *options)
    run("dmsetup", "remove", "plain")
    check(plain_devices(), "nothing is left to be removed")
    blkmove("sync", "--snapshot=drop", source, TARGET, events=False)
    check(not plain_devices(), "left:", plain_devices())
    run("dmsetup", "create", "plain", "--table", table)


def is_frozen():
    """Whether a write to the file system waits."""
    working = subprocess.Popen(["sh", "-c", f"echo x >{MOUNT}/probe"])
    try:
        working.wait(20)
        return False
    except subprocess.TimeoutExpired:
        working.kill()
        return True


def test_freeze():
    """A file system on a device above the source: frozen for the moment, and by no means for longer."""
    source = make_thick()
    run("dmsetup", "create", "above", "--table", f"0 {MEGS * 2048 - 2048} linear {source} 2048")
    tools = pathlib.Path("/tmp/tools")
    tools.mkdir(exist_ok=True)
    slow = tools / "lvcreate"
    env = {"PATH": f"{tools}:{os.environ['PATH']}"}
    with Writer("/dev/mapper/above") as writer:
        writer.stop()
        # Never synced by anybody else: only a freeze has it on the disk.
        text = rng.randbytes(100000)
        (MOUNT / "unsynced").write_bytes(text)
        slow.write_text("#!/bin/sh\nsleep 2\nPATH=${PATH#*:}\nexec lvcreate \"$@\"\n")
        slow.chmod(0o755)
        working = start(source, "--snapshot=auto", *LVM_STORE, "--freeze", "--after-snapshot=touch /tmp/after", env=env)
        end(working, 0)
        check(not is_frozen(), "it is frozen still")
        run("dmsetup", "create", "copy", "--table", f"0 {MEGS * 2048 - 2048} linear {TARGET} 2048")
        run("e2fsck", "-fn", "/dev/mapper/copy")
        said = subprocess.run(["debugfs", "-R", "cat /unsynced", "/dev/mapper/copy"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout
        check(said == text, "what was written before the moment is not there", len(said))
        run("dmsetup", "remove", "copy")
        # Killed in the moment.
        slow.write_text("#!/bin/sh\ntouch /tmp/frozen\nsleep 1000\n")
        working = start(source, "--snapshot=auto", *LVM_STORE, "--freeze", env=env)
        wait_until(lambda: os.path.exists("/tmp/frozen"), "the moment")
        check(is_frozen(), "nothing is frozen")
        working.kill()
        working.wait()
        wait_until(lambda: not is_frozen(), "it thaws")
        kill(working, sleeping=True)
        # Somebody else has frozen it: that is his.
        run("fsfreeze", "-f", MOUNT)
        working = start(source, "--snapshot=auto", *LVM_STORE, "--freeze")
        end(working, FAILED, "cannot freeze", "somebody else")
        check(is_frozen(), "it was thawed")
        run("fsfreeze", "-u", MOUNT)
        check(len(lvm_snapshots()) == 1, "left:", lvm_snapshots())
        slow.unlink()
        sync(source, "--snapshot=last", "--freeze", *LVM_STORE, tracked=True)
    run("dmsetup", "remove", "above")


def clear():
    for name in "above", "copy", "plain":
        subprocess.run(["dmsetup", "remove", name], stderr=subprocess.DEVNULL, check=False)
    for name in reversed(plain_devices()):
        subprocess.run(["dmsetup", "remove", "--force", name], stderr=subprocess.DEVNULL, check=False)
    tracking.clear()
    run("wipefs", "-qa", STORE)
    run("rm", "-rf", STATE)


def main():
    for module in "dm-snapshot", "dm-thin-pool", "dm-crypt":
        run("modprobe", module)
    for test in TESTS:
        print("===", test, flush=True)
        begun = time.monotonic()
        make_groups()
        globals()[f"test_{test}"]()
        clear()
        print(f"=== {test}: {time.monotonic() - begun:.0f} s", flush=True)
    print("PASSED", *TESTS)


main()
