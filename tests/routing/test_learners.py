"""One suite for every learner, and what training, files and the lines of outcomes promise."""

from __future__ import annotations

import base64
import hashlib
import struct
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from adapters.routers import all_learners
from gateway import codec
from gateway.routing.files import BadRouterFile, load, packed, save, unpacked
from gateway.routing.heuristic import Unlearned
from gateway.routing.learning import MIN_OUTCOMES, TooFewOutcomes, Trained, cross_predicted, fold_of, train
from gateway.routing.outcomes import as_line, embedded, read_lines
from gateway.routing.ports import GainPredictor, Learner, Outcome
from gateway.routing.prompts import FEATURES, Sample, condensed, features_of, named
from gateway.routing.tables import judged_table
from tests.routing.worlds import EMBEDDER, GREETING, SUM, outcomes, sample

LEARNERS = [*all_learners(), Unlearned()]
NAMES = [learner.kind for learner in LEARNERS]


def _trained(count: int = 400) -> Trained:
    return train(outcomes(count), all_learners(), embedder=EMBEDDER.name, dimensions=EMBEDDER.dimensions)


@pytest.mark.parametrize("learner", LEARNERS, ids=NAMES)
def test_every_learner_predicts_more_gain_where_only_the_strong_model_is_right(learner: Learner) -> None:
    predictor = learner.learn(outcomes(400))

    hard, easy = predictor.predict(sample(SUM)), predictor.predict(sample(GREETING))

    assert hard.gain > easy.gain
    assert -1 <= easy.gain <= hard.gain <= 1
    assert hard.why


@pytest.mark.parametrize("learner", LEARNERS, ids=NAMES)
def test_a_predictor_is_the_same_after_its_state_was_kept(learner: Learner) -> None:
    predictor = learner.learn(outcomes(400))
    parameters, arrays = predictor.state()

    restored = learner.restore(_plain(parameters), arrays)

    assert restored.predict(sample(SUM)) == predictor.predict(sample(SUM))
    assert restored.kind == predictor.kind == learner.kind


@pytest.mark.parametrize("learner", all_learners(), ids=NAMES[:-1])
def test_a_prompt_with_a_vector_of_another_length_is_refused(learner: Learner) -> None:
    predictor = learner.learn(outcomes(100))

    with pytest.raises(ValueError, match="dimensions"):
        predictor.predict(Sample(b"\0" * 8, features_of(SUM)))


@pytest.mark.parametrize("learner", all_learners(), ids=NAMES[:-1])
def test_an_array_of_another_size_is_refused(learner: Learner) -> None:
    parameters, arrays = learner.learn(outcomes(100)).state()

    for name, data in arrays.items():
        with pytest.raises(ValueError, match=r"reshape|buffer"):
            learner.restore(_plain(parameters), {**arrays, name: data[:-4]})
        with pytest.raises(ValueError, match="finite"):
            learner.restore(_plain(parameters), {**arrays, name: data[:-4] + b"\xff\xff\xff\x7f"})


def _plain(parameters: object) -> dict[str, object]:
    match codec.loads(codec.dumps(parameters)):
        case dict(plain):
            return dict(plain)
        case _:
            raise AssertionError("parameters are no object")


def test_training_takes_what_orders_unseen_outcomes_best_and_calibrates_it() -> None:
    found = _trained()

    assert found.scores.apgr > 0.65
    assert found.calibration.outcomes == 400
    assert 0.3 < found.calibration.expected(0.9).share < 0.8


def test_training_twice_gives_the_same_file() -> None:
    assert packed(_trained()) == packed(_trained())


class Memorising:
    """Knows every outcome it was taught, and has no idea of others: what leaks would show."""

    kind = "memorising"

    def learn(self, outcomes: Sequence[Outcome]) -> GainPredictor:
        """Fails where a prompt to be checked was taught."""
        return Unlearned().learn(outcomes)

    def restore(self, parameters: object, arrays: object) -> GainPredictor:
        """Never asked."""
        raise NotImplementedError


def test_the_same_prompt_is_never_in_what_is_learned_and_in_what_is_checked() -> None:
    seen: list[set[str]] = []

    class Spying(Memorising):
        def learn(self, outcomes: Sequence[Outcome]) -> GainPredictor:
            seen.append({outcome.key for outcome in outcomes})
            return super().learn(outcomes)

    twice = [*outcomes(100), *outcomes(100)]
    rows = cross_predicted(twice, Spying())

    assert [(row.weak, row.strong) for row in rows] == [(outcome.weak, outcome.strong) for outcome in twice]
    for outcome in twice:
        assert sum(outcome.key not in keys for keys in seen) == 1
    assert {fold_of(outcome.key) for outcome in twice} == set(range(5))


@pytest.mark.parametrize(
    ("few", "words"),
    [
        (outcomes(MIN_OUTCOMES - 1), "are needed"),
        ([replace(outcome, weak=1.0, strong=1.0) for outcome in outcomes(400)], "was better 0 times"),
        ([replace(one, weak=1.0, strong=float(at < 30)) for at, one in enumerate(outcomes(400))], "was better 0 times"),
    ],
)
def test_too_few_outcomes_are_said_to_be_too_few(few: list[Outcome], words: str) -> None:
    with pytest.raises(TooFewOutcomes, match=words):
        train(few, all_learners(), embedder=EMBEDDER.name, dimensions=EMBEDDER.dimensions)


@pytest.mark.parametrize("seed", range(12))
def test_two_prompts_are_checked_by_each_other_in_whichever_fold_they_are(seed: int) -> None:
    pair = outcomes(2, seed)

    rows = cross_predicted([*pair, *pair], Memorising())

    assert [(row.weak, row.strong) for row in rows] == [(outcome.weak, outcome.strong) for outcome in pair * 2]


