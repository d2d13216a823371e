#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Ways to move a volume that is in use, and ways to move what changed, side by side in one guest, and how trackers' work grows (bench_growth.py); prints
docs/BENCHMARKS-guest.md.

    BLKMOVE=build/src/cli/blkmove tests/vm/bench_guest.py [--kernel 6.12] [--runs 3] [--only growth] >docs/BENCHMARKS-guest.md

A guest is emulated: seconds are those of this machine and mean little by themselves; what was read and written, and how the ways compare, is what counts.
Each way begins with a new volume of the same content, and at its end all that the consumer wrote, and the rest, is read back from where it was to be.
"""
import argparse
import json
import pathlib
import statistics
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "lib"), str(HERE.parent / "bench")]

import bench_growth  # noqa: E402
import machine  # noqa: E402
import vm  # noqa: E402
from contest import MIB, progress, table  # noqa: E402
from program import executable  # noqa: E402

SIZE, FILLING = 64, 24  # MiB: the volume, and the file in it
CHANGES, LENGTH = 64, 64 << 10
PATIENCE_S = 900
STATE = "/run/consumer"

# For each way: the consumer closes its file, and nobody has the file system any more; it goes on, on a device.
SHELL = f"""
let_go() {{ touch {STATE}/release; while [ -e {STATE}/at-work ]; do sleep 0.01; done; umount /data; }}
take() {{ mount "$1" /data; rm {STATE}/release; }}
place() {{ dmsetup table "$1" | cut -d' ' -f4,5; }}
"""

MDADM = """
let_go
mdadm -q --build /dev/md0 --level=1 --raid-devices=2 /dev/vg/data missing
take /dev/md0
mdadm -q /dev/md0 --add /dev/vg/new
until [ $(cat /sys/block/md0/md/degraded) = 0 ]; do sleep 0.1; done
let_go
mdadm -q --stop /dev/md0
take /dev/vg/new
"""

DM_MIRROR = """
size=$(blockdev --getsz /dev/vg/data) old=$(place vg-data) new=$(place vg-new)
dmsetup suspend vg-data
dmsetup load vg-data --table "0 $size mirror core 2 1024 sync 2 $old $new 1 handle_errors"
dmsetup resume vg-data
until dmsetup status vg-data | grep -q " $((size / 1024))/$((size / 1024)) "; do sleep 0.1; done
dmsetup suspend vg-data
dmsetup load vg-data --table "0 $size linear $new"
dmsetup resume vg-data
"""

THIN_DELTA = f"""
lvcreate -qqkn -s -n now vg/data
ids=$(lvs --noheadings -o thin_id vg/base vg/now); set -- $ids
dmsetup message vg-pool-tpool 0 reserve_metadata_snap
thin_delta -m --snap1 $1 --snap2 $2 /dev/mapper/vg-pool_tmeta >/run/delta
dmsetup message vg-pool-tpool 0 release_metadata_snap
sed -nE 's/.*<(different|left_only|right_only) begin="([0-9]+)" length="([0-9]+)".*/\\2 \\3/p' /run/delta | while read begin count; do
    dd if=/dev/vg/now of=/dev/away/target bs={LENGTH} skip=$begin seek=$begin count=$count iflag=direct oflag=direct conv=notrunc status=none
