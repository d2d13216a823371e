# SPDX-License-Identifier: GPL-2.0-or-later
"""With a tracker the work grows with what changed, not with the volume: the same changes in a small volume and in one of 16 TiB, by each tracker that
needs a kernel of its own. A section of bench_guest.py, in the same guest; `Bench` is its.

The disks are sparse files in the host's memory, as ext4's end below 16 TiB. Base and target are alike because nobody has written to either: so there is
no first copy, which would read 16 TiB, and --base is the user's word, as it is for whoever copied by other means.
"""
import errno
import json
import os
import pathlib
import random
import statistics
import tempfile

import qemu
from contest import MIB, Target, at_most, progress, table

GIB, TIB = 1 << 30, 1 << 40
SMALL, HUGE = 64 * GIB, 16 * TIB
COUNT, LENGTH = 1600, 64 << 10  # 100 MiB
CHANGED = COUNT * LENGTH
ROOM = 4 * GIB  # what a disk has besides the volume
IN_MEMORY = "/dev/shm"
RATIO_MAX, SECONDS_MAX = 1.1, 60
PAGE = 4096
DISKS = "old", "new", "store"

GROUPS = """
vgcreate -qq vg /dev/by-serial/old /dev/by-serial/store; vgcreate -qq away /dev/by-serial/new
lvcreate -qqy -Wn -L {size}b -n target away
"""
DATA = "lvcreate -qqy -Wn -L {size}b -n data vg /dev/by-serial/old\n"

DM_SNAPSHOT = GROUPS + DATA + "lvcreate -qqy -s -L 256M -c 4k -n base vg/data /dev/by-serial/store\n"
DM_SNAPSHOT_NOW = "lvcreate -qqy -s -L 64M -c 4k -n now vg/data /dev/by-serial/store\n"

DM_THIN = GROUPS + """
lvcreate -qqy -Wn -L 1G -n pool vg /dev/by-serial/old; lvcreate -qqy -Wn -L 64M -n meta vg /dev/by-serial/store
lvconvert -qqy --type thin-pool -c {unit}b --poolmetadata vg/meta --poolmetadataspare n vg/pool
lvcreate -qqy -Wn -V {size}b -T vg/pool -n data; lvcreate -qqkn -s -n base vg/data
"""
DM_THIN_NOW = "lvcreate -qqkn -s -n now vg/data\n"

DM_ERA = "modprobe dm-era\n" + GROUPS + DATA + """
lvcreate -qqy -Wn -L 3G -n meta vg /dev/by-serial/store
dd if=/dev/zero of=/dev/vg/meta bs=4k count=1 oflag=direct status=none
dmsetup create era --table "0 $(blockdev --getsz /dev/vg/data) era /dev/vg/meta /dev/vg/data $(({unit} / 512))"
dmsetup message era 0 checkpoint
dmsetup status era | cut -d' ' -f6 >/run/era
"""

FILES = """
for name in old new store; do mkfs.xfs -q -K -l size=64m /dev/by-serial/$name; mkdir -p /run/$name; mount /dev/by-serial/$name /run/$name; done
truncate -s {size} /run/old/source /run/new/target
"""
SAVED = "blkmove sync --quiet --digests={folder}/digests {source} {target}\n"


