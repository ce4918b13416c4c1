"""One open channel of one instance: its messages in, answers and pushes out, until either end leaves.

Spec: docs/spec/session.md, N-4. Works over any `net.channel.Channel`, so the simulated world uses it
as it is. Refuses to know what a message does: `service` does.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from leasehold.core.encoding import from_json, to_json
from leasehold.core.messages import MESSAGE_BYTES_MAX, AttestAgain, FromEnclave, Problem
from leasehold.core.units import SECOND, Clock, Instant
from leasehold.custodian.pushes import Pushes
from leasehold.custodian.service import Custodian
from leasehold.errors import (
    BadMessage,
    ChannelClosed,
    LeaseholdError,
    Unavailable,
    UnknownThing,
)
from leasehold.net.channel import Channel

SILENCE_SECONDS_MAX: Final = 30.0  # heartbeats come every five (N-6)
IN_FLIGHT_MAX: Final = 64  # messages of one channel whose commit is awaited; they share commits


@dataclass(slots=True)
class Bucket:
    """Allows `rate` things a second on the whole, and `burst` at once."""

    clock: Clock
    rate: int
    burst: int
    _taken: float = 0.0  # of the burst
    _at: Instant = Instant(0)

    def take(self) -> float:
        """Take one; seconds to wait before it may be used, 0 where it is allowed now."""
        now = self.clock.monotonic()
        self._taken = max(0.0, self._taken - (now - self._at) * self.rate / SECOND) + 1
        self._at = now
        return max(0.0, (self._taken - self.burst) / self.rate)

    def give_back(self) -> None:
        """Untake one that is not used."""
        self._taken = max(0.0, self._taken - 1)


@dataclass(slots=True)
class _Session:
    """What the tasks of one channel share."""

    custodian: Custodian
    instance: str
    channel: Channel
    room: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(IN_FLIGHT_MAX))

    async def listen(self, tasks: asyncio.TaskGroup) -> None:
        """O-13: read until the channel closes. Raises ChannelClosed, BadMessage, TimeoutError."""
        rules, clock = self.custodian.rules, self.custodian.ports.clock
        bucket = Bucket(clock, rules.messages_rate, rules.messages_burst)
        while True:
            async with asyncio.timeout(SILENCE_SECONDS_MAX):
                data = await self.channel.receive()
            if pause := bucket.take():
                await asyncio.sleep(pause)  # not reading is what slows the sender down
            message = parse_message(data)
            await self.room.acquire()
            # Tasks start in this order, so acts reach the ledger in it; their commits overlap.
            tasks.create_task(self.answer(message))

    async def answer(self, message: FromEnclave) -> None:
        """Act on one message. What the ledger could not store stays unanswered: the enclave asks again."""
        try:
            for reply in await self.custodian.handle(self.instance, message):
                await self.channel.send(to_json(reply))
        except Unavailable:
            return
        except LeaseholdError as problem:
            await refuse(self.channel, problem)
        finally:
            self.room.release()

    async def push(self, pushes: Pushes) -> None:
        """Send what is pushed, and close where nothing more will be."""
        try:
            while True:
                await self.channel.send(to_json(await pushes.next()))
        except ChannelClosed:
            await self.channel.close()


def parse_message(data: bytes) -> FromEnclave:
    """A message of an enclave. Raises BadMessage."""
    if len(data) > MESSAGE_BYTES_MAX:
        raise BadMessage(about="message", got=len(data), expected=f"<= {MESSAGE_BYTES_MAX} bytes")
    message: FromEnclave = from_json(data, FromEnclave)
    return message


async def attend(custodian: Custodian, instance: str, channel: Channel) -> None:
    """Serve a channel whose other end has proved to be `instance`, until it ends; closes it.

    An instance that the ledger does not know, after a restore for one, is told to attest again. Where the
    ledger cannot be read the channel is closed: the enclave comes back, to another replica where there is one.
    """
    session = _Session(custodian, instance, channel)
    try:
        pushes = await custodian.subscribe(instance)
    except UnknownThing as problem:
        again = AttestAgain(Problem(problem.code, problem.message))
        with suppress(ChannelClosed):
            await channel.send(to_json(again))
        await channel.close()
        return
    except Unavailable:
        await channel.close()
        return
    try:
        async with asyncio.TaskGroup() as tasks:
            pushing = tasks.create_task(session.push(pushes))
            try:
                await session.listen(tasks)
            except BadMessage as problem:
                await refuse(channel, problem)
            except (ChannelClosed, TimeoutError):
                pass  # it will be back, and has lost nothing
            custodian.unsubscribe(pushes)
            pushing.cancel()
            await channel.close()
    finally:
        custodian.unsubscribe(pushes)
        await channel.close()


async def refuse(channel: Channel, problem: LeaseholdError) -> None:
    """O-11: say what is wrong with a message, and close: an honest enclave never gets here."""
    with suppress(ChannelClosed):
        await channel.send(to_json(Problem(problem.code, problem.message)))
    await channel.close()


class SocketChannel:
    """A Channel over one accepted WebSocket."""

    def __init__(self, socket: WebSocket) -> None:
        self._socket = socket

    async def send(self, message: bytes) -> None:
        """Send as text. Raises ChannelClosed."""
        try:
            await self._socket.send_text(message.decode())
        except (WebSocketDisconnect, RuntimeError, OSError) as cause:
            raise ChannelClosed from cause  # Starlette's RuntimeError: closed by this end before

    async def receive(self) -> bytes:
        """The next message. Raises ChannelClosed."""
        try:
            message = await self._socket.receive()
        except (WebSocketDisconnect, RuntimeError) as cause:
            raise ChannelClosed from cause
        if message["type"] != "websocket.receive":
            raise ChannelClosed
        text: str | None = message.get("text")
        return message["bytes"] if text is None else text.encode()

    async def close(self) -> None:
        """Close in good order; never raises."""
        if self._socket.application_state is not WebSocketState.DISCONNECTED:
            with suppress(WebSocketDisconnect, RuntimeError, OSError):
                await self._socket.close()
