# SPDX-License-Identifier: GPL-2.0-or-later
"""An agent confined by a forced command in authorized_keys, over a real ssh: nothing outside can be read, written or made."""
import os

import pytest

from images import Image, first_difference, noise
from program import DIFFERS, LINK_LOST, REFUSED, TROUBLE

MIB = 1 << 20
NO = (TROUBLE, REFUSED)


@pytest.fixture
def source(folder, random):
    return Image(random.randbytes(MIB + 100)).write(folder / "source")


@pytest.fixture
def places(folder, random):
    """A folder that is allowed and one that is not, each with a volume, and ways from the one to the other."""
    inside, outside = folder / "inside", folder / "outside"
    for place in (inside, outside):
        (place / "sub").mkdir(parents=True)
        noise(random, MIB + 100).write(place / "volume")
    (inside / "link").symlink_to(outside / "volume")
    (inside / "relative").symlink_to("../outside/volume")
    (inside / "way").symlink_to(outside)
    (inside / "new").symlink_to(outside / "made")
    (inside / "root").symlink_to("/")
    (inside / "proc").symlink_to("/proc/self/root")
    (inside / "own").symlink_to("volume")
    (inside / "up").symlink_to("sub/../volume")
    (folder / "inside-too").mkdir()
    noise(random, MIB + 100).write(folder / "inside-too/volume")
    return inside, outside


def confined(sshd, program, *words):
    """An ssh whose key starts the agent with these words, whatever is asked for."""
    ssh = sshd.key(f'restrict,command="{program.path} agent {" ".join(map(str, words))}"')
    # One login for all that a test does; each run has an agent of its own in it.
    return ["--ssh", ssh, "--ssh-option=-oControlMaster=auto", f"--ssh-option=-oControlPath={ssh}.master",
            "--ssh-option=-oControlPersist=60", "--agent-path=/nonexistent/ignored"]


def ways_out(inside, outside):
    return [outside / "volume", f"{inside}/../outside/volume", f"{inside}/sub/../../outside/volume", inside / "link", inside / "relative",
            inside / "way/volume", f"{inside}/root{outside}/volume", f"{inside}/proc{outside}/volume",
            f"/proc/self/root{outside}/volume", f"{inside.parent}/inside-too/volume"]


def test_what_is_allowed_works(sshd, program, source, places):
    inside, _ = places
    ssh = confined(sshd, program, "--allow", inside)
    program("sync", *ssh, "--verify", source, f"far:{inside}/volume")
    assert first_difference(source.read_bytes(), (inside / "volume").read_bytes()) is None
    program("copy", *ssh, source, f"far:{inside}/sub/new")
    assert first_difference(source.read_bytes(), (inside / "sub/new").read_bytes()) is None
    # Links and dots that stay inside.
    for name in ("own", "up", "sub/../volume", "./volume"):
        program("verify", *ssh, source, f"far:{inside}/{name}")


def test_no_way_leads_out(sshd, program, source, places):
    inside, outside = places
    ssh = confined(sshd, program, "--allow", inside)
    before = {path: path.read_bytes() for path in (outside / "volume", inside.parent / "inside-too/volume")}
    for way in ways_out(inside, outside):
        done = program("copy", *ssh, source, f"far:{way}", code=NO)
        assert str(way) in done.err and "allow" in done.err, str(done)
        done = program("copy", *ssh, f"far:{way}", source.parent / "stolen", code=NO)
        assert not (source.parent / "stolen").exists(), str(done)
    for path, data in before.items():
        assert path.read_bytes() == data


def test_nothing_is_made_outside(sshd, program, source, places):
    inside, outside = places
    ssh = confined(sshd, program, "--allow", inside)
    for name in (inside / "new", outside / "made", f"{inside}/../outside/made", inside / "way/made"):
        program("copy", *ssh, source, f"far:{name}", code=NO)
    assert not (outside / "made").exists()


