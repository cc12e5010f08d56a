"""`interlock policy replay` says what other rules would have said; `suggest` drafts rules that say what was used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import cast

import pytest

from gateway.cli import main
from gateway.cli.main import CANNOT, NOT_AS_IT_SHOULD_BE, OK
from gateway.config.fields import starter_policies
from tests.decisions.traffic import at, bundle_from, events_in, recording, write_log

RULES = """
package rules.shop

import future.keywords.not

default allow := false

allow if {
	"developer" in input.subject.properties.roles
	input.resource.properties.upstream in {"time", "git"}
	not input.resource.id == "git/git_log"
}

hold contains {"approvers": "group:ops", "title": "look at logs"} if input.resource.id == "git/git_status"

deny contains {"code": "no_logs", "message": "no logs", "public": true} if input.resource.id == "git/git_log"
"""


def rules(root: Path, text: str = RULES) -> Path:
    """A directory with these rules."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "rules.rego").write_text(text.lstrip())
    return root


async def made(directory: Path, *policies: Path) -> Path:
    """A log of traffic under the starter policies, or those named."""
    async with recording(directory, bundle_from(*policies)) as gateway:
        for number in range(12):
            await gateway.use("dev", "time/get_current_time", {"timezone": "UTC"}, number)
            await gateway.use("dev", "git/git_status", {"repo_path": f"/srv/{number}"}, number)
            await gateway.use("dev", "git/git_log", {"repo_path": "/srv/../etc"}, number)
            await gateway.use("writer", "git/git_commit", {"repo_path": "/srv/demo", "message": f"m{number}"}, number)
            await gateway.use("dev", "git/git_commit", {"repo_path": "/srv/demo", "message": "x"}, number)
            await gateway.use("guest", "time/get_current_time", {"timezone": "UTC"}, number)
    return directory


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, object]]:
    """The exit code and what `--json` prints."""
    code = main(["policy", *words, "--json", "--since", "all"])
    return code, cast("dict[str, object]", json.loads(capsys.readouterr().out or "{}"))


