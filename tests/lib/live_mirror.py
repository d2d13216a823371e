# SPDX-License-Identifier: GPL-2.0-or-later
"""A mirror in the background, and orders to it."""
import json
import os
import signal

from program import OK, wait_until


class Mirror:
    """Of the name "m", with its socket in `folder`."""

    def __init__(self, program, folder, source, target, *words):
        self.program, self.folder, self.source, self.target = program, folder, source, target
        self.socket = folder / "s"
        self.uri = f"nbd+unix:///?socket={self.socket}"
        self.words = [*words, "--listen", self.uri, "--name", "m", source, target]

    def start(self, *words, code=OK):
        return self.program("mirror", *words, *self.words, code=code)

    def resume(self, *words, code=OK):
        return self.program("mirror", "--resume", "m", *words, code=code)

    def status(self):
        done = self.program("status", "m", "--json", code=None)
        return json.loads(done.out) if done.code == OK else None

    def wait_for(self, *states, timeout_s=30):
        return wait_until(lambda: (now := self.status()) and now["state"] in states and now, f"one of {states}", timeout_s)

    def wait_for_gone(self, pid):
        wait_until(lambda: not os.path.exists(f"/proc/{pid}"), "its end")

    def kill(self, number=signal.SIGKILL):
        pid = self.status()["pid"]
        os.kill(pid, number)
        self.wait_for_gone(pid)

    def end(self):
        now = self.status()
        if now:
            self.kill(signal.SIGTERM)
