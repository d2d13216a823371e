# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs one command and measures it: wall time of the whole, CPU seconds of all processes, largest memory of one process, bytes on the wire.

Everything that a run starts, the private sshd and its sessions included, lives in a cgroup of its own, whose cpu.stat counts all of it to
the microsecond. Where cgroups cannot be made (no root), the times of waited-for children are summed, ours and the sshd's. Work that
the kernel does in threads of its own (write-back, the loop device) is in neither, for nobody.
"""
import contextlib
import os
import pathlib
import resource
import select
import subprocess
import tempfile
import time
from typing import NamedTuple

SAMPLE_MS = 20
STRAGGLERS_S = 20


class Sample(NamedTuple):
    wall_s: float
    cpu_s: float
    peak_bytes: int
    wire_bytes: int
    read_bytes: int  # from disks, by all that was waited for: as the kernel counted what each thread submitted, O_DIRECT and io_uring included


class Cgroup:
    """A cgroup (version 2) for all that is measured."""

    def __init__(self):
        mounts = [line.split() for line in pathlib.Path("/proc/self/mounts").read_text().splitlines()]
        root = next((pathlib.Path(words[1]) for words in mounts if words[2] == "cgroup2"), None)
        if root is None:
            raise OSError("no cgroup2 is mounted")
        own = next(line for line in pathlib.Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::"))
        self.home = root / own[3:].lstrip("/")
        self.path = root / f"blkmove-bench-{os.getpid()}"
        self.path.mkdir()

    def join(self):
        (self.path / "cgroup.procs").write_text("0")

    def leave(self):
        (self.home / "cgroup.procs").write_text("0")

    def pids(self):
        return {int(line) for line in (self.path / "cgroup.procs").read_text().split()}

    def cpu_s(self):
        return int((self.path / "cpu.stat").read_text().split()[1]) / 1e6

    def remove(self):
        """An interrupted run leaves processes behind."""
        (self.path / "cgroup.kill").write_text("1")
        for _ in range(100):
            try:
                self.path.rmdir()
                return
            except OSError:
                time.sleep(0.05)


OWN, CHILDREN = 11, 13  # where proc(5)'s stat has the times, behind the name


def _stat_s(pid, first):
    """User and system time of a process, or of its waited-for children."""
    words = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(words[first]) + int(words[first + 1])) / os.sysconf("SC_CLK_TCK")


class Family:
    """The same without cgroups: our descendants and those of the processes in `heads`."""

    def __init__(self):
        self.heads = set()

    def join(self):
        pass

    leave = remove = join

    def pids(self):
        parents = {}
        for entry in pathlib.Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    parents.setdefault(int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1]), set()).add(int(entry.name))
        found, todo = set(self.heads), [os.getpid(), *self.heads]
        while todo:
            children = parents.get(todo.pop(), set()) - found
            found |= children
            todo += children
        return found

    def cpu_s(self):
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        total = usage.ru_utime + usage.ru_stime
        for pid in self.heads:
            with contextlib.suppress(OSError):
                total += _stat_s(pid, CHILDREN)
        return total


def peak_of(pids):
    """The largest of the processes' peaks so far."""
    peak = 0
    for pid in pids:
        with contextlib.suppress(OSError, ValueError, IndexError):
            status = pathlib.Path(f"/proc/{pid}/status").read_text()
            peak = max(peak, int(status.split("VmHWM:")[1].split()[0]) << 10)
    return peak


def device_bytes(device):
    """What a network device of this network namespace has carried, both ways."""
    for line in pathlib.Path("/proc/net/dev").read_text().splitlines():
        if line.strip().startswith(device + ":"):
            counts = line.split(":")[1].split()
            # Loopback counts each packet as sent and as received.
            return int(counts[0]) if device == "lo" else int(counts[0]) + int(counts[8])
    raise LookupError(device)


class Meter:
    def __init__(self):
        try:
            self.group = Cgroup()
        except OSError:
            self.group = Family()
        self.standing = set()

    def close(self):
        self.group.remove()

    @property
    def exact(self):
        return isinstance(self.group, Cgroup)

    @contextlib.contextmanager
    def standing_processes(self):
        """What is started inside belongs to the measured side but stays: the sshd."""
        self.group.join()
        try:
            yield
        finally:
            self.group.leave()

    def stands(self, pid):
        if not self.exact:
            self.group.heads.add(pid)

    def standing_cpu_s(self, pid):
        """What a standing process has taken so far: the cgroup counts to the microsecond, and what else stands there is idle."""
        return self.group.cpu_s() if self.exact else _stat_s(pid, OWN)

    def _watch(self, child):
        """Waits for the child's end, to the millisecond, and returns the largest memory seen on the way, that moment, and what was read."""
        peak, pidfd = 0, os.pidfd_open(child.pid)
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        while not poll.poll(SAMPLE_MS):
            peak = max(peak, peak_of(self.group.pids() - self.standing))
        ended = time.monotonic()
        os.close(pidfd)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        # wait4's figure is right at the very end, but a child begins with its parent's: below that it says nothing.
        if usage.ru_maxrss << 10 > peak_of([os.getpid()]):
            peak = max(peak, usage.ru_maxrss << 10)
        return peak, ended, usage.ru_inblock * 512

    def _wait_for_stragglers(self):
        """The far side may end a moment later; its CPU time counts."""
        deadline = time.monotonic() + STRAGGLERS_S
        while self.group.pids() - self.standing:
            if time.monotonic() > deadline:
                raise RuntimeError(f"processes do not end: {self.group.pids() - self.standing}")
            time.sleep(0.01)

    def run(self, command, device="lo"):
        """A list is run as it is, a string by bash. Returns (Sample, exit code, what it said)."""
        words = ["bash", "-o", "pipefail", "-c", command] if isinstance(command, str) else [str(word) for word in command]
        self.standing = self.group.pids()
        with tempfile.TemporaryFile() as said:
            wire, cpu, begun = device_bytes(device), self.group.cpu_s(), time.monotonic()
            child = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=said, stderr=said, preexec_fn=self.group.join)
            peak, ended, read = self._watch(child)
            self._wait_for_stragglers()
            sample = Sample(ended - begun, self.group.cpu_s() - cpu, peak, device_bytes(device) - wire, read)
            said.seek(0)
            return sample, child.returncode, said.read().decode(errors="replace")
