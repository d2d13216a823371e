# SPDX-License-Identifier: GPL-2.0-or-later
"""blkmove serve beside other NBD servers, each with fio as its client."""
import shutil
from typing import NamedTuple

import contest
import live
import stolen
import volumes
from contest import MIB, Section, at_least, at_most, table

SIZE, QUICK_SIZE = 1 << 30, 64 << 20
SECONDS, QUICK_SECONDS = 1.2, 0.3
RUNS_MAX = 3
PER_CPU_MIN = 1.5
STOLEN_MAX = 0.005  # of the processors' time; else it is run again
BLOCKS = {"4k": 4096, "1M": 1 << 20}


class Workload(NamedTuple):
    name: str
    kind: str  # fio's
    block: str
    depth: int
    jobs: int


class Entrant(NamedTuple):
    name: str
    needs: str
    words: object  # of (socket, volume)


class Sample(NamedTuple):
    figures: live.Figures
    cpu_s: float
    peak_bytes: int

    @property
    def per_cpu(self):
        return self.figures.requests / self.cpu_s if self.cpu_s else float("nan")


def _workloads(quick):
    for jobs in (1, 4):
        connections = f"{jobs} connection{'s' * (jobs > 1)}"
        for depth in (1, 32):
            for side in ("read", "write"):
                if not quick or (jobs, depth) in ((1, 1), (4, 32)):
                    yield Workload(f"4 KiB {side}, depth {depth}, {connections}", f"rand{side}", "4k", depth, jobs)
        for side in ("read", "write"):
            if not quick or jobs == 1:
                yield Workload(f"1 MiB {side} in order, depth 8, {connections}", side, "1M", 8, jobs)


def _entrants(bench):
    qemu = ["qemu-nbd", "-t", "-e", "8", "-f", "raw"]
    return [
        Entrant("blkmove serve", "fio", lambda place, volume: [bench.program, "serve", "--quiet", "--listen", place.uri, volume]),
        Entrant("qemu-nbd", "qemu-nbd", lambda place, volume: [*qemu, "-k", place.socket, volume]),
        Entrant("qemu-nbd --cache=none --aio=native", "qemu-nbd",
                lambda place, volume: [*qemu, "--cache=none", "--aio=native", "-k", place.socket, volume]),
        Entrant("nbdkit file", "nbdkit", lambda place, volume: ["nbdkit", "-f", "-U", place.socket, "file", volume]),
    ]


class Row:
    """All runs of one server under one workload."""

    def __init__(self, workload, entrant):
        self.workload, self.name, self.samples, self.trouble = workload, entrant.name, [], ""

    def _figure(self, field):
        return live.median(getattr(sample.figures, field) for sample in self.samples)

    iops = property(lambda self: self._figure("iops"))
    bytes_s = property(lambda self: self._figure("bytes_s"))
    mean_us = property(lambda self: self._figure("mean_us"))
    p99_us = property(lambda self: self._figure("p99_us"))
    per_cpu = property(lambda self: live.median(sample.per_cpu for sample in self.samples))
    peak_bytes = property(lambda self: max((sample.peak_bytes for sample in self.samples), default=0))

    def cells(self, first):
        if not self.samples:
            return (self.workload.name, self.name, self.trouble or "not installed") + ("",) * 8
        rates = [sample.figures.iops for sample in self.samples]
        ratios = ("", "")
        if self is not first and first.samples:
            ratios = (f"{first.iops / self.iops:.2f}", f"{first.per_cpu / self.per_cpu:.2f}")
        return (self.workload.name, f"{self.name} {self.trouble}".strip(), f"{self.iops:.0f}", f"{min(rates):.0f}–{max(rates):.0f}",
                f"{self.bytes_s / MIB:.0f}", f"{self.mean_us:.1f}", f"{self.p99_us:.1f}", f"{self.per_cpu:.0f}",
                f"{self.peak_bytes / MIB:.1f}", *ratios)


HEAD = ("workload", "server", "IOPS", "min–max", "MiB/s", "mean µs", "p99 µs", "IOPS ÷ CPU s", "peak MiB", "blkmove ÷ it: IOPS",
        "IOPS ÷ CPU s")


