#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs in a guest: acked.py FILE. Writes pieces of FILE, each forced to the disk before "acked N" is said, until it is killed, or the guest.

Write N is of piece N % PIECES, which says so: tests/vm/moved.py has what must be in the file (class Acked).
"""
import os
import sys
import time

PIECE, PIECES = 4096, 16
PAUSE_S = 0.4

file = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
number = 0
while True:
    if os.pwrite(file, number.to_bytes(8, "little") * (PIECE // 8), number % PIECES * PIECE) != PIECE:
        raise OSError("a short write")
    os.fsync(file)
    print(f"acked {number}", flush=True)
    number += 1
    time.sleep(PAUSE_S)
