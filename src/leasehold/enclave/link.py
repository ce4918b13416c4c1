"""The enclave's end of the line to its custodian: attest, ask, report, obey, and notice silence.

Spec: docs/spec/session.md. All that the custodian says arrives here; what it means for requests is the
meter's business, what it means for the model is `boot`'s. Losing the line loses nothing: asks are
repeated under their sequence number, reports are cumulative, closing reports wait for their answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

from leasehold.core.binding import release_info
from leasehold.core.crypto import Entropy, KemKey, instance_id
from leasehold.core.encoding import from_json, to_json
from leasehold.core.messages import (
    CLOSE_KIND,
    STOP_ORDER_KIND,
    STOP_PROOF_KIND,
    Attest,
    AttestAgain,
    Challenge,
    CloseAck,
    CloseReport,
    ExtensionAsk,
    ExtensionQuery,
    ExtensionState,
    FromCustodian,
    FromEnclave,
    Heartbeat,
    HeartbeatAck,
    LeaseAsk,
    LeaseClose,
    LeaseGranted,
    LeaseRefused,
    LoanTerms,
    Release,
    StopNoted,
    StopOrder,
    StopProof,
    StopReason,
    StopReport,
)
from leasehold.core.meter import Credit, Meter
from leasehold.core.statements import Signed, check_signed, sign
from leasehold.core.units import SECOND, Clock, Instant, Units, after
from leasehold.enclave.log import Log
from leasehold.enclave.prover import Prover
from leasehold.errors import (
    BadMessage,
    BadSignature,
    ChannelClosed,
    CustodianUnreachable,
    LeaseholdError,
    LoanStopped,
    Unavailable,
    WrongBinding,
    from_wire,
)
from leasehold.net.channel import Channel

HEARTBEAT: Final = 5 * SECOND
REPORT: Final = SECOND
HEARTBEATS_MISSED_MAX: Final = 5
TICK_SECONDS: Final = 0.25
RESEND_SECONDS: Final = 2.0
ASK_SECONDS_MAX: Final = 10.0
BACKOFF_SECONDS: Final = (0.2, 5.0)  # first pause before reconnecting, and the longest
IDLE_LEASE: Final = 60 * SECOND  # a lease unused for so long is closed rather than renewed
_ASKED_MAX: Final = 4096

Answer = LeaseGranted | LeaseRefused | ExtensionState


class CustodianWire(Protocol):
    """The way to the custodian: two requests, and a channel under the certificate they earned."""

    async def challenge(self) -> Challenge:
        """N-1. Raises CustodianUnreachable."""

    async def attest(self, message: Attest) -> Release:
        """N-2. Raises CustodianUnreachable, or what the custodian refused with."""

    async def open_channel(self, certificate: str) -> Channel:
        """N-4: connect with the client certificate (PEM). Raises CustodianUnreachable."""


@dataclass(frozen=True, slots=True)
class Lent:
    """What an accepted attestation brought. `model_key` has 32 bytes and stays in memory."""

    terms: LoanTerms
    collateral: Signed
    model_key: bytes
    evidence_digest: bytes
    epoch: int


@dataclass(slots=True)
class Link:
    """One instance's line. `on_stop` ends the instance; `on_extension` hears decided requests."""

    wire: CustodianWire
    prover: Prover
    meter: Meter
    clock: Clock
    entropy: Entropy
    log: Log
    on_stop: Callable[[LeaseholdError, int], None]
    on_extension: Callable[[ExtensionState], None]
    lent: Lent | None = None
    last_contact: Instant = Instant(0)
    proof_noted: asyncio.Event = field(default_factory=asyncio.Event)
    _certificate: str = ""
    _proven_at: Instant = Instant(0)
    _proven_until: Instant = Instant(0)
    _sequence: int = 0
    _asked: dict[int, Instant] = field(default_factory=dict)
    _answers: dict[int, asyncio.Future[Answer]] = field(default_factory=dict)
    _closings: dict[str, Signed] = field(default_factory=dict)
    _channel: Channel | None = None
    _connected: asyncio.Event = field(default_factory=asyncio.Event)
    _unheard: int = 0
    _again: asyncio.Event = field(default_factory=asyncio.Event)
    _proof: Signed | None = None

    # Attestation ---------------------------------------------------------------------------------

    async def attest(self) -> Lent:
        """N-1 to N-3, and N-5 where it was accepted before: prove this instance afresh.

        Raises CustodianUnreachable, or the custodian's refusal.
        """
        started = self.clock.monotonic()
        challenge = await self.wire.challenge()
        kem = KemKey.make(self.entropy)
        keys, settings = self.prover.keys, self.prover.settings
        evidence = await self.prover.for_custodian(challenge.nonce, kem.public)
        release = await self.wire.attest(
            Attest(
                challenge.nonce,
                evidence,
                keys.tls.spki,
                keys.statement.public,
                kem.public,
                settings.file,
            )
        )
        if release.instance != self.instance or release.terms.loan != settings.loan:
            raise WrongBinding(about="release", got=release.terms.loan, expected=settings.loan)
        info = release_info(
            evidence_digest=evidence.digest(),
            loan=release.terms.loan,
            instance=release.instance,
            model_digest=bytes.fromhex(release.terms.model.digest),
            epoch=release.epoch,
        )
        model_key = kem.open(release.sealed_key, info=info)
        self._certificate = release.certificate
        self._proven_at = started
        self._proven_until = after(started, release.certificate_expires - release.time)
        self.last_contact = max(self.last_contact, started)
        self.lent = Lent(
            release.terms, release.collateral, model_key, evidence.digest(), release.epoch
        )
        return self.lent

    @property
    def instance(self) -> str:
        """This instance's id."""
        return instance_id(self.prover.keys.tls.spki)

    # What requests ask ---------------------------------------------------------------------------

    async def ask_lease(self, key_hash: bytes, *, least: Units, need: Units) -> None:
        """M-3: have the purse of this key filled by at least `least` units.

        Raises what the custodian refused with, or CustodianUnreachable.
        """
        now = self.clock.monotonic()
        ask = LeaseAsk(
            self._next(),
            key_hash,
            least=least,
            need=need,
            rate=self.meter.rate(key_hash, now=now),
            spent=self.meter.spent(key_hash),
        )
        match await self._call(ask, ask.sequence):
            case LeaseRefused(problem=problem):
                raise from_wire(problem.code, problem.message)
            case LeaseGranted() | ExtensionState():
                return

    async def ask_extension(self, key_hash: bytes, *, units: Units, reason: str) -> ExtensionState:
        """File the consumer's request for more. Raises as `ask_lease` does."""
        ask = ExtensionAsk(self._next(), key_hash, units, reason)
        return await self._extension(ask, ask.sequence)

    async def query_extension(self, key_hash: bytes) -> ExtensionState:
        """How the consumer's latest request and its budget stand. Raises as `ask_lease` does."""
        ask = ExtensionQuery(self._next(), key_hash)
        return await self._extension(ask, ask.sequence)

    async def _extension(self, ask: ExtensionAsk | ExtensionQuery, sequence: int) -> ExtensionState:
        match await self._call(ask, sequence):
            case ExtensionState() as state:
                return state
            case LeaseRefused(problem=problem):
                raise from_wire(problem.code, problem.message)
            case LeaseGranted() as grant:
                raise BadMessage(about="answer to an extension request", got=grant.lease)

    def _next(self) -> int:
        self._sequence += 1
        return self._sequence

    async def _call(self, message: FromEnclave, sequence: int) -> Answer:
        """Send until it is answered: the same sequence number makes repetition harmless."""
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._answers[sequence] = answer
        self._asked[sequence] = self.clock.monotonic()
        while len(self._asked) > _ASKED_MAX:
            del self._asked[next(iter(self._asked))]
        try:
            async with asyncio.timeout(ASK_SECONDS_MAX):
                while not answer.done():
                    await self._connected.wait()
                    await self._send(message)
                    await asyncio.wait([answer], timeout=RESEND_SECONDS)
        except TimeoutError as cause:
            raise CustodianUnreachable(about="answer", got="none in time") from cause
        finally:
            del self._answers[sequence]
        return answer.result()

    # The line ------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Keep the line up, the evidence fresh and the leases renewed, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._keep_connected())
            tasks.create_task(self._keep_proven())
            tasks.create_task(self._keep_leases())
            tasks.create_task(self._keep_beating())

    async def _keep_connected(self) -> None:
        pause = BACKOFF_SECONDS[0]
        while True:
            try:
                self._channel = await self.wire.open_channel(self._certificate)
                self._unheard = 0
                self._connected.set()
                pause = BACKOFF_SECONDS[0]
                await self._resend_reports()
                await self._listen(self._channel)
            except Unavailable as failure:
                self.log.event("link_down", code=failure.code)
            except BadMessage as failure:
                self.log.event("custodian_talks_nonsense", code=failure.code)
            finally:
                self._connected.clear()
                channel, self._channel = self._channel, None
                if channel is not None:
                    await channel.close()
            await asyncio.sleep(pause)
            pause = min(2 * pause, BACKOFF_SECONDS[1])

    async def _listen(self, channel: Channel) -> None:
        while True:
            message: FromCustodian = from_json(await channel.receive(), FromCustodian)
            self.last_contact = self.clock.monotonic()
            self._unheard = 0
            await self._hear(message)

    async def _hear(self, message: FromCustodian) -> None:
        match message:
            case HeartbeatAck():
                pass
            case LeaseGranted():
                self._take(message)
            case LeaseRefused():
                self._answer(message.sequence, message)
            case ExtensionState():
                self._answer(message.sequence, message)
                self.on_extension(message)
            case CloseAck():
                self._closings.pop(message.lease, None)
            case StopOrder():
                await self._obey(message)
            case StopNoted():
                if self._proof is not None:
                    self.proof_noted.set()
            case AttestAgain():
                self._again.set()

    def _answer(self, sequence: int, message: Answer) -> None:
        waiting = self._answers.get(sequence)
        if waiting is not None and not waiting.done():
            waiting.set_result(message)

    def _take(self, grant: LeaseGranted) -> None:
        now = self.clock.monotonic()
        asked_at = self._asked.pop(grant.sequence, None)
        if self.meter.credit(grant, asked_at=asked_at, now=now) is Credit.STRAY:
            self._close(grant.lease, Units(0), b"")
        self._answer(grant.sequence, grant)

    async def _obey(self, order: StopOrder) -> None:
        """N-7: stop what the custodian's root says, if it concerns this instance."""
        settings = self.prover.settings
        try:
            payload = check_signed(
                order.statement, kind=STOP_ORDER_KIND, public=settings.custodian_root
            )
        except BadSignature as failure:
            self.log.event("stop_order_not_signed", code=failure.code)
            return
        reason = from_json(payload, StopReason)
        match reason.scope:
            case "consumer":
                self.meter.stop_consumer(reason.target, now=self.clock.monotonic())
                await self._report_ended()
            case "all" | "loan" | "enclave":
                mine = {"all": "", "loan": settings.loan, "enclave": self.instance}
                if reason.scope == "all" or reason.target == mine[reason.scope]:
                    self.on_stop(LoanStopped(about=reason.reason), reason.stop)

    # Keeping -------------------------------------------------------------------------------------

    async def _keep_proven(self) -> None:
        """N-5: attest again at half of the certificate's life, or when told to; never after a stop."""
        pause = BACKOFF_SECONDS[0]
        while self._proof is None:
            half = (self._proven_until - self._proven_at) // 2
            left = (after(self._proven_at, half) - self.clock.monotonic()) / SECOND
            with suppress(TimeoutError):
                async with asyncio.timeout(max(left, pause)):
                    await self._again.wait()
            self._again.clear()
            try:
                await self.attest()
                pause = BACKOFF_SECONDS[0]
            except LoanStopped as failure:
                self.on_stop(failure, 0)
            except LeaseholdError as failure:
                self.log.event("attestation_refused", code=failure.code)
                pause = min(2 * pause, BACKOFF_SECONDS[1])

    def is_silent(self) -> bool:
        """N-8: no word from the custodian for too long, or no valid certificate any more."""
        now = self.clock.monotonic()
        dead_man = self.prover.settings.dead_man
        return now - self.last_contact >= dead_man or now >= self._proven_until

    async def _keep_leases(self) -> None:
        """M-5, M-8: renew what is used, end what lapsed or idles, report what ended."""
        while True:
            await asyncio.sleep(TICK_SECONDS)
            now = self.clock.monotonic()
            for key_hash in self.meter.due(now=now, idle=IDLE_LEASE):
                ask = LeaseAsk(
                    self._next(),
                    key_hash,
                    least=Units(0),
                    need=Units(0),
                    rate=self.meter.rate(key_hash, now=now),
                    spent=self.meter.spent(key_hash),
                )
                self._asked[ask.sequence] = now
                await self._try_send(ask)
            await self._report_ended()

    async def _keep_beating(self) -> None:
        """N-6: heartbeats with all counters; too many without an answer close the channel.

        Fresh counters go out within a second, so that the custodian's bound on a stop is close.
        """
        beaten, reported = self.clock.monotonic(), self.meter.usage()
        while True:
            await asyncio.sleep(REPORT / SECOND)
            usage, now = self.meter.usage(), self.clock.monotonic()
            if usage == reported and now - beaten < HEARTBEAT:
                continue
            if self._unheard >= HEARTBEATS_MISSED_MAX and self._channel is not None:
                await self._channel.close()
            self._unheard += 1
            await self._try_send(Heartbeat(self._next(), usage))
            await self._resend_reports()
            beaten, reported = now, usage

    # Reports -------------------------------------------------------------------------------------

    async def _report_ended(self) -> None:
        for purse in self.meter.drop_ended():
            self._close(purse.lease, purse.spent, purse.receipt_head)
            await self._try_send(LeaseClose(self._closings[purse.lease]))

    def _close(self, lease: str, spent: Units, receipt_head: bytes) -> None:
        report = CloseReport(self.instance, lease, spent, receipt_head)
        self._closings[lease] = sign(self.prover.keys.statement, CLOSE_KIND, to_json(report))

    async def _resend_reports(self) -> None:
        for statement in list(self._closings.values()):
            await self._try_send(LeaseClose(statement))
        if self._proof is not None:
            await self._try_send(StopProof(self._proof))

    async def prove_stop(self, report: StopReport) -> None:
        """N-7: sign and send the proof of stop; `run` repeats it until `proof_noted` is set."""
        self._proof = sign(self.prover.keys.statement, STOP_PROOF_KIND, to_json(report))
        self.proof_noted.clear()
        await self._report_ended()
        await self._try_send(StopProof(self._proof))

    def forget_model(self) -> None:
        """N-7: drop the model key; Python cannot promise that no copy of it is left in freed memory."""
        if self.lent is not None:
            self.lent = replace(self.lent, model_key=b"")

    async def _send(self, message: FromEnclave) -> None:
        channel = self._channel
        if channel is None:
            return
        try:
            await channel.send(to_json(message))
        except ChannelClosed:
            self._connected.clear()  # the listener notices too, and reconnects

    async def _try_send(self, message: FromEnclave) -> None:
        if self._connected.is_set():
            await self._send(message)
