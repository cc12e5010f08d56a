"""Providers of models: those that speak OpenAI's or Anthropic's API, what litellm reaches, and one that is built in."""
