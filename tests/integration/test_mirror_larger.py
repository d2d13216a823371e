# SPDX-License-Identifier: GPL-2.0-or-later
"""A mirror onto a larger target: its first bytes are the volume, the rest is zeroed and then left alone."""
import nbd
import pytest

from images import flip
from live_mirror import Mirror
from nbd_client import Client
from program import REFUSED, TROUBLE, wait_until

MIB = 1 << 20
SIZE = 8 * MIB + 4608
TAIL = MIB + 1024
LARGER = "--size-mismatch=zero-tail"


@pytest.fixture
def larger(volumes, random):
    volumes[1].write_bytes(random.randbytes(SIZE + TAIL))
    return volumes[1]


@pytest.fixture(params=["file", "loop"])
def named(request, larger):
    return request.getfixturevalue("loops").attach(larger) if request.param == "loop" else larger


def export_size(mirror):
    handle = nbd.NBD()
    handle.connect_uri(mirror.uri)
    size = handle.get_size()
    handle.shutdown()
    return size


def check_target(mirror, path):
    data = path.read_bytes()
    assert len(data) == SIZE + TAIL and data[SIZE:] == bytes(TAIL)
    return data[:SIZE]


def follows(mirror):
    wait_until(lambda: (now := mirror.ask())["state"] == "switched" and now["revertible"], "that the source follows")


def test_h09_over_to_a_larger_target_and_back(program, folder, volumes, larger, named, random):
    """With a client, and killed on either side: it sees one size, and nothing is lost."""
    mirror = Mirror(program, folder, volumes[0], named)
    client = Client(mirror.uri, SIZE, random)
    try:
        assert "last 1.0 MiB are zeroed" in mirror.start(LARGER).err
        client.start()
        mirror.wait_for("ready")
        assert export_size(mirror) == SIZE
        mirror.program("cutover", "m")
        follows(mirror)
        assert export_size(mirror) == SIZE
        mirror.kill()
        mirror.resume()
        follows(mirror)
        assert export_size(mirror) == SIZE
        mirror.program("revert", "m")
        mirror.kill()
        mirror.resume()
        mirror.wait_for("ready")
        mirror.program("cutover", "m")
        client.stop()
        client.check_export()
        mirror.program("finish", "m")
        assert export_size(mirror) == SIZE
    finally:
        client.over.set()
        mirror.end()
    assert check_target(mirror, larger) == volumes[0].read_bytes()
    client.check_volume(larger)


def test_h09_a_larger_target_is_refused_unless_the_user_says_so(mirror, larger):
    before = larger.read_bytes()
    said = mirror.start(code=REFUSED).err
    assert f"{SIZE + TAIL} bytes" in said and LARGER in said and f"lvcreate -L {SIZE}b" in said, said
    assert larger.read_bytes() == before


def test_h09_a_smaller_target_is_refused_whatever_is_said(mirror, random):
    mirror.target.write_bytes(before := random.randbytes(SIZE - 512))
    said = mirror.start(LARGER, code=REFUSED).err
    assert "smaller" in said and "name a larger one" in said and "--size-mismatch" not in said, said
    assert mirror.target.read_bytes() == before


@pytest.mark.parametrize("change", [512, -TAIL])
def test_h09_a_target_that_was_resized_is_not_taken_again(change, mirror, larger):
    """While it is the volume, and while it follows."""
    def resize(by):
        with open(larger, "r+b") as file:
            file.truncate(SIZE + TAIL + by)

    mirror.start(LARGER)
    mirror.wait_for("ready")
    mirror.kill()
    resize(change)
    mirror.resume()
    wait_until(lambda: "when the mirror began" in (mirror.ask()["trouble"] or ""), "that it is noticed")
    resize(0)
    mirror.wait_for("ready")
    mirror.program("cutover", "m")
    mirror.kill()
    resize(change)
    assert "when the mirror began" in mirror.resume(code=TROUBLE).err
    resize(0)
    mirror.resume()
    follows(mirror)


def test_what_a_mirror_without_a_map_begins_with(mirror, larger):
    mirror.start(LARGER)
    mirror.wait_for("ready")
    mirror.kill()
    (mirror.program.state / "mirrors/m/map").unlink()
    flip(larger, SIZE - 1)
    assert "comparing all" in mirror.resume().err
    mirror.wait_for("ready")
    mirror.end()
    assert check_target(mirror, larger) == mirror.source.read_bytes()


def test_saved_digests_of_a_larger_target(mirror, larger, folder):
    mirror.program("sync", LARGER, f"--digests={folder}/saved", mirror.source, larger)
    flip(mirror.source, SIZE - 1)
    assert "only the source is read" in mirror.start(LARGER, f"--digests={folder}/saved").err
    assert mirror.wait_for("ready")["copied"] < MIB
    mirror.end()
    assert check_target(mirror, larger) == mirror.source.read_bytes()
