# SPDX-License-Identifier: GPL-2.0-or-later
"""What options do: caches, compression, zeros, sizes, streams, --verify; sparse stays sparse and thin stays thin."""
import hashlib
import re
import subprocess

import pytest

from images import Image, first_difference, noise, put, random_image
from program import OK, REFUSED, TROUBLE

MIB = 1 << 20


def allocated(path):
    return path.stat().st_blocks * 512


@pytest.fixture
def image(random):
    """16 MiB, of which 3 MiB are data and 1 MiB are zeros that take room; the rest are holes."""
    image = Image(bytes(16 * MIB), [(0, 16 * MIB)])
    for at, length in ((0, MIB), (5 * MIB, MIB), (9 * MIB - 4096, MIB)):
        put(image, at, random.randbytes(length))
    put(image, 12 * MIB, bytes(MIB))
    return image


@pytest.fixture
def source(image, folder):
    return image.write(folder / "source")


# Sparse and thin

@pytest.mark.parametrize("where", ["file", "ssh"])
@pytest.mark.parametrize("command", ["copy", "sync"])
def test_a_sparse_file_stays_sparse(where, command, program, request, source, folder):
    options, target = [], folder / "target"
    if where == "ssh":
        options = request.getfixturevalue("ssh")
    program(command, *options, source, target if where == "file" else f"far:{target}")
    assert first_difference(source.read_bytes(), target.read_bytes()) is None
    # 3 MiB of data and the pages at the edges.
    assert allocated(target) <= 3 * MIB + 65536, allocated(target)


def test_a_used_file_becomes_sparse(program, source, folder, random):
    target = noise(random, 16 * MIB).write(folder / "target")
    program("copy", source, target)
    assert first_difference(source.read_bytes(), target.read_bytes()) is None
    assert allocated(target) <= 3 * MIB + 65536, allocated(target)


def test_a_thin_device_stays_thin(program, source, folder, random, loops):
    backing = noise(random, 16 * MIB).write(folder / "target")
    program("copy", source, loops.attach(backing))
    assert first_difference(source.read_bytes(), backing.read_bytes()) is None
    assert allocated(backing) <= 3 * MIB + 65536, allocated(backing)


def test_a_thin_image_behind_nbd_stays_thin(program, source, folder, servers):
    target = folder / "target.qcow2"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", target, str(16 * MIB)], check=True)
    program("copy", source, "[", "qemu-nbd", "-f", "qcow2", target, "]")
    subprocess.run(["qemu-img", "compare", "-q", "-f", "raw", "-F", "qcow2", source, target], check=True)
    assert allocated(target) <= 4 * MIB + MIB // 2, allocated(target)


def test_zeros_without_detection_take_room(program, source, folder):
    program("copy", "--no-zero-detection", source, folder / "target")
    assert first_difference(source.read_bytes(), (folder / "target").read_bytes()) is None
    assert 4 * MIB <= allocated(folder / "target") <= 4 * MIB + 65536


def test_read_holes_gives_the_same(program, source, folder, random):
    target = noise(random, 16 * MIB).write(folder / "target")
    for command in ("copy", "sync"):
        program(command, "--read-holes", source, target)
        assert first_difference(source.read_bytes(), target.read_bytes()) is None


def test_holes_cost_nothing(program, folder):
    """Eight terabytes of nothing, and a little something at the end."""
    with open(folder / "source", "wb") as file:
        file.truncate(8 << 40)
        file.seek((8 << 40) - 4096)
        file.write(b"end" * 1000)
    program("copy", folder / "source", folder / "target", timeout_s=60)
    program("sync", folder / "source", folder / "target", timeout_s=60)
    assert (folder / "target").stat().st_size == 8 << 40
    with open(folder / "target", "rb") as file:
        file.seek((8 << 40) - 4096)
        assert file.read(3000) == b"end" * 1000
    assert allocated(folder / "target") <= 65536


# Caches

@pytest.mark.parametrize("cache", ["auto", "direct", "buffered"])
@pytest.mark.parametrize("kind", ["file", "loop"])
def test_caches(cache, kind, program, random, folder, loops):
    image = random_image(random, 3 * MIB + (512 if kind == "loop" else 777))
    source, path = image.write(folder / "source"), noise(random, len(image.data)).write(folder / "target")
    target = loops.attach(path) if kind == "loop" else path
    for command in ("copy", "sync"):
        program(command, f"--cache={cache}", "--verify", source, target)
        assert first_difference(image.data, path.read_bytes()) is None
        with open(path, "r+b") as file:
            file.write(random.randbytes(5000))
    program("sync", f"--cache={cache}", source, target)
    program("verify", f"--cache={cache}", source, target)


def test_direct_where_it_is_not_to_be_had(program, folder, random, mounts):
    """tmpfs had no O_DIRECT for long: auto goes on, direct works or says that it cannot."""
    point = mounts("-t", "tmpfs", "-o", "size=16M", "none")
    source = Image(random.randbytes(MIB + 5)).write(point / "source")
    program("copy", source, point / "target")
    done = program("copy", "--cache=direct", source, point / "other", code=(OK, TROUBLE, REFUSED))
    if done.code == OK:
        assert first_difference(source.read_bytes(), (point / "other").read_bytes()) is None