done
sync /dev/away/target
"""

THICK_NOW = "lvcreate -qqy -s -L 32M -n now vg/data /dev/by-serial/store\n"
THIN_NOW = "lvcreate -qqkn -s -n now vg/data\n"


def sync_by(how):
    return f"blkmove sync --quiet --changes={how} /dev/vg/now /dev/away/target\n"


def move_by(engine):
    return f"blkmove move --quiet --engine={engine} --overwrite=/dev/vg/new /dev/vg/data /dev/vg/new\n"


class Way:
    """One way of doing it: what is typed, on which device the file system then is, how often it had to be unmounted."""

    def __init__(self, name, script, ends_on="/dev/vg/data", unmounts=0, needs_new=True, thin=False):
        self.name, self.script, self.ends_on, self.unmounts = name, script, ends_on, unmounts
        self.needs_new, self.thin = needs_new, thin
        self.runs, self.trouble = [], ""


MOVES = [
    Way("blkmove move --engine=dm", move_by("dm")),
    Way("blkmove move --engine=blkmove", move_by("blkmove")),
    Way("mdadm --build, then the new volume", MDADM, "/dev/vg/new", unmounts=2),
    Way("dm-mirror, by dmsetup", DM_MIRROR),
    Way("pvmove", "pvmove -qq -i 1 -n data /dev/by-serial/old /dev/by-serial/new\n", needs_new=False),
]
SYNCS = [
    Way("blkmove sync --changes=dm-snapshot", THICK_NOW + sync_by("dm-snapshot")),
    Way("blkmove sync --changes=hash", THICK_NOW + sync_by("hash")),
    Way("dd of the LVM snapshot", THICK_NOW + "dd if=/dev/vg/now of=/dev/away/target bs=1M iflag=direct oflag=direct conv=fsync status=none\n"),
    Way("blkmove sync --changes=dm-thin", THIN_NOW + sync_by("dm-thin"), thin=True),
    Way("thin_delta, and dd of each range", THIN_DELTA, thin=True),
    Way("dd of the thin snapshot", THIN_NOW + "dd if=/dev/vg/now of=/dev/away/target bs=1M iflag=direct oflag=direct conv=fsync status=none\n", thin=True),
]


class Bench:
    """A guest with three disks, and what is done in it."""

    def __init__(self, guest):
        self.guest, self.seed = guest, 0
        for name in "old", "new", "store":
            guest.add_disk("256M", name)
        guest.run("""for module in dm-snapshot dm-thin-pool dm-mirror raid1; do modprobe $module; done; modprobe -q ublk_drv || modprobe nbd
            sysctl -qw dev.raid.speed_limit_min=1000000; mkdir /data""")

    def shell(self, text):
        return self.guest.run(text, timeout_s=PATIENCE_S).out

    def disk_bytes(self):
        """{disk: (read, written)} since the boot: the kernel's Documentation/block/stat.rst."""
        said = self.shell('for name in old new store; do cat /sys/block/$(basename $(readlink /dev/by-serial/$name))/stat; done')
        rows = [[int(word) for word in line.split()] for line in said.splitlines()]
        return {name: (row[2] * 512, row[6] * 512) for name, row in zip(("old", "new", "store"), rows)}

    def measured(self, way):
        """The way itself, with a consumer about. Returns what it took."""
        guest = self.guest
        guest.run(f"rm -rf {STATE}; mkdir {STATE}; sync; echo 3 >/proc/sys/vm/drop_caches")
        self.seed += 1
        consumer = guest.start(["consumer.py", "write", "/data", STATE, self.seed])
        consumer.wait_for("READY")
        before = self.disk_bytes()
        wall_s = float(self.shell(f"{SHELL}\nbegin=$(date +%s%N)\n{way.script}\nend=$(date +%s%N)\necho seconds $(((end - begin) / 1000000))")
                       .split("seconds")[-1]) / 1000
        guest.run(f"touch {STATE}/stop; sleep 0.2")
        said = consumer.wait(timeout_s=PATIENCE_S).out
        # What is in the page cache yet was written by the way, too.
        guest.run("sync")
        after = self.disk_bytes()
        moved = {name: tuple(later - earlier for earlier, later in zip(before[name], after[name])) for name in before}
        return dict(json.loads(said.splitlines()[-1]), wall_s=wall_s, **{"disks": moved})

    def fill(self, device):
        self.shell(f"""mkfs.ext4 -q -E nodiscard,lazy_itable_init=0,lazy_journal_init=0 {device}; mount {device} /data
            dd if=/dev/urandom of=/data/filling bs=1M count={FILLING} conv=fsync status=none; md5sum /data/filling >/run/sum""")

    def check_file_system(self, device):
        self.shell(f"md5sum -c --quiet /run/sum; umount /data; e2fsck -fn {device}; echo 3 >/proc/sys/vm/drop_caches")
        self.shell(f"mount -o ro {device} /data; md5sum -c --quiet /run/sum; umount /data")

    def clear(self):
        self.shell(f"""touch {STATE}/stop; sleep 0.5; umount -q /data || true
            mdadm -q --stop /dev/md0 2>/dev/null || true
            for group in vg away; do vgremove -qqfy $group 2>/dev/null || true; done
            dmsetup remove_all -f; for name in old new store; do wipefs -qa /dev/by-serial/$name; blkdiscard /dev/by-serial/$name; done
            rm -rf /var/lib/blkmove; dmesg -c >/run/kernel-said""")

    def move(self, way):
        """The new disk holds something else before: nothing is spared because it is blank."""
        self.shell(f"""vgcreate -qq vg /dev/by-serial/old /dev/by-serial/new; lvcreate -qqy -Wn -L {SIZE}M -n data vg /dev/by-serial/old
            lvcreate -qqy -Wn -L {SIZE}M -n new vg /dev/by-serial/new; dd if=/dev/urandom of=/dev/vg/new bs=1M count={SIZE} conv=fsync status=none""")
        if not way.needs_new:
            self.shell("lvremove -qqy vg/new")
        self.fill("/dev/vg/data")
        took = self.measured(way)
        name = way.ends_on.replace("/dev/vg/", "vg-")
        self.shell(f"dmsetup table {name} | grep -q \" $(lsblk -ndro MAJ:MIN $(readlink /dev/by-serial/new)) \"")
        self.check_file_system(way.ends_on)
        return took

    def make_volume(self, thin):
        self.shell(f"vgcreate -qq vg /dev/by-serial/old /dev/by-serial/store; vgcreate -qq away /dev/by-serial/new; lvcreate -qqy -Wn -L {SIZE}M -n target away")
        self.shell(f"""lvcreate -qqy --type thin-pool -L {2 * SIZE}M --poolmetadatasize 4M -c {LENGTH >> 10}k -Zn -n pool vg /dev/by-serial/old
            lvcreate -qqy -Wn -V {SIZE}M -T vg/pool -n data""" if thin else f"lvcreate -qqy -Wn -L {SIZE}M -n data vg /dev/by-serial/old")

    def sync(self, way):
        """The target holds the base; since then some of the file was changed."""
        self.make_volume(way.thin)
        self.fill("/dev/vg/data")
        self.shell("lvcreate -qqkn -s -n base vg/data" if way.thin else "lvcreate -qqy -s -L 64M -n base vg/data /dev/by-serial/store")
        self.shell("blkmove copy --quiet --overwrite=/dev/away/target /dev/vg/base /dev/away/target; cmp /dev/vg/base /dev/away/target")
        self.shell(f"consumer.py change /data/filling {self.seed} {CHANGES} {LENGTH}; sync; md5sum /data/filling >/run/sum")
        took = self.measured(way)
        self.shell("echo 3 >/proc/sys/vm/drop_caches; cmp /dev/vg/now /dev/away/target")
        self.check_file_system("/dev/vg/data")
        return took

    def race(self, ways, do, runs):
        """Interleaved; each run begins with another."""
        for number in range(runs):
            for way in ways[number % len(ways):] + ways[:number % len(ways)]:
                try:
                    way.runs.append(do(way))
                    progress(f"{number + 1}/{runs} {way.name}: {way.runs[-1]}")
                except AssertionError as error:
                    way.trouble = "FAILED"
                    progress(f"{way.name}: {error}")
                self.clear()


