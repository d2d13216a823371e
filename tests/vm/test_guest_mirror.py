# SPDX-License-Identifier: GPL-2.0-or-later
"""A file system of a real kernel on a mirror's export, by every client that a kernel has, plain and with TLS; and a guest's root.

In the guest guest/workload.py writes and checks files all the while; it must not notice what becomes of its volume.
"""
import hashlib
import shutil
import subprocess
import time

import pytest

import qemu
import vm
from keys import make_certificates, make_psk
from live_mirror import Mirror
from program import executable, wait_until
from servers import free_port

MIB = 1 << 20
SIZE, SMALL = 256 * MIB + 512 * 77, 40 * MIB + 512 * 77
PATIENCE_S = vm.PATIENCE_S


def fill(path, random, size):
    with open(path, "ab") as file:
        for begin in range(file.tell(), size, 16 * MIB):
            file.write(random.randbytes(min(16 * MIB, size - begin)))


def digest_of(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


class Client:
    """begin: of the file system that the guest works on, in bytes of the volume. words, uri: what the mirror is started with."""
    begin, words, uri = 0, [], None

    def prepare(self, source):
        """What is there before all is filled."""

    def check(self):
        """More than the guest's work does."""

    def said(self):
        return ""


class ByQemu(Client):
    """The guest's disk is QEMU's nbd client."""

    def __init__(self, guest, folder, link):
        self.guest = guest
        self.node = {}
        if link == "unix":
            return
        self.port = free_port()
        self.uri = f"nbds://localhost:{self.port}"
        name = f"tls{self.port}"
        self.node = {"tls-creds": name}
        if link == "psk":
            keys = make_psk(folder / "keys.psk", "qemu")
            self.words = ["--tls-psk", keys]
            guest.qmp("object-add", qom_type="tls-creds-psk", id=name, endpoint="client", dir=str(folder), username="qemu")
        else:
            pki = make_certificates(folder)
            self.words = ["--tls-certificates", pki, "--tls-verify-peer"]
            self.node["tls-hostname"] = "localhost"
            guest.qmp("object-add", qom_type="tls-creds-x509", id=name, endpoint="client", dir=str(pki), verify_peer=True)

    def attach(self, mirror):
        where = {"port": self.port} if self.uri else {"path": mirror.socket}
        return self.guest.add_disk(qemu.nbd_disk("moved", **where, **self.node))

    def detach(self):
        self.guest.remove_disks("moved")


class ByRoot(Client):
    """The guest boots from it: its programs, and behind them the file system that it works on, lie on the disk that is moved."""

    PROGRAMS = "/usr/bin/python3 /usr/bin/bash /usr/sbin/lvm /usr/bin/qemu-img"

    def __init__(self, image, folder):
        self.image, self.begin = image, image.root.stat().st_size
        self.guest = vm.Guest(image, folder / "guest", copy=[executable()])

    def prepare(self, source):
        shutil.copy(self.image.root, source)

    def boot(self, disk):
        self.guest.root = disk
        self.guest.boot()
        assert self.guest.run("cat /sys/block/vd*/serial").out.split() == [vm.ROOT]

    def attach(self, mirror):
        self.boot(qemu.nbd_disk(vm.ROOT, path=mirror.socket))
        self.guest.run(f"md5sum {self.PROGRAMS} >/run/programs; cat /run/programs")
        return self.guest.run(f"modprobe loop; losetup -f --show -o {self.begin} /dev/by-serial/{vm.ROOT}").out.strip()

    def check(self):
        self.guest.run("echo 3 >/proc/sys/vm/drop_caches; md5sum -c --quiet /run/programs")

    def detach(self):
        self.guest.run("losetup -D")
        self.guest.shut_down()


class ByKernel(Client):
    """The guest's own kernel is the client: nbd-client attaches it, guest/nbd-keep gives it new connections for those that die."""

    HOST = "10.0.2.2"

    def __init__(self, guest, folder, link):
        self.guest, self.port, self.keeper = guest, free_port(), None
        self.uri, self.words, self.tls, self.pki = f"nbd://127.0.0.1:{self.port}", [], [], []
        if link == "x509":
            pki = make_certificates(folder)
            self.uri, self.words = f"nbds://localhost:{self.port}", ["--tls-certificates", pki, "--tls-verify-peer"]
            self.pki = ["/run/pki"]
            self.tls = ["-cacertfile", "/run/pki/ca-cert.pem", "-certfile", "/run/pki/client-cert.pem", "-keyfile", "/run/pki/client-key.pem",
                        "-tlshostname", "localhost"]
            guest.run("rm -rf /run/pki; mkdir /run/pki")
            for name in ("ca-cert.pem", "client-cert.pem", "client-key.pem"):
                guest.put(pki / name, f"/run/pki/{name}")

    def attach(self, mirror):
        self.guest.run("modprobe nbd nbds_max=2")
        if self.tls:
            # Without a certificate there is nothing to see.
            self.guest.run(["nbd-client", self.HOST, self.port, "/dev/nbd1", "-b", "512", *self.tls[:2], *self.tls[-2:]], code=1)
            self.guest.run("[ $(cat /sys/block/nbd1/size) = 0 ]")
        self.guest.run(["nbd-client", self.HOST, self.port, "/dev/nbd0", "-b", "512", "-C", "2", *self.tls])
        self.guest.run(f"[ $(blockdev --getsize64 /dev/nbd0) = {mirror.source.stat().st_size} ]; grep -q . /sys/block/nbd0/pid")
        self.keeper = self.guest.start(["nbd-keep", "0", self.HOST, self.port, *self.pki])
        self.keeper.wait_for("keeps")
        return "/dev/nbd0"

    def said(self):
        return self.keeper.out if self.keeper else ""

    def detach(self):
        assert self.keeper.is_running(), self.keeper.out
        self.guest.run("""nbd-client -d /dev/nbd0
            for i in $(seq 300); do [ ! -e /sys/block/nbd0/pid ] && break; sleep 0.1; done""")
        self.keeper.kill()
        self.keeper.wait(code=None)
        self.guest.run("rmmod nbd")


CLIENTS = {"qemu-unix": (ByQemu, "unix"), "qemu-psk": (ByQemu, "psk"), "qemu-x509": (ByQemu, "x509"), "kernel-tcp": (ByKernel, "tcp"),
           "kernel-x509": (ByKernel, "x509")}


class Move:
    """A mirror, its client in the guest, and work on it."""

    def __init__(self, program, folder, random, client, size):
        self.folder, self.guest, self.client = folder, client.guest, client
        client.prepare(folder / "source")
        for name in ("source", "target"):
            fill(folder / name, random, client.begin + size)
        self.mirror = Mirror(program, folder, folder / "source", folder / "target", *self.client.words, uri=self.client.uri)
        self.seed = random.randrange(1 << 32)
        self.device = self.work = None

    def begin(self):
        """The copy is held until the guest works."""
        self.mirror.start("--max-rate=4M")
        self.mirror.program("pause", "m")
        self.device = self.client.attach(self.mirror)
        self.work = self.guest.start(["workload.py", self.device, "/run/work", self.seed])
        self.work.wait_for("READY")
        self.mirror.program("resume", "m")
        return self

    def go_on(self, ticks=3):
        """Until some more ticks came: five rounds of writing and checking lie between two, all begun and ended since."""
        self.work.wait_for("tick", self.work.out.count("tick") + ticks, PATIENCE_S)
        self.client.check()

    def kill_and_resume(self):
        """The guest's requests wait for it meanwhile. Returns the state in which it began again."""
        self.mirror.kill()
        time.sleep(1)
        assert "comparing" not in self.mirror.resume().err
        state = self.mirror.status()["state"]
        self.go_on()
        return state

    def until_both_hold_the_same(self):
        wait_until(lambda: (now := self.mirror.status())["attached"] and now["revertible"], "that it can revert", PATIENCE_S)

    def end(self):
        """The guest checks all once more, lets go, and must have found nothing wrong. Returns {name: md5} of its files."""
        self.guest.run(["touch", "/run/work/stop"])
        self.work.wait()
        print(self.work.out)
        says = self.guest.kernel_says()
        assert f"EXT4-fs ({self.device[5:]}): mounted" in says and not vm.ALARMS.search(says), says
        rows = (row.split() for row in self.guest.get("/run/work/sums").decode().splitlines())
        self.guest.run("rm -r /run/work")
        self.client.detach()
        return {name: digest for digest, name in rows}

    def files_of(self, image):
        """{name: md5} of the files of an ext4, read by another program than the kernel that wrote them."""
        files, image = self.folder / "files", f"{image}?offset={self.client.begin}"
        subprocess.run(["/sbin/e2fsck", "-fn", image], check=True)
        files.mkdir()
        subprocess.run(["/sbin/debugfs", "-R", f"rdump / {files}", image], check=True)
        return {path.name: digest_of(path) for path in files.iterdir() if path.is_file()}


@pytest.fixture
def move(program, folder, random, guest):
    moves = []

    def begin(client, size):
        kind, link = CLIENTS[client]
        moves.append(Move(program, folder, random, kind(guest, folder, link), size))
        return moves[0].begin()

    yield begin
    for begun in moves:
        print(begun.client.said())
        begun.mirror.end()


def finish(move):
    """The source is let go, nothing writes to it any more, and the target holds what the guest wrote."""
    mirror = move.mirror
    move.until_both_hold_the_same()
    mirror.program("finish", "m")
    let_go = digest_of(mirror.source)
    move.go_on()
    pid = mirror.status()["pid"]
    sums = move.end()
    mirror.wait_for_gone(pid)
    assert digest_of(mirror.source) == let_go
    assert len(sums) > 10 and move.files_of(mirror.target) == sums


@pytest.mark.short
@pytest.mark.parametrize("client", ["kernel-x509"])
def test_one_switch_and_one_kill(move, client):
    """Killed after the switch."""
    begun = move(client, SMALL)
    begun.go_on(1)
    begun.mirror.program("throttle", "m", "--max-rate=none")
    begun.mirror.wait_for("ready", timeout_s=PATIENCE_S)
    begun.mirror.program("cutover", "m")
    begun.go_on(1)
    begun.kill_and_resume()
    assert begun.mirror.status()["authoritative"] == "target"
    finish(begun)


def all_of_it(begun, random):
    """Killed while it syncs, after the switch, when it is ready again, and at any moment of the second cutover."""
    mirror = begun.mirror
    begun.go_on()
    assert begun.kill_and_resume() == "syncing"
    mirror.program("throttle", "m", "--max-rate=none")
    mirror.wait_for("ready", timeout_s=PATIENCE_S)
    begun.go_on()

    mirror.program("cutover", "m")
    assert mirror.status()["authoritative"] == "target"
    begun.go_on()
    begun.kill_and_resume()
    begun.until_both_hold_the_same()
    mirror.program("revert", "m")
    assert mirror.status()["authoritative"] == "source"
    begun.go_on()
    begun.kill_and_resume()
    mirror.wait_for("ready", timeout_s=PATIENCE_S)

    mirror.program("cutover", "m", "--no-wait")
    time.sleep(random.random() * 0.2)
    begun.kill_and_resume()
    if mirror.status()["authoritative"] == "source":
        mirror.wait_for("ready", timeout_s=PATIENCE_S)
        mirror.program("cutover", "m")
    finish(begun)


@pytest.mark.parametrize("client", CLIENTS)
def test_a_guest_works_on_while_its_disk_is_moved(move, random, client):
    all_of_it(move(client, SIZE), random)


def test_a_guest_boots_from_what_is_moved(program, folder, random, image):
    """And again from the target alone, when it has been moved."""
    begun = Move(program, folder, random, ByRoot(image, folder), SMALL)
    try:
        all_of_it(begun.begin(), random)
        begun.client.boot(qemu.file_disk(begun.mirror.target, vm.ROOT))
        begun.guest.run(f"md5sum {begun.client.PROGRAMS}")
    finally:
        begun.mirror.end()
        begun.guest.end()
