# SPDX-License-Identifier: GPL-2.0-or-later
"""What the machine itself allows: disk, memory, ssh, TCP on loopback."""
import json
import os
import shutil
import socket
import subprocess
import threading
import time

import contest
import volumes
from contest import MIB, Section, table
from scenario_copy import AES_GCM, CHACHA


def _fio(bench, kind, block, depth):
    """MiB/s of direct I/O on a file beside the volumes, all of it allocated."""
    if not shutil.which("fio"):
        return "fio is not installed"
    path, seconds = bench.folder / "fio.dat", 1 if bench.quick else 8
    side = "write" if "write" in kind else "read"
    words = ["fio", "--name=limit", f"--filename={path}", f"--rw={kind}", f"--bs={block}", f"--iodepth={depth}", "--ioengine=io_uring",
             "--direct=1", f"--size={64 if bench.quick else 2048}M", "--time_based", f"--runtime={seconds}", "--output-format=json"]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode != 0:
        return f"fio failed: {done.stderr.strip()[-80:]}"
    job = json.loads(done.stdout[done.stdout.index("{"):])["jobs"][0][side]
    return f"{job['bw_bytes'] / MIB:.0f} MiB/s, {job['iops']:.0f} I/O/s"


def _memory(quick):
    """memcpy between two buffers far larger than any cache; the best of some."""
    size = (64 if quick else 512) * MIB
    source, target, best = bytearray(os.urandom(MIB)) * (size // MIB), bytearray(size), float("inf")
    view = memoryview(target)
    for _ in range(5):
        begun = time.monotonic()
        view[:] = source
        best = min(best, time.monotonic() - begun)
    return f"{size / MIB / best:.0f} MiB/s copied (read and written)"


def _tcp(quick):
    """One connection over loopback, 1 MiB a call."""
    size, block = (256 if quick else 8192) * MIB, bytes(MIB)
    listener = socket.create_server(("127.0.0.1", 0))

    def send():
        with socket.create_connection(listener.getsockname()) as link:
            for _ in range(size // MIB):
                link.sendall(block)

    thread = threading.Thread(target=send)
    thread.start()
    link, received, buffer = listener.accept()[0], 0, bytearray(MIB)
    begun = time.monotonic()
    while received < size:
        received += link.recv_into(buffer)
    took = time.monotonic() - begun
    thread.join()
    return f"{size / MIB / took:.0f} MiB/s"


def _ssh(bench, cipher):
    size = 64 if bench.quick else 2048
    sample, code, said = bench.meter.run(f"dd if=/dev/zero bs=1M count={size} status=none | {bench.ssh} -c {cipher} other 'cat >/dev/null'")
    if code != 0:
        return f"failed: {said.strip()[-80:]}"
    return f"{size / sample.wall_s:.0f} MiB/s, CPU {sample.cpu_s / size * 1024:.2f} s for a GiB"


def limits(bench):
    rows = []
    for name, kind, block, depth in (("disk: write, in order, 1 MiB, 8 in flight", "write", "1M", 8),
                                     ("disk: read, in order, 1 MiB, 8 in flight", "read", "1M", 8),
                                     ("disk: read, at random, 4 KiB, 32 in flight", "randread", "4k", 32),
                                     ("disk: write, at random, 4 KiB, 32 in flight", "randwrite", "4k", 32)):
        rows.append((name, _fio(bench, kind, block, depth)))
        contest.progress(f"    {name}: {rows[-1][1]}")
    volumes.forget(bench.folder / "fio.dat")
    rows.append(("memory", _memory(bench.quick)))
    rows.append(("TCP on loopback", _tcp(bench.quick)))
    for cipher in (AES_GCM, CHACHA):
        rows.append((f"ssh on loopback, {cipher}", _ssh(bench, cipher)))
    yield Section("What the machine allows", "Zeros through ssh and TCP; direct I/O by fio on the disk of the volumes.", None, (),
                  table(("limit", "measured"), rows))


SCENARIOS = {"limits": limits}
