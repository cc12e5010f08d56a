"""Decides for one prompt whether the strong model is worth it, and says why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, TypeAlias

import anyio

from gateway.embedding import Embedder, EmbeddingUnavailable
from gateway.routing.files import Loaded
from gateway.routing.guard import QualityGuard
from gateway.routing.heuristic import KIND, Heuristic, cold_threshold
from gateway.routing.ports import Prediction
from gateway.routing.prompts import Sample, condensed, features_of, named

Tier: TypeAlias = Literal["weak", "strong"]
Why: TypeAlias = Literal["gain", "no_gain", "cold_start", "drift", "no_embedding", "asked"]
"""`gain` and `no_gain`: the predicted gain reaches the threshold or does not. `asked`: the quality leaves no choice."""

EMBED_S: Final = 2.0
"""How long a call waits for its vector before it goes to the strong model."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Which model, with all that it was decided from: what goes into headers, spans and the audit log.

    `strong_share` is the share of calls that the threshold sent to the strong model when it was calibrated.
    """

    tier: Tier
    why: Why
    words: str
    quality: float
    gain: float | None = None
    threshold: float | None = None
    strong_share: float | None = None
    predictor: str = KIND
    router: str = ""
    embedder: str = ""
    features: Mapping[str, float] = field(default_factory=dict)
    evidence: Mapping[str, float] = field(default_factory=dict)
    sample: Sample | None = field(default=None, repr=False)
    """What an outcome is recorded with, once the answer is judged."""

    def as_json(self) -> dict[str, object]:
        """The explanation, without the vector."""
        return {
            "tier": self.tier,
            "why": self.why,
            "words": self.words,
            "quality": self.quality,
            "gain": self.gain,
            "threshold": self.threshold,
            "strong_share": self.strong_share,
            "predictor": self.predictor,
            "router": self.router,
            "embedder": self.embedder,
            "features": dict(self.features),
            "evidence": dict(self.evidence),
        }


class GainRouter:
    """Over one pair of models. Without `loaded`, what was learned, it works by heuristic: mostly the strong one."""

    def __init__(
        self, embedder: Embedder | None, loaded: Loaded | None, guard: QualityGuard, *, embed_s: float = EMBED_S
    ) -> None:
        if loaded is not None and (embedder is None or embedder.name != loaded.trained.embedder):
            raise ValueError(f"the router needs the embedder {loaded.trained.embedder!r}")
        self._embedder, self._loaded, self._guard, self._embed_s = embedder, loaded, guard, embed_s
        self._heuristic = Heuristic()

    async def choose(self, prompt: str, quality: float) -> Choice:
        """Weak or strong for this prompt, at a share of the strong model's quality that is to be kept (0 to 1)."""
        if not 0 <= quality <= 1:
            raise ValueError(f"quality is {quality}; ask for 0 to 1")
        features = features_of(prompt)
        if quality >= 1:
            return Choice("strong", "asked", "quality 1 is the strong model", quality, features=named(features))
        if quality <= 0:
            return Choice("weak", "asked", "quality 0 is the weak model", quality, features=named(features))
        if (alarm := self._guard.alarm) is not None:
            return Choice("strong", "drift", f"stepped up: {alarm.words}", quality, features=named(features))
        if self._loaded is None or self._embedder is None:
            return self._cold(features, quality, await self._vector(prompt))
        vector = await self._vector(prompt)
        if vector is None:
            words = "no vector of the prompt could be had in time, so nothing can be predicted"
            return Choice("strong", "no_embedding", words, quality, features=named(features))
        return self._learned(Sample(vector, features), quality, self._loaded, self._embedder.name)

    async def _vector(self, prompt: str) -> bytes | None:
        if self._embedder is None:
            return None
        try:
            with anyio.fail_after(self._embed_s):
                return (await self._embedder.embed([condensed(prompt)]))[0]
        except (EmbeddingUnavailable, TimeoutError):
            return None

    def _cold(self, features: tuple[float, ...], quality: float, vector: bytes | None) -> Choice:
        found, threshold = self._heuristic.predict(Sample(b"", features)), cold_threshold(quality)
        strong = quality > 0 and found.gain >= threshold
        words = f"nothing is learned yet; by its form the prompt scores {found.gain:.2f}, and {threshold:.2f} is strong"
        return Choice(
            "strong" if strong else "weak",
            "cold_start",
            words,
            quality,
            gain=found.gain,
            threshold=threshold,
            embedder=self._embedder.name if self._embedder is not None and vector else "",
            features=named(features),
            evidence=_rounded(found),
            sample=None if vector is None else Sample(vector, features),
        )

    def _learned(self, sample: Sample, quality: float, loaded: Loaded, embedder: str) -> Choice:
        found, step = loaded.trained.predictor.predict(sample), loaded.trained.calibration.expected(quality)
        strong = found.gain >= step.threshold
        reaches = "reaches" if strong else "does not reach"
        return Choice(
            "strong" if strong else "weak",
            "gain" if strong else "no_gain",
            f"the predicted gain {found.gain:+.3f} {reaches} {step.threshold:+.3f}, the least for quality {quality:g}",
            quality,
            gain=found.gain,
            threshold=step.threshold,
            strong_share=step.share,
            predictor=loaded.trained.predictor.kind,
            router=loaded.sha256,
            embedder=embedder,
            features=named(sample.features),
            evidence=_rounded(found),
            sample=sample,
        )


def _rounded(found: Prediction) -> dict[str, float]:
    return {name: round(value, 4) for name, value in found.why.items()}
