"""The starter packs: each whole by itself, no two in one another's way, and what they say the gateway carries out."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import pytest

from adapters.pdp.bundle import Bundle, load_bundle
from adapters.pdp.checks import examine
from adapters.pdp.cost import unbounded
from adapters.pdp.policytests import run_tests
from adapters.pdp.regorus import RegorusPdp
from gateway.approvals.wording import expires_s_in, stages_in, title_of
from gateway.authz.answer import judge
from gateway.authz.obligations import Supported
from gateway.tickets import Stage
from gateway.types import EMPTY, Decision, Deny, NeedsApproval, Permit, Ruling
from tests.authz.makers import call_of

POLICIES = Path(__file__).parents[2] / "policies"
LIBRARY = POLICIES / "lib"
PACKS = sorted((POLICIES / "packs").iterdir())
NAMES: Final = {
    "approval_for_destructive",
    "budget_and_rate",
    "egress_allow_list",
    "information_flow",
    "least_privilege",
    "memory_guard",
    "read_only",
    "secrets_and_personal_data",
}
OPEN: Final = 'package rules.team\n\ndefault allow := false\n\nallow if input.subject.id != ""\n'
ON_PAGE: Final = ("## What it does", "## Data", "## Together", "## Limits")


def name_of(pack: Path) -> str:
    return pack.name


def together(directory: Path, packs: Sequence[Path], *, team: str = OPEN) -> Bundle:
    """As the packs' pages say: what is in each pack's directory, side by side, beside rules of one's own."""
    for pack in packs:
        shutil.copytree(pack / pack.name, directory / pack.name)
    (directory / "team.rego").write_text(team)
    return load_bundle([LIBRARY, directory])


def faults_of(bundle: Bundle) -> list[str]:
    return [str(fault) for fault in (*examine(bundle).faults, *run_tests(bundle).faults)]


def test_every_pack_is_there_with_a_page() -> None:
    assert {pack.name for pack in PACKS} == NAMES
    for pack in PACKS:
        page = (pack / "README.md").read_text()
        assert [heading for heading in ON_PAGE if heading not in page] == [], pack.name
        assert sorted(path.name for path in pack.iterdir()) == ["README.md", pack.name]


@pytest.mark.parametrize("pack", PACKS, ids=name_of)
def test_tests_of_a_pack_reach_every_line_of_it(pack: Path) -> None:
    report = run_tests(load_bundle([LIBRARY, pack]), coverage=True)

    assert [str(fault) for fault in report.faults] == []
    assert {file: lines for file, lines in report.uncovered.items() if file.startswith(pack.name)} == {}


@pytest.mark.parametrize("pack", PACKS, ids=name_of)
def test_a_pack_can_be_activated_alone(pack: Path) -> None:
    assert faults_of(load_bundle([LIBRARY, pack])) == []


@pytest.mark.parametrize("pack", PACKS, ids=name_of)
def test_a_pack_can_be_activated_beside_the_starter(pack: Path, tmp_path: Path) -> None:
    starter = (POLICIES / "starter" / "starter.rego").read_text()
    shutil.copytree(POLICIES / "starter" / "grants", tmp_path / "grants")

    assert faults_of(together(tmp_path, [pack], team=starter)) == []
    assert examine(load_bundle([LIBRARY, POLICIES / "starter", pack])).faults == ()


def test_all_packs_can_be_activated_together_with_rules_of_ones_own(tmp_path: Path) -> None:
    assert faults_of(together(tmp_path, PACKS)) == []


def test_all_packs_can_be_activated_together_with_the_starter_and_in_the_gateways_own_process(tmp_path: Path) -> None:
    starter = (POLICIES / "starter" / "starter.rego").read_text()
    shutil.copytree(POLICIES / "starter" / "grants", tmp_path / "grants")
    bundle = together(tmp_path, PACKS, team=starter)

    examined = examine(bundle)

    assert faults_of(bundle) == []
    assert examined.program is not None
    assert list(unbounded(examined.program, bundle)) == []


def use(
    upstream: str, name: str, labels: Sequence[str] = (), arguments: object = EMPTY, **more: object
) -> dict[str, object]:
    """A call of one tool, by somebody known, in a session that has read nothing."""
    facts = {"upstream": upstream, "name": name, "arguments": arguments, "truncated": False, "hints": {}}
    context: dict[str, object] = {"session": {"id": "s", "calls": 0, "labels": []}, "findings": []}
    return {
        "phase": "request",
        "subject": {"type": "user", "id": "user:ana", "properties": {"roles": ["analyst"]}},
        "action": {"name": "mcp.tools.call", "properties": {"protocol": "mcp"}},
        "resource": {
            "type": "tool",
            "id": f"{upstream}/{name}",
            "properties": {**facts, "catalog": {"labels": list(labels), "risk": "low"}},
        },
        "context": {**context, **more},
    }


