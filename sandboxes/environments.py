"""Reads environments, one `NAME.toml` each: named descriptions of a box, known by the digest of their content.

`sandboxes/environments.md` documents each key.
"""

from __future__ import annotations

import hashlib
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Final, Literal, Protocol, Self, TypeAlias

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from gateway import codec
from gateway.boxes import Level, steers_the_launcher
from gateway.errors import ConfigError
from sandboxes.binds import bind_of, place_fault
from sandboxes.ceiling import Ceiling
from sandboxes.covers import admitted
from sandboxes.guarded import Guarded
from sandboxes.packages import Pin, pinned
from sandboxes.rootfs import tree_digest
from sandboxes.spec import MIB, Bind, BoxSpec
from sandboxes.spec import Limits as BoxLimits

DEFAULT: Final = "default"
"""The environment that there always is."""
HOST: Final = "host"
MAX_FILE_BYTES: Final = 4 * MIB
_MAX_TEXT_BYTES: Final = MIB

_NAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]|_(?!_)){0,30}")
_VARIABLE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
Faults: TypeAlias = list[tuple[str, str]]


class References(Protocol):
    """What the configuration knows about references to secrets: `gateway.config.secrets` is one."""

    def is_reference(self, text: str) -> bool: ...

    def looks_secret(self, name: str) -> bool: ...

    def anchored(self, reference: str, base_dir: Path) -> str: ...


@dataclass(frozen=True, slots=True)
class Described:
    """One environment as its file describes it. `spec` is a box without a command, packages or secrets.

    `secrets` are references, anchored; they are resolved when a session gets its box. `level` is the least that the
    environment asks for. `visible_to` are roles; none: policy alone decides.
    """

    name: str
    digest: str
    spec: BoxSpec
    level: Level = Level.PROCESS
    description: str = ""
    secrets: Mapping[str, str] = field(default_factory=dict)
    packages: tuple[Pin, ...] = ()
    egress: Ceiling = Ceiling()  # noqa: RUF009  # frozen
    visible_to: frozenset[str] = frozenset()
    wall_s: float = 30.0
    idle_s: float = 600.0
    warm: bool = False
    """Boxes are clones of one that was prepared and frozen, where the driver can do that."""
    built_in: bool = False
    """Nobody described it: nothing but policy bounds where its boxes connect to."""


def _variables(values: Mapping[str, str]) -> Mapping[str, str]:
    for name, value in values.items():
        if not _VARIABLE.fullmatch(name) or "\0" in value:
            raise ValueError(f"{name!r}: a variable is letters, digits and _, and its value holds no NUL")
        if steers_the_launcher(name):
            raise ValueError(f"{name}: would act on what starts the box too; set it in the code that runs")
    return values


def _places(files: Mapping[str, File]) -> Mapping[str, File]:
    for place in files:
        fault = place_fault(Bind(Path("/"), place))
        if fault:
            raise ValueError(fault)
    return files


def _bind_texts(texts: tuple[str, ...]) -> tuple[str, ...]:
    for text in texts:
        bind_of(text, Path("/"))
    return texts


def _egress(patterns: tuple[str, ...]) -> tuple[str, ...]:
    return Ceiling.of(patterns).texts


