"""`interlock keys`: a key is shown once, works until it is revoked, and mistakes get an answer."""

from __future__ import annotations

import json
import time
from pathlib import Path

import anyio
import pytest

from adapters.stores.sql import open_store
from gateway.cli import main
from gateway.errors import Unauthenticated
from gateway.identity.keyring import KeyRing
from gateway.types import Identity


def keys(data: Path, *words: str) -> int:
    return main(["keys", *words, "--data", str(data)])


def identity_of(data: Path, text: str) -> Identity:
    async def identify() -> Identity:
        store = await open_store("", data_dir=data, clock_s=time.time)
        try:
            ring = KeyRing(store)
            await ring.refresh()
            return ring.identify(text)
        finally:
            await store.aclose()

    return anyio.run(identify)


def test_created_key_works_and_is_shown_only_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "--subject",
        "user:ana",
        "--role",
        "developer",
        "--role",
        "ops",
        "--scope",
        "mcp:tools",
        "--tenant",
        "acme",
    ]

    assert keys(tmp_path, "create", *words, "--expires", "30d") == 0

    text = capsys.readouterr().out.splitlines()[0]
    identity = identity_of(tmp_path, text)
    assert (identity.subject.type, identity.subject.id) == ("user", "user:ana")
    assert (identity.roles, identity.scopes, identity.tenant) == (("developer", "ops"), ("mcp:tools",), "acme")
    assert keys(tmp_path, "list") == 0
    listed = capsys.readouterr().out
    assert identity.credential_id in listed
    assert "roles=developer,ops  scopes=mcp:tools  tenant=acme" in listed
    assert text.split("_")[2] not in listed
    assert not any(text.split("_")[2].encode() in file.read_bytes() for file in tmp_path.iterdir())


def test_output_kept_in_a_file_is_a_key_that_other_commands_take(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert keys(tmp_path, "create", "--subject", "user:bo") == 0

    told = capsys.readouterr()
    (tmp_path / "bo.key").write_text(told.out)
    assert "it is not shown again" in told.err
    assert main(["budgets", "list", "--key-file", str(tmp_path / "bo.key"), "--url", "http://127.0.0.1:9"]) == 2
    assert "no gateway answers at http://127.0.0.1:9" in capsys.readouterr().err


def test_revoked_key_stops_working(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys(tmp_path, "create", "--subject", "agent:bot", "--json")
    made = json.loads(capsys.readouterr().out)
    assert made["expires_s"] == 0

    assert keys(tmp_path, "revoke", made["id"]) == 0

    with pytest.raises(Unauthenticated, match="revoked"):
        identity_of(tmp_path, made["key"])
    assert keys(tmp_path, "revoke", made["id"], "--json") == 1
    assert "no valid key has the id" in capsys.readouterr().err


def test_lists_can_be_read_by_programs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys(tmp_path, "create", "--subject", "user:ana", "--expires", "2h", "--json")
    made = json.loads(capsys.readouterr().out)
    keys(tmp_path, "create", "--subject", "user:bo", "--json")
    gone = json.loads(capsys.readouterr().out)
    assert keys(tmp_path, "revoke", gone["id"], "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"revoked": gone["id"]}

    assert keys(tmp_path, "list", "--json") == 0

    rows = {row["id"]: row for row in json.loads(capsys.readouterr().out)["keys"]}
    assert {row["subject"]: row["state"] for row in rows.values()} == {"user:ana": "valid", "user:bo": "revoked"}
    assert rows[made["id"]]["expires_s"] - rows[made["id"]]["created_s"] == 7_200
    assert "key" not in rows[made["id"]]


def test_empty_list_says_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert keys(tmp_path, "list") == 0

    assert "interlock keys create" in capsys.readouterr().out


def test_state_may_be_elsewhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert keys(tmp_path / "unused", "create", "--subject", "user:ana", "--url", f"sqlite:///{tmp_path}/own.db") == 0

    assert (tmp_path / "own.db").is_file()
    assert not (tmp_path / "unused").exists()


@pytest.mark.parametrize(
    "words",
    [
        ["create", "--subject", "ana"],
        ["create", "--subject", "root:ana"],
        ["create", "--subject", "user:"],
        ["create", "--subject", "user:a\x1b[2Jb"],
        ["create", "--subject", "user:ana", "--expires", "30"],
        ["create", "--subject", "user:ana", "--expires", "0d"],
        ["create"],
        ["revoke"],
        [],
    ],
)
def test_mistakes_make_nothing(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        keys(tmp_path / "data", *words)

    assert caught.value.code == 2
    assert not (tmp_path / "data").exists()


def test_database_that_cannot_be_opened_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "data").write_text("in the way")

    assert keys(tmp_path / "data", "list") == 2

    assert capsys.readouterr().err.count("\n") == 1
