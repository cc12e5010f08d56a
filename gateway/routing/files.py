"""A trained predictor as a file: JSON and plain arrays behind a hash. Reading one runs no code of its.

interlock-router 1 sha256:<hex of all that follows this line>
{"format": 1, "kind": ..., "embedder": ..., "features_version": ..., "parameters": ..., "arrays": {name: bytes}, ...}
<the arrays, one after the other>
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from gateway import codec
from gateway.routing.evaluation import Scores
from gateway.routing.learning import Trained
from gateway.routing.ports import Learner
from gateway.routing.prompts import FEATURES_VERSION
from gateway.routing.thresholds import Calibration

FORMAT: Final = 1
_MAGIC: Final = f"interlock-router {FORMAT} sha256:"


class BadRouterFile(Exception):
    """The file cannot be used: it was altered, or was made for something else. The message says which."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A predictor that was read, and the hash that names it in records."""

    trained: Trained
    sha256: str


def packed(trained: Trained) -> bytes:
    """The bytes of the file."""
    parameters, arrays = trained.predictor.state()
    header = {
        "format": FORMAT,
        "kind": trained.predictor.kind,
        "embedder": trained.embedder,
        "dimensions": trained.dimensions,
        "features_version": FEATURES_VERSION,
        "parameters": parameters,
        "calibration": trained.calibration.as_json(),
        "scores": asdict(trained.scores),
        "arrays": {name: len(data) for name, data in arrays.items()},
    }
    body = b"".join([codec.dumps(header), b"\n", *arrays.values()])
    return f"{_MAGIC}{hashlib.sha256(body).hexdigest()}\n".encode() + body


def save(trained: Trained, path: Path) -> str:
    """Write the file in one step, so that nobody reads half of it; its hash."""
    data = packed(trained)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with beside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    return data.partition(b"\n")[0].decode().rpartition(":")[2]


def load(path: Path, learners: Iterable[Learner], *, embedder: str, dimensions: int) -> Loaded:
    """Read and check a file. Raises `BadRouterFile`."""
    try:
        return unpacked(path.read_bytes(), learners, embedder=embedder, dimensions=dimensions)
    except (OSError, BadRouterFile) as exc:
        raise BadRouterFile(f"{path}: {exc}; calibrate again") from exc


def unpacked(data: bytes, learners: Iterable[Learner], *, embedder: str, dimensions: int) -> Loaded:
    """What a file holds. Raises `BadRouterFile`."""
    line, _, body = data.partition(b"\n")
    sha256 = hashlib.sha256(body).hexdigest()
    if not line.startswith(b"interlock-router "):
        raise BadRouterFile("is no router file")
    if not line.startswith(_MAGIC.encode()):
        raise BadRouterFile(f"has another format than {FORMAT}")
    if line != f"{_MAGIC}{sha256}".encode():
        raise BadRouterFile("was altered: its hash is not that of its content")
    head, _, rest = body.partition(b"\n")
    try:
        return Loaded(
            _trained(codec.loads(head), rest, {each.kind: each for each in learners}, embedder, dimensions), sha256
        )
    except (KeyError, TypeError, ValueError) as exc:
        raise BadRouterFile(f"does not hold together: {exc}") from exc


def _trained(
    header: codec.JsonValue, rest: bytes, learners: Mapping[str, Learner], embedder: str, dimensions: int
) -> Trained:
    match header:
        case {"embedder": str(made), "dimensions": int(size)} if (made, size) != (embedder, dimensions):
            raise BadRouterFile(f"was made for vectors of {made!r}, and these are of {embedder!r}")
        case {"features_version": int(version)} if version != FEATURES_VERSION:
            raise BadRouterFile(f"was made for version {version} of the features, and this is {FEATURES_VERSION}")
        case {"kind": str(kind)} if kind not in learners:
            raise BadRouterFile(f"is of the unknown kind {kind!r}")
        case {
            "kind": str(kind),
            "parameters": dict(parameters),
            "arrays": dict(sizes),
            "calibration": dict(calibration),
            "scores": dict(figures),
        }:
            predictor = learners[kind].restore(parameters, _arrays(sizes, rest))
            found = Scores(**{name: float(str(value)) for name, value in figures.items()})
            return Trained(predictor, Calibration.from_json(calibration), found, embedder, dimensions)
        case _:
            raise BadRouterFile("has a header that is none")


def _arrays(sizes: Mapping[str, object], rest: bytes) -> dict[str, bytes]:
    found, start = {}, 0
    for name, size in sizes.items():
        if not isinstance(size, int) or size < 0:
            raise BadRouterFile(f"array {name!r} has no size")
        found[name] = rest[start : start + size]
        start += size
    if start != len(rest):
        raise BadRouterFile("its arrays are of another size")
    return found
