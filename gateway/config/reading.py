"""From the text of `interlock.toml` to `Settings`, or to every fault in it with its path and line."""

from __future__ import annotations

import copy
import tomllib
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from pathlib import Path
from typing import Final, TypeAlias, TypeVar, get_args

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from gateway.config.fields import NO_OVERRIDES, Overrides, Section
from gateway.config.lines import line_of, lines_in
from gateway.config.secrets import is_reference
from gateway.config.suggestions import nearest
from gateway.config.tree import Settings, Source
from gateway.errors import ConfigError

MAX_FILE_BYTES: Final = 1024 * 1024
FILE: Final = "interlock.toml"
PLACEHOLDER: Final = "NAME"
"""Stands for the name that a person gives, in the list of keys."""

KeyPath: TypeAlias = tuple[str | int, ...]
Table: TypeAlias = dict[str, object]
S = TypeVar("S", bound=Section)


def load(path: Path, overrides: Overrides = NO_OVERRIDES) -> Settings:
    """The settings in that file, with the keys that the command line gives. Raises `ConfigError` with every fault."""
    settings = loads(text_of(path, "; `interlock up` writes one"), path.absolute().parent, overrides)
    settings.came_from(Source(path.absolute(), overrides))
    return settings


def text_of(path: Path, hint: str = "") -> str:
    """What stands in a file of configuration. Raises `ConfigError`."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as exc:
        raise ConfigError([(str(path), f"cannot be read: {exc.strerror}{hint}")]) from exc
    if len(data) > MAX_FILE_BYTES:
        raise ConfigError([(str(path), f"is larger than {MAX_FILE_BYTES} bytes")])
    try:
        return data.decode()
    except UnicodeDecodeError as exc:
        raise ConfigError([(str(path), f"is not UTF-8 text (byte {exc.start})")]) from exc


def reload(settings: Settings) -> Settings:
    """The settings as their file has them now. Raises `ConfigError`, which leaves the present ones in force."""
    source = settings.source
    if source is None:
        raise ConfigError([("interlock.toml", "these settings were not read from a file")])
    return load(source.path, source.overrides)


def loads(text: str, base_dir: Path, overrides: Overrides = NO_OVERRIDES) -> Settings:
    """The settings in that text; relative paths in it are relative to `base_dir`. Raises `ConfigError`."""
    filled = _overridden({**{section: {} for section in Settings.model_fields}, **_parsed(text, FILE)}, overrides)
    return _checked(Settings, filled, text, base_dir, FILE)


def section_in(root: type[S], text: str, base_dir: Path, file: str) -> S:
    """A file that is all one section, such as `models.toml`. Raises `ConfigError` with every fault in it."""
    return _checked(root, _parsed(text, file), text, base_dir, file)


def faults_at(faults: Iterable[tuple[KeyPath, str]], text: str, file: str) -> ConfigError:
    """The error that tells these faults with their lines."""
    lines = lines_in(text)
    told = [(dotted(path) if path else file, _with_line(what, line_of(path, lines))) for path, what in faults]
    return ConfigError(told if file == FILE else [(f"{file}: {path}", what) for path, what in told])


def _parsed(text: str, file: str) -> Table:
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as exc:
        raise ConfigError([(file, f"is not TOML: {exc}")]) from exc


def _checked(root: type[S], data: Table, text: str, base_dir: Path, file: str) -> S:
    faults = _faults(root, data, base_dir)
    if faults:
        raise faults_at(faults, text, file)
    return root.model_validate(data, context={"base_dir": base_dir})


def _overridden(data: Table, overrides: Overrides) -> Table:
    for section, values in overrides.items():
        table = data.get(section)
        if isinstance(table, dict):
            data = {**data, section: {**table, **values}}
    return data


def keys() -> Iterator[str]:
    """Every key there is, as a dotted path; names that a person gives are `NAME`."""
    yield from _keys_of(Settings, ())


def dotted(path: KeyPath) -> str:
    """`("upstreams", "files", "tools", 0)` as `upstreams.files.tools[0]`."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text or FILE


def _with_line(what: str, line: int) -> str:
    return f"{what} (line {line})" if line else what


