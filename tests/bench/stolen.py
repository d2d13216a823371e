# SPDX-License-Identifier: GPL-2.0-or-later
"""
Processor time that the hypervisor took from this machine ("steal" of /proc/stat, see proc(5)). A request that waited for that says nothing
about the server; on a shared host it easily is every hundredth.
"""
import bisect
import os
import threading
import time

EVERY_S = 0.05
BEFORE_S, AFTER_S = 0.1, 0.05  # a tick of 10 ms is counted when it is full: some of it was stolen before
TICKS = os.sysconf("SC_CLK_TCK")
TRIES = 3


def _ticks():
    with open("/proc/stat") as file:
        return int(file.readline().split()[8])


class Watch:
    """Notes when time is stolen, until it is told to end."""

    def __init__(self):
        self.begins, self.ends, self._over = [], [], threading.Event()
        self.first, self.begun = _ticks(), time.monotonic()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self):
        last = self.first
        while not self._over.wait(EVERY_S):
            now = _ticks()
            if now > last:
                self.begins.append(time.time() - EVERY_S - BEFORE_S)
                self.ends.append(time.time() + AFTER_S)
            last = now

    def end(self):
        self._over.set()
        self._thread.join()
        elapsed = time.monotonic() - self.begun
        self.part = (_ticks() - self.first) / TICKS / os.cpu_count() / elapsed  # of all processors' time

    def during(self, when):
        """Whether it was stolen about then (seconds since 1970)."""
        at = bisect.bisect(self.begins, when)
        return any(when <= end for end in self.ends[max(at - 4, 0):at])  # the spans overlap


def least(measure, stolen_of, enough, tries=TRIES):
    """The first sample of which no more than `enough` was stolen, else the one of which least was."""
    best = None
    for _ in range(tries):
        sample = measure()
        if best is None or stolen_of(sample) < stolen_of(best):
            best = sample
        if stolen_of(best) <= enough:
            break
    return best
