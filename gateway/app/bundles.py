"""Policy that comes from a server: asked for again and again, and in force only once it is found good.

Every bundle goes the way of a change on disk: verified, checked, tested, then exchanged between two questions. What
is wrong with one leaves the last good one in force. That one is also kept on disk, and verified again when it is
used at a start at which the server does not answer. With neither, nothing is loaded: everything is denied.
"""

from __future__ import annotations

import hashlib
import logging
import random as system
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict, dataclass, replace
from typing import Final, Literal
from urllib.parse import urlsplit

import anyio
from anyio import to_thread

from adapters.pdp.activation import Engine
from adapters.pdp.bundle import PolicyRefused, load_bundle
from adapters.pdp.bundle_signature import verify
from adapters.pdp.opa_bundle import Opened, composed, read_bundle
from adapters.pdp.opa_bundle_archive import refused, unpacked
from adapters.pdp.opa_bundle_keys import SigningKey, public_key
from adapters.pdp.opa_bundle_service import TIMEOUT_S, BundleService, BundleUnavailable, Download, Unchanged
from gateway.app.kept_bundle import Kept, KeptBundle
from gateway.app.policy import ActivePolicy, open_engine, read_policy
from gateway.config.decisions import Policy
from gateway.config.fields import is_loopback, policy_library
from gateway.config.secrets import resolve_secret
from gateway.config.tree import Settings
from gateway.errors import ConfigError, InterlockError

log = logging.getLogger("interlock.policy")

POLL_S: Final = 60.0
"""Between two requests, or how long a server that can wait is asked to."""
PAUSE_S: Final = 1.0
"""The least time between two requests, whatever a server says."""
LONGEST_WAIT_S: Final = 300
JITTER: Final = 0.2
_TROUBLE: Final = (BundleUnavailable, PolicyRefused, InterlockError, ConfigError, OSError)


