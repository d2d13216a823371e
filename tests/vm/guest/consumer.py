#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs in a guest: who uses a volume while something is done to it, for tests/vm/bench_guest.py and bench_growth.py.

    consumer.py write FOLDER STATE SEED         small writes, one after the other, to a file in FOLDER until STATE/stop exists
    consumer.py change FILE SEED COUNT LENGTH   COUNT pieces of LENGTH bytes at random in a file or a device, all forced to the disk
    consumer.py expect FILE SEED COUNT LENGTH   reads them, and fails unless each is there; nothing of FILE may be in the page cache

While STATE/release exists the file is closed, so that FOLDER may be unmounted, and STATE/at-work does not exist. At the end it reads all back past the
page cache, and prints as JSON: writes, bytes, gap_ms (the longest time between the ends of two writes), usual_ms (the median).
"""
import json
import mmap
import os
import pathlib
import random
import statistics
import sys
import time

PIECE, PIECES = 4096, 512
PAUSE_S = 0.004


def open_direct(path):
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_DIRECT | os.O_DSYNC, 0o600)


class Writer:
    """Each piece of the file says which write it is of; what it must say is known here."""

    def __init__(self, folder, state, seed):
        self.path, self.state, self.rng = f"{folder}/written", pathlib.Path(state), random.Random(seed)
        self.held, self.ends = [0] * PIECES, []
        self.page = mmap.mmap(-1, PIECE)
        self.file = None

    def _take(self):
        self.file = open_direct(self.path)
        (self.state / "at-work").touch()

    def _let_go(self):
        os.close(self.file)
        (self.state / "at-work").unlink()

    def _piece(self, at, number):
        return (at.to_bytes(8, "little") + number.to_bytes(8, "little")) * (PIECE // 16)

    def _write(self, at, number):
        self.page[:] = self._piece(at, number)
        if os.pwrite(self.file, self.page, at * PIECE) != PIECE:
            raise OSError("a short write")
        self.held[at] = number

    def run(self):
        self._take()
        with mmap.mmap(-1, PIECE * PIECES) as whole:
            whole[:] = b"".join(self._piece(at, 0) for at in range(PIECES))
            os.pwrite(self.file, whole, 0)
        print("READY", flush=True)
        number = 0
        while not (self.state / "stop").exists():
            if (self.state / "release").exists():
                self._let_go()
                while (self.state / "release").exists():
                    time.sleep(0.005)
                self._take()
            number += 1
            self._write(self.rng.randrange(PIECES), number)
            self.ends.append(time.monotonic())
            time.sleep(PAUSE_S)
        self._let_go()

    def check(self):
        file = open_direct(self.path)
        for at, number in enumerate(self.held):
            os.preadv(file, [self.page], at * PIECE)
            if self.page[:] != self._piece(at, number):
                raise SystemExit(f"piece {at} does not hold write {number}")

    def report(self):
        gaps = [later - earlier for earlier, later in zip(self.ends, self.ends[1:])]
        print(json.dumps({"writes": len(self.ends), "bytes": len(self.ends) * PIECE, "gap_ms": 1000 * max(gaps),
                          "usual_ms": 1000 * statistics.median(gaps)}))


def pieces_of(file, seed, count, length):
    """The (offset, bytes) that a volume of this size gets by this seed."""
    rng = random.Random(int(seed))
    count, length = int(count), int(length)
    for at in rng.sample(range(file.seek(0, os.SEEK_END) // length), count):
        page = rng.randbytes(PIECE - 8)  # much of what is random takes an emulated processor long
        yield at * length, b"".join(page + number.to_bytes(8, "little") for number in range(length // PIECE))


def change(path, *which):
    with open(path, "r+b", buffering=0) as file:
        for at, data in pieces_of(file, *which):
            if os.pwrite(file.fileno(), data, at) != len(data):
                raise OSError("a short write")
        os.fsync(file.fileno())


def expect(path, *which):
    with open(path, "rb", buffering=0) as file:
        for at, data in pieces_of(file, *which):
            if os.pread(file.fileno(), len(data), at) != data:
                raise SystemExit(f"{path} does not hold what was written at {at}")


def main():
    if sys.argv[1] in ("change", "expect"):
        return {"change": change, "expect": expect}[sys.argv[1]](*sys.argv[2:])
    writer = Writer(*sys.argv[2:])
    writer.run()
    writer.check()
    return writer.report()


main()
