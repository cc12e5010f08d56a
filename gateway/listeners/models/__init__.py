"""The front door for callers of models: the APIs of OpenAI and Anthropic, each as its clients know it."""
