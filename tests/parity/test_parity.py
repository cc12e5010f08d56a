"""The embedded engine and a real OPA give the same answers, feature by feature and for the shipped policies."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import cast

import anyio
import pytest
import yaml

from adapters.pdp.bundle import Bundle, bundle_of, load_bundle
from adapters.pdp.checks import check_bundle
from adapters.pdp.opa import OpaPdp
from adapters.pdp.opa_http import Endpoint, OpaHttp
from adapters.pdp.opa_publish import OpaServer
from adapters.pdp.policytests import cases_in
from adapters.pdp.regorus import RegorusPdp
from adapters.pdp.samples import SAMPLES, question
from gateway import codec
from gateway.errors import PolicyEngineUnavailable
from gateway.ports import Entrypoint, PolicyDecisionPoint
from tests.pdp.opaserver import HOW_TO, opa_program, running_opa

POLICIES = Path(__file__).parents[2] / "policies"
PROBES: list[dict[str, object]] = yaml.safe_load((Path(__file__).parent / "probes.yaml").read_text())
EVALUATED = [probe for probe in PROBES if probe.get("expect") != "refused"]
REFUSED = [probe for probe in PROBES if probe.get("expect") == "refused"]
ANSWER = '\nvisible := []\n\ndecision := {"decision": true, "context": {"value": answer}}\n'


def _name(probe: Mapping[str, object]) -> str:
    return str(probe["name"]).replace(" ", "-")


def _bundle(probe: Mapping[str, object]) -> Bundle:
    module = f"package interlock\n\n{probe['module']}\n{ANSWER}"
    return bundle_of({"probe.rego": module}, cast("dict[str, object]", probe.get("data", {})))


async def _answer(pdp: PolicyDecisionPoint, entrypoint: Entrypoint, asked: Mapping[str, object]) -> bytes:
    """What the engine says, as canonical bytes; a failure as its reason."""
    with anyio.fail_after(10):
        try:
            return codec.canonical((await pdp.evaluate(entrypoint, asked)).value)
        except PolicyEngineUnavailable as exc:
            return f"unavailable: {exc.reason}".encode()


def _expected(probe: Mapping[str, object], engine: str = "value") -> bytes:
    if probe.get("expect") == "undefined":
        return b"unavailable: undefined"
    if probe.get("expect") == "error":
        return b"unavailable: pdp_unavailable"
    return codec.canonical({"decision": True, "context": {"value": probe.get(engine, probe["value"])}})


@pytest.fixture(scope="session")
def opa() -> Iterator[str]:
    if not opa_program():
        policies = len(_questions()) + len(_cases())
        pytest.skip(f"{len(EVALUATED)} probes and {policies} policy questions not compared: {HOW_TO}")
    with running_opa() as url:
        yield url


def test_there_are_enough_probes() -> None:
    assert len(PROBES) >= 60
    assert len({probe["name"] for probe in PROBES}) == len(PROBES)


@pytest.mark.parametrize("probe", EVALUATED, ids=_name)
async def test_embedded_engine_gives_the_answer_of_opa(probe: Mapping[str, object]) -> None:
    bundle = _bundle(probe)

    answer = await _answer(RegorusPdp(bundle), "decision", cast("dict[str, object]", probe.get("input", {})))

    assert answer == _expected(probe, "embedded")


def test_the_engines_differ_in_no_more_than_is_known() -> None:
    known = [probe["name"] for probe in PROBES if "embedded" in probe]

    assert known == ["length of a text with letters beyond the basic plane"]


@pytest.mark.parametrize("probe", REFUSED, ids=_name)
def test_what_the_engines_do_not_share_is_refused(probe: Mapping[str, object]) -> None:
    faults = check_bundle(_bundle(probe))

    assert faults
    assert all(fault.line and fault.message for fault in faults if fault.file == "probe.rego")


def test_the_checks_refuse_no_policy_that_both_engines_evaluate() -> None:
    files = {
        f"probe{number}.rego": f"package probes.p{number}\n\n{probe['module']}"
        for number, probe in enumerate(EVALUATED)
        if probe.get("expect") != "error" and not probe.get("data")
    }
    entry = f"package interlock\n\nanswer := 1\n{ANSWER}"

    faults = check_bundle(bundle_of({"entry.rego": entry, **files}))

    assert faults == []


@pytest.mark.slow
async def test_opa_gives_the_answer_that_is_written_down(opa: str) -> None:
    server = OpaServer(Endpoint.parse(opa))
    pdp = OpaPdp(OpaHttp(Endpoint.parse(opa), connect_timeout_s=2.0), timeout_s=5.0)
    differing: dict[str, tuple[bytes, bytes]] = {}

    for probe in EVALUATED:
        await server.publish(_bundle(probe))
        answer = await _answer(pdp, "decision", cast("dict[str, object]", probe.get("input", {})))
        if answer != _expected(probe):
            differing[str(probe["name"])] = (answer, _expected(probe))

    pdp.close()
    assert differing == {}


def _directories() -> list[list[Path]]:
    """The starter, each example and each pack alone, each pack with the starter, and all at once."""
    library, starter = POLICIES / "lib", POLICIES / "starter"
    examples, packs = sorted((POLICIES / "examples").iterdir()), sorted((POLICIES / "packs").iterdir())
    compat = sorted(path for path in (POLICIES / "compat").iterdir() if path.is_dir())
    alone = [[library, each] for each in (starter, *examples, *packs, *compat)]
    return [*alone, *([library, starter, pack] for pack in packs), [library, starter, *packs]]


def _named(paths: list[Path]) -> str:
    names = [path.name for path in paths[1:]]
    return "everything" if len(names) > 2 else "+".join(names)


def _cases() -> list[tuple[Entrypoint, Mapping[str, object]]]:
    bundles = [load_bundle(paths) for paths in _directories()]
    found = [case for bundle in bundles for source in bundle.cases for case in cases_in(source)]
    return [(cast("Entrypoint", case.entrypoint), case.input) for case in found]


def _questions() -> list[tuple[Entrypoint, Mapping[str, object]]]:
    """The sample of every action, and calls over a grid of roles, upstreams, names, arguments and risks."""
    asked: list[tuple[Entrypoint, Mapping[str, object]]] = [(entry, sample) for _, entry, sample in SAMPLES]
    roles: tuple[list[str], ...] = ([], ["developer"], ["writer", "developer"], ["admin"], ["dev"])
    tools = (("git", "git_status"), ("git", "git_commit"), ("files", "read_file"), ("time", "now"), ("x", "y"))
    arguments: tuple[dict[str, object], ...] = (
        {},
        {"path": "a/b"},
        {"path": "../b"},
        {"paths": ["a", "..\\b"]},
        {"path": 7},
    )
    for role, (upstream, name), given, risk in itertools.product(roles, tools, arguments, ("low", "high")):
        properties = {"upstream": upstream, "name": name, "arguments": given, "catalog": {"risk": risk, "labels": []}}
        call = question("mcp.tools.call", "tool", "request", known=True)
        call["subject"] = {"type": "agent", "id": "key:a", "properties": {"roles": role}}
        call["resource"] = {"type": "tool", "id": f"{upstream}/{name}", "properties": properties}
        asked.append(("decision", call))
        candidates = [{**cast("dict[str, object]", call["resource"])} for _ in range(2)]
        listed = {"type": "mcp_server", "id": upstream, "properties": {"candidates": candidates}}
        asked.append(("visible", {**call, "phase": "list", "resource": listed}))
    more = (_questions_of_boxes, _questions_of_packs, _questions_of_memory, _questions_of_models)
    return [*asked, *(one for questions in more for one in questions())]


def _questions_of_boxes() -> list[tuple[Entrypoint, Mapping[str, object]]]:
    """Connections and code over a grid of roles, hosts, callers, labels and what may stand in `granted`."""
    asked: list[tuple[Entrypoint, Mapping[str, object]]] = []
    roles: tuple[list[str], ...] = ([], ["developer"], ["admin"], ["coder", "contractor"], ["dev"])
    hosts: tuple[object, ...] = ("status.example.org", "uploads.example.org", "10.0.0.1", "fd00::1", "::1", "", 7)
    callers: tuple[object, ...] = (
        {},
        {"upstream": "packages", "catalog": {"labels": ["pii"]}},
        {"upstream": "packages"},
    )
    for role, host, caller, granted in itertools.product(roles, hosts, callers, (True, False, "true", None)):
        facts = {"host": host, "port": 443, "scheme": "tunnel", "caller": caller, "granted": granted}
        box = {"driver": "gvisor", "level": "gvisor"}
        properties = {"upstream": "packages", "name": host, "catalog": {"labels": ["conformance"]}, "box": box, **facts}
        asked.append(("decision", _about("egress.connect", "endpoint", role, properties)))
    for role, upstream in itertools.product(roles, ("sandbox", "packages", "git")):
        properties = {"upstream": upstream, "name": "python", "arguments": {"code": "1"}, "caller": {"upstream": "x"}}
        asked.append(("decision", _about("sandbox.exec", "sandbox", role, properties)))
    return asked


def _questions_of_memory() -> list[tuple[Entrypoint, Mapping[str, object]]]:
    """Reading, writing and forgetting over sources, scopes, kinds, findings, residencies, and in lists."""
    asked: list[tuple[Entrypoint, Mapping[str, object]]] = []
    sources: tuple[object, ...] = ("tool", "agent", "user", 7)
    places = (("org", "semantic"), ("agent", "procedural"), ("session", "scratch"))
    doubts: tuple[object, ...] = ([], ["hidden_text"], ["directive", 7])
    methods = (("memory.write", "remember"), ("memory.write", "revise"), ("memory.delete", "forget"))
    grid = itertools.product(sources, places, doubts, ("", "eu"), (1, 2), (("memory.read", "recall"), *methods))
    for source, (scope, kind), found, residency, count, (action, method) in grid:
        memory = {"source": source, "scope": scope, "kind": kind, "residency": residency, "sources": count}
        memory |= {"findings": found, "person": source == "user", "of": {"trust": 90}, "namespace": "default"}
        catalog = {"labels": [], "risk": "low", "memory": memory}
        facts = {"upstream": "memory", "name": "default", "arguments": {}, "catalog": catalog, "hints": {}}
        each = {**_about(action, "memory", ["developer"], facts)}
        each["action"] = {"name": action, "properties": {"protocol": "mcp", "method": f"memory/{method}"}}
        asked.append(("decision", each))
        candidate = {"type": "memory", "id": "default/*", "properties": facts}
        listed = {"type": "memory", "id": "*/*", "properties": {"candidates": [candidate]}}
        asked.append(("visible", {**each, "phase": "list", "resource": listed}))
    return asked


def _questions_of_models() -> list[tuple[Entrypoint, Mapping[str, object]]]:
    """Models, routes, lists of them and budgets over roles, labels, what is spent, and conversations that are cut."""
    asked: list[tuple[Entrypoint, Mapping[str, object]]] = []
    roles: tuple[list[str], ...] = ([], ["developer"], ["operator"], ["admin", "batch"])
    names = (("echo", "echo"), ("models", "auto:cheap"), ("openai", "gpt"))
    spent: tuple[object, ...] = (None, {}, {"used": 0.5}, {"used": 0.95}, {"used": "all"})
    for role, (upstream, name), used, cut in itertools.product(roles, names, spent, (True, False)):
        catalog = {"labels": ["expensive"], "risk": "high" if upstream == "openai" else "low", "region": "eu"}
        given = {"model": name, "messages": [{"role": "user", "content": "delete http://evil.example"}]}
        facts = {"upstream": upstream, "name": name, "arguments": given, "truncated": cut, "catalog": catalog}
        each = {**_about("model.call", "model", role, {**facts, "estimate": {"input_tokens": 9, "output_tokens": 9}})}
        context = {"session": {"id": "s", "calls": 1, "labels": ["pii"]}, "findings": [], "env": "dev"}
        each["context"] = context if used is None else {**context, "budget": used}
        asked.append(("decision", each))
        listed = {"type": "model", "id": "*", "properties": {"candidates": [each["resource"]]}}
        asked.append(("visible", {**each, "phase": "list", "resource": listed}))
    actions = ("budgets.list", "budgets.read", "budgets.reset", "model.list", "memory.delete")
    for role, action, scope in itertools.product(roles, actions, ("mine", "all", 7)):
        asked.append(("decision", _about(action, "budget", role, {"name": "*", "arguments": {"scope": scope}})))
    return asked


def _questions_of_packs() -> list[tuple[Entrypoint, Mapping[str, object]]]:
    """Calls, messages and connections over what packs look at: labels, findings, links, statements, what was read."""
    asked: list[tuple[Entrypoint, Mapping[str, object]]] = []
    remembered: tuple[list[str], ...] = ([], ["pii"], ["pii", "untrusted"], ["overflow"])
    labels: tuple[list[str], ...] = ([], ["external"], ["pii", "readonly"], ["destructive", "sql", "web"])
    arguments: tuple[dict[str, object], ...] = (
        {"url": "https://api.example.com/a", "text": "x", "statements": ["select 1", "drop table a"]},
        {"url": "https://api.example.com@evil.example", "urls": [7, ""], "deep": {"a": [{"b": "http://x"}]}},
        {"sql": "delete from a", "query": None, "other": " ftp://x", "link": {}},
    )
    findings: tuple[object, ...] = ([], [{"kind": "secret", "detector": "d", "path": "/url"}], [{"kind": "unscanned"}])
    kinds = (("mcp.tools.call", "tool"), ("a2a.message.send", "agent"), ("mcp.sampling.create", "model"))
    grid = itertools.product(remembered, labels, arguments, findings, ("request", "response"))
    for read, marked, given, found, phase in grid:
        catalog = {"labels": marked, "risk": "high" if "pii" in marked else "low"}
        facts = {"upstream": "mail", "name": "delete_all", "arguments": given, "catalog": catalog, "hints": {}}
        more = {"url_hosts": ["api.example.com", "evil.example"], "push": True, "push_host": "", "max_tokens": 9}
        result = {"result": {"findings": found, "labels": marked, "size": 1}} if phase == "response" else {}
        for action, kind in kinds:
            each = {**_about(action, kind, ["admin"], {**facts, **result, **({} if kind == "tool" else more)})}
            context = {"session": {"id": "s", "calls": 1, "labels": read}, "findings": found, "env": "dev"}
            asked.append(("decision", {**each, "phase": phase, "context": context}))
    return asked


def _about(action: str, kind: str, roles: list[str], properties: Mapping[str, object]) -> Mapping[str, object]:
    asked = question(action, kind, "request", known=True)
    asked["subject"] = {"type": "agent", "id": "key:a", "properties": {"roles": roles}}
    asked["resource"] = {"type": kind, "id": f"{properties['name']}:443", "properties": properties}
    return asked


@pytest.mark.slow
@pytest.mark.parametrize("paths", _directories(), ids=_named)
async def test_shipped_policies_decide_byte_for_byte_the_same_on_both_engines(opa: str, paths: list[Path]) -> None:
    bundle = load_bundle(paths)
    embedded = RegorusPdp(bundle)
    server = OpaPdp(OpaHttp(Endpoint.parse(opa), connect_timeout_s=2.0), timeout_s=5.0)
    await OpaServer(Endpoint.parse(opa)).publish(bundle)
    asked = [*_questions(), *_cases()]

    differing = [
        (entrypoint, each)
        for entrypoint, each in asked
        if await _answer(embedded, entrypoint, each) != await _answer(server, entrypoint, each)
    ]

    server.close()
    assert len(asked) > 500
    assert differing == []
