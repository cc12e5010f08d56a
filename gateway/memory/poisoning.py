"""What is suspicious about a text that wants to be remembered, and whether people look at it first.

Patterns are the lesser half. What decides is who says it, and for whom it is to hold: see `doubts_of`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from gateway.memory.records import Kind, Scope, SourceType, Version
from gateway.memory.similarity import LETTERS_LIKE_LATIN, contradicts, unmarked

NEEDS_SECOND_SOURCE: Final = "needs_second_source"
"""It would hold for many, or as a procedure, on the word of one source that is no person."""
CONTRADICTS_TRUSTED: Final = "contradicts_trusted"
REPLACES_TRUSTED: Final = "replaces_trusted"
HIDDEN: Final = "hidden_text"
ROLE: Final = "role_marker"
OVERRIDE: Final = "override"
DIRECTIVE: Final = "directive"
LEAK: Final = "link_with_data"

_MACHINES: Final = frozenset({SourceType.TOOL, SourceType.MODEL, SourceType.IMPORT})
_ROLE: Final = re.compile(
    r"<\|?(?:im_start|im_end|system|assistant|endoftext)\|?>|\[/?INST\]|<<SYS>>|</?(?:system|instructions?|admin)[^>]{0,200}>"
    r"|(?:^|\n)#{0,3} ?\[?(?:system|assistant|developer)(?: message| prompt| note)?\]? ?:",
    re.IGNORECASE,
)
_OVERRIDE: Final = re.compile(
    r"\b(?:ignor|disregard|forget|overrid|bypass|supersed)\w*\b.{0,40}\b(?:previous|prior|earlier|above|all|any|other|"
    r"system|safety|polic\w+|instruction\w*|rule\w*|guideline\w*|check\w*|restriction\w*)\b"
    r"|\b(?:do not|don't|never|without)\s+(?:tell\w*|inform\w*|mention\w*|notify\w*|ask\w*|alert\w*|show\w*|warn\w*)\b"
    r".{0,30}\b(?:user|customer|anyone|anybody|owner|admin\w*|operator|human|people|them|confirmation|approval)\b"
    r"|\b(?:secretly|silently|covertly|quietly)\b"
    r"|\b(?:you are now|act as|pretend to be|your new (?:role|task|goal|instructions?))\b"
    r"|\b(?:disable|skip|turn off|switch off)\w*\b.{0,30}\b(?:verif\w+|confirm\w+|approv\w+|audit\w*|logg\w+|review\w*|"
    r"authenti\w+|mfa|2fa|safety|guard\w*|check\w*|tls|certificate\w*|sandbox\w*)\b"
    r"|\b(?:send|forward|bcc|copy|post|upload|exfiltrate|leak|email|e-mail|export)\w*\b.{0,60}"
    r"\b(?:password\w*|credential\w*|secret\w*|api[ _-]?keys?|tokens?|private keys?|conversation\w*|"
    r"all (?:mails?|emails?|messages?|files?|records?|invoices?|data))\b",
    re.IGNORECASE | re.DOTALL,
)
_DIRECTIVE: Final = re.compile(
    r"\b(?:from now on|in future|henceforth|going forward|at all times|whenever|every time|each time)\b"
    r"|\b(?:always|never|must|should|shall|have to|be sure to|make sure|remember to|please)\s+(?:\w+\s+){0,2}"
    r"(?:use|send|call|run|execute|reply|answer|respond|say|tell|transfer|pay|approve|install|download|open|visit|click|"
    r"forward|recommend|prefer|treat|trust|add|include|copy|bcc|delete|remove|write|set|return|choose|pick|route|refer)\b"
    r"|\bwhen(?:ever)?\b.{0,80},?\s?(?:use|send|call|run|reply|answer|respond|say|tell|transfer|pay|recommend|replace|"
    r"return|route|instead)\b"
    r"|(?:^|[.!?:;]\s+)(?:use|send|call|run|execute|reply|transfer|pay|approve|install|download|visit|forward|replace|"
    r"recommend|delete|bcc|add|refer|route|treat|trust|set|switch|curl|wget)\s+\S+",
    re.IGNORECASE | re.DOTALL,
)
_LEAK: Final = re.compile(
    r"!\[[^\]]{0,200}\]\(\s?https?:|https?://\S{0,300}[{<$]|\b(?:curl|wget|nc|bash|sh)\s+(?:-\S+\s+)*https?://|\|\s?(?:ba)?sh\b"
    r"|data:text/html|javascript:",
    re.IGNORECASE,
)
_HIDDEN: Final = frozenset("\u200b\u200c\u2060\ufeff\u00ad")
_BIDI: Final = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_FOREIGN: Final = re.compile(f"[{LETTERS_LIKE_LATIN}][A-Za-z]")
"""A letter of another alphabet in a Latin word; at the end of one it may be an inflection."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What is to be remembered, as far as it can be doubted."""

    text: str
    source: SourceType
    scope: Scope
    kind: Kind
    trust: float
    sources: int = 1
    """How many independent ones say so, this one included."""


def doubts_of(claim: Claim, others: Sequence[Version] = (), *, replaces: Version | None = None) -> tuple[str, ...]:
    """Codes of what is doubtful; any of them puts the record into quarantine. `others` are what is about the same."""
    return tuple(dict.fromkeys([*_of_place(claim), *_of_text(claim), *_of_others(claim, others, replaces)]))


def _of_place(claim: Claim) -> Iterator[str]:
    """Source, kind and scope: a tool's word alone makes no procedure and nothing that holds for everybody."""
    if claim.sources > 1:
        return
    wide = claim.scope is Scope.ORG
    if claim.source in _MACHINES and (wide or claim.kind is Kind.PROCEDURAL):
        yield NEEDS_SECOND_SOURCE
    if claim.source is SourceType.AGENT and claim.kind is Kind.PROCEDURAL and claim.scope in {Scope.TEAM, Scope.ORG}:
        yield NEEDS_SECOND_SOURCE


def _of_text(claim: Claim) -> Iterator[str]:
    if hides(claim.text):
        yield HIDDEN
    if claim.source is SourceType.USER:  # a person may well give orders
        return
    text = _as_read(claim.text)
    for code, pattern in ((ROLE, _ROLE), (OVERRIDE, _OVERRIDE), (LEAK, _LEAK)):
        if pattern.search(text):
            yield code
    if claim.source in _MACHINES and _DIRECTIVE.search(text):
        yield DIRECTIVE


def _of_others(claim: Claim, others: Sequence[Version], replaces: Version | None) -> Iterator[str]:
    if claim.source is SourceType.USER:
        return
    if any(other.trust > claim.trust and contradicts(claim.text, other.text) for other in others):
        yield CONTRADICTS_TRUSTED
    if replaces is not None and replaces.trust > claim.trust:
        yield REPLACES_TRUSTED


def hides(text: str) -> bool:
    """Whether a person would read something else: invisible letters, turned order, letters that look like others."""
    unseen = any(char in _HIDDEN or char in _BIDI or 0xE0000 <= ord(char) <= 0xE01EF for char in text)
    return unseen or _FOREIGN.search(text) is not None


def _as_read(text: str) -> str:
    """A text for the patterns, which take one space for any: a long run of them would cost seconds otherwise."""
    lines = unmarked(unicodedata.normalize("NFKD", text)).splitlines()
    return "\n".join(" ".join(line.split()) for line in lines if line.strip())
