"""Two tenants never see each other's records, by any operation; and a caller sees nothing beyond their reach."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gateway.errors import InterlockError
from gateway.memory.arguments import KINDS
from tests.memory_service.place import Json, World, person, world

SECRET = "the marker xylophone belongs to tenant one"
ONE = person("ana", "team:red", tenant="one")
TWO = person("ana", "team:red", tenant="two")
BO = person("bo", "team:red", tenant="one")


@pytest.fixture
async def w(tmp_path: Path) -> AsyncIterator[World]:
    async with world(tmp_path) as made:
        for scope in ("org", "agent", "team", "session"):
            await made.do(ONE, "remember", direct=True, text=f"{SECRET} {scope}", scope=scope, key=scope)
        yield made


def operations(record: Json) -> dict[str, dict[str, Any]]:
    """Every operation, as somebody would try it who knows the id and the key."""
    known = {"id": record["record"]}
    return {
        "remember": {"text": "x y z", "derived_from": [record["id"]]},
        "recall": {"query": SECRET},
        "revise": {**known, "text": "mine now"},
        "forget": known,
        "list": {},
        "export": {"whole": True},
        "get": known,
        "why": {**known, "whole": True},
        "history": {**known, "whole": True},
        "review": {},
        "approve": known,
        "reject": known,
        "rollback": {"since": "2001-01-01T00:00:00Z", "subject": "user:ana"},
        "erase": {"subject": "user:ana"},
        "import": {"lines": "{}"},
        "holds": {},
        "hold": {"target": record["record"], "reason": "x"},
        "lift": {"target": record["record"]},
    }


@pytest.mark.parametrize("operation", sorted(KINDS))
async def test_no_operation_reaches_into_another_tenant(w: World, operation: str) -> None:
    (record,) = (await w.do(ONE, "recall", direct=True, query=SECRET, scope="org"))["records"]
    tries = operations(record)
    assert tries.keys() == KINDS.keys()
    try:
        answer = str(await w.do(TWO, operation, direct=True, **tries[operation]))
    except InterlockError as error:
        answer = str(error)

    assert "xylophone" not in answer
    after = await w.do(ONE, "recall", direct=True, query=SECRET, scope="org")
    assert [(one["id"], one["text"]) for one in after["records"]] == [(record["id"], f"{SECRET} org")]
    assert await w.do(ONE, "holds", direct=True) == {"holds": []}


async def test_keys_of_another_tenant_are_free(w: World) -> None:
    mine = await w.do(TWO, "remember", direct=True, text="two has its own", scope="org", key="org")
    assert mine["stored"]
    assert (await w.do(TWO, "get", direct=True, namespace="default", key="org"))["text"] == "two has its own"
    assert (await w.do(ONE, "get", direct=True, namespace="default", key="org"))["text"] == f"{SECRET} org"


async def test_a_colleague_sees_what_is_shared_and_nothing_else(w: World) -> None:
    found = await w.recall(BO, SECRET)
    assert sorted(found) == [f"{SECRET} org", f"{SECRET} team"]


async def test_what_policy_does_not_show_is_not_even_ranked(tmp_path: Path) -> None:
    rules = """package rules.team

default allow := false

allow if input.subject.id != ""

deny contains {"code": "no_pii"} if {
	input.action.name == "memory.read"
	"pii" in input.resource.properties.catalog.labels
}
"""
    async with world(tmp_path, rules=rules) as w:
        await w.do(ONE, "remember", direct=True, text=f"{SECRET} with pii", scope="org", labels=["pii"], key="a")
        plain = await w.do(ONE, "remember", direct=True, text=f"{SECRET} without", scope="org")

        assert await w.recall(BO, SECRET, limit=1) == [f"{SECRET} without"]
        assert [one["id"] for one in (await w.do(BO, "list"))["records"]] == [plain["id"]]
        assert (await w.do(BO, "export"))["versions"] == 1
        with pytest.raises(InterlockError, match="does not exist or is not visible"):
            await w.do(BO, "get", namespace="default", key="a")
