"""Messages over one connection: the port that the link and the custodian speak through.

The real ones are WebSockets; the simulated world has wires that drop, delay, double and reorder.
"""

from __future__ import annotations

from typing import Protocol


class Channel(Protocol):
    """One connection that carries whole messages, each way, until it closes."""

    async def send(self, message: bytes) -> None:
        """Hand over one message. Raises ChannelClosed; returning does not mean it arrived."""

    async def receive(self) -> bytes:
        """The next message. Raises ChannelClosed."""

    async def close(self) -> None:
        """End the connection; never raises."""
