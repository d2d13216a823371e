# SPDX-License-Identifier: GPL-2.0-or-later
"""The fixtures of the integration tests, for tests against other people's programs."""
import importlib.util
import pathlib

import pytest

_path = pathlib.Path(__file__).resolve().parents[1] / "integration/conftest.py"
_spec = importlib.util.spec_from_file_location("integration_conftest", _path)
_shared = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_shared)

from serving import Serving  # noqa: E402

folder, program, servers, random = _shared.folder, _shared.program, _shared.servers, _shared.random
client, loops, mounts = _shared.client, _shared.loops, _shared.mounts


@pytest.fixture
def serve(program, folder, servers):
    all_of_them = []

    def start(*words, **how):
        all_of_them.append(Serving(program, folder, *words, **how))
        return all_of_them[-1]

    yield start
    for serving in all_of_them:
        if serving.running.is_running():
            serving.stop()
