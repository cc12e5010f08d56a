"""`interlock up`: starts the gateway; where there is no configuration it makes one and shows what the gateway does."""

from __future__ import annotations

import argparse
import gc
import json
import logging
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import anyio
from anyio.abc import TaskStatus
from anyio.streams.memory import MemoryObjectReceiveStream

from adapters.pdp.bundle import PolicyRefused
from gateway.a2a.catalogue import PATH as CATALOGUE_PATH
from gateway.app import Ready, serve
from gateway.app.boxes import isolation_fault
from gateway.app.endpoints import host_of
from gateway.cli.bootstrap import ROLE, Keys, prepare_keys, withdraw_keys
from gateway.cli.clients import CLIENTS, settings_with
from gateway.cli.firstrun import is_of_first_run, refuse_no_place, write_configuration
from gateway.cli.main import NOT_AS_IT_SHOULD_BE, OK, CommandFailed, Commands
from gateway.cli.narration import Narration
from gateway.cli.options import add_config, config_path
from gateway.cli.programs import find_own_programs
from gateway.cli.sockets import free_port, is_free
from gateway.config import Settings, load
from gateway.config.tree import State
from gateway.errors import ConfigError, InterlockError

GC_THRESHOLDS: Final = (5_000, 20, 20)
"""A call makes some hundred objects and leaves no cycles behind: Python's own 700 would look for them at every few."""
START_S: Final = 90.0
"""How long the gateway may take to listen, first migrations included."""


def add_parser(commands: Commands) -> None:
    """Mount the command."""
    parser = commands.add_parser("up", help="start the gateway, with a demonstration on the first run")
    add_config(parser)
    parser.add_argument("--once", action="store_true", help="show the demonstration and stop; exit code 1 if it failed")
    parser.add_argument("--host", help="address to listen on (default: from the configuration, 127.0.0.1)")
    parser.add_argument("--port", type=int, help="port to listen on (default: from the configuration, 8080)")
    parser.add_argument("--no-demo", action="store_true", help="start without demonstration and first key")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the steps")
    parser.set_defaults(func=up)


def up(arguments: argparse.Namespace) -> int:
    """Serve until interrupted, or with --once until the demonstration is over."""
    narration = Narration(sys.stdout, as_json=arguments.json)
    path = config_path(arguments)
    fresh = not path.exists()
    if fresh:
        refuse_no_place(path)
        fault = anyio.run(isolation_fault, Settings(state=State(dir=path.parent.absolute() / ".interlock")))
        if fault:
            narration.step("no sandbox works here, so the demonstration's own servers run on the host: a warning each")
            narration.detail(fault)
        upstreams = write_configuration(path, boxed=not fault)
        narration.step(f"wrote {path} with the upstreams {', '.join(upstreams) or '(none)'}")
    settings = _settings(path, arguments, fresh=fresh)
    agents = f" and {len(settings.agents)} agents" if settings.agents else ""
    narration.step(f"read {path}: {len(settings.upstreams)} upstreams{agents}, policies from {settings.policy.path}")
    _log_to_stderr()
    find_own_programs()
    demo = (arguments.once or is_of_first_run(settings)) and not arguments.no_demo
    try:
        run = _Run(settings, narration, once=arguments.once, demo=demo).run
        return anyio.run(run, backend_options={"use_uvloop": sys.platform != "win32"})
    except BaseExceptionGroup as group:
        raise expected_in(group) from group


def _spare_the_collector() -> None:
    """What is there once the gateway serves stays, so that the garbage collector need not look at it with each call."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


def _log_to_stderr() -> None:
    """Our own news, and other libraries' warnings."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("interlock").setLevel(logging.INFO)


def _settings(path: Path, arguments: argparse.Namespace, *, fresh: bool) -> Settings:
    given = {"host": arguments.host, "port": arguments.port}
    listen: dict[str, object] = {key: value for key, value in given.items() if value is not None}
    settings = load(path, {"listen": listen})
    if arguments.port is None and (fresh or arguments.once) and not is_free(settings.listen.host, settings.listen.port):
        return load(path, {"listen": {**listen, "port": free_port(settings.listen.host)}})
    if not is_free(settings.listen.host, settings.listen.port):
        raise CommandFailed(
            f"port {settings.listen.port} on {settings.listen.host} is taken, perhaps by another gateway: "
            "stop that one, or choose another port with --port"
        )
    return settings


