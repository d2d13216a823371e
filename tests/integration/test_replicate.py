# SPDX-License-Identifier: GPL-2.0-or-later
"""blkmove replicate: two processes, real volumes and clients. What is written at one is at the other, whatever is killed; who may write; what goes again."""
import json
import os
import re
import signal
import socket
import threading
import time

import nbd
import pytest

from keys import make_certificates, make_psk
from nbd_client import Client
from program import LOCKED, OK, REFUSED, TROUBLE, wait_until
from replica_hosts import Pair

SIZE = (4 << 20) + 4096
REGION = 64 << 10


@pytest.fixture
def make_pair(program, folder, random):
    pairs = []

    def make(size=SIZE, **how):
        pairs.append(Pair(program, folder, random, size, **how))
        return pairs[-1]
    yield make
    for pair in pairs:
        pair.close()


@pytest.fixture
def pair(make_pair):
    pair = make_pair()
    pair.begin()
    return pair


def test_both_hold_what_was_written_at_one(pair, random):
    pair.assert_same()
    data = random.randbytes(100003)
    pair.alpha.write(data, 54321)
    assert pair.alpha.read(100003, 54321) == data
    pair.assert_same()
    assert pair.content(pair.beta)[54321:154324] == data
    status = pair.beta.status()
    assert (status["role"], status["peer_role"], status["flow"], status["uris"]) == ("secondary", "primary", "equal", [pair.beta.uri()])
    for node in pair.nodes:
        node.end()


def test_nobody_uses_a_secondary(pair):
    with pytest.raises(nbd.Error, match="server|export|NBD_REP_ERR"):
        pair.beta.open()
    said = pair.beta("primary", "vm1", code=REFUSED).err
    assert "primary" in said, said
    assert pair.beta.status()["role"] == "secondary" and pair.alpha.status()["role"] == "primary"


def test_the_parts_are_swapped_and_nobody_loses_a_client_unasked(pair, random):
    first = random.randbytes(70000)
    pair.alpha.write(first, 1000)
    client = pair.alpha.open()
    said = pair.alpha("secondary", "vm1", code=REFUSED).err
    assert "1 client is attached" in said and "--force" in said, said
    assert client.pread(70000, 1000) == first
    pair.alpha("secondary", "--force", "vm1")
    with pytest.raises(nbd.Error):
        client.pread(512, 0)
    pair.beta("primary", "vm1")
    assert pair.beta.read(70000, 1000) == first
    pair.beta.write(first, 2000000)
    pair.assert_same()


