"""The shipped policies: equal on both engines, answers as documented, lists that show what may be called."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from itertools import count
from pathlib import Path
from typing import cast

import anyio
import jsonschema
import pytest

from adapters.pdp.bundle import bundle_of, load_bundle
from adapters.pdp.cached import CachedPdp
from adapters.pdp.checks import check_bundle
from adapters.pdp.policytests import run_tests
from adapters.pdp.projection import project
from adapters.pdp.regorus import RegorusPdp
from gateway import codec
from gateway.authz.answer import judge
from gateway.authz.authz import Authz
from gateway.authz.boxed import egress_of, sandbox_of
from gateway.authz.question import Questions
from gateway.authz.sessions import SessionFacts
from gateway.boxes import Level
from gateway.errors import PolicyDenied
from gateway.ports import Entrypoint
from gateway.types import Call, Deny, Entity, FrozenDict, Identity, Permit, Resource, Result, Ruling
from tests.authz.makers import IDENTITY, TOOL, call_of
from tests.pdp.policies import program_of

POLICIES = Path(__file__).parents[2] / "policies"
LIBRARY = POLICIES / "lib"
PACKS = [POLICIES / "starter", *sorted((POLICIES / "examples").iterdir()), *sorted((POLICIES / "packs").iterdir())]
RULING = Ruling("d1")


def schema(name: str) -> Mapping[str, object]:
    return cast("Mapping[str, object]", json.loads((POLICIES / "schemas" / f"{name}.schema.json").read_text()))


def cases_of(pack: Path) -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    for file in sorted(pack.rglob("cases/*.json")):
        found += json.loads(file.read_text())
    return found


CASES = [pytest.param(pack, case, id=f"{pack.name}: {case['name']}") for pack in PACKS for case in cases_of(pack)]


def library_with(**teams: str) -> RegorusPdp:
    """The embedded engine with the library and packages written for one test."""
    head = "package rules.{}\n\nimport future.keywords.not\n\ndefault allow := false\n\n"
    files = {f"rules/{name}.rego": head.format(name) + text for name, text in teams.items()}
    return RegorusPdp(bundle_of({"lib/interlock.rego": (LIBRARY / "interlock.rego").read_text(), **files}))


def authz_on(pdp: RegorusPdp) -> Authz:
    numbers = count(1)
    return Authz(
        pdp,
        env="test",
        clock_ns=lambda: 0,
        monotonic_ns=lambda: 0,
        new_id=lambda: f"d{next(numbers)}",
        response_differs=lambda: False,
    )


async def is_permitted(authz: Authz, call: Call, identity: Identity) -> bool:
    try:
        await authz.decide(call, identity)
    except PolicyDenied:
        return False
    return True


@pytest.mark.parametrize("pack", PACKS, ids=lambda pack: pack.name)
def test_a_pack_passes_its_own_tests_and_the_checks_of_activation(pack: Path) -> None:
    bundle = load_bundle([LIBRARY, pack])

    report = run_tests(bundle)

    assert [str(fault) for fault in report.faults] == []
    assert len(report.outcomes) > len(cases_of(pack)) > 0
    assert [str(fault) for fault in check_bundle(bundle)] == []


@pytest.mark.parametrize("pack", PACKS, ids=lambda pack: pack.name)
def test_a_package_is_in_one_file_and_says_not_as_both_engines_understand_it(pack: Path) -> None:
    files = [*LIBRARY.glob("*.rego"), *pack.rglob("*.rego")]
    texts = {file: file.read_text() for file in files}
    packages = {file: re.findall(r"^package (\S+)", text, re.MULTILINE)[0] for file, text in texts.items()}

    assert max(Counter(packages.values()).values()) == 1
    for file, text in texts.items():
        expected = r"tests\.\w+" if file.name.endswith("_test.rego") else r"interlock|rules\.\w+"
        assert re.fullmatch(expected, packages[file])
        assert "\nimport future.keywords.not\n" in text


@pytest.mark.parametrize(("pack", "case"), CASES)
def test_the_answer_to_every_case_is_one_that_the_gateway_understands(pack: Path, case: dict[str, object]) -> None:
    if case["input"]:
        jsonschema.validate(case["input"], schema("input"))
    pdp = RegorusPdp(load_bundle([LIBRARY, pack]))
    entrypoint = cast("Entrypoint", case.get("entrypoint", "decision"))

    answer = anyio.run(pdp.evaluate, entrypoint, cast("Mapping[str, object]", case["input"]))

    if entrypoint == "decision":
        jsonschema.validate(answer.value, schema("decision"))
        assert judge(answer.value, call_digest="", ruling=RULING)


def opa(*arguments: str, stdin: str = "") -> str:
    program = shutil.which("opa") or shutil.which("opa", path=str(Path.home() / "go" / "bin"))
    if program is None:
        pytest.skip("needs opa: go install github.com/open-policy-agent/opa@v1.20.2")
    done = subprocess.run(  # the program that was found, and files of this repository
        [program, *arguments], input=stdin, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("pack", PACKS, ids=lambda pack: pack.name)
def test_opa_formats_checks_and_tests_a_pack_without_complaint(pack: Path) -> None:
    directories = [str(LIBRARY), str(pack)]

    assert opa("fmt", "--list", *directories) == ""
    opa("check", "--strict", *directories)
    opa("test", *directories)


@pytest.mark.parametrize("pack", PACKS, ids=lambda pack: pack.name)
def test_both_engines_give_every_case_the_same_answer(pack: Path, tmp_path: Path) -> None:
    cases = cases_of(pack)
    for directory in (LIBRARY, pack):
        ignored = shutil.ignore_patterns("cases", "*_test.rego")
        shutil.copytree(directory, tmp_path, ignore=ignored, dirs_exist_ok=True)
    (tmp_path / "asked").mkdir()
    (tmp_path / "asked" / "data.json").write_bytes(codec.dumps({str(n): case["input"] for n, case in enumerate(cases)}))
    answers = [
        f'a{n} := data.interlock.{case.get("entrypoint", "decision")} with input as data.asked["{n}"]'
        for n, case in enumerate(cases)
    ]

    answered = json.loads(opa("eval", "--strict-builtin-errors", "--data", str(tmp_path), "; ".join(answers)))

    pdp = RegorusPdp(load_bundle([LIBRARY, pack]))
    for number, case in enumerate(cases):
        entrypoint = cast("Entrypoint", case.get("entrypoint", "decision"))
        own = anyio.run(pdp.evaluate, entrypoint, cast("Mapping[str, object]", case["input"]))
        assert own.value == answered["result"][0]["bindings"][f"a{number}"], case["name"]


@pytest.mark.parametrize("phase", ["request", "list", "response"])
def test_our_questions_are_as_the_schema_says(phase: str) -> None:
    questions = Questions(env="test", clock_ns=lambda: 1)
    session = SessionFacts()
    calls = [
        call_of({"a": 1}),
        call_of(action="mcp.elicitation.create", params={"mode": "form", "requestedSchema": {"properties": {"a": {}}}}),
        call_of(action="mcp.sampling.create", params={"messages": []}),
        call_of(action="mcp.resources.read", params={"uri": "file:///a"}),
        call_of(action="mcp.completion.complete", params={"argument": {"name": "a", "value": "b"}}),
        call_of(action="egress.connect", params={"host": "a.b", "port": 443, "granted": True, "box": {"level": "vm"}}),
        call_of(action="egress.connect", params={}),
        call_of(action="sandbox.exec", params={"arguments": {"code": "1"}, "caller": {"id": "sandbox/run_code"}}),
    ]
    identity = Identity(Entity("agent", "a"), on_behalf_of=Entity("user", "u"), method="jwt")

    for call in calls:
        asked = {
            "request": lambda call=call: questions.about_call(call, identity, session),
            "list": lambda call=call: questions.about_list(call, identity, session, [TOOL]),
            "response": lambda call=call: questions.about_result(call, identity, session, Result(b"{}")),
        }[phase]()

        jsonschema.validate(json.loads(codec.dumps(asked)), schema("input"))


def catalog(risk: str = "medium", *labels: str) -> FrozenDict:
    return FrozenDict({"risk": risk, "labels": labels})


THINGS: Sequence[Resource] = (
    Resource("tool", "git/git_status", "git", "git_status", catalog=catalog()),
    Resource("tool", "git/git_commit", "git", "git_commit", catalog=catalog()),
    Resource("tool", "time/convert_time", "time", "convert_time", catalog=catalog()),
    Resource("tool", "time/reset", "time", "reset", catalog=catalog("high")),
    Resource("tool", "files/read_text_file", "files", "read_text_file", catalog=catalog()),
    Resource("tool", "files/write_file", "files", "write_file", catalog=catalog("medium", "destructive")),
    Resource("tool", "lab/anything", "lab", "anything", catalog=catalog("medium", "conformance")),
    Resource("prompt", "everything/test_simple_prompt", "everything", "test_simple_prompt", catalog=catalog()),
    Resource("mcp_resource", "test://a", "everything", "test://a", catalog=catalog()),
    Resource("mcp_resource", "git://a", "git", "git://a", catalog=catalog()),
)
USE: Mapping[str, str] = {
    "tool": "mcp.tools.call",
    "prompt": "mcp.prompts.get",
    "mcp_resource": "mcp.resources.read",
}


@pytest.mark.parametrize("roles", [(), ("dev",), ("developer",), ("writer",), ("admin",), ("developer", "dev")])
async def test_what_the_starter_shows_is_what_it_lets_a_caller_use(roles: tuple[str, ...]) -> None:
    authz = authz_on(RegorusPdp(load_bundle([LIBRARY, POLICIES / "starter"])))
    identity = Identity(Entity("agent", "key:demo"), roles=roles, method="api_key")

    shown = await authz.visible(call_of(action="mcp.tools.list"), identity, THINGS)

    usable = {
        index
        for index, thing in enumerate(THINGS)
        if await is_permitted(authz, call_of({}, action=USE[thing.type], resource=thing), identity)
    }
    assert shown == usable


async def test_a_connection_that_its_call_was_granted_is_permitted_unless_policy_denies_it() -> None:
    endpoint = Resource("endpoint", "api.example.org:443", "python", "api.example.org")
    granted, other = [
        call_of(action="egress.connect", resource=endpoint, params={"host": "api.example.org", "granted": yes})
        for yes in (True, False)
    ]
    denying = 'deny contains "not there" if input.resource.properties.host == "api.example.org"'

    assert await is_permitted(authz_on(library_with(one="")), granted, IDENTITY)
    assert not await is_permitted(authz_on(library_with(one="")), other, IDENTITY)
    assert not await is_permitted(authz_on(library_with(one=denying)), granted, IDENTITY)
    assert not await is_permitted(authz_on(library_with(one="", two=denying)), granted, IDENTITY)


@pytest.mark.parametrize(
    "item",
    [
        {"type": "sandbox", "properties": {"level": "gvisor", "limits": {"cpus": 0.5, "wall_s": 10}}},
        {"type": "egress", "properties": {"hosts": ["*.example.org:8443", "[2001:db8::1]"], "ranges": ["fd00::/8"]}},
        {"type": "egress", "properties": {"max_mb": 1}},
    ],
)
def test_the_schema_knows_what_can_be_asked_of_a_box(item: Mapping[str, object]) -> None:
    answer = {"decision": True, "context": {"obligations": [item], "labels": []}}

    jsonschema.validate(answer, schema("decision"))

    assert isinstance(judge(answer, call_digest="", ruling=RULING), Permit)


@pytest.mark.parametrize(
    "item",
    [
        {"type": "sandbox", "properties": {}},
        {"type": "sandbox", "properties": {"level": "none"}},
        {"type": "sandbox", "properties": {"limits": {"memory": 1}}},
        {"type": "sandbox"},
        {"type": "egress", "properties": {}},
        {"type": "egress", "properties": {"hosts": ["*"]}},
        {"type": "egress", "properties": {"hosts": ["API.example.org"]}},
        {"type": "egress", "properties": {"max_bytes": 1}},
    ],
)
def test_the_schema_refuses_what_the_gateway_refuses(item: Mapping[str, object]) -> None:
    answer = {"decision": True, "context": {"obligations": [item], "labels": []}}

    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(answer, schema("decision"))

    assert isinstance(judge(answer, call_digest="", ruling=RULING), Deny)


ARGUMENTS = """
allow if input.action.name == "mcp.tools.call"

