"""The obligation `cache`: an answer of a model may be given again to the same caller for the same question."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from gateway.authz.reading import UnsupportedObligation, fields_of, whole_number
from gateway.types import Obligation

Mode: TypeAlias = Literal["exact", "semantic"]

CACHE_FIELDS: Final = frozenset({"mode", "ttl_s", "similarity"})
MAX_TTL_S: Final = 86_400
LEAST_SIMILARITY: Final = 0.9
"""Below, sentences are about the same thing and ask for another."""
SIMILARITY: Final = 0.97
_OF_MODELS: Final = "model.call"


@dataclass(frozen=True, slots=True)
class Cache(Obligation):
    """For `ttl_s` seconds. `semantic`: also for a question whose vector is as near as `similarity`."""

    mode: Mode = "exact"
    ttl_s: int = 1
    similarity: float = SIMILARITY


def read_cache(properties: object) -> Cache:
    """What policy asks for. Raises `UnsupportedObligation`."""
    fields = fields_of(properties, CACHE_FIELDS, "cache")
    mode = fields.get("mode", "exact")
    if mode not in ("exact", "semantic") or ("similarity" in fields and mode != "semantic"):
        raise UnsupportedObligation("cache: mode is exact or semantic, and similarity belongs to semantic")
    near = fields.get("similarity", SIMILARITY)
    if isinstance(near, bool) or not isinstance(near, int | float) or not LEAST_SIMILARITY <= near <= 1:
        raise UnsupportedObligation(f"cache: similarity is a number from {LEAST_SIMILARITY} to 1")
    ttl_s = whole_number(fields.get("ttl_s"), MAX_TTL_S, "cache: ttl_s")
    return _cache("semantic" if mode == "semantic" else "exact", ttl_s, float(near))


def _cache(mode: Mode, ttl_s: int, similarity: float) -> Cache:
    more = {"similarity": similarity} if mode == "semantic" else {}
    return Cache("cache", {"mode": mode, "ttl_s": ttl_s, **more}, mode, ttl_s, similarity)


def merge_caches(found: Sequence[Cache]) -> Sequence[Cache]:
    """The strictest of all (none for none): exact before semantic, the shortest time, the nearest question."""
    if not found:
        return ()
    mode: Mode = "semantic" if all(item.mode == "semantic" for item in found) else "exact"
    near = max(item.similarity for item in found)
    return (_cache(mode, min(item.ttl_s for item in found), near),)


def check_caching(action: str, obligations: Iterable[Obligation]) -> None:
    """Raises `UnsupportedObligation` where no model answers."""
    if action != _OF_MODELS and any(isinstance(item, Cache) for item in obligations):
        raise UnsupportedObligation(f"cache: {action} asks no model; name the action in the rule")
