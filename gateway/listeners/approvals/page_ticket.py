"""One held call as a page: everything that somebody needs who is to decide on it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

from starlette.responses import Response

from gateway.listeners.approvals.page_html import Child, Html, json_block, marked, tag
from gateway.listeners.approvals.page_layout import ROOT, alert, page
from gateway.listeners.approvals.page_list import badge, clock
from gateway.listeners.approvals.page_reading import members, number, objects, text, texts
from gateway.listeners.approvals.page_session import Session
from gateway.listeners.approvals.page_votes import decision

Ticket = Mapping[str, object]

_WORDED: Final = ("approvers", "title", "quorum", "expires_s", "standing", "stages", "all_of")
"""Members of a hold that the page says in words elsewhere."""

_CATALOG: Final = {
    "definition_digest": "Definition",
    "pinned": "Pinned",
    "listed": "Listed",
    "destructive": "Destructive",
}


def ticket_page(
    ticket: Ticket, session: Session, *, fault: str = "", said: Mapping[str, str] | None = None, status: int = 200
) -> Response:
    """The page of a ticket. After a vote that was refused, `fault` says why and `said` is what was filled in."""
    title, state = text(ticket.get("title")), text(ticket.get("state"))
    body = [
        tag("p", tag("a", "← Held calls", href=ROOT), class_="back"),
        tag("h1", tag("bdi", marked(title))),
        tag("p", badge(state), _left(ticket), class_="line"),
        alert(fault) or _outcome(ticket),
        tag("div", tag("div", _facts(ticket), class_="facts"), decision(ticket, session, said or {}), class_="columns"),
    ]
    return page(f"{state}: {title}", body, status=status, session=session)


def _left(ticket: Ticket) -> Child:
    if text(ticket.get("state")) != "pending":
        return None
    return [" ", clock(ticket), " left, until ", _moment(ticket.get("expires_ms"))]


def _outcome(ticket: Ticket) -> Child:
    """What became of it, where something did: in focus, so that it is what is read out after a vote."""
    match text(ticket.get("state")), text(ticket.get("obstacle")):
        case "approved", _:
            words: Child = "Approved. It is carried out once, when the call is made again."
        case "denied", _:
            denied = members(ticket.get("denied"))
            words = [
                "Denied by ",
                _name(text(denied.get("by"))),
                ": ",
                tag("q", tag("bdi", text(denied.get("reason")))),
            ]
        case "spent", _:
            words = "It was approved, and has been carried out."
        case "withdrawn", _:
            words = "The call was withdrawn."
        case "expired", _:
            words = "Its time is over: it will not be carried out unless it is asked for anew."
        case "pending", "voted":
            words = "Your vote counts. More people have to agree."
        case _:
            return None
    return tag("div", tag("p", words), class_="outcome", role="status", tabindex=-1, autofocus=True)


def _facts(ticket: Ticket) -> list[Child]:
    return [
        _section("Who asks", _who(ticket)),
        _section("What is to happen", _what(ticket)),
        _section("Why it is held", _why(ticket)),
        _section("What it can reach", _reach(ticket)),
        _section("Stages and votes", _stages(ticket)),
        tag("details", tag("summary", "For the record"), _record(ticket)),
    ]


def _who(ticket: Ticket) -> list[Child]:
    subject = members(ticket.get("subject"))
    about = members(subject.get("properties"))
    behalf = members(about.get("on_behalf_of"))
    agents = [*texts(about.get("delegation")), *texts(ticket.get("hops"))]
    return [
        _list(
            ("Asked by", _name(_entity(subject))),
            ("On behalf of", _name(_entity(behalf)) if behalf else "themselves"),
            ("Through agents", _chain(agents) or "none"),
            ("Roles", _words(texts(about.get("roles")))),
            ("Tenant", text(about.get("tenant"))),
            ("Known by", _known(about)),
        )
    ]


def _what(ticket: Ticket) -> list[Child]:
    resource, edited = members(ticket.get("resource")), ticket.get("edited")
    upstream = text(resource.get("upstream"))
    meta, params = ticket.get("meta"), ticket.get("params")
    return [
        _list(
            ("Action", _name(text(ticket.get("action")))),
            (text(resource.get("type")).capitalize() or "Resource", _name(text(resource.get("id")))),
            ("On upstream", _name(upstream) if upstream else ""),
        ),
        tag("h3", "Arguments, exactly" if edited is None else "Arguments as the call was made"),
        json_block(ticket.get("arguments"), "Arguments of the call"),
        [tag("h3", "Arguments as an approver changed them: these would be carried out"),
         json_block(edited, "Changed arguments")] if edited is not None else None,
        [tag("h3", "What the client adds (_meta)"), json_block(meta, "Metadata of the call")] if meta else None,
        [tag("h3", "What else is sent"), json_block(params, "Other parameters of the call")] if params else None,
    ]  # fmt: skip


def _why(ticket: Ticket) -> list[Child]:
    request = members(ticket.get("request"))
    holds = objects(request.get("all_of")) or [request]
    return [[_hold(each) for each in holds], _json_details("The hold as policy words it", request)]


def _hold(hold: Mapping[str, object]) -> Html:
    more = [(name, _brief(value)) for name, value in hold.items() if name not in _WORDED]
    asked = text(hold.get("approvers")) or " then ".join(
        text(each.get("approvers")) for each in objects(hold.get("stages"))
    )
    return _list(("Rule says", _name(text(hold.get("title")) or "hold")), ("It asks", _name(asked)), *more)


def _reach(ticket: Ticket) -> list[Child]:
    catalog, hints = members(ticket.get("catalog")), members(ticket.get("hints"))
    more = [name for name in catalog if name not in ("risk", "labels")]
    facts = [(_CATALOG.get(name, name), _brief(catalog[name])) for name in more]
    risk = text(catalog.get("risk")) or "unknown"
    claims = [tag("p", "It describes itself so. Nobody checked that.", class_="note"),
              _list(*((name, _brief(value)) for name, value in hints.items()))]  # fmt: skip
    return [
        _list(
            ("Risk", tag("span", risk, class_=f"badge risk-{risk}" if risk.isalpha() and risk.isascii() else "badge")),
            ("Labels", _words(texts(catalog.get("labels"))) or "none"),
            *facts,
            ("Labels of the session", _words(texts(ticket.get("labels"))) or "none: nothing that is marked was read"),
        ),
        tag("div", tag("h3", "The upstream's own claim"), claims, class_="claim") if hints else None,
    ]


def _stages(ticket: Ticket) -> list[Child]:
    stages, at = objects(ticket.get("stages")), number(ticket.get("stage"))
    return [tag("ol", [_stage(stage, now=index == at) for index, stage in enumerate(stages)], class_="stages")]


def _stage(stage: Mapping[str, object], *, now: bool) -> Html:
    votes = objects(stage.get("votes"))
    agreed = sum(1 for vote in votes if vote.get("verdict") == "approve")
    quorum = number(stage.get("quorum"))
    return tag(
        "li",
        _name(text(stage.get("approvers"))), f": {agreed} of {quorum} agreed",
        tag("ul", [_vote(vote) for vote in votes]) if votes else None,
        aria_current="step" if now else None,
    )  # fmt: skip


def _vote(vote: Mapping[str, object]) -> Html:
    verb = "agreed" if vote.get("verdict") == "approve" else "said no"
    reason = text(vote.get("reason"))
    told: Child = [": ", tag("q", tag("bdi", reason))] if reason else None
    return tag("li", _name(text(vote.get("approver"))), f" {verb}, ", _moment(vote.get("at_ms")), told)


def _record(ticket: Ticket) -> list[Child]:
    facts = ticket.get("facts")
    names = ("id", "decision_id", "call_id", "trace_id", "revision", "protocol", "arguments_digest")
    return [
        _list(("made", _moment(ticket.get("created_ms"))), *((name, _name(text(ticket.get(name)))) for name in names)),
        [tag("h3", "What policy was told beside it"), json_block(facts, "Facts")] if facts else None,
    ]


def _section(title: str, children: Sequence[Child]) -> Html:
    name = title.lower().replace(" ", "-")
    return tag("section", tag("h2", title, id=name), children, aria_labelledby=name, class_="card")


def _list(*rows: tuple[str, Child]) -> Html:
    return tag("dl", [[tag("dt", name), tag("dd", value)] for name, value in rows if value])


def _json_details(label: str, value: object) -> Html:
    return tag("details", tag("summary", label), json_block(value, label))


def _brief(value: object) -> Child:
    match value:
        case None | "" | []:
            return None
        case bool():
            return "yes" if value else "no"
        case str():
            return _name(value)
        case int() | float():
            return str(value)
        case list() if all(isinstance(each, str) for each in value):
            return _words(value)
    return json_block(value, "Details")


def _words(words: Iterable[str]) -> list[Child]:
    return [[" " if index else None, tag("bdi", word, class_="word")] for index, word in enumerate(words)]


def _chain(agents: Sequence[str]) -> list[Child]:
    return [[" → " if index else None, _name(agent)] for index, agent in enumerate(agents)]


def _entity(value: Mapping[str, object]) -> str:
    kind, name = text(value.get("type")), text(value.get("id"))
    return name if name.startswith(f"{kind}:") else f"{kind}:{name}"


def _known(about: Mapping[str, object]) -> str:
    method, issuer = text(about.get("method")), text(about.get("issuer"))
    known = {"api_key": "an API key", "jwt": "a token", "anonymous": "nothing: anonymous"}.get(method, method)
    return f"{known} of {issuer}" if issuer else known


def _name(name: str) -> Child:
    return tag("bdi", marked(name), class_="name") if name else None


def _moment(at_ms: object) -> Html:
    at = datetime.fromtimestamp(number(at_ms) / 1000, UTC)
    return tag("time", at.strftime("%Y-%m-%d %H:%M:%S UTC"), datetime=at.isoformat())
