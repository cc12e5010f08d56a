"""Outcomes as arrays of numpy, and arrays as bytes that are the same on every machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from gateway.routing.ports import Outcome
from gateway.routing.prompts import FEATURES, Sample

Floats: TypeAlias = NDArray[np.float32]


def vectors_of(outcomes: Sequence[Outcome]) -> Floats:
    """One row for each outcome. Raises `ValueError` where they differ in length."""
    if not outcomes:
        raise ValueError("there are no outcomes")
    joined = np.frombuffer(b"".join(one.sample.vector for one in outcomes), dtype="<f4").astype(np.float32)
    sizes = {len(one.sample.vector) for one in outcomes}
    if len(sizes) != 1 or not joined.size:
        raise ValueError("the vectors of the outcomes differ in length")
    return joined.reshape(len(outcomes), -1)


def vector_of(sample: Sample, dimensions: int) -> Floats:
    """That of one prompt. Raises `ValueError` where it is of another length."""
    vector = np.frombuffer(sample.vector, dtype="<f4").astype(np.float32, copy=False)
    if len(vector) != dimensions:
        raise ValueError(f"the vector has {len(vector)} dimensions, not {dimensions}")
    return vector


def features_of(outcomes: Sequence[Outcome]) -> Floats:
    """The measures of the prompts, one row for each."""
    return np.array([one.sample.features for one in outcomes], dtype=np.float32).reshape(len(outcomes), len(FEATURES))


def grades_of(outcomes: Sequence[Outcome]) -> tuple[Floats, Floats]:
    """How the weak and the strong model did."""
    weak = np.array([one.weak for one in outcomes], dtype=np.float32)
    return weak, np.array([one.strong for one in outcomes], dtype=np.float32)


def as_bytes(array: Floats) -> bytes:
    """Little-endian float32, row by row."""
    return np.ascontiguousarray(array, dtype="<f4").tobytes()


def from_bytes(data: bytes, *shape: int) -> Floats:
    """The array again. Raises `ValueError` for another size, or what is no number."""
    array = np.frombuffer(data, dtype="<f4").astype(np.float32)
    if not np.isfinite(array).all():
        raise ValueError("an array holds what is no finite number")
    return array.reshape(shape)


def whole(value: object) -> int:
    """A parameter that is a whole number above 0. Raises `ValueError`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{value!r} is no whole number above 0")
    return value
