"""Consumers who wait for the custodian's decision on their extension request."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field

from leasehold.core.messages import ExtensionState


@dataclass(slots=True)
class Extensions:
    """Wakes those who wait when a decision is pushed. Remembers nothing."""

    _waiting: dict[bytes, set[asyncio.Future[ExtensionState]]] = field(default_factory=dict)

    def take(self, state: ExtensionState) -> None:
        """The custodian says how a request stands; an open one is no decision."""
        if state.status == "open":
            return
        for key_hash in state.key_hashes:
            for waiting in self._waiting.get(key_hash, ()):
                if not waiting.done():
                    waiting.set_result(state)

    async def wait(self, key_hash: bytes, *, seconds: float) -> ExtensionState | None:
        """The next decision for this key, or None where none comes in time."""
        waiting: asyncio.Future[ExtensionState] = asyncio.get_running_loop().create_future()
        everybody = self._waiting.setdefault(key_hash, set())
        everybody.add(waiting)
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    return await waiting
            return None
        finally:
            everybody.discard(waiting)
            if not everybody:
                self._waiting.pop(key_hash, None)
