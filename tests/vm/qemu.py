# SPDX-License-Identifier: GPL-2.0-or-later
"""QEMU's side of a guest: what it is started with, its disks, and the socket by which it is told to change them (QMP).

Disks are described as QEMU's own JSON, the same for the command line and for a guest that runs.
"""
import contextlib
import ctypes
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import time
from typing import NamedTuple

from guest_image import NoGuest

QEMU = "qemu-system-x86_64"
# Slow machines make guests that starve: their kernel's own watchdogs then only say so.
KERNEL_COMMAND_LINE = ("console=ttyS0 panic=-1 mitigations=off nokaslr no_timer_check tsc=reliable random.trust_cpu=on "
                       "cryptomgr.notests net.ifnames=0 raid=noautodetect nosoftlockup rcupdate.rcu_cpu_stall_suppress=1")
# An emulated guest that is as plain as it can be; -no-reboot makes a panic the end.
MACHINE = ["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-machine", "pc", "-cpu", "max,la57=off"]
RECONNECT_S = 60
QMP_S = 120
LIBC = ctypes.CDLL(None)


class Disk(NamedTuple):
    """node: QEMU's description of a block node. In the guest it is a virtio disk with this serial, of 20 characters at most."""
    serial: str
    node: dict

    def backend(self):
        return dict(self.node, **{"node-name": self.serial})

    def device(self):
        # An error is the guest's to see; it must not stop the guest.
        return {"driver": "virtio-blk-pci", "id": f"dev-{self.serial}", "drive": self.serial, "serial": self.serial, "werror": "report",
                "rerror": "report"}


def file_disk(path, serial, **options):
    """What was written is in the file whatever becomes of QEMU. The host's own crash is not guarded against: flushes cost nothing."""
    return Disk(serial, {"driver": "raw", "discard": "unmap", "cache": {"no-flush": True},
                         "file": {"driver": "file", "filename": str(path)}, **options})


def nbd_disk(serial, path=None, port=None, **options):
    """The default export at a unix socket or at a port of this machine. The guest waits RECONNECT_S for a server that is gone."""
    server = {"type": "unix", "path": str(path)} if path else {"type": "inet", "host": "127.0.0.1", "port": str(port)}
    return Disk(serial, {"driver": "nbd", "server": server, "reconnect-delay": RECONNECT_S, "discard": "unmap", **options})


def size_of(word):
    """Bytes of "64M", a number of them as it is, or None for what is no size."""
    if isinstance(word, int):
        return word
    found = re.fullmatch(r"(\d+)([KMG])", str(word))
    return int(found[1]) << {"K": 10, "M": 20, "G": 30}[found[2]] if found else None


def new_file(path, size):
    with open(path, "wb") as file:
        file.truncate(int(size))  # None is no size, but truncate() takes it
    return path


def die_with_parent():
    pr_set_pdeathsig = 1
    LIBC.prctl(pr_set_pdeathsig, signal.SIGKILL)


class VolatileServer:
    """A disk with a cache that a power cut empties: what was not flushed is lost, to the last byte. An nbdkit holds the cache."""

    def __init__(self, path, socket_path):
        self.path, self.socket_path, self.process = path, socket_path, None
        if not shutil.which("nbdkit"):
            raise NoGuest("cannot make a disk that loses power: there is no nbdkit here; scripts/setup installs it")

    def start(self):
        self.socket_path.unlink(missing_ok=True)
        self.process = subprocess.Popen(["nbdkit", "-f", "-U", self.socket_path, "--filter=cache", "file", self.path, "cache=writeback"],
                                        stdin=subprocess.DEVNULL, preexec_fn=die_with_parent)
        end = time.monotonic() + QMP_S
        while not self.socket_path.exists():
            if self.process.poll() is not None or time.monotonic() > end:
                raise OSError(f"nbdkit does not serve {self.path} (exit {self.process.poll()})")
            time.sleep(0.01)

    def is_running(self):
        return self.process is not None and self.process.poll() is None

    def stop(self):
        if self.process:
            self.process.kill()
            self.process.wait()