def median(way, value):
    return statistics.median(value(run) for run in way.runs)


def row(way, best):
    """`best` is the blkmove run to compare with."""
    if not way.runs:
        return (way.name, way.trouble) + ("",) * 7
    disks = [[median(way, lambda run, name=name, which=which: run["disks"][name][which]) / MIB for which in (0, 1)] for name in ("old", "new", "store")]
    read, written = ([f"{disk[which]:.1f}" for disk in disks] for which in (0, 1))
    wall = median(way, lambda run: run["wall_s"])
    moved = sum(map(sum, disks))
    best_wall, best_moved = median(best, lambda run: run["wall_s"]), median(best, lambda run: sum(map(sum, run["disks"].values()))) / MIB
    ratio = ("", "") if best is way else (f"{best_wall / wall:.2f}", f"{best_moved / moved:.2f}")
    return (f"{way.name} {way.trouble}".strip(), " + ".join(read), " + ".join(written), f"{median(way, lambda run: run['bytes']) / MIB:.1f}",
            f"{median(way, lambda run: run['gap_ms']):.0f}", f"{median(way, lambda run: run['usual_ms']):.1f}", way.unmounts, f"{wall:.1f}", *ratio)


HEAD = ("way", "read MiB: old + new + store", "written MiB: old + new + store", "of it by the consumer", "longest gap ms", "usual ms", "unmounts", "wall s",
        "blkmove ÷ it: wall", "read + written")


