"""A change to the configuration or to a policy file is noticed, whichever way it is made."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

import anyio
import pytest

from gateway.config import watch


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "interlock.toml").write_text("[listen]\n")
    (tmp_path / "rules" / "team").mkdir(parents=True)
    (tmp_path / "rules" / "a.rego").write_text("package a\n")
    return tmp_path


def watching(place: Path) -> AsyncGenerator[frozenset[Path]]:
    return watch(place / "interlock.toml", lambda: place / "rules", debounce_ms=20, check_ms=200)


async def test_edited_configuration_is_noticed(place: Path) -> None:
    async with aclosing(watching(place)) as changes:
        (place / "interlock.toml").write_text("[listen]\nport = 1\n")

        with anyio.fail_after(10):
            assert await anext(changes) == {place / "interlock.toml"}


async def test_replaced_configuration_is_noticed(place: Path) -> None:
    async with aclosing(watching(place)) as changes:
        (place / "new").write_text("[listen]\n")
        os.replace(place / "new", place / "interlock.toml")

        with anyio.fail_after(10):
            assert await anext(changes) == {place / "interlock.toml"}


async def test_removed_policy_is_noticed(place: Path) -> None:
    async with aclosing(watching(place)) as changes:
        (place / "rules" / "a.rego").unlink()

        with anyio.fail_after(10):
            assert await anext(changes) == {place / "rules" / "a.rego"}


async def test_policy_in_a_folder_made_while_watching_is_noticed(place: Path) -> None:
    async with aclosing(watching(place)) as changes:
        (place / "rules" / "late").mkdir()
        (place / "rules" / "late" / "b.rego").write_text("package b\n")
        with anyio.fail_after(10):
            first = await anext(changes)
        (place / "rules" / "late" / "b.rego").write_text("package b.changed\n")

        with anyio.fail_after(10):
            second = await anext(changes)

    assert first == second == {place / "rules" / "late" / "b.rego"}


async def test_policies_that_vanish_and_come_back_are_noticed(place: Path) -> None:
    async with aclosing(watching(place)) as changes:
        shutil.rmtree(place / "rules")
        with anyio.fail_after(10):
            assert await anext(changes) == {place / "rules" / "a.rego"}
        (place / "rules").mkdir()
        (place / "rules" / "a.rego").write_text("package a\n")

        with anyio.fail_after(10):
            assert await anext(changes) == {place / "rules" / "a.rego"}


async def test_other_files_are_nobodys_business(place: Path) -> None:
    async with aclosing(watching(place)) as changes:
        (place / "notes.txt").write_text("x")
        (place / "rules" / ".swap").write_text("x")

        with anyio.move_on_after(1) as waiting:
            await anext(changes)

    assert waiting.cancelled_caught


async def test_where_the_policies_are_may_change(place: Path) -> None:
    (place / "other").mkdir()
    where = place / "rules"
    async with aclosing(watch(place / "interlock.toml", lambda: where, debounce_ms=20, check_ms=200)) as changes:
        (place / "interlock.toml").write_text('[policy]\npath = "other"\n')
        with anyio.fail_after(10):
            await anext(changes)
        where = place / "other"
        (place / "other" / "c.rego").write_text("package c\n")

        with anyio.fail_after(10):
            assert place / "other" / "c.rego" in await anext(changes)


async def test_watching_ends_soon_when_it_is_cancelled(place: Path) -> None:
    async def follow() -> None:
        async with aclosing(watch(place / "interlock.toml", lambda: place / "rules")) as changes:
            async for _ in changes:
                pass

    with anyio.fail_after(4):
        async with anyio.create_task_group() as group:
            group.start_soon(follow)
            await anyio.wait_all_tasks_blocked()
            group.cancel_scope.cancel()
