"""What operators and their tools read over HTTP: health, readiness, metrics, resource metadata, upstreams."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from gateway import codec
from gateway.errors import InterlockError
from gateway.identity.card_keys import JWKS_PATH
from gateway.listeners.guards import Guards, credentials_of
from gateway.listeners.http import headers_of
from gateway.ports import Identifier

ADMIN_ROLE = "admin"
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Views:
    """Where the answers come from. `readiness` maps each part to its fault, empty for none."""

    readiness: Callable[[], Mapping[str, str]]
    metrics: Callable[[], bytes]
    resource_metadata: Callable[[str], Mapping[str, object]]
    """The RFC 9728 document of the resource at a path."""
    jwks: Callable[[], Mapping[str, object]]
    """The keys that cards are signed with (RFC 7517)."""
    upstreams: Callable[[], list[Mapping[str, object]]]


def admin_app(views: Views, identifier: Identifier, guards: Guards, more: Sequence[BaseRoute] = ()) -> Starlette:
    """Everything that is not an MCP endpoint; `more` is what other listeners serve beside it."""

    async def healthz(_request: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(_request: Request) -> Response:
        faults = {part: fault for part, fault in views.readiness().items() if fault}
        return JSONResponse({"ready": not faults, "faults": faults}, status_code=503 if faults else 200)

    async def metrics(_request: Request) -> Response:
        return Response(views.metrics(), media_type=METRICS_TYPE)

    async def metadata(request: Request) -> Response:
        path = request.path_params.get("path", "")
        return JSONResponse(dict(views.resource_metadata(f"/{path}" if path else "/mcp")))

    async def jwks(_request: Request) -> Response:
        return JSONResponse(dict(views.jwks()), headers={"cache-control": "public, max-age=3600"})

    async def upstreams(request: Request) -> Response:
        try:
            identity = await identifier.identify(credentials_of(request.scope, headers_of(request.scope)))
        except InterlockError as error:
            return JSONResponse({"error": str(error)}, status_code=error.http_status)
        if ADMIN_ROLE not in identity.roles:
            words = f"this needs an API key with the role {ADMIN_ROLE!r}: interlock keys create --role {ADMIN_ROLE}"
            return JSONResponse({"error": words}, status_code=403)
        return Response(codec.dumps({"upstreams": views.upstreams()}), media_type="application/json")

    routes = [
        Route("/healthz", healthz),
        Route("/readyz", guarded(readyz, guards)),
        Route("/metrics", guarded(metrics, guards)),
        Route("/.well-known/oauth-protected-resource", metadata),
        Route("/.well-known/oauth-protected-resource/{path:path}", metadata),
        Route(JWKS_PATH, jwks),
        Route("/admin/upstreams", guarded(upstreams, guards)),
        *more,
    ]
    return Starlette(routes=routes)


def guarded(endpoint: Callable[[Request], object], guards: Guards) -> Callable[[Request], object]:
    """The same endpoint for requests whose Host and Origin are served here only (DNS rebinding)."""

    async def checked(request: Request) -> Response:
        refusal = guards.refusal(headers_of(request.scope))
        if refusal is not None:
            return PlainTextResponse(refusal[1] + "\n", status_code=refusal[0])
        answer: Response = await endpoint(request)  # type: ignore[misc]  # an endpoint of Starlette's: a coroutine
        return answer

    return checked
