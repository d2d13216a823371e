# SPDX-License-Identifier: GPL-2.0-or-later
"""How a mirror begins and is gone on with: whose target it is, and what of the first words is still to be done."""
import pathlib
import signal
import socket
import subprocess
import sys
import time

import nbd
import pytest

from live_mirror import Group, Mirror
from program import INTERRUPTED, REFUSED, TROUBLE, wait_until

MIB = 1 << 20
SIZE = 16 * MIB


def put_ext4(path):
    path.unlink(missing_ok=True)
    with open(path, "wb") as file:
        file.truncate(SIZE)
    subprocess.run(["mkfs.ext4", "-q", "-F", path], check=True, stdout=subprocess.DEVNULL)
    return path.read_bytes()


def files(mirror):
    return pathlib.Path(mirror.program.state / "mirrors/m")


@pytest.fixture
def slow(program, folder, volumes):
    """A mirror of a source that does not answer before its server gets SIGCONT, onto another's file system."""
    socket = folder / "slow"
    server = program.start("serve", "--listen", f"nbd+unix:///?socket={socket}", volumes[0])
    wait_until(socket.exists, "the server")
    server.kill(signal.SIGSTOP)
    mirror = Mirror(program, folder, f"nbd+unix:///?socket={socket}", volumes[1])
    mirror.server, mirror.carried = server, put_ext4(volumes[1])
    yield mirror
    server.kill(signal.SIGCONT)
    mirror.end()
    server.kill(signal.SIGTERM)


def interrupt(mirror, number, code):
    running = mirror.program.start("mirror", "--foreground", *mirror.words)
    wait_until((files(mirror) / "command").exists, "the begin")
    time.sleep(0.5)
    running.kill(number)
    running.end(code)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_h21_a_start_that_was_interrupted_leaves_nothing_to_go_on_with(slow, number):
    interrupt(slow, number, INTERRUPTED)
    assert "there is nothing to resume" in slow.resume(code=TROUBLE).err
    slow.server.kill(signal.SIGCONT)
    assert "ext4" in slow.start(code=REFUSED).err
    assert slow.target.read_bytes() == slow.carried


def test_h21_a_start_that_was_killed_overwrites_nothing_that_was_not_judged(slow, volumes):
    interrupt(slow, signal.SIGKILL, -signal.SIGKILL)
    slow.server.kill(signal.SIGCONT)
    assert "--resume m" in slow.start(code=REFUSED).err
    for _ in range(2):
        done = slow.resume(code=REFUSED)
        assert "ext4" in done.err and "--overwrite" in done.err, str(done)
        assert slow.target.read_bytes() == slow.carried
    running = slow.program.start("mirror", "--resume", "m", "--overwrite", slow.target)
    slow.wait_for("ready")
    running.kill(signal.SIGTERM)
    running.end(INTERRUPTED)
    assert slow.target.read_bytes() == volumes[0].read_bytes()


@pytest.mark.parametrize("leg", ["source", "target"])
def test_h22_without_its_map_a_mirror_takes_no_other_volume_of_the_same_name(mirror, random, leg):
    """Names of devices move; what was confirmed was said of another volume."""
    put_ext4(mirror.target)
    mirror.start("--overwrite", mirror.target)
    mirror.wait_for("ready")
    mirror.kill()
    (files(mirror) / "map").unlink()
    moved = mirror.leg(leg)
    moved.rename(moved.with_name("moved"))
    put_ext4(moved)
    before = mirror.source.read_bytes(), mirror.target.read_bytes()
    for _ in range(2):
        done = mirror.resume(code=TROUBLE)
        assert "is another volume" in done.err, str(done)
        assert before == (mirror.source.read_bytes(), mirror.target.read_bytes())
    moved.unlink()
    moved.with_name("moved").rename(moved)
    assert "comparing all" in mirror.resume().err
    mirror.wait_for("ready")


def test_h22_what_an_earlier_mirror_of_the_name_judged_counts_no_more(slow, folder, volumes):
    """It died while it forgot."""
    volume = folder / "other"
    volume.write_bytes(bytes(SIZE))
    first = Mirror(slow.program, folder, volume, volumes[1])
    first.start("--overwrite", first.target)
    first.wait_for("ready")
    judged = (files(first) / "judged").read_bytes()
    first.program("abort", "m")
    first.end()
    assert not (files(first) / "judged").exists()
    (files(first) / "judged").write_bytes(judged)
    target = open(first.target, "r+b")
    target.write(slow.carried)
    target.close()
    interrupt(slow, signal.SIGKILL, -signal.SIGKILL)
    slow.server.kill(signal.SIGCONT)
    assert "ext4" in slow.resume(code=REFUSED).err
    assert slow.target.read_bytes() == slow.carried


def reverted_for_good(mirror):
    now = mirror.wait_for("ready")
    time.sleep(1.5)
    then = mirror.status()
    return now["authoritative"] == then["authoritative"] == "source" and then["state"] == "ready"


def test_a_cutover_by_itself_is_once_and_stays_reverted(mirror):
    mirror.start("--cutover=auto")
    mirror.wait_for("switched")
    wait_until(lambda: mirror.status()["revertible"], "that it can revert")
    mirror.program("revert", "m")
    assert reverted_for_good(mirror)
    mirror.kill()
    mirror.resume()
    assert reverted_for_good(mirror)
    mirror.kill()
    mirror.resume("--cutover=auto")
    mirror.wait_for("switched")