@pytest.mark.parametrize("ack", ["sent", "received", "durable"])
def test_h25_a_secondary_that_was_killed_gets_what_was_written_meanwhile_and_no_more(make_pair, random, ack):
    pair = make_pair(16 << 20, ack=ack)
    pair.begin()
    # What the first resync sent leaves the map when both sides have flushed it.
    pair.alpha.wait(logged=0)
    pair.beta.kill()
    pair.alpha.wait(flow="apart")
    written = set()
    for _ in range(20):
        offset = random.randrange((16 << 20) - 5000)
        pair.alpha.write(random.randbytes(5000), offset)
        written |= set(range(offset // REGION, (offset + 4999) // REGION + 1))
    before = pair.alpha.status()["copied"]
    pair.beta.up()
    pair.wait_equal()
    pair.assert_same()
    assert 0 < pair.alpha.status()["copied"] - before <= len(written) * REGION * 1.2


def test_h25_a_primary_that_was_killed_comes_back_as_a_secondary(pair, random):
    client = Client(pair.alpha.uri(), SIZE, random)
    client.start()
    wait_until(lambda: client.writes > 100, "writes")
    pair.alpha.kill()
    client.over.set()
    client.join(10)
    assert not client.failure, client.failure
    pair.beta.wait(linked=False)
    said = pair.beta("primary", "vm1", code=REFUSED).err
    assert "--force" in said, said
    pair.beta("primary", "--force", "vm1")
    client.uri = pair.beta.uri()
    client.check_export()
    pair.beta.write(random.randbytes(4096), 12288)
    pair.alpha.up()
    pair.wait_equal()
    assert pair.alpha.status()["role"] == "secondary" and pair.beta.status()["role"] == "primary"
    pair.assert_same()


def test_the_link_comes_back_while_a_client_writes(pair, random):
    client = Client(pair.alpha.uri(), SIZE, random)
    client.start()
    for _ in range(3):
        pair.beta.kill()
        time.sleep(random.random() / 2)
        pair.beta.up()
        pair.wait_equal()
    assert client.is_alive()
    client.stop()
    assert client.reconnects == 0 and client.writes > 0
    pair.assert_same()
    client.check_volume(pair.beta.volume())


def test_h25_kill_9_of_either_side_again_and_again(make_pair, random):
    """Nothing that was acknowledged is lost, and both are equal in the end. BLKMOVE_KILLS: how often."""
    pair = make_pair(ack=random.choice(["sent", "received", "durable"]))
    pair.begin()
    client = Client(pair.alpha.uri(), SIZE, random)
    client.start()
    for _ in range(int(os.environ.get("BLKMOVE_KILLS", "6"))):
        victims = random.choice([[pair.alpha], [pair.beta], [pair.beta], [pair.alpha, pair.beta]])
        time.sleep(random.random() / 2)
        for victim in victims:
            victim.kill()
        time.sleep(random.random() / 2)
        for victim in random.sample(victims, len(victims)):
            victim.up()
        wait_until(lambda: all(node.status()["linked"] for node in pair.nodes), "a link")
        if pair.alpha in victims:
            wait_until(lambda: pair.alpha("primary", "vm1", code=None).code == 0, "its part")
        assert client.is_alive(), client.failure
    pair.wait_equal()
    written = client.writes
    wait_until(lambda: client.writes > written, "further writes")
    client.stop()
    pair.wait_equal()
    pair.assert_same()
    for node in pair.nodes:
        client.check_volume(node.volume())


@pytest.mark.parametrize("ack", ["received", "durable"])
def test_h25_the_other_side_takes_over_again_and_again(make_pair, random, ack):
    """Each time the primary is killed, the other one goes on with all that was acknowledged, and the killed one gets what it lacks."""
    pair = make_pair(ack=ack)
    pair.begin()
    client = Client(pair.alpha.uri(), SIZE, random)
    primary, other = pair.nodes
    for _ in range(int(os.environ.get("BLKMOVE_KILLS", "4"))):
        client = client.again()
        client.uri = primary.uri()
        client.start()
        before = client.writes
        wait_until(lambda: client.writes > before + 50, "writes")
        primary.kill()
        client.over.set()
        client.join(10)
        assert not client.failure, client.failure
        other.wait(linked=False)
        other("primary", "--force", "vm1")
        client.uri = other.uri()
        client.check_export()
        primary.up()
        pair.wait_equal()
        pair.assert_same()
        primary, other = other, primary


def test_split_brain_is_refused_and_resolved_by_hand(pair, random):
    pair.beta.kill()
    pair.alpha.wait(flow="apart")
    mine, theirs = random.randbytes(50000), random.randbytes(50000)
    pair.alpha.write(mine, 300000)
    pair.alpha.kill()
    pair.beta.up()
    pair.beta("primary", "--force", "vm1")
    pair.beta.write(theirs, 2300000)
    pair.alpha.up()
    # Who finds out first says why, hangs up, and is apart then.
    finder = wait_until(lambda: next((node for node in pair.nodes if node.status()["refusal"]), None), "a refusal")
    status = finder.wait(flow="apart", verdict="split")
    assert "both" in status["refusal"], status
    assert any("next: on the node whose writes since the split are to be lost" in str(node("status", "vm1").out) for node in pair.nodes)
    assert (pair.alpha.status()["role"], pair.beta.status()["role"]) == ("secondary", "primary")
    said = pair.beta("resolve", "vm1", code=REFUSED).err
    assert "--discard-mine vm1" in said, said
    assert pair.content(pair.alpha)[300000:350000] == mine and pair.content(pair.beta)[2300000:2350000] == theirs
    pair.alpha("resolve", "--discard-mine", "vm1", "vm1")
    pair.connect()
    pair.wait_equal()
    pair.assert_same()
    assert pair.content(pair.alpha)[2300000:2350000] == theirs and pair.content(pair.alpha)[300000:350000] != mine


@pytest.mark.parametrize("region", ["4k", "1M"])
def test_regions_are_as_large_as_the_file_says(make_pair, random, region):
    pair = make_pair(region_size=region)
    pair.begin()
    bytes_each = {"4k": 4096, "1M": 1 << 20}[region]
    assert json.loads(pair.beta("show", "--json", "vm1").out)["map"]["region_size"] == bytes_each
    pair.alpha("disconnect", "vm1")
    pair.alpha.wait(linked=False, wanted=False)
    before = pair.alpha.status()["copied"]
    data = random.randbytes(700)
    for at in (4000, 2097152, SIZE - 700):  # two regions of 4 KiB, one, and the last, of which there are 4 KiB
        pair.alpha.write(data, at)
    pair.connect()
    pair.wait_equal()
    assert pair.alpha.status()["copied"] - before == {"4k": 4 * 4096, "1M": (2 << 20) + 4096}[region]
    pair.assert_same()


def test_regions_that_are_too_small_are_refused(make_pair):
    pair = make_pair(region_size="4k")
    os.truncate(pair.alpha.volume(), (8 << 40) + 4096)
    said = pair.alpha("create", "vm1", code=TROUBLE).err
    assert "more than the map can have in its regions of 4096" in said and "give a `region-size` in " in said and "vm1.ini" in said, said
    assert not (pair.alpha.folder / "state/replicas/vm1/map").exists()
    os.truncate(pair.alpha.volume(), 8 << 40)
    pair.write_file(region_size="8k")
    pair.alpha("create", "vm1")


def test_regions_that_do_not_fit_are_said_and_all_is_compared(make_pair, random):
    pair = make_pair()
    pair.create()
    pair.write_file(region_size="4k")
    pair.beta("create", "--overwrite=vm1", "vm1")
    pair.alpha.up()
    assert "region-size = 4k, and its map was made with 64k" in pair.alpha.running.err()
    pair.alpha("primary", "--force", "vm1")
    pair.beta.up()
    pair.wait_equal()
    assert "one of the other's for" not in pair.beta.running.err() and "made with" not in pair.beta.running.err()
    assert "a bit of this node's map is for 65536 bytes, one of the other's for 4096" in pair.alpha.running.err()
    pair.alpha("disconnect", "vm1")
    pair.alpha.wait(linked=False, wanted=False)
    pair.alpha.write(random.randbytes(512), 70000)
    before = pair.alpha.status()
    pair.connect()
    pair.wait_equal()
    now = pair.alpha.status()
    assert now["copied"] - before["copied"] <= 1 << 20 and now["same"] - before["same"] >= SIZE - (1 << 20)
    pair.assert_same()


def test_disconnected_and_connected_again(pair, random):
    pair.alpha("disconnect", "vm1")
    pair.alpha.wait(wanted=False, linked=False)
    pair.alpha.write(random.randbytes(REGION), 0)
    assert pair.content(pair.alpha)[:REGION] != pair.content(pair.beta)[:REGION]
    assert pair.beta.wait(linked=False, outdated=True)
    said = pair.beta("primary", "vm1", code=REFUSED).err
    assert "--force" in said, said
    wait_until(lambda: "vm1 is disconnected on alpha; `blkmove replicate connect vm1` there" in (pair.beta.status()["trying"] or ""), "why")
    pair.connect()
    pair.wait_equal()
    pair.assert_same()


def test_hand_over_with_a_lease_goes_to_the_first_that_writes(pair, random):
    """As a live migration does it: the other side opens the volume, reads, and writes when the first side has ended."""
    data = random.randbytes(60000)
    here = pair.alpha.open()
    reply = pair.alpha.ask({"command": "hand-over", "lease_ms": 4000})
    assert reply["ok"], reply
    pair.beta.wait(serving=True, leased=True)
    there = pair.beta.open()
    here.pwrite(data, 4096)
    here.flush()
    assert there.pread(60000, 4096) == data
    there.pwrite(data, 2 << 20)
    there.flush()
    with pytest.raises(nbd.Error):
        here.pwrite(data, 0)
    done = wait_until(lambda: (now := pair.alpha.ask({"command": "order", "number": reply["number"]}))["state"] != "running" and now, "its end")
    assert done["state"] == "done", done
    there.shutdown()
    assert (pair.alpha.wait(leased=False)["role"], pair.beta.wait(leased=False)["role"]) == ("secondary", "primary")
    pair.alpha.wait(serving=False)
    pair.wait_equal()
    pair.assert_same()


def test_volumes_become_larger_while_a_client_writes(pair, random):
    client = Client(pair.alpha.uri(), SIZE, random)
    client.start()
    os.truncate(pair.alpha.volume(), SIZE + (1 << 20))
    said = pair.alpha("resize", "vm1", code=REFUSED).err
    assert "the other node's volume cannot be made that large" in said, said
    assert pair.alpha.status()["total"] == SIZE
    os.truncate(pair.beta.volume(), SIZE + (1 << 20))
    with open(pair.beta.volume(), "r+b") as volume:
        volume.seek(SIZE)
        volume.write(random.randbytes(1 << 20))
    said = pair.alpha("resize", "vm1").out.decode()
    assert said.startswith(("vm1: resync to beta", "vm1: in sync with beta")), said
    for node in pair.nodes:
        node.wait(total=SIZE + (1 << 20))
    data = random.randbytes(5000)
    pair.alpha.write(data, SIZE + (1 << 20) - 5000)
    client.stop()
    assert client.reconnects == 0
    pair.wait_equal()
    pair.assert_same()


def test_primary_is_ordered_while_a_first_write_asks_for_the_same(pair):
    """A VM has arrived: its first write, and the word that ends the lease."""
    pair.alpha("hand-over", "--no-wait", "--lease=30s", "vm1")
    pair.beta.wait(serving=True, leased=True)
    os.kill(pair.alpha.running.pid, signal.SIGSTOP)
    writer = threading.Thread(target=pair.beta.write, args=(b"first" * 100, 4096))
    writer.start()
    pair.beta.wait(clients=1)
    time.sleep(0.5)
    order = threading.Thread(target=pair.beta, args=("primary", "vm1"))
    order.start()
    time.sleep(0.5)
    assert writer.is_alive() and order.is_alive()
    os.kill(pair.alpha.running.pid, signal.SIGCONT)
    order.join(120)
    writer.join(120)
    assert not order.is_alive() and not writer.is_alive()
    assert (pair.alpha.wait(role="secondary")["leased"], pair.beta.wait(role="primary")["leased"]) == (True, False)
    assert pair.content(pair.beta)[4096:4596] == b"first" * 100


def test_hand_over_without_a_lease(pair, random):
    data = random.randbytes(60000)
    pair.alpha.write(data, 4096)
    pair.alpha("hand-over", "--to=beta", "--at-once", "vm1")
    assert pair.beta.status()["role"] == "primary" and pair.alpha.status()["role"] == "secondary"
    assert pair.beta.read(60000, 4096) == data
    said = pair.alpha("hand-over", "--to=alpha", "vm1", code=REFUSED).err
    assert "the other node of vm1 is beta" in said


def enlarge(node, random, size):
    with open(node.volume(), "ab") as file:
        file.write(random.randbytes(size - file.tell()))


def test_a_replica_is_as_large_as_the_smaller_device(pair, random):
    more = SIZE + 300 * 1024
    enlarge(pair.alpha, random, more + 8192)
    enlarge(pair.beta, random, more)
    assert "the order is to be given there" in pair.beta("resize", "vm1", code=REFUSED).err
    pair.alpha("resize", "vm1")
    for node in pair.nodes:
        node.wait(flow="equal", total=more)
    data = random.randbytes(100000)
    pair.alpha.write(data, SIZE - 50000)
    pair.alpha("secondary", "vm1")
    pair.beta("primary", "vm1")
    assert pair.beta.read(100000, SIZE - 50000) == data
    assert pair.content(pair.alpha)[:more] == pair.content(pair.beta)


def test_orders_are_told_by_number(pair):
    reply = pair.alpha.ask({"command": "secondary"})
    assert reply["ok"] and reply["number"] > 0
    done = wait_until(lambda: (now := pair.alpha.ask({"command": "order", "number": reply["number"]}))["state"] != "running" and now, "its end")
    assert (done["name"], done["state"], done["error"]) == ("secondary", "done", "")
    assert "no such order" in pair.alpha.ask({"command": "order", "number": 4711})["error"]
    for request, words in [({"command": "mount"}, "the commands are"), ({}, "names its"), ({"command": "resync", "pause": 1}, "neither true nor false"),
                           ({"command": "primary", "force": 1}, "neither true nor false"), ({"command": "fenced"}, "is linked")]:
        assert words in pair.alpha.ask(request)["error"]


def test_events_follow_what_changes(pair):
    with socket.socket(socket.AF_UNIX) as control:
        control.settimeout(60)
        control.connect(str(pair.beta.folder / "run/replica-vm1.sock"))
        control.sendall(b'{"command": "events"}\n')
        lines = control.makefile()
        assert '"equal"' in lines.readline()
        pair.alpha.kill()
        while '"linked":false' not in lines.readline():
            pass
        pair.beta.end()
        while lines.readline():
            pass


def test_verify_finds_what_somebody_else_changed(pair):
    with open(pair.beta.volume(), "r+b") as volume:
        volume.seek(1 << 20)
        volume.write(b"x" * 4096)
    assert "give it on alpha" in pair.beta.ask({"command": "verify"})["error"]
    assert pair.alpha.ask({"command": "verify"})["ok"]
    status = wait_until(lambda: (now := pair.alpha.status()) and now["verify"]["state"] == "done" and now, "its end")
    assert status["verify"]["differing"] == 4096 and status["verify"]["position"] == SIZE, status["verify"]
    assert f"4096 bytes at {1 << 20}" in pair.alpha.running.err() and "out of sync: 65536 bytes, until a resync" in pair.alpha.running.err()
    assert pair.alpha.ask({"command": "verify", "resync": True})["ok"]
    wait_until(lambda: (now := pair.alpha.status())["verify"]["state"] == "done" and now["dirty"] == 0 and now["flow"] == "equal", "its end")
    pair.assert_same()


def test_verify_by_the_clock(make_pair):
    pair = make_pair()
    pair.write_file(verify_every="1min")
    pair.begin()
    record = pair.alpha.folder / "state/replicas/vm1/verified"
    kept = json.loads(record.read_text())
    assert abs(kept["at"] - time.time()) < 120 and kept["position"] == 0
    pair.alpha.end()
    # As if it had been stopped there some time ago.
    record.write_text(json.dumps({"at": kept["at"] - 100, "position": 1 << 20}))
    with open(pair.beta.volume(), "r+b") as volume:
        for offset in (0, 2 << 20):
            volume.seek(offset)
            volume.write(b"x" * 4096)
    pair.alpha.up()
    pair.wait_equal()
    pair.alpha("primary", "vm1")
    status = wait_until(lambda: (now := pair.alpha.status())["verify"] and now["verify"]["state"] == "done" and now, "its end", 240)
    assert status["verify"]["differing"] == 4096, status["verify"]
    for node in pair.nodes:
        wait_until(lambda: node.status()["out_of_sync"] == 65536, "the mark")
    assert json.loads(record.read_text())["position"] == 0


# What cannot start

def test_one_that_cannot_start_does_not_keep_the_others(make_pair):
    pair = make_pair(names=("vm1", "vm2", "vm3"))
    pair.create()
    os.rename(pair.alpha.volume("vm1"), pair.alpha.folder / "gone")
    (pair.alpha.folder / "state/replicas/vm3/map").unlink()
    pair.alpha.up(names=pair.names)
    assert [pair.alpha.state(name) for name in pair.names] == ["failed", "up", "failed"]
    assert str(pair.alpha.volume("vm1")) in pair.alpha.status("vm1")["error"]
    assert "blkmove replicate create vm3" in pair.alpha.status("vm3")["error"]
    assert "is failed" in pair.alpha("primary", "vm1", code=REFUSED).err
    pair.alpha("down", "vm1")
    assert pair.alpha.state("vm1") == "down" and pair.alpha.state("vm2") == "up"
    # vm3 goes with the last one, before it is its turn, or not.
    assert pair.alpha("down", "--all").out == b"vm2: down\nvm3: down\n"
    pair.alpha.running.end(code=(OK, TROUBLE))


def test_an_address_that_is_taken(make_pair):
    pair = make_pair()
    pair.create()
    with socket.create_server((pair.alpha.address, pair.port)):
        pair.alpha.up()
        said = pair.alpha.running.end(code=TROUBLE).err
    assert f"cannot listen at {pair.alpha.address}:{pair.port}" in said and "ss -ltnp" in said, said


def test_it_runs_once(pair):
    again = pair.alpha("up", "--foreground", "vm1", code=LOCKED).err
    assert "vm1 is up, as process" in again, again
    assert pair.alpha.status()["role"] == "primary"


def test_up_in_the_background_and_down(make_pair):
    pair = make_pair(names=("vm1", "vm2"))
    pair.create()
    assert pair.alpha("up", "--all").out == b"vm1: up\nvm2: up\n"
    pid, = {pair.alpha.status(name)["pid"] for name in pair.names}
    pair.alpha("down", "vm2")
    assert pair.alpha("up", "--all", code=TROUBLE).out == b"vm1: it is up already\n"  # and has the port
    pair.alpha("down", "--all")
    wait_until(lambda: not os.path.exists(f"/proc/{pid}/exe"), "its end")  # a zombie has none


def test_the_log_may_be_emptied_while_it_is_written(make_pair):
    pair = make_pair()
    pair.create()
    pair.alpha("up", "vm1")
    log = pair.alpha.folder / "state/replicas/log"
    pair.alpha("primary", "--force", "vm1")
    wait_until(lambda: b": primary, " in log.read_bytes(), "words")
    os.truncate(log, 0)
    pair.alpha("secondary", "vm1")
    wait_until(log.read_bytes, "more of them")
    # Nobody was there when it happened.
    assert re.match(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4} blkmove: vm1: secondary, ", log.read_bytes())


# Whoever dials

def dial(pair, line=b"", source=None):
    stream = socket.create_connection((pair.alpha.address, pair.port), 60, (source or pair.beta.address, 0))
    stream.settimeout(60)
    if line:
        stream.sendall(line)
    return stream


def hear(stream):
    """All until the end; a stream that was closed with something unread is reset."""
    try:
        return stream.makefile("rb").read()
    except ConnectionResetError:
        return b""


@pytest.mark.parametrize("line, words", [
    (b"GET / HTTP/1.1\r\n", b"no greeting"),
    (b'{"blkmove-replica":2}\n', b"the same blkmove on both"),
    (b'{"blkmove-replica":1,"resource":"vm7","stream":"link","link":5,"ack":"durable"}\n', b"vm7 is not up on this host"),
    (b'{"blkmove-replica":1,"resource":"vm1","stream":"link","link":5,"ack":"durable"}\n', b"has a link still on alpha"),
    (b'{"blkmove-replica":1,"resource":"vm1","stream":"data","link":5,"ack":"durable"}\n', b'"ok":true'),  # of a link that is not: it ends at once
    (b'{"blkmove-replica":1,"resource":"vm1","stream":"link","link":5,"ack":"received"}\n', b"beta has `ack = received`, alpha `ack = durable`"),
    (b"x" * 600, b""),
])
def test_who_says_the_wrong_thing_is_refused_with_words(pair, line, words):
    with dial(pair, line) as stream:
        assert words in hear(stream)
    assert pair.alpha.status()["flow"] == "equal"


def test_hosts_whose_files_promise_different_things_do_not_meet(pair):
    """The primary would take for durable what the other has only in its memory."""
    pair.beta("down", "vm1")
    pair.write_file(ack="received")
    pair.beta.up()
    words = "beta has `ack = received`, alpha `ack = durable`: make their files of vm1 the same"
    wait_until(lambda: all(words in (node.status()["trying"] or "") for node in pair.nodes), "words at both")
    assert pair.alpha.status()["flow"] == "apart" and words.encode() in pair.alpha("status", "vm1").out
    pair.alpha("down", "vm1")
    pair.alpha.up()
    pair.wait_equal()
    assert pair.alpha.status()["trying"] is None


def test_strangers_are_not_listened_to(pair):
    with dial(pair, source="127.0.0.3") as stream:
        assert hear(stream) == b""


def test_silent_ones_do_not_keep_the_other_host_away(pair):
    pair.beta.kill()
    streams = [dial(pair) for _ in range(150)]
    pair.beta.up()
    pair.wait_equal()
    # The first were pushed out by the last.
    assert hear(streams[0]) == b""
    assert len(os.listdir(f"/proc/{pair.alpha.running.pid}/fd")) < 150
    for stream in streams:
        stream.close()


# TLS

def tls_keys(pair, kind, folder):
    if kind == "psk":
        return {"tls_psk": make_psk(folder / "keys.psk", "pair"), "tls_user": "pair"}
    return {"tls_certificates": make_certificates(folder, [node.address for node in pair.nodes])}


@pytest.mark.parametrize("kind", ["psk", "certificates"])
def test_over_tls(make_pair, random, folder, kind):
    pair = make_pair()
    pair.write_file(**tls_keys(pair, kind, folder))
    pair.begin()
    client = Client(pair.alpha.uri(), SIZE, random)
    client.start()
    pair.beta.kill()
    pair.alpha.wait(flow="apart")
    pair.beta.up()
    pair.wait_equal()
    client.stop()
    assert client.reconnects == 0 and client.writes > 0
    pair.assert_same()
    # Nobody hears anything in plain words.
    with dial(pair, b'{"blkmove-replica":1,"resource":"vm1","stream":"link","link":5,"ack":"durable"}\n') as stream:
        assert b"error" not in hear(stream)
    for node in pair.nodes:
        node.end()


def test_a_host_with_another_key_is_not_heard(make_pair, folder):
    pair = make_pair()
    pair.create()
    pair.write_file(**tls_keys(pair, "psk", folder))
    pair.alpha.up()
    (folder / "keys.psk").unlink()
    make_psk(folder / "keys.psk", "pair")
    pair.beta.up()
    said = wait_until(lambda: pair.beta.status()["trying"], "its words")
    assert said.startswith("alpha: ") and "greeting" not in said, said
    assert pair.alpha.status()["flow"] == "apart" and not pair.alpha.status()["linked"]
    pair.beta.kill()
    pair.write_file()
    pair.beta.up()
    assert wait_until(lambda: pair.beta.status()["trying"], "its words")
    assert not pair.alpha.status()["linked"]


def test_keys_that_cannot_be_read(make_pair, folder):
    pair = make_pair()
    pair.create()
    pair.write_file(tls_psk=folder / "none.psk", tls_user="pair")
    pair.alpha.up()
    assert str(folder / "none.psk") in pair.alpha.running.end(code=TROUBLE).err


def test_more_than_a_hundred_in_one_process(make_pair):
    names = [f"vm{i}" for i in range(1, 121)]
    pair = make_pair(65536, names=names)
    pair.create()
    for node in pair.nodes:
        node.up(names=names)
    assert len(os.listdir(f"/proc/{pair.alpha.running.pid}/task")) < 20
    for name in names:
        pair.alpha.ask({"command": "primary", "force": True}, name)
    for name in names:
        pair.alpha.wait(name, role="primary", order={**pair.alpha.status(name)["order"], "state": "done"})
        for node in pair.nodes:
            node.ask({"command": "connect"}, name)
    for name in names:
        pair.wait_equal(name)
        pair.assert_same(name)
    assert "replica-vm1.sock" in os.listdir(pair.alpha.folder / "run")
    for node in pair.nodes:
        node.end()
    assert not any(name.endswith(".sock") for name in os.listdir(pair.alpha.folder / "run"))


def test_a_hook_runs_before_good_data_become_half_of_something(make_pair):
    pair = make_pair()
    told = pair.folder / "told"
    pair.write_file(before_resync=f'echo $BLKMOVE_RESOURCE $BLKMOVE_HOST $BLKMOVE_PEER >> {told}; test ! -e {pair.folder}/no')
    pair.begin()
    assert not told.exists()
    pair.beta.kill()
    pair.alpha.wait(flow="apart")
    pair.alpha.write(b"y" * 4096, 0)
    (pair.folder / "no").touch()
    pair.beta.up()
    pair.beta.running.wait_for_words("before-resync failed (exit code 1)")
    assert told.read_text() == "vm1 beta alpha\n"
    assert pair.content(pair.beta)[:4096] != b"y" * 4096 and pair.beta.status()["good"]
    (pair.folder / "no").unlink()
    pair.connect()
    pair.wait_equal()
    pair.assert_same()


def test_a_primary_that_freezes_goes_on_when_the_hook_has_fenced(make_pair):
    pair = make_pair()
    pair.write_file(on_peer_gone="freeze", fence_hook=f"while ! test -e {pair.folder}/fenced; do sleep 0.05; done")
    pair.begin()
    pair.beta.kill()
    client = pair.alpha.open()
    done = []
    client.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(b"z" * 4096)), 0, completion=lambda error: done.append(error) or 1)
    pair.alpha.wait(frozen=True)
    client.poll(300)
    assert not done
    (pair.folder / "fenced").touch()
    wait_until(lambda: client.poll(100) >= 0 and done, "the write")
    pair.alpha.wait(frozen=False)
    client.shutdown()


def test_a_signal_ends_it_in_good_order(pair):
    pair.alpha.write(b"w" * 4096, 4096)
    pair.alpha.running.kill(signal.SIGTERM)
    pair.alpha.running.end()
    status = pair.beta.wait(linked=False)
    assert status["good"]
    # Nothing is lost: it may become primary without force.
    pair.beta("primary", "vm1")
    pair.assert_same()
