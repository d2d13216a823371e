# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs that were killed, cut off or stopped, and how --resume goes on. Power cuts are simulated in tests/sim."""
import os
import re
import shutil
import signal
import subprocess
import time

import pytest

from images import Image, first_difference, noise, put
from processes import agents, children
from program import INTERRUPTED, LINK_LOST, OK, REFUSED, TROUBLE, wait_until

MIB = 1 << 20
LONG = 24 * MIB
CHECKPOINT_S = 2.0


def write(path, data):
    Image(data).write(path)
    return path


def equal(a, b):
    assert first_difference(a.read_bytes(), b.read_bytes()) is None


def stop(program, *words, position=MIB, number=signal.SIGINT):
    """Starts, waits for this position, sends the signal. Returns the end."""
    running = program.start(*words)
    program.wait_for_position(running, position)
    running.kill(number)
    return running.end(INTERRUPTED if number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) else -number)


def killed_after_checkpoint(program, *words):
    """Killed when a range is in the journal: behind its header and the record of the session."""
    running = program.start(*words)
    for _ in range(600):
        if sum(path.stat().st_size for path in program.journals()) >= 4096 + 2 * 32:
            break
        assert running.is_running(), running.err()
        time.sleep(0.02)
    running.kill()
    running.end(-signal.SIGKILL)


def bytes_read(log):
    """What clients of nbdkit's log filter have read."""
    return sum(int(count, 16) for count in re.findall(r" Read id=\S+ offset=\S+ count=(0x[0-9a-f]+)", log.read_text()))


@pytest.fixture
def source(folder, random):
    return write(folder / "source", random.randbytes(LONG))


@pytest.fixture
def target(folder, random):
    return noise(random, LONG).write(folder / "target")


# Killed

@pytest.mark.parametrize("command", ["copy", "sync"])
def test_killed_at_random_moments(command, random, folder, program):
    """However it is killed, and wherever: what comes out is the source."""
    source = write(folder / "source", random.randbytes(9 * MIB + 4321))
    target = noise(random, 9 * MIB + 4321).write(folder / "target")
    for _ in range(6):
        running = program.start(command, "--resume", source, target)
        time.sleep(random.random() * 0.2)
        running.kill()
        running.end((OK, -signal.SIGKILL))
    program(command, "--resume", "--verify", source, target)
    equal(source, target)


def test_what_is_done_is_not_read_again(folder, program, servers, source, target):
    log = folder / "log"
    server = servers.nbdkit("--filter=log", "file", source, f"logfile={log}")
    killed_after_checkpoint(program, "copy", "--rate=4M", server.uri, target)
    log.write_text("")
    done = program("copy", "--resume", "--assume-unchanged", "--json", server.uri, target)
    resumed = done.events()[-1]["resumed"]
    assert resumed >= 4 * MIB
    # A page at either end of a range may be read twice.
    assert bytes_read(log) <= LONG - resumed + 2 * MIB
    equal(source, target)


def test_an_unseen_source_is_compared(folder, program, servers, source, target):
    """Nobody can tell whether a source behind NBD was written: that is said, and all of it is compared."""
    server = servers.nbdkit("file", source)
    stop(program, "copy", "--rate=4M", server.uri, target)
    with open(source, "r+b") as file:
        file.write(b"changed")
    done = program("copy", "--resume", server.uri, target)
    assert "comparing all of it" in done.err and "--assume-unchanged" in done.err, str(done)
    equal(source, target)


def test_a_changed_source_is_compared(program, source, target):
    stop(program, "copy", "--rate=4M", source, target)
    with open(source, "r+b") as file:
        file.write(b"changed")
    done = program("copy", "--resume", source, target)
    assert "comparing all of it" in done.err, str(done)
    equal(source, target)


def test_an_unchanged_source_is_not_compared(program, source, target):
    stop(program, "copy", "--rate=4M", source, target)
    done = program("copy", "--resume", "--json", source, target)
    assert not [event for event in done.events() if event["event"] == "warning"], str(done)
    assert done.events()[-1]["resumed"] >= MIB and done.events()[-1]["same"] == 0
    equal(source, target)


def test_sync_resumes(program, random, source, target):
    stop(program, "sync", "--rate=4M", source, target)
    end = program("sync", "--resume", "--json", source, target).events()[-1]
    assert end["resumed"] >= MIB
    equal(source, target)


def test_resume_without_an_earlier_run_says_so(program, folder, source):
    done = program("copy", "--resume", source, folder / "target")
    assert "no earlier run" in done.err, str(done)
    equal(source, folder / "target")


