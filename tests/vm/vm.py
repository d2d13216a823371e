# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests to work in: boot one, run commands in it, give it disks and take them away, pull its plug.

    guest = Guest(image("6.1"), folder, copy=[program], disks=[new_disk])
    guest.boot()
    guest.run("mkfs.ext4 -q /dev/by-serial/data")     a shell's text (-e, pipefail); fails the test unless it exits with 0
    guest.run("cmp a b", code=1).out
    working = guest.start(["workload.py", device])    goes on; then working.wait_for("READY"), working.wait()
    guest.put("text", "/etc/lvm/x"); guest.get("/tmp/y")
    device = guest.add_disk("64M")                    while it runs; a size, or a Disk of qemu.py
    guest.reset(); guest.power_cut()                  what was only in memory is gone; volatile disks lose what was not flushed, too
    guest.end()

Each boot begins with the same clean root. A guest that dies fails what waits for it, with the end of its console.
"""
import base64
import collections
import contextlib
import itertools
import json
import pathlib
import re
import shlex
import shutil
import signal
import threading
import time

import guest_image
import qemu
from guest_image import NoGuest

HERE = pathlib.Path(__file__).resolve().parent
# A guest is emulated and may share the machine: what comes late is no failure, what does not come at all is.
BOOT_S, PATIENCE_S = 600, 600
ROOT = "vmrun-root"  # by this serial guest/initramfs-init finds it
ALARMS = re.compile(r"I/O error|blk_update_request|EXT4-fs (error|warning)|JBD2: .*error|XFS .*(error|[Ss]hut|[Cc]orrupt)|Kernel panic|"
                    r"blocked for more than|Call Trace|BUG:|WARNING:")


def image(kernel):
    """The guest of that kernel ("6.1", "6.12"), made if need be. Raises NoGuest, which says why there is none."""
    qemu.command_line("1M", 1)
    try:
        return guest_image.Cache().image(kernel)
    except OSError as error:
        raise NoGuest(f"cannot make a guest: {error}") from error


class Gone(AssertionError):
    """The guest has ended, or was reset, under what waited for it."""


class Command:
    """One that runs in the guest. Its output comes in as it is written, standard error too."""

    def __init__(self, guest, number, words):
        self.guest, self.number, self.words = guest, number, words
        self.code = None
        self.output = bytearray()
        self.changed = threading.Condition()

    @property
    def out(self):
        return self.output.decode(errors="replace")

    def is_running(self):
        return self.code is None and self.guest.is_running()

    def take(self, message):
        """From the thread that hears the guest."""
        with self.changed:
            self.output += base64.b64decode(message.get("out", ""))
            self.code = message.get("exit", self.code)
            self.changed.notify_all()

    def _wait(self, condition, what, timeout_s):
        end = time.monotonic() + timeout_s
        with self.changed:
            while not condition():
                if self.code is None:
                    self.guest.must_run(f"{self} ran")
                assert self.code is None, f"{self} ended with {self.code} before {what}:\n{self.out}"
                assert time.monotonic() < end, f"{self}: waited {timeout_s} s in vain for {what}; it said:\n{self.out}"
                self.changed.wait(0.2)

    def wait(self, code=0, timeout_s=PATIENCE_S):
        """Its end. Unless it is killed, a command that takes too long goes on. Any code will do for None."""
        self._wait(lambda: self.code is not None, "its end", timeout_s)
        assert code is None or self.code == code, f"{self} ended with {self.code}, not {code}:\n{self.out}"
        return self

    def wait_for(self, words, count=1, timeout_s=PATIENCE_S):
        """Until it has said so, so many times."""
        self._wait(lambda: self.out.count(words) >= count, f"'{words}' {count} times", timeout_s)

    def kill(self, number=signal.SIGKILL):
        self.guest.say(id=self.number, signal=int(number))

    def __str__(self):
        text = shlex.join(self.words)
        return text if len(text) < 300 else text[:300] + "..."


class Guest:
    """A guest on this machine. folder is its own, with a short path: sockets lie in it. For two guests see Pair. root: instead of the image's.
    within: what QEMU's command line begins with, such as a network namespace's; words: what it ends with."""

    def __init__(self, files, folder, *, disks=(), memory="512M", processors=1, nets=(), shares=None, copy=(), env=(), node=1,
                 link_folder=None, console_to_stdout=False, root=None, within=(), words=()):
        self.files, self.folder = files, pathlib.Path(folder)
        self.within, self.words = list(within), list(words)
        self.root = root or qemu.file_disk(files.root, ROOT, **{"read-only": True})
        self.disks = list(disks)
        self.memory, self.processors, self.node = memory, processors, node
        self.nets, self.shares, self.link_folder = list(nets), dict(shares or {}), link_folder
        self.copy, self.env, self.console_to_stdout = list(copy), list(env), console_to_stdout
        self.numbers = itertools.count(1)
        self.commands = collections.OrderedDict()
        self.volatile = {}
        self.process = self.qmp = self.agent = self.hearing = None
        self.boots, self.awake, self.begun, self.boot_s = [], threading.Event(), None, None
        self.folder.mkdir(exist_ok=True)

    # Beginning and end

    def boot(self):
        self.launch()
        self.wait_until_awake()
        return self

    def launch(self):
        self.begun = time.monotonic()
        words = qemu.command_line(self.memory, self.processors)
        self._make_initrd()
        for server in self.volatile.values():
            if not server.is_running():
                server.start()
        listeners = [qemu.Listener(self.folder / name) for name in ("agent", "qmp")]
        self.process = qemu.spawn([*self.within, *words, *self._boot_words(), *qemu.disk_words([*self.disks, self.root]),
                                   *qemu.net_words(self.nets, self.node, self.link_folder), *qemu.share_words(self.shares),
                                   *qemu.socket_words(*(listener.path for listener in listeners)), *self.words], self.folder / "qemu.err")
        connections = [listener.accept(self.process, BOOT_S) for listener in listeners]
        if None in connections:
            self.end()
            raise NoGuest(f"cannot run a guest: QEMU does not start: {qemu.end_of(self.folder / 'qemu.err')}")
        self.agent, self.qmp = connections[0], qemu.Qmp(connections[1])
        self.hearing = threading.Thread(target=self._hear, args=(self.agent,), daemon=True)
        self.hearing.start()

    def _boot_words(self):
        console = self.folder / "console"
        serial = "stdio" if self.console_to_stdout else f"file,id=console,append=on,path={console}"
        return ["-kernel", self.files.vmlinuz, "-initrd", self.folder / "initrd", "-append",
                qemu.KERNEL_COMMAND_LINE + ("" if self.console_to_stdout else " quiet"),
                *(["-serial", serial] if self.console_to_stdout else ["-chardev", serial, "-serial", "chardev:console"])]

    def _make_initrd(self):
        """The image's initramfs and a second archive behind it: /job, which guest/initramfs-init makes /vmrun."""
        job = self.folder / "initrd.d/job"
        (job / "bin").mkdir(parents=True, exist_ok=True)
        copies = [(HERE / "guest/init", job / "init"), *((path, job / "bin" / pathlib.Path(path).name) for path in self.copy),
                  *((path, job / "bin" / path.name) for path in (HERE / "guest").iterdir() if "init" not in path.name)]
        for path, copy in copies:
            shutil.copy(path, copy)
            copy.chmod(0o755)
        variables = [*self.env, f"VMRUN_NODE={self.node}"]
        nets = " ".join(net.split(",")[0] for net in self.nets)
        (job / "job").write_text("".join(f"export {shlex.quote(variable)}\n" for variable in variables)
                                 + f"NETS={shlex.quote(nets)}\nSHARES={shlex.quote(' '.join(self.shares))}\n")
        guest_image.pack_cpio(job.parent, self.folder / "job.cpio", self.files.busybox)
        (self.folder / "initrd").write_bytes(self.files.initramfs.read_bytes() + (self.folder / "job.cpio").read_bytes())

    def wait_until_awake(self):
        end = time.monotonic() + BOOT_S
        while not self.awake.wait(0.2):
            self.must_run("it had booted")
            assert time.monotonic() < end, f"the guest did not boot within {BOOT_S} s; its console:\n{self.console()}"
        self.boot_s = time.monotonic() - self.begun
        # What a boot says is no test's.
        self.run("dmesg -C")

    def become(self, other):
        """Its memory is in other by now, a QEMU that was launched for it; so are the commands that run."""
        other.commands, other.numbers = self.commands, self.numbers
        for command in self.commands.values():
            command.guest = other

    def end(self):
        """At once. It may be booted again."""
        self._end_qemu()
        for server in self.volatile.values():
            server.stop()

    def _end_qemu(self):
        if self.process:
            self.process.kill()
            self.process.wait()
        if self.hearing:
            self.hearing.join()
            self.agent.close()
            self.qmp.close()
        self.awake.clear()
        self.process = self.hearing = None

    def shut_down(self, timeout_s=30):
        """When its last words are said."""
        self.say(stop=True)
        with contextlib.suppress(Exception):
            self.process.wait(timeout_s)
        self.end()

    def is_running(self):
        return self.process is not None and self.process.poll() is None and self.hearing is not None and self.hearing.is_alive()

    def must_run(self, what):
        if not self.is_running():
            raise Gone(f"the guest died before {what}; its console:\n{self.console()}\n{qemu.end_of(self.folder / 'qemu.err')}")

    # Talk

    def _hear(self, connection):
        """A thread of its own: what the agent says goes to whom it is for."""
        with contextlib.suppress(ConnectionResetError), connection.makefile("rb") as lines:
            for line in lines:
                try:
                    message = json.loads(line)
                except ValueError:
                    continue  # cut off by a reset
                if "hello" in message:
                    self.boots.append(message["hello"])
                    self.awake.set()
                elif command := self.commands.get(message["id"]):
                    command.take(message)

    def say(self, **message):
        with contextlib.suppress(BrokenPipeError):  # who waits will notice
            self.agent.sendall(json.dumps(message).encode() + b"\n")

    def start(self, words, data=b""):
        """A program and its words; a text is the shell's. Its output may be had while it runs."""
        self.must_run("a command could be run")
        if isinstance(words, str):
            words = ["bash", "-e", "-o", "pipefail", "-c", words]
        command = Command(self, next(self.numbers), [str(word) for word in words])
        self.commands[command.number] = command
        self.say(id=command.number, run=command.words, input=base64.b64encode(data).decode())
        return command

    def run(self, words, code=0, timeout_s=PATIENCE_S, data=b""):
        command = self.start(words, data)
        try:
            return command.wait(code, timeout_s)
        finally:
            if command.is_running():
                command.kill()
            self.commands.pop(command.number, None)

    def put(self, what, path, mode="644"):
        """what: bytes, a text, or a path here."""
        data = what.read_bytes() if isinstance(what, pathlib.Path) else what.encode() if isinstance(what, str) else what
        self.run(f"cat >{shlex.quote(str(path))}; chmod {mode} {shlex.quote(str(path))}", data=data)

    def get(self, path):
        return bytes(self.run(["cat", path]).output)

    def is_also(self, name):
        """By ssh it is another machine of this name. Until `pkill sshd`."""
        self.run(f"""grep -qw {name} /etc/hosts || echo 127.0.0.1 {name} >>/etc/hosts
            pgrep -x sshd || start-sshd; [ -e /root/.ssh/id_ed25519 ] || ssh-keygen -q -t ed25519 -N '' -f /root/.ssh/id_ed25519
            cp /root/.ssh/id_ed25519.pub /root/.ssh/authorized_keys; printf 'StrictHostKeyChecking accept-new\\nLogLevel ERROR\\n' >/root/.ssh/config""")

    def console(self):
        return qemu.end_of(self.folder / "console", 4000)

    def kernel_says(self):
        """What the kernel has said since this was asked, or the guest booted."""
        return self.run("dmesg -c").out

    # Disks

    def add_disk(self, disk, serial=None):
        """While it runs. Returns its path in the guest."""
        if not isinstance(disk, qemu.Disk):
            serial = serial or f"disk{next(self.numbers)}"
            disk = qemu.file_disk(qemu.new_file(self.folder / serial, qemu.size_of(disk)), serial)
        self.qmp("blockdev-add", **disk.backend())
        self.qmp("device_add", **disk.device())
        self.disks.append(disk)
        return self.path_of(disk.serial)

    def add_volatile_disk(self, size, serial):
        """One whose cache is lost with the power."""
        server = qemu.VolatileServer(qemu.new_file(self.folder / serial, qemu.size_of(size)), self.folder / f"{serial}.sock")
        server.start()
        self.volatile[serial] = server
        return self.add_disk(qemu.nbd_disk(serial, path=server.socket_path))

    def slow_writes(self, serial, bytes_a_second):
        """Until the next boot."""
        limits = {"bps": 0, "bps_rd": 0, "bps_wr": bytes_a_second, "iops": 0, "iops_rd": 0, "iops_wr": 0}
        self.qmp("block_set_io_throttle", id=f"/machine/peripheral/dev-{serial}/virtio-backend", **limits)

    def path_of(self, serial):
        """There is no udevd: this makes the link /dev/by-serial/SERIAL, as the boot does. The path is the disk's own, /dev/vdX."""
        found = self.run(f"""for i in $(seq 600); do
            found=$(grep -lx {serial} /sys/block/vd*/serial) && break; sleep 0.1; done
            disk=/dev/$(basename $(dirname $found)); ln -sf $disk /dev/by-serial/{serial}; echo $disk""")
        return found.out.strip()

    def remove_disks(self, *serials):
        """All, or those named. They must not be in use in the guest."""
        removed = [disk for disk in self.disks if not serials or disk.serial in serials]
        for disk in removed:
            self.qmp("device_del", id=f"dev-{disk.serial}")
        for disk in removed:
            self.qmp.wait_for("DEVICE_DELETED", device=f"dev-{disk.serial}")
            self.qmp("blockdev-del", node_name=disk.serial)
            self.disks.remove(disk)
            if disk.serial in self.volatile:
                self.volatile.pop(disk.serial).stop()

    # Trouble

    def _forget_commands(self):
        self.awake.clear()
        for command in self.commands.values():
            if command.code is None:
                command.take({"exit": -signal.SIGKILL})
        self.commands.clear()

    def reset(self):
        """The reset button: memory and what was mounted are lost, disks keep all that they were given. Boots anew."""
        # In a new QEMU: one whose guest has run many programs takes an hour for the first steps of a kernel, since each write to memory that has
        # held code walks through all that was ever translated there.
        self._end_qemu()
        self._forget_commands()
        self.boot()

    def power_cut(self):
        """The plug, and then a boot: as reset(), and volatile disks lose what was not flushed."""
        self.end()
        self._forget_commands()
        self.boot()


class Pair:
    """Two guests with a link between them, eth0: 10.77.0.1 (node1) and 10.77.0.2 (node2). A reset of one leaves the other running."""

    def __init__(self, files, folder, **options):
        shared = pathlib.Path(folder)
        nets, shares = ["link", *options.pop("nets", [])], options.pop("shares", {})
        (shared / "shared").mkdir()
        self.guests = [Guest(files, shared / str(node), node=node, link_folder=shared, nets=nets,
                             shares={"vmrun-shared": shared / "shared", **shares}, **options) for node in (1, 2)]

    def boot(self):
        """Both at once; returns them."""
        for guest in self.guests:
            guest.launch()
        for guest in self.guests:
            guest.wait_until_awake()
        return self.guests

    def end(self):
        for guest in self.guests:
            guest.end()
