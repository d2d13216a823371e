# SPDX-License-Identifier: GPL-2.0-or-later
"""sync --rounds: a volume that a real program writes to, round by round; then that is stopped, and the rest is sent."""
import fcntl
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import time

import pytest

from images import first_difference, noise
from program import INTERRUPTED, LINK_LOST, OK, REFUSED, TROUBLE, wait_until

MIB = 1 << 20
SIZE = 24 * MIB + 12345
DIVERGES, NOT_STOPPED = 8, 9
F_OFD_SETLK = 37
# Writes to a volume that it holds open, or to its first blocks, so many blocks of 4 KiB a second, and says when it has begun. SIGTERM ends
# it, after a while.
WRITER = """
import os, random, signal, sys, time
path, seed, rate, linger, blocks = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4]), int(sys.argv[5])
fd, chance, size, end = os.open(path, os.O_RDWR), random.Random(seed), os.path.getsize(path), []
signal.signal(signal.SIGTERM, lambda *unused: end.append(time.monotonic() + linger))
print("writing", flush=True)
while not end or time.monotonic() < end[0]:
    data = chance.choice([chance.randbytes(4096), bytes(4096)])
    os.pwrite(fd, data, min(chance.randrange(blocks or size // 4096 + 1) * 4096, size - 4096))
    time.sleep(1 / rate)
os.fsync(fd)
"""


class Writer:
    def __init__(self, random, path, rate=300, linger_s=0, blocks=0):
        words = [random.randrange(1 << 30), rate, linger_s, blocks]
        self.process = subprocess.Popen([sys.executable, "-c", WRITER, path, *map(str, words)], stdout=subprocess.PIPE)
        assert self.process.stdout.readline() == b"writing\n"
        self.stop = f"kill {self.process.pid}"

    def is_running(self):
        return self.process.poll() is None

    def end(self):
        self.process.kill()
        self.process.wait()


@pytest.fixture
def write(random):
    """write(path, ...): a program that writes there until it is stopped."""
    writers = []

    def start(path, **how):
        writers.append(Writer(random, path, **how))
        return writers[-1]

    yield start
    for writer in writers:
        writer.end()


@pytest.fixture
def source(folder, random):
    return noise(random, SIZE).write(folder / "source")


@pytest.fixture
def target(folder, random):
    return noise(random, SIZE).write(folder / "target")


def equal(a, b):
    assert first_difference(a.read_bytes(), b.read_bytes()) is None


LIVE = ["sync", "--allow=live-source"]


def test_a_move_in_rounds(program, ssh, write, source, target):
    """The whole of it, to another machine, and what is said of it is true."""
    writer = write(source)
    done = program(*LIVE, *ssh, "--rounds=until:60s", "--then", writer.stop, source, f"other:{target}")
    writer.process.wait(10)
    equal(source, target)
    rounds = [int(number) for number in re.findall(r"^round (\d+): differed .* sent .* in [\d.]+ s; ", done.err, re.M)]
    assert rounds == list(range(1, len(rounds) + 1)) and len(rounds) >= 2, str(done)
    assert re.search(r"^round 1: .* not known yet$", done.err, re.M), str(done)
    assert f"stopping what uses {source}" in done.err and "verifying all of 24.0 MiB (about" in done.err, str(done)
    assert re.search(r"sync done: .* is equal to .* verified, all of it; it is safe to start there", done.err), str(done)
    assert re.search(r"out of use for [\d.]+ s: stop command", done.err), str(done)
    assert not program.journals()


def test_what_events_say(program, write, source, target):
    writer = write(source)
    events = program(*LIVE, "--json", "--rounds=3", "--then", writer.stop, source, target).events()
    equal(source, target)
    rounds = [event for event in events if event["event"] == "round"]
    assert [event["round"] for event in rounds] == [1, 2, 3]
    assert [event["next"] for event in rounds] == ["round", "round", "stop"]
    assert rounds[0]["expected_seconds"] is None and rounds[0]["change_rate"] is None
    assert all(event["expected_seconds"] > 0 and event["change_rate"] > 0 and not event["tracked"] for event in rounds[1:])
    stops = [event for event in events if event["event"] == "stop"]
    assert len(stops) == 1 and stops[0]["command"] == writer.stop and stops[0]["expected_verify_seconds"] > 0
    end = events[-1]
    assert (end["event"], end["state"], end["exit_code"], end["outcome"], end["rounds"]) == ("end", "completed", 0, "equal", 3)
    parts = sum(end[f"{part}_seconds"] for part in ("stop", "wait", "last", "verify"))
    assert end["verify_seconds"] > 0 and parts <= end["outage_seconds"] < parts + 1
    assert [event["sequence"] for event in events] == list(range(1, len(events) + 1))


