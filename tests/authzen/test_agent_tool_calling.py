"""A policy that was written for OPA's "Agent Tool Calling" input decides here, unchanged, with the same answers."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any, Final

import anyio
import pytest

from adapters.pdp.activation import Engine, EngineSpec, build_engine
from adapters.pdp.bundle import load_bundle
from tests.authzen.world import LIBRARY
from tests.pdp.opaserver import HOW_TO, opa_program

PACK: Final = LIBRARY.parents[1] / "compat" / "agent_tool_calling"
CLOCK: Final = """package clock.tools

deny contains "not at night" if {
	some call in input.tool_calls
	call.params.hour > 20
}
"""


async def engine_of(*directories: Path) -> Engine:
    """The embedded engine, after its checks and the pack's own tests."""
    bundle = load_bundle([LIBRARY.parent, *directories])
    with anyio.fail_after(60):
        return await build_engine(EngineSpec(isolation="inline"), bundle)


def question(tool: str, **arguments: object) -> dict[str, Any]:
    properties = {"upstream": "web", "name": tool, "arguments": arguments, "truncated": False}
    return {
        "phase": "request",
        "subject": {"type": "user", "id": "user:ana", "properties": {"roles": []}},
        "action": {"name": "mcp.tools.call", "properties": {"method": "tools/call"}},
        "resource": {"type": "tool", "id": f"web/{tool}", "properties": properties},
        "context": {},
    }


async def decided(engine: Engine, tool: str, **arguments: object) -> Any:
    return (await engine.evaluate("decision", question(tool, **arguments))).value


async def test_documented_policy_decides_by_tool_and_params() -> None:
    engine = await engine_of(PACK)

    allowed = await decided(engine, "WebSearch", query="open policy agent latest release", num_results=5)
    by_name = await decided(engine, "Bash", command="ls")
    by_params = await decided(engine, "WebSearch", num_results=50)
    engine.close()

    assert allowed["decision"] is True
    assert [reason["message"] for reason in by_name["context"]["reasons"]] == ["the Bash tool is not allowed"]
    assert [reason["message"] for reason in by_params["context"]["reasons"]] == ["WebSearch: 50 results are too many"]


async def test_decisions_are_not_reused_for_other_params() -> None:
    engine = await engine_of(PACK)

    answers = [(await decided(engine, "WebSearch", num_results=count))["decision"] for count in (5, 50, 5, 50)]
    engine.close()

    assert answers == [True, False, True, False]


async def test_policy_of_another_package_is_named_in_one_line(tmp_path: Path) -> None:
    adapter = (PACK / "agent_tool_calling.rego").read_text()
    named = adapter.replace("import data.agent_tool_calling as theirs", "import data.clock.tools as theirs")
    assert named != adapter
    (tmp_path / "agent_tool_calling.rego").write_text(named)
    (tmp_path / "clock.rego").write_text(CLOCK)
    (tmp_path / "compat").mkdir()
    (tmp_path / "compat" / "data.json").write_text((PACK / "compat" / "data.json").read_text())
    engine = await engine_of(tmp_path)

    by_day, by_night = await decided(engine, "Lights", hour=12), await decided(engine, "Lights", hour=23)
    engine.close()

    assert by_day["decision"] is True
    assert [reason["message"] for reason in by_night["context"]["reasons"]] == ["not at night"]


@pytest.mark.slow
def test_opa_agrees_with_the_packs_tests() -> None:
    if not opa_program():
        pytest.skip(HOW_TO)

    command = [opa_program(), "test", str(LIBRARY), str(PACK)]
    told = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    assert told.returncode == 0, told.stdout + told.stderr
    assert "PASS" in told.stdout
