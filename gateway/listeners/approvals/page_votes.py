"""What an approver can do about a held call: the forms. Each names what was shown, so that no vote counts for else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from gateway.listeners.approvals.page_html import Child, Html, json_escaped, json_text, tag
from gateway.listeners.approvals.page_layout import csrf
from gateway.listeners.approvals.page_list import address, spoken
from gateway.listeners.approvals.page_reading import members, number, text
from gateway.listeners.approvals.page_session import Session
from gateway.listeners.approvals.requests import MAX_REASON

_WHY_NOT: Final[Mapping[str, str]] = {
    "own": "This call is made by you, for you or through you: others decide on it.",
    "not_asked": "Its hold asks for somebody else at this stage.",
    "voted": "You voted on it already.",
    "over": "It is decided already.",
    "expired": "The time for it is over.",
}


def decision(ticket: Mapping[str, object], session: Session, said: Mapping[str, str]) -> Html:
    """The part of the page where somebody decides, or is told why they cannot."""
    if ticket.get("may_vote") is not True:
        words = _WHY_NOT.get(text(ticket.get("obstacle")), "You cannot decide on it.")
        forms: list[Child] = [tag("p", words)]
    else:
        makers = (_approve, _deny, _edit, _standing)
        forms = [make(ticket, _hidden(ticket, session), said) for make in makers]
    return tag("section", tag("h2", "Your decision", id="decision"), forms, class_="card decide",
               aria_labelledby="decision")  # fmt: skip


def _approve(ticket: Mapping[str, object], hidden: Child, said: Mapping[str, str]) -> Child:
    changed = ticket.get("edited") is not None
    proposed = members(ticket.get("standing"))
    words = ["Approve", " the changed call" if changed else None, " and the standing grant" if proposed else None]
    also = tag("button", "Approve only the call as it was made", type="submit", name="choice", value="approve-as-made")
    return _form(
        ticket,
        hidden,
        tag("p", "An approver proposed a standing grant: ", grant_in_words(proposed)) if proposed else None,
        tag("label", "Note (optional)", for_="note"),
        tag("input", id="note", name="reason", maxlength=MAX_REASON, autocomplete="off",
            value=_again(said, "approve", "reason")),
        _go(words, "approve"),
        also if changed or proposed else None,
    )  # fmt: skip


def _deny(ticket: Mapping[str, object], hidden: Child, said: Mapping[str, str]) -> Child:
    return _form(
        ticket,
        hidden,
        tag("label", "Why not? Whoever asks is told", for_="reason"),
        tag("textarea", "\n", _again(said, "deny", "reason"), id="reason", name="reason", required=True, rows=2,
            maxlength=MAX_REASON),
        tag("button", "Deny", type="submit", name="choice", value="deny", class_="stop"),
    )  # fmt: skip


def _edit(ticket: Mapping[str, object], hidden: Child, said: Mapping[str, str]) -> Child:
    if ticket.get("editable") is not True:
        return None
    edited = ticket.get("edited")
    now = json_text(ticket.get("arguments") if edited is None else edited)
    again = json_escaped(_again(said, "approve-edited", "arguments"))
    form = _form(
        ticket,
        hidden,
        tag("label", "Arguments, as one JSON object", for_="arguments"),
        tag("textarea", "\n", again or now, id="arguments", name="arguments", rows=8, required=True, spellcheck="false",
            autocomplete="off", aria_describedby="about-edit"),
        tag("p", "These are carried out in the place of those above. Votes before do not count for them.",
            id="about-edit", class_="note"),
        tag("label", "Note (optional)", for_="edit-note"),
        tag("input", id="edit-note", name="reason", maxlength=MAX_REASON, autocomplete="off",
            value=_again(said, "approve-edited", "reason")),
        _go("Approve with these arguments", "approve-edited"),
    )  # fmt: skip
    return tag("details", tag("summary", "Change the arguments, then approve"), form, open=bool(again))


def _standing(ticket: Mapping[str, object], hidden: Child, said: Mapping[str, str]) -> Child:
    offer = members(ticket.get("standing_offered"))
    if not offer:
        return None
    chosen = said if said.get("choice") == "approve-standing" else {}
    labels = {"uses": "Calls", "expires_s": "Seconds until it ends", "idle_s": "Seconds that it may lie unused"}
    numbers = [_number(name, label, number(offer.get(name)), chosen.get(name)) for name, label in labels.items()]
    form = _form(
        ticket,
        hidden,
        tag("p", "For the same tool and who asks now, with the arguments of the call as it was made.", class_="note"),
        numbers,
        _any_arguments(chosen) if offer.get("any_arguments") is True else None,
        _go("Approve this and such calls", "approve-standing"),
    )  # fmt: skip
    return tag("details", tag("summary", "Approve calls like it for a while"), form, open=bool(chosen))


def grant_in_words(grant: Mapping[str, object]) -> str:
    """What a standing grant allows."""
    which = "with any arguments" if grant.get("any_arguments") is True else "with these arguments"
    ends, idle = spoken(number(grant.get("expires_s"))), spoken(number(grant.get("idle_s")))
    return f"{number(grant.get('uses'))} calls {which}, for {ends}, and no longer than {idle} unused."


def _any_arguments(chosen: Mapping[str, str]) -> Html:
    box = tag("input", type="checkbox", name="any_arguments", value="yes", checked="any_arguments" in chosen)
    return tag("label", box, " With any other arguments, too", class_="check")


def _number(name: str, label: str, most: int, chosen: str | None) -> Child:
    field = tag("input", id=name, name=name, type="number", min=1, max=most, required=True,
                value=chosen if chosen is not None else most)  # fmt: skip
    return [tag("label", f"{label} (at most {most})", for_=name), field]


def _go(words: Child, choice: str) -> Html:
    return tag("button", words, type="submit", name="choice", value=choice, class_="go")


def _form(ticket: Mapping[str, object], *children: Child) -> Html:
    return tag("form", children, method="post", action=address(text(ticket.get("id"))))


def _hidden(ticket: Mapping[str, object], session: Session) -> Child:
    seen = tag("input", type="hidden", name="seen", value=text(ticket.get("agreeing_to")))
    return [csrf(session), seen]


def _again(said: Mapping[str, str], choice: str, name: str) -> str:
    """What was filled in before, if it was in this form. Browsers send the end of a line as two characters."""
    return said.get(name, "").replace("\r\n", "\n") if said.get("choice") == choice else ""
