"""Answers the calls that ask what there is: lists, `server/discover`, `initialize`.

A list is a call like any other, and what it shows equals what may be called: the items come from the registry, the
choice from policy. Nothing is asked of an upstream.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from gateway import codec
from gateway.errors import InvalidCall
from gateway.ports import Relay, Upstream
from gateway.registry import Kind, ListedItem, Registry, Snapshot, UpstreamCatalog
from gateway.types import Authorized, Call, Identity, Resource, Result

PAGE_SIZE: Final = 1_000
TTL_MS: Final = 5_000
"""How long a client may keep a list or a description; a change is announced to those that listen."""
CACHED_LISTS: Final = 512
CURSOR_TTL_S: Final = 3_600
MAX_INSTRUCTIONS: Final = 4_096
MODERN: Final = "2026-07-28"

_LISTS: Final[Mapping[str, tuple[Kind, str]]] = {
    "tools/list": ("tool", "tools"),
    "prompts/list": ("prompt", "prompts"),
    "resources/list": ("resource", "resources"),
    "resources/templates/list": ("template", "resourceTemplates"),
}
_PERMISSION_ONLY: Final = frozenset({"subscriptions/listen", "logging/setLevel"})
"""Calls that change how the client is served, at the listener; here they only need to be permitted."""
SERVED: Final = frozenset({*_LISTS, *_PERMISSION_ONLY, "server/discover", "initialize"})


class Chooser(Protocol):
    """Which of these may the identity see? Raises rather than guess."""

    async def visible(self, call: Call, identity: Identity, candidates: Sequence[Resource]) -> frozenset[int]: ...


class Cursors(Protocol):
    """Seals the position in a list."""

    def seal(self, purpose: str, value: Mapping[str, object], *, principal: str, ttl_s: int, now_s: int) -> str: ...

    def open(self, purpose: str, token: str, *, principal: str, now_s: int) -> object: ...


@dataclass(frozen=True, slots=True)
class About:
    """How the gateway introduces itself."""

    name: str = "interlock"
    version: str = "0"
    supported: tuple[str, ...] = ()
    extensions: tuple[str, ...] = ()
    """Those that the gateway serves itself, whatever its upstreams have (2026-07-28)."""


class Lister:
    """Carries out list calls under their permits.

    `epoch` gives the revision of the active policy when what it shows depends on subject and catalog alone, and
    `None` when it may differ from call to call; then nothing is cached.
    """

    def __init__(
        self,
        *,
        registry: Registry,
        chooser: Chooser,
        cursors: Cursors,
        epoch: Callable[[], str | None],
        now_s: Callable[[], int],
        about: About,
        page_size: int = PAGE_SIZE,
    ) -> None:
        self._registry = registry
        self._chooser = chooser
        self._cursors = cursors
        self._epoch = epoch
        self._now_s = now_s
        self._about = about
        self._page_size = page_size
        self._cache: OrderedDict[tuple[object, ...], bytes] = OrderedDict()

    async def execute(self, authorized: Authorized, relay: Relay) -> Result:
        """The answer to one list, `server/discover`, `initialize` or (permission only) `subscriptions/listen`."""
        call = authorized.call
        if call.method in _LISTS:
            return Result(await self._page(call, authorized.identity))
        if call.method in _PERMISSION_ONLY:
            return Result(b"{}")
        return Result(codec.dumps(self._description(call)))

    async def _page(self, call: Call, identity: Identity) -> bytes:
        snapshot = self._registry.snapshot
        epoch = self._epoch()
        revision = snapshot.view_revision(call.resource.name)
        # A page is kept for half of the time that its cursor is good for, so that the cursor given out is always good.
        half = self._now_s() // (CURSOR_TTL_S // 2)
        where = (call.method, call.resource.name, revision, epoch, call.protocol_version == MODERN)
        key = (where, identity.fingerprint, call.params.get("cursor"), half)
        page = self._cache.get(key)
        if page is not None:
            self._cache.move_to_end(key)
            return page
        page = await self._fresh_page(call, identity, snapshot, revision)
        if epoch is not None and epoch == self._epoch():
            self._cache[key] = page
            if len(self._cache) > CACHED_LISTS:
                self._cache.popitem(last=False)
        return page

    async def _fresh_page(self, call: Call, identity: Identity, snapshot: Snapshot, revision: int) -> bytes:
        kind, member = _LISTS[call.method]
        start = self._start(call, identity, revision)
        seen = await self._seen(call, identity, snapshot.items(call.resource.name, kind))
        page = b'{"resultType":"complete","' + member.encode() + b'":['
        wires = [item.wire for item in seen[start : start + self._page_size]]
        if kind == "tool" and call.protocol_version != MODERN:
            wires = [legacy_tool(wire) for wire in wires]
        page += b",".join(wires) + b"]"
        if len(seen) > start + self._page_size:
            page += b',"nextCursor":' + codec.dumps(self._cursor(call, identity, revision, start + self._page_size))
        return page + f',"ttlMs":{TTL_MS},"cacheScope":"private"}}'.encode()

    async def _seen(self, call: Call, identity: Identity, items: Sequence[ListedItem]) -> list[ListedItem]:
        if not items:
            return []
        visible = await self._chooser.visible(call, identity, [item.resource for item in items])
        return [item for index, item in enumerate(items) if index in visible]

    def _start(self, call: Call, identity: Identity, revision: int) -> int:
        cursor = call.params.get("cursor")
        if cursor is None:
            return 0
        if not isinstance(cursor, str):
            raise InvalidCall("params.cursor must be the string that the previous page gave as nextCursor")
        opened = self._cursors.open("cursor", cursor, principal=identity.principal, now_s=self._now_s())
        here = {"m": call.method, "v": call.resource.name, "r": revision}
        if not isinstance(opened, dict) or not here.items() <= opened.items():
            raise InvalidCall("the list changed since this cursor was given; start again without a cursor")
        start = opened.get("at")
        if not isinstance(start, int):
            raise InvalidCall("params.cursor is not one of ours")
        return start

    def _cursor(self, call: Call, identity: Identity, revision: int, at: int) -> str:
        value: Mapping[str, object] = {"m": call.method, "v": call.resource.name, "r": revision, "at": at}
        return self._cursors.seal(
            "cursor", value, principal=identity.principal, ttl_s=CURSOR_TTL_S, now_s=self._now_s()
        )

    def _description(self, call: Call) -> Mapping[str, object]:
        catalog = self._catalog(call.resource)
        info = self._info(catalog)
        common: dict[str, object] = {
            "capabilities": capabilities_of(catalog),
            "instructions": self._instructions(catalog),
        }
        if call.method == "initialize":
            return {"protocolVersion": call.protocol_version, **common, "serverInfo": info}
        return {
            "resultType": "complete",
            "supportedVersions": list(self._about.supported),
            **common,
            "capabilities": with_extensions(capabilities_of(catalog), self._about.extensions),
            "ttlMs": TTL_MS,
            "cacheScope": "private",
            "_meta": {"io.modelcontextprotocol/serverInfo": info},
        }

    def _catalog(self, server: Resource) -> UpstreamCatalog | None:
        state = self._registry.snapshot.upstream(server.upstream)
        return state.catalog if state is not None else None

    def _info(self, catalog: UpstreamCatalog | None) -> Mapping[str, object]:
        if catalog is not None and isinstance(catalog.server_info.get("name"), str):
            return catalog.server_info
        return {"name": self._about.name, "version": self._about.version}

    def _instructions(self, catalog: UpstreamCatalog | None) -> str:
        if catalog is not None:
            return catalog.instructions[:MAX_INSTRUCTIONS]
        parts = [
            "Tools and prompts are named upstream__name. A call that policy denies says which rule, and what helps."
        ]
        for state in self._registry.snapshot.upstreams:
            if state.catalog is not None and state.catalog.instructions:
                parts.append(f"## {state.name}\n{state.catalog.instructions[:MAX_INSTRUCTIONS]}")
        return "\n\n".join(parts)


def legacy_tool(wire: bytes) -> bytes:
    """A tool's definition without what only 2026-07-28 knows: an `outputSchema` that is not an object's.

    A client of the handshake era refuses the whole list over one such schema (2025-11-25, server/tools, "Output
    Schema"); without it the tool still works.
    """
    if b'"outputSchema"' not in wire:
        return wire
    definition = codec.loads(wire)
    if not isinstance(definition, dict) or _is_object_schema(definition.get("outputSchema")):
        return wire
    return codec.dumps({key: value for key, value in definition.items() if key != "outputSchema"})


def _is_object_schema(schema: object) -> bool:
    return isinstance(schema, dict) and schema.get("type") == "object"


def capabilities_of(catalog: UpstreamCatalog | None) -> dict[str, object]:
    """What clients may expect: the upstream's own capabilities as far as the gateway carries them, or all of those."""
    ours: dict[str, object] = {
        "tools": {"listChanged": True},
        "prompts": {"listChanged": True},
        "resources": {"listChanged": True, "subscribe": True},
        "completions": {},
        "logging": {},
    }
    if catalog is None:
        return ours
    capabilities = {name: value for name, value in ours.items() if name in catalog.capabilities}
    extensions = catalog.capabilities.get("extensions")
    if isinstance(extensions, Mapping):
        kept = {name: value for name, value in extensions.items() if name != "io.modelcontextprotocol/tasks"}
        if kept:
            capabilities["extensions"] = kept
    return capabilities


def with_extensions(capabilities: Mapping[str, object], names: Sequence[str]) -> Mapping[str, object]:
    """The capabilities with these extensions in them, which have no settings."""
    known = capabilities.get("extensions")
    theirs = known if isinstance(known, Mapping) else {}
    return {**capabilities, "extensions": {**theirs, **{name: {} for name in names}}} if names else capabilities


_: type[Upstream] = Lister
__all__ = ["SERVED", "About", "Lister", "capabilities_of"]