class Listener:
    """A unix socket that QEMU connects to when it starts: so nothing that the guest says first is lost."""

    def __init__(self, path):
        path.unlink(missing_ok=True)
        self.path, self.socket = path, socket.socket(socket.AF_UNIX)
        self.socket.bind(str(path))
        self.socket.listen(1)
        self.socket.settimeout(0.2)

    def accept(self, process, timeout_s):
        """The connection, or None when QEMU has ended or does not come."""
        end = time.monotonic() + timeout_s
        with self.socket:
            while process.poll() is None and time.monotonic() < end:
                with contextlib.suppress(TimeoutError):
                    connection = self.socket.accept()[0]
                    connection.setblocking(True)
                    return connection
        return None


class Qmp:
    """One order at a time, from one thread."""

    def __init__(self, connection):
        self.socket = connection
        self.socket.settimeout(QMP_S)
        self.file = self.socket.makefile("rwb")
        self.events = []
        self._read()
        self("qmp_capabilities")

    def _read(self):
        line = self.file.readline()
        if not line:
            raise OSError("QEMU has ended")
        return json.loads(line)

    def __call__(self, execute, **arguments):
        if "_" not in execute:  # the oldest commands have it in all their names, others in none
            arguments = {name.replace("_", "-"): value for name, value in arguments.items()}
        self.file.write(json.dumps({"execute": execute, "arguments": arguments}).encode() + b"\n")
        self.file.flush()
        while True:
            said = self._read()
            if "event" in said:
                self.events.append(said)
            elif "error" in said:
                raise OSError(f"QEMU refuses {execute}: {said['error']['desc']}")
            else:
                return said["return"]

    def wait_for(self, event, **data):
        """An event that has these data; earlier ones count."""
        while True:
            for said in self.events:
                if said["event"] == event and data.items() <= said.get("data", {}).items():
                    self.events.remove(said)
                    return
            self.events.append(self._read())

    def close(self):
        self.file.close()
        self.socket.close()


def net_words(nets, node, link_folder):
    """nets: 'link' (between the two guests of a pair), 'user' (the host is 10.0.2.2), or words of -netdev less the id."""
    there = 3 - node
    link = (f"dgram,local.type=unix,local.path={link_folder}/net{node},"
            f"remote.type=unix,remote.path={link_folder}/net{there}")
    for number, net in enumerate(nets):
        mac = f"52:54:00:77:{number:02x}:{node:02x}"
        yield from ["-netdev", f"{link if net == 'link' else net},id=net{number}",
                    "-device", f"virtio-net-pci,netdev=net{number},romfile=,mac={mac}"]


def share_words(shares):
    for name, path in shares.items():
        yield from ["-virtfs", f"local,path={path},mount_tag={name},security_model=none,multidevs=remap"]


def disk_words(disks):
    for disk in disks:
        yield from ["-blockdev", json.dumps(disk.backend()), "-device", json.dumps(disk.device())]


def socket_words(agent, qmp):
    yield from ["-device", "virtio-serial-pci", "-chardev", f"socket,id=agent,path={agent}", "-device",
                "virtserialport,chardev=agent,name=agent", "-chardev", f"socket,id=qmp,path={qmp}", "-mon", "chardev=qmp,mode=control"]


def command_line(memory, processors):
    """Raises NoGuest where no guest can run."""
    if not shutil.which(QEMU):
        raise NoGuest(f"cannot run a guest: there is no {QEMU} here; scripts/setup vm installs it")
    # Threads of QEMU 7.2 that patch and run the same code meet (Oops: int3), and one processor is faster than two on a busy machine.
    accelerator = os.environ.get("BLKMOVE_VM_ACCEL", "tcg,thread=single")
    known = subprocess.run([QEMU, "-accel", "help"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False).stdout
    kind = accelerator.split(",", maxsplit=1)[0]
    if kind not in known.split():
        raise NoGuest(f"cannot run a guest: {QEMU} has no accelerator {kind}; BLKMOVE_VM_ACCEL names another")
    if kind == "kvm" and not os.access("/dev/kvm", os.R_OK | os.W_OK):
        raise NoGuest("cannot run a guest: /dev/kvm cannot be used; without BLKMOVE_VM_ACCEL QEMU emulates")
    return [QEMU, *MACHINE, "-accel", accelerator, "-m", str(memory), "-smp", str(processors)]


def spawn(words, log):
    with open(log, "ab") as err:
        return subprocess.Popen([str(word) for word in words], stdin=subprocess.DEVNULL, stderr=err, preexec_fn=die_with_parent)


def end_of(path, characters=3000):
    path = pathlib.Path(path)
    return path.read_text(errors="replace")[-characters:] if path.exists() else ""
