"""How a client of MCP learns that its call waits for people, each in the way that it understands.

A client that can open addresses (`elicitation.url`) is asked to: on 2026-07-28 by an `input_required` result
(patterns/mrtr), before that by the error -32042 (2025-11-25, client/elicitation, "URL Elicitation Required Error").
Every other one gets the error as a result that its model can read, with the ticket in it. Whichever it is, making the
same call again is what carries it out once people agreed.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Final, TypeAlias

from gateway import codec
from gateway.errors import ApprovalPending
from gateway.listeners.mcp.envelope import Message
from gateway.listeners.mcp.wire import RpcError
from gateway.types import Call, Result

QUESTION: Final = "approval"
"""The key of our question among `inputRequests`."""
HELD: Final = "held"
"""What our `requestState` holds: the round that the call was in, for its upstream."""
URL_REQUIRED: Final = -32042

Patience: TypeAlias = Callable[[str], Awaitable[None]]
"""Returns when people decided on the ticket of that id, or when it is time to tell the client that they did not."""


async def no_patience(ticket_id: str) -> None:
    """Does not wait."""


def can_open(capabilities: Mapping[str, object]) -> bool:
    """Whether the client said that it can have its user open an address."""
    elicitation = capabilities.get("elicitation")
    return isinstance(elicitation, Mapping) and "url" in elicitation


def asked(held: ApprovalPending, call: Call) -> Result:
    """The result that has a modern client open the page where the call is approved, and call again."""
    question = question_of(str(held), held.url)
    payload = codec.dumps({"resultType": "input_required", "inputRequests": {QUESTION: question}})
    return Result(payload, "input_required", state={HELD: dict(call.resume or {})})


def question_of(message: str, url: str) -> Mapping[str, object]:
    """What has a client show its user the page."""
    return {"method": "elicitation/create", "params": {"mode": "url", "message": message, "url": url}}


def answered(message: Message) -> str:
    """What the client's user did about the page: `accept`, `decline`, `cancel`; empty when they were not asked yet."""
    responses = message.params.get("inputResponses")
    response = responses.get(QUESTION) if isinstance(responses, Mapping) else None
    action = response.get("action") if isinstance(response, Mapping) else None
    return action if isinstance(action, str) else ""


def url_required(held: ApprovalPending) -> RpcError:
    """The error that has a legacy client open the page, and call again."""
    elicitation = {"mode": "url", "elicitationId": held.ticket_id, "url": held.url, "message": str(held)}
    data = {"elicitations": [elicitation], "code": held.code, "decision_id": held.decision_id}
    return RpcError(URL_REQUIRED, str(held), data, status=200)
