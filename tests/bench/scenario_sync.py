# SPDX-License-Identifier: GPL-2.0-or-later
"""Delta syncs over ssh: by comparing, from saved digests, over a slow link, with each first block size."""
import os
import pathlib

import contest
import link
import volumes
from contest import Entrant, MIB, Section, Target, at_most
from scenario_copy import AES_GCM

RSYNC, PERL = "rsync --inplace --no-whole-file", "Perl, MD5 of 1 MiB blocks"
LINK_MBIT_S, LINK_RTT_MS = 10, 40


class Delta:
    """A target that is A before each run and has to be `source` after it."""

    def __init__(self, bench, source):
        self.bench, self.source = bench, source
        self.target = bench.folder / "target.img"
        self.blocks = volumes.changed_blocks(bench.a, source)
        self.clean = False

    def prepare(self, _=None):
        if not self.target.exists():
            volumes.copy_sparse(self.bench.a, self.target)
        elif not self.clean:
            # Only blocks that were made equal to the source's have to go back: check() saw that nothing else changed.
            volumes.write_blocks(self.target, self.bench.a, self.blocks)
        self.clean = True
        volumes.drop_cache(self.bench.a, self.source, self.target)

    def check(self, _=None):
        self.clean = False
        if volumes.equal(self.source, self.target):
            return True
        self.target.unlink()
        return False

    @property
    def changed_bytes(self):
        return len(self.blocks) * volumes.BLOCK

    @property
    def remote(self):
        return f"other:{self.target}"

    def note(self):
        return f"The target is A ({self.bench.size_text}) and becomes {self.source.stem}, in which {len(self.blocks)} blocks of 4 KiB " \
               f"({self.changed_bytes / MIB:.1f} MiB) differ"

    def wire_limit(self):
        return 1.1 * self.changed_bytes + 0.001 * os.path.getsize(self.source)


def _peers(bench, delta):
    perl_sync = pathlib.Path(__file__).with_name("perl_sync")
    for mark, ssh in (("", [bench.ssh]), (", AES-GCM", [bench.ssh, "-c", AES_GCM])):
        yield Entrant(RSYNC + mark, ["rsync", "--inplace", "--no-whole-file", "--ignore-times", "-e", " ".join(ssh), delta.source, delta.remote],
                      "rsync", not mark)
        yield Entrant(PERL + mark, [perl_sync, delta.source, delta.target, *ssh], "perl", not mark)


def _ratios(results, peer, what, limit, fields):
    for field, name in fields:
        yield at_most(f"{what}: {name}, blkmove ÷ {peer}", results.first.median(field) / results[peer].median(field), limit, "×")


def sync_over_ssh(bench):
    for source, rsync_limit in ((bench.b, 0.45), (bench.c, 0.2)):
        delta = Delta(bench, source)
        entrants = [Entrant("blkmove sync", bench.blkmove_ssh("sync", source, delta.remote)), *_peers(bench, delta)]
        results = contest.race(bench, entrants, delta.prepare, delta.check)
        what, both = f"sync of {source.stem}", (("wall_s", "wall"), ("cpu_s", "CPU"))
        targets = []
        if results[RSYNC].samples:
            targets += _ratios(results, RSYNC, what, rsync_limit, both)
        if RSYNC + ", AES-GCM" in results:
            targets += _ratios(results, RSYNC + ", AES-GCM", what, rsync_limit, both)
        if source == bench.b and results[PERL].samples:
            targets += _ratios(results, PERL, what, 0.2, both)
        targets += [
            at_most(f"{what}: bytes on the wire", results.first.wire / MIB, round(delta.wire_limit() / MIB, 2), " MiB"),
            at_most(f"{what}: peak memory", results.first.peak / MIB, 64, " MiB", 1),
        ]
        note = delta.note() + ". No volume is in the page cache before a run. blkmove's time includes the flush of the target, that of " \
            "its peers does not. casync cannot do this: Debian's has no helper for ssh."
        yield Section(f"Delta sync of {source.stem} over ssh on loopback", note, results, targets)
        volumes.forget(delta.target)


def _target_reads(bench, delta, digests):
    """Bytes that the far side has read from disks: what the kernel counted for the agent."""
    counts, agent = bench.folder / "agent.io", bench.folder / "agent"
    agent.write_text(f'#!/bin/sh\n{bench.program} "$@"\ncat /proc/$$/io >{counts}\n')
    agent.chmod(0o755)
    command = bench.blkmove_ssh("sync", "--changes=digests", f"--digests={digests}", delta.source, delta.remote, agent=agent)
    sample, code, said = bench.meter.run(command)
    if code != 0 or not delta.check():
        raise SystemExit(f"the run that counts what the agent reads failed: {said}")
    return int(dict(line.split(": ") for line in counts.read_text().splitlines())["read_bytes"])


