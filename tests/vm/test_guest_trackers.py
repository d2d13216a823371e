# SPDX-License-Identifier: GPL-2.0-or-later
"""Trackers of real kernels, in a guest: what they say against a byte compare of what is there; guest/trackers.py has the tests.

LVM's snapshots and those made by hand, of odd sizes, full, resized, recreated, in any order; one boot for all of them.
"""
import pathlib
import subprocess

HERE = pathlib.Path(__file__).resolve().parent
DM_SNAPSHOT = """lvm_snapshots h10_lvm_any_order h14_lvm_doubts h27_lvm_full_snapshot h12_raw_odd_sizes h09_raw_resized h11_raw_gap
    raw_kinds_that_do_not_serve""".split()
TIMEOUT_S = 1500


def run(vmrun, program, random, tests):
    done = subprocess.run([vmrun, "--smp", "2", "--disk", "256M", "--disk", "256M", "--copy", program.path, "--timeout", str(TIMEOUT_S), "--",
                           HERE / "guest/trackers.py", str(random.randrange(1 << 30)), *tests], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    print(done.stdout)
    assert done.returncode == 0 and f"PASSED {' '.join(tests)}" in done.stdout


def test_dm_snapshot(vmrun, program, random):
    run(vmrun, program, random, DM_SNAPSHOT)