def test_what_is_outside_is_not_told_apart(sshd, program, source, places):
    """The words are the same whether a file outside exists or not."""
    inside, outside = places
    ssh = confined(sshd, program, "--allow", inside)
    said = [program("copy", *ssh, f"far:{path}", source.parent / "stolen", code=NO).err.replace(str(path), "X")
            for path in (outside / "volume", outside / "nothing")]
    assert said[0] == said[1]


def test_read_only(sshd, program, source, places):
    inside, _ = places
    ssh = confined(sshd, program, "--allow", inside, "--read-only")
    before = (inside / "volume").read_bytes()
    for name in ("volume", "own", "sub/new"):
        done = program("copy", *ssh, source, f"far:{inside}/{name}", code=NO)
        assert "--read-only" in done.err, str(done)
    assert (inside / "volume").read_bytes() == before and not (inside / "sub/new").exists()
    program("copy", *ssh, f"far:{inside}/volume", source.parent / "copy")
    assert (source.parent / "copy").read_bytes() == before
    program("verify", *ssh, source, f"far:{inside}/volume", code=DIFFERS)


def test_one_file_and_one_device(sshd, program, source, places, loops, folder, random):
    inside, outside = places
    backing = [noise(random, MIB).write(folder / f"backing-{i}") for i in range(2)]
    devices = [loops.attach(path) for path in backing]
    ssh = confined(sshd, program, "--allow", devices[0], "--allow", outside / "volume")
    program("copy", *ssh, "--size-mismatch=truncate", devices[1], f"far:{outside}/volume")
    assert first_difference(backing[1].read_bytes(), (outside / "volume").read_bytes()) is None
    program("copy", *ssh, devices[1], f"far:{devices[0]}")
    assert first_difference(backing[1].read_bytes(), backing[0].read_bytes()) is None
    for other in (devices[1], outside / "other", inside / "volume", f"{outside}/volume/../other"):
        program("copy", *ssh, f"far:{other}", folder / "stolen", code=NO)
    assert not (folder / "stolen").exists()


def test_the_command_that_was_asked_for_is_not_run(sshd, program, source, places):
    """A forced command: neither another program nor other options come in."""
    inside, outside = places
    ssh = confined(sshd, program, "--allow", inside, "--read-only")
    ssh[-1] = f"--agent-path={source.parent}/evil"
    evil = source.parent / "evil"
    evil.write_text(f"#!/bin/sh\ntouch {outside}/evil-ran\n")
    evil.chmod(0o755)
    program("copy", *ssh, f"far:{inside}/volume", source.parent / "copy")
    assert not (outside / "evil-ran").exists()


def test_without_allow_all_is_open(ssh, program, source, places):
    _, outside = places
    program("sync", *ssh, source, f"far:{outside}/volume")
    assert first_difference(source.read_bytes(), (outside / "volume").read_bytes()) is None


def test_an_agent_by_hand(program):
    """Nobody is there: it ends with words, and no frames but its own greeting."""
    program("agent", code=(0, 1), stdin=b"", timeout_s=20)
    program("agent", code=1, stdin=b"GET / HTTP/1.0\r\n\r\n", timeout_s=20)
    program("agent", code=1, stdin=os.urandom(100000), timeout_s=20)
    for words in (["--allow=relative"], ["--timeout=0"], ["/dev/sda"]):
        program("agent", *words, code=64, timeout_s=20)


def test_a_login_that_is_refused(sshd, program, source, folder):
    """A key that is not known there: ssh's own words come through."""
    done = program("copy", "--ssh", sshd.ssh, "--ssh-option=-oIdentityFile=/nonexistent", f"--ssh-option=-F{folder}/empty",
                   "--ssh-option=-oBatchMode=yes", "--ssh-option=-oStrictHostKeyChecking=no", "--ssh-option=-oUserKnownHostsFile=/dev/null",
                   f"--ssh-option=-p{(sshd.folder / 'port').read_text().strip()}", source, f"127.0.0.1:{folder}/target",
                   code=(TROUBLE, LINK_LOST))
    assert "127.0.0.1" in done.err and ("denied" in done.err.lower() or "config" in done.err), str(done)
    assert not (folder / "target").exists()
