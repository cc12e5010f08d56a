"""What policy takes out of a result is out of every place it is said in."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.authz.obligations import Redact, obligations_in
from gateway.authz.patterns import PATTERNS
from gateway.authz.redaction import MAX_BYTES, CannotRedact, redacted
from gateway.ports import Detector, Spotted
from tests.authz.makers import WordDetector, obligation

CARD = "4111 1111 1111 1111"
TOKEN = "ghp_" + "a" * 36


def without(value: object, *detectors: Detector, **properties: object) -> object:
    (redaction,) = obligations_in([obligation("redact", **properties)])
    assert isinstance(redaction, Redact)
    return json.loads(redacted(json.dumps(value).encode(), redaction, detectors))


def test_a_path_is_followed_in_structured_content_and_in_its_text() -> None:
    rows = {"rows": [{"email": "a@b.org", "id": 1}, {"id": 2}]}
    result = {"structuredContent": rows, "content": [{"type": "text", "text": json.dumps(rows)}], "isError": False}

    cut = without(result, paths=["$.rows[*].email"])

    assert isinstance(cut, dict)
    assert cut["structuredContent"] == {"rows": [{"email": "[redacted]", "id": 1}, {"id": 2}]}
    assert json.loads(cut["content"][0]["text"]) == cut["structuredContent"]
    assert cut["isError"] is False


def test_a_path_is_followed_from_the_result_itself() -> None:
    cut = without({"contents": [{"uri": "file:///a", "text": "secret"}]}, paths=["$.contents[*].text"])

    assert cut == {"contents": [{"uri": "file:///a", "text": "[redacted]"}]}


def test_a_json_text_anywhere_is_cut() -> None:
    text = '  [{"email": "a@b.org"}]'
    result = {"messages": [{"role": "user", "content": {"type": "text", "text": text}}]}

    cut = without(result, paths=["$[*].email"])

    assert "a@b.org" not in json.dumps(cut)


@pytest.mark.parametrize("more", ["NaN", "-Infinity", '"\\ud83d"', "12345678901234567890123"])
def test_what_only_some_parsers_read_as_json_is_cut_for_them(more: str) -> None:
    text = f'{{"email": "a\\u0040b.org", "n": {more}, "rows": [{{"hidden": "value 1"}}]}}'

    by_path = without({"content": [{"text": text}]}, paths=["$.email"])
    by_detector = without({"content": [{"text": text}]}, HUSH, detectors=["secret"])

    assert isinstance(by_path, dict)
    assert json.loads(by_path["content"][0]["text"])["email"] == "[redacted]"
    assert isinstance(by_detector, dict)
    assert json.loads(by_detector["content"][0]["text"])["rows"] == [{"hidden": "[redacted]"}]


@pytest.mark.parametrize("text", ["plain", "{not json", '{"b": 1}', "[1"])
def test_a_text_without_the_path_stays_as_it_is(text: str) -> None:
    assert without({"content": [{"text": text}]}, paths=["$.a"]) == {"content": [{"text": text}]}


@pytest.mark.parametrize("value", [[1, "a"], "text", 7, None])
def test_a_result_of_any_shape_is_read(value: object) -> None:
    assert without(value, paths=["$.a"]) == value


@pytest.mark.parametrize(
    ("pattern", "text", "clean"),
    [
        ("email", "write to ana.maria+x@mail.example.org.", "write to [redacted]."),
        ("email", "no @ address", "no @ address"),
        ("credit_card", f"card {CARD}, thanks", "card [redacted], thanks"),
        ("credit_card", "4111-1111-1111-1111", "[redacted]"),
        ("credit_card", f"11 22 33 44 55 66 77 {CARD} 8", "11 22 [redacted] 8"),
        ("credit_card", "4111111111111112", "4111111111111112"),
        ("credit_card", "0" * 25, "0" * 25),
        ("secret", f"token={TOKEN}!", "token=[redacted]!"),
        ("secret", "key AKIAIOSFODNN7EXAMPLE", "key [redacted]"),
        ("secret", "sk-" + "a1" * 20, "[redacted]"),
        ("secret", "Bearer eyJhbGciOiJI.eyJzdWIiOiIx.c2ln", "Bearer [redacted]"),
        ("secret", "-----BEGIN RSA PRIVATE KEY-----\nMIIE+/=\n-----END RSA PRIVATE KEY-----\nrest", "[redacted]\nrest"),
        ("secret", "-----BEGIN PRIVATE KEY-----\\nMIIE", "[redacted]"),
        ("secret", "risk-averse people ask-for eyJ", "risk-averse people ask-for eyJ"),
    ],
)
def test_a_pattern_is_taken_out_of_a_text(pattern: str, text: str, clean: str) -> None:
    assert PATTERNS[pattern](text) == clean


def test_patterns_reach_every_text_and_name() -> None:
    result = {"structuredContent": {"a@b.org": [f"x {CARD}"], "n": 4111111111111111}, "content": [{"text": "a@b.org"}]}

    cut = without(result, patterns=["email", "credit_card"])

    assert cut == {
        "structuredContent": {"[redacted]": ["x [redacted]"], "n": 4111111111111111},
        "content": [{"text": "[redacted]"}],
    }


REDACTION = Redact("redact", patterns=("email",))


@pytest.mark.parametrize("payload", [b"", b"{", b"\xff", b"[" * 5_000, b"x" * (MAX_BYTES + 1)])
def test_what_cannot_be_read_is_withheld(payload: bytes) -> None:
    with pytest.raises(CannotRedact):
        redacted(payload, REDACTION)


def test_what_is_nested_too_deeply_is_withheld() -> None:
    with pytest.raises(CannotRedact, match="deeper"):
        redacted(b"[" * 200 + b"]" * 200, REDACTION)


@pytest.mark.parametrize(
    "hostile",
    [
        "a" * 200000,
        "123-" * 50000,
        "a@" * 100000,
        "a." * 100000,
        "1 " * 100000,
        "1" * 200000,
        "eyJ-" * 50000,
        "-eyJaaaaaaaa." * 15000,
        "sk-" * 60000,
        "-----BEGIN PRIVATE KEY-----" * 8000,
        "-----BEGIN " * 18000,
        "a@a." * 50000,
        "eyJaaaaaaaa.eyJaaaaaaaa " * 8000,
        "4111 1111 1111 1112 " * 10000,
    ],
)
def test_no_text_makes_a_pattern_slow(hostile: str) -> None:
    for clean in PATTERNS.values():
        started = time.process_time()

        clean(hostile)

        assert time.process_time() - started < 2


@given(st.text(max_size=200))
def test_cleaning_twice_changes_nothing_more(text: str) -> None:
    for clean in PATTERNS.values():
        once = clean(text)

        assert clean(once) == once


HUSH = WordDetector()


@pytest.mark.parametrize(("mode", "mark"), [("mask", "[redacted]"), ("remove", "")])
def test_what_a_detector_finds_is_out_of_every_text_and_name(mode: str, mark: str) -> None:
    result = {
        "content": [{"text": "say hushed, hushed!"}],
        "hushed": ["a hushed"],
        "n": 123456789012345,
        "ok": True,
        "x": None,
    }

    cut = without(result, HUSH, detectors=["secret"], mode=mode)

    assert cut == {
        "content": [{"text": f"say {mark}, {mark}!"}],
        mark: [f"a {mark}"],
        "n": 123456789012345,
        "ok": True,
        "x": None,
    }


def test_what_the_name_of_a_member_gives_away_is_found_in_json_that_is_a_text() -> None:
    cut = without({"text": '{"hidden": ["value 1"], "b": 2}', "hidden": "value 2"}, HUSH, detectors=["secret"])

    assert cut == {"text": '{"hidden":["[redacted]"],"b":2}', "hidden": "[redacted]"}


def test_a_text_that_is_json_stays_as_it_was_written_where_nothing_is_found() -> None:
    text = '{ "a" : [1, 2] }'

    assert without({"text": text}, HUSH, detectors=["secret"]) == {"text": text}


def test_a_number_that_is_found_becomes_a_text() -> None:
    numbers = WordDetector(word="123456789012")

    assert without([123456789012, 12345], numbers, detectors=["secret"]) == ["[redacted]", 12345]


def test_no_member_takes_the_place_of_another() -> None:
    names = {"hushed-1": 1, "[redacted]-1": 2, "hushed-2": 3, "hushedhushed-2": 4, "hushed": 5, "[redacted]": 6}
    digits = WordDetector(word="hushed-2")

    cut = without(names, HUSH, detectors=["secret"])
    same = without({"a hushed-2": 1, "a [redacted]": 2, "[redacted]2": 3}, digits, detectors=["secret"])

    assert isinstance(cut, dict)
    assert sorted(cut.values()) == [1, 2, 3, 4, 5, 6]
    assert "hushed" not in json.dumps(cut)
    assert isinstance(same, dict)
    assert sorted(same.values()) == [1, 2, 3]


def test_what_comes_together_when_something_is_removed_goes_too() -> None:
    assert without(["huhushedshed, hushehushedd"], HUSH, detectors=["secret"], mode="remove") == [", "]


def test_a_text_that_is_never_clean_goes_as_a_whole() -> None:
    class Everything(WordDetector):
        def find(self, text: str, name: str = "") -> list[Spotted]:
            return [Spotted(0, 1, "any")]

    assert without(["a text that is long"], Everything(), detectors=["secret"]) == ["[redacted]"]


def test_what_nobody_can_find_withholds_the_result() -> None:
    with pytest.raises(CannotRedact, match="no detector"):
        without({}, HUSH, detectors=["secret", "personal_data"])


def test_what_is_nested_too_deeply_for_detectors_is_withheld() -> None:
    redaction = Redact("redact", detectors=("secret",))

    with pytest.raises(CannotRedact, match="deeper"):
        redacted(b"[" * 200 + b"]" * 200, redaction, [HUSH])
