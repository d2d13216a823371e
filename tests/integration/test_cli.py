# SPDX-License-Identifier: GPL-2.0-or-later
"""The program's surface: where it writes what, what digest says, how a signal ends it while it connects, its run folder."""
import hashlib
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import time

import pytest

from images import Image, first_difference
from program import INTERRUPTED, OK, REFUSED, TROUBLE, wait_until

MIB = 1 << 20


@pytest.fixture
def source(folder, random):
    return Image(random.randbytes(4 * MIB + 1000)).write(folder / "source")


# A stream's data and the events do not mix.

def test_events_stay_out_of_a_stream(program, source):
    done = program("copy", "--json", source, "-")
    assert done.out == source.read_bytes()
    events = [json.loads(line) for line in done.err.splitlines()]
    assert events[-1]["event"] == "end" and events[-1]["exit_code"] == OK


def test_events_of_a_failed_stream_are_all_that_is_said(program, folder):
    done = program("copy", "--json", folder / "nothing", "-", code=TROUBLE)
    events = [json.loads(line) for line in done.err.splitlines()]
    assert done.out == b"" and "nothing" in events[-1]["error"]


def test_events_from_a_stream_go_to_standard_output(program, source, folder):
    done = program("copy", "--json", "-", folder / "target", stdin=source.read_bytes())
    assert done.events()[-1]["event"] == "end" and done.err == ""
    assert first_difference(source.read_bytes(), (folder / "target").read_bytes()) is None


# Digests.

def test_digest_prints_its_key(program, source):
    first = program("digest", source).out.decode().splitlines()
    key = re.fullmatch("# key ([0-9a-f]{32})", first[0])[1]
    assert len(first) == 1 + 5
    again = program("digest", f"--key={key}", source)
    assert again.out.decode().splitlines() == first[1:]


def test_digest_keeps_to_its_rate_and_tells(program, source):
    begun = time.monotonic()
    done = program("digest", "--sha256", "--rate=4M", "--interval=1", source)
    assert 0.7 <= time.monotonic() - begun <= 8
    assert done.out.decode().split()[0] == hashlib.sha256(source.read_bytes()).hexdigest()
    running = program.start("digest", "--rate=1M", "--interval=1", source)
    running.wait_for_words("digest ")
    running.kill(signal.SIGUSR1)
    wait_until(lambda: running.err().count(" of 4.0 MiB") >= 2, "two lines")
    assert "same" not in running.err()
    running.kill(signal.SIGINT)
    running.end(INTERRUPTED, timeout_s=5)
    assert program("digest", "--sha256", "--quiet", source).err == ""


@pytest.mark.parametrize("words", [["digest", "--retries=1"], ["digest", "--trust-holes"], ["digest", "--json"]], ids=" ".join)
def test_options_that_would_do_nothing_are_refused(words, program, source):
    assert "unrecognized option" in program(*words, source, code=TROUBLE).err


def test_verify_offers_no_read_holes(program, source):
    assert "--read-holes" in program("verify", "--read-holes", source, source, code=TROUBLE).err