def test_a_source_in_use_is_refused_as_ever(folder, program, write, source, target):
    writer, before = write(source), target.read_bytes()
    done = program("sync", "--rounds=2", "--then", f"touch {folder}/ran; {writer.stop}", source, target, code=REFUSED)
    assert "open for writing" in done.err and "nothing was written" in done.err, str(done)
    assert target.read_bytes() == before and writer.is_running() and not (folder / "ran").exists()


def test_a_source_that_changes_faster_than_it_is_sent(folder, program, write, source, target):
    writer = write(source, rate=3000)
    done = program(*LIVE, "--rate=8M", "--rounds=until:500ms", "--then", f"touch {folder}/ran", source, target, code=DIVERGES)
    assert "rounds do not get shorter" in done.err and "nothing was stopped" in done.err, str(done)
    assert re.search(r"[\d.]+ [KM]iB/s change and [\d.]+ [KM]iB/s are sent", done.err), str(done)
    assert writer.is_running() and not (folder / "ran").exists()
    # The same command, with what was said to help.
    program(*LIVE, "--rounds=1", "--then", writer.stop, source, target)
    equal(source, target)


@pytest.mark.parametrize("command, says", [("exit 3", "failed (exit 3)"), ("kill -9 $$", "ended by signal 9"),
                                           ("sleep 300 & sleep 300", "had not ended after 5 s"),
                                           ("(trap '' TERM; sleep 300); true", "had not ended after 5 s")])
def test_a_stop_command_that_fails(command, says, folder, program, write, source, target):
    """Nothing more is sent, the source goes on, and the next try begins where this one was."""
    writer = write(source)
    done = program(*LIVE, "--json", "--rounds=2", "--then", f"cp {target} {folder}/then; {command}", "--then-timeout=5s", source, target,
                   code=NOT_STOPPED)
    end = done.events()[-1]
    assert says in end["error"] and "nothing was sent since" in end["worth"] and end["worth"] in done.err, str(done)
    assert (end["state"], end["outcome"]) == ("failed", "not-stopped")
    assert target.read_bytes() == (folder / "then").read_bytes() and writer.is_running()
    # What it has started has ended with it.
    wait_until(lambda: subprocess.run(["pgrep", "-f", "^sleep 300$"], stdout=subprocess.DEVNULL).returncode, "the end of its children")
    program(*LIVE, "--rounds=1", "--then", writer.stop, source, target)
    equal(source, target)


def test_a_stop_that_takes_effect_later(program, write, source, target):
    """As `virsh shutdown` does: it is waited for, and what is written meanwhile is sent."""
    writer = write(source, linger_s=6)
    end = program(*LIVE, "--json", "--rounds=1", "--then", writer.stop, source, target).events()[-1]
    assert end["wait_seconds"] > 1 and end["stop_seconds"] < 4
    equal(source, target)


def test_h20_a_source_that_is_not_stopped(folder, program, write, source, target):
    """The command says that all is well, and somebody writes still: what the target has is left as it is, and not called done."""
    writer = write(source)
    done = program(*LIVE, "--rounds=1", "--then", f"cp {target} {folder}/then", "--then-timeout=5s", source, target, code=NOT_STOPPED)
    assert f"open for writing by pid {writer.process.pid}" in done.err and "nothing was sent since" in done.err, str(done)
    assert target.read_bytes() == (folder / "then").read_bytes()


