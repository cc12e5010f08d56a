"""Asks a gateway that is running, with an API key, and says what helps when it does not answer as it should."""

from __future__ import annotations

import argparse
import json
import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from typing import Final, TypeAlias, cast
from urllib.parse import urlsplit

from gateway.cli.main import CANNOT, NOT_AS_IT_SHOULD_BE, CommandFailed
from gateway.cli.options import add_config, config_path
from gateway.cli.sockets import port_of
from gateway.config.reading import load
from gateway.config.tree import Listen

KEY_VARIABLE: Final = "INTERLOCK_API_KEY"
TIMEOUT_S: Final = 30.0
MAX_ANSWER_BYTES: Final = 64 * 1024 * 1024

Object: TypeAlias = dict[str, object]


def add_remote(parser: argparse.ArgumentParser) -> None:
    """`--url`, `--key-file`, `--config` and `--json`."""
    parser.add_argument("--url", default="", metavar="URL", help="the gateway (default: where the configuration says)")
    parser.add_argument(
        "--key-file", type=Path, metavar="FILE", help=f"file with your API key (default: the variable {KEY_VARIABLE})"
    )
    add_config(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")


class Refused(CommandFailed):
    """The gateway answered that it does not; `status` is that of its answer."""

    def __init__(self, message: str, status: int, code: int = NOT_AS_IT_SHOULD_BE) -> None:
        super().__init__(message, code)
        self.status = status


@dataclass(frozen=True, slots=True)
class Remote:
    """A gateway and the key to it. `needs` is a role that usually may do what is asked."""

    url: str
    key: str
    needs: str
    timeout_s: float = TIMEOUT_S

    def ask(self, verb: str, path: str, body: Mapping[str, object] | None = None) -> Object:
        """The JSON object that it answers with. Raises `CommandFailed` with what to do for any other answer."""
        status, payload = self._exchange(verb, path, body)
        try:
            answer = json.loads(payload or b"{}")
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            words = f"{self.url} is no Interlock gateway, or an older one: it answered {status}"
            raise Refused(words, status, CANNOT)
        if status == 200:
            return cast("Object", answer)
        raise self._refused(status, answer)

    def _exchange(self, verb: str, path: str, body: Mapping[str, object] | None) -> tuple[int, bytes]:
        parts = urlsplit(self.url)
        headers = {"authorization": f"Bearer {self.key}", "accept": "application/json"}
        if body is not None:
            headers["content-type"] = "application/json"
        host = parts.hostname or ""
        connection = (
            HTTPSConnection(host, port_of(parts), timeout=self.timeout_s, context=ssl.create_default_context())
            if parts.scheme == "https"
            else HTTPConnection(host, port_of(parts), timeout=self.timeout_s)
        )
        try:
            sent = json.dumps(body).encode() if body is not None else None
            connection.request(verb, f"{parts.path.rstrip('/')}{path}", body=sent, headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.read(MAX_ANSWER_BYTES)
        except (OSError, HTTPException) as exc:
            words = (
                f"no gateway answers at {self.url} ({exc}): start it with `interlock up`, or name another with --url"
            )
            raise CommandFailed(words) from exc
        finally:
            connection.close()

    def _refused(self, status: int, answer: Mapping[str, object]) -> Refused:
        error = answer.get("error", f"the gateway answered {status}")
        said = printable(error.get("message", error) if isinstance(error, Mapping) else error)
        if status == 401:
            return Refused(f"{said}; make a key with {how_to_make(self.needs)}", status, CANNOT)
        if status == 403:
            said += f"; policy has to allow it: rules usually want a key with a role such as {self.needs!r}"
        return Refused(said, status)


def how_to_make(role: str) -> str:
    """The command that makes a key."""
    return f"`interlock keys create --subject user:YOU --role {role}`"


def remote(args: argparse.Namespace, needs: str) -> Remote:
    """What the options say. Raises `CommandFailed` when there is no key, or no address."""
    key_file: Path | None = args.key_file
    key = _text(key_file.expanduser()).strip() if key_file is not None else os.environ.get(KEY_VARIABLE, "")
    if not key:
        words = f"no API key: put one into {KEY_VARIABLE}, or a file with it after --key-file; make one with "
        raise CommandFailed(words + how_to_make(needs))
    if not key.isascii() or not key.isprintable() or " " in key:
        raise CommandFailed("what is given as API key is none: it is one line that begins with ilk_")
    return Remote(_url(args), key, needs)


def _text(path: Path) -> str:
    return path.read_bytes().decode("ascii", "replace")  # what is no key is said to be none by who called


def _url(args: argparse.Namespace) -> str:
    url: str = args.url
    if url:
        if not _is_address(url):
            raise CommandFailed(f"{url} is no address: write http://HOST:PORT or https://HOST")
        return url.rstrip("/")
    path = config_path(args)
    listen = load(path).listen if path.exists() else Listen()
    if listen.public_url:
        return listen.public_url.rstrip("/")
    host = "127.0.0.1" if listen.host in ("0.0.0.0", "localhost") else listen.host  # noqa: S104  # compared, not bound
    return f"http://[{host}]:{listen.port}" if ":" in host else f"http://{host}:{listen.port}"


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and port_of(parts) > 0
    except ValueError:  # a port beyond 65535, half a bracket
        return False


def printable(value: object) -> str:
    """A text that somebody else wrote, without what a terminal would obey."""
    return "".join(char if char.isprintable() else f"\\x{ord(char):02x}" for char in str(value))
