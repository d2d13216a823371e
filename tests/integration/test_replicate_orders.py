# SPDX-License-Identifier: GPL-2.0-or-later
"""blkmove replicate, typed at two real processes: each order's end, each refusal's words and code, and what status says comes next."""
import json
import os
import re
import signal
import socket
import subprocess
import time

import nbd
import pytest

from program import DIFFERS, LOCKED, OK, REFUSED, TROUBLE, wait_until
from replica_hosts import Pair

MIB = 1 << 20
SIZE = 8 * MIB


def order(node, verb, *words, **how):
    return node(verb, *words, "vm1", **how)


@pytest.fixture
def fresh(program, folder, random):
    """Nothing is made yet."""
    pair = Pair(program, folder, random, SIZE)
    yield pair
    pair.close()


@pytest.fixture
def pair(fresh):
    """In sync, and alpha is primary."""
    for node in fresh.nodes:
        order(node, "create")
        order(node, "up")
        if node is fresh.alpha:
            order(node, "primary", "--force")
    fresh.wait_equal()
    return fresh


def said(node):
    return order(node, "status").out.decode()


def next_of(node):
    found = re.search(r"^  next: (.*)$", said(node), re.M)
    return found.group(1) if found else None


def split(pair):
    """Both are primary, and wrote."""
    order(pair.alpha, "disconnect")
    pair.beta.wait(linked=False)
    order(pair.beta, "primary", "--force")
    pair.alpha.write(b"1" * 4096, 0)
    pair.beta.write(b"2" * 4096, MIB)
    order(pair.alpha, "connect")
    for node in pair.nodes:
        wait_until(lambda node=node: node.status()["refusal"], "a refusal")


# The first time

def test_the_first_primary_is_asked_for_by_force(fresh):
    order(fresh.alpha, "create")
    order(fresh.alpha, "up")
    assert "`blkmove replicate primary --force vm1`" in next_of(fresh.alpha)
    text = order(fresh.alpha, "primary", code=REFUSED).err
    assert "this node's data are not good" in text
    assert "were never replicated" in text and "beta gets it, over whatever it holds; --force does it all the same" in text
    assert fresh.alpha.status()["role"] == "secondary"
    done = order(fresh.alpha, "primary", "--force").out.decode()
    assert "this node    primary    good" in done and fresh.alpha.uri() in done
    assert next_of(fresh.alpha) is None


def test_both_up_before_one_is_primary(fresh):
    for node in fresh.nodes:
        order(node, "create")
        order(node, "up")
    wait_until(lambda: fresh.alpha.status()["refusal"] and fresh.beta.status()["refusal"], "refusals")
    assert "neither node's data were ever replicated" in said(fresh.alpha)
    assert "`blkmove replicate primary --force vm1`; then `blkmove replicate connect vm1` on both" in next_of(fresh.alpha)
    order(fresh.alpha, "primary", "--force")
    order(fresh.alpha, "connect")
    order(fresh.beta, "connect")
    fresh.beta.wait(flow="equal", good=True)
    assert fresh.content(fresh.beta) == fresh.content(fresh.alpha)


def test_up_without_a_map(fresh):
    assert "`blkmove replicate create vm1` makes one" in order(fresh.alpha, "up", code=TROUBLE).err
    assert "next: `blkmove replicate create vm1`" in said(fresh.alpha)


def test_one_that_failed_is_up_again_without_the_others(program, folder, random):
    """Its process lives on with another resource, and has its name."""
    pair = Pair(program, folder, random, SIZE, names=("vm1", "vm2"))
    try:
        pair.port += 1000  # two processes cannot share one
        pair.write_file("vm2")
        order(pair.alpha, "create")
        assert "`blkmove replicate create vm2` makes one" in pair.alpha("up", "vm1", "vm2", code=TROUBLE).err
        assert "next: mend that, then `blkmove replicate up vm2`" in pair.alpha("status", "vm2").out.decode()
        pair.alpha("create", "vm2")
        assert pair.alpha("up", "--all").out == b"vm1: it is up already\nvm2: up\n"
        assert pair.alpha.state("vm1") == pair.alpha.state("vm2") == "up"
        pair.alpha("down", "vm2")
        volume = pair.alpha.volume("vm2")
        volume.rename(volume.with_suffix(".gone"))
        pair.alpha("down", "vm1")
        pair.alpha("up", "--all", code=TROUBLE)
        volume.with_suffix(".gone").rename(volume)
        assert pair.alpha("up", "vm2").out == b"vm2: up\n"
    finally:
        pair.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a mount namespace, and port 53")
