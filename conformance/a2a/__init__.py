"""A2A measured by the official test kit: the agent under test, the gateway in front of it, what is expected to fail."""
