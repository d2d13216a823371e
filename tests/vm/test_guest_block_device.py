# SPDX-License-Identifier: GPL-2.0-or-later
"""--device on real kernels: ublk on 6.12, the kernel's NBD client on 6.1. Who uses it sees no error, whatever becomes of the process."""
import json
import signal
import time

import pytest

from program import INTERRUPTED, LOCKED, OK, REFUSED
from work import Work

MIB = 1 << 20
SIZE = 96 * MIB + 512 * 77
WORK_SIZE = 256 * MIB + 512 * 77  # workload.py trims so far
DEVICE = "/dev/blkmove/d"
PATIENCE_S = 300


def has_ublk(kernel):
    return kernel != "6.1"


class Served:
    """blkmove serve VOLUME --device=d, that may die and be begun anew."""

    def __init__(self, guest, *words):
        self.guest, self.words = guest, ["blkmove", "serve", "--device=d", *words]
        self.start()

    def start(self, *words):
        self.process = self.guest.start([*self.words, *words])
        self.process.wait_for(DEVICE)

    def kill(self):
        self.process.kill(signal.SIGKILL)
        self.process.wait(-signal.SIGKILL)

    def end(self, code=OK):
        self.process.kill(signal.SIGTERM)
        return self.process.wait(code).out


def fill(guest, disk):
    guest.run(f"head -c $(blockdev --getsize64 {disk}) /dev/urandom >{disk}")


def must_be_gone(guest):
    guest.run(f"""test ! -e {DEVICE} -a ! -L {DEVICE}
        test -z "$(ls /dev | grep ublk[bc])"; test -z "$(cat /sys/block/nbd*/backend 2>/dev/null)" """)


def test_h24_h25_a_file_system_outlives_its_server(guest, kernel, random):
    disk = guest.add_disk(WORK_SIZE)
    served = Served(guest, disk)
    assert ("ublkb" if has_ublk(kernel) else "nbd") in guest.run(["readlink", DEVICE]).out
    assert guest.run(["blockdev", "--getsize64", "--getss", "--getro", DEVICE]).out.split() == [str(WORK_SIZE), "512", "0"]
    work = Work(guest, random, DEVICE)
    for _ in range(3):
        work.goes_on()
        served.kill()
        time.sleep(random.random() * 3)
        served.start()
    work.goes_on()

    # In order it goes only when nobody uses it.
    served.process.kill(signal.SIGTERM)
    served.process.wait_for("a file system, mounted at /data")
    work.goes_on()
    # The second signal leaves it to the next one, as a death does.
    served.end(INTERRUPTED)
    served.start()
    work.goes_on()
    work.end()
    served.end()
    must_be_gone(guest)
    work.must_be_on(disk)


def flushes(guest, disk):
    """How many the disk has been asked for: the kernel's Documentation/block/stat.rst."""
    return int(guest.run(["cat", f"/sys/block/{disk.split('/')[-1]}/stat"]).out.split()[15])


@pytest.mark.short
def test_every_request_reaches_the_volume(guest):
    disk = guest.add_disk(SIZE)
    fill(guest, disk)
    served = Served(guest, "--cache=direct", disk)
    guest.run(f"cmp {DEVICE} {disk}")
    guest.run(["fio", "--name=v", f"--filename={DEVICE}", "--rw=randwrite", "--bsrange=512-128k", "--blockalign=512", "--direct=1",
               "--ioengine=libaio", "--iodepth=16", "--size=24M", "--verify=crc32c", "--verify_fatal=1", "--fsync=50"])
    before = flushes(guest, disk)
    guest.run(f"dd if=/dev/urandom of={DEVICE} bs=1M count=1 seek=90 oflag=direct conv=fsync,notrunc status=none")
    assert flushes(guest, disk) > before
    before = flushes(guest, disk)
    guest.run(f"dd if=/dev/urandom of={DEVICE} bs=4k count=1 seek=3 oflag=direct,dsync conv=notrunc status=none")
    assert flushes(guest, disk) > before
    guest.run(f"""blkdiscard -z -o {512 * 1001} -l {5 * MIB + 512} {DEVICE}; blkdiscard -o {40 * MIB} -l {8 * MIB} {DEVICE}
        cmp -n {5 * MIB + 512} -i {512 * 1001}:0 {disk} /dev/zero""")
    for offset in 512 * 1000, 512 * 1002 + 5 * MIB:
        guest.run(f"cmp -s -n 512 -i {offset}:0 {disk} /dev/zero", code=1)
    # The last sector is there, and nothing behind it.
    guest.run(f"dd if=/dev/urandom of={DEVICE} bs=512 seek={SIZE // 512 - 1} count=1 oflag=direct conv=notrunc status=none")
    guest.run(f"dd if=/dev/zero of={DEVICE} bs=512 seek={SIZE // 512} count=1 oflag=direct conv=notrunc", code=1)
    served.end()
    served = Served(guest, "--read-only", disk)
    guest.run(f"cmp {DEVICE} {disk}")
    guest.run(f"dd if=/dev/zero of={DEVICE} bs=512 count=1 conv=notrunc oflag=direct", code=1)
    assert guest.run(["blockdev", "--getro", DEVICE]).out.strip() == "1"
    served.end()
    must_be_gone(guest)


