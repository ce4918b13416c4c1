"""One custodian process of the simulated world, and an enclave's way to any: killed and started again.

It does what `custodian.serve` does around the custodian: it sweeps, and hears what other replicas tell.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, TypeVar

from leasehold.core.encoding import from_json, to_json
from leasehold.core.messages import Attest, Challenge, Release
from leasehold.custodian.channel import attend
from leasehold.custodian.ports import Ports
from leasehold.custodian.replicas import relay
from leasehold.custodian.service import Custodian
from leasehold.custodian.settings import Keys, Rules
from leasehold.errors import CustodianUnreachable, StoreFailed
from leasehold.net.authority import InstanceIdentity, parse_identity
from leasehold.net.certificates import identity_of
from leasehold.net.channel import Channel
from leasehold.net.shown import to_der
from leasehold.testing.wires import Wire, channel_pair

SWEEP_SECONDS: Final = 1.0
REQUEST_SECONDS_MAX: Final = 10.0
T = TypeVar("T")


@dataclass(slots=True)
class Told:
    """A custodian's log that keeps its events."""

    said: list[tuple[str, dict[str, object]]] = field(default_factory=list)

    def event(self, name: str, **fields: object) -> None:
        """Keep the event."""
        self.said.append((name, fields))


@dataclass(slots=True, eq=False)
class Replica:
    """A custodian that is up, or not. `lives` is how often it was killed; the ledger is all it remembers.

    `open` are the channels it serves, by instance.
    """

    custodian: Custodian = field(init=False)
    is_up: bool = False
    lives: int = 0
    log: Told = field(default_factory=Told)
    open: dict[str, Channel] = field(default_factory=dict)
    _channels: dict[asyncio.Task[None], Channel] = field(default_factory=dict)
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def start(self, keys: Keys, ports: Ports) -> None:
        """A new process, with nothing in its memory."""
        self.custodian = Custodian(keys, Rules(), ports)
        self.is_up = True
        loops = self._sweep(self.custodian), relay(self.custodian, self.log)
        self._tasks = [asyncio.create_task(loop) for loop in loops]

    async def kill(self) -> None:
        """kill -9: every connection breaks, nothing is said; what was committed stays."""
        self.is_up = False
        self.lives += 1
        for task in self._tasks:
            task.cancel()
        self._tasks = []
        for task, channel in list(self._channels.items()):
            task.cancel()
            await channel.close()
        self._channels.clear()
        self.open.clear()

    def attend(self, instance: str, channel: Channel) -> None:
        """Serve a channel until it ends or this process is killed."""
        task = asyncio.create_task(attend(self.custodian, instance, channel))
        self._channels[task], self.open[instance] = channel, channel

        def ended(done: asyncio.Task[None]) -> None:
            self._channels.pop(done, None)
            if self.open.get(instance) is channel:
                del self.open[instance]

        task.add_done_callback(ended)

    async def _sweep(self, custodian: Custodian) -> None:
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            with suppress(StoreFailed):  # as `serve` does: the next one may find the disk well
                await custodian.sweep()


class WorldWire:
    """A CustodianWire over breakable memory: requests and channel messages cross it as bytes."""

    def __init__(self, route: Callable[[], Replica], wire: Wire) -> None:
        """`route` says which replica a new connection comes to."""
        self._route, self.wire = route, wire

    async def challenge(self) -> Challenge:
        """See `link.CustodianWire`."""
        return await self._ask(lambda custodian: custodian.challenge(), Challenge)

    async def attest(self, message: Attest) -> Release:
        """See `link.CustodianWire`."""
        again = from_json(to_json(message), Attest)
        return await self._ask(lambda custodian: custodian.attest(again), Release)

    async def open_channel(self, certificate: str) -> Channel:
        """See `link.CustodianWire`."""
        replica = self._route()
        if not replica.is_up or not (self.wire.copies(up=True) and self.wire.copies(up=False)):
            await asyncio.sleep(REQUEST_SECONDS_MAX)
            raise CustodianUnreachable(about="simulated wire")
        identity = parse_identity(identity_of(to_der(certificate)))
        if not isinstance(identity, InstanceIdentity):
            raise CustodianUnreachable(about="certificate", got=identity.uri)
        ours, theirs = channel_pair(self.wire)
        replica.attend(identity.instance, theirs)
        return ours

    async def _ask(self, act: Callable[[Custodian], Awaitable[T]], kind: type[T]) -> T:
        replica, arrives = self._route(), self.wire.copies(up=True)
        if not arrives or not replica.is_up:
            await asyncio.sleep(REQUEST_SECONDS_MAX)
            raise CustodianUnreachable(about="simulated wire")
        await asyncio.sleep(arrives[0])
        life = replica.lives
        try:
            answer = to_json(await act(replica.custodian))
        except StoreFailed:
            if life == replica.lives:
                raise
            answer = b""
        if life != replica.lives or not self.wire.copies(up=False):
            await asyncio.sleep(REQUEST_SECONDS_MAX)
            raise CustodianUnreachable(about="simulated wire")
        return from_json(answer, kind)