def test_a_finished_run_leaves_nothing_to_resume(program, source, target):
    stop(program, "copy", "--rate=4M", source, target)
    assert len(program.journals()) == 1
    program("copy", "--resume", source, target)
    assert program.journals() == []


def test_a_run_from_the_beginning_forgets_the_earlier_one(program, random, source, target):
    """Without --resume nothing of an old journal counts."""
    stop(program, "copy", "--rate=4M", source, target)
    write(target, random.randbytes(LONG))
    program("copy", source, target)
    equal(source, target)


def test_a_target_written_by_others_in_between_is_not_trusted_blindly(program, source, target):
    """What an earlier run wrote may have been overwritten since: --verify sees it."""
    stop(program, "copy", "--rate=4M", source, target)
    with open(target, "r+b") as file:
        file.write(b"\0" * 4096)
    program("copy", "--resume", "--verify", source, target, code=(OK, TROUBLE, REFUSED))
    program("sync", source, target)
    equal(source, target)


@pytest.mark.parametrize("over", ["file", "ssh"])
def test_a_target_that_was_set_to_size_is_resumed(over, program, request, random, source, folder):
    """--size-mismatch=truncate changed it in the first run; that is not a resize by others."""
    target = noise(random, MIB).write(folder / "target")
    options, name = ([], target) if over == "file" else (request.getfixturevalue("ssh"), f"far:{target}")
    stop(program, "copy", *options, "--rate=4M", "--size-mismatch=truncate", source, name)
    program("copy", *options, "--resume", source, name)
    equal(source, target)


# Signals

@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_in_a_state_that_resume_continues(number, program, source, target):
    done = stop(program, "copy", "--rate=4M", source, target, number=number)
    assert "--resume" in done.err and "not usable" in done.err, str(done)
    program("copy", "--resume", source, target)
    equal(source, target)


def test_a_second_signal_ends_at_once(program, folder, servers, source):
    """Also while a target does not answer."""
    write(folder / "target", bytes(LONG))
    server = servers.nbdkit("--filter=delay", "file", folder / "target", "delay-write=20")
    running = program.start("copy", source, server.uri)
    wait_until(lambda: (program.status(running) or {}).get("state") == "running", "the job")
    time.sleep(0.5)
    running.kill(signal.SIGINT)
    running.wait_for_words("once more")
    begun = time.monotonic()
    running.kill(signal.SIGINT)
    running.process.wait(60)
    assert running.process.returncode == INTERRUPTED and time.monotonic() - begun < 15


def test_a_signal_while_waiting_for_a_link(program, folder, servers, source):
    write(folder / "target", bytes(LONG))
    server = servers.nbdkit("file", folder / "target")
    running = program.start("copy", "--rate=4M", source, server.uri)
    program.wait_for_position(running, MIB)
    server.process.kill()
    running.wait_for_words("trying again")
    running.kill(signal.SIGINT)
    running.end(INTERRUPTED, timeout_s=20)


def test_a_signal_does_not_wait_for_what_a_rate_holds_back(program, source, target):
    running = program.start("copy", "--rate=1M", source, target)
    program.wait_for_position(running, 1)
    running.kill(signal.SIGINT)
    done = running.end(INTERRUPTED, timeout_s=20)
    sent = re.search(r"sent ([0-9.]+) MiB", done.err + done.out.decode())
    assert not sent or float(sent.group(1)) < 8, str(done)
    program("copy", "--resume", source, target)
    equal(source, target)


def test_a_signal_while_paused(program, source, target):
    running = program.start("copy", "--rate=4M", source, target)
    program.wait_for_position(running, MIB)
    program("pause", running.pid)
    running.kill(signal.SIGINT)
    running.end(INTERRUPTED)
    program("copy", "--resume", source, target)
    equal(source, target)


# Links

def test_a_killed_ssh_is_started_again(program, ssh, source, target):
    running = program.start("copy", *ssh, "--rate=6M", source, f"far:{target}")
    program.wait_for_position(running, MIB)
    for pid in children(running.pid, "ssh"):
        os.kill(pid, signal.SIGKILL)
    done = running.end()
    assert "trying again" in done.err and "the link was lost on the way" in done.err, str(done)
    equal(source, target)


def test_a_killed_agent_is_started_again(program, ssh, source, target):
    running = program.start("sync", *ssh, "--rate=24M", f"far:{source}", target)
    program.wait_for_position(running, MIB)
    for pid in agents(source):
        os.kill(pid, signal.SIGKILL)
    done = running.end()
    assert "trying again" in done.err, str(done)
    equal(source, target)


