# SPDX-License-Identifier: GPL-2.0-or-later
"""Random pairs of images between every pair of endpoint kinds: copy, sync, verify, compared by Python and never by the program.

BLKMOVE_SEED=N replays, BLKMOVE_ROUNDS=N asks for more than one round a pair.
"""
import os
import subprocess
import types

import pytest

from images import changed, first_difference, noise, put, random_image, random_size
from program import DIFFERS
from volumes import KINDS

ROUNDS = int(os.environ.get("BLKMOVE_ROUNDS", "1"))
PAIRS = [(source, target) for source in KINDS for target in KINDS]


@pytest.fixture
def world(folder, servers, loops):
    return types.SimpleNamespace(folder=folder, servers=servers, loops=loops)


@pytest.fixture(scope="module")
def ssh_master(sshd):
    """One login for all: the pairs are not about that."""
    path = f"{sshd.folder}/master"
    yield ["--ssh", sshd.ssh, "--ssh-option=-oControlMaster=auto", f"--ssh-option=-oControlPath={path}", "--ssh-option=-oControlPersist=60"]
    subprocess.run([sshd.ssh, f"-oControlPath={path}", "-O", "exit", "other"], capture_output=True)


class Pair:
    """A source and a target of these kinds; the target is somewhat like the source, or nothing like it."""

    def __init__(self, random, world, kinds):
        self.random, self.world, self.kinds = random, world, kinds
        self.image = random_image(random, random_size(random, max(kind.align for kind in kinds)))
        self.source = kinds[0](world, "source", self.image)
        self.before = self.source.path.read_bytes()
        self.count = 0

    def target(self, image, resize=True):
        """A target that holds this, sometimes of another size. Returns it and the options that then are needed."""
        self.count += 1
        kind, size, options = self.kinds[1], len(image.data), []
        change = self.random.randrange(4) if resize else 0
        if kind.resizable and change == 1:
            size, options = random_size(self.random), ["--size-mismatch=truncate"]
        elif change == 2:
            size += kind.align * self.random.choice([1, 9, 1000])
            options = ["--size-mismatch=zero-tail"]
        image = image.resized(size)
        if len(image.data) > self.source.size:
            # A stale tail.
            put(image, self.source.size, self.random.randbytes(len(image.data) - self.source.size))
        return kind(self.world, f"target-{self.count}", image), options

    def check(self, target, options):
        expected = self.before
        if options == ["--size-mismatch=zero-tail"]:
            expected += bytes(target.size - len(expected))
        assert first_difference(expected, target.read()) is None
        # Nobody writes to a source.
        assert self.source.path.read_bytes() == self.before


def round_of(random, world, program, options, kinds):
    pair = Pair(random, world, kinds)
    extra = ["--verify"] if random.random() < 0.25 else []

    for command, image in (("copy", noise(random, pair.source.size)), ("sync", changed(random, pair.image))):
        target, size = pair.target(image)
        # Noise may look like anything to libblkid.
        name = f"--overwrite={' '.join(map(str, target.words))}"
        program(command, *options, *extra, *size, name, *pair.source.words, *target.words)
        pair.check(target, size)
    # The target of the sync as it is now, or with one bit changed.
    target, _ = pair.target(pair.image, resize=False)
    program("verify", *options, *pair.source.words, *target.words)
    if pair.source.size:
        image = pair.image.copy()
        offset = random.randrange(pair.source.size)
        put(image, offset, bytes([image.data[offset] ^ 1 << random.randrange(8)]))
        target, _ = pair.target(image, resize=False)
        done = program("verify", *options, "--list", *pair.source.words, *target.words, code=DIFFERS)
        begin, length = next(map(int, line.split()[2::2]) for line in done.out.decode().splitlines() if line.startswith("differs: offset"))
        assert begin <= offset < begin + length, str(done)


@pytest.mark.parametrize("source, target", PAIRS, ids=[f"{a}-to-{b}" for a, b in PAIRS])
def test_pair(source, target, random, world, program, request):
    options = []
    if "ssh" in source + target:
        options = [*request.getfixturevalue("ssh_master"), "--agent-path", program.path]
    for _ in range(ROUNDS):
        round_of(random, world, program, options, (KINDS[source], KINDS[target]))


def test_many_files(random, world, program):
    """The cheapest pair has all sizes and changes tried."""
    for _ in range(int(os.environ.get("BLKMOVE_FILES", "15")) * ROUNDS):
        round_of(random, world, program, [], (KINDS["file"], KINDS["file"]))


@pytest.mark.parametrize("kind", KINDS)
def test_stream_out_and_in(kind, random, world, program, request):
    """copy X - into a pipe, copy - X from one, the target full of other bytes before."""
    options = []
    if "ssh" in kind:
        options = [*request.getfixturevalue("ssh_master"), "--agent-path", program.path]
    for _ in range(ROUNDS):
        volume = KINDS[kind]
        image = random_image(random, random_size(random, volume.align))
        source = volume(world, "source", image)
        done = program("copy", *options, *source.words, "-")
        assert first_difference(image.data, done.out) is None
        target = volume(world, "target", noise(random, len(image.data)))
        program("copy", *options, "-", *target.words, stdin=bytes(image.data))
        assert first_difference(image.data, target.read()) is None


def test_stream_through(random, program):
    data = random.randbytes(random_size(random))
    assert program("copy", "-", "-", stdin=data).out == data
