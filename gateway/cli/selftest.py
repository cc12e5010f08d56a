"""Tries what the gateway rests on: one policy decision, the audit log, and each upstream."""

from __future__ import annotations

import os
import shutil
import socket
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from adapters.pdp.checks import examine
from adapters.pdp.engine import EngineFailure, RegoEngine
from gateway import codec
from gateway.audit.report import Unverifiable
from gateway.audit.verify import verify_log
from gateway.cli.findings import Finding, good, optional, wrong
from gateway.cli.policy_files import load, refusals
from gateway.cli.sockets import CONNECT_S, ask, port_of
from gateway.config import Settings, Upstream

QUICK_BYTES: Final = 64 * 1024 * 1024
SHOWN_LINES: Final = 5

STRANGER: Final[Mapping[str, object]] = {
    "schema": "interlock.input/1",
    "phase": "request",
    "subject": {"type": "anonymous", "id": "", "properties": {"roles": [], "scopes": [], "tenant": ""}},
    "action": {"name": "mcp.tools.call", "properties": {"protocol": "mcp", "method": "tools/call"}},
    "resource": {"type": "tool", "id": "doctor/none", "properties": {"upstream": "doctor", "name": "none"}},
    "context": {},
}
"""Somebody unknown wants to use something unknown: an engine that works, with rules that hold, says no."""


def policy(settings: Settings) -> Finding:
    """Whether the rules can be activated, and the engine answers no to somebody unknown."""
    if settings.policy.engine == "opa":
        return _opa(settings.policy.url)
    if settings.policy.engine == "authzen" or settings.policy.from_bundle:
        return good("policy", f"is that of {settings.policy.url}, which was not asked")
    bundle, faults = load([settings.policy.path])
    if bundle is not None:
        faults = refusals(bundle, examine(bundle))
    if bundle is None or faults:
        return wrong("policy", f"is refused: {faults[0]}", "interlock check")
    try:
        engine = RegoEngine(bundle.modules, bundle.data)
        answer = codec.loads(engine.evaluate("data.interlock.decision", codec.dumps(STRANGER)))
    except EngineFailure as exc:
        return wrong("policy", f"cannot decide: {exc}", f"interlock policy check --path {settings.policy.path}")
    if not isinstance(answer, dict) or answer.get("decision") is not False:
        return wrong(
            "policy", "permits an unknown caller an unknown tool", f"look at the rules in {settings.policy.path}"
        )
    return good("policy", f"decides; denied an unknown caller; revision {bundle.revision[:19]}")


def _opa(url: str) -> Finding:
    status, _ = ask(url, "/health", {})
    if status == 200:
        return good("policy", f"OPA at {url} answers")
    remedy = "start it: opa run --server --addr 127.0.0.1:8181"
    return wrong("policy", f"OPA at {url} {'does not answer' if status == 0 else f'answers {status}'}", remedy)


def audit_log(settings: Settings) -> Finding:
    """Whether the log is whole, where that is quickly said."""
    directory = settings.state.dir / "audit"
    remedy = f"interlock audit verify {directory}"
    try:
        size = sum(file.stat().st_size for file in directory.iterdir()) if directory.is_dir() else 0
        if size > QUICK_BYTES:
            return optional("audit", f"not verified here: {size / 2**20:.0f} MiB take a while", remedy)
        report = verify_log(directory)
    except Unverifiable as exc:
        return good("audit", "no record yet") if not directory.is_dir() else optional("audit", str(exc), remedy)
    except OSError as exc:
        return wrong("audit", f"{directory} cannot be read: {exc.strerror}", "run this as the user of the gateway")
    if not report.ok:
        return wrong("audit", f"the log does not verify: {report.findings[0]}", remedy)
    return good("audit", f"{report.size - report.first} records verify")


def upstreams(settings: Settings, key: str) -> Iterator[Finding]:
    """What the running gateway knows about each upstream, or else what can be seen from outside."""
    known = _from_gateway(settings.listen.url, key)
    for name, upstream in settings.upstreams.items():
        facts = known.get(name)
        yield _reported(name, facts) if facts is not None else _probed(name, upstream)


def _from_gateway(url: str, key: str) -> Mapping[str, Mapping[str, object]]:
    status, body = ask(url, "/admin/upstreams", {"Authorization": f"Bearer {key}"} if key else {})
    if status != 200:
        return {}
    try:
        answer = codec.loads(body)
    except ValueError:
        return {}
    listed = answer.get("upstreams") if isinstance(answer, dict) else None
    entries = [entry for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []
    return {str(entry.get("name")): entry for entry in entries}


def _reported(name: str, facts: Mapping[str, object]) -> Finding:
    """One entry of `GET /admin/upstreams`: `down` is why it does not serve, empty when it does."""
    stderr = facts.get("stderr")
    lines = tuple(str(line) for line in stderr[-SHOWN_LINES:]) if isinstance(stderr, list | tuple) else ()
    if facts.get("down"):
        remedy = "see its own messages below, and its section in interlock.toml" if lines else "see its section"
        return wrong(f"upstream {name}", str(facts["down"]), remedy, lines)
    era = facts.get("era") or "era unknown yet"
    return good(f"upstream {name}", f"serves; {era}, {facts.get('tools', 0)} tools")


def _probed(name: str, upstream: Upstream) -> Finding:
    if upstream.command:
        return _command(name, upstream)
    if not upstream.url:
        where = "is where everybody finds it" if upstream.type in {"openai", "anthropic", "litellm"} else "is built in"
        return good(f"upstream {name}", f"{where} (no gateway was asked)")
    parts = urlsplit(upstream.url)
    try:
        with socket.create_connection((parts.hostname or "", port_of(parts)), timeout=CONNECT_S):
            return good(f"upstream {name}", f"{parts.netloc} accepts connections (no gateway was asked)")
    except OSError as exc:
        return wrong(f"upstream {name}", f"{parts.netloc} cannot be reached: {exc}", "start it, or correct its url")


def _command(name: str, upstream: Upstream) -> Finding:
    path = os.pathsep.join([str(Path(sys.executable).parent), upstream.env.get("PATH", os.environ.get("PATH", ""))])
    program = upstream.command[0]
    if shutil.which(program, path=path) or (upstream.cwd / program).is_file():
        return good(f"upstream {name}", f"{program} is installed (no gateway was asked)")
    return wrong(f"upstream {name}", f"{program} is not on PATH", f"install {program}, or correct its command")
