"""Every name is written down once, documented, and used."""

from __future__ import annotations

import re
from pathlib import Path

from opentelemetry.semconv._incubating.attributes import gen_ai_attributes, mcp_attributes
from opentelemetry.semconv._incubating.metrics import mcp_metrics
from opentelemetry.semconv.attributes import error_attributes, network_attributes, server_attributes, service_attributes

from gateway.telemetry import names

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "gateway/telemetry/README.md"
CONSTANTS = {
    key: value
    for key, value in vars(names).items()
    if key.isupper() and isinstance(value, str) and key not in {"SCOPE", "CONVENTIONS"}
}
_ROW = re.compile(r"^\| `([a-z0-9_.]+)` \|", re.MULTILINE)


def test_every_name_is_documented_and_nothing_else_is() -> None:
    documented = _ROW.findall(README.read_text())

    assert sorted(documented) == sorted(CONSTANTS.values())


def test_every_constant_is_used_in_the_code() -> None:
    sources = [path for place in ("gateway", "adapters") for path in (ROOT / place).rglob("*.py")]
    text = "\n".join(path.read_text() for path in sources if path.name != "names.py")
    registered = {
        "AUDIT_QUEUED",
        "AUDIT_HEALTHY",
        "AUDIT_REFUSED",
        "UPSTREAM_UP",
        "UPSTREAM_RESTARTS",
        "PROCESS_MEMORY",
    }

    unused = {key for key in CONSTANTS if f"names.{key}" not in text}

    assert unused <= registered


def test_names_are_lower_case_words_in_a_namespace() -> None:
    for value in CONSTANTS.values():
        assert re.fullmatch(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)+", value) or value == "interlock.policy"
    assert len(set(CONSTANTS.values())) == len(CONSTANTS)


def test_names_of_the_conventions_are_those_that_opentelemetry_publishes() -> None:
    modules = (
        *(gen_ai_attributes, mcp_attributes, mcp_metrics),
        *(error_attributes, network_attributes, server_attributes, service_attributes),
    )
    published = {value for module in modules for value in vars(module).values() if isinstance(value, str)}
    unpublished = {
        "gen_ai.execute_tool.duration",  # newer than the published package
        "rpc.response.status_code",
        "deployment.environment.name",
        "service.instance.id",
        "process.resident_memory",
    }

    theirs = {value for value in CONSTANTS.values() if not value.startswith("interlock.")}

    assert theirs - published <= unpublished


def test_docstring_says_which_state_of_the_conventions_this_is() -> None:
    assert names.__doc__ is not None
    assert re.search(r"commit\s+[0-9a-f]{40}", names.__doc__)
    assert names.CONVENTIONS.partition("@")[2] in names.__doc__
