# SPDX-License-Identifier: GPL-2.0-or-later
"""How data gets lost in this field, and that it does not here. The numbers are those of docs' table of hazards."""
import signal
import subprocess
import time

import pytest

from images import Image, first_difference, flip, noise, put, random_image
from program import BAD_RANGES, DIFFERS, INTERRUPTED, LINK_LOST, OK, REFUSED, TROUBLE, wait_until

MIB = 1 << 20
# More than what a run has in flight, which it finishes when it is interrupted.
LONG = 24 * MIB


def write(path, data):
    Image(data).write(path)
    return path


def descriptors(pid, path):
    """The access modes with which a process has a file open."""
    modes = []
    for entry in subprocess.run(["find", f"/proc/{pid}/fd", "-lname", str(path), "-printf", "%f\n"], stdout=subprocess.PIPE,
                                stderr=subprocess.DEVNULL, text=True).stdout.split():
        with open(f"/proc/{pid}/fdinfo/{entry}") as file:
            modes.append(int(next(line for line in file if line.startswith("flags:")).split()[1], 8) & 3)
    return modes


def interrupted(program, *words, position=MIB):
    """A run that is stopped by SIGINT after it has done so many bytes."""
    running = program.start(*words)
    program.wait_for_position(running, position)
    running.kill(signal.SIGINT)
    return running.end(INTERRUPTED)


# H01: the source is never written and nothing is deleted, however a run ends.

@pytest.mark.parametrize("command", ["copy", "sync"])
def test_h01_source_survives_a_failed_run(command, random, folder, program, servers):
    source = write(folder / "source", random.randbytes(2 * MIB))
    target = write(folder / "target", random.randbytes(2 * MIB))
    before, times = source.read_bytes(), source.stat()
    uri = servers.nbdkit("--filter=error", "file", target, "error-pwrite-rate=100%", "error-zero-rate=100%").uri
    program(command, source, uri, code=TROUBLE)
    assert source.read_bytes() == before
    assert (source.stat().st_mtime_ns, source.stat().st_ino) == (times.st_mtime_ns, times.st_ino)
    assert target.exists()


def test_h01_source_is_open_for_reading_only(random, folder, program, loops):
    source = write(folder / "source", random.randbytes(LONG))
    device = loops.attach(source, "-r")
    for name in (source, device):
        running = program.start("copy", "--rate=4M", name, folder / "target", "--size-mismatch=truncate")
        program.wait_for_position(running, MIB)
        modes = descriptors(running.pid, name)
        running.kill(signal.SIGINT)
        running.end(INTERRUPTED)
        assert modes and set(modes) == {0}, modes


# H02: a failed step is never success.

FAILING = ["error-pread-rate=100%", "error-pwrite-rate=100%", "error-zero-rate=100% error-trim-rate=100%"]


@pytest.mark.parametrize("where, what", [("source", FAILING[0]), ("target", FAILING[1]), ("target", FAILING[2])])
def test_h02_an_io_error_ends_the_run(where, what, random, folder, program, servers):
    image = Image(random.randbytes(MIB) + bytes(MIB) + random.randbytes(1000))
    image.write(folder / "source")
    noise(random, len(image.data)).write(folder / "target")
    uri = servers.nbdkit("--filter=error", "file", folder / where, *what.split()).uri
    source, target = (uri, folder / "target") if where == "source" else (folder / "source", uri)
    for command in ("copy", "sync"):
        done = program(command, source, target, code=TROUBLE)
        assert uri in done.err and "nput/output error" in done.err, str(done)


def test_h02_errors_now_and_then_end_the_run(random, folder, program, servers):
    image = random_image(random, 8 * MIB)
    image.write(folder / "source")
    for _ in range(4):
        noise(random, len(image.data)).write(folder / "target")
        server = servers.nbdkit("--filter=error", "file", folder / "target", "error-pwrite-rate=20%", "error-zero-rate=20%",
                                "error-trim-rate=20%")
        done = program("copy", folder / "source", server.uri, code=(OK, TROUBLE))
        server.stop()
        equal = first_difference(image.data, (folder / "target").read_bytes()) is None
        assert equal or done.code == TROUBLE, str(done)


