# SPDX-License-Identifier: GPL-2.0-or-later
"""The fixtures of the integration tests, for tests against other people's programs."""
import importlib.util
import pathlib

_path = pathlib.Path(__file__).resolve().parents[1] / "integration/conftest.py"
_spec = importlib.util.spec_from_file_location("integration_conftest", _path)
_shared = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_shared)

folder, program, servers, random = _shared.folder, _shared.program, _shared.servers, _shared.random
client, loops, mounts = _shared.client, _shared.loops, _shared.mounts
