# SPDX-License-Identifier: GPL-2.0-or-later
"""Volumes for tests of blkmove move: of each kind one with two places, `old` and `new`, and what is done with it."""
import json
import shlex

SIZE = 24 << 20
KEY = "3c" * 32 + "c3" * 32
PATIENCE_S = 300
# strace does not look for it.
PROGRAM = "/vmrun/bin/blkmove"
MIRROR_CALLS = ("renameat", "unlinkat", "ioctl", "fsync", "fdatasync", "pwrite64", "io_uring_enter")


class Linear:
    """A device of two pieces of a disk, the second one first: its table is no plain whole."""

    def __init__(self, guest, name="live", old=None, new=None):
        self.guest, self.name = guest, name
        # Of the old place; not once it was moved there from elsewhere.
        self.pieces = True
        self.old, self.new = old or guest.add_disk(SIZE + 512 * 77, "old"), new or guest.add_disk(SIZE + (3 << 20), "new")

    @property
    def device(self):
        return f"/dev/mapper/{self.name}"

    def set_up(self, place="old"):
        if place == "new" or not self.pieces:
            disk = self.new if place == "new" else self.old
            self.guest.run(f'dmsetup create {self.name} --table "0 $(blockdev --getsz {self.old}) linear {disk} 0"')
            return
        self.guest.run(f"""n=$(blockdev --getsz {self.old}); half=$((n / 2))
            printf '%s\\n' "0 $((n - half)) linear {self.old} $half" "$((n - half)) $half linear {self.old} 0" | dmsetup create {self.name}""")

    def set_up_after_restart(self, place):
        """By who knows where it led."""
        self.set_up(place)

    @property
    def target(self):
        """Where it may be moved next."""
        return self.new if self.leads() == "old" else self.old

    def spoil_other(self):
        """The place that it does not lead to: nothing there is needed."""
        self.guest.run(f"dd if=/dev/urandom of={self.target} bs=1M count=4 conv=fsync,notrunc status=none")

    def leads(self):
        table = self.guest.run(f"dmsetup table {self.name}").out.split()
        numbers = self.guest.run(f"for disk in {self.old} {self.new}; do lsblk -ndo MAJ:MIN $disk; done").out.split()
        return "old" if numbers[0] in table else "new" if numbers[1] in table else "elsewhere"

    def is_suspended(self):
        return self.guest.run(f"dmsetup info -c --noheadings -o suspended {self.name}").out.strip() == "Suspended"

    def remove(self):
        self.guest.run(f"dmsetup remove {self.name}")

    def take_down(self):
        self.remove()


class Crypt(Linear):
    """What moves is the disk below, as it is and all of it: to come back from the new one, that must not be larger."""

    def __init__(self, guest, name="secret", old=None, new=None):
        super().__init__(guest, name, old, new or guest.add_disk(SIZE + 512 * 77, "new"))

    def set_up(self, place="old"):
        disk = self.old if place == "old" else self.new
        table = f"0 $(($(blockdev --getsz {self.old}) - 4096)) crypt aes-xts-plain64 {KEY} 0 {disk} 4096 1 allow_discards"
        self.guest.run(f'dmsetup create {self.name} --table "{table}"')

    def take_down(self):
        # The text of a file system is on neither disk.
        self.guest.run(f"for disk in {self.old} {self.new}; do ! grep -qa lost+found $disk; done")
        self.remove()


