"""Everything that can be configured is documented, and what is documented can be configured."""

from __future__ import annotations

import argparse
import re
import shlex
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

from gateway.config import loads
from gateway.config.fields import Section
from gateway.config.reading import dotted, keys
from gateway.config.tree import Settings, Upstream

ROOT = Path(__file__).parents[2]
ROW = re.compile(r"^\| `([A-Za-z_.]+)` \| (.+?) \| (.+) \|$", re.MULTILINE)


def documented() -> dict[str, str]:
    return {key: default.strip("`") for key, default, _ in ROW.findall((ROOT / "gateway/config.md").read_text())}


def test_every_key_is_documented_and_nothing_else_is() -> None:
    assert sorted(documented()) == sorted(keys())


def test_documented_defaults_are_the_real_ones() -> None:
    defaults = documented()
    written = {key: text for key, text in defaults.items() if text != "required"}
    lines = [f"{key} = {text}" for key, text in written.items() if "NAME" not in key]

    assert loads("\n".join(lines), Path("/base")) == loads("", Path("/base"))
    assert {key for key, text in defaults.items() if text == "required"} == {
        "agents.NAME.card_url",
        "identity.issuers.NAME.issuer",
        "upstreams.NAME.type",
    }


def test_documented_defaults_of_an_upstream_are_the_real_ones() -> None:
    prefix = "upstreams.NAME."
    written = {key.removeprefix(prefix): text for key, text in documented().items() if key.startswith(prefix)}
    plain = {key: tomllib.loads(f"v = {text}")["v"] for key, text in written.items() if text != "required"}

    assert same(plain, Upstream)


def same(plain: dict[str, object], section: type[Section]) -> bool:
    defaults = {name: field.default for name, field in section.model_fields.items() if not field.is_required()}
    listed = {name: list(value) if isinstance(value, tuple) else value for name, value in defaults.items()}
    return {**plain, "cwd": Path(str(plain["cwd"]))} == listed


def test_configuration_in_the_readme_is_one_that_works() -> None:
    examples = re.findall(r"```toml\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)

    settings = [loads(example, Path("/base")) for example in examples]

    assert settings
    assert all(isinstance(item, Settings) for item in settings)


def understood(words: list[str]) -> argparse.Namespace:
    """What the command line makes of these words, without doing it."""
    root = argparse.ArgumentParser()
    import_module(f"gateway.cli.{words[0]}").add_parser(root.add_subparsers())
    return root.parse_args(words)


@pytest.mark.parametrize("page", ["README.md", "gateway/a2a/README.md"])
def test_commands_in_the_documentation_are_ones_that_can_be_given(page: str) -> None:
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", (ROOT / page).read_text(), re.DOTALL | re.MULTILINE)
    commands = [
        re.split(r"  #| > ", line)[0] for kind, block in blocks if kind in {"", "sh"} for line in block.splitlines()
    ]
    given = [shlex.split(line)[1:] for line in commands if line.startswith("interlock ")]

    assert len([understood(words) for words in given]) >= 4


def test_commands_in_the_table_of_the_readme_exist() -> None:
    rows = re.findall(r"^\| `interlock ([a-z]+)(?: ([a-z\\|]+))?`", (ROOT / "README.md").read_text(), re.MULTILINE)

    for command, verbs in rows:
        for verb in verbs.split("\\|") if verbs else [""]:
            with pytest.raises(SystemExit) as ended:
                understood([command, *([verb] if verb else []), "--help"])
            assert ended.value.code == 0
    assert ("agents", "list\\|show\\|add\\|accept") in rows


def test_example_of_a_client_is_python() -> None:
    (example,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)

    compile(example, "README.md", "exec")


def test_path_in_a_fault_reads_as_in_the_file() -> None:
    assert dotted(("upstreams", "files", "tools", 0)) == "upstreams.files.tools[0]"
