"""`interlock memory`: where a record comes from, what waits for a person, and what is done with all of a tenant's."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final
from urllib.parse import quote, urlencode

from gateway.cli.main import OK, CommandFailed, Commands
from gateway.cli.remote import Object, Remote, printable
from gateway.cli.verbs import Verb, Verbs, add_verb, print_json
from gateway.memory.arguments import MAX_IMPORTED
from gateway.memory.exchange import read_export, read_manifest, split_lines, to_line
from gateway.memory.markdown import file_name, to_markdown

_ROLE: Final = "operator"
_BASE: Final = "/memory/v1"
MANIFEST: Final = "manifest.json"
LINES: Final = "memory.jsonl"
_AGO: Final[Mapping[str, str]] = {"m": "minutes", "h": "hours", "d": "days"}
_SOURCE: Final = ("type", "ref", "agent", "subject", "session", "call", "model")


def add_parser(commands: Commands) -> None:
    """Mount the command and its verbs."""
    purpose = "see where a memory comes from, review, roll back, erase, export, import"
    verbs = commands.add_parser("memory", help=purpose).add_subparsers(required=True, metavar="VERB")
    why = add_verb(verbs, "why", "where a record comes from, back to the audit log", _why, _ROLE)
    why.add_argument("id", help="as recall and list show it")
    why.add_argument("--all", action="store_true", help="of everybody's records, where policy allows you that")
    listing = add_verb(verbs, "list", "what you may read, newest first", _list, _ROLE)
    listing.add_argument("--namespace", default="")
    listing.add_argument("--after", default="", help="where the last page ended")
    review = add_verb(verbs, "review", "what waits for a person to look at it", _review, _ROLE)
    review.add_argument("--namespace", default="")
    for name, purpose_of in (("approve", "let a record be read"), ("reject", "keep a record out for good")):
        verdict = add_verb(verbs, name, purpose_of, _verdict(name), _ROLE)
        verdict.add_argument("id", help="as `review` shows it")
        verdict.add_argument("--reason", default="", help="why, for the record")
    _add_keeping(verbs)


def _add_keeping(verbs: Verbs) -> None:
    rollback = add_verb(verbs, "rollback", "undo everything that a source wrote since a moment", _rollback, _ROLE)
    rollback.add_argument(
        "--source", action="append", required=True, metavar="NAME=VALUE", help=f"NAME is one of {', '.join(_SOURCE)}"
    )
    rollback.add_argument("--since", required=True, metavar="TIME", help="2026-11-22T10:00:00Z, or 30m, 2h, 7d ago")
    erase = add_verb(verbs, "erase", "erase everything about somebody, and what was made of it", _erase, _ROLE)
    erase.add_argument("--subject", required=True, metavar="ID", help="as policy names them, such as user:ana")
    export = add_verb(
        verbs, "export", "write what there is into a directory, with a manifest of hashes", _export, _ROLE
    )
    export.add_argument("directory", type=Path)
    export.add_argument("--namespace", default="")
    export.add_argument("--all", action="store_true", help="everybody's, and what waits; only that comes back exactly")
    export.add_argument("--markdown", action="store_true", help="documents for people as well")
    taken = add_verb(verbs, "import", "take an export in, as it was", _import, _ROLE)
    taken.add_argument("directory", type=Path)
    holds = add_verb(verbs, "holds", "what is kept for the law", _holds, _ROLE)
    holds.add_argument("--set", default="", metavar="TARGET", help="keep a record, or a namespace (its name and /)")
    holds.add_argument("--lift", default="", metavar="TARGET", help="keep it no longer")
    holds.add_argument("--reason", default="", help="with --set: why")


# Verbs


def _why(args: argparse.Namespace, gateway: Remote) -> int:
    query = "?whole=true" if args.all else ""
    answer = gateway.ask("GET", f"{_BASE}/records/{quote(args.id, safe='@')}/why{query}")
    if args.json:
        return print_json(answer)
    audit, record = answer.get("audit"), answer.get("record")
    if isinstance(record, Mapping):
        for line in _tree(record, audit if isinstance(audit, Mapping) else {}):
            print(printable(line))
    made = _texts(answer.get("made_from_it"))
    if made:
        print(printable(f"made from it: {', '.join(made)}"))
    return OK


def _list(args: argparse.Namespace, gateway: Remote) -> int:
    query = urlencode({name: value for name in ("namespace", "after") if (value := getattr(args, name))})
    answer = gateway.ask("GET", f"{_BASE}/records{'?' if query else ''}{query}")
    return print_json(answer) if args.json else _records(answer, "nothing is remembered that you may read")


def _review(args: argparse.Namespace, gateway: Remote) -> int:
    query = f"?{urlencode({'namespace': args.namespace})}" if args.namespace else ""
    answer = gateway.ask("GET", f"{_BASE}/review{query}")
    return print_json(answer) if args.json else _records(answer, "nothing waits")


def _verdict(name: str) -> Verb:
    def judged(args: argparse.Namespace, gateway: Remote) -> int:
        body = {"reason": args.reason} if args.reason else {}
        answer = gateway.ask("POST", f"{_BASE}/records/{quote(args.id, safe='@')}/{name}", body)
        return print_json(answer) if args.json else _said(f"{answer.get('id')} is {answer.get('status')}")

    return judged


def _rollback(args: argparse.Namespace, gateway: Remote) -> int:
    body: Object = {"since": _moment(args.since)}
    for given in args.source:
        name, equals, value = str(given).partition("=")
        if name not in _SOURCE or not equals or not value:
            raise CommandFailed(f"--source is NAME=VALUE, where NAME is one of {', '.join(_SOURCE)}")
        body[name] = value
    answer = gateway.ask("POST", f"{_BASE}/rollback", body)
    if args.json:
        return print_json(answer)
    counts = {name: len(_texts(answer.get(name))) for name in ("restored", "retracted", "quarantined")}
    return _said(", ".join(f"{count} {name}" for name, count in counts.items()))


def _erase(args: argparse.Namespace, gateway: Remote) -> int:
    answer = gateway.ask("POST", f"{_BASE}/erase", {"subject": args.subject})
    if args.json:
        return print_json(answer)
    held = _texts(answer.get("held"))
    kept = f"; kept for a legal hold: {', '.join(held)}" if held else ""
    return _said(f"{len(_texts(answer.get('erased')))} records are erased{kept}")


def _export(args: argparse.Namespace, gateway: Remote) -> int:
    query = urlencode({"namespace": args.namespace} if args.namespace else {})
    query = "&".join(part for part in (query, "whole=true" if args.all else "") if part)
    answer = gateway.ask("GET", f"{_BASE}/export{'?' if query else ''}{query}")
    manifest, lines = str(answer.get("manifest")).encode(), str(answer.get("lines")).encode()
    versions = read_export(read_manifest(manifest), split_lines(lines))
    directory: Path = args.directory
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    _write(directory / MANIFEST, manifest)
    _write(directory / LINES, lines)
    for version in versions if args.markdown else ():
        _write(directory / file_name(version), to_markdown(version).encode())
    if args.json:
        return print_json({"directory": str(directory), "versions": len(versions)})
    return _said(f"{len(versions)} versions are in {directory}")


def _write(file: Path, data: bytes) -> None:
    """What is remembered is nobody else's to read."""
    file.touch(mode=0o600)
    file.write_bytes(data)