def test_names_that_no_server_answers_keep_nobody_waiting(fresh, folder):
    server = f"{fresh.alpha.address.rpartition('.')[0]}.53"
    (folder / "resolv.conf").write_text(f"nameserver {server}\n")
    text = (fresh.files / "vm1.ini").read_text()
    (fresh.files / "vm1.ini").write_text(text.replace(f"{fresh.beta.address}:", "beta.example:"))
    order(fresh.alpha, "create")
    fresh.alpha.prefix = ["unshare", "-m", "sh", "-c", f'mount --bind {folder}/resolv.conf /etc/resolv.conf && exec "$@"', "-"]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind((server, 53))
        order(fresh.alpha, "up")
        # It is looked up still.
        assert fresh.alpha.status()["trying"] is None
        order(fresh.alpha, "primary", "--force")
        fresh.alpha.wait(serving=True)
        wait_until(lambda: "cannot find the address beta.example" in said(fresh.alpha), "the end of the lookup")


# Both in sync

def test_in_sync_nothing_is_to_do(pair):
    assert said(pair.alpha).startswith("vm1: in sync with beta\n  this node    primary    good\n  beta         secondary  good\n")
    assert said(pair.beta).startswith("vm1: in sync with alpha\n  this node    secondary  good\n  alpha        primary    good\n")
    assert next_of(pair.alpha) is None and next_of(pair.beta) is None
    line = pair.program("status", env=pair.alpha.env).out.decode()
    assert line == f"vm1  {pair.alpha.volume()}  primary, good, in sync with beta; clients: 0\n"


@pytest.mark.parametrize("words, needle", [
    (["primary"], "the other node is primary, or about to be"),
    (["primary", "--force"], "the other node is primary, or about to be"),
    (["verify"], "alpha"),
    (["hand-over", "--to=three"], "--to=three: the other node of vm1 is alpha"),
    (["resolve"], "Nothing brings it back"),
    (["resolve", "--discard-mine=vm2"], "--discard-mine=vm2 is not the resource's name, vm1"),
    (["fenced"], "is linked to alpha: it is not fenced"),
])
def test_what_a_secondary_refuses(pair, words, needle):
    text = order(pair.beta, *words, code=(REFUSED, TROUBLE)).err
    assert needle in text and "replica-vm1" not in text
    assert pair.beta.status()["role"] == "secondary" and pair.alpha.status()["role"] == "primary"


def test_a_secondary_is_not_made_of_one_with_clients(pair):
    client = nbd.NBD()
    client.connect_uri(pair.alpha.uri())
    assert "1 client is attached to vm1; end it first, or cut it off with --force" in order(pair.alpha, "secondary", code=REFUSED).err
    client.pwrite(b"x" * 512, 0)
    order(pair.alpha, "secondary", "--force")
    with pytest.raises(nbd.Error):
        client.pread(512, 0)
    assert pair.alpha.status()["role"] == "secondary"
    order(pair.alpha, "secondary")


def test_the_nodes_change_their_parts_as_planned(pair):
    pair.alpha.write(b"1" * 4096, 4096)
    order(pair.alpha, "secondary")
    order(pair.beta, "primary")
    pair.beta.write(b"2" * 4096, 8192)
    order(pair.alpha, "down")
    assert "vm1: down; by its map this node's data are good" in said(pair.alpha)
    pair.beta.write(b"3" * 4096, 12288)
    order(pair.alpha, "up")
    pair.alpha.wait(flow="equal", good=True)
    order(pair.beta, "secondary")
    data = pair.content(pair.alpha)
    assert data == pair.content(pair.beta) and data[4096:16384] == b"1" * 4096 + b"2" * 4096 + b"3" * 4096


