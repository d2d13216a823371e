# SPDX-License-Identifier: GPL-2.0-or-later
"""blkmove serve with other people's clients: libnbd and its tools, QEMU's, fio; TLS; clients that die, hang and come back."""
import contextlib
import errno
import fcntl
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import threading
import time
import urllib.parse

import pytest

from images import random_image
from keys import make_certificates, make_psk, need
from program import LOCKED, OK, REFUSED, TROUBLE, wait_until
from serving import run

nbd = pytest.importorskip("nbd")

ODD = 5000001


def test_nbdinfo(folder, serve):
    (folder / "image").write_bytes(b"x" * ODD)
    server = serve(folder / "image", "--name", "a name")
    assert server.uri.startswith("nbd+unix:///a%20name?socket=")
    info = json.loads(run("nbdinfo", "--json", server.uri))["exports"][0]
    assert info["export-size"] == ODD and info["description"].endswith("/image")
    for flag in "can_df can_fast_zero can_flush can_fua can_multi_conn can_trim can_zero".split():
        assert info[flag], flag
    assert not info["is_read_only"] and info["block_size_maximum"] == 32 << 20
    listed = json.loads(run("nbdinfo", "--list", "--json", server.uri))["exports"]
    assert [entry["export-name"] for entry in listed] == ["a name"]


