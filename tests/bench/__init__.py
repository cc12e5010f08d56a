"""The benchmark: what a governed call costs beside the upstream itself and beside nginx in front of it."""
