# SPDX-License-Identifier: GPL-2.0-or-later
"""A running `blkmove serve`, and other people's programs that use it."""
import signal
import subprocess

import nbd

from program import OK, wait_until


class Serving:
    """A running server; stop() insists on a good end."""

    def __init__(self, program, folder, *words, listen=None, **how):
        self.socket = folder / "s"
        listen = listen or f"nbd+unix:///?socket={self.socket}"
        self.running = program.start("serve", *words, *(["--listen", listen] if listen != "inherited" else []), **how)
        wait_until(self._is_ready, f"a server\n{self.running.err()}")
        self.line = self.running.out().decode().splitlines()[0]
        self.uri = self.line.split()[0]

    def _is_ready(self):
        assert self.running.is_running(), self.running.err()
        return b"\n" in self.running.out()

    def connect(self, uri=None):
        handle = nbd.NBD()
        handle.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
        handle.connect_uri(uri or self.uri)
        return handle

    def stop(self, code=OK):
        self.running.kill(signal.SIGTERM)
        return self.running.end(code=code)


def run(*words, **more):
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=60, **more)
    assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
    return done.stdout
