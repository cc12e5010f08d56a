"""Ways to tell others what becomes of held calls."""
