# SPDX-License-Identifier: GPL-2.0-or-later
"""A mirror in the background, and orders to it."""
import json
import os
import signal
import socket

from program import OK, PATIENCE_S, wait_until


class Mirror:
    """With its socket in `folder`, or at a URI. A captive server as the target is a list of words."""

    def __init__(self, program, folder, source, target, *words, uri=None, name="m"):
        self.program, self.folder, self.source, self.target, self.name = program, folder, source, target, name
        self.socket = folder / "s"
        self.uri = uri or f"nbd+unix:///?socket={self.socket}"
        self.words = [*words, "--listen", self.uri, "--name", name, source, *(target if isinstance(target, list) else [target])]

    def start(self, *words, code=OK):
        return self.program("mirror", *words, *self.words, code=code)

    def resume(self, *words, code=OK):
        return self.program("mirror", "--resume", self.name, *words, code=code)

    def status(self):
        done = self.program("status", self.name, "--json", code=None)
        return json.loads(done.out) if done.code == OK else None

    def ask(self):
        """The status, in less time than a process takes to start."""
        with socket.socket(socket.AF_UNIX) as control:
            control.connect(str(self.program.folder / f"run/{self.name}.sock"))
            control.sendall(b'{"command": "status"}\n')
            return json.loads(control.makefile().readline())

    def wait_for(self, *states, timeout_s=PATIENCE_S):
        return wait_until(lambda: (now := self.status()) and now["state"] in states and now, f"one of {states}", timeout_s)

    def wait_for_gone(self, pid):
        wait_until(lambda: not os.path.exists(f"/proc/{pid}"), "its end")

    def kill(self, number=signal.SIGKILL, pid=None):
        pid = pid or self.status()["pid"]
        os.kill(pid, number)
        self.wait_for_gone(pid)

    def leg(self, name):
        return self.source if name == "source" else self.target

    def end(self):
        now = self.status()
        if now:
            self.kill(signal.SIGTERM)


class Group:
    """Several mirrors in one process: `volumes` is {name: (source, target)}, `own` {name: words of its own}."""

    def __init__(self, program, folder, volumes, shared=(), own=None):
        self.program, self.volumes = program, volumes
        self.listen = f"nbd+unix:///?socket={folder / 's'}"
        self.uris = {name: f"nbd+unix:///{name}?socket={folder / 's'}" for name in volumes}
        self.words = ["--listen", self.listen, *shared]
        for number, (name, (source, target)) in enumerate(volumes.items()):
            self.words += [*(["--and"] if number else []), "--name", name, source, target, *(own or {}).get(name, [])]

    def start(self, *words, code=OK):
        return self.program("mirror", *words, *self.words, code=code)

    def resume(self, *names, words=(), code=OK):
        return self.program("mirror", *[word for name in names or self.volumes for word in ("--resume", name)], *words, code=code)

    def status(self, name):
        done = self.program("status", name, "--json", code=None)
        return json.loads(done.out) if done.code == OK else None

    def wait_for(self, name, *states, timeout_s=PATIENCE_S):
        return wait_until(lambda: (now := self.status(name)) and now["state"] in states and now, f"{name}: one of {states}", timeout_s)

    def pid(self):
        return next((now["pid"] for name in self.volumes if (now := self.status(name))), None)

    def kill(self, number=signal.SIGKILL):
        pid = self.pid()
        os.kill(pid, number)
        self.wait_for_gone(pid)

    def wait_for_gone(self, pid):
        wait_until(lambda: not os.path.exists(f"/proc/{pid}"), "its end")

    def end(self):
        if self.pid():
            self.kill(signal.SIGTERM)
