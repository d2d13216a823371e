# SPDX-License-Identifier: GPL-2.0-or-later
"""What a mirror says of itself to those who look: lines, bars on a terminal, orders' words; and its limits, changed while it runs."""
import pathlib
import re
import signal
import threading
import time

import nbd

from live_mirror import Mirror
from program import INTERRUPTED, TROUBLE, wait_until
from terminal import Terminal

MIB = 1 << 20
SIZE = 24 * MIB + 512 * 33
REGION = 64 << 10
BYTES = r"[\d.]+ [KM]?i?B"
LATENCY = r"clients: 1, p50 [\d.]+ ms, p99 [\d.]+ ms"


def slow_copy(mirror, client):
    """Clients make dirty what was copied: the rate decides whether it comes to an end."""
    mirror.words += ["--copy-mode=background", "--max-rate=4M"]
    client.pause_s = 0.01
    return mirror


def see_a_life(terminal, program, mirror, client):
    """From the first copy to the way back, as the terminal shows it."""
    client.start()
    terminal.wait_for(rf"syncing \d+% {BYTES} dirty \({BYTES}/s\), sync {BYTES}/s, ETA \d+:\d\d; {LATENCY}")
    program("throttle", "m", "64k")
    terminal.wait_for(rf"syncing \d+% {BYTES} dirty \({BYTES}/s\), sync {BYTES}/s, will not converge at this rate; {LATENCY}")
    program("throttle", "m", "none")
    program("cutover", "m")
    terminal.wait_for(rf"switched \d+% .*{LATENCY}; last pause [\d.]+ ms; can(not)? revert( yet)?")
    client.stop()
    terminal.wait_for(rf"switched 100% 0 B dirty \({BYTES}/s\), sync {BYTES}/s; clients: \d.*; last pause [\d.]+ ms; can revert")
    assert mirror.status()["revertible"]


def test_watch_shows_all_of_a_mirrors_life(program, mirror, client):
    slow_copy(mirror, client).start()
    terminal = Terminal(program, "status", "--watch=0.1", "m", columns=200)
    try:
        see_a_life(terminal, program, mirror, client)
        assert " ".join(terminal.screen()).count("clients:") == 1, terminal.screen()
    finally:
        terminal.end()


def test_in_the_foreground_it_is_drawn_in_place(program, mirror, client):
    """Over as many lines as it takes, and what is said meanwhile stands above it for good."""
    slow_copy(mirror, client)
    terminal = Terminal(program, "mirror", "--foreground", *mirror.words, columns=60)
    try:
        terminal.wait_for("nbd.unix")
        see_a_life(terminal, program, mirror, client)
        lines = terminal.screen()
        assert " ".join(lines).count("clients:") == 1 and max(map(len, lines)) < 60, lines
        # Each state by itself, also where the window was not enough at once.
        states = [line for line in lines if line.startswith("m: ")]
        assert (states[0], *states[-2:]) == ("m: ready", "m: cutting", "m: switched"), lines
        assert not [line for line in states if line not in ("m: ready", "m: syncing", "m: cutting", "m: switched")], lines
    finally:
        code = terminal.end()
    assert code == INTERRUPTED
    lines = terminal.screen()
    assert "clients:" not in " ".join(lines), lines
    assert "the target is the volume" in " ".join(lines[-4:]), lines


def test_without_a_terminal_it_prints_lines(program, mirror):
    running = program.start("mirror", "--foreground", "--interval=1", "--max-rate=2M", *mirror.words)
    wait_until(lambda: running.err().count("syncing") >= 2, "two lines")
    running.kill(signal.SIGTERM)
    said = running.end(INTERRUPTED).err
    lines = [line for line in said.splitlines() if re.fullmatch(rf"m  .* -> .*  syncing  \d+%  {BYTES} dirty .*; clients: 0", line)]
    assert len(lines) >= 2 and "\033" not in said and "\r" not in said, said


