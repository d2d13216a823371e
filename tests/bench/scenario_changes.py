# SPDX-License-Identifier: GPL-2.0-or-later
"""With a tracker the work grows with what changed, not with the volume: the same changes in a small volume and in one of 16 TiB."""
import json
import subprocess

import contest
import volumes
from contest import MIB, Entrant, Section, Target, at_most, table
from scenario_scale import HUGE

CHANGES, PIECE = 400, 256 << 10  # 100 MiB
SMALL = 16 << 30
SECONDS_MAX = 10


class Image:
    """A qcow2 that changed since its bitmap was begun, when the target held the same."""

    def __init__(self, bench, name, size):
        self.bench, self.size = bench, size
        self.path, self.target = bench.folder / f"{name}.qcow2", bench.folder / f"{name}-target.img"
        self.pieces = {(size // CHANGES * i) // PIECE * PIECE: 1 + i % 255 for i in range(CHANGES)}
        self._run("qemu-img", "create", "-q", "-f", "qcow2", self.path, size)
        self._run("qemu-img", "bitmap", "--add", self.path, "b0")
        commands = [word for at, byte in self.pieces.items() for word in ("-c", f"write -P {byte} {at} {PIECE}")]
        self._run("qemu-io", "-f", "qcow2", *commands, self.path)
        with open(self.target, "wb") as file:
            file.truncate(size)

    @staticmethod
    def _run(*words):
        subprocess.run([str(word) for word in words], check=True, stdout=subprocess.DEVNULL)

    def sync(self, *words):
        return self.bench.blkmove("sync", "--base=b0", *words, "[", "qemu-nbd", "-r", "-f", "qcow2", "-B", "b0", self.path, "]", self.target)

    def bytes_named(self):
        """What the program itself says that it reads of the source: a dry run reads what the run reads."""
        done = subprocess.run([str(word) for word in self.sync("--dry-run", "--json")], check=True, stdout=subprocess.PIPE)
        end = json.loads(done.stdout.splitlines()[-1])
        return end["sent"] + end["zero"]

    def is_held(self):
        with open(self.target, "rb") as file:
            for at, byte in self.pieces.items():
                file.seek(at)
                if file.read(PIECE) != bytes([byte]) * PIECE:
                    return False
        return volumes.data_bytes(self.target) <= 1.1 * CHANGES * PIECE

    def forget(self):
        volumes.forget(self.path)
        volumes.forget(self.target)


def changes(bench):
    rows, results, wrong, changed = [], [], [], CHANGES * PIECE
    for name, size in ("small", SMALL), ("huge", HUGE):
        image = Image(bench, name, size)
        race = contest.race(bench, [Entrant("sync", image.sync())], lambda _: volumes.drop_cache(image.path, image.target),
                            lambda _: image.is_held())
        named, read = image.bytes_named(), race.first.median("read_bytes")
        rows.append((f"{size / (1 << 30):.0f} GiB", f"{changed / MIB:.0f}", f"{named / MIB:.1f}", f"{read / MIB:.1f}", f"{race.first.wall:.2f}",
                     f"{race.first.cpu:.2f}", f"{race.first.peak / MIB:.1f}"))
        results.append(race.first)
        wrong += race.wrong
        image.forget()
    targets = [
        at_most("16 TiB, 100 MiB changed: wall of a sync by a bitmap", results[1].wall, SECONDS_MAX, " s"),
        at_most("the same: bytes read from the disk, ÷ those of the changed regions", read / changed, 1.1, "×"),
        Target("the same, without the image's own tables: by the program's count", f"{named / changed:.2f}×", "", None),
        Target("the same, ÷ the wall of 16 GiB with the same changes", f"{results[1].wall / results[0].wall:.2f}×", "", None),
    ]
    note = f"{CHANGES} pieces of {PIECE >> 10} KiB, at even distances, changed in a qcow2 since its dirty bitmap was begun; served by qemu-nbd, which the command starts. " \
           "What was read from the disk, by blkmove and by qemu-nbd, the kernel counted, after the image and the target were dropped from the page cache; " \
           "it is what the target is judged by. It has what qcow2 needs to find the data: for each place that changed, far from the next one, a cluster of " \
           "64 KiB of the bitmap and one of the L2 tables, which QEMU reads whole. They grow with the number of places, up to the size of the bitmap " \
           "(a bit for 64 KiB) and the tables (8 bytes for 64 KiB)."
    section = Section("Growth with the change", note, None, targets,
                      table(("volume", "MiB changed", "MiB named", "MiB read from the disk", "wall s", "CPU s", "peak MiB"), rows))
    section.wrong = wrong
    yield section


SCENARIOS = {"changes": changes}
