# SPDX-License-Identifier: GPL-2.0-or-later
"""Live mirrors onto NBD servers: one that runs by itself, and captive ones that the mirror starts. They are killed, the mirror is killed,
and nothing that was acknowledged is lost. A qemu-nbd that dies by SIGKILL takes with it what it knew of its qcow2 and had not flushed.
"""
import os
import pathlib
import signal
import subprocess
import time

import pytest

from live_mirror import Mirror
from program import OK, wait_until
from servers import Server

MIB = 1 << 20
SIZE = 24 * MIB + 512 * 77
KINDS = ["qemu-nbd", "qemu-nbd-captive", "nbdkit-captive"]


class Image:
    """What the servers serve, and who does so."""

    def __init__(self, kind, folder):
        self.kind, self.folder, self.path, self.socket = kind, folder, folder / "target.img", folder / "target.sock"
        self.form = "raw" if kind.startswith("nbdkit") else "qcow2"
        subprocess.run(["qemu-img", "create", "-q", "-f", self.form, self.path, str(SIZE)], check=True)
        self.server = None
        self.start()

    def words(self):
        if self.kind == "qemu-nbd":
            return f"nbd+unix:///?socket={self.socket}"
        return ["[", *(["nbdkit", "file"] if self.form == "raw" else ["qemu-nbd", "-f", "qcow2"]), self.path, "]"]

    def start(self):
        if self.kind == "qemu-nbd":
            self.server = Server(["qemu-nbd", "-t", "-e", "8", "-f", "qcow2", "-k", self.socket, self.path], self.socket)

    def pids(self):
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                words = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if pathlib.Path(os.fsdecode(words[0])).name in ("qemu-nbd", "nbdkit") and os.fsencode(self.path) in words:
                found.append(int(pid))
        return found

    def kill(self):
        killed = self.pids()
        assert killed, "no server runs"
        for pid in killed:
            os.kill(pid, signal.SIGKILL)
        if self.server:
            self.server.stop()
        wait_until(lambda: not set(killed) & set(self.pids()), "its death")

    def stop(self):
        """It is closed in good order."""
        if self.server:
            self.server.stop()
        wait_until(lambda: not self.pids(), "its end")

    def raw(self):
        """By another reader than ours."""
        path = self.folder / "read-back"
        subprocess.run(["qemu-img", "convert", "-f", self.form, "-O", "raw", self.path, path], check=True)
        return path


@pytest.fixture(params=KINDS)
def image(request, folder):
    image = Image(request.param, folder)
    yield image
    image.stop()


@pytest.fixture
def mirror(program, folder, random, image):
    source = folder / "source"
    source.write_bytes(random.randbytes(SIZE))
    mirror = Mirror(program, folder, source, image.words(), "--target-timeout=2s")
    yield mirror
    mirror.end()


def settled(mirror):
    return wait_until(lambda: (now := mirror.status()) and now["dirty"] == 0 and now["attached"] and now["away_s"] is None and now,
                      "both legs there and nothing dirty")


def goes_on(client, count=30):
    writes = client.writes
    wait_until(lambda: client.writes > writes + count or client.failure, "writes")
    assert client.failure is None, client.failure


def check_both(mirror, image, client):
    """When nobody holds them any more: equal, with all that was acknowledged."""
    mirror.kill(signal.SIGTERM)
    image.stop()
    raw = image.raw()
    client.check_volume(raw)
    assert raw.read_bytes() == mirror.source.read_bytes()


def test_the_whole_way(mirror, image, client):
    mirror.start("--max-rate=16M")
    client.start()
    goes_on(client)
    mirror.program("throttle", "m", "none")
    mirror.wait_for("ready")
    for order, state in (("cutover", "switched"), ("revert", "ready"), ("cutover", "switched")):
        assert "clients saw a pause of" in mirror.program(order, "m").out.decode()
        mirror.wait_for(state)
        goes_on(client)
    client.stop()
    assert client.reconnects == 0
    settled(mirror)
    mirror.program("finish", "m")
    assert mirror.status()["authoritative"] == "target"
    client.check_export()
    check_both(mirror, image, client)


@pytest.mark.parametrize("switched", [False, True], ids=["ready", "switched"])
def test_h24_a_server_that_is_killed_and_comes_back(mirror, image, client, random, switched):
    """Clients see no error: while the source is the volume the server is let go, later they wait for it; what it lost is written again."""
    mirror.start()
    client.start()
    mirror.wait_for("ready")
    if switched:
        mirror.program("cutover", "m")
    for _ in range(3):
        goes_on(client, random.randrange(10, 60))
        image.kill()
        if switched:
            time.sleep(random.random())
        elif image.server:
            wait_until(lambda: not mirror.status()["attached"], "that the target is let go")
            goes_on(client)
        image.start()
        goes_on(client)
        settled(mirror)
    mirror.wait_for("switched" if switched else "ready")
    client.stop()
    assert client.reconnects == 0
    client.check_export()
    check_both(mirror, image, client)


def test_h25_a_mirror_that_is_killed_goes_on(mirror, image, client, random):
    """In every state, and for half of the time together with the server, as long as it is not the only one who has it all."""
    mirror.start("--max-rate=8M")
    for number in range(8):
        client.start()
        if number == 1:
            mirror.wait_for("ready")
        if number > 1:
            mirror.program("revert" if mirror.status()["state"] == "switched" else "cutover", "m", *(["--no-wait"] if number % 3 else []))
        time.sleep(random.random() ** 3 * 0.5)
        last = mirror.status()
        both = last["authoritative"] == "source" and last["order"] is None and random.random() < 0.5
        mirror.kill()
        client.stop()
        if both and image.pids():
            image.kill()
            image.start()
        done = mirror.resume("--max-rate=none")
        assert "comparing" not in done.err, str(done)
        client = client.again()
        client.check_export()
    settled(mirror)
    check_both(mirror, image, client)


def test_what_a_captive_server_says_at_the_start_is_seen(program, folder, random):
    source = folder / "source"
    source.write_bytes(random.randbytes(SIZE))
    mirror = Mirror(program, folder, source, ["[", "qemu-nbd", "-f", "qcow2", source, "]"])
    for go in (lambda: mirror.start(code=None), lambda: mirror.start("--foreground", code=None)):
        done = go()
        assert done.code != OK and "Image is not in qcow2 format" in done.err, str(done)
