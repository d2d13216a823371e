# SPDX-License-Identifier: GPL-2.0-or-later
"""sync --snapshot with real kernels, in a guest: guest/snapshots.py has the tests.

LVM's volumes, thick and thin, and plain devices, under a mounted file system that is written all the while: what is copied, what is kept, what is
left after an end of any kind; full stores and pools; hooks; frozen file systems.
"""
import pytest

KINDS = "lvm_thick lvm_thin plain crypt".split()
ENDS = "h27_refusals lvm_ends plain_ends h27_lvm_full_store h27_lvm_full_pool hooks freeze".split()
TIMEOUT_S = 1800


@pytest.mark.parametrize("name", [*KINDS, *ENDS])
def test_snapshot(guest, random, name):
    disks = [guest.add_disk(size) for size in ("320M", "64M", "28M")]
    said = guest.run(["snapshots.py", random.randrange(1 << 30), *disks, name], timeout_s=TIMEOUT_S).out
    print(said)
    assert f"PASSED {name}" in said
    if name in ("h27_lvm_full_store", "plain_ends", "freeze"):  # a snapshot that is full is what the kernel complains of
        guest.kernel_says()