def test_h02_a_flush_that_fails_ends_the_run(random, folder, program, servers):
    write(folder / "source", random.randbytes(MIB))
    write(folder / "target", bytes(MIB))
    target = folder / "target"
    uri = servers.nbdkit("eval", f"get_size=echo {MIB}", f"pread=dd if={target} iflag=skip_bytes,count_bytes skip=$4 count=$3 status=none",
                         f"pwrite=dd of={target} oflag=seek_bytes seek=$4 conv=notrunc status=none", "can_write=exit 0",
                         "can_flush=exit 0", "flush=echo 'EIO the cache is gone' >&2; exit 1").uri
    done = program("copy", folder / "source", uri, code=TROUBLE)
    assert "flush" in done.err, str(done)


def test_h02_a_server_that_dies_ends_the_run(random, folder, program, servers):
    write(folder / "source", random.randbytes(8 * MIB))
    write(folder / "target", bytes(8 * MIB))
    server = servers.nbdkit("file", folder / "target")
    running = program.start("copy", "--rate=4M", "--retries=1", folder / "source", server.uri)
    program.wait_for_position(running, MIB)
    server.process.kill()
    running.end(LINK_LOST)


# H03: one byte that is not zero makes a block.

@pytest.mark.parametrize("command", ["copy", "sync"])
def test_h03_one_byte_at_every_position_of_a_block(command, random, folder, program, servers):
    image = Image(bytes(4096 * 4096))
    for position in range(4096):
        image.data[4096 * position + position] = random.randrange(1, 256)
    image.write(folder / "source")
    Image(bytes(len(image.data))).write(folder / "target")
    Image(b"").write(folder / "other").open("r+b").truncate(len(image.data))
    program(command, folder / "source", folder / "target")
    assert first_difference(image.data, (folder / "target").read_bytes()) is None
    program(command, folder / "source", servers.nbdkit("file", folder / "other").uri)
    assert first_difference(image.data, (folder / "other").read_bytes()) is None
    program(command, folder / "source", folder / "new")
    assert first_difference(image.data, (folder / "new").read_bytes()) is None


def test_h03_one_byte_in_the_last_partial_block(random, folder, program):
    for size in (1, 2, 511, 513, 4097, 8191, 65537):
        data = bytes(size - 1) + b"\1"
        write(folder / "source", data)
        write(folder / "target", random.randbytes(size))
        program("copy", folder / "source", folder / "target")
        assert (folder / "target").read_bytes() == data


# H04: what is said to be a hole is read where it matters.

@pytest.fixture
def liar(folder, servers, random):
    """A source of 4 MiB that says of its third MiB, which has data, that it is a hole."""
    image = noise(random, 4 * MIB)
    image.write(folder / "source")
    (folder / "extents").write_text("0 2M\n3M 1M\n")
    return image, servers.nbdkit("-r", "--filter=extentlist", "file", folder / "source", f"extentlist={folder}/extents").uri


def test_h04_verify_reads_holes(liar, folder, program):
    image, uri = liar
    image.write(folder / "same")
    program("verify", uri, folder / "same", code=OK)
    put(image, 2 * MIB, bytes(MIB), hole=True)
    image.write(folder / "zeros")
    program("verify", uri, folder / "zeros", code=DIFFERS)
    program("verify", folder / "zeros", uri, code=DIFFERS)
    # Only who asks for it gets what the maps say.
    program("verify", "--trust-holes", uri, folder / "zeros", code=OK)


@pytest.mark.parametrize("command", ["copy", "sync"])
def test_h04_copy_with_verify_finds_the_lie(command, liar, random, folder, program):
    image, uri = liar
    noise(random, 4 * MIB).write(folder / "target")
    done = program(command, "--verify", uri, folder / "target", code=TROUBLE)
    assert "reads back differently" in done.err and str(2 * MIB) in done.err, str(done)
    program(command, "--verify", "--read-holes", uri, folder / "target")
    assert first_difference(image.data, (folder / "target").read_bytes()) is None


