# SPDX-License-Identifier: GPL-2.0-or-later
"""The disk of a primary fails under its clients: they go on with the other machine's. Volumes are files of nbdfuse, over servers that can be told to fail."""
import errno
import shutil
import subprocess
import time

import nbd
import pytest

from nbd_client import Client
from program import LOCKED, REFUSED, wait_until
from replica_hosts import Pair
from servers import Server

UNMOUNT = ["fusermount3", "-u"] if shutil.which("fusermount3") else ["umount"]
SIZE = (4 << 20) + 4096


class Disk:
    """A file that fails whatever is asked of it while `broken` is there."""

    def __init__(self, image):
        self.broken, self.mount, log = image.with_suffix(".broken"), image.with_suffix(".mnt"), image.with_suffix(".log")
        self.mount.mkdir()
        self.server = Server(["nbdkit", "-f", "-U", image.with_suffix(".server"), "--filter=error", "file", image, "error=EIO", "error-rate=100%",
                              f"error-file={self.broken}"], image.with_suffix(".server"), log=log)
        self.path = self.mount / "volume"
        with open(log, "ab") as err:
            self.fuse = subprocess.Popen(["nbdfuse", self.path, self.server.uri], stdin=subprocess.DEVNULL, stdout=err, stderr=err)
        wait_until(lambda: self.fuse.poll() is not None or self.path.exists(), "the file")

    def stop(self):
        self.broken.unlink(missing_ok=True)
        subprocess.run([*UNMOUNT, self.mount], check=False)
        self.fuse.terminate()
        self.fuse.wait(10)
        self.server.stop()


@pytest.fixture
def make_pair(program, folder, random):
    if not shutil.which("nbdfuse"):
        pytest.skip("nbdfuse, of libnbd-bin, is not there")
    disks, pairs = [], []

    def make(path):
        disks.append(Disk(path))
        if not disks[-1].path.exists():
            pytest.skip("no FUSE here")
        return disks[-1].path

    def make_one(**how):
        pairs.append(Pair(program, folder, random, SIZE, make=make, **how))
        pairs[-1].disks = dict(zip(pairs[-1].nodes, disks, strict=True))
        pairs[-1].begin()
        return pairs[-1]
    yield make_one
    for pair in pairs:
        pair.close()
    for disk in disks:
        disk.stop()


def break_disk(pair, node):
    pair.disks[node].broken.touch()


def mend_disk(pair, node):
    pair.disks[node].broken.unlink()


@pytest.mark.parametrize("ack", ["sent", "received", "durable"])
def test_clients_of_a_primary_whose_disk_fails_do_not_hear_of_it(make_pair, random, ack):
    pair = make_pair(ack=ack)
    client = Client(pair.alpha.uri(), SIZE, random)
    client.start()
    wait_until(lambda: client.writes > 100, "writes")
    break_disk(pair, pair.alpha)
    status = pair.alpha.wait(flow="diskless")
    assert (status["role"], status["good"], status["peer_good"], status["disk_failed"]) == ("primary", False, True, True)
    status = pair.beta.wait(flow="diskless")
    assert (status["role"], status["good"], status["peer_good"], status["disk_failed"]) == ("secondary", True, False, False)
    writes, reads = client.writes, client.reads
    wait_until(lambda: client.writes > writes + 100 and client.reads > reads + 30, "more of both")
    client.stop()
    assert client.reconnects == 0
    assert "its clients use that of beta" in pair.alpha("status", "vm1").out.decode()
    assert "has the only good data" in pair.beta("status", "vm1").out.decode()
    for node, order in ((pair.beta, "primary"), (pair.beta, "disconnect"), (pair.alpha, "disconnect"), (pair.alpha, "hand-over")):
        assert "disk has failed" in node(order, "vm1", code=(REFUSED, LOCKED)).err, order
    # As it would be if beta's power were lost now, but for what was not flushed.
    client.check_volume(pair.beta.volume())

    pair.alpha("secondary", "vm1")
    pair.beta("primary", "vm1")
    client = client.again()
    client.uri = pair.beta.uri()
    client.check_export()
    assert "mend or replace" in pair.alpha("status", "vm1").out.decode()
    mend_disk(pair, pair.alpha)
    client.start()
    pair.alpha("connect", "vm1")
    pair.wait_equal()
    client.stop()
    pair.assert_same()
    client.check_volume(pair.alpha.volume())


def test_what_a_failed_disk_holds_does_not_win(make_pair, random):
    """Its machine is started anew, and its disk, with what was there before it failed, is back."""
    pair = make_pair()
    old, new = random.randbytes(50000), random.randbytes(50000)
    pair.alpha.write(old, 70000)
    break_disk(pair, pair.alpha)
    pair.alpha.write(new, 70000)
    assert pair.alpha.read(50000, 70000) == new
    pair.alpha.wait(flow="diskless")
    pair.alpha.kill()
    pair.beta.wait(linked=False)
    mend_disk(pair, pair.alpha)
    assert pair.content(pair.alpha)[70000:120000] == old
    pair.alpha.up()
    # Who is alone here knows that it has nothing.
    pair.beta("disconnect", "vm1")
    said = pair.alpha("primary", "vm1", code=REFUSED).err
    assert "--force" in said, said
    pair.connect()
    pair.wait_equal()
    assert pair.content(pair.alpha)[70000:120000] == new
    pair.assert_same()
    pair.alpha("primary", "vm1")
    assert pair.alpha.read(50000, 70000) == new


def test_without_the_other_there_is_nothing(make_pair, random):
    """The link is lost while clients use the other's disk: they get errors, and no old data."""
    pair = make_pair()
    break_disk(pair, pair.alpha)
    pair.alpha.write(random.randbytes(512), 0)
    pair.alpha.wait(flow="diskless")
    client = pair.alpha.open()
    pair.beta.kill()
    with pytest.raises(nbd.Error):
        client.pread(512, 0)
    pair.alpha.wait(flow="apart", role="secondary", serving=False, disk_failed=True)
    time.sleep(0.5)
    pair.beta.up()
    pair.beta("primary", "vm1", code=REFUSED)
    pair.beta("primary", "--force", "vm1")
    mend_disk(pair, pair.alpha)
    pair.connect()
    pair.wait_equal()
    pair.assert_same()


def test_errors_may_be_passed_on(make_pair, random):
    pair = make_pair(on_io_error="pass-on")
    break_disk(pair, pair.alpha)
    client = pair.alpha.open()
    with pytest.raises(nbd.Error) as caught:
        client.pwrite(random.randbytes(512), 0)
    assert caught.value.errnum == errno.EIO
    assert pair.alpha.status()["role"] == "primary"
    mend_disk(pair, pair.alpha)
    client.pwrite(random.randbytes(512), 0)
    pair.wait_equal()
    pair.assert_same()


def test_a_secondary_notes_that_its_disk_failed(make_pair, random):
    """What the disk had acknowledged may be gone; who sends must hear of that also when this process has ended meanwhile."""
    pair = make_pair(on_io_error="pass-on")
    notes = pair.beta.folder / "run/replica-vm1.failures"
    assert not notes.exists()
    break_disk(pair, pair.beta)
    pair.alpha.write(random.randbytes(512), 0)
    wait_until(notes.exists, "the note")
    assert notes.stat().st_size > 0
    mend_disk(pair, pair.beta)
    pair.beta.kill()
    pair.beta.up()
    pair.connect()
    pair.wait_equal()
    pair.assert_same()