def test_verify_says_what_differs(pair):
    text = order(pair.alpha, "verify", "--wait").out.decode()
    assert "vm1: 8.0 MiB compared: 0 B differ, 0 B could not be compared" in text
    with open(pair.beta.volume(), "r+b") as file:
        file.seek(5 * MIB)
        file.write(b"bad" * 100)
        file.flush()
        os.fsync(file.fileno())
    text = order(pair.alpha, "verify", "--wait", code=DIFFERS).out.decode()
    assert f"differs: offset {5 * MIB} length 4096\nvm1: 8.0 MiB compared: 4.0 KiB differ" in text
    assert "verification done, 100%, 4.0 KiB differ" in said(pair.alpha)
    for node in pair.nodes:
        node.wait(flow="differing", out_of_sync=65536)
        assert "vm1: out of sync with" in said(node) and "  out of sync: 65536 bytes\n" in said(node) and "in sync with" not in said(node)
    assert "`blkmove replicate resync vm1`" in next_of(pair.alpha)
    verified = json.loads(order(pair.alpha, "verify", "--wait", "--json", "--resync", code=DIFFERS).out)
    assert verified["state"] == "done" and verified["differing"] == 4096 and verified["ranges"] == [{"offset": 5 * MIB, "length": 4096}]
    for node in pair.nodes:
        node.wait(flow="equal", out_of_sync=0)
    assert pair.content(pair.alpha) == pair.content(pair.beta)
    order(pair.alpha, "verify", "--wait")
    assert "vm1: in sync with" in said(pair.alpha)


def spoil(node, offset):
    """Behind its process' back."""
    with open(node.volume(), "r+b") as file:
        file.seek(offset)
        file.write(b"bad" * 100)
        file.flush()
        os.fsync(file.fileno())


def test_h07_what_verify_marked_is_kept_until_resync(pair):
    spoil(pair.beta, 3 * MIB + 4096)
    order(pair.alpha, "verify", "--wait", code=DIFFERS)
    for node in pair.nodes:
        node.wait(flow="differing", out_of_sync=65536)
    # Clients go on, on both sides, and what they do takes no mark away.
    pair.alpha.write(b"w" * 65536, 3 * MIB)
    pair.alpha.write(b"v" * 4096, MIB)
    spoil(pair.beta, 3 * MIB + 8192)
    time.sleep(3)
    assert pair.content(pair.alpha) != pair.content(pair.beta)
    assert pair.beta.status()["out_of_sync"] == 65536
    # A pass that begins behind it finds nothing, and that is not the whole truth.
    assert pair.alpha.ask({"command": "verify", "from": 6 * MIB})["ok"]
    wait_until(lambda: pair.alpha.status()["verify"]["state"] == "done", "its end")
    assert "nothing else differs" in said(pair.alpha)
    order(pair.alpha, "verify", "--wait", code=DIFFERS)
    error = order(pair.alpha, "hand-over", code=REFUSED).err
    assert "let `resync` send it first" in error
    assert "give resync on alpha" in order(pair.beta, "resync", code=REFUSED).err
    assert "done" in order(pair.alpha, "resync").out.decode()
    for node in pair.nodes:
        node.wait(flow="equal", out_of_sync=0)
    assert pair.content(pair.alpha) == pair.content(pair.beta)
    order(pair.beta, "resync")


def test_what_verify_marked_survives_its_process(pair):
    for victim in pair.nodes:
        spoil(pair.beta, 3 * MIB + 4096)
        found = order(pair.alpha, "verify", "--wait", code=DIFFERS).out.decode()
        assert f"differs: offset {3 * MIB + 4096} length 4096\n" in found and "vm1: out of sync: 65536 bytes" in found
        os.kill(victim.status()["pid"], signal.SIGKILL)
        wait_until(lambda: victim.state() == "down", "its end")
        order(victim, "up")
        for node in pair.nodes:
            node.wait(flow="equal", out_of_sync=0)
        assert pair.content(pair.alpha) == pair.content(pair.beta)
        if victim is pair.alpha:
            order(pair.alpha, "primary")
    # Who gives up its role sends it first.
    spoil(pair.beta, MIB)
    order(pair.alpha, "verify", "--wait", code=DIFFERS)
    order(pair.alpha, "secondary")
    order(pair.beta, "primary")
    assert pair.content(pair.alpha) == pair.content(pair.beta)


