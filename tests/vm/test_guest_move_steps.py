# SPDX-License-Identifier: GPL-2.0-or-later
"""blkmove move, killed at each step, and the machine with it: it is always finished or undone, and nothing is lost or left behind.

A step is a system call by which the command changes what outlasts it: a table, a device, the record. strace kills the command in it.
BLKMOVE_STEPS=all takes every one; else some, by the seed.
"""
import os

import pytest

import moved
from moved import KINDS, PATIENCE_S, Acked, InUse, Move

SAMPLE = 4
SIZE_MIB = 8
STATE = "/var/lib/blkmove"
MODULES = "for module in dm_mod dm_mirror dm_crypt; do modprobe $module; done; modprobe ublk_drv || modprobe nbd"


def some_of(steps, random, count=SAMPLE):
    return steps if os.environ.get("BLKMOVE_STEPS") == "all" or len(steps) <= count else random.sample(steps, count)


def halts_of(move, engine):
    """[(how far before, words of the command that is killed, its step)]: by moving it there, back, there, and undoing that. It is at its old place."""
    device, halts = move.volume.device, []

    def note(before, words, begins):
        steps = move.steps_of(*(move.words(*words) if begins else [*words, device]))
        halts.extend((before, words, step) for step in steps)

    note(None, ("--until=synced", f"--engine={engine}"), True)
    note("synced", ("--resume",), False)
    assert move.volume.leads() == "new"
    move.begin("--until=synced", f"--engine={engine}")
    note("synced", ("--undo",), False)
    if engine == "blkmove":
        move.begin("--until=switched", f"--engine={engine}")
        note("switched", ("--undo",), False)
    move.begin("--engine=dm")
    assert move.volume.leads() == "old"
    move.volume.pieces = False
    return halts


def halt_at(move, engine, halt):
    before, words, step = halt
    if before is None:
        return move.kill_at(step, *move.words(*words))
    move.begin(f"--until={before}", f"--engine={engine}")
    return move.kill_at(step, *words, move.volume.device)


def finish(move, onward):
    """As was chosen, or as the program says that alone is left. Returns the leg that it says counts, or None if the move had ended."""
    if not move.is_known():
        return None
    for way in (onward, "--undo" if onward == "--resume" else "--resume"):
        command = move.guest.run(["blkmove", "move", way, "--json", move.volume.device], code=None, timeout_s=PATIENCE_S)
        if command.code == 0:
            return command.out.split('"leg":"')[1][:3]
        assert command.code == 3 and ("--undo" in command.out or "--resume" in command.out), command.out
    raise AssertionError(command.out)


def finish_in_use(move, onward, place):
    """`place`: where it led before the move."""
    leg = finish(move, onward)
    now = move.volume.leads()
    assert now in ("old", "new")
    assert leg is None or (now != place) == (leg == "new"), (leg, place, now)
    move.guest.run(f"dmsetup info -c --noheadings -o suspended,tables_loaded {move.volume.name} | grep -qx 'Active:Live'")
    move.volume.spoil_other()
    move.go_on(1)


@pytest.mark.parametrize("engine", ["dm", "blkmove"])
@pytest.mark.parametrize("kind", ["linear", "lvm", "crypt"])
def test_h25_killed_at_each_step(guest, random, kind, engine):
    """The command alone, or its mirror too; a file system in use all the while. Each ends with the next move to where it was not."""
    guest.run(MODULES)
    move = InUse(guest, random, kind)
    move.begin_work()
    kills = 0
    for halt in some_of(halts_of(move, engine), random):
        place, target = move.volume.leads(), move.volume.target
        killed = halt_at(move, engine, halt)
        kills += killed
        if engine == "blkmove" and random.random() < 0.5:
            guest.run("pkill -9 -f '^/proc/self/exe mirror' || [ $? = 1 ]")
        onward = random.choice(["--resume", "--undo"])
        print(f"{halt}: killed {killed}, then {onward}")
        finish_in_use(move, onward, place)
        move.nothing_is_left()
    assert kills > 0
    move.begin("--engine=dm")
    move.nothing_is_left()
    move.volume.spoil_other()
    move.go_on()
    move.end()


