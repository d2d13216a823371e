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
