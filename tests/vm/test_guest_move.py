# SPDX-License-Identifier: GPL-2.0-or-later
"""blkmove move under a mounted file system: guest/workload.py writes and checks files on the device all the while, and must not notice."""
import json

import pytest

SIZE = 24 << 20
KEY = "3c" * 32 + "c3" * 32
PATIENCE_S = 300


class Linear:
    """A device of two pieces of a disk, the second one first: its table is no plain whole."""

    device, name = "/dev/mapper/live", "live"

    def __init__(self, guest):
        self.guest = guest
        self.old, self.new = guest.add_disk(SIZE + 512 * 77, "old"), guest.add_disk(SIZE + (3 << 20), "new")
        guest.run("modprobe dm_mod; modprobe dm_mirror")

    def set_up(self, disk=None):
        if disk:
            table = f"0 $(($(blockdev --getsz {self.old}))) linear {disk} 0"
            self.guest.run(f'dmsetup create {self.name} --table "{table}"')
            return
        self.guest.run(f"""n=$(blockdev --getsz {self.old}); half=$((n / 2))
            printf '%s\\n' "0 $((n - half)) linear {self.old} $half" "$((n - half)) $half linear {self.old} 0" | dmsetup create {self.name}""")

    def set_up_after_restart(self, moved):
        self.set_up(self.new if moved else None)

    @property
    def target(self):
        return self.new

    def spoil_old(self):
        """Nothing of it is needed any more."""
        self.guest.run(f"dd if=/dev/urandom of={self.old} bs=1M count=8 conv=fsync,notrunc status=none")

    def leads(self):
        table = self.guest.run(f"dmsetup table {self.name}").out
        numbers = self.guest.run(f"lsblk -ndo MAJ:MIN {self.old} {self.new}").out.split()
        return "old" if numbers[0] in table else "new" if numbers[1] in table else "elsewhere"

    def take_down(self):
        self.guest.run(f"dmsetup remove {self.name}")


class Crypt(Linear):
    """What moves is the disk below, as it is."""

    device, name = "/dev/mapper/secret", "secret"

    def set_up(self, disk=None):
        self.guest.run("modprobe dm_crypt")
        table = f"0 $(($(blockdev --getsz {self.old}) - 4096)) crypt aes-xts-plain64 {KEY} 0 {disk or self.old} 4096"
        self.guest.run(f'dmsetup create {self.name} --table "{table}"')

    def take_down(self):
        # The text of a file system is on neither disk.
        self.guest.run(f"for disk in {self.old} {self.new}; do ! grep -qa lost+found $disk; done")
        super().take_down()


class Lvm(Linear):
    device, name = "/dev/vg/lv", "vg-lv"

    def __init__(self, guest):
        super().__init__(guest)
        guest.run(f"""vgcreate -qq vg {self.old} {self.new}
            lvcreate -qq -Wn -Zn -n other -L 4M vg {self.new}
            lvcreate -qq -Wn -Zn -n lv -L 16M vg {self.old}; lvcreate -qq -Wn -Zn -n target -L 16M vg {self.new}""")

    def set_up(self, disk=None):
        self.guest.run("vgchange -qq -ay vg; vgmknodes -qq vg")

    def set_up_after_restart(self, moved):
        """By what LVM itself knows."""
        self.set_up()

    @property
    def target(self):
        return "/dev/vg/target"

    def spoil_old(self):
        """It has become the other volume's place: by the kernel, and by LVM."""
        assert self.guest.run("lvs --noheadings -o devices vg/lv").out.split("(")[0].strip() == self.new
        assert self.guest.run("lvs --noheadings -o devices vg/target").out.split("(")[0].strip() == self.old
        self.guest.run("dd if=/dev/urandom of=/dev/vg/target bs=1M count=16 conv=fsync,notrunc status=none")

    def take_down(self):
        # The file system is where LVM's metadata say it is, and LVM has nothing to complain of.
        self.guest.run("vgchange -qq -an vg; vgck vg; vgchange -qq -ay vg; vgmknodes -qq vg; e2fsck -fn /dev/vg/lv; vgremove -qqf vg")


KINDS = {"linear": Linear, "crypt": Crypt, "lvm": Lvm}


