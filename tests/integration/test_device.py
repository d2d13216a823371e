# SPDX-License-Identifier: GPL-2.0-or-later
"""Block devices, as far as no kernel is needed that makes them: what is refused, and with what words. The rest is in tests/vm."""
import os

import pytest

from program import TROUBLE

SIZE = 1 << 20


@pytest.fixture
def volume(folder):
    path = folder / "volume"
    path.write_bytes(os.urandom(SIZE))
    return path


@pytest.mark.parametrize("name", ["../x", "a/b", ".", "..", ".hidden", "", "a b", "x" * 65])
def test_names_that_are_none(program, volume, name):
    for command in (["serve", volume], ["mirror", volume, volume.with_name("target")]):
        done = program(*command, f"--device={name}", code=TROUBLE)
        assert "a device cannot be called" in done.err
    assert not volume.with_name("target").exists()


@pytest.mark.parametrize("words, said", [
    (["--device=a", "--device=b"], "1 volumes have 2 devices"),
    (["--device=a", "--adopt=b"], "--adopt=b is the name of no --device"),
    (["--device-kind=loop", "--device=a"], "choose one of auto, ublk, nbd"),
])
def test_words_that_do_not_fit(program, volume, words, said):
    assert said in program("serve", *words, volume, code=TROUBLE).err


def test_two_volumes_cannot_be_one_device(program, volume):
    other = volume.with_name("other")
    other.write_bytes(volume.read_bytes())
    assert "two volumes cannot both be" in program("serve", "--device=a", "--device=a", volume, other, code=TROUBLE).err


def test_h12_the_last_partial_sector(program, volume):
    os.truncate(volume, SIZE + 1)
    done = program("serve", "--device=a", volume, code=TROUBLE)
    assert "no multiple of its sectors of 512" in done.err and volume.stat().st_size == SIZE + 1


@pytest.mark.parametrize("kind, missing", [("auto", "ublk"), ("ublk", "ublk"), ("nbd", "NBD client")])
def test_a_kernel_that_has_it_not(program, volume, kind, missing):
    if os.path.exists("/dev/ublk-control") or os.path.exists("/sys/module/nbd"):
        pytest.skip("this kernel makes devices")
    before = volume.read_bytes()
    done = program("serve", "--device=a", f"--device-kind={kind}", volume, code=TROUBLE)
    assert "cannot make the device /dev/blkmove/a" in done.err and missing in done.err
    assert not os.path.lexists("/dev/blkmove/a") and volume.read_bytes() == before
    # What could not begin leaves nothing to resume.
    mirror = program("mirror", "--device=a", f"--device-kind={kind}", "--name=m", volume, volume.with_name("target"), code=TROUBLE)
    assert missing in mirror.err
    assert "nothing to resume" in program("mirror", "--resume=m", code=None).err
