# SPDX-License-Identifier: GPL-2.0-or-later
"""Trackers of real kernels, in a guest: what they say against a byte compare of what is there; guest/trackers.py has the tests.

LVM's snapshots and those made by hand, of odd sizes, full, resized, merged, recreated, in any order; thin volumes; dm-era; and all as a mirror's beginning.
"""
import pytest

DM_SNAPSHOT = """lvm_snapshots h10_lvm_any_order h14_lvm_doubts h09_lvm_resized h09_lvm_merged lvm_larger_store h13_lvm_small_writes h27_lvm_full_snapshot
    h27_lvm_snapshot_fills_up_meanwhile h12_raw_odd_sizes h09_raw_resized h11_raw_gap raw_kinds_that_do_not_serve""".split()
DM_THIN = "h12_lvm_thin h14_lvm_thin_doubts lvm_thin_release h13_lvm_thin_small_writes h09_lvm_thin_resized_and_merged h27_lvm_thin_full_pool".split()
DM_ERA = "h12_era h12_era_writes_under_way h14_era_doubts".split()
MIRROR = "mirror_lvm mirror_lvm_thin mirror_era".split()
TIMEOUT_S = 1500


@pytest.mark.parametrize("name", [*DM_SNAPSHOT, *DM_THIN, *DM_ERA, *MIRROR])
def test_tracker(guest, random, name):
    disks = [guest.add_disk("256M") for _ in range(2)]
    said = guest.run(["trackers.py", random.randrange(1 << 30), *disks, name], timeout_s=TIMEOUT_S).out
    print(said)
    assert f"PASSED {name}" in said
    if "h27" in name:  # a volume that is full is what the kernel complains of
        guest.kernel_says()


class Restart:
    """Steps of guest/trackers_restart.py before and after; what blkmove notes is on a disk, and so are the targets."""

    def __init__(self, guest, random, first, second):
        self.guest, self.random, self.disks = guest, random, [f"/dev/by-serial/{name}" for name in (first, second)]
        lasting = guest.add_disk("256M", "lasting")
        guest.run(f"mkfs.ext4 -q {lasting}")
        self._mount()

    def _mount(self):
        self.guest.run("mkdir -p /var/lib/blkmove; mount /dev/by-serial/lasting /var/lib/blkmove")

    def step(self, name):
        said = self.guest.run(["trackers_restart.py", self.random.randrange(1 << 30), *self.disks, name], timeout_s=TIMEOUT_S).out
        print(said)
        assert f"PASSED {name}" in said

    def after(self, name):
        self._mount()
        self.step(name)
        self.guest.run("umount /var/lib/blkmove")


def test_h11_restart(guest, random):
    """A hard reset, and writes after it: what LVM tracked across it counts, what nobody can know does not."""
    guest.add_disk("256M", "first")
    guest.add_disk("256M", "second")
    restart = Restart(guest, random, "first", "second")
    restart.step("before_restart")
    guest.reset()
    restart.after("after_restart")


def test_h11_power_cut(guest, random):
    """The volume's disk loses what was not flushed: none of that was copied and noted as a base."""
    guest.add_volatile_disk("64M", "volatile")
    guest.add_disk("64M", "store")
    restart = Restart(guest, random, "volatile", "store")
    restart.step("before_power_cut")
    guest.power_cut()
    restart.after("after_power_cut")