def test_links_that_break_again_and_again(program, sshd, ssh, source, target):
    running = program.start("copy", *ssh, "--rate=4M", source, f"far:{target}")
    position = 0
    for _ in range(3):
        position = program.wait_for_position(running, position + MIB)["position"]
        sshd.cut()
    done = running.end()
    assert done.err.count("trying again") >= 2, str(done)
    equal(source, target)


def test_a_silent_agent_counts_as_lost(program, ssh, source, target):
    running = program.start("copy", *ssh, "--rate=4M", "--timeout=2", "--retries=3", source, f"far:{target}")
    program.wait_for_position(running, MIB)
    stopped = agents(target)
    assert stopped
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    try:
        running.wait_for_words("trying again", 20)
    finally:
        # The far machine comes back, and with it the old agent, which must let go of the volume.
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
    running.end()
    equal(source, target)


def test_a_link_that_stays_away_ends_the_run(program, folder, servers, source):
    target = write(folder / "target", bytes(LONG))
    server = servers.nbdkit("file", target)
    running = program.start("copy", "--rate=4M", "--retries=2", source, server.uri)
    program.wait_for_position(running, MIB)
    server.process.kill()
    server.process.wait()
    done = running.end(LINK_LOST)
    assert done.err.count("trying again") == 2, str(done)
    # The same socket, the same file: as far as anybody can see, the same volume.
    again = subprocess.Popen(["nbdkit", "-f", "--exit-with-parent", "-U", f"{server.path}.2", "file", target])
    try:
        wait_until(lambda: os.path.exists(f"{server.path}.2"), "nbdkit")
        os.rename(f"{server.path}.2", server.path)
        program("copy", "--resume", source, server.uri)
    finally:
        again.terminate()
        again.wait()
    equal(source, target)


def test_after_a_lost_link_a_later_run_resumes(program, sshd, ssh, source, target):
    """The agent is gone with its link, its lock too."""
    running = program.start("copy", *ssh, "--rate=4M", "--retries=0", source, f"far:{target}")
    program.wait_for_position(running, 2 * MIB)
    sshd.cut()
    done = running.end(LINK_LOST)
    assert "--resume" in done.err, str(done)
    wait_until(lambda: not agents(target), "the agent's end")
    program("copy", *ssh, "--resume", source, f"far:{target}")
    equal(source, target)


# Journals

def damage(kind, path, random):
    data = path.read_bytes()
    if kind == "cut":
        data = data[:random.randrange(1, len(data))]
    elif kind == "garbage":
        data = random.randbytes(len(data))
    elif kind == "empty":
        data = b""
    elif kind == "one bit":
        at = random.randrange(len(data))
        data = data[:at] + bytes([data[at] ^ 1 << random.randrange(8)]) + data[at + 1:]
    elif kind == "zeros at the end":
        data += bytes(4096)
    path.write_bytes(data)


@pytest.mark.parametrize("kind", ["cut", "garbage", "empty", "one bit", "zeros at the end"])
def test_a_damaged_journal_costs_work_and_no_data(kind, random, program, folder):
    source = write(folder / "source", random.randbytes(LONG))
    target = noise(random, LONG).write(folder / "target")
    stop(program, "copy", "--rate=8M", source, target)
    journal, = program.journals()
    good = journal.read_bytes()
    kept = target.read_bytes()
    for _ in range(3 if kind in ("cut", "one bit") else 1):
        journal.write_bytes(good)
        target.write_bytes(kept)
        damage(kind, journal, random)
        done = program("copy", "--resume", source, target, code=(OK, REFUSED, TROUBLE))
        if done.code != OK:
            # It may give up, but with words that help.
            assert "without --resume" in done.err, str(done)
            program("copy", source, target)
        elif kind in ("garbage", "empty"):
            assert "journal" in done.err, str(done)
        equal(source, target)


def test_the_journal_of_another_pair_is_not_taken(program, folder, random, source, target):
    """A journal put in another's place, as by a restored backup of the folder."""
    stop(program, "copy", "--rate=8M", source, target)
    mine, = program.journals()
    shutil.copy(mine, folder / "kept")
    program("copy", "--resume", source, target)
    other = noise(random, LONG).write(folder / "other")
    stop(program, "copy", "--rate=8M", source, other)
    journal, = program.journals()
    shutil.copy(folder / "kept", journal)
    done = program("copy", "--resume", source, other, code=(OK, REFUSED, TROUBLE))
    if done.code == OK:
        equal(source, other)
    else:
        program("copy", source, other)