def test_h25_mirror_killed_at_its_own_steps(guest, random):
    """The process of engine blkmove, in a cutover or on the way back from one; who has the device open waits until it is resumed, and sees no error.

    Killed when it has ended, and is known to nobody any more, its device stays, which nobody uses: the next move takes that over, and away.
    """
    guest.run(MODULES)
    move, halts = InUse(guest, random, "linear"), []
    move.begin_work()
    for until, way in (("synced", "--resume"), ("switched", "--undo")):
        move.begin(f"--until={until}", "--engine=blkmove")
        steps = move.steps_of_mirror(way)
        calls = {call: [step for step in steps if step[0] == call] for call, _ in steps}
        print(f"{way}: steps of the mirror: {({call: len(of_one) for call, of_one in calls.items()})}")
        # Some calls are many.
        chosen = steps if os.environ.get("BLKMOVE_STEPS") == "all" else [random.choice(calls[call]) for call in random.sample(sorted(calls), 2)]
        halts.extend((until, way, step) for step in chosen)
        move.volume.pieces = False
    kills = 0
    for until, way, step in halts:
        place = move.volume.leads()
        move.begin(f"--until={until}", "--engine=blkmove")
        killed = move.kill_mirror_at(step, way)
        kills += killed
        onward = random.choice(["--resume", "--undo"])
        print(f"{until}, {way}, {step}: killed {killed}, then {onward}")
        finish_in_use(move, onward, place)
        assert not move.is_known()
        assert not guest.run("dmsetup ls | grep blkmove || ls /var/lib/blkmove/mirrors/*/command 2>/dev/null || true").out
    assert kills > 0
    move.begin("--engine=blkmove")
    move.nothing_is_left()
    move.volume.spoil_other()
    move.go_on()
    move.end()


class Volume(Move):
    """One of many, with a file system in use that is looked at after a restart. `quiet`: not in use, so that nobody flushes what was moved."""

    def __init__(self, disks, number, kind, engine, quiet=False):
        self.number, self.engine, self.disks = number, engine, disks
        super().__init__(disks.guest, KINDS[kind](disks.guest, f"v{number}", *disks.places(number)))
        self.folder = f"/v/{number}"
        self.guest.run(f"mkdir -p {self.folder}")
        self.volume.set_up()
        self.guest.run(f"mkfs.ext4 -q -E nodiscard,lazy_itable_init=0 {self.volume.device}; mount {self.volume.device} {self.folder}")
        self.write("first")
        self.acked = None if quiet else Acked(self.guest, f"{self.folder}/acked")

    def write(self, name):
        """Known on the disk of the records only once it is on the volume."""
        self.guest.run(f"""cd {self.folder}; dd if=/dev/urandom of={name} bs=300k count=1 status=none; sync -f .
            md5sum {name} >>{STATE}/sums{self.number}; sync -f {STATE}""")

    def check(self):
        """The file system where it leads now, by a kernel that remembers nothing of it."""
        self.guest.run(f"""mkdir -p {self.folder}; mount {self.volume.device} {self.folder}; cd {self.folder}
            md5sum -c --quiet {STATE}/sums{self.number}""")
        if self.acked:
            self.acked.check(self.guest)
        self.guest.run(f"umount {self.folder}; e2fsck -fn {self.volume.device}")


class Disks:
    """Two disks with a part for each volume, which keep their names over a restart, when the kernel's change. volatile: two for each."""

    def __init__(self, guest, kind, count, volatile=False):
        self.guest, self.kind, self.count, self.volatile = guest, kind, count, volatile
        guest.add_disk("1M", "first")
        for name in ("old", "new"):
            if volatile:
                for i in range(count):
                    guest.add_volatile_disk(SIZE_MIB << 20, f"{name}{i + 1}")
            else:
                guest.add_disk((SIZE_MIB * count + 16) << 20, name)
        self.state = (guest.add_volatile_disk if volatile else guest.add_disk)("16M", "state")
        guest.run(f"mkfs.ext4 -q {self.state}")
        self.set_up()
        if kind == "lvm":
            moved.make_group(guest, *self.places(0))

    def set_up(self):
        self.guest.run(f"""{MODULES}
            mkdir -p {STATE} /dev/m; mount $(readlink -f /dev/by-serial/state) {STATE}""")
        if self.kind == "lvm" or self.volatile:
            return
        self.guest.run(f"""for disk in old new; do for i in $(seq {self.count}); do
                addpart /dev/by-serial/$disk $i $((i * {SIZE_MIB} * 2048)) {SIZE_MIB * 2048}
                ln -sf $(readlink -f /dev/by-serial/$disk)$i /dev/m/$disk$i
            done; done""")

    def places(self, number):
        if self.kind == "lvm":
            return "/dev/by-serial/old", "/dev/by-serial/new"
        folder = "/dev/by-serial" if self.volatile else "/dev/m"
        return f"{folder}/old{number}", f"{folder}/new{number}"

    def restart(self):
        """Disks have other numbers afterwards."""
        self.guest.remove_disks("first")
        if self.volatile:
            self.guest.power_cut()
        else:
            self.guest.reset()
        assert self.guest.path_of("state") != self.state
        self.set_up()


