# SPDX-License-Identifier: GPL-2.0-or-later
"""Two machines, as far as the network goes: namespaces with a cable between them (cable.c) that delays, loses, and can be cut. As root."""
import itertools
import os
import pathlib
import subprocess
import sys

_numbers = itertools.count()
HERE = pathlib.Path(__file__).resolve().parent


def why_not():
    """Why there can be no such network here; None: there can."""
    if os.geteuid() != 0:
        return "network namespaces are root's to make"
    if not os.path.exists("/dev/net/tun"):
        return "no /dev/net/tun here"
    name = f"blkmove-try-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    if made.returncode:
        return "no network namespaces here: " + made.stderr.strip()
    subprocess.run(["ip", "netns", "del", name])
    return None


def _ip(*words):
    subprocess.run(["ip", *words], check=True, capture_output=True)


class Net:
    """hosts: the names of the namespaces; addresses: theirs, at the ends of the cable."""

    def __init__(self, folder):
        number = f"{os.getpid()}-{next(_numbers)}"
        self.hosts = [f"blkmove-{number}-a", f"blkmove-{number}-b"]
        self.addresses = ["10.78.0.1", "10.78.0.2"]
        self.cable = None
        program = pathlib.Path(folder) / "cable"
        subprocess.run(["cc", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", "-O2", "-o", program, HERE / "cable.c"], check=True)
        try:
            for host in self.hosts:
                _ip("netns", "add", host)
                _ip("-n", host, "link", "set", "lo", "up")
            self.cable = subprocess.Popen([program, *self.hosts], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            assert self.cable.stdout.readline() == "ok\n"
            for host, own, other in zip(self.hosts, self.addresses, reversed(self.addresses)):
                _ip("-n", host, "address", "add", own, "peer", other, "dev", "cable")
                _ip("-n", host, "link", "set", "cable", "up", "txqueuelen", "2000")
        except BaseException:
            self.close()
            raise

    def tell(self, command):
        """delay MICROSECONDS, loss PPM, rate BYTES, cut both|there|back, mend"""
        self.cable.stdin.write(command + "\n")
        self.cable.stdin.flush()
        assert self.cable.stdout.readline() == "ok\n"

    def inside(self, index, words):
        """The command line that runs there. `ip netns exec` would keep all mounts of this moment, other tests' too, for as long as it runs."""
        return ["nsenter", f"--net=/run/netns/{self.hosts[index]}", *map(str, words)]

    def round_trip(self, count=50):
        """Seconds, the median of what a byte takes there and back between two programs."""
        echo = ("import socket\ns = socket.create_server(('%s', 7)); print(flush=True); c, _ = s.accept()\n"
                "c.setsockopt(6, 1, 1)\nwhile True:\n b = c.recv(1)\n if not b: break\n c.sendall(b)" % self.addresses[1])
        ask = ("import socket, time\nc = socket.create_connection(('%s', 7)); c.setsockopt(6, 1, 1); took = []\nfor i in range(%d):\n"
               " t = time.perf_counter(); c.sendall(b'x'); c.recv(1); took.append(time.perf_counter() - t)\nprint(sorted(took)[len(took) // 2])"
               % (self.addresses[1], count))
        server = subprocess.Popen(self.inside(1, [sys.executable, "-c", echo]), stdout=subprocess.PIPE, text=True)
        server.stdout.readline()
        client = subprocess.run(self.inside(0, [sys.executable, "-c", ask]), capture_output=True, text=True, check=True)
        server.wait()
        return float(client.stdout)

    def close(self):
        if self.cable:
            self.cable.stdin.close()
            self.cable.wait()
        for host in self.hosts:
            subprocess.run(["ip", "netns", "del", host], capture_output=True)
