# SPDX-License-Identifier: GPL-2.0-or-later
"""NBD servers under load: fio as the client, CPU time and memory of the server alone, live mirrors of blkmove and of QEMU.

Server and load share the processors of one machine; what the load takes is not counted, but what it takes away is felt by all alike.
"""
import contextlib
import json
import math
import os
import pathlib
import signal
import socket
import statistics
import subprocess
import tempfile
import time
from typing import NamedTuple

import contest
import measure
import stolen
from servers import Server

POLL_S = 0.1
PATIENCE_S = 60
PROCESSORS = f"this machine's {os.cpu_count()} processors"


class Folder:
    """A short path, as sockets want it, that control sockets may lie in."""

    def __init__(self, folder):
        self.path = pathlib.Path(folder)
        self.socket = self.path / "nbd"
        self.uri = f"nbd+unix:///?socket={self.socket}"

    @classmethod
    @contextlib.contextmanager
    def new(cls):
        with tempfile.TemporaryDirectory(prefix="blkmove-bench-") as folder:
            os.environ["BLKMOVE_RUN_DIR"] = folder
            try:
                yield cls(folder)
            finally:
                del os.environ["BLKMOVE_RUN_DIR"]


class Service:
    """A server that is there while it is measured."""

    def __init__(self, bench, folder, words):
        self.meter, self.log = bench.meter, folder.path / "log"
        self.log.unlink(missing_ok=True)
        try:
            with self.meter.standing_processes():
                self.server = Server(words, folder.socket, log=self.log)
        except OSError as error:
            raise RuntimeError(f"{error}: {self.said()}") from error

    @property
    def pid(self):
        return self.server.process.pid

    def cpu_s(self):
        return self.meter.standing_cpu_s(self.pid)

    def peak_bytes(self):
        return measure.peak_of([self.pid])

    def said(self):
        return self.log.read_text(errors="replace").strip()[-500:]

    def connect(self):
        """To what steers it."""

    def __enter__(self):
        try:
            self.connect()
        except BaseException:
            self.server.stop()
            raise
        return self

    def __exit__(self, kind, *_):
        if kind:
            contest.progress(self.said())
        self.server.stop()


class Figures(NamedTuple):
    """What clients saw."""
    requests: int
    iops: float
    bytes_s: float
    mean_us: float
    p99_us: float
    max_us: float
    kept: float = 1.0  # the part of the requests that the latencies are of
    stolen: float = 0.0  # the part of all processors' time that the hypervisor took


class LoadFailed(Exception):
    pass


TROUBLES = (LoadFailed, RuntimeError, OSError, ValueError, subprocess.SubprocessError)  # what a server that fails leads to


def _takes(pid, number):
    """Whether a process has a handler for a signal: fio sets its own when the jobs begin, and an earlier signal would end it dumb."""
    with contextlib.suppress(OSError, IndexError):
        caught = pathlib.Path(f"/proc/{pid}/status").read_text().split("SigCgt:")[1].split()[0]
        return bool(int(caught, 16) >> (number - 1) & 1)
    return False


