#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Runs in a guest: trackers_restart.py SEED DISK DISK TEST, before and after its machine was started anew (H11).

FOLDER, where blkmove keeps its notes, is on a disk that lasts, and so are the targets.
"""
import mmap
import os
import pathlib
import subprocess
import sys

from tracking import (FIRST, MIB, SECOND, SECTOR, check, clear, content, copy, fill, make_era, make_groups, make_pool, rng, run, size_of, snapshot, sync,
                      thin_snapshot, write_some)

FOLDER = pathlib.Path("/var/lib/blkmove")
ERA = "/dev/mapper/era"
ERA_SECTORS = 20001


def target(name, source):
    """Of random bytes."""
    path = FOLDER / name
    path.write_bytes(rng.randbytes(size_of(source)))
    return path


def write_everywhere(sources):
    for source in sources:
        write_some(source)


def activate(group):
    run("vgchange", "-qay", group)
    # It fails over hidden volumes of a pool; there is no udev, and what it has made is there.
    subprocess.run(["vgmknodes", "-q", group], check=False)


def before_restart():
    """Each is copied, and written to after it."""
    make_groups()
    make_pool()
    for name in "era", "meta":
        run("lvcreate", "-qy", "-Wn", "-L", "12M", "-n", name, "away")
    make_era(ERA_SECTORS, 64, "/dev/away/meta", "/dev/away/era")
    for name, source in ("thick", snapshot("s0")), ("thin", thin_snapshot("t0")), ("era", ERA):
        copy(source, target(name, source))
    now = run("dmsetup", "status", "era").split()[5]
    (FOLDER / f"of-era-{now}").write_bytes(content(ERA))
    write_everywhere(["/dev/vg/data", "/dev/vg/thin", ERA])
    run("sync")


def after_restart():
    """LVM has its snapshots at work whenever their volume is; of dm-era nobody can know what was written while it was not there."""
    for group in "vg", "away":
        activate(group)
    write_everywhere(["/dev/vg/data", "/dev/vg/thin", "/dev/away/era"])
    run("modprobe", "dm-era")
    run("dmsetup", "create", "era", "--table", f"0 {ERA_SECTORS} era /dev/away/meta /dev/away/era 64")
    sync("/dev/vg/data", FOLDER / "thick", tracked=True)
    sync(thin_snapshot("t1"), FOLDER / "thin", tracked=True)
    _, said = sync(ERA, FOLDER / "era", tracked=False)
    check("is another device now" in said, said)
    # Who does know says so. What was written beside it is in this copy by hand.
    of_era = next(FOLDER.glob("of-era-*"))
    of_era.write_bytes(content(ERA))
    write_some(ERA)
    sync(ERA, of_era, f"--base={of_era.name.split('-')[-1]}", "--changes=dm-era", tracked=True)
    run("dmsetup", "remove", "era")
    clear()


def write_without_flush(path, count=30):
    page = mmap.mmap(-1, 4096)
    file = os.open(path, os.O_RDWR | os.O_DIRECT)
    for at in rng.sample(range(size_of(path) // len(page)), count):
        page[:] = rng.randbytes(len(page))
        os.pwrite(file, page, at * len(page))
    os.close(file)


def before_power_cut():
    """The volume's disk has a cache, in which is what the snapshot has in common with it; LVM's metadata and the store are elsewhere."""
    run("pvcreate", "-q", "--metadatacopies", "0", FIRST)
    run("pvcreate", "-q", SECOND)
    run("vgcreate", "-q", "-s", "1M", "vg", FIRST, SECOND)
    run("lvcreate", "-qy", "-Wn", "-L", "9M", "-n", "data", "vg", FIRST)
    fill("/dev/vg/data")
    write_without_flush("/dev/vg/data")
    run("lvcreate", "-qy", "-s", "-L", "20M", "-c", "4k", "-n", "s0", "vg/data", SECOND)
    copy("/dev/vg/s0", target("thick", "/dev/vg/s0"))
    run("sync", FOLDER / "thick")


def after_power_cut():
    activate("vg")
    check(content("/dev/vg/s0") == (FOLDER / "thick").read_bytes(), "the base is older than what was copied of it")
    write_some("/dev/vg/data")
    sync("/dev/vg/data", FOLDER / "thick", tracked=True)
    run("vgremove", "-qfy", "vg")


def main():
    for module in "dm-snapshot", "dm-thin-pool":
        run("modprobe", module)
    globals()[sys.argv[4]]()
    print("PASSED", sys.argv[4])


main()
