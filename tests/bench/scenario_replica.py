# SPDX-License-Identifier: GPL-2.0-or-later
"""A replicated volume between two network namespaces: what its clients pay for each `ack`, beside the same volume without a replica."""
import contextlib
import pathlib
import shutil
import statistics
import subprocess
import tempfile
from typing import NamedTuple

import live
import net
from contest import MIB, Section, at_most, progress, table
from images import Noise
from program import Program
from replica_hosts import Pair

DELAY_US = 500  # of the cable, one way
ACKS = ("durable", "received", "sent")
ALONE = "no replica"


class Cost(NamedTuple):
    mean_us: float   # of a write, one at a time
    p99_us: float
    iops: float      # of writes, 32 at a time
    round_trip_us: float


def _write_us(path):
    """What the device takes for a write of 4 KiB, by the way that blkmove takes, one at a time."""
    words = ["fio", "--name=device", f"--filename={path}", "--rw=randwrite", "--bs=4k", "--ioengine=io_uring", "--iodepth=1", "--time_based",
             "--runtime=2", f"--size={path.stat().st_size // MIB}M", "--output-format=json"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return live.json.loads(done.stdout[done.stdout.index("{"):])["jobs"][0]["write"]["lat_ns"]["mean"] / 1e3


def _loads(uri, size, seconds, round_trip_us=0.0):
    # All regions are known to the map before, as after some minutes of use.
    live.Load(uri, "randwrite", size, seconds / 2, depth=32).run()
    one = live.Load(uri, "randwrite", size, seconds).run()
    many = live.Load(uri, "randwrite", size, seconds, depth=32).run()
    return Cost(one.mean_us, one.p99_us, many.iops, round_trip_us)


def _alone(bench, volume, seconds):
    with live.Folder.new() as folder:
        with live.Service(bench, folder, [bench.program, "serve", volume, f"--listen={folder.uri}"]):
            return _loads(folder.uri, volume.stat().st_size, seconds)


def _replicated(bench, ack, cable, size, seconds):
    """The pair is made anew each time, so that no run finds what another left."""
    with tempfile.TemporaryDirectory(prefix="pair-", dir=bench.folder) as folder:
        pair = Pair(Program(folder, bench.program), pathlib.Path(folder), Noise(1), size, net=cable, ack=ack, queue="64M", congestion="wait")
        try:
            pair.begin()
            cable.tell(f"delay {DELAY_US}")
            round_trip_us = cable.round_trip(200) * 1e6
            cost = _loads(pair.alpha.uri(), size, seconds, round_trip_us)
            pair.wait_equal()
            pair.alpha("secondary", "vm1")
            pair.assert_same()
            return cost
        finally:
            cable.tell("delay 0")
            pair.close()


def _rows(costs, write_us):
    alone = costs[ALONE][0]
    for way, samples in costs.items():
        cost = Cost(*(statistics.median(values) for values in zip(*samples)))
        over = "" if way == ALONE else f"{cost.mean_us - alone.mean_us - cost.round_trip_us:.0f}"
        yield (way, f"{cost.mean_us:.0f}", f"{cost.p99_us:.0f}", f"{cost.round_trip_us:.0f}" if cost.round_trip_us else "", over, f"{cost.iops:.0f}",
               f"{cost.iops / statistics.median(sample.iops for sample in costs[ALONE]):.2f}")


def replica(bench):
    title = "A replica: what each acknowledgement costs"
    for why in (net.why_not(), None if shutil.which("fio") else "fio is not installed"):
        if why:
            return [Section(title, f"Left out: {why}.")]
    size, seconds = (16 if bench.quick else 256) * MIB, 1 if bench.quick else 10
    volume = bench.folder / "replica.volume"
    live.fill(volume, size)
    costs = {way: [] for way in (ALONE, *ACKS)}
    with contextlib.closing(net.Net(bench.folder)) as cable:
        for _ in range(bench.runs):
            for way in costs:
                progress(f"  replica: {way}")
                costs[way].append(_alone(bench, volume, seconds) if way == ALONE else _replicated(bench, way, cable, size, seconds))
    write_us = _write_us(volume)
    note = (f"{size // MIB} MiB, writes of 4 KiB at random by fio over NBD; the two machines are network namespaces, the cable takes {DELAY_US} µs one way. "
            f"Without a replica: `blkmove serve`. A write of 4 KiB to the file takes {write_us:.0f} µs. Beyond: what a write takes more than without a replica, less "
            f"the round trip between two programs.")
    head = ("ack", "write, 1 at a time: mean µs", "p99 µs", "round trip µs", "beyond it µs", "writes a second, 32 at a time", "of those without")
    lines = table(head, _rows(costs, write_us))
    ratios = [cost.mean_us / (alone.mean_us + cost.round_trip_us + write_us) for cost, alone in zip(costs["durable"], costs[ALONE])]
    targets = [at_most("durable, 1 at a time: times (a write without a replica + a round trip + a write to the device)", statistics.median(ratios), 1.15)]
    return [Section(title, note, lines=lines, targets=targets)]


SCENARIOS = {"replica": replica}
