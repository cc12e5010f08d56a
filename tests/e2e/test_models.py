"""Models behind a gateway process: as the README has it, with langchain, and with changes while it runs."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import httpx2
import pytest
from anyio import to_thread

from conformance.gateway import ROOT, Plan
from tests.e2e.eventually import eventually
from tests.e2e.place import Place, as_process, in_process, interlock, new_key, prepare

HEAVY = ("litellm", "chromadb", "onnxruntime", "tokenizers", "numpy", "aiohttp")
ECHO = {"echo": {"type": "echo"}}
HI = [{"role": "user", "content": "Hello"}]


@asynccontextmanager
async def process(place: Place, env: Mapping[str, str] | None = None) -> AsyncIterator[None]:
    """The gateway as a process, while this loop goes on."""
    manager = as_process(place, env)
    await to_thread.run_sync(manager.__enter__)
    try:
        yield
    finally:
        await to_thread.run_sync(manager.__exit__, None, None, None)


async def post(place: Place, key: str, path: str, body: object) -> httpx2.Response:
    async with httpx2.AsyncClient(timeout=30) as http:
        return await http.post(f"{place.url}{path}", json=body, headers={"authorization": f"Bearer {key}"})


async def models(place: Place, key: str) -> list[str]:
    async with httpx2.AsyncClient(timeout=30) as http:
        answer = await http.get(f"{place.url}/v1/models", headers={"x-api-key": key})
    return [model["id"] for model in answer.json()["data"]]


def sections() -> tuple[str, Mapping[str, str]]:
    """The configuration of the README's section about models, and its examples by their kind."""
    text = (ROOT / "README.md").read_text().partition("\n## Models\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"^```(\w+)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return text, dict(reversed(blocks))


@pytest.mark.anyio
async def test_the_section_of_the_readme_works_as_it_stands(tmp_path: Path) -> None:
    text, blocks = sections()
    place = prepare(tmp_path, Plan({}))
    place.config.write_text(f"{place.config.read_text()}\n{blocks['toml']}")
    made = await to_thread.run_sync(
        lambda: interlock(place, "keys", "create", "--data", str(place.state), "--subject", "user:ana",
                          "--role", "developer", "--json")
    )  # fmt: skip
    key = json.loads(made.stdout)["key"]

    async with process(place):
        env = {**os.environ, "INTERLOCK_KEY": key}
        here = {"http://127.0.0.1:8080": place.url}

        def run(*command: str) -> str:
            done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)
            return done.stdout + done.stderr

        script = blocks["sh"]
        for old, new in here.items():
            script = script.replace(old, new)
        curled = await to_thread.run_sync(run, "sh", "-c", script)
        python = blocks["py"].replace(*next(iter(here.items())))
        asked = await to_thread.run_sync(run, sys.executable, "-c", python)

    assert '"content":"Hello"' in curled
    assert asked.count("Hello") == 2, asked
    assert "litellm" in text


@pytest.mark.anyio
async def test_a_gateway_without_models_and_memory_loads_nothing_for_them(tmp_path: Path) -> None:
    place = prepare(tmp_path, Plan({}))
    key = await new_key(place, "ana")

    async with process(place, {"PYTHONPROFILEIMPORTTIME": "1"}):
        listed = await models(place, key)
        asked = await post(place, key, "/v1/chat/completions", {"model": "echo/x", "messages": HI})

    told = [line.rpartition("|")[2] for line in place.log.read_text().splitlines() if line.startswith("import time:")]
    loaded = {name.strip().partition(".")[0] for name in told}
    assert (listed, asked.status_code) == ([], 404)
    assert "gateway" in loaded
    assert not loaded & set(HEAVY)


@pytest.mark.anyio
async def test_the_catalogue_and_the_providers_change_while_it_runs(tmp_path: Path) -> None:
    place = prepare(tmp_path, Plan({}))
    key = await new_key(place, "ana", "admin")

    async with in_process(place):
        before = (await models(place, key), (await post(place, key, "/v1/messages", {"model": "echo/x"})).status_code)
        place.write(Plan(ECHO))

        async def configured() -> bool:
            return await models(place, key) == ["echo/echo"]

        await eventually(configured)
        (tmp_path / "models.toml").write_text('[models."echo/parrot"]\nusd_per_mtok_in = 1\nusd_per_mtok_out = 1\n')

        async def listed() -> bool:
            return await models(place, key) == ["echo/parrot", "echo/echo"]

        await eventually(listed)
        (tmp_path / "models.toml").write_text('[models."ehco/parrot"]\n')  # a typo, which changes nothing
        place.write(Plan({**ECHO, "second": {"type": "echo"}}))
        after = await post(place, key, "/v1/chat/completions", {"model": "echo/parrot", "messages": HI})
        (tmp_path / "models.toml").write_text('[models."second/parrot"]\n')

        async def mended() -> bool:
            return await models(place, key) == ["second/parrot", "echo/echo", "second/echo"]

        await eventually(mended)

    assert before == ([], 404)
    assert after.status_code == 200


def test_a_typo_in_the_catalogue_is_told_with_its_line_and_what_was_meant(tmp_path: Path) -> None:
    place = prepare(tmp_path, Plan(ECHO))
    (tmp_path / "models.toml").write_text('[models."echo/parrot"]\nregoin = "eu"\n\n[models."ehco/parrot"]\n')

    first = interlock(place, "check", "--config", str(place.config))
    (tmp_path / "models.toml").write_text('[models."ehco/parrot"]\n')
    second = interlock(place, "check", "--config", str(place.config))

    assert "models.toml: models.echo/parrot.regoin: unknown key; did you mean 'region'? (line 2)" in first.stdout
    assert "'ehco' is no upstream of type openai, anthropic, litellm or echo; did you mean 'echo'?" in second.stdout


@pytest.mark.anyio
async def test_a_provider_without_its_secret_is_down_and_takes_nothing_else_with_it(tmp_path: Path) -> None:
    broken = {"type": "openai", "headers": {"Authorization": "Bearer env:NO_SUCH_SECRET_HERE"}}
    place = prepare(tmp_path, Plan({**ECHO, "broken": broken}))
    key = await new_key(place, "ana", "admin")

    async with in_process(place) as ready:
        down = await post(place, key, "/v1/chat/completions", {"model": "broken/x", "messages": HI})
        up = await post(place, key, "/v1/chat/completions", {"model": "echo/x", "messages": HI})

    assert "NO_SUCH_SECRET_HERE" in ready.upstreams["broken"]
    assert (down.status_code, up.status_code) == (503, 200)
