# SPDX-License-Identifier: GPL-2.0-or-later
"""Live mirrors whose clients write as much as the server lets them, without a pause."""
import threading
import time

import nbd
import pytest

from live_mirror import Mirror

MIB = 1 << 20
SIZE = 64 * MIB + 512 * 5
CONNECTIONS, DEPTH = 4, 8


class Load(threading.Thread):
    """A connection with DEPTH writes of a MiB under way at any time, all over the volume."""

    def __init__(self, uri, random):
        super().__init__(daemon=True)
        self.uri, self.random = uri, random
        self.data = nbd.Buffer.from_bytearray(bytearray(random.randbytes(MIB)))
        self.writes, self.under_way, self.failure = 0, 0, None
        self.over = threading.Event()

    def _done(self, error):
        self.under_way -= 1
        self.writes += 1
        self.failure = self.failure or error.value
        return 1

    def run(self):
        handle = nbd.NBD()
        handle.connect_uri(self.uri)
        try:
            while self.failure is None or self.failure == 0:
                while self.under_way < DEPTH and not self.over.is_set():
                    self.under_way += 1
                    handle.aio_pwrite(self.data, self.random.randrange(SIZE - MIB) // 512 * 512, completion=self._done)
                if not self.under_way:
                    break
                handle.poll(1000)
            handle.shutdown()
        except nbd.Error as error:
            self.failure = str(error)


@pytest.fixture
def far(program, folder, volumes, ssh):
    """Its target is slow enough that clients have all under way that they may."""
    mirror = Mirror(program, folder, volumes[0], f"far:{volumes[1]}", *ssh)
    yield mirror
    mirror.end()


def test_a_load_that_goes_on_is_no_obstacle(far, volumes, random):
    """More is under way than the mirror has memory for; all the same all of it goes to both legs, and a cutover has its turn."""
    mirror = far
    mirror.start("--copy-mode=write-through")
    mirror.wait_for("ready")
    clients = [Load(mirror.uri, random) for _ in range(CONNECTIONS)]
    for client in clients:
        client.start()
    seen = []
    begun = time.monotonic()
    while time.monotonic() < begun + 4:
        now = mirror.status()
        seen.append((now["state"], now["dirty"]))
    assert set(seen) == {("ready", 0)}, seen
    mirror.program("cutover", "--window=10s", "m")
    assert mirror.status()["authoritative"] == "target"
    after = sum(client.writes for client in clients)
    time.sleep(1)
    for client in clients:
        client.over.set()
    for client in clients:
        client.join(30)
        assert not client.is_alive() and not client.failure, client.failure
    assert 0 < after < sum(client.writes for client in clients)
    assert mirror.status()["dirty"] == 0
    mirror.program("finish", "m")
    mirror.wait_for_gone(mirror.status()["pid"])
    assert volumes[0].read_bytes() == volumes[1].read_bytes()
