"""Embedders and indexes in a gateway that is a process: what they find, what they keep, what is said of faults."""

from __future__ import annotations

import socket
import sys
import threading
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import anyio
import httpx2
import orjson
import pytest
from anyio import to_thread

from adapters.embedders.hashing import Hashing
from conformance.gateway import Plan
from tests.e2e.eventually import eventually
from tests.e2e.place import Place, as_process, new_key, prepare

pytestmark = pytest.mark.slow  # each starts processes that load models or chromadb

Json = dict[str, Any]
DEADLINE_S = 180.0


class Vectors(BaseHTTPRequestHandler):
    """OpenAI's `POST /v1/embeddings`, with the vectors of `Hashing`; every answer is `status`."""

    status = 200

    def do_POST(self) -> None:
        asked = orjson.loads(self.rfile.read(int(self.headers["content-length"])))
        made = [array("f", Hashing(dimensions=64).vector(text)).tolist() for text in asked["input"]]
        data = [{"index": index, "embedding": vector} for index, vector in enumerate(made)]
        body = orjson.dumps({"data": data, "model": asked["model"]})
        self.send_response(type(self).status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # its name there
        """Say nothing."""


@contextmanager
def embedding_server() -> Iterator[tuple[str, type[Vectors]]]:
    """One, and what it answers with."""
    handler = type("Handler", (Vectors,), {})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/v1", handler
        finally:
            server.shutdown()
            thread.join(10)


def placed(directory: Path, memory: str) -> Place:
    (directory / "memory.toml").write_text(memory)
    return prepare(directory, Plan({"memory": {"type": "memory", "labels": []}}))


class Caller:
    """Somebody with a key, over HTTP."""

    def __init__(self, place: Place, key: str) -> None:
        self._place, self._key = place, key

    def ask(self, verb: str, path: str, body: Json | None = None) -> httpx2.Response:
        headers = {"authorization": f"Bearer {self._key}"}
        url = f"{self._place.url}/memory/v1{path}"
        return httpx2.request(verb, url, headers=headers, json=body, timeout=60, trust_env=False)

    async def http(self, verb: str, path: str, body: Json | None = None) -> Json:
        response = await to_thread.run_sync(lambda: self.ask(verb, path, body))
        assert response.status_code == 200, response.text
        answer: Json = response.json()
        return answer

    async def up(self) -> bool:
        return (await to_thread.run_sync(lambda: self.ask("GET", "/records"))).status_code == 200

    async def remember(self, *texts: str) -> None:
        for text in texts:
            await self.http("POST", "/records", {"text": text})

    async def recalled(self, query: str) -> list[tuple[str, Json]]:
        found = await self.http("POST", "/recall", {"query": query})
        return [(one["text"], one["ranks"]) for one in found["records"]]


@pytest.mark.anyio
async def test_chroma_with_minilm_finds_by_meaning_forgets_and_is_there_after_a_restart(tmp_path: Path) -> None:
    place = placed(tmp_path, '[index]\nkind = "chroma"\n\n[embedder]\nkind = "minilm"\n')
    ana = Caller(place, await new_key(place, "ana", "developer"))
    op = Caller(place, await new_key(place, "op", "operator"))
    with anyio.fail_after(DEADLINE_S):
        with as_process(place):
            await eventually(ana.up, within_s=60)
            await ana.remember("The automobile is broken", "Tomato soup with basil", "Rent is due on Friday")
            near = await ana.recalled("My car will not start")
        with as_process(place):
            await eventually(ana.up, within_s=60)
            again = await ana.recalled("My car will not start")
            await op.http("POST", "/erase", {"subject": "user:ana"})
            gone = await ana.recalled("My car will not start")
            await ana.remember("The lorry has a flat tyre")
            after = await ana.recalled("vehicle with a puncture")
        kept = [path for start in place.state.glob("memory*") for path in (start, *start.rglob("*"))]

    assert near[0] == ("The automobile is broken", {"words": 0, "meaning": 1})
    assert again == near
    assert gone == []
    assert after == [("The lorry has a flat tyre", {"words": 1, "meaning": 1})]
    assert [path.name for path in place.state.glob("memory*") if path.stat().st_mode & 0o077] == []
    assert [path for path in kept if path.is_file() and b"automobile" in path.read_bytes()] == []


@pytest.mark.anyio
async def test_remote_embedder_that_fails_loses_no_write_and_leaves_recall_by_words(tmp_path: Path) -> None:
    with embedding_server() as (url, handler), anyio.fail_after(DEADLINE_S):
        words = f'[embedder]\nkind = "remote"\nurl = "{url}"\nmodel = "m"\ndimensions = 64\n'
        place = placed(tmp_path, words)
        ana = Caller(place, await new_key(place, "ana", "developer"))
        with as_process(place):
            await eventually(ana.up, within_s=60)
            await ana.remember("The port is 8080")
            while_up = await ana.recalled("port")
            handler.status = 503
            await ana.remember("The harbour is closed")
            while_down = await ana.recalled("harbour")
            handler.status = 200
        log = place.log.read_text()
        with as_process(place):  # which embeds at once what has no vector

            async def embedded() -> bool:
                return (await ana.recalled("harbour"))[0][1] == {"words": 1, "meaning": 1}

            await eventually(ana.up, within_s=60)
            await eventually(embedded, within_s=60)

    assert while_up == [("The port is 8080", {"words": 1, "meaning": 1})]
    assert while_down == [("The harbour is closed", {"words": 1, "meaning": 0})]
    assert f"embedder {url}/embeddings answers with status 503" in log


@pytest.mark.anyio
async def test_chroma_server_that_comes_late_is_used_from_then_on(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    words = f'[index]\nkind = "chroma"\nurl = "http://127.0.0.1:{port}"\n\n[embedder]\nkind = "hashing"\n'
    place = placed(tmp_path, words)
    ana = Caller(place, await new_key(place, "ana", "developer"))
    program = [str(Path(sys.executable).with_name("chroma")), "run", "--path", str(tmp_path / "server")]
    with anyio.fail_after(DEADLINE_S), as_process(place):
        await eventually(ana.up, within_s=60)
        await ana.remember("The port is 8080")
        before = await ana.recalled("port")
        async with await anyio.open_process([*program, "--host", "127.0.0.1", "--port", str(port)]) as server:

            async def near() -> bool:
                return (await ana.recalled("port"))[0][1] == {"words": 1, "meaning": 1}

            try:
                await eventually(near, within_s=90)
            finally:
                server.kill()
        after = await ana.recalled("port")

    assert before == after == [("The port is 8080", {"words": 1, "meaning": 0})]
    assert "the index of the memory cannot be reached" in place.log.read_text()
