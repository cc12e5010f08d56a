"""The decision log: what policy was asked and answered, kept so that it can be decided again."""