def _faults(root: type[Section], data: Table, base_dir: Path) -> list[tuple[KeyPath, str]]:
    """All faults: what several keys do wrong together shows only once the faulty ones among them are gone."""
    remaining = copy.deepcopy(data)
    found: dict[KeyPath, str] = {}
    removed: set[KeyPath] = set()
    while errors := _errors(root, remaining, base_dir):
        for error in errors:
            if not _is_consequence(error, removed):
                found.setdefault(_where(error), _what(root, error))
        gone = {_remove(remaining, _keyed(error)) for error in errors}
        if gone <= removed | {()}:
            break
        removed |= gone
    return sorted(found.items(), key=lambda fault: dotted(fault[0]))


def _errors(root: type[Section], data: Table, base_dir: Path) -> list[ErrorDetails]:
    try:
        root.model_validate(data, context={"base_dir": base_dir})
    except ValidationError as exc:
        return exc.errors(include_url=False, include_input=False)
    return []


def _keyed(error: ErrorDetails) -> KeyPath:
    return tuple(part for part in error["loc"] if part != "[key]")


def _where(error: ErrorDetails) -> KeyPath:
    key = error.get("ctx", {}).get("key", "") if error["type"] == "fault" else ""
    return (*_keyed(error), *key.split(".")) if key else _keyed(error)


def _what(root: type[Section], error: ErrorDetails) -> str:
    if error["type"] == "extra_forbidden":
        *parents, name = error["loc"]
        return nearest(str(name), tuple(_section_at(root, tuple(parents)).model_fields))
    if error["type"] == "missing":
        return "is required"
    if error["type"] in {"model_type", "dict_type"}:
        return "must be a table"
    if error["type"] == "tuple_type":
        return "must be a list"
    message = error["msg"].removeprefix("Value error, ")
    return message.replace("Input should", "must", 1) if message.startswith("Input should") else message


def _is_consequence(error: ErrorDetails, removed: set[KeyPath]) -> bool:
    """Whether this is a fault only because a faulty key that it depends on was taken away before."""
    path = error["loc"]
    if error["type"] == "missing":
        return path in removed
    return error["type"] == "fault" and any((*path, name) in removed for name in error["ctx"]["depends_on"])


def _remove(data: Table, path: KeyPath) -> KeyPath:
    """Take the faulty value away, so that what is left can be looked at; what was taken."""
    at: object = data
    for depth, part in enumerate(path):
        if not isinstance(at, MutableMapping) or part not in at:
            return ()
        inner = at[part]
        if depth == len(path) - 1 or not isinstance(inner, MutableMapping):
            del at[part]
            return path[: depth + 1]
        at = inner
    return ()


def _section_at(root: type[Section], path: KeyPath) -> type[Section]:
    section = root
    parts = iter(path)
    for part in parts:
        annotation = section.model_fields[str(part)].annotation
        inner = _inner(annotation)
        if inner is None:
            break
        section, named = inner
        if named:
            next(parts, None)
    return section


def _inner(annotation: object) -> tuple[type[Section], bool] | None:
    """The section that a field holds, and whether it holds many of them by name."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation, False
    arguments = get_args(annotation)
    if len(arguments) == 2 and isinstance(arguments[1], type) and issubclass(arguments[1], Section):
        return arguments[1], True
    return None


def _keys_of(section: type[Section], path: tuple[str, ...]) -> Iterator[str]:
    for name, field in section.model_fields.items():
        inner = _inner(field.annotation)
        if inner is None:
            yield ".".join((*path, name))
        else:
            below, named = inner
            yield from _keys_of(below, (*path, name, PLACEHOLDER) if named else (*path, name))


def secrets_in(settings: Settings) -> Mapping[str, str]:
    """Every reference that the settings hold, by the path of its key: `interlock doctor` follows them all."""
    policy = settings.policy
    values = {
        "policy.token": policy.token,
        "policy.bundle_key": policy.bundle_key,
        "state.password": settings.state.password,
        "decisions.upload_token": settings.decisions.upload_token,
    }
    tables = {"telemetry.otlp_headers": settings.telemetry.otlp_headers}
    for upstream, entry in settings.upstreams.items():
        tables |= {f"upstreams.{upstream}.env": entry.env, f"upstreams.{upstream}.headers": entry.headers}
    for agent, described in settings.agents.items():
        tables[f"agents.{agent}.headers"] = described.headers
    for place, table in tables.items():
        values |= {f"{place}.{name}": value for name, value in table.items()}
    return {key: value for key, value in values.items() if is_reference(value)}
