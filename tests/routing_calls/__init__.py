"""Carrying out routed calls: attempts, cooldowns, the cache of answers, sampling."""