async def test_replay_under_the_same_rules_finds_no_difference(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = await made(tmp_path / "log")

    code, report = run(capsys, "replay", "--against", str(starter_policies()), "--log", str(log), "--jobs", "2")

    assert code == OK
    assert report["moved"] == {"allow": 0, "deny": 0, "hold": 0}
    assert not any(cast("dict[str, list[object]]", report["changes"]).values())
    assert cast("dict[str, int]", report["counts"])["replayed"] == 72
    assert report["recorded_revisions"] == {report["revision"]: 72}


async def test_replay_lists_what_is_newly_allowed_denied_and_held(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = await made(tmp_path / "log")
    against = str(rules(tmp_path / "new"))

    code, report = run(capsys, "replay", "--against", against, "--log", str(log))
    main(["policy", "replay", "--against", against, "--log", str(log), "--since", "all", "--allow-new"])

    changes = cast("dict[str, list[dict[str, object]]]", report["changes"])
    assert code == NOT_AS_IT_SHOULD_BE
    assert report["moved"] == {"allow": 12, "deny": 0, "hold": 12}
    assert [(c["tool"], c["subject"], c["before"]) for c in changes["newly_allowed"]] == [
        ("git/git_commit", "key:dev", ["rules.starter:needs_writer"])
    ]
    assert [(c["tool"], c["calls"], c["old"], c["tenant"]) for c in changes["newly_held"]] == [
        ("git/git_status", 12, "allow", "acme")
    ]
    assert ["rules.shop:no_logs"] in [c["after"] for c in changes["other_reasons_or_obligations"]]
    shown = capsys.readouterr().out
    assert "*  deny -> allow       12  git/git_commit         acme" in shown
    assert "12 x git/git_status by key:dev: allow" in shown


async def test_replay_exits_0_for_a_newly_allowed_call_that_is_meant(tmp_path: Path) -> None:
    log = await made(tmp_path / "log")
    words = ["policy", "replay", "--against", str(rules(tmp_path / "new")), "--log", str(log), "--since", "all"]

    assert main([*words, "--allow-new"]) == OK
    assert main(words) == NOT_AS_IT_SHOULD_BE


async def test_suggested_rules_pass_their_checks_and_tests_and_allow_just_what_was_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log, out = await made(tmp_path / "log"), tmp_path / "draft"

    code, report = run(capsys, "suggest", "--log", str(log), "--out", str(out))
    checked = main(["policy", "check", "--path", str(out)])
    tested = main(["policy", "test", "--path", str(out)])
    capsys.readouterr()
    replayed, compared = run(capsys, "replay", "--against", str(out), "--log", str(log))

    assert (code, checked, tested, replayed) == (OK, OK, OK, OK)
    assert report["grants"] == 3
    assert compared["moved"] == {"allow": 0, "deny": 0, "hold": 0}
    granted = json.loads((out / "suggested/data.json").read_text())["roles"]
    assert granted["acme"]["writer"]["mcp.tools.call"] == {
        "git/git_commit": {"message": {}, "repo_path": {"values": ["/srv/demo"], "optional": False}}
    }
    assert granted["acme"]["developer"]["mcp.tools.call"]["git/git_status"] == {"repo_path": {}}


def test_what_cannot_be_replayed_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "log").mkdir()

    code = main(["policy", "replay", "--against", str(starter_policies()), "--log", str(tmp_path / "log")])

    assert code == CANNOT
    assert "there is no decision to replay: the log has none of that time" in capsys.readouterr().err
    assert events_in(tmp_path / "log") == []


def event(number: int, question: object, result: object, *, replayable: bool = True) -> dict[str, object]:
    """A recorded decision."""
    return {
        "decision_id": f"d{number}",
        "timestamp": at(number),
        "path": "interlock/decision",
        "input": question,
        "result": result,
        "custom": {"interlock": {"replayable": replayable}},
    }


def question(tool: str, *, approval: object = None) -> dict[str, object]:
    """A question of somebody without roles."""
    upstream, _, name = tool.partition("/")
    properties = {"upstream": upstream, "name": name, "arguments": {"n": 1}, "truncated": False}
    return {
        "schema": "interlock.input/1",
        "phase": "request",
        "subject": {"type": "user", "id": "user:ana", "properties": {"tenant": "acme", "roles": []}},
        "action": {"name": "mcp.tools.call", "properties": {}},
        "resource": {"type": "tool", "id": tool, "properties": properties},
        "context": {} if approval is None else {"approval": approval},
    }


def test_masked_and_lost_decisions_are_counted_and_not_replayed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    yes = {"decision": True}
    masked = event(1, question("git/git_log"), yes, replayable=False)
    unanswered: dict[str, object] = {
        "decision_id": "d3",
        "timestamp": at(3),
        "path": "interlock/decision",
        "input": {},
        "error": {},
    }
    lists = {**event(4, {}, [1]), "path": "interlock/visible"}
    lost: dict[str, object] = {"lost": 7, "timestamp": at(5), "reason": "the queue was full"}
    write_log(tmp_path / "log", [event(0, question("git/git_log"), yes), masked, unanswered, lists, lost])
    against = str(rules(tmp_path / "new"))

    code, report = run(capsys, "replay", "--against", against, "--log", str(tmp_path / "log"))

    counts = {"replayed": 1, "evaluated": 1, "masked": 1, "unanswered": 1, "lists": 1, "lost": 7}
    assert code == OK
    assert report["counts"] == counts
    assert report["moved"] == {"allow": 0, "deny": 1, "hold": 0}


def test_what_people_agreed_to_is_suggested_as_a_hold_for_that_caller(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    covers = [{"approvers": "group:ops", "title": "pay"}]
    paid = question("bank/pay", approval={"id": "a", "approvers": ["user:bo"], "covers": covers})
    held = {"decision": False, "context": {"access_request": covers[0]}}
    write_log(
        tmp_path / "log",
        [event(0, question("bank/pay"), held), event(1, paid, {"decision": True, "context": {"labels": ["paid"]}})],
    )
    out = tmp_path / "draft"

    code, report = run(capsys, "suggest", "--log", str(tmp_path / "log"), "--out", str(out))
    replayed, compared = run(capsys, "replay", "--against", str(out), "--log", str(tmp_path / "log"))

    assert (code, replayed) == (OK, OK)
    assert report["grants"] == 1
    assert not any(cast("dict[str, list[object]]", compared["changes"]).values())


def of(tenant: str, roles: list[str], arguments: dict[str, object]) -> dict[str, object]:
    """A question of somebody of that tenant."""
    asked = question("git/push")
    subject = {"type": "user", "id": "user:ana", "properties": {"tenant": tenant, "roles": roles}}
    resource = cast("dict[str, dict[str, object]]", asked["resource"])
    return {
        **asked,
        "subject": subject,
        "resource": {**resource, "properties": {**resource["properties"], "arguments": arguments}},
    }


@pytest.mark.parametrize("roles", [["dev"], []])
def test_draft_allows_neither_other_tenants_nor_arguments_that_were_never_given(
    roles: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    yes = {"decision": True}
    no = {"decision": False, "context": {"reasons": [{"code": "no", "message": "no"}]}}
    used = [event(number, of("acme", roles, {"branch": f"b{number}", "any-other": True}), yes) for number in range(3)]
    refused = [
        event(3, of("other", roles, {"branch": "b1", "any-other": True}), no),
        event(4, of("acme", roles, {"branch": "b1", "any-other": True, "force": True}), no),
    ]
    write_log(tmp_path / "log", [*used, *refused])
    out = tmp_path / "draft"

    code, report = run(capsys, "suggest", "--log", str(tmp_path / "log"), "--out", str(out))
    replayed, compared = run(capsys, "replay", "--against", str(out), "--log", str(tmp_path / "log"))

    assert (code, report["grants"], replayed) == (OK, 1, OK)
    assert compared["moved"] == {"allow": 0, "deny": 0, "hold": 0}


def test_who_lists_memories_is_not_granted_the_review_of_everybodys(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = question("git/push")
    facts = {"upstream": "memory", "name": "*", "arguments": {}, "truncated": False}
    resource = {"type": "memory", "id": "*/*", "properties": {**facts, "catalog": {"memory": {"whole": False}}}}
    listed = {**asked, "action": {"name": "memory.read", "properties": {"method": "memory/list"}}, "resource": resource}
    whole = {**resource, "properties": {**facts, "catalog": {"memory": {"whole": True}}}}
    review = {**listed, "action": {"name": "memory.read", "properties": {"method": "memory/review"}}, "resource": whole}
    no = {"decision": False, "context": {"reasons": [{"code": "no", "message": "no"}]}}
    yes = {"decision": True}
    write_log(tmp_path / "log", [event(0, asked, yes), event(1, listed, yes), event(2, review, no)])
    out = tmp_path / "draft"

    code, report = run(capsys, "suggest", "--log", str(tmp_path / "log"), "--out", str(out))
    _, compared = run(capsys, "replay", "--against", str(out), "--log", str(tmp_path / "log"))

    assert (code, report["grants"]) == (OK, 1)
    assert [words.partition(",")[0] for words in cast("dict[str, int]", report["left_out"])] == ["of memory"]
    assert compared["moved"] == {"allow": 0, "deny": 1, "hold": 0}


def test_what_others_named_cannot_move_the_cursor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_log(tmp_path / "log", [event(0, question("git/\x1b[2J\x9b2Jlog\nno difference"), {"decision": True})])
    log = ["--log", str(tmp_path / "log"), "--since", "all"]

    main(["policy", "replay", "--against", str(rules(tmp_path / "new")), *log])
    main(["policy", "suggest", *log])

    told = capsys.readouterr().out
    assert r"git/\x1b[2J\x9b2Jlog\x0ano difference" in told
    assert not {"\x1b", "\x9b"} & set(told)
    assert "no difference" not in told.splitlines()


@pytest.mark.parametrize("words", [["--since", "yesterday"], ["--jobs", "0"], []])
def test_wrong_words_are_a_usage_error(words: list[str]) -> None:
    against = ["--against", "x"] if words else []

    with pytest.raises(SystemExit) as ended:
        main(["policy", "replay", *against, *words])

    assert ended.value.code == CANNOT