def test_verify_does_not_wait_for_a_pause_that_was_forgotten(pair):
    order(pair.alpha, "resync", "--pause")
    text = order(pair.alpha, "verify", "--wait", code=REFUSED).err
    assert "is held by `resync --pause`" in text and "`blkmove replicate resync vm1 --continue` first" in text
    order(pair.alpha, "resync", "--continue")
    order(pair.alpha, "verify", "--rate=1M")
    order(pair.alpha, "resync", "--pause")
    assert "`blkmove replicate resync vm1 --continue`" in next_of(pair.alpha)
    order(pair.alpha, "resync", "--continue")
    assert next_of(pair.alpha) is None
    order(pair.alpha, "verify", "--stop")


def test_verify_is_stopped_and_goes_on(pair):
    order(pair.alpha, "verify", "--rate=1M")
    wait_until(lambda: pair.alpha.status()["verify"]["position"] > 0, "progress")
    assert "verification running" in said(pair.alpha)
    order(pair.alpha, "verify", "--stop")
    stopped = pair.alpha.status()["verify"]
    assert stopped["state"] == "stopped" and 0 < stopped["position"] < SIZE
    order(pair.alpha, "verify", "--continue", "--rate=1M")
    assert pair.alpha.status()["verify"]["position"] >= stopped["position"]
    assert "being verified already" in order(pair.alpha, "verify", code=REFUSED).err
    assert "give it on alpha" in order(pair.beta, "verify", "--wait", code=REFUSED).err
    order(pair.alpha, "verify", "--stop")


def test_verify_that_was_stopped_waits_for_the_clock(fresh):
    fresh.write_file(verify_every="1h")
    fresh.begin()
    order(fresh.alpha, "verify", "--rate=1M")
    wait_until(lambda: fresh.alpha.status()["verify"]["position"] > 0, "progress")
    order(fresh.alpha, "verify", "--stop")
    stopped = fresh.alpha.wait()["verify"]
    time.sleep(1)  # ten times as long as the clock takes to look
    now = fresh.alpha.status()["verify"]
    assert (now["state"], now["position"]) == ("stopped", stopped["position"]), now


def test_up_create_and_down_of_what_is_up(pair):
    assert "`blkmove replicate down vm1` ends it" in order(pair.alpha, "create", "--overwrite=vm1", code=LOCKED).err
    assert order(pair.alpha, "up").out == b"vm1: it is up already\n"
    assert "`blkmove replicate down vm1` ends it" in order(pair.alpha, "up", "--foreground", code=LOCKED).err
    assert pair.alpha.status()["role"] == "primary"
    assert order(pair.alpha, "down").out == b"vm1: down\n"
    assert "vm1 is not up on this machine" in order(pair.alpha, "down", code=TROUBLE).err
    pair.beta("down", "--all")
    assert pair.beta.state() == "down"


def test_down_cuts_no_client_off_unasked(pair):
    client = pair.alpha.open()
    assert "1 client is attached to vm1; end it first, or cut it off with --force" in order(pair.alpha, "down", code=REFUSED).err
    client.pwrite(b"3" * 512, 512)
    assert pair.alpha.status()["role"] == "primary"
    assert order(pair.alpha, "down", "--force").out == b"vm1: down\n"
    with pytest.raises(nbd.Error):
        client.pread(512, 512)
    assert pair.content(pair.beta)[512:1024] == b"3" * 512


# Apart

def test_an_outdated_node_is_primary_only_by_force(pair):
    order(pair.alpha, "disconnect")
    pair.beta.wait(linked=False, outdated=True)
    assert "`blkmove replicate connect vm1`" in next_of(pair.alpha)
    assert "this node    secondary  outdated" in said(pair.beta)
    text = order(pair.beta, "primary", code=REFUSED).err
    assert "alpha has gone on without this node: what it wrote since is not here" in text and "--force does it all the same" in text
    assert pair.beta.status()["role"] == "secondary"


