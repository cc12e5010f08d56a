"""`memory.toml`: what may stand in it, and what is said of what may not."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config.memory import load_memory
from gateway.errors import ConfigError


def test_a_file_that_is_not_there_says_nothing(tmp_path: Path) -> None:
    settings = load_memory(tmp_path / "memory.toml")
    assert (settings.index.kind, settings.embedder.kind, settings.namespaces) == ("exact", "auto", {})


def test_what_is_written_is_read(tmp_path: Path) -> None:
    file = tmp_path / "memory.toml"
    file.write_text('[index]\nkind = "chroma"\n\n[namespaces.support]\nretention_days = 90\nresidency = "eu"\n')
    settings = load_memory(file)
    assert settings.index.kind == "chroma"
    assert settings.namespaces["support"].retention_days == 90
    assert not settings.namespaces["support"].legal_hold


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("[index", "memory.toml"),
        ('[index]\nkind = "faiss"\n', "memory.toml: index.kind"),
        ('[index]\nurl = "http://x"\n', "memory.toml: index"),
        ('[embedder]\nkind = "remote"\n', "memory.toml: embedder"),
        ('[embedder]\nkey = "env:X"\n', "memory.toml: embedder"),
        ("[namespaces.Big]\n", "memory.toml: namespaces.Big"),
        ("[namespaces.a]\nretention_days = -1\n", "memory.toml: namespaces.a.retention_days"),
        ("[other]\n", "memory.toml: other"),
    ],
)
def test_what_may_not_stand_there_is_named(text: str, path: str, tmp_path: Path) -> None:
    file = tmp_path / "memory.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_memory(file)
    assert caught.value.faults[0][0].startswith(path)
