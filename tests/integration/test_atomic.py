# SPDX-License-Identifier: GPL-2.0-or-later
"""sync --atomic: the target is the old point or the new one, whatever is killed, full, damaged or exchanged. Power cuts: tests/sim and tests/vm."""
import os
import pathlib
import shutil
import signal
import stat
import time

import pytest

from images import changed, first_difference, flip, noise
from processes import agents
from program import DIFFERS, INTERRUPTED, LINK_LOST, OK, REFUSED, TROUBLE, wait_until

MIB = 1 << 20
SIZE = 16 * MIB + 4321
KILLS = int(os.environ.get("BLKMOVE_KILLS") or 24)


class Round:
    """A source, a target that holds an older point, and copies of both points."""

    def __init__(self, folder, random, size=SIZE):
        self.random = random
        self.source, self.target = folder / "source", folder / "target"
        self.new = bytearray(random.randbytes(size))
        self.source.write_bytes(self.new)
        shutil.copy(self.source, self.target)
        self.next()

    def next(self, pieces=60):
        """The target's point becomes the old one, the source moves on."""
        self.old = bytes(self.target.read_bytes())
        for _ in range(pieces):
            length = self.random.choice([1, 511, 4096, 30000, 200000])
            at = self.random.randrange(len(self.new) - length)
            self.new[at:at + length] = bytes(length) if self.random.randrange(3) == 0 else self.random.randbytes(length)
        self.source.write_bytes(self.new)

    def holds(self):
        now = self.target.read_bytes()
        return "new" if now == self.new else "old" if now == self.old else "mixture"


@pytest.fixture
def point(folder, random):
    return Round(folder, random)


@pytest.fixture
def stage(point):
    return point.target.with_name("target.blkmove-stage")


@pytest.fixture
def far(folder, sshd, program):
    """Options that lead to an agent with this test's folders."""
    path = folder / "agent"
    path.write_text("#!/bin/sh\n" + "".join(f"export {key}='{program.env[key]}'\n" for key in ("BLKMOVE_STATE_DIR", "BLKMOVE_RUN_DIR"))
                    + f"exec {program.path} \"$@\"\n")
    path.chmod(0o755)
    return ["--ssh", sshd.ssh, "--agent-path", path]


def records(program):
    return sorted(program.state.glob("*.stage"))


def check_clean(program, stage):
    assert not stage.exists() and not records(program)


