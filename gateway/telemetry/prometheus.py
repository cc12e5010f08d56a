"""Metrics as Prometheus text (exposition format 0.0.4)."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import Final

from gateway.telemetry.families import Distribution, Family, Labels

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_NOT_A_NAME: Final = re.compile(r"[^a-zA-Z0-9_:]")
_UNITS: Final = {"s": "_seconds", "By": "_bytes"}


def text(families: Iterable[Family]) -> bytes:
    """All of them, one family after the other."""
    return "".join(line + "\n" for family in families for line in _lines(family)).encode()


def metric_name(family: Family) -> str:
    """The name by the rules of the OpenTelemetry specification ("Prometheus and OpenMetrics Compatibility")."""
    name = _NOT_A_NAME.sub("_", family.name) + _UNITS.get(family.unit, "")
    return name + "_total" if family.kind == "counter" else name


def _lines(family: Family) -> Iterator[str]:
    if not family.points:
        return
    name = metric_name(family)
    yield f"# HELP {name} {_escaped(family.about, quotes=False)}"
    yield f"# TYPE {name} {family.kind}"
    for labels, value in family.points:
        if isinstance(value, Distribution):
            yield from _histogram(name, labels, value)
        else:
            yield f"{name}{_labels(labels)} {_number(value)}"


def _histogram(name: str, labels: Labels, value: Distribution) -> Iterator[str]:
    bounds = [*map(_number, value.bounds), "+Inf"]
    for bound, count in zip(bounds, accumulate(value.counts), strict=True):
        yield f"{name}_bucket{_labels((*labels, ('le', bound)))} {count}"
    yield f"{name}_sum{_labels(labels)} {_number(value.total)}"
    yield f"{name}_count{_labels(labels)} {value.count}"


def _labels(labels: Labels) -> str:
    if not labels:
        return ""
    return "{" + ",".join([f'{_NOT_A_NAME.sub("_", key)}="{_escaped(value)}"' for key, value in labels]) + "}"


def _escaped(value: str, *, quotes: bool = True) -> str:
    escaped = value.replace("\\", "\\\\").replace("\n", "\\n")
    return escaped.replace('"', '\\"') if quotes else escaped


def _number(value: float) -> str:
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    if math.isnan(value):
        return "NaN"
    return str(int(value)) if value == int(value) else repr(value)
