"""W3C trace context of a call (https://www.w3.org/TR/trace-context-2/), taken in and given out.

What a listener puts into `Call.traceparent` is the context that the upstream is to see: its span id is that of the
call's *upstream leg*. The id of the call's own span differs from it in one digit, so that both are known from one
string and a call carries nothing more. Who the parent is, and which other context is linked, stands in our member of
`tracestate` (`interlock=p:<span>;l:<trace>-<span>`), where a vendor may keep such things.

Context that comes from outside is data of somebody we do not know: it is parsed strictly, `baggage` is never taken,
and where callers are not trusted the trace starts here and only links to theirs.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Final, NamedTuple

MAX_STATE: Final = 512
MAX_MEMBERS: Final = 32
SAMPLED: Final = 0x01
_KNOWN_FLAGS: Final = 0x03  # sampled, and (level 2) random trace id

_PARENT: Final = re.compile(
    r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.DOTALL
)
_KEY: Final = r"(?:[a-z][a-z0-9_*/-]{0,255}|[a-z0-9][a-z0-9_*/-]{0,240}@[a-z][a-z0-9_*/-]{0,13})"
_MEMBER: Final = re.compile(_KEY + r"=[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]")
_OWN: Final = re.compile(r"interlock=(?:p:([0-9a-f]{16}))?;?(?:l:([0-9a-f]{32})-([0-9a-f]{16}))?")
_FLIP_1: Final = dict(zip("0123456789abcdef", "1032547698badcfe", strict=True))
_FLIP_2: Final = dict(zip("0123456789abcdef", "23016745ab89efcd", strict=True))
_IDS_PER_REFILL: Final = 512

_ids: list[str] = []


class TraceContext(NamedTuple):  # made for every call, and a frozen dataclass costs 1 us more
    """One position in a trace. Ids are lower-case hexadecimal."""

    trace_id: str
    span_id: str
    """Of the upstream leg, which is the upstream's parent."""
    flags: int = SAMPLED
    others_state: str = ""
    """`tracestate` members of others, in their order."""
    parent_span_id: str = ""
    """The caller's span, or empty: the trace begins here."""
    link: tuple[str, str] | None = None
    """(trace id, span id) of a context that is related but not the parent."""

    @property
    def traceparent(self) -> str:
        """The value of the header and of `_meta.traceparent`."""
        return f"00-{self.trace_id}-{self.span_id}-{self.flags:02x}"

    @property
    def tracestate(self) -> str:
        """The value of the header and of `_meta.tracestate`, our member first; may be empty."""
        own = f"p:{self.parent_span_id}" if self.parent_span_id else ""
        if self.link is not None:
            own = f"{own}{';' if own else ''}l:{self.link[0]}-{self.link[1]}"
        if not own:
            return self.others_state
        return f"interlock={own},{self.others_state}" if self.others_state else f"interlock={own}"

    @property
    def sampled(self) -> bool:
        """Whether the caller asked for its trace to be recorded."""
        return bool(self.flags & SAMPLED)

    @property
    def call_span_id(self) -> str:
        """The span of the whole call at this gateway."""
        return self.span_id[:-1] + _FLIP_1[self.span_id[-1]]

    @property
    def policy_span_id(self) -> str:
        """The span of the policy decision."""
        return self.span_id[:-1] + _FLIP_2[self.span_id[-1]]


def parse(traceparent: str, tracestate: str = "") -> TraceContext | None:
    """The context in a `traceparent` and its `tracestate`, or `None` when the first is not valid (section 3.2.2).

    An invalid `tracestate` is dropped alone (section 3.3). In a context of ours, `parent_span_id` and `link` are read
    back; that is how spans are made from a record.
    """
    found = _PARENT.fullmatch(traceparent)
    if found is None:
        return None
    version, trace_id, span_id, flags, rest = found.groups()
    if rest is not None and version == "00":
        return None
    known = int(flags, 16) & _KNOWN_FLAGS
    if not tracestate:
        return TraceContext(trace_id, span_id, known)
    parent, link, others = _state(tracestate)
    return TraceContext(trace_id, span_id, known, others, parent, link)


def _state(text: str) -> tuple[str, tuple[str, str] | None, str]:
    if len(text) > MAX_STATE:
        return "", None, ""
    members = [member for part in text.split(",") if (member := part.strip(" \t"))]
    keys = {member.partition("=")[0] for member in members}
    if len(members) > MAX_MEMBERS or len(keys) != len(members) or not all(map(_MEMBER.fullmatch, members)):
        return "", None, ""
    others = ",".join([member for member in members if not member.startswith("interlock=")])
    own = next((found for member in members if (found := _OWN.fullmatch(member))), None)
    if own is None:
        return "", None, others
    parent, trace_id, span_id = own.groups()
    return parent or "", (trace_id, span_id) if trace_id else None, others


def start(parent: TraceContext | None = None, *, link: TraceContext | None = None) -> TraceContext:
    """A new position below `parent`, or the first of a new trace."""
    linked = (link.trace_id, link.span_id) if link is not None else None
    if parent is None:
        return TraceContext(_new_id() + _new_id(), _new_id(), SAMPLED, link=linked)
    return TraceContext(parent.trace_id, _new_id(), parent.flags, parent.others_state, parent.span_id, linked)


def begin(traceparent: str, tracestate: str, meta: Mapping[str, object], *, trusted: bool = True) -> TraceContext:
    """The context of a call that came with these headers and this `params._meta`; `""` and `{}` where there are none.

    The context in `_meta` is the parent, and that of the HTTP request is linked (SEP-414; `docs/gen-ai/mcp.md`,
    "Context propagation"). For callers that are not trusted the trace begins here and links to theirs.
    """
    ambient = parse(traceparent, tracestate) if traceparent else None
    carried = _carried(meta) if "traceparent" in meta else None
    parent = carried or ambient
    if not trusted:
        return start(None, link=parent)
    return start(parent, link=ambient if carried is not None else None)


def _carried(meta: Mapping[str, object]) -> TraceContext | None:
    traceparent, tracestate = meta.get("traceparent"), meta.get("tracestate", "")
    if not isinstance(traceparent, str):
        return None
    return parse(traceparent, tracestate if isinstance(tracestate, str) else "")


def _new_id() -> str:
    """16 hexadecimal digits, never all zero. `list.pop` is atomic, so threads do not share one."""
    try:
        return _ids.pop()
    except IndexError:
        digits = os.urandom(8 * _IDS_PER_REFILL).hex()
        fresh = [digits[at : at + 16] for at in range(0, len(digits), 16)]
        _ids.extend([one for one in fresh if one.strip("0")])
        return _ids.pop()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_ids.clear)  # or two workers would use the same ids