class Tracker:
    """How the volume is made, what is done after it was changed, and how blkmove then learns of it. `unit`: what it tells of, bytes."""

    def __init__(self, name, unit, make, now, options, paths, sizes=(SMALL, HUGE), on_files=False):
        self.name, self.unit, self.make, self.now, self.options = name, unit, make, now, options
        self.changes, self.source, self.target = paths
        self.sizes, self.on_files = sizes, on_files
        self.runs, self.trouble = {size: [] for size in sizes}, {}

    def script(self, size):
        return self.make.format(size=size, unit=self.unit)

    def named(self, seed, size):
        """Bytes of the units that were written to; the changes are those of guest/consumer.py."""
        places = random.Random(seed).sample(range(size // LENGTH), COUNT)
        return len({at * LENGTH // self.unit for at in places}) * self.unit if self.unit > LENGTH else CHANGED


AWAY, IMAGES = "/dev/away/target", ("/run/old/source", "/run/old/source", "/run/new/target")
DEVICES = "/dev/vg/data", "/dev/vg/data", AWAY


def digests(kind, paths, make, folder, **more):
    saved = SAVED.format(folder=folder, source=paths[1], target=paths[2])
    return Tracker(f"saved digests, {kind}", PAGE, make + saved, "", f"--changes=digests --digests={folder}/digests", paths, **more)


IN_FULL = digests("devices", DEVICES, GROUPS + DATA, "/run", sizes=(GIB,))
TRACKERS = [
    Tracker("dm-snapshot", PAGE, DM_SNAPSHOT, DM_SNAPSHOT_NOW, "--changes=dm-snapshot --base=vg-base", ("/dev/vg/data", "/dev/vg/now", AWAY)),
    Tracker("dm-thin", LENGTH, DM_THIN, DM_THIN_NOW, "--changes=dm-thin --base=vg-base", ("/dev/vg/data", "/dev/vg/now", AWAY)),
    # With smaller blocks an emulated processor would look up numbers of blocks for longer than blkmove waits for the tool.
    Tracker("dm-era, blocks of 4 MiB", 4 * MIB, DM_ERA, "", "--changes=dm-era --base=$(cat /run/era)", ("/dev/mapper/era", "/dev/mapper/era", AWAY)),
    digests("sparse image files", IMAGES, FILES, "/run/store", on_files=True),
    IN_FULL,
]


def content_bytes(path):
    """Those of a sparse file's pages that are not all zeros."""
    found, zero = 0, bytes(PAGE)
    with open(path, "rb") as file:
        number, at, size = file.fileno(), 0, os.fstat(file.fileno()).st_size
        while at < size and (at := find_data(number, at)) is not None:
            end = os.lseek(number, at, os.SEEK_HOLE)
            found += sum(PAGE for page in range(at, end, PAGE) if os.pread(number, PAGE, page) != zero)
            at = end
    return found


def find_data(number, at):
    try:
        return os.lseek(number, at, os.SEEK_DATA)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        return None


class Growth:
    """Trackers, one after the other; each run has disks of its own."""

    def __init__(self, bench):
        self.bench, self.guest, self.seed = bench, bench.guest, 0

    def cpu_s(self):
        """What the guest has cost: a machine that is busy makes walls longer, but not this."""
        words = pathlib.Path(f"/proc/{self.guest.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")

    def measured(self, tracker, disk):
        """The sync itself; what the disks' counters say of it, and how much more than zeros the target's disk then holds."""
        shell = self.bench.shell
        shell("sync; echo 3 >/proc/sys/vm/drop_caches")
        held, before = content_bytes(disk), self.bench.disk_bytes()
        cpu_before = self.cpu_s()
        said = shell(f"begin=$(date +%s%N); blkmove sync --json {tracker.options} {tracker.source} {tracker.target}\n"
                     "end=$(date +%s%N); echo seconds $(((end - begin) / 1000000))")
        cpu_after = self.cpu_s()
        shell("sync")
        after = self.bench.disk_bytes()
        events = [json.loads(line) for line in said.splitlines() if line.startswith("{")]
        warned = " ".join(event["text"] for event in events if event["event"] == "warning")
        assert "nothing else is read" in warned or "the target is not read" in warned, said
        return {"wall_s": int(said.split("seconds")[-1]) / 1000, "cpu_s": cpu_after - cpu_before, "moved": events[-1]["sent"] + events[-1]["zero"],
                "disks": {name: tuple(later - earlier for earlier, later in zip(before[name], after[name])) for name in DISKS},
                "held": content_bytes(disk) - held}

    def sync(self, tracker, size, folder):
        """The changes are all there afterwards, and nothing else is."""
        self.seed += 1
        disks = [qemu.new_file(folder / name, (0 if tracker.on_files else size) + ROOM) for name in DISKS]
        for name, path in zip(DISKS, disks):
            self.guest.add_disk(qemu.file_disk(path, name))
        changes = f"{self.seed} {COUNT} {LENGTH}"
        shell = self.bench.shell
        shell(tracker.script(size))
        shell(f"consumer.py change {tracker.changes} {changes}\n{tracker.now}")
        took = self.measured(tracker, disks[DISKS.index("new")])
        shell(f"echo 3 >/proc/sys/vm/drop_caches; consumer.py expect {tracker.source} {changes}; consumer.py expect {tracker.target} {changes}")
        took["named"] = tracker.named(self.seed, size)
        assert took["moved"] == took["named"], f"{took['named']} bytes were to be moved: {took}"
        assert CHANGED <= took["held"] <= CHANGED * 1.05, f"the target's disk has got other than what changed: {took}"
        return took

    def clear(self, folder):
        self.bench.shell("""for name in old new store; do ! mountpoint -q /run/$name || umount /run/$name; done
            dmsetup info era >/dev/null 2>&1 && dmsetup remove --retry era
            for group in vg away; do vgremove -qqfy $group 2>/dev/null || true; done
            dmsetup remove_all -f; rm -rf /dev/vg /dev/away /var/lib/blkmove /run/digests; dmesg -c >/run/kernel-said""")
        self.guest.remove_disks()
        for name in DISKS:
            (folder / name).unlink(missing_ok=True)

    def race(self, runs):
        """The guest has no other disks then."""
        with tempfile.TemporaryDirectory(prefix="bench-growth-", dir=IN_MEMORY) as folder:
            self.guest.remove_disks()
            for number in range(runs):
                for tracker, size in ((tracker, size) for tracker in TRACKERS for size in tracker.sizes):
                    try:
                        tracker.runs[size].append(self.sync(tracker, size, pathlib.Path(folder)))
                        progress(f"{number + 1}/{runs} {tracker.name}, {size // GIB} GiB: {tracker.runs[size][-1]}")
                    except AssertionError as error:
                        tracker.trouble[size] = "FAILED"
                        progress(f"{tracker.name}, {size // GIB} GiB: {error}")
                    self.clear(pathlib.Path(folder))


def median(runs, value):
    return statistics.median(map(value, runs))


def wall(runs):
    return median(runs, lambda run: run["wall_s"])


def cpu(runs):
    return median(runs, lambda run: run["cpu_s"])


def read_bytes(runs):
    return median(runs, lambda run: sum(disk[0] for disk in run["disks"].values()))


def read_ratio(runs):
    return read_bytes(runs) / median(runs, lambda run: run["named"])


HEAD = ("known by", "volume", "MiB changed", "MiB of its units", "read MiB: old + new + store", "written MiB: old + new + store", "read ÷ units", "wall s",
        "CPU s")


def row(tracker, size):
    runs, name = tracker.runs[size], f"{tracker.name} {tracker.trouble.get(size, '')}".strip()
    if not runs:
        return (name, f"{size // GIB} GiB") + ("",) * 7
    read, written = (" + ".join(f"{median(runs, lambda run, disk=disk, which=which: run['disks'][disk][which]) / MIB:.1f}" for disk in DISKS)
                     for which in (0, 1))
    return (name, f"{size // GIB} GiB", f"{CHANGED / MIB:.0f}", f"{median(runs, lambda run: run['named']) / MIB:.0f}", read, written, f"{read_ratio(runs):.2f}",
            f"{wall(runs):.1f}", f"{cpu(runs):.1f}")


def out_of_reach():
    """The row of what is not run, and why."""
    runs = IN_FULL.runs[GIB]
    why = f"not run: all of old is read, some {cpu(runs) * HUGE / GIB / 3600:.0f} h of CPU by the above" if runs else ""
    return (IN_FULL.name, f"{HUGE // GIB} GiB", f"{CHANGED / MIB:.0f}", "", why, "", "", "", "")


def targets_of(tracker):
    if len(tracker.sizes) < 2:
        return
    small, large = tracker.sizes
    yield at_most(f"{tracker.name}: {large // TIB} TiB, 100 MiB changed: wall", wall(tracker.runs[large]), SECONDS_MAX, " s", 1)
    what, ratio = "the same: bytes read from the disks, ÷ those of the changed units", read_ratio(tracker.runs[large])
    yield Target(what, f"{ratio:.2f}×", "", None) if tracker.on_files else at_most(what, ratio, RATIO_MAX, "×")
    growth = ", ".join(f"{value(tracker.runs[large]) / value(tracker.runs[small]):.2f}×" for value in (wall, cpu, read_bytes))
    yield Target(f"the same: wall, CPU and bytes read, ÷ those of {small // GIB} GiB with the same changes", growth, "", None)


NOTE = f"""{COUNT} pieces of {LENGTH >> 10} KiB, each at a random multiple of that, written to a volume since its base was taken; then one `blkmove sync`, whose
wall and bytes these are (not those of the snapshot that it is made from). The volume is on *old*, the target on *new*, what trackers keep (snapshots'
stores, the metadata of pool and era, files of digests) on *store*: sparse files in the host's memory, of which nothing is in the guest's page cache.
Volumes and targets are LVM's, or images of XFS. They hold nothing but the changes: so base and target are alike without a first copy, and `--base`
says so. A unit is what the tracker tells of: snapshots' chunks of 4 KiB, the pool's blocks of 64 KiB, dm-era's blocks, digests' leaves of 4 KiB. Each
piece is compared afterwards, and what else than zeros the target's disk holds, counted. CPU is that of the emulator.""".replace("\n", " ")
WHY = """dm-era's metadata have four bytes for each block of the volume, and era_invalidate looks each up by itself: that grows with the volume (0.6 µs a block on a
processor of 2.5 GHz that is not emulated, 20 times that here). Large blocks keep it small, and make what is moved more. Saved digests are no tracker: they spare
reading the target alone. All of the source is read, but for an image's holes, and what differs a second time, to be sent.""".replace("\n", " ")


def report():
    rows = [row(tracker, size) for tracker in TRACKERS for size in tracker.sizes]
    done = [tracker for tracker in TRACKERS if all(tracker.runs.values())]
    yield from ["## Growth with the change, by tracker", "", NOTE, "", WHY, "", *table(HEAD, [*rows, out_of_reach()]), "",
                *table(("figure", "target", "measured", "met"), [target.row() for tracker in done for target in targets_of(tracker)]), ""]


def failed():
    return any(tracker.trouble for tracker in TRACKERS)
