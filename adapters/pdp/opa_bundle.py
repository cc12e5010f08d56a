"""OPA's bundles as policies of ours, and back.

Reading follows OPA (`v1/bundle/bundle.go`): modules and data have to lie below the roots of the manifest, and a file
`x/data.json` is `data.x`. A bundle may bring the library that turns rules into decisions (then it is the one its
author tested with) or leave it to the gateway.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, cast

from adapters.pdp.bundle import Bundle, Fault, PolicyRefused, bundle_of
from adapters.pdp.bundle_signature import SIGNATURES
from adapters.pdp.engine import EngineFailure, read_yaml
from adapters.pdp.opa_bundle_archive import refused
from adapters.pdp.opa_bundle_digest import MAX_DEPTH
from adapters.pdp.syntax import modules_in
from adapters.pdp.trial import TrialEngine
from gateway import codec

MANIFEST: Final = ".manifest"
REGO_VERSION: Final = 1
MAX_ROOTS: Final = 1_000
"""Each is compared with each."""

_DATA: Final = frozenset({"data.json", "data.yaml", "data.yml"})
_CASES: Final = (".json", ".yaml", ".yml")
_REFUSED: Final = {
    ".manifest.pb": "is a manifest that is not JSON; build without it",
    ".wasm": "is compiled policy, and rules are read here; build with --target rego",
    "plan.json": "is compiled policy, and rules are read here; build with --target rego",
    "plan.pb": "is compiled policy, and rules are read here; build with --target rego",
    "patch.json": "makes this a delta bundle; only whole ones (modes=snapshot) are taken",
}
_LIBRARY: Final = re.compile(r"^\s*package\s+interlock\s*(?:#.*)?$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a bundle says of itself. `roots` are paths below `data` that it owns; the empty one is all of it."""

    revision: str = ""
    roots: tuple[str, ...] = ("",)
    metadata: Mapping[str, object] | None = None


@dataclass(frozen=True, slots=True)
class Opened:
    """A bundle that was read: what it says of itself, and its rules."""

    manifest: Manifest
    bundle: Bundle

    @property
    def has_library(self) -> bool:
        """Whether the package `interlock`, which turns rules into decisions, is among its modules."""
        return any(_LIBRARY.search(file.text) for file in self.bundle.files)


def read_bundle(files: Mapping[str, bytes]) -> Opened:
    """The policy in these files of an archive. Raises `PolicyRefused` for what OPA would not load, or we not follow."""
    for name in files:
        _check_kind(name)
    manifest = _manifest(files.get(MANIFEST))
    modules: dict[str, str] = {}
    tests: dict[str, str] = {}
    cases: dict[str, str] = {}
    data: dict[str, object] = {}
    for name in sorted(files):
        folder, _, base = name.rpartition("/")
        if name.endswith(".rego"):
            (tests if name.endswith("_test.rego") else modules)[name] = _text(name, files[name])
        elif base in _DATA:
            _insert(data, folder.split("/") if folder else [], _value(name, files[name]), name)
        elif folder.rpartition("/")[2] == "cases" and name.endswith(_CASES):
            cases[name] = _text(name, files[name])
    _check_roots(manifest.roots, {**modules, **tests}, data)
    return Opened(manifest, bundle_of(modules, data, tests=tests, cases=cases))


def write_bundle(
    bundle: Bundle, *, revision: str = "", roots: Sequence[str] = (), with_tests: bool = False
) -> dict[str, bytes]:
    """The files of an archive for this policy, unsigned.

    Without `roots` they are as narrow as the policy is, so that OPA can load other bundles beside this one. Raises
    `PolicyRefused` when the policy is not below `roots`, or cannot be read.
    """
    tests = {file.path: file.text for file in bundle.tests} if with_tests else {}
    cases = {file.path: file.text for file in bundle.cases} if with_tests else {}
    modules = {file.path: file.text for file in bundle.files}
    data = cast("dict[str, object]", codec.loads(bundle.data))
    chosen = _normal(roots) if roots else _narrowest({**modules, **tests}, data)
    _check_roots(chosen, {**modules, **tests}, data)
    manifest = {"revision": revision or bundle.revision, "roots": list(chosen), "rego_version": REGO_VERSION}
    texts = {name: text.encode() for name, text in {**modules, **tests, **cases}.items()}
    return {**texts, "data.json": bundle.data + b"\n", MANIFEST: codec.dumps(manifest) + b"\n"}


def composed(library: Bundle, rules: Bundle) -> Bundle:
    """The rules under the gateway's own library. Raises `PolicyRefused` when they use a name of the library's."""
    taken = {file.path for file in library.files} & {file.path for file in rules.files}
    if taken:
        raise refused("has the name of a file of the library; give it another one", min(taken))
    data = cast("dict[str, object]", codec.loads(library.data))
    _insert(data, [], codec.loads(rules.data), "data.json")
    return bundle_of(
        {file.path: file.text for file in (*library.files, *rules.files)},
        data,
        tests={file.path: file.text for file in rules.tests},
        cases={file.path: file.text for file in rules.cases},
    )


