"""One instance from boot to stop: keys, attestation, model, service, and the end of it.

Spec: docs/spec/session.md, N-7 to N-9. An instance lives once: stopped, it never serves again.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, Protocol

from leasehold.core.crypto import Entropy, instance_id
from leasehold.core.evidence import Attester, DeviceAttester, Evidence
from leasehold.core.messages import ExtensionState, StopReport
from leasehold.core.meter import Meter
from leasehold.core.session import Event, State, advance
from leasehold.core.units import Clock, Instant, after
from leasehold.enclave.extensions import Extensions
from leasehold.enclave.gate import Gate
from leasehold.enclave.host import InferenceHost
from leasehold.enclave.lent import CustodianWire, Lent
from leasehold.enclave.link import BACKOFF_SECONDS, Link
from leasehold.enclave.log import Log
from leasehold.enclave.prover import InstanceKeys, Prover, RunBlocking
from leasehold.enclave.settings import Settings
from leasehold.enclave.work import Receipts, Works
from leasehold.errors import (
    CustodianUnreachable,
    Internal,
    LeaseholdError,
    LeaseLapsed,
    NoModelYet,
    Unavailable,
)
from leasehold.net.clock import next_multiple

WATCH_SECONDS: Final = 0.25
SETTLE_SECONDS_MAX: Final = 1.0


class ModelLoader(Protocol):
    """Brings the lent model from its ciphertext into the engine, and wipes it."""

    async def load(self, lent: Lent) -> int:
        """Fetch, decrypt into memory, start the engine; tells the bytes of plaintext. May be cancelled.

        Raises BadSealedModel, WrongModelKey, BadModel, WorkerFailed, Unavailable.
        """

    async def wipe(self) -> int:
        """Kill the engine and shred the plaintext; tells how many bytes were released. Repeatable."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What surrounds an instance: everything it does not decide itself."""

    attester: Attester
    wire: CustodianWire
    host: InferenceHost
    clock: Clock
    entropy: Entropy
    log: Log
    run_blocking: RunBlocking[Evidence]
    devices: DeviceAttester | None = None


