"""Obligations about the box that a call runs in: which calls can have them, and those of a permit."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final, TypeVar

from gateway.authz.egress import Egress, merge_egress
from gateway.authz.isolation import Sandbox, merge_sandboxes
from gateway.authz.reading import UnsupportedObligation
from gateway.authz.refusals import failed_closed
from gateway.types import Obligation, Permit

IN_A_BOX: Final = frozenset(
    {
        "mcp.completion.complete",
        "mcp.prompts.get",
        "mcp.resources.read",
        "mcp.resources.subscribe",
        "mcp.tools.call",
        "sandbox.exec",
    }
)
"""What may be carried out in a box. Any other action has none, and nobody to carry such an obligation out."""
CONNECT: Final = "egress.connect"
"""A connection out of a box; its `egress` obligation says which ranges it may reach, and how much it may carry."""

T = TypeVar("T", bound=Obligation)


def check_places(action: str, obligations: Iterable[Obligation]) -> None:
    """Raises `UnsupportedObligation` where an obligation about a box can never apply to the action."""
    for obligation in obligations:
        if isinstance(obligation, Sandbox) and action not in IN_A_BOX:
            raise UnsupportedObligation(f"sandbox: {action} is not carried out in a box; name the action in the rule")
        if isinstance(obligation, Egress):
            _check_egress(action, obligation)


def _check_egress(action: str, egress: Egress) -> None:
    if action == CONNECT:
        if "hosts" in egress.properties:
            raise UnsupportedObligation("egress: a connection has its host already; give ranges and caps alone")
        return
    if action not in IN_A_BOX:
        raise UnsupportedObligation(f"egress: {action} is not carried out in a box; name the action in the rule")
    if "ranges" in egress.properties and "hosts" not in egress.properties:
        raise UnsupportedObligation("egress: ranges without hosts grant a call nothing")


def sandbox_of(permit: Permit) -> Sandbox | None:
    """How the permitted call is to be kept apart. Raises `PolicyDenied` for a permit that was not read by `judge`."""
    found = _of_type(permit, "sandbox", Sandbox)
    return merge_sandboxes(found) if found else None


def egress_of(permit: Permit) -> Egress | None:
    """Where the permitted call may connect to. Raises `PolicyDenied` for a permit that was not read by `judge`."""
    found = _of_type(permit, "egress", Egress)
    return merge_egress(found) if found else None


def check_kept(before: Permit, after: Permit) -> None:
    """Raises `PolicyDenied` where policy, now that it sees the result, asks for more of the box than it did before."""
    stricter = _adds(sandbox_of(before), sandbox_of(after), merge_sandboxes)
    if stricter or _adds(egress_of(before), egress_of(after), merge_egress):
        words = "the call is over, and was not held to what policy asks of its box only now"
        raise failed_closed("obligation_unsupported", after.ruling, words)


def _adds(held: T | None, asked: T | None, merge: Callable[[Iterable[T]], T]) -> bool:
    if asked is None or asked == held:
        return False
    return held is None or merge([held, asked]) != held


def _of_type(permit: Permit, name: str, kind: type[T]) -> list[T]:
    found: list[T] = []
    for item in permit.obligations:
        if isinstance(item, kind):
            found.append(item)
        elif item.type == name:
            raise failed_closed("obligation_unsupported", permit.ruling, f"{name}: not one that was read")
    return found
