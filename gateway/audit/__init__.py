"""Evidence of every call: a signed, append-only log that can be checked by somebody who does not trust us."""
