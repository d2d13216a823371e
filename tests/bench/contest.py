# SPDX-License-Identifier: GPL-2.0-or-later
"""Interleaved runs of several tools that do the same work, and the Markdown table of how they did."""
import shutil
import statistics
import sys
from typing import NamedTuple

MIB = 1 << 20


class Entrant(NamedTuple):
    name: str
    command: object  # see Meter.run
    needs: str = ""  # a program; without it the entrant is left out
    quick: bool = True  # runs in quick mode, too


class Target(NamedTuple):
    """One line of the issue: a figure and its limit. `met` None: a figure without a limit."""
    what: str
    figure: str
    limit: str
    met: object

    def row(self):
        return (self.what, self.limit, self.figure, {True: "yes", False: "**no**", None: ""}[self.met])


def at_most(what, value, limit, unit="", digits=2):
    return Target(what, f"{value:.{digits}f}{unit}", f"≤ {limit:g}{unit}", value <= limit)


def at_least(what, value, limit, unit="", digits=2):
    return Target(what, f"{value:.{digits}f}{unit}", f"≥ {limit:g}{unit}", value >= limit)


class Result:
    """All runs of one entrant."""

    def __init__(self, name):
        self.name, self.samples, self.trouble = name, [], ""

    def _values(self, field):
        return [getattr(sample, field) for sample in self.samples]

    def median(self, field):
        return statistics.median(self._values(field)) if self.samples else float("nan")

    wall = property(lambda self: self.median("wall_s"))
    cpu = property(lambda self: self.median("cpu_s"))
    wire = property(lambda self: self.median("wire_bytes"))
    peak = property(lambda self: max(self._values("peak_bytes"), default=0))

    def row(self, first):
        if not self.samples:
            return (self.name, self.trouble or "not installed") + ("",) * 6
        walls = self._values("wall_s")
        return (self.name + (f" {self.trouble}" if self.trouble else ""), f"{self.wall:.2f}", f"{min(walls):.2f}–{max(walls):.2f}",
                f"{self.cpu:.2f}", f"{self.peak / MIB:.1f}", f"{self.wire / MIB:.1f}", *self._ratios(first))

    def _ratios(self, first):
        if self is first or not first.samples:
            return ("", "")
        return (f"{first.wall / self.wall:.2f}", f"{first.cpu / self.cpu:.2f}" if self.cpu else "")


class Results(dict):
    """By name, in the order of the entrants; the first is blkmove."""

    @property
    def first(self):
        return next(iter(self.values()))

    @property
    def wrong(self):
        return [result.name for result in self.values() if result.trouble]

    def best(self, field, names):
        """The smallest median of those that ran."""
        values = [self[name].median(field) for name in names if name in self and self[name].samples]
        return min(values, default=float("nan"))


HEAD = ("tool", "wall s", "min–max", "CPU s", "peak MiB", "wire MiB", "blkmove ÷ it: wall", "CPU")


def table(head, rows):
    def line(cells):
        return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"

    return [line(head), "|" + "---|" * len(head), *map(line, rows)]


class Section:
    """A heading, a note, a table, and what it says of the targets."""

    def __init__(self, title, note, results=None, targets=(), lines=()):
        self.title, self.note, self.results, self.targets, self.lines = title, note, results, list(targets), list(lines)
        self.wrong = results.wrong if results else []

    def markdown(self):
        lines = [f"## {self.title}", "", self.note, ""]
        if self.results:
            lines += table(HEAD, [result.row(self.results.first) for result in self.results.values()]) + [""]
        if self.lines:
            lines += self.lines + [""]
        if self.targets:
            lines += table(("figure", "target", "measured", "met"), [target.row() for target in self.targets]) + [""]
        return lines


def progress(text):
    print(text, file=sys.stderr, flush=True)


def race(bench, entrants, prepare, check, runs_max=1000, device="lo"):
    """A B C B C A ...: no one always follows the same other, whose leavings the disk may still be busy with. prepare() before and check()
    after each are not measured. What fails or is wrong says so in its row."""
    entrants = [entrant for entrant in entrants if entrant.quick or not bench.quick]
    results = Results((entrant.name, Result(entrant.name)) for entrant in entrants)
    runs = min(bench.runs, runs_max)
    for number in range(runs):
        begin = number * len(entrants) // runs
        for entrant in entrants[begin:] + entrants[:begin]:
            result = results[entrant.name]
            if entrant.needs and not shutil.which(entrant.needs):
                continue
            prepare(entrant)
            sample, code, said = bench.meter.run(entrant.command, device)
            if code != 0:
                result.trouble = f"FAILED ({code})"
                progress(f"    {entrant.name}: exit {code}: {said.strip()[-500:]}")
                continue
            if not check(entrant):
                result.trouble = "WRONG"
            result.samples.append(sample)
            progress(f"    {number + 1}/{runs} {entrant.name}: {sample.wall_s:.2f} s, CPU {sample.cpu_s:.2f} s, "
                     f"{sample.peak_bytes / MIB:.1f} MiB, wire {sample.wire_bytes / MIB:.1f} MiB {result.trouble}")
    return results
