"""An index in Chroma: ids and vectors only, a collection per namespace, made again when it is not right."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Final, cast

import anyio
import chromadb
import httpx
import numpy as np
from anyio import to_thread
from chromadb.api.types import PyEmbeddings

from adapters.memory.chroma_places import BROKEN, ChromaPlace
from adapters.memory.exact import ExactIndex
from gateway.memory.ports import Changes, MemoryUnavailable, VectorFeed, VectorIndex
from gateway.memory.records import Hit, View

_log = logging.getLogger(__name__)
_PART: Final = 1_000
_FEWEST: Final = 50
_REST_S: Final = 5.0
"""A server that could not be reached is left alone so long: nobody else waits for it meanwhile."""
_MORE: Final = 4
"""How many times what is wanted is asked for, and asked for again where the view does not show enough of it."""


async def open_chroma(feed: VectorFeed, place: ChromaPlace, *, model: str, dimensions: int) -> ChromaIndex:
    """The index, without anything that was erased while nobody used it.

    Where the place cannot be reached now, that is done once it can, before anything is asked.
    """
    try:
        index = ChromaIndex(feed, place, model=model, dimensions=dimensions, identity=await feed.identity())
        try:
            await index.tidy()
        except MemoryUnavailable as exc:
            _log.warning("recall is by words alone until the index of the memory can be reached: %s", exc)
    except BaseException:
        place.close()  # nobody else can have the directory before
        raise
    return index


@dataclass(slots=True)
class _Shard:
    name: str
    collection: chromadb.Collection | None = None
    position: int = -1
    count: int = 0
    turn: anyio.Lock = field(default_factory=anyio.Lock)


class _NotOurs(Exception):
    """The collection is not what the store says it should be."""


class ChromaIndex:
    """`VectorIndex` in Chroma, approximate. Use `open_chroma`."""

    def __init__(self, feed: VectorFeed, place: ChromaPlace, *, model: str, dimensions: int, identity: str) -> None:
        self._feed, self._place, self._identity = feed, place, identity
        self._model, self._dimensions = model, dimensions
        self._exact = ExactIndex(feed, model=model, dimensions=dimensions)
        self._shards: dict[tuple[str, str], _Shard] = {}
        self._tidied, self._rested_at = False, 0.0
        self._turn = anyio.Lock()

    async def nearest(self, view: View, vector: bytes, limit: int) -> Sequence[Hit]:
        """The best matches of the view that Chroma finds."""
        if len(vector) != 4 * self._dimensions:
            raise MemoryUnavailable("the index of the memory: the question's vector is of another embedder")
        if not self._tidied:
            self._check_rested()
            await self.tidy()
        hits: list[Hit] = []
        for namespace in await self._feed.admitted(view):
            hits += await self._in(view, namespace, vector, limit)
        return sorted(hits, key=lambda hit: (-hit.score, hit.row))[:limit]

    async def _in(self, view: View, namespace: str, vector: bytes, limit: int) -> Sequence[Hit]:
        shard = self._shard(view.tenant, namespace)
        async with shard.turn:
            self._check_rested()
            try:
                try:
                    return await self._find(shard, view, namespace, vector, limit)
                except (_NotOurs, *BROKEN) as exc:
                    _log.warning("the index %s of the memory is made again: %s", shard.name, exc)
                    await self._drop(shard)
                    return await self._find(shard, view, namespace, vector, limit)
            except (_NotOurs, httpx.HTTPError, ValueError, *BROKEN) as exc:
                raise self._unavailable("cannot answer now", exc) from exc

    def _check_rested(self) -> None:
        if anyio.current_time() < self._rested_at:
            raise MemoryUnavailable("the index of the memory could not be reached a moment ago")

    def _unavailable(self, what: str, exc: Exception) -> MemoryUnavailable:
        if isinstance(exc, httpx.HTTPError):
            self._rested_at = anyio.current_time() + _REST_S
        _log.error("the index of the memory %s: %s: %s", what, type(exc).__name__, exc)
        return MemoryUnavailable(f"the index of the memory {what}: see the gateway's log")

    @contextmanager
    def _reached(self) -> Iterator[None]:
        """One name for whatever keeps the place from being used."""
        try:
            yield
        except (httpx.HTTPError, ValueError, *BROKEN) as exc:
            raise self._unavailable("cannot be reached", exc) from exc

    @property
    def _ours(self) -> str:
        """How the names of all collections of this store begin."""
        return f"memory-{self._identity[:32]}-"

    def _shard(self, tenant: str, namespace: str) -> _Shard:
        words = "\x00".join((self._model, tenant, namespace))
        name = f"{self._ours}{hashlib.sha256(words.encode()).hexdigest()[:24]}"
        return self._shards.setdefault((tenant, namespace), _Shard(name))

    async def _find(self, shard: _Shard, view: View, namespace: str, vector: bytes, limit: int) -> Sequence[Hit]:
        await self._catch_up(shard, view.tenant, namespace)
        wanted, hits = max(_FEWEST, _MORE * limit), list[Hit]()
        near, asked = dict[int, float](), 0
        while shard.count:
            asked = min(wanted, shard.count)
            near = await to_thread.run_sync(self._query, shard, vector, asked)
            rows = await self._feed.eligible(view, namespace, list(near))
            hits = [Hit(rows[text], score) for text, score in near.items() if text in rows]
            if len(hits) >= limit or wanted >= shard.count:
                break
            wanted *= _MORE
        if len(hits) < limit and len(near) < asked:
            return await self._exactly(view, namespace, vector, limit)
        return hits[:limit]

    async def _exactly(self, view: View, namespace: str, vector: bytes, limit: int) -> Sequence[Hit]:
        """Where HNSW's graph does not lead to all there is: hundreds of the same vector lead to each other only."""
        inside = frozenset(one for one in view.classes if one.namespace == namespace)
        return await self._exact.nearest(replace(view, classes=inside), vector, limit)

    async def _catch_up(self, shard: _Shard, tenant: str, namespace: str) -> None:
        if shard.collection is None:
            await to_thread.run_sync(self._open, shard)
        more = True
        while more:
            changes = await self._feed.changes(tenant, namespace, self._model, shard.position, _PART)
            if changes.position < shard.position:
                raise _NotOurs("it knows more than the store")
            more = changes.more
            if changes.position > shard.position:
                await to_thread.run_sync(self._apply, shard, changes)

    def _open(self, shard: _Shard) -> None:
        collection = self._place.collection(shard.name)
        known = collection.metadata or {}
        count = collection.count()
        self._place.clean(shard.name)
        if count < int(cast("int", known.get("count", 0))):
            raise _NotOurs("it has lost vectors")
        shard.collection, shard.count = collection, count
        shard.position = int(cast("int", known.get("position", 0)))

    def _apply(self, shard: _Shard, changes: Changes) -> None:
        collection = shard.collection
        if collection is None:
            raise _NotOurs("it is not open")
        gone = [str(state.text) for state in changes.states if state.gone]
        if gone and shard.count and collection.get(ids=gone, include=[])["ids"]:
            raise _NotOurs("it has what was erased")
        if changes.vectors:
            ids = [str(text) for text, _ in changes.vectors]
            collection.upsert(ids=ids, embeddings=[self._numbers(vector) for _, vector in changes.vectors])
            self._place.clean(shard.name)
        elif not gone:  # a state alone is nothing to Chroma: the store itself decides what is shown
            shard.position = changes.position
            return
        shard.position, shard.count = changes.position, collection.count()
        collection.modify(metadata={"position": shard.position, "count": shard.count})

    def _query(self, shard: _Shard, vector: bytes, count: int) -> dict[int, float]:
        """Texts with their similarity, best first."""
        if shard.collection is None:
            raise _NotOurs("it is not open")
        question = cast("PyEmbeddings", [np.frombuffer(vector, "<f4").tolist()])
        found = shard.collection.query(query_embeddings=question, n_results=count, include=["distances"])
        self._place.clean(shard.name)
        distances = found["distances"]
        if distances is None:
            raise _NotOurs("it gives no distances")
        return {int(text): 1.0 - float(far) for text, far in zip(found["ids"][0], distances[0], strict=True)}

    def _numbers(self, vector: bytes) -> Sequence[float]:
        if len(vector) != 4 * self._dimensions:
            raise ValueError("a vector of another length than the embedder's")
        return cast("list[float]", np.frombuffer(vector, "<f4").tolist())

    async def _drop(self, shard: _Shard) -> None:
        shard.collection, shard.position, shard.count = None, -1, 0
        await to_thread.run_sync(self._place.drop, shard.name)

    async def purge(self, tenant: str) -> None:
        """Make the collections again that have something that was erased."""
        await self._purge([shard for shard in await self._feed.shards() if shard[0] == tenant])
        await self._exact.purge(tenant)

    async def tidy(self) -> None:
        """Drop the collections of namespaces that are no more, and of other embedders, and purge the others."""
        async with self._turn:
            shards = await self._feed.shards()
            known = {self._shard(*shard).name for shard in shards}
            start = "memory-" if self._place.exclusive else self._ours
            with self._reached():
                for name in await to_thread.run_sync(self._place.names):
                    if name.startswith(start) and name not in known:
                        await to_thread.run_sync(self._place.drop, name)
            await self._purge(shards)
            self._tidied = True

    async def _purge(self, shards: Sequence[tuple[str, str]]) -> None:
        with self._reached():
            there = await to_thread.run_sync(self._place.names)
            for tenant, namespace in shards:
                shard = self._shard(tenant, namespace)
                if shard.name in there:
                    async with shard.turn:
                        await self._purge_one(shard, tenant, namespace)

    async def _purge_one(self, shard: _Shard, tenant: str, namespace: str) -> None:
        try:
            await self._catch_up(shard, tenant, namespace)
        except (_NotOurs, *BROKEN) as exc:
            _log.info("the index %s of the memory is dropped, and made again when it is asked: %s", shard.name, exc)
            await self._drop(shard)

    async def aclose(self) -> None:
        """Close the collections; they are kept."""
        await self._exact.aclose()
        await to_thread.run_sync(self._place.close)


_: type[VectorIndex] = ChromaIndex