deny contains {"code": "unguarded"} if {
	input.resource.properties.name == "unguarded"
	not startswith(input.resource.properties.arguments.sql, "SELECT")
}

deny contains {"code": "guarded"} if {
	input.resource.properties.name == "guarded"
	args := input.resource.properties.arguments
	not startswith(args.sql, "SELECT")
}

hold contains {"approvers": "group:x"} if input.resource.properties.name == "held"

deny contains {"code": "never"} if input.resource.properties.name == "denied"
"""
NEEDY = """
allow if {
	input.action.name == "mcp.prompts.get"
	input.resource.properties.arguments.topic == "weather"
}

list_allow if {
	input.action.name == "mcp.prompts.get"
	input.resource.properties.name == "listed"
}
"""


async def test_a_list_knows_no_arguments() -> None:
    authz = authz_on(library_with(arguments=ARGUMENTS, needy=NEEDY))
    names = [("tool", "unguarded"), ("tool", "guarded"), ("tool", "held"), ("tool", "denied"), ("tool", "free")]
    names += [("prompt", "listed"), ("prompt", "unlisted"), ("odd", "free")]
    things = [Resource(kind, f"u/{name}", "u", name) for kind, name in names]

    shown = await authz.visible(call_of(action="mcp.tools.list"), IDENTITY, things)

    assert [names[index] for index in sorted(shown)] == [
        ("tool", "guarded"),
        ("tool", "held"),
        ("tool", "free"),
        ("prompt", "listed"),
    ]


@pytest.mark.parametrize(
    ("name", "arguments", "permitted"),
    [
        ("guarded", {"sql": "SELECT 1"}, True),
        ("guarded", {"sql": "DROP"}, False),
        ("guarded", {}, False),
        ("unguarded", {"sql": "SELECT 1"}, True),
        ("unguarded", {}, False),
        ("denied", {}, False),
    ],
)
async def test_a_call_is_judged_with_its_arguments(name: str, arguments: dict[str, object], permitted: bool) -> None:
    authz = authz_on(library_with(arguments=ARGUMENTS))
    call = call_of(arguments, resource=Resource("tool", f"u/{name}", "u", name))

    assert await is_permitted(authz, call, IDENTITY) is permitted


async def test_list_allow_permits_no_call() -> None:
    authz = authz_on(library_with(needy=NEEDY))
    call = call_of({}, action="mcp.prompts.get", resource=Resource("prompt", "u/listed", "u", "listed"))

    assert not await is_permitted(authz, call, IDENTITY)


async def test_a_denied_caller_is_told_what_would_help() -> None:
    authz = authz_on(RegorusPdp(load_bundle([LIBRARY, POLICIES / "starter"])))
    commit = call_of({}, resource=Resource("tool", "git/git_commit", "git", "git_commit", catalog=catalog()))

    with pytest.raises(PolicyDenied) as caught:
        await authz.decide(commit, Identity(Entity("agent", "key:demo"), roles=("developer",), method="api_key"))

    assert str(caught.value) == (
        "denied by policy: rules.starter says this changes the repository (needs_writer). "
        "What would help: use a key with the role writer. (decision d1)"
    )


async def test_two_teams_are_both_heard() -> None:
    deny = 'deny contains {"code": "quiet"} if input.context.env == "test"'
    authz = authz_on(library_with(one="allow if true", two=deny))

    with pytest.raises(PolicyDenied) as caught:
        await authz.decide(call_of(), IDENTITY)

    assert [(reason.code, reason.rule, reason.public) for reason in caught.value.reasons] == [
        ("quiet", "rules.two", False)
    ]


async def test_a_rule_that_contradicts_itself_is_a_denial() -> None:
    authz = authz_on(library_with(one='allow := true if input.phase\n\nallow := "no" if input.phase'))

    with pytest.raises(PolicyDenied):
        await authz.decide(call_of(), IDENTITY)


async def test_a_truncated_question_is_denied_unless_every_package_accepts_it() -> None:
    long = call_of({"body": "x" * 300_000})
    accepts = "allow if true\n\naccepts_truncated if true"

    assert not await is_permitted(authz_on(library_with(one="allow if true")), long, IDENTITY)
    assert await is_permitted(authz_on(library_with(one=accepts)), long, IDENTITY)
    assert not await is_permitted(authz_on(library_with(one=accepts, two="allow if false")), long, IDENTITY)


def test_the_examples_of_the_readme_can_be_activated() -> None:
    blocks = re.findall(r"```rego\n(.*?)```", (POLICIES / "README.md").read_text(), re.DOTALL)
    library = {"lib/interlock.rego": (LIBRARY / "interlock.rego").read_text()}

    for block in blocks:
        assert [str(fault) for fault in check_bundle(bundle_of({**library, "rules/data.rego": block}))] == []
    assert len(blocks) == 5


def readme_pack(team: str) -> RegorusPdp:
    """The embedded engine with the library and one example of the README."""
    (block,) = re.findall(rf"```rego\n(package rules\.{team}\n.*?)```", (POLICIES / "README.md").read_text(), re.DOTALL)
    library = (LIBRARY / "interlock.rego").read_text()
    return RegorusPdp(bundle_of({"lib/interlock.rego": library, f"rules/{team}.rego": block}))


def connection(host: str, port: int, **facts: object) -> Call:
    resource = Resource("endpoint", f"{host}:{port}", "reports", host)
    return call_of(action="egress.connect", resource=resource, params={"host": host, "port": port, **facts})


async def test_the_example_of_connections_does_what_the_readme_says() -> None:
    authz = authz_on(readme_pack("network"))
    install = call_of({}, resource=Resource("tool", "packages/install", "packages", "install"))

    permit = await authz.decide(connection("db.corp.example", 5432, caller={"upstream": "reports"}), IDENTITY)

    egress = egress_of(permit)
    assert egress is not None
    assert egress.reaches(ip_address("10.1.2.3"))
    assert not await is_permitted(authz, connection("db.corp.example", 5432, caller={"upstream": "x"}), IDENTITY)
    assert not await is_permitted(authz, install, IDENTITY)  # an obligation allows nothing by itself


async def test_hosts_of_several_rules_are_granted_together_where_one_obligation_gathers_them() -> None:
    gathered = """
