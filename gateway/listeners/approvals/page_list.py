"""The list of held calls, as a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from starlette.responses import Response

from gateway.listeners.approvals.page_html import Child, Html, marked, tag
from gateway.listeners.approvals.page_layout import ROOT, page
from gateway.listeners.approvals.page_reading import members, number, objects, text
from gateway.listeners.approvals.page_session import Session

MOST: Final = 200
"""Rows of one list: nobody reads more."""

OBSTACLES: Final[Mapping[str, str]] = {
    "": "you can decide",
    "own": "your own call",
    "not_asked": "waits for others",
    "voted": "you voted",
    "over": "decided",
    "expired": "too late",
}


def list_page(tickets: Sequence[Mapping[str, object]], session: Session, *, everything: bool) -> Response:
    """What waits, those first that the reader can decide on; or everything there was, newest first."""
    mine = [each for each in tickets if each.get("may_vote") is True]
    others = [each for each in tickets if each.get("may_vote") is not True]
    count = tag("p", _count(len(mine)), id="count", role="status")
    views = tag(
        "nav",
        tag("a", "Waiting", href=ROOT, aria_current=None if everything else "page"),
        tag("a", "All", href=f"{ROOT}?show=all", aria_current="page" if everything else None),
        aria_label="Views",
    )
    lists: list[Child] = [_table("Held calls, newest first", tickets[:MOST])] if everything else [
        _table("For you to decide", mine[:MOST]),
        _table("Also waiting", others[:MOST]) if others else None,
    ]  # fmt: skip
    body = [tag("h1", "Held calls"), views, count, tag("div", lists, id="tickets")]
    title = f"({len(mine)}) Held calls" if mine else "Held calls"
    return page(title, tag("div", body, id="live", data_refresh=True), session=session)


def clock(ticket: Mapping[str, object]) -> Child:
    """The time left; scripts count it down."""
    if text(ticket.get("state")) != "pending":
        return "–"
    left = number(ticket.get("left_s"))
    return tag("span", spoken(left), class_="clock", data_left=left)


def badge(state: str) -> Html:
    """The state of a ticket, in a word."""
    return tag("span", state, class_=f"badge {state if state in _STATES else ''}".strip())


def spoken(left_s: int) -> str:
    """A duration as a person says it."""
    if left_s >= 2 * 86_400:
        return f"{left_s // 86_400} days"
    if left_s >= 2 * 3_600:
        return f"{left_s // 3_600} h {left_s % 3_600 // 60} min"
    return f"{left_s // 60} min {left_s % 60} s" if left_s >= 60 else f"{left_s} s"


_STATES: Final = ("pending", "approved", "denied", "spent", "withdrawn", "expired")


def _count(mine: int) -> str:
    if not mine:
        return "Nothing waits for you."
    return "1 call waits for you." if mine == 1 else f"{mine} calls wait for you."


def _table(caption: str, tickets: Sequence[Mapping[str, object]]) -> Html:
    if not tickets:
        return tag("section", tag("h2", caption), tag("p", "None.", class_="note"))
    head = tag("tr", [tag("th", name, scope="col") for name in ("What", "Who asks", "State", "Time left", "You")])
    table = tag("table", tag("caption", caption), tag("thead", head), tag("tbody", [_row(each) for each in tickets]))
    return tag("div", table, class_="scroll", tabindex=0, role="region", aria_label=caption)


def _row(ticket: Mapping[str, object]) -> Html:
    resource = members(ticket.get("resource"))
    link = tag("a", tag("bdi", marked(text(ticket.get("title")))), href=address(text(ticket.get("id"))))
    what = tag("span", tag("bdi", marked(text(resource.get("id")))), class_="under")
    return tag(
        "tr",
        tag("th", link, what, scope="row"),
        tag("td", tag("bdi", text(ticket.get("requester")))),
        tag("td", badge(text(ticket.get("state"))), tag("span", _stages(ticket), class_="under")),
        tag("td", clock(ticket)),
        tag("td", OBSTACLES.get(text(ticket.get("obstacle")), "")),
    )


def address(ticket_id: str) -> str:
    """The page of a ticket."""
    return f"/approvals/{ticket_id}/page"


def _stages(ticket: Mapping[str, object]) -> str:
    stages = objects(ticket.get("stages"))
    if text(ticket.get("state")) != "pending" or not stages:
        return ""
    stage = min(number(ticket.get("stage")), len(stages) - 1)
    asked = text(stages[stage].get("approvers"))
    return f"{asked}, stage {stage + 1} of {len(stages)}" if len(stages) > 1 else asked