@dataclass(frozen=True, slots=True)
class BundleReport:
    """How it stands with the bundle. Times are seconds since 1970, 0 for never."""

    url: str = ""
    source: Literal["", "server", "kept"] = ""
    revision: str = ""
    """What its manifest says."""
    policy: str = ""
    """What decisions carry: the hash of its rules and data."""
    etag: str = ""
    verified: bool = False
    activated_s: float = 0.0
    answered_s: float = 0.0
    error: str = ""
    """Why the last attempt changed nothing; empty when it was well."""

    def shown(self) -> dict[str, object]:
        """As plain values."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class _Held:
    """What was opened last, and under which settings."""

    policy: Policy
    digest: str
    etag: str
    waits: bool
    report: BundleReport


class PolicyBundles:
    """Opens the policy that the configuration names, and follows its server if it comes from one.

    The server is asked every `poll_s` seconds; `timeout_s` is for one answer. `random` spreads requests of many
    gateways; `wait` is `anyio.sleep`.
    """

    def __init__(
        self,
        settings: Settings,
        active: ActivePolicy,
        *,
        poll_s: float = POLL_S,
        timeout_s: float = TIMEOUT_S,
        random: Callable[[], float] = system.random,
        wait: Callable[[float], Awaitable[None]] = anyio.sleep,
    ) -> None:
        self._state_dir = settings.state.dir
        self._active = active
        self._poll_s = poll_s
        self._timeout_s = timeout_s
        self._random = random
        self._wait = wait
        self._followed = settings.policy
        self._changed = anyio.Event()
        self._opened: _Held | None = None
        self._held: _Held | None = None
        self._failures = 0
        self.report = BundleReport()
        """For the admin endpoints."""

    async def start(self) -> None:
        """Let the configured policy decide. With no bundle to be had nothing is loaded, which denies everything.

        Raises `PolicyRefused` for a policy on disk that is not good, `ConfigError` for a key or token that is not
        there, and `PolicyEngineUnavailable` when an OPA server is to decide and does not answer.
        """
        policy = self._followed
        try:
            engine = await self.open(policy)
        except PolicyRefused as exc:
            if not policy.from_bundle:
                raise
            self._failed(str(exc))
            log.error("no policy is in force and everything is denied, until a bundle can be had")  # noqa: TRY400
            return
        self._active.activate(engine)
        self._hold(policy)

    async def open(self, policy: Policy) -> Engine:
        """An engine for the policy that these settings name. Raises as `start` does, and for a missing bundle too.

        The bundle is that of the server, or else the last good one from there.
        """
        if not policy.from_bundle:
            self._opened = None
            return await open_engine(policy, await read_policy(policy))
        key = _key(policy)
        try:
            async with self._server(policy) as server:
                download = await server.fetch()
            if isinstance(download, Unchanged):  # only to a question with an ETag
                raise BundleUnavailable("the server gives no bundle")
            return await self._judged(policy, key, download)
        except (BundleUnavailable, PolicyRefused) as exc:
            kept = await to_thread.run_sync(KeptBundle(self._state_dir, policy.url).read)
            if kept is None:
                raise refused(str(exc), policy_url(policy)) from exc
            return await self._fallen_back(policy, key, kept, str(exc))

    def follow(self, policy: Policy) -> None:
        """Ask the server of these settings from now on. What `open` opened for them is in force by now."""
        if policy == self._followed:
            return
        self._hold(policy)
        self._followed = policy
        changed, self._changed = self._changed, anyio.Event()
        changed.set()

    async def run(self, announce: Callable[[], None]) -> None:
        """Follow the server until cancelled; `announce` is called after each exchange of the policy."""
        while True:
            changed = self._changed
            async with anyio.create_task_group() as group:
                if self._followed.from_bundle:
                    group.start_soon(self._poll, self._followed, announce)
                await changed.wait()
                group.cancel_scope.cancel()

    async def _poll(self, policy: Policy, announce: Callable[[], None]) -> None:
        self._failures = int(self._held is None or bool(self.report.error))
        while True:
            await self._wait(PAUSE_S if self._waits and not self._failures else self._delay_s())
            try:
                async with self._server(policy) as server:
                    while True:
                        await self._wait(await self._ask(policy, server, announce))
            except _TROUBLE as exc:
                self._failures += 1
                self._failed(str(exc))

    @property
    def _waits(self) -> bool:
        """Whether the server can wait with its answer until there is another bundle than ours."""
        return self._held is not None and self._held.waits and bool(self._held.etag)

    def _delay_s(self) -> float:
        """Seconds until the next request: doubled from failure to failure up to `poll_s`, and never quite the same."""
        base = min(self._poll_s, 2.0 ** min(self._failures, 20)) if self._failures else self._poll_s
        return max(PAUSE_S, base * (1 + JITTER * (2 * self._random() - 1)))

    async def _ask(self, policy: Policy, server: BundleService, announce: Callable[[], None]) -> float:
        """One request and what follows from it; the seconds to wait before the next."""
        held = self._held
        etag = held.etag if held is not None else ""
        wait_s = int(min(max(self._poll_s, 1), LONGEST_WAIT_S)) if self._waits else 0
        began = time.monotonic()
        answer = await server.fetch(etag, wait_s=wait_s)
        if isinstance(answer, Download) and (held is None or _digest(answer.archive) != held.digest):
            await self._exchange(policy, answer, announce)
        else:
            self._well(answer)
        self._failures = 0
        came_early = isinstance(answer, Unchanged) and time.monotonic() - began < wait_s / 2
        return PAUSE_S if self._waits and not came_early else self._delay_s()

    async def _exchange(self, policy: Policy, download: Download, announce: Callable[[], None]) -> None:
        key = _key(policy)
        async with self._active.changing:
            if policy != self._followed:
                return
            engine = await self._judged(policy, key, download)
            self._active.activate(engine)
            self._hold(policy)
        announce()
        log.info("bundle %s is in force as policy %s", self.report.revision or "without a revision", engine.revision)

    async def _judged(self, policy: Policy, key: SigningKey | None, download: Download) -> Engine:
        """An engine for a download, which then is the last good one. Raises `PolicyRefused`."""
        opened = await to_thread.run_sync(_read, download.archive, key)
        engine = await self._engine(policy, opened)
        report = self._described(policy, opened, engine, download.etag, "server")
        self._opened = _Held(policy, _digest(download.archive), download.etag, download.waits, report)
        keeping = KeptBundle(self._state_dir, policy.url)
        await to_thread.run_sync(keeping.write, download.archive, download.etag)
        return engine

    async def _fallen_back(self, policy: Policy, key: SigningKey | None, kept: Kept, error: str) -> Engine:
        try:
            opened = await to_thread.run_sync(_read, kept.archive, key)
            engine = await self._engine(policy, opened)
        except PolicyRefused as exc:
            raise refused(f"{error}; and of the last good bundle: {exc}", policy_url(policy)) from exc
        report = replace(self._described(policy, opened, engine, kept.etag, "kept"), error=error, answered_s=0.0)
        self._opened = _Held(policy, _digest(kept.archive), kept.etag, waits=False, report=report)
        log.warning("the last good bundle is used: %s", error)
        return engine

    async def _engine(self, policy: Policy, opened: Opened) -> Engine:
        if opened.has_library:
            return await open_engine(policy, opened.bundle)
        library = await to_thread.run_sync(load_bundle, [policy_library()])
        return await open_engine(policy, composed(library, opened.bundle))

    def _described(
        self, policy: Policy, opened: Opened, engine: Engine, etag: str, source: Literal["server", "kept"]
    ) -> BundleReport:
        now_s, verified = time.time(), bool(policy.bundle_key)
        revision = opened.manifest.revision
        return BundleReport(
            policy_url(policy), source, revision, engine.revision, etag, verified, activated_s=now_s, answered_s=now_s
        )

    def _hold(self, policy: Policy) -> None:
        """What was opened for these settings is in force now."""
        opened, self._opened = self._opened, None
        self._held = opened if opened is not None and opened.policy == policy else None
        self.report = self._held.report if self._held is not None else BundleReport(policy_url(policy))

    def _well(self, answer: Download | Unchanged) -> None:
        """The server has what is in force."""
        if self._held is not None and isinstance(answer, Download):
            self._held = replace(self._held, etag=answer.etag, waits=answer.waits)
        etag = self._held.etag if self._held is not None else ""
        if self.report.error:
            log.info("the bundle server answers again; it has what is in force")
        self.report = replace(self.report, etag=etag, answered_s=time.time(), error="")

    def _failed(self, error: str) -> None:
        if error != self.report.error:
            log.warning("the policy in force stays: %s", error)
        self.report = replace(self.report, url=policy_url(self._followed), error=error)

    def _server(self, policy: Policy) -> AbstractAsyncContextManager[BundleService]:
        from adapters.pdp.opa_bundle_http import BundleServer  # the HTTP client is imported only where it is needed

        token = resolve_secret(policy.token) if policy.token else ""
        return BundleServer(policy.url, token=token, timeout_s=self._timeout_s)


def policy_url(policy: Policy) -> str:
    """The address of the bundle without what is asked of it, which may be a secret; empty where there is none."""
    return urlsplit(policy.url)._replace(query="", fragment="").geturl() if policy.from_bundle else ""


def remarks(policy: Policy) -> list[tuple[str, str]]:
    """What is not wrong, and still should be looked at: keys of the configuration with a sentence each."""
    found: list[tuple[str, str]] = []
    if policy.from_bundle and not policy.bundle_key:
        what = "is not set: whoever can answer for policy.url decides what is allowed; sign the bundles"
        found.append(("policy.bundle_key", what))
    parts = urlsplit(policy.url)
    if policy.token and parts.scheme == "http" and not is_loopback(parts.hostname or ""):
        found.append(("policy.token", "goes over the network unencrypted; use https in policy.url"))
    return found


def _read(archive: bytes, key: SigningKey | None) -> Opened:
    """Blocking. Nothing of an archive is looked at before its signature, if there is a key for it."""
    files = unpacked(archive)
    if key is not None:
        verify(files, key)
    return read_bundle(files)


def _key(policy: Policy) -> SigningKey | None:
    if not policy.bundle_key:
        return None
    try:
        return public_key(resolve_secret(policy.bundle_key))
    except PolicyRefused as exc:
        raise ConfigError([("policy.bundle_key", exc.faults[0].message)]) from exc


def _digest(archive: bytes) -> str:
    return hashlib.sha256(archive).hexdigest()
