# SPDX-License-Identifier: GPL-2.0-or-later
"""How cost grows with the volume, up to 16 TiB that are nearly all hole."""
import os

import contest
import volumes
from contest import MIB, Entrant, Section, Target, at_most, table

GIB = 1 << 30
HUGE = (16 << 40) - MIB  # ext4's files end one block short of 16 TiB
NOISE = 1.1
RUNS_MAX = 3


class Size:
    """One pair of volumes, and what moving it has cost."""

    def __init__(self, bench, name, a, b):
        self.bench, self.name, self.a, self.b = bench, name, a, b
        self.size, self.data = os.path.getsize(a), volumes.data_bytes(a)
        self.target = bench.folder / "scale-target.img"

    def _drop(self):
        volumes.drop_cache(self.a, self.b, self.target)

    def _fresh(self, _):
        volumes.forget(self.target)
        self._drop()

    def measure(self):
        bench, remote = self.bench, f"other:{self.target}"
        copying = [Entrant("copy", bench.blkmove("copy", self.a, self.target))]
        self.copy = contest.race(bench, copying, self._fresh, lambda _: volumes.equal(self.a, self.target), RUNS_MAX).first
        # There and back, so that each sync finds what it needs.
        syncing = [Entrant("to B", bench.blkmove_ssh("sync", self.b, remote)), Entrant("to A", bench.blkmove_ssh("sync", self.a, remote))]
        is_right = {"to B": lambda: volumes.equal(self.b, self.target), "to A": lambda: volumes.equal(self.a, self.target)}
        self.syncs = contest.race(bench, syncing, lambda _: self._drop(), lambda entrant: is_right[entrant.name](), RUNS_MAX)
        volumes.forget(self.target)
        return self

    @property
    def sync(self):
        return self.syncs.first

    @property
    def wrong(self):
        return [f"{self.name}: {name}" for name in self.syncs.wrong + ["copy"] * bool(self.copy.trouble)]

    @property
    def peak(self):
        return max(self.copy.peak, self.sync.peak)

    def row(self):
        cells = [self.name, f"{self.size / GIB:.2f}", f"{self.data / GIB:.2f}"]
        for result in (self.copy, self.sync):
            cells += [f"{result.wall:.2f} {result.trouble}", f"{result.cpu:.2f}", f"{result.peak / MIB:.1f}"]
        return cells


HEAD = ("volume", "GiB", "GiB allocated", "copy: wall s", "CPU s", "peak MiB", "sync of B over ssh: wall s", "CPU s", "peak MiB")


def _measure_sizes(bench):
    """A quarter of A, A, four times A; then the huge one."""
    folder, unit = bench.folder / "scale", os.path.getsize(bench.a)
    small = volumes.make_all(folder, unit // 4)
    yield Size(bench, "small", small[0], small[1]).measure()
    yield Size(bench, "middle", bench.a, bench.b).measure()
    for name, make in (("large", lambda source, target: volumes.make_repeated(source, target, 4)),
                       ("huge", lambda source, target: volumes.make_thin(source, target, HUGE, unit // 4))):
        a, b = folder / f"A-{name}.img", folder / f"B-{name}.img"
        make(bench.a, a)
        make(bench.b, b)
        yield Size(bench, name, a, b).measure()
        volumes.forget(a)
        volumes.forget(b)
    for path in small:
        volumes.forget(path)


def _growth(what, small, large, results):
    """Cost for each GiB must not grow with the size."""
    for field, name in (("wall_s", "wall"), ("cpu_s", "CPU")):
        values = [result.median(field) / size.size for result, size in zip(results, (small, large))]
        yield at_most(f"{what}: {name} for each GiB, {large.name} ÷ {small.name}", values[1] / values[0], NOISE, "×")


def scale(bench):
    sizes = list(_measure_sizes(bench))
    small, middle, large, huge = sizes
    targets = []
    for one, other in ((small, middle), (middle, large)):
        targets += _growth("copy", one, other, (one.copy, other.copy))
        targets += _growth("sync", one, other, (one.sync, other.sync))
    targets += [
        Target("16 TiB: wall of copy and of sync", f"{huge.copy.wall:.1f} s, {huge.sync.wall:.1f} s", "seconds", huge.copy.wall < 60 and
               huge.sync.wall < 60),
        at_most("16 TiB: peak memory, ÷ that of the middle size", huge.peak / middle.peak, 1.25, "×"),
    ]
    note = f"The same kind of data, in proportion; then {huge.data / GIB:.2f} GiB at even distances in 16 TiB (less 1 MiB, where ext4 ends). " \
           f"No volume is in the page cache before a run. “Not worse than linearly” is taken with {NOISE}× for noise."
    section = Section("Growth with the volume", note, None, targets, table(HEAD, [size.row() for size in sizes]))
    section.wrong = [name for size in sizes for name in size.wrong]
    yield section


SCENARIOS = {"scale": scale}
