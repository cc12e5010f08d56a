"""What every test has: asyncio's own loop, unless its folder asks for another, and the same random cases in CI."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

# In CI a failure must be the change's, so the cases are always the same there; everywhere else they are new each time.
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")


@pytest.fixture(scope="session")
def anyio_backend() -> tuple[str, dict[str, bool]]:
    return "asyncio", {"use_uvloop": False}
