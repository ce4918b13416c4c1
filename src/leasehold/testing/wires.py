"""Wires that break: every message may be lost, late, doubled or overtaken, and the line may be cut.

The faults are chosen by a seeded stream, so a failing day can be run again.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from leasehold.errors import ChannelClosed


@dataclass(slots=True)
class Weather:
    """How bad a wire is. Probabilities from 0 to 1, delays in seconds; may change at any time."""

    lose: float = 0.0
    double: float = 0.0
    delay: tuple[float, float] = (0.001, 0.002)
    cut: bool = False  # nothing passes in either direction
    deaf_up: bool = False  # nothing passes from enclave to custodian
    deaf_down: bool = False  # nothing passes from custodian to enclave


def _let_through(_message: bytes, *, up: bool) -> bool:  # noqa: ARG001
    return True


def _unseen(_message: bytes, *, up: bool) -> None:
    """Nobody looks at what is sent."""


@dataclass(slots=True)
class Wire:
    """One enclave's line to its custodian: a weather, and the luck that decides.

    `spy` sees every message of a channel as it is sent, `tap` as it arrives, and says whether it may: a
    host that can drop what it chooses is stronger than one that sees only ciphertext.
    """

    luck: random.Random
    weather: Weather = field(default_factory=Weather)
    spy: Callable[..., None] = _unseen
    tap: Callable[..., bool] = _let_through

    def copies(self, *, up: bool) -> list[float]:
        """When copies of one message arrive, in seconds from now; empty where it is lost."""
        weather = self.weather
        if weather.cut or (weather.deaf_up if up else weather.deaf_down):
            return []
        if self.luck.random() < weather.lose:
            return []
        count = 2 if self.luck.random() < weather.double else 1
        return [self.luck.uniform(*weather.delay) for _ in range(count)]


class _End:
    """One end of an in-memory channel; what is sent arrives at the other end as the wire allows."""

    def __init__(self, wire: Wire, *, up: bool) -> None:
        self._wire, self._up = wire, up
        self._inbox: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._closed = False
        self.other: _End

    async def send(self, message: bytes) -> None:
        """Hand over one message. Raises ChannelClosed."""
        if self._closed:
            raise ChannelClosed
        self._wire.spy(message, up=self._up)
        loop = asyncio.get_running_loop()
        for seconds in self._wire.copies(up=self._up):
            loop.call_later(seconds, self._deliver, message)

    async def receive(self) -> bytes:
        """The next message. Raises ChannelClosed."""
        message = None if self._closed else await self._inbox.get()
        if message is None:
            self._closed = True
            raise ChannelClosed
        return message

    async def close(self) -> None:
        """End the connection; the other end learns it after a moment, whatever the weather."""
        if not self._closed:
            self.end()
            asyncio.get_running_loop().call_later(0.001, self.other.end)

    def _deliver(self, message: bytes) -> None:
        if not self.other.is_closed and self._wire.tap(message, up=self._up):
            self.other.arrive(message)

    @property
    def is_closed(self) -> bool:
        """Nothing arrives at this end any more."""
        return self._closed

    def arrive(self, message: bytes) -> None:
        """A copy of a message comes out of the wire."""
        if not self._closed:
            self._inbox.put_nowait(message)

    def end(self) -> None:
        """The connection is gone at this end."""
        if not self._closed:
            self._closed = True
            self._inbox.put_nowait(None)


def channel_pair(wire: Wire) -> tuple[_End, _End]:
    """The enclave's and the custodian's end of a new connection over this wire."""
    enclave, custodian = _End(wire, up=True), _End(wire, up=False)
    enclave.other, custodian.other = custodian, enclave
    return enclave, custodian
