"""What predicts the gain of the stronger model: neighbours, two logistic models, and both together."""

from __future__ import annotations

from adapters.routers.blend import LearnBlend
from adapters.routers.knn import LearnKnn
from adapters.routers.logistic import LearnLogistic
from gateway.routing.ports import Learner


def all_learners() -> tuple[Learner, ...]:
    """One of each kind, with the settings that are measured in `scripts/bench --routing`."""
    return LearnKnn(), LearnLogistic(), LearnBlend()
