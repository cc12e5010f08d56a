"""From the servers in a client's settings to upstreams of ours, leaving every secret behind as a reference."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Set
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from gateway.cli.main import CommandFailed
from gateway.config import Settings
from gateway.config.secrets import looks_secret

Table: TypeAlias = dict[str, object]

_VARIABLE = re.compile(r"\$\{(?:env:|input:)?([^}:]+)(?::-[^}]*)?\}")
_SCHEME = re.compile(r"(Bearer|Basic|Token) (.+)", re.IGNORECASE)
_SECRET_VALUE = re.compile(
    r"^(?:sk|pk|rk|ghp|gho|ghs|github_pat|glpat|xox[a-z]|hf|npm|pypi)[-_][-_A-Za-z0-9]{8,}"  # known kinds
    r"|^(?:AKIA|ASIA|AIza|eyJ)[-_A-Za-z0-9]{8,}"
    r"|://[^/\s]*:[^/\s]*@"  # a password in an address
    r"|^(?=[^/\s]*[0-9])(?=[^/\s]*[A-Za-z])[A-Za-z0-9+_=]{24,}$"  # long and random-looking
    r"|^[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$"
    r"|\b(?:Bearer|Basic) \S+"
)
_SECRET_OPTION = re.compile(r"^--?[A-Za-z-]*(?:token|key|secret|passw|auth|credential)[A-Za-z-]*(?:=|$)", re.IGNORECASE)
_MAX_NAME: Final = 31


@dataclass(frozen=True, slots=True)
class _Source:
    """A server's name, beside the variables that earlier ones have taken."""

    name: str
    taken: Set[str]

    def variable(self, key: str, *, shared: bool) -> str:
        """The variable for a value under this key; never another server's, whose secret is another one."""
        plain = _variable(key if shared else f"{self.name}_{key}")
        return _variable(f"{self.name}_{key}".upper()) if plain in self.taken else plain


class _LeftOut(Exception):
    """This server cannot be taken over as it is; the text says why."""


@dataclass(slots=True)
class Imported:
    """What came of it."""

    upstreams: dict[str, Table] = field(default_factory=dict)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    variables: dict[str, str] = field(default_factory=dict)
    """Variables to set, and where their values stand now."""


def servers_in(settings: Table, where: str) -> Table:
    """The servers of any client's settings: `mcpServers`, `servers` (VS Code), or these under `mcp`."""
    inner = settings.get("mcp")
    for holder in (settings, inner if isinstance(inner, dict) else {}):
        for key in ("mcpServers", "servers"):
            servers = holder.get(key)
            if isinstance(servers, dict):
                return servers
    raise CommandFailed(f"{where} has no mcpServers (or servers) object")


def translate(servers: Mapping[str, object], present: Settings) -> Imported:
    """Each server as an upstream, under a name that is free."""
    done = Imported()
    known = {_essence(upstream.url, upstream.command) for upstream in present.upstreams.values()}
    for given, entry in servers.items():
        try:
            table, variables = _upstream(_Source(given, done.variables.keys()), entry, present)
            essence = _essence(table.get("url", ""), table.get("command", ()))
            if essence in known:
                raise _LeftOut("it is an upstream already")
        except _LeftOut as reason:
            done.skipped.append((given, str(reason)))
            continue
        known.add(essence)
        done.upstreams[_free_name(given, present.upstreams.keys() | done.upstreams.keys())] = table
        done.variables.update({variable: f"{given}: {where}" for variable, where in variables.items()})
    return done


def toml_of(upstreams: Mapping[str, Table]) -> str:
    """These upstreams as sections of `interlock.toml`."""
    return "\n".join(
        f"[upstreams.{name}]\n" + "".join(f"{_key(key)} = {_value(value)}\n" for key, value in table.items())
        for name, table in upstreams.items()
    )


