"""Does in a session's box what a permitted `sandbox.exec` says, and tells what came of it as plain JSON."""

from __future__ import annotations

import base64
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Final, Protocol, TypeAlias

import anyio

from gateway import codec
from gateway.boxes import Level, Program
from gateway.errors import InterlockError, SandboxFailure, UnknownResource
from gateway.ports import Relay
from gateway.types import Authorized, Era, Identity, Outcome, Result
from sandboxes.code.arguments import (
    MAX_LISTED,
    EndSession,
    Given,
    ListFiles,
    ReadFile,
    RunCode,
    WriteFile,
    read,
)
from sandboxes.code.client import AgentClient, Problem, Snippet
from sandboxes.code.environment import Environment
from sandboxes.code.files import (
    IMAGES,
    MAX_IMAGE_BYTES,
    MAX_IMAGES,
    MAX_IMAGES_BYTES,
    image_type,
    mime_type,
    text_in,
)
from sandboxes.code.replies import Changed, Output, Ran, shown
from sandboxes.code.sessions import Session, Sessions

Payload: TypeAlias = dict[str, object]


class Occupied(Protocol):
    """Entered while a box works for a call: (box, the call and the tool call that caused it, that call's client)."""

    def __call__(
        self, program: Program, permitted: Sequence[Authorized], relay: Relay
    ) -> AbstractContextManager[object]: ...


PROGRESS_S: Final = 2.0
_SHORTEST_SECRET: Final = 6
_PROBLEMS: Final[Mapping[str, str]] = {
    "ENOENT": "there is no such file or directory",
    "ENOTDIR": "a part of the path is no directory; links are not followed",
    "ELOOP": "it is a link, and links are not followed",
    "EACCES": "the sandbox may not do that",
    "ENXIO": "it is not a regular file",
    "not_a_file": "it is not a regular file",
    "is_directory": "it is a directory",
    "EISDIR": "it is a directory",
    "EEXIST": "there is a file of that name already",
    "ENAMETOOLONG": "the name is too long",
    "ENOSPC": "the sandbox's disk is full; remove something first",
    "EDQUOT": "the sandbox's disk is full; remove something first",
    "EFBIG": "the file would be larger than the sandbox allows",
    "ENOMEM": "the sandbox's memory is used up",
    "EAGAIN": "the sandbox has no room for another process",
    "outside": "the path must be below /workspace, without '..'",
}
"""Codes of the agent -> what they mean to the caller. Its own words are the box's, so they are not passed on."""


def nobody_occupies(
    program: Program,  # noqa: ARG001  # see `Occupied`
    permitted: Sequence[Authorized],  # noqa: ARG001
    relay: Relay,  # noqa: ARG001
) -> AbstractContextManager[object]:
    """Nobody needs to know which call a box works for."""
    return nullcontext()


