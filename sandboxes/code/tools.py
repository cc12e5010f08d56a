"""The tools as clients see them: names, what they are for, what they take and give."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from gateway.builtin import Schema, tool_definition
from gateway.registry import Listing
from gateway.types import Era
from sandboxes.code.arguments import MAX_CODE, MAX_CONTENT, MAX_LISTED, MAX_READ_BYTES
from sandboxes.code.environment import Environment

VERSION: Final = "1"
INSTRUCTIONS: Final = (
    "Runs code in a sandbox that has nothing of this machine and no network but what policy grants. A session keeps "
    "its files in /workspace until it is ended, unused for a while, or too old. Pass the session id of a result on to "
    "go on there."
)
_TEXT: Final[Schema] = {"type": "string"}
_COUNT: Final[Schema] = {"type": "integer", "minimum": 0}
_FLAG: Final[Schema] = {"type": "boolean"}
_SESSION: Final[Schema] = {
    "type": "string",
    "maxLength": 80,
    "description": "Id of a session, from an earlier result. Without it a new session is started; a client that keeps "
    "an MCP session open goes on in its own one.",
}
_FILES: Final[Schema] = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {"path": _TEXT, "size": _COUNT, "change": {"enum": ["new", "changed"]}},
        "required": ["path", "size", "change"],
    },
}


def listing(environments: Iterable[Environment], usual: str = "default") -> Listing:
    """What the sandbox says of itself. It is the same for everybody, so it names no environment that is not for all."""
    names = [environment for environment in environments if not environment.visible_to]
    return Listing(
        tools=_tools(_environment(names, usual)),
        capabilities={"tools": {}},
        server_info={"name": "interlock-sandbox", "title": "Sandbox", "version": VERSION},
        instructions=INSTRUCTIONS,
        protocol_version="2025-11-25",
        era=Era.LEGACY,
    )


def _environment(shown: Sequence[Environment], usual: str) -> Schema:
    known = "; ".join(
        f"{environment.name}" + (f" ({environment.description})" if environment.description else "")
        for environment in sorted(shown, key=lambda environment: environment.name)
    )
    left_out = repr(usual) if any(environment.name == usual for environment in shown) else "the usual one"
    which = f" There are: {known}." if known else ""
    return {
        "type": "string",
        "maxLength": 80,
        "description": f"What to start a new session from; {left_out} if left out.{which} "
        "A session stays in the environment that it was started from.",
    }


def _tools(environment: Schema) -> list[Schema]:
    common = {"session": _SESSION, "environment": environment}
    return [_run_code(common), _read_file(common), _write_file(common), _list_files(common), _end_session(common)]


def _run_code(common: Schema) -> Schema:
    return tool_definition(
        "run_code",
        "Run code in a sandbox",
        "Runs a program and returns its output, exit status and the files it made; images among them are returned as "
        "images. It starts in /workspace, whose files stay for the next run of the same session; variables and "
        "processes do not: everything that a run starts ends with it. Python imports modules from /workspace. "
        "JavaScript runs in Node.js (with import statements it is an ES module). Shell is bash where there is one. "
        "Nothing can be installed system-wide, files in /workspace and /tmp are not executable, long outputs are cut "
        "in the middle.",
        {
            "code": {"type": "string", "minLength": 1, "maxLength": MAX_CODE, "description": "The whole program."},
            "language": {"type": "string", "enum": ["python", "javascript", "shell"]},
            "timeout_s": {
                "type": "number",
                "exclusiveMinimum": 0,
                "description": "Kill it after this many seconds; the environment has a limit of its own.",
            },
            **common,
        },
        ["code", "language"],
        {
            "session": _TEXT,
            "new_session": _FLAG,
            "exit_status": {"type": "integer", "description": "128 + n when signal n ended it."},
            "timed_out": _FLAG,
            "duration_s": {"type": "number"},
            "stdout": _TEXT,
            "stderr": _TEXT,
            "stdout_cut_bytes": _COUNT,
            "stderr_cut_bytes": _COUNT,
            "files": _FILES,
            "more_files": _COUNT,
        },
        {"readOnlyHint": False, "destructiveHint": True, "idempotentHint": False, "openWorldHint": True},
    )


def _read_file(common: Schema) -> Schema:
    return tool_definition(
        "read_file",
        "Read a file of a sandbox session",
        "Returns a file below /workspace: text as text, images as images, anything else as an embedded resource. Long "
        "files are read in parts: go on at next_offset.",
        {
            "path": {
                "type": "string",
                "minLength": 1,
                "description": "Relative to /workspace; links are not followed.",
            },
            "offset": {"type": "integer", "minimum": 0, "description": "First byte; 0 if left out."},
            "limit": {"type": "integer", "minimum": 1, "maximum": MAX_READ_BYTES, "description": "Most bytes to read."},
            **common,
        },
        ["path"],
        {
            "session": _TEXT,
            "path": _TEXT,
            "size": _COUNT,
            "offset": _COUNT,
            "bytes": _COUNT,
            "mime_type": _TEXT,
            "next_offset": {"type": ["integer", "null"], "description": "Where to go on; null at the end."},
        },
        {"readOnlyHint": True, "openWorldHint": False},
    )


def _write_file(common: Schema) -> Schema:
    return tool_definition(
        "write_file",
        "Write a file of a sandbox session",
        "Writes a file below /workspace and makes the directories it needs. What was there is replaced, unless append "
        "is set. Starts a session if none is named.",
        {
            "path": {
                "type": "string",
                "minLength": 1,
                "description": "Relative to /workspace; links are not followed.",
            },
            "content": {"type": "string", "maxLength": MAX_CONTENT},
            "encoding": {
                "type": "string",
                "enum": ["utf-8", "base64"],
                "description": "How content stands for bytes; utf-8 if left out.",
            },
            "append": {"type": "boolean", "description": "Write at the end of the file instead of anew."},
            **common,
        },
        ["path", "content"],
        {"session": _TEXT, "new_session": _FLAG, "path": _TEXT, "size": _COUNT},
        {"readOnlyHint": False, "destructiveHint": True, "idempotentHint": False, "openWorldHint": False},
    )


def _list_files(common: Schema) -> Schema:
    entry = {
        "type": "object",
        "properties": {"path": _TEXT, "type": {"enum": ["file", "directory", "link", "other"]}, "size": _COUNT},
        "required": ["path", "type", "size"],
    }
    return tool_definition(
        "list_files",
        "List the files of a sandbox session",
        f"Lists what is in a directory below /workspace and below that, {MAX_LISTED} entries at most.",
        {"path": {"type": "string", "description": "Relative to /workspace; all of it if left out."}, **common},
        [],
        {
            "session": _TEXT,
            "entries": {"type": "array", "items": entry},
            "complete": {"type": "boolean", "description": "Whether that is all."},
        },
        {"readOnlyHint": True, "openWorldHint": False},
    )


def _end_session(common: Schema) -> Schema:
    return tool_definition(
        "end_session",
        "End a sandbox session",
        "Ends a session and everything that runs in it. Its files are gone.",
        dict(common),
        [],
        {"session": _TEXT, "ended": _FLAG},
        {"readOnlyHint": False, "destructiveHint": True, "idempotentHint": True, "openWorldHint": False},
    )
