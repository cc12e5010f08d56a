"""A gateway with model providers behind it that these tests can steer, and clients of both vendors for it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anthropic
import httpx2
import openai

from conformance.gateway import Plan, Table
from gateway.audit.reader import Filter, Tail
from gateway.audit.verify import read_entry
from tests.e2e.eventually import eventually
from tests.e2e.place import Place, in_process, new_key, prepare, rules
from tests.servers.models import MODEL, Provider, provider

CATALOGUE = f"""
[models."openai/good"]
model = "{MODEL}"
region = "eu-west"
usd_per_mtok_in = 1.0
usd_per_mtok_out = 10.0
context_tokens = 100000
max_output_tokens = 4096
labels = ["external"]

[models."claude/good"]
model = "{MODEL}"
region = "us-east"

[models."openai/secret"]
model = "{MODEL}"
"""

RULES = """
accepts_truncated if input.action.name == "model.call"

allow if {
	input.action.name in {"model.list", "model.call"}
	input.subject.id != ""
	not hidden
}

hidden if input.resource.properties.name == "secret"

deny contains {"code": "no_weather", "message": "no tools for weather", "public": true, "remedy": "leave it out"} if {
	"weather" in input.resource.properties.tools
}

deny contains {"code": "too_much", "message": "at most 1000 tokens", "public": true} if {
	input.resource.properties.estimate.output_tokens > 5000
}

hold contains {"approvers": "group:finance", "title": "ask the oracle"} if {
	input.resource.properties.arguments.user == "held"
}

obligation contains {"type": "model", "properties": {"stream": false}} if {
	input.resource.properties.arguments.user == "whole"
}

obligation contains {"type": "model", "properties": {"max_tokens": 7}} if {
	input.resource.properties.arguments.user == "short"
}

obligation contains {"type": "model", "properties": {"regions": ["eu-*"]}} if {
	input.resource.properties.arguments.user == "european"
}

obligation contains {"type": "redact", "properties": {"patterns": ["secret"]}} if {
	input.resource.properties.arguments.user == "careful"
}
"""


@dataclass
class World:
    """The gateway, its providers and a key."""

    place: Place
    key: str
    one: Provider
    """Behind `openai`."""
    other: Provider
    """Behind `claude`."""

    def chat(self, key: str = "", **more: object) -> openai.AsyncOpenAI:
        """OpenAI's client, which does not try again by itself."""
        settings: Mapping[str, object] = {"max_retries": 0, "timeout": 20, **more}
        return openai.AsyncOpenAI(base_url=f"{self.place.url}/v1", api_key=key or self.key, **settings)  # type: ignore[arg-type]

    def messages(self, key: str = "", **more: object) -> anthropic.AsyncAnthropic:
        """Anthropic's client."""
        settings: Mapping[str, object] = {"max_retries": 0, "timeout": 20, **more}
        return anthropic.AsyncAnthropic(base_url=self.place.url, api_key=key or self.key, **settings)  # type: ignore[arg-type]

    async def post(self, path: str, body: object, headers: Mapping[str, str] | None = None) -> httpx2.Response:
        """A request as it stands, for what clients would not send."""
        given = {"authorization": f"Bearer {self.key}", "content-type": "application/json", **(headers or {})}
        async with httpx2.AsyncClient(timeout=20) as http:
            if isinstance(body, bytes):
                return await http.post(f"{self.place.url}{path}", content=body, headers=given)
            return await http.post(f"{self.place.url}{path}", json=body, headers=given)


def providers(openai_url: str, claude_url: str, **more: Table) -> Mapping[str, Table]:
    """The sections of the providers."""
    return {
        "openai": {"type": "openai", "url": openai_url, "timeout_s": 2, "max_result_bytes": 200_000, **more},
        "claude": {"type": "anthropic", "url": claude_url, "timeout_s": 2, "max_result_bytes": 200_000},
        "echo": {"type": "echo"},
    }


@asynccontextmanager
async def world(directory: Path, policy: str = RULES, catalogue: str = CATALOGUE) -> AsyncIterator[World]:
    """All of it, up."""
    async with provider() as (one, openai_url), provider() as (other, claude_url):
        plan = Plan(providers(openai_url, claude_url), {"policy": rules(directory, all=policy)})
        place = prepare(directory, plan)
        (directory / "models.toml").write_text(catalogue)
        key = await new_key(place, "ana")
        async with in_process(place):
            yield World(place, key, one, other)


def records(place: Place) -> list[Mapping[str, Any]]:
    """What the audit log holds of calls of models by now, oldest first."""
    entries = [read_entry(body) for body in Tail(place.state / "audit", Filter(action="model.call")).last(50)]
    return [{**entry, "notes": json.loads(str(entry.get("notes", "{}")))} for entry in entries]


async def recorded(place: Place, wanted: Callable[[Mapping[str, Any]], bool]) -> Mapping[str, Any]:
    """The record that looks so, once it is written."""

    async def look() -> Mapping[str, Any] | None:
        return next((record for record in records(place) if wanted(record)), None)

    found: Mapping[str, Any] | None = await eventually(look)
    assert found is not None
    return found
