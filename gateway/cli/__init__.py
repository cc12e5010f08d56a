"""The command line, `interlock`: one module per command, imported only when that command is asked for."""

from __future__ import annotations

from gateway.cli.main import main

__all__ = ["main"]