def test_h02_a_source_that_is_written_in_the_last_round(program, random, source, target):
    """Nobody holds it open, so it seems to be free; but somebody comes back."""
    poke = f"dd if=/dev/urandom of={source} bs=4096 count=1 conv=notrunc status=none"
    done = program("sync", "--rate=16M", "--rounds=1", "--then", f"for i in $(seq 40); do sleep 0.1; {poke}; done &", source, target,
                   code=TROUBLE)
    assert "was written while it was read" in done.err and "not usable" in done.err, str(done)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("phase", ["round", "stop", "wait", "last"])
def test_h25_ended_in_each_phase(phase, number, folder, program, write, source, target):
    """However and whenever it is ended: the same command, once more, leads to the end."""
    writer = write(source)
    then = {"round": "exit 7", "stop": f"touch {folder}/ran; sleep 30", "wait": f"touch {folder}/ran",
            "last": f"{writer.stop}; while kill -0 {writer.process.pid} 2>/dev/null; do sleep 0.05; done; touch {folder}/ran"}[phase]
    running = program.start(*LIVE, "--rate=8M", "--rounds=1", "--then", then, source, target)
    if phase == "last":
        # What holds the child of ours as a zombie is this test.
        writer.process.wait()
    if phase == "round":
        program.wait_for_position(running, MIB)
    else:
        wait_until((folder / "ran").exists, "the stop command")
        time.sleep(0.5)
    running.kill(number)
    done = running.end(-signal.SIGKILL if number == signal.SIGKILL else INTERRUPTED)
    if number != signal.SIGKILL:
        assert "interrupted" in done.err, str(done)
        assert ("not usable" in done.err) == (phase in ("round", "last")), str(done)
    assert writer.is_running() == (phase != "last")
    program(*LIVE, "--rounds=1", "--then", writer.stop, source, target)
    equal(source, target)


def test_an_atomic_round_that_is_interrupted(program, write, source, target):
    """What is said to be done next can be done."""
    writer, before = write(source), target.read_bytes()
    running = program.start(*LIVE, "--atomic", "--rate=8M", "--rounds=1", "--then", writer.stop, source, target)
    program.wait_for_position(running, 4 * MIB)
    running.kill(signal.SIGINT)
    done = running.end(INTERRUPTED)
    assert "interrupted" in done.err and "as it was: run it again" in done.err and "--resume" not in done.err, str(done)
    assert target.read_bytes() == before
    program(*LIVE, "--atomic", "--rounds=1", "--then", writer.stop, source, target)
    equal(source, target)


def test_a_link_that_is_lost(program, sshd, ssh, write, source, target):
    """In a round: it is made again, and the run goes on; with no more tries it ends, and the same command goes on."""
    writer = write(source)
    running = program.start(*LIVE, *ssh, "--rate=8M", "--rounds=1", "--then", writer.stop, source, f"other:{target}")
    program.wait_for_position(running, MIB)
    sshd.cut()
    assert "trying again" in running.end().err
    equal(source, target)
    writer = write(source)
    running = program.start(*LIVE, *ssh, "--retries=0", "--rate=8M", "--rounds=1", "--then", writer.stop, source, f"other:{target}")
    program.wait_for_position(running, MIB)
    sshd.cut()
    done = running.end(LINK_LOST)
    assert "not usable" in done.err and writer.is_running(), str(done)
    program(*LIVE, *ssh, "--rounds=1", "--then", writer.stop, source, f"other:{target}")
    equal(source, target)


def test_run_again_after_the_stop(program, source, target):
    """What was to be stopped is off already: a stop command that says so does not end it."""
    done = program("sync", "--rounds=1", "--then", "echo 'it is not running' >&2; exit 1", source, target)
    assert "it is not running" in done.err and "nobody does now: going on" in done.err, str(done)
    equal(source, target)


def test_a_server_that_nobody_can_look_into(folder, program, servers, random, source, target):
    done = program("sync", "--rounds=1", "--then", "true", servers.nbdkit("file", source).uri, target)
    assert "cannot be seen" in done.err, str(done)
    equal(source, target)
    # Then the word of a command that fails is taken, too.
    done = program("sync", "--rounds=1", "--then", "false", servers.nbdkit("file", source).uri, target, code=NOT_STOPPED)
    assert "failed (exit 1)" in done.err, str(done)