def test_a_primary_that_was_lost_is_followed_only_by_a_word(pair):
    pid = pair.alpha.status()["pid"]
    os.kill(pid, 9)
    pair.beta.wait(linked=False)
    text = order(pair.beta, "primary", code=REFUSED).err
    assert "alpha was primary when this node heard of it last" in text and "`blkmove replicate fenced vm1`" in text
    order(pair.beta, "fenced")
    order(pair.beta, "primary")
    assert pair.beta.status()["role"] == "primary"


def test_split_brain_is_ended_by_a_name(pair):
    split(pair)
    for node in pair.nodes:
        assert "refused: both nodes went on, each by itself, from the same data" in said(node)
        assert "`blkmove replicate resolve vm1 --discard-mine vm1`" in next_of(node)
    assert "this node is primary" in order(pair.alpha, "resolve", "--discard-mine=vm1", code=REFUSED).err
    order(pair.alpha, "secondary")
    text = order(pair.alpha, "resolve", code=REFUSED).err
    assert "what only this node (alpha) has is lost by this, up to" in text and f"copy {pair.alpha.volume()} first" in text
    order(pair.alpha, "resolve", "--discard-mine", "vm1")
    order(pair.beta, "connect")
    pair.alpha.wait(flow="equal", good=True)
    order(pair.beta, "secondary")
    data = pair.content(pair.alpha)
    assert data == pair.content(pair.beta) and data[MIB:MIB + 4096] == b"2" * 4096 and data[:4096] != b"1" * 4096


# The resync

def test_a_resync_is_held_and_limited(fresh):
    for node in fresh.nodes:
        order(node, "create")
    order(fresh.alpha, "up", "--quiet")
    order(fresh.alpha, "primary", "--force")
    order(fresh.alpha, "resync", "--pause", "--rate=2M")
    order(fresh.beta, "up")
    assert not fresh.alpha.wait(flow="sending", paused=True)["peer_good"]
    assert re.search(r"\[\.{24}\] \d+%  8.0 MiB left, .*, held$", said(fresh.alpha), re.M), said(fresh.alpha)
    assert "`blkmove replicate resync vm1 --continue`" in next_of(fresh.alpha)
    assert "this node    secondary  inconsistent" in said(fresh.beta) and "on alpha says how much is left" in said(fresh.beta)
    for words in (["--pause"], ["--rate=1M"], []):
        assert "give resync on alpha" in order(fresh.beta, "resync", *words, code=REFUSED).err, words
    begun = time.monotonic()
    order(fresh.alpha, "resync", "--continue")
    fresh.beta.wait(flow="equal", good=True)
    fresh.alpha.wait(flow="equal", peer_good=True)
    assert time.monotonic() - begun > 2, "the limit was not heeded"


# The size

def test_a_larger_size_is_taken_over(pair):
    before = pair.alpha.open()
    os.truncate(pair.alpha.volume(), 2 * SIZE)
    assert "the other node's volume cannot be made that large" in order(pair.alpha, "resize", code=REFUSED).err
    os.truncate(pair.beta.volume(), SIZE + MIB)
    order(pair.alpha, "resize", f"--size={SIZE + MIB}")
    for node in pair.nodes:
        node.wait(total=SIZE + MIB, flow="equal", good=True)
    pair.alpha.write(b"9" * 4096, SIZE + MIB - 4096)
    assert pair.content(pair.beta)[SIZE + MIB - 4096:] == b"9" * 4096
    # Who was there before may go as far, whatever he was told.
    before.set_strict_mode(0)
    before.pwrite(b"8" * 4096, SIZE + MIB - 4096)
    assert before.pread(4096, SIZE + MIB - 4096) == b"8" * 4096
    before.shutdown()


def test_a_size_that_this_nodes_device_lacks(pair):
    """The other one must not be larger by then: they would part and not meet again."""
    os.truncate(pair.alpha.volume(), SIZE + 4096)
    os.truncate(pair.beta.volume(), SIZE + MIB)
    why = order(pair.alpha, "resize", f"--size={SIZE + MIB}", code=REFUSED).err
    assert f"{pair.alpha.volume()} has {SIZE + 4096} bytes, and {SIZE + MIB} are wanted" in why, why
    for node in pair.nodes:
        assert (node.status()["flow"], node.status()["total"]) == ("equal", SIZE)


