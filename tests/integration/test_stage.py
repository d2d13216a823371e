# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the stage of an atomic round may lie, what it refuses, and what is said of its end."""
import os
import pathlib
import shutil

import pytest

from program import REFUSED, TROUBLE

MIB = 1 << 20
SIZE = 4 * MIB + 513


class Points:
    """A target with the old point, a source with the new one."""

    def __init__(self, folder, random):
        self.random, self.source, self.target = random, folder / "source", folder / "target"
        self.old, self.new = random.randbytes(SIZE), random.randbytes(SIZE)
        self.target.write_bytes(self.old)
        self.source.write_bytes(self.new)

    def on(self, folder):
        shutil.copy(self.target, folder / "target")
        self.target = folder / "target"
        return self

    def holds(self):
        now = self.target.read_bytes()
        return "new" if now == self.new else "old" if now == self.old else "mixture"


@pytest.fixture
def points(folder, random):
    return Points(folder, random)


def refused(program, points, *words):
    """A round that does not begin: nothing of it stays."""
    done = program("sync", *words, points.source, points.target, code=TROUBLE)
    assert points.holds() == "old"
    assert not list(program.state.glob("*.stage")) and not points.target.with_name("target.blkmove-stage").exists()
    return done.err


# Where it lies

@pytest.mark.parametrize("kind", ["tmpfs", "ramfs"])
def test_h25_stage_in_memory(kind, points, mounts, program):
    """A power cut takes a folder in memory: a mixture would have no stage to be completed from."""
    memory = mounts("-t", kind, "none")
    said = refused(program, points, f"--atomic={memory}")
    assert "in memory" in said and "--atomic=DIR" in said
    assert os.listdir(memory) == []


def test_h25_record_in_memory(points, mounts, program):
    """Nor would a stage be found whose record is gone."""
    program.env["BLKMOVE_STATE_DIR"] = str(mounts("-t", "tmpfs", "none"))
    said = refused(program, points, "--atomic")
    assert "in memory" in said and "BLKMOVE_STATE_DIR" in said


def test_stage_in_memory_with_its_target(points, mounts, program):
    """They go together."""
    memory = mounts("-t", "tmpfs", "none")
    program("sync", f"--atomic={memory}", points.source, points.on(memory).target)
    assert points.holds() == "new" and os.listdir(memory) == ["target"]
    other = mounts("-t", "tmpfs", "none")
    shutil.copy(points.source, points.target)
    points.old = points.new
    points.new = points.random.randbytes(SIZE)
    points.source.write_bytes(points.new)
    assert "in memory" in refused(program, points, f"--atomic={other}")


def test_h25_target_without_lasting_identity(points, mounts, program):
    """Of a file system that has but a number of this boot."""
    points.on(mounts("-t", "ramfs", "none"))
    assert "no identity that outlasts a restart" in refused(program, points, "--atomic")
    program("sync", points.source, points.target)
    assert points.holds() == "new"


# What recover cannot do

def test_recover_needs_an_agent_that_knows_stages(points, folder, sshd, program):
    """An earlier agent opens the target, answers without `recovered`, and has looked for nothing."""
    agent, earlier = folder / "agent", folder / "earlier"
    code = pathlib.Path(program.path).read_bytes()
    assert b"\0recovered\0" in code
    earlier.write_bytes(code.replace(b"\0recovered\0", b"\0rexovered\0"))
    earlier.chmod(0o755)
    agent.write_text(f"#!/bin/sh\nexport BLKMOVE_STATE_DIR='{program.state}'\nexec {earlier} \"$@\"\n")
    agent.chmod(0o755)
    for more in [], ["--drop"]:
        done = program("recover", *more, "--ssh", sshd.ssh, "--agent-path", agent, f"there:{points.target}", code=TROUBLE)
        assert "knows nothing of stages" in done.err and "nothing to do" not in done.out.decode(), str(done)
