# SPDX-License-Identifier: GPL-2.0-or-later
"""A replicated volume between two network namespaces: a cable that delays, loses, is slow or cut, and processes that are killed."""
import os
import struct
import threading
import time

import nbd
import net
import pytest
from nbd_client import Client
from program import wait_until
from replica_hosts import Pair

SIZE = (48 << 20) + 4608
KILLS = int(os.environ.get("BLKMOVE_KILLS", 40)) // 5

WHY_NOT = net.why_not()
pytestmark = pytest.mark.skipif(WHY_NOT is not None, reason=f"{WHY_NOT}")


@pytest.fixture
def cable(folder):
    cable = net.Net(folder)
    yield cable
    cable.close()


@pytest.fixture
def make_pair(program, folder, cable, random):
    pairs = []

    def make(size=SIZE, **keys):
        pairs.append(Pair(program, folder, random, size, net=cable, timeout="3s", **keys))
        pairs[-1].begin()
        return pairs[-1]

    yield make
    for pair in pairs:
        pair.close()


class Writer(threading.Thread):
    """Writes 4 KiB here and there, and notes when it did where."""

    def __init__(self, uri, random, size, pause_s=0.01):
        super().__init__(daemon=True)
        self.uri, self.random, self.size, self.pause_s = uri, random, size, pause_s
        self.writes, self.failure, self.over = [], None, threading.Event()

    def run(self):
        handle = nbd.NBD()
        try:
            handle.connect_uri(self.uri)
            while not self.over.is_set():
                offset, begun = self.random.randrange(self.size // 4096) * 4096, time.monotonic()
                handle.pwrite(struct.pack("<Q", len(self.writes)) * 512, offset)
                self.writes.append((begun, time.monotonic(), offset))
                time.sleep(self.pause_s)
            handle.shutdown()
        except nbd.Error as error:
            self.failure = str(error)

    def stop(self):
        self.over.set()
        self.join(60)
        assert not self.is_alive() and self.failure is None, self.failure

    def regions(self, begun, ended, region):
        """Bytes of those that were written to, at least in part, between two moments."""
        return region * len({offset // region for when, until, offset in self.writes if until > begun and when < ended})


@pytest.mark.parametrize("region", [64, 4])
def test_h24_an_outage_holds_nobody_up_and_only_what_was_written_is_sent_again(make_pair, cable, random, region):
    pair = make_pair(region_size=f"{region}k")
    # What the first resync sent leaves the map when both sides have flushed it.
    pair.alpha.wait(logged=0)
    cable.tell("delay 1000")
    writer = Writer(pair.alpha.uri(), random, pair.size)
    writer.start()
    time.sleep(1)
    before = pair.alpha.status()["copied"]
    cut = time.monotonic()
    cable.tell("cut both")
    pair.alpha.wait(flow="apart")
    while time.monotonic() < cut + 10:
        time.sleep(0.1)
    cable.tell("mend")
    pair.wait_equal()
    equal = time.monotonic()
    time.sleep(0.5)
    writer.stop()
    copied = pair.alpha.status()["copied"] - before
    due = writer.regions(cut, equal, region << 10)
    longest = max(until - when for when, until, _ in writer.writes)
    print(f"{copied} bytes resynced, {due} written to meanwhile: {copied / due:.2f}; the longest write took {longest:.2f} s")
    assert copied <= due * 1.2
    assert longest < 8  # until the other counts as lost, and what follows from that is recorded
    pair.assert_same()


@pytest.mark.parametrize("ack", ["durable", "received", "sent"])
def test_h20_either_is_killed_again_and_again(make_pair, cable, random, ack):
    """A client that checks what it reads; the one that is killed comes back, as what it was."""
    pair = make_pair(size=(8 << 20) + 512, ack=ack)
    cable.tell("delay 300")
    client = Client(pair.alpha.uri(), pair.size, random)
    client.start()
    for _ in range(max(KILLS // 3, 2)):
        time.sleep(random.random())
        victim = random.choice(pair.nodes)
        victim.kill()
        time.sleep(random.random() / 2)
        victim.up()
        if victim is pair.alpha:
            # It was primary, so nobody else was: the other still is none.
            wait_until(lambda: pair.alpha("primary", "vm1", code=None).code == 0, "its part")
        if random.random() < 0.5:
            pair.wait_equal()
    pair.wait_equal()
    time.sleep(0.3)
    client.stop()
    print(f"{client.writes} writes, {client.reads} reads, {client.reconnects} times connected anew")
    assert client.writes > 20
    client.check_export()
    pair.alpha("secondary", "vm1")
    pair.assert_same()
    client.check_volume(pair.beta.volume())


@pytest.mark.parametrize("way", ["there", "back"])
def test_h24_a_cable_that_is_cut_in_one_direction(make_pair, cable, random, way):
    pair = make_pair(size=(8 << 20) + 512)
    cable.tell("delay 2000")
    cable.tell("loss 20000")
    client = Client(pair.alpha.uri(), pair.size, random)
    client.start()
    time.sleep(1)
    cable.tell(f"cut {way}")
    pair.alpha.wait(flow="apart")
    done = client.writes
    wait_until(lambda: client.writes > done + 10, "writes go on")
    cable.tell("mend")
    pair.wait_equal()
    time.sleep(0.5)
    client.stop()
    pair.alpha("secondary", "vm1")
    pair.assert_same()
    client.check_volume(pair.beta.volume())


def test_a_slow_line_stalls_nobody(make_pair, cable, random):
    """Sent faster than the line takes it: the pair pulls ahead, and comes together when there is less to do."""
    pair = make_pair(ack="sent", queue="1M")
    cable.tell("delay 20000")
    writer = Writer(pair.alpha.uri(), random, pair.size, pause_s=0.0005)
    writer.start()
    time.sleep(2)
    # As fast as this machine is now, but for what a line takes at most.
    rate = min(2000000, len(writer.writes) // 2 * 4096 // 6)
    cable.tell(f"rate {rate}")
    begun, before = time.monotonic(), len(writer.writes)
    # It is apart for a moment, perhaps before the line was slow, if this machine was; the words stay.
    wait_until(lambda: "the link is too slow for what is written" in pair.alpha.running.err(), "it pulls ahead", 60)
    time.sleep(3)
    done, line = len(writer.writes) - before, (time.monotonic() - begun) * rate / 4096
    writer.stop()
    took = sorted(until - when for when, until, _ in writer.writes)
    print(f"{done} writes, {line:.0f} by the line; p99 {took[len(took) * 99 // 100]:.3f} s, the longest {took[-1]:.3f} s")
    # A queue that waits would let no more through than the line does, and what it holds.
    assert done > 1.2 * line + (1 << 20) / 4096 and took[len(took) * 99 // 100] < 1
    cable.tell("rate 0")
    pair.wait_equal()
    pair.alpha("secondary", "vm1")
    pair.assert_same()
