# SPDX-License-Identifier: GPL-2.0-or-later
"""sync --atomic when the power is cut, on disks that lose what was not flushed; and points in time of a thin volume."""
import qemu

MIB = 1 << 20
SIZE = 20 * MIB + 512 * 7
STATE = "BLKMOVE_STATE_DIR=/state BLKMOVE_RUN_DIR=/run/blkmove"


class World:
    """A guest with two points of a volume, the volume that holds the first, and the disk for its stage. All but the points lose what is not flushed."""

    def __init__(self, guest, folder, random):
        self.guest, self.number = guest, 0
        self.paths = [folder / "points0", folder / "points1"]
        image = bytearray(random.randbytes(SIZE))
        for path in self.paths:
            path.write_bytes(image)
            # Most of it: the round takes long enough to be cut.
            for _ in range(40):
                length = random.choice([512, 4096, 300 * 1024])
                at = random.randrange(SIZE - length) & ~511
                image[at:at + length] = bytes(length) if random.randrange(4) == 0 else random.randbytes(length)
            guest.add_disk(qemu.file_disk(path, path.name))
        self.target = guest.add_volatile_disk(str(SIZE), "target")
        state = guest.add_volatile_disk("64M", "state")
        guest.run(f"modprobe ext4; mkfs.ext4 -q {state}; dd if=/dev/by-serial/points0 of={self.target} bs=1M oflag=direct conv=fsync status=none")
        self.mount()

    def mount(self):
        self.guest.run("modprobe ext4; mkdir -p /state; mount $(readlink -f /dev/by-serial/state) /state")

    def start(self, point, *more):
        return self.guest.start(f"{STATE} exec blkmove sync --atomic {' '.join(more)} /dev/by-serial/points{point} /dev/by-serial/target")

    def cut(self):
        self.guest.power_cut()
        for serial in ("points0", "points1", "target", "state"):
            self.guest.path_of(serial)
        self.mount()

    def holds(self):
        """Which point it is; None: neither."""
        for point in 0, 1:
            if self.guest.run(f"cmp -s /dev/by-serial/points{point} /dev/by-serial/target", code=None).code == 0:
                return point
        return None

    def recover(self, *words):
        return self.guest.run(f"{STATE} blkmove recover {' '.join(words)} /dev/by-serial/target").out


def test_h25_power_cut_while_a_round_is_staged_and_applied(guest, folder, random):
    world = World(guest, folder, random)
    # While it is staged, after a checkpoint: the old point, and what was staged can be gone on with.
    staging = world.start(1, "--rate=2M")
    guest.run("sleep 5")
    assert staging.is_running()
    world.cut()
    assert world.holds() == 0
    assert "nothing to do" in world.recover()
    # While it is applied: the disk has lost whatever it liked of it.
    world.start(1, "--resume")
    guest.run(f"until {STATE} blkmove recover | grep -q COMMITTED; do :; done")
    world.cut()
    listed = guest.run(f"{STATE} blkmove recover").out
    if "COMMITTED" in listed:
        refused = guest.run(f"{STATE} blkmove verify /dev/by-serial/points1 /dev/by-serial/target", code=2)
        assert "blkmove recover" in refused.out
        assert "it is the new point" in world.recover()
    assert world.holds() == 1
    assert guest.run("ls /state").out.split() == ["lost+found"]
    # While that is completed: once more the same.
    world.start(0)
    guest.run(f"until {STATE} blkmove recover | grep -q COMMITTED; do :; done")
    guest.reset()
    for serial in ("points0", "points1", "target", "state"):
        guest.path_of(serial)
    world.mount()
    guest.start(f"{STATE} exec blkmove recover /dev/by-serial/target")
    guest.run("sleep 0.3")
    world.cut()
    world.recover()
    assert world.holds() == 0
    guest.run("umount /state")
    guest.kernel_says()


def test_points_of_a_thin_volume(guest, random):
    """The last two points of three rounds, each of which is what it was when its round ended."""
    pv = guest.add_disk("160M", "pv")
    guest.put(random.randbytes(8 * MIB), "/tmp/source")
    guest.run(f"""modprobe dm-thin-pool; pvcreate -q {pv}; vgcreate -q vg {pv}
        lvcreate -qy --type thin-pool -L 100M --poolmetadatasize 4M -Zn -n pool vg; lvcreate -qy -Wn -V 8M -T vg/pool -n web
        lvcreate -qy -Wn -an -Zn -L 8M -n thick vg; lvcreate -qy -s -n mine vg/web; lvchange -ay vg/thick; vgmknodes""")
    refused = guest.run("blkmove sync --atomic --keep-points=2 /tmp/source /dev/vg/thick", code=None)
    assert refused.code in (2, 3) and "no thin volume" in refused.out
    sums = []
    for number in range(3):
        guest.run(f"head -c 50000 /dev/urandom | dd of=/tmp/source bs=1k seek={number * 2000 + 7} conv=notrunc status=none")
        sums.append(guest.run("md5sum </tmp/source").out)
        guest.run("blkmove sync --atomic --keep-points=2 --verify /tmp/source /dev/vg/web")
        assert guest.run("md5sum </dev/vg/web").out == sums[-1]
    points = guest.run("lvs --noheadings -o lv_name --sort lv_time -S 'lv_tags={blkmove_point}' vg").out.split()
    assert len(points) == 2 and all(point.startswith("web-point-2") for point in points)
    # Not in the way of anybody: neither active nor writable.
    for attributes in guest.run("lvs --noheadings -o lv_attr -S 'lv_tags={blkmove_point}' vg").out.split():
        assert (attributes[1], attributes[4], attributes[9]) == ("r", "-", "k")
    guest.run("lvs vg/mine")
    for point, expected in zip(points, sums[1:]):
        guest.run(f"lvchange -ay -K vg/{point}; vgmknodes")
        assert guest.run(f"md5sum </dev/vg/{point}").out == expected
        guest.run(f"lvchange -an vg/{point}")
    guest.run("vgremove -ffy vg; pvremove -q $(readlink -f /dev/by-serial/pv); rm -f /tmp/source")