def _check_kind(name: str) -> None:
    what = next((what for end, what in _REFUSED.items() if name.endswith(end)), "")
    if what:
        raise refused(what, name)
    if name.endswith((MANIFEST, SIGNATURES)) and name not in (MANIFEST, SIGNATURES):
        raise refused("belongs at the top of the bundle and nowhere else", name)


def _manifest(content: bytes | None) -> Manifest:
    if content is None:
        return Manifest()
    document = _value(MANIFEST, content)
    if not isinstance(document, dict):
        raise refused("must be an object", MANIFEST)
    versions = (document.get("rego_version", REGO_VERSION), *_values(document.get("file_rego_versions")))
    if any(type(version) is not int or version != REGO_VERSION for version in versions):
        raise refused("names another rego_version than 1; bring the rules to Rego v1 (`opa fmt --v0-v1`)", MANIFEST)
    if document.get("wasm"):
        raise refused("names compiled policy, and rules are read here; build with --target rego", MANIFEST)
    revision, roots, metadata = document.get("revision", ""), document.get("roots"), document.get("metadata")
    if not isinstance(revision, str) or not (roots is None or _are_texts(roots)):
        raise refused("must have a text as revision, and a list of texts as roots", MANIFEST)
    if roots is not None and len(cast("list[str]", roots)) > MAX_ROOTS:
        raise refused(f"has more than {MAX_ROOTS} roots", MANIFEST)
    normal = _normal(cast("list[str]", roots)) if roots is not None else ("",)
    return Manifest(revision, normal, metadata if isinstance(metadata, dict) else None)


def _values(versions: object) -> Iterable[object]:
    return versions.values() if isinstance(versions, dict) else () if versions is None else (versions,)


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def _normal(roots: Sequence[str]) -> tuple[str, ...]:
    """Raises `PolicyRefused` when one is below another, as OPA does."""
    normal = tuple(root.strip("/") for root in roots)
    for index, root in enumerate(normal):
        other = next((each for each in normal[index + 1 :] if _is_below(each, root) or _is_below(root, each)), None)
        if other is not None:
            raise refused(f"has the roots {root!r} and {other!r}, of which one holds the other", MANIFEST)
    return normal


def _narrowest(modules: Mapping[str, str], data: Mapping[str, object]) -> tuple[str, ...]:
    if any("/" in name for name in data):
        return ("",)  # such a name cannot be told from two
    chosen: list[str] = []
    for path in sorted({*_packages(modules).values(), *data}):
        if not any(_is_below(path, root) for root in chosen):
            chosen.append(path)
    return tuple(chosen)


def _is_below(path: str, root: str) -> bool:
    return not root or path == root or path.startswith(f"{root}/")


def _check_roots(roots: Sequence[str], modules: Mapping[str, str], data: Mapping[str, object]) -> None:
    if "" in roots:
        return
    for name, package in _packages(modules).items():
        if not any(_is_below(package, root) for root in roots):
            raise refused(f"is in the package {package.replace('/', '.')}, which no root of the manifest holds", name)
    outside = next(_outside(data, roots), None)
    if outside is not None:
        raise refused(f"has data at /{outside}, which no root of the manifest holds")


def _outside(data: Mapping[str, object], roots: Sequence[str], at: str = "") -> Iterator[str]:
    for name, value in data.items():
        path = f"{at}{name}"
        if any(_is_below(path, root) for root in roots):
            continue
        if isinstance(value, dict) and any(_is_below(root, path) for root in roots):
            yield from _outside(value, roots, f"{path}/")
        else:
            yield path


def _packages(modules: Mapping[str, str]) -> dict[str, str]:
    """The package of each module as a path. Raises `PolicyRefused` for one that does not parse."""
    if not modules:
        return {}
    try:
        with TrialEngine(bundle_of(modules)) as engine:
            return {module.file: "/".join(module.package) for module in modules_in(engine.tree())}
    except EngineFailure as failure:
        fault = Fault(failure.file or min(modules), failure.line, failure.col, failure.text or failure.kind)
        raise PolicyRefused([fault]) from failure


def _insert(data: dict[str, object], place: Sequence[str], value: object, name: str) -> None:
    for step in reversed(place):
        value = {step: value}
    if not isinstance(value, dict):
        raise refused("must be an object, as it stands at the top", name)
    _merge(data, value, name, "data")


def _merge(below: dict[str, object], above: Mapping[str, object], name: str, at: str) -> None:
    for key, value in above.items():
        old = below.get(key)
        if isinstance(old, dict) and isinstance(value, dict):
            _merge(old, value, name, f"{at}.{key}")
        elif key in below:
            raise refused(f"sets {at}.{key}, which another file of the bundle sets too", name)
        else:
            below[key] = value


def _value(name: str, content: bytes) -> object:
    is_yaml = name.endswith((".yaml", ".yml"))
    try:
        value = read_yaml(_text(name, content)) if is_yaml else codec.loads(content)
    except ValueError as exc:
        raise refused("is not YAML" if is_yaml else "is not JSON", name) from exc
    if _is_deeper(value, MAX_DEPTH):
        raise refused(f"is nested more than {MAX_DEPTH} deep", name)
    return value


def _is_deeper(value: object, limit: int) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(limit <= 0 or _is_deeper(each, limit - 1) for each in inner)


def _text(name: str, content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError as exc:
        raise refused("is not UTF-8 text", name) from exc
