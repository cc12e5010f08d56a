"""Where Chroma keeps collections: in a directory that this process alone uses, or on a server."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import urlsplit

import chromadb
import httpx
from chromadb.api.client import Client
from chromadb.api.collection_configuration import CreateCollectionConfiguration
from chromadb.config import Settings
from chromadb.errors import ChromaError, NotFoundError

from adapters.memory.chroma_files import blank_unused
from adapters.memory.chroma_graph import check_graphs
from gateway.errors import ConfigError

_LOCK_NAME: Final = "owner.lock"
_TIMEOUT_S: Final = 10.0
# Chroma's defaults (l2, 16, 100) found 53 % of the ten nearest of 100,000 vectors; these find nearly all.
_CONFIGURATION: Final[CreateCollectionConfiguration] = {
    "hnsw": {"space": "cosine", "max_neighbors": 32, "ef_construction": 200, "ef_search": 400},
}


class ChromaPlace(Protocol):
    """Gives collections by name. Blocks, so it is used in threads; one thread at a time for each name."""

    @property
    def exclusive(self) -> bool:
        """Whether all that is there is ours."""

    def collection(self, name: str) -> chromadb.Collection:
        """It, made when there is none."""

    def clean(self, name: str) -> None:
        """Leave nothing in its files that is not of it. Called after each use: any may make them anew."""

    def drop(self, name: str) -> None:
        """Leave nothing of it."""

    def names(self) -> frozenset[str]:
        """Those that there are."""

    def close(self) -> None: ...


class LocalChroma:
    """Collections in a directory, each in one of its own, so that to drop it is to delete its files.

    What is deleted inside of a collection stays in Chroma's files. Raises `ConfigError` while another process has the
    directory: Chroma has no lock, and two writers damage its files.
    """

    exclusive: Final = True

    def __init__(self, root: Path) -> None:
        self._root = root
        self._clients: dict[str, Client] = {}
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = os.open(root / _LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            os.close(self._lock)
            raise ConfigError([("index", f"{root}: another process has it: stop that one")]) from exc

    def collection(self, name: str) -> chromadb.Collection:
        client = self._client(name)
        if any(path.is_dir() for path in (self._root / name).iterdir()) and not _has(client, name):
            self.drop(name)  # vectors whose list is lost, as by a crash amid a drop: Chroma would never delete them
            client = self._client(name)
        return _collection(client, name)

    def _client(self, name: str) -> Client:
        client = self._clients.get(name)
        if client is None:
            place = self._root / name
            place.mkdir(mode=0o700, exist_ok=True)
            check_graphs(place)
            client = self._clients[name] = _opened(place)
        return client

    def clean(self, name: str) -> None:
        blank_unused(self._root / name)

    def drop(self, name: str) -> None:
        client = self._clients.pop(name, None)
        if client is not None:
            client.close()
        if (self._root / name).exists():
            shutil.rmtree(self._root / name)

    def names(self) -> frozenset[str]:
        return frozenset(path.name for path in self._root.iterdir() if path.is_dir())

    def close(self) -> None:
        for client in self._clients.values():
            client.close()
        self._clients.clear()
        os.close(self._lock)


class RemoteChroma:
    """Collections on a Chroma server. What its files keep of dropped ones is its operator's: `chroma vacuum`."""

    exclusive: Final = False

    def __init__(self, url: str, headers: Iterable[tuple[str, str]] = (), *, timeout_s: float = _TIMEOUT_S) -> None:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.path.strip("/"):
            raise ConfigError([("index.url", "is not http(s)://HOST:PORT")])
        self._host, self._ssl, self._headers = parts.hostname, parts.scheme == "https", dict(headers)
        self._port = parts.port or (443 if self._ssl else 8000)
        host = f"[{self._host}]" if ":" in self._host else self._host
        self._heartbeat = f"{parts.scheme}://{host}:{self._port}/api/v2/heartbeat"
        self._timeout_s = timeout_s
        self._client: Client | None = None

    def _connected(self) -> Client:
        if self._client is None:
            settings, headers = _settings(), self._headers
            # chromadb asks without a time limit as it connects: nobody could end a thread that waits for such a server
            httpx.get(self._heartbeat, headers=headers, timeout=self._timeout_s).raise_for_status()
            self._client = _client(
                chromadb.HttpClient(self._host, self._port, ssl=self._ssl, headers=headers, settings=settings)
            )
            for session in _sessions(self._client):
                session.timeout = httpx.Timeout(self._timeout_s)  # chromadb itself would wait for ever
        return self._client

    def collection(self, name: str) -> chromadb.Collection:
        return _collection(self._connected(), name)

    def clean(self, name: str) -> None:
        """Nothing: its files are its operator's."""

    def drop(self, name: str) -> None:
        try:
            self._connected().delete_collection(name)
        except NotFoundError:
            return

    def names(self) -> frozenset[str]:
        return frozenset(collection.name for collection in self._connected().list_collections())

    def close(self) -> None:
        if self._client is not None:
            sessions = _sessions(self._client)
            self._client.close()
            for session in sessions:
                session.close()  # chromadb leaves its connections open


def _sessions(client: Client) -> Sequence[httpx.Client]:
    """The connections of a client, and those for its databases. There is no public way to them."""
    found = [getattr(getattr(one, "_server", None), "_session", None) for one in (client, client._admin_client)]
    sessions = [session for session in found if isinstance(session, httpx.Client)]
    if len(sessions) != len(found):
        raise TypeError("chromadb has its connections elsewhere: use chromadb 1.5")
    return sessions


def _opened(place: Path) -> Client:
    try:
        return _client(chromadb.PersistentClient(str(place), settings=_settings()))
    except AttributeError as exc:  # what chromadb 1.5 raises, as it stops what it could not start
        raise RuntimeError("its files cannot be read") from exc


def _settings() -> Settings:
    return Settings(anonymized_telemetry=False, allow_reset=False)


def _client(made: object) -> Client:
    if not isinstance(made, Client):  # its type says less than it is: only this one can be closed
        raise TypeError("chromadb gives a client of an unknown type: use chromadb 1.5")
    return made


def _has(client: Client, name: str) -> bool:
    return name in {collection.name for collection in client.list_collections()}


def _collection(client: Client, name: str) -> chromadb.Collection:
    try:
        return client.get_collection(name, embedding_function=None)
    except NotFoundError:
        return client.create_collection(name, embedding_function=None, configuration=_CONFIGURATION)


BROKEN: Final = (ChromaError, RuntimeError, KeyError, OSError)
"""What a damaged collection raises."""