@pytest.fixture
def as_nobody(folder, program, source, target):
    """as_nobody(...): the program run by one who may not look into other users' processes; his are the state, and the target."""
    os.chmod(folder, 0o777)
    os.chmod(source, 0o644)
    shutil.copy(program.path, folder / "blkmove")
    os.chmod(folder / "blkmove", 0o755)
    program.path = str(folder / "blkmove")
    (folder / "own").mkdir()
    for path in folder / "own", target:
        shutil.chown(path, "nobody", "nogroup")
    env = {"BLKMOVE_STATE_DIR": f"{folder}/own/state", "BLKMOVE_RUN_DIR": f"{folder}/own/run", "HOME": f"{folder}/own"}
    return lambda *words, **more: program(*words, prefix=["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"], env=env, **more)


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming somebody else needs root")
def test_h20_users_that_may_not_be_seen(as_nobody, folder, source, target):
    """Nobody seen is not nobody there: a failed stop is one, and what was not seen is said with the good news."""
    with open(source, "r+b"):
        done = as_nobody("sync", "--rounds=1", f"--then=cp {target} {folder}/then; false", source, target, code=NOT_STOPPED)
        assert "failed (exit 1)" in done.err and "cannot be seen" in done.err and "only root may see" in done.err, str(done)
        assert "safe to start" not in done.err and target.read_bytes() == (folder / "then").read_bytes()
    done = as_nobody("sync", "--rounds=1", "--then=true", source, target)
    equal(source, target)
    warning, good = done.err.find("the stop command's word is taken"), done.err.find("safe to start there if nobody uses")
    assert 0 <= warning < good and done.err.count("only root may see") == 2, str(done)


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming somebody else needs root")
def test_h20_a_guest_that_is_known_by_its_locks(as_nobody, folder, source, target):
    """What QEMU locks of an image that it may write is seen by everybody."""
    before = target.read_bytes()
    with open(source, "rb") as image:
        # struct flock: a read lock of byte 101.
        fcntl.fcntl(image, F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_RDLCK, os.SEEK_SET, 101, 1, 0))
        done = as_nobody("sync", "--rounds=1", "--then=true", source, target, code=REFUSED)
        assert "open for writing by a process whose locks are QEMU's" in done.err and target.read_bytes() == before, str(done)
        done = as_nobody(*LIVE, "--rounds=1", "--then=true", "--then-timeout=1s", source, target, code=NOT_STOPPED)
        assert "QEMU" in done.err and "nothing was sent since" in done.err, str(done)
    as_nobody("sync", "--rounds=1", "--then=true", source, target)
    equal(source, target)


def test_h20_a_mounted_device_is_not_read_by_its_old_page_cache(folder, program, loops, mounts, random):
    """A device's page cache does not hear of what its file system writes."""
    image = folder / "disk"
    image.write_bytes(bytes(32 * MIB))
    device, target = loops.attach(image), folder / "new"
    subprocess.run(["mkfs.ext4", "-q", device], check=True)
    point = mounts(device)
    (point / "data").write_bytes(random.randbytes(4 * MIB))
    os.sync()
    # Held open, it keeps what was read.
    with open(device, "rb") as cached:
        cached.read()
        data = random.randbytes(4 * MIB)
        with open(point / "data", "r+b") as file:
            file.write(data)
            os.fsync(file.fileno())
        program("copy", "--cache=buffered", "--allow=live-source", device, target)
        subprocess.run(["umount", point], check=True)
    copy = mounts("-o", "loop", target)
    assert first_difference((copy / "data").read_bytes(), data) is None


def test_a_mounted_loop_device(folder, program, loops, mounts, target, random):
    """The stop is an umount; the file system holds what was written to it until then."""
    image = folder / "disk"
    image.write_bytes(bytes(64 * MIB))
    device, target = loops.attach(image), folder / "new"
    subprocess.run(["mkfs.ext4", "-q", device], check=True)
    point = mounts(device)
    (point / "before").write_bytes(random.randbytes(3 * MIB))
    data = random.randbytes(MIB + 77)
    (folder / "data").write_bytes(data)
    done = program(*LIVE, "--rounds=2", "--then", f"cp {folder}/data {point}/last && umount {point}", device, target)
    assert "it is safe to start there" in done.err
    # By dd: the device may not share its file's page cache.
    assert first_difference(subprocess.run(["dd", f"if={device}", "bs=1M", "status=none"], stdout=subprocess.PIPE, check=True).stdout,
                            target.read_bytes()) is None
    subprocess.run(["e2fsck", "-fn", target], check=True, stdout=subprocess.DEVNULL)
    assert (mounts("-o", "loop,ro", target) / "last").read_bytes() == data


