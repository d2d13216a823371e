# SPDX-License-Identifier: GPL-2.0-or-later
"""blkmove move to another machine's disk, over ssh, under a file system in use."""
import json
import time

import recipes
from moved import SIZE, InUse

AWAY_S = 20
STATE = "/var/lib/blkmove"


def let_in(here, there):
    there.run("pgrep -x sshd || start-sshd")
    here.run("mkdir -p -m 700 /root/.ssh; ssh-keygen -q -t ed25519 -N '' -f /root/.ssh/id_ed25519")
    there.put(here.get("/root/.ssh/id_ed25519.pub"), "/root/.ssh/authorized_keys", "600")
    here.put("StrictHostKeyChecking accept-new\nLogLevel ERROR\nKexAlgorithms curve25519-sha256\n", "/root/.ssh/config", "600")


def digest(guest, device):
    return guest.run(f"head -c {SIZE + 512 * 77} {device} | md5sum").out.split()[0]


def keep_state(here):
    """Beyond a restart."""
    here.run(f"modprobe ublk_drv || modprobe nbd; mkdir -p {STATE}; mount $(readlink -f /dev/by-serial/state) {STATE}")


def test_h24_h25_move_to_another_machine(pair, random):
    """The link is lost as it copies, and the command killed; once more as the other machine's disk is the one that counts; then back, and there, where this
    machine starts anew."""
    here, there = pair
    let_in(here, there)
    here.run(f"mkfs.ext4 -q {here.add_disk('16M', 'state')}")
    keep_state(here)
    move = InUse(here, random, "linear")
    device, disk, larger = move.volume.device, there.add_disk(SIZE + 512 * 77, "far"), there.add_disk(SIZE + (1 << 20), "larger")
    there.run(f"dd if=/dev/urandom of={disk} bs=1M count=20 conv=fsync status=none; mkfs.ext4 -q {disk}")
    target = f"node2:{disk}"
    # Emulated, ssh takes its time.
    patience = "--timeout=90"
    move.begin_work()
    # What it carries is judged there.
    said = here.run(["blkmove", "move", patience, device, target], code=3).out
    assert "ext4" in said and "--overwrite" in said, said
    said = here.run(["blkmove", "move", patience, device, f"node2:{larger}"], code=3).out
    assert "size" in said and "lvcreate" in said, said
    move.nothing_is_left()
    moving = here.start(["blkmove", "move", "--json", f"--overwrite={target}", patience, "--max-rate=1M", device, target])
    moving.wait_for('"progress"', 2)
    there.run("ip link set eth0 down")
    begin = time.monotonic()
    move.go_on()
    moving.kill()
    moving.wait(code=None)
    move.go_on()
    time.sleep(max(0, begin + AWAY_S - time.monotonic()))
    there.run("ip link set eth0 up")
    here.run(["blkmove", "throttle", "move-live", "--max-rate=0"])
    end = move.move("--resume", "--until=switched", device)[-1]
    assert end["result"] == "switched" and end["leg"] == "new", end
    move.go_on()
    # It is the one that counts: who reads and writes waits, and sees no error.
    there.run("ip link set eth0 down; sleep 5; ip link set eth0 up")
    move.go_on()
    assert move.move("--undo", device)[-1]["leg"] == "old"
    assert move.volume.leads() == "old"
    move.nothing_is_left()
    move.go_on()
    there.run(f"dd if=/dev/urandom of={disk} bs=1M count=20 conv=fsync status=none")
    # As far as it can be moved.
    assert move.move(f"--overwrite={target}", patience, device, target)[-1]["result"] == "switched"
    here.run("touch /run/work/stop")
    move.work.wait()
    expected = digest(there, disk)
    assert digest(here, device) == expected
    here.reset()
    keep_state(here)
    # Disks may have other names afterwards.
    move.volume.old, move.volume.new = here.path_of("old"), here.path_of("new")
    move.volume.set_up()
    # Whoever uses it now does not know.
    here.run(f"dd if=/dev/urandom of={device} bs=1M seek=2 count=3 conv=fsync status=none")
    let_in(here, there)
    status = json.loads(here.run("blkmove status --json").out)
    assert (status["leg"], status["restarted"], status["undo"]) == (None, True, None), status
    back, forget = recipes.blocks("move.md", "Started anew, after the switch to another machine",
                                  {"/dev/vg0/web": device, "root@new:/dev/vg1/web": target})
    for way in "--resume", "--undo":
        said = here.run(["blkmove", "move", way, device], code=3).out
        assert f"`{back.strip()}`" in said and "`blkmove move --undo --keep-old live`" in said, said
    here.run(f"{back}\n{forget}")
    move.nothing_is_left()
    assert digest(here, device) == digest(there, disk) == expected
    here.run(f"e2fsck -fn {device}")
    move.volume.take_down()
    here.run(f"umount {STATE}")
