"""Memory as files: JSON Lines with a manifest of hashes, which comes back exactly as it went."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Final, TypeVar

from pydantic import TypeAdapter, ValidationError

from gateway import codec
from gateway.errors import InvalidCall
from gateway.memory.arguments import KEY, MAX_TEXT, NAMESPACE, RECORD
from gateway.memory.records import Kind, Version
from gateway.memory.wording import FIRST_MS, LAST_MS

FORMAT: Final = "interlock-memory/1"
_VERSION: Final = TypeAdapter(Version)
_NAMES: Final = frozenset(field.name for field in fields(Version))


@dataclass(frozen=True, slots=True)
class Manifest:
    """What an export has: enough to notice that a line is missing, was added, or was changed."""

    tenant: str
    versions: int
    sha256: str
    """Of all lines."""
    lines: Mapping[str, str]
    """SHA-256 of each line by the version's id."""
    exported_at_ms: int

    def as_json(self) -> bytes:
        """The manifest's own file."""
        return codec.canonical({"format": FORMAT, **asdict(self), "lines": dict(self.lines)}) + b"\n"


_MANIFEST: Final = TypeAdapter(Manifest)


def to_line(version: Version) -> bytes:
    """One version as a line: the same version gives the same bytes."""
    return codec.canonical(asdict(version)) + b"\n"


def from_line(line: bytes) -> Version:
    """The same version again. Raises `InvalidCall` for anything that `to_line` does not write."""
    value = _object(line, "line")
    if value.keys() != _NAMES:
        odd = sorted(value.keys() ^ _NAMES)[0]
        raise InvalidCall(f"the memory file: {odd!r} is missing, or unknown")
    version = _checked(_VERSION, value)
    for what, good in _plausible(version):
        if not good:
            raise InvalidCall(f"the memory file: {what} is not what is written there by an export")
    return version


def _plausible(version: Version) -> Iterator[tuple[str, bool]]:
    """What types do not say: names that are names everywhere, and numbers and moments that can be shown."""
    yield "record", RECORD.fullmatch(version.record) is not None
    yield "id", version.id == f"{version.record}@{version.number}" and 0 < version.number < 10**9
    yield "namespace", NAMESPACE.fullmatch(version.namespace) is not None
    yield "key", KEY.fullmatch(version.key) is not None
    yield "text", len(version.text) <= MAX_TEXT
    yield "trust", 0 <= version.trust <= 1
    yield "kind", version.kind is not Kind.SCRATCH
    for name in ("valid_from_ms", "valid_to_ms", "recorded_at_ms", "superseded_at_ms", "retain_until_ms"):
        value = getattr(version, name)
        yield name, value is None or FIRST_MS <= value <= LAST_MS


def manifest_of(tenant: str, versions: Iterable[Version], *, now_ms: int) -> Manifest:
    """The manifest of an export, from all its versions in their order."""
    whole, lines = hashlib.sha256(), dict[str, str]()
    for version in versions:
        line = to_line(version)
        whole.update(line)
        lines[version.id] = hashlib.sha256(line).hexdigest()
    return Manifest(tenant, len(lines), whole.hexdigest(), lines, now_ms)


def read_manifest(data: bytes) -> Manifest:
    """Read a manifest. Raises `InvalidCall` for one that this release does not know."""
    value = dict(_object(data, "manifest"))
    if value.pop("format", None) != FORMAT:
        raise InvalidCall(f"the memory manifest: its format is not {FORMAT}")
    return _checked(_MANIFEST, value)


def read_export(manifest: Manifest, lines: Iterable[bytes]) -> Sequence[Version]:
    """All versions of an export, once every hash agrees. Raises `InvalidCall` otherwise, and gives nothing."""
    versions, whole = list[Version](), hashlib.sha256()
    for line in lines:
        version = from_line(line)
        whole.update(line)
        if manifest.lines.get(version.id) != hashlib.sha256(line).hexdigest():
            raise InvalidCall(f"the memory file: {version.id} is not as the manifest has it")
        versions.append(version)
    if whole.hexdigest() != manifest.sha256 or len(versions) != manifest.versions:
        raise InvalidCall("the memory file: lines are missing, or in another order, than the manifest has them")
    return versions


def split_lines(data: bytes) -> Iterator[bytes]:
    """The lines of a file, each with its end."""
    yield from (line + b"\n" for line in data.split(b"\n") if line)


T = TypeVar("T")


def _checked(adapter: TypeAdapter[T], value: Mapping[str, object]) -> T:
    try:
        return adapter.validate_json(codec.dumps(value), strict=True)
    except ValidationError as exc:
        where = ".".join(str(part) for part in exc.errors()[0]["loc"])
        raise InvalidCall(f"the memory file: {where or 'it'} is not what is written there by an export") from exc


def _object(data: bytes, what: str) -> Mapping[str, object]:
    try:
        value = codec.loads(data)
    except ValueError as exc:
        raise InvalidCall(f"the memory file: a {what} is not JSON") from exc
    if not isinstance(value, dict):
        raise InvalidCall(f"the memory file: a {what} is not an object")
    return value
