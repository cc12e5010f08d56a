"""Secrets are found where the configuration says that they are, and nowhere else."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config import State, is_reference, loads, resolve_secret
from gateway.config.reading import secrets_in
from gateway.config.secrets import looks_secret, resolve_value
from gateway.errors import ConfigError


def test_environment_variable_is_followed() -> None:
    assert resolve_secret("env:TOKEN", {"TOKEN": "s3"}) == "s3"


def test_scheme_in_front_stays_in_front() -> None:
    assert resolve_secret("Bearer env:TOKEN", {"TOKEN": "s3"}) == "Bearer s3"


def test_file_is_followed_without_its_line_end(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("s3\n")

    assert resolve_secret(f"file:{tmp_path / 'token'}") == "s3"


def test_literal_is_itself_where_one_may_stand() -> None:
    assert resolve_value("info", {}) == "info"
    assert resolve_value("env:LEVEL", {"LEVEL": "debug"}) == "debug"


@pytest.mark.parametrize("environ", [{}, {"TOKEN": ""}], ids=["missing", "empty"])
def test_variable_without_a_value_is_an_error(environ: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="TOKEN is not set or is empty"):
        resolve_secret("env:TOKEN", environ)


def test_missing_file_is_an_error_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nothing: cannot be read"):
        resolve_secret(f"file:{tmp_path / 'nothing'}")


@pytest.mark.parametrize("content", [b"", b"\n", b"x" * 70_000], ids=["empty", "line end", "huge"])
def test_file_without_one_secret_is_an_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "token").write_bytes(content)

    with pytest.raises(ConfigError, match="must hold one secret"):
        resolve_secret(f"file:{tmp_path / 'token'}")


def test_binary_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "token").write_bytes(b"\xff\xfe")

    with pytest.raises(ConfigError, match="is not UTF-8 text"):
        resolve_secret(f"file:{tmp_path / 'token'}")


def test_literal_where_a_reference_must_be_is_refused_without_showing_it() -> None:
    with pytest.raises(ConfigError) as caught:
        resolve_secret("hunter2")

    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "hunter2", "env:", "env:A B", "file:", "Bearer", "env:1A", "Be arer env:A"])
def test_what_is_no_reference_is_not_taken_for_one(text: str) -> None:
    assert not is_reference(text)


@pytest.mark.parametrize(
    "name", ["Authorization", "X-Api-Key", "GITHUB_TOKEN", "DB_PASSWORD", "Cookie", "AWS_SECRET_ACCESS_KEY"]
)
def test_names_of_secrets_are_known(name: str) -> None:
    assert looks_secret(name)


@pytest.mark.parametrize("name", ["HOME", "LOG_LEVEL", "X-Team", "KEYBOARD", "Accept"])
def test_names_of_other_things_are_not_taken_for_secrets(name: str) -> None:
    assert not looks_secret(name)


def test_every_reference_is_listed_with_its_key() -> None:
    text = (Path(__file__).parent / "golden/everything.in.toml").read_text()

    found = secrets_in(loads(text, Path("/base")))

    assert found["policy.token"] == "file:/base/opa.token"
    assert found["upstreams.github.headers.Authorization"] == "Bearer env:GITHUB_TOKEN"
    assert "upstreams.github.headers.X-Team" not in found


def test_password_reaches_the_database_address_and_only_that() -> None:
    state = State(url="postgresql+asyncpg://gate@db:5432/x?ssl=require", password="env:PW")

    address = state.address({"PW": "p@ss/word"})

    assert address == "postgresql+asyncpg://gate:p%40ss%2Fword@db:5432/x?ssl=require"
    assert "p@ss" not in repr(state)


def test_address_without_a_password_is_the_url() -> None:
    assert State().address({}) == ""


def test_password_without_a_user_is_a_fault() -> None:
    with pytest.raises(ConfigError, match=r"state\.password: needs a url with a user"):
        loads('[state]\npassword = "env:PW"\n', Path("/base"))