def half_applied(program, point, mounts, folder, *more):
    """A round that was committed and could not be applied, as its target's disk was full; returns the target, which has room again."""
    disk = mounts("-t", "tmpfs", "-o", f"size={len(point.old) // 2 + 2 * MIB}", "none")
    target = disk / "target"
    # Sparse: the second half takes room only when it is written.
    with open(target, "wb") as file:
        file.write(point.old[:len(point.old) // 2])
        file.truncate(len(point.old))
    point.target, point.old = target, target.read_bytes()
    done = program("sync", f"--atomic={folder}", *more, point.source, target, code=TROUBLE)
    assert "recover" in done.err, str(done)
    assert point.holds() == "mixture"
    assert os.system(f"mount -o remount,size={3 * len(point.old)} {disk}") == 0
    return target


# Rounds

def test_atomic_rounds(point, stage, program):
    os.chmod(point.target, 0o640)
    before = os.stat(point.target)
    for more in [[], ["--verify"], ["--cache=direct"], ["--no-zero-detection"], ["--read-holes"]]:
        program("sync", "--atomic", *more, point.source, point.target)
        assert point.holds() == "new"
        check_clean(program, stage)
        point.next()
    after = os.stat(point.target)
    assert (before.st_ino, before.st_mode) == (after.st_ino, after.st_mode)
    assert stat.S_IMODE(after.st_mode) == 0o640


@pytest.mark.parametrize("size", [1, 511, 4096, 4097, MIB, 3 * MIB + 5])
def test_h12_atomic_sizes(size, folder, random, program):
    source, target = folder / "s", folder / "t"
    for _ in range(4):
        image = noise(random, size)
        image.write(source)
        if not target.exists():
            noise(random, size).write(target)
        program("sync", "--atomic", "--verify", source, target)
        assert first_difference(source.read_bytes(), target.read_bytes()) is None
        changed(random, image).write(source)
        # Of the same size, as a round's source is.
        os.truncate(source, size)
        program("sync", "--atomic", source, target)
        assert first_difference(source.read_bytes(), target.read_bytes()) is None


def test_atomic_target_that_is_made(folder, random, program):
    source, target = folder / "s", folder / "t"
    noise(random, 3 * MIB + 77).write(source)
    program("sync", "--atomic", "--verify", source, target)
    assert target.read_bytes() == source.read_bytes()
    assert not records(program)


def test_atomic_larger_target(folder, random, program):
    source, target = folder / "s", folder / "t"
    noise(random, MIB).write(source)
    noise(random, 2 * MIB + 9).write(target)
    program("sync", "--atomic", source, target, code=REFUSED)
    program("sync", "--atomic", "--verify", "--size-mismatch=zero-tail", source, target)
    assert target.read_bytes() == source.read_bytes() + bytes(MIB + 9)


def test_atomic_loop_device(loops, point, program):
    """The stage of a device lies in the state folder."""
    os.truncate(point.source, 16 * MIB)
    os.truncate(point.target, 16 * MIB)
    del point.new[16 * MIB:]
    point.next()
    device = loops.attach(point.target)
    running = program.start("sync", "--atomic", "--rate=10M", point.source, device)
    wait_until(lambda: records(program), "a stage in the state folder")
    running.end()
    os.sync()
    assert point.holds() == "new" and not records(program)


def test_atomic_options(point, program):
    for words in (["--keep-points=3"], ["--atomic", "--on-read-error=list"], ["--atomic", "--size-mismatch=truncate"],
                  ["--atomic=here"], ["--atomic", "--keep-points=0"]):
        program("sync", *words, point.source, point.target, code=TROUBLE)
    assert "machine that has the volume" in program("recover", "nbd://localhost/x", code=TROUBLE).err
    done = program("sync", "--atomic", "--keep-points=2", point.source, point.target, code=TROUBLE)
    assert "thin volume" in done.err
    assert point.holds() == "old"
    program("sync", "--atomic", "--dry-run", point.source, point.target)
    assert point.holds() == "old" and not records(program)


def test_points_are_refused_by_the_machine_of_the_volume(point, stage, far, program):
    """Before anything is read, and of nothing that this machine has."""
    done = program("sync", "--atomic", "--keep-points=2", *far, point.source, f"there:{point.target}", code=TROUBLE)
    assert "thin volume" in done.err and "cannot stage a round" in done.err, str(done)
    assert point.holds() == "old"
    check_clean(program, stage)


# Killed, stopped, cut off

def test_h25_killed_at_random_moments(random, point, stage, program):
    """kill -9: until recover, others are refused the mixture; after it there is none."""
    seen = set()
    begin = time.monotonic()
    program("sync", "--atomic", point.source, point.target)
    length = time.monotonic() - begin
    for number in range(KILLS):
        point.next(200)
        running = program.start("sync", "--atomic", *(["--resume"] if number % 2 else []), point.source, point.target)
        time.sleep(random.random() * length * 1.2)
        running.kill()
        running.end((-signal.SIGKILL, OK))
        if point.holds() == "mixture":
            program("verify", point.source, point.target, code=TROUBLE)
            program("digest", point.target, code=None)
        program("recover", point.target)
        held = point.holds()
        assert held in ("old", "new")
        assert "recover" not in program("recover").out.decode()
        program("verify", point.source, point.target, code=OK if held == "new" else DIFFERS)
        seen.add(held)
    assert KILLS < 20 or seen == {"old", "new"}
    program("sync", "--atomic", "--verify", point.source, point.target)
    assert point.holds() == "new"
    check_clean(program, stage)


def test_stopped_and_resumed(point, stage, program):
    """What was staged is not sent again; a run without --resume begins anew."""
    point.new[:] = point.random.randbytes(len(point.new))
    point.source.write_bytes(point.new)
    running = program.start("sync", "--atomic", "--rate=8M", point.source, point.target)
    program.wait_for_position(running, 8 * MIB)
    running.kill(signal.SIGINT)
    done = running.end(INTERRUPTED)
    assert "as it was" in done.err
    assert point.holds() == "old" and stage.exists()
    assert "was interrupted before its commit" in program("recover").out.decode()
    done = program("sync", "--atomic", "--resume", "--json", "--quiet", point.source, point.target)
    sent = done.events()[-1]["sent"]
    assert MIB < sent < len(point.new) - 4 * MIB
    assert point.holds() == "new"
    check_clean(program, stage)


def test_what_was_staged_of_another_source(point, stage, folder, program):
    """A resumed round of another source: nothing of the first one is left in it."""
    other = folder / "other"
    running = program.start("sync", "--atomic", "--rate=8M", point.source, point.target)
    program.wait_for_position(running, 12 * MIB)
    running.kill(signal.SIGINT)
    running.end(INTERRUPTED)
    assert stage.exists()
    image = bytearray(point.old)
    image[5000:6000] = bytes(1000)
    other.write_bytes(image)
    program("sync", "--atomic", "--resume", other, point.target)
    assert point.target.read_bytes() == image


def test_atomic_over_a_link_that_is_cut(point, stage, sshd, far, program):
    point.new[:] = point.random.randbytes(len(point.new))
    point.source.write_bytes(point.new)
    running = program.start("sync", "--atomic", "--rate=8M", "--verify", *far, point.source, f"there:{point.target}")
    for position in (4 * MIB, 10 * MIB):
        program.wait_for_position(running, position)
        assert point.holds() == "old"
        sshd.cut()
    running.end()
    assert point.holds() == "new"
    check_clean(program, stage)


def test_h25_remote_killed_at_random_moments(random, point, stage, far, program):
    """Either side."""
    begin = time.monotonic()
    program("sync", "--atomic", *far, point.source, f"there:{point.target}")
    length = time.monotonic() - begin
    assert point.holds() == "new"
    for number in range(KILLS // 2):
        point.next(200)
        running = program.start("sync", "--atomic", "--retries=0", *far, point.source, f"there:{point.target}")
        time.sleep(random.random() * length)
        if number % 2:
            running.kill()
        else:
            for pid in agents(running.pid):
                os.kill(pid, signal.SIGKILL)
        running.end((-signal.SIGKILL, OK, LINK_LOST, TROUBLE))
        wait_until(lambda: program("recover", *far, f"there:{point.target}", code=None).code == OK, "the agent to be gone", timeout_s=120)
        assert point.holds() in ("old", "new")
    program("sync", "--atomic", "--verify", *far, point.source, f"there:{point.target}")
    assert point.holds() == "new"
    check_clean(program, stage)


# Full, damaged, exchanged

def test_h27_full_stage(point, mounts, program):
    """The target is the old point, and the disk has its room again."""
    # Both on one: a stage in memory is refused to others.
    disk = mounts("-t", "tmpfs", "-o", f"size={len(point.old) + 5 * MIB}", "none")
    point.target = pathlib.Path(shutil.copy(point.target, disk / "target"))
    point.new[:] = point.random.randbytes(len(point.new))
    point.source.write_bytes(point.new)
    done = program("sync", f"--atomic={disk}", point.source, point.target, code=TROUBLE)
    assert "make room" in done.err and "is as it was" in done.err, str(done)
    assert point.holds() == "old"
    assert list(disk.iterdir()) == [point.target] and not records(program)


def test_committed_is_completed_by_recover(point, mounts, folder, program):
    target = half_applied(program, point, mounts, folder)
    for words in (["verify", point.source, target], ["digest", target], ["copy", target, folder / "elsewhere"],
                  ["sync", "--dry-run", point.source, target], ["serve", "--read-only", f"--listen=nbd+unix:///?socket={folder}/s", target]):
        done = program(*words, code=(TROUBLE, REFUSED))
        assert "blkmove recover" in done.err, str(done)
    assert "COMMITTED AND NOT COMPLETED" in program("recover").out.decode()
    assert point.holds() == "mixture"
    assert "it is the new point" in program("recover", target).out.decode()
    assert point.holds() == "new" and not records(program)
    assert "nothing to do" in program("recover", target).out.decode()


def test_committed_is_completed_by_all(point, mounts, folder, random, program):
    first = half_applied(program, point, mounts, folder)
    other = folder / "other"
    other.mkdir()
    second = Round(other, random)
    half_applied(program, second, mounts, other)
    done = program("recover", "--all").out.decode()
    assert f"{first}: it is the new point" in done and f"{second.target}: it is the new point" in done
    assert point.holds() == "new" and second.holds() == "new" and not records(program)
    assert not program("recover", "--all").out


def test_committed_is_completed_by_the_next_writer(point, mounts, folder, program):
    target = half_applied(program, point, mounts, folder)
    done = program("sync", "--atomic", point.source, target)
    assert "brought to the point of an earlier" in done.err
    assert point.holds() == "new" and not records(program)


def test_committed_is_completed_there(point, mounts, folder, far, program):
    target = half_applied(program, point, mounts, folder)
    done = program("verify", *far, point.source, f"there:{target}", code=TROUBLE)
    assert "blkmove recover" in done.err
    assert "it is the new point" in program("recover", *far, f"there:{target}").out.decode()
    assert point.holds() == "new" and not records(program)


def test_committed_is_found_under_another_name(point, mounts, folder, program):
    target = half_applied(program, point, mounts, folder)
    point.target = target.rename(target.with_name("renamed"))
    program("verify", point.source, point.target, code=TROUBLE)
    program("recover", point.target)
    assert point.holds() == "new" and not records(program)


def differing_block(point, zeros=False):
    """Where a block of data, or zeros, of the new point begins, which the old one does not have."""
    return next(i for i in range(0, len(point.old), 4096) if point.old[i:i + 4096] != point.new[i:i + 4096]
                and (bytes(point.new[i:i + 4096]) == bytes(4096)) == zeros)


@pytest.mark.parametrize("what", ["data", "table", "commit", "header"])
def test_damaged_stage(what, point, mounts, folder, program):
    """It is refused before anything is written, until it is given up; then a sync makes the target whole."""
    target = half_applied(program, point, mounts, folder)
    stage, = folder.glob("*.stage")
    length = stage.stat().st_size
    blocks = -(-len(point.old) // 4096)
    map_at = blocks * 4096
    table_at = map_at + -(-((blocks + 7) // 8) // 4096) * 4096
    flip(stage, {"data": differing_block(point), "table": table_at + 30, "commit": length - 8192 + 33, "header": length - 4096 + 100}[what], 0x40)
    before = target.read_bytes()
    done = program("recover", target, code=REFUSED)
    assert "--drop" in done.err and "damaged" in done.err
    program("sync", point.source, target, code=REFUSED)
    program("verify", point.source, target, code=TROUBLE)
    assert target.read_bytes() == before
    program("recover", "--drop", target)
    assert target.read_bytes() == before and not records(program) and not stage.exists()
    program("sync", "--verify", point.source, target)
    assert point.holds() == "new"


@pytest.mark.parametrize("zeros", [False, True])
def test_h10_target_written_since(zeros, point, mounts, folder, program):
    """What somebody else wrote after the crash is not overwritten, nor where the stage has zeros: there a guest writes that was started too early."""
    if zeros:
        point.new[8192:262144] = bytes(262144 - 8192)
        point.source.write_bytes(point.new)
    target = half_applied(program, point, mounts, folder)
    at = differing_block(point, zeros)
    with open(target, "r+b") as file:
        file.seek(at)
        file.write(b"somebody else")
    before = target.read_bytes()
    done = program("recover", target, code=REFUSED)
    assert "somebody else" in done.err
    program("sync", "--atomic", point.source, target, code=REFUSED)
    assert target.read_bytes() == before


def test_h21_nothing_is_applied_under_a_user(point, mounts, loops, folder, program):
    target = half_applied(program, point, mounts, folder)
    before = target.read_bytes()
    with open(target, "r+b"):
        for words in (["recover", target], ["sync", point.source, target], ["sync", "--atomic", point.source, target]):
            done = program(*words, code=REFUSED)
            assert "is in use" in done.err and f"pid {os.getpid()}" in done.err
    assert target.read_bytes() == before
    device = loops.attach(target)
    assert "is in use" in program("recover", target, code=REFUSED).err and target.read_bytes() == before
    loops.detach(device)
    program("recover", target)
    assert point.holds() == "new"


def test_h09_target_resized_since(point, mounts, folder, program):
    target = half_applied(program, point, mounts, folder)
    os.truncate(target, len(point.old) + 4096)
    done = program("recover", target, code=REFUSED)
    assert "resized" in done.err


def test_h17_stage_of_another_file(point, folder, random, program):
    """An image that took the name of the one that a stage beside it is for."""
    running = program.start("sync", "--atomic", "--rate=8M", point.source, point.target)
    program.wait_for_position(running, 8 * MIB)
    running.kill()
    running.end(-signal.SIGKILL)
    restored = folder / "restored"
    restored.write_bytes(random.randbytes(len(point.old)))
    restored.rename(point.target)
    point.old = point.target.read_bytes()
    program("recover", point.target)
    assert point.holds() == "old"
    program("sync", "--atomic", "--resume", "--verify", point.source, point.target)
    assert point.holds() == "new"


def test_h10_target_written_during_the_round(point, stage, program):
    """Somebody else writes to the target while a round is being staged: the round does not come on top of it."""
    running = program.start("sync", "--atomic", "--rate=8M", point.source, point.target)
    program.wait_for_position(running, 8 * MIB)
    with open(point.target, "r+b") as file:
        file.write(b"somebody else")
    before = point.target.read_bytes()
    done = running.end(TROUBLE)
    assert "somebody else wrote" in done.err and "left as it is" in done.err and "recover" not in done.err, str(done)
    assert point.target.read_bytes() == before


def test_locked_while_a_round_is_staged(point, program):
    running = program.start("sync", "--atomic", "--rate=8M", point.source, point.target)
    program.wait_for_position(running, 4 * MIB)
    program("recover", point.target, code=7)
    program("sync", "--atomic", point.source, point.target, code=7)
    running.end()
    assert point.holds() == "new"


def test_agent_that_is_confined(point, folder, sshd, program):
    """What --allow does not name, a stage is not put into."""
    key = sshd.key(f'command="BLKMOVE_STATE_DIR={program.state} {program.path} agent --allow {point.target}"')
    done = program("sync", "--atomic", "--ssh", key, point.source, f"there:{point.target}", code=(TROUBLE, REFUSED))
    assert "allow" in done.err
    assert point.holds() == "old"
    key = sshd.key(f'command="BLKMOVE_STATE_DIR={program.state} {program.path} agent --allow {folder}"')
    program("sync", "--atomic", "--ssh", key, point.source, f"there:{point.target}")
    assert point.holds() == "new"


# Places of stages

def test_h17_stage_where_another_one_was(point, folder, loops, program):
    """A stage of the state folder, then one elsewhere, and the reverse: each is found, whatever an earlier round left there."""
    for path in (point.source, point.target):
        os.truncate(path, 16 * MIB)
    device, elsewhere = loops.attach(point.target), folder / "elsewhere"
    elsewhere.mkdir()
    for before, after in (["--atomic", f"--atomic={elsewhere}"], [f"--atomic={elsewhere}", "--atomic"]):
        running = program.start("sync", before, "--rate=8M", point.source, device)
        program.wait_for_position(running, 8 * MIB)
        running.kill()
        running.end(-signal.SIGKILL)
        record, = records(program)
        running = program.start("sync", after, "--rate=8M", point.source, device)
        program.wait_for_position(running, 4 * MIB)
        record, = records(program)
        assert record.is_symlink() == (after != "--atomic")
        assert len(list(elsewhere.iterdir())) == (after != "--atomic")
        running.kill(signal.SIGINT)
        running.end(INTERRUPTED)
        program("recover", "--drop", device)
        assert not records(program) and not list(elsewhere.iterdir())


def test_h27_stage_that_is_not_there(point, mounts, folder, program):
    """What it lies on is not mounted: the target is in doubt for all, until it is there again or given up."""
    target = half_applied(program, point, mounts, folder)
    stage, = folder.glob("*.stage")
    away = stage.rename(folder / "away")
    mixture = target.read_bytes()
    assert str(stage) in program("recover", code=TROUBLE).err
    assert str(stage) in program("recover", "--all", code=TROUBLE).err
    for words in (["recover", target], ["sync", point.source, target], ["sync", "--atomic", point.source, target], ["verify", point.source, target]):
        done = program(*words, code=(REFUSED, TROUBLE))
        assert str(stage) in done.err and "--drop" in done.err, str(done)
    assert target.read_bytes() == mixture
    away.rename(stage)
    program("recover", "--all")
    assert point.holds() == "new" and not records(program)


def test_h17_stage_that_was_given_up_comes_back(point, mounts, folder, program):
    """Given up while it was away: it is not applied over what was written since."""
    target = half_applied(program, point, mounts, folder)
    stage, = folder.glob("*.stage")
    away = stage.rename(folder / "away")
    program("recover", "--drop", target)
    program("sync", point.source, target)
    assert point.holds() == "new" and not records(program)
    point.next()
    away.rename(stage)
    program("sync", point.source, target)
    assert point.holds() == "new"
    done = program("sync", f"--atomic={folder}", point.source, target, code=REFUSED)
    assert str(stage) in done.err and stage.exists()
    stage.unlink()
    program("sync", f"--atomic={folder}", point.source, target)
    assert not records(program)


def test_h17_volume_has_another_name(point, mounts, folder, random, program):
    """--all writes to no volume that has taken the name, and says that the right one was not completed."""
    target = half_applied(program, point, mounts, folder)
    moved = target.rename(target.with_name("moved"))
    done = program("recover", "--all", code=TROUBLE)
    assert str(target) in done.err
    other = random.randbytes(len(point.old))
    target.write_bytes(other)
    done = program("recover", "--all", code=TROUBLE)
    assert "another volume" in done.err and str(target) in done.err
    assert target.read_bytes() == other and len(records(program)) == 1
    assert "it is the new point" in program("recover", moved).out.decode()
    point.target = moved
    assert point.holds() == "new" and not records(program)


def test_h17_named_by_a_link(point, mounts, folder, program):
    """What was named is noted, not where that led: a link may lead elsewhere after a restart."""
    target = half_applied(program, point, mounts, folder)
    program("recover", target)
    link = folder / "link"
    link.symlink_to(target)
    point.next()
    running = program.start("sync", "--atomic", "--rate=8M", point.source, link)
    program.wait_for_position(running, 4 * MIB)
    assert str(link) in program("recover").out.decode()
    running.end()


def test_h17_stage_of_a_renamed_image(mounts, point, random, program):
    """Another image has the name now. It is in no doubt; its rounds do not touch the stage of the renamed one, nor does --drop."""
    target = half_applied_beside(program, point, mounts)
    stage = target.with_name("target.blkmove-stage")
    moved = target.rename(target.with_name("moved"))
    target.write_bytes(random.randbytes(len(point.old)))
    program("digest", target)
    done = program("recover", "--drop", target, code=REFUSED)
    assert "another volume" in done.err and stage.exists()
    program("sync", "--atomic", point.source, target)
    assert point.holds() == "new" and stage.exists()
    program("digest", moved, code=(REFUSED, TROUBLE))
    program("recover", moved)
    point.target = moved
    assert point.holds() == "new" and not stage.exists() and not records(program)


def half_applied_beside(program, point, mounts):
    """The same as half_applied(), with its stage beside the target: the room that this takes is freed, and taken, in the right moment."""
    elsewhere = point.source.with_name("elsewhere")
    elsewhere.mkdir()
    target = half_applied(program, point, mounts, elsewhere)
    stage, = elsewhere.glob("*.stage")
    record, = records(program)
    beside = target.with_name("target.blkmove-stage")
    shutil.copy(stage, beside)
    record.unlink()
    record.symlink_to(beside)
    stage.unlink()
    return target


def test_h17_other_state_folder(point, mounts, folder, program):
    """Without a folder that can be read nothing is said of a stage."""
    target = half_applied(program, point, mounts, folder)
    state = program.state
    hidden = state.rename(state.with_name("hidden"))
    state.write_bytes(b"")
    program("recover", code=TROUBLE)
    program("recover", "--all", code=TROUBLE)
    program("recover", target, code=TROUBLE)
    assert point.holds() == "mixture"
    state.unlink()
    hidden.rename(state)
    program("recover", target)
    assert point.holds() == "new"
