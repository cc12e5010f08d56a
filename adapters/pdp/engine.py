"""The embedded Rego engine (Microsoft's regorus), behind an interface that cannot surprise its caller.

An engine belongs to the thread that made it: used from another one it panics, with an exception that is not an
`Exception`. Whatever goes wrong leaves here as an `EngineFailure`.
"""

from __future__ import annotations

import re
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from itertools import count
from typing import Final, Literal, ParamSpec, Protocol, TypeAlias, TypeVar, cast

import orjson
import regorus  # type: ignore[import-untyped]  # the wheel ships no types

from adapters.pdp.extensions import EXTENSIONS

FailureKind: TypeAlias = Literal["undefined", "failed", "panic"]

P = ParamSpec("P")
R = TypeVar("R")

_UNDEFINED: Final = '"<undefined>"'
_PLACE: Final = re.compile(r"--> (?P<file>.+?):(?P<line>\d+):(?P<col>\d+)$", re.MULTILINE)
_ERROR: Final = re.compile(r"^error: (?P<text>.*)$", re.MULTILINE)
_LONGEST_LINE: Final = 65_536
_LONGEST_FILE: Final = 4 << 20


class EngineFailure(Exception):
    """The engine gave no value. `text` may quote the input, so it is for policy authors only; `where` never does."""

    def __init__(self, kind: FailureKind, text: str = "", place: tuple[str, int, int] = ("", 0, 0)) -> None:
        super().__init__(kind)
        self.kind: FailureKind = kind
        self.text = text
        self.file, self.line, self.col = place

    @property
    def where(self) -> str:
        """`file:line:col`, or nothing when the engine did not say."""
        return f"{self.file}:{self.line}:{self.col}" if self.file else ""


class _Native(Protocol):
    """What we use of `regorus.Engine`."""

    def add_policy(self, path: str, rego: str) -> object: ...
    def add_data_json(self, data: str) -> None: ...
    def add_extension(self, path: str, nargs: int, extension: Callable[..., object]) -> None: ...
    def set_input_json(self, input: str) -> None: ...  # noqa: A002  # the engine's own name
    def eval_rule_as_json(self, rule: str) -> str: ...
    def eval_query_as_json(self, query: str) -> str: ...
    def get_ast_as_json(self) -> str: ...
    def set_gather_prints(self, b: bool) -> None: ...
    def take_prints(self) -> list[str]: ...
    def set_enable_coverage(self, enable: bool) -> None: ...
    def get_coverage_report_as_json(self) -> str: ...
    def set_policy_length_config(self, *, max_col: int, max_file_bytes: int, max_lines: int) -> None: ...


class _Home:
    """The engines of one thread.

    An engine must also be *dropped* by its own thread, and the garbage collector runs in any. So its thread holds it,
    and lets it go when it next makes one after the `RegoEngine` is gone, or with its own end.
    """

    def __init__(self) -> None:
        self.mark = object()
        self.engines: dict[int, _Native] = {}
        self.retired: deque[int] = deque()
        self._keys = count()

    def keep(self, native: _Native) -> int:
        """Hold an engine, and drop those that nobody uses any more."""
        while self.retired:
            self.engines.pop(self.retired.popleft(), None)
        key = next(self._keys)
        self.engines[key] = native
        return key


_homes = threading.local()


def _home() -> _Home:
    """Where the engines of this thread live."""
    try:
        home: _Home = _homes.home
    except AttributeError:
        home = _homes.home = _Home()
    return home


class RegoEngine:
    """Policies and data, ready to be evaluated in the thread that made this.

    Raises `EngineFailure` when the policies do not parse or a policy and the data claim the same name.
    """

    def __init__(self, files: Iterable[tuple[str, str]], data: bytes = b"{}", *, coverage: bool = False) -> None:
        home = _home()
        self._mark = home.mark  # not the home itself: the thread alone holds that, so that it goes with the thread
        self._key = home.keep(cast("_Native", regorus.Engine()))
        weakref.finalize(self, home.retired.append, self._key)
        self._native.set_policy_length_config(
            max_col=_LONGEST_LINE, max_file_bytes=_LONGEST_FILE, max_lines=_LONGEST_LINE
        )
        for name, arity, function in EXTENSIONS:
            self._native.add_extension(name, arity, function)
        self._native.set_gather_prints(True)
        self._native.set_enable_coverage(coverage)
        _guarded(self._native.add_data_json, data.decode())
        for path, text in files:
            _guarded(self._native.add_policy, path, text)

    @property
    def _native(self) -> _Native:
        """The engine itself. Raises `EngineFailure` in another thread than that which made it."""
        home = _home()
        if home.mark is not self._mark:
            raise EngineFailure("panic", "used from another thread than that which made it")
        return home.engines[self._key]

    def evaluate(self, rule: str, question: bytes) -> bytes:
        """The value of `data.<...>` for this input, as JSON."""
        native = self._native
        try:
            native.set_input_json(question.decode())
            value = native.eval_rule_as_json(rule)
        except RuntimeError as exc:
            raise _failure(exc) from exc
        except BaseException as exc:
            if not _is_panic(exc):
                raise
            raise EngineFailure("panic") from exc
        if value == _UNDEFINED:
            raise EngineFailure("undefined")
        return value.encode()

    def query(self, query: str, question: bytes = b"{}") -> bytes:
        """The result of a whole query, as the engine writes it (bindings and expressions)."""
        _guarded(self._native.set_input_json, question.decode())
        return _guarded(self._native.eval_query_as_json, query).encode()

    def tree(self) -> bytes:
        """The syntax trees of the policies, for `syntax.modules_in`."""
        return _guarded(self._native.get_ast_as_json).encode()

    def prints(self) -> list[str]:
        """What `print` wrote since the last time this was asked."""
        return _guarded(self._native.take_prints)

    def coverage(self) -> bytes:
        """Lines that were and were not evaluated, per file, as JSON."""
        return _guarded(self._native.get_coverage_report_as_json).encode()


def read_yaml(text: str) -> object:
    """The value of one YAML 1.2 document. Raises `ValueError` when it is none."""
    engine = RegoEngine([("yaml.rego", "package yaml_reader\n\nvalue := yaml.unmarshal(input)\n")])
    try:
        return cast("object", orjson.loads(engine.evaluate("data.yaml_reader.value", orjson.dumps(text))))
    except EngineFailure as exc:
        raise ValueError("not a YAML document that can be read") from exc


def _guarded(call: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    try:
        return call(*args, **kwargs)
    except RuntimeError as exc:
        raise _failure(exc) from exc
    except BaseException as exc:
        if not _is_panic(exc):
            raise
        raise EngineFailure("panic") from exc


def _is_panic(exc: BaseException) -> bool:
    return type(exc).__module__ == "pyo3_runtime"


def _failure(exc: RuntimeError) -> EngineFailure:
    report = str(exc).partition("Stack backtrace")[0]
    place = _PLACE.search(report)
    text = _ERROR.search(report)
    where = (place["file"], int(place["line"]), int(place["col"])) if place else ("", 0, 0)
    return EngineFailure("failed", text["text"] if text else report.strip(), where)