# Room

def test_a_full_target_disk_is_an_error_and_resume_goes_on(program, folder, random, mounts):
    point = mounts("-t", "tmpfs", "-o", "size=12M", "none")
    source = write(folder / "source", random.randbytes(LONG))
    done = program("copy", source, point / "target", code=TROUBLE)
    assert "No space left" in done.err and str(point / "target") in done.err, str(done)
    subprocess.run(["mount", "-o", "remount,size=64M", point], check=True)
    program("copy", "--resume", source, point / "target")
    equal(source, point / "target")


def test_a_state_folder_that_cannot_be_made(program, folder, source):
    (folder / "file").write_text("")
    done = program("copy", "--state-dir", folder / "file/state", source, folder / "target", code=TROUBLE)
    assert "--state-dir" in done.err and "file/state" in done.err, str(done)
    program("copy", "--no-journal", source, folder / "target", "--overwrite", folder / "target")
    equal(source, folder / "target")


def test_a_state_folder_on_a_read_only_file_system(program, folder, source, mounts):
    point = mounts("-t", "tmpfs", "-o", "ro", "none")
    done = program("copy", "--state-dir", point, source, folder / "target", code=TROUBLE)
    assert "--state-dir" in done.err and str(point) in done.err, str(done)


def test_a_full_state_folder(program, folder, source, target, mounts):
    point = mounts("-t", "tmpfs", "-o", "size=64k", "none")
    with open(point / "filler", "wb", buffering=0) as file:
        with pytest.raises(OSError):
            while True:
                file.write(bytes(4096))
    before = target.read_bytes()
    done = program("copy", "--state-dir", point, source, target, code=TROUBLE)
    assert str(point) in done.err and "No space left" in done.err, str(done)
    assert target.read_bytes() == before
    os.unlink(point / "filler")
    program("copy", "--state-dir", point, "--resume", source, target)
    equal(source, target)


def test_a_state_folder_that_fills_up_on_the_way(program, folder, source, target, mounts):
    """The journal's next record finds no room: the run ends and says where to make some, and nothing of what is done is lost."""
    point = mounts("-t", "tmpfs", "-o", "size=64k", "none")
    running = program.start("copy", "--state-dir", point, "--rate=3M", source, target)
    program.wait_for_position(running, MIB)
    journal, = point.glob("*.journal")
    with open(point / "filler", "wb", buffering=0) as file:
        with pytest.raises(OSError):
            while True:
                file.write(bytes(4096))
    # tmpfs gives room by the page: the journal's last one may still have some.
    done = running.end((OK, TROUBLE))
    if done.code == TROUBLE:
        assert str(point) in done.err and "--resume" in done.err, str(done)
        os.unlink(point / "filler")
        program("copy", "--state-dir", point, "--resume", source, target)
    assert not journal.exists()
    equal(source, target)


def test_no_journal_leaves_none(program, folder, source):
    program("copy", "--no-journal", source, folder / "target")
    assert program.journals() == []
    equal(source, folder / "target")


def test_holes_and_zeros_survive_a_resume(program, folder, random):
    image = Image(random.randbytes(2 * LONG))
    for at in range(0, 2 * LONG, 3 * MIB):
        put(image, at, bytes(MIB), hole=True)
    image.write(folder / "source")
    noise(random, 2 * LONG).write(folder / "target")
    stop(program, "copy", "--rate=4M", folder / "source", folder / "target", position=2 * MIB)
    program("copy", "--resume", folder / "source", folder / "target")
    assert first_difference(image.data, (folder / "target").read_bytes()) is None


def test_names_in_another_encoding_are_resumed(program, folder, random):
    source, target = (folder / os.fsdecode(name) for name in (b"Gr\xf6\xdfe", b"ziel-\xff"))
    write(source, random.randbytes(LONG))
    write(target, random.randbytes(LONG))
    killed_after_checkpoint(program, "copy", "--rate=3M", source, target)
    end = program("copy", "--resume", "--assume-unchanged", "--json", source, target).events()[-1]
    assert end["resumed"] > 0
    equal(source, target)
    # Another volume under such a name is noticed by the name.
    killed_after_checkpoint(program, "copy", "--rate=3M", source, target)
    write(folder / "another", bytes(LONG)).rename(target)
    done = program("copy", "--resume", source, target, code=REFUSED)
    assert "another volume" in done.err, str(done)
    assert target.read_bytes() == bytes(LONG)
