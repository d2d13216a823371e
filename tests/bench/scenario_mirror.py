# SPDX-License-Identifier: GPL-2.0-or-later
"""Live mirrors: what clients feel while it copies, how long they wait at a cutover, how much memory it takes."""
import itertools
import math
import pathlib
import shutil
import statistics
import time
from typing import NamedTuple

import contest
import live
import stolen
import volumes
from contest import MIB, Section, Target, at_most, table

RATE = 2000  # requests a second of the clients, half of them writes
DEPTH = 16
P99_MAX = 1.2
KEPT_MIN = 0.8  # of the requests; else it is run again
HUGE = 16 << 40
IN_MEMORY = pathlib.Path("/dev/shm")  # a file of ext4 ends below 16 TiB


def _left_out(title):
    if not shutil.which("fio"):
        return Section(title, "Left out: fio is not installed.")
    return None


class Progress:
    """How far a copy came, looked at on the way. Ends the load when the legs are in step: from then on there is nothing to feel."""

    def __init__(self, remaining):
        self.remaining, self.begun = remaining, time.monotonic()
        self.first, _ = remaining()
        self.last, self.ended, self.ready = self.first, self.begun, False

    def look(self):
        self.last, self.ready = self.remaining()
        self.ended = time.monotonic()
        return self.ready

    @property
    def seconds(self):
        return self.ended - self.begun

    @property
    def rate(self):
        """Bytes a second by which what differs grew less, in spite of what clients dirtied."""
        return (self.first - self.last) / self.seconds if self.seconds else float("nan")


class Sample(NamedTuple):
    alone: list  # Figures without a copy: before it and, unless it came to its end, after it
    beside: live.Figures  # while it copies
    progress: Progress

    @property
    def p99_alone_us(self):
        return statistics.fmean(figures.p99_us for figures in self.alone)

    @property
    def mean_alone_us(self):
        return statistics.fmean(figures.mean_us for figures in self.alone)

    @property
    def ratio(self):
        return self.beside.p99_us / self.p99_alone_us if self.p99_alone_us else float("nan")

    @property
    def left_out(self):
        return 1 - min(figures.kept for figures in (*self.alone, self.beside))


class Mirroring:
    """The volumes, and what is done with them by each."""

    def __init__(self, bench, place):
        self.bench, self.place = bench, place
        self.size, self.seconds, self.beside_seconds = (64 << 20, 1, 1) if bench.quick else (4 << 30, 8, 20)
        self.source, self.target = bench.folder / "mirror-source.img", bench.folder / "mirror-target.img"
        live.fill(self.source, self.size)

    def _load(self, seconds):
        return live.Load(self.place.uri, "randrw", self.size, seconds, depth=DEPTH, rate=RATE, logged=True)

    def _alone(self):
        return self._load(self.seconds).run()

    def _beside(self, before, mirror, begin, pause):
        with self._load(self.beside_seconds).running() as load:
            begin()
            progress = Progress(mirror.remaining)
            load.wait(progress.look)
            beside = load.end()
        if progress.ready:
            return Sample([before], beside, progress)
        pause()
        return Sample([before, self._alone()], beside, progress)

    def blkmove(self, with_target):
        # As little as it can be, until it is told to pause.
        with live.BlkmoveMirror(self.bench, self.place, self.source, self.target, "--max-rate=64K") as mirror:
            mirror.command("pause")
            alone = self._alone()
            target_ms = P99_MAX * mirror.status()["p99_us"] / 1e3 if with_target else 0
            mirror.command("throttle", rate=0, latency_target_ms=target_ms)
            return self._beside(alone, mirror, lambda: mirror.command("resume"), lambda: mirror.command("pause"))

    def qemu(self, copy_mode):
        with live.QemuMirror(self.bench, self.place, self.source, self.target, self.size) as mirror:
            alone = self._alone()
            return self._beside(alone, mirror, lambda: mirror.begin(copy_mode), mirror.pause)

    def sample(self, entrant):
        def measure():
            volumes.forget(self.target)
            live.settle(self.source)
            volumes.warm_cache(self.source)
            return entrant.measure(self)

        return stolen.least(measure, lambda sample: sample.left_out, 1 - KEPT_MIN, 1 if self.bench.quick else stolen.TRIES)

    def done(self):
        volumes.forget(self.target)
        volumes.forget(self.source)