def expected_in(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The one failure in a group that a person can act on; the group itself when there is none."""
    expected = group.subgroup((CommandFailed, ConfigError, InterlockError, PolicyRefused, OSError))
    found: BaseException = expected or group
    while expected is not None and isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return CommandFailed(f"the policies are refused: {found}") if isinstance(found, PolicyRefused) else found


class _Run:
    """One run of the gateway, with what is shown beside it."""

    def __init__(self, settings: Settings, narration: Narration, *, once: bool, demo: bool) -> None:
        self._settings = settings
        self._narration = narration
        self._once = once
        self._demo = demo
        self._code = OK

    async def run(self) -> int:
        keys = await prepare_keys(self._settings, demo=self._demo)
        self._show_first_key(keys)
        stop = anyio.Event()
        send, receive = anyio.create_memory_object_stream[Ready](1)
        async with send, receive, anyio.create_task_group() as group:
            await group.start(_stop_on_signal, stop, group.cancel_scope)
            group.start_soon(self._accompany, receive, keys, stop)
            await serve(self._settings, ready=send.send, stop=stop)
            group.cancel_scope.cancel()
        return self._code

    def _show_first_key(self, keys: Keys) -> None:
        if keys.first:
            self._narration.step(f"made the first API key, role {ROLE}; it is shown this once and kept only as a hash:")
            self._narration.detail(keys.first)
            self._narration.fact("key", keys.first)
        elif keys.nobody:
            self._narration.step("nobody can call yet: interlock keys create --subject user:NAME --role developer")

    async def _accompany(self, readiness: MemoryObjectReceiveStream[Ready], keys: Keys, stop: anyio.Event) -> None:
        """Tell what is served once it is, and show it."""
        try:
            with anyio.fail_after(START_S):
                ready = await readiness.receive()
        except TimeoutError as exc:
            raise CommandFailed(f"the gateway did not start within {START_S:.0f} s; see the messages above") from exc
        self._narration.step(f"listening on {ready.url}")
        if self._demo:
            await self._show(ready.url, keys)
        self._show_addresses(ready.url)
        self._narration.finish()
        _spare_the_collector()
        if self._once:
            stop.set()
        else:
            self._narration.step("serving until interrupted (Ctrl-C)")

    async def _show(self, url: str, keys: Keys) -> None:
        from gateway.cli.demonstration import demonstrate  # the MCP SDK: 17 MB that a served gateway does not need

        shown = await demonstrate(f"{url}/mcp", keys.developer, keys.admin, self._settings.servers)
        for one in shown:
            self._narration.step(f"{'ok  ' if one.ok else 'FAIL'} {one.title}")
            self._narration.detail(one.detail)
        await withdraw_keys(self._settings)
        self._narration.fact("demonstration", [asdict(one) for one in shown])
        if not all(one.ok for one in shown):
            self._code = NOT_AS_IT_SHOULD_BE

    def _show_addresses(self, url: str) -> None:
        entry = settings_with(CLIENTS["generic"], "interlock", f"{url}/mcp", {})
        self._narration.step("addresses:")
        self._narration.detail(f"{url}/mcp                all upstreams, names as upstream__tool")
        if self._settings.providers:
            self._narration.detail(
                f"{url}/v1                models, for clients of OpenAI's API; without /v1 for Anthropic's"
            )
        for name in (*self._settings.servers, *self._settings.agents):
            self._narration.detail(f"{url}/servers/{name}/mcp, {_as_agent(name, url)}")
        if self._settings.listen.grpc_port:
            address = f"{urlsplit(url).hostname}:{self._settings.listen.grpc_port}"
            self._narration.detail(f"{address}              agents over gRPC: the tenant is the name")
        self._narration.detail(f"{url}{CATALOGUE_PATH}              what a caller may use")
        self._narration.detail(f"{url}/healthz, /readyz, /metrics")
        self._narration.step(
            "for an MCP client (or: interlock connect claude-code --write; see interlock connect --help):"
        )
        self._narration.detail(json.dumps(entry, indent=2))
        self._narration.fact("url", url)
        self._narration.fact("upstreams", list(self._settings.upstreams))
        self._narration.fact("agents", list(self._settings.agents))
        self._narration.fact("mcpServers", entry["mcpServers"])


def _as_agent(name: str, url: str) -> str:
    """Where it is an agent: below the gateway's address, and at a host of its own where it can have one."""
    host = host_of(name, url)
    return f"{url}/agents/{name}{f' or {host}' if host else ''}"


async def _stop_on_signal(
    stop: anyio.Event, scope: anyio.CancelScope, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED
) -> None:
    """The first signal asks for an orderly end, the second one does not ask."""
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        task_status.started()
        async for _ in signals:
            if stop.is_set():
                scope.cancel()
            stop.set()
