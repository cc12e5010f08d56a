"""Where decisions are sent."""
