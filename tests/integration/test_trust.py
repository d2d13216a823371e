# SPDX-License-Identifier: GPL-2.0-or-later
"""What an interrupted run has noted is trusted only as long as nobody else can have written to the target."""
import os
import signal
import subprocess

import pytest

from processes import agents, children
from program import INTERRUPTED, LOCKED, OK, TROUBLE, wait_until

MIB = 1 << 20
LONG = 24 * MIB


def interrupt(program, *words, number=signal.SIGINT):
    running = program.start(*words, "--rate=4M")
    program.wait_for_position(running, MIB)
    running.kill(number)
    return running.end(INTERRUPTED if number == signal.SIGINT else -number)


@pytest.fixture
def volumes(folder, random):
    a, b, target = folder / "a", folder / "b", folder / "target"
    for path in (a, b, target):
        path.write_bytes(random.randbytes(LONG))
    return a, b, target


@pytest.mark.parametrize("option", ["--json", "--no-journal"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_another_run_to_the_same_target_voids_the_journal(number, option, program, volumes):
    a, b, target = volumes
    interrupt(program, "copy", a, target, number=number)
    program("copy", b, target, option, code=OK)
    program("copy", a, target, "--resume", code=OK)
    assert target.read_bytes() == a.read_bytes()


@pytest.mark.parametrize("words", [["serve"], ["mirror", "--full", "--name=m"]])
def test_serving_the_target_voids_the_journal(words, program, folder, volumes):
    a, b, target = volumes
    interrupt(program, "copy", a, target, number=signal.SIGKILL)
    assert program.journals()
    legs = [b, target] if words[0] == "mirror" else [target]
    listen = f"--listen=nbd+unix:///?socket={folder / 'socket'}"
    running = program.start(*words, *(["--foreground"] if words[0] == "mirror" else []), listen, *legs)
    wait_until(lambda: b"nbd+unix" in running.out(), "that it serves")
    assert not program.journals()
    running.kill(signal.SIGTERM)
    running.end(code=None)
    result = program("copy", a, target, "--resume")
    assert "no earlier run" in result.err and target.read_bytes() == a.read_bytes()


def test_a_foreign_write_after_an_interrupted_run_is_seen(program, volumes):
    a, _, target = volumes
    interrupt(program, "copy", a, target)
    with open(target, "r+b") as file:
        file.write(b"\0" * 8192)
    result = program("copy", a, target, "--resume", code=OK)
    assert "the target was written since" in result.err
    assert target.read_bytes() == a.read_bytes()


def test_another_spelling_of_the_target_finds_the_journal(program, volumes):
    a, _, target = volumes
    interrupt(program, "copy", a, target)
    result = program("copy", a, target.parent / "." / ".." / target.parent.name / target.name, "--resume", code=OK)
    assert "no earlier run" not in result.err and "comparing" not in result.err
    assert target.read_bytes() == a.read_bytes()


def test_h22_a_server_without_identity_is_compared_on_resume(program, folder, volumes):
    a, _, _ = volumes
    disk = folder / "disk.qcow2"
    make = ["qemu-img", "create", "-q", "-f", "qcow2", disk, str(LONG)]
    subprocess.run(make, check=True)
    captive = ["[", "qemu-nbd", "-f", "qcow2", disk, "]"]
    interrupt(program, "copy", a, *captive)
    disk.unlink()
    subprocess.run(make, check=True)
    result = program("copy", a, *captive, "--resume", code=OK)
    assert "comparing all of it" in result.err
    raw = subprocess.run(["qemu-img", "dd", "-f", "qcow2", "-O", "raw", f"if={disk}", f"of={folder / 'raw'}"], check=True)
    assert raw.returncode == 0 and (folder / "raw").read_bytes() == a.read_bytes()


def test_digests_are_not_saved_over_unreadable_ranges(program, folder, servers, volumes):
    a, _, target = volumes
    digests = folder / "digests"
    bad = ["[", "nbdkit", "--filter=error", "file", a, "error-pread-rate=100%", f"error-file={folder / 'on'}", "]"]
    (folder / "on").touch()
    program("sync", *bad, target, f"--digests={digests}", "--on-read-error=list", f"--report={folder / 'report'}", code=5)
    assert not digests.exists()


# Lost links

class Gate:
    """An ssh that waits while the gate is closed, so that something can happen before it connects again."""

    def __init__(self, folder, sshd, program):
        self.closed, script = folder / "closed", folder / "gated-ssh"
        script.write_text(f'#!/bin/sh\nwhile [ -e {self.closed} ]; do sleep 0.05; done\nexec {sshd.ssh} "$@"\n')
        script.chmod(0o755)
        self.options = ["--ssh", script, "--agent-path", program.path, "--timeout=30"]

    def close(self):
        self.closed.touch()

    def open(self):
        self.closed.unlink()


@pytest.fixture
def gate(folder, sshd, program):
    return Gate(folder, sshd, program)


def lose_the_link(running, program, gate):
    program.wait_for_position(running, MIB)
    gate.close()
    for pid in children(running.pid, "ssh"):
        os.kill(pid, signal.SIGKILL)
    running.wait_for_words("trying again")


def test_the_other_volume_stays_locked_while_a_link_is_away(program, gate, volumes):
    a, b, target = volumes
    running = program.start("copy", *gate.options, "--rate=6M", f"far:{a}", target)
    lose_the_link(running, program, gate)
    refused = program("sync", b, target, code=LOCKED)
    assert str(running.pid) in refused.err, str(refused)
    gate.open()
    running.end()
    assert target.read_bytes() == a.read_bytes()


@pytest.mark.parametrize("words", [["copy"], ["sync", "--digests=D"]])
def test_another_run_while_the_link_to_the_target_is_away_is_seen(words, program, folder, gate, volumes):
    a, b, target = volumes
    words = [word.replace("=D", f"={folder / 'digests'}") for word in words]
    running = program.start(*words, *gate.options, "--rate=6M", a, f"far:{target}")
    lose_the_link(running, program, gate)
    wait_until(lambda: not agents(target), "the agent's end")
    program("sync", b, target)
    gate.open()
    done = running.end()
    assert "written while the link was away: comparing all of it" in done.err, str(done)
    assert target.read_bytes() == a.read_bytes()
    if words[1:]:
        program(*words, *gate.options, a, f"far:{target}")
        assert target.read_bytes() == a.read_bytes()


def test_nothing_is_read_again_when_nobody_wrote_meanwhile(program, gate, volumes):
    a, _, target = volumes
    running = program.start("copy", *gate.options, "--rate=6M", a, f"far:{target}")
    lose_the_link(running, program, gate)
    gate.open()
    done = running.end()
    assert "comparing" not in done.err, str(done)
    assert target.read_bytes() == a.read_bytes()


@pytest.mark.parametrize("stranger", [False, True])
def test_a_stranger_is_seen_after_kill_9_where_an_agent_noted_the_end(stranger, program, ssh, volumes):
    a, _, target = volumes
    running = program.start("copy", *ssh, "--rate=4M", a, f"far:{target}")
    program.wait_for_position(running, 10 * MIB)
    running.kill()
    running.end(-signal.SIGKILL)
    wait_until(lambda: not agents(target), "the agent's end")
    if stranger:
        with open(target, "r+b") as file:
            file.write(b"\0" * 8192)
    done = program("copy", *ssh, "--resume", a, f"far:{target}")
    assert ("the target was written since the earlier run" in done.err) == stranger, str(done)
    assert target.read_bytes() == a.read_bytes()


@pytest.mark.parametrize("changed", ["source", "target"])
def test_what_was_seen_to_change_is_never_assumed_unchanged(changed, program, volumes):
    a, _, target = volumes
    interrupt(program, "copy", a, target)
    with open(a if changed == "source" else target, "r+b") as file:
        file.write(b"\1" * 4)
    done = program("copy", a, target, "--resume", "--assume-unchanged")
    assert f"the {changed} was written since the earlier run: comparing all of it\n" in done.err, str(done)
    assert target.read_bytes() == a.read_bytes()


def test_a_target_is_not_cut_when_no_journal_can_be_made(program, volumes, folder):
    a, _, target = volumes
    with open(target, "ab") as file:
        file.write(b"tail")
    blocked = folder / "blocked"
    blocked.write_text("a file where a folder is wanted")
    done = program("sync", "--size-mismatch=truncate", "--state-dir", blocked / "x", a, target, code=TROUBLE)
    assert "--state-dir" in done.err and target.stat().st_size == LONG + 4, str(done)