def test_a_cutover_by_itself_is_gone_on_with_before_and_after_it(mirror):
    """It was ordered and not carried out; and it was."""
    mirror.start("--cutover=auto", "--max-rate=4M")
    assert mirror.status()["state"] == "syncing"
    mirror.kill()
    mirror.resume("--max-rate=none")
    mirror.wait_for("switched")
    mirror.kill()
    mirror.resume()
    assert mirror.status()["state"] == "switched"
    wait_until(lambda: mirror.status()["revertible"], "that it can revert")
    mirror.program("revert", "m")
    mirror.kill()
    mirror.resume()
    assert reverted_for_good(mirror)


def test_a_cutover_that_is_too_late_and_aborted_is_not_ordered_again(mirror, random):
    """With a window that nothing fits into."""
    mirror.start("--cutover=auto", "--cutover-action=abort", "--cutover-window=0.001ms")
    deferred = lambda: (order := mirror.status()["order"]) and order["state"] == "failed"
    wait_until(deferred, "the order's end")
    number = mirror.status()["order"]["number"]
    assert reverted_for_good(mirror)
    mirror.kill()
    mirror.resume()
    assert reverted_for_good(mirror) and number == 1 and mirror.status()["order"] is None


def test_a_switched_mirror_of_several_takes_none_with_it(program, folder, random):
    volumes = {name: (folder / f"{name}.old", folder / f"{name}.new") for name in ("a", "b")}
    for source, _ in volumes.values():
        source.write_bytes(random.randbytes(SIZE))
    group = Group(program, folder, volumes, own={"a": ["--cutover=auto"]})
    try:
        group.start()
        group.wait_for("a", "switched")
        group.kill()
        group.resume()
        time.sleep(0.5)
        assert group.status("a")["state"] == "switched"
        group.wait_for("b", "ready")
    finally:
        group.end()


def moment(seconds):
    return time.strftime("--cutover=at=%Y-%m-%d %H:%M:%S", time.localtime(time.time() + seconds))


def test_a_moment_that_passed_meanwhile_is_as_soon_as_it_is_ready(mirror):
    mirror.start(moment(3), "--max-rate=1M")
    mirror.kill()
    time.sleep(3)
    mirror.resume("--cutover=manual", "--max-rate=none")
    assert reverted_for_good(mirror)
    mirror.kill()
    mirror.resume("--max-rate=none")
    mirror.wait_for("switched")
    mirror.kill()
    mirror.resume()
    wait_until(lambda: mirror.status()["revertible"], "that it can revert")
    mirror.program("revert", "m")
    mirror.kill()
    mirror.resume()
    assert reverted_for_good(mirror)
    assert "has passed" in mirror.program("mirror", moment(-5), "--name", "n", mirror.source, mirror.target, code=TROUBLE).err


def test_a_time_of_day_is_that_of_the_begin_after_a_resume(mirror):
    mirror.start(time.strftime("--cutover=at=%H:%M:%S", time.localtime(time.time() + 3)), "--max-rate=1M")
    mirror.kill()
    time.sleep(3)
    mirror.resume("--max-rate=none")
    mirror.wait_for("switched")


def test_paused_holds_until_somebody_resumes_it(mirror):
    mirror.start("--paused")
    mirror.kill()
    mirror.resume()
    assert mirror.status()["paused"]
    mirror.program("resume", "m")
    mirror.wait_for("ready")
    mirror.kill()
    mirror.resume()
    assert not mirror.status()["paused"]
    mirror.wait_for("ready")
    mirror.kill()
    mirror.resume("--paused")
    assert mirror.status()["paused"]


# As systemd does it for a socket unit: listens at argv[1], and becomes the rest.
ACTIVATE = """
import os, socket, sys
listening = socket.socket(socket.AF_UNIX)
listening.bind(sys.argv[1])
listening.listen()
if listening.fileno() != 3:
    os.dup2(listening.fileno(), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
os.execv(sys.argv[2], sys.argv[2:])
"""


def is_served(mirror, path):
    handle = nbd.NBD()
    handle.connect_unix(str(path))
    served = handle.pread(MIB, 0) == mirror.source.read_bytes()[:MIB] and mirror.status()["uri"].endswith(path.name)
    handle.shutdown()
    return served


@pytest.mark.parametrize("where", ["background", "foreground"])
def test_systemd_socket_activation(program, folder, volumes, where):
    """Of the begin, and of a resume."""
    mirror = Mirror(program, folder, *volumes)
    for number, words in enumerate([["--name", "m", *volumes], ["--resume", "m"]]):
        path, notify = folder / f"activated-{number}", folder / f"notify-{number}"
        running = None
        how = {"prefix": [sys.executable, "-c", ACTIVATE, path], "env": {"NOTIFY_SOCKET": str(notify)}}
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
                manager.bind(str(notify))
                manager.settimeout(60)
                if where == "background":
                    program("mirror", *words, **how)
                else:
                    running = program.start("mirror", "--foreground", "--quiet", *words, **how)
                    assert manager.recv(100) == b"READY=1"
            assert is_served(mirror, path)
        finally:
            if running:
                running.kill(signal.SIGTERM)
                running.end(INTERRUPTED)
            mirror.end()
        # The socket is systemd's, who keeps it.
        assert path.exists()
