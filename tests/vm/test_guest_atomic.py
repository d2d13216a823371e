# SPDX-License-Identifier: GPL-2.0-or-later
"""sync --atomic when the power is cut, on disks that lose what was not flushed; and points in time of a thin volume."""
import qemu

MIB = 1 << 20
SIZE = 20 * MIB + 512 * 7
BLOCKS = -(-SIZE // 4096)
STATE = "BLKMOVE_STATE_DIR=/state BLKMOVE_RUN_DIR=/run/blkmove"


class World:
    """A guest with two points of a volume, the volume that holds the first, and the disk for its stage. All but the points lose what is not flushed."""

    def __init__(self, guest, folder, random):
        self.guest = guest
        self.paths = [folder / "points0", folder / "points1"]
        image = bytearray(random.randbytes(SIZE))
        for path in self.paths:
            path.write_bytes(image)
            # Half of it.
            for _ in range(120):
                length = random.choice([512, 4096, 300 * 1024])
                at = random.randrange(SIZE - length) & ~511
                image[at:at + length] = bytes(length) if random.randrange(4) == 0 else random.randbytes(length)
            guest.add_disk(qemu.file_disk(path, path.name))
        target = guest.add_volatile_disk(SIZE, "target")
        state = guest.add_volatile_disk("64M", "state")
        guest.run(f"modprobe ext4; mkfs.ext4 -q {state}; dd if=/dev/by-serial/points0 of={target} bs=4M oflag=direct conv=fsync status=none")
        self.mount()
        assert self.holds() == 0

    def mount(self):
        self.guest.run("modprobe ext4; mkdir -p /state; mount $(readlink -f /dev/by-serial/state) /state")

    def start(self, words):
        return self.guest.start(f"{STATE} exec blkmove {words} /dev/by-serial/target")

    def find(self):
        """After a boot."""
        for serial in ("points0", "points1", "target", "state"):
            self.guest.path_of(serial)
        self.mount()

    def cut_while_applied(self, interrupt, words):
        """What these words run has brought some writes to the volume to an end, and not all."""
        # Sectors.
        written = "read -ra stat </sys/block/$(basename $(readlink -f /dev/by-serial/target))/stat; written=${stat[6]}"
        before = int(self.guest.run(f"{written}; echo $written").out)
        self.guest.slow_writes("target", MIB)
        working = self.start(words)
        self.guest.run(f"while {written}; [ $written = {before} ]; do sleep 0.1; done")
        assert working.is_running(), working.out
        interrupt()
        self.find()
        assert "COMMITTED AND NOT COMPLETED" in self.listed()

    def holds(self):
        """Which point it is; None: neither."""
        for point in 0, 1:
            if self.guest.run(f"cmp -s /dev/by-serial/points{point} /dev/by-serial/target", code=None).code == 0:
                return point
        return None

    def staged(self):
        """How many blocks are noted as staged (docs/formats/stage.md)."""
        bits = self.guest.run(f"dd if=$(ls /state/*.stage) bs=4096 skip={BLOCKS} count=1 status=none").output
        return int.from_bytes(bits, "little").bit_count()

    def wait_for_staged(self, above):
        while (staged := self.staged()) <= above:
            self.guest.run("sleep 0.5")
        return staged

    def listed(self):
        return self.guest.run(f"{STATE} blkmove recover").out

    def recover(self):
        return self.start("recover").wait().out


def test_h25_power_cut_while_a_round_is_staged_and_applied(guest, folder, random):
    world = World(guest, folder, random)
    # While it is staged, after a checkpoint: the old point, and what was staged can be gone on with.
    staging = world.start("sync --atomic --rate=400k /dev/by-serial/points1")
    guest.run(f"until {STATE} blkmove recover | grep -q 'under way'; do sleep 0.5; done")
    noted = world.wait_for_staged(above=0)
    # What the next checkpoint notes comes after the end of that one.
    world.wait_for_staged(above=noted)
    assert staging.is_running(), staging.out
    guest.power_cut()
    world.find()
    assert world.holds() == 0
    assert "was interrupted before its commit" in world.listed()
    assert world.staged() >= noted
    assert "nothing to do" in world.recover()
    # While it is applied: the disk loses all of that. What could not be told from the old point is refused all the same.
    world.cut_while_applied(guest.power_cut, "sync --atomic --resume /dev/by-serial/points1")
    refused = guest.run(f"{STATE} blkmove verify /dev/by-serial/points1 /dev/by-serial/target", code=2)
    assert "blkmove recover" in refused.out
    assert world.holds() == 0
    assert "it is the new point" in world.recover()
    assert world.holds() == 1
    assert guest.run("ls /state").out.split() == ["lost+found"]
    # By a reset: the disk has a mixture, and keeps it. And while that is completed, once more.
    world.cut_while_applied(guest.reset, "sync --atomic /dev/by-serial/points0")
    assert world.holds() is None
    guest.run("sync /dev/by-serial/target")
    world.cut_while_applied(guest.power_cut, "recover")
    assert world.holds() is None
    assert "it is the new point" in world.recover()
    assert world.holds() == 0
    assert guest.run("ls /state").out.split() == ["lost+found"]
    guest.run("umount /state")


def make_thin_volume(guest, random):
    """vg/web, a snapshot of it that is not ours, a thick volume, and a source."""
    pv = guest.add_disk("160M", "pv")
    guest.put(random.randbytes(8 * MIB), "/tmp/source")
    guest.run(f"""modprobe dm-thin-pool; pvcreate -q {pv}; vgcreate -q vg {pv}
        lvcreate -qy --type thin-pool -L 100M --poolmetadatasize 4M -Zn -n pool vg; lvcreate -qy -Wn -V 8M -T vg/pool -n web
        lvcreate -qy -Wn -an -Zn -L 8M -n thick vg; lvcreate -qy -s -n mine vg/web; lvchange -ay vg/thick""")


def change_source(guest, number):
    """Returns its sum."""
    guest.run(f"head -c 50000 /dev/urandom | dd of=/tmp/source bs=1k seek={number * 2000 + 7} conv=notrunc status=none")
    return guest.run("md5sum </tmp/source").out


def test_points_of_a_thin_volume(guest, random):
    """The last two points of three rounds, each of which is what it was when its round ended."""
    make_thin_volume(guest, random)
    refused = guest.run("blkmove sync --atomic --keep-points=2 /tmp/source /dev/vg/thick", code=None)
    assert refused.code in (2, 3) and "no thin volume" in refused.out
    sums = []
    for number in range(3):
        sums.append(change_source(guest, number))
        guest.run("blkmove sync --atomic --keep-points=2 --verify /tmp/source /dev/vg/web")
        assert guest.run("md5sum </dev/vg/web").out == sums[-1]
    points = guest.run("lvs --noheadings -o lv_name --sort lv_time -S 'lv_tags={blkmove_point}' vg").out.split()
    assert len(points) == 2 and all(point.startswith("web-point-2") for point in points)
    # Not in the way of anybody: neither active nor writable.
    for attributes in guest.run("lvs --noheadings -o lv_attr -S 'lv_tags={blkmove_point}' vg").out.split():
        assert (attributes[1], attributes[4], attributes[9]) == ("r", "-", "k")
    guest.run("lvs vg/mine")
    for point, expected in zip(points, sums[1:]):
        guest.run(f"lvchange -ay -K vg/{point}")
        assert guest.run(f"md5sum </dev/vg/{point}").out == expected
        guest.run(f"lvchange -an vg/{point}")
    guest.run("vgremove -ffy vg; pvremove -q $(readlink -f /dev/by-serial/pv); rm -f /tmp/source")


def test_points_by_an_agent(guest, random):
    """LVM's commands run on the machine that has the volume; what they say there is said here."""
    guest.is_also("there")
    make_thin_volume(guest, random)
    guest.run("""mkdir /tmp/fails; printf '#!/bin/sh\\necho no room >&2; exit 5\\n' >/tmp/fails/lvcreate
        printf '#!/bin/sh\\nPATH=/tmp/fails:$PATH exec blkmove "$@"\\n' >/tmp/agent; chmod 755 /tmp/fails/lvcreate /tmp/agent""")
    sync = "blkmove sync --atomic --keep-points=1 --verify"
    refused = guest.run(f"{sync} /tmp/source there:/dev/vg/thick", code=None)
    assert refused.code in (2, 3) and "no thin volume" in refused.out
    expected = change_source(guest, 0)
    said = guest.run(f"{sync} --agent-path /tmp/agent /tmp/source there:/dev/vg/web", code=2).out
    assert "no snapshot of it could be made" in said and "no room" in said, said
    assert guest.run("md5sum </dev/vg/web").out == expected
    for number in 1, 2:
        expected = change_source(guest, number)
        guest.run(f"{sync} /tmp/source there:/dev/vg/web")
        assert guest.run("md5sum </dev/vg/web").out == expected
    point, = guest.run("lvs --noheadings -o lv_name -S 'lv_tags={blkmove_point}' vg").out.split()
    guest.run(f"lvchange -ay -K vg/{point}")
    assert guest.run(f"md5sum </dev/vg/{point}").out == expected
    guest.run("lvs vg/mine; pkill -x sshd; vgremove -ffy vg; pvremove -q $(readlink -f /dev/by-serial/pv); rm -rf /tmp/source /tmp/fails /tmp/agent")
