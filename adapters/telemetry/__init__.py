"""Where telemetry is sent."""