# Compression

@pytest.mark.parametrize("compress", ["auto", "none", "zstd", "zstd:19"])
def test_compression(compress, program, random, folder, sshd):
    text = b"".join(b"line %d of a text that repeats itself\n" % (i % 500) for i in range(100000))
    image = Image(text + random.randbytes(MIB))
    source = image.write(folder / "source")
    sshd.forget()
    options = ["--ssh", sshd.ssh_counted, "--agent-path", program.path, f"--compress={compress}"]
    program("copy", *options, source, f"far:{folder}/target")
    assert first_difference(image.data, (folder / "target").read_bytes()) is None
    wire = sshd.wire_bytes()
    if compress == "none":
        assert wire >= len(image.data)
    elif compress != "auto":
        assert wire <= MIB + len(text) // 4, wire
    # What comes back is compressed just so.
    sshd.forget()
    program("copy", *options, f"far:{folder}/target", folder / "back")
    assert first_difference(image.data, (folder / "back").read_bytes()) is None
    assert compress in ("none", "auto") or sshd.wire_bytes() <= MIB + len(text) // 4


def test_a_delta_is_small_on_the_wire(program, random, folder, sshd):
    image = noise(random, 24 * MIB)
    image.write(folder / "target")
    for _ in range(20):
        put(image, random.randrange(24 * 256) * 4096, random.randbytes(4096))
    source = image.write(folder / "source")
    sshd.forget()
    program("sync", "--ssh", sshd.ssh_counted, "--agent-path", program.path, source, f"far:{folder}/target")
    assert first_difference(image.data, (folder / "target").read_bytes()) is None
    # 80 KiB of blocks, their chunks' finer digests, ssh's own greeting.
    assert sshd.wire_bytes() <= 200 << 10, sshd.wire_bytes()


# Sizes