class Load:
    """
    fio against an export; each job has a connection of its own. `kind` is fio's; `rate`: requests a second, half of them writes if mixed;
    `logged`: each request is, and latencies are of those alone during which no time was stolen.
    """

    def __init__(self, uri, kind, size, seconds, block="4k", depth=1, jobs=1, rate=0, logged=False):
        self.logged = logged
        # Those in order begin at different places; at random each goes all over the volume.
        part = size if "rand" in kind else size // jobs
        self.words = ["fio", "--name=load", "--ioengine=nbd", f"--uri={uri}", f"--rw={kind}", f"--bs={block}", f"--iodepth={depth}",
                      f"--numjobs={jobs}", f"--size={part}", f"--offset_increment={part if part < size else 0}", "--time_based",
                      f"--runtime={round(seconds * 1000)}ms", "--thread", "--group_reporting", "--unified_rw_reporting=1", "--norandommap",
                      "--lat_percentiles=1", "--clat_percentiles=0", "--percentile_list=50:99", "--output-format=json"]
        if rate:
            self.words.append(f"--rate_iops={rate // 2},{rate // 2}" if kind.endswith("rw") else f"--rate_iops={rate}")

    @contextlib.contextmanager
    def running(self):
        """In the background, its jobs begun."""
        with tempfile.TemporaryFile() as self.out, tempfile.TemporaryFile() as self.err, tempfile.TemporaryDirectory() as logs:
            self.logs = pathlib.Path(logs)
            words = [*self.words, f"--write_lat_log={self.logs / 'load'}", "--log_unix_epoch=1"] if self.logged else self.words
            self.child = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=self.out, stderr=self.err)
            self.watch = stolen.Watch()
            try:
                wait_until(lambda: self.child.poll() is not None or _takes(self.child.pid, signal.SIGINT), "fio's begin")
                yield self
            finally:
                if self.child.poll() is None:
                    self.child.kill()
                    self.child.wait()
                self.watch.end()

    def wait(self, is_over):
        """Until its time is over, or is_over() says so, which is asked ten times a second."""
        while self.child.poll() is None and not is_over():
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.child.wait(POLL_S)

    def end(self):
        """Its figures; ended now, if it has not ended by itself."""
        if self.child.poll() is None:
            self.child.send_signal(signal.SIGINT)
        self.child.wait(PATIENCE_S)
        return self._figures()

    def run(self):
        with self.running():
            self.child.wait()
            return self._figures()

    def _undisturbed(self):
        """The latencies that count, in µs and in order, and the part they are of all."""
        lines = [line.split(",", 2) for path in self.logs.glob("load_lat.*.log") for line in path.read_text().splitlines()]
        kept = sorted(int(ns) / 1e3 for when_ms, ns, _ in lines if not self.watch.during(int(when_ms) / 1e3))
        return kept, len(kept) / len(lines) if lines else 0.0

    def _figures(self):
        self.watch.end()
        self.out.seek(0)
        self.err.seek(0)
        text, said = self.out.read().decode(errors="replace"), self.err.read().decode(errors="replace")
        try:
            job = json.loads(text[text.index("\n{") if not text.startswith("{") else 0:])["jobs"][0]
        except (ValueError, LookupError) as error:
            raise LoadFailed(f"fio: {said.strip()[-300:] or text.strip()[-300:]}") from error
        if job["error"]:
            raise LoadFailed(f"fio: error {job['error']}: {said.strip()[-300:]}")
        side = job["mixed"]
        latency = side["lat_ns"]
        p99_ns = latency.get("percentile", {}).get("99.000000", float("nan"))  # none without requests
        figures = Figures(side["total_ios"], side["iops"], side["bw_bytes"], latency["mean"] / 1e3, p99_ns / 1e3, latency["max"] / 1e3,
                          stolen=self.watch.part)
        if not self.logged:
            return figures
        kept, part = self._undisturbed()
        if not kept:
            return figures._replace(kept=0.0)
        return figures._replace(mean_us=statistics.fmean(kept), p99_us=kept[math.ceil(len(kept) * 0.99) - 1], max_us=kept[-1], kept=part)


def fill(path, size):
    """A volume without holes, in the page cache and on the disk."""
    block = os.urandom(1 << 20)
    with open(path, "wb", buffering=0) as file:
        for offset in range(0, size, len(block)):
            os.write(file.fileno(), block[:size - offset])
        os.fsync(file.fileno())


def lay_out(path, block):
    """
    Written anew in pieces of `block` bytes: on the disk, and in the page cache in pieces that each server finds the same. (What one server
    leaves there differs from another's, and ext4 takes ten times as long for 4 KiB inside a folio of 1 MiB as for a page.)
    """
    fd = os.open(path, os.O_RDWR)
    try:
        os.fsync(fd)
        size = os.fstat(fd).st_size
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        data = os.urandom(block)
        for offset in range(0, size, block):
            os.pwrite(fd, data[:size - offset], offset)
        os.fsync(fd)
    finally:
        os.close(fd)


