#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""A volume on two machines, by blkmove and by DRBD, side by side in the same two guests; prints a section of docs/BENCHMARKS-guest.md.

    BLKMOVE=build/src/cli/blkmove tests/vm/bench_replica.py [--kernel 6.12] [--runs 3] [--size 256]

Guests are emulated: seconds are those of this machine, and mean little by themselves; how the ways compare is what counts. At the end of each run both
disks are compared byte by byte, and must hold all that was written.
"""
import argparse
import json
import os
import pathlib
import shutil
import signal
import statistics
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "lib"), str(HERE.parent / "bench")]

import machine  # noqa: E402
import qemu  # noqa: E402
import vm  # noqa: E402
from contest import MIB, progress, table  # noqa: E402
from program import executable  # noqa: E402
from replica_ways import DEAD_S, TUNED, WAYS  # noqa: E402

IN_MEMORY = "/dev/shm"
BLOCK = 4096
REGION = 64 << 10  # what blkmove's map has a bit for; DRBD's has one for BLOCK
WRITING_S = 10
OUTAGE_S, OUTAGE_WRITES, OUTAGE_RATE = 10, 2000, 400
BUSY_S = 30
MTU = 9000
PATIENCE_S = 900
FIO = "fio --name=writes --rw=randwrite --bs=4k --direct=1 --output-format=json"
ONE, MANY = "--ioengine=psync", "--ioengine=libaio --iodepth=32"


def random_file(path, size):
    """A new one, or what a disk of a guest that runs has from now on."""
    path.touch()
    with open(path, "r+b") as file:
        for _ in range(size // MIB):
            file.write(os.urandom(MIB))
    return path


def differing_blocks(one, other, length=BLOCK):
    """How many blocks of this length, of two files of a size, are not the same."""
    found = 0
    with open(one, "rb") as first, open(other, "rb") as second:
        while part := first.read(MIB):
            same = second.read(MIB)
            if part != same:
                found += sum(part[at:at + length] != same[at:at + length] for at in range(0, len(part), length))
    return found


class States:
    """What a guest says of its replica, as guest/replica_states.py prints it; the times are that guest's."""

    def __init__(self, guest, kind):
        self.guest, self.words, self.command = guest, ["replica_states.py", kind], None

    def __enter__(self):
        self.command = self.guest.start(self.words)
        self.command.wait_for("\n")
        return self

    def __exit__(self, *_):
        """Who writes is not to be held up by who watches."""
        self.command.kill()
        self.command.wait(code=None)

    def said(self, word, since_s):
        rows = [line.split() for line in self.command.out.splitlines()]
        return next((float(row[0]) for row in rows if len(row) == 2 and row[1] == word and float(row[0]) >= since_s), None)

    def wait_for(self, word, since_s):
        """When that is so for the first time since then."""
        end = time.monotonic() + PATIENCE_S
        while (found := self.said(word, since_s)) is None:
            assert self.command.is_running() and time.monotonic() < end, f"waited in vain for '{word}'; states:\n{self.command.out}"
            time.sleep(0.1)
        return found

    def resync(self, since_s):
        """(begin, end) of the next resync. One that is over too soon to be seen began when it ended."""
        over = self.wait_for("in-sync", since_s)
        begun = self.said("resync", since_s)
        return (begun if begun and begun < over else over), over