# Following

def test_who_follows_events_ends_when_nobody_reads_them(pair):
    reader, writer = os.pipe()
    with open(writer, "wb") as out:
        following = subprocess.Popen([pair.program.path, "replicate", "status", "--host=alpha", "--json", "--watch", "vm1"],
                                     env=dict(pair.program.env, **pair.alpha.env), stdout=out, stderr=subprocess.PIPE)
    with open(reader, "rb") as lines:
        assert json.loads(lines.readline())["name"] == "vm1"
    assert following.communicate(timeout=60)[1] == b"" and following.returncode == OK


def test_who_watches_sees_the_end_of_a_silence(pair):
    running = pair.program.start("replicate", "status", "--watch=0.2", "--host=alpha", "vm1", env=pair.alpha.env)
    wait_until(lambda: b"in sync with beta" in running.out(), "the first one")
    pid = pair.alpha.status()["pid"]
    os.kill(pid, signal.SIGSTOP)
    running.wait_for_words("vm1")
    os.kill(pid, signal.SIGCONT)
    before = len(running.out())
    wait_until(lambda: b"in sync with beta" in running.out()[before:], "its return")
    running.kill()
    running.end(-9)


def test_events_come_when_something_changes(pair):
    running = pair.program.start("replicate", "status", "--json", "--watch", "--host=alpha", "vm1", env=pair.alpha.env)

    def events():
        return [json.loads(line) for line in running.out().splitlines()]
    wait_until(events, "the first one")
    order(pair.alpha, "secondary")
    wait_until(lambda: events()[-1]["role"] == "secondary", "another role")
    order(pair.alpha, "down")
    wait_until(lambda: events()[-1]["state"] == "down", "its end")
    order(pair.alpha, "up")
    wait_until(lambda: events()[-1].get("flow") == "equal", "its return")
    running.kill()
    running.end(-9)


# Hand-over

def test_handed_over_at_once(pair):
    pair.alpha.write(b"1" * 4096, 0)
    assert "handed over: beta is primary" in order(pair.alpha, "hand-over", "--at-once", "--to=beta").out.decode()
    assert (pair.alpha.status()["role"], pair.beta.status()["role"]) == ("secondary", "primary")
    pair.beta.write(b"2" * 4096, 4096)
    with pytest.raises(nbd.Error):
        pair.alpha.write(b"x" * 512, 0)
    order(pair.beta, "secondary")
    data = pair.content(pair.alpha)
    assert data[:8192] == b"1" * 4096 + b"2" * 4096 and data == pair.content(pair.beta)


def test_handed_over_by_the_first_write(pair):
    old = nbd.NBD()
    old.connect_uri(pair.alpha.uri())
    running = pair.program.start("replicate", "hand-over", "--lease=20s", "vm1", env=pair.alpha.env)
    pair.beta.wait(leased=True, serving=True)
    assert "a hand-over is under way" in said(pair.alpha)
    new = nbd.NBD()
    new.connect_uri(pair.beta.uri())
    old.pwrite(b"1" * 4096, 0)
    assert new.pread(4096, 0) == b"1" * 4096
    assert pair.alpha.status()["role"] == "primary" and running.is_running()
    new.pwrite(b"2" * 4096, 4096)
    running.end(OK)
    assert (pair.alpha.status()["role"], pair.beta.status()["role"]) == ("secondary", "primary")
    with pytest.raises(nbd.Error):
        old.pwrite(b"x" * 4096, 0)
    assert new.pread(8192, 0) == b"1" * 4096 + b"2" * 4096


def test_a_lease_that_nobody_uses_ends(pair):
    text = order(pair.alpha, "hand-over", "--lease=1s", code=REFUSED).err
    assert "nobody wrote at the other node while the lease lasted" in text
    assert (pair.alpha.status()["role"], pair.beta.status()["role"]) == ("primary", "secondary")
    pair.alpha.write(b"1" * 4096, 0)