@pytest.mark.parametrize("saved", [False, True])
def test_h04_a_target_that_lies_about_holes(saved, folder, program, servers, random):
    """A sync asks the target's data where both call a hole, and where digests of the source are saved."""
    stale = noise(random, 2 * MIB).write(folder / "stale")
    with open(folder / "source", "wb") as file:
        file.truncate(2 * MIB)
        file.write(bytes(2 * MIB if saved else 0))
    (folder / "extents").write_text("")
    uri = servers.nbdkit("--filter=extentlist", "file", stale, f"extentlist={folder}/extents").uri
    options = [f"--digests={folder}/digests"] if saved else []
    done = program("sync", "--json", *options, folder / "source", uri)
    assert stale.read_bytes() == bytes(2 * MIB), str(done)
    # That is what was asked for.
    noise(random, 2 * MIB).write(stale)
    program("sync", "--trust-holes", *options, folder / "source", uri)
    assert stale.read_bytes() != bytes(2 * MIB)


# H05: a used target is not assumed to read as zero.

@pytest.mark.parametrize("filters", [[], ["--filter=nozero"], ["--filter=noextents"], ["--filter=nozero", "--filter=noextents"]])
@pytest.mark.parametrize("command", ["copy", "sync"])
def test_h05_target_full_of_random_bytes(command, filters, random, folder, program, servers):
    image = random_image(random, 3 * MIB)
    put(image, MIB, bytes(MIB), hole=True)
    image.write(folder / "source")
    noise(random, 3 * MIB).write(folder / "target")
    program(command, folder / "source", servers.nbdkit(*filters, "file", folder / "target").uri)
    assert first_difference(image.data, (folder / "target").read_bytes()) is None


def test_h05_a_source_that_is_all_hole(random, folder, program, loops):
    Image(b"").resized(5 * MIB).write(folder / "source")
    with open(folder / "source", "r+b") as file:
        file.truncate(0)
        file.truncate(5 * MIB)
    for make in (lambda path: path, loops.attach):
        path = noise(random, 5 * MIB).write(folder / "target")
        program("copy", folder / "source", make(path))
        assert path.read_bytes() == bytes(5 * MIB)


# H09: a resize in between makes what was known worthless.

@pytest.mark.parametrize("which", ["source", "target"])
@pytest.mark.parametrize("size", [LONG - MIB, LONG + MIB])
def test_h09_resume_after_a_resize_is_refused(which, size, random, folder, program):
    write(folder / "source", random.randbytes(LONG))
    write(folder / "target", bytes(LONG))
    interrupted(program, "copy", "--rate=4M", folder / "source", folder / "target")
    with open(folder / which, "r+b") as file:
        file.truncate(size)
    before = (folder / "target").read_bytes()
    for extra in ([], ["--assume-unchanged"], ["--size-mismatch=truncate"]):
        done = program("copy", "--resume", *extra, folder / "source", folder / "target", code=REFUSED)
        assert "resume" in done.err and str(size) in done.err, str(done)
    assert (folder / "target").read_bytes() == before


def test_h09_resume_after_a_device_was_resized_is_refused(random, folder, program, loops):
    write(folder / "source", random.randbytes(LONG))
    write(folder / "target", bytes(LONG))
    device = loops.attach(folder / "source")
    interrupted(program, "copy", "--rate=4M", device, folder / "target")
    with open(folder / "source", "r+b") as file:
        file.truncate(LONG + MIB)
    subprocess.run(["losetup", "-c", device], check=True)
    done = program("copy", "--resume", device, folder / "target", code=REFUSED)
    assert "resume" in done.err, str(done)


def test_h09_saved_digests_of_another_size_are_refused(random, folder, program):
    write(folder / "source", random.randbytes(2 * MIB))
    program("sync", f"--digests={folder}/saved", folder / "source", folder / "target")
    for name in ("source", "target"):
        with open(folder / name, "r+b") as file:
            file.truncate(3 * MIB)
    program("sync", "--changes=digests", f"--digests={folder}/saved", folder / "source", folder / "target", code=REFUSED)


# H10: a delta names its base.

@pytest.fixture
def saved(random, folder, program):
    """A source and a target that were synced, and the digests saved by that."""
    source, target = write(folder / "source", random.randbytes(2 * MIB + 100)), folder / "target"
    program("sync", f"--digests={folder}/saved", source, target)
    return source, target, ["--changes=digests", f"--digests={folder}/saved"]


