# SPDX-License-Identifier: GPL-2.0-or-later
"""A mirror that is killed at its very end: it is finished by its map, and its folder has not been cleared."""
import json
import os

import pytest

from images import noise
from program import TROUBLE, wait_until

SIZE = (1 << 20) + 512 * 5


@pytest.mark.parametrize("end,leg", [("finish", "target"), ("abort", "source")])
def test_h25_killed_when_it_had_ended(program, folder, random, end, leg):
    for name in "old", "new":
        noise(random, SIZE).write(folder / name)
    program("mirror", f"--overwrite={folder / 'new'}", "--listen", f"nbd+unix:///?socket={folder / 's'}", "--name", "m", folder / "old", folder / "new")
    wait_until(lambda: json.loads(program("status", "m", "--json").out)["state"] == "ready", "both are the same")
    if leg == "target":
        program("cutover", "m")
    pid = json.loads(program("status", "m", "--json").out)["pid"]
    place = program.state / "mirrors/m"
    kept = {name: (place / name).read_bytes() for name in os.listdir(place) if name not in ("map", "log", "lock", "receipt.json")}
    assert "command" in kept
    with open(place / "map", "rb") as map:
        program(end, "m")
        wait_until(lambda: not os.path.exists(f"/proc/{pid}"), "the mirror is gone")
        assert not (place / "command").exists()
        # As if its folder had not been cleared: what the map says is what it wrote last.
        kept["map"] = map.read()
    for name, data in kept.items():
        (place / name).write_bytes(data)
    said = program("mirror", "--resume=m", code=TROUBLE).err
    assert "has ended" in said and f"the {leg} {folder / ('new' if leg == 'target' else 'old')} is the volume" in said, said
    assert not (place / "command").exists() and not (place / "map").exists()
    assert "there is nothing to resume" in program("mirror", "--resume=m", code=TROUBLE).err
