# SPDX-License-Identifier: GPL-2.0-or-later
"""Random images with holes, all kinds of change to them, and files made of them. Knows nothing of the program under test."""
import os
from random import Random

SIZES = [0, 1, 511, 512, 513, 4095, 4096, 4097, 65535, 65536, 65537, 1048575, 1048576, 1048577, 1114113, 2097153, 3000001, 3141593]
PAGE = 4096


class Noise(Random):
    """Its bytes, as a volume, look like no format to libblkid, to which one random volume in 20,000 is an ext4, a journal of
    one, an HFS+ or a JMicron RAID: the program then rightly refuses it as a target. Found by probing 1.4 million."""

    def randbytes(self, n):
        data = bytearray(super().randbytes(n))
        for at in (0x400, 0x438, n // 512 * 512 - 512):
            if 0 <= at < n:
                data[at] = 0xff
        return bytes(data)


class Image:
    """The bytes, and where a file of them has holes."""

    def __init__(self, data, holes=()):
        self.data = bytearray(data)
        self.holes = [(offset, length) for offset, length in holes if offset < len(self.data)]

    def write(self, path):
        with open(path, "wb") as file:
            file.truncate(len(self.data))
            at = 0
            for offset, length in sorted(self.holes) + [(len(self.data), 0)]:
                if offset > at:
                    os.pwrite(file.fileno(), self.data[at:offset], at)
                at = max(at, offset + length)
            os.fsync(file.fileno())
        return path

    def copy(self):
        return Image(self.data, self.holes)

    def resized(self, size):
        return Image(self.data[:size].ljust(size, b"\0"), self.holes)


def random_length(random, most):
    """Short and long ones alike, aligned and not."""
    length = min(most, max(1, int(2 ** (random.random() * 21))))
    return min(most, -(-length // PAGE) * PAGE) if random.random() < 0.4 else length


def random_piece(random, length):
    kind = random.choice(["random", "random", "text", "zero", "hole", "hole", "nearly zero", "pattern"])
    if kind in ("zero", "hole"):
        return bytes(length), kind == "hole"
    if kind == "text":
        return (b"all work and no play makes jack a dull boy %d\n" % random.randrange(1000) * (length // 40 + 1))[:length], False
    if kind == "pattern":
        return bytes([random.randrange(1, 256)]) * length, False
    if kind == "nearly zero":
        data = bytearray(length)
        data[random.randrange(length)] = random.randrange(1, 256)
        return bytes(data), False
    return random.randbytes(length), False


def random_image(random, size):
    data, holes = bytearray(), []
    while len(data) < size:
        piece, hole = random_piece(random, random_length(random, size - len(data)))
        if hole:
            holes.append((len(data), len(piece)))
        data += piece
    return Image(data, holes)


def random_size(random, align=1):
    size = random.choice(SIZES) if random.random() < 0.7 else random.randrange(3 << 20) | 1
    return -(-size // align) * align


def _place(random, image):
    offset = random.randrange(len(image.data))
    return offset, random_length(random, len(image.data) - offset)


def _cover(image, offset, length):
    """Data is written there: what was a hole no longer is."""
    left = []
    for at, size in image.holes:
        if at < offset:
            left.append((at, min(size, offset - at)))
        if at + size > offset + length:
            begin = max(at, offset + length)
            left.append((begin, at + size - begin))
    image.holes = [hole for hole in left if hole[1] > 0]


def put(image, offset, data, hole=False):
    _cover(image, offset, len(data))
    image.data[offset:offset + len(data)] = data
    if hole:
        image.holes.append((offset, len(data)))


def _bytes(random, image):
    for _ in range(random.randrange(1, 9)):
        offset = random.randrange(len(image.data))
        put(image, offset, bytes([image.data[offset] ^ 1 << random.randrange(8)]))


def _run(random, image):
    offset, length = _place(random, image)
    put(image, offset, random.randbytes(length))


def _zero(random, image):
    offset, length = _place(random, image)
    put(image, offset, bytes(length))


def _hole(random, image):
    offset, length = _place(random, image)
    put(image, offset, bytes(length), True)


def _shift(random, image):
    offset, _ = _place(random, image)
    size = len(image.data)
    moved = (image.data[:offset] + random.randbytes(random.choice([1, 7, 512, 4096])) + image.data[offset:])[:size]
    image.data, image.holes = bytearray(moved), []


def _into_hole(random, image):
    if not image.holes:
        _run(random, image)
        return
    offset, length = random.choice(image.holes)
    at = offset + random.randrange(length)
    put(image, at, random.randbytes(random_length(random, offset + length - at)))


def _all(random, image):
    put(image, 0, random.randbytes(len(image.data)))


CHANGES = [_bytes, _bytes, _run, _run, _zero, _hole, _hole, _shift, _into_hole, _into_hole, _all]


def changed(random, image):
    """An image like this one but for some changes (or none)."""
    other = image.copy()
    for _ in range(random.choice([0, 1, 1, 2, 3, 6]) if other.data else 0):
        random.choice(CHANGES)(random, other)
    return other


def noise(random, size):
    """What an old, used volume holds."""
    return Image(random.randbytes(size))


def flip(path, offset, bit=0x10):
    """One bit of a file, as damage does it."""
    with open(path, "r+b", buffering=0) as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ bit]))


def first_difference(a, b):
    """None when equal, else words that say where."""
    if bytes(a) == bytes(b):
        return None
    for at, (x, y) in enumerate(zip(a, b)):
        if x != y:
            return f"byte {at} is {y:#x}, not {x:#x} (sizes {len(a)}, {len(b)})"
    return f"size {len(b)}, not {len(a)}"
