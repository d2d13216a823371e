# SPDX-License-Identifier: GPL-2.0-or-later
"""Live mirrors of volumes that are nearly empty: they cost what their data cost, however large they are, and holes are believed only
where nobody writes."""
import errno
import os
import time

import nbd
import pytest

from live_mirror import Mirror
from nbd_client import SECTOR, Client
from program import wait_until

GIB, TIB = 1 << 30, 1 << 40
SECONDS = 60  # for what would take hours; a machine may be busy
PIECE = 1 << 20


def make_sparse(path, random, pieces, size=15 * TIB):
    """As large as the file system takes, with pieces of data here and there."""
    with open(path, "wb") as file:
        while True:
            try:
                file.truncate(size)
                break
            except OSError as error:
                if error.errno != errno.EFBIG:
                    raise
                size //= 2
        for _ in range(pieces):
            at = random.randrange(size - PIECE)
            os.pwrite(file.fileno(), random.randbytes(random.randrange(1, 200_000)), random.choice((at, at - at % 4096)))
    return size


def extents(path):
    """What has been allocated, as (offset, end)."""
    with open(path, "rb") as file:
        end, size = 0, os.fstat(file.fileno()).st_size
        while end < size:
            try:
                begin = os.lseek(file.fileno(), end, os.SEEK_DATA)
            except OSError as error:
                assert error.errno == errno.ENXIO
                return
            end = os.lseek(file.fileno(), begin, os.SEEK_HOLE)
            yield begin, end


def first_difference(one, other):
    """Wherever either has something; what neither has reads as zero on both."""
    with open(one, "rb") as a, open(other, "rb") as b:
        for begin, end in [*extents(one), *extents(other)]:
            for at in range(begin, end, PIECE):
                length = min(PIECE, end - at)
                if os.pread(a.fileno(), length, at) != os.pread(b.fileno(), length, at):
                    return at
    return None


def allocated(path):
    return os.stat(path).st_blocks * 512


class Trimmer:
    """Writes and trims in the last part of a volume, which nobody else uses; knows where nothing is left."""

    def __init__(self, uri, begin, end, random):
        self.begin, self.end, self.random = begin, end, random
        self.handle = nbd.NBD()
        self.handle.connect_uri(uri)
        self.data = {}

    def step(self):
        at = self.random.randrange(self.begin, self.end - 2 * GIB, 4096)
        length = self.random.choice((4096, 1 << 20, GIB, 2 * GIB))
        if self.random.random() < 0.5:
            self.data[at] = self.random.randbytes(4096 * self.random.randrange(1, 20))
            self.handle.pwrite(self.data[at], at)
        else:
            (self.handle.trim if self.random.random() < 0.5 else self.handle.zero)(length, at)
            # What it cut in two is not looked at any more.
            self.data = {key: data for key, data in self.data.items() if key + len(data) <= at or key >= at + length}

    def check(self, path):
        with open(path, "rb") as file:
            for at, data in self.data.items():
                if not any(at < other < at + len(data) for other in self.data):
                    assert os.pread(file.fileno(), min(4096, len(data)), at) == data[:4096]


@pytest.mark.parametrize("far", [False, True], ids=["local", "far"])
@pytest.mark.parametrize("older", [False, True], ids=["new", "older"])
def test_a_sparse_volume_costs_what_its_data_cost(program, folder, random, ssh, far, older):
    """15 TiB to a new file, and to one with data where the source has none; under a client that checks, then over and to its end."""
    source, target = folder / "source", folder / "target"
    size = make_sparse(source, random, 200)
    if older:
        make_sparse(target, random, 200, size)
    mirror = Mirror(program, folder, source, f"far:{target}" if far else target, "--verify", *(ssh if far else []))
    client = Client(mirror.uri, size - TIB, random, pause_s=0.005)
    begun = time.monotonic()
    mirror.start()
    try:
        client.start()
        trimmer = Trimmer(mirror.uri, size - TIB, size, random)
        wait_until(lambda: trimmer.step() or mirror.status()["state"] == "ready", "ready", SECONDS)
        wait_until(lambda: client.writes > 100, "writes")
        now = mirror.status()
        assert now["holes"] > size // 2 and now["differing"] == 0
        mirror.program("cutover", "m")
        for _ in range(20):
            trimmer.step()
        client.stop()
        wait_until(lambda: mirror.status()["dirty"] == 0 and mirror.status()["attached"], "nothing dirty")
        mirror.program("finish", "m")
        assert time.monotonic() - begun < 2 * SECONDS
        client.check_volume(target)
        trimmer.check(target)
    finally:
        client.over.set()
        mirror.end()
    assert client.reconnects == 0
    assert first_difference(source, target) is None
    # Regions are 128 KiB, the file system's blocks 4 KiB; zeros within what was read need no room.
    assert allocated(target) < 2 * allocated(source) + (64 << 20)


def test_h04_holes_are_not_believed_where_clients_write(program, folder, random):
    """A small sparse volume, written all over all the while: regions that were holes a moment ago are not any more."""
    source, target = folder / "source", folder / "target"
    size = (256 << 20) + 77 * SECTOR
    with open(source, "wb") as file:
        file.truncate(size)
    with open(target, "wb") as file:
        for at in range(0, size, 8 << 20):
            os.pwrite(file.fileno(), random.randbytes(5000), at)
        file.truncate(size)
    mirror = Mirror(program, folder, source, target, "--verify", "--copy-mode=background")
    client = Client(mirror.uri, size, random, pause_s=0)
    mirror.start()
    try:
        client.start()
        wait_until(lambda: client.writes > 1000, "writes")
        mirror.program("cutover", "m", "--no-wait")
        mirror.wait_for("switched", timeout_s=SECONDS)
        client.stop()
        wait_until(lambda: mirror.status()["dirty"] == 0, "nothing dirty")
        assert mirror.status()["differing"] == 0
        mirror.program("finish", "m")
        client.check_volume(target)
    finally:
        client.over.set()
        mirror.end()
    assert first_difference(source, target) is None
