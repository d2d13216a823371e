# SPDX-License-Identifier: GPL-2.0-or-later
"""The classic move as one command, between two guests over ssh: an LVM volume whose file system guest/workload.py writes and checks all the while.

The stop command ends that work and its mount. Then the other guest has the same bytes, a clean file system and every file as it was last written, and
here nothing is left of the snapshots.
"""
import json
import signal
import time

import pytest

SIZE_M = 40
WORK = "/work"
PATIENCE_S = 900
KINDS = {"thin": """lvcreate -qqy --type thin-pool -L 100M --poolmetadatasize 4M -c 64k -Zn -n pool vg
                    lvcreate -qqy -Wn -V {size}M -T vg/pool -n live""",
         "thick": "lvcreate -qqy -Wn -L {size}M -n live vg"}
STOP = f"echo stopping; touch {WORK}/stop; while pgrep -x workload.py >/dev/null; do sleep 0.2; done; [ -e {WORK}/sums ]"


class Move:
    """vg/live here, the disk `target` there."""

    def __init__(self, pair, random, address="10.77.0.2"):
        self.here, self.there = pair
        self.random, self.address = random, address
        self.disk, self.target = self.here.add_disk("256M", "pv"), self.there.add_disk(f"{SIZE_M}M", "new")
        self.here.run("modprobe -a dm_thin_pool dm_snapshot")
        self.there.run("start-sshd")
        key = self.here.run("mkdir -p -m 700 /root/.ssh; ssh-keygen -q -t ed25519 -N '' -f /root/.ssh/id; cat /root/.ssh/id.pub").out
        self.there.put(key, "/root/.ssh/authorized_keys", "600")
        self.working = None

    def begin(self, kind):
        """A target full of other bytes, a volume, and work on it."""
        self.there.run(f"dd if=/dev/urandom of={self.target} bs=1M count={SIZE_M} conv=fsync status=none")
        self.here.run(f"rm -rf {WORK}; vgcreate -qq vg {self.disk}; {KINDS[kind].format(size=SIZE_M)}")
        # Both share one emulated processor. By even shares a round would move most of the volume each time, and none would be shorter.
        self.here.run("echo 0 >/proc/sys/kernel/sched_autogroup_enabled")
        # A thick volume that has snapshots takes no discards.
        self.working = self.here.start(["nice", "-n", "10", "workload.py", "/dev/vg/live", WORK, self.random.randrange(1 << 30),
                                        *(["no-trim"] if kind == "thick" else [])])
        self.working.wait_for("READY", timeout_s=PATIENCE_S)

    def words(self, *more, then=STOP):
        return ["blkmove", "sync", "--json", "--snapshot=auto", "--timeout=600", "--progress=none", "--ssh-option=-i/root/.ssh/id", "--ssh-option=-oStrictHostKeyChecking=no", "--then", then,
                *more, "/dev/vg/live", f"{self.address}:{self.target}"]

    def start(self, *more, **how):
        return self.here.start(self.words(*more, **how))

    def run(self, *more, code=0, **how):
        return self.events(self.start(*more, **how).wait(code, timeout_s=PATIENCE_S))

    @staticmethod
    def events(command):
        """What else is said (ssh, the stop command) is no event."""
        print(command.out)
        return [json.loads(line) for line in command.out.splitlines() if line.startswith("{")]

    def read_there(self):
        """How many bytes of the target were ever read, by the count of its disk."""
        return int(self.there.run(f"cat /sys/block/{self.target.removeprefix('/dev/')}/stat").out.split()[2]) * 512

    def check(self, events):
        """Nothing of this is blkmove's own word."""
        self.working.wait(timeout_s=PATIENCE_S)
        sums = [guest.run(f"dd if={disk} bs=1M iflag=direct status=none | md5sum").out for guest, disk in
                ((self.here, "/dev/vg/live"), (self.there, self.target))]
        assert sums[0] == sums[1]
        self.there.run(["e2fsck", "-fn", self.target])
        self.there.put(self.here.get(f"{WORK}/sums").decode(), "/tmp/sums")
        self.there.run(f"mkdir -p /m; mount -o ro {self.target} /m; cd /m; md5sum --quiet -c /tmp/sums; cd /; umount /m")
        assert events[-1]["outcome"] == "equal" and events[-1]["outage_seconds"] > 0
        self.nothing_is_left()

    def nothing_is_left(self):
        names = set(self.here.run("lvs --noheadings -o lv_name vg").out.split())
        assert names <= {"live", "pool"}, names
        assert not [line for line in self.here.run("dmsetup ls").out.splitlines() if "blkmove" in line]

    def end(self):
        self.here.run("vgremove -qqfy vg; wipefs -qa " + self.disk)


@pytest.fixture
def move(pair, random):
    return Move(pair, random)


def rounds(events):
    return [event for event in events if event["event"] == "round"]


def warnings(events):
    return [event["text"] for event in events if event["event"] == "warning"]


def killed_in_round(move, number):
    """kill -9, when a tracked round, of that number or a later one, has begun. Its agent notes whose writes were the last, and lets go."""
    running = move.start("--rounds=99", "--rate=2M")
    running.wait_for('"event":"state","state":"running"', number, timeout_s=PATIENCE_S)
    time.sleep(1)
    running.kill(signal.SIGKILL)
    running.wait(-signal.SIGKILL)
    move.there.run("while pgrep -x blkmove; do sleep 0.2; done")
    assert move.working.is_running(), move.working.out
    return running


@pytest.mark.parametrize("kind", KINDS)
def test_h25_killed_and_run_again(move, kind):
    """Killed in a round while the volume is in use; the same command, again, goes on from the base and comes to the end."""
    move.begin(kind)
    killed = killed_in_round(move, 3)
    print(killed.out)
    assert rounds(move.events(killed))[1]["tracked"]
    events = move.run("--rounds=until:300s")
    assert len(rounds(events)) >= 2 and all(event["tracked"] and event["changed"] > 0 for event in rounds(events)), rounds(events)
    move.check(events)
    move.end()


def test_verified_while_it_is_in_use(move):
    """--final-verify=sent: after the stop only what the last round has sent is read. A stop that fails leaves a base, and its way out."""
    move.begin("thin")
    events = move.run("--rounds=1", then="exit 5", code=9)
    assert "nothing was sent since" in events[-1]["worth"] and "is what the source was at" in events[-1]["worth"]
    assert move.working.is_running()
    before = move.read_there()
    running = move.start("--rounds=2", "--final-verify=sent", then=f"{STOP} && until [ -e {WORK}/noted ]; do sleep 0.2; done")
    running.wait_for("stopping", timeout_s=PATIENCE_S)
    at_stop = move.read_there()
    move.here.run(f"touch {WORK}/noted")
    events = move.events(running.wait(timeout_s=PATIENCE_S))
    assert [event["tracked"] for event in rounds(events)] == [True, True]
    # The target is read for nothing but that: whole after the first round, then what was sent. A little is read to see what lies there.
    *sent, last = [event["sent"] + event["zero"] for event in (*rounds(events), events[-1])]
    little, size = 4 << 20, SIZE_M << 20
    assert 0 <= at_stop - before - size - sent[1] <= little, (before, at_stop, sent)
    assert 0 <= move.read_there() - at_stop - last <= little and last + little < size, (at_stop, last)
    move.check(events)
    move.end()
