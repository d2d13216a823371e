# SPDX-License-Identifier: GPL-2.0-or-later
"""A mirror that is killed at its very end: it is finished by its map, and its folder has not been cleared."""
import os

import pytest

from images import noise
from live_mirror import Mirror
from program import TROUBLE

SIZE = (1 << 20) + 512 * 5


@pytest.mark.parametrize("end,leg", [("finish", "target"), ("abort", "source")])
def test_h25_killed_when_it_had_ended(program, folder, random, end, leg):
    for name in "old", "new":
        noise(random, SIZE).write(folder / name)
    mirror = Mirror(program, folder, folder / "old", folder / "new", f"--overwrite={folder / 'new'}")
    mirror.start()
    pid = mirror.wait_for("ready")["pid"]
    if leg == "target":
        program("cutover", "m")
    place = program.state / "mirrors/m"
    kept = {name: (place / name).read_bytes() for name in os.listdir(place) if name not in ("map", "log", "lock", "receipt.json")}
    assert "command" in kept
    with open(place / "map", "rb") as map:
        program(end, "m")
        mirror.wait_for_gone(pid)
        assert not (place / "command").exists()
        # As if its folder had not been cleared: what the map says is what it wrote last.
        kept["map"] = map.read()
    for name, data in kept.items():
        (place / name).write_bytes(data)
    said = mirror.resume(code=TROUBLE).err
    assert "has ended" in said and f"the {leg} {mirror.leg(leg)} is the volume" in said, said
    assert not (place / "command").exists() and not (place / "map").exists()
    assert "there is nothing to resume" in mirror.resume(code=TROUBLE).err
