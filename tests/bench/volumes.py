# SPDX-License-Identifier: GPL-2.0-or-later
"""The volumes that are moved: made, compared, put back, dropped from the page cache.

A is an ext4 image, a quarter of it random files and an eighth text, the rest holes. B is A with 1 % of its 4 KiB blocks changed in
clusters of 16 KiB to 2 MiB, C is A with single blocks changed here and there (64 MiB of 4 GiB). All changes lie in allocated blocks.
"""
import math
import os
import pathlib
import random
import shutil
import subprocess

FULL_SIZE = 4 << 30
BLOCK = 4096
CHUNK = 1 << 20
TEXT_ROOTS = ("/usr/include", "/usr/share", "/usr/lib/python3", "/usr/lib", "/usr/local")
TEXT_SUFFIXES = (".h", ".py", ".txt", ".html", ".json", ".c", ".md", ".pm", ".pl", ".po", ".xml", ".svg", ".rb", ".js", ".css", ".rst",
                 ".go", ".hpp", ".cc", ".cpp", ".rs", ".csv")


def default_folder():
    """$BENCH_DATA, or one that outlives a reboot; /tmp may be memory."""
    return os.environ.get("BENCH_DATA") or "/var/tmp/blkmove-bench"


def data_extents(path):
    """What a file has allocated, as [(offset, end)]."""
    extents, position = [], 0
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        while position < size:
            try:
                begin = os.lseek(file.fileno(), position, os.SEEK_DATA)
            except OSError:
                break
            position = os.lseek(file.fileno(), begin, os.SEEK_HOLE)
            extents.append((begin, position))
    return extents


def data_bytes(path):
    return sum(end - begin for begin, end in data_extents(path))


def _text_files():
    for root in TEXT_ROOTS:
        for folder, folders, names in os.walk(root):
            folders.sort()
            for name in sorted(names):
                path = os.path.join(folder, name)
                if name.endswith(TEXT_SUFFIXES) and os.path.isfile(path) and not os.path.islink(path):
                    yield path