def test_pause_throttle_and_status_hold_over_rounds(program, folder, write, source, target):
    writer = write(source)
    running = program.start(*LIVE, "--rate=4M", "--rounds=2", "--then", f"touch {folder}/ran; sleep 1; {writer.stop}", source, target)
    program.wait_for_position(running, MIB)
    program("throttle", running.pid, "0")
    wait_until((folder / "ran").exists, "the stop command", 60)
    status = program.status(running)
    assert (status["state"], status["round"], status["rate_limit"]) == ("stop", 2, 0)
    program("pause", running.pid)
    wait_until(lambda: not writer.is_running(), "the writer's end")
    time.sleep(1)
    assert running.is_running() and program.status(running)["paused"]
    program("resume", running.pid)
    running.end()
    equal(source, target)


@pytest.mark.parametrize("words, says", [
    (["--rounds=3"], "needs --then"), (["--then=true"], "belong to --rounds"), (["--final-verify=sent"], "belong to --rounds"),
    (["--rounds=0", "--then=true"], "until:5s"), (["--rounds=until:", "--then=true"], "write a time"),
    (["--rounds=until:0s", "--then=true"], "no round takes no time"), (["--rounds=1x", "--then=true"], "until:5s"),
    (["--rounds=1", "--then=true", "--then-timeout=0"], "in no time"),
    (["--rounds=1", "--then=true", "--dry-run"], "--dry-run"), (["--rounds=1", "--then=true", "--resume"], "--resume"),
    (["--rounds=1", "--then=true", "--on-read-error=list"], "--on-read-error"),
    (["--rounds=1", "--then=true", "--final-verify=sent", "--verify"], "leave one out"),
    (["--rounds=1", "--then=true", "--final-verify=sent", "--allow=live-source"], "of one moment")])
def test_what_cannot_be(words, says, program, source, target):
    before = target.read_bytes()
    assert says in program("sync", *words, source, target, code=TROUBLE).err
    assert target.read_bytes() == before


def test_h10_digests_of_a_source_in_use(folder, program, random, write, source, target):
    """Each round saves digests of what the target holds, though the source is another thing by then: the last round goes by them."""
    digests = folder / "digests"
    writers = [write(source, rate=3000, blocks=100) for _ in range(2)]
    stop = "; ".join(writer.stop for writer in writers)
    done = program(*LIVE, "--json", "--rounds=4", "--digests", digests, "--then", stop, source, target)
    equal(source, target)
    warnings = [event["text"] for event in done.events() if event["event"] == "warning"]
    assert len([text for text in warnings if "both volumes are compared" in text]) == 1, warnings
    assert not [text for text in warnings if "not saved" in text], warnings
    end = program("sync", "--json", "--changes=digests", "--digests", digests, source, target).events()[-1]
    assert end["sent"] + end["zero"] == 0


def test_only_what_was_sent_is_read_back(program, servers, folder, source, target):
    """--final-verify=sent: all of it in the first round, then what each one has sent."""
    log = folder / "log"
    server = servers.nbdkit("--filter=log", "file", target, f"logfile={log}")
    poke = f"dd if=/dev/urandom of={source} bs=65536 count=1 seek=100 conv=notrunc status=none; :>{log}"
    done = program("sync", "--json", "--rounds=1", "--final-verify=sent", "--digests", folder / "digests", "--then", poke, source, server.uri)
    equal(source, target)
    rounds = [event for event in done.events() if event["event"] == "round"]
    assert rounds[0]["verify_seconds"] > 0
    assert done.events()[-1]["outcome"] == "equal"
    # What was cut off at the stop, the first round, is a hole in front. The last one reads all of it once, to find what differs.
    read = sum(int(count, 16) for count in re.findall(r" Read id=.* count=(0x[0-9a-f]+) ", log.read_text()))
    assert SIZE <= read < SIZE + 4 * MIB
