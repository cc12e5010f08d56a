"""A2A agents behind the gateway."""