def finish_after_restart(one, onward, led):
    """As halt and kind have it. `led`: where it led before."""
    volume = one.volume
    volume.set_up_after_restart("new" if led == "new" else "old")
    one.check()
    if one.is_known():
        command = one.guest.run(["blkmove", "move", "--json", onward, volume.name], code=None, timeout_s=PATIENCE_S)
        if command.code == 3 and "was switched to" in command.out:
            # Both have everything: nothing was written since. One of the two ways out.
            if onward == "--resume":
                volume.remove()
                volume.set_up("new")
                one.move("--resume", volume.name)
            else:
                one.move("--undo", "--keep-old", volume.name)
        elif command.code != 0:
            assert command.code == 3, command.out
            one.move("--undo" if onward == "--resume" else "--resume", volume.name)


def move_to_a_halt(disks, count, random):
    """Volumes in use, or not, each halted at another step of its move."""
    volumes = []
    for engine in ("dm", "blkmove"):
        first = Volume(disks, len(volumes) + 1, disks.kind, engine)
        for i, halt in enumerate(random.sample(halts_of(first, engine), count)):
            one = Volume(disks, len(volumes) + 1, disks.kind, engine, quiet=disks.volatile and i % 2) if i else first
            volumes.append(one)
            one.halt, one.killed = halt, halt_at(one, engine, halt)
            if one.acked and not one.volume.is_suspended():
                one.write("second")
            one.led = one.volume.leads()
    assert any(one.killed for one in volumes)
    return volumes


@pytest.mark.parametrize(("kind", "volatile", "count"), [("linear", False, 4), ("lvm", False, 4), ("crypt", False, 4), ("linear", True, 2)],
                         ids=["linear", "lvm", "crypt", "power-cut"])
def test_h22_h27_restart_of_the_machine(guest, random, kind, volatile, count):
    """A hard reset when each of many moves is at another of its steps, or a power cut by which disks lose what was not flushed, the records' too.

    What was acknowledged to those who wrote until then, and what the file systems were sure of, is there, before and after.
    """
    disks = Disks(guest, kind, 2 * count, volatile)
    volumes = move_to_a_halt(disks, count, random)
    assert all(one.acked.work.is_running() for one in volumes if one.acked)
    disks.restart()
    for one in volumes:
        onward = random.choice(["--resume", "--undo"])
        print(f"{one.engine} {one.halt}: killed {one.killed}, led {one.led}, {one.acked and one.acked.last()} acknowledged, then {onward}")
        finish_after_restart(one, onward, one.led)
        assert one.volume.leads() in ("old", "new")
        one.nothing_is_left_of_it()
        one.check()
        one.begin("--engine=dm")
        one.volume.spoil_other()
        one.check()
    volumes[0].nothing_is_left()
    guest.run(f"umount {STATE}")
    for one in volumes:
        if kind != "lvm" or one is volumes[-1]:
            one.volume.take_down()


def test_h27_power_cut_when_lvm_was_told(guest):
    """LVM's metadata name the target before anybody is led to it alone, and somebody flushes the one disk that has them: the other has everything then."""
    old, new, state = guest.add_volatile_disk("32M", "old"), guest.add_volatile_disk("32M", "new"), guest.add_disk("16M", "state")
    guest.run(f"""{MODULES}; mkfs.ext4 -q {state}; mkdir -p {STATE}; mount {state} {STATE}
        pvcreate -qq {old}; pvcreate -qq --metadatacopies 0 {new}; vgcreate -qq vg {old} {new}""")
    move = Move(guest, KINDS["lvm"](guest, "one", "/dev/by-serial/old", "/dev/by-serial/new"))
    device = move.volume.device
    guest.run(f"""dd if=/dev/urandom of={device} bs=1M count=8 oflag=direct conv=fsync status=none
        md5sum {device} >{STATE}/sum; sync -f {STATE}; sync {old} {new}""")
    move.begin("--until=synced", "--engine=dm")
    # The second record is that of the last step.
    assert move.kill_at(("renameat", 2), "--resume", device)
    assert move.volume.leads() == "elsewhere"
    guest.run("sync /dev/by-serial/old")
    guest.power_cut()
    for serial in ("old", "new", "state"):
        guest.path_of(serial)
    guest.run(f"{MODULES}; mkdir -p {STATE}; mount $(readlink -f /dev/by-serial/state) {STATE}; vgchange -qq -ay vg; vgmknodes -qq vg")
    assert move.volume.leads() == "new"
    guest.run(f"md5sum -c --quiet {STATE}/sum")
    move.move("--resume", move.volume.name)
    guest.run(f"md5sum -c --quiet {STATE}/sum")
    move.nothing_is_left()
    guest.run(f"umount {STATE}; vgremove -qqf vg")