def written(device):
    """Bytes, as the kernel counts them."""
    return int(pathlib.Path(f"/sys/block/{pathlib.Path(device).name}/stat").read_text().split()[6]) * 512


def test_an_older_copy_is_compared_first(program, folder, volumes, random, loops):
    """And only what differs is written, in pieces of some regions; it is said while it goes on, and in figures afterwards."""
    data = volumes[0].read_bytes()
    older, changed = bytearray(data), random.sample(range(SIZE // REGION), 5)
    for region in changed:
        older[region * REGION:(region + 1) * REGION] = random.randbytes(REGION)
    volumes[1].write_bytes(older)
    mirror = Mirror(program, folder, volumes[0], loops.attach(volumes[1]))
    before = written(mirror.target)
    try:
        mirror.start("--max-rate=16M")
        assert "syncing, comparing" in program("status", "m").out.decode() and mirror.status()["comparing"]
        now = mirror.wait_for("ready")
        assert not now["comparing"] and "comparing" not in program("status", "m").out.decode()
        assert len(changed) * REGION <= now["copied"] <= len(changed) * 8 * REGION and now["same"] == SIZE - now["copied"], now
    finally:
        mirror.end()
    assert volumes[1].read_bytes() == data
    assert len(changed) * REGION <= written(mirror.target) - before <= now["copied"]


def test_without_an_older_copy_nothing_is_compared(program, mirror, random):
    mirror.target.write_bytes(random.randbytes(SIZE))
    mirror.start("--full", "--max-rate=16M")
    assert not mirror.status()["comparing"] and "comparing" not in program("status", "m").out.decode()
    now = mirror.wait_for("ready")
    assert (now["copied"], now["same"]) == (SIZE, 0)


def limits_of(mirror):
    now = mirror.status()
    return {member: now[member] for member in ("rate_limit", "min_rate", "latency_target_ms", "impact_percent", "priority")}


def test_limits_of_the_begin_hold_and_are_kept(mirror):
    words = ["--latency-target=3ms", "--impact=15%", "--min-rate=1M", "--max-rate=4M", "--priority=7"]
    limits = {"rate_limit": 4 * MIB, "min_rate": MIB, "latency_target_ms": 3, "impact_percent": 15, "priority": 7}
    mirror.start("--paused", *words)
    assert limits_of(mirror) == limits
    mirror.kill(signal.SIGTERM)
    mirror.resume()
    assert limits_of(mirror) == limits


def test_each_limit_can_be_changed_while_it_runs(program, mirror):
    mirror.start("--paused")
    limits = {"rate_limit": 0, "min_rate": 0, "latency_target_ms": 0, "impact_percent": 0, "priority": 1}
    assert limits_of(mirror) == limits
    for words, member, value in ((["--latency-target=3ms"], "latency_target_ms", 3), (["--impact=15%"], "impact_percent", 15),
                                 (["--max-rate=4M"], "rate_limit", 4 * MIB), (["--min-rate=1M"], "min_rate", MIB),
                                 (["--priority=7"], "priority", 7), (["8M"], "rate_limit", 8 * MIB), (["none"], "rate_limit", 0)):
        program("throttle", "m", *words)
        limits[member] = value
        assert limits_of(mirror) == limits, words
    program("throttle", "m", "--latency-target=0ms", "--impact=0", "--min-rate=none", "--max-rate=2M", "--priority=1")
    assert limits_of(mirror) == {"rate_limit": 2 * MIB, "min_rate": 0, "latency_target_ms": 0, "impact_percent": 0, "priority": 1}


def test_the_most_holds_from_then_on(program, mirror):
    def copied():
        now = mirror.ask()
        return now["total"] - now["dirty"]

    mirror.start("--paused")
    program("throttle", "m", "--max-rate=4M")
    program("resume", "m")
    begun = time.monotonic()
    wait_until(lambda: copied() >= 8 * MIB, "8 MiB")
    slow_s = time.monotonic() - begun
    # What is begun at once counts when it is done.
    assert 1.5 <= slow_s, slow_s
    program("throttle", "m", "--max-rate=none")
    begun = time.monotonic()
    mirror.wait_for("ready")
    assert time.monotonic() - begun < 2 * slow_s, "no faster than before"


BAD_LIMITS = [
    (["fast"], "fast"), (["--max-rate=many"], "many"), (["--min-rate=-1"], "-1"), (["--latency-target=soon"], "soon"), (["--impact=much"], "much"),
    (["--impact=20000"], "impact_percent=20000"), (["--impact=1.5"], "impact_percent=1.5"), (["--priority=0"], "priority=0"),
    (["--priority=1001"], "priority=1001"), (["--priority=2.5"], "priority=2.5"), (["--min-rate=9M", "--priority=2"], "9.0 MiB/s"),
]


def test_what_cannot_be_is_named(program, mirror):
    """And nothing is taken, also of what is beside it."""
    mirror.start("--paused", "--max-rate=8M")
    before = limits_of(mirror)
    for words, said in BAD_LIMITS:
        assert said in program("throttle", "m", *words, code=TROUBLE).err
        assert limits_of(mirror) == before, words
    for word in ("--action=later", "--window=short"):
        assert word.strip("-") in program("cutover", "m", word, code=TROUBLE).err
    assert mirror.status()["order"] is None


def test_h30_a_bad_sector_is_said_and_mended_by_writing_it(program, folder, random, servers):
    """All else is copied meanwhile. The disk: what is written anew there can be read again."""
    size, bad = 4 * MIB + 512 * 33, 2 * MIB + 3 * REGION + 4096 + 512
    (folder / "disk").write_bytes(random.randbytes(size))
    (folder / "bad").touch()
    covers = f"[ $4 -lt {bad + 512} ] && [ $(($3 + $4)) -gt {bad} ]"
    uri = servers.nbdkit("eval", f"get_size=echo {size}", "can_write=exit 0", "can_flush=exit 0", "flush=exit 0",
                         f"pread=if [ -e {folder}/bad ] && {covers}; then echo 'EIO bad sector' >&2; exit 1; fi; "
                         f"dd if={folder}/disk iflag=skip_bytes,count_bytes bs=64k skip=$4 count=$3 status=none",
                         f"pwrite=if {covers}; then rm -f {folder}/bad; fi; "
                         f"dd of={folder}/disk oflag=seek_bytes bs=64k seek=$4 conv=notrunc status=none").uri
    mirror = Mirror(program, folder, uri, folder / "target")
    try:
        mirror.start()
        now = wait_until(lambda: (now := mirror.status())["dirty"] == REGION and now["unreadable"] == REGION and now, "the rest")
        assert now["state"] == "syncing" and now["attached"] and now["unreadable_at"] == bad // 4096 * 4096, now
        said = f"the source cannot be read at byte {now['unreadable_at']}: "
        assert said in now["trouble"] and "is not ready before" in now["trouble"], now
        assert said in program("status", "m").out.decode()
        handle = nbd.NBD()
        handle.connect_uri(mirror.uri)
        handle.pwrite(random.randbytes(512), bad)
        handle.shutdown()
        now = mirror.wait_for("ready")
        assert now["trouble"] is None and now["unreadable"] == 0 and now["unreadable_at"] is None, now
        mirror.kill(signal.SIGTERM)
        assert (folder / "disk").read_bytes() == (folder / "target").read_bytes()
    finally:
        mirror.end()


def test_an_order_that_waits_says_for_what(program, mirror):
    mirror.start("--paused")
    waiting = program.start("cutover", "m")
    waiting.wait_for_words("m: cutover is ordered, and waits: paused; `blkmove resume m` lets it go on")
    assert "; cutover ordered, waits: paused\n" in program("status", "m").out.decode()
    program("throttle", "m", "64k")
    program("resume", "m")
    assert "; cutover ordered, waits: not ready\n" in program("status", "m").out.decode()
    program("throttle", "m", "none")
    assert waiting.end().err.count("waits") == 1
    assert "ordered" not in program("status", "m").out.decode()
    program("pause", "m")
    program("revert", "m", "--no-wait")
    assert mirror.status()["order"]["waits"] == "paused"
    program("resume", "m")
    assert mirror.wait_for("syncing", "ready")["order"]["waits"] == ""


class Leg:
    """An NBD server's that can be gone."""

    def __init__(self, program, volume):
        self.program, self.volume = program, volume
        self.socket = volume.with_suffix(".s")
        self.uri = f"nbd+unix:///?socket={self.socket}"
        self.begin()

    def begin(self):
        self.server = self.program.start("serve", "--listen", self.uri, self.volume)
        wait_until(self.socket.exists, "the server")

    def kill(self):
        self.server.kill()
        self.server.end(code=-signal.SIGKILL)
        self.socket.unlink()


def test_an_order_without_a_leg_says_what_can_be_done(program, folder, volumes):
    volumes[1].write_bytes(bytes(SIZE))
    source, target = legs = [Leg(program, volume) for volume in volumes]
    mirror = Mirror(program, folder, *[leg.uri for leg in legs], "--source-timeout=200ms")
    mirror.start()
    try:
        mirror.wait_for("ready")
        assert "ready; `blkmove cutover m` goes over to the target" in program("finish", "m", code=TROUBLE).err
        program("cutover", "m")
        assert "switched; `blkmove revert m` goes back to the source" in program("abort", "m", code=TROUBLE).err
        wait_until(lambda: mirror.status()["revertible"], "that it can revert")
        target.kill()
        wait_until(lambda: mirror.status()["away_s"] is not None, "that the target is away")
        done = program("finish", "m", code=TROUBLE)
        assert done.err.endswith("the target is away; wait until it is back, or `blkmove revert m`\n"), str(done)
        target.begin()
        wait_until(lambda: (now := mirror.status())["away_s"] is None and now["revertible"], "that it can revert")
        source.kill()
        wait_until(lambda: not mirror.status()["attached"], "that the source is away")
        waiting = program.start("revert", "m")
        waiting.wait_for_words("revert is ordered, and waits: the source is away")
        assert "; revert ordered, waits: the source is away\n" in program("status", "m").out.decode()
        source.begin()
        waiting.end()
        assert mirror.status()["authoritative"] == "source"
        program("abort", "m")
        done = program("cutover", "m", code=TROUBLE)
        assert "cancelled, and the source alone is the volume; another mirror may begin" in done.err, str(done)
    finally:
        mirror.end()


def send_all_the_time(uri, over):
    """Writes, one after the other without waiting for its answer."""
    handle, data = nbd.NBD(), nbd.Buffer.from_bytearray(bytearray(512))
    handle.connect_uri(uri)
    while not over.is_set():
        handle.aio_pwrite(data, 0)
        handle.poll(20)
        time.sleep(0.02)
    while handle.aio_in_flight():
        handle.poll(-1)
    handle.shutdown()


def test_an_order_that_is_done_waits_for_nothing(program, folder, volumes, servers):
    """The receipt is written once those that were held have their answers, which take their time."""
    for volume in volumes:
        volume.write_bytes(bytes(MIB))
    slow = [servers.nbdkit("--filter=delay", "file", volume, "delay-write=200ms").uri for volume in volumes]
    mirror, over, seen = Mirror(program, folder, *slow), threading.Event(), set()
    mirror.start("--cutover-window=5s")
    sender = threading.Thread(target=send_all_the_time, args=(mirror.uri, over))
    try:
        mirror.wait_for("ready")
        sender.start()
        program("cutover", "m", "--no-wait")
        while (now := mirror.ask())["order"]["state"] == "running":
            seen.add((now["authoritative"], now["state"], now["order"]["waits"]))
        assert ("target", "switched", "") in seen and now["order"]["state"] == "done", (seen, now)
        assert not [waits for leg, _, waits in seen if leg == "target" and waits], seen
    finally:
        over.set()
        sender.join()
        mirror.end()
