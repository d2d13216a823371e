# SPDX-License-Identifier: GPL-2.0-or-later
"""What tests of trackers share, in a guest: volumes that are written to, and blkmove's answers compared with what really changed."""
import json
import os
import pathlib
import random
import shutil
import subprocess
import sys

MIB = 1 << 20
SIZE = 11 * MIB
SECTOR = 512
rng = random.Random(int(sys.argv[1]))
FIRST, SECOND = sys.argv[2:4]


def run(*words, **more):
    done = subprocess.run([str(word) for word in words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more)
    if done.returncode:
        print(f"{' '.join(map(str, words))}: exit {done.returncode}\n{done.stdout}{done.stderr}")
        raise SystemExit(1)
    return done.stdout


def content(path):
    with open(path, "rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return bytearray().join(iter(lambda: file.read(MIB), b""))


def size_of(path):
    with open(path, "rb") as file:
        return file.seek(0, os.SEEK_END)


def fill(path):
    with open(path, "r+b", buffering=0) as file:
        left = size_of(path)
        while left:
            left -= file.write(rng.randbytes(min(left, MIB)))
        os.fsync(file.fileno())


def write_some(path, count=20, longest=100):
    """Random sectors, the last one always among them. Returns the (offset, length) of what was written."""
    sectors = size_of(path) // SECTOR
    wrote = []
    with open(path, "r+b", buffering=0) as file:
        for _ in range(count):
            length = rng.randrange(1, longest)
            at = rng.randrange(sectors)
            wrote.append((at * SECTOR, min(length, sectors - at) * SECTOR))
        wrote.append(((sectors - 1) * SECTOR, SECTOR))
        for at, length in wrote:
            os.pwrite(file.fileno(), rng.randbytes(length), at)
        os.fsync(file.fileno())
    return wrote


def chunks(wrote, size):
    return {chunk for at, length in wrote for chunk in range(at // size, (at + length - 1) // size + 1)}


def check(fact, *words):
    if not fact:
        print("WRONG:", *words)
        raise SystemExit(1)


def blkmove(command, *words, fails=False, code=None, env=None, events=True):
    """Returns (its last event, what it warned of and why it failed)."""
    done = subprocess.run(["blkmove", command, *(["--json"] if events else []), *map(str, words)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          env={**os.environ, **(env or {})})
    said = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    warnings = " ".join([event["text"] for event in said if event["event"] == "warning"] + [done.stderr])
    print("blkmove", command, *words, "->", done.returncode, warnings, flush=True)
    check((done.returncode != 0) == fails if code is None else done.returncode == code, done.stdout, done.stderr)
    return said[-1] if said else None, warnings


def sync(source, target, *options, tracked, env=None):
    """Brings the target to the source, and compares both."""
    end, said = blkmove("sync", *options, source, target, env=env)
    check(("nothing else is read" in said) == bool(tracked), f"tracked: {tracked}, and it said: {said}")
    check(("both volumes are compared" in said) == (not tracked), said)
    check(content(target) == content(source), "the target is not what it should be")
    return end, said


def moved(end):
    return end["sent"] + end["zero"]


def copy(source, target, *options):
    blkmove("copy", *options, source, target)
    check(content(source) == content(target), "the copy differs")


def image(name, size):
    path = pathlib.Path("/tmp") / name
    path.write_bytes(rng.randbytes(size))
    return path


def make_groups():
    for disk, group in (FIRST, "vg"), (SECOND, "away"):
        run("pvcreate", "-q", disk)
        run("vgcreate", "-q", "-s", "1M", group, disk)
    run("lvcreate", "-qy", "-Wn", "-L", f"{SIZE}b", "-n", "data", "vg")
    run("lvcreate", "-qy", "-Wn", "-L", f"{SIZE}b", "-n", "target", "away")
    fill("/dev/vg/data")
    fill("/dev/away/target")


def snapshot(name, of="data", size="30M", chunk="4k"):
    run("lvcreate", "-qy", "-s", "-L", size, "-c", chunk, "-n", name, f"vg/{of}")
    return f"/dev/vg/{name}"


def remove(name):
    run("lvremove", "-qy", f"vg/{name}")


def make_pool(block="64k", zeroing="n"):
    """Without zeroing new blocks: whoever takes only what was written of one misses what became visible of the rest."""
    run("lvcreate", "-qy", "--type", "thin-pool", "-L", "56M", "--poolmetadatasize", "4M", "-c", block, f"-Z{zeroing}", "-n", "pool", "vg")
    run("lvcreate", "-qy", "-Wn", "-V", f"{SIZE}b", "-T", "vg/pool", "-n", "thin")
    with open("/dev/vg/thin", "r+b", buffering=0) as file:
        for at in range(0, SIZE, 5 * MIB):
            os.pwrite(file.fileno(), rng.randbytes(2 * MIB), at)
        os.fsync(file.fileno())


def thin_snapshot(name, of="thin"):
    run("lvcreate", "-qy", "-kn", "-s", "-n", name, f"vg/{of}")
    return f"/dev/vg/{name}"


def make_era(sectors, block, metadata=SECOND, data=FIRST):
    run("modprobe", "dm-era")
    run("dd", "if=/dev/zero", f"of={metadata}", "bs=4k", "count=1", "oflag=direct", "status=none")
    run("dmsetup", "create", "era", "--table", f"0 {sectors} era {metadata} {data} {block}")
    fill("/dev/mapper/era")
    return "/dev/mapper/era"


def clear():
    for group in "vg", "away":
        run("vgremove", "-qfy", group)
        # A link of an LVM command that was killed: the kernel knows no such volume any more, and vgcreate would refuse the name.
        shutil.rmtree(f"/dev/{group}", ignore_errors=True)
    for disk in FIRST, SECOND:
        run("wipefs", "-qa", disk)