@dataclass(slots=True)
class Enclave:
    """The governor of one instance. `run` is its life; `stop` ends its service for ever."""

    settings: Settings
    machine: Machine
    keys: InstanceKeys
    loader: ModelLoader
    meter: Meter = field(default_factory=Meter)
    extensions: Extensions = field(default_factory=Extensions)
    state: State = State.STARTING
    ended: LeaseholdError | None = None
    prover: Prover = field(init=False)
    link: Link = field(init=False)
    gate: Gate = field(init=False)
    receipts: Receipts = field(init=False)
    works: Works = field(init=False)
    draining: tuple[Instant, LeaseholdError, int] | None = None  # until when, why, which stop
    _engine_lost: asyncio.Event = field(default_factory=asyncio.Event)
    _loading: asyncio.Task[None] | None = None
    _stopping: asyncio.Task[None] | None = None

    def __post_init__(self) -> None:
        machine, settings = self.machine, self.settings
        clock, entropy = machine.clock, machine.entropy
        self.prover = Prover(
            machine.attester, settings, self.keys, machine.run_blocking, machine.devices
        )
        self.link = Link(
            machine.wire,
            self.prover,
            self.meter,
            clock,
            entropy,
            machine.log,
            on_stop=self.stop,
            on_extension=self._decided,
        )
        self.gate = Gate(
            self.meter, clock, self.link.ask_lease, settings.queue_max, settings.concurrency_max
        )
        self.receipts = Receipts(
            self.keys, settings.loan, self.instance, machine.attester.simulated, clock, entropy
        )
        self.works = Works(
            self.gate,
            self.meter,
            machine.host,
            self.receipts,
            clock,
            entropy,
            settings.block_tokens,
        )

    @property
    def instance(self) -> str:
        """This instance's id."""
        return instance_id(self.keys.tls.spki)

    @property
    def ready(self) -> bool:
        """Whether somebody new would be admitted; not while it drains."""
        return self.state is State.SERVING and self.draining is None

    def lent(self) -> Lent:
        """What is being served. Raises NoModelYet, or what the instance was stopped with."""
        if self.ended is not None:
            raise self.ended.again()
        if self.state is not State.SERVING or self.link.lent is None:
            raise NoModelYet(about="state", got=self.state)
        return self.link.lent

    async def run(self) -> None:
        """N-1 to N-8: attest, load, serve, until cancelled or until a stop has been proved.

        Raises the custodian's refusal where it does not accept this instance at all, and Internal
        where a task of this instance failed by a mistake of ours: then it has ended its service.
        """
        await self._attest()
        if self._stopping is not None:  # stopped meanwhile
            return await asyncio.shield(self._stopping)
        try:
            async with asyncio.TaskGroup() as tasks:
                self._loading = tasks.create_task(self._keep_loaded())
                keeping = [
                    self._loading,
                    tasks.create_task(self.link.run()),
                    tasks.create_task(self._watch()),
                ]
                await self.link.proof_noted.wait()
                for task in keeping:
                    task.cancel()
        except ExceptionGroup as mistakes:
            self.machine.log.event("mistake", code=_names(mistakes))
            self.stop(Internal(), 0)
            raise Internal from None  # its text may hold what the host must not read

    def stop(self, why: LeaseholdError, stop_id: int, left: int = 0) -> None:
        """N-7: serve nothing from this line on; wiping and proof follow in a task of their own.

        `stop_id` is the custodian's stop, or 0 where the instance ends by itself. Repeatable. With `left`
        milliseconds to drain (N-11) only admit nobody more: the rest follows once nothing runs, or then.
        """
        if left and self.ended is None:
            until = after(self.machine.clock.monotonic(), left)
            if self.draining is None or until < self.draining[0]:
                self.draining = until, why, stop_id
                self.meter.drain(why, until=until)
            return
        if self.state is not State.STOPPED:
            self.machine.log.event("stopping", code=why.code, stop=stop_id)
        self._move(Event.STOP)
        self.ended = self.ended or why
        self.meter.stop_all(why)
        self.link.forget_model()
        if self._stopping is None or self._stopping.done():
            self._stopping = asyncio.create_task(self._wipe_and_prove(stop_id))

    def engine_lost(self) -> None:
        """The worker died: load it again from the sealed file; the lease still lives."""
        self._engine_lost.set()
        if self.state is State.SERVING:
            self._move(Event.ENGINE_LOST)

    async def _wipe_and_prove(self, stop_id: int) -> None:
        wiped = await self.loader.wipe()
        if self._loading is not None and not self._loading.done():
            self._loading.cancel()  # what it still decrypts is wiped before anything is proved
            await asyncio.wait([self._loading])
            wiped += await self.loader.wipe()
        with suppress(TimeoutError):
            async with asyncio.timeout(SETTLE_SECONDS_MAX):
                await self.gate.drained()
        report = StopReport(
            instance=self.instance,
            loan=self.settings.loan,
            stop=stop_id,
            leases=self.link.reports.final(),
            wiped_bytes=wiped,
            time=self.machine.clock.now(),
        )
        await self.link.prove_stop(report)
        self.machine.log.event("stopped", stop=stop_id, bytes=wiped)

    async def _attest(self) -> None:
        pause = BACKOFF_SECONDS[0]
        while self.ended is None:
            self._move(Event.CHALLENGED)
            try:
                lent = await self.link.attest()
            except LeaseholdError as failure:
                if self.ended is not None:  # stopped meanwhile
                    return
                is_told = failure.told is not None  # by the custodian, who may soon be well again
                if not isinstance(failure, Unavailable if is_told else CustodianUnreachable):
                    raise
                self._move(Event.UNREACHABLE)
                self.machine.log.event("custodian_unreachable", code=failure.code)
                await asyncio.sleep(pause)
                pause = min(2 * pause, BACKOFF_SECONDS[1])
            else:
                if self.machine.devices is not None:  # the custodian accepted them just now
                    self.machine.devices.set_ready()
                self._move(Event.RELEASED)
                self.machine.log.event(
                    "attested", instance=self.instance, loan=self.settings.loan, epoch=lent.epoch
                )
                return

    async def _keep_loaded(self) -> None:
        while self.ended is None and self.link.lent is not None:
            self._engine_lost.clear()
            model = self.link.lent.terms.model.name
            started = self.machine.clock.monotonic()
            try:
                size = await self.loader.load(self.link.lent)
            except LeaseholdError as failure:
                if self.ended is None:  # a stop in the middle of loading is no failure
                    self.stop(failure, 0)
                return
            if self.ended is not None:
                return  # stopped while the last bytes came in; whoever stops us wipes once more
            self._move(Event.LOADED)
            self.machine.log.event(
                "serving",
                model=model,
                bytes=size,
                milliseconds=self.machine.clock.monotonic() - started,
            )
            await self._engine_lost.wait()
            if self.state is State.SERVING:  # it died before it was said to serve
                self._move(Event.ENGINE_LOST)

    async def _watch(self) -> None:
        """N-8, N-11: the dead man's switch, and the end of a drain."""
        while self.ended is None:
            await next_multiple(WATCH_SECONDS)
            if self.link.is_silent():
                self.stop(LeaseLapsed(about="contact with the custodian", got="none"), 0)
            if self.draining is not None:
                until, why, stop_id = self.draining
                if self.gate.idle or self.machine.clock.monotonic() >= until:
                    self.stop(why, stop_id)
        if self._stopping is not None:
            await asyncio.shield(self._stopping)  # a failure to wipe ends the whole process

    def _decided(self, state: ExtensionState) -> None:
        self.gate.budget_changed()
        self.extensions.take(state)

    def _move(self, event: Event) -> None:
        self.state = advance(self.state, event)


def _names(mistakes: ExceptionGroup[Exception]) -> str:
    """The kinds of what went wrong, and nothing that they say."""
    inner = (
        _names(one) if isinstance(one, ExceptionGroup) else type(one).__name__
        for one in mistakes.exceptions
    )
    return ",".join(inner)
