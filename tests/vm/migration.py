# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest whose data disk is a replica's, and its live migration to the other node's host. Records: what its program numbered.py has written."""
import threading
import time
import zlib

import qemu
import vm
from program import wait_until

RECORD = 4096
PORT = 7788  # no pair has it
MIGRATION_S = 300


class Records:
    """What is in a node's volume. Read past the node: what is on its disk."""

    def __init__(self, path):
        self.path = path
        self.slots = path.stat().st_size // RECORD

    @staticmethod
    def number_of(data):
        """None: it is no record, or half of one."""
        head, number = data[:24], data[:8]
        whole = len(data) == RECORD and data[24:32] == zlib.crc32(head).to_bytes(8, "little") and data[32:] == number * (RECORD // 8 - 4)
        return int.from_bytes(number, "little") if whole else None

    def has(self, number):
        with open(self.path, "rb") as volume:
            volume.seek(number % self.slots * RECORD)
            return self.number_of(volume.read(RECORD)) == number

    def check(self, count):
        """Each of the records 0 to count - 1 is there, or the one that was written over it."""
        with open(self.path, "rb") as volume:
            for slot in range(min(count, self.slots)):
                number = slot + (count - 1 - slot) // self.slots * self.slots
                found = self.number_of(volume.read(RECORD))
                assert found == number, f"{self.path}: slot {slot} has record {found}, not {number} of {count}"


class Watch(threading.Thread):
    """Follows the writer from outside, since a guest's clock stops with it: how many records there are, and the longest time without a new one."""

    def __init__(self, pair):
        super().__init__(daemon=True)
        self.records = [Records(node.volume()) for node in pair.nodes]
        self.count, self.longest_s, self.over = 0, 0.0, threading.Event()
        self.last = None
        self.start()

    def run(self):
        while not self.over.wait(0.001):
            while any(records.has(self.count) for records in self.records):
                now = time.monotonic()
                self.longest_s = max(self.longest_s, now - (self.last or now))
                self.last, self.count = now, self.count + 1

    def gap_s(self):
        """The longest since this was asked last."""
        longest, self.longest_s = self.longest_s, 0.0
        return longest

    def stop(self):
        self.over.set()
        self.join()


class Migration:
    """guest: where it runs; node: that one's. Moves between the two hosts of the pair, by the nodes' cable or aside from it."""

    def __init__(self, image, folder, pair):
        self.image, self.folder, self.pair, self.aside = image, folder, pair, False
        self.launched = []
        self.node, self.other = pair.nodes
        self.guest = self._make(self.node)
        self.guest.boot()
        self.watch = Watch(pair)
        self.writer = self.guest.start(["numbered.py", "/dev/by-serial/data"])
        self.writer.wait_for("READY")

    def _make(self, node, *words):
        server = {"type": "unix", "path": str(node.socket())}
        disk = qemu.Disk("data", {"driver": "raw", "file": {"driver": "nbd", "server": server, "export": "vm1", "reconnect-delay": qemu.RECONNECT_S}})
        guest = vm.Guest(self.image, self.folder / f"guest{len(self.launched)}", disks=[disk], memory="256M", within=node.prefix, words=words)
        self.launched.append(guest)
        return guest

    def go_on(self, count=200):
        """Until the writer has written so many more."""
        there = self.watch.count + count
        wait_until(lambda: self.watch.count >= there or not self.writer.is_running(), f"record {there}", 300)
        assert self.writer.is_running(), self.writer.out

    def _uri(self):
        return f"unix:{self.folder}/migration" if self.aside else f"tcp:{self.other.address}:{PORT}"

    def hand_over(self, lease="30s"):
        """Begins it. When this returns the other node's export is there."""
        self.node("hand-over", "--no-wait", f"--lease={lease}", "vm1")
        self.other.wait(leased=True)

    def wait_for_its_end(self):
        """Of the lease: the node goes on as if it had never been."""
        for node in self.pair.nodes:
            node.wait(timeout_s=60, leased=False)
        assert self.node.status()["role"] == "primary" and self.other.status()["role"] == "secondary"
        assert self.node.status()["clients"] == 1 and self.other.status()["clients"] == 0

    def expect(self):
        """The QEMU that the guest is to move to. Its disk is open when this returns."""
        incoming = self._make(self.other, "-incoming", "defer")
        incoming.launch()
        incoming.qmp("migrate-incoming", uri=self._uri())
        return incoming

    def begin(self, bytes_a_second=1 << 30, **capabilities):
        self.guest.qmp("migrate-set-capabilities", capabilities=[{"capability": "events", "state": True}] + [
            {"capability": name.replace("_", "-"), "state": True} for name in capabilities])
        self.guest.qmp("migrate-set-parameters", max_bandwidth=bytes_a_second)
        self.guest.qmp("migrate", uri=self._uri())

    def wait_for(self, *states):
        def state():
            found = self.guest.qmp("query-migrate")
            assert found["status"] in states or found["status"] not in ("failed", "completed", "cancelled"), found
            return found if found["status"] in states else None
        return wait_until(state, f"a migration that is {states}", MIGRATION_S)

    def arrived(self, incoming):
        """The guest is there; the QEMU that it has left is ended."""
        self.guest.become(incoming)
        self.guest.end()
        self.guest = incoming
        self.node, self.other = self.other, self.node

    def move(self):
        """Returns the milliseconds that QEMU says the guest stood still."""
        self.hand_over()
        incoming = self.expect()
        self.begin()
        told = self.wait_for("completed")
        self.arrived(incoming)
        return told["downtime"]

    def finish(self):
        """The writer ends. Nothing has failed for it, both volumes hold all that it wrote."""
        self.writer.kill(15)
        said = self.writer.wait().out
        count = int(said.split("wrote ")[1].split(",")[0])
        self.pair.wait_equal()
        wait_until(lambda: len({self.pair.content(node) for node in self.pair.nodes}) == 1, "both volumes are equal")
        for records in self.watch.records:
            records.check(count)
        print(said.splitlines()[-1])

    def close(self):
        self.watch.stop()
        for guest in self.launched:
            guest.end()
