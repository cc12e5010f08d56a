"""Everything that can go wrong, as one tree, beside the one table that maps it to the wires.

InterlockError
 |- InvalidCall              400  -32602   the caller's fault; says what to change
 |   `- InputTooLarge        403  -31403   policy cannot be asked about it, so it is denied
 |- Unauthenticated          401  -31401
 |- PolicyDenied             403  -31403   carries the reasons
 |- UnknownResource          404  -32602   does not exist, or is not visible to the caller
 |- ApprovalPending          202  -31202
 |- QuotaExceeded            429  -31429   carries `retry_after_s`
 |- UpstreamProtocolError    502  -31502
 |- UpstreamUnavailable      503  -31503
 |- UpstreamTimeout          504  -31504
 |- PolicyEngineUnavailable  503  -31500
 |- AuditUnavailable         503  -31500
 |- SandboxFailure           500  -31500
 |   `- IsolationUnavailable  500  -31500   no driver here is as strong as is asked for
 `- PermitMismatch           500  -31500
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from gateway.types import NeedsApproval, Reason, Ruling


class InterlockError(Exception):
    """Base of the tree. `str(error)` is safe to show to the caller: it holds no argument and no secret."""

    http_status: ClassVar[int] = 500
    rpc_code: ClassVar[int] = -31500
    code: ClassVar[str] = "internal"
    ruling: Ruling | None = None
    """The decision that the refusal comes from, where there was one."""


class InvalidCall(InterlockError):
    """The request is not one that can be carried out as written."""

    http_status = 400
    rpc_code = -32602
    code = "invalid_call"


class InputTooLarge(InvalidCall):
    """Policy cannot be asked about arguments of this size, so the call is denied."""

    http_status = 403
    rpc_code = -31403
    code = "input_too_large"


class Unauthenticated(InterlockError):
    """No valid credential came with the request. `challenge` goes into `WWW-Authenticate` (RFC 6750 section 3)."""

    http_status = 401
    rpc_code = -31401
    code = "unauthenticated"

    def __init__(self, message: str, *, challenge: str = "") -> None:
        super().__init__(message)
        self.challenge = challenge


class PolicyDenied(InterlockError):
    """Policy said no, or could not say yes."""

    http_status = 403
    rpc_code = -31403
    code = "policy_denied"

    def __init__(self, message: str, *, decision_id: str = "", reasons: Sequence[Reason] = ()) -> None:
        super().__init__(message)
        self.decision_id = decision_id
        self.reasons = tuple(reasons)


class UnknownResource(InterlockError):
    """There is no such thing, or the caller may not know of it: the answer is the same."""

    http_status = 404
    rpc_code = -32602
    code = "unknown_resource"


class ApprovalPending(InterlockError):
    """The call is held until a person agrees.

    `ticket_id` names what they have to agree to, `url` is where they can, `retry_after_s` when to ask again; empty
    while there is no ticket. `needs` is what policy said.
    """

    http_status = 202
    rpc_code = -31202
    code = "approval_pending"

    def __init__(
        self,
        message: str,
        *,
        decision_id: str = "",
        needs: NeedsApproval | None = None,
        ticket_id: str = "",
        url: str = "",
        expires_ms: int = 0,
        retry_after_s: int = 0,
    ) -> None:
        super().__init__(message)
        self.decision_id = decision_id
        self.needs = needs
        self.ticket_id = ticket_id
        self.url = url
        self.expires_ms = expires_ms
        self.retry_after_s = retry_after_s


class QuotaExceeded(InterlockError):
    """A rate or a concurrency limit was reached."""

    http_status = 429
    rpc_code = -31429
    code = "quota_exceeded"

    def __init__(self, message: str, *, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class UpstreamProtocolError(InterlockError):
    """The upstream answered something that is not its protocol, or is too large."""

    http_status = 502
    rpc_code = -31502
    code = "upstream_protocol_error"


class UpstreamUnavailable(InterlockError):
    """The upstream cannot be reached, or went away during the call."""

    http_status = 503
    rpc_code = -31503
    code = "upstream_unavailable"


class UpstreamTimeout(InterlockError):
    """The upstream did not answer in time."""

    http_status = 504
    rpc_code = -31504
    code = "upstream_timeout"


class PolicyEngineUnavailable(InterlockError):
    """The decision point gave no answer. `reason` is one of the reserved codes (policy contract, "Fail closed")."""

    http_status = 503
    code = "pdp_unavailable"

    def __init__(self, message: str, *, reason: str = "pdp_unavailable") -> None:
        super().__init__(message)
        self.reason = reason


class AuditUnavailable(InterlockError):
    """The record that the call needs cannot be written."""

    http_status = 503
    code = "audit_unavailable"


class SandboxFailure(InterlockError):
    """The required isolation could not be given."""

    code = "sandbox_failure"


class IsolationUnavailable(SandboxFailure):
    """The level of isolation that is asked for cannot be given here; a weaker one is never taken instead."""

    code = "isolation_unavailable"


class PermitMismatch(InterlockError):
    """A permit was presented for another call than the one it was given for."""

    code = "permit_mismatch"


class ConfigError(Exception):
    """The configuration cannot be used; `faults` holds every one as (path in the file, what is wrong)."""

    def __init__(self, faults: Sequence[tuple[str, str]]) -> None:
        super().__init__("\n".join(f"{path}: {what}" for path, what in faults))
        self.faults = tuple(faults)
