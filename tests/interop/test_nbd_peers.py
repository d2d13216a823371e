# SPDX-License-Identifier: GPL-2.0-or-later
"""The program against NBD servers of every temper: their limits, their lies by omission, their TLS, their death.

What lies on a server afterwards is read by nbdcopy, or from the file that it serves.
"""
import hashlib
import os
import signal
import subprocess
import time

import pytest

from images import changed, noise, random_image
from keys import make_certificates, make_psk
from program import DIFFERS, LINK_LOST, OK, REFUSED, TROUBLE, wait_until

SIZE = 5 << 20
ODD = 5_000_001

# name: (filters and parameters before the plugin, parameters behind it, size)
TEMPERS = {
    "memory": ([], [], ODD),
    "no structured replies": (["--no-sr"], [], ODD),
    "no extents": (["--filter=noextents"], [], ODD),
    "no zeroing": (["--filter=nozero"], [], ODD),
    "one connection": (["--filter=multi-conn"], ["multi-conn-mode=disable"], ODD),
    "slow": (["--filter=delay"], ["rdelay=3ms", "wdelay=3ms"], ODD),
    "FUA by flush": (["--filter=fua"], ["fuamode=emulate"], ODD),
    "64 KiB at most": (["--filter=blocksize-policy"], ["blocksize-minimum=512", "blocksize-preferred=4096", "blocksize-maximum=64K",
                                                         "blocksize-error-policy=error"], SIZE),
    "4 KiB at least": (["--filter=blocksize-policy"], ["blocksize-minimum=4096", "blocksize-preferred=64K", "blocksize-maximum=32M",
                                                         "blocksize-error-policy=error"], SIZE),
    "one request at a time": (["--filter=noparallel"], ["serialize=all-requests"], ODD),
}


def read(uri, folder):
    path = folder / "read-back"
    subprocess.run(["nbdcopy", "--request-size=65536", uri, path], check=True)
    return path.read_bytes()


def fill(uri, folder, data):
    path = folder / "filling"
    path.write_bytes(data)
    subprocess.run(["nbdcopy", "--request-size=65536", path, uri], check=True)


@pytest.mark.parametrize("temper", TEMPERS)
def test_tempers(temper, random, folder, program, servers):
    """H05: the target is full of other bytes at first."""
    before, behind, size = TEMPERS[temper]
    server = servers.nbdkit(*before, "memory", str(size), *behind)
    image = random_image(random, size)
    source = image.write(folder / "source")

    fill(server.uri, folder, bytes(noise(random, size).data))
    program("copy", source, server.uri)
    assert read(server.uri, folder) == image.data
    program("copy", "--verify", server.uri, folder / "back")
    assert (folder / "back").read_bytes() == image.data

    after = changed(random, image)
    if after.data != image.data:
        after.write(source)
        program("verify", source, server.uri, code=DIFFERS)
    program("sync", source, server.uri)
    assert read(server.uri, folder) == after.data
    program("verify", source, server.uri)
    printed = program("digest", "--sha256", server.uri).out.decode().split()[0]
    assert printed == hashlib.sha256(after.data).hexdigest()


def test_pattern_into_a_stream(program, servers):
    server = servers.nbdkit("pattern", "3000000")
    expected = b"".join(at.to_bytes(8, "big") for at in range(0, 3000000, 8))
    assert program("copy", server.uri, "-").out == expected


def test_a_server_that_cannot_flush_is_told_of(random, folder, program, servers):
    source = noise(random, SIZE).write(folder / "source")
    target = folder / "target"
    with open(target, "wb") as file:
        file.truncate(SIZE)
    scripts = [f"get_size=echo {SIZE}", f"pread=dd if={target} skip=$4 count=$3 iflag=skip_bytes,count_bytes status=none",
               f"pwrite=dd of={target} seek=$4 conv=notrunc oflag=seek_bytes status=none", "can_write=exit 0"]
    warning = "cannot be flushed (its server offers neither FLUSH nor FUA)"
    for more, warned in (([], True), (["can_flush=exit 0", "flush=exit 0"], False), (["can_fua=echo native"], False)):
        uri = servers.nbdkit("eval", *scripts, *more).uri
        done = program("copy", source, uri)
        assert done.err.count(warning) == warned, str(done)
        # Nothing is written to it.
        assert warning not in program("verify", source, uri).err
        assert warning not in program("copy", "--dry-run", source, uri).err


@pytest.mark.parametrize("command", ["copy", "sync"])
def test_h21_a_dry_run_refuses_what_the_run_would(command, random, folder, program, servers):
    source = noise(random, SIZE).write(folder / "source")
    target = folder / "target"
    with open(target, "wb") as file:
        file.truncate(SIZE)
    subprocess.run(["mkfs.ext4", "-q", "-F", target], check=True)
    server = servers.nbdkit("file", target)
    for options in (["--dry-run"], []):
        done = program(command, *options, source, server.uri, code=REFUSED)
        assert "carries ext4" in done.err and "--overwrite" in done.err, str(done)
    program(command, "--dry-run", f"--overwrite={server.uri}", source, server.uri)
    # What is only compared may carry what it likes.
    program("verify", source, server.uri, code=DIFFERS)


def test_h02_read_errors_fail_the_job(folder, program, servers):
    server = servers.nbdkit("--filter=error", "--filter=noextents", "memory", "8M", "error=EIO", "error-pread-rate=100%")
    done = program("copy", server.uri, folder / "target", code=TROUBLE)
    assert "Input/output error" in done.err


