# SPDX-License-Identifier: GPL-2.0-or-later
"""A move whose machine was started anew, by its record and what its mirror has left: which leg counts is said before a device is looked for, of which there
need be none here."""
import json
import os
import signal

import pytest

from images import noise
from program import OK, REFUSED, TROUBLE, wait_until

NAME = "blkmove-test-data"
MIRROR = f"move-{NAME}"
SIZE = (1 << 20) + 512 * 7


def ask(program):
    return json.loads(program("status", MIRROR, "--json").out)


@pytest.fixture
def mirror(program, folder, random):
    """In step; it is killed as by a reset at the end of the test's part."""
    for leg in "old", "new":
        noise(random, SIZE).write(folder / leg)
    program("mirror", f"--overwrite={folder / 'new'}", "--listen", f"nbd+unix:///?socket={folder / 's'}", "--name", MIRROR, folder / "old", folder / "new")
    wait_until(lambda: ask(program)["state"] == "ready", "both are the same")
    pid = ask(program)["pid"]
    yield lambda: os.kill(pid, signal.SIGKILL)
    if os.path.exists(f"/proc/{pid}"):
        os.kill(pid, signal.SIGKILL)


def record_switch(program):
    """As before the mirror is ordered to make it."""
    record = {"version": 1, "phase": "switched", "engine": "blkmove", "device": NAME, "uuid": "", "target": "far:/dev/disk", "boot": "another",
              "kind": 0, "sectors": SIZE // 512, "old_device": 0, "old": [[0, SIZE // 512, "linear", "8:16 0"]], "last": [], "lvm_group": "",
              "lvm_moved": "", "lvm_target": "", "lvm_first": "", "note": 0, "target_id": "", "led": True}
    place = program.state / "moves" / NAME
    place.mkdir(parents=True)
    (place / "record.json").write_text(json.dumps(record))
    return place / "record.json"


def wait_for_gone(program):
    wait_until(lambda: program("status", MIRROR, code=None).code != OK, "the mirror is gone")


def test_h25_switched_by_the_mirrors_map(program, mirror):
    """The target counts: what was written since is there alone, and nothing is forgotten without a word."""
    record = record_switch(program)
    program("cutover", MIRROR)
    mirror()
    wait_for_gone(program)
    for way in "--resume", "--undo":
        said = program("move", way, NAME, code=REFUSED).err
        assert "what was written since the switch is there alone" in said and "--undo --keep-old" in said, said
    assert json.loads(record.read_text())["phase"] == "switched" and (program.state / "mirrors" / MIRROR / "command").exists()


def test_h25_not_switched_by_the_mirrors_map(program, mirror):
    """Recorded, and not made: the move begins again as soon as there is its device, or is forgotten."""
    record = record_switch(program)
    mirror()
    wait_for_gone(program)
    said = program("move", "--resume", NAME, code=TROUBLE).err
    assert "there alone" not in said and "is not there: set it up" in said, said
    assert "the old leg has everything" in program("move", "--undo", NAME, code=None).err
    # Its mirror is forgotten, and the move knows still what was found.
    assert not (program.state / "mirrors" / MIRROR / "command").exists()
    assert not record.exists() or json.loads(record.read_text())["phase"] == "undoing"


def test_h25_a_map_that_is_gone(program, mirror):
    record = record_switch(program)
    program("cutover", MIRROR)
    mirror()
    wait_for_gone(program)
    (program.state / "mirrors" / MIRROR / "map").write_bytes(b"")
    for way in "--resume", "--undo":
        said = program("move", way, NAME, code=REFUSED).err
        assert "look which of both is the newer one" in said and "there alone" not in said, said
    assert json.loads(record.read_text())["phase"] == "switched"
    assert "the old leg is kept as it is" in program("move", "--undo", "--keep-old", NAME, code=None).err
