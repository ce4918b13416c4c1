"""Questions to the custodian: their numbers, when each was first asked, and who waits for its answer.

Spec: docs/spec/session.md, N-8; docs/spec/metering.md, M-3. Refuses to know channels and meters.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from leasehold.core.messages import ExtensionState, FromEnclave, LeaseGranted, LeaseRefused
from leasehold.core.units import Clock, Instant
from leasehold.errors import CustodianUnreachable

RESEND_SECONDS: Final = 2.0
ASK_SECONDS_MAX: Final = 10.0
ASKED_MAX: Final = 4096

Answer = LeaseGranted | LeaseRefused | ExtensionState


@dataclass(slots=True)
class Asks:
    """One instance's sequence numbers. The oldest unanswered ones are forgotten; memory is bounded."""

    clock: Clock
    _sequence: int = 0
    _asked: dict[int, Instant] = field(default_factory=dict)
    _waiting: dict[int, asyncio.Future[Answer]] = field(default_factory=dict)

    def next(self) -> int:
        """The number of a question that is asked now."""
        self._sequence += 1
        self._asked[self._sequence] = self.clock.monotonic()
        if len(self._asked) > ASKED_MAX:
            del self._asked[next(iter(self._asked))]
        return self._sequence

    def heard(self, sequence: int) -> Instant | None:
        """When this question was first asked; None for a doubled answer, or one to no question of ours."""
        return self._asked.pop(sequence, None)

    def answer(self, message: Answer) -> None:
        """Wake whoever waits for it."""
        waiting = self._waiting.get(message.sequence)
        if waiting is not None and not waiting.done():
            waiting.set_result(message)

    async def call(
        self, sequence: int, message: FromEnclave, send: Callable[[FromEnclave], Awaitable[None]]
    ) -> Answer:
        """Send until it is answered: the same number makes repetition harmless.

        Raises CustodianUnreachable.
        """
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting[sequence] = answer
        try:
            async with asyncio.timeout(ASK_SECONDS_MAX):
                while not answer.done():
                    await send(message)
                    await asyncio.wait([answer], timeout=RESEND_SECONDS)
        except TimeoutError as cause:
            raise CustodianUnreachable(about="answer", got="none in time") from cause
        finally:
            del self._waiting[sequence]
        return answer.result()