class Moved:
    """A device of some kind, in use."""

    def __init__(self, guest, random, kind):
        self.guest, self.random, self.volume = guest, random, KINDS[kind](guest)
        self.volume.set_up()
        self.work = None

    def begin_work(self):
        self.guest.run("rm -rf /run/work")
        self.work = self.guest.start(["workload.py", self.volume.device, "/run/work", self.random.randrange(1 << 32)])
        self.work.wait_for("READY")

    def go_on(self, ticks=2):
        self.work.wait_for("tick", self.work.out.count("tick") + ticks, PATIENCE_S)

    def move(self, *words, code=0):
        """Returns the events."""
        command = self.guest.run(["blkmove", "move", "--json", *words], code=code)
        return [json.loads(line) for line in command.out.splitlines() if line.startswith("{")]

    def begin(self, *words, code=0):
        return self.move(f"--overwrite={self.volume.target}", *words, self.volume.device, self.volume.target, code=code)

    def end(self):
        self.guest.run("touch /run/work/stop")
        self.work.wait(timeout_s=PATIENCE_S)
        self.volume.take_down()

    def end_with(self, *words):
        """A move, and all that must be so afterwards."""
        end = self.begin(*words)[-1]
        assert end["result"] == "moved" and end["leg"] == "new" and end["pause_ms"] < 5000
        assert self.volume.leads() == "new"
        self.nothing_is_left()
        self.volume.spoil_old()
        self.go_on()
        self.end()

    def nothing_is_left(self):
        assert not self.guest.run("dmsetup ls | grep blkmove || true").out
        assert not self.guest.run("ls /var/lib/blkmove/moves/*").out.strip().replace(":", "").endswith("json")


@pytest.fixture
def moved(guest, random, request):
    return Moved(guest, random, request.param)


def kinds(*names):
    return pytest.mark.parametrize("moved", names, indirect=True)


@pytest.mark.short
@kinds("linear")
def test_move_of_a_mounted_device(moved):
    move_it(moved)


@kinds("crypt", "lvm")
def test_move_of_what_lies_elsewhere(moved):
    move_it(moved)


@kinds("linear", "lvm")
def test_move_with_a_live_mirror(moved):
    """By the engine of blkmove's own; first undone after the switch, then moved."""
    moved.guest.run("modprobe ublk_drv || modprobe nbd")
    moved.begin_work()
    assert moved.begin("--engine=blkmove", "--until=switched")[-1]["leg"] == "new"
    moved.go_on()
    assert moved.move("--undo", moved.volume.device)[-1]["leg"] == "old"
    assert moved.volume.leads() == "old"
    moved.nothing_is_left()
    moved.go_on()
    moved.end_with("--engine=blkmove")


def move_it(moved):
    moved.begin_work()
    moved.end_with()


@kinds("linear", "lvm")
def test_h25_h27_killed_at_any_moment(moved, random):
    """kill -9 of the command, then on with it or back, again and again; at last it is moved."""
    moved.begin_work()
    target, device = moved.volume.target, moved.volume.device
    for _ in range(12):
        seconds = random.uniform(0.05, 4)
        moved.guest.run(f"timeout -s KILL {seconds:.2f} blkmove move --quiet --overwrite={target} {device} {target} || true")
        if moved.volume.leads() == "new":
            break
        for _ in range(random.randrange(3)):
            moved.guest.run(f"timeout -s KILL {random.uniform(0.02, 1):.2f} blkmove move --quiet --{random.choice(['resume', 'undo'])} {device} || true")
        moved.guest.run(f"blkmove move --quiet --undo {device} || [ $? != 1 ]", timeout_s=PATIENCE_S)
        if moved.volume.leads() == "new":
            break
        assert moved.volume.leads() == "old"
        moved.go_on(1)
    if moved.volume.leads() == "old":
        moved.begin()
    else:
        moved.guest.run(f"blkmove move --quiet --resume {device} || [ $? != 1 ]")
    assert moved.volume.leads() == "new"
    moved.nothing_is_left()
    moved.volume.spoil_old()
    moved.go_on()
    moved.end()


