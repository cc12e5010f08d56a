"""Vectors from any server that speaks OpenAI's `POST /embeddings`."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from math import isfinite, sqrt
from sys import byteorder
from types import TracebackType
from typing import Final, Self

import aiohttp
from pydantic import BaseModel, ValidationError

from gateway.embedding import Embedder, EmbeddingRefused, EmbeddingUnavailable

TIMEOUT_S: Final = 30.0
BATCH: Final = 64
_MAX_BYTES: Final = 64 * 1024 * 1024
_REFUSED: Final = frozenset({400, 413, 422})


class _One(BaseModel):
    index: int
    embedding: list[float]


class _Answer(BaseModel):
    data: list[_One]


class Remote:
    """One connection pool to `url` (up to and with `/v1`). An asynchronous context manager; no redirect is followed."""

    def __init__(
        self, url: str, *, model: str, dimensions: int, key: str = "", timeout_s: float = TIMEOUT_S, batch: int = BATCH
    ) -> None:
        self._url = f"{url.rstrip('/')}/embeddings"
        self._model, self._dimensions, self._batch = model, dimensions, batch
        self._session = aiohttp.ClientSession(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=aiohttp.ClientTimeout(total=timeout_s),
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, _: TracebackType | None
    ) -> None:
        await self._session.close()

    @property
    def name(self) -> str:
        """As the port says."""
        return f"remote:{self._model}/{self._dimensions}"

    @property
    def dimensions(self) -> int:
        """As the port says."""
        return self._dimensions

    async def embed(self, texts: Sequence[str]) -> Sequence[bytes]:
        """As the port says; one request for each `batch` texts, one after the other."""
        found: list[bytes] = []
        for start in range(0, len(texts), self._batch):
            found += await self._some(texts[start : start + self._batch])
        return found

    async def _some(self, texts: Sequence[str]) -> list[bytes]:
        body = await self._ask({"model": self._model, "input": list(texts), "encoding_format": "float"})
        try:
            answer = _Answer.model_validate_json(body)
        except ValidationError as exc:
            raise self._fault("does not answer with a list of vectors") from exc
        vectors = {one.index: one.embedding for one in answer.data}
        if len(answer.data) != len(texts) or vectors.keys() != set(range(len(texts))):
            raise self._fault(f"answers with {len(answer.data)} vectors for {len(texts)} texts")
        return [self._packed(vectors[index]) for index in range(len(texts))]

    async def _ask(self, question: dict[str, object]) -> bytes:
        try:
            async with self._session.post(self._url, json=question, allow_redirects=False) as answer:
                if answer.status in _REFUSED:
                    raise EmbeddingRefused(f"embedder {self._url} refuses this with status {answer.status}")
                if answer.status != 200:
                    raise self._fault(f"answers with status {answer.status}")
                return await self._read(answer)
        except (aiohttp.ClientError, OSError, TimeoutError) as exc:
            raise self._fault(f"cannot be reached: {type(exc).__name__}") from exc

    async def _read(self, answer: aiohttp.ClientResponse) -> bytes:
        body = bytearray()
        async for chunk in answer.content.iter_any():
            body += chunk
            if len(body) > _MAX_BYTES:
                raise self._fault(f"answers with more than {_MAX_BYTES} bytes")
        return bytes(body)

    def _packed(self, vector: list[float]) -> bytes:
        length = sqrt(sum(value * value for value in vector))
        if len(vector) != self._dimensions:
            raise self._fault(f"gives {len(vector)} dimensions, not {self._dimensions}; set 'dimensions' to that")
        if not isfinite(length) or not length:
            raise EmbeddingRefused(f"embedder {self._url} gives a vector that has no direction")
        numbers = array("f", (value / length for value in vector))
        if byteorder == "big":
            numbers.byteswap()
        return numbers.tobytes()

    def _fault(self, what: str) -> EmbeddingUnavailable:
        return EmbeddingUnavailable(f"embedder {self._url} {what}")


_: type[Embedder] = Remote
