# SPDX-License-Identifier: GPL-2.0-or-later
"""What all integration tests share: a folder, the program, another machine, servers, devices, a seed."""
import os
import pathlib
import random as random_module
import shutil
import signal
import subprocess
import sys
import tempfile

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "lib"))

from images import Noise  # noqa: E402
from live_mirror import Mirror  # noqa: E402
from nbd_client import Client  # noqa: E402
from program import Program  # noqa: E402
from servers import Loops, Servers  # noqa: E402
from sshd import Sshd  # noqa: E402

SEED = int(os.environ.get("BLKMOVE_SEED") or random_module.randrange(1 << 32))
os.environ["BLKMOVE_SEED"] = str(SEED)  # xdist's workers begin with the same

# A shell that runs this in the background has it ignore interrupts, and whom it starts, too: they could not be interrupted by a test.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_report_header():
    return f"BLKMOVE_SEED={SEED} replays this run"


@pytest.fixture
def random(request):
    """Its own for each test, so that one test alone replays, too."""
    print(f"BLKMOVE_SEED={SEED}")
    return Noise(f"{SEED} {request.node.name}")


@pytest.fixture
def folder():
    """Short, because unix sockets lie in it."""
    path = pathlib.Path(tempfile.mkdtemp(prefix="blkmove-it-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def program(folder):
    program = Program(folder)
    yield program
    program.close()


@pytest.fixture
def volumes(folder, random, request):
    """A source of the test module's SIZE, full of random bytes, and a target that is not there yet."""
    source, target = folder / "source", folder / "target"
    source.write_bytes(random.randbytes(request.module.SIZE))
    return source, target


@pytest.fixture
def mirror(program, folder, volumes):
    mirror = Mirror(program, folder, *volumes)
    yield mirror
    mirror.end()


@pytest.fixture
def client(mirror, random, request):
    """Of a mirror whose volume has the test module's SIZE; not begun."""
    client = Client(mirror.uri, request.module.SIZE, random)
    yield client
    client.over.set()


@pytest.fixture
def servers(folder):
    servers = Servers(folder)
    yield servers
    servers.stop()


@pytest.fixture
def loops(folder):
    if os.geteuid() != 0 or not os.path.exists("/dev/loop-control"):
        pytest.skip("loop devices need root and /dev/loop-control")
    loops = Loops()
    yield loops
    loops.stop()


@pytest.fixture
def mounts(folder, loops):
    """mount(device or size, ...): returns the mount point."""
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    points = []

    def mount(*words):
        point = folder / f"mount-{len(points)}"
        point.mkdir()
        subprocess.run(["mount", *map(str, words), point], check=True)
        points.append(point)
        return point

    yield mount
    for point in reversed(points):
        subprocess.run(["umount", "--lazy", point], check=False)


@pytest.fixture(scope="session")
def sshd():
    with Sshd() as machine:
        yield machine


@pytest.fixture
def ssh(sshd, program):
    """Options that lead any host name to this machine, and to the program under test there."""
    return ["--ssh", sshd.ssh, "--agent-path", program.path]