allow if input.action.name == "mcp.tools.call"

obligation contains {"type": "egress", "properties": {"hosts": [host | some host in hosts]}} if count(hosts) > 0

hosts contains "a.example.org" if input.resource.properties.upstream == "files"

hosts contains "b.example.org:80" if input.resource.properties.name == "read"
"""
    apart = 'obligation contains {"type": "egress", "properties": {"hosts": ["c.example.org"]}}'

    together = egress_of(await authz_on(library_with(one=gathered)).decide(call_of(), IDENTITY))
    limited = egress_of(await authz_on(library_with(one=gathered, two=apart)).decide(call_of(), IDENTITY))

    assert together is not None
    assert together.grants("a.example.org", 443)
    assert together.grants("b.example.org", 80)
    assert limited is not None
    assert limited.hosts == ()


async def test_the_sandboxed_pack_gives_obligations_that_hold() -> None:
    authz = authz_on(RegorusPdp(load_bundle([LIBRARY, POLICIES / "examples" / "sandboxed"])))
    contractor = Identity(Entity("agent", "a"), roles=("contractor",), method="api_key")
    run = call_of({"code": "1"}, action="sandbox.exec", resource=Resource("sandbox", "python", "sandbox", "python"))
    install = call_of({}, resource=Resource("tool", "packages/install", "packages", "install"))

    sandbox = sandbox_of(await authz.decide(run, contractor))
    egress = egress_of(await authz.decide(install, contractor))

    assert sandbox is not None
    assert (sandbox.level, sandbox.limits) == (Level.GVISOR, {"memory_mb": 256, "processes": 64, "wall_s": 60})
    assert egress is not None
    assert egress.grants("a.files.example.org", 443)
    assert (egress.max_bytes, egress.max_s, egress.ranges) == (100 << 20, 60, ())


async def test_a_kept_answer_is_not_one_for_a_connection_that_was_not_granted() -> None:
    bundle = load_bundle([LIBRARY, POLICIES / "starter"])
    pdp = CachedPdp(RegorusPdp(bundle), {"decision": project(program_of(bundle), ("interlock", "decision"))})
    questions = Questions(env="test", clock_ns=lambda: 1)

    answers = [
        await pdp.evaluate(
            "decision",
            questions.about_call(connection("api.example.org", 443, granted=granted), IDENTITY, SessionFacts()),
        )
        for granted in (True, False, True, False)
    ]

    decided = [cast("Mapping[str, object]", answer.value)["decision"] for answer in answers]
    assert decided == [True, False, True, False]
    assert [answer.cached for answer in answers] == [False, False, True, True]