def test_outcomes_of_one_prompt_only_teach_nothing() -> None:
    one = replace(outcomes(1)[0], weak=0.0, strong=1.0)

    with pytest.raises(TooFewOutcomes, match="one prompt"):
        train([one] * 400, all_learners(), embedder=EMBEDDER.name, dimensions=EMBEDDER.dimensions)


def test_a_file_is_read_again_under_the_hash_it_was_written_with(tmp_path: Path) -> None:
    trained = _trained()
    sha256 = save(trained, tmp_path / "router")

    loaded = load(tmp_path / "router", all_learners(), embedder=EMBEDDER.name, dimensions=EMBEDDER.dimensions)

    assert loaded.sha256 == sha256
    assert loaded.trained.calibration == trained.calibration
    assert loaded.trained.scores == trained.scores
    assert loaded.trained.predictor.predict(sample(SUM)) == trained.predictor.predict(sample(SUM))
    assert [path.name for path in tmp_path.iterdir()] == ["router"]


def test_every_altered_byte_of_a_file_is_noticed() -> None:
    data = packed(_trained())

    for place in (*range(0, 400, 7), len(data) // 2, len(data) - 1):
        altered = data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]
        with pytest.raises(BadRouterFile):
            unpacked(altered, all_learners(), embedder=EMBEDDER.name, dimensions=EMBEDDER.dimensions)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (b'"features_version":1', b'"features_version":9', "version 9"),
        (b'"kind":"', b'"kind":"pickle.', "unknown kind"),
        (b'"embedder":"hashing', b'"embedder":"another', "made for vectors"),
        (b'"calibration":{', b'"calibration":{"steps":[],"x":{', "header|hold together"),
        (b'"rows":', b'"rows":9', "hold together"),
        (b'{"format":1', b'["format":1', "hold together"),
    ],
)
def test_a_file_that_is_for_something_else_is_refused_with_the_reason(old: bytes, new: bytes, words: str) -> None:
    _, _, body = packed(_trained()).partition(b"\n")
    body = body.replace(old, new, 1)
    data = f"interlock-router 1 sha256:{hashlib.sha256(body).hexdigest()}\n".encode() + body

    with pytest.raises(BadRouterFile, match=words):
        unpacked(data, all_learners(), embedder=EMBEDDER.name, dimensions=EMBEDDER.dimensions)


def test_a_file_that_is_not_there_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(BadRouterFile, match="calibrate again"):
        load(tmp_path / "none", all_learners(), embedder=EMBEDDER.name, dimensions=EMBEDDER.dimensions)


def test_lines_of_outcomes_hold_no_prompt_and_are_read_again() -> None:
    written = outcomes(20)
    lines = [as_line(outcome, EMBEDDER.name) for outcome in written]

    assert list(read_lines(lines, EMBEDDER.name)) == written
    assert not any(b"matrix" in line or b"greeting to" in line for line in lines)


def test_outcomes_of_another_embedder_are_left_out() -> None:
    assert not list(read_lines([as_line(outcomes(1)[0], "another/8")], EMBEDDER.name))


@pytest.mark.parametrize("line", [b"{", b"{}", as_line(outcomes(1)[0], "x").replace(b'"weak":', b'"weak":7')])
def test_a_line_that_is_no_outcome_is_named(line: bytes) -> None:
    with pytest.raises(ValueError, match="line 2 is no outcome"):
        list(read_lines([as_line(outcomes(1)[0], "x"), line], "x"))


_DAMAGED = {
    "a measure is missing": {"features": [1.0]},
    "a measure is too large": {"features": [1e300] * len(FEATURES)},
    "a vector is of no numbers": {"vector": base64.b64encode(struct.pack("<4f", *[float("nan")] * 4)).decode()},
    "a vector is cut": {"vector": "AAAA"},
}


@pytest.mark.parametrize("damage", _DAMAGED.values(), ids=_DAMAGED.keys())
def test_one_outcome_that_would_spoil_all_that_is_learned_is_named(damage: dict[str, codec.JsonValue]) -> None:
    good = as_line(outcomes(1)[0], EMBEDDER.name)
    line = codec.loads(good)
    assert isinstance(line, dict)

    with pytest.raises(ValueError, match="line 2 is no outcome"):
        list(read_lines([good, codec.dumps({**line, **damage})], EMBEDDER.name))


@pytest.mark.anyio
async def test_a_judged_table_becomes_outcomes(tmp_path: Path) -> None:
    table = tmp_path / "table.csv"
    table.write_text(f'task,prompt,weak_correct,strong_correct\nsum,"{SUM}",0,True\nx,{GREETING},0.5,1\n')

    found = await embedded(judged_table(table).rows, EMBEDDER)

    assert [(outcome.weak, outcome.strong, outcome.task) for outcome in found] == [(0, 1, "sum"), (0.5, 1, "x")]
    assert found[0].sample == sample(SUM)


def test_measures_of_a_prompt_have_names_and_are_finite_for_any_text() -> None:
    for text in ("", " ", "\x00", "\ud800", "١٢٣", "a" * 100_000, SUM):
        assert set(named(features_of(text))) == set(FEATURES)


def test_a_long_prompt_is_condensed_to_the_words_that_carry_meaning() -> None:
    text = "What is the sum of 17 and 23, and why is it not the same as that of 3 * 4? " * 3

    assert condensed(SUM) == SUM
    assert condensed(text).startswith("What sum 17 23 why not same 3 * 4")
    assert condensed("、" * 200) == "、" * 200
