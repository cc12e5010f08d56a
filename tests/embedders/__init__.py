"""Embedders: the port's promises on all of them, and what each does beside."""
