"""Doors whose protocol needs a library of its own: requests that come in by them travel the same path as all others."""
