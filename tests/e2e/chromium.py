"""A real browser for tests: headless Chromium, driven over its debugging protocol as a person would with a keyboard."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, Final, TypeAlias

import pytest
from websockets.sync.client import ClientConnection, connect

Json: TypeAlias = Any  # an answer of the browser, which each caller looks into

NAMES: Final = ("chromium", "chromium-browser", "google-chrome")
WAIT_S: Final = 60.0
FLAGS: Final = (
    "--headless=new", "--remote-debugging-port=0", "--no-first-run", "--no-default-browser-check", "--disable-gpu",
    "--disable-background-networking", "--disable-component-update", "--disable-extensions", "--disable-sync",
    "--disable-dev-shm-usage", "--no-proxy-server", "--mute-audio", "--window-size=1280,900",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
)  # fmt: skip
"""It is to reach nothing but this machine."""
WRITABLE: Final = "document.activeElement.matches('input, textarea')"
KEYS: Final[Mapping[str, tuple[int, str]]] = {
    "Tab": (9, ""), "Enter": (13, "\r"), " ": (32, " "), "Backspace": (8, ""), "Home": (36, ""), "PageDown": (34, ""),
}  # fmt: skip
"""Key -> Windows virtual key code, and the text that it gives."""


def executable() -> str:
    """The browser of this machine. Without one the test is skipped, or fails where one has to be there."""
    found = next((path for name in NAMES if (path := shutil.which(name))), "")
    if not found and os.environ.get("INTERLOCK_REQUIRE_BROWSER"):
        pytest.fail("there is no Chromium, and INTERLOCK_REQUIRE_BROWSER is set: apt-get install chromium")
    if not found:
        pytest.skip("there is no Chromium: apt-get install chromium")
    return found


@dataclass
class Chromium:
    """The browser. Each of its pages is a person's own: they share no cookies."""

    _socket: ClientConnection
    _numbers: Iterator[int] = field(default_factory=lambda: count(1))
    _pages: dict[str, Page] = field(default_factory=dict)

    def page(self) -> Page:
        """A new page with no cookies."""
        context = self.ask("Target.createBrowserContext")["browserContextId"]
        target = self.ask("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = self._pages[session] = Page(self, session)
        for domain in ("Page", "Runtime", "Network", "Log", "Audits"):
            page.ask(f"{domain}.enable")
        page.ask("Emulation.setFocusEmulationEnabled", enabled=True)  # several people, each with a window in front
        page.ask("Page.bringToFront")
        return page

    def ask(self, method: str, session: str = "", /, **params: object) -> Json:
        """One command and its answer. Raises `RuntimeError` with what the browser says."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": params}
        self._socket.send(json.dumps({**message, "sessionId": session} if session else message))
        while (answer := self.hear()).get("id") != number:
            pass
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']['message']}")
        return answer["result"]

    def hear(self) -> Json:
        """The next message. Raises `TimeoutError`."""
        message = json.loads(self._socket.recv(timeout=WAIT_S))
        page = self._pages.get(message.get("sessionId", ""))
        if "method" in message and page is not None:
            page.heard(message["method"], message["params"])
        return message


@dataclass
class Page:
    """One page. `violations` are what its content security policy stopped, `faults` what went wrong in scripts."""

    browser: Chromium
    session: str
    violations: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    _loads: int = 0

    def heard(self, event: str, params: Json) -> None:
        """Note what the browser told."""
        match event:
            case "Page.loadEventFired":
                self._loads += 1
            case "Audits.issueAdded" if params["issue"]["code"] == "ContentSecurityPolicyIssue":
                self.violations.append(json.dumps(params["issue"]["details"]))
            case "Page.javascriptDialogOpening":
                self.faults.append(f"a dialogue opened: {params['message']}")
            case "Runtime.exceptionThrown":
                self.faults.append(json.dumps(params["exceptionDetails"]))
            case "Network.requestWillBeSent":
                self.requests.append(params["request"]["url"])

    def ask(self, method: str, /, **params: object) -> Json:
        """One command for this page."""
        return self.browser.ask(method, self.session, **params)

    def go(self, url: str) -> None:
        """Open an address, and wait until it is there."""
        with self.loading():
            self.ask("Page.navigate", url=url)

    @contextmanager
    def loading(self, times: int = 1) -> Iterator[None]:
        """What is done in the block leads to another page, or to several in a row."""
        before, deadline = self._loads, time.monotonic() + WAIT_S
        yield
        while self._loads < before + times:
            self.browser.hear()
            assert time.monotonic() < deadline, "the page does not load"

    def eval(self, script: str) -> Json:
        """The value of an expression in the page; a promise is waited for."""
        answer = self.ask("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def until(self, script: str) -> None:
        """Wait until an expression in the page is true."""
        deadline = time.monotonic() + WAIT_S
        while self.eval(f"Boolean({script})") is not True:
            assert time.monotonic() < deadline, f"{script} never comes true"

    @property
    def text(self) -> str:
        """What a person can read."""
        return str(self.eval("document.body.innerText"))

    @property
    def status(self) -> int:
        """The HTTP status that the page came with."""
        return int(self.eval("performance.getEntriesByType('navigation')[0].responseStatus"))

    def press(self, key: str, times: int = 1) -> None:
        """Strike a key."""
        code, text = KEYS[key]
        what = {"key": key, "code": "Space" if key == " " else key, "windowsVirtualKeyCode": code}
        for _ in range(times):
            self.ask("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", **what, text=text)
            self.ask("Input.dispatchKeyEvent", type="keyUp", **what)

    def select_all(self) -> None:
        """Ctrl+A."""
        what = {"key": "a", "code": "KeyA", "windowsVirtualKeyCode": 65, "modifiers": 2, "commands": ["selectAll"]}
        self.ask("Input.dispatchKeyEvent", type="rawKeyDown", **what)
        self.ask("Input.dispatchKeyEvent", type="keyUp", **{**what, "commands": []})

    def write(self, text: str) -> None:
        """Type into the field that has the focus, which a page settles only after it is there, and see it arrive."""
        self.until(WRITABLE)
        self.ask("Input.insertText", text=text)
        self.until(f"document.activeElement.value.includes({json.dumps(text)})")

    def tab_to(self, name: str) -> None:
        """Strike Tab until what has the focus is called so, and see that the focus shows on the way."""
        for _ in range(60):
            self.press("Tab")
            focused = self.eval(
                "(() => { const on = document.activeElement; const label = on.labels?.[0]?.innerText;"
                "const name = on === document.body ? '' : (label || on.innerText || '').trim();"
                "return {name, outline: getComputedStyle(on).outlineStyle}; })()"
            )
            if focused["name"]:
                assert focused["outline"] != "none", f"the focus on {focused['name']!r} does not show"
            if focused["name"].startswith(name):
                return
        raise AssertionError(f"Tab never comes to {name!r}")

    def screenshot(self, path: Path, *, dark: bool = False, width: int = 1280) -> None:
        """Keep what the page looks like, all of it."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[scheme])
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        shot = self.ask("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))
        self.ask("Emulation.clearDeviceMetricsOverride")


@contextmanager
def chromium(directory: Path) -> Iterator[Chromium]:
    """A browser with a profile in this directory; ended with the block."""
    alone = ("--no-sandbox",) if os.geteuid() == 0 else ()  # its sandbox does not start as root
    command = [executable(), *FLAGS, *alone, f"--user-data-dir={directory / 'profile'}", "about:blank"]
    with (directory / "chromium.log").open("wb") as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
        try:
            with connect(_address(process, directory), max_size=None, proxy=None, open_timeout=WAIT_S) as socket:
                browser = Chromium(socket)
                yield browser
                browser.ask("Browser.close")
            process.wait(WAIT_S)
        finally:
            process.kill()
            process.wait(WAIT_S)


def _address(process: subprocess.Popen[bytes], directory: Path) -> str:
    """Where the browser is driven from: it writes that down once it listens."""
    noted, deadline = directory / "profile" / "DevToolsActivePort", time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        assert process.poll() is None, (directory / "chromium.log").read_text(errors="replace")[-2000:]
        lines = noted.read_text().split() if noted.exists() else []
        if len(lines) == 2:
            return f"ws://127.0.0.1:{lines[0]}{lines[1]}"
        time.sleep(0.05)
    raise AssertionError("Chromium does not listen")
