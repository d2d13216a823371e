# SPDX-License-Identifier: GPL-2.0-or-later
"""A mirror that begins with saved digests of its target: the source alone is read to learn what differs."""
import nbd
import pytest

from images import flip
from live_mirror import Mirror
from program import TROUBLE, wait_until

MIB = 1 << 20
SIZE = 16 * MIB + 4608
PIECE = 256 << 10  # what is copied as a whole when any of it differs


@pytest.fixture
def saved(program, folder, volumes):
    """The digests of a target that a sync made."""
    program("sync", f"--digests={folder}/saved", *volumes)
    return folder / "saved"


def equal(mirror):
    return mirror.source.read_bytes() == mirror.target.read_bytes()


def end(mirror):
    mirror.program("abort", "m")
    mirror.end()


@pytest.mark.parametrize("by, how", [("sync", "auto"), ("digest", "digests")])
def test_only_what_differs_is_copied(by, how, mirror, saved, random):
    if by == "digest":
        mirror.program("digest", f"--output={saved}", mirror.target)
    for place in (0, 5 * MIB + 7, 5 * MIB + 9, SIZE - 1):
        flip(mirror.source, place)
    assert "only the source is read" in mirror.start(f"--changes={how}", f"--digests={saved}").err
    now = mirror.wait_for("ready")
    assert now["copied"] == 2 * PIECE + SIZE % PIECE and now["same"] == SIZE - now["copied"], now
    end(mirror)
    assert equal(mirror)


def test_the_target_is_not_read(program, folder, volumes, loops, random):
    """But for what libblkid and the kernel look at."""
    volumes[1].write_bytes(bytes(SIZE))
    target = loops.attach(volumes[1])

    def read():
        with open(f"/sys/block/{target[5:]}/stat") as file:
            return int(file.read().split()[2]) * 512

    program("sync", f"--digests={folder}/saved", volumes[0], target)
    flip(volumes[0], 3 * MIB)
    mirror = Mirror(program, folder, volumes[0], target)
    before = read()
    try:
        mirror.start("--cache=direct", f"--digests={folder}/saved")
        assert mirror.wait_for("ready")["copied"] == PIECE
        assert read() - before <= MIB, read() - before
    finally:
        mirror.end()
    assert equal(Mirror(program, folder, *volumes))


@pytest.mark.parametrize("mode", ["auto", "write-through"])
def test_h10_clients_write_while_the_source_is_hashed(mode, mirror, saved, client):
    mirror.start("--max-rate=16M", f"--copy-mode={mode}", f"--digests={saved}")
    client.start()
    mirror.wait_for("ready")
    written = client.writes
    mirror.program("cutover", "m")
    client.stop()
    assert written > 50, written
    mirror.program("finish", "m")
    mirror.end()
    client.check_volume(mirror.target)
    assert equal(mirror)


def test_h10_what_was_copied_is_not_looked_up_again(mirror, saved):
    """A client puts back what the digests know, over what was copied meanwhile."""
    old = mirror.source.read_bytes()[:PIECE]
    flip(mirror.source, 1000)
    mirror.start("--max-rate=8M", "--copy-mode=background", f"--digests={saved}")
    wait_until(lambda: mirror.ask()["copied"] >= PIECE, "the first piece")
    client = nbd.NBD()
    client.connect_uri(mirror.uri)
    client.pwrite(old, 0)
    now = mirror.ask()
    client.shutdown()
    assert now["dirty"] > PIECE, now
    mirror.program("cutover", "m", "--action=wait")
    mirror.program("finish", "m")
    mirror.end()
    assert mirror.target.read_bytes()[:PIECE] == old
    assert equal(mirror)


def test_h10_digests_of_another_state_lead_to_a_comparison(mirror, saved):
    """Something was written to the target since: what it was is seen, and mended."""
    flip(mirror.target, 9 * MIB)
    done = mirror.start("--changes=digests", f"--digests={saved}")
    assert "both volumes are compared" in done.err and "written since" in done.err, done
    assert mirror.wait_for("ready")["copied"] == PIECE
    end(mirror)
    assert equal(mirror)


@pytest.mark.parametrize("wrong", ["volume", "size", "damaged"])
def test_h10_digests_that_do_not_fit_lead_to_a_comparison(wrong, mirror, saved, random, folder):
    if wrong == "volume":
        other = folder / "other"
        other.write_bytes(mirror.target.read_bytes())
        mirror.target.unlink()
        other.rename(mirror.target)
    if wrong == "size":
        mirror.program("digest", f"--output={saved}", mirror.source)
        for leg in (mirror.source, mirror.target):
            with open(leg, "r+b") as file:
                file.truncate(SIZE - 4096)
    if wrong == "damaged":
        flip(saved, random.randrange(saved.stat().st_size))
    flip(mirror.target, MIB)
    done = mirror.start(f"--digests={saved}")
    assert "both volumes are compared" in done.err and str(saved) in done.err, done
    assert mirror.wait_for("ready")["copied"] == PIECE
    end(mirror)
    assert equal(mirror)


def test_h10_digests_serve_once(mirror, saved):
    """What a mirror writes they do not know, whether it was killed, or has ended."""
    flip(mirror.source, 2 * MIB)
    mirror.start(f"--digests={saved}")
    mirror.wait_for("ready")
    mirror.kill()
    mirror.resume()
    mirror.wait_for("ready")
    end(mirror)
    flip(mirror.source, 2 * MIB)
    assert "did not end" in mirror.start(f"--digests={saved}").err
    mirror.wait_for("ready")
    end(mirror)
    assert equal(mirror)


def test_words_that_contradict_each_other(mirror):
    for words in (["--changes=digests"], ["--digests=f", "--changes=dm-era"], ["--digests=f", "--base=b"],
                  ["--digests=f", "--changes=hash"], ["--digests=f", "--full"]):
        assert "--digests" in mirror.start(*words, code=TROUBLE).err
    assert not mirror.target.exists()
