"""Where the facts about callers come from."""