class Lvm(Linear):
    """Of a group that is there, if places are given."""

    def __init__(self, guest, name="lv", old=None, new=None):
        super().__init__(guest, f"vg-{name}", old, new)
        self.volume, self.size = name, "16M"
        if not old:
            make_group(guest, self.old, self.new)
            guest.run(f"lvcreate -qq -Wn -Zn -n other -L 4M vg {self.new}")
        else:
            self.size = "8M"
        self.other = f"{name}t"
        guest.run(f"""lvcreate -qq -Wn -Zn -n {name} -L {self.size} vg {self.old}
            lvcreate -qq -Wn -Zn -n {self.other} -L {self.size} vg {self.new}""")

    @property
    def device(self):
        return f"/dev/vg/{self.volume}"

    def set_up(self, place="old"):
        self.guest.run("vgchange -qq -ay vg; vgmknodes -qq vg")

    @property
    def target(self):
        return f"/dev/vg/{self.other}"

    def _place_by_metadata(self, volume):
        found = self.guest.run(f"lvs --noheadings -o devices vg/{volume}").out.split("(")[0].strip()
        disks = self.guest.run(f"readlink -f {self.old}; readlink -f {self.new}").out.split()
        return ("old", "new")[disks.index(found)]

    def spoil_other(self):
        """It has become the other volume's place: by the kernel, and by LVM."""
        assert self.leads() == self._place_by_metadata(self.volume) != self._place_by_metadata(self.other)
        self.guest.run(f"dd if=/dev/urandom of={self.target} bs=1M count=8 conv=fsync,notrunc status=none")

    def take_down(self):
        # The file system is where LVM's metadata say it is, and LVM has nothing to complain of.
        self.guest.run(f"""vgchange -an vg; vgck vg; vgchange -ay vg; vgmknodes vg; e2fsck -fn {self.device}
            [ -z "$(lvs --noheadings -o tags vg | tr -d ' ')" ]; vgremove -qqf vg""")


def make_group(guest, *disks):
    guest.run(f"vgcreate -qq vg {' '.join(disks)}")


KINDS = {"linear": Linear, "crypt": Crypt, "lvm": Lvm}


class Move:
    """blkmove move, of one volume."""

    def __init__(self, guest, volume):
        self.guest, self.volume = guest, volume

    def move(self, *words, code=0):
        """Returns the events."""
        command = self.guest.run(["blkmove", "move", "--json", *words], code=code)
        return [json.loads(line) for line in command.out.splitlines() if line.startswith("{")]

    def words(self, *words):
        """Of a move that begins."""
        target = self.volume.target
        return [f"--overwrite={target}", *words, self.volume.device, target]

    def begin(self, *words, code=0):
        return self.move(*self.words(*words), code=code)

    def steps_of(self, *words):
        """Runs it to its end; returns [(system call, its number)] for each by which it changed something that outlasts it."""
        self.guest.run(["strace", "-o", "/run/trace", "-e", "trace=ioctl,renameat,renameat2,unlinkat", PROGRAM, "move", "--quiet", *words])
        counts, steps = {}, []
        for line in self.guest.get("/run/trace").decode().splitlines():
            call = line.split("(")[0]
            if call not in ("ioctl", "renameat", "renameat2", "unlinkat"):
                continue
            counts[call] = counts.get(call, 0) + 1
            if call != "ioctl" or any(change in line for change in ("DM_DEV_CREATE", "DM_TABLE_LOAD", "DM_DEV_SUSPEND", "DM_DEV_REMOVE")):
                steps.append((call, counts[call]))
        return steps

    def kill_at(self, step, *words):
        """The program, killed as it makes that system call for the n-th time. Whether it came so far."""
        call, number = step
        command = shlex.join(["strace", "-o", "/dev/null", "-e", f"trace={call}", "-e", f"inject={call}:signal=SIGKILL:when={number}", PROGRAM, "move",
                              "--quiet", *words])
        return "killed" in self.guest.run(f"{command} || {{ [ $? = 137 ]; echo killed; }}").out

    def _trace_mirror(self, *options):
        """The process of a move by engine blkmove, by strace from now on. /run/mirror-trace tells of it."""
        pid = self.guest.run("pgrep -o -f '^/proc/self/exe mirror'").out.strip()
        tracing = self.guest.start(["strace", "-o", "/run/mirror-trace", "-p", pid, *options])
        tracing.wait_for("attached")
        return tracing

    def steps_of_mirror(self, *words):
        """As steps_of(), of the mirror's process while a move goes on to where it ends. What it does by io_uring is in the calls that hand it over."""
        tracing = self._trace_mirror("-e", f"trace={','.join(MIRROR_CALLS)}")
        self.move(*words, self.volume.device)
        tracing.wait(code=None)
        calls = [line.split("(")[0] for line in self.guest.get("/run/mirror-trace").decode().splitlines()]
        return [(call, number + 1) for call in MIRROR_CALLS for number in range(calls.count(call))]

    def kill_mirror_at(self, step, *words):
        """The mirror, as it makes that system call for the n-th time while the move goes on. Whether it came so far."""
        call, number = step
        tracing = self._trace_mirror("-e", f"trace={call}", "-e", f"inject={call}:signal=SIGKILL:when={number}")
        moving = self.guest.run(["blkmove", "move", *words, self.volume.device], code=None, timeout_s=PATIENCE_S)
        tracing.wait(code=None)
        killed = "killed by SIGKILL" in self.guest.get("/run/mirror-trace").decode()
        assert killed or moving.code == 0, moving.out
        return killed

    def is_known(self):
        return "yes" in self.guest.run(f"[ ! -e /var/lib/blkmove/moves/{self.volume.name}/record.json ] || echo yes").out

    def nothing_is_left_of_it(self):
        assert not self.is_known()
        assert not self.guest.run(f"dmsetup ls | grep ^{self.volume.name}-blkmove || true").out
        assert not self.guest.run(f"ls -d /dev/blkmove/move-{self.volume.name} /var/lib/blkmove/mirrors/move-{self.volume.name}/command 2>/dev/null || true").out

    def nothing_is_left(self):
        assert not self.guest.run("dmsetup ls | grep blkmove || true").out
        assert not self.guest.run("ls /dev/blkmove 2>/dev/null || true").out
        left = self.guest.run("find /var/lib/blkmove/moves /var/lib/blkmove/mirrors -name record.json -o -name command 2>/dev/null || true").out
        assert not left, left


