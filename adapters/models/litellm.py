"""Providers that only litellm reaches (Bedrock, Vertex, Azure, ...). Its import takes seconds, so a thread does it."""

from __future__ import annotations

import importlib
import logging
import os
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from functools import cache
from types import ModuleType
from typing import Final, Protocol, cast

import anyio
from anyio import to_thread

from adapters.models.terms import Terms
from adapters.models.upstream import Backend, ModelUpstream
from gateway import codec
from gateway.codec import JsonObject
from gateway.errors import (
    ConfigError,
    InterlockError,
    InvalidCall,
    UpstreamProtocolError,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from gateway.models import Api, ProviderRefused, Talk, provider_failure
from gateway.models.errors import CONTEXT_EXCEEDED

_ENVIRONMENT: Final = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_LOG": "ERROR", "LITELLM_MODE": "PRODUCTION"}
"""It is to download nothing, to print nothing, and to read no `.env` of the directory that it is started in."""
_NEEDED: Final = ("openai.resources.chat", "litellm._service_logger", "litellm.litellm_core_utils.default_encoding")
"""What it would import during the first calls, while everything else waits."""
_CLOSE_S: Final = 5.0
_KEYLESS: Final = "none"
"""The key for a server that was given none: else litellm takes the one for OpenAI out of the environment."""
_lock = threading.Lock()
_users: Final[set[LiteLLM]] = set()
"""Those that use litellm's connections, which it keeps for the whole process."""


class _Chunks(Protocol):
    def __aiter__(self) -> AsyncIterator[object]: ...

    async def __anext__(self) -> object: ...

    async def aclose(self) -> None: ...


class _Dumps(Protocol):
    def model_dump(self, *, exclude_none: bool) -> JsonObject: ...


def load_litellm() -> ModuleType:
    """litellm, imported and told to keep to itself. Blocks for seconds the first time: call it in a thread."""
    with _lock:
        return _loaded()


@cache
def _loaded() -> ModuleType:
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    module = importlib.import_module("litellm")
    quiet: Mapping[str, object] = {
        "telemetry": False, "suppress_debug_info": True, "drop_params": False, "num_retries": 0,
        "callbacks": [], "success_callback": [], "failure_callback": [], "turn_off_message_logging": True,
        "user_url_validation": True,
    }  # fmt: skip
    for name, setting in quiet.items():
        setattr(module, name, setting)
    logging.getLogger("LiteLLM").setLevel(logging.ERROR)
    handlers = importlib.import_module("litellm.llms.custom_httpx.http_handler")
    ours = importlib.import_module("adapters.models.litellm_http")
    ours.guard(handlers.AsyncHTTPHandler)
    ours.fetch_nothing(importlib.import_module("litellm.litellm_core_utils.url_utils"), module.ImageFetchError)
    for name in _NEEDED:
        importlib.import_module(name)
    return module


class LiteLLM:
    """Everything is asked as a chat completion, and only what is understood: its parameters could redirect a call."""

    strict = True

    def __init__(self, terms: Terms) -> None:
        self._terms = terms
        self._module: ModuleType | None = None
        self._failed = ""
        self._ready = anyio.Event()

    def speaks(self, caller: Talk) -> Talk:
        """See `Backend`."""
        return "chat.completions"

    def lacks(self, api: Talk) -> None:
        """See `Backend`."""

    async def warm(self) -> None:
        """Import litellm while calls wait and everything else goes on. Raises `ConfigError` where it is missing."""
        _users.add(self)
        try:
            self._module = await to_thread.run_sync(load_litellm, abandon_on_cancel=True)
        except ImportError as exc:
            self._failed = "litellm is not installed: pip install 'interlock-gateway[models]'"
            raise self._unusable() from exc
        except Exception as exc:
            self._failed = f"litellm cannot be loaded ({type(exc).__name__}): is its version one of [models]?"
            raise self._unusable() from exc
        finally:
            self._ready.set()

    async def aclose(self) -> None:
        """See `Backend`. litellm's connections are closed with the last upstream that uses them."""
        _users.discard(self)
        if _users or self._module is None:
            return
        with anyio.move_on_after(_CLOSE_S):
            await self._module.close_litellm_async_clients()
        self._module.in_memory_llm_clients_cache.flush_cache()

    def _unusable(self) -> ConfigError:
        return ConfigError([(f"upstreams.{self._terms.name}.type", self._failed)])

    async def whole(self, api: Api, body: JsonObject) -> JsonObject:
        """See `Backend`."""
        module = await self._loaded()
        ask = module.aembedding if api == "embeddings" else module.acompletion
        try:
            with anyio.fail_after(self._terms.timeout_s):
                answer = _object(await ask(**self._arguments(body)))
        except Exception as exc:
            raise self._meaning(exc) from exc
        if len(codec.dumps(answer)) > self._terms.max_bytes:
            raise self._too_large()
        return answer

    async def events(self, api: Api, body: JsonObject) -> AsyncGenerator[bytes, None]:
        """See `Backend`."""
        module, seen = await self._loaded(), 0
        try:
            with anyio.fail_after(self._terms.timeout_s):
                chunks = cast("_Chunks", await module.acompletion(**self._arguments(body)))
        except Exception as exc:
            raise self._meaning(exc) from exc
        async with aclosing(self._chunks(chunks)) as pieces:
            async for data in pieces:
                seen += len(data)
                if seen > self._terms.max_bytes:
                    raise self._too_large()
                yield data

    async def _chunks(self, chunks: _Chunks) -> AsyncGenerator[bytes, None]:
        try:
            while True:
                try:
                    with anyio.fail_after(self._terms.timeout_s):
                        chunk = await anext(chunks, None)
                except Exception as exc:
                    raise self._meaning(exc) from exc
                if chunk is None:
                    return
                yield codec.dumps(_object(chunk))
        finally:  # whoever leaves ends the provider's work too
            with anyio.move_on_after(_CLOSE_S, shield=True):
                await chunks.aclose()

    async def _loaded(self) -> ModuleType:
        with anyio.move_on_after(self._terms.timeout_s):
            await self._ready.wait()
        if self._module is None:
            raise UpstreamUnavailable(f"model provider {self._terms.name!r}: {self._failed or 'litellm is not ready'}")
        return self._module

    def _arguments(self, body: JsonObject) -> dict[str, object]:
        headers = {name.lower(): value for name, value in self._terms.headers}
        bearer = headers.pop("authorization", "")
        key = bearer[7:].strip() if bearer.lower().startswith("bearer ") else headers.pop("x-api-key", "")
        if self._terms.url and not key and str(body["model"]).startswith("openai/"):
            key = _KEYLESS
        ours: dict[str, object] = {
            "api_base": self._terms.url, "api_key": key, "extra_headers": headers,
        }  # fmt: skip
        given = {name: value for name, value in ours.items() if value}
        return {**body, **given, "timeout": self._terms.timeout_s, "num_retries": 0, "max_retries": 0}

    def _meaning(self, exc: Exception) -> InterlockError:
        """litellm's errors carry the provider's status, or the one that it would have had."""
        name, status = self._terms.name, getattr(exc, "status_code", None)
        if isinstance(exc, InterlockError):
            return exc
        if isinstance(exc, TimeoutError):
            return UpstreamTimeout(f"model provider {name!r} did not answer in time")
        if type(exc).__name__ == "ImageFetchError":
            return InvalidCall(f"model provider {name!r} gets images as data only: send data:image/... and no address")
        if type(exc).__name__ == "ContextWindowExceededError":
            words = f"model provider {name!r} refused the request ({CONTEXT_EXCEEDED})"
            return ProviderRefused(words, provider_code=CONTEXT_EXCEEDED)
        if isinstance(status, int) and 400 <= status < 600:
            headers = getattr(getattr(exc, "response", None), "headers", None)
            known = {str(key).lower(): str(value) for key, value in headers.items()} if headers else {}
            return provider_failure(name, status, known, b"")
        return UpstreamUnavailable(f"model provider {name!r} failed ({type(exc).__name__})")

    def _too_large(self) -> UpstreamProtocolError:
        return UpstreamProtocolError(f"the provider's answer is larger than the limit of {self._terms.max_bytes} bytes")


def _object(value: object) -> JsonObject:
    """What litellm answered, as JSON."""
    if isinstance(value, dict):
        return value
    if not hasattr(value, "model_dump"):
        raise UpstreamProtocolError("litellm gave something that is no answer")
    return cast("JsonObject", codec.loads(codec.dumps(cast("_Dumps", value).model_dump(exclude_none=True))))


def litellm_upstream(terms: Terms) -> ModelUpstream:
    """An upstream of type `litellm`."""
    return ModelUpstream(terms, LiteLLM(terms))


_: type[Backend] = LiteLLM
