"""The gate: who may ask, how many at once, and units before work. One path for every kind of request.

Spec: docs/spec/metering.md, M-6. Leases for one key are asked for once, whoever waits for them.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Final

from leasehold.core.crypto import sha256
from leasehold.core.meter import Denied, Granted, Meter, Short, Ticket
from leasehold.core.units import SECOND, Clock, Instant, Units, after
from leasehold.errors import BudgetExhausted, LeaseholdError, LoanStopped, TooBusy, UnknownKey

API_KEY_CHARS_MAX: Final = 200
_REMEMBERED_MAX: Final = 1024  # refusals remembered, so that a flood of one bad key costs one ask
_REMEMBERED: Final = SECOND
_ADMIT_SECONDS_MAX: Final = 30.0  # other requests may take what was asked for; not for ever
# Leases asked for by one wait: a host's clock may make every answer come too late.
_ASKS_MAX: Final = 64
_AHEAD: Final = SECOND // 4  # between two asks ahead of need for one key
_VISITORS_MAX: Final = 32  # questions about budgets at once, whoever asks: the line is for leases

AskLease = Callable[..., Awaitable[None]]


def key_hash_of(authorization: str | None) -> bytes:
    """The SHA-256 of the API key in an Authorization header. Raises UnknownKey."""
    scheme, _, key = (authorization or "").partition(" ")
    if scheme.lower() != "bearer" or not 0 < len(key) <= API_KEY_CHARS_MAX:
        raise UnknownKey(about="Authorization header", expected="Bearer KEY")
    return sha256(key.encode())


@dataclass(frozen=True, slots=True)
class _Refusal:
    """What the custodian refused of late: asking for as much or more would get the same answer."""

    error: LeaseholdError
    least: Units
    until: Instant


@dataclass(slots=True)
class Gate:
    """Admits requests to the engine and tops their tickets up while they run."""

    meter: Meter
    clock: Clock
    ask_lease: AskLease
    queue_max: int
    concurrency_max: int
    _running: int = 0
    _strangers: int = 0
    _visitors: int = 0
    _drained: asyncio.Event = field(default_factory=asyncio.Event)
    _per_caller: dict[str | bytes, int] = field(default_factory=dict)
    _asking: dict[bytes, asyncio.Task[None]] = field(default_factory=dict)
    _wanted: dict[bytes, int] = field(default_factory=dict)
    _refused: OrderedDict[bytes, _Refusal] = field(default_factory=OrderedDict)

    async def admit(self, key_hash: bytes, *, least: Units, want: Units) -> Ticket:
        """M-6, G-6: a ticket that holds at least `least` units, until `leave`.

        Keys without a lease may be invented, so those that wait for one get half of the queue.

        Raises TooBusy, UnknownKey, BudgetExhausted, LoanStopped, LeaseLapsed, CustodianUnreachable.
        """
        purse = self.meter.purse(key_hash)
        who = key_hash if purse is None else purse.consumer  # with all of his keys
        if self._running >= self.queue_max:
            raise TooBusy(about="this enclave's queue", got=self._running, expected=self.queue_max)
        if (mine := self._per_caller.get(who, 0)) >= self.concurrency_max:
            raise TooBusy(about="your requests", got=mine, expected=f"< {self.concurrency_max}")
        if purse is None and self._strangers >= max(1, self.queue_max // 2):
            raise TooBusy(about="requests without a lease", got=self._strangers)
        self._running += 1
        self._tally(who, 1)
        try:
            ticket = await self._admit(key_hash, least, want)
        except BaseException:
            self._forget(who)
            raise
        if who != ticket.purse.consumer:
            self._tally(who, -1)
            self._tally(ticket.purse.consumer, 1)
        return ticket

    def leave(self, ticket: Ticket) -> None:
        """Settle a ticket; its request is over."""
        self.meter.settle(ticket)
        self._forget(ticket.purse.consumer)

    def _forget(self, who: str | bytes) -> None:
        self._running -= 1
        if not self._running:
            self._drained.set()
        self._tally(who, -1)

    def _tally(self, who: str | bytes, change: int) -> None:
        """Count a caller's requests; who has none is forgotten."""
        if left := self._per_caller.pop(who, 0) + change:
            self._per_caller[who] = left

    @contextmanager
    def visiting(self) -> Iterator[None]:
        """A question to the custodian that is no request for work. Raises TooBusy."""
        if self._visitors >= _VISITORS_MAX:
            raise TooBusy(about="questions", got=self._visitors, expected=f"< {_VISITORS_MAX}")
        self._visitors += 1
        try:
            yield
        finally:
            self._visitors -= 1

    async def _admit(self, key_hash: bytes, least: Units, want: Units) -> Ticket:
        found = self._try(key_hash, least, want)
        if isinstance(found, Ticket):
            return found
        stranger = self.meter.purse(key_hash) is None
        self._strangers += stranger
        try:
            async with _patience():
                for _ in range(_ASKS_MAX):
                    await self._ask(key_hash, found.least, found.need)
                    found = self._try(key_hash, least, want)
                    if isinstance(found, Ticket):
                        return found
        finally:
            self._strangers -= stranger
        raise TooBusy(about="leases", got=f"{_ASKS_MAX} that could not be used")

    def _try(self, key_hash: bytes, least: Units, want: Units) -> Ticket | Short:
        match self.meter.admit(key_hash, least=least, want=want, now=self.clock.monotonic()):
            case Granted(ticket):
                return ticket
            case Denied(error):
                raise error.again()
            case Short() as short:
                return short

    async def hold(self, ticket: Ticket, units: Units, *, want: Units) -> None:
        """M-6: have the ticket hold at least `units`; raises as above.

        Where the custodian must be asked, he is asked for `want`: a block, not one token.
        """
        if self._topped_up(ticket, units):
            return
        async with _patience():
            for _ in range(_ASKS_MAX):
                if ticket.purse.ended is not None:
                    raise ticket.purse.ended.again()
                missing = Units(units - ticket.held)
                rather = Units(max(missing, want - ticket.held))
                await self._ask(ticket.purse.key_hash, missing, rather)
                if self._topped_up(ticket, units):
                    return
        raise TooBusy(about="leases", got=f"{_ASKS_MAX} that could not be used")

    def _topped_up(self, ticket: Ticket, units: Units) -> bool:
        if ticket.held < units:
            self.meter.top_up(ticket, Units(units - ticket.held))
        return ticket.held >= units

    def hold_ahead(self, ticket: Ticket, units: Units) -> None:
        """M-6: have the ticket hold `units` soon, without waiting: blocks are reserved ahead of need."""
        missing = Units(units - ticket.held)
        if missing > 0 and self.meter.top_up(ticket, missing) < missing:
            key_hash, now = ticket.purse.key_hash, self.clock.monotonic()
            if now < ticket.purse.ahead_at or key_hash in self._asking:
                return
            if self._remembered(key_hash, missing) is None:
                ticket.purse.ahead_at = after(now, _AHEAD)  # not at every token where none are left
                self._start(key_hash, Units(0), missing)

    @property
    def idle(self) -> bool:
        """Whether no request is under way."""
        return not self._running

    async def drained(self) -> None:
        """Return when no request is under way."""
        if self._running:
            self._drained.clear()
            await self._drained.wait()

    def budget_changed(self) -> None:
        """Forget remembered refusals: the custodian decided something."""
        self._refused.clear()

    async def _ask(self, key_hash: bytes, least: Units, need: Units) -> None:
        """Ask for a lease, or wait for the one that another request has asked for."""
        refusal = self._remembered(key_hash, least)
        if refusal is not None:
            raise refusal.again()
        self._wanted[key_hash] = self._wanted.get(key_hash, 0) + need
        try:
            others = self._asking.get(key_hash)
            if others is not None:
                await asyncio.wait([others])
            else:
                await asyncio.shield(self._start(key_hash, least, need))
        finally:
            self._wanted[key_hash] = self._wanted.get(key_hash, 0) - need
            if not self._wanted[key_hash]:
                del self._wanted[key_hash]

    def _start(self, key_hash: bytes, least: Units, need: Units) -> asyncio.Task[None]:
        everybody = Units(max(need, self._wanted.get(key_hash, 0)))
        task = asyncio.create_task(self._run(key_hash, least, everybody))
        self._asking[key_hash] = task
        task.add_done_callback(_retrieve)
        return task

    async def _run(self, key_hash: bytes, least: Units, need: Units) -> None:
        try:
            await self.ask_lease(key_hash, least=least, need=need)
        except (UnknownKey, BudgetExhausted, LoanStopped) as error:
            scope = least if isinstance(error, BudgetExhausted) else Units(0)
            until = after(self.clock.monotonic(), _REMEMBERED)
            self._refused[key_hash] = _Refusal(error, scope, until)
            while len(self._refused) > _REMEMBERED_MAX:
                self._refused.popitem(last=False)
            raise
        finally:
            del self._asking[key_hash]

    def _remembered(self, key_hash: bytes, least: Units) -> LeaseholdError | None:
        refusal = self._refused.get(key_hash)
        if refusal is None or least < refusal.least:
            return None
        if self.clock.monotonic() >= refusal.until:
            del self._refused[key_hash]
            return None
        return refusal.error


@asynccontextmanager
async def _patience() -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(_ADMIT_SECONDS_MAX):
            yield
    except TimeoutError as cause:
        raise TooBusy(about="leases", got="none in time") from cause


def _retrieve(task: asyncio.Task[None]) -> None:
    """Look at the outcome, so that an ask made ahead of need may fail quietly: `hold` asks again."""
    if not task.cancelled():
        task.exception()