def lines_of(ways, versus):
    return table(HEAD, [row(way, versus(way)) for way in ways])


def report_moves():
    yield from ["## Another disk for a volume in use", "",
                f"An LVM volume of {SIZE} MiB with a mounted ext4, from the disk *old* to the disk *new*, which held random bytes. For mdadm the consumer closes its file, the "
                "file system is unmounted and mounted again, twice, with no more waiting than that takes; `speed_limit_min` is raised, as a resync "
                "beside a load would go at 1 MiB/s. The last columns compare blkmove's engine dm with each.", "", *lines_of(MOVES, lambda _: MOVES[0]), ""]


def report_syncs():
    yield from ["## What changed since the last copy", "",
                f"{CHANGES} pieces of {LENGTH >> 10} KiB ({CHANGES * LENGTH >> 20} MiB) of a volume of {SIZE} MiB were changed through its file system since the target got the base "
                "snapshot. Each way takes a new snapshot and brings the target to it; both are then compared. "
                "The volume is on *old*, snapshots' stores on *store*, the target on *new*. The last columns compare blkmove's tracker of that kind of volume with each.", "",
                *lines_of(SYNCS, lambda way: SYNCS[3 if way.thin else 0]), ""]


# In the order of the document; the last one takes the disks away.
PARTS = {
    "moves": (lambda bench, runs: bench.race(MOVES, bench.move, runs), report_moves),
    "syncs": (lambda bench, runs: bench.race(SYNCS, bench.sync, runs), report_syncs),
    "growth": (lambda bench, runs: bench_growth.Growth(bench).race(runs), bench_growth.report),
}


def report(arguments, versions):
    only = "" if arguments.only == list(PARTS) else f" --only {' '.join(arguments.only)}"
    yield from ["# Benchmarks in a guest", "", f"Made by `tests/vm/bench_guest.py --kernel {arguments.kernel} --runs {arguments.runs}{only}`; "
                f"{arguments.runs} run{'s' * (arguments.runs > 1)} of each way, interleaved in one boot; medians.", "", machine.processor(),
                f"- Guest: QEMU's emulation (TCG, no KVM), one processor, 512 MiB, virtio disks that are files of the host's page cache; Linux {versions[0]}",
                f"- In the guest: {', '.join(versions[1:])}", "",
                "Emulated time is not a real machine's: processors are slow and disks fast, so that what a tool computes weighs more than what it reads. "
                "Bytes are those of the disks' own counters, file system and consumer included. The consumer writes 4 KiB at random with O_DIRECT and O_DSYNC to "
                f"a file on the volume, with a pause of 4 ms after each; the longest gap is between the ends of two of its writes, the usual one their median. Its "
                f"writes are read back at the end, the file system is checked, and a file of {FILLING} MiB in it compared.", ""]
    for name in arguments.only:
        yield from PARTS[name][1]()


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kernel", default="6.12", help="how its version begins (%(default)s)")
    parser.add_argument("--runs", type=int, default=3, help="of each way (%(default)s)")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help=f"of the document: {', '.join(PARTS)} (all)")
    arguments = parser.parse_args()
    arguments.only = [name for name in PARTS if name in arguments.only]
    return arguments


def main():
    arguments = parse_arguments()
    with tempfile.TemporaryDirectory(prefix="bench-guest-") as folder:
        guest = vm.Guest(vm.image(arguments.kernel), pathlib.Path(folder) / "1", copy=[executable()])
        try:
            guest.boot()
            bench = Bench(guest)
            versions = [guest.run(words).out.strip() for words in (
                "uname -r", "blkmove --version", "mdadm --version 2>&1 | sed 's/ - v/ /; s/ - .*//'", "lvs --version | sed -n 's/ *LVM version: */LVM /p'",
                "echo thin_delta $(thin_delta --version)")]
            for name in arguments.only:
                PARTS[name][0](bench, arguments.runs)
        finally:
            guest.end()
    print("\n".join(report(arguments, versions)).rstrip())
    return 1 if bench_growth.failed() or any(way.trouble for way in MOVES + SYNCS) else 0


if __name__ == "__main__":
    sys.exit(main())