def _measure(bench, place, workload, entrant, volume):
    live.lay_out(volume, BLOCKS[workload.block])
    seconds = QUICK_SECONDS if bench.quick else SECONDS
    load = live.Load(place.uri, workload.kind, volume.stat().st_size, seconds, workload.block, workload.depth, workload.jobs)
    with live.Service(bench, place, entrant.words(place, volume)) as service:
        before = service.cpu_s()
        figures = load.run()
        return Sample(figures, service.cpu_s() - before, service.peak_bytes())


def _race(bench, place, workload, entrants, volume):
    rows = {entrant.name: Row(workload, entrant) for entrant in entrants}
    runs = min(bench.runs, RUNS_MAX)
    for number, entrant in live.rotations(entrants, runs):
        row = rows[entrant.name]
        if not shutil.which(entrant.needs):
            continue
        try:
            sample = stolen.least(lambda: _measure(bench, place, workload, entrant, volume), lambda sample: sample.figures.stolen, STOLEN_MAX,
                                  1 if bench.quick else stolen.TRIES)
        except live.TROUBLES as error:
            row.trouble = "FAILED"
            contest.progress(f"    {entrant.name}: {error}")
            continue
        row.samples.append(sample)
        contest.progress(f"    {number + 1}/{runs} {workload.name}: {entrant.name}: {sample.figures.iops:.0f} IOPS, "
                         f"{sample.figures.mean_us:.1f} µs, {sample.per_cpu:.0f} for a CPU second, {sample.peak_bytes / MIB:.1f} MiB")
    return list(rows.values())


def _targets(rows):
    first, peers = rows[0], [row for row in rows[1:] if row.samples]
    if not first.samples or not peers:
        return
    name = first.workload.name
    yield at_least(f"{name}: IOPS ÷ CPU second, blkmove ÷ best peer", first.per_cpu / max(row.per_cpu for row in peers), PER_CPU_MIN, "×")
    yield at_least(f"{name}: throughput, blkmove ÷ best peer", first.bytes_s / max(row.bytes_s for row in peers), 1.0, "×")
    if first.workload.depth == 1:
        yield at_most(f"{name}: mean latency, blkmove ÷ best peer", first.mean_us / min(row.mean_us for row in peers), 1.0, "×")


def serve(bench):
    if not shutil.which("fio"):
        yield Section("NBD servers", "Left out: fio is not installed.")
        return
    volume, size, cells, targets, wrong, taken = bench.folder / "served.img", QUICK_SIZE if bench.quick else SIZE, [], [], [], []
    live.fill(volume, size)
    with live.Folder.new() as place:
        for workload in _workloads(bench.quick):
            rows = _race(bench, place, workload, _entrants(bench), volume)
            cells += [row.cells(rows[0]) for row in rows]
            targets += _targets(rows)
            wrong += [f"{row.name}, {workload.name}" for row in rows if row.trouble and "blkmove" in row.name]
            taken += [sample.figures.stolen for row in rows for sample in row.samples]
    volumes.forget(volume)
    note = f"fio's nbd engine over a unix socket, one connection for each of its jobs, {QUICK_SECONDS if bench.quick else SECONDS} s each; a " \
           f"file of {size >> 20} MiB, all of it allocated and in the page cache, written anew before each run in pieces of the load's size. " \
           f"Server and load share {live.PROCESSORS}. CPU seconds are the server's alone, kernel time included, without fio's. Each server is " \
           "started anew for each run. qemu-nbd: writeback cache and threads, its defaults, then past the page cache; nbdkit: its defaults. " \
           "With more than one connection the depth is that of each. A run during which the hypervisor took more than " \
           f"{STOLEN_MAX:.1%} of the processors' time was repeated, up to {stolen.TRIES} runs, and the one that it took least of counted: of " \
           f"{len(taken)}, {sum(part > STOLEN_MAX for part in taken)} had more, the most {max(taken, default=0):.1%}."
    section = Section("NBD servers", note, None, targets, table(HEAD, cells))
    section.wrong = wrong
    yield section


SCENARIOS = {"serve": serve}
