# SPDX-License-Identifier: GPL-2.0-or-later
"""What an interrupted run has noted is trusted only as long as nobody else can have written to the target."""
import signal
import subprocess

import pytest

from program import INTERRUPTED, OK

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
