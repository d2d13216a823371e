# SPDX-License-Identifier: GPL-2.0-or-later
"""Volumes that share bytes are refused, however they are stacked; those that only lie side by side are not."""
import os
import pathlib
import shutil
import stat
import subprocess

import pytest

from images import Image
from program import LOCKED, OK, REFUSED, TROUBLE

MIB = 1 << 20


@pytest.fixture
def image(folder, random):
    return Image(random.randbytes(8 * MIB)).write(folder / "image")


def check(program, image, code, *words):
    before = image.read_bytes()
    done = program(*words, code=code)
    if code != OK:
        assert image.read_bytes() == before
    return done


def overlap(program, image, a, b, *words):
    """Both ways. A device that another holds open may be refused as busy first."""
    for one, other in ((a, b), (b, a)):
        done = check(program, image, REFUSED, "copy", *words, "--size-mismatch=zero-tail", one, other)
        assert "overlap" in done.err or "same volume" in done.err, str(done)


def test_loop_devices_on_one_file(image, program, loops):
    whole = loops.attach(image, "--offset", 0, "--sizelimit", 4 * MIB)
    shifted = loops.attach(image, "--offset", MIB, "--sizelimit", 4 * MIB)
    behind = loops.attach(image, "--offset", 5 * MIB, "--sizelimit", MIB)
    overlap(program, image, whole, shifted)
    overlap(program, image, shifted, image)
    beside = loops.attach(image, "--offset", 4 * MIB, "--sizelimit", MIB)
    program("copy", "--allow=live-source", beside, behind)  # the file's time is that of both
    assert image.read_bytes()[4 * MIB:5 * MIB] == image.read_bytes()[5 * MIB:6 * MIB]


def test_overlap_may_be_allowed(image, program, loops):
    one, two = (loops.attach(image, "--offset", at, "--sizelimit", MIB) for at in (0, 4096))
    check(program, image, OK, "copy", "--allow=same,live-source", one, two)


def test_a_loop_device_on_a_loop_device(image, program, loops):
    low = loops.attach(image, "--offset", MIB)
    high = loops.attach(low, "--offset", MIB, "--sizelimit", MIB)
    for one, other in ((low, high), (high, low), (high, image), (image, high)):
        done = check(program, image, REFUSED, "copy", "--size-mismatch=zero-tail", one, other)
        assert "overlap" in done.err or "held" in done.err or "open for writing" in done.err, str(done)
    done = check(program, image, REFUSED, "copy", "--size-mismatch=zero-tail", "--allow=held,live-source", high, low)
    assert "overlap" in done.err, str(done)


@pytest.fixture
def disk(folder, random, loops):
    """A disk with two partitions of 2 MiB, at 1 and at 3 MiB; returns the file, the disk and nodes of the partitions."""
    path = Image(random.randbytes(8 * MIB)).write(folder / "disk")
    device = loops.attach(path, "-P")
    nodes = []
    for number, start in ((1, 2048), (2, 6144)):
        if subprocess.run(["addpart", device, str(number), str(start), "4096"], capture_output=True).returncode:
            pytest.skip("no partitions on loop devices here")
        major, minor = pathlib.Path(f"/sys/class/block/{device[5:]}p{number}/dev").read_text().split(":")
        nodes.append(folder / f"p{number}")
        os.mknod(nodes[-1], 0o600 | stat.S_IFBLK, os.makedev(int(major), int(minor)))
    return path, device, *nodes


def test_a_partition_and_its_disk(disk, program):
    path, device, first, second = disk
    before = path.read_bytes()
    for one, other in ((first, device), (device, first), (first, path)):
        done = program("copy", "--size-mismatch=zero-tail", f"--overwrite={other}", "--allow=held,live-source", one, other, code=REFUSED)
        assert "overlap" in done.err, str(done)
    assert path.read_bytes() == before
    program("copy", "--allow=live-source", first, second)
    assert path.read_bytes()[3 * MIB:5 * MIB] == path.read_bytes()[MIB:3 * MIB]


def test_a_partition_and_its_disk_over_ssh(disk, program, ssh):
    path, device, first, _ = disk
    before = path.read_bytes()
    done = program("copy", *ssh, "--size-mismatch=zero-tail", f"--overwrite=far:{device}", "--allow=held,live-source", path,
                   f"far:{device}", code=REFUSED)
    assert "overlap" in done.err or "same volume" in done.err, str(done)
    assert path.read_bytes() == before


@pytest.fixture
def mapping(image, loops):
    """A linear mapping over the second half of a loop device."""
    if not shutil.which("dmsetup"):
        pytest.skip("there is no dmsetup")
    device = loops.attach(image)
    name = f"blkmove-test-{device[9:]}"
    made = subprocess.run(["dmsetup", "create", name], input=f"0 8192 linear {device} 8192\n", text=True, capture_output=True)
    if made.returncode:
        pytest.skip(f"no mappings here: {made.stderr}")
    yield device, f"/dev/mapper/{name}"
    subprocess.run(["dmsetup", "remove", "--retry", name], check=True)


def test_a_mapping_and_what_it_lies_upon(mapping, image, program):
    device, mapped = mapping
    for one in (device, image):
        done = check(program, image, REFUSED, "copy", "--size-mismatch=zero-tail", "--allow=held,live-source", mapped, one)
        assert "overlap" in done.err, str(done)
    done = check(program, image, (REFUSED, LOCKED, TROUBLE), "copy", "--size-mismatch=truncate", "--allow=live-source", device, mapped)
    assert "overlap" in done.err, str(done)
