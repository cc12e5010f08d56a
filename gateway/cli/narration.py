"""What `interlock up` tells the person: each step as it happens, with the time since the start."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import TextIO


class Narration:
    """Writes steps to a terminal; with `as_json` they are kept back and one object is written at the end."""

    def __init__(self, out: TextIO, *, as_json: bool) -> None:
        self._out = out
        self._as_json = as_json
        self._began_s = time.monotonic()
        self._facts: dict[str, object] = {}

    def step(self, text: str) -> None:
        """Something was done."""
        if not self._as_json:
            self._line(f"[{time.monotonic() - self._began_s:5.1f} s] {text}")

    def detail(self, text: str) -> None:
        """More about the last step."""
        if not self._as_json:
            for line in text.splitlines():
                self._line(f"          {line}")

    def fact(self, name: str, value: object) -> None:
        """Something that a script wants to know."""
        self._facts[name] = value

    def finish(self) -> None:
        """Everything there is to know is known."""
        if self._as_json:
            self._line(json.dumps(self._facts))

    @property
    def facts(self) -> Mapping[str, object]:
        """What was noted so far."""
        return self._facts

    def _line(self, text: str) -> None:
        print(text, file=self._out, flush=True)