def settle(path):
    """The disk is not busy with what an earlier run left behind."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def wait_until(condition, what, timeout_s=PATIENCE_S, poll_s=0.01):
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise RuntimeError(f"waited {timeout_s} s in vain for {what}")
        time.sleep(poll_s)
    return found


def rotations(entrants, runs):
    """A B C, B C A, ...: no one always follows the same other."""
    for number in range(runs):
        begin = number * len(entrants) // runs
        for entrant in entrants[begin:] + entrants[:begin]:
            yield number, entrant


def median(values):
    values = list(values)
    return statistics.median(values) if values else float("nan")


class Lines:
    """A unix socket that takes and gives JSON, an object a line."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(PATIENCE_S)
        wait_until(lambda: self.socket.connect_ex(str(path)) == 0, path)
        self.file = self.socket.makefile("rw")

    def read(self):
        return json.loads(self.file.readline())

    def ask(self, request):
        self.file.write(json.dumps(request) + "\n")
        self.file.flush()
        return self.read()

    def close(self):
        self.file.close()
        self.socket.close()


class BlkmoveMirror(Service):
    """blkmove mirror, in the foreground; a map of its own each time."""

    def __init__(self, bench, folder, source, target, *words):
        self.state = tempfile.mkdtemp(prefix="state-", dir=bench.folder)
        self.begun = time.monotonic()
        super().__init__(bench, folder, [bench.program, "mirror", "--foreground", "--quiet", "--state-dir", self.state, "--name", "bench",
                                         "--listen", folder.uri, *words, source, target])
        self.control_path = folder.path / "bench.sock"

    def connect(self):
        # The export's socket is there earlier, but nobody answers yet.
        self.control = Lines(self.control_path)
        self.exported_s = time.monotonic() - self.begun

    def command(self, name, **members):
        reply = self.control.ask({"command": name, **members})
        if not reply["ok"]:
            raise RuntimeError(f"{name}: {reply['error']}")
        return reply

    def status(self):
        return self.command("status")

    def remaining(self):
        """(bytes that differ, whether the legs are in step)"""
        now = self.status()
        return now["dirty"], now["state"] in ("ready", "switched") and now["dirty"] == 0

    def order(self, name):
        """To its end; the status then."""
        number = self.command(name)["number"]

        def ended():
            now = self.status()
            return now["order"] and now["order"]["number"] == number and now["order"]["state"] != "running" and now

        now = wait_until(ended, f"the end of {name}", poll_s=0.005)
        if now["order"]["state"] != "done":
            raise RuntimeError(f"{name}: {now['order']['error']}")
        return now

    def map_bytes(self):
        return (pathlib.Path(self.state) / "mirrors/bench/map").stat().st_size

    def __exit__(self, *why):
        self.control.close()
        super().__exit__(*why)


class QemuMirror(Service):
    """qemu-storage-daemon, with nodes and export as its manual has them; the job begins later."""

    def __init__(self, bench, folder, source, target, size):
        with open(target, "wb") as file:
            file.truncate(size)
        words = ["qemu-storage-daemon"]
        for name, path in (("source", source), ("target", target)):
            words += ["--blockdev", f"driver=file,node-name={name}-file,filename={path}",
                      "--blockdev", f"driver=raw,node-name={name},file={name}-file"]
        words += ["--nbd-server", f"addr.type=unix,addr.path={folder.socket},max-connections=8",
                  "--export", "type=nbd,id=export,node-name=source,name=,writable=on",
                  "--chardev", f"socket,id=qmp,path={folder.path / 'qmp'},server=on,wait=off", "--monitor", "chardev=qmp"]
        super().__init__(bench, folder, words)
        self.qmp_path = folder.path / "qmp"

    def connect(self):
        self.qmp = Lines(self.qmp_path)
        self.qmp.read()
        self.execute("qmp_capabilities")

    def execute(self, name, **arguments):
        reply = self.qmp.ask({"execute": name, "arguments": arguments})
        while "event" in reply:
            reply = self.qmp.read()
        if "error" in reply:
            raise RuntimeError(f"{name}: {reply['error']}")
        return reply["return"]

    def begin(self, copy_mode):
        self.execute("blockdev-mirror", **{"job-id": "job", "device": "source", "target": "target", "sync": "full", "copy-mode": copy_mode})

    def pause(self):
        self.execute("block-job-pause", device="job")

    def remaining(self):
        jobs = self.execute("query-block-jobs")
        if not jobs:
            raise RuntimeError("the job is gone")  # it failed
        job = jobs[0]
        return job["len"] - job["offset"], job["ready"]

    def __exit__(self, *why):
        self.qmp.close()
        super().__exit__(*why)
