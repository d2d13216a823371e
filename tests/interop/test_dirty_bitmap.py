# SPDX-License-Identifier: GPL-2.0-or-later
"""sync by the dirty bitmaps of QEMU's servers: only what changed is read, and the target is equal byte by byte all the same.

The images are written by qemu-io and compared by nbdcopy and qemu-img; all sizes are odd, as far as QEMU takes them.
"""
import json
import os
import socket
import subprocess

import pytest

from live_mirror import Mirror
from program import OK, wait_until

SECTOR = 512
SIZE = 40_000_000 // SECTOR * SECTOR + SECTOR


def quiet(*words):
    subprocess.run([str(word) for word in words], check=True, stdout=subprocess.DEVNULL)


class Image:
    """A qcow2 of which a writer changes something now and then."""

    def __init__(self, path, random, size=SIZE):
        self.path, self.random, self.size = path, random, size
        quiet("qemu-img", "create", "-q", "-f", "qcow2", path, size)
        self._write([f"write -P {random.randrange(256)} {at} {min(3 << 20, size - at)}" for at in range(0, size, 5 << 20)])

    def _write(self, commands):
        quiet("qemu-io", "-f", "qcow2", *(word for command in commands for word in ("-c", command)), self.path)

    def change(self, count=25):
        """Sectors, zeros and trims, the last sector always."""
        commands = []
        for _ in range(count):
            at = self.random.randrange(self.size // SECTOR) * SECTOR
            length = min(self.random.randrange(1, 300) * SECTOR, self.size - at)
            commands.append(self.random.choice((f"write -P {self.random.randrange(256)} {at} {length}", f"write -z {at} {length}",
                                                f"write -z -u {at} {length}")))
        self._write([*commands, f"write -P {self.random.randrange(1, 256)} {self.size - SECTOR} {SECTOR}"])

    def begin_bitmap(self, name, granularity=65536):
        quiet("qemu-img", "bitmap", "--add", "-g", granularity, self.path, name)

    def map(self, bitmap):
        """By another client than ours."""
        with open(self.path.with_suffix(".map"), "w") as out:
            subprocess.run(["nbdinfo", "--json", f"--map=qemu:dirty-bitmap:{bitmap}", "--", "[", *self.server(bitmap), "]"], check=True, stdout=out)
        return json.loads(self.path.with_suffix(".map").read_text())

    def dirty_bytes(self, bitmap):
        return sum(part["length"] for part in self.map(bitmap) if part["type"])

    def server(self, *bitmaps):
        return ["qemu-nbd", "-r", "-f", "qcow2", *(word for name in bitmaps for word in ("-B", name)), str(self.path)]

    def captive(self, *bitmaps):
        return ["[", *self.server(*bitmaps), "]"]

    def is_held_by(self, raw):
        done = subprocess.run(["qemu-img", "compare", "-f", "qcow2", "-F", "raw", self.path, raw], stdout=subprocess.PIPE, text=True)
        return done.returncode == 0 and os.path.getsize(raw) == self.size


@pytest.fixture
def image(folder, random):
    return Image(folder / "source.qcow2", random)


def said(result):
    return " ".join(event["text"] for event in result.events() if event["event"] == "warning")


def moved(result):
    end = result.events()[-1]
    return end["sent"] + end["zero"]


@pytest.mark.parametrize("granularity", [512, 4096, 65536, 1 << 20])
def test_h12_only_what_the_bitmap_says(image, program, folder, granularity):
    target = folder / "target"
    program("copy", *image.captive(), target)
    for number in range(3):
        name = f"b{number}"
        image.begin_bitmap(name, granularity)
        image.change()
        done = program("sync", "--json", f"--base={name}", *image.captive(name), target)
        assert "nothing else is read" in said(done) and "nbd-bitmap" in said(done)
        assert moved(done) == image.dirty_bytes(name)
        assert image.is_held_by(target)


def test_h10_the_bitmap_that_is_named_counts(image, program, folder):
    """Two bitmaps: the target holds what the older one began with, and only its name brings all that changed."""
    target = folder / "target"
    program("copy", *image.captive(), target)
    image.begin_bitmap("old")
    image.change()
    image.begin_bitmap("new")
    image.change(3)
    done = program("sync", "--json", "--changes=nbd-bitmap", "--base=qemu:dirty-bitmap:old", *image.captive("old", "new"), target)
    assert "nothing else is read" in said(done) and moved(done) == image.dirty_bytes("old") > image.dirty_bytes("new")
    assert image.is_held_by(target)


@pytest.mark.parametrize("options, reason", [
    (["--base=gone"], "has no bitmap gone; it has b0"),
    (["--base=gone", "--changes=nbd-bitmap"], "has no bitmap gone; it has b0"),
    (["--changes=nbd-bitmap"], "nobody said that the target is as the source was"),
    (["--changes=dm-snapshot", "--base=b0"], "no device of this machine"),
])
def test_h14_doubts_lead_to_a_comparison(image, program, folder, options, reason):
    target = folder / "target"
    program("copy", *image.captive(), target)
    image.begin_bitmap("b0")
    image.change()
    with open(target, "r+b") as file:
        file.write(b"something else")
    done = program("sync", "--json", *options, *image.captive("b0"), target)
    assert "both volumes are compared" in said(done) and reason in said(done)
    assert image.is_held_by(target)


@pytest.mark.parametrize("bitmaps, words", [
    (["b0"], "the server has the dirty bitmap b0, but nobody said"),
    (["b0", "b1"], "if it is, name that one with --base="),
    (["a:b"], "--base=qemu:dirty-bitmap:a:b moves only what changed"),
])
def test_h10_a_bitmap_that_is_there_is_named_and_not_trusted(image, program, folder, bitmaps, words):
    """By default, too. A difference that no bitmap names is found."""
    target = folder / "target"
    program("copy", *image.captive(), target)
    for name in bitmaps:
        image.begin_bitmap(name)
    with open(target, "r+b") as file:
        file.write(b"something else")
    done = program("sync", "--json", *image.captive(*bitmaps), target)
    assert "both volumes are compared" in said(done) and words in said(done) and all(name in said(done) for name in bitmaps)
    assert image.is_held_by(target)
    image.change()
    base = f"qemu:dirty-bitmap:{bitmaps[0]}"
    done = program("sync", "--json", "--changes=auto", f"--base={base}", *image.captive(*bitmaps), target)
    assert "nothing else is read" in said(done) and moved(done) == image.dirty_bytes(bitmaps[0])
    assert image.is_held_by(target)


def test_auto_says_what_it_chose(image, program, folder):
    """In every case, where it was asked for; by default only what can be made use of."""
    target, digests = folder / "target", folder / "digests"
    assert "all of the source is copied" in said(program("sync", "--json", "--changes=auto", *image.captive(), target))
    done = program("sync", "--json", "--changes=auto", *image.captive(), target)
    assert "both volumes are compared" in said(done) and "no earlier run noted" in said(done)
    assert not said(program("sync", "--json", *image.captive(), target))
    assert "there are no saved digests yet" in said(program("sync", "--json", "--changes=auto", f"--digests={digests}", *image.captive(), target))
    assert "the saved digests fit" in said(program("sync", "--json", "--changes=auto", f"--digests={digests}", *image.captive(), target))
    image.begin_bitmap("b0")
    assert "bitmap" not in said(program("sync", "--json", "--changes=hash", *image.captive("b0"), target))


@pytest.mark.parametrize("options", [["--no-sr"], ["--mask-handshake=0"], ["--oldstyle"], []])
def test_servers_that_have_no_such_contexts(program, folder, options):
    """Asking for bitmaps must not keep anything from a server that does not understand the question."""
    target, size = folder / "target", 2_000_003
    target.write_bytes(b"x" * size)
    server = ["[", "nbdkit", *options, "pattern", str(size), "]"]
    done = program("sync", "--json", "--changes=auto", "--overwrite", str(target), *server, target)
    assert "bitmap" not in said(done)
    assert target.read_bytes() == b"".join(at.to_bytes(8, "big") for at in range(0, size + 8, 8))[:size]


def test_an_export_that_is_not_there(image, program, folder):
    path, target = folder / "source.sock", folder / "target"
    program("copy", *image.captive(), target)
    server = subprocess.Popen(["qemu-nbd", "-t", "-r", "-f", "qcow2", "-x", "right", "-k", path, image.path])
    try:
        wait_until(path.exists, "the server's socket")
        refused = program("sync", f"nbd+unix:///wrong?socket={path}", target, code=None)
        assert refused.code != OK and "wrong" in refused.err and "export" in refused.err
        program("sync", f"nbd+unix:///right?socket={path}", target)
    finally:
        server.terminate()
        server.wait()


def test_h09_resized_since(image, program, folder):
    target = folder / "target"
    program("copy", *image.captive(), target)
    image.begin_bitmap("b0")
    image.size += 3 << 20
    quiet("qemu-img", "resize", "-f", "qcow2", image.path, image.size)
    image.change()
    done = program("sync", "--json", "--size-mismatch=truncate", "--base=b0", *image.captive("b0"), target)
    assert "another size" in said(done) and "both volumes are compared" in said(done)
    assert image.is_held_by(target)


def test_h11_a_bitmap_that_was_not_saved(image, program, folder):
    """Its writer was killed: QEMU calls the bitmap inconsistent and does not serve it. That must not pass for "nothing changed"."""
    target, path = folder / "target", folder / "daemon.sock"
    program("copy", *image.captive(), target)
    image.begin_bitmap("b0")
    server = subprocess.Popen(["qemu-nbd", "-t", "-f", "qcow2", "-k", path, image.path])
    try:
        wait_until(path.exists, "the server's socket")
        quiet("qemu-io", "-f", "raw", "-c", "write -P 77 0 64k", f"nbd+unix:///?socket={path}")
    finally:
        server.kill()
        server.wait()
    done = program("sync", "--json", "--base=b0", *image.captive(), target)
    assert "both volumes are compared" in said(done)
    assert image.is_held_by(target)
    assert program("sync", "--json", "--base=b0", *image.captive("b0"), target, code=None).code != OK


def test_a_live_server(image, program, folder):
    """qemu-storage-daemon holds the image; its bitmap was begun, and is asked for, while it runs."""
    path, control, target = folder / "nbd.sock", folder / "qmp.sock", folder / "target"
    daemon = subprocess.Popen(["qemu-storage-daemon", "--blockdev", f"file,node-name=f,filename={image.path}", "--blockdev",
                               "qcow2,node-name=q,file=f", "--nbd-server", f"addr.type=unix,addr.path={path}", "--chardev",
                               f"socket,id=c,path={control},server=on,wait=off", "--monitor", "chardev=c"])
    uri = f"nbd+unix:///w?socket={path}"
    try:
        wait_until(control.exists, "the daemon's socket")
        qmp = Qmp(control)
        qmp("block-dirty-bitmap-add", node="q", name="live")
        qmp("block-export-add", type="nbd", id="w", **{"node-name": "q", "writable": True, "name": "w"})
        program("copy", uri, target)
        quiet("qemu-io", "-f", "raw", "-c", "write -P 91 12345344 7000", "-c", "write -P 92 0 1", "-c", f"write -P 93 {SIZE - 512} 512", uri)
        # A bitmap that is written to cannot be served: it is frozen first.
        qmp("block-dirty-bitmap-disable", node="q", name="live")
        qmp("block-export-add", type="nbd", id="r", **{"node-name": "q", "name": "r", "bitmaps": ["live"]})
        done = program("sync", "--json", "--base=live", uri.replace("/w?", "/r?"), target)
        assert "nothing else is read" in said(done) and moved(done) == 2 * 65536 + SIZE % 65536
    finally:
        daemon.terminate()
        daemon.wait()
    assert image.is_held_by(target)


def test_the_starting_map_of_a_mirror(image, program, folder):
    """Only what the bitmap says is looked at before it is ready: a difference that is planted elsewhere stays."""
    path, target = folder / "source.sock", folder / "target"
    program("copy", *image.captive(), target)
    image.begin_bitmap("b0")
    image.change()
    clean = next(part["offset"] for part in image.map("b0") if not part["type"])
    with open(target, "r+b") as file:
        file.seek(clean)
        before = file.read(1)
        file.seek(clean)
        file.write(bytes([before[0] ^ 1]))
    server = subprocess.Popen(["qemu-nbd", "-t", "-e", "4", "-f", "qcow2", "-B", "b0", "-k", path, image.path])
    mirror = Mirror(program, folder, f"nbd+unix:///?socket={path}", target, "--base=b0")
    try:
        wait_until(path.exists, "the server's socket")
        assert "nothing else is read" in mirror.start().err
        mirror.wait_for("ready")
        mirror.program("abort", "m")
    finally:
        mirror.end()
        server.terminate()
        server.wait()
    with open(target, "r+b") as file:
        file.seek(clean)
        assert file.read(1) == bytes([before[0] ^ 1])
        file.seek(clean)
        file.write(before)
    assert image.is_held_by(target)


def test_a_mirror_names_the_bitmap_too(image, program, folder):
    path, target = folder / "source.sock", folder / "target"
    program("copy", *image.captive(), target)
    image.begin_bitmap("b0")
    server = subprocess.Popen(["qemu-nbd", "-t", "-e", "4", "-f", "qcow2", "-B", "b0", "-k", path, image.path])
    mirror = Mirror(program, folder, f"nbd+unix:///?socket={path}", target, "--changes=auto")
    try:
        wait_until(path.exists, "the server's socket")
        begun = mirror.start().err
        assert "both volumes are compared" in begun and "--base=b0 moves only what changed" in begun
        mirror.wait_for("ready")
        mirror.program("abort", "m")
    finally:
        mirror.end()
        server.terminate()
        server.wait()
    assert image.is_held_by(target)


class Qmp:
    """Commands for a QEMU daemon."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(str(path))
        self.file = self.socket.makefile("rw")
        self.file.readline()
        self("qmp_capabilities")

    def __call__(self, command, **arguments):
        self.file.write(json.dumps({"execute": command, "arguments": arguments}))
        self.file.flush()
        while True:
            answer = json.loads(self.file.readline())
            assert "error" not in answer, answer
            if "return" in answer:
                return answer["return"]
