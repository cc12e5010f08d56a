"""The HTTP API of people who decide on held calls, and of operators who stop things."""
