"""`interlock models collect`, without a gateway: what is missing, and the file that outcomes are kept in."""

from __future__ import annotations

import fcntl
import json
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from conformance.processes import free_port
from gateway.cli import main
from gateway.cli.main import CANNOT
from gateway.routing.collecting import Collecting, Known, NotAsked, Said, kept_in, known_prompts, unasked
from gateway.routing.outcomes import as_line
from tests.routing.worlds import EMBEDDER, outcomes, prompts

CATALOGUE = '[models."echo/a"]\n[models."echo/b"]\n[routes.auto]\nweak = "echo/a"\nstrong = "echo/b"\n'
PAIR = ("echo/a", "echo/b")
ONE = '{"prompt": "Who are you?", "expect": "me"}\n'


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "models.toml").write_text(CATALOGUE)
    path = tmp_path / "interlock.toml"
    path.write_text(f'[upstreams.echo]\ntype = "echo"\n[listen]\nport = {free_port()}\n[state]\ndir = "{tmp_path}/s"\n')
    monkeypatch.setenv("INTERLOCK_API_KEY", "ilk_0123456789")
    (tmp_path / "known.jsonl").write_text(ONE)
    return str(path)


def words(config: str, *more: str) -> list[str]:
    return ["models", "collect", str(Path(config).parent / "known.jsonl"), "--config", config, *more]


def test_a_route_that_there_is_not_is_said_with_those_that_there_are(
    config: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words(config, "--route", "best-of")) == CANNOT
    assert "models.toml describes no route 'best-of'; the routes are: auto" in capsys.readouterr().err


def test_where_no_gateway_runs_it_says_how_to_start_one(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words(config)) == CANNOT
    assert re.search(r"no gateway answers at http://127.0.0.1:\d+ .*: start it with", capsys.readouterr().err)


def test_nothing_is_asked_where_nobody_could_learn_from_it(
    config: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "adapters.routers", None)

    assert main(words(config)) == CANNOT
    assert "install the extra 'memory'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("what?", "Expecting value"),
        ("[1]", "list indices"),
        ('{"prompt": "a"}', "'expect' is missing"),
        ('{"prompt": null, "expect": "a"}', "the prompt is no text"),
        ('{"prompt": " ", "expect": "a"}', "the prompt is no text"),
        ('{"prompt": "\\ud800", "expect": "a"}', "surrogates"),
        ('{"prompt": "a", "expect": "("}', "unterminated subpattern"),
    ],
)
def test_a_bad_line_is_named(config: str, line: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    file = Path(config).parent / "known.jsonl"
    file.write_text(f"{ONE}\n{line}\n")

    assert main(words(config)) == CANNOT
    err = capsys.readouterr().err
    assert f"error: {file}:3: " in err
    assert says in err
    assert 'a line is {"prompt": ..., "expect": REGULAR EXPRESSION}' in err


def test_a_prompt_may_hold_what_ends_a_line_elsewhere(tmp_path: Path) -> None:
    file = tmp_path / "known.jsonl"
    file.write_text(json.dumps({"prompt": "a\u2028b\x85c", "expect": 4}, ensure_ascii=False), encoding="utf-8")

    (known,) = known_prompts(file)

    assert known.prompt == "a\u2028b\x85c"
    assert known.right("it is 4")


@pytest.mark.parametrize("content", ["prompt,weak_correct\n", "one\ntwo", "{}"])
def test_a_file_that_holds_something_else_is_not_added_to(
    config: str, tmp_path: Path, content: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "mine.txt"
    out.write_text(content)

    assert main(words(config, "--out", str(out))) == CANNOT
    assert f"{out}: line 1 is no outcome" in capsys.readouterr().err
    assert out.read_text() == content


def test_calibrate_without_a_file_says_how_outcomes_are_collected(
    config: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["models", "calibrate", "--config", config]) == CANNOT
    err = capsys.readouterr().err
    assert "auto.outcomes.jsonl: no outcomes were collected yet: `interlock models collect FILE --route auto`" in err


def test_calibrate_does_not_learn_from_outcomes_of_other_models(
    config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "s" / "routing" / "auto.outcomes.jsonl"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"".join(as_line(each, EMBEDDER.name, ("echo/x", "echo/b")) for each in outcomes(2)))

    assert main(["models", "calibrate", "--config", config]) == CANNOT
    assert "none of its 2 outcomes is of echo/a and echo/b with vectors of" in capsys.readouterr().err


@pytest.mark.parametrize(("cut", "left"), [(1, 3), (2, 2), (500, 2)], ids=["its end", "its brace", "half"])
def test_a_line_that_was_not_written_to_its_end_does_not_spoil_the_file(tmp_path: Path, cut: int, left: int) -> None:
    path = tmp_path / "kept"
    written = b"".join(as_line(each, EMBEDDER.name, PAIR) for each in outcomes(3))
    path.write_bytes(written[:-cut])
    more = outcomes(4)[3]

    with kept_in(path, EMBEDDER.name, PAIR) as kept:
        found = kept.count
        kept.append(more)

    assert found == left
    with kept_in(path, EMBEDDER.name, PAIR) as kept:
        assert (kept.count, more.key in kept.keys) == (left + 1, True)


def test_outcomes_of_other_models_or_vectors_are_not_taken_for_asked(tmp_path: Path) -> None:
    path, (one, two, three) = tmp_path / "kept", outcomes(3)
    path.write_bytes(
        as_line(one, EMBEDDER.name, PAIR) + as_line(two, EMBEDDER.name, ("x/y", "echo/b")) + as_line(three, "other/8")
    )

    with kept_in(path, EMBEDDER.name, PAIR) as kept:
        assert kept.keys == {one.key}


def test_two_runs_do_not_add_to_one_file(tmp_path: Path) -> None:
    with (tmp_path / "kept").open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match="another run is adding to it"), kept_in(tmp_path / "kept", "x", PAIR):
            pass


@pytest.mark.anyio
async def test_prompts_that_the_models_cannot_take_do_not_end_a_run_but_a_model_that_is_gone_does(
    tmp_path: Path,
) -> None:
    known = [Known(line, text, re.compile("x")) for line, (text, _) in enumerate(prompts(30), start=1)]

    with kept_in(tmp_path / "kept", EMBEDDER.name, PAIR) as kept:
        todo = await unasked(known, kept, EMBEDDER)
        long = Collecting(kept, refusing(of_prompt=True), lambda _: None)
        gone = Collecting(kept, refusing(of_prompt=False), lambda _: None)
        ended: Sequence[bool] = [long.run(todo), gone.run(todo)]

    assert ended == [True, False]
    assert (long.tally.left_out, gone.tally.left_out) == (30, 10)


def refusing(*, of_prompt: bool) -> Callable[[str, str], Said]:
    """Models that answer nothing."""

    def ask(model: str, prompt: str) -> Said:
        raise NotAsked(f"{model} has no answer", of_prompt=of_prompt)

    return ask