@pytest.mark.parametrize("command", ["copy", "sync"])
@pytest.mark.parametrize("size", [0, 1, MIB // 2 + 1, 2 * MIB + 3])
def test_truncate_sets_a_file_to_the_sources_size(command, size, program, random, folder, ssh):
    source = random_image(random, MIB + 7).write(folder / "source")
    for options, name in (([], folder / "target"), (ssh, f"far:{folder}/target")):
        target = noise(random, size).write(folder / "target")
        program(command, *options, "--size-mismatch=truncate", "--verify", source, name)
        assert first_difference(source.read_bytes(), target.read_bytes()) is None


@pytest.mark.parametrize("command", ["copy", "sync"])
def test_zero_tail_zeroes_the_tail(command, program, random, folder):
    source = random_image(random, MIB + 7).write(folder / "source")
    for size in (MIB + 8, MIB + 4096, 3 * MIB + 5):
        target = noise(random, size).write(folder / "target")
        program(command, "--size-mismatch=zero-tail", "--verify", source, target)
        assert first_difference(source.read_bytes().ljust(size, b"\0"), target.read_bytes()) is None


def test_nothing_at_all(program, folder, ssh):
    """A source of no bytes."""
    (folder / "source").write_bytes(b"")
    for options, name in (([], folder / "a"), (ssh, f"far:{folder}/b")):
        program("copy", *options, "--verify", folder / "source", name)
        program("sync", *options, folder / "source", name)
        program("verify", *options, folder / "source", name)
    assert (folder / "a").read_bytes() == (folder / "b").read_bytes() == b""


# Streams

def test_streams_over_pipes(program, folder, random):
    """program | program, as people do it, slow readers included."""
    image = random_image(random, 5 * MIB + 321)
    image.write(folder / "source")
    script = f"'{program.path}' copy '{folder}/source' - | (sleep 0.3; cat) | '{program.path}' copy - '{folder}/target'"
    subprocess.run(["bash", "-c", f"set -o pipefail; {script}"], check=True, env=program.env, timeout=60)
    assert first_difference(image.data, (folder / "target").read_bytes()) is None


def test_a_stream_into_a_larger_file(program, folder, random):
    data = random.randbytes(MIB + 5)
    target = noise(random, 2 * MIB).write(folder / "target")
    done = program("copy", "-", target, stdin=data, code=(TROUBLE, REFUSED))
    assert "zero-tail" in done.err and "truncate" in done.err, str(done)
    program("copy", "--size-mismatch=truncate", "-", target, stdin=data)
    assert first_difference(data, target.read_bytes()) is None


def test_a_stream_that_is_too_long(program, folder, random, loops):
    path = noise(random, MIB).write(folder / "target")
    device = loops.attach(path)
    done = program("copy", "-", device, stdin=random.randbytes(MIB + 1), code=(TROUBLE, REFUSED))
    assert device in done.err, str(done)


def test_a_reader_that_goes_away(program, folder, random):
    """`copy X - | head -c 100`: a failure, not a death and not a success."""
    Image(random.randbytes(8 * MIB)).write(folder / "source")
    done = subprocess.run(["bash", "-c", f"'{program.path}' copy '{folder}/source' - 2>'{folder}/err' | head -c 100 >/dev/null; "
                           "echo ${PIPESTATUS[0]}"], env=program.env, stdout=subprocess.PIPE, text=True, timeout=60)
    assert done.stdout.strip() == str(TROUBLE), (folder / "err").read_text()
    assert "done" not in (folder / "err").read_text()


def test_json_and_a_stream_out_do_not_mix(program, folder, random):
    """Events on standard output would get into the data: they go to standard error."""
    data = random.randbytes(MIB)
    Image(data).write(folder / "source")
    done = program("copy", "--json", folder / "source", "-", code=OK)
    assert done.out == data and '"event":"end"' in done.err, str(done)


# Verify, digest

def test_verify_lists_what_differs(program, folder, random):
    image = noise(random, 6 * MIB)
    image.write(folder / "a")
    places = [0, 5000, MIB, 2 * MIB + 17, 3 * MIB - 1, 4 * MIB, 5 * MIB + 999, 6 * MIB - 1]
    for at in places:
        put(image, at, bytes([image.data[at] ^ 1]))
    image.write(folder / "b")
    done = program("verify", folder / "a", folder / "b", code=1)
    assert len(re.findall(rb"^differs: offset", done.out, re.M)) == 5 and b"more" in done.out, str(done)
    done = program("verify", "--list", folder / "a", folder / "b", code=1)
    ranges = [tuple(map(int, found)) for found in re.findall(rb"^differs: offset (\d+) length (\d+)", done.out, re.M)]
    for at in places:
        assert any(offset <= at < offset + length for offset, length in ranges), (at, ranges)
    # No wider than the pages that differ, but for those that touch.
    assert sum(length for _, length in ranges) <= 4096 * len(places)
    end = program("verify", "--json", "--list", folder / "a", folder / "b", code=1).events()[-1]
    assert [(one["offset"], one["length"]) for one in end["ranges"]] == ranges
    assert end["differing_ranges"] == len(ranges)


def test_verify_trouble_is_two(program, folder, random):
    Image(b"x").write(folder / "a")
    program("verify", folder / "a", folder / "none", code=2)


@pytest.mark.parametrize("size", [0, 1, 4096, MIB + 1, 3 * MIB])
def test_sha256_is_sha256(size, program, folder, random, ssh):
    image = random_image(random, size)
    image.write(folder / "source")
    expected = hashlib.sha256(image.data).hexdigest()
    for options, name in (([], folder / "source"), (ssh, f"far:{folder}/source")):
        assert program("digest", *options, "--sha256", name).out.decode() == f"{expected}  {name}\n"


def test_digests_under_a_key_agree(program, folder, random, ssh):
    image = random_image(random, 3 * MIB + 5)
    image.write(folder / "a")
    Image(image.data).write(folder / "b")
    key = "--key=000102030405060708090a0b0c0d0e0f"
    lines = program("digest", key, folder / "a").out
    assert lines.count(b"\n") == 4
    assert lines == program("digest", key, folder / "b").out == program("digest", *ssh, key, f"far:{folder}/a").out
    assert lines != program("digest", "--key=100102030405060708090a0b0c0d0e0f", folder / "a").out


def test_saved_digests_spare_the_target(program, folder, random, loops):
    """The target is not read: but for what libblkid and the kernel look at, its device counts no reads."""
    source = noise(random, 8 * MIB).write(folder / "source")
    path = noise(random, 8 * MIB).write(folder / "target")
    target = loops.attach(path)

    def read():
        with open(f"/sys/block/{target[5:]}/stat") as file:
            return int(file.read().split()[2]) * 512

    program("sync", f"--digests={folder}/saved", source, target)
    with open(source, "r+b") as file:
        file.seek(3 * MIB)
        file.write(random.randbytes(10000))
    before = read()
    end = program("sync", "--json", "--changes=digests", f"--digests={folder}/saved", source, target).events()[-1]
    assert read() - before <= MIB, read() - before
    assert 10000 <= end["sent"] <= 16384 and end["same"] == 8 * MIB - end["sent"]
    assert first_difference(source.read_bytes(), path.read_bytes()) is None


@pytest.mark.parametrize("size", [1_000_001, 5_000_001, 0])
def test_dry_run_of_a_sync_that_sets_the_size(size, program, folder, random):
    data = random.randbytes(3_000_001)
    source = Image(data).write(folder / "source")
    target = Image((data + random.randbytes(2_000_000))[:size]).write(folder / "target")
    before = target.read_bytes()
    end = program("sync", "--dry-run", "--json", "--size-mismatch=truncate", source, target).events()[-1]
    assert target.read_bytes() == before
    # The target's last leaf is shorter than the source's.
    assert abs(end["same"] - min(size, len(data))) <= 4096 and end["same"] + end["sent"] == len(data), end
    program("sync", "--size-mismatch=truncate", source, target)
    assert target.read_bytes() == data