def _import(args: argparse.Namespace, gateway: Remote) -> int:
    directory: Path = args.directory
    try:
        written, lines = (directory / MANIFEST).read_bytes(), (directory / LINES).read_bytes()
    except OSError as exc:
        words = f"{exc.filename} cannot be read ({exc.strerror}): name the directory that `memory export` wrote"
        raise CommandFailed(words) from exc
    versions = read_export(read_manifest(written), split_lines(lines))
    new = 0
    for part in _parts([to_line(version) for version in versions]):
        answer = gateway.ask("POST", f"{_BASE}/import", {"lines": b"".join(part).decode()})
        counted = answer.get("new")
        new += counted if isinstance(counted, int) else 0
    if args.json:
        return print_json({"versions": len(versions), "new": new})
    return _said(f"{len(versions)} versions, of which {new} were new")


def _holds(args: argparse.Namespace, gateway: Remote) -> int:
    if args.set:
        gateway.ask("PUT", f"{_BASE}/holds", {"target": args.set, "reason": args.reason})
    if args.lift:
        lifted = gateway.ask("DELETE", f"{_BASE}/holds", {"target": args.lift})
        if not lifted.get("lifted"):
            raise CommandFailed(f"there is no hold on {args.lift}: `interlock memory holds` shows those that there are")
    answer = gateway.ask("GET", f"{_BASE}/holds")
    if args.json:
        return print_json(answer)
    holds = _objects(answer.get("holds"))
    for hold in holds:
        print(printable(f"{hold.get('target')}  since {hold.get('since')}  by {hold.get('by')}: {hold.get('reason')}"))
    return OK if holds else _said("nothing is kept for the law")


