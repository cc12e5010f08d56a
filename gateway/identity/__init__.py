"""Who makes a call: API keys, access tokens, and what the gateway hands out bound to a principal."""
