# SPDX-License-Identifier: GPL-2.0-or-later
"""Guests for tests: `guest` is one that runs, shared by all tests with its kernel; exit status 77 when none could be had here.

    --kernel=6.1 --kernel=6.12     with which kernels (default: the first)
    -m short                       what ./check runs, in one boot
"""
import importlib.util
import pathlib
import shutil
import sys
import tempfile

import pytest

HERE = pathlib.Path(__file__).resolve().parent
_spec = importlib.util.spec_from_file_location("integration_conftest", HERE.parent / "integration/conftest.py")
_shared = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_shared)
sys.path.insert(0, str(HERE))

import qemu  # noqa: E402
import vm  # noqa: E402
from program import executable  # noqa: E402

folder, program, random = _shared.folder, _shared.program, _shared.random
pytest_report_header = _shared.pytest_report_header

SKIPPED = 77


def pytest_addoption(parser):
    parser.addoption("--kernel", action="append", help="how the version of the guests' kernel begins: 6.1 (default), 6.12")


def pytest_configure(config):
    config.addinivalue_line("markers", "short: one of the few that ./check runs in one guest")


def pytest_generate_tests(metafunc):
    if "kernel" in metafunc.fixturenames:
        metafunc.parametrize("kernel", metafunc.config.getoption("--kernel") or ["6.1"], scope="session")


@pytest.fixture(scope="session")
def image(kernel):
    try:
        return vm.image(kernel)
    except vm.NoGuest as error:
        return pytest.skip(str(error))


class SharedGuest:
    """The guest of all tests with one kernel. One in which a test has failed, or that has died, is not used again."""

    def __init__(self, image):
        self.image, self.guest, self.folder = image, None, None

    def get(self):
        if self.guest and not self.guest.is_running():
            self.drop()
        if not self.guest:
            self.folder = pathlib.Path(tempfile.mkdtemp(prefix="blkmove-vm-"))
            self.guest = vm.Guest(self.image, self.folder / "1", nets=["user"], copy=[executable()])
            self.guest.boot()
        return self.guest

    def drop(self):
        if self.guest:
            self.guest.end()
            shutil.rmtree(self.folder)
        self.guest = None


@pytest.fixture(scope="session")
def shared_guest(image):
    shared = SharedGuest(image)
    yield shared
    shared.drop()


@pytest.fixture
def guest(shared_guest, request):
    """Runs, and has no disks. What a test does to it, it undoes; its kernel has nothing to complain of at the end."""
    try:
        guest = request.node.guest = shared_guest.get()
    except vm.NoGuest as error:
        pytest.skip(str(error))
    clean = False
    try:
        yield guest
        if not request.node.failed:
            guest.remove_disks()
            alarms = [line for line in guest.kernel_says().splitlines() if vm.ALARMS.search(line)]
            assert not alarms, "\n".join(alarms)
            clean = True
    finally:
        if not clean:
            shared_guest.drop()


@pytest.fixture
def boot(image, folder):
    """boot(disks=["64M", ...], ...): a guest of the test's own, by the options of vm.Guest. Its disks are /dev/vda and so on."""
    guests = []

    def boot_one(disks=(), **options):
        number = len(guests)
        files = [qemu.new_file(folder / f"disk{number}-{i}", qemu.size_of(size)) for i, size in enumerate(disks)]
        guests.append(vm.Guest(image, folder / f"guest{number}", copy=[executable()], disks=[qemu.file_disk(path, path.name) for path in files],
                               **options))
        return guests[-1].boot()

    yield boot_one
    for guest in guests:
        guest.end()


@pytest.fixture
def pair(image, folder):
    """Two guests with a link."""
    pair = vm.Pair(image, folder, copy=[executable()])
    try:
        yield pair.boot()
    finally:
        pair.end()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    item.failed = getattr(item, "failed", False) or report.failed
    guest = getattr(item, "guest", None)
    if report.failed and guest:
        report.sections.append(("the end of the guest's console", guest.console()))


def pytest_sessionfinish(session):
    """Meson and ./check count 77 as skipped, not as passed."""
    outcomes = session.config.pluginmanager.get_plugin("terminalreporter").stats
    if outcomes.get("skipped") and not any(outcomes.get(kind) for kind in ("passed", "failed", "error")):
        session.exitstatus = SKIPPED
