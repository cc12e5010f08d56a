"""The commands with which a person adds agents, looks at their cards and accepts them."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import anyio
import pytest

from gateway.cli import main
from gateway.cli.cards import findings
from gateway.cli.findings import Finding
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


def test_agent_that_cannot_be_added_is_said_why_and_what_to_do(
    config: Path, agent: Agent, capsys: pytest.CaptureFixture[str]
) -> None:
    before = config.read_bytes()
    agent.card = b"<html>"

    assert _agents(config, "add", "cook", agent.url) == 2
    assert _agents(config, "add", "ghost", "http://127.0.0.1:1/card") == 2

    no_card, nobody = capsys.readouterr().err.splitlines()
    assert no_card.startswith("error: agent 'cook' is not added: the card is not JSON")
    assert no_card.endswith(f"; correct its card_url, {agent.url}, or have its owner mend the card")
    assert nobody.endswith("connection refused; start it, or correct its card_url, http://127.0.0.1:1/card")
    assert config.read_bytes() == before


def test_agent_that_was_asked_in_vain_is_not_to_be_asked_again(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config.write_text('[agents.ghost]\ncard_url = "http://127.0.0.1:1/card"\n')

    assert _agents(config, "show", "ghost", "--fetch") == 0

    out = capsys.readouterr().out
    assert "ghost: down" in out
    assert "try --fetch" not in out
    assert "`interlock doctor` says what to do" in out


@pytest.mark.parametrize(
    ("section", "state", "what", "remedy"),
    [
        ("", "good", "its card is there, not signed; JSONRPC 1.0 (the agent itself was not asked)", ""),
        ('skills = ["juggle"]\n', "wrong", "the card has no skill", "have its owner mend the card"),
        ('headers = { X-Key = "env:NOT_THERE" }\n', "wrong", "NOT_THERE", "see `interlock check --secrets`"),
        ('card_url = "http://127.0.0.1:1/card"\n', "wrong", "connection refused", "start it, or correct its card_url"),
    ],
)
def test_doctor_fetches_each_card_and_says_what_to_do(
    config: Path, agent: Agent, monkeypatch: pytest.MonkeyPatch, section: str, state: str, what: str, remedy: str
) -> None:
    monkeypatch.delenv("NOT_THERE", raising=False)
    at = "" if "card_url" in section else f'card_url = "{agent.url}"\n'
    config.write_text(f"[agents.cook]\n{at}{section}")

    (finding,) = anyio.run(findings, load(config))

    assert (finding.subject, finding.state) == ("agent cook", state)
    assert what in finding.what
    assert remedy in finding.remedy


def test_doctor_asks_within_a_deadline_and_all_at_once(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.cli.cards.FETCH_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/card"
        config.write_text("".join(f'[agents.a{number}]\ncard_url = "{url}"\n' for number in range(5)))

        async def asked() -> list[Finding]:
            with anyio.fail_after(10):
                return await findings(load(config))

        found = anyio.run(asked)

    assert [finding.subject for finding in found] == [f"agent a{number}" for number in range(5)]
    assert {finding.state for finding in found} == {"wrong"}
    assert all("start it" in finding.remedy for finding in found)


def test_agent_whose_secret_is_not_there_is_down_and_the_others_are_listed(
    added: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("NOT_THERE", raising=False)
    ghost = '[agents.ghost]\ncard_url = "http://127.0.0.1:1/"\nheaders = { X-Key = "env:NOT_THERE" }\n'
    added.write_text(added.read_text() + ghost)

    assert _agents(added, "list", "--fetch", "--json") == 0

    cook, down = json.loads(capsys.readouterr().out)["agents"]
    assert (cook["state"], down["state"]) == ("accepted", "down")
    assert "NOT_THERE" in down["fault"]
