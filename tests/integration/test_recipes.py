# SPDX-License-Identifier: GPL-2.0-or-later
"""docs/recipes/live-move.md, as it is typed, over files: each block of commands in the page's order, in one shell a section, around a VM that writes and
checks what it reads all the time. And the rounds of an image, of changed-blocks.md.

There is no libvirt: `virsh` and `scp` are ours, and the VM attaches to whatever the description says that was defined. Paths, the address and the
user's name are put in; the rest is as it stands there. What the page has indented is not typed.
"""
import getpass
import json
import os
import pathlib
import re
import signal
import socketserver
import subprocess
import threading
import time
import xml.etree.ElementTree as xml

import nbd
import pytest

from keys import need
from nbd_client import Client
from program import wait_until
from servers import free_port

RECIPES = pathlib.Path(__file__).resolve().parents[2] / "docs/recipes"
PAGE = RECIPES / "live-move.md"
SIZE = (6 << 20) + 512 * 13
VIRSH = """#!/usr/bin/python3 -S
import json, os, socket, sys
link = socket.socket(socket.AF_UNIX)
link.connect(os.environ["TEST_VIRSH"])
file = link.makefile("rw")
print(json.dumps([*sys.argv[1:], os.getcwd()]), file=file, flush=True)
sys.stdout.write(json.loads(file.readline()))
"""
BLKMOVE = """#!/bin/bash
[ "$1" != mirror ] || [ "$2" = --resume ] || set -- mirror %s "${@:2}"
exec %s "$@"
"""
DOMAIN = """<domain type='kvm'>
  <name>vm1</name>
  <uuid>5a1b7f6e-8f2a-4a83-9a0b-5d3f5e6f7a81</uuid>
  <devices>
    <disk type='block' device='disk'>
      <driver name='qemu' type='raw'/>
      <source dev='%s'/>
      <target dev='vda' bus='virtio'/>
    </disk>
    <interface type='bridge'>
      <mac address='52:54:00:12:34:56'/>
      <source bridge='br0'/>
    </interface>
  </devices>
</domain>
"""


class Guest(Client):
    """A client by certificates as well."""
    certificates = None

    def _connect(self):
        if not self.certificates:
            return super()._connect()
        handle = nbd.NBD()
        handle.set_tls(nbd.TLS_REQUIRE)
        handle.set_tls_certificates(str(self.certificates))
        handle.set_export_name("vm1")
        handle.connect_tcp(*self.uri)
        return handle


