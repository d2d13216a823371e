# SPDX-License-Identifier: GPL-2.0-or-later
"""A real kernel on a mirror's export: QEMU is the client, and guest/workload.py in the guest writes and checks files all the while."""
import hashlib
import pathlib
import re
import subprocess
import time

import pytest

from live_mirror import Mirror
from program import wait_until

HERE = pathlib.Path(__file__).resolve().parent
MIB = 1 << 20
SIZE = 256 * MIB + 512 * 77
# A guest is emulated and may share the machine: an end that comes late is no failure.
BOOT_S, PATIENCE_S, ALL_S = 240, 120, 800
ALARMS = re.compile(r"I/O error|blk_update_request|EXT4-fs (error|warning)|JBD2: .*error|blocked for more than|Call Trace|BUG:")


class Guest:
    """A guest that works on the disk at a unix socket."""

    def __init__(self, vmrun, socket, folder, seed):
        self.share = folder / "share"
        self.share.mkdir()
        self.log = folder / "guest.log"
        words = ["--mem", "256M", "--smp", "1", "--timeout", ALL_S, "--times", "--nbd-disk", f"{socket}:moved", "--share", self.share,
                 "--", HERE / "guest/workload.py", "/dev/by-serial/moved", "/mnt/share", seed]
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen([str(word) for word in [vmrun, *words]], stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def said(self):
        return self.log.read_text(errors="replace")

    def _wait(self, condition, what, timeout_s):
        def reached():
            assert self.process.poll() is None, f"the guest ended before {what}:\n{self.said()}"
            return condition()
        wait_until(reached, f"{what}; it said:\n{self.said()}", timeout_s)

    def wait_until_it_works(self):
        self._wait(lambda: "READY" in self.said(), "the guest was ready", BOOT_S)

    def go_on(self):
        """Until two more ticks came: ten rounds of writing and checking at least were begun and ended since."""
        ticks = self.said().count("tick")
        self._wait(lambda: self.said().count("tick") >= ticks + 3, "it went on", PATIENCE_S)

    def end(self):
        """It checks all once more, and must have found nothing wrong. Returns {name: md5} of its files."""
        (self.share / "stop").touch()
        code = self.process.wait(PATIENCE_S)
        print(self.said())
        assert code == 0
        messages = (self.share / "dmesg").read_text(errors="replace")
        assert "EXT4-fs (vda): mounted" in messages and not ALARMS.search(messages), messages
        rows = (row.split() for row in (self.share / "sums").read_text().splitlines())
        return {name: digest for digest, name in rows}

    def kill(self):
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait()


def fill(path, random):
    with open(path, "wb") as file:
        for begin in range(0, SIZE, 16 * MIB):
            file.write(random.randbytes(min(16 * MIB, SIZE - begin)))


@pytest.fixture
def mirror(program, folder, random):
    source, target = folder / "source", folder / "target"
    fill(source, random)
    fill(target, random)
    mirror = Mirror(program, folder, source, target)
    yield mirror
    mirror.end()


@pytest.fixture
def guest(vmrun, mirror, folder, random):
    """Its copy is held until the guest works."""
    mirror.start("--max-rate=8M")
    mirror.program("pause", "m")
    guest = Guest(vmrun, mirror.socket, folder, random.randrange(1 << 32))
    yield guest
    guest.kill()


def digest_of(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def kill_and_resume(mirror, guest):
    """The guest's requests wait for it meanwhile."""
    mirror.kill()
    time.sleep(1)
    assert "comparing" not in mirror.resume().err
    guest.go_on()


def wait_until_both_hold_the_same(mirror):
    wait_until(lambda: (now := mirror.status())["attached"] and now["revertible"], "that it can revert", PATIENCE_S)


def files_of(image, folder):
    """{name: md5} of the files of an ext4, read by another program than the kernel that wrote them."""
    subprocess.run(["/sbin/e2fsck", "-fn", image], check=True)
    folder.mkdir()
    subprocess.run(["/sbin/debugfs", "-R", f"rdump / {folder}", image], check=True)
    return {path.name: digest_of(path) for path in folder.iterdir() if path.is_file()}


def test_a_guest_works_on_while_its_disk_is_moved(mirror, guest, folder, random):
    """Killed while it syncs, after the switch, when it is ready again, and at any moment of the second cutover."""
    guest.wait_until_it_works()
    mirror.program("resume", "m")
    guest.go_on()
    kill_and_resume(mirror, guest)
    assert mirror.status()["state"] == "syncing"
    mirror.program("throttle", "m", "--max-rate=none")
    mirror.wait_for("ready", timeout_s=PATIENCE_S)
    guest.go_on()

    mirror.program("cutover", "m")
    assert mirror.status()["authoritative"] == "target"
    guest.go_on()
    kill_and_resume(mirror, guest)
    wait_until_both_hold_the_same(mirror)
    mirror.program("revert", "m")
    assert mirror.status()["authoritative"] == "source"
    guest.go_on()
    kill_and_resume(mirror, guest)
    mirror.wait_for("ready", timeout_s=PATIENCE_S)

    mirror.program("cutover", "m", "--no-wait")
    time.sleep(random.random() * 0.2)
    kill_and_resume(mirror, guest)
    if mirror.status()["authoritative"] == "source":
        mirror.wait_for("ready", timeout_s=PATIENCE_S)
        mirror.program("cutover", "m")
    wait_until_both_hold_the_same(mirror)
    mirror.program("finish", "m")
    let_go = digest_of(mirror.source)
    guest.go_on()

    pid = mirror.status()["pid"]
    sums = guest.end()
    mirror.wait_for_gone(pid)
    assert digest_of(mirror.source) == let_go
    found = files_of(mirror.target, folder / "files")
    assert len(sums) > 10 and found == sums
