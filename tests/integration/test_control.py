# SPDX-License-Identifier: GPL-2.0-or-later
"""Running jobs: status, pause, resume and throttle from outside, and what a run tells of itself."""
import fcntl
import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
import threading
import time

import pytest

from images import Image, first_difference, noise
from program import INTERRUPTED, OK, TROUBLE, wait_until

MIB = 1 << 20
LONG = 24 * MIB


@pytest.fixture
def source(folder, random):
    return Image(random.randbytes(LONG)).write(folder / "source")


@pytest.fixture
def target(folder, random):
    return noise(random, LONG).write(folder / "target")


@pytest.fixture
def job(program, source, target):
    """A copy at 2 MiB a second, begun."""
    running = program.start("copy", "--rate=2M", "--json", source, target)
    program.wait_for_position(running, 1)
    yield running
    if running.is_running():
        running.kill()
        running.process.wait()


def end(running):
    running.kill(signal.SIGINT)
    running.end((OK, INTERRUPTED))


# Control

def test_status_tells_all(job, program, source, target):
    now = program.status(job)
    assert (now["pid"], now["source"], now["target"]) == (job.pid, str(source), str(target))
    assert (now["state"], now["total"], now["rate_limit"], now["paused"]) == ("running", LONG, 2 * MIB, False)
    line = program("status").out.decode()
    assert str(job.pid) in line and str(source) in line and "24.0 MiB" in line and "2.0 MiB/s" in line, line
    assert program("status", job.pid).out.decode().startswith(f"{job.pid} ")
    end(job)
    assert program("status").out == b""


