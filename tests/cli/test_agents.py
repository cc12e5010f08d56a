"""The commands with which a person adds agents, looks at their cards and accepts them."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from gateway.cli import main
from gateway.config.reading import load
from tests.a2a.card_samples import Json, card_of


@dataclass
class Agent:
    """An agent's web site, as far as its card goes."""

    url: str = ""
    card: bytes = b""

    def shows(self, card: Json) -> None:
        self.card = json.dumps(card).encode()


@pytest.fixture
def agent() -> Iterator[Agent]:
    """A running agent that shows a card."""
    site = Agent()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-length", str(len(site.card)))
            self.end_headers()
            self.wfile.write(site.card)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # its name there
            pass

    site.shows(card_of("https://cook.example/a2a"))
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        site.url = f"http://127.0.0.1:{server.server_address[1]}/.well-known/agent-card.json"
        yield site
        server.shutdown()
        thread.join(5)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A configuration with a comment that must survive."""
    path = tmp_path / "interlock.toml"
    path.write_text('# mine\n[state]\ndir = "state"\n\n[upstreams.files]\ntype = "mcp"\ncommand = ["true"]')
    (tmp_path / "state").mkdir(mode=0o700)
    return path


@pytest.fixture
def added(config: Path, agent: Agent, capsys: pytest.CaptureFixture[str]) -> Path:
    """A configuration with the agent in it, whose card was seen once."""
    assert _agents(config, "add", "cook", agent.url) == 0
    assert _agents(config, "list", "--fetch") == 0
    capsys.readouterr()
    return config


def _agents(config: Path, verb: str, *words: str) -> int:
    return main(["agents", verb, *words, "--config", str(config)])


def test_added_agent_is_configured_and_the_rest_of_the_file_stays(
    config: Path, agent: Agent, capsys: pytest.CaptureFixture[str]
) -> None:
    before = config.read_text()

    assert _agents(config, "add", "cook", agent.url) == 0

    assert config.read_text().startswith(before)
    assert load(config).agents["cook"].card_url == agent.url
    out = capsys.readouterr().out
    assert "Recipe Agent" in out
    assert "https://cook.example/a2a" in out
    assert "not signed" in out


@pytest.mark.parametrize("name", ["cook", "files"])
def test_name_that_is_taken_is_refused(
    added: Path, agent: Agent, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = added.read_bytes()

    assert _agents(added, "add", name, agent.url) == 2

    assert "already" in capsys.readouterr().err
    assert added.read_bytes() == before


@pytest.mark.parametrize(
    ("name", "url"), [("Bad Name", "https://a.example/"), ("x", 'ftp://a"\nb'), ("x]\n[y", "https://a.example/")]
)
def test_name_or_address_that_cannot_be_is_refused(config: Path, name: str, url: str) -> None:
    before = config.read_bytes()

    assert _agents(config, "add", name, url) == 2

    assert config.read_bytes() == before


@pytest.mark.parametrize("card", [b"<html>", b'{"name":"a","name":"b"}', b'{"name":"a"}'])
def test_agent_whose_card_cannot_be_used_is_not_added(config: Path, agent: Agent, card: bytes) -> None:
    before = config.read_bytes()
    agent.card = card

    assert _agents(config, "add", "cook", agent.url) == 2

    assert config.read_bytes() == before


def test_list_says_what_is_accepted_and_what_is_new(
    config: Path, agent: Agent, capsys: pytest.CaptureFixture[str]
) -> None:
    _agents(config, "list")
    assert "no agent yet" in capsys.readouterr().out
    _agents(config, "add", "cook", agent.url)
    capsys.readouterr()

    assert _agents(config, "list", "--json") == 0
    assert json.loads(capsys.readouterr().out)["agents"][0]["state"] == "new"
    assert _agents(config, "list", "--json", "--fetch") == 0
    assert json.loads(capsys.readouterr().out)["agents"][0]["state"] == "accepted"
    assert _agents(config, "list") == 0
    assert "accepted  Recipe Agent" in capsys.readouterr().out


def test_agent_that_cannot_be_asked_is_down(added: Path, agent: Agent, capsys: pytest.CaptureFixture[str]) -> None:
    agent.card = b"<html>"

    assert _agents(added, "list", "--fetch", "--json") == 0

    row = json.loads(capsys.readouterr().out)["agents"][0]
    assert row["state"] == "down"
    assert "not JSON" in row["fault"]


def test_changed_card_waits_until_it_is_accepted(added: Path, agent: Agent, capsys: pytest.CaptureFixture[str]) -> None:
    agent.shows(card_of("https://evil.example/a2a"))

    assert _agents(added, "show", "cook", "--fetch") == 0
    shown = capsys.readouterr().out
    assert "cook: waits" in shown
    assert '-        "url": "https://cook.example/a2a"' in shown
    assert '+        "url": "https://evil.example/a2a"' in shown

    assert _agents(added, "accept", "cook", "--by", "user:ana") == 0
    assert "evil.example" in capsys.readouterr().out
    assert _agents(added, "show", "cook", "--json") == 0
    row = json.loads(capsys.readouterr().out)
    assert (row["state"], row["accepted_by"]) == ("accepted", "user:ana")
    assert row["card"]["supportedInterfaces"][0]["url"] == "https://evil.example/a2a"


def test_other_digest_than_was_looked_at_is_not_accepted(
    added: Path, agent: Agent, capsys: pytest.CaptureFixture[str]
) -> None:
    agent.shows(card_of("https://evil.example/a2a"))
    _agents(added, "list", "--fetch")

    assert _agents(added, "accept", "cook", "--digest", "sha256:0000") == 1

    assert "look at it again" in capsys.readouterr().err


def test_nothing_to_accept_and_nobody_of_that_name(added: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _agents(added, "accept", "cook") == 1
    assert _agents(added, "show", "nobody") == 2

    err = capsys.readouterr().err
    assert "no card of agent 'cook' waits" in err
    assert "no agent 'nobody'" in err
