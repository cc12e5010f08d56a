"""Boxes behind gVisor's user-space kernel."""

from __future__ import annotations

from sandboxes.gvisor.driver import Gvisor

__all__ = ["Gvisor"]
