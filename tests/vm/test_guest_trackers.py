# SPDX-License-Identifier: GPL-2.0-or-later
"""Trackers of real kernels, in a guest: what they say against a byte compare of what is there; guest/trackers.py has the tests.

LVM's snapshots and those made by hand, of odd sizes, full, resized, recreated, in any order; thin volumes; dm-era.
"""
DM_SNAPSHOT = """lvm_snapshots h10_lvm_any_order h14_lvm_doubts h27_lvm_full_snapshot h12_raw_odd_sizes h09_raw_resized h11_raw_gap
    raw_kinds_that_do_not_serve""".split()
DM_THIN = "h12_lvm_thin h14_lvm_thin_doubts lvm_thin_release".split()
DM_ERA = "h12_era h14_era_doubts".split()
TIMEOUT_S = 1500


def run(boot, random, tests):
    said = boot(disks=["256M", "256M"]).run(["trackers.py", random.randrange(1 << 30), *tests], timeout_s=TIMEOUT_S).out
    print(said)
    assert f"PASSED {' '.join(tests)}" in said


def test_dm_snapshot(boot, random):
    run(boot, random, DM_SNAPSHOT)


def test_dm_thin_and_dm_era(boot, random):
    run(boot, random, [*DM_THIN, *DM_ERA])
