# SPDX-License-Identifier: GPL-2.0-or-later
"""H17: a volume that carries something when it becomes a replica's keeps every byte of it until somebody types the resource's name, or says that it counts."""
import hashlib
import json
import subprocess
import time

import pytest

from program import REFUSED, wait_until
from replica_hosts import Pair

MIB = 1 << 20
SIZE = 16 * MIB


def make_ext4(path):
    subprocess.run(["mkfs.ext4", "-q", "-F", "-L", "theirs", path], check=True, stdout=subprocess.DEVNULL)


def make_luks(path):
    """A header alone, of version 1."""
    with open(path, "r+b") as file:
        file.write(b"LUKS\xba\xbe\0\1" + b"aes".ljust(32, b"\0") + b"xts-plain64".ljust(32, b"\0") + b"sha256".ljust(32, b"\0"))
        file.seek(168)
        file.write(b"5f6f83a2-58bb-4b2b-9d4c-0f8e8a5d0c11")


CONTENTS = {"ext4": make_ext4, "crypto_LUKS": make_luks}


@pytest.fixture
def make_pair(program, folder, random, loops):
    pairs = []

    def make(**contents):
        """Loop devices, blank but for what is named for a node."""
        def volume(path):
            path.write_bytes(bytes(SIZE))
            device = loops.attach(path)
            if contents.get(path.parent.name):
                CONTENTS[contents[path.parent.name]](device)
            return device
        pairs.append(Pair(program, folder, random, SIZE, make=volume))
        return pairs[-1]
    yield make
    for pair in pairs:
        for node in pair.nodes:
            node("down", "--all", code=None)


def digest(pair, node):
    return hashlib.sha256(pair.content(node)).hexdigest()


def said(node):
    return node("status", "vm1").out.decode()


def create(node, *words, **how):
    return node("create", *words, "vm1", **how)


def begin(node, *words):
    create(node, *words)
    node("up", "vm1")


def wait_refused(pair):
    """Who finds out first hangs up."""
    refused = wait_until(lambda: [node for node in pair.nodes if node.status()["refusal"] and not node.status()["linked"]], "a refusal")
    return refused[0], refused[0].status()


@pytest.mark.parametrize("content", CONTENTS)
def test_h17_a_secondary_keeps_what_it_carries_until_its_name_is_typed(make_pair, content, random):
    pair = make_pair(alpha="ext4", beta=content)
    begin(pair.alpha)
    pair.alpha("primary", "--force", "vm1")
    pair.alpha.write(random.randbytes(100000), 4 * MIB)
    before = digest(pair, pair.beta)
    words = create(pair.beta).out.decode()
    assert content in words and "`blkmove replicate resolve --discard-mine vm1 vm1`" in words, words
    assert json.loads(pair.beta("show", "--json", "vm1").out)["map"]["foreign"] is True
    pair.beta("up", "vm1")
    for _ in range(2):
        who, status = wait_refused(pair)
        assert (status["relation"], status["verdict"]) == ("self-foreign" if who is pair.beta else "peer-foreign", "strangers")
        assert "resolve --discard-mine" in status["refusal"] and "`blkmove replicate resolve vm1 --discard-mine vm1`" in said(who)
        assert pair.beta.status()["foreign"] and digest(pair, pair.beta) == before
        pair.connect()
    # Of whatever happened it is known after a restart.
    pair.beta("down", "vm1")
    pair.beta("up", "vm1")
    wait_refused(pair)
    assert f"all that is on {pair.beta.volume()}" in pair.beta("resolve", "vm1", code=REFUSED).err
    assert "--discard-mine=vm2 is not" in pair.beta("resolve", "--discard-mine=vm2", "vm1", code=REFUSED).err
    # What the other gives up is not this one's: a primary's is not, and nothing has come here.
    assert "this node is primary" in pair.alpha("resolve", "--discard-mine=vm1", "vm1", code=REFUSED).err
    pair.alpha("connect", "vm1")
    time.sleep(1)
    assert digest(pair, pair.beta) == before
    pair.beta("resolve", "--discard-mine=vm1", "vm1")
    pair.alpha("connect", "vm1")
    pair.wait_equal()
    pair.assert_same()
    assert not pair.beta.status()["foreign"] and digest(pair, pair.beta) != before


def test_h17_what_the_foreign_one_carries_may_count(make_pair):
    """The normal way to begin: nothing more is typed than for a blank one."""
    pair = make_pair(beta="ext4")
    before = digest(pair, pair.beta)
    for node in pair.nodes:
        begin(node)
    assert wait_refused(pair)[1]["relation"] == "both-new"
    pair.beta("primary", "--force", "vm1")
    assert not pair.beta.status()["foreign"]
    pair.connect()
    pair.wait_equal()
    pair.assert_same()
    assert digest(pair, pair.alpha) == before


def test_h17_a_blank_primary_does_not_overwrite_a_foreign_one(make_pair):
    pair = make_pair(beta="ext4")
    before = digest(pair, pair.beta)
    begin(pair.alpha)
    pair.alpha("primary", "--force", "vm1")
    begin(pair.beta)
    wait_refused(pair)
    assert digest(pair, pair.beta) == before
    # Nor does anybody else lose anything when it is the foreign one's data that were meant.
    pair.alpha("secondary", "vm1")
    pair.beta("disconnect", "vm1")
    pair.beta("primary", "--force", "vm1")
    pair.alpha("resolve", "--discard-mine=vm1", "vm1")
    pair.beta("connect", "vm1")
    pair.wait_equal()
    assert digest(pair, pair.alpha) == digest(pair, pair.beta) == before


@pytest.mark.parametrize("words", [["--discard-mine=vm1"], ["--overwrite=vm1"]])
def test_h17_it_may_be_said_when_the_map_is_made(make_pair, words):
    pair = make_pair(alpha="ext4", beta="ext4")
    begin(pair.alpha)
    pair.alpha("primary", "--force", "vm1")
    assert "--discard-mine=vm2 is not the resource's name, vm1" in create(pair.beta, "--discard-mine=vm2", code=REFUSED).err
    if words[0].startswith("--overwrite"):
        create(pair.beta)
        assert "--overwrite=vm1" in create(pair.beta, "--discard-mine=vm1", code=REFUSED).err
    begin(pair.beta, *words)
    pair.wait_equal()
    pair.assert_same()
