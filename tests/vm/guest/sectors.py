#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs in a guest: sectors.py DEVICE FOLDER SEED. Writes single sectors past the page cache, and never flushes, until FOLDER/stop exists.

Several lie in one page, and each is written again and again. Says "tick" twice a second; exits with 0 when each held at every moment what was written to
it last.
"""
import mmap
import os
import pathlib
import random
import sys
import time

DEVICE, FOLDER, RNG = sys.argv[1], pathlib.Path(sys.argv[2]), random.Random(int(sys.argv[3]))
SECTOR, SECTORS = 512, 64
TICK_S = 0.5


def content(number):
    return number.to_bytes(8, "little") * (SECTOR // 8)


def main():
    fd = os.open(DEVICE, os.O_RDWR | os.O_DIRECT)
    numbers, written, ticked = [0] * SECTORS, 0, time.monotonic()
    with mmap.mmap(-1, SECTOR) as data, memoryview(data) as view:
        def write(sector):
            numbers[sector] = written
            view[:] = content(written)
            assert os.pwrite(fd, view, sector * SECTOR) == SECTOR

        def check(sector):
            assert os.preadv(fd, [view], sector * SECTOR) == SECTOR
            if bytes(view) != content(numbers[sector]):
                sys.exit(f"WRONG: sector {sector} has {int.from_bytes(view[:8], 'little')}, not {numbers[sector]}, of {written}")

        for sector in range(SECTORS):
            written += 1
            write(sector)
        print("READY", flush=True)
        while not (FOLDER / "stop").exists():
            written += 1
            write(RNG.randrange(SECTORS))
            check(RNG.randrange(SECTORS))
            if time.monotonic() > ticked + TICK_S:
                ticked = time.monotonic()
                print("tick", flush=True)
        for sector in range(SECTORS):
            check(sector)
    os.close(fd)


main()
