"""Management of an OPA server: whether it is well, what policy it has, and giving it ours.

Modules reach the server one by one. Meanwhile the library is not there, so that everything is denied rather than
decided by a mixture; where that moment matters, let OPA download a bundle instead.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, cast
from urllib.parse import quote

import aiohttp
import orjson
from opa_client.errors import DeletePolicyError, PolicyNotFoundError, RegoParseError  # type: ignore[import-untyped]  # as below
from opa_client.opa_async import AsyncOpaClient  # type: ignore[import-untyped]  # the package ships no types

from adapters.pdp.bundle import Bundle, Fault, PolicyRefused, Source
from adapters.pdp.opa_http import Endpoint
from gateway.errors import PolicyEngineUnavailable

PREFIX: Final = "interlock/"
REVISION: Final = "interlock_revision"
TIMEOUT_S: Final = 10.0
_TROUBLE: Final = (
    aiohttp.ClientError,
    OSError,
    TimeoutError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)
"""No answer, or one that is not OPA's: the library stumbles over the latter in whatever way it happens to."""
_ENTRY_PACKAGE: Final = re.compile(r"^package interlock\s*$", re.MULTILINE)


class OpaServer:
    """Manages the OPA server at `endpoint` (not one on a unix socket). A failure raises `PolicyEngineUnavailable`."""

    def __init__(self, endpoint: Endpoint, *, token: str = "", timeout_s: float = TIMEOUT_S) -> None:
        if endpoint.socket_path or endpoint.prefix:
            raise ValueError("publishing to OPA needs http(s)://host:port without a path")
        self._settings = {
            "host": f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host,
            "port": endpoint.port,
            "ssl": endpoint.tls,
            "token": token or None,
            "timeout": timeout_s,
            "headers": {},
        }

    async def is_healthy(self) -> bool:
        """Whether the server says that it is well. No answer is a no."""
        async with AsyncOpaClient(**self._settings) as opa:
            return (await opa.check_health()) is True

    async def revision(self) -> str:
        """The revision that `publish` left there; empty when there is none."""
        async with AsyncOpaClient(**self._settings) as opa:
            try:
                found = cast("Mapping[str, object]", await opa.get_data(REVISION)).get("result")
            except PolicyNotFoundError:
                return ""
            except _TROUBLE as exc:
                raise PolicyEngineUnavailable("OPA cannot be asked for its revision") from exc
        return found if isinstance(found, str) else ""

    async def publish(self, bundle: Bundle) -> None:
        """Give the server the modules and the data of `bundle`, and take away those of earlier ones.

        All data of the server is replaced. Raises `PolicyRefused` when OPA does not accept a module.
        """
        async with AsyncOpaClient(**self._settings) as opa:
            try:
                await self._replace(opa, bundle)
            except (*_TROUBLE, DeletePolicyError) as exc:
                raise PolicyEngineUnavailable("OPA cannot be given the policy") from exc

    async def _replace(self, opa: AsyncOpaClient, bundle: Bundle) -> None:
        """The library leaves first and comes last: without it the entry points are undefined, which is a no."""
        old = [str(name) for name in await opa.get_policies_list() if str(name).startswith(PREFIX)]
        for name in sorted(old, key=_is_not_library):
            await opa.delete_policy(quote(name))
        data = cast("dict[str, object]", orjson.loads(bundle.data))
        await _give_data(opa, data)
        waiting = sorted(bundle.files, key=_is_library)
        while waiting:  # a module may need another one first: go on as long as one more is accepted
            refused = [(file, faults) for file in waiting if (faults := await self._put(opa, file))]
            if len(refused) == len(waiting):
                raise PolicyRefused([fault for _, faults in refused for fault in faults])
            waiting = [file for file, _ in refused]
        await _give_data(opa, {**data, REVISION: bundle.revision})  # last, so that it says that all of it is there

    async def _put(self, opa: AsyncOpaClient, file: Source) -> list[Fault]:
        try:
            await opa.update_policy_from_string(file.text, quote(PREFIX + file.path), rego_compat=False)
        except RegoParseError as exc:
            return [_fault(file, error) for error in exc.errors] or [Fault(file.path, 0, 0, str(exc.message))]
        return []


def _is_library(file: Source) -> bool:
    return _ENTRY_PACKAGE.search(file.text) is not None


def _is_not_library(name: str) -> bool:
    return not name.startswith(f"{PREFIX}lib/")


async def _give_data(opa: AsyncOpaClient, data: Mapping[str, object]) -> None:
    try:
        await opa.update_or_create_data(dict(data), "")
    except RegoParseError as exc:
        raise PolicyRefused([Fault("data", 0, 0, str(exc.message))]) from exc


def _fault(file: Source, error: object) -> Fault:
    details = error if isinstance(error, dict) else {}
    place = details.get("location")
    at = place if isinstance(place, dict) else {}
    return Fault(file.path, int(at.get("row", 0)), int(at.get("col", 0)), str(details.get("message", "OPA refuses it")))
