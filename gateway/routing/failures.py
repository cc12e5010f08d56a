"""What a failed attempt means for the next one: which are worth repeating, and who is to blame."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.errors import (
    ApprovalPending,
    InputTooLarge,
    InterlockError,
    InvalidCall,
    PolicyDenied,
    QuotaExceeded,
    UnknownResource,
    UpstreamProtocolError,
    UpstreamTimeout,
    UpstreamUnavailable,
)
from gateway.models import ProviderRefused


@dataclass(frozen=True, slots=True)
class Verdict:
    """`final`: the caller is told at once. `again`: the same model may be asked once more. Else another one is.

    `skipped`: the gateway itself refused it, and the provider was not asked. `at_once`: one failure is enough to cool
    down.
    """

    final: bool = False
    again: bool = False
    skipped: bool = False
    of_provider: bool = False
    of_model: bool = False
    at_once: bool = False
    retry_after_s: int = 0


def verdict_on(error: InterlockError, *, shown: bool = False) -> Verdict:
    """What to make of an error. Once something was `shown` there is nothing but to tell it."""
    if shown or isinstance(error, ApprovalPending | InputTooLarge):
        return Verdict(final=True, of_provider=shown and isinstance(error, UpstreamUnavailable))
    # Rates and budgets are policy's where there is a ruling; without one, a provider asks to wait.
    if isinstance(error, PolicyDenied) or (isinstance(error, QuotaExceeded) and error.ruling is not None):
        return Verdict(skipped=True)
    return _of_provider(error)


def _of_provider(error: InterlockError) -> Verdict:
    found = Verdict(final=True)
    match error:
        case QuotaExceeded():
            found = Verdict(again=True, of_model=True, at_once=True, retry_after_s=error.retry_after_s)
        case UpstreamTimeout() | UpstreamProtocolError():
            found = Verdict(of_provider=True)
        case UpstreamUnavailable():
            found = Verdict(again=True, of_provider=True)
        case UnknownResource():
            found = Verdict(of_model=True, at_once=True)
        case ProviderRefused():
            found = Verdict(final=not error.too_long)
        case InvalidCall():  # what is asked has no words in this provider's API
            found = Verdict()
    return found
