"""Everything that can be configured is documented, and what is documented can be configured."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from gateway.config import loads
from gateway.config.reading import dotted, keys
from gateway.config.tree import Section, Settings, Upstream

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


def test_path_in_a_fault_reads_as_in_the_file() -> None:
    assert dotted(("upstreams", "files", "tools", 0)) == "upstreams.files.tools[0]"