def test_several_exports(folder, serve):
    for name, size in (("one", 1000), ("two", 2000)):
        (folder / name).write_bytes(name.encode() * (size // 3))
    server = serve(folder / "one", folder / "two", "--name=first", "--name=second", "--json")
    said = json.loads(server.line)
    assert [(entry["name"], entry["size"]) for entry in said["exports"]] == [("first", 999), ("second", 1998)]
    uri = said["uris"][0]
    listed = json.loads(run("nbdinfo", "--list", "--json", uri))["exports"]
    assert {entry["export-name"]: entry["export-size"] for entry in listed} == {"first": 999, "second": 1998}
    assert server.connect(uri.replace("first", "second")).pread(3, 0) == b"two"
    assert server.connect(uri.replace("first", "")).pread(3, 0) == b"one"
    with pytest.raises(nbd.Error):
        server.connect(uri.replace("first", "third"))


def test_h12_nbdcopy_there_and_back(random, folder, serve):
    image = random_image(random, ODD)
    (folder / "image").write_bytes(random.randbytes(ODD))
    image.write(folder / "source")
    server = serve(folder / "image")
    run("nbdcopy", folder / "source", server.uri)
    run("nbdcopy", server.uri, folder / "back")
    assert (folder / "back").read_bytes() == image.data
    if shutil.which("nbddump"):
        assert image.data[:16].hex(" ") in run("nbddump", "--length=16", server.uri).replace("  ", " ")
    server.stop()
    assert (folder / "image").read_bytes() == image.data


def test_qemu_tools(random, folder, serve):
    need("qemu-img")
    image = random_image(random, 6 << 20)
    image.write(folder / "source")
    (folder / "image").write_bytes(bytes(6 << 20))
    server = serve(folder / "image")
    run("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", folder / "source", server.uri)
    run("qemu-img", "compare", "-f", "raw", "-F", "raw", folder / "source", server.uri)
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", server.uri, folder / "copy.qcow2")
    run("qemu-img", "compare", folder / "copy.qcow2", folder / "source")
    said = run("qemu-io", "-f", "raw", server.uri, "-c", "write -P 7 1000 70001", "-c", "read -P 7 1000 70001", "-c", "write -f -P 8 5 9",
               "-c", "write -z -u 8k 1M", "-c", "read -P 0 8k 1M", "-c", "discard 2M 1M", "-c", "flush", "-c", "write -z 4M 100")
    assert "failed" not in said and "rror" not in said, said
    assert json.loads(run("qemu-img", "map", "--output=json", "-f", "raw", server.uri))


def test_fio_verifies(folder, serve):
    need("fio")
    if "nbd" not in run("fio", "--enghelp"):
        pytest.skip("this fio has no nbd engine")
    (folder / "image").write_bytes(bytes(8 << 20))
    server = serve(folder / "image", "--cache=auto")
    run("fio", "--name=x", "--ioengine=nbd", f"--uri={server.uri}", "--rw=randwrite", "--bsrange=512-64k", "--iodepth=32", "--size=8M",
        "--verify=crc32c", "--verify_fatal=1", "--do_verify=1", cwd=folder)


def extents_of(handle, offset, length):
    found = []

    def extent(context, at, entries, error):
        for size, flags in zip(entries[::2], entries[1::2]):
            found.append((at, size, flags))
            at += size
    while length:
        before = len(found)
        handle.block_status(length, offset, extent)
        got = sum(size for _, size, _ in found[before:])
        assert 0 < got <= length
        offset, length = offset + got, length - got
    return found


def test_h04_block_status_tells_no_data_as_hole(random, folder, serve):
    image = random_image(random, ODD)
    image.write(folder / "image")
    server = serve(folder / "image", "--read-only")
    handle = server.connect()
    at = 0
    for offset, size, flags in extents_of(handle, 0, ODD):
        assert offset == at and flags in (0, nbd.STATE_HOLE | nbd.STATE_ZERO)
        if flags:
            assert not any(image.data[offset:offset + size])
        at += size
    assert at == ODD
    handle.shutdown()


def test_model(random, folder, serve):
    """Every request at random, over two connections in turn, against the bytes as they should be."""
    model = bytearray(random.randbytes(ODD))
    (folder / "image").write_bytes(model)
    server = serve(folder / "image")
    handles = [server.connect(), server.connect()]
    for step in range(600):
        handle = handles[step % 2]
        offset = random.randrange(ODD)
        length = min(ODD - offset, random.choice([1, 511, 4096, 5000, 70000, 300000]))
        kind = random.choice(["read", "read", "write", "write", "zero", "trim", "flush"])
        fua = nbd.CMD_FLAG_FUA if random.random() < 0.1 else 0
        if kind == "read":
            assert handle.pread(length, offset) == model[offset:offset + length]
        elif kind == "write":
            data = random.randbytes(length)
            handle.pwrite(data, offset, fua)
            model[offset:offset + length] = data
        elif kind == "zero":
            handle.zero(length, offset, fua | random.choice([0, nbd.CMD_FLAG_NO_HOLE]))
            model[offset:offset + length] = bytes(length)
        elif kind == "trim":
            handle.trim(length, offset, fua)
            model[offset:offset + length] = handle.pread(length, offset)
        else:
            handle.flush()
    server.stop()
    assert (folder / "image").read_bytes() == model


def test_fast_zero(folder, serve):
    (folder / "image").write_bytes(b"x" * 65536)
    handle = serve(folder / "image").connect()
    handle.zero(65536, 0, nbd.CMD_FLAG_FAST_ZERO)
    assert handle.pread(65536, 0) == bytes(65536)


def test_flush_on_one_connection_covers_the_other(folder, serve):
    """What was acknowledged is in the file when the flush ends; a server killed then has lost nothing."""
    (folder / "image").write_bytes(bytes(1 << 20))
    server = serve(folder / "image")
    writer, flusher = server.connect(), server.connect()
    assert writer.can_multi_conn()
    writer.pwrite(b"w" * 4096, 4096)
    flusher.flush()
    assert flusher.pread(4096, 4096) == b"w" * 4096
    server.running.kill()
    server.running.process.wait()
    assert (folder / "image").read_bytes()[4096:8192] == b"w" * 4096


def test_reconnecting_client_finds_the_same(folder, serve):
    (folder / "image").write_bytes(bytes(1 << 20))
    server = serve(folder / "image")
    handle = server.connect()
    handle.pwrite(b"a" * 512, 512)
    handle.shutdown()
    again = server.connect()
    assert again.pread(512, 512) == b"a" * 512 and again.get_size() == 1 << 20
    # Also when it is the server that went: what was flushed is there, at the same address.
    again.pwrite(b"b" * 512, 1024)
    again.flush()
    server.running.kill()
    server.running.process.wait()
    assert serve(folder / "image").connect(server.uri).pread(1024, 512) == b"a" * 512 + b"b" * 512


def test_qemu_block_layer_reconnects(folder, serve, program):
    """QEMU's NBD client with reconnect-delay: the server is killed and comes back, the guest's request just takes longer."""
    need("qemu-io")
    (folder / "image").write_bytes(bytes(1 << 20))
    server = serve(folder / "image")
    words = ["qemu-io", "--image-opts", f"driver=nbd,server.type=unix,server.path={server.socket},reconnect-delay=30"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as client:
        client.stdin.write("write -P 7 0 64k\nflush\n")
        client.stdin.flush()
        wait_until(lambda: (folder / "image").read_bytes()[:4] == b"\7\7\7\7", "the first write")
        time.sleep(0.3)
        server.running.kill()
        server.running.process.wait()
        client.stdin.write("write -P 8 64k 64k\nread -P 7 0 64k\nflush\nquit\n")
        client.stdin.flush()
        time.sleep(0.5)
        serve(folder / "image")
        said, _ = client.communicate(timeout=60)
    assert "rror" not in said and "failed" not in said, said
    assert (folder / "image").read_bytes()[65536:131072] == b"\x08" * 65536


def test_killed_and_stopped_clients(folder, serve):
    need("fio")
    if "nbd" not in run("fio", "--enghelp"):
        pytest.skip("this fio has no nbd engine")
    (folder / "image").write_bytes(bytes(16 << 20))
    server = serve(folder / "image", "--inflight-max=1M")

    def load():
        words = ["fio", "--name=x", "--ioengine=nbd", f"--uri={server.uri}", "--rw=randrw", "--bs=64k", "--iodepth=64", "--size=16M",
                 "--time_based", "--runtime=30"]
        return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True, cwd=folder)
    loads = [load() for _ in range(4)]
    handle = server.connect()
    try:
        time.sleep(1)
        for process in loads[:3]:
            os.killpg(process.pid, signal.SIGSTOP)
        begin = time.monotonic()
        for step in range(200):
            handle.pwrite(bytes([step]) * 65536, 0)
            handle.pread(65536, 0)
        handle.flush()
        assert time.monotonic() - begin < 20
        os.killpg(loads[3].pid, signal.SIGKILL)
    finally:
        for process in loads:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    handle.shutdown()
    assert server.connect().get_size() == 16 << 20
    server.stop()


def test_errors_of_the_volume(folder, serve, servers):
    """EIO, ENOSPC and EPERM of a server below come through as what they are."""
    words = {"EIO": errno.EIO, "ENOSPC": errno.ENOSPC, "EPERM": errno.EPERM}
    for name, number in words.items():
        below = servers.nbdkit("--filter=error", "memory", "1M", f"error-pwrite={name}", "error-pwrite-rate=100%", "error-pread=EIO",
                               "error-pread-rate=100%")
        server = serve(below.uri)
        handle = server.connect()
        for call, expected in ((lambda: handle.pwrite(b"x" * 512, 0), number), (lambda: handle.pread(512, 0), errno.EIO)):
            with pytest.raises(nbd.Error) as caught:
                call()
            assert caught.value.errnum == expected, (name, caught.value)
        with pytest.raises(nbd.Error):
            handle.set_strict_mode(0)
            handle.pread(512, 1 << 20)
        assert handle.get_size() == 1 << 20
        handle.shutdown()
        server.stop()


def pipes_of(pid):
    """How many pipes of 1 MiB a process has."""
    found = 0
    for number in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            if not os.readlink(f"/proc/{pid}/fd/{number}").startswith("pipe:"):
                continue
            fd = os.open(f"/proc/{pid}/fd/{number}", os.O_RDONLY | os.O_NONBLOCK)
            found += fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ) >= 1 << 20
            os.close(fd)
    return found // 2


@pytest.mark.parametrize("structured", (True, False))
@pytest.mark.parametrize("way", ("pipes", "no more descriptors", "--cache=auto"))
def test_long_reads(way, structured, random, folder, serve):
    """They go from the page cache to the socket through pipes, while others write elsewhere; without pipes they work all the same."""
    content, half = bytearray(random.randbytes(9000001)), 4 << 20
    (folder / "image").write_bytes(content)
    server = serve(folder / "image", *([way] if way.startswith("--") else []))
    handle, writer = nbd.NBD(), server.connect()
    handle.set_request_structured_replies(structured)
    handle.connect_uri(server.uri)
    handle.pread(512, 0)
    if way == "no more descriptors":
        resource.prlimit(server.running.pid, resource.RLIMIT_NOFILE, (len(os.listdir(f"/proc/{server.running.pid}/fd")),) * 2)
    reads, failed = [], []
    for step in range(60):
        length = random.choice((65536, 65537, 1 << 20, (1 << 20) - 512, 300000, 4096, 1, (1 << 20) + 1))
        offset = random.choice((0, 4096, 512, 777777)) + 4096 * random.randrange((half - 777777 - length) // 4096)
        buffer = nbd.Buffer(length)
        handle.aio_pread(buffer, offset, lambda error: failed.append(error.value) if error.value else 1)
        reads.append((buffer, offset, length))
        data = random.randbytes(100001)
        writer.pwrite(data, half + 40001 * step)
        content[half + 40001 * step:half + 40001 * step + len(data)] = data
    while handle.aio_in_flight() > 0:
        handle.poll(-1)
    assert not failed
    for buffer, offset, length in reads:
        assert buffer.to_bytearray() == content[offset:offset + length], (offset, length)
    assert (pipes_of(server.running.pid) > 0) == (way == "pipes")
    # What was written is seen by the next read.
    for offset in range(0, len(content), 1 << 20):
        length = min(1 << 20, len(content) - offset)
        assert handle.pread(length, offset) == content[offset:offset + length]


@pytest.mark.parametrize("way", ("pipes", "no more descriptors", "--cache=auto"))
def test_h12_long_writes(way, random, folder, serve, mounts):
    """Through pipes into the page cache, many at once, some with FUA; a full disk is said, and nothing else is lost; half a payload is none."""
    os.truncate(os.open(folder / "disk", os.O_CREAT | os.O_WRONLY), 24 << 20)
    run("mkfs.ext4", "-q", folder / "disk")
    path, size = mounts("-o", "loop", folder / "disk") / "image", 9000001
    path.write_bytes(b"x" * size)
    os.truncate(path, 64 << 20)  # behind `size` there is no room for all of it
    server = serve(path, *([way] if way.startswith("--") else []))
    handle, other, content, failed, at = server.connect(), server.connect(), random.randbytes(size), [], 4096
    handle.pwrite(content[:at], 0)
    if way == "no more descriptors":
        resource.prlimit(server.running.pid, resource.RLIMIT_NOFILE, (len(os.listdir(f"/proc/{server.running.pid}/fd")),) * 2)
    while at < size:
        data = bytearray(content[at:at + random.choice((131073, 1 << 20, (1 << 20) - 512, 300000, 262144, 4096, 1))])
        handle.aio_pwrite(nbd.Buffer.from_bytearray(data), at, lambda error: failed.append(error.value) if error.value else 1,
                          nbd.CMD_FLAG_FUA if random.random() < 0.1 else 0)
        at += len(data)
        while handle.aio_in_flight() > (0 if at >= size else 16):
            handle.poll(-1)
    for offset in range(0, size, 1 << 20):
        assert handle.pread(min(1 << 20, size - offset), offset) == content[offset:offset + (1 << 20)]
    assert (pipes_of(server.running.pid) > 0) == (way == "pipes")
    with pytest.raises(nbd.Error) as caught:
        for offset in range(16 << 20, 64 << 20, 1 << 20):
            handle.pwrite(b"f" * (1 << 20), offset)
    assert caught.value.errnum == errno.ENOSPC and not failed
    other.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(b"no" * (1 << 22))), 0)  # 8 MiB: the socket does not hold it
    del other
    handle.pwrite(content[:1 << 20], 0)
    handle.flush()
    assert path.read_bytes()[:size] == content