def test_h10_saved_digests_work_on_their_base(saved, program):
    source, target, options = saved
    for offset in (0, MIB, 2 * MIB + 99):
        flip(source, offset)
        program("sync", *options, source, target)
        assert first_difference(source.read_bytes(), target.read_bytes()) is None


def test_h10_saved_digests_of_a_target_written_since_are_refused(saved, program):
    source, target, options = saved
    flip(target, 4096)
    before = target.read_bytes()
    done = program("sync", *options, source, target, code=REFUSED)
    assert str(target) in done.err or "saved" in done.err, str(done)
    assert target.read_bytes() == before
    program("sync", "--changes=auto", options[1], source, target)
    assert first_difference(source.read_bytes(), target.read_bytes()) is None


def test_h10_saved_digests_of_another_target_are_refused(saved, folder, program):
    source, target, options = saved
    other = write(folder / "other", target.read_bytes())
    before = other.read_bytes()
    program("sync", *options, source, other, code=REFUSED)
    assert other.read_bytes() == before


def test_h10_saved_digests_of_a_replaced_target_are_refused(saved, program):
    source, target, options = saved
    data = target.read_bytes()
    target.unlink()
    write(target, data)
    program("sync", *options, source, target, code=REFUSED)


def test_h10_damaged_saved_digests_are_refused(saved, random, folder, program):
    source, target, options = saved
    good = (folder / "saved").read_bytes()
    for damage in ("flip", "cut", "empty"):
        data = bytearray(good)
        if damage == "flip":
            data[random.randrange(len(data))] ^= 1 << random.randrange(8)
        (folder / "saved").write_bytes({"flip": bytes(data), "cut": good[:-random.randrange(1, len(good))], "empty": b""}[damage])
        program("sync", *options, source, target, code=REFUSED)


