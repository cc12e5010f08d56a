"""Where an AuthZEN decision point wants to be asked (AuthZEN 1.0, section 9): discovered once, before it decides."""

from __future__ import annotations

import asyncio
from typing import Final
from urllib.parse import urlsplit

import aiohttp
import orjson

from adapters.pdp.authzen import Targets
from gateway.errors import PolicyEngineUnavailable

WELL_KNOWN: Final = "/.well-known/authzen-configuration"
EVALUATION: Final = "/access/v1/evaluation"
MAX_BYTES: Final = 64 << 10
TIMEOUT_S: Final = 5.0
_ABSENT: Final = frozenset({401, 403, 404, 405, 410})


async def discovered(url: str, *, timeout_s: float = TIMEOUT_S) -> Targets:
    """The endpoints of the decision point at `url`; the usual path where it publishes nothing.

    Raises `ValueError` for metadata that names another decision point or another origin, which would get the token,
    and `PolicyEngineUnavailable` when it cannot be reached.
    """
    base = url.rstrip("/")
    document = await _fetched(base, timeout_s)
    if document is None:
        return Targets(urlsplit(base).path + EVALUATION)
    named = document.get("policy_decision_point")
    if not isinstance(named, str) or named.rstrip("/") != base:
        raise ValueError(f"its metadata is of another decision point than {base}; use the address that it names")
    evaluation = _path(base, document.get("access_evaluation_endpoint"))
    if not evaluation:
        raise ValueError("its metadata names no access_evaluation_endpoint")
    return Targets(evaluation, _path(base, document.get("access_evaluations_endpoint")))


async def _fetched(base: str, timeout_s: float) -> dict[str, object] | None:
    parts = urlsplit(base)
    address = f"{parts.scheme}://{parts.netloc}{WELL_KNOWN}{parts.path}"
    try:
        async with (
            asyncio.timeout(timeout_s),
            aiohttp.ClientSession() as session,
            session.get(address, allow_redirects=False) as response,
        ):
            if response.status in _ABSENT:
                return None
            if response.status != 200:
                raise PolicyEngineUnavailable(f"{address} cannot be read (HTTP {response.status})")
            body = await _read(response)
    except (aiohttp.ClientError, OSError, TimeoutError) as exc:
        raise PolicyEngineUnavailable(f"the decision point at {base} cannot be reached") from exc
    document = _object(body)
    if document is None:
        raise ValueError(f"{address} is not a JSON object")
    return document


async def _read(response: aiohttp.ClientResponse) -> bytes:
    try:
        await response.content.readexactly(MAX_BYTES + 1)
    except asyncio.IncompleteReadError as exc:
        return exc.partial
    raise ValueError(f"its metadata is larger than {MAX_BYTES} bytes")


def _object(body: bytes) -> dict[str, object] | None:
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    return document if isinstance(document, dict) else None


def _path(base: str, endpoint: object) -> str:
    """The path of an endpoint at the same origin; empty when there is none."""
    if endpoint is None:
        return ""
    parts, own = urlsplit(endpoint if isinstance(endpoint, str) else ""), urlsplit(base)
    if (parts.scheme, parts.netloc) != (own.scheme, own.netloc) or parts.query or not parts.path.startswith("/"):
        raise ValueError("its metadata names an endpoint at another origin; make policy.url that origin")
    return parts.path