class Entrant(NamedTuple):
    name: str
    needs: str
    measure: object  # of a Mirroring


ENTRANTS = [
    Entrant("blkmove mirror --latency-target", "fio", lambda work: work.blkmove(True)),
    Entrant("blkmove mirror", "fio", lambda work: work.blkmove(False)),
    Entrant("blockdev-mirror, background", "qemu-storage-daemon", lambda work: work.qemu("background")),
    Entrant("blockdev-mirror, write-blocking", "qemu-storage-daemon", lambda work: work.qemu("write-blocking")),
]
MIRROR_HEAD = ("mirror", "p99 µs, no copy", "p99 µs, copying", "ratio", "min–max", "mean µs, no copy", "mean µs, copying", "IOPS, copying",
               "longest ms, copying", "copied MiB/s", "in step after s", "requests left out, %")


def _mirror_row(entrant, samples, trouble):
    if not samples:
        return (entrant.name, trouble or "not installed") + ("",) * 10
    ratios = [sample.ratio for sample in samples]
    ready = [sample.progress.seconds for sample in samples if sample.progress.ready]
    return (f"{entrant.name} {trouble}".strip(), f"{live.median(s.p99_alone_us for s in samples):.0f}",
            f"{live.median(s.beside.p99_us for s in samples):.0f}", f"{live.median(ratios):.2f}", f"{min(ratios):.2f}–{max(ratios):.2f}",
            f"{live.median(s.mean_alone_us for s in samples):.0f}", f"{live.median(s.beside.mean_us for s in samples):.0f}",
            f"{live.median(s.beside.iops for s in samples):.0f}", f"{max(s.beside.max_us for s in samples) / 1e3:.1f}",
            f"{live.median(s.progress.rate for s in samples) / MIB:.0f}",
            f"{live.median(ready):.1f}" if len(ready) == len(samples) else "not in this time",
            f"{100 * live.median(s.left_out for s in samples):.0f}")


def _mirror_targets(samples):
    what = "clients' p99, copying ÷ no copy"
    for entrant in ENTRANTS:
        if not samples[entrant.name]:
            continue
        ratio = live.median(sample.ratio for sample in samples[entrant.name])
        if entrant is ENTRANTS[0]:
            yield at_most(f"{entrant.name}: {what}", ratio, P99_MAX, "×")
            rate = live.median(sample.progress.rate for sample in samples[entrant.name])
            yield Target(f"{entrant.name}: copied meanwhile", f"{rate / MIB:.0f} MiB/s", "", None)
        else:
            yield Target(f"{entrant.name}: {what}", f"{ratio:.2f}×", "", None)


def _mirror_race(bench, work):
    samples, troubles = {entrant.name: [] for entrant in ENTRANTS}, {}
    for number, entrant in live.rotations(ENTRANTS, bench.runs):
        if not shutil.which(entrant.needs):
            continue
        try:
            sample = work.sample(entrant)
        except live.TROUBLES as error:
            troubles[entrant.name] = "FAILED"
            contest.progress(f"    {entrant.name}: {error}")
            continue
        samples[entrant.name].append(sample)
        contest.progress(f"    {number + 1}/{bench.runs} {entrant.name}: p99 {sample.p99_alone_us:.0f} µs, {sample.beside.p99_us:.0f} µs copying, "
                         f"{sample.progress.rate / MIB:.0f} MiB/s, {'' if sample.progress.ready else 'not '}in step, "
                         f"{sample.left_out:.0%} left out")
    return samples, troubles


