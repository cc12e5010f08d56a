"""Which account a call is charged to: that of its subject, tenant, agent, session or chain, in the window of now."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace

from gateway.spending import SCOPES, Account, Budget, Scope, holder_key, root_of
from gateway.types import Call, Identity


def account_of(budget: Budget, call: Call, identity: Identity, now_s: int) -> Account:
    """The account that a budget is about, for this call."""
    whole, shown = _holder(budget.scope, call, identity)
    key = holder_key(budget.scope, whole)
    account = Account("", key, budget.scope, shown, budget.name, budget.window_s, tenant=identity.tenant)
    return in_window(account, now_s)


def in_window(account: Account, now_s: int) -> Account:
    """The account of the same holder, name and window that counts now."""
    starts_s = now_s - now_s % account.window_s if account.window_s else 0
    words = f"{account.holder_key}\x00{account.name}\x00{account.window_s}\x00{starts_s}"
    return replace(account, id=hashlib.sha256(words.encode()).hexdigest()[:32], starts_s=starts_s)


def holder_keys(call: Call, identity: Identity) -> Mapping[Scope, str]:
    """What finds all accounts that a call could be charged to."""
    return {scope: holder_key(scope, _holder(scope, call, identity)[0]) for scope in SCOPES}


def _holder(scope: Scope, call: Call, identity: Identity) -> tuple[str, str]:
    """Whose it is, exactly and for people. Whoever is known by a key and by a token has one account, not two."""
    subject = identity.subject
    if scope == "subject":
        return "\x1f".join((subject.type, subject.id, identity.tenant)), subject.id
    if scope == "tenant":
        return identity.tenant, identity.tenant
    if scope == "agent":
        agent = _agent(identity)
        return f"{agent}\x1f{identity.tenant}", agent
    if scope == "session":  # its id can be used like a key, so nobody is shown it
        whole = f"{identity.principal}\x1f{call.session_id}"
        return whole, f"{hashlib.sha256(whole.encode('utf-8', 'surrogatepass')).hexdigest()[:12]} of {subject.id}"
    root = root_of(call, identity)
    return root, root


def _agent(identity: Identity) -> str:
    """Who acts: the last in the delegation, or the subject where it is an agent itself."""
    if identity.delegation:
        return identity.delegation[-1]
    return identity.subject.id if identity.subject.type == "agent" else ""
