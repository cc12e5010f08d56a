"""A place where code can be run, as configuration describes it, and the box that its sessions are started as."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Final

from gateway.boxes import Level
from gateway.types import Identity
from sandboxes.inside import GUEST, GUEST_SOURCE
from sandboxes.spec import BoxSpec

AGENT: Final = "agent.py"
INTERPRETER: Final = "/usr/bin/python3"
"""What runs the agent in a box whose base is the host's /usr. It is not necessarily what runs the user's code."""


@dataclass(frozen=True, slots=True)
class Environment:
    """One named environment. `spec` says what a box of it is made of; its command is ours to choose.

    `secrets` become variables of the code that runs, given when a session gets its box. `visible_to` holds roles: who
    has none of them is told that there is no such environment; empty, policy alone decides.
    """

    name: str
    spec: BoxSpec
    level: Level
    digest: str = ""
    """Of the whole description, for the record."""
    wall_s: float = 30.0
    """How long one run may take."""
    idle_s: float = 600.0
    """How long a session may be unused before it ends."""
    secrets: Mapping[str, str] = field(default_factory=dict, repr=False)
    visible_to: frozenset[str] = frozenset()
    description: str = ""
    unused: int = 0
    """How many boxes are kept started ahead."""
    interpreter: str = INTERPRETER

    @property
    def box(self) -> BoxSpec:
        """The box of a session: the agent in these surroundings. No secret is in it."""
        command = (self.interpreter, "-I", "-S", "-B", f"{GUEST}/{AGENT}", f"--content={agent_digest()}")
        return replace(self.spec, label=self.name, command=command, secrets={})

    def shown_to(self, identity: Identity) -> bool:
        """Whether somebody may know that it exists."""
        return not self.visible_to or not self.visible_to.isdisjoint(identity.roles)


@cache
def agent_digest() -> str:
    """Stands in the command, so that a snapshot with another agent in it is not taken for one of this."""
    parts = sorted(GUEST_SOURCE.glob("agent*.py"))
    return hashlib.sha256(b"".join(part.read_bytes() for part in parts)).hexdigest()[:16]
