# SPDX-License-Identifier: GPL-2.0-or-later
"""Several mirrors in one process: they share what the copies may take and nothing else; each lives and ends by itself."""
import json
import os
import signal
import time

import pytest

from live_mirror import Group
from nbd_client import Client
from processes import agents
from program import INTERRUPTED, LOCKED, OK, REFUSED, TROUBLE, wait_until

MIB = 1 << 20
SIZE = 48 * MIB + 512 * 33
NAMES = ("root", "data", "logs")
PRIORITIES = {"root": 4, "data": 2, "logs": 1}


@pytest.fixture
def volumes(folder, random):
    volumes = {name: (folder / f"{name}.old", folder / f"{name}.new") for name in NAMES}
    for source, _ in volumes.values():
        source.write_bytes(random.randbytes(SIZE))
    return volumes


@pytest.fixture
def group(program, folder, volumes):
    group = Group(program, folder, volumes, own={name: ["--priority", number] for name, number in PRIORITIES.items()})
    yield group
    group.end()


@pytest.fixture
def clients(group, random):
    clients = {name: Client(uri, SIZE, random, pause_s=0.01) for name, uri in group.uris.items()}
    yield clients
    for client in clients.values():
        client.over.set()


def equal(group, name):
    source, target = group.volumes[name]
    return source.read_bytes() == target.read_bytes()


def start(group, clients, *words):
    group.start(*words)
    for client in clients.values():
        client.start()


def stop(clients):
    for client in clients.values():
        client.stop()


def rates(group):
    """Bytes a second of each while all copy."""
    return {name: group.status(name)["sync_rate"] for name in NAMES}


def near(rate, ought):
    return 0.7 * ought <= rate < 1.3 * ought + MIB / 4


def rates_become(group, **ought):
    """MiB a second. They are means of some seconds."""
    time.sleep(3)
    wait_until(lambda: all(near(now, ought[name] * MIB) for name, now in rates(group).items()),
               f"rates of {ought} MiB/s", timeout_s=60)


def test_rates_follow_the_priorities_and_change_while_it_runs(group, clients):
    start(group, clients, "--full", "--copy-mode=background", "--max-rate=7M")
    group.program("throttle", "data", "--min-rate=1M")  # of its own, and less than its part
    rates_become(group, **PRIORITIES)
    told = group.status("root")
    assert told["priority"] == 4 and near(told["rate"], 4 * MIB) and told["rate_limit"] == 7 * MIB
    group.program("throttle", "root", "--priority", "1")
    group.program("throttle", "logs", "--priority=4")
    rates_become(group, root=1, data=2, logs=4)
    # Who does not use its part leaves it to the others.
    group.program("pause", "logs")
    rates_become(group, root=7 / 3, data=14 / 3, logs=0)
    group.program("resume", "logs")
    group.program("throttle", "data", "none")
    for name in NAMES:
        wait_until(lambda: group.status(name)["dirty"] < MIB, f"{name}: nearly all copied")
    stop(clients)
    assert all(client.reconnects == 0 for client in clients.values())


def test_each_cuts_over_reverts_and_ends_by_itself(group, clients, program):
    said = group.start().out.decode().splitlines()
    assert said == list(group.uris.values())
    for client in clients.values():
        client.start()
    for name in NAMES:
        group.wait_for(name, "ready")
    wait_until(lambda: all(group.status(name)["clients"] == 1 for name in NAMES), "a client each")
    program("cutover", "root")
    program("cutover", "data")
    assert [group.status(name)["authoritative"] for name in NAMES] == ["target", "target", "source"]
    program("revert", "root")
    assert [group.status(name)["state"] for name in NAMES[1:]] == ["switched", "ready"]
    program("finish", "data")
    program("abort", "logs")
    # What has ended is served on, as long as others go on.
    writes = {name: client.writes for name, client in clients.items()}
    wait_until(lambda: all(client.writes > writes[name] + 50 for name, client in clients.items()), "writes to all")
    assert group.status("data")["state"] == "finished" and group.status("logs")["state"] == "cancelled"
    assert program("status").out.decode().count(" is the volume") == 2
    group.wait_for("root", "ready")
    program("cutover", "root")
    pid = group.pid()
    stop(clients)
    wait_until(lambda: group.status("root")["dirty"] == 0, "nothing dirty")
    program("finish", "root")
    for name, leg in (("root", 1), ("data", 1), ("logs", 0)):
        clients[name].check_volume(group.volumes[name][leg])
        assert clients[name].reconnects == 0
    group.wait_for_gone(pid)
    assert equal(group, "root")
    for name, who in (("root", "target"), ("data", "target")):
        receipt = json.loads((program.state / f"mirrors/{name}/receipt.json").read_text())
        assert (receipt["mirror"], receipt["authoritative"]) == (name, who)
    assert "cutting" in (program.state / "mirrors/data/log").read_text()
    assert "has ended" in group.resume("data", code=TROUBLE).err


