# SPDX-License-Identifier: GPL-2.0-or-later
"""The fixtures of the integration tests, for tests with a guest; and exit status 77 when no test could be made here."""
import importlib.util
import pathlib
import subprocess
import sys

import pytest

HERE = pathlib.Path(__file__).resolve().parent
_spec = importlib.util.spec_from_file_location("integration_conftest", HERE.parent / "integration/conftest.py")
_shared = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_shared)
sys.path.insert(0, str(HERE))

import guest_image  # noqa: E402

folder, program, random = _shared.folder, _shared.program, _shared.random
pytest_report_header = _shared.pytest_report_header

VMRUN = HERE / "vmrun"
NO_GUEST = 126
SKIPPED = 77


@pytest.fixture(scope="session")
def vmrun():
    """The command, with a guest in the cache: what comes takes no longer than it takes."""
    done = subprocess.run([VMRUN, "--build"], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if done.returncode == NO_GUEST:
        pytest.skip(done.stderr.strip().splitlines()[-1])
    assert done.returncode == 0, done.stderr
    return VMRUN


def pytest_sessionfinish(session):
    """Meson and ./check count 77 as skipped, not as passed."""
    outcomes = session.config.pluginmanager.get_plugin("terminalreporter").stats
    if outcomes.get("skipped") and not any(outcomes.get(kind) for kind in ("passed", "failed", "error")):
        session.exitstatus = SKIPPED
