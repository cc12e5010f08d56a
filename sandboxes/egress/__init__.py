"""The one way out of a box: a proxy that asks policy about every connection, and dials only what was checked."""