def _pins(texts: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(pin.text for pin in pinned(texts))


def _roles(names: tuple[str, ...]) -> tuple[str, ...]:
    if not all(names):
        raise ValueError("must be the names of roles")
    return names


class Table(BaseModel):
    """What all tables share: no unknown key, no silent conversion, no change after reading."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, hide_input_in_errors=True, validate_default=True
    )


class File(Table):
    """One read-only file in the box, its content here (`text`) or beside the description (`file`)."""

    text: str | None = None
    file: str = ""

    @model_validator(mode="after")
    def _one_content(self) -> Self:
        if (self.text is None) == (not self.file):
            raise ValueError("needs either text or file (a path relative to this file), and not both")
        return self


class Limits(Table):
    """What a box may use up, and for how long."""

    memory_mb: int = Field(default=BoxLimits().memory_bytes // MIB, ge=16, le=1024 * 1024)
    cpus: float = Field(default=BoxLimits().cpus, ge=0.05, le=1024)
    processes: int = Field(default=BoxLimits().processes, ge=4, le=100_000)
    file_mb: int = Field(default=BoxLimits().file_bytes // MIB, ge=1, le=1024 * 1024)
    tmp_mb: int = Field(default=BoxLimits().tmp_bytes // MIB, ge=1, le=1024 * 1024)
    work_mb: int = Field(default=BoxLimits().work_bytes // MIB, ge=1, le=1024 * 1024)
    open_files: int = Field(default=BoxLimits().open_files, ge=32, le=1_000_000)
    wall_s: float = Field(default=30, gt=0, le=86_400)
    idle_s: float = Field(default=600, gt=0, le=604_800)

    @property
    def of_the_box(self) -> BoxLimits:
        """Those that the driver sees to."""
        return BoxLimits(
            memory_bytes=self.memory_mb * MIB,
            cpus=self.cpus,
            processes=self.processes,
            file_bytes=self.file_mb * MIB,
            tmp_bytes=self.tmp_mb * MIB,
            work_bytes=self.work_mb * MIB,
            open_files=self.open_files,
        )


Texts = Annotated[tuple[str, ...], Field(strict=False)]


class Description(Table):
    """All of one file."""

    description: str = Field(default="", max_length=1000)
    base: str = HOST
    level: Literal["process", "vm-emulated", "gvisor", "vm"] = "process"
    env: Annotated[Mapping[str, str], AfterValidator(_variables)] = {}
    secrets: Annotated[Mapping[str, str], AfterValidator(_variables)] = {}
    files: Annotated[Mapping[str, File], AfterValidator(_places)] = {}
    packages: Annotated[Texts, AfterValidator(_pins)] = ()
    binds: Annotated[Texts, AfterValidator(_bind_texts)] = ()
    egress: Annotated[Texts, AfterValidator(_egress)] = ()
    visible_to: Annotated[Texts, AfterValidator(_roles)] = ()
    warm: bool = False
    limits: Limits = Limits()


_TABLES: Final[Mapping[str, type[Table]]] = {"limits": Limits, "files": File}


def load(directory: Path, references: References, guard: Guarded) -> Mapping[str, Described]:
    """Every environment in that directory, and `default` in any case. Raises `ConfigError` with all faults of all.

    A directory that does not exist is an empty one.
    """
    reader = _Reader(references, guard)
    found: dict[str, Described] = {}
    faults: Faults = []
    for path in _files(directory):
        try:
            described = reader.read(path)
        except ConfigError as error:
            faults.extend((f"{path.name}: {at}" if at else path.name, what) for at, what in error.faults)
            continue
        found[described.name] = described
    if faults:
        raise ConfigError(faults)
    if DEFAULT not in found:
        found[DEFAULT] = _built_in(reader.described(DEFAULT, Description(), directory))
    return found


def _built_in(plain: Described) -> Described:
    """What `default` is when no file says it: not what an empty file says, so not of the same digest."""
    digest = hashlib.sha256(f"built in {plain.digest}".encode()).hexdigest()
    return replace(plain, digest=f"sha256:{digest}", spec=replace(plain.spec, egress=True), built_in=True)


def chosen(environments: Mapping[str, Described], name: str, key: str = "environment") -> Described:
    """The one of that name; no name is `default`. Raises `ConfigError`, which says which ones there are."""
    found = environments.get(name or DEFAULT)
    if found is None:
        raise ConfigError([(key, f"there is no environment {name!r}; there are: {', '.join(sorted(environments))}")])
    return found


def _files(directory: Path) -> list[Path]:
    try:
        return sorted(path for path in directory.iterdir() if path.suffix == ".toml" and not path.name.startswith("."))
    except FileNotFoundError:
        return []
    except OSError as exc:
        raise ConfigError([(str(directory), f"cannot be read: {exc.strerror}")]) from exc


@dataclass(frozen=True, slots=True)
class _Reader:
    references: References
    guard: Guarded

    def read(self, path: Path) -> Described:
        if not _NAME.fullmatch(path.stem):
            what = "its name is to be 1 to 31 of a-z, 0-9, - and single _, and begin with a letter or digit"
            raise ConfigError([("", what)])
        return self.described(path.stem, _validated(_parsed(path)), path.parent)

    def described(self, name: str, told: Description, directory: Path) -> Described:
        faults = [*self._secret_faults(told)]
        files = {place: _attempted(faults, f"files.{place}", file, directory) for place, file in told.files.items()}
        base = self._base(told.base, directory, faults)
        binds = self._binds(told, directory, faults)
        if faults:
            raise ConfigError(faults)
        spec = BoxSpec(
            label=name,
            command=(),
            env=told.env,
            binds=binds,
            files=files,
            base=base,
            limits=told.limits.of_the_box,
            egress=bool(told.egress),
        )
        return Described(
            name=name,
            digest=_digest(told, files, base),
            spec=spec,
            level=Level(told.level),
            description=told.description,
            secrets={key: self.references.anchored(value, directory) for key, value in told.secrets.items()},
            packages=pinned(told.packages),
            egress=Ceiling.of(told.egress),
            visible_to=frozenset(told.visible_to),
            wall_s=told.limits.wall_s,
            idle_s=told.limits.idle_s,
            warm=told.warm,
        )

    def _secret_faults(self, told: Description) -> Iterator[tuple[str, str]]:
        for name, value in told.env.items():
            if self.references.is_reference(value) or self.references.looks_secret(name):
                yield f"env.{name}", "is a secret: put it under [secrets] as a reference, env:NAME or file:PATH"
        for name, value in told.secrets.items():
            if not self.references.is_reference(value):
                yield f"secrets.{name}", "must be a reference to a secret, env:NAME or file:PATH, not the secret itself"
            if name in told.env:
                yield f"secrets.{name}", "is in [env] too; remove one"

    def _base(self, base: str, directory: Path, faults: Faults) -> Path | None:
        if base == HOST:
            return None
        path = Path(os.path.realpath(directory / os.path.expanduser(base)))
        if path == Path("/") or not (path / "usr").is_dir():
            faults.append(("base", f"{path} is not the root of a system: give a directory with usr in it, or {HOST!r}"))
            return None
        try:
            admitted([Bind(path, "/base")], self.guard, "base")
        except ConfigError as error:
            faults.extend(("base", what) for _, what in error.faults)
        return path

    def _binds(self, told: Description, directory: Path, faults: Faults) -> tuple[Bind, ...]:
        try:
            return admitted([bind_of(text, directory) for text in told.binds], self.guard, "binds")
        except ConfigError as error:
            faults.extend(error.faults)
            return ()


def _parsed(path: Path) -> dict[str, object]:
    data = _content(path, _MAX_TEXT_BYTES)
    try:
        return tomllib.loads(data.decode())
    except UnicodeDecodeError as exc:
        raise ConfigError([("", f"is not UTF-8 text (byte {exc.start})")]) from exc
    except (tomllib.TOMLDecodeError, RecursionError) as exc:
        raise ConfigError([("", f"is not TOML: {exc}")]) from exc


def _content(path: Path, limit: int) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(limit + 1)
    except OSError as exc:
        raise ConfigError([("", f"{path} cannot be read: {exc.strerror}")]) from exc
    if len(data) > limit:
        raise ConfigError([("", f"{path} is larger than {limit} bytes")])
    return data


def _validated(data: dict[str, object]) -> Description:
    try:
        return Description.model_validate(data)
    except ValidationError as exc:
        errors = exc.errors(include_url=False, include_input=False)
    raise ConfigError(sorted({(_where(error), _what(error)) for error in errors}))


def _where(error: ErrorDetails) -> str:
    text = ""
    for part in error["loc"]:
        if part != "[key]":
            text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _what(error: ErrorDetails) -> str:
    if error["type"] == "extra_forbidden":
        *parents, name = error["loc"]
        return _unknown(str(name), _TABLES.get(str(parents[0]) if parents else "", Description))
    plain = {"model_type": "must be a table", "dict_type": "must be a table", "tuple_type": "must be a list"}
    message = plain.get(error["type"], error["msg"].removeprefix("Value error, "))
    return message.replace("Input should", "must", 1) if message.startswith("Input should") else message


def _unknown(name: str, table: type[Table]) -> str:
    known = tuple(table.model_fields)
    close = get_close_matches(name, known, n=1, cutoff=0.6)
    return f"unknown key; did you mean {close[0]!r}?" if close else f"unknown key; known here: {', '.join(known)}"


def _attempted(faults: Faults, key: str, file: File, directory: Path) -> bytes:
    """The content of a file for the box; one that is not in the directory of environments would be anybody's."""
    if file.text is not None:
        return file.text.encode()
    real, home = Path(os.path.realpath(directory / file.file)), Path(os.path.realpath(directory))
    if not real.is_relative_to(home) or not real.is_file():
        faults.append((key, f"{file.file} is no file in {home}; put it there"))
        return b""
    try:
        return _content(real, MAX_FILE_BYTES)
    except ConfigError as error:
        faults.extend((key, what) for _, what in error.faults)
        return b""


def _digest(told: Description, files: Mapping[str, bytes], base: Path | None) -> str:
    """Over what the file says and what it points at, never over where this machine keeps it."""
    content = {
        "base": HOST if base is None else tree_digest(base),
        "level": told.level,
        "env": dict(told.env),
        "secrets": dict(told.secrets),
        "files": {place: hashlib.sha256(data).hexdigest() for place, data in files.items()},
        "packages": sorted(told.packages),
        "binds": sorted(told.binds),
        "egress": sorted(told.egress),
        "visible_to": sorted(set(told.visible_to)),
        "warm": told.warm,
        "limits": told.limits.model_dump(),
    }
    return "sha256:" + hashlib.sha256(codec.canonical(content)).hexdigest()
