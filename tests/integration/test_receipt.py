# SPDX-License-Identifier: GPL-2.0-or-later
"""The receipt of a switch: what both legs held at it, so that an unchanged copy can be compared with it later."""
import json
import os
import shutil

import pytest

from live_mirror import Mirror
from nbd_client import Client
from program import TROUBLE, wait_until

NODE = 64 << 10
SIZE = 150 * NODE + 512 * 7


@pytest.fixture
def volumes(folder, random):
    source, target = folder / "source", folder / "target"
    with open(source, "wb") as file:
        file.truncate(SIZE)
        for node in range(0, 151, 3):
            os.pwrite(file.fileno(), random.randbytes(min(NODE, SIZE - node * NODE)), node * NODE)
    target.write_bytes(random.randbytes(SIZE))
    return source, target


def switched(mirror):
    mirror.wait_for("ready")
    mirror.program("cutover", "m")
    return json.loads(wait_until(lambda: (path := mirror.program.state / "mirrors/m/receipt.json").exists() and path, "a receipt").read_text())


def root(program, key, path):
    return program("digest", "--root", f"--key={key}", path).out.decode().split()[0]


def test_the_digests_of_a_receipt_are_those_of_the_legs_at_the_switch(program, folder, volumes, random):
    mirror = Mirror(program, folder, *volumes, "--verify")
    mirror.start()
    try:
        receipt = switched(mirror)
        mirror.program("finish", "m")
    finally:
        mirror.end()
    digests = receipt["digests"]
    assert receipt["verified"] and digests["written_since"] == 0 and digests["source"] == digests["target"]
    assert len(digests["key"]) == len(digests["source"]) == 32
    source, target = volumes
    assert source.read_bytes() == target.read_bytes()
    for path in volumes:
        assert root(program, digests["key"], path) == digests["source"]
        assert root(program, digests["key"][::-1], path) != digests["source"]
    assert oct((program.state / "mirrors/m/receipt.json").stat().st_mode & 0o777) == "0o600"
    # Any change shows: a byte, two nodes that changed places, the last byte of all.
    data = source.read_bytes()
    for change in ("byte", "places", "last"):
        other = bytearray(data)
        if change == "places":
            other[0:NODE], other[3 * NODE:4 * NODE] = data[3 * NODE:4 * NODE], data[0:NODE]
        else:
            other[random.randrange(SIZE) if change == "byte" else SIZE - 1] ^= 1
        (folder / "other").write_bytes(other)
        assert root(program, digests["key"], folder / "other") != digests["source"], change


def test_what_was_written_since_the_verification_is_told(program, folder, volumes, random):
    mirror = Mirror(program, folder, *volumes, "--verify")
    mirror.start()
    client = Client(mirror.uri, SIZE, random)
    try:
        mirror.wait_for("ready")
        client.start()
        wait_until(lambda: client.writes > 50, "writes")
        client.stop()
        frozen = folder / "frozen"
        shutil.copy(volumes[0], frozen)
        receipt = switched(mirror)
    finally:
        client.over.set()
        mirror.end()
    digests = receipt["digests"]
    assert digests["source"] == digests["target"]
    assert NODE <= digests["written_since"] <= SIZE
    assert root(program, digests["key"], frozen) != digests["source"]


def test_without_a_verification_there_are_no_digests(program, folder, volumes):
    mirror = Mirror(program, folder, *volumes)
    mirror.start()
    try:
        receipt = switched(mirror)
    finally:
        mirror.end()
    assert receipt["digests"] is None and "--verify" in receipt["digests_missing"] and not receipt["verified"]


def test_what_another_run_verified_is_not_said_of_this_one(program, folder, volumes):
    mirror = Mirror(program, folder, *volumes, "--verify")
    mirror.start()
    try:
        assert switched(mirror)["verified"]
        mirror.kill()
        mirror.resume()
        wait_until(lambda: mirror.status()["revertible"], "that it can revert")
        program("revert", "m")
        path = program.state / "mirrors/m/receipt.json"
        receipt = wait_until(lambda: (now := json.loads(path.read_text()))["authoritative"] == "source" and now, "a receipt")
    finally:
        mirror.end()
    assert receipt["digests"] is None and not receipt["verified"]


def test_a_root_alone_says_its_key(program, volumes):
    key, line = program("digest", "--root", volumes[0]).out.decode().splitlines()
    assert key.startswith("# key ") and root(program, key.split()[2], volumes[0]) == line.split()[0]
    assert "--root excludes" in program("digest", "--root", "--sha256", volumes[0], code=TROUBLE).err
