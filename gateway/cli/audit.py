"""`interlock audit`: prove that the log is whole, read it, publish it."""

from __future__ import annotations

import argparse
import json
import sqlite3
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from gateway.audit.checkpoint import BadNote, VerifierKey
from gateway.audit.reader import Filter, Tail, readable
from gateway.audit.report import Report, Unverifiable
from gateway.audit.tiles import export_tiles
from gateway.audit.verify import verify_log
from gateway.audit.verify_tiles import is_tile_directory, verify_tiles

OK: Final = 0
FAULTY: Final = 1
CANNOT_TELL: Final = 2


def add_parser(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `audit verify|tail|export`; each sets `func`, which returns the exit code."""
    audit = commands.add_parser("audit", help="verify, read or export the audit log")
    verbs = audit.add_subparsers(dest="verb", required=True, metavar="verify|tail|export")
    _add_verify(verbs)
    _add_tail(verbs)
    _add_export(verbs)


def _add_verify(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    verify = verbs.add_parser(
        "verify",
        help="prove that no record was changed, removed or reordered",
        description="Exit code 0: whole; 1: faults, each with segment and sequence numbers; 2: nothing can be said.",
    )
    _add_data(verify)
    verify.add_argument("--tiles", type=Path, metavar="DIR", help="an exported tile directory instead")
    verify.add_argument("--key", metavar="VKEY", help="the log's public key, kept elsewhere (text, or a file)")
    verify.add_argument("--checkpoint", type=Path, metavar="FILE", help="a checkpoint kept elsewhere")
    verify.add_argument("--json", action="store_true", help="print the report as JSON")
    verify.set_defaults(func=_verify)


def _add_tail(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    tail = verbs.add_parser("tail", help="show the newest records")
    _add_data(tail)
    tail.add_argument("-n", dest="count", type=int, default=20, metavar="N", help="how many (20)")
    tail.add_argument("-f", dest="follow", action="store_true", help="go on showing new ones")
    tail.add_argument("--outcome", default="", help="only this outcome: ok, denied, failed, ...")
    tail.add_argument("--subject", default="", help="only this subject id")
    tail.add_argument("--action", default="", help="only this action: mcp.tools.call, ...")
    tail.add_argument("--json", action="store_true", help="one JSON entry per line, as stored")
    tail.set_defaults(func=_tail)


def _add_export(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    export = verbs.add_parser("export", help="write the log as static files (C2SP tlog-tiles)")
    _add_data(export)
    export.add_argument("target", type=Path, metavar="TARGET", help="directory to write or to bring up to date")
    export.set_defaults(func=_export)


def _add_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data", type=Path, default=Path(".interlock"), metavar="DIR", help="data directory (.interlock)"
    )


def _verify(args: argparse.Namespace) -> int:
    try:
        key = _key(args.key) if args.key else None
        kept = args.checkpoint.read_bytes() if args.checkpoint else None
        report = _checked(args, key, kept)
    except (Unverifiable, BadNote, OSError, sqlite3.Error) as exc:
        return _cannot(exc)
    print(json.dumps(report.as_json(), indent=2) if args.json else _described(report))
    if report.findings:
        return FAULTY
    return OK if report.ok else CANNOT_TELL


def _checked(args: argparse.Namespace, key: VerifierKey | None, kept: bytes | None) -> Report:
    if args.tiles:
        return verify_tiles(args.tiles, key=key, kept=kept)
    if is_tile_directory(args.data):
        return verify_tiles(args.data, key=key, kept=kept)
    return verify_log(args.data / "audit", key=key, kept=kept)


def _key(text: str) -> VerifierKey:
    path = Path(text)
    return VerifierKey.parse(path.read_text(errors="replace") if path.is_file() else text)


def _described(report: Report) -> str:
    lines = [
        f"log          {report.origin}",
        f"records      {report.first} to {report.size - 1}, {report.signed_size} covered by checkpoints",
        f"checkpoints  {report.checkpoints} hold, segments {report.segments}",
        *(f"note         {remark}" for remark in report.remarks),
        *(f"FAULT        {finding}" for finding in report.findings),
        *([f"UNANSWERED   {report.unanswered}"] if report.unanswered else []),
    ]
    verdict = "whole" if report.ok else f"{len(report.findings)} fault(s)" if report.findings else "cannot tell"
    return "\n".join([*lines, f"verdict      {verdict}"])


def _tail(args: argparse.Namespace, *, wait: Callable[[float], None] = time.sleep) -> int:
    wanted = Filter(outcome=args.outcome, subject=args.subject, action=args.action)
    write = _as_stored if args.json else readable
    try:
        tail = Tail(args.data / "audit", wanted)
        for body in tail.last(args.count):
            print(write(body), flush=True)
        while args.follow:
            wait(0.5)
            for body in tail.fresh():
                print(write(body), flush=True)
    except KeyboardInterrupt:
        return OK
    except BrokenPipeError:
        raise  # the reader has seen enough: `main` knows that this is no failure
    except (Unverifiable, OSError, sqlite3.Error) as exc:
        return _cannot(exc)
    return OK


def _as_stored(body: bytes) -> str:
    return body.decode(errors="backslashreplace")


def _export(args: argparse.Namespace) -> int:
    log = args.data / "audit"
    try:
        if not log.is_dir():
            raise Unverifiable(f"{log}: there is no audit log here")
        done = export_tiles(log, args.target)
    except (Unverifiable, BadNote, OSError, sqlite3.Error) as exc:
        return _cannot(exc)
    print(f"{args.target}: records {done.first} to {done.checkpoint.size - 1}, {done.files} files written")
    return OK


def _cannot(exc: Exception) -> int:
    print(f"interlock audit: {exc}", file=sys.stderr)
    return CANNOT_TELL
