# SPDX-License-Identifier: GPL-2.0-or-later
"""Live mirrors: a client writes and reads all the while, and nothing that was acknowledged is lost, whatever happens."""
import errno
import json
import os
import pathlib
import signal
import subprocess
import time

import nbd
import pytest

from live_mirror import Mirror
from nbd_client import Client
from processes import agents
from program import INTERRUPTED, LOCKED, OK, REFUSED, TROUBLE, wait_until

MIB = 1 << 20
SIZE = 24 * MIB + 512 * 77


def equal(mirror):
    return pathlib.Path(mirror.source).read_bytes() == pathlib.Path(mirror.target).read_bytes()


def test_from_the_begin_to_the_end(mirror, client):
    assert mirror.start().out.decode().strip() == mirror.uri
    client.start()
    mirror.wait_for("ready")
    done = mirror.program("cutover", "m")
    assert "clients saw a pause of" in done.out.decode()
    assert mirror.status()["authoritative"] == "target"
    time.sleep(0.5)
    wait_until(lambda: mirror.status()["revertible"], "that it can revert")
    mirror.program("revert", "m")
    assert mirror.status()["authoritative"] == "source"
    mirror.wait_for("ready")
    mirror.program("cutover", "m")
    wait_until(lambda: client.writes > 300, "writes")
    client.stop()
    wait_until(lambda: mirror.status()["dirty"] == 0, "nothing dirty")
    mirror.program("finish", "m")
    client.check_volume(mirror.target)
    pid = mirror.status()["pid"]
    mirror.wait_for_gone(pid)
    assert equal(mirror) and client.reconnects == 0
    receipt = json.loads((mirror.program.state / "mirrors/m/receipt.json").read_text())
    assert receipt["authoritative"] == "target" and receipt["size"] == SIZE
    assert "has ended" in mirror.resume(code=TROUBLE).err


KILLS = int(os.environ.get("BLKMOVE_KILLS", "40"))


def aim(mirror, random):
    """Gives an order or none, and waits for a moment to die at. Returns which legs may be the volume then."""
    before = mirror.ask()
    order, leg = ("revert", "source") if before["state"] == "switched" else ("cutover", "target")
    chance, moment_s = random.random(), random.random() ** 3 * 0.5
    if chance < 0.2:
        assert before["order"] is None
        return {leg if mirror.program(order, "m", code=None).code == OK else before["authoritative"]}
    if chance < 0.8:
        mirror.program(order, "m", "--no-wait", code=None)
        if chance < 0.5:
            # What takes milliseconds is watched for.
            end = time.monotonic() + 0.2
            wait_until(lambda: mirror.ask()["state"] == "cutting" or time.monotonic() > end, "a cutover")
            moment_s /= 20
    time.sleep(moment_s)
    return {"source", "target"} if chance < 0.8 else {before["authoritative"]}


def kill_and_resume(mirror, client, random, kills):
    """Kills it while it syncs, is ready, cuts over, has switched and reverts. Each time the leg of the last order that was told done is the
    volume, and all that was acknowledged can be read. Returns the last client, and how often each state was met."""
    seen = {}
    for number in range(kills):
        client.start()
        if number % 4:
            mirror.wait_for("ready", "switched")
        legs = aim(mirror, random) if number else {"source"}
        now = mirror.ask()
        mirror.kill(pid=now["pid"])
        seen[now["state"]] = seen.get(now["state"], 0) + 1
        client.stop()
        done = mirror.resume("--max-rate=none")
        assert "comparing" not in done.err, str(done)
        assert mirror.status()["authoritative"] in legs
        client = client.again()
        client.check_export()
    return client, seen


@pytest.mark.parametrize("kind", ["files", "loop-devices"])
def test_h25_kill_9_at_any_moment_loses_nothing(program, folder, volumes, random, request, kind):
    """BLKMOVE_KILLS in all, half of them with the legs on loop devices."""
    if kind == "loop-devices":
        loops = request.getfixturevalue("loops")
        volumes[1].write_bytes(random.randbytes(SIZE))
        volumes = [loops.attach(volume) for volume in volumes]
    # Whoever looks for a free loop device opens others for a moment.
    mirror = Mirror(program, folder, *volumes, *(["--allow=held"] if kind == "loop-devices" else []))
    client = Client(mirror.uri, SIZE, random)
    try:
        # It is not ready soon: the first kill meets it before.
        mirror.start("--max-rate=4M")
        client, seen = kill_and_resume(mirror, client, random, KILLS // 2)
        print(f"{KILLS // 2} kills on {kind}: {seen}, {client.writes} writes, {client.reads} reads")
        assert {"syncing", "ready", "switched", *(["cutting"] if KILLS >= 200 else [])} <= seen.keys()
        assert client.writes > KILLS
        now = mirror.wait_for("ready", "switched")
        wait_until(lambda: (now := mirror.status())["dirty"] == 0 and now["attached"], "nothing dirty")
        client.check_volume(mirror.leg(now["authoritative"]))
        mirror.kill(signal.SIGTERM)
        assert equal(mirror)
    finally:
        client.over.set()
        mirror.end()


def test_abort_leaves_the_source_alone(mirror, client):
    mirror.start("--max-rate=4M")
    client.start()
    wait_until(lambda: client.writes > 20, "writes")
    done = mirror.program("abort", "m")
    assert "is not usable" in done.out.decode()
    assert mirror.status()["state"] == "cancelled"
    writes = client.writes
    wait_until(lambda: client.writes > writes + 20, "writes after it")
    client.stop()
    client.check_volume(mirror.source)


def test_a_stopped_mirror_is_gone_on_with(mirror, client):
    mirror.start("--max-rate=4M")
    client.start()
    wait_until(lambda: client.writes > 20, "writes")
    mirror.kill(signal.SIGTERM)
    assert "has not ended" in mirror.start(code=REFUSED).err
    mirror.resume("--max-rate=none")
    mirror.wait_for("ready")
    client.stop()
    mirror.program("cutover", "m")
    mirror.program("finish", "m")
    client.check_volume(mirror.target)
    assert equal(mirror)


def test_one_of_a_name_at_a_time(mirror):
    mirror.start()
    assert str(mirror.status()["pid"]) in mirror.start(code=LOCKED).err
    assert str(mirror.status()["pid"]) in mirror.resume(code=LOCKED).err


def test_the_socket_of_a_name_is_not_taken_from_who_has_it(mirror, program, folder):
    """By one with another state folder. What nobody has any more is."""
    mirror.start()
    now = mirror.status()
    other = Mirror(program, folder, folder / "a", folder / "b", "--state-dir", folder / "other", uri=f"nbd+unix:///?socket={folder / 's2'}")
    other.source.write_bytes(bytes(MIB))
    done = other.start(code=LOCKED)
    assert f"m runs already, as process {now['pid']}" in done.err and str(mirror.source) in done.err, str(done)
    assert not other.target.exists() and mirror.status()["pid"] == now["pid"]
    assert "there is nothing to resume" in other.resume("--state-dir", folder / "other", code=TROUBLE).err
    mirror.kill()
    other.start()
    assert other.status()["source"] == str(other.source)
    other.kill()
    mirror.resume()
    said = other.resume("--state-dir", folder / "other", code=LOCKED).err
    assert said.endswith("or end that one first\n"), said


def test_a_damaged_map_is_compared_and_said(mirror, client, random):
    mirror.start()
    client.start()
    mirror.wait_for("ready")
    client.stop()
    mirror.kill()
    path = mirror.program.state / "mirrors/m/map"
    path.write_bytes(random.randbytes(path.stat().st_size))
    done = mirror.resume()
    assert "comparing all of both legs" in done.err, str(done)
    mirror.wait_for("ready")
    mirror.kill(signal.SIGTERM)
    assert equal(mirror)


def test_h16_no_leg_is_chosen_when_the_map_of_a_switched_mirror_is_damaged(mirror, random):
    mirror.start()
    mirror.wait_for("ready")
    mirror.program("cutover", "m")
    mirror.kill()
    (mirror.program.state / "mirrors/m/map").write_bytes(b"garbage")
    before = mirror.source.read_bytes(), mirror.target.read_bytes()
    done = mirror.resume(code=TROUBLE)
    assert "cannot be known which leg is the newer one" in done.err and "--forget m" in done.err, str(done)
    assert before == (mirror.source.read_bytes(), mirror.target.read_bytes())
    mirror.program("mirror", "--forget", "m")


def test_h24_a_lost_target_never_holds_up_clients(program, folder, volumes, random, ssh):
    source, target = volumes
    mirror = Mirror(program, folder, source, f"far:{target}", *ssh, "--target-timeout=500ms")
    client = Client(mirror.uri, SIZE, random)
    mirror.start()
    client.start()
    try:
        mirror.wait_for("ready")
        for pid in agents(target):
            os.kill(pid, signal.SIGSTOP)
        stopped = agents(target)
        wait_until(lambda: not mirror.status()["attached"], "that the target is let go")
        writes = client.writes
        wait_until(lambda: client.writes > writes + 50, "writes without the target")
        for pid in stopped:
            os.kill(pid, signal.SIGKILL)
        mirror.wait_for("ready")
        client.stop()
        assert client.longest_s < 5 and client.reconnects == 0
        mirror.program("cutover", "m")
        mirror.program("finish", "m")
        client.check_volume(target)
    finally:
        client.over.set()
        mirror.end()
    assert source.read_bytes() == target.read_bytes()


def test_h24_a_source_that_stays_away_is_an_error_in_time(program, folder, volumes, sshd):
    """Clients wait for as long as was said, and are served again when it is back."""
    source, target = volumes
    agent, handle = folder / "agent", nbd.NBD()
    agent.symlink_to(program.path)
    mirror = Mirror(program, folder, f"far:{source}", target, "--ssh", sshd.ssh, "--agent-path", agent, "--source-timeout=1s")
    mirror.start("--paused")
    try:
        handle.connect_uri(mirror.uri)
        agent.unlink()
        begun = time.monotonic()
        for pid in agents(source):
            os.kill(pid, signal.SIGKILL)
        with pytest.raises(nbd.Error) as failed:
            handle.pread(512, 0)
        assert failed.value.errnum == errno.EIO and 0.5 < time.monotonic() - begun < 25, (failed.value, time.monotonic() - begun)
        wait_until(lambda: "clients get I/O errors until it is back" in (mirror.status()["trouble"] or ""), "that it is said")
        agent.symlink_to(program.path)
        wait_until(lambda: mirror.status()["away_s"] is None, "that it is back")
        assert handle.pread(512, 0) == source.read_bytes()[:512]
        handle.shutdown()
    finally:
        mirror.end()


@pytest.mark.parametrize("leg", ["source", "target"])
def test_h24_a_lost_link_of_the_volume_itself_is_opened_again(program, folder, volumes, random, ssh, leg):
    """Clients wait and see no error: with the source far away, and with the target after the switch."""
    source, target = volumes
    places = [f"far:{source}", target] if leg == "source" else [source, f"far:{target}"]
    mirror = Mirror(program, folder, *places, *ssh)
    mirror.source, mirror.target = source, target
    client = Client(mirror.uri, SIZE, random)
    far = source if leg == "source" else target
    mirror.start()
    client.start()
    try:
        mirror.wait_for("ready")
        if leg == "target":
            mirror.program("cutover", "m")
        for _ in range(3):
            writes = client.writes
            for pid in agents(far):
                os.kill(pid, signal.SIGKILL)
            wait_until(lambda: client.writes > writes + 30, "writes over a new link")
        wait_until(lambda: (now := mirror.status())["dirty"] == 0 and now["attached"], "nothing dirty")
        assert "clients wait for the " + leg in (program.state / "mirrors/m/log").read_text()
        if leg == "target":
            mirror.program("revert", "m")
        mirror.wait_for("ready")
        client.stop()
        assert client.reconnects == 0
        client.check_volume(source)
    finally:
        client.over.set()
        mirror.end()
    assert source.read_bytes() == target.read_bytes()


def test_a_target_with_something_on_it_is_refused(mirror):
    subprocess.run(["mkfs.ext4", "-q", "-F", "-L", "srv", mirror.target, "24M"], check=True)
    os.truncate(mirror.target, SIZE)
    done = mirror.start(code=REFUSED)
    assert "ext4" in done.err and "--overwrite" in done.err, str(done)
    mirror.start("--overwrite", mirror.target)
    mirror.wait_for("ready")


def test_h20_neither_leg_has_a_second_writer(mirror, program, folder):
    mirror.start()
    mirror.wait_for("ready")
    other = folder / "other.img"
    other.write_bytes(bytes(SIZE))
    for volume in (mirror.source, mirror.target):
        program("copy", other, volume, code=LOCKED)
        program("serve", f"--listen=nbd+unix:///?socket={folder / 'other'}", volume, code=LOCKED)


def test_h23_the_end_says_that_both_disks_carry_the_same_file_system(mirror):
    mirror.start()
    mirror.wait_for("ready")
    mirror.program("cutover", "m")
    assert "do not mount both" in mirror.program("finish", "m").out.decode()


def fill(folder):
    """To the last byte. Returns the file that takes it all."""
    with pytest.raises(OSError), open(folder / "filler", "wb", buffering=0) as filler:
        while True:
            filler.write(bytes(4096))
    return folder / "filler"


def goes_on(client, count=50):
    writes = client.writes
    wait_until(lambda: client.writes > writes + count or client.failure, "writes")
    assert client.failure is None and client.reconnects == 0, (client.failure, client.reconnects)


def end_on_target(mirror, client):
    mirror.wait_for("ready")
    mirror.program("cutover", "m")
    client.stop()
    wait_until(lambda: mirror.status()["dirty"] == 0, "nothing dirty")
    mirror.program("finish", "m")
    client.check_volume(mirror.target)
    assert equal(mirror)


@pytest.mark.parametrize("order", ["cutover", "second cutover", "revert", "finish", "abort"])
def test_h27_an_order_on_a_full_disk_is_done_or_refused(mounts, mirror, client, order):
    """The disk of the state folder: the map has its room, what else is to be noted has none. Clients feel nothing."""
    state = mounts("-t", "tmpfs", "-o", "size=2500k", "none")
    mirror.start("--state-dir", state)
    client.start()
    mirror.wait_for("ready")
    for before in {"second cutover": ["cutover", "revert"], "revert": ["cutover"], "finish": ["cutover"]}.get(order, []):
        mirror.program(before, "m")
    filler = fill(state)
    goes_on(client)
    done = mirror.program(order.split()[-1], "m", code=TROUBLE if order == "cutover" else OK)
    goes_on(client)
    leg = "target" if order in ("second cutover", "finish") else "source"
    switched = order in ("second cutover", "revert")
    assert mirror.status()["authoritative"] == leg
    # Who ordered it, and whoever asks, knows that it has no receipt.
    for said in (done.err, mirror.program("status", "m").out.decode()):
        assert ("has no receipt: cannot write receipt.json" in said) == switched, str(done)
    if order == "cutover":
        assert "No space left on device" in done.err
        mirror.kill()
        client.stop()
        assert "No space left on device" in mirror.resume("--state-dir", state, code=TROUBLE).err
    elif switched:
        mirror.kill()
        client.stop()
    filler.unlink()
    if order == "cutover" or switched:
        mirror.resume("--state-dir", state)
        client = client.again()
        client.check_export()
        client.start()
    if switched:
        receipt = json.loads((state / "mirrors/m/receipt.json").read_text())
        assert receipt["authoritative"] == mirror.status()["authoritative"] == leg and receipt["when"] is None
    if order in ("cutover", "revert"):
        end_on_target(mirror, client)
    else:
        client.stop()
        client.check_volume(mirror.leg(leg))


@pytest.mark.parametrize("way", ["itself", "a symbolic link", "another name", "a loop device", "one loop device", "two loop devices", "ssh"])
def test_a_mirror_onto_itself_is_refused(program, folder, volumes, request, way):
    source, other = volumes
    words, before = [], source.read_bytes()
    legs = [source, source]
    if way == "a symbolic link":
        other.symlink_to(source)
        legs[1] = other
    elif way == "another name":
        os.link(source, other)
        legs[1] = other
    elif way == "ssh":
        other.symlink_to(source)
        words, legs = request.getfixturevalue("ssh"), [f"far:{source}", f"far:{other}"]
    elif "loop" in way:
        loops, words = request.getfixturevalue("loops"), ["--allow=held"]
        legs = {"a loop": [source, loops.attach(source)], "one lo": [loops.attach(source)] * 2,
                "two lo": [loops.attach(source), loops.attach(source)]}[way[:6]]
    done = Mirror(program, folder, *legs, *words).start(code=REFUSED)
    assert ("same volume" in done.err or "overlap" in done.err) and "another blkmove" not in done.err, str(done)
    assert str(legs[0]) in done.err and str(legs[1]) in done.err and source.read_bytes() == before
    assert "there is nothing to resume" in program("mirror", "--resume", "m", code=TROUBLE).err


@pytest.mark.parametrize("words,said", [
    (["--cutover=at=yesterday"], "such as 22:30"),
    (["--cutover-window=fast"], "such as 500ms"),
    (["--impact=much"], "a percentage"),
    (["--copy-mode=both"], "choose one of"),
    (["--name=../x"], "cannot be called"),
    (["--name=12"], "digits alone"),
])
def test_bad_words(words, said, mirror):
    done = mirror.program("mirror", *[word for word in mirror.words if word not in ("--name", "m")], *words, code=TROUBLE)
    assert said in done.err, str(done)
    assert not mirror.target.exists()


def test_it_cuts_over_by_itself(mirror, client):
    mirror.start("--cutover=auto", "--verify")
    client.start()
    mirror.wait_for("switched")
    client.stop()
    now = mirror.status()
    assert (now["authoritative"], now["verified"], now["differing"]) == ("target", SIZE, 0)


def test_foreground_ends_with_a_signal_and_says_how_to_go_on(program, mirror):
    running = program.start("mirror", "--foreground", "--json", *mirror.words)
    mirror.wait_for("ready")
    running.kill(signal.SIGINT)
    done = running.end(INTERRUPTED)
    events = [json.loads(line) for line in done.out.splitlines()]
    assert events[0]["event"] == "ready" and {"event": "state", "name": "m", "state": "ready"} in events
    assert "--resume m" in done.err


def breakable_disk(mounts, loops):
    disk = mounts("-t", "tmpfs", "-o", "size=20m", "none") / "disk"
    disk.touch()
    os.truncate(disk, 16 * MIB)
    subprocess.run(["mkfs.ext4", "-q", disk], check=True)
    device = loops.attach(disk)
    return disk, device, mounts("-o", "errors=remount-ro", device)


def break_disk(disk, how, device):
    """A file system on a loop device over a file of a tmpfs cannot be written any more."""
    if how == "read-only":
        pathlib.Path(f"/sys/fs/ext4/{pathlib.Path(device).name}/trigger_fs_error").write_text("a test")
        return
    # What has no blocks gets none any more: the device fails every write with EIO.
    subprocess.run(["fallocate", "--punch-hole", "--offset=0", f"--length={disk.stat().st_size}", disk], check=True)
    with pytest.raises(OSError), open(disk.parent / "filler", "wb", buffering=0) as filler:
        while True:
            filler.write(bytes(4096))


@pytest.mark.parametrize("how", ["read-only", "io-errors"])
@pytest.mark.parametrize("switched", [False, True], ids=["ready", "switched"])
def test_h11_a_map_that_could_not_be_written_is_not_trusted(mounts, loops, mirror, client, how, switched):
    """Its disk is well again later, and holds a map that looks whole but lacks what was written meanwhile."""
    disk, device, state = breakable_disk(mounts, loops)
    mirror.start("--state-dir", state)
    client.start()
    mirror.wait_for("ready")
    if switched:
        mirror.program("cutover", "m")
    client.stop()
    assert client.reconnects == 0
    wait_until(lambda: (now := mirror.status())["dirty"] == 0 and now["attached"], "nothing dirty")
    time.sleep(3)  # what was written to both legs is flushed, and the map says so
    os.sync()
    whole = mirror.folder / "whole"
    whole.write_bytes(disk.read_bytes())
    break_disk(disk, how, device)
    client = client.again()
    client.start()
    wait_until(lambda: not mirror.status()["attached"], "that the map is lost")
    goes_on(client, 100)
    client.stop()
    assert client.reconnects == 0
    assert mirror.status()["state"] == ("switched" if switched else "failed")
    mirror.kill()
    assert not equal(mirror)
    words = ["--state-dir", mounts(loops.attach(whole))]
    done = mirror.resume(*words)
    assert "comparing all of both legs" in done.err, str(done)
    mirror.wait_for("switched" if switched else "ready")
    wait_until(lambda: (now := mirror.status())["dirty"] == 0 and now["attached"], "nothing dirty")
    client.check_volume(mirror.target if switched else mirror.source)
    mirror.kill(signal.SIGTERM)
    assert equal(mirror)
    # Once is enough.
    assert "comparing" not in mirror.resume(*words).err


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
@pytest.mark.parametrize("how", ["read-only", "io-errors"])
@pytest.mark.parametrize("order", ["cutover", "revert", "finish", "abort"])
def test_h27_an_order_that_the_map_cannot_take_is_refused(mounts, loops, mirror, client, order, how, busy):
    """At once and with words, and the volume stays where it is."""
    disk, device, state = breakable_disk(mounts, loops)
    # What may be deferred would stand, and be tried again until the map is well.
    mirror.start("--state-dir", state, "--cutover-action=abort")
    mirror.wait_for("ready")
    leg = "target" if order in ("revert", "finish") else "source"
    for before in {"cutover": ["cutover", "revert"], "abort": []}.get(order, ["cutover"]):
        mirror.program(before, "m")
    mirror.wait_for("switched" if leg == "target" else "ready")
    break_disk(disk, how, device)
    if busy:
        client.start()
        goes_on(client)
    done = mirror.program(order, "m", code=TROUBLE, timeout_s=20)
    assert any(words in done.err for words in ("cannot write", "cannot be written", "the mirror is failed")), str(done)
    assert "look after the disk that the map is on" in done.err or "another mirror may begin" in done.err, str(done)
    if not busy:
        client.start()
    goes_on(client)
    client.stop()
    assert client.reconnects == 0
    assert mirror.status()["authoritative"] == leg
    client.check_volume(mirror.leg(leg))


def test_who_ordered_a_cutover_that_is_put_off_hears_why(program, mounts, loops, mirror):
    """The order stands, and is given up by another that does not."""
    disk, device, state = breakable_disk(mounts, loops)
    mirror.start("--state-dir", state)
    mirror.wait_for("ready")
    program("cutover", "m")
    mirror.program("revert", "m")
    mirror.wait_for("ready")
    break_disk(disk, "read-only", device)
    waiting = program.start("cutover", "m")
    waiting.wait_for_words("cutover is put off: cannot switch: cannot write")
    order = mirror.status()["order"]
    assert order["state"] == "running" and order["deferred"] >= 1 and "cannot write" in order["warning"], order
    assert f"; cutover put off {order['deferred']} time" in program("status", "m").out.decode()
    wait_until(lambda: mirror.status()["order"]["deferred"] > order["deferred"], "another try")
    waiting.kill(signal.SIGINT)
    assert waiting.end(code=-signal.SIGINT).err.count("put off") == 1
    now = mirror.status()
    assert now["order"]["state"] == "running" and now["authoritative"] == "source"
    assert "cannot write" in program("cutover", "--action=abort", "m", code=TROUBLE).err
    now = mirror.status()
    assert now["order"]["state"] == "failed" and (now["state"], now["authoritative"]) == ("ready", "source")
    assert "put off" not in program("status", "m").out.decode()


def read_all(uri):
    handle = nbd.NBD()
    handle.connect_uri(uri)
    data = b"".join(handle.pread(min(MIB, SIZE - at), at) for at in range(0, SIZE, MIB))
    handle.shutdown()
    return data


def test_a_target_that_was_let_go_is_booted_while_clients_write(program, folder, mirror, client):
    mirror.start("--max-rate=1M")
    assert "only while the mirror is ready" in program("pause", "--target", "m", code=TROUBLE).err
    program("throttle", "m", "none")
    mirror.wait_for("ready")
    # What was copied last is flushed, and not in doubt any more.
    time.sleep(3)
    client.pause_s = 0.05
    client.start()
    wait_until(lambda: client.writes > 20, "writes")
    program("pause", "--target", "m")
    now = mirror.status()
    assert now["let_go"] and now["paused"] and not now["attached"] and now["trouble"] is None, now
    assert "the target is let go" in program("status", "m").out.decode()
    before = pathlib.Path(mirror.target).read_bytes()
    uri = f"nbd+unix:///?socket={folder / 'trial'}"
    trial = subprocess.Popen([program.path, "serve", "--overlay", "--overlay-dir", folder, "--listen", uri, mirror.target], stdout=subprocess.PIPE)
    try:
        trial.stdout.readline()
        writes = client.writes
        wait_until(lambda: client.writes > writes + 10, "writes meanwhile")
        assert mirror.status()["dirty"] > 0
        mirror.kill()
        mirror.resume("--max-rate=none")
        wait_until(lambda: client.writes > writes + 20, "writes after a kill")
        time.sleep(1.5)
        assert mirror.status()["let_go"] and read_all(uri) == before
    finally:
        trial.terminate()
        trial.wait()
    client.stop()
    assert pathlib.Path(mirror.target).read_bytes() == before and not equal(mirror)
    dirty = mirror.status()["dirty"]
    program("resume", "m")
    mirror.wait_for("ready")
    now = mirror.status()
    assert not now["let_go"] and now["attached"] and 0 < dirty < SIZE / 2, (dirty, now)
    client.check_volume(mirror.target)
    mirror.kill(signal.SIGTERM)
    assert equal(mirror)


def test_window_and_action_are_those_of_one_cutover(program, mirror, client):
    mirror.start()
    client.start()
    mirror.wait_for("ready")
    assert "cutover failed" in program("cutover", "m", "--window=0.0001ms", "--action=abort", code=TROUBLE).err
    program("cutover", "m")
    client.stop()
    assert mirror.status()["state"] == "switched"
