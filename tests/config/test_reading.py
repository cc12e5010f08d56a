"""The configuration's translation to settings, by golden files, with what cannot be written as one beside it."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from gateway.config import Settings, load, loads, reload, starter_policies
from gateway.config.reading import keys
from gateway.errors import ConfigError

GOLDEN = Path(__file__).parent / "golden"
BASE = Path("/base")
MAX_KEYS = 60


def rendered(settings: Settings) -> str:
    text = json.dumps(settings.model_dump(mode="json"), indent=1) + "\n"
    return text.replace(str(starter_policies()), "STARTER")


@pytest.mark.parametrize(
    "source", sorted(GOLDEN.glob("*.in.toml")), ids=lambda path: path.name.removesuffix(".in.toml")
)
def test_configuration_reads_as_the_golden_file_says(source: Path) -> None:
    name = source.name.removesuffix(".in.toml")
    expected_settings, expected_faults = GOLDEN / f"{name}.out.json", GOLDEN / f"{name}.err.txt"

    try:
        got, expected = rendered(loads(source.read_text(), BASE)), expected_settings
    except ConfigError as error:
        got, expected = f"{error}\n", expected_faults

    assert got == expected.read_text()


def test_there_are_at_most_sixty_keys_to_learn() -> None:
    names = list(keys())

    learned = {name.replace("agents.NAME.", "upstreams.NAME.") for name in names}  # what both have means the same
    assert len(names) == len(set(names))
    assert len(learned) <= MAX_KEYS


def test_no_fault_repeats_a_secret() -> None:
    with pytest.raises(ConfigError) as caught:
        loads((GOLDEN / "secrets.in.toml").read_text(), BASE)

    assert len(caught.value.faults) == 7
    assert "hunter2" not in str(caught.value)


def test_settings_do_not_change() -> None:
    settings = loads("", BASE)

    with pytest.raises(ValidationError):
        settings.listen.port = 1


def test_missing_file_says_what_writes_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file or directory; `interlock up` writes one"):
        load(tmp_path / "interlock.toml")


def test_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "interlock.toml"
    path.write_bytes(b"\xff\xfe")

    with pytest.raises(ConfigError, match="is not UTF-8 text"):
        load(path)


def test_file_of_absurd_size_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "interlock.toml"
    path.write_text("#" * (1024 * 1024 + 1))

    with pytest.raises(ConfigError, match="larger than"):
        load(path)


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    path = tmp_path / "interlock.toml"
    path.write_text('[policy]\npath = "rules"\n[state]\ndir = "data"\n')

    settings = load(path)

    assert (settings.policy.path, settings.state.dir) == (tmp_path / "rules", tmp_path / "data")


def test_audience_is_the_address_of_the_gateway_unless_an_issuer_has_its_own() -> None:
    settings = loads(
        '[listen]\npublic_url = "https://g.example/"\n'
        '[identity.issuers.a]\nissuer = "https://a.example"\n'
        '[identity.issuers.b]\nissuer = "https://b.example"\naudience = "mine"\n',
        BASE,
    )

    audiences = [settings.audience(issuer) for issuer in settings.identity.issuers.values()]

    assert audiences == ["https://g.example", "mine"]


@pytest.mark.parametrize(
    ("host", "url"),
    [("127.0.0.1", "http://127.0.0.1:8080"), ("::1", "http://[::1]:8080"), ("localhost", "http://localhost:8080")],
)
def test_loopback_addresses_allow_an_anonymous_subject(host: str, url: str) -> None:
    settings = loads(f'[listen]\nhost = "{host}"\n[identity]\nanonymous = "dev"\n', BASE)

    assert settings.listen.on_loopback
    assert settings.listen.url == url


def test_reading_imports_no_vendor_sdk() -> None:
    script = (
        "import sys, gateway.config\n"
        "vendors = {'mcp', 'sqlalchemy', 'opentelemetry', 'authlib', 'joserfc', 'regorus', 'opa_client', 'a2a',"
        " 'uvicorn', 'starlette', 'cryptography', 'alembic', 'adapters'}\n"
        "print(sorted(vendors & {name.partition('.')[0] for name in sys.modules}))"
    )

    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)

    assert done.stdout.strip() == "[]"


@given(st.text(max_size=400))
def test_no_text_does_worse_than_a_configuration_error(text: str) -> None:
    with suppress(ConfigError):
        assert loads(text, BASE)


TOML_VALUES = st.recursive(
    st.booleans() | st.integers(-(2**40), 2**40) | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=4,
)


@given(st.dictionaries(st.sampled_from([*keys(), "listen.x", "y", "upstreams.a.b.c"]), TOML_VALUES, max_size=6))
def test_no_values_do_worse_than_a_configuration_error(values: dict[str, object]) -> None:
    text = "\n".join(f"{key} = {json.dumps(value)}" for key, value in values.items())

    with suppress(ConfigError):
        assert loads(text, BASE)


def test_command_line_wins_over_the_file_and_still_does_after_reading_it_again(tmp_path: Path) -> None:
    path = tmp_path / "interlock.toml"
    path.write_text("[listen]\nport = 1\n")
    settings = load(path, {"listen": {"port": 2}})
    path.write_text("[listen]\nport = 3\nmax_body_bytes = 2048\n")

    again = reload(settings)

    assert (settings.listen.port, again.listen.port, again.listen.max_body_bytes) == (2, 2, 2048)


def test_what_the_command_line_says_is_checked_too(tmp_path: Path) -> None:
    path = tmp_path / "interlock.toml"
    path.write_text('[identity]\nanonymous = "dev"\n')

    with pytest.raises(ConfigError, match=r"identity\.anonymous: is for loopback only"):
        load(path, {"listen": {"host": "192.0.2.1"}})


def test_settings_that_came_from_no_file_cannot_be_read_again() -> None:
    with pytest.raises(ConfigError, match="not read from a file"):
        reload(loads("", BASE))
