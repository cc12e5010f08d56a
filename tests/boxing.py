"""What a gateway knows of boxes, for tests whose upstreams run outside of any."""

from __future__ import annotations

from pathlib import Path

from gateway.app.boxes import Sandboxing, guard_of
from gateway.config import Settings
from gateway.config import secrets as references
from gateway.flights import Flights
from sandboxes.boxes import Boxes
from sandboxes.cgroups import Cgroups
from sandboxes.environments import load
from sandboxes.ledger import Ledger
from sandboxes.packages import PackageCache
from sandboxes.probing import Probes
from sandboxes.warm import Warmth


def without_boxes(settings: Settings, place: Path) -> Sandboxing:
    """No driver at all: what needs a box is refused."""
    guard = guard_of(settings)
    boxes = Boxes((), Ledger(place / "boxes"), Probes(), None, Cgroups())
    environments = load(place / "environments", references, guard)
    packages = PackageCache(place / "packages", {})
    return Sandboxing(settings, boxes, Flights(), environments, packages, guard, Warmth(boxes, place / "frozen"))