class Libvirt:
    """Two descriptions at most, vm1's and a trial's, and what runs by them."""

    def __init__(self, folder, random):
        self.folder, self.random = folder, random
        self.defined, self.running, self.last = None, {}, None
        self.history = []  # where vm1 was started
        outer = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self):
                *words, cwd = json.loads(self.rfile.readline())
                self.wfile.write(json.dumps(outer.do(pathlib.Path(cwd), *words)).encode() + b"\n")

        self.server = socketserver.ThreadingUnixStreamServer(str(folder / "virsh"), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def do(self, cwd, verb, *words):
        if verb == "dumpxml":
            return self.defined
        if verb == "domstate":
            return "running\n" if words[0] in self.running else "shut off\n"
        if verb == "define":
            self.defined = (cwd / words[0]).read_text(encoding="utf-8")
        elif verb == "create":
            self.start((cwd / words[0]).read_text(encoding="utf-8"))
        elif verb == "start":
            self.start(self.defined)
        else:
            assert verb in ("shutdown", "destroy"), verb
            self.running.pop(words[0]).over.set()
        return ""

    def start(self, text):
        domain = xml.fromstring(text)
        name, source = domain.findtext("name"), domain.find("devices/disk/source")
        assert name not in self.running and (name == "vm1" or domain.find("uuid") is None and domain.find("devices/interface/link") is not None)
        path = source.get("dev")
        client = Guest(None, SIZE, self.random)
        if path:
            client.run = lambda: None  # its client has no way to it but NBD
        else:
            host = source.find("host")
            client.certificates = self.folder / "pki" if source.get("tls") == "yes" else None
            client.uri = (host.get("name"), host.get("port")) if client.certificates else f"nbd+unix:///{source.get('name')}?socket={host.get('socket')}"
        if name == "vm1":
            if self.last:
                self.last.join(30)
                client.acked, client.tried, client.version = self.last.acked, self.last.tried, self.last.version
            self.last = client
            self.history.append(path or "mirror")
        else:
            self.trial = client
        self.running[name] = client
        client.start()

    def works(self, client=None):
        """It writes, now."""
        client = client or self.last
        writes = client.writes
        wait_until(lambda: client.writes > writes + 20 or client.failure, "writes")
        assert client.failure is None, client.failure

    def holds(self, path):
        """What vm1 knows is there; it has been stopped."""
        self.last.stop()
        self.last.check_volume(path)

    def close(self):
        for client in self.running.values():
            client.over.set()
        self.server.shutdown()
        self.server.server_close()


class Shell:
    """A bash that stays, and ends when a command fails."""

    def __init__(self, folder, env):
        self.log, self.number = folder / "shell.log", 0
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(["bash", "-e"], stdin=subprocess.PIPE, stdout=log, stderr=log, text=True, env=env, cwd=folder,
                                            start_new_session=True)

    def said(self):
        return self.log.read_text(errors="replace")

    def type(self, text):
        """Returns what it said."""
        self.number += 1
        begin = len(self.said())
        self.process.stdin.write(f"{text}\necho 'typed: {self.number}'\n")
        self.process.stdin.flush()

        def is_through():
            assert self.process.poll() is None, f"{text}\nfailed:\n{self.said()}"
            return f"typed: {self.number}\n" in self.said()
        wait_until(is_through, text, timeout_s=90)
        return self.said()[begin:]

    def close(self):
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class Recipe:
    def __init__(self, folder, program, random, ssh=()):
        self.folder, self.program, port = folder, program, str(free_port())
        self.old, self.new = folder / "old", folder / "new"
        self.names = {"/dev/old/vm1": self.old, "/dev/new/vm1": self.new, "/dev/vg0/vm1": self.old, "/dev/vg1/vm1": self.new, "/run/vm1": folder / "vm1",
                      "/etc/pki/blkmove": folder / "pki", "192.0.2.1": "127.0.0.1", "10809": port, "libvirt-qemu": getpass.getuser()}
        for path in self.old, self.new:
            path.write_bytes(random.randbytes(SIZE))
        bin_folder = folder / "bin"
        bin_folder.mkdir()
        for name, text in (("virsh", VIRSH), ("scp", "#!/bin/sh\n"), ("blkmove", BLKMOVE % (" ".join(ssh), program.path))):
            (bin_folder / name).write_text(text)
            (bin_folder / name).chmod(0o755)
        self.vm = Libvirt(folder, random)
        self.vm.defined = DOMAIN % self.old
        self.vm.running["vm1"] = self.vm.last = Guest(None, SIZE, random)
        self.vm.last.run = lambda: None
        self.vm.last.start()
        self.shell = Shell(folder, dict(program.env, PATH=f"{bin_folder}:{os.environ['PATH']}:/usr/sbin", TEST_VIRSH=str(folder / "virsh")))

    def _parts(self, section, heading, kind):
        part = PAGE.read_text(encoding="utf-8").split(f"\n## {section}\n")[1].split("\n## ")[0]
        found = re.findall(rf"^```{kind}\n(.*?)^```", part.split(f"\n### {heading}\n")[1].split("\n### ")[0], re.M | re.S)
        for name, ours in self.names.items():
            found = [text.replace(name, str(ours)) for text in found]
        assert found, f"{heading} has nothing to type"
        return found

    def type(self, section, heading, number=None):
        """All blocks below a heading, or the one of a number. Returns what they said."""
        found = self._parts(section, heading, "")
        return "".join(self.shell.type(text) for text in (found if number is None else [found[number]]))

    def prepare(self, section):
        """With the hand's work in vm1.mirror.xml: it has the disk that the page shows."""
        self.type(section, "While it runs as ever")
        cwd = pathlib.Path(os.readlink(f"/proc/{self.shell.process.pid}/cwd"))
        disk = self._parts(section, "While it runs as ever", "xml")[0]
        path = cwd / "vm1.mirror.xml"
        path.write_text(re.sub(r"<disk.*</disk>", lambda _: disk, path.read_text(encoding="utf-8"), flags=re.S), encoding="utf-8")

    def status(self):
        done = self.program("status", "vm1", "--json", code=None)
        return json.loads(done.out) if done.code == 0 else None

    def close(self):
        self.vm.close()
        self.shell.close()
        while now := self.status():
            os.kill(now["pid"], signal.SIGTERM)
            time.sleep(0.05)


@pytest.fixture
def recipe(folder, program, random):
    recipe = Recipe(folder, program, random)
    yield recipe
    recipe.close()


ARRAY, HOST, TRIAL = "To another array", "To another host", "Does it boot?"


def test_to_another_array(recipe):
    recipe.prepare(ARRAY)
    recipe.type(ARRAY, "The first stop")
    recipe.vm.works()
    recipe.type(ARRAY, "While it is copied")
    assert "cut over to" in recipe.type(ARRAY, "The cutover", 0)
    recipe.vm.works()
    assert "is the volume" in recipe.type(ARRAY, "The cutover", 1)
    recipe.vm.works()
    recipe.type(ARRAY, "The second stop")
    assert recipe.vm.history == ["mirror", str(recipe.new)] and not recipe.status()
    recipe.vm.holds(recipe.new)
    with pytest.raises(AssertionError):
        recipe.vm.last.check_volume(recipe.old)
    recipe.type(ARRAY, "The old disk")


def test_back_from_another_array(recipe):
    recipe.prepare(ARRAY)
    recipe.type(ARRAY, "The first stop")
    recipe.type(ARRAY, "While it is copied")
    recipe.type(ARRAY, "The cutover", 0)
    recipe.vm.works()
    os.kill(recipe.status()["pid"], signal.SIGKILL)
    recipe.type(ARRAY, "When something dies")
    recipe.vm.works()
    assert recipe.status()["authoritative"] == "target"
    assert "back on" in recipe.shell.type("blkmove revert vm1")
    recipe.vm.works()
    recipe.shell.type("blkmove abort vm1")
    recipe.vm.works()
    recipe.type(ARRAY, "The way back")
    assert recipe.vm.history == ["mirror", str(recipe.old)] and not recipe.status()
    recipe.vm.holds(recipe.old)


def test_after_finish_the_process_died(recipe):
    """The command that stands in the table."""
    recipe.prepare(ARRAY)
    recipe.type(ARRAY, "The first stop")
    recipe.type(ARRAY, "The cutover")
    os.kill(recipe.status()["pid"], signal.SIGKILL)
    line = next(line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| *finish* was given"))
    command = re.search(r"`(blkmove serve [^`]*&)`", line).group(1)
    for name, ours in recipe.names.items():
        command = command.replace(name, str(ours))
    recipe.shell.type(command)
    recipe.vm.works()
    recipe.type(ARRAY, "The second stop")
    recipe.shell.type("kill %1; wait %1")
    recipe.vm.holds(recipe.new)


def test_to_another_host(folder, program, random, ssh):
    need("certtool")
    need("qemu-img")
    recipe = Recipe(folder, program, random, ssh)
    try:
        recipe.type(HOST, "Certificates")
        recipe.prepare(HOST)
        recipe.type(HOST, "The first stop")
        recipe.vm.works()
        assert recipe.vm.last.certificates and recipe.status()["target"] == f"root@host2:{recipe.new}"
        host, port = recipe.vm.last.uri
        subprocess.run(["qemu-img", "info", "--object", f"tls-creds-x509,id=t,dir={folder}/pki,endpoint=client,verify-peer=yes", "--image-opts",
                        f"driver=nbd,host={host},port={port},export=vm1,tls-creds=t"], check=True)
        assert "cut over to" in recipe.type(HOST, "The cutover", 0)
        recipe.vm.works()
        recipe.type(HOST, "The cutover", 1)
        recipe.type(HOST, "The second stop")
        assert recipe.vm.history == ["mirror", str(recipe.new)] and not recipe.status()
        recipe.vm.holds(recipe.new)
    finally:
        recipe.close()


def test_does_it_boot(recipe):
    recipe.prepare(ARRAY)
    recipe.type(ARRAY, "The first stop")
    recipe.type(ARRAY, "While it is copied")
    recipe.vm.works()
    recipe.type(TRIAL, "The trial", 0)
    assert recipe.status()["let_go"]
    before = recipe.new.read_bytes()
    recipe.type(TRIAL, "The trial", 1)
    recipe.vm.works(recipe.vm.trial)
    recipe.vm.works()
    assert recipe.new.read_bytes() == before
    recipe.type(TRIAL, "And on")
    recipe.vm.trial.stop()
    wait_until(lambda: recipe.status()["state"] == "ready", "ready")
    assert recipe.new.read_bytes() != before
    recipe.type(ARRAY, "The cutover")
    recipe.vm.works()
    recipe.type(ARRAY, "The second stop")
    recipe.vm.holds(recipe.new)


def test_rounds_of_an_image(folder, program, random):
    for tool in "qemu-img", "qemu-nbd", "qemu-io":
        need(tool)
    image, target = folder / "vm.qcow2", folder / "copy"
    page = (RECIPES / "changed-blocks.md").read_text(encoding="utf-8").split("\n## A virtual machine's image\n")[1].split("\n## ")[0]
    first, later = (text.replace("/dev/vg1/vm", str(target)) for text in re.findall(r"^```\n(.*?)^```", page, re.M | re.S))
    target.write_bytes(random.randbytes(SIZE))

    def run(*words):
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL)

    def is_equal():
        run("qemu-img", "convert", "-O", "raw", image, folder / "raw")
        return (folder / "raw").read_bytes() == target.read_bytes()
    run("qemu-img", "create", "-q", "-f", "qcow2", image, str(SIZE))
    run("qemu-io", "-f", "qcow2", "-c", "write -P 7 0 3M", image)
    (folder / "bin").mkdir()
    (folder / "bin/blkmove").symlink_to(program.path)
    shell = Shell(folder, dict(program.env, PATH=f"{folder / 'bin'}:{os.environ['PATH']}"))
    try:
        shell.type(first)
        assert is_equal()
        for pattern in "9", "3":
            run("qemu-io", "-f", "qcow2", "-c", f"write -P {pattern} 1000448 70144", "-c", f"write -P {pattern} 5M 512", image)
            assert "nothing else is read" in shell.type(later)
            assert is_equal()
    finally:
        shell.close()