def sync_from_digests(bench):
    delta = Delta(bench, bench.b)
    digests = bench.folder / "target.digests"
    saved = bench.blkmove_ssh("sync", "--changes=digests", f"--digests={digests}", delta.source, delta.remote)

    def prepare(_=None):
        """Target and digests are those of A: a sync from A, not measured, makes both."""
        delta.prepare()
        digests.unlink(missing_ok=True)
        _, code, said = bench.meter.run(bench.blkmove_ssh("sync", f"--digests={digests}", bench.a, delta.remote))
        if code != 0 or not digests.exists():
            raise SystemExit(f"no digests were saved: {said}")
        volumes.drop_cache(bench.a, delta.source, delta.target, digests)

    entrants = [
        Entrant("blkmove sync --changes=digests --digests=FILE", saved),
        Entrant("blkmove sync --changes=hash", bench.blkmove_ssh("sync", "--changes=hash", delta.source, delta.remote)),
    ]
    results = contest.race(bench, entrants, prepare, delta.check)
    prepare()
    reads = _target_reads(bench, delta, digests)
    plain = list(results.values())[1]
    targets = [
        at_most("sync of B from saved digests: wall, ÷ plain delta sync", results.first.wall / plain.wall, 0.6, "×"),
        at_most("sync of B from saved digests: read of the target, signatures only", reads / MIB, 1, " MiB"),
    ]
    note = delta.note() + ". The digests are those that the run before saved. What is read of the target is what libblkid looks at to find " \
        "signatures, whatever the volume's size."
    yield Section("Delta sync of B from saved digests, over ssh on loopback", note, results, targets)
    volumes.forget(delta.target)
    digests.unlink(missing_ok=True)


def _changed_alone(delta):
    """A file of nothing but the changed blocks: what has to travel."""
    path = delta.bench.folder / "changed"
    with open(delta.source, "rb") as reading, open(path, "wb") as writing:
        for block in delta.blocks:
            writing.write(os.pread(reading.fileno(), volumes.BLOCK, block * volumes.BLOCK))
    return path


def _link_entrants(bench, delta, ssh):
    changed = _changed_alone(delta)
    yield Entrant("blkmove sync", bench.blkmove_ssh("sync", delta.source, delta.remote, ssh=ssh))
    yield Entrant("the changed blocks alone: zstd | ssh cat", f"zstd -q -c {changed} | {ssh} other 'cat >{delta.bench.folder}/received'", "zstd")
    for size in ("1M", "64k", "4k"):
        yield Entrant(f"blkmove sync --compare-block={size}",
                      bench.blkmove_ssh("sync", f"--compare-block={size}", delta.source, delta.remote, ssh=ssh), "", False)
    if delta.source == bench.c:
        return  # rsync would take a quarter of an hour: it sends nearly all of C
    yield Entrant("rsync --inplace --no-whole-file -z", ["rsync", "--inplace", "--no-whole-file", "--ignore-times", "-z", "--zc=zstd", "-e", ssh,
                                                         delta.source, delta.remote], "rsync", False)


def sync_over_slow_link(bench):
    title = f"Delta sync over a link of {LINK_MBIT_S} Mbit/s and {LINK_RTT_MS} ms"
    if not bench.own_network:
        yield Section(title, "Left out: it needs a network namespace, which needs root.")
        return
    for source in (bench.b, bench.c):
        delta = Delta(bench, source)
        with link.SlowLink(bench.meter, bench.machine, bench.folder, LINK_MBIT_S, LINK_RTT_MS) as slow:
            results = contest.race(bench, _link_entrants(bench, delta, slow.ssh), delta.prepare,
                                   lambda entrant, delta=delta: "alone" in entrant.name or delta.check(), 2, slow.device)
        alone = list(results.values())[1]
        targets = []
        if alone.samples:
            targets.append(at_most(f"sync of {source.stem} at {LINK_MBIT_S} Mbit/s: wall, ÷ the changed bytes alone",
                                   results.first.wall / alone.wall, 1.15, "×"))
        yield Section(f"{title}: {source.stem}", delta.note() + f". The round trip takes {LINK_RTT_MS} ms.", results, targets)
        volumes.forget(delta.target)


def compare_blocks(bench):
    """Where the link is fast: which first block size is best, to choose the default by."""
    for source in (bench.b,) if bench.quick else (bench.b, bench.c):
        delta = Delta(bench, source)
        entrants = [Entrant("blkmove sync", bench.blkmove_ssh("sync", source, delta.remote))]
        entrants += [Entrant(f"blkmove sync --compare-block={size}",
                             bench.blkmove_ssh("sync", f"--compare-block={size}", source, delta.remote)) for size in ("1M", "64k", "4k")]
        results = contest.race(bench, entrants, delta.prepare, delta.check)
        best = min(result.wall for result in results.values())
        figure = Target(f"sync of {source.stem}: wall, the default ÷ the best block size", f"{results.first.wall / best:.2f}×", "", None)
        yield Section(f"First block size compared, unshaped loopback: {source.stem}", delta.note() + ".", results, [figure])
        volumes.forget(delta.target)


SCENARIOS = {"sync-ssh": sync_over_ssh, "sync-digests": sync_from_digests, "sync-link": sync_over_slow_link, "compare-block": compare_blocks}