def test_h25_kill_9_of_all_at_any_moment_loses_nothing(group, clients, program, random):
    start(group, clients)
    for _ in range(15):
        for name in random.sample(NAMES, random.randrange(3)):
            order = "revert" if group.status(name)["state"] == "switched" else "cutover"
            program(order, name, "--no-wait", code=None)
        time.sleep(random.random() * 0.3)
        group.kill()
        # The others' clients wait meanwhile.
        if random.random() < 0.3:
            group.resume(random.choice(NAMES))
            time.sleep(random.random() * 0.2)
            group.kill(random.choice((signal.SIGKILL, signal.SIGTERM)))
        assert "comparing" not in group.resume(*random.sample(NAMES, 3)).err
        assert all(client.failure is None for client in clients.values())
    for client in clients.values():
        writes = client.writes
        wait_until(lambda: client.writes > writes + 10, "writes")
    stop(clients)
    for name in NAMES:
        now = group.wait_for(name, "ready", "switched")
        wait_until(lambda: (now := group.status(name))["dirty"] == 0 and now["attached"], "nothing dirty")
        clients[name].check_volume(group.volumes[name][now["authoritative"] == "target"])
        assert clients[name].reconnects > 0
    group.kill(signal.SIGTERM)
    assert all(equal(group, name) for name in NAMES)


HANGING_SSH = """#!/bin/sh
if [ -e {folder}/hang ]; then echo $$ >> {folder}/hung; exec sleep 300; fi
exec {ssh} "$@"
"""


def test_h24_a_login_that_hangs_keeps_no_other_mirror_waiting(program, folder, volumes, random, sshd):
    """The target of one is lost and its ssh stands still: the others copy, cut over within their window, revert and end meanwhile."""
    script = folder / "ssh"
    script.write_text(HANGING_SSH.format(folder=folder, ssh=sshd.ssh))
    script.chmod(0o755)
    source, target = volumes["root"]
    group = Group(program, folder, {**volumes, "root": (source, f"far:{target}")},
                  own={"root": ["--ssh", script, "--agent-path", program.path]})
    clients = {name: Client(uri, SIZE, random, pause_s=0.01) for name, uri in group.uris.items()}
    try:
        start(group, clients, "--target-timeout=500ms")
        for name in NAMES:
            group.wait_for(name, "ready")
        (folder / "hang").touch()
        for pid in agents(target):
            os.kill(pid, signal.SIGKILL)
        wait_until((folder / "hung").exists, "the login that hangs")
        for client in clients.values():
            client.longest_s = 0
        for _ in range(3):
            for name in ("data", "logs"):
                program("cutover", name, timeout_s=60)
                assert group.status(name)["pause_ms"] < 500
                wait_until(lambda: group.status(name)["revertible"], "that it can revert")
                program("revert", name, timeout_s=60)
                group.wait_for(name, "ready", timeout_s=60)
        program("abort", "data", timeout_s=60)
        now = group.status("root")
        assert not now["attached"] and now["state"] == "syncing" and "let go" in now["trouble"], now
        assert max(client.longest_s for client in clients.values()) < 15
        assert all(client.reconnects == 0 for client in clients.values())
        hung = [int(pid) for pid in (folder / "hung").read_text().split()]
        assert os.path.exists(f"/proc/{hung[-1]}"), "nothing hung any more"
        # Nor does it keep the process from ending when it is told to.
        begun = time.monotonic()
        group.kill(signal.SIGTERM)
        assert time.monotonic() - begun < 30
        (folder / "hang").unlink()
        group.resume("root", "logs")
        for name in ("root", "logs"):
            group.wait_for(name, "ready")
        clients["data"].over.set()
        stop(clients)
        program("cutover", "root")
        program("cutover", "logs")
        program("finish", "logs")
        program("finish", "root")
        assert equal(group, "logs") and source.read_bytes() == target.read_bytes()
        for name, leg in (("root", target), ("data", volumes["data"][0]), ("logs", volumes["logs"][1])):
            clients[name].check_volume(leg)
    finally:
        for client in clients.values():
            client.over.set()
        group.end()


