"""An in-memory double of the store of held calls; the contract suite holds it to what the real one does."""

from __future__ import annotations

from dataclasses import replace

from gateway.tickets import HeldCall, HeldCallStore


class FakeHeldCallStore:
    """`HeldCallStore` in memory; `fail_with` makes answers fail as a lost database would, `fail_once` one."""

    def __init__(self) -> None:
        self.fail_with: Exception | None = None
        self.fail_once: Exception | None = None
        self.kept: dict[str, HeldCall] = {}

    def _answer(self) -> None:
        once, self.fail_once = self.fail_once, None
        if (fault := self.fail_with or once) is not None:
            raise fault

    async def keep_held(self, held: HeldCall) -> HeldCall:
        self._answer()
        return self.kept.setdefault(held.ticket_id, held)

    async def held(self, ticket_id: str) -> HeldCall | None:
        self._answer()
        return self.kept.get(ticket_id)

    async def change_held(self, held: HeldCall) -> bool:
        self._answer()
        before = self.kept.get(held.ticket_id)
        if before is None or before.version != held.version:
            return False
        fixed = {name: getattr(before, name) for name in ("owner", "sealed_call", "created_ms")}
        self.kept[held.ticket_id] = replace(held, version=held.version + 1, **fixed)
        return True

    async def prune_held(self, before_ms: int) -> int:
        self._answer()
        old = [key for key, held in self.kept.items() if held.expires_ms < before_ms]
        for key in old:
            del self.kept[key]
        return len(old)


_: type[HeldCallStore] = FakeHeldCallStore
