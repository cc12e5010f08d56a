"""Predicts the gain as the mean of what neighbours and the logistic models say: their errors differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from adapters.routers.knn import KIND as KNN
from adapters.routers.knn import LearnKnn
from adapters.routers.logistic import KIND as LOGISTIC
from adapters.routers.logistic import LearnLogistic
from gateway.routing.ports import GainPredictor, Learner, Outcome, Prediction
from gateway.routing.prompts import Sample

KIND: Final = "blend"


@dataclass(frozen=True, slots=True)
class Blend:
    """Each part by its kind."""

    parts: Mapping[str, GainPredictor]
    kind: str = KIND

    def predict(self, sample: Sample) -> Prediction:
        """As the port says; figures carry the name of the part that they are from."""
        found = {name: part.predict(sample) for name, part in self.parts.items()}
        why = {f"{name}_gain": one.gain for name, one in found.items()}
        for name, one in found.items():
            why |= {f"{name}_{what}": value for what, value in one.why.items()}
        return Prediction(sum(one.gain for one in found.values()) / len(found), why)

    def state(self) -> tuple[Mapping[str, object], Mapping[str, bytes]]:
        """As the port says."""
        states = {name: part.state() for name, part in self.parts.items()}
        arrays = {f"{name}/{key}": data for name, (_, held) in states.items() for key, data in held.items()}
        return {name: parameters for name, (parameters, _) in states.items()}, arrays


@dataclass(frozen=True, slots=True)
class LearnBlend:
    """Has each part learn from all outcomes."""

    learners: Mapping[str, Learner] = field(default_factory=lambda: {KNN: LearnKnn(), LOGISTIC: LearnLogistic()})
    kind: str = KIND

    def learn(self, outcomes: Sequence[Outcome]) -> GainPredictor:
        """As the port says."""
        return Blend({name: learner.learn(outcomes) for name, learner in self.learners.items()})

    def restore(self, parameters: Mapping[str, object], arrays: Mapping[str, bytes]) -> GainPredictor:
        """As the port says."""
        parts = {}
        for name, learner in self.learners.items():
            match parameters[name]:
                case dict(own):
                    pass
                case _:
                    raise ValueError(f"part {name!r} has no parameters")
            held = {key.removeprefix(f"{name}/"): data for key, data in arrays.items() if key.startswith(f"{name}/")}
            parts[name] = learner.restore(own, held)
        return Blend(parts)


_: type[GainPredictor] = Blend
_learner: type[Learner] = LearnBlend