def test_h30_long_read_of_what_is_gone(folder, serve):
    """A file that somebody cut off: an error, and the link goes on."""
    (folder / "image").write_bytes(b"x" * (4 << 20))
    handle = serve(folder / "image").connect()
    assert handle.pread(1 << 20, 1 << 20) == b"x" * (1 << 20)
    os.truncate(folder / "image", (1 << 20) + 100001)
    for offset in (1 << 20, 2 << 20):
        with pytest.raises(nbd.Error) as caught:
            handle.pread(1 << 20, offset)
        assert caught.value.errnum == errno.EIO
        assert handle.pread(1 << 20, 4096) == b"x" * (1 << 20)
        assert handle.pread(100000, 1 << 20) == b"x" * 100000


@pytest.fixture
def slow_file(folder, servers):
    """A file whose writes take 150 ms each, and its file system cannot be told not to wait."""
    need("nbdfuse")
    if os.geteuid() != 0:
        pytest.skip("this needs root, to mount")
    below, place = servers.nbdkit("--filter=delay", "memory", "8M", "wdelay=150ms"), folder / "slow"
    place.mkdir()
    with subprocess.Popen(["nbdfuse", str(place), below.uri], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            if not wait_until(lambda: os.path.ismount(place) or process.poll() is not None, "nbdfuse") or process.poll() is not None:
                pytest.skip(f"nbdfuse cannot mount here: {process.stdout.read()}")
            yield place / "nbd"
        finally:
            subprocess.run(["umount", "-l", str(place)], check=False, capture_output=True)
            process.kill()


def test_slow_writes_hold_up_hardly_any_read(slow_file, serve):
    """
    Small writes are done within the loop while they are quick. The first slow one ends that, and once more a second later, when it is
    known that it waits: other connections go on.
    """
    server = serve(slow_file)
    writer, reader = server.connect(), server.connect()
    buffer, written, longest, end = nbd.Buffer.from_bytearray(bytearray(b"w" * 4096)), [], [], time.monotonic() + 5

    def write(number):
        writer.aio_pwrite(buffer, 4096 * (number % 512), lambda error: written.append(error.value) or 1)
    for number in range(16):
        write(number)
    while time.monotonic() < end:
        begin, before = time.monotonic(), len(written)
        reader.pread(512, 4 << 20)
        longest.append(time.monotonic() - begin)
        writer.poll(0)
        for number in range(before, len(written)):
            write(number + 16)
    # 33 if each were waited for; a busy machine makes some of its own.
    assert sum(took > 0.1 for took in longest) <= 8, sorted(longest)[-10:]
    assert len(longest) > 1000 and len(written) > 10
    wait_until(lambda: writer.poll(0) >= 0 and writer.aio_in_flight() == 0, "the writes")
    assert not any(written) and reader.pread(4096, 4096 * 15) == b"w" * 4096


def test_read_only(folder, serve):
    (folder / "image").write_bytes(b"x" * 4096)
    handle = serve(folder / "image", "--read-only").connect()
    assert handle.is_read_only()
    handle.set_strict_mode(0)
    with pytest.raises(nbd.Error) as caught:
        handle.pwrite(b"y" * 512, 0)
    assert caught.value.errnum == errno.EPERM
    assert handle.pread(512, 0) == b"x" * 512


def test_overlay(random, folder, serve):
    image = random_image(random, ODD)
    path = image.write(folder / "image")
    os.chmod(path, 0o400)
    server = serve(path, "--overlay", "--overlay-dir", folder)
    model = bytearray(image.data)
    handles = [server.connect(), server.connect()]
    assert not handles[0].is_read_only()
    for step in range(300):
        handle, offset = handles[step % 2], random.randrange(ODD)
        length = min(ODD - offset, random.choice([1, 511, 4096, 5000, 70000, 300000]))
        if step % 3 == 0:
            model[offset:offset + length] = random.randbytes(length)
            handle.pwrite(model[offset:offset + length], offset, random.choice([0, nbd.CMD_FLAG_FUA]))
        elif step % 3 == 1:
            model[offset:offset + length] = bytes(length)
            handle.zero(length, offset)
        else:
            assert handle.pread(length, offset) == model[offset:offset + length]
    for offset, size, flags in extents_of(handles[0], 0, ODD):
        assert not flags or not any(model[offset:offset + size])
    # A reconnecting client finds what it wrote; the volume knows nothing of it, and nothing is left behind.
    run("nbdcopy", server.uri, folder / "back")
    assert (folder / "back").read_bytes() == model
    server.stop()
    assert path.read_bytes() == image.data
    assert not [entry for entry in os.listdir(folder) if "overlay" in entry]
    assert server.running.err() == ""


def test_overlay_on_a_full_disk(folder, serve, mounts):
    (folder / "image").write_bytes(b"x" * (4 << 20))
    small = mounts("-t", "tmpfs", "-o", "size=1M", "none")
    server = serve(folder / "image", "--overlay", "--overlay-dir", small)
    handle = server.connect()
    with pytest.raises(nbd.Error) as caught:
        for offset in range(0, 4 << 20, 65536):
            handle.pwrite(b"y" * 65536, offset)
    assert caught.value.errnum == errno.ENOSPC
    assert handle.pread(1, (4 << 20) - 1) == b"x" and handle.pread(1, 0) == b"y"
    handle.shutdown()
    server.stop()


def test_tcp(folder, serve):
    (folder / "image").write_bytes(b"x" * 4096)
    server = serve(folder / "image", "--name=disk", listen="nbd://127.0.0.1:0")
    assert server.uri.startswith("nbd://127.0.0.1:") and server.uri.endswith("/disk")
    assert server.connect().pread(1, 0) == b"x"
    if socket.has_dualstack_ipv6():
        both = serve(folder / "image", "--read-only", "--name=disk", "--quiet", "--allow=held", listen="nbd://[::1]:0")
        assert both.uri.startswith("nbd://[::1]:") and both.connect().pread(1, 0) == b"x"


def test_systemd_socket_activation(folder, program, serve):
    (folder / "image").write_bytes(b"x" * 4096)
    path = folder / "activated"
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    manager.bind(str(folder / "notify"))
    manager.settimeout(20)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        os.set_inheritable(listening.fileno(), True)
        shell = f"exec 3<&{listening.fileno()}; export LISTEN_PID=$$ LISTEN_FDS=1; exec \"$@\""
        process = subprocess.Popen(["bash", "-c", shell, "bash", program.path, "serve", str(folder / "image")], pass_fds=[listening.fileno()],
                                   stdout=subprocess.PIPE, env=dict(program.env, NOTIFY_SOCKET=str(folder / "notify")))
    try:
        assert manager.recv(100) == b"READY=1"
        uri = process.stdout.readline().decode().strip()
        assert urllib.parse.unquote(uri).endswith(f"socket={path}")
        handle = nbd.NBD()
        handle.connect_uri(uri)
        assert handle.pread(1, 0) == b"x"
        handle.shutdown()
    finally:
        process.terminate()
        assert process.wait(20) == OK
    # The socket is systemd's, who keeps it.
    assert path.exists()


def test_tls_psk(folder, serve, program):
    keys, others = (make_psk(folder / name, "alice") for name in ("keys.psk", "others.psk"))
    (folder / "image").write_bytes(b"x" * (1 << 20))
    server = serve(folder / "image", "--tls-psk", keys, listen=f"nbds+unix:///?socket={folder}/s")
    assert server.uri.startswith("nbds+unix:")
    handle = nbd.NBD()
    handle.set_tls(nbd.TLS_REQUIRE)
    handle.set_tls_psk_file(str(keys))
    handle.set_tls_username("alice")
    handle.connect_unix(str(folder / "s"))
    assert handle.get_tls_negotiated()
    data = os.urandom(1 << 20)
    handle.pwrite(data, 0)
    handle.flush()
    assert handle.pread(1 << 20, 0) == data
    with pytest.raises(nbd.Error):
        nbd.NBD().connect_unix(str(folder / "s"))
    wrong = nbd.NBD()
    wrong.set_tls(nbd.TLS_REQUIRE)
    wrong.set_tls_psk_file(str(others))
    wrong.set_tls_username("alice")
    with pytest.raises(nbd.Error):
        wrong.connect_unix(str(folder / "s"))
    # Our own client, and nbdcopy.
    (folder / "copy").write_bytes(b"")
    program("copy", "--tls-psk", keys, "--tls-username=alice", server.uri, folder / "target")
    assert (folder / "target").read_bytes() == data
    run("nbdcopy", server.uri.replace("nbds+unix://", "nbds+unix://alice@") + f"&tls-psk-file={keys}", folder / "copied")
    assert (folder / "copied").read_bytes() == data
    assert handle.pread(4, 0) == data[:4]


def test_tls_certificates_of_both_sides(folder, serve):
    pki = make_certificates(folder)
    stranger = folder / "stranger"
    stranger.mkdir()
    foreign = make_certificates(stranger)
    shutil.copy(pki / "ca-cert.pem", foreign / "ca-cert.pem")
    bare = folder / "bare"
    bare.mkdir()
    shutil.copy(pki / "ca-cert.pem", bare / "ca-cert.pem")
    (folder / "image").write_bytes(b"x" * 4096)
    server = serve(folder / "image", f"--tls-certificates={pki}", "--tls-verify-peer", listen="nbds://localhost:0")
    port = int(urllib.parse.urlparse(server.uri).port)

    def dial(certificates):
        handle = nbd.NBD()
        handle.set_tls(nbd.TLS_REQUIRE)
        handle.set_tls_certificates(str(certificates))
        handle.connect_tcp("localhost", str(port))
        return handle
    handle = dial(pki)
    assert handle.pread(1, 0) == b"x"
    for certificates in (bare, foreign):
        with pytest.raises(nbd.Error):
            # TLS 1.3 tells the client only when it goes on.
            dial(certificates).pread(1, 0)
    assert handle.pread(1, 0) == b"x"
    need("qemu-img")
    run("qemu-img", "info", "--object", f"tls-creds-x509,id=t,dir={pki},endpoint=client,verify-peer=yes", "--image-opts",
        f"driver=nbd,host=localhost,port={port},tls-creds=t")


def test_needs_tls_where_others_reach_it(folder, program, serve):
    (folder / "image").write_bytes(b"x" * 4096)
    done = program("serve", folder / "image", "--listen=nbd://0.0.0.0:0", code=REFUSED)
    assert "--insecure-plaintext" in done.err and "--tls-psk" in done.err
    # Encryption alone keeps nobody out.
    pki = make_certificates(folder)
    done = program("serve", folder / "image", f"--tls-certificates={pki}", "--listen=nbds://0.0.0.0:0", code=REFUSED)
    assert "--tls-verify-peer" in done.err and "encrypted" in done.err
    serve(folder / "image", f"--tls-certificates={pki}", "--tls-verify-peer", listen="nbds://0.0.0.0:0").stop()
    server = serve(folder / "image", "--insecure-plaintext", listen="nbd://0.0.0.0:0")
    port = urllib.parse.urlparse(server.uri).port
    assert server.connect(f"nbd://127.0.0.1:{port}").pread(1, 0) == b"x"


def test_h21_refusals(folder, program, serve, loops):
    (folder / "image").write_bytes(bytes(4 << 20))
    device = loops.attach(folder / "image")
    subprocess.run(["mkfs.ext4", "-q", device], check=True)
    point = folder / "mnt"
    point.mkdir()
    subprocess.run(["mount", device, point], check=True)
    try:
        done = program("serve", device, f"--listen=nbd+unix:///?socket={folder}/s", code=REFUSED)
        assert str(point) in done.err
        assert not (folder / "s").exists()
        # What is written there meanwhile is what a client reads, not what was read before.
        reader = serve(device, "--read-only")
        handle = reader.connect()
        before = handle.pread(4 << 20, 0)
        (point / "file").write_bytes(b"news" * 1000)
        subprocess.run(["sync", "-f", point / "file"], check=True)
        after = handle.pread(4 << 20, 0)
        assert b"news" * 1000 in after and b"news" * 1000 not in before
        handle.shutdown()
        reader.stop()
    finally:
        subprocess.run(["umount", point], check=True)
    first = serve(device)
    for words, code in (([device], (REFUSED, LOCKED)), ([folder / "other"], TROUBLE)):
        program("serve", *words, f"--listen=nbd+unix:///?socket={folder}/t", code=code)
    (folder / "other").write_bytes(bytes(4096))
    done = program("serve", folder / "other", f"--listen=nbd+unix:///?socket={folder}/s", code=REFUSED)
    assert "stop the server" in done.err
    assert first.connect().get_size() == 4 << 20
    first.running.kill()
    first.running.process.wait()
    # What a dead server left behind is no obstacle.
    assert (folder / "s").exists()
    serve(folder / "other").stop()
    assert not (folder / "s").exists()


def test_port_in_use(folder, program, serve):
    for name in ("one", "two"):
        (folder / name).write_bytes(bytes(4096))
    server = serve(folder / "one", listen="nbd://127.0.0.1:0")
    done = program("serve", folder / "two", f"--listen={server.uri}", code=REFUSED)
    assert "another port" in done.err


def test_bad_words(folder, program):
    (folder / "image").write_bytes(bytes(4096))
    image = folder / "image"
    for words in ([], [image], [image, "--listen=http://x"], [image, "--listen=nbd://h:x"], [image, "--listen=nbds://127.0.0.1"],
                  [image, "--listen=nbd+unix:///"], [image, image, "--listen=nbd+unix:///?socket=/tmp/x"],
                  [image, "--listen=nbd://127.0.0.1:0/a", "--name=b"], [image, "--listen=nbd://127.0.0.1:0", "--tls-verify-peer"],
                  [image, "--listen=nbd://127.0.0.1:0", "--tls-psk=/nowhere"], ["-", "--listen=nbd://127.0.0.1:0"]):
        done = program("serve", *words, code=TROUBLE)
        assert len(done.err.splitlines()) >= 1


def test_end_answers_what_is_under_way(folder, serve, servers):
    below = servers.nbdkit("--filter=delay", "memory", "1M", "wdelay=1")
    server = serve(below.uri)
    handle = server.connect()
    written = []
    thread = threading.Thread(target=lambda: written.append(handle.pwrite(b"x" * 512, 0)))
    thread.start()
    time.sleep(0.3)
    server.stop()
    thread.join()
    assert len(written) == 1
    assert serve(below.uri).connect().pread(512, 0) == b"x" * 512
