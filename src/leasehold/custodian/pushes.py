"""What instances are told unasked: one queue for each open channel, and who is listening.

Refuses to know what the messages mean. A queue that lags is closed, never blocks: the enclave
reconnects, and is told again whatever is still in force.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from leasehold.core.messages import FromCustodian
from leasehold.errors import ChannelClosed

WAITING_MAX: Final = 1024  # messages for one instance; a stop order is ~1 KiB


@dataclass(slots=True, eq=False)
class Pushes:
    """What one instance is to be told, in order."""

    instance: str
    loan: str = ""
    _waiting: asyncio.Queue[FromCustodian | None] = field(default_factory=asyncio.Queue)
    _closed: bool = False

    async def next(self) -> FromCustodian:
        """The next message. Raises ChannelClosed."""
        message = await self._waiting.get()
        if message is None:
            self._waiting.put_nowait(None)
            raise ChannelClosed(about=f"instance {self.instance}")
        return message

    def put(self, message: FromCustodian) -> None:
        """Hand over one message; closes where the instance does not take them."""
        if self._waiting.qsize() >= WAITING_MAX:
            self.close()
        elif not self._closed:
            self._waiting.put_nowait(message)

    def close(self) -> None:
        """Nothing comes after what already waits."""
        if not self._closed:
            self._closed = True
            self._waiting.put_nowait(None)


@dataclass(slots=True)
class Listeners:
    """The open channels by instance; at most one each."""

    _open: dict[str, Pushes] = field(default_factory=dict)

    def add(self, pushes: Pushes) -> None:
        """N-4: a second channel of the same instance closes the first."""
        earlier = self._open.get(pushes.instance)
        self._open[pushes.instance] = pushes
        if earlier is not None:
            earlier.close()

    def remove(self, pushes: Pushes) -> None:
        """The channel ended; a later one of the same instance stays."""
        pushes.close()
        if self._open.get(pushes.instance) is pushes:
            del self._open[pushes.instance]

    def names(self) -> tuple[str, ...]:
        """The instances that listen."""
        return tuple(self._open)

    def names_of(self, loan: str) -> tuple[str, ...]:
        """Those of a loan; one whose channel has just been opened and was not yet looked up is of none."""
        return tuple(name for name, pushes in self._open.items() if pushes.loan == loan)

    def tell(self, instances: Iterable[str], message: FromCustodian) -> None:
        """Push to those of `instances` that listen."""
        for name in instances:
            if (pushes := self._open.get(name)) is not None:
                pushes.put(message)

    def tell_loan(self, loan: str, message: FromCustodian) -> None:
        """Push to every listening instance of a loan."""
        self.tell(self.names_of(loan), message)
