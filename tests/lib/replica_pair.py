# SPDX-License-Identifier: GPL-2.0-or-later
"""Two nodes of replicated volumes, each with folders of its own, on this machine or in the namespaces of a Net."""
import json
import os
import pathlib
import subprocess
import time

PATIENCE_S = 60


class Failed(AssertionError):
    pass


def wait_until(is_so, what, patience_s=PATIENCE_S):
    until = time.monotonic() + patience_s
    while not (found := is_so()):
        if time.monotonic() > until:
            raise Failed(f"{what}: not within {patience_s} s")
        time.sleep(0.05)
    return found


class Node:
    """One machine: its process has all resources of the pair."""

    def __init__(self, pair, index):
        self.pair, self.index, self.host = pair, index, "ab"[index]
        self.folder = pair.folder / self.host
        self.process = None
        for name in ("state", "run"):
            (self.folder / name).mkdir(parents=True, mode=0o700)
        self.log = self.folder / "log"
        self.log.touch()

    def _words(self, words):
        words = [self.pair.program, "replicate", *map(str, words)]
        return self.pair.net.inside(self.index, words) if self.pair.net else words

    @property
    def environment(self):
        return dict(os.environ, BLKMOVE_REPLICA_DIR=str(self.pair.folder), BLKMOVE_STATE_DIR=str(self.folder / "state"),
                    BLKMOVE_RUN_DIR=str(self.folder / "run"))

    def run(self, *words, code=0):
        """blkmove replicate WORDS: what it printed."""
        done = subprocess.run(self._words(words), env=self.environment, capture_output=True, text=True, timeout=PATIENCE_S)
        if code is not None and done.returncode != code:
            raise Failed(f"{self.host}: replicate {' '.join(map(str, words))}: {done.returncode}, not {code}: {done.stderr}{done.stdout}")
        return done.stdout + done.stderr

    def volume(self, name="r"):
        return self.pair.volumes.get((self.host, name), self.folder / f"{name}.volume")

    def socket(self, name="r"):
        return self.folder / f"{name}.nbd"

    def uri(self, name="r"):
        return f"nbd+unix:///{name}?socket={self.socket(name)}"

    def create(self):
        for name in self.pair.names:
            self.run("create", f"--host={self.host}", name)

    def up(self, *options):
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(self._words(["up", "--foreground", f"--host={self.host}", *options, *self.pair.names]), env=self.environment,
                                            stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_until(lambda: self.process.poll() is not None or self._answers(), f"{self.host} is up")
        if self.process.poll() is not None:
            raise Failed(f"{self.host} ended: {self.said()}")

    def _answers(self):
        try:
            return all("role" in self.status(name) for name in self.pair.names)
        except (Failed, ValueError, subprocess.SubprocessError):
            return False

    def said(self):
        return self.log.read_text(errors="replace")[-3000:]

    def status(self, name="r"):
        return json.loads(self.run("status", "--json", name, code=None))

    def wait_flow(self, flow, name="r", patience_s=PATIENCE_S):
        try:
            return wait_until(lambda: (s := self.status(name)) and s.get("flow") == flow and s, f"{self.host} {flow}", patience_s)
        except Failed as failed:
            raise Failed(f"{failed}: {self.status(name)}: {self.said()}") from None

    def kill(self):
        """As kill -9 does it, and the process only: it may be behind `ip netns exec`, which becomes it."""
        self.process.kill()
        self.process.wait()

    def down(self):
        if self.process and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                self.kill()
                raise Failed(f"{self.host} does not end: {self.said()}") from None


class Pair:
    """keys: of [resource], beside what this gives. names: of the resources, all alike. volumes: {(host, name): path} instead of files."""

    def __init__(self, program, folder, size, net=None, names=("r",), volumes=None, port=7789, **keys):
        self.program, self.folder, self.net = str(program), pathlib.Path(folder) / "pair", net
        self.names, self.volumes, self.size = list(names), volumes or {}, size
        self.folder.mkdir()
        self.nodes = [Node(self, 0), Node(self, 1)]
        self.a, self.b = self.nodes
        self.addresses = net.addresses if net else ["127.0.0.1", "127.0.0.2"]
        self.port, self.keys = port, keys
        for name in self.names:
            self.write_file(name)

    def write_file(self, name):
        lines = ["[resource]", *(f"{key.replace('_', '-')} = {value}" for key, value in self.keys.items())]
        for node, address in zip(self.nodes, self.addresses):
            lines += [f"[host {node.host}]", f"address = {address}:{self.port}", f"device = {node.volume(name)}", f"export = {node.uri(name)}"]
        (self.folder / f"{name}.ini").write_text("\n".join(lines) + "\n")

    def begin(self, contents):
        """Both created and up, a primary, its data contents(name) bytes; b's are others. In step when this returns."""
        for name in self.names:
            first = contents(name)
            assert len(first) == self.size
            self.a.volume(name).write_bytes(first)
            self.b.volume(name).write_bytes(bytes(byte ^ 0xff for byte in first[:4096]) + first[4096:][::-1])
        for node in self.nodes:
            node.create()
        self.a.up()
        for name in self.names:
            self.a.run("primary", "--force", name)
        self.b.up()
        self.wait_equal()

    def wait_equal(self, patience_s=PATIENCE_S):
        for name in self.names:
            for node in self.nodes:
                node.wait_flow("equal", name, patience_s)

    def contents(self, name="r"):
        return [node.volume(name).read_bytes() for node in self.nodes]

    def close(self):
        for node in self.nodes:
            if node.process and node.process.poll() is None:
                node.kill()
