# SPDX-License-Identifier: GPL-2.0-or-later
"""blkmove replicate up --resync-rate, --latency-target: what the resyncs of all resources of a process may take together."""
import pytest

from program import TROUBLE, wait_until
from replica_hosts import Pair

MIB = 1 << 20
NAMES = ("vm1", "vm2")


@pytest.fixture
def pair(program, folder, random):
    pair = Pair(program, folder, random, 24 * MIB, names=NAMES)
    yield pair
    pair.close()


def begin(pair, *words, **of_first):
    """All of both is to be copied from alpha, which has these words, and begins at once."""
    pair.write_file("vm1", **of_first)
    pair.create()
    pair.alpha.up(*words, names=NAMES)
    pair.beta.up("--no-connect", names=NAMES)
    for name in NAMES:
        pair.alpha("primary", "--force", name)
    for name in NAMES:
        pair.beta("connect", name)


def rates(pair):
    return [pair.alpha.status(name)["rate"] for name in NAMES]


def test_they_share_one_rate(pair):
    begin(pair, "--resync-rate=6M")
    status = pair.alpha.status("vm1")
    assert (status["common_rate_limit"], status["rate_limit"]) == (6 * MIB, 0)
    now = wait_until(lambda: (now := rates(pair)) and min(now) > 2.7 * MIB and sum(now) < 6.1 * MIB and now, "half of it for each")
    assert sum(now) > 5.5 * MIB, now
    for name in NAMES:
        pair.wait_equal(name)
        pair.assert_same(name)


def test_what_one_may_not_take_is_for_the_others(pair):
    begin(pair, "--resync-rate=6M", resync_rate="1M")
    wait_until(lambda: rates(pair)[0] == MIB and rates(pair)[1] > 4.5 * MIB, "the other has the rest", 20)
    pair.wait_equal("vm2")
    assert pair.alpha.status("vm1")["flow"] == "sending"
    said = pair.alpha("resync", "--rate=none", "vm1")
    assert said.code == 0
    wait_until(lambda: rates(pair)[0] > 5 * MIB, "it has all")
    pair.wait_equal("vm1")


def test_one_that_is_governed_by_the_latency_of_all_has_a_rate(pair):
    begin(pair, "--latency-target=5ms")
    assert wait_until(lambda: rates(pair), "rates")[0] > 0
    assert pair.alpha.status("vm2")["common_latency_target_ms"] == 5 and pair.alpha.status("vm2")["latency_target_ms"] == 0
    for name in NAMES:
        pair.wait_equal(name)
        pair.assert_same(name)


@pytest.mark.parametrize("word", ["--resync-rate=fast", "--latency-target=soon", "--resync-rate="])
def test_bad_limits_are_refused(pair, word):
    said = pair.alpha("up", word, "vm1", code=TROUBLE).err
    assert f"{word}: write " in said, said