@pytest.mark.short
def test_h17_h22_who_may_take_it_over(guest):
    disk, other = guest.add_disk(SIZE), guest.add_disk(SIZE)
    served = Served(guest, disk)
    assert "serves it already" in guest.run(["blkmove", "serve", "--device=d", other], code=LOCKED).out
    holder = guest.start(f"exec 7<{DEVICE}; echo open; sleep 1000")
    holder.wait_for("open")
    served.process.kill(signal.SIGTERM)
    served.process.wait_for("it is in use by pid")
    served.kill()
    assert "waits for another volume" in guest.run(["blkmove", "serve", "--device=d", other], code=REFUSED).out
    small = guest.add_disk(SIZE - 512)
    assert "another size" in guest.run(["blkmove", "serve", "--device=d", "--adopt=d", small], code=REFUSED).out
    # Whoever says that it holds the same gets it.
    guest.run(f"cp {disk} {other}")
    served = Served(guest, "--adopt=d", other)
    guest.run(f"cmp {DEVICE} {disk}")
    holder.kill()
    holder.wait(None)
    served.end()
    must_be_gone(guest)


@pytest.mark.parametrize("kind", ["auto", "nbd"])
def test_h09_a_volume_that_became_larger_while_nobody_served_it(guest, kernel, kind):
    larger = SIZE + 3 * MIB
    disk = guest.add_disk(SIZE, serial="grows")
    fill(guest, disk)
    served = Served(guest, f"--device-kind={kind}", disk)
    served.kill()
    guest.qmp("block_resize", **{"node-name": "grows", "size": larger})
    guest.run(f"for i in $(seq 300); do test $(blockdev --getsize64 {disk}) = {larger} && exit 0; sleep 0.1; done; exit 1")
    served.start()
    keeps = "keeps its 96.0 MiB of the volume's 99.0 MiB: this kernel's ublk makes no device larger" in served.process.out
    assert keeps == (has_ublk(kernel) and kind == "auto"), served.process.out
    size = int(guest.run(["blockdev", "--getsize64", DEVICE]).out)
    assert size == (SIZE if keeps else larger)
    guest.run(f"cmp -n {size} {DEVICE} {disk}")
    served.end()
    must_be_gone(guest)


def test_a_throw_away_view_ends_with_its_process(guest):
    disk = guest.add_disk(SIZE)
    guest.run(f"md5sum {disk} >/tmp/before")
    served = Served(guest, "--overlay", "--overlay-dir=/tmp", disk)
    guest.run(f"dd if=/dev/urandom of={DEVICE} bs=1M count=2 oflag=direct conv=fsync,notrunc status=none")
    guest.run(f"cmp -s {DEVICE} {disk}", code=1)
    served.kill()
    served.start()
    guest.run(f"cmp {DEVICE} {disk}; md5sum -c --quiet /tmp/before")
    served.end()
    must_be_gone(guest)


class Mirror:
    """blkmove mirror in the background, of the name m."""

    def __init__(self, guest, source, target, *words):
        self.guest = guest
        guest.run(["blkmove", "mirror", "--device=d", "--name=m", *words, source, target])

    def order(self, *words):
        self.guest.run(["blkmove", words[0], "m", *words[1:]])

    def status(self):
        return json.loads(self.guest.run(["blkmove", "status", "m", "--json"]).out)

    def wait_until(self, condition, what):
        end = time.monotonic() + PATIENCE_S
        while not condition(now := self.status()):
            assert time.monotonic() < end, f"waited in vain until {what}: {now}"
            time.sleep(0.5)

    def kill_and_resume(self):
        self.guest.run(f"kill -9 {self.status()['pid']}; sleep 1; blkmove mirror --resume=m")

    def wait_until_revertible(self):
        self.wait_until(lambda now: now["attached"] and now["revertible"], "it can be reverted")


def test_h25_a_mounted_file_system_is_moved_on(guest, random):
    source, target = guest.add_disk(WORK_SIZE), guest.add_disk(WORK_SIZE)
    fill(guest, target)
    mirror = Mirror(guest, source, target, "--max-rate=8M")
    assert mirror.status()["device"] == DEVICE
    work = Work(guest, random, DEVICE)
    mirror.kill_and_resume()
    work.goes_on()
    mirror.order("throttle", "--max-rate=none")
    mirror.wait_until(lambda now: now["state"] == "ready", "it is ready")
    mirror.order("cutover")
    work.goes_on()
    mirror.kill_and_resume()
    work.goes_on()
    mirror.wait_until_revertible()
    mirror.order("revert")
    work.goes_on()
    mirror.wait_until(lambda now: now["state"] == "ready", "it is ready again")
    mirror.order("cutover")
    mirror.wait_until_revertible()
    mirror.order("finish")
    work.goes_on()
    pid = mirror.status()["pid"]
    work.end()
    # Nobody uses it any more: it goes by itself.
    guest.run(f"for i in $(seq 600); do test -e /proc/{pid} || exit 0; sleep 0.2; done; exit 1")
    must_be_gone(guest)
    work.must_be_on(target)


def test_queues_and_what_was_flushed_outlives_the_power(boot, kernel):
    guest = boot(processors=2)
    disk = guest.add_volatile_disk("32M", "v")
    served = Served(guest, disk)
    queues = guest.run("ls -d /sys/block/$(basename $(readlink /dev/blkmove/d))/mq/* | wc -l").out
    assert int(queues) == (2 if has_ublk(kernel) else 1)
    guest.run(["fio", "--name=v", f"--filename={DEVICE}", "--rw=randwrite", "--bs=4k", "--direct=1", "--ioengine=libaio", "--iodepth=64",
               "--numjobs=2", "--size=8M", "--offset_increment=8M", "--verify=crc32c", "--verify_fatal=1", "--end_fsync=1"])
    before = guest.run(f"dd if={DEVICE} bs=1M count=16 status=none | md5sum").out
    # Acknowledged, and not flushed: it may be lost, what was flushed may not.
    guest.run(f"dd if=/dev/urandom of={DEVICE} bs=1M seek=20 count=4 oflag=direct conv=notrunc status=none")
    assert served.process.is_running()
    guest.power_cut()
    assert guest.run(f"dd if={guest.path_of('v')} bs=1M count=16 status=none | md5sum").out == before