def after(*labels: str) -> Mapping[str, object]:
    return {"session": {"id": "s", "calls": 3, "labels": list(labels)}}


async def decided(bundle: Bundle, question: Mapping[str, object]) -> Decision:
    """What the gateway reads in the answer."""
    answer = await RegorusPdp(bundle).evaluate("decision", question)
    return judge(answer.value, call_digest="", ruling=Ruling("d1"))


def pack(name: str) -> Path:
    return POLICIES / "packs" / name


@pytest.mark.parametrize("path", PACKS, ids=name_of)
async def test_what_a_pack_asks_for_the_gateway_can_carry_out(path: Path, tmp_path: Path) -> None:
    bundle = together(tmp_path, [path])
    question = use("warehouse", "query", arguments={"database": "sales"})

    decision = await decided(bundle, question)

    assert isinstance(decision, Permit)
    assert all(isinstance(item, Supported) for item in decision.obligations)


async def test_stages_of_the_destructive_pack_are_those_that_the_gateway_asks(tmp_path: Path) -> None:
    bundle = together(tmp_path, [pack("approval_for_destructive")])

    one = await decided(bundle, use("files", "delete_all"))
    staged = await decided(bundle, use("production", "delete_all"))

    assert isinstance(one, NeedsApproval)
    assert stages_in(one.request) == (Stage("role:approver", 1),)
    assert expires_s_in(one.request) == 3600
    assert title_of(one.request, call_of()) == "may destroy something: files/delete_all"
    assert isinstance(staged, NeedsApproval)
    assert stages_in(staged.request) == (Stage("role:approver", 1), Stage("group:security", 2))
    assert expires_s_in(staged.request) == 1800


async def test_people_of_two_packs_are_asked_one_after_the_other(tmp_path: Path) -> None:
    bundle = together(tmp_path, [pack("approval_for_destructive"), pack("information_flow")])

    decision = await decided(bundle, use("mail", "purge_all", ["external"], **after("pii", "untrusted")))

    assert isinstance(decision, NeedsApproval)
    assert {stage.approvers for stage in stages_in(decision.request)} == {"role:approver", "role:security"}
    assert "pii, untrusted" in title_of(decision.request, call_of())


async def test_what_people_agreed_to_is_permitted_and_anything_read_since_is_asked_again(tmp_path: Path) -> None:
    bundle = together(tmp_path, [pack("information_flow")])
    sending = use("mail", "send", ["external"], **after("pii", "untrusted"))
    held = await decided(bundle, sending)
    assert isinstance(held, NeedsApproval)
    approval = {"approval": {"id": "a", "approvers": ["user:bo"], "covers": [held.request]}}

    agreed = await decided(bundle, use("mail", "send", ["external"], **after("pii", "untrusted"), **approval))
    since = await decided(bundle, use("mail", "send", ["external"], **after("pii", "secret", "untrusted"), **approval))

    assert isinstance(agreed, Permit)
    assert isinstance(since, NeedsApproval)


async def test_result_of_a_call_that_people_agreed_to_is_not_held(tmp_path: Path) -> None:
    bundle = together(tmp_path, [pack(name) for name in sorted(NAMES - {"read_only", "least_privilege"})])
    result = use("mail", "purge_all", ["external"], **after("pii", "untrusted"))

    assert isinstance(await decided(bundle, result), NeedsApproval)
    assert isinstance(await decided(bundle, {**result, "phase": "response"}), Permit)


@pytest.mark.parametrize("read", [(), ("pii",), ("untrusted",), ("pii", "private"), ("untrusted", "web")])
async def test_benign_sessions_send_as_before(tmp_path: Path, read: tuple[str, ...]) -> None:
    bundle = together(tmp_path, [pack("information_flow")])

    assert isinstance(await decided(bundle, use("mail", "send", ["external"], **after(*read))), Permit)


async def test_labels_of_what_was_read_are_put_on_the_result(tmp_path: Path) -> None:
    bundle = together(tmp_path, [pack("information_flow")])

    decision = await decided(bundle, use("files", "read", ["web", "pii", "other"]))

    assert isinstance(decision, Permit)
    assert set(decision.labels) == {"pii", "web"}


async def test_a_pack_that_restricts_allows_nothing_alone() -> None:
    for path in PACKS:
        decision = await decided(load_bundle([LIBRARY, path]), use("time", "now"))
        assert isinstance(decision, Deny), path.name