class Bench:
    """Two guests; `source` writes, `target` follows."""

    def __init__(self, guests, folder, size):
        self.guests, self.folder, self.size = guests, folder, size
        self.source, self.target = guests
        self.seed = 0
        self.fio_cpu_s = None
        for guest in guests:
            guest.run(f"modprobe nbd; ip link set eth0 mtu {MTU}")

    def path(self, guest, name="data"):
        return self.folder / f"{name}{guest.node}"

    def new_disks(self):
        for guest in self.guests:
            guest.add_disk(qemu.file_disk(random_file(self.path(guest), self.size), "data"))
            guest.add_disk(qemu.file_disk(qemu.new_file(self.path(guest, "meta"), 64 * MIB), "meta"))

    def remove_disks(self):
        for guest in self.guests:
            guest.remove_disks()

    def cpu_s(self):
        """What both guests have cost. A busy machine makes seconds longer, but not these."""
        words = [pathlib.Path(f"/proc/{guest.process.pid}/stat").read_text().rsplit(")", 1)[1].split() for guest in self.guests]
        return sum(int(row[11]) + int(row[12]) for row in words) / os.sysconf("SC_CLK_TCK")

    def clock(self, words=""):
        """Runs them in the source; the source's time just before."""
        return float(self.source.run(f"date +%s.%N; {words}", timeout_s=PATIENCE_S).out.split()[0])

    def written(self):
        """Bytes that the target's disk was given: the kernel's Documentation/block/stat.rst."""
        return int(self.target.run("cat /sys/block/$(basename $(readlink /dev/by-serial/data))/stat").out.split()[6]) * 512

    def sent(self):
        return int(self.source.run("cat /sys/class/net/eth0/statistics/tx_bytes").out)

    def sent_again(self):
        """TCP's segments, by both."""
        return sum(int(guest.run("grep '^Tcp: [0-9]' /proc/net/snmp").out.split()[12]) for guest in self.guests)

    # What is measured

    def start_fio(self, device, how):
        self.seed += 1
        return self.source.start(f"{FIO} --filename={device} --randseed={self.seed} {how}")

    @staticmethod
    def result(command):
        said = command.wait(timeout_s=PATIENCE_S).out
        return json.loads(said[said.index("{"):])["jobs"][0]["write"]

    def fio(self, device, how):
        return self.result(self.start_fio(device, how))

    def writes(self, device, how):
        """For a while; what they took, and what they cost both guests beyond what fio does when it begins and ends."""
        before = self.cpu_s()
        wrote = self.fio(device, f"{how} --time_based --runtime={WRITING_S}")
        return wrote, 1000 * (self.cpu_s() - before - self.fio_cpu_s) / wrote["total_ios"]

    def ways_to_write(self, device):
        (one, one_cpu_ms), (many, many_cpu_ms) = (self.writes(device, how) for how in (ONE, MANY))
        usual = one["clat_ns"]["percentile"]
        return {"one_ms": usual["50.000000"] / 1e6, "one_99_ms": usual["99.000000"] / 1e6, "one_cpu_ms": one_cpu_ms,
                "many_iops": many["iops"], "many_cpu_ms": many_cpu_ms}

    def look_at_disk(self):
        """What there is without a replica, at this moment."""
        before = self.cpu_s()
        self.fio("/dev/by-serial/data", f"{ONE} --number_ios=1")
        self.fio_cpu_s = self.cpu_s() - before
        disk = self.ways_to_write("/dev/by-serial/data")
        ping = self.source.run("ping -q -c 40 -i 0.05 10.77.0.2").out
        return {"size": self.size, "disk_one_ms": disk["one_ms"], "disk_many_iops": disk["many_iops"], "ping_ms": float(ping.split("=")[-1].split("/")[1])}

    def initial_sync(self, way, states):
        before, cpu = self.written(), self.cpu_s()
        now = self.clock()
        way.begin(self.source, self.target)
        begun, over = states.resync(now)
        moved = self.written() - before
        assert moved >= self.size, f"only {moved} of {self.size} bytes came to the target's disk"
        return {"sync_s": over - begun, "sync_cpu_s": self.cpu_s() - cpu}

    def outage(self, way, states):
        """The link is cut under writes, which go on at a rate, each to another block; the link comes back."""
        before = self.copy()
        self.seed += 1
        command = self.source.start(f"""stat=/sys/block/$(basename $(readlink -f {way.device}))/stat; read -ra before <$stat
            {FIO} --filename={way.device} --randseed={self.seed} {ONE} --rate_iops={OUTAGE_RATE} --number_ios={OUTAGE_WRITES} &
            while read -ra now <$stat; [ ${{now[4]}} = ${{before[4]}} ]; do sleep 0.05; done
            date +%s.%N; ip link set eth0 down; read -ra now <$stat; echo $((now[4] - before[4])); wait $!""")
        wrote = self.result(command)
        assert wrote["total_ios"] == OUTAGE_WRITES, wrote
        cut, early = command.out.split()[:2]
        cut, meanwhile = float(cut), (OUTAGE_WRITES - int(early)) * BLOCK
        assert meanwhile > 0, "all was written before the link was cut"
        self.source.run(f"sleep {max(0, OUTAGE_S - (self.clock() - cut))}")
        written, sent, cpu = self.written(), self.sent(), self.cpu_s()
        back = self.clock("ip link set eth0 up")
        begun, over = states.resync(back)
        cpu = self.cpu_s() - cpu
        moved, sent = self.written() - written, self.sent() - sent
        self.check(before)
        regions = differing_blocks(self.path(self.source), before, REGION) * REGION
        return {"outage_s": back - cut, "stall_ms": wrote["clat_ns"]["max"] / 1e6, "back_s": over - back, "resync_s": over - begun,
                "resynced": moved / meanwhile, "of_regions": moved / regions, "sent": sent / meanwhile, "resync_cpu_s": cpu}

    def sync_while_writing(self, way, states):
        """The target is a new one, with other data; the source's user goes on, for a while at least."""
        way.leave(self.target)
        random_file(self.path(self.target), self.size)
        self.source.run("rm -f /run/writes*")
        writer = self.start_fio(way.device, f"{ONE} --time_based --runtime={PATIENCE_S} --write_lat_log=/run/writes --log_unix_epoch=1")
        self.source.run("sleep 3")
        joined = self.clock()
        way.join(self.target)
        begun, written = states.wait_for("resync", joined), self.written()
        while self.clock() - begun < BUSY_S and not states.said("in-sync", begun):
            time.sleep(0.1)
        moved, ended = self.written() - written, states.said("in-sync", begun) or self.clock()
        writer.kill(signal.SIGINT)
        writer.wait(code=None, timeout_s=PATIENCE_S)
        states.wait_for("in-sync", begun)
        rows = [line.split(",") for line in self.source.run("cat /run/writes_lat.*.log").out.splitlines()]
        took = sorted(int(row[1]) / 1e6 for row in rows if begun <= int(row[0]) / 1000 <= ended)
        assert took, "nothing was written during the resync"
        return {"busy_ms": statistics.median(took), "busy_99_ms": took[len(took) * 99 // 100], "busy_max_ms": took[-1],
                "busy_bytes_s": (moved - len(took) * BLOCK) / (ended - begun)}

    def check(self, before=None):
        """Both disks are the same; since `before`, a copy of the source's, as many blocks were written as there were writes."""
        for guest in self.guests:
            guest.run("blockdev --flushbufs /dev/by-serial/data")
        wrong = differing_blocks(self.path(self.source), self.path(self.target))
        assert not wrong, f"{wrong} blocks differ between the two disks"
        changed = differing_blocks(self.path(self.source), before) if before else OUTAGE_WRITES
        assert changed == OUTAGE_WRITES, f"{changed} blocks of the source's disk were written, not {OUTAGE_WRITES}"

    def copy(self):
        copy = self.folder / "before"
        shutil.copyfile(self.path(self.source), copy)
        return copy

    def run(self, way):
        self.new_disks()
        took, again = self.look_at_disk(), self.sent_again()
        try:
            for guest in self.guests:
                way.join(guest)
            way.wait_until_met(self.source)
            with States(self.source, way.watch) as states:
                took.update(self.initial_sync(way, states))
            took.update(self.ways_to_write(way.device))
            with States(self.source, way.watch) as states:
                took.update(self.outage(way, states))
            with States(self.source, way.watch) as states:
                took.update(self.sync_while_writing(way, states))
        finally:
            for guest in self.guests:
                way.leave(guest)
        self.check()
        self.remove_disks()
        return dict(took, sent_again=self.sent_again() - again)


def race(bench, ways, runs):
    """Interleaved; each run begins with another. What fails ends the guests: there are no further runs."""
    for number in range(runs):
        begin = number % len(ways)
        for way in ways[begin:] + ways[:begin]:
            way.runs.append(bench.run(way))
            progress(f"{number + 1}/{runs} {way.name}: " + ", ".join(f"{name} {value:.4g}" for name, value in way.runs[-1].items()))


# What is printed: (figure, its value of a run, digits)
CONTEXT = "besides, in the same runs"
FIGURES = (
    ("initial sync: MiB/s", lambda run: run["size"] / MIB / run["sync_s"], 1),
    ("— CPU of both guests, ms for a MiB", lambda run: 1000 * run["sync_cpu_s"] * MIB / run["size"], 1),
    ("a write at depth 1: usual ms", lambda run: run["one_ms"], 2),
    ("— 99 of 100 are below, ms", lambda run: run["one_99_ms"], 2),
    ("— CPU of both guests, ms", lambda run: run["one_cpu_ms"], 2),
    ("writes at depth 32: IOPS", lambda run: run["many_iops"], 0),
    ("— CPU of both guests, ms for a write", lambda run: run["many_cpu_ms"], 2),
    ("the link is cut: the longest write, ms", lambda run: run["stall_ms"], 0),
    ("it is back: s until both are in sync", lambda run: run["back_s"], 2),
    ("— of which the resync, s", lambda run: run["resync_s"], 2),
    ("— CPU of both guests, s", lambda run: run["resync_cpu_s"], 2),
    ("— written to the target's disk, ÷ what was written meanwhile", lambda run: run["resynced"], 2),
    (f"— the same, ÷ the regions of {REGION >> 10} KiB that were written to", lambda run: run["of_regions"], 2),
    ("— sent, ÷ what was written meanwhile", lambda run: run["sent"], 2),
    ("a write during a sync of all: usual ms", lambda run: run["busy_ms"], 2),
    ("— 99 of 100 are below, ms", lambda run: run["busy_99_ms"], 2),
    ("— the longest, ms", lambda run: run["busy_max_ms"], 0),
    ("— the sync, MiB/s", lambda run: run["busy_bytes_s"] / MIB, 1),
    (f"{CONTEXT}: ping ms", lambda run: run["ping_ms"], 2),
    (f"{CONTEXT}: TCP segments that were sent again", lambda run: run["sent_again"], 0),
    (f"{CONTEXT}: the disk itself at depth 1, usual ms", lambda run: run["disk_one_ms"], 2),
    (f"{CONTEXT}: the disk itself at depth 32, IOPS", lambda run: run["disk_many_iops"], 0),
)


def median(way, value):
    return statistics.median(map(value, way.runs))


def cell(way, value, digits):
    values = [value(run) for run in way.runs]
    spread = f" ({min(values):.{digits}f}–{max(values):.{digits}f})" if len(values) > 1 else ""
    return f"{statistics.median(values):.{digits}f}{spread}"


def rows(ways):
    """The last way is compared with each of the others."""
    *others, last = ways
    for what, value, digits in FIGURES:
        figures = [median(way, value) for way in ways]
        ratios = [f"{figures[-1] / figure:.2f}" if figure > 0 else "" for figure in figures[:-1]]
        yield (what, *(cell(way, value, digits) for way in ways), *([""] * len(others) if what.startswith(CONTEXT) else ratios))


NOTE = f"""Two guests of one emulated processor each, and a link between them (MTU {MTU}). The volume holds random data, and other data on the target, so
that all of it differs; disks are files in the host's memory, for which a flush costs nothing. A write is acknowledged when both disks have it (DRBD's protocol
C, `ack = durable`). Who does not answer for {DEAD_S} s is gone. fio writes 4 KiB at random with O_DIRECT to the block device (`/dev/drbd0`; `/dev/blkmove/r0`, which
is ublk's, or nbd's where the kernel has no ublk), at depth 1 by pwrite(), at depth 32 by libaio, each for {WRITING_S} s. The link is cut for {OUTAGE_S} s or more
while {OUTAGE_WRITES} blocks are written, {OUTAGE_RATE} a second. The sync under writes, one at a time, is of all the volume again; they go on for its first
{BUSY_S} s. After the outage and at the end the two disks are compared, and the blocks counted that fio changed meanwhile. CPU is that of the emulators.""".replace(
    "\n", " ")
WHY = f"""To know: DRBD's map has a bit for 4 KiB, blkmove's one for
{REGION >> 10} KiB, unless told otherwise (`region-size = 4k`): of blocks that are written far from each other it copies more after an outage. While all is copied, DRBD sends each write to the other node, and
waits; blkmove does so only once nearly all is there, before that it notes the write, and copies the region later. Tuned DRBD is `{TUNED[0]} {TUNED[1]}`: a resync as
fast as it can, whatever that does to writes.""".replace("\n", " ")


def report(arguments, ways, versions):
    *others, last = ways
    yield from [
        "## A volume on two machines", "",
        f"Made by `tests/vm/bench_replica.py --kernel {arguments.kernel} --runs {arguments.runs} --size {arguments.size}`; {arguments.runs} "
        f"run{'s' * (arguments.runs > 1)} of each way, interleaved in one boot; medians, and from the least to the most. {versions}. "
        f"The machine's load was {os.getloadavg()[2]:.1f} at the end (15 minutes), of which the emulators are 2 at most.", "", machine.processor(), "", NOTE, "", WHY, "",
        *table(("figure", *(way.name for way in ways), *(f"{last.name} ÷ {way.name}" for way in others)), rows(ways)), ""]


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kernel", default="6.12", help="how its version begins (%(default)s)")
    parser.add_argument("--runs", type=int, default=3, help="of each way (%(default)s)")
    parser.add_argument("--size", type=int, default=256, help="of the volume, MiB (%(default)s)")
    return parser.parse_args()


def main():
    arguments = parse_arguments()
    with tempfile.TemporaryDirectory(prefix="bench-replica-", dir=IN_MEMORY) as folder:
        pair = vm.Pair(vm.image(arguments.kernel), folder, copy=[executable()])
        try:
            bench = Bench(pair.boot(), pathlib.Path(folder), arguments.size * MIB)
            versions = ", ".join([bench.source.run("echo Linux $(uname -r)").out.strip(), *dict.fromkeys(way.versions(bench.source) for way in WAYS)])
            race(bench, WAYS, arguments.runs)
        finally:
            pair.end()
    print("\n".join(report(arguments, WAYS, versions)).rstrip())


if __name__ == "__main__":
    main()