def _upstream(source: _Source, entry: object, present: Settings) -> tuple[Table, dict[str, str]]:
    if not isinstance(entry, dict):
        raise _LeftOut("it is not an object")
    if entry.get("disabled") is True:
        raise _LeftOut("it is disabled")
    if entry.get("type") == "sse":
        raise _LeftOut(
            "it speaks HTTP+SSE, which MCP replaced in 2025-03-26; ask its maker for a Streamable HTTP address"
        )
    address = next((entry[key] for key in ("url", "serverUrl", "httpUrl") if isinstance(entry.get(key), str)), "")
    if address:
        return _over_http(source, str(address), entry, present)
    if isinstance(entry.get("command"), str):
        return _process(source, entry)
    raise _LeftOut("it has neither a url nor a command")


def _over_http(source: _Source, url: str, entry: Table, present: Settings) -> tuple[Table, dict[str, str]]:
    if url.startswith(present.listen.url + "/"):
        raise _LeftOut("it is this gateway")
    if _VARIABLE.search(url) or _SECRET_VALUE.search(url):
        raise _LeftOut("its url holds a variable or a secret; write it by hand, with the secret in headers")
    headers, variables = _without_secrets(source, _texts(entry.get("headers")), "headers")
    table: Table = {"type": "mcp", "url": url}
    return ({**table, "headers": headers} if headers else table), variables


def _process(source: _Source, entry: Table) -> tuple[Table, dict[str, str]]:
    arguments = entry.get("args", [])
    if not isinstance(arguments, list) or not all(isinstance(item, str) for item in arguments):
        raise _LeftOut("its args are not a list of strings")
    command = [str(entry["command"]), *arguments]
    for part in command:
        if _VARIABLE.search(part):
            raise _LeftOut("its command line holds a variable; write it by hand")
        if _SECRET_VALUE.search(part) or _SECRET_OPTION.match(part):
            raise _LeftOut(
                "its command line seems to hold a secret, which every process here could read; pass it in env"
            )
    env, variables = _without_secrets(source, _texts(entry.get("env")), "env")
    table: Table = {"type": "mcp", "command": command}
    if env:
        table["env"] = env
    if isinstance(entry.get("cwd"), str):
        table["cwd"] = entry["cwd"]
    return table, variables


def _texts(value: object) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _LeftOut("its env or headers are not an object")
    return {str(name): item if isinstance(item, str) else json.dumps(item) for name, item in value.items()}


def _without_secrets(source: _Source, values: Mapping[str, str], part: str) -> tuple[dict[str, str], dict[str, str]]:
    kept: dict[str, str] = {}
    variables: dict[str, str] = {}
    for name, value in values.items():
        scheme = _SCHEME.fullmatch(value) if part == "headers" else None
        front, rest = (f"{scheme[1]} ", scheme[2]) if scheme else ("", value)
        named = _VARIABLE.fullmatch(rest)
        if named is None and _VARIABLE.search(rest):
            raise _LeftOut(f"{part}.{name} mixes text and variables; write it by hand")
        if named or scheme or looks_secret(name) or _SECRET_VALUE.search(rest):
            variable = _variable(named[1]) if named else source.variable(name, shared=part == "env")
            kept[name], variables[variable] = f"{front}env:{variable}", f"{part}.{name}"
        else:
            kept[name] = rest
    return kept, variables


def _variable(text: str) -> str:
    """A variable of that name, if it can be one; otherwise made into one."""
    if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", text):
        return text
    name = re.sub(r"[^A-Z0-9]+", "_", text.upper()).strip("_")
    return f"_{name}" if not name or name[0].isdigit() else name


def _free_name(given: str, taken: set[str]) -> str:
    stem = re.sub(r"[^a-z0-9]+", "-", given.lower()).strip("-")[:_MAX_NAME].strip("-") or "imported"
    name, number = stem, 2
    while name in taken:
        tail = f"-{number}"
        name, number = stem[: _MAX_NAME - len(tail)] + tail, number + 1
    return name


def _essence(url: object, command: object) -> tuple[object, tuple[object, ...]]:
    return url, tuple(command) if isinstance(command, list | tuple) else ()


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _text(name)


def _value(value: object) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{_key(key)} = {_value(item)}" for key, item in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    return _text(str(value))


def _text(text: str) -> str:
    """A TOML basic string: JSON's, in which DEL has to be escaped too."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