def test_h02_write_errors_fail_the_job(random, folder, program, servers):
    source = noise(random, 8 << 20).write(folder / "source")
    server = servers.nbdkit("--filter=error", "memory", "8M", "error=ENOSPC", "error-pwrite-rate=100%")
    done = program("copy", source, server.uri, code=TROUBLE)
    assert "No space left" in done.err


def test_failing_extents_are_data(random, folder, program, servers):
    image = random_image(random, ODD)
    source = image.write(folder / "source")
    server = servers.nbdkit("--filter=error", "file", source, "error=EIO", "error-extents-rate=100%")
    program("copy", server.uri, folder / "target")
    assert (folder / "target").read_bytes() == image.data


def test_read_only_server(random, folder, program, servers):
    source = noise(random, 1 << 20).write(folder / "source")
    server = servers.nbdkit("-r", "memory", "1M")
    done = program("copy", source, server.uri, code=(REFUSED, TROUBLE))
    assert "read-only" in done.err


@pytest.mark.parametrize("form", ["qcow2", "vmdk", "vdi"])
def test_formats_by_captive_qemu(form, random, folder, program):
    image = random_image(random, SIZE)
    source = image.write(folder / "source")
    target = folder / f"target.{form}"
    subprocess.run(["qemu-img", "create", "-q", "-f", form, target, str(SIZE)], check=True)
    program("copy", source, "[", "qemu-nbd", "-f", form, target, "]")
    subprocess.run(["qemu-img", "compare", "-q", "-f", "raw", "-F", form, source, target], check=True)
    program("copy", "[", "qemu-nbd", "-r", "-f", form, target, "]", folder / "back")
    assert (folder / "back").read_bytes() == image.data


def test_captive_server_that_does_not_start(folder, program):
    done = program("copy", "[", "qemu-nbd", "-f", "qcow2", folder / "nothing", "]", folder / "target", code=None)
    assert done.code not in (OK, DIFFERS)
    assert "ended with exit status 1" in done.err
    assert not (folder / "target").exists()


def start_slow_copy(random, folder, program, servers, *options):
    """A copy of 16 MiB to a file behind nbdkit, which will take about 4 s."""
    image = noise(random, 16 << 20)
    source, target = image.write(folder / "source"), folder / "target"
    target.write_bytes(bytes(len(image.data)))
    server = servers.nbdkit("file", target)
    running = program.start("copy", "--rate=4M", *options, source, server.uri)
    program.wait_for_position(running, 2 << 20)
    return image, server, target, running


def test_killed_server_that_comes_back(random, folder, program, servers):
    image, server, target, running = start_slow_copy(random, folder, program, servers)
    server.process.kill()
    server.process.wait()
    os.unlink(server.path)
    time.sleep(0.5)
    again = subprocess.Popen(["nbdkit", "-f", "--exit-with-parent", "-U", server.path, "file", target])
    try:
        running.end()
        assert target.read_bytes() == image.data
    finally:
        again.terminate()
        again.wait()


def test_killed_server_that_stays_away(random, folder, program, servers):
    _, server, _, running = start_slow_copy(random, folder, program, servers, "--retries=1")
    server.process.kill()
    server.process.wait()
    done = running.end(code=LINK_LOST)
    assert "lost" in done.err or "connect" in done.err


def test_silent_server_is_noticed(random, folder, program, servers):
    _, server, _, running = start_slow_copy(random, folder, program, servers, "--retries=0", "--timeout=1")
    server.process.send_signal(signal.SIGSTOP)
    begin = time.monotonic()
    try:
        running.end(code=LINK_LOST)
        assert time.monotonic() - begin < 25
    finally:
        server.process.send_signal(signal.SIGCONT)


def test_silent_server_that_wakes_up(random, folder, program, servers):
    image, server, target, running = start_slow_copy(random, folder, program, servers, "--timeout=1")
    server.process.send_signal(signal.SIGSTOP)
    wait_until(lambda: "silent" in running.err() or "lost" in running.err(), "words about the silence")
    server.process.send_signal(signal.SIGCONT)
    running.end()
    assert target.read_bytes() == image.data


def test_tls_psk(random, folder, program, servers):
    keys = make_psk(folder / "keys.psk", "alice")
    image = random_image(random, ODD)
    source = image.write(folder / "source")
    server = servers.nbdkit("--tls=require", f"--tls-psk={keys}", "memory", str(ODD), tcp=True)
    tls = server.uri.replace("nbd:", "nbds:")

    program("copy", "--tls-psk", keys, "--tls-username=alice", source, tls)
    program("verify", source, tls.replace("//", "//alice@") + f"/?tls-psk-file={keys}")
    done = program("verify", source, server.uri, code=None)
    assert done.code not in (OK, DIFFERS) and "TLS" in done.err


def test_tls_certificates(random, folder, program, servers):
    pki = make_certificates(folder)
    image = random_image(random, ODD)
    source = image.write(folder / "source")
    server = servers.nbdkit("--tls=require", f"--tls-certificates={pki}", "--tls-verify-peer", "memory", str(ODD), tcp=True)
    named = server.uri.replace("nbd://127.0.0.1", "nbds://localhost")
    numbered = server.uri.replace("nbd:", "nbds:")

    program("copy", f"--tls-certificates={pki}", source, named)
    program("verify", f"--tls-certificates={pki}", source, named)
    done = program("verify", f"--tls-certificates={pki}", "--retries=0", source, numbered, code=None)
    assert done.code not in (OK, DIFFERS) and "certificate" in done.err
    program("verify", f"--tls-certificates={pki}", "--tls-insecure", source, numbered)
