"""The composition root: settings in, a serving gateway out."""

from gateway.app.serving import Ready, serve

__all__ = ["Ready", "serve"]