def mirror(bench):
    title = "Clients while a mirror copies"
    if left_out := _left_out(title):
        yield left_out
        return
    with live.Folder.new() as place:
        work = Mirroring(bench, place)
        samples, troubles = _mirror_race(bench, work)
        work.done()
    note = f"A file of {work.size >> 20} MiB, all of it allocated and in the page cache, to a new one on the same disk, while fio reads and " \
           f"writes 4 KiB at random through the export, {RATE} times a second, half of them writes, at most {DEPTH} in flight: for " \
           f"{work.seconds} s without a copy, then for {work.beside_seconds} s beside it, or until both are in step, and, if they are not, for " \
           f"{work.seconds} s while it is paused; “no copy” is the mean of both. Both legs, the server and the " \
           f"load share {live.PROCESSORS} and one disk. The target of latency is {P99_MAX}× the p99 that `blkmove status` showed while paused. " \
           f"Latency is as fio saw it; fewer than {RATE} IOPS mean that it had to wait with all that it may have in flight. “Copied” is by how " \
           "much less differed, in spite of what clients dirtied. Latencies are without the requests during which the hypervisor took a " \
           f"processor away; a run that would keep less than {KEPT_MIN:.0%} of them was repeated, up to {stolen.TRIES} runs."
    if not shutil.which("qemu-storage-daemon"):
        note += " qemu-storage-daemon is not installed (Debian: qemu-system-common): its rows are left out."
    rows = [_mirror_row(entrant, samples[entrant.name], troubles.get(entrant.name, "")) for entrant in ENTRANTS]
    section = Section(title, note, None, _mirror_targets(samples), table(MIRROR_HEAD, rows))
    section.wrong = [name for name in troubles if "blkmove" in name]
    yield section


# Cutover

CUTOVERS, QUICK_CUTOVERS = 50, 5
CUTOVER_DEPTH = 8
BETWEEN_S = 0.2
PAUSE_MAX_MS = 20


def _percentile(values, percent):
    """The nearest rank: one of the values."""
    return sorted(values)[max(math.ceil(len(values) * percent / 100) - 1, 0)]


def _pause_row(name, pauses):
    if not pauses:
        return (name, 0, "", "", "", "")
    figures = (min(pauses), _percentile(pauses, 50), _percentile(pauses, 99), max(pauses))
    return (name, len(pauses), *(f"{figure:.2f}" for figure in figures))


def _switch(bench, place, source, target, size, count):
    """The pauses of cutovers and of reverts, what the clients saw, and whether the legs are equal at the end."""
    pauses = {"cutover": [], "revert": []}
    with live.BlkmoveMirror(bench, place, source, target) as mirror:
        with live.Load(place.uri, "randwrite", size, 3600, depth=CUTOVER_DEPTH).running() as load:
            for number, name in itertools.product(range(count), pauses):
                time.sleep(BETWEEN_S)
                pauses[name].append(mirror.order(name)["pause_ms"])
                contest.progress(f"    {number + 1}/{count} {name}: {pauses[name][-1]:.2f} ms")
            figures = load.end()
        live.wait_until(lambda: mirror.remaining()[1] and mirror.status()["attached"], "both legs in step")
    return pauses, figures, volumes.equal(source, target)


def cutover(bench):
    title = "Cutovers under load"
    if left_out := _left_out(title):
        yield left_out
        return
    size, count = (64 << 20, QUICK_CUTOVERS) if bench.quick else (1 << 30, CUTOVERS)
    source, target = bench.folder / "cutover-source.img", bench.folder / "cutover-target.img"
    live.fill(source, size)
    note = f"A file of {size >> 20} MiB and its mirror on the same disk; fio writes 4 KiB at random, {CUTOVER_DEPTH} in flight, as fast as it " \
           f"can, while cutover and revert are ordered in turn, {count} of each. The pause is the longest time that a request was held, as " \
           f"`blkmove status` has it. Both legs, the server and the load share {live.PROCESSORS} and one disk."
    try:
        with live.Folder.new() as place:
            pauses, figures, equal = _switch(bench, place, source, target, size, count)
    except live.TROUBLES as error:
        contest.progress(f"    {error}")
        section = Section(title, note, None, (), [f"FAILED: {error}"])
        section.wrong = ["blkmove cutover"]
        yield section
        return
    finally:
        volumes.forget(target)
        volumes.forget(source)
    every = pauses["cutover"] + pauses["revert"]
    rows = [_pause_row("cutover", pauses["cutover"]), _pause_row("revert", pauses["revert"]), _pause_row("all", every)]
    note += f" Clients wrote {figures.iops:.0f} times a second on the whole; their longest request took {figures.max_us / 1e3:.1f} ms, syncs " \
            f"and write-back included. At the end both legs were {'equal' if equal else 'NOT equal: WRONG'}."
    targets = [at_most(f"pause of {count} cutovers: p99", _percentile(pauses["cutover"], 99), PAUSE_MAX_MS, " ms"),
               at_most(f"pause of {count} reverts: p99", _percentile(pauses["revert"], 99), PAUSE_MAX_MS, " ms"),
               Target("median of all", f"{_percentile(every, 50):.2f} ms", "", None)]
    section = Section(title, note, None, targets, table(("order", "times", "least ms", "p50 ms", "p99 ms", "most ms"), rows))
    section.wrong = [] if equal else ["blkmove cutover: the legs differ"]
    yield section


