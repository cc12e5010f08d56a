"""A policy as one frozen value: its modules, its data, and a revision that is the hash of both.

A directory holds `*.rego` (`*_test.rego` beside them), test cases under `cases/`, and data as OPA's own bundles
do: `data.json` or `data.yaml`, whose place is the directory it is in (`grants/data.json` is `data.grants`). Under a
`data/` directory any `<name>.json` or `<name>.yaml` is `data.<name>`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast

from adapters.pdp.engine import read_yaml
from gateway import codec

_DATA_SUFFIXES: Final = frozenset({".json", ".yaml", ".yml"})
_MAX_FILE_BYTES: Final = 16 << 20
_NOT_POLICY: Final = frozenset({"schemas", "node_modules", "__pycache__"})


@dataclass(frozen=True, slots=True, order=True)
class Fault:
    """One thing that is wrong with a policy, where, and what to do about it."""

    file: str
    line: int
    col: int
    message: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.col}: {self.message}"


class PolicyRefused(Exception):
    """The policy is not activated; `faults` says why."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(str(fault) for fault in self.faults))


@dataclass(frozen=True, slots=True)
class Source:
    """One file of a bundle, under the name that is shown for it."""

    path: str
    text: str


@dataclass(frozen=True, slots=True)
class Bundle:
    """What an engine is built from. `data` is one JSON object, keys sorted; `revision` changes with files and data."""

    files: tuple[Source, ...]
    data: bytes
    revision: str
    tests: tuple[Source, ...] = ()
    cases: tuple[Source, ...] = ()

    @property
    def modules(self) -> tuple[tuple[str, str], ...]:
        """The policies as pairs of name and text."""
        return tuple((file.path, file.text) for file in self.files)


def bundle_of(
    files: Mapping[str, str],
    data: Mapping[str, object] | None = None,
    *,
    tests: Mapping[str, str] | None = None,
    cases: Mapping[str, str] | None = None,
) -> Bundle:
    """A bundle from values in memory."""
    sources = _sources(files)
    encoded = codec.canonical(dict(data or {}))
    return Bundle(sources, encoded, _revision(sources, encoded), _sources(tests or {}), _sources(cases or {}))


def load_bundle(paths: Sequence[Path]) -> Bundle:
    """Read directories, later ones on top: the shipped library first, then the user's own.

    A data value of a later directory takes the place of an earlier one's. Raises `PolicyRefused` for what cannot be
    read, for two files of one name and for data that contradicts itself inside one directory.
    """
    files: dict[str, str] = {}
    tests: dict[str, str] = {}
    cases: dict[str, str] = {}
    data: dict[str, object] = {}
    for root in paths:
        if not root.is_dir():
            raise PolicyRefused([Fault(str(root), 0, 0, "is not a directory; name one that holds *.rego files")])
        data = _overlaid(data, _data_below(root))
        for path in _files_below(root):
            _sort_in(path, _shown(root, path), files, tests, cases)
    return bundle_of(files, data, tests=tests, cases=cases)


def _sort_in(path: Path, name: str, files: dict[str, str], tests: dict[str, str], cases: dict[str, str]) -> None:
    if path.suffix == ".rego":
        place = tests if path.name.endswith("_test.rego") else files
    elif path.parent.name == "cases" and path.suffix in _DATA_SUFFIXES:
        place = cases
    else:
        return
    if name in place:
        raise PolicyRefused([Fault(name, 0, 0, "is in two of the directories; give one of them another name")])
    place[name] = _text(path)


def _shown(root: Path, path: Path) -> str:
    folder = root.resolve().name if root.name in ("", "..") else root.name
    name = f"{folder}/{path.relative_to(root).as_posix()}"
    if any("\ud800" <= char <= "\udfff" for char in name):  # how Python shows other bytes; no revision is made of them
        raise PolicyRefused([Fault(ascii(name), 0, 0, "has a name that is not UTF-8; rename it")])
    return name


def _files_below(root: Path) -> list[Path]:
    return sorted(path for path in root.rglob("*") if path.is_file() and not _is_aside(path.relative_to(root)))


def _is_aside(path: Path) -> bool:
    return any(part.startswith(".") or part in _NOT_POLICY for part in path.parts)


def _text(path: Path) -> str:
    if path.stat().st_size > _MAX_FILE_BYTES:
        raise PolicyRefused([Fault(str(path), 0, 0, f"is larger than {_MAX_FILE_BYTES} bytes; split it")])
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as exc:
        raise PolicyRefused([Fault(str(path), 0, 0, "is not UTF-8 text")]) from exc


def _data_below(root: Path) -> dict[str, object]:
    found: dict[str, object] = {}
    for path in _files_below(root):
        place = _data_place(path.relative_to(root))
        if place is None:
            continue
        value = _parsed(path, _shown(root, path))
        for step in reversed(place):
            value = {step: value}
        if not isinstance(value, dict):
            raise PolicyRefused([Fault(_shown(root, path), 1, 1, "data at the top must be an object")])
        clash = next(_clashes(found, value), None)
        if clash is not None:
            raise PolicyRefused([Fault(_shown(root, path), 1, 1, f"data.{clash} is also set by another file here")])
        found = _overlaid(found, value)
    return found


def _data_place(path: Path) -> tuple[str, ...] | None:
    """Where below `data` the content of a file belongs; `None` for a file that is no data."""
    if path.suffix not in _DATA_SUFFIXES or "cases" in path.parts[:-1]:
        return None
    folder = path.parts[:-1]
    if path.stem == "data":
        return folder[1:] if folder[:1] == ("data",) else folder
    return (*folder[1:], path.stem) if folder[:1] == ("data",) else None


def _parsed(path: Path, name: str) -> object:
    text = _text(path)
    try:
        return codec.loads(text.encode()) if path.suffix == ".json" else read_yaml(text)
    except ValueError as exc:
        kind = "JSON" if path.suffix == ".json" else "YAML"
        raise PolicyRefused([Fault(name, getattr(exc, "lineno", 1), getattr(exc, "colno", 1), f"no {kind}")]) from exc


def _overlaid(below: Mapping[str, object], above: Mapping[str, object]) -> dict[str, object]:
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        both = isinstance(old, dict) and isinstance(value, dict)
        merged[key] = _overlaid(cast("dict[str, object]", old), cast("dict[str, object]", value)) if both else value
    return merged


def _clashes(left: Mapping[str, object], right: Mapping[str, object], at: str = "") -> Iterator[str]:
    for key in left.keys() & right.keys():
        one, other = left[key], right[key]
        if isinstance(one, dict) and isinstance(other, dict):
            yield from _clashes(one, other, f"{at}{key}.")
        else:
            yield f"{at}{key}"


def _sources(files: Mapping[str, str]) -> tuple[Source, ...]:
    return tuple(Source(path, files[path]) for path in sorted(files))


def _revision(files: Iterable[Source], data: bytes) -> str:
    digest = hashlib.sha256()
    for part in (*(text for file in files for text in (file.path, file.text)), data.decode()):
        encoded = part.encode()
        digest.update(len(encoded).to_bytes(8, "big") + encoded)
    return f"sha256:{digest.hexdigest()[:16]}"
