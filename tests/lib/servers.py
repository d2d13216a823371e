# SPDX-License-Identifier: GPL-2.0-or-later
"""NBD servers and loop devices for tests; each ends what it began."""
import contextlib
import fcntl
import os
import pathlib
import socket
import stat
import subprocess
import tempfile
import time


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """A process that listens at a unix socket (port None) or a TCP port of 127.0.0.1."""

    def __init__(self, argv, path=None, port=None, log=None):
        self.path, self.port = path, port
        self.uri = f"nbd://127.0.0.1:{port}" if port else f"nbd+unix:///?socket={path}"
        with open(log or os.devnull, "ab") as err:
            self.process = subprocess.Popen([str(word) for word in argv], stdin=subprocess.DEVNULL, stdout=err, stderr=err)
        self._wait()

    def _listens(self):
        try:
            if self.path:
                return stat.S_ISSOCK(os.stat(self.path).st_mode) and self._connects(socket.AF_UNIX, str(self.path))
            return self._connects(socket.AF_INET, ("127.0.0.1", self.port))
        except OSError:
            return False

    def _connects(self, family, address):
        with socket.socket(family) as probe:
            probe.connect(address)
        return True

    def _wait(self):
        end = time.monotonic() + 120
        while not self._listens():
            if self.process.poll() is not None or time.monotonic() > end:
                raise OSError(f"{' '.join(map(str, self.process.args))} does not listen (exit {self.process.poll()})")
            time.sleep(0.01)

    def stop(self):
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if self.path:
            pathlib.Path(self.path).unlink(missing_ok=True)


class Servers:
    """A test's servers, in its folder."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.all = []

    def _start(self, tcp, argv_of):
        name = self.folder / f"nbd-{len(self.all)}"
        for attempt in range(5):
            port = free_port() if tcp else None
            try:
                server = Server(argv_of(None if tcp else f"{name}.sock", port), None if tcp else f"{name}.sock", port, f"{name}.log")
                break
            except OSError:
                if not tcp or attempt == 4:
                    raise
        self.all.append(server)
        return server

    def nbdkit(self, *words, tcp=False):
        """nbdkit with these filters, plugin and parameters."""
        return self._start(tcp, lambda path, port: ["nbdkit", "-f", "--exit-with-parent",
                                                    *(["-i", "127.0.0.1", "-p", port] if port else ["-U", path]), *words])

    def qemu(self, image, *words, tcp=False, form="raw"):
        return self._start(tcp, lambda path, port: ["qemu-nbd", "-t", "-e", "8", "-f", form, "--discard=unmap", "--detect-zeroes=off",
                                                    *(["-b", "127.0.0.1", "-p", port] if port else ["-k", path]), *words, image])

    def qemu_of(self, words):
        """qemu-nbd of what these options open."""
        return self._start(False, lambda path, port: ["qemu-nbd", "-t", "-k", path, *words])

    def stop(self):
        for server in self.all:
            server.stop()
        self.all.clear()


class Loops:
    """Loop devices over files."""

    LOCK = pathlib.Path(tempfile.gettempdir()) / "blkmove-test-losetup.lock"

    def __init__(self):
        self.devices = []

    @contextlib.contextmanager
    def _alone(self):
        """One at a time: a second losetup that is after the same free device opens it for writing for a moment."""
        with open(self.LOCK, "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    @staticmethod
    def _losetup(*words):
        return subprocess.run(["losetup", *map(str, words)], capture_output=True, text=True)

    def attach(self, path, *words):
        for _ in range(20):
            # Others take devices too: a free one may be gone a moment later.
            with self._alone():
                done = self._losetup("-f", "--show", *words, path)
            if done.returncode == 0:
                self.devices.append(done.stdout.strip())
                return self.devices[-1]
            time.sleep(0.1)
        raise OSError(f"losetup {path}: {done.stderr}")

    def exchange(self, device, path):
        """The same name over another file; nobody else gets it in between."""
        end = time.monotonic() + 60
        with self._alone():
            subprocess.run(["losetup", "-d", device], check=True)
            # It goes when the last who looks at it has closed it.
            while (done := self._losetup(device, path)).returncode and time.monotonic() < end:
                time.sleep(0.02)
        if done.returncode:
            raise OSError(f"losetup {device} {path}: {done.stderr}")

    def detach(self, device):
        subprocess.run(["losetup", "-d", device], check=True)
        self.devices.remove(device)
        end = time.monotonic() + 5
        while subprocess.run(["losetup", device], capture_output=True).returncode == 0 and time.monotonic() < end:
            time.sleep(0.02)

    def stop(self):
        for device in list(self.devices):
            self.detach(device)
