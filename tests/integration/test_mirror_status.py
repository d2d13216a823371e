# SPDX-License-Identifier: GPL-2.0-or-later
"""What a mirror says of itself to those who look: lines, bars on a terminal, orders' words; and its limits, changed while it runs."""
import re
import signal

from program import INTERRUPTED, wait_until
from terminal import Terminal

MIB = 1 << 20
SIZE = 24 * MIB + 512 * 33
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
        assert [line for line in lines if line.startswith("m: ")] == ["m: ready", "m: cutting", "m: switched"], lines
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