class Acked:
    """guest/acked.py, whose file must hold what it said, whatever becomes of the guest."""

    PIECE, PIECES = 4096, 16

    def __init__(self, guest, path):
        self.path, self.work = path, guest.start(["acked.py", path])
        self.work.wait_for("acked", self.PIECES)

    def last(self):
        """What it said in whole lines."""
        return int(self.work.out[:self.work.out.rindex("\n")].split()[-1])

    def check(self, guest):
        """One write more may have come there, or have been told to nobody."""
        data, last = guest.get(self.path), self.last()
        for at in range(self.PIECES):
            piece = data[at * self.PIECE:(at + 1) * self.PIECE]
            number, acked = int.from_bytes(piece[:8], "little"), last - (last - at) % self.PIECES
            assert piece == piece[:8] * (self.PIECE // 8), f"{self.path}: piece {at} was never written so"
            assert number in (acked, acked + self.PIECES), f"{self.path}: piece {at} holds write {number}; {last} was acknowledged"


class InUse(Move):
    """A device of some kind, on which guest/workload.py writes and checks files all the while."""

    def __init__(self, guest, random, kind, volume=None):
        """`volume`: one that is set up."""
        super().__init__(guest, volume or KINDS[kind](guest))
        self.random, self.work = random, None
        if not volume:
            self.volume.set_up()

    def begin_work(self):
        self.guest.run("rm -rf /run/work")
        self.work = self.guest.start(["workload.py", self.volume.device, "/run/work", self.random.randrange(1 << 32)])
        self.work.wait_for("READY")

    def go_on(self, ticks=2):
        self.work.wait_for("tick", self.work.out.count("tick") + ticks, PATIENCE_S)

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
        self.volume.spoil_other()
        self.go_on()
        self.end()
