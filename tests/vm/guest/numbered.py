#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs in a guest: numbered.py DISK. Writes numbered records to all of DISK, round and round, past the page cache, without a pause.

Ends with SIGTERM: all is flushed, "wrote N, slowest M ms" is said. Exits with 1 when a call failed or a record that it reads, an older one, is not
what it wrote there. tests/vm/migration.py has what must be on the disk (class Records).
"""
import mmap
import os
import random
import signal
import sys
import time
import zlib

RECORD = 4096
FLUSH_EVERY = 8

disk = os.open(sys.argv[1], os.O_RDWR | os.O_DIRECT)
slots = os.lseek(disk, 0, os.SEEK_END) // RECORD
page = mmap.mmap(-1, RECORD)
over = []
signal.signal(signal.SIGTERM, lambda *_: over.append(True))


def record(number, flushed):
    """number, how many were flushed before, a time, their CRC; then the number again and again."""
    head = b"".join(value.to_bytes(8, "little") for value in (number, flushed, time.time_ns()))
    return head + zlib.crc32(head).to_bytes(8, "little") + number.to_bytes(8, "little") * (RECORD // 8 - 4)


def write_all():
    number = flushed = slowest = 0
    while not over:
        begin = time.monotonic()
        page[:] = record(number, flushed)
        if os.pwrite(disk, page, number % slots * RECORD) != RECORD:
            raise OSError("a short write")
        number += 1
        if number % FLUSH_EVERY == 0:
            os.fsync(disk)
            flushed = number
        slowest = max(slowest, time.monotonic() - begin)
        # Often one of the last: those may be on the way to another machine.
        older = random.randrange(max(number - random.choice([4, slots]), 0), number)
        if os.preadv(disk, [page], older % slots * RECORD) != RECORD or int.from_bytes(page[:8], "little") != older:
            raise OSError(f"where {older} was written there is {int.from_bytes(page[:8], 'little')}")
    os.fsync(disk)
    return number, slowest


try:
    print("READY", flush=True)
    count, slowest_s = write_all()
    print(f"wrote {count}, slowest {slowest_s * 1000:.0f} ms", flush=True)
except OSError as error:
    print(f"WRONG: {error}", flush=True)
    sys.exit(1)
