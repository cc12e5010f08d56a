"""An entry says everything about a call, in exactly one form, and can always be written."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from gateway import codec
from gateway.audit.entry import MAX_ENTRY_BYTES, encode, marker
from gateway.boxes import BoxFacts, Level
from gateway.codec import canonical
from gateway.types import Call, Entity, FrozenDict, Identity, Resource
from tests.audit.records import START, a_call, a_record

texts = st.text(max_size=60) | st.text(alphabet='"\\\x00\x1f\x7f\u2028\ud800\U0001f600aé', max_size=5_000)
numbers = st.integers(-(2**70), 2**70)
text_lists = st.lists(texts, max_size=40).map(tuple)


@st.composite
def any_record(draw: st.DrawFn) -> object:
    call = Call(
        id=draw(texts),
        action=draw(texts),
        method=draw(texts),
        resource=Resource(draw(texts), draw(texts), draw(texts)),
        params=FrozenDict({"arguments": FrozenDict({"text": draw(st.text(max_size=20_000)), "float": 1.5})}),
        session_id=draw(texts),
        traceparent=draw(texts),
    )
    identity = Identity(Entity(draw(texts), draw(texts)), draw(texts), delegation=draw(text_lists))
    return replace(
        a_record(),
        call=call,
        identity=draw(st.none() | st.just(identity)),
        outcome=draw(texts),
        reasons=draw(text_lists),
        labels=draw(text_lists),
        total_ns=draw(numbers),
        ended_ns=draw(numbers),
        keep_arguments=draw(st.booleans()),
        notes=draw(st.none() | st.dictionaries(st.text(max_size=9), st.floats(allow_nan=False), max_size=3)),
    )


@given(any_record(), st.integers(0, 2**40))
def test_every_entry_is_rfc_8785_and_fits_a_bundle(record: object, seq: int) -> None:
    entries = encode(record, seq)  # type: ignore[arg-type]  # hypothesis strategies lose the type

    for number, body in enumerate(entries, seq):
        content = json.loads(body)
        assert rfc8785.dumps(content) == body
        assert len(body) <= MAX_ENTRY_BYTES
        assert content["seq"] == number
        assert content["schema"] == "interlock.audit/1"


def test_entry_says_who_what_why_and_how_it_went() -> None:
    call = replace(a_call(), parent_id="call-0")

    [body] = encode(a_record(call=call, error="denied", cached=True, identify_ns=1, inspect_ns=4), 9)

    assert json.loads(body) == {
        "schema": "interlock.audit/1",
        "kind": "call",
        "seq": 9,
        "time_ns": str(START + 1),
        "call": {
            "id": "call-1",
            "parent": "call-0",
            "action": "mcp.tools.call",
            "method": "tools/call",
            "protocol": "mcp",
            "protocol_version": "2026-07-28",
            "session": "sha256:" + hashlib.sha256(b"session-secret").hexdigest(),
            "arguments_digest": "sha256:" + hashlib.sha256(b'{"sql":"SELECT 1"}').hexdigest(),
        },
        "resource": {"type": "tool", "id": "warehouse/query", "upstream": "warehouse"},
        "identity": {
            "subject": {"type": "agent", "id": "agent:report-bot"},
            "tenant": "acme",
            "method": "jwt",
            "issuer": "https://issuer.example",
            "credential": "kid-1",
            "delegation": ["user:ana", "agent:planner", "agent:report-bot"],
            "on_behalf_of": {"type": "user", "id": "user:ana"},
        },
        "decision": {
            "id": "decision-1",
            "revision": "r7",
            "engine": "embedded",
            "cached": True,
            "reasons": ["rules.data.sql_only"],
            "obligations": ["redact"],
            "labels": ["pii"],
        },
        "outcome": "ok",
        "error": "denied",
        "result_bytes": 42,
        "timings_ns": {"identify": 1, "decide": 2_000, "execute": 3_000, "inspect": 4, "total": 6_000_000},
        "trace_id": "0af7651916cd43dd8448eb211c80319c",
    }


def test_arguments_stay_out_unless_policy_says_to_keep_them() -> None:
    record = a_record(call=a_call(1, {"amount": 12.5, "to": "IBAN-1"}))

    [without] = encode(record, 0)
    [kept] = encode(replace(record, keep_arguments=True), 0)

    assert b"IBAN-1" not in without
    assert json.loads(kept)["arguments"] == '{"amount":12.5,"to":"IBAN-1"}'


def test_long_arguments_are_kept_whole_in_entries_before_the_call() -> None:
    arguments = {"text": "é" * 50_000}
    record = a_record(call=a_call(1, arguments), keep_arguments=True)

    bodies = encode(record, 100)

    contents = [json.loads(body) for body in bodies]
    assert [content["kind"] for content in contents] == ["part"] * 9 + ["call"]
    assert [content["seq"] for content in contents] == list(range(100, 110))
    assert contents[-1]["arguments_parts"] == 9
    assert "".join(content["arguments"] for content in contents[:-1]).encode() == canonical(arguments)
    assert {content["call"]["id"] for content in contents} == {"call-1"}


def test_session_id_is_never_written() -> None:
    [body] = encode(a_record(), 0)

    assert b"session-secret" not in body


def test_record_before_an_effect_is_an_intent() -> None:
    [body] = encode(a_record(outcome="intent"), 0)

    assert json.loads(body)["kind"] == "intent"


def test_call_without_identity_or_trace_or_session_is_written() -> None:
    call = replace(a_call(), traceparent="", session_id="")

    [body] = encode(a_record(call=call, identity=None), 0)

    content = json.loads(body)
    assert "identity" not in content
    assert (content["trace_id"], content["call"]["session"]) == ("", "")


def test_malformed_traceparent_is_not_written() -> None:
    [body] = encode(a_record(call=replace(a_call(), traceparent="00-nonsense")), 0)

    assert json.loads(body)["trace_id"] == ""


def test_caller_without_a_principal_behind_it_has_none_in_the_entry() -> None:
    [body] = encode(a_record(identity=Identity()), 0)

    assert "on_behalf_of" not in json.loads(body)["identity"]


def test_notes_are_kept_as_exact_text() -> None:
    [body] = encode(a_record(notes={"score": 0.1}), 0)

    assert json.loads(body)["notes"] == '{"score":0.1}'


def test_long_text_ends_in_the_hash_of_the_whole() -> None:
    uri = "file:///" + "x" * 20_000

    [body] = encode(a_record(call=replace(a_call(), resource=Resource("mcp_resource", uri))), 0)

    kept = json.loads(body)["resource"]["id"]
    assert len(kept) <= 2_048
    assert kept.endswith("sha256:" + hashlib.sha256(uri.encode()).hexdigest())


def test_long_lists_say_how_much_was_left_out() -> None:
    [body] = encode(a_record(reasons=tuple("x" * 600 for _ in range(40))), 0)

    assert json.loads(body)["decision"]["reasons"][-1] == "(24 more)"


def test_entry_that_is_still_too_long_keeps_the_hashes_of_its_texts() -> None:
    hostile = tuple("\x01" * 2_000 for _ in range(16))

    [body] = encode(a_record(reasons=hostile, labels=hostile, obligations=hostile), 0)

    assert len(body) <= MAX_ENTRY_BYTES
    assert json.loads(body)["decision"]["labels"][0].endswith(
        "sha256:" + hashlib.sha256(hostile[0].encode()).hexdigest()
    )


def test_number_too_large_for_json_is_cut_to_the_largest() -> None:
    [body] = encode(a_record(total_ns=2**60), 0)

    assert json.loads(body)["timings_ns"]["total"] == 2**53 - 1


BOX = BoxFacts("b-1", "gvisor", "release-20240729.0", Level.GVISOR, "sha256:" + "0" * 64)


def test_facts_of_sandbox_and_connection_stand_in_the_notes() -> None:
    egress = {"address": "192.0.2.7", "sent": 2**53 - 1, "received": 17, "ended": "closed"}

    [body] = encode(a_record(notes={"sandbox": BOX.note(), "egress": egress}), 0)

    notes = json.loads(json.loads(body)["notes"])
    assert notes == {"egress": egress, "sandbox": {**BOX.note(), "level": "gvisor"}}


def test_notes_of_any_size_fit_and_end_in_the_hash_of_the_whole() -> None:
    notes = {"sandbox": {**BOX.note(), "version": "\x01" * 1_000_000}}

    [body] = encode(a_record(notes=notes), 0)

    assert len(body) <= MAX_ENTRY_BYTES
    assert json.loads(body)["notes"].endswith("sha256:" + hashlib.sha256(codec.canonical(notes)).hexdigest())


@pytest.mark.parametrize("odd", [2**70, 0.1, {1: 2}])
def test_note_that_is_hard_to_write_is_written(odd: object) -> None:
    [body] = encode(a_record(notes={"odd": odd}), 0)

    assert set(json.loads(json.loads(body)["notes"])) == {"odd"}


@pytest.mark.parametrize("odd", [object(), b"x", {1, 2}, "\ud800"])
def test_note_that_cannot_be_written_costs_the_record_its_notes_alone(odd: object) -> None:
    [body] = encode(a_record(notes={"sandbox": BOX.note(), "odd": odd}), 3)

    content = json.loads(body)
    plain = json.loads(encode(a_record(), 3)[0])
    assert content["fault"].startswith("notes: ")
    assert {key: value for key, value in content.items() if key != "fault"} == plain


@pytest.mark.parametrize("faulty", [{"outcome": 1.5, "total_ns": 2**60}, {"identity": "nobody"}])
def test_record_that_cannot_be_written_leaves_its_call_and_the_fault(faulty: dict[str, object]) -> None:
    [body] = encode(a_record(**faulty), 3)

    content = json.loads(body)
    assert content["call"] == {"id": "call-1", "action": "mcp.tools.call"}
    assert content["fault"] in {"TypeError", "AttributeError"}
    assert content["seq"] == 3


def test_marker_carries_its_facts_and_cannot_pose_as_a_call() -> None:
    body = marker("expired", 5, START, {"before": 256, "kind": "call", "seq": 0})

    content = json.loads(body)
    assert content == {
        "schema": "interlock.audit/1",
        "kind": "marker",
        "seq": 5,
        "time_ns": str(START),
        "event": "expired",
        "before": 256,
    }
