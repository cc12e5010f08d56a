"""A server that does in its box what it is told, harmless or not; the standard library is all that it needs.

    python /path/to/boxed.py

It speaks MCP 2025-11-25 over its standard streams, each call in a thread of its own. What has to be seen by a test
that makes no call meanwhile goes to a file, which the test reads through a bind.
"""

from __future__ import annotations

import json
import os
import pathlib
import signal
import socket
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from typing import Any, Final, NoReturn

PROXY: Final = ("127.0.0.1", 3128)
PAUSE_S: Final = 0.02
ANSWER_S: Final = 20.0
PIECE: Final = 64 * 1024
MIB: Final = 1024 * 1024

Arguments = Mapping[str, Any]
_speaking = threading.Lock()


def read(arguments: Arguments) -> str:
    """The text of a file."""
    return pathlib.Path(arguments["path"]).read_text()


def write(arguments: Arguments) -> str:
    """Write a file."""
    pathlib.Path(arguments["path"]).write_text(arguments["content"])
    return "written"


def where(arguments: Arguments) -> str:
    """What it knows of itself. `born` is fixed when it starts, `chance` is asked of the kernel now."""
    facts = {
        "cwd": os.getcwd(),
        "uid": os.getuid(),
        "env": dict(os.environ),
        "argv": pathlib.Path("/proc/self/cmdline").read_text(),
        "born": BORN,
        "chance": os.urandom(16).hex(),
    }
    return json.dumps(facts)


def fetch(arguments: Arguments) -> str:
    """Status and body of what is at an address, asked for as any program would."""
    return json.dumps(fetched(arguments["url"]))


def fetched(url: str) -> dict[str, Any]:
    try:
        with urllib.request.urlopen(url, timeout=ANSWER_S) as response:  # whatever the test says
            return {"status": response.status, "body": response.read().decode()}
    except urllib.error.HTTPError as refusal:
        return {"status": refusal.code, "body": refusal.read().decode()}
    except OSError as fault:
        return {"status": 0, "body": str(fault)}


def later(arguments: Arguments) -> str:
    """Ask for an address once the file `after` is there, which nobody waits for; the outcome goes to `report`."""

    def ask() -> None:
        awaited(arguments["after"])
        noted(arguments["report"], json.dumps(fetched(arguments["url"])))

    threading.Thread(target=ask, daemon=True).start()
    return "started"


def hold(arguments: Arguments) -> str:
    """Open a tunnel and leave it open; how it ended goes to `report`."""
    tunnel = socket.create_connection(PROXY, timeout=ANSWER_S)
    where_to = f"{arguments['host']}:{arguments['port']}"
    tunnel.sendall(f"CONNECT {where_to} HTTP/1.1\r\nHost: {where_to}\r\n\r\n".encode())
    answer = tunnel.recv(PIECE).decode()
    if " 200 " in answer.partition("\r\n")[0]:
        tunnel.sendall(b"hello")
        answer = tunnel.recv(PIECE).decode()

    def stay() -> None:
        try:
            ended = tunnel.recv(PIECE).decode() or "closed"
        except OSError as fault:
            ended = "closed" if not isinstance(fault, TimeoutError) else "left open"
        noted(arguments["report"], ended)

    threading.Thread(target=stay, daemon=True).start()
    return answer


def direct(arguments: Arguments) -> str:
    """Connect without the proxy."""
    try:
        socket.create_connection((arguments["host"], arguments["port"]), timeout=2).close()
    except OSError as fault:
        return f"no way: {fault}"
    return "connected"


def wait(arguments: Arguments) -> str:
    """Say in the file `started` that the call is under way, and answer once the file `until` is there."""
    noted(arguments["started"], "started")
    awaited(arguments["until"])
    return "waited"


def stay(arguments: Arguments) -> str:
    """Answer after so many seconds."""
    time.sleep(arguments["seconds"])
    return "stayed"


def shout(arguments: Arguments) -> str:
    """Write a variable to standard error and end."""
    sys.stderr.write(f"the token is {os.environ.get(arguments['name'])}\n")
    sys.stderr.flush()
    os._exit(7)


def settle(arguments: Arguments) -> str:
    """Leave a process in a session of its own, which is no child of ours and ignores what it is asked."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
                signal.signal(number, signal.SIG_IGN)
            null = os.open(os.devnull, os.O_RDWR)
            for stream in (0, 1, 2):
                os.dup2(null, stream)
            while True:
                time.sleep(60)
        os._exit(0)
    os.wait()
    return "settled"


def crowd(arguments: Arguments) -> str:
    """Start processes that start processes, until no more are to be had and on."""
    for count in range(100_000):
        try:
            if os.fork() == 0:
                multiply()
        except OSError as fault:
            return f"{count} processes of its own, then: {fault.strerror}"
    return "without end"


def multiply() -> NoReturn:
    while True:
        try:
            os.fork()
        except OSError:
            time.sleep(PAUSE_S)


def fill(arguments: Arguments) -> str:
    """Write files until there is no more room."""
    total = 0
    for number in range(100_000):
        try:
            total += pathlib.Path(arguments["directory"], f"filling-{number}").write_bytes(bytes(8 * MIB))
        except OSError as fault:
            return f"{total // MIB} MiB, then: {fault.strerror}"
    return "without end"


def awaited(path: str) -> None:
    while not os.path.exists(path):
        time.sleep(PAUSE_S)


def noted(path: str, text: str) -> None:
    """All of it at once, for whoever waits for the file."""
    pathlib.Path(f"{path}.part").write_text(text)
    os.rename(f"{path}.part", path)


TOOLS: Final[Mapping[str, Callable[[Arguments], str]]] = {
    tool.__name__: tool
    for tool in (read, write, where, fetch, later, hold, direct, wait, stay, shout, settle, crowd, fill)
}


def answer(method: str, params: Arguments) -> Mapping[str, object]:
    """The result of a request. Raises `LookupError` for a method that there is not."""
    if method == "initialize":
        info = {"name": "boxed", "version": "1"}
        return {"protocolVersion": "2025-11-25", "capabilities": {"tools": {}}, "serverInfo": info}
    if method == "ping":
        return {}
    if method == "tools/list":
        return {"tools": [defined(name, tool) for name, tool in TOOLS.items()]}
    if method == "tools/call":
        return called(TOOLS[params["name"]], params.get("arguments", {}))
    raise LookupError(method)


def defined(name: str, tool: Callable[[Arguments], str]) -> Mapping[str, object]:
    return {"name": name, "description": tool.__doc__, "inputSchema": {"type": "object"}}


def called(tool: Callable[[Arguments], str], arguments: Arguments) -> Mapping[str, object]:
    try:
        return {"content": [{"type": "text", "text": tool(arguments)}], "isError": False}
    except (OSError, ValueError, KeyError) as fault:
        return {"content": [{"type": "text", "text": f"{type(fault).__name__}: {fault}"}], "isError": True}


def attend(message: Mapping[str, Any]) -> None:
    """Answer one message, if it wants an answer."""
    if "id" not in message:
        return
    head = {"jsonrpc": "2.0", "id": message["id"]}
    try:
        told = {**head, "result": answer(message["method"], message.get("params", {}))}
    except LookupError:
        told = {**head, "error": {"code": -32601, "message": "Method not found"}}
    with _speaking:
        sys.stdout.write(json.dumps(told) + "\n")
        sys.stdout.flush()


BORN: Final = os.urandom(8).hex()

if __name__ == "__main__":
    for line in sys.stdin:
        threading.Thread(target=attend, args=(json.loads(line),), daemon=True).start()
