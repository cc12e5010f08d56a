"""One gateway for all protocol tests of this folder: what they check does not depend on what others did before."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conformance.talking import World, world


@pytest.fixture(scope="session")
def open_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A gateway where everybody may do everything."""
    with world(tmp_path_factory.mktemp("world")) as running:
        yield running