def test_h10_an_interrupted_sync_spends_its_digests(saved, random, folder, program):
    source, target, options = saved
    write(source, random.randbytes(2 * MIB + 100))
    running = program.start("sync", "--rate=1M", *options, source, target)
    program.wait_for_position(running, MIB // 2)
    running.kill()
    running.end(-signal.SIGKILL)
    program("sync", *options, source, target, code=REFUSED)
    program("sync", options[1], source, target)
    assert first_difference(source.read_bytes(), target.read_bytes()) is None


# H12: the last, partial block.

@pytest.mark.parametrize("block", ["4k", "64k", "1M"])
def test_h12_the_last_byte_is_seen(block, random, folder, program):
    for size in (1, 511, 4095, 4097, 65535, 65537, MIB - 1, MIB + 1, 2 * MIB + 12345):
        source = write(folder / "source", random.randbytes(size))
        target = write(folder / "target", source.read_bytes())
        flip(source, size - 1)
        program("verify", source, target, code=DIFFERS)
        program("sync", f"--compare-block={block}", source, target)
        assert first_difference(source.read_bytes(), target.read_bytes()) is None


# H15: the tail of a larger, used target.

@pytest.mark.parametrize("command", ["copy", "sync"])
def test_h15_a_stale_tail_is_refused_or_zeroed(command, random, folder, program, loops):
    source = write(folder / "source", random.randbytes(MIB + 512))
    for make in (lambda path: path, loops.attach):
        path = noise(random, 3 * MIB + 512).write(folder / "target")
        before = path.read_bytes()
        target = make(path)
        program(command, source, target, code=REFUSED)
        assert path.read_bytes() == before
        program(command, "--size-mismatch=zero-tail", "--verify", source, target)
        assert first_difference(source.read_bytes() + bytes(2 * MIB), path.read_bytes()) is None


def test_h15_a_stale_tail_behind_a_stream(random, folder, program, loops):
    data = random.randbytes(MIB + 512)
    path = noise(random, 3 * MIB).write(folder / "target")
    device = loops.attach(path)
    done = program("copy", "-", device, stdin=data, code=(TROUBLE, REFUSED))
    assert "zero-tail" in done.err, str(done)
    program("copy", "--size-mismatch=zero-tail", "-", device, stdin=data)
    assert first_difference(data + bytes(2 * MIB - 512), path.read_bytes()) is None


# H17: what carries something else is not overwritten by accident.

def file_system(path, mib=8):
    write(path, bytes(mib * MIB))
    subprocess.run(["mkfs.ext4", "-q", "-F", path], check=True, stdout=subprocess.DEVNULL)
    return path


@pytest.mark.parametrize("command", ["copy", "sync"])
def test_h17_a_signature_on_the_target_is_refused(command, random, folder, program, loops):
    source, other = file_system(folder / "source"), file_system(folder / "other")
    for make in (lambda path: path, loops.attach):
        target = make(other)
        before = other.read_bytes()
        done = program(command, source, target, code=REFUSED)
        assert "ext4" in done.err and f"--overwrite={target}" in done.err, str(done)
        # Another's name does not help.
        program(command, f"--overwrite={folder}/thing", source, target, code=REFUSED)
        assert other.read_bytes() == before
    program(command, f"--overwrite={target}", source, target)
    assert first_difference(source.read_bytes(), other.read_bytes()) is None


def test_h17_an_older_copy_of_the_source_is_synced(folder, program):
    source = file_system(folder / "source")
    target = write(folder / "target", source.read_bytes())
    flip(source, 5 * MIB)
    program("sync", source, target)
    assert first_difference(source.read_bytes(), target.read_bytes()) is None
    # For a copy, which takes no interest in what is there, it is in the way.
    program("copy", source, target, code=REFUSED)


def test_h17_over_ssh(folder, program, ssh):
    source, other = file_system(folder / "source"), file_system(folder / "other")
    before = other.read_bytes()
    done = program("sync", *ssh, source, f"far:{other}", code=REFUSED)
    assert f"--overwrite=far:{other}" in done.err, str(done)
    assert other.read_bytes() == before
    program("sync", *ssh, f"--overwrite=far:{other}", source, f"far:{other}")
    assert first_difference(source.read_bytes(), other.read_bytes()) is None


# H18: size is identity.

@pytest.mark.parametrize("command", ["copy", "sync"])
@pytest.mark.parametrize("size", [MIB - 512, MIB + 512])
def test_h18_another_size_is_refused(command, size, random, folder, program, servers, loops):
    source = write(folder / "source", random.randbytes(MIB))
    for make in (lambda path: path, loops.attach, lambda path: servers.nbdkit("file", path).uri):
        path = noise(random, size).write(folder / "target")
        before = path.read_bytes()
        done = program(command, source, make(path), code=REFUSED)
        assert str(MIB) in done.err and str(size) in done.err, str(done)
        assert path.read_bytes() == before


def test_h18_a_device_too_small_is_refused_whatever_was_asked(random, folder, program, loops):
    source = write(folder / "source", random.randbytes(MIB))
    path = noise(random, MIB - 512).write(folder / "target")
    before, device = path.read_bytes(), loops.attach(path)
    for how in ("zero-tail", "truncate"):
        program("copy", f"--size-mismatch={how}", source, device, code=REFUSED)
    assert path.read_bytes() == before


def test_h18_verify_says_that_sizes_differ(folder, program):
    source, target = write(folder / "source", bytes(8192)), write(folder / "target", bytes(4096))
    for a, b in ((source, target), (target, source)):
        done = program("verify", a, b, code=DIFFERS)
        assert b"8192" in done.out and b"4096" in done.out, str(done)


# H21: a mounted volume.

@pytest.mark.parametrize("command", ["copy", "sync"])
def test_h21_a_mounted_target_is_refused(command, folder, program, loops, mounts):
    path = file_system(folder / "target")
    source = write(folder / "source", path.read_bytes())
    device = loops.attach(path)
    point = mounts(device)
    subprocess.run(["sync", "-f", point], check=True)
    before = path.read_bytes()
    for target in (device, path):
        done = program(command, f"--overwrite={target}", source, target, code=(REFUSED, TROUBLE))
        assert str(point) in done.err, str(done)
    assert path.read_bytes() == before


# H22: a name that leads elsewhere.

def test_h22_a_loop_device_over_another_file_is_not_resumed(random, folder, program, loops):
    source = write(folder / "source", random.randbytes(LONG))
    for name in ("first", "second"):
        write(folder / name, bytes(LONG))
    device = loops.attach(folder / "first")
    interrupted(program, "copy", "--rate=4M", source, device)
    loops.exchange(device, folder / "second")
    for extra in ([], ["--assume-unchanged"]):
        done = program("copy", "--resume", *extra, source, device, code=REFUSED)
        assert "another volume" in done.err, str(done)
    assert (folder / "second").read_bytes() == bytes(LONG)


def test_h22_a_source_of_the_same_name_is_not_resumed(random, folder, program):
    source = write(folder / "source", random.randbytes(LONG))
    write(folder / "target", bytes(LONG))
    interrupted(program, "copy", "--rate=4M", source, folder / "target")
    write(folder / "another", random.randbytes(LONG)).rename(source)
    done = program("copy", "--resume", "--assume-unchanged", source, folder / "target", code=REFUSED)
    assert "another volume" in done.err, str(done)


# H26: cancelled is not completed.

def test_h26_end_states_are_distinct(random, folder, program):
    source, target = write(folder / "source", random.randbytes(LONG)), folder / "target"
    running = program.start("copy", "--json", "--rate=4M", source, target)
    program.wait_for_position(running, MIB)
    running.kill(signal.SIGTERM)
    end = running.end(INTERRUPTED).events()[-1]
    assert (end["event"], end["state"], end["exit_code"]) == ("end", "cancelled", INTERRUPTED)
    assert "not usable" in end["error"] and "--resume" in end["error"]
    end = program("copy", "--json", "--resume", source, target).events()[-1]
    assert (end["event"], end["state"], end["exit_code"], end["position"]) == ("end", "completed", OK, LONG)
    assert first_difference(source.read_bytes(), target.read_bytes()) is None
    end = program("copy", "--json", source, folder, code=None)
    assert end.code != OK
    assert end.events()[-1]["state"] == "failed"


# H28: made right and read back wrong.

def corrupt_while_verifying(program, path, *words):
    """A run with --verify; when that begins, the last page of the target changes."""
    running = program.start(*words, "--verify", "--json", "--rate=24M")
    wait_until(lambda: b'"verifying"' in running.out() or not running.is_running(), "the verification")
    program("pause", running.pid)
    flip(path, path.stat().st_size - 1)
    program("resume", running.pid)
    return running.end(TROUBLE)


def test_h28_a_bit_that_changes_after_the_copy_is_found(random, folder, program, loops):
    source = write(folder / "source", random.randbytes(LONG))
    target = write(folder / "target", bytes(LONG))
    done = corrupt_while_verifying(program, target, "copy", source, loops.attach(target))
    assert "reads back differently" in done.events()[-1]["error"], str(done)
    done = program("verify", source, target, code=DIFFERS)
    assert b"1 ranges" in done.out or b"1 range" in done.out, str(done)


@pytest.mark.parametrize("command", ["copy", "sync"])
def test_h28_a_disk_that_drops_writes_is_found(command, random, folder, program, servers):
    source = write(folder / "source", random.randbytes(2 * MIB))
    target = write(folder / "target", bytes(2 * MIB))
    lying = servers.nbdkit("eval", f"get_size=echo {2 * MIB}", f"pread=dd if={target} iflag=skip_bytes,count_bytes skip=$4 count=$3 status=none",
                           f"pwrite=if [ $4 -le {MIB} ] && [ $(($4 + $3)) -gt {MIB} ]; then cat >/dev/null; "
                           f"else dd of={target} oflag=seek_bytes seek=$4 conv=notrunc status=none; fi", "can_write=exit 0",
                           "can_flush=exit 0", "flush=exit 0").uri
    # Nobody can see it but who reads it back.
    program(command, source, lying)
    write(target, bytes(2 * MIB))
    done = program(command, "--verify", source, lying, code=TROUBLE)
    assert "reads back differently" in done.err, str(done)
    program("verify", source, lying, code=DIFFERS)


@pytest.mark.parametrize("cache", ["auto", "buffered"])
def test_h28_verify_reads_past_the_cache(cache, random, folder, program, loops):
    """The cache of a device still has what was written; below it a bit has changed."""
    source = write(folder / "source", random.randbytes(2 * MIB))
    path = write(folder / "target", source.read_bytes())
    device = loops.attach(path)
    with open(device, "rb") as held:
        held.read()
        flip(path, MIB + 5)
        held.seek(0)
        assert held.read() == source.read_bytes()
        program("verify", f"--cache={cache}", source, device, code=DIFFERS)
        program("sync", "--changes=hash", "--cache=direct", "--verify", source, device)
    assert first_difference(source.read_bytes(), path.read_bytes()) is None


# H29: restarts make progress.

def test_h29_killed_again_and_again_it_ends(random, folder, program):
    source, target = write(folder / "source", random.randbytes(16 * MIB)), write(folder / "target", bytes(16 * MIB))
    positions = [0]
    for _ in range(20):
        running = program.start("copy", "--resume", "--json", "--rate=4M", source, target)
        try:
            running.process.wait(2.6 + random.random() / 2)
        except subprocess.TimeoutExpired:
            running.kill()
        done = running.end((OK, -signal.SIGKILL))
        positions += [event["resumed"] for event in done.events() if event["event"] in ("progress", "end")][:1]
        if done.code == OK:
            break
    assert done.code == OK
    assert positions == sorted(positions) and positions[-1] > 0, positions
    assert first_difference(source.read_bytes(), target.read_bytes()) is None


# H30: read errors.

@pytest.fixture
def scratched(folder, servers, random):
    """A source of 4 MiB whose bytes from 1 MiB + 8 KiB on, 12 KiB long, and whose last 512 cannot be read."""
    image = noise(random, 4 * MIB)
    image.write(folder / "source")
    bad = [(MIB + 8192, 12288), (4 * MIB - 512, 512)]
    (folder / "map").write_text("# Mapfile.\n0x0 ? 1\n" + "".join(
        f"{offset:#x} {length:#x} {state}\n" for offset, length, state in
        ((0, MIB + 8192, "+"), (*bad[0], "-"), (MIB + 20480, 3 * MIB - 20480 - 512, "+"), (*bad[1], "-"))))
    return image, bad, servers.nbdkit("-r", "--filter=ddrescue", "file", folder / "source", f"ddrescue-mapfile={folder}/map").uri


@pytest.mark.parametrize("command", ["copy", "sync"])
def test_h30_a_read_error_stops_the_run(command, scratched, random, folder, program):
    image, bad, uri = scratched
    noise(random, 4 * MIB).write(folder / "target")
    done = program(command, uri, folder / "target", code=TROUBLE)
    assert "cannot" in done.err and uri in done.err, str(done)
    program("verify", uri, folder / "target", code=TROUBLE)


@pytest.mark.parametrize("command", ["copy", "sync"])
def test_h30_read_errors_are_listed_if_asked(command, scratched, random, folder, program):
    image, bad, uri = scratched
    noise(random, 4 * MIB).write(folder / "target")
    done = program(command, "--on-read-error=list", f"--report={folder}/report", uri, folder / "target", code=BAD_RANGES)
    listed = [tuple(map(int, line.split())) for line in (folder / "report").read_text().splitlines() if not line.startswith("#")]
    covered = set()
    for offset, length in listed:
        covered.update(range(offset, offset + length, 512))
    # All that is bad is listed, and no more around it than the pages that it lies in.
    for offset, length in bad:
        assert covered.issuperset(range(offset, offset + length, 512)), listed
        assert not covered.intersection(range(offset // 4096 * 4096 - 4096, offset // 4096 * 4096, 512)), listed
    for offset, length in listed:
        put(image, offset, bytes(length))
    assert first_difference(image.data, (folder / "target").read_bytes()) is None
    assert "could not be read" in done.err, str(done)


def test_h30_the_report_goes_to_standard_error_if_it_must(scratched, folder, program):
    image, bad, uri = scratched
    done = program("copy", "--on-read-error=list", f"--report={folder}/no/such/folder", uri, folder / "target", code=BAD_RANGES)
    assert str(bad[0][0]) in done.err, str(done)


def test_h30_a_broken_device_stops_the_run(random, folder, program, loops, mounts):
    """The disk under a loop device goes away: a truncated file on a full tmpfs is as near as this comes without a mapper."""
    point = mounts("-t", "tmpfs", "-o", "size=3M", "none")
    with open(point / "disk", "wb") as file:
        file.truncate(8 * MIB)
    device = loops.attach(point / "disk")
    try:
        write(folder / "source", random.randbytes(8 * MIB))
        done = program("copy", folder / "source", device, code=TROUBLE)
        assert device in done.err, str(done)
    finally:
        loops.detach(device)
        time.sleep(0.1)