# Memory

MEMORY_MAX_MIB = 64
DATA = 16 * MIB  # containers often have 64 MiB of memory for files


def _describe(remaining, rate, ready_s):
    if ready_s is not None:
        return f"in step {ready_s:.1f} s after its start"
    hours = remaining / rate / 3600 if rate > 0 else float("inf")
    return f"not in step in this time; {rate / MIB:.0f} MiB/s, which would take {hours:.1f} hours"


def _grow(bench, place, source, target, seconds):
    """Rows of (when, peak), the map's size, how far it came."""
    begun, rows, ready_s = time.monotonic(), [], None
    with live.BlkmoveMirror(bench, place, source, target) as mirror:
        rows.append((f"clients can connect, after {mirror.exported_s:.1f} s", mirror.peak_bytes()))
        progress = Progress(mirror.remaining)
        while progress.seconds < seconds and ready_s is None:
            time.sleep(live.POLL_S)
            if progress.look():
                ready_s = time.monotonic() - begun
        rows.append((_describe(progress.last, progress.rate, ready_s), mirror.peak_bytes()))
        load = live.Load(place.uri, "randwrite", 1 << 30, 0.5 if bench.quick else 5, depth=32).run()
        rows.append((f"after {load.requests} writes of 4 KiB at random, 32 in flight", mirror.peak_bytes()))
        return rows, mirror.map_bytes()


def mirror_memory(bench):
    title = "Memory of a mirror of 16 TiB"
    if left_out := _left_out(title):
        yield left_out
        return
    source, target, seconds = IN_MEMORY / "huge-source.img", IN_MEMORY / "huge-target.img", 3 if bench.quick else 30
    volumes.make_thin(bench.a, source, HUGE, DATA)
    note = f"A sparse file of {HUGE >> 40} TiB on a tmpfs (ext4's files end below that) with {volumes.data_bytes(source) >> 20} MiB of data at even " \
           f"distances, to a new file, for at most {seconds} s."
    try:
        with live.Folder.new() as place:
            rows, map_bytes = _grow(bench, place, source, target, seconds)
    except live.TROUBLES as error:
        contest.progress(f"    {error}")
        section = Section(title, note, None, (), [f"FAILED: {error}"])
        section.wrong = ["blkmove mirror"]
        yield section
        return
    finally:
        volumes.forget(target)
        volumes.forget(source)
    peak_mib = (rows[-1][1] - map_bytes) / MIB
    targets = [at_most("mirror of 16 TiB: peak memory, without the size of its map", peak_mib, MEMORY_MAX_MIB, " MiB", 1),
               Target("mirror of 16 TiB: when", rows[1][0], "", None)]
    lines = table(("when", "peak MiB"), [(when, f"{peak / MIB:.1f}") for when, peak in rows])
    yield Section(title, f"{note} Its map takes {map_bytes / MIB:.1f} MiB.", None, targets, lines)


SCENARIOS = {"mirror": mirror, "cutover": cutover, "mirror-memory": mirror_memory}
