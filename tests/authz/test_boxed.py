"""Obligations about boxes are refused where no box is, and found where one is."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from gateway.authz.boxed import IN_A_BOX, egress_of, sandbox_of
from gateway.authz.obligations import obligations_in
from gateway.boxes import Level
from gateway.errors import PolicyDenied
from gateway.types import Call, FrozenDict, Obligation, Permit, Resource, Result
from tests.authz.makers import IDENTITY, authorized, authz_of, call_of, obligation, permit_with

SANDBOX = obligation("sandbox", level="gvisor")
HOSTS = obligation("egress", hosts=["api.example.org"])
RANGES = obligation("egress", ranges=["10.0.0.0/8"])
CAP = obligation("egress", max_mb=1)


def call_to(action: str) -> Call:
    resource = Resource("sandbox", "python", "sandbox", "python")
    return call_of(action=action, resource=resource, params={"arguments": {"code": "1"}})


async def decided(action: str, *obligations: Mapping[str, object]) -> Permit:
    call = call_to(action)
    authz = authz_of({"decision": permit_with(*obligations)})
    permit = await authz.decide(call, IDENTITY)
    carried, kept = authz.carry_out(call, permit)
    assert (carried, kept) == (call, permit)
    return kept


@pytest.mark.parametrize("action", sorted(IN_A_BOX))
async def test_what_runs_in_a_box_can_have_both(action: str) -> None:
    permit = await decided(action, SANDBOX, obligation("sandbox", limits={"wall_s": 3}), HOSTS, CAP)

    sandbox, egress = sandbox_of(permit), egress_of(permit)

    assert sandbox is not None
    assert (sandbox.level, sandbox.limits) == (Level.GVISOR, {"wall_s": 3})
    assert egress is not None
    assert egress.grants("api.example.org", 443)
    assert egress.max_bytes == 1 << 20


@pytest.mark.parametrize(
    "action",
    [
        *("mcp.tools.list", "mcp.initialize", "mcp.discover", "mcp.subscriptions.listen", "mcp.elicitation.create"),
        *("mcp.sampling.create", "mcp.roots.list", "model.call", "memory.write", "a2a.message.send", "something.new"),
    ],
)
@pytest.mark.parametrize("item", [SANDBOX, HOSTS, RANGES, CAP], ids=["sandbox", "hosts", "ranges", "cap"])
async def test_what_never_runs_in_a_box_can_have_neither(action: str, item: Mapping[str, object]) -> None:
    with pytest.raises(PolicyDenied, match="name the action in the rule") as caught:
        await decided(action, obligation("audit", durable=True), item)

    assert [reason.code for reason in caught.value.reasons] == ["obligation_unsupported"]


@pytest.mark.parametrize("items", [[RANGES], [CAP], [RANGES, CAP]])
async def test_a_connection_can_have_ranges_and_caps(items: list[Mapping[str, object]]) -> None:
    permit = await decided("egress.connect", *items)

    egress = egress_of(permit)

    assert egress is not None
    assert bool(egress.ranges) is (RANGES in items)
    assert sandbox_of(permit) is None


@pytest.mark.parametrize(
    ("items", "why"),
    [
        ([HOSTS], "has its host already"),
        ([obligation("egress", hosts=[])], "has its host already"),
        ([RANGES, HOSTS], "has its host already"),
        ([SANDBOX], "not carried out in a box"),
    ],
)
async def test_a_connection_has_its_host_and_its_box_already(items: list[Mapping[str, object]], why: str) -> None:
    with pytest.raises(PolicyDenied, match=why):
        await decided("egress.connect", *items)


async def test_ranges_alone_grant_a_call_nothing_and_are_refused() -> None:
    with pytest.raises(PolicyDenied, match="ranges without hosts"):
        await decided("mcp.tools.call", RANGES)


async def test_a_refused_obligation_uses_up_no_rate() -> None:
    answers = [
        permit_with(obligation("rate", limit=1, window_s=60), SANDBOX),
        permit_with(obligation("rate", limit=1, window_s=60)),
    ]
    authz = authz_of({"decision": lambda question: answers.pop(0)})
    call = call_to("mcp.tools.list")

    with pytest.raises(PolicyDenied):
        await authz.decide(call, IDENTITY)

    assert (await authz.decide(call, IDENTITY)).obligations


@pytest.mark.parametrize(
    ("before", "after", "withheld"),
    [
        ([SANDBOX], [SANDBOX], False),
        ([SANDBOX], [], False),
        ([SANDBOX], [obligation("sandbox", level="process")], False),
        ([SANDBOX], [obligation("sandbox", level="vm")], True),
        ([SANDBOX], [SANDBOX, obligation("sandbox", limits={"wall_s": 3})], True),
        ([], [SANDBOX], True),
        ([HOSTS], [HOSTS, CAP], True),
        ([HOSTS, CAP], [HOSTS], False),
        ([HOSTS], [obligation("egress", hosts=["*.example.org"])], False),
        ([obligation("egress", hosts=["*.example.org"])], [HOSTS], True),
        ([], [CAP], True),
    ],
)
async def test_what_is_asked_of_a_box_only_when_the_call_is_over_withholds_the_result(
    before: list[Mapping[str, object]], after: list[Mapping[str, object]], withheld: bool
) -> None:
    authz = authz_of({"request": permit_with(*before), "response": permit_with(*after)}, response_differs=lambda: True)
    call = call_of()
    permit = await authz.decide(call, IDENTITY)

    refused = ""
    try:
        await authz.inspect(authorized(call, permit), Result(b"{}"))
    except PolicyDenied as denial:
        refused = denial.reasons[0].code

    assert refused == ("obligation_unsupported" if withheld else "")


def test_a_permit_without_them_has_neither() -> None:
    permit = Permit("d1", "digest", obligations_in([obligation("audit")]))

    assert sandbox_of(permit) is None
    assert egress_of(permit) is None


def test_several_of_a_permit_that_nobody_merged_are_merged() -> None:
    read = [obligations_in([item])[0] for item in (HOSTS, obligation("egress", hosts=["other.example.org"]))]

    egress = egress_of(Permit("d1", "digest", tuple(read)))

    assert egress is not None
    assert egress.hosts == ()


@pytest.mark.parametrize("kind", ["sandbox", "egress"])
def test_an_obligation_that_nobody_read_is_worth_nothing(kind: str) -> None:
    permit = Permit("d1", "digest", (Obligation(kind, FrozenDict({"level": "vm"})),))

    with pytest.raises(PolicyDenied) as caught:
        (sandbox_of if kind == "sandbox" else egress_of)(permit)

    assert caught.value.reasons[0].code == "obligation_unsupported"