def test_h25_status_names_moves_that_have_not_ended(program, folder):
    """By their records alone; tests/unit/test_status_moves.c has those that moves write."""
    record = {"version": 1, "phase": "syncing", "engine": "dm", "device": "vg-data", "uuid": "", "target": "/dev/vg/new", "boot": "another",
              "kind": 0, "sectors": 8192, "old_device": 0, "old": [[0, 8192, "linear", "8:16 2048"]], "last": [], "lvm_group": "", "lvm_moved": "",
              "lvm_target": "", "lvm_first": "", "note": 0, "target_id": "serial:X", "led": True}
    place = program.state / "moves/vg-data"
    place.mkdir(parents=True)
    (place / "record.json").write_text(json.dumps(record))
    line = program("status").out.decode()
    assert "move of vg-data to /dev/vg/new" in line and "started anew" in line
    assert "`blkmove move --resume vg-data`" in line and "`blkmove move --undo vg-data`" in line
    move = json.loads(program("status", "--json").out)
    assert (move["kind"], move["device"], move["phase"], move["leg"], move["restarted"]) == ("move", "vg-data", "syncing", "old", True)
    assert move["resume"] == "blkmove move --resume vg-data"
    fd = os.open(place, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        assert program("status").out == b"", "as a command does that drives it"
    finally:
        os.close(fd)


def test_pause_holds_and_resume_goes_on(job, program, source, target):
    program("pause", job.pid)
    time.sleep(0.3)
    first = program.status(job)
    time.sleep(1)
    second = program.status(job)
    assert first["paused"] and first["position"] == second["position"]
    assert "paused" in program("status").out.decode()
    program("throttle", job.pid, "none")
    assert program.status(job)["paused"]
    program("resume", job.pid)
    job.end()
    assert first_difference(source.read_bytes(), target.read_bytes()) is None


def test_throttle_changes_the_rate(job, program):
    def rate_over(seconds):
        begin, at = program.status(job)["position"], time.monotonic()
        time.sleep(seconds)
        return (program.status(job)["position"] - begin) / (time.monotonic() - at)

    # Requests are of 1 MiB: what a short look sees is coarse.
    slow = rate_over(2)
    assert slow <= 3.6 * MIB, slow / MIB
    program("throttle", job.pid, "8M")
    assert program.status(job)["rate_limit"] == 8 * MIB
    fast = rate_over(1)
    assert slow < fast <= 11 * MIB and fast >= 3 * MIB, (slow / MIB, fast / MIB)
    program("throttle", job.pid, "none")
    job.end(timeout_s=20)


def test_a_rate_holds_over_a_whole_run(program, source, target):
    begun = time.monotonic()
    program("copy", "--rate=12M", source, target)
    seconds = time.monotonic() - begun
    assert 1.6 <= seconds <= 6, seconds


def test_control_of_what_is_not_there(program):
    for command in (["status", "1"], ["pause", "1"], ["resume", "1"], ["throttle", "1", "5M"]):
        done = program(*command, code=TROUBLE)
        assert "nothing called 1 answers" in done.err, str(done)
    for command in (["pause"], ["throttle"], ["throttle", "1"], ["throttle", "1", "fast"], ["pause", "1", "2", "3"]):
        program(*command, code=TROUBLE)


def test_stale_sockets_are_swept(program, source, target):
    running = program.start("copy", "--rate=2M", source, target)
    program.wait_for_position(running, 1)
    running.kill()
    running.end(-signal.SIGKILL)
    sockets = list((program.folder / "run").glob("*.sock"))
    assert len(sockets) == 1
    assert program("status").out == b""
    assert not sockets[0].exists()


def test_a_client_that_talks_nonsense_hurts_nobody(job, program):
    path = str(program.folder / "run" / f"{job.pid}.sock")
    assert os.stat(path).st_mode & 0o777 == 0o600

    def ask(data, answers=1):
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(60)
            client.connect(path)
            client.sendall(data)
            got = b""
            while got.count(b"\n") < answers:
                try:
                    more = client.recv(65536)
                except ConnectionResetError:
                    more = b""
                if not more:
                    return got
                got += more
            return got

    for words in (b"\n", b"{}\n", b"[]\n", b'{"command":"dance"}\n', b'{"command":"throttle"}\n', b'{"command":"throttle","rate":-1}\n',
                  b'{"command":7}\n', b"\xff\xfe\n"):
        assert json.loads(ask(words))["ok"] is False, words
    assert ask(b"x" * 5000) == b""
    assert len(ask(b'{"command":"status"}\n' * 3, 3).splitlines()) == 3
    # Idle ones that fill all places keep the job from nothing.
    idle = [socket.socket(socket.AF_UNIX) for _ in range(12)]
    for client in idle:
        client.connect(path)
    time.sleep(0.2)
    for client in idle:
        client.close()
    assert wait_until(lambda: program.status(job), "an answer")["state"] == "running"


def test_two_jobs_at_once(program, folder, source, target):
    jobs = [program.start("copy", "--rate=4M", source, path) for path in (target, folder / "other")]
    for job in jobs:
        program.wait_for_position(job, 1)
    listed = [json.loads(line)["pid"] for line in program("status", "--json").out.splitlines()]
    assert sorted(listed) == sorted(job.pid for job in jobs)
    for job in jobs:
        end(job)


def test_sigusr1_prints_a_line(program, source, target):
    running = program.start("copy", "--rate=2M", "--quiet", source, target)
    program.wait_for_position(running, 1)
    running.kill(signal.SIGUSR1)
    wait_until(lambda: "of 24.0 MiB" in running.err(), "the line")
    running.kill(signal.SIGUSR1)
    wait_until(lambda: running.err().count("of 24.0 MiB") == 2, "another line")
    assert running.is_running()
    end(running)


# Events, lines, the bar

def check_events(events, total):
    assert [event["sequence"] for event in events] == list(range(1, len(events) + 1))
    assert [event["time"] for event in events] == sorted(event["time"] for event in events)
    assert events[-1]["event"] == "end" and not [event for event in events[:-1] if event["event"] == "end"]
    positions = [event["position"] for event in events if "position" in event]
    assert positions == sorted(positions) and positions[-1] <= total, positions
    for event in events:
        # What a lost link may have swallowed is sent again.
        if event["event"] == "progress" and event["state"] == "running" and not event["retries"]:
            assert event["same"] + event["sent"] + event["zero"] + event["bad"] <= total


@pytest.mark.parametrize("command", ["copy", "sync", "verify"])
def test_json_events(command, program, source, target):
    options = ["--json", "--rate=12M"] + (["--verify"] if command != "verify" else [])
    events = program(command, *options, source, target, code=1 if command == "verify" else OK).events()
    check_events(events, LONG)
    states = [event["state"] for event in events if event["event"] == "state"]
    wanted = ["opening", "running", "completed"] if command == "verify" else ["opening", "running", "flushing", "verifying", "completed"]
    assert states == wanted
    assert len([event for event in events if event["event"] == "progress"]) >= 1
    assert events[-1]["total"] == LONG and events[-1]["position"] == LONG


def test_json_events_over_a_lost_link(program, sshd, ssh, source, target):
    running = program.start("copy", *ssh, "--json", "--rate=6M", source, f"far:{target}")
    program.wait_for_position(running, MIB)
    sshd.cut()
    done = running.end()
    check_events(done.events(), LONG)
    assert done.events()[-1]["retries"] >= 1


def test_json_says_how_it_failed(program, folder):
    events = program("copy", "--json", folder / "nothing", folder / "target", code=TROUBLE).events()
    check_events(events, 0)
    assert events[-1]["exit_code"] == TROUBLE and "nothing" in events[-1]["error"]


def test_json_of_names_in_another_encoding(program, folder, random):
    source, target = (os.path.join(folder, os.fsdecode(name)) for name in (b"Gr\xf6\xdfe", b"ziel-\xff"))
    with open(source, "wb") as file:
        file.write(random.randbytes(LONG))
    events = program("copy", "--json", os.path.join(folder, os.fsdecode(b"no-\xfc")), target, code=TROUBLE).events()
    check_events(events, 0)
    assert "no-\\xfc" in events[-1]["error"]
    running = program.start("copy", "--json", "--rate=4M", "--no-journal", source, target)
    now = program.wait_for_position(running, 1)
    assert now["source"] == f"{folder}/Gr\\xf6\\xdfe" and now["target"] == f"{folder}/ziel-\\xff"
    running.kill()
    running.end(-signal.SIGKILL)


def test_lines_without_a_terminal(program, source, target):
    done = program("copy", "--rate=8M", "--interval=1", source, target)
    lines = [line for line in done.err.splitlines() if line.startswith("copy ") and " of 24.0 MiB" in line]
    assert len(lines) >= 2, done.err
    shares = [int(re.search(r"(\d+)%", line)[1]) for line in lines]
    assert shares == sorted(shares)
    assert "\r" not in done.err and "\033" not in done.err
    assert done.err.splitlines()[-1].startswith("copy done: 24.0 MiB")
    assert done.out == b""


@pytest.mark.parametrize("how", [["--quiet"], ["--progress=none", "--quiet"]])
def test_quiet_is_quiet(how, program, source, target):
    done = program("copy", *how, source, target)
    assert done.err == "" and done.out == b""
    done = program("verify", *how, source, target)
    assert done.err == "" and done.out == b""


def test_quiet_still_says_errors(program, folder):
    assert "nothing" in program("copy", "--quiet", folder / "nothing", folder / "target", code=TROUBLE).err


def on_a_terminal(program, *words, columns=100):
    """Runs with standard error on a terminal. Returns the exit code and all that came."""
    ours, theirs = pty.openpty()
    subprocess.run(["stty", "cols", str(columns)], stdin=theirs, check=True)
    process = subprocess.Popen([program.path, *map(str, words)], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=theirs,
                               env=program.env)
    os.close(theirs)
    text = b""
    while True:
        ready, _, _ = select.select([ours], [], [], 60)
        try:
            data = os.read(ours, 65536) if ready else b""
        except OSError:
            data = b""
        if not data:
            break
        text += data
    os.close(ours)
    return process.wait(10), text.decode()


@pytest.mark.parametrize("columns", [80, 140])
def test_the_bar_never_goes_backwards(columns, program, source, target):
    code, text = on_a_terminal(program, "copy", "--rate=12M", "--verify", source, target, columns=columns)
    assert code == OK, text
    frames = [frame.split("\033[K")[0] for frame in text.split("\r")[1:]]
    assert all(len(frame) < columns for frame in frames), max(frames, key=len)
    phases = {}
    for frame in frames:
        found = re.search(r"\b(copy|verifying|flushing) +(\d+)%", frame)
        if found:
            phases.setdefault(found[1], []).append(int(found[2]))
    for name in ("copy", "verifying"):
        assert len(phases[name]) >= 4 and phases[name] == sorted(phases[name]), phases
        assert all(share <= 100 for share in phases[name])
    if columns > 120:
        bars = [frame.count("#") for frame in frames if "copy" in frame and "#" in frame]
        assert bars == sorted(bars) and bars
    assert "copy done" in text.splitlines()[-1]


def test_the_bar_goes_on_after_a_lost_link(program, sshd, ssh, source, target):
    """What was done before a link broke stays done in the bar."""
    # Once what was written has been flushed and noted.
    cut = threading.Timer(3.5, sshd.cut)
    cut.start()
    code, text = on_a_terminal(program, "copy", *ssh, "--rate=5M", source, f"far:{target}")
    cut.cancel()
    shares = [int(share) for share in re.findall(r"(?:copy|waiting|opening) +(\d+)%", text)]
    assert code == OK and "trying again" in text and shares == sorted(shares), text
    assert first_difference(source.read_bytes(), target.read_bytes()) is None


# Dry runs

@pytest.mark.parametrize("command", ["copy", "sync"])
def test_a_dry_run_writes_nothing_and_says_how_much(command, program, source, target, folder):
    with open(target, "r+b") as file:
        file.write(source.read_bytes()[:LONG - 4 * MIB])
    before, times = target.read_bytes(), target.stat().st_mtime_ns
    done = program(command, "--dry-run", source, target)
    assert "nothing was written" in done.err, str(done)
    assert ("sent 24.0 MiB" if command == "copy" else "same 20.0 MiB, sent 4.0 MiB") in done.err, str(done)
    assert target.read_bytes() == before and target.stat().st_mtime_ns == times
    assert not program.journals()


def test_a_dry_run_makes_no_target(program, source, folder):
    for command in ("copy", "sync"):
        done = program(command, "--dry-run", source, folder / "new")
        assert "nothing was written" in done.err and "24.0 MiB" in done.err, str(done)
        assert not (folder / "new").exists()


def test_a_dry_run_refuses_as_the_real_one_would(program, source, folder, random):
    noise(random, MIB).write(folder / "small")
    assert "smaller" in program("copy", "--dry-run", source, folder / "small", code=3).err


def test_a_dry_run_needs_no_lock(program, source, target):
    running = program.start("copy", "--rate=4M", source, target)
    program.wait_for_position(running, 1)
    program("verify", source, source)
    program("copy", "--dry-run", source, target, code=None)
    assert running.is_running()
    end(running)


def test_a_dry_run_over_ssh(program, ssh, source, target):
    before = target.read_bytes()
    done = program("sync", *ssh, "--dry-run", source, f"far:{target}")
    assert "nothing was written" in done.err
    assert target.read_bytes() == before