@dataclass(frozen=True, slots=True)
class Operations:
    """Carries out operations on the sessions of their owners."""

    environments: Mapping[str, Environment]
    sessions: Sessions
    occupied: Occupied = nobody_occupies
    progress_s: float = PROGRESS_S

    def environment(self, name: str, identity: Identity) -> Environment:
        """The environment of that name. Raises `UnknownResource`, also for one that the caller may not know of."""
        found = self.environments.get(name)
        if found is not None and found.shown_to(identity):
            return found
        shown_ones = sorted(name for name, one in self.environments.items() if one.shown_to(identity))
        raise UnknownResource(
            f"environment {shown(name, 80)!r} does not exist or is not visible to you; there are: "
            f"{', '.join(shown_ones) or 'none'}"
        )

    def known(self, environment: Environment, relay: Relay) -> Session | None:
        """What a client means that names no session: one that keeps an MCP session open has one of its own."""
        return self.sessions.default(relay.owner, environment.name) if relay.era is Era.LEGACY else None

    async def carry_out(self, authorized: Authorized, cause: Authorized | None, relay: Relay) -> Result:
        """Do what the call says, as far as what it was permitted with allows. `cause` is the tool call behind it."""
        call, permitted = authorized.call, (authorized,) if cause is None else (authorized, cause)
        environment = self.environment(call.resource.name, authorized.identity)
        given = dict(call.arguments)
        operation = str(given.pop("operation", ""))
        arguments = read(operation, {**given, "environment": environment.name})
        session, new = self._session(arguments, environment, relay)
        try:
            payload, outcome = await self._done(arguments, session, permitted, relay)
        except BaseException:
            if new and not session.default:  # nobody will ever know its id
                self.sessions.discard(session)
            raise
        told = {"operation": operation, "session": session.id, "new_session": new, **payload}
        return Result(codec.dumps(_without(told, environment.secrets.values())), outcome)

    def _session(self, arguments: Given, environment: Environment, relay: Relay) -> tuple[Session, bool]:
        """The session to work in, and whether it is a new one."""
        if arguments.session:
            session = self.sessions.find(relay.owner, arguments.session)
            if session.environment.name != environment.name:
                raise UnknownResource(f"session {session.id!r} does not run in environment {environment.name!r}")
            return session, False
        known = self.known(environment, relay)
        if known is not None:
            return known, False
        if not isinstance(arguments, RunCode | WriteFile):
            raise UnknownResource("there is no session yet: run code or write a file first, or name a session")
        return self.sessions.begin(relay.owner, environment, default=relay.era is Era.LEGACY), True

    async def _done(
        self, arguments: Given, session: Session, permitted: Sequence[Authorized], relay: Relay
    ) -> tuple[Payload, Outcome]:
        if isinstance(arguments, EndSession):
            if session.box is not None:
                relay.note("sandbox", session.box.facts.note())
            await self.sessions.end(session)
            return {"ended": True}, "ok"
        async with self.sessions.use(session, needed(permitted)) as box:
            relay.note("sandbox", box.facts.note())
            with self.occupied(box.program, permitted, relay):
                try:
                    return await self._worked(arguments, session, box, relay)
                except Problem as exc:
                    return {"problem": _words(exc, arguments, session)}, "tool_error"

    async def _worked(
        self, arguments: RunCode | ReadFile | WriteFile | ListFiles, session: Session, box: AgentClient, relay: Relay
    ) -> tuple[Payload, Outcome]:
        if isinstance(arguments, RunCode):
            return await self._run(arguments, session.environment, box, relay)
        if isinstance(arguments, WriteFile):
            size = await box.put(arguments.path, arguments.data(), append=arguments.append)
            return {"path": arguments.path, "size": size}, "ok"
        if isinstance(arguments, ReadFile):
            return await _read(arguments, box), "ok"
        found = await box.list(arguments.path, limit=MAX_LISTED)
        entries = [entry.model_dump() for entry in found.entries]
        return {"entries": entries, "complete": found.complete}, "ok"

    async def _run(
        self, arguments: RunCode, environment: Environment, box: AgentClient, relay: Relay
    ) -> tuple[Payload, Outcome]:
        wall_s = min(arguments.timeout_s or environment.wall_s, environment.wall_s)
        snippet = Snippet(arguments.language, arguments.code, float(wall_s))
        ran = await self._watched(box, snippet, relay)
        images = await _images(box, ran.files)
        return _told(ran, images), "tool_error" if ran.status != 0 or ran.timed_out else "ok"

    async def _watched(self, box: AgentClient, snippet: Snippet, relay: Relay) -> Ran:
        """Run it, and tell a client that wants to know now and then that it still runs."""
        if not relay.wants_progress:
            return await box.run(snippet)
        fault: InterlockError | Problem | None = None
        over = anyio.Event()
        async with anyio.create_task_group() as group:
            group.start_soon(self._tell, snippet, relay, over)
            try:
                ran = await box.run(snippet)
            except (InterlockError, Problem) as exc:  # carried out of the group, which would wrap it
                fault = exc
            over.set()
        if fault is not None:
            raise fault
        return ran

    async def _tell(self, snippet: Snippet, relay: Relay, over: anyio.Event) -> None:
        """Tell how long it runs until it is over. A client that does not listen holds nothing up."""
        started = anyio.current_time()
        while True:
            with anyio.move_on_after(self.progress_s):
                await over.wait()
                return
            took = round(anyio.current_time() - started, 1)
            message = f"running for {took:.0f} of at most {snippet.wall_s:.0f} s"
            params = {"progress": took, "total": snippet.wall_s, "message": message}
            with anyio.move_on_after(self.progress_s):
                await relay.notify("notifications/progress", params)


def needed(permitted: Sequence[Authorized]) -> Level:
    """The strongest level that an obligation of these permits asks for. Raises `SandboxFailure` for one unreadable."""
    levels = [Level.NONE]
    for authorized in permitted:
        for obligation in authorized.permit.obligations:
            if obligation.type == "sandbox":
                levels.append(_level(obligation.properties.get("level", Level.NONE)))
    return max(levels, key=lambda level: level.rank)


