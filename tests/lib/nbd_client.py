# SPDX-License-Identifier: GPL-2.0-or-later
"""A client that writes at random through NBD, knows what it may read, and connects again when the server was away.

Every sector holds its number and a version, so that a read says how old what it got is. What was acknowledged must be read; what was under
way when the server died may be there or not, but each sector whole.
"""
import contextlib
import errno
import struct
import threading
import time

import nbd

SECTOR = 512
# How a request ends when the server goes away; 0: libnbd says that it hung up. Whatever else comes, an application would have got.
BROKEN = {0, errno.ENOTCONN, errno.ECONNRESET, errno.EPIPE, errno.ESHUTDOWN}


class Client(threading.Thread):
    def __init__(self, uri, size, random, pause_s=0.002):
        super().__init__(daemon=True)
        self.uri, self.sectors, self.random, self.pause_s = uri, size // SECTOR, random, pause_s
        self.acked = {}      # sector: version that must be there, or a newer one that was tried
        self.tried = {}      # sector: versions that may have been written since
        self.version = 0
        self.writes = self.reads = self.reconnects = 0
        self.longest_s = 0.0
        self.latencies = []  # (when, seconds) of each request
        self.failure = None
        self.over = threading.Event()

    def _connect(self):
        handle = nbd.NBD()
        handle.connect_uri(self.uri)
        return handle

    def _content(self, sector, count, version):
        return b"".join(struct.pack("<QQ", sector + i, version) * (SECTOR // 16) for i in range(count))

    def _write(self, handle):
        count = self.random.choice((1, 1, 1, 2, 8, 8, 64))
        sector = self.random.randrange(self.sectors - count)
        self.version += 1
        for i in range(count):
            self.tried.setdefault(sector + i, []).append(self.version)
        flags = nbd.CMD_FLAG_FUA if self.random.random() < 0.2 else 0
        handle.pwrite(self._content(sector, count, self.version), sector * SECTOR, flags)
        for i in range(count):
            self.acked[sector + i] = self.version
            self.tried[sector + i] = []
        self.writes += 1

    def check(self, data, sector):
        """One sector's content against what it may be."""
        words = set(struct.unpack(f"<{SECTOR // 8}Q", data))
        allowed = [self.acked.get(sector)] + self.tried.get(sector, [])
        if allowed == [None]:
            return
        for version in allowed:
            if version is None and not any(struct.pack("<QQ", sector, tried) == data[:16] for tried in self.tried.get(sector, [])):
                return  # never acknowledged: still what it was
            if version is not None and data == self._content(sector, 1, version):
                return
        raise AssertionError(f"sector {sector} holds {sorted(words)[:4]}, allowed are the versions {allowed}")

    def _read(self, handle):
        count = self.random.choice((1, 8, 32))
        sector = self.random.choice(list(self.acked)) if self.acked and self.random.random() < 0.8 else self.random.randrange(self.sectors)
        sector = min(sector, self.sectors - count)
        data = handle.pread(count * SECTOR, sector * SECTOR)
        for i in range(count):
            self.check(data[i * SECTOR:(i + 1) * SECTOR], sector + i)
        self.reads += 1

    def run(self):
        handle = None
        while not self.over.is_set():
            try:
                if handle is None:
                    handle = self._connect()
                begun = time.monotonic()
                (self._write if self.random.random() < 0.7 else self._read)(handle)
                ended = time.monotonic()
                self.longest_s = max(self.longest_s, ended - begun)
                self.latencies.append((ended, ended - begun))
            except nbd.Error as error:
                if handle is not None and error.errnum not in BROKEN:
                    self.failure = str(error)
                    return
                handle = None
                self.reconnects += 1
                time.sleep(0.05)
            except AssertionError as error:
                self.failure = str(error)
                return
            time.sleep(self.pause_s)
        with contextlib.suppress(nbd.Error):
            if handle is not None:
                handle.shutdown()

    def stop(self):
        """Ends; fails when something was wrong."""
        self.over.set()
        self.join(30)
        assert not self.is_alive(), "the client hangs"
        assert self.failure is None, self.failure

    def again(self):
        """Another one that knows what this one wrote."""
        client = Client(self.uri, self.sectors * SECTOR, self.random, self.pause_s)
        client.acked, client.tried, client.version = self.acked, self.tried, self.version
        client.writes, client.reads = self.writes, self.reads
        return client

    def check_export(self):
        """All that was acknowledged can be read."""
        handle = self._connect()
        for first in range(0, self.sectors, 2048):
            count = min(2048, self.sectors - first)
            data = handle.pread(count * SECTOR, first * SECTOR)
            for i in range(count):
                if first + i in self.acked:
                    self.check(data[i * SECTOR:(i + 1) * SECTOR], first + i)
        handle.shutdown()

    def check_volume(self, path):
        """All that was acknowledged is in this file."""
        with open(path, "rb") as file:
            for sector in self.acked:
                file.seek(sector * SECTOR)
                self.check(file.read(SECTOR), sector)