# Words


def _tree(node: Mapping[str, object], audit: Mapping[str, object], depth: int = 0) -> Iterator[str]:
    """A record and what it was made from, each below what was made of it."""
    indent = "  " * depth
    if not node.get("shown"):
        yield f"{indent}{node.get('id')}  (not yours to see, or no more)"
        return
    source = node.get("source")
    who = source if isinstance(source, Mapping) else {}
    call = str(node.get("call"))
    seq = f"audit #{audit[call]}" if call in audit else "not found in the audit log"
    yield f"{indent}{node.get('id')}  {node.get('status')}  trust {node.get('trust')}  {_labels(node)}"
    yield f"{indent}  {json.dumps(str(node.get('text'))[:200])}"
    ref = f" {who.get('ref')}" if who.get("ref") else ""
    model = f", model {who['model']}" if who.get("model") else ""
    yield f"{indent}  said by {who.get('type')}{ref}: {who.get('agent')} for {who.get('subject')}{model}"
    yield f"{indent}  call {call} ({seq}), trace {node.get('trace') or '-'}, at {node.get('recorded_at')}"
    if node.get("note"):
        yield f"{indent}  note: {node['note']}"
    parents = node.get("from")
    for parent in parents if isinstance(parents, list) else ():
        yield from _tree(parent, audit, depth + 1)


def _records(answer: Object, none: str) -> int:
    records = _objects(answer.get("records"))
    for one in records:
        note = f"  [{one['note']}]" if one.get("note") else ""
        place = f"{one.get('scope')} {one.get('kind')} {one.get('namespace')}/{one.get('key')}"
        text = json.dumps(str(one.get("text"))[:100])
        print(printable(f"{one.get('id')}  {place}  trust {one.get('trust')}  {_labels(one)}{note}  {text}"))
    if answer.get("after"):
        print(f"more: --after {answer['after']}")
    return OK if records else _said(none)


def _labels(one: Mapping[str, object]) -> str:
    return ",".join(_texts(one.get("labels"))) or "-"


def _moment(text: str) -> str:
    """A moment, or how long ago it was."""
    if text[:-1].isdecimal() and text[-1:] in _AGO:
        ago = timedelta(**{_AGO[text[-1]]: int(text[:-1])})
        return (datetime.now(UTC) - ago).isoformat()
    return text


def _parts(lines: Sequence[bytes]) -> Iterator[list[bytes]]:
    """As many lines at a time as one call takes."""
    part, size = list[bytes](), 0
    for line in lines:
        if part and size + len(line) > MAX_IMPORTED:
            yield part
            part, size = [], 0
        part.append(line)
        size += len(line)
    if part:
        yield part


def _said(words: str) -> int:
    print(printable(words))
    return OK


def _texts(value: object) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list) else []


def _objects(value: object) -> list[Object]:
    return [dict(item) for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []
