"""Findings from end to end: real detectors, a real policy in the embedded engine, and only where it reads them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from adapters.detectors import all_detectors
from adapters.pdp.activation import EngineSpec, build_engine
from adapters.pdp.bundle import load_bundle
from gateway.app.policy import ActivePolicy
from gateway.authz.authz import Authz
from gateway.authz.detection import Detection
from gateway.errors import PolicyDenied
from gateway.types import Result
from tests.authz.makers import IDENTITY, Clock, authorized, call_of

LIBRARY = Path(__file__).parents[2] / "policies" / "lib"
HEAD = "package rules.t\nimport future.keywords.not\nallow := true\n"
ARGUMENTS = 'deny contains {"code": f.kind, "public": true} if some f in input.context.findings\n'
RESULTS = (
    'deny contains {"code": f.kind, "public": true} if {\n'
    '\tsome f in input.resource.properties.result.findings\n\tf.kind != "personal_data"\n}\n'
    'obligation contains {"type": "redact", "properties": {"detectors": ["personal_data"]}} if {\n'
    '\tinput.phase == "response"\n'
    '\tsome f in input.resource.properties.result.findings\n\tf.kind == "personal_data"\n}\n'
)
TOKEN = "ghp_" + "a1B2" * 9


@asynccontextmanager
async def policy_of(folder: Path, rules: str) -> AsyncIterator[ActivePolicy]:
    (folder / "t.rego").write_text(HEAD + rules)
    engine = await build_engine(EngineSpec("inline", run_tests=False), load_bundle([LIBRARY, folder]))
    policy = ActivePolicy()
    policy.activate(engine)
    yield policy
    engine.close()


def authz_over(policy: ActivePolicy) -> Authz:
    return Authz(
        policy,
        env="test",
        clock_ns=lambda: 1,
        monotonic_ns=Clock(),
        new_id=lambda: "d",
        response_differs=policy.response_differs,
        detection=Detection(all_detectors(), policy.reads_findings),
    )


@pytest.mark.parametrize(
    ("rules", "arguments", "result"),
    [
        ("", False, False),
        ('deny contains "x" if input.context.env == "dev"\n', False, False),
        (ARGUMENTS, True, False),
        (RESULTS, False, True),
        ('deny contains "x" if count(input.context) > 99\n', True, False),
        ('deny contains "x" if input.context.time_ns < 1\n', False, False),
        ('deny contains "x" if time.now_ns() < 1\n', False, False),
        ("deny contains input if input.x\n", True, True),
    ],
)
async def test_what_is_looked_at_follows_from_what_the_policy_reads(
    tmp_path: Path, rules: str, arguments: bool, result: bool
) -> None:
    async with policy_of(tmp_path, rules) as policy:
        assert (policy.reads_findings("arguments"), policy.reads_findings("result")) == (arguments, result)


@pytest.mark.parametrize(
    ("rules", "reads"),
    [
        ("", False),
        ('deny contains "x" if input.context.env == "dev"\n', False),
        ('deny contains "x" if input.context.budget.warns\n', True),
        ('deny contains "x" if count(input.context) > 99\n', True),
    ],
)
async def test_what_was_spent_is_looked_up_where_the_policy_reads_it(tmp_path: Path, rules: str, reads: bool) -> None:
    async with policy_of(tmp_path, rules) as policy:
        assert policy.reads_budget() == reads


async def test_before_there_is_a_policy_it_may_read_everything() -> None:
    assert ActivePolicy().reads_findings("arguments")


async def test_a_secret_in_the_arguments_is_refused_and_a_harmless_call_is_not(tmp_path: Path) -> None:
    async with policy_of(tmp_path, ARGUMENTS) as policy:
        authz = authz_over(policy)

        await authz.decide(call_of({"q": "how do tokens look?"}), IDENTITY)
        with pytest.raises(PolicyDenied, match="secret"):
            await authz.decide(call_of({"q": f"use {TOKEN}"}), IDENTITY)
        with pytest.raises(PolicyDenied, match="unscanned"):
            await authz.decide(call_of({"q": "x " * 140_000}), IDENTITY)


async def test_a_secret_in_a_result_withholds_it_and_personal_data_is_taken_out(tmp_path: Path) -> None:
    async with policy_of(tmp_path, RESULTS) as policy:
        authz = authz_over(policy)
        call = call_of()
        permit = authz.decide(call, IDENTITY)
        allowed = authorized(call, await permit)

        result = await authz.inspect(
            allowed, Result(json.dumps({"content": [{"text": "ask bo@example.org"}]}).encode())
        )
        with pytest.raises(PolicyDenied, match="secret"):
            await authz.inspect(allowed, Result(json.dumps({"content": [{"text": TOKEN}]}).encode()))

    assert json.loads(result.payload) == {"content": [{"text": "ask [redacted]"}]}