def test_stopped_in_the_foreground_it_names_all_that_can_go_on(group, program):
    running = program.start("mirror", "--foreground", "--json", *group.words)
    for name in NAMES:
        group.wait_for(name, "ready")
    program("abort", "data")
    running.kill(signal.SIGINT)
    done = running.end(INTERRUPTED)
    events = [event for event in done.events() if "event" in event]
    assert [event["name"] for event in events if event["event"] == "ready"] == list(NAMES)
    assert {"event": "state", "name": "logs", "state": "ready"} in events
    assert done.err.count("--resume root --resume logs`") == 2 and "data" not in done.err, str(done)
    # As it was begun: in the foreground.
    running = program.start("mirror", "--resume", "root", "--resume", "logs", "--max-rate=3M")
    assert group.wait_for("logs", "ready")["rate_limit"] == 3 * MIB and group.status("data") is None
    running.kill(signal.SIGTERM)
    running.end(INTERRUPTED)


def test_who_asks_for_no_name_gets_no_disk(group, program, random):
    """Which one it is would depend on which were resumed: a guest would find another disk than before."""
    import nbd
    group.start()
    handle = nbd.NBD()
    with pytest.raises(nbd.Error):
        handle.connect_uri(group.listen)
    group.kill()
    group.resume("logs")
    handle = nbd.NBD()
    with pytest.raises(nbd.Error):
        handle.connect_uri(group.listen)
    handle = nbd.NBD()
    handle.connect_uri(group.uris["logs"])
    assert handle.pread(4096, 0) == group.volumes["logs"][0].read_bytes()[:4096]


@pytest.mark.parametrize("words,said,code", [
    (["--name", "b", "old", "b2", "--max-rate=3M"], "before the first --and", TROUBLE),
    (["--name", "b", "old", "b2", "--listen=nbd://localhost"], "before the first --and", TROUBLE),
    (["--name", "b", "old", "b2", "--foreground"], "before the first --and", TROUBLE),
    (["--name", "b", "old"], "needs SRC and DST", TROUBLE),
    (["--name", "a", "old", "b2"], "cannot both be called a", TROUBLE),
    (["--name", "b", "old", "b2", "--priority=0"], "from 1 to 1000", TROUBLE),
    (["--name", "b", "old", "new"], "old: this command has it open for writing already", LOCKED),
    (["--name", "b", "new", "b2"], "new: this command has it open for writing already", LOCKED),
    (["--name", "b", "gone", "b2"], "b: cannot begin", TROUBLE),
    (["--resume", "b"], "before the first --and", TROUBLE),
])
def test_bad_words_begin_nothing(program, folder, random, words, said, code):
    files = {name: folder / name for name in ("old", "new", "b2", "gone")}
    files["old"].write_bytes(random.randbytes(MIB))
    done = program("mirror", "--listen", f"nbd+unix:///?socket={folder / 's'}", "--name", "a", files["old"], files["new"], "--and",
                   *[files.get(word, word) for word in words], code=code)
    assert said in done.err, str(done)
    assert not list(program.state.glob("mirrors/*/command")), "something is left to resume"
    assert not (folder / "s").exists() and program("status").out == b""


def test_only_what_was_begun_together_is_resumed_together(group, program, folder, random):
    other = folder / "other"
    other.write_bytes(random.randbytes(MIB))
    program("mirror", "--listen", f"nbd+unix:///?socket={folder / 't'}", "--name", "other", other, folder / "other.new")
    group.start()
    pid = json.loads(program("status", "other", "--json").out)["pid"]
    os.kill(pid, signal.SIGKILL)
    group.kill()
    assert "not begun with one command" in group.resume("root", "other", code=TROUBLE).err
    assert "give --resume several times" in program("mirror", "--resume", "root", "--and", "--resume", "data", code=TROUBLE).err
    assert "cannot both be called" in group.resume("root", "root", code=TROUBLE).err
    assert "under its own name" in program("mirror", f"--listen=nbd+unix:///x?socket={folder / 'u'}", "--name=x", other, other, "--and",
                                           "--name=y", other, other, code=TROUBLE).err
    # Nobody lost his claim by that.
    group.resume()
    assert all(group.wait_for(name, "ready") for name in NAMES)