def _fill_with_text(tree, size, rng):
    left = size
    for number, path in enumerate(_text_files()):
        if left <= 0:
            return
        length = os.path.getsize(path)
        if 256 <= length <= left:
            folder = tree / str(number // 500)
            folder.mkdir(parents=True, exist_ok=True)
            try:
                shutil.copyfile(path, folder / f"{number}_{os.path.basename(path)}")
                left -= length
            except OSError:
                pass
    _fill_with_log_lines(tree, left, rng)


def _fill_with_log_lines(tree, left, rng):
    """For machines that have too little text of their own."""
    words = "the quick brown fox jumps over the lazy dog while volumes move between machines and nobody notices".split()
    number = 0
    while left > 0:
        size = min(left, rng.choice((4 << 20, 16 << 20, 64 << 20)))
        written = 0
        with open(tree / f"log{number}", "w") as file:
            while written < size:
                written += file.write(f"{rng.getrandbits(40)} {' '.join(rng.choice(words) for _ in range(12))}\n")
        left -= size
        number += 1


def _fill_with_random(tree, size, rng):
    """Files of 16 KiB to an eighth of all, most of them small."""
    left, number = size, 0
    while left > 0:
        length = min(left, int(math.exp(rng.uniform(math.log(16 << 10), math.log(size // 8)))))
        folder = tree / str(number % 16)
        folder.mkdir(exist_ok=True)
        (folder / f"r{number}").write_bytes(rng.randbytes(length))
        left -= length
        number += 1


def make_base(path, size):
    """A."""
    path = pathlib.Path(path)
    rng = random.Random(42)
    tree, unfinished = path.with_suffix(".tree"), path.with_suffix(".new")
    shutil.rmtree(tree, ignore_errors=True)
    (tree / "text").mkdir(parents=True)
    (tree / "random").mkdir()
    _fill_with_text(tree / "text", size // 8, rng)
    _fill_with_random(tree / "random", size // 4, rng)
    unfinished.unlink(missing_ok=True)
    with open(unfinished, "wb") as file:
        file.truncate(size)
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-O", "^metadata_csum", "-E", "lazy_itable_init=0,root_owner=0:0", "-m", "1", "-d", tree,
                    unfinished], check=True)
    shutil.rmtree(tree)
    # Zero blocks become holes, so that what is allocated is what is not zero.
    subprocess.run(["fallocate", "-d", unfinished], check=True)
    unfinished.rename(path)


def _clusters(blocks, count, rng):
    chosen = {}
    while len(chosen) < count:
        length = int(math.exp(rng.uniform(math.log(4), math.log(512))))
        first = rng.randrange(len(blocks))
        for block in blocks[first:first + length]:
            if len(chosen) < count:
                chosen[block] = None
    return chosen


def make_changed(base, path, kind):
    """B (kind "clusters") or C (kind "scattered")."""
    path = pathlib.Path(path)
    unfinished = path.with_suffix(".new")
    blocks = [block for begin, end in data_extents(base) for block in range(begin // BLOCK, -(-end // BLOCK))]
    size = os.path.getsize(base)
    rng = random.Random(7 if kind == "clusters" else 8)
    if kind == "clusters":
        chosen = _clusters(blocks, size // BLOCK // 100, rng)
    else:
        chosen = rng.sample(blocks, size // 64 // BLOCK)
    copy_sparse(base, unfinished)
    with open(unfinished, "r+b", buffering=0) as file:
        for block in chosen:
            os.pwrite(file.fileno(), rng.randbytes(BLOCK), block * BLOCK)
        os.fsync(file.fileno())
    unfinished.rename(path)


def make_all(folder, size):
    """A.img, B.img and C.img in the folder, as far as they are missing. Returns their paths."""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    a, b, c = (folder / name for name in ("A.img", "B.img", "C.img"))
    if a.exists() and a.stat().st_size != size:
        raise SystemExit(f"{a} is there, but has not {size} bytes; remove it, or name another folder")
    if not a.exists():
        make_base(a, size)
    if not b.exists():
        make_changed(a, b, "clusters")
    if not c.exists():
        make_changed(a, c, "scattered")
    return a, b, c


def copy_sparse(source, target):
    subprocess.run(["cp", "--sparse=always", source, target], check=True)


def make_repeated(source, target, times):
    """A larger volume of the same kind of data: the source so many times in a row."""
    size = os.path.getsize(source)
    with open(source, "rb") as reading, open(target, "wb") as writing:
        writing.truncate(size * times)
        for offset, length in _pieces(data_extents(source)):
            data = os.pread(reading.fileno(), length, offset)
            for number in range(times):
                os.pwrite(writing.fileno(), data, number * size + offset)


def make_thin(source, target, size, data):
    """A huge volume with the first `data` bytes that the source has allocated, its MiB at even distances."""
    step, left = size // (os.path.getsize(source) // CHUNK) // CHUNK * CHUNK, data
    with open(source, "rb") as reading, open(target, "wb") as writing:
        writing.truncate(size)
        for offset, length in _pieces(data_extents(source)):
            if left <= 0:
                return
            position = offset // CHUNK * step + offset % CHUNK
            left -= os.pwrite(writing.fileno(), os.pread(reading.fileno(), length, offset), position)


def _pieces(extents):
    """The same, cut at each MiB."""
    for begin, end in extents:
        while begin < end:
            stop = min(end, begin - begin % CHUNK + CHUNK)
            yield begin, stop - begin
            begin = stop


def _merged(extents):
    merged = []
    for begin, end in sorted(extents):
        if merged and begin <= merged[-1][1]:
            merged[-1][1] = max(end, merged[-1][1])
        else:
            merged.append([begin, end])
    return merged


def _pairs(a, b):
    """(offset, bytes of a, bytes of b) of everything that either has allocated; what both lack reads as zeros in both."""
    with open(a, "rb") as one, open(b, "rb") as other:
        for offset, length in _pieces(_merged(data_extents(a) + data_extents(b))):
            yield offset, os.pread(one.fileno(), length, offset), os.pread(other.fileno(), length, offset)


def equal(a, b):
    """Independent of what was measured. Holes are asked of the file system, which alone makes 16 TiB comparable."""
    return os.path.getsize(a) == os.path.getsize(b) and all(x == y for _, x, y in _pairs(a, b))


def changed_blocks(a, b):
    """Numbers of the 4 KiB blocks that differ."""
    changed = []
    for offset, x, y in _pairs(a, b):
        if x != y:
            changed += [(offset + i) // BLOCK for i in range(0, len(x), BLOCK) if x[i:i + BLOCK] != y[i:i + BLOCK]]
    return changed


def write_blocks(target, source, blocks):
    """Puts single blocks of the source into the target."""
    with open(source, "rb") as reading, open(target, "r+b", buffering=0) as writing:
        for block in blocks:
            os.pwrite(writing.fileno(), os.pread(reading.fileno(), BLOCK, block * BLOCK), block * BLOCK)
        os.fsync(writing.fileno())


def drop_cache(*paths):
    """Takes volumes out of the page cache. Programs and libraries stay: they would be there on a machine in use."""
    for path in paths:
        if os.path.exists(path):
            with open(path, "rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def warm_cache(*paths):
    for path in paths:
        if os.path.exists(path):
            with open(path, "rb") as file:
                for offset, length in _pieces(data_extents(path)):
                    os.pread(file.fileno(), length, offset)


def forget(path):
    """Removes a volume, and waits until the file system is done with it: its discards would slow down the next run."""
    path = pathlib.Path(path)
    path.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)
    subprocess.run(["sync", "-f", path.parent], check=True)
