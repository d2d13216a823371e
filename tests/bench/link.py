#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A slow link: two network namespaces joined by two tun devices, between which this program carries packets, at a rate and with a delay.

Real TCP runs over it, as over a real line; the kernel's own shaper (netem) is not everywhere. As a program: link.py NEAR FAR-NAMESPACE-PID
RATE RTT makes the devices and carries until it is ended.
"""
import collections
import fcntl
import os
import pathlib
import select
import struct
import subprocess
import sys
import time

TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
NEAR, FAR = "bench0", "bench1"
NEAR_ADDRESS, FAR_ADDRESS = "10.99.0.1", "10.99.0.2"
QUEUE_S = 0.1  # what the line's router holds before it drops: two and a half times rate x delay


class Direction:
    """One way: packets leave at the line's rate and arrive a delay later."""

    def __init__(self, reading, writing, bytes_per_s, delay_s):
        self.reading, self.writing, self.bytes_per_s, self.delay_s = reading, writing, bytes_per_s, delay_s
        self.free_at = 0.0
        self.packets = collections.deque()

    def take(self):
        packet = os.read(self.reading, 65536)
        now = time.monotonic()
        begin = max(now, self.free_at)
        if begin - now > QUEUE_S:
            return
        self.free_at = begin + len(packet) / self.bytes_per_s
        self.packets.append((self.free_at + self.delay_s, packet))

    def deliver(self):
        """Returns in how many seconds the next one is due, or None."""
        while self.packets:
            wait = self.packets[0][0] - time.monotonic()
            if wait > 0:
                return wait
            os.write(self.writing, self.packets.popleft()[1])
        return None


def carry(near, far, bytes_per_s, rtt_s):
    ways = {near: Direction(near, far, bytes_per_s, rtt_s / 2), far: Direction(far, near, bytes_per_s, rtt_s / 2)}
    while True:
        waits = [wait for wait in (way.deliver() for way in ways.values()) if wait is not None]
        ready, _, _ = select.select(ways, [], [], min(waits, default=None))
        for fd in ready:
            ways[fd].take()


def open_tun(name):
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI))
    return fd


def bring_up(prefix, device, address, peer):
    for words in (["addr", "add", address, "peer", peer, "dev", device], ["link", "set", device, "up"], ["link", "set", "lo", "up"]):
        subprocess.run([*prefix, "ip", *words], check=True)


class SlowLink:
    """To another namespace with an sshd of its own; `ssh` is a program that reaches it. Ends with everything it started."""

    def __init__(self, meter, machine, folder, mbit_s, rtt_ms):
        self.device = NEAR
        self.processes = []
        try:
            self._start(meter, machine, pathlib.Path(folder), mbit_s, rtt_ms)
        except BaseException:
            self.stop()
            raise

    def _start(self, meter, machine, folder, mbit_s, rtt_ms):
        holder = self._spawn(["unshare", "--net", "sh", "-c", "echo ready; exec sleep infinity"], stdout=subprocess.PIPE)
        holder.stdout.readline()
        bytes_per_s, rtt_s = mbit_s * 1e6 / 8, rtt_ms / 1e3
        carrier = self._spawn([sys.executable, __file__, str(holder.pid), str(bytes_per_s), str(rtt_s)], stdout=subprocess.PIPE)
        if not carrier.stdout.readline():
            raise OSError("the slow link cannot be made")
        with meter.standing_processes():
            self._spawn(["nsenter", "--net", "-t", str(holder.pid), "/usr/sbin/sshd", "-D", "-e", "-f", f"{machine.folder}/sshd_config", "-o",
                         f"ListenAddress={FAR_ADDRESS}", "-o", "PidFile=none"], stderr=subprocess.DEVNULL)
        self.ssh = str(folder / "ssh-slow")
        pathlib.Path(self.ssh).write_text(f'#!/bin/sh\nexec {machine.ssh} -o HostName={FAR_ADDRESS} "$@"\n')
        os.chmod(self.ssh, 0o755)
        self._wait_for_sshd()

    def _spawn(self, words, **streams):
        process = subprocess.Popen(words, stdin=subprocess.DEVNULL, **streams)
        self.processes.append(process)
        return process

    def _wait_for_sshd(self):
        for _ in range(50):
            if subprocess.run([self.ssh, "other", "true"], stderr=subprocess.DEVNULL).returncode == 0:
                return
            time.sleep(0.1)
        raise OSError("no sshd answers over the slow link")

    def stop(self):
        for process in reversed(self.processes):
            process.terminate()
            process.wait()

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.stop()


def main(far_pid, bytes_per_s, rtt_s):
    near, far = open_tun(NEAR), open_tun(FAR)
    subprocess.run(["ip", "link", "set", FAR, "netns", far_pid], check=True)
    bring_up([], NEAR, NEAR_ADDRESS, FAR_ADDRESS)
    bring_up(["nsenter", "--net", "-t", far_pid], FAR, FAR_ADDRESS, NEAR_ADDRESS)
    print("ready", flush=True)
    carry(near, far, float(bytes_per_s), float(rtt_s))


if __name__ == "__main__":
    main(*sys.argv[1:])
