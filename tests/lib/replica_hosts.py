# SPDX-License-Identifier: GPL-2.0-or-later
"""Two machines of replicas on this one, alpha and beta, each with folders and processes of its own, and an address or (net.py) a namespace."""
import contextlib
import itertools
import json
import os
import signal
import socket

import nbd

from program import OK, PATIENCE_S, wait_until

# Below the ports that the kernel gives to others.
_ports = itertools.count(7789)


def addresses():
    """Two that nobody else has who runs tests at the same time."""
    number = os.getpid() & 0xffff
    return [f"127.{number >> 8}.{number & 0xff}.{host}" for host in (1, 2)]


class Node:
    """A machine's side of all resources."""

    def __init__(self, pair, host, index):
        self.pair, self.host, self.index = pair, host, index
        self.address = (pair.net.addresses if pair.net else addresses())[index]
        self.prefix = pair.net.inside(index, []) if pair.net else []
        self.folder = pair.folder / host
        self.folder.mkdir()
        self.env = {"BLKMOVE_STATE_DIR": str(self.folder / "state"), "BLKMOVE_RUN_DIR": str(self.folder / "run"),
                    "BLKMOVE_REPLICA_DIR": str(pair.files)}
        self.running = None

    def __call__(self, verb, *words, **how):
        own = [f"--host={self.host}"] if verb in ("create", "up", "show", "status") else []
        return self.pair.program("replicate", verb, *own, *words, env=self.env, prefix=self.prefix, **how)

    def volume(self, name="vm1"):
        return self.pair.volumes[self.host, name]

    def socket(self, name="vm1"):
        return self.folder / f"{name}.sock"

    def uri(self, name="vm1"):
        return f"nbd+unix:///{name}?socket={self.socket(name)}"

    def up(self, *words, names=("vm1",)):
        """In the foreground, so that a test has its words."""
        self.running = self.pair.program.start("replicate", "up", "--foreground", f"--host={self.host}", *words, *names, env=self.env,
                                               prefix=self.prefix)
        wait_until(lambda: not self.running.is_running() or all(self.state(name) not in ("down", "starting") for name in names), "up")
        return self

    def ask(self, request, name="vm1", timeout_s=60):
        """By the control socket, in less time than a process takes to start."""
        with socket.socket(socket.AF_UNIX) as control:
            control.settimeout(timeout_s)
            control.connect(str(self.folder / f"run/replica-{name}.sock"))
            control.sendall(json.dumps(request).encode() + b"\n")
            return json.loads(control.makefile().readline())

    def status(self, name="vm1"):
        return self.ask({"command": "status"}, name)

    def state(self, name="vm1"):
        try:
            return self.status(name)["state"]
        except (OSError, json.JSONDecodeError):  # it ended, perhaps with the question in its hands
            return "down"

    def wait(self, name="vm1", timeout_s=PATIENCE_S, **members):
        """Until the status has these."""
        last = {}

        def reached():
            last.clear()
            last.update(self.status(name))
            return all(last.get(key) == value for key, value in members.items()) and dict(last)
        try:
            return wait_until(reached, f"{members}", timeout_s)
        except AssertionError as error:
            raise AssertionError(f"{error}\nlast: {last}\n{self.running and self.running.err()}") from None

    def open(self, name="vm1"):
        handle = nbd.NBD()
        handle.connect_uri(self.uri(name))
        return handle

    def write(self, data, offset, name="vm1"):
        handle = self.open(name)
        handle.pwrite(data, offset)
        handle.flush()
        handle.shutdown()

    def read(self, length, offset, name="vm1"):
        handle = self.open(name)
        data = bytes(handle.pread(length, offset))
        handle.shutdown()
        return data

    def kill(self, number=signal.SIGKILL):
        self.running.kill(number)
        self.running.process.wait()

    def end(self, code=OK):
        """In good order."""
        self.running.kill(signal.SIGTERM)
        return self.running.end(code)


class Pair:
    """`size` bytes for each of the resources; their volumes are files full of random bytes, or what `make` makes of such a file."""

    def __init__(self, program, folder, random, size, names=("vm1",), make=None, net=None, **keys):
        self.program, self.folder, self.size, self.names, self.net = program, folder, size, names, net
        self.files = folder / "replicas"
        self.files.mkdir()
        self.port = next(_ports)
        self.volumes = {}
        self.alpha, self.beta = Node(self, "alpha", 0), Node(self, "beta", 1)
        self.nodes = (self.alpha, self.beta)
        for name in names:
            for node in self.nodes:
                path = node.folder / f"{name}.img"
                with open(path, "wb") as volume:
                    for at in range(0, size, 1 << 20):
                        volume.write(random.randbytes(min(1 << 20, size - at)))
                self.volumes[node.host, name] = make(path) if make else path
            self.write_file(name, **keys)

    def write_file(self, name="vm1", **keys):
        text = f"[resource]\nname = {name}\n" + "".join(f"{key.replace('_', '-')} = {value}\n" for key, value in keys.items())
        for node in self.nodes:
            text += (f"[host {node.host}]\naddress = {node.address}:{self.port}\ndevice = {node.volume(name)}\n"
                     f"export = {node.uri(name)}\n")
        (self.files / f"{name}.ini").write_text(text)

    def create(self):
        for node in self.nodes:
            for name in self.names:
                node("create", name)

    def begin(self):
        """Created, up, alpha primary, and both hold the same."""
        self.create()
        for node in self.nodes:
            node.up(names=self.names)
        for name in self.names:
            self.alpha.wait(name, wanted=False)
            self.alpha("primary", "--force", name)
            self.connect(name)
            self.wait_equal(name)

    def connect(self, name="vm1"):
        for node in self.nodes:
            node("connect", name)

    def wait_equal(self, name="vm1", timeout_s=PATIENCE_S):
        for node in self.nodes:
            node.wait(name, timeout_s, flow="equal", good=True, peer_good=True)

    def content(self, node, name="vm1"):
        with open(node.volume(name), "rb") as volume:
            return volume.read()

    def assert_same(self, name="vm1"):
        assert self.content(self.alpha, name) == self.content(self.beta, name), "the volumes differ"

    def close(self):
        """Nothing is left running, in the background neither."""
        for node in self.nodes:
            if node.running and node.running.is_running():
                os.killpg(node.running.pid, signal.SIGKILL)
                node.running.process.wait()
            for name in self.names:
                with contextlib.suppress(OSError, ValueError):
                    os.kill(node.status(name)["pid"], signal.SIGKILL)
