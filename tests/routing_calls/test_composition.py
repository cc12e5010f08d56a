"""What a gateway makes of models.toml and of what was learned; the command line around it."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from anyio import to_thread

from gateway.app.models import Models
from gateway.app.routing import Routing, router_file
from gateway.cli.main import main
from gateway.config.models import load_models
from gateway.config.reading import load
from gateway.types import Obligation
from tests.fakes import FakeRelay, FakeUpstream
from tests.models.front import authorized
from tests.routing.worlds import GREETING, SUM, prompts

pytestmark = pytest.mark.anyio

CONFIG = """
[state]
dir = "state"
[policy]
path = "policy"
[upstreams.small]
type = "echo"
[upstreams.large]
type = "echo"
"""
MODELS = """
[models."large/one"]
usd_per_mtok_in = 1.5
usd_per_mtok_out = 2.0
context_tokens = 1000

[routes.auto]
weak = "small/one"
strong = "large/one"
quality = 0.8

[routes.auto-raw]
weak = "small/one"
strong = "large/one"
"""

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "interlock.toml").write_text(CONFIG)
    (tmp_path / "models.toml").write_text(MODELS)
    (tmp_path / "policy").mkdir()
    return tmp_path


@pytest.fixture
def run(place: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    def command(*words: str) -> tuple[int, str, str]:
        code = main([*words, "--config", str(place / "interlock.toml")])
        out, err = capsys.readouterr()
        return code, out, err

    return command


def judged(path: Path, count: int) -> Path:
    """A table in which sums are what only the strong model gets right, but for some."""
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["prompt", "weak_correct", "strong_correct", "task"])
        for number, (text, hard) in enumerate(prompts(count)):
            odd = number % 12 == 0
            table.writerow([text, str(hard == odd).lower(), "true", "sum" if hard else "greeting"])
    return path


def routing_of(place: Path) -> Routing:
    settings = load(place / "interlock.toml")
    models = Models()
    models.configure(settings, load_models(settings))
    return Routing(settings, models)


async def test_without_anything_learned_a_route_works_by_heuristic_and_says_so(place: Path) -> None:
    routing = routing_of(place)
    await routing.follow()

    route = routing.route("auto")

    assert route is not None
    assert (await route.router.choose(GREETING, 0.8)).why == "cold_start"
    assert route.expected(0.8) is None
    assert routing.route("auto-other") is None


async def test_what_was_learned_is_taken_while_the_gateway_runs_and_a_spoilt_file_is_not(
    place: Path, run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    routing = routing_of(place)
    await routing.follow()
    code, _, err = await _apart(run, "models", "calibrate", str(judged(place / "judged.csv", 320)))
    assert code == 0, err

    await routing.follow()
    route = routing.route("auto")
    assert route is not None
    hard, easy = await route.router.choose(SUM, 0.8), await route.router.choose(GREETING, 0.8)
    expected = route.expected(0.8)
    path = router_file(routing.settings, "auto", None)
    path.write_bytes(path.read_bytes()[:-9] + b"123456789")
    await routing.follow()
    spoilt = routing.route("auto")

    assert (hard.why, easy.why) == ("gain", "no_gain")
    assert expected is not None
    assert expected >= 0.8
    assert spoilt is not None
    assert (await spoilt.router.choose(SUM, 0.8)).why == "cold_start"
    assert "was altered" in caplog.text


async def _apart(run: Run, *words: str) -> tuple[int, str, str]:
    """A command has an event loop of its own."""
    return await to_thread.run_sync(lambda: run(*words))


async def test_canaries_that_fail_step_the_route_up_until_they_pass_or_somebody_says_so(place: Path, run: Run) -> None:
    routing = routing_of(place)
    file = place / "state" / "routing" / "canaries.jsonl"
    file.parent.mkdir(parents=True)

    def add(passed: int, **more: Any) -> None:
        line = {"route": "auto", "weak": "small/one", "passed": passed, "total": 50, **more}
        with file.open("a") as lines:
            lines.write(json.dumps(line) + "\n")

    add(48)
    add(20, weak="small/another")  # of another model: it says nothing of this one
    await routing.follow()
    route = routing.route("auto")
    assert route is not None
    calm = await route.router.choose(GREETING, 0.8)
    add(20)
    file.write_text(file.read_text() + "no JSON\n{half a line")
    await routing.follow()
    stepped_up = await route.router.choose(GREETING, 0.8)
    other = routing.route("auto-raw")
    assert other is not None
    spared = await other.router.choose(GREETING, 0.8)
    file.write_text(file.read_text().removesuffix("{half a line"))
    assert (await _apart(run, "models", "canary", "--resume", "--route", "auto"))[0] == 0
    await routing.follow()
    resumed = await route.router.choose(GREETING, 0.8)

    assert (calm.why, stepped_up.why, resumed.why) == ("cold_start", "drift", "cold_start")
    assert "20 of 50 canaries pass; 48 of 50 did" in stepped_up.words
    assert spared.tier == "weak"


async def test_runs_of_canaries_are_read_from_a_file_that_was_begun_anew(place: Path) -> None:
    routing = routing_of(place)
    file = place / "state" / "routing" / "canaries.jsonl"
    file.parent.mkdir(parents=True)
    run = {"route": "auto", "weak": "small/one", "total": 50}
    file.write_text("".join(json.dumps({**run, "passed": 50, "at_s": number}) + "\n" for number in range(9)))
    await routing.follow()

    file.write_text(json.dumps({**run, "passed": 1}) + "\n")
    await routing.follow()

    route = routing.route("auto", "acme")
    assert route is not None
    assert (await route.router.choose(SUM, 0.5)).why == "drift"


def test_the_list_has_models_prices_and_routes(run: Run) -> None:
    code, out, _ = run("models", "list")
    _, as_json, _ = run("models", "list", "--json")

    assert code == 0
    assert "large/one  1.5 and 2 USD for a million tokens in and out, context 1000, region ?" in out
    assert "auto  weak small/one, strong large/one, by heuristic, not calibrated" in out
    assert {each["id"] for each in json.loads(as_json)["models"]} >= {"large/one", "small/echo"}
    assert json.loads(as_json)["routes"]["auto"]["quality"] == 0.8


def test_a_choice_is_explained_and_nothing_is_asked(run: Run) -> None:
    code, out, _ = run("models", "route", "--explain", "What is 17 * 23 - 4, not 5?")
    _, cheap, _ = run("models", "route", "--explain", "Hi", "--route", "auto:cheap", "--json")

    assert code == 0
    assert out.startswith("auto -> ")
    assert "nothing is learned yet" in out
    assert "task: math" in out
    assert (json.loads(cheap)["model"], json.loads(cheap)["why"]) == ("small/one", "asked")


def test_too_little_teaches_nothing_and_changes_nothing(place: Path, run: Run) -> None:
    code, _, err = run("models", "calibrate", str(judged(place / "few.csv", 9)))

    assert code == 1
    assert "9 outcomes, and 300 are needed; nothing was changed" in err
    assert not (place / "state" / "routing").exists()


FAULTS = [
    (("models", "route", "--explain", "x", "--route", "auto-none"), "the routes are: auto, auto-raw"),
    (("models", "report"), "there is no audit log here"),
    (("models", "report", "--since", "soon"), "write a number and s, m, h or d"),
    (("models", "canary"), "give the file of canaries"),
]


@pytest.mark.parametrize(("words", "told"), FAULTS)
def test_faults_say_what_helps(run: Run, words: tuple[str, ...], told: str) -> None:
    code, _, err = run(*words)

    assert code == 2
    assert told in err


PARAPHRASES = [
    ("How do I reset my password?", "How can I reset my password?", True),
    ("How do I reset my password?", "How do I delete my account?", False),
    ("What was the revenue in 2023?", "What was the revenue in 2024?", False),
]


@pytest.mark.parametrize(("first", "second", "hit"), PARAPHRASES)
async def test_questions_that_mean_the_same_are_answered_once_as_soon_as_vectors_can_be_had(
    place: Path, first: str, second: str, hit: bool
) -> None:
    routing, provider = routing_of(place), FakeUpstream(payload=b'{"choices": []}')
    upstream = routing.carrying(lambda _: provider, lambda _, __: ())
    semantic = Obligation("cache", {"mode": "semantic", "ttl_s": 60, "similarity": 0.93})

    async def ask(text: str) -> None:
        params = {"messages": [{"role": "user", "content": text}]}
        asked = authorized("chat.completions", params, semantic)
        await upstream(asked.call).execute(asked, FakeRelay())

    await ask("anything")
    await routing.follow()  # the embedder is opened now
    await ask(first)
    await ask(second)

    assert len(provider.executed) == (2 if hit else 3)