def _level(value: object) -> Level:
    try:
        return Level(str(value))
    except ValueError as exc:
        raise SandboxFailure("policy asks for a level of isolation that does not exist") from exc


def _words(problem: Problem, arguments: Given, session: Session) -> str:
    """A problem in words of ours: those of the agent may be anybody's in the box."""
    where = f"session {session.id!r}"
    if problem.code == "missing_interpreter" and isinstance(arguments, RunCode):
        names = {"javascript": "node", "shell": "sh", "python": "python3"}
        return (
            f"environment {session.environment.name!r} has no {names[arguments.language]}, so it cannot run "
            f"{arguments.language}; use another language or environment"
        )
    path = getattr(arguments, "path", "")
    what = f"{shown(path)!r} in {where}" if path else where
    return f"{what}: {_PROBLEMS.get(problem.code, 'the sandbox could not do that')}"


def _told(ran: Ran, images: list[Payload]) -> Payload:
    return {
        "exit_status": ran.status,
        "timed_out": ran.timed_out,
        "duration_s": ran.took_s,
        "stdout": _text(ran.stdout),
        "stderr": _text(ran.stderr),
        "stdout_cut_bytes": ran.stdout.cut,
        "stderr_cut_bytes": ran.stderr.cut,
        "files": [changed.model_dump() for changed in ran.files],
        "more_files": ran.more_files,
        "images": images,
    }


def _text(output: Output) -> str:
    head, tail = (part.decode("utf-8", "replace") for part in (output.head, output.tail))
    return f"{head}\n[... {output.cut} bytes left out ...]\n{tail}" if output.cut else head + tail


async def _images(box: AgentClient, files: Sequence[Changed]) -> list[Payload]:
    """The images among new files, as many and as large as an answer may carry."""
    found: list[Payload] = []
    room = MAX_IMAGES_BYTES
    named = [file for file in files if file.path.lower().endswith(IMAGES) and 0 < file.size <= MAX_IMAGE_BYTES]
    for file in named[: 2 * MAX_IMAGES]:  # looking at every false one would be work for the gateway
        if len(found) == MAX_IMAGES or file.size > room:
            continue
        try:
            content = await box.get(file.path, offset=0, limit=MAX_IMAGE_BYTES)
        except Problem:  # it was a name that is no UTF-8, or it is gone
            continue
        kind = image_type(content.data)
        if kind and len(content.data) <= room:
            room -= len(content.data)
            found.append({"path": file.path, "mime_type": kind, "data": base64.b64encode(content.data).decode()})
    return found


async def _read(arguments: ReadFile, box: AgentClient) -> Payload:
    content = await box.get(arguments.path, offset=arguments.offset, limit=arguments.limit)
    data, end = content.data, arguments.offset + len(content.data)
    begins, ends = arguments.offset == 0, end >= content.size or not content.data
    facts: Payload = {
        "path": arguments.path,
        "size": content.size,
        "offset": arguments.offset,
        "bytes": len(data),
        "next_offset": None if ends else end,
    }
    image = image_type(data) if begins and ends else ""
    if image:
        return {**facts, "mime_type": image, "data": base64.b64encode(data).decode()}
    text = text_in(data, begins=begins, ends=ends)
    if text is not None:
        return {**facts, "mime_type": mime_type(arguments.path, is_text=True), "text": text}
    return {
        **facts,
        "mime_type": mime_type(arguments.path, is_text=False),
        "data": base64.b64encode(data).decode(),
    }


def _without(value: object, secrets: Collection[str]) -> object:
    """A JSON value with secrets struck out of its texts: a guard against accidents, since code may encode them."""
    hidden = sorted((secret for secret in secrets if len(secret) >= _SHORTEST_SECRET), key=len, reverse=True)
    return _struck_out(value, hidden) if hidden else value


def _struck_out(value: object, hidden: Sequence[str]) -> object:
    if isinstance(value, str):
        for secret in hidden:
            value = value.replace(secret, "***")
        return value
    if isinstance(value, dict):
        return {key: _struck_out(item, hidden) for key, item in value.items()}
    if isinstance(value, list):
        return [_struck_out(item, hidden) for item in value]
    return value
