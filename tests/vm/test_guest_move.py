# SPDX-License-Identifier: GPL-2.0-or-later
"""blkmove move under a mounted file system: guest/workload.py writes and checks files on the device all the while, and must not notice."""
import time

import pytest

from moved import InUse, Linear, Move

@pytest.fixture
def moved(guest, random, request):
    return InUse(guest, random, request.param)


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


@kinds("linear")
def test_h13_sectors_that_nobody_flushes(moved):
    """A mirror has parts of pages in the page cache of its legs: none is written back over what came after the legs were left."""
    guest = moved.guest
    guest.run("modprobe ublk_drv || modprobe nbd; rm -rf /run/work; mkdir /run/work")
    moved.work = guest.start(["sectors.py", moved.volume.device, "/run/work", moved.random.randrange(1 << 32)])
    moved.work.wait_for("READY")
    moved.begin("--engine=blkmove", "--until=switched")
    moved.go_on()
    moved.move("--undo", moved.volume.device)
    moved.go_on(6)
    assert moved.begin("--engine=blkmove")[-1]["leg"] == "new"
    moved.go_on(6)
    moved.end()
    moved.nothing_is_left()


def move_it(moved):
    moved.begin_work()
    moved.end_with()


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
    cases = [([volume.device, small], 3, "larger"), ([volume.old, volume.new], 2, "device-mapper"), ([volume.device, volume.old], 3, "in use by"),
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


@kinds("lvm")
def test_group_with_a_thin_pool(moved):
    """LVM's metadata are written as a whole; the pool and its volumes, in use meanwhile, stay what they are."""
    guest, disk = moved.guest, moved.guest.add_disk("64M", "third")
    guest.run(f"""modprobe dm-thin-pool; vgextend -qq vg {disk}; lvcreate -qqy --type thin-pool -L 32M --poolmetadatasize 4M -Zn -n pool vg {disk}
        lvcreate -qqy -Wn -V 24M -T vg/pool -n thin; mkfs.ext4 -q /dev/vg/thin; mkdir -p /thin; mount /dev/vg/thin /thin
        dd if=/dev/urandom of=/thin/before bs=1M count=4 conv=fsync status=none""")
    moved.begin_work()
    moved.begin()
    assert moved.volume.leads() == "new"
    moved.go_on()
    # The pool's own count of what was done to it is the one in LVM's metadata.
    guest.run("""dd if=/dev/urandom of=/thin/after bs=1M count=4 conv=fsync status=none; md5sum /thin/before /thin/after >/run/thin.sum
        lvcreate -qqy -s -n point vg/thin; umount /thin; e2fsck -fn /dev/vg/thin; lvchange -qq -an vg/thin vg/point vg/pool
        lvchange -qq -ay -K vg/point; mount -o ro /dev/vg/point /thin; md5sum --quiet -c /run/thin.sum; umount /thin
        vgck vg; lvremove -qqf vg/point vg/thin vg/pool""")
    moved.nothing_is_left()
    moved.end()


@kinds("linear")
def test_h22_a_path_that_leads_elsewhere(moved):
    """Refused until it leads where it did; the way back does not need it."""
    guest, volume = moved.guest, moved.volume
    other = guest.add_disk("64M", "other")
    before = guest.run(f"md5sum {other}").out
    guest.run(f"ln -s {volume.new} /dev/path")
    moved.begin_work()
    moved.move("--until=synced", volume.device, "/dev/path")
    guest.run(f"ln -sf {other} /dev/path")
    said = guest.run(["blkmove", "move", "--resume", volume.device], code=3).out
    assert "/dev/path is another device" in said and "other" in said, said
    moved.go_on()
    guest.run(f"ln -sf {volume.new} /dev/path")
    moved.move("--until=synced", "--resume", volume.device)
    guest.run(f"ln -sf {other} /dev/path")
    moved.move("--undo", volume.device)
    assert volume.leads() == "old" and guest.run(f"md5sum {other}").out == before
    moved.nothing_is_left()
    moved.end()


@kinds("linear", "lvm")
def test_h23_what_stays_behind_is_said(moved):
    """The same file system is in two places then."""
    guest, volume = moved.guest, moved.volume
    moved.begin_work()
    said = moved.begin()
    step = next(event["text"] for event in said if "same UUID" in event.get("text", ""))
    assert f"stays on {volume.old if moved.volume.name == 'live' else volume.target}," in step, step
    moved.go_on()
    guest.run("touch /run/work/stop")
    moved.work.wait()
    uuids = guest.run(f"blkid -p -s UUID -o value {volume.device}; blkid -p -s UUID -o value {volume.target} || true").out.split()
    assert volume.name == "live" or uuids[0] == uuids[1]
    volume.take_down()


def test_moves_whose_names_are_alike(guest):
    """Each has a mirror of its own, and a second move of a device, recorded in another folder, leaves the first one's alone."""
    guest.run("modprobe dm_mod; modprobe ublk_drv || modprobe nbd")
    moves = [Move(guest, Linear(guest, name, *(guest.add_disk("4M", f"{serial}-{place}") for place in ("old", "new"))))
             for name, serial in (("a+b", "one"), ("a_b", "two"))]
    for move in moves:
        move.volume.set_up()
        guest.run(f"dd if=/dev/urandom of={move.volume.device} bs=1M count=4 conv=fsync status=none; md5sum {move.volume.device} >>/run/alike")
    for move in moves:
        assert move.begin("--engine=blkmove", "--until=switched")[-1]["leg"] == "new"
    all_there_is = "dmsetup table; for lock in /var/lib/blkmove/mirrors/*/lock; do kill -0 $(cat $lock); cat $lock; done"
    before, spare = guest.run(all_there_is).out, guest.add_disk("4M", "spare")
    for engine in ("dm", "blkmove"):
        said = guest.run(["blkmove", "move", "--state-dir=/run/other", f"--engine={engine}", moves[1].volume.device, spare], code=3).out
        assert "another --state-dir" in said, said
    assert guest.run(all_there_is).out == before
    assert moves[0].move("--undo", moves[0].volume.device)[-1]["leg"] == "old"
    assert moves[1].move("--resume", moves[1].volume.device)[-1]["result"] == "moved"
    moves[0].begin("--engine=blkmove")
    for move in moves:
        assert move.volume.leads() == "new"
        move.volume.spoil_other()
    guest.run("echo 3 >/proc/sys/vm/drop_caches; md5sum --quiet -c /run/alike")
    moves[0].nothing_is_left()
    for move in moves:
        move.volume.take_down()


def test_luks_with_its_key_in_a_keyring(guest, random):
    """As cryptsetup opens it: refused with the way out, which works while it is in use. A key that can be reached is no hindrance. Nor are sectors that are
    larger than those of the disks: these are the encryption's alone."""
    old, new = guest.add_disk("44M", "old"), guest.add_disk("44M", "new")
    guest.run(f"""modprobe dm_crypt; modprobe dm_mirror; modprobe algif_skcipher || true
        echo -n secret >/run/key
        cryptsetup luksFormat -q --type luks2 --sector-size 4096 --pbkdf pbkdf2 --pbkdf-force-iterations 1000 --key-file /run/key {old}
        cryptsetup open --allow-discards --key-file /run/key {old} secret""")
    assert ":64:logon:" in guest.run("dmsetup table secret").out
    move = InUse(guest, random, "linear", volume=Linear(guest, "secret", old, new))
    table = guest.run("dmsetup table").out
    move.begin_work()
    said = guest.run(["blkmove", "move", move.volume.device, new], code=3).out
    assert "cryptsetup refresh --disable-keyring secret" in said, said
    assert guest.run("dmsetup table").out == table
    move.nothing_is_left()
    guest.run("cryptsetup refresh --allow-discards --disable-keyring --key-file /run/key secret")
    assert move.begin()[-1]["result"] == "moved"
    move.go_on()
    guest.run("cryptsetup refresh --allow-discards --key-file /run/key secret")
    table = guest.run("dmsetup table secret").out
    assert ":64:logon:" in table and move.volume.leads() == "new"
    move.nothing_is_left()
    guest.run(f"dd if=/dev/urandom of={old} bs=1M count=20 conv=fsync,notrunc status=none")
    move.go_on()
    guest.run("touch /run/work/stop")
    move.work.wait()
    guest.run(f"cryptsetup close secret; cryptsetup open --key-file /run/key {new} secret; e2fsck -fn /dev/mapper/secret; cryptsetup close secret")
    guest.run("""python3 - <<'END'
import ctypes
key = ctypes.CDLL(None).syscall(248, b"logon", b"blkmove:test", bytes(64), 64, -4)
assert key > 0, key
END""")
    guest.run(f'dmsetup create secret --table "0 40000 crypt aes-xts-plain64 :64:logon:blkmove:test 0 {new} 4096"; md5sum /dev/mapper/secret >/run/sum')
    Move(guest, move.volume).move(f"--overwrite={old}", "/dev/mapper/secret", old)
    assert ":64:logon:blkmove:test" in guest.run("dmsetup table secret; md5sum --quiet -c /run/sum; dmsetup remove secret").out


@kinds("lvm")
@pytest.mark.parametrize("engine", ["dm", "blkmove"])
def test_h11_lvm_snapshot_taken_meanwhile(moved, engine):
    """LVM leads the volume past the mirror, which does not know: the move must not go on to a copy that lacks what was written since."""
    guest, volume = moved.guest, moved.volume

    def go_on():
        """Not by workload.py: what has a snapshot knows no discard."""
        guest.run("""cd /data; [ ! -e sums ] || md5sum --quiet -c sums; n=$(ls | wc -l)
            dd if=/dev/urandom of=file$n bs=77777 count=5 status=none; sync; md5sum file* >sums; sync""")

    def is_refused(said):
        assert f"--undo {volume.name}" in said, said
        assert volume._place_by_metadata(volume.volume) == "old"

    guest.run(f"modprobe ublk_drv || modprobe nbd; modprobe dm_snapshot; mkfs.ext4 -q {volume.device}; mkdir -p /data; mount {volume.device} /data")
    go_on()
    moved.begin(f"--engine={engine}", "--until=synced")
    go_on()
    guest.run(f"lvcreate -qq -s -n nightly -L 4M vg/{volume.volume} {volume.old}", timeout_s=120)
    go_on()
    is_refused(guest.run(["blkmove", "move", "--resume", volume.device], code=2).out)
    go_on()
    guest.run("lvremove -qqf vg/nightly", timeout_s=120)
    assert volume.leads() == "old"
    # Led back to the mirror, it would be taken for the same.
    is_refused(guest.run(["blkmove", "move", "--resume", volume.device], code=2).out)
    go_on()
    assert moved.move("--undo", volume.device)[-1]["leg"] == "old"
    moved.nothing_is_left()
    guest.run(f"dd if=/dev/urandom of={volume.target} bs=1M count=8 conv=fsync,notrunc status=none")
    # A copy under way stops by itself.
    slow = "--throttle=1" if engine == "dm" else "--max-rate=64K"
    moving = guest.start(["blkmove", "move", "--json", slow, *moved.words(f"--engine={engine}")])
    moving.wait_for('"progress"')
    guest.run(f"lvchange --refresh vg/{volume.volume}", timeout_s=120)
    moving.wait(code=2)
    is_refused(moving.out)
    assert volume.leads() == "old"
    go_on()
    moved.move("--undo", volume.device)
    moved.nothing_is_left()
    guest.run("cd /data; md5sum --quiet -c sums; cd /; umount /data")
    volume.take_down()


@kinds("lvm")
def test_h11_target_with_a_snapshot(moved):
    """What is copied would fill it, and at the end it would have another origin."""
    guest, volume = moved.guest, moved.volume
    guest.run(f"""modprobe dm_snapshot; dd if=/dev/urandom of={volume.target} bs=1M count=3 conv=fsync status=none
        lvcreate -qqy -s -n nightly -L 4M vg/{volume.other} {volume.old}; md5sum /dev/vg/nightly {volume.target} >/run/sums""", timeout_s=120)
    table = guest.run("dmsetup table").out
    assert "lvremove vg/nightly" in guest.run(["blkmove", "move", *moved.words()], code=3).out
    assert guest.run("md5sum --quiet -c /run/sums; dmsetup table").out == table
    guest.run("lvremove -qqf vg/nightly", timeout_s=120)
    assert moved.begin()[-1]["leg"] == "new" and volume.leads() == "new"
    moved.nothing_is_left()
    guest.run("vgremove -qqf vg", timeout_s=60)


@kinds("lvm")
def test_locks_elsewhere(moved):
    """LVM's commands would not wait for the lock, and what they change meanwhile would be lost."""
    guest, settings = moved.guest, "/etc/lvm/lvmlocal.conf"
    guest.run(f"""[ ! -e {settings} ] || cp {settings} /run/lvmlocal.conf; echo 'global {{ locking_dir = "/run/elsewhere" }}' >{settings}""")
    try:
        said = guest.run(["blkmove", "move", *moved.words()], code=3).out
    finally:
        guest.run(f"rm {settings}; [ ! -e /run/lvmlocal.conf ] || mv /run/lvmlocal.conf {settings}")
    assert "/run/elsewhere" in said, said
    moved.nothing_is_left()
    assert moved.begin()[-1]["leg"] == "new"
    guest.run("vgremove -qqf vg", timeout_s=60)


@kinds("linear", "lvm")
def test_what_is_read_only_stays_so(moved):
    """A table says anew whether its device may be written."""
    guest, volume = moved.guest, moved.volume

    def is_read_only(device):
        return guest.run(f"blockdev --getro {device}").out.strip() == "1"

    guest.run(f"mkfs.ext4 -q {volume.device}; sync; md5sum {volume.device} >/run/sum")
    if volume.name == "live":
        guest.run("dmsetup table live | dmsetup load -r live; dmsetup resume live")
    else:
        guest.run(f"lvchange -qq -pr vg/{volume.volume}")
    guest.run(f"mkdir -p /data; mount -o ro {volume.device} /data")
    for words in ["--until=synced"], ["--undo"], []:
        if "--undo" in words:
            moved.move(*words, volume.device)
        else:
            moved.begin(*words)
        assert is_read_only(volume.device), words
    assert volume.leads() == "new" and not is_read_only(volume.target)
    guest.run("umount /data; md5sum --quiet -c /run/sum")
    moved.nothing_is_left()
    volume.take_down()


@kinds("linear")
def test_throttle_of_the_kernels_mirror(moved):
    """It slows the copy down, may be changed by --resume, and is gone afterwards; a rate is kept by it."""
    guest, device = moved.guest, moved.volume.device
    parameter = "/sys/module/dm_mirror/parameters/raid1_resync_throttle"
    guest.slow_writes("new", 8 << 20)  # the kernel counts the time that writes take in whole ticks
    begin = time.monotonic()
    moved.begin("--until=synced")
    seconds = time.monotonic() - begin
    moved.move("--undo", device)
    guest.run(f"echo 77 >{parameter}")
    moving = guest.start(["blkmove", "move", "--json", "--throttle=1", *moved.words("--until=synced")])
    moving.wait_for('"progress"')
    time.sleep(max(2 * seconds, 5))
    assert moving.is_running() and guest.run(f"cat {parameter}").out.strip() == "1"
    moving.kill()
    moving.wait(code=None)
    done, regions = map(int, guest.run("dmsetup status live-blkmove-mirror").out.split()[6].split("/"))
    assert done < regions
    guest.slow_writes("new", 0)
    moved.move("--resume", "--throttle=100", device)
    assert guest.run(f"cat {parameter}").out.strip() == "77"
    guest.slow_writes("old", 8 << 20)
    begin = time.monotonic()
    moving = guest.start(["blkmove", "move", "--json", "--engine=dm", "--max-rate=1M", *moved.words()])
    moving.wait_for('"progress"', 4)
    assert int(guest.run(f"cat {parameter}").out) < 77
    moving.wait()
    assert time.monotonic() - begin > 12 and moved.volume.leads() == "old"
    guest.slow_writes("old", 0)
    assert guest.run(f"cat {parameter}").out.strip() == "77"
    moved.nothing_is_left()
    moved.volume.take_down()
