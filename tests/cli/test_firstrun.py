"""A first run needs no preparation: its configuration, its repository and its keys are made, once."""

from __future__ import annotations

import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from gateway.cli.bootstrap import DEMONSTRATION_IDS, opened, prepare_keys, withdraw_keys
from gateway.cli.firstrun import is_of_first_run, make_repository, sections, write_configuration
from gateway.cli.main import CommandFailed
from gateway.cli.sockets import free_port, is_free
from gateway.config import load, loads
from gateway.identity.keys import secret_hash


def test_written_configuration_is_a_good_one(tmp_path: Path) -> None:
    names = write_configuration(tmp_path / "interlock.toml", boxed=True)

    settings = load(tmp_path / "interlock.toml")
    assert tuple(settings.upstreams) == names
    assert settings.listen.on_loopback
    assert settings.identity.anonymous == ""


@pytest.mark.parametrize("boxed", [True, False])
@pytest.mark.parametrize("has_git", [True, False])
def test_every_variant_of_it_is_a_good_one(tmp_path: Path, has_git: bool, boxed: bool) -> None:
    written = sections(has_git=has_git, boxed=boxed, repository=tmp_path / "repository")

    settings = loads("".join(written.values()), tmp_path)

    commands = [upstream for upstream in settings.upstreams.values() if upstream.command]
    assert {upstream.sandbox for upstream in commands} == {"" if boxed else "none"}
    assert ("sandbox" in settings.upstreams) is boxed

    assert "time" in settings.upstreams
    assert ("git" in settings.upstreams) is has_git
    assert ("vault" in settings.upstreams) is not has_git


def test_configuration_that_is_there_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "interlock.toml").write_text("mine")

    with pytest.raises(CommandFailed, match="cannot be written"):
        write_configuration(tmp_path / "interlock.toml", boxed=True)

    assert (tmp_path / "interlock.toml").read_text() == "mine"


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git: apt-get install git")
def test_repository_has_one_commit_and_is_made_once(tmp_path: Path) -> None:
    make_repository(tmp_path / "data" / "repository")
    make_repository(tmp_path / "data" / "repository")

    log = subprocess.run(
        ["git", "log", "--format=%an %s"],
        cwd=tmp_path / "data" / "repository",
        capture_output=True,
        text=True,
        check=True,
    )
    assert log.stdout == "Interlock Begin\n"


async def test_first_key_is_made_once_and_kept_as_a_hash(tmp_path: Path) -> None:
    settings = loads("", tmp_path)

    first = await prepare_keys(settings, demo=True)
    second = await prepare_keys(settings, demo=True)

    async with opened(settings) as store:
        kept = {key.id: key for key in await store.keys()}
    own = next(key for key in kept.values() if key.id not in DEMONSTRATION_IDS)
    assert second.first == ""
    assert own.secret_sha256 == secret_hash(first.first)
    assert own.roles == ("developer",)
    assert own.expires_s == 0


async def test_keys_of_the_demonstration_are_replaced_expire_and_are_withdrawn(tmp_path: Path) -> None:
    settings = loads("", tmp_path)
    before = await prepare_keys(settings, demo=True)

    after = await prepare_keys(settings, demo=True)
    await withdraw_keys(settings)

    async with opened(settings) as store:
        kept = {key.id: key for key in await store.keys() if key.id in DEMONSTRATION_IDS}
    assert before.developer != after.developer
    assert [key.roles for key in kept.values()] == [("developer",), ("admin",)]
    assert all(key.expires_s and key.revoked_s for key in kept.values())


async def test_without_a_demonstration_no_key_is_made(tmp_path: Path) -> None:
    settings = loads("", tmp_path)

    keys = await prepare_keys(settings, demo=False)

    async with opened(settings) as store:
        assert not await store.keys()
    assert (keys.developer, keys.admin, keys.first) == ("", "", "")
    assert keys.nobody


@pytest.mark.parametrize(
    "text", ['[identity]\nanonymous = "dev"\n', '[identity.issuers.a]\nissuer = "https://a.example"\n']
)
async def test_who_lets_somebody_in_otherwise_is_not_told_to_make_a_key(tmp_path: Path, text: str) -> None:
    keys = await prepare_keys(loads(text, tmp_path), demo=False)

    assert not keys.nobody


def test_configuration_of_a_first_run_is_recognized_and_others_are_not(tmp_path: Path) -> None:
    write_configuration(tmp_path / "interlock.toml", boxed=True)

    assert is_of_first_run(load(tmp_path / "interlock.toml"))
    assert not is_of_first_run(loads('[upstreams.time]\ntype = "mcp"\ncommand = ["other"]\n', tmp_path))


def test_taken_port_is_not_free_and_a_free_one_is() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert not is_free("127.0.0.1", taken.getsockname()[1])

    assert is_free("127.0.0.1", free_port("127.0.0.1"))
