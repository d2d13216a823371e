#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs in a guest: workload.py DISK FOLDER SEED [no-trim]. Makes an ext4 on DISK, and writes and checks files until FOLDER/stop exists.

Says "tick N" now and then. Leaves in FOLDER: sums (of each file at the end, as md5sum does), fsck. Exits with 0 when every file
held at every moment what was written to it, and no call failed.
"""
import fcntl
import hashlib
import mmap
import os
import pathlib
import random
import subprocess
import sys
import time

DISK, FOLDER, SEED = os.path.realpath(sys.argv[1]), pathlib.Path(sys.argv[2]), int(sys.argv[3])
NO_TRIM = "no-trim" in sys.argv[4:]
MOUNT = pathlib.Path("/data")
FILES = 20
FILE_MAX = 640 << 10  # all of them fit on 16 MiB
PAGE = 4096
BLKSSZGET = 0x1268
TRIM = 4 << 20
SLOW_S = 1


def sector_size():
    with open(DISK, "rb", buffering=0) as disk:
        return int.from_bytes(fcntl.ioctl(disk, BLKSSZGET, bytes(4)), sys.byteorder)


SECTOR = sector_size()


class Wrong(Exception):
    """The disk does not hold what was written."""


def run(*words):
    subprocess.run(words, check=True)


class File:
    """A file and what it must hold."""

    def __init__(self, number, rng):
        self.path, self.rng, self.content = MOUNT / f"f{number}", rng, None

    def write_all(self):
        """Anew, through the page cache, then to the disk."""
        self.content = bytearray(self.rng.randbytes(self.rng.randrange(1, FILE_MAX)))
        with open(self.path, "wb") as file:
            file.write(self.content)
            file.flush()
            os.fsync(file.fileno())

    def write_direct(self):
        """Whole sectors past the page cache, at an offset that is no multiple of a page, where a sector is less."""
        sectors = len(self.content) // SECTOR
        if sectors == 0:
            return
        count = self.rng.randrange(1, min(sectors, 256) + 1)
        at = self.rng.randrange(sectors - count + 1) * SECTOR
        data = self.rng.randbytes(count * SECTOR)
        with mmap.mmap(-1, len(data)) as aligned, open(self.path, "r+b", buffering=0, opener=open_direct) as file:
            aligned.write(data)
            with memoryview(aligned) as view:
                if os.pwrite(file.fileno(), view, at) != len(data):
                    raise OSError(f"{self.path}: a short write")
            os.fdatasync(file.fileno())
        self.content[at:at + len(data)] = data

    def write_few_bytes(self):
        """Some small pieces anywhere, each forced to the disk: reads, changes and writes of single blocks."""
        with open(self.path, "r+b", buffering=0) as file:
            for _ in range(4):
                at = self.rng.randrange(len(self.content))
                data = self.rng.randbytes(self.rng.randrange(1, 700))[:len(self.content) - at]
                os.pwrite(file.fileno(), data, at)
                os.fsync(file.fileno())
                self.content[at:at + len(data)] = data

    def remove(self):
        self.path.unlink()
        self.write_all()

    def check(self):
        """Reads it past the page cache."""
        size = len(self.content)
        with mmap.mmap(-1, (size + PAGE - 1) // PAGE * PAGE) as aligned, open(self.path, "rb", buffering=0, opener=open_direct) as file:
            got = 0
            with memoryview(aligned) as view:
                while got < size:
                    part = os.preadv(file.fileno(), [view[got:]], got)
                    if part == 0:
                        break
                    got += part
            if hashlib.md5(aligned[:got]).digest() != hashlib.md5(self.content).digest():
                raise Wrong(f"{self.path}: {got} bytes read do not hold the {size} that were written")

    def sum(self):
        return f"{hashlib.md5(self.content).hexdigest()}  {self.path.name}\n"


def open_direct(path, flags):
    return os.open(path, flags | os.O_DIRECT)


def work(files, rng):
    """Until it is told to stop. Returns how often it wrote."""
    actions = [File.write_all, File.write_direct, File.write_direct, File.write_few_bytes, File.write_few_bytes, File.remove]
    rounds = 0
    while not (FOLDER / "stop").exists():
        rounds += 1
        file, action = rng.choice(files), rng.choice(actions)
        begin = time.monotonic()
        action(file)
        file.check()
        rng.choice(files).check()
        took = time.monotonic() - begin
        if took > SLOW_S:
            print(f"round {rounds}: {action.__name__} of {file.path.name} took {took:.1f} s", flush=True)
        if rounds % 50 == 0 and not NO_TRIM:
            # A piece of what is free. All of it would leave the copy nothing to do.
            size = os.statvfs(MOUNT).f_blocks * os.statvfs(MOUNT).f_frsize
            run("fstrim", "--offset", str(rng.randrange(max(size // TRIM, 1)) * TRIM), "--length", str(TRIM), str(MOUNT))
        if rounds % 5 == 0:
            print(f"tick {rounds}", flush=True)
    return rounds


def check_anew(files):
    """With nothing left of what the kernel remembers."""
    run("umount", str(MOUNT))
    with open(FOLDER / "fsck", "w", encoding="utf-8") as report:
        subprocess.run(["e2fsck", "-fn", DISK], stdout=report, stderr=report, check=True)
    run("mount", "-o", "ro", DISK, str(MOUNT))
    for file in files:
        file.check()
    run("umount", str(MOUNT))


def main():
    MOUNT.mkdir(exist_ok=True)
    FOLDER.mkdir()
    run("mkfs.ext4", "-q", "-E", "nodiscard", DISK)
    run("mount", DISK, str(MOUNT))
    rng = random.Random(SEED)
    files = [File(number, rng) for number in range(FILES)]
    try:
        for file in files:
            file.write_all()
        print("READY", flush=True)
        rounds = work(files, rng)
        check_anew(files)
        (FOLDER / "sums").write_text("".join(file.sum() for file in files))
        print(f"wrote {rounds} times, all is right", flush=True)
        return 0
    except (Wrong, OSError, subprocess.CalledProcessError) as error:
        print(f"WRONG: {error}", flush=True)
        return 1


sys.exit(main())
