# SPDX-License-Identifier: GPL-2.0-or-later
"""A guest that writes without a pause moves between the two hosts of a replicated volume, by QEMU's live migration. docs/recipes/replica-vm.md."""
import signal

import pytest

import net
from migration import Migration
from program import REFUSED, wait_until
from replica_hosts import Pair

SIZE = 2 << 20


@pytest.fixture
def make(image, program, folder, random):
    """make(ack=...): a guest that writes at alpha."""
    made = []

    def make_one(**keys):
        (folder / "net").mkdir()
        wire = None if net.why_not() else net.Net(folder / "net")
        made.append(wire)
        pair = Pair(program, folder, random, SIZE, net=wire, **keys)
        made.append(pair)
        pair.begin()
        made.append(Migration(image, folder, pair))
        return made[-1]

    yield make_one
    for thing in reversed(made):
        if thing:
            thing.close()


@pytest.mark.parametrize("ack", ["durable", "sent"])
def test_there_and_back(make, ack):
    guest = make(ack=ack)
    if ack == "sent" and guest.pair.net:
        # Much of what was written is on the way when the guest moves.
        guest.pair.net.tell("delay 100000")
        guest.aside = True
    guest.go_on()
    for _ in range(2):
        guest.watch.gap_s()
        downtime = guest.move()
        guest.go_on()
        print(f"{ack}: to {guest.node.host}: no write for {guest.watch.gap_s() * 1000:.0f} ms at most; QEMU: {downtime} ms")
        assert guest.node.status()["role"] == "primary" and guest.other.status()["role"] == "secondary"
    guest.finish()


def test_a_migration_that_does_not_come(make):
    """Nobody writes at the other node while the lease lasts, or the migration is cancelled: the guest goes on where it is."""
    guest = make()
    said = guest.node("hand-over", "--lease=3s", "vm1", code=REFUSED).err
    assert "nobody wrote at the other node while the lease lasted" in said, said
    guest.wait_for_its_end()
    guest.go_on()

    guest.hand_over("30s")
    for _ in range(2):
        incoming = guest.expect()
        assert guest.other.status()["clients"] == 1
        guest.begin(bytes_a_second=1 << 20)
        wait_until(lambda: guest.wait_for("active")["ram"]["transferred"] > 2 << 20, "a part of its memory", 120)
        guest.go_on()
        guest.guest.qmp("migrate_cancel")
        guest.wait_for("cancelled")
        guest.go_on()
        incoming.process.wait(60)
    guest.wait_for_its_end()
    guest.go_on()

    # Nor does one that writes nothing lose its disk where it has arrived.
    guest.writer.kill(signal.SIGSTOP)
    guest.move()
    guest.node("primary", "vm1")
    for node in guest.pair.nodes:
        node.wait(timeout_s=60, leased=False)
    assert guest.node.status()["role"] == "primary" and guest.node.status()["clients"] == 1
    guest.writer.kill(signal.SIGCONT)
    guest.go_on()
    guest.finish()


def test_a_lease_that_is_too_short(make):
    """It is over when the guest is there: it waits for its disk, which a second hand-over brings, and nothing is lost."""
    guest = make()
    guest.go_on()
    guest.hand_over("10s")
    incoming = guest.expect()
    guest.begin(pause_before_switchover=True)
    guest.wait_for("pre-switchover")
    guest.wait_for_its_end()
    guest.guest.qmp("migrate-continue", state="pre-switchover")
    guest.wait_for("completed")
    guest.arrived(incoming)
    assert guest.node.status()["role"] == "secondary"
    guest.other("hand-over", "--at-once", "vm1")
    guest.go_on()
    assert guest.node.status()["role"] == "primary"
    guest.finish()


def test_the_link_breaks_before_the_first_write_there(make):
    """The guest's first write waits. The node that it has left goes on without a guest, and a second hand-over brings the disk."""
    guest = make()
    if not guest.pair.net:
        pytest.skip(net.why_not())
    guest.go_on()
    guest.aside = True
    guest.hand_over("20s")
    incoming = guest.expect()
    guest.begin(pause_before_switchover=True)
    guest.wait_for("pre-switchover")
    guest.pair.net.tell("cut both")
    guest.guest.qmp("migrate-continue", state="pre-switchover")
    guest.wait_for("completed")
    guest.arrived(incoming)
    for node in guest.pair.nodes:
        node.wait(timeout_s=60, linked=False, leased=False)
    guest.pair.net.tell("mend")
    guest.pair.wait_equal()
    assert (guest.node.status()["role"], guest.other.status()["role"]) == ("secondary", "primary")
    guest.other("hand-over", "--at-once", "vm1")
    guest.go_on()
    guest.finish()
