"""The one typed tree that `interlock.toml` becomes: read once, frozen, every fault reported at the same time.

Reading it imports no vendor SDK, so that `interlock check` is quick and works where half of the packages do not.
"""

from __future__ import annotations

from gateway.config.decisions import Approvals, Decisions, Policy
from gateway.config.fields import policy_library, starter_policies
from gateway.config.reading import load, loads, reload
from gateway.config.secrets import is_reference, resolve_secret
from gateway.config.tree import (
    Audit,
    Identity,
    Issuer,
    Limits,
    Listen,
    Sandbox,
    Settings,
    State,
    Telemetry,
    Upstream,
)
from gateway.config.watching import watch

__all__ = [
    "Approvals",
    "Audit",
    "Decisions",
    "Identity",
    "Issuer",
    "Limits",
    "Listen",
    "Policy",
    "Sandbox",
    "Settings",
    "State",
    "Telemetry",
    "Upstream",
    "is_reference",
    "load",
    "loads",
    "policy_library",
    "reload",
    "resolve_secret",
    "starter_policies",
    "watch",
]