@kinds("linear", "lvm")
def test_h27_restart_of_the_machine(moved):
    """A move is finished or undone after a hard reset at each of its halts, and what the file system was sure of is there."""
    guest, volume = moved.guest, moved.volume
    state = guest.add_disk("8M")
    guest.run(f"mkfs.ext4 -q {state}; mkdir -p /var/lib/blkmove; mount {state} /var/lib/blkmove")
    for step, onward in (("synced", "--undo"), ("synced", "--resume"), ("switched", "--resume")):
        moved.begin_work()
        moved.begin(f"--until={step}")
        guest.run("cp -r /usr/bin/b* /data; sync; md5sum /data/b* >/var/lib/blkmove/sums; sync")
        guest.reset()
        guest.run(f"mkdir -p /var/lib/blkmove /data; mount {state} /var/lib/blkmove; modprobe dm_mod; modprobe dm_mirror; modprobe dm_crypt")
        volume.set_up_after_restart(moved=False)
        # A volume of LVM's leads to the new leg from the switch on.
        switched = step == "switched" and volume.name == "vg-lv"
        assert volume.leads() == ("new" if switched else "old")
        guest.run(f"mount {volume.device} /data; md5sum -c --quiet /var/lib/blkmove/sums; umount /data")
        if step == "switched" and not switched:
            said = guest.run(["blkmove", "move", onward, volume.name], code=3).out
            assert "was switched to" in said and "--keep-old" in said, said
            onward = "--undo --keep-old"
        moved.move(*onward.split(), volume.name)
        moved.nothing_is_left()
        if volume.leads() == "new":
            break
    assert volume.leads() == "new" or not switched
    guest.run(f"mount {volume.device} /data; md5sum -c --quiet /var/lib/blkmove/sums; umount /data /var/lib/blkmove")
    volume.take_down()


@kinds("linear")
def test_h24_target_that_fails(moved):
    """The clients go on; the move says why it cannot, and goes back."""
    guest, volume = moved.guest, moved.volume
    guest.run(f'dmsetup create thin-ice --table "0 $(blockdev --getsz {volume.new}) linear {volume.new} 0"')
    moved.begin_work()
    moved.move("--until=synced", "--overwrite=/dev/mapper/thin-ice", volume.device, "/dev/mapper/thin-ice")
    guest.run("""n=$(blockdev --getsz /dev/mapper/thin-ice); dmsetup suspend --nolockfs thin-ice
        dmsetup load thin-ice --table "0 $n error"; dmsetup resume thin-ice""")
    moved.go_on()
    said = guest.run(["blkmove", "move", "--resume", volume.device], code=2).out
    assert "new leg" in said, said
    moved.go_on()
    moved.move("--undo", volume.device)
    assert volume.leads() == "old"
    moved.nothing_is_left()
    guest.run("dmsetup remove thin-ice")
    moved.end()
    guest.kernel_says()


@kinds("linear")
def test_refusals(moved):
    """Each names what it is about, and changes nothing."""
    guest, volume = moved.guest, moved.volume
    table = guest.run("dmsetup table").out
    small = guest.add_disk("4M")
    cases = [([volume.device, small], 3, "larger"), ([volume.old, volume.new], 2, "device-mapper"), ([volume.device, volume.old], 3, ""),
             ([volume.device, "/dev/nothing"], 2, "nothing"), (["--resume", volume.device], 2, "no move"), (["--undo", "nonsense"], 2, "no move")]
    for words, code, said in cases:
        command = guest.run(["blkmove", "move", *words], code=None)
        assert command.code == code and said in command.out, (words, command.code, command.out)
    guest.run(f"mkfs.ext4 -q {volume.new}")
    assert "--overwrite" in guest.run(["blkmove", "move", volume.device, volume.new], code=3).out
    guest.run(f"mkdir -p /n; mount {volume.new} /n")
    guest.run(["blkmove", "move", f"--overwrite={volume.new}", volume.device, volume.new], code=3)
    guest.run("umount /n")
    assert guest.run("dmsetup table").out == table
    moved.nothing_is_left()
    volume.take_down()


@kinds("lvm")
def test_volume_of_another_group(moved):
    """LVM would find the old data after a restart: refused, unless that is wanted."""
    disk = moved.guest.add_disk("32M")
    said = moved.guest.run(["blkmove", "move", moved.volume.device, disk], code=3).out
    assert "same group" in said and "--until-restart" in said
    moved.begin_work()
    moved.move("--until-restart", moved.volume.device, disk)
    moved.go_on()
    moved.guest.run("touch /run/work/stop")
    moved.work.wait()
    moved.guest.run("vgremove -qqf vg", timeout_s=60)
